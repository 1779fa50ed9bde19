//! Watches: who is told of which change. Pure.
//!
//! As ZooKeeper's `WatchManager`: there are two tables, for a znode's own changes (*data*) and for the set of its children (*child*). A standard watch is in
//! one of them and fires once; a persistent one is in both and fires until it is removed; a recursive one is in the data table and fires for
//! every znode below its path too, but not for changes of children sets. A watcher (a connection) is told of one change once, however many of its
//! watches it meets.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::op::{Event, EventKind, Stat};
use super::path;

/// Whoever watches: a connection.
pub type WatcherId = u64;

/// What kind of watch to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// Content and existence, once.
    Data,
    /// The set of children, once.
    Child,
    /// Both, until removed.
    Persistent,
    /// The znode and all below it, until removed.
    PersistentRecursive,
}

/// Which watches to look for or to remove (`WatcherType` on the wire).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchType {
    /// 1: of the set of children.
    Children,
    /// 2: of content and existence.
    Data,
    /// 3: any.
    Any,
    /// 4: persistent ones.
    Persistent,
    /// 5: persistent recursive ones.
    PersistentRecursive,
}

impl WatchType {
    /// From the number on the wire.
    pub const fn from_code(code: i32) -> Option<Self> {
        match code {
            1 => Some(Self::Children),
            2 => Some(Self::Data),
            3 => Some(Self::Any),
            4 => Some(Self::Persistent),
            5 => Some(Self::PersistentRecursive),
            _ => None,
        }
    }
}

/// Modes of the watches of one watcher on one path in one table, as bits.
const STANDARD: u8 = 1;
const PERSISTENT: u8 = 2;
const RECURSIVE: u8 = 4;
const ANY: u8 = STANDARD | PERSISTENT | RECURSIVE;

#[derive(Debug, Default)]
struct Table {
    by_path: BTreeMap<Arc<str>, BTreeMap<WatcherId, u8>>,
    by_watcher: BTreeMap<WatcherId, BTreeSet<Arc<str>>>,
    recursive_count: usize,
}

impl Table {
    fn modes(&self, watcher: WatcherId, path: &str) -> u8 {
        self.by_path.get(path).and_then(|watchers| watchers.get(&watcher)).copied().unwrap_or(0)
    }

    fn add(&mut self, watcher: WatcherId, path: &str, mode: u8) {
        let path = self.by_path.get_key_value(path).map_or_else(|| Arc::from(path), |(path, _)| path.clone());
        let modes = self.by_path.entry(path.clone()).or_default().entry(watcher).or_default();
        self.recursive_count += usize::from(mode & !*modes & RECURSIVE != 0);
        *modes |= mode;
        self.by_watcher.entry(watcher).or_default().insert(path);
    }

    /// Removes these modes; whether there were any.
    fn remove(&mut self, watcher: WatcherId, path: &str, mode: u8) -> bool {
        let Some(watchers) = self.by_path.get_mut(path) else { return false };
        let Entry::Occupied(mut modes) = watchers.entry(watcher) else { return false };
        let before = *modes.get();
        if before & mode == 0 {
            return false;
        }
        self.recursive_count -= usize::from(before & mode & RECURSIVE != 0);
        *modes.get_mut() &= !mode;
        if *modes.get() == 0 {
            modes.remove();
            if watchers.is_empty() {
                self.by_path.remove(path);
            }
            if let Entry::Occupied(mut paths) = self.by_watcher.entry(watcher) {
                paths.get_mut().remove(path);
                if paths.get().is_empty() {
                    paths.remove();
                }
            }
        }
        true
    }

    fn remove_watcher(&mut self, watcher: WatcherId) {
        for path in self.by_watcher.get(&watcher).cloned().unwrap_or_default() {
            self.remove(watcher, &path, ANY);
        }
    }

    /// The watchers that a change at `path` is told to.
    fn trigger(&mut self, changed: &str, told: &mut BTreeSet<WatcherId>) {
        if let Some(watchers) = self.by_path.get(changed) {
            let at_path: Vec<WatcherId> = watchers.keys().copied().collect();
            for watcher in at_path {
                told.insert(watcher);
                self.remove(watcher, changed, STANDARD);
            }
        }
        let mut at = changed;
        while self.recursive_count > 0
            && let Some((parent, _)) = path::split(at)
        {
            let above = self.by_path.get(parent).into_iter().flatten();
            told.extend(above.filter(|(_, modes)| **modes & RECURSIVE != 0).map(|(&watcher, _)| watcher));
            at = parent;
        }
    }

    fn count(&self) -> usize {
        self.by_watcher.values().map(BTreeSet::len).sum()
    }
}

/// What a client that comes back had watched ([`Watches::set_watches`]).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watched {
    /// Standard watches of znodes that existed.
    pub data: Vec<String>,
    /// Standard watches of znodes that did not exist.
    pub exist: Vec<String>,
    /// Standard watches of children.
    pub child: Vec<String>,
    /// Persistent ones.
    pub persistent: Vec<String>,
    /// Persistent recursive ones.
    pub persistent_recursive: Vec<String>,
}

/// How many watches there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Watchers that have any, in the data table or in the child table: one in both counts twice, as ZooKeeper counts.
    pub watcher_count: usize,
    /// Paths that are watched; counted likewise.
    pub path_count: usize,
    /// Watches; a persistent one counts twice.
    pub watch_count: usize,
}

/// All watches of one member.
#[derive(Debug, Default)]
pub struct Watches {
    data: Table,
    child: Table,
}

impl Watches {
    /// Sets a watch; setting it again changes nothing.
    pub fn add(&mut self, watcher: WatcherId, path: &str, kind: WatchKind) {
        match kind {
            WatchKind::Data => self.data.add(watcher, path, STANDARD),
            WatchKind::Child => self.child.add(watcher, path, STANDARD),
            WatchKind::Persistent => {
                self.data.add(watcher, path, PERSISTENT);
                self.child.add(watcher, path, PERSISTENT);
            }
            WatchKind::PersistentRecursive => self.data.add(watcher, path, RECURSIVE),
        }
    }

    /// The watchers that are to be told of the event, each once, in the order of their ids; their standard watches are gone.
    pub fn trigger(&mut self, event: &Event) -> BTreeSet<WatcherId> {
        let mut told = BTreeSet::new();
        match event.kind {
            EventKind::Created | EventKind::DataChanged => self.data.trigger(&event.path, &mut told),
            EventKind::ChildrenChanged => self.child.trigger(&event.path, &mut told),
            EventKind::Deleted => {
                self.data.trigger(&event.path, &mut told);
                self.child.trigger(&event.path, &mut told);
            }
        }
        told
    }

    /// Sets the watches of a client that has come back and has seen everything up to `seen_zxid`. What it missed is returned, to be told at once, in
    /// the order of the lists; those watches are not set. `stat` is the tree's.
    pub fn set_watches(&mut self, watcher: WatcherId, watched: &Watched, seen_zxid: i64, stat: impl Fn(&str) -> Option<Stat>) -> Vec<(String, EventKind)> {
        let mut missed = Vec::new();
        for path in &watched.data {
            match stat(path) {
                None => missed.push((path.clone(), EventKind::Deleted)),
                Some(stat) if stat.mzxid > seen_zxid => missed.push((path.clone(), EventKind::DataChanged)),
                Some(_) => self.add(watcher, path, WatchKind::Data),
            }
        }
        for path in &watched.exist {
            match stat(path) {
                Some(_) => missed.push((path.clone(), EventKind::Created)),
                None => self.add(watcher, path, WatchKind::Data),
            }
        }
        for path in &watched.child {
            match stat(path) {
                None => missed.push((path.clone(), EventKind::Deleted)),
                Some(stat) if stat.pzxid > seen_zxid => missed.push((path.clone(), EventKind::ChildrenChanged)),
                Some(_) => self.add(watcher, path, WatchKind::Child),
            }
        }
        for path in &watched.persistent {
            self.add(watcher, path, WatchKind::Persistent);
        }
        for path in &watched.persistent_recursive {
            self.add(watcher, path, WatchKind::PersistentRecursive);
        }
        missed
    }

    /// Whether the watcher has such a watch.
    pub fn contains(&self, watcher: WatcherId, path: &str, which: WatchType) -> bool {
        let (data, child) = (self.data.modes(watcher, path), self.child.modes(watcher, path));
        match which {
            WatchType::Children => child & STANDARD != 0,
            WatchType::Data => data & STANDARD != 0,
            WatchType::Persistent => data & PERSISTENT != 0,
            WatchType::PersistentRecursive => data & RECURSIVE != 0,
            WatchType::Any => data | child != 0,
        }
    }

    /// Removes such watches; whether there were any.
    pub fn remove(&mut self, watcher: WatcherId, path: &str, which: WatchType) -> bool {
        let (data, child) = match which {
            WatchType::Children => (0, STANDARD),
            WatchType::Data => (STANDARD, 0),
            WatchType::Persistent => (PERSISTENT, PERSISTENT),
            WatchType::PersistentRecursive => (RECURSIVE, 0),
            WatchType::Any => (ANY, ANY),
        };
        let from_data = self.data.remove(watcher, path, data);
        let from_child = self.child.remove(watcher, path, child);
        from_data || from_child
    }

    /// Removes all watches of a watcher.
    pub fn remove_watcher(&mut self, watcher: WatcherId) {
        self.data.remove_watcher(watcher);
        self.child.remove_watcher(watcher);
    }

    /// How many there are.
    pub fn summary(&self) -> Summary {
        Summary {
            watcher_count: self.data.by_watcher.len() + self.child.by_watcher.len(),
            path_count: self.data.by_path.len() + self.child.by_path.len(),
            watch_count: self.data.count() + self.child.count(),
        }
    }

    /// Who watches which path, by path, in order.
    pub fn by_path(&self) -> BTreeMap<Arc<str>, BTreeSet<WatcherId>> {
        let mut all: BTreeMap<Arc<str>, BTreeSet<WatcherId>> = BTreeMap::new();
        for (path, watchers) in self.data.by_path.iter().chain(&self.child.by_path) {
            all.entry(path.clone()).or_default().extend(watchers.keys());
        }
        all
    }

    /// Who watches which path, by watcher, in order.
    pub fn by_watcher(&self) -> BTreeMap<WatcherId, BTreeSet<Arc<str>>> {
        let mut all: BTreeMap<WatcherId, BTreeSet<Arc<str>>> = BTreeMap::new();
        for (watcher, paths) in self.data.by_watcher.iter().chain(&self.child.by_watcher) {
            all.entry(*watcher).or_default().extend(paths.iter().cloned());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn event(path: &str, kind: EventKind) -> Event {
        Event { path: path.into(), kind, acl: None }
    }

    fn told(watches: &mut Watches, path: &str, kind: EventKind) -> Vec<WatcherId> {
        watches.trigger(&event(path, kind)).into_iter().collect()
    }

    #[test]
    fn standard_watches_fire_once_and_for_their_own_kind_of_change() {
        let mut watches = Watches::default();
        watches.add(1, "/a", WatchKind::Data);
        watches.add(2, "/a", WatchKind::Child);
        assert_eq!(told(&mut watches, "/a", EventKind::ChildrenChanged), [2]);
        assert_eq!(told(&mut watches, "/a", EventKind::ChildrenChanged), [0; 0]);
        assert_eq!(told(&mut watches, "/a", EventKind::DataChanged), [1]);
        assert_eq!(told(&mut watches, "/a", EventKind::DataChanged), [0; 0]);
        assert_eq!(watches.summary(), Summary { watcher_count: 0, path_count: 0, watch_count: 0 });
    }

    #[test]
    fn a_deletion_is_told_once_to_who_watches_content_and_children() {
        let mut watches = Watches::default();
        watches.add(1, "/a", WatchKind::Data);
        watches.add(1, "/a", WatchKind::Child);
        watches.add(2, "/a", WatchKind::Child);
        assert_eq!(told(&mut watches, "/a", EventKind::Deleted), [1, 2]);
        assert_eq!(told(&mut watches, "/a", EventKind::Deleted), [0; 0]);
    }

    #[test]
    fn persistent_watches_stay_and_recursive_ones_reach_down_but_tell_no_children_sets() {
        let mut watches = Watches::default();
        watches.add(1, "/a", WatchKind::Persistent);
        watches.add(2, "/a", WatchKind::PersistentRecursive);
        watches.add(3, "/", WatchKind::PersistentRecursive);
        for _ in 0..2 {
            assert_eq!(told(&mut watches, "/a", EventKind::DataChanged), [1, 2, 3]);
            assert_eq!(told(&mut watches, "/a", EventKind::ChildrenChanged), [1]);
            assert_eq!(told(&mut watches, "/a/b/c", EventKind::Created), [2, 3]);
            assert_eq!(told(&mut watches, "/ab", EventKind::Created), [3]);
        }
        assert!(watches.remove(2, "/a", WatchType::PersistentRecursive) && !watches.remove(2, "/a", WatchType::Any));
        assert_eq!(told(&mut watches, "/a/b", EventKind::Created), [3]);
        watches.remove_watcher(3);
        watches.remove_watcher(1);
        assert_eq!(watches.summary().watch_count, 0);
        assert_eq!(watches.data.recursive_count, 0);
    }

    #[test]
    fn a_standard_watch_beside_a_persistent_one_goes_alone() {
        let mut watches = Watches::default();
        watches.add(1, "/a", WatchKind::Persistent);
        watches.add(1, "/a", WatchKind::Data);
        assert!(watches.contains(1, "/a", WatchType::Data));
        assert_eq!(told(&mut watches, "/a", EventKind::DataChanged), [1]);
        assert!(!watches.contains(1, "/a", WatchType::Data) && watches.contains(1, "/a", WatchType::Persistent));
        assert!(!watches.remove(1, "/a", WatchType::Data) && watches.remove(1, "/a", WatchType::Any));
        assert!(!watches.contains(1, "/a", WatchType::Any));
    }

    #[test]
    fn who_comes_back_is_told_what_it_missed() {
        let mut watches = Watches::default();
        let stat = |path: &str| match path {
            "/new" => Some(Stat { mzxid: 9, pzxid: 9, ..Stat::default() }),
            "/old" => Some(Stat { mzxid: 5, pzxid: 5, ..Stat::default() }),
            _ => None,
        };
        let paths = || vec!["/new".to_owned(), "/old".to_owned(), "/gone".to_owned()];
        let watched = Watched { data: paths(), exist: paths(), child: paths(), persistent: vec!["/p".into()], persistent_recursive: vec!["/r".into()] };
        let missed = watches.set_watches(7, &watched, 5, stat);
        let expected = [
            ("/new", EventKind::DataChanged),
            ("/gone", EventKind::Deleted),
            ("/new", EventKind::Created),
            ("/old", EventKind::Created),
            ("/new", EventKind::ChildrenChanged),
            ("/gone", EventKind::Deleted),
        ];
        assert_eq!(missed, expected.map(|(path, kind)| (path.to_owned(), kind)));
        assert!(watches.contains(7, "/old", WatchType::Data) && watches.contains(7, "/gone", WatchType::Data));
        assert!(watches.contains(7, "/old", WatchType::Children) && !watches.contains(7, "/new", WatchType::Any));
        assert!(watches.contains(7, "/p", WatchType::Persistent) && watches.contains(7, "/r", WatchType::PersistentRecursive));
    }

    fn any_path() -> impl Strategy<Value = String> {
        prop::sample::select(vec!["/", "/a", "/a/b", "/a/b/c", "/b"]).prop_map(str::to_owned)
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(WatcherId, String, WatchKind),
        Remove(WatcherId, String, WatchType),
        Gone(WatcherId),
        Change(String, EventKind),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let kinds = vec![WatchKind::Data, WatchKind::Child, WatchKind::Persistent, WatchKind::PersistentRecursive];
        let types = vec![WatchType::Any, WatchType::Children, WatchType::Data, WatchType::Persistent, WatchType::PersistentRecursive];
        let events = vec![EventKind::Created, EventKind::Deleted, EventKind::DataChanged, EventKind::ChildrenChanged];
        prop_oneof![
            4 => (1..4u64, any_path(), prop::sample::select(kinds)).prop_map(|(watcher, path, kind)| Step::Add(watcher, path, kind)),
            1 => (1..4u64, any_path(), prop::sample::select(types)).prop_map(|(watcher, path, which)| Step::Remove(watcher, path, which)),
            1 => (1..4u64).prop_map(Step::Gone),
            4 => (any_path(), prop::sample::select(events)).prop_map(|(path, kind)| Step::Change(path, kind)),
        ]
    }

    proptest! {
        /// Against a list of single watches, searched from end to end.
        #[test]
        fn watches_do_as_a_flat_list(steps in prop::collection::vec(any_step(), 1..80)) {
            let mut watches = Watches::default();
            let mut list: Vec<(WatcherId, String, WatchKind)> = Vec::new();
            for step in steps {
                match step {
                    Step::Add(watcher, path, kind) => {
                        watches.add(watcher, &path, kind);
                        if !list.contains(&(watcher, path.clone(), kind)) {
                            list.push((watcher, path, kind));
                        }
                    }
                    Step::Remove(watcher, path, which) => {
                        let meant = |kind: WatchKind| match which {
                            WatchType::Any => true,
                            WatchType::Children => kind == WatchKind::Child,
                            WatchType::Data => kind == WatchKind::Data,
                            WatchType::Persistent => kind == WatchKind::Persistent,
                            WatchType::PersistentRecursive => kind == WatchKind::PersistentRecursive,
                        };
                        let before = list.len();
                        list.retain(|(other, at, kind)| !(*other == watcher && *at == path && meant(*kind)));
                        prop_assert_eq!(watches.remove(watcher, &path, which), list.len() < before);
                    }
                    Step::Gone(watcher) => {
                        watches.remove_watcher(watcher);
                        list.retain(|(other, ..)| *other != watcher);
                    }
                    Step::Change(path, kind) => {
                        let below = |at: &str| at == path || at == "/" || path.starts_with(&format!("{at}/"));
                        let meets = |at: &str, watch: WatchKind| match watch {
                            WatchKind::Data => at == path && kind != EventKind::ChildrenChanged,
                            WatchKind::Child => at == path && matches!(kind, EventKind::ChildrenChanged | EventKind::Deleted),
                            WatchKind::Persistent => at == path,
                            WatchKind::PersistentRecursive => below(at) && kind != EventKind::ChildrenChanged,
                        };
                        let expected: BTreeSet<_> = list.iter().filter(|(_, at, watch)| meets(at, *watch)).map(|(watcher, ..)| *watcher).collect();
                        list.retain(|(_, at, watch)| !(meets(at, *watch) && matches!(watch, WatchKind::Data | WatchKind::Child)));
                        prop_assert_eq!(watches.trigger(&event(&path, kind)), expected);
                    }
                }
                prop_assert_eq!(watches.data.recursive_count, list.iter().filter(|(_, _, kind)| *kind == WatchKind::PersistentRecursive).count());
            }
        }
    }
}
