//! Broker configuration: the keys that have an effect, typed. How they are read from a file is in `config/load.rs`; keys of Kafka's
//! that have none here are in `config/foreign.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::coordination::CoordinationConfig;
use crate::config::definition::{ConfigValue, Kind, Valid, config_table};
use crate::config::describe::{ConfigEntry, ConfigSource, ConfigSynonym};
use crate::config::listener::Listener;
use crate::config::topic::{self, TopicConfig};
use crate::coordination::client::ConnectString;

/// Which replica consumers read from (`replica.selector.class`): Kafka's two, by the names of their classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaSelector {
    /// The leader.
    Leader,
    /// An in-sync one in the consumer's rack.
    RackAware,
}

impl ReplicaSelector {
    const LEADER: &'static str = "org.apache.kafka.common.replica.LeaderSelector";
    const RACK_AWARE: &'static str = "org.apache.kafka.common.replica.RackAwareReplicaSelector";
}

impl ConfigValue for ReplicaSelector {
    const KIND: Kind = Kind::String;

    fn parse(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" | Self::LEADER => Ok(Self::Leader),
            Self::RACK_AWARE => Ok(Self::RackAware),
            _ => Err(format!("nothing, {} or {}", Self::LEADER, Self::RACK_AWARE)),
        }
    }

    fn print(&self) -> Option<String> {
        (*self == Self::RackAware).then(|| Self::RACK_AWARE.to_owned())
    }
}

config_table! {
    /// A broker's configuration. [`BrokerConfig::default`] is what a broker without any file runs with.
    pub struct BrokerConfig {
        /// The addresses that clients and other brokers are told to connect to. Without it: those of `listeners`, with this host's name where they bind every interface.
        advertised_listeners: Vec<Listener> = "advertised.listeners", "", Valid::Any, [];
        /// Whether a topic that a client asks for by name is created when it does not exist.
        auto_create_topics_enable: bool = "auto.create.topics.enable", "true", Valid::Any, [];
        /// Whether leadership goes back to each partition's first replica from time to time.
        auto_leader_rebalance_enable: bool = "auto.leader.rebalance.enable", "true", Valid::Any, [];
        /// Tasks that do background work such as deleting files, at a time.
        background_threads: i32 = "background.threads", "10", Valid::AtLeast(1), [];
        /// This broker's number, unique in its cluster and never changed. `node.id` is the same key by its newer name.
        broker_id: i32 = "broker.id", "0", Valid::AtLeast(0), [];
        /// The rack or zone of this broker; replicas are spread over racks.
        broker_rack: Option<String> = "broker.rack", "", Valid::Any, [];
        /// A connection without a request for this many ms is closed; -1 is never.
        connections_max_idle_ms: i64 = "connections.max.idle.ms", "600000", Valid::AtLeast(-1), [];
        /// Whether a broker hands its leaderships over before it stops.
        controlled_shutdown_enable: bool = "controlled.shutdown.enable", "true", Valid::Any, [];
        /// Time in ms that the controller waits for a broker's answer.
        controller_socket_timeout_ms: i32 = "controller.socket.timeout.ms", "30000", Valid::AtLeast(1), [];
        /// Replicas of a topic that is created without saying how many.
        default_replication_factor: i32 = "default.replication.factor", "1", Valid::Between(1, 32_767), [];
        /// Whether topics can be deleted.
        delete_topic_enable: bool = "delete.topic.enable", "true", Valid::Any, [];
        /// Most bytes of records in one fetch response, however much the client asks for; a first batch larger than this is still sent.
        fetch_max_bytes: i32 = "fetch.max.bytes", "57671680", Valid::AtLeast(1024), [];
        /// Time in ms that a new consumer group waits for more members before its first rebalance.
        group_initial_rebalance_delay_ms: i32 = "group.initial.rebalance.delay.ms", "3000", Valid::AtLeast(0), [];
        /// Longest session time-out in ms that a group member may ask for.
        group_max_session_timeout_ms: i32 = "group.max.session.timeout.ms", "1800000", Valid::AtLeast(1), [];
        /// Most members of one group.
        group_max_size: i32 = "group.max.size", "2147483647", Valid::AtLeast(1), [];
        /// Shortest session time-out in ms that a group member may ask for.
        group_min_session_timeout_ms: i32 = "group.min.session.timeout.ms", "6000", Valid::AtLeast(1), [];
        /// The listener that brokers use among themselves, by name. Without it: the one named PLAINTEXT, else the first.
        inter_broker_listener_name: Option<String> = "inter.broker.listener.name", "", Valid::Any, [];
        /// Seconds between two looks at which partitions are not led by their first replica.
        leader_imbalance_check_interval_seconds: i64 = "leader.imbalance.check.interval.seconds", "300", Valid::AtLeast(1), [];
        /// The security protocol of each listener's name, as NAME:PROTOCOL pairs. This release knows PLAINTEXT.
        listener_security_protocol_map: Vec<String> = "listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL", Valid::Any, [];
        /// Where the broker listens: NAME://host:port, separated by commas. An empty host binds every interface, port 0 a free port.
        listeners: Vec<Listener> = "listeners", "PLAINTEXT://localhost:9092", Valid::Any, [];
        /// Directories that hold the logs, separated by commas; partitions are spread over them. `log.dir` is the same key for one.
        log_dirs: Vec<PathBuf> = "log.dirs", "./ottla-data", Valid::Any, [];
        /// Time in ms between two checkpoints of how far each log is flushed, from which recovery starts.
        log_flush_offset_checkpoint_interval_ms: i32 = "log.flush.offset.checkpoint.interval.ms", "60000", Valid::AtLeast(0), [];
        /// Time in ms between two checkpoints of where each log starts.
        log_flush_start_offset_checkpoint_interval_ms: i32 = "log.flush.start.offset.checkpoint.interval.ms", "60000", Valid::AtLeast(0), [];
        /// Time in ms between two looks for segments to delete.
        log_retention_check_interval_ms: i64 = "log.retention.check.interval.ms", "300000", Valid::AtLeast(1), [];
        /// Most connections at a time.
        max_connections: i32 = "max.connections", "2147483647", Valid::AtLeast(0), [];
        /// Most connections at a time from one address.
        max_connections_per_ip: i32 = "max.connections.per.ip", "2147483647", Valid::AtLeast(0), [];
        /// Incremental fetch sessions (KIP-227) that are remembered at a time.
        max_incremental_fetch_session_cache_slots: i32 = "max.incremental.fetch.session.cache.slots", "1000", Valid::AtLeast(0), [];
        /// Most partitions in one answer about topics (KIP-966).
        max_request_partition_size_limit: i32 = "max.request.partition.size.limit", "2000", Valid::AtLeast(1), [];
        /// Partitions of a topic that is created without saying how many.
        num_partitions: i32 = "num.partitions", "1", Valid::AtLeast(1), [];
        /// Logs of one directory that are loaded and recovered at a time.
        num_recovery_threads_per_data_dir: i32 = "num.recovery.threads.per.data.dir", "2", Valid::AtLeast(1), [];
        /// Fetch sessions that a follower keeps with each leader.
        num_replica_fetchers: i32 = "num.replica.fetchers", "1", Valid::AtLeast(1), [];
        /// Longest text in bytes that a client may attach to a committed offset.
        offset_metadata_max_bytes: i32 = "offset.metadata.max.bytes", "4096", Valid::AtLeast(0), [];
        /// Time in ms within which a commit of offsets must be on all in-sync replicas.
        offsets_commit_timeout_ms: i32 = "offsets.commit.timeout.ms", "5000", Valid::AtLeast(1), [];
        /// Bytes that are read at a time while a group coordinator loads.
        offsets_load_buffer_size: i32 = "offsets.load.buffer.size", "5242880", Valid::AtLeast(1), [];
        /// Time in ms between two looks for offsets that have expired.
        offsets_retention_check_interval_ms: i64 = "offsets.retention.check.interval.ms", "600000", Valid::AtLeast(1), [];
        /// Minutes for which the offsets of a group without members are kept.
        offsets_retention_minutes: i32 = "offsets.retention.minutes", "10080", Valid::AtLeast(1), [];
        /// Codec of the offsets topic, by number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
        offsets_topic_compression_codec: i32 = "offsets.topic.compression.codec", "0", Valid::Between(0, 4), [];
        /// Partitions of the offsets topic. It cannot be changed once the topic exists.
        offsets_topic_num_partitions: i32 = "offsets.topic.num.partitions", "50", Valid::AtLeast(1), [];
        /// Replicas of the offsets topic. Kafka's default is 3, with which a single broker has no consumer groups; set 3 in a cluster.
        offsets_topic_replication_factor: i16 = "offsets.topic.replication.factor", "1", Valid::AtLeast(1), [];
        /// Segment size in bytes of the offsets topic; small ones load fast.
        offsets_topic_segment_bytes: i32 = "offsets.topic.segment.bytes", "104857600", Valid::AtLeast(1), [];
        /// Time in ms between two looks for producers to forget.
        producer_id_expiration_check_interval_ms: i32 = "producer.id.expiration.check.interval.ms", "600000", Valid::AtLeast(1), [];
        /// Time in ms after which an idempotent producer that sent nothing is forgotten, and with it what it sent last.
        producer_id_expiration_ms: i32 = "producer.id.expiration.ms", "86400000", Valid::AtLeast(1), [];
        /// Memory in bytes for requests that were read and not yet answered; when it is used up the broker stops reading. -1 is no limit (Kafka's default). Ottla's default is twice the largest request.
        queued_max_request_bytes: i64 = "queued.max.request.bytes", "209715200", Valid::AtLeast(-1), [];
        /// Requests of one connection that are worked on at a time; no more are read until one is answered.
        queued_max_requests: i32 = "queued.max.requests", "500", Valid::AtLeast(1), [];
        /// Time in ms before a follower asks again after an error.
        replica_fetch_backoff_ms: i32 = "replica.fetch.backoff.ms", "1000", Valid::AtLeast(0), [];
        /// Bytes of each partition that a follower asks for.
        replica_fetch_max_bytes: i32 = "replica.fetch.max.bytes", "1048576", Valid::AtLeast(0), [];
        /// Least bytes that a follower waits for.
        replica_fetch_min_bytes: i32 = "replica.fetch.min.bytes", "1", Valid::AtLeast(0), [];
        /// Most bytes in one response to a follower.
        replica_fetch_response_max_bytes: i32 = "replica.fetch.response.max.bytes", "10485760", Valid::AtLeast(0), [];
        /// Longest time in ms that a follower's fetch waits for `replica.fetch.min.bytes`.
        replica_fetch_wait_max_ms: i32 = "replica.fetch.wait.max.ms", "500", Valid::AtLeast(0), [];
        /// Time in ms between two checkpoints of the high watermarks.
        replica_high_watermark_checkpoint_interval_ms: i64 = "replica.high.watermark.checkpoint.interval.ms", "5000", Valid::AtLeast(1), [];
        /// A follower that has not caught up for this many ms leaves the in-sync replicas.
        replica_lag_time_max_ms: i64 = "replica.lag.time.max.ms", "30000", Valid::AtLeast(1), [];
        /// From which replica consumers with a `client.rack` read: the leader, or one that is in sync in their rack (KIP-392).
        replica_selector_class: ReplicaSelector = "replica.selector.class", "", Valid::Any, [];
        /// Time in ms within which a leader must answer a follower; more than `replica.fetch.wait.max.ms`.
        replica_socket_timeout_ms: i32 = "replica.socket.timeout.ms", "30000", Valid::AtLeast(1), [];
        /// Time in ms within which a request to another broker must be answered.
        request_timeout_ms: i32 = "request.timeout.ms", "30000", Valid::AtLeast(1), [];
        /// Length of the queue of connections that the operating system holds before they are accepted.
        socket_listen_backlog_size: i32 = "socket.listen.backlog.size", "50", Valid::AtLeast(1), [];
        /// Receive buffer of a connection in bytes; -1 leaves it to the operating system, which is the best choice here.
        socket_receive_buffer_bytes: i32 = "socket.receive.buffer.bytes", "-1", Valid::AtLeast(-1), [];
        /// Largest request in bytes. A longer one closes its connection.
        socket_request_max_bytes: i32 = "socket.request.max.bytes", "104857600", Valid::AtLeast(1), [];
        /// Send buffer of a connection in bytes; -1 leaves it to the operating system, which is the best choice here.
        socket_send_buffer_bytes: i32 = "socket.send.buffer.bytes", "-1", Valid::AtLeast(-1), [];
        /// Time in ms between two looks for transactions that have timed out.
        transaction_abort_timed_out_transaction_cleanup_interval_ms: i32 = "transaction.abort.timed.out.transaction.cleanup.interval.ms", "10000", Valid::AtLeast(1), [];
        /// Longest transaction time-out in ms that a producer may ask for.
        transaction_max_timeout_ms: i32 = "transaction.max.timeout.ms", "900000", Valid::AtLeast(1), [];
        /// Whether a partition joins a transaction only after its coordinator confirms it (KIP-890).
        transaction_partition_verification_enable: bool = "transaction.partition.verification.enable", "true", Valid::Any, [];
        /// Time in ms between two looks for transactional ids to forget.
        transaction_remove_expired_transaction_cleanup_interval_ms: i32 = "transaction.remove.expired.transaction.cleanup.interval.ms", "3600000", Valid::AtLeast(1), [];
        /// Bytes that are read at a time while a transaction coordinator loads.
        transaction_state_log_load_buffer_size: i32 = "transaction.state.log.load.buffer.size", "5242880", Valid::AtLeast(1), [];
        /// `min.insync.replicas` of the transactions topic. Kafka's default is 2; set 2 in a cluster.
        transaction_state_log_min_isr: i32 = "transaction.state.log.min.isr", "1", Valid::AtLeast(1), [];
        /// Partitions of the transactions topic. It cannot be changed once the topic exists.
        transaction_state_log_num_partitions: i32 = "transaction.state.log.num.partitions", "50", Valid::AtLeast(1), [];
        /// Replicas of the transactions topic. Kafka's default is 3; set 3 in a cluster.
        transaction_state_log_replication_factor: i16 = "transaction.state.log.replication.factor", "1", Valid::AtLeast(1), [];
        /// Segment size in bytes of the transactions topic.
        transaction_state_log_segment_bytes: i32 = "transaction.state.log.segment.bytes", "104857600", Valid::AtLeast(1), [];
        /// Time in ms after which a transactional id that was not used is forgotten.
        transactional_id_expiration_ms: i32 = "transactional.id.expiration.ms", "604800000", Valid::AtLeast(1), [];
        /// The ensemble that coordinates the brokers, as host:port of its members, separated by commas, with a path after the last one if everything is to be below it. Without it this broker coordinates itself.
        zookeeper_connect: Option<ConnectString> = "zookeeper.connect", "", Valid::Any, [];
        /// Time in ms within which a member of the ensemble must be there when the broker starts. Without it: `zookeeper.session.timeout.ms`.
        zookeeper_connection_timeout: Option<i32> = "zookeeper.connection.timeout.ms", "", Valid::AtLeast(1), [];
        /// Requests to the ensemble that may wait for their answers at a time.
        zookeeper_max_in_flight_requests: i32 = "zookeeper.max.in.flight.requests", "10", Valid::AtLeast(1), [];
        /// Time in ms after which the ensemble takes a silent broker for dead; it may grant another one.
        zookeeper_session_timeout_ms: i32 = "zookeeper.session.timeout.ms", "18000", Valid::AtLeast(1), [];
        /// Whether only this broker's own identity may change what it writes to the ensemble. It needs credentials, and this release has none for it.
        zookeeper_set_acl: bool = "zookeeper.set.acl", "false", Valid::Any, [];
    }
    and {
        /// The keys of the coordination member that is embedded in this broker.
        pub coordination: CoordinationConfig,
        /// The configuration of a topic that sets nothing itself: the defaults, with the broker's `log.*` keys applied.
        pub topic_defaults: TopicConfig,
        /// The keys that were given in the file or on the command line, with their text; by the name under which they were given.
        pub given: BTreeMap<String, String>,
        /// What to tell once at start: keys without effect, duplicates.
        pub notes: Vec<String>,
    }
}

impl BrokerConfig {
    /// The listeners to advertise, one per listener: `advertised.listeners`, or those bound with `host_name` where they bind every
    /// interface and with the port of `bound_ports` (in the order of `listeners`) where they asked for any.
    pub fn advertised(&self, host_name: &str, bound_ports: &[u16]) -> Vec<Listener> {
        let from = if self.advertised_listeners.is_empty() { &self.listeners } else { &self.advertised_listeners };
        from.iter()
            .map(|listener| {
                let mut advertised = listener.clone();
                if advertised.is_wildcard() {
                    advertised.host = host_name.to_owned();
                }
                if advertised.port == 0 {
                    let bound = self.listeners.iter().position(|bound| bound.name == listener.name);
                    advertised.port = bound.and_then(|index| bound_ports.get(index)).copied().unwrap_or(0);
                }
                advertised
            })
            .collect()
    }

    /// The name of the listener that brokers use among themselves.
    pub fn inter_broker_listener(&self) -> &str {
        let plaintext = || self.listeners.iter().find(|listener| listener.name == "PLAINTEXT").or(self.listeners.first());
        self.inter_broker_listener_name.as_deref().or_else(|| plaintext().map(|listener| listener.name.as_str())).unwrap_or("PLAINTEXT")
    }

    /// What `DescribeConfigs` answers for this broker. All keys are read-only: this release changes none while it runs.
    pub fn describe(&self) -> Vec<ConfigEntry> {
        let own = Self::table().iter().map(|definition| (definition, self.get(definition.name), Self::default().get(definition.name)));
        let defaults = CoordinationConfig::default();
        let of_coordination =
            CoordinationConfig::table().iter().map(|definition| (definition, self.coordination.get(definition.name), defaults.get(definition.name)));
        let mut entries: Vec<ConfigEntry> = own
            .chain(of_coordination)
            .map(|(definition, value, default)| {
                let aliases = alias_of(definition.name);
                let given = std::iter::once(definition.name).chain(aliases).find_map(|name| self.given.get(name).map(|text| (name, text)));
                let mut synonyms = Vec::new();
                if let Some((name, text)) = given {
                    synonyms.push(ConfigSynonym { name, value: Some(text.clone()), source: ConfigSource::StaticBroker });
                }
                synonyms.push(ConfigSynonym { name: definition.name, value: default, source: ConfigSource::Default });
                self.entry(definition.name, value, definition.kind, definition.doc, synonyms)
            })
            .collect();
        for definition in topic::definitions() {
            for synonym in definition.synonyms {
                let default = if Some(synonym) == definition.synonyms.last() { topic::synonym_default(definition, *synonym) } else { None };
                let given = self.given.get(synonym.name).cloned();
                let mut synonyms = Vec::new();
                if given.is_some() {
                    synonyms.push(ConfigSynonym { name: synonym.name, value: given.clone(), source: ConfigSource::StaticBroker });
                }
                if default.is_some() {
                    synonyms.push(ConfigSynonym { name: synonym.name, value: default.clone(), source: ConfigSource::Default });
                }
                entries.push(self.entry(synonym.name, given.or(default), definition.kind, definition.doc, synonyms));
            }
        }
        entries.sort_by_key(|entry| entry.name);
        entries
    }

    fn entry(
        &self,
        name: &'static str,
        value: Option<String>,
        kind: crate::config::definition::Kind,
        doc: &'static str,
        synonyms: Vec<ConfigSynonym>,
    ) -> ConfigEntry {
        let source = synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source);
        let sensitive = crate::config::foreign::is_secret(name);
        let (value, synonyms) =
            if sensitive { (None, synonyms.into_iter().map(|synonym| ConfigSynonym { value: None, ..synonym }).collect()) } else { (value, synonyms) };
        ConfigEntry { name, value, source, read_only: true, sensitive, kind, doc: doc.trim(), synonyms }
    }
}

/// The other name of a key that has two.
pub(crate) fn alias_of(key: &str) -> Option<&'static str> {
    match key {
        "broker.id" => Some("node.id"),
        "node.id" => Some("broker.id"),
        "log.dirs" => Some("log.dir"),
        "log.dir" => Some("log.dirs"),
        _ => None,
    }
}
