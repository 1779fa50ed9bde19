//! Ottla: a distributed, replicated, append-only log that speaks the Kafka protocol, with ZooKeeper-style coordination.
pub mod codec;
pub mod controller;
pub mod coordination;
pub mod record;
pub mod runtime;
