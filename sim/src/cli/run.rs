//! `ottla-sim run`: one seed.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use ottla_sim::scenario;

use super::Common;

#[derive(Args)]
pub(super) struct RunArgs {
    /// The seed.
    #[arg(long)]
    seed: u64,
    #[command(flatten)]
    common: Common,
    /// Write the whole trace to this file.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// How many of the last events a failure shows.
    #[arg(long, default_value_t = 40)]
    events: usize,
    /// Where capsules of failures go.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/capsules")]
    capsules: PathBuf,
    /// Print nothing but failures.
    #[arg(long)]
    quiet: bool,
    /// Print the report as the last line, as JSON.
    #[arg(long, hide = true)]
    json: bool,
    /// Show the code's own log, as a filter of tracing: `debug`, `ottla=trace`.
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
}

pub(super) fn run(arguments: &RunArgs) -> Result<u8, String> {
    let (scenario, options) = arguments.common.resolve()?;
    if let Some(filter) = &arguments.log {
        let filter: tracing_subscriber::EnvFilter = filter.parse().map_err(|error| format!("--log {filter}: {error}"))?;
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    }
    if !arguments.quiet {
        println!("seed {} of {}{}", arguments.seed, scenario.name(), options.arguments());
        println!("{}", scenario::swarm(scenario, arguments.seed, &options));
        println!("{}", scenario.describe(arguments.seed));
    }
    let start = Instant::now();
    let report = scenario::run_seed(scenario, arguments.seed, &options, arguments.trace.clone());
    let real_s = start.elapsed().as_secs_f64();
    if report.verdict.is_failure() {
        super::tell_failure(scenario, &options, &report, &arguments.capsules, arguments.events);
    } else if !arguments.quiet {
        println!("{}", report.verdict);
    }
    if !arguments.quiet {
        for (host, why) in &report.halts {
            println!("halted: {host}: {why}");
        }
        println!(
            "{:.1} simulated seconds in {real_s:.2} s ({:.0} per second), {} operations, {} faults, {} events, trace {} of {} lines",
            report.simulated_ms as f64 / 1e3,
            report.simulated_ms as f64 / 1e3 / real_s,
            report.operation_count,
            report.fault_count,
            report.event_count,
            report.trace_hash,
            report.trace_count,
        );
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
    }
    Ok(report.verdict.exit_code())
}
