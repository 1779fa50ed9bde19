//! Replicas: the partitions that this broker holds, their leader epochs and high watermarks.
//!
//! [`partition`] is one replica; [`leadership`] is what a coordinator holds of one; [`manager`] is the set of them, kept equal to what the metadata image says this broker holds.

pub mod leadership;
pub mod log_config;
pub mod manager;
pub mod partition;
