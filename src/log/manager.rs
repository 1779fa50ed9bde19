//! All partitions of a broker: their log directories, opened, kept and closed.
//!
//! A log directory belongs to one process (`.lock`) and one broker (`meta.properties`). Directories in it that are not named like a
//! partition are left alone. One that fails goes offline with its partitions; when none is left the process halts.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

use super::adoption::{ADOPTED_KEY, ADOPTED_OFFSETS, Adoption, FORMAT, FORMAT_KEY, check_origin, is_pending};
use super::checkpoint::{parse_offsets, read_offsets, read_small_file, replace_file};
use super::config::LogConfig;
use super::dir::{CheckpointKind, DirFailures, LogDir, OPEN_SEGMENTS_MAX};
use super::error::LogError;
use super::flush::{FlushPolicy, spawn_flushers};
use super::meta_properties::{MetaProperties, MetaPropertiesError};
use super::names::{CLEAN_SHUTDOWN, LOCK, META_PROPERTIES, PARTITION_METADATA, delete_dir_name, is_delete_dir_name, stray_dir_name, text_bytes};
use super::recovery::{Existing, RecoveryError, RecoveryReport, recover};
use super::{Log, partition_metadata};
use crate::runtime::{Disk, Runtime, Task};
use crate::topic_partition::TopicPartition;

/// Directories of other parts of the broker have names that begin so.
const OWN_DIR_PREFIX: &str = "__ottla_";
/// Recovery that read more than this is followed by a checkpoint, so that a crash soon after does not read it all again.
const CHECKPOINT_AFTER_RECOVERY_BYTES: u64 = 1 << 20;
/// How many partitions are created or deleted at a time at the most: what each waits for is the disk, which syncs several at once.
const CHANGES_AT_ONCE: usize = 64;

/// What a log manager needs to know.
#[derive(Clone, Debug)]
pub struct LogManagerConfig {
    /// `log.dirs`.
    pub dirs: Vec<PathBuf>,
    /// `broker.id`; checked against `meta.properties`.
    pub broker_id: i32,
    /// The cluster's id if it is known already; checked against `meta.properties`.
    pub cluster_id: Option<String>,
    /// How syncs are scheduled.
    pub flush: FlushPolicy,
    /// Partitions opened at the same time, per directory (`num.recovery.threads.per.data.dir`).
    pub recovery_parallelism: usize,
    /// How often recovery points and high watermarks are written, in ms (`log.flush.offset.checkpoint.interval.ms`,
    /// `replica.high.watermark.checkpoint.interval.ms`).
    pub checkpoint_interval_ms: u64,
    /// How often retention is applied, in ms (`log.retention.check.interval.ms`).
    pub retention_check_interval_ms: u64,
    /// How often idle producers are looked for, in ms.
    pub producer_expiration_check_interval_ms: u64,
    /// How often `flush.ms` is looked at, in ms (`log.flush.scheduler.interval.ms`).
    pub flush_check_interval_ms: u64,
}

impl Default for LogManagerConfig {
    fn default() -> Self {
        Self {
            dirs: vec![PathBuf::from("ottla-data")],
            broker_id: 0,
            cluster_id: None,
            flush: FlushPolicy::default(),
            recovery_parallelism: 4,
            checkpoint_interval_ms: 5_000,
            retention_check_interval_ms: 300_000,
            producer_expiration_check_interval_ms: 600_000,
            flush_check_interval_ms: 1_000,
        }
    }
}

/// Why the log directories cannot be used at all.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {} is in use by another process, which holds {LOCK} in it; stop that process, or choose another directory (log.dirs)", dir.display())]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// It belongs to another broker or cluster.
    #[error("the data directory {} belongs to {key} {found}, not {expected}; choose another directory (log.dirs), or correct the configuration", dir.display())]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// `broker.id` or `cluster.id`.
        key: &'static str,
        /// What `meta.properties` says.
        found: String,
        /// What the configuration says.
        expected: String,
    },
    /// Kafka wrote it, and nobody has adopted it.
    #[error(
        "the data directory {0} was written by Apache Kafka, and nothing in it was touched. To use it with Ottla: stop Kafka, keep a copy, and run \
         'ottla log adopt {0}'; else choose another directory (log.dirs)",
        dir.display()
    )]
    NotAdopted {
        /// The directory.
        dir: PathBuf,
    },
    /// It holds partitions and no `meta.properties`.
    #[error(
        "the data directory {} holds the partition {partition} but no {META_PROPERTIES}, which says whose it is; nothing in it was touched. Restore that file, or \
         choose another directory (log.dirs)",
        dir.display()
    )]
    NoOwner {
        /// The directory.
        dir: PathBuf,
        /// A partition in it.
        partition: TopicPartition,
    },
    /// `meta.properties` cannot be read.
    #[error("{}: {source}", path.display())]
    MetaProperties {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: MetaPropertiesError,
    },
    /// A partition is in two directories.
    #[error("partition {partition} is in both {} and {}; move one of the two away", one.display(), other.display())]
    Twice {
        /// The partition.
        partition: TopicPartition,
        /// A directory.
        one: PathBuf,
        /// Another.
        other: PathBuf,
    },
    /// No log directory works.
    #[error("none of the data directories can be used; the last error: {}: {source}", path.display())]
    NoDirectory {
        /// What failed last.
        path: PathBuf,
        /// How.
        source: io::Error,
    },
    /// None is configured.
    #[error("no data directory is configured (log.dirs)")]
    NoneConfigured,
}

/// Why a partition cannot be had.
#[derive(Debug, Error)]
pub enum PartitionError {
    /// It exists and could not be opened.
    #[error("partition {partition} is offline: {why}")]
    Offline {
        /// The partition.
        partition: TopicPartition,
        /// What recovery said.
        why: Arc<str>,
    },
    /// Its directory belongs to a topic of the same name with another id.
    #[error("partition {partition} on disk belongs to topic id {found}, not {expected}")]
    InconsistentTopicId {
        /// The partition.
        partition: TopicPartition,
        /// On disk.
        found: Uuid,
        /// Asked for.
        expected: Uuid,
    },
    /// It cannot be made.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It cannot be made.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// Every log directory is offline.
    #[error("no log directory is online")]
    NoDirectory,
}

/// All partitions of a broker. Cloning is cheap; all clones are the same manager.
pub struct LogManager<R: Runtime> {
    inner: Arc<Inner<R>>,
}

impl<R: Runtime> Clone for LogManager<R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<R: Runtime> {
    rt: R,
    config: LogManagerConfig,
    dirs: Vec<Arc<LogDir<R>>>,
    failures: Arc<DirFailures>,
    logs: RwLock<BTreeMap<TopicPartition, Log<R>>>,
    /// Partitions whose directories could not be opened, and why.
    offline: Mutex<BTreeMap<TopicPartition, Arc<str>>>,
    reports: BTreeMap<TopicPartition, RecoveryReport>,
    high_watermarks: Mutex<BTreeMap<TopicPartition, i64>>,
    adoption: Option<Adoption>,
    meta: Vec<MetaProperties>,
    /// Makes creations and deletions of a partition take turns; those of others mostly go on meanwhile.
    changes: Vec<tokio::sync::Mutex<()>>,
    /// How many partitions are being made in each of [`Inner::dirs`].
    taken: Vec<AtomicUsize>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<R::Task<()>>>,
    flushers: Mutex<Vec<R::Task<()>>>,
    locks: Mutex<Vec<<R::Disk as Disk>::Lock>>,
}

impl<R: Runtime> Inner<R> {
    /// Waits for the turn to create or delete `partition`.
    async fn turn(&self, partition: &TopicPartition) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = crc32fast::hash(partition.to_string().as_bytes()) as usize;
        self.changes[hash % self.changes.len()].lock().await
    }
}

/// A place for a partition that is being made: it counts in its directory from the choice on, or all that are made at a time would choose the same.
struct Place<'a, R: Runtime> {
    dir: &'a Arc<LogDir<R>>,
    taken: &'a AtomicUsize,
}

impl<R: Runtime> Drop for Place<'_, R> {
    fn drop(&mut self) {
        self.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

impl<R: Runtime> Inner<R> {
    /// A place in the directory with the fewest partitions; none if all directories have failed.
    fn place(&self) -> Option<Place<'_, R>> {
        let online = self.dirs.iter().zip(&self.taken).filter(|(dir, _)| dir.failure().is_none());
        let (dir, taken) = online.min_by_key(|(dir, taken)| dir.len() + taken.load(Ordering::Acquire))?;
        taken.fetch_add(1, Ordering::AcqRel);
        Some(Place { dir, taken })
    }
}

/// A log directory as found at the start.
struct Opened<R: Runtime> {
    dir: Arc<LogDir<R>>,
    lock: <R::Disk as Disk>::Lock,
    meta: MetaProperties,
    /// Adopted, and not started on before.
    pending: bool,
    /// Where the adopted part of each partition ends.
    adopted_offsets: BTreeMap<TopicPartition, i64>,
    /// Recovery points, high watermarks, log start offsets.
    offsets: [BTreeMap<TopicPartition, i64>; 3],
    partitions: Vec<TopicPartition>,
}

impl<R: Runtime> LogManager<R> {
    /// Opens all log directories and all partitions in them, and starts what runs in the background. `topics` gives a topic's
    /// configuration. Partitions that cannot be opened are in [`LogManager::offline`]; a directory that fails is left out if another works.
    ///
    /// # Errors
    /// If a directory is another's, or none works. A directory of Kafka's that was not adopted is not touched.
    pub async fn open(rt: R, config: LogManagerConfig, topics: impl Fn(&str) -> LogConfig) -> Result<Self, OpenError> {
        if config.dirs.is_empty() {
            return Err(OpenError::NoneConfigured);
        }
        let failures = DirFailures::new(config.dirs.len(), true);
        let mut opened: Vec<Opened<R>> = Vec::new();
        let mut last_error = None;
        Self::check_origins(&rt, &config.dirs).await?;
        for path in &config.dirs {
            let dir = LogDir::new(rt.clone(), path.clone(), failures.clone(), OPEN_SEGMENTS_MAX);
            match open_dir(&dir, &config).await? {
                Ok(dir) => opened.push(dir),
                Err(source) => {
                    tracing::error!(path = %path.display(), "log directory is offline: {source}");
                    last_error = Some((path.clone(), source));
                }
            }
        }
        if let (true, Some((path, source))) = (opened.is_empty(), last_error.take()) {
            return Err(OpenError::NoDirectory { path, source });
        }
        failures.set_live(opened.len());
        let mut homes: BTreeMap<TopicPartition, PathBuf> = BTreeMap::new();
        for Opened { dir, partitions, .. } in &opened {
            for partition in partitions {
                if let Some(one) = homes.insert(partition.clone(), dir.path.clone()) {
                    return Err(OpenError::Twice { partition: partition.clone(), one, other: dir.path.clone() });
                }
            }
        }
        let mut offline = BTreeMap::new();
        let mut logs = BTreeMap::new();
        let mut reports = BTreeMap::new();
        let mut high_watermarks = BTreeMap::new();
        for opened in &opened {
            for log in open_partitions(opened, &config, &topics, &mut offline, &mut reports).await {
                logs.insert(log.partition().clone(), log);
            }
            high_watermarks.extend(opened.offsets[CheckpointKind::HighWatermark as usize].clone());
        }
        let mut adoption: Option<Adoption> = None;
        for opened in opened.iter().filter(|opened| opened.pending) {
            let adoption = adoption.get_or_insert_with(Adoption::new);
            adoption.note_meta(&opened.meta);
            for partition in &opened.partitions {
                let path = opened.dir.path.join(partition.to_string());
                let topic_id = read_topic_id(&rt, &path).await.unwrap_or(Uuid::nil());
                adoption.note(&rt, partition, &path, topic_id, logs.get(partition)).await;
            }
        }
        let mut inner = Inner {
            rt: rt.clone(),
            config,
            dirs: Vec::new(),
            failures,
            logs: RwLock::new(logs),
            offline: Mutex::new(offline),
            reports,
            high_watermarks: Mutex::new(high_watermarks),
            adoption,
            meta: Vec::new(),
            changes: (0..CHANGES_AT_ONCE).map(|_| tokio::sync::Mutex::new(())).collect(),
            taken: Vec::new(),
            stop: watch::Sender::new(false),
            tasks: Mutex::default(),
            flushers: Mutex::default(),
            locks: Mutex::default(),
        };
        for Opened { dir, lock, meta, .. } in opened {
            inner.flushers.get_mut().expect("no panic holds it").extend(spawn_flushers(&dir, inner.config.flush));
            inner.locks.get_mut().expect("no panic holds it").push(lock);
            inner.meta.push(meta);
            inner.taken.push(AtomicUsize::new(0));
            inner.dirs.push(dir);
        }
        let manager = Self { inner: Arc::new(inner) };
        manager.start_background();
        Ok(manager)
    }

    /// Refuses directories that Kafka wrote and nobody has adopted. Touches nothing: for before anything is written to the first of them.
    ///
    /// # Errors
    /// [`OpenError::NotAdopted`] and others that end the start. A disk that does not answer is no error here.
    pub async fn check_origins(rt: &R, dirs: &[PathBuf]) -> Result<(), OpenError> {
        for dir in dirs {
            let _ = check_origin(rt, dir).await?;
        }
        Ok(())
    }

    /// One partition; `None` if it does not exist or is offline.
    pub fn get(&self, partition: &TopicPartition) -> Option<Log<R>> {
        self.inner.logs.read().expect("no panic holds it").get(partition).cloned()
    }

    /// All partitions.
    pub fn all(&self) -> Vec<Log<R>> {
        self.inner.logs.read().expect("no panic holds it").values().cloned().collect()
    }

    /// Partitions that exist and could not be opened, and why.
    pub fn offline(&self) -> BTreeMap<TopicPartition, Arc<str>> {
        self.inner.offline.lock().expect("no panic holds it").clone()
    }

    /// What opening each partition took.
    pub fn recovery_reports(&self) -> &BTreeMap<TopicPartition, RecoveryReport> {
        &self.inner.reports
    }

    /// Follows the list of log directories that have failed. When the last one fails the process halts.
    pub fn failed_dirs(&self) -> watch::Receiver<Vec<PathBuf>> {
        self.inner.failures.subscribe()
    }

    /// The cluster id that the log directories had, if any.
    pub fn cluster_id(&self) -> Option<&str> {
        self.inner.meta.iter().find_map(|meta| meta.cluster_id.as_deref())
    }

    /// The ids of the log directories, in the order of the configuration.
    pub fn directory_ids(&self) -> Vec<Uuid> {
        self.inner.meta.iter().filter_map(|meta| meta.directory_id).collect()
    }

    /// What directories hold that Kafka wrote and this is the first start on; the topics are to be registered before
    /// [`LogManager::set_cluster_id`].
    pub fn adoption(&self) -> Option<&Adoption> {
        self.inner.adoption.as_ref()
    }

    /// Writes the cluster's id to directories that have none yet, and ends the adoption of those that were adopted: their topics are
    /// registered, and from here on every producer snapshot in them is ours, or was used within its meaning.
    ///
    /// # Errors
    /// The disk's.
    pub async fn set_cluster_id(&self, cluster_id: &str) -> Result<(), LogError> {
        for (dir, meta) in self.inner.dirs.iter().zip(&self.inner.meta) {
            if meta.cluster_id.is_none() || is_pending(meta) {
                let cluster_id = meta.cluster_id.clone().unwrap_or_else(|| cluster_id.to_owned());
                let mut meta = MetaProperties { cluster_id: Some(cluster_id), ..meta.clone() };
                meta.other.insert(FORMAT_KEY.to_owned(), FORMAT.to_owned());
                let result = replace_file(&self.inner.rt, &dir.path, META_PROPERTIES, text_bytes(meta.encode())).await;
                dir.check("write", &dir.path.join(META_PROPERTIES), result).await?;
            }
        }
        Ok(())
    }

    /// The high watermark that the last life checkpointed for a partition.
    pub fn checkpointed_high_watermark(&self, partition: &TopicPartition) -> Option<i64> {
        self.inner.high_watermarks.lock().expect("no panic holds it").get(partition).copied()
    }

    /// A partition's log; made, durably, in the emptiest log directory if it does not exist.
    ///
    /// # Errors
    /// If it exists under another topic id, is offline, or cannot be made.
    pub async fn get_or_create(&self, partition: &TopicPartition, topic_id: Uuid, config: LogConfig) -> Result<Log<R>, PartitionError> {
        let inner = &*self.inner;
        let _turn = inner.turn(partition).await;
        if let Some(log) = self.get(partition) {
            if log.topic_id().is_nil() {
                // A crash came between the directory and its metadata, or Kafka before 2.8 made it.
                let metadata = text_bytes(partition_metadata::encode(topic_id));
                let result = replace_file(&inner.rt, log.path(), PARTITION_METADATA, metadata).await;
                log.inner.dir.check("write", log.path(), result).await?;
                log.set_topic_id(topic_id);
            }
            if log.topic_id() != topic_id {
                return Err(PartitionError::InconsistentTopicId { partition: partition.clone(), found: log.topic_id(), expected: topic_id });
            }
            log.reconfigure(config);
            return Ok(log);
        }
        if let Some(why) = inner.offline.lock().expect("no panic holds it").get(partition) {
            return Err(PartitionError::Offline { partition: partition.clone(), why: why.clone() });
        }
        let place = inner.place().ok_or(PartitionError::NoDirectory)?;
        let dir = place.dir;
        let path = dir.path.join(partition.to_string());
        let disk = inner.rt.disk();
        let io = |error| LogError::io(&path, error);
        for other in inner.dirs.iter().filter(|dir| dir.failure().is_none()) {
            match other.forget_offsets(partition).await {
                Err(error) if Arc::ptr_eq(other, dir) => return Err(error.into()),
                // An entry there names no log of that directory.
                Err(error) => tracing::warn!(%error, %partition, "a checkpoint of another log directory still speaks of a deleted partition"),
                Ok(()) => {}
            }
        }
        disk.create_dir(&path).await.map_err(io)?;
        let metadata = text_bytes(partition_metadata::encode(topic_id));
        let result = replace_file(&inner.rt, &path, PARTITION_METADATA, metadata).await;
        dir.check("write", &path, result).await?;
        let recovered = recover(&inner.rt, partition, &path, &config, Existing { trust_snapshots: true, ..Existing::default() }).await?;
        dir.check("sync of the directory", &dir.path, disk.sync_dir(&dir.path).await).await?;
        let log = Log::from_recovered(dir.clone(), partition.clone(), topic_id, path, config, recovered);
        dir.insert(&log);
        inner.logs.write().expect("no panic holds it").insert(partition.clone(), log.clone());
        Ok(log)
    }

    /// Deletes a partition: its directory is renamed, durably, and emptied after `file.delete.delay.ms`. Returns whether it existed.
    ///
    /// # Errors
    /// The disk's; the partition still exists then, offline.
    pub async fn delete(&self, partition: &TopicPartition) -> Result<bool, LogError> {
        let inner = &*self.inner;
        let _turn = inner.turn(partition).await;
        let Some((doomed, delay_ms)) = self.rename_away(partition, delete_dir_name).await? else { return Ok(false) };
        let rt = inner.rt.clone();
        drop(inner.rt.spawn("log-delete-partition", async move {
            rt.sleep(Duration::from_millis(u64::try_from(delay_ms).unwrap_or(0))).await;
            if let Err(error) = remove_tree(&rt, &doomed).await {
                tracing::warn!(path = %doomed.display(), "a deleted partition's directory could not be removed; the next start tries again: {error}");
            }
        }));
        Ok(true)
    }

    /// Moves a partition's directory aside, durably and for good: no start opens it any more, and nothing removes it. Returns where it is
    /// now, `None` if there is no such partition.
    ///
    /// # Errors
    /// The disk's; the partition still exists then, offline.
    pub async fn set_aside(&self, partition: &TopicPartition) -> Result<Option<PathBuf>, LogError> {
        let _turn = self.inner.turn(partition).await;
        Ok(self.rename_away(partition, stray_dir_name).await?.map(|(path, _)| path))
    }

    /// Ends a partition and renames its directory, durably. Returns the directory and the partition's `file.delete.delay.ms`.
    async fn rename_away(&self, partition: &TopicPartition, name: impl Fn(&TopicPartition, u128) -> String) -> Result<Option<(PathBuf, i64)>, LogError> {
        let inner = &*self.inner;
        let log = self.get(partition);
        let home = match &log {
            Some(log) => Some((log.inner.dir.clone(), log.path().to_owned())),
            // One that could not be opened can be deleted.
            None if inner.offline.lock().expect("no panic holds it").contains_key(partition) => self.find_directory(partition).await,
            None => None,
        };
        let Some((dir, path)) = home else { return Ok(None) };
        let delay_ms = log.as_ref().map_or(0, |log| log.config().file_delete_delay_ms);
        if let Some(log) = &log {
            log.mark_deleted();
            // Whoever is in an operation ends it first.
            drop(log.inner.writer.lock().await);
            drop(log.flush_lock().lock().await);
            drop(log.inner.checkpoint_lock.lock().await);
        }
        let id = u128::from(inner.rt.random_u64()) << 64 | u128::from(inner.rt.random_u64());
        let doomed = dir.path.join(name(partition, id));
        inner.rt.disk().rename(&path, &doomed).await.map_err(|error| LogError::io(&path, error))?;
        dir.check("sync of the directory", &dir.path, inner.rt.disk().sync_dir(&dir.path).await).await?;
        dir.remove(partition);
        inner.logs.write().expect("no panic holds it").remove(partition);
        inner.offline.lock().expect("no panic holds it").remove(partition);
        inner.high_watermarks.lock().expect("no panic holds it").remove(partition);
        // Its offsets must not be taken for those of a later partition of the same name.
        for kind in CheckpointKind::ALL {
            dir.write_checkpoint(kind).await?;
        }
        Ok(Some((doomed, delay_ms)))
    }

    /// Puts another configuration in force for all partitions of a topic.
    pub fn reconfigure(&self, topic: &str, config: &LogConfig) {
        for log in self.all().iter().filter(|log| &*log.partition().topic == topic) {
            log.reconfigure(config.clone());
        }
    }

    /// Applies retention to all partitions now.
    pub async fn apply_retention(&self) {
        for dir in &self.inner.dirs {
            apply_retention(&self.inner.rt, dir).await;
        }
    }

    /// Writes all checkpoints of all directories now.
    ///
    /// # Errors
    /// The first of the disks'.
    pub async fn write_checkpoints(&self) -> Result<(), LogError> {
        for dir in &self.inner.dirs {
            for kind in CheckpointKind::ALL {
                dir.write_checkpoint(kind).await?;
            }
        }
        Ok(())
    }

    /// Flushes and closes everything and leaves the mark of a clean shutdown in each directory of which that is true. Appends must have
    /// ended. The locks are released when the last clone is dropped.
    pub async fn shutdown(&self) {
        let inner = &*self.inner;
        inner.stop.send_replace(true);
        let tasks = std::mem::take(&mut *inner.tasks.lock().expect("no panic holds it"));
        for task in tasks {
            task.join().await;
        }
        for dir in &inner.dirs {
            match shut_down_dir(&inner.rt, dir).await {
                Ok(()) => tracing::info!(path = %dir.path.display(), "log directory closed cleanly"),
                Err(error) => tracing::error!(path = %dir.path.display(), "log directory could not be closed cleanly; the next start recovers it: {error}"),
            }
            dir.queue.close(inner.config.flush.flushers);
        }
        let flushers = std::mem::take(&mut *inner.flushers.lock().expect("no panic holds it"));
        for flusher in flushers {
            flusher.join().await;
        }
        inner.locks.lock().expect("no panic holds it").clear();
    }

    async fn find_directory(&self, partition: &TopicPartition) -> Option<(Arc<LogDir<R>>, PathBuf)> {
        for dir in &self.inner.dirs {
            let path = dir.path.join(partition.to_string());
            if self.inner.rt.disk().list(&path).await.is_ok() {
                return Some((dir.clone(), path));
            }
        }
        None
    }

    fn start_background(&self) {
        let config = &self.inner.config;
        let mut tasks = self.inner.tasks.lock().expect("no panic holds it");
        for dir in &self.inner.dirs {
            let checkpoints = |dir: Arc<LogDir<R>>| async move {
                for kind in CheckpointKind::ALL {
                    if let Err(error) = dir.write_checkpoint(kind).await {
                        tracing::warn!("a checkpoint was put off: {error}");
                    }
                }
            };
            tasks.push(self.every("log-checkpoints", config.checkpoint_interval_ms, dir, checkpoints));
            let rt = self.inner.rt.clone();
            tasks.push(self.every("log-retention", config.retention_check_interval_ms, dir, move |dir| {
                let rt = rt.clone();
                async move { apply_retention(&rt, &dir).await }
            }));
            tasks.push(self.every("log-flush-check", config.flush_check_interval_ms, dir, |dir| async move {
                dir.logs().iter().for_each(Log::flush_if_due);
            }));
            let rt = self.inner.rt.clone();
            tasks.push(self.every("log-producer-expiry", config.producer_expiration_check_interval_ms, dir, move |dir| {
                let rt = rt.clone();
                async move {
                    for log in dir.logs() {
                        let expiration_ms = log.config().producer_id_expiration_ms;
                        log.inner.writer.lock().await.producers.expire(rt.unix_ms(), expiration_ms);
                    }
                }
            }));
        }
        for dir in &self.inner.dirs {
            for log in dir.logs() {
                let read = self.inner.reports.get(log.partition()).map_or(0, |report| report.bytes_read);
                if read > CHECKPOINT_AFTER_RECOVERY_BYTES {
                    tasks.push(self.inner.rt.spawn("log-checkpoint-after-recovery", async move {
                        if let Err(error) = log.checkpoint_now().await {
                            tracing::warn!(partition = %log.partition(), "a checkpoint was put off: {error}");
                        }
                    }));
                }
            }
        }
    }

    /// Does something for a directory at intervals until the shutdown.
    fn every<F, Fut>(&self, name: &'static str, interval_ms: u64, dir: &Arc<LogDir<R>>, work: F) -> R::Task<()>
    where
        F: Fn(Arc<LogDir<R>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (rt, dir) = (self.inner.rt.clone(), dir.clone());
        let mut stop = self.inner.stop.subscribe();
        self.inner.rt.spawn(name, async move {
            loop {
                let timer = rt.sleep(Duration::from_millis(interval_ms));
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    () = timer => {}
                }
                if dir.failure().is_some() {
                    return;
                }
                work(dir.clone()).await;
            }
        })
    }
}

/// Makes durable that the directory is there: it may be new, and so may those above it. One that we may not open, further up, was not made by us.
async fn sync_above<R: Runtime>(rt: &R, dir: &Path) -> io::Result<()> {
    for (at, ancestor) in dir.ancestors().skip(1).enumerate() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match rt.disk().sync_dir(ancestor).await {
            Err(error) if at > 0 && error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// Locks and reads a directory. The outer error ends the start, the inner one this directory's part in it.
async fn open_dir<R: Runtime>(dir: &Arc<LogDir<R>>, config: &LogManagerConfig) -> Result<io::Result<Opened<R>>, OpenError> {
    let (rt, path) = (&dir.rt, &dir.path);
    if let Err(error) = check_origin(rt, path).await? {
        return Ok(Err(error));
    }
    let locked = async {
        rt.disk().create_dir(path).await?;
        rt.disk().try_lock(&path.join(LOCK)).await
    };
    let lock = match locked.await {
        Ok(Some(lock)) => lock,
        Ok(None) => return Err(OpenError::Locked { dir: path.clone() }),
        Err(error) => return Ok(Err(error)),
    };
    let meta_path = path.join(META_PROPERTIES);
    let meta = match read_small_file(rt, &meta_path).await {
        Ok(None) => None,
        Ok(Some(content)) => Some(MetaProperties::parse(&content).map_err(|source| OpenError::MetaProperties { path: meta_path.clone(), source })?),
        Err(error) => return Ok(Err(error)),
    };
    if meta.is_none()
        && let Err(error) = sync_above(rt, path).await
    {
        return Ok(Err(error));
    }
    if let Some(meta) = &meta {
        let foreign = |key, found: String, expected: String| OpenError::Foreign { dir: path.clone(), key, found, expected };
        if let Some(found) = meta.broker_id.filter(|found| *found != config.broker_id) {
            return Err(foreign("broker.id", found.to_string(), config.broker_id.to_string()));
        }
        if let (Some(found), Some(expected)) = (&meta.cluster_id, &config.cluster_id)
            && found != expected
        {
            return Err(foreign("cluster.id", found.clone(), expected.clone()));
        }
    }
    Ok(read_dir(dir, config, lock, meta).await)
}

async fn read_dir<R: Runtime>(
    dir: &Arc<LogDir<R>>,
    config: &LogManagerConfig,
    lock: <R::Disk as Disk>::Lock,
    found: Option<MetaProperties>,
) -> io::Result<Opened<R>> {
    let (rt, path) = (&dir.rt, &dir.path);
    let is_new = found.is_none();
    let mut meta = found.clone().unwrap_or_default();
    let pending = is_pending(&meta);
    meta.broker_id = Some(config.broker_id);
    meta.cluster_id = meta.cluster_id.or_else(|| config.cluster_id.clone());
    meta.directory_id.get_or_insert_with(|| uuid::Builder::from_random_bytes(random_bytes(rt)).into_uuid());
    if is_new {
        meta.other.insert(FORMAT_KEY.to_owned(), FORMAT.to_owned());
    }
    if found.as_ref() != Some(&meta) {
        replace_file(rt, path, META_PROPERTIES, text_bytes(meta.encode())).await?;
    }
    let mut partitions = Vec::new();
    let entries = rt.disk().list(path).await?;
    // The mark holds for one start. Recovery does not need it: a clean shutdown leaves a snapshot at each log's end. It tells that there
    // is nothing to look for.
    if entries.iter().any(|entry| entry.name == CLEAN_SHUTDOWN) {
        rt.disk().remove_file(&path.join(CLEAN_SHUTDOWN)).await?;
        rt.disk().sync_dir(path).await?;
    } else if !is_new {
        tracing::info!(path = %path.display(), "the last stop was not a clean shutdown: recovering");
    }
    for entry in entries.into_iter().filter(|entry| entry.is_dir) {
        if let Some(partition) = TopicPartition::from_dir_name(&entry.name) {
            partitions.push(partition);
        } else if is_delete_dir_name(&entry.name) {
            remove_tree(rt, &path.join(&entry.name)).await?;
        } else if !entry.name.starts_with(OWN_DIR_PREFIX) {
            tracing::warn!(path = %path.join(&entry.name).display(), "left alone a directory that is no partition's");
        }
    }
    let mut offsets: [BTreeMap<TopicPartition, i64>; 3] = Default::default();
    for kind in CheckpointKind::ALL {
        offsets[kind as usize] = match read_offsets(rt, &path.join(kind.file_name())).await {
            // What it said is unknown: less is known of the logs then, no more is believed.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::error!("a damaged checkpoint is not used: {error}");
                BTreeMap::new()
            }
            read => read?,
        };
    }
    let mut adopted_offsets = BTreeMap::new();
    if meta.other.contains_key(ADOPTED_KEY) {
        let content = read_small_file(rt, &path.join(ADOPTED_OFFSETS)).await?;
        let parsed = content.and_then(|content| parse_offsets(&String::from_utf8_lossy(&content)).ok());
        adopted_offsets = parsed.unwrap_or_else(|| {
            // Only the look for lost files in between is lost.
            tracing::error!(path = %path.join(ADOPTED_OFFSETS).display(), "missing or damaged: any gap in offsets is taken for compaction's");
            partitions.iter().map(|partition| (partition.clone(), i64::MAX)).collect()
        });
    }
    Ok(Opened { dir: dir.clone(), lock, meta, pending, adopted_offsets, offsets, partitions })
}

/// Opens a directory's partitions, some at a time.
async fn open_partitions<R: Runtime>(
    opened: &Opened<R>,
    config: &LogManagerConfig,
    topics: &impl Fn(&str) -> LogConfig,
    offline: &mut BTreeMap<TopicPartition, Arc<str>>,
    reports: &mut BTreeMap<TopicPartition, RecoveryReport>,
) -> Vec<Log<R>> {
    let dir = &opened.dir;
    let slots = Arc::new(Semaphore::new(config.recovery_parallelism.max(1)));
    let mut logs = Vec::new();
    let mut tasks = Vec::new();
    let mut bytes_read = 0;
    for partition in &opened.partitions {
        let offset = |kind: CheckpointKind| opened.offsets[kind as usize].get(partition).copied();
        let config = topics(&partition.topic);
        let existing = Existing {
            recovery_point: offset(CheckpointKind::RecoveryPoint).unwrap_or(0),
            high_watermark: offset(CheckpointKind::HighWatermark).filter(|_| config.flushes_every_message() && !opened.pending).unwrap_or(0),
            log_start_offset: offset(CheckpointKind::LogStart).unwrap_or(0),
            trust_snapshots: !opened.pending,
            gaps_below: opened.adopted_offsets.get(partition).copied().unwrap_or(0),
        };
        let (slots, rt, partition, path) = (slots.clone(), dir.rt.clone(), partition.clone(), dir.path.join(partition.to_string()));
        let kept = CheckpointKind::ALL.map(offset);
        let task = dir.rt.spawn("log-open", async move {
            let _slot = slots.acquire().await;
            let topic_id = read_topic_id(&rt, &path).await;
            let recovered = recover(&rt, &partition, &path, &config, existing).await;
            (partition, path, config, kept, topic_id, recovered)
        });
        tasks.push(task);
    }
    for task in tasks {
        let Some((partition, path, config, kept, topic_id, recovered)) = task.join().await else { continue };
        let why: String = match (topic_id, recovered) {
            (Ok(topic_id), Ok(recovered)) => {
                let report = recovered.report;
                bytes_read += report.bytes_read;
                if report.verified_batches > 0 || report.truncated_bytes > 0 {
                    let RecoveryReport { bytes_read, verified_from_offset, verified_batches, truncated_bytes, log_end_offset } = report;
                    tracing::info!(%partition, bytes_read, verified_from_offset, verified_batches, truncated_bytes, log_end_offset, "recovered");
                }
                reports.insert(partition.clone(), report);
                let log = Log::from_recovered(dir.clone(), partition, topic_id, path, config, recovered);
                dir.insert(&log);
                logs.push(log);
                continue;
            }
            (Err(why), _) => why,
            (_, Err(error)) => error.to_string(),
        };
        tracing::error!(%partition, "offline: {why}");
        dir.keep_offsets(partition.clone(), kept);
        offline.insert(partition, why.into());
    }
    tracing::info!(path = %dir.path.display(), partitions = logs.len(), bytes_read, "opened the log directory");
    logs
}

/// The topic id in a partition's directory; nil if there is none, as Kafka before 2.8 left it.
async fn read_topic_id<R: Runtime>(rt: &R, path: &Path) -> Result<Uuid, String> {
    let path = path.join(PARTITION_METADATA);
    match read_small_file(rt, &path).await {
        Ok(None) => Ok(Uuid::nil()),
        Ok(Some(content)) => partition_metadata::parse(&content).map_err(|error| format!("{}: {error}", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// Applies retention to a directory's partitions; one log start checkpoint serves them all.
async fn apply_retention<R: Runtime>(rt: &R, dir: &Arc<LogDir<R>>) {
    let mut planned = Vec::new();
    for log in dir.logs() {
        match log.plan_retention(rt.unix_ms()).await {
            Ok(doomed) if doomed.is_empty() => {}
            Ok(doomed) => planned.push((log, doomed)),
            Err(error) => tracing::warn!(partition = %log.partition(), "retention was put off: {error}"),
        }
    }
    if planned.is_empty() {
        return;
    }
    if let Err(error) = dir.write_log_starts().await {
        tracing::warn!(path = %dir.path.display(), "retention was put off: {error}");
        return;
    }
    for (log, doomed) in planned {
        match log.finish_retention(doomed).await {
            Ok(report) => tracing::info!(partition = %log.partition(), segments = report.segments, bytes = report.bytes, "deleted old segments"),
            Err(error) => tracing::warn!(partition = %log.partition(), "retention was put off: {error}"),
        }
    }
}

/// Makes everything durable and leaves the mark.
async fn shut_down_dir<R: Runtime>(rt: &R, dir: &Arc<LogDir<R>>) -> Result<(), LogError> {
    for log in dir.logs() {
        log.check_online()?;
        log.checkpoint_now().await?;
    }
    for kind in CheckpointKind::ALL {
        dir.write_checkpoint(kind).await?;
    }
    let path = dir.path.join(CLEAN_SHUTDOWN);
    let content = Bytes::from_static(br#"{"version":0,"brokerEpoch":-1}"#);
    let result = replace_file(rt, &dir.path, CLEAN_SHUTDOWN, content).await;
    dir.check("write", &path, result).await
}

/// Removes a directory and all in it.
async fn remove_tree<R: Runtime>(rt: &R, path: &Path) -> io::Result<()> {
    let mut dirs = vec![path.to_owned()];
    let mut at = 0;
    while at < dirs.len() {
        let dir = dirs[at].clone();
        for entry in rt.disk().list(&dir).await? {
            let path = dir.join(&entry.name);
            if entry.is_dir {
                dirs.push(path);
            } else {
                rt.disk().remove_file(&path).await?;
            }
        }
        at += 1;
    }
    for dir in dirs.iter().rev() {
        rt.disk().remove_dir(dir).await?;
    }
    Ok(())
}

fn random_bytes<R: Runtime>(rt: &R) -> [u8; 16] {
    (u128::from(rt.random_u64()) << 64 | u128::from(rt.random_u64())).to_be_bytes()
}
