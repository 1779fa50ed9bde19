//! Builds record batches of format v2: for internal topics, conversion, recompression, the client, and tests.

use bytes::{BufMut, Bytes, BytesMut};

use super::{
    batch::{HEADER_BYTES, LENGTH_OVERHEAD_BYTES, NO_PRODUCER_ID, NO_SEQUENCE, NO_TIMESTAMP},
    compression::{Codec, compress},
    varint::{put_varint, put_varlong, varlong_bytes},
};

/// A batch under construction. Base offset 0 and leader epoch −1 unless told, which is what a producer sends.
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    codec: Codec,
    level: Option<i32>,
    base_offset: i64,
    leader_epoch: i32,
    producer_id: i64,
    producer_epoch: i16,
    base_sequence: i32,
    attributes: i16,
    log_append_time_ms: Option<i64>,
    base_timestamp: Option<i64>,
    max_timestamp: i64,
    last_offset_delta: i32,
    count: i32,
    body: Vec<u8>,
}

impl Default for BatchBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl BatchBuilder {
    /// An empty batch, not compressed, of no producer.
    pub fn new() -> Self {
        Self {
            codec: Codec::None,
            level: None,
            base_offset: 0,
            leader_epoch: -1,
            producer_id: NO_PRODUCER_ID,
            producer_epoch: -1,
            base_sequence: NO_SEQUENCE,
            attributes: 0,
            log_append_time_ms: None,
            base_timestamp: None,
            max_timestamp: NO_TIMESTAMP,
            last_offset_delta: -1,
            count: 0,
            body: Vec::new(),
        }
    }

    /// Sets the compression codec.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = codec;
        self
    }

    /// Sets the codec's level; see [`compress`].
    pub fn level(mut self, level: Option<i32>) -> Self {
        self.level = level;
        self
    }

    /// Sets the offset of the first record.
    pub fn base_offset(mut self, base_offset: i64) -> Self {
        self.base_offset = base_offset;
        self
    }

    /// Sets the epoch of the leader that appends it.
    pub fn leader_epoch(mut self, leader_epoch: i32) -> Self {
        self.leader_epoch = leader_epoch;
        self
    }

    /// Sets the producer, its epoch, and the sequence of the first record (KIP-98).
    pub fn producer(mut self, producer_id: i64, producer_epoch: i16, base_sequence: i32) -> Self {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (producer_id, producer_epoch, base_sequence);
        self
    }

    /// Makes it part of a transaction.
    pub fn transactional(mut self) -> Self {
        self.attributes |= 0x10;
        self
    }

    /// Makes it a control batch: its records are transaction markers.
    pub fn control(mut self) -> Self {
        self.attributes |= 0x20;
        self
    }

    /// Gives all records the time of the append in place of their own.
    pub fn log_append_time(mut self, unix_ms: i64) -> Self {
        self.attributes |= 0x08;
        self.log_append_time_ms = Some(unix_ms);
        self
    }

    /// Adds a record after the last.
    ///
    /// # Panics
    /// As [`BatchBuilder::push_at`].
    pub fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(Bytes, Option<Bytes>)]) -> &mut Self {
        self.push_at(self.last_offset_delta + 1, timestamp, key, value, headers)
    }

    /// Adds a record at an offset from the base: compaction leaves gaps.
    ///
    /// # Panics
    /// If the offset is not after the last record's, or the record does not fit `i32::MAX` bytes.
    pub fn push_at(&mut self, offset_delta: i32, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &[(Bytes, Option<Bytes>)]) -> &mut Self {
        assert!(offset_delta > self.last_offset_delta, "offset delta {offset_delta} is not after {}", self.last_offset_delta);
        let timestamp_delta = timestamp.wrapping_sub(*self.base_timestamp.get_or_insert(timestamp));
        let nullable_bytes = |bytes: Option<&[u8]>| bytes.map_or(1, |bytes| varlong_bytes(bytes.len() as i64) + bytes.len());
        let headers_bytes: usize = headers.iter().map(|(key, value)| nullable_bytes(Some(key)) + nullable_bytes(value.as_deref())).sum();
        let length = 1
            + varlong_bytes(timestamp_delta)
            + varlong_bytes(i64::from(offset_delta))
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varlong_bytes(headers.len() as i64)
            + headers_bytes;
        let out = &mut self.body;
        out.reserve(length + 5);
        put_varint(out, i32::try_from(length).expect("a record fits i32::MAX bytes"));
        out.push(0);
        put_varlong(out, timestamp_delta);
        put_varint(out, offset_delta);
        put_nullable(out, key);
        put_nullable(out, value);
        put_varint(out, headers.len() as i32);
        for (key, value) in headers {
            put_nullable(out, Some(key));
            put_nullable(out, value.as_deref());
        }
        self.max_timestamp = self.max_timestamp.max(timestamp);
        self.last_offset_delta = offset_delta;
        self.count += 1;
        self
    }

    /// Records so far.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Whether there is none yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far, uncompressed, header included.
    pub fn size_bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    /// The batch, checksum and all. The builder is then empty again, with its settings.
    ///
    /// # Panics
    /// If there is no record (Kafka has no such batches from producers), or the batch does not fit `i32::MAX` bytes.
    pub fn build(&mut self) -> Bytes {
        assert!(self.count > 0, "a batch has at least one record");
        let body = if self.codec == Codec::None { std::mem::take(&mut self.body).into() } else { compress(self.codec, self.level, &self.body) };
        let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len());
        out.put_i64(self.base_offset);
        out.put_i32(i32::try_from(HEADER_BYTES - LENGTH_OVERHEAD_BYTES + body.len()).expect("a batch fits i32::MAX bytes"));
        out.put_i32(self.leader_epoch);
        out.put_i8(2);
        out.put_u32(0);
        out.put_i16(self.attributes | i16::from(self.codec.id()));
        out.put_i32(self.last_offset_delta);
        out.put_i64(self.base_timestamp.unwrap_or(NO_TIMESTAMP));
        out.put_i64(self.log_append_time_ms.unwrap_or(self.max_timestamp));
        out.put_i64(self.producer_id);
        out.put_i16(self.producer_epoch);
        out.put_i32(self.base_sequence);
        out.put_i32(self.count);
        out.put_slice(&body);
        let crc = crc32c::crc32c(&out[21..]);
        out[17..21].copy_from_slice(&crc.to_be_bytes());
        (self.base_timestamp, self.max_timestamp, self.last_offset_delta, self.count) = (None, NO_TIMESTAMP, -1, 0);
        self.body.clear();
        out.freeze()
    }
}

fn put_nullable(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        None => put_varint(out, -1),
        Some(bytes) => {
            put_varint(out, i32::try_from(bytes.len()).expect("a field fits i32::MAX bytes"));
            out.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Record, RecordError, batch::Header, records};
    use proptest::{collection::vec, option, prelude::*};

    fn bytes() -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), 0..100).prop_map(Bytes::from)
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        (0..3i64, 0..1i64 << 42, option::of(bytes()), option::of(bytes()), vec((bytes(), option::of(bytes())), 0..3))
            .prop_map(|(offset, timestamp, key, value, headers)| Record { offset, timestamp, key, value, headers })
    }

    proptest! {
        #[test]
        fn batches_go_round(mut expected in vec(record(), 1..20), codec in prop::sample::select(&Codec::ALL[..]), base_offset in 0..1i64 << 40) {
            let mut builder = BatchBuilder::new().codec(codec).base_offset(base_offset).leader_epoch(3).producer(9, 2, i32::MAX);
            let mut next = 0;
            for record in &mut expected {
                // `offset` is the gap before the record.
                let delta = next + record.offset as i32;
                next = delta + 1;
                record.offset = base_offset + i64::from(delta);
                builder.push_at(delta, record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
            }
            let batch = builder.build();
            let header = Header::whole(&batch).unwrap();
            prop_assert_eq!(header.size_in_bytes(), batch.len());
            prop_assert_eq!((header.base_offset, header.partition_leader_epoch, header.producer_id), (base_offset, 3, 9));
            prop_assert_eq!(header.last_offset(), expected.last().unwrap().offset);
            prop_assert_eq!(Some(header.max_timestamp), expected.iter().map(|record| record.timestamp).max());
            let decoded: Result<Vec<_>, _> = records(&batch, 1 << 20).unwrap().collect();
            prop_assert_eq!(decoded.unwrap(), expected);
            prop_assert!(builder.is_empty());
        }

        #[test]
        fn damaged_records_are_errors_or_other_records_but_no_panic(expected in vec(record(), 1..5), at: prop::sample::Index, byte: u8) {
            let mut builder = BatchBuilder::new();
            for record in &expected {
                builder.push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
            }
            let mut batch = builder.build().to_vec();
            let at = HEADER_BYTES + at.index(batch.len() - HEADER_BYTES);
            batch[at] = byte;
            let decoded: Vec<_> = records(&batch.into(), 1 << 20).unwrap().collect();
            prop_assert!(decoded.iter().rev().skip(1).all(Result::is_ok), "an error is the last item");
        }
    }

    #[test]
    fn a_count_that_is_wrong_is_noticed() {
        let batch = BatchBuilder::new().push(1, None, Some(b"a"), &[]).push(2, None, Some(b"b"), &[]).build();
        let with_count = |count: i32| {
            let mut batch = batch.to_vec();
            batch[57..61].copy_from_slice(&count.to_be_bytes());
            records(&batch.into(), 100).unwrap().collect::<Result<Vec<_>, _>>()
        };
        assert_eq!(with_count(2).unwrap().len(), 2);
        assert!(matches!(with_count(1), Err(RecordError::Remainder { record_count: 1, left_bytes: 8 })), "{:?}", with_count(1));
        assert!(matches!(with_count(i32::MAX), Err(RecordError::Damaged { index: 2, .. })));
    }

    #[test]
    fn log_append_time_overrides_the_records_own() {
        let batch = BatchBuilder::new().log_append_time(77).push(5, None, None, &[]).build();
        let header = Header::whole(&batch).unwrap();
        assert!(header.is_log_append_time() && header.max_timestamp == 77 && header.base_timestamp == 5);
        assert_eq!(records(&batch, 100).unwrap().next().unwrap().unwrap().timestamp, 77);
    }
}
