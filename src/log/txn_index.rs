//! The index of aborted transactions (`.txnindex`): which records of a segment's reach a reader of committed records must leave out
//! (KIP-98). Kafka's format: entries of 34 bytes, big-endian, in the order of the markers:
//!
//! ```text
//! version i16 = 0 | producer id i64 | first offset i64 | last offset i64 (the marker's) | last stable offset i64 (after the marker)
//! ```
//!
//! An entry is in the index of the segment that holds the marker. Pure: [`recovery`](super::recovery) reads and completes the files.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 34;
const VERSION: i16 = 0;

/// A transaction that was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbortedTransaction {
    /// Whose.
    pub producer_id: i64,
    /// Its first record.
    pub first_offset: i64,
    /// Its marker.
    pub last_offset: i64,
    /// Below this everything was decided when the marker was written.
    pub last_stable_offset: i64,
}

/// Reads a file's content: its longest prefix of entries whose markers are in order. The second value tells whether that was everything.
pub fn parse(content: &[u8]) -> (Vec<AbortedTransaction>, bool) {
    let mut entries: Vec<AbortedTransaction> = Vec::with_capacity(content.len() / ENTRY_BYTES);
    let mut rest = content;
    while rest.len() >= ENTRY_BYTES {
        let version = rest.get_i16();
        let entry =
            AbortedTransaction { producer_id: rest.get_i64(), first_offset: rest.get_i64(), last_offset: rest.get_i64(), last_stable_offset: rest.get_i64() };
        let ordered = entries.last().is_none_or(|last| entry.last_offset > last.last_offset);
        if version != VERSION || !ordered || entry.first_offset < 0 || entry.first_offset > entry.last_offset {
            return (entries, false);
        }
        entries.push(entry);
    }
    (entries, rest.is_empty())
}

/// The content of a file with these entries.
pub fn encode<'a>(entries: impl Iterator<Item = &'a AbortedTransaction>) -> Bytes {
    let mut bytes = BytesMut::new();
    for entry in entries {
        bytes.put_i16(VERSION);
        for number in [entry.producer_id, entry.first_offset, entry.last_offset, entry.last_stable_offset] {
            bytes.put_i64(number);
        }
    }
    bytes.freeze()
}

/// The entries, which are in order, that a reader of the records from `from_offset` to before `up_to_offset` must know.
pub fn overlapping(entries: &[AbortedTransaction], from_offset: i64, up_to_offset: i64) -> Vec<AbortedTransaction> {
    let start = entries.partition_point(|entry| entry.last_offset < from_offset);
    let mut found = Vec::new();
    for entry in &entries[start..] {
        if entry.first_offset < up_to_offset {
            found.push(*entry);
        }
        // No transaction that ends later began below this.
        if entry.last_stable_offset >= up_to_offset {
            break;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_kafkas() {
        let entry = AbortedTransaction { producer_id: 1, first_offset: 2, last_offset: 3, last_stable_offset: 4 };
        let content = encode([entry].iter());
        let numbers = [[0; 7], [0; 7], [0; 7], [0; 7]];
        let expected: Vec<u8> = [0, 0].into_iter().chain(numbers.iter().zip(1..).flat_map(|(zeros, number)| zeros.iter().copied().chain([number]))).collect();
        assert_eq!(content, expected);
        assert_eq!(parse(&content), (vec![entry], true));
        assert_eq!(parse(&content[..33]), (vec![], false));
        let mut other = content.to_vec();
        other[1] = 1;
        assert_eq!(parse(&other), (vec![], false));
        assert_eq!(parse(&[content.clone(), content].concat()), (vec![entry], false), "markers go forward");
    }

    proptest! {
        /// Transactions of a few producers, one open at a time each; the entries as a broker writes them.
        #[test]
        fn finds_what_a_look_at_all_finds(steps in proptest::collection::vec((0i64..4, any::<bool>()), 0..80), from in 0i64..90, length in 1i64..90) {
            let mut open: std::collections::BTreeMap<i64, i64> = Default::default();
            let mut entries = Vec::new();
            for (offset, (producer_id, ends)) in (0..).zip(&steps) {
                match open.get(producer_id).copied() {
                    Some(first_offset) if *ends => {
                        open.remove(producer_id);
                        let last_stable_offset = open.values().min().copied().unwrap_or(offset + 1);
                        entries.push(AbortedTransaction { producer_id: *producer_id, first_offset, last_offset: offset, last_stable_offset });
                    }
                    Some(_) => {}
                    None => drop(open.insert(*producer_id, offset)),
                }
            }
            prop_assert_eq!(parse(&encode(entries.iter())), (entries.clone(), true));
            let expected: Vec<_> = entries.iter().filter(|entry| entry.last_offset >= from && entry.first_offset < from + length).copied().collect();
            prop_assert_eq!(overlapping(&entries, from, from + length), expected);
        }
    }
}
