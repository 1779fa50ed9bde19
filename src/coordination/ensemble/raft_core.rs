//! [`Consensus`] by the `raft` crate: the translation between its types and ours, and what its documentation leaves to the driver.

use std::collections::VecDeque;

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb::{
    ConfChange, ConfChangeType, ConfState as RaftConfState, Entry as RaftEntry, EntryType, HardState as RaftHardState, Message, MessageType, SnapshotMetadata,
};
use raft::{Config, INVALID_ID, RawNode, SnapshotStatus, StateRole, Storage};

use super::Promise;
use super::consensus::{Change, Consensus, Leadership, NotTaken, Progress, RaftMessage, Work};
use super::log_store::LogStore;
use crate::codec;
use crate::coordination::storage::format::{ConfState, Entry, EntryKind, HardState, MemberRecord, SnapshotMeta};

/// How many ticks pass between two heartbeats of a leader.
pub const HEARTBEAT_TICKS: usize = 2;

/// After how many ticks without a leader a member stands for election, at least.
pub const ELECTION_TICKS: usize = 10;

/// The most bytes of entries in one message, beyond the first.
const MESSAGE_MAX_BYTES: u64 = 512 << 10;

/// The most appends that are under way to one member.
const INFLIGHT_COUNT: usize = 128;

/// Marks entries of [`EntryKind::Proposal`] in Raft's own type, which has no kinds of its own for them.
const PROPOSAL_MARK: &[u8] = &[1];

/// With what a machine begins its life.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Its Raft id.
    pub raft_id: u64,
    /// The last entry that the loaded state includes, by index and term; zeros without a snapshot.
    pub base: (u64, u64),
    /// The membership after that entry.
    pub conf_state: ConfState,
    /// The durable entries after it.
    pub entries: Vec<Entry>,
    /// The durable hard state.
    pub hard_state: HardState,
}

/// A change of the membership that is in the log and not applied.
struct Pending {
    index: u64,
    term: u64,
    /// The membership after it.
    conf_state: ConfState,
}

/// The machine.
pub struct RaftCore {
    node: RawNode<LogStore>,
    applied_conf: ConfState,
    /// The changes in the log behind what is applied, in their order. The library counts the members after the last of them: it would do so from when a change
    /// is applied on, and is told earlier.
    pending: VecDeque<Pending>,
    /// The members of a snapshot that has come and is not the state yet, and its last entry.
    received: Option<(u64, ConfState)>,
    applied: u64,
    /// The term that is durable: a leader's messages of a later one have to wait.
    durable_term: u64,
    /// The terms of works that are not durable yet.
    terms: Vec<(u64, u64)>,
    /// The last entry of a snapshot that was given out and is not the state yet. Until it is, this member must not stand for election: the library would look
    /// into the entries that the snapshot stands for, and they are gone.
    installing: Option<u64>,
}

impl RaftCore {
    /// # Panics
    /// If the beginning contradicts itself, which the storage has checked.
    pub fn new(beginning: Beginning) -> Self {
        let Beginning { raft_id, base, conf_state, entries, hard_state } = beginning;
        let last = entries.last().map_or(base.0, |entry| entry.index);
        let hard = RaftHardState {
            term: hard_state.term.max(base.1),
            vote: if hard_state.term >= base.1 { hard_state.vote } else { 0 },
            commit: hard_state.commit.clamp(base.0, last),
            ..RaftHardState::default()
        };
        let durable_term = hard.term;
        let changes: Vec<(u64, u64, Change)> = entries.iter().filter_map(|entry| Some((entry.index, entry.term, change_in(entry)?))).collect();
        let store = LogStore::new(base, entries.into_iter().map(to_raft_entry).collect(), hard, to_raft_conf(&conf_state));
        // The library draws its election time-out at random, outside the seed: one apart leaves it no choice. The members differ, and the driver's
        // ticks are drawn from the runtime.
        let ticks = ELECTION_TICKS + 2 * (raft_id % 5) as usize;
        let config = Config {
            id: raft_id,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: base.0,
            max_size_per_msg: MESSAGE_MAX_BYTES,
            max_inflight_msgs: INFLIGHT_COUNT,
            check_quorum: true,
            pre_vote: true,
            min_election_tick: ticks,
            max_election_tick: ticks + 1,
            ..Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let node = RawNode::new(&config, store, &logger).expect("the configuration is valid");
        let pending = VecDeque::new();
        let mut core = Self { node, applied_conf: conf_state, pending, received: None, applied: base.0, durable_term, terms: Vec::new(), installing: None };
        core.follow_log(changes);
        core
    }

    /// The log has changed, and may hold these changes of the membership, by index and term: those that it does count from now on, and those that it does not
    /// hold any more count no more.
    fn follow_log(&mut self, changes: Vec<(u64, u64, Change)>) {
        let raft_log = &self.node.raft.raft_log;
        let stands_for = self.received.as_ref().map_or(self.applied, |(index, _)| *index);
        if let Some(snapshot) = raft_log.unstable.snapshot.as_ref().map(|snapshot| snapshot.get_metadata()).filter(|meta| meta.index > stands_for) {
            // The library counts its members already.
            self.received = Some((snapshot.index, from_raft_conf(snapshot.get_conf_state())));
            self.pending.clear();
        }
        let holds = |index: u64, term: u64| raft_log.term(index).is_ok_and(|found| found == term);
        while self.pending.back().is_some_and(|last| !holds(last.index, last.term)) {
            self.pending.pop_back();
        }
        let stands_for = self.received.as_ref().map_or(self.applied, |(index, _)| *index);
        for (index, term, change) in changes {
            if index > stands_for.max(self.pending.back().map_or(0, |last| last.index)) && holds(index, term) {
                let conf_state = change.after(self.conf_state());
                self.pending.push_back(Pending { index, term, conf_state });
            }
        }
        self.count_members();
    }

    /// Makes the members that count those of the last change in the log.
    fn count_members(&mut self) {
        let now = from_raft_conf(&self.node.raft.prs().conf().to_conf_state());
        let wanted = self.conf_state().clone();
        if now == wanted {
            return;
        }
        let voters = wanted.voters.iter().filter(|id| !now.voters.contains(id)).map(|id| (ConfChangeType::AddNode, *id));
        let learners = wanted.learners.iter().filter(|id| !now.learners.contains(id)).map(|id| (ConfChangeType::AddLearnerNode, *id));
        let known = now.voters.iter().chain(&now.learners);
        let gone = known.filter(|id| !wanted.voters.contains(id) && !wanted.learners.contains(id)).map(|id| (ConfChangeType::RemoveNode, *id));
        // One after the other: only where changes were replaced is it more than one, and such a member leads nobody.
        for (kind, id) in voters.chain(learners).chain(gone) {
            let mut raw = ConfChange { node_id: id, ..ConfChange::default() };
            raw.set_change_type(kind);
            let _ = self.node.apply_conf_change(&raw); // It refuses to be without voters, and so does `Change::after`.
        }
    }
}

/// The change of the membership in an entry of that kind; `None` if it is none.
fn change_in(entry: &Entry) -> Option<Change> {
    if entry.kind != EntryKind::ConfChange {
        return None;
    }
    let raw = ConfChange::parse_from_bytes(&entry.data).ok()?;
    let record = || codec::decode::<MemberRecord>(&raw.context).unwrap_or_default();
    Some(match raw.get_change_type() {
        ConfChangeType::AddNode => Change::AddVoter(raw.node_id, record()),
        ConfChangeType::AddLearnerNode => Change::AddLearner(raw.node_id, record()),
        ConfChangeType::RemoveNode => Change::Remove(raw.node_id),
    })
}

impl Consensus for RaftCore {
    fn tick(&mut self) {
        if self.installing.is_none() {
            self.node.tick();
        }
    }

    fn step(&mut self, message: RaftMessage) {
        if self.installing.is_some() && message.kind == MessageType::MsgTimeoutNow as u8 {
            return; // The leader that hands over asks again, or another one.
        }
        let changes: Vec<(u64, u64, Change)> = message.entries.iter().filter_map(|entry| Some((entry.index, entry.term, change_in(entry)?))).collect();
        let changes_log = !message.entries.is_empty() || message.kind == SNAPSHOT_KIND;
        if let Some(message) = to_raft_message(message) {
            // Answers of members that are none any more, and what a stopped follower refuses: nothing to be done about either.
            let _ = self.node.step(message);
        }
        if changes_log {
            self.follow_log(changes);
        }
    }

    fn propose(&mut self, data: Bytes) -> Result<(), NotTaken> {
        if self.node.raft.state != StateRole::Leader {
            return Err(NotTaken); // The library would forward it, and nobody would know whether it arrived.
        }
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.node.raft.id;
        message.set_entries(vec![RaftEntry { data, context: Bytes::from_static(PROPOSAL_MARK), ..RaftEntry::default() }].into());
        self.node.raft.step(message).map_err(|_| NotTaken)
    }

    fn propose_change(&mut self, change: &Change) -> Result<(), NotTaken> {
        if self.node.raft.state != StateRole::Leader {
            return Err(NotTaken);
        }
        if !self.pending.is_empty() || !self.node.raft.commit_to_current_term() {
            return Ok(()); // What an earlier leader appended may still come to be: the next change must build on it.
        }
        let (kind, id, record) = match change {
            Change::AddLearner(id, record) => (ConfChangeType::AddLearnerNode, *id, Some(record)),
            Change::AddVoter(id, record) => (ConfChangeType::AddNode, *id, Some(record)),
            Change::Remove(id) => (ConfChangeType::RemoveNode, *id, None),
        };
        let mut raw = ConfChange { node_id: id, ..ConfChange::default() };
        raw.set_change_type(kind);
        if let Some(record) = record {
            raw.context = codec::encode(record).map_err(|_| NotTaken)?.into();
        }
        self.node.propose_conf_change(Vec::new(), raw).map_err(|_| NotTaken)?;
        let (index, term) = (self.node.raft.raft_log.last_index(), self.node.raft.term);
        let taken = self.node.raft.raft_log.unstable.entries.last().cloned().map(from_raft_entry);
        // It is another entry if the library replaced it by nothing.
        if let Some(change) = taken.filter(|entry| entry.index == index).as_ref().and_then(change_in) {
            self.follow_log(vec![(index, term, change)]);
        }
        Ok(())
    }

    fn read_index(&mut self, context: Bytes) {
        self.node.read_index(context.to_vec());
    }

    fn campaign(&mut self) {
        // The library asks for a vote of its own only where it counts time itself.
        if self.installing.is_some() || !self.node.raft.promotable() {
            return;
        }
        let _ = self.node.campaign();
    }

    #[cfg(feature = "plants")]
    fn campaign_without_asking(&mut self) {
        self.node.raft.pre_vote = false;
        self.campaign();
        self.node.raft.pre_vote = true;
    }

    fn lose_leader(&mut self) {
        if self.node.raft.state == StateRole::Follower {
            let term = self.node.raft.term;
            self.node.raft.become_follower(term, INVALID_ID);
        }
    }

    fn transfer_leadership(&mut self, to: u64) {
        self.node.transfer_leader(to);
    }

    fn take_work(&mut self) -> Option<Work> {
        if !self.node.has_ready() {
            return None;
        }
        let mut ready = self.node.ready();
        let mut work = Work { number: ready.number(), must_sync: ready.must_sync(), ..Work::default() };
        work.hard_state = ready.hs().map(|hard| HardState { term: hard.term, vote: hard.vote, commit: hard.commit });
        let term = self.node.raft.term;
        if work.must_sync {
            self.terms.push((work.number, term));
        }
        let now = ready.take_messages();
        let mut after = ready.take_persisted_messages();
        let mut early = Vec::new();
        if self.durable_term == term {
            early = now;
            // These promise nothing that waits for the disk: a leader must hear of a follower although its disk is slow.
            let promises_nothing = |message: &mut Message| matches!(message.get_msg_type(), MessageType::MsgHeartbeatResponse | MessageType::MsgReadIndex);
            early.extend(after.extract_if(.., promises_nothing));
        } else {
            // A member that is the only voter leads before its own term is durable; its learners must not hear of that term before.
            after.splice(0..0, now);
        }
        work.messages_now = early.into_iter().filter_map(from_raft_message).collect();
        work.messages_after = after.into_iter().filter_map(from_raft_message).collect();
        work.reads = ready.take_read_states().into_iter().map(|read| (read.index, Bytes::from(read.request_ctx))).collect();
        if !ready.snapshot().is_empty() {
            let metadata = ready.snapshot().get_metadata().clone();
            work.snapshot = Some(from_metadata(&metadata));
            self.installing = Some(metadata.index);
            self.node.mut_store().install(metadata.index, metadata.term, metadata.get_conf_state().clone());
        }
        let entries = ready.take_entries();
        self.node.mut_store().append(&entries);
        work.entries = entries.into_iter().map(from_raft_entry).collect();
        work.committed = ready.take_committed_entries().into_iter().map(from_raft_entry).collect();
        self.node.advance_append_async(ready);
        Some(work)
    }

    fn persisted(&mut self, number: u64) {
        while let Some((_, term)) = self.terms.first().filter(|(of, _)| *of <= number).copied() {
            self.durable_term = self.durable_term.max(term);
            self.terms.remove(0);
        }
        self.node.on_persist_ready(number);
    }

    fn applied(&mut self, index: u64) {
        self.node.mut_store().set_applied(index);
        self.node.advance_apply_to(index);
        self.installing = self.installing.filter(|last| index < *last);
        self.applied = self.applied.max(index);
        if let Some((_, conf_state)) = self.received.take_if(|(last, _)| *last <= index) {
            self.applied_conf = conf_state;
        }
        while self.pending.front().is_some_and(|first| first.index <= self.applied) {
            self.pending.pop_front();
        }
    }

    fn apply_change(&mut self, change: &Change) -> ConfState {
        self.applied_conf = change.after(&self.applied_conf);
        self.node.mut_store().set_conf_state(to_raft_conf(&self.applied_conf));
        self.applied_conf.clone()
    }

    fn change_of(&self, entry: &Entry) -> Option<Change> {
        change_in(entry)
    }

    fn compact(&mut self, index: u64) {
        self.node.mut_store().compact(index);
    }

    fn snapshot_sent(&mut self, member: u64, arrived: bool) {
        self.node.report_snapshot(member, if arrived { SnapshotStatus::Finish } else { SnapshotStatus::Failure });
    }

    fn unreachable(&mut self, member: u64) {
        self.node.report_unreachable(member);
    }

    fn leadership(&self) -> Leadership {
        let raft = &self.node.raft;
        Leadership { term: raft.term, leader: raft.leader_id, is_leader: raft.state == StateRole::Leader }
    }

    fn committed(&self) -> u64 {
        self.node.raft.raft_log.committed
    }

    fn conf_state(&self) -> &ConfState {
        let applied = self.received.as_ref().map_or(&self.applied_conf, |(_, conf_state)| conf_state);
        self.pending.back().map_or(applied, |last| &last.conf_state)
    }

    fn applied_conf_state(&self) -> &ConfState {
        &self.applied_conf
    }

    fn progress(&self, member: u64) -> Option<Progress> {
        let progress = self.node.raft.prs().get(member)?;
        Some(Progress { matched: progress.matched, is_active: progress.recent_active })
    }

    fn log_range(&self) -> (u64, u64) {
        let raft_log = &self.node.raft.raft_log;
        (raft_log.store.first_index().unwrap_or(1), raft_log.last_index())
    }
}

fn to_raft_entry(entry: Entry) -> RaftEntry {
    let mut raw = RaftEntry { term: entry.term, index: entry.index, data: entry.data, ..RaftEntry::default() };
    match entry.kind {
        EntryKind::Normal => {}
        EntryKind::Proposal => raw.context = Bytes::from_static(PROPOSAL_MARK),
        EntryKind::ConfChange => raw.set_entry_type(EntryType::EntryConfChange),
        EntryKind::ConfChangeV2 => raw.set_entry_type(EntryType::EntryConfChangeV2),
    }
    raw
}

fn from_raft_entry(raw: RaftEntry) -> Entry {
    let kind = match raw.get_entry_type() {
        EntryType::EntryNormal if raw.context.is_empty() => EntryKind::Normal,
        EntryType::EntryNormal => EntryKind::Proposal,
        EntryType::EntryConfChange => EntryKind::ConfChange,
        EntryType::EntryConfChangeV2 => EntryKind::ConfChangeV2,
    };
    Entry { term: raw.term, index: raw.index, kind, data: raw.data }
}

fn to_raft_conf(conf_state: &ConfState) -> RaftConfState {
    RaftConfState { voters: conf_state.voters.clone(), learners: conf_state.learners.clone(), ..RaftConfState::default() }
}

fn from_raft_conf(raw: &RaftConfState) -> ConfState {
    let (mut voters, mut learners) = (raw.voters.clone(), raw.learners.clone());
    // The library keeps them in hash sets.
    voters.sort_unstable();
    learners.sort_unstable();
    ConfState { voters, learners }
}

fn from_metadata(raw: &SnapshotMetadata) -> SnapshotMeta {
    SnapshotMeta { index: raw.index, term: raw.term, conf_state: from_raft_conf(raw.get_conf_state()), last_zxid: 0 }
}

/// Every kind that goes between members, by the number that stands in our own messages: theirs.
const KINDS: [MessageType; 15] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgUnreachable,
    MessageType::MsgSnapStatus,
    MessageType::MsgTransferLeader,
    MessageType::MsgTimeoutNow,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
];

/// The number of the kind that announces a snapshot, in [`RaftMessage::kind`].
pub const SNAPSHOT_KIND: u8 = MessageType::MsgSnapshot as u8;

/// What a member promises by sending `message`, if anything.
pub fn promise_of(message: &RaftMessage) -> Option<Promise> {
    let is = |kind: MessageType| message.kind == kind as u8;
    if is(MessageType::MsgRequestVote) {
        Some(Promise::Vote { term: message.term, candidate: message.from })
    } else if is(MessageType::MsgRequestVoteResponse) && !message.reject {
        Some(Promise::Vote { term: message.term, candidate: message.to })
    } else if is(MessageType::MsgAppendResponse) && !message.reject {
        Some(Promise::Log { term: message.term, index: message.index })
    } else {
        None
    }
}

fn to_raft_message(message: RaftMessage) -> Option<Message> {
    let kind = *KINDS.iter().find(|kind| **kind as u8 == message.kind)?;
    let mut raw = Message {
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        commit: message.commit,
        commit_term: message.commit_term,
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
        ..Message::default()
    };
    raw.set_msg_type(kind);
    raw.set_entries(message.entries.into_iter().map(to_raft_entry).collect::<Vec<_>>().into());
    if let Some(meta) = message.snapshot {
        let metadata = raw.mut_snapshot().mut_metadata();
        (metadata.index, metadata.term) = (meta.index, meta.term);
        metadata.set_conf_state(to_raft_conf(&meta.conf_state));
    }
    Some(raw)
}

fn from_raft_message(mut raw: Message) -> Option<RaftMessage> {
    let kind = raw.get_msg_type();
    if !KINDS.contains(&kind) {
        return None;
    }
    let snapshot = (kind == MessageType::MsgSnapshot).then(|| from_metadata(raw.get_snapshot().get_metadata()));
    Some(RaftMessage {
        kind: kind as u8,
        to: raw.to,
        from: raw.from,
        term: raw.term,
        log_term: raw.log_term,
        index: raw.index,
        entries: raw.take_entries().into_iter().map(from_raft_entry).collect(),
        commit: raw.commit,
        commit_term: raw.commit_term,
        snapshot,
        request_snapshot: raw.request_snapshot,
        reject: raw.reject,
        reject_hint: raw.reject_hint,
        context: raw.context,
        priority: raw.priority,
    })
}

#[cfg(test)]
mod tests;
