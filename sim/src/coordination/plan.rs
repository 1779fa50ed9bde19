//! What a seed draws for the ensemble, beside its swarm of faults.

use std::fmt;

use ottla::coordination::Options;

use crate::rng::Stream;

/// The directory of each member's log.
pub const DIR: &str = "/data/coordination";

/// Where members listen for each other.
pub const PORT: u16 = 2888;

/// What a seed draws.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many members there are.
    pub member_count: usize,
    /// The first member is alone at first, and the others join it.
    pub grows: bool,
    /// How many registers clients write and read.
    pub register_count: usize,
    /// How many clients each member has.
    pub client_count: usize,
    /// The mean time between two operations of a client, in milliseconds.
    pub pause_mean_ms: u64,
    /// When snapshots are taken.
    pub options: Options,
    /// The mean time between two losses of a disk, in milliseconds; 0 for none.
    pub wipe_mean_ms: u64,
    /// The mean time between two losses of a file, in milliseconds; 0 for none.
    pub lose_file_mean_ms: u64,
    /// The mean time between two removals of a member, in milliseconds; 0 for none.
    pub remove_mean_ms: u64,
    /// The mean time between two faults that make elections, in milliseconds; 0 for none.
    pub churn_mean_ms: u64,
    /// The mean time between two times that a member is cut off while it serves, in milliseconds; 0 for none.
    pub solitude_mean_ms: u64,
    /// How many clients come over the network.
    pub session_client_count: usize,
    /// The mean time between what one of them does, in milliseconds.
    pub session_pause_mean_ms: u64,
}

impl Plan {
    /// What `seed` draws.
    pub fn draw(seed: u64) -> Self {
        let mut draws = Stream::new(seed, "coordination plan", 0);
        let draws = &mut draws;
        let member_count = *draws.pick(&[1, 3, 3, 3, 3, 5]);
        let grows = draws.chance(200_000) && member_count > 1;
        let (register_count, client_count) = (draws.between(1, 4) as usize, draws.between(1, 3) as usize);
        let pause_mean_ms = *draws.pick(&[20, 60, 60, 200, 200, 200]);
        let options = Options {
            snapshot_every_bytes: *draws.pick(&[2_000, 20_000, 1 << 20]),
            snapshot_every_entries: *draws.pick(&[30, 300, 100_000]),
            snapshots_kept_count: draws.between(1, 3) as usize,
            ..Options::default()
        };
        let several = member_count > 1;
        let mut sometimes = |choices: &[u64]| {
            let drawn = *draws.pick(choices);
            if several { drawn } else { 0 }
        };
        let wipe_mean_ms = sometimes(&[0, 0, 6_000, 20_000]);
        let lose_file_mean_ms = sometimes(&[0, 0, 8_000, 20_000]);
        let remove_mean_ms = sometimes(&[0, 0, 8_000, 25_000]);
        let churn_mean_ms = sometimes(&[0, 0, 1_500, 6_000]);
        let solitude_mean_ms = sometimes(&[0, 3_000, 10_000]);
        let session_client_count = draws.between(3, 8) as usize;
        let session_pause_mean_ms = *draws.pick(&[20, 100, 100, 400, 400, 400]);
        let options = Options { trailing_entries: *draws.pick(&[0, 5, 50, 1_000]), ..options };
        Self {
            member_count,
            grows,
            register_count,
            client_count,
            pause_mean_ms,
            options,
            wipe_mean_ms,
            lose_file_mean_ms,
            remove_mean_ms,
            churn_mean_ms,
            solitude_mean_ms,
            session_client_count,
            session_pause_mean_ms,
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} members{}, {} clients each, {} registers, an operation per {} ms; snapshots {:?}; a disk lost per {} ms, a file per {} ms, a member removed per {} ms; an election per {} ms; a member cut off per {} ms; {} clients over the network, each waits {} ms",
            self.member_count,
            if self.grows { " grown from one" } else { "" },
            self.client_count,
            self.register_count,
            self.pause_mean_ms,
            self.options,
            self.wipe_mean_ms,
            self.lose_file_mean_ms,
            self.remove_mean_ms,
            self.churn_mean_ms,
            self.solitude_mean_ms,
            self.session_client_count,
            self.session_pause_mean_ms
        )
    }
}
