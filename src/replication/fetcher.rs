//! The followers' side of replication: one task per leader and `num.replica.fetchers`, which fetches for all its partitions at once, in one fetch session (KIP-227),
//! and has the pure [`follower`](super::follower) say what is to be done with each answer.
//!
//! What came is appended to all partitions, then flushed for all at once, and only then fetched on: a fetch offset says what is on disk. Partitions that failed wait
//! by themselves, a little first and up to `replica.fetch.backoff.ms` if it goes on; the others go on. A fetch that waits at the leader for records does not keep
//! a partition waiting that was given to the fetcher meanwhile, after an election, say: the next request names it, and its leader answers the one that waits.
//!
//! A fetcher may have ten thousand partitions. Between two requests it looks at those that were *touched*: given, taken, answered, due after a failure. Others would be
//! asked what they were asked before, and the session knows that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::follower::{FetchAt, Told};
use super::partition::{After, Partition};
use crate::client::connection::{Connection, ConnectionConfig};
use crate::client::error::ClientError;
use crate::plant;
use crate::runtime::{HostPort, Instant, Runtime};
use crate::topic_partition::TopicPartition;

/// The newest version of Fetch that followers ask in: with topic ids, the follower's broker epoch (KIP-903), and all that is needed of later ones.
const FETCH_VERSION_MAX: i16 = 16;
/// The oldest: before it a fetch cannot say the follower's broker epoch.
const FETCH_VERSION_MIN: i16 = 15;
/// `timestamp` of ListOffsets for the log's end, and for its start.
const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

/// The first wait after a failure; each further one is twice as long. A leader may hear of its election a moment after its followers.
const BACKOFF_MIN: Duration = Duration::from_millis(10);

/// How long a partition that came waits for others before it is asked for: they come together.
const GATHER: Duration = Duration::from_millis(5);

/// When a partition that is throttled, by more than the others left of its share, is looked at again.
const THROTTLED: Duration = Duration::from_millis(100);

/// How often all partitions are looked at: what moves by itself, as a log's start does by retention, is told to the leader then.
const SWEEP: Duration = Duration::from_secs(10);

/// How followers fetch.
#[derive(Clone, Debug)]
pub struct FetcherConfig {
    /// This broker.
    pub broker_id: i32,
    /// `num.replica.fetchers`: tasks for each leader.
    pub fetchers_per_leader: u32,
    /// `replica.fetch.max.bytes`, of each partition.
    pub max_bytes: i32,
    /// `replica.fetch.min.bytes`.
    pub min_bytes: i32,
    /// `replica.fetch.response.max.bytes`.
    pub response_max_bytes: i32,
    /// `replica.fetch.wait.max.ms`.
    pub wait_max_ms: i32,
    /// `replica.fetch.backoff.ms`.
    pub backoff: Duration,
    /// `replica.socket.timeout.ms`.
    pub socket_timeout: Duration,
}

/// All fetchers of a broker.
pub struct Fetchers<R: Runtime> {
    runtime: R,
    config: Arc<FetcherConfig>,
    /// This broker's epoch, −1 before it is registered.
    broker_epoch: Arc<AtomicI64>,
    stop: watch::Sender<bool>,
    /// By leader and number.
    lanes: Mutex<BTreeMap<(i32, u32), Lane<R>>>,
}

struct Lane<R: Runtime> {
    shared: Arc<Shared<R>>,
    task: R::Task<()>,
}

/// What a fetcher's task and the manager share.
struct Shared<R: Runtime> {
    leader: i32,
    state: Mutex<LaneState<R>>,
    wake: Notify,
}

struct LaneState<R: Runtime> {
    address: HostPort,
    partitions: BTreeMap<TopicPartition, Arc<Partition<R>>>,
    /// Those that were given or taken since the task last looked.
    touched: BTreeSet<TopicPartition>,
    /// No partition is left: the task ends.
    closed: bool,
}

impl<R: Runtime> Shared<R> {
    fn state(&self) -> MutexGuard<'_, LaneState<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Runtime> Fetchers<R> {
    /// None yet.
    pub fn new(runtime: R, config: FetcherConfig) -> Self {
        Self {
            runtime,
            config: Arc::new(config),
            broker_epoch: Arc::new(AtomicI64::new(-1)),
            stop: watch::Sender::new(false),
            lanes: Mutex::new(BTreeMap::new()),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, BTreeMap<(i32, u32), Lane<R>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This broker's epoch, which fetches carry from now on.
    pub fn set_broker_epoch(&self, epoch: i64) {
        self.broker_epoch.store(epoch, Ordering::Release);
    }

    /// Has `partition` fetched from `leader`, which listens at `address`, and from nobody else.
    pub fn assign(&self, leader: i32, address: &HostPort, partition: &Arc<Partition<R>>) {
        let id = partition.id();
        let number = crc32fast::hash(id.to_string().as_bytes()) % self.config.fetchers_per_leader.max(1);
        let mut lanes = self.lanes();
        remove_from(&mut lanes, id, Some((leader, number)));
        if *self.stop.borrow() {
            return;
        }
        let lane = lanes.entry((leader, number)).or_insert_with(|| {
            let state = LaneState { address: address.clone(), partitions: BTreeMap::new(), touched: BTreeSet::new(), closed: false };
            let shared = Arc::new(Shared { leader, state: Mutex::new(state), wake: Notify::new() });
            let task = Task {
                runtime: self.runtime.clone(),
                config: Arc::clone(&self.config),
                broker_epoch: Arc::clone(&self.broker_epoch),
                shared: Arc::clone(&shared),
                stop: self.stop.subscribe(),
                session: Session::default(),
                touched: BTreeSet::new(),
                delayed: BTreeMap::new(),
                swept_at: self.runtime.now(),
                backoff: BACKOFF_MIN,
                name: format!("broker-{}-fetcher-{number}", self.config.broker_id),
            };
            Lane { shared, task: self.runtime.spawn("replica-fetcher", task.run()) }
        });
        {
            let mut state = lane.shared.state();
            state.address = address.clone();
            state.partitions.insert(id.clone(), Arc::clone(partition));
            state.touched.insert(id.clone());
        }
        lane.shared.wake.notify_one();
    }

    /// Ends the fetching of a partition.
    pub fn remove(&self, id: &TopicPartition) {
        remove_from(&mut self.lanes(), id, None);
    }

    /// How many partitions are fetched.
    pub fn partition_count(&self) -> usize {
        self.lanes().values().map(|lane| lane.shared.state().partitions.len()).sum()
    }

    /// Ends all fetching; returns when nothing is appended any more.
    pub async fn shutdown(&self) {
        self.stop.send_replace(true);
        let lanes = std::mem::take(&mut *self.lanes());
        for lane in lanes.into_values() {
            crate::runtime::Task::join(lane.task).await;
        }
    }
}

/// Takes a partition from all fetchers but one. Fetchers without partitions end.
fn remove_from<R: Runtime>(lanes: &mut BTreeMap<(i32, u32), Lane<R>>, id: &TopicPartition, but: Option<(i32, u32)>) {
    lanes.retain(|key, lane| {
        if Some(*key) == but {
            return true;
        }
        let mut state = lane.shared.state();
        let was_there = state.partitions.remove(id).is_some();
        state.closed |= state.partitions.is_empty();
        let stays = !state.closed;
        if was_there {
            state.touched.insert(id.clone());
        }
        drop(state);
        if was_there {
            lane.shared.wake.notify_one();
        }
        stays
    });
}

/// How the wire names a partition.
type Key = (Uuid, i32);

/// The session with one leader, as its follower keeps it: what is asked of each partition, and what of that the leader has not been told.
struct Session<R: Runtime> {
    id: i32,
    /// Of the next request; 0 begins a session, and names everything.
    epoch: i32,
    /// The leader has no room for sessions (`max.incremental.fetch.session.cache.slots`): every request names everything, and may wait.
    is_refused: bool,
    asked: BTreeMap<Key, (Arc<Partition<R>>, FetchAt)>,
    keys: BTreeMap<TopicPartition, Key>,
    to_name: BTreeSet<Key>,
    to_forget: BTreeSet<Key>,
}

impl<R: Runtime> Default for Session<R> {
    fn default() -> Self {
        Self { id: 0, epoch: 0, is_refused: false, asked: BTreeMap::new(), keys: BTreeMap::new(), to_name: BTreeSet::new(), to_forget: BTreeSet::new() }
    }
}

impl<R: Runtime> Session<R> {
    /// Begins anew with the next request, over the same connection or, with an `id` of 0, over another one.
    fn reset(&mut self, id: i32) {
        // The old one is named so that its leader forgets it.
        (self.id, self.epoch) = (id, 0);
    }

    /// Asks `at` of a partition from now on, or nothing.
    fn ask(&mut self, id: &TopicPartition, wanted: Option<(Arc<Partition<R>>, FetchAt)>) {
        let key = wanted.as_ref().map(|(partition, _)| (partition.topic_id(), id.partition));
        if let Some(before) = self.keys.get(id).copied().filter(|before| Some(*before) != key) {
            self.keys.remove(id);
            self.asked.remove(&before);
            self.to_name.remove(&before);
            self.to_forget.insert(before);
        }
        let (Some(key), Some((partition, at))) = (key, wanted) else { return };
        if self.asked.get(&key).is_some_and(|(known, asked)| Arc::ptr_eq(known, &partition) && *asked == at) {
            return;
        }
        self.keys.insert(id.clone(), key);
        self.asked.insert(key, (partition, at));
        self.to_forget.remove(&key);
        self.to_name.insert(key);
    }

    /// Whether the leader is to be told something.
    fn has_news(&self) -> bool {
        self.epoch == 0 || !self.to_name.is_empty() || !self.to_forget.is_empty()
    }

    /// The epoch of a request that is made now, and the topics to name and those to forget: all, or what is new.
    fn request(&mut self, max_bytes: i32) -> (i32, BTreeSet<Key>, Vec<FetchTopic>, Vec<ForgottenTopic>) {
        let epoch = self.epoch;
        let named: BTreeSet<Key> = if epoch == 0 { self.asked.keys().copied().collect() } else { std::mem::take(&mut self.to_name) };
        let forgotten = std::mem::take(&mut self.to_forget);
        self.to_name.clear();
        let mut topics: Vec<FetchTopic> = Vec::new();
        for (topic_id, number) in &named {
            let Some((_, at)) = self.asked.get(&(*topic_id, *number)) else { continue };
            let partition = FetchPartition::default()
                .with_partition(*number)
                .with_current_leader_epoch(at.current_leader_epoch)
                .with_fetch_offset(at.offset)
                .with_last_fetched_epoch(at.last_fetched_epoch)
                .with_log_start_offset(at.log_start_offset)
                .with_partition_max_bytes(max_bytes);
            match topics.last_mut().filter(|topic| topic.topic_id == *topic_id) {
                Some(topic) => topic.partitions.push(partition),
                None => topics.push(FetchTopic::default().with_topic_id(*topic_id).with_partitions(vec![partition])),
            }
        }
        let forgotten = forgotten.iter().filter(|_| epoch > 0);
        let forgotten = forgotten.map(|(topic_id, number)| ForgottenTopic::default().with_topic_id(*topic_id).with_partitions(vec![*number])).collect();
        if epoch > 0 {
            self.epoch = if epoch == i32::MAX { 1 } else { epoch + 1 };
        }
        (epoch, named, topics, forgotten)
    }

    /// The leader has answered the request of `epoch` without error.
    fn accepted(&mut self, epoch: i32, id: i32) {
        if epoch == 0 {
            self.is_refused = id == 0;
        }
        if id == 0 {
            self.reset(0);
        } else if epoch == 0 {
            (self.id, self.epoch) = (id, 1);
        }
    }
}

struct Task<R: Runtime> {
    runtime: R,
    config: Arc<FetcherConfig>,
    broker_epoch: Arc<AtomicI64>,
    shared: Arc<Shared<R>>,
    stop: watch::Receiver<bool>,
    session: Session<R>,
    /// Partitions of which it must be found out what to ask.
    touched: BTreeSet<TopicPartition>,
    /// Partitions that are not fetched before, and how long they wait if it fails again.
    delayed: BTreeMap<TopicPartition, (Instant, Duration)>,
    /// When all partitions were last looked at.
    swept_at: Instant,
    /// How long the task waits when the leader fails it again.
    backoff: Duration,
    name: String,
}

/// A request that is under way.
struct Pending {
    answer: Pin<Box<dyn Future<Output = Result<FetchResponse, ClientError>> + Send>>,
    epoch: i32,
    /// What requests after it name: an answer to what was asked of those before is for nobody.
    asked_again: BTreeSet<Key>,
}

impl<R: Runtime> Task<R> {
    async fn run(mut self) {
        let mut connection: Option<Connection<R>> = None;
        loop {
            if *self.stop.borrow() || self.stop.has_changed().is_err() || self.shared.state().closed {
                return;
            }
            self.look().await;
            if self.session.asked.is_empty() {
                let now = self.runtime.now();
                let soonest = self.delayed.values().map(|(until, _)| until.saturating_duration_since(now)).min();
                self.pause(soonest.unwrap_or(self.config.backoff).min(self.config.backoff)).await;
                continue;
            }
            let open = connection.take().filter(Connection::is_open);
            let open = match open {
                Some(open) => Ok(open),
                None => {
                    self.session.reset(0);
                    self.connect().await
                }
            };
            match open {
                Ok(open) => match self.fetch(&open).await {
                    Ok(()) => {
                        self.backoff = BACKOFF_MIN;
                        connection = Some(open);
                    }
                    Err(error) => self.failed(&error).await,
                },
                Err(error) => self.failed(&error).await,
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection<R>, ClientError> {
        let address = self.shared.state().address.clone();
        let config = ConnectionConfig { client_id: self.name.clone(), connect_timeout: self.config.socket_timeout, ..ConnectionConfig::default() };
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => Err(ClientError::Closed { peer: address, why: "the broker stops".into() }),
            opened = Connection::open(&self.runtime, &address, config) => opened,
        }
    }

    async fn failed(&mut self, error: &ClientError) {
        if !*self.stop.borrow() {
            if self.backoff < self.config.backoff {
                tracing::info!(leader = self.shared.leader, %error, "a fetch from the leader failed; it is tried again");
            }
            self.session.reset(0);
            self.pause(self.backoff.min(self.config.backoff)).await;
            self.backoff = (self.backoff * 2).min(self.config.backoff);
        }
    }

    /// Waits a while, or until something is to be done.
    async fn pause(&mut self, most: Duration) {
        let mut timer = self.runtime.sleep(most);
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => {}
            () = self.shared.wake.notified() => {}
            () = &mut timer => {}
        }
    }

    /// Finds out what to ask of those that were touched. What came by way of an earlier leader, or was written as leader, may not be on disk yet: it is flushed first,
    /// since a fetch says that it is.
    async fn look(&mut self) {
        let now = self.runtime.now();
        {
            let mut state = self.shared.state();
            self.touched.append(&mut state.touched);
            if now - self.swept_at >= SWEEP {
                self.swept_at = now;
                self.touched.extend(state.partitions.keys().cloned());
            }
            self.delayed.retain(|id, _| state.partitions.contains_key(id));
        }
        let due = self.delayed.iter().filter(|(id, (until, _))| *until <= now && !self.session.keys.contains_key(*id));
        self.touched.extend(due.map(|(id, _)| id.clone()));
        if self.touched.is_empty() {
            return;
        }
        let touched = std::mem::take(&mut self.touched);
        let found: Vec<Arc<Partition<R>>> = {
            let state = self.shared.state();
            touched.iter().filter_map(|id| state.partitions.get(id)).cloned().collect()
        };
        let is_planted = plant!(&self.runtime, "fetch-before-flush");
        if !is_planted {
            self.flush(found.iter()).await;
        }
        let mut wanted: BTreeMap<TopicPartition, (Arc<Partition<R>>, FetchAt)> = BTreeMap::new();
        for partition in found {
            if partition.waits_for_quota() {
                self.delayed.insert(partition.id().clone(), (now + THROTTLED, BACKOFF_MIN));
                continue;
            }
            let is_due = self.delayed.get(partition.id()).is_none_or(|(until, _)| *until <= now);
            if let Some(at) = partition.next_fetch().filter(|_| is_due && partition.follows() == Some(self.shared.leader)) {
                if is_planted || partition.log().acknowledged_end_offset() >= at.offset {
                    wanted.insert(partition.id().clone(), (partition, at));
                } else {
                    // It grew meanwhile.
                    self.touched.insert(partition.id().clone());
                }
            }
        }
        for id in &touched {
            self.session.ask(id, wanted.remove(id));
        }
    }

    /// Sends the next request, after those that are under way.
    async fn send(&mut self, connection: &Connection<R>, under_way: &mut VecDeque<Pending>) -> Result<(), ClientError> {
        let version = connection.version_up_to::<FetchRequest>(FETCH_VERSION_MAX)?;
        if version < FETCH_VERSION_MIN {
            let what = format!("it serves Fetch up to version {version}, a follower asks in version {FETCH_VERSION_MIN} at least").into();
            return Err(ClientError::Unsupported { peer: connection.peer().clone(), api: "Fetch", what });
        }
        let id = self.session.id;
        let (epoch, named, topics, forgotten) = self.session.request(self.config.max_bytes);
        let replica = ReplicaState::default().with_replica_id(BrokerId(self.config.broker_id)).with_replica_epoch(self.broker_epoch.load(Ordering::Acquire));
        let request = FetchRequest::default()
            .with_replica_state(replica)
            // The first of a session is answered at once: until then no other can follow it.
            .with_max_wait_ms(if epoch == 0 && !self.session.is_refused { 0 } else { self.config.wait_max_ms })
            .with_min_bytes(self.config.min_bytes)
            .with_max_bytes(self.config.response_max_bytes)
            .with_session_id(id)
            .with_session_epoch(epoch)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten);
        let mut answer = connection.start(version, &request, self.config.socket_timeout).await?;
        under_way.iter_mut().for_each(|pending| pending.asked_again.extend(named.iter().copied()));
        under_way.push_back(Pending { answer: Box::pin(async move { answer.wait().await }), epoch, asked_again: BTreeSet::new() });
        Ok(())
    }

    /// One request and what follows from its answer; and one after it, if partitions come while its leader has nothing to say.
    async fn fetch(&mut self, connection: &Connection<R>) -> Result<(), ClientError> {
        let mut under_way = VecDeque::new();
        self.send(connection, &mut under_way).await?;
        let mut stop = self.stop.clone();
        loop {
            let is_last = under_way.len() == 1;
            let Some(first) = under_way.front_mut() else { return Ok(()) };
            // One that goes on failing is not worth a request of its own.
            let now = self.runtime.now();
            let soonest = self.delayed.iter().filter(|(id, (_, wait))| *wait < self.config.backoff && !self.session.keys.contains_key(*id));
            let soonest = soonest.map(|(_, (until, _))| *until).filter(|until| *until > now).min();
            let may_be_followed = first.epoch > 0 && is_last;
            let response = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
                answered = &mut first.answer => Some(answered?),
                () = newcomers(&self.runtime, &self.shared, soonest), if may_be_followed => None,
            };
            if let Some(response) = response {
                let answered = under_way.pop_front().expect("it was waited for");
                if response.error_code != 0 {
                    // The session is gone there, most likely.
                    tracing::debug!(leader = self.shared.leader, code = response.error_code, "a fetch was refused as a whole");
                    self.session.reset(self.session.id);
                    let is_session = [Error::FetchSessionIdNotFound, Error::InvalidFetchSessionEpoch, Error::FetchSessionTopicIdError];
                    if !is_session.iter().any(|error| error.code() == response.error_code) {
                        self.pause(self.config.backoff).await;
                    }
                    if !under_way.is_empty() {
                        connection.close();
                    }
                    return Ok(());
                }
                self.session.accepted(answered.epoch, response.session_id);
                self.take_all(connection, response, &answered.asked_again).await;
                if under_way.is_empty() {
                    return Ok(());
                }
            }
            self.look().await;
            if self.session.epoch > 0 && self.session.has_news() {
                self.send(connection, &mut under_way).await?;
            }
        }
    }

    /// What was answered.
    async fn take_all(&mut self, connection: &Connection<R>, response: FetchResponse, asked_again: &BTreeSet<Key>) {
        let mut to_flush = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let key = (topic.topic_id, data.partition_index);
                let Some((partition, at)) = self.session.asked.get(&key).filter(|_| !asked_again.contains(&key)) else { continue };
                let (partition, at) = (Arc::clone(partition), *at);
                let after = self.take(connection, &partition, at, data).await;
                self.touched.insert(partition.id().clone());
                if after == After::BackOff {
                    self.delay(partition.id());
                    continue;
                }
                self.delayed.remove(partition.id());
                if after == After::Flush {
                    to_flush.push(partition);
                }
            }
        }
        if plant!(&self.runtime, "fetch-before-flush") {
            to_flush.clear();
        }
        // One group commit for all: the next fetch says that they are on disk.
        self.flush(to_flush.iter()).await;
    }

    /// Flushes those that have records which are not on disk; one that fails waits.
    async fn flush(&mut self, partitions: impl Iterator<Item = &Arc<Partition<R>>>) {
        let flushes = partitions.filter(|partition| partition.log().acknowledged_end_offset() < partition.log().log_end_offset());
        for (flushed, partition) in join_all(flushes.map(|partition| async move { (partition.log().flush().await, partition) })).await {
            if let Err(error) = flushed {
                tracing::error!(partition = %partition.id(), %error, "what came from the leader could not be flushed");
                self.delay(partition.id());
            }
        }
    }

    /// Has a partition wait before it is fetched again, longer each time.
    fn delay(&mut self, id: &TopicPartition) {
        let wait = self.delayed.get(id).map_or(BACKOFF_MIN, |(_, next)| *next).min(self.config.backoff);
        self.delayed.insert(id.clone(), (self.runtime.now() + wait, wait * 2));
        self.touched.insert(id.clone());
    }

    /// One partition's answer.
    async fn take(&self, connection: &Connection<R>, partition: &Arc<Partition<R>>, at: FetchAt, data: PartitionData) -> After {
        let (told, records) = told(data);
        if told == Told::Failed {
            tracing::debug!(partition = %partition.id(), leader = self.shared.leader, "the leader does not serve it yet");
        }
        let mut after = partition.leader_answered(at, told, &records).await;
        if matches!(after, Ok(After::AskOffsets)) {
            after = match self.leader_offsets(connection, partition, at).await {
                Ok((start, end)) => partition.leader_has(at, start, end).await,
                Err(error) => {
                    tracing::info!(partition = %partition.id(), %error, "the leader did not say where its log starts and ends; it is asked again");
                    Ok(After::BackOff)
                }
            };
        }
        after.unwrap_or_else(|error| {
            tracing::error!(partition = %partition.id(), %error, "a follower's log could not be made like its leader's; it is tried again");
            After::BackOff
        })
    }

    /// Where the leader's log starts and ends.
    async fn leader_offsets(&self, connection: &Connection<R>, partition: &Partition<R>, at: FetchAt) -> Result<(i64, i64), ClientError> {
        let mut found = [0; 2];
        for (timestamp, found) in [EARLIEST, LATEST].into_iter().zip(&mut found) {
            let asked = ListOffsetsPartition::default()
                .with_partition_index(partition.id().partition)
                .with_current_leader_epoch(at.current_leader_epoch)
                .with_timestamp(timestamp);
            let topic = TopicName(StrBytes::from_string(partition.id().topic.to_string()));
            let request = ListOffsetsRequest::default()
                .with_replica_id(BrokerId(self.config.broker_id))
                .with_topics(vec![ListOffsetsTopic::default().with_name(topic).with_partitions(vec![asked])]);
            let response = connection.call(&request, self.config.socket_timeout).await?;
            let told = response.topics.first().and_then(|topic| topic.partitions.first());
            let told =
                told.ok_or_else(|| ClientError::Malformed { peer: connection.peer().clone(), api: "ListOffsets", what: "it has no partition".into() })?;
            ClientError::check(told.error_code, None, || format!("{}: ListOffsets of {}", connection.peer(), partition.id()))?;
            *found = told.offset;
        }
        Ok((found[0], found[1]))
    }
}

/// Ends when partitions were given or taken; at `soonest` at the latest, when one is due that had failed.
async fn newcomers<R: Runtime>(runtime: &R, shared: &Shared<R>, soonest: Option<Instant>) {
    /// A timer that is not to fire.
    const FOREVER: Duration = Duration::from_secs(365 * 24 * 3_600);
    let mut due = runtime.timer(soonest.unwrap_or_else(|| runtime.now() + FOREVER));
    tokio::select! {
        biased;
        () = shared.wake.notified() => runtime.sleep(GATHER).await,
        () = &mut due => {}
    }
}

/// What an answer says, in the pure follower's words, and its records.
fn told(data: PartitionData) -> (Told, Bytes) {
    let told = match data.error_code {
        0 if data.diverging_epoch.end_offset >= 0 => Told::Diverging { epoch: data.diverging_epoch.epoch, end_offset: data.diverging_epoch.end_offset },
        0 => Told::Records { high_watermark: data.high_watermark, log_start_offset: data.log_start_offset },
        code if code == Error::OffsetOutOfRange.code() => Told::OutOfRange,
        code if code == Error::FencedLeaderEpoch.code() => Told::Fenced,
        _ => Told::Failed,
    };
    (told, data.records.unwrap_or_default())
}
