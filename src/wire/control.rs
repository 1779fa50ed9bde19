//! What a controller says to brokers and brokers to their controller: LeaderAndIsr (API key 4), StopReplica (5), UpdateMetadata (6) and ControlledShutdown (7), in
//! the versions of Kafka 3.9's ZooKeeper-mode brokers that carry a broker epoch (KIP-380): without one a broker could not tell an order meant for its former life.
//!
//! Kafka 4 has none of them any more, and neither has `kafka-protocol`; their shapes are those of `common/message/*.json` in the clients of 3.9. They are off the hot
//! path: everything is owned, and no count becomes a capacity before that many elements can be in the frame. Each message implements the traits of
//! `kafka-protocol`, so that [`client::connection`](crate::client::connection) sends them like any other. AlterPartition (56) is `kafka-protocol`'s own.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Message, Request, VersionRange};
use uuid::Uuid;

use super::primitive::{DecodeError, Reader, WriteExt};

#[cfg(test)]
mod tests;

/// `leader_epoch` of a StopReplica for a topic that is being deleted: its leader epoch is not raised, and the order holds whatever it is (KIP-570).
pub const EPOCH_DURING_DELETE: i32 = -2;
/// `leader_epoch` of an order that carries none.
pub const NO_EPOCH: i32 = -1;
/// `broker_epoch` of an order that carries none.
pub const NO_BROKER_EPOCH: i64 = -1;

/// An API of this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlApi {
    /// Its key.
    pub key: i16,
    /// Its name, as Kafka writes it.
    pub name: &'static str,
    /// The first version served.
    pub min_version: i16,
    /// The last version served.
    pub max_version: i16,
    /// The first version with tagged fields and compact lengths (KIP-482).
    pub flexible_version: i16,
}

/// All of them, by key.
pub static CONTROL_APIS: [ControlApi; 4] = [LeaderAndIsrRequest::API, StopReplicaRequest::API, UpdateMetadataRequest::API, ControlledShutdownRequest::API];

/// The API of a key, if it is one of these.
pub fn find(key: i16) -> Option<&'static ControlApi> {
    CONTROL_APIS.iter().find(|api| api.key == key)
}

impl ControlApi {
    fn is_flexible(&self, version: i16) -> bool {
        version >= self.flexible_version
    }

    fn check(&self, version: i16) -> Result<(), DecodeError> {
        if (self.min_version..=self.max_version).contains(&version) { Ok(()) } else { Err(DecodeError::UnsupportedVersion { api: self.name, version }) }
    }
}

/// The header of a request of this module.
#[derive(Clone, Copy, Debug)]
pub struct ControlHeader {
    /// The API.
    pub api: &'static ControlApi,
    /// The version.
    pub version: i16,
    /// What the sender calls this request.
    pub correlation_id: i32,
}

/// Splits a request's frame, without its size, into header and body, if it is one of this module's.
///
/// # Errors
/// [`DecodeError`]: close the connection.
pub fn parse_request(frame: &Bytes) -> Result<Option<(ControlHeader, Bytes)>, DecodeError> {
    let mut reader = Reader::new(frame.clone());
    let Some(api) = find(reader.i16("api_key")?) else { return Ok(None) };
    let version = reader.i16("api_version")?;
    let correlation_id = reader.i32("correlation_id")?;
    api.check(version)?;
    reader.nullable_string(false, "client_id")?;
    end(&mut reader, api.is_flexible(version), "request header")?;
    Ok(Some((ControlHeader { api, version, correlation_id }, reader.into_rest())))
}

/// The frame of a response with its size, header and `body`.
pub fn response_frame(header: &ControlHeader, body: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(16 + body.len());
    out.put_i32(0);
    out.put_i32(header.correlation_id);
    put_end(&mut out, header.api.is_flexible(header.version));
    out.put_slice(body);
    let size = i32::try_from(out.len() - 4).expect("an answer is not longer than its request allows");
    out[..4].copy_from_slice(&size.to_be_bytes());
    out.freeze()
}

/// What a message of this module has to say itself. `compact` is whether the version has tagged fields and compact lengths.
trait Body: Sized {
    fn read(reader: &mut Reader, version: i16, compact: bool) -> Result<Self, DecodeError>;
    fn write(&self, out: &mut BytesMut, version: i16, compact: bool);
}

/// The traits by which the client sends and reads a message. `$headers`: the versions of the header without and with tagged fields.
macro_rules! message {
    ($name:ident, $api:expr, $headers:expr) => {
        impl $name {
            /// Its API.
            pub const API: ControlApi = $api;

            /// Decodes a body.
            ///
            /// # Errors
            /// [`DecodeError`]: close the connection.
            pub fn from_body(body: Bytes, version: i16) -> Result<Self, DecodeError> {
                Self::API.check(version)?;
                Self::read(&mut Reader::new(body), version, Self::API.is_flexible(version))
            }

            /// The body.
            ///
            /// # Panics
            /// If the version is none of the API's.
            pub fn to_body(&self, version: i16) -> Bytes {
                assert!(Self::API.check(version).is_ok(), "{} has no version {version} here", Self::API.name);
                let mut out = BytesMut::new();
                self.write(&mut out, version, Self::API.is_flexible(version));
                out.freeze()
            }
        }
        impl Message for $name {
            const VERSIONS: VersionRange = VersionRange { min: Self::API.min_version, max: Self::API.max_version };
            const DEPRECATED_VERSIONS: Option<VersionRange> = None;
        }
        impl HeaderVersion for $name {
            fn header_version(version: i16) -> i16 {
                const HEADERS: [i16; 2] = $headers;
                HEADERS[usize::from(Self::API.is_flexible(version))]
            }
        }
        impl Encodable for $name {
            fn encode<B: ByteBufMut>(&self, buf: &mut B, version: i16) -> anyhow::Result<()> {
                Self::API.check(version)?;
                buf.put_slice(&self.to_body(version));
                Ok(())
            }
            fn compute_size(&self, version: i16) -> anyhow::Result<usize> {
                Self::API.check(version)?;
                Ok(self.to_body(version).len())
            }
        }
        impl Decodable for $name {
            fn decode<B: ByteBuf>(buf: &mut B, version: i16) -> anyhow::Result<Self> {
                let length = buf.remaining();
                Ok(Self::from_body(buf.get_bytes(length), version)?)
            }
        }
    };
}

/// A request of this module and its response.
macro_rules! request {
    ($request:ident, $response:ident, $key:literal, $name:literal, $min:literal..=$max:literal, flexible $flexible:literal) => {
        message!($request, ControlApi { key: $key, name: $name, min_version: $min, max_version: $max, flexible_version: $flexible }, [1, 2]);
        message!($response, $request::API, [0, 1]);
        impl Request for $request {
            const KEY: i16 = $key;
            type Response = $response;
        }
    };
}

request!(LeaderAndIsrRequest, LeaderAndIsrResponse, 4, "LeaderAndIsr", 2..=7, flexible 4);
request!(StopReplicaRequest, StopReplicaResponse, 5, "StopReplica", 1..=4, flexible 2);
request!(UpdateMetadataRequest, UpdateMetadataResponse, 6, "UpdateMetadata", 5..=8, flexible 6);
request!(ControlledShutdownRequest, ControlledShutdownResponse, 7, "ControlledShutdown", 2..=3, flexible 3);

/// Reads an array whose elements have at least `min_bytes`; null is none.
fn array<T>(
    reader: &mut Reader,
    compact: bool,
    min_bytes: usize,
    field: &'static str,
    mut read: impl FnMut(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Vec<T>, DecodeError> {
    let count = reader.count(compact, min_bytes, field)?.unwrap_or(0);
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        elements.push(read(reader)?);
    }
    Ok(elements)
}

fn put_array<T>(out: &mut BytesMut, compact: bool, elements: &[T], mut put: impl FnMut(&mut BytesMut, &T)) {
    out.put_count(compact, elements.len());
    elements.iter().for_each(|element| put(out, element));
}

/// Broker ids.
fn ids(reader: &mut Reader, compact: bool, field: &'static str) -> Result<Vec<i32>, DecodeError> {
    array(reader, compact, 4, field, |reader| reader.i32(field))
}

fn put_ids(out: &mut BytesMut, compact: bool, ids: &[i32]) {
    put_array(out, compact, ids, |out, id| out.put_i32(*id));
}

fn string(reader: &mut Reader, compact: bool, field: &'static str) -> Result<String, DecodeError> {
    Ok(reader.string(compact, field)?.to_string())
}

fn flag(reader: &mut Reader, field: &'static str) -> Result<bool, DecodeError> {
    Ok(reader.i8(field)? != 0)
}

/// The tagged fields that end a struct of a flexible version: none is known.
fn end(reader: &mut Reader, compact: bool, field: &'static str) -> Result<(), DecodeError> {
    if compact { reader.tagged_fields(field, |_, _| Ok(false)) } else { Ok(()) }
}

fn put_end(out: &mut BytesMut, compact: bool) {
    if compact {
        out.put_u8(0);
    }
}

/// Who commands, and whom: what begins every order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sender {
    /// The controller's broker id.
    pub controller_id: i32,
    /// Whether the controller is a KRaft controller in the course of a migration (KIP-866). It never is here.
    pub is_kraft: bool,
    /// The controller's epoch: an order of an older one is refused.
    pub controller_epoch: i32,
    /// The epoch of the broker that is meant, the czxid of its registration (KIP-380); [`NO_BROKER_EPOCH`] means whichever.
    pub broker_epoch: i64,
}

/// A topic's part of a LeaderAndIsr request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderAndIsrTopic {
    /// Its name.
    pub name: String,
    /// Its id; nil before version 5.
    pub id: Uuid,
    /// Its partitions, those that the broker has a replica of.
    pub partitions: Vec<LeaderAndIsrPartition>,
}

/// What a partition is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderAndIsrPartition {
    /// Which partition.
    pub partition: i32,
    /// The epoch of the controller that decided it.
    pub controller_epoch: i32,
    /// The leader's broker id; −1 for none.
    pub leader: i32,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// The version of the partition's `state` znode.
    pub partition_epoch: i32,
    /// The assigned brokers, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those that a reassignment adds (version 3).
    pub adding_replicas: Vec<i32>,
    /// Those that a reassignment removes (version 3).
    pub removing_replicas: Vec<i32>,
    /// Whether the replica was never there before.
    pub is_new: bool,
    /// 1 while the leader recovers from an unclean election (KIP-704, version 6).
    pub leader_recovery_state: i8,
}

/// Where a leader listens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LiveLeader {
    /// Its broker id.
    pub broker_id: i32,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: i32,
}

/// LeaderAndIsr: which replicas lead and whom the others follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderAndIsrRequest {
    /// Who commands.
    pub sender: Sender,
    /// 2: these are all partitions of the broker, 1: some, 0: not said (version 5).
    pub kind: i8,
    /// What is decided.
    pub topics: Vec<LeaderAndIsrTopic>,
    /// Where the leaders among them listen.
    pub live_leaders: Vec<LiveLeader>,
}

impl Body for LeaderAndIsrRequest {
    fn read(reader: &mut Reader, version: i16, compact: bool) -> Result<Self, DecodeError> {
        let sender = Sender {
            controller_id: reader.i32("controller_id")?,
            is_kraft: version >= 7 && flag(reader, "is_kraft_controller")?,
            controller_epoch: reader.i32("controller_epoch")?,
            broker_epoch: reader.i64("broker_epoch")?,
        };
        let kind = if version >= 5 { reader.i8("type")? } else { 0 };
        let topics = array(reader, compact, if compact { 3 } else { 6 }, "topic_states", |reader| {
            let name = string(reader, compact, "topic_name")?;
            let id = if version >= 5 { reader.uuid("topic_id")? } else { Uuid::nil() };
            let partitions = array(reader, compact, 24, "partition_states", |reader| LeaderAndIsrPartition::read(reader, version, compact))?;
            end(reader, compact, "topic_states")?;
            Ok(LeaderAndIsrTopic { name, id, partitions })
        })?;
        let live_leaders = array(reader, compact, 10, "live_leaders", |reader| {
            let leader = LiveLeader { broker_id: reader.i32("broker_id")?, host: string(reader, compact, "host_name")?, port: reader.i32("port")? };
            end(reader, compact, "live_leaders")?;
            Ok(leader)
        })?;
        end(reader, compact, "leader_and_isr")?;
        Ok(Self { sender, kind, topics, live_leaders })
    }

    fn write(&self, out: &mut BytesMut, version: i16, compact: bool) {
        out.put_i32(self.sender.controller_id);
        if version >= 7 {
            out.put_u8(self.sender.is_kraft.into());
        }
        out.put_i32(self.sender.controller_epoch);
        out.put_i64(self.sender.broker_epoch);
        if version >= 5 {
            out.put_i8(self.kind);
        }
        put_array(out, compact, &self.topics, |out, topic| {
            out.put_string(compact, &topic.name);
            if version >= 5 {
                out.put_uuid(&topic.id);
            }
            put_array(out, compact, &topic.partitions, |out, partition| partition.write(out, version, compact));
            put_end(out, compact);
        });
        put_array(out, compact, &self.live_leaders, |out, leader| {
            out.put_i32(leader.broker_id);
            out.put_string(compact, &leader.host);
            out.put_i32(leader.port);
            put_end(out, compact);
        });
        put_end(out, compact);
    }
}

impl LeaderAndIsrPartition {
    fn read(reader: &mut Reader, version: i16, compact: bool) -> Result<Self, DecodeError> {
        let partition = Self {
            partition: reader.i32("partition_index")?,
            controller_epoch: reader.i32("controller_epoch")?,
            leader: reader.i32("leader")?,
            leader_epoch: reader.i32("leader_epoch")?,
            isr: ids(reader, compact, "isr")?,
            partition_epoch: reader.i32("partition_epoch")?,
            replicas: ids(reader, compact, "replicas")?,
            adding_replicas: if version >= 3 { ids(reader, compact, "adding_replicas")? } else { Vec::new() },
            removing_replicas: if version >= 3 { ids(reader, compact, "removing_replicas")? } else { Vec::new() },
            is_new: flag(reader, "is_new")?,
            leader_recovery_state: if version >= 6 { reader.i8("leader_recovery_state")? } else { 0 },
        };
        end(reader, compact, "partition_states")?;
        Ok(partition)
    }

    fn write(&self, out: &mut BytesMut, version: i16, compact: bool) {
        out.put_i32(self.partition);
        out.put_i32(self.controller_epoch);
        out.put_i32(self.leader);
        out.put_i32(self.leader_epoch);
        put_ids(out, compact, &self.isr);
        out.put_i32(self.partition_epoch);
        put_ids(out, compact, &self.replicas);
        if version >= 3 {
            put_ids(out, compact, &self.adding_replicas);
            put_ids(out, compact, &self.removing_replicas);
        }
        out.put_u8(self.is_new.into());
        if version >= 6 {
            out.put_i8(self.leader_recovery_state);
        }
        put_end(out, compact);
    }
}

/// The errors of a topic's partitions in an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TopicErrors {
    /// Its name; empty in LeaderAndIsr from version 5 on.
    pub name: String,
    /// Its id; nil before version 5 of LeaderAndIsr, and in StopReplica.
    pub id: Uuid,
    /// Partition and Kafka's error code, 0 for none.
    pub partitions: Vec<(i32, i16)>,
}

/// Reads a flat list of (topic, partition, error) as topics; those of one topic must follow one another to become one.
fn flat_errors(reader: &mut Reader, compact: bool) -> Result<Vec<TopicErrors>, DecodeError> {
    let mut topics: Vec<TopicErrors> = Vec::new();
    for (name, partition) in array(reader, compact, 8, "partition_errors", |reader| {
        let error = (string(reader, compact, "topic_name")?, (reader.i32("partition_index")?, reader.i16("error_code")?));
        end(reader, compact, "partition_errors")?;
        Ok(error)
    })? {
        match topics.last_mut().filter(|topic| topic.name == name) {
            Some(topic) => topic.partitions.push(partition),
            None => topics.push(TopicErrors { name, id: Uuid::nil(), partitions: vec![partition] }),
        }
    }
    Ok(topics)
}

fn put_flat_errors(out: &mut BytesMut, compact: bool, topics: &[TopicErrors]) {
    out.put_count(compact, topics.iter().map(|topic| topic.partitions.len()).sum());
    for topic in topics {
        for (partition, error) in &topic.partitions {
            out.put_string(compact, &topic.name);
            out.put_i32(*partition);
            out.put_i16(*error);
            put_end(out, compact);
        }
    }
}

/// The answer to LeaderAndIsr.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderAndIsrResponse {
    /// Kafka's error code for the order as a whole: STALE_CONTROLLER_EPOCH, STALE_BROKER_EPOCH, or 0.
    pub error_code: i16,
    /// The partitions.
    pub topics: Vec<TopicErrors>,
}

impl Body for LeaderAndIsrResponse {
    fn read(reader: &mut Reader, version: i16, compact: bool) -> Result<Self, DecodeError> {
        let error_code = reader.i16("error_code")?;
        let topics = if version < 5 {
            flat_errors(reader, compact)?
        } else {
            array(reader, compact, 18, "topics", |reader| {
                let id = reader.uuid("topic_id")?;
                let partitions = array(reader, compact, 7, "partition_errors", |reader| {
                    let error = (reader.i32("partition_index")?, reader.i16("error_code")?);
                    end(reader, compact, "partition_errors")?;
                    Ok(error)
                })?;
                end(reader, compact, "topics")?;
                Ok(TopicErrors { name: String::new(), id, partitions })
            })?
        };
        end(reader, compact, "leader_and_isr")?;
        Ok(Self { error_code, topics })
    }

    fn write(&self, out: &mut BytesMut, version: i16, compact: bool) {
        out.put_i16(self.error_code);
        if version < 5 {
            put_flat_errors(out, compact, &self.topics);
        } else {
            put_array(out, compact, &self.topics, |out, topic| {
                out.put_uuid(&topic.id);
                put_array(out, compact, &topic.partitions, |out, (partition, error)| {
                    out.put_i32(*partition);
                    out.put_i16(*error);
                    put_end(out, compact);
                });
                put_end(out, compact);
            });
        }
        put_end(out, compact);
    }
}

/// A partition that is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopPartition {
    /// Which partition.
    pub partition: i32,
    /// The leader epoch as of the order (KIP-570, version 3); [`NO_EPOCH`] before, [`EPOCH_DURING_DELETE`] for a topic that is deleted.
    pub leader_epoch: i32,
    /// Whether its log is to be deleted.
    pub delete: bool,
}

/// A topic's part of a StopReplica request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReplicaTopic {
    /// Its name.
    pub name: String,
    /// Its partitions. Before version 3 one flag for all of a request says whether to delete: a sender puts orders that differ into requests of their own.
    pub partitions: Vec<StopPartition>,
}

/// StopReplica: replicas that the broker is no longer to have, or no longer to lead and follow with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReplicaRequest {
    /// Who commands.
    pub sender: Sender,
    /// What is to stop.
    pub topics: Vec<StopReplicaTopic>,
}

impl Body for StopReplicaRequest {
    fn read(reader: &mut Reader, version: i16, compact: bool) -> Result<Self, DecodeError> {
        let sender = Sender {
            controller_id: reader.i32("controller_id")?,
            is_kraft: version >= 4 && flag(reader, "is_kraft_controller")?,
            controller_epoch: reader.i32("controller_epoch")?,
            broker_epoch: reader.i64("broker_epoch")?,
        };
        let delete_all = version < 3 && flag(reader, "delete_partitions")?;
        let topics = array(reader, compact, if compact { 3 } else { 6 }, "topics", |reader| {
            let name = string(reader, compact, "topic_name")?;
            let partitions = if version < 3 {
                let numbers = ids(reader, compact, "partition_indexes")?;
                numbers.into_iter().map(|partition| StopPartition { partition, leader_epoch: NO_EPOCH, delete: delete_all }).collect()
            } else {
                array(reader, compact, 10, "partition_states", |reader| {
                    let partition = reader.i32("partition_index")?;
                    let stop = StopPartition { partition, leader_epoch: reader.i32("leader_epoch")?, delete: flag(reader, "delete_partition")? };
                    end(reader, compact, "partition_states")?;
                    Ok(stop)
                })?
            };
            end(reader, compact, "topics")?;
            Ok(StopReplicaTopic { name, partitions })
        })?;
        end(reader, compact, "stop_replica")?;
        Ok(Self { sender, topics })
    }

    fn write(&self, out: &mut BytesMut, version: i16, compact: bool) {
        out.put_i32(self.sender.controller_id);
        if version >= 4 {
            out.put_u8(self.sender.is_kraft.into());
        }
        out.put_i32(self.sender.controller_epoch);
        out.put_i64(self.sender.broker_epoch);
        if version < 3 {
            let delete_all = self.topics.iter().flat_map(|topic| &topic.partitions).all(|partition| partition.delete);
            out.put_u8(delete_all.into());
        }
        put_array(out, compact, &self.topics, |out, topic| {
            out.put_string(compact, &topic.name);
            put_array(out, compact, &topic.partitions, |out, stop| {
                out.put_i32(stop.partition);
                if version >= 3 {
                    out.put_i32(stop.leader_epoch);
                    out.put_u8(stop.delete.into());
                    put_end(out, compact);
                }
            });
            put_end(out, compact);
        });
        put_end(out, compact);
    }
}

/// The answer to StopReplica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopReplicaResponse {
    /// Kafka's error code for the order as a whole: STALE_CONTROLLER_EPOCH, STALE_BROKER_EPOCH, or 0.
    pub error_code: i16,
    /// The partitions.
    pub topics: Vec<TopicErrors>,
}

impl Body for StopReplicaResponse {
    fn read(reader: &mut Reader, _version: i16, compact: bool) -> Result<Self, DecodeError> {
        let response = Self { error_code: reader.i16("error_code")?, topics: flat_errors(reader, compact)? };
        end(reader, compact, "stop_replica")?;
        Ok(response)
    }

    fn write(&self, out: &mut BytesMut, _version: i16, compact: bool) {
        out.put_i16(self.error_code);
        put_flat_errors(out, compact, &self.topics);
        put_end(out, compact);
    }
}

/// A topic's part of an UpdateMetadata request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateMetadataTopic {
    /// Its name.
    pub name: String,
    /// Its id; nil before version 7.
    pub id: Uuid,
    /// Its partitions, all or those that changed.
    pub partitions: Vec<UpdateMetadataPartition>,
}

/// What brokers tell clients of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateMetadataPartition {
    /// Which partition.
    pub partition: i32,
    /// The epoch of the controller that decided it.
    pub controller_epoch: i32,
    /// The leader's broker id; −1 for none, −2 for a topic that is being deleted.
    pub leader: i32,
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// The version of the partition's `state` znode.
    pub partition_epoch: i32,
    /// The assigned brokers, the preferred leader first.
    pub replicas: Vec<i32>,
    /// Those of them that cannot be reached.
    pub offline_replicas: Vec<i32>,
}

/// A broker, as an UpdateMetadata request tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateMetadataBroker {
    /// `broker.id`.
    pub id: i32,
    /// Where it listens.
    pub endpoints: Vec<UpdateMetadataEndpoint>,
    /// `broker.rack`.
    pub rack: Option<String>,
}

/// A listener of a broker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateMetadataEndpoint {
    /// Its port.
    pub port: i32,
    /// Its host.
    pub host: String,
    /// Its name.
    pub listener: String,
    /// Kafka's number of its protocol: 0 PLAINTEXT, 1 SSL, 2 SASL_PLAINTEXT, 3 SASL_SSL.
    pub security_protocol: i16,
}

/// UpdateMetadata: what brokers tell clients of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpdateMetadataRequest {
    /// Who commands.
    pub sender: Sender,
    /// 2: this is all there is, 1: what changed, 0: not said (version 8, tagged).
    pub kind: i8,
    /// The topics.
    pub topics: Vec<UpdateMetadataTopic>,
    /// The registered brokers, all of them.
    pub live_brokers: Vec<UpdateMetadataBroker>,
}

impl Body for UpdateMetadataRequest {
    fn read(reader: &mut Reader, version: i16, compact: bool) -> Result<Self, DecodeError> {
        let sender = Sender {
            controller_id: reader.i32("controller_id")?,
            is_kraft: version >= 8 && flag(reader, "is_kraft_controller")?,
            controller_epoch: reader.i32("controller_epoch")?,
            broker_epoch: reader.i64("broker_epoch")?,
        };
        let topics = array(reader, compact, if compact { 3 } else { 6 }, "topic_states", |reader| {
            let name = string(reader, compact, "topic_name")?;
            let id = if version >= 7 { reader.uuid("topic_id")? } else { Uuid::nil() };
            let partitions = array(reader, compact, 24, "partition_states", |reader| {
                let partition = UpdateMetadataPartition {
                    partition: reader.i32("partition_index")?,
                    controller_epoch: reader.i32("controller_epoch")?,
                    leader: reader.i32("leader")?,
                    leader_epoch: reader.i32("leader_epoch")?,
                    isr: ids(reader, compact, "isr")?,
                    partition_epoch: reader.i32("zk_version")?,
                    replicas: ids(reader, compact, "replicas")?,
                    offline_replicas: ids(reader, compact, "offline_replicas")?,
                };
                end(reader, compact, "partition_states")?;
                Ok(partition)
            })?;
            end(reader, compact, "topic_states")?;
            Ok(UpdateMetadataTopic { name, id, partitions })
        })?;
        let live_brokers = array(reader, compact, if compact { 7 } else { 10 }, "live_brokers", |reader| {
            let id = reader.i32("id")?;
            let endpoints = array(reader, compact, if compact { 9 } else { 10 }, "endpoints", |reader| {
                let endpoint = UpdateMetadataEndpoint {
                    port: reader.i32("port")?,
                    host: string(reader, compact, "host")?,
                    listener: string(reader, compact, "listener")?,
                    security_protocol: reader.i16("security_protocol")?,
                };
                end(reader, compact, "endpoints")?;
                Ok(endpoint)
            })?;
            let rack = reader.nullable_string(compact, "rack")?.map(|rack| rack.to_string());
            end(reader, compact, "live_brokers")?;
            Ok(UpdateMetadataBroker { id, endpoints, rack })
        })?;
        let mut kind = 0;
        if compact {
            reader.tagged_fields("update_metadata", |reader, tag| {
                let is_known = tag == 0 && version >= 8;
                if is_known {
                    kind = reader.i8("type")?;
                }
                Ok(is_known)
            })?;
        }
        Ok(Self { sender, kind, topics, live_brokers })
    }

    fn write(&self, out: &mut BytesMut, version: i16, compact: bool) {
        out.put_i32(self.sender.controller_id);
        if version >= 8 {
            out.put_u8(self.sender.is_kraft.into());
        }
        out.put_i32(self.sender.controller_epoch);
        out.put_i64(self.sender.broker_epoch);
        put_array(out, compact, &self.topics, |out, topic| {
            out.put_string(compact, &topic.name);
            if version >= 7 {
                out.put_uuid(&topic.id);
            }
            put_array(out, compact, &topic.partitions, |out, partition| {
                out.put_i32(partition.partition);
                out.put_i32(partition.controller_epoch);
                out.put_i32(partition.leader);
                out.put_i32(partition.leader_epoch);
                put_ids(out, compact, &partition.isr);
                out.put_i32(partition.partition_epoch);
                put_ids(out, compact, &partition.replicas);
                put_ids(out, compact, &partition.offline_replicas);
                put_end(out, compact);
            });
            put_end(out, compact);
        });
        put_array(out, compact, &self.live_brokers, |out, broker| {
            out.put_i32(broker.id);
            put_array(out, compact, &broker.endpoints, |out, endpoint| {
                out.put_i32(endpoint.port);
                out.put_string(compact, &endpoint.host);
                out.put_string(compact, &endpoint.listener);
                out.put_i16(endpoint.security_protocol);
                put_end(out, compact);
            });
            out.put_nullable_string(compact, broker.rack.as_deref());
            put_end(out, compact);
        });
        if compact && version >= 8 && self.kind != 0 {
            // One tagged field: tag 0 of one byte. What has its default is left out, as Kafka leaves it out.
            out.put_slice(&[1, 0, 1]);
            out.put_i8(self.kind);
        } else {
            put_end(out, compact);
        }
    }
}

/// The answer to UpdateMetadata.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateMetadataResponse {
    /// Kafka's error code: STALE_CONTROLLER_EPOCH, STALE_BROKER_EPOCH, or 0.
    pub error_code: i16,
}

impl Body for UpdateMetadataResponse {
    fn read(reader: &mut Reader, _version: i16, compact: bool) -> Result<Self, DecodeError> {
        let response = Self { error_code: reader.i16("error_code")? };
        end(reader, compact, "update_metadata")?;
        Ok(response)
    }

    fn write(&self, out: &mut BytesMut, _version: i16, compact: bool) {
        out.put_i16(self.error_code);
        put_end(out, compact);
    }
}

/// ControlledShutdown: a broker asks its controller to move its leaderships away before it stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlledShutdownRequest {
    /// Which broker.
    pub broker_id: i32,
    /// Its epoch: an older life's wish is refused.
    pub broker_epoch: i64,
}

impl Body for ControlledShutdownRequest {
    fn read(reader: &mut Reader, _version: i16, compact: bool) -> Result<Self, DecodeError> {
        let request = Self { broker_id: reader.i32("broker_id")?, broker_epoch: reader.i64("broker_epoch")? };
        end(reader, compact, "controlled_shutdown")?;
        Ok(request)
    }

    fn write(&self, out: &mut BytesMut, _version: i16, compact: bool) {
        out.put_i32(self.broker_id);
        out.put_i64(self.broker_epoch);
        put_end(out, compact);
    }
}

/// The answer to ControlledShutdown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControlledShutdownResponse {
    /// Kafka's error code, 0 for none.
    pub error_code: i16,
    /// What the broker still leads: it asks again until nothing is left, or its patience is over.
    pub remaining: Vec<(String, i32)>,
}

impl Body for ControlledShutdownResponse {
    fn read(reader: &mut Reader, _version: i16, compact: bool) -> Result<Self, DecodeError> {
        let error_code = reader.i16("error_code")?;
        let remaining = array(reader, compact, 6, "remaining_partitions", |reader| {
            let partition = (string(reader, compact, "topic_name")?, reader.i32("partition_index")?);
            end(reader, compact, "remaining_partitions")?;
            Ok(partition)
        })?;
        end(reader, compact, "controlled_shutdown")?;
        Ok(Self { error_code, remaining })
    }

    fn write(&self, out: &mut BytesMut, _version: i16, compact: bool) {
        out.put_i16(self.error_code);
        put_array(out, compact, &self.remaining, |out, (topic, partition)| {
            out.put_string(compact, topic);
            out.put_i32(*partition);
            put_end(out, compact);
        });
        put_end(out, compact);
    }
}
