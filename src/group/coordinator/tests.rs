//! The coordinator through its API, on a clock and a log that tests move.

use std::future::Future;

use bytes::Bytes;
use kafka_protocol::messages::delete_groups_request::DeleteGroupsRequest;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Encodable;

use super::*;
use crate::group::consumer_protocol::subscription;
use crate::internal_topic::manual::{ManualRuntime, ManualTask};
use crate::internal_topic::memory::MemoryLog;
use crate::runtime::Task;

const CLIENT: ClientInfo<'static> = ClientInfo { id: "consumer-1", host: "/127.0.0.1" };
const TOPIC_ID: Uuid = Uuid::from_u128(0x1234);

struct OneTopic;

impl Topics for OneTopic {
    fn by_name(&self, name: &str) -> Option<TopicRef> {
        (name == "t").then(|| TopicRef { name: "t".into(), id: TOPIC_ID, partition_count: 3 })
    }
    fn by_id(&self, id: Uuid) -> Option<TopicRef> {
        if id == TOPIC_ID { self.by_name("t") } else { None }
    }
}

type Coordinator = GroupCoordinator<ManualRuntime, MemoryLog>;

struct World {
    rt: ManualRuntime,
    log: MemoryLog,
    coordinator: Coordinator,
}

impl World {
    /// A coordinator that leads the partition of the group "g".
    async fn new() -> Self {
        Self::with_config(CoordinatorConfig::default()).await
    }

    async fn with_config(config: CoordinatorConfig) -> Self {
        let world = Self::unloaded(ManualRuntime::new(), config, MemoryLog::new());
        world.load(0).await;
        world
    }

    fn unloaded(rt: ManualRuntime, config: CoordinatorConfig, log: MemoryLog) -> Self {
        let coordinator = Coordinator::new(rt.clone(), config, Arc::new(OneTopic));
        Self { rt, log, coordinator }
    }

    async fn load(&self, leader_epoch: i32) {
        self.coordinator.load(self.coordinator.partition_for("g"), leader_epoch, self.log.clone());
        self.rt.settle().await;
    }

    /// Another broker takes over.
    async fn fail_over(&mut self) {
        self.log = self.log.next_leadership();
        self.coordinator.shutdown();
        self.coordinator = Coordinator::new(self.rt.clone(), CoordinatorConfig::default(), Arc::new(OneTopic));
        self.load(1).await;
    }

    fn spawn<T: Send + 'static>(&self, request: impl FnOnce(Coordinator) -> BoxFuture<T>) -> ManualTask<T> {
        self.rt.spawn("request", request(self.coordinator.clone()))
    }

    fn join(&self, version: i16, member_id: &str, instance_id: Option<&str>) -> ManualTask<JoinGroupResponse> {
        let request = join_request(member_id, instance_id);
        self.spawn(move |coordinator| Box::pin(async move { coordinator.join_group(&request, version, CLIENT).await }))
    }

    fn sync(&self, member_id: &str, generation: i32, assignments: &[(&str, &'static [u8])]) -> ManualTask<SyncGroupResponse> {
        let assignments =
            assignments.iter().map(|(id, bytes)| SyncGroupRequestAssignment::default().with_member_id(text(*id)).with_assignment(Bytes::from_static(bytes)));
        let request = SyncGroupRequest::default()
            .with_group_id(group_id("g"))
            .with_generation_id(generation)
            .with_member_id(text(member_id))
            .with_protocol_type(Some(text("consumer")))
            .with_protocol_name(Some(text("range")))
            .with_assignments(assignments.collect());
        self.spawn(move |coordinator| Box::pin(async move { coordinator.sync_group(&request, 5).await }))
    }

    async fn heartbeat(&self, member_id: &str, generation: i32) -> i16 {
        let request = HeartbeatRequest::default().with_group_id(group_id("g")).with_member_id(text(member_id)).with_generation_id(generation);
        self.coordinator.heartbeat(&request).await.error_code
    }

    /// A stable group of one member, and its id.
    async fn stable(&self) -> String {
        let member_id = join_with_id(self).await;
        let join = self.join(9, &member_id, None);
        self.rt.advance(Duration::from_secs(3)).await;
        let joined = join.join().await.unwrap();
        assert_eq!((joined.error_code, joined.generation_id, joined.leader.as_str()), (0, 1, member_id.as_str()));
        let synced = self.sync(&member_id, 1, &[(&member_id, b"all")]).join().await.unwrap();
        assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
        member_id
    }

    fn commit(&self, version: i16, member_id: &str, generation: i32, partition: i32, offset: i64) -> ManualTask<OffsetCommitResponse> {
        let request = commit_request(member_id, generation, "t", partition, offset, "");
        self.spawn(move |coordinator| Box::pin(async move { coordinator.offset_commit(&request, version).await }))
    }

    async fn commit_code(&self, member_id: &str, generation: i32, offset: i64) -> i16 {
        commit_error(&self.commit(9, member_id, generation, 0, offset).join().await.unwrap())
    }

    async fn fetch(&self, require_stable: bool) -> (i64, i16) {
        let request = fetch_request(require_stable);
        let response = self.coordinator.offset_fetch(&request, 9).await;
        let group = &response.groups[0];
        match group.topics.first() {
            Some(topic) => (topic.partitions[0].committed_offset, topic.partitions[0].error_code),
            None => (-2, group.error_code),
        }
    }
}

type BoxFuture<T> = std::pin::Pin<Box<dyn Future<Output = T> + Send>>;

fn group_id(id: &str) -> GroupId {
    GroupId(text(id))
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn join_request(member_id: &str, instance_id: Option<&str>) -> JoinGroupRequest {
    JoinGroupRequest::default()
        .with_group_id(group_id("g"))
        .with_session_timeout_ms(10_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(text(member_id))
        .with_group_instance_id(instance_id.map(text))
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(subscription(&["t"]))])
}

fn commit_request(member_id: &str, generation: i32, topic: &str, partition: i32, offset: i64, metadata: &str) -> OffsetCommitRequest {
    let partition =
        OffsetCommitRequestPartition::default().with_partition_index(partition).with_committed_offset(offset).with_committed_metadata(Some(text(metadata)));
    OffsetCommitRequest::default()
        .with_group_id(group_id("g"))
        .with_member_id(text(member_id))
        .with_generation_id_or_member_epoch(generation)
        .with_topics(vec![OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition])])
}

fn fetch_request(require_stable: bool) -> OffsetFetchRequest {
    let topic = OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_partition_indexes(vec![0]);
    OffsetFetchRequest::default()
        .with_groups(vec![OffsetFetchRequestGroup::default().with_group_id(group_id("g")).with_topics(Some(vec![topic]))])
        .with_require_stable(require_stable)
}

fn commit_error(response: &OffsetCommitResponse) -> i16 {
    response.topics[0].partitions[0].error_code
}

/// Joins as a new dynamic member until it has an id.
async fn join_with_id(world: &World) -> String {
    let joined = world.join(9, "", None).join().await.unwrap();
    assert_eq!(joined.error_code, ErrorCode::MemberIdRequired.code());
    joined.member_id.to_string()
}

#[test]
fn groups_hash_as_javas_strings_do() {
    // From Java's own String.hashCode.
    for (text, hash, of_50) in
        [("", 0, 0), ("grp", 102_629, 29), ("my-consumer-group", 1_513_705_513, 13), ("tøpic", 114_627_590, 40), ("😀group", -1_231_696_132, 16)]
    {
        assert_eq!(java_hash(text), hash, "{text}");
        assert_eq!((java_hash(text) & i32::MAX) % 50, of_50, "{text}");
    }
}

#[tokio::test]
async fn a_consumers_life() {
    let world = World::new().await;
    let member_id = world.stable().await;
    assert!(member_id.starts_with("consumer-1-") && Uuid::parse_str(&member_id["consumer-1-".len()..]).is_ok(), "{member_id}");
    assert_eq!(world.heartbeat(&member_id, 1).await, 0);
    assert_eq!(world.fetch(true).await, (-1, 0));
    assert_eq!(world.commit_code(&member_id, 1, 42).await, 0);
    assert_eq!(world.fetch(true).await, (42, 0));
    let leave = LeaveGroupRequest::default()
        .with_group_id(group_id("g"))
        .with_members(vec![MemberIdentity::default().with_member_id(text(member_id.clone())), MemberIdentity::default().with_member_id(text("nobody"))]);
    let left = world.coordinator.leave_group(&leave, 5).await;
    let codes: Vec<i16> = left.members.iter().map(|member| member.error_code).collect();
    assert_eq!((left.error_code, codes), (0, vec![0, ErrorCode::UnknownMemberId.code()]));
    assert_eq!(world.heartbeat(&member_id, 1).await, ErrorCode::UnknownMemberId.code());
}

#[tokio::test]
async fn what_was_answered_survives_a_failover() {
    let mut world = World::new().await;
    let member_id = world.stable().await;
    assert_eq!(world.commit_code(&member_id, 1, 42).await, 0);
    let waiting = world.join(9, &member_id, None).join().await.unwrap();
    assert_eq!(waiting.generation_id, 2, "the leader rejoined: a generation that is never agreed on");
    world.fail_over().await;
    assert_eq!(world.fetch(true).await, (42, 0));
    assert_eq!(world.heartbeat(&member_id, 1).await, 0, "the last generation that was committed");
    let synced = world.sync(&member_id, 1, &[]).join().await.unwrap();
    assert_eq!(&synced.assignment[..], b"all");
    world.rt.advance(Duration::from_secs(10)).await;
    assert_eq!(world.heartbeat(&member_id, 1).await, ErrorCode::UnknownMemberId.code(), "and its session runs");
}

#[tokio::test]
async fn nothing_is_answered_from_a_partition_that_is_loading() {
    let world = World::new().await;
    let member_id = world.stable().await;
    world.commit_code(&member_id, 1, 42).await;
    // The new leader has the record, but its high watermark does not cover it yet.
    let log = world.log.next_leadership();
    let other = World::unloaded(world.rt.clone(), CoordinatorConfig::default(), log);
    other.log.hold_commits(true);
    let mut batch = crate::record::builder::BatchBuilder::new();
    let record = GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 0, value: None }.encode().unwrap();
    batch.push(0, Some(&record.0), None, &[]);
    other.log.append(batch.build()).await.unwrap();
    let not_led = ErrorCode::NotCoordinator.code();
    assert_eq!(other.fetch(true).await, (-2, not_led));
    other.load(1).await;
    let partition = other.coordinator.partition_for("g");
    assert_eq!(other.coordinator.load_state(partition), LoadState::Loading);
    let loading = ErrorCode::CoordinatorLoadInProgress.code();
    assert_eq!(other.fetch(true).await, (-2, loading));
    assert_eq!(other.fetch(false).await, (-2, loading));
    assert_eq!(other.commit_code(&member_id, 1, 43).await, loading);
    assert_eq!(other.join(9, "", None).join().await.unwrap().error_code, loading);
    assert_eq!(other.heartbeat(&member_id, 1).await, 0, "sessions begin when it is loaded");
    assert_eq!(other.sync(&member_id, 1, &[]).join().await.unwrap().error_code, ErrorCode::RebalanceInProgress.code());
    assert_eq!(other.coordinator.list_groups(&ListGroupsRequest::default()).await.error_code, loading);
    other.log.hold_commits(false);
    other.rt.settle().await;
    assert_eq!(other.fetch(true).await, (-1, 0), "the tombstone was the log's last word");
}

#[cfg(feature = "plants")]
#[tokio::test]
async fn the_plant_answers_from_a_partition_that_is_loading() {
    let rt = ManualRuntime::new();
    rt.plant("offsets-fetched-before-load");
    let world = World::unloaded(rt, CoordinatorConfig::default(), MemoryLog::new());
    world.log.hold_commits(true);
    let mut batch = crate::record::builder::BatchBuilder::new();
    batch.push(0, Some(b"\0\x09"), None, &[]);
    world.log.append(batch.build()).await.unwrap();
    world.load(0).await;
    assert_eq!(world.fetch(true).await, (-1, 0));
}

#[tokio::test]
async fn commits_are_answered_when_they_are_committed() {
    let world = World::new().await;
    let member_id = world.stable().await;
    world.log.hold_commits(true);
    let commit = world.commit(9, &member_id, 1, 0, 42);
    world.rt.settle().await;
    assert_eq!(world.fetch(false).await, (-1, 0), "not visible before it is committed");
    assert_eq!(world.fetch(true).await, (-1, ErrorCode::UnstableOffsetCommit.code()));
    world.log.hold_commits(false);
    assert_eq!(commit_error(&commit.join().await.unwrap()), 0);
    assert_eq!(world.fetch(true).await, (42, 0));
}

#[tokio::test]
async fn commits_that_take_too_long_are_told_so() {
    let world = World::new().await;
    let member_id = world.stable().await;
    world.log.hold_commits(true);
    let commit = world.commit(9, &member_id, 1, 0, 42);
    world.rt.advance(Duration::from_secs(5)).await;
    assert_eq!(commit_error(&commit.join().await.unwrap()), ErrorCode::CoordinatorNotAvailable.code());
    world.log.hold_commits(false);
    world.rt.settle().await;
    assert_eq!(world.fetch(true).await, (42, 0), "it was in the log after all");
}

#[tokio::test]
async fn a_lost_leadership_answers_everybody() {
    let world = World::new().await;
    let member_id = world.stable().await;
    world.log.hold_commits(true);
    let commit = world.commit(9, &member_id, 1, 0, 42);
    let newcomer = join_with_id(&world).await;
    let join = world.join(9, &newcomer, None);
    world.rt.settle().await;
    world.log.resign();
    let lost = ErrorCode::NotCoordinator.code();
    assert_eq!(commit_error(&commit.join().await.unwrap()), lost);
    assert_eq!(join.join().await.unwrap().error_code, lost);
    assert_eq!(world.heartbeat(&member_id, 1).await, lost);
    assert_eq!(world.coordinator.load_state(world.coordinator.partition_for("g")), LoadState::Failed);
}

#[tokio::test]
async fn unloading_is_fenced_by_the_epoch() {
    let world = World::new().await;
    let partition = world.coordinator.partition_for("g");
    let member_id = world.stable().await;
    world.load(5).await;
    assert_eq!(world.coordinator.load_state(partition), LoadState::Loaded);
    world.coordinator.unload(partition, Some(4));
    assert_eq!(world.heartbeat(&member_id, 1).await, 0, "a resignation from an older epoch comes late");
    world.load(3).await;
    assert_eq!(world.heartbeat(&member_id, 1).await, 0);
    world.coordinator.unload(partition, Some(5));
    assert_eq!(world.heartbeat(&member_id, 1).await, ErrorCode::NotCoordinator.code());
    world.load(6).await;
    world.coordinator.unload(partition, None);
    assert_eq!(world.coordinator.load_state(partition), LoadState::NotLed);
}

#[tokio::test]
async fn a_connection_that_goes_leaves_its_member_until_the_session_ends() {
    let world = World::new().await;
    let member_id = world.stable().await;
    let newcomer = join_with_id(&world).await;
    let join = world.join(9, &newcomer, None);
    world.rt.settle().await;
    join.abort();
    assert_eq!(world.heartbeat(&member_id, 1).await, ErrorCode::RebalanceInProgress.code());
    let joined = world.join(9, &member_id, None).join().await.unwrap();
    assert_eq!(joined.members.len(), 2);
    world.sync(&member_id, 2, &[(&member_id, b"half")]).join().await.unwrap();
    world.rt.advance(Duration::from_secs(9)).await;
    assert_eq!(world.heartbeat(&member_id, 2).await, 0);
    world.rt.advance(Duration::from_secs(1)).await;
    assert_eq!(world.heartbeat(&member_id, 2).await, ErrorCode::RebalanceInProgress.code());
}

#[tokio::test]
async fn commits_are_checked_partition_by_partition() {
    let world = World::new().await;
    let check = |topic: &'static str, partition, metadata: String, version| {
        let mut request = commit_request("", -1, topic, partition, 7, &metadata);
        if version >= 10 {
            request.topics[0].topic_id = if topic == "t" { TOPIC_ID } else { Uuid::from_u128(9) };
            request.topics[0].name = topic_name("");
        }
        let coordinator = world.coordinator.clone();
        async move { commit_error(&coordinator.offset_commit(&request, version).await) }
    };
    assert_eq!(check("t", 0, String::new(), 9).await, 0);
    assert_eq!(check("t", 3, String::new(), 9).await, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(check("t", -1, String::new(), 9).await, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(check("u", 0, String::new(), 9).await, ErrorCode::UnknownTopicOrPartition.code());
    assert_eq!(check("t", 0, String::new(), 10).await, 0);
    assert_eq!(check("u", 0, String::new(), 10).await, ErrorCode::UnknownTopicId.code());
    assert_eq!(check("t", 0, "m".repeat(4_096), 9).await, 0);
    assert_eq!(check("t", 0, "m".repeat(4_097), 9).await, ErrorCode::OffsetMetadataTooLarge.code());
    let unknown = commit_request("nobody", 3, "t", 0, 7, "").with_group_id(group_id("g2"));
    world.coordinator.load(world.coordinator.partition_for("g2"), 0, MemoryLog::new());
    world.rt.settle().await;
    assert_eq!(commit_error(&world.coordinator.offset_commit(&unknown, 9).await), ErrorCode::GroupIdNotFound.code());
    assert_eq!(commit_error(&world.coordinator.offset_commit(&unknown, 8).await), ErrorCode::IllegalGeneration.code());
}

#[tokio::test]
async fn offsets_are_fetched_in_every_version() {
    let world = World::new().await;
    for partition in [0, 2] {
        assert_eq!(commit_error(&world.commit(2, "", -1, partition, 40 + i64::from(partition)).join().await.unwrap()), 0);
    }
    let topic = OffsetFetchRequestTopic::default().with_name(topic_name("t")).with_partition_indexes(vec![2, 1]);
    let one = OffsetFetchRequest::default().with_group_id(group_id("g")).with_topics(Some(vec![topic]));
    let all = OffsetFetchRequest::default().with_group_id(group_id("g")).with_topics(None);
    let told = |response: &OffsetFetchResponse| -> Vec<(i32, i64)> {
        response.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| (partition.partition_index, partition.committed_offset)).collect()
    };
    for version in 1..=7 {
        let response = world.coordinator.offset_fetch(&one, version).await;
        assert_eq!(told(&response), [(2, 42), (1, -1)]);
        response.encode(&mut bytes::BytesMut::new(), version).unwrap();
    }
    assert_eq!(told(&world.coordinator.offset_fetch(&all, 7).await), [(0, 40), (2, 42)]);
    for version in 8..=10 {
        let mut group = OffsetFetchRequestGroup::default().with_group_id(group_id("g")).with_topics(None);
        let response = world.coordinator.offset_fetch(&OffsetFetchRequest::default().with_groups(vec![group.clone()]), version).await;
        let topic = &response.groups[0].topics[0];
        assert_eq!((topic.partitions.len(), topic.topic_id), (2, if version >= 10 { TOPIC_ID } else { Uuid::nil() }));
        response.encode(&mut bytes::BytesMut::new(), version).unwrap();
        let mut wanted = OffsetFetchRequestTopics::default().with_name(topic_name("t")).with_topic_id(Uuid::from_u128(9)).with_partition_indexes(vec![0]);
        group.topics = Some(vec![wanted.clone()]);
        let response = world.coordinator.offset_fetch(&OffsetFetchRequest::default().with_groups(vec![group.clone()]), version).await;
        let partition = &response.groups[0].topics[0].partitions[0];
        let expected = if version >= 10 { (-1, ErrorCode::UnknownTopicId.code()) } else { (40, 0) };
        assert_eq!((partition.committed_offset, partition.error_code), expected);
        wanted.topic_id = TOPIC_ID;
        group.topics = Some(vec![wanted]);
        let response = world.coordinator.offset_fetch(&OffsetFetchRequest::default().with_groups(vec![group]), version).await;
        assert_eq!(response.groups[0].topics[0].partitions[0].committed_offset, 40);
    }
    let elsewhere = one.clone().with_group_id(group_id("elsewhere"));
    let response = world.coordinator.offset_fetch(&elsewhere, 1).await;
    assert_eq!(response.topics[0].partitions[0].error_code, ErrorCode::NotCoordinator.code());
    assert_eq!(world.coordinator.offset_fetch(&elsewhere, 2).await.error_code, ErrorCode::NotCoordinator.code());
}

#[tokio::test]
async fn offsets_of_a_topic_made_anew_are_not_the_old_ones() {
    let world = World::new().await;
    let value = OffsetValueFor { topic_id: Uuid::from_u128(7) };
    value.write(&world.log).await;
    world.load(1).await;
    let mut group = OffsetFetchRequestGroup::default().with_group_id(group_id("g"));
    group.topics = Some(vec![OffsetFetchRequestTopics::default().with_topic_id(TOPIC_ID).with_partition_indexes(vec![0])]);
    let response = world.coordinator.offset_fetch(&OffsetFetchRequest::default().with_groups(vec![group]), 10).await;
    assert_eq!(response.groups[0].topics[0].partitions[0].committed_offset, -1);
    assert_eq!(world.fetch(false).await, (5, 0), "asked for by name it is told, as Kafka does");
}

/// Writes an offset with this topic id to a log.
struct OffsetValueFor {
    topic_id: Uuid,
}

impl OffsetValueFor {
    async fn write(&self, log: &MemoryLog) {
        let value = crate::group::records::OffsetValue {
            offset: 5,
            leader_epoch: 0,
            metadata: String::new(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
            topic_id: self.topic_id,
        };
        let record = GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 0, value: Some(value) };
        let (key, value) = record.encode().unwrap();
        let mut batch = crate::record::builder::BatchBuilder::new();
        batch.push(0, Some(&key), value.as_deref(), &[]);
        log.append(batch.build()).await.unwrap();
    }
}

#[tokio::test]
async fn offsets_of_transactions_count_when_the_transaction_does() {
    use crate::record::builder::BatchBuilder;
    let record = |offset| {
        let value = crate::group::records::OffsetValue {
            offset,
            leader_epoch: 0,
            metadata: String::new(),
            commit_timestamp_ms: 0,
            expire_timestamp_ms: None,
            topic_id: Uuid::nil(),
        };
        let (key, value) = GroupRecord::Offset { group: "g".into(), topic: "t".into(), partition: 0, value: Some(value) }.encode().unwrap();
        (key, value.unwrap())
    };
    // (producer id, or none; the offset, or the marker's kind)
    type Batches = &'static [(Option<i64>, i64)];
    let cases: [(Batches, i64); 5] = [
        (&[(Some(1), 10)], -1),
        (&[(Some(1), 10), (Some(-1), 1)], 10),
        (&[(Some(1), 10), (Some(-1), 0)], -1),
        (&[(Some(1), 10), (None, 20), (Some(-1), 1)], 20),
        (&[(None, 20), (Some(1), 10), (Some(-1), 1)], 10),
    ];
    for (batches, expected) in cases {
        let log = MemoryLog::new();
        for (producer, what) in batches {
            let mut batch = BatchBuilder::new();
            match producer {
                Some(-1) => {
                    batch = batch.producer(1, 0, -1).transactional().control();
                    batch.push(0, Some(&[0, 0, 0, *what as u8]), Some(&[0; 6]), &[]);
                }
                Some(producer_id) => {
                    batch = batch.producer(*producer_id, 0, 0).transactional();
                    let (key, value) = record(*what);
                    batch.push(0, Some(&key), Some(&value), &[]);
                }
                None => {
                    let (key, value) = record(*what);
                    batch.push(0, Some(&key), Some(&value), &[]);
                }
            }
            log.append(batch.build()).await.unwrap();
        }
        let world = World::unloaded(ManualRuntime::new(), CoordinatorConfig::default(), log);
        world.load(0).await;
        assert_eq!(world.fetch(false).await, (expected, 0), "{batches:?}");
    }
}

#[tokio::test]
async fn joins_are_checked_before_they_reach_the_group() {
    let world = World::new().await;
    let error = |request: JoinGroupRequest, version| {
        let coordinator = world.coordinator.clone();
        async move { coordinator.join_group(&request, version, CLIENT).await.error_code }
    };
    let good = || join_request("", None);
    assert_eq!(error(good().with_group_id(group_id("")), 9).await, ErrorCode::InvalidGroupId.code());
    assert_eq!(error(good().with_session_timeout_ms(5_999), 9).await, ErrorCode::InvalidSessionTimeout.code());
    assert_eq!(error(good().with_session_timeout_ms(1_800_001), 9).await, ErrorCode::InvalidSessionTimeout.code());
    assert_eq!(error(join_request("nobody", None), 9).await, ErrorCode::UnknownMemberId.code());
    assert_eq!(error(good().with_protocols(vec![]), 9).await, ErrorCode::InconsistentGroupProtocol.code());
    assert_eq!(error(good().with_group_id(group_id("elsewhere")), 9).await, ErrorCode::NotCoordinator.code());
    let listed = world.coordinator.list_groups(&ListGroupsRequest::default()).await;
    assert!(listed.groups.is_empty(), "a refused join leaves no group behind");
    let sync = SyncGroupRequest::default().with_group_id(group_id("g")).with_member_id(text("m"));
    assert_eq!(world.coordinator.sync_group(&sync, 5).await.error_code, ErrorCode::InconsistentGroupProtocol.code(), "KIP-559");
    assert_eq!(world.coordinator.sync_group(&sync, 4).await.error_code, ErrorCode::UnknownMemberId.code());
}

#[tokio::test]
async fn every_version_of_an_answer_can_be_encoded() {
    for version in 0..=9 {
        let world = World::new().await;
        let bad = world.join(version, "nobody", None).join().await.unwrap();
        bad.encode(&mut bytes::BytesMut::new(), version).unwrap();
        let join = world.join(version, "", Some("i").filter(|_| version >= 5));
        world.rt.advance(Duration::from_secs(3)).await;
        let joined = join.join().await.unwrap();
        assert_eq!(joined.error_code, if version == 4 { ErrorCode::MemberIdRequired.code() } else { 0 });
        joined.encode(&mut bytes::BytesMut::new(), version).unwrap();
    }
}

#[tokio::test]
async fn a_static_member_that_restarts_is_stored_before_it_is_answered() {
    let world = World::new().await;
    let join = world.join(9, "", Some("i"));
    world.rt.advance(Duration::from_secs(3)).await;
    let first = join.join().await.unwrap().member_id.to_string();
    assert!(first.starts_with("i-"));
    world.sync(&first, 1, &[(&first, b"a")]).join().await.unwrap();
    world.log.hold_commits(true);
    let again = world.join(9, "", Some("i"));
    world.rt.settle().await;
    let describe = DescribeGroupsRequest::default().with_groups(vec![group_id("g")]);
    let described = world.coordinator.describe_groups(&describe, 5).await;
    assert_eq!(described.groups[0].members.len(), 1);
    world.log.hold_commits(false);
    let again = again.join().await.unwrap();
    assert_eq!((again.error_code, again.generation_id, again.skip_assignment), (0, 1, true));
    let mut world = world;
    world.fail_over().await;
    assert_eq!(world.heartbeat(&again.member_id, 1).await, 0);
    assert_eq!(world.heartbeat(&first, 1).await, ErrorCode::UnknownMemberId.code());
}

#[tokio::test]
async fn groups_are_listed_and_described() {
    let world = World::new().await;
    let member_id = world.stable().await;
    let list = |states: &'static [&'static str], types: &'static [&'static str]| {
        let filter = |names: &[&'static str]| names.iter().map(|name| text(*name)).collect::<Vec<_>>();
        let request = ListGroupsRequest::default().with_states_filter(filter(states)).with_types_filter(filter(types));
        let coordinator = world.coordinator.clone();
        async move { coordinator.list_groups(&request).await.groups }
    };
    let all = list(&[], &[]).await;
    assert_eq!(all.len(), 1);
    assert_eq!((all[0].group_state.as_str(), all[0].group_type.as_str(), all[0].protocol_type.as_str()), ("Stable", "classic", "consumer"));
    assert_eq!(list(&["empty", "stable"], &["CLASSIC"]).await.len(), 1);
    assert_eq!(list(&["Empty"], &[]).await.len(), 0);
    assert_eq!(list(&[], &["consumer"]).await.len(), 0);
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id("g"), group_id("elsewhere")]);
    let described = world.coordinator.describe_groups(&request, 6).await.groups;
    let group = &described[0];
    assert_eq!((group.group_state.as_str(), group.protocol_data.as_str(), group.error_code), ("Stable", "range", 0));
    let member = &group.members[0];
    assert_eq!((member.member_id.as_str(), member.client_id.as_str(), member.client_host.as_str()), (member_id.as_str(), CLIENT.id, CLIENT.host));
    assert_eq!((&member.member_metadata, &member.member_assignment[..]), (&subscription(&["t"]), &b"all"[..]));
    assert_eq!(described[1].error_code, ErrorCode::NotCoordinator.code());
    world.coordinator.load(world.coordinator.partition_for("unknown"), 0, MemoryLog::new());
    world.rt.settle().await;
    let request = DescribeGroupsRequest::default().with_groups(vec![group_id("unknown")]);
    let described = world.coordinator.describe_groups(&request, 5).await.groups;
    assert_eq!((described[0].group_state.as_str(), described[0].error_code), ("Dead", 0));
    let described = world.coordinator.describe_groups(&request, 6).await.groups;
    assert_eq!(described[0].error_code, ErrorCode::GroupIdNotFound.code());
    assert_eq!(described[0].error_message.as_deref(), Some("Group unknown not found."));
}

#[tokio::test]
async fn groups_are_deleted() {
    let mut world = World::new().await;
    let member_id = world.stable().await;
    world.commit_code(&member_id, 1, 42).await;
    let request = DeleteGroupsRequest::default().with_groups_names(vec![group_id("g"), group_id("elsewhere")]);
    let codes = |response: DeleteGroupsResponse| response.results.iter().map(|result| result.error_code).collect::<Vec<_>>();
    let [non_empty, lost, unknown] = [ErrorCode::NonEmptyGroup, ErrorCode::NotCoordinator, ErrorCode::GroupIdNotFound].map(|error| error.code());
    assert_eq!(codes(world.coordinator.delete_groups(&request).await), [non_empty, lost]);
    world.rt.advance(Duration::from_secs(10)).await;
    assert_eq!(codes(world.coordinator.delete_groups(&request).await), [0, lost]);
    assert_eq!(codes(world.coordinator.delete_groups(&request).await), [unknown, lost]);
    assert_eq!(world.fetch(true).await, (-1, 0));
    world.fail_over().await;
    assert_eq!(world.fetch(true).await, (-1, 0));
    assert!(world.coordinator.list_groups(&ListGroupsRequest::default()).await.groups.is_empty());
}

#[tokio::test]
async fn single_offsets_are_deleted() {
    let world = World::new().await;
    for partition in [0, 1] {
        world.commit(9, "", -1, partition, 42).join().await.unwrap();
    }
    let partitions = [0, 1, 9].map(|partition| OffsetDeleteRequestPartition::default().with_partition_index(partition)).to_vec();
    let topic = OffsetDeleteRequestTopic::default().with_name(topic_name("t")).with_partitions(partitions);
    let request = OffsetDeleteRequest::default().with_group_id(group_id("g")).with_topics(vec![topic]);
    let codes = |response: &OffsetDeleteResponse| response.topics[0].partitions.iter().map(|partition| partition.error_code).collect::<Vec<_>>();
    let response = world.coordinator.offset_delete(&request).await;
    assert_eq!((response.error_code, codes(&response)), (0, vec![0, 0, ErrorCode::UnknownTopicOrPartition.code()]));
    assert_eq!(world.fetch(true).await, (-1, 0));
    let member_id = world.stable().await;
    world.commit_code(&member_id, 1, 42).await;
    let response = world.coordinator.offset_delete(&request).await;
    assert_eq!(codes(&response)[0], ErrorCode::GroupSubscribedToTopic.code());
    assert_eq!(world.fetch(true).await, (42, 0));
}

#[tokio::test]
async fn offsets_expire_and_with_them_the_group() {
    let mut world = World::new().await;
    world.commit_code("", -1, 42).await;
    world.rt.move_wall_clock(7 * 24 * 60 * 60 * 1_000 - 601_000);
    world.rt.advance(Duration::from_secs(600)).await;
    assert_eq!(world.fetch(true).await, (42, 0));
    world.rt.advance(Duration::from_secs(600)).await;
    assert_eq!(world.fetch(true).await, (-1, 0));
    assert!(world.coordinator.list_groups(&ListGroupsRequest::default()).await.groups.is_empty());
    world.fail_over().await;
    assert!(world.coordinator.list_groups(&ListGroupsRequest::default()).await.groups.is_empty());
}

#[tokio::test]
async fn deleted_topics_lose_their_offsets() {
    let world = World::new().await;
    world.commit_code("", -1, 42).await;
    world.coordinator.topics_deleted(&BTreeSet::from(["t".to_owned()]));
    world.rt.settle().await;
    assert_eq!(world.fetch(true).await, (-1, 0));
}

#[tokio::test]
async fn a_full_queue_is_told_and_nothing_is_lost() {
    let world = World::with_config(CoordinatorConfig { queue_bytes_max: 200, ..CoordinatorConfig::default() }).await;
    world.log.hold_commits(true);
    let commits: Vec<_> = (1..=6).map(|offset| world.commit(9, "", -1, 0, offset)).collect();
    world.rt.settle().await;
    world.log.hold_commits(false);
    let mut codes = Vec::new();
    for commit in commits {
        codes.push(commit_error(&commit.join().await.unwrap()));
    }
    let accepted = codes.iter().filter(|code| **code == 0).count();
    assert!((1..6).contains(&accepted) && codes[accepted..].iter().all(|code| *code == ErrorCode::CoordinatorNotAvailable.code()), "{codes:?}");
    assert_eq!(world.fetch(true).await, (accepted as i64, 0));
}

#[tokio::test]
async fn a_damaged_partition_has_no_coordinator() {
    let log = MemoryLog::new();
    let mut batch = crate::record::builder::BatchBuilder::new();
    batch.push(0, Some(b"\0\x02\0\x01g"), Some(b"\0\x63"), &[]);
    log.append(batch.build()).await.unwrap();
    let world = World::unloaded(ManualRuntime::new(), CoordinatorConfig::default(), log);
    world.load(0).await;
    assert_eq!(world.coordinator.load_state(world.coordinator.partition_for("g")), LoadState::Failed);
    assert_eq!(world.fetch(true).await, (-2, ErrorCode::NotCoordinator.code()));
}

#[tokio::test]
async fn old_leave_requests_name_one_member() {
    let world = World::new().await;
    let member_id = world.stable().await;
    let leave = |id: &str| LeaveGroupRequest::default().with_group_id(group_id("g")).with_member_id(text(id));
    assert_eq!(world.coordinator.leave_group(&leave("nobody"), 0).await.error_code, ErrorCode::UnknownMemberId.code());
    assert_eq!(world.coordinator.leave_group(&leave(&member_id), 2).await.error_code, 0);
    assert_eq!(world.coordinator.leave_group(&leave(&member_id), 2).await.error_code, ErrorCode::UnknownMemberId.code());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn locks_are_taken_in_one_order() {
    let coordinator = Coordinator::new(ManualRuntime::new(), CoordinatorConfig { partition_count: 2, ..CoordinatorConfig::default() }, Arc::new(OneTopic));
    for partition in 0..2 {
        coordinator.load(partition, 0, MemoryLog::new());
    }
    while (0..2).any(|partition| coordinator.load_state(partition) != LoadState::Loaded) {
        tokio::task::yield_now().await;
    }
    let mut tasks = Vec::new();
    for client in 0..8 {
        let coordinator = coordinator.clone();
        tasks.push(coordinator.inner.rt.clone().spawn("client", async move {
            for round in 0..100 {
                let group = group_id(&format!("g{}", round % 5));
                let commit = commit_request("", -1, "t", client % 3, round, "").with_group_id(group.clone());
                let code = commit_error(&coordinator.offset_commit(&commit, 9).await);
                assert!([0, ErrorCode::CoordinatorNotAvailable.code()].contains(&code), "only while somebody deletes the group: {code}");
                match client {
                    0 => drop(coordinator.delete_groups(&DeleteGroupsRequest::default().with_groups_names(vec![group])).await),
                    1 => drop(coordinator.list_groups(&ListGroupsRequest::default()).await),
                    2 => coordinator.tick(coordinator.inner.rt.now()),
                    3 => drop(coordinator.join_group(&join_request("", None).with_group_id(group), 9, CLIENT).await),
                    _ => {}
                }
            }
        }));
    }
    for task in tasks {
        task.join().await.expect("no client fails");
    }
}
