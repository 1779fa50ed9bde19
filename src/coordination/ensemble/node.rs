//! The node: the one task that drives a member's consensus machine, its log and its tree.
//!
//! It never waits for the disk: while a write and its sync run, messages go in and out, and all that comes to be written meanwhile shares the
//! next one. What may go out only after it is durable waits with it.

mod apply;
mod disk;
mod elections;
mod ending;
mod members;
mod reads;
mod sessions;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use self::sessions::Standing;
use super::Observer;
use super::consensus::{Consensus, RaftMessage, Work};
use super::network::{Network, OutgoingSnapshot, ReceivedSnapshot};
use super::origin::Origin;
use super::peer::{Answer as PeerAnswer, Order, PeerMessage};
use super::raft_core::{SNAPSHOT_KIND, promise_of};
use super::state::{Payload, Replicated};
use crate::codec;
use crate::coordination::op::{Command, ErrorCode, Failure, Operation, Request};
use crate::coordination::storage::format::{Entry, EntryKind, HardState, SnapshotMeta, SnapshotState};
use crate::coordination::storage::{Storage, StorageError};
use crate::coordination::tree::Tree;
use crate::coordination::{Done, Look, Message, Options, Shared};
use crate::plant;
use crate::runtime::{Instant, Runtime};

/// The mean time between two ticks.
pub const TICK: Duration = Duration::from_millis(50);

/// The most works that share a sync, and about the most bytes.
const GROUP_COUNT: usize = 1024;
const GROUP_BYTES: usize = 4 << 20;

/// How many proposals of this member wait at most; more stay in the handles' queue.
const WAITING_MAX_COUNT: usize = 4096;

/// How long the log is idle before the commit index is written behind the last group. From then on damage to that group is known
/// to be rot; before, it could be the torn end of a write that nobody was told of.
const IDLE: Duration = Duration::from_millis(100);

/// How many ticks pass between two looks of a leader at the membership.
const HOUSEKEEPING_TICKS: u64 = 6;

/// After how many ticks a read that heard nothing asks again.
const READ_AGAIN_TICKS: u32 = 6;

/// How far behind a learner may be to be given a vote, in entries.
const CAUGHT_UP_COUNT: u64 = 64;

/// Whoever waits for a proposal.
pub(in crate::coordination) struct Pending {
    answer: oneshot::Sender<Done>,
    /// What the same session reads after it, and before what it proposes next.
    looks: Vec<Look>,
}

/// What comes from peers and from this member's own connections.
pub enum PeerInput {
    /// A member has connected.
    Met(Met),
    /// Another member says that this one was removed.
    Removed,
    /// An administrator's.
    Order(Order, oneshot::Sender<PeerAnswer>),
    /// An administrator wants all that was acknowledged until now.
    Export(oneshot::Sender<ExportedState>),
    /// A message of the member with that Raft id.
    Message(u64, PeerMessage),
    /// A member without a log wants in.
    Join {
        /// The `N` of its `server.N`.
        server_id: u32,
        /// Where its peers reach it.
        address: String,
        /// Drawn for its new directory.
        storage_id: u64,
        /// Where the answer goes.
        answer: oneshot::Sender<PeerAnswer>,
    },
    /// A snapshot came whole; the sender is told by the channel.
    Snapshot(Box<ReceivedSnapshot>, oneshot::Sender<()>),
    /// The process of the member with that Raft id refuses connections.
    Gone(u64),
    /// What became of a snapshot for that member.
    SnapshotSent(u64, bool),
    /// A member without a log asks whether there is one here.
    Probe(oneshot::Sender<PeerAnswer>),
}

/// A member that has connected.
pub struct Met {
    /// Its Raft id.
    pub member: u64,
    /// Where it is reached.
    pub address: String,
    /// The highest version of log entries that it reads.
    pub log_format: u16,
    /// Where to say whether it was removed from the ensemble.
    pub is_removed: oneshot::Sender<bool>,
    /// Where to say so if it is removed later. Its log does not tell it: a member that is removed is sent nothing any more.
    pub removed_later: oneshot::Sender<()>,
}

/// What an administrator gets.
pub struct ExportedState {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The state beside the tree.
    pub state: SnapshotState,
    /// The tree.
    pub tree: Tree,
}

/// Works that are made durable together.
struct Batch {
    number: u64,
    snapshot: Option<(SnapshotMeta, SnapshotState, Tree)>,
    entries: Vec<Entry>,
    hard_state: Option<HardState>,
    messages: Vec<RaftMessage>,
    roll: bool,
}

/// A work that waits for the disk.
struct Job {
    work: Work,
    snapshot: Option<(SnapshotMeta, SnapshotState, Tree)>,
}

type Flushed<R> = (Storage<R>, Batch, Result<(), StorageError>);

/// Who waits for a read.
enum Waits {
    /// Whoever reads the tree after it.
    Answer(oneshot::Sender<Result<(), Failure>>),
    /// An administrator who wants all of it.
    Export(oneshot::Sender<ExportedState>),
}

struct Read {
    waits: Waits,
    /// The index that it waits for, once known.
    index: Option<u64>,
    age_ticks: u32,
    asked_ticks: u32,
}

/// With what a node begins.
pub(in crate::coordination) struct NodeParts<R: Runtime, C> {
    pub rt: R,
    pub core: C,
    pub storage: Storage<R>,
    pub tree: Tree,
    pub replicated: Replicated,
    pub shared: Arc<Shared>,
    pub options: Options,
    pub raft_id: u64,
    pub server_id: u32,
    /// Where this member's peers reach it; empty for one that is alone.
    pub address: String,
    pub network: Option<Network<R>>,
    /// Sessions of the process's earlier life end when it leads: their clients were inside of it.
    pub ends_old_sessions: bool,
    pub observer: Option<Arc<dyn Observer>>,
    /// Where [`PeerInput`] is sent to.
    pub inbox: mpsc::Sender<PeerInput>,
}

pub(in crate::coordination) struct Node<R: Runtime, C> {
    rt: R,
    core: C,
    storage: Option<Storage<R>>,
    flush: Option<Pin<Box<dyn Future<Output = Flushed<R>> + Send>>>,
    jobs: VecDeque<Job>,
    /// A hard state that has only a newer commit index: written with what comes next, or when the log is idle.
    lazy_hard_state: Option<HardState>,
    replicated: Replicated,
    origin: Origin<Pending>,
    reads: BTreeMap<u64, Read>,
    next_read: u64,
    /// Distinguishes the reads of this life from those of others.
    read_salt: u64,
    /// Snapshots that came, by index and term, until consensus has said which is to be installed.
    received: BTreeMap<(u64, u64), Box<ReceivedSnapshot>>,
    shared: Arc<Shared>,
    options: Options,
    raft_id: u64,
    server_id: u32,
    address: String,
    storage_id: u64,
    network: Option<Network<R>>,
    ends_old_sessions: bool,
    /// The process's own sessions live as long as it does; nobody watches over them.
    is_embedded: bool,
    standing: Standing,
    observer: Option<Arc<dyn Observer>>,
    met: BTreeMap<u64, String>,
    /// Where to tell those that are connected that they were removed.
    connected: BTreeMap<u64, Vec<oneshot::Sender<()>>>,
    /// The highest version of log entries that each other member reads, as far as it has said so in this life.
    log_formats: BTreeMap<u64, u16>,
    /// Whether it was told that something cannot be written for the sake of an older member, since the last of them was met.
    is_held_back: bool,
    leadership: super::consensus::Leadership,
    tick_count: u64,
    /// When it stands for election before its time-out.
    turn: elections::Turn,
    next_tick: Instant,
    entries_since_snapshot: u64,
    bytes_since_snapshot: u64,
    last_snapshot_bytes: u64,
    snapshot: Option<oneshot::Receiver<Result<(u64, u64), StorageError>>>,
    wants_roll: bool,
    /// Whether the tree was changed since it was last looked whether a snapshot is due; what was loaded is no change.
    has_changed: bool,
    loaded_last: u64,
    ready: Vec<oneshot::Sender<()>>,
    /// For how many ticks there was no leader, or no word of it.
    no_leader_ticks: u64,
    /// How many ticks ago it was asked to end.
    ending_ticks: Option<u32>,
    is_removed: bool,
    /// Keeps the peers' channel open for a member that has none.
    _inbox: mpsc::Sender<PeerInput>,
}

impl<R: Runtime, C: Consensus> Node<R, C> {
    pub(in crate::coordination) fn new(parts: NodeParts<R, C>) -> Self {
        let NodeParts { rt, core, storage, tree, replicated, shared, options, raft_id, server_id, address, network, .. } = parts;
        *shared.tree.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = tree;
        let (first, last) = core.log_range();
        if let Some(observer) = &parts.observer {
            observer.opened(raft_id, storage.hard_state(), storage.last_index());
        }
        let standing = Standing::new(rt.now());
        let node = Self {
            origin: Origin::new(raft_id, rt.random_u64()),
            read_salt: rt.random_u64(),
            next_tick: rt.now() + TICK,
            bytes_since_snapshot: storage.file_bytes(),
            entries_since_snapshot: (last + 1).saturating_sub(first),
            storage_id: storage.storage_id(),
            rt,
            core,
            storage: Some(storage),
            flush: None,
            jobs: VecDeque::new(),
            lazy_hard_state: None,
            replicated,
            reads: BTreeMap::new(),
            next_read: 0,
            received: BTreeMap::new(),
            shared,
            options,
            raft_id,
            server_id,
            address,
            network,
            ends_old_sessions: parts.ends_old_sessions,
            is_embedded: parts.ends_old_sessions,
            standing,
            observer: parts.observer,
            met: BTreeMap::new(),
            connected: BTreeMap::new(),
            log_formats: BTreeMap::new(),
            is_held_back: false,
            leadership: super::consensus::Leadership::default(),
            tick_count: 0,
            turn: elections::Turn::default(),
            last_snapshot_bytes: 0,
            snapshot: None,
            wants_roll: false,
            has_changed: false,
            loaded_last: last,
            ready: Vec::new(),
            no_leader_ticks: 0,
            ending_ticks: None,
            is_removed: false,
            _inbox: parts.inbox,
        };
        node.tell_network();
        node
    }

    /// Serves until all handles are gone or one asks to end; returns those to tell, once the directory is free. An error of the disk halts
    /// the process.
    pub(in crate::coordination) async fn run(
        mut self,
        mut messages: mpsc::Receiver<Message>,
        mut peers: mpsc::Receiver<PeerInput>,
    ) -> Vec<oneshot::Sender<()>> {
        let mut shut_down = Vec::new();
        if self.is_alone() {
            self.core.campaign();
        } else {
            self.stand_soon();
        }
        loop {
            self.drive().await;
            if self.ending_ticks.is_some() && self.may_end() {
                break;
            }
            let has_room = self.origin.waiting_count() < WAITING_MAX_COUNT && shut_down.is_empty();
            let rests = self.rests();
            let is_idle = self.flush.is_none() && self.jobs.is_empty();
            let wakes_at = match (rests, is_idle && self.lazy_hard_state.is_some()) {
                (true, true) => Some(self.rt.now() + IDLE),
                (true, false) => None,
                (false, _) => Some(self.next_tick),
            };
            let wakes_at = match self.session_deadline().filter(|_| rests) {
                Some(deadline) => Some(wakes_at.map_or(deadline, |at| at.min(deadline))),
                None => wakes_at,
            };
            let timer = wakes_at.map(|at| self.rt.timer(at));
            let timer = async {
                match timer {
                    Some(timer) => timer.await,
                    None => std::future::pending().await,
                }
            };
            let flushing = self.flush.is_some();
            let flush = async {
                match &mut self.flush {
                    Some(flush) => flush.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                flushed = flush, if flushing => self.flushed(flushed).await,
                Some(input) = peers.recv() => {
                    self.take_input(input);
                    for _ in 0..GROUP_COUNT {
                        let Ok(input) = peers.try_recv() else { break };
                        self.take_input(input);
                    }
                }
                message = messages.recv(), if has_room => {
                    let mut next = message;
                    if next.is_none() {
                        break;
                    }
                    for _ in 0..GROUP_COUNT {
                        let Some(message) = next.take() else { break };
                        self.take_message(message, &mut shut_down);
                        next = messages.try_recv().ok();
                    }
                    if let Some(message) = next {
                        self.take_message(message, &mut shut_down);
                    }
                }
                () = timer => {
                    if rests {
                        self.write_lazily();
                    }
                }
            }
            if !self.rests() {
                self.tick_if_due();
            }
            self.expire_sessions();
        }
        self.end(messages, shut_down).await
    }

    async fn end(mut self, mut messages: mpsc::Receiver<Message>, mut shut_down: Vec<oneshot::Sender<()>>) -> Vec<oneshot::Sender<()>> {
        self.write_lazily();
        self.start_flush();
        while let Some(flush) = self.flush.take() {
            let flushed = flush.await;
            self.flushed(flushed).await;
            self.start_flush();
        }
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.await;
        }
        drop(self.origin.drain()); // Whoever waits is told that the connection is lost.
        messages.close();
        while let Some(message) = messages.recv().await {
            if let Message::Shutdown { done } = message {
                shut_down.push(done);
            }
        }
        shut_down
    }

    fn tick_if_due(&mut self) {
        let now = self.rt.now();
        if now < self.next_tick {
            return;
        }
        // A little early or late, by the runtime's draw: two members that wait equally long do not go on doing so.
        // One draw for both that are needed: each is a call of the system, and a member at rest does little else.
        let draw = self.rt.random_u64();
        let jitter = Duration::from_micros(draw % (TICK.as_micros() as u64 / 2));
        self.next_tick = now + TICK * 3 / 4 + jitter;
        self.tick_count += 1;
        self.core.tick();
        self.stand_if_due();
        drop(self.origin.tick(draw)); // Whoever waited for them is told that the connection is lost.
        self.tick_reads();
        if self.tick_count.is_multiple_of(self.relay_ticks()) {
            self.relay_heard();
        }
        if self.leadership.is_leader && self.tick_count.is_multiple_of(HOUSEKEEPING_TICKS) {
            self.look_after_members();
        }
        if self.tick_count.is_multiple_of(HOUSEKEEPING_TICKS) && self.flush.is_none() && self.jobs.is_empty() {
            self.write_lazily();
        }
        self.tick_ending();
    }

    fn take_message(&mut self, message: Message, shut_down: &mut Vec<oneshot::Sender<()>>) {
        match message {
            // Whoever waits for what is dropped is told that the connection is lost.
            Message::Propose { .. } | Message::Look { .. } if self.is_removed => {}
            Message::Propose { request, answer, .. } if !self.may_write(&request) => {
                let path = request.operations().first().map_or("", Operation::path);
                let _ = answer.send(Done { zxid: 0, outcome: Err(Failure::new(ErrorCode::Unimplemented, path)) });
            }
            Message::Propose { session, request, answer } => {
                self.origin.submit(Command { session, time_ms: 0, request }, Pending { answer, looks: Vec::new() });
            }
            Message::Look { session, look } => match self.origin.last_of(session) {
                Some(pending) => pending.looks.push(look),
                None => look(&self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner())),
            },
            Message::Sync { answer } => self.begin_read(Waits::Answer(answer)),
            Message::Status { answer } => drop(answer.send(self.status())),
            Message::Change { change, answer } => {
                let taken = self.change_members(change);
                let _ = answer.send(taken);
            }
            Message::Wish(wish) => {
                if self.leadership.is_leader {
                    self.wish(wish);
                } else if let Some(network) = &self.network {
                    network.send(self.leadership.leader, PeerMessage::Wish(wish)); // Told again, if nothing comes of it.
                }
            }
            Message::Ready { answer } => {
                self.ready.push(answer);
                self.tell_ready();
            }
            Message::Shutdown { done } => {
                shut_down.push(done);
                self.ending_ticks.get_or_insert(0);
                self.hand_over();
            }
        }
    }

    fn take_input(&mut self, input: PeerInput) {
        match input {
            PeerInput::Met(met) => self.meet(met),
            PeerInput::Removed => self.removed(),
            PeerInput::Gone(member) => self.is_gone(member),
            PeerInput::Order(order, answer) => {
                let answered = self.order(order);
                let _ = answer.send(answered);
            }
            PeerInput::Export(answer) => self.begin_read(Waits::Export(answer)),
            PeerInput::Message(from, PeerMessage::Raft(message)) => {
                self.heard_of(from);
                // A snapshot's message comes with its content only; and what is for another member was sent before this one lost its disk.
                if message.kind != SNAPSHOT_KIND && message.to == self.raft_id {
                    self.core.step(message);
                }
            }
            PeerInput::Message(_, PeerMessage::Forward(payloads)) => {
                for payload in payloads {
                    if !self.leadership.is_leader || matches!(payload, Payload::Internal(_)) {
                        return; // The origin will be in doubt soon, and propose again elsewhere.
                    }
                    self.propose(&payload);
                }
            }
            PeerInput::Message(_, PeerMessage::Touches(sessions)) => {
                // A leader of another term hears of it, too: a sign of life is one.
                if self.leadership.is_leader {
                    self.sessions_touched(sessions);
                }
            }
            PeerInput::Message(_, PeerMessage::Wish(wish)) => self.wish(wish),
            PeerInput::Join { server_id, address, storage_id, answer } => drop(answer.send(self.join(server_id, address, storage_id))),
            PeerInput::Snapshot(received, accepted) => {
                if received.message.to == self.raft_id {
                    let message = received.message.clone();
                    self.received.insert((received.meta.index, received.meta.term), received);
                    self.core.step(message);
                    let _ = accepted.send(());
                }
            }
            PeerInput::Probe(answer) => {
                // Nobody can have voted yet: an ensemble that is just being made.
                let is_fresh = self.core.conf_state().voters.contains(&self.raft_id) && self.core.leadership().term == 0 && self.core.log_range().1 == 0;
                let _ = answer.send(if is_fresh { PeerAnswer::Empty } else { PeerAnswer::Member });
            }
            PeerInput::SnapshotSent(member, arrived) => self.core.snapshot_sent(member, arrived),
        }
    }

    /// Appends to the log as leader; whoever proposed what was not taken will be in doubt. Tells whether it was taken.
    fn propose(&mut self, payload: &Payload) -> bool {
        let stamped;
        let payload = match payload {
            // The member that it comes from does not know of the older one yet: it is in doubt soon, and knows then.
            Payload::Command { command, .. } if !self.may_write(&command.request) => return false,
            Payload::Command { origin, registration, sequence, command } => {
                // The leader's clock, so that times of one tree come from one clock at a time.
                let command = Command { time_ms: self.rt.unix_ms(), ..command.clone() };
                if command.session != 0 {
                    // Whoever asks lives, however long the log takes: a session does not expire while its client comes back to it.
                    self.sessions_touched(vec![command.session]);
                }
                stamped = Payload::Command { origin: *origin, registration: *registration, sequence: *sequence, command };
                &stamped
            }
            other => other,
        };
        codec::encode(payload).is_ok_and(|data| self.core.propose(Bytes::from(data)).is_ok())
    }

    /// Everything that can be done now without waiting for anything.
    async fn drive(&mut self) {
        loop {
            self.watch_leadership();
            if self.leadership.leader != 0 {
                self.origin.forget(|command, pending| {
                    // Nobody waits for the session any more, or another connection would lose it to this one.
                    matches!(command.request, Request::Attach { .. } | Request::OpenSession { .. }) && pending.answer.is_closed() && pending.looks.is_empty()
                });
                let outgoing = self.origin.outgoing(false);
                if !outgoing.is_empty() {
                    self.send_to_leader(outgoing);
                }
            }
            let Some(work) = self.core.take_work() else { break };
            self.take_work(work).await;
        }
        self.received.clear(); // What consensus had no use for.
        self.look_whether_to_serve();
        self.start_flush();
        self.snapshot_if_due();
    }

    fn send_to_leader(&mut self, outgoing: Vec<Payload>) {
        if self.leadership.is_leader {
            for payload in &outgoing {
                self.propose(payload);
            }
        } else if !self.network.as_ref().is_some_and(|network| network.send(self.leadership.leader, PeerMessage::Forward(outgoing))) {
            // It was dropped: what came after it must not be carried out before it. Time passes first, so that a full queue is not asked at once again.
            self.origin.stall();
        }
    }

    fn watch_leadership(&mut self) {
        let now = self.core.leadership();
        if now == self.leadership {
            return;
        }
        let before = std::mem::replace(&mut self.leadership, now);
        if (before.leader, before.term) != (now.leader, now.term) && now.leader != 0 {
            let nonce = self.rt.random_u64();
            self.origin.doubt(nonce);
            self.leader_changed();
            for id in self.reads.iter().filter(|(_, read)| read.index.is_none()).map(|(id, _)| *id).collect::<Vec<_>>() {
                self.ask_to_read(id);
            }
        }
        if now.is_leader && !before.is_leader {
            self.rt.event("coordination leads", &[now.term]);
            if let Some(observer) = &self.observer {
                observer.elected(self.raft_id, now.term);
            }
            self.watch_sessions();
        } else if before.is_leader && !now.is_leader {
            self.unwatch_sessions();
        }
    }

    async fn take_work(&mut self, mut work: Work) {
        for message in std::mem::take(&mut work.messages_now) {
            self.send(message);
        }
        if plant!(&self.rt, "ack-append-before-fsync") {
            for message in std::mem::take(&mut work.messages_after) {
                self.send(message);
            }
        }
        for (index, context) in std::mem::take(&mut work.reads) {
            if let Ok((salt, id)) = codec::decode::<(u64, u64)>(&context)
                && salt == self.read_salt
                && let Some(read) = self.reads.get_mut(&id)
            {
                read.index.get_or_insert(index);
            }
        }
        let mut committed = std::mem::take(&mut work.committed);
        if plant!(&self.rt, "apply-before-commit") && !self.leadership.is_leader {
            let early = work.entries.iter().filter(|entry| entry.index == self.replicated.applied.0 + 1 && entry.kind == EntryKind::Proposal);
            committed.extend(early.cloned().collect::<Vec<_>>());
        }
        let snapshot = match &work.snapshot {
            Some(meta) => {
                let received = self.received.remove(&(meta.index, meta.term)).expect("a snapshot's message is stepped with its content at hand");
                let ReceivedSnapshot { meta, state, tree, .. } = *received;
                Some((meta, state, tree))
            }
            None => None,
        };
        if work.is_lazy() && self.flush.is_none() && self.jobs.is_empty() {
            // Nothing to wait for.
            self.lazy_hard_state = work.hard_state.or(self.lazy_hard_state);
            for message in std::mem::take(&mut work.messages_after) {
                self.send(message);
            }
            self.core.persisted(work.number);
        } else {
            self.jobs.push_back(Job { work, snapshot });
        }
        if !committed.is_empty() {
            self.apply(committed).await;
        }
        self.finish_reads();
    }

    fn send(&mut self, message: RaftMessage) {
        let to = message.to;
        let Some(network) = &self.network else { return };
        if let (Some(observer), Some(promise)) = (&self.observer, promise_of(&message)) {
            observer.promised(self.raft_id, promise);
        }
        if message.kind == SNAPSHOT_KIND {
            let (index, term) = self.replicated.applied;
            let tree = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
            let meta = SnapshotMeta { index, term, conf_state: self.core.applied_conf_state().clone(), last_zxid: tree.last_zxid() };
            // As of now, not as of when consensus asked for it: later is as good.
            let message = RaftMessage { snapshot: Some(meta.clone()), ..message };
            network.send_snapshot(to, OutgoingSnapshot { message, meta, state: self.replicated.to_snapshot(), tree });
        } else if !network.send(to, PeerMessage::Raft(message)) {
            self.core.unreachable(to);
        }
    }

    fn halt(&self, why: &str) -> impl Future<Output = ()> + Send + use<R, C> {
        let (rt, why) = (self.rt.clone(), why.to_owned());
        async move {
            let never: Infallible = rt.halt(&why).await;
            match never {}
        }
    }
}

fn lost() -> Failure {
    Failure::new(ErrorCode::ConnectionLoss, "")
}

async fn write<R: Runtime>(storage: &mut Storage<R>, batch: &Batch) -> Result<(), StorageError> {
    if let Some((meta, state, tree)) = &batch.snapshot {
        let hard_state = batch.hard_state.unwrap_or(storage.hard_state());
        let hard_state = HardState { commit: hard_state.commit.max(meta.index), ..hard_state };
        storage.install(meta.clone(), state, tree.items(), hard_state).await?;
    }
    storage.append(&batch.entries, batch.hard_state).await?;
    if batch.roll {
        storage.roll().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
