//! The node applies what is committed, and answers.

use super::super::Executed;
use super::super::consensus::{Change, Consensus};
use super::super::state::{Meaning, Outcome, Payload, Replicated, Senseless, meaning, zxid};
use super::Node;
use crate::coordination::Done;
use crate::coordination::housekeeping::clock_ms;
use crate::coordination::hub::Ended;
use crate::coordination::op::{Command, Request};
use crate::coordination::storage::format::{Entry, SnapshotMeta, SnapshotState};
use crate::coordination::tree::Tree;
use crate::plant;
use crate::runtime::Runtime;

impl<R: Runtime, C: Consensus> Node<R, C> {
    pub(super) fn replace_state(&mut self, meta: &SnapshotMeta, state: &SnapshotState, tree: Tree) {
        self.rt.event("coordination snapshot installed", &[meta.index]);
        self.replicated = Replicated::from_snapshot(state, &meta.conf_state, (meta.index, meta.term));
        {
            let mut current = self.shared.tree.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            *current = tree;
            // Nobody was told of what the snapshot leaps over. Before the lock is free, so that no connection shows it without.
            if !plant!(&self.rt, "watch-lost-on-snapshot") {
                self.shared.hub.end_all(Ended::Missed);
            }
        }
        (self.entries_since_snapshot, self.bytes_since_snapshot) = (0, 0);
        // Whoever follows changes has missed some.
        let _ = self.shared.changes.send(None);
        let nonce = self.rt.random_u64();
        drop(self.origin.state_replaced(nonce)); // Whoever waited for them is told that the connection is lost.
        self.tell_network();
        self.tell_removed();
        if let Some(observer) = &self.observer {
            observer.applied(self.raft_id, meta.index, meta.term, self.replicated.digest);
        }
        self.finish_reads();
    }

    pub(super) async fn apply(&mut self, entries: Vec<Entry>) {
        let mut answers = Vec::new();
        let mut changes = Vec::new();
        let mut ended: Option<Senseless> = None;
        let now_ms = clock_ms(self.rt.now());
        let term_before = self.replicated.applied.1;
        {
            let shared = self.shared.clone();
            let mut tree = shared.tree.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            for entry in &entries {
                if entry.index <= self.replicated.applied.0 {
                    continue;
                }
                let says = match meaning(entry) {
                    Ok(says) => says,
                    Err(senseless) => {
                        ended = Some(senseless);
                        break;
                    }
                };
                if says == Meaning::Change
                    && let Some(change) = self.core.change_of(entry)
                {
                    let conf_state = self.core.apply_change(&change);
                    self.replicated.change(&change, &conf_state);
                    changes.push(change);
                }
                #[cfg(feature = "plants")]
                if let Some(session) = says.command().and_then(Command::ends_session)
                    && plant!(&self.rt, "ephemeral-outlives-session")
                {
                    tree.plant_orphans(session);
                }
                let outcome = self.replicated.apply(&mut tree, entry, &says);
                if let Some(observer) = &self.observer {
                    observer.applied(self.raft_id, entry.index, entry.term, self.replicated.digest);
                    let executed = match &outcome {
                        Outcome::Executed(applied) => says.command().map_or(Executed::Nothing, |command| Executed::Command(command, applied)),
                        Outcome::Configured(command, applied) => Executed::Command(command, applied),
                        Outcome::Skipped => Executed::Nothing,
                    };
                    observer.executed(self.raft_id, entry.index, entry.term, &executed);
                }
                let executed = match outcome {
                    Outcome::Executed(applied) => {
                        self.has_changed |= entry.index > self.loaded_last;
                        // Before the lock is free, so that no read shows a change that those who watch have not been sent.
                        shared.publish(zxid(entry.index), applied.events);
                        if let Some(command) = says.command()
                            && applied.outcome.is_ok()
                        {
                            self.note_session(zxid(entry.index), command, now_ms);
                        }
                        Some(applied.outcome)
                    }
                    Outcome::Configured(_, applied) => {
                        self.has_changed |= entry.index > self.loaded_last;
                        shared.publish(zxid(entry.index), applied.events);
                        None
                    }
                    Outcome::Skipped => None,
                };
                if let Meaning::Payload(payload) = &says {
                    let nonce = if matches!(payload, Payload::Command { .. }) && executed.is_some() { 0 } else { self.rt.random_u64() };
                    if let Some(pending) = self.origin.applied(entry.index, payload, executed.is_some(), nonce)
                        && let Some(outcome) = executed
                    {
                        answers.push((pending.answer, Done { zxid: zxid(entry.index), outcome }));
                        // Now, before anything else is applied: what its session reads next shows this change, and none that it asks for later.
                        pending.looks.into_iter().for_each(|look| look(&tree));
                    }
                }
            }
        }
        if let Some(senseless) = ended {
            self.halt(&senseless.to_string()).await;
        }
        let applied = self.replicated.applied.0;
        self.core.applied(applied.min(self.core.committed()));
        if self.is_alone() {
            self.core.compact(applied.saturating_sub(1));
        } else if !changes.is_empty() {
            // Whoever joins must get the membership with a snapshot: the first members are in no entry.
            self.core.compact(1);
        }
        if !changes.is_empty() {
            self.tell_network();
            self.tell_removed();
            if changes.contains(&Change::Remove(self.raft_id)) {
                self.removed();
            }
        }
        for (answer, done) in answers {
            let _ = answer.send(done); // The caller may have gone; the change stands.
        }
        if self.replicated.applied.1 > term_before {
            self.term_has_begun();
        }
        if self.leadership.is_leader && self.replicated.applied.1 == self.leadership.term {
            self.served();
        }
    }

    /// This member leads, and its state is that of its own term.
    pub(super) fn served(&mut self) {
        if std::mem::take(&mut self.ends_old_sessions) {
            let sessions: Vec<i64> = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner()).own_sessions().collect();
            for session in sessions {
                let close = Command { session: 0, time_ms: self.rt.unix_ms(), request: Request::CloseSession { session } };
                self.propose(&Payload::Internal(close));
            }
            // What is proposed first of all, so that it is there before anybody else is served.
            for payload in self.origin.outgoing(true) {
                self.propose(&payload);
            }
            return;
        }
        self.tell_ready();
    }

    /// Tells those who wait for it that a member that is alone serves: the sessions of its earlier life have ended before it registered.
    pub(super) fn tell_ready(&mut self) {
        if self.leadership.is_leader && !self.ends_old_sessions && self.origin.is_registered() {
            for ready in self.ready.drain(..) {
                let _ = ready.send(());
            }
        }
    }
}
