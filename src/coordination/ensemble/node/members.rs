//! The node and the membership: who joins, who gets a vote, who is told where others are, who leads next.

use std::collections::BTreeMap;

use super::super::consensus::{Change, Consensus};
use super::super::peer::{Answer as PeerAnswer, Wish};
use super::super::{ChangeRefused, Status};
use super::{CAUGHT_UP_COUNT, Node};
use crate::coordination::storage::format::MemberRecord;
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

    /// A leader that is to end asks the most advanced voter to lead, and asks again with each tick.
    pub(super) fn hand_over(&mut self) {
        if !self.leadership.is_leader {
            return;
        }
        let others = self.core.conf_state().voters.iter().filter(|id| **id != self.raft_id);
        let best = others.filter_map(|id| Some((self.core.progress(*id).filter(|progress| progress.is_active)?.matched, *id))).max();
        if let Some((_, to)) = best {
            self.core.transfer_leadership(to);
        }
    }

    pub(super) fn status(&self) -> Status {
        Status {
            raft_id: self.raft_id,
            server_id: self.server_id,
            leadership: self.leadership,
            committed: self.core.committed(),
            applied: self.replicated.applied.0,
            conf_state: self.core.conf_state().clone(),
            members: self.replicated.members.clone(),
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
        let own = self.replicated.members.get(&self.raft_id).cloned().unwrap_or_default();
        if !self.address.is_empty() && own.address != self.address && conf_state.voters.contains(&self.raft_id) {
            let record = MemberRecord { server_id: self.server_id, address: self.address.clone(), storage_id: self.storage_id };
            let _ = self.core.propose_change(&Change::AddVoter(self.raft_id, record));
        }
    }
}
