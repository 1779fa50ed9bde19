//! The state of a world: its hosts and processes, the queue of events to come, and what happens when something dies.
//!
//! One lock guards all of it, and one thread runs it. Nothing that could call back is done under the lock: wake-ups, kills and drops are
//! collected in [`Effects`] and carried out after.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::task::Waker;

use madsim::task::NodeId;

use crate::clock::HostClock;
use crate::disk::ops::{self, HostDisk, Op};
use crate::net::model as net;
use crate::rng::Stream;
use crate::runtime::{Process, Starter};
use crate::trace::Trace;
use crate::verdict::Verdict;
use crate::world::WorldOptions;

/// One life of a process on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProcessId {
    /// The host's index in the order of creation.
    pub host: usize,
    /// Counts the processes that ever started on the host, from 1.
    pub incarnation: u32,
}

impl ProcessId {
    /// The harness, which is no process.
    pub const HARNESS: Self = Self { host: usize::MAX, incarnation: 0 };
}

/// How a host or process is crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashKind {
    /// All processes of the host are killed (`kill -9`): the machine stays up, closes their connections and keeps the page cache.
    Kill,
    /// The machine loses power: what was not synced is at the mercy of the draw, and peers hear nothing.
    PowerCut,
}

/// Where in an I/O call a crash comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CrashWhen {
    /// Before it had any effect.
    Before,
    /// With a part of its effect.
    Within,
    /// After its effect, before its caller learns of it.
    After,
}

/// A crash that waits for an I/O call of a host.
#[derive(Clone, Copy, Debug)]
pub struct CrashPoint {
    /// How many calls pass before it.
    pub skip_count: u64,
    /// Where in the call.
    pub when: CrashWhen,
    /// Which crash.
    pub kind: CrashKind,
}

/// Why a process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its main future returned.
    Returned,
    /// It halted itself, saying why.
    Halted(String),
    /// A task panicked. The run fails.
    Panicked(String),
    /// It was killed.
    Killed,
    /// The power went.
    PowerCut,
}

/// What is yet to come.
#[derive(Debug)]
pub enum Event {
    /// A timer.
    Timer(ProcessId, u64),
    /// A call on a disk.
    Disk(u64),
    /// Something on the network.
    Net(net::NetEvent),
}

pub(crate) struct Timer {
    pub waker: Waker,
    pub key: (u64, u64),
    /// In the host's monotonic clock; `None` for the harness, whose timers follow the world's time.
    pub monotonic_ns: Option<u64>,
}

pub(crate) struct ProcessState {
    pub shared: Arc<Process>,
    pub node: NodeId,
    pub tasks: BTreeMap<&'static str, u64>,
    pub exit: Option<Exit>,
    pub waiting: Vec<Waker>,
}

pub(crate) struct HostState {
    pub name: Arc<str>,
    pub ip: Ipv4Addr,
    pub powered: bool,
    pub paused: bool,
    /// When its last process was started, or went on after a pause, in nanoseconds of the world.
    pub runs_since_ns: u64,
    pub live: BTreeSet<u32>,
    pub last_incarnation: u32,
    pub disk: HostDisk,
    pub clock: HostClock,
    pub entropy: Stream,
    pub processor: Stream,
    pub starter: Option<Starter>,
    pub crash_point: Option<CrashPoint>,
    pub io_count: u64,
}

/// What is done once the lock is released.
#[derive(Default)]
pub(crate) struct Effects {
    pub wakers: Vec<Waker>,
    pub kills: Vec<NodeId>,
    pub drops: Vec<Box<dyn std::any::Any + Send>>,
}

/// The state of a world.
pub struct State {
    /// The time of the world in nanoseconds since its start, as of the last call.
    pub now_ns: u64,
    /// How many faults met a process so far.
    pub fault_count: u64,
    /// How many client operations completed so far, as the scenario counts them.
    pub operation_count: u64,
    /// How many events were carried out.
    pub event_count: u64,
    pub(crate) options: WorldOptions,
    pub(crate) hosts: Vec<HostState>,
    pub(crate) processes: BTreeMap<ProcessId, ProcessState>,
    pub(crate) net: net::NetState,
    pub(crate) ops: BTreeMap<u64, Op>,
    pub(crate) timers: BTreeMap<(ProcessId, u64), Timer>,
    pub(crate) queue: BTreeMap<(u64, u64), Event>,
    pub(crate) driver: Option<Waker>,
    pub(crate) armed: BTreeSet<u64>,
    pub(crate) effects: Effects,
    pub(crate) trace: Trace,
    pub(crate) verdict: Option<Verdict>,
    pub(crate) verdict_waker: Option<Waker>,
    pub(crate) halts: Vec<(Arc<str>, String)>,
    pub(crate) buggify_sites: BTreeMap<&'static str, (bool, Stream)>,
    pub(crate) buggify: bool,
    id: u64,
}

impl State {
    pub(crate) fn new(options: WorldOptions, trace: Trace) -> Self {
        Self {
            now_ns: 0,
            fault_count: 0,
            operation_count: 0,
            event_count: 0,
            hosts: Vec::new(),
            processes: BTreeMap::new(),
            net: net::NetState::new(options.seed, options.net.clone()),
            ops: BTreeMap::new(),
            timers: BTreeMap::new(),
            queue: BTreeMap::new(),
            driver: None,
            armed: BTreeSet::new(),
            effects: Effects::default(),
            trace,
            verdict: None,
            verdict_waker: None,
            halts: Vec::new(),
            buggify_sites: BTreeMap::new(),
            buggify: options.buggify,
            id: 0,
            options,
        }
    }

    pub(crate) fn next_id(&mut self) -> u64 {
        self.id += 1;
        self.id
    }

    /// Puts an event into the queue.
    pub(crate) fn schedule(&mut self, at_ns: u64, event: Event) -> (u64, u64) {
        let key = (at_ns.max(self.now_ns), self.next_id());
        self.queue.insert(key, event);
        if self.armed.first().is_none_or(|armed| key.0 < *armed)
            && let Some(driver) = self.driver.take()
        {
            self.wake(driver);
        }
        key
    }

    pub(crate) fn wake(&mut self, waker: Waker) {
        self.effects.wakers.push(waker);
    }

    pub(crate) fn trace(&mut self, process: Option<ProcessId>, what: &'static str, values: &[u64], note: Option<&Arc<str>>) {
        let process = process.and_then(|id| Some((&self.hosts.get(id.host)?.name, id.incarnation)));
        self.trace.add(self.now_ns, process, what, values, note);
    }

    pub(crate) fn wall_ms(&self, host: usize) -> i64 {
        self.hosts[host].clock.wall_ns(self.now_ns).div_euclid(1_000_000)
    }

    /// Counts an I/O call of `host` and tells whether a crash waits for it.
    pub(crate) fn crash_point(&mut self, host: usize) -> Option<(CrashKind, CrashWhen)> {
        let host = &mut self.hosts[host];
        host.io_count += 1;
        let point = host.crash_point.as_mut()?;
        if point.skip_count > 0 {
            point.skip_count -= 1;
            return None;
        }
        let point = host.crash_point.take()?;
        self.fault_count += 1;
        Some((point.kind, point.when))
    }

    /// Crashes a host with all its processes.
    pub(crate) fn crash_host(&mut self, host: usize, kind: CrashKind) {
        let id = ProcessId { host, incarnation: self.hosts[host].last_incarnation };
        let exit = match kind {
            CrashKind::Kill => Exit::Killed,
            CrashKind::PowerCut => Exit::PowerCut,
        };
        self.trace(Some(id), if kind == CrashKind::Kill { "kill" } else { "power cut" }, &[], None);
        let live: Vec<u32> = self.hosts[host].live.iter().copied().collect();
        for incarnation in live {
            self.end_process(ProcessId { host, incarnation }, exit.clone());
        }
        let state = &mut self.hosts[host];
        state.crash_point = None;
        if kind == CrashKind::PowerCut && state.powered {
            state.powered = false;
            state.paused = false;
            state.disk.power_cut();
            state.clock.reboot(self.now_ns);
        }
    }

    /// Ends a process. From here on nothing of it has any effect.
    pub(crate) fn end_process(&mut self, id: ProcessId, exit: Exit) {
        if !self.hosts[id.host].live.remove(&id.incarnation) {
            return;
        }
        let power_cut = exit == Exit::PowerCut;
        let note: Option<Arc<str>> = match &exit {
            Exit::Halted(why) | Exit::Panicked(why) => Some(why.as_str().into()),
            _ => None,
        };
        let what = match &exit {
            Exit::Returned => "process returned",
            Exit::Halted(_) => "process halted",
            Exit::Panicked(_) => "process panicked",
            Exit::Killed => "process killed",
            Exit::PowerCut => "process lost power",
        };
        self.trace(Some(id), what, &[], note.as_ref());
        match &exit {
            Exit::Halted(why) => self.halts.push((self.hosts[id.host].name.clone(), why.clone())),
            Exit::Panicked(why) => {
                let detail = format!("{}#{}: {why}", self.hosts[id.host].name, id.incarnation);
                self.decide(Verdict::Crash { detail });
            }
            _ => {}
        }
        let process = self.processes.get_mut(&id).expect("a live process is known");
        process.shared.set_dead();
        process.exit = Some(exit);
        process.tasks.clear();
        let waiting = std::mem::take(&mut process.waiting);
        self.effects.kills.push(process.node);
        self.effects.wakers.extend(waiting);
        let timers: Vec<u64> = self.timers.range((id, 0)..=(id, u64::MAX)).map(|((_, timer), _)| *timer).collect();
        for timer in timers {
            self.drop_timer((id, timer));
        }
        ops::process_died(self, id);
        net::process_died(self, id, power_cut);
    }

    pub(crate) fn drop_timer(&mut self, id: (ProcessId, u64)) {
        if let Some(timer) = self.timers.remove(&id) {
            self.queue.remove(&timer.key);
            self.effects.drops.push(Box::new(timer.waker));
        }
    }

    /// Decides the run, unless it is decided already.
    pub(crate) fn decide(&mut self, verdict: Verdict) {
        if self.verdict.is_none() {
            self.trace(None, "verdict", &[], Some(&verdict.to_string().into()));
            self.verdict = Some(verdict);
            if let Some(waker) = self.verdict_waker.take() {
                self.wake(waker);
            }
        }
    }

    /// Carries out every event that is due.
    pub(crate) fn run_due(&mut self) {
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > self.now_ns {
                break;
            }
            let event = entry.remove();
            self.event_count += 1;
            match event {
                Event::Timer(process, timer) => self.timer_due((process, timer)),
                Event::Disk(id) => ops::complete(self, id),
                Event::Net(event) => net::happen(self, event),
            }
        }
    }

    fn timer_due(&mut self, id: (ProcessId, u64)) {
        let Some(timer) = self.timers.remove(&id) else { return };
        if let Some(deadline_ns) = timer.monotonic_ns {
            // The clock may have been slowed down since the timer was set.
            let clock = &self.hosts[id.0.host].clock;
            if clock.monotonic_ns(self.now_ns) < deadline_ns {
                let at_ns = clock.world_at(deadline_ns).max(self.now_ns + 1);
                let key = self.schedule(at_ns, Event::Timer(id.0, id.1));
                self.timers.insert(id, Timer { key, ..timer });
                return;
            }
        }
        self.wake(timer.waker);
    }

    pub(crate) fn host_named(&self, name: &str) -> Option<usize> {
        self.hosts.iter().position(|host| &*host.name == name)
    }
}
