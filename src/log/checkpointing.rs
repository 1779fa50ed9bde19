//! A partition's checkpoints: after every `checkpoint_bytes` written, at every roll, and at shutdown, indexes, leader epochs and the
//! producers' state are made durable, in this order, once the records below are. The producer snapshot comes last: that it exists says that
//! everything below its offset is on disk, so recovery begins there.

use std::sync::Arc;

use bytes::Bytes;

use super::Log;
use super::checkpoint::replace_file_before_dir_sync;
use super::error::LogError;
use super::names::{LEADER_EPOCH_CHECKPOINT, SNAPSHOT_SUFFIX, file_name, text_bytes};
use super::partition_log::Writer;
use super::producer_snapshot;
use super::segment::{OpenSegment, Segment, write_indexes};
use crate::runtime::{Disk, Runtime};

/// Producer snapshots that are kept besides those where a segment begins.
const SNAPSHOTS_KEPT: usize = 2;

/// What the log was at an offset.
pub(super) struct Checkpoint<R: Runtime> {
    /// Where.
    pub offset: i64,
    /// The producers, as their snapshot's content.
    snapshot: Bytes,
    /// The segment that was active.
    segment: (Arc<Segment<R>>, Arc<OpenSegment<R>>),
    /// Whether it takes no more batches.
    complete: bool,
}

impl<R: Runtime> Writer<R> {
    /// The log as it is now. `complete`: the active segment is being rolled.
    pub(super) fn checkpoint(&mut self, complete: bool) -> Checkpoint<R> {
        self.bytes_since_checkpoint = 0;
        Checkpoint {
            offset: self.end_offset,
            snapshot: producer_snapshot::encode(&self.producers),
            segment: (self.active.clone(), self.open.clone()),
            complete,
        }
    }
}

impl<R: Runtime> Log<R> {
    /// Has a checkpoint written as soon as everything below it is on disk.
    pub(super) fn queue_checkpoint(&self, checkpoint: Checkpoint<R>) {
        self.inner.checkpoints.lock().expect("no panic holds it").push_back(checkpoint);
        self.mark_dirty();
    }

    /// Writes what checkpoints are due, in a task of its own: who waits for the flush does not wait for this.
    pub(super) fn start_due_checkpoints(&self) {
        let durable = self.durable_end_offset();
        let due = self.inner.checkpoints.lock().expect("no panic holds it").front().is_some_and(|first| first.offset <= durable);
        if due {
            let log = self.clone();
            drop(self.inner.rt.spawn("log-checkpoint", async move {
                if let Err(error) = log.write_due_checkpoints().await {
                    tracing::warn!(partition = %log.partition(), "a checkpoint was put off: {error}");
                }
            }));
        }
    }

    /// Writes what checkpoints are due. One that a full disk refuses stays queued for the next flush.
    pub(super) async fn write_due_checkpoints(&self) -> Result<(), LogError> {
        let inner = &*self.inner;
        let _one_at_a_time = inner.checkpoint_lock.lock().await;
        loop {
            self.check_online()?;
            let durable = self.durable_end_offset();
            let checkpoint = {
                let mut queue = inner.checkpoints.lock().expect("no panic holds it");
                match queue.front() {
                    Some(first) if first.offset <= durable => queue.pop_front().expect("it has a first"),
                    _ => return Ok(()),
                }
            };
            if let Err(error) = self.write_checkpoint(&checkpoint).await {
                inner.checkpoints.lock().expect("no panic holds it").push_front(checkpoint);
                return Err(error);
            }
        }
    }

    async fn write_checkpoint(&self, checkpoint: &Checkpoint<R>) -> Result<(), LogError> {
        let inner = &*self.inner;
        let (rt, dir, path) = (&inner.rt, &inner.dir, self.path());
        self.write_unindexed().await?;
        let (segment, open) = &checkpoint.segment;
        dir.check("index write", path, write_indexes(rt, path, segment.base_offset, open).await).await?;
        let epochs = inner.epochs.read().expect("no panic holds it").encode();
        let result = replace_file_before_dir_sync(rt, path, LEADER_EPOCH_CHECKPOINT, text_bytes(epochs)).await;
        dir.check("leader epoch checkpoint", path, result).await?;
        // Index and epochs must have their names before the snapshot says that recovery may rely on them.
        dir.check("sync of the directory", path, rt.disk().sync_dir(path).await).await?;
        let snapshot = file_name(checkpoint.offset, SNAPSHOT_SUFFIX);
        dir.check("producer snapshot", path, replace_file_before_dir_sync(rt, path, &snapshot, checkpoint.snapshot.clone()).await).await?;
        dir.check("sync of the directory", path, rt.disk().sync_dir(path).await).await?;
        if checkpoint.complete {
            segment.unpin(&dir.cache);
        }
        rt.event("log.checkpoint", &[inner.trace_id, checkpoint.offset as u64]);

        let segments = self.segment_base_offsets();
        let stale: Vec<i64> = {
            let mut snapshots = inner.snapshots.lock().expect("no panic holds it");
            snapshots.insert(checkpoint.offset);
            let stale: Vec<i64> = snapshots.iter().rev().skip(SNAPSHOTS_KEPT).filter(|offset| segments.binary_search(offset).is_err()).copied().collect();
            snapshots.retain(|offset| !stale.contains(offset));
            stale
        };
        for offset in stale {
            // One that stays is removed at the next start.
            let _ = rt.disk().remove_file(&path.join(file_name(offset, SNAPSHOT_SUFFIX))).await;
        }
        Ok(())
    }

    /// Writes the indexes that recovery made and could not write: once a producer snapshot lies behind a segment its files are taken as they are.
    async fn write_unindexed(&self) -> Result<(), LogError> {
        let inner = &*self.inner;
        loop {
            let Some((segment, open)) = inner.unindexed.lock().expect("no panic holds it").last().cloned() else { return Ok(()) };
            // Retention may have deleted it.
            let is_there = inner.segments.read().expect("no panic holds it").get(&segment.base_offset).is_some_and(|known| Arc::ptr_eq(known, &segment));
            if is_there {
                inner.dir.check("index write", self.path(), write_indexes(&inner.rt, self.path(), segment.base_offset, &open).await).await?;
                segment.unpin(&inner.dir.cache);
            }
            inner.unindexed.lock().expect("no panic holds it").pop();
        }
    }

    /// Makes everything that recovery would have to read or rebuild durable, up to the log's end.
    pub(super) async fn checkpoint_now(&self) -> Result<(), LogError> {
        {
            let mut writer = self.inner.writer.lock().await;
            self.check_online()?;
            let newest = self.inner.snapshots.lock().expect("no panic holds it").last().copied();
            let pending = !self.inner.checkpoints.lock().expect("no panic holds it").is_empty();
            // Those of a log that has not grown may have been rebuilt.
            let indexed = writer.open.indexes.read().expect("no panic holds it").is_written();
            let unindexed = !self.inner.unindexed.lock().expect("no panic holds it").is_empty();
            if pending || unindexed || !indexed || newest != Some(writer.end_offset) {
                let checkpoint = writer.checkpoint(false);
                self.queue_checkpoint(checkpoint);
            }
        }
        self.flush().await?;
        self.write_due_checkpoints().await
    }
}
