//! The production side of the boundary: tokio's sockets and timers, the operating system's files, clocks and entropy.
//! The only file of the broker that may name them. Linux only: `sendfile`, `preadv2(RWF_NOWAIT)`, `fallocate`, `syncfs`.
//!
//! Who waits for what:
//! - What ends in the page cache runs *inline* on the worker: writes, reads of cached pages, the length of a file. Handing
//!   those to another thread costs three to four times the CPU of the call itself.
//! - What may wait for the disk runs on tokio's blocking pool: cold reads, syncs, open, rename, remove, `fallocate`. Its closures own all
//!   they need, and a closure that has been handed over runs even if nobody awaits it any more: dropping an I/O future never cancels the I/O.
//! - Before `sendfile`, which would wait for the disk on the worker, the pages are probed with a read that may not wait,
//!   and cold ones are read on the pool first.
//!
//! Errors of files carry the operation and the path ([`DiskError`]) around the operating system's error, whose
//! [`io::ErrorKind`] they keep; `raw_os_error` is found by `source`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, clippy::disallowed_macros, reason = "this is the boundary that the bans protect")]

mod thread;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::tokio::io::{AsyncWrite, Interest};
use ::tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use ::tokio::net::{TcpListener, TcpSocket, TcpStream};
use ::tokio::runtime::{Builder, Handle};
use ::tokio::task::JoinHandle;
use ::tokio::time::Sleep;
use bytes::{Buf, Bytes, BytesMut};
use rustix::net::SendFlags;
use smallvec::SmallVec;

use super::{DirEntry, Disk, File, HostPort, Instant, Listener, Open, Parts, Runtime, Stream, Task, Timer, WriteHalf, write_all_parts};

pub use self::thread::OwnThread;

/// Connections that may wait to be accepted (the kernel cuts it to `net.core.somaxconn`).
const LISTEN_BACKLOG: u32 = 1024;
/// How long `accept` waits before it reports that descriptors or memory ran out: the connection stays queued, so that an
/// accept loop would spin otherwise.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// The bytes of one `sendfile` call, and of one probe of the page cache.
const SEND_WINDOW_BYTES: u64 = 512 * 1024;
/// Up to here a read and one send are cheaper than a send of the head and a `sendfile`.
const SEND_COPY_MAX_BYTES: u64 = 16 * 1024;
/// Up to here [`File::read_at`] allocates what it was asked for without a look at the file's length.
const READ_TRUSTED_BYTES: usize = 256 * 1024;
/// The most slices that `pwritev` takes (`IOV_MAX`).
const WRITE_SLICES_MAX: usize = 1024;
/// How long the end of [`run`] waits for disk work that nobody awaits any more.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(10);
/// How long [`Runtime::halt`] waits for a standard error that takes nothing (a full pipe) before it ends without its message.
const HALT_MESSAGE_WAIT_MS: i64 = 100;
/// The exit code of [`Runtime::halt`]: `EX_SOFTWARE` of `sysexits.h`. It tells a decided stop from a panic (134, `SIGABRT`).
pub const HALT_EXIT_CODE: i32 = 70;

/// Builds a multi-threaded tokio runtime with `worker_threads` workers (at least one), runs what `f` returns on a worker, and returns its
/// value. Tasks that still run then are dropped; disk work that has begun is waited for, for 10 s at most.
///
/// # Errors
/// If threads or the poller cannot be made.
pub fn run<F, Fut, T>(worker_threads: usize, f: F) -> io::Result<T>
where
    F: FnOnce(TokioRuntime) -> Fut,
    Fut: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let tokio = Builder::new_multi_thread().worker_threads(worker_threads.max(1)).thread_name("ottla").enable_io().enable_time().build()?;
    let runtime = {
        let _entered = tokio.enter();
        TokioRuntime::new()
    };
    // On a worker, not on this thread: a future that `block_on` drives is woken across threads each time.
    let main = runtime.spawn("main", f(runtime.clone()));
    let value = tokio.block_on(main.join());
    tokio.shutdown_timeout(SHUTDOWN_WAIT);
    Ok(value.expect("nobody aborts the main task"))
}

/// Production: one handle per process. Its clones share the clock's origin.
#[derive(Clone)]
pub struct TokioRuntime {
    handle: Handle,
    origin: ::tokio::time::Instant,
    disk: TokioDisk,
}

impl TokioRuntime {
    /// A handle to the tokio runtime that this is called in. [`Runtime::now`] counts from here.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[allow(clippy::new_without_default, reason = "a default must not panic")]
    pub fn new() -> Self {
        let handle = Handle::current();
        Self { disk: TokioDisk { handle: handle.clone(), file_systems: Arc::default(), writes_on_pool: false }, handle, origin: ::tokio::time::Instant::now() }
    }

    fn to_tokio(&self, at: Instant) -> ::tokio::time::Instant {
        let since = Duration::from_nanos(at.as_nanos());
        // Some clocks cannot hold the end of our time; a day that nobody lives to see does as well.
        self.origin.checked_add(since).unwrap_or_else(|| self.origin + Duration::from_secs(100 * 365 * 86_400))
    }
}

impl Runtime for TokioRuntime {
    const SIMULATED: bool = false;
    type Listener = TokioListener;
    type Stream = TokioStream;
    type Timer = TokioTimer;
    type Disk = TokioDisk;
    type Task<T: Send + 'static> = TokioTask<T>;

    fn spawn<T, F>(&self, name: &'static str, future: F) -> TokioTask<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        TokioTask(self.handle.spawn(async move {
            let mut future = pin!(future);
            poll_fn(move |cx| unpanicked(name, || future.as_mut().poll(cx))).await
        }))
    }

    async fn blocking<T, F>(&self, work: F) -> T
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        on_pool(&self.handle, "blocking", work).await
    }

    fn now(&self) -> Instant {
        let nanos = ::tokio::time::Instant::now().saturating_duration_since(self.origin).as_nanos();
        Instant::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }

    fn unix_ms(&self) -> i64 {
        unix_ms_of(SystemTime::now())
    }

    fn timer(&self, deadline: Instant) -> TokioTimer {
        let _entered = self.handle.enter();
        TokioTimer { sleep: Box::pin(::tokio::time::sleep_until(self.to_tokio(deadline))), runtime: self.clone() }
    }

    fn random_u64(&self) -> u64 {
        let mut bytes = [0u8; 8];
        loop {
            match rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()) {
                // Up to 256 bytes come whole once the kernel's pool is initialised.
                Ok(8) => return u64::from_ne_bytes(bytes),
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => panic!("getrandom(2) failed: {e}; the kernel is older than 3.17, or a sandbox forbids it"),
            }
        }
    }

    async fn listen(&self, at: SocketAddr) -> io::Result<TokioListener> {
        let listen = || -> io::Result<TokioListener> {
            let socket = if at.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Without it a restarted broker could not bind while connections of its former life are in TIME_WAIT.
            socket.set_reuseaddr(true)?;
            socket.bind(at)?;
            let listener = socket.listen(LISTEN_BACKLOG)?;
            Ok(TokioListener { local_addr: listener.local_addr()?, listener })
        };
        listen().map_err(|e| network_error(format!("cannot listen on {at}"), e))
    }

    async fn resolve(&self, to: &HostPort) -> io::Result<Vec<SocketAddr>> {
        if let Ok(ip) = to.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, to.port)]);
        }
        let found = ::tokio::net::lookup_host((to.host.as_str(), to.port)).await.map_err(|e| network_error(format!("cannot resolve '{}'", to.host), e))?;
        let mut addresses = Vec::new();
        for address in found {
            // A name may be in the hosts file more than once.
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, format!("'{}' has no address", to.host))) } else { Ok(addresses) }
    }

    async fn connect(&self, to: &HostPort) -> io::Result<TokioStream> {
        let mut failure = io::Error::new(io::ErrorKind::NotFound, format!("'{}' has no address", to.host));
        for address in self.resolve(to).await? {
            match connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => failure = network_error(format!("cannot connect to {to} ({address})"), e),
            }
        }
        Err(failure)
    }

    fn disk(&self) -> &TokioDisk {
        &self.disk
    }

    /// Ends the process with `_exit(70)`: no destructor runs and no handler of `atexit`, nothing buffered is flushed, no core is
    /// written. `std::process::exit` would be too gentle, as it flushes standard output, which can block while other tasks go
    /// on, and `abort` may spend minutes on a core file of the whole page cache's mappings before a supervisor can restart the broker.
    async fn halt(&self, why: &str) -> Infallible {
        halt_now(&format!("ottla: halted: {why}\n"))
    }
}

/// Says `message` if standard error takes it, and ends the process.
fn halt_now(message: &str) -> ! {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    // Not `eprintln!`: a full pipe would keep a process alive that must not go on, and so would a lock held by a paused thread.
    let stderr = io::stderr();
    let timeout = Timespec { tv_sec: 0, tv_nsec: HALT_MESSAGE_WAIT_MS * 1_000_000 };
    if poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], Some(&timeout)).is_ok_and(|ready| ready > 0) {
        // A pipe that polls as writable takes PIPE_BUF bytes without blocking.
        let _ = rustix::io::write(&stderr, &message.as_bytes()[..message.len().min(4096)]);
    }
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(HALT_EXIT_CODE) }
}

/// Runs `work`; a panic in it ends the process at once, before any other task can see what it left half done. (In release builds the panic
/// itself aborts and this does nothing.)
fn unpanicked<T>(name: &'static str, work: impl FnOnce() -> T) -> T {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(value) => value,
        Err(_) => {
            // The panic hook has printed the message and the place.
            eprintln!("ottla: task '{name}' panicked; the process ends");
            std::process::abort()
        }
    }
}

/// Runs `work` on the blocking pool. It runs to its end even if the returned future is dropped, which must therefore be polled once.
async fn on_pool<T: Send + 'static>(handle: &Handle, name: &'static str, work: impl FnOnce() -> T + Send + 'static) -> T {
    match handle.spawn_blocking(move || unpanicked(name, work)).await {
        Ok(value) => value,
        // `work` cannot have panicked, and nobody aborts it: the runtime is going away, and with it the task that waits here.
        Err(_) => std::future::pending().await,
    }
}

fn unix_ms_of(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
    }
}

// ---------------------------------------------------------------------------------------------------------------- tasks, timers

/// A task on tokio's workers.
pub struct TokioTask<T>(JoinHandle<T>);

impl<T: Send + 'static> Task<T> for TokioTask<T> {
    fn abort(&self) {
        self.0.abort();
    }

    async fn join(self) -> Option<T> {
        // A panic never gets here: `unpanicked` has ended the process.
        self.0.await.ok()
    }
}

/// A timer with a granularity of 1 ms; never early.
pub struct TokioTimer {
    sleep: Pin<Box<Sleep>>,
    runtime: TokioRuntime,
}

impl Future for TokioTimer {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().poll(cx)
    }
}

impl Timer for TokioTimer {
    fn reset(&mut self, deadline: Instant) {
        let deadline = self.runtime.to_tokio(deadline);
        self.sleep.as_mut().reset(deadline);
    }
}

// --------------------------------------------------------------------------------------------------------------------- sockets

/// Puts what was tried before the error, and keeps its kind.
fn network_error(what: String, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

async fn connect_to(address: SocketAddr) -> io::Result<TokioStream> {
    let stream = TokioStream::new(TcpStream::connect(address).await?)?;
    // A connect to a port of this host that nobody listens on may draw that very port as its own and so meet itself (TCP's simultaneous
    // open). It would keep the port from the broker that is about to start there.
    if stream.local_addr == stream.peer_addr {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

/// A listening TCP socket.
pub struct TokioListener {
    listener: TcpListener,
    local_addr: SocketAddr,
}

impl Listener for TokioListener {
    type Stream = TokioStream;

    async fn accept(&self) -> io::Result<TokioStream> {
        match self.listener.accept().await {
            Ok((stream, _)) => TokioStream::new(stream),
            Err(e) => {
                use rustix::io::Errno;
                let errno = Errno::from_io_error(&e);
                if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) {
                    ::tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Err(network_error(format!("cannot accept a connection on {}", self.local_addr), e))
            }
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }
}

/// A TCP connection.
pub struct TokioStream {
    stream: TcpStream,
    peer_addr: SocketAddr,
    local_addr: SocketAddr,
}

impl TokioStream {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { peer_addr: stream.peer_addr()?, local_addr: stream.local_addr()?, stream })
    }
}

impl Stream for TokioStream {
    type File = TokioFile;
    type Read = OwnedReadHalf;
    type Write = TokioWriteHalf;

    fn peer_addr(&self) -> SocketAddr {
        self.peer_addr
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn into_split(self) -> (OwnedReadHalf, TokioWriteHalf) {
        let (read, write) = self.stream.into_split();
        (read, TokioWriteHalf(write))
    }
}

/// The writing half of a TCP connection; dropping it sends the end of the stream.
pub struct TokioWriteHalf(OwnedWriteHalf);

impl TokioWriteHalf {
    fn stream(&self) -> &TcpStream {
        self.0.as_ref()
    }

    /// Sends `head` into a packet that stays open for what follows.
    async fn send_corked(&self, mut head: Bytes) -> io::Result<()> {
        while !head.is_empty() {
            let stream = self.stream();
            let sent = stream.async_io(Interest::WRITABLE, || Ok(rustix::net::send(stream, &head, SendFlags::MORE | SendFlags::NOSIGNAL)?)).await;
            match sent {
                Ok(sent) => head.advance(sent),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl AsyncWrite for TokioWriteHalf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl WriteHalf for TokioWriteHalf {
    type File = TokioFile;

    async fn send_file(&mut self, head: Bytes, file: &TokioFile, mut position: u64, mut len: u64) -> io::Result<()> {
        let ended = |at| file.error("send", io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends at or before byte {at}")));
        if len <= SEND_COPY_MAX_BYTES {
            let wanted = len as usize;
            let content = if wanted == 0 { Bytes::new() } else { file.read_at(position, wanted).await? };
            if content.len() < wanted {
                return Err(ended(position + content.len() as u64));
            }
            return write_all_parts(self, [head, content].into_iter().collect()).await;
        }
        self.send_corked(head).await?;
        while len > 0 {
            // Room first, then the probe: a slow peer may leave pages time to go cold between the two.
            self.stream().writable().await?;
            let window = len.min(SEND_WINDOW_BYTES);
            if !file.is_cached(position, window) {
                // Not probed again: where `RWF_NOWAIT` is not supported no probe would ever succeed.
                file.fault_in(position, window).await?;
            }
            let stream = self.stream();
            let mut offset = position;
            let sent = stream.try_io(Interest::WRITABLE, || Ok(rustix::fs::sendfile(stream, &file.inner.file, Some(&mut offset), window as usize)?));
            match sent {
                Ok(0) => return Err(ended(position)),
                Ok(sent) => {
                    position += sent as u64;
                    len -= sent as u64;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn reset(self) {
        let stream = self.stream();
        // The reading half may live on in another task, so that dropping this one would not close the descriptor. Dissolving the
        // association resets the connection at once; the linger time covers kernels or sandboxes that refuse it.
        let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
        let _ = rustix::net::connect_unspec(stream);
    }
}

// ----------------------------------------------------------------------------------------------------------------------- files

/// What failed on which path; the operating system's error is its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} '{}': {source}", path.display())]
pub struct DiskError {
    /// The operation in words: "open", "write", "sync".
    pub operation: &'static str,
    /// The path as it was opened; the file may have been renamed since.
    pub path: PathBuf,
    /// What the operating system said.
    pub source: io::Error,
}

fn disk_error(operation: &'static str, path: &Path, source: io::Error) -> io::Error {
    io::Error::new(source.kind(), DiskError { operation, path: path.to_owned(), source })
}

/// The file systems of this host.
#[derive(Clone)]
pub struct TokioDisk {
    handle: Handle,
    /// One descriptor for each directory that [`Disk::sync_filesystem`] was called for. `syncfs` reports the write errors since its
    /// descriptor was opened or last used: a new one for each call would miss errors that came before and that another descriptor was
    /// told (docs/flush.md). So whoever relies on it calls it once before the first write that it is to vouch for.
    file_systems: Arc<Mutex<BTreeMap<PathBuf, Arc<OwnedFd>>>>,
    /// Writes do not run inline: even one into the page cache waits when too much of it is dirty.
    writes_on_pool: bool,
}

impl TokioDisk {
    /// Does `work` with `path` on the pool, and names both in its error.
    async fn at<T: Send + 'static>(&self, operation: &'static str, path: &Path, work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let path = path.to_owned();
        on_pool(&self.handle, operation, move || work(&path).map_err(|e| disk_error(operation, &path, e))).await
    }
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    use rustix::fs::{Mode, OFlags};
    Ok(rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

impl Disk for TokioDisk {
    type File = TokioFile;
    type Lock = TokioLock;

    async fn open(&self, path: &Path, how: Open) -> io::Result<TokioFile> {
        let (handle, writes_on_pool) = (self.handle.clone(), self.writes_on_pool);
        self.at("open", path, move |path| {
            let mut options = std::fs::OpenOptions::new();
            options.read(true);
            match how {
                Open::Read => &mut options,
                Open::Write => options.write(true),
                Open::Create => options.write(true).create(true).truncate(false),
                Open::CreateNew => options.write(true).create_new(true),
            };
            let file = options.open(path)?;
            // Linux opens a directory for reading and fails each read of it; one error for all modes is easier to meet.
            if how == Open::Read && file.metadata()?.is_dir() {
                return Err(io::ErrorKind::IsADirectory.into());
            }
            Ok(TokioFile { inner: Arc::new(FileInner { file, path: path.to_owned() }), handle, writes_on_pool })
        })
        .await
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.at("create the directory", path, |path| std::fs::create_dir_all(path)).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        self.at("list", dir, |dir| {
            let mut entries = Vec::new();
            for entry in std::fs::read_dir(dir)? {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string() {
                    entries.push(DirEntry { name, is_dir: entry.file_type()?.is_dir() });
                }
            }
            entries.sort_unstable();
            Ok(entries)
        })
        .await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let to = to.to_owned();
        self.at("rename", from, move |from| std::fs::rename(from, &to).map_err(|e| io::Error::new(e.kind(), format!("to '{}': {e}", to.display())))).await
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.at("remove", path, |path| std::fs::remove_file(path)).await
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.at("remove the directory", path, |path| std::fs::remove_dir(path)).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.at("sync the directory", dir, |dir| Ok(rustix::fs::fsync(open_dir(dir)?)?)).await
    }

    async fn sync_filesystem(&self, dir: &Path) -> io::Result<()> {
        let file_systems = Arc::clone(&self.file_systems);
        self.at("sync the file system of", dir, move |dir| {
            let known = {
                let mut file_systems = file_systems.lock().unwrap_or_else(PoisonError::into_inner);
                match file_systems.get(dir) {
                    Some(fd) => Arc::clone(fd),
                    None => {
                        let fd = Arc::new(open_dir(dir)?);
                        file_systems.insert(dir.to_owned(), Arc::clone(&fd));
                        fd
                    }
                }
            };
            Ok(rustix::fs::syncfs(&*known)?)
        })
        .await
    }

    async fn try_lock(&self, path: &Path) -> io::Result<Option<TokioLock>> {
        self.at("lock", path, |path| {
            let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
            // flock(2): belongs to this opening of the file, so that it excludes other openings in this process too.
            match file.try_lock() {
                // And fcntl(2), which is what Java's FileLock takes: a Kafka broker on the same directory holds only that one.
                Ok(()) => match rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => Ok(Some(TokioLock { _file: file })),
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Ok(None),
                    Err(e) => Err(e.into()),
                },
                Err(std::fs::TryLockError::WouldBlock) => Ok(None),
                Err(std::fs::TryLockError::Error(e)) => Err(e),
            }
        })
        .await
    }

    async fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.at("ask for the free space of", dir, |dir| {
            let stat = rustix::fs::statvfs(dir)?;
            // What unprivileged processes may use: the rest is reserved so that the system keeps working.
            Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
        })
        .await
    }
}

/// An exclusive lock on a file. The file stays when it is released: removing it would let two processes lock two files of one name.
pub struct TokioLock {
    _file: std::fs::File,
}

struct FileInner {
    file: std::fs::File,
    path: PathBuf,
}

/// An open file. The descriptor is closed when the last clone and the last call that uses it are gone.
#[derive(Clone)]
pub struct TokioFile {
    inner: Arc<FileInner>,
    handle: Handle,
    writes_on_pool: bool,
}

impl fmt::Debug for TokioFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokioFile({})", self.inner.path.display())
    }
}

impl TokioFile {
    fn error(&self, operation: &'static str, error: io::Error) -> io::Error {
        disk_error(operation, &self.inner.path, error)
    }

    async fn on_pool<T: Send + 'static>(&self, operation: &'static str, work: impl FnOnce(&std::fs::File) -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let inner = Arc::clone(&self.inner);
        on_pool(&self.handle, operation, move || work(&inner.file).map_err(|e| disk_error(operation, &inner.path, e))).await
    }

    /// Whether the first and the last page of a range can be read without the disk. At the end of the file: yes, as there is nothing to wait for.
    fn is_cached(&self, position: u64, len: u64) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        let mut probe = |at| pread(&self.inner.file, &mut byte, at, libc::RWF_NOWAIT).is_ok();
        probe(position) && probe(position + (len - 1))
    }

    /// Reads a range into the page cache, on the pool.
    async fn fault_in(&self, position: u64, len: u64) -> io::Result<()> {
        self.on_pool("read", move |file| {
            // One request for the whole range; a hint, which file systems may refuse.
            let _ = rustix::fs::fadvise(file, position, NonZeroU64::new(len), rustix::fs::Advice::WillNeed);
            let mut scratch = vec![MaybeUninit::uninit(); 64 * 1024];
            let (mut at, end) = (position, position + len);
            while at < end {
                let wanted = scratch.len().min((end - at) as usize);
                match pread(file, &mut scratch[..wanted], at, 0)? {
                    0 => break,
                    read => at += read as u64,
                }
            }
            Ok(())
        })
        .await
    }
}

/// Reads into memory that need not be initialised, and returns how much of it is now; 0 at the end of the file.
fn pread(file: &std::fs::File, into: &mut [MaybeUninit<u8>], position: u64, flags: libc::c_int) -> io::Result<usize> {
    let offset = libc::off_t::try_from(position).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let slice = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    loop {
        // SAFETY: `slice` describes `into`, which is borrowed exclusively for the call, and the kernel writes no more than its length.
        // (rustix has `preadv2` for initialised memory only.)
        let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const slice, 1, offset, flags) };
        match usize::try_from(read) {
            Ok(read) => return Ok(read),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Reads on into `buffer` from `position` (where its first byte is) until it holds `len` bytes or the file ends, which it tells by `true`.
fn read_on(file: &std::fs::File, buffer: &mut BytesMut, position: u64, len: usize, flags: libc::c_int) -> io::Result<bool> {
    while buffer.len() < len {
        let filled = buffer.len();
        let room = &mut buffer.spare_capacity_mut()[..len - filled];
        let read = pread(file, room, position + filled as u64, flags)?;
        if read == 0 {
            return Ok(true);
        }
        // SAFETY: `pread` has initialised `read` bytes behind the first `filled`.
        unsafe { buffer.set_len(filled + read) };
    }
    Ok(false)
}

/// Writes all `parts` from `position`.
fn write_parts(file: &std::fs::File, mut position: u64, parts: &[Bytes]) -> io::Result<()> {
    let mut slices: SmallVec<[IoSlice<'_>; 8]> = parts.iter().filter(|part| !part.is_empty()).map(|part| IoSlice::new(part)).collect();
    let mut rest = slices.as_mut_slice();
    while !rest.is_empty() {
        match rustix::io::pwritev(file, &rest[..rest.len().min(WRITE_SLICES_MAX)], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

impl File for TokioFile {
    async fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let len = if len <= READ_TRUSTED_BYTES {
            len
        } else {
            // `len` may come from a peer's wish; the file's length bounds what it can cost.
            let rest = self.len().await?.saturating_sub(position);
            len.min(usize::try_from(rest).unwrap_or(usize::MAX))
        };
        let mut buffer = BytesMut::with_capacity(len);
        // Any error here, also of file systems without `RWF_NOWAIT`, is met again on the pool if it is one.
        let inline = read_on(&self.inner.file, &mut buffer, position, len, libc::RWF_NOWAIT);
        if buffer.len() < len && !matches!(inline, Ok(true)) {
            buffer = self.on_pool("read", move |file| read_on(file, &mut buffer, position, len, 0).map(|_| buffer)).await?;
        }
        Ok(buffer.freeze())
    }

    async fn write_at(&self, position: u64, parts: Parts) -> io::Result<()> {
        if self.writes_on_pool {
            return self.on_pool("write", move |file| write_parts(file, position, &parts)).await;
        }
        write_parts(&self.inner.file, position, &parts).map_err(|e| self.error("write", e))
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.inner.file.metadata().map_err(|e| self.error("ask for the length of", e))?.len())
    }

    async fn modified_ms(&self) -> io::Result<i64> {
        let modified = self.inner.file.metadata().and_then(|metadata| metadata.modified());
        Ok(unix_ms_of(modified.map_err(|e| self.error("ask for the time of", e))?))
    }

    async fn is_guarded(&self) -> io::Result<bool> {
        use std::os::unix::fs::MetadataExt;
        let mode = self.inner.file.metadata().map_err(|e| self.error("ask for the rights of", e))?.mode();
        Ok(mode & 0o027 == 0)
    }

    async fn guard(&self) -> io::Result<()> {
        use std::os::unix::fs::PermissionsExt;
        self.on_pool("take the rights of others from", move |file| file.set_permissions(std::fs::Permissions::from_mode(0o600))).await
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.on_pool("set the length of", move |file| file.set_len(len)).await
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        self.on_pool("preallocate", move |file| {
            use rustix::fs::{FallocateFlags, fallocate};
            use rustix::io::Errno;
            loop {
                match fallocate(file.as_fd(), FallocateFlags::KEEP_SIZE, 0, len) {
                    Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(()),
                    Err(Errno::INTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        })
        .await
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.on_pool("sync", |file| file.sync_data()).await
    }

    async fn write_at_and_sync(&self, position: u64, parts: Parts) -> io::Result<()> {
        if !self.writes_on_pool {
            self.write_at(position, parts).await?;
            return self.sync_data().await;
        }
        self.on_pool("write and sync", move |file| {
            write_parts(file, position, &parts)?;
            file.sync_data()
        })
        .await
    }
}

#[cfg(test)]
mod tests;
