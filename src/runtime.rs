//! The boundary: every clock, timer, task, random number, socket and file of Ottla is behind [`Runtime`].
//!
//! Everything with I/O is generic over it (`Broker<R: Runtime>`). It is bound twice: to [`tokio`] in production and to the
//! simulated world in the package `ottla-sim`. No code between asks which one it has. Channels and locks are not I/O:
//! `tokio::sync` is used directly on both sides.
//!
//! Four rules hold for every implementation, and one contract test body (`tests/contract.rs`) checks them on both:
//!
//! 1. *Dropping an I/O future never cancels the I/O.* It happened wholly, partly or not at all; whoever drops one must cope
//!    with all three.
//! 2. *Every I/O call is a crash point.* A crash may come before, within or after it. From the instant of a crash nothing of the
//!    dead process runs, and nothing it still drops has any effect.
//! 3. *Nothing is durable before a sync says so*: bytes after [`File::sync_data`], names after [`Disk::sync_dir`] on the directory.
//! 4. *A failed sync is final.* After an error from [`File::sync_data`] the state of the unsynced bytes is unknown for ever; a later
//!    success proves nothing about them (fsyncgate).

pub mod bind;
pub mod tokio;

use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::ops::{Add, AddAssign, Sub};
use std::path::Path;
use std::time::Duration;

use ::tokio::io::{AsyncRead, AsyncWrite};
use bytes::Bytes;
use smallvec::SmallVec;

/// Buffers that are written one after the other by a single call.
pub type Parts = SmallVec<[Bytes; 4]>;

/// One handle per incarnation of one process on one host. Cloning is cheap; all clones are the same process.
pub trait Runtime: Clone + Send + Sync + 'static {
    /// Whether this is the simulated world; lets [`Runtime::buggify`] sites fold away in production.
    const SIMULATED: bool;
    /// A listening TCP socket.
    type Listener: Listener<Stream = Self::Stream>;
    /// A TCP connection.
    type Stream: Stream<File = <Self::Disk as Disk>::File>;
    /// A timer that can be stored and moved.
    type Timer: Timer;
    /// The file systems of the host.
    type Disk: Disk;
    /// A spawned task.
    type Task<T: Send + 'static>: Task<T>;

    /// Starts a task. `name` is a static label for diagnostics and traces. A panic in any task halts the process.
    fn spawn<T, F>(&self, name: &'static str, future: F) -> Self::Task<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static;

    /// Runs CPU-heavy work without I/O away from the tasks that serve sockets. In the simulation: inline, after a virtual delay.
    fn blocking<T, F>(&self, work: F) -> impl Future<Output = T> + Send
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static;

    /// The monotonic clock of this process.
    fn now(&self) -> Instant;

    /// The wall clock in milliseconds since 1970-01-01T00:00Z. It may jump, drift and run backwards.
    fn unix_ms(&self) -> i64;

    /// A timer that completes at `deadline`, or at once if that has passed.
    fn timer(&self, deadline: Instant) -> Self::Timer;

    /// 64 random bits. Seeded in the simulation, from the operating system in production.
    fn random_u64(&self) -> u64;

    /// Binds and listens. Port 0 draws a free port, which [`Listener::local_addr`] tells.
    fn listen(&self, at: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;

    /// The addresses that `to` means on this host, each with its port, in the order in which they are to be tried; at least one, none of
    /// them twice. An IP address means itself, and asks nobody. A name that has no address, or that cannot be looked up, is an error which
    /// names it.
    fn resolve(&self, to: &HostPort) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;

    /// Resolves ([`Runtime::resolve`]) and connects; tries each address in turn.
    fn connect(&self, to: &HostPort) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// The file systems of the host.
    fn disk(&self) -> &Self::Disk;

    /// Stops this process now, without any clean-up: the answer to a fault after which going on could lose or invent data.
    /// `why` is the last thing the process says.
    fn halt(&self, why: &str) -> impl Future<Output = Infallible> + Send;

    /// In the simulation: whether to take the unlikely branch at `site` now. Always `false` in production.
    fn buggify(&self, site: &'static str) -> bool {
        let _ = site;
        false
    }

    /// Adds a line to the simulation's trace; nothing in production.
    fn event(&self, what: &'static str, values: &[u64]) {
        let _ = (what, values);
    }

    /// Whether the historic bug `plant` is switched on in this world. Exists only under the feature `plants`; code asks through
    /// [`plant!`](crate::plant).
    #[cfg(feature = "plants")]
    fn planted(&self, plant: &'static str) -> bool {
        let _ = plant;
        false
    }

    /// A timer that completes after `duration`.
    fn sleep(&self, duration: Duration) -> Self::Timer {
        self.timer(self.now() + duration)
    }
}

/// Whether a historic bug is planted; `false` at compile time unless the feature `plants` is on.
#[macro_export]
macro_rules! plant {
    ($runtime:expr, $name:literal) => {{
        #[cfg(feature = "plants")]
        {
            $crate::runtime::Runtime::planted($runtime, $name)
        }
        #[cfg(not(feature = "plants"))]
        {
            let _ = &$runtime;
            false
        }
    }};
}

/// A future that completes at its deadline.
pub trait Timer: Future<Output = ()> + Unpin + Send + 'static {
    /// Moves the deadline, also after completion.
    fn reset(&mut self, deadline: Instant);
}

/// A handle to a task. Dropping it detaches the task, which goes on.
pub trait Task<T>: Send + 'static {
    /// Asks the task to stop at its next await. Its destructors run.
    fn abort(&self);
    /// Waits for the end; `None` if it was aborted.
    fn join(self) -> impl Future<Output = Option<T>> + Send;
}

/// A listening TCP socket; dropping it closes it.
pub trait Listener: Send + Sync + 'static {
    /// What [`Listener::accept`] yields.
    type Stream;
    /// The next connection. An error concerns that connection attempt or a lack of resources; the listener stays usable.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
    /// Where it listens, with the port that was drawn if 0 was asked for.
    fn local_addr(&self) -> SocketAddr;
}

/// A TCP connection without Nagle's delay (`TCP_NODELAY`).
pub trait Stream: Send + 'static {
    /// Files whose content [`WriteHalf::send_file`] can send.
    type File: File;
    /// The reading half. A read of 0 bytes into a non-empty buffer means that the peer closed its writing half.
    type Read: AsyncRead + Unpin + Send + 'static;
    /// The writing half.
    type Write: WriteHalf<File = Self::File>;
    /// The other side's address.
    fn peer_addr(&self) -> SocketAddr;
    /// This side's address.
    fn local_addr(&self) -> SocketAddr;
    /// Two halves for one or two tasks. The connection is closed when both are gone.
    fn into_split(self) -> (Self::Read, Self::Write);
}

/// The writing half of a connection. `poll_shutdown` closes this direction only (half close); dropping it does that too.
/// A completed write is in the send buffer: no flush is needed for it to leave.
pub trait WriteHalf: AsyncWrite + Unpin + Send + 'static {
    /// Files whose content can be sent.
    type File: File;
    /// Sends `head` and then `len` bytes of `file` from `position`, without copying them through user space where that is possible.
    ///
    /// # Errors
    /// If the file ends early or cannot be read, `UnexpectedEof` or its error: `head` and a part may have been sent, so the caller must close the connection.
    fn send_file(&mut self, head: Bytes, file: &Self::File, position: u64, len: u64) -> impl Future<Output = io::Result<()>> + Send;
    /// Closes the whole connection at once with a reset: the peer may lose what it has not read.
    fn reset(self);
}

/// Writes all `parts` in order.
///
/// # Errors
/// The connection's error; a prefix may have been sent.
pub async fn write_all_parts<W: AsyncWrite + Unpin>(to: &mut W, mut parts: Parts) -> io::Result<()> {
    use bytes::Buf;
    use std::future::poll_fn;
    use std::pin::Pin;
    parts.retain(|part| !part.is_empty());
    let mut first = 0;
    while first < parts.len() {
        let mut written = poll_fn(|cx| {
            let mut slices = [io::IoSlice::new(&[]); 64];
            let count = slices.len().min(parts.len() - first);
            for (slice, part) in slices.iter_mut().zip(&parts[first..]) {
                *slice = io::IoSlice::new(part);
            }
            Pin::new(&mut *to).poll_write_vectored(cx, &slices[..count])
        })
        .await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while first < parts.len() && written >= parts[first].len() {
            written -= parts[first].len();
            first += 1;
        }
        if written > 0 {
            parts[first].advance(written);
        }
    }
    Ok(())
}

/// Writes a range of a file again, as it reads, so that the next sync covers it.
///
/// After an unclean stop what reads well may be in the page cache alone: a sync that failed leaves pages that are marked clean and never reach
/// the disk, and a process that stopped for it and starts again on the same boot cannot tell. Whoever builds on such bytes writes them again first.
///
/// # Errors
/// The file's; the range is as it was, in the cache at least.
pub async fn rewrite<F: File>(file: &F, mut position: u64, end: u64) -> io::Result<()> {
    const CHUNK_BYTES: u64 = 1 << 20;
    while position < end {
        let bytes = file.read_at(position, (end - position).min(CHUNK_BYTES) as usize).await?;
        if bytes.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let len = bytes.len() as u64;
        file.write_at(position, [bytes].into_iter().collect()).await?;
        position += len;
    }
    Ok(())
}

/// How [`Disk::open`] opens a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    Write,
    /// For reading and writing; made if it does not exist.
    Create,
    /// For reading and writing; must not exist (`AlreadyExists`).
    CreateNew,
}

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirEntry {
    /// The name within its directory. Entries whose names are not UTF-8 are left out of listings: none of ours are.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// The file systems of a host. Paths are relative to the process's working directory or absolute.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file.
    type File: File;
    /// A held lock; released when dropped and when the process dies.
    type Lock: Send + Sync + 'static;

    /// Opens a file. A file that this makes is lost by a crash unless its directory is synced after.
    fn open(&self, path: &Path, how: Open) -> impl Future<Output = io::Result<Self::File>> + Send;
    /// Makes a directory and those above it that are missing. Existing ones are no error. Durable after the parents' sync.
    fn create_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// What the directory holds, sorted by name.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<DirEntry>>> + Send;
    /// Renames a file or a directory within one file system, replacing a file at `to`. Atomic; durable after the sync of both directories.
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Removes a file. Open handles to it stay usable.
    fn remove_file(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Makes the names in `dir` durable: files made, renamed, removed. Not their content.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Makes the content of every file below `dir` durable, at least of those written before the call, as [`File::sync_data`] would for each (`syncfs(2)`).
    /// Errors are told once per caller that was there when they happened: call it once before the first write that it is to vouch for.
    fn sync_filesystem(&self, dir: &Path) -> impl Future<Output = io::Result<()>> + Send;
    /// Takes the exclusive lock on the file `path`, making it if needed; `None` if another process holds it.
    fn try_lock(&self, path: &Path) -> impl Future<Output = io::Result<Option<Self::Lock>>> + Send;
    /// The bytes that can still be written in the file system of `dir`.
    fn free_bytes(&self, dir: &Path) -> impl Future<Output = io::Result<u64>> + Send;
}

/// An open file. Clones share it. All positions and lengths are in bytes.
#[allow(clippy::len_without_is_empty, reason = "the length is asked of the file system, which can fail")]
pub trait File: Clone + Send + Sync + 'static {
    /// Reads `len` bytes from `position`; fewer only if the file ends before.
    fn read_at(&self, position: u64, len: usize) -> impl Future<Output = io::Result<Bytes>> + Send;
    /// Writes all `parts` one after the other from `position`, growing the file as needed (a gap reads as zeros).
    ///
    /// # Errors
    /// After an error any prefix of the bytes may have been written, and the file may have grown by it.
    fn write_at(&self, position: u64, parts: Parts) -> impl Future<Output = io::Result<()>> + Send;
    /// The file's length.
    fn len(&self) -> impl Future<Output = io::Result<u64>> + Send;
    /// The wall-clock time of the last write, in milliseconds since 1970.
    fn modified_ms(&self) -> impl Future<Output = io::Result<i64>> + Send;
    /// Cuts the file or extends it with zeros.
    fn set_len(&self, len: u64) -> impl Future<Output = io::Result<()>> + Send;
    /// Reserves space up to `len` without changing the file's length. A hint: file systems that cannot are no error; a full disk is.
    fn preallocate(&self, len: u64) -> impl Future<Output = io::Result<()>> + Send;
    /// Whether nobody can read the file but its owner and its group, and nobody write it but its owner. Where there are no users: true.
    fn is_guarded(&self) -> impl Future<Output = io::Result<bool>> + Send {
        async { Ok(true) }
    }
    /// Takes all rights away from everybody but the owner, who may read and write. Where there are no users: nothing to do.
    fn guard(&self) -> impl Future<Output = io::Result<()>> + Send {
        async { Ok(()) }
    }
    /// Makes all bytes written before the call, and the length that they need, durable.
    fn sync_data(&self) -> impl Future<Output = io::Result<()>> + Send;
    /// [`File::write_at`] and then [`File::sync_data`] of one file: whatever hands both over to another thread does so once.
    ///
    /// # Errors
    /// Those of the two; after one it is unknown what was written and what is durable.
    fn write_at_and_sync(&self, position: u64, parts: Parts) -> impl Future<Output = io::Result<()>> + Send {
        async move {
            self.write_at(position, parts).await?;
            self.sync_data().await
        }
    }
}

/// A point of a process's monotonic clock: nanoseconds since an origin of that process's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Instant(u64);

impl Instant {
    /// From nanoseconds since the origin.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }
    /// Nanoseconds since the origin.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
    /// How long ago `earlier` was; zero if it is later.
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    /// Saturates at the end of time, about 584 years after the origin.
    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, duration: Duration) {
        *self = *self + duration;
    }
}

impl Sub for Instant {
    type Output = Duration;
    /// Zero if `earlier` is later.
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

/// A host name or IP address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostPort {
    /// A name to resolve, or an address (IPv6 without brackets).
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

impl std::str::FromStr for HostPort {
    type Err = String;
    /// Reads `host:port` or `[v6]:port`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("'{text}' has no port; expected host:port"))?;
        let port = port.parse().map_err(|_| format!("'{port}' in '{text}' is not a port; expected a number from 0 to 65535"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(format!("'{text}' has no host; expected host:port"));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}
