//! One client connection: frames in, responses out, in the order of the requests.
//!
//! A single task does all of it, so that a small request costs no wake-up across threads: it reads as much as there is, dispatches
//! every complete frame one after the other, and sends what is answered in one go. The part of a request that must keep its
//! place (an append) runs inside the dispatch; what has to wait (for a flush, for new records, for a rebalance) becomes a future, and many may be
//! under way. While one waits the connection keeps reading, up to [`MAX_IN_FLIGHT`] requests.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;

use super::Broker;
use super::buffers::{Chunk, MIN_CHUNK_BYTES};
use super::dispatch::{Outcome, dispatch};
use crate::runtime::{Disk, File, Parts, Runtime, Stream, Timer, WriteHalf, write_all_parts};
use crate::wire::fetch::Part;

/// Requests of one connection that may wait for their answers at a time; beyond it the connection is not read.
pub const MAX_IN_FLIGHT: usize = 1000;
/// File ranges up to this are read and sent with what is around them; longer ones go by `send_file`.
const INLINE_SLICE_BYTES: u64 = 64 * 1024;
/// How long requests under way have to be answered when the broker stops.
const FINISH_AT_SHUTDOWN: Duration = Duration::from_secs(5);
/// How long requests under way have to be answered when one that came after them ends the connection.
const FINISH_BEFORE_CLOSE: Duration = Duration::from_millis(500);
/// How long a part of a frame may stay without more of it while others wait for the memory that it holds.
const STALLED: Duration = Duration::from_secs(30);
/// Answers that are gathered before they are sent.
const GATHER_BYTES: u64 = 1024 * 1024;

/// A part of a frame up to this is held in a buffer of its own while the rest does not come.
const HELD_MAX_BYTES: usize = 4 * 1024;

/// What a file is in the world of `R`.
pub type FileOf<R> = <<R as Runtime>::Disk as Disk>::File;
/// A response: bytes and file ranges, to be sent in order, framed.
pub type Response<R> = SmallVec<[Part<FileOf<R>>; 2]>;

/// Who is at the other end.
#[derive(Clone, Debug)]
pub struct Peer {
    /// The peer's address.
    pub address: SocketAddr,
    /// Which of the broker's listeners it came in by.
    pub listener: Arc<str>,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum Ended {
    /// The peer closed it.
    ByPeer,
    /// The broker stops.
    Shutdown,
    /// Nothing came for `connections.max.idle.ms`.
    Idle,
    /// The peer broke the protocol.
    Protocol(String),
    /// The connection failed.
    Io(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Serves a connection to its end.
pub async fn serve<R: Runtime>(broker: Arc<Broker<R>>, stream: R::Stream, listener: Arc<str>, stop: watch::Receiver<bool>) -> Ended {
    let peer = Peer { address: stream.peer_addr(), listener };
    let (read, write) = stream.into_split();
    let mut connection = Connection {
        input: Input { read, chunk: None, held: Bytes::new(), growing: false, max_frame_bytes: broker.max_frame_bytes() },
        write,
        in_flight: FuturesOrdered::new(),
        out: SmallVec::new(),
        out_bytes: 0,
        idle: broker.max_idle(),
        stop,
        peer,
        broker,
    };
    let ended = connection.run().await;
    if let Some(chunk) = connection.input.chunk.take() {
        connection.broker.chunks().give(chunk);
    }
    if !matches!(ended, Ended::Io(_)) {
        // The peer learns of the end in order; it may have gone already.
        let _ = connection.write.shutdown().await;
    }
    ended
}

struct Connection<R: Runtime> {
    broker: Arc<Broker<R>>,
    input: Input<R>,
    write: <R::Stream as Stream>::Write,
    in_flight: FuturesOrdered<BoxFuture<'static, Response<R>>>,
    out: Response<R>,
    out_bytes: u64,
    idle: Duration,
    stop: watch::Receiver<bool>,
    peer: Peer,
}

enum Event<R: Runtime> {
    Stop,
    Idle,
    Answer(Response<R>),
    Read(Result<usize, Ended>),
}

impl<R: Runtime> Connection<R> {
    async fn run(&mut self) -> Ended {
        let runtime = self.broker.runtime().clone();
        // Not moved at each read: one re-arm per period instead.
        let period = self.idle.min(STALLED);
        let mut idle = runtime.sleep(period);
        let mut last_active = runtime.now();
        loop {
            if let Err(ended) = self.dispatch_frames().await {
                // What was asked before the mistake is still answered.
                self.finish(FINISH_BEFORE_CLOSE).await;
                return ended;
            }
            while let Some(response) = self.next_ready() {
                self.push(response);
            }
            if let Err(ended) = self.send().await {
                return ended;
            }
            let may_read = self.in_flight.len() < MAX_IN_FLIGHT;
            match self.input.has_frame() {
                // Answers have made room for requests that are here already; nothing else may come to wake this task.
                Ok(true) if may_read => continue,
                Ok(_) => {}
                Err(ended) => return ended,
            }
            let event: Event<R> = {
                let Self { input, in_flight, stop, broker, .. } = self;
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => Event::Stop,
                    Some(response) = in_flight.next(), if !in_flight.is_empty() => Event::Answer(response),
                    read = input.fill(broker.chunks()), if may_read => Event::Read(read),
                    () = &mut idle => Event::Idle,
                }
            };
            match event {
                Event::Stop => {
                    self.finish(FINISH_AT_SHUTDOWN).await;
                    return Ended::Shutdown;
                }
                Event::Answer(response) => self.push(response),
                Event::Read(Ok(0)) => return Ended::ByPeer,
                Event::Read(Ok(_)) => last_active = runtime.now(),
                Event::Read(Err(ended)) => return ended,
                Event::Idle => {
                    let now = runtime.now();
                    if last_active + self.idle <= now && self.in_flight.is_empty() {
                        return Ended::Idle;
                    }
                    // Not its peer's fault if it is not read, or waits for memory itself.
                    let stalled = last_active + STALLED <= now && may_read && self.input.chunk.is_some() && !self.input.growing;
                    if stalled && self.broker.chunks().is_short() {
                        self.finish(FINISH_BEFORE_CLOSE).await;
                        let what = format!("{STALLED:?} without more of a frame that had begun, while memory for requests (queued.max.request.bytes) is short");
                        return Ended::Protocol(what);
                    }
                    let idle_at = last_active + self.idle;
                    idle.reset(if idle_at > now { idle_at.min(now + period) } else { now + period });
                }
            }
        }
    }

    /// Answers what is under way, in order, as far as it gets.
    async fn finish(&mut self, patience: Duration) {
        let mut patience = self.broker.runtime().sleep(patience);
        loop {
            if self.send().await.is_err() {
                return;
            }
            let answer = tokio::select! {
                biased;
                answer = self.in_flight.next() => answer,
                () = &mut patience => None,
            };
            match answer {
                Some(response) => self.push(response),
                None => return,
            }
        }
    }

    /// Dispatches every complete frame that has been read.
    async fn dispatch_frames(&mut self) -> Result<(), Ended> {
        while self.in_flight.len() < MAX_IN_FLIGHT {
            let Some(frame) = self.input.next_frame()? else {
                break;
            };
            match dispatch(&self.broker, &self.peer, frame).await {
                Outcome::Reply(response) if self.in_flight.is_empty() => self.push(response),
                Outcome::Reply(response) => self.in_flight.push_back(Box::pin(std::future::ready(response))),
                Outcome::Later(future) => self.in_flight.push_back(future),
                Outcome::Nothing => {}
                Outcome::Close(why) => return Err(Ended::Protocol(why)),
            }
            if self.out_bytes >= GATHER_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    /// The next response in order, if it is there already.
    fn next_ready(&mut self) -> Option<Response<R>> {
        if self.in_flight.is_empty() || self.out_bytes >= GATHER_BYTES {
            return None;
        }
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match self.in_flight.poll_next_unpin(&mut context) {
            Poll::Ready(response) => response,
            Poll::Pending => None,
        }
    }

    fn push(&mut self, response: Response<R>) {
        for part in response {
            self.out_bytes += part.len();
            self.out.push(part);
        }
    }

    /// Sends what was gathered.
    async fn send(&mut self) -> Result<(), Ended> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.out_bytes = 0;
        let mut gathered = Parts::new();
        for part in std::mem::take(&mut self.out) {
            match part {
                Part::Bytes(bytes) => gathered.push(bytes),
                Part::Slice { file, position, len } if len <= INLINE_SLICE_BYTES => {
                    let bytes = file.read_at(position, len as usize).await?;
                    if bytes.len() as u64 != len {
                        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a segment ended before a fetched range").into());
                    }
                    gathered.push(bytes);
                }
                Part::Slice { file, position, len } => {
                    let head = gathered.pop().unwrap_or_default();
                    if !gathered.is_empty() {
                        in_time(self.broker.runtime(), self.idle, &mut self.stop, write_all_parts(&mut self.write, std::mem::take(&mut gathered))).await?;
                    }
                    in_time(self.broker.runtime(), self.idle, &mut self.stop, self.write.send_file(head, &file, position, len)).await?;
                }
            }
        }
        if gathered.is_empty() {
            return Ok(());
        }
        in_time(self.broker.runtime(), self.idle, &mut self.stop, write_all_parts(&mut self.write, gathered)).await
    }
}

/// Awaits a write, but no longer than `patience`, and not long once the broker stops: a peer that does not read what it asked for would hold
/// the connection, and what it has of the budget, for ever.
async fn in_time<R: Runtime>(
    runtime: &R,
    patience: Duration,
    stop: &mut watch::Receiver<bool>,
    write: impl Future<Output = io::Result<()>>,
) -> Result<(), Ended> {
    let mut write = pin!(write);
    // A peer that reads is served without a timer.
    if let Poll::Ready(written) = poll_fn(|cx| Poll::Ready(write.as_mut().poll(cx))).await {
        return Ok(written?);
    }
    let mut patience = runtime.sleep(patience);
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
        runtime.sleep(FINISH_AT_SHUTDOWN).await;
    };
    tokio::select! {
        biased;
        written = write => Ok(written?),
        () = &mut patience => Err(Ended::Idle),
        () = stopped => Err(Ended::Shutdown),
    }
}

/// The reading side: a chunk that frames are cut from.
struct Input<R: Runtime> {
    read: <R::Stream as Stream>::Read,
    chunk: Option<Chunk>,
    /// The beginning of a frame, while its peer sends no more of it: a copy, so that whoever sends a few bytes and waits holds no chunk. What is read
    /// next follows it in a chunk; empty while there is one.
    held: Bytes,
    /// Whether it waits for memory: then it is not its peer that keeps the frame from coming.
    growing: bool,
    max_frame_bytes: usize,
}

impl<R: Runtime> Input<R> {
    /// The length that the next frame announces, if its four bytes are there.
    fn announced(&self) -> Result<Option<usize>, Ended> {
        let begun = self.chunk.as_ref().map_or(&self.held[..], |chunk| &chunk.buffer[..]);
        let Some(length) = begun.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = i32::from_be_bytes(*length);
        match usize::try_from(length) {
            Ok(length) if length <= self.max_frame_bytes => Ok(Some(length)),
            _ => Err(Ended::Protocol(format!("the frame's length is {length}; at most {} (socket.request.max.bytes) are accepted", self.max_frame_bytes))),
        }
    }

    /// Whether all of the next frame has been read.
    fn has_frame(&self) -> Result<bool, Ended> {
        let buffered = self.chunk.as_ref().map_or(0, |chunk| chunk.buffer.len());
        Ok(self.announced()?.is_some_and(|length| buffered >= 4 + length))
    }

    /// Cuts off the next frame, without its length, if all of it has been read.
    fn next_frame(&mut self) -> Result<Option<Bytes>, Ended> {
        let Some(length) = self.announced()? else {
            return Ok(None);
        };
        let Some(chunk) = &mut self.chunk else {
            return Ok(None);
        };
        if chunk.buffer.len() < 4 + length {
            return Ok(None);
        }
        let mut frame = chunk.buffer.split_to(4 + length);
        let _ = frame.split_to(4);
        Ok(Some(frame.freeze()))
    }

    /// Reads what there is, at least one byte; 0 at the end of the stream. While nothing is there, an input without a partial frame holds no
    /// chunk. Must not be called while [`Input::has_frame`]. Cancelling it loses nothing.
    async fn fill(&mut self, pool: &super::buffers::ChunkPool) -> Result<usize, Ended> {
        self.growing = false;
        let needed = self.announced()?.map_or(4, |length| 4 + length);
        if self.chunk.as_ref().is_some_and(|chunk| chunk.buffer.is_empty())
            && let Some(chunk) = self.chunk.take()
        {
            pool.give(chunk);
        }
        if let Some(chunk) = &mut self.chunk {
            let buffered = chunk.buffer.len();
            let missing = needed.saturating_sub(buffered).max(1);
            // What is announced need not come. While there is plenty a frame has its room at once; else it is given twice what it has filled.
            let plenty = pool.has_plenty_for(needed);
            let wanted = if !plenty {
                missing.min(MIN_CHUNK_BYTES / 4)
            } else {
                // Room for the rest of the frame, and for more than a sliver of what follows.
                missing.max(if chunk.size_bytes() >= 2 * MIN_CHUNK_BYTES { 0 } else { MIN_CHUNK_BYTES / 4 })
            };
            if chunk.buffer.capacity() - buffered < wanted && !chunk.buffer.try_reclaim(wanted) {
                let size_bytes = if plenty { needed } else { needed.min(2 * buffered) };
                self.growing = true;
                pool.grow(chunk, size_bytes.max(MIN_CHUNK_BYTES)).await;
                self.growing = false;
            }
        }
        let mut waiting_for_budget: Option<Pin<Box<dyn Future<Output = Chunk> + Send + '_>>> = None;
        let read = poll_fn(|cx| {
            let taken = match (self.chunk.take(), &waiting_for_budget) {
                (Some(chunk), _) => Some(chunk),
                (None, None) => pool.try_take(MIN_CHUNK_BYTES),
                // It may have been given its share already, which nobody else has until it is taken.
                (None, Some(_)) => None,
            };
            let mut chunk = match taken {
                Some(chunk) => chunk,
                None => {
                    let waiting = waiting_for_budget.get_or_insert_with(|| Box::pin(pool.take(MIN_CHUNK_BYTES)));
                    match waiting.as_mut().poll(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(chunk) => {
                            waiting_for_budget = None;
                            chunk
                        }
                    }
                }
            };
            if chunk.buffer.is_empty() {
                chunk.buffer.extend_from_slice(&self.held);
            }
            let polled = poll_read_into(Pin::new(&mut self.read), cx, &mut chunk.buffer);
            let buffered = chunk.buffer.len();
            if matches!(polled, Poll::Ready(Ok(read)) if read > 0) || buffered > HELD_MAX_BYTES || buffered >= needed.max(4) {
                self.held = Bytes::new();
                self.chunk = Some(chunk);
            } else {
                if self.held.len() != buffered {
                    self.held = Bytes::copy_from_slice(&chunk.buffer);
                }
                pool.give(chunk);
            }
            polled
        })
        .await?;
        Ok(read)
    }
}

/// Reads into the spare capacity of `buffer`, which is not zeroed.
#[expect(unsafe_code, reason = "the spare capacity of a BytesMut is handed to poll_read as uninitialised memory, and its length set to what was filled")]
fn poll_read_into<S: AsyncRead>(read: Pin<&mut S>, cx: &mut std::task::Context<'_>, buffer: &mut BytesMut) -> Poll<io::Result<usize>> {
    let spare = buffer.spare_capacity_mut();
    debug_assert!(!spare.is_empty(), "a read into no room looks like the end of the stream");
    let mut target = ReadBuf::uninit(spare);
    std::task::ready!(read.poll_read(cx, &mut target))?;
    let filled = target.filled().len();
    // SAFETY: `ReadBuf` guarantees that its first `filled` bytes, which are the first of the spare capacity, are initialised.
    unsafe { buffer.set_len(buffer.len() + filled) };
    Poll::Ready(Ok(filled))
}
