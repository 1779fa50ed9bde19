//! The records of simulated producers: each is unique, and its bytes follow from who sent it, so that a reader can tell whether it is whole.

use bytes::Bytes;

/// Which record this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId {
    /// The producer, unique in a run.
    pub producer: u32,
    /// The producer's count of records, over all its partitions.
    pub number: u32,
}

/// Bytes before the filler.
const HEAD_BYTES: usize = 12;

impl ValueId {
    /// The record's bytes; their length follows from the id too, between 12 and about `max_bytes`.
    pub fn encode(self, max_bytes: usize) -> Bytes {
        let seed = self.seed();
        let len = HEAD_BYTES + (seed % (max_bytes.max(1) as u64)) as usize;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&self.producer.to_be_bytes());
        bytes.extend_from_slice(&self.number.to_be_bytes());
        bytes.extend_from_slice(&(len as u32).to_be_bytes());
        bytes.extend((HEAD_BYTES..len).map(|at| filler(seed, at)));
        bytes.into()
    }

    /// The record that these bytes are, if they are wholly one.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let id = Self { producer: number(0)?, number: number(4)? };
        let seed = id.seed();
        let whole = number(8)? as usize == bytes.len() && (HEAD_BYTES..bytes.len()).all(|at| bytes[at] == filler(seed, at));
        whole.then_some(id)
    }

    fn seed(self) -> u64 {
        // SplitMix64's finaliser: neighbours share no bytes.
        let mut mixed = (u64::from(self.producer) << 32 | u64::from(self.number)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

fn filler(seed: u64, at: usize) -> u8 {
    (seed.rotate_left((at % 61) as u32) >> 7) as u8 ^ at as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_tell_which_record_they_are_and_whether_they_are_whole() {
        for number in 0..200 {
            let id = ValueId { producer: 3, number };
            let bytes = id.encode(300);
            assert_eq!(ValueId::decode(&bytes), Some(id));
            assert_eq!(ValueId::decode(&bytes[..bytes.len() - 1]), None);
            let mut rotten = bytes.to_vec();
            let last = rotten.len() - 1;
            rotten[last] ^= 1;
            assert_ne!(ValueId::decode(&rotten), Some(id));
        }
    }
}
