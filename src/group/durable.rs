//! A [`Group`] and its log: what an append's outcome does, loading, and unloading.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::records::{GroupValue, OffsetValue};
use super::state::*;
use crate::runtime::Instant;

impl Group {
    /// The records of `append` are committed, or never will be. Appends are committed in the order in which they were handed out.
    ///
    /// Where the outcome is unknown because this broker lost the partition, [`Group::unload`] is the right call.
    pub fn append_done(&mut self, append: AppendId, result: Result<(), ErrorCode>, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        let Some(in_flight) = self.in_flight.remove(&append) else { return out };
        match in_flight {
            InFlight::Assignment { generation, assignments } => self.assignment_done(generation, assignments, result, now, &mut out),
            InFlight::StaticMember(change) => self.static_member_done(*change, result, now, &mut out),
            // If it failed, the generation before is what a restart finds, and its members' sessions end there as they did here.
            InFlight::EmptyGeneration => {}
            InFlight::Offsets { request, offsets } => {
                if result.is_ok() {
                    for (topic, partition, value) in offsets {
                        self.offsets.entry(topic).or_default().insert(partition, value);
                    }
                }
                answer_written(request, result, &mut out);
            }
            InFlight::OffsetRemoval { request, partitions } => {
                if result.is_ok() {
                    for (topic, partition) in partitions {
                        self.forget_offset(&topic, partition);
                    }
                }
                answer_written(request, result, &mut out);
            }
            InFlight::GroupRemoval { request } => {
                if result.is_ok() {
                    self.offsets.clear();
                } else if self.state == State::Dead {
                    // It was empty when its removal began, and nothing can have joined since.
                    self.state = State::Empty;
                }
                answer_written(request, result, &mut out);
            }
        }
        out
    }

    /// The records of `append` are in the log but not committed in time (`offsets.commit.timeout.ms`): answers those who wait, while
    /// the records still take effect if they are committed later.
    pub fn append_overdue(&mut self, append: AppendId, error: ErrorCode, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        match self.in_flight.get_mut(&append) {
            // The members cannot be kept waiting: the next generation's record will supersede this one.
            Some(InFlight::Assignment { .. } | InFlight::StaticMember(_)) => return self.append_done(append, Err(error), now),
            Some(InFlight::Offsets { request, .. } | InFlight::OffsetRemoval { request, .. } | InFlight::GroupRemoval { request }) => {
                answer_written(request.take(), Err(error), &mut out);
            }
            Some(InFlight::EmptyGeneration) | None => {}
        }
        out
    }

    fn assignment_done(&mut self, generation: i32, assignments: BTreeMap<String, Bytes>, result: Result<(), ErrorCode>, now: Now, out: &mut Vec<Action>) {
        // Another rebalance may have begun meanwhile.
        if self.state != State::CompletingRebalance || self.generation != generation {
            return;
        }
        if let Err(error) = result {
            self.reset_assignments(error, now, out);
            self.prepare_rebalance(now, out);
            return;
        }
        self.transition(State::Stable, now);
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            let assignment = assignments.get(&member_id).cloned().unwrap_or_default();
            self.members.get_mut(&member_id).expect("its key was just read").assignment = assignment;
            let reply = self.sync_reply(&member_id);
            if self.answer_sync(&member_id, Ok(reply), out) {
                // Its session may have run out while it waited, which was ignored.
                self.extend_session(&member_id, now);
            }
        }
    }

    fn static_member_done(&mut self, change: StaticMemberChange, result: Result<(), ErrorCode>, now: Now, out: &mut Vec<Action>) {
        let member_id = &change.new_member_id;
        let waits = self.members.get(member_id).is_some_and(|member| member.awaiting_join == Some(change.request));
        // If it was answered, it is gone or replaced again. If a rebalance began meanwhile, it has joined that one, and is answered when
        // that is over; a failure then does not matter, since the next generation's record holds the new id.
        if !waits || self.state != State::Stable {
            return;
        }
        match result {
            Ok(()) => {
                let is_leader = self.is_leader(member_id);
                let mut reply = self.join_reply(member_id);
                if change.supports_skipping_assignment {
                    reply.skip_assignment = is_leader;
                } else {
                    // A leader that cannot be told to leave the assignment alone must not know that it is one.
                    reply.leader = change.old_leader;
                    reply.members = Vec::new();
                }
                self.answer_join(member_id, reply, out);
            }
            Err(error) => {
                self.answer_join(member_id, JoinReply::error(error, ""), out);
                let member = self.members.get_mut(member_id).expect("it waits");
                let new_protocols = std::mem::replace(&mut member.protocols, change.old_protocols.clone());
                member.rebalance_timeout_ms = change.old_rebalance_timeout_ms;
                member.session_timeout_ms = change.old_session_timeout_ms;
                self.count_protocols(&new_protocols, false);
                self.count_protocols(&change.old_protocols, true);
                self.rename_static_member(&change.instance_id, member_id, &change.old_member_id, out);
                self.extend_session(&change.old_member_id, now);
            }
        }
    }

    /// Takes an offset from the log; `None` is a tombstone.
    pub fn load_offset(&mut self, topic: &str, partition: i32, value: Option<OffsetValue>) {
        match value {
            Some(value) => {
                self.offsets.entry(topic.to_owned()).or_default().insert(partition, value);
            }
            None => self.forget_offset(topic, partition),
        }
    }

    fn forget_offset(&mut self, topic: &str, partition: i32) {
        if let Some(partitions) = self.offsets.get_mut(topic) {
            partitions.remove(&partition);
            if partitions.is_empty() {
                self.offsets.remove(topic);
            }
        }
    }

    /// Takes a generation from the log in place of what the group was; its offsets stay. Call [`Group::loaded`] at the end.
    pub fn load_generation(&mut self, value: GroupValue) {
        let offsets = std::mem::take(&mut self.offsets);
        let origin = Now { instant: Instant::default(), unix_ms: 0 };
        *self = Self::new(Arc::clone(&self.id), Arc::clone(&self.config), origin);
        self.offsets = offsets;
        self.state_timestamp_ms = value.state_timestamp_ms;
        self.protocol_type = Some(value.protocol_type).filter(|protocol_type| !protocol_type.is_empty());
        self.generation = value.generation;
        for member in value.members {
            let loaded = Member {
                instance_id: member.instance_id,
                client_id: member.client_id,
                client_host: member.client_host,
                rebalance_timeout_ms: member.rebalance_timeout_ms,
                session_timeout_ms: member.session_timeout_ms,
                protocols: vec![(value.protocol.clone().unwrap_or_default(), member.subscription)],
                assignment: member.assignment,
                awaiting_join: None,
                awaiting_sync: None,
                session_deadline: Instant::default(),
                is_new: false,
            };
            self.load_member(member.member_id, loaded);
        }
        if !self.members.is_empty() {
            self.protocol = Some(value.protocol.unwrap_or_default());
            self.state = State::Stable;
            if let Some(leader) = value.leader.filter(|leader| self.members.contains_key(leader)) {
                self.leader = Some(leader);
            }
        }
        self.subscribed_topics = self.compute_subscribed_topics();
    }

    /// Takes the removal of the group from the log. Offsets stay until their own tombstones: compaction may leave these in another order.
    pub fn load_removal(&mut self, now: Now) {
        let offsets = std::mem::take(&mut self.offsets);
        *self = Self::new(Arc::clone(&self.id), Arc::clone(&self.config), now);
        self.offsets = offsets;
    }

    /// Nothing that is read may break the invariants: a second member of the same id or instance is left out.
    fn load_member(&mut self, member_id: String, member: Member) {
        let taken = member.instance_id.as_ref().is_some_and(|instance_id| self.static_members.contains_key(instance_id));
        if !taken && !self.members.contains_key(&member_id) {
            let protocol_type = self.protocol_type.clone().unwrap_or_default();
            self.add_member(member_id, &protocol_type, member);
        }
    }

    /// The log is read to its end: every member gets a full session from now on.
    pub fn loaded(&mut self, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        for member in self.members.values_mut() {
            member.session_deadline = after_ms(now, member.session_timeout_ms);
        }
        if self.members.len() > self.config.max_size {
            // `group.max.size` was lowered. The rebalance lets the members commit before some of them are turned away.
            self.prepare_rebalance(now, &mut out);
        }
        out
    }

    /// The partition is no longer this broker's: answers everybody who waits. What was in flight may or may not be in the log.
    pub fn unload(&mut self, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        let error = ErrorCode::NotCoordinator;
        let member_ids: Vec<String> = self.members.keys().cloned().collect();
        for member_id in member_ids {
            self.answer_join(&member_id, JoinReply::error(error, &member_id), &mut out);
            self.answer_sync(&member_id, Err(error), &mut out);
        }
        for in_flight in std::mem::take(&mut self.in_flight).into_values() {
            match in_flight {
                InFlight::Offsets { request, .. } | InFlight::OffsetRemoval { request, .. } | InFlight::GroupRemoval { request } => {
                    answer_written(request, Err(error), &mut out);
                }
                // Those who wait for these were answered as members.
                InFlight::Assignment { .. } | InFlight::StaticMember(_) | InFlight::EmptyGeneration => {}
            }
        }
        self.transition(State::Dead, now);
        self.members.clear();
        self.static_members.clear();
        self.pending_members.clear();
        self.protocol_member_counts.clear();
        self.pending_sync.clear();
        self.leader = None;
        self.join_timer = None;
        self.sync_deadline = None;
        out
    }
}

fn answer_written(request: Option<RequestId>, result: Result<(), ErrorCode>, out: &mut Vec<Action>) {
    out.extend(request.map(|request| Action::Reply { request, reply: Reply::Written(result) }));
}
