//! The variable-length integers of records: zigzag, so that small negative numbers are short, then seven bits a byte, low bits first. Values as in
//! protocol buffers; a `varint` has at most five bytes, a `varlong` ten.

/// Reads a varlong from the start of `bytes`: the value and its length. `None` if it is cut off or too long.
pub fn read_varlong(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut value = 0u64;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(((value >> 1) as i64 ^ -((value & 1) as i64), index + 1));
        }
    }
    None
}

/// Reads a varint from the start of `bytes`: the value and its length. `None` if it is cut off or too long.
pub fn read_varint(bytes: &[u8]) -> Option<(i32, usize)> {
    // Almost all lengths and deltas take one byte.
    let first = *bytes.first()?;
    if first & 0x80 == 0 {
        return Some((i32::from(first >> 1) ^ -i32::from(first & 1), 1));
    }
    let mut value = 0u32;
    for (index, byte) in bytes.iter().take(5).enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some(((value >> 1) as i32 ^ -((value & 1) as i32), index + 1));
        }
    }
    None
}

/// Appends a varlong.
pub fn put_varlong(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Appends a varint. The bytes are those of the varlong of the same value.
pub fn put_varint(out: &mut Vec<u8>, value: i32) {
    put_varlong(out, i64::from(value));
}

/// Bytes of a varlong, or of the varint of the same value.
pub fn varlong_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (63 - (zigzag | 1).leading_zeros() as usize) / 7 + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_go_round(value: i64, shift in 0..64) {
            let value = value >> shift;
            let mut bytes = Vec::new();
            put_varlong(&mut bytes, value);
            prop_assert_eq!(bytes.len(), varlong_bytes(value));
            prop_assert_eq!(read_varlong(&bytes), Some((value, bytes.len())));
            prop_assert_eq!(read_varlong(&bytes[..bytes.len() - 1]), None);
            if let Ok(value) = i32::try_from(value) {
                prop_assert_eq!(read_varint(&bytes), Some((value, bytes.len())));
            }
        }
    }

    #[test]
    fn values_known_from_protocol_buffers() {
        for (value, bytes) in [(0, &[0][..]), (-1, &[1]), (1, &[2]), (63, &[0x7e]), (-64, &[0x7f]), (64, &[0x80, 1]), (150, &[0xac, 2])] {
            assert_eq!(read_varint(bytes), Some((value, bytes.len())));
            assert_eq!(read_varlong(bytes), Some((i64::from(value), bytes.len())));
        }
        assert_eq!(read_varint(&[0xff; 6]), None);
        assert_eq!(read_varlong(&[0xff; 11]), None);
        assert_eq!(read_varint(&[]), None);
    }
}
