//! What an operator does when consensus cannot help: go on without a quorum that is lost for good.
//!
//! All of it works on the directory of a member that is stopped, and gives up on what the other members may have: whatever they had
//! acknowledged and this directory has not is lost, and none of them may ever be started again with what it has.

use std::path::Path;

use crate::coordination::storage::format::{ConfState, EntryKind, Identity, MemberRecord, SnapshotMeta};
use crate::coordination::storage::{self, Storage, StorageError};
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
    /// The one that it had.
    pub former_raft_id: u64,
    /// The `N` of its `server.N`; 0 if it has none.
    pub server_id: u32,
    /// The last entry that it has.
    pub last_index: u64,
    /// The last entry of which it knows that a majority had it; those after it were perhaps never acknowledged, and are kept.
    pub committed_index: u64,
    /// The members that are no more; what they had and this one had not is lost.
    pub given_up: Vec<(u64, MemberRecord)>,
}

/// All that a stopped member holds.
struct Held<R: Runtime> {
    storage: Storage<R>,
    tree: Tree,
    replicated: Replicated,
    raft_id: u64,
    server_id: u32,
    committed_index: u64,
}

async fn hold<R: Runtime>(rt: &R, dir: &Path) -> Result<Held<R>, RecoveryError> {
    if storage::is_empty(rt, dir).await? {
        return Err(RecoveryError::Empty { dir: dir.to_owned() });
    }
    let (storage, loaded) = storage::open(rt.clone(), dir).await?;
    let identity = loaded.identity.clone();
    let raft_id = identity.as_ref().map_or(1, |identity| identity.raft_id);
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
    let committed_index = loaded.hard_state.commit.max(base.0);
    let beginning = Beginning { raft_id, base, conf_state, entries: Vec::new(), hard_state: loaded.hard_state };
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
    Ok(Held { storage, tree, replicated, raft_id, server_id: identity.map_or(0, |identity| identity.server_id), committed_index })
}

impl<R: Runtime> Held<R> {
    fn prospect(&self) -> Recovered {
        let members = self.replicated.members.iter();
        Recovered {
            raft_id: self.replicated.next_raft_id.max(self.raft_id + 1),
            former_raft_id: self.raft_id,
            server_id: self.server_id,
            last_index: self.replicated.applied.0,
            committed_index: self.committed_index,
            given_up: members.filter(|(id, _)| **id != self.raft_id).map(|(id, record)| (*id, record.clone())).collect(),
        }
    }

    /// Replaces the log by one snapshot, of a member that is alone.
    async fn go_on(mut self) -> Result<Recovered, RecoveryError> {
        let recovered = self.prospect();
        let raft_id = recovered.raft_id;
        let record = MemberRecord { server_id: self.server_id, address: String::new(), storage_id: self.storage.storage_id() };
        self.replicated.members = [(raft_id, record)].into();
        self.replicated.next_raft_id = raft_id + 1;
        self.replicated.origins.clear();
        let term = self.storage.last_term().max(self.storage.hard_state().term).max(self.replicated.applied.1) + 1;
        let conf_state = ConfState { voters: vec![raft_id], learners: Vec::new() };
        let meta = SnapshotMeta { index: recovered.last_index + 1, term, conf_state, last_zxid: self.tree.last_zxid() };
        self.storage.set_identity(Identity { raft_id, server_id: self.server_id, initial: Vec::new() });
        let hard_state = storage::format::HardState { term, vote: 0, commit: meta.index };
        self.storage.install(meta, &self.replicated.to_snapshot(), self.tree.items(), hard_state).await?;
        Ok(recovered)
    }
}

/// What [`go_on_alone`] would do. The caller holds the directory's lock.
///
/// # Errors
/// As there.
pub async fn prospect<R: Runtime>(rt: &R, dir: &Path) -> Result<Recovered, RecoveryError> {
    Ok(hold(rt, dir).await?.prospect())
}

/// Makes the stopped member in `dir` the only one, with all that its log holds. Its directory is replaced in place by one snapshot, under a Raft id
/// that nobody had, in a term after all that it has seen; the other servers must be emptied before they join it. The caller holds the directory's lock.
///
/// # Errors
/// [`RecoveryError`]; the directory is as it was, or a second attempt completes it.
pub async fn go_on_alone<R: Runtime>(rt: &R, dir: &Path) -> Result<Recovered, RecoveryError> {
    hold(rt, dir).await?.go_on().await
}

/// Writes all that a stopped member in `dir` holds to the file `to`. The caller holds the directory's lock.
///
/// # Errors
/// [`RecoveryError`]; what is at `to` is replaced when all is well, and not before.
pub async fn save<R: Runtime>(rt: &R, dir: &Path, to: &Path) -> Result<SnapshotMeta, RecoveryError> {
    let Held { tree, replicated, .. } = hold(rt, dir).await?;
    let (index, term) = replicated.applied;
    let conf_state = ConfState { voters: replicated.members.keys().copied().collect(), learners: Vec::new() };
    let meta = SnapshotMeta { index, term, conf_state, last_zxid: tree.last_zxid() };
    storage::write_snapshot_file(rt, to, meta.clone(), &replicated.to_snapshot(), tree.items()).await?;
    Ok(meta)
}

/// Makes `dir`, which must be empty, the directory of a member that is alone and has what the snapshot file `from` holds. The caller holds the
/// directory's lock.
///
/// # Errors
/// [`RecoveryError`].
pub async fn restore_file<R: Runtime>(rt: &R, from: &Path, dir: &Path) -> Result<Recovered, RecoveryError> {
    if !storage::is_empty(rt, dir).await? {
        return Err(RecoveryError::NotEmpty { dir: dir.to_owned() });
    }
    let (meta, tree, state) = storage::read_snapshot_file(rt, from).await?;
    let replicated = Replicated::from_snapshot(&state, &meta.conf_state, (meta.index, meta.term));
    let raft_id = replicated.next_raft_id;
    let identity = Identity { raft_id, server_id: 0, initial: Vec::new() };
    let (storage, _) = storage::open_as(rt.clone(), dir, Some((rt.random_u64().max(1), identity))).await?;
    Held { storage, tree, replicated, raft_id, server_id: 0, committed_index: meta.index }.go_on().await
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
