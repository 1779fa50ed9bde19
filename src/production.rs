//! Binds the broker to the production runtime.

use std::process::ExitCode;

use crate::config::BrokerConfig;

/// Runs a broker until it is asked to stop.
pub fn run_broker(config: BrokerConfig) -> ExitCode {
    drop(config);
    ExitCode::FAILURE
}
