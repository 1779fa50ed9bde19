//! I/O calls over time: how long they take, which fail, what becomes of one whose future is dropped or whose process dies.
//!
//! - A call begins at its first poll. Reads and writes that the page cache serves may end within that poll, as in production.
//! - The effect takes place at one instant, mostly the end of the call. A sync covers what was written before it began.
//! - A dropped read or write has happened wholly, partly or not at all by then. Everything else runs on a pool in production, so it may
//!   also still happen later.
//! - When a process dies, each of its calls under way has happened wholly, partly or not at all.
//! - A failed sync has marked the pages clean that it covered: later syncs say yes, and the bytes are gone with the next power cut.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use ottla::runtime::{DirEntry, Open, Parts};

use super::content::{SyncEnd, SyncTicket};
use super::model::{DirTicket, DiskModel, Errno, InodeId, errno};
use crate::rng::Stream;
use crate::state::{CrashKind, CrashWhen, Event, ProcessId, State};

/// How the disks of a world behave. Rates are in millionths of the calls.
#[derive(Clone, Debug, Default)]
pub struct DiskOptions {
    /// Reads that fail with `EIO`.
    pub read_error_ppm: u32,
    /// Writes that fail with `EIO` after a prefix.
    pub write_error_ppm: u32,
    /// Syncs that fail and clean the pages.
    pub sync_error_ppm: u32,
    /// Changes of names that fail with `EIO` and change nothing.
    pub name_error_ppm: u32,
    /// Calls that stall.
    pub stall_ppm: u32,
    /// The longest stall, in milliseconds.
    pub stall_max_ms: u32,
    /// All latencies in hundredths of the usual ones. 0 stands for 100.
    pub latency_percent: u32,
    /// Whether a power cut may leave random bytes where unsynced ones were written.
    pub garbage: bool,
}

/// What a one-shot fault is aimed at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OpKind {
    /// Reading a file.
    Read,
    /// Writing, cutting, extending or reserving a file.
    Write,
    /// Syncing content.
    Sync,
    /// Syncing names.
    SyncDir,
    /// Opening, locking, making, renaming, removing.
    Name,
    /// Questions: length, listing, free space.
    Ask,
}

/// A fault that the harness aims at the next calls of a kind.
#[derive(Clone, Debug)]
pub struct AimedFault {
    /// The calls that it hits.
    pub kind: OpKind,
    /// Only on paths that contain this.
    pub path_contains: String,
    /// How many such calls pass before.
    pub skip_count: u32,
    /// The error, `EIO` mostly. A sync that fails so cleans its pages.
    pub error: Errno,
}

/// A call on the disk.
#[derive(Debug)]
#[allow(missing_docs, reason = "the fields are those of the trait's functions")]
pub enum Request {
    Open { path: PathBuf, how: Open },
    CreateDir { path: PathBuf },
    List { path: PathBuf },
    Rename { from: PathBuf, to: PathBuf },
    RemoveFile { path: PathBuf },
    RemoveDir { path: PathBuf },
    SyncDir { path: PathBuf },
    SyncBelow { path: PathBuf },
    TryLock { path: PathBuf },
    FreeBytes { path: PathBuf },
    Read { inode: InodeId, name: Arc<str>, position: u64, len: usize },
    Write { inode: InodeId, name: Arc<str>, position: u64, parts: Parts },
    Len { inode: InodeId, name: Arc<str> },
    Modified { inode: InodeId, name: Arc<str> },
    SetLen { inode: InodeId, name: Arc<str>, len: u64 },
    Preallocate { inode: InodeId, name: Arc<str>, len: u64 },
    Sync { inode: InodeId, name: Arc<str> },
}

impl Request {
    fn kind(&self) -> OpKind {
        match self {
            Self::Read { .. } => OpKind::Read,
            Self::Write { .. } | Self::SetLen { .. } | Self::Preallocate { .. } => OpKind::Write,
            Self::Sync { .. } | Self::SyncBelow { .. } => OpKind::Sync,
            Self::SyncDir { .. } => OpKind::SyncDir,
            Self::List { .. } | Self::Len { .. } | Self::Modified { .. } | Self::FreeBytes { .. } => OpKind::Ask,
            _ => OpKind::Name,
        }
    }

    fn label(&self) -> &'static str {
        match self {
            Self::Open { .. } => "disk.open",
            Self::CreateDir { .. } => "disk.create_dir",
            Self::List { .. } => "disk.list",
            Self::Rename { .. } => "disk.rename",
            Self::RemoveFile { .. } => "disk.remove_file",
            Self::RemoveDir { .. } => "disk.remove_dir",
            Self::SyncDir { .. } => "disk.sync_dir",
            Self::SyncBelow { .. } => "disk.sync_filesystem",
            Self::TryLock { .. } => "disk.try_lock",
            Self::FreeBytes { .. } => "disk.free_bytes",
            Self::Read { .. } => "disk.read",
            Self::Write { .. } => "disk.write",
            Self::Len { .. } => "disk.len",
            Self::Modified { .. } => "disk.modified",
            Self::SetLen { .. } => "disk.set_len",
            Self::Preallocate { .. } => "disk.preallocate",
            Self::Sync { .. } => "disk.sync",
        }
    }

    fn name(&self) -> Arc<str> {
        match self {
            Self::Rename { from, to } => format!("{} -> {}", from.display(), to.display()).into(),
            Self::Open { path, .. }
            | Self::CreateDir { path }
            | Self::List { path }
            | Self::RemoveFile { path }
            | Self::RemoveDir { path }
            | Self::SyncDir { path }
            | Self::SyncBelow { path }
            | Self::TryLock { path }
            | Self::FreeBytes { path } => path.to_string_lossy().into(),
            Self::Read { name, .. }
            | Self::Write { name, .. }
            | Self::Len { name, .. }
            | Self::Modified { name, .. }
            | Self::SetLen { name, .. }
            | Self::Preallocate { name, .. }
            | Self::Sync { name, .. } => name.clone(),
        }
    }
}

/// What a call answers.
#[derive(Debug)]
#[allow(missing_docs, reason = "they are the results of the trait's functions")]
pub enum Answer {
    Nothing,
    Opened(InodeId),
    Locked(Option<InodeId>),
    Entries(Vec<DirEntry>),
    Number(u64),
    Signed(i64),
    Bytes(Bytes),
}

/// How a call began.
pub enum Submitted {
    /// It ended at once.
    Done(Result<Answer, Errno>),
    /// It goes on under this number.
    UnderWay(u64),
    /// Its process is dead.
    Crashed,
}

enum Tickets {
    None,
    Files(Vec<(InodeId, SyncTicket)>),
    Names(DirTicket),
}

/// A call under way.
pub struct Op {
    process: ProcessId,
    request: Request,
    tickets: Tickets,
    fault: Option<Errno>,
    crash: Option<(CrashKind, CrashWhen)>,
    abandoned: bool,
    waker: Option<Waker>,
    result: Option<Result<Answer, Errno>>,
}

/// The disk of a host: what it holds and its streams.
pub struct HostDisk {
    /// What it holds.
    pub model: DiskModel,
    /// How it behaves now.
    pub options: DiskOptions,
    /// Faults aimed by the harness.
    pub aimed: Vec<AimedFault>,
    /// Until when every call that needs the device waits, in the world's nanoseconds.
    pub stalled_until_ns: u64,
    latency: Stream,
    faults: Stream,
    fates: Stream,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Portion {
    Whole,
    Part,
    Nothing,
}

impl HostDisk {
    /// An empty disk with the streams of host `index`.
    pub fn new(seed: u64, index: u64, options: DiskOptions) -> Self {
        Self {
            model: DiskModel::new(1 << 40),
            options,
            aimed: Vec::new(),
            stalled_until_ns: 0,
            latency: Stream::new(seed, "disk latency", index),
            faults: Stream::new(seed, "disk faults", index),
            fates: Stream::new(seed, "disk fates", index),
        }
    }

    /// The power goes.
    pub fn power_cut(&mut self) {
        self.model.power_cut(&mut self.fates, self.options.garbage);
        self.stalled_until_ns = 0;
    }

    /// Makes everything durable.
    pub fn settle(&mut self) {
        self.model.settle(&mut self.fates);
    }

    fn draw_latency_ns(&mut self, request: &Request, now_ns: u64) -> u64 {
        let draw = self.latency.bits();
        let exponential = |stream: &mut Stream, mean_us: u64| stream.exponential(mean_us * 1_000);
        let usual = match request.kind() {
            OpKind::Ask => return 0,
            OpKind::Read | OpKind::Write if draw % 8 < 6 => 0,
            OpKind::Read => 2_000 + exponential(&mut self.latency, 80),
            OpKind::Write => 1_000 + exponential(&mut self.latency, 20),
            OpKind::Name => 8_000 + exponential(&mut self.latency, 30),
            OpKind::Sync | OpKind::SyncDir => 100_000 + exponential(&mut self.latency, 400),
        };
        let percent = if self.options.latency_percent == 0 { 100 } else { u64::from(self.options.latency_percent) };
        let mut latency = usual * percent / 100;
        if self.options.stall_ppm > 0 && self.faults.chance(self.options.stall_ppm) {
            latency += self.faults.between(1, u64::from(self.options.stall_max_ms).max(1)) * 1_000_000;
        }
        if latency > 0 || matches!(request.kind(), OpKind::Sync | OpKind::SyncDir) {
            latency = latency.max(self.stalled_until_ns.saturating_sub(now_ns));
        }
        latency
    }

    fn draw_fault(&mut self, request: &Request) -> Option<Errno> {
        let kind = request.kind();
        if !self.aimed.is_empty() {
            let name = request.name();
            if let Some(at) = self.aimed.iter().position(|fault| fault.kind == kind && name.contains(&fault.path_contains)) {
                if self.aimed[at].skip_count == 0 {
                    return Some(self.aimed.remove(at).error);
                }
                self.aimed[at].skip_count -= 1;
            }
        }
        let rate = match kind {
            OpKind::Read => self.options.read_error_ppm,
            OpKind::Write => self.options.write_error_ppm,
            OpKind::Sync | OpKind::SyncDir => self.options.sync_error_ppm,
            OpKind::Name => self.options.name_error_ppm,
            OpKind::Ask => 0,
        };
        (rate > 0 && self.faults.chance(rate)).then_some(errno::EIO)
    }

    fn begin(&mut self, request: &Request) -> Result<Tickets, Errno> {
        Ok(match request {
            Request::Sync { inode, .. } => Tickets::Files(vec![(*inode, self.model.begin_sync(*inode)?)]),
            Request::SyncBelow { path } => Tickets::Files(self.model.begin_sync_below(path)?),
            Request::SyncDir { path } => Tickets::Names(self.model.begin_sync_dir(path)?),
            _ => Tickets::None,
        })
    }

    fn end_syncs(&mut self, tickets: &Tickets, end: SyncEnd) {
        match tickets {
            Tickets::Files(files) => {
                for (inode, ticket) in files {
                    self.model.end_sync(*inode, *ticket, end, &mut self.fates);
                }
            }
            Tickets::Names(ticket) => {
                let done = match end {
                    SyncEnd::Done => true,
                    SyncEnd::Failed => false,
                    SyncEnd::Cut => self.fates.chance(500_000),
                };
                if done {
                    self.model.end_sync_dir(*ticket);
                }
            }
            Tickets::None => {}
        }
    }

    fn apply(&mut self, incarnation: u32, wall_ms: i64, op: &Request, tickets: &Tickets, portion: Portion, fault: Option<Errno>) -> Result<Answer, Errno> {
        if let (Tickets::Files(_) | Tickets::Names(_), portion, fault) = (tickets, portion, fault) {
            self.end_syncs(
                tickets,
                match (portion, fault) {
                    (_, Some(_)) => SyncEnd::Failed,
                    (Portion::Whole, None) => SyncEnd::Done,
                    _ => SyncEnd::Cut,
                },
            );
            return fault.map_or(Ok(Answer::Nothing), Err);
        }
        if let Request::Write { inode, position, parts, .. } = op {
            let total: usize = parts.iter().map(Bytes::len).sum();
            let mut left = match (portion, fault) {
                (Portion::Nothing, _) => 0,
                (Portion::Whole, None) => total,
                _ => self.fates.below(total as u64 + 1) as usize,
            };
            let mut position = *position;
            for part in parts {
                let count = part.len().min(left);
                self.model.write(*inode, position, &part[..count], wall_ms)?;
                position += count as u64;
                left -= count;
            }
            return fault.map_or(Ok(Answer::Nothing), Err);
        }
        if let Some(fault) = fault {
            return Err(fault);
        }
        let whole = match portion {
            Portion::Whole => true,
            Portion::Part => self.fates.chance(500_000),
            Portion::Nothing => false,
        };
        if let (Request::CreateDir { path }, Portion::Part) = (op, portion) {
            let max_count = self.fates.below(4) as usize;
            return self.model.create_dir(path, max_count).map(|()| Answer::Nothing);
        }
        if !whole {
            return Ok(Answer::Nothing);
        }
        match op {
            Request::Open { path, how } => self.model.open(path, *how, incarnation).map(Answer::Opened),
            Request::CreateDir { path } => self.model.create_dir(path, usize::MAX).map(|()| Answer::Nothing),
            Request::List { path } => self.model.list(path).map(Answer::Entries),
            Request::Rename { from, to } => self.model.rename(from, to).map(|()| Answer::Nothing),
            Request::RemoveFile { path } => self.model.remove_file(path).map(|()| Answer::Nothing),
            Request::RemoveDir { path } => self.model.remove_dir(path).map(|()| Answer::Nothing),
            Request::TryLock { path } => self.model.try_lock(path, incarnation).map(Answer::Locked),
            Request::FreeBytes { path } => self.model.lookup(path).map(|_| Answer::Number(self.model.free_bytes())),
            Request::Read { inode, position, len, .. } => self.model.read(*inode, *position, *len).map(|bytes| Answer::Bytes(bytes.into())),
            Request::Len { inode, .. } => self.model.len(*inode).map(Answer::Number),
            Request::Modified { inode, .. } => self.model.modified_ms(*inode).map(Answer::Signed),
            Request::SetLen { inode, len, .. } => self.model.set_len(*inode, *len, wall_ms).map(|()| Answer::Nothing),
            Request::Preallocate { inode, len, .. } => self.model.preallocate(*inode, *len).map(|()| Answer::Nothing),
            Request::Write { .. } | Request::Sync { .. } | Request::SyncBelow { .. } | Request::SyncDir { .. } => unreachable!("handled above"),
        }
    }

    fn discard(&mut self, answer: &Result<Answer, Errno>, incarnation: u32) {
        match answer {
            Ok(Answer::Opened(inode)) => self.model.close(*inode, incarnation),
            Ok(Answer::Locked(Some(inode))) => self.model.unlock(*inode, incarnation),
            _ => {}
        }
    }

    fn draw_portion(&mut self) -> Portion {
        match self.fates.below(4) {
            0 => Portion::Nothing,
            1 => Portion::Part,
            _ => Portion::Whole,
        }
    }
}

fn carry_out(state: &mut State, op: &Op, portion: Portion) -> Result<Answer, Errno> {
    let wall_ms = state.wall_ms(op.process.host);
    let disk = &mut state.hosts[op.process.host].disk;
    let result = disk.apply(op.process.incarnation, wall_ms, &op.request, &op.tickets, portion, op.fault);
    note(state, op, portion, &result);
    result
}

fn note(state: &mut State, op: &Op, portion: Portion, result: &Result<Answer, Errno>) {
    if op.request.kind() == OpKind::Ask && result.is_ok() {
        return;
    }
    let error = *result.as_ref().err().unwrap_or(&0) as u64;
    let (position, len, sum) = match (&op.request, result) {
        (Request::Write { position, parts, .. }, _) => {
            let mut sum = crc32fast::Hasher::new();
            parts.iter().for_each(|part| sum.update(part));
            (*position, parts.iter().map(|part| part.len() as u64).sum(), sum.finalize())
        }
        (Request::Read { position, .. }, Ok(Answer::Bytes(bytes))) => (*position, bytes.len() as u64, crc32fast::hash(bytes)),
        (Request::SetLen { len, .. } | Request::Preallocate { len, .. }, _) => (0, *len, 0),
        _ => (0, 0, 0),
    };
    let name = op.request.name();
    state.trace(Some(op.process), op.request.label(), &[position, len, u64::from(sum), portion as u64, error], Some(&name));
}

/// A call begins.
pub fn submit(state: &mut State, process: ProcessId, request: Request, waker: &Waker) -> Submitted {
    let crash = state.crash_point(process.host);
    if let Some((kind, CrashWhen::Before)) = crash {
        state.trace(Some(process), "crash point before", &[], Some(&request.label().into()));
        state.crash_host(process.host, kind);
        return Submitted::Crashed;
    }
    let now_ns = state.now_ns;
    let disk = &mut state.hosts[process.host].disk;
    let latency_ns = disk.draw_latency_ns(&request, now_ns);
    let fault = disk.draw_fault(&request);
    let tickets = match disk.begin(&request) {
        Ok(tickets) => tickets,
        Err(error) => return Submitted::Done(Err(error)),
    };
    if fault.is_some() {
        state.fault_count += 1;
    }
    let mut op = Op { process, request, tickets, fault, crash, abandoned: false, waker: None, result: None };
    if latency_ns == 0 && crash.is_none() {
        return Submitted::Done(carry_out(state, &op, Portion::Whole));
    }
    op.waker = Some(waker.clone());
    let id = state.next_id();
    state.schedule(now_ns + latency_ns, Event::Disk(id));
    state.ops.insert(id, op);
    Submitted::UnderWay(id)
}

/// Whether a call ended.
pub fn poll(state: &mut State, id: u64, waker: &Waker) -> Option<Result<Answer, Errno>> {
    let op = state.ops.get_mut(&id).expect("a call under way is known until its end is told");
    if op.result.is_some() {
        return state.ops.remove(&id).and_then(|op| op.result);
    }
    if !op.waker.as_ref().is_some_and(|old| old.will_wake(waker)) {
        op.waker = Some(waker.clone());
    }
    None
}

/// The time of a call has come.
pub fn complete(state: &mut State, id: u64) {
    let Some(mut op) = state.ops.remove(&id) else { return };
    if let Some((kind, when)) = op.crash {
        let within = when == CrashWhen::Within;
        let _ = carry_out(state, &op, if within { Portion::Part } else { Portion::Whole });
        state.trace(Some(op.process), if within { "crash point within" } else { "crash point after" }, &[], Some(&op.request.label().into()));
        state.crash_host(op.process.host, kind);
        return;
    }
    let result = carry_out(state, &op, Portion::Whole);
    if op.abandoned {
        state.hosts[op.process.host].disk.discard(&result, op.process.incarnation);
        return;
    }
    op.result = Some(result);
    if let Some(waker) = op.waker.take() {
        state.wake(waker);
    }
    state.ops.insert(id, op);
}

/// The future of a call was dropped.
pub fn abandon(state: &mut State, id: u64) {
    let Some(mut op) = state.ops.remove(&id) else { return };
    let disk = &mut state.hosts[op.process.host].disk;
    if let Some(result) = op.result {
        disk.discard(&result, op.process.incarnation);
        return;
    }
    let later = !matches!(op.request.kind(), OpKind::Read | OpKind::Ask) && !matches!(op.request, Request::Write { .. });
    if op.crash.is_some() || (later && disk.fates.chance(400_000)) {
        op.abandoned = true;
        op.waker = None;
        state.ops.insert(id, op);
        return;
    }
    settle_fate(state, &op);
}

fn settle_fate(state: &mut State, op: &Op) {
    let portion = state.hosts[op.process.host].disk.draw_portion();
    let result = carry_out(state, op, portion);
    state.hosts[op.process.host].disk.discard(&result, op.process.incarnation);
}

/// A process died: its calls under way get their fates, its handles and locks are gone.
pub fn process_died(state: &mut State, process: ProcessId) {
    let ids: Vec<u64> = state.ops.iter().filter(|(_, op)| op.process == process).map(|(id, _)| *id).collect();
    for id in ids {
        let op = state.ops.remove(&id).expect("just listed");
        if op.result.is_none() {
            settle_fate(state, &op);
        }
    }
    state.hosts[process.host].disk.model.process_died(process.incarnation);
}

/// A handle is closed.
pub fn close(state: &mut State, process: ProcessId, inode: InodeId) {
    state.hosts[process.host].disk.model.close(inode, process.incarnation);
}

/// A lock is given back.
pub fn unlock(state: &mut State, process: ProcessId, inode: InodeId) {
    state.hosts[process.host].disk.model.unlock(inode, process.incarnation);
}
