//! Ottla: a distributed, replicated, append-only log that speaks the Kafka protocol, with ZooKeeper-style coordination.
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod codec;
pub mod config;
pub mod log;
pub mod production;
pub mod record;
pub mod replication;
pub mod runtime;
pub mod topic_partition;
pub mod wire;
