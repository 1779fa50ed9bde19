//! Message sets of formats v0 and v1: what clients from before Kafka 0.11 (2017) wrote and read. They are converted: up to a batch of format v2 before
//! they are appended, and down again for clients that know nothing newer.
//!
//! ```text
//! offset i64 | size i32 | crc u32 (CRC-32 of all that follows) | magic i8 | attributes i8 | v1: timestamp i64 | key i32 + bytes | value i32 + bytes
//! ```
//!
//! Attributes: codec in bits 0 to 2, bit 3 'timestamps are those of the append' (v1, KIP-32). A compressed set is one message, the wrapper, whose value is
//! the set compressed; its offset is that of its last message. The messages within have absolute offsets in v0, and in v1 (KIP-31) offsets that count
//! from the first.

use bytes::{BufMut, Bytes};
use thiserror::Error;

use super::{
    batch::{BatchError, Header, NO_TIMESTAMP},
    builder::BatchBuilder,
    compression::{Codec, CompressionError, compress, decompress, fix_lz4_header_checksum},
    records::{RecordError, records},
};

/// Bytes of offset and size, which the size does not count.
const OVERHEAD_BYTES: usize = 12;
/// The least size: CRC, magic, attributes, key and value lengths.
const MIN_SIZE_BYTES: usize = 14;
const ATTRIBUTE_CODEC: i8 = 0x07;
const ATTRIBUTE_LOG_APPEND_TIME: i8 = 0x08;

/// A message of a set, taken out of its wrapper if it had one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its offset. What a producer wrote means nothing, except in which order.
    pub offset: i64,
    /// Its timestamp in ms; −1 for format v0.
    pub timestamp: i64,
    /// Whether that is the time of the append.
    pub is_log_append_time: bool,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value.
    pub value: Option<Bytes>,
}

/// Why a message set cannot be read or converted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MessageError {
    /// A message is damaged.
    #[error("the message at byte {position} of its set is damaged: {what}")]
    Damaged {
        /// Where it starts.
        position: usize,
        /// How.
        what: &'static str,
    },
    /// The checksum does not match.
    #[error("the message at byte {position} of its set has CRC-32 {computed:#010x}, its header says {stored:#010x}")]
    BadCrc {
        /// Where it starts.
        position: usize,
        /// From the message.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A magic byte other than 0 and 1, or another than the wrapper's.
    #[error("the message at byte {position} of its set has magic {magic}")]
    BadMagic {
        /// Where it starts.
        position: usize,
        /// The byte.
        magic: i8,
    },
    /// It does not decompress, or would be too large.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// The batch to be converted down cannot be decoded.
    #[error(transparent)]
    Batch(#[from] RecordError),
    /// The batch's codec is younger than the format.
    #[error("{codec} records cannot be converted to message format v{magic}")]
    UnsupportedCodec {
        /// The codec.
        codec: Codec,
        /// The format.
        magic: i8,
    },
    /// Nothing to convert.
    #[error("the message set has no message")]
    Empty,
}

/// One message as it lies in a set.
struct Entry {
    offset: i64,
    magic: i8,
    codec: Codec,
    is_log_append_time: bool,
    timestamp: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    end: usize,
}

/// Decodes the message at `position`; `None` at the end, or where a message is cut off, as fetch responses of these formats may be.
fn entry(set: &Bytes, position: usize) -> Result<Option<Entry>, MessageError> {
    let damaged = |what| MessageError::Damaged { position, what };
    let Some((head, _)) = set[position..].split_at_checked(OVERHEAD_BYTES) else { return Ok(None) };
    let offset = i64::from_be_bytes(*head.first_chunk().expect("twelve bytes"));
    let size = i32::from_be_bytes(*head.last_chunk().expect("twelve bytes"));
    let size = usize::try_from(size).ok().filter(|size| *size >= MIN_SIZE_BYTES).ok_or_else(|| damaged("its size is less than a header's"))?;
    let start = position + OVERHEAD_BYTES;
    if size > set.len() - start {
        return Ok(None);
    }
    let message = set.slice(start..start + size);
    let stored = u32::from_be_bytes(*message.first_chunk().expect("the size was checked"));
    let computed = crc32fast::hash(&message[4..]);
    if stored != computed {
        return Err(MessageError::BadCrc { position, stored, computed });
    }
    let magic = message[4] as i8;
    let attributes = message[5] as i8;
    let (timestamp, at) = match magic {
        0 => (NO_TIMESTAMP, 6),
        1 => (i64::from_be_bytes(*message[6..].first_chunk().ok_or_else(|| damaged("it has no timestamp"))?), 14),
        _ => return Err(MessageError::BadMagic { position, magic }),
    };
    let (key, at) = nullable(&message, at).ok_or_else(|| damaged("its key is cut off"))?;
    let (value, at) = nullable(&message, at).ok_or_else(|| damaged("its value is cut off"))?;
    if at != message.len() {
        return Err(damaged("it is longer than its fields"));
    }
    let codec = Codec::from_id((attributes & ATTRIBUTE_CODEC) as u8)?;
    if codec == Codec::Zstd {
        return Err(MessageError::UnsupportedCodec { codec, magic });
    }
    let is_log_append_time = magic == 1 && attributes & ATTRIBUTE_LOG_APPEND_TIME != 0;
    Ok(Some(Entry { offset, magic, codec, is_log_append_time, timestamp, key, value, end: start + size }))
}

fn nullable(message: &Bytes, at: usize) -> Option<(Option<Bytes>, usize)> {
    let length = i32::from_be_bytes(*message.get(at..)?.first_chunk()?);
    let start = at + 4;
    match length {
        -1 => Some((None, start)),
        _ => {
            let length = usize::try_from(length).ok().filter(|length| *length <= message.len() - start)?;
            Some((Some(message.slice(start..start + length)), start + length))
        }
    }
}

/// The messages of a set, decompressed where they are, all together to at most `limit_bytes`. Checksums are checked. A message that is cut off ends the set.
///
/// # Errors
/// [`MessageError`].
pub fn messages(set: &Bytes, limit_bytes: usize) -> Result<Vec<Message>, MessageError> {
    let mut out = Vec::new();
    let mut left_bytes = limit_bytes;
    let mut position = 0;
    while let Some(outer) = entry(set, position)? {
        if outer.codec == Codec::None {
            let Entry { offset, timestamp, is_log_append_time, key, value, .. } = outer;
            out.push(Message { offset, timestamp, is_log_append_time, key, value });
        } else {
            unwrap(&outer, position, &mut left_bytes, &mut out)?;
        }
        position = outer.end;
    }
    Ok(out)
}

/// Adds the messages within a wrapper.
fn unwrap(outer: &Entry, position: usize, left_bytes: &mut usize, out: &mut Vec<Message>) -> Result<(), MessageError> {
    let damaged = |what| MessageError::Damaged { position, what };
    let mut value = outer.value.clone().ok_or_else(|| damaged("a compressed message has no value"))?;
    if outer.codec == Codec::Lz4 && outer.magic == 0 {
        let mut mended = value.to_vec();
        fix_lz4_header_checksum(&mut mended, false);
        value = mended.into();
    }
    let inner = decompress(outer.codec, &value, *left_bytes)?;
    *left_bytes -= inner.len();
    let first = out.len();
    let mut at = 0;
    while let Some(message) = entry(&inner, at)? {
        if message.codec != Codec::None {
            return Err(damaged("it has a compressed message within a compressed one"));
        }
        if message.magic != outer.magic {
            return Err(MessageError::BadMagic { position, magic: message.magic });
        }
        let (timestamp, is_log_append_time) = if outer.is_log_append_time { (outer.timestamp, true) } else { (message.timestamp, false) };
        out.push(Message { offset: message.offset, timestamp, is_log_append_time, key: message.key, value: message.value });
        at = message.end;
    }
    if at != inner.len() {
        return Err(damaged("a message within it is cut off"));
    }
    let last = out[first..].last().ok_or_else(|| damaged("a compressed message has none within"))?.offset;
    if outer.magic == 1 {
        let base = outer.offset.wrapping_sub(last);
        out[first..].iter_mut().for_each(|message| message.offset = message.offset.wrapping_add(base));
    }
    Ok(())
}

/// Converts a producer's message set to one batch of format v2, with offsets from 0 and the codec of the set's first message.
///
/// # Errors
/// [`MessageError`].
pub fn convert_up(set: &Bytes, limit_bytes: usize) -> Result<Bytes, MessageError> {
    let codec = entry(set, 0)?.ok_or(MessageError::Empty)?.codec;
    let mut builder = BatchBuilder::new().codec(codec);
    for message in messages(set, limit_bytes)? {
        builder.push(message.timestamp, message.key.as_deref(), message.value.as_deref(), &[]);
    }
    Ok(builder.build())
}

/// Converts batches of format v2, one after the other, to a message set of format `magic` (0 or 1) with the same offsets. Records before `first_offset` are
/// left out, since these clients take what they get as what they asked for; so are control batches, which they would take for data, and headers, which they
/// do not know. A batch that is cut off ends the set.
///
/// # Errors
/// [`MessageError`]; [`MessageError::UnsupportedCodec`] for zstd, which the client is told as UNSUPPORTED_COMPRESSION_TYPE.
///
/// # Panics
/// If `magic` is neither 0 nor 1.
pub fn convert_down(batches: &Bytes, magic: i8, first_offset: i64, limit_bytes: usize) -> Result<Bytes, MessageError> {
    assert!(matches!(magic, 0 | 1), "there is no message format v{magic}");
    let mut out = Vec::with_capacity(batches.len());
    let mut left_bytes = limit_bytes;
    let mut rest = batches.clone();
    while !rest.is_empty() {
        let header = match Header::parse(&rest) {
            Ok(header) if header.size_in_bytes() <= rest.len() => header,
            Ok(_) | Err(BatchError::Truncated { .. }) => break,
            Err(error) => return Err(RecordError::from(error).into()),
        };
        let batch = rest.split_to(header.size_in_bytes());
        if header.is_control() || header.last_offset() < first_offset {
            continue;
        }
        let codec = Codec::from_id(header.codec())?;
        if codec == Codec::Zstd {
            return Err(MessageError::UnsupportedCodec { codec, magic });
        }
        let decoded = records(&batch, left_bytes)?;
        left_bytes -= decoded.body_bytes();
        let mut kept = Vec::new();
        for record in decoded {
            let record = record?;
            if record.offset >= first_offset {
                kept.push(Message {
                    offset: record.offset,
                    timestamp: record.timestamp,
                    is_log_append_time: header.is_log_append_time(),
                    key: record.key,
                    value: record.value,
                });
            }
        }
        put_set(&mut out, &kept, magic, codec);
    }
    Ok(out.into())
}

/// Appends messages, under a wrapper if `codec` compresses.
fn put_set(out: &mut Vec<u8>, messages: &[Message], magic: i8, codec: Codec) {
    let (Some(first), Some(last)) = (messages.first(), messages.last()) else { return };
    if codec == Codec::None {
        messages.iter().for_each(|message| put_message(out, message, message.offset, magic, 0));
        return;
    }
    let mut inner = Vec::new();
    for message in messages {
        let offset = if magic == 1 { message.offset - first.offset } else { message.offset };
        put_message(&mut inner, message, offset, magic, 0);
    }
    let mut value = compress(codec, None, &inner);
    if codec == Codec::Lz4 && magic == 0 {
        let mut broken = value.to_vec();
        fix_lz4_header_checksum(&mut broken, true);
        value = broken.into();
    }
    let timestamp = messages.iter().map(|message| message.timestamp).max().unwrap_or(NO_TIMESTAMP);
    let wrapper = Message { offset: last.offset, timestamp, is_log_append_time: last.is_log_append_time, key: None, value: Some(value) };
    put_message(out, &wrapper, wrapper.offset, magic, codec.id() as i8);
}

fn put_message(out: &mut Vec<u8>, message: &Message, offset: i64, magic: i8, codec: i8) {
    let nullable_bytes = |bytes: &Option<Bytes>| 4 + bytes.as_ref().map_or(0, Bytes::len);
    let size = 6 + if magic == 1 { 8 } else { 0 } + nullable_bytes(&message.key) + nullable_bytes(&message.value);
    out.reserve(OVERHEAD_BYTES + size);
    out.put_i64(offset);
    out.put_i32(i32::try_from(size).expect("a message fits i32::MAX bytes"));
    let crc_at = out.len();
    out.put_u32(0);
    out.put_i8(magic);
    out.put_i8(codec | if magic == 1 && message.is_log_append_time { ATTRIBUTE_LOG_APPEND_TIME } else { 0 });
    if magic == 1 {
        out.put_i64(message.timestamp);
    }
    for field in [&message.key, &message.value] {
        match field {
            None => out.put_i32(-1),
            Some(bytes) => {
                out.put_i32(i32::try_from(bytes.len()).expect("a field fits i32::MAX bytes"));
                out.put_slice(bytes);
            }
        }
    }
    let crc = crc32fast::hash(&out[crc_at + 4..]);
    out[crc_at..crc_at + 4].copy_from_slice(&crc.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*};

    const LIMIT: usize = 1 << 20;

    fn optional_bytes() -> impl Strategy<Value = Option<Bytes>> {
        option::of(vec(any::<u8>(), 0..100).prop_map(Bytes::from))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn batches_go_down_and_up_again(
            content in vec((0..3i32, 0..1i64 << 42, optional_bytes(), optional_bytes()), 1..12),
            codec in prop::sample::select(&Codec::ALL[..4]),
            magic in 0..2i8,
            skip in 0..4i64,
        ) {
            let mut builder = BatchBuilder::new().codec(codec).base_offset(1000);
            let mut next = 0;
            for (gap, timestamp, key, value) in &content {
                builder.push_at(next + gap, *timestamp, key.as_deref(), value.as_deref(), &[(Bytes::from_static(b"h"), None)]);
                next += gap + 1;
            }
            let batch = builder.build();
            let expected: Vec<_> = records(&batch, LIMIT).unwrap().map(Result::unwrap).filter(|record| record.offset >= 1000 + skip).collect();
            let set = convert_down(&batch, magic, 1000 + skip, LIMIT).unwrap();
            let read = messages(&set, LIMIT).unwrap();
            prop_assert_eq!(read.len(), expected.len());
            for (message, record) in read.iter().zip(&expected) {
                prop_assert_eq!(message.offset, record.offset);
                prop_assert_eq!(message.timestamp, if magic == 0 { -1 } else { record.timestamp });
                prop_assert_eq!((&message.key, &message.value), (&record.key, &record.value));
            }
            if expected.is_empty() {
                prop_assert_eq!(convert_up(&set, LIMIT), Err(MessageError::Empty));
            } else {
                let up = convert_up(&set, LIMIT).unwrap();
                let header = Header::whole(&up).unwrap();
                prop_assert_eq!((header.base_offset, header.record_count as usize, header.codec()), (0, expected.len(), codec.id()));
                let values: Vec<_> = records(&up, LIMIT).unwrap().map(|record| record.unwrap().value).collect();
                prop_assert_eq!(values, expected.into_iter().map(|record| record.value).collect::<Vec<_>>());
            }
        }

        #[test]
        fn damage_is_an_error_and_never_a_panic(
            codec in prop::sample::select(&Codec::ALL[..4]), magic in 0..2i8, at: prop::sample::Index, byte: u8, cut: prop::sample::Index,
        ) {
            let batch = BatchBuilder::new().codec(codec).push(5, Some(b"key"), Some(&[7; 300]), &[]).push(6, None, None, &[]).build();
            let mut set = convert_down(&batch, magic, 0, LIMIT).unwrap().to_vec();
            let whole = messages(&set.clone().into(), LIMIT).unwrap();
            let cut = messages(&Bytes::from(set.clone()).slice(..cut.index(set.len())), LIMIT).unwrap();
            prop_assert!(whole.starts_with(&cut) && cut.len() < whole.len());
            let at = at.index(set.len());
            set[at] = byte;
            let read = messages(&set.into(), LIMIT);
            // Offsets and sizes are outside the checksum; all else is inside.
            prop_assert!(read.is_err() || read.unwrap().iter().all(|message| whole.iter().any(|other| other.value == message.value)));
        }
    }

    #[test]
    fn control_batches_do_not_reach_old_clients_and_a_cut_batch_ends_the_set() {
        let data = BatchBuilder::new().push(1, None, Some(b"data"), &[]).build();
        let marker = BatchBuilder::new().base_offset(1).control().push(1, Some(&[0, 0, 0, 1]), None, &[]).build();
        let batches: Bytes = [&data[..], &marker[..], &data[..data.len() - 1]].concat().into();
        assert_eq!(messages(&convert_down(&batches, 1, 0, LIMIT).unwrap(), LIMIT).unwrap().len(), 1);
        let zstd = BatchBuilder::new().codec(Codec::Zstd).push(1, None, None, &[]).build();
        assert_eq!(convert_down(&zstd, 1, 0, LIMIT), Err(MessageError::UnsupportedCodec { codec: Codec::Zstd, magic: 1 }));
    }

    #[test]
    fn bombs_and_nests_are_refused() {
        let bomb = BatchBuilder::new().codec(Codec::Gzip).push(1, None, Some(&[0; 200_000]), &[]).build();
        let set = convert_down(&bomb, 1, 0, LIMIT).unwrap();
        assert!(matches!(messages(&set, 100_000), Err(MessageError::Compression(CompressionError::TooLarge { .. }))));
        // The limit is for the whole set.
        let twice: Bytes = [&set[..], &set[..]].concat().into();
        assert!(messages(&twice, 300_000).is_err() && messages(&twice, 500_000).is_ok());
        let wrap = |value: Bytes| {
            let mut out = Vec::new();
            let message = Message { offset: 0, timestamp: 0, is_log_append_time: false, key: None, value: Some(value) };
            put_message(&mut out, &message, 0, 1, Codec::Gzip.id() as i8);
            Bytes::from(out)
        };
        let nested = wrap(compress(Codec::Gzip, None, &set));
        assert!(matches!(messages(&nested, LIMIT), Err(MessageError::Damaged { .. })));
        assert!(matches!(messages(&wrap(compress(Codec::Gzip, None, b"")), LIMIT), Err(MessageError::Damaged { .. })));
    }
}
