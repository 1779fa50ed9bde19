//! The cluster under simulation: brokers and the ensemble that coordinates them, all of which suffer everything, and clients of many habits
//! ([`clients`](crate::clients)).
//!
//! | file | what |
//! |---|---|
//! | [`scenario`] | the phases of a run |
//! | [`plan`] | what a seed draws |
//! | [`hosts`] | the lives of brokers and members, and the handles to look into them |
//! | [`monitor`], [`logs`] | what must hold at every moment: of roles and metadata, of what the disks hold |
//! | [`churn`] | faults that are aimed: at leaders, at the controller, at disks; rolling restarts |
//! | [`plots`] | faults of several steps, each the way to a loss that one rule alone prevents |
//! | [`core`] | what is healed, and what stays broken for ever |

pub mod churn;
pub mod core;
pub mod hosts;
pub mod logs;
pub mod monitor;
pub mod plan;
pub mod plots;
pub mod scenario;
