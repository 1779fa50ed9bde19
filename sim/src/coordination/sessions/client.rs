//! A recorded client of ZooKeeper's protocol: its session, its connection, what is under way on it. What it is told goes to the oracle at once.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use ottla::coordination::acl::{self, Identity};
use ottla::coordination::jute::{JuteError, Reader, Writer};
use ottla::coordination::op::{ErrorCode, EventKind};
use ottla::coordination::protocol::{self, ConnectRequest, ConnectResponse, XID_AUTH, XID_EVENT, XID_PING, XID_SET_WATCHES, opcode};
use ottla::runtime::{HostPort, Instant, Runtime, Stream as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use super::oracle::{Connection, Oracle};
use super::request::{Asked, Kind};
use super::watches::Watches;
use crate::clients::link::Phase;
use crate::rng::Stream;
use crate::runtime::SimRuntime;
use crate::world::World;

/// The members' client port.
pub const CLIENT_PORT: u16 = 2181;

/// The credentials of those that keep secrets.
pub const CREDENTIALS: &str = "keeper:of secrets";

/// How long a connection may take to be answered.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);

/// The largest answer that is taken.
const FRAME_MAX_BYTES: usize = 1 << 20;

/// What the clients of a run share.
#[derive(Clone)]
pub struct Common {
    /// Judges what they are told.
    pub oracle: Arc<Oracle>,
    /// Counts operations.
    pub world: World,
    /// How many members there are.
    pub member_count: usize,
    /// How far the run is.
    pub phase: watch::Receiver<Phase>,
}

/// A connection.
struct Link {
    read: <<SimRuntime as Runtime>::Stream as ottla::runtime::Stream>::Read,
    write: <<SimRuntime as Runtime>::Stream as ottla::runtime::Stream>::Write,
    input: BytesMut,
    asked: VecDeque<Asked>,
    next_ping: Instant,
    /// What `setWatches2` was answered with, before its answer.
    missed: Vec<(EventKind, String)>,
    is_authenticated: bool,
}

/// An answer: what was asked, the code, the body.
pub struct Answer {
    /// What was asked.
    pub kind: Kind,
    /// The transaction up to which it shows the tree.
    pub zxid: i64,
    /// The error code; 0 for none.
    pub code: i32,
    /// The body.
    pub body: Bytes,
}

/// The connection is lost; what was under way may have been done.
#[derive(Clone, Copy, Debug)]
pub struct Lost;

/// A client.
pub struct Client {
    /// Its host.
    pub rt: SimRuntime,
    /// What it shares.
    pub common: Common,
    /// Its draws.
    pub stream: Stream,
    /// Whether it shows who it is, and hides what it makes.
    pub is_keeper: bool,
    index: usize,
    identity: Identity,
    member: usize,
    timeout_ms: i32,
    password: Bytes,
    connection_count: u64,
    connection: Connection,
    watches: Watches,
    link: Option<Link>,
    last_xid: i32,
}

impl Client {
    /// A client without a session.
    pub fn new(rt: SimRuntime, common: Common, mut stream: Stream, index: usize, ip: std::net::Ipv4Addr) -> Self {
        let timeout_ms = *stream.pick(&[3_000, 4_000, 6_000, 10_000]);
        let member = stream.index(common.member_count);
        let is_keeper = stream.chance(250_000);
        let connection = Connection { session: 0, number: 0, member, identities: Vec::new(), last_zxid: 0, sync_floor: 0 };
        Self {
            rt,
            common,
            stream,
            is_keeper,
            index,
            identity: Identity::ip(ip.into()),
            member,
            timeout_ms,
            password: Bytes::from_static(&[0; 16]),
            connection_count: 0,
            connection,
            watches: Watches::default(),
            link: None,
            last_xid: 0,
        }
    }

    /// The session; 0 if there is none.
    pub fn session(&self) -> i64 {
        self.connection.session
    }

    /// Whether it is connected.
    pub fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// A value that nobody else writes.
    pub fn value(&self) -> Bytes {
        self.common.oracle.value(self.connection.number)
    }

    /// The session's time-out.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.timeout_ms).unwrap_or(0))
    }

    /// How far the run is.
    pub fn phase(&self) -> Phase {
        *self.common.phase.borrow()
    }

    /// Gives the connection up, whatever is under way.
    pub fn disconnect(&mut self) {
        self.link = None;
    }

    /// The next connection goes to another member.
    pub fn hop(&mut self) {
        self.member = self.stream.index(self.common.member_count);
    }

    /// It holds the lock whose znode that is, as an answer showed at `zxid`.
    pub fn holds(&self, path: &str, zxid: i64) {
        self.common.oracle.holds(self.connection.session, path, zxid);
    }

    /// It holds no lock.
    pub fn lets_go(&self) {
        self.common.oracle.lets_go(self.connection.session);
    }

    /// Forgets the session without ending it.
    pub fn forget(&mut self) {
        self.link = None;
        self.connection.session = 0;
        self.password = Bytes::from_static(&[0; 16]);
    }

    /// Connects, comes back to the session or begins one, shows who it is, and sets its watches again.
    pub async fn connect(&mut self) -> Result<(), Lost> {
        let connected = self.open().await;
        if connected.is_err() {
            self.link = None;
            self.hop();
        }
        connected
    }

    async fn open(&mut self) -> Result<(), Lost> {
        let (oracle, wanted) = (self.common.oracle.clone(), self.connection.session);
        let begun = oracle.begin();
        let deadline = self.rt.now() + CONNECT_WITHIN;
        let address = HostPort { host: format!("member-{}", self.member + 1), port: CLIENT_PORT };
        let (rt, timer) = (self.rt.clone(), self.rt.timer(deadline));
        let stream = tokio::select! {
            biased;
            stream = rt.connect(&address) => stream.map_err(|_| Lost)?,
            () = timer => return Err(Lost),
        };
        let (read, write) = stream.into_split();
        let next_ping = self.rt.now() + self.timeout() / 3;
        self.link = Some(Link { read, write, input: BytesMut::new(), asked: VecDeque::new(), next_ping, missed: Vec::new(), is_authenticated: false });
        let last_zxid_seen = if wanted == 0 { 0 } else { self.connection.last_zxid };
        let mut out = Writer::default();
        ConnectRequest { last_zxid_seen, timeout_ms: self.timeout_ms, session: wanted, password: self.password.clone(), read_only: Some(false) }
            .encode(&mut out);
        self.send(out.finish()).await?;
        let frame = self.frame(deadline).await?.ok_or(Lost)?;
        let response = ConnectResponse::decode(&frame).map_err(|_| Lost)?;
        self.connection_count += 1;
        let number = (self.index as u64) << 32 | self.connection_count;
        if !self.rt.is_alive() {
            return Err(Lost);
        }
        oracle.connected(wanted, number, begun, &response);
        if response.session == 0 {
            self.forget();
            return Err(Lost);
        }
        (self.connection.number, self.connection.member, self.connection.identities) = (number, self.member, vec![self.identity.clone()]);
        if wanted == 0 {
            self.connection = Connection { session: response.session, last_zxid: 0, sync_floor: 0, ..self.connection.clone() };
            self.watches = Watches::begin(begun.floor);
        }
        (self.password, self.timeout_ms) = (Bytes::copy_from_slice(&response.password), response.timeout_ms);
        self.last_xid = 0;
        if self.is_keeper {
            let mut out = Writer::default();
            out.frame(|to| {
                to.int(XID_AUTH);
                to.int(opcode::AUTH);
                to.int(0);
                to.string(acl::DIGEST);
                to.buffer(CREDENTIALS.as_bytes());
            });
            self.send(out.finish()).await?;
            while !self.link.as_ref().is_some_and(|link| link.is_authenticated) {
                self.receive(deadline).await?;
            }
            self.connection.identities.push(Identity::new(acl::DIGEST, acl::digest(CREDENTIALS)));
        }
        self.watches.restore();
        if wanted != 0 && !self.watches.is_empty() {
            let mut out = Writer::default();
            out.frame(|to| {
                to.int(XID_SET_WATCHES);
                to.int(opcode::SET_WATCHES2);
                to.long(self.connection.last_zxid);
                for list in self.watches.lists() {
                    to.strings(list.iter().map(String::as_str));
                }
            });
            let asked = Asked { xid: XID_SET_WATCHES, kind: Kind::SetWatches, begun: oracle.begin() };
            self.link.as_mut().ok_or(Lost)?.asked.push_back(asked);
            self.send(out.finish()).await?;
            self.settle().await?;
        }
        Ok(())
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), Lost> {
        let patience = self.rt.sleep(self.timeout());
        let link = self.link.as_mut().ok_or(Lost)?;
        let sent = tokio::select! {
            biased;
            sent = link.write.write_all(&bytes) => sent.is_ok(),
            () = patience => false,
        };
        if sent {
            return Ok(());
        }
        self.link = None;
        Err(Lost)
    }

    /// Sends a request and does not wait for its answer.
    pub async fn ask(&mut self, kind: Kind) -> Result<(), Lost> {
        let begun = self.common.oracle.begin();
        let xid = if matches!(kind, Kind::Ping) {
            XID_PING
        } else {
            self.last_xid += 1;
            self.last_xid
        };
        let mut out = Writer::default();
        kind.encode(xid, &mut out);
        let next_ping = self.rt.now() + self.timeout() / 3;
        let link = self.link.as_mut().ok_or(Lost)?;
        link.asked.push_back(Asked { xid, kind, begun });
        link.next_ping = next_ping;
        self.send(out.finish()).await
    }

    /// Waits for the answers of all that is under way, in order.
    pub async fn settle(&mut self) -> Result<Vec<Answer>, Lost> {
        let mut answers = Vec::new();
        let deadline = self.rt.now() + self.timeout() * 2 / 3;
        while self.link.as_ref().is_some_and(|link| !link.asked.is_empty()) {
            match self.receive(deadline).await {
                Ok(Some(answer)) => answers.push(answer),
                Ok(None) => {}
                Err(Lost) => {
                    self.link = None;
                    return Err(Lost);
                }
            }
        }
        if self.link.is_some() { Ok(answers) } else { Err(Lost) }
    }

    /// Asks for one thing and waits for the answer.
    pub async fn call(&mut self, kind: Kind) -> Result<Answer, Lost> {
        self.ask(kind).await?;
        self.settle().await?.pop().ok_or(Lost)
    }

    /// Listens for a while, and shows signs of life. Returns early when it was told of something, if that is wished.
    pub async fn idle(&mut self, duration: Duration, until_told: bool) -> Result<(), Lost> {
        let end = self.rt.now() + duration;
        loop {
            let Some(link) = &self.link else { return Err(Lost) };
            let now = self.rt.now();
            if now >= end {
                return Ok(());
            }
            if now >= link.next_ping {
                self.ask(Kind::Ping).await?;
                self.settle().await?;
                continue;
            }
            let until = end.min(link.next_ping);
            match self.frame(until).await {
                Ok(Some(frame)) => {
                    self.take(&frame)?;
                    if until_told {
                        return Ok(());
                    }
                }
                Ok(None) => {}
                Err(Lost) => {
                    self.link = None;
                    return Err(Lost);
                }
            }
        }
    }

    /// The next frame, or none by then.
    async fn frame(&mut self, deadline: Instant) -> Result<Option<Bytes>, Lost> {
        let link = self.link.as_mut().ok_or(Lost)?;
        loop {
            if let Some(head) = link.input.first_chunk::<4>() {
                let length = usize::try_from(i32::from_be_bytes(*head)).ok().filter(|length| *length <= FRAME_MAX_BYTES).ok_or(Lost)?;
                if link.input.len() >= 4 + length {
                    link.input.advance(4);
                    return Ok(Some(link.input.split_to(length).freeze()));
                }
            }
            let timer = self.rt.timer(deadline);
            let read = tokio::select! {
                biased;
                read = link.read.read_buf(&mut link.input) => read,
                () = timer => return Ok(None),
            };
            match read {
                Ok(count) if count > 0 && self.rt.is_alive() => {}
                _ => return Err(Lost),
            }
        }
    }

    /// Takes the next frame; an answer, if it was one to a request.
    async fn receive(&mut self, deadline: Instant) -> Result<Option<Answer>, Lost> {
        let frame = self.frame(deadline).await?.ok_or(Lost)?;
        self.take(&frame)
    }

    fn take(&mut self, frame: &Bytes) -> Result<Option<Answer>, Lost> {
        let oracle = self.common.oracle.clone();
        let session = self.connection.session;
        let header = |reader: &mut Reader<'_>| Ok::<_, JuteError>((reader.int()?, reader.long()?, reader.int()?));
        let mut reader = Reader::new(frame);
        let Ok((xid, zxid, code)) = header(&mut reader) else {
            oracle.broken("protocol", format!("session {session:#x} was sent {frame:?}"));
            return Err(Lost);
        };
        let body = frame.slice(frame.len() - reader.left_bytes()..);
        let link = self.link.as_mut().ok_or(Lost)?;
        if xid == XID_AUTH {
            link.is_authenticated = true;
            return Ok(None);
        }
        let identities = self.connection.identities.clone();
        if xid == XID_EVENT {
            let event = |reader: &mut Reader<'_>| Ok::<_, JuteError>((reader.int()?, reader.int()?, reader.string()?.to_owned()));
            let Some((kind, path)) = event(&mut reader).ok().and_then(|(kind, _, path)| Some((protocol::event_kind(kind)?, path))) else {
                oracle.broken("protocol", format!("session {session:#x} was told of {frame:?}"));
                return Err(Lost);
            };
            self.common.world.event("told", &[session as u64, zxid as u64, kind as u64], Some(&path));
            if zxid < 0 {
                link.missed.push((kind, path));
            } else if let Err(why) = self.watches.event(&oracle, &identities, &(zxid, kind, path)) {
                oracle.broken("watch-order", format!("session {session:#x}: {why}"));
            }
            return Ok(None);
        }
        let Some(asked) = link.asked.pop_front().filter(|asked| asked.xid == xid) else {
            oracle.broken("answer-order", format!("session {session:#x} was answered {xid} out of order"));
            return Err(Lost);
        };
        self.common.world.event("answered", &[session as u64, xid as u64, zxid as u64, code as u64], None);
        oracle.heard(&self.connection, &asked);
        match &asked.kind {
            Kind::Ping => return Ok(None),
            Kind::SetWatches => {
                let missed = std::mem::take(&mut link.missed);
                let seen_zxid = self.connection.last_zxid;
                oracle.answered(&mut self.connection, &asked, zxid, code, &body);
                let Some(tree) = oracle.tree_at(zxid) else { return Err(Lost) };
                if let Err(why) = self.watches.set_again(&tree, &identities, (seen_zxid, zxid), &missed) {
                    oracle.broken("watch-lost", format!("session {session:#x}: {why}"));
                }
            }
            kind => {
                if let Err(why) = self.watches.answer(&oracle, &identities, zxid) {
                    oracle.broken("watch-lost", format!("session {session:#x}: {why}"));
                }
                if let Kind::RemoveWatches { path, which, only_asks } = kind {
                    let expected = if self.watches.remove(path, *which, *only_asks) { 0 } else { ErrorCode::NoWatcher.code() };
                    if code != expected {
                        oracle.broken("watch-removed", format!("session {session:#x} was answered {code} to {kind:?} at {zxid}, not {expected}"));
                    }
                }
                oracle.answered(&mut self.connection, &asked, zxid, code, &body);
            }
        }
        let is_missing = code == ErrorCode::NoNode.code();
        match &asked.kind {
            Kind::Data { path, watch: true } if code == 0 => self.watches.add_data(path, true),
            Kind::Exists { path, watch: true } if code == 0 || is_missing => self.watches.add_data(path, code == 0),
            Kind::Children { path, watch: true } if code == 0 => self.watches.add_child(path),
            Kind::AddWatch { path, recursive } if code == 0 => self.watches.add_lasting(path, *recursive),
            _ => {}
        }
        self.common.world.count_operation();
        Ok(Some(Answer { kind: asked.kind, zxid, code, body }))
    }
}
