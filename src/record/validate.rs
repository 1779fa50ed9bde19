//! What a leader checks of a producer's records before it appends them, as Kafka's `ProduceRequest`, `UnifiedLog` and `LogValidator` do for Produce 3 and
//! later: exactly one batch of format v2 per partition.
//!
//! Two steps. [`check`] reads the header and the checksum, and nothing else: enough for most topics. It says whether [`Checked::finish`] has to decode
//! records, so that a caller can do that where it does not hold up others: for `compression.type` other than the batch's, keys on compacted topics,
//! timestamps that the header alone cannot clear. A rewritten batch keeps its producer fields, so that duplicates are found all the same.

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use std::borrow::Cow;

use super::{
    batch::{BatchError, Header},
    builder::BatchBuilder,
    compression::{Codec, CompressionError},
    records::{RecordError as DecodeError, records},
};
use crate::wire::produce::{RecordError, ZSTD_VERSION};

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's, at the append.
    LogAppendTime,
}

/// `compression.type` of a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetCompression {
    /// Whatever the producer chose.
    #[default]
    Producer,
    /// This codec, at this level (KIP-390); `Codec::None` for `uncompressed`.
    Codec {
        /// The codec.
        codec: Codec,
        /// `compression.gzip.level`, `compression.zstd.level`, `compression.lz4.level`.
        level: Option<i32>,
    },
}

/// What a topic asks of its records.
#[derive(Clone, Debug)]
pub struct Rules {
    /// `message.timestamp.type`.
    pub timestamp_type: TimestampType,
    /// `message.timestamp.before.max.ms`: how far a timestamp may be in the past.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far it may be in the future.
    pub timestamp_after_max_ms: i64,
    /// `compression.type`.
    pub compression: TargetCompression,
    /// Whether `cleanup.policy` has `compact`: records need keys.
    pub compacted: bool,
    /// `max.message.bytes`: of the whole batch, compressed.
    pub max_message_bytes: usize,
    /// What a batch may decompress to if it has to be.
    pub max_decompressed_bytes: usize,
}

impl Default for Rules {
    /// Kafka's defaults for a topic.
    fn default() -> Self {
        Self {
            timestamp_type: TimestampType::CreateTime,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            compression: TargetCompression::Producer,
            compacted: false,
            max_message_bytes: 1_048_588,
            max_decompressed_bytes: 256 << 20,
        }
    }
}

/// Why a batch is not appended, in the fields of a produce response (KIP-467).
#[derive(Clone, Debug, PartialEq)]
pub struct Rejected {
    /// The error.
    pub error: ResponseError,
    /// What is wrong.
    pub message: Cow<'static, str>,
    /// Which records, at most [`MAX_RECORD_ERRORS`].
    pub record_errors: Vec<RecordError>,
}

/// Records that an answer names; a batch may have a million.
pub const MAX_RECORD_ERRORS: usize = 1000;

impl Rejected {
    fn new(error: ResponseError, message: impl Into<Cow<'static, str>>) -> Self {
        Self { error, message: message.into(), record_errors: Vec::new() }
    }
}

/// A batch that may be appended: base offset 0, to be assigned with [`Header::prefix`].
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// Its header.
    pub header: Header,
    /// Its bytes: the producer's, unless it had to be rewritten.
    pub bytes: Bytes,
    /// The time of the append if the topic's timestamps are that; else −1.
    pub log_append_time_ms: i64,
}

/// A batch whose header and checksum hold.
#[derive(Clone, Debug)]
pub struct Checked {
    header: Header,
    bytes: Bytes,
    codec: Codec,
    decodes: bool,
}

/// Checks and, if the rules want it, rewrites the records of one partition of a produce request: [`check`] and [`Checked::finish`].
///
/// # Errors
/// [`Rejected`].
pub fn produce_batch(records: Option<&Bytes>, produce_version: i16, rules: &Rules, now_unix_ms: i64) -> Result<Validated, Rejected> {
    check(records, produce_version, rules, now_unix_ms)?.finish(rules, now_unix_ms)
}

/// Checks header and checksum.
///
/// # Errors
/// [`Rejected`]. Record errors are [`Checked::finish`]'s.
pub fn check(records: Option<&Bytes>, produce_version: i16, rules: &Rules, now_unix_ms: i64) -> Result<Checked, Rejected> {
    let invalid = |message: String| Rejected::new(ResponseError::InvalidRecord, message);
    let Some(bytes) = records.filter(|bytes| !bytes.is_empty()) else {
        return Err(Rejected::new(ResponseError::InvalidRecord, "a produce request has a record batch for each of its partitions; this one has none"));
    };
    let header = Header::whole(bytes).map_err(|error| {
        let code = match error {
            BatchError::BadCrc { .. } | BatchError::BadLength { .. } => ResponseError::CorruptMessage,
            _ => ResponseError::InvalidRecord,
        };
        Rejected::new(code, error.to_string())
    })?;
    let size_bytes = header.size_in_bytes();
    if bytes.len() > size_bytes {
        let more = bytes.len() - size_bytes;
        return Err(invalid(format!("a produce request has exactly one record batch for a partition; {more} bytes follow this one")));
    }
    check_size(size_bytes, rules)?;
    let codec = Codec::from_id(header.codec()).map_err(|error| Rejected::new(ResponseError::UnsupportedCompressionType, error.to_string()))?;
    if codec == Codec::Zstd && produce_version < ZSTD_VERSION {
        let message = format!("zstd records need produce version {ZSTD_VERSION} or later, and came in version {produce_version}");
        return Err(Rejected::new(ResponseError::UnsupportedCompressionType, message));
    }
    if header.base_offset != 0 {
        return Err(invalid(format!("a producer's batch has base offset 0, not {}", header.base_offset)));
    }
    if header.record_count == 0 || i64::from(header.last_offset_delta) + 1 != i64::from(header.record_count) {
        let message = format!("the batch counts {} records, and its last offset delta is {}", header.record_count, header.last_offset_delta);
        return Err(invalid(message));
    }
    if header.is_control() {
        return Err(invalid("clients may not write control records".to_owned()));
    }
    if header.has_delete_horizon() {
        return Err(invalid("clients may not set a delete horizon".to_owned()));
    }
    if header.has_producer_id() {
        if header.producer_id < 0 || header.producer_epoch < 0 || header.base_sequence < 0 {
            let Header { producer_id, producer_epoch, base_sequence, .. } = header;
            return Err(invalid(format!("the batch has producer id {producer_id} with epoch {producer_epoch} and sequence {base_sequence}")));
        }
    } else if header.is_transactional() {
        return Err(invalid("a transactional batch has a producer id; this one has none".to_owned()));
    }
    let create_time = rules.timestamp_type == TimestampType::CreateTime;
    if create_time && header.is_log_append_time() {
        let message = "producers may not set the timestamp type to LogAppendTime";
        return Err(Rejected::new(ResponseError::InvalidTimestamp, message));
    }
    // Only records themselves can tell the least timestamp, but the greatest is in the header.
    let timestamps = create_time && (rules.timestamp_before_max_ms < i64::MAX || !in_range(header.max_timestamp, rules, now_unix_ms));
    let recompress = matches!(rules.compression, TargetCompression::Codec { codec: target, .. } if target != codec);
    Ok(Checked { header, bytes: bytes.clone(), codec, decodes: rules.compacted || timestamps || recompress })
}

fn check_size(size_bytes: usize, rules: &Rules) -> Result<(), Rejected> {
    if size_bytes > rules.max_message_bytes {
        let message = format!("the batch has {size_bytes} bytes; max.message.bytes allows {}", rules.max_message_bytes);
        return Err(Rejected::new(ResponseError::MessageTooLarge, message));
    }
    Ok(())
}

/// Whether a producer's timestamp is within the topic's bounds. Records without timestamp are.
fn in_range(timestamp: i64, rules: &Rules, now_unix_ms: i64) -> bool {
    timestamp == super::batch::NO_TIMESTAMP
        || (now_unix_ms.saturating_sub(timestamp) <= rules.timestamp_before_max_ms && timestamp.saturating_sub(now_unix_ms) <= rules.timestamp_after_max_ms)
}

impl Checked {
    /// Its header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Whether [`Checked::finish`] decodes, and perhaps compresses, all records: work to keep off a connection's task.
    pub fn decodes_records(&self) -> bool {
        self.decodes
    }

    /// Checks the records if the rules want it, and gives the batch the form in which it is appended.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn finish(self, rules: &Rules, now_unix_ms: i64) -> Result<Validated, Rejected> {
        let Self { mut header, mut bytes, codec, decodes } = self;
        let log_append_time_ms = match rules.timestamp_type {
            TimestampType::LogAppendTime => now_unix_ms,
            TimestampType::CreateTime => super::batch::NO_TIMESTAMP,
        };
        if decodes {
            let mut rebuilt = match rules.compression {
                TargetCompression::Codec { codec: target, level } if target != codec => Some(rebuilder(&header, target, level)),
                _ => None,
            };
            let max_timestamp = check_records(&bytes, codec, rules, now_unix_ms, rebuilt.as_mut())?;
            if let Some(mut rebuilt) = rebuilt {
                bytes = rebuilt.build();
                header = Header::parse(&bytes).expect("what the builder built");
                check_size(bytes.len(), rules)?;
            } else if rules.timestamp_type == TimestampType::CreateTime && max_timestamp != header.max_timestamp {
                // The time index believes the header: it is told the truth.
                (header, bytes) = rewrite(&bytes, header.attributes, max_timestamp);
            }
        }
        if rules.timestamp_type == TimestampType::LogAppendTime {
            (header, bytes) = rewrite(&bytes, header.attributes | 0x08, now_unix_ms);
        }
        Ok(Validated { header, bytes, log_append_time_ms })
    }
}

/// A builder for the same batch with another codec.
fn rebuilder(header: &Header, codec: Codec, level: Option<i32>) -> BatchBuilder {
    let builder = BatchBuilder::new().codec(codec).level(level).leader_epoch(header.partition_leader_epoch).producer(
        header.producer_id,
        header.producer_epoch,
        header.base_sequence,
    );
    if header.is_transactional() { builder.transactional() } else { builder }
}

/// A copy with other attributes and greatest timestamp, and the checksum that goes with them. No record is touched.
fn rewrite(bytes: &Bytes, attributes: i16, max_timestamp: i64) -> (Header, Bytes) {
    let mut out = BytesMut::from(&bytes[..]);
    out[21..23].copy_from_slice(&attributes.to_be_bytes());
    out[35..43].copy_from_slice(&max_timestamp.to_be_bytes());
    let crc = crc32c::crc32c(&out[21..]);
    out[17..21].copy_from_slice(&crc.to_be_bytes());
    let header = Header::parse(&out).expect("only attributes, timestamp and checksum changed");
    (header, out.freeze())
}

/// Decodes and checks every record, and adds it to `rebuilt`. Returns the greatest timestamp.
fn check_records(bytes: &Bytes, codec: Codec, rules: &Rules, now_unix_ms: i64, mut rebuilt: Option<&mut BatchBuilder>) -> Result<i64, Rejected> {
    let undecodable = |error: DecodeError| {
        let code = match error {
            DecodeError::Compression(CompressionError::TooLarge { .. }) => ResponseError::MessageTooLarge,
            _ => ResponseError::InvalidRecord,
        };
        Rejected::new(code, error.to_string())
    };
    let create_time = rules.timestamp_type == TimestampType::CreateTime;
    let mut record_errors = Vec::new();
    let mut error_count = 0u32;
    let mut first_error = None;
    let mut max_timestamp = super::batch::NO_TIMESTAMP;
    for (index, record) in records(bytes, rules.max_decompressed_bytes).map_err(undecodable)?.enumerate() {
        let record = record.map_err(undecodable)?;
        let wrong: Option<(ResponseError, Cow<'static, str>)> = if record.offset != index as i64 {
            let message = format!("record {index} of the {codec} batch has offset delta {}: they count from 0 without gaps", record.offset);
            Some((ResponseError::InvalidRecord, message.into()))
        } else if rules.compacted && record.key.is_none() {
            Some((ResponseError::InvalidRecord, "a compacted topic takes no record without a key".into()))
        } else if create_time && !in_range(record.timestamp, rules, now_unix_ms) {
            let from = now_unix_ms.saturating_sub(rules.timestamp_before_max_ms);
            let to = now_unix_ms.saturating_add(rules.timestamp_after_max_ms);
            let message = format!("timestamp {} is out of range: the topic takes {from} to {to}", record.timestamp);
            Some((ResponseError::InvalidTimestamp, message.into()))
        } else {
            None
        };
        if let Some((error, message)) = wrong {
            first_error.get_or_insert(error);
            error_count += 1;
            if record_errors.len() < MAX_RECORD_ERRORS {
                record_errors.push(RecordError { batch_index: index as i32, message: Some(message) });
            }
        }
        max_timestamp = max_timestamp.max(record.timestamp);
        if let Some(rebuilt) = rebuilt.as_deref_mut().filter(|_| first_error.is_none()) {
            rebuilt.push(record.timestamp, record.key.as_deref(), record.value.as_deref(), &record.headers);
        }
    }
    let Some(error) = first_error else { return Ok(max_timestamp) };
    let why = if error == ResponseError::InvalidTimestamp { "its timestamp" } else { "what the record errors say" };
    let message = format!("{error_count} records were refused, the first for {why}; the whole batch was not appended");
    Err(Rejected { error, message: message.into(), record_errors })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    const NOW: i64 = 1_700_000_000_000;

    fn batch(codec: Codec) -> Bytes {
        BatchBuilder::new().codec(codec).push(NOW - 5, Some(b"k"), Some(b"v"), &[]).push(NOW, Some(b"k2"), None, &[]).build()
    }

    /// A batch with bytes changed and the checksum made good.
    fn patched(batch: &Bytes, at: usize, with: &[u8]) -> Bytes {
        let mut bytes = batch.to_vec();
        bytes[at..at + with.len()].copy_from_slice(with);
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes.into()
    }

    fn rejected(batch: &Bytes, rules: &Rules) -> Rejected {
        produce_batch(Some(batch), 9, rules, NOW).unwrap_err()
    }

    fn reason(batch: &Bytes) -> ResponseError {
        rejected(batch, &Rules::default()).error
    }

    #[test]
    fn an_ordinary_batch_passes_untouched_and_undecoded() {
        for codec in Codec::ALL {
            let batch = batch(codec);
            let checked = check(Some(&batch), 7, &Rules::default(), NOW).unwrap();
            assert!(!checked.decodes_records());
            let validated = checked.finish(&Rules::default(), NOW).unwrap();
            assert_eq!(validated.bytes.as_ptr(), batch.as_ptr());
            assert_eq!((validated.log_append_time_ms, validated.header.record_count), (-1, 2));
        }
    }

    #[test]
    fn what_no_producer_may_send_is_refused() {
        use ResponseError::{CorruptMessage, InvalidRecord, InvalidTimestamp, MessageTooLarge, UnsupportedCompressionType};
        let good = batch(Codec::None);
        let none = |records: Option<&Bytes>| produce_batch(records, 9, &Rules::default(), NOW).unwrap_err().error;
        assert_eq!((none(None), none(Some(&Bytes::new()))), (InvalidRecord, InvalidRecord));
        assert_eq!(reason(&good.slice(..good.len() - 1)), InvalidRecord);
        assert_eq!(reason(&[&good[..], &good[..]].concat().into()), InvalidRecord);
        let mut flipped = good.to_vec();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(reason(&flipped.into()), CorruptMessage);
        assert_eq!(reason(&patched(&good, 16, &[1])), InvalidRecord, "magic");
        assert_eq!(reason(&patched(&good, 7, &[1])), InvalidRecord, "base offset");
        assert_eq!(reason(&patched(&good, 60, &[3])), InvalidRecord, "count");
        assert_eq!(reason(&patched(&good, 26, &[0])), InvalidRecord, "last offset delta");
        assert_eq!(reason(&patched(&good, 22, &[0x20])), InvalidRecord, "control");
        assert_eq!(reason(&patched(&good, 22, &[0x40])), InvalidRecord, "delete horizon");
        assert_eq!(reason(&patched(&good, 22, &[0x10])), InvalidRecord, "transactional without a producer id");
        assert_eq!(reason(&patched(&good, 22, &[0x08])), InvalidTimestamp, "log append time");
        assert_eq!(reason(&patched(&good, 22, &[0x05])), UnsupportedCompressionType, "codec");
        assert_eq!(reason(&patched(&good, 43, &[0; 8])), InvalidRecord, "producer id without a sequence");
        assert_eq!(reason(&patched(&good, 43, &[0x80, 0, 0, 0, 0, 0, 0, 0])), InvalidRecord, "negative producer id");
        let zstd = batch(Codec::Zstd);
        assert_eq!(produce_batch(Some(&zstd), 6, &Rules::default(), NOW).unwrap_err().error, UnsupportedCompressionType);
        let small = Rules { max_message_bytes: good.len() - 1, ..Rules::default() };
        assert_eq!(rejected(&good, &small).error, MessageTooLarge);
        let exact = Rules { max_message_bytes: good.len(), ..Rules::default() };
        assert!(produce_batch(Some(&good), 3, &exact, NOW).is_ok());
    }

    #[test]
    fn log_append_time_is_written_without_touching_records() {
        let rules = Rules { timestamp_type: TimestampType::LogAppendTime, ..Rules::default() };
        for codec in Codec::ALL {
            let before = batch(codec);
            let checked = check(Some(&before), 9, &rules, NOW + 9).unwrap();
            assert!(!checked.decodes_records());
            let after = checked.finish(&rules, NOW + 9).unwrap();
            assert_eq!(after.log_append_time_ms, NOW + 9);
            assert_eq!(Header::whole(&after.bytes), Ok(after.header));
            assert_eq!(after.bytes[61..], before[61..]);
            let timestamps: Vec<_> = records(&after.bytes, 1000).unwrap().map(|record| record.unwrap().timestamp).collect();
            assert_eq!(timestamps, [NOW + 9; 2]);
        }
        // Producers' timestamps do not matter then, nor do bounds.
        let old = BatchBuilder::new().push(1, None, None, &[]).build();
        assert!(produce_batch(Some(&old), 9, &Rules { timestamp_before_max_ms: 5, ..rules }, NOW).is_ok());
    }

    #[test]
    fn records_out_of_the_topics_time_are_named() {
        let late = BatchBuilder::new().push(NOW, None, None, &[]).push(NOW + 3_600_001, None, None, &[]).push(-1, None, None, &[]).build();
        let error = rejected(&late, &Rules::default());
        assert_eq!(error.error, ResponseError::InvalidTimestamp);
        assert_eq!(error.record_errors.iter().map(|error| error.batch_index).collect::<Vec<_>>(), [1]);
        assert!(produce_batch(Some(&late), 9, &Rules::default(), NOW + 1).is_ok());

        let old = BatchBuilder::new().push(NOW - 11, None, None, &[]).push(NOW, None, None, &[]).build();
        let rules = Rules { timestamp_before_max_ms: 10, ..Rules::default() };
        assert_eq!(rejected(&old, &rules).record_errors[0].batch_index, 0);
        assert!(produce_batch(Some(&old), 9, &rules, NOW - 1).is_ok());
    }

    #[test]
    fn a_lying_greatest_timestamp_is_corrected() {
        let liar = patched(&batch(Codec::Gzip), 35, &(NOW + 10_000_000).to_be_bytes());
        let validated = produce_batch(Some(&liar), 9, &Rules::default(), NOW).unwrap();
        assert_eq!(validated.header.max_timestamp, NOW);
        assert_eq!(validated.bytes, batch(Codec::Gzip));
    }

    #[test]
    fn compacted_topics_want_keys() {
        let rules = Rules { compacted: true, ..Rules::default() };
        assert!(produce_batch(Some(&batch(Codec::Lz4)), 9, &rules, NOW).is_ok());
        let mut builder = BatchBuilder::new().codec(Codec::Lz4);
        for index in 0..5000 {
            builder.push(NOW, (index % 2 == 0).then_some(b"k"), None, &[]);
        }
        let error = rejected(&builder.build(), &rules);
        assert_eq!((error.error, error.record_errors.len()), (ResponseError::InvalidRecord, MAX_RECORD_ERRORS));
        assert_eq!(error.record_errors[1].batch_index, 3);
    }

    #[test]
    fn what_is_decoded_must_be_whole() {
        let rules = Rules { compacted: true, ..Rules::default() };
        let gap = BatchBuilder::new().push(NOW, Some(b"k"), None, &[]).push_at(2, NOW, Some(b"k"), None, &[]).build();
        let gap = patched(&gap, 57, &3i32.to_be_bytes());
        assert_eq!(rejected(&gap, &rules).error, ResponseError::InvalidRecord);
        let swapped = BatchBuilder::new().push_at(1, NOW, Some(b"k"), None, &[]).build();
        let swapped = patched(&swapped, 23, &0i32.to_be_bytes());
        assert_eq!(rejected(&swapped, &rules).record_errors.len(), 1);
        let bomb = BatchBuilder::new().codec(Codec::Gzip).push(NOW, Some(b"k"), Some(&[0; 100_000]), &[]).build();
        let rules = Rules { max_decompressed_bytes: 99_999, ..rules };
        assert_eq!(rejected(&bomb, &rules).error, ResponseError::MessageTooLarge);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn recompression_keeps_everything_but_the_codec(
            content in vec((0..1000i64, option::of("[a-z]{0,9}"), option::of("[a-z]{0,99}")), 1..20),
            from in prop::sample::select(&Codec::ALL[..]),
            to in prop::sample::select(&Codec::ALL[..]),
            append_time: bool,
        ) {
            let mut builder = BatchBuilder::new().codec(from).producer(7, 1, 3).transactional();
            let headers = [(Bytes::from_static(b"h"), None)];
            for (ago, key, value) in &content {
                builder.push(NOW - ago, key.as_deref().map(str::as_bytes), value.as_deref().map(str::as_bytes), &headers);
            }
            let before = builder.build();
            let timestamp_type = if append_time { TimestampType::LogAppendTime } else { TimestampType::CreateTime };
            let rules = Rules { compression: TargetCompression::Codec { codec: to, level: None }, timestamp_type, ..Rules::default() };
            let checked = check(Some(&before), 9, &rules, NOW).unwrap();
            prop_assert_eq!(checked.decodes_records(), from != to);
            let after = checked.finish(&rules, NOW).unwrap();
            let header = Header::whole(&after.bytes).unwrap();
            prop_assert_eq!(header, after.header);
            let original = Header::whole(&before).unwrap();
            let expected = Header {
                attributes: original.attributes & !7 | i16::from(to.id()) | if append_time { 8 } else { 0 },
                max_timestamp: if append_time { NOW } else { original.max_timestamp },
                crc: header.crc,
                length: header.length,
                ..original
            };
            prop_assert_eq!(header, expected);
            let all = |bytes| records(bytes, 1 << 20).unwrap().map(Result::unwrap).collect::<Vec<_>>();
            let mut expected = all(&before);
            if append_time {
                expected.iter_mut().for_each(|record| record.timestamp = NOW);
            }
            prop_assert_eq!(all(&after.bytes), expected);
        }
    }
}
