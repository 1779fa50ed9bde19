//! Retention, delete-records, truncation.

use proptest::prelude::*;

use super::*;

#[test]
fn retention_by_size_keeps_at_least_that_much() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig { retention_bytes: 20_000, ..small() }).await;
        fill(&log, 60, 900).await;
        log.flush().await.unwrap();
        assert_eq!(log.apply_retention(world.unix_ms()).await.unwrap().segments, 0, "no high watermark, no deletion");
        log.set_high_watermark(8);
        assert_eq!(log.apply_retention(world.unix_ms()).await.unwrap().segments, 1, "not beyond the high watermark");
        log.set_high_watermark(60);
        let before = log.size_bytes();
        let report = log.apply_retention(world.unix_ms()).await.unwrap();
        assert!(report.segments > 1 && log.size_bytes() == before - report.bytes);
        assert!((20_000..28_000).contains(&log.size_bytes()), "{}", log.size_bytes());
        assert_eq!(log.log_start_offset(), log.segment_base_offsets()[0]);
        let first = read_all(&log, 1 << 20).await[0].0;
        assert_eq!(first.base_offset, log.log_start_offset());
        assert!(matches!(log.read(0, 1, 60, true).await, Err(super::super::ReadError::OffsetOutOfRange { .. })));
        assert_eq!(log.epoch_for_offset(log.log_start_offset()), Some(0));
    });
}

#[test]
fn retention_by_time_empties_the_log_in_the_end() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig { retention_ms: 1000, segment_bytes: 1000, max_message_bytes: 1000, ..small() }).await;
        let now = world.unix_ms();
        for age in [5000, 4000, 500, 100] {
            append(&log, batch(&[now - age], &value(900, 1), None)).await;
        }
        log.flush().await.unwrap();
        log.set_high_watermark(4);
        assert_eq!(log.apply_retention(now).await.unwrap().segments, 2);
        assert_eq!(log.log_start_offset(), 2);
        assert_eq!(log.apply_retention(now + 10_000).await.unwrap().segments, 2);
        assert_eq!((log.log_start_offset(), log.log_end_offset(), log.segment_count(), log.size_bytes()), (4, 4, 1, 0));
        assert_eq!(log.apply_retention(now + 10_000).await.unwrap().segments, 0);
        for _ in 0..20 {
            world.sleep(std::time::Duration::from_millis(1)).await;
        }
        assert!(!world.disk.paths().iter().any(|path| path.to_str().unwrap().ends_with(".deleted")), "unlinked after the delay");
        fill(&log, 1, 10).await;
        log.flush().await.unwrap();
        let world = world.crash(4);
        let log = try_open(&world, &small(), Existing { log_start_offset: 4, ..Existing::default() }).await.unwrap();
        assert_eq!((log.log_start_offset(), log.log_end_offset()), (4, 5));
    });
}

#[test]
fn delete_records_moves_the_start_durably() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        fill(&log, 30, 900).await;
        assert!(matches!(log.delete_records_before(31).await, Err(LogError::OffsetOutOfRange { .. })));
        assert_eq!(log.delete_records_before(20).await.unwrap(), 20);
        assert_eq!(log.delete_records_before(10).await.unwrap(), 20, "it never goes back");
        let checkpoint = world.disk.bytes(&PathBuf::from("/data/log-start-offset-checkpoint")).unwrap();
        assert_eq!(checkpoint, b"0\n1\nt 0 20\n");
        assert_eq!(read_all(&log, 1 << 20).await[0].0.base_offset, 20);
        log.set_high_watermark(30);
        assert!(log.apply_retention(world.unix_ms()).await.unwrap().segments >= 2);
        assert_eq!(log.log_start_offset(), 20, "segments below went, the start stayed");
        assert_eq!(log.delete_records_before(-1).await.unwrap(), 30);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_truncated_log_is_as_if_never_longer(batches in 1usize..40, keep in 0.0f64..1.0, more in 0usize..10, seed: u64, power: bool) {
        world::run(|world| async move {
            let config = small();
            let log = open(&world, &config).await;
            let mut epoch = 0;
            for at in 0..batches {
                epoch += i32::from(at % 7 == 3);
                let sent = batch(&[1000 + at as i64], &value(300 + at * 20, seed), Some((5, 0, at as i32)));
                log.append_as_leader(&[sent], epoch).await.unwrap();
                if at % 5 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            let before = read_all(&log, 1 << 20).await;
            let keep = (keep * batches as f64) as i64;
            assert!(log.truncate_to(keep).await.unwrap());
            assert_eq!((log.log_end_offset(), log.durable_end_offset()), (keep, keep));
            assert_eq!(read_all(&log, 1 << 20).await, before[..keep as usize]);
            let last = log.producer_states().await.get(5).map(|entry| entry.last_sequence());
            assert_eq!(last, (keep > 0).then_some(keep as i32 - 1));
            assert!(log.latest_epoch() <= before[..keep as usize].last().map(|(header, _)| header.partition_leader_epoch));
            fill(&log, more, 500).await;
            log.flush().await.unwrap();
            let expected = read_all(&log, 1 << 20).await;
            assert_eq!(expected.len() as i64, keep + more as i64);
            let world = if power { world.crash(seed) } else { world.kill() };
            let again = open(&world, &config).await;
            assert_eq!(read_all(&again, 1 << 20).await, expected);
            assert_eq!(again.epochs(), log.epochs());
        });
    }

    #[test]
    fn a_crash_within_a_truncation_leaves_one_of_the_two_logs(batches in 2usize..30, keep in 0.0f64..1.0, polls in 0usize..40, seed: u64) {
        world::run(|world| async move {
            let config = small();
            let log = open(&world, &config).await;
            fill(&log, batches, 700).await;
            log.checkpoint_now().await.unwrap();
            let before = read_all(&log, 1 << 20).await;
            let keep = (keep * batches as f64) as i64;
            // The disk yields at syncs only, so a crash is possible at each of them.
            let mut cut = Box::pin(log.truncate_to(keep));
            let mut done = false;
            for _ in 0..polls {
                done |= futures_poll(&mut cut).await;
                if done {
                    break;
                }
            }
            let world = world.crash(seed);
            let again = open(&world, &config).await;
            let after = read_all(&again, 1 << 20).await;
            assert!(after.len() as i64 >= keep);
            assert_eq!(after[..], before[..after.len()]);
            assert!(!done || after.len() as i64 == keep);
        });
    }
}

/// Polls once; whether it is done.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> bool {
    std::future::poll_fn(|cx| std::task::Poll::Ready(std::pin::Pin::new(&mut *future).poll(cx).is_ready())).await
}

#[test]
fn a_log_starts_anew_anywhere() {
    world::run(|world| async move {
        for start in [100, 3] {
            let log = open(&world, &small()).await;
            log.truncate_fully_and_start_at(0).await.unwrap();
            fill(&log, 20, 900).await;
            log.flush().await.unwrap();
            log.truncate_fully_and_start_at(start).await.unwrap();
            assert_eq!((log.log_start_offset(), log.log_end_offset(), log.durable_end_offset(), log.segment_count()), (start, start, start, 1));
            assert!(log.producer_states().await.is_empty() && log.epochs().entries().is_empty());
            fill(&log, 2, 10).await;
            log.flush().await.unwrap();
            let after = try_open(&world.crash(1), &small(), Existing { log_start_offset: start, ..Existing::default() }).await.unwrap();
            assert_eq!((after.log_start_offset(), after.log_end_offset()), (start, start + 2));
        }
    });
}
