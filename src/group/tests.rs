//! Tests of the group's state machine: a harness that plays client and log, tables of Kafka's behaviours ([`rules`], [`offset_rules`]), and random
//! histories against the invariants ([`histories`]).

mod histories;
mod offset_rules;
mod rules;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use uuid::Uuid;

use super::consumer_protocol::subscription;
use super::membership::*;
use super::offsets::*;
use super::records::*;
use super::state::*;
use crate::runtime::Instant;

const T0_MS: i64 = 1_700_000_000_000;

/// A group, its log, and the clients' side of it.
struct Harness {
    group: Group,
    now: Now,
    /// Committed records.
    log: Vec<GroupRecord>,
    /// Appends that are not committed yet.
    appends: VecDeque<(AppendId, Vec<GroupRecord>)>,
    /// Whether appends are committed at once.
    commits_at_once: bool,
    waiting: BTreeSet<RequestId>,
    replies: BTreeMap<RequestId, Reply>,
    next_request: u64,
}

impl Harness {
    fn new(config: GroupConfig) -> Self {
        let now = Now { instant: Instant::from_nanos(0), unix_ms: T0_MS };
        Self {
            group: Group::new("g".into(), Arc::new(config), now),
            now,
            log: Vec::new(),
            appends: VecDeque::new(),
            commits_at_once: true,
            waiting: BTreeSet::new(),
            replies: BTreeMap::new(),
            next_request: 0,
        }
    }

    fn request(&mut self) -> RequestId {
        let request = RequestId(self.next_request);
        self.next_request += 1;
        self.waiting.insert(request);
        request
    }

    fn act(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Reply { request, reply } => {
                    assert!(self.waiting.remove(&request), "{request:?} is answered once, and only if it was asked: {reply:?}");
                    self.replies.insert(request, reply);
                }
                Action::Append { append, records } => {
                    assert!(!records.is_empty());
                    self.appends.push_back((append, records));
                }
            }
        }
        self.group.check_invariants();
        if self.commits_at_once {
            self.commit_appends();
        }
    }

    fn commit_appends(&mut self) {
        while self.finish_append(Ok(())) {}
    }

    fn finish_append(&mut self, result: Result<(), ErrorCode>) -> bool {
        let Some((append, records)) = self.appends.pop_front() else { return false };
        if result.is_ok() {
            self.log.extend(records);
        }
        let actions = self.group.append_done(append, result, self.now);
        self.act(actions);
        true
    }

    fn advance(&mut self, ms: i64) {
        let target = Now { instant: self.now.instant + Duration::from_millis(ms as u64), unix_ms: self.now.unix_ms + ms };
        while let Some(deadline) = self.group.next_deadline().filter(|deadline| *deadline <= target.instant) {
            let passed = deadline.max(self.now.instant) - self.now.instant;
            self.now = Now { instant: self.now.instant + passed, unix_ms: self.now.unix_ms + passed.as_millis() as i64 };
            let actions = self.group.tick(self.now);
            self.act(actions);
        }
        self.now = target;
    }

    fn join_with(&mut self, change: impl FnOnce(&mut JoinRequest)) -> RequestId {
        let request = self.request();
        let mut join = JoinRequest {
            request,
            member_id: String::new(),
            new_member_id: format!("c-{}", request.0),
            instance_id: None,
            client_id: "c".into(),
            client_host: "/127.0.0.1".into(),
            session_timeout_ms: 10_000,
            rebalance_timeout_ms: 60_000,
            protocol_type: "consumer".into(),
            protocols: vec![("range".into(), subscription(&["t"]))],
            requires_known_member_id: false,
            supports_skipping_assignment: true,
        };
        change(&mut join);
        let actions = self.group.join(join, self.now);
        self.act(actions);
        request
    }

    fn join(&mut self, member_id: &str) -> RequestId {
        self.join_with(|join| join.member_id = member_id.into())
    }

    fn join_static(&mut self, instance_id: &str) -> RequestId {
        self.join_with(|join| join.instance_id = Some(instance_id.into()))
    }

    fn joined(&self, request: RequestId) -> &JoinReply {
        match self.replies.get(&request) {
            Some(Reply::Join(reply)) => reply,
            other => panic!("{request:?} has {other:?}"),
        }
    }

    fn join_error(&self, request: RequestId) -> ErrorCode {
        self.joined(request).error.expect("an error")
    }

    fn sync(&mut self, member_id: &str, generation: i32, assignments: &[(&str, &'static [u8])]) -> RequestId {
        let request = self.request();
        let assignments = assignments.iter().map(|(id, bytes)| (String::from(*id), Bytes::from_static(bytes))).collect();
        let sync = SyncRequest { request, member_id: member_id.into(), instance_id: None, generation, protocol_type: None, protocol: None, assignments };
        let actions = self.group.sync(sync, self.now);
        self.act(actions);
        request
    }

    fn synced(&self, request: RequestId) -> Result<Bytes, ErrorCode> {
        match self.replies.get(&request) {
            Some(Reply::Sync(reply)) => reply.clone().map(|reply| reply.assignment),
            other => panic!("{request:?} has {other:?}"),
        }
    }

    fn heartbeat(&mut self, member_id: &str, generation: i32) -> Result<(), ErrorCode> {
        let result = self.group.heartbeat(member_id, None, generation, self.now);
        self.group.check_invariants();
        result
    }

    fn leave(&mut self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        let (results, actions) = self.group.leave(&[LeavingMember { member_id: member_id.into(), instance_id: instance_id.map(Into::into) }], self.now);
        self.act(actions);
        results[0]
    }

    fn commit(&mut self, member_id: &str, generation: i32, topic: &str, offset: i64) -> Result<(), ErrorCode> {
        let request = self.request();
        let by = Committer { member_id: member_id.into(), instance_id: None, generation };
        match self.group.commit(request, &by, vec![(topic.into(), 0, offset_value(offset, self.now.unix_ms))], self.now) {
            Ok(actions) => {
                self.act(actions);
                match self.replies.get(&request) {
                    Some(Reply::Written(result)) => *result,
                    None => Ok(()),
                    other => panic!("{other:?}"),
                }
            }
            Err(error) => {
                self.waiting.remove(&request);
                Err(error)
            }
        }
    }

    fn offset(&self, topic: &str) -> Option<i64> {
        self.group.offset(topic, 0).map(|value| value.offset)
    }

    fn expire(&mut self) {
        let actions = self.group.expire_offsets(self.now);
        self.act(actions);
    }

    /// A group of `count` members, stable, with assignments `0`, `1`, ...; the member ids, the leader's first.
    fn stable(config: GroupConfig, count: usize) -> (Self, Vec<String>) {
        let mut harness = Self::new(config);
        let joins: Vec<_> = (0..count).map(|_| harness.join("")).collect();
        harness.advance(3_000);
        harness.advance(3_000);
        let mut ids: Vec<String> = joins.iter().map(|join| harness.joined(*join).member_id.clone()).collect();
        let leader = harness.joined(joins[0]).leader.clone();
        ids.sort_by_key(|id| *id != leader);
        let assignments: Vec<(&str, &'static [u8])> = ids.iter().map(String::as_str).zip([b"0", b"1", b"2", b"3"].map(|bytes| &bytes[..])).collect();
        let generation = harness.group.generation();
        for id in ids.iter().skip(1).chain(&ids[..1]) {
            harness.sync(id, generation, if *id == leader { &assignments } else { &[] });
        }
        assert_eq!(harness.group.state(), State::Stable);
        (harness, ids)
    }

    /// The group as a broker would load it from the log.
    fn replayed(&self) -> Group {
        let mut group = Group::new("g".into(), Arc::clone(&self.group.config), self.now);
        for record in &self.log {
            let (key, value) = record.encode().unwrap();
            match GroupRecord::decode(&key, value.as_ref()).unwrap().expect("a known key") {
                GroupRecord::Offset { topic, partition, value, .. } => group.load_offset(&topic, partition, value),
                GroupRecord::Group { value: Some(value), .. } => group.load_generation(value),
                GroupRecord::Group { value: None, .. } => group.load_removal(self.now),
            }
        }
        let mut actions = group.loaded(self.now);
        actions.clear();
        group.check_invariants();
        group
    }

    /// Checks that a restart would change nothing that matters.
    fn assert_replay_equals_state(&self) {
        let replayed = self.replayed();
        assert_eq!(replayed.offsets, self.group.offsets);
        let persistent = |group: &Group| {
            let assignments = group.members.iter().map(|(id, member)| (id.clone(), member.assignment.clone())).collect();
            GroupValue { state_timestamp_ms: None, ..group.group_value(&assignments) }
        };
        assert_eq!(persistent(&replayed), persistent(&self.group));
        assert_eq!(replayed.subscribed_topics, self.group.subscribed_topics);
        assert_eq!(replayed.state, self.group.state);
    }
}

fn offset_value(offset: i64, commit_timestamp_ms: i64) -> OffsetValue {
    OffsetValue { offset, leader_epoch: 0, metadata: String::new(), commit_timestamp_ms, expire_timestamp_ms: None, topic_id: Uuid::nil() }
}
