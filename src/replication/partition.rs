//! One partition on this broker: its log, its role, its high watermark, and the requests that wait for it.
//!
//! Alone, a replica leads and its high watermark follows the log's acknowledged end: with `flush.messages=1` the *durable* end, so that nothing is acknowledged or
//! served that a power cut could take back; with any other value the written end, as in Apache Kafka. With followers the pure [`Leader`] decides it; as a follower
//! the pure [`Follower`] says what is done to the log. Here is what both share: the log, the locks, who is woken.
//!
//! A role changes while nobody appends: appends hold `turn` shared, a change of role holds it alone. Short looks at the role take its mutex, and high watermarks are
//! published under it, so that none of an earlier role comes late.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{RwLock, mpsc};
use uuid::Uuid;

use super::follower::{FetchAt, Follower, LogFacts, Step, Told};
use super::leader::{Committed, Effects, FollowerError, FollowerFetch, Leader, Leadership, Outcome, Plants, Proposal};
use super::order::{Obeyed, PartitionOrder, Verdict, judge};
use crate::log::{AppendError, AppendInfo, BatchToAppend, FetchSlice, Log, LogConfig, LogError, ReadError};
use crate::plant;
use crate::purgatory::{WaitList, Waiter};
use crate::record::batch::Header;
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
    /// This broker does not lead the partition, or not any more.
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// The partition was deleted while the request was under way.
    #[error("the partition is deleted")]
    Deleted,
}

/// Why nothing was appended as leader.
#[derive(Debug, thiserror::Error)]
pub enum PartitionAppendError {
    /// This broker does not lead the partition.
    #[error("this broker does not lead the partition")]
    NotLeader,
    /// The log refused.
    #[error(transparent)]
    Append(#[from] AppendError),
}

/// Why what a leader sent could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The bytes are no batches, or fail their checksums.
    #[error("the leader's records are damaged: {reason}")]
    Damaged {
        /// What is wrong.
        reason: String,
    },
    /// They do not fit the log.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log cannot be changed.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// What the fetcher does next with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// Records were appended: flush before the next fetch says that they are here.
    Flush,
    /// Fetch on.
    Fetch,
    /// Ask where the leader's log starts and ends.
    AskOffsets,
    /// Fetch on after `replica.fetch.backoff.ms`.
    BackOff,
    /// Nothing, until another role is given.
    Stop,
}

/// A proposal for the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrProposal {
    /// Whose in-sync replicas.
    pub partition: TopicPartition,
    /// The topic's id.
    pub topic_id: Uuid,
    /// Which.
    pub proposal: Proposal,
}

/// What replicas with followers must know besides orders.
#[derive(Clone, Debug)]
pub struct ReplicaRules {
    /// This broker.
    pub broker_id: i32,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// Where proposals go.
    pub proposals: Proposals,
}

/// The way of proposals to whoever carries them to the controller. Clones are the same way.
#[derive(Clone, Debug)]
pub struct Proposals(Arc<Mutex<mpsc::UnboundedSender<IsrProposal>>>);

impl Default for Proposals {
    /// One that nobody listens to yet.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(mpsc::unbounded_channel().0)))
    }
}

impl Proposals {
    /// Leads proposals to whoever asked last; who asked before is told that no more will come.
    pub fn take(&self) -> mpsc::UnboundedReceiver<IsrProposal> {
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sender;
        receiver
    }

    fn send(&self, proposal: IsrProposal) {
        // Nobody listens once the broker stops.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send(proposal);
    }
}

enum Role {
    /// The only replica: it leads, and what is stored is committed.
    Alone,
    /// It leads others.
    Leader(Box<Leader>),
    /// It follows.
    Follower(Follower),
    /// Nobody leads, or no order has come yet.
    None,
}

/// A replica on this broker.
pub struct Partition<R: Runtime> {
    id: TopicPartition,
    topic_id: Uuid,
    log: Log<R>,
    leader_epoch: AtomicI32,
    partition_epoch: AtomicI32,
    high_watermark: AtomicI64,
    /// The high watermark is told to clients from here on: where the leader's epoch starts.
    proven_from: AtomicI64,
    min_isr: AtomicI32,
    deleted: AtomicBool,
    /// The role in two words, for looks without the lock.
    alone: AtomicBool,
    leads: AtomicBool,
    role: Mutex<Role>,
    turn: RwLock<()>,
    /// Held while a leader's answer is taken: two fetchers may have asked, one for the other's successor.
    following: tokio::sync::Mutex<()>,
    rules: ReplicaRules,
    /// Those who wait for the high watermark, for the leader's own disk, for the log end.
    waiting: WaitList,
    stored: WaitList,
    appended: WaitList,
    /// Those who wait until no replica's log starts earlier.
    starts: WaitList,
}

impl<R: Runtime> Partition<R> {
    /// The only replica, over a recovered log. All that recovery kept is below the high watermark: with one replica, what is on
    /// disk is what there is.
    pub fn new(id: TopicPartition, topic_id: Uuid, log: Log<R>, leader_epoch: i32, rules: ReplicaRules) -> Arc<Self> {
        let high_watermark = log.log_start_offset();
        let partition = Self::build(id, topic_id, log, leader_epoch, high_watermark, Role::Alone, rules);
        partition.advance_high_watermark(partition.log.acknowledged_end_offset());
        partition
    }

    /// One of several replicas, or one that may get others, over a recovered log: without a role until [`Partition::obey`] gives one. `high_watermark` is what the
    /// last life checkpointed.
    pub fn standing(id: TopicPartition, topic_id: Uuid, log: Log<R>, high_watermark: i64, rules: ReplicaRules) -> Arc<Self> {
        let high_watermark = high_watermark.clamp(log.log_start_offset(), log.log_end_offset());
        let partition = Self::build(id, topic_id, log, -1, high_watermark, Role::None, rules);
        partition.log.set_high_watermark(high_watermark);
        partition
    }

    fn build(id: TopicPartition, topic_id: Uuid, log: Log<R>, leader_epoch: i32, high_watermark: i64, role: Role, rules: ReplicaRules) -> Arc<Self> {
        let is_alone = matches!(role, Role::Alone);
        let partition = Arc::new(Self {
            id,
            topic_id,
            leader_epoch: AtomicI32::new(leader_epoch),
            partition_epoch: AtomicI32::new(-1),
            high_watermark: AtomicI64::new(high_watermark),
            proven_from: AtomicI64::new(0),
            min_isr: AtomicI32::new(1),
            deleted: AtomicBool::new(false),
            alone: AtomicBool::new(is_alone),
            leads: AtomicBool::new(is_alone),
            role: Mutex::new(role),
            turn: RwLock::new(()),
            following: tokio::sync::Mutex::new(()),
            rules,
            waiting: WaitList::default(),
            stored: WaitList::default(),
            starts: WaitList::default(),
            appended: WaitList::default(),
            log,
        });
        let observer = Arc::downgrade(&partition);
        partition.log.observe_acknowledged_end(Arc::new(move |end| {
            if let Some(partition) = observer.upgrade() {
                partition.on_stored(end);
            }
        }));
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

    /// The epoch of its leader, as this broker knows it; −1 before any order.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch.load(Ordering::Acquire)
    }

    /// Whether this broker leads it.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Acquire)
    }

    /// Whether it is the only replica: what is stored is committed.
    pub fn is_alone(&self) -> bool {
        self.alone.load(Ordering::Acquire)
    }

    /// The offset up to which records are committed: what consumers may read. Goes back only when an unclean election took what was committed.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark.load(Ordering::SeqCst)
    }

    /// The high watermark as clients may be told it: `None` while an earlier leader may have told a greater one (P12, KIP-207).
    pub fn proven_high_watermark(&self) -> Option<i64> {
        let high_watermark = self.high_watermark();
        (high_watermark >= self.proven_from.load(Ordering::Acquire) || plant!(self.log.runtime(), "unproven-high-watermark")).then_some(high_watermark)
    }

    /// How many replicas are in sync; `None` for one that leads nobody.
    pub fn in_sync_count(&self) -> Option<usize> {
        match &*self.role() {
            Role::Leader(leader) => Some(leader.isr().len()),
            _ => None,
        }
    }

    /// Whether enough replicas are in sync for `acks=all`; always so for the only one.
    pub fn has_enough_replicas(&self) -> bool {
        match &*self.role() {
            Role::Leader(leader) => leader.has_enough_replicas(),
            _ => true,
        }
    }

    /// The in-sync replicas as the leader knows them; `None` elsewhere.
    pub fn in_sync_replicas(&self) -> Option<Vec<i32>> {
        match &*self.role() {
            Role::Leader(leader) => Some(leader.isr().iter().copied().collect()),
            _ => None,
        }
    }

    /// Whom it follows, if it does.
    pub fn follows(&self) -> Option<i32> {
        match &*self.role() {
            Role::Follower(follower) => Some(follower.leader()),
            _ => None,
        }
    }

    /// Requests waiting for its high watermark.
    pub fn waiting_count(&self) -> usize {
        self.waiting.waiting_count()
    }

    fn role(&self) -> MutexGuard<'_, Role> {
        self.role.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks the leader epoch that a request carries, −1 means that it carries none (KIP-320), and that this broker leads.
    ///
    /// # Errors
    /// If it is not this partition's current epoch.
    pub fn check_leader_epoch(&self, requested: i32) -> Result<(), PartitionError> {
        let current = self.leader_epoch();
        if self.is_deleted() {
            Err(PartitionError::Deleted)
        } else if requested >= 0 && requested < current {
            Err(PartitionError::FencedLeaderEpoch { requested, current })
        } else if requested > current {
            Err(PartitionError::UnknownLeaderEpoch { requested, current })
        } else if self.leads() {
            Ok(())
        } else {
            Err(PartitionError::NotLeader)
        }
    }

    /// Checks the leader epoch that a consumer's fetch carries, and that this replica may answer it: as leader, or as follower of a consumer in its rack (KIP-392).
    ///
    /// # Errors
    /// If it is not this partition's current epoch, or this replica has no role.
    pub fn check_reader_epoch(&self, requested: i32) -> Result<(), PartitionError> {
        match self.check_leader_epoch(requested) {
            Err(PartitionError::NotLeader) if self.follows().is_some() => Ok(()),
            checked => checked,
        }
    }

    /// The in-sync followers that have what is before `offset` and the record at it, if there is one: whom a consumer may read from instead.
    pub fn followers_at(&self, offset: i64) -> Vec<i32> {
        match &*self.role() {
            Role::Leader(leader) => leader.in_sync_followers_at(offset),
            _ => Vec::new(),
        }
    }

    /// Appends as leader. The records are committed once [`Partition::high_watermark`] has passed them.
    ///
    /// # Errors
    /// See [`PartitionAppendError`].
    pub async fn append(&self, batches: &[BatchToAppend]) -> Result<AppendInfo, PartitionAppendError> {
        let _turn = self.turn.read().await;
        if !self.leads() {
            return Err(PartitionAppendError::NotLeader);
        }
        let info = self.log.append_as_leader(batches, self.leader_epoch()).await?;
        if !self.is_alone() {
            self.appended.reached(self.log.log_end_offset());
        }
        Ok(info)
    }

    /// Reads committed records.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_committed(&self, from_offset: i64, max_bytes: usize, min_one_batch: bool) -> Result<FetchSlice<R>, ReadError> {
        self.log.read(from_offset, max_bytes, self.high_watermark(), min_one_batch).await
    }

    /// Reads all records, for a follower.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub async fn read_written(&self, from_offset: i64, max_bytes: usize, min_one_batch: bool) -> Result<FetchSlice<R>, ReadError> {
        self.log.read(from_offset, max_bytes, self.log.log_end_offset(), min_one_batch).await
    }

    /// Waits until everything before `end_offset` is committed, or the partition is deleted, or no longer led in this epoch. May be dropped.
    ///
    /// # Errors
    /// [`PartitionError::Deleted`], [`PartitionError::NotLeader`].
    pub async fn committed(&self, end_offset: i64) -> Result<(), PartitionError> {
        let epoch = self.leader_epoch();
        let reached = || self.high_watermark() >= end_offset;
        if reached() && !self.is_deleted() && self.leads_in(epoch) {
            return Ok(());
        }
        let registered = Registered(self, Waiter::new());
        loop {
            self.wake_at(end_offset, &registered.1);
            if self.is_deleted() {
                return Err(PartitionError::Deleted);
            }
            let is_reached = reached();
            if !self.leads_in(epoch) {
                return Err(PartitionError::NotLeader);
            }
            if is_reached {
                return Ok(());
            }
            registered.1.woken().await;
        }
    }

    /// Waits until no log of a replica that is there starts before `offset`, so that nothing deleted comes back with another leader (KIP-107); the low watermark
    /// then. May be dropped.
    ///
    /// # Errors
    /// [`PartitionError::Deleted`], [`PartitionError::NotLeader`].
    pub async fn deleted_everywhere(&self, offset: i64) -> Result<i64, PartitionError> {
        let registered = Registered(self, Waiter::new());
        loop {
            self.starts.register(offset, &registered.1);
            if self.is_deleted() {
                return Err(PartitionError::Deleted);
            }
            if !self.leads() {
                return Err(PartitionError::NotLeader);
            }
            let low_watermark = match &*self.role() {
                Role::Leader(leader) => leader.low_watermark(self.log.log_start_offset()),
                _ => self.log.log_start_offset(),
            };
            if low_watermark >= offset || plant!(self.log.runtime(), "records-deleted-on-the-leader-alone") {
                return Ok(low_watermark);
            }
            registered.1.woken().await;
        }
    }

    /// The caller holds the role.
    fn followers_start(&self, leader: &Leader) {
        if self.starts.waiting_count() > 0 {
            self.starts.reached(leader.low_watermark(self.log.log_start_offset()));
        }
    }

    /// Whether what was appended in `epoch` is still what this leader's log has: nobody else has led since, or nobody else can.
    pub fn leads_in(&self, epoch: i32) -> bool {
        self.is_alone() || (self.leads() && self.leader_epoch() == epoch)
    }

    /// Whether what was appended before `end_offset` is committed as `acks=all` understands it.
    pub fn committed_by_all(&self, end_offset: i64) -> Committed {
        if let Role::Leader(leader) = &*self.role() {
            return leader.committed(end_offset);
        }
        if self.high_watermark() >= end_offset { Committed::Yes } else { Committed::NotYet }
    }

    /// Wakes `waiter` once the high watermark is at least `offset`; look again after registering.
    pub fn wake_at(&self, offset: i64, waiter: &Arc<Waiter>) {
        self.waiting.register(offset, waiter);
    }

    /// Wakes `waiter` once this replica alone has stored everything before `offset`; look again after registering.
    pub fn wake_when_stored(&self, offset: i64, waiter: &Arc<Waiter>) {
        self.stored.register(offset, waiter);
    }

    /// Wakes `waiter` once the log ends at `offset` or later; look again after registering.
    pub fn wake_when_appended(&self, offset: i64, waiter: &Arc<Waiter>) {
        self.appended.register(offset, waiter);
    }

    /// Forgets `waiter`.
    pub fn forget(&self, waiter: &Arc<Waiter>) {
        self.waiting.forget(waiter);
        self.stored.forget(waiter);
        self.starts.forget(waiter);
        self.appended.forget(waiter);
    }

    /// Wakes all who wait: something else than what they wait for has changed for them.
    pub fn wake_waiting(&self) {
        self.waiting.wake_all();
        self.stored.wake_all();
        self.starts.wake_all();
        self.appended.wake_all();
    }

    /// Applies a changed configuration.
    pub fn reconfigure(&self, config: LogConfig) {
        self.log.reconfigure(config);
        if self.is_alone() {
            self.advance_high_watermark(self.log.acknowledged_end_offset());
        }
    }

    /// Puts `min.insync.replicas` in force.
    pub fn set_min_isr(&self, min_isr: i32) {
        self.min_isr.store(min_isr, Ordering::Release);
        let (log_end, now) = (self.log.log_end_offset(), self.log.runtime().now());
        let mut role = self.role();
        if let Role::Leader(leader) = &mut *role {
            let effects = leader.set_min_isr(usize::try_from(min_isr).unwrap_or(1), log_end, now);
            self.take_effect(effects);
        }
    }

    /// Takes a new leader epoch, as the only replica.
    pub fn set_leader_epoch(&self, epoch: i32) {
        let before = self.leader_epoch.fetch_max(epoch, Ordering::AcqRel);
        if before < epoch {
            self.waiting.wake_all();
        }
    }

    /// What it was ordered last, if anything.
    pub fn obeyed(&self) -> Option<Obeyed> {
        let leader_epoch = self.leader_epoch();
        let told = match &*self.role() {
            Role::Leader(leader) => leader.partition_epoch(),
            _ => -1,
        };
        let partition_epoch = self.partition_epoch.load(Ordering::Acquire).max(told);
        (leader_epoch >= 0).then_some(Obeyed { leader_epoch, partition_epoch })
    }

    /// Obeys an order of the controller, or finds that it is overtaken. `Ok` says what it came to; a refusal is a verdict too.
    ///
    /// # Errors
    /// The log's, if it is out of service: KAFKA_STORAGE_ERROR.
    pub async fn obey(&self, order: &PartitionOrder) -> Result<Verdict, LogError> {
        let rules = &self.rules;
        let _turn = self.turn.write().await;
        let verdict = judge(rules.broker_id, self.obeyed(), order);
        let now = self.log.runtime().now();
        let is_alone = order.leader == rules.broker_id && order.replicas == [rules.broker_id] && order.isr == [rules.broker_id];
        if self.is_alone() && is_alone && matches!(verdict, Verdict::Lead | Verdict::Update) {
            // Nobody else has or had a part in it: its log is whole whatever the epoch is.
            self.partition_epoch.store(order.partition_epoch, Ordering::Release);
            self.set_leader_epoch(order.leader_epoch);
            return Ok(verdict);
        }
        match verdict {
            Verdict::Lead => {
                // Nobody appends now: this is where the epoch starts.
                self.log.assign_epoch_start(order.leader_epoch).await?;
                let log_end = self.log.log_end_offset();
                let mut role = self.role();
                self.enter(order, true, is_alone);
                self.proven_from.store(if is_alone { 0 } else { log_end }, Ordering::Release);
                if is_alone {
                    *role = Role::Alone;
                    self.advance_high_watermark(self.log.acknowledged_end_offset());
                } else {
                    let told = self.leadership(rules, order);
                    let (leader, effects) = Leader::begin(told, self.log.acknowledged_end_offset(), log_end, self.high_watermark(), now);
                    *role = Role::Leader(Box::new(leader));
                    self.take_effect(effects);
                }
            }
            Verdict::Follow => {
                if self.plants().truncate_to_high_watermark {
                    self.log.truncate_to(self.high_watermark()).await?;
                }
                let mut role = self.role();
                self.enter(order, false, false);
                *role = Role::Follower(Follower::begin(order.leader, order.leader_epoch, order.partition_epoch, self.high_watermark()));
            }
            Verdict::Stand => {
                let mut role = self.role();
                self.enter(order, false, false);
                *role = Role::None;
            }
            Verdict::Update => {
                let log_end = self.log.log_end_offset();
                let mut role = self.role();
                self.partition_epoch.store(order.partition_epoch, Ordering::Release);
                match &mut *role {
                    // From one replica to several and back within an epoch, as a reassignment does it.
                    Role::Alone if !is_alone => {
                        let (leader, effects) =
                            Leader::begin(self.leadership(rules, order), self.log.acknowledged_end_offset(), log_end, self.high_watermark(), now);
                        *role = Role::Leader(Box::new(leader));
                        self.alone.store(false, Ordering::Release);
                        self.take_effect(effects);
                    }
                    Role::Leader(_) if is_alone => {
                        *role = Role::Alone;
                        self.alone.store(true, Ordering::Release);
                        self.advance_high_watermark(self.log.acknowledged_end_offset());
                    }
                    Role::Leader(leader) => {
                        let effects = leader.updated(order.partition_epoch, order.replicas.clone(), &order.isr, log_end, now);
                        self.take_effect(effects);
                    }
                    Role::Follower(follower) => follower.updated(order.partition_epoch),
                    Role::Alone | Role::None => {}
                }
            }
            Verdict::Ignore | Verdict::Refuse(_) => return Ok(verdict),
        }
        // Those who waited for an earlier role look again.
        self.wake_waiting();
        Ok(verdict)
    }

    fn leadership(&self, rules: &ReplicaRules, order: &PartitionOrder) -> Leadership {
        Leadership {
            broker_id: rules.broker_id,
            leader_epoch: order.leader_epoch,
            partition_epoch: order.partition_epoch,
            replicas: order.replicas.clone(),
            isr: order.isr.clone(),
            lag_max: rules.lag_max,
            min_isr: usize::try_from(self.min_isr.load(Ordering::Acquire)).unwrap_or(1),
            plants: self.plants(),
        }
    }

    /// Historic bugs that a simulation has switched on; none anywhere else.
    fn plants(&self) -> Plants {
        let rt = self.log.runtime();
        Plants {
            current_isr_only: plant!(rt, "high-watermark-over-current-isr"),
            truncate_to_high_watermark: plant!(rt, "truncate-to-high-watermark"),
            no_broker_epochs: plant!(rt, "no-broker-epochs"),
            ignores_min_isr: plant!(rt, "ack-below-min-isr"),
        }
    }

    /// The epochs and the role in two words. The caller holds the role.
    fn enter(&self, order: &PartitionOrder, leads: bool, is_alone: bool) {
        self.leads.store(false, Ordering::Release);
        self.alone.store(is_alone, Ordering::Release);
        self.leader_epoch.store(order.leader_epoch, Ordering::Release);
        self.partition_epoch.store(order.partition_epoch, Ordering::Release);
        self.leads.store(leads, Ordering::Release);
    }

    /// Neither leads nor follows any more: StopReplica.
    pub async fn stop(&self) {
        let _turn = self.turn.write().await;
        let mut role = self.role();
        self.leads.store(false, Ordering::Release);
        self.alone.store(false, Ordering::Release);
        *role = Role::None;
        drop(role);
        self.wake_waiting();
    }

    // As leader.

    /// A follower has fetched, and is answered without error.
    ///
    /// # Errors
    /// If its fetch counts for nothing: it is no replica, or another life of one.
    pub fn follower_fetched(&self, fetch: FollowerFetch) -> Result<(), FollowerError> {
        let (log_end, now) = (self.log.log_end_offset(), self.log.runtime().now());
        let mut role = self.role();
        match &mut *role {
            Role::Leader(leader) => {
                let effects = leader.fetched(fetch, log_end, now)?;
                self.take_effect(effects);
                self.followers_start(leader);
                Ok(())
            }
            _ => Err(FollowerError::NotAReplica { replica: fetch.replica }),
        }
    }

    /// Looks for followers that fell behind.
    pub fn check_lag(&self) {
        let (log_end, now) = (self.log.log_end_offset(), self.log.runtime().now());
        let mut role = self.role();
        if let Role::Leader(leader) = &mut *role {
            let effects = leader.check_lag(log_end, now);
            self.take_effect(effects);
        }
    }

    /// The metadata tells which brokers are registered, with their epochs.
    pub fn registered_brokers(&self, brokers: &BTreeMap<i32, i64>) {
        if let Role::Leader(leader) = &mut *self.role() {
            leader.registered(brokers.clone());
            self.followers_start(leader);
        }
    }

    /// What became of a proposal.
    pub fn proposal_answered(&self, proposal: &Proposal, outcome: Outcome) {
        let (log_end, now) = (self.log.log_end_offset(), self.log.runtime().now());
        let mut role = self.role();
        if let Role::Leader(leader) = &mut *role {
            let effects = leader.answered(proposal, outcome, log_end, now);
            self.take_effect(effects);
        }
    }

    /// This replica has stored everything before `end`.
    fn on_stored(&self, end: i64) {
        if self.is_alone() {
            self.advance_high_watermark(end);
            self.stored.reached(end);
            return;
        }
        {
            let (log_end, now) = (self.log.log_end_offset(), self.log.runtime().now());
            let mut role = self.role();
            match &mut *role {
                Role::Leader(leader) => {
                    let effects = leader.stored(end, log_end, now);
                    self.take_effect(effects);
                }
                // It became so between the two looks.
                Role::Alone => self.advance_high_watermark(end),
                Role::Follower(_) | Role::None => {}
            }
        }
        self.stored.reached(end);
    }

    /// The caller holds the role.
    fn take_effect(&self, effects: Effects) {
        if let Some(to) = effects.high_watermark {
            self.advance_high_watermark(to);
        }
        if let Some(proposal) = effects.propose {
            self.rules.proposals.send(IsrProposal { partition: self.id.clone(), topic_id: self.topic_id, proposal });
        }
    }

    // As follower.

    /// The next fetch; `None` if it follows nobody or waits for an order. All before its offset is on disk if the last [`After::Flush`] was done.
    pub fn next_fetch(&self) -> Option<FetchAt> {
        let lineage = self.log.epochs();
        match &*self.role() {
            Role::Follower(follower) => follower.next_fetch(self.facts(&lineage)),
            _ => None,
        }
    }

    fn facts<'a>(&self, lineage: &'a crate::log::EpochCache) -> LogFacts<'a> {
        LogFacts { start_offset: self.log.log_start_offset(), end_offset: self.log.log_end_offset(), lineage }
    }

    /// The leader has answered a fetch, with `records` in whole batches.
    ///
    /// # Errors
    /// [`FollowError`]: the partition is to be fetched again later.
    pub async fn leader_answered(&self, asked: FetchAt, told: Told, records: &bytes::Bytes) -> Result<After, FollowError> {
        // What was asked in one role is not done in another.
        let _one = self.following.lock().await;
        let _turn = self.turn.read().await;
        let lineage = self.log.epochs();
        let step = match &mut *self.role() {
            Role::Follower(follower) => follower.answered(asked, told, self.facts(&lineage)),
            _ => return Ok(After::Stop),
        };
        if let (Step::Append, Told::Records { high_watermark, log_start_offset }) = (step, told) {
            return self.append_from_leader(records, high_watermark, log_start_offset).await;
        }
        self.change_log(step).await
    }

    /// The leader has told where its log starts and ends.
    ///
    /// # Errors
    /// [`FollowError`].
    pub async fn leader_has(&self, asked: FetchAt, start_offset: i64, end_offset: i64) -> Result<After, FollowError> {
        let _one = self.following.lock().await;
        let _turn = self.turn.read().await;
        let lineage = self.log.epochs();
        let step = match &*self.role() {
            Role::Follower(follower) => follower.leader_has(asked, start_offset, end_offset, self.facts(&lineage)),
            _ => return Ok(After::Stop),
        };
        self.change_log(step).await
    }

    async fn append_from_leader(&self, records: &bytes::Bytes, high_watermark: i64, log_start_offset: i64) -> Result<After, FollowError> {
        let batches = split(records, self.log.log_end_offset())?;
        if let Some(first) = batches.first() {
            // The leader's log may start within a batch (DeleteRecords). A log that has nothing takes the batch whole, and starts where the leader's does after.
            let (base, end) = (first.header.base_offset, self.log.log_end_offset());
            if base < end && end == self.log.log_start_offset() {
                self.log.truncate_fully_and_start_at(base).await?;
            }
            self.log.append_as_follower(&batches).await?;
        }
        {
            let mut role = self.role();
            if let Role::Follower(follower) = &mut *role
                && let Some(to) = follower.appended(high_watermark, self.log.log_end_offset())
            {
                self.advance_high_watermark(to);
            }
        }
        // The leader has deleted from its start: so does this replica, as far as it has got.
        let start = log_start_offset.min(self.high_watermark());
        if start > self.log.log_start_offset() {
            self.log.delete_records_before(start).await?;
        }
        Ok(if batches.is_empty() { After::Fetch } else { After::Flush })
    }

    /// Does to the log what the pure follower said.
    async fn change_log(&self, step: Step) -> Result<After, FollowError> {
        let to = match step {
            Step::Truncate { to } => {
                tracing::info!(partition = %self.id, to, log_end = self.log.log_end_offset(), high_watermark = self.high_watermark(), "cut back to where the leader's log parts");
                self.log.truncate_to(to).await?;
                to
            }
            Step::Restart { at } => {
                tracing::warn!(partition = %self.id, at, log_end = self.log.log_end_offset(), "the leader's log has nothing in common with this one: begun anew");
                self.log.truncate_fully_and_start_at(at).await?;
                at
            }
            Step::AskOffsets => return Ok(After::AskOffsets),
            Step::Fetch | Step::Append => return Ok(After::Fetch),
            Step::BackOff => return Ok(After::BackOff),
            Step::Stop => return Ok(After::Stop),
        };
        let mut role = self.role();
        if let Role::Follower(follower) = &mut *role {
            follower.truncated(to);
            // Below the high watermark only after an unclean election; a log that begins anew may also begin above it.
            let high_watermark = follower.high_watermark().max(self.log.log_start_offset());
            self.high_watermark.store(high_watermark, Ordering::SeqCst);
            self.log.set_high_watermark(high_watermark);
        }
        Ok(After::Fetch)
    }

    /// Ends all waiting: the topic is deleted.
    pub fn mark_deleted(&self) {
        self.deleted.store(true, Ordering::SeqCst);
        self.wake_waiting();
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

/// A waiter that is forgotten when its request is.
struct Registered<'a, R: Runtime>(&'a Partition<R>, Arc<Waiter>);

impl<R: Runtime> Drop for Registered<'_, R> {
    fn drop(&mut self) {
        self.0.forget(&self.1);
    }
}

/// Cuts a leader's records into batches, checks each, and leaves out those below `from_offset`: a leader's first batch may begin before what was asked for.
fn split(records: &bytes::Bytes, from_offset: i64) -> Result<Vec<BatchToAppend>, FollowError> {
    let damaged = |error: &dyn std::fmt::Display| FollowError::Damaged { reason: error.to_string() };
    let mut batches = Vec::new();
    let mut rest = records.clone();
    while !rest.is_empty() {
        let size = Header::parse(&rest).map_err(|error| damaged(&error))?.size_in_bytes();
        if size > rest.len() {
            return Err(damaged(&format_args!("a batch of {size} bytes is cut off after {}", rest.len())));
        }
        let bytes = rest.split_to(size);
        let header = Header::whole(&bytes).map_err(|error| damaged(&error))?;
        if header.next_offset() > from_offset {
            batches.push(BatchToAppend { header, bytes });
        }
    }
    Ok(batches)
}
