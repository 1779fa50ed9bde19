//! Fetch (API key 1): the request, and a response that leaves holes where records go from file to socket.
//!
//! [`FetchResponse::into_frame`] yields the frame as [`Part`]s: bytes to write, and slices of files to send. The frame's length is known before
//! the first byte leaves, because a slice's length is.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::{ResponseError, protocol::StrBytes};
use smallvec::SmallVec;
use std::sync::Arc;
use uuid::Uuid;

use super::{
    frame::{EncodeError, SIZE_BYTES},
    leader::{LeaderIdAndEpoch, NodeEndpoint, put_node_endpoints},
    primitive::{DecodeError, Reader, WriteExt},
    produce::{required, topic},
};

/// The first version.
pub const MIN_VERSION: i16 = 4;
/// The last version.
pub const MAX_VERSION: i16 = 18;
/// The first version with compact lengths and tagged fields.
const FLEXIBLE_VERSION: i16 = 12;
/// The first version that names topics by id (KIP-516).
pub const TOPIC_ID_VERSION: i16 = 13;
/// The first version whose records may be compressed with zstd (KIP-110); before it such partitions get UNSUPPORTED_COMPRESSION_TYPE.
pub const ZSTD_VERSION: i16 = 10;

/// The session id of a request without a session, and of one that opens one (KIP-227).
pub const NO_SESSION_ID: i32 = 0;
/// The session epoch of a request that opens a session.
pub const INITIAL_SESSION_EPOCH: i32 = 0;
/// The session epoch of a request that closes its session, or has none.
pub const FINAL_SESSION_EPOCH: i32 = -1;
/// `high_watermark` of a follower that does not tell its own (KIP-1166).
pub const UNKNOWN_HIGH_WATERMARK: i64 = i64::MAX;

/// A fetch request. Strings are slices of its frame.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchRequest {
    /// The version it came in; its answer goes out in the same.
    pub version: i16,
    /// The cluster that the sender believes to talk to (version 12).
    pub cluster_id: Option<StrBytes>,
    /// The follower's broker id, −1 for a consumer; from version 15 in the replica state (KIP-903).
    pub replica_id: i32,
    /// The follower's broker epoch, −1 if not told (KIP-903).
    pub replica_epoch: i64,
    /// How long to wait for `min_bytes`.
    pub max_wait_ms: i32,
    /// What to wait for.
    pub min_bytes: i32,
    /// What to answer at most, except that the first batch always goes.
    pub max_bytes: i32,
    /// 0 read uncommitted, 1 read committed.
    pub isolation_level: i8,
    /// The fetch session, [`NO_SESSION_ID`] for none (KIP-227, version 7).
    pub session_id: i32,
    /// Which request of the session this is (KIP-227, version 7).
    pub session_epoch: i32,
    /// What to fetch, in order; in an incremental request, what to add to the session or to change in it.
    pub topics: Vec<FetchTopic>,
    /// What to remove from the session (version 7).
    pub forgotten_topics: Vec<ForgottenTopic>,
    /// The consumer's rack (KIP-392, version 11).
    pub rack_id: StrBytes,
}

/// A topic of a fetch request.
#[derive(Clone, Debug, PartialEq)]
pub struct FetchTopic {
    /// Its name; empty from version 13 on.
    pub name: StrBytes,
    /// Its id; nil before version 13.
    pub topic_id: Uuid,
    /// What to fetch, in order.
    pub partitions: Vec<FetchPartition>,
}

/// A partition of a fetch request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchPartition {
    /// Which partition.
    pub partition: i32,
    /// The leader epoch that the sender knows, −1 for none (KIP-320, version 9).
    pub current_leader_epoch: i32,
    /// Where to start.
    pub fetch_offset: i64,
    /// Epoch of the last record that the sender has, −1 for none (KIP-595, version 12).
    pub last_fetched_epoch: i32,
    /// Where the follower's log starts, −1 from consumers (version 5).
    pub log_start_offset: i64,
    /// What to answer at most for this partition.
    pub partition_max_bytes: i32,
    /// The follower's log directory, nil if not told (KIP-853, version 17).
    pub replica_directory_id: Uuid,
    /// The follower's high watermark, −1 if it has none, [`UNKNOWN_HIGH_WATERMARK`] if not told (KIP-1166, version 18).
    pub high_watermark: i64,
}

/// Partitions to remove from a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForgottenTopic {
    /// The topic's name; empty from version 13 on.
    pub name: StrBytes,
    /// The topic's id; nil before version 13.
    pub topic_id: Uuid,
    /// Which partitions.
    pub partitions: Vec<i32>,
}

impl FetchRequest {
    /// Decodes a request's body.
    ///
    /// # Errors
    /// [`DecodeError`]: close the connection.
    pub fn decode(body: Bytes, version: i16) -> Result<Self, DecodeError> {
        if !(MIN_VERSION..=MAX_VERSION).contains(&version) {
            return Err(DecodeError::UnsupportedVersion { api: "Fetch", version });
        }
        let compact = version >= FLEXIBLE_VERSION;
        let by_id = version >= TOPIC_ID_VERSION;
        let mut reader = Reader::new(body);
        let reader = &mut reader;
        let mut replica_id = if version <= 14 { reader.i32("replica_id")? } else { -1 };
        let max_wait_ms = reader.i32("max_wait_ms")?;
        let min_bytes = reader.i32("min_bytes")?;
        let max_bytes = reader.i32("max_bytes")?;
        let isolation_level = reader.i8("isolation_level")?;
        let (session_id, session_epoch) =
            if version >= 7 { (reader.i32("session_id")?, reader.i32("session_epoch")?) } else { (NO_SESSION_ID, FINAL_SESSION_EPOCH) };
        let topic_count = required(reader, compact, if compact { 3 } else { 6 }, "topics")?;
        let mut topics = Vec::with_capacity(topic_count);
        for _ in 0..topic_count {
            let (name, topic_id) = topic(reader, compact, by_id)?;
            let partition_count = required(reader, compact, FetchPartition::min_bytes(version), "partitions")?;
            let mut partitions = Vec::with_capacity(partition_count);
            for _ in 0..partition_count {
                partitions.push(FetchPartition::decode(reader, version)?);
            }
            if compact {
                reader.tagged_fields("topics", |_, _| Ok(false))?;
            }
            topics.push(FetchTopic { name, topic_id, partitions });
        }
        let forgotten_count = if version >= 7 { required(reader, compact, if compact { 3 } else { 6 }, "forgotten_topics_data")? } else { 0 };
        let mut forgotten_topics = Vec::with_capacity(forgotten_count);
        for _ in 0..forgotten_count {
            let (name, topic_id) = topic(reader, compact, by_id)?;
            let partition_count = required(reader, compact, 4, "partitions")?;
            let mut partitions = Vec::with_capacity(partition_count);
            for _ in 0..partition_count {
                partitions.push(reader.i32("partition")?);
            }
            if compact {
                reader.tagged_fields("forgotten_topics_data", |_, _| Ok(false))?;
            }
            forgotten_topics.push(ForgottenTopic { name, topic_id, partitions });
        }
        let rack_id = if version >= 11 { reader.string(compact, "rack_id")? } else { StrBytes::default() };
        let mut cluster_id = None;
        let mut replica_epoch = -1;
        if compact {
            reader.tagged_fields("fetch request", |reader, tag| {
                match tag {
                    0 => cluster_id = reader.nullable_string(true, "cluster_id")?,
                    1 if version >= 15 => {
                        replica_id = reader.i32("replica_id")?;
                        replica_epoch = reader.i64("replica_epoch")?;
                        reader.tagged_fields("replica_state", |_, _| Ok(false))?;
                    }
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        Ok(Self {
            version,
            cluster_id,
            replica_id,
            replica_epoch,
            max_wait_ms,
            min_bytes,
            max_bytes,
            isolation_level,
            session_id,
            session_epoch,
            topics,
            forgotten_topics,
            rack_id,
        })
    }

    /// Whether a follower sent it.
    pub fn is_from_follower(&self) -> bool {
        self.replica_id >= 0
    }

    /// The answer that fails the request as a whole. Before version 13 it repeats the error for each partition, because clients of versions
    /// below 7 see no other.
    pub fn error_response<F>(&self, error: ResponseError) -> FetchResponse<F> {
        let mut topics = Vec::new();
        if self.version < TOPIC_ID_VERSION {
            topics.extend(self.topics.iter().map(|topic| FetchableTopicResponse {
                name: Arc::from(topic.name.as_str()),
                topic_id: topic.topic_id,
                partitions: topic.partitions.iter().map(|partition| PartitionData::error(partition.partition, error)).collect(),
            }));
        }
        FetchResponse { throttle_time_ms: 0, error_code: error.code(), session_id: self.session_id, topics, node_endpoints: Vec::new() }
    }
}

impl FetchPartition {
    /// The least bytes of a partition on the wire.
    fn min_bytes(version: i16) -> usize {
        match version {
            ..5 => 16,
            5..9 => 24,
            9..12 => 28,
            12.. => 33,
        }
    }

    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let partition = reader.i32("partition")?;
        let current_leader_epoch = if version >= 9 { reader.i32("current_leader_epoch")? } else { -1 };
        let fetch_offset = reader.i64("fetch_offset")?;
        let last_fetched_epoch = if version >= 12 { reader.i32("last_fetched_epoch")? } else { -1 };
        let log_start_offset = if version >= 5 { reader.i64("log_start_offset")? } else { -1 };
        let partition_max_bytes = reader.i32("partition_max_bytes")?;
        let mut replica_directory_id = Uuid::nil();
        let mut high_watermark = UNKNOWN_HIGH_WATERMARK;
        if version >= FLEXIBLE_VERSION {
            reader.tagged_fields("partitions", |reader, tag| {
                match tag {
                    0 if version >= 17 => replica_directory_id = reader.uuid("replica_directory_id")?,
                    1 if version >= 18 => high_watermark = reader.i64("high_watermark")?,
                    _ => return Ok(false),
                }
                Ok(true)
            })?;
        }
        Ok(Self {
            partition,
            current_leader_epoch,
            fetch_offset,
            last_fetched_epoch,
            log_start_offset,
            partition_max_bytes,
            replica_directory_id,
            high_watermark,
        })
    }
}

/// A piece of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<F> {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes in a file.
    Slice {
        /// The file.
        file: F,
        /// Where in it.
        position: u64,
        /// How many.
        len: u64,
    },
}

impl<F> Part<F> {
    /// Its bytes.
    pub fn len(&self) -> u64 {
        match self {
            Part::Bytes(bytes) => bytes.len() as u64,
            Part::Slice { len, .. } => *len,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A frame in pieces.
#[derive(Clone, Debug)]
pub struct Frame<F> {
    /// The pieces, in order. Bytes come first: the size and the headers.
    pub parts: Vec<Part<F>>,
    /// Bytes of all pieces, the four of the size included.
    pub len: u64,
}

/// The answer to a fetch request. In an incremental answer, only partitions with news (KIP-227).
#[derive(Clone, Debug)]
pub struct FetchResponse<F> {
    /// How long the client was throttled.
    pub throttle_time_ms: i32,
    /// Kafka's error code for the request as a whole, 0 for none (version 7).
    pub error_code: i16,
    /// The fetch session, [`NO_SESSION_ID`] for none (version 7).
    pub session_id: i32,
    /// What was fetched, topic by topic.
    pub topics: Vec<FetchableTopicResponse<F>>,
    /// Where the leaders named in the partitions are (KIP-951, version 16).
    pub node_endpoints: Vec<NodeEndpoint>,
}

/// A topic of a fetch response.
#[derive(Clone, Debug)]
pub struct FetchableTopicResponse<F> {
    /// Its name; written before version 13.
    pub name: Arc<str>,
    /// Its id; written from version 13 on.
    pub topic_id: Uuid,
    /// What was fetched, partition by partition.
    pub partitions: Vec<PartitionData<F>>,
}

/// A partition of a fetch response.
#[derive(Clone, Debug)]
pub struct PartitionData<F> {
    /// Which partition.
    pub partition: i32,
    /// Kafka's error code, 0 for none.
    pub error_code: i16,
    /// The high watermark, −1 with an error.
    pub high_watermark: i64,
    /// Up to where transactions are decided; −1 if unknown or with an error.
    pub last_stable_offset: i64,
    /// Where the log starts, −1 with an error (version 5).
    pub log_start_offset: i64,
    /// Where the sender's log departs from the leader's (KIP-595, version 12).
    pub diverging_epoch: Option<EpochEndOffset>,
    /// Who leads the partition, with NOT_LEADER_OR_FOLLOWER and FENCED_LEADER_EPOCH (version 12).
    pub current_leader: Option<LeaderIdAndEpoch>,
    /// The aborted transactions among the records: `None` for readers of uncommitted records.
    pub aborted_transactions: Option<Vec<AbortedTransaction>>,
    /// The replica that the consumer should read from, −1 for this one (KIP-392, version 11).
    pub preferred_read_replica: i32,
    /// Whole batches, in memory or in files; none if there is nothing to send.
    pub records: SmallVec<[Part<F>; 1]>,
}

/// An epoch and where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEndOffset {
    /// The leader epoch.
    pub epoch: i32,
    /// Offset after its last record.
    pub end_offset: i64,
}

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Its producer.
    pub producer_id: i64,
    /// Offset of its first record.
    pub first_offset: i64,
}

impl<F> PartitionData<F> {
    /// A partition that could not be fetched.
    pub fn error(partition: i32, error: ResponseError) -> Self {
        Self {
            partition,
            error_code: error.code(),
            high_watermark: -1,
            last_stable_offset: -1,
            log_start_offset: -1,
            diverging_epoch: None,
            current_leader: None,
            aborted_transactions: None,
            preferred_read_replica: -1,
            records: SmallVec::new(),
        }
    }

    /// Bytes of its records.
    pub fn records_bytes(&self) -> u64 {
        self.records.iter().map(Part::len).sum()
    }
}

/// The frame under construction: the bytes of all its [`Part::Bytes`] in one buffer, and the slices with the place where they cut it.
struct Assembly<F> {
    head: BytesMut,
    cuts: Vec<(usize, Part<F>)>,
}

impl<F> FetchResponse<F> {
    /// The whole frame: size, header, body, in pieces. Fields that a version does not have are left out of it. One allocation holds all that is
    /// not records.
    ///
    /// # Errors
    /// [`EncodeError`] if the frame would be longer than its size can say (2 GiB): answer less.
    ///
    /// # Panics
    /// If the version is none of Fetch's.
    pub fn into_frame(self, version: i16, correlation_id: i32) -> Result<Frame<F>, EncodeError> {
        assert!((MIN_VERSION..=MAX_VERSION).contains(&version), "Fetch has no version {version}");
        let compact = version >= FLEXIBLE_VERSION;
        let capacity = 128 + self.topics.iter().map(|topic| 40 + topic.name.len() + 80 * topic.partitions.len()).sum::<usize>();
        let mut assembly = Assembly { head: BytesMut::with_capacity(capacity), cuts: Vec::new() };
        let out = &mut assembly.head;
        out.put_i32(0);
        out.put_i32(correlation_id);
        if compact {
            out.put_u8(0);
        }
        out.put_i32(self.throttle_time_ms);
        if version >= 7 {
            out.put_i16(self.error_code);
            out.put_i32(self.session_id);
        }
        out.put_count(compact, self.topics.len());
        for topic in self.topics {
            let out = &mut assembly.head;
            if version >= TOPIC_ID_VERSION {
                out.put_uuid(&topic.topic_id);
            } else {
                out.put_string(compact, &topic.name);
            }
            out.put_count(compact, topic.partitions.len());
            for partition in topic.partitions {
                partition.put(&mut assembly, version, compact)?;
            }
            if compact {
                assembly.head.put_u8(0);
            }
        }
        if version >= 16 {
            put_node_endpoints(&mut assembly.head, &self.node_endpoints);
        } else if compact {
            assembly.head.put_u8(0);
        }
        assembly.finish(version)
    }
}

fn too_long(version: i16, bytes: u64) -> EncodeError {
    EncodeError { api: "Fetch", version, reason: format!("{bytes} bytes do not fit a frame") }
}

impl<F> PartitionData<F> {
    fn put(self, assembly: &mut Assembly<F>, version: i16, compact: bool) -> Result<(), EncodeError> {
        let records_bytes = self.records_bytes();
        let out = &mut assembly.head;
        out.put_i32(self.partition);
        out.put_i16(self.error_code);
        out.put_i64(self.high_watermark);
        out.put_i64(self.last_stable_offset);
        if version >= 5 {
            out.put_i64(self.log_start_offset);
        }
        match &self.aborted_transactions {
            None => out.put_null(compact),
            Some(aborted) => {
                out.put_count(compact, aborted.len());
                for transaction in aborted {
                    out.put_i64(transaction.producer_id);
                    out.put_i64(transaction.first_offset);
                    if compact {
                        out.put_u8(0);
                    }
                }
            }
        }
        if version >= 11 {
            out.put_i32(self.preferred_read_replica);
        }
        if records_bytes >= i32::MAX as u64 {
            return Err(too_long(version, records_bytes));
        }
        // Never null: some clients take null records for a protocol error.
        out.put_count(compact, records_bytes as usize);
        for part in self.records {
            match part {
                Part::Bytes(bytes) if bytes.len() <= COPY_BYTES => assembly.head.put_slice(&bytes),
                part if part.is_empty() => {}
                part => assembly.cuts.push((assembly.head.len(), part)),
            }
        }
        if compact {
            let out = &mut assembly.head;
            out.put_u8(u8::from(self.diverging_epoch.is_some()) + u8::from(self.current_leader.is_some()));
            if let Some(diverging) = self.diverging_epoch {
                out.put_unsigned_varint(0);
                out.put_unsigned_varint(13);
                out.put_i32(diverging.epoch);
                out.put_i64(diverging.end_offset);
                out.put_u8(0);
            }
            if let Some(leader) = self.current_leader {
                leader.put_tagged(out, 1);
            }
        }
        Ok(())
    }
}

/// Records in memory of at most this many bytes are copied into the head: cheaper than a piece of their own.
const COPY_BYTES: usize = 512;

impl<F> Assembly<F> {
    fn finish(mut self, version: i16) -> Result<Frame<F>, EncodeError> {
        let len = self.head.len() as u64 + self.cuts.iter().map(|(_, part)| part.len()).sum::<u64>();
        let size = i32::try_from(len - SIZE_BYTES as u64).map_err(|_| too_long(version, len))?;
        self.head[..SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
        let head = self.head.freeze();
        let mut parts = Vec::with_capacity(2 * self.cuts.len() + 1);
        let mut from = 0;
        for (at, part) in self.cuts {
            if at > from {
                parts.push(Part::Bytes(head.slice(from..at)));
                from = at;
            }
            parts.push(part);
        }
        if from < head.len() {
            parts.push(Part::Bytes(head.slice(from..)));
        }
        Ok(Frame { parts, len })
    }
}

#[cfg(test)]
mod tests;
