//! What a node decides without others: what it may write for the sake of older members.

use tempfile::TempDir;

use super::super::raft_core::RaftCore;
use super::super::start;
use super::*;
use crate::coordination::storage;
use crate::coordination::storage::format::{FORMAT, MemberRecord};
use crate::runtime::tokio::{TokioRuntime, run};

type Subject = Node<TokioRuntime, RaftCore>;

/// A node that leads, being alone, and does not run.
async fn leader(rt: &TokioRuntime, dir: &std::path::Path) -> Subject {
    let (storage, loaded) = storage::open(rt.clone(), dir).await.unwrap();
    let mut node = start::alone(rt.clone(), storage, loaded, Arc::new(Shared::new()), Options::default()).unwrap().node;
    node.core.campaign();
    assert!(node.core.leadership().is_leader);
    node
}

fn meet(node: &mut Subject, log_format: u16) {
    let (is_removed, _) = oneshot::channel();
    let (removed_later, _) = oneshot::channel();
    node.meet(Met { member: 2, address: "b:2888".into(), log_format, is_removed, removed_later });
}

/// What becomes of a request of this member's own, and whether the leader takes it from another.
fn tried(node: &mut Subject, request: Request) -> (Option<ErrorCode>, bool) {
    let (answer, mut wait) = oneshot::channel();
    node.take_message(Message::Propose { session: 0, request: request.clone(), answer }, &mut Vec::new());
    let code = wait.try_recv().ok().and_then(|done| done.outcome.err()).map(|failure| failure.code);
    let command = Command { session: 0, time_ms: 0, request };
    (code, node.propose(&Payload::Command { origin: 2, registration: 1, sequence: 1, command }))
}

#[test]
fn what_an_older_member_does_not_know_is_not_written() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().to_owned();
    run(1, |rt| async move {
        let mut node = leader(&rt, &path).await;
        node.replicated.members.insert(2, MemberRecord { server_id: 2, address: "b:2888".into(), storage_id: 5 });
        node.replicated.next_raft_id = 3;
        let newest = || Request::Announce { server_id: 1, client_address: "a:2181".into() };
        let oldest = || Request::One(Operation::create("/a", vec![]));
        assert_eq!((newest().log_format(), oldest().log_format()), (FORMAT, 1));
        assert_eq!(tried(&mut node, newest()), (None, true), "nobody has said that it is older");
        meet(&mut node, FORMAT - 1);
        assert_eq!(tried(&mut node, newest()), (Some(ErrorCode::Unimplemented), false));
        assert_eq!(tried(&mut node, oldest()), (None, true));
        // It was upgraded, and comes again.
        meet(&mut node, FORMAT);
        assert_eq!(tried(&mut node, newest()), (None, true));
        // An older one that is no member any more holds nobody back.
        meet(&mut node, FORMAT - 1);
        node.replicated.members.remove(&2);
        assert_eq!(tried(&mut node, newest()), (None, true));
    })
    .unwrap();
}
