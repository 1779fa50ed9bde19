//! Registers the topics of data directories that Apache Kafka wrote and `ottla log adopt` has marked.
//!
//! A directory shows a topic's name, id and partitions, and in which epochs its records were written. It does not show the topic's
//! settings: those were in ZooKeeper, or in KRaft's metadata log. Broker defaults in their place would delete records after a week that
//! were to be kept for ever. So adopted topics are kept until somebody says otherwise: see [`settings`].
//!
//! Everything is written before the controller starts, and `/cluster/id` last: what a crash leaves unfinished is done again.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::changes::{MULTI_COUNT, Unit, pack, random_id};
use super::image::{CONSUMER_OFFSETS_TOPIC, is_internal};
use super::registration::create_persistent;
use super::znodes::{self, PartitionState};
use super::{PRODUCER_ID_BLOCK_COUNT, StartError, uuid_text};
use crate::coordination::client::Session;
use crate::coordination::op::{ANY_VERSION, Operation};
use crate::log::adoption::Adoption;
use crate::runtime::Runtime;

/// Producer ids that Kafka may have given out to producers which have not written here: new ones begin above.
const PRODUCER_IDS_SKIPPED: i64 = 1_000_000;

/// A topic as the directories show it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct AdoptedTopic {
    /// `None` if it is older than topic ids.
    id: Option<Uuid>,
    /// The greatest leader epoch of each partition; −1 where there is none.
    leader_epochs: Vec<i32>,
}

/// What adopted topics are set to: records stay until the operator says how long, and what is compacted was so in Kafka.
pub fn settings(topic: &str, offsets_segment_bytes: i32) -> BTreeMap<String, String> {
    let settings: Vec<(&str, String)> = if topic == CONSUMER_OFFSETS_TOPIC {
        vec![("cleanup.policy", "compact".to_owned()), ("compression.type", "producer".to_owned()), ("segment.bytes", offsets_segment_bytes.to_string())]
    } else if is_internal(topic) {
        vec![("cleanup.policy", "compact".to_owned())]
    } else {
        vec![("retention.bytes", "-1".to_owned()), ("retention.ms", "-1".to_owned())]
    };
    settings.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The topics of the partitions. One that is missing between others is empty: the log manager makes it.
fn topics(adoption: &Adoption) -> BTreeMap<Arc<str>, AdoptedTopic> {
    let mut topics: BTreeMap<Arc<str>, AdoptedTopic> = BTreeMap::new();
    for (partition, found) in &adoption.partitions {
        let topic = topics.entry(partition.topic.clone()).or_insert_with(|| AdoptedTopic { id: None, leader_epochs: Vec::new() });
        if !found.topic_id.is_nil() {
            topic.id = Some(found.topic_id);
        }
        let number = usize::try_from(partition.partition).expect("directories are named with numbers from 0");
        if topic.leader_epochs.len() <= number {
            topic.leader_epochs.resize(number + 1, -1);
        }
        topic.leader_epochs[number] = found.leader_epoch;
    }
    topics
}

/// Registers the topics of adopted directories, led by this broker alone, with the cluster's id. Topics that are there already are left
/// as they are. Returns the names of those that are new.
///
/// # Errors
/// [`StartError`], which says what to do.
pub async fn register<R: Runtime>(
    rt: &R,
    session: &Session<R>,
    broker_id: i32,
    cluster_id: Option<&str>,
    offsets_segment_bytes: i32,
    adoption: &Adoption,
) -> Result<Vec<Arc<str>>, StartError> {
    create_persistent(session).await?;
    let stored = match session.exists(znodes::CLUSTER_ID).await? {
        Some(_) => Some(znodes::decode_cluster_id(&session.get(znodes::CLUSTER_ID).await?.data)?),
        None => None,
    };
    if let (Some(stored), Some(expected)) = (&stored, cluster_id)
        && stored != expected
    {
        return Err(StartError::InconsistentClusterId { at: session.connector().to_string(), stored: stored.clone(), expected: expected.to_owned() });
    }
    let mut units = Vec::new();
    let mut created = Vec::new();
    for (name, topic) in topics(adoption) {
        if is_registered(session, &name, &topic).await? {
            continue;
        }
        let id = topic.id.unwrap_or_else(|| random_id(rt));
        let replicas = [broker_id];
        let config = znodes::encode_config(&settings(&name, offsets_segment_bytes));
        let config_path = znodes::topic_config_path(&name);
        let config = match session.exists(&config_path).await? {
            Some(_) => Operation::set(config_path, config, ANY_VERSION),
            None => Operation::create(config_path, config),
        };
        let mut operations = vec![
            config,
            Operation::create(znodes::topic_path(&name), znodes::encode_topic(id, topic.leader_epochs.iter().map(|_| &replicas[..]))),
            Operation::create(znodes::partitions_path(&name), ""),
        ];
        for (leader_epoch, number) in topic.leader_epochs.iter().zip(0..) {
            // The start raises it: this broker leads in a later epoch than any that Kafka knew.
            let leader_epoch = (*leader_epoch).max(0);
            let state = PartitionState { version: 1, leader: broker_id, leader_epoch, controller_epoch: 0, isr: replicas.to_vec(), leader_broker_epoch: None };
            operations.push(Operation::create(znodes::partition_path(&name, number), ""));
            operations.push(Operation::create(znodes::state_path(&name, number), state.encode()));
        }
        // One unit a topic: it is there with all its epochs, or not at all.
        units.push(Unit { owner: 0, operations });
        created.push(name);
    }
    for multi in pack(units, MULTI_COUNT) {
        session.multi(multi.into_iter().flat_map(|unit| unit.operations).collect()).await?;
    }
    skip_producer_ids(session, broker_id, adoption.max_producer_id).await?;
    if stored.is_none() {
        let id = cluster_id.map_or_else(|| uuid_text::to_text(random_id(rt)), str::to_owned);
        session.multi(vec![Operation::create(znodes::CLUSTER_ID, znodes::encode_cluster_id(&id))]).await?;
    }
    Ok(created)
}

/// Whether the topic is in the tree, as the directories have it.
async fn is_registered<R: Runtime>(session: &Session<R>, name: &str, topic: &AdoptedTopic) -> Result<bool, StartError> {
    let path = znodes::topic_path(name);
    if session.exists(&path).await?.is_none() {
        return Ok(false);
    }
    let (id, replicas) = znodes::decode_topic(&path, &session.get(&path).await?.data)?;
    let other_id = topic.id.is_some() && id.is_some() && topic.id != id;
    if other_id || replicas.len() < topic.leader_epochs.len() {
        let words = |id: Option<Uuid>, count: usize| format!("(id {}, {count} partitions)", id.map_or_else(|| "unknown".to_owned(), uuid_text::to_text));
        return Err(StartError::AdoptedTopic {
            topic: name.to_owned(),
            found: words(topic.id, topic.leader_epochs.len()),
            registered: words(id, replicas.len()),
        });
    }
    Ok(true)
}

/// Lets producer ids begin above all that Kafka may have given out: a new producer with an old id would be taken for the old one.
async fn skip_producer_ids<R: Runtime>(session: &Session<R>, broker_id: i32, max_producer_id: i64) -> Result<(), StartError> {
    let block = session.get(znodes::PRODUCER_ID_BLOCK).await?;
    let last = znodes::decode_producer_ids(&block.data)?;
    if last.is_some_and(|last| last > max_producer_id) {
        return Ok(());
    }
    // The blocks up to this one count as given out.
    let next = max_producer_id.max(-1).saturating_add(PRODUCER_IDS_SKIPPED) / PRODUCER_ID_BLOCK_COUNT * PRODUCER_ID_BLOCK_COUNT;
    let content = znodes::encode_producer_ids(broker_id, next, next.saturating_add(PRODUCER_ID_BLOCK_COUNT - 1));
    session.set(znodes::PRODUCER_ID_BLOCK, content, block.stat.version).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::adoption::AdoptedPartition;
    use crate::topic_partition::TopicPartition;

    #[test]
    fn topics_are_put_together_from_their_partitions() {
        let partition = |id, leader_epoch| AdoptedPartition { topic_id: Uuid::from_u128(id), leader_epoch };
        let found = [("a", 0, partition(1, 4)), ("a", 3, partition(0, 7)), ("b", 1, partition(0, -1))];
        let partitions = found.into_iter().map(|(topic, number, found)| (TopicPartition::new(topic, number), found)).collect();
        let topics = topics(&Adoption { partitions, max_producer_id: 5 });
        assert_eq!(topics["a"], AdoptedTopic { id: Some(Uuid::from_u128(1)), leader_epochs: vec![4, -1, -1, 7] });
        assert_eq!(topics["b"], AdoptedTopic { id: None, leader_epochs: vec![-1, -1] });
    }

    #[test]
    fn nothing_is_deleted_before_somebody_says_so() {
        assert_eq!(settings("t", 5)["retention.ms"], "-1");
        assert_eq!(settings(CONSUMER_OFFSETS_TOPIC, 5)["segment.bytes"], "5");
        assert_eq!(settings("__transaction_state", 5)["cleanup.policy"], "compact");
    }
}
