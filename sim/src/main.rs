//! The `ottla-sim` command: runs seeds of the simulated world. See `--help`.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::main()
}
