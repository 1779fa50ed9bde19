//! The four-letter words: what an administrator asks a member with `nc`, in place of a connection's first frame.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::Inner;
use super::report::{Report, version};
use super::stats::ConnectionStats;
use crate::config::four_letter_words::Word;
use crate::coordination::tree::Tree;
use crate::runtime::Runtime;

/// What the member says to a word.
pub(super) async fn run<R: Runtime>(inner: &Inner<R>, word: Word) -> String {
    if !inner.config.words.allows(word) {
        return format!("{} is not executed because it is not in the whitelist.\n", word.text());
    }
    let mut out = String::new();
    let report = Report::new(inner).await;
    // Writing to a string does not fail.
    let _ = match word {
        Word::Ruok => write!(out, "imok"),
        Word::Isro => write!(out, "{}", if inner.coordination.is_serving() { "rw" } else { "null" }),
        Word::Srvr | Word::Stat => stat(inner, &report, word == Word::Stat, &mut out),
        Word::Mntr => report.monitor().iter().try_for_each(|(name, value)| match value.as_str() {
            Some(text) => writeln!(out, "zk_{name}\t{text}"),
            None => writeln!(out, "zk_{name}\t{value}"),
        }),
        Word::Conf => conf(&report, &mut out),
        Word::Dirs => {
            let (snapshots, logs) = report.directory_bytes().await;
            write!(out, "datadir_size: {snapshots}\nlogdir_size: {logs}\n")
        }
        // There is no mask of what is traced here: OTTLA_LOG says what is logged.
        Word::Gtmk | Word::Stmk => write!(out, "0"),
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

fn stat<R: Runtime>(inner: &Inner<R>, report: &Report<'_, R>, with_clients: bool, out: &mut String) -> std::fmt::Result {
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
    writeln!(out, "Mode: {}", report.mode())?;
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

fn conf<R: Runtime>(report: &Report<'_, R>, out: &mut String) -> std::fmt::Result {
    report.configuration().iter().try_for_each(|(name, value)| match value.as_str() {
        Some(text) => writeln!(out, "{name}={text}"),
        None => writeln!(out, "{name}={value}"),
    })?;
    let membership = report.membership();
    if !membership.is_empty() {
        writeln!(out, "membership: ")?;
        membership.iter().try_for_each(|line| writeln!(out, "{line}"))?;
    }
    Ok(())
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
