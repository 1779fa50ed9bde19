//! Consumer groups (Kafka's classic protocol): membership, rebalances, and committed offsets.
//!
//! [`state::Group`] is the state machine of one group. It is pure: every call takes the time as an argument and returns actions,
//! so that property tests and the simulator drive what ships. [`coordinator::GroupCoordinator`] is its edge: it maps groups to
//! partitions of `__consumer_offsets`, loads and unloads them, keeps the timers, and answers only what is committed.
pub mod consumer_protocol;
pub mod coordinator;
pub mod durable;
pub mod membership;
pub mod offsets;
pub mod records;
pub mod state;
#[cfg(test)]
mod tests;
pub mod types;
