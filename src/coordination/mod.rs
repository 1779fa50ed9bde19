//! Coordination.
pub mod op;
pub mod path;
pub mod storage;
pub mod tree;
