//! How a broker starts: sockets first, so that a port in use is told before anything is touched; then the coordination store, which knows
//! the topics' settings; then the data directories with their locks and recovery; then the controller and the replicas; connections
//! are accepted last.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::watch;

use super::buffers::ChunkPool;
use super::config_rules::Rules;
use super::coordination::{self, BrokerCoordination};
use super::fetch_session::FetchSessions;
use super::follower_session::FollowerSessions;
use super::to_controller::ToController;
use super::topics::{Following, KnownTopics};
use super::{Broker, Connections};
use crate::config::broker::BrokerConfig;
use crate::config::listener::Listener as ListenerConfig;
use crate::config::topic;
use crate::controller::image::{BrokerInfo, Endpoint};
use crate::controller::{Controller, ControllerConfig, adoption, missing_replicas, topic_settings};
use crate::coordination::service::ServiceError;
use crate::group::coordinator::{CoordinatorConfig, GroupCoordinator};
use crate::group::state::GroupConfig;
use crate::log::{LogConfig, LogManager, LogManagerConfig};
use crate::replication::fetcher::FetcherConfig;
use crate::replication::log_config::log_config;
use crate::replication::manager::{ReplicaConfig, ReplicaManager};
use crate::runtime::{Listener, Runtime, bind};
use crate::topic_partition::TopicPartition;

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
    /// The coordination service could not be opened.
    #[error(transparent)]
    Coordination(#[from] ServiceError),
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
        Self::start_with(runtime.clone(), runtime, config, host_name).await
    }

    /// [`Broker::start`] with another runtime of the same process for the member of a coordination ensemble, if one is embedded: its heartbeats are
    /// not to wait for the broker's work.
    ///
    /// # Errors
    /// As there.
    pub async fn start_with(runtime: R, ensemble: R, config: BrokerConfig, host_name: &str) -> Result<Arc<Self>, StartError> {
        let listeners = bind(&runtime, &config).await?;
        let coordination = BrokerCoordination::bind(&runtime, ensemble, &config).await?;
        let port = |sockets: &[R::Listener]| sockets.first().map_or(0, |socket| socket.local_addr().port());
        let ports: Vec<u16> = listeners.iter().map(|(_, sockets)| port(sockets)).collect();
        let bound: Vec<ListenerConfig> = listeners.iter().map(|(config, sockets)| ListenerConfig { port: port(sockets), ..config.clone() }).collect();
        let info = BrokerInfo {
            id: config.broker_id,
            epoch: -1,
            endpoints: config
                .advertised(host_name, &ports)
                .into_iter()
                .map(|listener| Endpoint { address: listener.host_port(), security_protocol: "PLAINTEXT".to_owned(), listener: listener.name })
                .collect(),
            rack: config.broker_rack.clone(),
            directory_ids: Vec::new(),
        };

        // Before anything is written to them.
        LogManager::check_origins(&runtime, &config.log_dirs).await?;
        let (coordination, session) = coordination.open(&runtime, &config).await?;
        // Recovery must know what a log promised, and retention what a topic is to keep, before the first log is opened.
        let settings = topic_settings(&session).await?;
        let producer_id_expiration_ms = config.producer_id_expiration_ms.into();
        let logs = LogManager::open(runtime.clone(), log_manager_config(&config), |topic| match settings.get(topic) {
            Some(settings) => log_config(&topic::resolve(&config, settings), producer_id_expiration_ms),
            // Nobody's: nothing of it is deleted.
            None => LogConfig { retention_ms: -1, retention_bytes: -1, ..log_config(&config.topic_defaults, producer_id_expiration_ms) },
        })
        .await?;
        drop(settings);
        if let Some(adoption) = logs.adoption() {
            let segment_bytes = config.offsets_topic_segment_bytes;
            let created = adoption::register(&runtime, &session, config.broker_id, logs.cluster_id(), segment_bytes, adoption).await?;
            tracing::info!(topics = created.len(), partitions = adoption.partitions.len(), "registered the topics of adopted data directories");
        }
        let is_one_down = logs.directory_ids().len() < config.log_dirs.len();
        let has_log = |topic: &str, number: i32| {
            let id = TopicPartition::new(topic, number);
            logs.get(&id).is_some() || logs.offline().contains_key(&id)
        };
        // Before the registration: who sees that sees this.
        let troubles = missing_replicas(&session, config.broker_id, &logs.directory_ids(), is_one_down, has_log).await?;
        let controller = Controller::start(
            runtime.clone(),
            session,
            ControllerConfig {
                broker: BrokerInfo { directory_ids: logs.directory_ids(), ..info },
                expected_cluster_id: logs.cluster_id().map(str::to_owned),
                default_partition_count: config.num_partitions,
                default_replication_factor: i16::try_from(config.default_replication_factor).unwrap_or(i16::MAX),
                session: coordination::options(&config),
                connection_timeout: std::time::Duration::from_millis(config.zookeeper_connection_timeout_ms()),
                delete_topic_enable: config.delete_topic_enable,
                rebalance_interval: config
                    .auto_leader_rebalance_enable
                    .then(|| Duration::from_secs(config.leader_imbalance_check_interval_seconds.max(1).unsigned_abs())),
                rules: Arc::new(Rules { config: config.clone() }),
            },
        )
        .await?;
        logs.set_cluster_id(&controller.image().cluster_id).await?;
        let resolve_with = config.clone();
        let replicas = Arc::new(ReplicaManager::new(runtime.clone(), replica_config(&config), logs, move |topic| topic::resolve(&resolve_with, &topic.config)));
        let budget = usize::try_from(config.queued_max_request_bytes).unwrap_or(usize::MAX);
        let slots = usize::try_from(config.max_incremental_fetch_session_cache_slots).unwrap_or(0);
        let broker = Arc::new(Self {
            groups: GroupCoordinator::new(runtime.clone(), coordinator_config(&config), Arc::new(KnownTopics(Arc::clone(&replicas)))),
            chunks: ChunkPool::new(budget),
            fetch_sessions: FetchSessions::new(slots),
            follower_sessions: FollowerSessions::new(slots),
            connections: Connections::default(),
            stop: watch::Sender::new(false),
            following: Following::default(),
            follower: Mutex::new(None),
            to_controller: ToController::default(),
            runtime,
            controller,
            coordination: coordination.serve(),
            replicas,
            bound,
            config,
        });
        broker.replicas.troubles().begin(&troubles);
        broker.runtime.spawn("replica-troubles", Arc::clone(&broker).tell_troubles(troubles));
        // Before the first image makes leaders.
        broker.runtime.spawn("isr-proposals", Arc::clone(&broker).carry_proposals(broker.replicas.take_proposals()));
        broker.start_following().await;
        for (config, sockets) in listeners {
            for socket in sockets {
                let accepting = Arc::clone(&broker).accept(socket, Arc::from(config.name.as_str()));
                broker.runtime.spawn("accept", accepting);
            }
        }
        Ok(broker)
    }
}

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

/// A listener with its sockets, which share a port.
type Bound<R> = (ListenerConfig, Vec<<R as Runtime>::Listener>);

/// How often a port is drawn for a listener on several addresses: the port that one of them gives may be taken at another.
const PORT_DRAWS: usize = 16;

/// Binds all listeners; a name that means several addresses (`localhost`) is bound at each of them.
async fn bind<R: Runtime>(runtime: &R, config: &BrokerConfig) -> Result<Vec<Bound<R>>, StartError> {
    let mut bound = Vec::new();
    for listener in &config.listeners {
        let mut draws = if listener.port == 0 { PORT_DRAWS } else { 1 };
        let sockets = loop {
            draws -= 1;
            match bind::bind(runtime, &listener.host_port()).await {
                Ok(sockets) => break sockets,
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && draws > 0 => {}
                Err(source) => return Err(StartError::Listen { listener: listener.clone(), advice: advice(&source, &listener.host), source }),
            }
        };
        bound.push((listener.clone(), sockets));
    }
    Ok(bound)
}

fn advice(error: &io::Error, host: &str) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => "the port is in use: stop what listens there, or set another port with the key 'listeners'".to_owned(),
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege: set another port with the key 'listeners'".to_owned(),
        // Whoever is behind a translated address, a container or a load balancer meets this.
        _ if !host.is_empty() => format!(
            "the key 'listeners' names what this machine listens on: one of its own names or addresses, or nothing for all of them \
             ('PLAINTEXT://:9092'); the name that clients connect to, if '{host}' is one, goes into 'advertised.listeners'"
        ),
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

fn replica_config(config: &BrokerConfig) -> ReplicaConfig {
    let ms = |ms: i32| Duration::from_millis(ms.max(0).unsigned_abs().into());
    ReplicaConfig {
        producer_id_expiration_ms: config.producer_id_expiration_ms.into(),
        lag_max: Duration::from_millis(config.replica_lag_time_max_ms.max(0).unsigned_abs()),
        inter_broker_listener: config.inter_broker_listener().to_owned(),
        fetch: FetcherConfig {
            broker_id: config.broker_id,
            fetchers_per_leader: config.num_replica_fetchers.max(1).unsigned_abs(),
            max_bytes: config.replica_fetch_max_bytes,
            min_bytes: config.replica_fetch_min_bytes,
            response_max_bytes: config.replica_fetch_response_max_bytes,
            wait_max_ms: config.replica_fetch_wait_max_ms,
            backoff: ms(config.replica_fetch_backoff_ms),
            socket_timeout: ms(config.replica_socket_timeout_ms),
        },
    }
}
