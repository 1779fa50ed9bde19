//! What the ensemble needs of a consensus algorithm, in our own words: a pure state machine that is ticked, stepped and asked what to do.
//!
//! The order of things is the caller's duty, and the type of [`Work`] tells it:
//! 1. `messages_now` may go at once: what a leader sends in a term that is durable with it promises nothing of its own log.
//! 2. A received snapshot, `entries` and `hard_state` are made durable, works in their order.
//! 3. Only then `messages_after` of that work go: votes, acknowledgements. Then [`Consensus::persisted`] is called with its number.
//! 4. `committed` is applied, in order. Nothing is ever in it that is not durable here and committed there.
//!
//! A change of the membership counts from the moment that it is in a member's log, committed or not, and counts no more if it is replaced (Ongaro's thesis, 4.1). One
//! is begun only when the one before is applied and the leader has committed an entry of its own term. So a majority of the *new* members has the change when it is
//! committed, and whatever single member is lost then, one of the others knows who they are.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::coordination::storage::format::{ConfState, Entry, HardState, MemberRecord, SnapshotMeta};

/// A message between the consensus machines of two members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftMessage {
    /// The kind, in the numbering of Raft's library.
    pub kind: u8,
    /// To which Raft id.
    pub to: u64,
    /// From which Raft id.
    pub from: u64,
    /// The sender's term; 0 for some requests that carry none.
    pub term: u64,
    /// The term of the entry `index`.
    pub log_term: u64,
    /// An index that the kind gives its meaning.
    pub index: u64,
    /// Entries, without gaps.
    pub entries: Vec<Entry>,
    /// What the sender knows to be committed.
    pub commit: u64,
    /// The term of that entry.
    pub commit_term: u64,
    /// What the snapshot stands for that the message announces; its content goes beside it.
    pub snapshot: Option<SnapshotMeta>,
    /// The index that a requested snapshot must reach.
    pub request_snapshot: u64,
    /// Whether the answer is no.
    pub reject: bool,
    /// Where the refusing log ends.
    pub reject_hint: u64,
    /// Opaque: the context of a read.
    pub context: Bytes,
    /// The candidate's priority.
    pub priority: i64,
}

/// A change of the membership, one member at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// Adds a member that only receives.
    AddLearner(u64, MemberRecord),
    /// Gives a learner a vote, or a member another record.
    AddVoter(u64, MemberRecord),
    /// Removes a member for good: its Raft id is never used again.
    Remove(u64),
}

impl Change {
    /// The membership after it. What makes no sense (removing the last voter, taking a vote away) is no change, on every member alike.
    pub fn after(&self, before: &ConfState) -> ConfState {
        let ConfState { mut voters, mut learners } = before.clone();
        let is_voter = |id: &u64| before.voters.contains(id);
        match self {
            Self::AddLearner(id, _) if is_voter(id) => {}
            Self::Remove(id) if before.voters == [*id] => {}
            Self::AddLearner(id, _) => learners.push(*id),
            Self::AddVoter(id, _) => {
                learners.retain(|learner| learner != id);
                voters.push(*id);
            }
            Self::Remove(id) => {
                voters.retain(|voter| voter != id);
                learners.retain(|learner| learner != id);
            }
        }
        for ids in [&mut voters, &mut learners] {
            ids.sort_unstable();
            ids.dedup();
        }
        ConfState { voters, learners }
    }
}

/// Who leads, as a member knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The term.
    pub term: u64,
    /// The leader's Raft id; 0 if none is known.
    pub leader: u64,
    /// Whether it is this member.
    pub is_leader: bool,
}

/// How far a follower or learner is, as the leader knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The last entry that it is known to have on disk.
    pub matched: u64,
    /// Whether it was heard of within the last election time-out.
    pub is_active: bool,
}

/// What is to be done; see the head of this file for the order.
#[derive(Clone, Debug, Default)]
pub struct Work {
    /// For [`Consensus::persisted`].
    pub number: u64,
    /// To be sent at once.
    pub messages_now: Vec<RaftMessage>,
    /// A snapshot that replaces the log and the state.
    pub snapshot: Option<SnapshotMeta>,
    /// To be appended; the first may replace entries that are there.
    pub entries: Vec<Entry>,
    /// To be written behind the entries.
    pub hard_state: Option<HardState>,
    /// Whether `hard_state` has more news than a commit index, which may be lost.
    pub must_sync: bool,
    /// To be sent once all of that is durable.
    pub messages_after: Vec<RaftMessage>,
    /// To be applied.
    pub committed: Vec<Entry>,
    /// Reads that may go on once the state has reached the index: the index, and the context given to [`Consensus::read_index`].
    pub reads: Vec<(u64, Bytes)>,
}

impl Work {
    /// Whether it has nothing that must be durable: at most a newer commit index.
    pub fn is_lazy(&self) -> bool {
        self.snapshot.is_none() && self.entries.is_empty() && !self.must_sync
    }
}

/// The proposal was not taken: this member does not lead, or a hand-over is under way. It will never be in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotTaken;

/// A consensus machine. It does no I/O and reads no clock.
pub trait Consensus: Send + 'static {
    /// One tick of time has passed.
    fn tick(&mut self);
    /// A message has come from a peer.
    fn step(&mut self, message: RaftMessage);
    /// Appends `data` to the log, if this member leads.
    ///
    /// # Errors
    /// [`NotTaken`].
    fn propose(&mut self, data: Bytes) -> Result<(), NotTaken>;
    /// Appends a change of the membership, if this member leads. If another change is under way, or nothing is committed yet in this leader's term, it comes to
    /// nothing: ask again.
    ///
    /// # Errors
    /// [`NotTaken`].
    fn propose_change(&mut self, change: &Change) -> Result<(), NotTaken>;
    /// Asks for the index that a linearizable read must wait for. It may be lost: ask again, with another context.
    fn read_index(&mut self, context: Bytes);
    /// Stands for election now.
    fn campaign(&mut self);
    /// A plant: stands for election without asking first whether anybody would vote for it, whoever leads.
    #[cfg(feature = "plants")]
    fn campaign_without_asking(&mut self);
    /// The leader that this member follows is known to have ended: it follows nobody, and does not hold others back from standing for election.
    fn lose_leader(&mut self);
    /// Hands leadership over to `to`.
    fn transfer_leadership(&mut self, to: u64);
    /// What is to be done now; `None` if nothing.
    fn take_work(&mut self) -> Option<Work>;
    /// The works up to `number` are durable.
    fn persisted(&mut self, number: u64);
    /// The state has reached `index`.
    fn applied(&mut self, index: u64);
    /// A change is applied: the membership that snapshots from now on carry.
    fn apply_change(&mut self, change: &Change) -> ConfState;
    /// The change in an entry of that kind; `None` if it is none.
    fn change_of(&self, entry: &Entry) -> Option<Change>;
    /// Entries up to `index` are not needed in memory any more; they must have been applied.
    fn compact(&mut self, index: u64);
    /// Whether the snapshot for `member` arrived.
    fn snapshot_sent(&mut self, member: u64, arrived: bool);
    /// Nothing gets through to `member`.
    fn unreachable(&mut self, member: u64);
    /// Who leads.
    fn leadership(&self) -> Leadership;
    /// The last entry known to be committed.
    fn committed(&self) -> u64;
    /// The members that count for elections and commitment: those of the last change in the log.
    fn conf_state(&self) -> &ConfState;
    /// The members after the last applied change: what a snapshot of the state stands for.
    fn applied_conf_state(&self) -> &ConfState;
    /// How far a member is; only the leader knows.
    fn progress(&self, member: u64) -> Option<Progress>;
    /// The first entry that is in memory, and the last one there is.
    fn log_range(&self) -> (u64, u64);
}
