//! ZooKeeper's client protocol: what the frames between a client and a member hold. Pure.
//!
//! A connection begins with a [`ConnectRequest`] and its answer, without headers. Each later request has a header (xid, kind), each answer one too (xid, zxid,
//! error) and a body unless it failed. Answers come in the order of the requests, except for those to pings and to credentials; a negative xid
//! says what an answer is that answers nothing in that order.

use bytes::Bytes;

use super::acl::{Acl, Identity};
use super::jute::{JuteError, Reader, Writer};
use super::op::{CreateMode, ErrorCode, EventKind, Operation, OperationResult, Stat};
use super::watch::{WatchKind, WatchType, Watched};

/// The xid of a watch event.
pub const XID_EVENT: i32 = -1;
/// The xid of a ping and its answer.
pub const XID_PING: i32 = -2;
/// The xid of credentials and their answer.
pub const XID_AUTH: i32 = -4;
/// The xid with which clients set their watches again.
pub const XID_SET_WATCHES: i32 = -8;

/// The kinds of requests (`ZooDefs.OpCode`).
#[expect(missing_docs, reason = "the names are the protocol's own")]
pub mod opcode {
    pub const CREATE: i32 = 1;
    pub const DELETE: i32 = 2;
    pub const EXISTS: i32 = 3;
    pub const GET_DATA: i32 = 4;
    pub const SET_DATA: i32 = 5;
    pub const GET_ACL: i32 = 6;
    pub const SET_ACL: i32 = 7;
    pub const GET_CHILDREN: i32 = 8;
    pub const SYNC: i32 = 9;
    pub const PING: i32 = 11;
    pub const GET_CHILDREN2: i32 = 12;
    pub const CHECK: i32 = 13;
    pub const MULTI: i32 = 14;
    pub const CREATE2: i32 = 15;
    pub const RECONFIG: i32 = 16;
    pub const CHECK_WATCHES: i32 = 17;
    pub const REMOVE_WATCHES: i32 = 18;
    pub const CREATE_CONTAINER: i32 = 19;
    pub const CREATE_TTL: i32 = 21;
    pub const MULTI_READ: i32 = 22;
    pub const AUTH: i32 = 100;
    pub const SET_WATCHES: i32 = 101;
    pub const GET_EPHEMERALS: i32 = 103;
    pub const GET_ALL_CHILDREN_NUMBER: i32 = 104;
    pub const SET_WATCHES2: i32 = 105;
    pub const ADD_WATCH: i32 = 106;
    pub const WHO_AM_I: i32 = 107;
    pub const CLOSE_SESSION: i32 = -11;
    pub const ERROR: i32 = -1;
}

/// The first frame of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectRequest {
    /// The newest transaction that the client has seen; a member that has not, must not serve it.
    pub last_zxid_seen: i64,
    /// The time-out that it asks for, in milliseconds.
    pub timeout_ms: i32,
    /// The session that it comes back to; 0 for a new one.
    pub session: i64,
    /// That session's password.
    pub password: Bytes,
    /// Whether it would take a member that serves reads only; clients before 3.4 do not send it.
    pub read_only: Option<bool>,
}

impl ConnectRequest {
    /// Reads one from the body of a frame.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn decode(frame: &[u8]) -> Result<Self, JuteError> {
        let mut reader = Reader::new(frame);
        let _protocol_version = reader.int()?;
        Ok(Self {
            last_zxid_seen: reader.long()?,
            timeout_ms: reader.int()?,
            session: reader.long()?,
            password: Bytes::copy_from_slice(reader.buffer()?.unwrap_or_default()),
            read_only: if reader.left_bytes() > 0 { Some(reader.bool()?) } else { None },
        })
    }

    /// Writes one as a frame.
    pub fn encode(&self, to: &mut Writer) {
        to.frame(|body| {
            body.int(0);
            body.long(self.last_zxid_seen);
            body.int(self.timeout_ms);
            body.long(self.session);
            body.buffer(&self.password);
            if let Some(read_only) = self.read_only {
                body.bool(read_only);
            }
        });
    }
}

/// The answer to a [`ConnectRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectResponse {
    /// The time-out that the client got, in milliseconds; 0 if the session that it came back to has ended.
    pub timeout_ms: i32,
    /// The session, or 0.
    pub session: i64,
    /// What to know to come back to it.
    pub password: [u8; 16],
    /// Whether this member serves reads only; told to those who asked.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The session has ended, or the password is not its own.
    pub fn expired(read_only: Option<bool>) -> Self {
        Self { timeout_ms: 0, session: 0, password: [0; 16], read_only }
    }

    /// Writes it as a frame.
    pub fn encode(&self, to: &mut Writer) {
        to.frame(|body| {
            body.int(0);
            body.int(self.timeout_ms);
            body.long(self.session);
            body.buffer(&self.password);
            if let Some(read_only) = self.read_only {
                body.bool(read_only);
            }
        });
    }

    /// Reads one from the body of a frame.
    ///
    /// # Errors
    /// [`JuteError`].
    pub fn decode(frame: &[u8]) -> Result<Self, JuteError> {
        let mut reader = Reader::new(frame);
        let _protocol_version = reader.int()?;
        let (timeout_ms, session) = (reader.int()?, reader.long()?);
        let password = reader.buffer()?.unwrap_or_default();
        let password = password.try_into().map_err(|_| JuteError::Length { length: i32::try_from(password.len()).unwrap_or(i32::MAX) })?;
        Ok(Self { timeout_ms, session, password, read_only: if reader.left_bytes() > 0 { Some(reader.bool()?) } else { None } })
    }
}

/// A change that a client asks for, with the kind of request that its answer depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The kind of request.
    pub opcode: i32,
    /// The change.
    pub operation: Operation,
}

/// A read of a `multiRead`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// A znode's content and stat.
    Data(String),
    /// The names of its children.
    Children(String),
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are named as in the protocol: the znode's path, whether to watch it")]
pub enum Request {
    /// One change.
    Write(Write),
    /// All changes or none.
    Multi(Vec<Write>),
    /// A znode's stat.
    Exists { path: String, watch: bool },
    /// A znode's content and stat.
    GetData { path: String, watch: bool },
    /// A znode's ACL and stat.
    GetAcl { path: String },
    /// The names of a znode's children, with its stat or without.
    GetChildren { path: String, watch: bool, with_stat: bool },
    /// Reads, each with its own outcome.
    MultiRead(Vec<Read>),
    /// Whatever was answered anywhere before is seen by the reads after it.
    Sync { path: String },
    /// A sign of life.
    Ping,
    /// The end of the session.
    CloseSession,
    /// Credentials.
    Auth { scheme: String, credentials: Bytes },
    /// The watches of a client that has come back.
    SetWatches { seen_zxid: i64, watched: Watched },
    /// A persistent watch.
    AddWatch { path: String, kind: WatchKind },
    /// Removes watches.
    RemoveWatches { path: String, which: WatchType },
    /// Whether there are such watches.
    CheckWatches { path: String, which: WatchType },
    /// The session's ephemeral znodes whose paths begin so.
    GetEphemerals { prefix: String },
    /// How many znodes there are below.
    GetAllChildrenNumber { path: String },
    /// The connection's identities.
    WhoAmI,
    /// Another membership.
    Reconfig(Reconfig),
}

/// A `reconfig` as it comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfig {
    /// Servers that join, as `server.N=…`, separated by commas.
    pub joining: Option<String>,
    /// The numbers of servers that leave, separated by commas.
    pub leaving: Option<String>,
    /// Instead of both: all servers, as `server.N=…`.
    pub members: Option<String>,
    /// The version that the configuration must have, or −1.
    pub config_id: i64,
}

/// Why a request cannot be carried out as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is answered with this error.
    Code(ErrorCode),
    /// Its kind is not known: it is answered so, and the connection ends.
    UnknownKind,
}

impl From<JuteError> for Refused {
    fn from(_: JuteError) -> Self {
        Self::Code(ErrorCode::MarshallingError)
    }
}

/// Reads the header of a request: its xid and kind, and leaves the body.
///
/// # Errors
/// [`JuteError`]: there is no telling what to answer.
pub fn decode_header<'a>(frame: &'a [u8]) -> Result<(i32, i32, Reader<'a>), JuteError> {
    let mut reader = Reader::new(frame);
    Ok((reader.int()?, reader.int()?, reader))
}

/// Reads the body of a request of this kind.
///
/// # Errors
/// [`Refused`].
pub fn decode_request(opcode: i32, body: &mut Reader<'_>) -> Result<Request, Refused> {
    let path = |body: &mut Reader<'_>| body.string().map(str::to_owned);
    Ok(match opcode {
        opcode::CREATE | opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL => Request::Write(create(opcode, body)?),
        opcode::DELETE | opcode::SET_DATA => Request::Write(write(opcode, body)?),
        // An operation of a `multi` only, as in ZooKeeper (its CheckTest).
        opcode::CHECK => return Err(Refused::Code(ErrorCode::Unimplemented)),
        opcode::SET_ACL => {
            let (path, acl) = (path(body)?, body.acl()?);
            Request::Write(Write { opcode, operation: Operation::SetAcl { path, acl, version: body.int()? } })
        }
        opcode::MULTI => Request::Multi(multi(body, |opcode, body| match opcode {
            opcode::DELETE | opcode::SET_DATA | opcode::CHECK => Ok(write(opcode, body)?),
            opcode::CREATE | opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL => create(opcode, body),
            number => Err(JuteError::Unknown { what: "the operation", number }.into()),
        })?),
        opcode::MULTI_READ => Request::MultiRead(multi(body, |opcode, body| {
            let path = path(body)?;
            let _watch = body.bool()?;
            match opcode {
                opcode::GET_DATA => Ok(Read::Data(path)),
                opcode::GET_CHILDREN => Ok(Read::Children(path)),
                number => Err(JuteError::Unknown { what: "the read", number }.into()),
            }
        })?),
        opcode::EXISTS => Request::Exists { path: path(body)?, watch: body.bool()? },
        opcode::GET_DATA => Request::GetData { path: path(body)?, watch: body.bool()? },
        opcode::GET_ACL => Request::GetAcl { path: path(body)? },
        opcode::GET_CHILDREN | opcode::GET_CHILDREN2 => {
            Request::GetChildren { path: path(body)?, watch: body.bool()?, with_stat: opcode == opcode::GET_CHILDREN2 }
        }
        opcode::SYNC => Request::Sync { path: path(body)? },
        opcode::PING => Request::Ping,
        opcode::CLOSE_SESSION => Request::CloseSession,
        opcode::AUTH => {
            let _kind = body.int()?;
            let scheme = path(body)?;
            Request::Auth { scheme, credentials: Bytes::copy_from_slice(body.buffer()?.unwrap_or_default()) }
        }
        opcode::SET_WATCHES | opcode::SET_WATCHES2 => {
            let seen_zxid = body.long()?;
            let mut watched = Watched { data: body.strings()?, exist: body.strings()?, child: body.strings()?, ..Watched::default() };
            if opcode == opcode::SET_WATCHES2 {
                (watched.persistent, watched.persistent_recursive) = (body.strings()?, body.strings()?);
            }
            Request::SetWatches { seen_zxid, watched }
        }
        opcode::ADD_WATCH => {
            let path = path(body)?;
            let kind = match body.int()? {
                0 => WatchKind::Persistent,
                1 => WatchKind::PersistentRecursive,
                number => return Err(JuteError::Unknown { what: "the mode", number }.into()),
            };
            Request::AddWatch { path, kind }
        }
        opcode::REMOVE_WATCHES | opcode::CHECK_WATCHES => {
            let path = path(body)?;
            let number = body.int()?;
            let which = WatchType::from_code(number).ok_or(JuteError::Unknown { what: "the type of watch", number })?;
            if opcode == opcode::REMOVE_WATCHES { Request::RemoveWatches { path, which } } else { Request::CheckWatches { path, which } }
        }
        opcode::GET_EPHEMERALS => Request::GetEphemerals { prefix: body.optional_string()?.unwrap_or_default().to_owned() },
        opcode::GET_ALL_CHILDREN_NUMBER => Request::GetAllChildrenNumber { path: path(body)? },
        opcode::WHO_AM_I => Request::WhoAmI,
        opcode::RECONFIG => {
            let mut list = || Ok::<_, JuteError>(body.optional_string()?.filter(|list| !list.is_empty()).map(str::to_owned));
            let (joining, leaving, members) = (list()?, list()?, list()?);
            Request::Reconfig(Reconfig { joining, leaving, members, config_id: body.long()? })
        }
        _ => return Err(Refused::UnknownKind),
    })
}

fn create(opcode: i32, body: &mut Reader<'_>) -> Result<Write, Refused> {
    let path = body.string()?.to_owned();
    // The tree outlives the frame: it must not hold on to it.
    let data = body.buffer()?.map(Bytes::copy_from_slice);
    let acl = body.acl()?;
    let flags = body.int()?;
    let ttl_ms = if opcode == opcode::CREATE_TTL { body.long()? } else { 0 };
    let mode = match (opcode, flags) {
        (opcode::CREATE_CONTAINER, _) | (_, 4) => CreateMode::Container,
        (_, 0) => CreateMode::Persistent,
        (_, 1) => CreateMode::Ephemeral,
        (_, 2) => CreateMode::PersistentSequential,
        (_, 3) => CreateMode::EphemeralSequential,
        (_, 5) => CreateMode::Ttl { ttl_ms },
        (_, 6) => CreateMode::TtlSequential { ttl_ms },
        _ => return Err(Refused::Code(ErrorCode::BadArguments)),
    };
    Ok(Write { opcode, operation: Operation::CreateWithAcl { path, data, mode, acl } })
}

fn write(opcode: i32, body: &mut Reader<'_>) -> Result<Write, JuteError> {
    let path = body.string()?.to_owned();
    let operation = match opcode {
        opcode::DELETE => Operation::Delete { path, version: body.int()? },
        opcode::CHECK => Operation::Check { path, version: body.int()? },
        _ => Operation::Set { path, data: body.buffer()?.map(Bytes::copy_from_slice), version: body.int()? },
    };
    Ok(Write { opcode, operation })
}

/// The items of a `multi`: each with a header, and a last header that says so.
fn multi<T>(body: &mut Reader<'_>, item: impl Fn(i32, &mut Reader<'_>) -> Result<T, Refused>) -> Result<Vec<T>, Refused> {
    let mut items = Vec::new();
    loop {
        let (opcode, done, _error) = (body.int()?, body.bool()?, body.int()?);
        if done {
            return Ok(items);
        }
        items.push(item(opcode, body)?);
    }
}

/// Writes the header of an answer.
pub fn encode_reply_header(to: &mut Writer, xid: i32, zxid: i64, error: i32) {
    to.int(xid);
    to.long(zxid);
    to.int(error);
}

/// Writes a watch event as a frame.
pub fn encode_event(to: &mut Writer, zxid: i64, kind: EventKind, path: &str) {
    /// `KeeperState.SyncConnected`.
    const CONNECTED: i32 = 3;
    to.frame(|body| {
        encode_reply_header(body, XID_EVENT, zxid, 0);
        body.int(event_code(kind));
        body.int(CONNECTED);
        body.string(path);
    });
}

/// `Watcher.Event.EventType`.
pub const fn event_code(kind: EventKind) -> i32 {
    match kind {
        EventKind::Created => 1,
        EventKind::Deleted => 2,
        EventKind::DataChanged => 3,
        EventKind::ChildrenChanged => 4,
    }
}

/// The kind of a number on the wire.
pub const fn event_kind(code: i32) -> Option<EventKind> {
    match code {
        1 => Some(EventKind::Created),
        2 => Some(EventKind::Deleted),
        3 => Some(EventKind::DataChanged),
        4 => Some(EventKind::ChildrenChanged),
        _ => None,
    }
}

/// Writes the body of the answer to a change of this kind.
pub fn encode_result(to: &mut Writer, opcode: i32, result: &OperationResult) {
    match result {
        OperationResult::Created { path, stat } => {
            to.string(path);
            if opcode != opcode::CREATE {
                to.stat(stat);
            }
        }
        OperationResult::Set { stat } | OperationResult::AclSet { stat } => to.stat(stat),
        OperationResult::Deleted | OperationResult::Checked => {}
    }
}

/// Writes the body of the answer to a `multi` that was carried out.
pub fn encode_multi_results<'r>(to: &mut Writer, results: impl Iterator<Item = (i32, &'r OperationResult)>) {
    for (opcode, result) in results {
        // What has a stat comes under one kind, whatever was asked for.
        let opcode = if matches!(result, OperationResult::Created { .. }) && opcode != opcode::CREATE { opcode::CREATE2 } else { opcode };
        encode_multi_header(to, opcode, false, 0);
        encode_result(to, opcode, result);
    }
    encode_multi_end(to);
}

/// Writes the body of the answer to a `multi` that failed.
pub fn encode_multi_failure(to: &mut Writer, codes: &[ErrorCode]) {
    for code in codes {
        encode_multi_error(to, *code);
    }
    encode_multi_end(to);
}

/// Writes one failed item of a `multi`.
pub fn encode_multi_error(to: &mut Writer, code: ErrorCode) {
    encode_multi_header(to, opcode::ERROR, false, code.code());
    to.int(code.code());
}

/// Writes the header of one item of a `multi`.
pub fn encode_multi_header(to: &mut Writer, opcode: i32, done: bool, error: i32) {
    to.int(opcode);
    to.bool(done);
    to.int(error);
}

/// Writes the end of a `multi`.
pub fn encode_multi_end(to: &mut Writer) {
    encode_multi_header(to, -1, true, -1);
}

/// Writes the body of the answer to `getACL`.
pub fn encode_acl(to: &mut Writer, acl: &[Acl], stat: &Stat) {
    to.acl(acl);
    to.stat(stat);
}

/// Writes the body of the answer to `whoAmI`.
pub fn encode_identities(to: &mut Writer, identities: &[Identity]) {
    to.int(i32::try_from(identities.len()).unwrap_or(i32::MAX));
    for identity in identities {
        to.string(&identity.scheme);
        to.string(identity.user());
    }
}

#[cfg(test)]
#[path = "protocol_tests.rs"]
mod tests;
