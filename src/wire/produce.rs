//! Produce (API key 0): the request decoded in place — records are slices of the frame — and the response.
//!
//! Versions 3 to 13 are Kafka 4.1's. Versions 0 to 2 are decoded too, only to be answered with UNSUPPORTED_VERSION: ApiVersions names them
//! (see [`super::api`]), so a client that uses one deserves an answer.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{ResponseError, protocol::StrBytes};
use std::{borrow::Cow, sync::Arc};
use uuid::Uuid;

use super::{
    frame::SIZE_BYTES,
    leader::{LeaderIdAndEpoch, NodeEndpoint, put_node_endpoints},
    primitive::{DecodeError, Reader, WriteExt},
};

/// The last version.
pub const MAX_VERSION: i16 = 13;
/// The first version that is carried out.
pub const MIN_VERSION: i16 = 3;
/// The first version with compact lengths and tagged fields.
const FLEXIBLE_VERSION: i16 = 9;
/// The first version that names topics by id (KIP-516).
const TOPIC_ID_VERSION: i16 = 13;
/// The first version whose records may be compressed with zstd (KIP-110).
pub const ZSTD_VERSION: i16 = 7;

/// A produce request. Strings and records are slices of its frame.
#[derive(Clone, Debug, PartialEq)]
pub struct ProduceRequest {
    /// The version it came in; its answer goes out in the same.
    pub version: i16,
    /// The transactional id, if the producer has one.
    pub transactional_id: Option<StrBytes>,
    /// Acknowledgements to wait for: 0 none (and no answer at all), 1 the leader, −1 all in-sync replicas.
    pub acks: i16,
    /// How long to wait for them.
    pub timeout_ms: i32,
    /// What to append, topic by topic.
    pub topics: Vec<TopicProduceData>,
}

/// A topic of a produce request.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicProduceData {
    /// Its name; empty from version 13 on.
    pub name: StrBytes,
    /// Its id; nil before version 13.
    pub topic_id: Uuid,
    /// What to append, partition by partition.
    pub partitions: Vec<PartitionProduceData>,
}

/// A partition of a produce request.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionProduceData {
    /// Which partition.
    pub index: i32,
    /// Record batches (or a message set, from a client of before 2017), not checked.
    pub records: Option<Bytes>,
}

impl ProduceRequest {
    /// Decodes a request's body. No record is looked at, and nothing but the lists of topics and partitions is allocated.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    pub fn decode(body: Bytes, version: i16) -> Result<Self, DecodeError> {
        if !(0..=MAX_VERSION).contains(&version) {
            return Err(DecodeError::UnsupportedVersion { api: "Produce", version });
        }
        let compact = version >= FLEXIBLE_VERSION;
        let mut reader = Reader::new(body);
        let reader = &mut reader;
        let transactional_id = if version >= 3 { reader.nullable_string(compact, "transactional_id")? } else { None };
        let acks = reader.i16("acks")?;
        let timeout_ms = reader.i32("timeout_ms")?;
        let topic_count = required(reader, compact, if compact { 3 } else { 6 }, "topic_data")?;
        let mut topics = Vec::with_capacity(topic_count);
        for _ in 0..topic_count {
            let (name, topic_id) = topic(reader, compact, version >= TOPIC_ID_VERSION)?;
            let partition_count = required(reader, compact, if compact { 6 } else { 8 }, "partition_data")?;
            let mut partitions = Vec::with_capacity(partition_count);
            for _ in 0..partition_count {
                let index = reader.i32("index")?;
                let records = reader.nullable_bytes(compact, "records")?;
                if compact {
                    reader.tagged_fields("partition_data", |_, _| Ok(false))?;
                }
                partitions.push(PartitionProduceData { index, records });
            }
            if compact {
                reader.tagged_fields("topic_data", |_, _| Ok(false))?;
            }
            topics.push(TopicProduceData { name, topic_id, partitions });
        }
        if compact {
            reader.tagged_fields("produce request", |_, _| Ok(false))?;
        }
        Ok(Self { version, transactional_id, acks, timeout_ms, topics })
    }

    /// The answer that gives every partition the same error.
    pub fn error_response(&self, error: ResponseError) -> ProduceResponse {
        let topics = self.topics.iter().map(|topic| TopicProduceResponse {
            name: Arc::from(topic.name.as_str()),
            topic_id: topic.topic_id,
            partitions: topic.partitions.iter().map(|partition| PartitionProduceResponse::error(partition.index, error)).collect(),
        });
        ProduceResponse { topics: topics.collect(), throttle_time_ms: 0, node_endpoints: Vec::new() }
    }
}

/// The name or the id of a topic, whichever the version has.
pub(super) fn topic(reader: &mut Reader, compact: bool, by_id: bool) -> Result<(StrBytes, Uuid), DecodeError> {
    if by_id { Ok((StrBytes::default(), reader.uuid("topic_id")?)) } else { Ok((reader.string(compact, "topic")?, Uuid::nil())) }
}

/// The count of an array that may not be null.
pub(super) fn required(reader: &mut Reader, compact: bool, min_element_bytes: usize, field: &'static str) -> Result<usize, DecodeError> {
    reader.count(compact, min_element_bytes, field)?.ok_or(DecodeError::BadLength { field, length: -1, have_bytes: reader.remaining() })
}

/// The answer to a produce request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ProduceResponse {
    /// What became of it, topic by topic.
    pub topics: Vec<TopicProduceResponse>,
    /// How long the client was throttled.
    pub throttle_time_ms: i32,
    /// Where the leaders named in the partitions are (version 10).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// A topic of a produce response.
#[derive(Clone, Debug, PartialEq)]
pub struct TopicProduceResponse {
    /// Its name; written before version 13.
    pub name: Arc<str>,
    /// Its id; written from version 13 on.
    pub topic_id: Uuid,
    /// What became of it, partition by partition.
    pub partitions: Vec<PartitionProduceResponse>,
}

/// A partition of a produce response.
#[derive(Clone, Debug, PartialEq)]
pub struct PartitionProduceResponse {
    /// Which partition.
    pub index: i32,
    /// Kafka's error code, 0 for none.
    pub error_code: i16,
    /// Offset of the first record, −1 with an error.
    pub base_offset: i64,
    /// When it was appended, if the topic's timestamps are those of the append; else −1.
    pub log_append_time_ms: i64,
    /// Where the log starts, −1 with an error (version 5).
    pub log_start_offset: i64,
    /// Which records were refused, by their index in the batch, and why (KIP-467, version 8).
    pub record_errors: Vec<RecordError>,
    /// What was wrong with them in general (version 8).
    pub error_message: Option<Cow<'static, str>>,
    /// Who leads the partition, with NOT_LEADER_OR_FOLLOWER (KIP-951, version 10).
    pub current_leader: Option<LeaderIdAndEpoch>,
}

/// A record that was refused, and its whole batch with it (KIP-467).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Its index in the batch.
    pub batch_index: i32,
    /// What is wrong with it.
    pub message: Option<Cow<'static, str>>,
}

impl PartitionProduceResponse {
    /// A partition that was appended to.
    pub fn appended(index: i32, base_offset: i64, log_append_time_ms: i64, log_start_offset: i64) -> Self {
        Self { error_code: 0, base_offset, log_append_time_ms, log_start_offset, ..Self::error(index, ResponseError::UnknownServerError) }
    }

    /// A partition that was not.
    pub fn error(index: i32, error: ResponseError) -> Self {
        Self {
            index,
            error_code: error.code(),
            base_offset: -1,
            log_append_time_ms: -1,
            log_start_offset: -1,
            record_errors: Vec::new(),
            error_message: None,
            current_leader: None,
        }
    }
}

impl ProduceResponse {
    /// The whole frame: size, header, body. Fields that a version does not have are left out of it.
    ///
    /// # Panics
    /// If the version is none of Produce's, or the response does not fit a frame: it is smaller than its request was.
    pub fn encode_frame(&self, version: i16, correlation_id: i32) -> Bytes {
        assert!((0..=MAX_VERSION).contains(&version), "Produce has no version {version}");
        let compact = version >= FLEXIBLE_VERSION;
        let mut frame = BytesMut::with_capacity(64 + self.topics.iter().map(|topic| 40 + topic.name.len() + 64 * topic.partitions.len()).sum::<usize>());
        let out = &mut frame;
        out.put_i32(0);
        out.put_i32(correlation_id);
        if compact {
            out.put_u8(0);
        }
        out.put_count(compact, self.topics.len());
        for topic in &self.topics {
            if version >= TOPIC_ID_VERSION {
                out.put_uuid(&topic.topic_id);
            } else {
                out.put_string(compact, &topic.name);
            }
            out.put_count(compact, topic.partitions.len());
            for partition in &topic.partitions {
                partition.encode(out, version, compact);
            }
            if compact {
                out.put_u8(0);
            }
        }
        if version >= 1 {
            out.put_i32(self.throttle_time_ms);
        }
        if version >= 10 {
            put_node_endpoints(out, &self.node_endpoints);
        } else if compact {
            out.put_u8(0);
        }
        let size = i32::try_from(frame.len() - SIZE_BYTES).expect("a produce response is smaller than its request");
        frame[..SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
        frame.freeze()
    }
}

impl PartitionProduceResponse {
    fn encode(&self, out: &mut BytesMut, version: i16, compact: bool) {
        out.put_i32(self.index);
        out.put_i16(self.error_code);
        out.put_i64(self.base_offset);
        if version >= 2 {
            out.put_i64(self.log_append_time_ms);
        }
        if version >= 5 {
            out.put_i64(self.log_start_offset);
        }
        if version >= 8 {
            out.put_count(compact, self.record_errors.len());
            for error in &self.record_errors {
                out.put_i32(error.batch_index);
                out.put_nullable_string(compact, error.message.as_deref());
                if compact {
                    out.put_u8(0);
                }
            }
            out.put_nullable_string(compact, self.error_message.as_deref());
        }
        match &self.current_leader {
            Some(leader) if version >= 10 => {
                out.put_u8(1);
                leader.put_tagged(out, 0);
            }
            _ if compact => out.put_u8(0),
            _ => {}
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
