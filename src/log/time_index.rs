//! The time index (`.timeindex`): from timestamp to offset, in Kafka's format: entries of 12 bytes, big-endian: the greatest timestamp of
//! the segment so far (i64, ms), and the last offset, relative to the segment's base, of the first batch that has it (i32). Entries are
//! added together with those of the offset index, and once more when the segment is rolled, and only if the timestamp grew. Pure.

use bytes::{BufMut, Bytes, BytesMut};

use crate::record::batch::NO_TIMESTAMP;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 12;

/// A timestamp and an offset that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeEntry {
    /// Milliseconds since 1970; −1 if there is none.
    pub timestamp: i64,
    /// Absolute offset of the last record of the batch that has it.
    pub offset: i64,
}

/// The time index of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeIndex {
    base_offset: i64,
    /// (timestamp, relative offset): timestamps strictly increase, offsets do not decrease.
    entries: Vec<(i64, u32)>,
}

impl TimeIndex {
    /// An empty index.
    pub fn new(base_offset: i64) -> Self {
        Self { base_offset, entries: Vec::new() }
    }

    /// Reads a file's content: its longest prefix of entries in order with offsets below `next_offset`. The second value tells whether
    /// that was everything but zeros.
    pub fn parse(base_offset: i64, bytes: &[u8], next_offset: i64) -> (Self, bool) {
        let mut index = Self::new(base_offset);
        let mut rest = bytes;
        while let Some((entry, after)) = rest.split_first_chunk::<ENTRY_BYTES>() {
            let [t0, t1, t2, t3, t4, t5, t6, t7, o0, o1, o2, o3] = *entry;
            let (timestamp, relative) = (i64::from_be_bytes([t0, t1, t2, t3, t4, t5, t6, t7]), u32::from_be_bytes([o0, o1, o2, o3]));
            let ordered = index.entries.last().is_none_or(|last| timestamp > last.0 && relative >= last.1);
            let plausible = timestamp >= 0 && relative <= i32::MAX as u32 && base_offset.saturating_add(i64::from(relative)) < next_offset;
            // A preallocated tail is zeros, and so is a legitimate first entry (timestamp 0 at the base offset): more zeros tell.
            if !ordered || !plausible || (index.entries.is_empty() && super::names::all_zero(rest) && rest.len() > ENTRY_BYTES) {
                break;
            }
            index.entries.push((timestamp, relative));
            rest = after;
        }
        let whole = super::names::all_zero(rest);
        (index, whole)
    }

    /// The entries from number `first_entry` on as the file holds them.
    pub fn encode(&self, first_entry: usize) -> Bytes {
        let entries = self.entries.get(first_entry..).unwrap_or(&[]);
        let mut bytes = BytesMut::with_capacity(entries.len() * ENTRY_BYTES);
        for (timestamp, relative) in entries {
            bytes.put_i64(*timestamp);
            bytes.put_u32(*relative);
        }
        bytes.freeze()
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a file of at most `max_bytes` has room for no more than the entry that the roll adds.
    pub fn is_full(&self, max_bytes: u64) -> bool {
        self.entries.len() as u64 + 1 >= max_bytes / ENTRY_BYTES as u64
    }

    /// Adds an entry if the timestamp is greater than the last one.
    ///
    /// # Panics
    /// If the offset goes back: the greatest timestamp so far never moves to an earlier batch.
    pub fn append(&mut self, timestamp: i64, offset: i64) {
        let relative = u32::try_from(offset - self.base_offset).expect("an offset of this segment");
        let last = self.last();
        assert!(self.entries.is_empty() || timestamp < last.timestamp || offset >= last.offset, "time index entry {offset} before {last:?}");
        if timestamp > last.timestamp {
            self.entries.push((timestamp, relative));
        }
    }

    /// The last entry whose timestamp is at most `timestamp`: no batch before it has a greater one. Without one, the base offset.
    pub fn lookup(&self, timestamp: i64) -> TimeEntry {
        let after = self.entries.partition_point(|entry| entry.0 <= timestamp);
        self.entry_before(after)
    }

    /// The newest entry, or timestamp −1 at the base offset.
    pub fn last(&self) -> TimeEntry {
        self.entry_before(self.entries.len())
    }

    /// Forgets batches that end at or after `offset`.
    pub fn truncate_to_offset(&mut self, offset: i64) {
        let keep = self.entries.partition_point(|entry| self.base_offset + i64::from(entry.1) < offset);
        self.entries.truncate(keep);
    }

    /// The entry before number `after`.
    fn entry_before(&self, after: usize) -> TimeEntry {
        match after.checked_sub(1).map(|at| self.entries[at]) {
            Some((timestamp, relative)) => TimeEntry { timestamp, offset: self.base_offset + i64::from(relative) },
            None => TimeEntry { timestamp: NO_TIMESTAMP, offset: self.base_offset },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_list_of_records_high(steps in proptest::collection::vec((1u32..50, 0i64..10_000), 0..60), base in 0i64..1 << 40, asked in -5i64..10_000, cut in 0i64..3000) {
            let mut index = TimeIndex::new(base);
            let mut model: Vec<TimeEntry> = Vec::new();
            let (mut offset, mut max) = (base, TimeEntry { timestamp: -1, offset: base });
            for (count, timestamp) in steps {
                offset += i64::from(count);
                if timestamp > max.timestamp {
                    max = TimeEntry { timestamp, offset };
                }
                index.append(max.timestamp, max.offset);
                if model.last() != Some(&max) {
                    model.push(max);
                }
            }
            let none = TimeEntry { timestamp: -1, offset: base };
            prop_assert_eq!(index.lookup(asked), model.iter().rfind(|entry| entry.timestamp <= asked).copied().unwrap_or(none));
            let (read, whole) = TimeIndex::parse(base, &index.encode(0), i64::MAX);
            prop_assert!(whole);
            prop_assert_eq!(&read, &index);
            index.truncate_to_offset(base + cut);
            model.retain(|entry| entry.offset < base + cut);
            prop_assert_eq!(index.last(), model.last().copied().unwrap_or(none));
        }
    }

    #[test]
    fn the_format_is_kafkas() {
        let mut index = TimeIndex::new(1000);
        index.append(5, 1007);
        index.append(5, 1009);
        assert_eq!(&index.encode(0)[..], &[0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 7]);
        assert!(TimeIndex::parse(1000, &[0; 24], i64::MAX).0.is_empty(), "a preallocated file");
        assert!(!TimeIndex::parse(1000, &index.encode(0), 1007).1, "an entry behind the log's end");
    }

    #[test]
    fn one_entry_is_kept_for_the_roll() {
        let mut index = TimeIndex::new(0);
        index.append(1, 1);
        assert!(index.is_full(24) && !index.is_full(36));
    }
}
