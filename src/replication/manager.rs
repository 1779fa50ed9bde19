//! The partitions that this broker holds, kept equal to the metadata image: logs are opened for what it assigns to this broker
//! and deleted for topics that it no longer has.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use uuid::Uuid;

use crate::config::topic::TopicConfig;
use crate::controller::image::{MetadataImage, PartitionImage, TopicImage};
use crate::log::manager::PartitionError;
use crate::log::{Log, LogConfig, LogManager};
use crate::replication::log_config::log_config;
use crate::replication::partition::Partition;
use crate::runtime::Runtime;
use crate::topic_partition::TopicPartition;

/// The replicas of one topic on this broker.
pub struct TopicReplicas<R: Runtime> {
    /// What the image says of the topic.
    pub image: Arc<TopicImage>,
    /// The topic's configuration, every key resolved.
    pub config: TopicConfig,
    /// By partition number; `None` where this broker holds no replica.
    pub partitions: Vec<Option<Arc<Partition<R>>>>,
}

struct Maps<R: Runtime> {
    by_name: BTreeMap<Arc<str>, Arc<TopicReplicas<R>>>,
    by_id: BTreeMap<Uuid, Arc<TopicReplicas<R>>>,
}

/// All replicas on this broker.
pub struct ReplicaManager<R: Runtime> {
    broker_id: i32,
    producer_id_expiration_ms: i64,
    logs: LogManager<R>,
    resolve: Box<dyn Fn(&TopicImage) -> TopicConfig + Send + Sync>,
    maps: RwLock<Maps<R>>,
    /// Why partitions are offline, as it was told last: what is tried again and again is not told again.
    offline: Mutex<BTreeMap<TopicPartition, String>>,
}

impl<R: Runtime> ReplicaManager<R> {
    /// No replicas yet; [`ReplicaManager::apply`] brings them. `resolve` finds every key of a topic's configuration.
    pub fn new(
        broker_id: i32,
        producer_id_expiration_ms: i64,
        logs: LogManager<R>,
        resolve: impl Fn(&TopicImage) -> TopicConfig + Send + Sync + 'static,
    ) -> Self {
        Self {
            broker_id,
            producer_id_expiration_ms,
            logs,
            resolve: Box::new(resolve),
            maps: RwLock::new(Maps { by_name: BTreeMap::new(), by_id: BTreeMap::new() }),
            offline: Mutex::default(),
        }
    }

    /// The logs below.
    pub fn logs(&self) -> &LogManager<R> {
        &self.logs
    }

    /// The replicas of a topic, by name.
    pub fn topic(&self, name: &str) -> Option<Arc<TopicReplicas<R>>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_name.get(name).cloned()
    }

    /// The replicas of a topic, by id.
    pub fn topic_by_id(&self, id: Uuid) -> Option<Arc<TopicReplicas<R>>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_id.get(&id).cloned()
    }

    /// One replica.
    pub fn partition(&self, topic: &str, partition: i32) -> Option<Arc<Partition<R>>> {
        self.topic(topic)?.partition(partition).cloned()
    }

    /// Stops the logs below in order: flushed, with checkpoints and the mark of a clean shutdown.
    pub async fn shutdown(&self) {
        self.logs.shutdown().await;
    }

    /// Every replica, by topic and number.
    pub fn partitions(&self) -> Vec<Arc<Partition<R>>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_name.values().flat_map(|topic| topic.partitions.iter().flatten().cloned()).collect()
    }

    /// Makes the replicas equal to what `image` says: opens new ones, deletes those of deleted topics, applies leader epochs and
    /// configurations. Returns when all of it is done, with the topics that were deleted and how many partitions they had. Images must be
    /// applied in their order, and never dropped half-way: a topic that an image does not show is deleted.
    ///
    /// The result is the error of the first log that could not be opened or deleted; all others are applied.
    pub async fn apply(&self, image: &MetadataImage) -> (BTreeMap<Arc<str>, i32>, Result<(), PartitionError>) {
        let mut deleted = BTreeMap::new();
        let mut failed = None;
        let before: BTreeMap<Arc<str>, Arc<TopicReplicas<R>>> = self.maps.read().unwrap_or_else(PoisonError::into_inner).by_name.clone();
        for (name, replicas) in &before {
            let lives_on = image.topics.get(name).is_some_and(|topic| topic.id == replicas.image.id);
            if !lives_on {
                deleted.insert(Arc::clone(name), replicas.image.partition_count());
                {
                    let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
                    maps.by_name.remove(name);
                    maps.by_id.remove(&replicas.image.id);
                }
                replicas.partitions.iter().flatten().for_each(|partition| partition.mark_deleted());
                // Those that could not be opened too.
                for number in 0..replicas.image.partition_count() {
                    let id = TopicPartition::new(Arc::clone(name), number);
                    self.offline.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    if let Err(error) = self.logs.delete(&id).await {
                        tracing::error!(partition = %id, %error, "the partition of a deleted topic could not be deleted");
                        failed.get_or_insert(PartitionError::Log(error));
                    }
                }
            }
        }
        for (name, topic) in &image.topics {
            let old = before.get(name).filter(|old| old.image.id == topic.id);
            if old.is_some_and(|old| Arc::ptr_eq(&old.image, topic) && !self.lacks_replicas(old)) {
                continue;
            }
            let topic_config = (self.resolve)(topic);
            let config = log_config(&topic_config, self.producer_id_expiration_ms);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (number, assigned) in topic.partitions.iter().enumerate() {
                let known = old.and_then(|old| old.partitions.get(number)).and_then(Option::as_ref);
                let followed = self.follow(TopicPartition::new(Arc::clone(name), number as i32), topic.id, assigned, known, &config).await;
                partitions.push(followed.unwrap_or_else(|error| {
                    failed.get_or_insert(error);
                    None
                }));
            }
            let replicas = Arc::new(TopicReplicas { image: Arc::clone(topic), config: topic_config, partitions });
            let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
            maps.by_id.insert(topic.id, Arc::clone(&replicas));
            maps.by_name.insert(Arc::clone(name), replicas);
        }
        (deleted, failed.map_or(Ok(()), Err))
    }

    /// Moves aside the logs of topics that the metadata does not have: a crash came between the word of their deletion and the deed. They are kept under another
    /// name, as Kafka keeps stray replicas (KAFKA-15359 and after): it could be the metadata that is gone. For the start, after the first image was applied.
    pub async fn set_strays_aside(&self) {
        let on_disk = self.logs.all().into_iter().map(|log| log.partition().clone()).chain(self.logs.offline().into_keys());
        let is_known = |id: &TopicPartition| {
            let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
            maps.by_name.get(&id.topic).is_some_and(|topic| (0..topic.image.partition_count()).contains(&id.partition))
        };
        let strays: Vec<TopicPartition> = on_disk.filter(|id| !is_known(id)).collect();
        for id in strays {
            match self.logs.set_aside(&id).await {
                Ok(Some(to)) => {
                    tracing::warn!(partition = %id, to = %to.display(), "moved aside the log of a partition that the metadata does not have; remove the directory if you do not miss it")
                }
                Ok(None) => {}
                Err(error) => tracing::error!(partition = %id, %error, "the log of a partition that the metadata does not have could not be moved aside"),
            }
        }
    }

    /// Whether a replica that this broker is to hold could not be opened: for want of room, say. [`ReplicaManager::apply`] tries again.
    pub fn lacks_any(&self) -> bool {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_name.values().any(|topic| self.lacks_replicas(topic))
    }

    fn lacks_replicas(&self, topic: &TopicReplicas<R>) -> bool {
        let assigned = topic.image.partitions.iter().map(|partition| self.leads(partition));
        topic.partitions.iter().zip(assigned).any(|(partition, assigned)| assigned && partition.is_none())
    }

    /// Whether this broker leads the partition. Replicas that others lead are not served: nothing is replicated yet.
    fn leads(&self, assigned: &PartitionImage) -> bool {
        assigned.leader == self.broker_id && assigned.replicas.contains(&self.broker_id)
    }

    /// Brings one replica, which is there or is to be opened; none if this broker is to hold none, or does not lead it.
    async fn follow(
        &self,
        id: TopicPartition,
        topic_id: Uuid,
        assigned: &PartitionImage,
        known: Option<&Arc<Partition<R>>>,
        config: &LogConfig,
    ) -> Result<Option<Arc<Partition<R>>>, PartitionError> {
        if !self.leads(assigned) {
            if let Some(partition) = known {
                partition.resign();
            }
            return Ok(None);
        }
        if let Some(partition) = known {
            partition.set_leader_epoch(assigned.leader_epoch);
            partition.reconfigure(config.clone());
            return Ok(Some(Arc::clone(partition)));
        }
        match self.open(&id, topic_id, config).await {
            Ok(log) => {
                self.offline.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                Ok(Some(Partition::new(id, topic_id, log, assigned.leader_epoch)))
            }
            Err(error) => {
                let why = error.to_string();
                let told = self.offline.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), why.clone());
                if told.is_none_or(|told| told != why) {
                    tracing::error!(partition = %id, %error, "the partition is offline");
                }
                Err(error)
            }
        }
    }

    async fn open(&self, id: &TopicPartition, topic_id: Uuid, config: &LogConfig) -> Result<Log<R>, PartitionError> {
        match self.logs.get_or_create(id, topic_id, config.clone()).await {
            Err(PartitionError::InconsistentTopicId { found, .. }) => {
                // A topic of this name was deleted, and a crash came between the word of the metadata and the deed of the disk; then it was
                // created anew. What is on disk is nobody's. It is kept all the same: a person may know better.
                let aside = self.logs.set_aside(id).await?;
                tracing::warn!(partition = %id, topic_id = %found, to = ?aside, "moved aside the log of a deleted topic of the same name");
                self.logs.get_or_create(id, topic_id, config.clone()).await
            }
            opened => opened,
        }
    }
}

impl<R: Runtime> TopicReplicas<R> {
    /// One replica of the topic.
    pub fn partition(&self, number: i32) -> Option<&Arc<Partition<R>>> {
        usize::try_from(number).ok().and_then(|number| self.partitions.get(number)).and_then(Option::as_ref)
    }
}
