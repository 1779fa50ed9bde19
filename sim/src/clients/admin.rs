//! Simulated administrators: each makes, changes and deletes topics of its own, one at a time, and looks whether they are as it was told.
//!
//! It knows every state that its topic can be in: one, until the answer to a change is lost. Then the topic is given up, and must only be in
//! one of two states for ever: as before the change or as after it, never between.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeConfigsRequest, IncrementalAlterConfigsRequest,
    MetadataRequest, ProduceRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla::record::BatchBuilder;
use ottla::runtime::Runtime;

use super::link::{Goal, Link};
use super::reader;

/// How an administrator behaves.
#[derive(Clone, Debug)]
pub struct Habit {
    /// Longest pause between two actions.
    pub max_pause_ms: u64,
    /// It makes topics with at most so many partitions, and lets them grow.
    pub max_partition_count: i32,
    /// Each with at most so many replicas.
    pub max_replication_factor: i16,
}

/// What a topic is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    partition_count: i32,
    /// `retention.ms`.
    retention_ms: i64,
}

/// What an administrator knows of a topic.
#[derive(Clone, Debug)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// The states that it can be in; `None` is 'not there'.
    possible: Vec<Option<Spec>>,
    id: Option<uuid::Uuid>,
    /// Ids of topics of the same name before.
    old_ids: Vec<uuid::Uuid>,
    /// By partition: where it must start at least, and must not start after.
    starts: BTreeMap<i32, (i64, i64)>,
}

impl Topic {
    fn new(name: String) -> Self {
        Self { name, possible: vec![None], id: None, old_ids: Vec::new(), starts: BTreeMap::new() }
    }

    /// The state that it is in, if that is known.
    fn spec(&self) -> Option<&Spec> {
        self.possible.first().filter(|_| self.possible.len() == 1).and_then(Option::as_ref)
    }
}

/// What came of a change.
enum Changed {
    Done,
    Refused(Error),
    Unknown,
}

impl Changed {
    fn of(code: Option<i16>) -> Self {
        match code.map(Error::try_from_code) {
            Some(None) => Self::Done,
            Some(Some(
                error @ (Error::TopicAlreadyExists | Error::UnknownTopicOrPartition | Error::InvalidPartitions | Error::InvalidConfig | Error::InvalidRequest),
            )) => Self::Refused(error),
            _ => Self::Unknown,
        }
    }
}

const CALL: Duration = Duration::from_secs(20);

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// Creates a topic, with so many replicas of each partition; whether it is there now.
pub async fn create<R: Runtime>(link: &mut Link<R>, name: &str, partition_count: i32, replication_factor: i16, configs: &BTreeMap<String, String>) -> bool {
    let created = try_create(link, name, partition_count, replication_factor, configs).await;
    matches!(created, Changed::Done | Changed::Refused(Error::TopicAlreadyExists))
}

async fn try_create<R: Runtime>(link: &mut Link<R>, name: &str, partition_count: i32, replication_factor: i16, configs: &BTreeMap<String, String>) -> Changed {
    link.go_for(Goal::Controller);
    let configs = configs.iter().map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
    let topic = CreatableTopic::default()
        .with_name(topic_name(name))
        .with_num_partitions(partition_count)
        .with_replication_factor(replication_factor)
        .with_configs(configs.collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let response = link.call(7, &request, CALL).await.ok();
    answered(link, response.and_then(|response| Some(response.topics.first()?.error_code)))
}

/// What came of a change, by its answer. Whoever is not the controller is not asked again.
fn answered<R: Runtime>(link: &mut Link<R>, code: Option<i16>) -> Changed {
    if code.is_some_and(|code| code == Error::NotController.code()) {
        link.forget_goal();
    }
    Changed::of(code)
}

/// Works on topics of its own until the safety phase ends; returns what it knows of each.
pub async fn run<R: Runtime>(mut link: Link<R>, number: usize, habit: Habit) -> Vec<Topic> {
    let mut given_up = Vec::new();
    let mut topic = Topic::new(format!("own-{number}-0"));
    while link.shared.begins() {
        if topic.possible.len() > 1 {
            let next = Topic::new(format!("own-{number}-{}", given_up.len() + 1));
            given_up.push(std::mem::replace(&mut topic, next));
        }
        act(&mut link, &habit, &mut topic).await;
        link.pause(0, habit.max_pause_ms).await;
    }
    given_up.push(topic);
    given_up
}

async fn act<R: Runtime>(link: &mut Link<R>, habit: &Habit, topic: &mut Topic) {
    let Some(spec) = topic.spec().cloned() else {
        if link.stream.chance(200_000) {
            observe(link, topic, false).await;
        } else {
            let spec = Spec {
                partition_count: link.stream.between(1, habit.max_partition_count as u64) as i32,
                retention_ms: link.stream.between(1 << 42, 1 << 43) as i64,
            };
            let configs = BTreeMap::from([("retention.ms".to_owned(), spec.retention_ms.to_string())]);
            let name = topic.name.clone();
            let max = habit.max_replication_factor;
            let replication_factor = if max > 1 { link.stream.between(1, max as u64) as i16 } else { 1 };
            let changed = try_create(link, &name, spec.partition_count, replication_factor, &configs).await;
            topic.starts.clear();
            topic.old_ids.extend(topic.id.take());
            change(link, topic, Some(spec), changed, "create");
        }
        return;
    };
    link.go_for(Goal::Controller);
    match link.stream.below(8) {
        0 | 1 => {
            let request = DeleteTopicsRequest::default().with_topic_names(vec![topic_name(&topic.name)]).with_timeout_ms(10_000);
            let response = link.call(5, &request, CALL).await.ok();
            let changed = answered(link, response.and_then(|response| Some(response.responses.first()?.error_code)));
            change(link, topic, None, changed, "delete");
        }
        2 if spec.partition_count < habit.max_partition_count => {
            let grown = Spec { partition_count: spec.partition_count + 1, ..spec };
            let growth = CreatePartitionsTopic::default().with_name(topic_name(&topic.name)).with_count(grown.partition_count).with_assignments(None);
            let request = CreatePartitionsRequest::default().with_topics(vec![growth]).with_timeout_ms(10_000);
            let response = link.call(3, &request, CALL).await.ok();
            let changed = answered(link, response.and_then(|response| Some(response.results.first()?.error_code)));
            change(link, topic, Some(grown), changed, "grow");
        }
        3 => {
            let altered = Spec { retention_ms: link.stream.between(1 << 42, 1 << 43) as i64, ..spec };
            let config =
                AlterableConfig::default().with_name(text("retention.ms")).with_config_operation(0).with_value(Some(text(&altered.retention_ms.to_string())));
            let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text(&topic.name)).with_configs(vec![config]);
            let request = IncrementalAlterConfigsRequest::default().with_resources(vec![resource]);
            let response = link.call(1, &request, CALL).await.ok();
            let changed = answered(link, response.and_then(|response| Some(response.responses.first()?.error_code)));
            change(link, topic, Some(altered), changed, "alter");
        }
        4 | 5 => delete_records(link, topic, spec.partition_count).await,
        _ => {
            observe(link, topic, false).await;
        }
    }
}

fn change<R: Runtime>(link: &mut Link<R>, topic: &mut Topic, to: Option<Spec>, changed: Changed, what: &str) {
    match changed {
        Changed::Done => topic.possible = vec![to],
        Changed::Unknown => topic.possible.push(to),
        // A controller that does not know of its successor refuses by what it knows; nothing is done then.
        Changed::Refused(_) if link.shared.is_cluster() => {}
        Changed::Refused(error) => {
            let what = format!("{what} of {} was refused with {error:?}, although it was {:?}", topic.name, topic.possible);
            link.shared.history().broken("topic-state", what);
        }
    }
}

/// Produces a little and deletes up to somewhere in it.
async fn delete_records<R: Runtime>(link: &mut Link<R>, topic: &mut Topic, partition_count: i32) {
    let partition = link.stream.below(partition_count as u64) as i32;
    let mut builder = BatchBuilder::new();
    for _ in 0..5 {
        builder.push(link.runtime.unix_ms(), None, Some(b"of an administrator"), &[]);
    }
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(builder.build()));
    let data = TopicProduceData::default().with_name(topic_name(&topic.name)).with_partition_data(vec![data]);
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(5000).with_topic_data(vec![data]);
    link.go_for(Goal::Leader((topic.name.clone(), partition)));
    let Ok(response) = link.call(9, &request, CALL).await else { return };
    let Some(appended) = response.responses.first().and_then(|topic| topic.partition_responses.first()).filter(|appended| appended.error_code == 0) else {
        link.forget_goal();
        return;
    };
    let before = appended.base_offset + link.stream.between(0, 5) as i64;
    let starts = topic.starts.entry(partition).or_default();
    starts.1 = starts.1.max(before);
    let records = DeleteRecordsPartition::default().with_partition_index(partition).with_offset(before);
    let records = DeleteRecordsTopic::default().with_name(topic_name(&topic.name)).with_partitions(vec![records]);
    let request = DeleteRecordsRequest::default().with_topics(vec![records]).with_timeout_ms(5000);
    let Ok(response) = link.call(2, &request, CALL).await else { return };
    let deleted = response.topics.first().and_then(|topic| topic.partitions.first()).is_some_and(|deleted| deleted.error_code == 0);
    if deleted {
        starts.0 = starts.0.max(before);
    }
    // In a cluster one that led before, and does not know it yet, may answer; all is looked at in the end.
    if !link.shared.is_cluster() {
        check_starts(link, topic).await;
    }
}

async fn check_starts<R: Runtime>(link: &mut Link<R>, topic: &Topic) -> bool {
    for (partition, (least, most)) in &topic.starts {
        let place = (topic.name.clone(), *partition);
        let Some((start, _)) = reader::range(link, &place).await else { return false };
        if start < *least || start > *most {
            let what = format!("{place:?} starts at {start}; records were deleted up to {least} for certain and {most} at most");
            link.shared.history().broken("topic-state", what);
        }
    }
    true
}

/// What the broker says that a topic is; `None` if it does not say.
async fn look<R: Runtime>(link: &mut Link<R>, name: &str, is_calm: bool) -> Option<(Option<Spec>, uuid::Uuid)> {
    let request = MetadataRequest::default()
        .with_topics(Some(vec![MetadataRequestTopic::default().with_name(Some(topic_name(name)))]))
        .with_allow_auto_topic_creation(false);
    let response = link.call(12, &request, CALL).await.ok()?;
    let topic = response.topics.first()?;
    match Error::try_from_code(topic.error_code) {
        None => {}
        Some(Error::UnknownTopicOrPartition) => return Some((None, uuid::Uuid::nil())),
        Some(_) => return None,
    }
    if is_calm && topic.partitions.iter().any(|partition| partition.error_code != 0 || partition.leader_id.0 < 0) {
        return None;
    }
    let resource =
        DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text(name)).with_configuration_keys(Some(vec![text("retention.ms")]));
    let request = DescribeConfigsRequest::default().with_resources(vec![resource]);
    let response = link.call(4, &request, CALL).await.ok()?;
    let described = response.results.first().filter(|described| described.error_code == 0)?;
    let retention_ms = described.configs.first().and_then(|config| config.value.as_ref()?.parse().ok()).unwrap_or(-2);
    Some((Some(Spec { partition_count: topic.partitions.len() as i32, retention_ms }), topic.topic_id))
}

/// Looks whether a topic is as it must be; false if there was no answer. In calm times all of it must be usable too.
pub async fn observe<R: Runtime>(link: &mut Link<R>, topic: &mut Topic, is_calm: bool) -> bool {
    link.go_for(Goal::Controller);
    let Some((found, id)) = look(link, &topic.name, is_calm).await else { return false };
    if link.shared.is_cluster() && !is_calm {
        // What a broker tells may be old by as much as it is cut off.
        return true;
    }
    // A change whose answer was lost may come true between the two questions that a look consists of: then the next look tells.
    if !topic.possible.contains(&found) && (topic.possible.len() == 1 || is_calm) {
        let what = format!("{} is {found:?}; it can be {:?}", topic.name, topic.possible);
        link.shared.history().broken("topic-state", what);
        return true;
    }
    if found.is_some() && topic.possible.len() == 1 {
        let known = *topic.id.get_or_insert(id);
        if known != id || topic.old_ids.contains(&id) || id.is_nil() {
            let what = format!("{} has id {id}; it had {known}, and before it was deleted {:?}", topic.name, topic.old_ids);
            link.shared.history().broken("topic-state", what);
        }
        return check_starts(link, topic).await;
    }
    true
}
