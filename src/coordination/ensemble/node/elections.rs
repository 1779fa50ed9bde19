//! When a member stands for election before its time-out.
//!
//! A time-out has to be long enough for a slow network and a busy disk. Two cases need not wait for it: a member that has just started knows no leader yet,
//! and a leader whose process is gone refuses connections. In both the members stand one after the other, so that they do not divide the votes. It is only
//! sooner: whether a member may lead is for consensus to say, and one that others still hear a leader of is not listened to (pre-vote).

use super::super::consensus::Consensus;
use super::Node;
#[cfg(feature = "plants")]
use crate::plant;
use crate::runtime::Runtime;

/// How many ticks pass between a member's turn to stand and the next one's.
const TURN_TICKS: u64 = 2;

/// How many ticks a member that has started waits before the first turn, for a leader that may be there.
const START_TICKS: u64 = 2;

/// How many ticks the first turn comes after a leader is known to be gone: the others have to notice it, too.
const GONE_TICKS: u64 = 1;

/// A member's turn to stand. Pure.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Turn {
    at_tick: Option<u64>,
}

impl Turn {
    /// The member `own` has started, at that tick.
    fn after_start(&mut self, own: u64, voters: &[u64], tick: u64) {
        self.take(own, voters, 0, tick + START_TICKS);
    }

    /// The leader `gone` has ended.
    fn after_the_end_of(&mut self, gone: u64, own: u64, voters: &[u64], tick: u64) {
        self.take(own, voters, gone, tick + GONE_TICKS);
    }

    /// Those with a vote take their turns in the order of their ids; whoever is gone takes none.
    fn take(&mut self, own: u64, voters: &[u64], gone: u64, first_tick: u64) {
        if voters.contains(&own) {
            let before = voters.iter().filter(|id| **id < own && **id != gone).count() as u64;
            self.at_tick = Some(first_tick + before * TURN_TICKS);
        }
    }

    /// Whether it has come; it comes once.
    fn has_come(&mut self, tick: u64) -> bool {
        self.at_tick.take_if(|at| *at <= tick).is_some()
    }
}

impl<R: Runtime, C: Consensus> Node<R, C> {
    /// This member has started.
    pub(super) fn stand_soon(&mut self) {
        self.turn.after_start(self.raft_id, &self.core.conf_state().voters, self.tick_count);
    }

    /// The process of `member` refuses connections: it has ended.
    pub(super) fn is_gone(&mut self, member: u64) {
        if self.leadership.leader == member && !self.leadership.is_leader {
            self.core.lose_leader();
            self.turn.after_the_end_of(member, self.raft_id, &self.core.conf_state().voters, self.tick_count);
        }
    }

    /// Stands for election if it is this member's turn and there is still no leader.
    pub(super) fn stand_if_due(&mut self) {
        if !self.turn.has_come(self.tick_count) {
            return;
        }
        #[cfg(feature = "plants")]
        if plant!(&self.rt, "early-election-without-end") {
            self.turn.at_tick = Some(self.tick_count + 60);
            self.core.campaign_without_asking();
            return;
        }
        if self.leadership.leader == 0 && !self.is_removed && self.ending_ticks.is_none() {
            #[cfg(feature = "plants")]
            if plant!(&self.rt, "early-election-without-pre-vote") {
                self.core.campaign_without_asking();
                return;
            }
            self.core.campaign();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(gone: u64, voters: &[u64], all: std::ops::RangeInclusive<u64>) -> Vec<Option<u64>> {
        let one = |own| {
            let mut turn = Turn::default();
            if gone == 0 {
                turn.after_start(own, voters, 100)
            } else {
                turn.after_the_end_of(gone, own, voters, 100)
            };
            turn.at_tick
        };
        all.map(one).collect()
    }

    #[test]
    fn members_stand_one_after_the_other_and_without_a_vote_never() {
        let at = |ticks: u64| Some(100 + ticks);
        assert_eq!(turns(0, &[1, 2, 4], 1..=4), [at(START_TICKS), at(START_TICKS + TURN_TICKS), None, at(START_TICKS + 2 * TURN_TICKS)]);
        // The one that is gone keeps nobody waiting.
        assert_eq!(turns(1, &[1, 2, 3], 2..=3), [at(GONE_TICKS), at(GONE_TICKS + TURN_TICKS)]);
        assert_eq!(turns(2, &[1, 2, 3], 1..=3), [at(GONE_TICKS), at(GONE_TICKS + TURN_TICKS), at(GONE_TICKS + TURN_TICKS)]);
    }

    #[test]
    fn a_turn_comes_once_and_a_newer_one_takes_its_place() {
        let mut turn = Turn::default();
        assert!(!turn.has_come(0), "there is none");
        turn.after_start(1, &[1, 2, 3], 0);
        assert!(!turn.has_come(START_TICKS - 1));
        assert!(turn.has_come(START_TICKS) && !turn.has_come(START_TICKS + 1));
        turn.after_start(3, &[1, 2, 3], 10);
        turn.after_the_end_of(1, 3, &[1, 2, 3], 11);
        assert_eq!(turn.at_tick, Some(11 + GONE_TICKS + TURN_TICKS));
        // One that has lost its vote meanwhile: what is due stays, and consensus knows better.
        turn.after_start(3, &[1, 2], 12);
        assert!(turn.has_come(11 + GONE_TICKS + TURN_TICKS));
    }
}
