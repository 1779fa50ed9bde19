//! The command line: one file per subcommand, and what they share.

mod child;
mod judge;
mod plants;
mod run;
mod sweep;
mod twice;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use ottla_sim::nemesis::FaultClass;
use ottla_sim::scenario::{self, RunOptions, Scenario};
use ottla_sim::world::Report;

/// Something is wrong with the command line.
const EXIT_USAGE: u8 = 1;
/// A promise was broken.
const EXIT_CORRECTNESS: u8 = 129;
/// Clean, but too little happened.
const EXIT_NOT_COUNTED: u8 = 131;
/// Two runs of one seed differ.
const EXIT_DIVERGED: u8 = 132;
/// A plant was not found.
const EXIT_NOT_FOUND: u8 = 133;

/// Runs the whole cluster under a seed, inside one process, and replays any failure exactly.
#[derive(Parser)]
#[command(
    name = "ottla-sim",
    version,
    after_help = "Exit codes: 0 clean; 1 usage; 127 crash or panic; 128 liveness; 129 correctness; 130 \
    unrecoverable: lost what the configuration does not promise to keep; 131 not counted: too little happened; 132 two runs of one seed differ; \
    133 a plant was not found."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one seed.
    Run(run::RunArgs),
    /// Runs many seeds; goes on where an earlier sweep with the same results file stopped.
    Sweep(sweep::SweepArgs),
    /// Runs seeds twice, each time in a process of its own, and compares the traces byte by byte.
    Twice(twice::TwiceArgs),
    /// Counts for each plant the seeds until it is found.
    Plants(plants::PlantsArgs),
    /// Judges what real clients wrote down of real brokers, by the promises that simulated ones are held to.
    Judge(judge::JudgeArgs),
}

/// What decides a run beside its seed.
#[derive(Args, Clone)]
struct Common {
    /// The kind of run.
    #[arg(long, default_value = "broker")]
    scenario: String,
    /// A historic bug to switch on (needs the feature `plants`).
    #[arg(long)]
    plant: Option<String>,
    /// How long faults go on, in simulated seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// A class of faults that is off; can be given several times.
    #[arg(long, value_name = "CLASS")]
    without: Vec<FaultClass>,
    /// No faults at all.
    #[arg(long)]
    calm: bool,
}

impl Common {
    fn resolve(&self) -> Result<(&'static dyn Scenario, RunOptions), String> {
        let scenario = scenario::named(&self.scenario)?;
        if let Some(plant) = &self.plant {
            if !cfg!(feature = "plants") {
                return Err("this build knows no plants: `cargo run --release -p ottla-sim --features plants -- …`".into());
            }
            if !scenario.plants().contains(&plant.as_str()) {
                return Err(format!("scenario {} has no plant '{plant}'; it has {}", scenario.name(), scenario.plants().join(", ")));
            }
        }
        let options = RunOptions { plant: self.plant.clone(), seconds: self.seconds, without: self.without.iter().copied().collect(), calm: self.calm };
        Ok((scenario, options))
    }
}

/// A range of seeds, `A..B` without B, or one seed.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    from: u64,
    to: u64,
}

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| part.parse::<u64>().map_err(|_| format!("'{part}' in '{text}' is no seed; expected A..B or a number"));
        let (from, to) = match text.split_once("..") {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(text)?, number(text)? + 1),
        };
        if from < to { Ok(Self { from, to }) } else { Err(format!("{text} holds no seeds; expected A..B with A below B")) }
    }
}

/// The commit that is run, for replays: from git if it is there, else from the environment variable `OTTLA_COMMIT`.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = std::process::Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    match git(&["rev-parse", "--short=12", "HEAD"]) {
        Some(commit) if git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| changes.is_empty()) => commit,
        Some(commit) => format!("{commit}+changes"),
        None => std::env::var("OTTLA_COMMIT").unwrap_or_else(|_| "unknown".into()),
    }
}

fn replay_command(scenario: &dyn Scenario, options: &RunOptions, seed: u64) -> String {
    let cargo = if options.plant.is_some() { "cargo run --release -p ottla-sim --features plants --" } else { "cargo sim" };
    format!("{cargo} run --scenario {} --seed {seed}{}", scenario.name(), options.arguments())
}

/// Writes down everything about a failure in `directory`, and says where.
fn write_capsule(directory: &Path, scenario: &dyn Scenario, options: &RunOptions, report: &Report) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(directory)?;
    let plant = options.plant.as_ref().map_or_else(String::new, |plant| format!("-{plant}"));
    let path = directory.join(format!("{}{plant}-seed-{}.json", scenario.name(), report.seed));
    let capsule = serde_json::json!({
        "version": 1,
        "commit": commit(),
        "scenario": scenario.name(),
        "seed": report.seed,
        "options": options.arguments().trim(),
        "swarm": scenario::swarm(scenario, report.seed, options).to_string(),
        "report": report,
        "last_events": report.tail,
        "backtrace": report.backtrace,
        "replay": replay_command(scenario, options, report.seed),
    });
    std::fs::write(&path, serde_json::to_vec_pretty(&capsule).expect("a capsule is JSON"))?;
    Ok(path)
}

/// Tells a failure so that a stranger can replay it.
fn tell_failure(scenario: &dyn Scenario, options: &RunOptions, report: &Report, capsules: &Path, event_count: usize) {
    println!("=== seed {} of {}: {}", report.seed, scenario.name(), report.verdict);
    println!("commit {}, options:{}", commit(), if options.arguments().is_empty() { " none".into() } else { options.arguments() });
    println!("{}", scenario::swarm(scenario, report.seed, options));
    println!("last events:");
    for line in report.tail.iter().skip(report.tail.len().saturating_sub(event_count)) {
        println!("{line}");
    }
    if let Some(backtrace) = &report.backtrace {
        println!("{backtrace}");
    }
    match write_capsule(capsules, scenario, options, report) {
        Ok(path) => println!("capsule: {}", path.display()),
        Err(error) => println!("no capsule: {}: {error}", capsules.display()),
    }
    println!("verdict: {}\nreplay:  {}", report.verdict, replay_command(scenario, options, report.seed));
}

pub(crate) fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_USAGE } else { 0 });
        }
    };
    let result = match cli.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Sweep(arguments) => sweep::run(&arguments),
        Command::Twice(arguments) => twice::run(&arguments),
        Command::Plants(arguments) => plants::run(&arguments),
        Command::Judge(arguments) => judge::run(&arguments),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}
