//! The keys of coordination, ZooKeeper's own names for the most part: the same in a broker's `server.properties`, for the member that is embedded
//! in it, and in the file of a coordinator.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::config::definition::{ConfigValue, Kind, Valid, config_table};
use crate::config::four_letter_words::Whitelist;
use crate::config::given::Given;
use crate::config::server::{ClientAddress, SERVER_ID_MAX, ServerAddress};

config_table! {
    /// How a member of the coordination service is configured.
    pub struct CoordinationConfig {
        /// The four-letter words that ZooKeeper's administrators may send to `clientPort`, separated by commas; * is all of them.
        four_letter_words: Whitelist = "4lw.commands.whitelist", "srvr", Valid::Any, [];
        /// The digest of the credentials with which a ZooKeeper client may do everything, as user:hash. Without it there is no such user.
        super_digest: Option<String> = "DigestAuthenticationProvider.superDigest", "", Valid::Any, [];
        /// The path below which the administrators' commands are answered over HTTP.
        admin_command_url: String = "admin.commandURL", "/commands", Valid::Any, [];
        /// Whether administrators' commands are answered over HTTP. There is no encryption and no password.
        admin_enable_server: bool = "admin.enableServer", "false", Valid::Any, [];
        /// The address of `admin.serverPort`, a name or an IP address. ZooKeeper's default is every interface.
        admin_server_address: String = "admin.serverAddress", "127.0.0.1", Valid::Any, [];
        /// The port on which administrators' commands are answered over HTTP; 0 takes any free port.
        admin_server_port: i32 = "admin.serverPort", "8080", Valid::Between(0, 65_535), [];
        /// Snapshots that are kept, the newest included.
        snapshots_kept_count: i32 = "autopurge.snapRetainCount", "3", Valid::AtLeast(1), [];
        /// The port on which ZooKeeper clients are served. A broker without it keeps its coordination service to itself; 0 takes any free port.
        client_port: Option<i32> = "clientPort", "", Valid::Between(0, 65_535), [];
        /// The address of `clientPort`, a name or an IP address. Without it: every interface, as ZooKeeper.
        client_port_address: Option<String> = "clientPortAddress", "", Valid::Any, [];
        /// The file that holds the secret by which the members of an ensemble know each other: the same at least 16 bytes on all of them, readable by its owner alone. Without it: the file `secret` in the coordination directory.
        secret_file: Option<PathBuf> = "coordination.secret.file", "", Valid::Any, [];
        /// The directory of a coordinator: its log, its snapshots and its `myid`. A broker's is below the first of its `log.dirs`.
        data_dir: Option<PathBuf> = "dataDir", "", Valid::Any, [];
        /// The directory of a coordinator's log and snapshots, if they are to be on another disk than `dataDir`.
        data_log_dir: Option<PathBuf> = "dataLogDir", "", Valid::Any, [];
        /// Whether ZooKeeper clients may create znodes with a time to live. ZooKeeper's default is false, because it takes a part of its servers' numbers for them; here it takes nothing.
        extended_types_enabled: bool = "extendedTypesEnabled", "true", Valid::Any, [];
        /// Largest frame in bytes that is accepted from a ZooKeeper client. Clients have a limit of the same name.
        jute_max_buffer: i32 = "jute.maxbuffer", "1048575", Valid::Between(1, 8_388_608), [];
        /// Most connections of ZooKeeper clients at a time from one address; 0 is no limit.
        max_client_connections: i32 = "maxClientCnxns", "60", Valid::AtLeast(0), [];
        /// Most connections of ZooKeeper clients at a time; 0 is no limit.
        max_client_connections_of_all: i32 = "maxCnxns", "0", Valid::AtLeast(0), [];
        /// Longest session time-out in ms that a ZooKeeper client gets; -1 is 20 times `tickTime`.
        max_client_session_timeout_ms: i32 = "maxSessionTimeout", "-1", Valid::OrBetween(-1, 1, 2_147_483_647), [];
        /// Shortest session time-out in ms that a ZooKeeper client gets; -1 is twice `tickTime`.
        min_client_session_timeout_ms: i32 = "minSessionTimeout", "-1", Valid::OrBetween(-1, 1, 2_147_483_647), [];
        /// Whether the members of an ensemble listen for each other on every interface, not on the address of their own `server.N` alone.
        quorum_listen_on_all_ips: bool = "quorumListenOnAllIPs", "false", Valid::Any, [];
        /// Whether clients may change the membership by ZooKeeper's `reconfig`, as far as the ACL of `/zookeeper/config` lets them.
        reconfig_enabled: bool = "reconfigEnabled", "false", Valid::Any, [];
        /// The N of the `server.N` that is this member. Without it: the file `myid`, or the only server that has an address of this machine.
        server_id: Option<i32> = "server.id", "", Valid::Between(1, 255), [];
        /// Transactions after which a snapshot is taken.
        snap_count: i32 = "snapCount", "100000", Valid::AtLeast(2), [];
        /// ZooKeeper's unit of time in ms: silent sessions are found within one after their time-out.
        tick_time_ms: i32 = "tickTime", "3000", Valid::Between(1, 100_000_000), [];
        /// Time in ms between two looks for containers that lost their last child and znodes whose time to live is over.
        container_check_interval_ms: i64 = "znode.container.checkIntervalMs", "60000", Valid::AtLeast(1), [];
        /// Time in ms after which a container that never had a child is deleted; 0 is never.
        container_never_used_ms: i64 = "znode.container.maxNeverUsedIntervalMs", "0", Valid::AtLeast(0), [];
    }
    and {
        /// The members of the ensemble, by their `N`; none for a member that is alone.
        pub servers: BTreeMap<u32, ServerAddress>,
    }
}

impl ConfigValue for PathBuf {
    const KIND: Kind = Kind::String;
    fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() { Err("a path".to_owned()) } else { Ok(Self::from(text.trim())) }
    }
    fn print(&self) -> Option<String> {
        Some(self.display().to_string())
    }
}

impl CoordinationConfig {
    /// Takes a key with its value, if it is one of coordination's.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub(super) fn take(&mut self, key: &str, text: &str) -> Option<Result<(), String>> {
        if Self::table().iter().any(|definition| definition.name == key) {
            return Some(self.set(key, text).map_err(|expected| format!("expected {expected}")));
        }
        let number = key.strip_prefix("server.")?;
        let id = number.parse::<u32>().ok().filter(|id| (1..=SERVER_ID_MAX).contains(id));
        Some(match (id, text.parse::<ServerAddress>()) {
            (None, _) => Err(format!("'{number}' is no server's number; expected server.1 to server.{SERVER_ID_MAX}, or server.id for this member's own")),
            (_, Err(what)) => Err(what),
            (Some(id), Ok(server)) => {
                self.servers.insert(id, server);
                Ok(())
            }
        })
    }

    /// `minSessionTimeout` and `maxSessionTimeout` in ms, with the defaults that follow from `tickTime`.
    pub fn client_session_timeouts_ms(&self) -> (i32, i32) {
        let or = |given: i32, ticks: i32| if given == -1 { self.tick_time_ms.saturating_mul(ticks) } else { given };
        (or(self.min_client_session_timeout_ms, 2), or(self.max_client_session_timeout_ms, 20))
    }

    /// Where the clients of server `own` are served: its own line says so, or `clientPort`; nowhere if neither does.
    pub fn client_address(&self, own: Option<u32>) -> Option<ClientAddress> {
        if let Some(client) = own.and_then(|own| self.servers.get(&own)?.client.clone()) {
            return Some(client);
        }
        let port = self.client_port.and_then(|port| u16::try_from(port).ok())?;
        Some(ClientAddress { host: self.client_port_address.clone().unwrap_or_default(), port })
    }

    /// What is wrong with the values together, each with the key that it is told of, if that was given.
    pub(super) fn contradictions(&self, given: &BTreeMap<String, Given>) -> Vec<(Option<String>, String)> {
        let mut found = Vec::new();
        let first = |keys: &[&str]| keys.iter().find(|key| given.contains_key(**key)).map(|key| (*key).to_owned());
        let (least_ms, most_ms) = self.client_session_timeouts_ms();
        if least_ms > most_ms {
            found.push((
                first(&["minSessionTimeout", "maxSessionTimeout"]),
                format!("expected minSessionTimeout ({least_ms}) to be at most maxSessionTimeout ({most_ms}); without them they are 2 and 20 times tickTime"),
            ));
        }
        let mut seen = BTreeMap::new();
        for (id, server) in &self.servers {
            if let Some(other) = seen.insert(server.peer.to_string(), id) {
                found.push((
                    Some(format!("server.{id}")),
                    format!("server.{other} has the same address of the peers; give each server its own host, or another port"),
                ));
            }
            if let (Some(client), Some(port)) = (&server.client, self.client_port)
                && i32::from(client.port) != port
                && (self.server_id == i32::try_from(*id).ok() || self.servers.len() == 1)
            {
                found.push((Some(format!("server.{id}")), format!("clientPort={port} says otherwise than ';{}'; give one of them", client.port)));
            }
        }
        if let (Some(own), false) = (self.server_id, self.servers.is_empty())
            && !self.servers.contains_key(&u32::try_from(own).unwrap_or(0))
        {
            found.push((first(&["server.id"]), format!("there is no server.{own}; this member must be one of the servers")));
        }
        if self.servers.is_empty()
            && let Some(key) = first(&["server.id", "quorumListenOnAllIPs"])
        {
            found.push((Some(key), "it concerns the members of an ensemble, and there is no server.N; add them, or remove the key".to_owned()));
        }
        if !self.admin_command_url.starts_with('/') {
            found.push((first(&["admin.commandURL"]), "expected a path that begins with /".to_owned()));
        }
        found
    }
}
