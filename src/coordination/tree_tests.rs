//! The tree against ZooKeeper's documented counts, and against a flat model.

use super::prepare::next_version;
use super::*;
use crate::coordination::acl::Identity;
use crate::coordination::op::{ANY_VERSION, CreateMode, ErrorCode, Failure, Operation, Request};
use proptest::prelude::*;

fn one(operation: Operation) -> Command {
    Command { session: 0, time_ms: 1_000, request: Request::One(operation) }
}

fn multi(operations: Vec<Operation>) -> Command {
    Command { session: 0, time_ms: 1_000, request: Request::Multi(operations) }
}

fn apply(tree: &mut Tree, command: &Command) -> Applied {
    let zxid = tree.last_zxid() + 1;
    tree.apply(command, zxid)
}

fn sequential(path: &str) -> Operation {
    Operation::Create { path: path.into(), data: None, mode: CreateMode::PersistentSequential }
}

#[test]
fn a_new_tree_counts_as_zookeepers() {
    let tree = Tree::new();
    let stat = tree.stat("/").unwrap();
    assert_eq!((stat.cversion, stat.num_children, stat.pzxid), (-1, 1, 0));
    assert_eq!(tree.children("/zookeeper").unwrap().0, ["config".into(), "quota".into()]);
    assert_eq!(tree.node_count(), 4);
    assert_eq!(tree.data_bytes(), 1 + 10 + 17 + 16);
}

#[test]
fn stat_fields_count_as_zookeepers() {
    let mut tree = Tree::new();
    apply(&mut tree, &one(Operation::create("/a", &b"x"[..])));
    apply(&mut tree, &Command { time_ms: 2_000, ..one(Operation::create("/a/b", &b""[..])) });
    apply(&mut tree, &Command { time_ms: 3_000, ..one(Operation::set("/a", &b"four"[..], 0)) });
    apply(&mut tree, &Command { time_ms: 4_000, ..one(Operation::delete("/a/b", 0)) });
    let expected = Stat {
        czxid: 1,
        mzxid: 3,
        ctime_ms: 1_000,
        mtime_ms: 3_000,
        version: 1,
        cversion: 2,
        aversion: 0,
        ephemeral_owner: 0,
        data_length: 4,
        num_children: 0,
        pzxid: 4,
    };
    assert_eq!(tree.stat("/a"), Some(expected));
    assert_eq!(tree.stat("/").unwrap().cversion, 0, "one creation, two children of which one is ZooKeeper's own");
}

#[test]
fn sequential_names_count_every_creation() {
    let mut tree = Tree::new();
    apply(&mut tree, &one(Operation::create("/q", &b""[..])));
    apply(&mut tree, &one(Operation::create("/q/other", &b""[..])));
    apply(&mut tree, &one(sequential("/q/n-")));
    apply(&mut tree, &one(Operation::delete("/q/n-0000000001", ANY_VERSION)));
    let applied = apply(&mut tree, &multi(vec![sequential("/q/n-"), sequential("/q/")]));
    let paths: Vec<_> =
        applied.outcome.unwrap().into_iter().map(|result| if let OperationResult::Created { path, .. } = result { path } else { panic!() }).collect();
    assert_eq!(paths, ["/q/n-0000000002", "/q/0000000003"]);
}

#[test]
fn a_failed_multi_does_nothing_and_tells_each_operation_its_code() {
    let mut tree = Tree::new();
    let before = tree.clone();
    let operations = vec![Operation::create("/a", &b""[..]), Operation::check("/b", 0), Operation::create("/c", &b""[..])];
    let applied = apply(&mut tree, &multi(operations));
    let failure = applied.outcome.unwrap_err();
    assert_eq!(failure, Failure { code: ErrorCode::NoNode, path: "/b".into(), operation_index: 1 });
    assert_eq!(failure.codes(3), [ErrorCode::Ok, ErrorCode::NoNode, ErrorCode::RuntimeInconsistency]);
    assert_eq!(applied.events, []);
    assert_eq!(tree, Tree { last_zxid: 1, ..before });
}

#[test]
fn a_multi_sees_its_own_operations() {
    let mut tree = Tree::new();
    let operations = vec![
        Operation::create("/a", &b""[..]),
        Operation::create("/a/b", &b""[..]),
        Operation::set("/a/b", &b"1"[..], 0),
        Operation::check("/a/b", 1),
        Operation::delete("/a/b", 1),
        Operation::create("/a/b", &b""[..]),
        Operation::check("/a/b", 0),
    ];
    assert!(apply(&mut tree, &multi(operations)).outcome.is_ok());
    let stat = tree.stat("/a").unwrap();
    assert_eq!((stat.cversion, stat.num_children, stat.pzxid, stat.czxid), (3, 1, 1, 1));
}

#[test]
fn errors_come_with_zookeepers_codes() {
    let mut tree = Tree::new();
    apply(&mut tree, &one(Operation::create("/a", &b""[..])));
    apply(&mut tree, &one(Operation::create("/a/b", &b""[..])));
    let mut code = |operation| apply(&mut tree, &one(operation)).outcome.unwrap_err().code.code();
    assert_eq!(code(Operation::create("/a", &b""[..])), -110);
    assert_eq!(code(Operation::create("/", &b""[..])), -110);
    assert_eq!(code(Operation::create("/x/y", &b""[..])), -101);
    assert_eq!(code(Operation::create("/a/", &b""[..])), -8);
    assert_eq!(code(Operation::create("a", &b""[..])), -8);
    assert_eq!(code(Operation::create_ephemeral("/e", &b""[..])), -112);
    assert_eq!(code(Operation::set("/x", &b""[..], -1)), -101);
    assert_eq!(code(Operation::set("/a", &b""[..], 1)), -103);
    assert_eq!(code(Operation::delete("/a", 3)), -103);
    assert_eq!(code(Operation::delete("/a", -1)), -111);
    assert_eq!(code(Operation::delete("/", -1)), -8);
    assert_eq!(code(Operation::delete("/zookeeper/quota", -1)), -8);
    assert_eq!(code(Operation::delete("/x", -1)), -101);
    assert_eq!(code(Operation::check("/a/b", 1)), -103);
}

#[test]
fn ephemerals_live_as_long_as_their_session() {
    let mut tree = Tree::new();
    let session = 7;
    let by = |request| Command { session, time_ms: 0, request };
    assert_eq!(apply(&mut tree, &by(Request::One(Operation::create("/a", &b""[..])))).outcome.unwrap_err().code, ErrorCode::SessionExpired);
    apply(&mut tree, &by(Request::CreateSession { session, timeout_ms: 6_000 }));
    apply(&mut tree, &by(Request::Multi(vec![Operation::create_ephemeral("/e", &b""[..]), Operation::create_ephemeral("/f", &b""[..])])));
    assert_eq!(tree.stat("/e").unwrap().ephemeral_owner, session);
    let child = apply(&mut tree, &by(Request::One(Operation::create("/e/x", &b""[..]))));
    assert_eq!(child.outcome.unwrap_err().code, ErrorCode::NoChildrenForEphemerals);
    assert_eq!(tree.ephemerals(session).collect::<Vec<_>>(), ["/e", "/f"]);
    let closed = apply(&mut tree, &by(Request::CloseSession { session }));
    let kinds: Vec<_> = closed.events.iter().map(|event| (&*event.path, event.kind)).collect();
    let expected = [("/e", EventKind::Deleted), ("/", EventKind::ChildrenChanged), ("/f", EventKind::Deleted), ("/", EventKind::ChildrenChanged)];
    assert_eq!(kinds, expected);
    assert_eq!(tree.stat("/").unwrap().pzxid, tree.last_zxid());
    assert_eq!(tree.sessions().count(), 0);
}

fn as_client(identities: &[Identity], operations: Vec<Operation>) -> Command {
    Command { session: 0, time_ms: 1_000, request: Request::Client { identities: identities.to_vec(), operations } }
}

fn create_with(path: &str, mode: CreateMode, acl: &[Acl]) -> Operation {
    Operation::CreateWithAcl { path: path.into(), data: None, mode, acl: acl.to_vec() }
}

#[test]
fn containers_and_times_to_live_have_zookeepers_owners_and_end_when_idle() {
    let mut tree = Tree::new();
    let at = |time_ms, operation| Command { time_ms, ..one(operation) };
    let create = |path: &str, mode| Operation::Create { path: path.into(), data: None, mode };
    apply(&mut tree, &at(0, create("/c", CreateMode::Container)));
    apply(&mut tree, &at(0, create("/t", CreateMode::Ttl { ttl_ms: 1_000 })));
    apply(&mut tree, &at(0, create("/t/child", CreateMode::Persistent)));
    let named = apply(&mut tree, &at(500, create("/s-", CreateMode::TtlSequential { ttl_ms: 10 })));
    assert!(matches!(&named.outcome.unwrap()[..], [OperationResult::Created { path, .. }] if path == "/s-0000000002"));
    let owner = |path: &str| (tree.node(path).unwrap().ephemeral_owner as u64, tree.stat(path).unwrap().ephemeral_owner);
    assert_eq!((owner("/c"), owner("/t")), ((1 << 63, 0), (0xff00_0000_0000_03e8, 0)), "stored, and told");
    assert_eq!(tree.idle(5_000, 0), ["/s-0000000002".into()], "a container is in use until its first child has gone, and a parent is not idle");
    assert_eq!(tree.idle(5_000, 4_999), ["/c".into(), "/s-0000000002".into()], "unless it was never used for long");
    apply(&mut tree, &at(600, create("/c/x", CreateMode::Persistent)));
    assert_eq!(tree.idle(500, 0), []);
    apply(&mut tree, &at(700, Operation::delete("/c/x", -1)));
    apply(&mut tree, &at(700, Operation::delete("/t/child", -1)));
    assert_eq!(tree.idle(1_001, 0), ["/c".into(), "/s-0000000002".into(), "/t".into()]);
    let mut code = |time_ms, path: &str| apply(&mut tree, &at(time_ms, Operation::DeleteIdle { path: path.into() })).outcome.err().map(|failure| failure.code);
    assert_eq!(code(1_000, "/t"), Some(ErrorCode::BadVersion), "its time is not over when this is applied");
    assert_eq!(code(1_001, "/t"), None);
    assert_eq!(code(1_001, "/c"), None);
    assert_eq!(code(1_001, "/c"), Some(ErrorCode::NoNode));
    assert_eq!(code(1_001, "/zookeeper"), Some(ErrorCode::BadArguments));
    apply(&mut tree, &at(2_000, create("/c", CreateMode::Persistent)));
    assert_eq!(apply(&mut tree, &at(9_000, Operation::DeleteIdle { path: "/c".into() })).outcome.unwrap_err().code, ErrorCode::BadVersion);
    for ttl_ms in [0, -1, 1 << 40] {
        assert_eq!(apply(&mut tree, &at(0, create("/x", CreateMode::Ttl { ttl_ms }))).outcome.unwrap_err().code, ErrorCode::BadArguments);
    }
    assert!(tree.has_mortal());
    assert!(apply(&mut tree, &at(9_000, Operation::DeleteIdle { path: "/s-0000000002".into() })).outcome.is_ok());
    assert!(!tree.has_mortal());
}

#[test]
fn acls_are_checked_where_zookeeper_checks_them() {
    let mut tree = Tree::new();
    let bob = Identity::new(acl::DIGEST, "bob:hash");
    let other = Identity::new(acl::DIGEST, "eve:hash");
    let mine = [Acl::new(acl::perms::ALL, "auth", "")];
    let read_only = [Acl::new(acl::perms::READ, "world", "anyone")];
    apply(&mut tree, &as_client(std::slice::from_ref(&bob), vec![create_with("/mine", CreateMode::Persistent, &mine)])).outcome.unwrap();
    assert_eq!(tree.acl("/mine").unwrap().0, [Acl { perms: acl::perms::ALL, id: bob.clone() }]);
    let mut code =
        |identities: &[Identity], operation: Operation| apply(&mut tree, &as_client(identities, vec![operation])).outcome.err().map(|failure| failure.code);
    let no_auth = Some(ErrorCode::NoAuth);
    for identities in [&[][..], std::slice::from_ref(&other)] {
        assert_eq!(code(identities, Operation::set("/mine", &b""[..], 7)), no_auth, "before the version is looked at");
        assert_eq!(code(identities, Operation::check("/mine", 0)), no_auth);
        assert_eq!(code(identities, create_with("/mine/x", CreateMode::Persistent, &read_only)), no_auth);
        assert_eq!(code(identities, Operation::delete("/mine/x", -1)), no_auth, "before the znode is looked for");
        assert_eq!(code(identities, Operation::SetAcl { path: "/mine".into(), acl: read_only.to_vec(), version: 0 }), no_auth);
    }
    assert_eq!(code(&[other], Operation::delete("/mine", -1)), None, "deleting is the parent's permission");
    assert_eq!(code(&[], create_with("/x", CreateMode::Persistent, &mine)), Some(ErrorCode::InvalidAcl));
    assert_eq!(code(&[], create_with("/x", CreateMode::Persistent, &[])), Some(ErrorCode::InvalidAcl));
    assert_eq!(code(&[], create_with("/x", CreateMode::Persistent, &read_only)), None);
    let set_acl = |version| Operation::SetAcl { path: "/x".into(), acl: mine.to_vec(), version };
    assert_eq!(code(std::slice::from_ref(&bob), set_acl(0)), no_auth);
    assert_eq!(code(&[Identity::superuser()], Operation::set("/x", &b"1"[..], 0)), None);
    assert_eq!(code(&[Identity::superuser(), bob.clone()], set_acl(1)), Some(ErrorCode::BadVersion), "the ACL has a version of its own");
    assert_eq!(code(&[Identity::superuser(), bob.clone()], set_acl(0)), None);
    assert_eq!(code(&[bob], Operation::set("/x", &b"2"[..], 1)), None);
    let stat = tree.stat("/x").unwrap();
    assert_eq!((stat.version, stat.aversion, stat.mzxid < tree.last_zxid() + 1), (2, 1, true));
    assert_eq!(code_of(&mut tree, Operation::set("/zookeeper/config", &b""[..], -1)), no_auth, "everyone may read the configuration, nobody may write it");
    apply(&mut tree, &one(Operation::set("/x", &b"3"[..], 2))).outcome.expect("the process itself may do everything");
}

#[test]
fn the_configurations_acl_has_zookeepers_version_over_every_snapshot() {
    let again = |tree: &Tree| {
        let mut restore = Restore::default();
        tree.items().for_each(|item| restore.push(item).unwrap());
        restore.finish(tree.last_zxid()).unwrap()
    };
    let mut tree = Tree::new();
    assert_eq!(tree.stat(CONFIG).unwrap().aversion, -1);
    assert_eq!(again(&tree), tree);
    let set = Operation::SetAcl { path: CONFIG.into(), acl: acl::entries(&acl::read_only()), version: -1 };
    apply(&mut tree, &as_client(&[Identity::superuser()], vec![set])).outcome.unwrap();
    assert_eq!(tree.stat(CONFIG).unwrap().aversion, 0);
    assert_eq!(again(&tree), tree);
}

fn code_of(tree: &mut Tree, operation: Operation) -> Option<ErrorCode> {
    apply(tree, &as_client(&[], vec![operation])).outcome.err().map(|failure| failure.code)
}

#[test]
fn a_clients_session_is_told_from_the_processs_own() {
    let mut tree = Tree::new();
    let by = |request| Command { session: 0, time_ms: 0, request };
    apply(&mut tree, &by(Request::CreateSession { session: 1, timeout_ms: 6_000 }));
    apply(&mut tree, &by(Request::OpenSession { session: 2, timeout_ms: 7_000, password: [9; 16] }));
    assert_eq!(tree.own_sessions().collect::<Vec<_>>(), [1]);
    assert_eq!(tree.client_sessions().collect::<Vec<_>>(), [ClientSession { session: 2, timeout_ms: 7_000, password: [9; 16], attached_zxid: 2 }]);
    for session in [0, 2, i64::MIN, -1 << 56] {
        let refused = apply(&mut tree, &by(Request::OpenSession { session, timeout_ms: 1, password: [0; 16] }));
        assert_eq!(refused.outcome.unwrap_err().code, ErrorCode::BadArguments, "{session:#x}");
    }
}

#[test]
fn the_configuration_tells_where_servers_serve_clients() {
    let mut tree = Tree::new();
    let announce =
        |server_id, client_address: &str| Command { session: 0, time_ms: 0, request: Request::Announce { server_id, client_address: client_address.into() } };
    assert_eq!(apply(&mut tree, &announce(1, "h:1")).events, [], "it names nobody");
    assert_eq!((tree.config_servers(), tree.config_version()), ("", None));
    let zxid = tree.last_zxid() + 1;
    let servers = "server.1=a:2:2:participant\nserver.11=b:2:2:observer\n".to_owned();
    assert_eq!(apply(&mut tree, &Command { session: 0, time_ms: 0, request: Request::Configure { servers } }).events.len(), 1);
    assert_eq!((tree.config_version(), tree.data_bytes()), (Some(zxid), tree.counted().1));
    assert_eq!(apply(&mut tree, &announce(1, "h:1")).events.len(), 1);
    assert_eq!(apply(&mut tree, &announce(1, "h:1")).events, [], "it is known");
    assert_eq!(apply(&mut tree, &announce(11, "h\n")).events, [], "no address");
    apply(&mut tree, &announce(1, "h:2")).outcome.unwrap();
    assert_eq!(tree.config_servers(), "server.1=a:2:2:participant;h:2\nserver.11=b:2:2:observer\n");
    assert_eq!((tree.client_address(1), tree.client_address(11), tree.client_address(2)), (Some("h:2"), None, None));
    assert_eq!(tree.config_version(), Some(tree.last_zxid()));
    assert_eq!((tree.stat(CONFIG).unwrap().version, tree.data_bytes()), (3, tree.counted().1));
}

#[test]
fn only_the_connection_that_a_session_is_attached_to_acts_for_it() {
    let mut tree = Tree::new();
    let by = |session, request| Command { session, time_ms: 0, request };
    let create = |attached_zxid, path: &str| {
        by(7, Request::Attached { attached_zxid, identities: vec![], operations: vec![Operation::create_ephemeral(path, &b""[..])] })
    };
    let attach = |attached_zxid, password| by(7, Request::Attach { attached_zxid, timeout_ms: 9_000, password });
    assert_eq!(apply(&mut tree, &attach(0, [9; 16])).outcome.unwrap_err().code, ErrorCode::SessionExpired, "it never began");
    let mut next = tree.clone();
    apply(&mut next, &by(0, Request::OpenSession { session: 7, timeout_ms: 6_000, password: [9; 16] })).outcome.unwrap();
    let opened = next.last_zxid();
    apply(&mut next, &create(opened, "/a")).outcome.unwrap();
    assert_eq!(apply(&mut next, &attach(opened, [8; 16])).outcome.unwrap_err().code, ErrorCode::SessionExpired, "another password");
    apply(&mut next, &attach(opened, [9; 16])).outcome.unwrap();
    let moved = next.last_zxid();
    assert_eq!(next.client_session(7).map(|known| (known.timeout_ms, known.attached_zxid)), Some((9_000, moved)));
    for late in [create(opened, "/b"), attach(opened, [9; 16]), by(7, Request::EndSession { attached_zxid: opened })] {
        assert_eq!(apply(&mut next, &late).outcome.unwrap_err().code, ErrorCode::SessionMoved);
    }
    apply(&mut next, &create(moved, "/b")).outcome.unwrap();
    assert_eq!(next.ephemerals(7).collect::<Vec<_>>(), ["/a", "/b"]);
    apply(&mut next, &by(7, Request::EndSession { attached_zxid: moved })).outcome.unwrap();
    assert_eq!((next.ephemeral_count(), next.session_timeout_ms(7)), (0, None));
    assert_eq!(apply(&mut next, &create(moved, "/c")).outcome.unwrap_err().code, ErrorCode::SessionExpired);
}

#[test]
fn versions_skip_minus_one() {
    assert_eq!(next_version(-2, -2), Some(0));
    assert_eq!(next_version(i32::MAX, ANY_VERSION), Some(i32::MIN));
    assert_eq!(next_version(5, 4), None);
}

#[test]
fn a_clone_keeps_its_state() {
    let mut tree = Tree::new();
    apply(&mut tree, &one(Operation::create("/a", &b"1"[..])));
    let snapshot = tree.clone();
    apply(&mut tree, &one(Operation::set("/a", &b"2"[..], -1)));
    apply(&mut tree, &one(Operation::create("/a/b", &b""[..])));
    assert_eq!(&*snapshot.get("/a").unwrap().data, b"1");
    assert_eq!(snapshot.stat("/a/b"), None);
    assert_eq!(&*tree.get("/a").unwrap().data, b"2");
}

#[test]
fn restoring_refuses_what_fits_to_nothing() {
    let node = |path: &str, ephemeral_owner| SnapshotItem::Node {
        path: path.into(),
        data: None,
        czxid: 1,
        mzxid: 1,
        pzxid: 1,
        ctime_ms: 0,
        mtime_ms: 0,
        version: 0,
        aversion: 0,
        created_children_count: 0,
        ephemeral_owner,
    };
    let mut restore = Restore::default();
    assert!(matches!(restore.push(node("/a", 0)), Err(RestoreError::Misplaced { .. })));
    let mut restore = Restore::default();
    restore.push(node("/", 0)).unwrap();
    restore.push(node("/a", 0)).unwrap();
    assert!(matches!(restore.push(node("/", 0)), Err(RestoreError::Misplaced { .. })));
    assert!(matches!(restore.push(node("/a", 0)), Err(RestoreError::Misplaced { .. })));
    assert!(matches!(restore.push(node("/x/y", 0)), Err(RestoreError::Misplaced { .. })));
    assert!(matches!(restore.push(node("/e", 9)), Err(RestoreError::Orphan { session: 9, .. })));
    assert_eq!(Restore::default().finish(1), Err(RestoreError::NoRoot));
}

/// The flat model: a map of paths, changed by whole copies.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    nodes: BTreeMap<String, ModelNode>,
    /// With the transaction that attached it; none for one of the process itself.
    sessions: BTreeMap<i64, Option<i64>>,
}

#[derive(Clone, Debug, PartialEq)]
struct ModelNode {
    data: Vec<u8>,
    version: i32,
    creations: i32,
    deletions: i32,
    pzxid: i64,
    mzxid: i64,
    owner: i64,
    mtime: i64,
    aversion: i32,
    acl: Vec<Acl>,
}

/// Whether an ACL of [`any_acl`] allows `wanted`, by the plainest reading.
fn may(acl: &[Acl], wanted: i32, caller: Option<&[Identity]>) -> Result<(), ErrorCode> {
    let Some(caller) = caller else { return Ok(()) };
    let holds = caller.contains(&Identity::superuser())
        || acl.iter().any(|entry| entry.perms & wanted != 0 && (entry.id.scheme == "world" || caller.contains(&entry.id)));
    if holds { Ok(()) } else { Err(ErrorCode::NoAuth) }
}

impl Model {
    fn new() -> Self {
        let node =
            ModelNode { data: vec![], version: 0, creations: 0, deletions: 0, pzxid: 0, mzxid: 0, owner: 0, mtime: 0, aversion: 0, acl: vec![Acl::open()] };
        Self { nodes: BTreeMap::from([("".to_owned(), node)]), sessions: BTreeMap::new() }
    }

    fn children(&self, path: &str) -> usize {
        let prefix = format!("{path}/");
        self.nodes.keys().filter(|other| other.strip_prefix(&prefix).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))).count()
    }

    fn operate(&mut self, operation: &Operation, by: &Command, zxid: i64) -> Result<(), ErrorCode> {
        let (session, now) = (by.session, by.time_ms);
        let caller = match &by.request {
            Request::Client { identities, .. } | Request::Attached { identities, .. } => Some(identities.as_slice()),
            _ => None,
        };
        if session != 0 && !self.sessions.contains_key(&session) {
            return Err(ErrorCode::SessionExpired);
        }
        let found = |model: &Self, path: &str| model.nodes.get(path).cloned().ok_or(ErrorCode::NoNode);
        let versioned = |is: i32, expected: i32| if expected != -1 && is != expected { Err(ErrorCode::BadVersion) } else { Ok(()) };
        match operation {
            Operation::Create { path, data, mode } => self.create(path, data, *mode, None, by, zxid)?,
            Operation::CreateWithAcl { path, data, mode, acl } => self.create(path, data, *mode, Some(acl), by, zxid)?,
            Operation::Set { path, data, version } => {
                let node = found(self, path)?;
                may(&node.acl, acl::perms::WRITE, caller)?;
                versioned(node.version, *version)?;
                let node = self.nodes.get_mut(path).unwrap();
                node.version += 1;
                node.mzxid = zxid;
                node.mtime = now;
                node.data = data.as_ref().map(|data| data.to_vec()).unwrap_or_default();
            }
            Operation::SetAcl { path, acl, version } => {
                let node = found(self, path)?;
                may(&node.acl, acl::perms::ADMIN, caller)?;
                versioned(node.aversion, *version)?;
                let node = self.nodes.get_mut(path).unwrap();
                node.aversion += 1;
                node.acl = acl.clone();
            }
            Operation::Delete { path, version } => {
                let parent = found(self, path.rsplit_once('/').unwrap().0)?;
                may(&parent.acl, acl::perms::DELETE, caller)?;
                versioned(found(self, path)?.version, *version)?;
                self.remove(path, zxid)?;
            }
            Operation::DeleteIdle { path } => {
                found(self, path.rsplit_once('/').unwrap().0)?;
                let node = found(self, path)?;
                let is_idle = match Lifetime::from_owner(node.owner) {
                    Lifetime::Container => true,
                    Lifetime::Ttl { ttl_ms } => now - node.mtime > ttl_ms,
                    _ => false,
                };
                if !is_idle {
                    return Err(ErrorCode::BadVersion);
                }
                self.remove(path, zxid)?;
            }
            Operation::Check { path, version } => {
                let node = found(self, path)?;
                may(&node.acl, acl::perms::READ, caller)?;
                versioned(node.version, *version)?;
            }
        }
        Ok(())
    }

    fn create(&mut self, path: &str, data: &Option<Bytes>, mode: CreateMode, acl: Option<&Vec<Acl>>, by: &Command, zxid: i64) -> Result<(), ErrorCode> {
        let caller = match &by.request {
            Request::Client { identities, .. } | Request::Attached { identities, .. } => Some(identities.as_slice()),
            _ => None,
        };
        let lifetime = mode.lifetime(by.session).ok_or(ErrorCode::BadArguments)?;
        if mode.is_ephemeral() && by.session == 0 {
            return Err(ErrorCode::SessionExpired);
        }
        let parent_path = path.rsplit_once('/').unwrap().0.to_owned();
        let parent = self.nodes.get(&parent_path).ok_or(ErrorCode::NoNode)?;
        may(&parent.acl, acl::perms::CREATE, caller)?;
        let owner = parent.owner;
        let path = if mode.is_sequential() { format!("{path}{:010}", parent.creations) } else { path.to_owned() };
        if self.nodes.contains_key(&path) {
            return Err(ErrorCode::NodeExists);
        }
        if Lifetime::from_owner(owner).is_ephemeral() {
            return Err(ErrorCode::NoChildrenForEphemerals);
        }
        let parent = self.nodes.get_mut(&parent_path).unwrap();
        parent.creations += 1;
        parent.pzxid = zxid;
        let data = data.as_ref().map(|data| data.to_vec()).unwrap_or_default();
        let acl = acl.cloned().unwrap_or_else(|| vec![Acl::open()]);
        let (pzxid, mzxid, owner, mtime) = (zxid, zxid, lifetime.owner(), by.time_ms);
        self.nodes.insert(path, ModelNode { data, version: 0, creations: 0, deletions: 0, pzxid, mzxid, owner, mtime, aversion: 0, acl });
        Ok(())
    }

    fn remove(&mut self, path: &str, zxid: i64) -> Result<(), ErrorCode> {
        if self.children(path) > 0 {
            return Err(ErrorCode::NotEmpty);
        }
        self.nodes.remove(path);
        let parent = self.nodes.get_mut(path.rsplit_once('/').unwrap().0).unwrap();
        parent.deletions += 1;
        parent.pzxid = zxid;
        Ok(())
    }

    fn check_attached(&self, session: i64, attached_zxid: i64) -> Result<(), (ErrorCode, usize)> {
        match self.sessions.get(&session) {
            Some(Some(attached)) if *attached == attached_zxid => Ok(()),
            Some(Some(_)) => Err((ErrorCode::SessionMoved, 0)),
            Some(None) | None => Err((ErrorCode::SessionExpired, 0)),
        }
    }

    /// The command with the session's own attachment where it says 0.
    fn aimed(&self, command: &Command) -> Command {
        let mut command = command.clone();
        let own = self.sessions.get(&command.session).copied().flatten().unwrap_or(0);
        match &mut command.request {
            Request::Attach { attached_zxid, .. } | Request::Attached { attached_zxid, .. } | Request::EndSession { attached_zxid } if *attached_zxid == 0 => {
                *attached_zxid = own;
            }
            _ => {}
        }
        command
    }

    fn apply(&mut self, command: &Command, zxid: i64) -> Result<(), (ErrorCode, usize)> {
        let mut next = self.clone();
        match &command.request {
            Request::One(_) | Request::Multi(_) | Request::Client { .. } | Request::Attached { .. } => {
                if let Request::Attached { attached_zxid, .. } = &command.request {
                    next.check_attached(command.session, *attached_zxid)?;
                }
                for (index, operation) in command.request.operations().iter().enumerate() {
                    next.operate(operation, command, zxid).map_err(|code| (code, index))?;
                }
            }
            Request::CreateSession { session, .. } | Request::OpenSession { session, .. } => {
                let attached = matches!(command.request, Request::OpenSession { .. }).then_some(zxid);
                if next.sessions.contains_key(session) {
                    return Err((ErrorCode::BadArguments, 0));
                }
                next.sessions.insert(*session, attached);
            }
            // The model's configuration names nobody.
            Request::Announce { .. } | Request::Configure { .. } => {}
            Request::Attach { attached_zxid, password, .. } => {
                if *password != PASSWORD {
                    return Err((ErrorCode::SessionExpired, 0));
                }
                next.check_attached(command.session, *attached_zxid)?;
                next.sessions.insert(command.session, Some(zxid));
            }
            Request::CloseSession { .. } | Request::EndSession { .. } => {
                if let Request::EndSession { attached_zxid } = &command.request {
                    next.check_attached(command.session, *attached_zxid)?;
                }
                let session = &command.ends_session().unwrap();
                let owned: Vec<_> = next.nodes.iter().filter(|(_, node)| node.owner == *session).map(|(path, _)| path.clone()).collect();
                for path in owned {
                    next.remove(&path, zxid).unwrap();
                }
                next.sessions.remove(session);
            }
        }
        *self = next;
        Ok(())
    }
}

const PASSWORD: [u8; 16] = [3; 16];

fn any_acl() -> impl Strategy<Value = Vec<Acl>> {
    let entry = prop_oneof![
        Just(Acl::open()),
        (0..32).prop_map(|perms| Acl::new(perms, "world", "anyone")),
        (0..32).prop_map(|perms| Acl::new(perms, "digest", "bob:hash")),
    ];
    prop::collection::vec(entry, 1..3).prop_map(|mut acl| {
        acl.dedup();
        acl
    })
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let data = prop::collection::vec(any::<u8>(), 0..4).prop_map(|data| Some(Bytes::from(data)));
    let mode = prop::sample::select(vec![
        CreateMode::Persistent,
        CreateMode::Persistent,
        CreateMode::PersistentSequential,
        CreateMode::Ephemeral,
        CreateMode::EphemeralSequential,
        CreateMode::Container,
        CreateMode::Ttl { ttl_ms: 2_000 },
        CreateMode::TtlSequential { ttl_ms: 2_000 },
    ]);
    let version = prop::sample::select(vec![-1, -1, 0, 1, 2]);
    prop_oneof![
        2 => (any_path(), data.clone(), mode.clone(), any_acl()).prop_map(|(path, data, mode, acl)| Operation::CreateWithAcl { path, data, mode, acl }),
        1 => (any_path(), any_acl(), version.clone()).prop_map(|(path, acl, version)| Operation::SetAcl { path, acl, version }),
        1 => any_path().prop_map(|path| Operation::DeleteIdle { path }),
        4 => (any_path(), data.clone(), mode).prop_map(|(path, data, mode)| Operation::Create { path, data, mode }),
        2 => (any_path(), data, version.clone()).prop_map(|(path, data, version)| Operation::Set { path, data, version }),
        2 => (any_path(), version.clone()).prop_map(|(path, version)| Operation::Delete { path, version }),
        1 => (any_path(), version).prop_map(|(path, version)| Operation::Check { path, version }),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let session = 1..4i64;
    let request = prop_oneof![
        6 => any_operation().prop_map(Request::One),
        3 => prop::collection::vec(any_operation(), 0..6).prop_map(Request::Multi),
        4 => (prop::sample::select(vec![vec![], vec![Identity::new("digest", "bob:hash")], vec![Identity::superuser()]]), prop::collection::vec(any_operation(), 0..4))
            .prop_map(|(identities, operations)| Request::Client { identities, operations }),
        1 => session.clone().prop_map(|session| Request::CreateSession { session, timeout_ms: 6_000 }),
        1 => session.clone().prop_map(|session| Request::OpenSession { session, timeout_ms: 6_000, password: PASSWORD }),
        1 => session.prop_map(|session| Request::CloseSession { session }),
        3 => (0..3i64, prop::collection::vec(any_operation(), 0..3)).prop_map(|(attached_zxid, operations)| Request::Attached { attached_zxid, identities: vec![], operations }),
        1 => (0..2i64, prop::sample::select(vec![PASSWORD, PASSWORD, [4; 16]])).prop_map(|(attached_zxid, password)| Request::Attach { attached_zxid, timeout_ms: 7_000, password }),
        1 => (0..2i64).prop_map(|attached_zxid| Request::EndSession { attached_zxid }),
    ];
    (0..4i64, 0..10_000i64, request).prop_map(|(session, time_ms, request)| Command { session, time_ms, request })
}

proptest! {
    #[test]
    fn the_tree_does_as_the_model(commands in prop::collection::vec(any_command(), 1..120)) {
        let mut tree = Tree::new();
        let mut replayed = Tree::new();
        let mut model = Model::new();
        for (command, zxid) in commands.iter().zip(1..) {
            let command = &model.aimed(command);
            let snapshot = tree.clone();
            let before: Vec<_> = snapshot.items().collect();
            let applied = tree.apply(command, zxid);
            prop_assert_eq!(applied.outcome.as_ref().map(|_| ()).map_err(|failure| (failure.code, failure.operation_index)), model.apply(command, zxid));
            prop_assert_eq!(&applied, &replayed.apply(&crate::codec::decode(&crate::codec::encode(command).unwrap()).unwrap(), zxid));
            prop_assert_eq!(before, snapshot.items().collect::<Vec<_>>(), "a clone changed");
            if applied.outcome.is_err() {
                prop_assert_eq!(snapshot.items().collect::<Vec<_>>(), tree.items().collect::<Vec<_>>(), "a failure changed the tree");
            }
        }
        prop_assert_eq!(&tree, &replayed);
        for (path, node) in &model.nodes {
            let path = if path.is_empty() { "/" } else { path };
            let root = i32::from(path == "/");
            let view = tree.get(path).unwrap();
            prop_assert_eq!(&*view.data, &node.data);
            prop_assert_eq!(view.stat.cversion, node.creations + node.deletions - root);
            prop_assert_eq!(view.stat.num_children, model.children(path.trim_end_matches('/')) as i32 + root);
            let stat = (view.stat.version, view.stat.mzxid, view.stat.pzxid, view.stat.ephemeral_owner);
            let owner = if Lifetime::from_owner(node.owner).is_ephemeral() { node.owner } else { 0 };
            prop_assert_eq!(stat, (node.version, node.mzxid, node.pzxid, owner));
            let (acl, stat) = tree.acl(path).unwrap();
            prop_assert_eq!((acl, stat.aversion, stat.mtime_ms), (node.acl.clone(), node.aversion, node.mtime));
            prop_assert_eq!(tree.descendant_count(path).unwrap() as usize, model.nodes.keys().filter(|other| other.starts_with(&format!("{}/", path.trim_end_matches('/')))).count() + 3 * root as usize);
        }
        prop_assert_eq!(tree.node_count(), model.nodes.len() as u64 + 3);
        prop_assert_eq!((tree.node_count(), tree.data_bytes()), tree.counted());
        let mut restore = Restore::default();
        for item in tree.items() {
            restore.push(crate::codec::decode(&crate::codec::encode(&item).unwrap()).unwrap()).unwrap();
        }
        prop_assert_eq!(restore.finish(tree.last_zxid()).unwrap(), tree);
    }
}
