//! A batch on its way: its records, its sequence, and whether some attempt may have written it.

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::client::error::ClientError;
use crate::client::producer::{Outcome, ProducerRecord};
use crate::record::{BatchBuilder, Codec};
use crate::runtime::Instant;

/// A record that waits for its outcome.
pub(crate) struct Queued {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(Bytes, Option<Bytes>)>,
    pub(crate) timestamp_ms: i64,
    pub(crate) size_bytes: usize,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Outcome>,
    pub(crate) _permit: OwnedSemaphorePermit,
}

/// The most that a record takes in a batch: its fields, and its varints at their longest.
pub(crate) fn record_bytes(record: &ProducerRecord) -> usize {
    let bytes = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
    let headers: usize = record.headers.iter().map(|(name, value)| 10 + name.len() + bytes(value)).sum();
    36 + bytes(&record.key) + bytes(&record.value) + headers
}

/// The place of a batch in its producer's sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sequence {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
    pub(crate) first: i32,
}

/// Records of one partition that are sent together.
pub(crate) struct Batch {
    pub(crate) records: Vec<Queued>,
    pub(crate) size_bytes: usize,
    /// Given when it is first sent.
    pub(crate) sequence: Option<Sequence>,
    /// Whether an attempt may have written it.
    pub(crate) maybe_written: bool,
    /// Attempts so far.
    pub(crate) attempts: u32,
    encoded: Option<Bytes>,
}

impl Batch {
    pub(crate) fn new(first: Queued) -> Self {
        let size_bytes = first.size_bytes;
        Self { records: vec![first], size_bytes, sequence: None, maybe_written: false, attempts: 0, encoded: None }
    }

    pub(crate) fn push(&mut self, record: Queued) {
        debug_assert!(self.attempts == 0, "a batch that was sent does not change");
        self.size_bytes += record.size_bytes;
        self.records.push(record);
    }

    pub(crate) fn record_count(&self) -> i32 {
        i32::try_from(self.records.len()).expect("a batch is smaller than its bytes")
    }

    /// When its first record must have an outcome.
    pub(crate) fn deadline(&self) -> Instant {
        self.records.iter().map(|record| record.deadline).min().expect("a batch has a record")
    }

    /// Gives it a new place, which makes other bytes of it.
    pub(crate) fn set_sequence(&mut self, sequence: Option<Sequence>) {
        self.sequence = sequence;
        self.encoded = None;
    }

    /// Its bytes, the same for every attempt.
    pub(crate) fn encode(&mut self, codec: Codec) -> Bytes {
        if let Some(encoded) = &self.encoded {
            return encoded.clone();
        }
        let mut builder = BatchBuilder::new().codec(codec);
        if let Some(sequence) = self.sequence {
            builder = builder.producer(sequence.producer_id, sequence.epoch, sequence.first);
        }
        for record in &self.records {
            builder.push(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), &record.headers);
        }
        let encoded = builder.build();
        self.encoded = Some(encoded.clone());
        encoded
    }

    /// Two halves in the place of one that is too large; `None` if it has one record.
    pub(crate) fn split(mut self) -> Result<(Self, Self), Self> {
        if self.records.len() < 2 {
            return Err(self);
        }
        let tail = self.records.split_off(self.records.len() / 2);
        let count = self.record_count();
        let second = self.sequence.map(|sequence| Sequence { first: crate::record::batch::add_sequence(sequence.first, count), ..sequence });
        let half = |records: Vec<Queued>, sequence| {
            let size_bytes = records.iter().map(|record| record.size_bytes).sum();
            Self { records, size_bytes, sequence, maybe_written: false, attempts: 0, encoded: None }
        };
        Ok((half(self.records, self.sequence), half(tail, second)))
    }

    pub(crate) fn acked(self, partition: i32, base_offset: i64) {
        for (index, record) in self.records.into_iter().enumerate() {
            let offset = if base_offset < 0 { -1 } else { base_offset + index as i64 };
            // Nobody waiting is no error.
            let _ = record.reply.send(Outcome::Acked { partition, offset });
        }
    }

    pub(crate) fn sent(self, partition: i32) {
        self.records.into_iter().for_each(|record| drop(record.reply.send(Outcome::Sent { partition })));
    }

    /// Ends it: refused if no attempt can have written it, unknown otherwise.
    pub(crate) fn failed(self, error: &ClientError) {
        for record in self.records {
            let outcome = if self.maybe_written { Outcome::Unknown(error.clone()) } else { Outcome::Refused(error.clone()) };
            let _ = record.reply.send(outcome);
        }
    }
}
