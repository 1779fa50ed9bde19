//! Fetch sessions of followers (KIP-227), for very many partitions: a fetch looks at those that it names and those that have changed, and at no others.
//!
//! Consumers' sessions are in `fetch_session`: theirs are small, and each of their fetches looks at all of it. A follower's session may hold ten thousand
//! partitions, of which a handful changes between two fetches.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use uuid::Uuid;

use super::fetch_session::{SessionError, Told, Wanted, next_epoch};
use crate::replication::interest::{Interest, Slot};
use crate::replication::partition::Partition;
use crate::runtime::{Instant, Runtime};

/// A follower that has not used its session for so long has left it: it fetches every `replica.fetch.wait.max.ms`.
const LEFT_AFTER: Duration = Duration::from_secs(60);

/// A partition of a session.
pub type Key = (Uuid, i32);

/// What a follower wants of a partition, and what it was last told.
pub struct Entry<R: Runtime> {
    /// What it wants.
    pub wanted: Wanted,
    /// What it was told; `None` before the first answer.
    pub told: Option<Told>,
    /// Where changes are marked.
    place: Option<(Arc<Partition<R>>, Arc<Slot>)>,
    is_queued: bool,
}

/// What a session's fetches share. One fetch has it at a time.
pub struct State<R: Runtime> {
    /// The epoch of the fetch whose turn it is.
    turn: i32,
    entries: BTreeMap<Key, Entry<R>>,
    slots: BTreeMap<u32, Key>,
    next_slot: u32,
    /// What is to be looked at, in this order.
    queue: VecDeque<Key>,
    /// When all partitions were last looked at.
    pub swept_at: Instant,
}

/// One follower's session over one connection.
pub struct FollowerSession<R: Runtime> {
    /// Its id.
    pub id: i32,
    replica: (i32, i64),
    /// The epoch of the newest request.
    newest: AtomicI32,
    /// What has changed.
    pub interest: Arc<Interest>,
    state: tokio::sync::Mutex<State<R>>,
    turns: Notify,
}

impl<R: Runtime> FollowerSession<R> {
    fn new(id: i32, replica: (i32, i64), now: Instant) -> Arc<Self> {
        let state = State { turn: 0, entries: BTreeMap::new(), slots: BTreeMap::new(), next_slot: 0, queue: VecDeque::new(), swept_at: now };
        Arc::new(Self { id, replica, newest: AtomicI32::new(0), interest: Arc::default(), state: tokio::sync::Mutex::new(state), turns: Notify::new() })
    }

    /// Whether the follower has sent another request after the one of `epoch`, which is to wait no longer then.
    pub fn is_overtaken(&self, epoch: i32) -> bool {
        self.newest.load(Ordering::SeqCst) != epoch
    }

    /// The session's state, when it is the turn of the request of `epoch`.
    pub async fn turn(&self, epoch: i32) -> tokio::sync::MutexGuard<'_, State<R>> {
        loop {
            let turns = self.turns.notified();
            let state = self.state.lock().await;
            if state.turn == epoch {
                return state;
            }
            drop(state);
            turns.await;
        }
    }

    /// The request of `epoch` is answered: the next one has its turn.
    pub fn done(&self, state: &mut State<R>, epoch: i32) {
        state.turn = next_epoch(epoch);
        self.turns.notify_waiters();
    }
}

impl<R: Runtime> State<R> {
    /// Takes in what a request names.
    pub fn take_in(&mut self, named: Vec<(Key, Wanted)>, forgotten: &[Key]) {
        for key in forgotten {
            if let Some(mut entry) = self.entries.remove(key) {
                unwatch(&mut entry, &mut self.slots);
            }
        }
        for (key, wanted) in named {
            match self.entries.get_mut(&key) {
                Some(entry) => entry.wanted = wanted,
                None => drop(self.entries.insert(key, Entry { wanted, told: None, place: None, is_queued: false })),
            }
            self.enqueue(key);
        }
    }

    /// Has a partition looked at.
    pub fn enqueue(&mut self, key: Key) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.is_queued
        {
            entry.is_queued = true;
            self.queue.push_back(key);
        }
    }

    /// Has those looked at that have changed.
    pub fn enqueue_changed(&mut self, interest: &Interest) {
        for slot in interest.take() {
            let Some(key) = self.slots.get(&slot).copied() else { continue };
            if let Some((_, slot)) = self.entries.get(&key).and_then(|entry| entry.place.as_ref()) {
                slot.clear();
            }
            self.enqueue(key);
        }
    }

    /// Has all of them looked at: what moves without a mark, as a log's start does by retention, is told then.
    pub fn enqueue_all(&mut self, now: Instant) {
        self.swept_at = now;
        let keys: Vec<Key> = self.entries.keys().copied().collect();
        keys.into_iter().for_each(|key| self.enqueue(key));
    }

    /// What is to be looked at now.
    pub fn queued(&mut self) -> Vec<Key> {
        let keys = std::mem::take(&mut self.queue);
        let there = keys.into_iter().filter(|key| self.entries.get_mut(key).is_some_and(|entry| std::mem::take(&mut entry.is_queued)));
        there.collect()
    }

    /// One partition of the session.
    pub fn entry(&mut self, key: &Key) -> Option<&mut Entry<R>> {
        self.entries.get_mut(key)
    }

    /// How many partitions it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Has changes of `partition` marked for `key`; to be called before it is looked at.
    pub fn watch(&mut self, key: Key, partition: &Arc<Partition<R>>, interest: &Arc<Interest>) {
        let Some(entry) = self.entries.get_mut(&key) else { return };
        if let Some((watched, _)) = &entry.place {
            if Arc::ptr_eq(watched, partition) {
                return;
            }
            unwatch(entry, &mut self.slots);
        }
        let slot = Slot::new(interest, self.next_slot);
        self.slots.insert(self.next_slot, key);
        self.next_slot = self.next_slot.wrapping_add(1);
        partition.interest(&slot);
        entry.place = Some((Arc::clone(partition), slot));
    }
}

impl<R: Runtime> Drop for State<R> {
    fn drop(&mut self) {
        self.entries.values_mut().for_each(|entry| unwatch(entry, &mut self.slots));
    }
}

/// The sessions of all followers.
pub struct FollowerSessions<R: Runtime> {
    /// The most that are kept: `max.incremental.fetch.session.cache.slots`, of their own.
    slots: usize,
    /// By id, with when each was last used.
    sessions: Mutex<Sessions<R>>,
}

type Sessions<R> = BTreeMap<i32, (Arc<FollowerSession<R>>, Instant)>;

impl<R: Runtime> FollowerSessions<R> {
    /// None yet, and at most `slots`.
    pub fn new(slots: usize) -> Self {
        Self { slots, sessions: Mutex::default() }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions<R>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new session for `replica`, a broker's id and epoch; `None` without room. Those of the broker's earlier lives end, those that it has left, and `former`,
    /// which the request names.
    pub fn begin(&self, fresh_id: i32, former: i32, replica: (i32, i64), now: Instant) -> Option<Arc<FollowerSession<R>>> {
        let mut sessions = self.lock();
        sessions.remove(&former);
        sessions.retain(|_, (session, used_at)| session.replica.0 != replica.0 || (session.replica.1 >= replica.1 && now - *used_at < LEFT_AFTER));
        if sessions.len() >= self.slots {
            let oldest = sessions.iter().min_by_key(|(_, (_, used_at))| *used_at).map(|(id, _)| *id)?;
            sessions.remove(&oldest);
        }
        if sessions.contains_key(&fresh_id) {
            return None;
        }
        let session = FollowerSession::new(fresh_id, replica, now);
        sessions.insert(fresh_id, (Arc::clone(&session), now));
        Some(session)
    }

    /// Ends a session: its connection is gone, or nothing is left in it.
    pub fn end(&self, id: i32) {
        self.lock().remove(&id);
    }

    /// The session that a request goes on with: of this follower, and in the epoch that is next. A request before it that waits is answered now.
    ///
    /// # Errors
    /// As KIP-227 has them.
    pub fn go_on(&self, id: i32, epoch: i32, replica: (i32, i64), now: Instant) -> Result<Arc<FollowerSession<R>>, SessionError> {
        let mut sessions = self.lock();
        let (session, used_at) = sessions.get_mut(&id).filter(|(session, _)| session.replica == replica).ok_or(SessionError::NotFound)?;
        let next = next_epoch(session.newest.load(Ordering::SeqCst));
        if epoch != next {
            return Err(SessionError::InvalidEpoch);
        }
        *used_at = now;
        session.newest.store(epoch, Ordering::SeqCst);
        session.interest.wake();
        Ok(Arc::clone(session))
    }
}

fn unwatch<R: Runtime>(entry: &mut Entry<R>, slots: &mut BTreeMap<u32, Key>) {
    if let Some((partition, slot)) = entry.place.take() {
        partition.ignore(&slot);
        slots.remove(&slot.id());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tokio::TokioRuntime;

    type Sessions = FollowerSessions<TokioRuntime>;

    const NOW: Instant = Instant::from_nanos(0);

    fn wanted(fetch_offset: i64) -> Wanted {
        Wanted { fetch_offset, max_bytes: 1, current_leader_epoch: 0, last_fetched_epoch: -1, log_start_offset: 0 }
    }

    fn key(partition: i32) -> Key {
        (Uuid::from_u128(7), partition)
    }

    #[tokio::test]
    async fn only_what_is_named_is_looked_at_and_each_once() {
        let sessions = Sessions::new(10);
        let session = sessions.begin(5, 0, (1, 70), NOW).unwrap();
        let mut state = session.turn(0).await;
        state.take_in(vec![(key(0), wanted(3)), (key(1), wanted(4))], &[]);
        state.enqueue(key(1));
        assert_eq!(state.queued(), [key(0), key(1)]);
        assert!(state.queued().is_empty(), "looked at");
        session.done(&mut state, 0);
        drop(state);
        sessions.go_on(5, 1, (1, 70), NOW).unwrap();
        let mut state = session.turn(1).await;
        state.take_in(vec![(key(1), wanted(9))], &[key(0)]);
        assert_eq!((state.queued(), state.len()), (vec![key(1)], 1));
        assert_eq!(state.entry(&key(1)).unwrap().wanted.fetch_offset, 9);
        state.enqueue_all(NOW);
        assert_eq!(state.queued(), [key(1)]);
    }

    #[tokio::test]
    async fn a_request_waits_for_the_one_before_it_and_tells_it_to_hurry() {
        let sessions = Sessions::new(10);
        let session = sessions.begin(5, 0, (1, 70), NOW).unwrap();
        let mut first = session.turn(0).await;
        assert!(!session.is_overtaken(0));
        sessions.go_on(5, 1, (1, 70), NOW).unwrap();
        session.interest.woken().await;
        assert!(session.is_overtaken(0));
        let mut second = std::pin::pin!(session.turn(1));
        let mut waker = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(second.as_mut().poll(&mut waker).is_pending());
        session.done(&mut first, 0);
        drop(first);
        assert!(second.as_mut().poll(&mut waker).is_ready());
    }

    #[test]
    fn a_session_belongs_to_one_life_of_one_follower_and_ends_with_it() {
        let sessions = Sessions::new(2);
        sessions.begin(5, 0, (1, 70), NOW).unwrap();
        let refused = |id, epoch, replica| sessions.go_on(id, epoch, replica, NOW).err();
        assert_eq!(refused(6, 1, (1, 70)), Some(SessionError::NotFound));
        assert_eq!(refused(5, 1, (2, 70)), Some(SessionError::NotFound), "another follower's");
        assert_eq!(refused(5, 1, (1, 71)), Some(SessionError::NotFound), "an earlier life's");
        assert_eq!(refused(5, 2, (1, 70)), Some(SessionError::InvalidEpoch));
        sessions.begin(6, 0, (1, 71), NOW).unwrap();
        assert_eq!(sessions.count(), 1, "the earlier life's is gone");
        sessions.begin(7, 0, (1, 71), NOW).unwrap();
        assert_eq!(sessions.count(), 2, "a follower may fetch by several tasks");
        sessions.begin(8, 0, (2, 30), NOW + Duration::from_secs(1)).unwrap();
        assert_eq!(sessions.count(), 2, "one had to make room");
        sessions.begin(9, 8, (2, 30), NOW + Duration::from_secs(2)).unwrap();
        assert_eq!((sessions.count(), refused(8, 1, (2, 30))), (2, Some(SessionError::NotFound)), "it was named");
        sessions.begin(10, 0, (1, 71), NOW + LEFT_AFTER * 2).unwrap();
        assert_eq!(sessions.count(), 2, "what the follower has left is gone");
        sessions.end(10);
        assert_eq!(sessions.count(), 1);
    }
}
