//! `ottla-sim twice`: proves that a seed decides everything. Two processes, two traces, which must be the same byte for byte.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use ottla_sim::scenario::{RunOptions, Scenario};

use super::{Common, EXIT_DIVERGED, Seeds};

#[derive(Args)]
pub(super) struct TwiceArgs {
    /// The seed, or seeds `A..B` without B.
    #[arg(long, alias = "seeds")]
    seed: Seeds,
    #[command(flatten)]
    common: Common,
    /// The program of the second run, for instance one built with another profile; the same if not given.
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Where the traces are written while they are needed.
    #[arg(long, value_name = "DIRECTORY", default_value = "target/twice")]
    directory: PathBuf,
}

pub(super) fn run(arguments: &TwiceArgs) -> Result<u8, String> {
    let (scenario, options) = arguments.common.resolve()?;
    let this = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let other = arguments.against.clone().unwrap_or_else(|| this.clone());
    let directory = &arguments.directory;
    std::fs::create_dir_all(directory).map_err(|error| format!("--directory {}: {error}", directory.display()))?;
    for seed in arguments.seed.from..arguments.seed.to {
        let first = trace(&this, scenario, &options, seed, &directory.join(format!("{seed}-first.trace")))?;
        let second = trace(&other, scenario, &options, seed, &directory.join(format!("{seed}-second.trace")))?;
        let difference = compare(&first.0, &second.0).map_err(|error| format!("{}: {error}", directory.display()))?;
        if let Some((line, one, two)) = difference {
            println!("seed {seed} diverges at line {line}:\n  first:  {one}\n  second: {two}");
            println!("the traces are {} and {}", first.0.display(), second.0.display());
            return Ok(EXIT_DIVERGED);
        }
        if first.1 != second.1 {
            println!("seed {seed}: the traces agree, but the exit codes are {:?} and {:?}", first.1, second.1);
            return Ok(EXIT_DIVERGED);
        }
        let bytes = std::fs::metadata(&first.0).map_or(0, |metadata| metadata.len());
        println!("seed {seed}: two runs, {bytes} bytes of trace, identical");
        for path in [&first.0, &second.0] {
            let _ = std::fs::remove_file(path);
        }
    }
    Ok(0)
}

/// Runs the seed in a process of its own; its trace and exit code.
fn trace(program: &Path, scenario: &dyn Scenario, options: &RunOptions, seed: u64, path: &Path) -> Result<(PathBuf, Option<i32>), String> {
    let arguments = options.arguments();
    let output = Command::new(program)
        .args(["run", "--quiet", "--scenario", scenario.name(), "--seed", &seed.to_string()])
        .args(arguments.split_whitespace())
        .arg("--trace")
        .arg(path)
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.code() == Some(i32::from(super::EXIT_USAGE)) || !path.exists() {
        return Err(format!("{} gave no trace: {}", program.display(), String::from_utf8_lossy(&output.stderr)));
    }
    Ok((path.to_owned(), output.status.code()))
}

/// The first line in which two files differ: its number from 1, and both.
fn compare(first: &Path, second: &Path) -> std::io::Result<Option<(u64, String, String)>> {
    let mut files = [BufReader::new(std::fs::File::open(first)?), BufReader::new(std::fs::File::open(second)?)];
    let mut lines = [Vec::new(), Vec::new()];
    for number in 1.. {
        for (file, line) in files.iter_mut().zip(&mut lines) {
            line.clear();
            file.read_until(b'\n', line)?;
        }
        if lines[0] != lines[1] {
            let [one, two] = lines.map(|line| String::from_utf8_lossy(&line).trim_end().to_owned());
            return Ok(Some((number, one, two)));
        }
        if lines[0].is_empty() {
            return Ok(None);
        }
    }
    unreachable!("files end")
}
