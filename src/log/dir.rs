//! A log directory (one of `log.dirs`): what its partitions share. Whether it still works, its checkpoints, its flush queue, its
//! cache of open segments.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, RwLock};

use tokio::sync::watch;

use super::Log;
use super::checkpoint::{encode_offsets, replace_file};
use super::error::{LogError, is_storage_full};
use super::flush::FlushQueue;
use super::names::{HIGH_WATERMARK_CHECKPOINT, LOG_START_CHECKPOINT, RECOVERY_POINT_CHECKPOINT, text_bytes};
use super::partition_log::WeakLog;
use super::segment::SegmentCache;
use crate::plant;
use crate::runtime::Runtime;
use crate::topic_partition::TopicPartition;

/// Segments that are open although nobody appends to them, per log directory.
pub(super) const OPEN_SEGMENTS_MAX: usize = 512;
/// Memory of their indexes, per log directory.
const OPEN_INDEX_BYTES_MAX: usize = 32 << 20;

/// Which log directories have failed, and what to do when none is left.
pub(super) struct DirFailures {
    live: AtomicUsize,
    failed: watch::Sender<Vec<PathBuf>>,
    /// Whether the process halts when the last directory fails.
    halt_on_last: bool,
}

impl DirFailures {
    /// Of so many directories.
    pub(super) fn new(dirs: usize, halt_on_last: bool) -> Arc<Self> {
        Arc::new(Self { live: AtomicUsize::new(dirs), failed: watch::Sender::new(Vec::new()), halt_on_last })
    }

    /// Corrects how many directories work at the start.
    pub(super) fn set_live(&self, dirs: usize) {
        self.live.store(dirs, Ordering::Release);
    }

    /// Follows the list of failed directories.
    pub(super) fn subscribe(&self) -> watch::Receiver<Vec<PathBuf>> {
        self.failed.subscribe()
    }
}

/// What a checkpoint file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CheckpointKind {
    /// Everything below is on disk.
    RecoveryPoint,
    /// Everything below was committed.
    HighWatermark,
    /// Everything below is deleted.
    LogStart,
}

impl CheckpointKind {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::RecoveryPoint, Self::HighWatermark, Self::LogStart];

    /// The file's name.
    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::RecoveryPoint => RECOVERY_POINT_CHECKPOINT,
            Self::HighWatermark => HIGH_WATERMARK_CHECKPOINT,
            Self::LogStart => LOG_START_CHECKPOINT,
        }
    }
}

/// A log directory.
pub(super) struct LogDir<R: Runtime> {
    pub rt: R,
    pub path: PathBuf,
    pub queue: FlushQueue<R>,
    pub cache: SegmentCache<R>,
    /// Its partitions, which the manager keeps.
    logs: RwLock<BTreeMap<TopicPartition, WeakLog<R>>>,
    /// Offsets, by [`CheckpointKind`], of partitions that could not be opened: their checkpoints must outlive the repair.
    kept: RwLock<BTreeMap<TopicPartition, [Option<i64>; 3]>>,
    failure: OnceLock<Arc<str>>,
    failures: Arc<DirFailures>,
    /// What each checkpoint file holds; the lock also makes writers take turns.
    written: [tokio::sync::Mutex<Option<BTreeMap<TopicPartition, i64>>>; 3],
}

impl<R: Runtime> LogDir<R> {
    /// A directory without partitions, that keeps at most `open_segments_max` segments open besides those that must be.
    pub(super) fn new(rt: R, path: PathBuf, failures: Arc<DirFailures>, open_segments_max: usize) -> Arc<Self> {
        Arc::new(Self {
            rt,
            path,
            queue: FlushQueue::default(),
            cache: SegmentCache::new(open_segments_max, OPEN_INDEX_BYTES_MAX),
            logs: RwLock::default(),
            kept: RwLock::default(),
            failure: OnceLock::new(),
            failures,
            written: Default::default(),
        })
    }

    /// Why it does not work any more.
    pub(super) fn failure(&self) -> Option<&Arc<str>> {
        self.failure.get()
    }

    /// Takes the directory out of service: a sync failed, so what is on disk is unknown from now on, and a later success would prove
    /// nothing. Halts the process if it was the last one.
    pub(super) async fn fail(&self, what: &str, path: &Path, error: &io::Error) {
        let why: Arc<str> = format!(
            "log directory {} failed: {what} of {}: {error}. Its partitions stay offline until the broker restarts; check the disk first",
            self.path.display(),
            path.display()
        )
        .into();
        if self.failure.set(why.clone()).is_err() {
            return;
        }
        tracing::error!("{why}");
        self.rt.event("log.dir.failed", &[]);
        self.failures.failed.send_modify(|failed| failed.push(self.path.clone()));
        for log in self.logs() {
            log.wake_waiters();
        }
        let live = self.failures.live.fetch_sub(1, Ordering::AcqRel) - 1;
        if live == 0 && self.failures.halt_on_last {
            self.rt.halt(&format!("no log directory is left: {why}")).await;
        }
    }

    /// Takes note of the disk's answer to something that the caller can give up: errors other than a full disk take the directory
    /// out of service.
    pub(super) async fn check<T>(&self, what: &str, path: &Path, result: io::Result<T>) -> Result<T, LogError> {
        match result {
            Ok(value) => Ok(value),
            Err(error) => {
                if !is_storage_full(&error) {
                    self.fail(what, path, &error).await;
                }
                Err(LogError::io(path, error))
            }
        }
    }

    /// Adds a partition.
    pub(super) fn insert(&self, log: &Log<R>) {
        self.logs.write().expect("no panic holds it").insert(log.partition().clone(), log.downgrade());
    }

    /// Takes a partition out.
    pub(super) fn remove(&self, partition: &TopicPartition) {
        self.kept.write().expect("no panic holds it").remove(partition);
        self.logs.write().expect("no panic holds it").remove(partition);
    }

    /// All partitions.
    pub(super) fn logs(&self) -> Vec<Log<R>> {
        self.logs.read().expect("no panic holds it").values().filter_map(WeakLog::upgrade).collect()
    }

    /// Keeps the checkpointed offsets of a partition that could not be opened.
    pub(super) fn keep_offsets(&self, partition: TopicPartition, offsets: [Option<i64>; 3]) {
        self.kept.write().expect("no panic holds it").insert(partition, offsets);
    }

    /// How many partitions there are.
    pub(super) fn len(&self) -> usize {
        self.logs.read().expect("no panic holds it").len()
    }

    /// Makes the log start offsets durable, and before them the recovery points: a log start offset beyond the recovery point means that the
    /// log was started anew there.
    pub(super) async fn write_log_starts(&self) -> Result<(), LogError> {
        self.write_checkpoint(CheckpointKind::RecoveryPoint).await?;
        let starts: Vec<(Log<R>, i64)> = self.logs().into_iter().map(|log| (log.clone(), log.log_start_offset())).collect();
        self.write_checkpoint(CheckpointKind::LogStart).await?;
        for (log, start_offset) in starts {
            log.forget_epochs_below(start_offset);
        }
        Ok(())
    }

    /// Makes sure that no checkpoint speaks of a partition, which is about to be made: one of the same name, deleted since, may have left its
    /// offsets, and after a crash recovery would miss records that never were.
    pub(super) async fn forget_offsets(&self, partition: &TopicPartition) -> Result<(), LogError> {
        for kind in CheckpointKind::ALL {
            let is_free = self.written[kind as usize].lock().await.as_ref().is_some_and(|written| !written.contains_key(partition));
            if !is_free {
                self.write_checkpoint(kind).await?;
            }
        }
        Ok(())
    }

    /// Makes a checkpoint of all partitions durable, if it differs from the last one.
    pub(super) async fn write_checkpoint(&self, kind: CheckpointKind) -> Result<(), LogError> {
        let mut written = self.written[kind as usize].lock().await;
        let kept = self.kept.read().expect("no panic holds it").clone();
        let mut offsets: BTreeMap<TopicPartition, i64> =
            kept.into_iter().filter_map(|(partition, offsets)| Some((partition, offsets[kind as usize]?))).collect();
        for log in self.logs() {
            let offset = match kind {
                CheckpointKind::RecoveryPoint if plant!(&self.rt, "recovery-point-ahead") => log.log_end_offset(),
                CheckpointKind::RecoveryPoint => log.recovery_point(),
                CheckpointKind::HighWatermark => log.high_watermark_to_checkpoint().unwrap_or(0),
                CheckpointKind::LogStart => log.log_start_offset(),
            };
            // Without an entry an offset is 0.
            if offset > 0 {
                offsets.insert(log.partition().clone(), offset);
            }
        }
        if written.as_ref() == Some(&offsets) {
            return Ok(());
        }
        if let Some(why) = self.failure() {
            return Err(LogError::Io { path: self.path.clone(), source: Arc::new(io::Error::other(why.to_string())) });
        }
        // Until the file is known to be replaced it may hold either.
        *written = None;
        let name = kind.file_name();
        let result = replace_file(&self.rt, &self.path, name, text_bytes(encode_offsets(&offsets))).await;
        self.check("checkpoint", &self.path.join(name), result).await?;
        *written = Some(offsets);
        Ok(())
    }
}
