//! What the simulated world promises: the contract of the boundary, and the acceptance lists of its disk, network, clocks and deaths.

mod budget;
mod contract_sim;
mod coordination_log;
mod disk;
mod life;
mod net;
mod selftest;

use std::future::Future;
use std::sync::mpsc;

use ottla_sim::verdict::Verdict;
use ottla_sim::world::{World, WorldOptions, run};

/// Runs `main` in a world, which must end clean, and gives what it returns.
fn in_world<T, F, Fut>(options: WorldOptions, main: F) -> T
where
    T: Send + 'static,
    F: FnOnce(World) -> Fut + Send + 'static,
    Fut: Future<Output = T>,
{
    let seed = options.seed;
    let (sender, receiver) = mpsc::channel();
    let report = run(options, move |world| async move {
        sender.send(main(world).await).expect("the test waits");
        Verdict::Clean
    });
    assert_eq!(report.verdict, Verdict::Clean, "seed {seed}\n{}", report.tail.iter().rev().take(30).rev().cloned().collect::<Vec<_>>().join("\n"));
    receiver.recv().expect("a clean world has returned")
}
