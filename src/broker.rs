//! The broker: its parts put together, its listeners, its start and its end.
//!
//! [`connection`] serves a client, [`dispatch`] finds the handler of a request, [`handlers`] answers it. [`buffers`] is the memory that
//! requests are read into, [`fetch_session`] and [`follower_session`] what consumers and followers need not repeat.

pub mod buffers;
mod config_rules;
pub mod connection;
mod coordination;
pub mod dispatch;
pub mod fetch_session;
pub mod follower_session;
pub mod handlers;
mod start;
mod to_controller;
mod topics;
mod troubles;

pub use start::StartError;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::config::broker::BrokerConfig;
use crate::controller::Controller;
use crate::group::coordinator::GroupCoordinator;
use crate::replication::leadership::Leadership;
use crate::replication::manager::ReplicaManager;
use crate::runtime::{Listener, Runtime, Stream, Task};

use buffers::ChunkPool;
use fetch_session::FetchSessions;
use follower_session::FollowerSessions;

/// A running broker.
pub struct Broker<R: Runtime> {
    runtime: R,
    config: BrokerConfig,
    controller: Controller<R>,
    coordination: coordination::BrokerCoordination<R>,
    replicas: Arc<ReplicaManager<R>>,
    groups: GroupCoordinator<R, Leadership<R>>,
    chunks: ChunkPool,
    fetch_sessions: FetchSessions,
    follower_sessions: FollowerSessions<R>,
    /// Where it listens, with the ports that were drawn.
    bound: Vec<crate::config::listener::Listener>,
    connections: Connections,
    /// The replicas' pursuit of the metadata, and the task that does it.
    following: topics::Following,
    follower: Mutex<Option<R::Task<()>>>,
    to_controller: to_controller::ToController<R>,
    /// True once the broker is to stop: connections and background tasks end.
    stop: watch::Sender<bool>,
}

/// How many connections there are; `max.connections` and `max.connections.per.ip` bound them.
#[derive(Default)]
struct Connections {
    by_address: Mutex<BTreeMap<IpAddr, usize>>,
    open: watch::Sender<usize>,
    served: AtomicU64,
}

impl<R: Runtime> Broker<R> {
    /// The boundary to the world.
    pub fn runtime(&self) -> &R {
        &self.runtime
    }

    /// How it was configured.
    pub fn config(&self) -> &BrokerConfig {
        &self.config
    }

    /// `broker.id`.
    pub fn id(&self) -> i32 {
        self.config.broker_id
    }

    /// What it knows of the cluster, and how that changes.
    pub fn controller(&self) -> &Controller<R> {
        &self.controller
    }

    /// The partitions it holds.
    pub fn replicas(&self) -> &ReplicaManager<R> {
        &self.replicas
    }

    /// Has a controller command this broker's replicas, by LeaderAndIsr and StopReplica, instead of the metadata that it sees itself.
    pub fn obey_orders(&self) {
        self.replicas.be_commanded();
    }

    /// Whether a controller commands this broker's replicas.
    pub fn obeys_orders(&self) -> bool {
        self.replicas.is_commanded()
    }

    /// The consumer groups.
    pub fn groups(&self) -> &GroupCoordinator<R, Leadership<R>> {
        &self.groups
    }

    /// The memory that requests are read into.
    pub fn chunks(&self) -> &ChunkPool {
        &self.chunks
    }

    /// The fetch sessions.
    pub fn fetch_sessions(&self) -> &FetchSessions {
        &self.fetch_sessions
    }

    /// Fetch sessions of followers.
    pub fn follower_sessions(&self) -> &FollowerSessions<R> {
        &self.follower_sessions
    }

    /// Where it listens, with the ports that were drawn.
    pub fn bound(&self) -> &[crate::config::listener::Listener] {
        &self.bound
    }

    /// The member of the coordination service in this process; `None` if it is elsewhere.
    pub fn member(&self) -> Option<&crate::coordination::Coordination<R>> {
        self.coordination.member()
    }

    /// Where ZooKeeper clients are served; nowhere without `clientPort`.
    pub fn zookeeper_bound(&self) -> &[SocketAddr] {
        self.coordination.bound()
    }

    /// Connections that are open.
    pub fn connection_count(&self) -> usize {
        *self.connections.open.borrow()
    }

    /// The largest frame that is accepted, in bytes.
    pub fn max_frame_bytes(&self) -> usize {
        usize::try_from(self.config.socket_request_max_bytes).unwrap_or(0)
    }

    /// How long a connection may be silent.
    pub fn max_idle(&self) -> Duration {
        u64::try_from(self.config.connections_max_idle_ms).map_or(Duration::MAX, Duration::from_millis)
    }

    /// Whether the broker is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Accepts connections until the broker stops.
    async fn accept(self: Arc<Self>, listener: R::Listener, name: Arc<str>) {
        let mut stop = self.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            let stream = match accepted {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(listener = %name, %error, "a connection could not be accepted");
                    // Out of file descriptors, most likely: accepting at once would fail at once.
                    self.runtime.sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let address = stream.peer_addr();
            if !self.admit(address.ip()) {
                tracing::warn!(listener = %name, peer = %address, "refused: max.connections or max.connections.per.ip is reached");
                continue;
            }
            let broker = Arc::clone(&self);
            let (name, stop) = (Arc::clone(&name), self.stop.subscribe());
            self.runtime.spawn("connection", async move {
                let ended = connection::serve(Arc::clone(&broker), stream, name, stop).await;
                broker.leave(address.ip());
                match ended {
                    connection::Ended::Protocol(why) => tracing::warn!(peer = %address, why, "connection closed"),
                    ended => tracing::debug!(peer = %address, ?ended, "connection closed"),
                }
            });
        }
    }

    fn admit(&self, from: IpAddr) -> bool {
        let mut by_address = self.connections.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let open: usize = by_address.values().sum();
        let here = by_address.get(&from).copied().unwrap_or(0);
        let limit = |limit: i32| usize::try_from(limit).unwrap_or(0);
        if open >= limit(self.config.max_connections) || here >= limit(self.config.max_connections_per_ip) {
            return false;
        }
        by_address.insert(from, here + 1);
        self.connections.open.send_replace(open + 1);
        self.connections.served.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn leave(&self, from: IpAddr) {
        let mut by_address = self.connections.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = by_address.get_mut(&from) {
            *here -= 1;
            if *here == 0 {
                by_address.remove(&from);
            }
        }
        self.connections.open.send_replace(by_address.values().sum());
    }

    /// Stops in order: no new connections and requests, those under way are answered, everything is flushed, checkpoints and the mark
    /// of a clean shutdown are written.
    pub async fn shutdown(&self) {
        /// How long requests under way have to be answered, those of consumer groups among them: a commit needs a flush.
        const FINISH: Duration = Duration::from_millis(500);
        /// How long connections have to send what is answered.
        const DRAIN: Duration = Duration::from_secs(5);
        if self.config.controlled_shutdown_enable {
            self.hand_over().await;
        }
        self.stop.send_replace(true);
        // Long polls are answered with what there is; they look whether the broker stops after they have registered.
        self.replicas.partitions().iter().for_each(|partition| partition.wake_waiting());
        if !self.connections_end_within(FINISH).await {
            // Members that wait for others are told to find their coordinator again; so is whoever's commit is overdue.
            self.groups.shutdown();
            if !self.connections_end_within(DRAIN).await {
                tracing::warn!(open = self.connection_count(), "connections did not end in time");
            }
        }
        self.groups.shutdown();
        // Whatever was asked of the controller is done first, then done at the replicas; after that nobody makes or deletes a log.
        self.controller.shutdown().await;
        let follower = self.follower.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(follower) = follower {
            follower.join().await;
        }
        self.replicas.shutdown().await;
        self.coordination.shutdown().await;
    }

    async fn connections_end_within(&self, patience: Duration) -> bool {
        let mut open = self.connections.open.subscribe();
        let mut patience = self.runtime.sleep(patience);
        tokio::select! {
            biased;
            _ = open.wait_for(|open| *open == 0) => true,
            () = &mut patience => false,
        }
    }
}
