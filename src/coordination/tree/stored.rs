//! A tree as the parts of a snapshot, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{CONFIG, CONFIG_AVERSION, Node, Session, Tree, default_acl, node_bytes};
use crate::coordination::acl::{self, Acl};
use crate::coordination::lifetime::Lifetime;
use crate::coordination::path;

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
        /// How long it lives, as [`Lifetime`] encodes it.
        ephemeral_owner: i64,
    },
    /// The session of a client.
    ClientSession {
        /// Its id.
        session: i64,
        /// Its time-out in milliseconds.
        timeout_ms: i32,
        /// What the client must know to come back to it.
        password: [u8; 16],
    },
    /// The ACL of the znode before it, if that is not the one that a znode of its path has from the beginning.
    Acl {
        /// Its entries.
        acl: Vec<Acl>,
    },
    /// The session of a client, with the connection that it is attached to. Before format 3 these were `ClientSession`s.
    AttachedSession {
        /// Its id.
        session: i64,
        /// Its time-out in milliseconds.
        timeout_ms: i32,
        /// What the client must know to come back to it.
        password: [u8; 16],
        /// The transaction that attached it.
        attached_zxid: i64,
    },
}

impl SnapshotItem {
    /// About how many bytes it takes.
    pub fn size_bytes(&self) -> usize {
        match self {
            Self::Session { .. } => 16,
            Self::ClientSession { .. } | Self::AttachedSession { .. } => 40,
            Self::Acl { acl } => acl.iter().map(Acl::size_bytes).sum(),
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
    /// An ACL does not follow a znode.
    #[error("an ACL is stored that follows no znode")]
    StrayAcl,
    /// There is no root.
    #[error("the root is missing")]
    NoRoot,
}

/// The parts of a tree, in the order that [`Restore`] wants.
#[derive(Debug)]
pub struct Items {
    sessions: std::vec::IntoIter<SnapshotItem>,
    nodes: Vec<(String, Arc<Node>)>,
    acl: Option<Vec<Acl>>,
}

impl Tree {
    /// All that is stored of the tree, besides its last zxid, in the order that [`Restore`] wants. Holds the tree as it is now.
    pub fn items(&self) -> Items {
        let item = |(&session, data): (&i64, &Session)| match data.password {
            None => SnapshotItem::Session { session, timeout_ms: data.timeout_ms },
            Some(password) => SnapshotItem::AttachedSession { session, timeout_ms: data.timeout_ms, password, attached_zxid: data.attached_zxid },
        };
        let sessions: Vec<_> = self.sessions.iter().map(item).collect();
        Items { sessions: sessions.into_iter(), nodes: vec![("/".to_owned(), self.root.clone())], acl: None }
    }
}

impl Iterator for Items {
    type Item = SnapshotItem;

    fn next(&mut self) -> Option<SnapshotItem> {
        if let Some(session) = self.sessions.next() {
            return Some(session);
        }
        if let Some(acl) = self.acl.take() {
            return Some(SnapshotItem::Acl { acl });
        }
        let (path, node) = self.nodes.pop()?;
        for (name, child) in node.children.iter().rev() {
            self.nodes.push((path::join(&path, name), child.clone()));
        }
        if node.acl != default_acl(&path) || (path == CONFIG && node.aversion != CONFIG_AVERSION) {
            self.acl = Some(acl::entries(&node.acl));
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
    /// The path of the last znode, until its ACL or anything else has come.
    last: Option<String>,
}

impl Default for Restore {
    fn default() -> Self {
        Self { tree: Tree::bare(), has_root: false, last: None }
    }
}

impl Restore {
    /// Takes the next part.
    ///
    /// # Errors
    /// [`RestoreError`] if it does not fit to those before it.
    pub fn push(&mut self, item: SnapshotItem) -> Result<(), RestoreError> {
        let before = self.last.take();
        match item {
            SnapshotItem::Session { session, timeout_ms } => self.session(session, timeout_ms, None, 0),
            SnapshotItem::ClientSession { session, timeout_ms, password } => self.session(session, timeout_ms, Some(password), 0),
            SnapshotItem::AttachedSession { session, timeout_ms, password, attached_zxid } => self.session(session, timeout_ms, Some(password), attached_zxid),
            SnapshotItem::Acl { acl } => {
                let Some(path) = before else { return Err(RestoreError::StrayAcl) };
                let node = self.tree.node_mut(&path).expect("it has just been put there");
                if path == CONFIG && node.aversion == CONFIG_AVERSION {
                    node.aversion = 0;
                }
                node.acl = if acl == [Acl::open()] { None } else { Some(acl.into()) };
                Ok(())
            }
            SnapshotItem::Node { path, data, czxid, mzxid, pzxid, ctime_ms, mtime_ms, version, aversion, created_children_count, ephemeral_owner } => {
                let (children, acl) = (BTreeMap::new(), default_acl(&path));
                let bytes = node_bytes(&path, data.as_ref());
                // Format 1 knew no ACLs and stored 0. An ACL that somebody set follows, and says that it is one.
                let aversion = if path == CONFIG && aversion == 0 { CONFIG_AVERSION } else { aversion };
                let node = Node { data, czxid, mzxid, pzxid, ctime_ms, mtime_ms, version, aversion, created_children_count, ephemeral_owner, acl, children };
                if path::validate(&path).is_err() || self.has_root == (path == "/") {
                    return Err(RestoreError::Misplaced { path });
                }
                if let Err(session) = self.tree.born(&path.as_str().into(), ephemeral_owner) {
                    return Err(RestoreError::Orphan { path, session });
                }
                self.tree.node_count += 1;
                self.tree.data_bytes += bytes;
                match path::split(&path) {
                    None => {
                        self.tree.root = Arc::new(node);
                        self.has_root = true;
                    }
                    Some((parent, name)) => {
                        let before = match self.tree.node_mut(parent) {
                            Some(parent) if !Lifetime::from_owner(parent.ephemeral_owner).is_ephemeral() => parent.children.insert(name.into(), Arc::new(node)),
                            _ => return Err(RestoreError::Misplaced { path }),
                        };
                        if before.is_some() {
                            return Err(RestoreError::Misplaced { path });
                        }
                    }
                }
                self.last = Some(path);
                Ok(())
            }
        }
    }

    fn session(&mut self, session: i64, timeout_ms: i32, password: Option<[u8; 16]>, attached_zxid: i64) -> Result<(), RestoreError> {
        let before = self.tree.sessions.insert(session, Session { timeout_ms, password, attached_zxid, ephemerals: BTreeSet::new() });
        if session == 0 || before.is_some() { Err(RestoreError::Session { session }) } else { Ok(()) }
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
