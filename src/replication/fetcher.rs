//! The followers' side of replication: one task per leader and `num.replica.fetchers`, which fetches for all its partitions at once, in one fetch session (KIP-227),
//! and has the pure [`follower`](super::follower) say what is to be done with each answer.
//!
//! What came is appended to all partitions, then flushed for all at once, and only then fetched on: a fetch offset says what is on disk. Partitions that failed wait
//! by themselves, a little first and up to `replica.fetch.backoff.ms` if it goes on; the others go on. A fetch that waits at the leader for records does not keep
//! a partition waiting that was given to the fetcher meanwhile, after an election, say: it is given up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic, ReplicaState};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest, TopicName};
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

/// How long a fetch that waits is not yet given up for a partition that came: others come with it.
const GATHER: Duration = Duration::from_millis(5);

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
            let state = LaneState { address: address.clone(), partitions: BTreeMap::new(), closed: false };
            let shared = Arc::new(Shared { leader, state: Mutex::new(state), wake: Notify::new() });
            let task = Task {
                runtime: self.runtime.clone(),
                config: Arc::clone(&self.config),
                broker_epoch: Arc::clone(&self.broker_epoch),
                shared: Arc::clone(&shared),
                stop: self.stop.subscribe(),
                session: Session::default(),
                delayed: BTreeMap::new(),
                backoff: BACKOFF_MIN,
                name: format!("broker-{}-fetcher-{number}", self.config.broker_id),
            };
            Lane { shared, task: self.runtime.spawn("replica-fetcher", task.run()) }
        });
        {
            let mut state = lane.shared.state();
            state.address = address.clone();
            state.partitions.insert(id.clone(), Arc::clone(partition));
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
        drop(state);
        if was_there && !stays {
            lane.shared.wake.notify_one();
        }
        stays
    });
}

/// The session with one leader, as its follower keeps it.
#[derive(Debug, Default)]
struct Session {
    id: i32,
    /// Of the next request; 0 begins a session.
    epoch: i32,
    known: BTreeMap<(Uuid, i32), FetchAt>,
}

impl Session {
    /// Begins anew with the next request.
    fn reset(&mut self) {
        // The old one is named so that its leader forgets it.
        *self = Self { id: self.id, ..Self::default() };
    }

    /// The topics to name and those to forget: all, or what changed since the last request.
    fn differences(&mut self, wanted: &BTreeMap<(Uuid, i32), FetchAt>, max_bytes: i32) -> (Vec<FetchTopic>, Vec<ForgottenTopic>) {
        let mut topics: Vec<FetchTopic> = Vec::new();
        for ((topic_id, number), at) in wanted {
            if self.epoch > 0 && self.known.get(&(*topic_id, *number)) == Some(at) {
                continue;
            }
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
        let gone = self.known.keys().filter(|key| self.epoch > 0 && !wanted.contains_key(*key));
        let forgotten = gone.map(|(topic_id, number)| ForgottenTopic::default().with_topic_id(*topic_id).with_partitions(vec![*number])).collect();
        self.known = wanted.clone();
        (topics, forgotten)
    }

    /// The leader has answered without error.
    fn accepted(&mut self, id: i32) {
        if id == 0 {
            *self = Self::default();
        } else {
            self.id = id;
            self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 };
        }
    }
}

struct Task<R: Runtime> {
    runtime: R,
    config: Arc<FetcherConfig>,
    broker_epoch: Arc<AtomicI64>,
    shared: Arc<Shared<R>>,
    stop: watch::Receiver<bool>,
    session: Session,
    /// Partitions that are not fetched before, and how long they wait if it fails again.
    delayed: BTreeMap<TopicPartition, (Instant, Duration)>,
    /// How long the task waits when the leader fails it again.
    backoff: Duration,
    name: String,
}

/// What became of a fetch.
enum Fetched {
    /// It was answered.
    Answered,
    /// It was given up for partitions that came meanwhile: its connection with it.
    GivenUp,
}

/// A partition and what is asked of it.
type Asked<R> = BTreeMap<(Uuid, i32), (Arc<Partition<R>>, FetchAt)>;

impl<R: Runtime> Task<R> {
    async fn run(mut self) {
        let mut connection: Option<Connection<R>> = None;
        loop {
            if *self.stop.borrow() || self.stop.has_changed().is_err() || self.shared.state().closed {
                return;
            }
            let mut asked = self.what_to_ask();
            // What came by way of an earlier leader, or was written as leader, may not be on disk yet: a fetch says that it is.
            if !plant!(&self.runtime, "fetch-before-flush") {
                self.flush(asked.values().map(|(partition, _)| partition)).await;
                asked.retain(|_, (partition, at)| partition.log().acknowledged_end_offset() >= at.offset);
            }
            if asked.is_empty() {
                let now = self.runtime.now();
                let soonest = self.delayed.values().map(|(until, _)| until.saturating_duration_since(now)).min();
                self.pause(soonest.unwrap_or(self.config.backoff).min(self.config.backoff)).await;
                continue;
            }
            let open = connection.take().filter(Connection::is_open);
            let open = match open {
                Some(open) => Ok(open),
                None => {
                    self.session = Session::default();
                    self.connect().await
                }
            };
            match open {
                Ok(open) => match self.fetch(&open, asked).await {
                    Ok(Fetched::Answered) => {
                        self.backoff = BACKOFF_MIN;
                        connection = Some(open);
                    }
                    Ok(Fetched::GivenUp) => open.close(),
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
            self.session = Session::default();
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

    fn what_to_ask(&mut self) -> Asked<R> {
        let now = self.runtime.now();
        let state = self.shared.state();
        self.delayed.retain(|id, _| state.partitions.contains_key(id));
        let due = state.partitions.iter().filter(|(id, _)| self.delayed.get(*id).is_none_or(|(until, _)| *until <= now));
        let due = due.filter(|(_, partition)| partition.follows() == Some(self.shared.leader));
        due.filter_map(|(id, partition)| Some(((partition.topic_id(), id.partition), (Arc::clone(partition), partition.next_fetch()?)))).collect()
    }

    /// One request and what follows from its answer.
    async fn fetch(&mut self, connection: &Connection<R>, asked: Asked<R>) -> Result<Fetched, ClientError> {
        let version = connection.version_up_to::<FetchRequest>(FETCH_VERSION_MAX)?;
        if version < FETCH_VERSION_MIN {
            let what = format!("it serves Fetch up to version {version}, a follower asks in version {FETCH_VERSION_MIN} at least").into();
            return Err(ClientError::Unsupported { peer: connection.peer().clone(), api: "Fetch", what });
        }
        let wanted = asked.iter().map(|(key, (_, at))| (*key, *at)).collect();
        // One that goes on failing is not worth a fetch of the others.
        let soonest = self.delayed.iter().filter(|(id, (_, next))| *next < self.config.backoff && self.shared.state().partitions.contains_key(*id));
        let soonest = soonest.map(|(_, (until, _))| *until).filter(|until| *until > self.runtime.now()).min();
        let (topics, forgotten) = self.session.differences(&wanted, self.config.max_bytes);
        let replica = ReplicaState::default().with_replica_id(BrokerId(self.config.broker_id)).with_replica_epoch(self.broker_epoch.load(Ordering::Acquire));
        let request = FetchRequest::default()
            .with_replica_state(replica)
            .with_max_wait_ms(self.config.wait_max_ms)
            .with_min_bytes(self.config.min_bytes)
            .with_max_bytes(self.config.response_max_bytes)
            .with_session_id(self.session.id)
            .with_session_epoch(self.session.epoch)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten);
        let response = tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => return Ok(Fetched::Answered),
            answered = connection.call_at(version, &request, self.config.socket_timeout) => answered?,
            () = newcomers(&self.runtime, &self.shared, &asked, soonest) => return Ok(Fetched::GivenUp),
        };
        if response.error_code != 0 {
            // The session is gone there, most likely.
            tracing::debug!(leader = self.shared.leader, code = response.error_code, "a fetch was refused as a whole");
            self.session.reset();
            let is_session = [Error::FetchSessionIdNotFound, Error::InvalidFetchSessionEpoch, Error::FetchSessionTopicIdError];
            if !is_session.iter().any(|error| error.code() == response.error_code) {
                self.pause(self.config.backoff).await;
            }
            return Ok(Fetched::Answered);
        }
        self.session.accepted(response.session_id);
        let mut to_flush = Vec::new();
        for topic in response.responses {
            for data in topic.partitions {
                let Some((partition, at)) = asked.get(&(topic.topic_id, data.partition_index)) else { continue };
                let after = self.take(connection, partition, *at, data).await;
                if after == After::BackOff {
                    self.delay(partition.id());
                    continue;
                }
                self.delayed.remove(partition.id());
                if after == After::Flush {
                    to_flush.push(Arc::clone(partition));
                }
            }
        }
        if plant!(&self.runtime, "fetch-before-flush") {
            to_flush.clear();
        }
        // One group commit for all: the next fetch says that they are on disk.
        self.flush(to_flush.iter()).await;
        Ok(Fetched::Answered)
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

/// Ends when the fetcher has partitions to fetch that are not among those it asks for; at `soonest` at the latest, if there is one that waits until then.
async fn newcomers<R: Runtime>(runtime: &R, shared: &Shared<R>, asked: &Asked<R>, soonest: Option<Instant>) {
    /// A timer that is not to fire.
    const FOREVER: Duration = Duration::from_secs(365 * 24 * 3_600);
    let mut due = runtime.timer(soonest.unwrap_or_else(|| runtime.now() + FOREVER));
    loop {
        tokio::select! {
            biased;
            () = shared.wake.notified() => {}
            () = &mut due => return,
        }
        runtime.sleep(GATHER).await;
        let state = shared.state();
        let is_new = |partition: &Arc<Partition<R>>| {
            partition.follows() == Some(shared.leader) && !asked.contains_key(&(partition.topic_id(), partition.id().partition))
        };
        if state.closed || state.partitions.values().any(|partition| is_new(partition) && partition.next_fetch().is_some()) {
            return;
        }
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
