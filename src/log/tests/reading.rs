//! Reads against a list of the batches.

use proptest::prelude::*;

use super::*;
use crate::log::ReadError;

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn reads_give_whole_batches_within_all_limits(
        sizes in proptest::collection::vec((1usize..4, 1usize..1500), 1..60),
        reads in proptest::collection::vec((0.0f64..1.0, 0usize..5000, 0.0f64..1.2, any::<bool>()), 40),
        reopen: bool,
    ) {
        world::run(|world| async move {
            let mut log = open(&world, &small()).await;
            let mut model: Vec<(i64, i64, u64)> = Vec::new();
            for (count, bytes) in sizes {
                let sent = batch(&vec![1; count], &value(bytes, 1), None);
                let size = sent.bytes.len() as u64;
                let info = append(&log, sent).await;
                model.push((info.base_offset, info.last_offset, size));
            }
            if reopen {
                log.flush().await.unwrap();
                log = open(&world.kill(), &small()).await;
            }
            let end = log.log_end_offset();
            let bases = log.segment_base_offsets();
            for (from, max_bytes, up_to, min_one) in reads {
                let from = (from * end as f64) as i64;
                let up_to = (up_to * end as f64) as i64;
                let slice = log.read(from, max_bytes, up_to, min_one).await.unwrap();
                // By definition.
                let first = model.iter().position(|(_, last, _)| *last >= from).unwrap_or(model.len());
                let segment_end = bases.iter().copied().find(|base| model.get(first).is_some_and(|(first, ..)| base > first)).unwrap_or(i64::MAX);
                let (mut bytes, mut next) = (0, from);
                for (base, last, size) in &model[first..] {
                    let fits = bytes + size <= max_bytes as u64 || (min_one && bytes == 0);
                    if !fits || *last >= up_to.min(end) || *base >= segment_end {
                        break;
                    }
                    (bytes, next) = (bytes + size, last + 1);
                }
                prop_assert_eq!((slice.len, slice.next_offset), (bytes, next), "read {} {} {} {}", from, max_bytes, up_to, min_one);
                if bytes > 0 {
                    let header = Header::parse(&slice.file.read_at(slice.position, 61).await.unwrap()).unwrap();
                    prop_assert_eq!(header.base_offset, model[first].0);
                }
            }
            Ok(())
        })?;
    }
}

#[test]
fn offsets_outside_are_told() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        fill(&log, 3, 10).await;
        for offset in [-1, 4] {
            assert!(matches!(log.read(offset, 100, 3, true).await, Err(ReadError::OffsetOutOfRange { log_start_offset: 0, end_offset: 3, .. })));
        }
        assert_eq!(log.read(3, 100, 3, true).await.unwrap().len, 0);
        assert_eq!(log.read(2, 100, 1, true).await.unwrap().len, 0, "above the high watermark is nothing, not an error");
        assert_eq!(log.read(0, 0, 3, false).await.unwrap().len, 0);
    });
}

#[test]
fn a_consumer_that_keeps_up_reads_no_file() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig::default()).await;
        for _ in 0..1000 {
            let from = log.log_end_offset();
            fill(&log, 3, 500).await;
            let before = world.disk.faults.bytes_read.load(Ordering::Relaxed);
            assert_eq!(log.read(from, 1 << 20, log.log_end_offset(), true).await.unwrap().next_offset, from + 3);
            assert_eq!(world.disk.faults.bytes_read.load(Ordering::Relaxed), before);
        }
        // One that reads from the start: one small read of headers each.
        let mut offset = 0;
        let mut reads = 0u64;
        let before = world.disk.faults.bytes_read.load(Ordering::Relaxed);
        while offset < log.log_end_offset() {
            let slice = log.read(offset, 100_000, i64::MAX, true).await.unwrap();
            assert!(slice.len > 90_000 || slice.next_offset == log.log_end_offset());
            offset = slice.next_offset;
            reads += 1;
        }
        let read = world.disk.faults.bytes_read.load(Ordering::Relaxed) - before;
        assert!(read <= reads * 16_384, "{read} bytes looked at for {reads} reads");
    });
}

#[test]
fn timestamps_lead_to_offsets() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        let mut stamps = Vec::new();
        for at in 0..200i64 {
            let of_batch = [1000 + at * 10, 1000 + at * 10 + (at * 7919) % 50, 1000 + at * 10 - 5];
            append(&log, batch(&of_batch, &value(100, at as u64), None)).await;
            stamps.extend(of_batch);
        }
        assert!(log.segment_count() > 3);
        for log in [log.clone(), open(&world.kill(), &small()).await] {
            for asked in (900..3100).step_by(13) {
                let expected = stamps.iter().position(|stamp| *stamp >= asked).map(|at| (stamps[at], at as i64));
                let found = log.offset_for_timestamp(asked).await.unwrap().map(|found| (found.timestamp, found.offset));
                assert_eq!(found, expected, "{asked}");
            }
            let most = *stamps.iter().max().unwrap();
            let found = log.max_timestamp_offset().await.unwrap().unwrap();
            assert_eq!((found.timestamp, found.offset, found.leader_epoch), (most, stamps.iter().position(|stamp| *stamp == most).unwrap() as i64, 0));
        }
    });
}

#[test]
fn open_segments_are_bounded() {
    world::run(|world| async move {
        let config = LogConfig { segment_bytes: 300, max_message_bytes: 300, ..small() };
        let log = open(&world, &config).await;
        fill(&log, 140, 100).await;
        log.checkpoint_now().await.unwrap();
        assert!(log.segment_count() > 60);
        assert_eq!(read_all(&log, 1 << 20).await.len(), 140);
        assert!(log.inner.dir.cache.open_count() <= 21, "{}", log.inner.dir.cache.open_count());
        let log = open(&world.kill(), &config).await;
        assert_eq!(read_all(&log, 1 << 20).await.len(), 140);
    });
}
