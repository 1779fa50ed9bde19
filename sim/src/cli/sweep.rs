//! `ottla-sim sweep`: many seeds, each in a process of its own, resumable. Each result is a line of JSON; a seed that has one for the same commit,
//! scenario and options is not run again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::json;

use super::child::{self, Outcome, Telling};
use super::{Common, Seeds};

#[derive(Args)]
pub(super) struct SweepArgs {
    /// The seeds, `A..B` without B.
    #[arg(long)]
    seeds: Seeds,
    #[command(flatten)]
    common: Common,
    /// How many seeds run at once.
    #[arg(long, default_value_t = 2)]
    jobs: usize,
    /// Start no seed after so many minutes.
    #[arg(long)]
    minutes: Option<f64>,
    /// Where results are added, and found again.
    #[arg(long, value_name = "FILE")]
    results: Option<PathBuf>,
    /// Stop after so many failures.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// How many of the last events a failure shows.
    #[arg(long, default_value_t = 15)]
    events: usize,
    /// A seed that runs longer than so many real seconds hangs: a liveness failure.
    #[arg(long, default_value_t = 300)]
    seed_seconds: u64,
    /// Where capsules of failures go.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/capsules")]
    capsules: PathBuf,
}

#[derive(Default)]
struct Progress {
    next: u64,
    words: BTreeMap<&'static str, u64>,
    failures: Vec<(u64, u8)>,
    simulated_ms: u64,
    operation_count: u64,
    fault_count: u64,
    seed_count: u64,
}

pub(super) fn run(arguments: &SweepArgs) -> Result<u8, String> {
    let (scenario, options) = arguments.common.resolve()?;
    let key = format!("{} {}{}", super::commit(), scenario.name(), options.arguments());
    let name = |path: &PathBuf, error: std::io::Error| format!("--results {}: {error}", path.display());
    let mut done = BTreeSet::new();
    let mut file = None;
    if let Some(path) = &arguments.results {
        let opened = std::fs::OpenOptions::new().read(true).append(true).create(true).open(path).map_err(|error| name(path, error))?;
        for line in std::io::BufReader::new(&opened).lines() {
            let line = line.map_err(|error| name(path, error))?;
            // The last line may have been torn by an interruption.
            let Ok(value) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if value["key"] == key.as_str()
                && let Some(seed) = value["seed"].as_u64()
            {
                done.insert(seed);
            }
        }
        file = Some(opened);
    }
    let start = Instant::now();
    let limit = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    let file = Mutex::new(file);
    let progress = Mutex::new(Progress { next: arguments.seeds.from, ..Progress::default() });
    let take = || {
        let mut progress = progress.lock().expect("no holder panics");
        while done.contains(&progress.next) {
            progress.next += 1;
        }
        let over = progress.next >= arguments.seeds.to || progress.failures.len() >= arguments.failures || limit.is_some_and(|limit| start.elapsed() > limit);
        if over {
            return None;
        }
        let seed = progress.next;
        progress.next += 1;
        Some(seed)
    };
    let finish = |outcome: &Outcome| -> Result<(), String> {
        let report = &outcome.report;
        let mut progress = progress.lock().expect("no holder panics");
        *progress.words.entry(report.verdict.word()).or_default() += 1;
        progress.seed_count += 1;
        progress.simulated_ms += report.simulated_ms;
        progress.operation_count += report.operation_count;
        progress.fault_count += report.fault_count;
        if report.verdict.is_failure() {
            progress.failures.push((report.seed, report.verdict.exit_code()));
            println!("{}", outcome.text);
        }
        drop(progress);
        if let (Some(file), Some(path)) = (file.lock().expect("no holder panics").as_mut(), &arguments.results) {
            let mut line = json!({ "key": key, "seed": report.seed, "real_ms": outcome.real_ms, "report": report }).to_string();
            line.push('\n');
            file.write_all(line.as_bytes()).map_err(|error| name(path, error))?;
        }
        Ok(())
    };
    let telling = Telling { events: arguments.events, capsules: &arguments.capsules };
    let patience = Duration::from_secs(arguments.seed_seconds);
    let result = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..arguments.jobs.max(1))
            .map(|_| {
                scope.spawn(|| {
                    while let Some(seed) = take() {
                        finish(&child::run_seed(scenario, &options, seed, &telling, patience)?)?;
                    }
                    Ok::<(), String>(())
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker does not panic"))
    });
    result?;
    let progress = progress.into_inner().expect("no holder panics");
    let real_s = start.elapsed().as_secs_f64();
    let words: Vec<_> = progress.words.iter().map(|(word, count)| format!("{word} {count}")).collect();
    println!("{} seeds ({} were done before): {}", progress.seed_count, done.len(), if words.is_empty() { "none".into() } else { words.join(", ") });
    println!(
        "{:.0} simulated seconds in {real_s:.1} s with {} jobs: {:.0} per second, {:.0} operations and {:.0} faults per second",
        progress.simulated_ms as f64 / 1e3,
        arguments.jobs,
        progress.simulated_ms as f64 / 1e3 / real_s,
        progress.operation_count as f64 / real_s,
        progress.fault_count as f64 / real_s,
    );
    Ok(progress.failures.first().map_or(0, |(_, code)| *code))
}
