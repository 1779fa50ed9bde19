//! What ephemeral znodes are for, checked by itself: they live as long as their session, and of two sessions that live one alone holds a lock.

use std::collections::BTreeMap;

use ottla::coordination::op::{Command, EventKind, Operation};
use ottla::coordination::tree::{Applied, Tree};

use super::reads::ephemerals;

/// Who believes to hold the lock: by session, the znode by which it does and the transaction that showed it.
#[derive(Debug, Default)]
pub struct Holders(BTreeMap<i64, (String, i64)>);

impl Holders {
    /// The session has been shown, at `zxid`, that its znode is the first of all.
    ///
    /// # Errors
    /// Another one holds the lock: both sessions live in the tree of the later of the two transactions, and both znodes are there.
    pub fn holds<'a>(&mut self, session: i64, path: &str, zxid: i64, tree_at: impl Fn(i64) -> Option<&'a Tree>) -> Result<(), String> {
        for (other, (others_path, others_zxid)) in &self.0 {
            let at = zxid.max(*others_zxid);
            let Some(tree) = tree_at(at) else { continue };
            let is_owned =
                |session: i64, path: &str| tree.client_session(session).is_some() && tree.stat(path).is_some_and(|stat| stat.ephemeral_owner == session);
            if *other != session && is_owned(session, path) && is_owned(*other, others_path) {
                return Err(format!("at {at} session {session:#x} holds the lock by {path}, and session {other:#x} by {others_path}, since {others_zxid}"));
            }
        }
        self.0.insert(session, (path.to_owned(), zxid));
        Ok(())
    }

    /// It gives the lock back, or is in doubt.
    pub fn lets_go(&mut self, session: i64) {
        self.0.remove(&session);
    }
}

/// A command was carried out on the tree `before`, which is `after` now.
///
/// # Errors
/// An ephemeral znode outlives its session, ends before it although nobody deleted it, or is of a session that does not live.
pub fn check_ephemerals(before: &Tree, command: &Command, applied: &Applied, after: &Tree) -> Result<(), String> {
    if let Some(session) = command.ends_session().filter(|_| applied.outcome.is_ok()) {
        let left = ephemerals(after, session);
        if !left.is_empty() {
            return Err(format!("session {session:#x} has ended, and {left:?} are there still"));
        }
    }
    let deletes =
        |path: &str| command.request.operations().iter().any(|operation| matches!(operation, Operation::Delete { path: deleted, .. } if deleted == path));
    // Containers and znodes with a time to live have owners below zero.
    for event in &applied.events {
        match event.kind {
            EventKind::Deleted => {
                let owner = before.stat(&event.path).map_or(0, |stat| stat.ephemeral_owner);
                if owner > 0 && !deletes(&event.path) && command.ends_session() != Some(owner) {
                    return Err(format!("{} is gone, which nobody deleted, and its session {owner:#x} has not ended", event.path));
                }
            }
            EventKind::Created => {
                let owner = after.stat(&event.path).map_or(0, |stat| stat.ephemeral_owner);
                if owner > 0 && !after.sessions().any(|session| session == owner) {
                    return Err(format!("{} was made for session {owner:#x}, which does not live", event.path));
                }
            }
            EventKind::DataChanged | EventKind::ChildrenChanged => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use ottla::coordination::op::{CreateMode, Request};

    use super::*;

    fn apply(tree: &mut Tree, session: i64, request: Request) -> (Tree, Command, Applied) {
        let (before, command) = (tree.clone(), Command { session, time_ms: 0, request });
        let applied = tree.apply(&command, tree.last_zxid() + 1);
        (before, command, applied)
    }

    /// Sessions 1 and 2 live, and each has an ephemeral znode: `/a` and `/b`.
    fn two() -> Tree {
        let mut tree = Tree::new();
        for (session, path) in [(1, "/a"), (2, "/b")] {
            apply(&mut tree, 0, Request::OpenSession { session, timeout_ms: 3_000, password: [1; 16] });
            let operation = Operation::Create { path: path.into(), data: None, mode: CreateMode::Ephemeral };
            apply(&mut tree, session, Request::One(operation));
        }
        tree
    }

    #[test]
    fn two_live_sessions_never_hold_one_lock() {
        let mut tree = two();
        let mut holders = Holders::default();
        let zxid = tree.last_zxid();
        assert_eq!(holders.holds(1, "/a", zxid, |_| Some(&tree)), Ok(()));
        assert!(holders.holds(2, "/b", zxid, |_| Some(&tree)).is_err());
        assert_eq!(holders.holds(1, "/a", zxid, |_| Some(&tree)), Ok(()), "it may say so again");
        // The znode of the first is gone, however long it believes otherwise.
        apply(&mut tree, 0, Request::CloseSession { session: 1 });
        assert_eq!(holders.holds(2, "/b", zxid + 1, |_| Some(&tree)), Ok(()));
        let mut holders = Holders::default();
        let tree = two();
        assert_eq!(holders.holds(1, "/a", zxid, |_| Some(&tree)), Ok(()));
        holders.lets_go(1);
        assert_eq!(holders.holds(2, "/b", zxid, |_| Some(&tree)), Ok(()));
    }

    #[test]
    fn ephemeral_znodes_live_as_long_as_their_sessions() {
        let mut tree = two();
        let (before, command, applied) = apply(&mut tree, 0, Request::CloseSession { session: 1 });
        assert_eq!(check_ephemerals(&before, &command, &applied, &tree), Ok(()));
        assert!(check_ephemerals(&before, &command, &applied, &before).is_err(), "they are there still");
        let other = Command { session: 2, time_ms: 0, request: Request::One(Operation::delete("/b", -1)) };
        assert!(check_ephemerals(&before, &other, &applied, &tree).is_err(), "nobody deleted /a");
        let (before, command, applied) = apply(&mut tree, 2, Request::One(Operation::delete("/b", -1)));
        assert_eq!(check_ephemerals(&before, &command, &applied, &tree), Ok(()));
    }
}
