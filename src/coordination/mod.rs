//! Coordination: a tree of znodes as ZooKeeper's, kept in a log on disk.
//!
//! [`Coordination`] is the handle. All changes go through one task, the node: it takes what has come in while the last sync ran,
//! appends it as one group, syncs once, has it committed by consensus, applies it to the tree and answers. What a reader sees is therefore durable
//! on a majority. Reads come from this member's tree: those of a member that is alone are linearizable, and so is every read after
//! [`Coordination::sync`].
//!
//! | file | holds |
//! |---|---|
//! | `op` | requests, results, stat, error codes, events |
//! | `path`, `acl`, `lifetime` | what a path may be; who may do what; how long a znode lives |
//! | `tree` | the state machine |
//! | `storage` | log and snapshots on disk |
//! | `ensemble` | consensus, of one member or several: the node, its peers, membership |
//! | `watch`, `session` | who is told of which change; whose client is alive, by the leader's count: pure |
//! | `hub`, `housekeeping` | those two with the connections of one member; the end of idle znodes |
//! | `jute`, `protocol` | ZooKeeper's serialisation and client protocol |
//! | `server` | serves ZooKeeper's clients on a port |
//! | `service` | one member as it is configured: who it is, its secret, its ports, its start and its end |
//! | `client` | a small client of that protocol: the command line uses it |

pub mod acl;
pub mod client;
pub mod ensemble;
mod housekeeping;
mod hub;
pub mod jute;
pub mod lifetime;
pub mod op;
pub mod path;
pub mod protocol;
pub mod server;
pub mod service;
pub mod session;
pub mod storage;
pub mod tree;
pub mod watch;

pub use self::hub::Housekeeping;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock, RwLockReadGuard};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, oneshot};

use self::ensemble::consensus::Change;
use self::ensemble::peer::Wish;
use self::ensemble::start::{self, EnsembleConfig, StartError};
use self::ensemble::{ChangeRefused, Observer, Status};
use self::hub::Hub;
use self::op::{Changes, CreateMode, ErrorCode, Failure, Operation, OperationResult, Request, Stat};
use self::storage::StorageError;
use self::tree::{NodeView, Tree};
use crate::runtime::{Disk, Runtime};

/// The name of the directory below the first of `log.dirs` that holds the coordination log.
pub const DIR_NAME: &str = "__ottla_coordination";

/// The largest request in bytes, about: more is refused with [`ErrorCode::MarshallingError`]. Requests that an Apache ZooKeeper must take too
/// have to stay below its `jute.maxbuffer`, 1 MiB by default.
pub const REQUEST_MAX_BYTES: usize = 8 << 20;

/// How many proposals wait for the node before callers wait for room.
const QUEUE_COUNT: usize = 1024;

/// How many transactions a subscriber may fall behind.
const SUBSCRIBER_LAG_COUNT: usize = 1024;

/// When snapshots are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// After how many bytes of log, at least; the last snapshot's length if that is more.
    pub snapshot_every_bytes: u64,
    /// After how many entries, at least.
    pub snapshot_every_entries: u64,
    /// How many snapshots are kept, the newest included; at least 1.
    pub snapshots_kept_count: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { snapshot_every_bytes: 16 << 20, snapshot_every_entries: 100_000, snapshots_kept_count: 3 }
    }
}

/// Something for the node.
enum Message {
    Propose {
        session: i64,
        request: Request,
        answer: oneshot::Sender<Done>,
    },
    /// A read of a session that has proposals under way: done when the last of them is applied, and before anything after it is.
    Look {
        session: i64,
        look: Look,
    },
    Sync {
        answer: oneshot::Sender<Result<(), Failure>>,
    },
    Status {
        answer: oneshot::Sender<Status>,
    },
    Change {
        change: Change,
        answer: oneshot::Sender<Result<(), ChangeRefused>>,
    },
    /// A step to another membership, for whoever leads.
    Wish(Wish),
    /// Answered once a member that is alone serves.
    Ready {
        answer: oneshot::Sender<()>,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

/// What came of a request, and the transaction that it was (which a failed one is, too); 0 if that is not known.
#[derive(Debug)]
struct Done {
    zxid: i64,
    outcome: Result<Vec<OperationResult>, Failure>,
}

/// Looks at the tree.
type Look = Box<dyn FnOnce(&Tree) + Send>;

/// What the node and all handles share.
struct Shared {
    tree: RwLock<Tree>,
    /// `None` where a snapshot of another member took the place of changes.
    changes: broadcast::Sender<Option<Arc<Changes>>>,
    hub: Arc<Hub>,
    /// Whether the task of `housekeeping` runs: without clients it has nothing to do.
    has_housekeeping: AtomicBool,
}

impl Shared {
    /// Tells everyone who waits for it of a transaction. Called before the tree's lock is free, so that no read shows a change that those who watch
    /// or subscribe have not been sent.
    fn publish(&self, zxid: i64, events: Vec<op::Event>) {
        if !events.is_empty() {
            self.hub.publish(zxid, &events);
            // No subscriber is no error.
            let _ = self.changes.send(Some(Arc::new(Changes { zxid, events })));
        }
    }
}

/// An answer that will come.
struct Submitted {
    path: String,
    wait: oneshot::Receiver<Done>,
}

impl Submitted {
    /// What came of it, as far as that is known.
    async fn done(self) -> Done {
        self.wait.await.unwrap_or_else(|_| Done { zxid: 0, outcome: Err(Failure::new(ErrorCode::ConnectionLoss, &self.path)) })
    }

    /// The outcome alone.
    async fn outcome(self) -> Result<Vec<OperationResult>, Failure> {
        self.done().await.outcome
    }
}

/// A handle that does not keep the service running.
struct WeakCoordination<R: Runtime> {
    rt: R,
    shared: Arc<Shared>,
    queue: mpsc::WeakSender<Message>,
}

impl<R: Runtime> WeakCoordination<R> {
    fn upgrade(&self) -> Option<Coordination<R>> {
        Some(Coordination { rt: self.rt.clone(), shared: self.shared.clone(), queue: self.queue.upgrade()?, session: 0 })
    }
}

/// A handle to the coordination service, on behalf of one session or of none. Clones share the service.
pub struct Coordination<R: Runtime> {
    rt: R,
    shared: Arc<Shared>,
    queue: mpsc::Sender<Message>,
    session: i64,
}

impl<R: Runtime> Clone for Coordination<R> {
    fn clone(&self) -> Self {
        Self { rt: self.rt.clone(), shared: self.shared.clone(), queue: self.queue.clone(), session: self.session }
    }
}

impl<R: Runtime> Coordination<R> {
    /// Opens the service embedded in this process: its only member, with the log in `dir`. Sessions of an earlier life of the process
    /// end if they were its own ([`Coordination::create_session`]); those of clients get a full time-out to come back in.
    ///
    /// # Errors
    /// [`StorageError`], naming the file and what to do.
    pub async fn open(rt: R, dir: &Path) -> Result<Self, StorageError> {
        Self::open_with(rt, dir, Options::default()).await
    }

    /// [`Coordination::open`] with other than the default options.
    ///
    /// # Errors
    /// As there.
    pub async fn open_with(rt: R, dir: &Path, options: Options) -> Result<Self, StorageError> {
        let lock = lock(&rt, dir).await?;
        let (storage, loaded) = storage::open(rt.clone(), dir).await?;
        let shared = Arc::new(Shared::new());
        let prepared = start::alone(rt.clone(), storage, loaded, shared.clone(), options)?;
        let this = Self::run(rt, shared, prepared, lock);
        let (answer, ready) = oneshot::channel();
        if this.queue.send(Message::Ready { answer }).await.is_ok() {
            let _ = ready.await; // A node that ends before has halted the process.
        }
        if this.read(Tree::has_mortal) {
            this.keep_house();
        }
        Ok(this)
    }

    /// Starts what must be done as time passes, if it is not done already.
    fn keep_house(&self) {
        if !self.shared.has_housekeeping.swap(true, Ordering::Relaxed) {
            let service = WeakCoordination { rt: self.rt.clone(), shared: self.shared.clone(), queue: self.queue.downgrade() };
            self.rt.spawn("coordination-housekeeping", housekeeping::run(service));
        }
    }

    /// Looks at the tree. What is done under its lock sees no transaction half applied, and is done before the next one is.
    fn read<T>(&self, look: impl FnOnce(&Tree) -> T) -> T {
        look(&self.tree())
    }

    /// Opens a member of an ensemble, with the log in `dir`. It returns when the member takes part, which for one without a log is when the
    /// others have answered; whether there is a quorum is another question, which [`Coordination::sync`] answers.
    ///
    /// # Errors
    /// [`StartError`], naming the file or the address and what to do.
    pub async fn open_member(rt: R, dir: &Path, config: &EnsembleConfig, options: Options, observer: Option<Arc<dyn Observer>>) -> Result<Self, StartError> {
        let lock = lock(&rt, dir).await?;
        let shared = Arc::new(Shared::new());
        let prepared = start::member(rt.clone(), dir, config, shared.clone(), options, observer).await?;
        let this = Self::run(rt, shared, prepared, lock);
        this.keep_house();
        Ok(this)
    }

    fn run(rt: R, shared: Arc<Shared>, prepared: start::Prepared<R>, lock: <R::Disk as Disk>::Lock) -> Self {
        let (queue, messages) = mpsc::channel(QUEUE_COUNT);
        let hub = shared.hub.clone();
        rt.spawn("coordination-node", async move {
            let start::Prepared { node, peers, standing } = prepared;
            let waiting = node.run(messages, peers).await;
            hub.stop();
            drop(standing);
            drop(lock);
            drop(waiting);
        });
        Self { rt, shared, queue, session: 0 }
    }

    /// Returns when this member's tree has all changes that were answered, anywhere in the ensemble, before the call: a read after it is
    /// linearizable. The leader asks a majority whether it still leads; no lease is trusted.
    ///
    /// # Errors
    /// [`ErrorCode::ConnectionLoss`] if no quorum answered in time.
    pub async fn sync(&self) -> Result<(), Failure> {
        let lost = || Failure::new(ErrorCode::ConnectionLoss, "");
        let (answer, wait) = oneshot::channel();
        self.queue.send(Message::Sync { answer }).await.map_err(|_| lost())?;
        wait.await.unwrap_or_else(|_| Err(lost()))
    }

    /// A sign of life of this handle's session, for whoever leads. It may be lost: give several within a time-out.
    pub async fn touch(&self) {
        if self.session != 0 {
            self.shared.hub.hear(self.session, housekeeping::clock_ms(self.rt.now()));
        }
    }

    /// Whether this member serves clients: a quorum has confirmed its leader and it has caught up with it, and it has not been without one for long since.
    pub fn is_serving(&self) -> bool {
        self.shared.hub.is_serving()
    }

    /// What this member knows of the ensemble; `None` if the service has ended.
    pub async fn status(&self) -> Option<Status> {
        let (answer, wait) = oneshot::channel();
        self.queue.send(Message::Status { answer }).await.ok()?;
        wait.await.ok()
    }

    /// Begins a change of the membership, on the leader. It has come to be when [`Coordination::status`] shows it; another that is under way, or the
    /// end of this leader's term, makes it come to nothing.
    ///
    /// # Errors
    /// [`ChangeRefused`].
    pub async fn change_members(&self, change: Change) -> Result<(), ChangeRefused> {
        let (answer, wait) = oneshot::channel();
        self.queue.send(Message::Change { change, answer }).await.map_err(|_| ChangeRefused::Ended)?;
        wait.await.unwrap_or(Err(ChangeRefused::Ended))
    }

    /// The same service for callers whose own tasks, such as connections, are to run on `rt`, another runtime of the same process.
    pub fn on(&self, rt: R) -> Self {
        Self { rt, ..self.clone() }
    }

    /// Tells whoever leads of a step to another membership that a client wants. What comes of it is in the log.
    async fn wish(&self, wish: Wish) {
        let _ = self.queue.send(Message::Wish(wish)).await;
    }

    /// The same service on behalf of a session that exists, for a client that comes back to it.
    pub fn with_session(&self, session: i64) -> Self {
        Self { session, ..self.clone() }
    }

    fn tree(&self) -> RwLockReadGuard<'_, Tree> {
        self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A znode's content and stat, as of the last answered change or later.
    ///
    /// # Errors
    /// [`ErrorCode::NoNode`], [`ErrorCode::BadArguments`].
    pub async fn get(&self, path: &str) -> Result<NodeView, Failure> {
        checked(path)?;
        self.tree().get(path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))
    }

    /// A znode's stat, or `None` if it does not exist.
    ///
    /// # Errors
    /// [`ErrorCode::BadArguments`].
    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, Failure> {
        checked(path)?;
        Ok(self.tree().stat(path))
    }

    /// The names of a znode's children in order, and its stat.
    ///
    /// # Errors
    /// [`ErrorCode::NoNode`], [`ErrorCode::BadArguments`].
    pub async fn children(&self, path: &str) -> Result<(Vec<Arc<str>>, Stat), Failure> {
        checked(path)?;
        self.tree().children(path).ok_or_else(|| Failure::new(ErrorCode::NoNode, path))
    }

    /// Creates a znode and returns its path, which a sequential one's number completes, and its stat. Durable when `Ok`.
    ///
    /// # Errors
    /// [`Failure`]; nothing was done then, except after [`ErrorCode::ConnectionLoss`].
    pub async fn create(&self, path: &str, data: impl Into<Bytes>, mode: CreateMode) -> Result<(String, Stat), Failure> {
        let operation = Operation::Create { path: path.to_owned(), data: Some(data.into()), mode };
        match self.one(operation).await? {
            OperationResult::Created { path, stat } => Ok((path, stat)),
            other => unreachable!("a creation answered {other:?}"),
        }
    }

    /// Replaces a znode's content if it has `version` (or [`op::ANY_VERSION`]), and returns its stat after it. Durable when `Ok`.
    ///
    /// # Errors
    /// As [`Coordination::create`].
    pub async fn set(&self, path: &str, data: impl Into<Bytes>, version: i32) -> Result<Stat, Failure> {
        match self.one(Operation::set(path, data, version)).await? {
            OperationResult::Set { stat } => Ok(stat),
            other => unreachable!("a replacement answered {other:?}"),
        }
    }

    /// Removes a znode without children if it has `version` (or [`op::ANY_VERSION`]). Durable when `Ok`.
    ///
    /// # Errors
    /// As [`Coordination::create`].
    pub async fn delete(&self, path: &str, version: i32) -> Result<(), Failure> {
        self.one(Operation::delete(path, version)).await.map(drop)
    }

    /// Does all operations in order, as one transaction, or none. Durable when `Ok`, with a result per operation.
    ///
    /// # Errors
    /// As [`Coordination::create`]; [`Failure::operation_index`] says which operation failed.
    pub async fn multi(&self, operations: Vec<Operation>) -> Result<Vec<OperationResult>, Failure> {
        self.propose(Request::Multi(operations)).await
    }

    async fn one(&self, operation: Operation) -> Result<OperationResult, Failure> {
        let mut results = self.propose(Request::One(operation)).await?;
        Ok(results.pop().expect("one operation has one result"))
    }

    /// Begins a session and returns a handle on its behalf: ephemeral znodes created through it end with it.
    ///
    /// # Errors
    /// As [`Coordination::create`]; [`ErrorCode::BadArguments`] if the time-out is not positive.
    pub async fn create_session(&self, timeout_ms: i32) -> Result<Self, Failure> {
        // 63 random bits, never zero: two sessions of one id are as good as impossible, and refused.
        let session = i64::try_from(self.rt.random_u64() >> 1).unwrap_or(i64::MAX).max(1);
        self.propose(Request::CreateSession { session, timeout_ms }).await?;
        Ok(Self { session, ..self.clone() })
    }

    /// The session on whose behalf this handle acts; 0 for none.
    pub fn session(&self) -> i64 {
        self.session
    }

    /// Ends this handle's session and removes its ephemeral znodes. Nothing without a session.
    ///
    /// # Errors
    /// As [`Coordination::create`].
    pub async fn close_session(&self) -> Result<(), Failure> {
        if self.session == 0 {
            return Ok(());
        }
        self.propose(Request::CloseSession { session: self.session }).await.map(drop)
    }

    /// All changes that this member applies from now on, transaction by transaction, in order. A change is in the subscription before any read shows it.
    pub fn subscribe(&self) -> Subscription {
        Subscription { receiver: self.shared.changes.subscribe() }
    }

    /// The zxid of the last transaction that was applied.
    pub fn last_zxid(&self) -> i64 {
        self.tree().last_zxid()
    }

    /// How many znodes there are, and the bytes of their paths and contents.
    pub fn size(&self) -> (u64, u64) {
        let tree = self.tree();
        (tree.node_count(), tree.data_bytes())
    }

    /// Ends the service after all that was proposed before; later proposals fail with [`ErrorCode::ConnectionLoss`]. When it returns, the
    /// directory can be opened again.
    pub async fn shutdown(&self) {
        let (done, wait) = oneshot::channel();
        if self.queue.send(Message::Shutdown { done }).await.is_ok() {
            let _ = wait.await; // Nothing is sent: it is dropped when the lock is free.
        }
    }

    async fn propose(&self, request: Request) -> Result<Vec<OperationResult>, Failure> {
        self.submit(self.session, request).await?.outcome().await
    }

    /// Looks at the tree once what the session has proposed so far is applied, and before anything that it proposes later is. Never, if what it has
    /// proposed is lost: what the look holds is dropped then.
    async fn look(&self, session: i64, look: Look) {
        let _ = self.queue.send(Message::Look { session, look }).await; // Dropped likewise, if the service has ended.
    }

    /// Hands a request over, on behalf of a session or of none (0). Requests are carried out in the order in which they were handed over.
    async fn submit(&self, session: i64, request: Request) -> Result<Submitted, Failure> {
        let operations = request.operations();
        let path = operations.first().map_or("", Operation::path).to_owned();
        if operations.iter().map(Operation::size_bytes).sum::<usize>() > REQUEST_MAX_BYTES {
            return Err(Failure::new(ErrorCode::MarshallingError, &path));
        }
        let (answer, wait) = oneshot::channel();
        match self.queue.send(Message::Propose { session, request, answer }).await {
            Ok(()) => Ok(Submitted { path, wait }),
            Err(_) => Err(Failure::new(ErrorCode::ConnectionLoss, &path)),
        }
    }
}

/// Takes a directory of the service for this process alone, as long as the lock is kept.
///
/// # Errors
/// [`StorageError::Locked`] if another process has it.
pub async fn lock<R: Runtime>(rt: &R, dir: &Path) -> Result<<R::Disk as Disk>::Lock, StorageError> {
    rt.disk().create_dir(dir).await.map_err(StorageError::io("create the directory", dir))?;
    let path = dir.join(".lock");
    let lock = rt.disk().try_lock(&path).await.map_err(StorageError::io("lock", &path))?;
    lock.ok_or_else(|| StorageError::Locked { dir: dir.to_owned() })
}

impl Shared {
    fn new() -> Self {
        let (changes, _) = broadcast::channel(SUBSCRIBER_LAG_COUNT);
        Self { tree: RwLock::new(Tree::new()), changes, hub: Arc::new(Hub::new()), has_housekeeping: AtomicBool::new(false) }
    }
}

fn checked(path: &str) -> Result<(), Failure> {
    path::validate(path).map_err(|_| Failure::new(ErrorCode::BadArguments, path))
}

/// What a subscription brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The changes of one transaction that changed something.
    Changes(Arc<Changes>),
    /// The subscriber was too slow and missed transactions: it must read anew what it watches.
    Missed,
}

/// Receives changes.
pub struct Subscription {
    receiver: broadcast::Receiver<Option<Arc<Changes>>>,
}

impl Subscription {
    /// The next notice; `None` when the service has ended. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Option<Notice> {
        match self.receiver.recv().await {
            Ok(Some(changes)) => Some(Notice::Changes(changes)),
            Ok(None) => Some(Notice::Missed),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(Notice::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests;
