//! A runtime for the log's own tests: tokio's tasks and time over a disk in memory that keeps apart what is written and what is durable,
//! can crash, fill up, and fail. (The simulator has the thorough one; it cannot be named from here.)

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::tokio::{TokioRuntime, TokioTask, TokioTimer};
use crate::runtime::{DirEntry, Disk, File, HostPort, Instant, Listener, Open, Parts, Runtime, Stream, WriteHalf};

const SECTOR: usize = 512;

#[derive(Clone)]
pub struct World {
    tokio: TokioRuntime,
    pub disk: MemDisk,
    random: Arc<Mutex<SmallRng>>,
    pub clock_ms: Arc<AtomicI64>,
    pub halted: Arc<AtomicBool>,
}

/// Runs a test in a world. Everything is on one thread.
pub fn run<T, Fut: Future<Output = T>>(test: impl FnOnce(World) -> Fut) -> T {
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio.block_on(async { test(World::new(1)).await })
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            tokio: TokioRuntime::new(),
            disk: MemDisk::default(),
            random: Arc::new(Mutex::new(SmallRng::seed_from_u64(seed))),
            clock_ms: Arc::new(AtomicI64::new(1_700_000_000_000)),
            halted: Arc::default(),
        }
    }

    /// The world after a power cut: what was not synced is there, not there, or partly there.
    pub fn crash(&self, seed: u64) -> Self {
        Self { disk: self.disk.crash(&mut SmallRng::seed_from_u64(seed)), halted: Arc::default(), ..self.clone() }
    }

    /// The world with an empty disk.
    pub fn empty(&self) -> Self {
        Self { disk: MemDisk::default(), ..self.clone() }
    }

    /// The world after a kill of the process alone: the page cache survives.
    pub fn kill(&self) -> Self {
        Self { disk: self.disk.copy(), halted: Arc::default(), ..self.clone() }
    }
}

impl Runtime for World {
    const SIMULATED: bool = false;
    type Listener = Never;
    type Stream = Never;
    type Timer = TokioTimer;
    type Disk = MemDisk;
    type Task<T: Send + 'static> = TokioTask<T>;

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, name: &'static str, future: F) -> TokioTask<T> {
        self.tokio.spawn(name, future)
    }
    async fn blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> T {
        work()
    }
    fn now(&self) -> Instant {
        self.tokio.now()
    }
    fn unix_ms(&self) -> i64 {
        self.clock_ms.load(Ordering::Relaxed)
    }
    fn timer(&self, deadline: Instant) -> TokioTimer {
        self.tokio.timer(deadline)
    }
    fn random_u64(&self) -> u64 {
        self.random.lock().unwrap().random()
    }
    async fn listen(&self, _: SocketAddr) -> io::Result<Never> {
        unreachable!()
    }
    async fn resolve(&self, _: &HostPort) -> io::Result<Vec<SocketAddr>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    async fn connect(&self, _: &HostPort) -> io::Result<Never> {
        unreachable!()
    }
    fn disk(&self) -> &MemDisk {
        &self.disk
    }
    async fn halt(&self, _: &str) -> Infallible {
        self.halted.store(true, Ordering::Relaxed);
        std::future::pending().await
    }
}

/// A disk, and what is going to be wrong with it.
#[derive(Clone, Default)]
pub struct MemDisk {
    fs: Arc<Mutex<Fs>>,
    pub faults: Arc<Faults>,
}

#[derive(Default)]
pub struct Faults {
    /// Bytes of log segments that can still be written before the disk is full; 0: no limit.
    pub free_bytes: AtomicU64,
    pub limited: AtomicBool,
    pub fail_next_sync: AtomicBool,
    pub fail_next_write: AtomicBool,
    pub syncs: AtomicU64,
    pub bytes_read: AtomicU64,
}

#[derive(Default)]
struct Fs {
    names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    durable_names: BTreeMap<PathBuf, Arc<Mutex<Content>>>,
    dirs: BTreeSet<PathBuf>,
}

#[derive(Clone, Default)]
struct Content {
    written: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Clone)]
pub struct MemFile {
    content: Arc<Mutex<Content>>,
    faults: Arc<Faults>,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl MemDisk {
    fn crash(&self, random: &mut SmallRng) -> Self {
        let fs = self.fs.lock().unwrap();
        let mut after = Fs { dirs: fs.dirs.clone(), ..Fs::default() };
        let all: BTreeSet<&PathBuf> = fs.names.keys().chain(fs.durable_names.keys()).collect();
        for path in all {
            let (written, durable) = (fs.names.get(path), fs.durable_names.get(path));
            let kept = match (written, durable) {
                (Some(written), Some(durable)) if Arc::ptr_eq(written, durable) => Some(written),
                (written, durable) => {
                    if random.random() {
                        written
                    } else {
                        durable
                    }
                }
            };
            if let Some(kept) = kept {
                let content = crashed(&kept.lock().unwrap(), random);
                let content = Arc::new(Mutex::new(Content { written: content.clone(), durable: content }));
                after.names.insert(path.clone(), content.clone());
                after.durable_names.insert(path.clone(), content);
            }
        }
        Self { fs: Arc::new(Mutex::new(after)), faults: Arc::default() }
    }

    fn copy(&self) -> Self {
        let fs = self.fs.lock().unwrap();
        let copy = |content: &Arc<Mutex<Content>>| Arc::new(Mutex::new(content.lock().unwrap().clone()));
        let names: BTreeMap<_, _> = fs.names.iter().map(|(path, content)| (path.clone(), copy(content))).collect();
        let durable_names = fs.durable_names.iter().map(|(path, content)| {
            let same = fs.names.get(path).is_some_and(|written| Arc::ptr_eq(written, content));
            (path.clone(), if same { names[path].clone() } else { copy(content) })
        });
        Self { fs: Arc::new(Mutex::new(Fs { durable_names: durable_names.collect(), names, dirs: fs.dirs.clone() })), faults: Arc::default() }
    }

    /// The file's bytes.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        Some(self.fs.lock().unwrap().names.get(path)?.lock().unwrap().written.clone())
    }

    /// Changes bytes behind everyone's back, durably.
    pub fn tamper(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        let fs = self.fs.lock().unwrap();
        let mut content = fs.names[path].lock().unwrap();
        change(&mut content.written);
        content.durable = content.written.clone();
    }

    pub fn unlink(&self, path: &Path) {
        let mut fs = self.fs.lock().unwrap();
        fs.names.remove(path);
        fs.durable_names.remove(path);
    }

    pub fn paths(&self) -> Vec<PathBuf> {
        self.fs.lock().unwrap().names.keys().cloned().collect()
    }
}

/// What a power cut leaves of a file: each sector as it was or as it was synced, and any length between.
fn crashed(content: &Content, random: &mut SmallRng) -> Vec<u8> {
    let (written, durable) = (&content.written, &content.durable);
    if written == durable {
        return durable.clone();
    }
    let long = if random.random() {
        written.len()
    } else {
        durable.len().max(random.random_range(0..=written.len() / SECTOR) * SECTOR).min(written.len().max(durable.len()))
    };
    let sector_of = |bytes: &[u8], at: usize| {
        let mut sector = vec![0; SECTOR.min(long - at)];
        let have = bytes.get(at..(at + sector.len()).min(bytes.len())).unwrap_or(&[]);
        sector[..have.len()].copy_from_slice(have);
        sector
    };
    let mode = random.random_range(0..3);
    let mut left = Vec::new();
    for at in (0..long).step_by(SECTOR) {
        let keep = match mode {
            0 => true,
            1 => false,
            _ => random.random(),
        };
        left.extend(sector_of(if keep { written } else { durable }, at));
    }
    left
}

impl Disk for MemDisk {
    type File = MemFile;
    type Lock = ();

    async fn open(&self, path: &Path, how: Open) -> io::Result<MemFile> {
        let mut fs = self.fs.lock().unwrap();
        let content = match (fs.names.get(path), how) {
            (Some(_), Open::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content.clone(),
            (None, Open::Read | Open::Write) => return Err(not_found()),
            (None, _) => {
                if !fs.dirs.contains(path.parent().unwrap()) {
                    return Err(not_found());
                }
                let content = Arc::new(Mutex::new(Content::default()));
                fs.names.insert(path.to_owned(), content.clone());
                content
            }
        };
        Ok(MemFile { content, faults: self.faults.clone() })
    }
    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        let mut fs = self.fs.lock().unwrap();
        fs.dirs.extend(path.ancestors().map(Path::to_owned));
        Ok(())
    }
    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        let fs = self.fs.lock().unwrap();
        if !fs.dirs.contains(dir) {
            return Err(not_found());
        }
        let entry =
            |path: &PathBuf, is_dir| (path.parent() == Some(dir)).then(|| DirEntry { name: path.file_name().unwrap().to_str().unwrap().to_owned(), is_dir });
        let mut entries: Vec<DirEntry> =
            fs.names.keys().filter_map(|path| entry(path, false)).chain(fs.dirs.iter().filter_map(|path| entry(path, true))).collect();
        entries.sort();
        Ok(entries)
    }
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut fs = self.fs.lock().unwrap();
        if let Some(content) = fs.names.remove(from) {
            fs.names.insert(to.to_owned(), content);
            return Ok(());
        }
        if !fs.dirs.remove(from) {
            return Err(not_found());
        }
        fs.dirs.insert(to.to_owned());
        let moved = |names: &mut BTreeMap<PathBuf, Arc<Mutex<Content>>>| {
            *names = std::mem::take(names)
                .into_iter()
                .map(|(path, content)| (path.strip_prefix(from).map_or(path.clone(), |rest| to.join(rest)), content))
                .collect();
        };
        moved(&mut fs.names);
        moved(&mut fs.durable_names);
        Ok(())
    }
    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.fs.lock().unwrap().names.remove(path).map(drop).ok_or_else(not_found)
    }
    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.fs.lock().unwrap().dirs.remove(path).then_some(()).ok_or_else(not_found)
    }
    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut fs = self.fs.lock().unwrap();
        let Fs { names, durable_names, .. } = &mut *fs;
        durable_names.retain(|path, _| path.parent() != Some(dir));
        durable_names.extend(names.iter().filter(|(path, _)| path.parent() == Some(dir)).map(|(path, content)| (path.clone(), content.clone())));
        Ok(())
    }
    async fn sync_filesystem(&self, dir: &Path) -> io::Result<()> {
        tokio::task::yield_now().await;
        for (path, content) in &self.fs.lock().unwrap().names {
            if path.starts_with(dir) {
                let mut content = content.lock().unwrap();
                content.durable = content.written.clone();
            }
        }
        self.faults.sync()
    }
    async fn try_lock(&self, path: &Path) -> io::Result<Option<()>> {
        self.open(path, Open::Create).await.map(|_| Some(()))
    }
    async fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}

impl Faults {
    fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        if self.fail_next_sync.swap(false, Ordering::Relaxed) { Err(io::Error::other("planned sync failure")) } else { Ok(()) }
    }
}

impl File for MemFile {
    async fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        let content = self.content.lock().unwrap();
        let start = (position as usize).min(content.written.len());
        let end = start.saturating_add(len).min(content.written.len());
        self.faults.bytes_read.fetch_add((end - start) as u64, Ordering::Relaxed);
        Ok(Bytes::copy_from_slice(&content.written[start..end]))
    }
    async fn write_at(&self, position: u64, parts: Parts) -> io::Result<()> {
        let mut bytes: Vec<u8> = parts.concat();
        let mut result = Ok(());
        if self.faults.fail_next_write.swap(false, Ordering::Relaxed) {
            bytes.truncate(bytes.len() / 2);
            result = Err(io::Error::other("planned write failure"));
        }
        if self.faults.limited.load(Ordering::Relaxed) {
            let free = self.faults.free_bytes.load(Ordering::Relaxed) as usize;
            if bytes.len() > free {
                bytes.truncate(free);
                result = Err(io::ErrorKind::StorageFull.into());
            }
            self.faults.free_bytes.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        }
        let mut content = self.content.lock().unwrap();
        let (start, end) = (position as usize, position as usize + bytes.len());
        if content.written.len() < end {
            content.written.resize(end, 0);
        }
        content.written[start..end].copy_from_slice(&bytes);
        result
    }
    async fn len(&self) -> io::Result<u64> {
        Ok(self.content.lock().unwrap().written.len() as u64)
    }
    async fn modified_ms(&self) -> io::Result<i64> {
        Ok(0)
    }
    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.content.lock().unwrap().written.resize(len as usize, 0);
        Ok(())
    }
    async fn preallocate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }
    async fn sync_data(&self) -> io::Result<()> {
        let seen = self.content.lock().unwrap().written.clone();
        // Appends may come in between.
        tokio::task::yield_now().await;
        self.faults.sync()?;
        self.content.lock().unwrap().durable = seen;
        Ok(())
    }
}

/// There is no network here.
pub enum Never {}

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
    type File = MemFile;
    type Read = Never;
    type Write = Never;
    fn peer_addr(&self) -> SocketAddr {
        match *self {}
    }
    fn local_addr(&self) -> SocketAddr {
        match *self {}
    }
    fn into_split(self) -> (Never, Never) {
        match self {}
    }
}
impl AsyncRead for Never {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match *self {}
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
    type File = MemFile;
    async fn send_file(&mut self, _: Bytes, _: &MemFile, _: u64, _: u64) -> io::Result<()> {
        match *self {}
    }
    fn reset(self) {
        match self {}
    }
}
