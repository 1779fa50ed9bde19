//! The handle: durable, linearizable, restarted.

use std::path::PathBuf;

use tempfile::TempDir;

use super::acl::{Acl, Identity, digest};
use super::op::{ANY_VERSION, EventKind};
use super::storage::format::log_name;
use super::*;
use crate::runtime::tokio::{TokioRuntime, run};
use crate::runtime::{File, Open, Task};

fn with_dir<F, Fut>(body: F)
where
    F: FnOnce(TokioRuntime, PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path = dir.path().join(DIR_NAME);
    run(2, move |rt| body(rt, path)).unwrap();
}

#[test]
fn what_was_acknowledged_survives_and_the_processs_own_sessions_do_not() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        assert!(matches!(Coordination::open(rt.clone(), &dir).await, Err(StorageError::Locked { .. })));
        let (path, stat) = coordination.create("/a", &b"1"[..], CreateMode::Persistent).await.unwrap();
        assert_eq!((path.as_str(), stat.version), ("/a", 0));
        assert_eq!(coordination.set("/a", &b"22"[..], 0).await.unwrap().version, 1);
        assert_eq!(coordination.set("/a", &b"3"[..], 0).await.unwrap_err().code, ErrorCode::BadVersion);
        let session = coordination.create_session(6_000).await.unwrap();
        session.create("/e", &b""[..], CreateMode::Ephemeral).await.unwrap();
        assert_eq!(coordination.exists("/e").await.unwrap().unwrap().ephemeral_owner, session.session());
        coordination.multi(vec![Operation::create("/b", &b""[..]), Operation::delete("/a", 1), Operation::create("/a", &b"4"[..])]).await.unwrap();
        let before = coordination.get("/a").await.unwrap();
        let zxid = coordination.last_zxid();
        coordination.shutdown().await;
        assert_eq!(coordination.set("/a", &b""[..], ANY_VERSION).await.unwrap_err().code, ErrorCode::ConnectionLoss);

        let coordination = Coordination::open(rt, &dir).await.unwrap();
        assert_eq!(coordination.get("/a").await.unwrap(), before);
        assert_eq!(coordination.exists("/e").await.unwrap(), None);
        let (names, _) = coordination.children("/").await.unwrap();
        assert_eq!(names, ["a".into(), "b".into(), "zookeeper".into()]);
        assert!(coordination.last_zxid() > zxid);
        assert_eq!(coordination.get("/missing").await.unwrap_err().code, ErrorCode::NoNode);
        assert_eq!(coordination.get("relative").await.unwrap_err().code, ErrorCode::BadArguments);
    });
}

#[test]
fn concurrent_proposals_are_all_applied_once_and_survive_snapshots() {
    with_dir(|rt, dir| async move {
        let options = Options { snapshot_every_bytes: 20_000, snapshot_every_entries: 100_000, snapshots_kept_count: 2, ..Options::default() };
        let mut expected = 0;
        for round in 0..3 {
            let coordination = Coordination::open_with(rt.clone(), &dir, options).await.unwrap();
            if round == 0 {
                coordination.create("/q", &b""[..], CreateMode::Persistent).await.unwrap();
            }
            let tasks: Vec<_> = (0..20)
                .map(|_| {
                    let coordination = coordination.clone();
                    rt.spawn("client", async move {
                        let mut paths = Vec::new();
                        for _ in 0..20 {
                            paths.push(coordination.create("/q/n-", vec![0; 100], CreateMode::PersistentSequential).await.unwrap().0);
                        }
                        assert!(paths.is_sorted());
                    })
                })
                .collect();
            for task in tasks {
                task.join().await.unwrap();
            }
            expected += 400;
            let (names, stat) = coordination.children("/q").await.unwrap();
            assert_eq!((names.len(), stat.cversion), (expected, expected as i32));
            coordination.shutdown().await;
        }
        let coordination = Coordination::open_with(rt.clone(), &dir, options).await.unwrap();
        assert_eq!(coordination.children("/q").await.unwrap().0.len(), expected);
        let files = rt.disk().list(&dir).await.unwrap();
        let snapshots = files.iter().filter(|entry| entry.name.starts_with("snapshot-")).count();
        assert!((1..=2).contains(&snapshots), "{files:?}");
        assert!(files.iter().all(|entry| entry.name != log_name(1)), "the first log file is obsolete: {files:?}");
    });
}

#[test]
fn rot_in_the_last_group_is_refused_once_the_log_was_idle() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        coordination.create("/precious", vec![7; 100], CreateMode::Persistent).await.unwrap();
        coordination.shutdown().await; // Marks as idling does.
        let path = dir.join(log_name(1));
        let file = rt.disk().open(&path, Open::Write).await.unwrap();
        let bytes = file.read_at(0, file.len().await.unwrap() as usize).await.unwrap();
        let at = bytes.windows(8).position(|window| window == [7; 8]).unwrap() as u64;
        file.write_at(at, [Bytes::from_static(&[8])].into_iter().collect()).await.unwrap();
        let error = Coordination::open(rt, &dir).await.map(drop).unwrap_err();
        assert!(matches!(&error, StorageError::Damaged { file, .. } if *file == path), "{error}");
    });
}

#[test]
fn subscribers_get_changes_in_order_or_are_told_that_they_missed_some() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt, &dir).await.unwrap();
        let mut subscription = coordination.subscribe();
        let mut slow = coordination.subscribe();
        coordination.create("/a", &b""[..], CreateMode::Persistent).await.unwrap();
        let failed = coordination.create("/a", &b""[..], CreateMode::Persistent).await;
        assert_eq!(failed.unwrap_err().code, ErrorCode::NodeExists);
        coordination.set("/a", &b""[..], ANY_VERSION).await.unwrap();
        let mut kinds = Vec::new();
        for _ in 0..2 {
            let Some(Notice::Changes(changes)) = subscription.next().await else { panic!() };
            kinds.extend(changes.events.iter().map(|event| (event.path.to_string(), event.kind)));
        }
        let expected = [("/a", EventKind::Created), ("/", EventKind::ChildrenChanged), ("/a", EventKind::DataChanged)];
        assert_eq!(kinds, expected.map(|(path, kind)| (path.to_owned(), kind)));
        for _ in 0..SUBSCRIBER_LAG_COUNT / 8 + 1 {
            let sets = (0..8).map(|_| coordination.set("/a", &b""[..], ANY_VERSION));
            for set in sets {
                set.await.unwrap();
            }
        }
        assert_eq!(slow.next().await, Some(Notice::Missed));
        assert!(matches!(slow.next().await, Some(Notice::Changes(_))));
    });
}

#[test]
fn what_is_too_large_is_refused_and_the_service_goes_on() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt, &dir).await.unwrap();
        let large = coordination.create("/a", vec![0; REQUEST_MAX_BYTES + 1], CreateMode::Persistent).await;
        assert_eq!(large.unwrap_err().code, ErrorCode::MarshallingError);
        coordination.create("/a", &b""[..], CreateMode::Persistent).await.unwrap();
    });
}

/// A directory that format 1 wrote: two lives, the first with a snapshot and a log after it, each with a session that was never closed.
const FORMAT_1: [(&str, &[u8]); 3] = [
    ("log-00000000000000000001.ottla", include_bytes!("../../tests/data/coordination-1/log-00000000000000000001.ottla")),
    ("log-00000000000000000022.ottla", include_bytes!("../../tests/data/coordination-1/log-00000000000000000022.ottla")),
    ("snapshot-00000000000000000021.ottla", include_bytes!("../../tests/data/coordination-1/snapshot-00000000000000000021.ottla")),
];

async fn lay_out(rt: &TokioRuntime, dir: &Path, format: u16, files: &[(&str, &'static [u8])]) {
    rt.disk().create_dir(dir).await.unwrap();
    for (name, content) in files {
        assert_eq!(content[..2], format.to_be_bytes(), "every frame begins with its format version");
        let file = rt.disk().open(&dir.join(name), Open::CreateNew).await.unwrap();
        file.write_at(0, [Bytes::from_static(content)].into_iter().collect()).await.unwrap();
    }
}

async fn check_format_1(coordination: &Coordination<TokioRuntime>) {
    assert_eq!(&*coordination.get("/queue").await.unwrap().data, b"qqq");
    let (names, stat) = coordination.children("/queue").await.unwrap();
    assert_eq!((names.len(), stat.version, stat.cversion, &*names[3]), (11, 5, 13, "n-0000000004"));
    assert_eq!(&*coordination.get("/queue/n-0000000011").await.unwrap().data, [11; 10]);
    let (names, _) = coordination.children("/").await.unwrap();
    assert_eq!(names, ["brokers".into(), "m1".into(), "m2".into(), "m3".into(), "queue".into(), "zookeeper".into()]);
    assert_eq!(coordination.children("/brokers/ids").await.unwrap().0, [], "the sessions were the process's own and ended with it");
    assert_eq!(coordination.read(|tree| tree.acl("/queue").unwrap().0), [Acl::open()]);
    assert_eq!(coordination.read(|tree| tree.acl("/zookeeper/config").unwrap().0), [Acl::new(1, "world", "anyone")]);
}

#[test]
fn a_directory_of_format_1_is_opened_and_goes_on_in_the_newest() {
    with_dir(|rt, dir| async move {
        lay_out(&rt, &dir, 1, &FORMAT_1).await;
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        check_format_1(&coordination).await;
        let secret = Request::Client {
            identities: vec![Identity::new("digest", digest("bob:x"))],
            operations: vec![Operation::CreateWithAcl { path: "/secret".into(), data: None, mode: CreateMode::Container, acl: vec![Acl::new(31, "auth", "")] }],
        };
        coordination.propose(secret).await.unwrap();
        coordination.shutdown().await;
        let coordination = Coordination::open(rt, &dir).await.unwrap();
        assert_eq!(coordination.read(|tree| tree.acl("/secret").unwrap().0[0].id.id.clone()), digest("bob:x"));
        coordination.delete("/secret", -1).await.unwrap();
        check_format_1(&coordination).await;
    });
}

#[test]
fn the_log_alone_of_format_1_is_opened_too() {
    with_dir(|rt, dir| async move {
        lay_out(&rt, &dir, 1, &FORMAT_1[..2]).await;
        check_format_1(&Coordination::open(rt, &dir).await.unwrap()).await;
    });
}

/// A directory that format 2 wrote: a client's session in its snapshot, another in the log after it, each with an ephemeral znode.
const FORMAT_2: [(&str, &[u8]); 3] = [
    ("log-00000000000000000001.ottla", include_bytes!("../../tests/data/coordination-2/log-00000000000000000001.ottla")),
    ("log-00000000000000000013.ottla", include_bytes!("../../tests/data/coordination-2/log-00000000000000000013.ottla")),
    ("snapshot-00000000000000000012.ottla", include_bytes!("../../tests/data/coordination-2/snapshot-00000000000000000012.ottla")),
];

#[test]
fn sessions_of_format_2_are_come_back_to_and_their_connections_are_known_from_then_on() {
    with_dir(|rt, dir| async move {
        lay_out(&rt, &dir, 2, &FORMAT_2).await;
        // A snapshot soon, which holds what was attached.
        let options = Options { snapshot_every_entries: 4, ..Options::default() };
        let coordination = Coordination::open_with(rt.clone(), &dir, options).await.unwrap();
        let of = |coordination: &Coordination<TokioRuntime>, session| coordination.read(|tree| tree.client_session(session)).unwrap();
        assert_eq!((of(&coordination, 77).password, of(&coordination, 77).attached_zxid), ([5; 16], 0), "nothing was counted then");
        assert_eq!((of(&coordination, 78).password, of(&coordination, 78).timeout_ms), ([6; 16], 40_000));
        for (session, path) in [(77, "/e"), (78, "/f")] {
            assert_eq!(coordination.exists(path).await.unwrap().unwrap().ephemeral_owner, session);
        }
        let attach = Request::Attach { attached_zxid: 0, timeout_ms: 20_000, password: [5; 16] };
        let done = coordination.submit(77, attach).await.unwrap().done().await;
        done.outcome.unwrap();
        for _ in 0..8 {
            coordination.set("/p", &b""[..], ANY_VERSION).await.unwrap();
        }
        coordination.shutdown().await;
        let coordination = Coordination::open(rt, &dir).await.unwrap();
        assert_eq!((of(&coordination, 77).timeout_ms, of(&coordination, 77).attached_zxid), (20_000, done.zxid));
    });
}

#[test]
fn acls_lifetimes_and_clients_sessions_survive_in_log_and_snapshot() {
    with_dir(|rt, dir| async move {
        for snapshot_every_entries in [100_000, 4] {
            let dir = dir.join(snapshot_every_entries.to_string());
            let options = Options { snapshot_every_entries, ..Options::default() };
            let coordination = Coordination::open_with(rt.clone(), &dir, options).await.unwrap();
            let bob = Identity::new("digest", digest("bob:x"));
            let open = Request::OpenSession { session: 77, timeout_ms: 30_000, password: [5; 16] };
            coordination.propose(open).await.unwrap();
            let create = |path: &str, mode| Operation::CreateWithAcl { path: path.into(), data: None, mode, acl: vec![Acl::new(31, "auth", "")] };
            let operations = vec![
                create("/e", CreateMode::Ephemeral),
                create("/c", CreateMode::Container),
                create("/t", CreateMode::Ttl { ttl_ms: 5 }),
                create("/p", CreateMode::Persistent),
            ];
            let request = Request::Client { identities: vec![bob.clone()], operations };
            coordination.submit(77, request).await.unwrap().outcome().await.unwrap();
            for _ in 0..8 {
                coordination.set("/p", &b""[..], ANY_VERSION).await.unwrap();
            }
            let expected = coordination.read(Tree::clone);
            coordination.shutdown().await;
            let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
            let found = coordination.read(Tree::clone);
            // Each life begins with an entry that changes nothing.
            assert_eq!(found.items().collect::<Vec<_>>(), expected.items().collect::<Vec<_>>());
            assert_eq!(found.acl("/p").unwrap().0, [Acl { perms: 31, id: bob }]);
            assert_eq!(found.client_session(77).map(|known| (known.timeout_ms, known.password)), Some((30_000, [5; 16])));
            assert!(coordination.shared.hub.lock().sessions.is_alive(77), "it has its full time-out to come back in");
            coordination.shutdown().await;
        }
    });
}
