//! `ottla log adopt`: takes over the data directories of a Kafka broker, after looking at everything in them.
//!
//! Kafka's record files need no change: Ottla keeps the same ones. What is not in a data directory cannot be taken over, and is said:
//! the topics' configuration, and with KRaft everything in the metadata log but the topics' names and ids, which the directories show.
//! What cannot be served as Kafka would is refused: open transactions, message formats of before 0.11, topics with partitions missing.
//! The mark is a key in `meta.properties`, which is rewritten in the form that brokers with ZooKeeper use; the old file is kept beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use crate::cli::log::files::{content, partitions, unreadable};
use crate::cli::log::verify::{Findings, check_partition, progress};
use crate::cli::output::{Failure, stdout};
use crate::config::properties;
use crate::log::adoption::{ADOPTED_KEY, ADOPTED_OFFSETS, FORMAT_KEY, MAX_PRODUCER_ID_KEY};
use crate::log::checkpoint::{encode_offsets, parse_offsets, replace_file};
use crate::log::meta_properties::MetaProperties;
use crate::log::names::{CLEAN_SHUTDOWN, LOCK, META_PROPERTIES, PARTITION_METADATA, is_delete_dir_name};
use crate::log::partition_metadata::{self, decode_uuid};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{Disk, Runtime};
use crate::topic_partition::TopicPartition;

/// Kafka's list of what its log cleaner has compacted.
const CLEANER_CHECKPOINT: &str = "cleaner-offset-checkpoint";
/// Where the metadata log of KRaft is put, so that nobody takes it for a topic.
const SET_ASIDE_SUFFIX: &str = ".kraft";

/// What a `meta.properties` of Kafka's says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Origin {
    /// Whether the broker used KRaft (version 1) or ZooKeeper (version 0).
    kraft: bool,
    broker_id: i32,
    cluster_id: Option<String>,
    directory_id: Option<Uuid>,
    adopted: bool,
}

fn origin(text: &str) -> Result<Origin, String> {
    let (entries, _) = properties::parse(text);
    let values: BTreeMap<String, String> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let kraft = match values.get("version").map(String::as_str) {
        Some("0") => false,
        Some("1") => true,
        version => return Err(format!("its version is {}; those of Kafka 3.9 and 4 are 0 (ZooKeeper) and 1 (KRaft)", version.unwrap_or("missing"))),
    };
    let key = if kraft { "node.id" } else { "broker.id" };
    let broker_id = values.get(key).and_then(|id| id.parse().ok()).ok_or_else(|| format!("it has no {key}"))?;
    Ok(Origin {
        kraft,
        broker_id,
        cluster_id: values.get("cluster.id").cloned(),
        directory_id: values.get("directory.id").and_then(|id| decode_uuid(id)),
        adopted: values.contains_key(ADOPTED_KEY) || values.contains_key(FORMAT_KEY),
    })
}

/// One data directory as it was found.
struct Dir {
    path: PathBuf,
    origin: Origin,
    meta: Bytes,
    partitions: Vec<(TopicPartition, PathBuf)>,
    set_aside: Vec<String>,
}

pub(super) async fn run(runtime: &TokioRuntime, paths: &[PathBuf], partial: bool, dry_run: bool) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let mut dirs = Vec::new();
    let mut locks = Vec::new();
    for path in paths {
        // Listed first: taking the lock would make the file, also where the directory is a mistake.
        let meta_path = path.join(META_PROPERTIES);
        let meta = content(runtime, &meta_path).await.map_err(|_| {
            format!(
                "{} is no data directory of a Kafka broker: it has no readable {META_PROPERTIES}; name the directories of the broker's log.dirs",
                path.display()
            )
        })?;
        let origin = origin(&String::from_utf8_lossy(&meta)).map_err(|what| format!("{}: {what}", meta_path.display()))?;
        match runtime.disk().try_lock(&path.join(LOCK)).await {
            Ok(Some(lock)) => locks.push(lock),
            Ok(None) => return Err(format!("{} is in use by a running broker; stop it first", path.display()).into()),
            Err(error) => return Err(unreadable(&path.join(LOCK), &error)),
        }
        dirs.push(look(runtime, path, origin, meta, &mut findings).await?);
    }
    check_origins(&dirs, &mut findings);
    check_topics(runtime, &dirs, partial, &mut findings).await?;
    let all: Vec<(TopicPartition, PathBuf)> = dirs.iter().flat_map(|dir| dir.partitions.iter().cloned()).collect();
    let bar = progress(runtime, &all).await?;
    for (partition, path) in &all {
        check_partition(runtime, partition, path, false, &bar, &mut findings).await?;
    }
    bar.finish_and_clear();
    check_facts(runtime, &dirs, &mut findings).await;
    tell(&dirs, &findings)?;
    if !findings.errors.is_empty() {
        return Err("nothing was changed, because of the errors above".to_owned().into());
    }
    if dirs.iter().all(|dir| dir.origin.adopted) {
        return Ok(say("The directories belong to Ottla already; nothing was changed.")?);
    }
    if dry_run {
        return Ok(say("They can be adopted. Nothing was changed, as asked (--dry-run).")?);
    }
    for dir in dirs.iter().filter(|dir| !dir.origin.adopted) {
        mark(runtime, dir, &findings).await?;
    }
    let list: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
    Ok(say(&format!("Adopted. Start the broker: ottla -o broker.id={} -o log.dirs={}", dirs[0].origin.broker_id, list.join(",")))?)
}

fn say(line: &str) -> std::io::Result<()> {
    let mut out = stdout();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Looks at everything in a data directory that is not a partition.
async fn look(runtime: &TokioRuntime, path: &Path, origin: Origin, meta: Bytes, findings: &mut Findings) -> Result<Dir, Failure> {
    let entries = runtime.disk().list(path).await.map_err(|error| unreadable(path, &error))?;
    let mut found = partitions(runtime, path).await?;
    let mut set_aside = Vec::new();
    found.retain(|(partition, _)| {
        let is_kraft_metadata = &*partition.topic == "__cluster_metadata";
        if is_kraft_metadata {
            set_aside.push(partition.to_string());
        }
        !is_kraft_metadata
    });
    for name in &set_aside {
        findings.notes.push(format!(
            "{name} is KRaft's metadata log: topics' configurations, ACLs, users and quotas in it are not taken over. It is kept as {name}{SET_ASIDE_SUFFIX}"
        ));
    }
    if !entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN) && !origin.adopted {
        findings.notes.push(format!("{}: Kafka did not stop cleanly (no {CLEAN_SHUTDOWN}); the first start reads the ends of the logs again", path.display()));
    }
    for entry in entries.iter().filter(|entry| entry.is_dir) {
        let name = &entry.name;
        let what = if is_delete_dir_name(name) {
            "a deleted partition that Kafka had not removed yet"
        } else if name.ends_with("-future") {
            "a copy that Kafka was moving between directories"
        } else if name.ends_with("-stray") {
            "a partition that was not this broker's any more"
        } else if name.starts_with("remote-log-index-cache") {
            "a cache of indexes of tiered segments"
        } else {
            continue;
        };
        findings.notes.push(format!("{}: {what}; it is left alone", path.join(name).display()));
    }
    Ok(Dir { path: path.to_owned(), origin, meta, partitions: found, set_aside })
}

fn check_origins(dirs: &[Dir], findings: &mut Findings) {
    let first = &dirs[0];
    for dir in &dirs[1..] {
        for (key, one, other) in [
            ("broker id", first.origin.broker_id.to_string(), dir.origin.broker_id.to_string()),
            ("cluster id", format!("{:?}", first.origin.cluster_id), format!("{:?}", dir.origin.cluster_id)),
        ] {
            if one != other {
                findings.errors.push(format!("{} has {key} {one}, {} has {other}: they are not of one broker", first.path.display(), dir.path.display()));
            }
        }
    }
}

/// Looks at the topics as a whole, and for files in partitions that only Kafka can finish with.
async fn check_topics(runtime: &TokioRuntime, dirs: &[Dir], partial: bool, findings: &mut Findings) -> Result<(), Failure> {
    let mut topics: BTreeMap<&str, (BTreeSet<i32>, BTreeSet<Uuid>)> = BTreeMap::new();
    let mut homes: BTreeMap<&TopicPartition, &Path> = BTreeMap::new();
    for dir in dirs {
        for (partition, path) in &dir.partitions {
            if let Some(other) = homes.insert(partition, path) {
                findings.errors.push(format!("{partition} is in both {} and {}; move one of the two away", other.display(), path.display()));
            }
            let (numbers, ids) = topics.entry(&partition.topic).or_default();
            numbers.insert(partition.partition);
            let entries = runtime.disk().list(path).await.map_err(|error| unreadable(path, &error))?;
            for entry in &entries {
                let file = path.join(&entry.name);
                if entry.name.ends_with(".swap") {
                    findings.errors.push(format!(
                        "{}: Kafka was replacing this segment by its compacted form; start and stop Kafka once, so that it ends that",
                        file.display()
                    ));
                } else if entry.name.ends_with(".cleaned") || entry.name.ends_with(".deleted") {
                    findings.notes.push(format!("{}: a leftover of Kafka's that holds nothing needed", file.display()));
                }
            }
            match content(runtime, &path.join(PARTITION_METADATA)).await.map(|bytes| partition_metadata::parse(&bytes)) {
                Ok(Ok(id)) => drop(ids.insert(id)),
                Ok(Err(error)) => findings.errors.push(format!("{}: {error}", path.join(PARTITION_METADATA).display())),
                // Brokers before topic ids wrote none; the topic gets one.
                Err(_) => {}
            }
        }
    }
    for (topic, (numbers, ids)) in &topics {
        if ids.len() > 1 {
            findings.errors.push(format!("the partitions of topic {topic} have {} different topic ids: some are of an older topic of that name", ids.len()));
        }
        let count = numbers.last().map_or(0, |last| last + 1);
        let missing: Vec<String> = (0..count).filter(|number| !numbers.contains(number)).map(|number| number.to_string()).collect();
        if !missing.is_empty() {
            let missing = missing.join(", ");
            if partial {
                findings.notes.push(format!("topic {topic} has no partition {missing} here: it will be empty (--partial)"));
            } else {
                findings.errors.push(format!(
                    "topic {topic} has no partition {missing} here: name all directories of the broker's log.dirs, or, in a cluster, adopt those of a broker that \
                     has all partitions; with --partial the missing ones are made anew, empty"
                ));
            }
        }
        match *topic {
            "__remote_log_metadata" => {
                findings.errors.push("topic __remote_log_metadata: this broker used tiered storage, and records in it are not in the data directories; switch tiering off in Kafka first".to_owned());
            }
            "__transaction_state" => {
                findings.notes.push("topic __transaction_state is kept as it is: transactional producers are not in this release".to_owned())
            }
            "__share_group_state" => findings.notes.push("topic __share_group_state: share groups are not in this release".to_owned()),
            _ => {}
        }
    }
    let others: Vec<&str> = topics.keys().copied().filter(|topic| !topic.starts_with("__")).collect();
    if dirs.iter().any(|dir| !dir.origin.adopted) && !others.is_empty() {
        findings.notes.push(format!(
            "the settings of topics are not in data directories and are not taken over. So that nothing is deleted, each topic gets retention.ms=-1 and \
             retention.bytes=-1; set what you had again, with kafka-configs.sh --alter or as docs/adopt.md says, for: {}",
            others.join(", ")
        ));
    }
    Ok(())
}

/// Looks at what the records told.
async fn check_facts(runtime: &TokioRuntime, dirs: &[Dir], findings: &mut Findings) {
    let mut compacted = BTreeSet::new();
    for dir in dirs {
        let cleaned = content(runtime, &dir.path.join(CLEANER_CHECKPOINT)).await.ok();
        let cleaned = cleaned.and_then(|bytes| parse_offsets(&String::from_utf8_lossy(&bytes)).ok()).unwrap_or_default();
        compacted.extend(cleaned.into_keys().map(|partition| partition.topic));
    }
    let mut told: BTreeSet<&str> = BTreeSet::new();
    for (partition, facts) in &findings.facts {
        if let Some((producer_id, offset)) = facts.open_transactions.iter().next() {
            findings.errors.push(format!(
                "{partition} has {} open transactions, the first of producer {producer_id} from offset {offset} on. Start Kafka, let the producers end them or \
                 transaction.timeout.ms pass (kafka-transactions.sh lists and aborts them), and stop Kafka",
                facts.open_transactions.len()
            ));
        }
        let is_compacted = compacted.contains(&partition.topic);
        if facts.first_gap.is_some() && !is_compacted {
            findings.notes.push(format!("{partition}: Kafka's log cleaner has no note of it. If it was never compacted, a segment is missing in the gap"));
        }
        if is_compacted && !partition.topic.starts_with("__") && told.insert(&partition.topic) {
            findings.notes.push(format!(
                "topic {} was compacted by Kafka. This release does not compact: all of its records are kept, and new ones beside those that they replace",
                partition.topic
            ));
        }
    }
}

fn tell(dirs: &[Dir], findings: &Findings) -> Result<(), Failure> {
    let mut out = stdout();
    for dir in dirs {
        let mode = match (dir.origin.adopted, dir.origin.kraft) {
            (true, _) => "Ottla's own, or adopted before",
            (false, true) => "of a Kafka broker with KRaft",
            (false, false) => "of a Kafka broker with ZooKeeper",
        };
        let cluster = dir.origin.cluster_id.as_deref().unwrap_or("unknown");
        let topics: BTreeSet<&str> = dir.partitions.iter().map(|(partition, _)| &*partition.topic).collect();
        writeln!(
            out,
            "{}: {mode}, broker {} of cluster {cluster}; {} partitions of {} topics",
            dir.path.display(),
            dir.origin.broker_id,
            dir.partitions.len(),
            topics.len()
        )?;
    }
    writeln!(out, "{} segments, {} batches, {} records, {} bytes checked", findings.segments, findings.batches, findings.records, findings.bytes)?;
    findings.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
    findings.errors.iter().try_for_each(|error| writeln!(out, "ERROR: {error}"))?;
    Ok(out.flush()?)
}

/// Sets KRaft's metadata log aside, keeps the old `meta.properties`, and writes the new one: the mark is the last step.
async fn mark(runtime: &TokioRuntime, dir: &Dir, findings: &Findings) -> Result<(), Failure> {
    let failed =
        |what: &str, error: std::io::Error| Failure::Message(format!("{}: {what}: {error}; what was done so far can be done again", dir.path.display()));
    for name in &dir.set_aside {
        let (from, to) = (dir.path.join(name), dir.path.join(format!("{name}{SET_ASIDE_SUFFIX}")));
        runtime.disk().rename(&from, &to).await.map_err(|error| failed("cannot set KRaft's metadata log aside", error))?;
    }
    let facts = |partition: &TopicPartition| findings.facts.get(partition);
    let ends = dir.partitions.iter().filter_map(|(partition, _)| Some((partition.clone(), facts(partition)?.end_offset))).collect();
    let ends = Bytes::from(encode_offsets(&ends));
    replace_file(runtime, &dir.path, ADOPTED_OFFSETS, ends).await.map_err(|error| failed("cannot note where the logs end", error))?;
    let max_producer_id = dir.partitions.iter().filter_map(|(partition, _)| facts(partition)?.max_producer_id).max().unwrap_or(-1);
    replace_file(runtime, &dir.path, "meta.properties.kafka", dir.meta.clone()).await.map_err(|error| failed("cannot keep meta.properties", error))?;
    let origin = &dir.origin;
    let from = if origin.kraft { "kafka-kraft" } else { "kafka-zookeeper" };
    let meta = MetaProperties {
        broker_id: Some(origin.broker_id),
        cluster_id: origin.cluster_id.clone(),
        directory_id: origin.directory_id,
        other: BTreeMap::from([(ADOPTED_KEY.to_owned(), from.to_owned()), (MAX_PRODUCER_ID_KEY.to_owned(), max_producer_id.to_string())]),
    };
    replace_file(runtime, &dir.path, META_PROPERTIES, Bytes::from(meta.encode())).await.map_err(|error| failed("cannot write meta.properties", error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kafkas_two_forms_are_read() {
        let zookeeper = origin("#\n#Mon Aug 26\nbroker.id=1\ncluster.id=abc\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\nversion=0\n").unwrap();
        assert_eq!((zookeeper.kraft, zookeeper.broker_id, zookeeper.directory_id), (false, 1, Some(Uuid::from_u128(1))));
        let kraft = origin("node.id=5\nversion=1\ncluster.id=x\\=y\n").unwrap();
        assert_eq!((kraft.kraft, kraft.broker_id, kraft.cluster_id.as_deref(), kraft.adopted), (true, 5, Some("x=y"), false));
        assert!(origin("version=0\nbroker.id=0\nottla.log.format=1\n").unwrap().adopted);
    }

    #[test]
    fn other_files_are_refused() {
        assert!(origin("version=2\nnode.id=1").unwrap_err().contains("version is 2"));
        assert!(origin("broker.id=1").unwrap_err().contains("missing"));
        assert!(origin("version=1\nbroker.id=1").unwrap_err().contains("node.id"));
    }
}
