//! What consensus replicates beside the tree: the members, and where proposals come from. Pure.
//!
//! A proposal is carried out at most once. Every member registers before it proposes; the registration's index fences all that it proposed under
//! an earlier one, and within one registration only the next sequence number is carried out. So a member that is in doubt about what became of
//! its proposals (the leader changed, a connection broke) registers anew, and when that is applied it knows: what it has not seen carried out by
//! then never will be, and may be proposed again.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::consensus::Change;
use crate::codec;
use crate::coordination::op::{Command, Request};
use crate::coordination::storage::format::{ConfState, Entry, EntryKind, MemberRecord, SnapshotState};
use crate::coordination::tree::{Applied, Tree};

/// What an entry of [`EntryKind::Proposal`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// A member begins to propose anew.
    Register {
        /// Its Raft id.
        origin: u64,
        /// By which it knows this registration from its other ones.
        nonce: u64,
    },
    /// A member's proposal.
    Command {
        /// Its Raft id.
        origin: u64,
        /// The index of its registration.
        registration: u64,
        /// Counts its proposals under it, from 1.
        sequence: u64,
        /// What to do.
        command: Command,
    },
    /// The leader's own: the end of a session that was not heard of.
    Internal(Command),
}

/// What applying an entry came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The tree was asked what the entry says.
    Executed(Applied),
    /// The entry changed the membership, so the tree was asked this.
    Configured(Command, Applied),
    /// Nothing: the mark of a term, a registration, a change of the membership, a proposal out of turn.
    Skipped,
}

/// The replicated state beside the tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicated {
    /// All members by Raft id.
    pub members: BTreeMap<u64, MemberRecord>,
    /// The Raft id that the next member to join gets.
    pub next_raft_id: u64,
    /// The index of the last registration and the last sequence number under it, by Raft id.
    pub origins: BTreeMap<u64, (u64, u64)>,
    /// The members that have no vote.
    pub learners: BTreeSet<u64>,
    /// A running checksum over everything applied and what came of it: two members with the same index have the same.
    pub digest: u64,
    /// The last applied entry, by index and term.
    pub applied: (u64, u64),
}

/// An intact entry that makes no sense to this version.
#[derive(Clone, Debug, thiserror::Error)]
#[error("entry {index} of the coordination log is intact and makes no sense: {reason}. Start the version of Ottla that wrote it, and report this")]
pub struct Senseless {
    /// The entry.
    pub index: u64,
    /// Why.
    pub reason: String,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The mark of a term, or a change of the membership that the library replaced by nothing.
    Nothing,
    /// A command of the time before there were origins.
    Plain(Command),
    /// A proposal.
    Payload(Payload),
    /// A change of the membership.
    Change,
}

impl Meaning {
    /// What the tree is asked to do, if the entry says so.
    pub fn command(&self) -> Option<&Command> {
        match self {
            Self::Plain(command) | Self::Payload(Payload::Internal(command) | Payload::Command { command, .. }) => Some(command),
            Self::Nothing | Self::Payload(Payload::Register { .. }) | Self::Change => None,
        }
    }
}

/// Reads an entry.
///
/// # Errors
/// [`Senseless`].
pub fn meaning(entry: &Entry) -> Result<Meaning, Senseless> {
    let senseless = |error: codec::DecodeError| Senseless { index: entry.index, reason: error.to_string() };
    match entry.kind {
        EntryKind::ConfChange | EntryKind::ConfChangeV2 => Ok(Meaning::Change),
        _ if entry.data.is_empty() => Ok(Meaning::Nothing),
        EntryKind::Normal => codec::decode(&entry.data).map(Meaning::Plain).map_err(senseless),
        EntryKind::Proposal => codec::decode(&entry.data).map(Meaning::Payload).map_err(senseless),
    }
}

/// A transaction is named by its entry.
pub fn zxid(index: u64) -> i64 {
    i64::try_from(index).expect("2^63 entries are never written")
}

impl Replicated {
    /// The state of a member that begins with these voters.
    pub fn initial(members: impl IntoIterator<Item = (u64, MemberRecord)>) -> Self {
        let members: BTreeMap<_, _> = members.into_iter().collect();
        let next_raft_id = members.keys().next_back().copied().unwrap_or(0) + 1;
        Self { members, next_raft_id, ..Self::default() }
    }

    /// The state in a snapshot that stands for the entry `applied`.
    pub fn from_snapshot(state: &SnapshotState, conf_state: &ConfState, applied: (u64, u64)) -> Self {
        let mut members: BTreeMap<u64, MemberRecord> = state.members.iter().cloned().collect();
        // Snapshots of a member that was always alone name nobody.
        for id in conf_state.voters.iter().chain(&conf_state.learners) {
            members.entry(*id).or_default();
        }
        let next_raft_id = state.next_raft_id.max(members.keys().next_back().copied().unwrap_or(0) + 1);
        let origins = state.origins.iter().map(|(origin, registration, sequence)| (*origin, (*registration, *sequence))).collect();
        let learners = conf_state.learners.iter().copied().collect();
        Self { members, next_raft_id, origins, learners, digest: state.digest, applied }
    }

    /// What a snapshot says of it.
    pub fn to_snapshot(&self) -> SnapshotState {
        SnapshotState {
            members: self.members.iter().map(|(id, record)| (*id, record.clone())).collect(),
            next_raft_id: self.next_raft_id,
            origins: self.origins.iter().map(|(origin, (registration, sequence))| (*origin, *registration, *sequence)).collect(),
            digest: self.digest,
        }
    }

    /// Applies what an entry says to itself and to the tree. Changes of the membership come by [`Replicated::change`] besides.
    pub fn apply(&mut self, tree: &mut Tree, entry: &Entry, meaning: &Meaning) -> Outcome {
        let index = entry.index;
        let outcome = match meaning {
            Meaning::Plain(command) | Meaning::Payload(Payload::Internal(command)) => Outcome::Executed(tree.apply(command, zxid(index))),
            Meaning::Payload(Payload::Command { origin, registration, sequence, command }) => match self.origins.get_mut(origin) {
                Some((current, last)) if current == registration && *last + 1 == *sequence => {
                    *last = *sequence;
                    Outcome::Executed(tree.apply(command, zxid(index)))
                }
                _ => Outcome::Skipped,
            },
            Meaning::Payload(Payload::Register { origin, .. }) => {
                self.origins.insert(*origin, (index, 0));
                Outcome::Skipped
            }
            // The first entry of all is the mark of a term.
            Meaning::Nothing | Meaning::Change => match self.servers(tree) {
                servers if servers.is_empty() || servers == tree.config_servers() => Outcome::Skipped,
                servers => {
                    let command = Command { session: 0, time_ms: 0, request: Request::Configure { servers } };
                    let applied = tree.apply(&command, zxid(index));
                    Outcome::Configured(command, applied)
                }
            },
        };
        if outcome == Outcome::Skipped {
            tree.skip(zxid(index));
        }
        let came_of_it = match &outcome {
            Outcome::Executed(applied) | Outcome::Configured(_, applied) => match &applied.outcome {
                Ok(results) => results.len() as u64,
                Err(failure) => failure.code.code() as u64,
            },
            Outcome::Skipped => u64::MAX,
        };
        self.digest = mix(self.digest, u64::from(crc32fast::hash(&entry.data)) ^ (entry.term << 32), index ^ came_of_it.rotate_left(40));
        self.applied = (index, entry.term);
        outcome
    }

    /// The members as `/zookeeper/config` names them: `server.N=host:port:port:role;client`, a line each. The second port is ZooKeeper's for elections. Where
    /// clients are served is kept as the member announced it.
    fn servers(&self, tree: &Tree) -> String {
        let mut servers: BTreeMap<u32, (bool, &str)> = BTreeMap::new();
        for (id, record) in self.members.iter().filter(|(_, record)| record.server_id != 0 && !record.address.is_empty()) {
            // A server that lost its disk is two members for a while: the one that votes counts.
            let of_this = (self.learners.contains(id), record.address.as_str());
            servers.entry(record.server_id).and_modify(|known| *known = (*known).min(of_this)).or_insert(of_this);
        }
        let mut lines = String::new();
        for (id, (is_learner, address)) in servers {
            let port = address.rsplit_once(':').map_or("", |(_, port)| port);
            let role = if is_learner { "observer" } else { "participant" };
            let client = tree.client_address(id).map(|client| format!(";{client}")).unwrap_or_default();
            lines.push_str(&format!("server.{id}={address}:{port}:{role}{client}\n"));
        }
        lines
    }

    /// Applies a change of the membership, after consensus made it `conf_state`.
    pub fn change(&mut self, change: &Change, conf_state: &ConfState) {
        if let Change::AddLearner(id, record) | Change::AddVoter(id, record) = change {
            self.members.insert(*id, record.clone());
            self.next_raft_id = self.next_raft_id.max(id + 1);
        }
        self.learners = conf_state.learners.iter().copied().collect();
        self.members.retain(|id, _| conf_state.voters.contains(id) || conf_state.learners.contains(id));
        self.origins.retain(|id, _| self.members.contains_key(id));
    }
}

/// One step of the checksum: splitmix64's finaliser over the three.
fn mix(digest: u64, one: u64, other: u64) -> u64 {
    let mut mixed = digest.rotate_left(17) ^ one ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
