//! The node and the membership: who joins, who gets a vote, who is told where others are, who leads next.

use std::collections::BTreeMap;

use super::super::consensus::{Change, Consensus};
use super::super::peer::{Answer as PeerAnswer, MembersView, Order, Wish};
use super::super::{ChangeRefused, Status};
use super::{CAUGHT_UP_COUNT, Met, Node};
use crate::coordination::op::Request;
use crate::coordination::storage::format::{FORMAT, MemberRecord};
use crate::plant;
use crate::runtime::Runtime;

impl<R: Runtime, C: Consensus> Node<R, C> {
    pub(super) fn tell_network(&self) {
        if let Some(network) = &self.network {
            let mut addresses: BTreeMap<u64, &str> = self.replicated.members.iter().map(|(id, record)| (*id, record.address.as_str())).collect();
            // One that has just joined knows nobody, or not yet where a member is reached that was alone before; and one that was away does not know those
            // that joined meanwhile. If one of them leads, it learns of it only by answering.
            let is_new = !addresses.contains_key(&self.raft_id);
            for (id, address) in &self.met {
                if addresses.get(id).map_or(is_new || *id >= self.replicated.next_raft_id, |known| known.is_empty()) {
                    addresses.insert(*id, address);
                }
            }
            network.set_members(addresses.into_iter());
        }
    }

    /// Whether time need not pass: it leads, and nobody else is there or can come.
    pub(super) fn rests(&self) -> bool {
        self.network.is_none() && self.leadership.is_leader && self.is_alone()
    }

    /// Whether nobody else has a part: then time need not pass.
    pub(super) fn is_alone(&self) -> bool {
        let conf_state = self.core.conf_state();
        conf_state.voters == [self.raft_id] && conf_state.learners.is_empty()
    }

    pub(super) fn status(&self) -> Status {
        let others = self.replicated.members.keys().filter(|id| **id != self.raft_id && self.leadership.is_leader);
        Status {
            progress: others.filter_map(|id| Some((*id, self.core.progress(*id)?))).collect(),
            raft_id: self.raft_id,
            server_id: self.server_id,
            leadership: self.leadership,
            committed: self.core.committed(),
            applied: self.replicated.applied.0,
            conf_state: self.core.applied_conf_state().clone(),
            members: self.replicated.members.clone(),
            unreachable: self.network.as_ref().map(super::Network::unreachable).unwrap_or_default(),
        }
    }

    pub(super) fn change_members(&mut self, change: Change) -> Result<(), ChangeRefused> {
        if !self.leadership.is_leader {
            return Err(ChangeRefused::NotLeader { leader: self.leadership.leader });
        }
        if change == Change::Remove(self.raft_id) {
            return Err(ChangeRefused::IsLeader);
        }
        if let Change::Remove(id) = &change {
            if !self.replicated.members.contains_key(id) {
                return Err(ChangeRefused::NoMember { raft_id: *id });
            }
            if self.core.conf_state().voters == [*id] {
                return Err(ChangeRefused::LastVoter);
            }
        }
        self.core.propose_change(&change).map_err(|_| ChangeRefused::NotLeader { leader: 0 })
    }

    /// As leader: takes a step to another membership, if nothing speaks against it. Asked again, it does nothing new. A leader that is to leave hands over
    /// first, and the next one takes the step.
    pub(super) fn wish(&mut self, wish: Wish) {
        if !self.leadership.is_leader {
            return;
        }
        match wish {
            Wish::Join { server_id, address } => {
                let known = self.replicated.members.iter().find(|(_, record)| record.server_id == server_id);
                let known = known.map(|(id, record)| (*id, record.clone()));
                let change = match known {
                    Some((_, record)) if record.address == address => return,
                    Some((id, record)) if self.core.conf_state().voters.contains(&id) => Change::AddVoter(id, MemberRecord { address, ..record }),
                    Some((id, record)) => Change::AddLearner(id, MemberRecord { address, ..record }),
                    None => Change::AddLearner(self.replicated.next_raft_id, MemberRecord { server_id, address, storage_id: 0 }),
                };
                let _ = self.core.propose_change(&change);
            }
            Wish::Leave { server_id } => {
                let voters = self.core.conf_state().voters.clone();
                let leaves = |id: u64| self.replicated.members.get(&id).is_some_and(|record| record.server_id == server_id);
                let takes_part = |id: u64| id == self.raft_id || self.core.progress(id).is_some_and(|progress| progress.is_active);
                let stay: Vec<u64> = voters.iter().copied().filter(|id| !leaves(*id)).collect();
                if stay.len() < voters.len() && stay.iter().filter(|id| takes_part(**id)).count() < stay.len() / 2 + 1 {
                    tracing::warn!(server_id, "a member is not removed by reconfig: too few of the others take part; start those first");
                    return;
                }
                let Some(id) = self.replicated.members.keys().copied().find(|id| leaves(*id)) else { return };
                if id == self.raft_id {
                    self.hand_over();
                } else {
                    let _ = self.core.propose_change(&Change::Remove(id));
                }
            }
        }
    }

    fn was_removed(&self, member: u64) -> bool {
        member < self.replicated.next_raft_id && !self.replicated.members.contains_key(&member)
    }

    /// The membership has changed: those that are connected and are no members any more are told.
    pub(super) fn tell_removed(&mut self) {
        let removed: Vec<u64> = self.connected.keys().copied().filter(|id| self.was_removed(*id)).collect();
        for connection in removed.into_iter().filter_map(|id| self.connected.remove(&id)).flatten() {
            let _ = connection.send(());
        }
    }

    /// A member has connected: it is told if it is none any more.
    pub(super) fn meet(&mut self, met: Met) {
        let Met { member, address, log_format, is_removed, removed_later } = met;
        // An id that was given and is nobody's: ids are never given twice.
        let was_removed = self.was_removed(member);
        let _ = is_removed.send(was_removed);
        if was_removed {
            return;
        }
        let connections = self.connected.entry(member).or_default();
        connections.retain(|connection| !connection.is_closed());
        connections.push(removed_later);
        self.log_formats.insert(member, log_format);
        self.is_held_back = false;
        if self.met.insert(member, address.clone()) != Some(address) {
            self.tell_network();
        }
    }

    /// This member is none any more.
    pub(super) fn removed(&mut self) {
        if !self.is_removed {
            self.is_removed = true;
            tracing::error!(raft_id = self.raft_id, "this member was removed from the ensemble; stop it, and move its directory away before it joins again");
            drop(self.origin.drain());
        }
    }

    /// The version of log entries that every member reads, as far as they have said. What is written is never newer.
    fn log_format(&self) -> u16 {
        self.replicated.members.keys().filter_map(|id| self.log_formats.get(id)).copied().fold(FORMAT, u16::min)
    }

    /// Whether every member can carry the request out, as far as they have said: what one of them does not know must not come into the log, or that member
    /// would stop at it.
    pub(super) fn may_write(&mut self, request: &Request) -> bool {
        let (needed, log_format) = (request.log_format(), self.log_format());
        if needed > log_format && !std::mem::replace(&mut self.is_held_back, true) {
            let older = self.replicated.members.iter().filter(|(id, _)| self.log_formats.get(id).is_some_and(|reads| *reads < needed));
            let older: Vec<String> = older.map(|(id, record)| format!("server.{} (member {id}, {})", record.server_id, record.address)).collect();
            tracing::warn!(
                "a request is refused: it needs version {needed} of log entries, and {} reads up to {log_format}; run the same release on all members",
                older.join(", ")
            );
        }
        needed <= log_format
    }

    fn view(&self) -> MembersView {
        let Status { raft_id, server_id, leadership, committed, applied, conf_state, members, unreachable, progress } = self.status();
        MembersView {
            raft_id,
            server_id,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            term: leadership.term,
            leader: leadership.leader,
            committed,
            applied,
            last_zxid: self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner()).last_zxid(),
            log_format: self.log_format(),
            voters: conf_state.voters,
            learners: conf_state.learners,
            members: members.into_iter().collect(),
            progress: progress.into_iter().map(|(id, progress)| (id, progress.matched, progress.is_active)).collect(),
            unreachable: unreachable.into_iter().collect(),
        }
    }

    /// What an administrator wants.
    pub(super) fn order(&mut self, order: Order) -> PeerAnswer {
        let elsewhere = |this: &Self| {
            let leader = this.replicated.members.get(&this.leadership.leader).map(|record| record.address.clone()).unwrap_or_default();
            PeerAnswer::Elsewhere { leader }
        };
        match order {
            Order::Members => PeerAnswer::Members(Box::new(self.view())),
            _ if !self.leadership.is_leader => elsewhere(self),
            Order::HandOver => {
                self.hand_over();
                PeerAnswer::Begun
            }
            Order::Remove { raft_id, force } => {
                if !force && let Some(why) = self.danger_of_removing(raft_id) {
                    return PeerAnswer::Refused(why);
                }
                match self.change_members(Change::Remove(raft_id)) {
                    Ok(()) => PeerAnswer::Begun,
                    Err(ChangeRefused::NotLeader { .. }) => elsewhere(self),
                    Err(refused) => PeerAnswer::Refused(refused.to_string()),
                }
            }
        }
    }

    /// Why it is better not to remove a member now; `None` if nothing speaks against it.
    fn danger_of_removing(&self, raft_id: u64) -> Option<String> {
        let voters = &self.core.conf_state().voters;
        if !voters.contains(&raft_id) {
            return None; // It decides nothing.
        }
        // A link that broke tells sooner than an election time-out without a word.
        let unreachable = self.network.as_ref().map(super::Network::unreachable).unwrap_or_default();
        let is_up = |id: u64| id == self.raft_id || (self.core.progress(id).is_some_and(|progress| progress.is_active) && !unreachable.contains_key(&id));
        let name = |id: u64| match self.replicated.members.get(&id) {
            Some(record) if record.server_id != 0 => format!("server.{}", record.server_id),
            _ => format!("member {id}"),
        };
        let rest: Vec<u64> = voters.iter().copied().filter(|id| *id != raft_id).collect();
        let down: Vec<u64> = rest.iter().copied().filter(|id| !is_up(*id)).collect();
        let down_names = || down.iter().map(|id| name(*id)).collect::<Vec<_>>().join(", ");
        let needed = rest.len() / 2 + 1;
        if rest.len() - down.len() < needed {
            return Some(format!(
                "without {} the ensemble would have {} voters, {needed} of which must be up, and {} not; bring those back first, or remove them instead",
                name(raft_id),
                rest.len(),
                down_names() + if down.len() == 1 { " is" } else { " are" }
            ));
        }
        if !down.is_empty() && rest.len() - down.len() == needed {
            return Some(format!(
                "{} down; without {}, too, the ensemble would not survive the loss of one more member; bring it back first, or remove it instead \
                 (--force goes on all the same)",
                down_names() + if down.len() == 1 { " is" } else { " are" },
                name(raft_id)
            ));
        }
        None
    }

    /// The leader's answer to one that wants in; asked again, it is the same until the change has come to be.
    pub(super) fn join(&mut self, server_id: u32, address: String, storage_id: u64) -> PeerAnswer {
        let known = self.replicated.members.iter().find(|(_, record)| record.storage_id == storage_id);
        if let Some((raft_id, _)) = known {
            return PeerAnswer::Accepted { raft_id: *raft_id };
        }
        if !self.leadership.is_leader {
            return PeerAnswer::Later;
        }
        for (raft_id, record) in self.replicated.members.clone() {
            if record.server_id != server_id || record.server_id == 0 {
                continue;
            }
            if raft_id == self.raft_id || self.core.progress(raft_id).is_some_and(|progress| progress.is_active) {
                return PeerAnswer::Refused(format!("server.{server_id} is alive as member {raft_id} at {}; give each member its own number", record.address));
            }
            if self.core.conf_state().learners.contains(&raft_id) {
                // It lost its disk twice.
                let _ = self.core.propose_change(&Change::Remove(raft_id));
                return PeerAnswer::Later;
            }
        }
        let record = MemberRecord { server_id, address, storage_id };
        let _ = self.core.propose_change(&Change::AddLearner(self.replicated.next_raft_id, record));
        PeerAnswer::Later
    }

    /// As leader: gives learners that have caught up a vote, in the place of a member that lost its disk if there is one, and makes known where this
    /// member is reached.
    pub(super) fn look_after_members(&mut self) {
        let conf_state = self.core.conf_state().clone();
        let own = self.replicated.members.get(&self.raft_id).cloned().unwrap_or_default();
        if !self.address.is_empty() && own.address != self.address && conf_state.voters.contains(&self.raft_id) {
            let record = MemberRecord { server_id: self.server_id, address: self.address.clone(), storage_id: self.storage_id };
            let _ = self.core.propose_change(&Change::AddVoter(self.raft_id, record));
            return; // One at a time; first of all, so that those who join find it.
        }
        for learner in &conf_state.learners {
            let Some(progress) = self.core.progress(*learner) else { continue };
            let Some(record) = self.replicated.members.get(learner).cloned() else { continue };
            // A new one counts as active before it was ever heard of: it may have died before it had a log, and will come again as another. With a vote it
            // would be missing for good.
            let has_log = progress.matched > 0 || plant!(&self.rt, "vote-for-one-without-a-log");
            if !has_log || !progress.is_active || progress.matched + CAUGHT_UP_COUNT < self.core.committed() {
                continue;
            }
            let lost = self
                .replicated
                .members
                .iter()
                .find(|(id, other)| **id != *learner && other.server_id == record.server_id && other.server_id != 0 && conf_state.voters.contains(id));
            let change = match lost {
                Some((lost, _)) => Change::Remove(*lost),
                None => Change::AddVoter(*learner, record),
            };
            let _ = self.core.propose_change(&change);
            return; // One at a time.
        }
    }
}
