//! The broker under simulation: a real one on a host that suffers everything, and clients of many habits ([`clients`](crate::clients)).
//!
//! | file | what |
//! |---|---|
//! | [`scenario`] | the phases of a run |
//! | [`plan`] | what a seed draws |
//! | [`whitebox`] | what the stopped broker's disk holds |

pub mod plan;
pub mod scenario;
pub mod whitebox;
