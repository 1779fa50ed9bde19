//! What is wrong with replicas of this broker, as their logs show it, and what the controller is to be told of it. Pure, but for the lock around it.
//!
//! - A log that is offline stays so until the broker is started again: it is told at once.
//! - A replica that finds no room is told once that has lasted [`HAND_OVER`]: another in-sync replica is to lead, and nobody waits for this one. That is over with the
//!   first append that succeeds, as follower now; or, where nothing comes to be appended, when there is room again ([`ROOM_BYTES`]).
//! - What a log directory held that was exchanged is lost: the replica begins anew once it is in sync nowhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use crate::controller::troubles::{BrokerTroubles, Trouble};
use crate::runtime::Instant;
use crate::topic_partition::TopicPartition;

/// How long a leader answers KAFKA_STORAGE_ERROR before it hands over: retention or an operator may make room meanwhile.
pub const HAND_OVER: Duration = Duration::from_secs(1);

/// How long a replica that has handed over stays so at least without a successful append: what is free may not be free for it (quotas).
const STAY: Duration = Duration::from_secs(10);

/// So much must be free, in bytes, for a replica to take part again that has appended nothing since.
pub const ROOM_BYTES: u64 = 64 << 20;

/// What is wrong. Clones are the same book.
#[derive(Clone, Debug, Default)]
pub struct TroubleBook(Arc<(Mutex<Noted>, Notify)>);

#[derive(Debug, Default)]
struct Noted {
    /// Since when there is no room, and since when the controller is told.
    full: BTreeMap<TopicPartition, (Instant, Option<Instant>)>,
    offline: BTreeSet<TopicPartition>,
    lost: BTreeSet<TopicPartition>,
    missing: Vec<Uuid>,
}

impl TroubleBook {
    fn noted(&self) -> MutexGuard<'_, Noted> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something was noted.
    pub async fn changed(&self) {
        self.0.1.notified().await;
    }

    /// What was found at the start.
    pub fn begin(&self, found: &BrokerTroubles) {
        let mut noted = self.noted();
        noted.missing.clone_from(&found.missing);
        for ((topic, number), trouble) in &found.replicas {
            let id = TopicPartition::new(Arc::clone(topic), *number);
            match trouble {
                Trouble::Offline => drop(noted.offline.insert(id)),
                Trouble::Lost => drop(noted.lost.insert(id)),
                Trouble::Full => {}
            }
        }
    }

    /// Nothing could be appended for want of room.
    pub fn found_no_room(&self, id: &TopicPartition, now: Instant) {
        let mut noted = self.noted();
        if !noted.full.contains_key(id) {
            noted.full.insert(id.clone(), (now, None));
            self.0.1.notify_one();
        }
    }

    /// Something was appended.
    pub fn found_room(&self, id: &TopicPartition) {
        if self.noted().full.remove(id).is_some() {
            self.0.1.notify_one();
        }
    }

    /// Its log is out of service.
    pub fn went_offline(&self, id: &TopicPartition) {
        if self.noted().offline.insert(id.clone()) {
            self.0.1.notify_one();
        }
    }

    /// Whether no log may be opened or made for it, and why.
    pub fn forbids(&self, id: &TopicPartition) -> Option<&'static str> {
        let noted = self.noted();
        if noted.offline.contains(id) {
            Some("the log directory that holds it does not work; check the disk, then restart the broker")
        } else if noted.lost.contains(id) {
            Some("the log directory that held it was exchanged; it is copied anew once it counts as in sync nowhere")
        } else {
            None
        }
    }

    /// Whether what it had is lost, and nobody has heard so yet.
    pub fn is_lost(&self, id: &TopicPartition) -> bool {
        self.noted().lost.contains(id)
    }

    /// The controller has heard that it is lost: it may begin anew.
    pub fn begins_anew(&self, id: &TopicPartition) {
        if self.noted().lost.remove(id) {
            self.0.1.notify_one();
        }
    }

    /// Forgets replicas that this broker is assigned no more.
    pub fn retain(&self, is_assigned: impl Fn(&TopicPartition) -> bool) {
        let mut noted = self.noted();
        let before = noted.full.len() + noted.offline.len() + noted.lost.len();
        noted.full.retain(|id, _| is_assigned(id));
        noted.offline.retain(&is_assigned);
        noted.lost.retain(&is_assigned);
        if noted.full.len() + noted.offline.len() + noted.lost.len() != before {
            self.0.1.notify_one();
        }
    }

    /// Replicas that have handed over for want of room, long enough ago to look whether there is room.
    pub fn to_probe(&self, now: Instant) -> Vec<TopicPartition> {
        let is_due = |since: &Option<Instant>| since.is_some_and(|since| now >= since + STAY);
        self.noted().full.iter().filter(|(_, (_, told))| is_due(told)).map(|(id, _)| id.clone()).collect()
    }

    /// What the controller is to be told now, and how long that holds if nothing else happens.
    pub fn told(&self, now: Instant) -> (BrokerTroubles, Option<Duration>) {
        let mut noted = self.noted();
        let mut replicas = BTreeMap::new();
        let mut holds: Option<Duration> = None;
        let mut soonest = |at: Instant| holds = Some(holds.map_or(at - now, |holds| holds.min(at - now)).max(Duration::from_millis(1)));
        for (id, (since, told)) in &mut noted.full {
            if told.is_none() && now >= *since + HAND_OVER {
                *told = Some(now);
            }
            match *told {
                Some(told) => {
                    soonest((told + STAY).max(now + HAND_OVER));
                    replicas.insert((Arc::clone(&id.topic), id.partition), Trouble::Full);
                }
                None => soonest(*since + HAND_OVER),
            }
        }
        for (ids, trouble) in [(&noted.lost, Trouble::Lost), (&noted.offline, Trouble::Offline)] {
            replicas.extend(ids.iter().map(|id| ((Arc::clone(&id.topic), id.partition), trouble)));
        }
        let is_missed = replicas.values().any(|trouble| *trouble != Trouble::Full);
        (BrokerTroubles { missing: if is_missed { noted.missing.clone() } else { Vec::new() }, replicas }, holds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_room_is_told_when_it_lasts_and_forgotten_when_there_is_room() {
        let book = TroubleBook::default();
        let (id, start) = (TopicPartition::new("t", 1), Instant::from_nanos(0));
        let ms = Duration::from_millis;
        let kinds = |now| book.told(now).0.replicas.into_values().collect::<Vec<_>>();
        assert_eq!(book.told(start), (BrokerTroubles::default(), None));
        book.found_no_room(&id, start);
        book.found_no_room(&id, start + ms(700));
        assert_eq!(book.told(start + ms(900)), (BrokerTroubles::default(), Some(ms(100))), "retention may make room");
        assert_eq!(kinds(start + ms(1_000)), [Trouble::Full]);
        assert_eq!(book.to_probe(start + ms(10_900)), []);
        assert_eq!(book.to_probe(start + ms(11_000)), std::slice::from_ref(&id));
        book.found_room(&id);
        assert_eq!(book.told(start + ms(11_000)), (BrokerTroubles::default(), None));
        book.found_no_room(&id, start + ms(11_000));
        assert_eq!(kinds(start + ms(11_500)), [], "another second");
        book.went_offline(&id);
        assert_eq!(kinds(start + ms(11_500)), [Trouble::Offline]);
        assert!(book.forbids(&id).is_some());
        book.retain(|_| false);
        assert_eq!(book.told(start + ms(13_000)), (BrokerTroubles::default(), None));
    }

    #[test]
    fn what_is_lost_begins_anew_once_that_is_heard() {
        let book = TroubleBook::default();
        let id = TopicPartition::new("t", 0);
        let found = BrokerTroubles { missing: vec![Uuid::from_u128(9)], replicas: [((Arc::from("t"), 0), Trouble::Lost)].into() };
        book.begin(&found);
        assert_eq!(book.told(Instant::from_nanos(5)), (found, None));
        assert!(book.is_lost(&id) && book.forbids(&id).is_some());
        book.begins_anew(&id);
        assert_eq!(book.told(Instant::from_nanos(5)).0, BrokerTroubles::default());
        assert_eq!(book.forbids(&id), None);
    }
}
