//! One connection of a ZooKeeper client: frames in, answers and events out.
//!
//! A single task does all of it. Changes are handed to the log as they come in, many may be under way; answers leave in the order of the requests. A read
//! behind changes is carried out right after the last of them and before those that come later, so that a session sees its own writes up to that
//! point and none beyond. Everything that leaves, answers and events, is in the order of its zxid: the client hears of a change before it can read
//! it, and of none that fires a watch before it knows that the watch is set.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{oneshot, watch};

use super::reads::{self, Answer, Asker};
use super::reconfig::reconfigure;
use super::session::{Outcome, establish};
use super::stats::ConnectionStats;
use super::{Inner, words};
use crate::config::four_letter_words::Word;
use crate::coordination::Done;
use crate::coordination::acl::{self, Identity};
use crate::coordination::hub::{self, Attached, Told};
use crate::coordination::jute::Writer;
use crate::coordination::op::{CreateMode, ErrorCode, Failure, Operation, Request as Change, Stat};
use crate::coordination::protocol::{self, ConnectRequest, Refused, Request, Write, XID_PING, opcode};
use crate::coordination::tree::Tree;
use crate::plant;
use crate::runtime::{Runtime, Stream};

/// Requests of one connection that may wait for their answers; beyond it the connection is not read.
const IN_FLIGHT_MAX: usize = 1_000;
/// Bytes of requests of one connection that may wait for their answers: likewise.
const IN_FLIGHT_MAX_BYTES: usize = 4 << 20;
/// Bytes of answers that are gathered before they are sent.
const GATHER_BYTES: usize = 256 << 10;
/// How much is read at a time at most.
const READ_BYTES: usize = 64 << 10;
/// How long a connection may stay without asking for a session.
const SESSIONLESS: Duration = Duration::from_secs(10);
/// What ZooKeeper says to most words where nobody is served, to the letter: monitors look for it.
const NOT_SERVING: &str = "This ZooKeeper instance is not currently serving requests\n";

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The client closed it.
    ByPeer,
    /// The client closed its session, or was told why it cannot go on.
    Done,
    /// The service ended it.
    ByService(hub::Ended),
    /// The client asked for nothing.
    Silent,
    /// The client broke the protocol, or cannot be served.
    Protocol(String),
    /// The connection failed.
    Io(io::Error),
}

impl From<io::Error> for Ended {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

type ReadOf<R> = <<R as Runtime>::Stream as Stream>::Read;
type WriteOf<R> = <<R as Runtime>::Stream as Stream>::Write;

/// Serves a connection to its end.
pub(super) async fn serve<R: Runtime>(inner: &Arc<Inner<R>>, stream: R::Stream, stats: &Arc<ConnectionStats>) -> Ended {
    let peer = stream.peer_addr();
    let (read, mut write) = stream.into_split();
    let mut input = Input { read, bytes: BytesMut::new(), max_frame_bytes: inner.config.max_frame_bytes };
    let mut stop = inner.stop.subscribe();
    let mut out = Writer::default();
    let silence = inner.rt().sleep(SESSIONLESS);
    let identities = vec![Identity::ip(peer.ip())];
    let greeting = tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => return Ended::ByService(hub::Ended::Stopping),
        greeting = greet(inner, &mut input, &identities) => greeting,
        () = silence => return Ended::Silent,
    };
    stats.lock().counts.received += 1;
    inner.stats.lock().received += 1;
    let (session, attached_zxid, timeout_ms, attached) = match greeting {
        Err(ended) => return ended,
        Ok(Greeting::Word(word)) => {
            let needs_to_serve = !matches!(word, Word::Ruok | Word::Envi | Word::Conf | Word::Isro | Word::Gtmk | Word::Stmk);
            let is_allowed = inner.config.words.allows(word);
            let said = if is_allowed && needs_to_serve && !inner.coordination.is_serving() { NOT_SERVING.to_owned() } else { words::run(inner, word).await };
            let sent = write.write_all(said.as_bytes()).await;
            let _ = write.shutdown().await;
            return sent.map_or_else(Ended::Io, |()| Ended::Done);
        }
        Ok(Greeting::Session(Outcome::Close(why))) => return Ended::Protocol(why),
        Ok(Greeting::Session(Outcome::Refuse(response))) => {
            response.encode(&mut out);
            let sent = write.write_all(&out.take()).await;
            let _ = write.shutdown().await;
            return sent.map_or_else(Ended::Io, |()| Ended::Done);
        }
        Ok(Greeting::Session(Outcome::Serve { session, attached_zxid, attached, response })) => {
            response.encode(&mut out);
            (session, attached_zxid, response.timeout_ms, attached)
        }
    };
    {
        let mut known = stats.lock();
        (known.session, known.timeout_ms) = (session, timeout_ms);
        known.counts.sent += 1;
    }
    inner.stats.lock().sent += 1;
    let ended = attached.ended.clone();
    let mut connection = Connection {
        inner: Arc::clone(inner),
        stats: Arc::clone(stats),
        input,
        write,
        out,
        session,
        attached_zxid,
        seen_zxid: attached_zxid,
        attached,
        ended,
        stop,
        identities,
        waiting: VecDeque::new(),
        waiting_bytes: 0,
        is_syncing: false,
        is_closing: false,
    };
    let ended = connection.run().await;
    inner.stats.lock().outstanding -= connection.waiting.len() as u64;
    if !matches!(ended, Ended::Io(_)) {
        // The client learns of the end in order; it may have gone already.
        let _ = connection.write.shutdown().await;
    }
    ended
}

enum Greeting {
    Word(Word),
    Session(Outcome),
}

/// The first frame, or a four-letter word in its place.
async fn greet<R: Runtime>(inner: &Inner<R>, input: &mut Input<ReadOf<R>>, identities: &[Identity]) -> Result<Greeting, Ended> {
    while input.bytes.len() < 4 {
        input.more().await?;
    }
    if let Some(word) = Word::from_bytes(&input.bytes[..4]) {
        return Ok(Greeting::Word(word));
    }
    let frame = loop {
        match input.frame()? {
            Some(frame) => break frame,
            None => input.more().await?,
        }
    };
    let request = ConnectRequest::decode(&frame).map_err(|error| Ended::Protocol(format!("its first frame is no ConnectRequest: {error}")))?;
    let mut serving = inner.coordination.shared.hub.serving();
    let max_bytes = input.max_frame_bytes;
    tokio::select! {
        biased;
        outcome = establish(inner, &request, identities) => Ok(Greeting::Session(outcome)),
        // A client that has gone to another member must not lose its session to this connection.
        gone = until_gone(input, max_bytes) => Err(gone),
        _ = serving.wait_for(|is_serving| !is_serving) => Err(Ended::ByService(hub::Ended::OutOfTouch)),
    }
}

/// Waits until the client has closed the connection; what it sends before it is answered is kept, as far as there is room.
async fn until_gone<T: tokio::io::AsyncRead + Unpin>(input: &mut Input<T>, max_bytes: usize) -> Ended {
    while input.bytes.len() < max_bytes {
        if let Err(ended) = input.more().await {
            return ended;
        }
    }
    std::future::pending().await
}

/// What has been read and not been cut into frames.
struct Input<T> {
    read: T,
    bytes: BytesMut,
    max_frame_bytes: usize,
}

impl<T: tokio::io::AsyncRead + Unpin> Input<T> {
    /// Cuts the next frame off, if all of it is there; without its length.
    fn frame(&mut self) -> Result<Option<Bytes>, Ended> {
        let Some(head) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = i32::from_be_bytes(*head);
        let Some(length) = usize::try_from(length).ok().filter(|length| *length <= self.max_frame_bytes) else {
            let max = self.max_frame_bytes;
            return Err(Ended::Protocol(format!(
                "a frame of {length} bytes: at most {max} are accepted; set jute.maxbuffer here and at the client if it is to be larger"
            )));
        };
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        self.bytes.advance(4);
        let frame = self.bytes.split_to(length).freeze();
        if self.bytes.is_empty() {
            // An idle connection holds no memory.
            self.bytes = BytesMut::new();
        }
        Ok(Some(frame))
    }

    /// Reads what comes. Memory grows with what is there, not with what is announced.
    async fn more(&mut self) -> Result<(), Ended> {
        let room = self.bytes.capacity() - self.bytes.len();
        if room == 0 {
            self.bytes.reserve(self.bytes.len().clamp(1 << 10, READ_BYTES));
        }
        match self.read.read_buf(&mut self.bytes).await? {
            0 => Err(Ended::ByPeer),
            _ => Ok(()),
        }
    }
}

/// What an answer to a change looks like.
enum Shape {
    /// The answer to one change of this kind.
    One(i32),
    /// The answer to a `multi` of these kinds.
    Multi(Vec<i32>),
    /// A header alone, after which the connection ends.
    CloseSession,
}

/// What a request waited for.
enum Came {
    /// A change was made, or refused.
    Changed(Shape, Done),
    /// A read was carried out, behind the changes before it.
    Looked(Answer),
    /// This member has caught up: a `sync` of this path.
    Synced(String),
    /// The membership is as wanted, or why not.
    Reconfigured(Result<(i64, Bytes, Stat), ErrorCode>),
    /// It never will: the leader, or this member's place in the log, is lost.
    Lost,
}

enum Wait {
    /// For the log, or for this member to have caught up.
    For(BoxFuture<'static, Came>),
    /// For its turn only: a ping, or an error.
    Turn(Result<(), ErrorCode>),
}

/// A request that has not been answered.
struct Waiting {
    xid: i32,
    since_ms: u64,
    len_bytes: usize,
    wait: Wait,
}

struct Connection<R: Runtime> {
    inner: Arc<Inner<R>>,
    stats: Arc<ConnectionStats>,
    input: Input<ReadOf<R>>,
    write: WriteOf<R>,
    out: Writer,
    session: i64,
    /// The transaction that attached the session to this connection.
    attached_zxid: i64,
    /// The transaction of the last answer.
    seen_zxid: i64,
    attached: Attached,
    ended: watch::Receiver<Option<hub::Ended>>,
    stop: watch::Receiver<bool>,
    identities: Vec<Identity>,
    waiting: VecDeque<Waiting>,
    /// The bytes of those requests.
    waiting_bytes: usize,
    /// A `sync` or a `reconfig` is under way; what comes behind it waits until it is answered.
    is_syncing: bool,
    /// Nothing is read any more; the connection ends when everything is answered.
    is_closing: bool,
}

enum Event {
    Ended(hub::Ended),
    Told(Told),
    Came(Came),
    Read(Result<(), Ended>),
}

impl<R: Runtime> Connection<R> {
    async fn run(&mut self) -> Ended {
        loop {
            while self.may_take() && self.out.len_bytes() < GATHER_BYTES {
                match self.input.frame() {
                    Ok(Some(frame)) => {
                        if let Err(ended) = self.take(&frame).await {
                            return ended;
                        }
                    }
                    Ok(None) => break,
                    Err(ended) => return ended,
                }
            }
            self.answer_turns();
            if self.waiting.is_empty() {
                self.tell_events(i64::MAX);
            }
            let is_full = self.out.len_bytes() >= GATHER_BYTES;
            if let Err(ended) = self.send().await {
                return ended;
            }
            if self.is_closing && self.waiting.is_empty() {
                return Ended::Done;
            }
            if is_full {
                // More frames may be there already, and nothing else would come to wake this task.
                continue;
            }
            let event = self.next_event().await;
            match event {
                Event::Ended(why) => return Ended::ByService(why),
                Event::Told(told) => self.tell(&told),
                Event::Came(came) => self.answer_first(came),
                Event::Read(Ok(())) => {}
                Event::Read(Err(ended)) => return ended,
            }
        }
    }

    async fn next_event(&mut self) -> Event {
        let may_read = self.may_take();
        let Self { ended, stop, attached, waiting, input, .. } = self;
        let may_tell = waiting.is_empty();
        let first = async {
            match waiting.front_mut() {
                Some(Waiting { wait: Wait::For(came), .. }) => came.await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            why = has_ended(ended, stop) => Event::Ended(why),
            // With a request under way, its answer says which events come before it.
            Some(told) = attached.event(), if may_tell => Event::Told(told),
            came = first => Event::Came(came),
            read = input.more(), if may_read => Event::Read(read),
        }
    }

    fn may_take(&self) -> bool {
        !self.is_closing && !self.is_syncing && self.waiting.len() < IN_FLIGHT_MAX && self.waiting_bytes < IN_FLIGHT_MAX_BYTES
    }

    /// Takes a request in: hands it to the log, answers it, or lets it wait for its turn.
    async fn take(&mut self, frame: &[u8]) -> Result<(), Ended> {
        let (xid, opcode, mut body) = protocol::decode_header(frame).map_err(|error| Ended::Protocol(format!("a request without a header: {error}")))?;
        let now_ms = self.inner.clock_ms();
        {
            let mut known = self.stats.lock();
            known.counts.received += 1;
            known.last_opcode = Some(opcode);
            if opcode != opcode::PING {
                known.last_xid = xid;
            }
        }
        self.inner.stats.lock().received += 1;
        self.inner.coordination.shared.hub.hear(self.session, now_ms);
        let wait = match protocol::decode_request(opcode, &mut body) {
            Err(Refused::Code(code)) => Wait::Turn(Err(code)),
            Err(Refused::UnknownKind) => {
                self.is_closing = true;
                Wait::Turn(Err(ErrorCode::Unimplemented))
            }
            Ok(Request::Auth { scheme, credentials }) => {
                // Beside the order of the others: it holds for what comes after it.
                self.authenticate(xid, &scheme, &credentials);
                return Ok(());
            }
            Ok(Request::Write(Write { opcode, operation })) if self.may_make(&operation) => self.change(vec![operation], Shape::One(opcode)).await,
            Ok(Request::Write(_)) => Wait::Turn(Err(ErrorCode::Unimplemented)),
            Ok(Request::Multi(writes)) => {
                let shape = Shape::Multi(writes.iter().map(|write| write.opcode).collect());
                let operations: Vec<Operation> = writes.into_iter().map(|write| write.operation).collect();
                if operations.iter().all(|operation| self.may_make(operation)) {
                    self.change(operations, shape).await
                } else {
                    Wait::Turn(Err(ErrorCode::Unimplemented))
                }
            }
            Ok(Request::CloseSession) => {
                self.is_closing = true;
                self.inner.coordination.shared.hub.release(self.session);
                self.submit(Change::EndSession { attached_zxid: self.attached_zxid }, Shape::CloseSession).await
            }
            Ok(Request::Sync { path }) => {
                self.is_syncing = true;
                let coordination = self.inner.coordination.clone();
                Wait::For(Box::pin(async move { coordination.sync().await.map_or(Came::Lost, |()| Came::Synced(path)) }))
            }
            Ok(Request::Reconfig(_)) if !self.inner.config.has_reconfig => Wait::Turn(Err(ErrorCode::ReconfigDisabled)),
            Ok(Request::Reconfig(asked)) => {
                self.is_syncing = true;
                let (coordination, identities) = (self.inner.coordination.clone(), self.identities.clone());
                Wait::For(Box::pin(async move { Came::Reconfigured(reconfigure(&coordination, &identities, &asked).await) }))
            }
            Ok(Request::Ping) => Wait::Turn(Ok(())),
            Ok(request) => {
                self.answer_turns();
                let hub = &self.inner.coordination.shared.hub;
                if self.waiting.is_empty() {
                    let asker = Asker { session: self.session, watcher: self.attached.watcher, identities: &self.identities };
                    let answer = self.inner.coordination.read(|tree| reads::answer(hub, tree, &asker, &request));
                    if let Some(why) = *self.ended.borrow() {
                        // It may show what this connection was not told of, or must not see any more.
                        return Err(Ended::ByService(why));
                    }
                    self.inner.stats.lock().outstanding += 1;
                    self.answer_read(xid, now_ms, answer);
                    return Ok(());
                }
                let (looked, wait) = oneshot::channel();
                let (hub, watcher, session, identities) = (Arc::clone(hub), self.attached.watcher, self.session, self.identities.clone());
                let look = Box::new(move |tree: &Tree| {
                    let _ = looked.send(reads::answer(&hub, tree, &Asker { session, watcher, identities: &identities }, &request));
                });
                if plant!(self.inner.rt(), "read-overtakes-own-write") {
                    self.inner.coordination.read(look);
                } else {
                    self.inner.coordination.look(self.session, look).await;
                }
                Wait::For(Box::pin(async move { wait.await.map_or(Came::Lost, Came::Looked) }))
            }
        };
        self.inner.stats.lock().outstanding += 1;
        self.waiting_bytes += frame.len();
        self.waiting.push_back(Waiting { xid, since_ms: now_ms, len_bytes: frame.len(), wait });
        Ok(())
    }

    async fn change(&mut self, operations: Vec<Operation>, shape: Shape) -> Wait {
        let (identities, attached_zxid) = (self.identities.clone(), self.attached_zxid);
        let change = if plant!(self.inner.rt(), "session-not-fenced-after-move") {
            Change::Client { identities, operations }
        } else {
            Change::Attached { attached_zxid, identities, operations }
        };
        self.submit(change, shape).await
    }

    /// Hands a change to the log.
    async fn submit(&mut self, change: Change, shape: Shape) -> Wait {
        match self.inner.coordination.submit(self.session, change).await {
            Ok(submitted) => Wait::For(Box::pin(async move { Came::Changed(shape, submitted.done().await) })),
            // Refused before it could be a transaction.
            Err(failure) => {
                let done = Done { zxid: self.seen_zxid, outcome: Err(failure) };
                Wait::For(Box::pin(std::future::ready(Came::Changed(shape, done))))
            }
        }
    }

    fn may_make(&self, operation: &Operation) -> bool {
        let has_ttl = matches!(operation, Operation::CreateWithAcl { mode: CreateMode::Ttl { .. } | CreateMode::TtlSequential { .. }, .. });
        self.inner.config.has_ttl || !has_ttl
    }

    fn authenticate(&mut self, xid: i32, scheme: &str, credentials: &[u8]) {
        let new = match scheme {
            acl::DIGEST => {
                let digest = acl::digest(&String::from_utf8_lossy(credentials));
                let is_super = self.inner.config.super_digest.as_ref() == Some(&digest);
                let mut new = vec![Identity::new(acl::DIGEST, digest)];
                new.extend(is_super.then(Identity::superuser));
                Ok(new)
            }
            acl::IP => Ok(vec![Identity::ip(self.stats.peer.ip())]),
            _ => Err(ErrorCode::AuthFailed),
        };
        let code = match new {
            Ok(new) => {
                for identity in new {
                    if !self.identities.contains(&identity) {
                        self.identities.push(identity);
                    }
                }
                self.inner.coordination.shared.hub.identify(self.attached.watcher, &self.identities);
                ErrorCode::Ok
            }
            Err(code) => {
                tracing::warn!(peer = %self.stats.peer, scheme, "credentials of an unknown scheme; there are digest and ip");
                self.is_closing = true;
                code
            }
        };
        self.out.frame(|to| protocol::encode_reply_header(to, xid, 0, code.code()));
        self.sent();
    }

    /// Answers the requests at the front that wait for nothing but their turn.
    fn answer_turns(&mut self) {
        while let Some(&Waiting { xid, since_ms, len_bytes, wait: Wait::Turn(turn) }) = self.waiting.front()
            && self.out.len_bytes() < GATHER_BYTES
        {
            self.waiting.pop_front();
            self.waiting_bytes -= len_bytes;
            match turn {
                Ok(()) => self.reply(XID_PING, since_ms, self.seen_zxid, ErrorCode::Ok, |_| {}),
                Err(code) => self.reply(xid, since_ms, self.seen_zxid, code, |_| {}),
            }
        }
    }

    /// Answers the first request, for which this has come.
    fn answer_first(&mut self, came: Came) {
        let Some(Waiting { xid, since_ms, len_bytes, .. }) = self.waiting.pop_front() else { unreachable!("it was waited for") };
        self.waiting_bytes -= len_bytes;
        if self.ended.borrow().is_some() {
            // What came may show what this connection was not told of. It ends now.
            self.inner.stats.lock().outstanding -= 1;
            return;
        }
        match came {
            // Whether it was done is unknown, or the session is another connection's: no answer says so but the loss of the connection.
            Came::Lost
            | Came::Reconfigured(Err(ErrorCode::ConnectionLoss))
            | Came::Changed(_, Done { outcome: Err(Failure { code: ErrorCode::ConnectionLoss | ErrorCode::SessionMoved, .. }), .. }) => {
                self.inner.stats.lock().outstanding -= 1 + self.waiting.len() as u64;
                self.waiting.clear();
                self.is_closing = true;
            }
            Came::Looked(answer) => self.answer_read(xid, since_ms, answer),
            Came::Reconfigured(outcome) => {
                self.is_syncing = false;
                match outcome {
                    Ok((zxid, data, stat)) => self.reply(xid, since_ms, zxid, ErrorCode::Ok, |to| {
                        to.buffer(&data);
                        to.stat(&stat);
                    }),
                    Err(code) => self.reply(xid, since_ms, self.seen_zxid, code, |_| {}),
                }
            }
            Came::Synced(path) => {
                self.is_syncing = false;
                let zxid = self.inner.coordination.last_zxid();
                self.reply(xid, since_ms, zxid, ErrorCode::Ok, |to| to.string(&path));
            }
            Came::Changed(shape, Done { zxid, outcome }) => match (shape, outcome) {
                (Shape::CloseSession, Ok(_)) => self.reply(xid, since_ms, zxid, ErrorCode::Ok, |_| {}),
                (Shape::One(opcode), Ok(results)) => self.reply(xid, since_ms, zxid, ErrorCode::Ok, |to| {
                    if let [result] = results.as_slice() {
                        protocol::encode_result(to, opcode, result);
                    }
                }),
                (Shape::Multi(opcodes), Ok(results)) => {
                    self.reply(xid, since_ms, zxid, ErrorCode::Ok, |to| protocol::encode_multi_results(to, opcodes.iter().copied().zip(&results)));
                }
                // The operations' errors are in the body; whether the session is there is no operation's matter.
                (Shape::Multi(opcodes), Err(failure)) if failure.code != ErrorCode::SessionExpired => {
                    self.reply(xid, since_ms, zxid, ErrorCode::Ok, |to| protocol::encode_multi_failure(to, &failure.codes(opcodes.len())));
                }
                (_, Err(failure)) => self.reply(xid, since_ms, zxid, failure.code, |_| {}),
            },
        }
    }

    fn answer_read(&mut self, xid: i32, since_ms: u64, answer: Answer) {
        self.tell_shown(answer.zxid);
        answer.missed.iter().for_each(|told| self.tell(told));
        let body = answer.body.finish();
        self.reply(xid, since_ms, answer.zxid, answer.outcome.err().unwrap_or(ErrorCode::Ok), |to| to.append(&body));
    }

    /// Writes an answer, and before it the events of the transactions up to its own.
    fn reply(&mut self, xid: i32, since_ms: u64, zxid: i64, code: ErrorCode, body: impl FnOnce(&mut Writer)) {
        self.tell_shown(zxid);
        self.seen_zxid = self.seen_zxid.max(zxid);
        self.out.frame(|to| {
            protocol::encode_reply_header(to, xid, zxid, code.code());
            if code == ErrorCode::Ok {
                body(to);
            }
        });
        self.sent();
        let latency_ms = self.inner.clock_ms().saturating_sub(since_ms);
        let mut counts = self.inner.stats.lock();
        counts.outstanding -= 1;
        if xid != XID_PING {
            counts.answer(latency_ms);
            drop(counts);
            let mut known = self.stats.lock();
            known.counts.answer(latency_ms);
            known.last_zxid = zxid;
            known.last_latency_ms = latency_ms;
            known.last_answer_ms = self.inner.rt().unix_ms();
        }
    }

    /// Tells what an answer of this zxid could show.
    fn tell_shown(&mut self, zxid: i64) {
        if !plant!(self.inner.rt(), "answer-before-event") {
            self.tell_events(zxid);
        }
    }

    fn tell_events(&mut self, zxid: i64) {
        while let Some(told) = self.attached.try_event(zxid) {
            self.tell(&told);
        }
    }

    fn tell(&mut self, told: &Told) {
        protocol::encode_event(&mut self.out, told.zxid, told.kind, &told.path);
        self.sent();
    }

    fn sent(&self) {
        self.stats.lock().counts.sent += 1;
        self.inner.stats.lock().sent += 1;
    }

    /// Sends what is written, unless the service ends the connection before its peer takes it.
    async fn send(&mut self) -> Result<(), Ended> {
        if self.out.len_bytes() == 0 {
            return Ok(());
        }
        let bytes = self.out.take();
        let Self { write, ended, stop, .. } = self;
        let sending = write.write_all(&bytes);
        tokio::select! {
            biased;
            sent = sending => Ok(sent?),
            why = has_ended(ended, stop) => Err(Ended::ByService(why)),
        }
    }
}

/// Waits until the service ends the connection.
async fn has_ended(ended: &mut watch::Receiver<Option<hub::Ended>>, stop: &mut watch::Receiver<bool>) -> hub::Ended {
    tokio::select! {
        biased;
        _ = stop.wait_for(|stop| *stop) => hub::Ended::Stopping,
        // A sender that is gone has detached the connection.
        why = ended.wait_for(Option::is_some) => why.ok().and_then(|why| *why).unwrap_or(hub::Ended::Stopping),
    }
}
