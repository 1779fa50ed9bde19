//! Ottla: a distributed, replicated, append-only log that speaks the Kafka protocol, with ZooKeeper-style coordination.
pub mod log;
pub mod record;
pub mod runtime;
pub mod topic_partition;
