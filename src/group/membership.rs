//! Membership events of a [`Group`]: join, sync, heartbeat, leave, and the passing of time.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::records::GroupRecord;
use super::state::*;
use crate::runtime::Instant;

/// JoinGroup, as the group sees it.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Who to answer.
    pub request: RequestId,
    /// The member's id; empty if it has none yet.
    pub member_id: String,
    /// The id to give if it has none: the caller makes it, since ids are random.
    pub new_member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// How long it may be silent, in ms. The caller has checked the bounds.
    pub session_timeout_ms: i32,
    /// How long a rebalance may wait for it, in ms.
    pub rebalance_timeout_ms: i32,
    /// Class of the protocol.
    pub protocol_type: String,
    /// The protocols that it supports, most preferred first, each with its metadata.
    pub protocols: Vec<(String, Bytes)>,
    /// Whether it must join again with the id that it is given (KIP-394, from JoinGroup 4).
    pub requires_known_member_id: bool,
    /// Whether its leader understands `skip_assignment` (KIP-814, from JoinGroup 9).
    pub supports_skipping_assignment: bool,
}

/// SyncGroup, as the group sees it.
#[derive(Clone, Debug)]
pub struct SyncRequest {
    /// Who to answer.
    pub request: RequestId,
    /// The member.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The generation that it believes in.
    pub generation: i32,
    /// The protocol type that it believes in (KIP-559).
    pub protocol_type: Option<String>,
    /// The protocol that it believes in (KIP-559).
    pub protocol: Option<String>,
    /// From the leader: each member's assignment.
    pub assignments: Vec<(String, Bytes)>,
}

/// One member of a LeaveGroup.
#[derive(Clone, Debug)]
pub struct LeavingMember {
    /// Its id; empty where an administrator removes a static member.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
}

impl Group {
    /// A member joins, or joins again. Answered by [`Reply::Join`], possibly when the rebalance is over.
    pub fn join(&mut self, mut join: JoinRequest, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        // The names are a set: a second entry of the same name would be counted as a second supporter.
        let mut at = 0;
        while at < join.protocols.len() {
            if join.protocols[..at].iter().any(|(name, _)| *name == join.protocols[at].0) {
                join.protocols.remove(at);
            } else {
                at += 1;
            }
        }
        if !self.accepts(&join.member_id) {
            self.remove_member(&join.member_id, &mut out);
            refuse(join.request, ErrorCode::GroupMaxSizeReached, "", &mut out);
            self.maybe_complete_join(now, &mut out);
        } else if self.state == State::Dead {
            refuse(join.request, ErrorCode::CoordinatorNotAvailable, &join.member_id, &mut out);
        } else if !self.supports_protocols(&join.protocol_type, &join.protocols) {
            refuse(join.request, ErrorCode::InconsistentGroupProtocol, &join.member_id, &mut out);
        } else if join.member_id.is_empty() {
            self.join_new(join, now, &mut out);
        } else {
            self.join_known(join, now, &mut out);
        }
        out
    }

    /// Whether there is room for the member. While joining only those who already wait count: whoever rejoins last is the one too many.
    fn accepts(&self, member_id: &str) -> bool {
        match self.state {
            State::Empty | State::Dead => true,
            State::PreparingRebalance => {
                self.members.get(member_id).is_some_and(|member| member.awaiting_join.is_some()) || self.awaiting_join_count() < self.config.max_size
            }
            State::CompletingRebalance | State::Stable => self.members.contains_key(member_id) || self.members.len() < self.config.max_size,
        }
    }

    fn join_new(&mut self, join: JoinRequest, now: Now, out: &mut Vec<Action>) {
        let member_id = join.new_member_id.clone();
        if let Some(instance_id) = &join.instance_id {
            match self.static_members.get(instance_id).cloned() {
                Some(old_member_id) => self.replace_static_member(&old_member_id, join, now, out),
                None => self.add_and_rebalance(member_id, join, now, out),
            }
        } else if join.requires_known_member_id {
            if self.pending_members.len() >= self.config.pending_members_max {
                return refuse(join.request, ErrorCode::GroupMaxSizeReached, "", out);
            }
            self.pending_members.insert(member_id.clone(), after_ms(now, join.session_timeout_ms));
            refuse(join.request, ErrorCode::MemberIdRequired, &member_id, out);
        } else {
            self.add_and_rebalance(member_id, join, now, out);
        }
    }

    fn join_known(&mut self, join: JoinRequest, now: Now, out: &mut Vec<Action>) {
        let member_id = join.member_id.clone();
        if self.pending_members.contains_key(&member_id) && join.instance_id.is_none() {
            return self.add_and_rebalance(member_id, join, now, out);
        }
        if let Err(error) = self.validate_member(&member_id, join.instance_id.as_deref()) {
            return refuse(join.request, error, &member_id, out);
        }
        let unchanged = self.members[&member_id].protocols == join.protocols;
        match self.state {
            State::PreparingRebalance => self.update_and_rebalance(&member_id, join, now, out),
            // It may not have received the answer to its JoinGroup: the same one again.
            State::CompletingRebalance if unchanged => {
                out.push(Action::Reply { request: join.request, reply: Reply::Join(self.join_reply(&member_id)) });
            }
            // The leader joins again where the topics' metadata changed, which its own metadata does not tell.
            State::Stable if unchanged && !self.is_leader(&member_id) => {
                let reply = JoinReply { members: Vec::new(), ..self.join_reply(&member_id) };
                out.push(Action::Reply { request: join.request, reply: Reply::Join(reply) });
            }
            State::CompletingRebalance | State::Stable => self.update_and_rebalance(&member_id, join, now, out),
            State::Empty | State::Dead => refuse(join.request, ErrorCode::UnknownMemberId, &member_id, out),
        }
    }

    fn add_and_rebalance(&mut self, member_id: String, join: JoinRequest, now: Now, out: &mut Vec<Action>) {
        if self.state == State::PreparingRebalance && self.previous_state == State::Empty {
            self.new_member_added = true;
        }
        let member = Member {
            instance_id: join.instance_id,
            client_id: join.client_id,
            client_host: join.client_host,
            rebalance_timeout_ms: join.rebalance_timeout_ms,
            session_timeout_ms: join.session_timeout_ms,
            protocols: join.protocols,
            assignment: Bytes::new(),
            awaiting_join: Some(join.request),
            awaiting_sync: None,
            // It cannot send heartbeats before it has its answer, and its connection is silent meanwhile. Were it never timed out, a
            // client that gives up and tries again would leave one defunct member in the rebalance for each try.
            session_deadline: after_ms(now, self.config.new_member_join_timeout_ms),
            is_new: true,
        };
        self.add_member(member_id, &join.protocol_type, member);
        self.rebalance_or_complete_join(now, out);
    }

    fn update_and_rebalance(&mut self, member_id: &str, join: JoinRequest, now: Now, out: &mut Vec<Action>) {
        self.update_member(member_id, join, out);
        self.rebalance_or_complete_join(now, out);
    }

    /// Takes over what a member that joins again says of itself. An earlier JoinGroup of its that still waits is answered: try again.
    fn update_member(&mut self, member_id: &str, join: JoinRequest, out: &mut Vec<Action>) {
        self.answer_join(member_id, JoinReply::error(ErrorCode::RebalanceInProgress, member_id), out);
        let member = self.members.get_mut(member_id).expect("the caller validated the member");
        let old_protocols = std::mem::replace(&mut member.protocols, join.protocols.clone());
        member.rebalance_timeout_ms = join.rebalance_timeout_ms;
        member.session_timeout_ms = join.session_timeout_ms;
        member.awaiting_join = Some(join.request);
        self.count_protocols(&old_protocols, false);
        self.count_protocols(&join.protocols, true);
    }

    /// A static member comes back without its member id: it gets a new one, and whoever still uses the old one is fenced (KIP-345).
    fn replace_static_member(&mut self, old_member_id: &str, join: JoinRequest, now: Now, out: &mut Vec<Action>) {
        let instance_id = join.instance_id.clone().expect("only static members are replaced");
        let new_member_id = join.new_member_id.clone();
        let old_leader = self.leader.clone().unwrap_or_default();
        self.rename_static_member(&instance_id, old_member_id, &new_member_id, out);
        let member = &self.members[&new_member_id];
        let change = StaticMemberChange {
            request: join.request,
            instance_id,
            old_member_id: old_member_id.to_owned(),
            new_member_id: new_member_id.clone(),
            old_leader,
            old_protocols: member.protocols.clone(),
            old_rebalance_timeout_ms: member.rebalance_timeout_ms,
            old_session_timeout_ms: member.session_timeout_ms,
            supports_skipping_assignment: join.supports_skipping_assignment,
        };
        self.update_member(&new_member_id, join, out);
        self.extend_session(&new_member_id, now);
        match self.state {
            // Nothing changes for the group: only the new id is persisted, and the member keeps its assignment.
            State::Stable if self.protocol.as_deref() == Some(self.select_protocol().as_str()) => {
                let assignments = self.members.iter().map(|(id, member)| (id.clone(), member.assignment.clone())).collect();
                let record = GroupRecord::Group { group: self.id.to_string(), value: Some(self.group_value(&assignments)) };
                self.append(InFlight::StaticMember(Box::new(change)), vec![record], out);
            }
            State::Stable => self.rebalance_or_complete_join(now, out),
            // The leader may be assigning to the old id right now; the new one would get nothing.
            State::CompletingRebalance => self.prepare_rebalance(now, out),
            State::PreparingRebalance => self.maybe_complete_join(now, out),
            State::Empty | State::Dead => unreachable!("group {}: a group without members has no static members", self.id),
        }
    }

    /// Gives a static member another id and fences the old one.
    pub(super) fn rename_static_member(&mut self, instance_id: &str, old_member_id: &str, new_member_id: &str, out: &mut Vec<Action>) {
        self.answer_join(old_member_id, JoinReply::error(ErrorCode::FencedInstanceId, old_member_id), out);
        self.answer_sync(old_member_id, Err(ErrorCode::FencedInstanceId), out);
        let mut member = self.members.remove(old_member_id).expect("static members are members");
        member.is_new = false;
        let earlier = self.members.insert(new_member_id.to_owned(), member);
        assert!(earlier.is_none(), "group {}: member ids are unique", self.id);
        if self.is_leader(old_member_id) {
            self.leader = Some(new_member_id.to_owned());
        }
        if self.pending_sync.remove(old_member_id) {
            self.pending_sync.insert(new_member_id.to_owned());
        }
        self.static_members.insert(instance_id.to_owned(), new_member_id.to_owned());
    }

    /// A member wants its assignment; the leader brings all of them. Answered by [`Reply::Sync`], possibly when the leader's is
    /// committed.
    pub fn sync(&mut self, sync: SyncRequest, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        let answer = |reply| Action::Reply { request: sync.request, reply: Reply::Sync(reply) };
        if let Err(error) = self.validate_sync(&sync) {
            out.push(answer(Err(error)));
            return out;
        }
        match self.state {
            State::Empty | State::Dead => out.push(answer(Err(ErrorCode::UnknownMemberId))),
            State::PreparingRebalance => out.push(answer(Err(ErrorCode::RebalanceInProgress))),
            State::CompletingRebalance => {
                // A client sends the same request again only after giving up on the first.
                self.answer_sync(&sync.member_id, Err(ErrorCode::RebalanceInProgress), &mut out);
                self.members.get_mut(&sync.member_id).expect("validated").awaiting_sync = Some(sync.request);
                self.has_synced(&sync.member_id);
                let under_way = |in_flight: &InFlight| matches!(in_flight, InFlight::Assignment { generation, .. } if *generation == self.generation);
                if self.is_leader(&sync.member_id) && !self.in_flight.values().any(under_way) {
                    let mut assignments: BTreeMap<String, Bytes> = sync.assignments.into_iter().collect();
                    assignments.retain(|member_id, _| self.members.contains_key(member_id));
                    let record = GroupRecord::Group { group: self.id.to_string(), value: Some(self.group_value(&assignments)) };
                    self.append(InFlight::Assignment { generation: self.generation, assignments }, vec![record], &mut out);
                }
            }
            State::Stable => {
                self.has_synced(&sync.member_id);
                self.extend_session(&sync.member_id, now);
                out.push(answer(Ok(self.sync_reply(&sync.member_id))));
            }
        }
        out
    }

    fn validate_sync(&self, sync: &SyncRequest) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        self.validate_member(&sync.member_id, sync.instance_id.as_deref())?;
        if sync.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs = |theirs: &Option<String>, ours: &Option<String>| theirs.is_some() && ours.is_some() && theirs != ours;
        if differs(&sync.protocol_type, &self.protocol_type) || differs(&sync.protocol, &self.protocol) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    fn has_synced(&mut self, member_id: &str) {
        self.pending_sync.remove(member_id);
        if self.pending_sync.is_empty() {
            self.sync_deadline = None;
        }
    }

    pub(super) fn sync_reply(&self, member_id: &str) -> SyncReply {
        SyncReply {
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            assignment: self.members.get(member_id).map(|member| member.assignment.clone()).unwrap_or_default(),
        }
    }

    /// A member says that it lives.
    ///
    /// # Errors
    /// REBALANCE_IN_PROGRESS asks it to join again; the others say that it is not, or no longer, who it thinks.
    pub fn heartbeat(&mut self, member_id: &str, instance_id: Option<&str>, generation: i32, now: Now) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        self.validate_member(member_id, instance_id)?;
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        self.extend_session(member_id, now);
        match self.state {
            State::Empty | State::Dead => Err(ErrorCode::UnknownMemberId),
            State::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            State::CompletingRebalance | State::Stable => Ok(()),
        }
    }

    /// Members leave, or an administrator removes static members. One result for each, in order.
    pub fn leave(&mut self, leaving: &[LeavingMember], now: Now) -> (Vec<Result<(), ErrorCode>>, Vec<Action>) {
        let mut out = Vec::new();
        if self.state == State::Dead {
            return (leaving.iter().map(|_| Err(ErrorCode::CoordinatorNotAvailable)).collect(), out);
        }
        let results: Vec<_> = leaving.iter().map(|member| self.leave_one(member, &mut out)).collect();
        if results.iter().any(Result::is_ok) {
            match self.state {
                State::Stable | State::CompletingRebalance => self.prepare_rebalance(now, &mut out),
                State::PreparingRebalance => self.maybe_complete_join(now, &mut out),
                State::Empty | State::Dead => {}
            }
        }
        (results, out)
    }

    fn leave_one(&mut self, leaving: &LeavingMember, out: &mut Vec<Action>) -> Result<(), ErrorCode> {
        let member_id = if leaving.member_id.is_empty() {
            let instance_id = leaving.instance_id.as_ref().ok_or(ErrorCode::UnknownMemberId)?;
            self.static_members.get(instance_id).ok_or(ErrorCode::UnknownMemberId)?.clone()
        } else {
            if !self.pending_members.contains_key(&leaving.member_id) {
                self.validate_member(&leaving.member_id, leaving.instance_id.as_deref())?;
            }
            leaving.member_id.clone()
        };
        self.remove_member(&member_id, out);
        Ok(())
    }

    /// Does what is due: ends rebalances and sessions. Each timer fires at most once a call; call again at [`Group::next_deadline`].
    pub fn tick(&mut self, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        let due = |deadline: &Instant| *deadline <= now.instant;
        if let Some(timer) = self.join_timer.filter(|timer| due(&timer.deadline())) {
            self.join_timer_fired(timer, now, &mut out);
        }
        if self.sync_deadline.filter(due).is_some() {
            self.expire_pending_sync(now, &mut out);
        }
        let expired: Vec<String> = self.pending_members.iter().filter(|(_, deadline)| due(deadline)).map(|(id, _)| id.clone()).collect();
        for member_id in expired {
            self.pending_members.remove(&member_id);
            self.maybe_complete_join(now, &mut out);
        }
        let expired: Vec<String> = self.members.iter().filter(|(_, member)| due(&member.session_deadline)).map(|(id, _)| id.clone()).collect();
        for member_id in expired {
            self.expire_session(&member_id, now, &mut out);
        }
        out
    }

    fn join_timer_fired(&mut self, timer: JoinTimer, now: Now, out: &mut Vec<Action>) {
        match timer {
            JoinTimer::Initial { delay_ms, remaining_ms, .. } if self.new_member_added && remaining_ms != 0 => {
                self.new_member_added = false;
                let next_delay_ms = self.config.initial_rebalance_delay_ms.max(0).min(remaining_ms);
                let remaining_ms = (remaining_ms - delay_ms).max(0);
                self.join_timer = Some(JoinTimer::Initial { deadline: after_ms(now, next_delay_ms), delay_ms: next_delay_ms, remaining_ms });
            }
            JoinTimer::Initial { .. } | JoinTimer::Rebalance { .. } => self.complete_join(now, out),
        }
    }

    /// Members that joined and never asked for their assignment leave; the others rebalance.
    fn expire_pending_sync(&mut self, now: Now, out: &mut Vec<Action>) {
        self.sync_deadline = None;
        if !matches!(self.state, State::CompletingRebalance | State::Stable) || self.pending_sync.is_empty() {
            return;
        }
        for member_id in std::mem::take(&mut self.pending_sync) {
            self.remove_member(&member_id, out);
        }
        self.prepare_rebalance(now, out);
    }

    fn expire_session(&mut self, member_id: &str, now: Now, out: &mut Vec<Action>) {
        // An earlier expiry of this call may have moved the group on and renewed the session.
        let Some(member) = self.members.get(member_id).filter(|member| member.session_deadline <= now.instant) else { return };
        let waits = member.awaiting_join.is_some() || member.awaiting_sync.is_some();
        if waits && !member.is_new {
            // Who waits for the group is not silent.
            return self.extend_session(member_id, now);
        }
        self.remove_member(member_id, out);
        match self.state {
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(now, out),
            State::PreparingRebalance => self.maybe_complete_join(now, out),
            State::Empty | State::Dead => {}
        }
    }
}

fn refuse(request: RequestId, error: ErrorCode, member_id: &str, out: &mut Vec<Action>) {
    out.push(Action::Reply { request, reply: Reply::Join(JoinReply::error(error, member_id)) });
}
