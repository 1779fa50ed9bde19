//! What the broker does when topics change: its replicas and its group coordinator follow the metadata image.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;

use super::Broker;
use crate::controller::image::{CONSUMER_OFFSETS_TOPIC, MetadataImage};
use crate::controller::topics::{ApiError, NewTopic, check_name, may_auto_create};
use crate::group::coordinator::{TopicRef, Topics};
use crate::replication::leadership::Leadership;
use crate::replication::manager::ReplicaManager;
use crate::runtime::Runtime;

/// The topics as the group coordinator must know them: those whose replicas this broker has applied.
pub struct KnownTopics<R: Runtime>(pub Arc<ReplicaManager<R>>);

impl<R: Runtime> Topics for KnownTopics<R> {
    fn by_name(&self, name: &str) -> Option<TopicRef> {
        self.0.topic(name).map(|topic| TopicRef { name: Arc::clone(&topic.image.name), id: topic.image.id, partition_count: topic.image.partition_count() })
    }

    fn by_id(&self, id: uuid::Uuid) -> Option<TopicRef> {
        self.0.topic_by_id(id).map(|topic| TopicRef { name: Arc::clone(&topic.image.name), id, partition_count: topic.image.partition_count() })
    }
}

impl<R: Runtime> Broker<R> {
    /// Makes the replicas and the groups follow the image; when this returns, what the image shows can be used. Errors of single
    /// partitions are told in the log; the others are served.
    pub async fn follow_image(&self) {
        let before: BTreeSet<Arc<str>> = self.replicas.topic_names();
        let image = self.controller.image();
        if let Err(error) = self.replicas.apply(&image).await {
            tracing::error!(%error, "some partitions are offline");
        }
        let deleted: BTreeSet<String> = before.iter().filter(|name| !image.topics.contains_key(*name)).map(ToString::to_string).collect();
        if !deleted.is_empty() {
            self.groups.topics_deleted(&deleted);
        }
        self.lead_groups(&image);
    }

    /// Loads the partitions of `__consumer_offsets` that this broker leads and has not loaded in their epoch.
    pub(super) fn lead_groups(&self, image: &MetadataImage) {
        let Some(topic) = image.topics.get(CONSUMER_OFFSETS_TOPIC) else {
            return;
        };
        self.groups.set_partition_count(topic.partition_count().max(1));
        for (number, assigned) in topic.partitions.iter().enumerate() {
            if assigned.leader == self.id()
                && let Some(partition) = self.replicas.partition(CONSUMER_OFFSETS_TOPIC, number as i32)
            {
                self.groups.load(number as i32, assigned.leader_epoch, Leadership::of(partition));
            }
        }
    }

    /// Creates `__consumer_offsets` unless it is there.
    ///
    /// # Errors
    /// Why it could not be created.
    pub async fn ensure_offsets_topic(&self) -> Result<(), ApiError> {
        if self.replicas.topic(CONSUMER_OFFSETS_TOPIC).is_some() {
            return Ok(());
        }
        let config = &self.config;
        let set = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
        let topic = NewTopic {
            partition_count: config.offsets_topic_num_partitions,
            replication_factor: config.offsets_topic_replication_factor,
            configs: vec![
                set("cleanup.policy", "compact"),
                set("compression.type", "producer"),
                set("segment.bytes", &config.offsets_topic_segment_bytes.to_string()),
            ],
            ..NewTopic::named(CONSUMER_OFFSETS_TOPIC)
        };
        let mut created = self.controller.create_topics(vec![topic], false).await;
        match created.pop() {
            Some(Err(error)) if error.code != Error::TopicAlreadyExists => return Err(error),
            _ => {}
        }
        self.follow_image().await;
        Ok(())
    }

    /// Creates topics that a client asked for by name, as `auto.create.topics.enable` allows. Who could not be created is not in the image after.
    pub async fn auto_create_topics(&self, names: &[String]) {
        let mut topics: BTreeMap<&str, NewTopic> = BTreeMap::new();
        for name in names {
            if name == CONSUMER_OFFSETS_TOPIC {
                let _ = self.ensure_offsets_topic().await;
            } else if check_name(name).is_ok() && may_auto_create(name) {
                topics.insert(name, NewTopic::named(name));
            }
        }
        if topics.is_empty() {
            return;
        }
        for (name, created) in topics.keys().zip(self.controller.create_topics(topics.values().cloned().collect(), false).await) {
            match created {
                Ok(_) => tracing::info!(topic = name, "created because a client asked for it"),
                Err(error) => tracing::info!(topic = name, %error, "not created although a client asked for it"),
            }
        }
        self.follow_image().await;
    }
}
