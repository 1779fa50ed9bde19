//! What a request to create, grow or delete topics must fulfil, in Kafka's order, with Kafka's error codes and words: pure.
//!
//! The words are those of Kafka 4's `ReplicationControlManager` and `Topic`, which clients and their tests know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError;
use uuid::Uuid;

use super::configs::{ConfigEntries, ConfigRules, check_topic_configs};
use super::image::{MetadataImage, TopicImage, is_internal};
use super::placement::{self, Candidate, Start};

/// The longest topic name in characters: with `-` and a partition number it is a directory's name.
pub const NAME_MAX_LEN: usize = 249;

/// The most partitions that one request may create, as in Kafka.
pub const PARTITIONS_PER_REQUEST_MAX: usize = 10_000;

/// An error of one item of a request: what the client is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code:?})")]
pub struct ApiError {
    /// Kafka's error.
    pub code: ResponseError,
    /// The message beside it.
    pub message: String,
}

impl ApiError {
    /// An error with its message.
    pub fn new(code: ResponseError, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A topic to create.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; −1 for the broker's `num.partitions`.
    pub partition_count: i32,
    /// How many replicas each; −1 for the broker's `default.replication.factor`.
    pub replication_factor: i16,
    /// Replicas by partition, if they are chosen by hand; the two numbers before must be −1 then.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Its own settings. A value of `None` is an error.
    pub configs: ConfigEntries,
}

impl NewTopic {
    /// A topic with the broker's defaults.
    pub fn named(name: &str) -> Self {
        Self { name: name.to_owned(), partition_count: -1, replication_factor: -1, ..Self::default() }
    }
}

/// Partitions to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewPartitions {
    /// To which topic.
    pub name: String,
    /// How many partitions it is to have then.
    pub count: i32,
    /// The replicas of each new partition, if they are chosen by hand.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// A topic to delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicSelector {
    /// By its name.
    Name(String),
    /// By its id.
    Id(Uuid),
}

/// A topic that passed: what will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicPlan {
    /// Its name.
    pub name: Arc<str>,
    /// The replicas of each partition.
    pub replicas: Vec<Vec<i32>>,
    /// Its own settings.
    pub config: BTreeMap<String, String>,
}

/// What requests are judged by, besides the image.
pub struct Context<'a> {
    /// The metadata as it is.
    pub image: &'a MetadataImage,
    /// `num.partitions`.
    pub default_partition_count: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// What settings may be.
    pub rules: &'a dyn ConfigRules,
}

/// Checks the characters and the length of a topic's name.
///
/// # Errors
/// Kafka's words.
pub fn check_name(name: &str) -> Result<(), String> {
    let reason = match name {
        "" => "the empty string is not allowed".to_owned(),
        "." => "'.' is not allowed".to_owned(),
        ".." => "'..' is not allowed".to_owned(),
        _ if name.chars().count() > NAME_MAX_LEN => {
            format!("the length of '{name}' is longer than the max allowed length {NAME_MAX_LEN}")
        }
        _ if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-')) => {
            format!("'{name}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")
        }
        _ => return Ok(()),
    };
    Err(format!("Topic name is invalid: {reason}"))
}

/// Metrics of Kafka replace dots by underscores: names that differ in nothing else collide.
fn collision_key(name: &str) -> Option<String> {
    name.contains(['.', '_']).then(|| name.replace('.', "_"))
}

/// Judges the topics of one request and places their replicas. `draw` draws a random number below its argument.
///
/// # Panics
/// If `draw` returns more than asked for, at most by an index out of bounds.
pub fn plan_creation(context: &Context<'_>, topics: &[NewTopic], mut draw: impl FnMut(usize) -> usize) -> Vec<Result<TopicPlan, ApiError>> {
    let mut seen = BTreeMap::new();
    for topic in topics {
        *seen.entry(topic.name.as_str()).or_insert(0) += 1;
    }
    let mut collisions: BTreeMap<String, Arc<str>> = BTreeMap::new();
    if topics.iter().any(|topic| collision_key(&topic.name).is_some()) {
        collisions = context.image.topics.keys().filter_map(|name| Some((collision_key(name)?, name.clone()))).collect();
    }
    let mut partition_count = 0;
    topics
        .iter()
        .map(|topic| {
            if seen[topic.name.as_str()] > 1 {
                return Err(ApiError::new(ResponseError::InvalidRequest, "Duplicate topic name."));
            }
            check_name(&topic.name).map_err(|message| ApiError::new(ResponseError::InvalidTopicException, message))?;
            if context.image.topics.contains_key(topic.name.as_str()) {
                return Err(ApiError::new(ResponseError::TopicAlreadyExists, format!("Topic '{}' already exists.", topic.name)));
            }
            let key = collision_key(&topic.name);
            if let Some(other) = key.as_ref().and_then(|key| collisions.get(key)) {
                let message = format!("Topic '{}' collides with existing topic: {other}", topic.name);
                return Err(ApiError::new(ResponseError::InvalidTopicException, message));
            }
            let config = check_topic_configs(context.rules, &topic.name, &topic.configs)?;
            let replicas = if topic.assignments.is_empty() { automatic(context, topic, &mut draw)? } else { manual(context, topic)? };
            partition_count += replicas.len();
            if partition_count > PARTITIONS_PER_REQUEST_MAX {
                return Err(ApiError::new(ResponseError::PolicyViolation, "Excessively large number of partitions per request."));
            }
            let name: Arc<str> = topic.name.as_str().into();
            if let Some(key) = key {
                collisions.insert(key, name.clone());
            }
            Ok(TopicPlan { name, replicas, config })
        })
        .collect()
}

fn candidates(image: &MetadataImage) -> Vec<Candidate> {
    image.brokers.values().map(|broker| Candidate { id: broker.id, rack: broker.rack.clone() }).collect()
}

fn place(image: &MetadataImage, start: Start, count: usize, replication_factor: usize) -> Result<Vec<Vec<i32>>, ApiError> {
    placement::place(&candidates(image), start, count, replication_factor).map_err(|error| {
        let message = format!("Unable to replicate the partition {replication_factor} time(s): {error}");
        ApiError::new(ResponseError::InvalidReplicationFactor, message)
    })
}

fn automatic(context: &Context<'_>, topic: &NewTopic, draw: &mut impl FnMut(usize) -> usize) -> Result<Vec<Vec<i32>>, ApiError> {
    let replication_factor = match topic.replication_factor {
        -1 => context.default_replication_factor,
        other => other,
    };
    let replication_factor = usize::try_from(replication_factor)
        .ok()
        .filter(|factor| *factor > 0)
        .ok_or_else(|| ApiError::new(ResponseError::InvalidReplicationFactor, "Replication factor must be larger than 0, or -1 to use the default value."))?;
    let count = match topic.partition_count {
        -1 => context.default_partition_count,
        other => other,
    };
    let count = usize::try_from(count)
        .ok()
        .filter(|count| *count > 0)
        .ok_or_else(|| ApiError::new(ResponseError::InvalidPartitions, "Number of partitions was set to an invalid non-positive value."))?;
    if count > PARTITIONS_PER_REQUEST_MAX {
        return Err(ApiError::new(ResponseError::PolicyViolation, "Excessively large number of partitions per request."));
    }
    let broker_count = context.image.brokers.len().max(1);
    let start = Start { broker_index: draw(broker_count), shift: draw(broker_count), partition: 0 };
    place(context.image, start, count, replication_factor)
}

fn manual(context: &Context<'_>, topic: &NewTopic) -> Result<Vec<Vec<i32>>, ApiError> {
    if topic.replication_factor != -1 {
        let message = "A manual partition assignment was specified, but replication factor was not set to -1.";
        return Err(ApiError::new(ResponseError::InvalidRequest, message));
    }
    if topic.partition_count != -1 {
        let message = "A manual partition assignment was specified, but numPartitions was not set to -1.";
        return Err(ApiError::new(ResponseError::InvalidRequest, message));
    }
    let mut partitions = BTreeMap::new();
    let mut replication_factor = None;
    for (partition, replicas) in &topic.assignments {
        if partitions.contains_key(partition) {
            let message = format!("Found multiple manual partition assignments for partition {partition}");
            return Err(ApiError::new(ResponseError::InvalidReplicaAssignment, message));
        }
        check_assignment(context.image, replicas, replication_factor)?;
        replication_factor = Some(replicas.len());
        partitions.insert(*partition, replicas.clone());
    }
    if partitions.keys().zip(0..).any(|(partition, expected)| *partition != expected) {
        let message = "partitions should be a consecutive 0-based integer sequence";
        return Err(ApiError::new(ResponseError::InvalidReplicaAssignment, message));
    }
    Ok(partitions.into_values().collect())
}

fn check_assignment(image: &MetadataImage, replicas: &[i32], replication_factor: Option<usize>) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::new(ResponseError::InvalidReplicaAssignment, message));
    if replicas.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".into());
    }
    let sorted: BTreeSet<i32> = replicas.iter().copied().collect();
    for replica in &sorted {
        if !image.brokers.contains_key(replica) {
            return refuse(format!("The manual partition assignment includes broker {replica}, but no such broker is registered."));
        }
        if replicas.iter().filter(|other| *other == replica).count() > 1 {
            return refuse(format!("The manual partition assignment includes the broker {replica} more than once."));
        }
    }
    match replication_factor {
        Some(expected) if expected != replicas.len() => refuse(format!(
            "The manual partition assignment includes a partition with {} replica(s), but this is not consistent with previous partitions, which have \
             {expected} replica(s).",
            replicas.len()
        )),
        _ => Ok(()),
    }
}

/// Judges one topic's growth; the replicas of the new partitions.
///
/// # Errors
/// [`ApiError`].
pub fn plan_growth(image: &MetadataImage, growth: &NewPartitions) -> Result<(Arc<TopicImage>, Vec<Vec<i32>>), ApiError> {
    let topic = image.topic(&growth.name).ok_or_else(unknown_topic)?;
    let current = topic.partition_count();
    if growth.count == current {
        return Err(ApiError::new(ResponseError::InvalidPartitions, format!("Topic already has {current} partition(s).")));
    }
    if growth.count < current {
        let message = format!("The topic {} currently has {current} partition(s); {} would not be an increase.", growth.name, growth.count);
        return Err(ApiError::new(ResponseError::InvalidPartitions, message));
    }
    let additional = usize::try_from(growth.count - current).unwrap_or(usize::MAX);
    if additional > PARTITIONS_PER_REQUEST_MAX {
        return Err(ApiError::new(ResponseError::PolicyViolation, "Excessively large number of partitions per request."));
    }
    // What a reassignment will take away is not asked for.
    let replication_factor = topic.partitions.first().map_or(1, |partition| partition.replicas.len() - partition.removing.len());
    let replicas = match &growth.assignments {
        Some(assignments) => {
            if assignments.len() != additional {
                let message = format!("Attempted to add {additional} additional partition(s), but only {} assignment(s) were specified.", assignments.len());
                return Err(ApiError::new(ResponseError::InvalidReplicaAssignment, message));
            }
            for replicas in assignments {
                check_assignment(image, replicas, Some(replication_factor))?;
            }
            assignments.clone()
        }
        None => {
            // As if the topic had been created larger.
            let first = topic.partitions.first().and_then(|partition| partition.replicas.first().copied()).unwrap_or(0);
            let broker_index = image.brokers.keys().position(|id| *id >= first).unwrap_or(0);
            let start = Start { broker_index, shift: broker_index, partition: topic.partitions.len() };
            place(image, start, additional, replication_factor)?
        }
    };
    Ok((topic.clone(), replicas))
}

/// Judges the topics of one request to delete.
pub fn plan_deletion(image: &MetadataImage, topics: &[TopicSelector]) -> Vec<Result<Arc<TopicImage>, ApiError>> {
    let mut names = BTreeMap::new();
    let mut ids = BTreeMap::new();
    for topic in topics {
        match topic {
            TopicSelector::Name(name) => *names.entry(name.as_str()).or_insert(0) += 1,
            TopicSelector::Id(id) => *ids.entry(*id).or_insert(0) += 1,
        }
    }
    topics
        .iter()
        .map(|topic| match topic {
            TopicSelector::Name(name) if names[name.as_str()] > 1 => Err(ApiError::new(ResponseError::InvalidRequest, "Duplicate topic name.")),
            TopicSelector::Id(id) if ids[id] > 1 => Err(ApiError::new(ResponseError::InvalidRequest, "Duplicate topic id.")),
            TopicSelector::Name(name) => {
                let topic = image.topic(name).ok_or_else(unknown_topic)?;
                if ids.contains_key(&topic.id) {
                    let message = "The provided topic name maps to an ID that was already supplied.";
                    return Err(ApiError::new(ResponseError::InvalidRequest, message));
                }
                Ok(topic.clone())
            }
            TopicSelector::Id(id) => {
                let unknown = || ApiError::new(ResponseError::UnknownTopicId, "This server does not host this topic ID.");
                image.topic_by_id(*id).cloned().ok_or_else(unknown)
            }
        })
        .collect()
}

/// Kafka's answer about a topic that does not exist.
pub fn unknown_topic() -> ApiError {
    ApiError::new(ResponseError::UnknownTopicOrPartition, "This server does not host this topic-partition.")
}

/// Whether the broker may create the topic when a client asks for it (`auto.create.topics.enable`): an unusable name is refused before.
pub fn may_auto_create(name: &str) -> bool {
    check_name(name).is_ok() && !is_internal(name)
}

#[cfg(test)]
#[path = "topics_tests.rs"]
mod tests;
