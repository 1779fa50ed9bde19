//! Metadata (API 3), DescribeCluster (60) and DescribeTopicPartitions (75): what the cluster looks like.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::describe_cluster_response::DescribeClusterBroker;
use kafka_protocol::messages::describe_topic_partitions_response::{Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic};
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::{
    BrokerId, DescribeClusterRequest, DescribeClusterResponse, DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, MetadataRequest,
    MetadataResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use super::{Context, endpoint, string};
use crate::broker::Broker;
use crate::controller::image::{MetadataImage, PartitionImage, TopicImage};
use crate::runtime::Runtime;

/// Authorized operations of one who may do anything (KIP-430): there are no ACLs yet.
const ALL_TOPIC_OPERATIONS: i32 = 0x0df8;
const ALL_CLUSTER_OPERATIONS: i32 = 0x1fa0;
/// `authorized operations` where they were not asked for.
const OPERATIONS_OMITTED: i32 = i32::MIN;

/// Metadata. Creates asked-for topics that do not exist if both sides allow it (`auto.create.topics.enable`).
pub async fn metadata<R: Runtime>(broker: &Arc<Broker<R>>, context: &Context, request: MetadataRequest) -> MetadataResponse {
    let version = context.version;
    // Version 0 has no way to say 'none': an empty list means all. From version 1 all is null.
    let wants_all = match &request.topics {
        None => true,
        Some(topics) => version == 0 && topics.is_empty(),
    };
    let mut image = broker.controller().image();
    let may_create = broker.config().auto_create_topics_enable && (version < 4 || request.allow_auto_topic_creation);
    let mut refused = BTreeMap::new();
    if !wants_all && may_create {
        let missing: Vec<String> = request
            .topics
            .iter()
            .flatten()
            // Clients that ask by id leave the name at its default, which is empty and not null.
            .filter(|topic| topic.topic_id.is_nil())
            .filter_map(|topic| topic.name.as_ref())
            .filter(|name| !image.topics.contains_key(name.as_str()))
            .map(|name| name.to_string())
            .collect();
        if !missing.is_empty() {
            refused = broker.auto_create_topics(&missing).await;
            image = broker.controller().image();
        }
    }
    if (10..=11).contains(&version) && request.topics.iter().flatten().any(|topic| topic.name.is_none() || !topic.topic_id.is_nil()) {
        // Their schema has ids and names that may be null; no Kafka ever served them (KIP-516).
        return refuse_ids(&request);
    }
    let with_operations = request.include_topic_authorized_operations;
    let topics = if wants_all {
        image.topics.values().map(|topic| describe_topic(broker, &image, topic, with_operations)).collect()
    } else {
        request
            .topics
            .iter()
            .flatten()
            .map(|asked| {
                let asked_name = asked.name.as_ref().filter(|_| asked.topic_id.is_nil());
                let found = match asked_name {
                    Some(name) => image.topics.get(name.as_str()),
                    None => image.by_id.get(&asked.topic_id),
                };
                match found {
                    Some(topic) => describe_topic(broker, &image, topic, with_operations),
                    None => {
                        let error = match asked_name {
                            Some(name) if refused.contains_key(name.as_str()) => refused[name.as_str()],
                            Some(name) if crate::controller::topics::check_name(name.as_str()).is_err() => Error::InvalidTopicException,
                            Some(_) => Error::UnknownTopicOrPartition,
                            None => Error::UnknownTopicId,
                        };
                        // Before version 12 the name cannot be null.
                        let name = asked_name.cloned().or_else(|| (version < 12).then(TopicName::default));
                        MetadataResponseTopic::default()
                            .with_error_code(error.code())
                            .with_name(name)
                            .with_topic_id(asked.topic_id)
                            .with_topic_authorized_operations(OPERATIONS_OMITTED)
                    }
                }
            })
            .collect()
    };
    let brokers = image
        .brokers
        .values()
        .filter_map(|info| {
            let at = endpoint(info, &context.peer.listener)?;
            Some(
                MetadataResponseBroker::default()
                    .with_node_id(BrokerId(info.id))
                    .with_host(string(&at.host))
                    .with_port(i32::from(at.port))
                    .with_rack(info.rack.as_deref().map(string)),
            )
        })
        .collect();
    let mut response = MetadataResponse::default()
        .with_brokers(brokers)
        .with_cluster_id(Some(string(&image.cluster_id)))
        .with_controller_id(BrokerId(image.controller_id))
        .with_topics(topics);
    response.cluster_authorized_operations =
        if (8..=10).contains(&version) && request.include_cluster_authorized_operations { ALL_CLUSTER_OPERATIONS } else { OPERATIONS_OMITTED };
    response
}

fn refuse_ids(request: &MetadataRequest) -> MetadataResponse {
    let topics = request.topics.iter().flatten().map(|asked| {
        MetadataResponseTopic::default()
            .with_error_code(Error::InvalidRequest.code())
            .with_name(Some(asked.name.clone().unwrap_or_default()))
            .with_topic_id(asked.topic_id)
            .with_topic_authorized_operations(OPERATIONS_OMITTED)
    });
    MetadataResponse::default().with_topics(topics.collect()).with_cluster_authorized_operations(OPERATIONS_OMITTED)
}

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn offline(image: &MetadataImage, partition: &PartitionImage) -> Vec<BrokerId> {
    partition.replicas.iter().filter(|id| !image.brokers.contains_key(id)).copied().map(BrokerId).collect()
}

/// The error of a partition that cannot be written or read now.
fn partition_error<R: Runtime>(broker: &Broker<R>, topic: &TopicImage, number: i32, partition: &PartitionImage) -> i16 {
    if partition.leader < 0 {
        return Error::LeaderNotAvailable.code();
    }
    if partition.leader == broker.id() && broker.replicas().partition(&topic.name, number).is_none() {
        // Its log directory failed, or its log was refused: it is led here in name only.
        return Error::LeaderNotAvailable.code();
    }
    0
}

fn describe_topic<R: Runtime>(broker: &Broker<R>, image: &MetadataImage, topic: &TopicImage, with_operations: bool) -> MetadataResponseTopic {
    let partitions = topic
        .partitions
        .iter()
        .enumerate()
        .map(|(number, partition)| {
            MetadataResponsePartition::default()
                .with_error_code(partition_error(broker, topic, number as i32, partition))
                .with_partition_index(number as i32)
                .with_leader_id(BrokerId(partition.leader))
                .with_leader_epoch(partition.leader_epoch)
                .with_replica_nodes(ids(&partition.replicas))
                .with_isr_nodes(ids(&partition.isr))
                .with_offline_replicas(offline(image, partition))
        })
        .collect();
    MetadataResponseTopic::default()
        .with_name(Some(TopicName(string(&topic.name))))
        .with_topic_id(topic.id)
        .with_is_internal(topic.internal)
        .with_partitions(partitions)
        .with_topic_authorized_operations(if with_operations { ALL_TOPIC_OPERATIONS } else { OPERATIONS_OMITTED })
}

/// DescribeCluster (KIP-700).
pub fn describe_cluster<R: Runtime>(broker: &Arc<Broker<R>>, context: &Context, request: DescribeClusterRequest) -> DescribeClusterResponse {
    let image = broker.controller().image();
    if context.version >= 1 && request.endpoint_type != 1 {
        // Endpoint type 2 asks KRaft controllers; there are none here.
        return DescribeClusterResponse::default()
            .with_error_code(if request.endpoint_type == 2 { Error::MismatchedEndpointType.code() } else { Error::UnsupportedEndpointType.code() })
            .with_error_message(Some(StrBytes::from_static_str("this listener serves brokers (endpoint type 1)")))
            .with_endpoint_type(1);
    }
    let brokers = image
        .brokers
        .values()
        .filter_map(|info| {
            let at = endpoint(info, &context.peer.listener)?;
            Some(
                DescribeClusterBroker::default()
                    .with_broker_id(BrokerId(info.id))
                    .with_host(string(&at.host))
                    .with_port(i32::from(at.port))
                    .with_rack(info.rack.as_deref().map(string)),
            )
        })
        .collect();
    DescribeClusterResponse::default()
        .with_endpoint_type(1)
        .with_cluster_id(string(&image.cluster_id))
        .with_controller_id(BrokerId(image.controller_id))
        .with_brokers(brokers)
        .with_cluster_authorized_operations(if request.include_cluster_authorized_operations { ALL_CLUSTER_OPERATIONS } else { OPERATIONS_OMITTED })
}

/// The most partitions that one answer lists (`max.request.partition.size.limit`).
const PARTITION_LIMIT: usize = 2000;

/// DescribeTopicPartitions (KIP-966): topics in the order of their names, cut into pages of partitions.
pub fn describe_topic_partitions<R: Runtime>(broker: &Arc<Broker<R>>, request: DescribeTopicPartitionsRequest) -> DescribeTopicPartitionsResponse {
    let image = broker.controller().image();
    let mut wanted: BTreeMap<String, ()> = request.topics.iter().map(|topic| (topic.name.to_string(), ())).collect();
    if wanted.is_empty() {
        wanted = image.topics.keys().map(|name| (name.to_string(), ())).collect();
    }
    let mut first_partition = 0;
    if let Some(cursor) = &request.cursor {
        wanted = wanted.split_off(cursor.topic_name.as_str());
        if wanted.keys().next().is_some_and(|name| name == cursor.topic_name.as_str()) {
            first_partition = cursor.partition_index.max(0) as usize;
        }
    }
    let mut room = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITION_LIMIT);
    let mut response = DescribeTopicPartitionsResponse::default();
    for name in wanted.into_keys() {
        let start = std::mem::take(&mut first_partition);
        if room == 0 {
            response.next_cursor = Some(Cursor::default().with_topic_name(TopicName(string(&name))).with_partition_index(start as i32));
            break;
        }
        let Some(topic) = image.topics.get(name.as_str()) else {
            let error = if crate::controller::topics::check_name(&name).is_err() { Error::InvalidTopicException } else { Error::UnknownTopicOrPartition };
            response.topics.push(
                DescribeTopicPartitionsResponseTopic::default()
                    .with_error_code(error.code())
                    .with_name(Some(TopicName(string(&name))))
                    .with_topic_id(Uuid::nil())
                    .with_topic_authorized_operations(OPERATIONS_OMITTED),
            );
            continue;
        };
        let partitions: Vec<_> = topic
            .partitions
            .iter()
            .enumerate()
            .skip(start)
            .take(room)
            .map(|(number, partition)| {
                DescribeTopicPartitionsResponsePartition::default()
                    .with_error_code(partition_error(broker, topic, number as i32, partition))
                    .with_partition_index(number as i32)
                    .with_leader_id(BrokerId(partition.leader))
                    .with_leader_epoch(partition.leader_epoch)
                    .with_replica_nodes(ids(&partition.replicas))
                    .with_isr_nodes(ids(&partition.isr))
                    .with_eligible_leader_replicas(Some(Vec::new()))
                    .with_last_known_elr(Some(Vec::new()))
                    .with_offline_replicas(offline(&image, partition))
            })
            .collect();
        room -= partitions.len();
        let reached = start + partitions.len();
        response.topics.push(
            DescribeTopicPartitionsResponseTopic::default()
                .with_name(Some(TopicName(string(&name))))
                .with_topic_id(topic.id)
                .with_is_internal(topic.internal)
                .with_partitions(partitions)
                .with_topic_authorized_operations(ALL_TOPIC_OPERATIONS),
        );
        if reached < topic.partitions.len() {
            response.next_cursor = Some(Cursor::default().with_topic_name(TopicName(string(&name))).with_partition_index(reached as i32));
            break;
        }
    }
    response
}
