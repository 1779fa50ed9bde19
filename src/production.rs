//! Production: the broker bound to [`TokioRuntime`], once. The command line calls [`run_broker`]; the simulator never does.
#![allow(clippy::disallowed_methods, reason = "the process's own signals, threads and host name: what starts the runtime cannot be behind it")]

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Broker;
use crate::config::broker::BrokerConfig;
use crate::runtime::tokio::TokioRuntime;

/// Runs a broker until SIGTERM or SIGINT. What goes wrong at the start is told on standard error, with what to do.
pub fn run_broker(config: BrokerConfig) -> ExitCode {
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    match crate::runtime::tokio::run(workers, |runtime| serve(runtime, config)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ottla: the threads of the broker could not be started: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(runtime: TokioRuntime, config: BrokerConfig) -> ExitCode {
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("ottla: signals cannot be handled: {error}");
            return ExitCode::FAILURE;
        }
    };
    // A write beyond the limit on a file's size (`ulimit -f`) is to fail like one on a full disk, not to end the process: with a handler it does.
    let _over_file_size = signal(SignalKind::from_raw(libc::SIGXFSZ));
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let started = tokio::select! {
        biased;
        started = Broker::start(runtime, config, &host_name) => started,
        _ = terminate.recv() => return ExitCode::SUCCESS,
        _ = interrupt.recv() => return ExitCode::SUCCESS,
    };
    let broker = match started {
        Ok(broker) => broker,
        Err(error) => {
            eprintln!("ottla: {error}");
            return ExitCode::FAILURE;
        }
    };
    greet(&broker);
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    println!("stopping: flushing what is written");
    tokio::select! {
        biased;
        () = broker.shutdown() => {}
        // Whoever asks twice does not want to wait; what is not flushed recovery deals with, as after any kill.
        _ = async { tokio::select! { biased; _ = terminate.recv() => {} _ = interrupt.recv() => {} } } => {
            eprintln!("ottla: asked to stop a second time: stopping without waiting; the next start checks the ends of the logs");
            std::process::exit(1);
        }
    }
    println!("stopped");
    ExitCode::SUCCESS
}

/// Says where the broker listens, where its data is, and how to send a first message.
fn greet(broker: &Arc<Broker<TokioRuntime>>) {
    let mut out = std::io::stdout().lock();
    // A closed standard output is no reason to stop a broker.
    let _ = greeting(broker).iter().try_for_each(|line| writeln!(out, "{line}"));
    let _ = out.flush();
}

fn greeting(broker: &Broker<TokioRuntime>) -> Vec<String> {
    let mut lines = vec![format!("Ottla {} · broker {} of cluster {}", env!("CARGO_PKG_VERSION"), broker.id(), broker.controller().image().cluster_id)];
    let mut listening: Vec<String> = broker.bound().iter().map(|listener| format!("listening on {listener}")).collect();
    listening.dedup();
    lines.extend(listening);
    let mut clients: Vec<String> = broker.zookeeper_bound().iter().map(|address| format!("serving ZooKeeper clients on {address}")).collect();
    clients.dedup();
    lines.extend(clients);
    let dirs: Vec<String> = broker.config().log_dirs.iter().map(|dir| dir.display().to_string()).collect();
    lines.push(format!("data in {}", dirs.join(", ")));
    if let Some(listener) = broker.bound().first() {
        let host = if listener.is_wildcard() { "localhost" } else { &listener.host };
        let at = crate::runtime::HostPort { host: host.to_owned(), port: listener.port };
        let option = if at.to_string() == "localhost:9092" { String::new() } else { format!(" --bootstrap-server {at}") };
        lines.push(format!("try: echo 'hello' | ottla produce greetings{option}"));
        lines.push(format!("     ottla consume greetings --from-beginning{option}"));
    }
    lines
}
