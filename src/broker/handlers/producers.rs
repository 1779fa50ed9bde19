//! InitProducerId (API 22) and DescribeProducers (61): idempotent producers.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;

use super::led_partition;
use crate::broker::Broker;
use crate::runtime::Runtime;

/// InitProducerId without a transactional id: an id that no producer had before (KIP-98), whatever id the producer says it has (KIP-360).
pub async fn init_producer_id<R: Runtime>(broker: Arc<Broker<R>>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let failed = |error: Error| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
            .with_ongoing_txn_producer_id(ProducerId(-1))
            .with_ongoing_txn_producer_epoch(-1)
    };
    match request.transactional_id.as_ref().map(|id| id.as_str()) {
        None => {}
        Some("") => return failed(Error::InvalidRequest),
        // There is no transaction coordinator in this release. This is the error that ends every client's attempt at once.
        Some(_) => return failed(Error::TransactionalIdAuthorizationFailed),
    }
    match broker.controller().allocate_producer_id().await {
        Ok(id) => InitProducerIdResponse::default()
            .with_producer_id(ProducerId(id))
            .with_producer_epoch(0)
            .with_ongoing_txn_producer_id(ProducerId(-1))
            .with_ongoing_txn_producer_epoch(-1),
        Err(error) => {
            tracing::warn!(%error, "no producer id could be allocated");
            failed(Error::CoordinatorNotAvailable)
        }
    }
}

/// DescribeProducers (KIP-664): who wrote to a partition last.
pub async fn describe_producers<R: Runtime>(broker: Arc<Broker<R>>, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let mut topics = Vec::new();
    for topic in request.topics {
        let mut partitions = Vec::new();
        for index in &topic.partition_indexes {
            let response = PartitionResponse::default().with_partition_index(*index);
            partitions.push(match led_partition(&broker, &topic.name, *index) {
                Ok(partition) => {
                    let states = partition.log().producer_states().await;
                    let active = states.iter().map(|(producer_id, entry)| {
                        ProducerState::default()
                            .with_producer_id(ProducerId(producer_id))
                            .with_producer_epoch(i32::from(entry.epoch))
                            .with_last_sequence(entry.last_sequence())
                            .with_last_timestamp(entry.last_timestamp)
                            .with_coordinator_epoch(entry.coordinator_epoch)
                            .with_current_txn_start_offset(entry.current_txn_first_offset.unwrap_or(-1))
                    });
                    response.with_active_producers(active.collect())
                }
                Err(error) => response.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(error.to_string()))),
            });
        }
        topics.push(TopicResponse::default().with_name(topic.name).with_partitions(partitions));
    }
    DescribeProducersResponse::default().with_topics(topics)
}
