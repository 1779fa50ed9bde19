//! The server as clients see it, over real sockets: order, sessions, watches, hostile bytes.

use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes, BytesMut};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::coordination::acl::{Acl, digest};
use crate::coordination::client::{Client, WatchEvent};
use crate::coordination::jute::{Reader, Writer};
use crate::coordination::op::{CreateMode, ErrorCode, EventKind};
use crate::coordination::protocol::{self, ConnectRequest, ConnectResponse, XID_AUTH, XID_EVENT, XID_PING, XID_SET_WATCHES, opcode};
use crate::coordination::watch::WatchKind;
use crate::runtime::HostPort;
use crate::runtime::tokio::{TokioRuntime, run};

pub(super) const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    rt: TokioRuntime,
    dir: PathBuf,
    coordination: Coordination<TokioRuntime>,
    server: Server<TokioRuntime>,
}

impl Member {
    async fn start(rt: &TokioRuntime, dir: &Path, config: ServerConfig) -> Self {
        let coordination = Coordination::open(rt.clone(), dir).await.unwrap();
        let socket = rt.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let server = Server::start(coordination.clone(), vec![socket], config);
        Self { rt: rt.clone(), dir: dir.to_owned(), coordination, server }
    }

    async fn restart(self, config: ServerConfig) -> Self {
        self.server.shutdown().await;
        self.coordination.shutdown().await;
        Self::start(&self.rt, &self.dir, config).await
    }

    fn at(&self) -> HostPort {
        HostPort { host: "127.0.0.1".into(), port: self.server.bound()[0].port() }
    }

    async fn client(&self) -> Client<TokioRuntime> {
        Client::connect(self.rt.clone(), &[self.at()], Duration::from_secs(30), PATIENCE).await.unwrap()
    }

    async fn raw(&self) -> Raw {
        Raw::open(&self.rt, &self.at()).await
    }

    async fn connected(&self, session: i64, password: &[u8]) -> (Raw, ConnectResponse) {
        let mut raw = self.raw().await;
        let response = raw.connect(session, password, Some(false)).await;
        (raw, response)
    }
}

/// A connection whose bytes the test writes itself.
pub(super) struct Raw {
    pub(super) rt: TokioRuntime,
    read: <<TokioRuntime as Runtime>::Stream as Stream>::Read,
    write: <<TokioRuntime as Runtime>::Stream as Stream>::Write,
    input: BytesMut,
}

impl Raw {
    pub(super) async fn open(rt: &TokioRuntime, at: &HostPort) -> Self {
        let (read, write) = rt.connect(at).await.unwrap().into_split();
        Self { rt: rt.clone(), read, write, input: BytesMut::new() }
    }

    pub(super) async fn connect(&mut self, session: i64, password: &[u8], read_only: Option<bool>) -> ConnectResponse {
        let mut out = Writer::default();
        ConnectRequest { last_zxid_seen: 0, timeout_ms: 30_000, session, password: Bytes::copy_from_slice(password), read_only }.encode(&mut out);
        self.send(out).await;
        ConnectResponse::decode(&self.frame().await.expect("an answer")).unwrap()
    }

    /// The answer to this request; `None` if the member closes the connection instead.
    pub(super) async fn try_connect(&mut self, request: &ConnectRequest) -> Option<ConnectResponse> {
        let mut out = Writer::default();
        request.encode(&mut out);
        self.send(out).await;
        Some(ConnectResponse::decode(&self.frame().await?).unwrap())
    }

    pub(super) async fn send(&mut self, out: Writer) {
        self.write.write_all(&out.finish()).await.unwrap();
    }

    /// What the member says to a four-letter word.
    pub(super) async fn word(&mut self, word: &str) -> Vec<u8> {
        self.write.write_all(word.as_bytes()).await.unwrap();
        let mut said = Vec::new();
        self.read.read_to_end(&mut said).await.unwrap();
        said
    }

    /// The next frame; `None` at the end.
    pub(super) async fn frame(&mut self) -> Option<Bytes> {
        let late = self.rt.sleep(PATIENCE);
        let Self { read, input, .. } = self;
        let reading = async {
            loop {
                if let Some(head) = input.first_chunk::<4>() {
                    let length = u32::from_be_bytes(*head) as usize;
                    if input.len() >= 4 + length {
                        input.advance(4);
                        return Some(input.split_to(length).freeze());
                    }
                }
                if read.read_buf(input).await.unwrap_or(0) == 0 {
                    return None;
                }
            }
        };
        tokio::select! {
            biased;
            frame = reading => frame,
            () = late => panic!("nothing comes"),
        }
    }

    /// The next answer or event: xid, zxid, error, body.
    pub(super) async fn answer(&mut self) -> (i32, i64, i32, Bytes) {
        let frame = self.frame().await.expect("an answer");
        let mut reader = Reader::new(&frame);
        let (xid, zxid, error) = (reader.int().unwrap(), reader.long().unwrap(), reader.int().unwrap());
        (xid, zxid, error, frame.slice(16..))
    }

    pub(super) async fn ask(&mut self, xid: i32, opcode: i32, body: impl FnOnce(&mut Writer)) {
        let mut out = Writer::default();
        push(&mut out, xid, opcode, body);
        self.send(out).await;
    }

    pub(super) async fn event(&mut self) -> (EventKind, String) {
        let (xid, _, error, body) = self.answer().await;
        assert_eq!((xid, error), (XID_EVENT, 0));
        let mut reader = Reader::new(&body);
        let (kind, state, path) = (reader.int().unwrap(), reader.int().unwrap(), reader.string().unwrap());
        assert_eq!(state, 3);
        (protocol::event_kind(kind).unwrap(), path.to_owned())
    }
}

pub(super) fn push(out: &mut Writer, xid: i32, opcode: i32, body: impl FnOnce(&mut Writer)) {
    out.frame(|to| {
        to.int(xid);
        to.int(opcode);
        body(to);
    });
}

pub(super) fn create(to: &mut Writer, path: &str, data: &[u8], flags: i32) {
    to.string(path);
    to.buffer(data);
    to.acl(&[Acl::open()]);
    to.int(flags);
}

pub(super) fn read(to: &mut Writer, path: &str, watch: bool) {
    to.string(path);
    to.bool(watch);
}

fn with_member<F, Fut>(config: ServerConfig, body: F)
where
    F: FnOnce(Member) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("coordination");
    run(2, move |rt| async move { body(Member::start(&rt, &path, config).await).await }).unwrap();
}

fn all_words() -> ServerConfig {
    ServerConfig { words: "*".parse().unwrap(), ..ServerConfig::default() }
}

#[test]
fn a_client_creates_reads_changes_and_deletes() {
    with_member(ServerConfig::default(), |member| async move {
        let mut client = member.client().await;
        let open = [Acl::open()];
        let (path, stat) = client.create("/a", b"1", CreateMode::Persistent, &open).await.unwrap();
        assert_eq!((path.as_str(), stat.version, stat.data_length), ("/a", 0, 1));
        assert_eq!(client.create("/a/s-", b"", CreateMode::EphemeralSequential, &open).await.unwrap().0, "/a/s-0000000000");
        assert_eq!(client.create("/a/t", b"", CreateMode::Ttl { ttl_ms: 60_000 }, &open).await.unwrap().1.ephemeral_owner, 0, "no session's");
        assert_eq!(client.create("/a", b"", CreateMode::Persistent, &open).await.unwrap_err().code(), Some(ErrorCode::NodeExists));
        assert_eq!(client.create("/b", b"", CreateMode::Persistent, &[]).await.unwrap_err().code(), Some(ErrorCode::InvalidAcl));
        assert_eq!(client.set("/a", b"22", 0).await.unwrap().version, 1);
        assert_eq!(client.set("/a", b"", 0).await.unwrap_err().code(), Some(ErrorCode::BadVersion));
        let (data, stat) = client.get("/a").await.unwrap();
        assert_eq!((&*data, stat.num_children, stat.cversion), (&b"22"[..], 2, 2));
        assert_eq!(client.children("/a").await.unwrap(), ["s-0000000000", "t"]);
        assert_eq!(client.stat("/a/s-0000000000").await.unwrap().ephemeral_owner, client.session());
        assert_eq!(client.get("/none").await.unwrap_err().code(), Some(ErrorCode::NoNode));
        assert_eq!(client.get("a//").await.unwrap_err().code(), Some(ErrorCode::NoNode));
        assert_eq!(client.delete("/a", -1).await.unwrap_err().code(), Some(ErrorCode::NotEmpty));
        client.authenticate("digest", "bob:x").await.unwrap();
        client.create("/mine", b"m", CreateMode::Persistent, &[Acl::new(31, "auth", "")]).await.unwrap();
        assert_eq!(client.acl("/mine").await.unwrap().0, [Acl::new(31, "digest", &digest("bob:x"))]);
        client.sync("/mine").await.unwrap();
        client.close().await.unwrap();
        let mut other = member.client().await;
        for code in [other.get("/mine").await.unwrap_err().code(), other.acl("/mine").await.unwrap_err().code(), other.stat("/mine").await.unwrap_err().code()]
        {
            assert_eq!(code, Some(ErrorCode::NoAuth));
        }
        assert_eq!(other.children("/a").await.unwrap(), ["t"], "the ephemeral ended with its session");
        assert_eq!(other.authenticate("kerberos", "x").await.unwrap_err().code(), Some(ErrorCode::AuthFailed));
        assert!(other.get("/a").await.is_err(), "the connection ends after that");
    });
}

#[test]
fn pipelined_requests_are_answered_in_order_and_reads_see_the_writes_before_them() {
    with_member(ServerConfig::default(), |member| async move {
        let (mut raw, _) = member.connected(0, &[0; 16]).await;
        let mut out = Writer::default();
        push(&mut out, 1, opcode::CREATE, |to| create(to, "/n", b"0", 0));
        for round in 0..50 {
            push(&mut out, 10 * round + 2, opcode::SET_DATA, |to| {
                to.string("/n");
                to.buffer(round.to_string().as_bytes());
                to.int(-1);
            });
            push(&mut out, 10 * round + 3, opcode::GET_DATA, |to| read(to, "/n", false));
            push(&mut out, XID_PING, opcode::PING, |_| {});
            push(&mut out, 10 * round + 4, opcode::DELETE, |to| (to.string("/none"), to.int(-1)).1);
        }
        raw.send(out).await;
        assert_eq!(raw.answer().await.0, 1);
        let mut last_zxid = 0;
        for round in 0..50 {
            let (xid, zxid, error, _) = raw.answer().await;
            assert_eq!((xid, error), (10 * round + 2, 0));
            assert!(zxid >= last_zxid);
            let (xid, read_zxid, error, body) = raw.answer().await;
            assert_eq!((xid, error), (10 * round + 3, 0));
            assert!(read_zxid >= zxid);
            last_zxid = read_zxid;
            // Later writes of this client may be there already, earlier ones must.
            let shown: i32 = std::str::from_utf8(Reader::new(&body).buffer().unwrap().unwrap()).unwrap().parse().unwrap();
            assert!(shown >= round, "{shown} after write {round}");
            assert_eq!(raw.answer().await.0, XID_PING);
            let (xid, _, error, body) = raw.answer().await;
            assert_eq!((xid, error, body.len()), (10 * round + 4, -101, 0));
        }
    });
}

#[test]
fn an_event_comes_before_the_answer_that_shows_the_change() {
    with_member(ServerConfig::default(), |member| async move {
        let mut writer = member.client().await;
        writer.create("/w", b"0", CreateMode::Persistent, &[Acl::open()]).await.unwrap();
        let (mut raw, _) = member.connected(0, &[0; 16]).await;
        for round in 1..30 {
            raw.ask(1, opcode::GET_DATA, |to| read(to, "/w", true)).await;
            assert_eq!(raw.answer().await.0, 1);
            raw.ask(2, opcode::EXISTS, |to| read(to, &format!("/w/{round}"), true)).await;
            assert_eq!((raw.answer().await.2, round), (-101, round));
            writer.set("/w", round.to_string().as_bytes(), -1).await.unwrap();
            writer.create(&format!("/w/{round}"), b"", CreateMode::Persistent, &[Acl::open()]).await.unwrap();
            raw.ask(3, opcode::GET_DATA, |to| read(to, "/w", false)).await;
            assert_eq!(raw.event().await, (EventKind::DataChanged, "/w".into()));
            assert_eq!(raw.event().await, (EventKind::Created, format!("/w/{round}")));
            let (xid, _, _, body) = raw.answer().await;
            assert_eq!((xid, Reader::new(&body).buffer().unwrap().unwrap()), (3, round.to_string().as_bytes()));
        }
        // The own write's event comes before its answer, too.
        raw.ask(4, opcode::GET_CHILDREN2, |to| read(to, "/w", true)).await;
        assert_eq!(raw.answer().await.0, 4);
        raw.ask(5, opcode::CREATE2, |to| create(to, "/w/own", b"", 0)).await;
        assert_eq!(raw.event().await, (EventKind::ChildrenChanged, "/w".into()));
        assert_eq!(raw.answer().await.0, 5);
    });
}

#[test]
fn persistent_watches_are_added_checked_and_removed() {
    with_member(ServerConfig::default(), |member| async move {
        let mut watcher = member.client().await;
        watcher.watch("/", WatchKind::PersistentRecursive).await.unwrap();
        let mut writer = member.client().await;
        for path in ["/a", "/a/b"] {
            writer.create(path, b"", CreateMode::Persistent, &[Acl::open()]).await.unwrap();
        }
        writer.delete("/a/b", -1).await.unwrap();
        for (kind, path) in [(EventKind::Created, "/a"), (EventKind::Created, "/a/b"), (EventKind::Deleted, "/a/b")] {
            assert_eq!(watcher.next_event().await.unwrap(), WatchEvent { kind, path: path.into() });
        }
        let (mut raw, _) = member.connected(0, &[0; 16]).await;
        let which = |number: i32| move |to: &mut Writer| (to.string("/a"), to.int(number)).1;
        raw.ask(1, opcode::ADD_WATCH, which(0)).await;
        raw.ask(2, opcode::CHECK_WATCHES, which(4)).await;
        raw.ask(3, opcode::CHECK_WATCHES, which(5)).await;
        raw.ask(4, opcode::REMOVE_WATCHES, which(3)).await;
        raw.ask(5, opcode::REMOVE_WATCHES, which(3)).await;
        let mut errors = Vec::new();
        for _ in 0..5 {
            errors.push(raw.answer().await.2);
        }
        assert_eq!(errors, [0, 0, -121, 0, -121]);
    });
}

#[test]
fn a_session_is_come_back_to_with_its_password_also_over_a_restart() {
    with_member(ServerConfig::default(), |member| async move {
        let (mut first, session) = member.connected(0, &[0; 16]).await;
        assert_eq!((session.timeout_ms, session.read_only), (30_000, Some(false)));
        first.ask(1, opcode::CREATE, |to| create(to, "/e", b"", 1)).await;
        assert_eq!(first.answer().await.2, 0);
        let (mut second, again) = member.connected(session.session, &session.password).await;
        assert_eq!(again, session);
        assert_eq!(first.frame().await, None, "a session has one connection");
        let (mut thief, refused) = member.connected(session.session, &[0; 16]).await;
        assert_eq!((refused.session, refused.timeout_ms), (0, 0));
        assert_eq!(thief.frame().await, None);
        second.ask(2, opcode::EXISTS, |to| read(to, "/e", false)).await;
        assert_eq!(second.answer().await.2, 0);

        let member = member.restart(ServerConfig::default()).await;
        assert_eq!(second.frame().await, None);
        let (mut third, again) = member.connected(session.session, &session.password).await;
        assert_eq!(again, session, "sessions of clients outlive the process");
        third.ask(3, opcode::GET_EPHEMERALS, |to| to.string("/")).await;
        assert_eq!(Reader::new(&third.answer().await.3).strings().unwrap(), ["/e"]);
        third.ask(4, opcode::CLOSE_SESSION, |_| {}).await;
        assert_eq!((third.answer().await.0, third.frame().await), (4, None));
        let (_, gone) = member.connected(session.session, &session.password).await;
        assert_eq!(gone.session, 0);
        assert_eq!(member.coordination.exists("/e").await.unwrap(), None);
    });
}

#[test]
fn who_comes_back_sets_its_watches_again_and_is_told_what_it_missed() {
    with_member(ServerConfig::default(), |member| async move {
        let mut writer = member.client().await;
        for path in ["/changed", "/same", "/gone"] {
            writer.create(path, b"", CreateMode::Persistent, &[Acl::open()]).await.unwrap();
        }
        let seen = member.coordination.last_zxid();
        writer.set("/changed", b"1", -1).await.unwrap();
        writer.delete("/gone", -1).await.unwrap();
        let (mut raw, _) = member.connected(0, &[0; 16]).await;
        raw.ask(XID_SET_WATCHES, opcode::SET_WATCHES2, |to| {
            to.long(seen);
            to.strings(["/changed", "/same", "/gone"].into_iter());
            to.strings(["/new"].into_iter());
            to.strings(["/"].into_iter());
            to.strings([].into_iter());
            to.strings(["/same"].into_iter());
        })
        .await;
        assert_eq!(raw.event().await, (EventKind::DataChanged, "/changed".into()));
        assert_eq!(raw.event().await, (EventKind::Deleted, "/gone".into()));
        assert_eq!(raw.event().await, (EventKind::ChildrenChanged, "/".into()));
        assert_eq!(raw.answer().await.0, XID_SET_WATCHES);
        writer.set("/same", b"1", -1).await.unwrap();
        writer.create("/new", b"", CreateMode::Persistent, &[Acl::open()]).await.unwrap();
        assert_eq!(raw.event().await, (EventKind::DataChanged, "/same".into()), "once, though two watches meet it");
        assert_eq!(raw.event().await, (EventKind::Created, "/new".into()));
    });
}

#[test]
fn silent_sessions_end_and_idle_znodes_go() {
    let config = ServerConfig { tick_ms: 20, min_session_timeout_ms: 100, max_session_timeout_ms: 200, idle_check_ms: 50, ..ServerConfig::default() };
    with_member(config, |member| async move {
        let watcher = member.coordination.clone();
        let mut changes = watcher.subscribe();
        let (mut silent, session) = member.connected(0, &[0; 16]).await;
        assert_eq!(session.timeout_ms, 200, "at most maxSessionTimeout");
        silent.ask(1, opcode::CREATE, |to| create(to, "/e", b"", 1)).await;
        silent.ask(2, opcode::CREATE_CONTAINER, |to| create(to, "/c", b"", 4)).await;
        silent.ask(3, opcode::CREATE, |to| create(to, "/c/x", b"", 1)).await;
        silent
            .ask(4, opcode::CREATE_TTL, |to| {
                create(to, "/t", b"", 5);
                to.long(10);
            })
            .await;
        for xid in 1..5 {
            let answer = silent.answer().await;
            assert_eq!((answer.0, answer.2), (xid, 0));
        }
        // It stays connected and says nothing more.
        let mut deleted = Vec::new();
        while deleted.len() < 4 {
            let Some(crate::coordination::Notice::Changes(changes)) = changes.next().await else { panic!() };
            deleted.extend(changes.events.iter().filter(|event| event.kind == EventKind::Deleted).map(|event| event.path.to_string()));
        }
        deleted.sort();
        assert_eq!(deleted, ["/c", "/c/x", "/e", "/t"]);
        assert_eq!(silent.frame().await, None, "its connection ends with it");
        let (_, gone) = member.connected(session.session, &session.password).await;
        assert_eq!(gone.session, 0);
    });
}

#[test]
fn hostile_bytes_end_their_connection_or_are_answered_with_an_error() {
    with_member(ServerConfig { max_frame_bytes: 1_000, ..ServerConfig::default() }, |member| async move {
        for bytes in [&[0x7f, 0xff, 0xff, 0xff][..], &[0xff; 8], &[0, 0, 3, 0xe9], &[0, 0, 0, 0], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut raw = member.raw().await;
            raw.write.write_all(bytes).await.unwrap();
            assert_eq!(raw.frame().await, None, "{bytes:?}");
        }
        let mut future = member.raw().await;
        let mut out = Writer::default();
        ConnectRequest { last_zxid_seen: 1 << 40, timeout_ms: 1, session: 0, password: Bytes::new(), read_only: None }.encode(&mut out);
        future.send(out).await;
        assert_eq!(future.frame().await, None, "it would see the past again");

        let mut old = member.raw().await;
        assert_eq!(old.connect(0, &[], None).await.read_only, None, "as a client of 3.3 expects it");
        let garbage: [(i32, &[u8]); 5] = [
            (opcode::CREATE, &[0x7f, 0xff, 0xff, 0xff]),
            (opcode::SET_WATCHES, &[0, 0, 0, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff]),
            (opcode::MULTI, &[0, 0, 0, 1, 0]),
            (opcode::SET_ACL, &[0, 0, 0, 1, b'/', 0x10, 0, 0, 0]),
            (opcode::GET_DATA, &[0xff, 0xff, 0xff, 0xff, 0]),
        ];
        for (opcode, body) in garbage {
            old.ask(7, opcode, |to| to.append(body)).await;
            let (xid, _, error, _) = old.answer().await;
            assert_eq!((xid, error), (7, -5), "{opcode}");
        }
        let nothing = |to: &mut Writer| {
            (0..3).for_each(|_| to.optional_buffer(None));
            to.long(-1);
        };
        old.ask(8, opcode::RECONFIG, nothing).await;
        assert_eq!(old.answer().await.2, -123);
        old.ask(9, 77, |_| {}).await;
        assert_eq!((old.answer().await.2, old.frame().await), (-6, None), "an unknown kind is answered, and ends the connection");
        assert_eq!(member.client().await.children("/").await.unwrap(), ["zookeeper"], "others are served");
    });
}

#[test]
fn connections_of_one_address_are_bounded() {
    with_member(ServerConfig { max_connections_per_address: 2, ..ServerConfig::default() }, |member| async move {
        let (first, _second) = (member.client().await, member.client().await);
        let mut third = member.raw().await;
        assert_eq!(third.frame().await, None);
        first.close().await.unwrap();
        let mut open = member.server.inner.open.subscribe();
        open.wait_for(|open| *open < 2).await.unwrap();
        member.client().await.children("/").await.unwrap();
    });
}

#[test]
fn reads_of_many_kinds_are_answered_in_zookeepers_shape() {
    with_member(ServerConfig::default(), |member| async move {
        let mut client = member.client().await;
        for path in ["/a", "/a/b", "/a/b/c"] {
            client.create(path, b"x", CreateMode::Persistent, &[Acl::open()]).await.unwrap();
        }
        let (mut raw, _) = member.connected(0, &[0; 16]).await;
        raw.ask(0, opcode::CREATE, |to| {
            to.string("/null");
            to.optional_buffer(None);
            to.acl(&[Acl::open()]);
            to.int(0);
        })
        .await;
        assert_eq!(raw.answer().await.2, 0);
        raw.ask(0, opcode::GET_DATA, |to| read(to, "/null", false)).await;
        assert_eq!(raw.answer().await.3[..4], [0xff; 4], "no content is told from empty content");
        raw.ask(1, opcode::GET_ALL_CHILDREN_NUMBER, |to| to.string("/a")).await;
        assert_eq!(&*raw.answer().await.3, [0, 0, 0, 2]);
        raw.ask(XID_AUTH, opcode::AUTH, |to| {
            to.int(0);
            to.string("digest");
            to.buffer(b"bob:x");
        })
        .await;
        assert_eq!(raw.answer().await.0, XID_AUTH);
        raw.ask(2, opcode::WHO_AM_I, |_| {}).await;
        let body = raw.answer().await.3;
        let who = Reader::new(&body).list(|reader| Ok((reader.string()?.to_owned(), reader.string()?.to_owned()))).unwrap();
        assert_eq!(who, [("ip".to_owned(), "127.0.0.1".to_owned()), ("digest".to_owned(), "bob".to_owned())]);
        raw.ask(3, opcode::MULTI_READ, |to| {
            for (opcode, path) in [(opcode::GET_DATA, "/a"), (opcode::GET_CHILDREN, "/none"), (opcode::GET_CHILDREN, "/a")] {
                protocol::encode_multi_header(to, opcode, false, -1);
                read(to, path, false);
            }
            protocol::encode_multi_end(to);
        })
        .await;
        let (_, _, error, body) = raw.answer().await;
        let mut reader = Reader::new(&body);
        let header = |reader: &mut Reader<'_>| (reader.int().unwrap(), reader.bool().unwrap(), reader.int().unwrap());
        assert_eq!((error, header(&mut reader)), (0, (opcode::GET_DATA, false, 0)));
        assert_eq!(reader.buffer().unwrap().unwrap(), b"x");
        reader.stat().unwrap();
        assert_eq!((header(&mut reader), reader.int().unwrap()), ((opcode::ERROR, false, -101), -101));
        assert_eq!((header(&mut reader), reader.strings().unwrap()), ((opcode::GET_CHILDREN, false, 0), vec!["b".to_owned()]));
        assert_eq!((header(&mut reader), reader.left_bytes()), ((-1, true, -1), 0));
        raw.ask(4, opcode::SYNC, |to| to.string("/a")).await;
        let (_, _, error, body) = raw.answer().await;
        assert_eq!((error, Reader::new(&body).string().unwrap()), (0, "/a"));
    });
}

#[test]
fn the_super_digest_opens_everything() {
    let config = ServerConfig { super_digest: Some(digest("super:admin")), ..ServerConfig::default() };
    with_member(config, |member| async move {
        let mut bob = member.client().await;
        bob.authenticate("digest", "bob:x").await.unwrap();
        bob.create("/mine", b"m", CreateMode::Persistent, &[Acl::new(31, "auth", "")]).await.unwrap();
        let mut admin = member.client().await;
        assert_eq!(admin.get("/mine").await.unwrap_err().code(), Some(ErrorCode::NoAuth));
        admin.authenticate("digest", "super:wrong").await.unwrap();
        assert_eq!(admin.get("/mine").await.unwrap_err().code(), Some(ErrorCode::NoAuth));
        admin.authenticate("digest", "super:admin").await.unwrap();
        assert_eq!(&*admin.get("/mine").await.unwrap().0, b"m");
    });
}

async fn say(member: &Member, word: &str) -> String {
    let mut raw = member.raw().await;
    raw.write.write_all(word.as_bytes()).await.unwrap();
    let mut said = String::new();
    raw.read.read_to_string(&mut said).await.unwrap();
    said
}

#[test]
fn four_letter_words_are_answered_if_the_list_has_them() {
    with_member(all_words(), |member| async move {
        let mut client = member.client().await;
        client.create("/e", b"", CreateMode::Ephemeral, &[Acl::open()]).await.unwrap();
        client.watch("/e", WatchKind::Persistent).await.unwrap();
        let session = format!("{:#x}", client.session());
        for (word, expected) in [
            ("ruok", "imok"),
            ("isro", "rw"),
            ("srvr\n", "Mode: standalone\nNode count: 5"),
            ("stat", "Clients:\n /127.0.0.1:"),
            ("mntr", "zk_ephemerals_count\t1\n"),
            ("mntr", "zk_watch_count\t2\n"),
            ("conf", "tickTime=3000\n"),
            ("cons", &format!("sid={session}")),
            ("dump", &format!("{session}:\n\t/e\n")),
            ("envi", "zookeeper.version=3.9"),
            ("wchs", "1 connections watching 1 paths\nTotal watches:1\n"),
            ("wchc", &format!("{session}\n\t/e\n")),
            ("wchp", &format!("/e\n\t{session}\n")),
            ("crst", "Connection stats reset."),
            ("srst", "Server stats reset."),
        ] {
            let said = say(&member, word).await;
            assert!(said.contains(expected), "{word} said {said:?}, without {expected:?}");
        }
    });
    with_member(ServerConfig::default(), |member| async move {
        assert!(say(&member, "srvr").await.starts_with("Zookeeper version: 3.9"));
        assert_eq!(say(&member, "ruok").await, "ruok is not executed because it is not in the whitelist.\n");
    });
}
