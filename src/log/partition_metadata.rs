//! `partition.metadata`: which topic id a partition's directory belongs to (KIP-516). Kafka's format:
//!
//! ```text
//! version: 0
//! topic_id: 4TWv5jdTTs6RKfVM2Pxzqw
//! ```

use thiserror::Error;
use uuid::Uuid;

/// Why a text is not partition metadata.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PartitionMetadataError {
    /// Not UTF-8, or a line is missing or unknown.
    #[error("partition.metadata has '{line}' where '{expected}' was expected")]
    BadLine {
        /// What is there.
        line: String,
        /// What should be.
        expected: &'static str,
    },
}

/// The text for a topic id.
pub fn encode(topic_id: Uuid) -> String {
    format!("version: 0\ntopic_id: {}", encode_uuid(topic_id))
}

/// Reads the topic id.
///
/// # Errors
/// If the text is not partition metadata of version 0.
pub fn parse(text: &[u8]) -> Result<Uuid, PartitionMetadataError> {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines();
    let mut value = |key: &str, expected: &'static str| {
        let line = lines.next().unwrap_or("");
        let value = line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')).map(str::trim);
        value.map(str::to_owned).ok_or_else(|| PartitionMetadataError::BadLine { line: line.to_owned(), expected })
    };
    let version = value("version", "version: 0")?;
    if version != "0" {
        return Err(PartitionMetadataError::BadLine { line: format!("version: {version}"), expected: "version: 0" });
    }
    let id = value("topic_id", "topic_id: and 22 characters of base64url")?;
    decode_uuid(&id).ok_or(PartitionMetadataError::BadLine { line: format!("topic_id: {id}"), expected: "topic_id: and 22 characters of base64url" })
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// A UUID as Kafka prints it: base64url of its 16 bytes, without padding.
pub fn encode_uuid(id: Uuid) -> String {
    let bits = id.as_u128();
    // 22 digits of 6 bits; the last one holds the 2 lowest bits, then 4 zeros.
    (0..22).map(|at| char::from(ALPHABET[if at < 21 { (bits >> (122 - 6 * at)) as usize & 63 } else { (bits as usize & 3) << 4 }])).collect()
}

/// Reads [`encode_uuid`]'s text.
pub fn decode_uuid(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits: u128 = 0;
    for (at, byte) in text.bytes().enumerate() {
        let digit = ALPHABET.iter().position(|letter| *letter == byte)? as u128;
        if at == 21 {
            if digit & 15 != 0 {
                return None;
            }
            bits = bits << 2 | digit >> 4;
        } else {
            bits = bits << 6 | digit;
        }
    }
    Some(Uuid::from_u128(bits))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_kafkas() {
        // Kafka's METADATA_TOPIC_ID, Uuid(0, 1), prints as AAAAAAAAAAAAAAAAAAAAAQ.
        assert_eq!(encode(Uuid::from_u128(1)), "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(parse(b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ"), Ok(Uuid::from_u128(1)));
        assert!(parse(b"version: 1\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ").is_err());
        assert!(parse(b"version: 0\n").is_err());
        assert!(parse(b"version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAB").is_err());
    }

    proptest! {
        #[test]
        fn ids_round_trip(bits: u128) {
            prop_assert_eq!(decode_uuid(&encode_uuid(Uuid::from_u128(bits))), Some(Uuid::from_u128(bits)));
        }
    }
}
