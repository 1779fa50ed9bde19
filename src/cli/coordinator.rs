//! `ottla coordinator`: reads the configuration and starts a member of the coordination service that is no broker.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::broker::log_to_stderr;
use crate::cli::output::complain;
use crate::config::CoordinatorConfig;
use crate::runtime::tokio::run as run_tokio;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The configuration: a coordinator.properties, or a zoo.cfg as it is. Without one, a single coordinator serves ZooKeeper clients on
    /// localhost:2181 and keeps its data in ./ottla-coordination.
    pub(crate) file: Option<PathBuf>,
    /// Sets a key of the configuration, over the file; may be repeated.
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let Args { file, overrides } = args;
    let loaded = run_tokio(1, |runtime| async move { CoordinatorConfig::load(&runtime, file.as_deref(), &overrides).await });
    let config = match loaded {
        Ok(Ok(config)) => config,
        Ok(Err(error)) => {
            complain(format_args!("{error}"));
            return ExitCode::from(2);
        }
        Err(error) => {
            complain(format_args!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    log_to_stderr();
    for note in &config.notes {
        complain(format_args!("{note}"));
    }
    crate::production::run_coordinator(config)
}
