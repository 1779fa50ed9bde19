//! Ottla: a distributed, replicated, append-only log that speaks the Kafka protocol, with ZooKeeper-style coordination.
pub mod group;
pub mod internal_topic;
pub mod record;
pub mod runtime;
pub mod wire;
