//! Consumer groups over the wire.

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    DescribeGroupsRequest, FindCoordinatorRequest, HeartbeatRequest, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest,
    OffsetFetchRequest, SyncGroupRequest, SyncGroupResponse,
};

use super::*;

/// Makes the group's coordinator available: the first look for it makes `__consumer_offsets`, whose partitions are then loaded.
pub async fn find(connection: &Conn, group: &str) {
    let answer = ask(connection, FindCoordinatorRequest::default().with_coordinator_keys(vec![text(group)])).await;
    assert_eq!(answer.coordinators[0].error_code, 0, "{:?}", answer.coordinators[0].error_message);
    loop {
        let answer = ask(connection, DescribeGroupsRequest::default().with_groups(vec![group_id(group)])).await;
        if answer.groups[0].error_code != code(Error::CoordinatorLoadInProgress) {
            return;
        }
    }
}

pub fn joining(group: &str, member: &StrBytes, metadata: &'static str) -> JoinGroupRequest {
    let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(metadata.as_bytes()));
    JoinGroupRequest::default()
        .with_group_id(group_id(group))
        .with_session_timeout_ms(60_000)
        .with_rebalance_timeout_ms(60_000)
        .with_member_id(member.clone())
        .with_protocol_type(text("consumer"))
        .with_protocols(vec![protocol])
}

/// A member id, as the coordinator gives it to whoever joins without one.
async fn member_id(connection: &Conn, group: &str) -> StrBytes {
    let answer = ask(connection, joining(group, &StrBytes::default(), "")).await;
    assert_eq!(answer.error_code, code(Error::MemberIdRequired));
    answer.member_id
}

fn syncing(group: &str, joined: &JoinGroupResponse, assignments: &[(&StrBytes, &'static str)]) -> SyncGroupRequest {
    let assignments = assignments
        .iter()
        .map(|(member, assignment)| {
            SyncGroupRequestAssignment::default().with_member_id((*member).clone()).with_assignment(Bytes::from_static(assignment.as_bytes()))
        })
        .collect();
    SyncGroupRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id(joined.generation_id)
        .with_member_id(joined.member_id.clone())
        .with_protocol_type(Some(text("consumer")))
        .with_protocol_name(Some(text("range")))
        .with_assignments(assignments)
}

/// A group with one member, in generation 1; the member's id.
pub async fn join_alone(connection: &Conn, group: &str) -> StrBytes {
    find(connection, group).await;
    let member = member_id(connection, group).await;
    let joined = ask(connection, joining(group, &member, "all")).await;
    assert_eq!((joined.error_code, joined.generation_id), (0, 1));
    let synced = ask(connection, syncing(group, &joined, &[(&member, "all")])).await;
    assert_eq!((synced.error_code, &synced.assignment[..]), (0, &b"all"[..]));
    member
}

fn committing(group: &str, generation: i32, member: &StrBytes, topic: &str, partition: i32, offset: i64) -> OffsetCommitRequest {
    let partitions = vec![OffsetCommitRequestPartition::default().with_partition_index(partition).with_committed_offset(offset)];
    OffsetCommitRequest::default()
        .with_group_id(group_id(group))
        .with_generation_id_or_member_epoch(generation)
        .with_member_id(member.clone())
        .with_topics(vec![OffsetCommitRequestTopic::default().with_name(topic_name(topic)).with_partitions(partitions)])
}

/// Commits as one who is no member, as simple consumers do.
pub async fn commit(connection: &Conn, group: &str, topic: &str, partition: i32, offset: i64) {
    let answer = ask_at(connection, 9, committing(group, -1, &StrBytes::default(), topic, partition, offset)).await;
    assert_eq!(answer.topics[0].partitions[0].error_code, 0);
}

/// The committed offset, −1 for none.
pub async fn committed(connection: &Conn, group: &str, topic: &str, partition: i32) -> i64 {
    let topics = vec![OffsetFetchRequestTopics::default().with_name(topic_name(topic)).with_partition_indexes(vec![partition])];
    let group = OffsetFetchRequestGroup::default().with_group_id(group_id(group)).with_topics(Some(topics));
    let answer = ask_at(connection, 9, OffsetFetchRequest::default().with_groups(vec![group])).await;
    assert_eq!(answer.groups[0].error_code, 0);
    answer.groups[0].topics[0].partitions[0].committed_offset
}

fn beating(group: &str, generation: i32, member: &StrBytes) -> HeartbeatRequest {
    HeartbeatRequest::default().with_group_id(group_id(group)).with_generation_id(generation).with_member_id(member.clone())
}

#[test]
fn two_members_share_a_group_and_one_leaves() {
    with_broker(&[], |server| async move {
        let (a, b) = (server.connect().await, server.connect().await);
        create(&a, "t", 2, &[]).await;
        let first = join_alone(&a, "g").await;
        // The second one waits for the first to join again, which its heartbeat is told to.
        let second = member_id(&b, "g").await;
        let waiting = begin(&b, 9, joining("g", &second, "second")).await;
        loop {
            match ask(&a, beating("g", 1, &first)).await.error_code {
                0 => {}
                error => break assert_eq!(error, code(Error::RebalanceInProgress)),
            }
        }
        let leader = ask(&a, joining("g", &first, "first")).await;
        let follower = waiting.wait().await.unwrap();
        assert_eq!((leader.error_code, leader.generation_id, &leader.leader), (0, 2, &first));
        assert_eq!((follower.error_code, follower.generation_id, &follower.leader, follower.members.len()), (0, 2, &first, 0));
        assert_eq!(leader.members.len(), 2, "the leader alone is told who is there");
        // The follower's sync waits for the leader's.
        let waiting = begin(&b, 5, syncing("g", &follower, &[])).await;
        let mine: SyncGroupResponse = ask(&a, syncing("g", &leader, &[(&first, "zero"), (&second, "one")])).await;
        let other = waiting.wait().await.unwrap();
        assert_eq!((&mine.assignment[..], &other.assignment[..]), (&b"zero"[..], &b"one"[..]));
        assert_eq!(ask(&b, beating("g", 2, &second)).await.error_code, 0);
        // A commit of the last generation is fenced, one of this is kept.
        let stale = ask_at(&a, 9, committing("g", 1, &first, "t", 0, 5)).await;
        assert_eq!(stale.topics[0].partitions[0].error_code, code(Error::IllegalGeneration));
        let good = ask_at(&a, 9, committing("g", 2, &first, "t", 0, 7)).await;
        assert_eq!(good.topics[0].partitions[0].error_code, 0);
        assert_eq!(committed(&b, "g", "t", 0).await, 7);
        // One leaves: the other is told to join again.
        let leaving = LeaveGroupRequest::default().with_group_id(group_id("g")).with_members(vec![MemberIdentity::default().with_member_id(first)]);
        assert_eq!(ask(&a, leaving).await.members[0].error_code, 0);
        assert_eq!(ask(&b, beating("g", 2, &second)).await.error_code, code(Error::RebalanceInProgress));
        let alone = ask(&b, joining("g", &second, "second")).await;
        assert_eq!((alone.generation_id, &alone.leader, alone.members.len()), (3, &second, 1));
    });
}

#[test]
fn offsets_survive_a_restart_and_go_with_their_topic() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        for topic in ["kept", "deleted"] {
            create(&connection, topic, 1, &[]).await;
        }
        find(&connection, "g").await;
        commit(&connection, "g", "kept", 0, 11).await;
        commit(&connection, "g", "deleted", 0, 12).await;
        let server = server.restart().await;
        let connection = server.connect().await;
        find(&connection, "g").await;
        assert_eq!((committed(&connection, "g", "kept", 0).await, committed(&connection, "g", "deleted", 0).await), (11, 12));
        super::topics::delete(&connection, "deleted").await;
        create(&connection, "deleted", 1, &[]).await;
        assert_eq!((committed(&connection, "g", "kept", 0).await, committed(&connection, "g", "deleted", 0).await), (11, -1));
    });
}

#[test]
fn groups_live_on_after_their_topic_was_deleted_and_made_anew() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        find(&connection, "g").await;
        commit(&connection, "g", "t", 0, 3).await;
        super::topics::delete(&connection, "__consumer_offsets").await;
        // What was committed is gone with the topic; the coordinator is not.
        find(&connection, "g").await;
        assert_eq!(committed(&connection, "g", "t", 0).await, -1);
        commit(&connection, "g", "t", 0, 4).await;
        assert_eq!(committed(&connection, "g", "t", 0).await, 4);
    });
}

#[test]
fn members_that_wait_are_told_when_the_broker_stops() {
    with_broker(&[], |server| async move {
        let (a, b) = (server.connect().await, server.connect().await);
        join_alone(&a, "g").await;
        let second = member_id(&b, "g").await;
        let waiting = begin(&b, 9, joining("g", &second, "second")).await;
        // It is there: the first one is to join again.
        let broker = server.broker.clone();
        loop {
            let answer = ask(&a, DescribeGroupsRequest::default().with_groups(vec![group_id("g")])).await;
            if answer.groups[0].group_state.as_str() == "PreparingRebalance" {
                break;
            }
        }
        broker.shutdown().await;
        assert_eq!(waiting.wait().await.unwrap().error_code, code(Error::NotCoordinator));
    });
}
