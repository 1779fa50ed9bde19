//! One partition on this broker: its log, its leader epoch, its high watermark, and the requests that wait for it.
//!
//! The high watermark follows the log's acknowledged end: with `flush.messages=1` the *durable* end, so that nothing is acknowledged or served that a
//! power cut could take back; with any other value the written end, as in Apache Kafka.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};

use uuid::Uuid;

use crate::log::{AppendError, AppendInfo, BatchToAppend, FetchSlice, Log, LogConfig, ReadError};
use crate::purgatory::{WaitList, Waiter};
use crate::runtime::Runtime;
use crate::topic_partition::TopicPartition;

/// Why a partition does not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The request carries an older leader epoch than the partition's (KIP-320).
    #[error("the request's leader epoch {requested} is older than {current}")]
    FencedLeaderEpoch {
        /// The request's.
        requested: i32,
        /// The partition's.
        current: i32,
    },
    /// The request carries a newer leader epoch than this broker knows (KIP-320).
    #[error("the request's leader epoch {requested} is newer than {current}")]
    UnknownLeaderEpoch {
        /// The request's.
        requested: i32,
        /// The partition's.
        current: i32,
    },
    /// The partition was deleted while the request was under way.
    #[error("the partition is deleted")]
    Deleted,
}

/// A replica that this broker leads.
pub struct Partition<R: Runtime> {
    id: TopicPartition,
    topic_id: Uuid,
    log: Log<R>,
    leader_epoch: AtomicI32,
    high_watermark: AtomicI64,
    deleted: AtomicBool,
    waiting: WaitList,
}

impl<R: Runtime> Partition<R> {
    /// A partition over a recovered log. All that recovery kept is below the high watermark: with one replica, what is on
    /// disk is what there is.
    pub fn new(id: TopicPartition, topic_id: Uuid, log: Log<R>, leader_epoch: i32) -> Arc<Self> {
        let partition = Arc::new(Self {
            id,
            topic_id,
            leader_epoch: AtomicI32::new(leader_epoch),
            high_watermark: AtomicI64::new(log.log_start_offset()),
            deleted: AtomicBool::new(false),
            waiting: WaitList::default(),
            log,
        });
        let observer = Arc::downgrade(&partition);
        partition.log.observe_acknowledged_end(Box::new(move |end| {
            if let Some(partition) = observer.upgrade() {
                partition.advance_high_watermark(end);
            }
        }));
        partition.advance_high_watermark(partition.log.acknowledged_end_offset());
        partition
    }

    /// Its name.
    pub fn id(&self) -> &TopicPartition {
        &self.id
    }

    /// The id of its topic (KIP-516).
    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    /// Its log.
    pub fn log(&self) -> &Log<R> {
        &self.log
    }

    /// The epoch in which this broker leads it.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch.load(Ordering::Acquire)
    }

    /// The offset up to which records are committed: what consumers may read. Never goes back.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::SeqCst)
    }

    /// Requests waiting for its high watermark.
    pub fn waiting_count(&self) -> usize {
        self.waiting.waiting_count()
    }

    /// Checks the leader epoch that a request carries; −1 means that it carries none (KIP-320).
    ///
    /// # Errors
    /// If it is not this partition's current epoch.
    pub fn check_leader_epoch(&self, requested: i32) -> Result<(), PartitionError> {
        let current = self.leader_epoch();
        if self.is_deleted() {
            Err(PartitionError::Deleted)
        } else if requested < 0 || requested == current {
            Ok(())
        } else if requested < current {
            Err(PartitionError::FencedLeaderEpoch { requested, current })
        } else {
            Err(PartitionError::UnknownLeaderEpoch { requested, current })
        }
    }

    /// Appends as leader. The records are committed once [`Partition::high_watermark`] has passed them.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub async fn append(&self, batches: &[BatchToAppend]) -> Result<AppendInfo, AppendError> {
        self.log.append_as_leader(batches, self.leader_epoch()).await
    }

    /// Reads committed records.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_committed(&self, from_offset: i64, max_bytes: usize, min_one_batch: bool) -> Result<FetchSlice<R>, ReadError> {
        self.log.read(from_offset, max_bytes, self.high_watermark(), min_one_batch).await
    }

    /// Waits until everything before `end_offset` is committed, or the partition is deleted. May be dropped.
    ///
    /// # Errors
    /// [`PartitionError::Deleted`].
    pub async fn committed(&self, end_offset: i64) -> Result<(), PartitionError> {
        struct Registered<'a, R: Runtime>(&'a Partition<R>, Arc<Waiter>);
        impl<R: Runtime> Drop for Registered<'_, R> {
            fn drop(&mut self) {
                self.0.forget(&self.1);
            }
        }
        let reached = || self.high_watermark() >= end_offset;
        if reached() && !self.is_deleted() {
            return Ok(());
        }
        let registered = Registered(self, Waiter::new());
        loop {
            self.wake_at(end_offset, &registered.1);
            if self.is_deleted() {
                return Err(PartitionError::Deleted);
            }
            if reached() {
                return Ok(());
            }
            registered.1.woken().await;
        }
    }

    /// Wakes `waiter` once the high watermark is at least `offset`; look again after registering.
    pub fn wake_at(&self, offset: i64, waiter: &Arc<Waiter>) {
        self.waiting.register(offset, waiter);
    }

    /// Forgets `waiter`.
    pub fn forget(&self, waiter: &Arc<Waiter>) {
        self.waiting.forget(waiter);
    }

    /// Wakes all who wait for the high watermark: something else than it has changed for them.
    pub fn wake_waiting(&self) {
        self.waiting.wake_all();
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&self, config: LogConfig) {
        self.log.reconfigure(config);
        self.advance_high_watermark(self.log.acknowledged_end_offset());
    }

    /// Takes a new leader epoch.
    pub fn set_leader_epoch(&self, epoch: i32) {
        let before = self.leader_epoch.fetch_max(epoch, Ordering::AcqRel);
        if before < epoch {
            self.waiting.wake_all();
        }
    }

    /// Ends all waiting: the topic is deleted.
    pub fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::SeqCst);
        self.waiting.wake_all();
    }

    /// Ends all waiting: this broker leads the partition no more. Its log stays; if it leads again, that is another [`Partition`] over the same log.
    pub fn resign(&self) {
        self.mark_deleted();
    }

    /// Whether the topic is deleted, or led elsewhere.
    pub fn is_deleted(&self) -> bool {
        self.deleted.load(Ordering::SeqCst)
    }

    fn advance_high_watermark(&self, to: i64) {
        let before = self.high_watermark.fetch_max(to, Ordering::SeqCst);
        if before < to {
            self.log.set_high_watermark(to);
            self.waiting.reached(to);
        }
    }
}
