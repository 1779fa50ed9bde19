//! What every simulated client shares: its connections that are opened again when they are lost, where it finds whom to ask, its stream of draws, the run's phase
//! and the history.
//!
//! Of one broker everything is asked at the one address. In a cluster a client goes after a [`Goal`]: the leader of a partition, the coordinator of a group, the
//! controller; what it was told of them it forgets when they do not answer, or say that it is somebody else.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, MetadataRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use ottla::client::connection::{Connection, ConnectionConfig};
use ottla::client::error::ClientError;
use ottla::runtime::{HostPort, Runtime};
use tokio::sync::watch;
use uuid::Uuid;

use super::history::{History, Place};
use crate::rng::Stream;
use crate::world::World;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Faults are on; clients work.
    Safety,
    /// Faults are off; clients finish what they have begun, and begin nothing.
    Converge,
    /// Everything has ended.
    Done,
}

/// Whom a client wants to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Goal {
    /// Any broker.
    #[default]
    Anyone,
    /// The leader of a partition.
    Leader(Place),
    /// The coordinator of a group.
    Coordinator(String),
    /// The controller.
    Controller,
}

/// What a harness that sees all brokers knows better than a client.
pub trait Authority: Send + Sync {
    /// Whether nobody has become the coordinator of `group` after the broker at `address` did: else its answers may be old, and are as right as they can be.
    fn is_coordinator(&self, group: &str, address: &HostPort) -> bool;
}

/// Where there is only one broker.
pub struct OneBroker;

impl Authority for OneBroker {
    fn is_coordinator(&self, _group: &str, _address: &HostPort) -> bool {
        true
    }
}

/// What all clients of a run share.
#[derive(Clone)]
pub struct Shared {
    /// What they did and saw.
    pub history: Arc<Mutex<History>>,
    /// How far the run is.
    pub phase: watch::Receiver<Phase>,
    /// Where the brokers are; with a single one, that is asked for everything.
    pub bootstrap: Arc<Vec<HostPort>>,
    /// Topics of the run with their partition counts.
    pub topics: Arc<Vec<(String, i32)>>,
    /// How many replicas a topic has, where it is more than one.
    pub replication: Arc<BTreeMap<String, i16>>,
    /// Who is what, for the judgement alone.
    pub authority: Arc<dyn Authority>,
    /// Counts operations.
    pub world: World,
}

impl Shared {
    /// The history, locked; never held across an await.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether clients begin new operations.
    pub fn begins(&self) -> bool {
        *self.phase.borrow() == Phase::Safety
    }

    /// Whether the run is over.
    pub fn is_done(&self) -> bool {
        *self.phase.borrow() == Phase::Done
    }

    /// Whether there are several brokers.
    pub fn is_cluster(&self) -> bool {
        self.bootstrap.len() > 1
    }

    /// How many replicas each partition of a topic has.
    pub fn replication_factor(&self, topic: &str) -> i16 {
        self.replication.get(topic).copied().unwrap_or(1)
    }

    /// Every partition of the run.
    pub fn places(&self) -> Vec<Place> {
        self.topics.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (topic.clone(), partition))).collect()
    }

    /// A partition drawn among the run's.
    pub fn draw_place(&self, stream: &mut Stream) -> Place {
        let (topic, partitions) = stream.pick(&self.topics);
        (topic.clone(), stream.below(*partitions as u64) as i32)
    }
}

/// A client's connections, and what it knows of the cluster.
pub struct Link<R: Runtime> {
    /// The boundary of the client's host.
    pub runtime: R,
    /// What it shares with the others.
    pub shared: Shared,
    /// Its own draws.
    pub stream: Stream,
    connections: BTreeMap<HostPort, Connection<R>>,
    goal: Goal,
    /// Where the last connection that was asked for goes.
    target: Option<HostPort>,
    /// Who answers questions about the cluster.
    anyone: Option<HostPort>,
    brokers: BTreeMap<i32, HostPort>,
    /// Leaders with their epochs.
    leaders: BTreeMap<Place, (i32, i32)>,
    /// The highest leader epoch that any broker told of each partition, under the topic's id.
    newest: BTreeMap<Place, (Uuid, i32)>,
    coordinator: Option<(String, HostPort)>,
    controller: Option<HostPort>,
    /// The replica that is asked instead of a partition's leader.
    near: Option<i32>,
    name: String,
}

/// How long a question about the cluster may take.
const LOOK_UP: Duration = Duration::from_secs(5);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl<R: Runtime> Link<R> {
    /// A client that is not connected yet.
    pub fn new(runtime: R, shared: Shared, stream: Stream, name: String) -> Self {
        Self {
            runtime,
            shared,
            stream,
            connections: BTreeMap::new(),
            goal: Goal::Anyone,
            target: None,
            anyone: None,
            brokers: BTreeMap::new(),
            leaders: BTreeMap::new(),
            newest: BTreeMap::new(),
            coordinator: None,
            controller: None,
            near: None,
            name,
        }
    }

    /// Whom to ask from now on.
    pub fn go_for(&mut self, goal: Goal) {
        self.goal = goal;
    }

    /// From now on asks this broker whenever it goes for a leader (KIP-392), or the leader itself.
    pub fn go_near(&mut self, replica: Option<i32>) {
        self.near = replica;
    }

    /// Whether another replica is asked than the leader.
    pub fn is_near(&self) -> bool {
        self.near.is_some()
    }

    /// What is known of whom to ask is not so any more.
    pub fn forget_goal(&mut self) {
        match &self.goal {
            Goal::Anyone => self.anyone = None,
            Goal::Leader(place) => {
                self.leaders.remove(place);
                self.near = None;
            }
            Goal::Coordinator(_) => self.coordinator = None,
            Goal::Controller => self.controller = None,
        }
    }

    /// Somebody else leads a partition by now.
    pub fn forget_leader(&mut self, place: &Place) {
        self.leaders.remove(place);
    }

    /// The leader epoch that requests for a partition carry: −1 where nobody needs it.
    pub fn leader_epoch(&self, place: &Place) -> i32 {
        self.leaders.get(place).map_or(-1, |(_, epoch)| *epoch)
    }

    /// The partitions of `among` that the leader of `place` leads, as far as this client knows.
    pub fn led_with<'a>(&self, place: &Place, among: impl Iterator<Item = &'a Place>) -> Vec<Place> {
        let Some((leader, _)) = self.leaders.get(place) else { return Vec::new() };
        among.filter(|other| self.leaders.get(*other).is_some_and(|(its, _)| its == leader)).cloned().collect()
    }

    /// Where the last connection that was asked for goes.
    pub fn target(&self) -> Option<&HostPort> {
        self.target.as_ref()
    }

    /// Whether what is asked for will never be there: a partition that is lost, now that nothing new is begun.
    fn is_hopeless(&self) -> bool {
        match &self.goal {
            Goal::Leader(place) => !self.shared.begins() && self.shared.history().is_hopeless(place),
            _ => false,
        }
    }

    /// The connection, opened if it is not. `None` once the run is over, or if the partition is out of reach for ever.
    pub async fn connection(&mut self) -> Option<Connection<R>> {
        loop {
            if self.shared.is_done() || self.is_hopeless() {
                return None;
            }
            let Some(target) = self.find().await else {
                self.pause(50, 300).await;
                continue;
            };
            self.target = Some(target.clone());
            if let Some(connection) = self.open(&target).await {
                return Some(connection);
            }
            if self.shared.is_cluster() {
                self.forget_goal();
            }
            self.pause(50, 500).await;
        }
    }

    async fn open(&mut self, target: &HostPort) -> Option<Connection<R>> {
        if let Some(connection) = self.connections.get(target).filter(|connection| connection.is_open()) {
            return Some(connection.clone());
        }
        self.connections.remove(target);
        let config = ConnectionConfig { client_id: self.name.clone(), connect_timeout: Duration::from_secs(3), ..ConnectionConfig::default() };
        let connection = Connection::open(&self.runtime, target, config).await.ok()?;
        self.connections.insert(target.clone(), connection.clone());
        Some(connection)
    }

    /// Where what is asked for is; `None` if nobody says.
    async fn find(&mut self) -> Option<HostPort> {
        if !self.shared.is_cluster() {
            return self.shared.bootstrap.first().cloned();
        }
        if let Some(known) = self.known() {
            return Some(known);
        }
        match self.goal.clone() {
            Goal::Anyone => {}
            Goal::Leader(place) => self.look_up_cluster(Some(&place)).await?,
            Goal::Controller => self.look_up_cluster(None).await?,
            Goal::Coordinator(group) => {
                let request = FindCoordinatorRequest::default().with_key(text(&group)).with_key_type(0);
                let found = self.ask_anyone(2, &request).await?;
                if found.error_code != 0 {
                    return None;
                }
                let address = HostPort { host: found.host.to_string(), port: u16::try_from(found.port).ok()? };
                self.coordinator = Some((group, address));
            }
        }
        self.known()
    }

    fn known(&mut self) -> Option<HostPort> {
        match &self.goal {
            Goal::Anyone => Some(self.anyone()),
            Goal::Leader(place) => {
                let leader = self.leaders.get(place)?.0;
                self.brokers.get(&self.near.unwrap_or(leader)).cloned()
            }
            Goal::Coordinator(group) => self.coordinator.as_ref().filter(|(its, _)| its == group).map(|(_, address)| address.clone()),
            Goal::Controller => self.controller.clone(),
        }
    }

    fn anyone(&mut self) -> HostPort {
        let (stream, bootstrap) = (&mut self.stream, &self.shared.bootstrap);
        self.anyone.get_or_insert_with(|| stream.pick(bootstrap).clone()).clone()
    }

    async fn ask_anyone<Q: Request>(&mut self, max_version: i16, request: &Q) -> Option<Q::Response> {
        let target = self.anyone();
        let connection = self.open(&target).await;
        let answered = match &connection {
            Some(connection) => {
                let version = connection.version_up_to::<Q>(max_version).ok()?;
                connection.call_at(version, request, LOOK_UP).await.ok()
            }
            None => None,
        };
        // Another one may know more the next time.
        self.anyone = None;
        if answered.is_none()
            && let Some(connection) = self.connections.remove(&target)
        {
            connection.close();
        }
        answered
    }

    /// Learns of all leaders and of the controller. Of topics that are not there, or have no leader, it learns nothing.
    async fn look_up_cluster(&mut self, place: Option<&Place>) -> Option<()> {
        let own = place.map(|(topic, _)| topic).filter(|topic| self.shared.topics.iter().all(|(known, _)| known != *topic));
        let names = self.shared.topics.iter().map(|(topic, _)| topic).chain(own);
        let topics = names.map(|topic| MetadataRequestTopic::default().with_name(Some(TopicName(text(topic))))).collect();
        let request = MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false);
        let told = self.ask_anyone(12, &request).await?;
        let address = |host: &str, port: i32| Some(HostPort { host: host.to_owned(), port: u16::try_from(port).ok()? });
        self.brokers = told.brokers.iter().filter_map(|broker| Some((broker.node_id.0, address(&broker.host, broker.port)?))).collect();
        self.controller = self.brokers.get(&told.controller_id.0).cloned();
        for topic in &told.topics {
            let Some(name) = topic.name.as_ref() else { continue };
            for partition in &topic.partitions {
                let place = (name.to_string(), partition.partition_index);
                let newest = self.newest.entry(place.clone()).or_insert((topic.topic_id, partition.leader_epoch));
                // One that knows less must not take away what another one has told, even if that is forgotten meanwhile (KIP-320). A topic made anew counts anew.
                if newest.0 == topic.topic_id && partition.leader_epoch < newest.1 {
                    continue;
                }
                *newest = (topic.topic_id, partition.leader_epoch);
                if partition.error_code == 0 && partition.leader_id.0 >= 0 {
                    self.leaders.insert(place, (partition.leader_id.0, partition.leader_epoch));
                }
            }
        }
        Some(())
    }

    /// Gives the connection up, and what is known of whom it goes to.
    pub fn disconnect(&mut self) {
        if let Some(connection) = self.target.as_ref().and_then(|target| self.connections.remove(target)) {
            connection.close();
        }
        self.forget_goal();
    }

    /// Sends one request on the connection and waits for its answer. On an error the connection is given up.
    ///
    /// # Errors
    /// The client's error; `None` if the run is over.
    pub async fn call<Q: Request>(&mut self, max_version: i16, request: &Q, timeout: Duration) -> Result<Q::Response, Option<ClientError>> {
        let connection = self.connection().await.ok_or(None)?;
        let version = connection.version_up_to::<Q>(max_version).map_err(Some)?;
        let answered = connection.call_at(version, request, timeout).await;
        match &answered {
            Ok(_) => self.shared.world.count_operation(),
            Err(_) => self.disconnect(),
        }
        answered.map_err(Some)
    }

    /// Waits for a drawn time.
    pub async fn pause(&mut self, min_ms: u64, max_ms: u64) {
        let wait = Duration::from_millis(self.stream.between(min_ms, max_ms));
        self.runtime.sleep(wait).await;
    }
}
