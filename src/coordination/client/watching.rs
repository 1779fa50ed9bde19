//! Which watches a client has set, so that it can set them again over another connection, and who is told of an event. Pure.
//!
//! The rules are ZooKeeper's (`ZKWatchManager`): a standard watch is gone when it has fired, and a server sends one event to a connection however many of its
//! watches it meets.

use std::collections::{BTreeMap, BTreeSet};

use crate::coordination::op::EventKind;
use crate::coordination::path;
use crate::coordination::watch::{WatchKind, Watched};

/// Whoever is told: a [`Watcher`](super::Watcher) of the client.
pub(super) type WatcherId = u64;

/// Which watch a request sets if it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    /// Of a znode that is there: its content and its end.
    Data,
    /// Of a znode that is not there: its beginning.
    Exist,
    /// Of the set of children.
    Child,
    /// Of the znode and its children, until removed.
    Persistent,
    /// Of the znode and all below it, until removed.
    PersistentRecursive,
}

impl Slot {
    /// The watch that a request of this kind sets, if its znode is there or not.
    pub(super) fn of(kind: WatchKind, is_there: bool) -> Self {
        match kind {
            WatchKind::Data if is_there => Self::Data,
            WatchKind::Data => Self::Exist,
            WatchKind::Child => Self::Child,
            WatchKind::Persistent => Self::Persistent,
            WatchKind::PersistentRecursive => Self::PersistentRecursive,
        }
    }

    fn fires(self, kind: EventKind) -> bool {
        match self {
            Self::Data | Self::Exist => kind != EventKind::ChildrenChanged,
            Self::Child => matches!(kind, EventKind::ChildrenChanged | EventKind::Deleted),
            Self::Persistent => true,
            Self::PersistentRecursive => kind != EventKind::ChildrenChanged,
        }
    }

    fn is_standard(self) -> bool {
        matches!(self, Self::Data | Self::Exist | Self::Child)
    }
}

/// All watches of a client. Paths are the server's.
#[derive(Debug, Default)]
pub(super) struct WatchTable {
    by_path: BTreeMap<String, BTreeMap<Slot, BTreeSet<WatcherId>>>,
}

impl WatchTable {
    /// A watch was set.
    pub(super) fn add(&mut self, path: &str, slot: Slot, watcher: WatcherId) {
        self.by_path.entry(path.to_owned()).or_default().entry(slot).or_default().insert(watcher);
    }

    /// An event came: who is told. Standard watches that it fires are gone.
    pub(super) fn fire(&mut self, path: &str, kind: EventKind) -> BTreeSet<WatcherId> {
        let mut told = BTreeSet::new();
        if let Some(slots) = self.by_path.get_mut(path) {
            slots.retain(|slot, watchers| {
                if !slot.fires(kind) {
                    return true;
                }
                told.extend(watchers.iter().copied());
                !slot.is_standard()
            });
            if slots.is_empty() {
                self.by_path.remove(path);
            }
        }
        let mut at = path;
        while kind != EventKind::ChildrenChanged
            && let Some((parent, _)) = path::split(at)
        {
            if let Some(watchers) = self.by_path.get(parent).and_then(|slots| slots.get(&Slot::PersistentRecursive)) {
                told.extend(watchers.iter().copied());
            }
            at = parent;
        }
        told
    }

    /// A watcher has gone. Its watches at the server stay until they fire, and nobody is told.
    pub(super) fn forget(&mut self, watcher: WatcherId) {
        self.by_path.retain(|_, slots| {
            slots.retain(|_, watchers| {
                watchers.remove(&watcher);
                !watchers.is_empty()
            });
            !slots.is_empty()
        });
    }

    /// All watches, in portions of about `max_bytes` of paths at most: each is set again by a request of its own.
    pub(super) fn portions(&self, max_bytes: usize) -> Vec<Watched> {
        let mut portions = Vec::new();
        let (mut portion, mut bytes) = (Watched::default(), 0);
        for (path, slots) in &self.by_path {
            for slot in slots.keys() {
                if bytes > 0 && bytes + path.len() > max_bytes {
                    portions.push(std::mem::take(&mut portion));
                    bytes = 0;
                }
                bytes += path.len() + 4;
                let list = match slot {
                    Slot::Data => &mut portion.data,
                    Slot::Exist => &mut portion.exist,
                    Slot::Child => &mut portion.child,
                    Slot::Persistent => &mut portion.persistent,
                    Slot::PersistentRecursive => &mut portion.persistent_recursive,
                };
                list.push(path.clone());
            }
        }
        if bytes > 0 {
            portions.push(portion);
        }
        portions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(table: &mut WatchTable, path: &str, kind: EventKind) -> Vec<WatcherId> {
        table.fire(path, kind).into_iter().collect()
    }

    #[test]
    fn standard_watches_fire_once_for_their_own_changes() {
        let mut table = WatchTable::default();
        table.add("/a", Slot::Data, 1);
        table.add("/a", Slot::Child, 2);
        table.add("/b", Slot::Exist, 3);
        assert_eq!(told(&mut table, "/a", EventKind::ChildrenChanged), [2]);
        assert_eq!(told(&mut table, "/a", EventKind::ChildrenChanged), [0; 0]);
        assert_eq!(told(&mut table, "/a", EventKind::DataChanged), [1]);
        assert_eq!(told(&mut table, "/b", EventKind::Created), [3]);
        assert!(table.portions(1_000).is_empty());
        table.add("/a", Slot::Data, 1);
        table.add("/a", Slot::Child, 1);
        assert_eq!(told(&mut table, "/a", EventKind::Deleted), [1]);
        assert!(table.portions(1_000).is_empty());
    }

    #[test]
    fn persistent_watches_stay_and_recursive_ones_see_below() {
        let mut table = WatchTable::default();
        table.add("/", Slot::PersistentRecursive, 1);
        table.add("/a", Slot::Persistent, 2);
        for _ in 0..2 {
            assert_eq!(told(&mut table, "/a", EventKind::DataChanged), [1, 2]);
            assert_eq!(told(&mut table, "/a", EventKind::ChildrenChanged), [2]);
            assert_eq!(told(&mut table, "/a/b", EventKind::Created), [1]);
        }
        table.forget(1);
        assert_eq!(told(&mut table, "/a/b", EventKind::Created), [0; 0]);
        assert_eq!(table.portions(1_000).len(), 1);
    }

    #[test]
    fn many_watches_are_set_again_in_portions() {
        let mut table = WatchTable::default();
        for at in 0..100 {
            table.add(&format!("/path-{at:03}"), Slot::Data, 1);
            table.add(&format!("/path-{at:03}"), Slot::Exist, 1);
        }
        let portions = table.portions(200);
        assert!(portions.len() > 10, "{}", portions.len());
        let sum = |list: fn(&Watched) -> usize| portions.iter().map(list).sum::<usize>();
        assert_eq!((sum(|watched| watched.data.len()), sum(|watched| watched.exist.len())), (100, 100));
    }
}
