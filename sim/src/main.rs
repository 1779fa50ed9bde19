//! The `ottla-sim` command: runs seeds of the simulated world. See `--help`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the command works with real files, processes and time, around the simulation")]

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
