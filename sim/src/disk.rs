//! The disks of the simulated world: [`content`] and [`model`] are what is stored, [`ops`] is what happens over time — latency, faults,
//! crash points, operations under way — and this file binds them to the runtime's traits.

pub mod content;
pub mod model;
pub mod ops;

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use ottla::runtime::{DirEntry, Disk, File, Open, Parts};

use crate::runtime::Process;
use crate::world::World;
use model::{Errno, InodeId, errno};
use ops::{Answer, Request, Submitted};

/// The file system of a host, as one of its processes sees it.
#[derive(Clone)]
pub struct SimDisk {
    world: World,
    process: Arc<Process>,
}

impl SimDisk {
    pub(crate) fn new(world: World, process: Arc<Process>) -> Self {
        Self { world, process }
    }

    fn call(&self, request: Request) -> Call {
        Call { world: self.world.clone(), process: self.process.clone(), state: CallState::New(Some(request)) }
    }
}

enum CallState {
    New(Option<Request>),
    Waiting(u64),
    Done,
}

/// An I/O call. It starts when first polled; dropping it does not cancel what has started.
struct Call {
    world: World,
    process: Arc<Process>,
    state: CallState,
}

impl Future for Call {
    type Output = io::Result<Answer>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if !self.process.is_alive() {
            return Poll::Pending;
        }
        let this = &mut *self;
        match &mut this.state {
            CallState::New(request) => {
                let request = request.take().expect("a call starts once");
                match this.world.with(|state| ops::submit(state, this.process.id, request, context.waker())) {
                    Submitted::Done(result) => {
                        this.state = CallState::Done;
                        Poll::Ready(result.map_err(io::Error::from_raw_os_error))
                    }
                    Submitted::UnderWay(id) => {
                        this.state = CallState::Waiting(id);
                        Poll::Pending
                    }
                    Submitted::Crashed => Poll::Pending,
                }
            }
            CallState::Waiting(id) => match this.world.with(|state| ops::poll(state, *id, context.waker())) {
                Some(result) => {
                    this.state = CallState::Done;
                    Poll::Ready(result.map_err(io::Error::from_raw_os_error))
                }
                None => Poll::Pending,
            },
            CallState::Done => panic!("an I/O call was polled after it ended"),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let CallState::Waiting(id) = self.state
            && self.process.is_alive()
        {
            self.world.with(|state| ops::abandon(state, id));
        }
    }
}

struct Handle {
    world: World,
    process: Arc<Process>,
    inode: InodeId,
    name: Arc<str>,
    writable: bool,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.process.is_alive() {
            self.world.with(|state| ops::close(state, self.process.id, self.inode));
        }
    }
}

/// An open file of the simulated world.
#[derive(Clone)]
pub struct SimFile(Arc<Handle>);

impl SimFile {
    fn call(&self, request: impl FnOnce(InodeId, Arc<str>) -> Request) -> Call {
        let request = request(self.0.inode, self.0.name.clone());
        Call { world: self.0.world.clone(), process: self.0.process.clone(), state: CallState::New(Some(request)) }
    }
}

impl SimFile {
    fn writable(&self, error: Errno) -> io::Result<()> {
        if self.0.writable { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

/// Path operations say which path failed.
fn about<T>(result: io::Result<T>, path: &Path) -> io::Result<T> {
    result.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

impl File for SimFile {
    async fn read_at(&self, position: u64, len: usize) -> io::Result<Bytes> {
        match self.call(|inode, name| Request::Read { inode, name, position, len }).await? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => unreachable!("a read answers bytes, not {other:?}"),
        }
    }

    async fn write_at(&self, position: u64, parts: Parts) -> io::Result<()> {
        self.writable(errno::EBADF)?;
        self.call(|inode, name| Request::Write { inode, name, position, parts }).await.map(drop)
    }

    async fn len(&self) -> io::Result<u64> {
        match self.call(|inode, name| Request::Len { inode, name }).await? {
            Answer::Number(len) => Ok(len),
            other => unreachable!("a length is a number, not {other:?}"),
        }
    }

    async fn modified_ms(&self) -> io::Result<i64> {
        match self.call(|inode, name| Request::Modified { inode, name }).await? {
            Answer::Signed(ms) => Ok(ms),
            other => unreachable!("a time is a number, not {other:?}"),
        }
    }

    async fn set_len(&self, len: u64) -> io::Result<()> {
        self.writable(errno::EINVAL)?;
        self.call(|inode, name| Request::SetLen { inode, name, len }).await.map(drop)
    }

    async fn preallocate(&self, len: u64) -> io::Result<()> {
        self.writable(errno::EBADF)?;
        self.call(|inode, name| Request::Preallocate { inode, name, len }).await.map(drop)
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.call(|inode, name| Request::Sync { inode, name }).await.map(drop)
    }
}

/// A held lock of the simulated world.
pub struct SimLock {
    world: World,
    process: Arc<Process>,
    inode: InodeId,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        if self.process.is_alive() {
            self.world.with(|state| ops::unlock(state, self.process.id, self.inode));
        }
    }
}

impl Disk for SimDisk {
    type File = SimFile;
    type Lock = SimLock;

    async fn open(&self, path: &Path, how: Open) -> io::Result<SimFile> {
        match about(self.call(Request::Open { path: path.into(), how }).await, path)? {
            Answer::Opened(inode) => {
                let name = path.to_string_lossy().into();
                Ok(SimFile(Arc::new(Handle { world: self.world.clone(), process: self.process.clone(), inode, name, writable: how != Open::Read })))
            }
            other => unreachable!("open answers a file, not {other:?}"),
        }
    }

    async fn create_dir(&self, path: &Path) -> io::Result<()> {
        about(self.call(Request::CreateDir { path: path.into() }).await, path).map(drop)
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<DirEntry>> {
        match about(self.call(Request::List { path: dir.into() }).await, dir)? {
            Answer::Entries(entries) => Ok(entries),
            other => unreachable!("a listing answers entries, not {other:?}"),
        }
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        about(self.call(Request::Rename { from: from.into(), to: to.into() }).await, from).map(drop)
    }

    async fn remove_file(&self, path: &Path) -> io::Result<()> {
        about(self.call(Request::RemoveFile { path: path.into() }).await, path).map(drop)
    }

    async fn remove_dir(&self, path: &Path) -> io::Result<()> {
        about(self.call(Request::RemoveDir { path: path.into() }).await, path).map(drop)
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        about(self.call(Request::SyncDir { path: dir.into() }).await, dir).map(drop)
    }

    async fn sync_filesystem(&self, dir: &Path) -> io::Result<()> {
        about(self.call(Request::SyncBelow { path: dir.into() }).await, dir).map(drop)
    }

    async fn try_lock(&self, path: &Path) -> io::Result<Option<SimLock>> {
        match about(self.call(Request::TryLock { path: path.into() }).await, path)? {
            Answer::Locked(inode) => Ok(inode.map(|inode| SimLock { world: self.world.clone(), process: self.process.clone(), inode })),
            other => unreachable!("a lock answers whether it is held, not {other:?}"),
        }
    }

    async fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        match about(self.call(Request::FreeBytes { path: dir.into() }).await, dir)? {
            Answer::Number(bytes) => Ok(bytes),
            other => unreachable!("free space is a number, not {other:?}"),
        }
    }
}
