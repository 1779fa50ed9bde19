//! The contract of the boundary in the simulated world, each rule under many seeds; the rules are in `tests/contract.rs`.

#[path = "../../../tests/contract.rs"]
mod contract;

use std::future::Future;
use std::net::IpAddr;
use std::path::PathBuf;

use ottla::runtime::{Disk, Runtime};
use ottla_sim::disk::ops::DiskOptions;
use ottla_sim::net::model::NetOptions;
use ottla_sim::rng::Stream;
use ottla_sim::runtime::SimRuntime;
use ottla_sim::state::Exit;
use ottla_sim::verdict::Verdict;
use ottla_sim::world::{WorldOptions, run};

const SEED_COUNT: u64 = 20;
/// For rules that move tens of megabytes.
const HEAVY_SEED_COUNT: u64 = 3;
const HEAVY: &[&str] = &[
    "a_writer_waits_for_a_reader_that_does_not_read",
    "both_directions_carry_more_than_all_buffers_at_once",
    "send_file_sends_more_than_all_buffers",
    "a_large_file_is_read_in_one_call",
];

fn in_worlds<F, Fut>(name: &str, rule: F)
where
    F: Fn(contract::World<SimRuntime>) -> Fut + Send + Sync + Copy + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let heavy = HEAVY.contains(&name);
    for seed in 0..if heavy { HEAVY_SEED_COUNT } else { SEED_COUNT } {
        let mut draws = Stream::new(seed, "contract", 0);
        let mut options = WorldOptions::calm(seed);
        options.net = NetOptions {
            window_log2: if heavy { (15, 18) } else { *draws.pick(&[(9, 9), (12, 16), (16, 20)]) },
            split_ppm: *draws.pick(&[0, 1_000_000]),
            partial_write_ppm: *draws.pick(&[0, 500_000]),
            ..NetOptions::default()
        };
        options.disk = DiskOptions { latency_percent: *draws.pick(&[1, 100, 1_000]), ..DiskOptions::default() };
        options.clock.drift_max_ppm = *draws.pick(&[0, 100_000]);
        let report = run(options, move |world| async move {
            let process = world.host("a").start(move |rt| async move {
                let dir = PathBuf::from("/contract");
                rt.disk().create_dir(&dir).await.unwrap();
                rule(contract::World { rt, dir, address: IpAddr::from([127, 0, 0, 1]) }).await;
            });
            match process.wait().await {
                Exit::Returned => Verdict::Clean,
                other => Verdict::Crash { detail: format!("{other:?}") },
            }
        });
        assert_eq!(report.verdict, Verdict::Clean, "seed {seed}\n{}", report.tail.iter().rev().take(30).rev().cloned().collect::<Vec<_>>().join("\n"));
    }
}

macro_rules! tests {
    ($($rule:ident)*) => {
        $(
            #[test]
            fn $rule() {
                in_worlds(stringify!($rule), contract::$rule);
            }
        )*
    };
}
contract::for_each_rule!(tests);
