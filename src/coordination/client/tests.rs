//! Sessions against our own server: over sockets and over the pipe, lost connections, expiry, several members' addresses.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::coordination::Coordination;
use crate::coordination::op::ANY_VERSION;
use crate::coordination::server::{Server, ServerConfig};
use crate::runtime::Listener;
use crate::runtime::tokio::{TokioRuntime, run};

const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    rt: TokioRuntime,
    dir: PathBuf,
    coordination: Coordination<TokioRuntime>,
    server: Arc<Server<TokioRuntime>>,
    at: SocketAddr,
}

impl Member {
    async fn start(rt: &TokioRuntime, dir: &Path, at: SocketAddr) -> Self {
        let coordination = Coordination::open(rt.clone(), dir).await.unwrap();
        let socket = rt.listen(at).await.unwrap();
        let at = socket.local_addr();
        let config = ServerConfig { tick_ms: 10, max_session_timeout_ms: 60_000, ..ServerConfig::default() };
        let server = Arc::new(Server::start(coordination.clone(), vec![socket], config));
        Self { rt: rt.clone(), dir: dir.to_owned(), coordination, server, at }
    }

    async fn stop(&self) {
        self.server.shutdown().await;
        self.coordination.shutdown().await;
    }

    fn hosts(&self) -> Connector {
        Connector::Hosts(self.at.to_string().parse().unwrap())
    }

    async fn session(&self) -> Session<TokioRuntime> {
        Session::connect(self.rt.clone(), self.hosts(), options(), PATIENCE).await.unwrap()
    }
}

fn options() -> Options {
    Options { session_timeout: Duration::from_secs(30), max_in_flight: 10, request_max_bytes: REQUEST_MAX_BYTES }
}

fn with_member<F, Fut>(body: F)
where
    F: FnOnce(TokioRuntime, Member) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("coordination");
    run(2, move |rt| async move {
        let member = Member::start(&rt, &path, "127.0.0.1:0".parse().unwrap()).await;
        body(rt, member).await;
    })
    .unwrap();
}

#[test]
fn all_kinds_of_requests_over_a_socket_and_over_a_pipe() {
    with_member(|rt, member| async move {
        let server = member.server.clone();
        let pipe: OpenPipe = Arc::new(move || server.pipe(true));
        for (at, connector) in [member.hosts(), Connector::Own(pipe.clone()), member.hosts().with_chroot("/p0")].into_iter().enumerate() {
            let session = Session::connect(rt.clone(), connector, options(), PATIENCE).await.unwrap();
            let top = format!("/p{at}");
            let (path, stat) = session.create(&top, "1", CreateMode::Persistent).await.unwrap();
            assert_eq!((path.as_str(), stat.version, stat.data_length), (top.as_str(), 0, 1));
            let (name, _) = session.create(&format!("{top}/s-"), "", CreateMode::EphemeralSequential).await.unwrap();
            assert_eq!(name, format!("{top}/s-0000000000"));
            assert_eq!(session.exists(&name).await.unwrap().unwrap().ephemeral_owner, session.id());
            session.create(&format!("{top}/t"), "", CreateMode::Ttl { ttl_ms: 60_000 }).await.unwrap();
            session.create(&format!("{top}/c"), "", CreateMode::Container).await.unwrap();
            let (names, stat) = session.children(&top).await.unwrap();
            assert_eq!((names.iter().map(|name| &**name).collect::<Vec<_>>(), stat.cversion), (vec!["c", "s-0000000000", "t"], 3));
            assert_eq!(session.set(&top, "22", 0).await.unwrap().version, 1);
            let view = session.get(&top).await.unwrap();
            assert_eq!((&*view.data, view.stat.version), (&b"22"[..], 1));
            let code = |outcome: Result<Stat, Failure>| outcome.unwrap_err().code;
            assert_eq!(code(session.set(&top, "", 0).await), ErrorCode::BadVersion);
            assert_eq!(code(session.set("/none", "", 0).await), ErrorCode::NoNode);
            assert_eq!(code(session.set("none", "", 0).await), ErrorCode::BadArguments);
            assert_eq!(session.exists("/none").await.unwrap(), None);
            let operations = vec![Operation::check(&*top, 1), Operation::create(format!("{top}/m"), "m"), Operation::delete(format!("{top}/t"), ANY_VERSION)];
            let results = session.multi(operations.clone()).await.unwrap();
            assert!(matches!(&results[1], OperationResult::Created { path, .. } if *path == format!("{top}/m")), "{results:?}");
            let failure = session.multi(operations).await.unwrap_err();
            assert_eq!((failure.code, failure.operation_index, failure.path), (ErrorCode::NodeExists, 1, format!("{top}/m")));
            session.sync("/").await.unwrap();
            assert_eq!(session.acl(&top).await.unwrap().0, [Acl::open()]);
            session.close().await;
            assert_eq!(session.state(), State::Closed);
            assert_eq!(session.get(&top).await.unwrap_err().code, ErrorCode::ConnectionLoss);
        }
        let other = member.session().await;
        assert_eq!(other.exists("/p0/p2/s-0000000000").await.unwrap(), None, "it ended with its session");
        assert_eq!(&*other.get("/p0/p2").await.unwrap().data, b"22");
    });
}

#[test]
fn a_session_comes_back_with_its_watches_after_its_member_was_away() {
    with_member(|rt, member| async move {
        let session = member.session().await;
        let id = session.id();
        let mut watcher = session.watcher();
        for path in ["/changed", "/deleted", "/quiet"] {
            session.create(path, "", CreateMode::Persistent).await.unwrap();
            session.get_and_watch(path, &watcher).await.unwrap();
        }
        assert_eq!(session.exists_and_watch("/created", &watcher).await.unwrap(), None);
        session.children_and_watch("/", &watcher).await.unwrap();
        session.create("/e", "", CreateMode::Ephemeral).await.unwrap();
        assert_eq!(watcher.next().await.unwrap(), WatchEvent { kind: EventKind::ChildrenChanged, path: "/".into() });
        member.stop().await;
        // Sent while nobody serves: it waits, and is not lost.
        let waiting = {
            let session = session.clone();
            rt.spawn("waiting", async move { session.get("/changed").await })
        };
        let away = Coordination::open(rt.clone(), &member.dir).await.unwrap();
        away.set("/changed", "2", ANY_VERSION).await.unwrap();
        away.delete("/deleted", ANY_VERSION).await.unwrap();
        away.create("/created", "", CreateMode::Persistent).await.unwrap();
        away.shutdown().await;
        let member = Member::start(&rt, &member.dir, member.at).await;
        let mut events = Vec::new();
        for _ in 0..3 {
            events.push(watcher.next().await.unwrap());
        }
        events.sort_by(|a, b| a.path.cmp(&b.path));
        let told = |kind, path: &str| WatchEvent { kind, path: path.into() };
        let expected = [told(EventKind::DataChanged, "/changed"), told(EventKind::Created, "/created"), told(EventKind::Deleted, "/deleted")];
        assert_eq!(events, expected);
        use crate::runtime::Task;
        let answer = waiting.join().await.unwrap();
        // It was in flight when the member went, or it waited for it to come back.
        assert!(
            answer.as_ref().is_ok_and(|view| &*view.data == b"2") || answer.as_ref().is_err_and(|failure| failure.code == ErrorCode::ConnectionLoss),
            "{answer:?}"
        );
        session.connected(PATIENCE).await.unwrap();
        assert_eq!((session.id(), session.exists("/e").await.unwrap().unwrap().ephemeral_owner), (id, id));
        let other = member.session().await;
        other.set("/quiet", "", ANY_VERSION).await.unwrap();
        assert_eq!(watcher.next().await.unwrap().path, "/quiet");
        assert_eq!(watcher.try_next(), None);
    });
}

#[test]
fn an_expired_session_is_told_and_stays_so() {
    with_member(|_, member| async move {
        let session = member.session().await;
        session.create("/e", "", CreateMode::Ephemeral).await.unwrap();
        let mut watcher = session.watcher();
        let mut states = session.states();
        member.coordination.with_session(session.id()).close_session().await.unwrap();
        states.wait_for(State::is_final).await.unwrap();
        assert_eq!(session.state(), State::Expired);
        assert_eq!(watcher.next().await, None);
        assert_eq!(session.watcher().next().await, None);
        assert_eq!(session.get("/").await.unwrap_err().code, ErrorCode::SessionExpired);
        assert!(matches!(session.connected(PATIENCE).await, Err(ConnectError::Ended { state: State::Expired, .. })));
        session.close().await;
        assert_eq!(member.session().await.exists("/e").await.unwrap(), None);
    });
}

#[test]
fn many_tasks_share_a_session_and_each_sees_its_own_answers() {
    with_member(|rt, member| async move {
        use crate::runtime::Task;
        let session = member.session().await;
        let tasks: Vec<_> = (0..50)
            .map(|at| {
                let session = session.clone();
                rt.spawn("task", async move {
                    let path = format!("/task-{at}");
                    session.create(&path, path.clone(), CreateMode::Persistent).await.unwrap();
                    for _ in 0..20 {
                        assert_eq!(&*session.get(&path).await.unwrap().data, path.as_bytes());
                    }
                })
            })
            .collect();
        for task in tasks {
            task.join().await.unwrap();
        }
        assert_eq!(session.children("/").await.unwrap().0.len(), 51);
    });
}

#[test]
fn what_is_too_large_is_refused_before_it_is_sent_and_large_answers_come() {
    with_member(|_, member| async move {
        let session = member.session().await;
        let large = Bytes::from(vec![b'x'; REQUEST_MAX_BYTES]);
        assert_eq!(session.create("/large", large, CreateMode::Persistent).await.unwrap_err().code, ErrorCode::MarshallingError);
        let id = session.id();
        let most = Bytes::from(vec![b'x'; REQUEST_MAX_BYTES - 200]);
        session.create("/most", most.clone(), CreateMode::Persistent).await.unwrap();
        let views = futures_util::future::join_all((0..20).map(|_| session.get("/most"))).await;
        assert!(views.iter().all(|view| view.as_ref().is_ok_and(|view| view.data == most)));
        assert_eq!(session.id(), id, "over one connection");
    });
}

#[test]
fn members_that_do_not_serve_are_passed_over_and_named_when_there_is_no_other() {
    with_member(|rt, member| async move {
        let closed = rt.listen("127.0.0.1:0".parse().unwrap()).await.unwrap().local_addr();
        let connect: ConnectString = format!("{closed},{}", member.at).parse().unwrap();
        for _ in 0..4 {
            Session::connect(rt.clone(), Connector::Hosts(connect.clone()), options(), PATIENCE).await.unwrap();
        }
        let connect: ConnectString = format!("{closed}/kafka").parse().unwrap();
        let error = Session::connect(rt.clone(), Connector::Hosts(connect), options(), Duration::from_millis(50)).await.err().unwrap().to_string();
        assert!(error.contains(&closed.to_string()) && error.contains("within 50 ms"), "{error}");
    });
}

#[test]
fn credentials_are_given_again_after_a_loss_and_unknown_ones_end_the_session() {
    with_member(|rt, member| async move {
        let session = member.session().await;
        session.add_auth("digest", "bob:x").await.unwrap();
        session.create_with_acl("/mine", "m", CreateMode::Persistent, vec![Acl::new(31, "auth", "")]).await.unwrap();
        assert_eq!(member.session().await.get("/mine").await.unwrap_err().code, ErrorCode::NoAuth);
        member.stop().await;
        let member = Member::start(&rt, &member.dir, member.at).await;
        let mut got = session.get("/mine").await;
        while got.as_ref().is_err_and(|failure| failure.code == ErrorCode::ConnectionLoss) {
            got = session.get("/mine").await;
        }
        assert_eq!(&*got.unwrap().data, b"m");
        assert_eq!(session.add_auth("sasl", "x").await.unwrap_err().code, ErrorCode::AuthFailed);
        assert_eq!(session.state(), State::AuthFailed);
        drop(member);
    });
}

#[test]
fn the_processs_own_session_ends_with_the_process_only() {
    with_member(|rt, member| async move {
        let server = member.server.clone();
        let pipe: OpenPipe = Arc::new(move || server.pipe(true));
        let options = Options { session_timeout: Duration::from_millis(20), ..options() };
        let session = Session::connect(rt.clone(), Connector::Own(pipe), options, PATIENCE).await.unwrap();
        session.create("/e", "", CreateMode::Ephemeral).await.unwrap();
        // Another session of that time-out comes and goes meanwhile.
        let other = Session::connect(rt.clone(), member.hosts(), options, PATIENCE).await.unwrap();
        drop(other);
        while member.coordination.read(|tree| tree.client_sessions().count()) > 0 {
            rt.sleep(Duration::from_millis(5)).await;
        }
        assert!(session.exists("/e").await.unwrap().is_some());
        member.stop().await;
        let member = Member::start(&rt, &member.dir, member.at).await;
        assert_eq!(member.session().await.exists("/e").await.unwrap(), None);
    });
}
