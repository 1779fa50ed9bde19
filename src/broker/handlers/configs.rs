//! DescribeConfigs (API 32), IncrementalAlterConfigs (44) and AlterConfigs (33).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::describe_configs_response::{DescribeConfigsResourceResult, DescribeConfigsResult, DescribeConfigsSynonym};
use kafka_protocol::messages::{
    AlterConfigsRequest, AlterConfigsResponse, DescribeConfigsRequest, DescribeConfigsResponse, IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse,
    alter_configs_response, incremental_alter_configs_response,
};
use kafka_protocol::protocol::StrBytes;

use super::{Context, string};
use crate::broker::Broker;
use crate::config::definition::Kind;
use crate::config::describe::ConfigEntry;
use crate::config::topic;
use crate::controller::topics::Refused;
use crate::runtime::Runtime;

/// `resource type` of topics.
const TOPIC: i8 = 2;
/// `resource type` of brokers.
const BROKER: i8 = 4;

/// What an IncrementalAlterConfigs entry does (KIP-339).
const SET: i8 = 0;
const DELETE: i8 = 1;
const APPEND: i8 = 2;
const SUBTRACT: i8 = 3;

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
                    None if crate::controller::topics::check_name(name).is_err() => Err((Error::InvalidTopicException, format!("'{name}' is not a topic name"))),
                    None => Err((Error::UnknownTopicOrPartition, format!("there is no topic '{name}'"))),
                },
                BROKER if name.is_empty() => Ok(Vec::new()),
                BROKER if name == broker.id().to_string() => Ok(broker.config().describe()),
                BROKER => Err((Error::InvalidRequest, format!("broker '{name}' cannot be described by broker {}; ask broker '{name}' itself", broker.id()))),
                other => Err((Error::InvalidRequest, format!("resource type {other} has no configuration here; topics (2) and brokers (4) have"))),
            };
            match described {
                Err((error, message)) => result.with_error_code(error.code()).with_error_message(Some(string(&message))),
                Ok(entries) => {
                    let wanted: Option<BTreeSet<&str>> = resource.configuration_keys.as_ref().map(|keys| keys.iter().map(StrBytes::as_str).collect());
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

/// What a client wants changed on one resource.
enum Change {
    Set(String),
    Remove,
    Append(String),
    Subtract(String),
}

/// IncrementalAlterConfigs (KIP-339).
pub async fn incremental_alter_configs<R: Runtime>(broker: Arc<Broker<R>>, request: IncrementalAlterConfigsRequest) -> IncrementalAlterConfigsResponse {
    use incremental_alter_configs_response::AlterConfigsResourceResponse;
    let mut responses = Vec::new();
    for resource in request.resources {
        let changes: Result<Vec<(String, Change)>, Refused> = resource
            .configs
            .iter()
            .map(|config| {
                let key = config.name.to_string();
                let value = || {
                    config
                        .value
                        .as_ref()
                        .map(|value| value.to_string())
                        .ok_or_else(|| Refused::new(Error::InvalidConfig, format!("the value of {key} is null; to remove it use the DELETE operation")))
                };
                let change = match config.config_operation {
                    SET => Change::Set(value()?),
                    DELETE => Change::Remove,
                    APPEND => Change::Append(value()?),
                    SUBTRACT => Change::Subtract(value()?),
                    other => return Err(Refused::new(Error::InvalidRequest, format!("operation {other} on {key} is unknown; 0 sets, 1 deletes, 2 appends, 3 subtracts"))),
                };
                Ok((key, change))
            })
            .collect();
        let result = match changes {
            Ok(changes) => alter(&broker, resource.resource_type, &resource.resource_name, changes, false, request.validate_only).await,
            Err(refused) => Err(refused),
        };
        let response = AlterConfigsResourceResponse::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name);
        responses.push(match result {
            Ok(()) => response,
            Err(refused) => response.with_error_code(refused.error.code()).with_error_message(Some(string(&refused.message))),
        });
    }
    IncrementalAlterConfigsResponse::default().with_responses(responses)
}

/// AlterConfigs, which replaces all of a resource's configuration; deprecated since Kafka 2.3 and still sent by old tools.
pub async fn alter_configs<R: Runtime>(broker: Arc<Broker<R>>, request: AlterConfigsRequest) -> AlterConfigsResponse {
    use alter_configs_response::AlterConfigsResourceResponse;
    let mut responses = Vec::new();
    for resource in request.resources {
        let changes = resource
            .configs
            .iter()
            .map(|config| (config.name.to_string(), config.value.as_ref().map_or(Change::Remove, |value| Change::Set(value.to_string()))))
            .collect();
        let result = alter(&broker, resource.resource_type, &resource.resource_name, changes, true, request.validate_only).await;
        let response = AlterConfigsResourceResponse::default().with_resource_type(resource.resource_type).with_resource_name(resource.resource_name);
        responses.push(match result {
            Ok(()) => response,
            Err(refused) => response.with_error_code(refused.error.code()).with_error_message(Some(string(&refused.message))),
        });
    }
    AlterConfigsResponse::default().with_responses(responses)
}

async fn alter<R: Runtime>(
    broker: &Arc<Broker<R>>,
    resource_type: i8,
    name: &str,
    changes: Vec<(String, Change)>,
    replace: bool,
    validate_only: bool,
) -> Result<(), Refused> {
    match resource_type {
        TOPIC => {}
        BROKER => return Err(Refused::new(Error::InvalidRequest, "the broker's configuration is read at start; change its file and restart it".to_owned())),
        other => return Err(Refused::new(Error::InvalidRequest, format!("resource type {other} has no configuration that can be changed; topics (2) have"))),
    }
    let mut named = BTreeSet::new();
    if let Some((twice, _)) = changes.iter().find(|(key, _)| !named.insert(key.clone())) {
        return Err(Refused::new(Error::InvalidRequest, format!("{twice} is named twice")));
    }
    // A read, change, write under the controller's version check: who loses the race looks again.
    loop {
        let image = broker.controller().image();
        let topic = image.topics.get(name).ok_or_else(|| Refused::new(Error::UnknownTopicOrPartition, format!("there is no topic '{name}'")))?;
        let mut config = if replace { BTreeMap::new() } else { topic.config.clone() };
        for (key, change) in &changes {
            apply(broker, &mut config, key, change)?;
        }
        for (key, value) in &config {
            // A value that was set before it became invalid is no obstacle to changing another.
            if topic.config.get(key) != Some(value) {
                check(&topic.name, key, value)?;
            }
        }
        topic::validate_all(broker.config(), &config).map_err(|message| Refused::new(Error::InvalidConfig, message))?;
        if validate_only || config == topic.config {
            return Ok(());
        }
        if broker.set_topic_config(topic, config).await? {
            return Ok(());
        }
    }
}

fn check(topic: &str, key: &str, value: &str) -> Result<(), Refused> {
    let valid = if crate::controller::image::is_internal(topic) { topic::validate_syntax(key, value) } else { topic::validate(key, value) };
    valid.map_err(|message| Refused::new(Error::InvalidConfig, message))
}

fn apply<R: Runtime>(broker: &Broker<R>, config: &mut BTreeMap<String, String>, key: &str, change: &Change) -> Result<(), Refused> {
    let definition = topic::definition(key).ok_or_else(|| Refused::new(Error::InvalidConfig, format!("{key} is not a topic's configuration")))?;
    match change {
        Change::Set(value) => {
            config.insert(key.to_owned(), value.clone());
        }
        Change::Remove => {
            config.remove(key);
        }
        Change::Append(value) | Change::Subtract(value) => {
            if definition.kind != Kind::List {
                return Err(Refused::new(Error::InvalidConfig, format!("{key} is not a list; only lists can be appended to or subtracted from")));
            }
            let before = config.get(key).cloned().or_else(|| topic::resolve(broker.config(), config).get(key)).unwrap_or_default();
            let mut words: Vec<String> = before.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
            for word in value.split(',').map(str::trim).filter(|word| !word.is_empty()) {
                let found = words.iter().position(|had| had == word);
                match (change, found) {
                    (Change::Append(_), None) => words.push(word.to_owned()),
                    (Change::Subtract(_), Some(at)) => drop(words.remove(at)),
                    _ => {}
                }
            }
            config.insert(key.to_owned(), words.join(","));
        }
    }
    Ok(())
}
