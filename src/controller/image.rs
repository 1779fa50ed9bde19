//! The cluster's metadata as brokers use it: an immutable image, published anew after each durable change.
//!
//! Topics are shared between images, so that a new one costs what changed.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use crate::runtime::HostPort;

/// Kafka's name of the topic that holds the consumer groups' offsets.
pub const CONSUMER_OFFSETS_TOPIC: &str = "__consumer_offsets";
/// Kafka's name of the topic that holds the transactions' states.
pub const TRANSACTION_STATE_TOPIC: &str = "__transaction_state";

/// Whether a topic is the broker's own.
pub fn is_internal(topic: &str) -> bool {
    topic == CONSUMER_OFFSETS_TOPIC || topic == TRANSACTION_STATE_TOPIC
}

/// Where a broker listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The listener's name, as in `advertised.listeners`.
    pub listener: String,
    /// What it speaks: `PLAINTEXT`, `SSL`, `SASL_PLAINTEXT` or `SASL_SSL`.
    pub security_protocol: String,
    /// The advertised address.
    pub address: HostPort,
}

/// A registered broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrokerInfo {
    /// `broker.id`.
    pub id: i32,
    /// The czxid of its registration (KIP-380); −1 before it is registered.
    pub epoch: i64,
    /// Where it listens.
    pub endpoints: Vec<Endpoint>,
    /// `broker.rack`.
    pub rack: Option<String>,
    /// The ids of its log directories; none of brokers that do not tell (Kafka's).
    pub directory_ids: Vec<Uuid>,
}

/// A partition's leadership, as stored in its `state` znode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionImage {
    /// The leader's broker id; −1 for none.
    pub leader: i32,
    /// Raised with every change of the leader and with every restart of it.
    pub leader_epoch: i32,
    /// The broker epoch of the leader's life that got this leader epoch; −1 where nobody wrote it down (Kafka's controllers do not).
    pub leader_broker_epoch: i64,
    /// The assigned brokers, the preferred leader first.
    pub replicas: Vec<i32>,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// The version of the `state` znode: what ISR changes are compared with.
    pub partition_epoch: i32,
    /// Those of [`PartitionImage::replicas`] that a reassignment adds (KIP-455).
    pub adding: Vec<i32>,
    /// Those that it removes once all that it adds are in sync.
    pub removing: Vec<i32>,
}

impl Default for PartitionImage {
    /// One of which nothing is known: nobody leads it. Its epochs are older than any: the first that are told count.
    fn default() -> Self {
        Self {
            leader: -1,
            leader_epoch: -1,
            leader_broker_epoch: -1,
            replicas: Vec::new(),
            isr: Vec::new(),
            partition_epoch: -1,
            adding: Vec::new(),
            removing: Vec::new(),
        }
    }
}

impl PartitionImage {
    /// Whether it is on its way to other replicas.
    pub fn is_reassigning(&self) -> bool {
        !self.adding.is_empty() || !self.removing.is_empty()
    }
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicImage {
    /// Its name.
    pub name: Arc<str>,
    /// Its id; another one after deletion and creation.
    pub id: Uuid,
    /// By partition number, without gaps.
    pub partitions: Vec<PartitionImage>,
    /// Its own settings, which override the broker's.
    pub config: BTreeMap<String, String>,
    /// Whether it is the broker's own.
    pub internal: bool,
}

impl TopicImage {
    /// How many partitions it has.
    pub fn partition_count(&self) -> i32 {
        i32::try_from(self.partitions.len()).unwrap_or(i32::MAX)
    }

    /// A partition.
    pub fn partition(&self, index: i32) -> Option<&PartitionImage> {
        self.partitions.get(usize::try_from(index).ok()?)
    }

    /// How many replicas the first partition has.
    pub fn replication_factor(&self) -> i16 {
        self.partitions.first().map_or(0, |partition| i16::try_from(partition.replicas.len()).unwrap_or(i16::MAX))
    }
}

/// All metadata of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetadataImage {
    /// The cluster's id.
    pub cluster_id: String,
    /// The broker that is the controller; −1 for none.
    pub controller_id: i32,
    /// How often a controller was elected.
    pub controller_epoch: i32,
    /// The registered brokers.
    pub brokers: BTreeMap<i32, BrokerInfo>,
    /// The topics by name.
    pub topics: BTreeMap<Arc<str>, Arc<TopicImage>>,
    /// The same topics by id.
    pub by_id: BTreeMap<Uuid, Arc<TopicImage>>,
    /// Dynamic broker settings by broker id; under `None` those for all brokers.
    pub broker_configs: BTreeMap<Option<i32>, BTreeMap<String, String>>,
}

impl MetadataImage {
    /// A topic by its name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// A topic by its id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<&Arc<TopicImage>> {
        self.by_id.get(&id)
    }

    /// A partition of a topic.
    pub fn partition(&self, topic: &str, index: i32) -> Option<&PartitionImage> {
        self.topics.get(topic)?.partition(index)
    }

    /// How many partitions all topics have.
    pub fn partition_count(&self) -> usize {
        self.topics.values().map(|topic| topic.partitions.len()).sum()
    }

    /// Puts a topic in, or a newer image of it in its place.
    pub(super) fn put_topic(&mut self, topic: Arc<TopicImage>) {
        if let Some(before) = self.topics.insert(topic.name.clone(), topic.clone()) {
            self.by_id.remove(&before.id);
        }
        self.by_id.insert(topic.id, topic);
        debug_assert_eq!(self.topics.len(), self.by_id.len());
    }

    /// Takes a topic out.
    pub(super) fn remove_topic(&mut self, name: &str) {
        if let Some(topic) = self.topics.remove(name) {
            self.by_id.remove(&topic.id);
        }
    }
}
