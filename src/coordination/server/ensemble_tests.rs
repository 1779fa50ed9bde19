//! The servers of three members, as clients see them over real sockets: sessions that move, leaders that go, members that are cut off.

#![allow(clippy::disallowed_methods, reason = "a disk is lost behind the boundary's back")]

use std::net::SocketAddr;
use std::path::PathBuf;

use bytes::Bytes;
use tempfile::TempDir;

use super::tests::{Raw, create, push, read};
use super::*;
use crate::coordination::Options;
use crate::coordination::ensemble::peer::Secret;
use crate::coordination::ensemble::start::EnsembleConfig;
use crate::coordination::jute::{Reader, Writer};
use crate::coordination::op::EventKind;
use crate::coordination::protocol::{ConnectRequest, ConnectResponse, XID_SET_WATCHES, opcode};
use crate::runtime::tokio::{TokioRuntime, run};
use crate::runtime::{HostPort, Task};

struct Member {
    coordination: Coordination<TokioRuntime>,
    server: Server<TokioRuntime>,
}

impl Member {
    fn at(&self) -> HostPort {
        HostPort { host: "127.0.0.1".into(), port: self.server.bound()[0].port() }
    }

    async fn stop(&self) {
        self.server.shutdown().await;
        self.coordination.shutdown().await;
    }

    /// Waits until it serves clients, or until it does not.
    async fn serves(&self, wanted: bool) {
        let mut serving = self.coordination.shared.hub.serving();
        serving.wait_for(|is_serving| *is_serving == wanted).await.unwrap();
    }
}

/// Stands between a member and those who connect to it.
struct Gate {
    is_shut: watch::Sender<bool>,
}

impl Gate {
    async fn open(rt: &TokioRuntime, listener: <TokioRuntime as Runtime>::Listener, to: HostPort) -> Self {
        let is_shut = watch::Sender::new(false);
        let (this, gate) = (rt.clone(), is_shut.clone());
        rt.spawn("gate", async move {
            loop {
                let near = listener.accept().await.unwrap();
                let (rt, to, mut shut) = (this.clone(), to.clone(), gate.subscribe());
                this.spawn("gated", async move {
                    if *shut.borrow() {
                        return;
                    }
                    let Ok(far) = rt.connect(&to).await else { return };
                    let ((mut near_read, mut near_write), (mut far_read, mut far_write)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        biased;
                        _ = shut.wait_for(|is_shut| *is_shut) => {}
                        _ = tokio::io::copy(&mut near_read, &mut far_write) => {}
                        _ = tokio::io::copy(&mut far_read, &mut near_write) => {}
                    }
                });
            }
        });
        Self { is_shut }
    }

    /// Breaks all connections and lets none through, or lets them through again.
    fn shut(&self, is_shut: bool) {
        self.is_shut.send_replace(is_shut);
    }
}

struct Ensemble {
    rt: TokioRuntime,
    /// What stands before each member.
    gates: Vec<Gate>,
    dirs: Vec<PathBuf>,
    configs: Vec<EnsembleConfig>,
    options: Options,
    server: ServerConfig,
    /// By the number of the server less one; none for one that is stopped.
    members: Vec<Option<Member>>,
}

impl Ensemble {
    async fn start(rt: &TokioRuntime, root: &std::path::Path, options: Options, server: ServerConfig) -> Self {
        let host_port = |address: &SocketAddr| HostPort { host: address.ip().to_string(), port: address.port() };
        let (mut addresses, mut servers, mut gates) = (Vec::new(), BTreeMap::new(), Vec::new());
        let mut reserved = Vec::new();
        for id in 1..=3 {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let (own, gate) = (rt.listen(any).await.unwrap(), rt.listen(any).await.unwrap());
            addresses.push(own.local_addr());
            servers.insert(id, host_port(&gate.local_addr()));
            gates.push(Gate::open(rt, gate, host_port(&own.local_addr())).await);
            reserved.push(own);
        }
        drop(reserved);
        let config = |(server_id, listen)| EnsembleConfig { server_id, servers: servers.clone(), secret: Secret::new("a secret of sixteen or more"), listen };
        let configs = (1..).zip(addresses).map(config).collect();
        let dirs = (1..=3).map(|id: u32| root.join(id.to_string())).collect();
        let mut this = Self { rt: rt.clone(), gates, dirs, configs, options, server, members: vec![None, None, None] };
        let opening: Vec<_> = (0..3).map(|at| this.opening(at)).collect();
        for (at, opening) in opening.into_iter().enumerate() {
            this.members[at] = Some(opening.join().await.unwrap());
        }
        for at in 0..3 {
            this.member(at).serves(true).await;
        }
        this
    }

    fn opening(&self, at: usize) -> <TokioRuntime as Runtime>::Task<Member> {
        let (rt, dir, config, options, server) = (self.rt.clone(), self.dirs[at].clone(), self.configs[at].clone(), self.options, self.server.clone());
        self.rt.spawn("opening", async move {
            let coordination = Coordination::open_member(rt.clone(), &dir, &config, options, None).await.unwrap();
            let socket = rt.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
            let server = Server::start(coordination.clone(), vec![socket], server);
            Member { coordination, server }
        })
    }

    async fn open(&mut self, at: usize) {
        self.members[at] = Some(self.opening(at).join().await.unwrap());
    }

    fn member(&self, at: usize) -> &Member {
        self.members[at].as_ref().expect("it is not stopped")
    }

    /// Which member leads, asked of `at`.
    async fn leader(&self, at: usize) -> usize {
        loop {
            let _ = self.member(at).coordination.sync().await;
            let leader = self.member(at).coordination.status().await.unwrap().leadership.leader;
            if leader != 0 {
                return leader as usize - 1;
            }
        }
    }

    async fn raw(&self, at: usize) -> Raw {
        Raw::open(&self.rt, &self.member(at).at()).await
    }

    async fn connected(&self, at: usize, session: i64, password: &[u8]) -> (Raw, ConnectResponse) {
        let mut raw = self.raw(at).await;
        let response = raw.connect(session, password, Some(false)).await;
        (raw, response)
    }

    /// Comes back to a session, with what was seen last, at this member; asks again when it is sent away.
    async fn back(&self, at: usize, known: &ConnectResponse, last_zxid_seen: i64) -> Raw {
        let request =
            ConnectRequest { last_zxid_seen, timeout_ms: 30_000, session: known.session, password: Bytes::copy_from_slice(&known.password), read_only: None };
        loop {
            let mut raw = self.raw(at).await;
            if let Some(response) = raw.try_connect(&request).await {
                assert_eq!(response.session, known.session);
                return raw;
            }
        }
    }

    async fn stop(&self) {
        for member in self.members.iter().flatten() {
            member.stop().await;
        }
    }
}

fn with_ensemble<F, Fut>(options: Options, server: ServerConfig, body: F)
where
    F: FnOnce(Ensemble) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_owned();
    run(2, move |rt| async move { body(Ensemble::start(&rt, &path, options, server).await).await }).unwrap();
}

fn set(to: &mut Writer, path: &str, data: &[u8]) {
    to.string(path);
    to.buffer(data);
    to.int(-1);
}

#[test]
fn a_session_moves_its_ephemerals_stay_and_its_old_connection_ends() {
    with_ensemble(Options::default(), ServerConfig::default(), |ensemble| async move {
        let (mut first, session) = ensemble.connected(0, 0, &[0; 16]).await;
        first.ask(1, opcode::CREATE, |to| create(to, "/e", b"", 1)).await;
        let (_, zxid, error, _) = first.answer().await;
        assert_eq!(error, 0);
        let mut second = ensemble.back(1, &session, zxid).await;
        assert_eq!(first.frame().await, None, "a session has one connection, wherever it is");
        second.ask(2, opcode::GET_EPHEMERALS, |to| to.string("/")).await;
        assert_eq!(Reader::new(&second.answer().await.3).strings().unwrap(), ["/e"]);
        let (mut thief, refused) = ensemble.connected(2, session.session, &[0; 16]).await;
        assert_eq!((refused.session, refused.timeout_ms), (0, 0), "another password");
        assert_eq!(thief.frame().await, None);
        second.ask(3, opcode::CLOSE_SESSION, |_| {}).await;
        let (xid, zxid, ..) = second.answer().await;
        assert_eq!((xid, second.frame().await), (3, None));
        for at in 0..3 {
            let mut raw = ensemble.raw(at).await;
            let request = ConnectRequest {
                last_zxid_seen: zxid,
                timeout_ms: 30_000,
                session: session.session,
                password: Bytes::copy_from_slice(&session.password),
                read_only: Some(false),
            };
            assert_eq!(raw.try_connect(&request).await.unwrap().session, 0, "ended everywhere");
            assert_eq!(ensemble.member(at).coordination.exists("/e").await.unwrap(), None);
        }
        ensemble.stop().await;
    });
}

#[test]
fn what_the_connection_before_asked_is_refused_once_the_session_has_moved() {
    with_ensemble(Options::default(), ServerConfig::default(), |ensemble| async move {
        let (_first, session) = ensemble.connected(0, 0, &[0; 16]).await;
        let before = ensemble.member(0).coordination.read(|tree| tree.client_session(session.session).unwrap().attached_zxid);
        let mut second = ensemble.back(1, &session, 0).await;
        second.ask(1, opcode::SYNC, |to| to.string("/")).await;
        assert_eq!(second.answer().await.2, 0);
        // As if it had been under way since before the move.
        let late = |request| {
            let coordination = ensemble.member(0).coordination.clone();
            async move { coordination.submit(session.session, request).await.unwrap().outcome().await.unwrap_err().code }
        };
        use crate::coordination::op::{ErrorCode, Operation, Request};
        let operations = vec![Operation::create_ephemeral("/late", &b""[..])];
        assert_eq!(late(Request::Attached { attached_zxid: before, identities: vec![], operations }).await, ErrorCode::SessionMoved);
        assert_eq!(late(Request::EndSession { attached_zxid: before }).await, ErrorCode::SessionMoved);
        let attach = Request::Attach { attached_zxid: before, timeout_ms: 5_000, password: session.password };
        assert_eq!(late(attach).await, ErrorCode::SessionMoved, "a request to come back that was long under way");
        second.ask(2, opcode::EXISTS, |to| read(to, "/late", false)).await;
        assert_eq!(second.answer().await.2, -101);
        ensemble.stop().await;
    });
}

#[test]
fn pipelined_reads_show_the_writes_before_them_and_none_that_come_later() {
    with_ensemble(Options::default(), ServerConfig::default(), |ensemble| async move {
        for at in 0..3 {
            let (mut raw, _) = ensemble.connected(at, 0, &[0; 16]).await;
            let path = format!("/n{at}");
            let mut out = Writer::default();
            push(&mut out, 1, opcode::CREATE, |to| create(to, &path, b"", 0));
            for round in 0..100 {
                push(&mut out, 2, opcode::SET_DATA, |to| set(to, &path, round.to_string().as_bytes()));
                push(&mut out, 3, opcode::GET_DATA, |to| read(to, &path, true));
                push(&mut out, 4, opcode::DELETE, |to| (to.string("/none"), to.int(-1)).1);
                if round % 10 == 0 {
                    push(&mut out, 5, opcode::SYNC, |to| to.string(&path));
                }
            }
            raw.send(out).await;
            assert_eq!(raw.answer().await.0, 1);
            let mut last_zxid = 0;
            for round in 0..100 {
                if round > 0 {
                    // The write fires the watch of the read before it, after that read's answer and before its own.
                    assert_eq!(raw.event().await, (EventKind::DataChanged, path.clone()));
                }
                let (xid, zxid, error, body) = raw.answer().await;
                assert_eq!((xid, error), (2, 0));
                assert!(zxid > last_zxid, "every transaction has its own zxid");
                let mut reader = Reader::new(&body);
                let _czxid = reader.long().unwrap();
                assert_eq!(reader.long().unwrap(), zxid, "the answer's zxid is the write's");
                let (xid, read_zxid, error, body) = raw.answer().await;
                assert_eq!((xid, error), (3, 0));
                assert!(read_zxid >= zxid);
                assert_eq!(Reader::new(&body).buffer().unwrap().unwrap(), round.to_string().as_bytes());
                let (xid, zxid, error, _) = raw.answer().await;
                assert_eq!((xid, error), (4, -101));
                assert!(zxid > read_zxid, "a failed write is a transaction, too");
                last_zxid = zxid;
                if round % 10 == 0 {
                    let (xid, zxid, error, _) = raw.answer().await;
                    assert_eq!((xid, error), (5, 0));
                    last_zxid = zxid;
                }
            }
        }
        ensemble.stop().await;
    });
}

#[test]
fn clients_of_other_members_stay_connected_when_the_leader_goes_and_their_writes_are_made_once() {
    with_ensemble(Options::default(), ServerConfig::default(), |mut ensemble| async move {
        let leader = ensemble.leader(0).await;
        let other = (leader + 1) % 3;
        let (mut raw, _) = ensemble.connected(other, 0, &[0; 16]).await;
        raw.ask(0, opcode::CREATE, |to| create(to, "/q", b"", 0)).await;
        assert_eq!(raw.answer().await.2, 0);
        let stopped = ensemble.members[leader].take().unwrap();
        let stopping = ensemble.rt.spawn("stopping", async move { stopped.stop().await });
        for xid in 1..=200 {
            raw.ask(xid, opcode::CREATE, |to| create(to, "/q/n-", b"", 2)).await;
        }
        for xid in 1..=200 {
            let answer = raw.answer().await;
            assert_eq!((answer.0, answer.2), (xid, 0));
            assert_eq!(Reader::new(&answer.3).string().unwrap(), format!("/q/n-{:010}", xid - 1));
        }
        stopping.join().await;
        ensemble.open(leader).await;
        ensemble.member(leader).coordination.sync().await.unwrap();
        assert_eq!(ensemble.member(leader).coordination.children("/q").await.unwrap().0.len(), 200);
        ensemble.stop().await;
    });
}

#[test]
fn silent_sessions_end_wherever_they_are_and_others_live_over_a_new_leader() {
    let server = ServerConfig { tick_ms: 100, min_session_timeout_ms: 200, max_session_timeout_ms: 3_000, idle_check_ms: 100, ..ServerConfig::default() };
    with_ensemble(Options::default(), server, |mut ensemble| async move {
        let leader = ensemble.leader(0).await;
        let (stays, other) = ((leader + 1) % 3, (leader + 2) % 3);
        let mut silent = ensemble.raw(stays).await;
        let request = |timeout_ms| ConnectRequest { last_zxid_seen: 0, timeout_ms, session: 0, password: Bytes::new(), read_only: None };
        let session = silent.try_connect(&request(1_000)).await.unwrap();
        assert_eq!(session.timeout_ms, 1_000);
        silent.ask(1, opcode::CREATE, |to| create(to, "/silent", b"", 1)).await;
        silent.ask(2, opcode::CREATE_CONTAINER, |to| create(to, "/c", b"", 4)).await;
        silent.ask(3, opcode::CREATE, |to| create(to, "/c/x", b"", 1)).await;
        let (mut alive, _) = ensemble.connected(stays, 0, &[0; 16]).await;
        alive.ask(1, opcode::CREATE, |to| create(to, "/alive", b"", 1)).await;
        assert_eq!(alive.answer().await.2, 0);
        let mut changes = ensemble.member(other).coordination.subscribe();
        let gone = ensemble.members[leader].take().unwrap();
        gone.stop().await;
        // It is pinged by nobody, and ends under the new leader; the other one says something all the time.
        let mut deleted = std::collections::BTreeSet::new();
        while deleted.len() < 3 {
            alive.ask(-2, opcode::PING, |_| {}).await;
            assert_eq!(alive.answer().await.0, -2);
            let notice = changes.next();
            let soon = ensemble.rt.sleep(Duration::from_millis(100));
            tokio::select! {
                biased;
                notice = notice => {
                    let Some(crate::coordination::Notice::Changes(changes)) = notice else { panic!() };
                    deleted.extend(changes.events.iter().filter(|event| event.kind == EventKind::Deleted).map(|event| event.path.to_string()));
                }
                () = soon => {}
            }
        }
        assert!(deleted.iter().eq(["/c", "/c/x", "/silent"]), "{deleted:?}");
        for xid in 1..4 {
            assert_eq!(silent.answer().await.0, xid);
        }
        assert_eq!(silent.frame().await, None, "its connection ends with it, at the member that it is connected to");
        alive.ask(2, opcode::EXISTS, |to| read(to, "/alive", false)).await;
        assert_eq!(alive.answer().await.2, 0);
        ensemble.stop().await;
    });
}

#[test]
fn a_member_without_a_leader_drops_its_clients_and_serves_again_once_it_has_one() {
    with_ensemble(Options::default(), ServerConfig { words: "*".parse().unwrap(), ..ServerConfig::default() }, |mut ensemble| async move {
        let (mut raw, session) = ensemble.connected(0, 0, &[0; 16]).await;
        for at in [1, 2] {
            ensemble.members[at].take().unwrap().stop().await;
        }
        assert_eq!(raw.frame().await, None, "told by its connection, long before its session could expire elsewhere");
        ensemble.member(0).serves(false).await;
        let mut refused = ensemble.raw(0).await;
        let request = ConnectRequest {
            last_zxid_seen: 0,
            timeout_ms: 30_000,
            session: session.session,
            password: Bytes::copy_from_slice(&session.password),
            read_only: None,
        };
        assert_eq!(refused.try_connect(&request).await, None);
        for (word, said) in [("stat", &b"This ZooKeeper instance is not currently serving requests\n"[..]), ("ruok", b"imok")] {
            assert_eq!(ensemble.raw(0).await.word(word).await, said);
        }
        ensemble.open(1).await;
        ensemble.member(0).serves(true).await;
        let mut raw = ensemble.back(0, &session, 0).await;
        raw.ask(1, opcode::CREATE, |to| create(to, "/e", b"", 1)).await;
        assert_eq!(raw.answer().await.2, 0);
        ensemble.stop().await;
    });
}

#[test]
fn a_client_that_has_seen_more_waits_for_the_member_to_catch_up() {
    with_ensemble(Options::default(), ServerConfig::default(), |ensemble| async move {
        let (mut writer, _) = ensemble.connected(0, 0, &[0; 16]).await;
        for round in 0..30 {
            writer.ask(round, opcode::CREATE, |to| create(to, &format!("/n{round}"), b"", 0)).await;
            let (_, seen, error, _) = writer.answer().await;
            assert_eq!(error, 0);
            let at = 1 + round as usize % 2;
            let request = ConnectRequest { last_zxid_seen: seen, timeout_ms: 30_000, session: 0, password: Bytes::new(), read_only: None };
            let mut raw = ensemble.raw(at).await;
            raw.try_connect(&request).await.expect("it had to wait for a moment only");
            raw.ask(1, opcode::EXISTS, |to| read(to, &format!("/n{round}"), false)).await;
            let (_, zxid, error, _) = raw.answer().await;
            assert_eq!(error, 0);
            assert!(zxid >= seen);
        }
        let future = ConnectRequest { last_zxid_seen: 1 << 40, timeout_ms: 30_000, session: 0, password: Bytes::new(), read_only: None };
        assert_eq!(ensemble.raw(1).await.try_connect(&future).await, None, "no member of this ensemble has that");
        ensemble.stop().await;
    });
}

#[test]
fn a_snapshot_that_leaps_over_changes_ends_the_connections_and_no_watch_is_lost() {
    // The log is compacted soon; a member that is cut off for a moment goes on to serve.
    let options = Options { snapshot_every_entries: 50, ..Options::default() };
    let server = ServerConfig { min_session_timeout_ms: 10_000, max_session_timeout_ms: 60_000, ..ServerConfig::default() };
    with_ensemble(options, server, |ensemble| async move {
        let leader = ensemble.leader(0).await;
        let (behind, writes_at) = ((leader + 1) % 3, (leader + 2) % 3);
        let (mut writer, _) = ensemble.connected(writes_at, 0, &[0; 16]).await;
        for (xid, path) in (1..).zip(["/changed", "/gone", "/same"]) {
            writer.ask(xid, opcode::CREATE, |to| create(to, path, b"", 0)).await;
            assert_eq!(writer.answer().await.2, 0);
        }
        let (mut raw, session) = ensemble.connected(behind, 0, &[0; 16]).await;
        raw.ask(1, opcode::SYNC, |to| to.string("/")).await;
        let mut seen = raw.answer().await.1;
        for (xid, path) in (2..).zip(["/changed", "/gone", "/same", "/new"]) {
            raw.ask(xid, opcode::EXISTS, |to| read(to, path, true)).await;
            seen = raw.answer().await.1;
        }
        let mut changes = ensemble.member(behind).coordination.subscribe();
        ensemble.gates[behind].shut(true);
        writer.ask(4, opcode::SET_DATA, |to| set(to, "/changed", b"1")).await;
        writer.ask(5, opcode::DELETE, |to| (to.string("/gone"), to.int(-1)).1).await;
        writer.ask(6, opcode::CREATE, |to| create(to, "/new", b"", 0)).await;
        // More than a member that is a little behind is sent one by one.
        let mut out = Writer::default();
        for xid in 7..=2_000 {
            push(&mut out, xid, opcode::SET_DATA, |to| set(to, "/other", b""));
        }
        writer.send(out).await;
        for xid in 4..=2_000 {
            assert_eq!(writer.answer().await.0, xid);
        }
        ensemble.gates[behind].shut(false);
        assert_eq!(raw.frame().await, None, "it was not told of the changes, so it is closed before it can see them");
        assert_eq!(changes.next().await, Some(crate::coordination::Notice::Missed));
        let mut raw = ensemble.back(behind, &session, seen).await;
        raw.ask(XID_SET_WATCHES, opcode::SET_WATCHES, |to| {
            to.long(seen);
            to.strings(["/changed", "/gone", "/same"].into_iter());
            to.strings(["/new"].into_iter());
            to.strings([].into_iter());
        })
        .await;
        for expected in [(EventKind::DataChanged, "/changed"), (EventKind::Deleted, "/gone"), (EventKind::Created, "/new")] {
            assert_eq!(raw.event().await, (expected.0, expected.1.to_owned()));
        }
        assert_eq!(raw.answer().await.0, XID_SET_WATCHES);
        writer.ask(1, opcode::SET_DATA, |to| set(to, "/same", b"1")).await;
        assert_eq!(raw.event().await, (EventKind::DataChanged, "/same".into()));
        ensemble.stop().await;
    });
}

#[test]
fn the_config_znode_names_the_members_and_reconfig_changes_them() {
    let super_digest = crate::coordination::acl::digest("super:secret");
    let server = ServerConfig { super_digest: Some(super_digest), has_reconfig: true, ..ServerConfig::default() };
    with_ensemble(Options::default(), server, |ensemble| async move {
        let leader = ensemble.leader(0).await;
        let (mut raw, _) = ensemble.connected((leader + 1) % 3, 0, &[0; 16]).await;
        let lines = |ids: &[usize]| -> String {
            let line = |id: &usize| {
                let HostPort { host, port } = &ensemble.configs[0].servers[&(*id as u32 + 1)];
                format!("server.{}={host}:{port}:{port}:participant;{}\n", id + 1, ensemble.member(*id).at())
            };
            ids.iter().map(line).collect()
        };
        // Every member says where it serves clients, soon after it does.
        let version = loop {
            raw.ask(1, opcode::GET_DATA, |to| read(to, "/zookeeper/config", true)).await;
            let (_, _, error, body) = raw.answer().await;
            let config = String::from_utf8(Reader::new(&body).buffer().unwrap().unwrap().to_vec()).unwrap();
            assert_eq!(error, 0);
            match config.strip_prefix(&lines(&[0, 1, 2])) {
                Some(rest) => break i64::from_str_radix(rest.strip_prefix("version=").unwrap(), 16).unwrap(),
                None => assert_eq!(raw.event().await, (EventKind::DataChanged, "/zookeeper/config".into())),
            }
        };
        let leaves = |id: usize, version: i64| {
            move |to: &mut Writer| {
                to.optional_buffer(None);
                to.buffer((id + 1).to_string().as_bytes());
                to.optional_buffer(None);
                to.long(version);
            }
        };
        raw.ask(2, opcode::RECONFIG, leaves(leader, -1)).await;
        assert_eq!(raw.answer().await.2, -102, "the znode's ACL lets everyone read it only");
        raw.ask(-4, opcode::AUTH, |to| {
            to.int(0);
            to.string("digest");
            to.buffer(b"super:secret");
        })
        .await;
        assert_eq!(raw.answer().await.2, 0);
        raw.ask(3, opcode::RECONFIG, leaves(leader, 77)).await;
        assert_eq!(raw.answer().await.2, -103, "another version");
        raw.ask(4, opcode::RECONFIG, leaves(leader, version)).await;
        assert_eq!(raw.event().await, (EventKind::DataChanged, "/zookeeper/config".into()));
        let (xid, zxid, error, body) = raw.answer().await;
        assert_eq!((xid, error), (4, 0), "the leader has handed over and was removed");
        let mut reader = Reader::new(&body);
        let config = String::from_utf8(reader.buffer().unwrap().unwrap().to_vec()).unwrap();
        let rest: Vec<usize> = (0..3).filter(|id| *id != leader).collect();
        let version = config.strip_prefix(&lines(&rest)).and_then(|rest| rest.strip_prefix("version=")).unwrap();
        assert!(i64::from_str_radix(version, 16).unwrap() <= zxid);
        // Of two, none may go while the other could not decide alone; of the one that is left nobody may.
        raw.ask(5, opcode::RECONFIG, |to| {
            to.optional_buffer(None);
            to.buffer(b"1,2,3");
            to.optional_buffer(None);
            to.long(-1);
        })
        .await;
        assert_eq!(raw.answer().await.2, -8);
        raw.ask(6, opcode::CREATE, |to| create(to, "/goes-on", b"", 0)).await;
        assert_eq!(raw.answer().await.2, 0);
        // The one that was removed serves nobody any more, wherever its clients may think they are.
        ensemble.member(leader).serves(false).await;
        ensemble.stop().await;
    });
}
