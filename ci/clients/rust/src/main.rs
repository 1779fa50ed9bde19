//! The matrix of `zookeeper-client`: one JSON line per case on standard output.
//!
//! Arguments: address of the member (clientPort) or a list of them, prefix of paths, and optionally a pattern: part of the names of the cases to run.
//! With the pattern `failover` it takes part in the death of a leader instead, as `failover` says.

mod failover;

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use zookeeper_client::{
    Acls, AddWatchMode, Client, CreateMode, CreateOptions, Error, EventType, LockPrefix, MultiReadResult, MultiWriteError, MultiWriteResult, SessionState,
    WatchedEvent,
};

/// What a client waits for at most.
pub const LIMIT: Duration = Duration::from_secs(30);
pub const OPEN: &CreateOptions<'static> = &CreateMode::Persistent.with_acls(Acls::anyone_all());
pub const EPHEMERAL: &CreateOptions<'static> = &CreateMode::Ephemeral.with_acls(Acls::anyone_all());

/// Where a case works: the ensemble, and a path of its own there.
#[derive(Clone)]
pub struct Place {
    pub hosts: String,
    pub at: String,
}

impl Place {
    pub async fn client(&self) -> Client {
        Client::connector().with_session_timeout(Duration::from_secs(10)).connect(&self.hosts).await.expect("a connection")
    }

    pub fn path(&self, name: &str) -> String {
        format!("{}/{name}", self.at)
    }
}

/// The lines of results; whether all were good.
pub struct Results {
    failed: bool,
    panic: Arc<Mutex<String>>,
}

impl Results {
    /// Runs one case, which fails by panicking, and says how it went. Nothing waits longer than four times `LIMIT`.
    pub async fn case(&mut self, name: &str, body: impl Future<Output = ()> + Send + 'static) {
        let start = Instant::now();
        let detail = match tokio::time::timeout(4 * LIMIT, tokio::spawn(body)).await {
            Ok(Ok(())) => String::new(),
            Ok(Err(_)) => self.panic.lock().unwrap().clone(),
            Err(_) => format!("not within {} s", 4 * LIMIT.as_secs()),
        };
        self.line(name, start, &detail);
    }

    pub fn line(&mut self, name: &str, start: Instant, detail: &str) {
        self.failed |= !detail.is_empty();
        println!(
            "{}",
            serde_json::json!({"client": "zookeeper-client", "version": "0.11.2", "case": name, "ok": detail.is_empty(), "ms": start.elapsed().as_millis() as u64, "detail": detail})
        );
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (hosts, prefix, only) = (arguments[1].clone(), format!("/{}", arguments[2].trim_matches('-')), arguments.get(3).cloned().unwrap_or_default());
    let panic = Arc::new(Mutex::new(String::new()));
    let said = panic.clone();
    std::panic::set_hook(Box::new(move |info| {
        let what = info.payload().downcast_ref::<String>().cloned().or(info.payload().downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default();
        eprintln!("{info}");
        *said.lock().unwrap() = format!("{what} at {}", info.location().map(|l| format!("{}:{}", l.file(), l.line())).unwrap_or_default());
    }));
    let mut results = Results { failed: false, panic };
    let root = Client::connect(&hosts).await.expect("a connection");
    root.create(&prefix, b"", OPEN).await.expect("the prefix");
    drop(root);
    if only == "failover" {
        failover::run(&mut results, &hosts, &prefix).await;
    } else {
        macro_rules! cases {
            ($($name:literal $body:ident)*) => {
                $(if $name.contains(&only) {
                    let place = Place { hosts: hosts.clone(), at: format!("{prefix}/{}", $name) };
                    results.case($name, async move {
                        place.client().await.create(&place.at, b"", OPEN).await.expect("the path");
                        $body(place).await;
                    }).await;
                })*
            };
        }
        cases! {
            "nodes" nodes
            "modes" modes
            "lifetimes" lifetimes
            "multi" multi
            "multi-read" multi_read
            "check-writer" check_writer
            "watches" watches
            "persistent-watches" persistent_watches
            "removed-watches" removed_watches
            "locks" locks
            "lock-of-the-dead" lock_of_the_dead
            "auth" auth
            "session-events" session_events
            "session-moves" session_moves
            "chroot" chroot
            "pipeline" pipeline
        }
    }
    std::process::exit(results.failed as i32);
}

/// The event that comes next, within the limit.
pub async fn within<T>(what: &str, wanted: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, wanted).await.unwrap_or_else(|_| panic!("{what}: not within {} s", LIMIT.as_secs()))
}

fn is(event: &WatchedEvent, kind: EventType, path: &str) {
    assert_eq!((kind, path), (event.event_type, event.path.as_str()), "event");
}

async fn nodes(place: Place) {
    let zk = place.client().await;
    let (a, deep, none) = (place.path("a"), place.path("deep/er/path"), place.path("none"));
    let (stat, _) = zk.create(&a, b"one", OPEN).await.unwrap();
    assert_eq!((0, 0, 0, 0, 3, 0), (stat.version, stat.cversion, stat.aversion, stat.ephemeral_owner, stat.data_length, stat.num_children), "stat");
    assert_eq!((stat.czxid, stat.czxid, stat.ctime), (stat.mzxid, stat.pzxid, stat.mtime), "stat of a new znode");
    assert_eq!((b"one".to_vec(), stat), zk.get_data(&a).await.unwrap(), "what was created");
    let changed = zk.set_data(&a, b"", Some(0)).await.unwrap();
    assert_eq!((1, 0, true, stat.czxid), (changed.version, changed.data_length, changed.mzxid > stat.mzxid, changed.czxid), "stat after a change");
    zk.mkdir(&deep, OPEN).await.unwrap();
    zk.create(&place.path("large"), &vec![b'x'; 100_000], OPEN).await.unwrap();
    let (mut names, parent) = zk.get_children(&place.at).await.unwrap();
    names.sort();
    assert_eq!((vec!["a", "deep", "large"], 3, 3), (names.iter().map(String::as_str).collect(), parent.num_children, parent.cversion), "children");
    assert_eq!(5, zk.count_descendants_number(&place.at).await.unwrap(), "descendants");
    assert_eq!(Error::NodeExists, zk.create(&a, b"", OPEN).await.unwrap_err());
    assert_eq!(Error::NoNode, zk.create(&format!("{none}/x"), b"", OPEN).await.unwrap_err());
    assert_eq!(Error::NoNode, zk.get_data(&none).await.unwrap_err());
    assert_eq!(Error::NoNode, zk.list_children(&none).await.unwrap_err());
    assert_eq!(Error::BadVersion, zk.set_data(&a, b"", Some(7)).await.unwrap_err());
    assert_eq!(Error::BadVersion, zk.delete(&a, Some(7)).await.unwrap_err());
    assert_eq!(Error::NotEmpty, zk.delete(&place.path("deep"), None).await.unwrap_err());
    assert_eq!(None, zk.check_stat(&none).await.unwrap(), "what is not there");
    zk.delete(&a, Some(1)).await.unwrap();
    zk.sync(&place.at).await.unwrap();
    assert_eq!(None, zk.check_stat(&a).await.unwrap(), "what was deleted");
}

async fn modes(place: Place) {
    let (zk, other) = (place.client().await, place.client().await);
    let sequential = &CreateMode::PersistentSequential.with_acls(Acls::anyone_all());
    for n in 0..3 {
        let (_, sequence) = zk.create(&place.path("s-"), b"", sequential).await.unwrap();
        assert_eq!(n, sequence.into_i64(), "sequence");
        assert!(zk.check_stat(&place.path(&format!("s-{sequence}"))).await.unwrap().is_some(), "a sequential znode's name");
    }
    zk.create(&place.path("e"), b"", EPHEMERAL).await.unwrap();
    let (_, sequence) = zk.create(&place.path("es-"), b"", &CreateMode::EphemeralSequential.with_acls(Acls::anyone_all())).await.unwrap();
    assert_eq!("0000000004", sequence.to_string(), "an ephemeral sequential");
    other.sync(&place.at).await.unwrap();
    let (stat, watcher) = other.check_and_watch_stat(&place.path("e")).await.unwrap();
    assert_eq!(zk.session_id().0, stat.unwrap().ephemeral_owner, "owner");
    assert_eq!(Error::NoChildrenForEphemerals, zk.create(&place.path("e/x"), b"", OPEN).await.unwrap_err());
    let mut ephemerals = zk.list_ephemerals(&place.at).await.unwrap();
    ephemerals.sort();
    assert_eq!(vec![place.path("e"), place.path("es-0000000004")], ephemerals, "ephemerals");
    drop(zk);
    is(&within("the session's end", watcher.changed()).await, EventType::NodeDeleted, &place.path("e"));
    assert_eq!(3, other.list_children(&place.at).await.unwrap().len(), "what stays");
}

async fn lifetimes(place: Place) {
    let zk = place.client().await;
    let (container, ttl) = (place.path("c"), place.path("t"));
    let (stat, _) = zk.create(&container, b"", &CreateMode::Container.with_acls(Acls::anyone_all())).await.unwrap();
    assert_eq!(0, stat.ephemeral_owner, "a container is no session's");
    zk.create(&ttl, b"", &CreateMode::Persistent.with_acls(Acls::anyone_all()).with_ttl(Duration::from_millis(300))).await.unwrap();
    let (_, of_container) = zk.check_and_watch_stat(&container).await.unwrap();
    let (_, of_ttl) = zk.check_and_watch_stat(&ttl).await.unwrap();
    zk.create(&format!("{container}/x"), b"", OPEN).await.unwrap();
    zk.delete(&format!("{container}/x"), None).await.unwrap();
    let (one, two) = tokio::time::timeout(3 * LIMIT, async { tokio::join!(of_container.changed(), of_ttl.changed()) }).await.expect("what the service deletes");
    is(&one, EventType::NodeDeleted, &container);
    is(&two, EventType::NodeDeleted, &ttl);
}

async fn multi(place: Place) {
    let zk = place.client().await;
    let (a, b) = (place.path("a"), place.path("b"));
    let mut writer = zk.new_multi_writer();
    writer.add_create(&a, b"1", OPEN).unwrap();
    writer.add_check_version(&a, 0).unwrap();
    writer.add_set_data(&a, b"2", Some(0)).unwrap();
    writer.add_create(&place.path("s-"), b"", &CreateMode::PersistentSequential.with_acls(Acls::anyone_all())).unwrap();
    writer.add_delete(&a, Some(1)).unwrap();
    let results = writer.commit().await.unwrap();
    let paths: Vec<_> = results.iter().filter_map(|r| if let MultiWriteResult::Create { path, .. } = r { Some(path.clone()) } else { None }).collect();
    assert_eq!(vec![a, place.path("s-0000000001")], paths, "paths");
    assert!(matches!(&results[2], MultiWriteResult::SetData { stat } if stat.version == 1), "{results:?}");
    let mut writer = zk.new_multi_writer();
    writer.add_create(&b, b"", OPEN).unwrap();
    writer.add_check_version(&place.at, 9).unwrap();
    writer.add_delete(&b, None).unwrap();
    assert_eq!(MultiWriteError::OperationFailed { index: 1, source: Error::BadVersion }, writer.commit().await.unwrap_err());
    assert_eq!(None, zk.check_stat(&b).await.unwrap(), "all or nothing");
}

async fn multi_read(place: Place) {
    let zk = place.client().await;
    zk.create(&place.path("a"), b"22", OPEN).await.unwrap();
    let mut reader = zk.new_multi_reader();
    reader.add_get_data(&place.path("a")).unwrap();
    reader.add_get_children(&place.at).unwrap();
    reader.add_get_data(&place.path("none")).unwrap();
    let results = reader.commit().await.unwrap();
    assert!(matches!(&results[0], MultiReadResult::Data { data, stat } if data == b"22" && stat.version == 0), "{results:?}");
    assert!(matches!(&results[1], MultiReadResult::Children { children } if children == &["a"]), "{results:?}");
    assert!(matches!(&results[2], MultiReadResult::Error { err: Error::NoNode }), "{results:?}");
}

async fn check_writer(place: Place) {
    let zk = place.client().await;
    let mut writer = zk.new_check_writer(&place.at, Some(0)).unwrap();
    writer.add_create(&place.path("a"), b"", OPEN).unwrap();
    assert_eq!(1, writer.commit().await.unwrap().len(), "results");
    zk.set_data(&place.at, b"", None).await.unwrap();
    let mut writer = zk.new_check_writer(&place.at, Some(0)).unwrap();
    writer.add_delete(&place.path("a"), None).unwrap();
    assert!(writer.commit().await.is_err(), "a check of an old version");
    assert!(zk.check_stat(&place.path("a")).await.unwrap().is_some(), "what was not deleted");
}

async fn watches(place: Place) {
    let (zk, other) = (place.client().await, place.client().await);
    let (a, later) = (place.path("a"), place.path("later"));
    zk.create(&a, b"", OPEN).await.unwrap();
    other.sync(&place.at).await.unwrap();
    let (_, _, data) = other.get_and_watch_data(&a).await.unwrap();
    let (_, exists) = other.check_and_watch_stat(&a).await.unwrap();
    let (_, missing) = other.check_and_watch_stat(&later).await.unwrap();
    let (_, children) = other.list_and_watch_children(&place.at).await.unwrap();
    let stat = zk.set_data(&a, b"1", None).await.unwrap();
    zk.set_data(&a, b"2", None).await.unwrap();
    zk.create(&later, b"", OPEN).await.unwrap();
    let event = within("data", data.changed()).await;
    is(&event, EventType::NodeDataChanged, &a);
    // Servers since 3.9 tell the zxid of what changed.
    assert!(event.zxid == stat.mzxid || event.zxid == WatchedEvent::NO_ZXID, "the event's zxid {}, the change's {}", event.zxid, stat.mzxid);
    is(&within("stat", exists.changed()).await, EventType::NodeDataChanged, &a);
    is(&within("creation", missing.changed()).await, EventType::NodeCreated, &later);
    is(&within("children", children.changed()).await, EventType::NodeChildrenChanged, &place.at);
    other.sync(&place.at).await.unwrap();
    let (_, _, gone) = other.get_and_watch_data(&a).await.unwrap();
    let (_, empty) = other.list_and_watch_children(&a).await.unwrap();
    zk.delete(&a, None).await.unwrap();
    is(&within("deletion", gone.changed()).await, EventType::NodeDeleted, &a);
    is(&within("deletion", empty.changed()).await, EventType::NodeDeleted, &a);
}

// `remove` says what the service answers; to drop a watcher does not.
#[allow(deprecated)]
async fn persistent_watches(place: Place) {
    let (zk, one, all) = (place.client().await, place.client().await, place.client().await);
    let mut persistent = one.watch(&place.at, AddWatchMode::Persistent).await.unwrap();
    let mut recursive = all.watch(&place.at, AddWatchMode::PersistentRecursive).await.unwrap();
    for n in 0..3 {
        let (node, below) = (place.path(&n.to_string()), place.path(&format!("{n}/x")));
        zk.create(&node, b"", OPEN).await.unwrap();
        zk.create(&below, b"", OPEN).await.unwrap();
        is(&within("children", persistent.changed()).await, EventType::NodeChildrenChanged, &place.at);
        is(&within("a child", recursive.changed()).await, EventType::NodeCreated, &node);
        is(&within("a child's child", recursive.changed()).await, EventType::NodeCreated, &below);
    }
    zk.set_data(&place.at, b"1", None).await.unwrap();
    is(&within("data", persistent.changed()).await, EventType::NodeDataChanged, &place.at);
    is(&within("data", recursive.changed()).await, EventType::NodeDataChanged, &place.at);
    zk.delete(&place.path("0/x"), None).await.unwrap();
    is(&within("deletion", recursive.changed()).await, EventType::NodeDeleted, &place.path("0/x"));
    persistent.remove().await.unwrap();
    recursive.remove().await.unwrap();
}

/// A watch that was removed is not told; one beside it on the same path is.
#[allow(deprecated)]
async fn removed_watches(place: Place) {
    let (zk, other) = (place.client().await, place.client().await);
    let (_, _, removed) = other.get_and_watch_data(&place.at).await.unwrap();
    let (_, children) = other.list_and_watch_children(&place.at).await.unwrap();
    removed.remove().await.unwrap();
    zk.set_data(&place.at, b"1", None).await.unwrap();
    zk.create(&place.path("a"), b"", OPEN).await.unwrap();
    is(&within("children", children.changed()).await, EventType::NodeChildrenChanged, &place.at);
    let (_, _, fired) = other.get_and_watch_data(&place.at).await.unwrap();
    zk.set_data(&place.at, b"2", None).await.unwrap();
    is(&within("data", fired.changed()).await, EventType::NodeDataChanged, &place.at);
}

/// Each holder alone, in the order of asking, for the three layouts of locks that the crate knows.
async fn locks(place: Place) {
    let (zk, other) = (place.client().await, place.client().await);
    let shared = place.path("shared/n-");
    let curator = place.path("curator");
    for kind in 0..3 {
        let prefix = |who: &str| match kind {
            0 => LockPrefix::new_shared(&shared).unwrap(),
            1 => LockPrefix::new_custom(format!("{}/n-{who}-", place.path("custom")), "n-").unwrap(),
            _ => LockPrefix::new_curator(&curator, "lock-").unwrap(),
        };
        let options = || zookeeper_client::LockOptions::new(Acls::anyone_all()).with_ancestor_options(OPEN.clone()).unwrap();
        let held = zk.lock(prefix("one"), b"", options()).await.unwrap();
        let mut waiting = std::pin::pin!(other.lock(prefix("two"), b"", options()));
        assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "a second holder");
        let guarded = place.path(&format!("guarded-{kind}"));
        held.create(&guarded, b"", OPEN).await.unwrap();
        drop(held);
        let second = within("the lock that was given up", waiting).await.unwrap();
        second.delete(&guarded, None).await.unwrap();
    }
}

async fn lock_of_the_dead(place: Place) {
    let (zk, other) = (place.client().await, place.client().await);
    let prefix = place.path("n-");
    let held = zk.lock(LockPrefix::new_shared(&prefix).unwrap(), b"", Acls::anyone_all()).await.unwrap().into_owned();
    let mut waiting = std::pin::pin!(other.lock(LockPrefix::new_shared(&prefix).unwrap(), b"", Acls::anyone_all()));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err(), "a second holder");
    // The session ends with the last of its handles.
    drop(zk);
    drop(held);
    within("the lock of a session that ended", waiting).await.unwrap();
}

async fn auth(place: Place) {
    let (zk, other) = (place.client().await, place.client().await);
    let mine = place.path("mine");
    let creator = &CreateMode::Persistent.with_acls(Acls::creator_all());
    assert_eq!(Error::InvalidAcl, zk.create(&mine, b"", creator).await.unwrap_err(), "a creator without a name");
    zk.auth("digest", b"bob:secret").await.unwrap();
    zk.create(&mine, b"m", creator).await.unwrap();
    assert!(zk.list_auth_users().await.unwrap().iter().any(|who| (who.scheme(), who.user()) == ("digest", "bob")), "whoAmI");
    other.sync(&place.at).await.unwrap();
    assert_eq!(Error::NoAuth, other.get_data(&mine).await.unwrap_err());
    assert_eq!(Error::NoAuth, other.set_data(&mine, b"", None).await.unwrap_err());
    assert_eq!(Error::NoAuth, other.list_children(&mine).await.unwrap_err());
    let authenticated = Client::connector().with_auth("digest", b"bob:secret").connect(&place.hosts).await.unwrap();
    assert_eq!(b"m".to_vec(), authenticated.get_data(&mine).await.unwrap().0, "with the same credentials");
    let (acls, _) = zk.get_acl(&mine).await.unwrap();
    assert_eq!(vec![("digest", true)], acls.iter().map(|a| (a.scheme(), a.id().starts_with("bob:"))).collect::<Vec<_>>(), "the creator's ACL");
    let stat = zk.set_acl(&mine, &Acls::anyone_read(), Some(0)).await.unwrap();
    assert_eq!(1, stat.aversion, "the ACL's version");
    other.sync(&place.at).await.unwrap();
    assert_eq!(b"m".to_vec(), other.get_data(&mine).await.unwrap().0, "what everyone may read");
    assert_eq!(Error::NoAuth, zk.set_data(&mine, b"", None).await.unwrap_err());
}

async fn session_events(place: Place) {
    let zk = place.client().await;
    let mut states = zk.state_watcher();
    assert_eq!(SessionState::SyncConnected, states.state());
    let (_, oneshot) = zk.check_and_watch_stat(&place.at).await.unwrap();
    let mut persistent = zk.watch(&place.at, AddWatchMode::Persistent).await.unwrap();
    drop(zk);
    assert_eq!(SessionState::Closed, within("the state", states.changed()).await);
    for event in [within("a watch", oneshot.changed()).await, within("a watch", persistent.changed()).await] {
        assert_eq!((EventType::Session, SessionState::Closed), (event.event_type, event.session_state), "event");
    }
}

/// A session that was left without a word is taken up again, with all that is its own; one that was closed is not.
async fn session_moves(place: Place) {
    let zk = Client::connector().with_detached().with_session_timeout(Duration::from_secs(30)).connect(&place.hosts).await.unwrap();
    zk.create(&place.path("e"), b"", EPHEMERAL).await.unwrap();
    let (id, session) = (zk.session_id(), zk.into_session());
    let again = Client::connector().with_session(session.clone()).connect(&place.hosts).await.unwrap();
    assert_eq!(id, again.session_id(), "session");
    again.sync(&place.at).await.unwrap();
    let (stat, _) = again.check_and_watch_stat(&place.path("e")).await.unwrap();
    assert_eq!(id.0, stat.unwrap().ephemeral_owner, "owner");
    let other = place.client().await;
    other.sync(&place.at).await.unwrap();
    let (_, gone) = other.check_and_watch_stat(&place.path("e")).await.unwrap();
    drop(again);
    is(&within("the session's end", gone.changed()).await, EventType::NodeDeleted, &place.path("e"));
    assert_eq!(Error::SessionExpired, Client::connector().with_session(session).connect(&place.hosts).await.unwrap_err(), "a session that was closed");
}

async fn chroot(place: Place) {
    let zk = place.client().await;
    let inner = Client::connect(&format!("{}{}", place.hosts, place.at)).await.unwrap();
    inner.create("/x", b"1", OPEN).await.unwrap();
    zk.sync(&place.at).await.unwrap();
    assert_eq!(b"1".to_vec(), zk.get_data(&place.path("x")).await.unwrap().0, "below the chroot");
    let (_, _, data) = inner.get_and_watch_data("/x").await.unwrap();
    zk.set_data(&place.path("x"), b"2", None).await.unwrap();
    is(&within("data", data.changed()).await, EventType::NodeDataChanged, "/x");
    // The crate takes it from the root, not from the chroot before.
    let deeper = inner.clone().chroot(place.path("x")).expect("a chroot");
    deeper.create("/y", b"", OPEN).await.unwrap();
    assert_eq!(vec!["y".to_string()], inner.list_children("/x").await.unwrap(), "children");
}

/// Requests are answered in the order they were sent, and a client reads its own writes.
async fn pipeline(place: Place) {
    let zk = place.client().await;
    zk.create(&place.path("n"), b"", OPEN).await.unwrap();
    let path = place.path("n");
    let mut pending = Vec::new();
    for n in 0..500 {
        pending.push((n, zk.set_data(&path, n.to_string().as_bytes(), Some(n)), zk.get_data(&path)));
    }
    for (n, set, get) in pending {
        assert_eq!(n + 1, set.await.unwrap().version, "version");
        assert_eq!(n.to_string().into_bytes(), get.await.unwrap().0, "a client reads its own writes");
    }
}
