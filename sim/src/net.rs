//! The network of the simulated world bound to the runtime's traits. What happens on it is in [`model`].

pub mod model;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use ottla::runtime::{File, HostPort, Listener, Stream, WriteHalf, write_all_parts};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::disk::SimFile;
use crate::runtime::Process;
use crate::world::World;
use model::Written;

/// How much of a file is sent at once.
const SEND_FILE_CHUNK_BYTES: u64 = 64 * 1024;

fn failure(error: i32) -> io::Error {
    io::Error::from_raw_os_error(error)
}

/// A listening socket of the simulated world.
pub struct SimListener {
    world: World,
    process: Arc<Process>,
    address: SocketAddr,
}

impl SimListener {
    pub(crate) async fn bind(world: World, process: Arc<Process>, at: SocketAddr) -> io::Result<Self> {
        process.alive().await;
        let address = world.with(|state| model::listen(state, process.id, at)).map_err(failure)?;
        Ok(Self { world, process, address })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if self.process.is_alive() {
            self.world.with(|state| model::unlisten(state, self.process.id, self.address.port()));
        }
    }
}

impl Listener for SimListener {
    type Stream = SimStream;

    async fn accept(&self) -> io::Result<SimStream> {
        let port = self.address.port();
        let connection = poll_fn(|context| {
            if !self.process.is_alive() {
                return Poll::Pending;
            }
            self.world.with(|state| model::poll_accept(state, self.process.id, port, context.waker()))
        })
        .await
        .map_err(failure)?;
        Ok(SimStream::new(&self.world, &self.process, connection, 1))
    }

    fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

struct Connect {
    world: World,
    process: Arc<Process>,
    id: Option<u64>,
}

impl Future for Connect {
    type Output = Result<u64, i32>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(id) = self.id.filter(|_| self.process.is_alive()) else { return Poll::Pending };
        let poll = self.world.with(|state| model::poll_connect(state, id, context.waker()));
        if poll.is_ready() {
            self.id = None;
        }
        poll
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        if let Some(id) = self.id
            && self.process.is_alive()
        {
            self.world.with(|state| model::abandon_connect(state, id));
        }
    }
}

/// A connection of the simulated world.
pub struct SimStream {
    read: SimRead,
    write: SimWrite,
    local: SocketAddr,
    peer: SocketAddr,
}

impl SimStream {
    fn new(world: &World, process: &Arc<Process>, connection: u64, end: usize) -> Self {
        let (local, peer) = world.with(|state| model::addresses(state, connection, end));
        let half = |is_read| Half { world: world.clone(), process: process.clone(), connection, end, is_read };
        Self { read: SimRead { half: half(true) }, write: SimWrite { half: half(false) }, local, peer }
    }

    /// Both halves, without taking them apart.
    pub fn halves(&mut self) -> (&mut SimRead, &mut SimWrite) {
        (&mut self.read, &mut self.write)
    }

    pub(crate) async fn connect(world: World, process: Arc<Process>, to: &HostPort) -> io::Result<Self> {
        process.alive().await;
        let Some((host, ip)) = world.with(|state| model::resolve(state, process.id.host, &to.host)) else {
            return Err(io::Error::other(format!("cannot resolve '{}': no such host", to.host)));
        };
        let id = world.with(|state| model::connect(state, process.id, host, SocketAddr::new(ip, to.port), std::task::Waker::noop()));
        let connection = Connect { world: world.clone(), process: process.clone(), id: Some(id) }.await.map_err(failure)?;
        Ok(Self::new(&world, &process, connection, 0))
    }
}

impl Stream for SimStream {
    type File = SimFile;
    type Read = SimRead;
    type Write = SimWrite;

    fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    fn local_addr(&self) -> SocketAddr {
        self.local
    }

    fn into_split(self) -> (SimRead, SimWrite) {
        (self.read, self.write)
    }
}

struct Half {
    world: World,
    process: Arc<Process>,
    connection: u64,
    end: usize,
    is_read: bool,
}

impl Drop for Half {
    fn drop(&mut self) {
        if self.process.is_alive() {
            self.world.with(|state| model::drop_half(state, self.connection, self.end, self.is_read));
        }
    }
}

/// The reading half of a connection.
pub struct SimRead {
    half: Half,
}

impl AsyncRead for SimRead {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Half { world, process, connection, end, .. } = &self.half;
        if !process.is_alive() {
            return Poll::Pending;
        }
        // Several segments that have arrived are read at once, as the kernel does.
        let mut is_first = true;
        while buffer.remaining() > 0 {
            let max_count = buffer.remaining();
            match world.with(|state| {
                if !is_first && !model::has_arrived(state, *connection, *end) {
                    return Poll::Pending;
                }
                model::read(state, *connection, *end, max_count, context.waker())
            }) {
                Poll::Ready(Ok(data)) => {
                    buffer.put_slice(&data);
                    if data.is_empty() {
                        break;
                    }
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(failure(error))),
                Poll::Pending if is_first => return Poll::Pending,
                Poll::Pending => break,
            }
            is_first = false;
        }
        Poll::Ready(Ok(()))
    }
}

/// The writing half of a connection.
pub struct SimWrite {
    half: Half,
}

impl AsyncWrite for SimWrite {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(buffer)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Half { world, process, connection, end, .. } = &self.half;
        if !process.is_alive() {
            return Poll::Pending;
        }
        match world.with(|state| model::write(state, *connection, *end, slices, context.waker())) {
            Written::Count(count) => Poll::Ready(Ok(count)),
            Written::Failed(error) => Poll::Ready(Err(failure(error))),
            Written::Wait | Written::Crashed => Poll::Pending,
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Half { world, process, connection, end, .. } = &self.half;
        if !process.is_alive() {
            return Poll::Pending;
        }
        world.with(|state| model::shutdown(state, *connection, *end));
        Poll::Ready(Ok(()))
    }
}

impl WriteHalf for SimWrite {
    type File = SimFile;

    async fn send_file(&mut self, head: Bytes, file: &SimFile, position: u64, len: u64) -> io::Result<()> {
        // As with sendfile(2), what is sent is what the file holds when its turn comes.
        write_all_parts(self, [head].into_iter().collect()).await?;
        let mut sent = 0;
        while sent < len {
            let count = (len - sent).min(SEND_FILE_CHUNK_BYTES);
            let data = file.read_at(position + sent, count as usize).await?;
            if data.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("the file ends {} bytes early", len - sent)));
            }
            sent += data.len() as u64;
            write_all_parts(self, [data].into_iter().collect()).await?;
        }
        Ok(())
    }

    fn reset(self) {
        let Half { world, process, connection, end, .. } = &self.half;
        if process.is_alive() {
            world.with(|state| model::reset(state, *connection, *end));
        }
    }
}
