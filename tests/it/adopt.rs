//! Data directories that Apache Kafka 3.9 wrote: refused before their adoption, opened with everything in them after.
//!
//! `tests/data/kafka-3.9` holds such a directory, made by the real Kafka, and what Kafka's own clients read of it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bytes::Bytes;
use ottla::client::admin::CommittedOffset;
use ottla::client::producer::{Outcome, Producer, ProducerConfig, ProducerRecord};
use ottla::log::producer_state::parse_end_transaction;
use ottla::record::{BatchBuilder, legacy, records};
use ottla::topic_partition::TopicPartition;

use super::process::{Launch, Process, block_on, temp_dir};
use super::traffic::{self, Conn, batches, fetch_request, fetched, range};

const BROKER_ID: i32 = 3;
const LIMIT_BYTES: usize = 16 << 20;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/kafka-3.9")
}

/// Lines of a list, split at tabs.
fn rows(name: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(data().join(name)).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

/// Kafka's data directory, in `home`.
fn unpack(home: &Path) -> PathBuf {
    let status = Command::new("tar").arg("-xzf").arg(data().join("broker.tar.gz")).current_dir(home).status().unwrap();
    assert!(status.success());
    home.join("broker")
}

fn ottla(home: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ottla")).args(args).current_dir(home).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn adopt(home: &Path) {
    let output = ottla(home, &["log", "adopt", "broker"]);
    assert!(output.status.success(), "{}", text(&output));
}

/// A refusal: what it said.
fn adopt_fails(home: &Path) -> String {
    let output = ottla(home, &["log", "adopt", "broker"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    text(&output)
}

/// A broker on the directory. Retention is applied all the time: nothing of the adopted records may go.
fn launch(home: &Path) -> Launch {
    let launch = Launch::new(home).option("log.dirs", "broker").option("broker.id", BROKER_ID);
    launch.option("log.retention.check.interval.ms", 20).option("log.retention.hours", 1).option("group.initial.rebalance.delay.ms", 0)
}

/// All files with contents and times.
fn everything(dir: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        found.insert(dir.clone(), (Vec::new(), fs::metadata(&dir).unwrap().modified().unwrap()));
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let modified = fs::metadata(&path).unwrap().modified().unwrap();
                found.insert(path.clone(), (fs::read(&path).unwrap(), modified));
            }
        }
    }
    found
}

/// A record as the lists have it: topic, partition, offset, timestamp, key, value, headers.
type Row = Vec<String>;

/// What a client reads of a partition: records, or with `committed` the offsets of those that are not of an aborted transaction.
async fn read(connection: &Conn, topic: &str, partition: i32, committed: bool) -> Vec<Row> {
    let words = |bytes: Option<Bytes>| bytes.map_or_else(|| "\\N".to_owned(), |bytes| String::from_utf8(bytes.to_vec()).unwrap());
    let (start, end) = range(connection, topic, partition).await.unwrap();
    let mut found = Vec::new();
    let mut next = start;
    while next < end {
        let mut request = fetch_request(topic, partition, next, 3000, 0);
        request.isolation_level = i8::from(committed);
        let response = connection.call_at(11, &request, traffic::REQUEST).await.unwrap();
        let data = fetched(&response);
        assert_eq!((response.error_code, data.error_code), (0, 0), "{topic}-{partition} at {next}");
        assert_eq!(data.last_stable_offset, end);
        let mut aborted: Vec<(i64, i64)> = data.aborted_transactions.iter().flatten().map(|aborted| (aborted.first_offset, aborted.producer_id.0)).collect();
        aborted.sort_unstable();
        let mut aborting = BTreeSet::new();
        let batches = batches(data.records.clone().unwrap_or_default());
        assert!(!batches.is_empty(), "{topic}-{partition}: nothing at {next}, below the end {end}");
        for (header, batch) in batches {
            next = header.next_offset();
            while aborted.first().is_some_and(|(first_offset, _)| *first_offset <= header.last_offset()) {
                aborting.insert(aborted.remove(0).1);
            }
            if header.is_control() {
                if parse_end_transaction(&header, &batch).is_some_and(|marker| !marker.committed) {
                    aborting.remove(&header.producer_id);
                }
                continue;
            }
            if header.is_transactional() && aborting.contains(&header.producer_id) {
                continue;
            }
            for record in records(&batch, LIMIT_BYTES).unwrap() {
                let record = record.unwrap();
                if record.offset < start {
                    continue;
                }
                let mut row = vec![topic.to_owned(), partition.to_string(), record.offset.to_string()];
                if !committed {
                    let headers: Vec<String> = record.headers.into_iter().map(|(key, value)| format!("{}={}", words(Some(key)), words(value))).collect();
                    row.extend([record.timestamp.to_string(), words(record.key), words(record.value), headers.join(",")]);
                }
                found.push(row);
            }
        }
    }
    found
}

/// Everything that Kafka's clients read of the directory is read of this broker; `more` records were added to each partition since.
async fn check_content(process: &Process, more: usize) {
    let connection = traffic::connect(process.port).await;
    let client = traffic::client(process.port);
    let metadata = client.metadata(None, false).await.unwrap();
    let expected = rows("records.tsv");
    let committed = rows("committed.tsv");
    for row in rows("topics.tsv") {
        let (name, count) = (row[0].as_str(), row[2].parse::<i32>().unwrap());
        let topic = metadata.topics[name].as_ref().unwrap();
        assert_eq!(ottla::log::partition_metadata::encode_uuid(topic.id), row[1], "the id of {name}");
        assert_eq!(topic.partitions.len(), count as usize);
        for number in 0..count {
            // Kafka wrote in epoch 0.
            assert!(topic.partitions[&number].leader_epoch > 0, "{name}-{number}");
            let mut found = read(&connection, name, number, false).await;
            let wanted: Vec<Row> = expected.iter().filter(|row| row[0] == name && row[1] == number.to_string()).cloned().collect();
            assert_eq!(found.len(), wanted.len() + more, "{name}-{number}");
            found.truncate(wanted.len());
            assert_eq!(found, wanted);
            if name == "transactions" {
                let mut found = read(&connection, name, number, true).await;
                found.truncate(committed.len());
                assert_eq!(found, committed);
            }
        }
    }
    assert_eq!(metadata.topics["__consumer_offsets"].as_ref().unwrap().partitions.len(), 3);
    assert_eq!(metadata.cluster_id.as_deref(), Some(cluster_id(process).as_str()));
    for (group, offsets) in groups() {
        let found = client.committed(&group, None).await.unwrap();
        let found: BTreeMap<_, _> = found.into_iter().map(|(partition, committed)| (partition, (committed.offset, committed.metadata))).collect();
        assert_eq!(found, offsets, "group {group}");
    }
}

fn cluster_id(process: &Process) -> String {
    process.stdout()[0].rsplit(' ').next().unwrap().to_owned()
}

/// The offsets of the groups in the list.
fn groups() -> BTreeMap<String, BTreeMap<TopicPartition, (i64, String)>> {
    let mut groups: BTreeMap<String, BTreeMap<TopicPartition, (i64, String)>> = BTreeMap::new();
    for row in rows("groups.tsv") {
        let partition = TopicPartition::new(row[1].as_str(), row[2].parse().unwrap());
        groups.entry(row[0].clone()).or_default().insert(partition, (row[3].parse().unwrap(), row[4].clone()));
    }
    groups
}

/// Adds a record to each partition, by an idempotent producer. Its id must be none that Kafka's producers had.
async fn produce_everywhere(process: &Process) {
    let producer = Producer::new(traffic::client(process.port), ProducerConfig { idempotent: true, ..ProducerConfig::default() }).unwrap();
    for row in rows("topics.tsv") {
        for number in 0..row[2].parse().unwrap() {
            let record = ProducerRecord {
                topic: row[0].clone(),
                partition: Some(number),
                key: Some("new".into()),
                value: Some("new".into()),
                ..ProducerRecord::default()
            };
            let outcome = producer.send(record).await.unwrap().await;
            assert!(matches!(outcome, Outcome::Acked { .. }), "{}-{number}: {outcome:?}", row[0]);
        }
    }
}

#[test]
fn a_directory_of_kafkas_is_not_touched_before_its_adoption() {
    let home = temp_dir();
    let dir = unpack(home.path());
    let kraft = "version=1\nnode.id=3\ncluster.id=gjJQjxz0SdeWT2jrfXHd8g\n";
    for meta in [fs::read_to_string(dir.join("meta.properties")).unwrap(), kraft.to_owned()] {
        fs::write(dir.join("meta.properties"), meta).unwrap();
        let before = everything(&dir);
        // Beside a directory that is fine: that one stays as it is, too.
        let mut process = launch(home.path()).option("log.dirs", "new,broker").spawn();
        process.wait_exit_code(1);
        process.wait_for_text("ottla log adopt broker");
        assert!(process.text().contains("written by Apache Kafka"), "{}", process.text());
        assert!(everything(&dir) == before && !home.path().join("new").exists());
    }
    fs::remove_file(dir.join("meta.properties")).unwrap();
    let before = everything(&dir);
    let mut process = launch(home.path()).spawn();
    process.wait_exit_code(1);
    process.wait_for_text("no meta.properties");
    assert!(everything(&dir) == before);
}

#[test]
fn a_directory_of_kafkas_opens_with_everything_in_it() {
    let home = temp_dir();
    let dir = unpack(home.path());
    let output = ottla(home.path(), &["log", "adopt", "--dry-run", "broker"]);
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    for what in ["of a Kafka broker with ZooKeeper, broker 3", "topic compacted was compacted by Kafka", "retention.ms=-1", "codecs", "Nothing was changed"] {
        assert!(said.contains(what), "'{what}' is missing in: {said}");
    }
    assert!(!dir.join("meta.properties.kafka").exists());
    // As Kafka notes an epoch in which it led and wrote nothing.
    fs::write(dir.join("codecs-2/leader-epoch-checkpoint"), "0\n2\n0 0\n41 100\n").unwrap();
    adopt(home.path());
    let said = text(&ottla(home.path(), &["log", "adopt", "broker"]));
    assert!(said.contains("belong to Ottla already"), "{said}");

    let mut process = launch(home.path()).option("broker.id", 0).spawn();
    process.wait_exit_code(1);
    process.wait_for_text("broker.id 3, not 0");

    let mut process = launch(home.path()).start();
    block_on(async {
        check_content(&process, 0).await;
        let topic = traffic::client(process.port).topic("codecs").await.unwrap();
        assert_eq!((topic.partitions[&1].leader_epoch, topic.partitions[&2].leader_epoch), (1, 42));
        produce_everywhere(&process).await;
        check_content(&process, 1).await;
        let offsets = BTreeMap::from([(TopicPartition::new("codecs", 0), CommittedOffset { offset: 55, leader_epoch: -1, metadata: "mine".to_owned() })]);
        traffic::client(process.port).set_committed("new", &offsets).await.unwrap();
    });
    process.kill();
    let mut process = launch(home.path()).start();
    block_on(async {
        check_content(&process, 1).await;
        produce_everywhere(&process).await;
        let committed = traffic::client(process.port).committed("new", None).await.unwrap();
        assert_eq!(committed[&TopicPartition::new("codecs", 0)].offset, 55);
    });
    process.stop();
    let mut process = launch(home.path()).start();
    block_on(check_content(&process, 2));
    process.stop();
    let output = ottla(home.path(), &["log", "verify", "--deep", "broker"]);
    assert!(output.status.success(), "{}", text(&output));

    // Adopted once, it is a directory as any other: without its metadata it is not started anew.
    fs::remove_dir_all(dir.join("__ottla_coordination")).unwrap();
    let mut process = launch(home.path()).spawn();
    process.wait_exit_code(1);
    process.wait_for_text("was lost or moved");
}

/// As a power cut leaves a directory of Kafka's: indexes reserved, nothing known to be flushed, a torn batch at an end.
#[test]
fn a_directory_that_kafka_did_not_close_is_recovered() {
    let home = temp_dir();
    let dir = unpack(home.path());
    fs::remove_file(dir.join(".kafka_cleanshutdown")).unwrap();
    fs::write(dir.join("recovery-point-offset-checkpoint"), "0\n0\n").unwrap();
    let mut torn = 0;
    for path in everything(&dir).into_keys() {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with("index") {
            let mut bytes = fs::read(&path).unwrap();
            if name.ends_with(".txnindex") {
                bytes.clear();
            } else {
                // Room for whole entries of either kind.
                bytes.resize(bytes.len() + 24 * 1000, 0);
            }
            fs::write(&path, bytes).unwrap();
        } else if name == "00000000000000000000.log" && path.parent().unwrap().ends_with("stamped-0") {
            let mut bytes = fs::read(&path).unwrap();
            let tail = bytes[..200].to_vec();
            bytes.extend(tail);
            fs::write(&path, bytes).unwrap();
            torn += 1;
        }
    }
    assert_eq!(torn, 1);
    adopt(home.path());
    for more in 0..2 {
        let mut process = launch(home.path()).start();
        block_on(async {
            check_content(&process, more).await;
            produce_everywhere(&process).await;
        });
        process.kill();
    }
}

#[test]
fn what_could_not_be_served_is_refused() {
    let home = temp_dir();
    let dir = unpack(home.path());
    let untouched = fs::read(dir.join("meta.properties")).unwrap();

    let (partition, away) = (dir.join("codecs-1"), home.path().join("away"));
    fs::rename(&partition, &away).unwrap();
    let said = adopt_fails(home.path());
    assert!(said.contains("topic codecs has no partition 1 here") && said.contains("--partial"), "{said}");
    fs::rename(&away, &partition).unwrap();

    let log = dir.join("codecs-1/00000000000000000000.log");
    let good = fs::read(&log).unwrap();
    let mut builder = BatchBuilder::new();
    builder.push(5, None, Some(b"old"), &[]);
    fs::write(&log, legacy::convert_down(&builder.build(), 1, 0, LIMIT_BYTES).unwrap()).unwrap();
    let said = adopt_fails(home.path());
    assert!(said.contains("codecs-1: 1 of its") && said.contains("before Kafka 0.11"), "{said}");
    fs::write(&log, &good).unwrap();

    let mut rotten = good.clone();
    rotten[100] ^= 1;
    fs::write(&log, rotten).unwrap();
    let said = adopt_fails(home.path());
    assert!(said.contains("This is damage"), "{said}");
    fs::write(&log, good).unwrap();

    let mut logs: Vec<PathBuf> = fs::read_dir(dir.join("transactions-0")).unwrap().map(|entry| entry.unwrap().path()).collect();
    logs.retain(|path| path.to_string_lossy().ends_with(".log"));
    let log = logs.iter().max().unwrap();
    let end: i64 = rows("records.tsv").iter().filter(|row| row[0] == "transactions").map(|row| row[2].parse::<i64>().unwrap() + 2).max().unwrap();
    let mut bytes = fs::read(log).unwrap();
    let mut builder = BatchBuilder::new().base_offset(end).leader_epoch(0).producer(77, 0, 0).transactional();
    builder.push(5, None, Some(b"undecided"), &[]);
    bytes.extend_from_slice(&builder.build());
    fs::write(log, bytes).unwrap();
    let said = adopt_fails(home.path());
    assert!(said.contains("transactions-0 has 1 open transactions, the first of producer 77"), "{said}");
    assert_eq!(fs::read(dir.join("meta.properties")).unwrap(), untouched);
}

#[test]
fn missing_partitions_are_made_anew_if_asked() {
    let home = temp_dir();
    let dir = unpack(home.path());
    fs::remove_dir_all(dir.join("codecs-1")).unwrap();
    let output = ottla(home.path(), &["log", "adopt", "--partial", "broker"]);
    assert!(output.status.success() && text(&output).contains("no partition 1 here"), "{}", text(&output));
    let process = launch(home.path()).start();
    block_on(async {
        let connection = traffic::connect(process.port).await;
        assert_eq!(range(&connection, "codecs", 1).await, Ok((0, 0)));
        assert_eq!(range(&connection, "codecs", 2).await, Ok((0, 100)));
    });
}

#[test]
fn a_directory_of_krafts_keeps_its_metadata_log_beside() {
    let home = temp_dir();
    let dir = unpack(home.path());
    fs::write(dir.join("meta.properties"), "#\n#Mon Aug 26 10:00:00 UTC 2026\nnode.id=3\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\nversion=1\ncluster.id=abc\n")
        .unwrap();
    fs::create_dir(dir.join("__cluster_metadata-0")).unwrap();
    fs::write(dir.join("__cluster_metadata-0/quorum-state"), "{}").unwrap();
    let output = ottla(home.path(), &["log", "adopt", "broker"]);
    assert!(output.status.success() && text(&output).contains("with KRaft"), "{}", text(&output));
    assert!(dir.join("__cluster_metadata-0.kraft/quorum-state").exists() && !dir.join("__cluster_metadata-0").exists());
    let mut process = launch(home.path()).start();
    assert_eq!(cluster_id(&process), "abc");
    block_on(check_content(&process, 0));
    process.stop();
}
