//! A client of a cluster: which brokers there are, who leads what, one connection to each, and retries.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::metadata_response::MetadataResponseTopic;
use kafka_protocol::messages::{BrokerId, FindCoordinatorRequest, MetadataRequest, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use uuid::Uuid;

use crate::client::connection::{Connection, ConnectionConfig};
use crate::client::error::ClientError;
use crate::runtime::{HostPort, Instant, Runtime};
use crate::topic_partition::TopicPartition;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct ClientConfig {
    /// Brokers to ask first; any of the cluster's will do, and one that is up is enough.
    pub bootstrap: Vec<HostPort>,
    /// Its connections.
    pub connection: ConnectionConfig,
    /// How long one request may take.
    pub request_timeout: Duration,
    /// How long an operation of [`Client`] may take with all its retries.
    pub operation_timeout: Duration,
    /// The pause before the first retry; it doubles with each.
    pub retry_backoff: Duration,
    /// The longest pause.
    pub retry_backoff_max: Duration,
    /// Metadata older than this is asked for again.
    pub metadata_max_age: Duration,
    /// Whether asking for a topic may create it, if the broker allows that too (`auto.create.topics.enable`).
    pub allow_auto_topic_creation: bool,
}

impl ClientConfig {
    /// The defaults (those of Kafka's clients), with these brokers to ask first.
    pub fn new(bootstrap: Vec<HostPort>) -> Self {
        Self {
            bootstrap,
            connection: ConnectionConfig::default(),
            request_timeout: Duration::from_secs(30),
            operation_timeout: Duration::from_secs(60),
            retry_backoff: Duration::from_millis(100),
            retry_backoff_max: Duration::from_secs(1),
            metadata_max_age: Duration::from_secs(300),
            allow_auto_topic_creation: true,
        }
    }
}

/// A topic as its cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; nil if the broker is older than topic ids.
    pub id: Uuid,
    /// Whether the cluster keeps its own data in it.
    pub is_internal: bool,
    /// Its partitions, by number.
    pub partitions: BTreeMap<i32, PartitionMetadata>,
}

/// A partition as its cluster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionMetadata {
    /// The leader's broker id; −1 if there is none.
    pub leader: i32,
    /// The leader's epoch; −1 if unknown.
    pub leader_epoch: i32,
    /// The brokers that hold it.
    pub replicas: Vec<i32>,
    /// Those that are in sync.
    pub isr: Vec<i32>,
    /// Those that are down.
    pub offline: Vec<i32>,
}

/// A cluster as one of its brokers describes it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClusterMetadata {
    /// The cluster's id.
    pub cluster_id: Option<String>,
    /// The controller's broker id; −1 if there is none.
    pub controller_id: i32,
    /// The brokers' addresses.
    pub brokers: BTreeMap<i32, HostPort>,
    /// The topics that were asked for, by name.
    pub topics: BTreeMap<Arc<str>, Result<Arc<TopicMetadata>, ResponseError>>,
}

/// A partition's leader, with a connection to it.
pub struct Leader<R: Runtime> {
    /// Its broker id.
    pub id: i32,
    /// Its epoch; −1 if unknown.
    pub epoch: i32,
    /// The topic's id; nil if unknown.
    pub topic_id: Uuid,
    /// The connection.
    pub connection: Connection<R>,
}

/// A client of a cluster. Clones share its connections and what it knows; they close when the last one is gone.
pub struct Client<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for Client<R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

/// A place to connect to: two brokers may have one address after a restart, and a bootstrap address has no broker id yet.
type Slot<R> = Arc<tokio::sync::Mutex<Option<Connection<R>>>>;

struct Inner<R: Runtime> {
    runtime: R,
    config: ClientConfig,
    known: Mutex<Known>,
    slots: Mutex<BTreeMap<HostPort, Slot<R>>>,
}

#[derive(Default)]
struct Known {
    brokers: BTreeMap<i32, HostPort>,
    controller_id: i32,
    topics: BTreeMap<Arc<str>, (Arc<TopicMetadata>, Instant)>,
    /// Of each topic that was ever asked for, its id, and what was told of each partition with the highest leader epoch.
    newest: BTreeMap<Arc<str>, (Uuid, BTreeMap<i32, PartitionMetadata>)>,
    /// Who told less than another broker had told before: asked again only if no other one answers.
    behind: Option<HostPort>,
    /// Topics about which an answer showed that what is known is out of date.
    stale: BTreeSet<Arc<str>>,
    group_coordinators: BTreeMap<String, i32>,
    /// The bootstrap address to begin with next, so that one that is down does not cost its time-out each time.
    next_bootstrap: usize,
}

impl Known {
    /// Keeps of each partition what was told with the highest leader epoch, in `told` too: a broker that is cut off from its cluster goes on telling of leaders
    /// that were replaced (KIP-320). Whether `told` was behind. A topic that was made anew counts anew, and brokers that are too old to tell epochs are believed.
    fn keep_newest(&mut self, told: &mut TopicMetadata) -> bool {
        let (id, newest) = self.newest.entry(told.name.clone()).or_insert_with(|| (told.id, BTreeMap::new()));
        if *id != told.id {
            (*id, *newest) = (told.id, BTreeMap::new());
        }
        let mut is_behind = false;
        for (number, partition) in &mut told.partitions {
            match newest.get(number).filter(|known| (0..known.leader_epoch).contains(&partition.leader_epoch)) {
                Some(known) => {
                    *partition = known.clone();
                    is_behind = true;
                }
                None => drop(newest.insert(*number, partition.clone())),
            }
        }
        is_behind
    }
}

/// Bounded retries with growing, jittered pauses.
pub(crate) struct Retry<R: Runtime> {
    runtime: R,
    what: Arc<str>,
    started: Instant,
    deadline: Instant,
    pause: Duration,
    pause_max: Duration,
}

impl<R: Runtime> Retry<R> {
    /// Waits before the next attempt.
    ///
    /// # Errors
    /// `error` itself if it is not retriable, or [`ClientError::DeadlinePassed`] if there is no time left.
    pub(crate) async fn after(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retriable() {
            return Err(error);
        }
        // Between half and the whole of it, so that clients that failed together do not come back together.
        let pause = self.pause / 2 + Duration::from_nanos(self.runtime.random_u64() % (self.pause.as_nanos() as u64 / 2).max(1));
        self.pause = (self.pause * 2).min(self.pause_max);
        if self.runtime.now() + pause >= self.deadline {
            let after_ms = (self.runtime.now() - self.started).as_millis() as u64;
            return Err(ClientError::DeadlinePassed { what: self.what.clone(), after_ms, last: Box::new(error) });
        }
        self.runtime.sleep(pause).await;
        Ok(())
    }
}

impl<R: Runtime> Client<R> {
    /// A client; it connects when it is first used.
    pub fn new(runtime: R, config: ClientConfig) -> Self {
        let known = Known { controller_id: -1, ..Known::default() };
        Self { inner: Arc::new(Inner { runtime, config, known: Mutex::new(known), slots: Mutex::new(BTreeMap::new()) }) }
    }

    /// The runtime it uses.
    pub fn runtime(&self) -> &R {
        &self.inner.runtime
    }

    /// How it behaves.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.inner.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn retry(&self, what: impl Into<Arc<str>>) -> Retry<R> {
        self.retry_for(what, self.inner.config.operation_timeout)
    }

    pub(crate) fn retry_for(&self, what: impl Into<Arc<str>>, time: Duration) -> Retry<R> {
        let started = self.inner.runtime.now();
        let config = &self.inner.config;
        Retry {
            runtime: self.inner.runtime.clone(),
            what: what.into(),
            started,
            deadline: started + time,
            pause: config.retry_backoff,
            pause_max: config.retry_backoff_max,
        }
    }

    /// A connection to an address: the open one, or a new one. Callers that come while it is being made share it.
    ///
    /// # Errors
    /// [`ClientError`] of connecting.
    pub async fn connection_to(&self, peer: &HostPort) -> Result<Connection<R>, ClientError> {
        let slot = {
            let mut slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(peer.clone()).or_default().clone()
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        *slot = None;
        let connection = Connection::open(&self.inner.runtime, peer, self.inner.config.connection.clone()).await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    /// A connection to a broker by its id.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] if no metadata names it, or those of connecting.
    pub async fn broker(&self, id: i32) -> Result<Connection<R>, ClientError> {
        let address = self.known().brokers.get(&id).cloned();
        let address = address.ok_or_else(|| ClientError::Unavailable { what: format!("no broker {id} is known in the cluster").into() })?;
        self.connection_to(&address).await
    }

    /// A connection to any broker that answers: a known one, or one of the bootstrap addresses.
    ///
    /// # Errors
    /// The error of the last address that was tried.
    pub async fn any(&self) -> Result<Connection<R>, ClientError> {
        let (known, next, behind) = {
            let known = self.known();
            (known.brokers.values().cloned().collect::<Vec<_>>(), known.next_bootstrap, known.behind.clone())
        };
        let is_behind = |address: &HostPort| behind.as_ref() == Some(address);
        let open: Vec<Connection<R>> = {
            let slots = self.inner.slots.lock().unwrap_or_else(PoisonError::into_inner);
            // A slot that is locked is being connected; it is tried below.
            slots.values().filter_map(|slot| slot.try_lock().ok()?.clone()).filter(Connection::is_open).collect()
        };
        if let Some(connection) = open.iter().find(|connection| !is_behind(connection.peer())) {
            return Ok(connection.clone());
        }
        let bootstrap = &self.inner.config.bootstrap;
        let rotated = (0..bootstrap.len()).map(|index| (next + index) % bootstrap.len());
        let mut last = ClientError::Invalid { what: "no broker's address was given".into() };
        let all = rotated.map(|index| (Some(index), bootstrap[index].clone())).chain(known.into_iter().map(|address| (None, address)));
        for (index, address) in all.filter(|(_, address)| !is_behind(address)) {
            match self.connection_to(&address).await {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
            if let Some(index) = index {
                self.known().next_bootstrap = (index + 1) % bootstrap.len();
            }
        }
        match (open.into_iter().next(), behind) {
            (Some(connection), _) => Ok(connection),
            (None, Some(address)) => self.connection_to(&address).await,
            (None, None) => Err(last),
        }
    }

    /// Asks any broker for the cluster's metadata, once, and remembers it. `topics`: `None` asks for all.
    ///
    /// # Errors
    /// [`ClientError`] of connecting and asking; what is wrong with single topics is in the answer.
    pub async fn metadata_once(&self, topics: Option<&[&str]>, allow_auto_topic_creation: bool) -> Result<ClusterMetadata, ClientError> {
        let connection = self.any().await?;
        let version = connection.version::<MetadataRequest>()?;
        let list = topics.map(|names| {
            let topic = |name: &&str| MetadataRequestTopic::default().with_name(Some(topic_name(name)));
            names.iter().map(topic).collect::<Vec<_>>()
        });
        // Version 0 has no null: an empty list means all topics there.
        let list = if version == 0 { Some(list.unwrap_or_default()) } else { list };
        let mut request = MetadataRequest::default().with_topics(list);
        if version >= 4 {
            request.allow_auto_topic_creation = allow_auto_topic_creation;
        } else {
            request.allow_auto_topic_creation = true;
        }
        let response = connection.call_at(version, &request, self.inner.config.request_timeout).await?;
        Ok(self.remember(response, connection.peer()))
    }

    /// Asks for the cluster's metadata, with retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn metadata(&self, topics: Option<&[&str]>, allow_auto_topic_creation: bool) -> Result<ClusterMetadata, ClientError> {
        let mut retry = self.retry("asking for the cluster's metadata");
        loop {
            match self.metadata_once(topics, allow_auto_topic_creation).await {
                Ok(metadata) => return Ok(metadata),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    fn remember(&self, response: MetadataResponse, from: &HostPort) -> ClusterMetadata {
        let now = self.inner.runtime.now();
        let mut metadata =
            ClusterMetadata { cluster_id: response.cluster_id.map(|id| id.to_string()), controller_id: response.controller_id.0, ..ClusterMetadata::default() };
        for broker in &response.brokers {
            // A port out of range would be a broken broker; it just cannot be connected to.
            let address = HostPort { host: broker.host.to_string(), port: u16::try_from(broker.port).unwrap_or(0) };
            metadata.brokers.insert(broker.node_id.0, address);
        }
        let mut known = self.known();
        if !metadata.brokers.is_empty() {
            known.brokers = metadata.brokers.clone();
        }
        known.controller_id = metadata.controller_id;
        let mut is_behind = false;
        for topic in &response.topics {
            let Some(name) = topic.name.as_ref().map(|name| Arc::<str>::from(name.as_str())) else { continue };
            known.stale.remove(&name);
            let described = match ResponseError::try_from_code(topic.error_code) {
                None => {
                    let mut described = topic_metadata(name.clone(), topic);
                    is_behind |= known.keep_newest(&mut described);
                    let described = Arc::new(described);
                    known.topics.insert(name.clone(), (described.clone(), now));
                    Ok(described)
                }
                Some(code) => {
                    known.topics.remove(&name);
                    Err(code)
                }
            };
            metadata.topics.insert(name, described);
        }
        if is_behind {
            known.behind = Some(from.clone());
        } else if known.behind.as_ref() == Some(from) {
            known.behind = None;
        }
        metadata
    }

    /// Says that what is known of a topic is out of date: the next question about it asks a broker.
    pub fn invalidate(&self, topic: &str) {
        self.known().stale.insert(topic.into());
    }

    /// What the cluster says of a topic: remembered, or asked for, once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn topic_once(&self, topic: &str) -> Result<Arc<TopicMetadata>, ClientError> {
        {
            let known = self.known();
            let now = self.inner.runtime.now();
            let remembered = known.topics.get(topic).filter(|(_, at)| now - *at < self.inner.config.metadata_max_age && !known.stale.contains(topic));
            if let Some((described, _)) = remembered {
                return Ok(described.clone());
            }
        }
        let metadata = self.metadata_once(Some(&[topic]), self.inner.config.allow_auto_topic_creation).await?;
        match metadata.topics.get(topic) {
            Some(Ok(described)) => Ok(described.clone()),
            Some(Err(code)) => Err(ClientError::Broker { code: *code, what: format!("topic {topic}").into(), message: None }),
            None => Err(ClientError::Unavailable { what: format!("the broker's answer leaves out topic {topic}").into() }),
        }
    }

    /// What the cluster says of a topic, with retries: also until a topic that is being created exists.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn topic(&self, topic: &str) -> Result<Arc<TopicMetadata>, ClientError> {
        let mut retry = self.retry(format!("asking for topic {topic}"));
        loop {
            match self.topic_once(topic).await {
                Ok(described) => return Ok(described),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// The partition's leader as far as is known, asking once if nothing is.
    ///
    /// # Errors
    /// [`ClientError`]; what is known of the topic is out of date then.
    pub async fn leader_once(&self, partition: &TopicPartition) -> Result<Leader<R>, ClientError> {
        let result = async {
            let topic = self.topic_once(&partition.topic).await?;
            let described = topic.partitions.get(&partition.partition);
            let unavailable = |what: String| ClientError::Unavailable { what: what.into() };
            let described = described.ok_or_else(|| {
                unavailable(format!("topic {} has {} partitions, not one numbered {}", topic.name, topic.partitions.len(), partition.partition))
            })?;
            if described.leader < 0 {
                return Err(unavailable(format!("partition {partition} has no leader now")));
            }
            let connection = self.broker(described.leader).await?;
            Ok(Leader { id: described.leader, epoch: described.leader_epoch, topic_id: topic.id, connection })
        }
        .await;
        if result.is_err() {
            self.invalidate(&partition.topic);
        }
        result
    }

    /// The partition's leader, with retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn leader(&self, partition: &TopicPartition) -> Result<Leader<R>, ClientError> {
        let mut retry = self.retry(format!("finding the leader of {partition}"));
        loop {
            match self.leader_once(partition).await {
                Ok(leader) => return Ok(leader),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// A connection to the controller, or to any broker where none is known (brokers pass such requests on).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn controller_once(&self) -> Result<Connection<R>, ClientError> {
        let id = self.known().controller_id;
        if id >= 0 && self.known().brokers.contains_key(&id) {
            return self.broker(id).await;
        }
        let metadata = self.metadata_once(Some(&[]), false).await?;
        match metadata.brokers.contains_key(&metadata.controller_id) {
            true => self.broker(metadata.controller_id).await,
            false => self.any().await,
        }
    }

    /// Forgets who the controller is.
    pub fn forget_controller(&self) {
        self.known().controller_id = -1;
    }

    /// A connection to the coordinator of a consumer group: the remembered one, or the one that a broker names, once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn group_coordinator_once(&self, group: &str) -> Result<Connection<R>, ClientError> {
        let remembered = self.known().group_coordinators.get(group).copied();
        if let Some(id) = remembered {
            match self.broker(id).await {
                Ok(connection) => return Ok(connection),
                Err(_) => self.forget_coordinator(group),
            }
        }
        let connection = self.any().await?;
        let version = connection.version::<FindCoordinatorRequest>()?;
        let key = StrBytes::from_string(group.to_owned());
        let request =
            if version >= 4 { FindCoordinatorRequest::default().with_coordinator_keys(vec![key]) } else { FindCoordinatorRequest::default().with_key(key) };
        let response = connection.call_at(version, &request, self.inner.config.request_timeout).await?;
        let what = || format!("the coordinator of group {group}");
        let (id, host, port) = if version >= 4 {
            let found = response.coordinators.into_iter().next().ok_or_else(|| ClientError::Unavailable { what: what().into() })?;
            ClientError::check(found.error_code, found.error_message.as_deref(), what)?;
            (found.node_id.0, found.host, found.port)
        } else {
            ClientError::check(response.error_code, response.error_message.as_deref(), what)?;
            (response.node_id.0, response.host, response.port)
        };
        let address = HostPort { host: host.to_string(), port: u16::try_from(port).unwrap_or(0) };
        {
            let mut known = self.known();
            known.brokers.insert(id, address.clone());
            known.group_coordinators.insert(group.to_owned(), id);
        }
        self.connection_to(&address).await
    }

    /// Forgets who coordinates a group.
    pub fn forget_coordinator(&self, group: &str) {
        self.known().group_coordinators.remove(group);
    }

    /// Forgets what `error` says is out of date about a group's coordinator.
    pub(crate) fn heed_coordinator_error(&self, group: &str, error: &ClientError) {
        if error.wants_metadata() && error.code() != Some(ResponseError::CoordinatorLoadInProgress) {
            self.forget_coordinator(group);
        }
    }

    /// Sends a request to the controller, with retries until `check` finds no retriable error in the answer.
    pub(crate) async fn call_controller<Q: Request>(
        &self,
        what: &str,
        request: &Q,
        check: impl Fn(&Q::Response) -> Result<(), ClientError>,
    ) -> Result<Q::Response, ClientError> {
        let mut retry = self.retry(what);
        loop {
            let attempt = async {
                let connection = self.controller_once().await?;
                let response = connection.call(request, self.inner.config.request_timeout).await?;
                match check(&response) {
                    Err(error) if error.is_retriable() => Err(error),
                    _ => Ok(response),
                }
            };
            match attempt.await {
                Ok(response) => return Ok(response),
                Err(error) => {
                    if error.wants_metadata() {
                        self.forget_controller();
                    }
                    retry.after(error).await?;
                }
            }
        }
    }

    /// The ids of all brokers that are known, after asking.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn broker_ids(&self) -> Result<Vec<i32>, ClientError> {
        Ok(self.metadata(Some(&[]), false).await?.brokers.into_keys().collect())
    }
}

fn topic_metadata(name: Arc<str>, topic: &MetadataResponseTopic) -> TopicMetadata {
    let ids = |brokers: &[BrokerId]| brokers.iter().map(|id| id.0).collect::<Vec<_>>();
    let partitions = topic.partitions.iter().map(|partition| {
        let described = PartitionMetadata {
            leader: partition.leader_id.0,
            leader_epoch: partition.leader_epoch,
            replicas: ids(&partition.replica_nodes),
            isr: ids(&partition.isr_nodes),
            offline: ids(&partition.offline_replicas),
        };
        (partition.partition_index, described)
    });
    TopicMetadata { name, id: topic.topic_id, is_internal: topic.is_internal, partitions: partitions.collect() }
}

/// A topic's name as the messages want it.
pub(crate) fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_leader_epoch_is_no_news() {
        let mut known = Known::default();
        let told = |id: u128, leader: i32, leader_epoch: i32| {
            let partition = PartitionMetadata { leader, leader_epoch, replicas: vec![1, 2], isr: vec![leader], offline: Vec::new() };
            TopicMetadata { name: "t".into(), id: Uuid::from_u128(id), is_internal: false, partitions: BTreeMap::from([(0, partition)]) }
        };
        let mut leader_after = |mut told: TopicMetadata| {
            let is_behind = known.keep_newest(&mut told);
            (told.partitions[&0].leader, is_behind)
        };
        assert_eq!(leader_after(told(7, 1, 4)), (1, false));
        assert_eq!(leader_after(told(7, 2, 5)), (2, false));
        assert_eq!(leader_after(told(7, 1, 4)), (2, true), "a broker that was cut off while 2 was elected");
        assert_eq!(leader_after(told(7, -1, 6)), (-1, false), "nobody leads now");
        assert_eq!(leader_after(told(7, 2, 5)), (-1, true));
        assert_eq!(leader_after(told(8, 1, 0)), (1, false), "the topic was made anew");
        assert_eq!(leader_after(told(8, 2, -1)), (2, false), "a broker that knows no epochs");
        assert_eq!(leader_after(told(8, 1, 0)), (1, false));
    }
}
