//! The command line: one file per command. Nothing here decides anything that a library user would want to decide: commands read
//! their arguments, call [`client`](crate::client), [`production`](crate::production) or the log, and print.
//!
//! Results go to standard output, everything else to standard error. Exit codes: 0 done; 1 not done, or not all of it; 2 the command
//! line is wrong. A reader that goes away (`ottla consume t | head`) ends a command without a word.

mod broker;
mod cluster;
mod completion;
mod connect;
mod consume;
mod coordination;
mod coordinator;
mod group;
mod log;
mod output;
mod produce;
mod topic;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// A distributed, append-only log that speaks the Kafka protocol.
///
/// Without a command, starts a broker on localhost:9092 with its data in ./ottla-data.
#[derive(Debug, Parser)]
#[command(name = "ottla", version, propagate_version = true, max_term_width = 120, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Sets a key of the broker's configuration; may be repeated.
    #[arg(short = 'o', long = "override", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a broker.
    Broker(broker::Args),
    /// Start several brokers on this machine, and tell what happens to their cluster.
    Cluster(cluster::Args),
    /// Make, list, describe and delete topics.
    #[command(subcommand)]
    Topic(topic::Command),
    /// Send lines from standard input to a topic.
    Produce(produce::Args),
    /// Print a topic's records, until interrupted.
    Consume(consume::Args),
    /// List and describe consumer groups.
    #[command(subcommand)]
    Group(group::Command),
    /// Start a member of the coordination service, for brokers and any other ZooKeeper client: alone, or one of an ensemble.
    Coordinator(coordinator::Args),
    /// Look into the coordination service, or an Apache ZooKeeper, and change it.
    #[command(subcommand)]
    Coordination(coordination::Command),
    /// Look into the files of a log, check them, take over those of Kafka. No broker is needed, or may be running on them.
    #[command(subcommand)]
    Log(log::Command),
    /// Print a completion script for a shell, to be sourced by it.
    Completion(completion::Args),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => broker::run(broker::Args { file: None, overrides: cli.overrides, stop_with_stdin: false }),
        Some(Command::Broker(args)) => broker::run(args),
        Some(Command::Cluster(args)) => cluster::run(args),
        Some(Command::Topic(command)) => topic::run(command),
        Some(Command::Produce(args)) => produce::run(args),
        Some(Command::Consume(args)) => consume::run(args),
        Some(Command::Group(command)) => group::run(command),
        Some(Command::Coordinator(args)) => coordinator::run(args),
        Some(Command::Coordination(command)) => coordination::run(command),
        Some(Command::Log(command)) => log::run(command),
        Some(Command::Completion(args)) => completion::run(&args),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_command_line_contradicts_itself_nowhere() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_broker_starts_with_and_without_its_name() {
        let cli = parse("ottla -o num.partitions=3 -o log.dirs=/a,/b").unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.overrides, ["num.partitions=3", "log.dirs=/a,/b"]);
        let Some(Command::Broker(args)) = parse("ottla broker config/server.properties -o broker.id=4").unwrap().command else { panic!() };
        assert_eq!(args.file.unwrap().to_str(), Some("config/server.properties"));
        assert_eq!(args.overrides, ["broker.id=4"]);
        assert!(parse("ottla").unwrap().command.is_none());
        assert!(parse("ottla config/server.properties").is_err());
    }

    #[test]
    fn commands_take_what_people_type() {
        for line in [
            "ottla topic create t",
            "ottla topic create t --partitions 3 --replication-factor 1 --config retention.ms=1000 --config cleanup.policy=delete",
            "ottla topic list",
            "ottla topic list --names --exclude-internal",
            "ottla topic list --under-replicated --unavailable",
            "ottla topic describe",
            "ottla topic describe t u --style origin",
            "ottla topic delete t --if-exists",
            "ottla produce t",
            "ottla produce t --key-separator : --acks 1 --compression lz4 -v",
            "ottla produce t --bootstrap-server other:9093",
            "ottla consume t",
            "ottla consume t --from-beginning -n 5 --group g",
            "ottla consume t --partition 2 --offset 17",
            "ottla group list",
            "ottla group describe g -b [::1]:9092,b:9092",
            "ottla cluster config/cluster/",
            "ottla cluster dir --no-restart -o num.partitions=3",
            "ottla coordinator",
            "ottla coordinator config/coordinator.properties -o clientPort=2182",
            "ottla coordination ls",
            "ottla coordination ls /brokers -r --server a:2181,b:2181",
            "ottla coordination set /x y --create --if-version 3 --auth bob:secret",
            "ottla coordination rm -r /x",
            "ottla coordination watch / -r",
            "ottla coordination members -c coordinator.properties",
            "ottla coordination members --peer a:2888,b:2888 --secret-file s",
            "ottla coordination add 4 d:2888 -c zoo.cfg",
            "ottla coordination remove 2 --force -c zoo.cfg",
            "ottla coordination snapshot f -c zoo.cfg",
            "ottla coordination snapshot f --data-dir d",
            "ottla coordination restore f --data-dir d",
            "ottla coordination recover --data-dir d --yes",
            "ottla log dump x.log --records",
            "ottla log verify ottla-data",
            "ottla log adopt dir",
            "ottla log adopt --partial -n one two",
            "ottla completion bash",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in [
            "ottla cluster",
            "ottla topic",
            "ottla topic create",
            "ottla topic create t --partitions 0",
            "ottla topic create t --config retention.ms",
            "ottla produce",
            "ottla produce t --acks 2",
            "ottla produce t -b nowhere",
            "ottla consume t --offset 5",
            "ottla consume t --group g --partition 1",
            "ottla consume t -n 0",
            "ottla coordination get",
            "ottla coordination members --peer a:2888",
            "ottla coordination snapshot f --data-dir d -c zoo.cfg",
            "ottla coordination add 0 a:1 -c zoo.cfg",
            "ottla coordination restore f",
            "ottla coordination ls / -s nowhere:x",
            "ottla coordination rm -r /x --if-version 3",
            "ottla completion tcl",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
