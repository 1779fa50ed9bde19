//! What a log is after a crash, a lost sector, a flipped bit.

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::log::names::{INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, file_name};

/// Some appends of idempotent producers, with rolls and changes of epoch; returns what was acknowledged.
async fn workload(world: &World, log: &Log<World>, random: &mut SmallRng, steps: usize) -> Vec<(Header, Bytes)> {
    let mut acknowledged = 0;
    let mut epoch = log.latest_epoch().unwrap_or(0);
    for _ in 0..steps {
        match random.random_range(0..20) {
            0 => log.roll().await.unwrap(),
            1 => acknowledged = log.flush().await.unwrap(),
            2 => epoch += 1,
            3 => tokio::task::yield_now().await,
            _ => {
                let producer = random.random_range(0..3);
                let sequence = log.producer_states().await.get(producer).map_or(0, |entry| entry.last_sequence() + 1);
                let count = random.random_range(1..4);
                let sent = batch(&vec![world.unix_ms(); count], &value(random.random_range(1..900), sequence as u64), Some((producer, 0, sequence)));
                log.append_as_leader(&[sent], epoch).await.unwrap();
            }
        }
    }
    acknowledged = acknowledged.max(log.durable_end_offset());
    let mut all = read_all(log, 1 << 20).await;
    all.retain(|(header, _)| header.next_offset() <= acknowledged);
    all
}

/// Everything that is derived from the batches equals what a reading of all of them gives.
async fn assert_derived_state(world: &World, log: &Log<World>, config: &LogConfig) {
    let bare = world.kill();
    for path in bare.disk.paths().iter().filter(|path| path.extension().is_none_or(|extension| extension != "log")) {
        bare.disk.unlink(path);
    }
    let replayed = open(&bare, config).await;
    assert_eq!(replayed.log_end_offset(), log.log_end_offset());
    assert!(replayed.producer_states().await.same_state(&log.producer_states().await));
    let mut epochs = log.epochs();
    epochs.truncate_from_end(log.log_end_offset());
    assert_eq!(replayed.epochs(), epochs);
    for (base, segment) in log.inner.segments.read().unwrap().iter() {
        let other = replayed.inner.segments.read().unwrap()[base].clone();
        let (Some(mine), Some(theirs)) = (segment.if_open(), other.if_open()) else { continue };
        assert_eq!(mine.indexes.read().unwrap().offset, theirs.indexes.read().unwrap().offset);
        assert_eq!(mine.indexes.read().unwrap().time, theirs.indexes.read().unwrap().time);
    }
    // Written index files equal those made anew.
    log.checkpoint_now().await.unwrap();
    replayed.checkpoint_now().await.unwrap();
    for base in log.segment_base_offsets() {
        for suffix in [INDEX_SUFFIX, TIME_INDEX_SUFFIX] {
            let file = path().join(file_name(base, suffix));
            if let Some(stored) = world.disk.bytes(&file) {
                assert_eq!(Some(stored), bare.disk.bytes(&file), "{}", file.display());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn what_was_acknowledged_survives_any_crash(seed: u64, lives in 1usize..5) {
        world::run(|mut world| async move {
            let mut random = SmallRng::seed_from_u64(seed);
            let config = small();
            let mut acknowledged: Vec<(Header, Bytes)> = Vec::new();
            let mut known = Existing::default();
            for life in 0..lives {
                let log = try_open(&world, &config, known).await.unwrap_or_else(|error| panic!("life {life}: {error}"));
                let found = read_all(&log, 1 << 20).await;
                assert!(found.len() >= acknowledged.len(), "life {life}: {} of {}", found.len(), acknowledged.len());
                assert_eq!(found[..acknowledged.len()], acknowledged[..]);
                assert_derived_state(&world, &log, &config).await;
                let steps = random.random_range(1..80);
                acknowledged = workload(&world, &log, &mut random, steps).await;
                if random.random() {
                    // A recovery point and a high watermark, as old as they may be.
                    known.recovery_point = random.random_range(known.recovery_point..=log.durable_end_offset());
                    known.high_watermark = random.random_range(known.high_watermark..=log.durable_end_offset());
                }
                world = if random.random_range(0..4) == 0 { world.kill() } else { world.crash(random.random()) };
            }
        });
    }

    #[test]
    fn damaged_derived_files_are_made_anew(seed: u64) {
        world::run(|world| async move {
            let mut random = SmallRng::seed_from_u64(seed);
            let config = small();
            let log = open(&world, &config).await;
            workload(&world, &log, &mut random, 60).await;
            log.checkpoint_now().await.unwrap();
            let before = read_all(&log, 1 << 20).await;
            let world = world.kill();
            let victims: Vec<_> = world.disk.paths().into_iter().filter(|path| path.extension().is_some_and(|extension| extension != "log")).collect();
            for victim in victims {
                match random.random_range(0..4) {
                    0 => world.disk.unlink(&victim),
                    1 => world.disk.tamper(&victim, |bytes| bytes.iter_mut().for_each(|byte| *byte = !*byte)),
                    2 => world.disk.tamper(&victim, |bytes| bytes.truncate(bytes.len() / 2 + 1)),
                    _ => {}
                }
            }
            let log = open(&world, &config).await;
            assert_eq!(read_all(&log, 1 << 20).await, before);
            let offsets: Vec<i64> = (0..10).map(|_| random.random_range(0..=log.log_end_offset())).collect();
            for offset in offsets {
                let first = log.read(offset, 1, i64::MAX, true).await.unwrap();
                let expected = before.iter().find(|(header, _)| header.last_offset() >= offset).map_or(0, |(_, bytes)| bytes.len());
                assert_eq!(first.len, expected as u64);
            }
        });
    }
}

/// A log of one segment with 20 batches of which the first 12 are checkpointed, and where batch number `at` begins.
async fn twenty(world: &World, at: usize) -> (LogConfig, u64) {
    let config = LogConfig { checkpoint_bytes: u64::MAX, index_interval_bytes: 400, ..LogConfig::default() };
    let log = open(world, &config).await;
    fill(&log, 12, 700).await;
    log.checkpoint_now().await.unwrap();
    fill(&log, 8, 700).await;
    log.flush().await.unwrap();
    let position = read_all(&log, 1 << 20).await[..at].iter().map(|(_, bytes)| bytes.len() as u64).sum();
    (config, position)
}

fn segment() -> PathBuf {
    path().join(file_name(0, LOG_SUFFIX))
}

#[test]
fn rot_in_the_middle_is_never_cut() {
    world::run(|world| async move {
        // Behind the snapshot, nothing but the valid batches behind it tells.
        let (config, position) = twenty(&world, 15).await;
        let world = world.kill();
        let before = world.disk.bytes(&segment()).unwrap();
        world.disk.tamper(&segment(), |bytes| bytes[position as usize + 300] ^= 4);
        let damaged = world.disk.bytes(&segment()).unwrap();
        match try_open(&world, &config, Existing::default()).await {
            Err(RecoveryError::Rot { path, position: at, offset: 15, .. }) => assert_eq!((path, at), (segment(), position)),
            other => panic!("{other:?}"),
        }
        assert_eq!(world.disk.bytes(&segment()).unwrap(), damaged, "untouched");
        world.disk.tamper(&segment(), |bytes| *bytes = before);
        assert_eq!(try_open(&world, &config, Existing::default()).await.unwrap().log_end_offset(), 20);
    });
}

#[test]
fn rot_below_the_recovery_point_is_never_cut() {
    world::run(|world| async move {
        let (config, position) = twenty(&world, 19).await;
        let world = world.kill();
        world.disk.tamper(&segment(), |bytes| bytes[position as usize + 300] ^= 4);
        let rotten = |existing| {
            let (world, config) = (world.kill(), config.clone());
            async move { try_open(&world, &config, existing).await }
        };
        for existing in [Existing { recovery_point: 20, ..Existing::default() }, Existing { high_watermark: 20, ..Existing::default() }] {
            assert!(matches!(rotten(existing).await, Err(RecoveryError::Rot { offset: 19, known_offset: 20, .. })));
        }
        // The last batch of all, not known to have been on disk: a torn tail.
        assert_eq!(rotten(Existing { recovery_point: 19, ..Existing::default() }).await.unwrap().log_end_offset(), 19);
    });
}

#[test]
fn a_lost_sector_is_a_torn_tail_even_with_batches_behind() {
    world::run(|world| async move {
        let (config, position) = twenty(&world, 15).await;
        let world = world.kill();
        world.disk.tamper(&segment(), |bytes| {
            let sector = (position as usize / 512 + 1) * 512;
            bytes[sector..sector + 512].fill(0);
        });
        let log = try_open(&world, &config, Existing { recovery_point: 14, ..Existing::default() }).await.unwrap();
        assert_eq!(log.log_end_offset(), 15);
        fill(&log, 1, 10).await;
        assert_eq!(read_all(&log, 1 << 20).await.len(), 16);
    });
}

#[test]
fn missing_records_are_not_passed_over() {
    world::run(|world| async move {
        let (config, position) = twenty(&world, 16).await;
        let world = world.kill();
        world.disk.tamper(&segment(), |bytes| bytes.truncate(position as usize));
        match try_open(&world, &config, Existing { recovery_point: 17, ..Existing::default() }).await {
            Err(RecoveryError::Missing { end_offset: 16, known_offset: 17, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(try_open(&world, &config, Existing::default()).await.unwrap().log_end_offset(), 16);
        world.disk.tamper(&segment(), |bytes| bytes.truncate(100));
        assert!(
            matches!(try_open(&world, &config, Existing::default()).await, Err(RecoveryError::Rot { .. } | RecoveryError::Missing { .. })),
            "below the snapshot"
        );
        world.disk.unlink(&segment());
        assert!(matches!(try_open(&world, &config, Existing::default()).await, Err(RecoveryError::Missing { .. })));
    });
}

#[test]
fn recovery_reads_from_the_last_checkpoint_only() {
    world::run(|world| async move {
        let config = LogConfig { checkpoint_bytes: 64 << 10, segment_bytes: 1 << 30, ..LogConfig::default() };
        let log = open(&world, &config).await;
        for _ in 0..100 {
            fill(&log, 10, 2000).await;
            log.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        log.write_due_checkpoints().await.unwrap();
        let recovered = recover(&world.crash(5), &partition(), &path(), &config, Existing { trust_snapshots: true, ..Existing::default() }).await.unwrap();
        assert_eq!(recovered.report.log_end_offset, 1000);
        assert!(recovered.report.bytes_read < 200_000, "{:?} of {}", recovered.report, log.size_bytes());
    });
}

#[test]
fn duplicates_are_known_after_a_restart_and_after_their_segments_are_gone() {
    world::run(|world| async move {
        let config = LogConfig { retention_bytes: 0, ..small() };
        let log = open(&world, &config).await;
        let sent = |sequence: i32| batch(&[1, 2], &value(50, sequence as u64), Some((9, 2, sequence)));
        for number in 0..7 {
            append(&log, sent(number * 2)).await;
        }
        log.roll().await.unwrap();
        log.flush().await.unwrap();
        log.set_high_watermark(14);
        log.apply_retention(world.unix_ms()).await.unwrap();
        assert_eq!(log.log_start_offset(), 14);
        fill(&log, 1, 10).await;
        log.flush().await.unwrap();
        let crashed = open(&world.crash(9), &config).await;
        for log in [log, crashed] {
            for number in 2..7 {
                let info = append(&log, sent(number * 2)).await;
                assert_eq!((info.base_offset, info.last_offset, info.duplicate), (i64::from(number) * 2, i64::from(number) * 2 + 1, true));
            }
            assert!(matches!(log.append_as_leader(&[sent(2)], 0).await, Err(AppendError::Sequence(_))));
            assert!(!append(&log, sent(14)).await.duplicate);
        }
    });
}

#[test]
fn old_snapshots_go() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig { segment_bytes: 1 << 30, ..small() }).await;
        for _ in 0..50 {
            fill(&log, 10, 900).await;
            log.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        log.checkpoint_now().await.unwrap();
        let snapshots = world.disk.paths().iter().filter(|path| path.to_str().unwrap().ends_with(SNAPSHOT_SUFFIX)).count();
        assert!((1..=2).contains(&snapshots), "{snapshots}");
    });
}
