//! How a broker starts: sockets first, so that a port in use is told before anything is touched; then the data directories with their
//! locks and recovery; then coordination, the controller and the replicas; connections are accepted last.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::watch;

use super::buffers::ChunkPool;
use super::config_rules::Rules;
use super::fetch_session::FetchSessions;
use super::topics::KnownTopics;
use super::{Broker, Connections};
use crate::config::broker::BrokerConfig;
use crate::config::listener::Listener as ListenerConfig;
use crate::config::topic;
use crate::controller::image::{BrokerInfo, Endpoint};
use crate::controller::{Controller, ControllerConfig, adoption};
use crate::coordination::Coordination;
use crate::group::coordinator::{CoordinatorConfig, GroupCoordinator};
use crate::group::state::GroupConfig;
use crate::log::{LogManager, LogManagerConfig};
use crate::replication::log_config::log_config;
use crate::replication::manager::ReplicaManager;
use crate::runtime::{Listener, Runtime};

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listener could not be bound.
    #[error("cannot listen on {listener}: {source}; {advice}")]
    Listen {
        /// Which.
        listener: ListenerConfig,
        /// Why.
        source: std::io::Error,
        /// What to do.
        advice: String,
    },
    /// A data directory could not be opened.
    #[error(transparent)]
    Logs(#[from] crate::log::OpenError),
    /// The coordination store could not be opened.
    #[error(transparent)]
    Coordination(#[from] crate::coordination::storage::StorageError),
    /// The controller could not start.
    #[error(transparent)]
    Controller(#[from] crate::controller::StartError),
    /// The data directories cannot be written.
    #[error(transparent)]
    Log(#[from] crate::log::LogError),
}

impl<R: Runtime> Broker<R> {
    /// Starts a broker; when this returns, clients can connect. `host_name` is what is advertised for listeners on all interfaces.
    ///
    /// # Errors
    /// [`StartError`], in words that say what to do.
    pub async fn start(runtime: R, config: BrokerConfig, host_name: &str) -> Result<Arc<Self>, StartError> {
        let listeners = bind(&runtime, &config).await?;
        let ports: Vec<u16> = listeners.iter().map(|(_, listener)| listener.local_addr().port()).collect();
        let bound: Vec<ListenerConfig> =
            listeners.iter().map(|(config, listener)| ListenerConfig { port: listener.local_addr().port(), ..config.clone() }).collect();
        let info = BrokerInfo {
            id: config.broker_id,
            epoch: -1,
            endpoints: config
                .advertised(host_name, &ports)
                .into_iter()
                .map(|listener| Endpoint { address: listener.host_port(), security_protocol: "PLAINTEXT".to_owned(), listener: listener.name })
                .collect(),
            rack: config.broker_rack.clone(),
        };

        let logs =
            LogManager::open(runtime.clone(), log_manager_config(&config), |_| log_config(&config.topic_defaults, config.producer_id_expiration_ms.into()))
                .await?;
        let coordination = Coordination::open(runtime.clone(), &config.log_dirs[0].join(crate::coordination::DIR_NAME)).await?;
        if let Some(adoption) = logs.adoption() {
            let segment_bytes = config.offsets_topic_segment_bytes;
            let created = adoption::register(&runtime, &coordination, config.broker_id, logs.cluster_id(), segment_bytes, adoption).await?;
            tracing::info!(topics = created.len(), partitions = adoption.partitions.len(), "registered the topics of adopted data directories");
        }
        let controller = Controller::start(
            runtime.clone(),
            coordination.clone(),
            ControllerConfig {
                broker: info,
                expected_cluster_id: logs.cluster_id().map(str::to_owned),
                default_partition_count: config.num_partitions,
                default_replication_factor: i16::try_from(config.default_replication_factor).unwrap_or(i16::MAX),
                session_timeout_ms: SESSION_TIMEOUT_MS,
                rules: Arc::new(Rules { config: config.clone() }),
            },
        )
        .await?;
        logs.set_cluster_id(&controller.image().cluster_id).await?;
        let resolve_with = config.clone();
        let replicas = Arc::new(ReplicaManager::new(config.broker_id, config.producer_id_expiration_ms.into(), logs, move |topic| {
            topic::resolve(&resolve_with, &topic.config)
        }));
        let budget = usize::try_from(config.queued_max_request_bytes).unwrap_or(usize::MAX);
        let slots = usize::try_from(config.max_incremental_fetch_session_cache_slots).unwrap_or(0);
        let broker = Arc::new(Self {
            groups: GroupCoordinator::new(runtime.clone(), coordinator_config(&config), Arc::new(KnownTopics(Arc::clone(&replicas)))),
            chunks: ChunkPool::new(budget),
            fetch_sessions: FetchSessions::new(slots),
            connections: Connections::default(),
            stop: watch::Sender::new(false),
            runtime,
            config,
            controller,
            coordination,
            replicas,
            bound,
        });
        broker.follow_image().await;
        for (config, listener) in listeners {
            let accepting = Arc::clone(&broker).accept(listener, Arc::from(config.name.as_str()));
            broker.runtime.spawn("accept", accepting);
        }
        Ok(broker)
    }
}

/// How long a broker that is silent is still taken to live (`zookeeper.session.timeout.ms`).
const SESSION_TIMEOUT_MS: i32 = 18_000;

fn coordinator_config(config: &BrokerConfig) -> CoordinatorConfig {
    CoordinatorConfig {
        group: GroupConfig {
            initial_rebalance_delay_ms: config.group_initial_rebalance_delay_ms,
            max_size: usize::try_from(config.group_max_size).unwrap_or(1),
            min_session_timeout_ms: config.group_min_session_timeout_ms,
            max_session_timeout_ms: config.group_max_session_timeout_ms,
            offset_metadata_max_bytes: usize::try_from(config.offset_metadata_max_bytes).unwrap_or(0),
            offsets_retention_ms: i64::from(config.offsets_retention_minutes) * 60_000,
            ..GroupConfig::default()
        },
        partition_count: config.offsets_topic_num_partitions,
        commit_timeout_ms: config.offsets_commit_timeout_ms,
        retention_check_interval_ms: config.offsets_retention_check_interval_ms,
        ..CoordinatorConfig::default()
    }
}

/// Binds all listeners; a name that means several addresses (`localhost`) is bound at each of them.
async fn bind<R: Runtime>(runtime: &R, config: &BrokerConfig) -> Result<Vec<(ListenerConfig, R::Listener)>, StartError> {
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let failed = |source: std::io::Error| StartError::Listen { listener: listener.clone(), advice: advice(&source), source };
        let addresses = addresses(&listener.host, listener.port);
        let mut port = listener.port;
        let mut first = true;
        for mut address in addresses {
            address.set_port(port);
            match runtime.listen(address).await {
                Ok(socket) => {
                    port = socket.local_addr().port();
                    bound.push((listener.clone(), socket));
                    first = false;
                }
                // A host without IPv6 still has localhost.
                Err(error) if !first && error.kind() != std::io::ErrorKind::AddrInUse => {
                    tracing::debug!(%address, %error, "not bound");
                }
                Err(error) => return Err(failed(error)),
            }
        }
    }
    Ok(bound)
}

fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), IpAddr::V6(std::net::Ipv6Addr::LOCALHOST)];
    match host {
        "" | "0.0.0.0" => vec![SocketAddr::from(([0, 0, 0, 0], port))],
        "localhost" => LOCALHOST.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
        host => host.parse::<IpAddr>().map(|ip| vec![SocketAddr::new(ip, port)]).unwrap_or_default(),
    }
}

fn advice(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use: stop what listens there, or set another port with the key 'listeners'".to_owned(),
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: set another port with the key 'listeners'".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine does not have that address: correct the key 'listeners'".to_owned(),
        _ => "correct the key 'listeners'".to_owned(),
    }
}

fn log_manager_config(config: &BrokerConfig) -> LogManagerConfig {
    let ms = |ms: i64| u64::try_from(ms).unwrap_or(u64::MAX);
    LogManagerConfig {
        dirs: config.log_dirs.clone(),
        broker_id: config.broker_id,
        cluster_id: None,
        recovery_parallelism: usize::try_from(config.num_recovery_threads_per_data_dir).unwrap_or(1),
        checkpoint_interval_ms: ms(config.replica_high_watermark_checkpoint_interval_ms.min(config.log_flush_offset_checkpoint_interval_ms.into())),
        retention_check_interval_ms: ms(config.log_retention_check_interval_ms),
        producer_expiration_check_interval_ms: ms(config.producer_id_expiration_check_interval_ms.into()),
        ..LogManagerConfig::default()
    }
}
