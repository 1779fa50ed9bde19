//! The simulated world's side of the boundary: [`SimRuntime`] is one process of one host in one of its lives.

use std::any::Any;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};

use ottla::runtime::{HostPort, Instant, Runtime, Task};

use crate::disk::SimDisk;
use crate::net::{SimListener, SimStream, model};
use crate::state::{Event, Exit, ProcessId, Timer};
use crate::verdict::Verdict;
use crate::world::World;

/// What a process runs, kept by its host to start it again.
pub type Starter = Arc<dyn Fn(SimRuntime) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// One life of a process. Everything that belongs to it refers to it, and has no effect once it is dead.
pub struct Process {
    /// Which one.
    pub id: ProcessId,
    /// Its host's name.
    pub host: Arc<str>,
    alive: AtomicBool,
    node: OnceLock<madsim::runtime::NodeHandle>,
}

impl Process {
    pub(crate) fn new(id: ProcessId, host: Arc<str>, node: madsim::runtime::NodeHandle) -> Self {
        Self { id, host, alive: AtomicBool::new(true), node: OnceLock::from(node) }
    }

    /// Whether it lives.
    pub fn is_alive(&self) -> bool {
        self.alive.load(Ordering::Relaxed)
    }

    /// The harness: code that belongs to no host.
    pub(crate) fn harness() -> Self {
        Self { id: ProcessId::HARNESS, host: "harness".into(), alive: AtomicBool::new(true), node: OnceLock::new() }
    }

    pub(crate) fn set_dead(&self) {
        self.alive.store(false, Ordering::Relaxed);
    }

    /// Completes at once in a living process, never in a dead one.
    pub(crate) async fn alive(&self) {
        if !self.is_alive() {
            pending::<()>().await;
        }
    }
}

/// What a panic said, from the hook to the wrapper of the task that panicked, which runs right after on the same thread; and the way to
/// the first one, for the report only: it differs between builds, so it must not come into the trace.
#[derive(Default)]
struct LastWords {
    said: Option<String>,
    backtrace: Option<String>,
}

/// A panic hook belongs to the whole process, so what it hands over does too: by thread, as each run has one of its own.
// tidy-allow: static
static LAST_WORDS: Mutex<BTreeMap<String, LastWords>> = Mutex::new(BTreeMap::new());

fn last_words<T>(change: impl FnOnce(&mut LastWords) -> T) -> T {
    let thread = format!("{:?}", std::thread::current().id());
    let mut all = LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    change(all.entry(thread).or_default())
}

/// Forgets what panics on this thread said: its run is over.
pub(crate) fn forget_panics() {
    let thread = format!("{:?}", std::thread::current().id());
    LAST_WORDS.lock().unwrap_or_else(PoisonError::into_inner).remove(&thread);
}

/// Makes panics within a world tell their place to its verdict instead of the terminal. Other threads keep their hook.
pub(crate) fn install_panic_hook() {
    // tidy-allow: static
    static INSTALLED: std::sync::Once = std::sync::Once::new();
    INSTALLED.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if madsim::runtime::Handle::try_current().is_err() {
                return before(info);
            }
            let place = info.location().map_or_else(String::new, |location| format!(" at {}:{}", location.file(), location.line()));
            let said = format!("{}{place}", message(info.payload()));
            let wanted = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
            last_words(|words| {
                words.said = Some(said);
                if wanted && words.backtrace.is_none() {
                    words.backtrace = Some(std::backtrace::Backtrace::force_capture().to_string());
                }
            });
        }));
    });
}

fn message(payload: &(dyn Any + Send)) -> &str {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without words")
}

/// What the last panic on this thread said.
pub(crate) fn take_panic(payload: &(dyn Any + Send)) -> String {
    last_words(|words| words.said.take()).unwrap_or_else(|| message(payload).to_owned())
}

/// The way to the first panic on this thread, if `RUST_BACKTRACE` asks for it.
pub(crate) fn take_backtrace() -> Option<String> {
    last_words(|words| words.backtrace.take())
}

/// A task's future with its process: it is not polled once that is dead, a panic ends the process, and even its drop cannot do harm.
pub(crate) struct Guarded<F> {
    future: Option<Pin<Box<F>>>,
    world: World,
    process: Arc<Process>,
    name: &'static str,
}

impl<F> Guarded<F> {
    pub(crate) fn new(world: World, process: Arc<Process>, name: &'static str, future: F) -> Self {
        Self { future: Some(Box::pin(future)), world, process, name }
    }

    fn end(&mut self) {
        let Some(future) = self.future.take() else { return };
        let result = std::panic::catch_unwind(AssertUnwindSafe(|| drop(future)));
        if self.process.is_alive() {
            self.world.with(|state| {
                if let Some(process) = state.processes.get_mut(&self.process.id)
                    && let Some(count) = process.tasks.get_mut(self.name)
                {
                    *count -= 1;
                    if *count == 0 {
                        process.tasks.remove(self.name);
                    }
                }
            });
            if let Err(payload) = result {
                self.panicked(&*payload);
            }
        }
    }

    fn panicked(&self, payload: &(dyn Any + Send)) {
        let why = format!("task '{}' panicked: {}", self.name, take_panic(payload));
        self.world.with(|state| {
            if self.process.id == ProcessId::HARNESS {
                state.decide(Verdict::Crash { detail: format!("harness: {why}") });
            } else {
                state.end_process(self.process.id, Exit::Panicked(why));
            }
        });
    }
}

impl<F: Future> Future for Guarded<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let Some(future) = this.future.as_mut().filter(|_| this.process.is_alive()) else { return Poll::Pending };
        match std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            // A process that died while it was polled says no more.
            Ok(_) if !this.process.is_alive() => Poll::Pending,
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(output)) => {
                this.end();
                Poll::Ready(output)
            }
            Err(payload) => {
                if this.process.is_alive() {
                    this.panicked(&*payload);
                }
                Poll::Pending
            }
        }
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        self.end();
    }
}

/// A process of the simulated world, as the code in it sees the world.
#[derive(Clone)]
pub struct SimRuntime {
    world: World,
    process: Arc<Process>,
    disk: SimDisk,
}

impl SimRuntime {
    pub(crate) fn new(world: World, process: Arc<Process>) -> Self {
        let disk = SimDisk::new(world.clone(), process.clone());
        Self { world, process, disk }
    }

    /// Whether this life still lasts. For workloads that record in memory of the harness: what a dead one records never happened.
    pub fn is_alive(&self) -> bool {
        self.process.is_alive()
    }

    /// Which host and which of its lives this is.
    pub fn process_id(&self) -> ProcessId {
        self.process.id
    }

    /// The host's name.
    pub fn host_name(&self) -> &str {
        &self.process.host
    }

    /// Starts the main task: the process ends when it returns.
    pub(crate) fn run_main(&self, starter: &Starter) {
        let this = self.clone();
        let starter = starter.clone();
        let _ = self.spawn("main", async move {
            starter(this.clone()).await;
            this.world.with(|state| state.end_process(this.process.id, Exit::Returned));
        });
    }
}

impl Runtime for SimRuntime {
    const SIMULATED: bool = true;
    type Listener = SimListener;
    type Stream = SimStream;
    type Timer = SimTimer;
    type Disk = SimDisk;
    type Task<T: Send + 'static> = SimTask<T>;

    fn spawn<T, F>(&self, name: &'static str, future: F) -> SimTask<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        if !self.process.is_alive() {
            return SimTask { handle: None, process: self.process.clone() };
        }
        self.world.with(|state| {
            if let Some(process) = state.processes.get_mut(&self.process.id) {
                *process.tasks.entry(name).or_default() += 1;
            }
        });
        let future = Guarded::new(self.world.clone(), self.process.clone(), name, future);
        let node = self.process.node.get().expect("set at birth");
        SimTask { handle: Some(node.spawn(future)), process: self.process.clone() }
    }

    async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let delay_ns = self.world.with(|state| match state.hosts.get_mut(self.process.id.host) {
            Some(host) if self.process.is_alive() => 5_000 + host.processor.exponential(200_000),
            _ => 0,
        });
        self.sleep(std::time::Duration::from_nanos(delay_ns)).await;
        work()
    }

    fn now(&self) -> Instant {
        self.world.with(|state| Instant::from_nanos(state.hosts[self.process.id.host].clock.monotonic_ns(state.now_ns)))
    }

    fn unix_ms(&self) -> i64 {
        self.world.with(|state| state.wall_ms(self.process.id.host))
    }

    fn timer(&self, deadline: Instant) -> SimTimer {
        SimTimer { world: self.world.clone(), process: self.process.clone(), deadline, id: None }
    }

    fn random_u64(&self) -> u64 {
        if !self.process.is_alive() {
            return 0;
        }
        self.world.with(|state| state.hosts[self.process.id.host].entropy.bits())
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<SimListener> {
        SimListener::bind(self.world.clone(), self.process.clone(), at).await
    }

    async fn resolve(&self, to: &HostPort) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = to.host.parse() {
            return Ok(vec![SocketAddr::new(ip, to.port)]);
        }
        self.process.alive().await;
        // Every host knows every name: there is no name service that could fail or be slow.
        match self.world.with(|state| model::resolve(state, self.process.id.host, &to.host)) {
            Some((_, ip)) => Ok(vec![SocketAddr::new(ip, to.port)]),
            None => Err(io::Error::other(format!("cannot resolve '{}': no such host", to.host))),
        }
    }

    async fn connect(&self, to: &HostPort) -> io::Result<SimStream> {
        SimStream::connect(self.world.clone(), self.process.clone(), to).await
    }

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    async fn halt(&self, why: &str) -> Infallible {
        if self.process.is_alive() {
            self.world.with(|state| state.end_process(self.process.id, Exit::Halted(why.to_owned())));
        }
        pending().await
    }

    fn buggify(&self, site: &'static str) -> bool {
        self.process.is_alive() && self.world.buggify(self.process.id, site)
    }

    fn event(&self, what: &'static str, values: &[u64]) {
        if self.process.is_alive() {
            self.world.with(|state| state.trace(Some(self.process.id), what, values, None));
        }
    }

    #[cfg(feature = "plants")]
    fn planted(&self, plant: &'static str) -> bool {
        self.world.plant().is_some_and(|planted| planted == plant)
    }
}

/// A timer of the simulated world. It follows its host's monotonic clock.
pub struct SimTimer {
    world: World,
    process: Arc<Process>,
    deadline: Instant,
    id: Option<u64>,
}

impl SimTimer {
    fn disarm(&mut self) {
        if let Some(id) = self.id.take()
            && self.process.is_alive()
        {
            self.world.with(|state| state.drop_timer((self.process.id, id)));
        }
    }
}

impl Future for SimTimer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        let this = &mut *self;
        let deadline_ns = this.deadline.as_nanos();
        let process = this.process.id;
        let armed = this.id;
        let id = this.world.with(|state| {
            let clock = &state.hosts[process.host].clock;
            if clock.monotonic_ns(state.now_ns) >= deadline_ns {
                if let Some(id) = armed {
                    state.drop_timer((process, id));
                }
                return None;
            }
            if let Some(id) = armed
                && let Some(timer) = state.timers.get_mut(&(process, id))
            {
                if !timer.waker.will_wake(context.waker()) {
                    timer.waker = context.waker().clone();
                }
                return Some(id);
            }
            let at_ns = clock.world_at(deadline_ns);
            let id = armed.unwrap_or_else(|| state.next_id());
            let key = state.schedule(at_ns, Event::Timer(process, id));
            state.timers.insert((process, id), Timer { waker: context.waker().clone(), key, monotonic_ns: Some(deadline_ns) });
            Some(id)
        });
        this.id = id;
        if id.is_some() { Poll::Pending } else { Poll::Ready(()) }
    }
}

impl Drop for SimTimer {
    fn drop(&mut self) {
        self.disarm();
    }
}

impl ottla::runtime::Timer for SimTimer {
    fn reset(&mut self, deadline: Instant) {
        // Whoever waits is woken at the new deadline, as the waker moves along.
        self.deadline = deadline;
        let Some(id) = self.id.filter(|_| self.process.is_alive()) else { return };
        let process = self.process.id;
        self.world.with(|state| {
            let Some(timer) = state.timers.remove(&(process, id)) else { return };
            state.queue.remove(&timer.key);
            let at_ns = state.hosts[process.host].clock.world_at(deadline.as_nanos());
            let key = state.schedule(at_ns, Event::Timer(process, id));
            state.timers.insert((process, id), Timer { key, monotonic_ns: Some(deadline.as_nanos()), ..timer });
        });
    }
}

/// A task of the simulated world.
pub struct SimTask<T> {
    handle: Option<madsim::task::JoinHandle<T>>,
    process: Arc<Process>,
}

impl<T: Send + 'static> Task<T> for SimTask<T> {
    fn abort(&self) {
        if let Some(handle) = self.handle.as_ref().filter(|_| self.process.is_alive()) {
            handle.abort();
        }
    }

    async fn join(self) -> Option<T> {
        let Self { handle, process } = self;
        let Some(mut handle) = handle else { return pending().await };
        poll_fn(move |context| {
            if !process.is_alive() {
                return Poll::Pending;
            }
            Pin::new(&mut handle).poll(context).map(Result::ok)
        })
        .await
    }
}
