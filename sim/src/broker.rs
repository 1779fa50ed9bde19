//! The broker under simulation: a real one on a host that suffers everything, and clients of many habits.
//!
//! | file | what |
//! |---|---|
//! | [`scenario`] | the phases of a run |
//! | [`plan`] | what a seed draws |
//! | [`history`] | what clients did and saw, and the checks over it |
//! | [`producer`], [`reader`], [`member`], [`admin`] | the clients' habits |
//! | [`link`], [`value`] | what clients share; the records that they write |
//! | [`whitebox`] | what the stopped broker's disk holds |

pub mod admin;
pub mod history;
pub mod link;
pub mod member;
pub mod plan;
pub mod producer;
pub mod reader;
pub mod scenario;
pub mod value;
pub mod whitebox;
