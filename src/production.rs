//! Production: the broker and the coordinator bound to [`TokioRuntime`], once. The command line calls [`run_broker`] and [`run_coordinator`]; the
//! simulator never does.
#![allow(clippy::disallowed_methods, reason = "the process's own signals, threads and host name: what starts the runtime cannot be behind it")]

use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use crate::broker::Broker;
use crate::config::broker::BrokerConfig;
use crate::config::coordinator::CoordinatorConfig;
use crate::coordination::service::{Dirs, Service};
use crate::runtime::tokio::{OwnThread, TokioRuntime};

/// Runs a broker until SIGTERM or SIGINT. What goes wrong at the start is told on standard error, with what to do.
pub fn run_broker(config: BrokerConfig) -> ExitCode {
    let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    run_server("broker", move |runtime| async move {
        let ensemble = ensemble_thread(&runtime, !config.coordination.servers.is_empty())?;
        let on = ensemble.as_ref().map_or(&runtime, OwnThread::runtime).clone();
        let broker = Broker::start_with(runtime, on, config, &host_name).await.map_err(|error| error.to_string())?;
        say(&greeting(&broker));
        Ok(Running { stopping: "stopping: flushing what is written", shutdown: Box::pin(async move { broker.shutdown().await }), ensemble })
    })
}

/// Runs a member of the coordination service that is no broker until SIGTERM or SIGINT, likewise.
pub fn run_coordinator(config: CoordinatorConfig) -> ExitCode {
    run_server("coordinator", move |runtime| async move {
        let dirs = Dirs { log: config.log_dir().to_owned(), own: config.data_dir.clone() };
        let ensemble = ensemble_thread(&runtime, !config.coordination.servers.is_empty())?;
        let on = ensemble.as_ref().map_or(&runtime, OwnThread::runtime).clone();
        let member = Service::bind(runtime, on, &config.coordination, dirs.clone()).await.map_err(|error| error.to_string())?;
        let member = member.open().await.map_err(|error| error.to_string())?.serve();
        // Its port answers before there is a quorum, so that administrators can ask why there is none.
        member.wait_for_quorum().await;
        say(&coordinator_greeting(&member, &dirs));
        Ok(Running { stopping: "stopping", shutdown: Box::pin(async move { member.shutdown().await }), ensemble })
    })
}

/// A thread of its own for the member of an ensemble: heartbeats wait for nothing else that the process does.
fn ensemble_thread(runtime: &TokioRuntime, is_needed: bool) -> Result<Option<OwnThread>, String> {
    let started = is_needed.then(|| runtime.own_thread("ottla-ensemble")).transpose();
    started.map_err(|error| format!("the thread of the coordination ensemble could not be started: {error}"))
}

/// What was started, and how it ends.
struct Running {
    /// What is said when it is asked to.
    stopping: &'static str,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    ensemble: Option<OwnThread>,
}

fn run_server<F, Fut>(what: &'static str, start: F) -> ExitCode
where
    F: FnOnce(TokioRuntime) -> Fut,
    Fut: Future<Output = Result<Running, String>> + Send + 'static,
{
    let workers = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    match crate::runtime::tokio::run(workers, |runtime| serve(start(runtime))) {
        Ok((code, ensemble)) => {
            if let Some(thread) = ensemble {
                thread.join();
            }
            code
        }
        Err(error) => {
            eprintln!("ottla: the threads of the {what} could not be started: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(starting: impl Future<Output = Result<Running, String>>) -> (ExitCode, Option<OwnThread>) {
    let (mut terminate, mut interrupt) = match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(terminate), Ok(interrupt)) => (terminate, interrupt),
        (Err(error), _) | (_, Err(error)) => {
            eprintln!("ottla: signals cannot be handled: {error}");
            return (ExitCode::FAILURE, None);
        }
    };
    // A write beyond the limit on a file's size (`ulimit -f`) is to fail like one on a full disk, not to end the process: with a handler it does.
    let _over_file_size = signal(SignalKind::from_raw(libc::SIGXFSZ));
    let started = tokio::select! {
        biased;
        started = starting => started,
        _ = terminate.recv() => return (ExitCode::SUCCESS, None),
        _ = interrupt.recv() => return (ExitCode::SUCCESS, None),
    };
    let Running { stopping, shutdown, ensemble } = match started {
        Ok(running) => running,
        Err(error) => {
            eprintln!("ottla: {error}");
            return (ExitCode::FAILURE, None);
        }
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    say(&[stopping.to_owned()]);
    tokio::select! {
        biased;
        () = shutdown => {}
        // Whoever asks twice does not want to wait; what is not flushed recovery deals with, as after any kill.
        _ = async { tokio::select! { biased; _ = terminate.recv() => {} _ = interrupt.recv() => {} } } => {
            eprintln!("ottla: asked to stop a second time: stopping without waiting; the next start checks the ends of the logs");
            std::process::exit(1);
        }
    }
    say(&["stopped".to_owned()]);
    (ExitCode::SUCCESS, ensemble)
}

/// Writes lines to standard output. A closed one is no reason to stop a server.
fn say(lines: &[String]) {
    let mut out = std::io::stdout().lock();
    let _ = lines.iter().try_for_each(|line| writeln!(out, "{line}"));
    let _ = out.flush();
}

/// Says who the coordinator is, where it listens, and how to look into it.
fn coordinator_greeting(member: &Service<TokioRuntime>, dirs: &Dirs) -> Vec<String> {
    let who = member.server_id().map_or_else(|| "coordinator, alone".to_owned(), |id| format!("coordinator server.{id}"));
    let mut lines = vec![format!("Ottla {} · {who}", env!("CARGO_PKG_VERSION"))];
    lines.extend(clients_lines(member.bound()));
    lines.extend(member.admin_bound().iter().map(|address| format!("administrators' commands at http://{address}{}", member.admin_command_url())));
    lines.push(format!("data in {}", dirs.log.display()));
    if let Some(address) = member.bound().first() {
        let host = if address.ip().is_unspecified() || address.ip().is_loopback() { "localhost".to_owned() } else { address.ip().to_string() };
        let at = crate::runtime::HostPort { host, port: address.port() };
        let option = if at.to_string() == "localhost:2181" { String::new() } else { format!(" --server {at}") };
        lines.push(format!("try: ottla coordination ls /{option}"));
    }
    lines
}

fn clients_lines(bound: &[SocketAddr]) -> Vec<String> {
    let mut lines: Vec<String> = bound.iter().map(|address| format!("serving ZooKeeper clients on {address}")).collect();
    lines.dedup();
    lines
}

/// Says where the broker listens, where its data is, and how to send a first message.
fn greeting(broker: &Broker<TokioRuntime>) -> Vec<String> {
    let mut lines = vec![format!("Ottla {} · broker {} of cluster {}", env!("CARGO_PKG_VERSION"), broker.id(), broker.controller().image().cluster_id)];
    let mut listening: Vec<String> = broker.bound().iter().map(|listener| format!("listening on {listener}")).collect();
    listening.dedup();
    lines.extend(listening);
    lines.extend(clients_lines(broker.zookeeper_bound()));
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
