//! CreateTopics (API 19), DeleteTopics (20) and CreatePartitions (37): the controller decides, the replicas follow before the answer.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::create_partitions_response::CreatePartitionsTopicResult;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::delete_topics_response::DeletableTopicResult;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreatePartitionsResponse, CreateTopicsRequest, CreateTopicsResponse, DeleteTopicsRequest, DeleteTopicsResponse, TopicName,
};
use uuid::Uuid;

use super::{Context, string};
use crate::broker::Broker;
use crate::config::topic;
use crate::controller::CreatedTopic;
use crate::controller::image::CONSUMER_OFFSETS_TOPIC;
use crate::controller::topics::{ApiError, NewPartitions, NewTopic, TopicSelector};
use crate::runtime::Runtime;

fn new_topic(topic: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: topic.name.to_string(),
        partition_count: topic.num_partitions,
        replication_factor: topic.replication_factor,
        assignments: topic.assignments.iter().map(|one| (one.partition_index, one.broker_ids.iter().map(|id| id.0).collect())).collect(),
        configs: topic.configs.iter().map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string))).collect(),
    }
}

/// CreateTopics. A topic that is named twice is refused each time.
pub async fn create_topics<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let mut times: BTreeMap<&str, usize> = BTreeMap::new();
    for topic in &request.topics {
        *times.entry(topic.name.as_str()).or_default() += 1;
    }
    let once: Vec<&CreatableTopic> = request.topics.iter().filter(|topic| times.get(topic.name.as_str()) == Some(&1)).collect();
    let created = broker.controller().create_topics(once.iter().map(|topic| new_topic(topic)).collect(), request.validate_only).await;
    let mut results: BTreeMap<&str, Result<CreatedTopic, ApiError>> = once.iter().map(|topic| topic.name.as_str()).zip(created).collect();
    if !request.validate_only && results.values().any(Result::is_ok) {
        broker.follow_image().await;
    }
    let twice = || ApiError::new(Error::InvalidRequest, "Duplicate topic name.");
    let topics = times
        .keys()
        .map(|name| match results.remove(name).unwrap_or_else(|| Err(twice())) {
            Ok(created) => described(&broker, context.version, &created),
            Err(error) => CreatableTopicResult::default()
                .with_name(TopicName(string(name)))
                .with_topic_id(Uuid::nil())
                .with_error_code(error.code.code())
                .with_error_message(Some(string(&error.message)))
                .with_num_partitions(-1)
                .with_replication_factor(-1)
                .with_configs(if context.version >= 5 { Some(Vec::new()) } else { None }),
        })
        .collect();
    CreateTopicsResponse::default().with_topics(topics)
}

/// A created topic with its configuration (KIP-525).
fn described<R: Runtime>(broker: &Broker<R>, version: i16, created: &CreatedTopic) -> CreatableTopicResult {
    let image = &created.topic;
    let result = CreatableTopicResult::default().with_name(TopicName(string(&image.name))).with_topic_id(image.id);
    if version < 5 {
        return result;
    }
    let configs = topic::describe(broker.config(), &image.config)
        .into_iter()
        .map(|entry| {
            CreatableTopicConfigs::default()
                .with_name(string(entry.name))
                .with_value(entry.value.as_deref().map(string))
                .with_read_only(entry.read_only)
                .with_config_source(entry.source as i8)
                .with_is_sensitive(entry.sensitive)
        })
        .collect();
    result.with_num_partitions(image.partition_count()).with_replication_factor(image.replication_factor()).with_configs(Some(configs))
}

/// DeleteTopics, by name or (from version 6) by id.
pub async fn delete_topics<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: DeleteTopicsRequest) -> DeleteTopicsResponse {
    let by_id = context.version >= 6;
    let asked: Vec<(Option<TopicName>, Uuid)> = if by_id {
        request.topics.iter().map(|topic| (topic.name.clone(), topic.topic_id)).collect()
    } else {
        request.topic_names.iter().map(|name| (Some(name.clone()), Uuid::nil())).collect()
    };
    let mut selectors = Vec::new();
    let mut refused = BTreeMap::new();
    for (index, (name, id)) in asked.iter().enumerate() {
        match name {
            Some(_) if !id.is_nil() => drop(refused.insert(index, "You may not specify both topic name and topic id.")),
            Some(name) => selectors.push(TopicSelector::Name(name.to_string())),
            None if id.is_nil() => drop(refused.insert(index, "Neither topic name nor id were specified.")),
            None => selectors.push(TopicSelector::Id(*id)),
        }
    }
    let results = if broker.config().delete_topic_enable {
        broker.controller().delete_topics(selectors).await
    } else {
        let error = if context.version < 3 { Error::InvalidRequest } else { Error::TopicDeletionDisabled };
        selectors.iter().map(|_| Err(ApiError::new(error, "Topic deletion is disabled: delete.topic.enable is false."))).collect()
    };
    if results.iter().any(Result::is_ok) {
        broker.follow_image().await;
    }
    let mut results = results.into_iter();
    let mut result_of = |index| match refused.get(&index) {
        Some(why) => Err(ApiError::new(Error::InvalidRequest, *why)),
        None => results.next().unwrap_or_else(|| Err(ApiError::new(Error::UnknownServerError, "The controller did not answer for this topic."))),
    };
    let responses = asked
        .into_iter()
        .enumerate()
        .map(|(index, (name, id))| match result_of(index) {
            Ok(deleted) => {
                let result = DeletableTopicResult::default().with_name(Some(TopicName(string(&deleted.name))));
                if by_id { result.with_topic_id(deleted.id) } else { result }
            }
            Err(error) => {
                let result = DeletableTopicResult::default().with_name(name).with_topic_id(id).with_error_code(error.code.code());
                if context.version >= 5 { result.with_error_message(Some(string(&error.message))) } else { result }
            }
        })
        .collect();
    DeleteTopicsResponse::default().with_responses(responses)
}

/// CreatePartitions (KIP-195).
pub async fn create_partitions<R: Runtime>(broker: Arc<Broker<R>>, request: CreatePartitionsRequest) -> CreatePartitionsResponse {
    // A group belongs to the partition that its id hashes to, among as many as there are.
    let is_fixed = |name: &str| name == CONSUMER_OFFSETS_TOPIC;
    let growths = request
        .topics
        .iter()
        .filter(|topic| !is_fixed(&topic.name))
        .map(|topic| NewPartitions {
            name: topic.name.to_string(),
            count: topic.count,
            assignments: topic.assignments.as_ref().map(|all| all.iter().map(|one| one.broker_ids.iter().map(|id| id.0).collect()).collect()),
        })
        .collect();
    let results = broker.controller().create_partitions(growths, request.validate_only).await;
    if !request.validate_only && results.iter().any(Result::is_ok) {
        broker.follow_image().await;
    }
    let mut results = results.into_iter();
    let mut result_of = |name: &str| match is_fixed(name) {
        true => Err(ApiError::new(Error::InvalidRequest, format!("The number of partitions of {name} cannot be changed: its groups would be lost."))),
        false => results.next().unwrap_or_else(|| Err(ApiError::new(Error::UnknownServerError, "The controller did not answer for this topic."))),
    };
    let results = request
        .topics
        .into_iter()
        .map(|topic| {
            let result = result_of(&topic.name);
            let answer = CreatePartitionsTopicResult::default().with_name(topic.name);
            match result {
                Ok(()) => answer,
                Err(error) => answer.with_error_code(error.code.code()).with_error_message(Some(string(&error.message))),
            }
        })
        .collect();
    CreatePartitionsResponse::default().with_results(results)
}
