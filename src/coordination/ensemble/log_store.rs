//! The log in memory: what Raft's library reads. The driver makes it durable; this only follows.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState as RaftConfState, Entry as RaftEntry, HardState as RaftHardState, Snapshot};
use raft::{Error, GetEntriesContext, RaftState, Result, StorageError};

/// The entries after a point of compaction, the membership, and how far the state is.
pub(super) struct LogStore {
    /// The entry before the first, by index and term.
    base: (u64, u64),
    entries: VecDeque<RaftEntry>,
    hard_state: RaftHardState,
    conf_state: RaftConfState,
    /// The last applied entry, by index and term: what a snapshot taken now would stand for.
    applied: (u64, u64),
}

impl LogStore {
    pub(super) fn new(base: (u64, u64), entries: VecDeque<RaftEntry>, hard_state: RaftHardState, conf_state: RaftConfState) -> Self {
        Self { base, entries, hard_state, conf_state, applied: base }
    }

    pub(super) fn first(&self) -> u64 {
        self.base.0 + 1
    }

    pub(super) fn last(&self) -> u64 {
        self.base.0 + self.entries.len() as u64
    }

    fn entry(&self, index: u64) -> Option<&RaftEntry> {
        self.entries.get(usize::try_from(index.checked_sub(self.first())?).ok()?)
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.0 { Some(self.base.1) } else { self.entry(index).map(|entry| entry.term) }
    }

    /// Adds entries; what they conflict with goes.
    pub(super) fn append(&mut self, entries: &[RaftEntry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0 && first.index <= self.last() + 1, "entry {} does not follow {}", first.index, self.last());
        self.entries.truncate((first.index - self.first()) as usize);
        self.entries.extend(entries.iter().cloned());
    }

    pub(super) fn install(&mut self, index: u64, term: u64, conf_state: RaftConfState) {
        self.base = (index, term);
        self.entries.clear();
        self.conf_state = conf_state;
    }

    pub(super) fn set_conf_state(&mut self, conf_state: RaftConfState) {
        self.conf_state = conf_state;
    }

    pub(super) fn set_applied(&mut self, index: u64) {
        let term = self.term_at(index).unwrap_or(self.applied.1);
        self.applied = (index, term);
    }

    pub(super) fn compact(&mut self, index: u64) {
        let index = index.min(self.applied.0).min(self.last());
        let Some(term) = self.term_at(index).filter(|_| index > self.base.0) else { return };
        self.entries.drain(..(index - self.base.0) as usize);
        self.base = (index, term);
    }
}

impl raft::Storage for LogStore {
    fn initial_state(&self) -> Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(&self, low: u64, high: u64, max_size: impl Into<Option<u64>>, _: GetEntriesContext) -> Result<Vec<RaftEntry>> {
        if low < self.first() {
            return Err(Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(Error::Store(StorageError::Unavailable));
        }
        let max_bytes = max_size.into().unwrap_or(u64::MAX);
        let mut bytes = 0u64;
        let range = (low - self.first()) as usize..(high - self.first()) as usize;
        let fits = |entry: &&RaftEntry| {
            let is_first = bytes == 0;
            bytes = bytes.saturating_add(entry.data.len() as u64 + 24);
            is_first || bytes <= max_bytes
        };
        Ok(self.entries.range(range).take_while(fits).cloned().collect())
    }

    fn term(&self, index: u64) -> Result<u64> {
        if index < self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        self.term_at(index).ok_or(Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> Result<u64> {
        Ok(self.first())
    }

    fn last_index(&self) -> Result<u64> {
        Ok(self.last())
    }

    /// The content is added by the driver, from the state as it is when the message goes.
    fn snapshot(&self, request_index: u64, _to: u64) -> Result<Snapshot> {
        if self.applied.0 < request_index.max(1) {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = self.applied;
        metadata.set_conf_state(self.conf_state.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use raft::Storage;

    fn entry(index: u64, term: u64) -> RaftEntry {
        RaftEntry { index, term, ..RaftEntry::default() }
    }

    #[test]
    fn a_conflicting_suffix_is_replaced_and_the_applied_prefix_compacted() {
        let mut store = LogStore::new((0, 0), VecDeque::new(), RaftHardState::default(), RaftConfState::default());
        store.append(&[entry(1, 1), entry(2, 1), entry(3, 3)]);
        store.append(&[entry(3, 2)]);
        assert_eq!((store.last(), store.term(3).unwrap()), (3, 2));
        store.set_applied(2);
        store.compact(3);
        assert_eq!((store.first(), store.term(2).unwrap()), (3, 1));
        assert_eq!(store.entries(2, 4, None, GetEntriesContext::empty(false)), Err(Error::Store(StorageError::Compacted)));
        assert_eq!(store.entries(3, 4, Some(0), GetEntriesContext::empty(false)).unwrap().len(), 1);
        assert_eq!(store.snapshot(0, 9).unwrap().get_metadata().index, 2);
        assert!(store.snapshot(3, 9).is_err());
    }
}
