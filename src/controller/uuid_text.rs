//! Kafka's text form of a UUID: 22 characters of URL-safe base64 without padding, as in `topic_id` and cluster ids.

use uuid::Uuid;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The text of `uuid`.
pub fn to_text(uuid: Uuid) -> String {
    // 22 characters hold 132 bits: the four lowest of the last one are zero.
    let bits = uuid.as_u128();
    (0..22u32)
        .map(|at| {
            let shift = 122i32 - 6 * at as i32;
            let value = if shift >= 0 { bits >> shift } else { bits << -shift };
            char::from(ALPHABET[(value & 63) as usize])
        })
        .collect()
}

/// The UUID that `text` stands for; `None` if it is not what [`to_text`] makes.
pub fn from_text(text: &str) -> Option<Uuid> {
    if text.len() != 22 {
        return None;
    }
    let mut bits = 0u128;
    for (at, byte) in text.bytes().enumerate() {
        let value = ALPHABET.iter().position(|&letter| letter == byte)? as u128;
        if at < 21 {
            bits = bits << 6 | value;
        } else if value & 15 != 0 {
            return None;
        } else {
            bits = bits << 2 | value >> 4;
        }
    }
    Some(Uuid::from_u128(bits))
}

/// A random UUID (version 4) from 128 random bits, or `None` if Kafka would draw again: its text must not begin with a dash, which
/// command lines would take for an option.
pub fn from_random(high: u64, low: u64) -> Option<Uuid> {
    let uuid = uuid::Builder::from_random_bytes((u128::from(high) << 64 | u128::from(low)).to_be_bytes()).into_uuid();
    if to_text(uuid).starts_with('-') { None } else { Some(uuid) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_are_kafkas() {
        // Kafka's own constants: `Uuid.ZERO_UUID` and `Uuid.ONE_UUID`.
        assert_eq!(to_text(Uuid::nil()), "AAAAAAAAAAAAAAAAAAAAAA");
        assert_eq!(to_text(Uuid::from_u128(1)), "AAAAAAAAAAAAAAAAAAAAAQ");
        assert_eq!(to_text(Uuid::from_u128(u128::MAX)), "_____________________w");
        assert_eq!(from_text("AAAAAAAAAAAAAAAAAAAAAB"), None);
        assert_eq!(from_text("AAAA"), None);
        assert_eq!(from_text("AAAAAAAAAAAAAAAAAAAA+Q"), None);
        assert_eq!(from_text("ÄAAAAAAAAAAAAAAAAAAAA"), None);
    }

    proptest! {
        #[test]
        fn texts_round_trip(bits: u128) {
            let uuid = Uuid::from_u128(bits);
            prop_assert_eq!(from_text(&to_text(uuid)), Some(uuid));
        }

        #[test]
        fn random_ones_are_version_4_and_no_option(high: u64, low: u64) {
            if let Some(uuid) = from_random(high, low) {
                prop_assert_eq!(uuid.get_version_num(), 4);
                prop_assert!(!to_text(uuid).starts_with('-'));
            }
        }
    }
}
