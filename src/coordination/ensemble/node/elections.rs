//! When a member stands for election before its time-out.
//!
//! A time-out has to be long enough for a slow network and a busy disk. Two cases need not wait for it: a member that has just started knows no leader yet,
//! and a leader whose process is gone refuses connections. In both the members stand one after the other, so that they do not divide the votes. It is only
//! sooner: whether a member may lead is for consensus to say, and one that others still hear a leader of is not listened to (pre-vote).

use super::super::consensus::Consensus;
use super::Node;
use crate::runtime::Runtime;

/// How many ticks pass between a member's turn to stand and the next one's.
const TURN_TICKS: u64 = 2;

/// How many ticks a member that has started waits before the first turn, for a leader that may be there.
const START_TICKS: u64 = 2;

/// How many ticks the first turn comes after a leader is known to be gone: the others have to notice it, too.
const GONE_TICKS: u64 = 1;

impl<R: Runtime, C: Consensus> Node<R, C> {
    /// This member has started.
    pub(super) fn stand_soon(&mut self) {
        self.stand_after(START_TICKS, 0);
    }

    /// The process of `member` refuses connections: it has ended.
    pub(super) fn is_gone(&mut self, member: u64) {
        if self.leadership.leader == member && !self.leadership.is_leader {
            self.core.lose_leader();
            self.stand_after(GONE_TICKS, member);
        }
    }

    fn stand_after(&mut self, ticks: u64, gone: u64) {
        let voters = &self.core.conf_state().voters;
        if voters.contains(&self.raft_id) {
            let turn = voters.iter().filter(|id| **id < self.raft_id && **id != gone).count() as u64;
            self.stands_at_tick = Some(self.tick_count + ticks + turn * TURN_TICKS);
        }
    }

    /// Stands for election if it is this member's turn and there is still no leader.
    pub(super) fn stand_if_due(&mut self) {
        if self.stands_at_tick.is_none_or(|at| self.tick_count < at) {
            return;
        }
        self.stands_at_tick = None;
        if self.leadership.leader == 0 && !self.is_removed && self.ending_ticks.is_none() {
            self.core.campaign();
        }
    }
}
