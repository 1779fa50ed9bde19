//! OffsetCommit, OffsetFetch, OffsetDelete.

use std::collections::BTreeMap;

use kafka_protocol::messages::offset_commit_request::OffsetCommitRequestPartition;
use kafka_protocol::messages::offset_commit_response::{OffsetCommitResponsePartition, OffsetCommitResponseTopic};
use kafka_protocol::messages::offset_delete_response::{OffsetDeleteResponsePartition, OffsetDeleteResponseTopic};
use kafka_protocol::messages::offset_fetch_response::{
    OffsetFetchResponseGroup, OffsetFetchResponsePartition, OffsetFetchResponsePartitions, OffsetFetchResponseTopic, OffsetFetchResponseTopics,
};
use kafka_protocol::messages::{
    GroupId, OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, TopicName,
};
use uuid::Uuid;

use super::members::checked_group_id;
use super::{GroupCoordinator, TopicRef, code, own, text, written};
use crate::group::offsets::Committer;
use crate::group::records::OffsetValue;
use crate::group::state::{ErrorCode, Group};
use crate::internal_topic::InternalLog;
use crate::plant;
use crate::runtime::Runtime;

/// The first version of OffsetCommit that says that there is no such group.
const COMMIT_TELLS_UNKNOWN_GROUP: i16 = 9;
/// The first version of OffsetCommit and OffsetFetch that names topics by id (KIP-848).
const TOPIC_IDS: i16 = 10;
/// The first version of OffsetFetch with several groups (KIP-709).
const FETCH_GROUPS: i16 = 8;
/// The first version of OffsetFetch with an error for the group as a whole.
const FETCH_GROUP_ERROR: i16 = 2;
/// What is told for a partition without a committed offset.
const NO_OFFSET: i64 = -1;

/// One topic of an OffsetFetch.
struct Wanted {
    name: String,
    /// Nil unless asked for by id.
    id: Uuid,
    /// Why it cannot be answered.
    error: Option<ErrorCode>,
    partitions: Vec<i32>,
}

/// One topic of its answer.
struct Found {
    name: String,
    id: Uuid,
    partitions: Vec<(i32, Result<Option<OffsetValue>, ErrorCode>)>,
}

impl<R: Runtime, L: InternalLog> GroupCoordinator<R, L> {
    fn topic(&self, name: &str, id: Uuid, version: i16) -> Result<TopicRef, ErrorCode> {
        if version >= TOPIC_IDS {
            self.inner.topics.by_id(id).ok_or(ErrorCode::UnknownTopicId)
        } else {
            self.inner.topics.by_name(name).ok_or(ErrorCode::UnknownTopicOrPartition)
        }
    }

    /// OffsetCommit 2 to 10. Answered when the offsets are committed to `__consumer_offsets`, or after `offsets.commit.timeout.ms`.
    pub async fn offset_commit(&self, request: &OffsetCommitRequest, version: i16) -> OffsetCommitResponse {
        let now_ms = self.inner.rt.unix_ms();
        // Kafka refuses topics that do not exist before it looks at the group, and metadata that is too large after.
        let mut offsets = Vec::new();
        let mut asks_group = false;
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let found = self.topic(&topic.name, topic.topic_id, version);
            let name = found.as_ref().map_or_else(|_| topic.name.to_string(), |found| found.name.to_string());
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for partition in &topic.partitions {
                let index = partition.partition_index;
                let result = match &found {
                    Err(error) => Err(*error),
                    Ok(found) if !(0..found.partition_count).contains(&index) => Err(ErrorCode::UnknownTopicOrPartition),
                    Ok(found) => {
                        asks_group = true;
                        let result = self.offset_value(partition, request.retention_time_ms, found.id, now_ms);
                        result.map(|value| offsets.push((name.clone(), index, value)))
                    }
                };
                partitions.push((index, result));
            }
            topics.push((name, topic.topic_id, partitions));
        }
        let committed = if asks_group { self.commit(request, offsets, version).await } else { Ok(()) };
        let topics = topics.into_iter().map(|(name, id, partitions)| {
            let partitions = partitions.into_iter().map(|(index, result)| {
                let result = match (result, committed) {
                    (Ok(()) | Err(ErrorCode::OffsetMetadataTooLarge), Err(error)) => Err(error),
                    (result, _) => result,
                };
                OffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code(result))
            });
            OffsetCommitResponseTopic::default().with_name(TopicName(text(name))).with_topic_id(id).with_partitions(partitions.collect())
        });
        OffsetCommitResponse::default().with_topics(topics.collect())
    }

    fn offset_value(&self, partition: &OffsetCommitRequestPartition, retention_ms: i64, topic_id: Uuid, now_ms: i64) -> Result<OffsetValue, ErrorCode> {
        let metadata = own(partition.committed_metadata.as_ref()).unwrap_or_default();
        if metadata.encode_utf16().count() > self.inner.group_config.offset_metadata_max_bytes {
            return Err(ErrorCode::OffsetMetadataTooLarge);
        }
        Ok(OffsetValue {
            offset: partition.committed_offset,
            leader_epoch: partition.committed_leader_epoch.max(-1),
            metadata,
            commit_timestamp_ms: now_ms,
            expire_timestamp_ms: (retention_ms != -1).then(|| now_ms.saturating_add(retention_ms)),
            topic_id,
        })
    }

    async fn commit(&self, request: &OffsetCommitRequest, offsets: Vec<(String, i32, OffsetValue)>, version: i16) -> Result<(), ErrorCode> {
        let by = Committer {
            member_id: request.member_id.to_string(),
            instance_id: own(request.group_instance_id.as_ref()),
            generation: request.generation_id_or_member_epoch,
        };
        // Whoever manages its partitions itself makes its group by committing.
        let create = by.generation < 0;
        let waiting = self.with_group(&request.group_id.0, create, |state, now| {
            let (request, waiting) = state.wait();
            match state.group.commit(request, &by, offsets, now) {
                Ok(actions) => (Ok(waiting), actions),
                Err(error) => {
                    state.forget(request);
                    (Err(error), Vec::new())
                }
            }
        })?;
        match waiting {
            Some(waiting) => written(waiting?).await,
            None if version >= COMMIT_TELLS_UNKNOWN_GROUP => Err(ErrorCode::GroupIdNotFound),
            None => Err(ErrorCode::IllegalGeneration),
        }
    }

    /// OffsetFetch 1 to 10.
    pub async fn offset_fetch(&self, request: &OffsetFetchRequest, version: i16) -> OffsetFetchResponse {
        if version >= FETCH_GROUPS {
            let groups = request.groups.iter().map(|group| {
                let wanted = group.topics.as_ref().map(|topics| {
                    let each = topics.iter().map(|topic| self.wanted(&topic.name, topic.topic_id, &topic.partition_indexes, version));
                    each.collect()
                });
                let answer = OffsetFetchResponseGroup::default().with_group_id(group.group_id.clone());
                match self.fetch(&group.group_id, wanted, request.require_stable, version) {
                    Ok(found) => answer.with_topics(found.into_iter().map(fetch_response_topics).collect()),
                    Err(error) => answer.with_error_code(error.code()),
                }
            });
            return OffsetFetchResponse::default().with_groups(groups.collect());
        }
        let wanted = || {
            let topics = request.topics.as_ref()?;
            Some(topics.iter().map(|topic| self.wanted(&topic.name, Uuid::nil(), &topic.partition_indexes, version)).collect::<Vec<_>>())
        };
        match self.fetch(&request.group_id, wanted(), request.require_stable, version) {
            Ok(found) => OffsetFetchResponse::default().with_topics(found.into_iter().map(fetch_response_topic).collect()),
            Err(error) if version >= FETCH_GROUP_ERROR => OffsetFetchResponse::default().with_error_code(error.code()),
            Err(error) => {
                let failed = wanted().unwrap_or_default().into_iter().map(|topic| Found {
                    name: topic.name,
                    id: topic.id,
                    partitions: topic.partitions.into_iter().map(|partition| (partition, Err(error))).collect(),
                });
                OffsetFetchResponse::default().with_topics(failed.map(fetch_response_topic).collect())
            }
        }
    }

    fn wanted(&self, name: &str, id: Uuid, partitions: &[i32], version: i16) -> Wanted {
        let partitions = partitions.to_vec();
        if version < TOPIC_IDS {
            // A topic need not exist for its offsets to be told.
            return Wanted { name: name.to_owned(), id: Uuid::nil(), error: None, partitions };
        }
        match self.inner.topics.by_id(id) {
            Some(found) => Wanted { name: found.name.to_string(), id, error: None, partitions },
            None => Wanted { name: String::new(), id, error: Some(ErrorCode::UnknownTopicId), partitions },
        }
    }

    fn fetch(&self, group_id: &GroupId, wanted: Option<Vec<Wanted>>, require_stable: bool, version: i16) -> Result<Vec<Found>, ErrorCode> {
        let wanted = wanted.as_deref();
        let found = self.with_group(&group_id.0, false, |state, _| (find(Some(&state.group), wanted, require_stable), Vec::new()));
        let mut found = match found {
            Ok(Some(found)) => found,
            Ok(None) => find(None, wanted, require_stable),
            Err(ErrorCode::CoordinatorLoadInProgress) if plant!(&self.inner.rt, "offsets-fetched-before-load") => find(None, wanted, require_stable),
            Err(error) => return Err(error),
        };
        if version >= TOPIC_IDS && wanted.is_none() {
            // What has no id any more cannot be told.
            found.retain_mut(|topic| match self.inner.topics.by_name(&topic.name) {
                Some(known) => {
                    topic.id = known.id;
                    true
                }
                None => false,
            });
        }
        Ok(found)
    }

    /// OffsetDelete 0.
    pub async fn offset_delete(&self, request: &OffsetDeleteRequest) -> OffsetDeleteResponse {
        let mut results: BTreeMap<(String, i32), Result<(), ErrorCode>> = BTreeMap::new();
        let mut asked = Vec::new();
        for topic in &request.topics {
            let partition_count = self.inner.topics.by_name(&topic.name).map_or(0, |found| found.partition_count);
            for partition in &topic.partitions {
                let key = (topic.name.to_string(), partition.partition_index);
                if (0..partition_count).contains(&key.1) {
                    asked.push(key);
                } else {
                    results.insert(key, Err(ErrorCode::UnknownTopicOrPartition));
                }
            }
        }
        match self.delete_offsets(&request.group_id, &asked).await {
            Ok(deleted) => results.extend(asked.into_iter().zip(deleted)),
            Err(error) => return OffsetDeleteResponse::default().with_error_code(error.code()),
        }
        let topics = request.topics.iter().map(|topic| {
            let partitions = topic.partitions.iter().map(|partition| {
                let result = results.get(&(topic.name.to_string(), partition.partition_index)).copied().unwrap_or(Ok(()));
                OffsetDeleteResponsePartition::default().with_partition_index(partition.partition_index).with_error_code(code(result))
            });
            OffsetDeleteResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions.collect())
        });
        OffsetDeleteResponse::default().with_topics(topics.collect())
    }

    async fn delete_offsets(&self, group_id: &GroupId, partitions: &[(String, i32)]) -> Result<Vec<Result<(), ErrorCode>>, ErrorCode> {
        let group_id = checked_group_id(group_id)?;
        let started = self.with_group(group_id, false, |state, _| {
            let (request, waiting) = state.wait();
            match state.group.delete_offsets(request, partitions) {
                Ok((results, actions)) => (Ok((results, waiting)), actions),
                Err(error) => {
                    state.forget(request);
                    (Err(error), Vec::new())
                }
            }
        })?;
        let (results, waiting) = started.ok_or(ErrorCode::GroupIdNotFound)??;
        written(waiting).await?;
        Ok(results)
    }
}

/// What a group, or none, has of the topics, or of all.
fn find(group: Option<&Group>, wanted: Option<&[Wanted]>, require_stable: bool) -> Vec<Found> {
    let one = |topic: &str, id: Uuid, partition: i32| {
        if require_stable && group.is_some_and(|group| group.has_pending_commit(topic, partition)) {
            return Err(ErrorCode::UnstableOffsetCommit);
        }
        // An offset of a topic that was deleted and made again under its name is not one of the new topic.
        let same = |value: &&OffsetValue| id.is_nil() || value.topic_id.is_nil() || value.topic_id == id;
        Ok(group.and_then(|group| group.offset(topic, partition)).filter(same).cloned())
    };
    match wanted {
        Some(wanted) => wanted
            .iter()
            .map(|topic| Found {
                name: topic.name.clone(),
                id: topic.id,
                partitions: topic
                    .partitions
                    .iter()
                    .map(|partition| (*partition, topic.error.map_or_else(|| one(&topic.name, topic.id, *partition), Err)))
                    .collect(),
            })
            .collect(),
        None => {
            let mut all: BTreeMap<&str, Vec<_>> = BTreeMap::new();
            for (topic, partition, _) in group.into_iter().flat_map(Group::offsets) {
                all.entry(topic).or_default().push((partition, one(topic, Uuid::nil(), partition)));
            }
            all.into_iter().map(|(name, partitions)| Found { name: name.to_owned(), id: Uuid::nil(), partitions }).collect()
        }
    }
}

/// Offset, leader epoch, metadata and error as the response says them.
fn told(result: Result<Option<OffsetValue>, ErrorCode>) -> (i64, i32, String, i16) {
    match result {
        Ok(Some(value)) => (value.offset, value.leader_epoch, value.metadata, 0),
        Ok(None) => (NO_OFFSET, -1, String::new(), 0),
        Err(error) => (NO_OFFSET, -1, String::new(), error.code()),
    }
}

fn fetch_response_topics(found: Found) -> OffsetFetchResponseTopics {
    let partitions = found.partitions.into_iter().map(|(partition, result)| {
        let (offset, leader_epoch, metadata, error_code) = told(result);
        OffsetFetchResponsePartitions::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(text(metadata)))
            .with_error_code(error_code)
    });
    OffsetFetchResponseTopics::default().with_name(TopicName(text(found.name))).with_topic_id(found.id).with_partitions(partitions.collect())
}

fn fetch_response_topic(found: Found) -> OffsetFetchResponseTopic {
    let partitions = found.partitions.into_iter().map(|(partition, result)| {
        let (offset, leader_epoch, metadata, error_code) = told(result);
        OffsetFetchResponsePartition::default()
            .with_partition_index(partition)
            .with_committed_offset(offset)
            .with_committed_leader_epoch(leader_epoch)
            .with_metadata(Some(text(metadata)))
            .with_error_code(error_code)
    });
    OffsetFetchResponseTopic::default().with_name(TopicName(text(found.name))).with_partitions(partitions.collect())
}
