//! ListOffsets (API 2), OffsetForLeaderEpoch (23) and DeleteRecords (21): where things are in a log, and where it begins.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{
    DeleteRecordsRequest, DeleteRecordsResponse, ListOffsetsRequest, ListOffsetsResponse, OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse,
};

use super::{Context, led_partition, log_error, partition_error};
use crate::broker::Broker;
use crate::replication::partition::Partition;
use crate::runtime::Runtime;

/// `timestamp` of a request for the next offset (up to the high watermark).
const LATEST: i64 = -1;
/// `timestamp` of a request for the log's start.
const EARLIEST: i64 = -2;
/// `timestamp` of a request for the record with the greatest timestamp (KIP-734).
const MAX_TIMESTAMP: i64 = -3;
/// `timestamp` of a request for the start of what is on local disks (KIP-405): all of it, without tiers.
const EARLIEST_LOCAL: i64 = -4;
/// `timestamp` of a request for the end of what was moved to a remote tier (KIP-1005): nothing.
const LATEST_TIERED: i64 = -5;

struct Found {
    timestamp: i64,
    offset: i64,
    leader_epoch: i32,
}

/// What is answered where no offset fits.
const NOTHING: Found = Found { timestamp: -1, offset: -1, leader_epoch: -1 };

async fn find<R: Runtime>(partition: &Partition<R>, version: i16, timestamp: i64, is_replica: bool) -> Result<Found, Error> {
    let log = partition.log();
    // A follower asks where the log ends; a client, how far it may read.
    let high_watermark = if is_replica { log.log_end_offset() } else { partition.high_watermark() };
    // KIP-207: an earlier leader may have told more than this one knows to be committed.
    let is_unproven = !is_replica && partition.proven_high_watermark().is_none();
    let not_available = if version >= 5 { Error::OffsetNotAvailable } else { Error::LeaderNotAvailable };
    let earliest = |offset| Found { timestamp: -1, offset, leader_epoch: log.epoch_for_offset(offset).unwrap_or_else(|| partition.leader_epoch()) };
    match timestamp {
        LATEST if is_unproven => Err(not_available),
        LATEST => Ok(Found { timestamp: -1, offset: high_watermark, leader_epoch: partition.leader_epoch() }),
        EARLIEST => Ok(earliest(log.log_start_offset())),
        EARLIEST_LOCAL if version >= 8 => Ok(earliest(log.log_start_offset())),
        LATEST_TIERED if version >= 9 => Ok(NOTHING),
        MAX_TIMESTAMP if version >= 7 => match log.max_timestamp_offset().await {
            Ok(Some(at)) if at.offset < high_watermark => Ok(Found { timestamp: at.timestamp, offset: at.offset, leader_epoch: at.leader_epoch }),
            Ok(Some(_)) if is_unproven => Err(not_available),
            Ok(_) => Ok(NOTHING),
            Err(error) => Err(log_error(&error)),
        },
        timestamp if timestamp < 0 => Err(Error::UnsupportedVersion),
        timestamp => match log.offset_for_timestamp(timestamp).await {
            Ok(Some(at)) if at.offset < high_watermark => Ok(Found { timestamp: at.timestamp, offset: at.offset, leader_epoch: at.leader_epoch }),
            Ok(Some(_)) if is_unproven => Err(not_available),
            Ok(_) => Ok(NOTHING),
            Err(error) => Err(log_error(&error)),
        },
    }
}

/// ListOffsets.
pub async fn list_offsets<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: ListOffsetsRequest) -> ListOffsetsResponse {
    let is_replica = request.replica_id.0 >= 0;
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            let found = match led_partition(&broker, &topic.name, asked.partition_index)
                .and_then(|partition| partition.check_leader_epoch(asked.current_leader_epoch).map_err(|error| partition_error(&error)).map(|()| partition))
            {
                Ok(partition) => find(&partition, context.version, asked.timestamp, is_replica).await,
                Err(error) => Err(error),
            };
            let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
            partitions.push(match found {
                Ok(found) => response.with_timestamp(found.timestamp).with_offset(found.offset).with_leader_epoch(if context.version >= 4 {
                    found.leader_epoch
                } else {
                    -1
                }),
                Err(error) => response.with_error_code(error.code()).with_timestamp(-1).with_offset(-1).with_leader_epoch(-1),
            });
        }
        topics.push(ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    ListOffsetsResponse::default().with_topics(topics)
}

/// OffsetForLeaderEpoch (KIP-101, 279, 320).
pub fn offset_for_leader_epoch<R: Runtime>(broker: &Arc<Broker<R>>, request: OffsetForLeaderEpochRequest) -> OffsetForLeaderEpochResponse {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partitions
                .iter()
                .map(|asked| {
                    let response = EpochEndOffset::default().with_partition(asked.partition);
                    let found = led_partition(broker, &topic.topic, asked.partition).and_then(|partition| {
                        partition.check_leader_epoch(asked.current_leader_epoch).map_err(|error| partition_error(&error)).map(|()| partition)
                    });
                    match found {
                        Ok(partition) => {
                            // Where the epoch ends in the log, for consumers too, as Kafka answers: a new leader's high watermark may be behind what consumers
                            // were served by the one before, and what is between the two is not lost.
                            let (epoch, end_offset) = partition.log().end_offset_for_epoch(asked.leader_epoch);
                            response.with_leader_epoch(epoch).with_end_offset(end_offset)
                        }
                        Err(error) => response.with_error_code(error.code()).with_leader_epoch(-1).with_end_offset(-1),
                    }
                })
                .collect();
            OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
        })
        .collect();
    OffsetForLeaderEpochResponse::default().with_topics(topics)
}

/// DeleteRecords (KIP-107): the log's start moves up to the offset, durably, here and then on every replica that is there: one that kept the records could lead
/// later. Within the request's time-out, else REQUEST_TIMED_OUT: deleted they are, and the others follow.
pub async fn delete_records<R: Runtime>(broker: Arc<Broker<R>>, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let mut late = broker.runtime().sleep(Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0)));
    let mut here = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for asked in &topic.partitions {
            partitions.push((asked.partition_index, delete_here(&broker, &topic.name, asked.partition_index, asked.offset).await));
        }
        here.push((topic.name, partitions));
    }
    let mut topics = Vec::new();
    for (name, partitions) in here {
        let mut answers = Vec::new();
        for (index, deleted) in partitions {
            let deleted = match deleted {
                Ok((partition, offset)) => tokio::select! {
                    biased;
                    deleted = partition.deleted_everywhere(offset) => deleted.map_err(|error| partition_error(&error)),
                    () = &mut late => Err(Error::RequestTimedOut),
                },
                Err(error) => Err(error),
            };
            let answer = DeleteRecordsPartitionResult::default().with_partition_index(index);
            answers.push(match deleted {
                Ok(low_watermark) => answer.with_low_watermark(low_watermark),
                Err(error) => answer.with_error_code(error.code()).with_low_watermark(-1),
            });
        }
        topics.push(DeleteRecordsTopicResult::default().with_name(name).with_partitions(answers));
    }
    DeleteRecordsResponse::default().with_topics(topics)
}

/// Deletes from the leader's log; the partition, and up to where.
async fn delete_here<R: Runtime>(broker: &Broker<R>, topic: &str, number: i32, asked_offset: i64) -> Result<(Arc<Partition<R>>, i64), Error> {
    if crate::controller::image::is_internal(topic) {
        return Err(Error::InvalidTopicException);
    }
    let partition = led_partition(broker, topic, number)?;
    // What a compacted topic keeps is decided by keys alone.
    if broker.replicas().topic(topic).is_some_and(|topic| !topic.config.cleanup_policy.delete) {
        return Err(Error::PolicyViolation);
    }
    let high_watermark = partition.high_watermark();
    // −1 asks for everything that is committed.
    let offset = if asked_offset == -1 { high_watermark } else { asked_offset };
    if offset < 0 || offset > high_watermark {
        return Err(Error::OffsetOutOfRange);
    }
    partition.log().delete_records_before(offset).await.map_err(|error| log_error(&error))?;
    partition.start_moved();
    Ok((partition, offset))
}
