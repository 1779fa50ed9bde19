//! What the controller is asked about partitions: AlterPartition (API 56) by leaders, ElectLeaders (43), AlterPartitionReassignments (45) and
//! ListPartitionReassignments (46) by operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::alter_partition_reassignments_response::{ReassignablePartitionResponse, ReassignableTopicResponse};
use kafka_protocol::messages::alter_partition_response::{PartitionData, TopicData};
use kafka_protocol::messages::elect_leaders_response::{PartitionResult, ReplicaElectionResult};
use kafka_protocol::messages::list_partition_reassignments_response::{OngoingPartitionReassignment, OngoingTopicReassignment};
use kafka_protocol::messages::{
    AlterPartitionReassignmentsRequest, AlterPartitionReassignmentsResponse, AlterPartitionRequest, AlterPartitionResponse, BrokerId, ElectLeadersRequest,
    ElectLeadersResponse, ListPartitionReassignmentsRequest, ListPartitionReassignmentsResponse, TopicName,
};

use super::{Context, string};
use crate::broker::Broker;
use crate::controller::image::PartitionImage;
use crate::controller::topics::ApiError;
use crate::controller::{Election, IsrChange, PartitionName};
use crate::runtime::Runtime;

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// Errors that concern a request as a whole.
fn is_of_all(code: Error) -> bool {
    matches!(code, Error::NotController | Error::StaleBrokerEpoch | Error::RequestTimedOut)
}

/// AlterPartition (KIP-497, KIP-903).
pub async fn alter_partition<R: Runtime>(broker: Arc<Broker<R>>, request: AlterPartitionRequest) -> AlterPartitionResponse {
    let mut changes = Vec::new();
    for topic in &request.topics {
        for partition in &topic.partitions {
            // Version 2 has no epochs.
            let plain = partition.new_isr.iter().map(|id| (id.0, -1));
            let isr = plain.chain(partition.new_isr_with_epochs.iter().map(|state| (state.broker_id.0, state.broker_epoch))).collect();
            let change = IsrChange { leader_epoch: partition.leader_epoch, partition_epoch: partition.partition_epoch, isr };
            changes.push((topic.topic_id, partition.partition_index, change));
        }
    }
    let results = broker.controller().alter_partitions(request.broker_id.0, request.broker_epoch, changes).await;
    if let Some(Err(error)) = results.iter().find(|result| matches!(result, Err(error) if is_of_all(error.code)))
        && results.iter().all(Result::is_err)
    {
        return AlterPartitionResponse::default().with_error_code(error.code.code());
    }
    let mut results = results.into_iter();
    let mut answered = |number: i32| match results.next() {
        Some(Ok(PartitionImage { leader, leader_epoch, isr, partition_epoch, .. })) => PartitionData::default()
            .with_partition_index(number)
            .with_leader_id(BrokerId(leader))
            .with_leader_epoch(leader_epoch)
            .with_isr(ids(&isr))
            .with_partition_epoch(partition_epoch),
        Some(Err(error)) => PartitionData::default().with_partition_index(number).with_error_code(error.code.code()),
        None => PartitionData::default().with_partition_index(number).with_error_code(Error::UnknownServerError.code()),
    };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| answered(partition.partition_index)).collect();
        TopicData::default().with_topic_id(topic.topic_id).with_partitions(partitions)
    });
    AlterPartitionResponse::default().with_topics(topics.collect())
}

/// ElectLeaders (KIP-460). Version 0 knows preferred elections only.
pub async fn elect_leaders<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: ElectLeadersRequest) -> ElectLeadersResponse {
    let election = match request.election_type {
        _ if context.version == 0 => Election::Preferred,
        0 => Election::Preferred,
        1 => Election::Unclean,
        _ => return ElectLeadersResponse::default().with_error_code(Error::InvalidRequest.code()),
    };
    let named = request.topic_partitions.as_ref().map(|topics| {
        let names = topics.iter().flat_map(|topic| topic.partitions.iter().map(|number| (Arc::from(topic.topic.as_str()), *number)));
        names.collect::<Vec<PartitionName>>()
    });
    match broker.controller().elect_leaders(election, named).await {
        Err(error) => {
            let response = ElectLeadersResponse::default();
            if context.version >= 1 { response.with_error_code(error.code.code()) } else { refused(request, &error) }
        }
        Ok(elected) => {
            let mut topics: BTreeMap<Arc<str>, Vec<PartitionResult>> = BTreeMap::new();
            for ((topic, number), result) in elected {
                let told = PartitionResult::default().with_partition_id(number);
                topics.entry(topic).or_default().push(match result {
                    Ok(()) => told,
                    Err(error) => told.with_error_code(error.code.code()).with_error_message(Some(string(&error.message))),
                });
            }
            let results = topics
                .into_iter()
                .map(|(topic, results)| ReplicaElectionResult::default().with_topic(TopicName(string(&topic))).with_partition_result(results));
            ElectLeadersResponse::default().with_replica_election_results(results.collect())
        }
    }
}

/// Version 0 has no error of its own: each partition tells it.
fn refused(request: ElectLeadersRequest, error: &ApiError) -> ElectLeadersResponse {
    let results = request.topic_partitions.unwrap_or_default().into_iter().map(|topic| {
        let told = |number: &i32| PartitionResult::default().with_partition_id(*number).with_error_code(error.code.code());
        ReplicaElectionResult::default().with_partition_result(topic.partitions.iter().map(told).collect()).with_topic(topic.topic)
    });
    ElectLeadersResponse::default().with_replica_election_results(results.collect())
}

/// AlterPartitionReassignments (KIP-455).
pub async fn alter_partition_reassignments<R: Runtime>(
    broker: Arc<Broker<R>>,
    request: AlterPartitionReassignmentsRequest,
) -> AlterPartitionReassignmentsResponse {
    let mut targets = Vec::new();
    for topic in &request.topics {
        let name: Arc<str> = Arc::from(topic.name.as_str());
        for partition in &topic.partitions {
            let replicas = partition.replicas.as_ref().map(|replicas| replicas.iter().map(|id| id.0).collect());
            targets.push(((name.clone(), partition.partition_index), replicas));
        }
    }
    let may_change = request.allow_replication_factor_change;
    let image = broker.controller().image();
    // Version 1 can insist on the number of replicas (KIP-860).
    let factor = |(topic, number): &PartitionName| image.partition(topic, *number).map(|partition| partition.replicas.len() - partition.adding.len());
    let keeps = |(name, target): &(PartitionName, Option<Vec<i32>>)| {
        may_change || target.as_ref().is_none_or(|target| factor(name).is_none_or(|factor| factor == target.len()))
    };
    let kept: Vec<bool> = targets.iter().map(keeps).collect();
    let asked = targets.into_iter().zip(&kept).filter(|(_, kept)| **kept).map(|(target, _)| target).collect();
    let results = broker.controller().reassign(asked).await;
    if let Some(Err(error)) = results.first()
        && is_of_all(error.code)
    {
        return AlterPartitionReassignmentsResponse::default().with_error_code(error.code.code()).with_error_message(Some(string(&error.message)));
    }
    let (mut results, mut kept) = (results.into_iter(), kept.into_iter());
    let changed = || ApiError::new(Error::InvalidReplicationFactor, "The replication factor is changed but allow_replication_factor_change is false.");
    let mut told = |number: i32| {
        let result = if kept.next() == Some(true) { results.next().unwrap_or(Ok(())) } else { Err(changed()) };
        let told = ReassignablePartitionResponse::default().with_partition_index(number);
        match result {
            Ok(()) => told.with_error_message(None),
            Err(error) => told.with_error_code(error.code.code()).with_error_message(Some(string(&error.message))),
        }
    };
    let responses = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| told(partition.partition_index)).collect();
        ReassignableTopicResponse::default().with_name(topic.name.clone()).with_partitions(partitions)
    });
    AlterPartitionReassignmentsResponse::default().with_allow_replication_factor_change(may_change).with_error_message(None).with_responses(responses.collect())
}

/// ListPartitionReassignments (KIP-455): of the named partitions, or of all.
pub fn list_partition_reassignments<R: Runtime>(broker: &Arc<Broker<R>>, request: ListPartitionReassignmentsRequest) -> ListPartitionReassignmentsResponse {
    let image = broker.controller().image();
    let is_asked = |topic: &str, number: i32| match &request.topics {
        None => true,
        Some(topics) => topics.iter().any(|asked| asked.name.as_str() == topic && asked.partition_indexes.contains(&number)),
    };
    let topics = image.topics.values().filter_map(|topic| {
        let under_way = topic.partitions.iter().zip(0..).filter(|(partition, number)| partition.is_reassigning() && is_asked(&topic.name, *number));
        let partitions: Vec<OngoingPartitionReassignment> = under_way
            .map(|(partition, number)| {
                OngoingPartitionReassignment::default()
                    .with_partition_index(number)
                    .with_replicas(ids(&partition.replicas))
                    .with_adding_replicas(ids(&partition.adding))
                    .with_removing_replicas(ids(&partition.removing))
            })
            .collect();
        let named = || OngoingTopicReassignment::default().with_name(TopicName(string(&topic.name)));
        (!partitions.is_empty()).then(|| named().with_partitions(partitions))
    });
    ListPartitionReassignmentsResponse::default().with_error_message(None).with_topics(topics.collect())
}
