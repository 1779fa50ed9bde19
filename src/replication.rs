//! Replicas: the partitions that this broker holds, their leader epochs and high watermarks.
//!
//! [`leader`], [`follower`] and [`order`] are pure: what a leader knows of its followers, what a follower does to be like its leader, which orders are obeyed; [`alter_partition`] puts
//! proposals of in-sync replicas on the wire.
//! [`partition`] is one replica; [`fetcher`] is what makes followers like their leaders, [`lag`] looks for those that fell behind; [`trouble`] keeps which cannot be used, [`quota`] what replication may take of the network; [`leadership`] is what a coordinator holds of one; [`manager`] is the set of them, kept equal to what the metadata image says this broker holds.

pub mod alter_partition;
pub mod fetcher;
pub mod follower;
pub mod interest;
pub mod lag;
pub mod leader;
pub mod leadership;
pub mod log_config;
pub mod manager;
#[cfg(test)]
mod model;
pub mod order;
pub mod partition;
pub mod quota;
pub mod trouble;
