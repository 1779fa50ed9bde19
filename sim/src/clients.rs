//! Clients of simulated brokers, of many habits, and the judge of what they did and saw: shared by all scenarios with brokers.
//!
//! | file | what |
//! |---|---|
//! | [`crew`] | the clients of a run, started together and waited for |
//! | [`history`] | what clients did and saw, and the checks over it |
//! | [`producer`], [`reader`], [`member`], [`admin`], [`mover`] | the clients' habits |
//! | [`link`], [`value`] | what clients share; the records that they write |

pub mod admin;
pub mod crew;
pub mod history;
pub mod link;
pub mod member;
pub mod mover;
pub mod producer;
pub mod reader;
pub mod value;
