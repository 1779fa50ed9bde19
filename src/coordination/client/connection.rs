//! The task behind a session: connects, comes back to the session after a loss, keeps it alive, sends and receives.

use std::collections::{BTreeMap, VecDeque};
use std::future::pending;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot, watch};

use super::connect_string::shuffle;
use super::exchange::{Exchange, Received, Request};
use super::request::{code, stripped};
use super::watching::WatcherId;
use super::{Connector, Options, State, WatchEvent};
use crate::coordination::jute::Writer;
use crate::coordination::op::ErrorCode;
use crate::coordination::protocol::{ConnectRequest, ConnectResponse, opcode};
use crate::runtime::{HostPort, Instant, Runtime, Stream, Timer};

/// The largest answer in bytes that is taken.
const FRAME_MAX_BYTES: usize = 64 << 20;
/// Bytes that wait to be sent, beyond which no more requests are taken.
const UNSENT_MAX_BYTES: usize = 1 << 20;
/// Between two rounds over all members, at least and at most, in milliseconds.
const ROUND_MS: (u64, u64) = (50, 1_000);
/// How long the end of a session is waited for.
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// What a request comes to: the answer's body, or why there is none.
pub(super) type Answer = oneshot::Sender<Result<Bytes, ErrorCode>>;

/// What is asked beside the requests: also while there is no connection.
pub(super) enum Control {
    Authenticate { scheme: String, credentials: Bytes, answer: oneshot::Sender<Result<(), ErrorCode>> },
    Forget(WatcherId),
    Close { done: oneshot::Sender<()> },
}

/// Who is told of events.
pub(super) type Watchers = Mutex<BTreeMap<WatcherId, mpsc::UnboundedSender<WatchEvent>>>;

/// A connection that has the session.
struct Link {
    read: Box<dyn AsyncRead + Send + Unpin>,
    write: Box<dyn AsyncWrite + Send + Unpin>,
    input: BytesMut,
}

/// Why the task ends.
enum Ended {
    Expired,
    AuthFailed,
    Closed,
}

pub(super) struct Driver<R: Runtime> {
    pub(super) rt: R,
    pub(super) connector: Connector,
    pub(super) options: Options,
    pub(super) requests: mpsc::Receiver<Request<Answer>>,
    pub(super) control: mpsc::UnboundedReceiver<Control>,
    pub(super) state: watch::Sender<State>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) exchange: Exchange<Answer>,
    /// The session; 0 before there is one.
    pub(super) session: i64,
    /// The same, for the handles.
    pub(super) id: Arc<AtomicI64>,
    pub(super) password: [u8; 16],
    /// The time-out that the ensemble granted.
    pub(super) timeout: Duration,
    pub(super) credentials: Vec<(String, Bytes)>,
    pub(super) unanswered_credentials: VecDeque<oneshot::Sender<Result<(), ErrorCode>>>,
    /// Who waits for the session's end.
    pub(super) closing: Option<oneshot::Sender<()>>,
}

impl<R: Runtime> Driver<R> {
    pub(super) async fn run(mut self) {
        let ended = loop {
            let mut link = match self.connect().await {
                Ok(link) => link,
                Err(ended) => break ended,
            };
            let state = State::Connected { session: self.session, timeout: self.timeout };
            tracing::debug!(session = format_args!("{:#x}", self.session), timeout_ms = self.timeout.as_millis(), "connected to the coordination service");
            self.state.send_replace(state);
            match self.serve(&mut link).await {
                Ok(ended) => break ended,
                Err(why) => {
                    tracing::info!(session = format_args!("{:#x}", self.session), %why, "the connection to the coordination service is lost; connecting again");
                    self.state.send_replace(State::Connecting { why: Some(why.to_string().into()) });
                    for answer in self.exchange.lost() {
                        let _ = answer.send(Err(ErrorCode::ConnectionLoss));
                    }
                }
            }
            if self.closing.is_some() {
                break Ended::Closed;
            }
        };
        let (state, code) = match ended {
            Ended::Expired => (State::Expired, ErrorCode::SessionExpired),
            Ended::AuthFailed => (State::AuthFailed, ErrorCode::AuthFailed),
            Ended::Closed => (State::Closed, ErrorCode::ConnectionLoss),
        };
        // Whoever sees the failure of a request must find the state that explains it.
        self.state.send_replace(state);
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner).clear();
        for answer in self.exchange.lost() {
            let _ = answer.send(Err(code));
        }
        for answer in self.unanswered_credentials.drain(..) {
            let _ = answer.send(Err(code));
        }
        self.requests.close();
        while let Some(request) = self.requests.recv().await {
            let _ = request.token.send(Err(code));
        }
    }

    /// Takes what is asked beside the requests while there is no connection.
    fn control(&mut self, control: Option<Control>) -> Option<Ended> {
        match control {
            // All handles are gone: nobody waits for anything. The session is left to its time-out.
            None => return Some(Ended::Closed),
            Some(Control::Authenticate { scheme, credentials, answer }) => {
                self.credentials.push((scheme, credentials));
                self.unanswered_credentials.push_back(answer);
            }
            Some(Control::Forget(watcher)) => self.exchange.watches.forget(watcher),
            Some(Control::Close { done }) => {
                self.closing = Some(done);
                return Some(Ended::Closed);
            }
        }
        None
    }

    /// Connects to one member after the other until one serves the session.
    async fn connect(&mut self) -> Result<Link, Ended> {
        let mut peers = VecDeque::new();
        let mut is_first_round = true;
        loop {
            if peers.is_empty() {
                if !is_first_round {
                    let (least, most) = ROUND_MS;
                    let pause = self.rt.sleep(Duration::from_millis(least + self.rt.random_u64() % (most - least)));
                    self.unless_ended(pause).await?;
                }
                is_first_round = false;
                peers = self.peers().await?;
            }
            let peer = peers.pop_front().flatten();
            let patience = self.options.connect_patience(peers.len() + 1);
            let attempt = attempt(
                self.rt.clone(),
                self.connector.clone(),
                peer.clone(),
                ConnectRequest {
                    last_zxid_seen: self.exchange.last_zxid,
                    timeout_ms: i32::try_from(self.options.session_timeout.as_millis()).unwrap_or(i32::MAX),
                    session: self.session,
                    password: Bytes::copy_from_slice(&self.password),
                    read_only: Some(false),
                },
                patience,
            );
            match self.unless_ended(attempt).await? {
                Ok((_, response)) if response.session == 0 || response.timeout_ms <= 0 => return Err(Ended::Expired),
                Ok((link, response)) => {
                    self.session = response.session;
                    self.id.store(self.session, Ordering::Release);
                    self.password = response.password;
                    self.timeout = Duration::from_millis(u64::try_from(response.timeout_ms).unwrap_or(0));
                    return Ok(link);
                }
                Err(error) => {
                    let why = match peer {
                        Some(peer) => format!("{peer}: {error}"),
                        None => error.to_string(),
                    };
                    tracing::debug!(why, "a member of the coordination service does not serve");
                    self.state.send_if_modified(|state| {
                        let connecting = State::Connecting { why: Some(why.into()) };
                        *state != connecting && std::mem::replace(state, connecting) != State::Expired
                    });
                }
            }
        }
    }

    /// The members in random order, each address of a name one of them; the process's own service once.
    async fn peers(&mut self) -> Result<VecDeque<Option<HostPort>>, Ended> {
        let Connector::Hosts(connect) = self.connector.clone() else { return Ok(VecDeque::from([None])) };
        let mut peers = Vec::new();
        for host in &connect.hosts {
            let rt = self.rt.clone();
            match self.unless_ended(async move { rt.resolve(host).await }).await? {
                Ok(addresses) if !addresses.is_empty() => {
                    peers.extend(addresses.into_iter().map(|address| HostPort { host: address.ip().to_string(), port: address.port() }));
                }
                // Connecting tells why.
                _ => peers.push(host.clone()),
            }
        }
        peers.dedup();
        let rt = &self.rt;
        shuffle(&mut peers, |below| (rt.random_u64() % below.max(1) as u64) as usize);
        Ok(peers.into_iter().map(Some).collect())
    }

    /// Waits, and takes what is asked beside the requests meanwhile.
    async fn unless_ended<T>(&mut self, wait: impl Future<Output = T>) -> Result<T, Ended> {
        let mut wait = std::pin::pin!(wait);
        loop {
            let control = tokio::select! {
                biased;
                done = &mut wait => return Ok(done),
                control = self.control.recv() => control,
            };
            if let Some(ended) = self.control(control) {
                return Err(ended);
            }
        }
    }

    /// Serves requests until the session ends, or fails with the reason for which the connection is lost.
    async fn serve(&mut self, link: &mut Link) -> io::Result<Ended> {
        enum Event {
            Frame(io::Result<Bytes>),
            Wrote(io::Result<usize>),
            Control(Option<Control>),
            Request(Option<Request<Answer>>),
            Time,
        }
        let mut out = Writer::default();
        for (scheme, credentials) in &self.credentials {
            Exchange::<Answer>::authenticate(&mut out, scheme, credentials);
        }
        self.exchange.set_watches(&mut out);
        let mut unsent = out.take();
        // Within the process nothing is ever silent, and the session ends with the process.
        let is_own = matches!(self.connector, Connector::Own(_));
        let (mut heard, mut said) = (self.rt.now(), self.rt.now());
        let mut timer = self.rt.timer(said + self.timeout / 3);
        let mut is_open = true;
        loop {
            let may_take = is_open && self.closing.is_none() && self.exchange.in_flight_count() < self.options.max_in_flight && unsent.len() < UNSENT_MAX_BYTES;
            let Link { read, write, input } = &mut *link;
            let event = tokio::select! {
                biased;
                frame = next_frame(read, input) => Event::Frame(frame),
                wrote = write.write(&unsent), if !unsent.is_empty() => Event::Wrote(wrote),
                control = self.control.recv() => Event::Control(control),
                request = self.requests.recv(), if may_take => Event::Request(request),
                () = async { if is_own { pending().await } else { (&mut timer).await } } => Event::Time,
            };
            match event {
                Event::Frame(frame) => {
                    let frame = match frame {
                        // The answer to the session's end may not come before that of the connection.
                        Err(_) if self.closing.is_some() => return Ok(Ended::Closed),
                        frame => frame?,
                    };
                    heard = self.rt.now();
                    if let Some(ended) = self.receive(&frame)? {
                        return Ok(ended);
                    }
                }
                Event::Wrote(wrote) => {
                    match wrote? {
                        0 => return Err(io::ErrorKind::WriteZero.into()),
                        count => unsent.advance(count),
                    }
                    said = self.rt.now();
                }
                Event::Control(Some(Control::Close { done })) => {
                    // After all that was asked before.
                    self.closing = Some(done);
                    while let Ok(request) = self.requests.try_recv() {
                        self.exchange.send(request, &mut out);
                    }
                    let (token, _) = oneshot::channel();
                    self.exchange.send(Request { opcode: opcode::CLOSE_SESSION, body: Bytes::new(), watch: None, token }, &mut out);
                }
                Event::Control(control) => {
                    if let Some(Control::Authenticate { scheme, credentials, .. }) = &control {
                        Exchange::<Answer>::authenticate(&mut out, scheme, credentials);
                    }
                    if let Some(ended) = self.control(control) {
                        return Ok(ended);
                    }
                }
                Event::Request(None) => is_open = false,
                Event::Request(Some(request)) => {
                    self.exchange.send(request, &mut out);
                    // What is there already goes with it.
                    while self.exchange.in_flight_count() < self.options.max_in_flight && out.len_bytes() < UNSENT_MAX_BYTES {
                        let Ok(request) = self.requests.try_recv() else { break };
                        self.exchange.send(request, &mut out);
                    }
                }
                Event::Time => {
                    let now = self.rt.now();
                    let silent = now.saturating_duration_since(heard);
                    if silent >= self.timeout * 2 / 3 {
                        return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing was heard for {} ms", silent.as_millis())));
                    }
                    if now.saturating_duration_since(said) >= self.timeout / 3 {
                        Exchange::<Answer>::ping(&mut out);
                        said = now;
                    }
                    timer.reset(earlier(said + self.timeout / 3, heard + self.timeout * 2 / 3));
                }
            }
            if out.len_bytes() > 0 {
                unsent = joined(unsent, out.take());
            }
        }
    }

    /// Takes a frame in; `Some` if the session ends with it.
    fn receive(&mut self, frame: &Bytes) -> io::Result<Option<Ended>> {
        match self.exchange.receive(frame).map_err(|why| io::Error::new(io::ErrorKind::InvalidData, why))? {
            Received::Answer { token, outcome } => {
                let outcome = outcome.map_err(code);
                let is_expired = outcome == Err(ErrorCode::SessionExpired);
                // Whoever asked may have gone.
                let _ = token.send(outcome);
                if self.closing.is_some() && self.exchange.in_flight_count() == 0 {
                    return Ok(Some(Ended::Closed));
                }
                if is_expired {
                    return Ok(Some(Ended::Expired));
                }
            }
            Received::Event { kind, path, told } => {
                let event = WatchEvent { kind, path: stripped(self.connector.chroot(), &path).to_owned() };
                let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
                for watcher in told {
                    if let Some(watcher) = watchers.get(&watcher) {
                        let _ = watcher.send(event.clone());
                    }
                }
            }
            Received::Authenticated(is_taken) => {
                if let Some(answer) = self.unanswered_credentials.pop_front() {
                    let _ = answer.send(if is_taken { Ok(()) } else { Err(ErrorCode::AuthFailed) });
                }
                if !is_taken {
                    return Ok(Some(Ended::AuthFailed));
                }
            }
            Received::Nothing => {}
        }
        Ok(None)
    }
}

fn earlier(a: Instant, b: Instant) -> Instant {
    a.min(b)
}

/// Both, one after the other.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if first.is_empty() {
        return second;
    }
    let mut both = BytesMut::with_capacity(first.len() + second.len());
    both.extend_from_slice(&first);
    both.extend_from_slice(&second);
    both.freeze()
}

/// The next frame, without its length. Cancelling it loses nothing.
async fn next_frame(read: &mut (impl AsyncRead + Unpin), input: &mut BytesMut) -> io::Result<Bytes> {
    loop {
        if let Some(head) = input.first_chunk::<4>() {
            let length = i32::from_be_bytes(*head);
            let Some(length) = usize::try_from(length).ok().filter(|length| *length <= FRAME_MAX_BYTES) else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it sent a frame of {length} bytes")));
            };
            if input.len() >= 4 + length {
                input.advance(4);
                return Ok(input.split_to(length).freeze());
            }
        }
        if read.read_buf(input).await? == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended the connection"));
        }
    }
}

/// Connects to one member, or to the process's own service, and asks for the session.
async fn attempt<R: Runtime>(
    rt: R,
    connector: Connector,
    peer: Option<HostPort>,
    request: ConnectRequest,
    patience: Duration,
) -> io::Result<(Link, ConnectResponse)> {
    let late = rt.sleep(patience);
    let has_patience = matches!(connector, Connector::Hosts(_));
    let connecting = async {
        let (read, mut write): (Box<dyn AsyncRead + Send + Unpin>, Box<dyn AsyncWrite + Send + Unpin>) = match (&connector, peer) {
            (Connector::Own(open) | Connector::Member(open), _) => {
                let (read, write) = tokio::io::split(open());
                (Box::new(read), Box::new(write))
            }
            (Connector::Hosts(_), Some(peer)) => {
                let (read, write) = rt.connect(&peer).await?.into_split();
                (Box::new(read), Box::new(write))
            }
            (Connector::Hosts(_), None) => return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no member")),
        };
        let mut out = Writer::default();
        request.encode(&mut out);
        write.write_all(&out.finish()).await?;
        let mut link = Link { read, write, input: BytesMut::new() };
        let frame = next_frame(&mut link.read, &mut link.input).await?;
        let response = ConnectResponse::decode(&frame)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("it does not speak ZooKeeper's protocol: {error}")))?;
        Ok((link, response))
    };
    tokio::select! {
        biased;
        connected = connecting => connected,
        () = late, if has_patience => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {} ms", patience.as_millis()))),
    }
}

/// Tells whoever waits for the end of a session, when the task has ended in whatever way.
impl<R: Runtime> Drop for Driver<R> {
    fn drop(&mut self) {
        if let Some(done) = self.closing.take() {
            let _ = done.send(());
        }
    }
}

/// How long the end of a session is waited for.
pub(super) const fn close_patience() -> Duration {
    CLOSE_PATIENCE
}
