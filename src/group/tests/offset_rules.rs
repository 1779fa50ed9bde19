//! One test for each behaviour of committed offsets that Kafka's clients and operators rely on.

use super::*;

fn config() -> GroupConfig {
    GroupConfig::default()
}

#[test]
fn only_the_current_generation_commits() {
    let (mut h, ids) = Harness::stable(config(), 2);
    assert_eq!(h.commit(&ids[0], 1, "t", 5), Ok(()));
    assert_eq!(h.offset("t"), Some(5));
    assert_eq!(h.commit(&ids[0], 0, "t", 6), Err(ErrorCode::IllegalGeneration));
    assert_eq!(h.commit("nobody", 1, "t", 6), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.commit("", -1, "t", 6), Err(ErrorCode::UnknownMemberId), "a simple consumer, while the group has members");
    h.join(&ids[0]);
    assert_eq!(h.commit(&ids[1], 1, "t", 7), Ok(()), "members commit before they rejoin");
    let join = h.join(&ids[1]);
    assert_eq!(h.joined(join).generation, 2);
    assert_eq!(h.commit(&ids[1], 2, "t", 8), Err(ErrorCode::RebalanceInProgress));
    assert_eq!(h.commit(&ids[1], 1, "t", 8), Err(ErrorCode::IllegalGeneration), "a zombie (P40)");
    assert_eq!(h.offset("t"), Some(7));
}

#[test]
fn the_plants_break_what_they_should() {
    let plants = Plants { zombie_commit: true, ..Plants::default() };
    let (mut h, ids) = Harness::stable(GroupConfig { plants, ..config() }, 1);
    assert_eq!(h.commit(&ids[0], 0, "t", 6), Ok(()));
    let plants = Plants { generation_not_bumped: true, ..Plants::default() };
    let (mut h, ids) = Harness::stable(GroupConfig { plants, ..config() }, 1);
    let join = h.join(&ids[0]);
    assert_eq!(h.joined(join).generation, 1);
    let plants = Plants { offsets_expire_while_rebalancing: true, ..Plants::default() };
    let (mut h, ids) = Harness::stable(GroupConfig { plants, ..config() }, 1);
    h.commit(&ids[0], 1, "t", 6).unwrap();
    h.join("");
    h.now.unix_ms += config().offsets_retention_ms;
    h.expire();
    assert_eq!(h.offset("t"), None);
}

#[test]
fn commits_keep_the_session() {
    let (mut h, ids) = Harness::stable(config(), 1);
    for offset in 0..5 {
        h.advance(9_000);
        h.commit(&ids[0], 1, "t", offset).unwrap();
    }
    assert_eq!(h.group.state(), State::Stable);
}

#[test]
fn simple_consumers_commit_while_nobody_is_a_member() {
    let mut h = Harness::new(config());
    assert_eq!(h.commit("", -1, "t", 3), Ok(()));
    assert_eq!(h.offset("t"), Some(3));
    assert_eq!(h.group.state(), State::Empty);
    h.assert_replay_equals_state();
}

#[test]
fn offsets_are_visible_when_they_are_committed() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commits_at_once = false;
    h.commit(&ids[0], 1, "t", 1).unwrap();
    h.commit(&ids[0], 1, "t", 2).unwrap();
    assert_eq!((h.offset("t"), h.group.has_pending_commit("t", 0)), (None, true));
    h.finish_append(Ok(()));
    assert_eq!((h.offset("t"), h.group.has_pending_commit("t", 0)), (Some(1), true));
    h.finish_append(Err(ErrorCode::NotCoordinator));
    assert_eq!((h.offset("t"), h.group.has_pending_commit("t", 0)), (Some(1), false));
}

#[test]
fn an_overdue_commit_is_answered_and_takes_effect_when_it_is_committed() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commits_at_once = false;
    h.commit(&ids[0], 1, "t", 1).unwrap();
    let actions = h.group.append_overdue(h.appends[0].0, ErrorCode::CoordinatorNotAvailable, h.now);
    h.act(actions);
    assert!(h.waiting.is_empty());
    assert_eq!(h.offset("t"), None);
    h.finish_append(Ok(()));
    assert_eq!(h.offset("t"), Some(1), "the log has it, so a restart would show it too");
    h.assert_replay_equals_state();
}

#[test]
fn offsets_of_subscribed_topics_cannot_be_deleted() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commit(&ids[0], 1, "t", 1).unwrap();
    h.commit(&ids[0], 1, "u", 1).unwrap();
    let request = h.request();
    let (results, actions) = h.group.delete_offsets(request, &[("t".into(), 0), ("u".into(), 0), ("v".into(), 0)]).unwrap();
    h.act(actions);
    assert_eq!(results, [Err(ErrorCode::GroupSubscribedToTopic), Ok(()), Ok(())]);
    assert_eq!((h.offset("t"), h.offset("u")), (Some(1), None));
    h.assert_replay_equals_state();
}

#[test]
fn offsets_of_other_protocols_cannot_be_deleted_while_there_are_members() {
    let mut h = Harness::new(config());
    h.join_with(|join| join.protocol_type = "connect".into());
    h.advance(3_000);
    let request = h.request();
    assert_eq!(h.group.delete_offsets(request, &[("t".into(), 0)]).unwrap_err(), ErrorCode::NonEmptyGroup);
}

#[test]
fn groups_are_deleted_when_they_are_empty() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commit(&ids[0], 1, "t", 1).unwrap();
    let request = h.request();
    assert_eq!(h.group.delete(request, h.now).unwrap_err(), ErrorCode::NonEmptyGroup);
    h.leave(&ids[0], None).unwrap();
    h.commits_at_once = false;
    h.commit("", -1, "u", 1).unwrap();
    let actions = h.group.delete(request, h.now).unwrap();
    h.act(actions);
    assert_eq!(h.group.state(), State::Dead);
    let other = h.request();
    assert_eq!(h.group.delete(other, h.now).unwrap_err(), ErrorCode::GroupIdNotFound);
    let join = h.join("");
    assert_eq!(h.join_error(join), ErrorCode::CoordinatorNotAvailable);
    assert!(h.waiting.contains(&request));
    h.commit_appends();
    assert_eq!(h.replies[&request], Reply::Written(Ok(())));
    assert!(h.group.is_removed());
    assert!(h.replayed().is_vacant(), "also the commit that was on its way when the group was deleted");
}

#[test]
fn a_deletion_that_cannot_be_stored_is_taken_back() {
    let mut h = Harness::new(config());
    h.commit("", -1, "t", 1).unwrap();
    h.commits_at_once = false;
    let request = h.request();
    let actions = h.group.delete(request, h.now).unwrap();
    h.act(actions);
    h.finish_append(Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!((h.group.state(), h.offset("t")), (State::Empty, Some(1)));
    assert!(!h.group.is_removed());
}

#[test]
fn deleted_partitions_lose_their_offsets() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commit(&ids[0], 1, "t", 1).unwrap();
    h.commit(&ids[0], 1, "u", 1).unwrap();
    let actions = h.group.partitions_deleted(|topic, _| topic == "t");
    h.act(actions);
    assert_eq!((h.offset("t"), h.offset("u")), (None, Some(1)));
    h.assert_replay_equals_state();
}

// --- expiry ---

const RETENTION_MS: i64 = 7 * 24 * 60 * 60 * 1_000;

#[test]
fn offsets_of_an_empty_group_expire_when_it_was_empty_long_enough() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commit(&ids[0], 1, "t", 1).unwrap();
    h.now.unix_ms += RETENTION_MS;
    h.leave(&ids[0], None).unwrap();
    h.expire();
    assert_eq!(h.offset("t"), Some(1), "the commit is old, but the group was alive until now");
    h.now.unix_ms += RETENTION_MS - 1;
    h.expire();
    assert_eq!(h.offset("t"), Some(1));
    h.now.unix_ms += 1;
    h.expire();
    assert!(h.group.is_removed(), "and with its last offset goes the group");
    assert!(h.replayed().is_vacant());
}

#[test]
fn offsets_of_a_stable_group_expire_if_nobody_subscribes_to_the_topic() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commit(&ids[0], 1, "t", 1).unwrap();
    h.commit(&ids[0], 1, "old", 1).unwrap();
    h.now.unix_ms += RETENTION_MS;
    h.expire();
    assert_eq!((h.offset("t"), h.offset("old")), (Some(1), None));
    h.assert_replay_equals_state();
}

#[test]
fn nothing_expires_during_a_rebalance() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.commit(&ids[0], 1, "t", 1).unwrap();
    h.commit(&ids[0], 1, "old", 1).unwrap();
    h.join("");
    h.now.unix_ms += RETENTION_MS * 2;
    h.expire();
    assert_eq!((h.offset("t"), h.offset("old")), (Some(1), Some(1)), "KAFKA-13636");
    h.join(&ids[0]);
    assert_eq!(h.group.state(), State::CompletingRebalance);
    h.expire();
    assert_eq!((h.offset("t"), h.offset("old")), (Some(1), Some(1)));
}

#[test]
fn offsets_of_unknown_subscriptions_do_not_expire() {
    let mut h = Harness::new(config());
    let join = h.join_with(|join| join.protocols = vec![("range".into(), Bytes::from_static(b"?"))]);
    h.advance(3_000);
    let id = h.joined(join).member_id.clone();
    h.sync(&id, 1, &[]);
    h.commit(&id, 1, "t", 1).unwrap();
    h.now.unix_ms += RETENTION_MS;
    h.expire();
    assert_eq!(h.offset("t"), Some(1));
}

#[test]
fn offsets_of_simple_consumers_expire_after_their_commit() {
    let mut h = Harness::new(config());
    h.commit("", -1, "t", 1).unwrap();
    h.now.unix_ms += 1;
    h.commit("", -1, "u", 1).unwrap();
    h.now.unix_ms += RETENTION_MS - 1;
    h.expire();
    assert_eq!((h.offset("t"), h.offset("u")), (None, Some(1)));
    h.commits_at_once = false;
    h.commit("", -1, "u", 2).unwrap();
    h.now.unix_ms += 1;
    h.expire();
    h.commit_appends();
    assert_eq!(h.offset("u"), Some(2), "a commit on its way keeps the offset");
}

#[test]
fn a_client_may_choose_its_own_retention() {
    let mut h = Harness::new(config());
    let request = h.request();
    let by = Committer { member_id: String::new(), instance_id: None, generation: -1 };
    let value = OffsetValue { expire_timestamp_ms: Some(T0_MS + 1_000), leader_epoch: -1, ..offset_value(1, T0_MS) };
    let actions = h.group.commit(request, &by, vec![("t".into(), 0, value)], h.now).unwrap();
    h.act(actions);
    h.assert_replay_equals_state();
    h.now.unix_ms += 999;
    h.expire();
    assert_eq!(h.offset("t"), Some(1));
    h.now.unix_ms += 1;
    h.expire();
    assert_eq!(h.offset("t"), None);
}
