//! `ottla-sim plants`: tests the simulator. Each historic bug is switched on in turn; how many seeds does the general swarm need?

use std::time::Instant;

use clap::Args;
use ottla_sim::scenario;

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
}

pub(super) fn run(arguments: &PlantsArgs) -> Result<u8, String> {
    let mut code = 0;
    let known = scenario::named(&arguments.common.scenario)?.plants();
    let chosen = known.iter().filter(|plant| arguments.common.plant.as_deref().is_none_or(|chosen| chosen == **plant));
    for plant in chosen {
        let common = Common { plant: Some((*plant).to_owned()), ..arguments.common.clone() };
        let (scenario, options) = common.resolve()?;
        let start = Instant::now();
        let (mut seed, mut counts, mut last) = (arguments.from, Vec::new(), String::new());
        while counts.len() < arguments.times.max(1) {
            let first = seed;
            let found =
                (first..first + arguments.max).map(|seed| scenario::run_seed(scenario, seed, &options, None)).find(|report| report.verdict.is_failure());
            let Some(report) = found else { break };
            seed = report.seed + 1;
            counts.push(seed - first);
            last = format!("seed {}: {}", report.seed, report.verdict);
        }
        counts.sort_unstable();
        let real_s = start.elapsed().as_secs_f64();
        match counts.get(counts.len() / 2) {
            Some(median) => println!("{plant}: found {} times, after {median} seeds (median, {counts:?}), {real_s:.1} s; last: {last}", counts.len()),
            None => {
                println!("{plant}: NOT FOUND in {} seeds, {real_s:.1} s", arguments.max);
                code = EXIT_NOT_FOUND;
            }
        }
    }
    Ok(code)
}
