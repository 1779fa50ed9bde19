//! The tree of znodes: the state machine that the coordination log drives. Pure: no clock, no randomness, no I/O.
//!
//! A [`Command`] is applied in two steps. [`Tree::prepare`] validates the request against the state that its own earlier operations
//! will have made, names sequential znodes and computes versions; the [`Transaction`] that comes out cannot fail. [`Tree::commit`]
//! carries it out. Both depend on nothing but the tree and the command, so that every replay of a log gives the same tree.
//!
//! [`stored`] is how a tree is put into a snapshot and read from one, `prepare` the checks.
//!
//! Nodes are shared and copied on write: a clone of the tree takes constant time, and while it lives (a snapshot being written) each
//! node that changes is copied once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use super::acl::{self, Acl, AclList};
use super::lifetime::Lifetime;
use super::op::{Command, Event, EventKind, Failure, OperationResult, Stat};
use super::path;

mod prepare;
pub mod stored;

pub use self::stored::{Items, Restore, RestoreError, SnapshotItem};

/// The znode that names the members; its ACL is not the open one to begin with.
pub const CONFIG: &str = "/zookeeper/config";

/// What stands before the version in it.
const CONFIG_VERSION: &str = "version=";

/// The version of that ACL before anybody set another one.
const CONFIG_AVERSION: i32 = -1;

/// A znode. `created_children_count` is what ZooKeeper stores as cversion; [`Stat::cversion`] is derived from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    data: Option<Bytes>,
    czxid: i64,
    mzxid: i64,
    pzxid: i64,
    ctime_ms: i64,
    mtime_ms: i64,
    version: i32,
    aversion: i32,
    created_children_count: i32,
    ephemeral_owner: i64,
    acl: AclList,
    children: BTreeMap<Arc<str>, Arc<Node>>,
}

impl Node {
    fn child_count(&self) -> i32 {
        i32::try_from(self.children.len()).unwrap_or(i32::MAX)
    }

    fn stat(&self) -> Stat {
        Stat {
            czxid: self.czxid,
            mzxid: self.mzxid,
            ctime_ms: self.ctime_ms,
            mtime_ms: self.mtime_ms,
            version: self.version,
            // ZooKeeper stores the count of creations and reports creations plus deletions, which is this.
            cversion: self.created_children_count.wrapping_mul(2).wrapping_sub(self.child_count()),
            aversion: self.aversion,
            // What else lives for a while only is not told: clients would take it for a session's.
            ephemeral_owner: if Lifetime::from_owner(self.ephemeral_owner).is_ephemeral() { self.ephemeral_owner } else { 0 },
            data_length: self.data.as_ref().map_or(0, |data| i32::try_from(data.len()).unwrap_or(i32::MAX)),
            num_children: self.child_count(),
            pzxid: self.pzxid,
        }
    }
}

/// A session as replicated data; who watches over its liveness is not the tree's matter.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Session {
    timeout_ms: i32,
    /// What its client must know to come back; none for a session of the process itself, which nobody can come back to.
    password: Option<[u8; 16]>,
    /// The transaction that attached it to its connection; 0 for one that was attached before this was counted.
    attached_zxid: i64,
    ephemerals: BTreeSet<Arc<str>>,
}

/// What the tree knows of a session of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSession {
    /// Its id.
    pub session: i64,
    /// The time-out that it began with, or was given when its client came back last, in milliseconds.
    pub timeout_ms: i32,
    /// What the client must know to come back to it.
    pub password: [u8; 16],
    /// The transaction by which its client came, or came back: only the connection that this attached acts for it. 0 for one that was attached before
    /// this was counted.
    pub attached_zxid: i64,
}

impl ClientSession {
    /// Whether that is its password. In constant time, so that nobody learns one byte by byte.
    pub fn is_password(&self, given: &[u8]) -> bool {
        given.len() == self.password.len() && self.password.iter().zip(given).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0
    }
}

/// What a prepared operation will do; it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create { path: String, data: Option<Bytes>, ephemeral_owner: i64, acl: AclList, parent_created_children_count: i32 },
    Set { path: String, data: Option<Bytes>, version: i32 },
    SetAcl { path: String, acl: AclList, aversion: i32 },
    Delete { path: String },
    Check,
    CreateSession { session: i64, timeout_ms: i32, password: Option<[u8; 16]> },
    CloseSession { session: i64 },
    Attach { session: i64, timeout_ms: i32 },
    Configure { servers: String },
}

/// A validated request: carrying it out on the tree that prepared it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    steps: Vec<Step>,
}

/// What applying a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// A result per operation (none for sessions), or why nothing was done.
    pub outcome: Result<Vec<OperationResult>, Failure>,
    /// What changed, in order; empty after a failure.
    pub events: Vec<Event>,
}

/// A znode's content and stat, as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// The content; empty if there is none.
    pub data: Bytes,
    /// The stat.
    pub stat: Stat,
}

/// The tree of znodes and the sessions. Two trees are equal if nothing that a client or a later command can see differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Arc<Node>,
    sessions: BTreeMap<i64, Session>,
    last_zxid: i64,
    node_count: u64,
    data_bytes: u64,
    ephemeral_count: u64,
    /// The containers and the znodes with a time to live, by their paths: whoever looks for idle ones need not look through the tree.
    mortal: Arc<BTreeSet<Arc<str>>>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// An empty tree with ZooKeeper's own znodes, all of whose counts are zero: the root's cversion is −1 as in ZooKeeper.
    pub fn new() -> Self {
        let leaf = || Arc::new(Node { data: Some(Bytes::new()), ..Node::default() });
        let config = Arc::new(Node { acl: default_acl(CONFIG), aversion: CONFIG_AVERSION, ..Node::clone(&leaf()) });
        let zookeeper = Node { children: BTreeMap::from([("config".into(), config), ("quota".into(), leaf())]), ..Node::clone(&leaf()) };
        let root = Node { children: BTreeMap::from([("zookeeper".into(), Arc::new(zookeeper))]), ..Node::clone(&leaf()) };
        let mut tree = Self { root: Arc::new(root), ..Self::bare() };
        (tree.node_count, tree.data_bytes) = tree.counted();
        tree
    }

    /// Nothing, not even a root with its right content.
    fn bare() -> Self {
        Self { root: Arc::default(), sessions: BTreeMap::new(), last_zxid: 0, node_count: 0, data_bytes: 0, ephemeral_count: 0, mortal: Arc::default() }
    }

    fn counted(&self) -> (u64, u64) {
        let mut counted = (0, 0);
        for item in self.items() {
            if let SnapshotItem::Node { path, data, .. } = item {
                counted.0 += 1;
                counted.1 += node_bytes(&path, data.as_ref());
            }
        }
        counted
    }

    /// The zxid of the last command that was applied; 0 at first.
    pub fn last_zxid(&self) -> i64 {
        self.last_zxid
    }

    /// The number of znodes, the root included.
    pub fn node_count(&self) -> u64 {
        self.node_count
    }

    /// The bytes of all paths and contents.
    pub fn data_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// The number of ephemeral znodes.
    pub fn ephemeral_count(&self) -> u64 {
        self.ephemeral_count
    }

    /// The ids of the sessions.
    pub fn sessions(&self) -> impl Iterator<Item = i64> + '_ {
        self.sessions.keys().copied()
    }

    /// The ids of the sessions of the process itself: they end with it.
    pub fn own_sessions(&self) -> impl Iterator<Item = i64> + '_ {
        self.sessions.iter().filter(|(_, data)| data.password.is_none()).map(|(&session, _)| session)
    }

    /// The sessions of clients.
    pub fn client_sessions(&self) -> impl Iterator<Item = ClientSession> + '_ {
        self.sessions.keys().filter_map(|&session| self.client_session(session))
    }

    /// A client's session.
    pub fn client_session(&self, session: i64) -> Option<ClientSession> {
        let data = self.sessions.get(&session)?;
        Some(ClientSession { session, timeout_ms: data.timeout_ms, password: data.password?, attached_zxid: data.attached_zxid })
    }

    /// A session's time-out in milliseconds, whosever it is.
    pub fn session_timeout_ms(&self, session: i64) -> Option<i32> {
        self.sessions.get(&session).map(|data| data.timeout_ms)
    }

    /// Makes the session's ephemeral znodes persistent ones: the plant `ephemeral-outlives-session`.
    #[cfg(feature = "plants")]
    pub fn plant_orphans(&mut self, session: i64) {
        let Some(data) = self.sessions.get_mut(&session) else { return };
        let ephemerals = std::mem::take(&mut data.ephemerals);
        for path in &ephemerals {
            self.ephemeral_count -= 1;
            if let Some(node) = self.node_mut(path) {
                node.ephemeral_owner = 0;
            }
        }
    }

    /// Whether there are znodes that the service deletes by itself one day.
    pub fn has_mortal(&self) -> bool {
        !self.mortal.is_empty()
    }

    /// The znodes that a [`DeleteIdle`](super::op::Operation::DeleteIdle) would delete at `now_ms`, in order. A container that never had a child is one of
    /// them when it is older than `never_used_ms`; never if that is 0.
    pub fn idle(&self, now_ms: i64, never_used_ms: i64) -> Vec<Arc<str>> {
        let is_idle = |path: &&Arc<str>| {
            self.node(path).is_some_and(|node| match Lifetime::from_owner(node.ephemeral_owner) {
                Lifetime::Container if node.created_children_count > 0 => node.children.is_empty(),
                Lifetime::Container => never_used_ms > 0 && now_ms.saturating_sub(node.mtime_ms) > never_used_ms,
                Lifetime::Ttl { ttl_ms } => node.children.is_empty() && now_ms.saturating_sub(node.mtime_ms) > ttl_ms,
                Lifetime::Persistent | Lifetime::Ephemeral { .. } => false,
            })
        };
        self.mortal.iter().filter(is_idle).cloned().collect()
    }

    /// The ephemeral znodes of a session.
    pub fn ephemerals(&self, session: i64) -> impl Iterator<Item = &str> {
        self.sessions.get(&session).into_iter().flat_map(|session| session.ephemerals.iter().map(AsRef::as_ref))
    }

    /// A znode's content and stat.
    pub fn get(&self, path: &str) -> Option<NodeView> {
        self.node(path).map(|node| NodeView { data: node.data.clone().unwrap_or_default(), stat: node.stat() })
    }

    /// A znode's content, which may be none, and its stat.
    pub fn content(&self, path: &str) -> Option<(Option<Bytes>, Stat)> {
        self.node(path).map(|node| (node.data.clone(), node.stat()))
    }

    /// A znode's stat.
    pub fn stat(&self, path: &str) -> Option<Stat> {
        self.node(path).map(Node::stat)
    }

    /// The names of a znode's children in order, and its stat.
    pub fn children(&self, path: &str) -> Option<(Vec<Arc<str>>, Stat)> {
        self.node(path).map(|node| (node.children.keys().cloned().collect(), node.stat()))
    }

    /// A znode's ACL and stat.
    pub fn acl(&self, path: &str) -> Option<(Vec<Acl>, Stat)> {
        self.node(path).map(|node| (acl::entries(&node.acl), node.stat()))
    }

    /// A znode's ACL, as it is checked.
    pub fn acl_list(&self, path: &str) -> Option<AclList> {
        self.node(path).map(|node| node.acl.clone())
    }

    /// How many znodes there are below a znode, at any depth.
    pub fn descendant_count(&self, path: &str) -> Option<u64> {
        fn below(node: &Node) -> u64 {
            node.children.values().map(|child| 1 + below(child)).sum()
        }
        self.node(path).map(below)
    }

    fn node(&self, path: &str) -> Option<&Node> {
        let mut node = &*self.root;
        for name in path::names(path) {
            node = node.children.get(name)?;
        }
        Some(node)
    }

    /// The node for a change; nodes that a clone of the tree shares are copied.
    fn node_mut(&mut self, path: &str) -> Option<&mut Node> {
        let mut node = Arc::make_mut(&mut self.root);
        for name in path::names(path) {
            node = Arc::make_mut(node.children.get_mut(name)?);
        }
        Some(node)
    }

    /// Applies the command as transaction `zxid`, which must be above the last one. A failure changes nothing but the last zxid.
    ///
    /// # Panics
    /// If `zxid` is not above the last one.
    pub fn apply(&mut self, command: &Command, zxid: i64) -> Applied {
        match self.prepare(command) {
            Ok(transaction) => {
                let (results, events) = self.commit(transaction, zxid, command.time_ms);
                Applied { outcome: Ok(results), events }
            }
            Err(failure) => {
                self.skip(zxid);
                Applied { outcome: Err(failure), events: Vec::new() }
            }
        }
    }

    /// Takes note of a zxid that changes nothing.
    ///
    /// # Panics
    /// If `zxid` is not above the last one.
    pub fn skip(&mut self, zxid: i64) {
        assert!(zxid > self.last_zxid, "zxid {zxid} does not follow {}", self.last_zxid);
        self.last_zxid = zxid;
    }

    /// Carries out what [`Tree::prepare`] of this very tree computed.
    ///
    /// # Panics
    /// If `zxid` is not above the last one, or the tree is not the one that prepared the transaction.
    pub fn commit(&mut self, transaction: Transaction, zxid: i64, time_ms: i64) -> (Vec<OperationResult>, Vec<Event>) {
        self.skip(zxid);
        let mut results = Vec::with_capacity(transaction.steps.len());
        let mut events = Vec::new();
        for step in transaction.steps {
            match step {
                Step::Create { path, data, ephemeral_owner, acl, parent_created_children_count } => {
                    let node =
                        Node { data, czxid: zxid, mzxid: zxid, pzxid: zxid, ctime_ms: time_ms, mtime_ms: time_ms, ephemeral_owner, acl, ..Node::default() };
                    let stat = self.create(&path, node, parent_created_children_count, &mut events);
                    results.push(OperationResult::Created { path, stat });
                }
                Step::Set { path, data, version } => {
                    let new_bytes = node_bytes(&path, data.as_ref());
                    let node = self.node_mut(&path).expect("prepared: the znode exists");
                    let old_bytes = node_bytes(&path, node.data.as_ref());
                    node.data = data;
                    node.version = version;
                    node.mzxid = zxid;
                    node.mtime_ms = time_ms;
                    let (stat, acl) = (node.stat(), node.acl.clone());
                    self.data_bytes = self.data_bytes - old_bytes + new_bytes;
                    events.push(Event { path: path.into(), kind: EventKind::DataChanged, acl });
                    results.push(OperationResult::Set { stat });
                }
                Step::SetAcl { path, acl, aversion } => {
                    let node = self.node_mut(&path).expect("prepared: the znode exists");
                    node.acl = acl;
                    node.aversion = aversion;
                    results.push(OperationResult::AclSet { stat: node.stat() });
                }
                Step::Delete { path } => {
                    self.delete(&path, zxid, &mut events);
                    results.push(OperationResult::Deleted);
                }
                Step::Check => results.push(OperationResult::Checked),
                Step::CreateSession { session, timeout_ms, password } => {
                    let before = self.sessions.insert(
                        session,
                        Session { timeout_ms, password, attached_zxid: if password.is_some() { zxid } else { 0 }, ephemerals: BTreeSet::new() },
                    );
                    assert!(before.is_none(), "prepared: the session is new");
                }
                Step::Configure { servers } => events.extend(self.set_config(&servers, zxid)),
                Step::Attach { session, timeout_ms } => {
                    let data = self.sessions.get_mut(&session).expect("prepared: the session exists");
                    (data.timeout_ms, data.attached_zxid) = (timeout_ms, zxid);
                }
                Step::CloseSession { session } => {
                    let ephemerals = self.sessions.get(&session).map(|session| session.ephemerals.clone()).unwrap_or_default();
                    for path in ephemerals {
                        self.delete(&path, zxid, &mut events);
                    }
                    self.sessions.remove(&session);
                }
            }
        }
        (results, events)
    }

    /// Has `/zookeeper/config` name these servers, a line each, as of transaction `zxid`. As ZooKeeper has it, the version behind them is that zxid.
    fn set_config(&mut self, servers: &str, zxid: i64) -> Option<Event> {
        let data = Bytes::from(format!("{servers}{CONFIG_VERSION}{zxid:x}"));
        let node = self.node_mut(CONFIG)?;
        let old_bytes = node_bytes(CONFIG, node.data.as_ref());
        let new_bytes = node_bytes(CONFIG, Some(&data));
        (node.data, node.mzxid, node.version) = (Some(data), zxid, node.version.wrapping_add(1));
        let acl = node.acl.clone();
        self.data_bytes = self.data_bytes - old_bytes + new_bytes;
        Some(Event { path: CONFIG.into(), kind: EventKind::DataChanged, acl })
    }

    /// Where a server serves clients, as far as `/zookeeper/config` tells.
    pub fn client_address(&self, server_id: u32) -> Option<&str> {
        let key = format!("server.{server_id}=");
        self.config_servers().lines().find(|line| line.starts_with(&key))?.split_once(';').map(|(_, address)| address)
    }

    /// The lines of the servers, once that one has said where it serves clients; `None` if that changes nothing.
    fn announced(&self, server_id: u32, client_address: &str) -> Option<String> {
        let key = format!("server.{server_id}=");
        let is_sound = !client_address.contains(['\n', ';', '=', ',']);
        if !is_sound || self.client_address(server_id) == Some(client_address) || !self.config_servers().lines().any(|line| line.starts_with(&key)) {
            return None;
        }
        let line = |line: &str| match line.split(';').next() {
            Some(peers) if line.starts_with(&key) => format!("{peers};{client_address}\n"),
            _ => format!("{line}\n"),
        };
        Some(self.config_servers().lines().map(line).collect())
    }

    /// The servers that `/zookeeper/config` names, a line each; none at a member that was always alone.
    pub fn config_servers(&self) -> &str {
        self.config().map_or("", |(servers, _)| servers)
    }

    /// The version of `/zookeeper/config`; `None` at a member that was always alone.
    pub fn config_version(&self) -> Option<i64> {
        self.config().and_then(|(_, version)| i64::from_str_radix(version, 16).ok())
    }

    fn config(&self) -> Option<(&str, &str)> {
        std::str::from_utf8(self.node(CONFIG)?.data.as_deref()?).ok()?.rsplit_once(CONFIG_VERSION)
    }

    fn create(&mut self, path: &str, node: Node, parent_created_children_count: i32, events: &mut Vec<Event>) -> Stat {
        let (parent_path, name) = path::split(path).expect("prepared: not the root");
        self.node_count += 1;
        self.data_bytes += node_bytes(path, node.data.as_ref());
        let (stat, acl, zxid, owner) = (node.stat(), node.acl.clone(), node.czxid, node.ephemeral_owner);
        let parent = self.node_mut(parent_path).expect("prepared: the parent exists");
        let before = parent.children.insert(name.into(), Arc::new(node));
        assert!(before.is_none(), "prepared: the znode does not exist");
        parent.created_children_count = parent_created_children_count;
        parent.pzxid = zxid;
        let parent_acl = parent.acl.clone();
        let path: Arc<str> = path.into();
        self.born(&path, owner).expect("prepared: the session exists");
        events.push(Event { path, kind: EventKind::Created, acl });
        events.push(Event { path: parent_path.into(), kind: EventKind::ChildrenChanged, acl: parent_acl });
        stat
    }

    /// Takes note of a znode that something else than a client's delete will end; the session that is to exist and does not is the error.
    fn born(&mut self, path: &Arc<str>, owner: i64) -> Result<(), i64> {
        match Lifetime::from_owner(owner) {
            Lifetime::Persistent => {}
            Lifetime::Ephemeral { session } => {
                self.sessions.get_mut(&session).ok_or(session)?.ephemerals.insert(path.clone());
                self.ephemeral_count += 1;
            }
            Lifetime::Container | Lifetime::Ttl { .. } => drop(Arc::make_mut(&mut self.mortal).insert(path.clone())),
        }
        Ok(())
    }

    fn delete(&mut self, path: &str, zxid: i64, events: &mut Vec<Event>) {
        let (parent_path, name) = path::split(path).expect("prepared: not the root");
        let parent = self.node_mut(parent_path).expect("prepared: the parent exists");
        let node = parent.children.remove(name).expect("prepared: the znode exists");
        assert!(node.children.is_empty(), "prepared: the znode has no children");
        parent.pzxid = zxid;
        let parent_acl = parent.acl.clone();
        match Lifetime::from_owner(node.ephemeral_owner) {
            Lifetime::Persistent => {}
            Lifetime::Ephemeral { session } => {
                let session = self.sessions.get_mut(&session).expect("an ephemeral znode's session exists");
                assert!(session.ephemerals.remove(path), "a session knows its ephemeral znodes");
                self.ephemeral_count -= 1;
            }
            Lifetime::Container | Lifetime::Ttl { .. } => drop(Arc::make_mut(&mut self.mortal).remove(path)),
        }
        self.node_count -= 1;
        self.data_bytes -= node_bytes(path, node.data.as_ref());
        events.push(Event { path: path.into(), kind: EventKind::Deleted, acl: node.acl.clone() });
        events.push(Event { path: parent_path.into(), kind: EventKind::ChildrenChanged, acl: parent_acl });
    }
}

/// The ACL that the znode of this path has if none was ever set.
fn default_acl(path: &str) -> AclList {
    if path == CONFIG { acl::read_only() } else { None }
}

/// What one znode adds to [`Tree::data_bytes`].
fn node_bytes(path: &str, data: Option<&Bytes>) -> u64 {
    (path.len() + data.map_or(0, Bytes::len)) as u64
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
