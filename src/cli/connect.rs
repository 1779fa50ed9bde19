//! What all commands that talk to a broker have in common: the addresses, the runtime, and the words for a broker that is not there.
#![allow(clippy::disallowed_methods, reason = "signals belong to the command line")]

use std::process::ExitCode;
use std::time::Duration;

use crate::cli::output::{Failure, finish};
use crate::client::{Client, ClientConfig, ClientError};
use crate::runtime::tokio::{TokioRuntime, run};
use crate::runtime::{HostPort, Runtime};

/// Which brokers to ask.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// Brokers to ask first, as host:port, separated by commas. One that is up is enough.
    #[arg(
        short,
        long,
        value_name = "HOST:PORT",
        env = "OTTLA_BOOTSTRAP_SERVER",
        default_value = "localhost:9092",
        value_delimiter = ',',
        visible_alias = "broker"
    )]
    bootstrap_server: Vec<HostPort>,
    /// How long to try, in ms, before giving up.
    #[arg(long, value_name = "MS", default_value_t = 15_000, hide_short_help = true)]
    timeout_ms: u64,
}

impl Args {
    /// A client for these brokers, and whether one is there: a command should not try for a minute to reach what is not running.
    pub(crate) async fn connect(&self, runtime: &TokioRuntime, name: &str) -> Result<Client<TokioRuntime>, Failure> {
        let timeout = Duration::from_millis(self.timeout_ms);
        let mut config = ClientConfig::new(self.bootstrap_server.clone());
        config.connection.client_id = format!("ottla-{name}");
        config.connection.connect_timeout = timeout.min(config.connection.connect_timeout);
        config.operation_timeout = timeout;
        config.request_timeout = timeout;
        let client = Client::new(runtime.clone(), config);
        match client.any().await {
            Ok(_) => Ok(client),
            Err(error) => Err(Failure::Message(self.explain(&error))),
        }
    }

    /// An error in words that say what to do.
    pub(crate) fn explain(&self, error: &ClientError) -> String {
        let asked = self.bootstrap_server.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let elsewhere = match error {
            ClientError::Connect { peer, .. } | ClientError::ConnectTimedOut { peer, .. } => !self.bootstrap_server.contains(peer),
            _ => false,
        };
        if elsewhere {
            return format!("{error}\nThat is the address that the broker at {asked} tells its clients to use: see its advertised.listeners.");
        }
        match error {
            _ if error.is_connect() => {
                format!(
                    "{error}\nIs the broker running? `ottla` starts one; --bootstrap-server (or OTTLA_BOOTSTRAP_SERVER) names another address than {asked}."
                )
            }
            ClientError::Closed { .. } | ClientError::Malformed { .. } => {
                format!("{error}\nIs {asked} the PLAINTEXT listener of a Kafka-protocol broker?")
            }
            _ => error.to_string(),
        }
    }
}

/// Runs a command that talks to a broker.
pub(crate) fn run_client<F, Fut>(command: F) -> ExitCode
where
    F: FnOnce(TokioRuntime) -> Fut,
    Fut: Future<Output = Result<(), Failure>> + Send + 'static,
{
    match run(1, command) {
        Ok(result) => finish(result),
        Err(error) => finish(Err(Failure::Message(format!("cannot start: {error}")))),
    }
}

/// Completes when the user or the system asks the process to end: SIGINT (Ctrl-C) or SIGTERM.
#[allow(clippy::disallowed_methods, reason = "signals belong to the command line")]
pub(crate) async fn asked_to_end() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(mut interrupt), Ok(mut terminate)) => {
            tokio::select! {
                biased;
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        }
        // Without handlers the signals end the process by themselves.
        _ => std::future::pending().await,
    }
}

/// Waits without a client.
pub(crate) async fn sleep_ms(runtime: &TokioRuntime, ms: u64) {
    runtime.sleep(Duration::from_millis(ms)).await;
}
