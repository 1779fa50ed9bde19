//! One consumer group as a pure state machine: Kafka's classic protocol.
//!
//! ```text
//!           first member joins            all joined, or time is up           the leader's assignment is committed
//!  Empty ────────────────────▶ Preparing ───────────────────────▶ Completing ─────────────────────────────────▶ Stable
//!    ▲                         Rebalance ◀─────────────────────── Rebalance                                       │
//!    └── all left ───────────────┘  ▲      a member joins, leaves, or fails                                       │
//!                                   └─────────────────────────────────────────────────────────────────────────────┘
//!  Dead: being removed, or the partition of `__consumer_offsets` moved to another broker.
//! ```
//!
//! This file holds the types, the members, and the transitions that several events share; the events are in
//! [`membership`](super::membership) (join, sync, heartbeat, leave, time), [`offsets`](super::offsets) (commit, fetch, removal, expiry)
//! and [`durable`](super::durable) (what the log answers, loading, unloading).
//!
//! Nothing here waits. A request that must is remembered by its [`RequestId`]; a later event answers it by [`Action::Reply`]. What must
//! be in the log first is handed out as [`Action::Append`], and [`Group::append_done`] tells how it went.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::consumer_protocol;
use super::records::{GroupRecord, GroupValue, MemberValue, OffsetValue};
pub use super::types::*;
use crate::runtime::Instant;

/// The least time between two tries of a rebalance that nobody rejoined, in ms: with a rebalance time-out of 0 the tries would
/// otherwise follow each other without a pause.
const REBALANCE_RETRY_MIN_MS: i32 = 1_000;

/// A member.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) instance_id: Option<String>,
    pub(super) client_id: String,
    pub(super) client_host: String,
    pub(super) rebalance_timeout_ms: i32,
    pub(super) session_timeout_ms: i32,
    /// Names, unique, in the member's order of preference, with its metadata for each.
    pub(super) protocols: Vec<(String, Bytes)>,
    pub(super) assignment: Bytes,
    pub(super) awaiting_join: Option<RequestId>,
    pub(super) awaiting_sync: Option<RequestId>,
    /// When it counts as failed unless it is heard.
    pub(super) session_deadline: Instant,
    /// It has not been told its first generation yet, and so cannot send heartbeats.
    pub(super) is_new: bool,
}

impl Member {
    pub(super) fn metadata(&self, protocol: &str) -> Option<&Bytes> {
        self.protocols.iter().find(|(name, _)| name == protocol).map(|(_, metadata)| metadata)
    }
}

/// A rebalance's timer.
#[derive(Clone, Copy, Debug)]
pub(super) enum JoinTimer {
    /// The first rebalance of an empty group, which members that come late prolong.
    Initial {
        /// When it fires.
        deadline: Instant,
        /// How long it was set for.
        delay_ms: i32,
        /// How much longer it may be prolonged.
        remaining_ms: i32,
    },
    /// Any other.
    Rebalance {
        /// When it fires.
        deadline: Instant,
    },
}

impl JoinTimer {
    pub(super) fn deadline(&self) -> Instant {
        match self {
            Self::Initial { deadline, .. } | Self::Rebalance { deadline } => *deadline,
        }
    }
}

/// What awaits the log, and what to do when it is there.
#[derive(Clone, Debug)]
pub(super) enum InFlight {
    /// The leader's assignment of a generation.
    Assignment { generation: i32, assignments: BTreeMap<String, Bytes> },
    /// A static member's new member id (KIP-345).
    StaticMember(Box<StaticMemberChange>),
    /// A generation without members.
    EmptyGeneration,
    /// Commits.
    Offsets { request: Option<RequestId>, offsets: Vec<(String, i32, OffsetValue)> },
    /// Tombstones of offsets.
    OffsetRemoval { request: Option<RequestId>, partitions: Vec<(String, i32)> },
    /// Tombstones of everything.
    GroupRemoval { request: Option<RequestId> },
}

/// How to answer, or undo, the replacement of a static member's id.
#[derive(Clone, Debug)]
pub(super) struct StaticMemberChange {
    pub(super) request: RequestId,
    pub(super) instance_id: String,
    pub(super) old_member_id: String,
    pub(super) new_member_id: String,
    pub(super) old_leader: String,
    pub(super) old_protocols: Vec<(String, Bytes)>,
    pub(super) old_rebalance_timeout_ms: i32,
    pub(super) old_session_timeout_ms: i32,
    pub(super) supports_skipping_assignment: bool,
}

/// One consumer group.
#[derive(Clone, Debug)]
pub struct Group {
    pub(super) id: Arc<str>,
    pub(super) config: Arc<GroupConfig>,
    pub(super) state: State,
    pub(super) previous_state: State,
    /// Wall clock of the last change of `state`; unknown for groups loaded from values before v2.
    pub(super) state_timestamp_ms: Option<i64>,
    pub(super) protocol_type: Option<String>,
    pub(super) protocol: Option<String>,
    pub(super) generation: i32,
    pub(super) leader: Option<String>,
    pub(super) members: BTreeMap<String, Member>,
    /// `group.instance.id` to member id.
    pub(super) static_members: BTreeMap<String, String>,
    /// Member ids that were handed out (KIP-394), and until when they can be used.
    pub(super) pending_members: BTreeMap<String, Instant>,
    /// How many members support a protocol.
    pub(super) protocol_member_counts: BTreeMap<String, usize>,
    /// Members that have not sent SyncGroup in this generation.
    pub(super) pending_sync: BTreeSet<String>,
    /// Topics of all members' subscriptions, if they can be known.
    pub(super) subscribed_topics: Option<BTreeSet<String>>,
    pub(super) new_member_added: bool,
    pub(super) join_timer: Option<JoinTimer>,
    pub(super) sync_deadline: Option<Instant>,
    /// Committed offsets, by topic and partition.
    pub(super) offsets: BTreeMap<String, BTreeMap<i32, OffsetValue>>,
    pub(super) in_flight: BTreeMap<AppendId, InFlight>,
    pub(super) next_append: u64,
}

impl Group {
    /// A group that never had a member.
    pub fn new(id: Arc<str>, config: Arc<GroupConfig>, now: Now) -> Self {
        Self {
            id,
            config,
            state: State::Empty,
            previous_state: State::Dead,
            state_timestamp_ms: Some(now.unix_ms),
            protocol_type: None,
            protocol: None,
            generation: 0,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_members: BTreeMap::new(),
            protocol_member_counts: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            subscribed_topics: None,
            new_member_added: false,
            join_timer: None,
            sync_deadline: None,
            offsets: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            next_append: 0,
        }
    }

    /// Its id.
    pub fn id(&self) -> &Arc<str> {
        &self.id
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its generation.
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// Its protocol type; `None` if it only ever stored offsets.
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The chosen protocol.
    pub fn protocol(&self) -> Option<&str> {
        self.protocol.as_deref()
    }

    /// Whether nothing would be lost if the group were forgotten: no members, no member ids handed out, no offsets, nothing on its
    /// way to the log, and no generation that a restart would find there.
    pub fn is_vacant(&self) -> bool {
        matches!(self.state, State::Empty | State::Dead)
            && self.members.is_empty()
            && self.pending_members.is_empty()
            && self.offsets.is_empty()
            && self.in_flight.is_empty()
            && self.generation == 0
            && self.protocol_type.is_none()
    }

    /// Whether its removal is complete.
    pub fn is_removed(&self) -> bool {
        self.state == State::Dead && self.in_flight.is_empty()
    }

    /// When [`Group::tick`] must be called next at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let sessions = self.members.values().map(|member| member.session_deadline);
        let pending = self.pending_members.values().copied();
        let join = self.join_timer.as_ref().map(JoinTimer::deadline);
        sessions.chain(pending).chain(join).chain(self.sync_deadline).min()
    }

    /// The group as DescribeGroups tells it.
    pub fn describe(&self) -> GroupDescription {
        let protocol = (self.state == State::Stable).then_some(self.protocol.as_deref()).flatten();
        let members = self.members.iter().map(|(id, member)| MemberDescription {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            metadata: protocol.and_then(|protocol| member.metadata(protocol)).cloned().unwrap_or_default(),
            assignment: if protocol.is_some() { member.assignment.clone() } else { Bytes::new() },
        });
        GroupDescription {
            state: self.state,
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            protocol: protocol.unwrap_or_default().to_owned(),
            members: members.collect(),
        }
    }

    // --- what several events share ---

    pub(super) fn transition(&mut self, to: State, now: Now) {
        let valid = match to {
            State::Empty | State::CompletingRebalance => self.state == State::PreparingRebalance,
            State::PreparingRebalance => matches!(self.state, State::Stable | State::CompletingRebalance | State::Empty),
            State::Stable => self.state == State::CompletingRebalance,
            State::Dead => true,
        };
        assert!(valid, "group {}: from {} to {}", self.id, self.state.name(), to.name());
        self.previous_state = self.state;
        self.state = to;
        self.state_timestamp_ms = Some(now.unix_ms);
    }

    /// The greatest rebalance time-out of all members, in ms.
    pub(super) fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    pub(super) fn is_leader(&self, member_id: &str) -> bool {
        self.leader.as_deref() == Some(member_id)
    }

    pub(super) fn awaiting_join_count(&self) -> usize {
        self.members.values().filter(|member| member.awaiting_join.is_some()).count()
    }

    pub(super) fn has_all_members_joined(&self) -> bool {
        self.pending_members.is_empty() && self.members.values().all(|member| member.awaiting_join.is_some())
    }

    /// Whether the member exists under this id and this `group.instance.id` (KIP-345).
    pub(super) fn validate_member(&self, member_id: &str, instance_id: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance_id) = instance_id {
            match self.static_members.get(instance_id) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member_id => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member_id) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Whether a member of this protocol type with these protocols could be in one generation with all others.
    pub(super) fn supports_protocols(&self, protocol_type: &str, protocols: &[(String, Bytes)]) -> bool {
        if self.state == State::Empty {
            !protocol_type.is_empty() && !protocols.is_empty()
        } else {
            let all = self.members.len();
            self.protocol_type.as_deref() == Some(protocol_type)
                && protocols.iter().any(|(name, _)| self.protocol_member_counts.get(name).copied().unwrap_or(0) == all)
        }
    }

    pub(super) fn count_protocols(&mut self, protocols: &[(String, Bytes)], add: bool) {
        for (name, _) in protocols {
            let count = self.protocol_member_counts.entry(name.clone()).or_default();
            if add {
                *count += 1;
            } else {
                *count = count.checked_sub(1).expect("a protocol that a member supports is counted");
                if *count == 0 {
                    self.protocol_member_counts.remove(name);
                }
            }
        }
    }

    /// The protocol that all members support and most prefer. Ties go to the first by name, where Kafka leaves it to its hash map.
    pub(super) fn select_protocol(&self) -> String {
        let all = self.members.len();
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let preferred = member.protocols.iter().find(|(name, _)| self.protocol_member_counts.get(name) == Some(&all));
            let (name, _) = preferred.expect("a member was only let in with a protocol that all others support");
            *votes.entry(name).or_default() += 1;
        }
        let (name, _) = votes.into_iter().rev().max_by_key(|(_, count)| *count).expect("a group that selects a protocol has members");
        name.to_owned()
    }

    /// The members as the leader needs them for its assignment.
    pub(super) fn join_members(&self) -> Vec<JoinMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let each = self.members.iter().map(|(id, member)| JoinMember {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            metadata: member.metadata(protocol).cloned().unwrap_or_default(),
        });
        each.collect()
    }

    /// The current generation as a member learns it; the list of members goes to the leader.
    pub(super) fn join_reply(&self, member_id: &str) -> JoinReply {
        JoinReply {
            error: None,
            member_id: member_id.to_owned(),
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone().unwrap_or_default(),
            skip_assignment: false,
            members: if self.is_leader(member_id) { self.join_members() } else { Vec::new() },
        }
    }

    /// Answers a member's JoinGroup, if it waits in one.
    pub(super) fn answer_join(&mut self, member_id: &str, reply: JoinReply, out: &mut Vec<Action>) {
        if let Some(member) = self.members.get_mut(member_id)
            && let Some(request) = member.awaiting_join.take()
        {
            out.push(Action::Reply { request, reply: Reply::Join(reply) });
        }
    }

    /// Answers a member's SyncGroup, if it waits in one; tells whether it did.
    pub(super) fn answer_sync(&mut self, member_id: &str, reply: Result<SyncReply, ErrorCode>, out: &mut Vec<Action>) -> bool {
        if let Some(member) = self.members.get_mut(member_id)
            && let Some(request) = member.awaiting_sync.take()
        {
            out.push(Action::Reply { request, reply: Reply::Sync(reply) });
            true
        } else {
            false
        }
    }

    /// Gives the member another session time-out.
    pub(super) fn extend_session(&mut self, member_id: &str, now: Now) {
        if let Some(member) = self.members.get_mut(member_id) {
            member.session_deadline = after_ms(now, member.session_timeout_ms);
        }
    }

    /// Adds a member, which becomes the leader if it is the first.
    pub(super) fn add_member(&mut self, member_id: String, protocol_type: &str, member: Member) {
        if let Some(instance_id) = &member.instance_id {
            let earlier = self.static_members.insert(instance_id.clone(), member_id.clone());
            assert!(earlier.is_none(), "group {}: instance {instance_id} is a member already", self.id);
        }
        if self.members.is_empty() {
            self.protocol_type = Some(protocol_type.to_owned());
        }
        assert_eq!(self.protocol_type.as_deref(), Some(protocol_type), "group {}: one protocol type", self.id);
        self.count_protocols(&member.protocols, true);
        if self.leader.is_none() {
            self.leader = Some(member_id.clone());
        }
        self.pending_members.remove(&member_id);
        let earlier = self.members.insert(member_id, member);
        assert!(earlier.is_none(), "group {}: a member joins once", self.id);
    }

    /// Removes a member or a pending one, and tells it so if it waits for an answer: UNKNOWN_MEMBER_ID makes it join anew if it lives.
    pub(super) fn remove_member(&mut self, member_id: &str, out: &mut Vec<Action>) {
        self.answer_join(member_id, JoinReply::error(ErrorCode::UnknownMemberId, ""), out);
        self.answer_sync(member_id, Err(ErrorCode::UnknownMemberId), out);
        self.pending_members.remove(member_id);
        self.pending_sync.remove(member_id);
        if let Some(member) = self.members.remove(member_id) {
            self.count_protocols(&member.protocols, false);
            if let Some(instance_id) = member.instance_id {
                self.static_members.remove(&instance_id);
            }
        }
        if self.is_leader(member_id) {
            self.leader = self.members.keys().next().cloned();
        }
    }

    /// Starts a rebalance, or goes on with the one that is under way.
    pub(super) fn rebalance_or_complete_join(&mut self, now: Now, out: &mut Vec<Action>) {
        if matches!(self.state, State::Stable | State::CompletingRebalance | State::Empty) {
            self.prepare_rebalance(now, out);
        } else {
            self.maybe_complete_join(now, out);
        }
    }

    /// Asks all members to join again.
    pub(super) fn prepare_rebalance(&mut self, now: Now, out: &mut Vec<Action>) {
        if self.state == State::CompletingRebalance {
            self.reset_assignments(ErrorCode::RebalanceInProgress, now, out);
        }
        self.pending_sync.clear();
        self.sync_deadline = None;
        let is_initial = self.state == State::Empty;
        self.transition(State::PreparingRebalance, now);
        if is_initial {
            let delay_ms = self.config.initial_rebalance_delay_ms.max(0);
            let remaining_ms = (self.rebalance_timeout_ms() - delay_ms).max(0);
            self.new_member_added = false;
            self.join_timer = Some(JoinTimer::Initial { deadline: after_ms(now, delay_ms), delay_ms, remaining_ms });
        } else if self.has_all_members_joined() {
            self.complete_join(now, out);
        } else {
            self.join_timer = Some(JoinTimer::Rebalance { deadline: after_ms(now, self.rebalance_timeout_ms()) });
        }
    }

    /// Ends the join phase if nobody is missing. The first rebalance of an empty group always waits for its timer.
    pub(super) fn maybe_complete_join(&mut self, now: Now, out: &mut Vec<Action>) {
        if self.state == State::PreparingRebalance && self.previous_state != State::Empty && self.has_all_members_joined() {
            self.complete_join(now, out);
        }
    }

    /// Ends the join phase: whoever is here is the next generation. Static members may be missing until their session ends (KIP-345).
    pub(super) fn complete_join(&mut self, now: Now, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::PreparingRebalance, "group {}: only a rebalance has a join phase", self.id);
        self.join_timer = None;
        let missing: Vec<String> =
            self.members.iter().filter(|(_, member)| member.awaiting_join.is_none() && member.instance_id.is_none()).map(|(id, _)| id.clone()).collect();
        for member_id in missing {
            self.remove_member(&member_id, out);
        }
        if !self.members.is_empty() && !self.elect_joined_leader() {
            // Only static members are left and none has rejoined: wait until one does or their sessions end.
            let retry_ms = self.rebalance_timeout_ms().max(REBALANCE_RETRY_MIN_MS);
            self.join_timer = Some(JoinTimer::Rebalance { deadline: after_ms(now, retry_ms) });
            return;
        }
        self.start_generation(now);
        if self.state == State::Empty {
            let value = self.group_value(&BTreeMap::new());
            self.append(InFlight::EmptyGeneration, vec![GroupRecord::Group { group: self.id.to_string(), value: Some(value) }], out);
            return;
        }
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let reply = self.join_reply(&member_id);
            self.answer_join(&member_id, reply, out);
            self.extend_session(&member_id, now);
            if let Some(member) = self.members.get_mut(&member_id) {
                member.is_new = false;
            }
            self.pending_sync.insert(member_id);
        }
        self.sync_deadline = Some(after_ms(now, self.rebalance_timeout_ms()));
    }

    /// Makes sure that the leader is a member that has joined; `false` if none has.
    fn elect_joined_leader(&mut self) -> bool {
        let joined = |member: &Member| member.awaiting_join.is_some();
        if self.leader.as_ref().and_then(|leader| self.members.get(leader)).is_some_and(joined) {
            return true;
        }
        match self.members.iter().find(|(_, member)| joined(member)) {
            Some((member_id, _)) => {
                self.leader = Some(member_id.clone());
                true
            }
            None => false,
        }
    }

    fn start_generation(&mut self, now: Now) {
        if !(self.config.plants.generation_not_bumped && !self.members.is_empty() && self.generation > 0) {
            self.generation = self.generation.checked_add(1).unwrap_or(1);
        }
        self.pending_sync.clear();
        if self.members.is_empty() {
            self.protocol = None;
            self.subscribed_topics = self.compute_subscribed_topics();
            self.transition(State::Empty, now);
        } else {
            self.protocol = Some(self.select_protocol());
            self.subscribed_topics = self.compute_subscribed_topics();
            self.transition(State::CompletingRebalance, now);
        }
    }

    pub(super) fn uses_consumer_protocol(&self) -> bool {
        self.protocol_type.as_deref() == Some(consumer_protocol::PROTOCOL_TYPE)
    }

    /// The topics that members subscribe to, if all of them say so in a form that is understood.
    pub(super) fn compute_subscribed_topics(&self) -> Option<BTreeSet<String>> {
        if !self.uses_consumer_protocol() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            topics.extend(consumer_protocol::subscribed_topics(member.metadata(protocol)?)?);
        }
        Some(topics)
    }

    /// Whether members may still use the topic, so that its offsets must not be touched from outside.
    pub(super) fn is_subscribed_to(&self, topic: &str) -> bool {
        match &self.subscribed_topics {
            Some(topics) => topics.contains(topic),
            None => self.uses_consumer_protocol(),
        }
    }

    /// Takes back all assignments and tells those who wait for theirs why.
    pub(super) fn reset_assignments(&mut self, error: ErrorCode, now: Now, out: &mut Vec<Action>) {
        assert_eq!(self.state, State::CompletingRebalance, "group {}: only a rebalance that completes has members that wait", self.id);
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            self.members.get_mut(&member_id).expect("its key was just read").assignment = Bytes::new();
            if self.answer_sync(&member_id, Err(error), out) {
                self.extend_session(&member_id, now);
            }
        }
    }

    /// Hands records out.
    pub(super) fn append(&mut self, in_flight: InFlight, records: Vec<GroupRecord>, out: &mut Vec<Action>) {
        let append = AppendId(self.next_append);
        self.next_append += 1;
        self.in_flight.insert(append, in_flight);
        out.push(Action::Append { append, records });
    }

    /// The generation as the log keeps it, with these assignments (none is empty).
    pub(super) fn group_value(&self, assignments: &BTreeMap<String, Bytes>) -> GroupValue {
        let protocol = self.protocol.as_deref();
        let members = self.members.iter().map(|(id, member)| MemberValue {
            member_id: id.clone(),
            instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: protocol.and_then(|protocol| member.metadata(protocol)).cloned().unwrap_or_default(),
            assignment: assignments.get(id).cloned().unwrap_or_default(),
        });
        GroupValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            state_timestamp_ms: self.state_timestamp_ms,
            members: members.collect(),
        }
    }

    /// Checks what must hold between any two events.
    ///
    /// # Panics
    /// If something does not.
    pub fn check_invariants(&self) {
        let id = &self.id;
        assert_eq!(self.leader.is_none(), self.members.is_empty(), "group {id}: members have a leader");
        if let Some(leader) = &self.leader {
            assert!(self.members.contains_key(leader), "group {id}: the leader is a member");
        }
        assert!(self.pending_sync.iter().all(|member| self.members.contains_key(member)), "group {id}: only members owe a sync");
        assert!(self.pending_members.keys().all(|member| !self.members.contains_key(member)), "group {id}: nobody is member and pending");
        for (instance_id, member_id) in &self.static_members {
            let member = self.members.get(member_id);
            assert_eq!(member.and_then(|member| member.instance_id.as_ref()), Some(instance_id), "group {id}: static members are members");
        }
        let static_count = self.members.values().filter(|member| member.instance_id.is_some()).count();
        assert_eq!(static_count, self.static_members.len(), "group {id}: an instance is one member");
        assert_eq!(self.join_timer.is_some(), self.state == State::PreparingRebalance, "group {id}: a rebalance, and only it, has a timer");
        match self.state {
            State::Empty => assert!(self.members.is_empty(), "group {id}: empty"),
            State::CompletingRebalance | State::Stable => assert!(!self.members.is_empty() && self.protocol.is_some(), "group {id}: a generation"),
            State::PreparingRebalance | State::Dead => {}
        }
        for (member_id, member) in &self.members {
            assert!(member.awaiting_sync.is_none() || self.state == State::CompletingRebalance, "group {id}: {member_id} waits for nothing");
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (name, _) in self.members.values().flat_map(|member| &member.protocols) {
            *counts.entry(name).or_default() += 1;
        }
        assert!(counts.into_iter().eq(self.protocol_member_counts.iter().map(|(name, count)| (name.as_str(), *count))), "group {id}: protocol counts");
    }
}

/// `ms` from now; negative time-outs from the wire are none.
pub(super) fn after_ms(now: Now, ms: i32) -> Instant {
    now.instant + Duration::from_millis(ms.max(0) as u64)
}
