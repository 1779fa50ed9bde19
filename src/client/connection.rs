//! One TCP connection to a broker. Requests are pipelined: many may be in flight, and answers come in their order (the protocol
//! guarantees it), so the oldest request is always the next to be answered and one timer is enough for all.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{ApiKey, ApiVersionsRequest, ApiVersionsResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use tokio::io::AsyncReadExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::client::error::ClientError;
use crate::runtime::{HostPort, Instant, Parts, Runtime, Stream, Timer, write_all_parts};
use crate::wire::guard;

/// How a connection behaves.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// The name that the broker logs.
    pub client_id: String,
    /// How long connecting may take, and the exchange of versions after it.
    pub connect_timeout: Duration,
    /// The largest answer in bytes that is read.
    pub max_response_bytes: usize,
    /// Requests in flight, of all kinds, after which new ones wait.
    pub max_in_flight: usize,
}

impl Default for ConnectionConfig {
    fn default() -> Self {
        Self { client_id: "ottla".to_owned(), connect_timeout: Duration::from_secs(10), max_response_bytes: 256 << 20, max_in_flight: 100 }
    }
}

/// Bytes that are read at a time.
const READ_BYTES: usize = 64 << 10;
/// Frames that are written by one call.
const FRAMES_PER_WRITE: usize = 32;
/// How often an idle connection looks whether a request's time is over: the lateness of a time-out.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// A connection. Clones share it; it closes, and its tasks end, when the last one is gone.
pub struct Connection<R: Runtime> {
    handle: Arc<Handle<R>>,
}

impl<R: Runtime> Clone for Connection<R> {
    fn clone(&self) -> Self {
        Self { handle: self.handle.clone() }
    }
}

struct Handle<R: Runtime> {
    runtime: R,
    shared: Arc<Shared>,
    config: ConnectionConfig,
    in_flight: Arc<Semaphore>,
    /// The versions of each API that the broker told of.
    versions: BTreeMap<i16, (i16, i16)>,
}

impl<R: Runtime> Drop for Handle<R> {
    fn drop(&mut self) {
        self.shared.close("it is not needed any more");
    }
}

/// What the tasks hold: not the handle, whose drop ends them.
struct Shared {
    peer: HostPort,
    state: Mutex<State>,
    /// Turns true once, when the connection is closed.
    closing: watch::Sender<bool>,
}

struct State {
    next_correlation_id: i32,
    awaited: VecDeque<Awaited>,
    /// `None` once the connection is closed.
    queue: Option<mpsc::UnboundedSender<Outgoing>>,
    closed: Option<Closed>,
}

#[derive(Clone)]
struct Closed {
    why: Arc<str>,
    /// The request whose time was over, if that was the reason.
    timed_out: Option<i32>,
}

struct Outgoing {
    frame: Bytes,
    written: Option<oneshot::Sender<()>>,
}

struct Awaited {
    correlation_id: i32,
    deadline: Instant,
    answer: oneshot::Sender<Bytes>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic halts the process, so the lock is never poisoned where anybody could see it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes the connection; the first reason counts.
    fn close(&self, why: &str) {
        self.close_with(Closed { why: why.into(), timed_out: None });
    }

    fn close_with(&self, closed: Closed) {
        let awaited = {
            let mut state = self.state();
            if state.closed.is_none() {
                state.closed = Some(closed);
            }
            state.queue = None;
            std::mem::take(&mut state.awaited)
        };
        // Dropping the senders wakes the callers, who find the reason in the state.
        drop(awaited);
        self.closing.send_replace(true);
    }

    /// Hands an answer to the oldest request.
    fn answer(&self, frame: Bytes) -> Result<(), String> {
        let Some(id) = frame.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)) else {
            return Err(format!("an answer of {} bytes has no correlation id", frame.len()));
        };
        let Some(oldest) = self.state().awaited.pop_front() else {
            return Err(format!("an answer with correlation id {id} came, and nothing was asked"));
        };
        if oldest.correlation_id != id {
            return Err(format!("an answer with correlation id {id} came where {} was due", oldest.correlation_id));
        }
        // A caller that gave up is no error.
        let _ = oldest.answer.send(frame);
        Ok(())
    }
}

impl<R: Runtime> Connection<R> {
    /// Connects and asks the broker for its versions.
    ///
    /// # Errors
    /// [`ClientError`], never one that leaves something done.
    pub async fn open(runtime: &R, peer: &HostPort, config: ConnectionConfig) -> Result<Self, ClientError> {
        let deadline = runtime.now() + config.connect_timeout;
        let after_ms = config.connect_timeout.as_millis() as u64;
        let stream = tokio::select! {
            biased;
            stream = runtime.connect(peer) => stream.map_err(|source| ClientError::Connect { peer: peer.clone(), source: Arc::new(source) })?,
            () = runtime.timer(deadline) => return Err(ClientError::ConnectTimedOut { peer: peer.clone(), after_ms }),
        };
        let (queue, queued) = mpsc::unbounded_channel();
        let (closing, closing_seen) = watch::channel(false);
        let shared = Arc::new(Shared {
            peer: peer.clone(),
            state: Mutex::new(State { next_correlation_id: 0, awaited: VecDeque::new(), queue: Some(queue), closed: None }),
            closing,
        });
        let (read, write) = stream.into_split();
        runtime.spawn("client-write", write_loop::<R>(shared.clone(), write, queued, closing_seen.clone()));
        runtime.spawn("client-read", read_loop::<R>(runtime.clone(), shared.clone(), read, closing_seen, config.max_response_bytes));
        let in_flight = Arc::new(Semaphore::new(config.max_in_flight));
        let mut handle = Handle { runtime: runtime.clone(), shared, config, in_flight, versions: BTreeMap::new() };
        handle.versions = handle.ask_versions(after_ms).await?;
        Ok(Self { handle: Arc::new(handle) })
    }

    /// The broker's address as it was connected to.
    pub fn peer(&self) -> &HostPort {
        &self.handle.shared.peer
    }

    /// Whether it can still be used.
    pub fn is_open(&self) -> bool {
        self.handle.shared.state().closed.is_none()
    }

    /// Closes it: requests in flight are lost.
    pub fn close(&self) {
        self.handle.shared.close("it was closed by this client");
    }

    /// The versions of `Q` that the broker serves; `None` if it does not know it.
    pub fn broker_versions<Q: Request>(&self) -> Option<(i16, i16)> {
        self.handle.versions.get(&Q::KEY).copied()
    }

    /// The newest version of `Q` that both sides know and that is not above `limit`.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`].
    pub fn version_up_to<Q: Request>(&self, limit: i16) -> Result<i16, ClientError> {
        let unsupported = |what: String| ClientError::Unsupported { peer: self.peer().clone(), api: api_name::<Q>(), what: what.into() };
        let Some((min, max)) = self.broker_versions::<Q>() else {
            return Err(unsupported("the broker does not serve it".to_owned()));
        };
        let version = max.min(Q::VERSIONS.max).min(limit);
        if version < min.max(Q::VERSIONS.min) {
            return Err(unsupported(format!(
                "the broker serves versions {min} to {max}, this client knows {} to {}",
                Q::VERSIONS.min,
                Q::VERSIONS.max.min(limit)
            )));
        }
        Ok(version)
    }

    /// The newest version of `Q` that both sides know.
    ///
    /// # Errors
    /// [`ClientError::Unsupported`].
    pub fn version<Q: Request>(&self) -> Result<i16, ClientError> {
        self.version_up_to::<Q>(i16::MAX)
    }

    /// Sends a request in the newest common version and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call<Q: Request>(&self, request: &Q, timeout: Duration) -> Result<Q::Response, ClientError> {
        self.call_at(self.version::<Q>()?, request, timeout).await
    }

    /// Sends a request and waits for the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn call_at<Q: Request>(&self, version: i16, request: &Q, timeout: Duration) -> Result<Q::Response, ClientError> {
        self.start(version, request, timeout).await?.wait().await
    }

    /// Hands a request to the connection, after those before it, and returns what waits for its answer. Waits itself only while too
    /// many requests are in flight. Requests leave in the order in which these calls return.
    ///
    /// # Errors
    /// [`ClientError`]; nothing was asked then.
    pub async fn start<Q: Request>(&self, version: i16, request: &Q, timeout: Duration) -> Result<Answer<R, Q::Response>, ClientError> {
        let handle = &self.handle;
        let permit = handle.in_flight.clone().acquire_owned().await.ok();
        let deadline = handle.runtime.now() + timeout;
        let (correlation_id, receiver) = handle.enqueue(version, request, deadline, permit)?;
        Ok(Answer {
            // Whoever waits keeps the connection open.
            connection: Some(self.clone()),
            shared: handle.shared.clone(),
            receiver,
            correlation_id,
            version,
            api_key: Q::KEY,
            api: api_name::<Q>(),
            after_ms: timeout.as_millis() as u64,
            response: PhantomData,
        })
    }

    /// Sends a request that has no answer (Produce with `acks=0`) and waits until it is handed to the operating system.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn send_only<Q: Request>(&self, version: i16, request: &Q) -> Result<(), ClientError> {
        let shared = &self.handle.shared;
        let (written, receiver) = oneshot::channel();
        {
            let frame_of = |id| encode(version, request, id, &self.handle.config.client_id);
            let mut state = shared.state();
            let id = state.next_correlation_id;
            let frame = frame_of(id).map_err(|what| unsupported::<Q>(shared, what))?;
            let queue = state.queue.as_ref().ok_or_else(|| closed_error(shared, &state))?;
            if queue.send(Outgoing { frame, written: Some(written) }).is_err() {
                return Err(closed_error(shared, &state));
            }
            state.next_correlation_id = id.wrapping_add(1);
        }
        receiver.await.map_err(|_| lost_error(shared, api_name::<Q>(), None, 0))
    }
}

impl<R: Runtime> Handle<R> {
    fn enqueue<Q: Request>(
        &self,
        version: i16,
        request: &Q,
        deadline: Instant,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<(i32, oneshot::Receiver<Bytes>), ClientError> {
        let shared = &self.shared;
        // The id is drawn, the answer awaited and the frame queued under one lock: their orders must be the same.
        let mut state = shared.state();
        let id = state.next_correlation_id;
        let frame = encode(version, request, id, &self.config.client_id).map_err(|what| unsupported::<Q>(shared, what))?;
        let queue = state.queue.as_ref().ok_or_else(|| closed_error(shared, &state))?;
        if queue.send(Outgoing { frame, written: None }).is_err() {
            return Err(closed_error(shared, &state));
        }
        let (answer, receiver) = oneshot::channel();
        state.awaited.push_back(Awaited { correlation_id: id, deadline, answer, _permit: permit });
        state.next_correlation_id = id.wrapping_add(1);
        Ok((id, receiver))
    }

    /// KIP-511: the newest version first; a broker that does not know it answers in version 0 with those of ApiVersions that it knows.
    async fn ask_versions(&self, after_ms: u64) -> Result<BTreeMap<i16, (i16, i16)>, ClientError> {
        let request = ApiVersionsRequest::default()
            .with_client_software_name(StrBytes::from_static_str("ottla"))
            .with_client_software_version(StrBytes::from_static_str(env!("CARGO_PKG_VERSION")));
        let mut version = 4;
        loop {
            let deadline = self.runtime.now() + Duration::from_millis(after_ms);
            let plain = ApiVersionsRequest::default();
            let (id, receiver) = self.enqueue(version, if version >= 3 { &request } else { &plain }, deadline, None)?;
            let frame = receiver.await.map_err(|_| match lost_error(&self.shared, "ApiVersions", Some(id), after_ms) {
                // Asking for versions changes nothing, so a loss here is a failure to connect.
                ClientError::TimedOut { peer, after_ms, .. } => ClientError::ConnectTimedOut { peer, after_ms },
                ClientError::Lost { peer, why, .. } => ClientError::Closed { peer, why },
                other => other,
            })?;
            let malformed = |what: String| ClientError::Malformed { peer: self.shared.peer.clone(), api: "ApiVersions", what: what.into() };
            let code = frame.get(4..6).map(|bytes| i16::from_be_bytes([bytes[0], bytes[1]])).ok_or_else(|| malformed("it is too short".to_owned()))?;
            let unsupported = code == kafka_protocol::ResponseError::UnsupportedVersion.code();
            let response: ApiVersionsResponse = decode(ApiKey::ApiVersions as i16, frame, if unsupported { 0 } else { version }).map_err(malformed)?;
            let own = response.api_keys.iter().find(|api| api.api_key == ApiKey::ApiVersions as i16).map_or(0, |api| api.max_version);
            if unsupported && own < version && version > 0 {
                version = own.max(0);
                continue;
            }
            ClientError::check(response.error_code, None, || format!("{}: ApiVersions", self.shared.peer))?;
            return Ok(response.api_keys.iter().map(|api| (api.api_key, (api.min_version, api.max_version))).collect());
        }
    }
}

/// An answer that is awaited. Dropping it does not take the request back.
pub struct Answer<R: Runtime, T> {
    connection: Option<Connection<R>>,
    shared: Arc<Shared>,
    receiver: oneshot::Receiver<Bytes>,
    correlation_id: i32,
    version: i16,
    api_key: i16,
    api: &'static str,
    after_ms: u64,
    response: PhantomData<fn() -> T>,
}

impl<R: Runtime, T: Decodable + HeaderVersion> Future for Answer<R, T> {
    type Output = Result<T, ClientError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let received = ready!(Pin::new(&mut self.receiver).poll(cx));
        self.connection = None;
        let result = match received {
            Ok(frame) => decode(self.api_key, frame, self.version).map_err(|what| ClientError::Malformed {
                peer: self.shared.peer.clone(),
                api: self.api,
                what: what.into(),
            }),
            Err(_) => Err(lost_error(&self.shared, self.api, Some(self.correlation_id), self.after_ms)),
        };
        Poll::Ready(result)
    }
}

impl<R: Runtime, T: Decodable + HeaderVersion> Answer<R, T> {
    /// Waits for the answer. May be dropped and called again until it has returned once.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn wait(&mut self) -> Result<T, ClientError> {
        self.await
    }
}

/// A request's name for messages.
fn api_name<Q: Request>() -> &'static str {
    crate::wire::api::find(Q::KEY).map_or("a request", |api| api.name)
}

fn unsupported<Q: Request>(shared: &Shared, what: String) -> ClientError {
    ClientError::Unsupported { peer: shared.peer.clone(), api: api_name::<Q>(), what: what.into() }
}

fn closed_error(shared: &Shared, state: &State) -> ClientError {
    let why = state.closed.as_ref().map_or_else(|| "it is closing".into(), |closed| closed.why.clone());
    ClientError::Closed { peer: shared.peer.clone(), why }
}

fn lost_error(shared: &Shared, api: &'static str, id: Option<i32>, after_ms: u64) -> ClientError {
    let closed = shared.state().closed.clone().unwrap_or_else(|| Closed { why: "it is closing".into(), timed_out: None });
    let peer = shared.peer.clone();
    if id.is_some() && closed.timed_out == id { ClientError::TimedOut { peer, api, after_ms } } else { ClientError::Lost { peer, api, why: closed.why } }
}

/// A request's frame, with its length.
fn encode<Q: Request>(version: i16, request: &Q, correlation_id: i32, client_id: &str) -> Result<Bytes, String> {
    let header = RequestHeader::default()
        .with_request_api_key(Q::KEY)
        .with_request_api_version(version)
        .with_correlation_id(correlation_id)
        .with_client_id(Some(StrBytes::from_string(client_id.to_owned())));
    let header_version = Q::header_version(version);
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let size = header.compute_size(header_version).and_then(|header| Ok(header + request.compute_size(version)?)).map_err(|error| text(&error))?;
    let length = i32::try_from(size).map_err(|_| format!("it would have {size} bytes"))?;
    let mut frame = BytesMut::with_capacity(4 + size);
    frame.put_i32(length);
    header.encode(&mut frame, header_version).map_err(|error| text(&error))?;
    request.encode(&mut frame, version).map_err(|error| text(&error))?;
    Ok(frame.freeze())
}

/// Decodes an answer, header first. Counts are checked against the bytes that there are before anything is allocated for them.
fn decode<T: Decodable + HeaderVersion>(api_key: i16, mut frame: Bytes, version: i16) -> Result<T, String> {
    ResponseHeader::decode(&mut frame, T::header_version(version)).map_err(|error| error.to_string())?;
    match crate::wire::api::find(api_key) {
        Some(api) => guard::decode_response(api, version, frame).map_err(|error| error.to_string()),
        None => T::decode(&mut frame, version).map_err(|error| error.to_string()),
    }
}

async fn write_loop<R: Runtime>(
    shared: Arc<Shared>,
    mut write: <R::Stream as Stream>::Write,
    mut queue: mpsc::UnboundedReceiver<Outgoing>,
    mut closing: watch::Receiver<bool>,
) {
    loop {
        let first = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            first = queue.recv() => first,
        };
        let Some(first) = first else { return };
        let mut parts: Parts = Parts::new();
        let mut written = Vec::new();
        let mut next = Some(first);
        while let Some(outgoing) = next {
            parts.push(outgoing.frame);
            written.extend(outgoing.written);
            next = if parts.len() < FRAMES_PER_WRITE { queue.try_recv().ok() } else { None };
        }
        let result = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            result = write_all_parts(&mut write, parts) => result,
        };
        match result {
            Ok(()) => written.into_iter().for_each(|written| {
                // A caller that gave up is no error.
                let _ = written.send(());
            }),
            Err(error) => return shared.close(&format!("writing failed: {error}")),
        }
    }
}

async fn read_loop<R: Runtime>(
    runtime: R,
    shared: Arc<Shared>,
    mut read: <R::Stream as Stream>::Read,
    mut closing: watch::Receiver<bool>,
    max_response_bytes: usize,
) {
    let mut buffer = BytesMut::new();
    let mut watchdog = runtime.sleep(WATCH_EVERY);
    let why = loop {
        match take_frame(&mut buffer, max_response_bytes) {
            Ok(Some(frame)) => match shared.answer(frame) {
                Ok(()) => continue,
                Err(why) => break why,
            },
            Ok(None) => {}
            Err(why) => break why,
        }
        buffer.reserve(READ_BYTES);
        let result: io::Result<usize> = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => return,
            result = read.read_buf(&mut buffer) => result,
            () = &mut watchdog => {
                let now = runtime.now();
                let late = shared.state().awaited.iter().find(|awaited| awaited.deadline <= now).map(|awaited| awaited.correlation_id);
                if late.is_some() {
                    return shared.close_with(Closed { why: "an earlier request was not answered in time".into(), timed_out: late });
                }
                let soonest = shared.state().awaited.iter().map(|awaited| awaited.deadline).min();
                watchdog.reset(soonest.map_or(now + WATCH_EVERY, |deadline| deadline.min(now + WATCH_EVERY)));
                continue;
            }
        };
        match result {
            Ok(0) if buffer.is_empty() => break "the broker closed it".to_owned(),
            Ok(0) => break "the broker closed it in the middle of an answer".to_owned(),
            Ok(_) => {}
            Err(error) => break format!("reading failed: {error}"),
        }
    };
    shared.close(&why);
}

/// Takes the first whole frame off the buffer, without its length.
fn take_frame(buffer: &mut BytesMut, max_bytes: usize) -> Result<Option<Bytes>, String> {
    let Some(length) = buffer.first_chunk().map(|bytes| i32::from_be_bytes(*bytes)) else { return Ok(None) };
    let length = usize::try_from(length).ok().filter(|length| *length <= max_bytes);
    let length = length.ok_or_else(|| "an answer's length is not one (is this a Kafka listener, and is it PLAINTEXT?)".to_owned())?;
    if buffer.len() < 4 + length {
        return Ok(None);
    }
    let frame = buffer.split_to(4 + length).freeze();
    Ok(Some(frame.slice(4..)))
}
