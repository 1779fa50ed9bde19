//! `ottla produce`: sends lines from standard input, and says nothing but what went wrong.
#![allow(clippy::disallowed_methods, reason = "the command line ends its own process")]

use std::io::{BufRead, BufReader, Stdin};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use kafka_protocol::ResponseError;
use tokio::sync::mpsc;

use crate::cli::connect::{self, run_client};
use crate::cli::output::{Failure, complain};
use crate::client::producer::{Acks, Delivery, Outcome, ProducerRecord};
use crate::client::{Client, ClientError, Producer, ProducerConfig};
use crate::record::Codec;
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{Runtime, Task};

#[derive(Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// The topic; it is created if the broker does that (auto.create.topics.enable).
    topic: String,
    /// What is before the first SEPARATOR of a line is the record's key. A line without it is an error.
    #[arg(short, long, value_name = "SEPARATOR")]
    key_separator: Option<String>,
    /// Send to this partition; without it, the key decides, or the partitions take turns.
    #[arg(short, long, value_parser = clap::value_parser!(i32).range(0..))]
    partition: Option<i32>,
    /// A header for every record; may be repeated.
    #[arg(short = 'H', long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// Who must have a record before it counts as sent: all replicas in sync, the leader (1), or nobody (0).
    #[arg(short, long, value_parser = ["all", "1", "0", "-1"], default_value = "all", allow_hyphen_values = true)]
    acks: String,
    /// Do without the producer id by which the broker tells a retry from a new record. Implied by --acks 1 and 0.
    #[arg(long)]
    no_idempotence: bool,
    /// How batches are compressed.
    #[arg(short = 'z', long, value_parser = ["none", "gzip", "snappy", "lz4", "zstd"], default_value = "none")]
    compression: String,
    /// Wait this long for more lines before a batch is sent.
    #[arg(long, value_name = "MS", default_value_t = 5)]
    linger_ms: u64,
    /// The size of a batch, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 64 << 10)]
    batch_bytes: usize,
    /// Say how many records were sent.
    #[arg(short, long)]
    verbose: bool,
    #[command(flatten)]
    connect: connect::Args,
}

/// Failures that are told one by one; the rest is counted.
const TOLD_FAILURES: u64 = 10;

#[allow(clippy::disallowed_methods, reason = "the command line ends its own process")]
pub(crate) fn run(args: Args) -> ExitCode {
    run_client(|runtime| async move {
        let result = produce(&runtime, args).await;
        if result.is_err() {
            // A read of a terminal may be pending, and would keep the process for as long as nobody types.
            std::process::exit(match crate::cli::output::finish(result) {
                code if code == ExitCode::SUCCESS => 0,
                _ => 1,
            });
        }
        result
    })
}

#[derive(Default)]
struct Tally {
    sent: u64,
    failed: u64,
}

async fn produce(runtime: &TokioRuntime, args: Args) -> Result<(), Failure> {
    let acks = match args.acks.as_str() {
        "0" => Acks::None,
        "1" => Acks::Leader,
        _ => Acks::All,
    };
    let headers = args.headers.iter().map(|header| match header.split_once('=') {
        Some((name, value)) => Ok((Bytes::from(name.to_owned()), Some(Bytes::from(value.to_owned())))),
        None => Err(format!("the header '{header}' is not NAME=VALUE")),
    });
    let headers = headers.collect::<Result<Vec<_>, _>>()?;
    let client = args.connect.connect(runtime, "produce").await?;
    wait_for_topic(&client, &args).await?;
    let config = ProducerConfig {
        acks,
        idempotent: acks == Acks::All && !args.no_idempotence,
        linger: Duration::from_millis(args.linger_ms),
        batch_bytes: args.batch_bytes,
        codec: Codec::from_name(&args.compression).unwrap_or_default(),
        ..ProducerConfig::default()
    };
    let producer = Producer::new(client, config)?;
    let (deliveries, outcomes) = mpsc::unbounded_channel();
    let tally = runtime.spawn("produce-outcomes", tally(outcomes));
    let mut lines = Lines::new(runtime.clone());
    let mut number: u64 = 0;
    let mut bad_lines = 0;
    while let Some(line) = lines.next().await? {
        number += 1;
        let (key, value) = match &args.key_separator {
            None => (None, line),
            Some(separator) => match split_at(&line, separator.as_bytes()) {
                Some((key, value)) => (Some(key), value),
                None => {
                    bad_lines += 1;
                    if bad_lines <= TOLD_FAILURES {
                        complain(format_args!("line {number} was not sent: it has no '{separator}' after a key"));
                    }
                    continue;
                }
            },
        };
        let record =
            ProducerRecord { topic: args.topic.clone(), partition: args.partition, key, value: Some(value), headers: headers.clone(), timestamp_ms: None };
        match producer.send(record).await {
            // The receiver goes only after the sender.
            Ok(delivery) => drop(deliveries.send((number, delivery))),
            Err(error) => return Err(format!("line {number} was not sent: {}", args.connect.explain(&error)).into()),
        }
    }
    producer.flush().await;
    drop(deliveries);
    let tally = tally.join().await.unwrap_or_default();
    let failed = tally.failed + bad_lines;
    if args.verbose {
        complain(format_args!("{} of {number} records sent to {}", tally.sent, args.topic));
    }
    if failed > TOLD_FAILURES {
        complain(format_args!("{failed} records failed in all"));
    }
    if failed > 0 { Err(Failure::Told) } else { Ok(()) }
}

/// A topic that the broker is about to create takes a moment; one that it will not create never comes.
async fn wait_for_topic(client: &Client<TokioRuntime>, args: &Args) -> Result<(), Failure> {
    let topic = &args.topic;
    match client.topic(topic).await {
        Ok(found) => match args.partition.filter(|partition| !found.partitions.contains_key(partition)) {
            Some(partition) => {
                Err(format!("topic {topic} has no partition {partition}: its partitions are 0 to {}", found.partitions.len().saturating_sub(1)).into())
            }
            None => Ok(()),
        },
        Err(error) if error.code() == Some(ResponseError::UnknownTopicOrPartition) => {
            Err(format!("topic {topic} does not exist, and the broker does not create it on demand; create it: ottla topic create {topic}").into())
        }
        Err(error) => Err(args.connect.explain(&error).into()),
    }
}

async fn tally(mut outcomes: mpsc::UnboundedReceiver<(u64, Delivery)>) -> Tally {
    let mut tally = Tally::default();
    while let Some((line, delivery)) = outcomes.recv().await {
        let (what, error): (&str, ClientError) = match delivery.await {
            Outcome::Acked { .. } | Outcome::Sent { .. } => {
                tally.sent += 1;
                continue;
            }
            Outcome::Refused(error) => ("was not sent", error),
            Outcome::Unknown(error) => ("may or may not have been sent", error),
        };
        tally.failed += 1;
        if tally.failed <= TOLD_FAILURES {
            complain(format_args!("line {line} {what}: {error}"));
        }
    }
    tally
}

/// Splits at the first separator.
fn split_at(line: &Bytes, separator: &[u8]) -> Option<(Bytes, Bytes)> {
    let at = line.windows(separator.len().max(1)).position(|window| window == separator)?;
    Some((line.slice(..at), line.slice(at + separator.len()..)))
}

/// Lines of standard input, without their ends. Whatever can be read at once is read at once, so that piped files are fast and typed
/// lines leave when they are typed.
struct Lines {
    runtime: TokioRuntime,
    input: Arc<Mutex<BufReader<Stdin>>>,
    buffer: BytesMut,
    /// How much of `buffer` has no line end.
    searched: usize,
    ended: bool,
}

impl Lines {
    fn new(runtime: TokioRuntime) -> Self {
        let input = Arc::new(Mutex::new(BufReader::with_capacity(256 << 10, std::io::stdin())));
        Self { runtime, input, buffer: BytesMut::new(), searched: 0, ended: false }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                if line.last() == Some(&b'\r') {
                    line.truncate(line.len() - 1);
                }
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.ended {
                let rest = self.buffer.split().freeze();
                self.searched = 0;
                return Ok(Some(rest).filter(|rest| !rest.is_empty()));
            }
            let input = self.input.clone();
            let read = self.runtime.blocking(move || {
                let mut input = input.lock().unwrap_or_else(PoisonError::into_inner);
                let bytes = input.fill_buf()?.to_vec();
                input.consume(bytes.len());
                Ok::<_, std::io::Error>(bytes)
            });
            let bytes = read.await.map_err(|error| format!("cannot read standard input: {error}"))?;
            self.ended = bytes.is_empty();
            self.buffer.extend_from_slice(&bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_end_at_the_first_separator() {
        let split = |line: &'static str, separator: &str| {
            split_at(&Bytes::from_static(line.as_bytes()), separator.as_bytes()).map(|(key, value)| (key.to_vec(), value.to_vec()))
        };
        assert_eq!(split("k:v:w", ":"), Some((b"k".to_vec(), b"v:w".to_vec())));
        assert_eq!(split("k::v", "::"), Some((b"k".to_vec(), b"v".to_vec())));
        assert_eq!(split(":v", ":"), Some((b"".to_vec(), b"v".to_vec())));
        assert_eq!(split("kv", ":"), None);
    }
}
