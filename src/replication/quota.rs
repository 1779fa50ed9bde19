//! Throttles of replication (KIP-73): what a broker may send to, and fetch for, replicas that are not in sync yet, so that a reassignment leaves room for clients. The
//! measure is pure; around it is a lock.
//!
//! As in Kafka: the rate is what went through within the last [`WINDOW_COUNT`] windows of [`WINDOW`] each, over the time that they span, which is taken for all but one of
//! them at least: a burst is allowed at first. Once it is above the bound, throttled replicas wait until it has sunk. Replicas in sync are never kept waiting, but
//! what they take counts.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::runtime::Instant;

/// `replication.quota.window.num`.
pub const WINDOW_COUNT: u32 = 11;
/// `replication.quota.window.size.seconds`.
pub const WINDOW: Duration = Duration::from_secs(1);

/// The dynamic setting of a broker that bounds what it sends as leader, in bytes per second.
pub const LEADER_RATE: &str = "leader.replication.throttled.rate";
/// The one that bounds what it fetches as follower, in bytes per second.
pub const FOLLOWER_RATE: &str = "follower.replication.throttled.rate";
/// The one that bounds what it copies between its own log directories. Accepted, since Kafka's tools set all three; nothing is copied so here.
pub const LOG_DIRS_RATE: &str = "replica.alter.log.dirs.io.max.bytes.per.second";

/// The bytes of the last windows.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    /// When each window began, and what went through in it; oldest first.
    windows: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// These bytes went through.
    pub fn record(&mut self, bytes: u64, now: Instant) {
        self.expire(now);
        match self.windows.back_mut() {
            Some((began, sum)) if now < *began + WINDOW => *sum += bytes,
            _ => self.windows.push_back((now, bytes)),
        }
    }

    fn expire(&mut self, now: Instant) {
        while self.windows.front().is_some_and(|(began, _)| now.saturating_duration_since(*began) >= WINDOW * WINDOW_COUNT) {
            self.windows.pop_front();
        }
    }

    /// Bytes per second.
    pub fn per_second(&mut self, now: Instant) -> f64 {
        self.expire(now);
        let Some((oldest, _)) = self.windows.front() else { return 0.0 };
        let spanned = now.saturating_duration_since(*oldest).max(WINDOW * (WINDOW_COUNT - 1));
        self.windows.iter().map(|(_, bytes)| *bytes).sum::<u64>() as f64 / spanned.as_secs_f64()
    }
}

/// One bound, and what is held against it.
#[derive(Clone, Debug, Default)]
pub struct Quota(Arc<Mutex<(Option<u64>, Rate)>>);

impl Quota {
    fn with<T>(&self, what: impl FnOnce(&mut (Option<u64>, Rate)) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts another bound in force, in bytes per second; `None` for none.
    pub fn set(&self, bytes_per_second: Option<u64>) {
        self.with(|(bound, _)| *bound = bytes_per_second);
    }

    /// Bytes of throttled replicas went through.
    pub fn record(&self, bytes: u64, now: Instant) {
        if bytes > 0 {
            self.with(|(_, rate)| rate.record(bytes, now));
        }
    }

    /// Whether more than allowed went through.
    pub fn is_exceeded(&self, now: Instant) -> bool {
        self.with(|(bound, rate)| bound.is_some_and(|bound| rate.per_second(now) > bound as f64))
    }
}

/// The bounds of a broker. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub struct Quotas {
    /// What is sent to followers.
    pub leader: Quota,
    /// What is fetched from leaders.
    pub follower: Quota,
}

impl Quotas {
    /// Puts a broker's dynamic settings in force: its own first, then those of all brokers.
    pub fn set(&self, own: Option<&BTreeMap<String, String>>, all: Option<&BTreeMap<String, String>>) {
        let found = |key: &str| [own, all].into_iter().flatten().find_map(|settings| settings.get(key)?.trim().parse().ok());
        self.leader.set(found(LEADER_RATE));
        self.follower.set(found(FOLLOWER_RATE));
    }
}

/// Whether a topic's list (`leader.replication.throttled.replicas`, `follower.…`) names the replica of this partition on this broker.
pub fn is_listed(list: &[String], partition: i32, broker: i32) -> bool {
    list.iter().any(|entry| entry == "*" || entry.split_once(':').is_some_and(|(p, b)| p.parse() == Ok(partition) && b.parse() == Ok(broker)))
}

/// Whether a value of such a list can be understood: `*`, or `partition:broker` pairs.
pub fn is_list(value: &str) -> bool {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let is_pair = |entry: &str| entry.is_empty() || entry.split_once(':').is_some_and(|(partition, broker)| is_number(partition) && is_number(broker));
    value.trim() == "*" || value.split(',').all(|entry| is_pair(entry.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn what_is_above_the_bound_waits_until_the_rate_has_sunk() {
        let quota = Quota::default();
        quota.record(1 << 40, at(0));
        assert!(!quota.is_exceeded(at(0)), "without a bound nothing waits");
        let quota = Quota::default();
        quota.set(Some(1_000));
        quota.record(10_000, at(0));
        assert!(!quota.is_exceeded(at(0)), "ten seconds' worth at once");
        quota.record(1, at(500));
        assert!(quota.is_exceeded(at(500)));
        assert!(quota.is_exceeded(at(9_900)));
        assert!(!quota.is_exceeded(at(10_100)), "10,001 bytes in 10.1 seconds");
        assert!(!quota.is_exceeded(at(60_000)));
        quota.set(None);
        quota.record(1 << 40, at(60_000));
        assert!(!quota.is_exceeded(at(60_000)));
    }

    #[test]
    fn at_the_bound_as_much_goes_through_as_the_bound_says() {
        let quota = Quota::default();
        quota.set(Some(100_000));
        let mut sent = 0;
        for ms in 0..60_000 {
            if !quota.is_exceeded(at(ms)) {
                quota.record(5_000, at(ms));
                sent += 5_000;
            }
        }
        assert!((6_000_000..7_200_000).contains(&sent), "{sent} bytes in a minute");
    }

    #[test]
    fn lists_name_replicas() {
        let list = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert!(is_listed(&list("*"), 5, 6) && is_listed(&list("0:1,5:6"), 5, 6));
        assert!(!is_listed(&list("0:1,6:5"), 5, 6) && !is_listed(&[], 5, 6));
        for (value, is_good) in [("*", true), ("", true), ("0:1", true), ("0:1, 2:3", true), ("0", false), ("a:1", false), ("*,0:1", false), ("-1:2", false)] {
            assert_eq!(is_list(value), is_good, "{value}");
        }
    }
}
