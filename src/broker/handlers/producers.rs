//! InitProducerId (API 22) and DescribeProducers (61): idempotent producers.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeProducersResponse, InitProducerIdRequest, InitProducerIdResponse, ProducerId,
};
use kafka_protocol::protocol::StrBytes;

use super::led_partition;
use crate::broker::Broker;
use crate::runtime::Runtime;

/// InitProducerId without a transactional id: an id that no producer had before (KIP-98).
pub async fn init_producer_id<R: Runtime>(broker: Arc<Broker<R>>, request: InitProducerIdRequest) -> InitProducerIdResponse {
    let failed = |error: Error| {
        InitProducerIdResponse::default()
            .with_error_code(error.code())
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1)
            .with_ongoing_txn_producer_id(ProducerId(-1))
            .with_ongoing_txn_producer_epoch(-1)
    };
    if request.transactional_id.is_some() {
        // There is no transaction coordinator in this release.
        return failed(Error::InvalidRequest);
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
pub fn describe_producers<R: Runtime>(broker: &Arc<Broker<R>>, request: DescribeProducersRequest) -> DescribeProducersResponse {
    let topics = request
        .topics
        .into_iter()
        .map(|topic| {
            let partitions = topic
                .partition_indexes
                .iter()
                .map(|index| {
                    let response = PartitionResponse::default().with_partition_index(*index);
                    match led_partition(broker, &topic.name, *index) {
                        Ok(partition) => {
                            let active = partition.log().producer_states().into_iter().map(|state| {
                                ProducerState::default()
                                    .with_producer_id(ProducerId(state.producer_id))
                                    .with_producer_epoch(i32::from(state.epoch))
                                    .with_last_sequence(state.last_sequence)
                                    .with_last_timestamp(state.last_timestamp)
                                    .with_coordinator_epoch(state.coordinator_epoch)
                                    .with_current_txn_start_offset(state.current_txn_first_offset)
                            });
                            response.with_active_producers(active.collect())
                        }
                        Err(error) => response.with_error_code(error.code()).with_error_message(Some(StrBytes::from_string(error.to_string()))),
                    }
                })
                .collect();
            TopicResponse::default().with_name(topic.name).with_partitions(partitions)
        })
        .collect();
    DescribeProducersResponse::default().with_topics(topics)
}
