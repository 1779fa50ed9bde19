//! The coordination ensemble under simulation: one, three or five members that suffer everything, disks lost and members removed besides, clients
//! of several habits inside of them, and ZooKeeper's clients outside.
//!
//! | file | what |
//! |---|---|
//! | [`scenario`] | the phases of a run |
//! | [`plan`] | what a seed draws |
//! | [`history`] | what clients did and saw, what members applied, and the checks over it |
//! | [`client`] | the clients' habits |
//! | [`amnesia`] | members that lose their disk, or a file of it, or their membership |
//! | [`churn`] | more elections |
//! | [`solitude`] | members that are cut off while they serve |
//! | [`sessions`] | ZooKeeper's clients over the network, and the oracle that judges what they are told |

pub mod amnesia;
pub mod churn;
pub mod client;
pub mod history;
pub mod plan;
pub mod scenario;
pub mod sessions;
pub mod solitude;
