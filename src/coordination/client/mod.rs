//! A client of the coordination service, as any ZooKeeper client is one: our own members, an Apache ZooKeeper, or the service of this process over a pipe.
//!
//! [`Session`] is the handle: one session, many tasks, many requests under way, answered in order. Behind it a task connects to the members in random order
//! and comes back to the session, with its watches, after a loss. What was in flight then fails with [`ErrorCode::ConnectionLoss`]: whether it was done is
//! unknown. What has not been sent waits. A session that has expired stays so: [`State::Expired`] is final, every request fails with
//! [`ErrorCode::SessionExpired`], and whoever owns the session must begin another one and make anew what it had.
//!
//! | file | holds |
//! |---|---|
//! | `connect_string` | `host:port,host:port/chroot` |
//! | `request` | requests written, answers read |
//! | `exchange`, `watching` | what is in flight, what is watched: pure |
//! | `connection` | the task with the connection |

mod connect_string;
mod connection;
mod exchange;
mod request;
#[cfg(test)]
mod single;
mod watching;

pub use self::connect_string::ConnectString;
#[cfg(test)]
pub use self::single::Client;

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot, watch};

use self::connection::{Answer, Control, Driver, Watchers};
use self::exchange::{Exchange, Request, Wish};
use self::watching::WatcherId;
use super::acl::Acl;
use super::jute::{JuteError, Reader, Writer};
use super::op::{CreateMode, ErrorCode, EventKind, Failure, Operation, OperationResult, Stat};
use super::path;
use super::protocol::opcode;
use super::tree::NodeView;
use super::watch::WatchKind;
use crate::runtime::Runtime;

/// How many requests wait for the connection before callers wait for room.
const QUEUE_COUNT: usize = 1024;

/// ZooKeeper's default of `jute.maxbuffer`.
pub const REQUEST_MAX_BYTES: usize = 0xf_ffff;

/// Opens a pipe to the service of this process.
pub type OpenPipe = Arc<dyn Fn() -> DuplexStream + Send + Sync>;

/// Where the service is.
#[derive(Clone)]
pub enum Connector {
    /// Members of an ensemble, at sockets.
    Hosts(ConnectString),
    /// The member in this process, over a pipe; the ensemble has others.
    Member(OpenPipe),
    /// The only member, in this process, over a pipe. The session lives as long as the process: there are no pings and no time-outs.
    Own(OpenPipe),
}

impl Connector {
    /// The path before all paths; empty for none.
    pub fn chroot(&self) -> &str {
        match self {
            Self::Hosts(connect) => &connect.chroot,
            Self::Member(_) | Self::Own(_) => "",
        }
    }

    /// Whether the service is in this process.
    pub const fn is_in_process(&self) -> bool {
        !matches!(self, Self::Hosts(_))
    }

    /// The same, with another path before all paths.
    #[must_use]
    pub fn with_chroot(&self, chroot: &str) -> Self {
        match self {
            Self::Hosts(connect) => Self::Hosts(ConnectString { chroot: chroot.to_owned(), ..connect.clone() }),
            own => own.clone(),
        }
    }
}

impl fmt::Display for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hosts(connect) => write!(f, "{connect}"),
            Self::Member(_) | Self::Own(_) => f.write_str("this process"),
        }
    }
}

/// How a session is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// The time-out that is asked for; the ensemble grants what its own bounds allow.
    pub session_timeout: Duration,
    /// The most requests in flight (`zookeeper.max.in.flight.requests`); at least 1.
    pub max_in_flight: usize,
    /// The largest request in bytes that the ensemble takes (`jute.maxbuffer`): more is refused before it is sent.
    pub request_max_bytes: usize,
}

impl Options {
    /// How long one member may take to serve, with this many left to try: the session must not end over one that is silent.
    fn connect_patience(&self, member_count: usize) -> Duration {
        const LEAST: Duration = Duration::from_millis(500);
        (self.session_timeout / u32::try_from(member_count.max(2)).unwrap_or(u32::MAX)).max(LEAST)
    }
}

/// How a session stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No member serves it at the moment; one is sought.
    Connecting {
        /// Why the last attempt failed, or the last connection was lost.
        why: Option<Arc<str>>,
    },
    /// A member serves it.
    Connected {
        /// Its id.
        session: i64,
        /// Its time-out, as the ensemble granted it.
        timeout: Duration,
    },
    /// It has ended at the ensemble, and its ephemeral znodes with it. Final.
    Expired,
    /// The ensemble refused the credentials. Final.
    AuthFailed,
    /// It was closed. Final.
    Closed,
}

impl State {
    /// Whether it stays so.
    pub const fn is_final(&self) -> bool {
        matches!(self, Self::Expired | Self::AuthFailed | Self::Closed)
    }
}

/// Why no session could be begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// No member served in time.
    #[error("no coordination service (ZooKeeper) at {peers} within {waited_ms} ms{}", why.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    TimedOut {
        /// Who was tried.
        peers: String,
        /// How long, in milliseconds.
        waited_ms: u128,
        /// Why the last attempt failed.
        why: Option<Arc<str>>,
    },
    /// The session ended before it was used.
    #[error("the session at {peers} has ended: {state:?}")]
    Ended {
        /// Where.
        peers: String,
        /// How.
        state: State,
    },
}

/// A watch's event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// To which znode.
    pub path: String,
}

/// Receives the events of the watches that were set with it. It ends when the session does.
pub struct Watcher {
    id: WatcherId,
    events: mpsc::UnboundedReceiver<WatchEvent>,
    control: mpsc::WeakUnboundedSender<Control>,
    watchers: Arc<Watchers>,
}

impl Watcher {
    /// The next event; `None` when the session has ended. Cancelling it loses nothing. An event is here before any read of this client shows the change.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        self.events.recv().await
    }

    /// The next event, if it is there.
    pub fn try_next(&mut self) -> Option<WatchEvent> {
        self.events.try_recv().ok()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
        if let Some(control) = self.control.upgrade() {
            let _ = control.send(Control::Forget(self.id));
        }
    }
}

struct Shared {
    connector: Connector,
    options: Options,
    requests: mpsc::Sender<Request<Answer>>,
    control: mpsc::UnboundedSender<Control>,
    state: watch::Receiver<State>,
    watchers: Arc<Watchers>,
    id: Arc<AtomicI64>,
    last_watcher: AtomicU64,
}

/// A session. Clones share it.
pub struct Session<R: Runtime> {
    rt: R,
    shared: Arc<Shared>,
}

impl<R: Runtime> Clone for Session<R> {
    fn clone(&self) -> Self {
        Self { rt: self.rt.clone(), shared: self.shared.clone() }
    }
}

impl<R: Runtime> Session<R> {
    /// Begins to connect. [`Session::connected`] tells when the session is there.
    pub fn begin(rt: R, connector: Connector, options: Options) -> Self {
        let (requests, queue) = mpsc::channel(QUEUE_COUNT);
        let (control, controls) = mpsc::unbounded_channel();
        let (publisher, state) = watch::channel(State::Connecting { why: None });
        let (watchers, id) = (Arc::new(Watchers::default()), Arc::new(AtomicI64::new(0)));
        let driver = Driver {
            rt: rt.clone(),
            connector: connector.clone(),
            options,
            requests: queue,
            control: controls,
            state: publisher,
            watchers: watchers.clone(),
            exchange: Exchange::default(),
            session: 0,
            id: id.clone(),
            password: [0; 16],
            timeout: options.session_timeout,
            credentials: Vec::new(),
            unanswered_credentials: VecDeque::new(),
            closing: None,
        };
        rt.spawn("coordination-client", driver.run());
        Self { rt, shared: Arc::new(Shared { connector, options, requests, control, state, watchers, id, last_watcher: AtomicU64::new(0) }) }
    }

    /// Begins a session and waits for it, within `patience`.
    ///
    /// # Errors
    /// [`ConnectError`], which names the members.
    pub async fn connect(rt: R, connector: Connector, options: Options, patience: Duration) -> Result<Self, ConnectError> {
        let session = Self::begin(rt, connector, options);
        session.connected(patience).await?;
        Ok(session)
    }

    /// Waits until a member serves the session, within `patience`.
    ///
    /// # Errors
    /// [`ConnectError`], which names the members.
    pub async fn connected(&self, patience: Duration) -> Result<(), ConnectError> {
        let late = self.rt.sleep(patience);
        let mut states = self.shared.state.clone();
        let peers = || self.shared.connector.to_string();
        let state = tokio::select! {
            biased;
            state = states.wait_for(|state| state.is_final() || matches!(state, State::Connected { .. })) => state.map_or(State::Closed, |state| state.clone()),
            () = late => self.state(),
        };
        match state {
            State::Connected { .. } => Ok(()),
            State::Connecting { why } => Err(ConnectError::TimedOut { peers: peers(), waited_ms: patience.as_millis(), why }),
            state => Err(ConnectError::Ended { peers: peers(), state }),
        }
    }

    /// How it stands.
    pub fn state(&self) -> State {
        self.shared.state.borrow().clone()
    }

    /// Tells of each change of how it stands; slow receivers see the latest only.
    pub fn states(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// The session's id; 0 before a member has served it.
    pub fn id(&self) -> i64 {
        self.shared.id.load(Ordering::Acquire)
    }

    /// The session's time-out: as granted if a member serves it at the moment, else as asked for.
    pub fn timeout(&self) -> Duration {
        match *self.shared.state.borrow() {
            State::Connected { timeout, .. } => timeout,
            _ => self.shared.options.session_timeout,
        }
    }

    /// Where the service is.
    pub fn connector(&self) -> &Connector {
        &self.shared.connector
    }

    /// A new receiver of events.
    pub fn watcher(&self) -> Watcher {
        let id = self.shared.last_watcher.fetch_add(1, Ordering::Relaxed) + 1;
        let (sender, events) = mpsc::unbounded_channel();
        let mut watchers = self.shared.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        // After the end it would wait for ever.
        if !self.shared.state.borrow().is_final() {
            watchers.insert(id, sender);
        }
        drop(watchers);
        Watcher { id, events, control: self.shared.control.downgrade(), watchers: self.shared.watchers.clone() }
    }

    fn ended(&self, path: &str) -> Failure {
        let code = match *self.shared.state.borrow() {
            State::Expired => ErrorCode::SessionExpired,
            State::AuthFailed => ErrorCode::AuthFailed,
            _ => ErrorCode::ConnectionLoss,
        };
        Failure::new(code, path)
    }

    /// Sends a request and waits for the body of its answer.
    async fn call(&self, opcode: i32, path: &str, body: Writer, watch: Option<Wish>) -> Result<Bytes, Failure> {
        let body = body.finish();
        // With its header.
        if body.len() + 8 > self.shared.options.request_max_bytes {
            return Err(Failure::new(ErrorCode::MarshallingError, path));
        }
        let (token, wait) = oneshot::channel();
        self.shared.requests.send(Request { opcode, body, watch, token }).await.map_err(|_| self.ended(path))?;
        match wait.await {
            Ok(answer) => answer.map_err(|code| Failure::new(code, path)),
            Err(_) => Err(self.ended(path)),
        }
    }

    fn server_path(&self, path: &str) -> Result<String, Failure> {
        path::validate(path).map_err(|_| Failure::new(ErrorCode::BadArguments, path))?;
        Ok(request::below(self.shared.connector.chroot(), path))
    }

    /// A request about one znode: its path, and whether to watch it.
    async fn read(&self, opcode: i32, path: &str, kind: WatchKind, watcher: Option<&Watcher>) -> Result<Bytes, Failure> {
        let server_path = self.server_path(path)?;
        let mut body = Writer::default();
        body.string(&server_path);
        body.bool(watcher.is_some());
        let wish = watcher.map(|watcher| Wish { path: server_path, kind, if_missing: opcode == opcode::EXISTS, watcher: watcher.id });
        self.call(opcode, path, body, wish).await
    }

    /// A znode's content and stat.
    ///
    /// # Errors
    /// [`Failure`], with [`ErrorCode::NoNode`] if it does not exist.
    pub async fn get(&self, path: &str) -> Result<NodeView, Failure> {
        self.get_and(path, None).await
    }

    /// A znode's content and stat; `watcher` is told once when they change. A znode that does not exist is not watched.
    ///
    /// # Errors
    /// As [`Session::get`].
    pub async fn get_and_watch(&self, path: &str, watcher: &Watcher) -> Result<NodeView, Failure> {
        self.get_and(path, Some(watcher)).await
    }

    async fn get_and(&self, path: &str, watcher: Option<&Watcher>) -> Result<NodeView, Failure> {
        let body = self.read(opcode::GET_DATA, path, WatchKind::Data, watcher).await?;
        decoded(path, &body, |from| {
            let data = Bytes::copy_from_slice(from.buffer()?.unwrap_or_default());
            Ok(NodeView { data, stat: from.stat()? })
        })
    }

    /// A znode's stat, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, Failure> {
        self.exists_and(path, None).await
    }

    /// A znode's stat, or `None` if it does not exist; `watcher` is told once when that changes.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn exists_and_watch(&self, path: &str, watcher: &Watcher) -> Result<Option<Stat>, Failure> {
        self.exists_and(path, Some(watcher)).await
    }

    async fn exists_and(&self, path: &str, watcher: Option<&Watcher>) -> Result<Option<Stat>, Failure> {
        match self.read(opcode::EXISTS, path, WatchKind::Data, watcher).await {
            Ok(body) => decoded(path, &body, |from| from.stat()).map(Some),
            Err(Failure { code: ErrorCode::NoNode, .. }) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// The names of a znode's children in order, and its stat.
    ///
    /// # Errors
    /// [`Failure`], with [`ErrorCode::NoNode`] if it does not exist.
    pub async fn children(&self, path: &str) -> Result<(Vec<Arc<str>>, Stat), Failure> {
        self.children_and(path, None).await
    }

    /// The same; `watcher` is told once when the set of children changes, or when the znode is deleted.
    ///
    /// # Errors
    /// As [`Session::children`].
    pub async fn children_and_watch(&self, path: &str, watcher: &Watcher) -> Result<(Vec<Arc<str>>, Stat), Failure> {
        self.children_and(path, Some(watcher)).await
    }

    async fn children_and(&self, path: &str, watcher: Option<&Watcher>) -> Result<(Vec<Arc<str>>, Stat), Failure> {
        let body = self.read(opcode::GET_CHILDREN2, path, WatchKind::Child, watcher).await?;
        decoded(path, &body, |from| {
            let mut names = from.list(|from| Ok(Arc::from(from.string()?)))?;
            names.sort_unstable();
            Ok((names, from.stat()?))
        })
    }

    /// A znode's ACL and stat.
    ///
    /// # Errors
    /// As [`Session::get`].
    pub async fn acl(&self, path: &str) -> Result<(Vec<Acl>, Stat), Failure> {
        let mut body = Writer::default();
        body.string(&self.server_path(path)?);
        let body = self.call(opcode::GET_ACL, path, body, None).await?;
        decoded(path, &body, |from| Ok((from.acl()?, from.stat()?)))
    }

    /// Carries out one change.
    ///
    /// # Errors
    /// [`Failure`]; nothing was done then, except after [`ErrorCode::ConnectionLoss`] and [`ErrorCode::SessionExpired`].
    pub async fn one(&self, operation: &Operation) -> Result<OperationResult, Failure> {
        let path = operation.path();
        path::validate(path)
            .or_else(|_| if is_sequential(operation) { path::validate(&format!("{path}0")) } else { path::validate(path) })
            .map_err(|_| Failure::new(ErrorCode::BadArguments, path))?;
        let mut body = Writer::default();
        let chroot = self.shared.connector.chroot();
        let opcode = request::encode(&mut body, chroot, operation, opcode::CREATE2).map_err(|code| Failure::new(code, path))?;
        let body = self.call(opcode, path, body, None).await?;
        request::decode(&body, chroot, opcode).map_err(|error| garbage(path, &error))
    }

    /// Creates a znode that everybody may do everything with, and returns its path, which a sequential one's number completes, and its stat.
    ///
    /// # Errors
    /// As [`Session::one`].
    pub async fn create(&self, path: &str, data: impl Into<Bytes>, mode: CreateMode) -> Result<(String, Stat), Failure> {
        self.create_with_acl(path, data, mode, vec![Acl::open()]).await
    }

    /// Creates a znode with an ACL.
    ///
    /// # Errors
    /// As [`Session::one`].
    pub async fn create_with_acl(&self, path: &str, data: impl Into<Bytes>, mode: CreateMode, acl: Vec<Acl>) -> Result<(String, Stat), Failure> {
        match self.one(&Operation::CreateWithAcl { path: path.to_owned(), data: Some(data.into()), mode, acl }).await? {
            OperationResult::Created { path, stat } => Ok((path, stat)),
            other => unreachable!("a creation answered {other:?}"),
        }
    }

    /// Replaces a znode's content if it has `version` (or [`ANY_VERSION`](super::op::ANY_VERSION)), and returns its stat after it.
    ///
    /// # Errors
    /// As [`Session::one`].
    pub async fn set(&self, path: &str, data: impl Into<Bytes>, version: i32) -> Result<Stat, Failure> {
        match self.one(&Operation::set(path, data, version)).await? {
            OperationResult::Set { stat } => Ok(stat),
            other => unreachable!("a replacement answered {other:?}"),
        }
    }

    /// Removes a znode without children if it has `version` (or [`ANY_VERSION`](super::op::ANY_VERSION)).
    ///
    /// # Errors
    /// As [`Session::one`].
    pub async fn delete(&self, path: &str, version: i32) -> Result<(), Failure> {
        self.one(&Operation::delete(path, version)).await.map(drop)
    }

    /// Does all operations in order, as one transaction, or none, with a result per operation; creations tell no stat.
    ///
    /// # Errors
    /// As [`Session::one`]; [`Failure::operation_index`] says which operation failed.
    pub async fn multi(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, Failure> {
        let first = operations.first().map_or("", Operation::path);
        let chroot = self.shared.connector.chroot();
        let mut body = Writer::default();
        request::encode_multi(&mut body, chroot, &operations)?;
        let body = self.call(opcode::MULTI, first, body, None).await?;
        request::decode_multi(&body, chroot, &operations).map_err(|error| garbage(first, &error))?
    }

    /// Whatever was answered anywhere before is seen by the reads after it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn sync(&self, path: &str) -> Result<(), Failure> {
        let mut body = Writer::default();
        body.string(&self.server_path(path)?);
        self.call(opcode::SYNC, path, body, None).await.map(drop)
    }

    /// Sets a watch that stays: of a znode and its children, or of all below it. It needs ZooKeeper 3.6 at least.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn watch(&self, path: &str, is_recursive: bool, watcher: &Watcher) -> Result<(), Failure> {
        let server_path = self.server_path(path)?;
        let mut body = Writer::default();
        body.string(&server_path);
        body.int(i32::from(is_recursive));
        let kind = if is_recursive { WatchKind::PersistentRecursive } else { WatchKind::Persistent };
        self.call(opcode::ADD_WATCH, path, body, Some(Wish { path: server_path, kind, if_missing: false, watcher: watcher.id })).await.map(drop)
    }

    /// Adds an identity to the session: scheme `digest` with `user:password`. It is given again after every loss of the connection.
    ///
    /// # Errors
    /// [`Failure`] with [`ErrorCode::AuthFailed`]: the session has ended then.
    pub async fn add_auth(&self, scheme: &str, credentials: &str) -> Result<(), Failure> {
        let (answer, wait) = oneshot::channel();
        let credentials = Bytes::copy_from_slice(credentials.as_bytes());
        let asked = self.shared.control.send(Control::Authenticate { scheme: scheme.to_owned(), credentials, answer });
        asked.map_err(|_| self.ended(""))?;
        wait.await.map_err(|_| self.ended(""))?.map_err(|code| Failure::new(code, ""))
    }

    /// Ends the session and removes its ephemeral znodes, after all that was asked before. If no member serves it, or none answers soon, the session
    /// ends after its time-out.
    pub async fn close(&self) {
        let (done, wait) = oneshot::channel();
        if self.shared.control.send(Control::Close { done }).is_ok() {
            let late = self.rt.sleep(connection::close_patience());
            tokio::select! {
                biased;
                _ = wait => {}
                () = late => {}
            }
        }
    }
}

fn is_sequential(operation: &Operation) -> bool {
    matches!(operation, Operation::Create { mode, .. } | Operation::CreateWithAcl { mode, .. } if mode.is_sequential())
}

fn decoded<T>(path: &str, body: &[u8], read: impl FnOnce(&mut Reader<'_>) -> Result<T, JuteError>) -> Result<T, Failure> {
    read(&mut Reader::new(body)).map_err(|error| garbage(path, &error))
}

fn garbage(path: &str, error: &JuteError) -> Failure {
    tracing::error!(path, %error, "the coordination service's answer makes no sense");
    Failure::new(ErrorCode::MarshallingError, path)
}

#[cfg(test)]
mod tests;
