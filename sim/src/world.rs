//! A world: one seed, its hosts, its network, its time. What the harness of a scenario holds.
//!
//! [`run`] makes a world on a fresh thread, runs a scenario's main future in it and reports. Within, [`World::host`] makes hosts,
//! [`Host::start`] starts processes on them, and everything that can go wrong is a function here. Code of the harness runs outside all
//! hosts: it sees the true time, is never crashed, and must not be reached by the processes' code other than through memory that
//! they record into while [`SimRuntime::is_alive`] holds.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::net::Ipv4Addr;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use madsim::runtime::Handle;
use madsim::time::TimeHandle;

use crate::clock::{ClockOptions, HostClock};
use crate::disk::ops::{DiskOptions, HostDisk};
use crate::net::model::{self as net, NetOptions};
use crate::rng::Stream;
use crate::runtime::{Guarded, Process, SimRuntime, Starter, forget_panics, install_panic_hook, take_backtrace, take_panic};
use crate::state::{CrashKind, CrashPoint, Effects, Event, Exit, HostState, ProcessId, ProcessState, State, Timer};
use crate::trace::Trace;
use crate::verdict::Verdict;

/// What a world is made from.
#[derive(Clone, Debug)]
pub struct WorldOptions {
    /// Decides everything.
    pub seed: u64,
    /// The historic bug that is switched on, if any.
    pub plant: Option<String>,
    /// Whether `buggify` sites may fire.
    pub buggify: bool,
    /// How the network behaves at first.
    pub net: NetOptions,
    /// How each disk behaves at first.
    pub disk: DiskOptions,
    /// How far clocks stray at first.
    pub clock: ClockOptions,
    /// Where the whole trace goes.
    pub trace_file: Option<PathBuf>,
    /// How many of the last events are kept for the report.
    pub tail_count: usize,
    /// How much simulated time the scenario may take; more is a liveness failure.
    pub limit: Duration,
}

impl WorldOptions {
    /// A calm world without faults.
    pub fn calm(seed: u64) -> Self {
        Self {
            seed,
            plant: None,
            buggify: false,
            net: NetOptions::default(),
            disk: DiskOptions::default(),
            clock: ClockOptions::default(),
            trace_file: None,
            tail_count: 200,
            limit: Duration::from_secs(3_600),
        }
    }
}

/// What came of a run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// How it ended.
    #[serde(flatten)]
    pub verdict: Verdict,
    /// Simulated time in milliseconds.
    pub simulated_ms: u64,
    /// Events of the queue that were carried out.
    pub event_count: u64,
    /// Client operations completed, as the scenario counts them.
    pub operation_count: u64,
    /// Faults that met a process.
    pub fault_count: u64,
    /// The number of lines of the trace.
    pub trace_count: u64,
    /// The hash of the trace.
    pub trace_hash: String,
    /// Processes that halted themselves, with their last words.
    pub halts: Vec<(String, String)>,
    /// The way to the first panic, if `RUST_BACKTRACE` is set.
    #[serde(skip)]
    pub backtrace: Option<String>,
    /// The last events.
    #[serde(skip)]
    pub tail: Vec<String>,
}

impl Report {
    /// Of a run that nobody saw the end of.
    pub fn without_end(seed: u64, verdict: Verdict) -> Self {
        Self {
            seed,
            verdict,
            simulated_ms: 0,
            event_count: 0,
            operation_count: 0,
            fault_count: 0,
            trace_count: 0,
            trace_hash: String::new(),
            halts: Vec::new(),
            backtrace: None,
            tail: Vec::new(),
        }
    }
}

struct Shared {
    state: Mutex<State>,
    time: TimeHandle,
    handle: Handle,
    harness: Arc<Process>,
    harness_tasks: Mutex<Vec<madsim::task::AbortHandle>>,
    seed: u64,
    plant: Option<String>,
}

/// A world. Cheap to clone.
#[derive(Clone)]
pub struct World(Arc<Shared>);

/// Runs `main` in a world of its own, on a thread of its own.
///
/// # Panics
/// If the thread cannot be started, or the trace file cannot be made.
#[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the thread is around the simulation, not in it")]
pub fn run<F, Fut>(options: WorldOptions, main: F) -> Report
where
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = Verdict>,
{
    install_panic_hook();
    let thread = std::thread::Builder::new().name(format!("seed {}", options.seed)).stack_size(8 << 20).spawn(move || {
        let scheduler_seed = Stream::new(options.seed, "scheduler", 0).bits();
        let runtime = madsim::runtime::Runtime::with_seed_and_config(scheduler_seed, madsim::Config::default());
        let trace = Trace::new(options.tail_count, options.trace_file.as_deref()).expect("the trace file can be made");
        let handle = runtime.handle().clone();
        runtime.block_on(async move {
            let world = World::new(options, trace, handle);
            let report = world.live(main).await;
            world.end().await;
            forget_panics();
            report
        })
    });
    match thread.expect("a thread can be started").join() {
        Ok(report) => report,
        Err(payload) => std::panic::resume_unwind(payload),
    }
}

impl World {
    fn new(options: WorldOptions, trace: Trace, handle: Handle) -> Self {
        let (seed, plant) = (options.seed, options.plant.clone());
        let state = Mutex::new(State::new(options, trace));
        let harness = Arc::new(Process::harness());
        Self(Arc::new(Shared { state, time: TimeHandle::current(), handle, harness, harness_tasks: Mutex::default(), seed, plant }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something to the state, and then what follows from it outside the lock.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let now_ns = self.0.time.elapsed().as_nanos() as u64;
        let mut state = self.lock();
        state.now_ns = now_ns;
        let out = change(&mut state);
        let Effects { wakers, kills, drops } = std::mem::take(&mut state.effects);
        drop(state);
        for node in kills {
            // A paused node's tasks would be dropped under a lock of the executor: let them come to the queue first.
            self.0.handle.resume(node);
            self.0.handle.kill(node);
        }
        wakers.into_iter().for_each(std::task::Waker::wake);
        drop(drops);
        out
    }

    async fn live<F, Fut>(&self, main: F) -> Report
    where
        F: FnOnce(Self) -> Fut,
        Fut: Future<Output = Verdict>,
    {
        let driver = madsim::task::spawn_local(Driver(self.clone()));
        let limit = self.lock().options.limit;
        let mut main = Box::pin(main(self.clone()));
        let mut limit_timer = self.sleep(limit);
        let verdict = poll_fn(|context| {
            let decided = self.with(|state| {
                state.verdict_waker = Some(context.waker().clone());
                state.verdict.clone()
            });
            if let Some(verdict) = decided {
                return Poll::Ready(verdict);
            }
            match std::panic::catch_unwind(AssertUnwindSafe(|| main.as_mut().poll(context))) {
                Ok(Poll::Ready(verdict)) => return Poll::Ready(verdict),
                Ok(Poll::Pending) => {}
                Err(payload) => return Poll::Ready(Verdict::Crash { detail: format!("harness: {}", take_panic(&*payload)) }),
            }
            Pin::new(&mut limit_timer)
                .poll(context)
                .map(|()| Verdict::Liveness { reason: format!("the scenario did not end within {limit:?} of simulated time") })
        })
        .await;
        // A verdict that was found while the scenario ended goes first.
        let verdict = self.lock().verdict.clone().unwrap_or(verdict);
        drop(limit_timer);
        let report = self.with(|state| {
            state.decide(verdict.clone());
            state.trace.flush().expect("the trace file takes no more; make room or name another");
            Report {
                seed: state.options.seed,
                verdict,
                simulated_ms: state.now_ns / 1_000_000,
                event_count: state.event_count,
                operation_count: state.operation_count,
                fault_count: state.fault_count,
                trace_count: state.trace.count(),
                trace_hash: format!("{:016x}", state.trace.hash()),
                halts: state.halts.iter().map(|(host, why)| (host.to_string(), why.clone())).collect(),
                backtrace: take_backtrace(),
                tail: state.trace.tail().map(ToString::to_string).collect(),
            }
        });
        self.0.harness.set_dead();
        for task in self.0.harness_tasks.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            task.abort();
        }
        let _ = std::panic::catch_unwind(AssertUnwindSafe(|| drop(main)));
        driver.abort();
        report
    }

    /// Ends every process and lets go of what holds on to the world, so that memory is given back.
    async fn end(&self) {
        self.with(|state| {
            let live: Vec<ProcessId> = state
                .hosts
                .iter()
                .enumerate()
                .flat_map(|(host, one)| one.live.iter().map(move |incarnation| ProcessId { host, incarnation: *incarnation }))
                .collect();
            for process in live {
                state.end_process(process, Exit::PowerCut);
            }
        });
        self.0.time.sleep(Duration::from_millis(1)).await;
        let left = {
            let mut state = self.lock();
            state.queue.clear();
            (
                std::mem::take(&mut state.timers),
                std::mem::take(&mut state.ops),
                state.driver.take(),
                state.verdict_waker.take(),
                std::mem::take(&mut state.effects),
            )
        };
        drop(left);
        let hosts = std::mem::take(&mut self.lock().hosts);
        let processes = std::mem::take(&mut self.lock().processes);
        drop((hosts, processes));
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// The chosen plant.
    pub fn plant(&self) -> Option<&str> {
        self.0.plant.as_deref()
    }

    /// A stream of random numbers of the harness. The same label gives the same stream.
    pub fn stream(&self, label: &str) -> Stream {
        Stream::new(self.0.seed, label, 0)
    }

    /// The time since the world began.
    pub fn now(&self) -> Duration {
        self.0.time.elapsed()
    }

    /// Completes after `duration` of the world's own time.
    pub fn sleep(&self, duration: Duration) -> HarnessTimer {
        let deadline_ns = (self.now() + duration).as_nanos() as u64;
        HarnessTimer { world: self.clone(), deadline_ns, id: None }
    }

    /// Waits for `future`, but at most for `duration`.
    pub async fn timeout<F: Future>(&self, duration: Duration, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut timer = self.sleep(duration);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending => Pin::new(&mut timer).poll(context).map(|()| None),
        })
        .await
    }

    /// Runs a task of the harness beside the scenario. It ends with the run. A panic in it is a crash of the harness.
    pub fn spawn<T: 'static>(&self, name: &'static str, future: impl Future<Output = T> + 'static) -> HarnessTask<T> {
        let handle = madsim::task::spawn_local(Guarded::new(self.clone(), self.0.harness.clone(), name, future));
        self.0.harness_tasks.lock().unwrap_or_else(PoisonError::into_inner).push(handle.abort_handle());
        HarnessTask(handle)
    }

    /// Decides the run now, unless it is decided.
    pub fn fail(&self, verdict: Verdict) {
        self.with(|state| state.decide(verdict));
    }

    /// Adds a line of the harness to the trace.
    pub fn event(&self, what: &'static str, values: &[u64], note: Option<&str>) {
        self.with(|state| state.trace(None, what, values, note.map(Into::into).as_ref()));
    }

    /// Counts a completed client operation.
    pub fn count_operation(&self) {
        self.with(|state| state.operation_count += 1);
    }

    /// Completed client operations and faults so far.
    pub fn counts(&self) -> (u64, u64) {
        self.with(|state| (state.operation_count, state.fault_count))
    }

    /// Who halted itself so far: host, last words.
    pub fn halts(&self) -> Vec<(String, String)> {
        self.with(|state| state.halts.iter().map(|(host, why)| (host.to_string(), why.clone())).collect())
    }

    /// Counts a fault that a scenario caused by itself.
    pub(crate) fn count_fault_of(&self, what: &'static str, value: u64) {
        self.count_fault(what, &[value]);
    }

    pub(crate) fn count_fault(&self, what: &'static str, values: &[u64]) {
        self.with(|state| {
            state.fault_count += 1;
            state.trace(None, what, values, None);
        });
    }

    pub(crate) fn buggify(&self, process: ProcessId, site: &'static str) -> bool {
        self.with(|state| {
            if !state.buggify {
                return false;
            }
            let seed = state.options.seed;
            let (active, stream) = state.buggify_sites.entry(site).or_insert_with(|| {
                let mut stream = Stream::new(seed, site, u64::MAX);
                (stream.chance(250_000), stream)
            });
            let fires = *active && stream.chance(250_000);
            if fires {
                state.fault_count += 1;
                state.trace(Some(process), "buggify", &[], Some(&site.into()));
            }
            fires
        })
    }

    /// Switches all `buggify` sites on or off.
    pub fn set_buggify(&self, on: bool) {
        self.with(|state| state.buggify = on);
    }

    /// The host of that name, which is made if there is none: powered, with an empty disk.
    pub fn host(&self, name: &str) -> Host {
        let index = self.with(|state| {
            state.host_named(name).unwrap_or_else(|| {
                let index = state.hosts.len();
                let number = index as u64;
                let (seed, options) = (state.options.seed, state.options.clone());
                state.hosts.push(HostState {
                    name: name.into(),
                    ip: Ipv4Addr::from(0x0a00_0001 + index as u32),
                    powered: true,
                    paused: false,
                    runs_since_ns: 0,
                    live: Default::default(),
                    last_incarnation: 0,
                    disk: HostDisk::new(seed, number, options.disk.clone()),
                    clock: HostClock::new(&options.clock, &mut Stream::new(seed, "clock", number)),
                    entropy: Stream::new(seed, "entropy", number),
                    processor: Stream::new(seed, "processor", number),
                    starter: None,
                    crash_point: None,
                    io_count: 0,
                });
                index
            })
        });
        Host { world: self.clone(), index }
    }

    /// All hosts in the order of their making.
    pub fn hosts(&self) -> Vec<Host> {
        let count = self.with(|state| state.hosts.len());
        (0..count).map(|index| Host { world: self.clone(), index }).collect()
    }

    /// Makes the direction `from` to `to` a black hole, or frees it.
    pub fn set_blocked(&self, from: &Host, to: &Host, blocked: bool) {
        self.with(|state| net::set_blocked(state, from.index, to.index, blocked));
    }

    /// Since when `host` has lived, unpaused, without a word of any of the `others`; none if it may hear of one.
    pub fn unheard_since(&self, host: &Host, others: &[Host]) -> Option<Duration> {
        self.with(|state| {
            let mut since_ns = None;
            for other in others.iter().filter(|other| other.index != host.index) {
                since_ns = since_ns.max(Some(state.net.unheard_since_ns(other.index, host.index)?));
            }
            let host = &state.hosts[host.index];
            (!host.paused).then_some(since_ns?.max(host.runs_since_ns)).map(Duration::from_nanos)
        })
    }

    /// Sets the latency on top of the usual one from `from` to `to`.
    pub fn set_extra_latency(&self, from: &Host, to: &Host, extra: Duration) {
        self.with(|state| net::set_extra_latency(state, from.index, to.index, extra.as_nanos() as u64));
    }

    /// Resets every connection between the two.
    pub fn reset_connections(&self, one: &Host, other: &Host) {
        self.with(|state| net::reset_between(state, Some((one.index, other.index))));
    }

    /// Resets every connection there is.
    pub fn reset_all_connections(&self) {
        self.with(|state| net::reset_between(state, None));
    }

    /// Changes how the network behaves.
    pub fn net_options<T>(&self, change: impl FnOnce(&mut NetOptions) -> T) -> T {
        self.with(|state| change(state.net.options_mut()))
    }

    /// Ends every fault there is: blocks, latencies, resets, disk faults, full disks, stalls, armed crashes, pauses, drifting clocks,
    /// `buggify`. Starts nothing: who is dead stays dead until [`Host::restart`].
    pub fn heal_all(&self) {
        self.heal(&self.hosts());
    }

    /// As [`World::heal_all`], for a core of hosts and the links between them; the others stay as they are. Fault rates of the network
    /// and `buggify` concern all and go off.
    pub fn heal(&self, core: &[Host]) {
        self.with(|state| {
            state.buggify = false;
            state.trace(None, "heal", &core.iter().map(|host| host.index as u64).collect::<Vec<_>>(), None);
            net::calm(state);
            for from in core {
                for to in core {
                    net::set_blocked(state, from.index, to.index, false);
                    if from.index != to.index {
                        net::set_extra_latency(state, from.index, to.index, 0);
                    }
                }
            }
            let now_ns = state.now_ns;
            for host in core {
                let host = &mut state.hosts[host.index];
                let garbage = host.disk.options.garbage;
                host.disk.options = DiskOptions { garbage, ..DiskOptions::default() };
                host.disk.aimed.clear();
                host.disk.stalled_until_ns = 0;
                host.disk.model.set_capacity(1 << 40);
                host.crash_point = None;
                host.clock.heal(now_ns);
            }
        });
        for host in core {
            host.resume();
        }
    }
}

/// Carries out events when their time comes.
struct Driver(World);

impl Future for Driver {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (next_ns, now_ns) = self.0.with(|state| {
            state.driver = None;
            state.armed = state.armed.split_off(&(state.now_ns + 1));
            state.run_due();
            let next_ns = state.queue.keys().next().map(|(at_ns, _)| *at_ns);
            let next_ns = next_ns.filter(|next_ns| state.armed.first().is_none_or(|armed_ns| next_ns < armed_ns));
            state.armed.extend(next_ns);
            state.driver = Some(context.waker().clone());
            (next_ns, state.now_ns)
        });
        if let Some(next_ns) = next_ns {
            // `Sleep` rounds up to a millisecond when made, but not when reset. Its timer outlives it.
            let time = &self.0.0.time;
            let mut sleep = pin!(time.sleep(Duration::ZERO));
            sleep.as_mut().reset(time.now_instant() + Duration::from_nanos(next_ns - now_ns));
            if sleep.poll(context).is_ready() {
                context.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

/// A timer of the harness, in the world's own time.
pub struct HarnessTimer {
    world: World,
    deadline_ns: u64,
    id: Option<u64>,
}

impl Future for HarnessTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (deadline_ns, armed) = (self.deadline_ns, self.id);
        let id = self.world.with(|state| {
            if state.now_ns >= deadline_ns {
                if let Some(id) = armed {
                    state.drop_timer((ProcessId::HARNESS, id));
                }
                return None;
            }
            if let Some(timer) = armed.and_then(|id| state.timers.get_mut(&(ProcessId::HARNESS, id))) {
                timer.waker = context.waker().clone();
                return armed;
            }
            let id = state.next_id();
            let key = state.schedule(deadline_ns, Event::Timer(ProcessId::HARNESS, id));
            state.timers.insert((ProcessId::HARNESS, id), Timer { waker: context.waker().clone(), key, monotonic_ns: None });
            Some(id)
        });
        self.id = id;
        if id.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for HarnessTimer {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.world.with(|state| state.drop_timer((ProcessId::HARNESS, id)));
        }
    }
}

/// A task of the harness. Dropping it detaches the task.
pub struct HarnessTask<T>(madsim::task::JoinHandle<T>);

impl<T> HarnessTask<T> {
    /// Stops it.
    pub fn abort(&self) {
        self.0.abort();
    }

    /// Waits for it; `None` if it was aborted.
    pub async fn join(self) -> Option<T> {
        self.0.await.ok()
    }
}

/// A host: a disk, clocks, and the processes that live on it one after another (or beside each other).
#[derive(Clone)]
pub struct Host {
    world: World,
    index: usize,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name())
    }
}

impl Host {
    fn with<T>(&self, change: impl FnOnce(&mut HostState) -> T) -> T {
        self.world.with(|state| change(&mut state.hosts[self.index]))
    }

    /// Its name, by which others connect to it.
    pub fn name(&self) -> String {
        self.with(|host| host.name.to_string())
    }

    /// Its place in the order of making; traces name it so.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.with(|host| host.ip)
    }

    /// Switches the machine on if need be and starts a process that runs `main`. [`Host::restart`] starts the same again.
    pub fn start<F, Fut>(&self, main: F) -> ProcessHandle
    where
        F: Fn(SimRuntime) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let starter: Starter = Arc::new(move |runtime| Box::pin(main(runtime)));
        self.with(|host| host.starter = Some(starter.clone()));
        self.launch(&starter)
    }

    /// Starts again what [`Host::start`] started last, in a new life. Others that still live there go on.
    ///
    /// # Panics
    /// If nothing was ever started.
    pub fn restart(&self) -> ProcessHandle {
        let starter = self.with(|host| host.starter.clone()).expect("something was started on the host before");
        self.launch(&starter)
    }

    fn launch(&self, starter: &Starter) -> ProcessHandle {
        self.resume();
        let node = self.world.0.handle.create_node().name(self.name()).build();
        let process = self.world.with(|state| {
            let host = &mut state.hosts[self.index];
            let was_off = !std::mem::replace(&mut host.powered, true);
            host.last_incarnation += 1;
            host.runs_since_ns = state.now_ns;
            let id = ProcessId { host: self.index, incarnation: host.last_incarnation };
            host.live.insert(id.incarnation);
            let process = Arc::new(Process::new(id, host.name.clone(), node.clone()));
            let state_of = ProcessState { shared: process.clone(), node: node.id(), tasks: BTreeMap::new(), exit: None, waiting: Vec::new() };
            state.processes.insert(id, state_of);
            state.trace(Some(id), "start", &[], None);
            if was_off {
                net::host_up(state, self.index);
            }
            process
        });
        let handle = ProcessHandle { world: self.world.clone(), id: process.id };
        SimRuntime::new(self.world.clone(), process).run_main(starter);
        handle
    }

    /// Crashes it with all its processes.
    pub fn crash(&self, kind: CrashKind) {
        self.world.with(|state| {
            state.fault_count += 1;
            state.crash_host(self.index, kind);
        });
    }

    /// Arms a crash at one of its next I/O calls.
    pub fn crash_at(&self, point: CrashPoint) {
        self.with(|host| host.crash_point = Some(point));
    }

    /// Stops its processes in their tracks, as a debugger or a long garbage collection would. The kernel goes on.
    pub fn pause(&self) {
        self.set_paused(true);
    }

    /// Lets paused processes go on.
    pub fn resume(&self) {
        self.set_paused(false);
    }

    fn set_paused(&self, paused: bool) {
        let nodes: Vec<_> = self.world.with(|state| {
            let host = &mut state.hosts[self.index];
            if host.paused == paused || (paused && host.live.is_empty()) {
                return Vec::new();
            }
            host.paused = paused;
            host.runs_since_ns = state.now_ns;
            let ids: Vec<_> = host.live.iter().map(|incarnation| ProcessId { host: self.index, incarnation: *incarnation }).collect();
            state.trace(None, if paused { "pause" } else { "resume" }, &[self.index as u64], None);
            state.fault_count += u64::from(paused);
            ids.iter().filter_map(|id| Some(state.processes.get(id)?.node)).collect()
        });
        for node in nodes {
            if paused { self.world.0.handle.pause(node) } else { self.world.0.handle.resume(node) }
        }
    }

    /// Whether a process lives on it, paused or not.
    pub fn is_alive(&self) -> bool {
        self.with(|host| !host.live.is_empty())
    }

    /// How many processes ever started on it: the number of the newest.
    pub fn life(&self) -> u32 {
        self.with(|host| host.last_incarnation)
    }

    /// Whether the machine has power.
    pub fn is_powered(&self) -> bool {
        self.with(|host| host.powered)
    }

    /// Whether it is paused.
    pub fn is_paused(&self) -> bool {
        self.with(|host| host.paused)
    }

    /// The living tasks of its processes by name, with their numbers.
    pub fn live_tasks(&self) -> BTreeMap<&'static str, u64> {
        self.world.with(|state| {
            let mut all = BTreeMap::new();
            let range = ProcessId { host: self.index, incarnation: 0 }..=ProcessId { host: self.index, incarnation: u32::MAX };
            for process in state.processes.range(range).map(|(_, process)| process) {
                for (name, count) in &process.tasks {
                    *all.entry(*name).or_default() += count;
                }
            }
            all
        })
    }

    /// The number of connections with a living end here.
    pub fn connection_count(&self) -> usize {
        self.world.with(|state| state.net.connection_count(self.index))
    }

    /// How many I/O calls it made: the measure of [`CrashPoint::skip_count`].
    pub fn io_count(&self) -> u64 {
        self.with(|host| host.io_count)
    }

    /// Looks at, or meddles with, its disk.
    pub fn disk<T>(&self, change: impl FnOnce(&mut HostDisk) -> T) -> T {
        self.with(|host| change(&mut host.disk))
    }

    /// What the file at `path` holds now, as its processes would read it.
    pub fn read_file(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.disk(|disk| {
            let id = disk.model.lookup(path.as_ref()).ok()?;
            disk.model.read(id, 0, disk.model.len(id).ok()? as usize).ok()
        })
    }

    /// Replaces the disk by an empty one.
    pub fn wipe_disk(&self) {
        assert!(!self.is_alive(), "a disk is swapped while the machine is off");
        self.disk(|disk| disk.model = crate::disk::model::DiskModel::new(1 << 40));
    }

    /// Every call that needs the device waits for `duration`.
    pub fn stall_disk(&self, duration: Duration) {
        self.world.with(|state| {
            state.fault_count += 1;
            let until_ns = state.now_ns + duration.as_nanos() as u64;
            state.trace(None, "disk stall", &[self.index as u64, duration.as_millis() as u64], None);
            state.hosts[self.index].disk.stalled_until_ns = until_ns;
        });
    }

    /// Its wall clock in milliseconds since 1970.
    pub fn unix_ms(&self) -> i64 {
        self.world.with(|state| state.wall_ms(self.index))
    }

    /// Its wall clock jumps, backwards if `by_ms` is negative.
    pub fn jump_clock(&self, by_ms: i64) {
        self.world.with(|state| {
            let now_ns = state.now_ns;
            state.trace(None, "clock jump", &[self.index as u64, by_ms as u64], None);
            state.hosts[self.index].clock.jump(now_ns, by_ms);
        });
    }

    /// Both its clocks run too fast (or too slow, if negative) from now on.
    pub fn set_clock_drift(&self, ppm: i64) {
        self.world.with(|state| {
            let now_ns = state.now_ns;
            state.trace(None, "clock drift", &[self.index as u64, ppm as u64], None);
            state.hosts[self.index].clock.set_drift(now_ns, ppm);
        });
    }
}

/// One life of a process, as the harness sees it.
#[derive(Clone)]
pub struct ProcessHandle {
    world: World,
    id: ProcessId,
}

impl ProcessHandle {
    /// Which one.
    pub fn id(&self) -> ProcessId {
        self.id
    }

    /// Why it ended; `None` while it lives.
    pub fn exit(&self) -> Option<Exit> {
        self.world.with(|state| state.processes.get(&self.id).and_then(|process| process.exit.clone()))
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.exit().is_none()
    }

    /// Kills this process alone.
    pub fn kill(&self) {
        self.world.with(|state| {
            state.fault_count += 1;
            state.end_process(self.id, Exit::Killed);
        });
    }

    /// Waits for its end.
    pub async fn wait(&self) -> Exit {
        poll_fn(|context| {
            self.world.with(|state| {
                let process = state.processes.get_mut(&self.id).expect("processes are remembered");
                match &process.exit {
                    Some(exit) => Poll::Ready(exit.clone()),
                    None => {
                        process.waiting.push(context.waker().clone());
                        Poll::Pending
                    }
                }
            })
        })
        .await
    }
}
