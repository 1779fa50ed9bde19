//! The log of one partition: its state, who may change it, and what others see of it.
//!
//! Appends, rolls and truncations take turns behind one lock ([`Writer`]). Readers take none of it: the list of segments is behind a
//! lock held for a look-up, ends are atomics. A log has two ends: `log_end_offset` (written) and `durable_end_offset` (on disk). The order
//! of publication is: the segment's size, batch boundaries, the log end; so who sees an end can read up to it.
//!
//! Lock order: writer, flush lock, then the short ones (segments, epochs, boundaries, a segment's own), one at a time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};

use tokio::sync::watch;
use uuid::Uuid;

use super::boundaries::{Boundaries, Boundary};
use super::checkpointing::Checkpoint;
use super::config::LogConfig;
use super::dir::LogDir;
use super::epoch_cache::EpochCache;
use super::error::LogError;
use super::flush::FlushState;
use super::interrupted::Interrupted;
use super::names::{LOG_SUFFIX, file_name};
use super::producer_state::ProducerStates;
use super::recovery::Recovered;
use super::segment::{FileOf, OpenSegment, Segment};
use super::time_index::TimeEntry;
use super::txn_index::{self, AbortedTransaction};
use crate::runtime::{Instant, Runtime};
use crate::topic_partition::TopicPartition;

/// High watermark of a log whose replica was not given a role yet.
const UNKNOWN_OFFSET: i64 = -1;

/// The log of one partition. Cloning is cheap; all clones are the same log.
pub struct Log<R: Runtime> {
    pub(super) inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Log<R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// A log that is not kept alive.
pub(super) struct WeakLog<R: Runtime>(Weak<Inner<R>>);

impl<R: Runtime> WeakLog<R> {
    /// The log, if anybody still has it.
    pub(super) fn upgrade(&self) -> Option<Log<R>> {
        self.0.upgrade().map(|inner| Log { inner })
    }
}

/// A segment and its open half.
pub(super) type PinnedSegment<R> = (Arc<Segment<R>>, Arc<OpenSegment<R>>);

/// Who is told of an offset.
pub type OffsetObserver = Arc<dyn Fn(i64) + Send + Sync>;

/// What all clones share.
pub(super) struct Inner<R: Runtime> {
    pub rt: R,
    pub partition: TopicPartition,
    /// Names the log in traces.
    pub trace_id: u64,
    topic_id: RwLock<Uuid>,
    pub path: PathBuf,
    pub dir: Arc<LogDir<R>>,
    config: RwLock<Arc<LogConfig>>,
    pub writer: tokio::sync::Mutex<Writer<R>>,
    pub segments: RwLock<BTreeMap<i64, Arc<Segment<R>>>>,
    pub epochs: RwLock<EpochCache>,
    pub boundaries: Mutex<Boundaries>,
    /// Transactions that were aborted, in the order of their markers.
    aborted: RwLock<Vec<AbortedTransaction>>,
    /// Below this offset compaction may have left gaps: Kafka's, before the partition was adopted.
    pub gaps_below: i64,
    log_start_offset: AtomicI64,
    log_end_offset: AtomicI64,
    high_watermark: AtomicI64,
    durable_end: watch::Sender<i64>,
    acknowledged_end: watch::Sender<i64>,
    /// Told of each rise of the acknowledged end: see [`Log::observe_acknowledged_end`].
    acknowledged_observer: RwLock<Option<OffsetObserver>>,
    deleted: AtomicBool,
    /// Why this partition alone is out of service.
    failure: OnceLock<Arc<str>>,

    flush_state: FlushState,
    /// Held while a flush is between noting the log's end and publishing it, and while the log is truncated.
    flush_lock: tokio::sync::Mutex<()>,
    /// Segments that were rolled and not synced since, oldest first.
    pub unsynced: Mutex<Vec<Arc<Segment<R>>>>,
    /// The active segment's open half, for the flusher.
    pub active: RwLock<PinnedSegment<R>>,
    /// Whether files were made in the partition's directory that no sync of it covers yet.
    pub new_names: AtomicBool,
    /// When the oldest record that is not durable was written, for `flush.ms`.
    pub unflushed_since: Mutex<Option<Instant>>,

    /// Complete segments whose indexes could not be written when the log was opened: they come before the next checkpoint.
    pub unindexed: Mutex<Vec<PinnedSegment<R>>>,
    /// Checkpoints that wait for the flush.
    pub checkpoints: Mutex<VecDeque<Checkpoint<R>>>,
    /// Held while a checkpoint is written.
    pub checkpoint_lock: tokio::sync::Mutex<()>,
    /// Offsets of the durable producer snapshots.
    pub snapshots: Mutex<BTreeSet<i64>>,
    /// Bytes of all segments but the active one.
    pub inactive_bytes: AtomicU64,
}

/// What only the holder of the lock sees: the active segment's end and what appends are checked against.
pub(super) struct Writer<R: Runtime> {
    pub active: Arc<Segment<R>>,
    pub open: Arc<OpenSegment<R>>,
    /// Offset of the next record.
    pub end_offset: i64,
    /// Where the next batch goes in the active segment: the end of what is known to be written.
    pub position: u64,
    /// Whether the file may have bytes behind `position`: a write failed, or its future was dropped.
    pub uncertain: bool,
    /// A segment that is being made. If that came to no end its file must go before the log goes on: it would lie within the segment that grows.
    pub making: Option<PathBuf>,
    /// Greatest timestamp of the active segment.
    pub max_time: TimeEntry,
    /// Timestamp that `segment.ms` counts from: the first batch's; `None` while the segment is empty.
    pub first_timestamp: Option<i64>,
    /// When the segment was made, for batches without timestamps.
    pub created_ms: i64,
    /// By how much the segment is rolled earlier.
    pub jitter_ms: i64,
    pub producers: ProducerStates,
    /// Of which a batch found no room.
    pub interrupted: Interrupted,
    pub bytes_since_checkpoint: u64,
    /// Records since a flush was last asked for.
    pub unflushed_records: i64,
    /// Up to where space was reserved.
    pub preallocated_bytes: u64,
}

/// What a flush has to sync.
pub(super) struct FlushWork<R: Runtime> {
    /// Everything below is in the files.
    pub end_offset: i64,
    pub files: Vec<(PathBuf, FileOf<R>)>,
}

impl<R: Runtime> Log<R> {
    /// A log as recovery found it.
    pub(super) fn from_recovered(
        dir: Arc<LogDir<R>>,
        partition: TopicPartition,
        topic_id: Uuid,
        path: PathBuf,
        config: LogConfig,
        recovered: Recovered<R>,
    ) -> Self {
        let rt = dir.rt.clone();
        let trace_id = u64::from(crc32fast::hash(partition.to_string().as_bytes()));
        let Recovered { segments, writer, epochs, aborted, gaps_below, log_start_offset, unindexed, snapshots, .. } = recovered;
        let end_offset = writer.end_offset;
        let inactive_bytes = segments.values().map(|segment| segment.size_bytes()).sum::<u64>() - writer.position;
        let boundaries = Boundaries::new(writer.active.base_offset, Boundary { offset: end_offset, position: writer.position });
        let inner = Inner {
            rt,
            partition,
            trace_id,
            topic_id: RwLock::new(topic_id),
            path,
            dir,
            config: RwLock::new(Arc::new(config)),
            active: RwLock::new((writer.active.clone(), writer.open.clone())),
            writer: tokio::sync::Mutex::new(writer),
            segments: RwLock::new(segments),
            epochs: RwLock::new(epochs),
            boundaries: Mutex::new(boundaries),
            aborted: RwLock::new(aborted),
            gaps_below,
            log_start_offset: AtomicI64::new(log_start_offset),
            log_end_offset: AtomicI64::new(end_offset),
            high_watermark: AtomicI64::new(UNKNOWN_OFFSET),
            durable_end: watch::Sender::new(end_offset),
            acknowledged_end: watch::Sender::new(end_offset),
            acknowledged_observer: RwLock::new(None),
            deleted: AtomicBool::new(false),
            failure: OnceLock::new(),
            flush_state: FlushState::default(),
            flush_lock: tokio::sync::Mutex::new(()),
            unsynced: Mutex::default(),
            new_names: AtomicBool::new(false),
            unflushed_since: Mutex::new(None),
            unindexed: Mutex::new(unindexed),
            checkpoints: Mutex::default(),
            checkpoint_lock: tokio::sync::Mutex::new(()),
            snapshots: Mutex::new(snapshots),
            inactive_bytes: AtomicU64::new(inactive_bytes),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Replaces everything by what recovery found after a truncation. The caller holds the writer and the flush lock.
    pub(super) fn install(&self, writer: &mut Writer<R>, recovered: Recovered<R>) {
        let Recovered { segments, writer: new, epochs, aborted, log_start_offset, unindexed, snapshots, .. } = recovered;
        let inner = &*self.inner;
        *writer = new;
        let inactive_bytes = segments.values().map(|segment| segment.size_bytes()).sum::<u64>() - writer.position;
        *inner.active.write().expect("no panic holds it") = (writer.active.clone(), writer.open.clone());
        *inner.segments.write().expect("no panic holds it") = segments;
        *inner.epochs.write().expect("no panic holds it") = epochs;
        *inner.aborted.write().expect("no panic holds it") = aborted;
        *inner.boundaries.lock().expect("no panic holds it") =
            Boundaries::new(writer.active.base_offset, Boundary { offset: writer.end_offset, position: writer.position });
        inner.unsynced.lock().expect("no panic holds it").clear();
        *inner.unindexed.lock().expect("no panic holds it") = unindexed;
        inner.checkpoints.lock().expect("no panic holds it").clear();
        inner.inactive_bytes.store(inactive_bytes, Ordering::Release);
        inner.log_start_offset.store(log_start_offset, Ordering::Release);
        inner.log_end_offset.store(writer.end_offset, Ordering::Release);
        *inner.snapshots.lock().expect("no panic holds it") = snapshots;
        inner.durable_end.send_replace(writer.end_offset);
        inner.acknowledged_end.send_replace(writer.end_offset);
    }

    /// A handle that does not keep the log alive.
    pub(super) fn downgrade(&self) -> WeakLog<R> {
        WeakLog(Arc::downgrade(&self.inner))
    }

    /// The boundary that it lives behind.
    pub fn runtime(&self) -> &R {
        &self.inner.rt
    }

    /// The partition.
    pub fn partition(&self) -> &TopicPartition {
        &self.inner.partition
    }

    /// The topic's id, as the partition's directory has it; nil if it has none.
    pub fn topic_id(&self) -> Uuid {
        *self.inner.topic_id.read().expect("no panic holds it")
    }

    /// Notes the id that the directory was given.
    pub(super) fn set_topic_id(&self, topic_id: Uuid) {
        *self.inner.topic_id.write().expect("no panic holds it") = topic_id;
    }

    /// The partition's directory.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<LogConfig> {
        self.inner.config.read().expect("no panic holds it").clone()
    }

    /// Puts another configuration in force, from the next operation on.
    pub fn reconfigure(&self, config: LogConfig) {
        *self.inner.config.write().expect("no panic holds it") = Arc::new(config);
        // `flush.messages` may have changed either way.
        self.mark_dirty();
    }

    /// Offset of the first record that is not deleted.
    pub fn log_start_offset(&self) -> i64 {
        self.inner.log_start_offset.load(Ordering::Acquire)
    }

    /// Offset after the last record written.
    pub fn log_end_offset(&self) -> i64 {
        self.inner.log_end_offset.load(Ordering::Acquire)
    }

    /// Offset after the last record on disk. A crash loses nothing below.
    pub fn durable_end_offset(&self) -> i64 {
        *self.inner.durable_end.borrow()
    }

    /// Follows [`Log::durable_end_offset`]. It goes back only when the log is truncated. It is also notified, without a new value, when
    /// the log goes offline ([`Log::check_online`] tells).
    pub fn durable_watch(&self) -> watch::Receiver<i64> {
        self.inner.durable_end.subscribe()
    }

    /// Offset below which records count as stored by this replica under its `flush.messages`: the durable end for 1, else the log end.
    pub fn acknowledged_end_offset(&self) -> i64 {
        *self.inner.acknowledged_end.borrow()
    }

    /// Calls `observer` with the acknowledged end each time it has risen, on the task that raised it: a wake-up less than
    /// [`Log::acknowledged_watch`]. It must be quick. There is one observer; another one takes its place, as
    /// another role over the same log does.
    pub fn observe_acknowledged_end(&self, observer: OffsetObserver) {
        *self.inner.acknowledged_observer.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
    }

    fn tell_observer(&self, end_offset: i64) {
        let observer = self.inner.acknowledged_observer.read().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(observer) = observer {
            observer(end_offset);
        }
    }

    /// Follows [`Log::acknowledged_end_offset`]: what this replica counts for in the high watermark. Notified as [`Log::durable_watch`].
    pub fn acknowledged_watch(&self) -> watch::Receiver<i64> {
        self.inner.acknowledged_end.subscribe()
    }

    /// The high watermark last given to [`Log::set_high_watermark`].
    pub fn high_watermark(&self) -> Option<i64> {
        Some(self.inner.high_watermark.load(Ordering::Acquire)).filter(|offset| *offset >= 0)
    }

    /// Tells the log the partition's high watermark: it is checkpointed with the others, and retention deletes nothing beyond it. Until
    /// the first call retention deletes nothing. Cheap.
    pub fn set_high_watermark(&self, offset: i64) {
        self.inner.high_watermark.store(offset, Ordering::Release);
    }

    /// What the high watermark checkpoint says: never more than is on disk. Where messages are acknowledged before they are flushed the high
    /// watermark is ahead of that; recovery would take what a power cut took for rot.
    pub(super) fn high_watermark_to_checkpoint(&self) -> Option<i64> {
        self.high_watermark().map(|offset| offset.min(self.durable_end_offset()))
    }

    /// Recovery never looks below this: everything there is on disk.
    pub(super) fn recovery_point(&self) -> i64 {
        self.durable_end_offset()
    }

    /// Bytes of all segments, written or not yet synced, without indexes.
    pub fn size_bytes(&self) -> u64 {
        let active = self.inner.active.read().expect("no panic holds it").0.size_bytes();
        self.inner.inactive_bytes.load(Ordering::Acquire) + active
    }

    /// How many segments there are.
    pub fn segment_count(&self) -> usize {
        self.inner.segments.read().expect("no panic holds it").len()
    }

    /// Base offsets of all segments, in order.
    pub fn segment_base_offsets(&self) -> Vec<i64> {
        self.inner.segments.read().expect("no panic holds it").keys().copied().collect()
    }

    /// What the partition remembers of producers, as a copy.
    pub async fn producer_states(&self) -> ProducerStates {
        self.inner.writer.lock().await.producers.clone()
    }

    /// A copy of the leader epochs.
    pub fn epochs(&self) -> EpochCache {
        self.inner.epochs.read().expect("no panic holds it").clone()
    }

    /// The newest leader epoch.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.inner.epochs.read().expect("no panic holds it").latest_epoch()
    }

    /// The leader epoch of the record at `offset`.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        self.inner.epochs.read().expect("no panic holds it").epoch_for_offset(offset)
    }

    /// The aborted transactions that a reader of committed records must know to read from `from_offset` to before `up_to_offset`.
    pub fn aborted_transactions(&self, from_offset: i64, up_to_offset: i64) -> Vec<AbortedTransaction> {
        txn_index::overlapping(&self.inner.aborted.read().expect("no panic holds it"), from_offset, up_to_offset)
    }

    /// Where to truncate to for a replica or consumer whose last epoch is `epoch`: (epoch, end offset), (−1, −1) if unknown (KIP-279;
    /// [`EpochCache::end_offset_for`]).
    pub fn end_offset_for_epoch(&self, epoch: i32) -> (i32, i64) {
        self.inner.epochs.read().expect("no panic holds it").end_offset_for(epoch, self.log_end_offset())
    }

    /// Notes that this replica leads in `epoch` from the current end on. In memory: an epoch without records needs not survive a crash, as
    /// nobody leads twice in one epoch, and one with records is found in them.
    ///
    /// # Errors
    /// If the log is offline or deleted.
    pub async fn assign_epoch_start(&self, epoch: i32) -> Result<(), LogError> {
        let writer = self.inner.writer.lock().await;
        self.check_online()?;
        self.inner.epochs.write().expect("no panic holds it").assign(epoch, writer.end_offset);
        Ok(())
    }

    /// Whether the log can be used.
    ///
    /// # Errors
    /// [`LogError::Offline`] or [`LogError::Deleted`] if not.
    pub fn check_online(&self) -> Result<(), LogError> {
        if self.inner.deleted.load(Ordering::Acquire) {
            return Err(LogError::Deleted { partition: self.inner.partition.clone() });
        }
        match self.inner.failure.get().or_else(|| self.inner.dir.failure()) {
            Some(why) => Err(LogError::Offline { partition: self.inner.partition.clone(), why: why.clone() }),
            None => Ok(()),
        }
    }

    /// Takes this partition out of service.
    pub(super) fn fail(&self, why: String) {
        tracing::error!(partition = %self.inner.partition, "offline: {why}");
        let _ = self.inner.failure.set(why.into());
        self.wake_waiters();
    }

    /// The partition's directory is going away.
    pub(super) fn mark_deleted(&self) {
        self.inner.deleted.store(true, Ordering::Release);
        self.wake_waiters();
    }

    /// Lets those who wait for an end look whether the log is still in service.
    pub(super) fn wake_waiters(&self) {
        self.inner.durable_end.send_modify(|_| {});
        self.inner.acknowledged_end.send_modify(|_| {});
    }

    /// Waits until everything written before the call is on disk; returns the durable end.
    ///
    /// # Errors
    /// If the log is offline or goes offline.
    pub async fn flush(&self) -> Result<i64, LogError> {
        let target = self.log_end_offset();
        let mut watch = self.inner.durable_end.subscribe();
        self.check_online()?;
        if *watch.borrow() < target {
            self.mark_dirty();
        }
        loop {
            let durable = *watch.borrow_and_update();
            if durable >= target {
                return Ok(durable);
            }
            self.check_online()?;
            // A truncation has lowered the end: nothing is left to wait for.
            if self.log_end_offset() < target {
                return Ok(durable);
            }
            watch.changed().await.expect("the sender lives as long as the log");
        }
    }

    /// Has the log synced soon.
    pub(super) fn mark_dirty(&self) {
        self.inner.dir.queue.mark(self);
    }

    /// The log's place in the flush queue.
    pub(super) fn flush_state(&self) -> &FlushState {
        &self.inner.flush_state
    }

    /// Held over a flush.
    pub(super) fn flush_lock(&self) -> &tokio::sync::Mutex<()> {
        &self.inner.flush_lock
    }

    /// What must be synced so that everything written by now is durable. The order of reads matters: a roll queues the old segment before
    /// it replaces the active one, so a record below the end is in one of the two.
    pub(super) fn flush_work(&self) -> FlushWork<R> {
        let end_offset = self.log_end_offset();
        let (active, open) = self.inner.active.read().expect("no panic holds it").clone();
        let mut files = Vec::new();
        for segment in std::mem::take(&mut *self.inner.unsynced.lock().expect("no panic holds it")) {
            // A segment is open until its checkpoint is written; then it was durable already.
            if let Some(open) = segment.if_open() {
                files.push((self.segment_path(segment.base_offset), open.file.clone()));
            }
        }
        files.push((self.segment_path(active.base_offset), open.file.clone()));
        FlushWork { end_offset, files }
    }

    /// A segment's file.
    pub(super) fn segment_path(&self, base_offset: i64) -> PathBuf {
        self.inner.path.join(file_name(base_offset, LOG_SUFFIX))
    }

    /// Whether files were made since the last call.
    pub(super) fn take_new_names(&self) -> bool {
        self.inner.new_names.swap(false, Ordering::AcqRel)
    }

    /// Everything below `end_offset` is on disk.
    pub(super) fn publish_durable_end(&self, end_offset: i64) {
        let inner = &*self.inner;
        let raise = |end: &mut i64| {
            let raised = *end < end_offset;
            *end = end_offset.max(*end);
            raised
        };
        inner.durable_end.send_if_modified(raise);
        if inner.acknowledged_end.send_if_modified(raise) {
            self.tell_observer(end_offset);
        }
        if end_offset >= self.log_end_offset() {
            *inner.unflushed_since.lock().expect("no panic holds it") = None;
        }
        inner.rt.event("log.durable", &[inner.trace_id, end_offset as u64]);
    }

    /// Records up to `end_offset` were written: makes them visible and has them flushed as the configuration says. `recorded` is how
    /// many they are.
    pub(super) fn publish_end(&self, writer: &mut Writer<R>, config: &LogConfig, recorded: i64) {
        let inner = &*self.inner;
        inner.log_end_offset.store(writer.end_offset, Ordering::Release);
        if config.flushes_every_message() {
            self.mark_dirty();
            return;
        }
        inner.acknowledged_end.send_replace(writer.end_offset);
        self.tell_observer(writer.end_offset);
        writer.unflushed_records = writer.unflushed_records.saturating_add(recorded);
        if writer.unflushed_records >= config.flush_messages {
            writer.unflushed_records = 0;
            self.mark_dirty();
        } else if config.flush_ms != i64::MAX {
            inner.unflushed_since.lock().expect("no panic holds it").get_or_insert_with(|| inner.rt.now());
        }
    }

    /// Flushes if the oldest unflushed record has waited for `flush.ms`.
    pub(super) fn flush_if_due(&self) {
        let config = self.config();
        let since = *self.inner.unflushed_since.lock().expect("no panic holds it");
        if since.is_some_and(|since| (self.inner.rt.now() - since).as_millis() as i64 >= config.flush_ms) {
            self.mark_dirty();
        }
    }

    /// Raises the log start offset in memory. Returns whether it rose.
    pub(super) fn raise_log_start(&self, offset: i64) -> bool {
        self.inner.log_start_offset.fetch_max(offset, Ordering::AcqRel) < offset
    }

    /// Forgets the leader epochs below a log start offset that is on disk: below one that is not, records may come back after a crash.
    pub(super) fn forget_epochs_below(&self, log_start_offset: i64) {
        self.inner.epochs.write().expect("no panic holds it").truncate_from_start(log_start_offset);
    }

    /// Sets ends back for a truncation, so that the checkpoints say no more than what will be left.
    pub(super) fn lower_ends(&self, offset: i64) {
        let lower = |end: &mut i64| {
            let lowered = *end > offset;
            *end = offset.min(*end);
            lowered
        };
        self.inner.durable_end.send_if_modified(lower);
        self.inner.acknowledged_end.send_if_modified(lower);
        self.inner.high_watermark.fetch_min(offset, Ordering::AcqRel);
    }

    /// Sets the log start offset for [`Log::truncate_fully_and_start_at`].
    pub(super) fn set_log_start(&self, offset: i64) {
        self.inner.log_start_offset.store(offset, Ordering::Release);
    }
}

impl<R: Runtime> fmt::Debug for Log<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log")
            .field("partition", &self.inner.partition)
            .field("log_start_offset", &self.log_start_offset())
            .field("durable_end_offset", &self.durable_end_offset())
            .field("log_end_offset", &self.log_end_offset())
            .finish_non_exhaustive()
    }
}
