//! Where a broker's coordination is: a member in this process, used over a pipe, or an ensemble elsewhere (`zookeeper.connect`). The broker itself knows a
//! session of it and no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::start::StartError;
use crate::config::broker::BrokerConfig;
use crate::controller;
use crate::coordination::client::{Connector, Options, Session};
use crate::coordination::server::{Server, ServerConfig};
use crate::coordination::{self, Coordination};
use crate::runtime::Runtime;

/// How long the service of this process may take to begin a session: as long as its disk needs.
const OWN_PATIENCE: Duration = Duration::from_secs(3_600);

/// The member in this process, if there is one.
pub(super) struct BrokerCoordination<R: Runtime> {
    own: Option<Coordination<R>>,
    /// Serves ZooKeeper clients, if `clientPort` is set.
    server: Option<Server<R>>,
}

/// How the broker keeps its sessions.
pub(super) fn options(config: &BrokerConfig) -> Options {
    let ms = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let count = |count: i32| usize::try_from(count).unwrap_or(1);
    let session_timeout = ms(config.zookeeper_session_timeout_ms);
    if config.outside_ensemble().is_some() {
        Options { session_timeout, max_in_flight: count(config.zookeeper_max_in_flight_requests), request_max_bytes: count(config.jute_max_buffer) }
    } else {
        /// Over a pipe nothing is gained by asking for less at a time.
        const IN_FLIGHT: usize = 1_000;
        Options { session_timeout, max_in_flight: IN_FLIGHT, request_max_bytes: coordination::REQUEST_MAX_BYTES }
    }
}

impl<R: Runtime> BrokerCoordination<R> {
    /// Opens the member in this process, or looks for the ensemble, and begins a session.
    pub(super) async fn open(runtime: &R, config: &BrokerConfig) -> Result<(Self, Session<R>), StartError> {
        let options = options(config);
        let Some(connect) = config.outside_ensemble() else {
            let own = Coordination::open(runtime.clone(), &config.log_dirs[0].join(coordination::DIR_NAME)).await?;
            let session = own_session(runtime, &own, options).await?;
            return Ok((Self { own: Some(own), server: None }, session));
        };
        let patience = Duration::from_millis(config.zookeeper_connection_timeout_ms());
        tracing::info!(%connect, patience_ms = patience.as_millis(), "looking for the coordination service");
        let connector = Connector::Hosts(connect.clone());
        if !connect.chroot.is_empty() {
            let top = Session::connect(runtime.clone(), connector.with_chroot(""), options, patience).await.map_err(controller::StartError::from)?;
            controller::create_chroot(&top, &connect.chroot).await.map_err(controller::StartError::from)?;
            top.close().await;
        }
        let session = Session::connect(runtime.clone(), connector, options, patience).await.map_err(controller::StartError::from)?;
        Ok((Self { own: None, server: None }, session))
    }

    /// Begins to serve ZooKeeper clients on these sockets.
    pub(super) fn serve(&mut self, sockets: Option<Vec<R::Listener>>, config: ServerConfig) {
        if let (Some(own), Some(sockets)) = (&self.own, sockets) {
            self.server = Some(Server::start(own.clone(), sockets, config));
        }
    }

    /// Where ZooKeeper clients are served.
    pub(super) fn bound(&self) -> &[SocketAddr] {
        self.server.as_ref().map_or(&[], Server::bound)
    }

    /// Ends the member in this process, and the connections to it.
    pub(super) async fn shutdown(&self) {
        if let Some(server) = &self.server {
            server.shutdown().await;
        }
        if let Some(own) = &self.own {
            own.shutdown().await;
        }
    }
}

/// A session of the service in this process, over a pipe. Nobody else is a member: the session lives as long as the process.
async fn own_session<R: Runtime>(runtime: &R, own: &Coordination<R>, options: Options) -> Result<Session<R>, StartError> {
    let server = Server::in_process(own.clone());
    let connector = Connector::Own(Arc::new(move || server.pipe(true)));
    Ok(Session::connect(runtime.clone(), connector, options, OWN_PATIENCE).await.map_err(controller::StartError::from)?)
}
