//! A small client for tests of the server: one connection, one session, one request at a time. What breaks, fails.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::WatchEvent;
use crate::coordination::acl::Acl;
use crate::coordination::jute::{JuteError, Reader, Writer};
use crate::coordination::op::{CreateMode, ErrorCode, Stat};
use crate::coordination::protocol::{self, ConnectRequest, ConnectResponse, XID_AUTH, XID_EVENT, XID_PING, opcode};
use crate::coordination::watch::WatchKind;
use crate::runtime::{HostPort, Instant, Runtime, Stream};

/// The largest answer in bytes that is taken.
const FRAME_MAX_BYTES: usize = 64 << 20;

/// Why a request was not answered as wished.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No member could be reached.
    #[error("cannot connect to {peers}: {source}; check that a coordination service or an Apache ZooKeeper listens there (the key 'clientPort')")]
    Connect {
        /// Who was tried.
        peers: String,
        /// Why the last of them could not be reached.
        source: io::Error,
    },
    /// No answer came in time.
    #[error("{peer} did not answer within {waited_ms} ms")]
    TimedOut {
        /// Who.
        peer: HostPort,
        /// How long that was waited for.
        waited_ms: u128,
    },
    /// The connection was lost; whether a change was made is unknown.
    #[error("the connection to {peer} was lost: {source}; whether a change was made is unknown")]
    Lost {
        /// To whom.
        peer: HostPort,
        /// Why.
        source: io::Error,
    },
    /// The peer sent what makes no sense.
    #[error("{peer} does not speak ZooKeeper's protocol: {reason}")]
    Protocol {
        /// Who.
        peer: HostPort,
        /// What it sent.
        reason: String,
    },
    /// The request was refused.
    #[error("'{path}': {code}")]
    Refused {
        /// Why.
        code: ErrorCode,
        /// Of which znode; empty if it concerns none.
        path: String,
    },
    /// The request was refused with a code that this client does not know.
    #[error("'{path}': refused with ZooKeeper's error code {code}")]
    RefusedOtherwise {
        /// The code.
        code: i32,
        /// Of which znode.
        path: String,
    },
}

impl ClientError {
    /// The code of a refusal.
    pub fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            _ => None,
        }
    }
}

/// A session over one connection.
pub struct Client<R: Runtime> {
    rt: R,
    peer: HostPort,
    read: <R::Stream as Stream>::Read,
    write: <R::Stream as Stream>::Write,
    input: BytesMut,
    session: ConnectResponse,
    last_xid: i32,
    events: VecDeque<WatchEvent>,
    /// Within which an answer must come.
    patience: Duration,
    next_ping: Instant,
}

impl<R: Runtime> Client<R> {
    /// Connects to the first of `peers` that answers and begins a session.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn connect(rt: R, peers: &[HostPort], session_timeout: Duration, patience: Duration) -> Result<Self, ClientError> {
        let mut last = io::Error::new(io::ErrorKind::InvalidInput, "no address was given");
        for peer in peers {
            let late = rt.sleep(patience);
            let connecting = rt.connect(peer);
            let connected = tokio::select! {
                biased;
                connected = connecting => connected,
                () = late => Err(io::ErrorKind::TimedOut.into()),
            };
            match connected {
                Ok(stream) => return Self::begin(rt, peer.clone(), stream, session_timeout, patience).await,
                Err(error) => last = error,
            }
        }
        let peers = peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        Err(ClientError::Connect { peers, source: last })
    }

    async fn begin(rt: R, peer: HostPort, stream: R::Stream, session_timeout: Duration, patience: Duration) -> Result<Self, ClientError> {
        let (read, write) = stream.into_split();
        let session = ConnectResponse::expired(None);
        let next_ping = rt.now();
        let mut client = Self { rt, peer, read, write, input: BytesMut::new(), session, last_xid: 0, events: VecDeque::new(), patience, next_ping };
        let timeout_ms = i32::try_from(session_timeout.as_millis()).unwrap_or(i32::MAX);
        let mut out = Writer::default();
        ConnectRequest { last_zxid_seen: 0, timeout_ms, session: 0, password: Bytes::from_static(&[0; 16]), read_only: Some(false) }.encode(&mut out);
        client.send(out.finish()).await?;
        let frame = client.frame_in_time().await?;
        client.session = ConnectResponse::decode(&frame).map_err(|error| client.garbage(&error))?;
        if client.session.session == 0 {
            return Err(ClientError::Refused { code: ErrorCode::SessionExpired, path: String::new() });
        }
        client.schedule_ping();
        Ok(client)
    }

    /// The session's id.
    pub fn session(&self) -> i64 {
        self.session.session
    }

    fn schedule_ping(&mut self) {
        let timeout = Duration::from_millis(u64::try_from(self.session.timeout_ms).unwrap_or(0));
        self.next_ping = self.rt.now() + timeout / 3;
    }

    fn garbage(&self, error: &JuteError) -> ClientError {
        ClientError::Protocol { peer: self.peer.clone(), reason: error.to_string() }
    }

    async fn send(&mut self, bytes: Bytes) -> Result<(), ClientError> {
        let sent = self.write.write_all(&bytes).await;
        sent.map_err(|source| ClientError::Lost { peer: self.peer.clone(), source })
    }

    /// The next frame. Cancelling it loses nothing.
    async fn frame(&mut self) -> Result<Bytes, ClientError> {
        loop {
            if let Some(head) = self.input.first_chunk::<4>() {
                let length = i32::from_be_bytes(*head);
                let Some(length) = usize::try_from(length).ok().filter(|length| *length <= FRAME_MAX_BYTES) else {
                    return Err(ClientError::Protocol { peer: self.peer.clone(), reason: format!("it sent a frame of {length} bytes") });
                };
                if self.input.len() >= 4 + length {
                    self.input.advance(4);
                    return Ok(self.input.split_to(length).freeze());
                }
            }
            let lost = |source| ClientError::Lost { peer: self.peer.clone(), source };
            if self.read.read_buf(&mut self.input).await.map_err(lost)? == 0 {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    async fn frame_in_time(&mut self) -> Result<Bytes, ClientError> {
        let late = self.rt.sleep(self.patience);
        let (peer, waited_ms) = (self.peer.clone(), self.patience.as_millis());
        tokio::select! {
            biased;
            frame = self.frame() => frame,
            () = late => Err(ClientError::TimedOut { peer, waited_ms }),
        }
    }

    /// Sends a request and waits for its answer; events that come before it are kept.
    async fn call(&mut self, xid: i32, opcode: i32, path: &str, body: impl FnOnce(&mut Writer)) -> Result<Bytes, ClientError> {
        let mut out = Writer::default();
        out.frame(|to| {
            to.int(xid);
            to.int(opcode);
            body(to);
        });
        self.send(out.finish()).await?;
        self.schedule_ping();
        loop {
            let frame = self.frame_in_time().await?;
            let mut reader = Reader::new(&frame);
            let header = |reader: &mut Reader<'_>| Ok((reader.int()?, reader.long()?, reader.int()?));
            let (answered, _zxid, error) = header(&mut reader).map_err(|error: JuteError| self.garbage(&error))?;
            match answered {
                XID_EVENT => self.keep_event(reader)?,
                XID_PING if xid != XID_PING => {}
                answered if answered != xid => {
                    return Err(ClientError::Protocol { peer: self.peer.clone(), reason: format!("it answered request {answered}, not {xid}") });
                }
                _ if error == 0 => return Ok(frame.slice(frame.len() - reader.left_bytes()..)),
                _ => {
                    let path = path.to_owned();
                    return Err(match ErrorCode::from_code(error) {
                        Some(code) => ClientError::Refused { code, path },
                        None => ClientError::RefusedOtherwise { code: error, path },
                    });
                }
            }
        }
    }

    fn keep_event(&mut self, mut reader: Reader<'_>) -> Result<(), ClientError> {
        let event = (|| {
            let (kind, _state, path) = (reader.int()?, reader.int()?, reader.string()?);
            Ok((kind, path.to_owned()))
        })();
        let (kind, path) = event.map_err(|error: JuteError| self.garbage(&error))?;
        if let Some(kind) = protocol::event_kind(kind) {
            self.events.push_back(WatchEvent { kind, path });
        }
        Ok(())
    }

    async fn ask<T>(
        &mut self,
        opcode: i32,
        path: &str,
        body: impl FnOnce(&mut Writer),
        read: impl FnOnce(&mut Reader<'_>) -> Result<T, JuteError>,
    ) -> Result<T, ClientError> {
        self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
        let answer = self.call(self.last_xid, opcode, path, body).await?;
        read(&mut Reader::new(&answer)).map_err(|error| self.garbage(&error))
    }

    /// Adds an identity to the connection: scheme `digest` with `user:password`.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn authenticate(&mut self, scheme: &str, credentials: &str) -> Result<(), ClientError> {
        let body = |to: &mut Writer| {
            to.int(0);
            to.string(scheme);
            to.buffer(credentials.as_bytes());
        };
        self.call(XID_AUTH, opcode::AUTH, "", body).await.map(drop)
    }

    /// A znode's content and stat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn get(&mut self, path: &str) -> Result<(Bytes, Stat), ClientError> {
        let body = |to: &mut Writer| (to.string(path), to.bool(false)).1;
        self.ask(opcode::GET_DATA, path, body, |from| Ok((Bytes::copy_from_slice(from.buffer()?.unwrap_or_default()), from.stat()?))).await
    }

    /// A znode's stat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn stat(&mut self, path: &str) -> Result<Stat, ClientError> {
        self.ask(opcode::EXISTS, path, |to| (to.string(path), to.bool(false)).1, |from| from.stat()).await
    }

    /// A znode's ACL and stat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn acl(&mut self, path: &str) -> Result<(Vec<Acl>, Stat), ClientError> {
        self.ask(opcode::GET_ACL, path, |to| to.string(path), |from| Ok((from.acl()?, from.stat()?))).await
    }

    /// The names of a znode's children, in order.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn children(&mut self, path: &str) -> Result<Vec<String>, ClientError> {
        let mut names = self.ask(opcode::GET_CHILDREN, path, |to| (to.string(path), to.bool(false)).1, |from| from.strings()).await?;
        names.sort();
        Ok(names)
    }

    /// Creates a znode with an ACL and returns its path and stat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn create(&mut self, path: &str, data: &[u8], mode: CreateMode, acl: &[Acl]) -> Result<(String, Stat), ClientError> {
        let (opcode, flags, ttl_ms) = match mode {
            CreateMode::Persistent => (opcode::CREATE2, 0, None),
            CreateMode::Ephemeral => (opcode::CREATE2, 1, None),
            CreateMode::PersistentSequential => (opcode::CREATE2, 2, None),
            CreateMode::EphemeralSequential => (opcode::CREATE2, 3, None),
            CreateMode::Container => (opcode::CREATE_CONTAINER, 4, None),
            CreateMode::Ttl { ttl_ms } => (opcode::CREATE_TTL, 5, Some(ttl_ms)),
            CreateMode::TtlSequential { ttl_ms } => (opcode::CREATE_TTL, 6, Some(ttl_ms)),
        };
        let body = |to: &mut Writer| {
            to.string(path);
            to.buffer(data);
            to.acl(acl);
            to.int(flags);
            if let Some(ttl_ms) = ttl_ms {
                to.long(ttl_ms);
            }
        };
        self.ask(opcode, path, body, |from| Ok((from.string()?.to_owned(), from.stat()?))).await
    }

    /// Replaces a znode's content if it has `version` (or −1), and returns its stat.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn set(&mut self, path: &str, data: &[u8], version: i32) -> Result<Stat, ClientError> {
        let body = |to: &mut Writer| {
            to.string(path);
            to.buffer(data);
            to.int(version);
        };
        self.ask(opcode::SET_DATA, path, body, |from| from.stat()).await
    }

    /// Removes a znode without children if it has `version` (or −1).
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn delete(&mut self, path: &str, version: i32) -> Result<(), ClientError> {
        let body = |to: &mut Writer| {
            to.string(path);
            to.int(version);
        };
        self.ask(opcode::DELETE, path, body, |_| Ok(())).await
    }

    /// Whatever was answered anywhere before is seen by the reads after it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn sync(&mut self, path: &str) -> Result<(), ClientError> {
        self.ask(opcode::SYNC, path, |to| to.string(path), |_| Ok(())).await
    }

    /// Sets a watch that stays: of a znode and its children, or of all below it. It needs ZooKeeper 3.6 at least.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn watch(&mut self, path: &str, kind: WatchKind) -> Result<(), ClientError> {
        let mode = i32::from(kind == WatchKind::PersistentRecursive);
        let body = |to: &mut Writer| {
            to.string(path);
            to.int(mode);
        };
        self.ask(opcode::ADD_WATCH, path, body, |_| Ok(())).await
    }

    /// The next event of a watch; the session is kept alive meanwhile. Cancelling it loses nothing but perhaps a ping.
    ///
    /// # Errors
    /// [`ClientError`].
    pub async fn next_event(&mut self) -> Result<WatchEvent, ClientError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let ping = self.rt.timer(self.next_ping);
            let frame = tokio::select! {
                biased;
                frame = self.frame() => frame?,
                () = ping => {
                    self.call(XID_PING, opcode::PING, "", |_| {}).await?;
                    continue;
                }
            };
            let mut reader = Reader::new(&frame);
            let xid = (|| {
                let (xid, _zxid, _error) = (reader.int()?, reader.long()?, reader.int()?);
                Ok(xid)
            })();
            if xid.map_err(|error: JuteError| self.garbage(&error))? == XID_EVENT {
                self.keep_event(reader)?;
            }
        }
    }

    /// Ends the session and the connection.
    ///
    /// # Errors
    /// [`ClientError`]; the session ends after its time-out then.
    pub async fn close(mut self) -> Result<(), ClientError> {
        self.ask(opcode::CLOSE_SESSION, "", |_| {}, |_| Ok(())).await
    }
}
