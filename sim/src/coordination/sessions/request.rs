//! What a recorded client asks, and its bytes.

use bytes::Bytes;
use ottla::coordination::acl::Acl;
use ottla::coordination::jute::Writer;
use ottla::coordination::op::{CreateMode, Operation};
use ottla::coordination::protocol::opcode;
use ottla::coordination::watch::WatchType;

use super::oracle::Begun;

/// A request.
#[derive(Clone, Debug)]
pub enum Kind {
    /// One change, or a `multi` of several.
    Write {
        /// What is to be done.
        operations: Vec<Operation>,
        /// As what it is asked for.
        opcodes: Vec<i32>,
        /// Whether it is a `multi`.
        is_multi: bool,
    },
    /// A content.
    Data {
        /// Whose.
        path: String,
        /// Whether it is watched.
        watch: bool,
    },
    /// A stat.
    Exists {
        /// Whose.
        path: String,
        /// Whether it is watched.
        watch: bool,
    },
    /// Names of children, with the stat.
    Children {
        /// Whose.
        path: String,
        /// Whether they are watched.
        watch: bool,
    },
    /// Several contents and lists of names at one moment: of each znode, and whether its children are asked for.
    Several(Vec<(String, bool)>),
    /// The session's ephemeral znodes whose paths begin so.
    Ephemerals {
        /// How they begin.
        prefix: String,
    },
    /// How many znodes there are below.
    Count {
        /// Below which.
        path: String,
    },
    /// That a watch is no more.
    RemoveWatches {
        /// Where it is.
        path: String,
        /// Of what kind.
        which: WatchType,
        /// Only asks whether there is one.
        only_asks: bool,
    },
    /// To have caught up.
    Sync,
    /// A sign of life.
    Ping,
    /// The watches that a client had on its last connection.
    SetWatches,
    /// A watch that stays.
    AddWatch {
        /// Where.
        path: String,
        /// Whether for all below it too.
        recursive: bool,
    },
    /// The end of the session.
    Close,
}

/// A request that is under way.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Its number on the connection.
    pub xid: i32,
    /// What it is.
    pub kind: Kind,
    /// What was known when it began.
    pub begun: Begun,
}

/// A creation with an open ACL, or another.
pub fn create(path: &str, data: Bytes, mode: CreateMode, acl: Vec<Acl>) -> (Operation, i32) {
    let opcode = match mode {
        CreateMode::Container => opcode::CREATE_CONTAINER,
        CreateMode::Ttl { .. } | CreateMode::TtlSequential { .. } => opcode::CREATE_TTL,
        _ => opcode::CREATE2,
    };
    (Operation::CreateWithAcl { path: path.to_owned(), data: Some(data), mode, acl }, opcode)
}

/// One change.
pub fn one((operation, opcode): (Operation, i32)) -> Kind {
    Kind::Write { operations: vec![operation], opcodes: vec![opcode], is_multi: false }
}

/// Several, all or none.
pub fn multi(changes: Vec<(Operation, i32)>) -> Kind {
    let (operations, opcodes) = changes.into_iter().unzip();
    Kind::Write { operations, opcodes, is_multi: true }
}

fn encode_operation(to: &mut Writer, operation: &Operation) {
    match operation {
        Operation::CreateWithAcl { path, data, mode, acl } => {
            to.string(path);
            to.optional_buffer(data.as_deref());
            to.acl(acl);
            let (flags, ttl_ms) = match mode {
                CreateMode::Persistent => (0, None),
                CreateMode::Ephemeral => (1, None),
                CreateMode::PersistentSequential => (2, None),
                CreateMode::EphemeralSequential => (3, None),
                CreateMode::Container => (4, None),
                CreateMode::Ttl { ttl_ms } => (5, Some(*ttl_ms)),
                CreateMode::TtlSequential { ttl_ms } => (6, Some(*ttl_ms)),
            };
            to.int(flags);
            if let Some(ttl_ms) = ttl_ms {
                to.long(ttl_ms);
            }
        }
        Operation::Set { path, data, version } => {
            to.string(path);
            to.optional_buffer(data.as_deref());
            to.int(*version);
        }
        Operation::Delete { path, version } | Operation::Check { path, version } => {
            to.string(path);
            to.int(*version);
        }
        other => unreachable!("no client here asks for {other:?}"),
    }
}

impl Kind {
    /// Writes the request's frame; that of [`Kind::SetWatches`] is written by who knows the watches.
    pub fn encode(&self, xid: i32, to: &mut Writer) {
        to.frame(|to| {
            to.int(xid);
            match self {
                Self::Write { operations, opcodes, is_multi: false } => {
                    to.int(opcodes[0]);
                    encode_operation(to, &operations[0]);
                }
                Self::Write { operations, opcodes, .. } => {
                    to.int(opcode::MULTI);
                    for (operation, opcode) in operations.iter().zip(opcodes) {
                        to.int(*opcode);
                        to.bool(false);
                        to.int(-1);
                        encode_operation(to, operation);
                    }
                    to.int(-1);
                    to.bool(true);
                    to.int(-1);
                }
                Self::Data { path, watch } | Self::Exists { path, watch } | Self::Children { path, watch } => {
                    to.int(match self {
                        Self::Data { .. } => opcode::GET_DATA,
                        Self::Exists { .. } => opcode::EXISTS,
                        _ => opcode::GET_CHILDREN2,
                    });
                    to.string(path);
                    to.bool(*watch);
                }
                Self::Several(reads) => {
                    to.int(opcode::MULTI_READ);
                    for (path, of_children) in reads {
                        to.int(if *of_children { opcode::GET_CHILDREN } else { opcode::GET_DATA });
                        to.bool(false);
                        to.int(-1);
                        to.string(path);
                        to.bool(false);
                    }
                    to.int(-1);
                    to.bool(true);
                    to.int(-1);
                }
                Self::Ephemerals { prefix } => {
                    to.int(opcode::GET_EPHEMERALS);
                    to.string(prefix);
                }
                Self::Count { path } => {
                    to.int(opcode::GET_ALL_CHILDREN_NUMBER);
                    to.string(path);
                }
                Self::RemoveWatches { path, which, only_asks } => {
                    to.int(if *only_asks { opcode::CHECK_WATCHES } else { opcode::REMOVE_WATCHES });
                    to.string(path);
                    to.int(match which {
                        WatchType::Children => 1,
                        WatchType::Data => 2,
                        WatchType::Any => 3,
                        WatchType::Persistent => 4,
                        WatchType::PersistentRecursive => 5,
                    });
                }
                Self::Sync => {
                    to.int(opcode::SYNC);
                    to.string("/");
                }
                Self::Ping => to.int(opcode::PING),
                Self::AddWatch { path, recursive } => {
                    to.int(opcode::ADD_WATCH);
                    to.string(path);
                    to.int(i32::from(*recursive));
                }
                Self::Close => to.int(opcode::CLOSE_SESSION),
                Self::SetWatches => unreachable!("it is written with the watches at hand"),
            }
        });
    }
}
