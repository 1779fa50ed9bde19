//! The offset index (`.index`): sparse, from offset to file position, in Kafka's format: entries of 8 bytes, big-endian: offset of a
//! batch's *last* record relative to the segment's base offset (i32), position of the batch's first byte (i32). Pure: entries are kept
//! in memory, read from and written to the file by [`segment`](super::segment).

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 8;

/// An entry: the batch at `position` ends with the record at `last_offset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Absolute offset of the batch's last record.
    pub last_offset: i64,
    /// Where the batch starts in the segment's file, in bytes.
    pub position: u64,
}

/// The offset index of one segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetIndex {
    base_offset: i64,
    /// (relative offset, position), both strictly increasing.
    entries: Vec<(u32, u32)>,
}

impl OffsetIndex {
    /// An empty index.
    pub fn new(base_offset: i64) -> Self {
        Self { base_offset, entries: Vec::new() }
    }

    /// Reads a file's content: its longest prefix of entries that increase in offset and position and lie below `log_size_bytes`.
    /// The second value tells whether that was everything but zeros (Kafka's unclean stop leaves a preallocated tail of zeros); if not,
    /// the file is damaged and the index is better rebuilt.
    pub fn parse(base_offset: i64, bytes: &[u8], log_size_bytes: u64) -> (Self, bool) {
        let mut index = Self::new(base_offset);
        let mut rest = bytes;
        while let Some((entry, after)) = rest.split_first_chunk::<ENTRY_BYTES>() {
            let [o0, o1, o2, o3, p0, p1, p2, p3] = *entry;
            let (relative, position) = (u32::from_be_bytes([o0, o1, o2, o3]), u32::from_be_bytes([p0, p1, p2, p3]));
            let ordered = index.entries.last().is_none_or(|last| relative > last.0 && position > last.1);
            let plausible = position > 0 && relative > 0 && relative <= i32::MAX as u32 && u64::from(position) < log_size_bytes;
            if !ordered || !plausible {
                break;
            }
            index.entries.push((relative, position));
            rest = after;
        }
        let whole = super::names::all_zero(rest);
        (index, whole)
    }

    /// The entries from number `first_entry` on as the file holds them.
    pub fn encode(&self, first_entry: usize) -> Bytes {
        let entries = self.entries.get(first_entry..).unwrap_or(&[]);
        let mut bytes = BytesMut::with_capacity(entries.len() * ENTRY_BYTES);
        for (relative, position) in entries {
            bytes.put_u32(*relative);
            bytes.put_u32(*position);
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

    /// Whether a file of at most `max_bytes` has no room for another entry (`segment.index.bytes`).
    pub fn is_full(&self, max_bytes: u64) -> bool {
        self.entries.len() as u64 >= max_bytes / ENTRY_BYTES as u64
    }

    /// Whether the offset fits the format: at most `i32::MAX` above the base.
    pub fn fits(&self, offset: i64) -> bool {
        (0..=i64::from(i32::MAX)).contains(&(offset - self.base_offset))
    }

    /// Adds an entry.
    ///
    /// # Panics
    /// If offset or position do not increase, or do not fit: the log checks both before it writes.
    pub fn append(&mut self, last_offset: i64, position: u64) {
        assert!(self.fits(last_offset), "offset {last_offset} does not fit the index of segment {}", self.base_offset);
        let entry = ((last_offset - self.base_offset) as u32, u32::try_from(position).expect("a segment is smaller than 4 GiB"));
        if let Some(last) = self.entries.last() {
            assert!(entry.0 > last.0 && entry.1 > last.1, "index entry {entry:?} does not follow {last:?}");
        }
        self.entries.push(entry);
    }

    /// The last entry whose offset is at most `offset`: reading for `offset` starts there, or at the segment's start if there is none.
    pub fn lookup(&self, offset: i64) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| self.base_offset + i64::from(entry.0) <= offset);
        after.checked_sub(1).map(|at| self.entry(at))
    }

    /// The last entry at or before `position` whose batch ends below `before_offset`.
    pub fn lookup_position(&self, position: u64, before_offset: i64) -> Option<IndexEntry> {
        let after = self.entries.partition_point(|entry| u64::from(entry.1) <= position && self.base_offset + i64::from(entry.0) < before_offset);
        after.checked_sub(1).map(|at| self.entry(at))
    }

    /// The newest entry.
    pub fn last(&self) -> Option<IndexEntry> {
        self.entries.len().checked_sub(1).map(|at| self.entry(at))
    }

    /// Forgets batches that start at or after `position`.
    pub fn truncate_to_position(&mut self, position: u64) {
        let keep = self.entries.partition_point(|entry| u64::from(entry.1) < position);
        self.entries.truncate(keep);
    }

    /// Memory that the entries take, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.entries.capacity() * ENTRY_BYTES
    }

    /// Entry number `at`.
    fn entry(&self, at: usize) -> IndexEntry {
        let (relative, position) = self.entries[at];
        IndexEntry { last_offset: self.base_offset + i64::from(relative), position: u64::from(position) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_sorted_list(steps in proptest::collection::vec((1u32..50, 1u32..9000), 0..60), base in 0i64..1 << 40, asked in 0i64..4000, cut in 0u64..300_000) {
            let mut index = OffsetIndex::new(base);
            let mut model = Vec::new();
            let (mut offset, mut position) = (base, 0u64);
            for (count, bytes) in steps {
                offset += i64::from(count);
                position += u64::from(bytes);
                index.append(offset, position);
                model.push(IndexEntry { last_offset: offset, position });
            }
            prop_assert_eq!(index.lookup(base + asked), model.iter().rfind(|entry| entry.last_offset <= base + asked).copied());
            prop_assert_eq!(
                index.lookup_position(cut, base + asked),
                model.iter().rfind(|entry| entry.position <= cut && entry.last_offset < base + asked).copied()
            );
            let (read, whole) = OffsetIndex::parse(base, &index.encode(0), u64::MAX);
            prop_assert!(whole);
            prop_assert_eq!(&read, &index);
            let mut padded = index.encode(0).to_vec();
            padded.extend_from_slice(&[0; 77]);
            let (read, whole) = OffsetIndex::parse(base, &padded, u64::MAX);
            prop_assert!(whole);
            prop_assert_eq!(&read, &index);
            index.truncate_to_position(cut);
            model.retain(|entry| entry.position < cut);
            prop_assert_eq!(index.last(), model.last().copied());
            prop_assert_eq!(index.len(), model.len());
        }

        #[test]
        fn any_bytes_parse_to_ordered_entries(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let (index, _) = OffsetIndex::parse(7, &bytes, 1 << 30);
            prop_assert!(index.entries.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        }
    }

    #[test]
    fn a_damaged_file_is_recognised() {
        let mut index = OffsetIndex::new(100);
        index.append(110, 5000);
        index.append(120, 10_000);
        let mut bytes = index.encode(0).to_vec();
        assert_eq!(&bytes[..8], &[0, 0, 0, 10, 0, 0, 0x13, 0x88]);
        assert!(!OffsetIndex::parse(100, &bytes, 9_000).1, "an entry behind the log's end");
        bytes[8] = 0x80;
        let (read, whole) = OffsetIndex::parse(100, &bytes, 1 << 20);
        assert_eq!((read.len(), whole), (1, false));
    }

    #[test]
    fn full_and_fitting() {
        let mut index = OffsetIndex::new(0);
        index.append(1, 1);
        assert!(index.is_full(15) && !index.is_full(16));
        assert!(index.fits(i64::from(i32::MAX)) && !index.fits(i64::from(i32::MAX) + 1) && !index.fits(-1));
    }
}
