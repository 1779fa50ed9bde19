//! The protocol's primitive types, read without copying and written without surprises: what the hot-path codecs and the frame headers
//! share. No length read here becomes a capacity unless that many bytes are really there.

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::StrBytes;
use thiserror::Error;
use uuid::Uuid;

/// Why bytes are not the message that their header announces. The connection they came on is closed: nothing after them can be trusted.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DecodeError {
    /// The message ends inside a field.
    #[error("{field} needs {needed_bytes} bytes, {have_bytes} remain in the frame")]
    Truncated {
        /// The field.
        field: &'static str,
        /// What it takes.
        needed_bytes: usize,
        /// What there is.
        have_bytes: usize,
    },
    /// A length or count that no such field can have, or that the rest of the frame could not hold.
    #[error("{field} has length {length}, {have_bytes} bytes remain in the frame")]
    BadLength {
        /// The field.
        field: &'static str,
        /// The length or count.
        length: i64,
        /// What there is.
        have_bytes: usize,
    },
    /// A string that is not UTF-8.
    #[error("{field} is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A varint of more than its greatest number of bytes.
    #[error("{field} is a varint that does not end")]
    BadVarint {
        /// The field.
        field: &'static str,
    },
    /// A tagged field whose content does not end where its size says.
    #[error("tagged field {tag} of {field} announces {size_bytes} bytes and takes {used_bytes}")]
    BadTag {
        /// The struct.
        field: &'static str,
        /// The tag.
        tag: u32,
        /// Its announced size.
        size_bytes: usize,
        /// The size of its content.
        used_bytes: usize,
    },
    /// The decoder does not know this version.
    #[error("{api} version {version} is not implemented")]
    UnsupportedVersion {
        /// The API.
        api: &'static str,
        /// The version.
        version: i16,
    },
    /// Counts that would take far more memory than the frame that announces them.
    #[error("a frame of {frame_bytes} bytes announces elements that take over {cost_bytes} bytes")]
    TooCostly {
        /// The frame's length.
        frame_bytes: usize,
        /// The least that decoding it would allocate.
        cost_bytes: usize,
    },
    /// The generated decoder refused it.
    #[error("{api} version {version}: {reason}")]
    Refused {
        /// The API.
        api: &'static str,
        /// The version.
        version: i16,
        /// The decoder's words.
        reason: String,
    },
}

/// Reads a message from a frame. Strings and bytes are slices of the frame, which they keep alive: copy out what outlives the request.
#[derive(Clone, Debug)]
pub struct Reader {
    bytes: Bytes,
    at: usize,
}

macro_rules! number {
    ($name:ident, $type:ty) => {
        #[doc = concat!("A big-endian `", stringify!($type), "`.")]
        ///
        /// # Errors
        /// [`DecodeError::Truncated`].
        pub fn $name(&mut self, field: &'static str) -> Result<$type, DecodeError> {
            const SIZE: usize = size_of::<$type>();
            let rest = &self.bytes[self.at..];
            let number = rest.first_chunk::<SIZE>().ok_or(DecodeError::Truncated { field, needed_bytes: SIZE, have_bytes: rest.len() })?;
            self.at += SIZE;
            Ok(<$type>::from_be_bytes(*number))
        }
    };
}

impl Reader {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: Bytes) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Bytes read.
    pub fn position(&self) -> usize {
        self.at
    }

    /// All that was not read.
    pub fn into_rest(self) -> Bytes {
        self.bytes.slice(self.at..)
    }

    number!(i8, i8);
    number!(i16, i16);
    number!(i32, i32);
    number!(i64, i64);

    /// A Kafka id, 16 bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn uuid(&mut self, field: &'static str) -> Result<Uuid, DecodeError> {
        let rest = &self.bytes[self.at..];
        let id = rest.first_chunk::<16>().ok_or(DecodeError::Truncated { field, needed_bytes: 16, have_bytes: rest.len() })?;
        let id = Uuid::from_bytes(*id);
        self.at += 16;
        Ok(id)
    }

    /// An unsigned varint of at most five bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::BadVarint`].
    pub fn unsigned_varint(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = *self.bytes.get(self.at).ok_or(DecodeError::Truncated { field, needed_bytes: 1, have_bytes: 0 })?;
            self.at += 1;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint { field })
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`].
    pub fn slice(&mut self, length: usize, field: &'static str) -> Result<Bytes, DecodeError> {
        if length > self.remaining() {
            return Err(DecodeError::Truncated { field, needed_bytes: length, have_bytes: self.remaining() });
        }
        let slice = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    /// A length: compact (unsigned varint of one more) or of `i16`, `None` for null.
    fn string_length(&mut self, compact: bool, field: &'static str) -> Result<Option<usize>, DecodeError> {
        if compact { self.compact_length(field) } else { signed_length(i64::from(self.i16(field)?), field, self.remaining()) }
    }

    /// A length: compact (unsigned varint of one more) or of `i32`, `None` for null.
    fn long_length(&mut self, compact: bool, field: &'static str) -> Result<Option<usize>, DecodeError> {
        if compact { self.compact_length(field) } else { signed_length(i64::from(self.i32(field)?), field, self.remaining()) }
    }

    fn compact_length(&mut self, field: &'static str) -> Result<Option<usize>, DecodeError> {
        Ok(self.unsigned_varint(field)?.checked_sub(1).map(|length| length as usize))
    }

    /// A string that may be null.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::BadLength`], [`DecodeError::NotUtf8`].
    pub fn nullable_string(&mut self, compact: bool, field: &'static str) -> Result<Option<StrBytes>, DecodeError> {
        let Some(length) = self.string_length(compact, field)? else { return Ok(None) };
        let bytes = self.slice(length, field)?;
        StrBytes::from_utf8(bytes).map(Some).map_err(|_| DecodeError::NotUtf8 { field })
    }

    /// A string.
    ///
    /// # Errors
    /// As [`Reader::nullable_string`]; null is a [`DecodeError::BadLength`].
    pub fn string(&mut self, compact: bool, field: &'static str) -> Result<StrBytes, DecodeError> {
        self.nullable_string(compact, field)?.ok_or(DecodeError::BadLength { field, length: -1, have_bytes: self.remaining() })
    }

    /// Bytes or records that may be null.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::BadLength`].
    pub fn nullable_bytes(&mut self, compact: bool, field: &'static str) -> Result<Option<Bytes>, DecodeError> {
        let Some(length) = self.long_length(compact, field)? else { return Ok(None) };
        self.slice(length, field).map(Some)
    }

    /// An array's count, which is at most the remaining bytes over `min_element_bytes` (at least 1), `None` for null: safe as a capacity.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], [`DecodeError::BadLength`].
    pub fn count(&mut self, compact: bool, min_element_bytes: usize, field: &'static str) -> Result<Option<usize>, DecodeError> {
        let Some(count) = self.long_length(compact, field)? else { return Ok(None) };
        if count > self.remaining() / min_element_bytes.max(1) {
            return Err(DecodeError::BadLength { field, length: count as i64, have_bytes: self.remaining() });
        }
        Ok(Some(count))
    }

    /// Reads the tagged fields that end a struct of a flexible version: `known` takes those it knows and says so; the others are skipped.
    ///
    /// # Errors
    /// Those of `known`; [`DecodeError::BadTag`] if a known field does not end where its size says.
    pub fn tagged_fields(&mut self, field: &'static str, mut known: impl FnMut(&mut Self, u32) -> Result<bool, DecodeError>) -> Result<(), DecodeError> {
        for _ in 0..self.unsigned_varint(field)? {
            let tag = self.unsigned_varint(field)?;
            let size = self.unsigned_varint(field)? as usize;
            if size > self.remaining() {
                return Err(DecodeError::Truncated { field, needed_bytes: size, have_bytes: self.remaining() });
            }
            let start = self.at;
            if !known(self, tag)? {
                self.at = start + size;
            }
            if self.at != start + size {
                return Err(DecodeError::BadTag { field, tag, size_bytes: size, used_bytes: self.at - start });
            }
        }
        Ok(())
    }
}

fn signed_length(length: i64, field: &'static str, have_bytes: usize) -> Result<Option<usize>, DecodeError> {
    match length {
        -1 => Ok(None),
        0.. => Ok(Some(length as usize)),
        _ => Err(DecodeError::BadLength { field, length, have_bytes }),
    }
}

/// Bytes of `value` as an unsigned varint.
pub fn unsigned_varint_bytes(value: u32) -> usize {
    (38 - value.leading_zeros() as usize) / 7 + usize::from(value == 0)
}

/// Writes the protocol's primitive types, compact or not.
///
/// # Panics
/// If a string is longer than `i16::MAX` bytes in a version that is not compact: names and messages are bounded long before.
pub trait WriteExt: BufMut {
    /// An unsigned varint.
    fn put_unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.put_u8(value as u8);
    }

    /// A string, or null.
    fn put_nullable_string(&mut self, compact: bool, value: Option<&str>) {
        match (compact, value) {
            (true, None) => self.put_u8(0),
            (true, Some(value)) => {
                self.put_unsigned_varint(u32::try_from(value.len() + 1).expect("a string fits a frame"));
                self.put_slice(value.as_bytes());
            }
            (false, None) => self.put_i16(-1),
            (false, Some(value)) => {
                self.put_i16(i16::try_from(value.len()).expect("a string fits its length field"));
                self.put_slice(value.as_bytes());
            }
        }
    }

    /// A string.
    fn put_string(&mut self, compact: bool, value: &str) {
        self.put_nullable_string(compact, Some(value));
    }

    /// The count of an array that is not null, or the length of bytes that are not.
    fn put_count(&mut self, compact: bool, count: usize) {
        if compact {
            self.put_unsigned_varint(u32::try_from(count + 1).expect("a count fits a frame"));
        } else {
            self.put_i32(i32::try_from(count).expect("a count fits a frame"));
        }
    }

    /// The count of an array that is null, or the length of bytes that are.
    fn put_null(&mut self, compact: bool) {
        if compact {
            self.put_u8(0);
        } else {
            self.put_i32(-1);
        }
    }

    /// A Kafka id.
    fn put_uuid(&mut self, id: &Uuid) {
        self.put_slice(id.as_bytes());
    }
}

impl WriteExt for BytesMut {}
impl WriteExt for Vec<u8> {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_as_long_as_announced_and_read_back() {
        for bits in 0..32 {
            for value in [(1u32 << bits) - 1, 1 << bits, (1 << bits) + 1, u32::MAX] {
                let mut bytes = BytesMut::new();
                bytes.put_unsigned_varint(value);
                assert_eq!(bytes.len(), unsigned_varint_bytes(value), "{value}");
                let mut reader = Reader::new(bytes.freeze());
                assert_eq!(reader.unsigned_varint("value"), Ok(value));
                assert_eq!(reader.remaining(), 0);
            }
        }
        assert_eq!(Reader::new(Bytes::from_static(&[0xff; 6])).unsigned_varint("value"), Err(DecodeError::BadVarint { field: "value" }));
    }

    #[test]
    fn a_count_beyond_the_frame_is_refused() {
        let mut bytes = BytesMut::new();
        bytes.put_i32(3);
        bytes.put_slice(&[0; 11]);
        assert!(Reader::new(bytes.clone().freeze()).count(false, 4, "topics").is_err());
        assert_eq!(Reader::new(bytes.freeze()).count(false, 3, "topics"), Ok(Some(3)));
    }

    #[test]
    fn a_known_tag_must_fill_its_size() {
        let tag = |size: u8| Bytes::from(vec![1, 0, size, 0, 0, 0, 7, 0]);
        let read = |bytes| Reader::new(bytes).tagged_fields("partition", |reader, tag| Ok(tag == 0 && reader.i32("epoch")? == 7));
        assert_eq!(read(tag(4)), Ok(()));
        assert!(matches!(read(tag(5)), Err(DecodeError::BadTag { .. })));
        assert!(matches!(read(tag(3)), Err(DecodeError::BadTag { .. })));
        assert!(matches!(read(tag(6)), Err(DecodeError::Truncated { .. })));
    }
}
