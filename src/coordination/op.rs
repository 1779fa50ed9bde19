//! The words of the coordination service: requests, results, stat, error codes, change events. All plain data.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::acl::{Acl, AclList, Identity};
use super::lifetime::Lifetime;

/// ZooKeeper's error codes, by their names in `KeeperException.Code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ErrorCode {
    /// 0: no error. The operations of a failed `multi` before the one that failed carry it.
    Ok,
    /// −2: an operation of a failed `multi` after the one that failed.
    RuntimeInconsistency,
    /// −4: the service stopped before it answered; the outcome is unknown.
    ConnectionLoss,
    /// −5: the request is too large or cannot be encoded.
    MarshallingError,
    /// −8: the request makes no sense: an invalid path, a reserved znode.
    BadArguments,
    /// −101: the znode, or the parent of the one to create, does not exist.
    NoNode,
    /// −103: the znode's version is not the expected one.
    BadVersion,
    /// −108: ephemeral znodes cannot have children.
    NoChildrenForEphemerals,
    /// −110: the znode exists already.
    NodeExists,
    /// −111: the znode to delete has children.
    NotEmpty,
    /// −112: the session does not exist (any more).
    SessionExpired,
    /// −6: the kind of request is not known.
    Unimplemented,
    /// −102: the znode's ACL does not allow it.
    NoAuth,
    /// −114: an ACL is empty, or names a scheme or an id that there is not.
    InvalidAcl,
    /// −115: the credentials are of no scheme that is known, or wrong.
    AuthFailed,
    /// −121: the connection has no such watch.
    NoWatcher,
    /// −123: the membership cannot be changed by `reconfig`.
    ReconfigDisabled,
    /// −118: the session is served over another connection by now.
    SessionMoved,
    /// −1: an error that this code has no name for. This service sends none such; others do.
    SystemError,
    /// −13: too few members of the wanted membership take part. Nothing was changed.
    NewConfigNoQuorum,
    /// −7: it took too long, and a part of it was done.
    OperationTimeout,
}

/// All codes: [`ErrorCode::from_code`] looks here.
const ALL_CODES: [ErrorCode; 21] = [
    ErrorCode::Ok,
    ErrorCode::RuntimeInconsistency,
    ErrorCode::ConnectionLoss,
    ErrorCode::MarshallingError,
    ErrorCode::BadArguments,
    ErrorCode::NoNode,
    ErrorCode::BadVersion,
    ErrorCode::NoChildrenForEphemerals,
    ErrorCode::NodeExists,
    ErrorCode::NotEmpty,
    ErrorCode::SessionExpired,
    ErrorCode::Unimplemented,
    ErrorCode::NoAuth,
    ErrorCode::InvalidAcl,
    ErrorCode::AuthFailed,
    ErrorCode::NoWatcher,
    ErrorCode::ReconfigDisabled,
    ErrorCode::SessionMoved,
    ErrorCode::SystemError,
    ErrorCode::NewConfigNoQuorum,
    ErrorCode::OperationTimeout,
];

impl ErrorCode {
    /// The number on ZooKeeper's wire.
    pub const fn code(self) -> i32 {
        match self {
            Self::Ok => 0,
            Self::RuntimeInconsistency => -2,
            Self::ConnectionLoss => -4,
            Self::MarshallingError => -5,
            Self::BadArguments => -8,
            Self::NoNode => -101,
            Self::BadVersion => -103,
            Self::NoChildrenForEphemerals => -108,
            Self::NodeExists => -110,
            Self::NotEmpty => -111,
            Self::SessionExpired => -112,
            Self::Unimplemented => -6,
            Self::NoAuth => -102,
            Self::InvalidAcl => -114,
            Self::AuthFailed => -115,
            Self::NoWatcher => -121,
            Self::ReconfigDisabled => -123,
            Self::SessionMoved => -118,
            Self::SystemError => -1,
            Self::NewConfigNoQuorum => -13,
            Self::OperationTimeout => -7,
        }
    }

    /// The code of a number on ZooKeeper's wire; `None` for numbers that this service never sends.
    pub fn from_code(code: i32) -> Option<Self> {
        ALL_CODES.into_iter().find(|known| known.code() == code)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self {
            Self::Ok => "no error",
            Self::RuntimeInconsistency => "not tried, because an earlier operation of the same multi failed",
            Self::ConnectionLoss => "the coordination service stopped before it answered; whether the change was made is unknown",
            Self::MarshallingError => "the request is larger than the coordination service accepts",
            Self::BadArguments => "the path is invalid or reserved",
            Self::NoNode => "the znode does not exist",
            Self::BadVersion => "the znode has another version than expected",
            Self::NoChildrenForEphemerals => "an ephemeral znode cannot have children",
            Self::NodeExists => "the znode exists already",
            Self::NotEmpty => "the znode has children",
            Self::SessionExpired => "the session has ended",
            Self::Unimplemented => "the kind of request is not known to the coordination service, or to one of its members that runs an older release",
            Self::NoAuth => "the znode's ACL does not allow it",
            Self::InvalidAcl => "the ACL is empty, or names a scheme or an id that there is not",
            Self::AuthFailed => "the credentials were refused",
            Self::NoWatcher => "there is no such watch",
            Self::ReconfigDisabled => "the membership cannot be changed by reconfig",
            Self::SessionMoved => "the session is served over another connection by now",
            Self::SystemError => "the coordination service failed",
            Self::NewConfigNoQuorum => "the membership is as it was: the members did not come to the wanted one in time; look whether they all run",
            Self::OperationTimeout => "it took too long, and a part of it was done; /zookeeper/config tells what the membership is",
        };
        write!(f, "{meaning} ({self:?} {})", self.code())
    }
}

/// A request that failed: which operation, why, and at which path. Nothing of the request was done
/// (except for [`ErrorCode::ConnectionLoss`], whose outcome is unknown).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("'{path}': {code}")]
pub struct Failure {
    /// Why.
    pub code: ErrorCode,
    /// The path of the operation that failed; empty if the failure concerns none.
    pub path: String,
    /// The index of the operation within its `multi`; 0 for a single operation.
    pub operation_index: usize,
}

impl Failure {
    /// A failure of a single operation.
    pub fn new(code: ErrorCode, path: &str) -> Self {
        Self { code, path: path.to_owned(), operation_index: 0 }
    }

    /// What ZooKeeper's answer to a `multi` of `count` operations says for each: no error before the one that failed, its error,
    /// `RuntimeInconsistency` after it.
    pub fn codes(&self, count: usize) -> Vec<ErrorCode> {
        (0..count)
            .map(|index| match index.cmp(&self.operation_index) {
                std::cmp::Ordering::Less => ErrorCode::Ok,
                std::cmp::Ordering::Equal => self.code,
                std::cmp::Ordering::Greater => ErrorCode::RuntimeInconsistency,
            })
            .collect()
    }
}

/// How long a created znode lives and how it is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CreateMode {
    /// Lives until deleted.
    Persistent,
    /// Lives until deleted; the parent's count of creations, ten digits wide, is appended to its name.
    PersistentSequential,
    /// Lives as long as the session that creates it.
    Ephemeral,
    /// Both.
    EphemeralSequential,
    /// Lives until it has had children and the last of them is gone; then the service deletes it.
    Container,
    /// Lives until it has had no children and no change of its content for this long; then the service deletes it.
    Ttl {
        /// In milliseconds, from 1 to [`TTL_MAX_MS`](super::lifetime::TTL_MAX_MS).
        ttl_ms: i64,
    },
    /// The same, named as sequential ones are.
    TtlSequential {
        /// As for `Ttl`.
        ttl_ms: i64,
    },
}

impl CreateMode {
    /// Whether the znode ends with its session.
    pub const fn is_ephemeral(self) -> bool {
        matches!(self, Self::Ephemeral | Self::EphemeralSequential)
    }

    /// Whether the name is completed by a number.
    pub const fn is_sequential(self) -> bool {
        matches!(self, Self::PersistentSequential | Self::EphemeralSequential | Self::TtlSequential { .. })
    }

    /// How long a znode of this mode lives when `session` creates it; `None` if its time to live is out of bounds.
    pub fn lifetime(self, session: i64) -> Option<Lifetime> {
        match self {
            Self::Persistent | Self::PersistentSequential => Some(Lifetime::Persistent),
            Self::Ephemeral | Self::EphemeralSequential => Some(Lifetime::Ephemeral { session }),
            Self::Container => Some(Lifetime::Container),
            Self::Ttl { ttl_ms } | Self::TtlSequential { ttl_ms } => Lifetime::ttl(ttl_ms),
        }
    }
}

/// The expected version that any version matches.
pub const ANY_VERSION: i32 = -1;

/// One operation on one znode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Makes a znode whose parent exists.
    Create {
        /// Where; for a sequential one, the beginning of the name.
        path: String,
        /// Its content. ZooKeeper tells no content from empty content.
        data: Option<Bytes>,
        /// How long it lives and how it is named.
        mode: CreateMode,
    },
    /// Replaces the content.
    Set {
        /// Of which znode.
        path: String,
        /// The new content.
        data: Option<Bytes>,
        /// The version that the znode must have, or [`ANY_VERSION`].
        version: i32,
    },
    /// Removes a znode without children.
    Delete {
        /// Which znode.
        path: String,
        /// The version that the znode must have, or [`ANY_VERSION`].
        version: i32,
    },
    /// Changes nothing, and fails its `multi` if the version is another.
    Check {
        /// Which znode.
        path: String,
        /// The version that the znode must have, or [`ANY_VERSION`].
        version: i32,
    },
    /// Makes a znode that not everyone may do everything with.
    CreateWithAcl {
        /// As for `Create`.
        path: String,
        /// As for `Create`.
        data: Option<Bytes>,
        /// As for `Create`.
        mode: CreateMode,
        /// Who may do what, as the client says it: `auth` stands for the identities of the request.
        acl: Vec<Acl>,
    },
    /// Replaces the ACL.
    SetAcl {
        /// Of which znode.
        path: String,
        /// Who may do what from then on; as for `CreateWithAcl`.
        acl: Vec<Acl>,
        /// The version that the znode's ACL must have, or [`ANY_VERSION`].
        version: i32,
    },
    /// Removes a container that has lost its last child, or a znode whose time to live is over; the service itself asks for it.
    DeleteIdle {
        /// Which znode.
        path: String,
    },
}

impl Operation {
    /// A persistent znode's creation.
    pub fn create(path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self::Create { path: path.into(), data: Some(data.into()), mode: CreateMode::Persistent }
    }

    /// A session's znode's creation.
    pub fn create_ephemeral(path: impl Into<String>, data: impl Into<Bytes>) -> Self {
        Self::Create { path: path.into(), data: Some(data.into()), mode: CreateMode::Ephemeral }
    }

    /// A replacement of the content.
    pub fn set(path: impl Into<String>, data: impl Into<Bytes>, version: i32) -> Self {
        Self::Set { path: path.into(), data: Some(data.into()), version }
    }

    /// A removal.
    pub fn delete(path: impl Into<String>, version: i32) -> Self {
        Self::Delete { path: path.into(), version }
    }

    /// A check of the version.
    pub fn check(path: impl Into<String>, version: i32) -> Self {
        Self::Check { path: path.into(), version }
    }

    /// The path that the operation names.
    pub fn path(&self) -> &str {
        match self {
            Self::Create { path, .. } | Self::Set { path, .. } | Self::Delete { path, .. } | Self::Check { path, .. } => path,
            Self::CreateWithAcl { path, .. } | Self::SetAcl { path, .. } | Self::DeleteIdle { path } => path,
        }
    }

    /// As [`Request::log_format`].
    fn log_format(&self) -> u16 {
        let of_mode = |mode: &CreateMode| match mode {
            CreateMode::Persistent | CreateMode::PersistentSequential | CreateMode::Ephemeral | CreateMode::EphemeralSequential => 1,
            CreateMode::Container | CreateMode::Ttl { .. } | CreateMode::TtlSequential { .. } => 2,
        };
        match self {
            Self::Create { mode, .. } => of_mode(mode),
            Self::Set { .. } | Self::Delete { .. } | Self::Check { .. } => 1,
            Self::CreateWithAcl { .. } | Self::SetAcl { .. } | Self::DeleteIdle { .. } => 2,
        }
    }

    /// About how many bytes the operation takes in the log.
    pub fn size_bytes(&self) -> usize {
        let data = match self {
            Self::Create { data, .. } | Self::Set { data, .. } => data.as_ref().map_or(0, Bytes::len),
            Self::Delete { .. } | Self::Check { .. } | Self::DeleteIdle { .. } => 0,
            Self::CreateWithAcl { data, acl, .. } => data.as_ref().map_or(0, Bytes::len) + acl.iter().map(Acl::size_bytes).sum::<usize>(),
            Self::SetAcl { acl, .. } => acl.iter().map(Acl::size_bytes).sum(),
        };
        self.path().len() + data + 16
    }
}

/// What a client asks the state machine to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// One operation.
    One(Operation),
    /// All of them in order, or none.
    Multi(Vec<Operation>),
    /// Begins a session.
    CreateSession {
        /// Its id, not zero and not in use.
        session: i64,
        /// How long it lives without a sign of life, in milliseconds.
        timeout_ms: i32,
    },
    /// Ends a session and removes its ephemeral znodes. Nothing if there is no such session.
    CloseSession {
        /// Its id.
        session: i64,
    },
    /// All operations in order, or none, as far as the znodes' ACLs allow them. What `One` and `Multi` ask is the service's own process's, which may
    /// do everything.
    Client {
        /// Who asks.
        identities: Vec<Identity>,
        /// What.
        operations: Vec<Operation>,
    },
    /// Begins the session of a client that may come back to it from another connection: it outlives the process that serves it.
    OpenSession {
        /// As for `CreateSession`.
        session: i64,
        /// As for `CreateSession`.
        timeout_ms: i32,
        /// What the client must know to come back.
        password: [u8; 16],
    },
    /// The client of the command's session comes back to it over another connection, perhaps of another member. From here on the session is attached to
    /// that connection, which is named by the zxid of this very transaction, and what was asked over the one before is refused with
    /// [`ErrorCode::SessionMoved`] (ZooKeeper's `checkSession`). Fails with [`ErrorCode::SessionExpired`] if the session has ended or
    /// the password is not its own.
    Attach {
        /// The transaction by which the session was attached before, as the member knows it that asks. If it is another one by now, nothing is done
        /// ([`ErrorCode::SessionMoved`]): a request to come back that was long under way does not take the session from a client that has long come back
        /// elsewhere (ZOOKEEPER-710).
        attached_zxid: i64,
        /// The new time-out, in milliseconds.
        timeout_ms: i32,
        /// What the client knows.
        password: [u8; 16],
    },
    /// As `Client`, over the connection that the command's session was attached to by this transaction.
    Attached {
        /// The transaction: an `OpenSession` or an `Attach`.
        attached_zxid: i64,
        /// Who asks.
        identities: Vec<Identity>,
        /// What.
        operations: Vec<Operation>,
    },
    /// The client of the command's session ends it, over the connection that it was attached to by this transaction.
    EndSession {
        /// As for `Attached`.
        attached_zxid: i64,
    },
    /// A member says where it serves clients: `/zookeeper/config` tells it from then on. Nothing if that does not name the member.
    Announce {
        /// The `N` of its `server.N`.
        server_id: u32,
        /// Where, as `host:port`.
        client_address: String,
    },
    /// `/zookeeper/config` names these servers from then on. It stands in no log: whoever applies a change of the membership carries it out with it.
    Configure {
        /// A line each.
        servers: String,
    },
}

impl Request {
    /// Its operations; none if it concerns a session.
    pub fn operations(&self) -> &[Operation] {
        match self {
            Self::One(operation) => std::slice::from_ref(operation),
            Self::Multi(operations) | Self::Client { operations, .. } | Self::Attached { operations, .. } => operations,
            Self::CreateSession { .. } | Self::CloseSession { .. } | Self::OpenSession { .. } => &[],
            Self::Attach { .. } | Self::EndSession { .. } | Self::Announce { .. } | Self::Configure { .. } => &[],
        }
    }

    /// The lowest version of log entries ([`FORMAT`](super::storage::format::FORMAT) has the table) that has it: who reads only older ones cannot carry it out.
    pub fn log_format(&self) -> u16 {
        let of_operations = self.operations().iter().map(Operation::log_format).max().unwrap_or(1);
        match self {
            Self::One(_) | Self::Multi(_) | Self::CreateSession { .. } | Self::CloseSession { .. } => of_operations,
            Self::Client { .. } | Self::OpenSession { .. } => of_operations.max(2),
            Self::Attach { .. } | Self::Attached { .. } | Self::EndSession { .. } | Self::Announce { .. } | Self::Configure { .. } => of_operations.max(3),
        }
    }
}

/// One entry of the coordination log: a request with all that makes its outcome the same on every replay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The session on whose behalf, or 0 for none (it cannot make ephemeral znodes then).
    pub session: i64,
    /// The wall clock of the member that proposed it, in milliseconds since 1970.
    pub time_ms: i64,
    /// What to do.
    pub request: Request,
}

impl Command {
    /// The session that ends if the command is carried out.
    pub fn ends_session(&self) -> Option<i64> {
        match self.request {
            Request::CloseSession { session } => Some(session),
            Request::EndSession { .. } => Some(self.session),
            _ => None,
        }
    }
}

/// A znode's stat as ZooKeeper reports it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// The transaction that created the znode.
    pub czxid: i64,
    /// The transaction that changed its content last.
    pub mzxid: i64,
    /// When it was created, in milliseconds since 1970.
    pub ctime_ms: i64,
    /// When its content was changed last, in milliseconds since 1970.
    pub mtime_ms: i64,
    /// How often its content was changed.
    pub version: i32,
    /// How often its set of children was changed.
    pub cversion: i32,
    /// How often its ACL was changed.
    pub aversion: i32,
    /// The session that it ends with, or 0.
    pub ephemeral_owner: i64,
    /// The length of its content in bytes.
    pub data_length: i32,
    /// How many children it has.
    pub num_children: i32,
    /// The transaction that created or deleted a child of it last.
    pub pzxid: i64,
}

/// What one operation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperationResult {
    /// A znode was created.
    Created {
        /// Its path, with the number of a sequential one.
        path: String,
        /// Its stat.
        stat: Stat,
    },
    /// The content was replaced.
    Set {
        /// The znode's stat after it.
        stat: Stat,
    },
    /// The znode was removed.
    Deleted,
    /// The version was as expected.
    Checked,
    /// The ACL was replaced.
    AclSet {
        /// The znode's stat after it.
        stat: Stat,
    },
}

/// How a znode changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventKind {
    /// It was created.
    Created,
    /// It was deleted.
    Deleted,
    /// Its content was replaced.
    DataChanged,
    /// A child of it was created or deleted.
    ChildrenChanged,
}

/// A change that a watch could wait for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Event {
    /// Of which znode.
    pub path: Arc<str>,
    /// How it changed.
    pub kind: EventKind,
    /// Its ACL (of a deleted one: its last): who may not read it is not told.
    pub acl: AclList,
}

/// The changes of one transaction, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changes {
    /// The transaction.
    pub zxid: i64,
    /// What changed.
    pub events: Vec<Event>,
}
