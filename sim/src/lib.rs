//! The simulator of Ottla: hosts, disks, clocks and a network under one seed, inside one process, on madsim's executor and time.
//!
//! The same types that are bound to the operating system in production are bound to [`runtime::SimRuntime`] here. A scenario
//! ([`scenario::Scenario`]) gets a [`world::World`], starts processes on hosts, lets a [`nemesis`] loose and judges what it sees.
//!
//! A seed runs in a process of its own (`sweep` and `plants` start one each): libraries keep some state for the whole process, a counter behind tokio's
//! `watch` for one, which decides who of several is woken first, and what ran before must not decide anything.
//!
//! | to change | go to |
//! |---|---|
//! | what a crash leaves of a file | [`disk::content`] |
//! | what a crash leaves of names, full disks, locks | [`disk::model`] |
//! | latency and faults of I/O calls, crash points | [`disk::ops`] |
//! | connections, latency, blocks, resets | [`net::model`] |
//! | drift and jumps of clocks | [`clock`] |
//! | hosts, processes, healing | [`world`], [`state`] |
//! | which faults a seed draws | [`nemesis`] |
//! | exit codes | [`verdict`] |

#[cfg(not(madsim))]
compile_error!(
    "ottla-sim needs `--cfg madsim`, which .cargo/config.toml sets for the whole workspace, but a RUSTFLAGS variable (or \
     CARGO_ENCODED_RUSTFLAGS) overrides it: unset it, or add `--cfg madsim` to it"
);

pub mod broker;
pub mod clients;
pub mod clock;
pub mod cluster;
pub mod coordination;
pub mod disk;
pub mod nemesis;
pub mod net;
pub mod rng;
pub mod runtime;
pub mod scenario;
pub mod selftest;
pub mod state;
pub mod trace;
pub mod verdict;
pub mod world;
