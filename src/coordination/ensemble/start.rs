//! Opening a member of the ensemble.
//!
//! A directory that holds a log belongs to the member that it says, whatever the configuration says now. One without a log is new, or was lost,
//! and a member that lost its disk must not vote again under its old Raft id: it has forgotten what it promised. So it begins an ensemble with the
//! configured servers only if every one of them answers that it has no log either, or none in which anybody ever voted: then it cannot have promised
//! anything before. Otherwise it joins under a new Raft id, as a learner, and gets a vote by a change of the membership once it has caught up. Going
//! from one member to three is nothing else.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::Observer;
use super::network::{self, Network, Standing, ask};
use super::node::{Node, NodeParts, PeerInput};
use super::peer::{Answer, Question, Secret};
use super::raft_core::{Beginning, RaftCore};
use super::state::Replicated;
use crate::coordination::storage::format::{ConfState, EntryKind, Identity, MemberRecord};
use crate::coordination::storage::{self, Loaded, Storage, StorageError};
use crate::coordination::tree::Tree;
use crate::coordination::{Options, Shared};
use crate::plant;
use crate::runtime::{HostPort, Runtime};

/// How many inputs of peers wait for the node before their connections do.
const INBOX_COUNT: usize = 1024;

/// About how long a member without a log waits before it asks again, at first and at most; longer with each time.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How often one that waits says so.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// How a member takes part in an ensemble.
#[derive(Clone, Debug)]
pub struct EnsembleConfig {
    /// The `N` of its own `server.N`; one of `servers`.
    pub server_id: u32,
    /// All `server.N=host:port`.
    pub servers: BTreeMap<u32, HostPort>,
    /// What all members know and nobody else.
    pub secret: Secret,
    /// Where it listens for the others.
    pub listen: SocketAddr,
}

/// Why a member of an ensemble cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The log.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The socket.
    #[error("cannot listen for the coordination ensemble on {at}: {source}; is the port in use, or not this host's?")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The operating system's answer.
        source: io::Error,
    },
    /// The configuration.
    #[error("server.{server_id} is not among the configured servers; add it, or correct this member's number")]
    NotConfigured {
        /// Its number.
        server_id: u32,
    },
    /// The directory is another server's.
    #[error(
        "the coordination directory '{}' belongs to server.{found}, and this is server.{configured}; give server.{configured} a directory of its \
         own, or correct this member's number (myid, or the key server.id)",
        dir.display()
    )]
    OtherServers {
        /// The directory.
        dir: PathBuf,
        /// The number in it.
        found: u32,
        /// The configured one.
        configured: u32,
    },
}

/// A node that is about to run, and where its peers' input comes from.
pub(in crate::coordination) struct Prepared<R: Runtime> {
    pub node: Node<R, RaftCore>,
    pub peers: mpsc::Receiver<PeerInput>,
    /// Kept as long as the node runs: the listener ends with it.
    pub standing: Option<watch::Sender<Standing>>,
}

/// What a directory says about who its member is and where it stands.
struct Position {
    beginning: Beginning,
    tree: Tree,
    replicated: Replicated,
    server_id: u32,
}

fn position(loaded: Loaded) -> Position {
    if loaded.dropped_bytes > 0 {
        tracing::info!(dropped_bytes = loaded.dropped_bytes, "the end of the coordination log was never durable and was dropped");
    }
    let (raft_id, server_id) = loaded.identity.as_ref().map_or((1, 0), |identity| (identity.raft_id, identity.server_id));
    let (base, conf_state, tree, replicated) = match loaded.snapshot {
        Some((meta, tree, state)) => {
            let replicated = Replicated::from_snapshot(&state, &meta.conf_state, (meta.index, meta.term));
            ((meta.index, meta.term), meta.conf_state, tree, replicated)
        }
        None => {
            let initial = loaded.identity.map_or_else(|| vec![(1, MemberRecord::default())], |identity| identity.initial);
            let conf_state = ConfState { voters: initial.iter().map(|(id, _)| *id).collect(), learners: Vec::new() };
            ((0, 0), conf_state, Tree::new(), Replicated::initial(initial))
        }
    };
    let beginning = Beginning { raft_id, base, conf_state, entries: loaded.entries, hard_state: loaded.hard_state };
    Position { beginning, tree, replicated, server_id }
}

/// A member that is alone.
pub(in crate::coordination) fn alone<R: Runtime>(
    rt: R,
    storage: Storage<R>,
    loaded: Loaded,
    shared: Arc<Shared>,
    options: Options,
) -> Result<Prepared<R>, StorageError> {
    let dir = storage.dir().to_owned();
    let Position { beginning, tree, replicated, server_id } = position(loaded);
    // A change of the membership that the log holds is in no snapshot yet, and applied only later.
    let has_changes = beginning.entries.iter().any(|entry| entry.kind == EntryKind::ConfChange);
    if has_changes || beginning.conf_state.voters != [beginning.raft_id] || !beginning.conf_state.learners.is_empty() {
        let others = replicated.members.values().map(|record| record.address.clone()).collect::<Vec<_>>().join(", ");
        return Err(StorageError::NotAlone { dir, others });
    }
    let (inbox, peers) = mpsc::channel(1);
    let parts = NodeParts {
        rt,
        raft_id: beginning.raft_id,
        core: RaftCore::new(beginning),
        storage,
        tree,
        replicated,
        shared,
        options,
        server_id,
        address: String::new(),
        network: None,
        ends_old_sessions: true,
        observer: None,
        inbox,
    };
    Ok(Prepared { node: Node::new(parts), peers, standing: None })
}

/// A member of an ensemble. It returns once the directory has a log of its own: for a new member, when the others have answered.
pub(in crate::coordination) async fn member<R: Runtime>(
    rt: R,
    dir: &Path,
    config: &EnsembleConfig,
    shared: Arc<Shared>,
    options: Options,
    observer: Option<Arc<dyn Observer>>,
) -> Result<Prepared<R>, StartError> {
    let Some(own) = config.servers.get(&config.server_id) else {
        return Err(StartError::NotConfigured { server_id: config.server_id });
    };
    let (standing, standing_seen) = watch::channel(Standing::Empty);
    let configured: Vec<(u32, String)> = config.servers.iter().map(|(id, address)| (*id, address.to_string())).collect();
    let new = if storage::is_empty(&rt, dir).await? {
        network::listen(&rt, config.listen, config.secret.clone(), configured.clone(), standing_seen.clone())
            .await
            .map_err(|source| StartError::Listen { at: config.listen, source })?;
        Some(become_member(&rt, config, &configured).await)
    } else {
        None
    };
    let is_new = new.is_some();
    let (storage, loaded) = storage::open_as(rt.clone(), dir, new).await?;
    let Position { beginning, tree, replicated, server_id } = position(loaded);
    if server_id != 0 && server_id != config.server_id {
        return Err(StartError::OtherServers { dir: dir.to_owned(), found: server_id, configured: config.server_id });
    }
    let raft_id = beginning.raft_id;
    let (inbox, peers) = mpsc::channel(INBOX_COUNT);
    let parts = NodeParts {
        core: RaftCore::new(beginning),
        storage,
        tree,
        replicated,
        shared,
        options,
        raft_id,
        server_id: config.server_id,
        address: own.to_string(),
        network: Some(Network::new(rt.clone(), raft_id, own.to_string(), config.secret.clone(), inbox.clone())),

        ends_old_sessions: false,
        observer,
        inbox: inbox.clone(),
        rt: rt.clone(),
    };
    let node = Node::new(parts);
    standing.send_replace(Standing::Member(raft_id, inbox));
    if !is_new {
        network::listen(&rt, config.listen, config.secret.clone(), configured, standing_seen)
            .await
            .map_err(|source| StartError::Listen { at: config.listen, source })?;
    }
    Ok(Prepared { node, peers, standing: Some(standing) })
}

/// Finds out who a member without a log is: one of the first, or a new one. Asks until that is known.
async fn become_member<R: Runtime>(rt: &R, config: &EnsembleConfig, configured: &[(u32, String)]) -> (u64, Identity) {
    let storage_id = rt.random_u64().max(1);
    let server_id = config.server_id;
    let address = config.servers[&server_id].to_string();
    let initial = || {
        let record = |(id, address): &(u32, String)| (u64::from(*id), MemberRecord { server_id: *id, address: address.clone(), storage_id: 0 });
        Identity { raft_id: u64::from(server_id), server_id, initial: configured.iter().map(record).collect() }
    };
    if plant!(rt, "wiped-member-votes") {
        return (storage_id, initial());
    }
    let probe = Question::Probe { servers: configured.to_vec() };
    let mut tell_at = rt.now() + TELL_EVERY;
    let mut pause = ASK_AGAIN.0;
    loop {
        let mut empty_count = 0;
        let mut members = Vec::new();
        let mut said = BTreeMap::new();
        for (id, peer) in config.servers.iter().filter(|(id, _)| **id != server_id) {
            let answer = ask(rt, peer, &config.secret, &probe).await;
            let what = match &answer {
                Ok(Answer::Empty) => "has no log, as this one".to_owned(),
                Ok(Answer::Member) => "is a member, and the ensemble has not taken this one in yet".to_owned(),
                Ok(Answer::Refused(why)) => format!("refuses this one: {why}"),
                Ok(_) => "answers what was not asked".to_owned(),
                Err(error) => format!("does not answer: {error}"),
            };
            said.insert(*id, what);
            match answer {
                Ok(Answer::Empty) => empty_count += 1,
                Ok(Answer::Member) => members.push((*id, peer)),
                _ => {}
            }
        }
        if empty_count + 1 == config.servers.len() {
            return (storage_id, initial());
        }
        for (id, peer) in members {
            let join = Question::Join { server_id, address: address.clone(), storage_id };
            match ask(rt, peer, &config.secret, &join).await {
                Ok(Answer::Accepted { raft_id }) => return (storage_id, Identity { raft_id, server_id, initial: Vec::new() }),
                Ok(Answer::Refused(why)) => drop(said.insert(id, format!("does not take this one in: {why}"))),
                _ => {}
            }
        }
        if rt.now() >= tell_at {
            tell_at = rt.now() + TELL_EVERY;
            let said: Vec<String> = said.iter().map(|(id, what)| format!("server.{id} {what}")).collect();
            tracing::warn!(
                "this member of the coordination ensemble has no log: it waits until all servers have answered, or the one that leads takes it in; {}",
                said.join("; ")
            );
        }
        rt.sleep(pause + Duration::from_micros(rt.random_u64() % u64::try_from(pause.as_micros()).unwrap_or(1))).await;
        pause = (pause * 3 / 2).min(ASK_AGAIN.1);
    }
}
