//! The integration binary: whatever needs the real file system, real sockets or the real `ottla` process.
//!
//! Tests of modules live beside the modules, simulated ones in `sim/`, real clients in `ci/clients`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "this side drives the broker from outside, through the real operating system")]

mod contract_tokio;
mod protocol;
mod tidy;

mod checker;
mod process;
mod traffic;

mod adopt;
mod cluster;
mod coordination;
mod disk_full;
mod ensemble;
mod hostile;
mod kill;
mod outside;
mod recovery;
mod replicas;
mod start;
