//! What administrators ask of a member, as values: the four-letter words print them, HTTP gives them as JSON. The names are those of ZooKeeper 3.8.

use serde_json::{Value, json};

use super::{Inner, ZOOKEEPER_VERSION};
use crate::coordination::ensemble::Status;
use crate::coordination::storage::format::{log_index, snapshot_index};
use crate::runtime::{Disk, File, Open, Runtime};

/// The version that is told: ZooKeeper's, for clients that look for it, and this one's.
pub(super) fn version() -> String {
    format!("{ZOOKEEPER_VERSION}-ottla-{}", env!("CARGO_PKG_VERSION"))
}

/// A member at a moment.
pub(super) struct Report<'a, R: Runtime> {
    inner: &'a Inner<R>,
    /// `None` once the service has ended.
    status: Option<Status>,
}

impl<'a, R: Runtime> Report<'a, R> {
    pub(super) async fn new(inner: &'a Inner<R>) -> Self {
        Self { inner, status: inner.coordination.status().await }
    }

    fn is_ensemble(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.conf_state.voters.len() + status.conf_state.learners.len() > 1)
    }

    /// What the member is to its ensemble, in ZooKeeper's words.
    pub(super) fn mode(&self) -> &'static str {
        match &self.status {
            Some(status) if self.is_ensemble() => {
                if status.leadership.is_leader {
                    "leader"
                } else {
                    "follower"
                }
            }
            _ => "standalone",
        }
    }

    /// What `mntr` tells, without its prefix.
    pub(super) fn monitor(&self) -> Vec<(&'static str, Value)> {
        let inner = self.inner;
        let counts = *inner.stats.lock();
        let (nodes, bytes, ephemerals, sessions, last_zxid) =
            inner.coordination.read(|tree| (tree.node_count(), tree.data_bytes(), tree.ephemeral_count(), tree.client_sessions().count(), tree.last_zxid()));
        let watches = inner.coordination.shared.hub.lock().watches.summary().watch_count;
        let mut values = vec![
            ("version", json!(format!("{}, built on 1970-01-01 00:00 UTC", version()))),
            ("server_state", json!(self.mode())),
            ("avg_latency", json!((counts.latency_mean_ms() * 10_000.0).round() / 10_000.0)),
            ("max_latency", json!(counts.latency_max_ms)),
            ("min_latency", json!(counts.latency_min_ms.unwrap_or(0))),
            ("packets_received", json!(counts.received)),
            ("packets_sent", json!(counts.sent)),
            ("num_alive_connections", json!(inner.connections().len())),
            ("outstanding_requests", json!(counts.outstanding)),
            ("uptime", json!(inner.clock_ms().saturating_sub(inner.since_ms))),
            ("znode_count", json!(nodes)),
            ("watch_count", json!(watches)),
            ("ephemerals_count", json!(ephemerals)),
            ("approximate_data_size", json!(bytes)),
            ("global_sessions", json!(sessions)),
            ("last_processed_zxid", json!(last_zxid)),
        ];
        if let Some(status) = self.status.as_ref().filter(|_| self.is_ensemble()) {
            let state = if status.leadership.is_leader { "leading - broadcast" } else { "following - broadcast" };
            values.extend([
                ("peer_state", json!(state)),
                ("quorum_size", json!(status.conf_state.voters.len())),
                ("current_term", json!(status.leadership.term)),
                ("committed_index", json!(status.committed)),
                ("applied_index", json!(status.applied)),
            ]);
            if status.leadership.is_leader {
                let active = |ids: &[u64]| ids.iter().filter(|id| status.progress.get(id).is_some_and(|progress| progress.is_active)).count();
                let (followers, learning) = (active(&status.conf_state.voters), active(&status.conf_state.learners));
                let synced = status.progress.values().filter(|progress| progress.is_active && progress.matched >= status.committed).count();
                values.extend([
                    ("learners", json!(followers + learning)),
                    ("followers", json!(followers)),
                    ("synced_followers", json!(synced.min(followers))),
                    ("synced_non_voting_followers", json!(learning)),
                    ("synced_observers", json!(0)),
                    ("pending_syncs", json!(0)),
                ]);
            }
        }
        values
    }

    /// What `conf` tells of this member.
    pub(super) fn configuration(&self) -> Vec<(&'static str, Value)> {
        let config = &self.inner.config;
        let mut values = vec![
            ("clientPort", json!(self.inner.bound.first().map_or(0, std::net::SocketAddr::port))),
            ("secureClientPort", json!(-1)),
            ("dataDir", json!(config.data_dir)),
            ("dataLogDir", json!(config.data_dir)),
            ("tickTime", json!(config.tick_ms)),
            ("maxClientCnxns", json!(config.max_connections_per_address)),
            ("minSessionTimeout", json!(config.min_session_timeout_ms)),
            ("maxSessionTimeout", json!(config.max_session_timeout_ms)),
            ("serverId", json!(self.status.as_ref().map_or(0, |status| status.server_id))),
        ];
        let own = self.status.as_ref().filter(|_| self.is_ensemble()).and_then(|status| status.members.get(&status.raft_id));
        if let Some(port) = own.and_then(|own| own.address.rsplit(':').next()?.parse::<u16>().ok()) {
            // Elections go over the peers' port, too.
            values.extend([("electionPort", json!(port)), ("quorumPort", json!(port)), ("peerType", json!(0))]);
        }
        values
    }

    /// The servers of the ensemble, as `/zookeeper/config` has them; none of a member that is alone.
    pub(super) fn membership(&self) -> Vec<String> {
        let Some(status) = self.status.as_ref().filter(|_| self.is_ensemble()) else { return Vec::new() };
        let config = self.inner.coordination.read(|tree| tree.get("/zookeeper/config"));
        if let Some(view) = config.filter(|view| !view.data.is_empty()) {
            return String::from_utf8_lossy(&view.data).lines().map(str::to_owned).collect();
        }
        let known = status.members.values().filter(|record| record.server_id != 0 && !record.address.is_empty());
        let mut lines: Vec<(u32, String)> = known
            .map(|record| {
                let port = record.address.rsplit(':').next().unwrap_or_default();
                (record.server_id, format!("server.{}={}:{port}:participant", record.server_id, record.address))
            })
            .collect();
        lines.sort_unstable();
        lines.into_iter().map(|(_, line)| line).collect()
    }

    /// The leader's number and address.
    #[cfg(feature = "http")]
    pub(super) fn leader(&self) -> Option<(bool, u32, String)> {
        let status = self.status.as_ref().filter(|_| self.is_ensemble())?;
        let leader = status.members.get(&status.leadership.leader).cloned().unwrap_or_default();
        Some((status.leadership.is_leader, leader.server_id, leader.address))
    }

    /// The bytes of the snapshots, and of the log; what cannot be looked at counts as none.
    pub(super) async fn directory_bytes(&self) -> (u64, u64) {
        let (disk, dir) = (self.inner.rt().disk(), std::path::Path::new(&self.inner.config.data_dir));
        let (mut snapshots, mut logs) = (0, 0);
        for entry in disk.list(dir).await.unwrap_or_default() {
            let sum = match entry.name.as_str() {
                name if snapshot_index(name).is_some() => &mut snapshots,
                name if log_index(name).is_some() => &mut logs,
                _ => continue,
            };
            if let Ok(file) = disk.open(&dir.join(&entry.name), Open::Read).await {
                *sum += file.len().await.unwrap_or(0);
            }
        }
        (snapshots, logs)
    }
}
