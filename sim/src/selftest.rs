//! The simulator's own scenario: servers that append records to a file and acknowledge them once they are durable, clients that retry.
//! It exercises network, disks, clocks and deaths, is correct under every fault that the nemesis knows, and finds its plant
//! `P00-selftest-ack-before-sync`.
//!
//! A record is 16 bytes: its number, its CRC-32, padding. What a server recovers it writes anew to another file that it syncs and
//! renames: pages that a failed sync has cleaned look fine until the power goes, so what is merely readable proves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use ottla::runtime::{Disk, File, HostPort, Listener, Open, Runtime, Stream, Timer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::nemesis::Nemesis;
use crate::runtime::SimRuntime;
use crate::scenario::{RunOptions, Running, Scenario, Setting};
use crate::verdict::Verdict;
use crate::world::{Host, World};

const SERVER_COUNT: usize = 3;
const CLIENT_COUNT: usize = 3;
const PORT: u16 = 7000;
const RECORD_BYTES: usize = 16;
const DEFAULT_SECONDS: u64 = 90;
/// After healing, what is broken must serve again within this.
const CONVERGE_WITHIN: Duration = Duration::from_secs(240);
/// A seed counts if at least so much happened.
const MIN_OPERATION_COUNT: u64 = 50;

/// See the file's head.
pub struct Selftest;

impl Scenario for Selftest {
    fn name(&self) -> &'static str {
        "selftest"
    }

    fn about(&self) -> &'static str {
        "servers append to a file and acknowledge once it is durable: tests the simulator itself"
    }

    fn plants(&self) -> &'static [&'static str] {
        &["P00-selftest-ack-before-sync"]
    }

    fn victim_count(&self) -> usize {
        SERVER_COUNT
    }

    fn limit(&self, options: &RunOptions) -> Duration {
        Duration::from_secs(options.seconds.unwrap_or(DEFAULT_SECONDS)) + CONVERGE_WITHIN + Duration::from_secs(60)
    }

    fn run(&self, setting: Setting) -> Running<'_> {
        Box::pin(run(setting))
    }
}

/// What clients know: which numbers each server acknowledged.
#[derive(Default)]
struct History {
    acknowledged: Mutex<BTreeMap<usize, BTreeSet<u64>>>,
}

impl History {
    fn count(&self, server: usize) -> usize {
        self.acknowledged.lock().expect("no holder panics").get(&server).map_or(0, BTreeSet::len)
    }
}

async fn run(Setting { world, swarm, options }: Setting) -> Verdict {
    let history = Arc::new(History::default());
    let servers: Vec<Host> = (0..SERVER_COUNT).map(|index| world.host(&format!("server-{index}"))).collect();
    let clients: Vec<Host> = (0..CLIENT_COUNT).map(|index| world.host(&format!("client-{index}"))).collect();
    for server in &servers {
        server.start(serve);
    }
    for (index, client) in clients.iter().enumerate() {
        let (history, world) = (history.clone(), world.clone());
        client.start(move |rt| work(rt, index as u64, history.clone(), world.clone()));
    }

    let mut nemesis = Nemesis::new(&world, &swarm, &servers, &clients);
    nemesis.run(Duration::from_secs(options.seconds.unwrap_or(DEFAULT_SECONDS))).await;

    world.heal_all();
    nemesis.restart_dead(&servers);
    let before: Vec<usize> = (0..SERVER_COUNT).map(|server| history.count(server)).collect();
    let deadline = world.now() + CONVERGE_WITHIN;
    while let Some(server) = (0..SERVER_COUNT).find(|server| history.count(*server) < before[*server] + 3) {
        if world.now() > deadline {
            let alive = servers[server].is_alive();
            return Verdict::Liveness { reason: format!("server-{server} (alive: {alive}) acknowledges nothing new {CONVERGE_WITHIN:?} after healing") };
        }
        nemesis.restart_dead(&servers);
        world.sleep(Duration::from_millis(500)).await;
    }
    for server in &servers {
        let (tasks, connections) = (server.live_tasks().get("connection").copied().unwrap_or(0), server.connection_count() as u64);
        if tasks > connections {
            return Verdict::Correctness { invariant: "no-task-leaks".into(), detail: format!("{server:?}: {tasks} tasks serve {connections} connections") };
        }
    }

    for client in &clients {
        client.crash(crate::state::CrashKind::Kill);
    }
    for (index, server) in servers.iter().enumerate() {
        server.crash(crate::state::CrashKind::PowerCut);
        let content = server.read_file("/data/log").unwrap_or_default();
        let (records, _) = valid_prefix(&content);
        let stored: BTreeSet<u64> = records.into_iter().collect();
        let acknowledged = history.acknowledged.lock().expect("no holder panics").remove(&index).unwrap_or_default();
        let lost: Vec<u64> = acknowledged.difference(&stored).copied().take(10).collect();
        if !lost.is_empty() {
            return Verdict::Correctness { invariant: "acknowledged-is-durable".into(), detail: format!("{server:?} lost {lost:?} and perhaps more") };
        }
    }
    let (operation_count, fault_count) = world.counts();
    if operation_count < MIN_OPERATION_COUNT || fault_count == 0 {
        return Verdict::NotCounted { reason: format!("{operation_count} operations and {fault_count} faults") };
    }
    Verdict::Clean
}

fn record(number: u64) -> [u8; RECORD_BYTES] {
    let mut out = [0xA5; RECORD_BYTES];
    out[..8].copy_from_slice(&number.to_be_bytes());
    let sum = crc32fast::hash(&out[..8]);
    out[8..12].copy_from_slice(&sum.to_be_bytes());
    out
}

/// The records up to the first that is torn, and their length.
fn valid_prefix(content: &[u8]) -> (Vec<u64>, usize) {
    let mut records = Vec::new();
    for chunk in content.chunks_exact(RECORD_BYTES) {
        let number = u64::from_be_bytes(chunk[..8].try_into().expect("eight bytes"));
        if record(number) != chunk {
            break;
        }
        records.push(number);
    }
    let len = records.len() * RECORD_BYTES;
    (records, len)
}

async fn serve(rt: SimRuntime) {
    if let Err(error) = try_serve(&rt).await {
        rt.halt(&format!("server: {error}")).await;
    }
}

async fn try_serve(rt: &SimRuntime) -> io::Result<()> {
    let disk = rt.disk();
    let (dir, path, fresh) = (Path::new("/data"), Path::new("/data/log"), Path::new("/data/log.new"));
    disk.create_dir(dir).await?;
    disk.sync_dir(Path::new("/")).await?;
    let old = disk.open(path, Open::Create).await?;
    let content = old.read_at(0, old.len().await? as usize).await?;
    let (records, len) = valid_prefix(&content);
    rt.event("recovered", &[records.len() as u64, content.len() as u64]);
    let file = disk.open(fresh, Open::Create).await?;
    file.set_len(0).await?;
    file.write_at(0, [content.slice(..len)].into_iter().collect()).await?;
    file.sync_data().await?;
    disk.rename(fresh, path).await?;
    disk.sync_dir(dir).await?;

    let log = Arc::new(tokio::sync::Mutex::new((file, len as u64)));
    let listener = rt.listen(SocketAddr::from(([0, 0, 0, 0], PORT))).await?;
    loop {
        // An error concerns that connection only.
        let Ok(stream) = listener.accept().await else { continue };
        let (this, log) = (rt.clone(), log.clone());
        rt.spawn("connection", async move {
            let (mut read, mut write) = stream.into_split();
            let mut number = [0; 8];
            while read.read_exact(&mut number).await.is_ok() {
                if let Err(error) = append(&this, &log, u64::from_be_bytes(number)).await {
                    this.halt(&format!("append: {error}")).await;
                }
                if write.write_all(&number).await.is_err() {
                    return;
                }
            }
        });
    }
}

/// The file and where its next record goes.
type Log = Arc<tokio::sync::Mutex<(<<SimRuntime as Runtime>::Disk as Disk>::File, u64)>>;

async fn append(rt: &SimRuntime, log: &Log, number: u64) -> io::Result<()> {
    let mut log = log.lock().await;
    let at = log.1;
    log.0.write_at(at, [Bytes::copy_from_slice(&record(number))].into_iter().collect()).await?;
    log.1 += RECORD_BYTES as u64;
    if ottla::plant!(rt, "P00-selftest-ack-before-sync") {
        return Ok(());
    }
    if rt.buggify("selftest: slow append") {
        rt.sleep(Duration::from_millis(300)).await;
    }
    log.0.sync_data().await
}

/// Sends numbers of its own to servers drawn from its host's entropy, each until it is acknowledged or it has lost patience.
async fn work(rt: SimRuntime, index: u64, history: Arc<History>, world: World) {
    let mut connections: BTreeMap<usize, <SimRuntime as Runtime>::Stream> = BTreeMap::new();
    for ordinal in 0u64.. {
        let server = (rt.random_u64() % SERVER_COUNT as u64) as usize;
        let number = index << 48 | ordinal;
        let connection = connections.remove(&server);
        let mut timer = rt.sleep(Duration::from_secs(3));
        let attempt = send(&rt, connection, server, number);
        let outcome = tokio::select! {
            biased;
            outcome = attempt => outcome.ok(),
            () = &mut timer => None,
        };
        if let Some(connection) = outcome {
            if rt.is_alive() {
                history.acknowledged.lock().expect("no holder panics").entry(server).or_default().insert(number);
                world.count_operation();
            }
            connections.insert(server, connection);
        }
        timer.reset(rt.now() + Duration::from_micros(1_000 + rt.random_u64() % 60_000));
        timer.await;
    }
}

type Connection = <SimRuntime as Runtime>::Stream;

async fn send(rt: &SimRuntime, connection: Option<Connection>, server: usize, number: u64) -> io::Result<Connection> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => rt.connect(&HostPort { host: format!("server-{server}"), port: PORT }).await?,
    };
    let (read, write) = connection.halves();
    write.write_all(&number.to_be_bytes()).await?;
    let mut answer = [0; 8];
    read.read_exact(&mut answer).await?;
    if u64::from_be_bytes(answer) != number {
        return Err(io::Error::other("an answer to another question"));
    }
    Ok(connection)
}
