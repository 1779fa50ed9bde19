//! Kafka's layout of znodes and their JSON, as Kafka 3.9 writes and reads them in ZooKeeper mode (`ZkData.scala`).

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use super::image::{BrokerInfo, Endpoint, PartitionImage};
use super::uuid_text;
use crate::runtime::HostPort;

/// The znodes that exist always, each after its parent.
pub const PERSISTENT: [&str; 25] = [
    "/admin",
    "/admin/delete_topics",
    "/brokers",
    "/brokers/ids",
    "/brokers/seqid",
    "/brokers/topics",
    "/cluster",
    "/config",
    "/config/brokers",
    "/config/changes",
    "/config/clients",
    "/config/ips",
    "/config/topics",
    "/config/users",
    "/consumers",
    "/controller_epoch",
    "/isr_change_notification",
    "/latest_producer_id_block",
    "/log_dir_event_notification",
    "/feature",
    "/kafka-acl",
    "/kafka-acl-changes",
    "/ottla",
    "/ottla/directories",
    "/ottla/offline",
];

/// The registered brokers.
pub const BROKER_IDS: &str = "/brokers/ids";
/// Its version numbers generated broker ids.
pub const BROKER_SEQUENCE: &str = "/brokers/seqid";
/// The topics.
pub const TOPICS: &str = "/brokers/topics";
/// The cluster's id.
pub const CLUSTER_ID: &str = "/cluster/id";
/// Who is the controller.
pub const CONTROLLER: &str = "/controller";
/// How often a controller was elected.
pub const CONTROLLER_EPOCH: &str = "/controller_epoch";
/// Topics whose deletion has begun.
pub const DELETE_TOPICS: &str = "/admin/delete_topics";
/// The last block of producer ids that was given out.
pub const PRODUCER_ID_BLOCK: &str = "/latest_producer_id_block";
/// The parent of the notices of changed settings.
pub const CONFIG_CHANGES: &str = "/config/changes";
/// Topics' settings.
pub const TOPIC_CONFIGS: &str = "/config/topics";
/// Brokers' settings.
pub const BROKER_CONFIGS: &str = "/config/brokers";

/// Which log directories each broker has: our own, so that a broker whose disk was exchanged is not taken for what it was.
pub const DIRECTORIES: &str = "/ottla/directories";

/// What each broker says of replicas that it cannot use as it should (`troubles`): our own.
pub const OFFLINE: &str = "/ottla/offline";

/// What a broker says of its replicas.
pub fn offline_path(id: i32) -> String {
    format!("{OFFLINE}/{id}")
}

/// Which log directories a broker has.
pub fn directory_path(id: i32) -> String {
    format!("{DIRECTORIES}/{id}")
}

/// The content of that znode.
pub fn encode_directories(ids: &[Uuid]) -> Bytes {
    encode(&json!({ "version": 1, "directory_ids": ids.iter().copied().map(uuid_text::to_text).collect::<Vec<_>>() }))
}

/// The log directories in it; none if it cannot be read.
pub fn decode_directories(content: &[u8]) -> Vec<Uuid> {
    Registration::decode(content).directory_ids
}

/// A broker's registration.
pub fn broker_path(id: i32) -> String {
    format!("{BROKER_IDS}/{id}")
}

/// A topic's assignment.
pub fn topic_path(topic: &str) -> String {
    format!("{TOPICS}/{topic}")
}

/// The parent of a topic's partitions.
pub fn partitions_path(topic: &str) -> String {
    format!("{TOPICS}/{topic}/partitions")
}

/// A partition.
pub fn partition_path(topic: &str, partition: i32) -> String {
    format!("{TOPICS}/{topic}/partitions/{partition}")
}

/// A partition's state.
pub fn state_path(topic: &str, partition: i32) -> String {
    format!("{TOPICS}/{topic}/partitions/{partition}/state")
}

/// A topic's settings.
pub fn topic_config_path(topic: &str) -> String {
    format!("{TOPIC_CONFIGS}/{topic}")
}

/// A broker's settings; those of all brokers without an id.
pub fn broker_config_path(id: Option<i32>) -> String {
    id.map_or_else(|| format!("{BROKER_CONFIGS}/<default>"), |id| format!("{BROKER_CONFIGS}/{id}"))
}

/// The mark of a topic whose deletion has begun.
pub fn delete_topic_path(topic: &str) -> String {
    format!("{DELETE_TOPICS}/{topic}")
}

/// A znode whose content is not what Kafka writes there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the znode '{path}' holds '{content}', which is not what belongs there: {reason}")]
pub struct ZnodeError {
    /// Its path.
    pub path: String,
    /// Its content, at most 200 characters of it.
    pub content: String,
    /// What is wrong.
    pub reason: String,
}

impl ZnodeError {
    /// An error about what was read from `path`.
    pub fn new(path: &str, content: &[u8], reason: impl ToString) -> Self {
        let content = String::from_utf8_lossy(content).chars().take(200).collect();
        Self { path: path.to_owned(), content, reason: reason.to_string() }
    }
}

fn encode(value: &Value) -> Bytes {
    value.to_string().into()
}

fn decode<'a, T: Deserialize<'a>>(path: &str, content: &'a [u8]) -> Result<T, ZnodeError> {
    serde_json::from_slice(content).map_err(|error| ZnodeError::new(path, content, error))
}

/// What a registration says besides where the broker listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The ids of the broker's log directories: a later life of the broker knows its own registration by them. Kafka's registrations have none.
    pub directory_ids: Vec<Uuid>,
}

impl Registration {
    /// Reads one; what cannot be read is not there.
    pub fn decode(content: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(content).unwrap_or_default();
        let ids = value["directory_ids"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Self { directory_ids: ids.filter_map(uuid_text::from_text).collect() }
    }
}

/// The content of a broker's registration (version 5), with the ids of its log directories as a field that Kafka does not read.
pub fn encode_broker(broker: &BrokerInfo, timestamp_ms: i64) -> Bytes {
    let endpoints: Vec<String> = broker.endpoints.iter().map(|endpoint| format!("{}://{}", endpoint.listener, endpoint.address)).collect();
    let protocols: BTreeMap<&str, &str> = broker.endpoints.iter().map(|endpoint| (endpoint.listener.as_str(), endpoint.security_protocol.as_str())).collect();
    // 2013's clients know one plaintext endpoint only.
    let plain = broker.endpoints.iter().find(|endpoint| endpoint.security_protocol == "PLAINTEXT");
    let mut value = json!({
        "version": 5,
        "host": plain.map(|endpoint| &endpoint.address.host),
        "port": plain.map_or(-1, |endpoint| i32::from(endpoint.address.port)),
        "jmx_port": -1,
        "timestamp": timestamp_ms.to_string(),
        "endpoints": endpoints,
        "listener_security_protocol_map": protocols,
        "features": {},
    });
    if let Some(rack) = &broker.rack {
        value["rack"] = rack.as_str().into();
    }
    if !broker.directory_ids.is_empty() {
        value["directory_ids"] = broker.directory_ids.iter().copied().map(uuid_text::to_text).collect::<Vec<_>>().into();
    }
    encode(&value)
}

/// The broker of a registration that was created by transaction `epoch`.
///
/// # Errors
/// [`ZnodeError`].
pub fn decode_broker(path: &str, id: i32, epoch: i64, content: &[u8]) -> Result<BrokerInfo, ZnodeError> {
    #[derive(Deserialize)]
    struct Registration {
        #[serde(default)]
        endpoints: Vec<String>,
        #[serde(default)]
        listener_security_protocol_map: BTreeMap<String, String>,
        host: Option<String>,
        port: Option<i32>,
        rack: Option<String>,
        #[serde(default)]
        directory_ids: Vec<String>,
    }
    let read: Registration = decode(path, content)?;
    let mut endpoints = Vec::with_capacity(read.endpoints.len());
    for endpoint in &read.endpoints {
        let (listener, address) = endpoint.split_once("://").ok_or_else(|| ZnodeError::new(path, content, "an endpoint has no '://'"))?;
        let address = address.parse().map_err(|error: String| ZnodeError::new(path, content, error))?;
        let security_protocol = read.listener_security_protocol_map.get(listener).map_or(listener, String::as_str).to_owned();
        endpoints.push(Endpoint { listener: listener.to_owned(), security_protocol, address });
    }
    if let (true, Some(host), Some(port)) = (endpoints.is_empty(), read.host, read.port) {
        // Version 1, as 2013's brokers write it.
        let port = u16::try_from(port).map_err(|error| ZnodeError::new(path, content, error))?;
        let address = HostPort { host, port };
        endpoints.push(Endpoint { listener: "PLAINTEXT".into(), security_protocol: "PLAINTEXT".into(), address });
    }
    let directory_ids = read.directory_ids.iter().filter_map(|id| uuid_text::from_text(id)).collect();
    Ok(BrokerInfo { id, epoch, endpoints, rack: read.rack, directory_ids })
}

/// The content of a topic's znode (version 3).
pub fn encode_topic<'a>(id: Uuid, replicas: impl Iterator<Item = &'a [i32]>) -> Bytes {
    let partitions: serde_json::Map<String, Value> = replicas.enumerate().map(|(partition, replicas)| (partition.to_string(), json!(replicas))).collect();
    let topic_id = uuid_text::to_text(id);
    encode(&json!({ "version": 3, "topic_id": topic_id, "partitions": partitions, "adding_replicas": {}, "removing_replicas": {} }))
}

/// The content of a topic's znode that was there before, with this id and assignment: what else it says stays, reassignments under way among it.
pub fn encode_topic_over<'a>(before: &[u8], id: Uuid, replicas: impl Iterator<Item = &'a [i32]>) -> Bytes {
    let new = encode_topic(id, replicas);
    over(before, &new, &["version", "topic_id", "partitions"])
}

/// The content of a topic's znode that was there before, with these partitions, those of reassignments that are under way among them (KIP-455).
pub fn encode_assignment_over(before: &[u8], id: Uuid, partitions: &[PartitionImage]) -> Bytes {
    let of = |list: fn(&PartitionImage) -> &[i32]| {
        let named = partitions.iter().enumerate().filter(|(_, partition)| !list(partition).is_empty());
        named.map(|(number, partition)| (number.to_string(), json!(list(partition)))).collect::<serde_json::Map<String, Value>>()
    };
    let topic_id = uuid_text::to_text(id);
    let new = encode(&json!({
        "version": 3, "topic_id": topic_id, "partitions": of(|partition| &partition.replicas), "adding_replicas": of(|partition| &partition.adding),
        "removing_replicas": of(|partition| &partition.removing),
    }));
    over(before, &new, &["version", "topic_id", "partitions", "adding_replicas", "removing_replicas"])
}

/// `new`, with all fields of `before` that it does not name, and those of `before` where `fields` does not list them.
fn over(before: &[u8], new: &Bytes, fields: &[&str]) -> Bytes {
    let (Ok(Value::Object(mut merged)), Ok(Value::Object(new))) = (serde_json::from_slice(before), serde_json::from_slice(new)) else { return new.clone() };
    for (field, value) in new {
        if fields.contains(&field.as_str()) || !merged.contains_key(&field) {
            merged.insert(field, value);
        }
    }
    encode(&Value::Object(merged))
}

/// A topic's id, if it has one (version 3), and its assignment.
///
/// # Errors
/// [`ZnodeError`], also if partitions are missing in between.
pub fn decode_topic(path: &str, content: &[u8]) -> Result<(Option<Uuid>, Vec<Vec<i32>>), ZnodeError> {
    #[derive(Deserialize)]
    struct Topic {
        topic_id: Option<String>,
        partitions: BTreeMap<String, Vec<i32>>,
    }
    let Topic { topic_id, mut partitions } = decode(path, content)?;
    let id = match topic_id {
        Some(text) => Some(uuid_text::from_text(&text).ok_or_else(|| ZnodeError::new(path, content, "'topic_id' is no id"))?),
        None => None,
    };
    let count = partitions.len();
    let replicas = (0..count)
        .map(|partition| partitions.remove(&partition.to_string()).ok_or_else(|| ZnodeError::new(path, content, format!("partition {partition} is missing"))))
        .collect::<Result<_, _>>()?;
    Ok((id, replicas))
}

/// What reassignments that are under way add to partitions and remove from them, by partition number (version 3). What cannot be read is none.
pub fn decode_reassignments(content: &[u8]) -> BTreeMap<i32, (Vec<i32>, Vec<i32>)> {
    #[derive(Deserialize, Default)]
    struct Topic {
        #[serde(default)]
        adding_replicas: BTreeMap<String, Vec<i32>>,
        #[serde(default)]
        removing_replicas: BTreeMap<String, Vec<i32>>,
    }
    let Topic { adding_replicas, removing_replicas } = serde_json::from_slice(content).unwrap_or_default();
    let mut found: BTreeMap<i32, (Vec<i32>, Vec<i32>)> = BTreeMap::new();
    for (number, adding) in adding_replicas.into_iter().filter_map(|(number, list)| Some((number.parse().ok()?, list))) {
        found.entry(number).or_default().0 = adding;
    }
    for (number, removing) in removing_replicas.into_iter().filter_map(|(number, list)| Some((number.parse().ok()?, list))) {
        found.entry(number).or_default().1 = removing;
    }
    found
}

/// What a partition's `state` znode says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Always 1.
    pub version: i32,
    /// The leader, or −1.
    pub leader: i32,
    /// The leader epoch.
    pub leader_epoch: i32,
    /// The epoch of the controller that wrote it.
    pub controller_epoch: i32,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// The broker epoch of the leader when it got its epoch: no broker leads in an epoch that it held in an earlier life. A field that Kafka does not read; a
    /// string, since 2013's parser has no numbers of 64 bits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader_broker_epoch: Option<String>,
}

impl PartitionState {
    /// The state of a partition, as the controller of this epoch writes it.
    pub fn of(partition: &PartitionImage, controller_epoch: i32) -> Self {
        Self {
            version: 1,
            leader: partition.leader,
            leader_epoch: partition.leader_epoch,
            controller_epoch,
            isr: partition.isr.clone(),
            leader_broker_epoch: (partition.leader_broker_epoch >= 0).then(|| partition.leader_broker_epoch.to_string()),
        }
    }

    /// The partition of this state, in version `partition_epoch` of its znode. Who its replicas are is said elsewhere.
    pub fn image(self, replicas: Vec<i32>, partition_epoch: i32) -> PartitionImage {
        PartitionImage {
            leader: self.leader,
            leader_epoch: self.leader_epoch,
            leader_broker_epoch: self.leader_broker_epoch.and_then(|epoch| epoch.parse().ok()).unwrap_or(-1),
            replicas,
            isr: self.isr,
            partition_epoch,
            adding: Vec::new(),
            removing: Vec::new(),
        }
    }

    /// The znode's content.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("numbers are encodable").into()
    }

    /// The content of a znode that was there before, with this state: what else it says stays.
    pub fn encode_over(&self, before: &[u8]) -> Bytes {
        over(before, &self.encode(), &["version", "leader", "leader_epoch", "controller_epoch", "isr", "leader_broker_epoch"])
    }

    /// The state in a znode's content.
    ///
    /// # Errors
    /// [`ZnodeError`].
    pub fn decode(path: &str, content: &[u8]) -> Result<Self, ZnodeError> {
        decode(path, content)
    }
}

/// The content of a znode of settings.
pub fn encode_config(config: &BTreeMap<String, String>) -> Bytes {
    encode(&json!({ "version": 1, "config": config }))
}

/// Whose settings a znode of [`CONFIG_CHANGES`] says were changed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigEntity {
    /// A topic's.
    Topic(String),
    /// A broker's; those of all brokers without an id.
    Broker(Option<i32>),
}

impl ConfigEntity {
    /// Where its settings are.
    pub fn path(&self) -> String {
        match self {
            Self::Topic(topic) => topic_config_path(topic),
            Self::Broker(id) => broker_config_path(*id),
        }
    }

    /// The entity of a path of settings.
    pub fn of_path(path: &str) -> Option<Self> {
        let (kind, name) = path.strip_prefix("/config/")?.split_once('/')?;
        match (kind, name) {
            ("topics", topic) => Some(Self::Topic(topic.to_owned())),
            ("brokers", "<default>") => Some(Self::Broker(None)),
            ("brokers", id) => Some(Self::Broker(Some(id.parse().ok()?))),
            _ => None,
        }
    }

    /// The content of a notice that its settings were changed (version 2).
    pub fn encode_change(&self) -> Bytes {
        let path = self.path();
        encode(&json!({ "version": 2, "entity_path": path.strip_prefix("/config/").unwrap_or(&path) }))
    }

    /// Reads a notice, of version 1 (before 0.10) or 2. `None` for those of users, clients and addresses, and for what cannot be read.
    pub fn decode_change(content: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(content).ok()?;
        let entity_path = match value["entity_path"].as_str() {
            Some(path) => path.to_owned(),
            None => format!("{}/{}", value["entity_type"].as_str()?, value["entity_name"].as_str()?),
        };
        Self::of_path(&format!("/config/{entity_path}"))
    }
}

/// The settings in a znode's content.
///
/// # Errors
/// [`ZnodeError`].
pub fn decode_config(path: &str, content: &[u8]) -> Result<BTreeMap<String, String>, ZnodeError> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        config: BTreeMap<String, String>,
    }
    if content.is_empty() {
        return Ok(BTreeMap::new());
    }
    Ok(decode::<Config>(path, content)?.config)
}

/// The content of `/cluster/id`.
pub fn encode_cluster_id(id: &str) -> Bytes {
    encode(&json!({ "version": "1", "id": id }))
}

/// The cluster's id.
///
/// # Errors
/// [`ZnodeError`].
pub fn decode_cluster_id(content: &[u8]) -> Result<String, ZnodeError> {
    #[derive(Deserialize)]
    struct ClusterId {
        id: String,
    }
    Ok(decode::<ClusterId>(CLUSTER_ID, content)?.id)
}

/// The content of `/controller` (version 2).
pub fn encode_controller(broker: i32, timestamp_ms: i64) -> Bytes {
    encode(&json!({ "version": 2, "brokerid": broker, "timestamp": timestamp_ms.to_string(), "kraftControllerEpoch": -1 }))
}

/// The broker that `/controller` names, in any version of its content.
///
/// # Errors
/// [`ZnodeError`].
pub fn decode_controller(content: &[u8]) -> Result<i32, ZnodeError> {
    #[derive(Deserialize)]
    struct Controller {
        brokerid: i32,
    }
    // Before 0.8.1 it was the number alone.
    if let Some(id) = std::str::from_utf8(content).ok().and_then(|text| text.parse().ok()) {
        return Ok(id);
    }
    Ok(decode::<Controller>(CONTROLLER, content)?.brokerid)
}

/// The content of `/controller_epoch`.
pub fn encode_controller_epoch(epoch: i32) -> Bytes {
    epoch.to_string().into()
}

/// The controller's epoch; 0 if there was never one.
///
/// # Errors
/// [`ZnodeError`].
pub fn decode_controller_epoch(content: &[u8]) -> Result<i32, ZnodeError> {
    if content.is_empty() {
        return Ok(0);
    }
    let text = std::str::from_utf8(content).map_err(|error| ZnodeError::new(CONTROLLER_EPOCH, content, error))?;
    text.parse().map_err(|error| ZnodeError::new(CONTROLLER_EPOCH, content, error))
}

/// The content of `/latest_producer_id_block`: the ids from `start` to `end`, both included.
pub fn encode_producer_ids(broker: i32, start: i64, end: i64) -> Bytes {
    encode(&json!({ "version": 1, "broker": broker, "block_start": start.to_string(), "block_end": end.to_string() }))
}

/// The last id of the latest block; `None` if none was ever given out.
///
/// # Errors
/// [`ZnodeError`].
pub fn decode_producer_ids(content: &[u8]) -> Result<Option<i64>, ZnodeError> {
    #[derive(Deserialize)]
    struct Block {
        block_end: String,
    }
    if content.is_empty() {
        return Ok(None);
    }
    let Block { block_end } = decode(PRODUCER_ID_BLOCK, content)?;
    let end: i64 = block_end.parse().map_err(|error| ZnodeError::new(PRODUCER_ID_BLOCK, content, error))?;
    if end < 0 { Err(ZnodeError::new(PRODUCER_ID_BLOCK, content, "'block_end' is negative")) } else { Ok(Some(end)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &Bytes) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn parents_come_before_their_children() {
        for (at, path) in PERSISTENT.iter().enumerate() {
            let (parent, _) = path.rsplit_once('/').unwrap();
            assert!(parent.is_empty() || PERSISTENT[..at].contains(&parent), "{path}");
        }
    }

    #[test]
    fn brokers_are_written_as_kafka_writes_them() {
        let broker = BrokerInfo {
            id: 1,
            epoch: 9,
            endpoints: vec![
                Endpoint { listener: "CLIENT".into(), security_protocol: "SSL".into(), address: "h1:9093".parse().unwrap() },
                Endpoint { listener: "PLAINTEXT".into(), security_protocol: "PLAINTEXT".into(), address: "[::1]:9092".parse().unwrap() },
            ],
            rack: Some("dc1".into()),
            directory_ids: vec![Uuid::from_u128(1)],
        };
        let content = encode_broker(&broker, 5);
        let expected = json!({
            "version": 5, "host": "::1", "port": 9092, "jmx_port": -1, "timestamp": "5", "rack": "dc1", "features": {},
            "directory_ids": ["AAAAAAAAAAAAAAAAAAAAAQ"],
            "endpoints": ["CLIENT://h1:9093", "PLAINTEXT://[::1]:9092"],
            "listener_security_protocol_map": {"CLIENT": "SSL", "PLAINTEXT": "PLAINTEXT"},
        });
        assert_eq!(text(&content), expected);
        assert_eq!(decode_broker("/x", 1, 9, &content).unwrap(), broker);
        assert_eq!(Registration::decode(&content).directory_ids, broker.directory_ids);
        assert_eq!(Registration::decode(b"{}"), Registration::default());
        assert_eq!(Registration::decode(b"not json"), Registration::default());
        let old = decode_broker("/x", 2, 1, br#"{"jmx_port":-1,"timestamp":"1","host":"h","version":1,"port":9092}"#).unwrap();
        assert_eq!(old.endpoints[0].address.to_string(), "h:9092");
    }

    #[test]
    fn topics_are_written_as_kafka_writes_them() {
        let id = Uuid::from_u128(7);
        let content = encode_topic(id, [&[1, 2][..], &[2, 1]].into_iter());
        let expected = json!({"version": 3, "topic_id": "AAAAAAAAAAAAAAAAAAAABw", "partitions": {"0": [1, 2], "1": [2, 1]}, "adding_replicas": {}, "removing_replicas": {}});
        assert_eq!(text(&content), expected);
        assert_eq!(decode_topic("/t", &content), Ok((Some(id), vec![vec![1, 2], vec![2, 1]])));
        assert_eq!(decode_topic("/t", br#"{"version":1,"partitions":{"0":[0]}}"#), Ok((None, vec![vec![0]])));
        let error = decode_topic("/t", br#"{"version":1,"partitions":{"1":[0]}}"#).unwrap_err().to_string();
        assert!(error.contains("'/t'") && error.contains("partition 0 is missing"), "{error}");
    }

    #[test]
    fn what_others_wrote_beside_is_kept() {
        let before = br#"{"version":2,"partitions":{"0":[1]},"adding_replicas":{"0":[2]},"removing_replicas":{},"later":7}"#;
        let expected = json!({"version": 3, "topic_id": "AAAAAAAAAAAAAAAAAAAABw", "partitions": {"0": [1], "1": [2]}, "adding_replicas": {"0": [2]},
            "removing_replicas": {}, "later": 7});
        assert_eq!(text(&encode_topic_over(before, Uuid::from_u128(7), [&[1][..], &[2]].into_iter())), expected);
        let state = PartitionState { version: 1, leader: 3, leader_epoch: 4, controller_epoch: 5, isr: vec![3], leader_broker_epoch: None };
        let content = state.encode_over(br#"{"leader":9,"version":1,"leader_epoch":1,"controller_epoch":1,"isr":[9],"leader_recovery_state":0}"#);
        assert_eq!(text(&content)["leader_recovery_state"], 0);
        assert_eq!(PartitionState::decode("/s", &content), Ok(state.clone()));
        assert_eq!(state.encode_over(b"damaged"), state.encode());
    }

    #[test]
    fn notices_of_changed_settings_are_kafkas() {
        let topic = ConfigEntity::Topic("t".into());
        assert_eq!(text(&topic.encode_change()), json!({"version": 2, "entity_path": "topics/t"}));
        for entity in [topic.clone(), ConfigEntity::Broker(Some(3)), ConfigEntity::Broker(None)] {
            assert_eq!(ConfigEntity::decode_change(&entity.encode_change()), Some(entity.clone()));
            assert_eq!(ConfigEntity::of_path(&entity.path()), Some(entity));
        }
        assert_eq!(ConfigEntity::decode_change(br#"{"version":1,"entity_type":"topics","entity_name":"t"}"#), Some(topic));
        for other in [&br#"{"version":2,"entity_path":"users/bob"}"#[..], b"", br#"{"version":3}"#] {
            assert_eq!(ConfigEntity::decode_change(other), None);
        }
        assert_eq!(decode_controller(br#"{"version":1,"brokerid":4,"timestamp":"1"}"#), Ok(4));
        assert_eq!(decode_controller(b"5"), Ok(5));
    }

    #[test]
    fn states_configs_and_counters_are_written_as_kafka_writes_them() {
        let state = PartitionState { version: 1, leader: 3, leader_epoch: 4, controller_epoch: 5, isr: vec![3, 1], leader_broker_epoch: None };
        assert_eq!(text(&state.encode()), json!({"controller_epoch": 5, "leader": 3, "version": 1, "leader_epoch": 4, "isr": [3, 1]}));
        assert_eq!(PartitionState::decode("/s", &state.encode()), Ok(state));
        let config = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
        assert_eq!(text(&encode_config(&config)), json!({"version": 1, "config": {"retention.ms": "5"}}));
        assert_eq!(decode_config("/c", &encode_config(&config)), Ok(config));
        assert_eq!(text(&encode_cluster_id("x")), json!({"version": "1", "id": "x"}));
        assert_eq!(decode_cluster_id(&encode_cluster_id("x")), Ok("x".into()));
        assert_eq!(text(&encode_controller(1, 2)), json!({"version": 2, "brokerid": 1, "timestamp": "2", "kraftControllerEpoch": -1}));
        assert_eq!((decode_controller_epoch(b""), decode_controller_epoch(b"12")), (Ok(0), Ok(12)));
        assert_eq!(text(&encode_producer_ids(1, 0, 999)), json!({"version": 1, "broker": 1, "block_start": "0", "block_end": "999"}));
        assert_eq!(decode_producer_ids(&encode_producer_ids(1, 0, 999)), Ok(Some(999)));
        assert_eq!(decode_producer_ids(b""), Ok(None));
        assert!(decode_producer_ids(br#"{"block_end":"-5"}"#).is_err());
    }
}
