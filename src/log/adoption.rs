//! Log directories that Apache Kafka wrote, and what a broker must know at its first start on them.
//!
//! Kafka's record files are ours, but its directories are opened only after `ottla log adopt` has looked at them and set
//! [`ADOPTED_KEY`] in `meta.properties`; until then nothing in them is touched ([`check_origin`]). From the mark to the end of the first
//! start the directory is *pending*: it has no [`FORMAT_KEY`] yet, its producer snapshots are taken for Kafka's, which say nothing of what
//! is on disk, and its topics are to be registered ([`Adoption`]). All of that can be done again after a crash. Then
//! [`LogManager::set_cluster_id`](super::LogManager::set_cluster_id) writes the format key, and it is a directory as any other.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use uuid::Uuid;

use super::Log;
use super::checkpoint::read_small_file;
use super::epoch_cache::EpochCache;
use super::manager::OpenError;
use super::meta_properties::{MetaProperties, MetaPropertiesError};
use super::names::{LEADER_EPOCH_CHECKPOINT, LOG_SUFFIX, META_PROPERTIES, parse_file_name};
use crate::runtime::{Disk, Runtime};
use crate::topic_partition::TopicPartition;

/// Key of `meta.properties` that says that the directory is ours and its producer snapshots, too (see [`recovery`](super::recovery)).
pub const FORMAT_KEY: &str = "ottla.log.format";
/// Its value.
pub const FORMAT: &str = "1";
/// Key of `meta.properties` that says that the directory was Kafka's and has been adopted; its value says whose it was.
pub const ADOPTED_KEY: &str = "ottla.adopted.from";
/// Key of `meta.properties`: the greatest producer id in the adopted records.
pub const MAX_PRODUCER_ID_KEY: &str = "ottla.adopted.max.producer.id";
/// The log end offset of each partition at its adoption, as a checkpoint: below it compaction may have left gaps.
pub const ADOPTED_OFFSETS: &str = "ottla-adopted-offset-checkpoint";

/// Partitions of directories that were adopted and whose topics may not be registered yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Adoption {
    /// All of them, also those that are offline.
    pub partitions: BTreeMap<TopicPartition, AdoptedPartition>,
    /// The greatest producer id in their records, −1 if there is none.
    pub max_producer_id: i64,
}

/// What an adopted partition's directory tells of its place in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdoptedPartition {
    /// The topic's id; nil if the directory has none.
    pub topic_id: Uuid,
    /// The greatest leader epoch in the log or its checkpoint, −1 if there is none.
    pub leader_epoch: i32,
}

impl Adoption {
    /// The state before any partition is noted.
    pub(super) fn new() -> Self {
        Self { partitions: BTreeMap::new(), max_producer_id: -1 }
    }

    /// Takes up what `meta.properties` says.
    pub(super) fn note_meta(&mut self, meta: &MetaProperties) {
        let max = meta.other.get(MAX_PRODUCER_ID_KEY).and_then(|id| id.parse().ok()).unwrap_or(-1);
        self.max_producer_id = self.max_producer_id.max(max);
    }

    /// Takes up a partition; its log is missing if it is offline.
    pub(super) async fn note<R: Runtime>(&mut self, rt: &R, partition: &TopicPartition, dir: &Path, topic_id: Uuid, log: Option<&Log<R>>) {
        let mut leader_epoch = checkpointed_epoch(rt, dir).await;
        if let Some(log) = log {
            leader_epoch = leader_epoch.max(log.latest_epoch().unwrap_or(-1));
            let max_producer_id = log.producer_states().await.iter().map(|(id, _)| id).max();
            self.max_producer_id = self.max_producer_id.max(max_producer_id.unwrap_or(-1));
        }
        self.partitions.insert(partition.clone(), AdoptedPartition { topic_id, leader_epoch });
    }
}

/// Whether a directory was adopted and its first start has not ended.
pub(super) fn is_pending(meta: &MetaProperties) -> bool {
    meta.other.contains_key(ADOPTED_KEY) && !meta.other.contains_key(FORMAT_KEY)
}

/// Refuses a directory that is Kafka's and was not adopted, before anything in it is touched. A directory that does not exist is fine.
///
/// # Errors
/// The inner one is the disk's, the outer one ends the start.
pub(super) async fn check_origin<R: Runtime>(rt: &R, dir: &Path) -> Result<io::Result<()>, OpenError> {
    let path = dir.join(META_PROPERTIES);
    let content = match read_small_file(rt, &path).await {
        Ok(content) => content,
        Err(error) => return Ok(Err(error)),
    };
    match content {
        Some(content) => match MetaProperties::parse(&content) {
            Ok(meta) if meta.other.contains_key(FORMAT_KEY) || meta.other.contains_key(ADOPTED_KEY) => Ok(Ok(())),
            Ok(_) | Err(MetaPropertiesError::BadVersion { .. }) => Err(OpenError::NotAdopted { dir: dir.to_owned() }),
            Err(source) => Err(OpenError::MetaProperties { path, source }),
        },
        None => match find_segment(rt, dir).await {
            Ok(Some(partition)) => Err(OpenError::NoOwner { dir: dir.to_owned(), partition }),
            Ok(None) => Ok(Ok(())),
            Err(error) => Ok(Err(error)),
        },
    }
}

/// A partition with records in a directory that nobody owns.
async fn find_segment<R: Runtime>(rt: &R, dir: &Path) -> io::Result<Option<TopicPartition>> {
    let entries = match rt.disk().list(dir).await {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        entries => entries?,
    };
    for entry in entries.iter().filter(|entry| entry.is_dir) {
        if let Some(partition) = TopicPartition::from_dir_name(&entry.name)
            && rt.disk().list(&dir.join(&entry.name)).await?.iter().any(|file| parse_file_name(&file.name, LOG_SUFFIX).is_some())
        {
            return Ok(Some(partition));
        }
    }
    Ok(None)
}

/// The greatest leader epoch in a partition's checkpoint: Kafka notes there in which it led although it wrote nothing. −1 without one.
async fn checkpointed_epoch<R: Runtime>(rt: &R, partition_dir: &Path) -> i32 {
    // A damaged one is made anew from the records.
    let content = read_small_file(rt, &partition_dir.join(LEADER_EPOCH_CHECKPOINT)).await.ok().flatten();
    let epochs = content.and_then(|content| EpochCache::parse(&String::from_utf8_lossy(&content)).ok());
    epochs.and_then(|epochs| epochs.latest_epoch()).unwrap_or(-1)
}
