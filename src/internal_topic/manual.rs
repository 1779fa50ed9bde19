//! A [`Runtime`] whose clock stands still until a test moves it. Tasks run on the test's own thread; there is no network and no disk.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncWrite;

use crate::runtime::{DirEntry, Disk, File, HostPort, Instant, Listener, Open, Parts, Runtime, Stream, Task, Timer, WriteHalf};

#[derive(Clone)]
pub(crate) struct ManualRuntime(Arc<Mutex<Clock>>);

struct Clock {
    now: Instant,
    unix_ms: i64,
    sleepers: BTreeMap<(Instant, u64), Waker>,
    counter: u64,
    #[cfg(feature = "plants")]
    plants: std::collections::BTreeSet<&'static str>,
}

impl ManualRuntime {
    pub(crate) fn new() -> Self {
        let clock = Clock {
            now: Instant::default(),
            unix_ms: 1_700_000_000_000,
            sleepers: BTreeMap::new(),
            counter: 0,
            #[cfg(feature = "plants")]
            plants: Default::default(),
        };
        Self(Arc::new(Mutex::new(clock)))
    }

    #[cfg(feature = "plants")]
    pub(crate) fn plant(&self, plant: &'static str) {
        self.0.lock().unwrap().plants.insert(plant);
    }

    /// Lets all tasks run until they wait for time or for the test.
    pub(crate) async fn settle(&self) {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    /// Lets time pass, stopping at each timer on the way.
    pub(crate) async fn advance(&self, duration: Duration) {
        self.settle().await;
        let target = self.now() + duration;
        loop {
            let waker = {
                let mut clock = self.0.lock().unwrap();
                let due = clock.sleepers.first_key_value().map(|(key, _)| *key).filter(|(deadline, _)| *deadline <= target);
                let to = due.map_or(target, |(deadline, _)| deadline.max(clock.now));
                clock.unix_ms += (to - clock.now).as_millis() as i64;
                clock.now = to;
                match due {
                    Some(key) => clock.sleepers.remove(&key),
                    None => return,
                }
            };
            waker.into_iter().for_each(Waker::wake);
            self.settle().await;
        }
    }

    pub(crate) fn move_wall_clock(&self, ms: i64) {
        self.0.lock().unwrap().unix_ms += ms;
    }
}

pub(crate) struct ManualTimer {
    runtime: ManualRuntime,
    deadline: Instant,
    registered: Option<(Instant, u64)>,
}

impl ManualTimer {
    fn unregister(&mut self) {
        if let Some(key) = self.registered.take() {
            self.runtime.0.lock().unwrap().sleepers.remove(&key);
        }
    }
}

impl Future for ManualTimer {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.unregister();
        let runtime = self.runtime.clone();
        let mut clock = runtime.0.lock().unwrap();
        if clock.now >= self.deadline {
            return Poll::Ready(());
        }
        clock.counter += 1;
        let key = (self.deadline, clock.counter);
        clock.sleepers.insert(key, cx.waker().clone());
        self.registered = Some(key);
        Poll::Pending
    }
}

impl Timer for ManualTimer {
    fn reset(&mut self, deadline: Instant) {
        self.unregister();
        self.deadline = deadline;
    }
}

impl Drop for ManualTimer {
    fn drop(&mut self) {
        self.unregister();
    }
}

pub(crate) struct ManualTask<T>(tokio::task::JoinHandle<T>);

impl<T: Send + 'static> Task<T> for ManualTask<T> {
    fn abort(&self) {
        self.0.abort();
    }
    async fn join(self) -> Option<T> {
        self.0.await.ok()
    }
}

impl Runtime for ManualRuntime {
    const SIMULATED: bool = true;
    type Listener = Never;
    type Stream = Never;
    type Timer = ManualTimer;
    type Disk = NoDisk;
    type Task<T: Send + 'static> = ManualTask<T>;

    #[allow(clippy::disallowed_methods, reason = "this is a runtime")]
    fn spawn<T, F>(&self, _name: &'static str, future: F) -> ManualTask<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        ManualTask(tokio::spawn(future))
    }

    async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        work()
    }

    fn now(&self) -> Instant {
        self.0.lock().unwrap().now
    }

    fn unix_ms(&self) -> i64 {
        self.0.lock().unwrap().unix_ms
    }

    fn timer(&self, deadline: Instant) -> ManualTimer {
        ManualTimer { runtime: self.clone(), deadline, registered: None }
    }

    fn random_u64(&self) -> u64 {
        let mut clock = self.0.lock().unwrap();
        clock.counter += 1;
        clock.counter.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    async fn listen(&self, _at: SocketAddr) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn resolve(&self, _to: &HostPort) -> io::Result<Vec<SocketAddr>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _to: &HostPort) -> io::Result<Never> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn disk(&self) -> &NoDisk {
        &NoDisk
    }

    async fn halt(&self, why: &str) -> Infallible {
        panic!("{why}")
    }

    #[cfg(feature = "plants")]
    fn planted(&self, plant: &'static str) -> bool {
        self.0.lock().unwrap().plants.contains(plant)
    }
}

/// What does not exist here.
#[derive(Clone)]
pub(crate) enum Never {}

impl Listener for Never {
    type Stream = Never;
    async fn accept(&self) -> io::Result<Never> {
        match *self {}
    }
    fn local_addr(&self) -> SocketAddr {
        match *self {}
    }
}

impl Stream for Never {
    type File = Never;
    type Read = tokio::io::Empty;
    type Write = Never;
    fn peer_addr(&self) -> SocketAddr {
        match *self {}
    }
    fn local_addr(&self) -> SocketAddr {
        match *self {}
    }
    fn into_split(self) -> (tokio::io::Empty, Never) {
        match self {}
    }
}

impl AsyncWrite for Never {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl WriteHalf for Never {
    type File = Never;
    async fn send_file(&mut self, _: Bytes, _: &Never, _: u64, _: u64) -> io::Result<()> {
        match *self {}
    }
    fn reset(self) {
        match self {}
    }
}

impl File for Never {
    async fn read_at(&self, _: u64, _: usize) -> io::Result<Bytes> {
        match *self {}
    }
    async fn write_at(&self, _: u64, _: Parts) -> io::Result<()> {
        match *self {}
    }
    async fn len(&self) -> io::Result<u64> {
        match *self {}
    }
    async fn modified_ms(&self) -> io::Result<i64> {
        match *self {}
    }
    async fn set_len(&self, _: u64) -> io::Result<()> {
        match *self {}
    }
    async fn preallocate(&self, _: u64) -> io::Result<()> {
        match *self {}
    }
    async fn sync_data(&self) -> io::Result<()> {
        match *self {}
    }
}

#[derive(Clone)]
pub(crate) struct NoDisk;

fn unsupported<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Disk for NoDisk {
    type File = Never;
    type Lock = ();
    async fn open(&self, _: &Path, _: Open) -> io::Result<Never> {
        unsupported()
    }
    async fn create_dir(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    async fn list(&self, _: &Path) -> io::Result<Vec<DirEntry>> {
        unsupported()
    }
    async fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unsupported()
    }
    async fn remove_file(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    async fn remove_dir(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    async fn sync_dir(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    async fn sync_filesystem(&self, _: &Path) -> io::Result<()> {
        unsupported()
    }
    async fn try_lock(&self, _: &Path) -> io::Result<Option<()>> {
        unsupported()
    }
    async fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        unsupported()
    }
}

/// Polls once.
pub(crate) async fn is_ready<F: Future + Unpin>(future: &mut F) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_ready())).await
}
