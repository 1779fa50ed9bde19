//! Coordination.
pub mod op;
pub mod path;
pub mod tree;
