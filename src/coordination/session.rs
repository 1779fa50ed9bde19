//! Whose clients are alive: the liveness of sessions. Pure; time is given, in milliseconds of a monotonic clock.
//!
//! As ZooKeeper's `SessionTracker`: deadlines are rounded up to the next tick, and all sessions of a tick expire together. Pings are no
//! transactions: only the member that leads tracks liveness, for the clients of all members, and whoever begins to lead grants every session a full
//! time-out. The node drives it (`ensemble::node`).

use std::collections::{BTreeMap, BTreeSet};

/// The default of `tickTime` in milliseconds.
pub const TICK_MS: u64 = 3_000;

#[derive(Clone, Copy, Debug)]
struct Tracked {
    timeout_ms: u64,
    deadline_ms: u64,
}

/// The sessions of clients and when each expires.
#[derive(Debug)]
pub struct SessionTracker {
    tick_ms: u64,
    sessions: BTreeMap<i64, Tracked>,
    deadlines: BTreeMap<u64, BTreeSet<i64>>,
    /// Those that have expired or are being closed: their end is under way and nothing can keep them.
    closing: BTreeSet<i64>,
}

impl SessionTracker {
    /// None yet. `tick_ms` is the granularity of deadlines, at least 1.
    pub fn new(tick_ms: u64) -> Self {
        Self { tick_ms: tick_ms.max(1), sessions: BTreeMap::new(), deadlines: BTreeMap::new(), closing: BTreeSet::new() }
    }

    /// Tracks none any more.
    pub fn clear(&mut self) {
        *self = Self::new(self.tick_ms);
    }

    /// Changes the granularity, for deadlines that are set from now on.
    pub fn set_tick(&mut self, tick_ms: u64) {
        self.tick_ms = tick_ms.max(1);
    }

    /// Begins to track a session, or gives it another time-out, and counts it as alive now. Whether that is so: not if it is closing.
    pub fn track(&mut self, session: i64, timeout_ms: u64, now_ms: u64) -> bool {
        if self.closing.contains(&session) {
            return false;
        }
        let deadline_ms = self.deadline(now_ms, timeout_ms);
        let before = self.sessions.insert(session, Tracked { timeout_ms, deadline_ms });
        self.forget_deadline(session, before);
        self.deadlines.entry(deadline_ms).or_default().insert(session);
        true
    }

    /// A sign of life. Whether the session is there and not closing.
    pub fn touch(&mut self, session: i64, now_ms: u64) -> bool {
        let Some(tracked) = self.sessions.get(&session).copied() else { return false };
        let deadline_ms = self.deadline(now_ms, tracked.timeout_ms);
        if deadline_ms > tracked.deadline_ms {
            self.track(session, tracked.timeout_ms, now_ms);
        }
        true
    }

    /// Whether the session is there and not closing.
    pub fn is_alive(&self, session: i64) -> bool {
        self.sessions.contains_key(&session)
    }

    /// The session's end is under way, by its client's wish: nothing keeps it any more, and nothing expires it.
    pub fn close(&mut self, session: i64) {
        let before = self.sessions.remove(&session);
        self.forget_deadline(session, before);
        self.closing.insert(session);
    }

    /// The session has ended, or never began.
    pub fn ended(&mut self, session: i64) {
        let before = self.sessions.remove(&session);
        self.forget_deadline(session, before);
        self.closing.remove(&session);
    }

    /// When sessions may expire next; `None` if there are none.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.deadlines.keys().next().copied()
    }

    /// The sessions that have expired by now, in the order of their deadlines and ids. They are closing from now on.
    pub fn expire(&mut self, now_ms: u64) -> Vec<i64> {
        let later = self.deadlines.split_off(&now_ms.saturating_add(1));
        let expired: Vec<i64> = std::mem::replace(&mut self.deadlines, later).into_values().flatten().collect();
        for session in &expired {
            self.sessions.remove(session);
            self.closing.insert(*session);
        }
        expired
    }

    /// The sessions, with how long each has left, by deadline.
    pub fn deadlines(&self, now_ms: u64) -> Vec<(u64, Vec<i64>)> {
        self.deadlines.iter().map(|(deadline_ms, sessions)| (deadline_ms.saturating_sub(now_ms), sessions.iter().copied().collect())).collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    fn deadline(&self, now_ms: u64, timeout_ms: u64) -> u64 {
        ((now_ms.saturating_add(timeout_ms)) / self.tick_ms).saturating_add(1).saturating_mul(self.tick_ms)
    }

    fn forget_deadline(&mut self, session: i64, tracked: Option<Tracked>) {
        if let Some(tracked) = tracked
            && let Some(sessions) = self.deadlines.get_mut(&tracked.deadline_ms)
        {
            sessions.remove(&session);
            if sessions.is_empty() {
                self.deadlines.remove(&tracked.deadline_ms);
            }
        }
    }
}

/// The time-out that a client gets which asks for `asked_ms`: within the bounds. What is not positive counts as the least.
pub fn negotiate(asked_ms: i32, min_ms: i32, max_ms: i32) -> i32 {
    asked_ms.max(min_ms).min(max_ms.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_session_expires_after_its_time_out_and_at_most_a_tick_later() {
        let mut tracker = SessionTracker::new(2_000);
        assert!(tracker.track(1, 6_000, 1_000));
        assert_eq!(tracker.next_deadline_ms(), Some(8_000));
        assert_eq!(tracker.expire(7_999), [0; 0]);
        assert!(tracker.touch(1, 7_999));
        assert_eq!(tracker.expire(13_999), [0; 0]);
        assert_eq!(tracker.expire(14_000), [1]);
        assert!(!tracker.touch(1, 14_000) && !tracker.track(1, 6_000, 14_000), "nothing keeps it while its end is under way");
        tracker.ended(1);
        assert_eq!((tracker.next_deadline_ms(), tracker.count()), (None, 0));
    }

    #[test]
    fn one_that_is_being_closed_does_not_expire() {
        let mut tracker = SessionTracker::new(2_000);
        tracker.track(1, 4_000, 0);
        tracker.track(2, 4_000, 0);
        tracker.close(1);
        assert!(!tracker.is_alive(1) && tracker.is_alive(2));
        assert_eq!(tracker.expire(u64::MAX), [2]);
    }

    #[test]
    fn time_outs_are_within_their_bounds() {
        assert_eq!([-1, 0, 3_999, 5_000, i32::MAX].map(|asked| negotiate(asked, 4_000, 40_000)), [4_000, 4_000, 4_000, 5_000, 40_000]);
    }

    proptest! {
        #[test]
        fn no_session_expires_early_or_is_forgotten(steps in prop::collection::vec((0..4i64, 0..4u8, 0..5_000u64), 1..200)) {
            let mut tracker = SessionTracker::new(1_000);
            let mut alive: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
            let mut now = 0;
            for (session, what, elapsed) in steps {
                now += elapsed;
                let session = session + 1;
                let expired = tracker.expire(now);
                for session in &expired {
                    let (timeout, seen) = alive.remove(session).unwrap();
                    prop_assert!(now >= seen + timeout, "session {session} expired early");
                    tracker.ended(*session);
                }
                for (session, (timeout, seen)) in &alive {
                    prop_assert!(now <= seen + timeout + 1_000, "session {session} outlived its time-out");
                }
                match what {
                    0 => {
                        let timeout = 2_000 + elapsed;
                        prop_assert!(tracker.track(session, timeout, now));
                        alive.insert(session, (timeout, now));
                    }
                    1 => {
                        tracker.close(session);
                        tracker.ended(session);
                        alive.remove(&session);
                    }
                    _ => {
                        let touched = tracker.touch(session, now);
                        prop_assert_eq!(touched, alive.contains_key(&session));
                        if let Some((_, seen)) = alive.get_mut(&session) {
                            *seen = now;
                        }
                    }
                }
                prop_assert_eq!(tracker.count(), alive.len());
            }
        }
    }
}
