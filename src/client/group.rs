//! Membership in a consumer group by the classic protocol: join, sync, heartbeat, leave; committed offsets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, GroupId, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest,
    OffsetCommitRequest, SyncGroupRequest, consumer_protocol_assignment, consumer_protocol_subscription,
};
use kafka_protocol::protocol::{Encodable, StrBytes};
use tokio::sync::watch;

use crate::client::admin::CommittedOffset;
use crate::client::assignor::{self, Assignor, Subscription};
use crate::client::cluster::{Client, topic_name};
use crate::client::error::ClientError;
use crate::runtime::{Runtime, Task};
use crate::topic_partition::TopicPartition;
use crate::wire::{guard, schema};

/// How a consumer takes part in its group.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// The group.
    pub group_id: String,
    /// The member's name over restarts (KIP-345); `None` leaves the group when it closes.
    pub instance_id: Option<String>,
    /// A member that is silent for this long is out.
    pub session_timeout: Duration,
    /// How long a rebalance waits for a member that is known.
    pub rebalance_timeout: Duration,
    /// The time between two heartbeats.
    pub heartbeat_interval: Duration,
    /// The ways to share out partitions that this member offers, the best first. All cooperative, or none.
    pub assignors: Vec<Assignor>,
    /// Positions are committed on their own this often, and before a rebalance; `None` leaves it to the caller.
    pub auto_commit_interval: Option<Duration>,
}

impl GroupConfig {
    /// Kafka's defaults, without automatic commits.
    pub fn new(group_id: &str) -> Self {
        Self {
            group_id: group_id.to_owned(),
            instance_id: None,
            session_timeout: Duration::from_secs(45),
            rebalance_timeout: Duration::from_secs(300),
            heartbeat_interval: Duration::from_secs(3),
            assignors: vec![Assignor::Range],
            auto_commit_interval: None,
        }
    }
}

/// What the heartbeats found out.
#[derive(Clone, Debug)]
enum Pulse {
    Fine,
    /// A rebalance goes on: join again, as the same member.
    Rebalance,
    /// The group does not know this member or its generation: what it has is not its own any more.
    Lost,
    /// It can never come back by itself.
    Fatal(ClientError),
}

/// What a consumer must do because of its group.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Nothing.
    None,
    /// Join again, keeping or giving up partitions as the protocol has it.
    Rejoin {
        /// Whether its partitions are lost already, and commits for them would be refused.
        lost: bool,
    },
}

/// A new assignment.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) partitions: Vec<TopicPartition>,
}

/// A member of a group, or one who wants to be.
pub(crate) struct Membership<R: Runtime> {
    client: Client<R>,
    config: Arc<GroupConfig>,
    topics: Vec<Arc<str>>,
    member_id: String,
    generation: i32,
    /// What the group agreed on last.
    assignor: Assignor,
    /// As leader: how many partitions each topic had when they were shared out.
    counted: Option<BTreeMap<Arc<str>, i32>>,
    heartbeat: Option<Heartbeat<R>>,
    must_join: bool,
}

struct Heartbeat<R: Runtime> {
    pulse: watch::Receiver<Pulse>,
    task: R::Task<()>,
}

impl<R: Runtime> Drop for Heartbeat<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A text as the messages want it.
fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn group_id(id: &str) -> GroupId {
    GroupId(text(id))
}

impl<R: Runtime> Membership<R> {
    pub(crate) fn new(client: Client<R>, config: GroupConfig, topics: Vec<Arc<str>>) -> Result<Self, ClientError> {
        let invalid = |what: &str| Err(ClientError::Invalid { what: what.into() });
        let Some(first) = config.assignors.first().copied() else { return invalid("a group member needs an assignor") };
        if config.assignors.iter().any(|assignor| assignor.is_cooperative() != first.is_cooperative()) {
            return invalid("a group member's assignors must be all cooperative or all not");
        }
        Ok(Self {
            client,
            config: Arc::new(config),
            topics,
            member_id: String::new(),
            generation: -1,
            assignor: first,
            counted: None,
            heartbeat: None,
            must_join: true,
        })
    }

    pub(crate) fn config(&self) -> &GroupConfig {
        &self.config
    }

    pub(crate) fn is_cooperative(&self) -> bool {
        self.config.assignors.iter().all(|assignor| assignor.is_cooperative())
    }

    pub(crate) fn member_id(&self) -> &str {
        &self.member_id
    }

    pub(crate) fn generation(&self) -> i32 {
        self.generation
    }

    /// What the group asks for now.
    pub(crate) fn turn(&mut self) -> Result<Turn, ClientError> {
        let pulse = self.heartbeat.as_ref().map_or(Pulse::Fine, |heartbeat| heartbeat.pulse.borrow().clone());
        match pulse {
            Pulse::Fatal(error) => Err(error),
            Pulse::Lost => {
                self.forget();
                Ok(Turn::Rejoin { lost: true })
            }
            Pulse::Rebalance => Ok(Turn::Rejoin { lost: false }),
            Pulse::Fine if self.must_join => Ok(Turn::Rejoin { lost: false }),
            Pulse::Fine => Ok(Turn::None),
        }
    }

    /// Completes when [`Membership::turn`] has something new to say.
    pub(crate) async fn changed(&mut self) {
        match &mut self.heartbeat {
            // The task ends only after it has said why.
            Some(heartbeat) => drop(heartbeat.pulse.changed().await),
            None => std::future::pending().await,
        }
    }

    /// Joins again at the next turn.
    pub(crate) fn rejoin(&mut self) {
        self.must_join = true;
    }

    /// The member and its generation are not valid any more.
    fn forget(&mut self) {
        self.heartbeat = None;
        self.generation = -1;
        self.must_join = true;
        if self.config.instance_id.is_none() {
            self.member_id.clear();
        }
    }

    /// Joins and gets an assignment. `owned` is what the member has now. Takes as long as the rebalance does.
    pub(crate) async fn join(&mut self, owned: &[TopicPartition]) -> Result<Joined, ClientError> {
        self.heartbeat = None;
        self.must_join = true;
        let mut retry = self.client.retry_for(format!("joining group {}", self.config.group_id), self.config.rebalance_timeout * 2);
        loop {
            let error = match self.join_once(owned).await {
                Ok(joined) => {
                    self.must_join = false;
                    self.start_heartbeat();
                    return Ok(joined);
                }
                Err(error) => error,
            };
            self.client.heed_coordinator_error(&self.config.group_id, &error);
            match error.code() {
                // The first answer to a newcomer carries its member id (KIP-394).
                Some(ResponseError::MemberIdRequired | ResponseError::RebalanceInProgress) => {}
                Some(ResponseError::UnknownMemberId | ResponseError::IllegalGeneration) => {
                    self.forget();
                    if !owned.is_empty() {
                        // The caller must give up what it has before it joins as somebody new.
                        return Err(error);
                    }
                }
                _ => retry.after(error).await?,
            }
        }
    }

    async fn join_once(&mut self, owned: &[TopicPartition]) -> Result<Joined, ClientError> {
        let connection = self.client.group_coordinator_once(&self.config.group_id).await?;
        let version = connection.version::<JoinGroupRequest>()?;
        let protocols = self.config.assignors.iter().map(|assignor| {
            let metadata = encode_subscription(&self.topics, owned, self.generation);
            JoinGroupRequestProtocol::default().with_name(StrBytes::from_static_str(assignor.name())).with_metadata(metadata)
        });
        let mut request = JoinGroupRequest::default()
            .with_group_id(group_id(&self.config.group_id))
            .with_session_timeout_ms(millis(self.config.session_timeout))
            .with_member_id(text(&self.member_id))
            .with_protocol_type(StrBytes::from_static_str("consumer"))
            .with_protocols(protocols.collect());
        if version >= 1 {
            request.rebalance_timeout_ms = millis(self.config.rebalance_timeout);
        }
        if version >= 5 {
            request.group_instance_id = self.config.instance_id.as_deref().map(text);
        }
        // The broker answers when the rebalance is over, which takes that long at most.
        let timeout = self.config.rebalance_timeout + self.client.config().request_timeout;
        let response = connection.call_at(version, &request, timeout).await?;
        if !response.member_id.is_empty() {
            self.member_id = response.member_id.to_string();
        }
        ClientError::check(response.error_code, None, || format!("joining group {}", self.config.group_id))?;
        self.generation = response.generation_id;
        let protocol = response.protocol_name.as_ref().map(ToString::to_string).unwrap_or_default();
        self.assignor = Assignor::by_name(&protocol).ok_or_else(|| ClientError::Invalid {
            what: format!("group {} agreed on the assignor '{protocol}', which this member did not offer", self.config.group_id).into(),
        })?;
        let assignments = if response.leader.as_str() == self.member_id && !response.skip_assignment { self.share_out(&response).await? } else { Vec::new() };
        let is_leader = response.leader.as_str() == self.member_id;
        if !is_leader {
            self.counted = None;
        }
        let version = connection.version::<SyncGroupRequest>()?;
        let mut request = SyncGroupRequest::default()
            .with_group_id(group_id(&self.config.group_id))
            .with_generation_id(self.generation)
            .with_member_id(text(&self.member_id))
            .with_assignments(assignments);
        if version >= 3 {
            request.group_instance_id = self.config.instance_id.as_deref().map(text);
        }
        if version >= 5 {
            request.protocol_type = Some(StrBytes::from_static_str("consumer"));
            request.protocol_name = Some(text(&protocol));
        }
        let response = connection.call_at(version, &request, timeout).await?;
        ClientError::check(response.error_code, None, || format!("syncing with group {}", self.config.group_id))?;
        Ok(Joined { partitions: decode_assignment(response.assignment)? })
    }

    /// As leader: shares out the partitions.
    async fn share_out(&mut self, response: &JoinGroupResponse) -> Result<Vec<SyncGroupRequestAssignment>, ClientError> {
        let mut members = BTreeMap::new();
        for member in &response.members {
            let mut subscription = decode_subscription(member.metadata.clone())?;
            subscription.instance_id = member.group_instance_id.as_ref().map(ToString::to_string);
            members.insert(member.member_id.to_string(), subscription);
        }
        let topics: Vec<Arc<str>> = members.values().flat_map(|member| member.topics.iter().cloned()).collect();
        let counts = self.count_partitions(&topics).await?;
        let assignment = assignor::assign(self.assignor, &members, &counts);
        self.counted = Some(counts);
        let encode = |(member, partitions): (String, Vec<TopicPartition>)| {
            SyncGroupRequestAssignment::default().with_member_id(text(&member)).with_assignment(encode_assignment(&partitions))
        };
        Ok(assignment.into_iter().map(encode).collect())
    }

    async fn count_partitions(&self, topics: &[Arc<str>]) -> Result<BTreeMap<Arc<str>, i32>, ClientError> {
        let mut names: Vec<&str> = topics.iter().map(|topic| &**topic).collect();
        names.sort_unstable();
        names.dedup();
        let metadata = self.client.metadata(Some(&names), self.client.config().allow_auto_topic_creation).await?;
        // A topic that does not exist yet has no partitions; the leader looks again from time to time.
        Ok(metadata.topics.into_iter().filter_map(|(name, topic)| Some((name, i32::try_from(topic.ok()?.partitions.len()).ok()?))).collect())
    }

    /// As leader: looks whether topics have got other partitions, and asks for a rebalance if so.
    pub(crate) async fn check_partition_counts(&mut self) {
        let Some(counted) = self.counted.clone() else { return };
        let topics: Vec<Arc<str>> = counted.keys().cloned().chain(self.topics.iter().cloned()).collect();
        if let Ok(counts) = self.count_partitions(&topics).await
            && counts != counted
        {
            self.must_join = true;
        }
    }

    fn start_heartbeat(&mut self) {
        let (sender, pulse) = watch::channel(Pulse::Fine);
        let beat = beat(self.client.clone(), self.config.clone(), self.member_id.clone(), self.generation, sender);
        self.heartbeat = Some(Heartbeat { pulse, task: self.client.runtime().spawn("group-heartbeat", beat) });
    }

    /// Leaves the group, so that it does not wait for this member. One with a lasting name stays.
    pub(crate) async fn leave(&mut self) -> Result<(), ClientError> {
        self.heartbeat = None;
        if self.member_id.is_empty() || self.config.instance_id.is_some() {
            return Ok(());
        }
        let connection = self.client.group_coordinator_once(&self.config.group_id).await?;
        let version = connection.version::<LeaveGroupRequest>()?;
        let mut request = LeaveGroupRequest::default().with_group_id(group_id(&self.config.group_id));
        if version >= 3 {
            request.members = vec![MemberIdentity::default().with_member_id(text(&self.member_id))];
        } else {
            request.member_id = text(&self.member_id);
        }
        let response = connection.call_at(version, &request, self.client.config().request_timeout).await?;
        self.forget();
        ClientError::check(response.error_code, None, || format!("leaving group {}", self.config.group_id))
    }

    /// Commits offsets, once: the next offset of each partition to be read.
    pub(crate) async fn commit_once(&mut self, offsets: &BTreeMap<TopicPartition, CommittedOffset>) -> Result<(), ClientError> {
        let instance_id = self.config.instance_id.as_deref();
        let result = commit_offsets(&self.client, &self.config.group_id, &self.member_id, self.generation, instance_id, offsets).await;
        if let Err(error) = &result {
            self.client.heed_coordinator_error(&self.config.group_id, error);
            match error.code() {
                Some(ResponseError::UnknownMemberId | ResponseError::IllegalGeneration) => self.forget(),
                Some(ResponseError::RebalanceInProgress) => self.must_join = true,
                _ => {}
            }
        }
        result
    }
}

/// Sends heartbeats until there is something that the member must know.
async fn beat<R: Runtime>(client: Client<R>, config: Arc<GroupConfig>, member_id: String, generation: i32, pulse: watch::Sender<Pulse>) {
    let runtime = client.runtime().clone();
    let mut last_answer = runtime.now();
    loop {
        runtime.sleep(config.heartbeat_interval).await;
        let result = async {
            let connection = client.group_coordinator_once(&config.group_id).await?;
            let version = connection.version::<HeartbeatRequest>()?;
            let mut request =
                HeartbeatRequest::default().with_group_id(group_id(&config.group_id)).with_generation_id(generation).with_member_id(text(&member_id));
            if version >= 3 {
                request.group_instance_id = config.instance_id.as_deref().map(text);
            }
            let response = connection.call_at(version, &request, config.session_timeout).await?;
            ClientError::check(response.error_code, None, || format!("a heartbeat to group {}", config.group_id))
        };
        let found = match result.await {
            Ok(()) => {
                last_answer = runtime.now();
                continue;
            }
            Err(error) => {
                client.heed_coordinator_error(&config.group_id, &error);
                match error.code() {
                    Some(ResponseError::RebalanceInProgress) => Pulse::Rebalance,
                    Some(ResponseError::UnknownMemberId | ResponseError::IllegalGeneration) => Pulse::Lost,
                    _ if !error.is_retriable() => Pulse::Fatal(error),
                    // The coordinator has given this member up by now, whatever its clock says.
                    _ if runtime.now() - last_answer >= config.session_timeout => Pulse::Lost,
                    _ => continue,
                }
            }
        };
        // Nobody listening means that the member is gone.
        let _ = pulse.send(found);
        return;
    }
}

/// Commits offsets for a group. Generation −1 and an empty member id are for a consumer that chose its partitions itself.
///
/// # Errors
/// [`ClientError`]: of the request, or of the first partition that was refused.
pub(crate) async fn commit_offsets<R: Runtime>(
    client: &Client<R>,
    group: &str,
    member_id: &str,
    generation: i32,
    instance_id: Option<&str>,
    offsets: &BTreeMap<TopicPartition, CommittedOffset>,
) -> Result<(), ClientError> {
    if offsets.is_empty() {
        return Ok(());
    }
    let connection = client.group_coordinator_once(group).await?;
    // Version 10 names topics by id, which not every generated message can write.
    let version = connection.version_up_to::<OffsetCommitRequest>(9)?;
    let mut topics: Vec<OffsetCommitRequestTopic> = Vec::new();
    for (partition, committed) in offsets {
        let mut entry = OffsetCommitRequestPartition::default()
            .with_partition_index(partition.partition)
            .with_committed_offset(committed.offset)
            .with_committed_metadata(Some(text(&committed.metadata)));
        if version >= 6 {
            entry.committed_leader_epoch = committed.leader_epoch;
        }
        match topics.last_mut().filter(|topic| topic.name.as_str() == &*partition.topic) {
            Some(topic) => topic.partitions.push(entry),
            None => topics.push(OffsetCommitRequestTopic::default().with_name(topic_name(&partition.topic)).with_partitions(vec![entry])),
        }
    }
    let mut request = OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(text(member_id))
        .with_topics(topics);
    if version >= 7 {
        request.group_instance_id = instance_id.map(text);
    }
    let response = connection.call_at(version, &request, client.config().request_timeout).await?;
    for topic in &response.topics {
        for partition in &topic.partitions {
            ClientError::check(partition.error_code, None, || {
                format!("committing the offset of {}-{} for group {group}", topic.name.as_str(), partition.partition_index)
            })?;
        }
    }
    Ok(())
}

fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}

/// The newest version of the consumer protocol's messages that this client writes and reads.
const CONSUMER_PROTOCOL_VERSION: i16 = 3;

/// Partitions by topic, in order.
fn by_topic(partitions: &[TopicPartition]) -> BTreeMap<&str, Vec<i32>> {
    let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
    for partition in partitions {
        topics.entry(&partition.topic).or_default().push(partition.partition);
    }
    topics
}

fn embedded(message: &impl Encodable) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(CONSUMER_PROTOCOL_VERSION);
    message.encode(&mut bytes, CONSUMER_PROTOCOL_VERSION).expect("names and numbers can be written");
    bytes.freeze()
}

fn encode_subscription(topics: &[Arc<str>], owned: &[TopicPartition], generation: i32) -> Bytes {
    use consumer_protocol_subscription::TopicPartition as Owned;
    let owned = by_topic(owned).into_iter().map(|(topic, partitions)| Owned::default().with_topic(topic_name(topic)).with_partitions(partitions));
    let message = ConsumerProtocolSubscription::default()
        .with_topics(topics.iter().map(|topic| text(topic)).collect())
        .with_owned_partitions(owned.collect())
        .with_generation_id(generation);
    embedded(&message)
}

fn decode_subscription(bytes: Bytes) -> Result<Subscription, ClientError> {
    let message: ConsumerProtocolSubscription =
        guard::decode_embedded(&schema::CONSUMER_PROTOCOL_SUBSCRIPTION, "ConsumerProtocolSubscription", CONSUMER_PROTOCOL_VERSION, bytes)
            .map_err(|error| ClientError::Invalid { what: format!("a member's subscription cannot be read: {error}").into() })?;
    let owned = message.owned_partitions.iter().flat_map(|topic| {
        let name: Arc<str> = topic.topic.as_str().into();
        topic.partitions.iter().map(move |partition| TopicPartition::new(name.clone(), *partition))
    });
    Ok(Subscription {
        topics: message.topics.iter().map(|topic| Arc::from(topic.as_str())).collect(),
        owned: owned.collect(),
        generation: message.generation_id,
        instance_id: None,
    })
}

fn encode_assignment(partitions: &[TopicPartition]) -> Bytes {
    use consumer_protocol_assignment::TopicPartition as Assigned;
    let assigned = by_topic(partitions).into_iter().map(|(topic, partitions)| Assigned::default().with_topic(topic_name(topic)).with_partitions(partitions));
    embedded(&ConsumerProtocolAssignment::default().with_assigned_partitions(assigned.collect()))
}

/// Reads a member's assignment; empty bytes are an empty one.
pub(crate) fn decode_assignment(bytes: Bytes) -> Result<Vec<TopicPartition>, ClientError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let message: ConsumerProtocolAssignment =
        guard::decode_embedded(&schema::CONSUMER_PROTOCOL_ASSIGNMENT, "ConsumerProtocolAssignment", CONSUMER_PROTOCOL_VERSION, bytes)
            .map_err(|error| ClientError::Invalid { what: format!("an assignment cannot be read: {error}").into() })?;
    let partitions = message.assigned_partitions.iter().flat_map(|topic| {
        let name: Arc<str> = topic.topic.as_str().into();
        topic.partitions.iter().map(move |partition| TopicPartition::new(name.clone(), *partition))
    });
    Ok(partitions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_assignments_come_back() {
        let owned = [TopicPartition::new("t", 0), TopicPartition::new("t", 3), TopicPartition::new("u", 1)];
        let subscription = decode_subscription(encode_subscription(&["t".into(), "u".into()], &owned, 5)).unwrap();
        assert_eq!(subscription.owned, owned);
        assert_eq!(subscription.generation, 5);
        assert_eq!(subscription.topics.len(), 2);
        assert_eq!(decode_assignment(encode_assignment(&owned)).unwrap(), owned);
        assert_eq!(decode_assignment(Bytes::new()).unwrap(), []);
    }

    #[test]
    fn other_bytes_are_no_assignment() {
        assert!(decode_assignment(Bytes::from_static(b"\0\x01\x7f\xff\xff\xff")).is_err());
    }
}
