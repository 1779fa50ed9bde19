//! Which leader epoch starts at which offset (KIP-101, KIP-279): what followers and consumers truncate by. Pure; stored as text in
//! `leader-epoch-checkpoint`, which recovery completes from the batches behind the last checkpoint.

use thiserror::Error;

/// An epoch and the offset of its first record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochStart {
    /// The leader epoch.
    pub epoch: i32,
    /// Where it starts.
    pub start_offset: i64,
}

/// Epochs in order; both epoch and start offset strictly increase.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EpochCache {
    entries: Vec<EpochStart>,
}

/// What [`EpochCache::end_offset_for`] answers if it knows nothing.
pub const UNDEFINED_EPOCH: i32 = -1;
/// What [`EpochCache::end_offset_for`] answers if it knows nothing.
pub const UNDEFINED_EPOCH_OFFSET: i64 = -1;

/// Why a file is not a leader epoch checkpoint.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum EpochFileError {
    /// It is not Kafka's checkpoint format.
    #[error(transparent)]
    Checkpoint(#[from] super::checkpoint::CheckpointError),
    /// Epochs or offsets that do not increase.
    #[error("leader epoch {epoch} at offset {start_offset} does not follow the entry before it")]
    NotIncreasing {
        /// The epoch.
        epoch: i32,
        /// Its start.
        start_offset: i64,
    },
}

impl EpochCache {
    /// Reads a `leader-epoch-checkpoint`.
    ///
    /// # Errors
    /// If the text is not one.
    pub fn parse(text: &str) -> Result<Self, EpochFileError> {
        let mut cache = Self::default();
        for [epoch, start_offset] in super::checkpoint::parse_numbers::<2>(text)? {
            let epoch = i32::try_from(epoch).unwrap_or(-1);
            let follows = cache.entries.last().is_none_or(|last| epoch > last.epoch && start_offset > last.start_offset);
            if !follows || epoch < 0 || start_offset < 0 {
                return Err(EpochFileError::NotIncreasing { epoch, start_offset });
            }
            cache.entries.push(EpochStart { epoch, start_offset });
        }
        Ok(cache)
    }

    /// The text of a `leader-epoch-checkpoint`.
    pub fn encode(&self) -> String {
        super::checkpoint::encode(self.entries.iter().map(|entry| format!("{} {}", entry.epoch, entry.start_offset)))
    }

    /// All entries, oldest first.
    pub fn entries(&self) -> &[EpochStart] {
        &self.entries
    }

    /// The newest epoch.
    pub fn latest_epoch(&self) -> Option<i32> {
        self.entries.last().map(|entry| entry.epoch)
    }

    /// The oldest entry.
    pub fn earliest(&self) -> Option<EpochStart> {
        self.entries.first().copied()
    }

    /// Notes that `epoch` starts at `start_offset`, unless it is the newest epoch already and started no later. Entries of the same or
    /// later epochs or offsets go: an epoch without records leaves no trace. Returns whether anything changed.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) -> bool {
        assert!(epoch >= 0 && start_offset >= 0, "leader epoch {epoch} at offset {start_offset}");
        if self.entries.last().is_some_and(|last| last.epoch == epoch && start_offset >= last.start_offset) {
            return false;
        }
        let keep = self.entries.iter().rposition(|entry| entry.epoch < epoch && entry.start_offset < start_offset).map_or(0, |at| at + 1);
        self.entries.truncate(keep);
        self.entries.push(EpochStart { epoch, start_offset });
        true
    }

    /// The epoch to truncate by, for a replica or consumer whose last epoch is `epoch` (KIP-279): the greatest known epoch that is not
    /// greater, and the offset at which the next one starts; `log_end_offset` for the newest epoch. For an epoch below all known ones:
    /// that epoch and the start of the oldest known. For one above all known ones or for −1: (−1, −1).
    pub fn end_offset_for(&self, epoch: i32, log_end_offset: i64) -> (i32, i64) {
        if epoch == UNDEFINED_EPOCH {
            return (UNDEFINED_EPOCH, UNDEFINED_EPOCH_OFFSET);
        }
        if self.latest_epoch() == Some(epoch) {
            return (epoch, log_end_offset);
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= epoch);
        match (self.entries.get(higher), higher.checked_sub(1)) {
            (None, _) => (UNDEFINED_EPOCH, UNDEFINED_EPOCH_OFFSET),
            (Some(next), None) => (epoch, next.start_offset),
            (Some(next), Some(floor)) => (self.entries[floor].epoch, next.start_offset),
        }
    }

    /// The epoch of the record at `offset`.
    pub fn epoch_for_offset(&self, offset: i64) -> Option<i32> {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).map(|at| self.entries[at].epoch)
    }

    /// Forgets epochs that start at or after `end_offset`. Returns whether anything changed.
    pub fn truncate_from_end(&mut self, end_offset: i64) -> bool {
        let keep = self.entries.partition_point(|entry| entry.start_offset < end_offset);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    /// Forgets epochs that end at or before `start_offset`; the one that goes on across it then starts there. Returns whether anything
    /// changed.
    pub fn truncate_from_start(&mut self, start_offset: i64) -> bool {
        let after = self.entries.partition_point(|entry| entry.start_offset <= start_offset);
        let Some(last) = after.checked_sub(1) else { return false };
        let changed = last > 0 || self.entries[last].start_offset != start_offset;
        self.entries.drain(..last);
        self.entries[0].start_offset = start_offset;
        changed
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::default();
        for (epoch, start_offset) in entries {
            cache.assign(*epoch, *start_offset);
        }
        cache
    }

    #[test]
    fn end_offsets_as_kip_279_defines_them() {
        let cache = cache(&[(2, 10), (4, 20), (7, 30)]);
        assert_eq!(cache.end_offset_for(7, 35), (7, 35));
        assert_eq!(cache.end_offset_for(6, 35), (4, 30));
        assert_eq!(cache.end_offset_for(4, 35), (4, 30));
        assert_eq!(cache.end_offset_for(3, 35), (2, 20));
        assert_eq!(cache.end_offset_for(1, 35), (1, 10));
        assert_eq!(cache.end_offset_for(8, 35), (-1, -1));
        assert_eq!(cache.end_offset_for(-1, 35), (-1, -1));
        assert_eq!(EpochCache::default().end_offset_for(0, 0), (-1, -1));
    }

    #[test]
    fn an_epoch_without_records_is_replaced() {
        let mut cache = cache(&[(1, 0), (2, 10)]);
        assert!(cache.assign(3, 10));
        assert_eq!(cache.entries(), &[EpochStart { epoch: 1, start_offset: 0 }, EpochStart { epoch: 3, start_offset: 10 }]);
        assert!(!cache.assign(3, 12));
        assert!(cache.truncate_from_start(5));
        assert_eq!(cache.earliest(), Some(EpochStart { epoch: 1, start_offset: 5 }));
        assert!(cache.truncate_from_start(11) && !cache.truncate_from_start(11));
        assert_eq!(cache.entries(), &[EpochStart { epoch: 3, start_offset: 11 }]);
    }

    #[test]
    fn the_file_is_kafkas() {
        assert_eq!(cache(&[(0, 0), (5, 42)]).encode(), "0\n2\n0 0\n5 42\n");
        assert!(EpochCache::parse("0\n2\n5 42\n4 50\n").is_err());
        assert!(EpochCache::parse("0\n1\n99999999999 1\n").is_err());
    }

    proptest! {
        /// The model is the epoch of every record.
        #[test]
        fn agrees_with_the_epochs_of_all_records(groups in proptest::collection::vec((1i32..4, 0usize..5), 0..12), end in 0i64..40, start in 0i64..40) {
            let mut cache = EpochCache::default();
            let (mut epoch, mut records) = (0, Vec::new());
            for (step, count) in groups {
                epoch += step;
                cache.assign(epoch, records.len() as i64);
                records.extend(std::iter::repeat_n(epoch, count));
            }
            cache.truncate_from_end(records.len() as i64);
            for (offset, epoch) in records.iter().enumerate() {
                prop_assert_eq!(cache.epoch_for_offset(offset as i64), Some(*epoch));
            }
            for asked in 0..epoch + 2 {
                let (found, end_offset) = cache.end_offset_for(asked, records.len() as i64);
                if end_offset >= 0 {
                    prop_assert_eq!(end_offset, records.iter().filter(|epoch| **epoch <= asked).count() as i64);
                    prop_assert!(found <= asked);
                }
            }
            prop_assert_eq!(&EpochCache::parse(&cache.encode()).unwrap(), &cache);
            let end = end.min(records.len() as i64);
            let start = start.min(end);
            cache.truncate_from_end(end);
            cache.truncate_from_start(start);
            for offset in start..end {
                prop_assert_eq!(cache.epoch_for_offset(offset), Some(records[offset as usize]));
            }
            prop_assert_eq!(cache.epoch_for_offset(start - 1), None);
        }
    }
}
