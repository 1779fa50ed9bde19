//! `ottla cluster`: starts the brokers of a directory of configurations as processes on this machine, tells what happens to the cluster in a line each, and
//! stops them in order.
#![allow(clippy::disallowed_methods, reason = "signals belong to the command line")]

mod events;
mod files;
mod process;
mod views;

use std::collections::{BTreeMap, VecDeque};
use std::io::Write;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::cluster::events::Events;
use crate::cli::cluster::files::Member;
use crate::cli::cluster::process::{Process, last_lines, says_path};
use crate::cli::cluster::views::{Asking, Seen, Views};
use crate::cli::connect::run_client;
use crate::cli::output::{Failure, complain};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{Instant, Runtime};

/// A broker that has died so often within [`RESTARTS_WITHIN`] is left down: starting it again does not help.
const RESTARTS_MAX: usize = 3;
const RESTARTS_WITHIN: Duration = Duration::from_secs(60);
/// The last lines of what a broker said that are shown when it has died.
const LAST_LINES: usize = 3;
/// The exit code of a broker whose configuration is wrong: it will be wrong again.
const EXIT_CONFIGURATION: i32 = 2;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A directory with a server.properties for each broker: all its *.properties. config/cluster/ of the source has three.
    directory: PathBuf,
    /// Sets a key of every broker's configuration, over the files; may be repeated.
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Leave a broker that has died as it is, to see how the others go on without it.
    #[arg(long)]
    no_restart: bool,
}

pub(crate) fn run(args: Args) -> ExitCode {
    run_client(|runtime| async move {
        let members = files::members(&runtime, &args.directory, &args.overrides).await?;
        files::ports_are_free(&runtime, &args.directory, &args.overrides, &members).await?;
        let signals = |kind| signal(kind).map_err(|error| format!("signals cannot be handled: {error}"));
        let (mut interrupt, mut terminate) = (signals(SignalKind::interrupt())?, signals(SignalKind::terminate())?);
        let mut cluster = Cluster::new(runtime, args, members);
        cluster.start_all();
        while cluster.is_anything_left() {
            tokio::select! {
                biased;
                _ = interrupt.recv() => cluster.stop(),
                _ = terminate.recv() => cluster.stop(),
                Some((id, status)) = cluster.ended.1.recv() => cluster.ended(id, status),
                Some(seen) = cluster.seen.1.recv() => cluster.saw(seen),
            }
        }
        cluster.verdict()
    })
}

/// One broker, up or down.
struct Broker {
    member: Member,
    says: PathBuf,
    process: Option<Process>,
    _asking: Option<Asking<TokioRuntime>>,
    started: Instant,
    /// Whether it has answered since it was started.
    is_ready: bool,
    deaths: VecDeque<Instant>,
}

struct Cluster {
    runtime: TokioRuntime,
    args: Args,
    began: Instant,
    brokers: BTreeMap<i32, Broker>,
    views: Views,
    events: Events,
    controller: i32,
    ended: (mpsc::Sender<(i32, Option<ExitStatus>)>, mpsc::Receiver<(i32, Option<ExitStatus>)>),
    seen: (mpsc::Sender<Seen>, mpsc::Receiver<Seen>),
    /// Those that are still to be asked to stop, in order; `None` while nobody has asked for an end.
    stopping: Option<VecDeque<i32>>,
    was_all_ready: bool,
    failed: Vec<i32>,
}

impl Cluster {
    fn new(runtime: TokioRuntime, args: Args, members: Vec<Member>) -> Self {
        let began = runtime.now();
        let broker = |member: Member| {
            let says = says_path(&member.log_dir);
            (member.id, Broker { member, says, process: None, _asking: None, started: began, is_ready: false, deaths: VecDeque::new() })
        };
        Self {
            began,
            brokers: members.into_iter().map(broker).collect(),
            views: Views::default(),
            events: Events::default(),
            controller: -1,
            ended: mpsc::channel(16),
            seen: mpsc::channel(16),
            stopping: None,
            was_all_ready: false,
            failed: Vec::new(),
            runtime,
            args,
        }
    }

    /// A line with the seconds since the start.
    fn tell(&self, line: impl std::fmt::Display) {
        let mut out = std::io::stdout().lock();
        // A closed standard output is no reason to stop brokers.
        let _ = writeln!(out, "{:>9.3} s  {line}", (self.runtime.now() - self.began).as_secs_f64());
        let _ = out.flush();
    }

    fn start_all(&mut self) {
        for id in self.brokers.keys().copied().collect::<Vec<_>>() {
            self.tell(format_args!("starting broker {id}; what it says goes to {}", self.brokers[&id].says.display()));
            self.start(id);
        }
    }

    fn start(&mut self, id: i32) {
        let (runtime, ended, seen) = (self.runtime.clone(), self.ended.0.clone(), self.seen.0.clone());
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        broker.started = runtime.now();
        broker.is_ready = false;
        match Process::start(&broker.member.file, &self.args.overrides, &broker.says) {
            Ok((process, ending)) => {
                broker.process = Some(process);
                broker._asking = Some(views::ask(&runtime, id, broker.member.address.clone(), seen));
                let waits = runtime.clone();
                runtime.spawn("cluster-ending", async move {
                    let status = waits.blocking(move || ending.wait().ok()).await;
                    let _ = ended.send((id, status)).await;
                });
            }
            Err(error) => {
                let why = format!("broker {id} cannot be started: {error} (its output is to go to {})", broker.says.display());
                self.tell(why);
                self.failed.push(id);
            }
        }
    }

    fn is_anything_left(&self) -> bool {
        self.brokers.values().any(|broker| broker.process.is_some())
    }

    /// A broker has answered.
    fn saw(&mut self, seen: Seen) {
        let now = self.runtime.now();
        let Some(broker) = self.brokers.get_mut(&seen.broker).filter(|broker| broker.process.is_some()) else { return };
        if !std::mem::replace(&mut broker.is_ready, true) {
            let line = format!(
                "broker {} is ready after {} ms at {}, process {}",
                seen.broker,
                (now - broker.started).as_millis(),
                broker.member.address,
                broker.process.as_ref().map_or(0, Process::pid)
            );
            self.tell(line);
        }
        self.views.saw(now, seen);
        if let Some(view) = self.views.cluster(now).cloned() {
            self.controller = view.controller;
            for line in self.events.observe(view) {
                self.tell(line);
            }
        }
        if !self.was_all_ready && self.brokers.values().all(|broker| broker.is_ready) {
            self.was_all_ready = true;
            let bootstrap = &self.brokers.values().next().expect("there is one").member.address;
            let option = if bootstrap.to_string() == "localhost:9092" { String::new() } else { format!(" -b {bootstrap}") };
            self.tell(format_args!(
                "all {} brokers are ready; Ctrl-C stops them. try: ottla topic create greetings --partitions 3{option}",
                self.brokers.len()
            ));
        }
    }

    /// A broker's process has ended.
    fn ended(&mut self, id: i32, status: Option<ExitStatus>) {
        let now = self.runtime.now();
        self.views.forget(id);
        let Some(broker) = self.brokers.get_mut(&id) else { return };
        (broker.process, broker._asking) = (None, None);
        let is_good = status.is_some_and(|status| status.success());
        let was_ready = std::mem::replace(&mut broker.is_ready, false);
        let how = how_ended(status);
        if self.stopping.is_some() {
            if is_good {
                self.tell(format_args!("broker {id} has stopped"));
            } else {
                self.failed.push(id);
                self.tell(format_args!("broker {id} has ended ({how})"));
            }
            return self.stop_next();
        }
        broker.deaths.push_back(now);
        while broker.deaths.front().is_some_and(|death| now - *death > RESTARTS_WITHIN) {
            broker.deaths.pop_front();
        }
        let (deaths, says, file) = (broker.deaths.len(), broker.says.clone(), broker.member.file.clone());
        let what = if was_ready { "has died" } else { "could not start" };
        // It was never up, or says itself that its configuration is wrong: it would be the same again.
        let is_hopeless = (!was_ready && deaths == 1) || status.and_then(|status| status.code()) == Some(EXIT_CONFIGURATION);
        let then = if self.args.no_restart || is_hopeless {
            format!("it is left down: start it by `ottla broker {}`", file.display())
        } else if deaths > RESTARTS_MAX {
            format!("for the {deaths}th time within {} s, and is left down: see {}", RESTARTS_WITHIN.as_secs(), says.display())
        } else {
            "it is started again".to_owned()
        };
        self.tell(format_args!("broker {id} {what} ({how}); {then}"));
        if !was_ready || status.is_some_and(|status| status.code().is_some()) {
            for line in last_lines(&says, LAST_LINES) {
                self.tell(format_args!("  broker {id} said: {line}"));
            }
        }
        if then == "it is started again" {
            self.start(id);
        } else if !self.args.no_restart {
            self.failed.push(id);
        }
    }

    /// Somebody asks for the end: the brokers stop one after the other, so that each can hand over what it leads, the controller last. Whoever asks again does not
    /// want to wait.
    fn stop(&mut self) {
        if self.stopping.is_some() {
            self.tell("asked again: all that are left stop at once");
            self.stopping = Some(VecDeque::new());
            self.brokers.values().filter_map(|broker| broker.process.as_ref()).for_each(Process::terminate);
            return;
        }
        let mut order: Vec<i32> = self.brokers.iter().filter(|(_, broker)| broker.process.is_some()).map(|(id, _)| *id).collect();
        order.sort_by_key(|id| *id == self.controller);
        self.tell(format_args!("stopping the brokers one after the other, the controller last; Ctrl-C again stops all at once"));
        self.stopping = Some(order.into());
        self.stop_next();
    }

    fn stop_next(&mut self) {
        while let Some(id) = self.stopping.as_mut().and_then(VecDeque::pop_front) {
            if let Some(process) = self.brokers.get(&id).and_then(|broker| broker.process.as_ref()) {
                process.terminate();
                return;
            }
        }
    }

    fn verdict(&self) -> Result<(), Failure> {
        if self.stopping.is_none() {
            complain(format_args!("no broker is left"));
            return Err(Failure::Told);
        }
        // What went wrong was told when it did.
        if self.failed.is_empty() { Ok(()) } else { Err(Failure::Told) }
    }
}

fn how_ended(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status {
        Some(status) => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            (None, None) => status.to_string(),
        },
        None => "nobody knows how".to_owned(),
    }
}
