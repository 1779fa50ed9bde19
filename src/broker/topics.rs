//! What the broker does when topics change: its replicas and its group coordinator follow the metadata image.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kafka_protocol::error::ResponseError as Error;
use tokio::sync::{Notify, watch};

use super::Broker;
use crate::controller::image::{CONSUMER_OFFSETS_TOPIC, MetadataImage};
use crate::controller::topics::{ApiError, NewTopic, check_name, may_auto_create};
use crate::group::coordinator::{TopicRef, Topics};
use crate::replication::leadership::Leadership;
use crate::replication::manager::ReplicaManager;
use crate::runtime::{Runtime, Timer};

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

/// Between two attempts to open a replica that could not be opened, or to load a partition of group offsets that could not be loaded or
/// whose log failed: on a disk that was full, say.
const RETRY: Duration = Duration::from_secs(10);

/// How long a request waits at most for this broker to hear of a topic that it does not know.
const CATCH_UP: Duration = Duration::from_millis(500);

/// How far the replicas have followed the metadata. One task follows, image after image: two that did it at the same time could apply
/// the older image last, and delete what the newer one had made; and a request that did it itself could be dropped half-way with its
/// connection.
#[derive(Debug)]
pub struct Following {
    /// The last ticket that was drawn.
    drawn: AtomicU64,
    wake: Notify,
    /// All tickets up to this one are served.
    served: watch::Sender<u64>,
}

impl Default for Following {
    fn default() -> Self {
        Self { drawn: AtomicU64::new(0), wake: Notify::new(), served: watch::Sender::new(0) }
    }
}

impl<R: Runtime> Broker<R> {
    /// Applies the image of the start, and begins to follow the later ones.
    pub(super) async fn start_following(self: &Arc<Self>) {
        let mut images = self.controller.subscribe();
        let image = images.borrow_and_update().clone();
        self.apply_image(&image).await;
        self.replicas.set_strays_aside().await;
        let follower = self.runtime.spawn("follow-metadata", Arc::clone(self).follow_images(images));
        *self.follower.lock().unwrap_or_else(PoisonError::into_inner) = Some(follower);
    }

    /// Follows until the controller has stopped and its last image is applied.
    async fn follow_images(self: Arc<Self>, mut images: watch::Receiver<Arc<MetadataImage>>) {
        let mut again = self.runtime.sleep(RETRY);
        loop {
            let changed = tokio::select! {
                biased;
                changed = images.changed() => changed.is_ok(),
                () = self.following.wake.notified() => images.has_changed().unwrap_or(true),
                () = &mut again => {
                    again.reset(self.runtime.now() + RETRY);
                    let image = images.borrow().clone();
                    self.lead_groups(&image);
                    self.replicas.lacks_any()
                }
            };
            // Before the image is looked at: whoever drew a ticket saw an image that is not newer.
            let ticket = self.following.drawn.load(Ordering::SeqCst);
            let over = images.has_changed().is_err();
            if changed {
                let image = images.borrow_and_update().clone();
                self.apply_image(&image).await;
            }
            self.following.served.send_replace(ticket);
            if over && !changed {
                break;
            }
        }
        // Nobody waits for what does not come any more.
        self.following.served.send_replace(u64::MAX);
    }

    /// Waits until the replicas and the groups have followed the metadata as it is now: what it shows can be used.
    pub async fn follow_image(&self) {
        let ticket = self.following.drawn.fetch_add(1, Ordering::SeqCst) + 1;
        let mut served = self.following.served.subscribe();
        self.following.wake.notify_one();
        let _ = served.wait_for(|served| *served >= ticket).await;
    }

    /// Waits until the replicas have followed all that the tree has, for somebody asks for what this broker does not know; not long, for there may be nothing to know.
    pub async fn catch_up(&self) {
        if self.controller.catch_up(CATCH_UP).await {
            self.follow_image().await;
        }
    }

    /// Errors of single partitions are told in the log; the others are served.
    async fn apply_image(&self, image: &MetadataImage) {
        // What could not be opened was told, and is tried again.
        let (deleted, _) = self.replicas.apply(image).await;
        if let Some(partition_count) = deleted.get(CONSUMER_OFFSETS_TOPIC) {
            for partition in 0..*partition_count {
                self.groups.unload(partition, None);
            }
        }
        if !deleted.is_empty() {
            self.groups.topics_deleted(&deleted.into_keys().map(|name| name.to_string()).collect());
        }
        self.lead_groups(image);
    }

    /// Loads the partitions of `__consumer_offsets` that this broker leads and has not loaded in their epoch.
    fn lead_groups(&self, image: &MetadataImage) {
        let Some(topic) = image.topics.get(CONSUMER_OFFSETS_TOPIC) else {
            return;
        };
        self.groups.set_partition_count(topic.partition_count().max(1));
        for (number, assigned) in topic.partitions.iter().enumerate() {
            if assigned.leader != self.id() {
                self.groups.unload(number as i32, Some(assigned.leader_epoch));
            } else if let Some(partition) = self.replicas.partition(CONSUMER_OFFSETS_TOPIC, number as i32) {
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
        let mut created = self.create_through_controller(&[topic]).await;
        match created.pop() {
            Some(Err(error)) if error.code != Error::TopicAlreadyExists => return Err(error),
            _ => {}
        }
        self.follow_image().await;
        Ok(())
    }

    /// Creates topics that a client asked for by name, as `auto.create.topics.enable` allows. Returns why some could not be created;
    /// names that cannot be topics are passed over.
    pub async fn auto_create_topics(&self, names: &[String]) -> BTreeMap<String, Error> {
        let mut refused = BTreeMap::new();
        let mut topics: BTreeMap<&str, NewTopic> = BTreeMap::new();
        for name in names {
            if name == CONSUMER_OFFSETS_TOPIC {
                if let Err(error) = self.ensure_offsets_topic().await {
                    refused.insert(name.clone(), error.code);
                }
            } else if check_name(name).is_ok() && may_auto_create(name) {
                topics.insert(name, NewTopic::named(name));
            }
        }
        if topics.is_empty() {
            return refused;
        }
        let wanted: Vec<NewTopic> = topics.values().cloned().collect();
        for (name, created) in topics.keys().zip(self.create_through_controller(&wanted).await) {
            match created {
                Ok(_) => tracing::info!(topic = name, "created because a client asked for it"),
                Err(error) if error.code == Error::TopicAlreadyExists => {}
                Err(error) => {
                    tracing::info!(topic = name, %error, "not created although a client asked for it");
                    refused.insert((*name).to_owned(), error.code);
                }
            }
        }
        self.follow_image().await;
        // Another broker created it, and its word comes before the metadata: clients ask again then.
        let image = self.controller.image();
        for name in topics.keys().filter(|name| !image.topics.contains_key(**name)) {
            refused.entry((*name).to_owned()).or_insert(Error::LeaderNotAvailable);
        }
        refused
    }
}
