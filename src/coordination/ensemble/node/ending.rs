//! How a member ends: what it waits for, and what it does not wait for because it cannot come.

use super::super::consensus::Consensus;
use super::{Network, Node};
use crate::coordination::op::Request;
use crate::runtime::Runtime;

/// How many ticks a member that ends waits for another to take its leadership over.
const HAND_OVER_TICKS: u32 = 40;

/// After how many ticks without a leader, or without a word of it, one that ends counts on none any more: some heartbeats, and longer than it takes to follow
/// a leader whose process has ended.
const NO_LEADER_TICKS: u64 = 6;

impl<R: Runtime, C: Consensus> Node<R, C> {
    /// A tick has passed.
    pub(super) fn tick_ending(&mut self) {
        let has_word = self.leadership.is_leader || (self.leadership.leader != 0 && std::mem::take(&mut self.standing.has_heard));
        self.no_leader_ticks = if has_word { 0 } else { self.no_leader_ticks + 1 };
        if self.has_no_quorum() {
            // Whoever ends its session will not come again, and the session ends by its time-out: nothing is gained by waiting for another leader.
            drop(self.origin.give_up(|command| matches!(command.request, Request::EndSession { .. })));
        }
        if let Some(ticks) = &mut self.ending_ticks {
            *ticks += 1;
            self.hand_over();
        }
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

    /// Whether a member that was asked to end may: what was proposed before is answered, and another leads if there is one that can.
    pub(super) fn may_end(&self) -> bool {
        let settled = self.origin.waiting_count() == 0 && self.flush.is_none() && self.jobs.is_empty();
        let is_patient = self.ending_ticks.is_some_and(|ticks| ticks < HAND_OVER_TICKS);
        if self.is_alone() { settled } else { !is_patient || self.has_no_quorum() || (settled && !self.leadership.is_leader) }
    }

    /// Whether this member knows that nothing will be decided soon: too few voters can be reached, or nobody has led for a while. It may be wrong, and none of
    /// Raft's rules depends on it.
    fn has_no_quorum(&self) -> bool {
        if self.is_alone() {
            return false;
        }
        let voters = &self.core.conf_state().voters;
        let unreachable = self.network.as_ref().map(Network::unreachable).unwrap_or_default();
        let in_reach = voters.iter().filter(|id| !unreachable.contains_key(id)).count();
        in_reach < voters.len() / 2 + 1 || self.no_leader_ticks >= NO_LEADER_TICKS
    }
}
