//! Producer snapshots (`.snapshot`): the producers as they were before an offset, which names the file. Kafka's format, version 1:
//!
//! ```text
//! version i16 = 1 | crc u32 (CRC-32C of all that follows) | count i32 | count times:
//! producer id i64 | epoch i16 | last sequence i32 | last offset i64 | offset delta i32 | timestamp i64 | coordinator epoch i32 | txn first offset i64
//! ```
//!
//! Kafka keeps only the last batch of each producer. Behind the entries, where Kafka's reader checks the CRC but looks no further, we add
//! the older ones of the five that duplicates are recognised by:
//!
//! ```text
//! "OTTL" | version i16 = 1 | count i32 | count times: producer id i64 | batches u8 | batches times, oldest first:
//! last sequence i32 | last offset i64 | offset delta i32 | timestamp i64
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use smallvec::SmallVec;
use thiserror::Error;

use super::producer_state::{BATCHES_REMEMBERED, BatchMetadata, ProducerEntry, ProducerStates};

const VERSION: i16 = 1;
const ENTRY_BYTES: usize = 46;
const BATCH_BYTES: usize = 24;
const EXTENSION_MAGIC: &[u8; 4] = b"OTTL";
const EXTENSION_VERSION: i16 = 1;

/// Why bytes are not a producer snapshot.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SnapshotError {
    /// It ends early, or a count is negative or too great.
    #[error("the producer snapshot is cut short")]
    Truncated,
    /// A version other than 1.
    #[error("the producer snapshot has version {version}; expected 1")]
    BadVersion {
        /// The field.
        version: i16,
    },
    /// The checksum does not match.
    #[error("the producer snapshot's CRC-32C is {computed:#010x}, it says {stored:#010x}")]
    BadCrc {
        /// From the file.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
}

/// The content of a snapshot file.
pub fn encode(states: &ProducerStates) -> Bytes {
    let mut bytes = BytesMut::with_capacity(10 + states.len() * ENTRY_BYTES);
    bytes.put_i16(VERSION);
    bytes.put_u32(0);
    bytes.put_i32(i32::try_from(states.len()).expect("fewer than 2^31 producers"));
    let mut older_count = 0;
    for (producer_id, entry) in states.iter() {
        let last = entry.batches.last().copied().unwrap_or(BatchMetadata { last_sequence: -1, last_offset: -1, offset_delta: 0, timestamp: -1 });
        bytes.put_i64(producer_id);
        bytes.put_i16(entry.epoch);
        bytes.put_i32(last.last_sequence);
        bytes.put_i64(last.last_offset);
        bytes.put_i32(last.offset_delta);
        bytes.put_i64(entry.last_timestamp);
        bytes.put_i32(entry.coordinator_epoch);
        bytes.put_i64(entry.current_txn_first_offset.unwrap_or(-1));
        older_count += i32::from(entry.batches.len() > 1);
    }
    if older_count > 0 {
        bytes.put_slice(EXTENSION_MAGIC);
        bytes.put_i16(EXTENSION_VERSION);
        bytes.put_i32(older_count);
        for (producer_id, entry) in states.iter() {
            let Some((_, older @ [_, ..])) = entry.batches.split_last() else { continue };
            bytes.put_i64(producer_id);
            bytes.put_u8(older.len() as u8);
            for batch in older {
                bytes.put_i32(batch.last_sequence);
                bytes.put_i64(batch.last_offset);
                bytes.put_i32(batch.offset_delta);
                bytes.put_i64(batch.timestamp);
            }
        }
    }
    let crc = crc32c::crc32c(&bytes[6..]);
    bytes[2..6].copy_from_slice(&crc.to_be_bytes());
    bytes.freeze()
}

/// Reads a snapshot file; `now_ms` is when its producers count as seen. An extension of another version is passed over.
///
/// # Errors
/// If it is damaged. Nothing of it is to be used then.
pub fn parse(content: &[u8], now_ms: i64) -> Result<ProducerStates, SnapshotError> {
    let mut rest = content;
    if rest.remaining() < 10 {
        return Err(SnapshotError::Truncated);
    }
    let version = rest.get_i16();
    if version != VERSION {
        return Err(SnapshotError::BadVersion { version });
    }
    let (stored, computed) = (rest.get_u32(), crc32c::crc32c(&content[6..]));
    if stored != computed {
        return Err(SnapshotError::BadCrc { stored, computed });
    }
    let count = usize::try_from(rest.get_i32()).map_err(|_| SnapshotError::Truncated)?;
    if rest.remaining() / ENTRY_BYTES < count {
        return Err(SnapshotError::Truncated);
    }
    let mut states = ProducerStates::default();
    for _ in 0..count {
        let (producer_id, epoch) = (rest.get_i64(), rest.get_i16());
        let (last_sequence, last_offset, offset_delta, timestamp) = (rest.get_i32(), rest.get_i64(), rest.get_i32(), rest.get_i64());
        let (coordinator_epoch, txn_first_offset) = (rest.get_i32(), rest.get_i64());
        let mut batches = SmallVec::new();
        if last_offset >= 0 {
            batches.push(BatchMetadata { last_sequence, last_offset, offset_delta, timestamp });
        }
        states.insert(
            producer_id,
            ProducerEntry {
                epoch,
                coordinator_epoch,
                last_timestamp: timestamp,
                current_txn_first_offset: (txn_first_offset >= 0).then_some(txn_first_offset),
                batches,
                last_seen_ms: now_ms,
            },
        );
    }
    if rest.remaining() >= 10 && rest.starts_with(EXTENSION_MAGIC) {
        rest.advance(4);
        if rest.get_i16() == EXTENSION_VERSION {
            parse_older_batches(&mut rest, &mut states)?;
        }
    }
    Ok(states)
}

/// Reads the extension behind its version.
fn parse_older_batches(rest: &mut &[u8], states: &mut ProducerStates) -> Result<(), SnapshotError> {
    for _ in 0..rest.get_i32() {
        if rest.remaining() < 9 {
            return Err(SnapshotError::Truncated);
        }
        let (producer_id, older) = (rest.get_i64(), usize::from(rest.get_u8()));
        if older >= BATCHES_REMEMBERED || rest.remaining() < older * BATCH_BYTES {
            return Err(SnapshotError::Truncated);
        }
        let mut batches: SmallVec<[BatchMetadata; 1]> = (0..older)
            .map(|_| BatchMetadata { last_sequence: rest.get_i32(), last_offset: rest.get_i64(), offset_delta: rest.get_i32(), timestamp: rest.get_i64() })
            .collect();
        if let Some(entry) = states.get(producer_id) {
            batches.extend_from_slice(&entry.batches);
            let entry = ProducerEntry { batches, ..entry.clone() };
            states.insert(producer_id, entry);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn states() -> impl Strategy<Value = ProducerStates> {
        let batch = (0..i32::MAX, 0..i64::MAX, 0i32..1000, -1i64..1 << 40).prop_map(|(last_sequence, last_offset, offset_delta, timestamp)| BatchMetadata {
            last_sequence,
            last_offset,
            offset_delta,
            timestamp,
        });
        let entry = (0i16..100, -1i32..5, proptest::option::of(0i64..100), proptest::collection::vec(batch, 0..=BATCHES_REMEMBERED), -1i64..1 << 40);
        let entry = entry.prop_map(|(epoch, coordinator_epoch, current_txn_first_offset, batches, marker_timestamp)| ProducerEntry {
            epoch,
            coordinator_epoch,
            // Kafka's format has one timestamp for the entry and its last batch.
            last_timestamp: batches.last().map_or(marker_timestamp, |batch| batch.timestamp),
            current_txn_first_offset,
            batches: batches.into(),
            last_seen_ms: 77,
        });
        proptest::collection::btree_map(0i64..1000, entry, 0..20).prop_map(|entries| {
            let mut states = ProducerStates::default();
            entries.into_iter().for_each(|(id, entry)| states.insert(id, entry));
            states
        })
    }

    proptest! {
        #[test]
        fn round_trips(states in states()) {
            prop_assert_eq!(parse(&encode(&states), 77).unwrap(), states);
        }

        #[test]
        fn damage_is_noticed(states in states(), at: proptest::sample::Index, bit in 0u8..8, cut: proptest::sample::Index) {
            let bytes = encode(&states);
            let mut flipped = bytes.to_vec();
            flipped[at.index(bytes.len())] ^= 1 << bit;
            prop_assert!(parse(&flipped, 0).is_err());
            prop_assert!(parse(&bytes[..cut.index(bytes.len())], 0).is_err());
        }
    }

    #[test]
    fn the_empty_snapshot_is_kafkas() {
        let crc = crc32c::crc32c(&[0; 4]).to_be_bytes();
        assert_eq!(encode(&ProducerStates::default())[..], [&[0, 1][..], &crc, &[0; 4]].concat());
    }
}
