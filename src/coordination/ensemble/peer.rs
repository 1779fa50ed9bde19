//! What members say to each other on a connection, and how they prove that they know the secret.
//!
//! A connection has one direction: the one who opened it sends, the other answers only what is asked. It begins so, each a frame of
//! [`crate::codec`] with [`PEER_FORMAT`]:
//!
//! 1. the opener: [`Hello`], with what it wants and a nonce;
//! 2. the other: [`Challenge`], with a nonce of its own and an HMAC-SHA-256 that proves the secret;
//! 3. the opener: [`Proof`], the same the other way around. Until here no frame may be longer than [`GREETING_MAX_BYTES`].
//!
//! Both codes cover both nonces, both roles and all that was said, so that neither can be had from the other side or used another time. The connection
//! is not encrypted, and what follows is not signed: the network between members must not be open to writers.

use std::io;

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::consensus::RaftMessage;
use super::state::Payload;
use crate::codec::{self, HEAD_BYTES};
use crate::coordination::storage::format::{SnapshotMeta, SnapshotState};
use crate::coordination::tree::SnapshotItem;
use crate::runtime::Runtime;

/// The version of everything that members say, the lowest and the highest that this Ottla speaks.
pub const PEER_FORMAT: u16 = 1;

/// The longest body of a frame before both sides are known, in bytes.
pub const GREETING_MAX_BYTES: usize = 1 << 10;

/// The longest body of a frame between members, in bytes: a message of one entry of the largest request.
pub const PEER_FRAME_MAX_BYTES: usize = 32 << 20;

/// The kinds of frames.
pub mod kind {
    /// [`super::Hello`].
    pub const HELLO: u8 = 1;
    /// [`super::Challenge`].
    pub const CHALLENGE: u8 = 2;
    /// [`super::Proof`].
    pub const PROOF: u8 = 3;
    /// [`super::PeerMessage`].
    pub const MESSAGE: u8 = 4;
    /// [`super::Question`].
    pub const QUESTION: u8 = 5;
    /// [`super::Answer`].
    pub const ANSWER: u8 = 6;
    /// [`super::SnapshotPart`].
    pub const SNAPSHOT: u8 = 7;
}

/// What the opener of a connection wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To send [`PeerMessage`]s.
    Messages,
    /// To ask one [`Question`].
    Question,
    /// To send one snapshot.
    Snapshot,
}

/// The first frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// What the connection is for.
    pub purpose: Purpose,
    /// The opener's Raft id; 0 if it has none.
    pub from: u64,
    /// Whom it means to speak to; 0 for whoever is there.
    pub to: u64,
    /// Where the opener itself is reached, `host:port`; empty if it does not say. A member that has just joined learns from it where to answer.
    pub address: String,
    /// Random.
    pub nonce: [u64; 2],
}

/// The second frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The Raft id of the one who answers; 0 if it has none.
    pub from: u64,
    /// Random.
    pub nonce: [u64; 2],
    /// Proves the secret.
    pub code: [u8; 32],
}

/// The third frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Proves the secret.
    pub code: [u8; 32],
}

/// What goes over a connection for messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerMessage {
    /// Consensus.
    Raft(RaftMessage),
    /// A member's proposals for the leader, in order.
    Forward(Vec<Payload>),
    /// Sessions that showed a sign of life.
    Touches(Vec<i64>),
    /// For the leader: a client of the sender wants another membership. Nothing is answered: what comes of it is in the log.
    Wish(Wish),
}

/// A step to another membership, as a client asks for it: in the numbers of servers, for members know each other by Raft ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// The server is a member, and reached there.
    Join {
        /// The `N` of `server.N`.
        server_id: u32,
        /// Where its peers reach it.
        address: String,
    },
    /// The server is no member.
    Leave {
        /// The `N` of `server.N`.
        server_id: u32,
    },
}

/// What a member without a log asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Question {
    /// Do you have a log? An ensemble that is just being made, without a vote cast, counts as none.
    Probe {
        /// The configured servers: `N`, and where it is reached. They must be the same on all.
        servers: Vec<(u32, String)>,
    },
    /// Take me in.
    Join {
        /// The `N` of its `server.N`.
        server_id: u32,
        /// Where its peers reach it.
        address: String,
        /// Drawn for its new directory: the same when it asks again.
        storage_id: u64,
    },
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// No log here.
    Empty,
    /// There is a log here.
    Member,
    /// You are a member.
    Accepted {
        /// With this Raft id.
        raft_id: u64,
    },
    /// Ask again: the leader is another, or none, or the change is under way.
    Later,
    /// No, and why.
    Refused(String),
}

/// What goes over a connection for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way to a socket")]
pub enum SnapshotPart {
    /// First: the message that announces it, and the state beside the tree.
    Begin(RaftMessage, SnapshotMeta, SnapshotState),
    /// Parts of the tree.
    Items(Vec<SnapshotItem>),
    /// Last: how many parts there were. Answered by [`Answer::Member`] once it is whole.
    End(u64),
}

/// The secret that all members of an ensemble share.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Bytes);

impl Secret {
    /// From its bytes; whatever is shorter than 16 is too easy to guess, which is for the configuration to refuse.
    pub fn new(secret: impl Into<Bytes>) -> Self {
        Self(secret.into())
    }

    fn code(&self, role: u8, hello: &Hello, from: u64, nonce: [u64; 2]) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("a key may have any length");
        mac.update(b"ottla-peer");
        mac.update(&[role, hello.purpose as u8]);
        mac.update(&(hello.address.len() as u64).to_be_bytes());
        mac.update(hello.address.as_bytes());
        for number in [u64::from(PEER_FORMAT), hello.from, hello.to, hello.nonce[0], hello.nonce[1], from, nonce[0], nonce[1]] {
            mac.update(&number.to_be_bytes());
        }
        mac
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

const ANSWERING: u8 = 1;
const OPENING: u8 = 2;

fn nonce<R: Runtime>(rt: &R) -> [u64; 2] {
    [rt.random_u64(), rt.random_u64()]
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn denied() -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, "the other side does not know the ensemble's secret; give all members the same one")
}

/// Greets as the one who opened the connection; returns the other's Raft id, or 0.
///
/// # Errors
/// The connection's, and `PermissionDenied` if the other does not know the secret.
pub async fn greet<R: Runtime, S: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    rt: &R,
    read: &mut S,
    write: &mut W,
    secret: &Secret,
    (purpose, from, to): (Purpose, u64, u64),
    address: &str,
) -> io::Result<u64> {
    let hello = Hello { purpose, from, to, address: address.to_owned(), nonce: nonce(rt) };
    write_frame(write, kind::HELLO, &hello).await?;
    let challenge: Challenge = read_frame(read, kind::CHALLENGE, GREETING_MAX_BYTES).await?;
    secret.code(ANSWERING, &hello, challenge.from, challenge.nonce).verify_slice(&challenge.code).map_err(|_| denied())?;
    let code = secret.code(OPENING, &hello, challenge.from, challenge.nonce).finalize().into_bytes().into();
    write_frame(write, kind::PROOF, &Proof { code }).await?;
    Ok(challenge.from)
}

/// Answers a greeting as member `from` (0 for none); returns what the other wants.
///
/// # Errors
/// As [`greet`].
pub async fn welcome<R: Runtime, S: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    rt: &R,
    read: &mut S,
    write: &mut W,
    secret: &Secret,
    from: u64,
) -> io::Result<Hello> {
    let hello: Hello = read_frame(read, kind::HELLO, GREETING_MAX_BYTES).await?;
    let nonce = nonce(rt);
    let code = secret.code(ANSWERING, &hello, from, nonce).finalize().into_bytes().into();
    write_frame(write, kind::CHALLENGE, &Challenge { from, nonce, code }).await?;
    let proof: Proof = read_frame(read, kind::PROOF, GREETING_MAX_BYTES).await?;
    secret.code(OPENING, &hello, from, nonce).verify_slice(&proof.code).map_err(|_| denied())?;
    Ok(hello)
}

/// Writes one frame.
///
/// # Errors
/// The connection's.
pub async fn write_frame<W: AsyncWrite + Unpin, T: Serialize>(write: &mut W, kind: u8, value: &T) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    codec::write_frame(&mut bytes, PEER_FORMAT, kind, value).map_err(|error| invalid(error.to_string()))?;
    write.write_all(&bytes).await
}

/// Reads one frame of that kind whose body is not longer than `max_bytes`.
///
/// # Errors
/// The connection's; `InvalidData`, saying what was wrong, for anything but an intact frame of this version and kind.
pub async fn read_frame<S: AsyncRead + Unpin, T: DeserializeOwned>(read: &mut S, kind: u8, max_bytes: usize) -> io::Result<T> {
    let mut head = [0; HEAD_BYTES];
    read.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if length > max_bytes {
        return Err(invalid(format!("a frame of {length} bytes; at most {max_bytes} are allowed here")));
    }
    // The length is believed only as far as bytes come in.
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + length.min(64 << 10));
    bytes.extend_from_slice(&head);
    let whole = HEAD_BYTES + length;
    while bytes.len() < whole {
        let left = (whole - bytes.len()) as u64;
        if (&mut *read).take(left).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let frame = codec::read_frame(&bytes.freeze()).map_err(|error| invalid(error.to_string()))?;
    if frame.version != PEER_FORMAT {
        return Err(invalid(format!("the other side speaks version {} of the members' protocol, this one {PEER_FORMAT}", frame.version)));
    }
    if frame.kind != kind {
        return Err(invalid(format!("a frame of kind {} where one of kind {kind} belongs", frame.kind)));
    }
    frame.decode().map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tokio::run;

    async fn meet(rt: crate::runtime::tokio::TokioRuntime, one: &'static str, other: &'static str) -> (io::Result<u64>, io::Result<Hello>) {
        let (mut a, mut b) = tokio::io::duplex(64);
        let (mut a_read, mut a_write) = tokio::io::split(&mut a);
        let (mut b_read, mut b_write) = tokio::io::split(&mut b);
        let (secret_one, secret_other) = (Secret::new(one), Secret::new(other));
        let opening = async {
            let met = greet(&rt, &mut a_read, &mut a_write, &secret_one, (Purpose::Messages, 3, 4), "c:1").await;
            a_write.shutdown().await.unwrap();
            met
        };
        let answering = async {
            let met = welcome(&rt, &mut b_read, &mut b_write, &secret_other, 4).await;
            b_write.shutdown().await.unwrap();
            met
        };
        tokio::join!(opening, answering)
    }

    #[test]
    fn only_those_who_share_the_secret_meet() {
        run(1, |rt| async move {
            let (one, other) = meet(rt.clone(), "the ensemble's secret", "the ensemble's secret").await;
            assert_eq!((one.unwrap(), other.unwrap().from), (4, 3));
            let (one, other) = meet(rt, "the ensemble's secret", "another secret of one").await;
            assert_eq!(one.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
            other.unwrap_err();
        })
        .unwrap();
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_allocated() {
        run(1, |_| async {
            let mut hostile: &[u8] = &[0, 1, kind::HELLO, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
            let refused = read_frame::<_, Hello>(&mut hostile, kind::HELLO, GREETING_MAX_BYTES).await.unwrap_err();
            assert!(refused.to_string().contains("at most 1024"), "{refused}");
        })
        .unwrap();
    }
}
