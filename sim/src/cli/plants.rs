//! `ottla-sim plants`: tests the simulator. Each historic bug is switched on in turn; how many seeds does the general swarm need?

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use ottla_sim::scenario::{self, RunOptions};
use ottla_sim::verdict::Verdict;
use ottla_sim::world::Report;

use super::child::{self, Telling};
use super::{Common, EXIT_NOT_FOUND};

#[derive(Args)]
pub(super) struct PlantsArgs {
    #[command(flatten)]
    common: Common,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// How many seeds are tried for each plant.
    #[arg(long, default_value_t = 1_000)]
    max: u64,
    /// How often each is searched for, each time from the seed after the last find; the median is reported.
    #[arg(long, default_value_t = 1)]
    times: usize,
    /// Where capsules of finds go.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/capsules")]
    capsules: PathBuf,
    /// Write the outcome to this file, as a table in Markdown; those of other scenarios stay in it.
    #[arg(long, value_name = "FILE")]
    table: Option<PathBuf>,
}

/// A seed that takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a table begins.
const TABLE_HEAD: &str = "# Plants\n\nHistoric bugs that are compiled in by the feature `plants` and switched on one at a time; how many seeds of the general sweep are run until each \
    is found. A seed that fails without the plant too does not count. Made by `ottla-sim plants --table docs/plants.md`.\n\n";

/// All tables: those that `before` holds, with the one of that scenario replaced by `table`.
fn tables(before: &str, scenario: &str, table: &str) -> String {
    const BEGINS: &str = "Scenario `";
    let mine = format!("{BEGINS}{scenario}`");
    let others = before.match_indices(BEGINS).map(|(at, _)| at).collect::<Vec<_>>();
    let ends = others.iter().skip(1).copied().chain([before.len()]);
    let mut all: Vec<&str> = others.iter().zip(ends).map(|(from, to)| before[*from..to].trim_end()).filter(|one| !one.starts_with(&mine)).collect();
    all.push(table.trim_end());
    all.sort_unstable();
    format!("{TABLE_HEAD}{}\n", all.join("\n\n"))
}

#[allow(clippy::disallowed_methods, reason = "a real file, outside the simulation")]
pub(super) fn run(arguments: &PlantsArgs) -> Result<u8, String> {
    let mut code = 0;
    let mut table = format!(
        "Scenario `{}`, seeds from {}, each plant searched for {} times.\n\n| plant | seeds until found: median | all | found by | seconds |\n|---|---|---|---|---|\n",
        arguments.common.scenario, arguments.from, arguments.times
    );
    let known = scenario::named(&arguments.common.scenario)?.plants();
    let chosen = known.iter().filter(|plant| arguments.common.plant.as_deref().is_none_or(|chosen| chosen == **plant));
    for plant in chosen {
        let common = Common { plant: Some((*plant).to_owned()), ..arguments.common.clone() };
        let (scenario, options) = common.resolve()?;
        let start = Instant::now();
        let healthy = RunOptions { plant: None, ..options.clone() };
        let run = |options: &RunOptions, seed| -> Result<Report, String> {
            let telling = Telling { events: 0, capsules: &arguments.capsules };
            let outcome = child::run_seed(scenario, options, seed, &telling, PATIENCE)?;
            // What the machine did to a process says nothing about the plant.
            if outcome.is_reported { Ok(outcome.report) } else { Err(outcome.text) }
        };
        let (mut seed, mut counts, mut last) = (arguments.from, Vec::new(), String::new());
        let mut checks = BTreeSet::new();
        while counts.len() < arguments.times.max(1) {
            let first = seed;
            let mut found = None;
            for seed in first..first + arguments.max {
                let report = run(&options, seed)?;
                if report.verdict.is_failure() && !run(&healthy, seed)?.verdict.is_failure() {
                    found = Some(report);
                    break;
                }
            }
            let Some(report) = found else { break };
            seed = report.seed + 1;
            counts.push(seed - first);
            checks.insert(match &report.verdict {
                Verdict::Correctness { invariant, .. } => invariant.clone(),
                other => other.word().to_owned(),
            });
            last = format!("seed {}: {}", report.seed, report.verdict);
        }
        counts.sort_unstable();
        let real_s = start.elapsed().as_secs_f64();
        let by: Vec<_> = checks.into_iter().collect();
        let median = counts.get(counts.len() / 2).map_or_else(|| format!("not in {}", arguments.max), ToString::to_string);
        let all: Vec<_> = counts.iter().map(ToString::to_string).collect();
        table += &format!("| `{plant}` | {median} | {} | {} | {real_s:.0} |\n", all.join(", "), by.join(", "));
        match counts.get(counts.len() / 2) {
            Some(median) => println!("{plant}: found {} times, after {median} seeds (median, {counts:?}), {real_s:.1} s; last: {last}", counts.len()),
            None => {
                println!("{plant}: NOT FOUND in {} seeds, {real_s:.1} s", arguments.max);
                code = EXIT_NOT_FOUND;
            }
        }
    }
    if let Some(path) = &arguments.table {
        let before = std::fs::read_to_string(path).unwrap_or_default();
        std::fs::write(path, tables(&before, &arguments.common.scenario, &table)).map_err(|error| format!("--table {}: {error}", path.display()))?;
    }
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_the_place_of_its_own_scenario_only() {
        let (broker, coordination) = ("Scenario `broker`, x\n| a |\n", "Scenario `coordination`, x\n| b |\n");
        let one = tables("", "coordination", coordination);
        assert_eq!(one, format!("{TABLE_HEAD}{coordination}"));
        let both = tables(&one, "broker", broker);
        assert_eq!(both, format!("{TABLE_HEAD}{broker}\n{coordination}"));
        assert_eq!(tables(&both, "broker", "Scenario `broker`, y\n"), format!("{TABLE_HEAD}Scenario `broker`, y\n\n{coordination}"));
    }
}
