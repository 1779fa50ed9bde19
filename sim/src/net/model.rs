//! The network: connections as pairs of windowed byte pipes over links with latency, blocks and resets.
//!
//! - A link is a direction between two hosts. It has a base latency of its own for ever, and every segment draws on top of it. TCP keeps
//!   order: a segment never overtakes an earlier one of its pipe. A blocked link is a black hole: segments wait for the block to end (as
//!   retransmissions do), acknowledgements too; a sender that waits too long gives up with `ETIMEDOUT`, and its peer hears nothing of it.
//! - What is written is cut into segments at any byte. The window (what is sent and not yet read) is bounded: writes wait for the reader.
//! - Closing with unread bytes, or sending to what is closed, answers a reset, as Linux does. An error is told once; after it reads say
//!   end of file and writes `EPIPE`.
//! - A killed process's connections are closed by its kernel. After a power cut peers hear nothing until they send and the machine is up
//!   again. There is no keepalive.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Poll, Waker};

use bytes::{Buf, Bytes};

use crate::disk::model::{Errno, errno};
use crate::rng::Stream;
use crate::state::{CrashKind, CrashWhen, Event, ProcessId, State};

const SECOND_NS: u64 = 1_000_000_000;
/// When connection requests are sent again, in seconds after the first, and when the caller gives up: Linux with `tcp_syn_retries=6`.
const SYN_RETRIES_S: [u64; 7] = [0, 1, 3, 7, 15, 31, 63];
const SYN_GIVES_UP_S: u64 = 127;
const EPHEMERAL_PORTS: std::ops::Range<u16> = 32_768..60_999;

/// How the network of a world behaves. Rates are in millionths.
#[derive(Clone, Debug)]
pub struct NetOptions {
    /// The smallest and largest base latency of a link, in microseconds.
    pub base_latency_us: (u32, u32),
    /// The mean of the exponential latency on top, in microseconds.
    pub jitter_mean_us: u32,
    /// Segments that take fifty times as long.
    pub spike_ppm: u32,
    /// Segments at which a connection is reset, within the segment.
    pub reset_ppm: u32,
    /// Writes that are cut into several segments, at any byte.
    pub split_ppm: u32,
    /// Writes that are accepted in part although there is room.
    pub partial_write_ppm: u32,
    /// The smallest and largest window, as powers of two in bytes.
    pub window_log2: (u32, u32),
    /// Accepts that fail with `ECONNABORTED`.
    pub accept_error_ppm: u32,
    /// How many connections wait to be accepted.
    pub backlog_count: usize,
    /// Connection attempts to a running host without a listener that hear nothing instead of a refusal.
    pub silent_refusal_ppm: u32,
}

impl Default for NetOptions {
    /// A calm network within one data centre.
    fn default() -> Self {
        Self {
            base_latency_us: (30, 400),
            jitter_mean_us: 60,
            spike_ppm: 500,
            reset_ppm: 0,
            split_ppm: 200_000,
            partial_write_ppm: 50_000,
            window_log2: (14, 20),
            accept_error_ppm: 0,
            backlog_count: 128,
            silent_refusal_ppm: 0,
        }
    }
}

/// What happens on the network.
#[derive(Debug)]
pub enum NetEvent {
    /// Segments of the pipe from this end of the connection may arrive.
    Pipe(u64, usize),
    /// The sender at this end learns what was read.
    Acknowledged(u64, usize),
    /// The sender at this end has waited long enough.
    GiveUp(u64, usize),
    /// A connection request is sent (again).
    SynSent(u64),
    /// A connection request arrives.
    SynArrived(u64),
    /// The caller learns the outcome: the connection, or an error.
    Answered(u64, Result<u64, Errno>),
    /// The caller's patience ends.
    SynGivesUp(u64),
}

#[derive(Debug)]
enum Segment {
    Data(Bytes),
    Fin,
    Reset,
}

#[derive(Debug, Default)]
struct Pipe {
    flight: VecDeque<(u64, Segment)>,
    received: VecDeque<Bytes>,
    received_bytes: usize,
    /// Sent and not yet known to be read.
    outstanding_bytes: usize,
    /// Read, and the sender does not know.
    unacknowledged_bytes: usize,
    window_bytes: usize,
    fin_sent: bool,
    fin_received: bool,
    last_arrival_ns: u64,
    scheduled: bool,
    acknowledging: bool,
    stalled_since_ns: Option<u64>,
    give_up: Option<(u64, u64)>,
}

#[derive(Debug)]
struct End {
    host: usize,
    /// `None` once closed, reset or dead.
    process: Option<ProcessId>,
    address: SocketAddr,
    read_open: bool,
    write_open: bool,
    /// Told to the next caller.
    error: Option<Errno>,
    failed: bool,
    read_waker: Option<Waker>,
    write_waker: Option<Waker>,
}

#[derive(Debug)]
struct Connection {
    ends: [End; 2],
    /// `pipes[i]` carries what end `i` sends.
    pipes: [Pipe; 2],
}

struct ListenerState {
    process: ProcessId,
    address: SocketAddr,
    backlog: VecDeque<u64>,
    wakers: Vec<Waker>,
}

struct Connecting {
    process: ProcessId,
    to_host: Option<usize>,
    to: SocketAddr,
    attempt: usize,
    waker: Option<Waker>,
    result: Option<Result<u64, Errno>>,
}

#[derive(Default)]
struct Link {
    base_ns: u64,
    extra_ns: u64,
    blocked_since_ns: Option<u64>,
}

/// The network of a world.
pub struct NetState {
    options: NetOptions,
    links: BTreeMap<(usize, usize), Link>,
    connections: BTreeMap<u64, Connection>,
    listeners: BTreeMap<(usize, u16), ListenerState>,
    connecting: BTreeMap<u64, Connecting>,
    seed: u64,
    latency: Stream,
    shape: Stream,
    faults: Stream,
}

impl NetState {
    /// A network without links or connections yet.
    pub fn new(seed: u64, options: NetOptions) -> Self {
        Self {
            options,
            links: BTreeMap::new(),
            connections: BTreeMap::new(),
            listeners: BTreeMap::new(),
            connecting: BTreeMap::new(),
            seed,
            latency: Stream::new(seed, "network latency", 0),
            shape: Stream::new(seed, "network shape", 0),
            faults: Stream::new(seed, "network faults", 0),
        }
    }

    /// How it behaves, to be changed while it runs.
    pub fn options_mut(&mut self) -> &mut NetOptions {
        &mut self.options
    }

    fn link(&mut self, from: usize, to: usize) -> &mut Link {
        let (low, high) = self.options.base_latency_us;
        let seed = self.seed;
        self.links.entry((from, to)).or_insert_with(|| {
            let index = ((from as u64) << 32) | to as u64;
            let base_us = Stream::new(seed, "link", index).between(u64::from(low), u64::from(high));
            Link { base_ns: base_us * 1_000, ..Link::default() }
        })
    }

    /// Since when nothing that was sent from one host comes to the other, in nanoseconds of the world; none if it does.
    pub(crate) fn unheard_since_ns(&mut self, from: usize, to: usize) -> Option<u64> {
        let link = self.link(from, to);
        // What was on its way then may come still.
        link.blocked_since_ns.map(|at_ns| at_ns + link.base_ns + link.extra_ns)
    }

    fn is_blocked(&mut self, from: usize, to: usize) -> bool {
        from != to && self.link(from, to).blocked_since_ns.is_some()
    }

    fn draw_latency_ns(&mut self, from: usize, to: usize) -> u64 {
        let mut over = self.latency.exponential(u64::from(self.options.jitter_mean_us) * 1_000);
        if self.latency.chance(self.options.spike_ppm) {
            over *= 50;
        }
        if from == to {
            return 3_000 + over / 10;
        }
        let link = self.link(from, to);
        link.base_ns + link.extra_ns + over
    }

    /// How many connections have an end in a living process of the host.
    pub fn connection_count(&self, host: usize) -> usize {
        self.connections.values().filter(|connection| connection.ends.iter().any(|end| end.host == host && end.process.is_some())).count()
    }
}

/// What an address says about the host that it means.
pub(crate) fn resolve(state: &State, from_host: usize, name: &str) -> Option<(usize, IpAddr)> {
    if let Ok(ip) = name.parse::<IpAddr>() {
        if ip.is_loopback() || ip.is_unspecified() {
            return Some((from_host, IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        let host = state.hosts.iter().position(|host| IpAddr::V4(host.ip) == ip);
        // An address that no host has is a black hole, not an unknown name.
        return Some((host.unwrap_or(usize::MAX), ip));
    }
    if name == "localhost" {
        return Some((from_host, IpAddr::V4(Ipv4Addr::LOCALHOST)));
    }
    let host = state.host_named(name)?;
    Some((host, IpAddr::V4(state.hosts[host].ip)))
}

// ---- listening and connecting ----

/// Binds and listens.
pub(crate) fn listen(state: &mut State, process: ProcessId, at: SocketAddr) -> Result<SocketAddr, Errno> {
    let host_ip = IpAddr::V4(state.hosts[process.host].ip);
    if !(at.ip().is_unspecified() || at.ip().is_loopback() || at.ip() == host_ip) {
        return Err(errno::EADDRNOTAVAIL);
    }
    let mut port = at.port();
    while port == 0 {
        let span = u64::from(EPHEMERAL_PORTS.end - EPHEMERAL_PORTS.start);
        let drawn = EPHEMERAL_PORTS.start + state.net.shape.below(span) as u16;
        if !state.net.listeners.contains_key(&(process.host, drawn)) {
            port = drawn;
        }
    }
    if state.net.listeners.contains_key(&(process.host, port)) {
        return Err(errno::EADDRINUSE);
    }
    let address = SocketAddr::new(at.ip(), port);
    state.trace(Some(process), "net.listen", &[u64::from(port)], None);
    state.net.listeners.insert((process.host, port), ListenerState { process, address, backlog: VecDeque::new(), wakers: Vec::new() });
    Ok(address)
}

/// A listener is closed: who was not accepted yet is reset.
pub(crate) fn unlisten(state: &mut State, process: ProcessId, port: u16) {
    if state.net.listeners.get(&(process.host, port)).is_some_and(|listener| listener.process == process) {
        let listener = state.net.listeners.remove(&(process.host, port)).expect("just seen");
        state.trace(Some(process), "net.unlisten", &[u64::from(port)], None);
        for connection in listener.backlog {
            reset(state, connection, 1);
        }
    }
}

/// The next connection of a listener.
pub(crate) fn poll_accept(state: &mut State, process: ProcessId, port: u16, waker: &Waker) -> Poll<Result<u64, Errno>> {
    let net = &mut state.net;
    let Some(listener) = net.listeners.get_mut(&(process.host, port)).filter(|listener| listener.process == process) else {
        return Poll::Ready(Err(errno::EBADF));
    };
    let Some(connection) = listener.backlog.pop_front() else {
        if !listener.wakers.iter().any(|old| old.will_wake(waker)) {
            listener.wakers.push(waker.clone());
        }
        return Poll::Pending;
    };
    if net.options.accept_error_ppm > 0 && net.faults.chance(net.options.accept_error_ppm) {
        state.fault_count += 1;
        reset(state, connection, 1);
        return Poll::Ready(Err(errno::ECONNABORTED));
    }
    state.trace(Some(process), "net.accept", &[connection, u64::from(port)], None);
    Poll::Ready(Ok(connection))
}

/// Begins to connect. The number is for [`poll_connect`].
pub(crate) fn connect(state: &mut State, process: ProcessId, to_host: usize, to: SocketAddr, waker: &Waker) -> u64 {
    let id = state.next_id();
    let to_host = (to_host != usize::MAX).then_some(to_host);
    state.net.connecting.insert(id, Connecting { process, to_host, to, attempt: 0, waker: Some(waker.clone()), result: None });
    state.schedule(state.now_ns, Event::Net(NetEvent::SynSent(id)));
    state.schedule(state.now_ns + SYN_GIVES_UP_S * SECOND_NS, Event::Net(NetEvent::SynGivesUp(id)));
    id
}

/// Whether the connection stands.
pub(crate) fn poll_connect(state: &mut State, id: u64, waker: &Waker) -> Poll<Result<u64, Errno>> {
    let connecting = state.net.connecting.get_mut(&id).expect("a connection attempt is known until its end is told");
    if connecting.result.is_none() {
        connecting.waker = Some(waker.clone());
        return Poll::Pending;
    }
    let connecting = state.net.connecting.remove(&id).expect("just seen");
    Poll::Ready(connecting.result.expect("just seen"))
}

/// The future of a connection attempt was dropped.
pub(crate) fn abandon_connect(state: &mut State, id: u64) {
    if let Some(Connecting { result: Some(Ok(connection)), .. }) = state.net.connecting.remove(&id) {
        close_end(state, connection, 0);
    }
}

fn syn_sent(state: &mut State, id: u64) {
    let Some(connecting) = state.net.connecting.get_mut(&id) else { return };
    if connecting.result.is_some() {
        return;
    }
    connecting.attempt += 1;
    let (attempt, from, to) = (connecting.attempt, connecting.process.host, connecting.to_host);
    if attempt < SYN_RETRIES_S.len() {
        let wait_s = SYN_RETRIES_S[attempt] - SYN_RETRIES_S[attempt - 1];
        state.schedule(state.now_ns + wait_s * SECOND_NS, Event::Net(NetEvent::SynSent(id)));
    }
    if let Some(to) = to
        && !state.net.is_blocked(from, to)
    {
        let latency_ns = state.net.draw_latency_ns(from, to);
        state.schedule(state.now_ns + latency_ns, Event::Net(NetEvent::SynArrived(id)));
    }
}

fn syn_arrived(state: &mut State, id: u64) {
    let Some(connecting) = state.net.connecting.get(&id) else { return };
    let (process, Some(to_host), to) = (connecting.process, connecting.to_host, connecting.to) else { return };
    let from = process.host;
    if connecting.result.is_some() || !state.hosts[to_host].powered || state.net.is_blocked(from, to_host) || state.net.is_blocked(to_host, from) {
        return;
    }
    let latency_ns = state.net.draw_latency_ns(to_host, from);
    let backlog_count = state.net.options.backlog_count;
    let local_only = |address: &SocketAddr| address.ip().is_loopback() && from != to_host;
    let listener = state.net.listeners.get_mut(&(to_host, to.port())).filter(|listener| !local_only(&listener.address));
    let Some(listener) = listener else {
        if state.net.faults.chance(state.net.options.silent_refusal_ppm) {
            return;
        }
        state.schedule(state.now_ns + latency_ns, Event::Net(NetEvent::Answered(id, Err(errno::ECONNREFUSED))));
        return;
    };
    if listener.backlog.len() >= backlog_count {
        return;
    }
    let server = listener.process;
    let wakers = std::mem::take(&mut listener.wakers);
    let local_ip = if from == to_host { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V4(state.hosts[from].ip) };
    let span = u64::from(EPHEMERAL_PORTS.end - EPHEMERAL_PORTS.start);
    let local = SocketAddr::new(local_ip, EPHEMERAL_PORTS.start + state.net.shape.below(span) as u16);
    let (low, high) = state.net.options.window_log2;
    let end = |process: ProcessId, address| End {
        host: process.host,
        process: Some(process),
        address,
        read_open: true,
        write_open: true,
        error: None,
        failed: false,
        read_waker: None,
        write_waker: None,
    };
    let mut pipe = || Pipe { window_bytes: 1 << state.net.shape.between(u64::from(low), u64::from(high)), ..Pipe::default() };
    let connection = Connection { pipes: [pipe(), pipe()], ends: [end(process, local), end(server, to)] };
    let number = state.next_id();
    state.net.connections.insert(number, connection);
    state.trace(Some(server), "net.connection", &[number, u64::from(local.port()), u64::from(to.port())], None);
    let listener = state.net.listeners.get_mut(&(to_host, to.port())).expect("just seen");
    listener.backlog.push_back(number);
    wakers.into_iter().for_each(|waker| state.wake(waker));
    // Requests sent again meanwhile are answered by this one.
    state.net.connecting.get_mut(&id).expect("just seen").to_host = None;
    state.schedule(state.now_ns + latency_ns, Event::Net(NetEvent::Answered(id, Ok(number))));
}

fn answered(state: &mut State, id: u64, result: Result<u64, Errno>) {
    match state.net.connecting.get_mut(&id) {
        Some(connecting) if connecting.result.is_none() => {
            let process = connecting.process;
            connecting.result = Some(result);
            if let Some(waker) = connecting.waker.take() {
                state.wake(waker);
            }
            let (number, error) = (result.unwrap_or(0), result.err().unwrap_or(0));
            state.trace(Some(process), "net.connected", &[number, error as u64], None);
        }
        _ => {
            if let Ok(connection) = result {
                close_end(state, connection, 0);
            }
        }
    }
}

/// The addresses of an end: its own and the peer's.
pub(crate) fn addresses(state: &State, connection: u64, end: usize) -> (SocketAddr, SocketAddr) {
    match state.net.connections.get(&connection) {
        Some(found) => (found.ends[end].address, found.ends[1 - end].address),
        // It was reset and forgotten before anyone asked.
        None => (SocketAddr::from(([0, 0, 0, 0], 0)), SocketAddr::from(([0, 0, 0, 0], 0))),
    }
}

// ---- bytes ----

/// What a write came to.
pub(crate) enum Written {
    Count(usize),
    Failed(Errno),
    Wait,
    Crashed,
}

/// Sends what the window takes of `slices`.
pub(crate) fn write(state: &mut State, connection: u64, end: usize, slices: &[std::io::IoSlice<'_>], waker: &Waker) -> Written {
    let Some(found) = state.net.connections.get_mut(&connection) else { return Written::Failed(errno::EPIPE) };
    let this = &mut found.ends[end];
    if let Some(error) = this.error.take() {
        return Written::Failed(error);
    }
    let (Some(process), false, false) = (this.process, this.failed, found.pipes[end].fin_sent) else { return Written::Failed(errno::EPIPE) };
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    if total == 0 {
        return Written::Count(0);
    }
    let pipe = &mut found.pipes[end];
    let room = pipe.window_bytes.saturating_sub(pipe.outstanding_bytes);
    if room == 0 {
        this.write_waker = Some(waker.clone());
        return Written::Wait;
    }
    let peer_host = found.ends[1 - end].host;
    let crash = state.crash_point(process.host);
    if let Some((kind, CrashWhen::Before)) = crash {
        return crashed(state, process, kind);
    }
    let net = &mut state.net;
    let mut count = total.min(room);
    let partial = net.shape.chance(net.options.partial_write_ppm);
    let part = net.shape.below(count as u64) as usize;
    if partial || matches!(crash, Some((_, CrashWhen::Within))) {
        count = part.max(1);
    }
    let mut data = Vec::with_capacity(count);
    for slice in slices {
        let left = count - data.len();
        data.extend_from_slice(&slice[..slice.len().min(left)]);
    }
    let sum = crc32fast::hash(&data);
    let mut data = Bytes::from(data);
    let split_count = if net.shape.chance(net.options.split_ppm) { net.shape.between(1, 3) } else { 0 };
    let mut segments = Vec::new();
    for _ in 0..split_count {
        if data.len() > 1 {
            let at = net.shape.between(1, data.len() as u64 - 1) as usize;
            segments.push(data.split_to(at));
        }
    }
    segments.push(data);
    for segment in segments {
        send(state, connection, end, peer_host, Segment::Data(segment));
    }
    state.net.connections.get_mut(&connection).expect("just seen").pipes[end].outstanding_bytes += count;
    state.trace(Some(process), "net.write", &[connection, end as u64, count as u64, u64::from(sum)], None);
    if let Some((kind, _)) = crash {
        return crashed(state, process, kind);
    }
    Written::Count(count)
}

fn crashed(state: &mut State, process: ProcessId, kind: CrashKind) -> Written {
    state.trace(Some(process), "crash point in a write to a socket", &[], None);
    state.crash_host(process.host, kind);
    Written::Crashed
}

/// Puts a segment on its way.
fn send(state: &mut State, connection: u64, end: usize, to_host: usize, segment: Segment) {
    let from_host = state.net.connections[&connection].ends[end].host;
    let latency_ns = state.net.draw_latency_ns(from_host, to_host);
    let now_ns = state.now_ns;
    let pipe = &mut state.net.connections.get_mut(&connection).expect("the caller has seen it").pipes[end];
    let at_ns = (now_ns + latency_ns).max(pipe.last_arrival_ns);
    pipe.last_arrival_ns = at_ns;
    pipe.flight.push_back((at_ns, segment));
    if !pipe.scheduled && pipe.stalled_since_ns.is_none() {
        pipe.scheduled = true;
        state.schedule(at_ns, Event::Net(NetEvent::Pipe(connection, end)));
    }
}

/// Reads what has arrived.
pub(crate) fn read(state: &mut State, connection: u64, end: usize, max_count: usize, waker: &Waker) -> Poll<Result<Bytes, Errno>> {
    let Some(found) = state.net.connections.get_mut(&connection) else { return Poll::Ready(Ok(Bytes::new())) };
    let this = &mut found.ends[end];
    let pipe = &mut found.pipes[1 - end];
    let Some(first) = pipe.received.front_mut() else {
        if let Some(error) = this.error.take() {
            return Poll::Ready(Err(error));
        }
        if pipe.fin_received || this.failed {
            return Poll::Ready(Ok(Bytes::new()));
        }
        if !this.read_waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
            this.read_waker = Some(waker.clone());
        }
        return Poll::Pending;
    };
    let count = first.len().min(max_count);
    let data = if count == first.len() { pipe.received.pop_front().expect("just seen") } else { first.split_to(count) };
    pipe.received_bytes -= count;
    pipe.unacknowledged_bytes += count;
    let (here, there) = (this.host, found.ends[1 - end].host);
    let blocked = state.net.is_blocked(here, there);
    let pipe = &mut state.net.connections.get_mut(&connection).expect("just seen").pipes[1 - end];
    if !blocked && !pipe.acknowledging {
        if pipe.outstanding_bytes * 2 < pipe.window_bytes {
            // Far from the limit, when exactly the sender learns of it makes no difference.
            pipe.outstanding_bytes = pipe.outstanding_bytes.saturating_sub(std::mem::take(&mut pipe.unacknowledged_bytes));
        } else {
            pipe.acknowledging = true;
            let latency_ns = state.net.draw_latency_ns(here, there);
            state.schedule(state.now_ns + latency_ns, Event::Net(NetEvent::Acknowledged(connection, 1 - end)));
        }
    }
    Poll::Ready(Ok(data))
}

fn acknowledged(state: &mut State, connection: u64, end: usize) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    let (sender, reader) = (found.ends[end].host, found.ends[1 - end].host);
    found.pipes[end].acknowledging = false;
    if state.net.is_blocked(reader, sender) {
        return;
    }
    let found = state.net.connections.get_mut(&connection).expect("just seen");
    let pipe = &mut found.pipes[end];
    pipe.outstanding_bytes = pipe.outstanding_bytes.saturating_sub(std::mem::take(&mut pipe.unacknowledged_bytes));
    if let Some(waker) = found.ends[end].write_waker.take() {
        state.wake(waker);
    }
}

/// Closes the writing direction.
pub(crate) fn shutdown(state: &mut State, connection: u64, end: usize) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    if found.pipes[end].fin_sent || found.ends[end].failed {
        return;
    }
    found.pipes[end].fin_sent = true;
    let peer_host = found.ends[1 - end].host;
    send(state, connection, end, peer_host, Segment::Fin);
}

/// A half was dropped.
pub(crate) fn drop_half(state: &mut State, connection: u64, end: usize, is_read: bool) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    let this = &mut found.ends[end];
    if is_read {
        this.read_open = false;
        this.read_waker = None;
    } else {
        this.write_open = false;
        this.write_waker = None;
    }
    if !this.read_open && !this.write_open {
        close_end(state, connection, end);
    } else if !is_read {
        shutdown(state, connection, end);
    }
}

/// Closes an end as `close(2)` does.
fn close_end(state: &mut State, connection: u64, end: usize) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    if found.ends[end].process.is_none() {
        return;
    }
    if found.pipes[1 - end].received_bytes > 0 {
        reset(state, connection, end);
        return;
    }
    shutdown(state, connection, end);
    let found = state.net.connections.get_mut(&connection).expect("just seen");
    found.ends[end].process = None;
    forget_if_over(state, connection);
}

/// Closes an end at once: what it sent last may be lost, and the peer gets a reset.
pub(crate) fn reset(state: &mut State, connection: u64, end: usize) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    if found.ends[end].process.is_none() {
        return;
    }
    found.ends[end].process = None;
    let already_failed = std::mem::replace(&mut found.ends[end].failed, true);
    let wakers = [found.ends[end].read_waker.take(), found.ends[end].write_waker.take()];
    let peer_host = found.ends[1 - end].host;
    let flight_count = found.pipes[end].flight.len() as u64;
    // What is in the send buffer is thrown away, what is on the wire is not.
    let kept = state.net.faults.below(flight_count + 1) as usize;
    let pipe = &mut state.net.connections.get_mut(&connection).expect("just seen").pipes[end];
    pipe.flight.truncate(kept);
    pipe.fin_sent = true;
    if !already_failed {
        send(state, connection, end, peer_host, Segment::Reset);
    }
    wakers.into_iter().flatten().for_each(|waker| state.wake(waker));
    forget_if_over(state, connection);
}

fn forget_if_over(state: &mut State, connection: u64) {
    if let Some(found) = state.net.connections.get(&connection)
        && found.ends.iter().all(|end| end.process.is_none())
        && found.pipes.iter().all(|pipe| pipe.flight.is_empty())
    {
        state.net.connections.remove(&connection);
    }
}

/// An end learns that the connection is over.
fn fail_end(state: &mut State, connection: u64, end: usize, error: Errno, lose_unread: bool) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    let this = &mut found.ends[end];
    if this.failed {
        return;
    }
    this.failed = true;
    this.error = Some(error);
    let wakers = [this.read_waker.take(), this.write_waker.take()];
    let process = this.process;
    found.pipes[end].flight.clear();
    if lose_unread {
        found.pipes[1 - end].received.clear();
        found.pipes[1 - end].received_bytes = 0;
    }
    wakers.into_iter().flatten().for_each(|waker| state.wake(waker));
    state.trace(process, "net.failed", &[connection, end as u64, error as u64], None);
    forget_if_over(state, connection);
}

fn pipe_due(state: &mut State, connection: u64, end: usize) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    found.pipes[end].scheduled = false;
    let (from, to) = (found.ends[end].host, found.ends[1 - end].host);
    loop {
        let now_ns = state.now_ns;
        let Some(found) = state.net.connections.get_mut(&connection) else { return };
        let pipe = &mut found.pipes[end];
        let Some((at_ns, _)) = pipe.flight.front() else { break };
        if *at_ns > now_ns {
            pipe.scheduled = true;
            let at_ns = *at_ns;
            state.schedule(at_ns, Event::Net(NetEvent::Pipe(connection, end)));
            return;
        }
        if !state.hosts[to].powered || state.net.is_blocked(from, to) {
            stall(state, connection, end);
            return;
        }
        let found = state.net.connections.get_mut(&connection).expect("just seen");
        let (_, segment) = found.pipes[end].flight.pop_front().expect("just seen");
        arrive(state, connection, end, segment);
    }
    forget_if_over(state, connection);
}

/// Nothing gets through: the sender goes on trying, up to a point.
fn stall(state: &mut State, connection: u64, end: usize) {
    let patience_ns = state.net.shape.between(20, 120) * SECOND_NS;
    let now_ns = state.now_ns;
    let found = state.net.connections.get_mut(&connection).expect("the caller has seen it");
    if found.pipes[end].stalled_since_ns.is_none() {
        found.pipes[end].stalled_since_ns = Some(now_ns);
        let key = state.schedule(now_ns + patience_ns, Event::Net(NetEvent::GiveUp(connection, end)));
        state.net.connections.get_mut(&connection).expect("just seen").pipes[end].give_up = Some(key);
    }
}

fn give_up(state: &mut State, connection: u64, end: usize) {
    let Some(found) = state.net.connections.get_mut(&connection) else { return };
    if found.pipes[end].stalled_since_ns.is_some() {
        found.pipes[end].give_up = None;
        found.pipes[end].flight.clear();
        fail_end(state, connection, end, errno::ETIMEDOUT, false);
        forget_if_over(state, connection);
    }
}

fn arrive(state: &mut State, connection: u64, end: usize, segment: Segment) {
    let found = state.net.connections.get_mut(&connection).expect("the caller has seen it");
    let receiver = &mut found.ends[1 - end];
    let Some(process) = receiver.process else {
        // Closed, or dead: bytes to it are answered with a reset; the rest means nothing there.
        if matches!(segment, Segment::Data(_)) && !found.ends[end].failed && found.ends[end].process.is_some() {
            let peer_host = found.ends[end].host;
            found.pipes[end].flight.clear();
            found.pipes[1 - end].fin_sent = true;
            send(state, connection, 1 - end, peer_host, Segment::Reset);
        }
        return;
    };
    if receiver.failed {
        return;
    }
    match segment {
        Segment::Data(mut data) => {
            let reset_here = state.net.options.reset_ppm > 0 && state.net.faults.chance(state.net.options.reset_ppm);
            if reset_here {
                let at = state.net.faults.below(data.len() as u64 + 1) as usize;
                data.truncate(at);
            }
            state.trace(Some(process), "net.arrived", &[connection, end as u64, data.len() as u64], None);
            if !data.is_empty() {
                let found = state.net.connections.get_mut(&connection).expect("just seen");
                found.pipes[end].received_bytes += data.remaining();
                found.pipes[end].received.push_back(data);
                if let Some(waker) = found.ends[1 - end].read_waker.take() {
                    state.wake(waker);
                }
            }
            if reset_here {
                state.fault_count += 1;
                state.trace(Some(process), "net.fault.reset", &[connection], None);
                let lose = state.net.faults.chance(300_000);
                fail_end(state, connection, 1 - end, errno::ECONNRESET, lose);
                fail_end(state, connection, end, errno::ECONNRESET, false);
            }
        }
        Segment::Fin => {
            found.pipes[end].fin_received = true;
            if let Some(waker) = found.ends[1 - end].read_waker.take() {
                state.wake(waker);
            }
        }
        Segment::Reset => {
            let lose = state.net.faults.chance(500_000);
            fail_end(state, connection, 1 - end, errno::ECONNRESET, lose);
        }
    }
}

/// Something happens on the network.
pub(crate) fn happen(state: &mut State, event: NetEvent) {
    match event {
        NetEvent::Pipe(connection, end) => pipe_due(state, connection, end),
        NetEvent::Acknowledged(connection, end) => acknowledged(state, connection, end),
        NetEvent::GiveUp(connection, end) => give_up(state, connection, end),
        NetEvent::SynSent(id) => syn_sent(state, id),
        NetEvent::SynArrived(id) => syn_arrived(state, id),
        NetEvent::Answered(id, result) => answered(state, id, result),
        NetEvent::SynGivesUp(id) => answered(state, id, Err(errno::ETIMEDOUT)),
    }
}

// ---- deaths and blocks ----

/// A process died. Its kernel closes its connections, unless the power is gone too.
pub(crate) fn process_died(state: &mut State, process: ProcessId, power_cut: bool) {
    let attempts: Vec<u64> = state.net.connecting.iter().filter(|(_, one)| one.process == process).map(|(id, _)| *id).collect();
    for id in attempts {
        if power_cut { drop(state.net.connecting.remove(&id)) } else { abandon_connect(state, id) }
    }
    let ports: Vec<u16> = state.net.listeners.iter().filter(|(_, one)| one.process == process).map(|((_, port), _)| *port).collect();
    for port in ports {
        if power_cut { drop(state.net.listeners.remove(&(process.host, port))) } else { unlisten(state, process, port) }
    }
    let mut mine = Vec::new();
    for (number, connection) in &state.net.connections {
        for end in 0..2 {
            if connection.ends[end].process == Some(process) {
                mine.push((*number, end));
            }
        }
    }
    for (connection, end) in mine {
        if let Some(found) = state.net.connections.get_mut(&connection) {
            let wakers = [found.ends[end].read_waker.take(), found.ends[end].write_waker.take()];
            wakers.into_iter().flatten().for_each(|waker| state.effects.drops.push(Box::new(waker)));
        }
        if power_cut {
            let count = state.net.connections[&connection].pipes[end].flight.len() as u64;
            let kept = state.net.faults.below(count + 1) as usize;
            let found = state.net.connections.get_mut(&connection).expect("just listed");
            found.pipes[end].flight.truncate(kept);
            found.pipes[end].fin_sent = true;
            found.ends[end].failed = true;
            found.ends[end].process = None;
            forget_if_over(state, connection);
        } else {
            close_end(state, connection, end);
        }
    }
}

/// Blocks or frees the direction from one host to another. What waited goes on its way after a while; connections that were blocked for
/// more than ten seconds may be reset.
pub(crate) fn set_blocked(state: &mut State, from: usize, to: usize, blocked: bool) {
    if from == to {
        return;
    }
    let now_ns = state.now_ns;
    let link = state.net.link(from, to);
    if link.blocked_since_ns.is_some() == blocked {
        return;
    }
    link.blocked_since_ns = blocked.then_some(now_ns);
    state.trace(None, if blocked { "net.block" } else { "net.unblock" }, &[from as u64, to as u64], None);
    if !blocked {
        resume(state, Some(from), to);
    }
}

/// Sets the latency on top of a direction's usual one, in nanoseconds.
pub(crate) fn set_extra_latency(state: &mut State, from: usize, to: usize, extra_ns: u64) {
    state.net.link(from, to).extra_ns = extra_ns;
    state.trace(None, "net.extra_latency", &[from as u64, to as u64, extra_ns], None);
}

/// Resets every connection between the two hosts, or all.
pub(crate) fn reset_between(state: &mut State, hosts: Option<(usize, usize)>) {
    let numbers: Vec<u64> = state
        .net
        .connections
        .iter()
        .filter(|(_, one)| {
            let pair = (one.ends[0].host, one.ends[1].host);
            hosts.is_none_or(|(a, b)| pair == (a, b) || pair == (b, a))
        })
        .map(|(number, _)| *number)
        .collect();
    for connection in numbers {
        for end in 0..2 {
            fail_end(state, connection, end, errno::ECONNRESET, false);
        }
    }
}

/// A host is up again: who tried to send to it learns that it knows of no connection.
pub(crate) fn host_up(state: &mut State, host: usize) {
    resume(state, None, host);
}

fn resume(state: &mut State, from: Option<usize>, to: usize) {
    let now_ns = state.now_ns;
    let mut data = Vec::new();
    let mut acknowledgements = Vec::new();
    for (number, connection) in &state.net.connections {
        for end in 0..2 {
            let (sender, receiver) = (connection.ends[end].host, connection.ends[1 - end].host);
            if receiver == to && from.is_none_or(|from| from == sender) && connection.pipes[end].stalled_since_ns.is_some() {
                data.push((*number, end));
            }
            // Acknowledgements of a pipe travel against it.
            if sender == to && from.is_none_or(|from| from == receiver) && connection.pipes[end].unacknowledged_bytes > 0 {
                acknowledgements.push((*number, end));
            }
        }
    }
    for (connection, end) in data {
        let pipe = &mut state.net.connections.get_mut(&connection).expect("just listed").pipes[end];
        let waited_ns = now_ns - pipe.stalled_since_ns.take().unwrap_or(now_ns);
        if let Some(key) = pipe.give_up.take() {
            state.queue.remove(&key);
        }
        let gives_up = state.net.faults.chance(400_000);
        // Retransmissions back off: the longer the block, the later the next try.
        let wait_ns = state.net.latency.below(waited_ns.min(3 * SECOND_NS) + 1);
        if gives_up && waited_ns > 10 * SECOND_NS {
            fail_end(state, connection, end, errno::ECONNRESET, false);
            fail_end(state, connection, 1 - end, errno::ECONNRESET, false);
        } else if let Some(found) = state.net.connections.get_mut(&connection) {
            found.pipes[end].scheduled = true;
            state.schedule(now_ns + wait_ns, Event::Net(NetEvent::Pipe(connection, end)));
        }
    }
    for (connection, end) in acknowledgements {
        let wait_ns = state.net.latency.below(SECOND_NS / 2);
        if let Some(found) = state.net.connections.get_mut(&connection)
            && !found.pipes[end].acknowledging
        {
            found.pipes[end].acknowledging = true;
            state.schedule(now_ns + wait_ns, Event::Net(NetEvent::Acknowledged(connection, end)));
        }
    }
}

/// Switches off the fault rates.
pub(crate) fn calm(state: &mut State) {
    let options = &mut state.net.options;
    (options.reset_ppm, options.accept_error_ppm, options.silent_refusal_ppm) = (0, 0, 0);
    options.spike_ppm = options.spike_ppm.min(NetOptions::default().spike_ppm);
}

/// Whether a read would find bytes.
pub(crate) fn has_arrived(state: &State, connection: u64, end: usize) -> bool {
    state.net.connections.get(&connection).is_some_and(|found| found.pipes[1 - end].received_bytes > 0)
}
