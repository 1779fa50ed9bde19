//! What members say to each other on a connection, and how they prove that they know the secret.
//!
//! A connection has one direction: the one who opened it sends, the other answers only what is asked. It begins so, each a frame of
//! [`crate::codec`] with [`PEER_FORMAT`]:
//!
//! 1. the opener: [`Hello`], with what it wants and a nonce;
//! 2. the other: [`Challenge`], with a nonce of its own and an HMAC-SHA-256 that proves the secret;
//! 3. the opener: [`Proof`], the same the other way around. Until here no frame may be longer than [`GREETING_MAX_BYTES`].
//!
//! Both codes cover both nonces, both roles and all that was said, so that neither can be had from the other side or used another time. From both
//! nonces and the secret each side makes a key for each direction, by which all frames after the greeting are sealed ([`super::seal`]). Whoever
//! refuses the other says why in a [`Refusal`]. The connection is not encrypted.

use std::io;

use bytes::{Bytes, BytesMut};
use hmac::{Hmac, Mac};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::consensus::RaftMessage;
use super::seal::{Opener, SealKey, Sealer};
use super::state::Payload;
use crate::codec::{self, Frame, HEAD_BYTES};
use crate::coordination::storage::format::{FORMAT, MemberRecord, SnapshotMeta, SnapshotState};
use crate::coordination::tree::SnapshotItem;
use crate::runtime::Runtime;

/// The version of everything that members say, the lowest and the highest that this Ottla speaks. In version 1 frames were not sealed, in version 2 a change of
/// the membership counted from when it was applied on: members of both kinds at once could count different majorities.
pub const PEER_FORMAT: u16 = 3;

/// The lowest version of log entries that this Ottla can write, for members that read no higher one.
pub const LOG_FORMAT_MIN: u16 = 3;

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
    /// [`super::Refusal`], in every version.
    pub const REFUSAL: u8 = 8;
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
    /// To receive a snapshot of what is there now, for an administrator.
    Export,
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
    /// The highest version of log entries that the opener reads.
    pub log_format: u16,
    /// Random.
    pub nonce: [u64; 2],
}

/// The second frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The Raft id of the one who answers; 0 if it has none.
    pub from: u64,
    /// The highest version of log entries that it reads.
    pub log_format: u16,
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

/// Why a greeting comes to nothing. The one who says it has proved nothing: its words are for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// In a sentence.
    pub why: String,
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

/// What a member without a log asks, or an administrator.
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
    /// An administrator's.
    Order(Order),
}

/// What an administrator asks a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// What do you know of the ensemble?
    Members,
    /// Remove a member for good. Only the leader does.
    Remove {
        /// Its Raft id.
        raft_id: u64,
        /// Although another member is down.
        force: bool,
    },
    /// Have another member lead.
    HandOver,
}

/// What a member knows of its ensemble, for an administrator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersView {
    /// Its Raft id.
    pub raft_id: u64,
    /// The `N` of its `server.N`.
    pub server_id: u32,
    /// Its version of Ottla.
    pub version: String,
    /// The term.
    pub term: u64,
    /// The leader's Raft id; 0 if none is known.
    pub leader: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry that its tree includes.
    pub applied: u64,
    /// The zxid of its tree.
    pub last_zxid: i64,
    /// The version of log entries that all members read, as far as it has heard of them.
    pub log_format: u16,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Who only receives.
    pub learners: Vec<u64>,
    /// Who they are.
    pub members: Vec<(u64, MemberRecord)>,
    /// Of a leader: how far each other member is, the last entry it has on disk, and whether it was heard of lately.
    pub progress: Vec<(u64, u64, bool)>,
    /// Whom it cannot reach, and why.
    pub unreachable: Vec<(u64, String)>,
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
    /// To [`Order::Members`].
    Members(Box<MembersView>),
    /// It has begun; [`Order::Members`] shows when it is done.
    Begun,
    /// The leader is another.
    Elsewhere {
        /// Where that one is reached; empty if none is known.
        leader: String,
    },
    /// To messages: the sender was removed from the ensemble.
    Removed,
}

/// What goes over a connection for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant, reason = "one at a time, on its way to a socket")]
pub enum SnapshotPart {
    /// First: the message that announces it, and the state beside the tree.
    Begin(RaftMessage, SnapshotMeta, SnapshotState),
    /// Parts of the tree.
    Items(Vec<SnapshotItem>),
    /// First, of an export: what it stands for, and the state beside the tree.
    Export(SnapshotMeta, SnapshotState),
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

    fn code(&self, role: u8, hello: &Hello, challenge: &Challenge) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.0).expect("a key may have any length");
        mac.update(b"ottla-peer");
        mac.update(&[role, hello.purpose as u8]);
        mac.update(&(hello.address.len() as u64).to_be_bytes());
        mac.update(hello.address.as_bytes());
        let Challenge { from, log_format, nonce, .. } = challenge;
        let formats = [u64::from(PEER_FORMAT), u64::from(hello.log_format), u64::from(*log_format)];
        for number in formats.into_iter().chain([hello.from, hello.to, hello.nonce[0], hello.nonce[1], *from, nonce[0], nonce[1]]) {
            mac.update(&number.to_be_bytes());
        }
        mac
    }

    /// What seals the frames of each direction: the opener's, and the other's.
    fn keys(&self, hello: &Hello, challenge: &Challenge) -> (SealKey, SealKey) {
        let key = |role| SealKey::new(&self.code(role, hello, challenge).finalize().into_bytes());
        (key(OPENERS_FRAMES), key(ANSWERERS_FRAMES))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

const ANSWERING: u8 = 1;
const OPENING: u8 = 2;
const OPENERS_FRAMES: u8 = 3;
const ANSWERERS_FRAMES: u8 = 4;

fn nonce<R: Runtime>(rt: &R) -> [u64; 2] {
    [rt.random_u64(), rt.random_u64()]
}

pub(super) fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Why the other side is not talked to, in one sentence for both.
const OTHER_SECRET: &str = "the secrets differ: give all members of the ensemble the same file (coordination.secret.file)";

fn denied(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned())
}

/// Whether both sides can read what the other writes into the log.
fn check_formats(other: u16) -> Result<(), String> {
    if other < LOG_FORMAT_MIN {
        return Err(format!(
            "one member reads log entries up to version {other}, and another writes none below {LOG_FORMAT_MIN}; upgrade the older one, no more than one release at a time"
        ));
    }
    Ok(())
}

/// What a greeting comes to.
pub struct Greeted {
    /// The other's Raft id; 0 if it has none.
    pub from: u64,
    /// The highest version of log entries that it reads.
    pub log_format: u16,
    /// Seals what this side sends.
    pub sealer: Sealer,
    /// Opens what the other sends.
    pub opener: Opener,
}

/// Greets as the one who opened the connection.
///
/// # Errors
/// The connection's, and `PermissionDenied` if one side refuses the other, saying why.
pub async fn greet<R: Runtime, S: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    rt: &R,
    read: &mut S,
    write: &mut W,
    secret: &Secret,
    (purpose, from, to): (Purpose, u64, u64),
    address: &str,
) -> io::Result<Greeted> {
    let hello = Hello { purpose, from, to, address: address.to_owned(), log_format: FORMAT, nonce: nonce(rt) };
    write_frame(write, kind::HELLO, &hello).await?;
    let challenge: Challenge = read_greeting(read, kind::CHALLENGE).await?;
    if secret.code(ANSWERING, &hello, &challenge).verify_slice(&challenge.code).is_err() {
        return Err(refuse(write, OTHER_SECRET).await);
    }
    if let Err(why) = check_formats(challenge.log_format) {
        return Err(refuse(write, &why).await);
    }
    let code = secret.code(OPENING, &hello, &challenge).finalize().into_bytes().into();
    write_frame(write, kind::PROOF, &Proof { code }).await?;
    let (own, others) = secret.keys(&hello, &challenge);
    Ok(Greeted { from: challenge.from, log_format: challenge.log_format, sealer: Sealer::new(own), opener: Opener::new(others) })
}

/// Answers a greeting as member `from` (0 for none); returns what the other wants, too.
///
/// # Errors
/// As [`greet`].
pub async fn welcome<R: Runtime, S: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    rt: &R,
    read: &mut S,
    write: &mut W,
    secret: &Secret,
    from: u64,
) -> io::Result<(Hello, Greeted)> {
    let hello: Hello = match read_greeting(read, kind::HELLO).await {
        Ok(hello) => hello,
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Err(refuse(write, &error.to_string()).await),
        Err(error) => return Err(error),
    };
    let mut challenge = Challenge { from, log_format: FORMAT, nonce: nonce(rt), code: [0; 32] };
    challenge.code = secret.code(ANSWERING, &hello, &challenge).finalize().into_bytes().into();
    write_frame(write, kind::CHALLENGE, &challenge).await?;
    let proof: Proof = read_greeting(read, kind::PROOF).await?;
    secret.code(OPENING, &hello, &challenge).verify_slice(&proof.code).map_err(|_| denied(OTHER_SECRET))?;
    // Only now is it known that it was the other that said so.
    check_formats(hello.log_format).map_err(|why| denied(&why))?;
    let (others, own) = secret.keys(&hello, &challenge);
    let log_format = hello.log_format;
    Ok((hello, Greeted { from, log_format, sealer: Sealer::new(own), opener: Opener::new(others) }))
}

/// Says why this side goes no further; returns that as an error.
async fn refuse<W: AsyncWrite + Unpin>(write: &mut W, why: &str) -> io::Error {
    // Whether it arrives changes nothing here.
    let _ = write_frame(write, kind::REFUSAL, &Refusal { why: why.to_owned() }).await;
    let _ = write.shutdown().await;
    denied(why)
}

/// Reads a frame of the greeting, or the other's refusal.
async fn read_greeting<S: AsyncRead + Unpin, T: DeserializeOwned>(read: &mut S, kind: u8) -> io::Result<T> {
    let frame = read_any_frame(read, GREETING_MAX_BYTES).await?;
    if frame.kind == kind::REFUSAL {
        let Refusal { why } = frame.decode().map_err(|error| invalid(error.to_string()))?;
        return Err(denied(&format!("the other side refuses: {}", why.escape_debug())));
    }
    if frame.version != PEER_FORMAT {
        let why = format!("one member speaks version {} of the members' protocol, another {PEER_FORMAT}; run the same release on all", frame.version);
        return Err(io::Error::new(io::ErrorKind::Unsupported, why));
    }
    decode_frame(&frame, kind)
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

/// Reads one frame, of any version and kind, whose body is not longer than `max_bytes`.
///
/// # Errors
/// The connection's; `InvalidData`, saying what was wrong, for anything but an intact frame.
pub(super) async fn read_any_frame<S: AsyncRead + Unpin>(read: &mut S, max_bytes: usize) -> io::Result<Frame> {
    codec::read_frame(&read_frame_bytes(read, max_bytes, 0).await?).map_err(|error| invalid(error.to_string()))
}

/// The bytes of one frame, and `after` ones that follow it.
pub(super) async fn read_frame_bytes<S: AsyncRead + Unpin>(read: &mut S, max_bytes: usize, after: usize) -> io::Result<Bytes> {
    let mut head = [0; HEAD_BYTES];
    read.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if length > max_bytes {
        return Err(invalid(format!("a frame of {length} bytes; at most {max_bytes} are allowed here")));
    }
    // The length is believed only as far as bytes come in.
    let mut bytes = BytesMut::with_capacity(HEAD_BYTES + length.min(64 << 10) + after);
    bytes.extend_from_slice(&head);
    let whole = HEAD_BYTES + length + after;
    while bytes.len() < whole {
        let left = (whole - bytes.len()) as u64;
        if (&mut *read).take(left).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(bytes.freeze())
}

/// What a frame of this version and that kind says.
pub(super) fn decode_frame<T: DeserializeOwned>(frame: &Frame, kind: u8) -> io::Result<T> {
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

    async fn meet(rt: crate::runtime::tokio::TokioRuntime, one: &'static str, other: &'static str) -> (io::Result<Greeted>, io::Result<(Hello, Greeted)>) {
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
    fn only_those_who_share_the_secret_meet_and_both_sides_are_told_why_not() {
        run(1, |rt| async move {
            let (one, other) = meet(rt.clone(), "the ensemble's secret", "the ensemble's secret").await;
            let (one, (hello, mut other)) = (one.unwrap(), other.unwrap());
            assert_eq!((one.from, hello.from), (4, 3));
            // The keys of both sides fit, each to its direction.
            let (mut sealer, mut bytes) = (one.sealer, BytesMut::new());
            sealer.seal(&mut bytes, kind::ANSWER, &Answer::Empty).unwrap();
            assert_eq!(other.opener.read::<_, Answer>(&mut &bytes[..], kind::ANSWER, 64).await.unwrap(), Answer::Empty);
            let (one, other) = meet(rt, "the ensemble's secret", "another secret of one").await;
            for refused in [one.err().unwrap(), other.err().unwrap()] {
                assert_eq!(refused.kind(), io::ErrorKind::PermissionDenied);
                assert!(refused.to_string().contains("the secrets differ"), "{refused}");
            }
        })
        .unwrap();
    }

    #[test]
    fn another_version_is_refused_with_words_on_both_sides() {
        run(1, |rt| async move {
            let mut hello = BytesMut::new();
            codec::write_frame(&mut hello, PEER_FORMAT + 1, kind::HELLO, &"what a later version says").unwrap();
            let mut answer = Vec::new();
            let refused = welcome(&rt, &mut &hello[..], &mut answer, &Secret::new("the ensemble's secret"), 4).await.err().unwrap();
            assert!(refused.to_string().contains("run the same release on all"), "{refused}");
            let told = read_greeting::<_, Challenge>(&mut &answer[..], kind::CHALLENGE).await.unwrap_err();
            let words = format!("the other side refuses: one member speaks version {}", PEER_FORMAT + 1);
            assert!(told.to_string().contains(&words), "{told}");
            assert!(check_formats(LOG_FORMAT_MIN - 1).is_err() && check_formats(u16::MAX).is_ok());
        })
        .unwrap();
    }

    #[test]
    fn a_hostile_length_is_refused_before_anything_is_allocated() {
        run(1, |_| async {
            let mut hostile: &[u8] = &[0, PEER_FORMAT as u8, kind::HELLO, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
            let refused = read_greeting::<_, Hello>(&mut hostile, kind::HELLO).await.unwrap_err();
            assert!(refused.to_string().contains("at most 1024"), "{refused}");
        })
        .unwrap();
    }
}
