//! DescribeConfigs (API 32), IncrementalAlterConfigs (44) and AlterConfigs (33).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest,
    IncrementalAlterConfigsResponse, alter_configs_response, incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;

use super::{Context, string};
use crate::broker::Broker;
use crate::config::definition::Kind;
use crate::config::describe::{ConfigEntry, ConfigSource, ConfigSynonym};
use crate::config::topic;
use crate::controller::configs::{AlterOperation, Alteration, ConfigResource};
use crate::controller::image::MetadataImage;
use crate::controller::topics::ApiError;
use crate::replication::quota;
use crate::runtime::Runtime;

/// `resource type` of topics.
const TOPIC: i8 = 2;
/// `resource type` of brokers.
const BROKER: i8 = 4;

/// The settings of brokers that can be changed while they run, and what they mean.
const RATES: [(&str, &str); 3] = [
    (quota::LEADER_RATE, "Bytes per second that this broker sends at most to throttled replicas that are not in sync."),
    (quota::FOLLOWER_RATE, "Bytes per second that this broker fetches at most for its throttled replicas that are not in sync."),
    (quota::LOG_DIRS_RATE, "Bytes per second that are copied at most between log directories of this broker. Nothing is, in this release."),
];

/// DescribeConfigs.
pub fn describe_configs<R: Runtime>(broker: &Arc<Broker<R>>, context: &Context, request: DescribeConfigsRequest) -> DescribeConfigsResponse {
    let image = broker.controller().image();
    let results = request
        .resources
        .iter()
        .map(|resource| {
            let result = DescribeConfigsResult::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name.clone());
            let name = resource.resource_name.as_str();
            let described = match resource.resource_type {
                TOPIC => match image.topics.get(name) {
                    Some(found) => Ok(topic::describe(broker.config(), &found.config)),
                    None if crate::controller::topics::check_name(name).is_err() => {
                        Err((Error::InvalidTopicException, format!("'{name}' is not a topic name")))
                    }
                    None => Err((Error::UnknownTopicOrPartition, format!("there is no topic '{name}'"))),
                },
                BROKER if name.is_empty() => Ok(dynamic(&image, None)),
                BROKER if name == broker.id().to_string() => {
                    let own = dynamic(&image, Some(broker.id()));
                    let of_all = dynamic(&image, None).into_iter().filter(|entry| own.iter().all(|other| other.name != entry.name)).collect::<Vec<_>>();
                    Ok(broker.config().describe().into_iter().chain(own.iter().cloned()).chain(of_all).collect())
                }
                BROKER => Err((Error::InvalidRequest, format!("broker '{name}' cannot be described by broker {}; ask broker '{name}' itself", broker.id()))),
                other => Err((Error::InvalidRequest, format!("resource type {other} has no configuration here; topics (2) and brokers (4) have"))),
            };
            match described {
                Err((error, message)) => result.with_error_code(error.code()).with_error_message(Some(string(&message))),
                Ok(entries) => {
                    // None named, in either way, means all.
                    let wanted: Option<BTreeSet<&str>> =
                        resource.configuration_keys.as_ref().filter(|keys| !keys.is_empty()).map(|keys| keys.iter().map(StrBytes::as_str).collect());
                    let configs = entries
                        .iter()
                        .filter(|entry| wanted.as_ref().is_none_or(|wanted| wanted.contains(entry.name)))
                        .map(|entry| describe_entry(entry, context.version, request.include_synonyms, request.include_documentation))
                        .collect();
                    result.with_configs(configs)
                }
            }
        })
        .collect();
    DescribeConfigsResponse::default().with_results(results)
}

/// What was set on a broker, or on all of them, while they run.
fn dynamic(image: &MetadataImage, broker: Option<i32>) -> Vec<ConfigEntry> {
    let source = if broker.is_some() { ConfigSource::DynamicBroker } else { ConfigSource::DynamicDefaultBroker };
    let settings = image.broker_configs.get(&broker);
    let known = RATES.into_iter().filter_map(|(name, doc)| Some((name, doc, settings?.get(name)?)));
    known
        .map(|(name, doc, value)| ConfigEntry {
            name,
            value: Some(value.clone()),
            source,
            read_only: false,
            sensitive: false,
            kind: Kind::Long,
            doc,
            synonyms: vec![ConfigSynonym { name, value: Some(value.clone()), source }],
        })
        .collect()
}

fn describe_entry(entry: &ConfigEntry, version: i16, synonyms: bool, documentation: bool) -> DescribeConfigsResourceResult {
    let mut result = DescribeConfigsResourceResult::default()
        .with_name(StrBytes::from_static_str(entry.name))
        .with_value(if entry.sensitive { None } else { entry.value.as_deref().map(string) })
        .with_read_only(entry.read_only)
        .with_config_source(entry.source as i8)
        .with_is_sensitive(entry.sensitive);
    if synonyms {
        result.synonyms = entry
            .synonyms
            .iter()
            .map(|synonym| {
                DescribeConfigsSynonym::default()
                    .with_name(StrBytes::from_static_str(synonym.name))
                    .with_value(synonym.value.as_deref().map(string))
                    .with_source(synonym.source as i8)
            })
            .collect();
    }
    if version >= 3 {
        result.config_type = entry.kind as i8;
        if documentation {
            result.documentation = Some(StrBytes::from_static_str(entry.doc));
        }
    }
    result
}

/// What a resource is to the controller.
fn resource(resource_type: i8, name: &str) -> Result<ConfigResource, ApiError> {
    match resource_type {
        TOPIC => Ok(ConfigResource::Topic(name.to_owned())),
        BROKER => Ok(ConfigResource::Broker(name.to_owned())),
        other => Err(ApiError::new(Error::InvalidRequest, format!("Resource type {other} has no configuration here; topics (2) and brokers (4) have."))),
    }
}

/// IncrementalAlterConfigs (KIP-339).
pub async fn incremental_alter_configs<R: Runtime>(
    broker: Arc<Broker<R>>,
    context: Context,
    request: IncrementalAlterConfigsRequest,
) -> IncrementalAlterConfigsResponse {
    use incremental_alter_configs_response::AlterConfigsResourceResponse;
    if let Some(response) = broker.forwarded(&context, &request).await {
        return response;
    }
    let mut asked = Vec::new();
    let mut refused = BTreeMap::new();
    for (index, one) in request.resources.iter().enumerate() {
        let alterations: Result<Vec<Alteration>, ApiError> = one
            .configs
            .iter()
            .map(|config| {
                let operation = AlterOperation::from_code(config.config_operation)
                    .ok_or_else(|| ApiError::new(Error::InvalidRequest, format!("Operation {} on {} is unknown.", config.config_operation, config.name)))?;
                Ok(Alteration { name: config.name.to_string(), operation, value: config.value.as_ref().map(ToString::to_string) })
            })
            .collect();
        match resource(one.resource_type, &one.resource_name).and_then(|resource| Ok((resource, alterations?))) {
            Ok(one) => asked.push(one),
            Err(error) => drop(refused.insert(index, error)),
        }
    }
    let mut results = broker.controller().incremental_alter_configs(asked, request.validate_only).await.into_iter();
    broker.follow_image().await;
    let responses = request
        .resources
        .into_iter()
        .enumerate()
        .map(|(index, one)| {
            let response = AlterConfigsResourceResponse::default().with_resource_type(one.resource_type).with_resource_name(one.resource_name);
            match refused.remove(&index).map_or_else(|| results.next().unwrap_or(Ok(())), Err) {
                Ok(()) => response,
                Err(error) => response.with_error_code(error.code.code()).with_error_message(Some(string(&error.message))),
            }
        })
        .collect();
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

/// AlterConfigs, which replaces all of a resource's configuration; deprecated since Kafka 2.3 and still sent by old tools.
pub async fn alter_configs<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: AlterConfigsRequest) -> AlterConfigsResponse {
    use alter_configs_response::AlterConfigsResourceResponse;
    if let Some(response) = broker.forwarded(&context, &request).await {
        return response;
    }
    let mut asked = Vec::new();
    let mut refused = BTreeMap::new();
    for (index, one) in request.resources.iter().enumerate() {
        let settings = one.configs.iter().map(|config| (config.name.to_string(), config.value.as_ref().map(ToString::to_string))).collect();
        match resource(one.resource_type, &one.resource_name) {
            Ok(resource) => asked.push((resource, settings)),
            Err(error) => drop(refused.insert(index, error)),
        }
    }
    let mut results = broker.controller().alter_configs(asked, request.validate_only).await.into_iter();
    broker.follow_image().await;
    let responses = request
        .resources
        .into_iter()
        .enumerate()
        .map(|(index, one)| {
            let response = AlterConfigsResourceResponse::default().with_resource_type(one.resource_type).with_resource_name(one.resource_name);
            match refused.remove(&index).map_or_else(|| results.next().unwrap_or(Ok(())), Err) {
                Ok(()) => response,
                Err(error) => response.with_error_code(error.code.code()).with_error_message(Some(string(&error.message))),
            }
        })
        .collect();
    AlterConfigsResponse::default().with_responses(responses)
}
