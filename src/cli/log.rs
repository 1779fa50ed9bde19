//! `ottla log`: looks into the files of a log without a broker. What is read here is read in place and never changed, but for the mark
//! that `adopt` sets.

mod adopt;
mod dump;
mod files;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::cli::connect::run_client;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the batches, records and index entries of a file, or of all files of a partition or data directory.
    Dump(Dump),
    /// Check every batch, index, snapshot and checkpoint of data directories or partitions.
    Verify(Verify),
    /// Take over the data directories of a Kafka broker: check them, say what is in them, and mark them for Ottla to open.
    ///
    /// Stop Kafka first, and keep a copy: once Ottla has written to a directory, Kafka does not get it back. All records stay, with their
    /// offsets, the topics with their ids, and the offsets of consumer groups. Settings of topics are not in the directories: each topic is
    /// kept for ever until you set its retention again.
    Adopt(Adopt),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dump {
    /// A file of a partition (.log, .index, .timeindex, .snapshot, a checkpoint), a partition's directory, or a data directory.
    path: PathBuf,
    /// Print the records of each batch, too, with unprintable bytes escaped.
    #[arg(short, long)]
    records: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Verify {
    /// Data directories, or directories of single partitions.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Decompress and decode every record, too.
    #[arg(long)]
    deep: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Adopt {
    /// All data directories (log.dirs) of the broker: partitions are spread over them.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    /// Adopt topics of which partitions are missing here, too: those are made anew, empty.
    #[arg(long)]
    partial: bool,
    /// Check and say what was found, and change nothing.
    #[arg(short = 'n', long)]
    dry_run: bool,
}

pub(crate) fn run(command: Command) -> ExitCode {
    run_client(|runtime| async move {
        match command {
            Command::Dump(args) => dump::run(&runtime, &args.path, args.records).await,
            Command::Verify(args) => verify::run(&runtime, &args.dirs, args.deep).await,
            Command::Adopt(args) => adopt::run(&runtime, &args.dirs, args.partial, args.dry_run).await,
        }
    })
}
