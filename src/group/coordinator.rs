//! The edge of consumer groups: which groups are this broker's, their loading, timers, and the way to the log and back.
//!
//! A group belongs to the partition of `__consumer_offsets` that its id hashes to, and to that partition's leader. [`GroupCoordinator::load`]
//! and [`GroupCoordinator::unload`] follow the leadership. In between, a request takes its group's lock, lets the state machine decide,
//! and hands what must be logged to the partition's writer *under that lock*, so that the log has the order of the decisions. Nothing
//! waits under a lock: requests wait on a channel, which the writer's report or a timer answers. A request whose connection goes is
//! simply dropped; its member stays until its session ends.
//!
//! One method per API: members in `members`, offsets in `offsets`, administration in `admin`.

mod admin;
mod members;
mod offsets;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::protocol::StrBytes;
use tokio::sync::{Notify, oneshot};
use uuid::Uuid;

use super::records::GroupRecord;
use super::state::{Action, ErrorCode, GroupConfig, Now, Plants, Reply, RequestId};
use crate::internal_topic::{Appended, InternalLog, InternalLogError, InternalWriter, QueueError, WriterConfig};
use crate::plant;
use crate::runtime::{Instant, Runtime, Timer};
use shard::{CellState, GroupCell, Shard};

/// Kafka's name of the topic.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// Kafka's broker configuration as far as the coordinator cares.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// What single groups need.
    pub group: GroupConfig,
    /// `offsets.topic.num.partitions`, until [`GroupCoordinator::set_partition_count`] knows better.
    pub partition_count: i32,
    /// `offsets.commit.timeout.ms`: how long a request waits for the log.
    pub commit_timeout_ms: i32,
    /// `offsets.retention.check.interval.ms`.
    pub retention_check_interval_ms: i64,
    /// What is appended as one batch at most; less than the topic's `max.message.bytes`.
    pub batch_bytes_max: usize,
    /// What may wait for one partition's log.
    pub queue_bytes_max: usize,
}

impl Default for CoordinatorConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            group: GroupConfig::default(),
            partition_count: 50,
            commit_timeout_ms: 5_000,
            retention_check_interval_ms: 600_000,
            batch_bytes_max: 1_000_000,
            queue_bytes_max: 64 << 20,
        }
    }
}

/// A topic as the coordinator must know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRef {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: Uuid,
    /// Its partitions are 0 to this less one.
    pub partition_count: i32,
}

/// The cluster's topics, as of now.
pub trait Topics: Send + Sync + 'static {
    /// By name.
    fn by_name(&self, name: &str) -> Option<TopicRef>;
    /// By id.
    fn by_id(&self, id: Uuid) -> Option<TopicRef>;
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct ClientInfo<'a> {
    /// The client's id from the request's header; empty if it has none.
    pub id: &'a str,
    /// Its address as Kafka writes it: `/1.2.3.4`.
    pub host: &'a str,
}

/// The coordinator of all groups whose partitions this broker leads. Clones are the same coordinator.
pub struct GroupCoordinator<R: Runtime, L: InternalLog> {
    inner: Arc<Inner<R, L>>,
}

impl<R: Runtime, L: InternalLog> Clone for GroupCoordinator<R, L> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

struct Inner<R: Runtime, L: InternalLog> {
    rt: R,
    config: CoordinatorConfig,
    group_config: Arc<GroupConfig>,
    topics: Arc<dyn Topics>,
    partition_count: AtomicI32,
    slots: Mutex<BTreeMap<i32, Slot>>,
    next_load: AtomicU64,
    /// When to look at which group; at most one entry for each, kept by its cell.
    deadlines: Mutex<BTreeSet<(Instant, i32, Arc<str>)>>,
    timers_changed: Notify,
    closed: AtomicBool,
    log: std::marker::PhantomData<fn() -> L>,
}

/// A partition of `__consumer_offsets` that this broker leads.
struct Slot {
    leader_epoch: i32,
    /// Which call of [`GroupCoordinator::load`] it is from.
    load: u64,
    state: SlotState,
}

#[derive(Clone)]
enum SlotState {
    Loading,
    Loaded(Arc<Shard>),
    /// It could not be loaded, or its log failed. Only another leadership, or another try at loading, helps.
    Failed,
}

/// Answers from [`GroupCoordinator::load_state`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadState {
    /// This broker does not lead it.
    NotLed,
    /// Being read.
    Loading,
    /// Serving.
    Loaded,
    /// Given up.
    Failed,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic halts the process; a poisoned lock is seen at most by what still runs while it does.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Java's `String.hashCode`, over UTF-16.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

impl<R: Runtime, L: InternalLog> GroupCoordinator<R, L> {
    /// A coordinator that leads nothing yet. Starts its timer task, which ends with [`GroupCoordinator::shutdown`].
    pub fn new(rt: R, config: CoordinatorConfig, topics: Arc<dyn Topics>) -> Self {
        let mut group_config = config.group.clone();
        group_config.plants = Plants {
            zombie_commit: group_config.plants.zombie_commit || plant!(&rt, "zombie-commit"),
            offsets_expire_while_rebalancing: group_config.plants.offsets_expire_while_rebalancing || plant!(&rt, "offsets-expire-while-rebalancing"),
            generation_not_bumped: group_config.plants.generation_not_bumped || plant!(&rt, "two-members-one-partition"),
        };
        let inner = Inner {
            group_config: Arc::new(group_config),
            partition_count: AtomicI32::new(config.partition_count.max(1)),
            rt,
            config,
            topics,
            slots: Mutex::default(),
            next_load: AtomicU64::new(0),
            deadlines: Mutex::default(),
            timers_changed: Notify::new(),
            closed: AtomicBool::new(false),
            log: std::marker::PhantomData,
        };
        let coordinator = Self { inner: Arc::new(inner) };
        let timers = coordinator.clone();
        coordinator.inner.rt.spawn("group-timers", async move { timers.run_timers().await });
        coordinator
    }

    /// The partition of `__consumer_offsets` that the group belongs to: Kafka's, so that both agree on a topic that already exists.
    pub fn partition_for(&self, group_id: &str) -> i32 {
        (java_hash(group_id) & i32::MAX) % self.inner.partition_count.load(Ordering::Relaxed)
    }

    /// Tells how many partitions `__consumer_offsets` really has. Must be known before the first is loaded, and never change after.
    pub fn set_partition_count(&self, partition_count: i32) {
        assert!(partition_count > 0, "{OFFSETS_TOPIC} has partitions");
        self.inner.partition_count.store(partition_count, Ordering::Relaxed);
    }

    /// Whether a partition's groups can be served.
    pub fn load_state(&self, partition: i32) -> LoadState {
        match lock(&self.inner.slots).get(&partition).map(|slot| &slot.state) {
            None => LoadState::NotLed,
            Some(SlotState::Loading) => LoadState::Loading,
            Some(SlotState::Loaded(_)) => LoadState::Loaded,
            Some(SlotState::Failed) => LoadState::Failed,
        }
    }

    /// This broker leads the partition from this epoch on: reads it, in a task of its own, then serves its groups. Until then
    /// requests are told COORDINATOR_LOAD_IN_PROGRESS. Calls for an epoch that is not newer are ignored, unless loading it failed.
    pub fn load(&self, partition: i32, leader_epoch: i32, log: L) {
        let load = self.inner.next_load.fetch_add(1, Ordering::Relaxed);
        let old = {
            let mut slots = lock(&self.inner.slots);
            if let Some(slot) = slots.get(&partition) {
                let retry = slot.leader_epoch == leader_epoch && matches!(slot.state, SlotState::Failed);
                if slot.leader_epoch >= leader_epoch && !retry {
                    return;
                }
            }
            slots.insert(partition, Slot { leader_epoch, load, state: SlotState::Loading })
        };
        if let Some(Slot { state: SlotState::Loaded(shard), .. }) = old {
            self.unload_shard(&shard);
        }
        let coordinator = self.clone();
        self.inner.rt.spawn("group-partition", async move { coordinator.run_partition(partition, load, log).await });
    }

    /// This broker no longer leads the partition: answers everybody who waits with NOT_COORDINATOR. With an epoch, only if no newer
    /// leadership has begun here.
    pub fn unload(&self, partition: i32, leader_epoch: Option<i32>) {
        let slot = {
            let mut slots = lock(&self.inner.slots);
            match slots.get(&partition) {
                Some(slot) if leader_epoch.is_none_or(|epoch| slot.leader_epoch <= epoch) => slots.remove(&partition),
                _ => None,
            }
        };
        if let Some(Slot { state: SlotState::Loaded(shard), .. }) = slot {
            self.unload_shard(&shard);
        }
    }

    /// Unloads everything and ends the timer task. What is not committed is not answered as committed.
    pub fn shutdown(&self) {
        self.inner.closed.store(true, Ordering::Relaxed);
        let partitions: Vec<i32> = lock(&self.inner.slots).keys().copied().collect();
        for partition in partitions {
            self.unload(partition, None);
        }
        self.inner.timers_changed.notify_one();
    }

    /// Loads a partition and serves its writer until the leadership ends.
    async fn run_partition(&self, partition: i32, load: u64, log: L) {
        let rt = &self.inner.rt;
        if rt.buggify("group/slow-load") {
            rt.sleep(Duration::from_millis(rt.random_u64() % 2_000)).await;
        }
        let writer = InternalWriter::new(WriterConfig {
            batch_bytes_max: self.inner.config.batch_bytes_max,
            queue_bytes_max: self.inner.config.queue_bytes_max,
            timeout: Duration::from_millis(self.inner.config.commit_timeout_ms.max(1) as u64),
        });
        let loaded = shard::load(&log, &self.inner.group_config, self.now(), partition, writer.clone()).await;
        if let Ok(shard) = &loaded {
            // Sessions run from now on, before the first request can find a group.
            for cell in shard.cells() {
                let actions = lock(&cell.state).group.loaded(self.now());
                assert!(actions.is_empty(), "nobody waits yet, and nobody has joined");
            }
        }
        let leader_epoch;
        let shard = {
            let mut slots = lock(&self.inner.slots);
            let Some(slot) = slots.get_mut(&partition).filter(|slot| slot.load == load) else { return };
            leader_epoch = slot.leader_epoch;
            match loaded {
                Ok(shard) => {
                    let shard = Arc::new(shard);
                    slot.state = SlotState::Loaded(Arc::clone(&shard));
                    shard
                }
                Err(error) => {
                    tracing::error!(partition, leader_epoch, %error, "{OFFSETS_TOPIC}-{partition} cannot be loaded: its groups have no coordinator");
                    slot.state = SlotState::Failed;
                    return;
                }
            }
        };
        rt.event("group.loaded", &[partition as u64, leader_epoch as u64, shard.group_count() as u64]);
        for cell in shard.cells() {
            let mut state = lock(&cell.state);
            if !state.gone {
                self.settle(&shard, &cell, &mut state, Vec::new(), self.now());
            }
        }
        let reports = |tag: &shard::Tag, how: Appended| self.appended(&shard, tag, how);
        writer.run(rt, &log, reports).await;
        // Closed by an unload, or fenced by the log. In the latter case nothing that is in memory can be trusted any more.
        let fenced = {
            let mut slots = lock(&self.inner.slots);
            match slots.get_mut(&partition).filter(|slot| slot.load == load) {
                Some(slot) => {
                    slot.state = SlotState::Failed;
                    true
                }
                None => false,
            }
        };
        if fenced {
            self.unload_shard(&shard);
        }
    }

    fn unload_shard(&self, shard: &Arc<Shard>) {
        shard.writer.close();
        for cell in shard.kill() {
            let mut state = lock(&cell.state);
            if !state.gone {
                let now = self.now();
                let actions = state.group.unload(now);
                self.settle(shard, &cell, &mut state, actions, now);
            }
        }
    }

    fn now(&self) -> Now {
        Now { instant: self.inner.rt.now(), unix_ms: self.inner.rt.unix_ms() }
    }

    /// The shard of a group's partition.
    fn shard(&self, group_id: &str) -> Result<Arc<Shard>, ErrorCode> {
        match lock(&self.inner.slots).get(&self.partition_for(group_id)).map(|slot| &slot.state) {
            Some(SlotState::Loaded(shard)) => Ok(Arc::clone(shard)),
            Some(SlotState::Loading) => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(SlotState::Failed) | None => Err(ErrorCode::NotCoordinator),
        }
    }

    /// Lets `decide` act on a group under its lock and carries out what it decides. `None` if there is no such group and it is not
    /// to be created.
    fn with_group<T>(&self, group_id: &str, create: bool, decide: impl FnOnce(&mut CellState, Now) -> (T, Vec<Action>)) -> Result<Option<T>, ErrorCode> {
        loop {
            let shard = self.shard(group_id)?;
            let Some(cell) = shard.cell(group_id, create, &self.inner.group_config, || self.now())? else { return Ok(None) };
            let mut state = lock(&cell.state);
            if state.gone {
                // Removed, or unloaded, between the look-up and the lock. It is not in the map any more: look again.
                continue;
            }
            let now = self.now();
            let (result, actions) = decide(&mut state, now);
            self.settle(&shard, &cell, &mut state, actions, now);
            return Ok(Some(result));
        }
    }

    /// Carries out actions, then forgets the group if nothing of it is left, or sees to its timer.
    fn settle(&self, shard: &Arc<Shard>, cell: &Arc<GroupCell>, state: &mut CellState, actions: Vec<Action>, now: Now) {
        let mut actions = VecDeque::from(actions);
        while let Some(action) = actions.pop_front() {
            match action {
                Action::Reply { request, reply } => {
                    // Nobody may be there any more to take it.
                    if let Some(waiting) = state.waiting.remove(&request) {
                        let _ = waiting.send(reply);
                    }
                }
                Action::Append { append, records } => {
                    if let Err(error) = Self::enqueue(shard, shard::Tag { cell: Arc::clone(cell), append }, &records, now) {
                        actions.extend(state.group.append_done(append, Err(error), now));
                    }
                }
            }
        }
        let over = state.group.is_removed() || state.group.is_vacant();
        let wanted = if over { None } else { state.group.next_deadline() };
        // A timer that rings early does no harm: only an earlier deadline is worth moving it for.
        let keep = state.deadline.is_some_and(|set| wanted.is_some_and(|wanted| set <= wanted));
        if state.deadline != wanted && !keep {
            let mut deadlines = lock(&self.inner.deadlines);
            if let Some(set) = state.deadline.take() {
                deadlines.remove(&(set, shard.partition, Arc::clone(&cell.id)));
            }
            if let Some(wanted) = wanted {
                deadlines.insert((wanted, shard.partition, Arc::clone(&cell.id)));
                state.deadline = Some(wanted);
                if deadlines.first().is_some_and(|(first, ..)| *first == wanted) {
                    self.inner.timers_changed.notify_one();
                }
            }
        }
        if over {
            assert!(state.waiting.is_empty(), "group {}: somebody waits for a group that is gone", cell.id);
            state.gone = true;
            shard.forget(cell);
        }
    }

    fn enqueue(shard: &Shard, tag: shard::Tag, records: &[GroupRecord], now: Now) -> Result<(), ErrorCode> {
        // What cannot be encoded is longer than the format can say, which no client of Kafka's would send.
        let encoded = records.iter().map(GroupRecord::encode).collect::<Result<Vec<_>, _>>().map_err(|error| {
            tracing::warn!(group = %tag.cell.id, %error, "a record of the group cannot be written");
            ErrorCode::UnknownServerError
        })?;
        shard.writer.enqueue(tag, encoded, now.instant).map_err(|error| match error {
            QueueError::Full => ErrorCode::CoordinatorNotAvailable,
            QueueError::Closed => ErrorCode::NotCoordinator,
        })
    }

    /// The writer's report on one append.
    fn appended(&self, shard: &Arc<Shard>, tag: &shard::Tag, how: Appended) {
        let mut state = lock(&tag.cell.state);
        if state.gone {
            return;
        }
        let now = self.now();
        let actions = match how {
            Appended::Committed => state.group.append_done(tag.append, Ok(()), now),
            Appended::Overdue => state.group.append_overdue(tag.append, ErrorCode::CoordinatorNotAvailable, now),
            Appended::Failed(error) => state.group.append_done(tag.append, Err(error_code(&error)), now),
            // The whole shard is about to be unloaded, which answers everybody at once.
            Appended::Fenced(_) => return,
        };
        self.settle(shard, &tag.cell, &mut state, actions, now);
    }

    async fn run_timers(&self) {
        let interval = Duration::from_millis(self.inner.config.retention_check_interval_ms.max(1) as u64);
        let mut next_expiry = self.inner.rt.now() + interval;
        let mut timer = self.inner.rt.timer(next_expiry);
        while !self.inner.closed.load(Ordering::Relaxed) {
            let next = lock(&self.inner.deadlines).first().map_or(next_expiry, |(deadline, ..)| next_expiry.min(*deadline));
            timer.reset(next);
            tokio::select! {
                biased;
                () = self.inner.timers_changed.notified() => continue,
                () = &mut timer => {}
            }
            let now = self.inner.rt.now();
            self.tick(now);
            if next_expiry <= now {
                self.expire_offsets();
                next_expiry = self.inner.rt.now() + interval;
            }
        }
    }

    /// Looks at every group whose time has come.
    fn tick(&self, now: Instant) {
        loop {
            let (partition, group_id) = {
                let mut deadlines = lock(&self.inner.deadlines);
                match deadlines.first() {
                    Some((deadline, ..)) if *deadline <= now => {
                        let (_, partition, group_id) = deadlines.pop_first().expect("it has a first");
                        (partition, group_id)
                    }
                    _ => return,
                }
            };
            let shard = match lock(&self.inner.slots).get(&partition).map(|slot| &slot.state) {
                Some(SlotState::Loaded(shard)) => Arc::clone(shard),
                _ => continue,
            };
            let Some(cell) = shard.get(&group_id) else { continue };
            let mut state = lock(&cell.state);
            if !state.gone {
                state.deadline = None;
                let now = self.now();
                let actions = state.group.tick(now);
                self.settle(&shard, &cell, &mut state, actions, now);
            }
        }
    }

    /// Removes what is older than its retention, in all groups.
    fn expire_offsets(&self) {
        self.for_each_group(|state, now| state.group.expire_offsets(now));
    }

    /// Topics are gone: removes their offsets from all groups of this coordinator.
    pub fn topics_deleted(&self, topics: &BTreeSet<String>) {
        self.for_each_group(|state, _| state.group.partitions_deleted(|topic, _| topics.contains(topic)));
    }

    fn for_each_group(&self, act: impl Fn(&mut CellState, Now) -> Vec<Action>) {
        for shard in self.shards() {
            for cell in shard.cells() {
                let mut state = lock(&cell.state);
                if !state.gone {
                    let now = self.now();
                    let actions = act(&mut state, now);
                    self.settle(&shard, &cell, &mut state, actions, now);
                }
            }
        }
    }

    fn shards(&self) -> Vec<Arc<Shard>> {
        let slots = lock(&self.inner.slots);
        let loaded = slots.values().filter_map(|slot| match &slot.state {
            SlotState::Loaded(shard) => Some(Arc::clone(shard)),
            SlotState::Loading | SlotState::Failed => None,
        });
        loaded.collect()
    }

    /// A random UUID, version 4, as Kafka puts into member ids.
    fn random_uuid(&self) -> Uuid {
        let random = (u128::from(self.inner.rt.random_u64()) << 64) | u128::from(self.inner.rt.random_u64());
        uuid::Builder::from_random_bytes(random.to_be_bytes()).into_uuid()
    }
}

/// The error that clients are told for one of the log's, as Kafka translates them.
fn error_code(error: &InternalLogError) -> ErrorCode {
    match error {
        InternalLogError::NotLeader | InternalLogError::Storage { .. } => ErrorCode::NotCoordinator,
        InternalLogError::NotEnoughReplicas => ErrorCode::CoordinatorNotAvailable,
        InternalLogError::TooLarge { .. } => ErrorCode::UnknownServerError,
    }
}

/// Waits for a reply. Nobody who waits is forgotten; were one, it would be told to look for the coordinator again.
async fn reply(waiting: oneshot::Receiver<Reply>) -> Result<Reply, ErrorCode> {
    waiting.await.map_err(|_| ErrorCode::CoordinatorNotAvailable)
}

async fn written(waiting: oneshot::Receiver<Reply>) -> Result<(), ErrorCode> {
    match reply(waiting).await? {
        Reply::Written(result) => result,
        Reply::Join(_) | Reply::Sync(_) => unreachable!("a request for the log has the log's answer"),
    }
}

fn code(result: Result<(), ErrorCode>) -> i16 {
    result.err().map_or(0, |error| error.code())
}

fn text(text: impl Into<String>) -> StrBytes {
    StrBytes::from_string(text.into())
}

fn own(text: Option<&StrBytes>) -> Option<String> {
    text.map(|text| text.to_string())
}

impl CellState {
    /// A request that waits for this group.
    fn wait(&mut self) -> (RequestId, oneshot::Receiver<Reply>) {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        let (answer, waiting) = oneshot::channel();
        self.waiting.insert(request, answer);
        (request, waiting)
    }

    /// The request was refused at once and will not be answered.
    fn forget(&mut self, request: RequestId) {
        self.waiting.remove(&request);
    }
}
