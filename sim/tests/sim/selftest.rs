//! The simulator's own scenario under the nemesis: clean, repeatable, and not blind.

use ottla_sim::scenario::{RunOptions, named, run_seed};

#[test]
fn the_selftest_is_clean_under_the_nemesis() {
    let scenario = named("selftest").unwrap();
    let mut counted = 0;
    for seed in 0..20 {
        let report = run_seed(scenario, seed, &RunOptions::default(), None);
        assert!(!report.verdict.is_failure(), "seed {seed}: {}", report.verdict);
        counted += u32::from(report.verdict.exit_code() == 0);
    }
    assert!(counted > 10, "{counted} of 20 seeds count");
}

#[test]
fn a_seed_decides_everything() {
    let scenario = named("selftest").unwrap();
    let run = |seed| run_seed(scenario, seed, &RunOptions { seconds: Some(30), ..RunOptions::default() }, None);
    for seed in 0..10 {
        let (one, two) = (run(seed), run(seed));
        assert_eq!((&one.trace_hash, one.trace_count), (&two.trace_hash, two.trace_count), "seed {seed}");
        assert_ne!(one.trace_hash, run(seed + 1).trace_hash);
    }
}

#[cfg(feature = "plants")]
#[test]
fn the_plant_is_found() {
    let scenario = named("selftest").unwrap();
    for plant in scenario.plants() {
        let options = RunOptions { plant: Some((*plant).to_owned()), ..RunOptions::default() };
        assert!((0..20).any(|seed| run_seed(scenario, seed, &options, None).verdict.exit_code() == 129), "{plant}");
    }
}
