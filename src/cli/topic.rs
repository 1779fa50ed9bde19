//! `ottla topic`: make, list, describe and delete topics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;

use kafka_protocol::ResponseError;

use crate::cli::connect::{self, run_client};
use crate::cli::output::{Failure, complain, stdout};
use crate::client::ClientError;
use crate::client::admin::{ConfigResource, NewTopic};
use crate::client::cluster::{PartitionMetadata, TopicMetadata};
use crate::log::partition_metadata::encode_uuid;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a topic.
    Create(Create),
    /// Print all partitions, one a line, with their leaders, replicas and in-sync replicas; or the names of the topics only.
    List(List),
    /// Print the partitions of topics, with their leaders and replicas, and what is configured for them.
    Describe(Describe),
    /// Delete topics and all their records.
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name: letters, digits, '.', '_' and '-'.
    topic: String,
    /// How many partitions; without it, the broker's num.partitions.
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(1..))]
    partitions: Option<i32>,
    /// How many copies of each, on different brokers; without it, the broker's default.replication.factor.
    #[arg(short, long, value_parser = clap::value_parser!(i16).range(1..))]
    replication_factor: Option<i16>,
    /// A key of the topic's own configuration, such as retention.ms=3600000; may be repeated.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = key_value)]
    config: Vec<(String, String)>,
    /// Do nothing if there is a topic of that name.
    #[arg(long)]
    if_not_exists: bool,
    #[command(flatten)]
    connect: connect::Args,
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Print the names of the topics and nothing else, as kafka-topics.sh --list.
    #[arg(long)]
    names: bool,
    /// Only partitions with fewer in-sync replicas than replicas.
    #[arg(long)]
    under_replicated: bool,
    /// Only partitions without a leader that is alive: they can neither be written nor read.
    #[arg(long)]
    unavailable: bool,
    /// Leave out the topics in which the cluster keeps its own data.
    #[arg(long)]
    exclude_internal: bool,
    #[command(flatten)]
    connect: connect::Args,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Describe {
    /// Their names; without any, all topics.
    topics: Vec<String>,
    /// The layout of the lines: as today's Kafka tools print them, or as those of 2013 did.
    #[arg(long, value_enum, default_value_t = Style::Kafka)]
    style: Style,
    #[command(flatten)]
    connect: connect::Args,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Style {
    /// As kafka-topics.sh --describe.
    Kafka,
    /// As kafka-list-topic.sh of Kafka 0.8.
    Origin,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Their names.
    #[arg(required = true)]
    topics: Vec<String>,
    /// A topic that does not exist is no error.
    #[arg(long)]
    if_exists: bool,
    #[command(flatten)]
    connect: connect::Args,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected key=value")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

pub(crate) fn run(command: Command) -> ExitCode {
    run_client(|runtime| async move {
        match command {
            Command::Create(args) => create(runtime, args).await,
            Command::List(args) => list(runtime, args).await,
            Command::Describe(args) => describe(runtime, args).await,
            Command::Delete(args) => delete(runtime, args).await,
        }
    })
}

type Runtime = crate::runtime::tokio::TokioRuntime;

async fn create(runtime: Runtime, args: Create) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "topic").await?;
    let topic = NewTopic {
        name: args.topic.clone(),
        partitions: args.partitions,
        replication_factor: args.replication_factor,
        config: args.config.into_iter().collect(),
    };
    let created = match client.create_topic(&topic, false).await {
        Ok(created) => created,
        Err(error) if args.if_not_exists && error.code() == Some(ResponseError::TopicAlreadyExists) => return Ok(()),
        Err(error) => return Err(args.connect.explain(&error).into()),
    };
    let count = |number: i64, one: &str, many: &str| if number == 1 { format!("1 {one}") } else { format!("{number} {many}") };
    let mut out = stdout();
    if created.partitions > 0 && created.replication_factor > 0 {
        let (partitions, replicas) =
            (count(created.partitions.into(), "partition", "partitions"), count(created.replication_factor.into(), "replica", "replicas"));
        writeln!(out, "Created topic {} with {partitions} and {replicas} of each.", args.topic)?;
    } else {
        writeln!(out, "Created topic {}.", args.topic)?;
    }
    Ok(out.flush()?)
}

async fn list(runtime: Runtime, args: List) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "topic").await?;
    let metadata = client.list_topics().await.map_err(|error| args.connect.explain(&error))?;
    let mut out = stdout();
    let mut failed = false;
    for (name, topic) in &metadata.topics {
        match topic {
            Ok(topic) if args.exclude_internal && topic.is_internal => {}
            Ok(topic) => out.write_all(listed(topic, &args, &metadata.brokers.keys().copied().collect()).as_bytes())?,
            Err(code) => {
                complain(format_args!("topic {name}: {code}"));
                failed = true;
            }
        }
    }
    out.flush()?;
    if failed { Err(Failure::Told) } else { Ok(()) }
}

/// What `ottla topic list` prints of a topic: those of its partitions that were asked for, or its name if there is one.
fn listed(topic: &TopicMetadata, args: &List, alive: &BTreeSet<i32>) -> String {
    let is_wanted = |partition: &PartitionMetadata| {
        let is_under_replicated = partition.isr.len() < partition.replicas.len();
        let is_unavailable = !alive.contains(&partition.leader);
        (!args.under_replicated && !args.unavailable) || (args.under_replicated && is_under_replicated) || (args.unavailable && is_unavailable)
    };
    let mut wanted = topic.partitions.iter().filter(|(_, partition)| is_wanted(partition));
    if args.names {
        return wanted.next().map_or_else(String::new, |_| format!("{}\n", topic.name));
    }
    wanted.map(|(number, partition)| origin_line(&topic.name, *number, partition)).collect()
}

async fn describe(runtime: Runtime, args: Describe) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "topic").await?;
    let metadata = if args.topics.is_empty() {
        client.list_topics().await
    } else {
        let names: Vec<&str> = args.topics.iter().map(String::as_str).collect();
        client.describe_topics(&names).await
    };
    let metadata = metadata.map_err(|error| args.connect.explain(&error))?;
    let mut out = stdout();
    let mut failed = false;
    for (name, topic) in &metadata.topics {
        let topic = match topic {
            Ok(topic) => topic,
            Err(ResponseError::UnknownTopicOrPartition) => {
                complain(format_args!("topic {name} does not exist"));
                failed = true;
                continue;
            }
            Err(code) => {
                complain(format_args!("topic {name}: {code}"));
                failed = true;
                continue;
            }
        };
        match args.style {
            Style::Kafka => {
                let configs = client.describe_configs(&ConfigResource::Topic(name.to_string())).await.map_err(|error| args.connect.explain(&error))?;
                // Of the topic's values, those that somebody set: the topic itself (1) or the broker's file (4).
                let set = configs.into_iter().filter(|(_, config)| matches!(config.source, 1 | 4)).filter_map(|(key, config)| Some((key, config.value?)));
                out.write_all(kafka_lines(topic, &set.collect()).as_bytes())?;
            }
            Style::Origin => out.write_all(origin_lines(topic).as_bytes())?,
        }
    }
    out.flush()?;
    if failed { Err(Failure::Told) } else { Ok(()) }
}

async fn delete(runtime: Runtime, args: Delete) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "topic").await?;
    let mut out = stdout();
    let mut failed = false;
    for topic in &args.topics {
        match client.delete_topic(topic).await {
            Ok(()) => writeln!(out, "Deleted topic {topic}.")?,
            Err(error) if args.if_exists && error.code() == Some(ResponseError::UnknownTopicOrPartition) => {}
            Err(error) => {
                complain(format_args!("{}", explain_delete(&args.connect, topic, &error)));
                failed = true;
            }
        }
    }
    out.flush()?;
    if failed { Err(Failure::Told) } else { Ok(()) }
}

fn explain_delete(connect: &connect::Args, topic: &str, error: &ClientError) -> String {
    match error.code() {
        Some(ResponseError::UnknownTopicOrPartition) => format!("topic {topic} does not exist"),
        Some(ResponseError::TopicDeletionDisabled) => {
            format!("topic {topic} was not deleted: the broker's configuration forbids it (delete.topic.enable=false)")
        }
        _ => connect.explain(error),
    }
}

fn ids(ids: &[i32]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A topic's lines as `kafka-topics.sh --describe` prints them.
fn kafka_lines(topic: &TopicMetadata, configs: &BTreeMap<String, String>) -> String {
    let replicas = topic.partitions.values().next().map_or(0, |partition| partition.replicas.len());
    let configs = configs.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
    let mut text = format!(
        "Topic: {}\tTopicId: {}\tPartitionCount: {}\tReplicationFactor: {replicas}\tConfigs: {configs}\n",
        topic.name,
        encode_uuid(topic.id),
        topic.partitions.len(),
    );
    for (number, partition) in &topic.partitions {
        let leader = if partition.leader < 0 { "none".to_owned() } else { partition.leader.to_string() };
        text.push_str(&format!(
            "\tTopic: {}\tPartition: {number}\tLeader: {leader}\tReplicas: {}\tIsr: {}\tElr: N/A\tLastKnownElr: N/A\n",
            topic.name,
            ids(&partition.replicas),
            ids(&partition.isr)
        ));
    }
    text
}

/// A topic's lines as Kafka 0.8's `kafka-list-topic.sh` printed them.
fn origin_lines(topic: &TopicMetadata) -> String {
    topic.partitions.iter().map(|(number, partition)| origin_line(&topic.name, *number, partition)).collect()
}

fn origin_line(topic: &str, number: i32, partition: &PartitionMetadata) -> String {
    let leader = if partition.leader < 0 { "none".to_owned() } else { partition.leader.to_string() };
    format!("topic: {topic}\tpartition: {number}\tleader: {leader}\treplicas: {}\tisr: {}\n", ids(&partition.replicas), ids(&partition.isr))
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn topic() -> TopicMetadata {
        let partition = |leader| PartitionMetadata { leader, leader_epoch: 3, replicas: vec![1, 2], isr: vec![1], offline: vec![] };
        TopicMetadata { name: "t".into(), id: Uuid::from_u128(0xfb), is_internal: false, partitions: BTreeMap::from([(0, partition(1)), (1, partition(-1))]) }
    }

    #[test]
    fn topics_are_printed_as_kafka_does() {
        let configs = BTreeMap::from([("retention.ms".to_owned(), "5".to_owned()), ("segment.bytes".to_owned(), "9".to_owned())]);
        assert_eq!(
            kafka_lines(&topic(), &configs),
            "Topic: t\tTopicId: AAAAAAAAAAAAAAAAAAAA-w\tPartitionCount: 2\tReplicationFactor: 2\tConfigs: retention.ms=5,segment.bytes=9\n\
             \tTopic: t\tPartition: 0\tLeader: 1\tReplicas: 1,2\tIsr: 1\tElr: N/A\tLastKnownElr: N/A\n\
             \tTopic: t\tPartition: 1\tLeader: none\tReplicas: 1,2\tIsr: 1\tElr: N/A\tLastKnownElr: N/A\n"
        );
    }

    #[test]
    fn a_list_has_the_partitions_that_were_asked_for() {
        let args = |text: &str| match <Only as clap::Parser>::parse_from(["topic", "list"].into_iter().chain(text.split_whitespace())).command {
            Command::List(args) => args,
            _ => unreachable!("it is the command that was given"),
        };
        let list = |text: &str, alive: [i32; 2]| listed(&topic(), &args(text), &BTreeSet::from(alive));
        let (led, unled) = ("topic: t\tpartition: 0\tleader: 1\treplicas: 1,2\tisr: 1\n", "topic: t\tpartition: 1\tleader: none\treplicas: 1,2\tisr: 1\n");
        assert_eq!(list("", [1, 2]), format!("{led}{unled}"));
        assert_eq!(list("--unavailable", [1, 2]), unled);
        assert_eq!(list("--unavailable", [2, 3]), format!("{led}{unled}"), "its leader is not among the brokers");
        assert_eq!(list("--under-replicated", [1, 2]), format!("{led}{unled}"));
        assert_eq!(list("--names --unavailable", [1, 2]), "t\n");
        let mut whole = topic();
        whole.partitions = BTreeMap::from([(0, PartitionMetadata { isr: vec![2, 1], ..whole.partitions[&0].clone() })]);
        assert_eq!(listed(&whole, &args("--under-replicated --unavailable"), &BTreeSet::from([1, 2])), "");
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(subcommand)]
        command: Command,
    }

    #[test]
    fn and_as_it_did_in_2013() {
        assert_eq!(
            origin_lines(&topic()),
            "topic: t\tpartition: 0\tleader: 1\treplicas: 1,2\tisr: 1\ntopic: t\tpartition: 1\tleader: none\treplicas: 1,2\tisr: 1\n"
        );
    }
}
