//! What one member keeps for its clients and does not replicate: who is connected, who watches what, who was heard of, whether anybody is served.
//!
//! The lock is taken inside of the tree's, never the other way round. Whoever applies a transaction tells the hub before the tree's lock is free,
//! and whoever reads and sets a watch does both under it: so no watch is missed, and an event is in its connection's queue before any read
//! can show the change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, mpsc, watch};

use super::acl::{self, Identity, perms};
use super::op::{Event, EventKind, Stat};
use super::session::{SessionTracker, TICK_MS};
use super::watch::{WatchKind, Watched, WatcherId, Watches};

/// About how many bytes of events may wait for a connection that does not read them. One that is so slow is closed: its client comes back and
/// sets its watches again.
const EVENTS_MAX_BYTES: usize = 4 << 20;

/// What an event costs in a queue besides its path.
const EVENT_BYTES: usize = 64;

/// An event on its way to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// The transaction.
    pub(super) zxid: i64,
    /// What happened.
    pub(super) kind: EventKind,
    /// To which znode.
    pub(super) path: Arc<str>,
}

/// Why the service ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its session has ended.
    Expired,
    /// Its client came back over another connection, here or at another member.
    Moved,
    /// It did not read its events.
    Slow,
    /// This member has had no leader for too long: its clients must ask others before their sessions expire there.
    OutOfTouch,
    /// A snapshot took the place of transactions that the connection was not told of: its client comes back and sets its watches again.
    Missed,
    /// This member is none any more.
    Removed,
    /// The service stops.
    Stopping,
}

/// What the service knows of a connection.
#[derive(Debug)]
struct Peer {
    session: i64,
    /// The transaction that attached the session to it.
    attached_zxid: i64,
    identities: Vec<Identity>,
    events: mpsc::UnboundedSender<Told>,
    queued_bytes: Arc<AtomicUsize>,
    ended: watch::Sender<Option<Ended>>,
}

/// A connection's side of it. Detached from the hub when it is dropped.
#[derive(Debug)]
pub(super) struct Attached {
    hub: Arc<Hub>,
    /// The connection, as a watcher.
    pub(super) watcher: WatcherId,
    events: mpsc::UnboundedReceiver<Told>,
    /// An event that has come out of the queue and is not to be told yet.
    held: Option<Told>,
    queued_bytes: Arc<AtomicUsize>,
    /// Tells when the connection has to end.
    pub(super) ended: watch::Receiver<Option<Ended>>,
}

impl Attached {
    /// The next event. Cancelling it loses nothing.
    pub(super) async fn event(&mut self) -> Option<Told> {
        let told = match self.held.take() {
            Some(told) => Some(told),
            None => self.events.recv().await,
        };
        told.inspect(|told| self.taken(told))
    }

    /// The next event, if it is there and of a transaction up to `zxid`.
    pub(super) fn try_event(&mut self, zxid: i64) -> Option<Told> {
        if self.held.is_none() {
            self.held = self.events.try_recv().ok();
        }
        let told = self.held.take_if(|told| told.zxid <= zxid)?;
        self.taken(&told);
        Some(told)
    }

    fn taken(&self, told: &Told) {
        self.queued_bytes.fetch_sub(told.path.len() + EVENT_BYTES, Ordering::Relaxed);
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut state = self.hub.lock();
        state.watches.remove_watcher(self.watcher);
        if let Some(peer) = state.peers.remove(&self.watcher)
            && state.by_session.get(&peer.session) == Some(&self.watcher)
        {
            state.by_session.remove(&peer.session);
        }
    }
}

/// When housekeeping looks for what (see `housekeeping`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Housekeeping {
    /// The granularity of sessions' deadlines, in milliseconds.
    pub tick_ms: u64,
    /// How often idle containers and znodes with a time to live are looked for, in milliseconds.
    pub idle_check_ms: u64,
    /// How long a container that never had a child is kept, in milliseconds; 0 for ever.
    pub never_used_ms: i64,
    /// How long this member may be without a leader before it drops its clients, in milliseconds: well above an election, well below the least session
    /// time-out.
    pub out_of_touch_ms: u64,
}

/// The default, and the least, of [`Housekeeping::out_of_touch_ms`]: an election takes about a second.
pub(super) const OUT_OF_TOUCH_MS: u64 = 1_500;

impl Default for Housekeeping {
    fn default() -> Self {
        Self { tick_ms: TICK_MS, idle_check_ms: 60_000, never_used_ms: 0, out_of_touch_ms: OUT_OF_TOUCH_MS }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) watches: Watches,
    /// The liveness of all sessions of the ensemble, while this member leads it; the node drives it.
    pub(super) sessions: SessionTracker,
    /// The sessions that were heard of here since the node asked last, and when.
    heard: BTreeMap<i64, u64>,
    pub(super) housekeeping: Housekeeping,
    pub(super) is_leader: bool,
    pub(super) is_stopped: bool,
    peers: BTreeMap<WatcherId, Peer>,
    by_session: BTreeMap<i64, WatcherId>,
    last_watcher: WatcherId,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    /// Something that housekeeping waits for is earlier than it was.
    pub(super) sooner: Notify,
    /// Whether clients are served.
    serving: watch::Sender<bool>,
}

impl Hub {
    pub(super) fn new() -> Self {
        let housekeeping = Housekeeping::default();
        let state = State {
            watches: Watches::default(),
            sessions: SessionTracker::new(housekeeping.tick_ms),
            heard: BTreeMap::new(),
            housekeeping,
            is_leader: false,
            is_stopped: false,
            peers: BTreeMap::new(),
            by_session: BTreeMap::new(),
            last_watcher: 0,
        };
        Self { state: Mutex::new(state), sooner: Notify::new(), serving: watch::Sender::new(false) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches a connection that serves a session from transaction `attached_zxid` on; the one that served it before ends.
    pub(super) fn attach(self: &Arc<Self>, session: i64, attached_zxid: i64, identities: Vec<Identity>) -> Attached {
        let (events, receiver) = mpsc::unbounded_channel();
        let (ended, has_ended) = watch::channel(None);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let mut state = self.lock();
        state.last_watcher += 1;
        let watcher = state.last_watcher;
        if let Some(before) = state.by_session.insert(session, watcher) {
            state.end(before, Ended::Moved);
        }
        if state.is_stopped {
            ended.send_replace(Some(Ended::Stopping));
        } else if !*self.serving.borrow() {
            ended.send_replace(Some(Ended::OutOfTouch));
        }
        state.peers.insert(watcher, Peer { session, attached_zxid, identities, events, queued_bytes: queued_bytes.clone(), ended });
        drop(state);
        Attached { hub: self.clone(), watcher, events: receiver, held: None, queued_bytes, ended: has_ended }
    }

    /// The connection has more identities now.
    pub(super) fn identify(&self, watcher: WatcherId, identities: &[Identity]) {
        if let Some(peer) = self.lock().peers.get_mut(&watcher) {
            peer.identities = identities.to_vec();
        }
    }

    /// The session of a watcher; 0 if it is gone.
    pub(super) fn sessions_of(&self, watchers: &BTreeSet<WatcherId>) -> Vec<i64> {
        let state = self.lock();
        watchers.iter().filter_map(|watcher| state.peers.get(watcher)).map(|peer| peer.session).collect()
    }

    /// Tells those who watch of a transaction. Called before the tree's lock is free.
    pub(super) fn publish(&self, zxid: i64, events: &[Event]) {
        let mut state = self.lock();
        if state.peers.is_empty() {
            return;
        }
        for event in events {
            for watcher in state.watches.trigger(event) {
                // One that has ended may have missed others before this one.
                let Some(peer) = state.peers.get(&watcher).filter(|peer| peer.ended.borrow().is_none()) else { continue };
                // Who may not read a znode is not told of it either (CVE-2024-23944).
                if !acl::allows(&event.acl, perms::READ, &peer.identities) {
                    continue;
                }
                let queued = peer.queued_bytes.fetch_add(event.path.len() + EVENT_BYTES, Ordering::Relaxed);
                if queued > EVENTS_MAX_BYTES {
                    state.end(watcher, Ended::Slow);
                    continue;
                }
                // A connection that has gone needs no events.
                let _ = peer.events.send(Told { zxid, kind: event.kind, path: event.path.clone() });
            }
        }
    }

    /// A session has ended, by whatever cause: so does its connection.
    pub(super) fn session_ended(&self, session: i64) {
        let mut state = self.lock();
        state.heard.remove(&session);
        if let Some(watcher) = state.by_session.get(&session).copied() {
            state.end(watcher, Ended::Expired);
        }
    }

    /// A session was attached to another connection by this transaction, wherever that is: one that it was attached to before ends.
    pub(super) fn session_moved(&self, session: i64, attached_zxid: i64) {
        let state = self.lock();
        if let Some(watcher) = state.by_session.get(&session).copied()
            && state.peers.get(&watcher).is_some_and(|peer| peer.attached_zxid < attached_zxid)
        {
            state.end(watcher, Ended::Moved);
        }
    }

    /// The connection itself closes its session: it ends when that is answered, not before.
    pub(super) fn release(&self, session: i64) {
        self.lock().by_session.remove(&session);
    }

    /// A sign of life of a session: counted at once if this member leads, else noted for the leader.
    pub(super) fn hear(&self, session: i64, now_ms: u64) {
        let mut state = self.lock();
        if state.is_leader {
            state.sessions.touch(session, now_ms);
        } else {
            state.heard.insert(session, now_ms);
        }
    }

    /// The sessions that were heard of since this was asked last, and when, in milliseconds.
    pub(super) fn take_heard(&self) -> BTreeMap<i64, u64> {
        std::mem::take(&mut self.lock().heard)
    }

    /// Signs of life that could not be told: they are told the next time, unless a later one is.
    pub(super) fn hear_again(&self, heard: BTreeMap<i64, u64>) {
        let mut state = self.lock();
        for (session, at_ms) in heard {
            state.heard.entry(session).or_insert(at_ms);
        }
    }

    /// Whether clients are served.
    pub(super) fn is_serving(&self) -> bool {
        *self.serving.borrow()
    }

    /// Tells when that changes.
    pub(super) fn serving(&self) -> watch::Receiver<bool> {
        self.serving.subscribe()
    }

    /// Clients are served from now on.
    pub(super) fn serve(&self) {
        self.serving.send_replace(true);
    }

    /// No clients are served from now on: their connections end, for this reason.
    pub(super) fn serve_nobody(&self, why: Ended) {
        self.serving.send_replace(false);
        self.end_all(why);
    }

    /// Ends all connections.
    pub(super) fn end_all(&self, why: Ended) {
        let state = self.lock();
        state.peers.keys().for_each(|watcher| state.end(*watcher, why));
    }

    /// Ends all connections, and housekeeping.
    pub(super) fn stop(&self) {
        self.lock().is_stopped = true;
        self.serve_nobody(Ended::Stopping);
        self.sooner.notify_one();
    }
}

impl State {
    /// Sets a watch of a connection, unless that is gone: a read may be carried out after it.
    pub(super) fn watch(&mut self, watcher: WatcherId, path: &str, kind: WatchKind) {
        if self.peers.contains_key(&watcher) {
            self.watches.add(watcher, path, kind);
        }
    }

    /// Sets the watches of a client that has come back, and returns what it missed: see [`Watches::set_watches`].
    pub(super) fn set_watches(
        &mut self,
        watcher: WatcherId,
        watched: &Watched,
        seen_zxid: i64,
        stat: impl Fn(&str) -> Option<Stat>,
    ) -> Vec<(String, EventKind)> {
        if self.peers.contains_key(&watcher) { self.watches.set_watches(watcher, watched, seen_zxid, stat) } else { Vec::new() }
    }

    fn end(&self, watcher: WatcherId, why: Ended) {
        if let Some(peer) = self.peers.get(&watcher) {
            peer.ended.send_if_modified(|ended| ended.is_none() && ended.replace(why).is_none());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::acl::Acl;
    use super::*;

    fn serving() -> Arc<Hub> {
        let hub = Arc::new(Hub::new());
        hub.serve();
        hub
    }

    fn event(path: &str, acl: acl::AclList) -> Event {
        Event { path: path.into(), kind: EventKind::DataChanged, acl }
    }

    #[test]
    fn who_may_not_read_is_not_told() {
        let hub = serving();
        let bob = Identity::new(acl::DIGEST, "bob:hash");
        let (mut a, mut b) = (hub.attach(1, 1, vec![]), hub.attach(2, 2, vec![]));
        hub.identify(b.watcher, std::slice::from_ref(&bob));
        for watcher in [a.watcher, b.watcher] {
            hub.lock().watches.add(watcher, "/secret", WatchKind::Persistent);
        }
        hub.publish(5, &[event("/secret", Some([Acl { perms: perms::ALL, id: bob }].into())), event("/other", None)]);
        assert_eq!(a.try_event(i64::MAX), None);
        assert_eq!(b.try_event(4), None, "that is later");
        assert_eq!(b.try_event(5), Some(Told { zxid: 5, kind: EventKind::DataChanged, path: "/secret".into() }));
        assert_eq!(b.try_event(i64::MAX), None);
    }

    #[test]
    fn a_connection_that_does_not_read_is_ended() {
        let hub = serving();
        let mut slow = hub.attach(1, 1, vec![]);
        hub.lock().watches.add(slow.watcher, "/a", WatchKind::Persistent);
        let path = format!("/a/{}", "x".repeat(1000));
        hub.lock().watches.add(slow.watcher, &path, WatchKind::Persistent);
        let mut published = 0;
        while slow.ended.borrow().is_none() {
            hub.publish(1, &[event(&path, None)]);
            published += 1;
            assert!(published < 10_000, "it never ends");
        }
        assert_eq!(*slow.ended.borrow(), Some(Ended::Slow));
        while slow.try_event(i64::MAX).is_some() {}
    }

    #[test]
    fn a_session_has_one_connection_and_its_end_ends_it() {
        let hub = serving();
        let first = hub.attach(1, 1, vec![]);
        let second = hub.attach(1, 5, vec![]);
        assert_eq!((*first.ended.borrow(), *second.ended.borrow()), (Some(Ended::Moved), None));
        drop(first);
        hub.session_moved(1, 5);
        assert_eq!(*second.ended.borrow(), None, "that was its own");
        hub.session_moved(1, 6);
        assert_eq!(*second.ended.borrow(), Some(Ended::Moved));
        drop(second);
        let second = hub.attach(1, 7, vec![]);
        hub.session_ended(1);
        assert_eq!(*second.ended.borrow(), Some(Ended::Expired));
        let gone = second.watcher;
        drop(second);
        hub.lock().watch(gone, "/a", WatchKind::Data);
        assert_eq!(hub.lock().watches.summary().watch_count, 0, "a read that comes late sets no watch");
        assert!(hub.lock().peers.is_empty() && hub.lock().by_session.is_empty());
    }
}
