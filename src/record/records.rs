//! The records of a batch of format v2 (KIP-98), decoded: slices of the batch, or of what it decompresses to.
//!
//! ```text
//! length varint | attributes i8 | timestamp delta varlong | offset delta varint | key | value | headers
//! key, value: length varint (−1 null), bytes; headers: count varint, then key and value each
//! ```

use bytes::Bytes;
use thiserror::Error;

use super::{
    batch::{BatchError, HEADER_BYTES, Header},
    compression::{Codec, CompressionError, decompress},
    varint::{read_varint, read_varlong},
};

/// A record. Key, value and headers are slices of the batch, which they keep in memory: copy out what outlives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset; relative to what the batch at hand says of its base.
    pub offset: i64,
    /// Its timestamp in ms, −1 for none; that of the append if the batch says so.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its value; `None` marks the key as deleted on a compacted topic.
    pub value: Option<Bytes>,
    /// Its headers, in order; keys may repeat, and are meant to be UTF-8.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// Why a batch's records cannot be decoded.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum RecordError {
    /// It is not a batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// They do not decompress.
    #[error(transparent)]
    Compression(#[from] CompressionError),
    /// A record is damaged.
    #[error("record {index} of the batch is damaged: {what}")]
    Damaged {
        /// Its index in the batch.
        index: i32,
        /// How.
        what: &'static str,
    },
    /// Bytes remain after the last record that the header counts.
    #[error("{left_bytes} bytes follow the batch's {record_count} records")]
    Remainder {
        /// The header's count.
        record_count: i32,
        /// What is left.
        left_bytes: usize,
    },
}

/// Decodes the records of the batch at the start of `batch`, decompressing it first to at most `limit_bytes`. The checksum is not looked at: see
/// [`Header::whole`].
///
/// # Errors
/// [`RecordError::Batch`], [`RecordError::Compression`]; the iterator's items may be errors too, after which it ends.
pub fn records(batch: &Bytes, limit_bytes: usize) -> Result<Records, RecordError> {
    let header = Header::parse(batch)?;
    let end = header.size_in_bytes();
    if batch.len() < end {
        return Err(BatchError::Truncated { needed_bytes: end, have_bytes: batch.len() }.into());
    }
    let body = decompress(Codec::from_id(header.codec())?, &batch.slice(HEADER_BYTES..end), limit_bytes)?;
    Ok(Records { header, body, at: 0, index: 0, failed: false })
}

/// The records of a batch, in order. Ends after the first error.
#[derive(Clone, Debug)]
pub struct Records {
    header: Header,
    body: Bytes,
    at: usize,
    index: i32,
    failed: bool,
}

impl Records {
    /// The batch's header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Bytes of all records, decompressed.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }

    fn decode(&mut self) -> Result<Record, &'static str> {
        let (length, length_bytes) = read_varint(&self.body[self.at..]).ok_or("its length is cut off")?;
        let start = self.at + length_bytes;
        let length = usize::try_from(length).map_err(|_| "its length is negative")?;
        if length > self.body.len() - start {
            return Err("it is cut off");
        }
        let end = start + length;
        let mut fields = Fields { body: &self.body, at: start, end };
        fields.skip_attributes()?;
        let timestamp_delta = fields.varlong()?;
        let offset_delta = fields.varint()?;
        let key = fields.nullable_bytes()?;
        let value = fields.nullable_bytes()?;
        let header_count = usize::try_from(fields.varint()?).map_err(|_| "it has a negative count of headers")?;
        // A header takes at least two bytes.
        if header_count > (end - fields.at) / 2 {
            return Err("it counts more headers than it has room for");
        }
        let mut headers = Vec::with_capacity(header_count);
        for _ in 0..header_count {
            let key = fields.nullable_bytes()?.ok_or("it has a header without a key")?;
            headers.push((key, fields.nullable_bytes()?));
        }
        if fields.at != end {
            return Err("it is longer than its fields");
        }
        self.at = end;
        let timestamp = if self.header.is_log_append_time() {
            self.header.max_timestamp
        } else {
            // As Kafka adds them: timestamps are the client's, and no invariant hangs on them.
            self.header.base_timestamp.wrapping_add(timestamp_delta)
        };
        let offset = self.header.base_offset.checked_add(i64::from(offset_delta)).ok_or("its offset overflows")?;
        Ok(Record { offset, timestamp, key, value, headers })
    }
}

struct Fields<'a> {
    body: &'a Bytes,
    at: usize,
    end: usize,
}

impl Fields<'_> {
    fn skip_attributes(&mut self) -> Result<(), &'static str> {
        // Unused by Kafka so far, and to be ignored.
        if self.at == self.end {
            return Err("it has no attributes");
        }
        self.at += 1;
        Ok(())
    }

    fn varint(&mut self) -> Result<i32, &'static str> {
        let (value, bytes) = read_varint(&self.body[self.at..self.end]).ok_or("a varint is cut off")?;
        self.at += bytes;
        Ok(value)
    }

    fn varlong(&mut self) -> Result<i64, &'static str> {
        let (value, bytes) = read_varlong(&self.body[self.at..self.end]).ok_or("a varlong is cut off")?;
        self.at += bytes;
        Ok(value)
    }

    fn nullable_bytes(&mut self) -> Result<Option<Bytes>, &'static str> {
        let length = self.varint()?;
        let Ok(length) = usize::try_from(length) else {
            return if length == -1 { Ok(None) } else { Err("a length is negative") };
        };
        if length > self.end - self.at {
            return Err("a field is longer than the record");
        }
        let bytes = self.body.slice(self.at..self.at + length);
        self.at += length;
        Ok(Some(bytes))
    }
}

impl Iterator for Records {
    type Item = Result<Record, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        if self.index == self.header.record_count {
            let left_bytes = self.body.len() - self.at;
            self.failed = true;
            return (left_bytes > 0).then_some(Err(RecordError::Remainder { record_count: self.header.record_count, left_bytes }));
        }
        let index = self.index;
        self.index += 1;
        Some(self.decode().map_err(|what| {
            self.failed = true;
            RecordError::Damaged { index, what }
        }))
    }
}
