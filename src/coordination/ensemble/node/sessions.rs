//! The node and the sessions: whose clients live, as the leader counts it for all members, and whether this member may serve any.
//!
//! Every member notes whom it hears of and relays that to the leader, once per interval for all of them; signs of life are no log entries. The
//! leader alone tracks deadlines, and ends a session that was silent by an entry. A leader that is new grants every session a full time-out.
//!
//! A member serves clients once a quorum has confirmed its leader and it has caught up with it, and drops them when it has had no leader for a while.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::oneshot;

use super::super::consensus::Consensus;
use super::super::peer::PeerMessage;
use super::super::state::Payload;
use super::{Node, TICK};
use crate::coordination::housekeeping::{clock_ms, instant};
use crate::coordination::hub::Ended;
use crate::coordination::op::{Command, Request};
use crate::plant;
use crate::runtime::{Instant, Runtime};

/// After how long without a word of the leader a member counts it as lost: longer than the longest election time-out of a member that votes.
const LEADER_SILENT: Duration = Duration::from_millis(1_000);

/// The longest time between two relays of signs of life; a quarter of `tickTime` if that is less.
const RELAY_MAX_MS: u64 = 500;

/// How late the leader may look at a deadline and still judge by it. If it is later the process was stopped, and the signs of life that came meanwhile have
/// not been heard: nobody knows then who was silent.
const LATE_MS: u64 = 1_000;

/// Whether this member serves clients, and what that depends on.
pub(super) struct Standing {
    /// When a message of the leader came last.
    leader_heard: Instant,
    /// Whether one came since the last tick.
    pub(super) has_heard: bool,
    /// Since when there is no leader.
    out_of_touch: Option<Instant>,
    is_serving: bool,
    /// A read that proves the leader, and that this member has caught up with it.
    proof: Option<oneshot::Receiver<Result<(), crate::coordination::op::Failure>>>,
}

impl Standing {
    pub(super) fn new(now: Instant) -> Self {
        Self { leader_heard: now, has_heard: false, out_of_touch: None, is_serving: false, proof: None }
    }
}

impl<R: Runtime, C: Consensus> Node<R, C> {
    fn now_ms(&self) -> u64 {
        clock_ms(self.rt.now())
    }

    /// This member leads from now on: all sessions have a full time-out.
    pub(super) fn watch_sessions(&mut self) {
        let now_ms = self.now_ms();
        let sessions: Vec<(i64, i32)> = {
            let tree = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner());
            let is_watched = |session: &i64| !self.is_embedded || tree.client_session(*session).is_some();
            tree.sessions().filter(is_watched).filter_map(|session| Some((session, tree.session_timeout_ms(session)?))).collect()
        };
        let mut state = self.shared.hub.lock();
        let tick_ms = state.housekeeping.tick_ms;
        state.is_leader = true;
        state.sessions.clear();
        state.sessions.set_tick(tick_ms);
        for (session, timeout_ms) in sessions {
            let timeout_ms = if plant!(&self.rt, "new-leader-grants-no-time") { 0 } else { millis(timeout_ms) };
            state.sessions.track(session, timeout_ms, now_ms);
        }
    }

    /// It leads no more.
    pub(super) fn unwatch_sessions(&mut self) {
        let mut state = self.shared.hub.lock();
        state.is_leader = false;
        state.sessions.clear();
    }

    /// When a session may expire next, if this member leads.
    pub(super) fn session_deadline(&self) -> Option<Instant> {
        if !self.leadership.is_leader {
            return None;
        }
        self.shared.hub.lock().sessions.next_deadline_ms().map(instant)
    }

    /// Ends the sessions that were silent for their time-outs.
    pub(super) fn expire_sessions(&mut self) {
        if !self.leadership.is_leader {
            return;
        }
        let now_ms = self.now_ms();
        let Some(deadline_ms) = self.shared.hub.lock().sessions.next_deadline_ms().filter(|deadline_ms| *deadline_ms <= now_ms) else { return };
        if now_ms > deadline_ms + LATE_MS {
            tracing::warn!(late_ms = now_ms - deadline_ms, "this process was stopped for a while; all sessions are given a full time-out");
            self.watch_sessions();
            return;
        }
        self.relay_heard();
        let expired = self.shared.hub.lock().sessions.expire(now_ms);
        for session in expired {
            tracing::info!(session = format_args!("{session:#x}"), "session expired: its client was silent for its time-out");
            let close = Command { session: 0, time_ms: self.rt.unix_ms(), request: Request::CloseSession { session } };
            if !self.propose(&Payload::Internal(close)) {
                // Leadership is being handed over, perhaps in vain.
                let tree = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner());
                let mut state = self.shared.hub.lock();
                state.sessions.ended(session);
                if let Some(timeout_ms) = tree.session_timeout_ms(session) {
                    state.sessions.track(session, millis(timeout_ms), now_ms);
                }
            }
        }
    }

    /// How many ticks pass between two relays.
    pub(super) fn relay_ticks(&self) -> u64 {
        let interval_ms = (self.shared.hub.lock().housekeeping.tick_ms / 4).min(RELAY_MAX_MS);
        (interval_ms / TICK.as_millis() as u64).max(1)
    }

    /// Tells the leader whom this member has heard of.
    pub(super) fn relay_heard(&mut self) {
        let leader = self.leadership.leader;
        if leader == 0 {
            return;
        }
        let heard = self.shared.hub.take_heard();
        if heard.is_empty() {
            return;
        }
        if self.leadership.is_leader {
            self.sessions_heard(&heard);
            return;
        }
        if plant!(&self.rt, "signs-of-life-not-relayed") {
            return;
        }
        let message = PeerMessage::Touches(heard.keys().copied().collect());
        if !self.network.as_ref().is_some_and(|network| network.send(leader, message)) {
            self.shared.hub.hear_again(heard);
        }
    }

    fn sessions_heard(&self, heard: &BTreeMap<i64, u64>) {
        let mut state = self.shared.hub.lock();
        for (session, at_ms) in heard {
            state.sessions.touch(*session, *at_ms);
        }
    }

    /// As leader: another member has heard of these, just now.
    pub(super) fn sessions_touched(&self, sessions: Vec<i64>) {
        let now_ms = self.now_ms();
        let mut state = self.shared.hub.lock();
        for session in sessions {
            state.sessions.touch(session, now_ms);
        }
    }

    /// A command was carried out at `now_ms`: what it means for the sessions and the connections of this member. Called before the tree's lock is free.
    pub(super) fn note_session(&self, zxid: i64, command: &Command, now_ms: u64) {
        let hub = &self.shared.hub;
        if let Some(session) = command.ends_session() {
            hub.session_ended(session);
        }
        if let Request::Attach { .. } = command.request {
            hub.session_moved(command.session, zxid);
        }
        if !self.leadership.is_leader {
            return;
        }
        let mut state = hub.lock();
        match &command.request {
            Request::CreateSession { .. } if self.is_embedded => {}
            Request::CreateSession { session, timeout_ms } | Request::OpenSession { session, timeout_ms, .. } => {
                state.sessions.track(*session, millis(*timeout_ms), now_ms);
            }
            Request::Attach { timeout_ms, .. } => drop(state.sessions.track(command.session, millis(*timeout_ms), now_ms)),
            Request::CloseSession { session } => state.sessions.ended(*session),
            Request::EndSession { .. } => state.sessions.ended(command.session),
            // Whoever asks for something lives.
            _ if command.session != 0 => drop(state.sessions.touch(command.session, now_ms)),
            _ => {}
        }
    }

    /// A message of that member came.
    pub(super) fn heard_of(&mut self, member: u64) {
        if member == self.leadership.leader {
            self.standing.leader_heard = self.rt.now();
            self.standing.has_heard = true;
        }
    }

    /// Another leader is known, or none.
    pub(super) fn leader_changed(&mut self) {
        self.standing.leader_heard = self.rt.now();
    }

    /// Begins or ends to serve clients, as it is time to.
    pub(super) fn look_whether_to_serve(&mut self) {
        if self.is_removed {
            if std::mem::take(&mut self.standing.is_serving) {
                self.shared.hub.serve_nobody(Ended::Removed);
            }
            return;
        }
        if self.rests() {
            // There is nobody who could lead but this member. Once it serves its own handles, it serves clients.
            if !self.standing.is_serving && !self.ends_old_sessions && self.origin.is_registered() {
                self.begin_to_serve();
            }
            return;
        }
        let now = self.rt.now();
        // A leader asks itself: it steps down when it hears of no majority for an election time-out.
        let has_leader =
            self.leadership.is_leader || (self.leadership.leader != 0 && now.saturating_duration_since(self.standing.leader_heard) < LEADER_SILENT);
        if !has_leader {
            self.standing.proof = None;
            let since = *self.standing.out_of_touch.get_or_insert(now);
            let bound = Duration::from_millis(self.shared.hub.lock().housekeeping.out_of_touch_ms);
            if self.standing.is_serving && !plant!(&self.rt, "serves-without-leader") && now.saturating_duration_since(since) >= bound {
                self.standing.is_serving = false;
                tracing::warn!("this member has had no leader for {} ms: it serves no clients until it has one", bound.as_millis());
                self.rt.event("coordination serves nobody", &[self.leadership.term]);
                self.shared.hub.serve_nobody(Ended::OutOfTouch);
            }
            return;
        }
        self.standing.out_of_touch = None;
        if self.standing.is_serving {
            return;
        }
        match self.standing.proof.as_mut().map(oneshot::Receiver::try_recv) {
            Some(Ok(Ok(()))) => {
                self.standing.proof = None;
                self.begin_to_serve();
            }
            Some(Err(oneshot::error::TryRecvError::Empty)) => {}
            None | Some(Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed)) => {
                let (answer, wait) = oneshot::channel();
                self.begin_read(super::Waits::Answer(answer));
                self.standing.proof = Some(wait);
            }
        }
    }

    fn begin_to_serve(&mut self) {
        self.standing.is_serving = true;
        self.rt.event("coordination serves", &[self.leadership.term]);
        self.shared.hub.serve();
    }
}

fn millis(timeout_ms: i32) -> u64 {
    u64::try_from(timeout_ms).unwrap_or(0)
}
