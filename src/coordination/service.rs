//! One member of the coordination service as it is configured, embedded in a broker or alone in its process: who it is, what it proves itself with,
//! its ports, its start and its end.

mod identity;
mod secret;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ensemble::Status;
use super::ensemble::start::{EnsembleConfig, StartError};
use super::server::{Server, ServerConfig};
use super::storage::{self, StorageError};
use super::{Coordination, Options};
use crate::config::coordination::CoordinationConfig;
use crate::runtime::{Disk, HostPort, Listener, Runtime, Task, bind};

pub use self::secret::{SECRET_FILE_NAME, read_secret};

/// How often a member that waits for a quorum says so.
const TELL_EVERY: Duration = Duration::from_secs(3);

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where a member's files are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Its log and its snapshots.
    pub log: PathBuf,
    /// Its `myid`, and its secret unless the configuration names another file.
    pub own: PathBuf,
}

impl Dirs {
    /// All in one directory.
    pub fn in_one(dir: &Path) -> Self {
        Self { log: dir.to_owned(), own: dir.to_owned() }
    }
}

/// Why a member of the coordination service did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The port of ZooKeeper clients could not be bound.
    #[error("cannot listen for ZooKeeper clients on {address} (clientPort): {source}; {advice}")]
    ClientPort {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
        /// What to do.
        advice: &'static str,
    },
    /// The port of administrators could not be bound.
    #[error("cannot listen for administrators on {address} (admin.serverPort): {source}; set another admin.serverPort, or admin.enableServer=false")]
    AdminPort {
        /// Where.
        address: HostPort,
        /// Why.
        source: io::Error,
    },
    /// This build cannot.
    #[error("admin.enableServer=true, and this Ottla was built without the feature `http`; set it to false")]
    NoHttp,
    /// A file or a directory.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The ensemble.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Who this member is cannot be told.
    #[error(transparent)]
    Identity(#[from] identity::IdentityError),
    /// The secret.
    #[error(transparent)]
    Secret(#[from] secret::SecretError),
    /// The host of its own `server.N`.
    #[error("cannot find the address of server.{server_id}, {host}, which is this member: {source}; name one of this machine's own names or addresses")]
    OwnAddress {
        /// Its number.
        server_id: u32,
        /// The host.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The directory is an Apache ZooKeeper's.
    #[error(
        "'{}' holds the data of an Apache ZooKeeper (version-2), which is not read here: going on would show its clients an empty tree; name another dataDir",
        dir.display()
    )]
    ZooKeepers {
        /// The directory.
        dir: PathBuf,
    },
}

/// A member whose client port is bound, and whose directory has not been touched.
pub struct Bound<R: Runtime> {
    rt: R,
    ensemble: R,
    config: CoordinationConfig,
    dirs: Dirs,
    own: Option<u32>,
    sockets: Vec<R::Listener>,
    administrators: Vec<R::Listener>,
}

/// A member that takes part.
pub struct Service<R: Runtime> {
    rt: R,
    coordination: Coordination<R>,
    config: CoordinationConfig,
    dirs: Dirs,
    own: Option<u32>,
    sockets: Vec<R::Listener>,
    administrators: Vec<R::Listener>,
    admin_bound: Vec<SocketAddr>,
    server: Option<Server<R>>,
}

impl<R: Runtime> Service<R> {
    /// Finds out who this member is and binds the port of its clients, if it has one. `rt` runs what serves them, `ensemble` the consensus of a
    /// member that has others.
    ///
    /// # Errors
    /// [`ServiceError`]; nothing was written.
    pub async fn bind(rt: R, ensemble: R, config: &CoordinationConfig, dirs: Dirs) -> Result<Bound<R>, ServiceError> {
        let own = identity::find(&rt, config, &dirs.own).await?;
        let sockets = match config.client_address(own) {
            None => Vec::new(),
            Some(client) => bind::bind(&rt, &HostPort { host: client.host.clone(), port: client.port }).await.map_err(|source| {
                let address = if client.host.is_empty() {
                    format!("port {} of every interface", client.port)
                } else {
                    HostPort { host: client.host.clone(), port: client.port }.to_string()
                };
                ServiceError::ClientPort { address, advice: advice(&source), source }
            })?,
        };
        let administrators = if config.admin_enable_server { bind_administrators(&rt, config).await? } else { Vec::new() };
        Ok(Bound { rt, ensemble, config: config.clone(), dirs, own, sockets, administrators })
    }

    /// The handle.
    pub fn coordination(&self) -> &Coordination<R> {
        &self.coordination
    }

    /// Where ZooKeeper clients are served; nowhere before [`Service::serve`], or without a client port.
    pub fn bound(&self) -> &[SocketAddr] {
        self.server.as_ref().map_or(&[], Server::bound)
    }

    /// Where administrators are answered over HTTP.
    pub fn admin_bound(&self) -> &[SocketAddr] {
        &self.admin_bound
    }

    /// `admin.commandURL`.
    pub fn admin_command_url(&self) -> &str {
        &self.config.admin_command_url
    }

    /// The `N` of its `server.N`; `None` for a member that is alone.
    pub fn server_id(&self) -> Option<u32> {
        self.own
    }

    /// Serves ZooKeeper clients and administrators, if it has ports for them.
    pub fn serve(mut self) -> Self {
        let (sockets, administrators) = (std::mem::take(&mut self.sockets), std::mem::take(&mut self.administrators));
        if self.server.is_none() && !(sockets.is_empty() && administrators.is_empty()) {
            let config = server_config(&self.config, &self.dirs.log);
            let server = Server::start(self.coordination.on(self.rt.clone()), sockets, config);
            #[cfg(feature = "http")]
            server.serve_administrators(administrators, &self.config.admin_command_url);
            #[cfg(not(feature = "http"))]
            drop(administrators);
            self.server = Some(server);
        }
        self
    }

    /// What serves connections within this process, without a port.
    pub fn in_process(&self) -> Server<R> {
        Server::in_process(self.coordination.on(self.rt.clone()), server_config(&self.config, &self.dirs.log))
    }

    /// Waits until a majority of the voters answers, and says every few seconds whom it waits for.
    pub async fn wait_for_quorum(&self) {
        if self.own.is_none() {
            return; // It is its own.
        }
        let mut next = self.rt.now() + TELL_EVERY;
        let mut was_told = false;
        loop {
            let Some(status) = self.coordination.status().await else { return };
            if status.leadership.leader != 0 {
                let patience = self.rt.timer(next);
                let synced = tokio::select! {
                    biased;
                    synced = self.coordination.sync() => synced.is_ok(),
                    () = patience => false,
                };
                if synced {
                    // Its clients are served from its next look on.
                    let mut serving = self.coordination.shared.hub.serving();
                    let _ = serving.wait_for(|is_serving| *is_serving).await;
                    if was_told {
                        tracing::info!("the coordination ensemble has a quorum");
                    }
                    return;
                }
            }
            if self.rt.now() >= next {
                next = self.rt.now() + TELL_EVERY;
                was_told = true;
                tracing::warn!("waiting for a quorum of the coordination ensemble: {}", quorum_in_words(&status));
            }
            self.rt.sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the clients' connections, hands leadership over, and closes the log.
    pub async fn shutdown(&self) {
        if let Some(server) = &self.server {
            server.shutdown().await;
        }
        self.coordination.shutdown().await;
    }
}

impl<R: Runtime> Bound<R> {
    /// The `N` of its `server.N`; `None` for a member that is alone.
    pub fn server_id(&self) -> Option<u32> {
        self.own
    }

    /// Opens the log. For a member of an ensemble it returns when that takes part, which for one without a log is when the others have answered.
    ///
    /// # Errors
    /// [`ServiceError`].
    pub async fn open(self) -> Result<Service<R>, ServiceError> {
        let Self { rt, ensemble, config, dirs, own, sockets, administrators } = self;
        refuse_zookeepers(&rt, &dirs).await?;
        let options = Options {
            snapshot_every_entries: u64::try_from(config.snap_count).unwrap_or(u64::MAX),
            snapshots_kept_count: usize::try_from(config.snapshots_kept_count).unwrap_or(1),
            ..Options::default()
        };
        let coordination = match own {
            None => Coordination::open_with(rt.clone(), &dirs.log, options).await?,
            Some(server_id) => {
                let servers = config.servers.iter().map(|(id, server)| (*id, server.peer.clone())).collect();
                let secret = secret::find(&rt, &config, &dirs.own).await?;
                let listen = listen_address(&rt, &config, server_id).await?;
                let ensemble_config = EnsembleConfig { server_id, servers, secret, listen };
                let (on, dir) = (ensemble.clone(), dirs.log.clone());
                // On its own runtime from the start: sockets belong to the poller of the task that opens them.
                let opening = ensemble.spawn("coordination-open", async move { Coordination::open_member(on, &dir, &ensemble_config, options, None).await });
                opening.join().await.expect("nobody aborts it")?
            }
        };
        let admin_bound = administrators.iter().map(Listener::local_addr).collect();
        Ok(Service { rt, coordination, config, dirs, own, sockets, administrators, admin_bound, server: None })
    }
}

async fn bind_administrators<R: Runtime>(rt: &R, config: &CoordinationConfig) -> Result<Vec<R::Listener>, ServiceError> {
    if cfg!(not(feature = "http")) {
        return Err(ServiceError::NoHttp);
    }
    let host = match config.admin_server_address.as_str() {
        "0.0.0.0" => String::new(),
        host => host.to_owned(),
    };
    let address = HostPort { host, port: u16::try_from(config.admin_server_port).unwrap_or(0) };
    bind::bind(rt, &address).await.map_err(|source| ServiceError::AdminPort { address, source })
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use: stop what listens there (a ZooKeeper?), or set another port with the key 'clientPort'",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: set another port with the key 'clientPort'",
        _ => "the key 'clientPortAddress' names one of this machine's own names or addresses, or is left out for all of them",
    }
}

/// Who leads, who votes, and which of them this member cannot reach.
fn quorum_in_words(status: &Status) -> String {
    let name = |id: &u64| match status.members.get(id) {
        Some(record) if record.server_id != 0 => format!("server.{} ({})", record.server_id, record.address),
        _ => format!("member {id}"),
    };
    let others: Vec<&u64> = status.conf_state.voters.iter().filter(|id| **id != status.raft_id).collect();
    let (away, there): (Vec<&u64>, Vec<&u64>) = others.into_iter().partition(|id| status.unreachable.contains_key(id));
    let list = |ids: &[&u64]| if ids.is_empty() { "none of the others".to_owned() } else { ids.iter().map(|id| name(id)).collect::<Vec<_>>().join(", ") };
    let why: Vec<&str> = away.iter().filter_map(|id| status.unreachable.get(*id).map(String::as_str)).collect();
    let needed = status.conf_state.voters.len() / 2 + 1;
    let why = if why.is_empty() { String::new() } else { format!(" ({})", why.join("; ")) };
    format!(
        "{needed} of {} servers must answer; reached: this one, {}; not reached: {}{why}",
        status.conf_state.voters.len(),
        list(&there),
        if away.is_empty() { "nobody".to_owned() } else { list(&away) }
    )
}

/// Where the member listens for the others.
async fn listen_address<R: Runtime>(rt: &R, config: &CoordinationConfig, server_id: u32) -> Result<SocketAddr, ServiceError> {
    let peer = &config.servers[&server_id].peer;
    let to = if config.quorum_listen_on_all_ips { HostPort { host: String::new(), port: peer.port } } else { peer.clone() };
    let found = bind::addresses(rt, &to).await.map_err(|source| ServiceError::OwnAddress { server_id, host: peer.host.clone(), source })?;
    Ok(found[0])
}

/// An Apache ZooKeeper's directory is not taken for an empty one.
async fn refuse_zookeepers<R: Runtime>(rt: &R, dirs: &Dirs) -> Result<(), ServiceError> {
    for dir in [&dirs.own, &dirs.log] {
        rt.disk().create_dir(dir).await.map_err(StorageError::io("create the directory", dir))?;
        let names = rt.disk().list(dir).await.map_err(StorageError::io("list", dir))?;
        if names.iter().any(|entry| entry.is_dir && entry.name == "version-2") && storage::is_empty(rt, &dirs.log).await? {
            return Err(ServiceError::ZooKeepers { dir: dir.clone() });
        }
    }
    Ok(())
}

fn server_config(config: &CoordinationConfig, dir: &Path) -> ServerConfig {
    let (min_session_timeout_ms, max_session_timeout_ms) = config.client_session_timeouts_ms();
    let count = |count: i32| usize::try_from(count).unwrap_or(0);
    ServerConfig {
        tick_ms: config.tick_time_ms,
        min_session_timeout_ms,
        max_session_timeout_ms,
        max_connections_per_address: count(config.max_client_connections),
        max_connections: count(config.max_client_connections_of_all),
        max_frame_bytes: count(config.jute_max_buffer),
        words: config.four_letter_words.clone(),
        super_digest: config.super_digest.clone(),
        has_ttl: config.extended_types_enabled,
        has_reconfig: config.reconfig_enabled,
        idle_check_ms: u64::try_from(config.container_check_interval_ms).unwrap_or(u64::MAX),
        never_used_ms: config.container_never_used_ms,
        data_dir: dir.display().to_string(),
    }
}
