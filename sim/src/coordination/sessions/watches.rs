//! The watches of one session, kept apart from the code under test: which change must be told next.
//!
//! Every watch that an answer at zxid `z` has set is told of the first change of its kind after `z`, once if it is a standard one; changes are told in the
//! order of their transactions; none is told after an answer that shows its transaction or a later one; none is lost when the client comes back
//! over another connection and says what it had watched (`setWatches2`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use ottla::coordination::acl::{self, Identity, perms};
use ottla::coordination::op::{Event, EventKind};
use ottla::coordination::tree::Tree;
use ottla::coordination::watch::WatchType;

use super::oracle::Oracle;

/// A change that is told: its zxid, what happened, where.
pub type Told = (i64, EventKind, String);

/// See the file's head.
#[derive(Debug, Default)]
pub struct Watches {
    /// Whether the znode existed when it was set.
    data: BTreeMap<String, bool>,
    child: BTreeSet<String>,
    persistent: BTreeSet<String>,
    recursive: BTreeSet<String>,
    /// `data` and `child` as the client knows them: what has fired and was not told is among them still.
    held: (BTreeMap<String, bool>, BTreeSet<String>),
    /// The transactions up to this one have been looked at.
    cursor: i64,
    /// What they must have told and has not come.
    due: VecDeque<Told>,
}

impl Watches {
    /// Whether nothing is watched.
    pub fn is_empty(&self) -> bool {
        self.held.0.is_empty() && self.held.1.is_empty() && self.persistent.is_empty() && self.recursive.is_empty()
    }

    /// A standard watch of content or existence, set by an answer at `zxid`.
    pub fn add_data(&mut self, path: &str, exists: bool) {
        self.data.insert(path.to_owned(), exists);
        self.held.0.insert(path.to_owned(), exists);
    }

    /// A standard watch of children.
    pub fn add_child(&mut self, path: &str) {
        self.child.insert(path.to_owned());
        self.held.1.insert(path.to_owned());
    }

    /// A watch that stays.
    pub fn add_lasting(&mut self, path: &str, recursive: bool) {
        if recursive {
            self.recursive.insert(path.to_owned())
        } else {
            self.persistent.insert(path.to_owned())
        };
    }

    /// A request for the removal of watches was answered, or one that only asked for them: whether there are such.
    pub fn remove(&mut self, path: &str, which: WatchType, only_asks: bool) -> bool {
        let any = which == WatchType::Any;
        let (of_data, of_child) = (any || which == WatchType::Data, any || which == WatchType::Children);
        let (lasting, recursive) = (any || which == WatchType::Persistent, any || which == WatchType::PersistentRecursive);
        let known = (of_data && self.data.contains_key(path))
            || (of_child && self.child.contains(path))
            || (lasting && self.persistent.contains(path))
            || (recursive && self.recursive.contains(path));
        if known && !only_asks {
            if of_data {
                self.data.remove(path);
                self.held.0.remove(path);
            }
            if of_child {
                self.child.remove(path);
                self.held.1.remove(path);
            }
            if lasting {
                self.persistent.remove(path);
            }
            if recursive {
                self.recursive.remove(path);
            }
        }
        known
    }

    fn is_told(&mut self, event: &Event) -> bool {
        let path = &*event.path;
        let below = |above: &String| above == "/" || path == above || path.strip_prefix(above.as_str()).is_some_and(|rest| rest.starts_with('/'));
        match event.kind {
            EventKind::ChildrenChanged => {
                let once = self.child.remove(path);
                once || self.persistent.contains(path)
            }
            kind => {
                let mut once = self.data.remove(path).is_some();
                once |= kind == EventKind::Deleted && self.child.remove(path);
                once || self.persistent.contains(path) || self.recursive.iter().any(below)
            }
        }
    }

    fn step(&mut self, oracle: &Oracle, identities: &[Identity]) {
        self.cursor += 1;
        let zxid = self.cursor;
        let mut told = Vec::new();
        // A watch fires whether its owner may be told or not.
        oracle.all_changes(zxid, |event| {
            if self.is_told(event) && acl::allows(&event.acl, perms::READ, identities) {
                told.push((zxid, event.kind, event.path.to_string()));
            }
        });
        self.due.extend(told);
    }

    /// An event came.
    ///
    /// # Errors
    /// What had to come in its place.
    pub fn event(&mut self, oracle: &Oracle, identities: &[Identity], told: &Told) -> Result<(), String> {
        let last = oracle.last_zxid();
        while self.due.is_empty() && self.cursor < last {
            self.step(oracle, identities);
        }
        match self.due.pop_front() {
            Some(due) if due == *told => {
                if told.1 != EventKind::ChildrenChanged {
                    self.held.0.remove(&told.2);
                }
                if matches!(told.1, EventKind::ChildrenChanged | EventKind::Deleted) {
                    self.held.1.remove(&told.2);
                }
                Ok(())
            }
            Some(due) => Err(format!("it was told of {told:?}, and {due:?} came first")),
            None => Err(format!("it was told of {told:?}, which none of its watches was set for")),
        }
    }

    /// An answer came that shows the tree at `zxid`.
    ///
    /// # Errors
    /// What it should have been told before.
    pub fn answer(&mut self, oracle: &Oracle, identities: &[Identity], zxid: i64) -> Result<(), String> {
        while self.cursor < zxid {
            self.step(oracle, identities);
        }
        match self.due.front() {
            Some(due) if due.0 <= zxid => Err(format!("it was answered at {zxid} before it was told of {due:?}")),
            _ => Ok(()),
        }
    }

    /// The connection is lost, and with it what was not told: the lists for `setWatches2`, as data, exist, child, persistent, recursive.
    pub fn lists(&self) -> [Vec<String>; 5] {
        let of = |wanted: bool| self.held.0.iter().filter(|(_, exists)| **exists == wanted).map(|(path, _)| path.clone()).collect();
        [of(true), of(false), self.held.1.iter().cloned().collect(), self.persistent.iter().cloned().collect(), self.recursive.iter().cloned().collect()]
    }

    /// Without what was due on the connection that was lost; what had fired there and was not told is watched still, for all the client knows.
    pub fn restore(&mut self) {
        (self.data, self.child) = self.held.clone();
        self.due.clear();
    }

    /// Those of a new session: none; the transactions up to `zxid` are no matter.
    pub fn begin(zxid: i64) -> Self {
        Self { cursor: zxid, ..Self::default() }
    }

    /// `setWatches2` was answered at `zxid`, over the tree as it was then, for a client that had seen all up to `seen_zxid`; `missed` is what was told
    /// before that answer.
    ///
    /// # Errors
    /// What should have been told.
    pub fn set_again(&mut self, tree: &Tree, identities: &[Identity], (seen_zxid, zxid): (i64, i64), missed: &[(EventKind, String)]) -> Result<(), String> {
        let [data, exist, child, ..] = self.lists();
        let mut due = Vec::new();
        for path in &data {
            match tree.stat(path) {
                None => due.push((EventKind::Deleted, path.clone())),
                Some(stat) if stat.mzxid > seen_zxid => due.push((EventKind::DataChanged, path.clone())),
                Some(_) => continue,
            }
            self.data.remove(path);
            self.held.0.remove(path);
        }
        for path in exist.iter().filter(|path| tree.stat(path).is_some()) {
            due.push((EventKind::Created, path.clone()));
            self.data.remove(path);
            self.held.0.remove(path);
        }
        for path in &child {
            match tree.stat(path) {
                None => due.push((EventKind::Deleted, path.clone())),
                Some(stat) if stat.pzxid > seen_zxid => due.push((EventKind::ChildrenChanged, path.clone())),
                Some(_) => continue,
            }
            self.child.remove(path);
            self.held.1.remove(path);
        }
        due.retain(|(_, path)| tree.acl_list(path).is_none_or(|list| acl::allows(&list, perms::READ, identities)));
        self.cursor = zxid;
        if due == missed { Ok(()) } else { Err(format!("coming back at {zxid}, having seen {seen_zxid}, it was told of {missed:?}, and missed {due:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use ottla::coordination::ensemble::Executed;
    use ottla::coordination::op::{Command, CreateMode, Operation, Request};

    use super::*;
    use crate::verdict::Verdict;
    use crate::world::{WorldOptions, run};

    /// Transaction 1 makes `/a`, 2 changes it, 3 makes `/a/b`, 4 deletes that.
    fn with_history(body: impl FnOnce(&Oracle) + Send + 'static) {
        let report = run(WorldOptions::calm(1), move |world| async move {
            let oracle = Oracle::new(&world, &[]);
            let mut tree = Tree::new();
            let create = |path: &str| Operation::Create { path: path.into(), data: None, mode: CreateMode::Persistent };
            let all = [create("/a"), Operation::set("/a", &b""[..], -1), create("/a/b"), Operation::delete("/a/b", -1)];
            for (index, operation) in (1..).zip(all) {
                let command = Command { session: 0, time_ms: 0, request: Request::One(operation) };
                let applied = tree.apply(&command, index as i64);
                oracle.executed(1, index, 1, &Executed::Command(&command, &applied));
            }
            body(&oracle);
            Verdict::Clean
        });
        assert_eq!(report.verdict, Verdict::Clean);
    }

    fn told(zxid: i64, kind: EventKind, path: &str) -> Told {
        (zxid, kind, path.to_owned())
    }

    #[test]
    fn a_watch_is_told_once_of_the_first_change_and_before_the_answer_that_shows_it() {
        with_history(|oracle| {
            let mut watches = Watches::begin(1);
            watches.add_data("/a", true);
            watches.add_child("/a");
            assert!(watches.answer(oracle, &[], 1).is_ok());
            assert!(watches.event(oracle, &[], &told(2, EventKind::DataChanged, "/a")).is_ok());
            let late = watches.answer(oracle, &[], 3).unwrap_err();
            assert!(late.contains("ChildrenChanged"), "{late}");
            let mut twice = Watches::begin(1);
            twice.add_data("/a", true);
            assert!(twice.event(oracle, &[], &told(2, EventKind::DataChanged, "/a")).is_ok());
            assert!(twice.event(oracle, &[], &told(2, EventKind::DataChanged, "/a")).is_err());
            let mut skips = Watches::begin(0);
            skips.add_lasting("/", true);
            assert!(skips.event(oracle, &[], &told(2, EventKind::DataChanged, "/a")).is_err());
        });
    }

    #[test]
    fn what_was_removed_is_told_no_more() {
        with_history(|oracle| {
            let mut watches = Watches::begin(1);
            watches.add_data("/a", true);
            watches.add_lasting("/a", false);
            assert!(watches.remove("/a", WatchType::Data, true) && watches.remove("/a", WatchType::Data, false));
            assert!(!watches.remove("/a", WatchType::Data, false) && !watches.remove("/a", WatchType::Children, true));
            assert!(watches.event(oracle, &[], &told(2, EventKind::DataChanged, "/a")).is_ok(), "the other one is there still");
            assert!(watches.remove("/a", WatchType::Any, false) && watches.is_empty());
            assert!(watches.answer(oracle, &[], 4).is_ok());
        });
    }

    #[test]
    fn what_was_missed_is_told_on_coming_back() {
        with_history(|oracle| {
            let watched = || {
                let mut watches = Watches::begin(1);
                watches.add_data("/a", true);
                watches.add_data("/none", false);
                watches.add_child("/a");
                // Fired there, and the connection was lost before it was told.
                let _ = watches.answer(oracle, &[], 2);
                watches.restore();
                watches
            };
            let tree = oracle.tree_at(4).unwrap();
            let missed = [(EventKind::DataChanged, "/a".to_owned()), (EventKind::ChildrenChanged, "/a".to_owned())];
            let mut back = watched();
            assert_eq!(back.set_again(&tree, &[], (1, 4), &missed), Ok(()));
            assert!(!back.is_empty());
            assert!(watched().set_again(&tree, &[], (1, 4), &missed[1..]).is_err());
        });
    }
}
