//! The `ottla-sim` command: runs seeds of the simulated world. See `--help`.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the command works with real files, processes and time, around the simulation")]

use std::process::ExitCode;

mod cli;

/// A run allocates and frees all the time, on one thread.
// tidy-allow: static
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
