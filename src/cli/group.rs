//! `ottla group`: list, describe and delete consumer groups.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::process::ExitCode;

use kafka_protocol::ResponseError;

use crate::cli::connect::{self, run_client};
use crate::cli::output::{Failure, complain, stdout, table, write_table};
use crate::client::admin::DescribedMember;
use crate::client::consumer::StartAt;
use crate::runtime::tokio::TokioRuntime;
use crate::topic_partition::TopicPartition;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print the names of all consumer groups.
    List(List),
    /// Print how far a group has read, and who reads what.
    Describe(Describe),
    /// Delete groups without members, and how far they have read.
    Delete(Delete),
}

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Print the state of each, too.
    #[arg(long)]
    state: bool,
    #[command(flatten)]
    connect: connect::Args,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Describe {
    /// Its name.
    group: String,
    #[command(flatten)]
    connect: connect::Args,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    /// Their names.
    #[arg(required = true)]
    groups: Vec<String>,
    #[command(flatten)]
    connect: connect::Args,
}

pub(crate) fn run(command: Command) -> ExitCode {
    run_client(|runtime| async move {
        match command {
            Command::List(args) => list(runtime, args).await,
            Command::Describe(args) => describe(runtime, args).await,
            Command::Delete(args) => delete(runtime, args).await,
        }
    })
}

async fn list(runtime: TokioRuntime, args: List) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "group").await?;
    let groups = client.list_groups().await.map_err(|error| args.connect.explain(&error))?;
    let mut out = stdout();
    if args.state {
        let mut table = table(&["GROUP", "TYPE", "STATE"]);
        for group in &groups {
            table.add_row([&group.group_id, &group.protocol_type, &group.state]);
        }
        write_table(&mut out, &table)?;
    } else {
        for group in &groups {
            writeln!(out, "{}", group.group_id)?;
        }
    }
    Ok(out.flush()?)
}

async fn describe(runtime: TokioRuntime, args: Describe) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "group").await?;
    let missing = || Failure::Message(format!("group {} does not exist; ottla group list prints those that do", args.group));
    let described = match client.describe_group(&args.group).await {
        Ok(described) if described.state == "Dead" => return Err(missing()),
        Ok(described) => described,
        Err(error) if error.code() == Some(ResponseError::GroupIdNotFound) => return Err(missing()),
        Err(error) => return Err(args.connect.explain(&error).into()),
    };
    let committed = client.committed(&args.group, None).await.map_err(|error| args.connect.explain(&error))?;
    let owners: BTreeMap<&TopicPartition, &DescribedMember> =
        described.members.iter().flat_map(|member| member.partitions.iter().map(move |partition| (partition, member))).collect();
    let partitions: BTreeSet<&TopicPartition> = committed.keys().chain(owners.keys().copied()).collect();
    let mut table = table(&["GROUP", "TOPIC", "PARTITION", "CURRENT-OFFSET", "LOG-END-OFFSET", "LAG", "CONSUMER-ID", "HOST", "CLIENT-ID"]);
    for partition in partitions {
        let end = client.offset(partition, StartAt::Latest).await.ok();
        let current = committed.get(partition).map(|committed| committed.offset);
        let lag = current.zip(end).map(|(current, end)| (end - current).max(0));
        let number = |number: Option<i64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let owner = owners.get(partition);
        let of_owner = |field: fn(&DescribedMember) -> &str| owner.map_or("-", |owner| field(owner)).to_owned();
        table.add_row([
            args.group.clone(),
            partition.topic.to_string(),
            partition.partition.to_string(),
            number(current),
            number(end),
            number(lag),
            of_owner(|member| &member.member_id),
            of_owner(|member| &member.client_host),
            of_owner(|member| &member.client_id),
        ]);
    }
    let idle = described.members.iter().filter(|member| member.partitions.is_empty()).count();
    let mut out = stdout();
    let members = described.members.len();
    let assignor = if described.protocol.is_empty() { String::new() } else { format!(", assignor {}", described.protocol) };
    writeln!(
        out,
        "Group {}: {}, {members} member{}{assignor}, coordinated by {}",
        args.group,
        described.state,
        if members == 1 { "" } else { "s" },
        described.coordinator
    )?;
    if idle > 0 {
        writeln!(out, "{idle} of its members read nothing: there are no partitions left for them")?;
    }
    writeln!(out)?;
    write_table(&mut out, &table)?;
    Ok(out.flush()?)
}

async fn delete(runtime: TokioRuntime, args: Delete) -> Result<(), Failure> {
    let client = args.connect.connect(&runtime, "group").await?;
    let mut out = stdout();
    let mut failed = false;
    for group in &args.groups {
        match client.delete_group(group).await {
            Ok(()) => writeln!(out, "Deleted group {group}.")?,
            Err(error) => {
                failed = true;
                match error.code() {
                    Some(ResponseError::GroupIdNotFound) => complain(format_args!("group {group} does not exist")),
                    Some(ResponseError::NonEmptyGroup) => complain(format_args!("group {group} has members; stop them first")),
                    _ => complain(format_args!("{}", args.connect.explain(&error))),
                }
            }
        }
    }
    out.flush()?;
    if failed { Err(Failure::Told) } else { Ok(()) }
}
