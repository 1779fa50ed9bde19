//! Randomness: one seed, and a stream of its own for each subsystem, so that switching one off leaves the others' draws alone.
//!
//! xoshiro256** seeded by splitmix64, written out here because a seed must mean the same run for as long as the code around it does;
//! generators of libraries change between versions. Checkers never draw.

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Stream {
    state: [u64; 4],
}

fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

impl Stream {
    /// The stream `label` of the run `seed`; `index` tells apart streams of several hosts.
    pub fn new(seed: u64, label: &str, index: u64) -> Self {
        let mut mix = seed;
        let mut root = splitmix(&mut mix);
        for byte in label.bytes() {
            mix ^= u64::from(byte);
            root ^= splitmix(&mut mix);
        }
        mix ^= index;
        root ^= splitmix(&mut mix);
        let mut state = [0; 4];
        for word in &mut state {
            *word = splitmix(&mut root);
        }
        Self { state }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        let result = self.state[1].wrapping_mul(5).rotate_left(7).wrapping_mul(9);
        let shifted = self.state[1] << 17;
        self.state[2] ^= self.state[0];
        self.state[3] ^= self.state[1];
        self.state[1] ^= self.state[2];
        self.state[0] ^= self.state[3];
        self.state[2] ^= shifted;
        self.state[3] = self.state[3].rotate_left(45);
        result
    }

    /// A number from 0 up to but without `bound`. Zero if `bound` is zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The bias of a 128-bit multiplication is below 2^-32 for every bound used here.
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// A number between the two, both included.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        if high <= low {
            let _ = self.bits();
            return low;
        }
        low + self.below(high - low + 1)
    }

    /// An index below `len`, which must not be zero.
    pub fn index(&mut self, len: usize) -> usize {
        assert!(len > 0, "an index into nothing");
        self.below(len as u64) as usize
    }

    /// True in `per_million` of a million cases. Always draws, so that a rate of zero keeps the stream in step.
    pub fn chance(&mut self, per_million: u32) -> bool {
        self.below(1_000_000) < u64::from(per_million)
    }

    /// Exponentially distributed with `mean`, at most 20 times that.
    pub fn exponential(&mut self, mean: u64) -> u64 {
        let uniform = ((self.bits() >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
        // `ln` may differ in its last bit between platforms: rounding to 1/1024 of the mean keeps runs alike almost everywhere.
        let steps = (-uniform.ln() * 1024.0).min(20.0 * 1024.0) as u64;
        (u128::from(mean) * u128::from(steps) / 1024) as u64
    }

    /// One of `choices`, which must not be empty.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.index(choices.len())]
    }

    /// The bytes of `buffer` become random.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bits = self.bits().to_le_bytes();
            chunk.copy_from_slice(&bits[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_independent_and_repeatable() {
        let draw = |seed, label: &str, index| Stream::new(seed, label, index).bits();
        assert_eq!(draw(1, "disk", 0), draw(1, "disk", 0));
        let mut all = vec![draw(1, "disk", 0), draw(1, "disk", 1), draw(2, "disk", 0), draw(1, "network", 0), draw(1, "", 0), draw(0, "", 0)];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }

    #[test]
    fn bounds_hold_and_means_are_near() {
        let mut stream = Stream::new(7, "test", 0);
        let mut sum = 0;
        for _ in 0..10_000 {
            assert!(stream.below(10) < 10);
            let between = stream.between(5, 7);
            assert!((5..=7).contains(&between));
            sum += stream.exponential(1_000);
        }
        assert!((9_000_000..11_000_000).contains(&sum), "mean {}", sum / 10_000);
        assert_eq!((0..100_000).filter(|_| stream.chance(0)).count(), 0);
        assert_eq!((0..1_000).filter(|_| stream.chance(1_000_000)).count(), 1_000);
    }
}
