//! The handle: durable, linearizable, restarted.

use std::path::PathBuf;

use tempfile::TempDir;

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
fn what_was_acknowledged_survives_and_sessions_do_not() {
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
        let options = Options { snapshot_every_bytes: 20_000, snapshot_every_entries: 100_000, snapshots_kept_count: 2 };
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
