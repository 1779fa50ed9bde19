//! One test for each behaviour that Kafka's clients rely on.

use super::*;

fn config() -> GroupConfig {
    GroupConfig::default()
}

// --- joining ---

#[test]
fn the_first_rebalance_waits_for_more_members() {
    let mut h = Harness::new(config());
    let first = h.join("");
    h.advance(2_000);
    let second = h.join("");
    h.advance(1_000);
    assert!(h.replies.is_empty(), "a member that came during the delay prolongs it");
    h.advance(3_000);
    let (first, second) = (h.joined(first).clone(), h.joined(second).clone());
    assert_eq!((first.generation, second.generation), (1, 1));
    assert_eq!(first.leader, first.member_id, "the first member leads");
    assert_eq!(first.members.len(), 2);
    assert!(second.members.is_empty(), "only the leader learns the members");
    assert_eq!(second.protocol.as_deref(), Some("range"));
    assert_eq!(h.group.state(), State::CompletingRebalance);
}

#[test]
fn the_initial_delay_ends_with_the_rebalance_timeout() {
    let mut h = Harness::new(config());
    let first = h.join_with(|join| join.rebalance_timeout_ms = 7_000);
    for _ in 0..6 {
        h.advance(1_000);
        h.join_with(|join| join.rebalance_timeout_ms = 7_000);
    }
    h.advance(1_000);
    assert_eq!(h.joined(first).members.len(), 7, "3 s, 3 s, and the last second");
}

#[test]
fn dynamic_members_are_given_an_id_first() {
    let mut h = Harness::new(config());
    let join = h.join_with(|join| join.requires_known_member_id = true);
    let reply = h.joined(join).clone();
    assert_eq!((reply.error, reply.member_id.as_str()), (Some(ErrorCode::MemberIdRequired), "c-0"));
    assert_eq!(h.group.state(), State::Empty);
    let again = h.join_with(|join| {
        join.member_id = reply.member_id.clone();
        join.requires_known_member_id = true;
    });
    h.advance(3_000);
    assert_eq!(h.joined(again).member_id, "c-0");
    // An id that is not used within the session timeout is forgotten.
    let other = h.join_with(|join| join.requires_known_member_id = true);
    let id = h.joined(other).member_id.clone();
    h.heartbeat("c-0", 1).unwrap();
    h.advance(9_000);
    h.heartbeat("c-0", 1).unwrap();
    h.advance(1_001);
    let late = h.join(&id);
    assert_eq!(h.join_error(late), ErrorCode::UnknownMemberId);
}

#[test]
fn ids_that_were_handed_out_are_bounded() {
    let mut h = Harness::new(GroupConfig { pending_members_max: 2, ..config() });
    let joins: Vec<_> = (0..3).map(|_| h.join_with(|join| join.requires_known_member_id = true)).collect();
    assert_eq!(h.join_error(joins[1]), ErrorCode::MemberIdRequired);
    assert_eq!(h.join_error(joins[2]), ErrorCode::GroupMaxSizeReached);
    h.advance(10_000);
    let join = h.join_with(|join| join.requires_known_member_id = true);
    assert_eq!(h.join_error(join), ErrorCode::MemberIdRequired);
}

#[test]
fn unknown_member_ids_are_refused() {
    let (mut h, _) = Harness::stable(config(), 1);
    let join = h.join("nobody");
    assert_eq!(h.join_error(join), ErrorCode::UnknownMemberId);
    assert_eq!(h.heartbeat("nobody", 1), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.leave("nobody", None), Err(ErrorCode::UnknownMemberId));
    let sync = h.sync("nobody", 1, &[]);
    assert_eq!(h.synced(sync), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn members_must_share_a_protocol() {
    let mut h = Harness::new(config());
    let none = h.join_with(|join| join.protocols.clear());
    assert_eq!(h.join_error(none), ErrorCode::InconsistentGroupProtocol);
    let typeless = h.join_with(|join| join.protocol_type.clear());
    assert_eq!(h.join_error(typeless), ErrorCode::InconsistentGroupProtocol);
    h.join("");
    let other_type = h.join_with(|join| join.protocol_type = "connect".into());
    assert_eq!(h.join_error(other_type), ErrorCode::InconsistentGroupProtocol);
    let other_name = h.join_with(|join| join.protocols = vec![("sticky".into(), Bytes::new())]);
    assert_eq!(h.join_error(other_name), ErrorCode::InconsistentGroupProtocol);
}

#[test]
fn members_vote_for_the_protocol() {
    let names =
        |names: &'static [&'static str]| move |join: &mut JoinRequest| join.protocols = names.iter().map(|name| (name.to_string(), Bytes::new())).collect();
    let mut h = Harness::new(config());
    let first = h.join_with(names(&["sticky", "range", "roundrobin"]));
    h.join_with(names(&["range", "sticky"]));
    h.join_with(names(&["range", "sticky"]));
    h.advance(6_000);
    assert_eq!(h.joined(first).protocol.as_deref(), Some("range"), "two votes to one; roundrobin is not everybody's");
    let mut h = Harness::new(config());
    let first = h.join_with(names(&["sticky", "range", "sticky"]));
    h.join_with(names(&["range", "sticky"]));
    h.advance(6_000);
    assert_eq!(h.joined(first).protocol.as_deref(), Some("range"), "a tie goes to the first by name");
}

#[test]
fn a_full_group_takes_nobody_in() {
    let (mut h, ids) = Harness::stable(GroupConfig { max_size: 2, ..config() }, 2);
    let third = h.join("");
    assert_eq!(h.join_error(third), ErrorCode::GroupMaxSizeReached);
    assert_eq!(h.group.state(), State::Stable);
    // While it rebalances, who comes last is one too many.
    h.join(&ids[0]);
    assert_eq!(h.group.state(), State::PreparingRebalance);
    let newcomer = h.join("");
    let late = h.join(&ids[1]);
    assert_eq!(h.join_error(late), ErrorCode::GroupMaxSizeReached);
    assert_eq!(h.joined(newcomer).generation, 2);
}

#[test]
fn a_group_over_its_size_rebalances_when_loaded() {
    let (h, _) = Harness::stable(config(), 3);
    let mut loaded = h.replayed();
    loaded.config = Arc::new(GroupConfig { max_size: 2, ..config() });
    assert!(loaded.loaded(h.now).is_empty());
    assert_eq!(loaded.state(), State::PreparingRebalance);
}

#[test]
fn a_new_member_that_is_silent_in_its_join_is_dropped_after_five_minutes() {
    let (mut h, ids) = Harness::stable(config(), 1);
    let newcomer = h.join_with(|join| join.rebalance_timeout_ms = 1_000_000);
    for _ in 0..299 {
        h.advance(1_000);
        assert_eq!(h.heartbeat(&ids[0], 1), Err(ErrorCode::RebalanceInProgress));
    }
    h.advance(1_000);
    assert_eq!(h.join_error(newcomer), ErrorCode::UnknownMemberId);
}

// --- joining again ---

#[test]
fn a_follower_that_rejoins_unchanged_is_told_the_generation() {
    let (mut h, ids) = Harness::stable(config(), 2);
    let again = h.join(&ids[1]);
    assert_eq!((h.joined(again).generation, h.joined(again).leader.as_str()), (1, ids[0].as_str()));
    assert_eq!(h.group.state(), State::Stable);
}

#[test]
fn a_leader_that_rejoins_or_a_follower_that_changed_starts_a_rebalance() {
    let (mut h, ids) = Harness::stable(config(), 2);
    h.join(&ids[0]);
    assert_eq!(h.group.state(), State::PreparingRebalance);
    let (mut h, ids) = Harness::stable(config(), 2);
    h.join_with(|join| {
        join.member_id = ids[1].clone();
        join.protocols = vec![("range".into(), subscription(&["t", "u"]))];
    });
    assert_eq!(h.group.state(), State::PreparingRebalance);
    assert_eq!(h.heartbeat(&ids[0], 1), Err(ErrorCode::RebalanceInProgress));
    let last = h.join(&ids[0]);
    assert_eq!(h.joined(last).generation, 2, "all are here: no need to wait");
}

#[test]
fn a_member_that_lost_its_answer_gets_it_again() {
    let mut h = Harness::new(config());
    let join = h.join("");
    h.advance(3_000);
    let id = h.joined(join).member_id.clone();
    let again = h.join(&id);
    assert_eq!(h.joined(again), h.joined(join));
}

#[test]
fn a_join_that_is_repeated_answers_the_first() {
    let (mut h, ids) = Harness::stable(config(), 2);
    let first = h.join(&ids[0]);
    let second = h.join(&ids[0]);
    assert_eq!(h.join_error(first), ErrorCode::RebalanceInProgress);
    h.join(&ids[1]);
    assert_eq!(h.joined(second).generation, 2);
}

#[test]
fn who_does_not_rejoin_in_time_is_out() {
    let (mut h, ids) = Harness::stable(config(), 2);
    h.join("");
    let join = h.join(&ids[1]);
    for _ in 0..59 {
        h.advance(1_000);
        let _ = h.heartbeat(&ids[0], 1);
    }
    assert!(!h.replies.contains_key(&join));
    h.advance(1_000);
    assert_eq!((h.joined(join).generation, h.joined(join).leader.as_str()), (2, ids[1].as_str()));
    assert_eq!(h.heartbeat(&ids[0], 2), Err(ErrorCode::UnknownMemberId));
}

// --- sync ---

#[test]
fn assignments_are_given_out_when_they_are_committed() {
    let mut h = Harness::new(config());
    let joins = [h.join(""), h.join("")];
    h.advance(6_000);
    let ids = joins.map(|join| h.joined(join).member_id.clone());
    h.commits_at_once = false;
    let follower = h.sync(&ids[1], 1, &[]);
    let leader = h.sync(&ids[0], 1, &[(&ids[1], b"b"), ("nobody", b"x")]);
    assert_eq!(h.group.state(), State::CompletingRebalance);
    assert!(!h.replies.contains_key(&leader) && !h.replies.contains_key(&follower));
    h.finish_append(Ok(()));
    assert_eq!(h.group.state(), State::Stable);
    assert_eq!(h.synced(follower), Ok(Bytes::from_static(b"b")));
    assert_eq!(h.synced(leader), Ok(Bytes::new()), "who was not assigned anything has nothing");
    h.assert_replay_equals_state();
    let late = h.sync(&ids[1], 1, &[]);
    assert_eq!(h.synced(late), Ok(Bytes::from_static(b"b")), "and anyone may ask again");
}

#[test]
fn an_assignment_that_cannot_be_stored_starts_another_rebalance() {
    let mut h = Harness::new(config());
    let joins = [h.join(""), h.join("")];
    h.advance(6_000);
    let ids = joins.map(|join| h.joined(join).member_id.clone());
    h.commits_at_once = false;
    let syncs = [h.sync(&ids[0], 1, &[(&ids[0], b"a")]), h.sync(&ids[1], 1, &[])];
    h.finish_append(Err(ErrorCode::CoordinatorNotAvailable));
    for sync in syncs {
        assert_eq!(h.synced(sync), Err(ErrorCode::CoordinatorNotAvailable));
    }
    assert_eq!(h.group.state(), State::PreparingRebalance);
}

#[test]
fn an_assignment_that_is_overtaken_by_a_rebalance_is_void() {
    let mut h = Harness::new(config());
    let join = h.join("");
    h.advance(3_000);
    let id = h.joined(join).member_id.clone();
    h.commits_at_once = false;
    let sync = h.sync(&id, 1, &[(&id, b"a")]);
    h.join("");
    assert_eq!(h.synced(sync), Err(ErrorCode::RebalanceInProgress));
    h.finish_append(Ok(()));
    assert_eq!(h.group.state(), State::PreparingRebalance);
    assert_eq!(h.group.members[&id].assignment, Bytes::new());
}

#[test]
fn syncs_of_another_generation_or_protocol_are_refused() {
    let (mut h, ids) = Harness::stable(config(), 1);
    let old = h.sync(&ids[0], 0, &[]);
    assert_eq!(h.synced(old), Err(ErrorCode::IllegalGeneration));
    for (protocol_type, protocol) in [(Some("connect"), None), (None, Some("sticky"))] {
        let request = h.request();
        let [protocol_type, protocol] = [protocol_type, protocol].map(|name| name.map(String::from));
        let sync = SyncRequest { request, member_id: ids[0].clone(), instance_id: None, generation: 1, protocol_type, protocol, assignments: vec![] };
        let actions = h.group.sync(sync, h.now);
        h.act(actions);
        assert_eq!(h.synced(request), Err(ErrorCode::InconsistentGroupProtocol));
    }
    h.join(&ids[0]);
    h.join("");
    let joining = h.sync(&ids[0], 2, &[]);
    assert_eq!(h.synced(joining), Err(ErrorCode::RebalanceInProgress));
}

#[test]
fn who_does_not_sync_in_time_is_out() {
    let mut h = Harness::new(config());
    let joins = [h.join(""), h.join("")];
    h.advance(6_000);
    let ids = joins.map(|join| h.joined(join).member_id.clone());
    h.sync(&ids[0], 1, &[(&ids[0], b"a")]);
    assert_eq!(h.group.state(), State::Stable);
    for _ in 0..60 {
        h.advance(1_000);
        for id in &ids {
            let _ = h.heartbeat(id, 1);
        }
    }
    assert_eq!(h.group.state(), State::PreparingRebalance);
    assert_eq!(h.heartbeat(&ids[1], 1), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.heartbeat(&ids[0], 1), Err(ErrorCode::RebalanceInProgress));
}

// --- sessions and leaving ---

#[test]
fn a_silent_member_is_out_and_the_others_rebalance() {
    let (mut h, ids) = Harness::stable(config(), 2);
    h.advance(9_999);
    h.heartbeat(&ids[0], 1).unwrap();
    h.advance(1);
    assert_eq!(h.heartbeat(&ids[1], 1), Err(ErrorCode::UnknownMemberId));
    let join = h.join(&ids[0]);
    assert_eq!((h.joined(join).generation, h.joined(join).members.len()), (2, 1));
    assert_eq!(h.heartbeat(&ids[0], 1), Err(ErrorCode::IllegalGeneration));
}

#[test]
fn the_last_member_leaves_an_empty_generation() {
    let (mut h, ids) = Harness::stable(config(), 1);
    h.leave(&ids[0], None).unwrap();
    assert_eq!((h.group.state(), h.group.generation()), (State::Empty, 2));
    assert_eq!(h.group.protocol_type(), Some("consumer"));
    h.assert_replay_equals_state();
    assert!(matches!(h.log.last(), Some(GroupRecord::Group { value: Some(GroupValue { generation: 2, protocol: None, .. }), .. })));
}

#[test]
fn leaving_while_joining_answers_the_join() {
    let (mut h, ids) = Harness::stable(config(), 2);
    let join = h.join(&ids[0]);
    h.leave(&ids[0], None).unwrap();
    assert_eq!(h.join_error(join), ErrorCode::UnknownMemberId);
    let other = h.join(&ids[1]);
    assert_eq!(h.joined(other).members.len(), 1);
}

#[test]
fn a_pending_member_can_leave() {
    let (mut h, ids) = Harness::stable(config(), 1);
    let pending = h.join_with(|join| join.requires_known_member_id = true);
    let pending = h.joined(pending).member_id.clone();
    let join = h.join(&ids[0]);
    assert!(!h.replies.contains_key(&join), "the rebalance waits for the pending member");
    h.leave(&pending, None).unwrap();
    assert_eq!(h.joined(join).generation, 2);
}

#[test]
fn who_waits_is_not_silent() {
    let (mut h, ids) = Harness::stable(config(), 2);
    let join = h.join(&ids[0]);
    for _ in 0..5 {
        h.advance(9_000);
        assert_eq!(h.heartbeat(&ids[1], 1), Err(ErrorCode::RebalanceInProgress));
    }
    assert!(!h.replies.contains_key(&join), "45 s in JoinGroup with a session of 10 s");
    h.join(&ids[1]);
    assert_eq!(h.joined(join).generation, 2);
}

#[test]
fn nobody_rejoins_and_the_group_empties() {
    let (mut h, ids) = Harness::stable(config(), 3);
    h.leave(&ids[2], None).unwrap();
    h.advance(60_000);
    assert_eq!(h.group.state(), State::Empty);
}

// --- static members ---

#[test]
fn a_static_member_that_restarts_keeps_its_assignment() {
    let mut h = Harness::new(config());
    let joins = [h.join_static("i0"), h.join_static("i1")];
    h.advance(6_000);
    let ids = joins.map(|join| h.joined(join).member_id.clone());
    for at in [1, 0] {
        h.sync(&ids[at], 1, &[(&ids[0], b"a"), (&ids[1], b"b")]);
    }
    h.commits_at_once = false;
    let again = h.join_static("i1");
    assert!(!h.replies.contains_key(&again), "its new id must be in the log first");
    h.finish_append(Ok(()));
    let reply = h.joined(again).clone();
    assert_eq!((reply.error, reply.generation, reply.skip_assignment), (None, 1, false));
    assert_ne!(reply.member_id, ids[1]);
    h.assert_replay_equals_state();
    let sync = h.sync(&reply.member_id, 1, &[]);
    assert_eq!(h.synced(sync), Ok(Bytes::from_static(b"b")));
    assert_eq!(h.group.heartbeat(&ids[1], Some("i1"), 1, h.now), Err(ErrorCode::FencedInstanceId));
    assert_eq!(h.group.heartbeat(&reply.member_id, Some("i9"), 1, h.now), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.group.heartbeat(&reply.member_id, Some("i1"), 1, h.now), Ok(()));
}

#[test]
fn a_static_leader_that_restarts_must_not_assign_again() {
    let start = || {
        let mut h = Harness::new(config());
        let join = h.join_static("i0");
        h.advance(3_000);
        let id = h.joined(join).member_id.clone();
        h.sync(&id, 1, &[(&id, b"a")]);
        (h, id)
    };
    let (mut h, _) = start();
    let again = h.join_static("i0");
    let reply = h.joined(again);
    assert_eq!((reply.skip_assignment, reply.members.len()), (true, 1), "KIP-814: it leads, and leaves the assignment alone");
    assert_eq!(reply.leader, reply.member_id);
    let (mut h, old) = start();
    let again = h.join_with(|join| {
        join.instance_id = Some("i0".into());
        join.supports_skipping_assignment = false;
    });
    let reply = h.joined(again);
    assert_eq!((reply.leader.as_str(), reply.members.len()), (old.as_str(), 0), "an older client must not know that it leads");
}

#[test]
fn a_static_members_new_id_that_cannot_be_stored_is_taken_back() {
    let mut h = Harness::new(config());
    let join = h.join_static("i0");
    h.advance(3_000);
    let id = h.joined(join).member_id.clone();
    h.sync(&id, 1, &[(&id, b"a")]);
    h.commits_at_once = false;
    let again = h.join_with(|join| {
        join.instance_id = Some("i0".into());
        join.session_timeout_ms = 29_000;
    });
    h.finish_append(Err(ErrorCode::CoordinatorNotAvailable));
    assert_eq!(h.join_error(again), ErrorCode::CoordinatorNotAvailable);
    assert_eq!(h.group.heartbeat(&id, Some("i0"), 1, h.now), Ok(()));
    assert_eq!(h.group.members[&id].session_timeout_ms, 10_000);
    h.assert_replay_equals_state();
}

#[test]
fn a_static_member_that_changes_the_protocol_rebalances() {
    let both = vec![("range".into(), Bytes::new()), ("sticky".into(), Bytes::new())];
    let mut h = Harness::new(config());
    let join = h.join_with(|join| (join.instance_id, join.protocols) = (Some("i0".into()), both.clone()));
    h.advance(3_000);
    let id = h.joined(join).member_id.clone();
    h.sync(&id, 1, &[]);
    h.join_with(|join| (join.instance_id, join.protocols) = (Some("i0".into()), both[1..].to_vec()));
    assert_eq!((h.group.state(), h.group.protocol()), (State::CompletingRebalance, Some("sticky")));
}

#[test]
fn a_static_member_replaced_while_the_leader_assigns_rebalances() {
    let mut h = Harness::new(config());
    let joins = [h.join_static("i0"), h.join_static("i1")];
    h.advance(6_000);
    let ids = joins.map(|join| h.joined(join).member_id.clone());
    let old = h.sync(&ids[1], 1, &[]);
    h.join_static("i1");
    assert_eq!(h.synced(old), Err(ErrorCode::FencedInstanceId));
    assert_eq!(h.group.state(), State::PreparingRebalance);
}

#[test]
fn a_static_member_that_does_not_rejoin_stays_until_its_session_ends() {
    let mut h = Harness::new(config());
    let joins: Vec<_> = ["i0", "i1"].map(|id| h.join_with(|join| (join.instance_id, join.session_timeout_ms) = (Some(id.into()), 100_000))).into();
    h.advance(6_000);
    let ids: Vec<_> = joins.iter().map(|join| h.joined(*join).member_id.clone()).collect();
    for at in [1, 0] {
        h.sync(&ids[at], 1, &[]);
    }
    let join = h.join_with(|join| (join.member_id, join.instance_id) = (ids[0].clone(), Some("i0".into())));
    h.advance(60_000);
    assert_eq!(h.joined(join).members.len(), 2, "the rebalance timed out without it, but it is a member still");
    h.sync(&ids[0], 2, &[]);
    for _ in 0..10 {
        h.advance(9_000);
        let _ = h.group.heartbeat(&ids[0], Some("i0"), 2, h.now);
    }
    assert_eq!(h.group.members.len(), 1);
}

#[test]
fn an_administrator_removes_static_members_by_instance() {
    let mut h = Harness::new(config());
    let join = h.join_static("i0");
    h.advance(3_000);
    let id = h.joined(join).member_id.clone();
    assert_eq!(h.leave("", Some("i9")), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.leave("", None), Err(ErrorCode::UnknownMemberId));
    assert_eq!(h.leave("other", Some("i0")), Err(ErrorCode::FencedInstanceId));
    assert_eq!(h.leave("", Some("i0")), Ok(()));
    assert_eq!(h.group.heartbeat(&id, Some("i0"), 1, h.now), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_second_instance_of_a_static_member_fences_the_one_that_waits() {
    let mut h = Harness::new(config());
    let first = h.join_static("i0");
    let second = h.join_static("i0");
    assert_eq!(h.join_error(first), ErrorCode::FencedInstanceId);
    h.advance(6_000);
    assert_eq!(h.joined(second).generation, 1);
}

// --- loading and unloading ---

#[test]
fn a_loaded_member_gets_a_full_session() {
    let (mut h, ids) = Harness::stable(config(), 2);
    h.now = Now { instant: h.now.instant + Duration::from_secs(1_000), unix_ms: h.now.unix_ms };
    let mut loaded = h.replayed();
    std::mem::swap(&mut h.group, &mut loaded);
    h.advance(9_999);
    for id in &ids {
        assert_eq!(h.heartbeat(id, 1), Ok(()));
    }
    let sync = h.sync(&ids[1], 1, &[]);
    assert_eq!(h.synced(sync), Ok(Bytes::from_static(b"1")));
    h.advance(10_000);
    assert_eq!(h.heartbeat(&ids[0], 1), Err(ErrorCode::UnknownMemberId));
}

#[test]
fn unloading_answers_everybody() {
    let (mut h, ids) = Harness::stable(config(), 2);
    h.commits_at_once = false;
    h.commit(&ids[0], 1, "t", 1).unwrap();
    let join = h.join(&ids[0]);
    let actions = h.group.unload(h.now);
    h.act(actions);
    assert!(h.waiting.is_empty());
    assert_eq!(h.join_error(join), ErrorCode::NotCoordinator);
    assert_eq!(h.group.next_deadline(), None);
}

#[test]
fn a_rebalance_that_only_absent_static_members_could_join_does_not_spin() {
    let mut h = Harness::new(config());
    let joins = [h.join_static("i0"), h.join_static("i1")];
    h.advance(6_000);
    let ids = joins.map(|join| h.joined(join).member_id.clone());
    for at in [1, 0] {
        h.sync(&ids[at], 1, &[]);
    }
    for member in h.group.members.values_mut() {
        member.rebalance_timeout_ms = 0;
    }
    h.leave(&ids[1], Some("i1")).unwrap();
    let mut ticks = 0;
    while h.group.state() == State::PreparingRebalance && ticks < 1_000 {
        h.now.instant = h.group.next_deadline().unwrap().max(h.now.instant);
        let actions = h.group.tick(h.now);
        h.act(actions);
        ticks += 1;
    }
    assert!((2..20).contains(&ticks), "{ticks} ticks until the session ended");
}
