//! What a partition remembers of each producer id, so that a batch sent twice is stored once (KIP-98): epoch, and the last five batches
//! with their sequences and offsets. Pure: checks and changes; nothing is read or written here.
//!
//! Differences to Kafka, each to the client's good: all five batches survive a restart (Kafka's snapshot keeps the last one; see
//! [`producer_snapshot`](super::producer_snapshot)), and a producer expires by when it last wrote, not by the timestamps in its records.

use std::collections::BTreeMap;

use smallvec::SmallVec;
use thiserror::Error;

use crate::record::batch::{Header, NO_SEQUENCE, NO_TIMESTAMP, add_sequence};

/// Batches remembered per producer: what a Java or C producer may have in flight.
pub const BATCHES_REMEMBERED: usize = 5;
/// Producer epoch of a producer that is not known.
pub const NO_PRODUCER_EPOCH: i16 = -1;

/// A batch that was appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMetadata {
    /// Sequence of its last record.
    pub last_sequence: i32,
    /// Offset of its last record.
    pub last_offset: i64,
    /// Last offset minus first.
    pub offset_delta: i32,
    /// Its greatest timestamp.
    pub timestamp: i64,
}

impl BatchMetadata {
    /// What a stored batch is remembered by.
    pub fn of(header: &Header) -> Self {
        Self {
            last_sequence: header.last_sequence(),
            last_offset: header.last_offset(),
            offset_delta: header.last_offset_delta,
            timestamp: header.max_timestamp,
        }
    }

    /// Sequence of its first record.
    pub fn first_sequence(&self) -> i32 {
        add_sequence(self.last_sequence, -self.offset_delta)
    }

    /// Offset of its first record.
    pub fn first_offset(&self) -> i64 {
        self.last_offset - i64::from(self.offset_delta)
    }
}

/// A producer, as one partition knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its newest epoch.
    pub epoch: i16,
    /// Epoch of the transaction coordinator that wrote its last marker; −1 before.
    pub coordinator_epoch: i32,
    /// Greatest timestamp of its last batch.
    pub last_timestamp: i64,
    /// First offset of its open transaction.
    pub current_txn_first_offset: Option<i64>,
    /// Its last batches, oldest first, at most [`BATCHES_REMEMBERED`].
    pub batches: SmallVec<[BatchMetadata; 1]>,
    /// When it last wrote, by this broker's clock, in ms since 1970; the time of loading after a restart.
    pub last_seen_ms: i64,
}

impl ProducerEntry {
    /// Sequence of the last record, −1 without batches.
    pub fn last_sequence(&self) -> i32 {
        self.batches.last().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    /// An entry that equals another in everything that the log determines: all but when it was seen.
    pub fn same_state(&self, other: &Self) -> bool {
        Self { last_seen_ms: 0, ..self.clone() } == Self { last_seen_ms: 0, ..other.clone() }
    }
}

/// Why a batch cannot follow what its producer sent before.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SequenceError {
    /// The sequence is not the next one.
    #[error("out of order sequence number for producer {producer_id}: {sequence} (incoming seq. number), {last_sequence} (current end sequence number)")]
    OutOfOrder {
        /// The producer.
        producer_id: i64,
        /// What came.
        sequence: i32,
        /// The last one stored; −1 if a new epoch begins, which must begin with 0.
        last_sequence: i32,
    },
    /// The producer was fenced by a newer instance of itself.
    #[error("epoch of producer {producer_id} is {epoch}, which is smaller than the last seen epoch {current_epoch}")]
    InvalidEpoch {
        /// The producer.
        producer_id: i64,
        /// What came.
        epoch: i16,
        /// The newest.
        current_epoch: i16,
    },
    /// A batch without transaction while the producer has one open.
    #[error("expected a transactional write from producer {producer_id}, whose transaction began at offset {first_offset}")]
    InvalidTransactionState {
        /// The producer.
        producer_id: i64,
        /// Where its transaction began.
        first_offset: i64,
    },
}

/// How a batch relates to what its producer sent before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is new.
    New,
    /// It was stored before.
    Duplicate(BatchMetadata),
}

/// A transaction marker (a control batch), decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTransaction {
    /// Epoch of the coordinator that wrote it.
    pub coordinator_epoch: i32,
    /// Timestamp of the marker's record.
    pub timestamp: i64,
    /// Whether the transaction was committed, else aborted.
    pub committed: bool,
}

/// All producers of a partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: BTreeMap<i64, ProducerEntry>,
}

impl ProducerStates {
    /// Checks a batch from a client against what the partition remembers. `header` needs no offsets. Changes nothing.
    ///
    /// `remembered` is how many batches count as a memory ([`BATCHES_REMEMBERED`]).
    ///
    /// # Errors
    /// If the batch must be refused.
    pub fn check(&self, header: &Header, remembered: usize) -> Result<Verdict, SequenceError> {
        debug_assert!(header.has_producer_id());
        let (producer_id, epoch, sequence) = (header.producer_id, header.producer_epoch, header.base_sequence);
        // Without an entry any sequence is welcome: what came before may have been expired or deleted (KIP-360).
        let Some(entry) = self.producers.get(&producer_id) else { return Ok(Verdict::New) };
        if epoch < entry.epoch {
            return Err(SequenceError::InvalidEpoch { producer_id, epoch, current_epoch: entry.epoch });
        }
        if let Some(first_offset) = entry.current_txn_first_offset.filter(|_| !header.is_transactional()) {
            return Err(SequenceError::InvalidTransactionState { producer_id, first_offset });
        }
        if epoch > entry.epoch {
            return if sequence == 0 { Ok(Verdict::New) } else { Err(SequenceError::OutOfOrder { producer_id, sequence, last_sequence: NO_SEQUENCE }) };
        }
        let last_sequence = header.last_sequence();
        let known = entry.batches.iter().rev().take(remembered);
        if let Some(batch) = known.copied().find(|batch| batch.first_sequence() == sequence && batch.last_sequence == last_sequence) {
            return Ok(Verdict::Duplicate(batch));
        }
        // An entry without batches knows a marker only; the first sequence of an epoch is 0.
        if sequence == add_sequence(entry.last_sequence(), 1) {
            Ok(Verdict::New)
        } else {
            Err(SequenceError::OutOfOrder { producer_id, sequence, last_sequence: entry.last_sequence() })
        }
    }

    /// Takes note of a batch that was stored, with its offsets. Unchecked: it is in the log, so it is true.
    pub fn update(&mut self, header: &Header, now_ms: i64) {
        debug_assert!(header.has_producer_id() && !header.is_control());
        let entry = self.entry(header.producer_id);
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        if entry.batches.len() >= BATCHES_REMEMBERED {
            entry.batches.remove(0);
        }
        entry.batches.push(BatchMetadata::of(header));
        entry.last_timestamp = header.max_timestamp;
        entry.last_seen_ms = now_ms;
        if header.is_transactional() && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(header.base_offset);
        }
    }

    /// Takes note of a transaction marker that was stored.
    pub fn end_transaction(&mut self, header: &Header, marker: EndTransaction, now_ms: i64) {
        let entry = self.entry(header.producer_id);
        if entry.epoch != header.producer_epoch {
            entry.epoch = header.producer_epoch;
            entry.batches.clear();
        }
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = marker.timestamp;
        entry.current_txn_first_offset = None;
        entry.last_seen_ms = now_ms;
    }

    /// Forgets producers that have written nothing for `expiration_ms`, except those with an open transaction. Returns how many.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers.retain(|_, entry| entry.current_txn_first_offset.is_some() || now_ms.saturating_sub(entry.last_seen_ms) < expiration_ms);
        before - self.producers.len()
    }

    /// One producer.
    pub fn get(&self, producer_id: i64) -> Option<&ProducerEntry> {
        self.producers.get(&producer_id)
    }

    /// All, by producer id.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (i64, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.producers.clear();
    }

    /// A copy of some producers.
    pub(super) fn only(&self, producer_ids: impl Iterator<Item = i64>) -> Self {
        Self { producers: producer_ids.filter_map(|id| Some((id, self.producers.get(&id)?.clone()))).collect() }
    }

    /// Puts an entry as loaded from a snapshot.
    pub(super) fn insert(&mut self, producer_id: i64, entry: ProducerEntry) {
        self.producers.insert(producer_id, entry);
    }

    /// Whether two states agree in all that the log determines.
    pub fn same_state(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().zip(other.iter()).all(|(mine, theirs)| mine.0 == theirs.0 && mine.1.same_state(theirs.1))
    }

    fn entry(&mut self, producer_id: i64) -> &mut ProducerEntry {
        self.producers.entry(producer_id).or_insert_with(|| ProducerEntry {
            epoch: NO_PRODUCER_EPOCH,
            coordinator_epoch: -1,
            last_timestamp: NO_TIMESTAMP,
            current_txn_first_offset: None,
            batches: SmallVec::new(),
            last_seen_ms: 0,
        })
    }
}

/// Decodes the marker in a control batch: the first record's key is version i16 and type i16 (0 abort, 1 commit), its value version i16 and
/// coordinator epoch i32. `None` for control batches that are no transaction markers, or damaged ones. `batch` is the whole batch.
pub fn parse_end_transaction(header: &Header, batch: &[u8]) -> Option<EndTransaction> {
    if header.codec() != 0 {
        return None;
    }
    let mut rest = batch.get(crate::record::batch::HEADER_BYTES..)?;
    let _length = varlong(&mut rest)?;
    let (_attributes, after) = rest.split_first()?;
    rest = after;
    let timestamp_delta = varlong(&mut rest)?;
    let _offset_delta = varlong(&mut rest)?;
    let key_bytes = usize::try_from(varlong(&mut rest)?).ok()?;
    let (key, after) = rest.split_at_checked(key_bytes)?;
    rest = after;
    let kind = i16::from_be_bytes(*key.get(2..)?.first_chunk()?);
    let value_bytes = usize::try_from(varlong(&mut rest)?).ok()?;
    let value = rest.get(..value_bytes)?;
    let coordinator_epoch = i32::from_be_bytes(*value.get(2..)?.first_chunk()?);
    matches!(kind, 0 | 1).then_some(EndTransaction {
        coordinator_epoch,
        timestamp: header.base_timestamp.saturating_add(timestamp_delta),
        committed: kind == 1,
    })
}

/// A zigzag variable-length number.
fn varlong(bytes: &mut &[u8]) -> Option<i64> {
    let mut value: u64 = 0;
    for shift in (0..70).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f).checked_shl(shift)?;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn batch(producer_id: i64, epoch: i16, sequence: i32, count: i32, base_offset: i64) -> Header {
        Header {
            base_offset,
            length: 100,
            partition_leader_epoch: 0,
            crc: 0,
            attributes: 0,
            last_offset_delta: count - 1,
            base_timestamp: 5,
            max_timestamp: 6,
            producer_id,
            producer_epoch: epoch,
            base_sequence: sequence,
            record_count: count,
        }
    }

    #[test]
    fn the_last_five_batches_are_duplicates() {
        let mut states = ProducerStates::default();
        for number in 0..7 {
            let header = batch(1, 0, number * 10, 10, i64::from(number) * 10);
            assert_eq!(states.check(&header, BATCHES_REMEMBERED), Ok(Verdict::New));
            states.update(&header, 0);
        }
        for number in 2..7 {
            match states.check(&batch(1, 0, number * 10, 10, 0), BATCHES_REMEMBERED) {
                Ok(Verdict::Duplicate(found)) => assert_eq!(found.first_offset(), i64::from(number) * 10),
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(states.check(&batch(1, 0, 10, 10, 0), BATCHES_REMEMBERED), Err(SequenceError::OutOfOrder { last_sequence: 69, .. })));
        assert!(matches!(states.check(&batch(1, 0, 60, 9, 0), BATCHES_REMEMBERED), Err(SequenceError::OutOfOrder { .. })), "another count is another batch");
        assert!(matches!(states.check(&batch(1, 0, 50, 10, 0), 1), Err(SequenceError::OutOfOrder { .. })), "a window of one");
    }

    #[test]
    fn sequences_wrap() {
        let mut states = ProducerStates::default();
        let header = batch(1, 0, i32::MAX - 4, 10, 0);
        assert_eq!((header.last_sequence(), BatchMetadata::of(&header).first_sequence()), (4, i32::MAX - 4));
        states.update(&header, 0);
        assert!(matches!(states.check(&header, BATCHES_REMEMBERED), Ok(Verdict::Duplicate(_))));
        assert_eq!(states.check(&batch(1, 0, 5, 1, 0), BATCHES_REMEMBERED), Ok(Verdict::New));
        states.update(&batch(1, 0, 5, i32::MAX - 4, 10), 0);
        assert_eq!(states.get(1).unwrap().last_sequence(), i32::MAX);
        assert_eq!(states.check(&batch(1, 0, 0, 1, 0), BATCHES_REMEMBERED), Ok(Verdict::New));
    }

    #[test]
    fn a_new_epoch_begins_at_zero_and_fences_the_old() {
        let mut states = ProducerStates::default();
        states.update(&batch(1, 3, 0, 10, 0), 0);
        assert!(matches!(states.check(&batch(1, 4, 10, 1, 0), 5), Err(SequenceError::OutOfOrder { last_sequence: -1, .. })));
        assert_eq!(states.check(&batch(1, 4, 0, 10, 0), 5), Ok(Verdict::New), "not a duplicate of the same sequence in the older epoch");
        states.update(&batch(1, 4, 0, 10, 10), 0);
        assert!(matches!(states.check(&batch(1, 3, 10, 1, 0), 5), Err(SequenceError::InvalidEpoch { current_epoch: 4, .. })));
        assert_eq!(states.get(1).unwrap().batches.len(), 1);
        assert_eq!(states.check(&batch(2, 0, 77, 1, 0), 5), Ok(Verdict::New), "an unknown producer may begin anywhere");
    }

    #[test]
    fn idle_producers_expire() {
        let mut states = ProducerStates::default();
        states.update(&batch(1, 0, 0, 1, 0), 1000);
        let mut transactional = batch(2, 0, 0, 1, 1);
        transactional.attributes = 0x10;
        states.update(&transactional, 1000);
        assert_eq!(states.expire(1999, 1000), 0);
        assert_eq!(states.expire(2000, 1000), 1);
        assert!(matches!(states.check(&batch(2, 0, 1, 1, 0), 5), Err(SequenceError::InvalidTransactionState { first_offset: 1, .. })));
    }

    #[test]
    fn a_marker_ends_the_transaction() {
        let mut states = ProducerStates::default();
        let mut data = batch(9, 0, 0, 1, 4);
        data.attributes = 0x10;
        states.update(&data, 0);
        let mut marker = batch(9, 0, -1, 1, 5);
        marker.attributes = 0x30;
        let mut bytes = vec![0; crate::record::batch::HEADER_BYTES];
        bytes.extend_from_slice(&[32, 0, 4, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 42, 0]);
        let end = parse_end_transaction(&marker, &bytes).unwrap();
        assert_eq!(end, EndTransaction { coordinator_epoch: 42, timestamp: 7, committed: true });
        states.end_transaction(&marker, end, 0);
        let entry = states.get(9).unwrap();
        assert_eq!((entry.current_txn_first_offset, entry.coordinator_epoch, entry.batches.len()), (None, 42, 1));
        for cut in 0..bytes.len() {
            let _ = parse_end_transaction(&marker, &bytes[..cut]);
        }
    }

    proptest! {
        /// The model keeps the whole history of one producer and answers by definition.
        #[test]
        fn agrees_with_the_whole_history(steps in proptest::collection::vec((0i16..3, -3i32..8, 1i32..4), 1..60)) {
            let mut states = ProducerStates::default();
            let mut history: VecDeque<(i16, i32, i32, i64)> = VecDeque::new();
            let (mut next_sequence, mut current, mut offset) = (0i32, 0i16, 0i64);
            for (epoch_step, back, count) in steps {
                let epoch = current + (epoch_step == 2) as i16 - (epoch_step == 1 && back < 0) as i16;
                let sequence = if epoch > current { 0.max(-back - 1) } else { (next_sequence - back).max(0) };
                let header = batch(1, epoch, sequence, count, offset);
                let expected = if history.is_empty() {
                    Ok(None)
                } else if epoch < current {
                    Err(())
                } else if epoch > current {
                    if sequence == 0 { Ok(None) } else { Err(()) }
                } else if let Some(found) = history.iter().rev().take(5).find(|known| known.0 == epoch && known.1 == sequence && known.2 == count) {
                    Ok(Some(found.3))
                } else if sequence == next_sequence {
                    Ok(None)
                } else {
                    Err(())
                };
                let got = states.check(&header, BATCHES_REMEMBERED);
                match (expected, got) {
                    (Ok(None), Ok(Verdict::New)) => {
                        states.update(&header, 0);
                        history.push_back((epoch, sequence, count, offset));
                        (current, next_sequence, offset) = (epoch, sequence + count, offset + i64::from(count));
                    }
                    (Ok(Some(base)), Ok(Verdict::Duplicate(found))) => prop_assert_eq!(found.first_offset(), base),
                    (Err(()), Err(_)) => {}
                    (expected, got) => prop_assert!(false, "{:?} {:?}", expected, got),
                }
            }
        }
    }
}
