//! A small Kafka client over the [`Runtime`](crate::runtime::Runtime): the command line, followers and simulated workloads use it.
//!
//! - [`connection`]: one TCP connection: correlation ids, pipelining, versions, time-outs
//! - [`cluster`]: [`Client`]: bootstrap, metadata, leaders, coordinators, retries
//! - [`producer`]: [`Producer`], and what became of each record: acknowledged, refused, or unknown
//! - [`consumer`]: [`Consumer`]: positions, fetching, resets; [`fetching`]: fetch requests and sessions; [`group`]: membership in a
//!   consumer group; [`assignor`]: who gets which partition (pure)
//! - [`admin`]: topics, groups, configurations, offsets
//! - [`error`]: [`ClientError`], which knows whether the broker may have done what was asked
//!
//! Nothing here outlives its owner: tasks end when the value that needs them is dropped.

pub mod admin;
pub mod assignor;
pub mod cluster;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod fetching;
pub mod group;
pub mod producer;

pub use cluster::{Client, ClientConfig};
pub use connection::Connection;
pub use consumer::{Consumer, ConsumerConfig};
pub use error::ClientError;
pub use producer::{Producer, ProducerConfig};

#[cfg(test)]
mod tests;
