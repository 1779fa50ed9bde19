//! What the files of the coordination log hold, and how they are named.
//!
//! - `log-<first index>.ottla`: a [`LogHead`], then records. Every record's frame begins with its own position and with the position
//!   before which all bytes were durable when it was written ([`Placed`]): so recovery tells a torn tail (nothing after the damage
//!   knew it to be durable: dropped) from rot (something did: refused).
//! - `snapshot-<index>.ottla`: a [`SnapshotHead`], a [`SnapshotState`] (none in those of a member that was always alone), chunks of tree items,
//!   a [`SnapshotEnd`].
//! - `received-snapshot-<index>.ottla`: a snapshot that is to take the place of the log; it gets its name once the log that follows it is there.
//! - `*.tmp`: a file that was never finished; removed when found.
//!
//! The index in a name is decimal, 20 digits. Frames are [`crate::codec`]'s.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The format version that is written, and the highest one that is read.
///
/// | version | what it added |
/// |---|---|
/// | 1 | |
/// | 2 | identities, proposals by origin, the state of an ensemble in snapshots; ACLs, containers, times to live, sessions of clients: more variants at the ends of the enums, so that what version 1 wrote reads as it is |
/// | 3 | the connection that a client's session is attached to, in requests and in snapshots, and where members serve clients: again more variants at the ends |
pub const FORMAT: u16 = 3;

/// The kinds of frames in both files.
pub mod kind {
    /// The head of a log file.
    pub const LOG_HEAD: u8 = 1;
    /// A log entry.
    pub const ENTRY: u8 = 2;
    /// The hard state.
    pub const HARD_STATE: u8 = 3;
    /// The end of a log file that another follows.
    pub const ROLL: u8 = 4;
    /// Who the member is that the directory belongs to; right behind the head.
    pub const IDENTITY: u8 = 5;
    /// The head of a snapshot.
    pub const SNAPSHOT_HEAD: u8 = 16;
    /// Parts of the tree.
    pub const SNAPSHOT_ITEMS: u8 = 17;
    /// The end of a snapshot.
    pub const SNAPSHOT_END: u8 = 18;
    /// What is replicated beside the tree; right behind the head.
    pub const SNAPSHOT_STATE: u8 = 19;
}

/// The first frame of a log file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogHead {
    /// Drawn when the directory was made; the same in all its files.
    pub storage_id: u64,
    /// The index of the first entry that was to be written into this file.
    pub first_index: u64,
    /// The term of the entry before it; 0 if there is none.
    pub previous_term: u64,
    /// The file before this one, by its first index; none for the first of all.
    pub previous_file: Option<u64>,
    /// The hard state when the file was made: files before it may be removed, and nobody may forget a vote.
    pub hard_state: HardState,
}

/// A record with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed<T> {
    /// The position of the frame's first byte in the file.
    pub position: u64,
    /// All bytes of the file before this position were durable when the frame was written.
    pub durable_before: u64,
    /// The record.
    pub record: T,
}

/// What a log entry is for; the numbering of Raft's entry types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A command of the state machine; without data, the mark of a new term.
    Normal,
    /// A change of the membership.
    ConfChange,
    /// A joint change of the membership.
    ConfChangeV2,
    /// A command of the state machine with where it came from.
    Proposal,
}

/// A log entry, as Raft counts them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The term of the leader that proposed it.
    pub term: u64,
    /// Its place in the log, from 1.
    pub index: u64,
    /// What it is for.
    pub kind: EntryKind,
    /// Its content.
    pub data: Bytes,
}

/// What a member must not forget besides its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardState {
    /// The latest term that it has seen.
    pub term: u64,
    /// Whom it voted for in that term; 0 for nobody.
    pub vote: u64,
    /// The highest index that it knows to be committed.
    pub commit: u64,
}

/// The end of a log file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roll {
    /// The first index of the file that follows.
    pub next_file: u64,
}

/// A member as all members know it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// The `N` of its `server.N`; 0 if it was never given one.
    pub server_id: u32,
    /// Where its peers reach it, `host:port`; empty for a member that was always alone.
    pub address: String,
    /// The storage id of its directory, by which a member that lost its disk is told from the one before; 0 where it is not known.
    pub storage_id: u64,
}

/// Who the member is that a directory belongs to. A directory without one belongs to a member that was always alone: Raft id 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Its Raft id, which no other member ever has, nor had.
    pub raft_id: u64,
    /// The `N` of its `server.N`.
    pub server_id: u32,
    /// The voters with which the ensemble began, if this member was among them; none for one that joined later.
    pub initial: Vec<(u64, MemberRecord)>,
}

/// Who takes part in consensus.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfState {
    /// Members that vote.
    pub voters: Vec<u64>,
    /// Members that only receive.
    pub learners: Vec<u64>,
}

/// What a snapshot stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotMeta {
    /// The last entry that it includes.
    pub index: u64,
    /// That entry's term.
    pub term: u64,
    /// The membership after that entry.
    pub conf_state: ConfState,
    /// The zxid of the tree.
    pub last_zxid: i64,
}

/// The first frame of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotHead {
    /// As in [`LogHead`].
    pub storage_id: u64,
    /// What it stands for.
    pub meta: SnapshotMeta,
}

/// What is replicated beside the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotState {
    /// All members.
    pub members: Vec<(u64, MemberRecord)>,
    /// The Raft id that the next member to join gets; 0 where none was ever given.
    pub next_raft_id: u64,
    /// Where proposals come from: the member, the index of its registration, its last sequence number.
    pub origins: Vec<(u64, u64, u64)>,
    /// The running checksum over all that was applied.
    pub digest: u64,
}

/// The last frame of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotEnd {
    /// How many items were written.
    pub item_count: u64,
}

/// The prefix of a snapshot that came from another member, until the log that follows it is there.
pub const RECEIVED_PREFIX: &str = "received-";

/// The suffix of files that are not finished.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// The name of the log file whose first entry is `first_index`.
pub fn log_name(first_index: u64) -> String {
    format!("log-{first_index:020}.ottla")
}

/// The name of the snapshot up to `index`.
pub fn snapshot_name(index: u64) -> String {
    format!("snapshot-{index:020}.ottla")
}

/// The index in a log file's name.
pub fn log_index(name: &str) -> Option<u64> {
    index(name, "log-")
}

/// The index in a snapshot's name.
pub fn snapshot_index(name: &str) -> Option<u64> {
    index(name, "snapshot-")
}

fn index(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?.strip_suffix(".ottla")?;
    if digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_others_are_not_ours() {
        assert_eq!(log_index(&log_name(42)), Some(42));
        assert_eq!(snapshot_index(&snapshot_name(u64::MAX)), Some(u64::MAX));
        for name in ["log-42.ottla", "log-00000000000000000042.ottla.tmp", "snapshot-00000000000000000042", "log-99999999999999999999.ottla"] {
            assert_eq!(log_index(name), None);
            assert_eq!(snapshot_index(name), None);
        }
    }
}
