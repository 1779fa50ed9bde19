//! `ottla completion`: scripts by which shells complete commands and options.

use std::io::Write;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::cli::Cli;
use crate::cli::output::{Failure, finish, stdout};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &Args) -> ExitCode {
    // Written to memory first: the generator panics where its output fails, as when the reader has gone away.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "ottla", &mut script);
    let mut out = stdout();
    finish(out.write_all(&script).and_then(|()| out.flush()).map_err(Failure::from))
}
