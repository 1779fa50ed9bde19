//! `ottla log`: look into the files of a log.
use std::process::ExitCode;

use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Nothing yet.
    Dump,
}

/// Runs it.
pub fn run(_: Command) -> ExitCode {
    ExitCode::FAILURE
}
