//! Where a broker's coordination is: a member in this process, used over a pipe, or an ensemble elsewhere (`zookeeper.connect`). The broker itself knows a
//! session of it and no more.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::start::StartError;
use crate::config::broker::BrokerConfig;
use crate::controller;
use crate::coordination::client::{Connector, Options, Session};
use crate::coordination::service::{Bound, Dirs, Service};
use crate::coordination::{self, Coordination};
use crate::runtime::Runtime;

/// How long the service of this process may take to begin a session: as long as its disk needs.
const OWN_PATIENCE: Duration = Duration::from_secs(3_600);

/// The member in this process before it is opened: its client port is bound, if it has one, and its directory has not been touched.
pub(super) struct BoundCoordination<R: Runtime> {
    own: Option<Bound<R>>,
}

/// The member in this process, if there is one.
pub(super) struct BrokerCoordination<R: Runtime> {
    own: Option<Service<R>>,
}

/// How the broker keeps its sessions.
pub(super) fn options(config: &BrokerConfig) -> Options {
    let ms = |ms: i32| Duration::from_millis(u64::try_from(ms).unwrap_or(0));
    let count = |count: i32| usize::try_from(count).unwrap_or(1);
    let session_timeout = ms(config.zookeeper_session_timeout_ms);
    if config.outside_ensemble().is_some() {
        Options {
            session_timeout,
            max_in_flight: count(config.zookeeper_max_in_flight_requests),
            request_max_bytes: count(config.coordination.jute_max_buffer),
        }
    } else {
        /// Over a pipe nothing is gained by asking for less at a time.
        const IN_FLIGHT: usize = 1_000;
        Options { session_timeout, max_in_flight: IN_FLIGHT, request_max_bytes: coordination::REQUEST_MAX_BYTES }
    }
}

impl<R: Runtime> BrokerCoordination<R> {
    /// Binds the port of ZooKeeper clients, if this process has a member and that has a port. `ensemble` runs the consensus of a member that has others.
    pub(super) async fn bind(runtime: &R, ensemble: R, config: &BrokerConfig) -> Result<BoundCoordination<R>, StartError> {
        if config.outside_ensemble().is_some() {
            return Ok(BoundCoordination { own: None });
        }
        let dirs = Dirs::in_one(&config.log_dirs[0].join(coordination::DIR_NAME));
        Ok(BoundCoordination { own: Some(Service::bind(runtime.clone(), ensemble, &config.coordination, dirs).await?) })
    }

    /// Begins to serve ZooKeeper clients, if there is a member with a port for them.
    pub(super) fn serve(self) -> Self {
        Self { own: self.own.map(Service::serve) }
    }

    /// Where ZooKeeper clients are served.
    pub(super) fn bound(&self) -> &[SocketAddr] {
        self.own.as_ref().map_or(&[], Service::bound)
    }

    /// The member in this process.
    pub(super) fn member(&self) -> Option<&Coordination<R>> {
        self.own.as_ref().map(Service::coordination)
    }

    /// Ends the member in this process, and the connections to it.
    pub(super) async fn shutdown(&self) {
        if let Some(own) = &self.own {
            own.shutdown().await;
        }
    }
}

impl<R: Runtime> BoundCoordination<R> {
    /// Opens the member in this process and waits until it has a quorum, or looks for the ensemble elsewhere; and begins a session.
    pub(super) async fn open(self, runtime: &R, config: &BrokerConfig) -> Result<(BrokerCoordination<R>, Session<R>), StartError> {
        let options = options(config);
        let patience = Duration::from_millis(config.zookeeper_connection_timeout_ms());
        match (self.own, config.outside_ensemble()) {
            (None, Some(connect)) => {
                tracing::info!(%connect, patience_ms = patience.as_millis(), "looking for the coordination service");
                let connector = Connector::Hosts(connect.clone());
                if !connect.chroot.is_empty() {
                    let top = Session::connect(runtime.clone(), connector.with_chroot(""), options, patience).await.map_err(controller::StartError::from)?;
                    controller::create_chroot(&top, &connect.chroot).await.map_err(controller::StartError::from)?;
                    top.close().await;
                }
                let session = Session::connect(runtime.clone(), connector, options, patience).await.map_err(controller::StartError::from)?;
                Ok((BrokerCoordination { own: None }, session))
            }
            (None, None) => unreachable!("a broker without an ensemble elsewhere has a member of its own"),
            (Some(bound), _) => {
                let own = bound.open().await?;
                own.wait_for_quorum().await;
                let session = own_session(runtime, &own, options).await?;
                Ok((BrokerCoordination { own: Some(own) }, session))
            }
        }
    }
}

/// A session of the member in this process, over a pipe. That of a member that is alone lives as long as the process; one of an ensemble is a session like any
/// other, which others may have to end.
async fn own_session<R: Runtime>(runtime: &R, own: &Service<R>, options: Options) -> Result<Session<R>, StartError> {
    let is_alone = own.server_id().is_none();
    let server = own.in_process();
    let open = Arc::new(move || server.pipe(is_alone));
    let connector = if is_alone { Connector::Own(open) } else { Connector::Member(open) };
    Ok(Session::connect(runtime.clone(), connector, options, OWN_PATIENCE).await.map_err(controller::StartError::from)?)
}
