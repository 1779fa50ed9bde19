//! The header of a record batch, format v2 (KIP-98), read in place: nothing here decodes a record.
//!
//! ```text
//!  0 base offset i64 | 8 length i32 | 12 partition leader epoch i32 | 16 magic i8 = 2 | 17 crc u32 (CRC-32C of all from 21)
//! 21 attributes i16 | 23 last offset delta i32 | 27 base timestamp i64 | 35 max timestamp i64 | 43 producer id i64
//! 51 producer epoch i16 | 53 base sequence i32 | 57 record count i32 | 61 records
//! ```
//!
//! The first 16 bytes are outside the checksum: a leader assigns base offset and leader epoch without touching the rest
//! ([`Header::prefix`]).

use thiserror::Error;

/// Bytes before the first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes of base offset and length, which the length does not count.
pub const LENGTH_OVERHEAD_BYTES: usize = 12;
/// Bytes of the prefix that the checksum and the producer leave to the leader: base offset, length, partition leader epoch.
pub const PREFIX_BYTES: usize = 16;
/// `producer id` of a batch without idempotence.
pub const NO_PRODUCER_ID: i64 = -1;
/// `base sequence` of a batch without idempotence.
pub const NO_SEQUENCE: i32 = -1;
/// `timestamp` where there is none.
pub const NO_TIMESTAMP: i64 = -1;

const ATTRIBUTE_CODEC: i16 = 0x07;
const ATTRIBUTE_LOG_APPEND_TIME: i16 = 0x08;
const ATTRIBUTE_TRANSACTIONAL: i16 = 0x10;
const ATTRIBUTE_CONTROL: i16 = 0x20;
const ATTRIBUTE_DELETE_HORIZON: i16 = 0x40;

/// Why bytes are not a record batch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum BatchError {
    /// Fewer bytes than a header, or than the length field announces.
    #[error("the batch needs {needed_bytes} bytes and has {have_bytes}")]
    Truncated {
        /// What it takes.
        needed_bytes: usize,
        /// What there is.
        have_bytes: usize,
    },
    /// The length field is smaller than a header.
    #[error("the batch's length field is {length}, which no batch can have")]
    BadLength {
        /// The field.
        length: i32,
    },
    /// A magic byte other than 2.
    #[error("the batch has magic {magic}, not 2")]
    BadMagic {
        /// The byte.
        magic: i8,
    },
    /// The checksum does not match.
    #[error("the batch's CRC-32C is {computed:#010x}, its header says {stored:#010x}")]
    BadCrc {
        /// From the header.
        stored: u32,
        /// Of the bytes.
        computed: u32,
    },
    /// A header field has an impossible value.
    #[error("the batch's {field} is {value}")]
    BadField {
        /// Its name.
        field: &'static str,
        /// Its value.
        value: i64,
    },
}

/// A batch's header, decoded. 'Offset' fields are those of the bytes at hand: a producer sends base offset 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Offset of the first record.
    pub base_offset: i64,
    /// The length field: bytes after itself.
    pub length: i32,
    /// Epoch of the leader that appended it; −1 from producers.
    pub partition_leader_epoch: i32,
    /// CRC-32C of everything from the attributes on.
    pub crc: u32,
    /// Codec, timestamp type, transactional, control, delete horizon.
    pub attributes: i16,
    /// Offset of the last record, from the base offset.
    pub last_offset_delta: i32,
    /// Timestamp of the first record (or the delete horizon), in ms.
    pub base_timestamp: i64,
    /// The greatest timestamp, in ms.
    pub max_timestamp: i64,
    /// Producer id, or −1.
    pub producer_id: i64,
    /// Producer epoch, or −1.
    pub producer_epoch: i16,
    /// Sequence of the first record, or −1.
    pub base_sequence: i32,
    /// Records in the batch.
    pub record_count: i32,
}

/// A number at a fixed place of a header whose length was checked.
macro_rules! field {
    ($type:ty, $bytes:expr, $at:expr) => {
        <$type>::from_be_bytes(*$bytes[$at..].first_chunk().expect("the header's length was checked"))
    };
}

impl Header {
    /// Decodes a header. Checks what can be checked without reading the records: length, magic, and that offsets and counts agree in sign.
    /// `bytes` may go on after the batch, or end before its records do (see [`Header::whole`]).
    ///
    /// # Errors
    /// [`BatchError::Truncated`] if there are fewer than [`HEADER_BYTES`].
    pub fn parse(bytes: &[u8]) -> Result<Self, BatchError> {
        if bytes.len() > PREFIX_BYTES {
            let magic = bytes[PREFIX_BYTES] as i8;
            if magic != 2 {
                return Err(BatchError::BadMagic { magic });
            }
        }
        if bytes.len() < HEADER_BYTES {
            return Err(BatchError::Truncated { needed_bytes: HEADER_BYTES, have_bytes: bytes.len() });
        }
        let header = Self {
            base_offset: field!(i64, bytes, 0),
            length: field!(i32, bytes, 8),
            partition_leader_epoch: field!(i32, bytes, 12),
            crc: field!(u32, bytes, 17),
            attributes: field!(i16, bytes, 21),
            last_offset_delta: field!(i32, bytes, 23),
            base_timestamp: field!(i64, bytes, 27),
            max_timestamp: field!(i64, bytes, 35),
            producer_id: field!(i64, bytes, 43),
            producer_epoch: field!(i16, bytes, 51),
            base_sequence: field!(i32, bytes, 53),
            record_count: field!(i32, bytes, 57),
        };
        if header.length < (HEADER_BYTES - LENGTH_OVERHEAD_BYTES) as i32 {
            return Err(BatchError::BadLength { length: header.length });
        }
        for (field, value) in
            [("base offset", header.base_offset), ("last offset delta", i64::from(header.last_offset_delta)), ("record count", i64::from(header.record_count))]
        {
            if value < 0 {
                return Err(BatchError::BadField { field, value });
            }
        }
        Ok(header)
    }

    /// Decodes the header and checks that all of its batch is in `bytes` and that the checksum holds. The batch is the first
    /// [`Header::size_in_bytes`] of `bytes`.
    ///
    /// # Errors
    /// Any [`BatchError`].
    pub fn whole(bytes: &[u8]) -> Result<Self, BatchError> {
        let header = Self::parse(bytes)?;
        let batch = bytes.get(..header.size_in_bytes()).ok_or(BatchError::Truncated { needed_bytes: header.size_in_bytes(), have_bytes: bytes.len() })?;
        let computed = crc32c::crc32c(&batch[21..]);
        if computed != header.crc {
            return Err(BatchError::BadCrc { stored: header.crc, computed });
        }
        Ok(header)
    }

    /// The whole batch's size.
    pub fn size_in_bytes(&self) -> usize {
        self.length as usize + LENGTH_OVERHEAD_BYTES
    }

    /// The first 16 bytes of this batch as its leader stores it.
    pub fn prefix(&self, base_offset: i64, partition_leader_epoch: i32) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(&base_offset.to_be_bytes());
        prefix[8..12].copy_from_slice(&self.length.to_be_bytes());
        prefix[12..].copy_from_slice(&partition_leader_epoch.to_be_bytes());
        prefix
    }

    /// Offset of the last record.
    pub fn last_offset(&self) -> i64 {
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Offset after the last record.
    pub fn next_offset(&self) -> i64 {
        self.last_offset().saturating_add(1)
    }

    /// The compression codec's number: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    pub fn codec(&self) -> u8 {
        (self.attributes & ATTRIBUTE_CODEC) as u8
    }

    /// Whether timestamps are those of the append.
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & ATTRIBUTE_LOG_APPEND_TIME != 0
    }

    /// Whether it belongs to a transaction.
    pub fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    /// Whether it is a control batch (a transaction marker).
    pub fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    /// Whether the base timestamp is a delete horizon (KIP-534).
    pub fn has_delete_horizon(&self) -> bool {
        self.attributes & ATTRIBUTE_DELETE_HORIZON != 0
    }

    /// Whether its producer numbers its batches.
    pub fn has_producer_id(&self) -> bool {
        self.producer_id != NO_PRODUCER_ID
    }

    /// Sequence of the last record, which wraps from `i32::MAX` to 0; −1 without sequences.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE { NO_SEQUENCE } else { add_sequence(self.base_sequence, self.last_offset_delta) }
    }
}

/// A sequence number `count` later; sequences wrap from `i32::MAX` to 0 (KIP-98).
pub fn add_sequence(sequence: i32, count: i32) -> i32 {
    ((i64::from(sequence) + i64::from(count)) & i64::from(i32::MAX)) as i32
}
