//! What judges the simulation judges real processes too: these are its own files, which are pure.
#![allow(dead_code, reason = "the simulation uses all of it")]

#[path = "../../sim/src/clients/history.rs"]
pub mod history;
#[path = "../../sim/src/rng.rs"]
pub mod rng;
#[path = "../../sim/src/clients/value.rs"]
pub mod value;
