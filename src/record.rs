//! Records as Kafka stores and sends them: record batches of format v2, read in place.
pub mod batch;
