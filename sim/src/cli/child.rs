//! A seed in a process of its own. Some state of the libraries is the whole process's (a counter behind tokio's `watch` decides in which order those who
//! wait are woken), so a seed that ran after others in one process would not be the seed that `run` replays. A process costs a few milliseconds, and
//! one that hangs or overflows its stack takes no other with it.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ottla_sim::scenario::{RunOptions, Scenario};
use ottla_sim::verdict::Verdict;
use ottla_sim::world::Report;

/// This very program, also after another was built in its place: a sweep is of one build.
const THIS: &str = "/proc/self/exe";

/// What came of a seed.
pub(super) struct Outcome {
    pub report: Report,
    /// What was printed about a failure, with the replay command.
    pub text: String,
    /// How long it took.
    pub real_ms: u64,
    /// Whether the process ended with a report of its own.
    pub is_reported: bool,
}

/// How failures are told.
pub(super) struct Telling<'a> {
    /// How many of the last events are shown.
    pub events: usize,
    /// Where capsules go.
    pub capsules: &'a Path,
}

/// Runs `ottla-sim run` with that seed. More than `patience` of real time is a liveness failure.
#[allow(clippy::disallowed_methods, reason = "real processes and real time, around the simulations")]
pub(super) fn run_seed(scenario: &dyn Scenario, options: &RunOptions, seed: u64, telling: &Telling, patience: Duration) -> Result<Outcome, String> {
    let fail = |error: std::io::Error| format!("{THIS}: {error}");
    let start = Instant::now();
    let mut child = Command::new(THIS)
        .args(["run", "--quiet", "--json", "--scenario", scenario.name(), "--seed", &seed.to_string(), "--events", &telling.events.to_string()])
        .arg("--capsules")
        .arg(telling.capsules)
        .args(options.arguments().split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(fail)?;
    let mut stdout = child.stdout.take().expect("it is piped");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stdout.read_to_end(&mut bytes).map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(fail)? {
            break Some(status);
        }
        if start.elapsed() > patience {
            child.kill().map_err(fail)?;
            child.wait().map_err(fail)?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let printed = reader.join().expect("reading does not panic").map_err(fail)?;
    let (text, last) = printed.trim_end().rsplit_once('\n').unwrap_or(("", printed.trim_end()));
    let parsed = serde_json::from_str::<Report>(last).ok();
    let is_reported = status.is_some() && parsed.is_some();
    let (report, text) = match (status, parsed) {
        (Some(_), Some(report)) => (report, text.to_owned()),
        (status, _) => {
            let verdict = match status {
                None => Verdict::Liveness { reason: format!("it hangs: more than {patience:?} of real time") },
                Some(status) => Verdict::Crash { detail: format!("the process ended without a report: {status}") },
            };
            let text = format!("{printed}=== seed {seed} of {}: {verdict}\nreplay:  {}", scenario.name(), super::replay_command(scenario, options, seed));
            (Report::without_end(seed, verdict), text)
        }
    };
    Ok(Outcome { report, text, real_ms: start.elapsed().as_millis() as u64, is_reported })
}
