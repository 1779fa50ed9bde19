//! Fetch sessions (KIP-227): a client names its partitions once, then only what changes; the broker answers only what changed.
//!
//! Pure: no I/O, no clock of its own. The session holds what the client wants of each partition and what it was last told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use indexmap::IndexMap;
use uuid::Uuid;

use crate::runtime::Instant;

/// The epoch of a request that ends its session and wants everything.
pub const FINAL_EPOCH: i32 = -1;
/// The epoch of a request that begins a session and wants everything.
pub const INITIAL_EPOCH: i32 = 0;
/// The id that means 'no session'.
pub const NO_SESSION: i32 = 0;

/// How long a session must be idle to make room for another (KIP-227's `min.incremental.fetch.session.eviction.ms`, which is no longer
/// configurable).
pub const STALE_AFTER: Duration = Duration::from_secs(120);

/// How a request names a topic: by name up to version 12, by id from 13 (KIP-516).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TopicKey {
    /// Up to version 12.
    Name(Arc<str>),
    /// From version 13.
    Id(Uuid),
}

/// A partition of a session.
pub type PartitionKey = (TopicKey, i32);

/// What a client wants of a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where to read from.
    pub fetch_offset: i64,
    /// At most so many bytes.
    pub max_bytes: i32,
    /// The leader epoch that the client knows, or −1.
    pub current_leader_epoch: i32,
    /// The epoch of the last record that the client has, or −1 (KIP-595).
    pub last_fetched_epoch: i32,
    /// A follower's log start offset; −1 from consumers.
    pub log_start_offset: i64,
}

impl Wanted {
    /// What a request says of a partition.
    pub fn of(asked: &crate::wire::fetch::FetchPartition) -> Self {
        Self {
            fetch_offset: asked.fetch_offset,
            max_bytes: asked.partition_max_bytes,
            current_leader_epoch: asked.current_leader_epoch,
            last_fetched_epoch: asked.last_fetched_epoch,
            log_start_offset: asked.log_start_offset,
        }
    }
}

/// What a client was last told of a partition; only differences are told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// The high watermark.
    pub high_watermark: i64,
    /// The log's start.
    pub log_start_offset: i64,
    /// The error code, 0 if none.
    pub error_code: i16,
}

/// What is told of a partition never mentioned before.
const NOTHING_TOLD: Told = Told { high_watermark: -1, log_start_offset: -1, error_code: 0 };

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    told: Told,
}

#[derive(Debug)]
struct Session {
    /// The epoch that the next request must carry.
    next_epoch: i32,
    /// Whether its topics are named by id. A client that changes between versions 12 and 13 must begin anew.
    uses_ids: bool,
    /// In the order they are served: a partition that gave data moves to the end, so that none starves under a small `max_bytes`.
    partitions: IndexMap<PartitionKey, Entry>,
    /// When it was last used, and the how manieth use of any session that was.
    used_at: Instant,
    used: u64,
}

/// Why an incremental request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionError {
    /// `FETCH_SESSION_ID_NOT_FOUND`: evicted, ended, or never there.
    NotFound,
    /// `INVALID_FETCH_SESSION_EPOCH`: not the next one.
    InvalidEpoch,
    /// `FETCH_SESSION_TOPIC_ID_ERROR`: begun with names and continued with ids, or the other way.
    TopicIds,
}

/// A request, as the session sees it.
#[derive(Debug)]
pub struct SessionRequest {
    /// `NO_SESSION` or the client's session.
    pub id: i32,
    /// Its epoch.
    pub epoch: i32,
    /// Whether the request's version names topics by id.
    pub uses_ids: bool,
    /// Partitions named by the request, in its order.
    pub named: Vec<(PartitionKey, Wanted)>,
    /// Partitions that the client no longer wants.
    pub forgotten: Vec<PartitionKey>,
}

/// What to fetch for a request, and how to answer it.
#[derive(Debug)]
pub struct FetchContext {
    /// The session that the answer names; `NO_SESSION` if none.
    pub session_id: i32,
    /// Whether only changed partitions are answered.
    pub incremental: bool,
    /// What to fetch, in order.
    pub partitions: Vec<(PartitionKey, Wanted)>,
}

/// All sessions of a broker.
#[derive(Debug)]
pub struct FetchSessions {
    /// `max.incremental.fetch.session.cache.slots`.
    slots: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    sessions: BTreeMap<i32, Session>,
    uses: u64,
}

impl FetchSessions {
    /// At most `slots` sessions; 0 switches them off.
    pub fn new(slots: usize) -> Self {
        Self { slots, inner: Mutex::default() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().sessions.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a request. `fresh_id` is a random positive number for a session that this may begin; if there is no room for one, the client
    /// goes on without.
    ///
    /// # Errors
    /// For an incremental request that does not continue its session.
    pub fn begin(&self, request: SessionRequest, fresh_id: i32, now: Instant) -> Result<FetchContext, SessionError> {
        let mut inner = self.lock();
        inner.uses += 1;
        let used = inner.uses;
        if request.epoch == FINAL_EPOCH || request.epoch == INITIAL_EPOCH {
            if request.id != NO_SESSION {
                inner.sessions.remove(&request.id);
            }
            let mut session_id = NO_SESSION;
            let is_usable = fresh_id > 0 && !inner.sessions.contains_key(&fresh_id);
            if request.epoch == INITIAL_EPOCH && !request.named.is_empty() && is_usable && self.has_room(&mut inner, now) {
                session_id = fresh_id;
                let partitions = request.named.iter().map(|(key, wanted)| (key.clone(), Entry { wanted: wanted.clone(), told: NOTHING_TOLD })).collect();
                inner.sessions.insert(fresh_id, Session { next_epoch: 1, uses_ids: request.uses_ids, partitions, used_at: now, used });
            }
            return Ok(FetchContext { session_id, incremental: false, partitions: request.named });
        }
        let session = inner.sessions.get_mut(&request.id).ok_or(SessionError::NotFound)?;
        if session.next_epoch != request.epoch {
            return Err(SessionError::InvalidEpoch);
        }
        if session.uses_ids != request.uses_ids {
            return Err(SessionError::TopicIds);
        }
        session.used_at = now;
        session.used = used;
        session.next_epoch = next_epoch(session.next_epoch);
        for (key, wanted) in request.named {
            session.partitions.entry(key).and_modify(|entry| entry.wanted = wanted.clone()).or_insert(Entry { wanted, told: NOTHING_TOLD });
        }
        for key in &request.forgotten {
            session.partitions.shift_remove(key);
        }
        if session.partitions.is_empty() {
            // Nothing is left of it; the client begins a new one when it wants something again.
            inner.sessions.remove(&request.id);
            return Ok(FetchContext { session_id: NO_SESSION, incremental: false, partitions: Vec::new() });
        }
        let partitions = session.partitions.iter().map(|(key, entry)| (key.clone(), entry.wanted.clone())).collect();
        Ok(FetchContext { session_id: request.id, incremental: true, partitions })
    }

    /// Whether one more session fits, if need be in the place of one that nobody uses. Sessions in use are not evicted: each of their clients
    /// would at once evict another's.
    fn has_room(&self, inner: &mut Inner, now: Instant) -> bool {
        if inner.sessions.len() < self.slots {
            return true;
        }
        let oldest = inner.sessions.iter().min_by_key(|(_, session)| session.used).map(|(id, session)| (*id, session.used_at));
        match oldest {
            Some((id, used_at)) if self.slots > 0 && now - used_at > STALE_AFTER => inner.sessions.remove(&id).is_some(),
            _ => false,
        }
    }

    /// Notes what an answer tells of `key`, and says whether it belongs in the answer: always in a full one, in an incremental one
    /// only with records, an error or news.
    pub fn tell(&self, context: &FetchContext, key: &PartitionKey, told: Told, has_records: bool) -> bool {
        if context.session_id == NO_SESSION {
            return true;
        }
        let mut inner = self.lock();
        let Some(session) = inner.sessions.get_mut(&context.session_id) else {
            return true;
        };
        let Some(entry) = session.partitions.get_mut(key) else {
            return true;
        };
        let news = has_records || told.error_code != 0 || entry.told != told;
        entry.told = told;
        if has_records && let Some(index) = session.partitions.get_index_of(key) {
            let last = session.partitions.len() - 1;
            session.partitions.move_index(index, last);
        }
        news || !context.incremental
    }
}

/// Epochs count from 1 and wrap from `i32::MAX` to 1.
pub fn next_epoch(epoch: i32) -> i32 {
    if epoch == i32::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant::from_nanos(0);

    fn key(partition: i32) -> PartitionKey {
        (TopicKey::Name("t".into()), partition)
    }

    fn wanted(fetch_offset: i64) -> Wanted {
        Wanted { fetch_offset, max_bytes: 1000, current_leader_epoch: -1, last_fetched_epoch: -1, log_start_offset: -1 }
    }

    fn request(id: i32, epoch: i32, named: &[(i32, i64)]) -> SessionRequest {
        let named = named.iter().map(|(partition, offset)| (key(*partition), wanted(*offset))).collect();
        SessionRequest { id, epoch, uses_ids: false, named, forgotten: Vec::new() }
    }

    #[test]
    fn a_session_remembers_partitions_and_tells_only_news() {
        let sessions = FetchSessions::new(10);
        let full = sessions.begin(request(0, 0, &[(0, 5), (1, 6)]), 77, START).unwrap();
        assert_eq!((full.session_id, full.incremental, full.partitions.len()), (77, false, 2));
        let told = Told { high_watermark: 9, log_start_offset: 0, error_code: 0 };
        assert!(sessions.tell(&full, &key(0), told, false));
        assert!(sessions.tell(&full, &key(1), told, false));
        let next = sessions.begin(request(77, 1, &[(0, 8)]), 78, START).unwrap();
        assert!(next.incremental);
        assert_eq!(next.partitions, vec![(key(0), wanted(8)), (key(1), wanted(6))]);
        assert!(!sessions.tell(&next, &key(0), told, false), "nothing new");
        assert!(sessions.tell(&next, &key(1), Told { high_watermark: 10, ..told }, false), "the high watermark moved");
        assert!(sessions.tell(&next, &key(0), told, true), "records");
    }

    #[test]
    fn a_partition_that_gave_records_is_served_last_next_time() {
        let sessions = FetchSessions::new(10);
        let full = sessions.begin(request(0, 0, &[(0, 0), (1, 0), (2, 0)]), 5, START).unwrap();
        assert!(sessions.tell(&full, &key(0), NOTHING_TOLD, true));
        let next = sessions.begin(request(5, 1, &[]), 6, START).unwrap();
        let order: Vec<i32> = next.partitions.iter().map(|((_, partition), _)| *partition).collect();
        assert_eq!(order, vec![1, 2, 0]);
    }

    #[test]
    fn what_does_not_continue_a_session_is_refused() {
        let sessions = FetchSessions::new(1);
        assert_eq!(sessions.begin(request(3, 1, &[]), 9, START).unwrap_err(), SessionError::NotFound);
        sessions.begin(request(0, 0, &[(0, 0)]), 4, START).unwrap();
        assert_eq!(sessions.begin(request(4, 2, &[]), 9, START).unwrap_err(), SessionError::InvalidEpoch);
        let ids = SessionRequest { uses_ids: true, ..request(4, 1, &[]) };
        assert_eq!(sessions.begin(ids, 9, START).unwrap_err(), SessionError::TopicIds);
        let refused = sessions.begin(request(0, 0, &[(0, 0)]), 5, START + STALE_AFTER).unwrap();
        assert_eq!((refused.session_id, sessions.count()), (NO_SESSION, 1), "slots are a bound, and one in use stays");
        let later = START + STALE_AFTER + Duration::from_millis(1);
        assert_eq!(sessions.begin(request(0, 0, &[(0, 0)]), 5, later).unwrap().session_id, 5);
        assert_eq!(sessions.count(), 1);
        assert_eq!(sessions.begin(request(4, 1, &[]), 9, later).unwrap_err(), SessionError::NotFound, "the stale one made room");
        sessions.begin(request(5, FINAL_EPOCH, &[(0, 0)]), 6, START).unwrap();
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn forgotten_partitions_are_not_fetched() {
        let sessions = FetchSessions::new(1);
        sessions.begin(request(0, 0, &[(0, 0), (1, 0)]), 4, START).unwrap();
        let next = sessions.begin(SessionRequest { forgotten: vec![key(0)], ..request(4, 1, &[]) }, 9, START).unwrap();
        assert_eq!(next.partitions, vec![(key(1), wanted(0))]);
        let last = sessions.begin(SessionRequest { forgotten: vec![key(1)], ..request(4, 2, &[]) }, 9, START).unwrap();
        assert_eq!((last.session_id, last.incremental, last.partitions.len(), sessions.count()), (NO_SESSION, false, 0, 0), "nothing is left to fetch");
    }

    #[test]
    fn no_slots_mean_no_sessions() {
        let sessions = FetchSessions::new(0);
        assert_eq!(sessions.begin(request(0, 0, &[(0, 0)]), 5, START).unwrap().session_id, NO_SESSION);
        assert_eq!(sessions.count(), 0);
    }

    #[test]
    fn epochs_wrap_to_one() {
        assert_eq!(next_epoch(1), 2);
        assert_eq!(next_epoch(i32::MAX), 1);
    }
}
