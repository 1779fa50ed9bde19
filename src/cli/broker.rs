//! `ottla` and `ottla broker`: reads the configuration and starts a broker.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::output::complain;
use crate::config::BrokerConfig;
use crate::runtime::tokio::run as run_tokio;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The configuration: a server.properties with Kafka's keys. Without one, the broker listens on localhost:9092 and keeps its data in
    /// ./ottla-data.
    pub(crate) file: Option<PathBuf>,
    /// Sets a key of the configuration, over the file; may be repeated.
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Stop when standard input ends: for whoever starts a broker and may die before it.
    #[arg(long, hide = true)]
    pub(crate) stop_with_stdin: bool,
}

pub(crate) fn run(args: Args) -> ExitCode {
    let Args { file, overrides, stop_with_stdin } = args;
    let loaded = run_tokio(1, |runtime| async move { BrokerConfig::load(&runtime, file.as_deref(), &overrides).await });
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
    if stop_with_stdin {
        terminate_when_stdin_ends();
    }
    crate::production::run_broker(config)
}

/// Asks this process to stop, as SIGTERM does, once nobody can write to its standard input any more.
#[allow(clippy::disallowed_methods, reason = "the process's own input and signals belong to the command line; the thread does nothing but wait for them")]
fn terminate_when_stdin_ends() {
    let wait = || {
        // Whatever is written there is not meant for a broker.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
    };
    if let Err(error) = std::thread::Builder::new().name("ottla-stdin".to_owned()).spawn(wait) {
        complain(format_args!("standard input is not watched: {error}; stop this broker by a signal"));
    }
}

/// Events go to standard error; `OTTLA_LOG` says which, in the syntax of `tracing`'s filters (`OTTLA_LOG=debug`, `OTTLA_LOG=ottla::log=trace`).
pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing_subscriber::filter::LevelFilter::INFO.into())
        .with_env_var("OTTLA_LOG")
        .from_env_lossy();
    let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    // An embedder's subscriber that is there already is fine, too.
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).with_target(false).try_init();
}
