//! Tests of whole logs, over a disk in memory that crashes and fails.
#![allow(clippy::disallowed_methods, reason = "tests may wait on tokio's clock")]

mod crashes;
mod deleting;
mod managing;
mod reading;
mod world;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{BufMut, Bytes, BytesMut};

use super::config::LogConfig;
use super::dir::{DirFailures, LogDir};
use super::flush::{FlushPolicy, spawn_flushers};
use super::recovery::{Existing, RecoveryError, recover};
use super::{AppendError, BatchToAppend, Log, LogError};
use crate::record::batch::{HEADER_BYTES, Header};
use crate::runtime::{Disk, File, Runtime};
use crate::topic_partition::TopicPartition;
use world::World;

/// A producer's stamp: id, epoch, sequence.
type Producer = Option<(i64, i16, i32)>;

fn put_varint(bytes: &mut BytesMut, value: i64) {
    let mut zigzag = ((value << 1) ^ (value >> 63)) as u64;
    while zigzag >= 0x80 {
        bytes.put_u8(zigzag as u8 | 0x80);
        zigzag >>= 7;
    }
    bytes.put_u8(zigzag as u8);
}

/// A batch with one record per timestamp, each of `value`.
fn batch(timestamps: &[i64], value: &[u8], producer: Producer) -> BatchToAppend {
    let mut bytes = BytesMut::new();
    let (id, epoch, sequence) = producer.unwrap_or((-1, -1, -1));
    bytes.put_i64(0);
    bytes.put_i32(0);
    bytes.put_i32(-1);
    bytes.put_i8(2);
    bytes.put_u32(0);
    bytes.put_i16(0);
    bytes.put_i32(timestamps.len() as i32 - 1);
    bytes.put_i64(timestamps[0]);
    bytes.put_i64(*timestamps.iter().max().unwrap());
    bytes.put_i64(id);
    bytes.put_i16(epoch);
    bytes.put_i32(sequence);
    bytes.put_i32(timestamps.len() as i32);
    assert_eq!(bytes.len(), HEADER_BYTES);
    for (at, timestamp) in timestamps.iter().enumerate() {
        let mut record = BytesMut::new();
        record.put_i8(0);
        put_varint(&mut record, timestamp - timestamps[0]);
        put_varint(&mut record, at as i64);
        put_varint(&mut record, -1);
        put_varint(&mut record, value.len() as i64);
        record.put_slice(value);
        put_varint(&mut record, 0);
        put_varint(&mut bytes, record.len() as i64);
        bytes.put_slice(&record);
    }
    let length = bytes.len() as i32 - 12;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    let bytes = bytes.freeze();
    BatchToAppend { header: Header::whole(&bytes).unwrap(), bytes }
}

/// A value of so many bytes that are not zero.
fn value(bytes: usize, seed: u64) -> Vec<u8> {
    (0..bytes).map(|at| 1 + ((seed.wrapping_mul(31).wrapping_add(at as u64 * 7)) % 255) as u8).collect()
}

fn partition() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn path() -> PathBuf {
    PathBuf::from("/data/t-0")
}

/// Small segments and indexes, so that everything happens often.
fn small() -> LogConfig {
    LogConfig { segment_bytes: 8000, index_interval_bytes: 400, checkpoint_bytes: 5000, file_delete_delay_ms: 0, ..LogConfig::default() }
}

/// A log directory with its flushers.
async fn dir(world: &World) -> Arc<LogDir<World>> {
    world.disk().create_dir(&path()).await.unwrap();
    let dir = LogDir::new(world.clone(), PathBuf::from("/data"), DirFailures::new(1, true), 20);
    drop(spawn_flushers(&dir, FlushPolicy { flushers: 2, sync_filesystem_above: 8 }));
    dir
}

async fn try_open(world: &World, config: &LogConfig, existing: Existing) -> Result<Log<World>, RecoveryError> {
    let dir = dir(world).await;
    let recovered = recover(world, &partition(), &path(), config, Existing { trust_snapshots: true, ..existing }).await?;
    let log = Log::from_recovered(dir.clone(), partition(), uuid::Uuid::nil(), path(), config.clone(), recovered);
    dir.insert(&log);
    Ok(log)
}

async fn open(world: &World, config: &LogConfig) -> Log<World> {
    try_open(world, config, Existing::default()).await.unwrap()
}

async fn append(log: &Log<World>, batch: BatchToAppend) -> super::AppendInfo {
    log.append_as_leader(&[batch], 0).await.unwrap()
}

/// Appends so many batches of one record, each about `bytes` large.
async fn fill(log: &Log<World>, batches: usize, bytes: usize) {
    for at in 0..batches {
        let stamp = log.log_end_offset();
        append(log, batch(&[1_700_000_000_000 + stamp], &value(bytes, at as u64), None)).await;
    }
}

/// All batches from the log start to the end, read as a consumer does.
async fn read_all(log: &Log<World>, max_bytes: usize) -> Vec<(Header, Bytes)> {
    let mut batches = Vec::new();
    let mut offset = log.log_start_offset();
    loop {
        let slice = log.read(offset, max_bytes, i64::MAX, true).await.unwrap();
        if slice.len == 0 {
            assert_eq!(offset, log.log_end_offset());
            return batches;
        }
        let mut bytes = slice.file.read_at(slice.position, slice.len as usize).await.unwrap();
        while !bytes.is_empty() {
            let header = Header::whole(&bytes).unwrap();
            batches.push((header, bytes.split_to(header.size_in_bytes())));
        }
        assert_eq!(batches.last().unwrap().0.next_offset(), slice.next_offset);
        offset = slice.next_offset;
    }
}

#[test]
fn appends_are_durable_after_a_flush_and_batches_are_as_sent() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        let sent = batch(&[5, 6, 4], b"hello", None);
        let info = append(&log, sent.clone()).await;
        assert_eq!((info.base_offset, info.last_offset, info.duplicate, info.log_append_time_ms), (0, 2, false, -1));
        let info = log.append_as_leader(&[batch(&[7], b"x", None), batch(&[8], b"y", None)], 3).await.unwrap();
        assert_eq!((info.base_offset, info.last_offset), (3, 4));
        assert_eq!(log.flush().await.unwrap(), 5);
        let stored = read_all(&log, 1 << 20).await;
        assert_eq!(stored[0].1[16..], sent.bytes[16..]);
        assert_eq!(stored.iter().map(|(header, _)| (header.base_offset, header.partition_leader_epoch)).collect::<Vec<_>>(), [(0, 0), (3, 3), (4, 3)]);
        assert_eq!((log.latest_epoch(), log.end_offset_for_epoch(0), log.end_offset_for_epoch(3)), (Some(3), (0, 3), (3, 5)));
        assert_eq!(log.size_bytes(), stored.iter().map(|(_, bytes)| bytes.len() as u64).sum::<u64>());
    });
}

#[test]
fn appends_during_a_sync_share_the_next() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig { checkpoint_bytes: u64::MAX, ..small() }).await;
        let before = world.disk.faults.syncs.load(Ordering::Relaxed);
        let appends = (0..50).map(|_| {
            let log = log.clone();
            world.spawn("append", async move {
                append(&log, batch(&[1], b"x", None)).await;
                let mut durable = log.durable_watch();
                drop(durable.wait_for(|end| *end >= 50).await.unwrap());
            })
        });
        for task in appends.collect::<Vec<_>>() {
            crate::runtime::Task::join(task).await.unwrap();
        }
        let syncs = world.disk.faults.syncs.load(Ordering::Relaxed) - before;
        assert!((1..=10).contains(&syncs), "{syncs} syncs for 50 appends");
    });
}

#[test]
fn a_failed_sync_is_final() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        fill(&log, 1, 100).await;
        log.flush().await.unwrap();
        world.disk.faults.fail_next_sync.store(true, Ordering::Relaxed);
        fill(&log, 1, 100).await;
        let error = log.flush().await.unwrap_err();
        assert!(matches!(error, LogError::Offline { .. }), "{error}");
        assert_eq!(log.durable_end_offset(), 1);
        assert!(world.halted.load(Ordering::Relaxed), "the last directory is gone");
        assert!(matches!(log.append_as_leader(&[batch(&[1], b"x", None)], 0).await, Err(AppendError::Log(LogError::Offline { .. }))));
    });
}

#[test]
fn a_full_disk_refuses_appends_and_recovers_with_space() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        fill(&log, 3, 100).await;
        log.flush().await.unwrap();
        let faults = world.disk.faults.clone();
        faults.limited.store(true, Ordering::Relaxed);
        for free in [0, 1, 15, 16, 17, 100, 160] {
            faults.free_bytes.store(free, Ordering::Relaxed);
            match log.append_as_leader(&[batch(&[1], &value(100, 1), None)], 0).await {
                Err(AppendError::Log(error)) => assert!(error.is_storage_full(), "{error}"),
                other => panic!("{other:?}"),
            }
            assert_eq!(log.log_end_offset(), 3);
        }
        faults.limited.store(false, Ordering::Relaxed);
        fill(&log, 3, 100).await;
        assert_eq!(read_all(&log, 1 << 20).await.len(), 6);
        log.flush().await.unwrap();
        let world = world.crash(1);
        assert_eq!(read_all(&open(&world, &small()).await, 1 << 20).await.len(), 6);
    });
}

#[test]
fn what_a_producer_sent_after_a_batch_that_found_no_room_waits_for_it() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        let send = async |id, epoch, sequence| log.append_as_leader(&[batch(&[1], &value(100, 1), Some((id, epoch, sequence)))], 0).await;
        send(1, 0, 0).await.unwrap();
        let faults = world.disk.faults.clone();
        faults.free_bytes.store(50, Ordering::Relaxed);
        faults.limited.store(true, Ordering::Relaxed);
        let full = |appended: Result<_, AppendError>| assert!(matches!(&appended, Err(AppendError::Log(error)) if error.is_storage_full()), "{appended:?}");
        // The first batch that producer 2 ever sends here, and one of producer 1; what follows each is in flight already.
        full(send(1, 0, 1).await);
        full(send(2, 0, 0).await);
        faults.limited.store(false, Ordering::Relaxed);
        full(send(1, 0, 2).await);
        full(send(2, 0, 1).await);
        full(send(1, 0, 3).await);
        assert!(send(1, 0, 0).await.unwrap().duplicate, "what is there is known");
        assert_eq!(send(3, 0, 7).await.unwrap().base_offset, 1, "others go on");
        for (id, sequence) in [(2, 0), (1, 1), (1, 2), (2, 1)] {
            assert!(!send(id, 0, sequence).await.unwrap().duplicate);
        }
        // From here on the numbers alone count again.
        assert!(matches!(send(1, 0, 5).await, Err(AppendError::Sequence(_))));
        // A producer that begins another epoch has given it up.
        faults.limited.store(true, Ordering::Relaxed);
        full(send(1, 0, 3).await);
        faults.limited.store(false, Ordering::Relaxed);
        send(1, 1, 0).await.unwrap();
        send(1, 1, 1).await.unwrap();
    });
}

#[test]
fn a_full_disk_at_a_roll_or_a_checkpoint_loses_nothing() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        let faults = world.disk.faults.clone();
        faults.limited.store(true, Ordering::Relaxed);
        for round in 0..200u64 {
            faults.free_bytes.store(round * 37 % 900, Ordering::Relaxed);
            let _ = log.append_as_leader(&[batch(&[1], &value(300, round), None)], 0).await;
            tokio::task::yield_now().await;
        }
        log.check_online().unwrap();
        faults.limited.store(false, Ordering::Relaxed);
        fill(&log, 1, 100).await;
        log.flush().await.unwrap();
        let all = read_all(&log, 1 << 20).await;
        assert_eq!(all.len() as i64, log.log_end_offset());
        assert!(log.segment_count() > 1);
        let world = world.crash(3);
        assert_eq!(read_all(&open(&world, &small()).await, 1 << 20).await, all);
    });
}

#[test]
fn a_failed_write_is_cut_back() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        fill(&log, 2, 100).await;
        world.disk.faults.fail_next_write.store(true, Ordering::Relaxed);
        assert!(log.append_as_leader(&[batch(&[1], &value(100, 1), None)], 0).await.is_err());
        fill(&log, 2, 50).await;
        assert_eq!(read_all(&log, 1 << 20).await.len(), 4);
    });
}

#[test]
fn limits_are_told() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig { max_message_bytes: 500, segment_bytes: 800, ..small() }).await;
        assert!(matches!(log.append_as_leader(&[batch(&[1], &value(500, 1), None)], 0).await, Err(AppendError::MessageTooLarge { max_bytes: 500, .. })));
        let two = [batch(&[1], &value(400, 1), None), batch(&[1], &value(400, 1), None)];
        assert!(matches!(log.append_as_leader(&two, 0).await, Err(AppendError::LargerThanSegment { max_bytes: 800, .. })));
        assert_eq!(log.log_end_offset(), 0);
    });
}

#[test]
fn segments_roll_by_size_time_index_and_offset() {
    world::run(|world| async move {
        let log = open(&world, &small()).await;
        fill(&log, 30, 1000).await;
        assert!(log.segment_count() >= 4);

        let config = LogConfig { segment_ms: 1000, ..LogConfig::default() };
        let log = open(&world.empty(), &config).await;
        append(&log, batch(&[5000], b"x", None)).await;
        append(&log, batch(&[6000], b"x", None)).await;
        assert_eq!(log.segment_count(), 1);
        append(&log, batch(&[6001], b"x", None)).await;
        assert_eq!(log.segment_base_offsets(), [0, 2]);

        let config = LogConfig { segment_index_bytes: 48, index_interval_bytes: 1, ..LogConfig::default() };
        let log = open(&world.empty(), &config).await;
        fill(&log, 20, 10).await;
        assert!(log.segment_count() > 2);

        let world = world.empty();
        let log = open(&world, &LogConfig::default()).await;
        let far = |base_offset: i64| {
            let BatchToAppend { header, bytes } = batch(&[1], b"x", None);
            let header = Header { base_offset, partition_leader_epoch: 0, ..header };
            let bytes = Bytes::from([&header.prefix(base_offset, 0)[..], &bytes[16..]].concat());
            BatchToAppend { header, bytes }
        };
        log.append_as_follower(&[far(0)]).await.unwrap();
        log.append_as_follower(&[far(i64::from(i32::MAX))]).await.unwrap();
        assert_eq!(log.segment_count(), 1);
        log.append_as_follower(&[far(i64::from(i32::MAX) + 1)]).await.unwrap();
        assert_eq!(log.segment_base_offsets(), [0, i64::from(i32::MAX) + 1]);
        assert!(matches!(log.append_as_follower(&[far(7)]).await, Err(AppendError::OffsetsNotIncreasing { .. })));
    });
}

#[test]
fn left_to_the_system_records_count_when_written() {
    world::run(|world| async move {
        let log = open(&world, &LogConfig { flush_messages: i64::MAX, ..small() }).await;
        fill(&log, 2, 10).await;
        tokio::task::yield_now().await;
        assert_eq!((log.acknowledged_end_offset(), log.durable_end_offset()), (2, 0));
        let log = open(&world.empty(), &LogConfig { flush_messages: 3, ..small() }).await;
        fill(&log, 2, 10).await;
        assert_eq!(log.durable_end_offset(), 0);
        fill(&log, 1, 10).await;
        drop(log.durable_watch().wait_for(|end| *end == 3).await.unwrap());
    });
}
