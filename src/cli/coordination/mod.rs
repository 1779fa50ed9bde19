//! `ottla coordination`: znodes as any ZooKeeper client sees them, the members of an ensemble, and what to do about them.

mod backup;
mod members;
mod znodes;

use std::process::ExitCode;

use crate::cli::connect::run_client;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the names of a znode's children.
    Ls(znodes::Ls),
    /// Print a znode's content.
    Get(znodes::Get),
    /// Replace a znode's content.
    Set(znodes::Set),
    /// Delete a znode.
    Rm(znodes::Rm),
    /// Print what is known about a znode besides its content.
    Stat(znodes::Get),
    /// Print changes of a znode and its children as they happen, until interrupted.
    Watch(znodes::Watch),
    /// Show the members of an ensemble: who leads, who votes, who is behind.
    Members(members::Members),
    /// Wait until a new server has become a member of the ensemble.
    ///
    /// A server joins by itself: start it with an empty directory, the ensemble's secret, and a configuration that names the servers and itself. This command
    /// watches it do so, and says what is in the way.
    Add(members::Add),
    /// Remove a member from the ensemble for good.
    ///
    /// It has no vote any more, and its number of consensus is never given again. What would leave the ensemble without a majority is refused. Afterwards: stop it,
    /// remove its server.N from the other configurations, and move its directory away before it ever joins again.
    Remove(members::Remove),
    /// Save all that the service holds to a file.
    ///
    /// From a running ensemble by default: all that was acknowledged before the command. With --data-dir from the directory of a member that is stopped.
    Snapshot(backup::Snapshot),
    /// Make an empty directory that of a single member with the content of a file that `snapshot` wrote.
    ///
    /// The other servers of an ensemble start with empty directories and join it.
    Restore(backup::Restore),
    /// Have a single member go on alone after the majority of its ensemble is lost for good.
    ///
    /// What the lost members acknowledged and this one has not is lost. Says what that can be, and asks before it does anything.
    Recover(backup::Recover),
}

pub(crate) fn run(command: Command) -> ExitCode {
    run_client(|runtime| async move {
        match command {
            Command::Ls(args) => znodes::ls(runtime, args).await,
            Command::Get(args) => znodes::get(runtime, args).await,
            Command::Set(args) => znodes::set(runtime, args).await,
            Command::Rm(args) => znodes::rm(runtime, args).await,
            Command::Stat(args) => znodes::stat(runtime, args).await,
            Command::Watch(args) => znodes::watch(runtime, args).await,
            Command::Members(args) => members::members(runtime, args).await,
            Command::Add(args) => members::add(runtime, args).await,
            Command::Remove(args) => members::remove(runtime, args).await,
            Command::Snapshot(args) => backup::snapshot(runtime, args).await,
            Command::Restore(args) => backup::restore(runtime, args).await,
            Command::Recover(args) => backup::recover(runtime, args).await,
        }
    })
}
