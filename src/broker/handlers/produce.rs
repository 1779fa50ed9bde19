//! Produce (API 0): check each partition's batch in place, append it, and answer when it is committed.
//!
//! The append runs in the order of the connection's requests; the wait for the flush does not hold the next request up.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Error;
use smallvec::SmallVec;

use super::{Context, led_partition};
use crate::broker::Broker;
use crate::broker::dispatch::{Outcome, framed};
use crate::config::topic::{CompressionType, TimestampType as ConfiguredTimestampType, TopicConfig};
use crate::log::{AppendError, BatchToAppend, LogError, SequenceError};
use crate::purgatory::Waiter;
use crate::record::compression::Codec;
use crate::record::validate::{self, Rejected, Rules, TargetCompression, TimestampType};
use crate::replication::leader::Committed;
use crate::replication::manager::TopicReplicas;
use crate::replication::partition::{Partition, PartitionAppendError};
use crate::runtime::Runtime;
use crate::wire::frame::RequestHeader;
use crate::wire::produce::{PartitionProduceResponse, ProduceRequest, ProduceResponse, RecordError, TopicProduceResponse};

/// Answered when the records are on all in-sync replicas.
const ACKS_ALL: i16 = -1;
/// The client id under which Kafka lets its own tools write to internal topics.
const ADMIN_CLIENT_ID: &str = "__admin_client";
/// Not answered.
const ACKS_NONE: i16 = 0;

/// An append whose records are not committed yet.
struct Pending<R: Runtime> {
    /// Where in the response it is told.
    topic: usize,
    partition: usize,
    replica: Arc<Partition<R>>,
    end_offset: i64,
    /// The epoch of the append: in a later one the offsets may be others' records.
    epoch: i32,
    /// Whether all in-sync replicas must have it, or this one alone.
    by_all: bool,
}

impl<R: Runtime> Pending<R> {
    /// Whether it is stored as its producer asked for. Look whether it is [`Pending::is_lost`] first, and after.
    fn is_stored(&self) -> bool {
        let end = if self.by_all { self.replica.high_watermark() } else { self.replica.log().acknowledged_end_offset() };
        end >= self.end_offset
    }

    /// Whether nobody will ever say that it is stored.
    fn is_lost(&self) -> bool {
        self.replica.is_deleted() || !self.replica.leads_in(self.epoch)
    }

    /// The answer in place of success; `None` is success.
    fn error(&self) -> Option<Error> {
        let is_stored = self.is_stored();
        if self.replica.is_deleted() {
            // What was stored before is told so.
            (!is_stored).then_some(Error::UnknownTopicOrPartition)
        } else if !self.replica.leads_in(self.epoch) {
            Some(Error::NotLeaderOrFollower)
        } else if !is_stored {
            Some(Error::RequestTimedOut)
        } else {
            (self.by_all && self.replica.committed_by_all(self.end_offset) == Committed::TooFew).then_some(Error::NotEnoughReplicasAfterAppend)
        }
    }
}

/// Produce.
pub async fn produce<R: Runtime>(broker: &Arc<Broker<R>>, header: RequestHeader, context: Context, body: Bytes) -> Outcome<R> {
    let request = match ProduceRequest::decode(body, header.version) {
        Ok(request) => request,
        Err(error) => return Outcome::Close(format!("a malformed Produce request: {error}")),
    };
    let acks = request.acks;
    let refused = if !header.api.serves(header.version) {
        Some(Error::UnsupportedVersion)
    } else if !(ACKS_ALL..=1).contains(&acks) {
        Some(Error::InvalidRequiredAcks)
    } else if request.transactional_id.is_some() {
        // Without a transaction coordinator no producer can have begun a transaction.
        Some(Error::InvalidTxnState)
    } else {
        None
    };
    if let Some(error) = refused {
        return answer(&header, acks, &request.error_response(error));
    }

    // `timeout.ms` is for replicas to follow; who asks for the leader's word alone gets it when it is on disk.
    let timeout = if acks == ACKS_ALL { Duration::from_millis(request.timeout_ms.max(0).unsigned_abs().into()) } else { Duration::MAX };
    let is_admin = context.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
    let mut pending: SmallVec<[Pending<R>; 2]> = SmallVec::new();
    let mut response = ProduceResponse { topics: Vec::with_capacity(request.topics.len()), throttle_time_ms: 0, node_endpoints: Vec::new() };
    for topic in request.topics {
        let find = || if topic.topic_id.is_nil() { broker.replicas().topic(&topic.name) } else { broker.replicas().topic_by_id(topic.topic_id) };
        let mut replicas = find();
        if replicas.is_none() {
            // Its creator may have been answered before this broker, which is to lead it, has heard of it.
            broker.catch_up().await;
            replicas = find();
        }
        let mut partitions = Vec::with_capacity(topic.partitions.len());
        for data in topic.partitions {
            let appended = match &replicas {
                Some(replicas) => append(broker, replicas, header.version, acks, is_admin, data.index, data.records).await,
                None if header.version >= 13 => Err(Refusal::from(Error::UnknownTopicId)),
                None => Err(Refusal::from(led_partition(broker, &topic.name, data.index).err().unwrap_or(Error::UnknownTopicOrPartition))),
            };
            match appended {
                Ok(Appended { replica, told, end_offset, epoch }) => {
                    // Of the only replica what is stored is committed; a leader of others is asked again once it is.
                    let by_all = acks == ACKS_ALL || replica.is_alone();
                    let wait = Pending { topic: response.topics.len(), partition: partitions.len(), replica, end_offset, epoch, by_all };
                    if acks != ACKS_NONE && (!wait.is_stored() || !wait.replica.is_alone()) && !crate::plant!(broker.runtime(), "ack-before-commit") {
                        pending.push(wait);
                    }
                    partitions.push(told);
                }
                Err(refusal) => partitions.push(refusal.told(data.index)),
            }
        }
        let name = replicas.as_ref().map_or_else(|| Arc::from(topic.name.as_str()), |replicas| Arc::clone(&replicas.image.name));
        response.topics.push(TopicProduceResponse { name, topic_id: topic.topic_id, partitions });
    }
    drop(context);
    if acks == ACKS_NONE || pending.is_empty() {
        return answer(&header, acks, &response);
    }
    let runtime = broker.runtime().clone();
    Outcome::Later(Box::pin(async move {
        let pending = Waiting { waiter: Waiter::new(), pending };
        let mut deadline = runtime.sleep(timeout);
        tokio::select! {
            biased;
            () = pending.all_committed() => {}
            () = &mut deadline => {}
        };
        for wait in &pending.pending {
            let told = &mut response.topics[wait.topic].partitions[wait.partition];
            if let Some(error) = wait.error() {
                *told = PartitionProduceResponse::error(told.index, error);
            }
        }
        framed::<R>(response.encode_frame(header.version, header.correlation_id))
    }))
}

fn answer<R: Runtime>(header: &RequestHeader, acks: i16, response: &ProduceResponse) -> Outcome<R> {
    if acks != ACKS_NONE {
        return Outcome::Reply(framed::<R>(response.encode_frame(header.version, header.correlation_id)));
    }
    // Without an answer the end of the connection is the only way to tell of a failure.
    let failed = response.topics.iter().flat_map(|topic| &topic.partitions).find(|partition| partition.error_code != 0);
    match failed {
        Some(failed) => Outcome::Close(format!("a Produce request with acks=0 failed with error {} on partition {}", failed.error_code, failed.index)),
        None => Outcome::Nothing,
    }
}

/// A refused partition.
struct Refusal {
    error: Error,
    record_errors: Vec<RecordError>,
    message: Option<Cow<'static, str>>,
    log_start_offset: i64,
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { error, record_errors: Vec::new(), message: None, log_start_offset: -1 }
    }
}

impl Refusal {
    fn told(self, index: i32) -> PartitionProduceResponse {
        PartitionProduceResponse {
            record_errors: self.record_errors,
            error_message: self.message,
            log_start_offset: self.log_start_offset,
            ..PartitionProduceResponse::error(index, self.error)
        }
    }
}

impl From<Rejected> for Refusal {
    fn from(rejected: Rejected) -> Self {
        Self { error: rejected.error, record_errors: rejected.record_errors, message: Some(rejected.message), log_start_offset: -1 }
    }
}

/// What a topic's configuration asks of its records.
fn rules(config: &TopicConfig) -> Rules {
    let codec = |codec, level| TargetCompression::Codec { codec, level };
    Rules {
        timestamp_type: match config.message_timestamp_type {
            ConfiguredTimestampType::CreateTime => TimestampType::CreateTime,
            ConfiguredTimestampType::LogAppendTime => TimestampType::LogAppendTime,
        },
        timestamp_before_max_ms: config.message_timestamp_before_max_ms,
        timestamp_after_max_ms: config.message_timestamp_after_max_ms,
        compression: match config.compression_type {
            CompressionType::Producer => TargetCompression::Producer,
            CompressionType::Uncompressed => codec(Codec::None, None),
            CompressionType::Gzip => codec(Codec::Gzip, Some(config.compression_gzip_level).filter(|level| *level >= 0)),
            CompressionType::Snappy => codec(Codec::Snappy, None),
            CompressionType::Lz4 => codec(Codec::Lz4, Some(config.compression_lz4_level)),
            CompressionType::Zstd => codec(Codec::Zstd, Some(config.compression_zstd_level)),
        },
        compacted: config.cleanup_policy.compact,
        max_message_bytes: config.max_message_bytes.max(0) as usize,
        ..Rules::default()
    }
}

/// What was appended, and where.
struct Appended<R: Runtime> {
    replica: Arc<Partition<R>>,
    told: PartitionProduceResponse,
    end_offset: i64,
    epoch: i32,
}

async fn append<R: Runtime>(
    broker: &Arc<Broker<R>>,
    replicas: &TopicReplicas<R>,
    version: i16,
    acks: i16,
    is_admin: bool,
    index: i32,
    records: Option<Bytes>,
) -> Result<Appended<R>, Refusal> {
    let replica = match replicas.partition(index) {
        Some(replica) => Arc::clone(replica),
        None => led_partition(broker, &replicas.image.name, index)?,
    };
    if replicas.image.internal && !is_admin {
        // The broker's own memory: what others put there it could not read again.
        return Err(Refusal { message: Some(Cow::Borrowed("Cannot append to an internal topic.")), ..Error::InvalidTopicException.into() });
    }
    if !replica.leads() {
        return Err(Error::NotLeaderOrFollower.into());
    }
    let told_in_sync = || replicas.image.partitions.get(index as usize).map_or(0, |partition| partition.isr.len());
    let in_sync = if replica.is_alone() { told_in_sync() } else { replica.in_sync_count().unwrap_or(0) };
    if acks == ACKS_ALL && in_sync < replicas.config.min_insync_replicas.max(1) as usize {
        return Err(Refusal {
            message: Some(Cow::Owned(format!("{in_sync} replicas are in sync; min.insync.replicas is {}", replicas.config.min_insync_replicas))),
            ..Error::NotEnoughReplicas.into()
        });
    }
    let rules = rules(&replicas.config);
    let now = broker.runtime().unix_ms();
    let checked = validate::check(records.as_ref(), version, &rules, now)?;
    // Decoding and compressing all records is work for another thread; a batch that stays as it is costs nothing more.
    let validated =
        if checked.decodes_records() { broker.runtime().blocking(move || checked.finish(&rules, now)).await? } else { checked.finish(&rules, now)? };
    if validated.header.is_transactional() {
        // Nobody can have begun it, so nobody would ever end it. Kafka's answer to whoever may not use its transactional id.
        let message = Some(Cow::Borrowed("this broker has no transactions yet: produce without a transactional id"));
        return Err(Refusal { message, ..Error::TransactionalIdAuthorizationFailed.into() });
    }
    // Before the append: a later epoch's append is taken for this one's at worst, and told to be asked again.
    let epoch = replica.leader_epoch();
    let info = match replica.append(&[BatchToAppend { header: validated.header, bytes: validated.bytes }]).await {
        Ok(info) => info,
        Err(PartitionAppendError::NotLeader) => return Err(Error::NotLeaderOrFollower.into()),
        Err(PartitionAppendError::Append(error)) => return Err(append_refusal(&replica, &error)),
    };
    let told = PartitionProduceResponse::appended(index, info.base_offset, info.log_append_time_ms, info.log_start_offset);
    Ok(Appended { replica, told, end_offset: info.last_offset + 1, epoch })
}

/// The wire's word for a failed append.
fn append_refusal<R: Runtime>(replica: &Arc<Partition<R>>, error: &AppendError) -> Refusal {
    let code = match error {
        AppendError::Sequence(SequenceError::OutOfOrder { .. }) => Error::OutOfOrderSequenceNumber,
        AppendError::Sequence(SequenceError::InvalidEpoch { .. }) => Error::InvalidProducerEpoch,
        AppendError::Sequence(SequenceError::InvalidTransactionState { .. }) => Error::InvalidTxnState,
        AppendError::MessageTooLarge { .. } => Error::MessageTooLarge,
        AppendError::LargerThanSegment { .. } => Error::RecordListTooLarge,
        AppendError::Log(LogError::Deleted { .. }) => Error::UnknownTopicOrPartition,
        AppendError::OffsetsNotIncreasing { .. } | AppendError::Log(_) => Error::KafkaStorageError,
    };
    // That a log is offline was told once, when it went.
    if code == Error::KafkaStorageError && !matches!(error, AppendError::Log(LogError::Offline { .. })) {
        tracing::error!(partition = %replica.id(), %error, "an append failed");
    } else {
        tracing::debug!(partition = %replica.id(), %error, "an append was refused");
    }
    Refusal { message: Some(Cow::Owned(error.to_string())), log_start_offset: replica.log().log_start_offset(), ..code.into() }
}

/// Appends waiting for their high watermarks; forgets its place in their lists when it goes.
struct Waiting<R: Runtime> {
    waiter: Arc<Waiter>,
    pending: SmallVec<[Pending<R>; 2]>,
}

impl<R: Runtime> Waiting<R> {
    async fn all_committed(&self) {
        for wait in &self.pending {
            loop {
                let done = || wait.is_stored() || wait.is_lost();
                if done() {
                    break;
                }
                if wait.by_all {
                    wait.replica.wake_at(wait.end_offset, &self.waiter);
                } else {
                    wait.replica.wake_when_stored(wait.end_offset, &self.waiter);
                }
                if done() {
                    break;
                }
                self.waiter.woken().await;
            }
        }
    }
}

impl<R: Runtime> Drop for Waiting<R> {
    fn drop(&mut self) {
        for wait in &self.pending {
            wait.replica.forget(&self.waiter);
        }
    }
}
