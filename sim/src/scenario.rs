//! What a scenario is, and how a seed of one is run.
//!
//! Phases of a run, each the scenario's responsibility: *safety* (the nemesis is loose) → *heal* a core ([`World::heal`]) → *converge*
//! within a bound, or say what is pending → *serve* fresh work → *rescan* everything acknowledged.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use crate::nemesis::{FaultClass, Swarm};
use crate::verdict::Verdict;
use crate::world::{Report, World, WorldOptions, run};

/// What the command line chooses beside the seed.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// The historic bug that is switched on.
    pub plant: Option<String>,
    /// How long faults go on, in simulated seconds; `None` is the scenario's choice.
    pub seconds: Option<u64>,
    /// Classes of faults that are off.
    pub without: BTreeSet<FaultClass>,
    /// No faults at all.
    pub calm: bool,
}

impl RunOptions {
    /// The options as the command line takes them.
    pub fn arguments(&self) -> String {
        let mut out = String::new();
        if let Some(plant) = &self.plant {
            out += &format!(" --plant {plant}");
        }
        if let Some(seconds) = self.seconds {
            out += &format!(" --seconds {seconds}");
        }
        for class in &self.without {
            out += &format!(" --without {}", class.name());
        }
        if self.calm {
            out += " --calm";
        }
        out
    }
}

/// What a scenario is given.
#[derive(Clone)]
pub struct Setting {
    /// The world, empty yet.
    pub world: World,
    /// What the seed drew. The world's ground state is set from it already.
    pub swarm: Swarm,
    /// What the command line chose.
    pub options: RunOptions,
}

/// The outcome of a scenario, to come.
pub type Running<'a> = Pin<Box<dyn Future<Output = Verdict> + 'a>>;

/// A kind of run: which processes there are, what clients do, and what is checked.
pub trait Scenario: Sync {
    /// Its name on the command line.
    fn name(&self) -> &'static str;
    /// One line for the list.
    fn about(&self) -> &'static str;
    /// The plants that it must find.
    fn plants(&self) -> &'static [&'static str];
    /// How many hosts the nemesis may take down, for the draw of the swarm.
    fn victim_count(&self) -> usize;
    /// The longest a run may take, in simulated time.
    fn limit(&self, options: &RunOptions) -> Duration;
    /// What a seed draws beside its swarm, in words.
    fn describe(&self, seed: u64) -> String {
        let _ = seed;
        String::new()
    }
    /// Runs it.
    fn run(&self, setting: Setting) -> Running<'_>;
}

/// All scenarios; the first is the default.
pub fn all() -> &'static [&'static dyn Scenario] {
    &[
        &crate::broker::scenario::BrokerScenario,
        &crate::coordination::scenario::CoordinationScenario,
        &crate::cluster::scenario::ClusterScenario,
        &crate::selftest::Selftest,
    ]
}

/// The scenario of that name.
///
/// # Errors
/// Says which there are.
pub fn named(name: &str) -> Result<&'static dyn Scenario, String> {
    all().iter().copied().find(|scenario| scenario.name() == name).ok_or_else(|| {
        let names: Vec<_> = all().iter().map(|scenario| scenario.name()).collect();
        format!("'{name}' is no scenario; there are {}", names.join(", "))
    })
}

/// What `seed` draws.
pub fn swarm(scenario: &dyn Scenario, seed: u64, options: &RunOptions) -> Swarm {
    if options.calm { Swarm::calm() } else { Swarm::draw(seed, scenario.victim_count(), &options.without) }
}

/// Runs a seed, on a thread of its own.
pub fn run_seed(scenario: &'static dyn Scenario, seed: u64, options: &RunOptions, trace_file: Option<PathBuf>) -> Report {
    let swarm = swarm(scenario, seed, options);
    let mut world_options = WorldOptions::calm(seed);
    swarm.apply(&mut world_options);
    world_options.plant.clone_from(&options.plant);
    world_options.trace_file = trace_file;
    world_options.limit = scenario.limit(options);
    let options = options.clone();
    run(world_options, move |world| scenario.run(Setting { world, swarm, options }))
}
