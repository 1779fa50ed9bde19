//! The ensemble: the coordination service of several members, or of one. The same path either way; with one voter an entry is committed as soon
//! as it is on disk.
//!
//! | file | holds |
//! |---|---|
//! | `consensus` | what is needed of a consensus algorithm, as a trait |
//! | `raft_core`, `log_store` | that trait by the `raft` crate |
//! | `state` | what is replicated beside the tree: members, and the fences by which a proposal is carried out at most once |
//! | `origin` | a member's own proposals on their way |
//! | `node` | the task that drives all of it: log, tree, reads, snapshots, membership |
//! | `peer`, `seal`, `network` | what members say to each other, how they know that it was they, and their connections |
//! | `admin` | what an administrator asks of them |
//! | `start` | opening a member: bootstrap, or joining |
//! | `recovery` | restoring from a snapshot, and going on without a quorum |

pub mod admin;
pub mod consensus;
mod log_store;
pub mod network;
pub mod node;
pub mod origin;
pub mod peer;
pub mod raft_core;
pub mod recovery;
pub mod seal;
pub mod start;
pub mod state;

use std::collections::BTreeMap;

use self::consensus::{Leadership, Progress};
use super::op::Command;
use super::storage::format::{ConfState, HardState, MemberRecord};
use super::tree::Applied;

/// What a member knows of the ensemble.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its Raft id.
    pub raft_id: u64,
    /// The `N` of its `server.N`; 0 if it has none.
    pub server_id: u32,
    /// Who leads.
    pub leadership: Leadership,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry that its tree includes.
    pub applied: u64,
    /// Who votes, and who learns.
    pub conf_state: ConfState,
    /// Who they are.
    pub members: BTreeMap<u64, MemberRecord>,
    /// The members that cannot be reached from here, and why not.
    pub unreachable: BTreeMap<u64, String>,
    /// Of a leader: how far the others are.
    pub progress: BTreeMap<u64, Progress>,
}

/// Why a change of the membership was not begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    /// Only the leader begins changes.
    #[error("this member does not lead the coordination ensemble (member {leader} does, 0 if none is known); ask that one")]
    NotLeader {
        /// Its Raft id; 0 if none is known.
        leader: u64,
    },
    /// Nobody has that Raft id.
    #[error("the coordination ensemble has no member {raft_id}; `members` lists them")]
    NoMember {
        /// The id.
        raft_id: u64,
    },
    /// It is the only one with a vote.
    #[error("the last member with a vote cannot be removed; add another first")]
    LastVoter,
    /// It leads.
    #[error("the leader does not remove itself; stop it, and remove it by the next leader")]
    IsLeader,
    /// The service has ended.
    #[error("the coordination service of this process has ended")]
    Ended,
}

/// What a member promises with a message that is about to go. It must be on its disk by then, and stay there: Raft's safety is built on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// Nobody but `candidate` has its vote in `term`.
    Vote {
        /// The term.
        term: u64,
        /// The candidate's Raft id; its own, if it stands.
        candidate: u64,
    },
    /// Its log is that of the leader of `term`, up to `index`.
    Log {
        /// The term.
        term: u64,
        /// The index.
        index: u64,
    },
}

/// What an entry did to the tree, as an [`Observer`] is told.
#[derive(Clone, Copy, Debug)]
pub enum Executed<'a> {
    /// Nothing: its zxid is passed over.
    Nothing,
    /// A command was carried out, or refused.
    Command(&'a Command, &'a Applied),
}

/// Looks on: for checks that hold over all members. Called by the node, in the order of things; must not block.
pub trait Observer: Send + Sync + 'static {
    /// The member begins a life with this in its directory, `last_index` being the last entry of its log or of what its snapshot stands for.
    fn opened(&self, raft_id: u64, hard_state: HardState, last_index: u64) {
        let _ = (raft_id, hard_state, last_index);
    }
    /// The member has carried out an entry. Called before anybody is told of it.
    fn executed(&self, raft_id: u64, index: u64, term: u64, executed: &Executed<'_>) {
        let _ = (raft_id, index, term, executed);
    }
    /// The member is about to tell another what cannot be taken back.
    fn promised(&self, raft_id: u64, promise: Promise) {
        let _ = (raft_id, promise);
    }
    /// The member has applied the entry; two members with the same index must have the same digest.
    fn applied(&self, raft_id: u64, index: u64, term: u64, digest: u64);
    /// The member leads in that term; nobody else ever does.
    fn elected(&self, raft_id: u64, term: u64);
}

#[cfg(test)]
mod tests;
