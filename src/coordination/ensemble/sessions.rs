//! Who watches over the liveness of sessions: the leader, by the signs of life that members relay to it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::runtime::Instant;

/// Watches over sessions on the leader. Signs of life are no log entries; the end of a session is.
pub trait SessionWatch: Send + 'static {
    /// This member leads from now on; these are the sessions with their time-outs in milliseconds. Each is granted a full one.
    fn lead(&mut self, sessions: &[(i64, i32)], now: Instant);
    /// It leads no more.
    fn follow(&mut self);
    /// A session began.
    fn created(&mut self, session: i64, timeout_ms: i32, now: Instant);
    /// A session ended.
    fn closed(&mut self, session: i64);
    /// A sign of life.
    fn touched(&mut self, session: i64, now: Instant);
    /// The sessions whose time is over, each told once per time-out: they are closed by consensus.
    fn expired(&mut self, now: Instant) -> Vec<i64>;
}

/// For sessions whose clients live in this process: they end with it.
#[derive(Clone, Copy, Debug, Default)]
pub struct NeverExpire;

impl SessionWatch for NeverExpire {
    fn lead(&mut self, _: &[(i64, i32)], _: Instant) {}
    fn follow(&mut self) {}
    fn created(&mut self, _: i64, _: i32, _: Instant) {}
    fn closed(&mut self, _: i64) {}
    fn touched(&mut self, _: i64, _: Instant) {}
    fn expired(&mut self, _: Instant) -> Vec<i64> {
        Vec::new()
    }
}

/// A deadline per session, moved by each sign of life.
#[derive(Clone, Debug, Default)]
pub struct Deadlines {
    sessions: BTreeMap<i64, (Duration, Instant)>,
    by_deadline: BTreeSet<(Instant, i64)>,
}

impl Deadlines {
    fn set(&mut self, session: i64, timeout: Duration, now: Instant) {
        let deadline = now + timeout;
        if let Some((_, before)) = self.sessions.insert(session, (timeout, deadline)) {
            self.by_deadline.remove(&(before, session));
        }
        self.by_deadline.insert((deadline, session));
    }
}

impl SessionWatch for Deadlines {
    fn lead(&mut self, sessions: &[(i64, i32)], now: Instant) {
        self.follow();
        for (session, timeout_ms) in sessions {
            self.created(*session, *timeout_ms, now);
        }
    }

    fn follow(&mut self) {
        *self = Self::default();
    }

    fn created(&mut self, session: i64, timeout_ms: i32, now: Instant) {
        self.set(session, Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)), now);
    }

    fn closed(&mut self, session: i64) {
        if let Some((_, deadline)) = self.sessions.remove(&session) {
            self.by_deadline.remove(&(deadline, session));
        }
    }

    fn touched(&mut self, session: i64, now: Instant) {
        if let Some((timeout, _)) = self.sessions.get(&session).copied() {
            self.set(session, timeout, now);
        }
    }

    fn expired(&mut self, now: Instant) -> Vec<i64> {
        let mut expired = Vec::new();
        while let Some((deadline, session)) = self.by_deadline.first().copied().filter(|(deadline, _)| *deadline <= now) {
            self.by_deadline.remove(&(deadline, session));
            // Told again after another time-out, in case its end never came to be.
            let (timeout, _) = self.sessions[&session];
            self.set(session, timeout.max(Duration::from_millis(1)), now);
            expired.push(session);
        }
        expired
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_session_lives_while_it_is_heard_of_and_a_new_leader_grants_a_full_time_out() {
        let mut watch = Deadlines::default();
        watch.created(7, 100, at(0));
        watch.touched(7, at(90));
        assert!(watch.expired(at(189)).is_empty());
        assert_eq!(watch.expired(at(190)), [7]);
        assert!(watch.expired(at(191)).is_empty());
        assert_eq!(watch.expired(at(290)), [7]);
        watch.closed(7);
        assert!(watch.expired(at(10_000)).is_empty());
        watch.lead(&[(8, 50)], at(1_000));
        assert!(watch.expired(at(1_049)).is_empty());
        watch.follow();
        assert!(watch.expired(at(2_000)).is_empty());
    }
}
