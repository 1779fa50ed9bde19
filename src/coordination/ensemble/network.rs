//! Connections between members: one per direction, opened by the one who sends, opened again when it breaks.
//!
//! Queues are bounded, and what does not fit is dropped: consensus sends again what matters, and a member that is in doubt about its proposals
//! registers anew. Whatever comes in waits for the node, and the connection with it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::{mpsc, oneshot, watch};

use super::consensus::RaftMessage;
use super::node::{ExportedState, Met, PeerInput};
use super::peer::{Answer, GREETING_MAX_BYTES, PEER_FRAME_MAX_BYTES, PeerMessage, Purpose, Question, Secret, SnapshotPart, greet, kind, welcome};
use super::seal::{Opener, Sealer};
use crate::coordination::storage::format::{SnapshotMeta, SnapshotState};
use crate::coordination::tree::{Restore, Tree};
use crate::runtime::{HostPort, Listener, Runtime, Stream};

/// How many messages wait for one member's connection.
const LINK_QUEUE_COUNT: usize = 512;

/// About how many bytes are sent with one call.
const SEND_BYTES: usize = 256 << 10;

/// How much is read at once.
const READ_BYTES: usize = 64 << 10;

/// How long a connection may take to be opened and greeted, in all.
const GREETING_WITHIN: Duration = Duration::from_secs(3);

/// How long an answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

/// How long a snapshot may stand still on its way.
const SNAPSHOT_STALL: Duration = Duration::from_secs(10);

/// How long a link waits before it is opened again, at first and at most; twice as long after each attempt that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// How many strangers and members are served at once; more wait.
const CONNECTION_MAX_COUNT: usize = 256;

/// Waits for `future` at most for `within`.
///
/// # Errors
/// `TimedOut`, or its own.
pub async fn within<R: Runtime, T>(rt: &R, within: Duration, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let timer = rt.sleep(within);
    tokio::select! {
        biased;
        done = future => done,
        () = timer => Err(io::ErrorKind::TimedOut.into()),
    }
}

/// Asks the member at `address` one question on a connection of its own.
///
/// # Errors
/// The connection's.
pub async fn ask<R: Runtime>(rt: &R, address: &HostPort, secret: &Secret, question: &Question) -> io::Result<Answer> {
    let asked = async {
        let stream = rt.connect(address).await?;
        let (mut read, mut write) = stream.into_split();
        let mut greeted = greet(rt, &mut read, &mut write, secret, (Purpose::Question, 0, 0), "").await?;
        greeted.sealer.write(&mut write, kind::QUESTION, question).await?;
        greeted.opener.read(&mut read, kind::ANSWER, PEER_FRAME_MAX_BYTES).await
    };
    within(rt, GREETING_WITHIN, asked).await
}

/// What this member says to those who connect before, and while, it has a node.
#[derive(Clone)]
pub enum Standing {
    /// It has no log.
    Empty,
    /// It has a node with this Raft id, which takes what comes.
    Member(u64, mpsc::Sender<PeerInput>),
}

/// Listens for members until the last sender of `standing` is gone.
///
/// # Errors
/// The socket's.
pub async fn listen<R: Runtime>(
    rt: &R,
    at: SocketAddr,
    secret: Secret,
    configured: Vec<(u32, String)>,
    standing: watch::Receiver<Standing>,
) -> io::Result<SocketAddr> {
    let listener = rt.listen(at).await?;
    let bound = listener.local_addr();
    let this = rt.clone();
    rt.spawn("peer-listener", async move {
        let permits = Arc::new(tokio::sync::Semaphore::new(CONNECTION_MAX_COUNT));
        let strangers = Arc::new(Mutex::new(BTreeSet::new()));
        let mut ended = standing.clone();
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return };
            let accepted = tokio::select! {
                biased;
                _ = until_closed(&mut ended) => return,
                accepted = listener.accept() => accepted,
            };
            let Ok(stream) = accepted else {
                // It concerns that connection, or a shortage that passes.
                this.sleep(BACKOFF.0).await;
                continue;
            };
            let (rt, secret, configured, standing) = (this.clone(), secret.clone(), configured.clone(), standing.clone());
            let (strangers, peer) = (strangers.clone(), stream.peer_addr());
            this.spawn("peer-connection", async move {
                let mut ended = standing.clone();
                tokio::select! {
                    biased;
                    _ = until_closed(&mut ended) => {}
                    served = serve(&rt, stream, &secret, configured, &standing) => {
                        match served {
                            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && is_news(&strangers, peer.ip()) => {
                                tracing::error!(%peer, "refused a connection of a server that would be a member of the ensemble: {error}");
                            }
                            Err(error) => tracing::debug!(%error, %peer, "a connection of a peer ended"),
                            Ok(()) => {}
                        }
                    }
                }
                drop(permit);
            });
        }
    });
    Ok(bound)
}

/// Whether nothing was told of that address yet; of the first few alone, so that strangers cannot fill the disk.
fn is_news(told: &Mutex<BTreeSet<IpAddr>>, address: IpAddr) -> bool {
    const TOLD_MAX_COUNT: usize = 64;
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    told.len() < TOLD_MAX_COUNT && told.insert(address)
}

async fn until_closed(standing: &mut watch::Receiver<Standing>) {
    while standing.changed().await.is_ok() {}
}

async fn serve<R: Runtime>(rt: &R, stream: R::Stream, secret: &Secret, configured: Vec<(u32, String)>, standing: &watch::Receiver<Standing>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    // Many frames come at once.
    let mut read = BufReader::with_capacity(READ_BYTES, read);
    let now = standing.borrow().clone();
    let own = match &now {
        Standing::Empty => 0,
        Standing::Member(own, _) => *own,
    };
    let (hello, greeted) = within(rt, GREETING_WITHIN, welcome(rt, &mut read, &mut write, secret, own)).await?;
    let (mut sealer, mut opener) = (greeted.sealer, greeted.opener);
    fn gone<T>(_: T) -> io::Error {
        io::ErrorKind::BrokenPipe.into()
    }
    match (hello.purpose, now) {
        (Purpose::Question, now) => {
            let question = within(rt, GREETING_WITHIN, opener.read(&mut read, kind::QUESTION, PEER_FRAME_MAX_BYTES)).await?;
            let answer = match (question, now) {
                (Question::Probe { servers }, now) => {
                    let is_empty = match now {
                        Standing::Empty => true,
                        Standing::Member(_, node) => {
                            let (answer, wait) = oneshot::channel();
                            node.send(PeerInput::Probe(answer)).await.map_err(gone)?;
                            within(rt, ANSWER_WITHIN, async { wait.await.map_err(|_| io::ErrorKind::BrokenPipe.into()) }).await? == Answer::Empty
                        }
                    };
                    // An ensemble that exists knows its members; one that is to be made must be the same for all.
                    match (is_empty, servers == configured) {
                        (false, _) => Answer::Member,
                        (true, true) => Answer::Empty,
                        (true, false) => {
                            Answer::Refused(format!("it is configured with the servers {configured:?}, this one with {servers:?}; give all the same"))
                        }
                    }
                }
                (Question::Join { .. }, Standing::Empty) => Answer::Later,
                (Question::Join { server_id, address, storage_id }, Standing::Member(_, node)) => {
                    let (answer, wait) = oneshot::channel();
                    node.send(PeerInput::Join { server_id, address, storage_id, answer }).await.map_err(gone)?;
                    within(rt, ANSWER_WITHIN, async { wait.await.map_err(|_| io::ErrorKind::BrokenPipe.into()) }).await?
                }
                (Question::Order(_), Standing::Empty) => Answer::Empty,
                (Question::Order(order), Standing::Member(_, node)) => {
                    let (answer, wait) = oneshot::channel();
                    node.send(PeerInput::Order(order, answer)).await.map_err(gone)?;
                    within(rt, ANSWER_WITHIN, async { wait.await.map_err(|_| io::ErrorKind::BrokenPipe.into()) }).await?
                }
            };
            sealer.write(&mut write, kind::ANSWER, &answer).await
        }
        (Purpose::Export, Standing::Empty) => Ok(()),
        (Purpose::Export, Standing::Member(_, node)) => {
            let (answer, wait) = oneshot::channel();
            node.send(PeerInput::Export(answer)).await.map_err(gone)?;
            // When a quorum has said that this member leads, or is not behind. Without one its answer never comes, and the other gives up.
            let ExportedState { meta, state, tree } = wait.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            send_items(rt, &mut write, &mut sealer, SnapshotPart::Export(meta, state), tree).await
        }
        (_, Standing::Empty) => Ok(()), // Whoever takes this one for the member that it was before it lost its disk learns nothing more.
        // A message for another member of this address, the one before its disk was lost, must not reach this one.
        (_, Standing::Member(own, _)) if hello.to != own => Ok(()),
        (Purpose::Messages, Standing::Member(_, node)) => {
            let (answer, is_removed) = oneshot::channel();
            let (removed_later, is_removed_later) = oneshot::channel();
            let (member, address, log_format) = (hello.from, hello.address, hello.log_format);
            node.send(PeerInput::Met(Met { member, address, log_format, is_removed: answer, removed_later })).await.map_err(gone)?;
            if is_removed.await.map_err(gone)? {
                return sealer.write(&mut write, kind::ANSWER, &Answer::Removed).await;
            }
            let mut removed = std::pin::pin!(async {
                if is_removed_later.await.is_err() {
                    std::future::pending::<()>().await; // The node ends, and this connection with it.
                }
            });
            loop {
                let message: PeerMessage = tokio::select! {
                    biased;
                    () = &mut removed => return sealer.write(&mut write, kind::ANSWER, &Answer::Removed).await,
                    message = opener.read(&mut read, kind::MESSAGE, PEER_FRAME_MAX_BYTES) => message?,
                };
                node.send(PeerInput::Message(member, message)).await.map_err(gone)?;
            }
        }
        (Purpose::Snapshot, Standing::Member(_, node)) => {
            let received = receive_snapshot(rt, &mut read, &mut opener).await?;
            let (accepted, wait) = oneshot::channel();
            node.send(PeerInput::Snapshot(Box::new(received), accepted)).await.map_err(gone)?;
            wait.await.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            sealer.write(&mut write, kind::ANSWER, &Answer::Member).await
        }
    }
}

/// A snapshot that has come whole from another member.
#[derive(Debug)]
pub struct ReceivedSnapshot {
    /// The message that announces it.
    pub message: RaftMessage,
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The state beside the tree.
    pub state: SnapshotState,
    /// The tree.
    pub tree: Tree,
}

async fn receive_snapshot<R: Runtime, S: AsyncRead + Unpin>(rt: &R, read: &mut S, opener: &mut Opener) -> io::Result<ReceivedSnapshot> {
    let unexpected = || io::Error::new(io::ErrorKind::InvalidData, "the parts of a snapshot came out of order");
    let restoring = |error: crate::coordination::tree::RestoreError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let mut head = None;
    let mut restore = Restore::default();
    let mut item_count = 0;
    loop {
        let part: SnapshotPart = within(rt, SNAPSHOT_STALL, opener.read(read, kind::SNAPSHOT, PEER_FRAME_MAX_BYTES)).await?;
        match part {
            SnapshotPart::Begin(message, meta, state) if head.is_none() => head = Some((message, meta, state)),
            SnapshotPart::Items(items) if head.is_some() => {
                for item in items {
                    item_count += 1;
                    restore.push(item).map_err(restoring)?;
                }
            }
            SnapshotPart::End(count) if count == item_count => {
                let (message, meta, state) = head.ok_or_else(unexpected)?;
                let tree = restore.finish(meta.last_zxid).map_err(restoring)?;
                return Ok(ReceivedSnapshot { message, meta, state, tree });
            }
            _ => return Err(unexpected()),
        }
    }
}

/// A snapshot to be sent.
pub struct OutgoingSnapshot {
    /// The message that announces it.
    pub message: RaftMessage,
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The state beside the tree.
    pub state: SnapshotState,
    /// The tree.
    pub tree: Tree,
}

struct Link {
    address: String,
    queue: mpsc::Sender<PeerMessage>,
    /// Why it cannot be opened; `None` if it is open, or was not needed yet.
    failure: Arc<Mutex<Option<String>>>,
}

struct Links {
    links: BTreeMap<u64, Link>,
}

/// The outgoing side: a link to each other member.
pub struct Network<R: Runtime> {
    rt: R,
    own: u64,
    address: String,
    secret: Secret,
    inbox: mpsc::Sender<PeerInput>,
    links: Mutex<Links>,
}

impl<R: Runtime> Network<R> {
    /// Links of member `own`, which is reached at `address`; what becomes of snapshots is told to `inbox`.
    pub fn new(rt: R, own: u64, address: String, secret: Secret, inbox: mpsc::Sender<PeerInput>) -> Self {
        Self { rt, own, address, secret, inbox, links: Mutex::new(Links { links: BTreeMap::new() }) }
    }

    /// Makes the links those to `members`, by Raft id and address; this member itself and those without an address are left out.
    pub fn set_members<'a>(&self, members: impl Iterator<Item = (u64, &'a str)>) {
        let wanted: BTreeMap<u64, String> =
            members.filter(|(id, address)| *id != self.own && !address.is_empty()).map(|(id, address)| (id, address.to_owned())).collect();
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.links.retain(|id, link| wanted.get(id) == Some(&link.address));
        for (id, address) in wanted {
            if links.links.contains_key(&id) {
                continue;
            }
            let Ok(to) = address.parse::<HostPort>() else {
                tracing::error!(address, raft_id = id, "the address of a member of the ensemble is no host:port; it cannot be reached");
                continue;
            };
            let (queue, messages) = mpsc::channel(LINK_QUEUE_COUNT);
            let failure = Arc::new(Mutex::new(None));
            links.links.insert(id, Link { address, queue, failure: failure.clone() });
            let link = RunningLink {
                rt: self.rt.clone(),
                own: self.own,
                id,
                address: self.address.clone(),
                to,
                secret: self.secret.clone(),
                failure,
                inbox: self.inbox.clone(),
            };
            self.rt.spawn("peer-link", link.run(messages));
        }
    }

    /// The members whose link cannot be opened, and why.
    pub fn unreachable(&self) -> BTreeMap<u64, String> {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.links.iter().filter_map(|(id, link)| Some((*id, link.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()?))).collect()
    }

    /// Sends a message, or drops it; tells which.
    pub fn send(&self, to: u64, message: PeerMessage) -> bool {
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.links.get(&to).is_some_and(|link| link.queue.try_send(message).is_ok())
    }

    /// Sends a snapshot on a connection of its own; what became of it comes to the inbox.
    pub fn send_snapshot(&self, to: u64, snapshot: OutgoingSnapshot) {
        let address = self.links.lock().unwrap_or_else(PoisonError::into_inner).links.get(&to).and_then(|link| link.address.parse().ok());
        let (rt, own, secret, inbox) = (self.rt.clone(), self.own, self.secret.clone(), self.inbox.clone());
        self.rt.spawn("peer-snapshot", async move {
            let sent = match address {
                Some(address) => send_snapshot(&rt, &address, &secret, (own, to), snapshot).await,
                None => Err(io::ErrorKind::NotFound.into()),
            };
            if let Err(error) = &sent {
                tracing::info!(%error, raft_id = to, "a snapshot did not reach a member of the ensemble");
            }
            let _ = inbox.send(PeerInput::SnapshotSent(to, sent.is_ok())).await;
        });
    }
}

async fn send_snapshot<R: Runtime>(rt: &R, address: &HostPort, secret: &Secret, (own, to): (u64, u64), snapshot: OutgoingSnapshot) -> io::Result<()> {
    let (mut read, mut write, greeted) = within(rt, GREETING_WITHIN, async {
        let (mut read, mut write) = rt.connect(address).await?.into_split();
        let greeted = greet(rt, &mut read, &mut write, secret, (Purpose::Snapshot, own, to), "").await?;
        Ok((read, write, greeted))
    })
    .await?;
    let OutgoingSnapshot { message, meta, state, tree } = snapshot;
    let (mut sealer, mut opener) = (greeted.sealer, greeted.opener);
    send_items(rt, &mut write, &mut sealer, SnapshotPart::Begin(message, meta, state), tree).await?;
    match within(rt, SNAPSHOT_STALL, opener.read(&mut read, kind::ANSWER, PEER_FRAME_MAX_BYTES)).await? {
        Answer::Member => Ok(()),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("the member answered {other:?} to a snapshot"))),
    }
}

/// Sends the parts of a snapshot.
async fn send_items<R: Runtime, W: AsyncWrite + Unpin>(rt: &R, write: &mut W, sealer: &mut Sealer, begin: SnapshotPart, tree: Tree) -> io::Result<()> {
    let items = tree.items();
    drop(tree);
    within(rt, SNAPSHOT_STALL, sealer.write(write, kind::SNAPSHOT, &begin)).await?;
    let mut count = 0;
    let mut chunk = Vec::new();
    let mut chunk_bytes = 0;
    for item in items {
        count += 1;
        chunk_bytes += item.size_bytes();
        chunk.push(item);
        if chunk_bytes >= SEND_BYTES {
            let part = SnapshotPart::Items(std::mem::take(&mut chunk));
            chunk_bytes = 0;
            within(rt, SNAPSHOT_STALL, sealer.write(write, kind::SNAPSHOT, &part)).await?;
        }
    }
    within(rt, SNAPSHOT_STALL, sealer.write(write, kind::SNAPSHOT, &SnapshotPart::Items(chunk))).await?;
    within(rt, SNAPSHOT_STALL, sealer.write(write, kind::SNAPSHOT, &SnapshotPart::End(count))).await
}

/// A link to one other member.
struct RunningLink<R: Runtime> {
    rt: R,
    own: u64,
    id: u64,
    /// Where this member itself is reached.
    address: String,
    to: HostPort,
    secret: Secret,
    failure: Arc<Mutex<Option<String>>>,
    inbox: mpsc::Sender<PeerInput>,
}

impl<R: Runtime> RunningLink<R> {
    fn set_failure(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// The other side has ended the connection. If it refuses another one, its process is no more: who follows it need not wait for its silence.
    async fn tell_if_gone(&self) {
        let probed = within(&self.rt, GREETING_WITHIN, async { self.rt.connect(&self.to).await.map(drop) }).await;
        if probed.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
            let _ = self.inbox.send(PeerInput::Gone(self.id)).await;
        }
    }

    /// Keeps the link open and sends what is queued, until the queue's sender is gone.
    async fn run(self, mut messages: mpsc::Receiver<PeerMessage>) {
        let (rt, to) = (&self.rt, &self.to);
        let mut backoff = BACKOFF.0;
        // Opened when there is something to say.
        while let Some(mut first) = messages.recv().await {
            let opened = within(rt, GREETING_WITHIN, async {
                let (mut read, mut write) = rt.connect(to).await?.into_split();
                let greeted = greet(rt, &mut read, &mut write, &self.secret, (Purpose::Messages, self.own, self.id), &self.address).await?;
                Ok((read, write, greeted))
            })
            .await;
            let (mut read, mut write, greeted) = match opened {
                Ok(opened) => opened,
                Err(error) => {
                    // Told once: it is tried twice a second.
                    let is_news = self.failure.lock().unwrap_or_else(PoisonError::into_inner).is_none();
                    if is_news && error.kind() == io::ErrorKind::PermissionDenied {
                        tracing::error!(%error, %to, "a member of the ensemble cannot be talked to");
                    } else if is_news {
                        tracing::info!(%error, %to, "a member of the ensemble cannot be reached");
                    }
                    self.set_failure(Some(error.to_string()));
                    rt.sleep(backoff + Duration::from_micros(rt.random_u64() % 10_000)).await;
                    backoff = (backoff * 2).min(BACKOFF.1);
                    // What waited is old by now, but for the newest.
                    while messages.len() > LINK_QUEUE_COUNT / 2 {
                        let _ = messages.try_recv();
                    }
                    continue;
                }
            };
            self.set_failure(None);
            backoff = BACKOFF.0;
            let (mut sealer, mut opener) = (greeted.sealer, greeted.opener);
            // The other side says one thing on this connection, if any: that this member was removed. It is read beside, so that half a frame is never lost.
            let (over, mut is_over) = oneshot::channel();
            let inbox = self.inbox.clone();
            self.rt.spawn("peer-link-end", async move {
                let mut over = over;
                tokio::select! {
                    biased;
                    () = over.closed() => {}
                    said = opener.read::<_, Answer>(&mut read, kind::ANSWER, GREETING_MAX_BYTES) => {
                        if matches!(said, Ok(Answer::Removed)) {
                            let _ = inbox.send(PeerInput::Removed).await;
                        }
                        let _ = over.send(());
                    }
                }
            });
            loop {
                let mut bytes = BytesMut::new();
                let mut next = Some(first);
                while let Some(message) = next {
                    if sealer.seal(&mut bytes, kind::MESSAGE, &message).is_err() {
                        tracing::error!(%to, "a message for a member of the ensemble is too large and was dropped");
                    }
                    next = if bytes.len() < SEND_BYTES { messages.try_recv().ok() } else { None };
                }
                if within(rt, SNAPSHOT_STALL, write.write_all(&bytes)).await.is_err() {
                    break;
                }
                let message = tokio::select! {
                    biased;
                    _ = &mut is_over => {
                        self.tell_if_gone().await;
                        break;
                    }
                    message = messages.recv() => message,
                };
                match message {
                    Some(message) => first = message,
                    None => return,
                }
            }
        }
    }
}
