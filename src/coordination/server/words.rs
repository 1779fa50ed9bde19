//! The four-letter words: what an administrator asks a member with `nc`, in place of a connection's first frame.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::stats::ConnectionStats;
use super::{Inner, ZOOKEEPER_VERSION};
use crate::config::four_letter_words::Word;
use crate::coordination::tree::Tree;
use crate::runtime::Runtime;

/// What the member says to a word.
pub(super) fn run<R: Runtime>(inner: &Inner<R>, word: Word) -> String {
    if !inner.config.words.allows(word) {
        return format!("{} is not executed because it is not in the whitelist.\n", word.text());
    }
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = match word {
        Word::Ruok => write!(out, "imok"),
        Word::Isro => write!(out, "rw"),
        Word::Srvr | Word::Stat => stat(inner, word == Word::Stat, &mut out),
        Word::Mntr => mntr(inner, &mut out),
        Word::Conf => conf(inner, &mut out),
        Word::Cons => inner.connections().iter().try_for_each(|connection| writeln!(out, "{}", line(connection, false))).and_then(|()| writeln!(out)),
        Word::Envi => envi(&mut out),
        Word::Dump => dump(inner, &mut out),
        Word::Wchs => wchs(inner, &mut out),
        Word::Wchc => wchc(inner, &mut out),
        Word::Wchp => wchp(inner, &mut out),
        Word::Srst => {
            inner.stats.lock().reset();
            writeln!(out, "Server stats reset.")
        }
        Word::Crst => {
            inner.connections().iter().for_each(|connection| connection.lock().counts.reset());
            writeln!(out, "Connection stats reset.")
        }
    };
    out
}

fn version() -> String {
    format!("{ZOOKEEPER_VERSION}-ottla-{}", env!("CARGO_PKG_VERSION"))
}

fn stat<R: Runtime>(inner: &Inner<R>, with_clients: bool, out: &mut String) -> std::fmt::Result {
    writeln!(out, "Zookeeper version: {}, built on 1970-01-01 00:00 UTC", version())?;
    if with_clients {
        writeln!(out, "Clients:")?;
        for connection in inner.connections() {
            writeln!(out, "{}", line(&connection, true))?;
        }
        writeln!(out)?;
    }
    let counts = *inner.stats.lock();
    writeln!(out, "Latency min/avg/max: {}/{:.4}/{}", counts.latency_min_ms.unwrap_or(0), counts.latency_mean_ms(), counts.latency_max_ms)?;
    writeln!(out, "Received: {}", counts.received)?;
    writeln!(out, "Sent: {}", counts.sent)?;
    writeln!(out, "Connections: {}", inner.connections().len())?;
    writeln!(out, "Outstanding: {}", counts.outstanding)?;
    writeln!(out, "Zxid: {:#x}", inner.coordination.last_zxid())?;
    writeln!(out, "Mode: standalone")?;
    writeln!(out, "Node count: {}", inner.coordination.read(Tree::node_count))
}

/// A connection as `stat` (brief) and `cons` show it. The number in brackets is that of a selector in ZooKeeper, where 1 is 'reads'.
fn line(connection: &ConnectionStats, is_brief: bool) -> String {
    let known = *connection.lock();
    let counts = known.counts;
    let mut line = format!(" /{}[1](queued={},recved={},sent={}", connection.peer, counts.outstanding, counts.received, counts.sent);
    if !is_brief && known.session != 0 {
        let operation = known.last_opcode.map_or_else(|| "NA".to_owned(), |opcode| opcode.to_string());
        let _ = write!(line, ",sid={:#x},lop={operation},est={},to={}", known.session, connection.established_ms, known.timeout_ms);
        let _ = write!(line, ",lcxid={:#x},lzxid={:#x},lresp={},llat={}", known.last_xid, known.last_zxid, known.last_answer_ms, known.last_latency_ms);
        let (min, mean, max) = (counts.latency_min_ms.unwrap_or(0), counts.latency_mean_ms(), counts.latency_max_ms);
        let _ = write!(line, ",minlat={min},avglat={mean:.0},maxlat={max}");
    }
    line.push(')');
    line
}

fn mntr<R: Runtime>(inner: &Inner<R>, out: &mut String) -> std::fmt::Result {
    let counts = *inner.stats.lock();
    let (nodes, bytes, ephemerals, sessions, last_zxid) =
        inner.coordination.read(|tree| (tree.node_count(), tree.data_bytes(), tree.ephemeral_count(), tree.client_sessions().count(), tree.last_zxid()));
    let watches = inner.coordination.shared.hub.lock().watches.summary().watch_count;
    writeln!(out, "zk_version\t{}, built on 1970-01-01 00:00 UTC", version())?;
    writeln!(out, "zk_server_state\tstandalone")?;
    writeln!(out, "zk_avg_latency\t{:.4}", counts.latency_mean_ms())?;
    let numbers: [(&str, u64); 12] = [
        ("max_latency", counts.latency_max_ms),
        ("min_latency", counts.latency_min_ms.unwrap_or(0)),
        ("packets_received", counts.received),
        ("packets_sent", counts.sent),
        ("num_alive_connections", inner.connections().len() as u64),
        ("outstanding_requests", counts.outstanding),
        ("znode_count", nodes),
        ("watch_count", watches as u64),
        ("ephemerals_count", ephemerals),
        ("approximate_data_size", bytes),
        ("global_sessions", sessions as u64),
        ("last_processed_zxid", u64::try_from(last_zxid).unwrap_or(0)),
    ];
    numbers.iter().try_for_each(|(name, number)| writeln!(out, "zk_{name}\t{number}"))
}

fn conf<R: Runtime>(inner: &Inner<R>, out: &mut String) -> std::fmt::Result {
    let config = &inner.config;
    writeln!(out, "clientPort={}", inner.bound.first().map_or(0, std::net::SocketAddr::port))?;
    writeln!(out, "secureClientPort=-1")?;
    writeln!(out, "dataDir={}", config.data_dir)?;
    writeln!(out, "dataLogDir={}", config.data_dir)?;
    writeln!(out, "tickTime={}", config.tick_ms)?;
    writeln!(out, "maxClientCnxns={}", config.max_connections_per_address)?;
    writeln!(out, "minSessionTimeout={}", config.min_session_timeout_ms)?;
    writeln!(out, "maxSessionTimeout={}", config.max_session_timeout_ms)?;
    writeln!(out, "serverId=0")
}

fn envi(out: &mut String) -> std::fmt::Result {
    writeln!(out, "Environment:")?;
    writeln!(out, "zookeeper.version={}, built on 1970-01-01 00:00 UTC", version())?;
    writeln!(out, "ottla.version={}", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "os.name={}", std::env::consts::OS)?;
    writeln!(out, "os.arch={}", std::env::consts::ARCH)
}

fn dump<R: Runtime>(inner: &Inner<R>, out: &mut String) -> std::fmt::Result {
    let (now_ms, wall_ms) = (inner.clock_ms(), inner.rt().unix_ms());
    let deadlines = inner.coordination.shared.hub.lock().sessions.deadlines(now_ms);
    let count: usize = deadlines.iter().map(|(_, sessions)| sessions.len()).sum();
    writeln!(out, "SessionTracker dump:")?;
    writeln!(out, "Session Sets ({})/({count}):", deadlines.len())?;
    for (left_ms, sessions) in deadlines {
        writeln!(out, "{} expire at {} ms since 1970:", sessions.len(), wall_ms.saturating_add_unsigned(left_ms))?;
        sessions.iter().try_for_each(|session| writeln!(out, "\t{session:#x}"))?;
    }
    writeln!(out, "ephemeral nodes dump:")?;
    inner.coordination.read(|tree| {
        let owners: Vec<i64> = tree.sessions().filter(|session| tree.ephemerals(*session).next().is_some()).collect();
        writeln!(out, "Sessions with Ephemerals ({}):", owners.len())?;
        for owner in owners {
            writeln!(out, "{owner:#x}:")?;
            tree.ephemerals(owner).try_for_each(|path| writeln!(out, "\t{path}"))?;
        }
        Ok(())
    })?;
    writeln!(out, "Connections dump:")?;
    for connection in inner.connections() {
        writeln!(out, "{}", line(&connection, false))?;
    }
    Ok(())
}

fn wchs<R: Runtime>(inner: &Inner<R>, out: &mut String) -> std::fmt::Result {
    let state = inner.coordination.shared.hub.lock();
    let (watchers, paths) = (state.watches.by_watcher(), state.watches.by_path());
    drop(state);
    let total: usize = watchers.values().map(BTreeSet::len).sum();
    write!(out, "{} connections watching {} paths\nTotal watches:{total}\n", watchers.len(), paths.len())
}

fn wchc<R: Runtime>(inner: &Inner<R>, out: &mut String) -> std::fmt::Result {
    let hub = &inner.coordination.shared.hub;
    let watchers = hub.lock().watches.by_watcher();
    for (watcher, paths) in watchers {
        for session in hub.sessions_of(&BTreeSet::from([watcher])) {
            writeln!(out, "{session:#x}")?;
        }
        paths.iter().try_for_each(|path| writeln!(out, "\t{path}"))?;
    }
    writeln!(out)
}

fn wchp<R: Runtime>(inner: &Inner<R>, out: &mut String) -> std::fmt::Result {
    let hub = &inner.coordination.shared.hub;
    let paths = hub.lock().watches.by_path();
    for (path, watchers) in paths {
        writeln!(out, "{path}")?;
        hub.sessions_of(&watchers).iter().try_for_each(|session| writeln!(out, "\t{session:#x}"))?;
    }
    writeln!(out)
}
