//! The partitions that this broker holds, kept equal to the metadata image: logs are opened for what it assigns to this broker
//! and deleted for topics that it no longer has.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError, RwLock};

use uuid::Uuid;

use crate::config::topic::TopicConfig;
use crate::controller::image::{MetadataImage, TopicImage};
use crate::log::LogManager;
use crate::log::manager::PartitionError;
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
    /// Held while an image is applied: images are applied one at a time, in order.
    applying: tokio::sync::Mutex<()>,
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
            applying: tokio::sync::Mutex::new(()),
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

    /// The names of the topics that have replicas here.
    pub fn topic_names(&self) -> BTreeSet<Arc<str>> {
        self.maps.read().unwrap_or_else(PoisonError::into_inner).by_name.keys().cloned().collect()
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
    /// configurations. Returns when all of it is done.
    ///
    /// # Errors
    /// The first log that could not be opened; all others are applied.
    pub async fn apply(&self, image: &MetadataImage) -> Result<(), PartitionError> {
        let _one_at_a_time = self.applying.lock().await;
        let mut failed = None;
        let before: BTreeMap<Arc<str>, Arc<TopicReplicas<R>>> = self.maps.read().unwrap_or_else(PoisonError::into_inner).by_name.clone();
        for (name, replicas) in &before {
            let lives_on = image.topics.get(name).is_some_and(|topic| topic.id == replicas.image.id);
            if !lives_on {
                {
                    let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
                    maps.by_name.remove(name);
                    maps.by_id.remove(&replicas.image.id);
                }
                for partition in replicas.partitions.iter().flatten() {
                    partition.mark_deleted();
                    if let Err(error) = self.logs.delete(partition.id()).await {
                        failed.get_or_insert(PartitionError::Log(error));
                    }
                }
            }
        }
        for (name, topic) in &image.topics {
            let old = before.get(name).filter(|old| old.image.id == topic.id);
            if old.is_some_and(|old| Arc::ptr_eq(&old.image, topic)) {
                continue;
            }
            let topic_config = (self.resolve)(topic);
            let config = log_config(&topic_config, self.producer_id_expiration_ms);
            let mut partitions = Vec::with_capacity(topic.partitions.len());
            for (number, assigned) in topic.partitions.iter().enumerate() {
                if !assigned.replicas.contains(&self.broker_id) {
                    partitions.push(None);
                    continue;
                }
                if let Some(partition) = old.and_then(|old| old.partitions.get(number)).and_then(Option::as_ref) {
                    partition.set_leader_epoch(assigned.leader_epoch);
                    partition.reconfigure(config.clone());
                    partitions.push(Some(Arc::clone(partition)));
                    continue;
                }
                let id = TopicPartition::new(Arc::clone(name), number as i32);
                let mut opened = self.logs.get_or_create(&id, topic.id, config.clone()).await;
                if let Err(PartitionError::InconsistentTopicId { found, .. }) = &opened {
                    // A topic of the same name, deleted before its logs could be: topic ids are never used again.
                    tracing::warn!(partition = %id, topic_id = %found, "deletes what an earlier topic of this name left");
                    opened = match self.logs.delete(&id).await {
                        Ok(_) => self.logs.get_or_create(&id, topic.id, config.clone()).await,
                        Err(error) => Err(PartitionError::Log(error)),
                    };
                }
                match opened {
                    Ok(log) => partitions.push(Some(Partition::new(id, topic.id, log, assigned.leader_epoch))),
                    Err(error) => {
                        tracing::error!(partition = %id, %error, "the partition is offline");
                        failed.get_or_insert(error);
                        partitions.push(None);
                    }
                }
            }
            let replicas = Arc::new(TopicReplicas { image: Arc::clone(topic), config: topic_config, partitions });
            let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
            maps.by_id.insert(topic.id, Arc::clone(&replicas));
            maps.by_name.insert(Arc::clone(name), replicas);
        }
        failed.map_or(Ok(()), Err)
    }
}

impl<R: Runtime> TopicReplicas<R> {
    /// One replica of the topic.
    pub fn partition(&self, number: i32) -> Option<&Arc<Partition<R>>> {
        usize::try_from(number).ok().and_then(|number| self.partitions.get(number)).and_then(Option::as_ref)
    }
}
