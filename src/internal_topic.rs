//! What `__consumer_offsets` and `__transaction_state` have in common: a coordinator's state is a replicated log, and the leader of a
//! partition of that log is the coordinator of what is in it.
//!
//! - [`InternalLog`] is one leadership of one partition, as narrow as a coordinator needs it. The broker binds it to its partitions;
//!   tests to memory.
//! - [`load`] replays such a log from its start to its end. To its *end*, not to the high watermark, which at a new leader may be behind
//!   what the old one answered; and it returns only when all of it is committed, so that nothing is served that could be taken back.
//! - [`InternalWriter`] queues records, appends them in order, many at once while a commit is under way (group commit), and reports each
//!   when it is committed. One leadership's appends end with it: after the first sign that it is over nothing is reported as done.

#[cfg(test)]
pub(crate) mod manual;
#[cfg(test)]
pub(crate) mod memory;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes};
use thiserror::Error;
use tokio::sync::Notify;

use crate::record::batch::{BatchError, Header};
use crate::record::builder::BatchBuilder;
use crate::record::records::{RecordError, records};
use crate::runtime::{Instant, Runtime, Timer};

/// How much is read at a time while loading.
const READ_BYTES: usize = 1 << 20;
/// The most that one batch may decompress to while loading.
const BATCH_BYTES_MAX: usize = 256 << 20;
/// What a record takes in a batch besides key and value, at most.
const RECORD_OVERHEAD_BYTES: usize = 32;

/// One leadership of one partition of an internal topic: all calls are fenced by its leader epoch. Once it has ended, they fail with
/// [`InternalLogError::NotLeader`] for ever.
pub trait InternalLog: Send + Sync + 'static {
    /// The log start offset.
    fn start_offset(&self) -> i64;

    /// The log end offset: after the last record, committed or not.
    fn end_offset(&self) -> i64;

    /// Reads whole batches, in order, from the one that holds `from_offset` or the first after it; about `max_bytes`, but at least one.
    /// Empty only at the end of the log.
    ///
    /// # Errors
    /// [`InternalLogError::Storage`], [`InternalLogError::NotLeader`].
    fn read(&self, from_offset: i64, max_bytes: usize) -> impl Future<Output = Result<Bytes, InternalLogError>> + Send;

    /// Appends one batch, as if produced with `acks=all`. Returns the offset after its last record once it is in the leader's log.
    ///
    /// # Errors
    /// [`InternalLogError::NotEnoughReplicas`] and [`InternalLogError::TooLarge`] say that nothing was appended; the others leave it open.
    fn append(&self, batch: Bytes) -> impl Future<Output = Result<i64, InternalLogError>> + Send;

    /// Waits until everything before `end_offset` is committed: the high watermark is there, and with it everything durable.
    ///
    /// # Errors
    /// [`InternalLogError::NotLeader`] if the leadership ends first.
    fn committed(&self, end_offset: i64) -> impl Future<Output = Result<(), InternalLogError>> + Send;
}

/// Why an internal log did not do it.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum InternalLogError {
    /// This broker does not lead the partition any more, or leads it in a later epoch.
    #[error("this broker no longer leads the partition in this epoch")]
    NotLeader,
    /// Fewer in-sync replicas than `min.insync.replicas`.
    #[error("there are fewer in-sync replicas than min.insync.replicas; bring brokers back or lower it")]
    NotEnoughReplicas,
    /// The batch is larger than the topic takes.
    #[error("a batch of {batch_bytes} bytes is larger than the topic's max.message.bytes")]
    TooLarge {
        /// Its size.
        batch_bytes: usize,
    },
    /// The log directory failed.
    #[error("the partition's log failed: {reason}")]
    Storage {
        /// How.
        reason: String,
    },
}

/// Why a log could not be loaded.
#[derive(Clone, Debug, Error)]
pub enum LoadError {
    /// Reading failed.
    #[error("at offset {offset}: {source}")]
    Log {
        /// From where.
        offset: i64,
        /// Why.
        source: InternalLogError,
    },
    /// A batch is not one.
    #[error("the batch at or after offset {offset}: {source}")]
    Batch {
        /// From where.
        offset: i64,
        /// Why.
        source: BatchError,
    },
    /// A record is not one.
    #[error("a record of the batch at offset {offset}: {source}")]
    Record {
        /// The batch's base offset.
        offset: i64,
        /// Why.
        source: RecordError,
    },
    /// The log ended before its end.
    #[error("nothing to read at offset {offset}, although the log ends at {end_offset}")]
    Gap {
        /// Where reading found nothing.
        offset: i64,
        /// The log end offset.
        end_offset: i64,
    },
    /// The coordinator does not understand the record.
    #[error("the record at offset {offset}: {reason}")]
    Content {
        /// Its offset.
        offset: i64,
        /// Why.
        reason: String,
    },
}

/// What [`load`] finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// A record. Key and value are slices of a whole read; copy out what stays.
    Record {
        /// Its offset.
        offset: i64,
        /// Its key.
        key: Bytes,
        /// Its value; `None` is a tombstone.
        value: Option<Bytes>,
        /// The transaction's producer id if it is part of one, which a marker ends.
        transaction: Option<i64>,
    },
    /// The end of a producer's transaction.
    Marker {
        /// The producer id.
        producer_id: i64,
        /// Whether it was committed, else aborted.
        committed: bool,
    },
}

/// Replays a log from its start to its end, then waits until that end is committed. Records without a key are passed over: they mean
/// nothing in a compacted topic. Returns the end.
///
/// # Errors
/// Any [`LoadError`]; `each` tells its own as text.
pub async fn load<L: InternalLog>(log: &L, mut each: impl FnMut(Loaded) -> Result<(), String> + Send) -> Result<i64, LoadError> {
    let end_offset = log.end_offset();
    let mut offset = log.start_offset();
    while offset < end_offset {
        let mut bytes = log.read(offset, READ_BYTES).await.map_err(|source| LoadError::Log { offset, source })?;
        if bytes.is_empty() {
            return Err(LoadError::Gap { offset, end_offset });
        }
        while !bytes.is_empty() {
            let header = Header::whole(&bytes).map_err(|source| LoadError::Batch { offset, source })?;
            let batch = bytes.split_to(header.size_in_bytes());
            if header.next_offset() > offset {
                load_batch(&header, &batch, offset, &mut each)?;
                offset = header.next_offset();
            }
        }
    }
    log.committed(end_offset).await.map_err(|source| LoadError::Log { offset: end_offset, source })?;
    Ok(end_offset)
}

fn load_batch(header: &Header, batch: &Bytes, from_offset: i64, each: &mut impl FnMut(Loaded) -> Result<(), String>) -> Result<(), LoadError> {
    let bad = |source| LoadError::Record { offset: header.base_offset, source };
    let transaction = header.is_transactional().then_some(header.producer_id);
    for record in records(batch, BATCH_BYTES_MAX).map_err(bad)? {
        let record = record.map_err(bad)?;
        let offset = record.offset;
        let Some(key) = record.key.filter(|_| offset >= from_offset) else { continue };
        let loaded = if header.is_control() {
            match marker(&key) {
                Some(committed) => Loaded::Marker { producer_id: header.producer_id, committed },
                None => continue,
            }
        } else {
            Loaded::Record { offset, key, value: record.value, transaction }
        };
        each(loaded).map_err(|reason| LoadError::Content { offset, reason })?;
    }
    Ok(())
}

/// Whether a control record commits; `None` if it is of a kind that does not end a transaction.
fn marker(mut key: &[u8]) -> Option<bool> {
    let _version = key.try_get_i16().ok()?;
    match key.try_get_i16().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// A key and its value; no value is a tombstone.
pub type KeyValue = (Bytes, Option<Bytes>);

/// How an append went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is committed. Appends are committed in order.
    Committed,
    /// It is in the log or on its way there, and not committed in time. One of the others follows, unless the leadership ends.
    Overdue,
    /// It is not in the log and never will be.
    Failed(InternalLogError),
    /// The leadership is over. What was under way may or may not be in the log; this and everything after it is for the next leader
    /// to find.
    Fenced(InternalLogError),
}

/// Why records were not taken.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum QueueError {
    /// Too much is waiting already.
    #[error("too much is waiting for the partition's log")]
    Full,
    /// The leadership is over.
    #[error("this broker no longer leads the partition")]
    Closed,
}

/// Limits of an [`InternalWriter`].
#[derive(Clone, Copy, Debug)]
pub struct WriterConfig {
    /// What is appended as one batch at most, unless one record alone is larger.
    pub batch_bytes_max: usize,
    /// What may wait in the queue.
    pub queue_bytes_max: usize,
    /// After which an append is reported as overdue.
    pub timeout: Duration,
}

struct Entry<T> {
    tag: T,
    records: Vec<KeyValue>,
    size_bytes: usize,
    deadline: Instant,
}

struct Queue<T> {
    entries: VecDeque<Entry<T>>,
    size_bytes: usize,
    closed: bool,
}

/// The one way into a partition of an internal topic. Clones are the same queue. `T` is how the caller knows its appends again.
pub struct InternalWriter<T> {
    shared: Arc<WriterShared<T>>,
}

struct WriterShared<T> {
    config: WriterConfig,
    queue: Mutex<Queue<T>>,
    changed: Notify,
}

impl<T> Clone for InternalWriter<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Send + Sync> InternalWriter<T> {
    /// A queue that nobody serves yet: spawn [`InternalWriter::run`].
    pub fn new(config: WriterConfig) -> Self {
        let queue = Queue { entries: VecDeque::new(), size_bytes: 0, closed: false };
        Self { shared: Arc::new(WriterShared { config, queue: Mutex::new(queue), changed: Notify::new() }) }
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues records, which are appended after all that was queued before; in one batch if they fit one. Does not wait.
    ///
    /// # Errors
    /// [`QueueError`]; the records are then not taken and nothing is reported for them.
    pub fn enqueue(&self, tag: T, records: Vec<KeyValue>, now: Instant) -> Result<(), QueueError> {
        assert!(!records.is_empty(), "an append has records");
        let size_bytes = records.iter().map(|(key, value)| key.len() + value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD_BYTES).sum();
        let mut queue = self.queue();
        if queue.closed {
            return Err(QueueError::Closed);
        }
        if queue.size_bytes + size_bytes > self.shared.config.queue_bytes_max && !queue.entries.is_empty() {
            return Err(QueueError::Full);
        }
        queue.size_bytes += size_bytes;
        queue.entries.push_back(Entry { tag, records, size_bytes, deadline: now + self.shared.config.timeout });
        drop(queue);
        self.shared.changed.notify_one();
        Ok(())
    }

    /// Ends [`InternalWriter::run`] and drops what waits, unreported.
    pub fn close(&self) {
        let mut queue = self.queue();
        queue.closed = true;
        let dropped = std::mem::take(&mut queue.entries);
        queue.size_bytes = 0;
        drop(queue);
        // Tags may hold what their owner locks; let none go under the queue's lock.
        drop(dropped);
        self.shared.changed.notify_one();
    }

    /// The next entries to append as one batch. `None` if closed, empty if there is nothing.
    fn take(&self) -> Option<Vec<Entry<T>>> {
        let mut queue = self.queue();
        if queue.closed {
            return None;
        }
        let mut taken = Vec::new();
        let mut taken_bytes = 0;
        while let Some(entry) = queue.entries.front() {
            if !taken.is_empty() && taken_bytes + entry.size_bytes > self.shared.config.batch_bytes_max {
                break;
            }
            taken_bytes += entry.size_bytes;
            taken.extend(queue.entries.pop_front());
        }
        queue.size_bytes -= taken_bytes;
        Some(taken)
    }

    /// The queued entries whose time is up.
    fn take_overdue(&self, now: Instant) -> Vec<Entry<T>> {
        let mut queue = self.queue();
        let mut overdue = Vec::new();
        while queue.entries.front().is_some_and(|entry| entry.deadline <= now) {
            overdue.extend(queue.entries.pop_front());
        }
        queue.size_bytes -= overdue.iter().map(|entry| entry.size_bytes).sum::<usize>();
        overdue
    }

    fn is_closed(&self) -> bool {
        self.queue().closed
    }

    /// Serves the queue until it is closed or the leadership ends; `report` is called for every entry in order, never under a lock.
    /// Never call it twice.
    pub async fn run<R: Runtime, L: InternalLog>(&self, rt: &R, log: &L, report: impl Fn(&T, Appended)) {
        loop {
            let Some(entries) = self.take() else { return };
            if entries.is_empty() {
                self.shared.changed.notified().await;
                continue;
            }
            match self.append(rt, log, &entries, &report).await {
                Ok(true) => entries.iter().for_each(|entry| report(&entry.tag, Appended::Committed)),
                Ok(false) => return,
                // One of them is too large for the topic; the others are not to blame.
                Err(InternalLogError::TooLarge { .. }) if entries.len() > 1 => {
                    for entry in entries {
                        match self.append(rt, log, std::slice::from_ref(&entry), &report).await {
                            Ok(true) => report(&entry.tag, Appended::Committed),
                            Ok(false) => return,
                            Err(error @ (InternalLogError::TooLarge { .. } | InternalLogError::NotEnoughReplicas)) => {
                                report(&entry.tag, Appended::Failed(error));
                            }
                            Err(error) => return self.fence(&[entry], &error, &report),
                        }
                    }
                }
                Err(error @ (InternalLogError::TooLarge { .. } | InternalLogError::NotEnoughReplicas)) => {
                    entries.iter().for_each(|entry| report(&entry.tag, Appended::Failed(error.clone())));
                }
                Err(error) => return self.fence(&entries, &error, &report),
            }
        }
    }

    fn fence(&self, entries: &[Entry<T>], error: &InternalLogError, report: &impl Fn(&T, Appended)) {
        let waiting = std::mem::take(&mut self.queue().entries);
        self.close();
        entries.iter().chain(&waiting).for_each(|entry| report(&entry.tag, Appended::Fenced(error.clone())));
    }

    /// Appends the entries as one batch and waits until it is committed; `false` if closed meanwhile. Reports what is overdue.
    async fn append<R: Runtime, L: InternalLog>(
        &self,
        rt: &R,
        log: &L,
        entries: &[Entry<T>],
        report: &impl Fn(&T, Appended),
    ) -> Result<bool, InternalLogError> {
        let mut overdue_count = 0;
        let mut end_offset = 0;
        // An append itself runs to its end even if the queue is closed: a log may have to repair itself after one that was dropped.
        for batch in self.batches(entries, rt.unix_ms()) {
            let appended = self.while_reporting(rt, entries, &mut overdue_count, report, log.append(batch), pending()).await;
            end_offset = appended.expect("it is never given up")?;
        }
        let closed = async {
            while !self.is_closed() {
                self.shared.changed.notified().await;
            }
        };
        match self.while_reporting(rt, entries, &mut overdue_count, report, log.committed(end_offset), closed).await {
            Some(result) => result.map(|()| true),
            None => Ok(false),
        }
    }

    /// The entries' records as batches: one, unless a single entry is larger than a batch should be. Then it is not all or nothing: an
    /// error may leave its beginning in the log, which its owner must be able to live with.
    fn batches(&self, entries: &[Entry<T>], timestamp_ms: i64) -> Vec<Bytes> {
        let mut batches = Vec::new();
        let mut batch = BatchBuilder::new();
        for (key, value) in entries.iter().flat_map(|entry| &entry.records) {
            let record_bytes = key.len() + value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD_BYTES;
            if !batch.is_empty() && batch.size_bytes() + record_bytes > self.shared.config.batch_bytes_max {
                batches.push(batch.build());
                batch = BatchBuilder::new();
            }
            batch.push(timestamp_ms, Some(key), value.as_deref(), &[]);
        }
        batches.push(batch.build());
        batches
    }

    /// Waits for `work` or for `stop`, and meanwhile reports entries whose time is up: those under way as overdue, those that still
    /// wait in the queue as failed.
    async fn while_reporting<R: Runtime, O>(
        &self,
        rt: &R,
        entries: &[Entry<T>],
        overdue_count: &mut usize,
        report: &impl Fn(&T, Appended),
        work: impl Future<Output = O>,
        stop: impl Future<Output = ()>,
    ) -> Option<O> {
        let (mut work, mut stop) = (pin!(work), pin!(stop));
        let mut timer = None;
        loop {
            // All entries have the same time-out, so deadlines come in order, and whatever is queued later is due later than a whole time-out from now.
            let under_way = entries.get(*overdue_count).map(|entry| entry.deadline);
            let queued = self.queue().entries.front().map(|entry| entry.deadline);
            let deadline = under_way.into_iter().chain(queued).min().unwrap_or(rt.now() + self.shared.config.timeout);
            let timer = match &mut timer {
                None => timer.insert(rt.timer(deadline)),
                Some(timer) => {
                    timer.reset(deadline);
                    timer
                }
            };
            tokio::select! {
                biased;
                output = &mut work => return Some(output),
                () = &mut stop => return None,
                () = timer => {}
            }
            let now = rt.now();
            while let Some(entry) = entries.get(*overdue_count).filter(|entry| entry.deadline <= now) {
                *overdue_count += 1;
                report(&entry.tag, Appended::Overdue);
            }
            for entry in self.take_overdue(now) {
                report(&entry.tag, Appended::Failed(InternalLogError::NotEnoughReplicas));
            }
        }
    }
}
