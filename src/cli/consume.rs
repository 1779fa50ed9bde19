//! `ottla consume`: prints a topic's records until it is interrupted.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use kafka_protocol::ResponseError;

use crate::cli::connect::{self, asked_to_end, run_client, sleep_ms};
use crate::cli::output::{Failure, complain, readable, stdout};
use crate::client::assignor::Assignor;
use crate::client::consumer::{ConsumedRecord, OffsetReset, StartAt};
use crate::client::group::GroupConfig;
use crate::client::{Client, Consumer, ConsumerConfig};
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;
use crate::topic_partition::TopicPartition;

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The topic.
    topic: String,
    /// Begin with the oldest record. Without it, only what is new is printed; in a group, this is for partitions of which the group has
    /// read nothing yet.
    #[arg(long)]
    from_beginning: bool,
    /// Share the topic's partitions with the other members of this group, which remembers how far it has read.
    #[arg(short, long, conflicts_with_all = ["partition", "offset"])]
    group: Option<String>,
    /// How the group shares out partitions, if the other members offer that, too.
    #[arg(long, requires = "group", value_parser = ["range", "roundrobin", "cooperative-sticky"], default_value = "range")]
    assignor: String,
    /// Stop after this many records.
    #[arg(short = 'n', long = "count", value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Only this partition.
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// Begin at this offset of the partition.
    #[arg(long, requires = "partition", conflicts_with = "from_beginning", value_parser = clap::value_parser!(i64).range(0..))]
    offset: Option<i64>,
    /// Print the key, then SEPARATOR, before each value.
    #[arg(short, long, value_name = "SEPARATOR")]
    key_separator: Option<String>,
    /// Print partition, offset, timestamp, headers and key of each record, with unprintable bytes escaped.
    #[arg(short, long)]
    verbose: bool,
    /// Stop when nothing new has come for this long.
    #[arg(long, value_name = "MS")]
    idle_exit_ms: Option<u64>,
    #[command(flatten)]
    connect: connect::Args,
}

pub(crate) fn run(args: Args) -> ExitCode {
    run_client(|runtime| async move {
        let mut consumer = start(&runtime, &args).await?;
        let result = tokio::select! {
            biased;
            () = asked_to_end() => Ok(()),
            result = consume(&runtime, &args, &mut consumer) => result,
        };
        if args.group.is_some() {
            // What was printed is committed, so that the group does not print it twice.
            let end = async {
                if let Err(error) = consumer.commit().await {
                    complain(format_args!("the group's offsets were not committed; it will read some records again: {error}"));
                }
                let _ = consumer.close().await;
            };
            tokio::select! {
                biased;
                () = end => {}
                () = sleep_ms(&runtime, 5_000) => {}
            }
        }
        result
    })
}

async fn start(runtime: &TokioRuntime, args: &Args) -> Result<Consumer<TokioRuntime>, Failure> {
    let client = args.connect.connect(runtime, "consume").await?;
    let partitions = partitions(&client, args).await?;
    let group =
        args.group.as_deref().map(|group| GroupConfig { assignors: Assignor::by_name(&args.assignor).into_iter().collect(), ..GroupConfig::new(group) });
    let config =
        ConsumerConfig { group, auto_offset_reset: if args.from_beginning { OffsetReset::Earliest } else { OffsetReset::Latest }, ..ConsumerConfig::default() };
    let mut consumer = Consumer::new(client.clone(), config);
    if args.group.is_some() {
        consumer.subscribe(&[&args.topic])?;
    } else {
        let start = match args.offset {
            Some(offset) => StartAt::Offset(offset),
            None if args.from_beginning => StartAt::Earliest,
            None => StartAt::Latest,
        };
        // The end of every partition is asked for now, so that 'new' means after the line below.
        let mut positions = BTreeMap::new();
        for partition in partitions {
            let offset = client.offset(&partition, start).await.map_err(|error| args.connect.explain(&error))?;
            positions.insert(partition, StartAt::Offset(offset));
        }
        consumer.assign(positions);
        if start == StartAt::Latest && (args.verbose || std::io::stderr().is_terminal()) {
            complain(format_args!("waiting for new records of {} (--from-beginning prints the old ones, too; Ctrl-C ends)", args.topic));
        }
    }
    Ok(consumer)
}

/// The partitions to read, of a topic that must exist: waiting for a misspelt one would help nobody.
async fn partitions(client: &Client<TokioRuntime>, args: &Args) -> Result<Vec<TopicPartition>, Failure> {
    let topic = &args.topic;
    let metadata = client.describe_topics(&[topic]).await.map_err(|error| args.connect.explain(&error))?;
    match metadata.topics.get(topic.as_str()) {
        Some(Ok(found)) => match args.partition {
            Some(partition) if !found.partitions.contains_key(&partition) => {
                Err(format!("topic {topic} has no partition {partition}: its partitions are 0 to {}", found.partitions.len().saturating_sub(1)).into())
            }
            Some(partition) => Ok(vec![TopicPartition::new(topic.as_str(), partition)]),
            None => Ok(found.partitions.keys().map(|partition| TopicPartition::new(topic.as_str(), *partition)).collect()),
        },
        Some(Err(ResponseError::UnknownTopicOrPartition)) | None => {
            Err(format!("topic {topic} does not exist; create it: ottla topic create {topic}, or send something to it: ottla produce {topic}").into())
        }
        Some(Err(code)) => Err(format!("topic {topic}: {code}").into()),
    }
}

async fn consume(runtime: &TokioRuntime, args: &Args, consumer: &mut Consumer<TokioRuntime>) -> Result<(), Failure> {
    let mut left = args.count.unwrap_or(u64::MAX);
    let mut last_record = runtime.now();
    while left > 0 {
        consumer.set_max_poll_records(usize::try_from(left).unwrap_or(usize::MAX).min(500));
        let records = consumer.poll(Duration::from_millis(500)).await.map_err(|error| args.connect.explain(&error))?;
        let now = runtime.now();
        if records.is_empty() {
            if args.idle_exit_ms.is_some_and(|idle_ms| now - last_record >= Duration::from_millis(idle_ms)) {
                return Ok(());
            }
        } else {
            last_record = now;
            left -= records.len() as u64;
            let mut out = stdout();
            for record in &records {
                write_record(&mut out, args, record)?;
            }
            out.flush()?;
        }
    }
    Ok(())
}

fn write_record(out: &mut impl Write, args: &Args, record: &ConsumedRecord) -> std::io::Result<()> {
    if args.verbose {
        let headers: Vec<String> =
            record.headers.iter().map(|(name, value)| format!("{}={}", readable(name), value.as_deref().map_or_else(|| "null".to_owned(), readable))).collect();
        let field = |field: &Option<bytes::Bytes>| field.as_deref().map_or_else(|| "null".to_owned(), readable);
        return writeln!(
            out,
            "partition={} offset={} timestamp={} headers=[{}] key={} value={}",
            record.partition.partition,
            record.offset,
            record.timestamp_ms,
            headers.join(","),
            field(&record.key),
            field(&record.value)
        );
    }
    if let Some(separator) = &args.key_separator {
        out.write_all(record.key.as_deref().unwrap_or(b"null"))?;
        out.write_all(separator.as_bytes())?;
    }
    out.write_all(record.value.as_deref().unwrap_or(b"null"))?;
    out.write_all(b"\n")
}
