//! Frames of Ottla's own persistent formats, and the only user of `bincode`.
//!
//! A frame is a 12-byte head and a body. All integers of the head are big-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 2 | format version of the body |
//! | 1 | kind: what the body is, in the numbering of the file that holds the frame |
//! | 1 | reserved, zero |
//! | 4 | length of the body in bytes |
//! | 4 | CRC-32 (IEEE) of the eight bytes before and of the body |
//!
//! The head and its checksum never change: a reader tells an intact frame of a newer version ("made by a newer Ottla") from a
//! damaged one. The body is `bincode` 2's standard encoding of a serde type, decoded with a size limit always.

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The length of a frame's head in bytes.
pub const HEAD_BYTES: usize = 12;

/// The largest body of a frame in bytes: 64 MiB. Neither written nor read beyond it.
pub const BODY_MAX_BYTES: usize = 64 << 20;

/// The type of the configuration that every encode and decode uses.
const CONFIG: bincode::config::Configuration<bincode::config::LittleEndian, bincode::config::Varint, bincode::config::Limit<BODY_MAX_BYTES>> =
    bincode::config::standard().with_limit::<BODY_MAX_BYTES>();

/// An intact frame: its checksum matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The format version of the body.
    pub version: u16,
    /// What the body is.
    pub kind: u8,
    /// The encoded body.
    pub body: Bytes,
}

impl Frame {
    /// The bytes of the whole frame.
    pub fn len_bytes(&self) -> usize {
        HEAD_BYTES + self.body.len()
    }

    /// Decodes the body; all of it must be used.
    ///
    /// # Errors
    /// [`DecodeError`] if the body is no `T` or is longer than one.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, DecodeError> {
        decode(&self.body)
    }
}

/// Why bytes are not an intact frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The bytes end before the frame does.
    #[error("the frame needs {needed_bytes} bytes, and {available_bytes} are there")]
    Short {
        /// Bytes from the frame's start to its end, as far as known: the head's length if that is incomplete.
        needed_bytes: usize,
        /// Bytes that are there.
        available_bytes: usize,
    },
    /// The length cannot be one that was written.
    #[error("the frame claims a body of {claimed_bytes} bytes; at most {BODY_MAX_BYTES} are ever written")]
    TooLong {
        /// The claimed length of the body.
        claimed_bytes: usize,
    },
    /// The checksum does not match.
    #[error("the frame's checksum is {computed:08x}, and {stored:08x} is stored")]
    Checksum {
        /// The stored CRC-32.
        stored: u32,
        /// The CRC-32 of what is there.
        computed: u32,
    },
}

/// A value that could not be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The body is larger than [`BODY_MAX_BYTES`].
    #[error("the encoded body has {body_bytes} bytes; at most {BODY_MAX_BYTES} are allowed")]
    TooLong {
        /// The length of the encoded body.
        body_bytes: usize,
    },
    /// The type refused to be serialised.
    #[error("the value cannot be encoded: {reason}")]
    Refused {
        /// bincode's words.
        reason: String,
    },
}

/// A body that is not what its kind and version say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes are no value of the type.
    #[error("the body cannot be decoded: {reason}")]
    Malformed {
        /// bincode's words.
        reason: String,
    },
    /// Bytes are left over.
    #[error("{left_over_bytes} bytes are left over after the body")]
    LeftOver {
        /// How many.
        left_over_bytes: usize,
    },
}

/// The bytes of `value`, without a frame.
///
/// # Errors
/// [`EncodeError`], also when the result would exceed [`BODY_MAX_BYTES`].
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, EncodeError> {
    let body = bincode::serde::encode_to_vec(value, CONFIG).map_err(|error| EncodeError::Refused { reason: error.to_string() })?;
    if body.len() > BODY_MAX_BYTES { Err(EncodeError::TooLong { body_bytes: body.len() }) } else { Ok(body) }
}

/// The value of all of `bytes`.
///
/// # Errors
/// [`DecodeError`] if the bytes are no `T`, or if some are left over.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (value, used) = bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|error| DecodeError::Malformed { reason: error.to_string() })?;
    if used == bytes.len() { Ok(value) } else { Err(DecodeError::LeftOver { left_over_bytes: bytes.len() - used }) }
}

/// The value at the start of `bytes`, whatever follows.
///
/// # Errors
/// [`DecodeError`] if the bytes do not begin with a `T`.
pub fn decode_prefix<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let decoded = bincode::serde::decode_from_slice(bytes, CONFIG).map_err(|error| DecodeError::Malformed { reason: error.to_string() })?;
    Ok(decoded.0)
}

/// Appends one frame to `to` and returns its length in bytes.
///
/// # Errors
/// [`EncodeError`]; `to` is as before then.
pub fn write_frame<T: Serialize>(to: &mut BytesMut, version: u16, kind: u8, value: &T) -> Result<usize, EncodeError> {
    let body = encode(value)?;
    let length = u32::try_from(body.len()).map_err(|_| EncodeError::TooLong { body_bytes: body.len() })?;
    let mut head = [0; HEAD_BYTES];
    head[..2].copy_from_slice(&version.to_be_bytes());
    head[2] = kind;
    head[4..8].copy_from_slice(&length.to_be_bytes());
    let crc = checksum(&head[..8], &body);
    head[8..].copy_from_slice(&crc.to_be_bytes());
    to.extend_from_slice(&head);
    to.extend_from_slice(&body);
    Ok(HEAD_BYTES + body.len())
}

/// The frame at the start of `bytes`; its body shares their memory.
///
/// # Errors
/// [`FrameError`]. [`FrameError::Short`] says how many bytes to bring: first for the head, then for the whole frame.
pub fn read_frame(bytes: &Bytes) -> Result<Frame, FrameError> {
    let Some(head) = bytes.first_chunk::<HEAD_BYTES>() else {
        return Err(FrameError::Short { needed_bytes: HEAD_BYTES, available_bytes: bytes.len() });
    };
    let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    let stored = u32::from_be_bytes([head[8], head[9], head[10], head[11]]);
    if length > BODY_MAX_BYTES {
        return Err(FrameError::TooLong { claimed_bytes: length });
    }
    if bytes.len() < HEAD_BYTES + length {
        return Err(FrameError::Short { needed_bytes: HEAD_BYTES + length, available_bytes: bytes.len() });
    }
    let body = bytes.slice(HEAD_BYTES..HEAD_BYTES + length);
    let computed = checksum(&head[..8], &body);
    // A run of zeros is no frame: its checksum field is zero, and the CRC-32 of eight zero bytes is not.
    if computed != stored {
        return Err(FrameError::Checksum { stored, computed });
    }
    Ok(Frame { version: u16::from_be_bytes([head[0], head[1]]), kind: head[2], body })
}

fn checksum(head: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(head);
    crc.update(body);
    crc.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes_of_a_frame() {
        let mut bytes = BytesMut::new();
        let written = write_frame(&mut bytes, 1, 7, &(300u64, "ab".to_owned())).unwrap();
        assert_eq!(written, bytes.len());
        assert_eq!(&bytes[..8], [0, 1, 7, 0, 0, 0, 0, 6]);
        assert_eq!(&bytes[12..], [251, 44, 1, 2, b'a', b'b']);
        assert_eq!(&bytes[8..12], crc32fast::hash(&[0, 1, 7, 0, 0, 0, 0, 6, 251, 44, 1, 2, b'a', b'b']).to_be_bytes());
    }

    #[test]
    fn zeros_are_no_frame() {
        assert!(matches!(read_frame(&Bytes::from(vec![0; 64])), Err(FrameError::Checksum { .. })));
    }

    #[test]
    fn a_hostile_length_reads_and_allocates_nothing() {
        let mut bytes = vec![0; 64];
        bytes[4..8].copy_from_slice(&u32::MAX.to_be_bytes());
        assert!(matches!(read_frame(&Bytes::from(bytes)), Err(FrameError::TooLong { .. })));
        assert!(decode::<Vec<u64>>(&[253, 255, 255, 255, 255, 255, 255, 255, 255]).is_err());
        assert!(decode::<Bytes>(&[252, 255, 255, 255, 3]).is_err());
    }

    #[test]
    fn left_over_bytes_are_refused() {
        assert_eq!(decode::<u8>(&[1, 2]), Err(DecodeError::LeftOver { left_over_bytes: 1 }));
    }

    proptest! {
        #[test]
        fn frames_round_trip_and_any_flipped_bit_is_seen(data: Vec<u8>, number: i64, flip: prop::sample::Index) {
            let mut bytes = BytesMut::new();
            write_frame(&mut bytes, 3, 9, &(number, Bytes::from(data.clone()))).unwrap();
            let frame = read_frame(&bytes.clone().freeze()).unwrap();
            prop_assert_eq!((frame.version, frame.kind), (3, 9));
            prop_assert_eq!(frame.decode::<(i64, Bytes)>().unwrap(), (number, Bytes::from(data)));
            let bit = flip.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read_frame(&bytes.freeze()).is_err());
        }

        #[test]
        fn every_prefix_is_short(data: Vec<u8>) {
            let mut bytes = BytesMut::new();
            write_frame(&mut bytes, 1, 1, &data).unwrap();
            let bytes = bytes.freeze();
            for end in 0..bytes.len() {
                let short = matches!(read_frame(&bytes.slice(..end)), Err(FrameError::Short { .. }));
                prop_assert!(short);
            }
        }
    }
}
