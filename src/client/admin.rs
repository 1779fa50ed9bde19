//! What administrators ask of a cluster: topics, configurations, groups, offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_protocol::messages::{
    BrokerId, CreatePartitionsRequest, CreateTopicsRequest, DeleteGroupsRequest, DeleteRecordsRequest, DeleteTopicsRequest, DescribeClusterRequest,
    DescribeConfigsRequest, DescribeGroupsRequest, GroupId, IncrementalAlterConfigsRequest, ListGroupsRequest, ListOffsetsRequest, OffsetFetchRequest,
};
use kafka_protocol::protocol::StrBytes;
use uuid::Uuid;

use crate::client::cluster::{Client, ClusterMetadata, topic_name};
use crate::client::consumer::StartAt;
use crate::client::error::ClientError;
use crate::client::group::{commit_offsets, decode_assignment};
use crate::runtime::{HostPort, Runtime};
use crate::topic_partition::TopicPartition;

/// A topic to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions; `None` is the broker's default.
    pub partitions: Option<i32>,
    /// How many replicas of each; `None` is the broker's default.
    pub replication_factor: Option<i16>,
    /// Its own configuration.
    pub config: BTreeMap<String, String>,
}

/// A topic that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// Its id; nil if the broker is older than topic ids.
    pub id: Uuid,
    /// Its partitions; −1 if the broker does not say.
    pub partitions: i32,
    /// The replicas of each; −1 if the broker does not say.
    pub replication_factor: i16,
}

/// What a configuration belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic by name.
    Topic(String),
    /// A broker by id.
    Broker(i32),
}

impl ConfigResource {
    /// As KIP-133 numbers them.
    fn kind(&self) -> i8 {
        match self {
            Self::Topic(_) => 2,
            Self::Broker(_) => 4,
        }
    }

    fn name(&self) -> StrBytes {
        StrBytes::from_string(match self {
            Self::Topic(name) => name.clone(),
            Self::Broker(id) => id.to_string(),
        })
    }
}

/// A configuration's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigValue {
    /// The value; `None` if it is not set or secret.
    pub value: Option<String>,
    /// Whether nobody set it.
    pub is_default: bool,
    /// Where it comes from, by KIP-226's number: 1 the topic, 4 the broker's file, 5 the default.
    pub source: i8,
    /// Whether it can only be set in the broker's file.
    pub read_only: bool,
}

/// A group in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedGroup {
    /// Its id.
    pub group_id: String,
    /// `consumer` for consumers.
    pub protocol_type: String,
    /// Its state; empty if the broker is older than KIP-518.
    pub state: String,
}

/// A group, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedGroup {
    /// Its id.
    pub group_id: String,
    /// Its state: `Stable`, `Empty`, `PreparingRebalance`, `CompletingRebalance`, `Dead`.
    pub state: String,
    /// The assignor that its members agreed on.
    pub protocol: String,
    /// The broker that coordinates it.
    pub coordinator: HostPort,
    /// Its members.
    pub members: Vec<DescribedMember>,
}

/// A member of a group, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedMember {
    /// The id that the coordinator gave it.
    pub member_id: String,
    /// Its name over restarts, if it has one.
    pub instance_id: Option<String>,
    /// The client's name.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// What it reads.
    pub partitions: Vec<TopicPartition>,
}

/// An offset that a group committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to be read.
    pub offset: i64,
    /// The epoch of the leader from which the record before was read; −1 if unknown.
    pub leader_epoch: i32,
    /// The client's own note.
    pub metadata: String,
}

/// A cluster, described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedCluster {
    /// Its id.
    pub cluster_id: String,
    /// The controller; −1 if there is none.
    pub controller_id: i32,
    /// Its brokers.
    pub brokers: BTreeMap<i32, HostPort>,
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn missing(what: String) -> ClientError {
    ClientError::Unavailable { what: format!("the broker's answer leaves out {what}").into() }
}

impl<R: Runtime> Client<R> {
    fn timeout_ms(&self) -> i32 {
        i32::try_from(self.config().request_timeout.as_millis()).unwrap_or(i32::MAX)
    }

    /// Makes a topic. `validate_only` checks and makes nothing.
    ///
    /// # Errors
    /// [`ClientError`], with the broker's words. After a lost connection the topic may exist.
    pub async fn create_topic(&self, topic: &NewTopic, validate_only: bool) -> Result<CreatedTopic, ClientError> {
        let configs = topic.config.iter().map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value))));
        let creatable = CreatableTopic::default()
            .with_name(topic_name(&topic.name))
            .with_num_partitions(topic.partitions.unwrap_or(-1))
            .with_replication_factor(topic.replication_factor.unwrap_or(-1))
            .with_configs(configs.collect());
        let request = CreateTopicsRequest::default().with_topics(vec![creatable]).with_timeout_ms(self.timeout_ms()).with_validate_only(validate_only);
        let what = format!("creating topic {}", topic.name);
        let response = self
            .call_controller(&what, &request, |response| {
                let result = response.topics.first().ok_or_else(|| missing(what.clone()))?;
                // A time-out may have made it: asking again would only say that it exists.
                if result.error_code == ResponseError::NotController.code() {
                    return ClientError::check(result.error_code, result.error_message.as_deref(), || what.clone());
                }
                Ok(())
            })
            .await?;
        self.invalidate(&topic.name);
        let result = response.topics.into_iter().next().ok_or_else(|| missing(what.clone()))?;
        ClientError::check(result.error_code, result.error_message.as_deref(), || what)?;
        Ok(CreatedTopic { id: result.topic_id, partitions: result.num_partitions, replication_factor: result.replication_factor })
    }

    /// Deletes a topic by name.
    ///
    /// # Errors
    /// [`ClientError`], with the broker's words.
    pub async fn delete_topic(&self, name: &str) -> Result<(), ClientError> {
        let what = format!("deleting topic {name}");
        let mut retry = self.retry(what.clone());
        let response = loop {
            let attempt = async {
                let connection = self.controller_once().await?;
                let version = connection.version::<DeleteTopicsRequest>()?;
                let request = DeleteTopicsRequest::default().with_timeout_ms(self.timeout_ms());
                let request = if version >= 6 {
                    request.with_topics(vec![DeleteTopicState::default().with_name(Some(topic_name(name)))])
                } else {
                    request.with_topic_names(vec![topic_name(name)])
                };
                let response = connection.call_at(version, &request, self.config().request_timeout).await?;
                let result = response.responses.into_iter().next().ok_or_else(|| missing(what.clone()))?;
                if result.error_code == ResponseError::NotController.code() {
                    ClientError::check(result.error_code, result.error_message.as_deref(), || what.clone())?;
                }
                Ok::<_, ClientError>(result)
            };
            match attempt.await {
                Ok(result) => break result,
                // A lost answer may have deleted it: asking again would only say that there is none.
                Err(error) if error.maybe_executed() && error.code().is_none() => return Err(error),
                Err(error) => {
                    self.forget_controller();
                    retry.after(error).await?;
                }
            }
        };
        self.invalidate(name);
        ClientError::check(response.error_code, response.error_message.as_deref(), || what)
    }

    /// Raises a topic's number of partitions to `count`.
    ///
    /// # Errors
    /// [`ClientError`], with the broker's words.
    pub async fn create_partitions(&self, name: &str, count: i32) -> Result<(), ClientError> {
        let topic = CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
        let request = CreatePartitionsRequest::default().with_topics(vec![topic]).with_timeout_ms(self.timeout_ms());
        let what = format!("adding partitions to topic {name}");
        let response = self
            .call_controller(&what, &request, |response| {
                let result = response.results.first().ok_or_else(|| missing(what.clone()))?;
                ClientError::check(result.error_code, result.error_message.as_deref(), || what.clone())
            })
            .await?;
        self.invalidate(name);
        let result = response.results.first().ok_or_else(|| missing(what.clone()))?;
        ClientError::check(result.error_code, result.error_message.as_deref(), || what)
    }

    /// All topics.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn list_topics(&self) -> Result<ClusterMetadata, ClientError> {
        self.metadata(None, false).await
    }

    /// These topics, which are not created by asking.
    ///
    /// # Errors
    /// [`ClientError`]; what is wrong with single topics is in the answer.
    pub async fn describe_topics(&self, names: &[&str]) -> Result<ClusterMetadata, ClientError> {
        self.metadata(Some(names), false).await
    }

    /// A resource's configuration, every key.
    ///
    /// # Errors
    /// [`ClientError`], with the broker's words.
    pub async fn describe_configs(&self, resource: &ConfigResource) -> Result<BTreeMap<String, ConfigValue>, ClientError> {
        let wanted = DescribeConfigsResource::default().with_resource_type(resource.kind()).with_resource_name(resource.name()).with_configuration_keys(None);
        let request = DescribeConfigsRequest::default().with_resources(vec![wanted]);
        let what = format!("the configuration of {resource:?}");
        let mut retry = self.retry(what.clone());
        let result = loop {
            let attempt = async {
                let connection = match resource {
                    ConfigResource::Topic(_) => self.any().await?,
                    ConfigResource::Broker(id) => self.broker(*id).await?,
                };
                let response = connection.call(&request, self.config().request_timeout).await?;
                let result = response.results.into_iter().next().ok_or_else(|| missing(what.clone()))?;
                ClientError::check(result.error_code, result.error_message.as_deref(), || what.clone())?;
                Ok::<_, ClientError>(result)
            };
            match attempt.await {
                Ok(result) => break result,
                // A topic that does not exist will not by waiting.
                Err(error) if error.code() == Some(ResponseError::UnknownTopicOrPartition) => return Err(error),
                Err(error) => retry.after(error).await?,
            }
        };
        let entry = |config: kafka_protocol::messages::describe_configs_response::DescribeConfigsResourceResult| {
            let value = ConfigValue {
                value: config.value.map(|value| value.to_string()),
                is_default: config.config_source == 5,
                source: config.config_source,
                read_only: config.read_only,
            };
            (config.name.to_string(), value)
        };
        Ok(result.configs.into_iter().map(entry).collect())
    }

    /// Sets keys (`Some`) and takes them back to their defaults (`None`).
    ///
    /// # Errors
    /// [`ClientError`], with the broker's words.
    pub async fn alter_configs(&self, resource: &ConfigResource, changes: &BTreeMap<String, Option<String>>) -> Result<(), ClientError> {
        let change = |(key, value): (&String, &Option<String>)| {
            // 0 sets, 1 deletes (KIP-339).
            let operation = i8::from(value.is_none());
            AlterableConfig::default().with_name(text(key)).with_config_operation(operation).with_value(value.as_deref().map(text))
        };
        let altered = AlterConfigsResource::default()
            .with_resource_type(resource.kind())
            .with_resource_name(resource.name())
            .with_configs(changes.iter().map(change).collect());
        let request = IncrementalAlterConfigsRequest::default().with_resources(vec![altered]);
        let what = format!("changing the configuration of {resource:?}");
        let response = self
            .call_controller(&what, &request, |response| {
                let result = response.responses.first().ok_or_else(|| missing(what.clone()))?;
                ClientError::check(result.error_code, result.error_message.as_deref(), || what.clone())
            })
            .await?;
        let result = response.responses.first().ok_or_else(|| missing(what.clone()))?;
        ClientError::check(result.error_code, result.error_message.as_deref(), || what)
    }

    /// The offset at which reading begins, asked once: the log start, the high watermark, or by timestamp.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn offset_once(&self, partition: &TopicPartition, at: StartAt) -> Result<i64, ClientError> {
        let timestamp = match at {
            StartAt::Offset(offset) => return Ok(offset),
            StartAt::Committed => return Err(ClientError::Invalid { what: "a committed offset belongs to a group".into() }),
            StartAt::Earliest => -2,
            StartAt::Latest => -1,
            StartAt::Timestamp(timestamp_ms) => timestamp_ms.max(0),
        };
        let leader = self.leader_once(partition).await?;
        let version = leader.connection.version::<ListOffsetsRequest>()?;
        let mut asked = ListOffsetsPartition::default().with_partition_index(partition.partition).with_timestamp(timestamp);
        if version >= 4 {
            asked.current_leader_epoch = leader.epoch;
        }
        let topic = ListOffsetsTopic::default().with_name(topic_name(&partition.topic)).with_partitions(vec![asked]);
        let mut request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        if version >= 10 {
            request.timeout_ms = self.timeout_ms();
        }
        let result = leader.connection.call_at(version, &request, self.config().request_timeout).await.and_then(|response| {
            let answer = response.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
            let answer = answer.ok_or_else(|| missing(format!("partition {partition}")))?;
            ClientError::check(answer.error_code, None, || format!("listing offsets of {partition}"))?;
            Ok(answer.offset)
        });
        match result {
            // No record is that young.
            Ok(-1) if timestamp >= 0 => Box::pin(self.offset_once(partition, StartAt::Latest)).await,
            Ok(offset) => Ok(offset),
            Err(error) => {
                if error.wants_metadata() {
                    self.invalidate(&partition.topic);
                }
                Err(error)
            }
        }
    }

    /// As [`Client::offset_once`], with retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn offset(&self, partition: &TopicPartition, at: StartAt) -> Result<i64, ClientError> {
        let mut retry = self.retry(format!("listing offsets of {partition}"));
        loop {
            match self.offset_once(partition, at).await {
                Ok(offset) => return Ok(offset),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    /// Deletes the records of a partition below `offset` (−1: all up to the high watermark) and returns the new log start offset.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_records(&self, partition: &TopicPartition, offset: i64) -> Result<i64, ClientError> {
        let asked = DeleteRecordsPartition::default().with_partition_index(partition.partition).with_offset(offset);
        let topic = DeleteRecordsTopic::default().with_name(topic_name(&partition.topic)).with_partitions(vec![asked]);
        let request = DeleteRecordsRequest::default().with_topics(vec![topic]).with_timeout_ms(self.timeout_ms());
        let mut retry = self.retry(format!("deleting records of {partition}"));
        loop {
            let attempt = async {
                let leader = self.leader_once(partition).await?;
                let response = leader.connection.call(&request, self.config().request_timeout).await?;
                let answer = response.topics.into_iter().next().and_then(|topic| topic.partitions.into_iter().next());
                let answer = answer.ok_or_else(|| missing(format!("partition {partition}")))?;
                ClientError::check(answer.error_code, None, || format!("deleting records of {partition} below {offset}"))?;
                Ok::<_, ClientError>(answer.low_watermark)
            };
            match attempt.await {
                Ok(log_start_offset) => return Ok(log_start_offset),
                Err(error) => {
                    if error.wants_metadata() {
                        self.invalidate(&partition.topic);
                    }
                    retry.after(error).await?;
                }
            }
        }
    }

    /// All groups of all brokers.
    ///
    /// # Errors
    /// [`ClientError`]: also if one broker does not answer, since its groups would be missing.
    pub async fn list_groups(&self) -> Result<Vec<ListedGroup>, ClientError> {
        let mut retry = self.retry("listing groups");
        loop {
            match self.list_groups_once().await {
                Ok(groups) => return Ok(groups),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn list_groups_once(&self) -> Result<Vec<ListedGroup>, ClientError> {
        let mut groups = BTreeMap::new();
        for id in self.broker_ids().await? {
            let connection = self.broker(id).await?;
            let response = connection.call(&ListGroupsRequest::default(), self.config().request_timeout).await?;
            ClientError::check(response.error_code, None, || format!("listing the groups of broker {id}"))?;
            for group in response.groups {
                let group_id = group.group_id.to_string();
                let listed = ListedGroup { group_id: group_id.clone(), protocol_type: group.protocol_type.to_string(), state: group.group_state.to_string() };
                groups.insert(group_id, listed);
            }
        }
        Ok(groups.into_values().collect())
    }

    /// A group with its members. A group that does not exist has the state `Dead` or is GROUP_ID_NOT_FOUND, by the broker's version.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe_group(&self, group: &str) -> Result<DescribedGroup, ClientError> {
        let request = DescribeGroupsRequest::default().with_groups(vec![GroupId(text(group))]);
        let what = format!("describing group {group}");
        let mut retry = self.retry(what.clone());
        loop {
            let attempt = async {
                let connection = self.group_coordinator_once(group).await?;
                let response = connection.call(&request, self.config().request_timeout).await?;
                let answer = response.groups.into_iter().next().ok_or_else(|| missing(format!("group {group}")))?;
                ClientError::check(answer.error_code, answer.error_message.as_deref(), || what.clone())?;
                let members = answer.members.into_iter().map(|member| DescribedMember {
                    member_id: member.member_id.to_string(),
                    instance_id: member.group_instance_id.map(|id| id.to_string()),
                    client_id: member.client_id.to_string(),
                    client_host: member.client_host.to_string(),
                    // Other clients' protocols assign other things.
                    partitions: decode_assignment(member.member_assignment).unwrap_or_default(),
                });
                Ok::<_, ClientError>(DescribedGroup {
                    group_id: group.to_owned(),
                    state: answer.group_state.to_string(),
                    protocol: answer.protocol_data.to_string(),
                    coordinator: connection.peer().clone(),
                    members: members.collect(),
                })
            };
            match attempt.await {
                Ok(described) => return Ok(described),
                Err(error) => {
                    self.heed_coordinator_error(group, &error);
                    retry.after(error).await?;
                }
            }
        }
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete_group(&self, group: &str) -> Result<(), ClientError> {
        let request = DeleteGroupsRequest::default().with_groups_names(vec![GroupId(text(group))]);
        let mut retry = self.retry(format!("deleting group {group}"));
        loop {
            let attempt = async {
                let connection = self.group_coordinator_once(group).await?;
                let response = connection.call(&request, self.config().request_timeout).await?;
                let answer = response.results.into_iter().next().ok_or_else(|| missing(format!("group {group}")))?;
                ClientError::check(answer.error_code, None, || format!("deleting group {group}"))
            };
            match attempt.await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.heed_coordinator_error(group, &error);
                    retry.after(error).await?;
                }
            }
        }
    }

    /// The offsets that a group committed for these partitions, asked once; `None` asks for all. Partitions without one are left out.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn committed_once(&self, group: &str, partitions: Option<&[TopicPartition]>) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
        let result = self.ask_committed(group, partitions).await;
        if let Err(error) = &result {
            self.heed_coordinator_error(group, error);
        }
        result
    }

    /// As [`Client::committed_once`], with retries.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn committed(&self, group: &str, partitions: Option<&[TopicPartition]>) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
        let mut retry = self.retry(format!("reading the offsets of group {group}"));
        loop {
            match self.committed_once(group, partitions).await {
                Ok(committed) => return Ok(committed),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn ask_committed(&self, group: &str, partitions: Option<&[TopicPartition]>) -> Result<BTreeMap<TopicPartition, CommittedOffset>, ClientError> {
        let connection = self.group_coordinator_once(group).await?;
        // Version 10 names topics by id, which not every generated message can write.
        let version = connection.version_up_to::<OffsetFetchRequest>(9)?;
        let topics = partitions.map(|partitions| {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            partitions.iter().for_each(|partition| topics.entry(&partition.topic).or_default().push(partition.partition));
            topics
        });
        let mut request = OffsetFetchRequest::default();
        if version >= 7 {
            request.require_stable = true;
        }
        if version >= 8 {
            let topics = topics.map(|topics| {
                let topic = |(name, indexes)| OffsetFetchRequestTopics::default().with_name(topic_name(name)).with_partition_indexes(indexes);
                topics.into_iter().map(topic).collect()
            });
            request.groups = vec![OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(topics)];
        } else {
            request.group_id = GroupId(text(group));
            request.topics = topics.map(|topics| {
                let topic = |(name, indexes)| OffsetFetchRequestTopic::default().with_name(topic_name(name)).with_partition_indexes(indexes);
                topics.into_iter().map(topic).collect()
            });
        }
        let response = connection.call_at(version, &request, self.config().request_timeout).await?;
        let what = || format!("the offsets of group {group}");
        let mut committed = BTreeMap::new();
        let mut add = |topic: &Arc<str>, number: i32, code: i16, offset: i64, leader_epoch: i32, metadata: Option<StrBytes>| {
            ClientError::check(code, None, || format!("the offset of {topic}-{number} of group {group}"))?;
            if offset >= 0 {
                let metadata = metadata.map(|metadata| metadata.to_string()).unwrap_or_default();
                committed.insert(TopicPartition::new(topic.clone(), number), CommittedOffset { offset, leader_epoch, metadata });
            }
            Ok::<(), ClientError>(())
        };
        if version >= 8 {
            let answer = response.groups.into_iter().next().ok_or_else(|| missing(what()))?;
            ClientError::check(answer.error_code, None, what)?;
            for topic in answer.topics {
                let name: Arc<str> = topic.name.as_str().into();
                for partition in topic.partitions {
                    let (number, code) = (partition.partition_index, partition.error_code);
                    add(&name, number, code, partition.committed_offset, partition.committed_leader_epoch, partition.metadata)?;
                }
            }
        } else {
            ClientError::check(response.error_code, None, what)?;
            for topic in response.topics {
                let name: Arc<str> = topic.name.as_str().into();
                for partition in topic.partitions {
                    let (number, code) = (partition.partition_index, partition.error_code);
                    add(&name, number, code, partition.committed_offset, partition.committed_leader_epoch, partition.metadata)?;
                }
            }
        }
        Ok(committed)
    }

    /// Sets a group's offsets from outside, which the broker allows while it has no members.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set_committed(&self, group: &str, offsets: &BTreeMap<TopicPartition, CommittedOffset>) -> Result<(), ClientError> {
        let mut retry = self.retry(format!("setting the offsets of group {group}"));
        loop {
            match commit_offsets(self, group, "", -1, None, offsets).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.heed_coordinator_error(group, &error);
                    retry.after(error).await?;
                }
            }
        }
    }

    /// The cluster's id, controller and brokers.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn describe_cluster(&self) -> Result<DescribedCluster, ClientError> {
        let mut retry = self.retry("describing the cluster");
        let response = loop {
            let attempt = async {
                let connection = self.any().await?;
                let response = connection.call(&DescribeClusterRequest::default(), self.config().request_timeout).await?;
                ClientError::check(response.error_code, response.error_message.as_deref(), || "describing the cluster".to_owned())?;
                Ok::<_, ClientError>(response)
            };
            match attempt.await {
                Ok(response) => break response,
                Err(error) => retry.after(error).await?,
            }
        };
        let brokers = response.brokers.iter().map(|broker| {
            let address = HostPort { host: broker.host.to_string(), port: u16::try_from(broker.port).unwrap_or(0) };
            (broker.broker_id.0, address)
        });
        Ok(DescribedCluster { cluster_id: response.cluster_id.to_string(), controller_id: response.controller_id.0, brokers: brokers.collect() })
    }
}
