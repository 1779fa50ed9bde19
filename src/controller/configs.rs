//! Changes of topics' and brokers' settings: what a request makes of the settings that are stored. Pure.
//!
//! Which settings exist and what they may hold is decided elsewhere, behind [`ConfigRules`].

use std::collections::BTreeMap;

use kafka_protocol::error::ResponseError;

use super::image::{MetadataImage, is_internal};
use super::topics::{ApiError, unknown_topic};

/// Whether a replica that is not in sync may be elected where no other is there, by the topic's settings and the broker's.
pub(super) fn may_elect_uncleanly(rules: &dyn ConfigRules, settings: &BTreeMap<String, String>) -> bool {
    const KEY: &str = "unclean.leader.election.enable";
    settings.get(KEY).cloned().or_else(|| rules.topic_default(KEY)).is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// What settings may be. Kafka's words in the errors: `Unknown topic config name: x`, `Invalid value x for configuration y: …`.
pub trait ConfigRules: Send + Sync + 'static {
    /// Checks one setting of a topic.
    ///
    /// # Errors
    /// What is wrong, in Kafka's words.
    fn validate_topic(&self, name: &str, value: &str) -> Result<(), String>;

    /// Checks all own settings of a topic together.
    ///
    /// # Errors
    /// What is wrong, in Kafka's words.
    fn validate_topic_settings(&self, settings: &BTreeMap<String, String>) -> Result<(), String> {
        let _ = settings;
        Ok(())
    }

    /// Checks one dynamic setting of a broker (or of all brokers).
    ///
    /// # Errors
    /// What is wrong, in Kafka's words; also if the setting cannot be changed while the broker runs.
    fn validate_broker(&self, name: &str, value: &str) -> Result<(), String>;

    /// Whether a topic's setting is a list, which can be appended to and subtracted from.
    fn is_topic_list(&self, name: &str) -> bool;

    /// Whether a broker's setting is a list.
    fn is_broker_list(&self, name: &str) -> bool;

    /// What holds for a topic without its own setting: the broker's, or the default.
    fn topic_default(&self, name: &str) -> Option<String>;

    /// What holds for a broker without a dynamic setting.
    fn broker_default(&self, name: &str) -> Option<String>;
}

/// Whose settings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConfigResource {
    /// A topic's.
    Topic(String),
    /// A broker's, by its id as written in the request; those of all brokers if it is empty.
    Broker(String),
}

/// Settings as a request names them; a value of `None` is an error.
pub type ConfigEntries = Vec<(String, Option<String>)>;

/// All settings of a resource after a change, or why it is refused.
pub type ConfigPlan = Result<BTreeMap<String, String>, ApiError>;

/// How one setting is changed (KIP-339).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlterOperation {
    /// Replaced.
    Set,
    /// Removed: the default holds again.
    Delete,
    /// Elements are added to a list.
    Append,
    /// Elements are taken out of a list.
    Subtract,
}

impl AlterOperation {
    /// The operation with this number on the wire.
    pub const fn from_code(code: i8) -> Option<Self> {
        match code {
            0 => Some(Self::Set),
            1 => Some(Self::Delete),
            2 => Some(Self::Append),
            3 => Some(Self::Subtract),
            _ => None,
        }
    }
}

/// The change of one setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alteration {
    /// Which setting.
    pub name: String,
    /// How.
    pub operation: AlterOperation,
    /// With what; not used by a deletion.
    pub value: Option<String>,
}

/// Checks the own settings of a new topic.
///
/// # Errors
/// [`ApiError`] with `INVALID_CONFIG`.
pub fn check_topic_configs(rules: &dyn ConfigRules, topic: &str, configs: &[(String, Option<String>)]) -> Result<BTreeMap<String, String>, ApiError> {
    let nulls: Vec<_> = configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for topic configs: {}", nulls.join(","));
        return Err(ApiError::new(ResponseError::InvalidConfig, message));
    }
    let settings = configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    check_topic_settings(rules, topic, &settings)?;
    Ok(settings)
}

fn check_topic_settings(rules: &dyn ConfigRules, topic: &str, settings: &BTreeMap<String, String>) -> Result<(), ApiError> {
    let invalid = |message| ApiError::new(ResponseError::InvalidConfig, message);
    for (name, value) in settings {
        rules.validate_topic(name, value).map_err(invalid)?;
        if name == "cleanup.policy" && !is_internal(topic) && value.split(',').any(|policy| policy.trim() == "compact") {
            let message = "cleanup.policy=compact is not supported yet: this broker has no log cleaner, and the topic would grow for ever. Use delete.";
            return Err(invalid(message.into()));
        }
    }
    rules.validate_topic_settings(settings).map_err(invalid)
}

/// The broker that a resource names; `None` for all brokers.
///
/// # Errors
/// [`ApiError`] if it names none that is registered.
pub fn broker_of(image: &MetadataImage, name: &str) -> Result<Option<i32>, ApiError> {
    if name.is_empty() {
        return Ok(None);
    }
    let refuse = |message| ApiError::new(ResponseError::InvalidRequest, message);
    let id = name.parse().map_err(|_| refuse(format!("Broker id must be an integer, but it is: {name}")))?;
    if !image.brokers.contains_key(&id) {
        let expected = image.brokers.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(refuse(format!("Unexpected broker id, expected {expected} or empty string, but received {name}")));
    }
    Ok(Some(id))
}

fn current(image: &MetadataImage, resource: &ConfigResource) -> Result<BTreeMap<String, String>, ApiError> {
    match resource {
        ConfigResource::Topic(topic) => {
            let unknown = || ApiError { message: format!("The topic '{topic}' does not exist."), ..unknown_topic() };
            Ok(image.topic(topic).ok_or_else(unknown)?.config.clone())
        }
        ConfigResource::Broker(name) => Ok(image.broker_configs.get(&broker_of(image, name)?).cloned().unwrap_or_default()),
    }
}

fn check(rules: &dyn ConfigRules, resource: &ConfigResource, settings: &BTreeMap<String, String>, changed: &[&str]) -> Result<(), ApiError> {
    match resource {
        ConfigResource::Topic(topic) => check_topic_settings(rules, topic, settings),
        ConfigResource::Broker(_) => changed
            .iter()
            .filter_map(|name| Some((*name, settings.get(*name)?)))
            .try_for_each(|(name, value)| rules.validate_broker(name, value).map_err(|message| ApiError::new(ResponseError::InvalidRequest, message))),
    }
}

/// The settings of `resource` after an incremental request (`IncrementalAlterConfigs`).
///
/// # Errors
/// [`ApiError`].
pub fn plan_incremental(
    image: &MetadataImage,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    alterations: &[Alteration],
) -> Result<BTreeMap<String, String>, ApiError> {
    let nulls: Vec<_> = alterations.iter().filter(|alteration| alteration.operation != AlterOperation::Delete && alteration.value.is_none()).collect();
    if !nulls.is_empty() {
        let names = nulls.iter().map(|alteration| alteration.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(ApiError::new(ResponseError::InvalidRequest, format!("Null value not supported for : {names}")));
    }
    if let Some(alteration) = alterations.iter().enumerate().find_map(|(at, one)| alterations[..at].iter().any(|other| other.name == one.name).then_some(one)) {
        let message = format!("Error due to duplicate config keys: {}", alteration.name);
        return Err(ApiError::new(ResponseError::InvalidRequest, message));
    }
    let mut settings = current(image, resource)?;
    for alteration in alterations {
        let (name, value) = (&alteration.name, alteration.value.as_deref().unwrap_or_default());
        let verb = match alteration.operation {
            AlterOperation::Set => {
                settings.insert(name.clone(), value.to_owned());
                continue;
            }
            AlterOperation::Delete => {
                settings.remove(name);
                continue;
            }
            AlterOperation::Append => "APPEND",
            AlterOperation::Subtract => "SUBTRACT",
        };
        let (is_list, default) = match resource {
            ConfigResource::Topic(_) => (rules.is_topic_list(name), rules.topic_default(name)),
            ConfigResource::Broker(_) => (rules.is_broker_list(name), rules.broker_default(name)),
        };
        if !is_list {
            let message = format!("Can't {verb} to key {name} because its type is not LIST.");
            return Err(ApiError::new(ResponseError::InvalidConfig, message));
        }
        let before = settings.get(name).cloned().or(default).unwrap_or_default();
        let mut elements: Vec<&str> = before.split(',').map(str::trim).filter(|element| !element.is_empty()).collect();
        for element in value.split(',').map(str::trim).filter(|element| !element.is_empty()) {
            if alteration.operation == AlterOperation::Subtract {
                elements.retain(|other| *other != element);
            } else if !elements.contains(&element) {
                elements.push(element);
            }
        }
        settings.insert(name.clone(), elements.join(","));
    }
    let changed: Vec<&str> = alterations.iter().map(|alteration| alteration.name.as_str()).collect();
    check(rules, resource, &settings, &changed)?;
    Ok(settings)
}

/// The settings of `resource` after a request that names all of them (`AlterConfigs`).
///
/// # Errors
/// [`ApiError`].
pub fn plan_replacement(
    image: &MetadataImage,
    rules: &dyn ConfigRules,
    resource: &ConfigResource,
    configs: &[(String, Option<String>)],
) -> Result<BTreeMap<String, String>, ApiError> {
    let nulls: Vec<_> = configs.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| name.as_str()).collect();
    if !nulls.is_empty() {
        let message = format!("Null value not supported for : {}", nulls.join(", "));
        return Err(ApiError::new(ResponseError::InvalidRequest, message));
    }
    current(image, resource)?; // The resource must exist.
    let settings: BTreeMap<_, _> = configs.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?))).collect();
    let changed: Vec<&str> = settings.keys().map(String::as_str).collect();
    check(rules, resource, &settings, &changed)?;
    Ok(settings)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::controller::image::{BrokerInfo, TopicImage};
    use std::sync::Arc;
    use uuid::Uuid;

    /// Rules for tests: three settings of topics, one of brokers.
    pub(in crate::controller) struct TestRules;

    impl ConfigRules for TestRules {
        fn validate_topic(&self, name: &str, value: &str) -> Result<(), String> {
            match name {
                "retention.ms" => {
                    value.parse::<i64>().map(drop).map_err(|_| format!("Invalid value {value} for configuration retention.ms: Not a number of type LONG"))
                }
                "cleanup.policy" | "compression.type" => Ok(()),
                _ => Err(format!("Unknown topic config name: {name}")),
            }
        }
        fn validate_broker(&self, name: &str, value: &str) -> Result<(), String> {
            match name {
                "log.retention.ms" => value.parse::<i64>().map(drop).map_err(|error| error.to_string()),
                _ => Err(format!("Cannot update these configs dynamically: Set({name})")),
            }
        }
        fn is_topic_list(&self, name: &str) -> bool {
            name == "cleanup.policy"
        }
        fn is_broker_list(&self, _: &str) -> bool {
            false
        }
        fn topic_default(&self, name: &str) -> Option<String> {
            (name == "cleanup.policy").then(|| "delete".to_owned())
        }
        fn broker_default(&self, _: &str) -> Option<String> {
            None
        }
    }

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        image.brokers.insert(0, BrokerInfo { id: 0, epoch: 1, endpoints: vec![], rack: None, directory_ids: vec![] });
        for (at, name) in ["t", "__consumer_offsets"].into_iter().enumerate() {
            let config = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned())]);
            let id = Uuid::from_u128(at as u128 + 5);
            image.put_topic(Arc::new(TopicImage { name: name.into(), id, partitions: vec![], config, internal: is_internal(name) }));
        }
        image
    }

    fn alter(resource: ConfigResource, name: &str, operation: AlterOperation, value: &str) -> Result<BTreeMap<String, String>, (ResponseError, String)> {
        let alteration = Alteration { name: name.into(), operation, value: Some(value.into()) };
        plan_incremental(&image(), &TestRules, &resource, &[alteration]).map_err(|error| (error.code, error.message))
    }

    fn topic() -> ConfigResource {
        ConfigResource::Topic("t".into())
    }

    #[test]
    fn settings_are_set_deleted_appended_and_subtracted() {
        assert_eq!(alter(topic(), "retention.ms", AlterOperation::Set, "7").unwrap()["retention.ms"], "7");
        assert_eq!(alter(topic(), "retention.ms", AlterOperation::Delete, "").unwrap().len(), 0);
        let internal = ConfigResource::Topic("__consumer_offsets".into());
        assert_eq!(alter(internal.clone(), "cleanup.policy", AlterOperation::Append, "compact,delete").unwrap()["cleanup.policy"], "delete,compact");
        assert_eq!(alter(internal, "cleanup.policy", AlterOperation::Subtract, "delete").unwrap()["cleanup.policy"], "");
        let all = ConfigResource::Broker(String::new());
        assert_eq!(alter(all, "log.retention.ms", AlterOperation::Set, "7").unwrap()["log.retention.ms"], "7");
    }

    #[test]
    fn wrong_alterations_are_refused_in_kafkas_words() {
        use AlterOperation::*;
        use ResponseError::*;
        let refused = |resource, name: &str, operation, value: &str| alter(resource, name, operation, value).unwrap_err();
        let broker = |name: &str| ConfigResource::Broker(name.into());
        assert_eq!(refused(topic(), "x", Set, "1"), (InvalidConfig, "Unknown topic config name: x".into()));
        assert_eq!(refused(topic(), "retention.ms", Append, "1"), (InvalidConfig, "Can't APPEND to key retention.ms because its type is not LIST.".into()));
        assert_eq!(
            refused(topic(), "retention.ms", Set, "soon"),
            (InvalidConfig, "Invalid value soon for configuration retention.ms: Not a number of type LONG".into())
        );
        assert_eq!(refused(topic(), "cleanup.policy", Append, "compact").0, InvalidConfig);
        let missing = ConfigResource::Topic("missing".into());
        assert_eq!(refused(missing, "retention.ms", Set, "1"), (UnknownTopicOrPartition, "The topic 'missing' does not exist.".into()));
        assert_eq!(
            refused(broker("1"), "log.retention.ms", Set, "1"),
            (InvalidRequest, "Unexpected broker id, expected 0 or empty string, but received 1".into())
        );
        assert_eq!(refused(broker("x"), "log.retention.ms", Set, "1").0, InvalidRequest);
        assert_eq!(refused(broker("0"), "broker.id", Set, "1").0, InvalidRequest);
        let null = [Alteration { name: "retention.ms".into(), operation: Set, value: None }];
        let error = plan_incremental(&image(), &TestRules, &topic(), &null).unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (InvalidRequest, "Null value not supported for : retention.ms"));
        let twice = Alteration { name: "retention.ms".into(), operation: Delete, value: None };
        let error = plan_incremental(&image(), &TestRules, &topic(), &[twice.clone(), twice]).unwrap_err();
        assert_eq!(error.code, InvalidRequest);
    }

    #[test]
    fn a_replacement_names_all_settings() {
        let configs = [("compression.type".to_owned(), Some("lz4".to_owned()))];
        let settings = plan_replacement(&image(), &TestRules, &topic(), &configs).unwrap();
        assert_eq!(settings, BTreeMap::from([("compression.type".to_owned(), "lz4".to_owned())]));
        let null = [("retention.ms".to_owned(), None)];
        assert_eq!(plan_replacement(&image(), &TestRules, &topic(), &null).unwrap_err().code, ResponseError::InvalidRequest);
    }
}
