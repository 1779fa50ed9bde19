//! The tree of znodes: the state machine that the coordination log drives. Pure: no clock, no randomness, no I/O.
//!
//! A [`Command`] is applied in two steps. [`Tree::prepare`] validates the request against the state that its own earlier operations
//! will have made, names sequential znodes and computes versions; the [`Transaction`] that comes out cannot fail. [`Tree::commit`]
//! carries it out. Both depend on nothing but the tree and the command, so that every replay of a log gives the same tree.
//!
//! Nodes are shared and copied on write: a clone of the tree takes constant time, and while it lives (a snapshot being written) each
//! node that changes is copied once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::op::{ANY_VERSION, Command, CreateMode, ErrorCode, Event, EventKind, Failure, Operation, OperationResult, Request, Stat};
use super::path;

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
            ephemeral_owner: self.ephemeral_owner,
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
    ephemerals: BTreeSet<Arc<str>>,
}

/// What a prepared operation will do; it cannot fail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Create { path: String, data: Option<Bytes>, ephemeral_owner: i64, parent_created_children_count: i32 },
    Set { path: String, data: Option<Bytes>, version: i32 },
    Delete { path: String },
    Check,
    CreateSession { session: i64, timeout_ms: i32 },
    CloseSession { session: i64 },
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

/// One part of a stored tree: sessions first, then znodes, each after its parent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SnapshotItem {
    /// A session.
    Session {
        /// Its id.
        session: i64,
        /// Its time-out in milliseconds.
        timeout_ms: i32,
    },
    /// A znode.
    Node {
        /// Its path.
        path: String,
        /// Its content.
        data: Option<Bytes>,
        /// The transaction that created it.
        czxid: i64,
        /// The transaction that changed its content last.
        mzxid: i64,
        /// The transaction that created or deleted a child last.
        pzxid: i64,
        /// When it was created, in milliseconds since 1970.
        ctime_ms: i64,
        /// When its content was changed last, in milliseconds since 1970.
        mtime_ms: i64,
        /// How often its content was changed.
        version: i32,
        /// How often its ACL was changed.
        aversion: i32,
        /// How many children were ever created.
        created_children_count: i32,
        /// The session that it ends with, or 0.
        ephemeral_owner: i64,
    },
}

impl SnapshotItem {
    /// About how many bytes it takes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Session { .. } => 16,
            Self::Node { path, data, .. } => 64 + path.len() + data.as_ref().map_or(0, Bytes::len),
        }
    }
}

/// Why stored parts make no tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// A znode's path is invalid, comes twice or before its parent.
    #[error("the znode '{path}' is out of place: it comes twice, without its parent, or its path is invalid")]
    Misplaced {
        /// Its path.
        path: String,
    },
    /// An ephemeral znode belongs to a session that is not stored, or has children.
    #[error("the ephemeral znode '{path}' belongs to session {session:#x}, which is not stored")]
    Orphan {
        /// Its path.
        path: String,
        /// The session.
        session: i64,
    },
    /// A session comes twice or has the id 0.
    #[error("the session {session:#x} comes twice or is no session")]
    Session {
        /// The session.
        session: i64,
    },
    /// There is no root.
    #[error("the root is missing")]
    NoRoot,
}

/// The tree of znodes and the sessions. Two trees are equal if nothing that a client or a later command can see differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    root: Arc<Node>,
    sessions: BTreeMap<i64, Session>,
    last_zxid: i64,
    node_count: u64,
    data_bytes: u64,
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
        let zookeeper = Node { children: BTreeMap::from([("config".into(), leaf()), ("quota".into(), leaf())]), ..Node::clone(&leaf()) };
        let root = Node { children: BTreeMap::from([("zookeeper".into(), Arc::new(zookeeper))]), ..Node::clone(&leaf()) };
        let mut tree = Self { root: Arc::new(root), sessions: BTreeMap::new(), last_zxid: 0, node_count: 0, data_bytes: 0 };
        (tree.node_count, tree.data_bytes) = tree.counted();
        tree
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

    /// The ids of the sessions.
    pub fn sessions(&self) -> impl Iterator<Item = i64> + '_ {
        self.sessions.keys().copied()
    }

    /// The ephemeral znodes of a session.
    pub fn ephemerals(&self, session: i64) -> impl Iterator<Item = &str> {
        self.sessions.get(&session).into_iter().flat_map(|session| session.ephemerals.iter().map(AsRef::as_ref))
    }

    /// A znode's content and stat.
    pub fn get(&self, path: &str) -> Option<NodeView> {
        self.node(path).map(|node| NodeView { data: node.data.clone().unwrap_or_default(), stat: node.stat() })
    }

    /// A znode's stat.
    pub fn stat(&self, path: &str) -> Option<Stat> {
        self.node(path).map(Node::stat)
    }

    /// The names of a znode's children in order, and its stat.
    pub fn children(&self, path: &str) -> Option<(Vec<Arc<str>>, Stat)> {
        self.node(path).map(|node| (node.children.keys().cloned().collect(), node.stat()))
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
        match self.prepare(command.session, &command.request) {
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

    /// Validates `request` and computes what it will do.
    ///
    /// # Errors
    /// The first operation that cannot be done, with ZooKeeper's code; the checks come in ZooKeeper's order.
    pub fn prepare(&self, session: i64, request: &Request) -> Result<Transaction, Failure> {
        let mut pending = Pending { tree: self, session, changed: BTreeMap::new() };
        let steps = match request {
            Request::One(operation) => vec![pending.step(operation)?],
            Request::Multi(operations) => operations
                .iter()
                .enumerate()
                .map(|(operation_index, operation)| pending.step(operation).map_err(|failure| Failure { operation_index, ..failure }))
                .collect::<Result<_, _>>()?,
            &Request::CreateSession { session, timeout_ms } => {
                if session == 0 || self.sessions.contains_key(&session) || timeout_ms <= 0 {
                    return Err(Failure::new(ErrorCode::BadArguments, ""));
                }
                vec![Step::CreateSession { session, timeout_ms }]
            }
            &Request::CloseSession { session } => vec![Step::CloseSession { session }],
        };
        Ok(Transaction { steps })
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
                Step::Create { path, data, ephemeral_owner, parent_created_children_count } => {
                    let stat = self.create(&path, data, ephemeral_owner, parent_created_children_count, zxid, time_ms, &mut events);
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
                    let stat = node.stat();
                    self.data_bytes = self.data_bytes - old_bytes + new_bytes;
                    events.push(Event { path: path.into(), kind: EventKind::DataChanged });
                    results.push(OperationResult::Set { stat });
                }
                Step::Delete { path } => {
                    self.delete(&path, zxid, &mut events);
                    results.push(OperationResult::Deleted);
                }
                Step::Check => results.push(OperationResult::Checked),
                Step::CreateSession { session, timeout_ms } => {
                    let before = self.sessions.insert(session, Session { timeout_ms, ephemerals: BTreeSet::new() });
                    assert!(before.is_none(), "prepared: the session is new");
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

    #[expect(clippy::too_many_arguments, reason = "the fields of one step and of its transaction")]
    fn create(
        &mut self,
        path: &str,
        data: Option<Bytes>,
        ephemeral_owner: i64,
        parent_created_children_count: i32,
        zxid: i64,
        time_ms: i64,
        events: &mut Vec<Event>,
    ) -> Stat {
        let (parent_path, name) = path::split(path).expect("prepared: not the root");
        self.node_count += 1;
        self.data_bytes += node_bytes(path, data.as_ref());
        let node = Node { data, czxid: zxid, mzxid: zxid, pzxid: zxid, ctime_ms: time_ms, mtime_ms: time_ms, ephemeral_owner, ..Node::default() };
        let stat = node.stat();
        let parent = self.node_mut(parent_path).expect("prepared: the parent exists");
        let before = parent.children.insert(name.into(), Arc::new(node));
        assert!(before.is_none(), "prepared: the znode does not exist");
        parent.created_children_count = parent_created_children_count;
        parent.pzxid = zxid;
        let path: Arc<str> = path.into();
        if ephemeral_owner != 0 {
            self.sessions.get_mut(&ephemeral_owner).expect("prepared: the session exists").ephemerals.insert(path.clone());
        }
        let parent_path = parent_path.into();
        events.push(Event { path, kind: EventKind::Created });
        events.push(Event { path: parent_path, kind: EventKind::ChildrenChanged });
        stat
    }

    fn delete(&mut self, path: &str, zxid: i64, events: &mut Vec<Event>) {
        let (parent_path, name) = path::split(path).expect("prepared: not the root");
        let parent = self.node_mut(parent_path).expect("prepared: the parent exists");
        let node = parent.children.remove(name).expect("prepared: the znode exists");
        assert!(node.children.is_empty(), "prepared: the znode has no children");
        parent.pzxid = zxid;
        if node.ephemeral_owner != 0 {
            let session = self.sessions.get_mut(&node.ephemeral_owner).expect("an ephemeral znode's session exists");
            assert!(session.ephemerals.remove(path), "a session knows its ephemeral znodes");
        }
        self.node_count -= 1;
        self.data_bytes -= node_bytes(path, node.data.as_ref());
        events.push(Event { path: path.into(), kind: EventKind::Deleted });
        events.push(Event { path: parent_path.into(), kind: EventKind::ChildrenChanged });
    }

    /// All that is stored of the tree, besides its last zxid, in the order that [`Restore`] wants. Holds the tree as it is now.
    pub fn items(&self) -> Items {
        let sessions: Vec<_> = self.sessions.iter().map(|(&session, data)| (session, data.timeout_ms)).collect();
        Items { sessions: sessions.into_iter(), nodes: vec![("/".to_owned(), self.root.clone())] }
    }
}

/// What one znode adds to [`Tree::data_bytes`].
fn node_bytes(path: &str, data: Option<&Bytes>) -> u64 {
    (path.len() + data.map_or(0, Bytes::len)) as u64
}

/// The parts of a tree, in the order that [`Restore`] wants.
#[derive(Debug)]
pub struct Items {
    sessions: std::vec::IntoIter<(i64, i32)>,
    nodes: Vec<(String, Arc<Node>)>,
}

impl Iterator for Items {
    type Item = SnapshotItem;

    fn next(&mut self) -> Option<SnapshotItem> {
        if let Some((session, timeout_ms)) = self.sessions.next() {
            return Some(SnapshotItem::Session { session, timeout_ms });
        }
        let (path, node) = self.nodes.pop()?;
        for (name, child) in node.children.iter().rev() {
            self.nodes.push((path::join(&path, name), child.clone()));
        }
        Some(SnapshotItem::Node {
            path,
            data: node.data.clone(),
            czxid: node.czxid,
            mzxid: node.mzxid,
            pzxid: node.pzxid,
            ctime_ms: node.ctime_ms,
            mtime_ms: node.mtime_ms,
            version: node.version,
            aversion: node.aversion,
            created_children_count: node.created_children_count,
            ephemeral_owner: node.ephemeral_owner,
        })
    }
}

/// Builds a tree from stored parts.
#[derive(Debug)]
pub struct Restore {
    tree: Tree,
    has_root: bool,
}

impl Default for Restore {
    fn default() -> Self {
        let tree = Tree { root: Arc::default(), sessions: BTreeMap::new(), last_zxid: 0, node_count: 0, data_bytes: 0 };
        Self { tree, has_root: false }
    }
}

impl Restore {
    /// Takes the next part.
    ///
    /// # Errors
    /// [`RestoreError`] if it does not fit to those before it.
    pub fn push(&mut self, item: SnapshotItem) -> Result<(), RestoreError> {
        match item {
            SnapshotItem::Session { session, timeout_ms } => {
                let before = self.tree.sessions.insert(session, Session { timeout_ms, ephemerals: BTreeSet::new() });
                if session == 0 || before.is_some() { Err(RestoreError::Session { session }) } else { Ok(()) }
            }
            SnapshotItem::Node { path, data, czxid, mzxid, pzxid, ctime_ms, mtime_ms, version, aversion, created_children_count, ephemeral_owner } => {
                let children = BTreeMap::new();
                let bytes = node_bytes(&path, data.as_ref());
                let node = Node { data, czxid, mzxid, pzxid, ctime_ms, mtime_ms, version, aversion, created_children_count, ephemeral_owner, children };
                if path::validate(&path).is_err() || self.has_root == (path == "/") {
                    return Err(RestoreError::Misplaced { path });
                }
                if ephemeral_owner != 0 {
                    match self.tree.sessions.get_mut(&ephemeral_owner) {
                        Some(session) => session.ephemerals.insert(path.as_str().into()),
                        None => return Err(RestoreError::Orphan { path, session: ephemeral_owner }),
                    };
                }
                self.tree.node_count += 1;
                self.tree.data_bytes += bytes;
                let Some((parent, name)) = path::split(&path) else {
                    self.tree.root = Arc::new(node);
                    self.has_root = true;
                    return Ok(());
                };
                let before = match self.tree.node_mut(parent) {
                    Some(parent) if parent.ephemeral_owner == 0 => parent.children.insert(name.into(), Arc::new(node)),
                    _ => return Err(RestoreError::Misplaced { path }),
                };
                if before.is_some() { Err(RestoreError::Misplaced { path }) } else { Ok(()) }
            }
        }
    }

    /// The tree, as it was after transaction `last_zxid`.
    ///
    /// # Errors
    /// [`RestoreError::NoRoot`].
    pub fn finish(self, last_zxid: i64) -> Result<Tree, RestoreError> {
        if !self.has_root {
            return Err(RestoreError::NoRoot);
        }
        Ok(Tree { last_zxid, ..self.tree })
    }
}

/// What preparing needs to know of a znode.
#[derive(Clone, Copy, Debug)]
struct Known {
    version: i32,
    created_children_count: i32,
    child_count: i32,
    ephemeral_owner: i64,
}

/// The tree as the operations prepared so far will have left it.
struct Pending<'a> {
    tree: &'a Tree,
    session: i64,
    changed: BTreeMap<String, Option<Known>>,
}

impl Pending<'_> {
    fn look(&self, path: &str) -> Option<Known> {
        if let Some(known) = self.changed.get(path) {
            return *known;
        }
        self.tree.node(path).map(|node| Known {
            version: node.version,
            created_children_count: node.created_children_count,
            child_count: node.child_count(),
            ephemeral_owner: node.ephemeral_owner,
        })
    }

    fn step(&mut self, operation: &Operation) -> Result<Step, Failure> {
        if self.session != 0 && !self.tree.sessions.contains_key(&self.session) {
            return Err(Failure::new(ErrorCode::SessionExpired, operation.path()));
        }
        match operation {
            Operation::Create { path, data, mode } => self.create(path, data.clone(), *mode),
            Operation::Set { path, data, version } => {
                validate(path)?;
                let known = self.look(path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))?;
                let version = next_version(known.version, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                self.changed.insert(path.clone(), Some(Known { version, ..known }));
                Ok(Step::Set { path: path.clone(), data: data.clone(), version })
            }
            Operation::Delete { path, version } => {
                if path::is_reserved(path) {
                    return Err(Failure::new(ErrorCode::BadArguments, path));
                }
                validate(path)?;
                let (parent_path, _) = path::split(path).ok_or_else(|| Failure::new(ErrorCode::BadArguments, path))?;
                let parent = self.look(parent_path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))?;
                let known = self.look(path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))?;
                next_version(known.version, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                if known.child_count > 0 {
                    return Err(Failure::new(ErrorCode::NotEmpty, path));
                }
                self.changed.insert(parent_path.to_owned(), Some(Known { child_count: parent.child_count - 1, ..parent }));
                self.changed.insert(path.clone(), None);
                Ok(Step::Delete { path: path.clone() })
            }
            Operation::Check { path, version } => {
                validate(path)?;
                let known = self.look(path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))?;
                next_version(known.version, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                Ok(Step::Check)
            }
        }
    }

    fn create(&mut self, path: &str, data: Option<Bytes>, mode: CreateMode) -> Result<Step, Failure> {
        // Only the last name is judged after the parent is known, because a sequential one may be empty until it is completed.
        let (parent_path, _) = path::split(path).ok_or_else(|| bad_or_existing(path))?;
        let ephemeral_owner = if mode.is_ephemeral() { self.session } else { 0 };
        if mode.is_ephemeral() && self.session == 0 {
            return Err(Failure::new(ErrorCode::SessionExpired, path));
        }
        if path::validate(parent_path).is_err() {
            return Err(Failure::new(ErrorCode::BadArguments, path));
        }
        let parent = self.look(parent_path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))?;
        let path = if mode.is_sequential() { format!("{path}{:010}", parent.created_children_count) } else { path.to_owned() };
        validate(&path)?;
        if self.look(&path).is_some() {
            return Err(Failure::new(ErrorCode::NodeExists, &path));
        }
        if parent.ephemeral_owner != 0 {
            return Err(Failure::new(ErrorCode::NoChildrenForEphemerals, &path));
        }
        let parent_created_children_count = parent.created_children_count.wrapping_add(1);
        let parent = Known { created_children_count: parent_created_children_count, child_count: parent.child_count + 1, ..parent };
        self.changed.insert(parent_path.to_owned(), Some(parent));
        self.changed.insert(path.clone(), Some(Known { version: 0, created_children_count: 0, child_count: 0, ephemeral_owner }));
        Ok(Step::Create { path, data, ephemeral_owner, parent_created_children_count })
    }
}

fn validate(path: &str) -> Result<(), Failure> {
    path::validate(path).map_err(|_| Failure::new(ErrorCode::BadArguments, path))
}

fn bad_or_existing(path: &str) -> Failure {
    Failure::new(if path == "/" { ErrorCode::NodeExists } else { ErrorCode::BadArguments }, path)
}

/// The version after a change of a znode that has version `current`, or `None` if another one is expected. Never −1, which
/// could not be expected (ZOOKEEPER-4743).
fn next_version(current: i32, expected: i32) -> Option<i32> {
    if expected != ANY_VERSION && expected != current {
        return None;
    }
    match current.wrapping_add(1) {
        -1 => Some(0),
        next => Some(next),
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
