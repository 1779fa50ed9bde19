//! One client for any ensemble that speaks ZooKeeper's protocol: loads it, and says how many operations were answered and how fast.
//! `ci/bench/ensembles.py` runs it against Ottla's coordinators and Apache ZooKeeper in turn.
//!
//! ```text
//! cargo bench --bench coordination -- --servers H:P,H:P,H:P --load set|create|get|mixed [--sessions 24] [--pipeline 1]
//!     [--value-bytes 1024] [--seconds 10] [--warm-up 2]
//! … --load paced --rate 1000       operations at a fixed rate in all; latency counts from when each was due
//! … --load gap --seconds 10        one write at a time per session, over other members when one is lost: the longest time without an answer
//! … --load first                   tries until a write is answered, then says when that was (ns since 1970)
//! ```
//!
//! Sessions are spread over the servers in turn. It prints one line of JSON. It is no judge of correctness: the simulator is.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    missing_docs,
    reason = "a load generator outside of the boundary: it speaks to other processes by real sockets and real time"
)]

use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Buf, Bytes, BytesMut};
use ottla::coordination::acl::Acl;
use ottla::coordination::jute::Writer;
use ottla::coordination::protocol::{ConnectRequest, ConnectResponse, opcode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const SESSION_TIMEOUT_MS: i32 = 6_000;
/// ZooKeeper's code of a znode that is there already.
const NODE_EXISTS: i32 = -110;

#[derive(Clone, Debug)]
struct Options {
    servers: Vec<String>,
    load: String,
    sessions: usize,
    pipeline: usize,
    value_bytes: usize,
    seconds: f64,
    warm_up: f64,
    rate: f64,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let mut options =
            Self { servers: Vec::new(), load: "set".to_owned(), sessions: 24, pipeline: 1, value_bytes: 1024, seconds: 10.0, warm_up: 2.0, rate: 1000.0 };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            if name == "--bench" {
                continue; // Cargo's own.
            }
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            let number = || value.parse::<f64>().map_err(|_| format!("{name} {value}: a number is expected"));
            match name.as_str() {
                "--servers" => options.servers = value.split(',').map(str::to_owned).collect(),
                "--load" => options.load = value,
                "--sessions" => options.sessions = number()? as usize,
                "--pipeline" => options.pipeline = number()?.max(1.0) as usize,
                "--value-bytes" => options.value_bytes = number()? as usize,
                "--seconds" => options.seconds = number()?,
                "--warm-up" => options.warm_up = number()?,
                "--rate" => options.rate = number()?,
                _ => return Err(format!("no option {name}")),
            }
        }
        if options.servers.is_empty() {
            return Err("--servers H:P,… is needed".to_owned());
        }
        Ok(options)
    }
}

/// A connection with its session.
struct Session {
    stream: TcpStream,
    input: BytesMut,
    established: ConnectResponse,
    last_zxid: i64,
    xid: i32,
}

impl Session {
    async fn open(server: &str, before: Option<(&ConnectResponse, i64)>) -> io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let request = ConnectRequest {
            last_zxid_seen: before.map_or(0, |(_, zxid)| zxid),
            timeout_ms: SESSION_TIMEOUT_MS,
            session: before.map_or(0, |(session, _)| session.session),
            password: Bytes::copy_from_slice(&before.map_or([0; 16], |(session, _)| session.password)),
            read_only: Some(false),
        };
        let mut out = Writer::default();
        request.encode(&mut out);
        let nothing = ConnectResponse::expired(None);
        let mut session = Self { stream, input: BytesMut::new(), established: nothing, last_zxid: request.last_zxid_seen, xid: 0 };
        session.stream.write_all(&out.take()).await?;
        let frame = session.frame().await?;
        session.established = ConnectResponse::decode(&frame).map_err(io::Error::other)?;
        if session.established.session == 0 {
            return Err(io::Error::other("the session has expired"));
        }
        Ok(session)
    }

    /// The frame that is there already, or `None`.
    fn buffered(&mut self) -> Option<BytesMut> {
        let length = usize::try_from(i32::from_be_bytes(self.input.get(..4)?.try_into().ok()?)).ok()?;
        if self.input.len() < 4 + length {
            return None;
        }
        self.input.advance(4);
        Some(self.input.split_to(length))
    }

    async fn frame(&mut self) -> io::Result<BytesMut> {
        loop {
            if let Some(frame) = self.buffered() {
                return Ok(frame);
            }
            self.input.reserve(64 << 10);
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn write(&mut self, out: &mut Writer, opcode: i32, body: impl FnOnce(&mut Writer)) {
        self.xid = self.xid.wrapping_add(1) & i32::MAX;
        let xid = self.xid;
        out.frame(|to| {
            to.int(xid);
            to.int(opcode);
            body(to);
        });
    }

    fn create(&mut self, out: &mut Writer, path: &str, value: &[u8]) {
        self.write(out, opcode::CREATE, |to| {
            to.string(path);
            to.buffer(value);
            to.acl(&[Acl::open()]);
            to.int(0);
        });
    }

    fn set(&mut self, out: &mut Writer, path: &str, value: &[u8]) {
        self.write(out, opcode::SET_DATA, |to| {
            to.string(path);
            to.buffer(value);
            to.int(-1);
        });
    }

    fn get(&mut self, out: &mut Writer, path: &str) {
        self.write(out, opcode::GET_DATA, |to| {
            to.string(path);
            to.bool(false);
        });
    }

    /// The code of an answer.
    fn code(&mut self, frame: &[u8]) -> io::Result<i32> {
        // A reply's header: xid, zxid, error.
        let mut header = frame.get(4..16).ok_or_else(|| io::Error::other("a reply without a header"))?;
        self.last_zxid = self.last_zxid.max(header.get_i64());
        Ok(header.get_i32())
    }

    async fn ensure(&mut self, path: &str, value: &[u8]) -> io::Result<()> {
        let mut out = Writer::default();
        self.create(&mut out, path, value);
        self.stream.write_all(&out.take()).await?;
        let frame = self.frame().await?;
        match self.code(&frame)? {
            0 | NODE_EXISTS => Ok(()),
            code => Err(io::Error::other(format!("creating {path} was answered with {code}"))),
        }
    }
}

#[derive(Default)]
struct Outcome {
    latencies_us: Vec<u32>,
    error_count: u64,
    gap: Duration,
}

/// As many operations as the ensemble answers, `pipeline` of a session under way at a time.
async fn closed(options: Options, index: usize, begin: Instant, end: Instant) -> io::Result<Outcome> {
    let mut session = Session::open(&options.servers[index % options.servers.len()], None).await?;
    let value = vec![b'v'; options.value_bytes];
    let own = format!("/bench/s{index}");
    session.ensure("/bench", b"").await?;
    session.ensure(&own, &value).await?;
    let run = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let mut outcome = Outcome::default();
    let mut under_way = VecDeque::new();
    let mut out = Writer::default();
    let mut count = 0u64;
    loop {
        let now = Instant::now();
        while under_way.len() < options.pipeline && now < end {
            count += 1;
            match options.load.as_str() {
                "create" => session.create(&mut out, &format!("{own}/{run:x}-{count}"), &value),
                "get" => session.get(&mut out, &own),
                // One write in ten operations.
                "mixed" if count % 10 != index as u64 % 10 => session.get(&mut out, &own),
                _ => session.set(&mut out, &own, &value),
            }
            under_way.push_back(now);
        }
        if out.len_bytes() > 0 {
            session.stream.write_all(&out.take()).await?;
        }
        if under_way.is_empty() {
            return Ok(outcome);
        }
        let mut frame = Some(session.frame().await?);
        let now = Instant::now();
        while let Some(answer) = frame {
            let since = under_way.pop_front().ok_or_else(|| io::Error::other("an answer that nobody asked for"))?;
            if session.code(&answer)? != 0 {
                outcome.error_count += 1;
            }
            if since >= begin && now <= end {
                outcome.latencies_us.push(u32::try_from((now - since).as_micros()).unwrap_or(u32::MAX));
            }
            frame = session.buffered();
        }
    }
}

/// Writes at a fixed rate, whatever is under way.
async fn paced(options: Options, index: usize, begin: Instant, end: Instant) -> io::Result<Outcome> {
    let mut session = Session::open(&options.servers[index % options.servers.len()], None).await?;
    let value = vec![b'v'; options.value_bytes];
    let own = format!("/bench/s{index}");
    session.ensure("/bench", b"").await?;
    session.ensure(&own, &value).await?;
    let period = Duration::from_secs_f64(options.sessions as f64 / options.rate);
    let mut due = Instant::now() + period.mul_f64(index as f64 / options.sessions as f64);
    let mut outcome = Outcome::default();
    let mut under_way = VecDeque::new();
    let mut out = Writer::default();
    loop {
        let now = Instant::now();
        while due <= now && due < end {
            session.set(&mut out, &own, &value);
            under_way.push_back(due);
            due += period;
        }
        if out.len_bytes() > 0 {
            session.stream.write_all(&out.take()).await?;
        }
        if under_way.is_empty() && due >= end {
            return Ok(outcome);
        }
        tokio::select! {
            biased;
            frame = session.frame() => {
                let mut frame = Some(frame?);
                let now = Instant::now();
                while let Some(answer) = frame {
                    let since = under_way.pop_front().ok_or_else(|| io::Error::other("an answer that nobody asked for"))?;
                    if session.code(&answer)? != 0 {
                        outcome.error_count += 1;
                    }
                    if since >= begin {
                        outcome.latencies_us.push(u32::try_from((now - since).as_micros()).unwrap_or(u32::MAX));
                    }
                    frame = session.buffered();
                }
            }
            () = tokio::time::sleep_until(due.into()), if due < end => {}
        }
    }
}

/// One write at a time; a session whose connection is lost comes back over the next server. Measures the longest time between two answers.
async fn gap(options: Options, index: usize, end: Instant) -> io::Result<Outcome> {
    let mut server = index % options.servers.len();
    let mut session = Session::open(&options.servers[server], None).await?;
    let value = vec![b'v'; options.value_bytes];
    let own = format!("/bench/s{index}");
    session.ensure("/bench", b"").await?;
    session.ensure(&own, &value).await?;
    let mut outcome = Outcome::default();
    let mut last = Instant::now();
    while Instant::now() < end {
        let mut out = Writer::default();
        session.set(&mut out, &own, &value);
        let answered = async {
            session.stream.write_all(&out.take()).await?;
            let frame = session.frame().await?;
            session.code(&frame)
        };
        let answered = tokio::time::timeout(Duration::from_millis(SESSION_TIMEOUT_MS as u64 * 2 / 3), answered).await;
        if let Ok(Ok(code)) = answered {
            outcome.error_count += u64::from(code != 0);
            let now = Instant::now();
            outcome.gap = outcome.gap.max(now - last);
            outcome.latencies_us.push(u32::try_from((now - last).as_micros()).unwrap_or(u32::MAX));
            last = now;
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        }
        loop {
            server = (server + 1) % options.servers.len();
            let opening = Session::open(&options.servers[server], Some((&session.established, session.last_zxid)));
            match tokio::time::timeout(Duration::from_secs(1), opening).await {
                Ok(Ok(opened)) => {
                    session = opened;
                    break;
                }
                Ok(Err(error)) if error.kind() == io::ErrorKind::Other => return Err(error),
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
            if Instant::now() > end + Duration::from_secs(30) {
                return Err(io::Error::other("no server took the session back"));
            }
        }
    }
    Ok(outcome)
}

/// Tries until a write is answered.
async fn first(options: Options) -> io::Result<()> {
    for turn in 0.. {
        let server = &options.servers[turn % options.servers.len()];
        let tried = async {
            let mut session = Session::open(server, None).await?;
            session.ensure("/first", b"").await
        };
        if let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(2), tried).await {
            break;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    println!("{{\"first_ns\": {}}}", at.as_nanos());
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if options.load == "first" {
            return first(options).await;
        }
        let begin = Instant::now() + Duration::from_secs_f64(options.warm_up);
        let end = begin + Duration::from_secs_f64(options.seconds);
        let tasks: Vec<_> = (0..options.sessions)
            .map(|index| {
                let options = options.clone();
                tokio::spawn(async move {
                    match options.load.as_str() {
                        "paced" => paced(options, index, begin, end).await,
                        "gap" => gap(options, index, end).await,
                        _ => closed(options, index, begin, end).await,
                    }
                })
            })
            .collect();
        let (mut latencies, mut error_count, mut gap, mut lost) = (Vec::new(), 0, Duration::ZERO, Vec::new());
        for task in tasks {
            match task.await.map_err(io::Error::other)? {
                Ok(outcome) => {
                    latencies.extend(outcome.latencies_us);
                    error_count += outcome.error_count;
                    gap = gap.max(outcome.gap);
                }
                Err(error) => lost.push(error.to_string()),
            }
        }
        latencies.sort_unstable();
        let at = |share: f64| latencies.get(((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1))).copied().unwrap_or(0);
        let count = latencies.len();
        println!(
            "{{\"operations\": {count}, \"per_second\": {:.0}, \"p50_us\": {}, \"p99_us\": {}, \"p999_us\": {}, \"max_us\": {}, \"errors\": {error_count}, \"lost\": {}, \"gap_ms\": {:.1}}}",
            count as f64 / options.seconds,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            lost.len(),
            gap.as_secs_f64() * 1e3,
        );
        for why in lost {
            eprintln!("a session was lost: {why}");
        }
        Ok(())
    })?;
    Ok(())
}
