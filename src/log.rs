//! One partition on disk, in Kafka's own format and names, and the directories that hold many.
//!
//! | What | Where |
//! |---|---|
//! | append, roll | `append` |
//! | reading, by offset and by time | `read`, `timestamps` |
//! | who syncs when; what is durable | `flush` |
//! | what makes recovery short | `checkpointing` |
//! | opening after a crash | [`recovery`] |
//! | deleting from the start, cutting the end | [`retention`], `truncate` |
//! | a log's shared state and its locks | `partition_log` |
//! | all partitions of all directories | [`manager`] |
//! | formats, pure | [`index`], [`time_index`], [`epoch_cache`], [`producer_state`], [`producer_snapshot`], [`checkpoint`], [`partition_metadata`], [`meta_properties`], [`txn_index`] |
//! | directories that Kafka wrote | [`adoption`] |
//!
//! The promise: a record below [`Log::durable_end_offset`] survives any crash, and nothing is published as durable that is not. What is
//! above it may be lost, wholly or from some batch on, never in between.

pub mod adoption;
mod append;
mod boundaries;
pub mod checkpoint;
mod checkpointing;
mod config;
mod dir;
pub mod epoch_cache;
mod error;
mod flush;
pub mod index;
mod interrupted;
pub mod manager;
pub mod meta_properties;
pub mod names;
mod partition_log;
pub mod partition_metadata;
pub mod producer_snapshot;
pub mod producer_state;
mod read;
pub mod recovery;
pub mod retention;
mod scan;
mod segment;
pub mod time_index;
mod timestamps;
mod truncate;
pub mod txn_index;

pub use append::{AppendInfo, BatchToAppend};
pub use config::{LogConfig, TimestampType};
pub use epoch_cache::EpochCache;
pub use error::{AppendError, LogError, ReadError};
pub use flush::FlushPolicy;
pub use manager::{LogManager, LogManagerConfig, OpenError};
pub use partition_log::Log;
pub use producer_state::{ProducerStates, SequenceError};
pub use read::FetchSlice;
pub use recovery::{RecoveryError, RecoveryReport};
pub use retention::RetentionReport;
pub use timestamps::TimestampOffset;

#[cfg(test)]
mod tests;
