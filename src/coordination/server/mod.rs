//! Serves ZooKeeper's clients on a port: the coordination service of this process, in the protocol that every ZooKeeper client speaks.
//!
//! | file | holds |
//! |---|---|
//! | `connection` | one connection: frames in, answers and events out, in order |
//! | `session` | how a connection gets its session |
//! | `reads` | requests that are answered from the tree |
//! | `reconfig` | another membership |
//! | `report`, `words` | what administrators ask; the four-letter words |
//! | `admin` | the same over HTTP, as ZooKeeper's AdminServer |
//! | `stats` | what is counted |

#[cfg(feature = "http")]
mod admin;
mod connection;
mod reads;
mod reconfig;
mod report;
mod session;
mod stats;
mod words;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::sync::watch;

use self::stats::{ConnectionStats, Stats};
use super::hub::{Housekeeping, OUT_OF_TOUCH_MS};
use super::op::Request;
use super::{Coordination, housekeeping};
use crate::config::four_letter_words::Whitelist;
use crate::runtime::{Listener, Runtime, Stream};

/// The version of ZooKeeper whose protocol and answers these are: clients look for it in the four-letter words.
pub const ZOOKEEPER_VERSION: &str = "3.9.4";

/// The longest time that a member without a leader goes on to serve, however long its sessions may be silent.
const OUT_OF_TOUCH_MAX_MS: u64 = 5_000;

/// How clients are served. The names are those of ZooKeeper's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerConfig {
    /// `tickTime` in milliseconds: the granularity of sessions' deadlines.
    pub tick_ms: i32,
    /// `minSessionTimeout` in milliseconds; twice the tick by default.
    pub min_session_timeout_ms: i32,
    /// `maxSessionTimeout` in milliseconds; 20 times the tick by default.
    pub max_session_timeout_ms: i32,
    /// `maxClientCnxns`: most connections from one address; 0 is no limit.
    pub max_connections_per_address: usize,
    /// `maxCnxns`: most connections; 0 is no limit.
    pub max_connections: usize,
    /// `jute.maxbuffer`: the largest frame in bytes that is accepted.
    pub max_frame_bytes: usize,
    /// `4lw.commands.whitelist`.
    pub words: Whitelist,
    /// `DigestAuthenticationProvider.superDigest`: whose credentials have this digest may do everything.
    pub super_digest: Option<String>,
    /// `extendedTypesEnabled`: whether clients can make znodes with a time to live.
    pub has_ttl: bool,
    /// `znode.container.checkIntervalMs`: how often idle containers and znodes with a time to live are looked for.
    pub idle_check_ms: u64,
    /// `znode.container.maxNeverUsedIntervalMs`: how long a container that never had a child is kept; 0 for ever.
    pub never_used_ms: i64,
    /// `reconfigEnabled`: whether clients may change the membership, as far as the ACL of `/zookeeper/config` lets them.
    pub has_reconfig: bool,
    /// The directory of the coordination log, for those who ask how the member is configured.
    pub data_dir: String,
}

impl Default for ServerConfig {
    fn default() -> Self {
        let housekeeping = Housekeeping::default();
        let tick_ms = i32::try_from(housekeeping.tick_ms).unwrap_or(i32::MAX);
        Self {
            tick_ms,
            min_session_timeout_ms: 2 * tick_ms,
            max_session_timeout_ms: 20 * tick_ms,
            max_connections_per_address: 60,
            max_connections: 0,
            max_frame_bytes: 0xf_ffff,
            words: Whitelist::default(),
            super_digest: None,
            has_ttl: true,
            idle_check_ms: housekeeping.idle_check_ms,
            never_used_ms: housekeeping.never_used_ms,
            has_reconfig: false,
            data_dir: String::new(),
        }
    }
}

/// Whose connection it is, and how long its session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A client at a socket.
    Remote,
    /// This process, through a pipe. Its session is one like any other: the ensemble ends it when the process has been silent.
    Member,
    /// This process, which is the ensemble's only member, through a pipe. Its session ends with the process: while the process lives, nobody else could use what
    /// the end of the session frees.
    Process,
}

/// What the server and its connections share.
struct Inner<R: Runtime> {
    coordination: Coordination<R>,
    config: ServerConfig,
    bound: Vec<SocketAddr>,
    /// When it began to serve.
    since_ms: u64,
    stats: Stats,
    connections: Mutex<Connections>,
    /// How many connections are open.
    open: watch::Sender<usize>,
    /// True once the server is to stop.
    stop: watch::Sender<bool>,
}

#[derive(Default)]
struct Connections {
    last_id: u64,
    by_id: BTreeMap<u64, Arc<ConnectionStats>>,
    by_address: BTreeMap<IpAddr, usize>,
}

impl<R: Runtime> Inner<R> {
    fn rt(&self) -> &R {
        &self.coordination.rt
    }

    fn clock_ms(&self) -> u64 {
        housekeeping::clock_ms(self.rt().now())
    }

    /// The connections, oldest first.
    fn connections(&self) -> Vec<Arc<ConnectionStats>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner).by_id.values().cloned().collect()
    }

    /// Counts a new connection in; which key is reached if it cannot be served.
    fn admit(&self, peer: SocketAddr) -> Result<(u64, Arc<ConnectionStats>), &'static str> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        let here = connections.by_address.get(&peer.ip()).copied().unwrap_or(0);
        if self.config.max_connections_per_address > 0 && here >= self.config.max_connections_per_address {
            return Err("maxClientCnxns");
        }
        if self.config.max_connections > 0 && connections.by_id.len() >= self.config.max_connections {
            return Err("maxCnxns");
        }
        connections.last_id += 1;
        let id = connections.last_id;
        let stats = Arc::new(ConnectionStats::new(peer, self.rt().unix_ms()));
        connections.by_address.insert(peer.ip(), here + 1);
        connections.by_id.insert(id, stats.clone());
        self.open.send_replace(connections.by_id.len());
        Ok((id, stats))
    }

    fn leave(&self, id: u64, peer: SocketAddr) {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        connections.by_id.remove(&id);
        if let Some(here) = connections.by_address.get_mut(&peer.ip()) {
            *here -= 1;
            if *here == 0 {
                connections.by_address.remove(&peer.ip());
            }
        }
        self.open.send_replace(connections.by_id.len());
    }
}

/// Counts deadlines in the ticks that are configured, whether or not there is a port for clients.
fn keep_time<R: Runtime>(coordination: &Coordination<R>, config: &ServerConfig) {
    let mut state = coordination.shared.hub.lock();
    let tick_ms = u64::try_from(config.tick_ms).unwrap_or(1);
    // A client must hear of it long before its session expires elsewhere.
    let out_of_touch_ms = u64::try_from(config.min_session_timeout_ms / 2).unwrap_or(0).clamp(OUT_OF_TOUCH_MS, OUT_OF_TOUCH_MAX_MS);
    let ServerConfig { idle_check_ms, never_used_ms, .. } = *config;
    state.housekeeping = Housekeeping { tick_ms, idle_check_ms, never_used_ms, out_of_touch_ms };
    state.sessions.set_tick(tick_ms);
}

/// A running server. It goes on when this is dropped; [`Server::shutdown`] ends it.
pub struct Server<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Server<R> {
    /// Serves the service that `coordination` is a handle to on these sockets.
    pub fn start(coordination: Coordination<R>, sockets: Vec<R::Listener>, config: ServerConfig) -> Self {
        keep_time(&coordination, &config);
        coordination.keep_house();
        coordination.shared.hub.sooner.notify_one();
        let since_ms = housekeeping::clock_ms(coordination.rt.now());
        let bound = sockets.iter().map(Listener::local_addr).collect();
        let inner = Arc::new(Inner {
            coordination: Coordination { session: 0, ..coordination },
            config,
            bound,
            since_ms,
            stats: Stats::default(),
            connections: Mutex::default(),
            open: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        });
        inner.rt().spawn("coordination-announce", announce(Arc::clone(&inner)));
        for socket in sockets {
            inner.rt().spawn("coordination-accept", accept(Arc::clone(&inner), socket));
        }
        Self { inner }
    }

    /// A server without sockets, for [`Server::pipe`] alone, in a process that is configured so. It counts nothing that others see. The time-outs of its sessions
    /// are this process's own affair: the bounds are for clients from outside.
    pub fn in_process(coordination: Coordination<R>, config: ServerConfig) -> Self {
        keep_time(&coordination, &config);
        let config = ServerConfig { max_frame_bytes: 2 * super::REQUEST_MAX_BYTES, min_session_timeout_ms: 1, max_session_timeout_ms: i32::MAX, ..config };
        Self {
            inner: Arc::new(Inner {
                since_ms: housekeeping::clock_ms(coordination.rt.now()),
                coordination: Coordination { session: 0, ..coordination },
                config,
                bound: Vec::new(),
                stats: Stats::default(),
                connections: Mutex::default(),
                open: watch::Sender::new(0),
                stop: watch::Sender::new(false),
            }),
        }
    }

    /// Opens a connection within the process, without a port: the other end of the pipe is served. What comes through it may do everything. With `is_alone`, the
    /// session that is begun over it ends with the process and not before; only right where this process is the only member.
    pub fn pipe(&self, is_alone: bool) -> DuplexStream {
        /// Room for some requests and for one answer of the usual size.
        const PIPE_BYTES: usize = 256 << 10;
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let inner = Arc::clone(&self.inner);
        let caller = if is_alone { Caller::Process } else { Caller::Member };
        self.inner.rt().spawn("coordination-pipe", async move {
            let here = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let stats = Arc::new(ConnectionStats::new(here, inner.rt().unix_ms()));
            let (read, write) = tokio::io::split(theirs);
            let ended = connection::serve(&inner, caller, read, write, &stats).await;
            tracing::debug!(?ended, "the process's own connection to the coordination service closed");
        });
        ours
    }

    /// Answers administrators over HTTP on these sockets, below `command_url`, until the server ends.
    #[cfg(feature = "http")]
    pub fn serve_administrators(&self, sockets: Vec<R::Listener>, command_url: &str) {
        for socket in sockets {
            self.inner.rt().spawn("coordination-admin", admin::serve(Arc::clone(&self.inner), socket, Arc::from(command_url)));
        }
    }

    /// Where it listens, with the ports that were drawn.
    pub fn bound(&self) -> &[SocketAddr] {
        &self.inner.bound
    }

    /// Ends all connections and accepts no more. The sessions live on: their clients may come back to another process.
    pub async fn shutdown(&self) {
        /// How long connections have to send what is answered.
        const DRAIN: Duration = Duration::from_secs(2);
        self.inner.stop.send_replace(true);
        let mut open = self.inner.open.subscribe();
        let patience = self.inner.rt().sleep(DRAIN);
        tokio::select! {
            biased;
            _ = open.wait_for(|open| *open == 0) => {}
            () = patience => tracing::warn!(open = *self.inner.open.borrow(), "connections of ZooKeeper clients did not end in time"),
        }
    }
}

/// Tells the ensemble where this member serves clients, once it does and unless that is known.
async fn announce<R: Runtime>(inner: Arc<Inner<R>>) {
    let (mut serving, mut stop) = (inner.coordination.shared.hub.serving(), inner.stop.subscribe());
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return,
        _ = serving.wait_for(|is_serving| *is_serving) => {}
    }
    let Some(at) = inner.bound.first() else { return };
    let Some(status) = inner.coordination.status().await else { return };
    let (server_id, client_address) = (status.server_id, at.to_string());
    if server_id == 0 || inner.coordination.read(|tree| tree.client_address(server_id) == Some(&client_address)) {
        return;
    }
    // If the answer is lost it may not be told, which harms nobody: the next start tells it again.
    if let Ok(submitted) = inner.coordination.submit(0, Request::Announce { server_id, client_address }).await {
        let _ = submitted.outcome().await;
    }
}

/// Accepts connections until the server stops.
async fn accept<R: Runtime>(inner: Arc<Inner<R>>, listener: R::Listener) {
    let mut stop = inner.stop.subscribe();
    loop {
        let accepted: io::Result<R::Stream> = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a ZooKeeper client's connection could not be accepted");
                // Out of file descriptors, most likely: accepting at once would fail at once.
                inner.rt().sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let peer = stream.peer_addr();
        match inner.admit(peer) {
            Err(key) => tracing::warn!(%peer, "refused a ZooKeeper client's connection: {key} is reached"),
            Ok((id, stats)) => {
                let serving = Arc::clone(&inner);
                inner.rt().spawn("coordination-connection", async move {
                    let (read, write) = stream.into_split();
                    let ended = connection::serve(&serving, Caller::Remote, read, write, &stats).await;
                    serving.leave(id, peer);
                    match ended {
                        connection::Ended::Protocol(why) => tracing::warn!(%peer, why, "ZooKeeper client's connection closed"),
                        connection::Ended::Io(error) => tracing::debug!(%peer, %error, "ZooKeeper client's connection closed"),
                        connection::Ended::ByService(why) => tracing::debug!(%peer, ?why, "ZooKeeper client's connection closed"),
                        ended => tracing::debug!(%peer, ?ended, "ZooKeeper client's connection closed"),
                    }
                });
            }
        }
    }
}

#[cfg(test)]
mod ensemble_tests;
#[cfg(test)]
mod tests;
