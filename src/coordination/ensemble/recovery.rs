//! What an operator does when consensus cannot help: go on without a quorum that is lost for good.
//!
//! Both functions work on the directory of a member that is stopped, and both give up on what the other members may have: whatever they had
//! acknowledged and this directory has not is lost, and none of them may ever be started again with what it has.

use std::path::Path;

use crate::coordination::storage::format::{ConfState, EntryKind, Identity, MemberRecord, SnapshotMeta};
use crate::coordination::storage::{self, StorageError};
use crate::coordination::tree::Tree;
use crate::runtime::Runtime;

use super::consensus::Consensus;
use super::raft_core::{Beginning, RaftCore};
use super::state::{Meaning, Replicated, meaning};

/// Why a directory cannot be made to go on alone.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// The log.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// An entry of another version.
    #[error(transparent)]
    Senseless(#[from] super::state::Senseless),
    /// There is nothing to go on with.
    #[error("'{dir}' holds no coordination log; name the directory of the member that has the most")]
    Empty {
        /// The directory.
        dir: std::path::PathBuf,
    },
    /// The directory to restore into is in use.
    #[error("'{dir}' holds a coordination log already; move it away first")]
    NotEmpty {
        /// The directory.
        dir: std::path::PathBuf,
    },
}

/// What a recovery did, and what it gave up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// The Raft id under which the member goes on, alone.
    pub raft_id: u64,
    /// The last entry that it has.
    pub last_index: u64,
    /// The last entry of which it knows that a majority had it; those after it were perhaps never acknowledged, and are kept.
    pub committed_index: u64,
    /// The members that are no more; what they had and this one had not is lost.
    pub given_up: Vec<(u64, MemberRecord)>,
}

/// Makes the stopped member in `dir` the only one, with all that its log holds. Its directory is replaced in place by one snapshot, under a Raft id
/// that nobody had, in a term after all that it has seen; the other servers must be emptied before they join it. The caller holds the directory's lock.
///
/// # Errors
/// [`RecoveryError`]; the directory is as it was, or a second attempt completes it.
pub async fn go_on_alone<R: Runtime>(rt: &R, dir: &Path) -> Result<Recovered, RecoveryError> {
    if storage::is_empty(rt, dir).await? {
        return Err(RecoveryError::Empty { dir: dir.to_owned() });
    }
    let (mut storage, loaded) = storage::open(rt.clone(), dir).await?;
    let identity = loaded.identity.clone();
    let own = identity.as_ref().map_or(1, |identity| identity.raft_id);
    let (base, conf_state, mut tree, mut replicated) = match loaded.snapshot {
        Some((meta, tree, state)) => {
            let replicated = Replicated::from_snapshot(&state, &meta.conf_state, (meta.index, meta.term));
            ((meta.index, meta.term), meta.conf_state, tree, replicated)
        }
        None => {
            let initial = identity.as_ref().map_or_else(|| vec![(1, MemberRecord::default())], |identity| identity.initial.clone());
            let conf_state = ConfState { voters: initial.iter().map(|(id, _)| *id).collect(), learners: Vec::new() };
            ((0, 0), conf_state, Tree::new(), Replicated::initial(initial))
        }
    };
    let committed_index = loaded.hard_state.commit;
    let beginning = Beginning { raft_id: own, base, conf_state, entries: Vec::new(), hard_state: loaded.hard_state };
    let mut core = RaftCore::new(beginning);
    for entry in &loaded.entries {
        let says = meaning(entry)?;
        if entry.kind != EntryKind::Normal
            && says == Meaning::Change
            && let Some(change) = core.change_of(entry)
        {
            let conf_state = core.apply_change(&change);
            replicated.change(&change, &conf_state);
        }
        replicated.apply(&mut tree, entry, &says);
    }
    let raft_id = replicated.next_raft_id.max(own + 1);
    let record = MemberRecord { server_id: identity.map_or(0, |identity| identity.server_id), address: String::new(), storage_id: storage.storage_id() };
    let given_up: Vec<_> = std::mem::take(&mut replicated.members).into_iter().filter(|(id, _)| *id != own).collect();
    let identity = Identity { raft_id, server_id: record.server_id, initial: Vec::new() };
    replicated.members.insert(raft_id, record);
    replicated.next_raft_id = raft_id + 1;
    replicated.origins.clear();
    let last_index = replicated.applied.0;
    let meta = SnapshotMeta {
        index: last_index + 1,
        term: storage.last_term().max(storage.hard_state().term) + 1,
        conf_state: ConfState { voters: vec![raft_id], learners: Vec::new() },
        last_zxid: tree.last_zxid(),
    };
    storage.set_identity(identity);
    let hard_state = storage::format::HardState { term: meta.term, vote: 0, commit: meta.index };
    storage.install(meta, &replicated.to_snapshot(), tree.items(), hard_state).await?;
    Ok(Recovered { raft_id, last_index, committed_index, given_up })
}

/// Makes `dir` the directory of a member that is alone and has what the directory `from`, of a stopped member or a copy of one, holds.
///
/// # Errors
/// [`RecoveryError`]; `from` is unchanged.
pub async fn restore<R: Runtime>(rt: &R, from: &Path, dir: &Path) -> Result<Recovered, RecoveryError> {
    if !storage::is_empty(rt, dir).await? {
        return Err(RecoveryError::NotEmpty { dir: dir.to_owned() });
    }
    if storage::is_empty(rt, from).await? {
        return Err(RecoveryError::Empty { dir: from.to_owned() });
    }
    storage::copy(rt, from, dir).await?;
    go_on_alone(rt, dir).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::Coordination;
    use crate::coordination::op::CreateMode;
    use crate::runtime::tokio::run;
    use tempfile::TempDir;

    #[test]
    fn a_directory_is_restored_and_goes_on_alone_under_a_new_id() {
        let temporary = TempDir::new().unwrap();
        let (old, new) = (temporary.path().join("old"), temporary.path().join("new"));
        run(2, |rt| async move {
            let coordination = Coordination::open(rt.clone(), &old).await.unwrap();
            coordination.create("/a", &b"1"[..], CreateMode::Persistent).await.unwrap();
            let zxid = coordination.last_zxid();
            coordination.shutdown().await;
            let recovered = restore(&rt, &old, &new).await.unwrap();
            assert_eq!((recovered.raft_id, recovered.given_up.len()), (2, 0));
            assert!(recovered.last_index >= recovered.committed_index);
            let refused = restore(&rt, &old, &new).await.unwrap_err();
            assert!(refused.to_string().contains("move it away first"), "{refused}");
            let coordination = Coordination::open(rt, &new).await.unwrap();
            assert_eq!(coordination.status().await.unwrap().raft_id, 2);
            assert_eq!(coordination.get("/a").await.unwrap().data, &b"1"[..]);
            assert!(coordination.last_zxid() > zxid);
        })
        .unwrap();
    }
}
