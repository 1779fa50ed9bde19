//! What the broker answers: a file per family of APIs, and what they share.

pub mod api_versions;
pub mod configs;
pub mod control;
pub mod fetch;
pub mod follower_fetch;
pub mod groups;
pub mod metadata;
pub mod offsets;
pub mod partitions;
pub mod produce;
pub mod producers;
pub mod topics;

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::protocol::StrBytes;

use super::Broker;
use super::connection::Peer;
use crate::controller::image::BrokerInfo;
use crate::log::{LogError, ReadError};
use crate::replication::partition::{Partition, PartitionError};
use crate::runtime::{HostPort, Runtime};

/// What a handler knows of a request besides its body.
#[derive(Clone, Debug)]
pub struct Context {
    /// The version of the API.
    pub version: i16,
    /// What the client calls itself.
    pub client_id: Option<String>,
    /// Where it comes from.
    pub peer: Peer,
}

/// Kafka's string type of a string of ours.
pub fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Where a broker listens, as clients of this listener are told.
pub fn endpoint<'a>(info: &'a BrokerInfo, listener: &str) -> Option<&'a HostPort> {
    info.endpoints.iter().find(|endpoint| endpoint.listener == listener).map(|endpoint| &endpoint.address)
}

/// The partition, if this broker leads it.
///
/// # Errors
/// `UNKNOWN_TOPIC_OR_PARTITION`, `NOT_LEADER_OR_FOLLOWER`, or `KAFKA_STORAGE_ERROR` if its log is offline.
pub fn led_partition<R: Runtime>(broker: &Broker<R>, topic: &str, partition: i32) -> Result<Arc<Partition<R>>, Error> {
    if let Some(partition) = broker.replicas().partition(topic, partition) {
        return if partition.leads() { Ok(partition) } else { Err(Error::NotLeaderOrFollower) };
    }
    let image = broker.controller().image();
    match usize::try_from(partition).ok().and_then(|number| image.topics.get(topic)?.partitions.get(number)) {
        Some(assigned) if assigned.leader == broker.id() && broker.replicas().is_offline(topic, partition) => Err(Error::KafkaStorageError),
        // Another one leads, or this one is about to: the metadata was faster than the log.
        Some(_) => Err(Error::NotLeaderOrFollower),
        None => Err(Error::UnknownTopicOrPartition),
    }
}

/// The wire's word for a partition's refusal.
pub fn partition_error(error: &PartitionError) -> Error {
    match error {
        PartitionError::FencedLeaderEpoch { .. } => Error::FencedLeaderEpoch,
        PartitionError::UnknownLeaderEpoch { .. } => Error::UnknownLeaderEpoch,
        PartitionError::NotLeader => Error::NotLeaderOrFollower,
        PartitionError::Deleted => Error::UnknownTopicOrPartition,
    }
}

/// The wire's word for a failed read.
pub fn read_error(error: &ReadError) -> Error {
    match error {
        ReadError::OffsetOutOfRange { .. } => Error::OffsetOutOfRange,
        ReadError::Log(error) => log_error(error),
    }
}

/// The wire's word for a failed log.
pub fn log_error(error: &LogError) -> Error {
    match error {
        LogError::Deleted { .. } => Error::UnknownTopicOrPartition,
        LogError::OffsetOutOfRange { .. } => Error::OffsetOutOfRange,
        error => {
            tracing::error!(%error, "a log could not be read");
            Error::KafkaStorageError
        }
    }
}
