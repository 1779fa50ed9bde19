//! The controller: the cluster's metadata, stored in the tree of znodes in Kafka's layout, published as images.
//!
//! [`Controller`] is the handle. One task follows the tree over a session of the coordination service, as any ZooKeeper client does: this process's own
//! service, an ensemble of ours, or an Apache ZooKeeper. It registers the broker, contends for the controllership, and publishes images of what the tree
//! says, whoever wrote it. If the broker is the controller, the task carries out changes one after the other, also when the caller goes away meanwhile; each is
//! durable before the image that shows it is published and before it is answered. Every write is a `multi` that checks the controller's epoch, so that a
//! controller that was replaced cannot write. A broker that is not the controller refuses changes with Kafka's `NOT_CONTROLLER`.
//!
//! A topic with very many partitions takes more than one `multi`. Its creation counts from the first one, which writes its settings and its whole
//! assignment; its deletion from the mark in `/admin/delete_topics`. What a crash leaves unfinished the next controller finishes before it publishes an image.
//!
//! | file | holds |
//! |---|---|
//! | `image` | the metadata as brokers use it |
//! | `topics`, `configs` | what requests must fulfil, in Kafka's words |
//! | `placement` | where replicas go |
//! | `elections` | who leads and who is in sync: pure |
//! | `troubles` | what brokers say of replicas that they cannot use: pure |
//! | `znodes` | Kafka's paths and JSON |
//! | `adoption` | topics of data directories that Kafka wrote |
//! | `registration` | the layout, the broker's registration, the contest for the controllership |
//! | `load` | the tree read into images; what is finished before it is served |
//! | `follow` | what a change of the tree means: pure |
//! | `changes` | the changes that are asked for: of topics and settings |
//! | `partitions` | those of partitions: proposals, elections, brokers that leave, reassignments |
//! | `task` | sessions, events and changes in one loop |

pub mod adoption;
mod changes;
pub mod configs;
mod elections;
mod follow;
pub mod image;
mod load;
mod partitions;
pub mod placement;
mod registration;
mod task;
pub mod topics;
pub mod troubles;
pub mod uuid_text;
pub mod znodes;

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use uuid::Uuid;

pub use self::elections::IsrChange;
pub use self::load::topic_settings;
pub use self::partitions::{Elected, Election, PartitionName};
pub(crate) use self::registration::create_chroot;
pub use self::registration::missing_replicas;
use self::troubles::BrokerTroubles;

use self::changes::Change;
use self::configs::{Alteration, ConfigEntries, ConfigResource, ConfigRules};
use self::image::{BrokerInfo, MetadataImage, PartitionImage, TopicImage};
use self::task::{CHANGE_PATIENCE, Task};
use self::topics::{ApiError, NewPartitions, NewTopic, TopicSelector};
use self::znodes::ZnodeError;
use crate::coordination::client::{self, ConnectError, Session};
use crate::coordination::op::{ErrorCode, Failure};
use crate::plant;
use crate::runtime::{Instant, Runtime};

/// How many producer ids are taken from the tree at once, as in Kafka (KIP-730).
pub const PRODUCER_ID_BLOCK_COUNT: i64 = 1000;

/// How many requests wait for the controller before callers wait for room.
const QUEUE_COUNT: usize = 256;

/// What a controller is told when it starts.
#[derive(Clone)]
pub struct ControllerConfig {
    /// This broker; its epoch is assigned at registration.
    pub broker: BrokerInfo,
    /// The cluster's id as the log directories know it (`meta.properties`); `None` if they are new.
    pub expected_cluster_id: Option<String>,
    /// `num.partitions`.
    pub default_partition_count: i32,
    /// `default.replication.factor`.
    pub default_replication_factor: i16,
    /// How sessions are kept (`zookeeper.session.timeout.ms` and others).
    pub session: client::Options,
    /// How long the coordination service may be away at the start (`zookeeper.connection.timeout.ms`).
    pub connection_timeout: Duration,
    /// `delete.topic.enable`: whether topics that are marked for deletion are deleted.
    pub delete_topic_enable: bool,
    /// How often partitions are given back to their preferred leaders (`leader.imbalance.check.interval.seconds`); `None` for never
    /// (`auto.leader.rebalance.enable=false`).
    pub rebalance_interval: Option<Duration>,
    /// What settings may be.
    pub rules: Arc<dyn ConfigRules>,
}

/// Why a controller cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The coordination service refused.
    #[error("the cluster's metadata cannot be read or written: {0}")]
    Coordination(#[from] Failure),
    /// The coordination service is away.
    #[error("{0}; check that it runs, and the key 'zookeeper.connect'")]
    Connect(#[from] ConnectError),
    /// A znode holds what cannot be understood.
    #[error("{0}; set it right or restore the coordination directory from a backup")]
    Znode(#[from] ZnodeError),
    /// The log directories belong to another cluster.
    #[error(
        "the log directories belong to the cluster '{expected}' (meta.properties), and the coordination service ({at}) to '{stored}'; bring the directories of \
         one cluster together again, or name others in 'log.dirs'"
    )]
    InconsistentClusterId {
        /// Where the service is.
        at: String,
        /// In the tree.
        stored: String,
        /// In the log directories.
        expected: String,
    },
    /// The tree is new and the log directories are not.
    #[error(
        "the coordination directory is empty, and the log directories belong to the cluster '{expected}' (meta.properties): the directory of the \
         coordination log was lost or moved; restore it, or name new directories in 'log.dirs'"
    )]
    MetadataLost {
        /// In the log directories.
        expected: String,
    },
    /// The ensemble knows no cluster, and the log directories do.
    #[error(
        "there is no cluster at {at}, and the log directories belong to the cluster '{expected}' (meta.properties); correct 'zookeeper.connect', its chroot \
         above all, or name new directories in 'log.dirs'"
    )]
    NoCluster {
        /// Where, with the chroot.
        at: String,
        /// In the log directories.
        expected: String,
    },
    /// A topic in adopted directories is not the one that is registered.
    #[error(
        "the adopted data directories hold the topic '{topic}' {found}, and the topic of that name that is registered has {registered}; move the partitions of \
         one of the two away"
    )]
    AdoptedTopic {
        /// Its name.
        topic: String,
        /// What the directories say.
        found: String,
        /// What the tree says.
        registered: String,
    },
    /// Another broker holds a znode that this one needs.
    #[error("'{path}' is held by another broker ({holder}); stop that one, or give this broker another 'broker.id'")]
    Held {
        /// Its path.
        path: String,
        /// What it says.
        holder: String,
    },
}

/// A topic that was created, or that would have been (`validate_only`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedTopic {
    /// The topic. If it was only validated, its id is nil.
    pub topic: Arc<TopicImage>,
}

/// A topic that was deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeletedTopic {
    /// Its name.
    pub name: Arc<str>,
    /// Its id.
    pub id: Uuid,
}

/// The producer ids that were taken and not yet given out.
#[derive(Debug, Default)]
struct ProducerIds {
    next: i64,
    end: i64,
}

/// A handle to the controller. Clones share it.
pub struct Controller<R: Runtime> {
    rt: R,
    /// The session of the moment.
    sessions: watch::Receiver<Session<R>>,
    changes: mpsc::Sender<Queued>,
    stop: Arc<watch::Sender<bool>>,
    images: watch::Receiver<Arc<MetadataImage>>,
    producer_ids: Arc<Mutex<ProducerIds>>,
    broker_id: i32,
}

impl<R: Runtime> Clone for Controller<R> {
    fn clone(&self) -> Self {
        Self {
            rt: self.rt.clone(),
            sessions: self.sessions.clone(),
            changes: self.changes.clone(),
            stop: self.stop.clone(),
            images: self.images.clone(),
            producer_ids: self.producer_ids.clone(),
            broker_id: self.broker_id,
        }
    }
}

impl<R: Runtime> Controller<R> {
    /// Registers this broker over `session`, makes it the controller if there is none, and reads the metadata. As the controller it finishes what was left
    /// unfinished, and raises the leader epoch of every partition whose leader was restarted: no broker leads in an epoch that it held in an earlier life.
    /// Later sessions begin as this one did.
    ///
    /// # Errors
    /// [`StartError`], which says what to do.
    pub async fn start(rt: R, session: Session<R>, config: ControllerConfig) -> Result<Self, StartError> {
        let broker_id = config.broker.id;
        let (stop, has_stopped) = watch::channel(false);
        let (task, sessions, mut images) = Task::start(rt.clone(), session, config, has_stopped).await?;
        // Whoever subscribes is told of what comes after the start.
        images.mark_unchanged();
        let (changes, queue) = mpsc::channel(QUEUE_COUNT);
        rt.spawn("controller", task.run(queue));
        Ok(Self { rt, sessions, changes, stop: Arc::new(stop), images, producer_ids: Arc::default(), broker_id })
    }

    /// The metadata as of the last change.
    pub fn image(&self) -> Arc<MetadataImage> {
        self.images.borrow().clone()
    }

    /// Tells of each change of the metadata; slow receivers see the latest image only. Do not hold what `borrow` returns over an await.
    pub fn subscribe(&self) -> watch::Receiver<Arc<MetadataImage>> {
        self.images.clone()
    }

    /// Creates topics; one result each, in order. With `validate_only` nothing is written. Durable and in the image when `Ok`.
    pub async fn create_topics(&self, topics: Vec<NewTopic>, validate_only: bool) -> Vec<Result<CreatedTopic, ApiError>> {
        let count = topics.len();
        self.change(count, |answer| Change::Create { topics, validate_only, answer }).await
    }

    /// Deletes topics; one result each, in order. Durable and gone from the image when `Ok`.
    pub async fn delete_topics(&self, topics: Vec<TopicSelector>) -> Vec<Result<DeletedTopic, ApiError>> {
        let count = topics.len();
        self.change(count, |answer| Change::Delete { topics, answer }).await
    }

    /// Adds partitions to topics; one result each, in order. Durable and in the image when `Ok`.
    pub async fn create_partitions(&self, growths: Vec<NewPartitions>, validate_only: bool) -> Vec<Result<(), ApiError>> {
        let count = growths.len();
        self.change(count, |answer| Change::Grow { growths, validate_only, answer }).await
    }

    /// Changes single settings of topics and brokers (KIP-339); one result per resource, in order. Durable and in the image when `Ok`.
    pub async fn incremental_alter_configs(&self, resources: Vec<(ConfigResource, Vec<Alteration>)>, validate_only: bool) -> Vec<Result<(), ApiError>> {
        let count = resources.len();
        self.change(count, |answer| Change::AlterIncrementally { resources, validate_only, answer }).await
    }

    /// Replaces all settings of topics and brokers; one result per resource, in order. Durable and in the image when `Ok`.
    pub async fn alter_configs(&self, resources: Vec<(ConfigResource, ConfigEntries)>, validate_only: bool) -> Vec<Result<(), ApiError>> {
        let count = resources.len();
        self.change(count, |answer| Change::Replace { resources, validate_only, answer }).await
    }

    /// Judges in-sync replicas that broker `from`, registered in `broker_epoch`, proposes for partitions it leads (KIP-497); one result each, in order: the partition
    /// as it is then.
    pub async fn alter_partitions(&self, from: i32, broker_epoch: i64, changes: Vec<(Uuid, i32, IsrChange)>) -> Vec<Result<PartitionImage, ApiError>> {
        let count = changes.len();
        self.change(count, |answer| Change::AlterPartitions { from, broker_epoch, changes, answer }).await
    }

    /// Moves leaderships away from a broker that is about to stop (ControlledShutdown), registered in `broker_epoch` if it tells one. `Ok` names what it leads still,
    /// for want of another in-sync replica.
    ///
    /// # Errors
    /// STALE_BROKER_EPOCH, BROKER_ID_NOT_REGISTERED, NOT_CONTROLLER, or that the tree could not be written.
    pub async fn leave(&self, broker: i32, broker_epoch: Option<i64>) -> Result<Vec<PartitionName>, ApiError> {
        self.change(1, |answer| Change::Leave { broker, broker_epoch, answer }).await.pop().unwrap_or_else(|| Err(timed_out()))
    }

    /// Elects leaders (KIP-460); without `partitions` wherever it is to be done. One result each.
    ///
    /// # Errors
    /// NOT_CONTROLLER, or that the tree could not be written.
    pub async fn elect_leaders(&self, election: Election, partitions: Option<Vec<PartitionName>>) -> Result<Elected, ApiError> {
        self.change(1, |answer| Change::Elect { election, partitions, answer }).await.pop().unwrap_or_else(|| Err(timed_out()))
    }

    /// Begins to move partitions to other replicas (KIP-455), or cancels that; one result each, in order.
    pub async fn reassign(&self, targets: Vec<(PartitionName, Option<Vec<i32>>)>) -> Vec<Result<(), ApiError>> {
        let count = targets.len();
        self.change(count, |answer| Change::Reassign { targets, answer }).await
    }

    async fn change<T>(&self, count: usize, change: impl FnOnce(oneshot::Sender<Vec<Result<T, ApiError>>>) -> Change) -> Vec<Result<T, ApiError>> {
        let (answer, wait) = oneshot::channel();
        let until = self.rt.now() + CHANGE_PATIENCE;
        let late = task::away(self.rt.timer(until), self.sessions.borrow().states());
        let asked = async {
            let Ok(()) = self.changes.send(Queued { until, change: change(answer) }).await else {
                return Err(ApiError::new(ResponseError::NotController, "The controller has stopped."));
            };
            wait.await.map_err(|_| timed_out())
        };
        let results = tokio::select! {
            biased;
            results = asked => results,
            () = late => Err(timed_out()),
        };
        results.unwrap_or_else(|error| (0..count).map(|_| Err(error.clone())).collect())
    }

    /// Waits until the image shows all that was in the tree when this was called, as far as this broker is served: it may be told of a topic later than the client that
    /// made it. Whether it does; `false` if the service is away, or this takes `patience`.
    pub async fn catch_up(&self, patience: Duration) -> bool {
        let until = self.rt.now() + patience;
        let (done, wait) = oneshot::channel();
        let asked = async { self.changes.send(Queued { until, change: Change::CatchUp { done } }).await.is_ok() && wait.await.is_ok() };
        let late = self.rt.timer(until);
        tokio::select! {
            biased;
            is_done = asked => is_done,
            () = late => false,
        }
    }

    /// Writes down what this broker says of its replicas, for the controller, whoever it is.
    ///
    /// # Errors
    /// [`Failure`]; to be tried again.
    pub async fn tell_troubles(&self, told: &BrokerTroubles) -> Result<(), Failure> {
        let session = self.sessions.borrow().clone();
        registration::write_troubles(&session, self.broker_id, told).await
    }

    /// A producer id that nobody has and nobody will get again, not even after a crash.
    ///
    /// # Errors
    /// [`ApiError`]; trying again is safe.
    pub async fn allocate_producer_id(&self) -> Result<i64, ApiError> {
        let late = self.rt.sleep(CHANGE_PATIENCE);
        tokio::select! {
            biased;
            id = self.next_producer_id() => id,
            () = late => Err(timed_out()),
        }
    }

    async fn next_producer_id(&self) -> Result<i64, ApiError> {
        let mut ids = self.producer_ids.lock().await;
        while ids.next == ids.end {
            let session = self.sessions.borrow().clone();
            let block = session.get(znodes::PRODUCER_ID_BLOCK).await.map_err(|failure| api_error(&failure))?;
            let last = znodes::decode_producer_ids(&block.data).map_err(|error| ApiError::new(ResponseError::UnknownServerError, error.to_string()))?;
            let start = last.map_or(0, |last| last.saturating_add(1));
            let Some(end) = start.checked_add(PRODUCER_ID_BLOCK_COUNT) else {
                let message = "Exhausted all producerIds as the next block's end producerId has exceeded long type limit";
                return Err(ApiError::new(ResponseError::UnknownServerError, message));
            };
            let content = znodes::encode_producer_ids(self.broker_id, start, end - 1);
            if plant!(&self.rt, "producer-ids-not-stored") {
                *ids = ProducerIds { next: start.max(ids.end), end: end.max(ids.end + PRODUCER_ID_BLOCK_COUNT) };
                break;
            }
            match session.set(znodes::PRODUCER_ID_BLOCK, content, block.stat.version).await {
                Ok(_) => *ids = ProducerIds { next: start, end },
                Err(Failure { code: ErrorCode::BadVersion, .. }) => {} // Another broker took this block: the next one, then.
                Err(failure) => return Err(api_error(&failure)),
            }
        }
        ids.next += 1;
        Ok(ids.next - 1)
    }

    /// Finishes the changes that were asked for, then gives up the registration and the controllership.
    pub async fn shutdown(&self) {
        let (done, wait) = oneshot::channel();
        self.stop.send_replace(true);
        if self.changes.send(Queued { until: self.rt.now() + CHANGE_PATIENCE, change: Change::Shutdown { done } }).await.is_ok() {
            let _ = wait.await; // Dropped if the task ended in another way.
        }
    }
}

/// A broker id for a broker without one (`broker.id=-1`): above `reserved_max` (`reserved.broker.max.id`), and never given twice.
///
/// # Errors
/// [`Failure`].
pub async fn generate_broker_id<R: Runtime>(session: &Session<R>, reserved_max: i32) -> Result<i32, Failure> {
    registration::create_persistent(session).await?;
    let stat = session.set(znodes::BROKER_SEQUENCE, "", crate::coordination::op::ANY_VERSION).await?;
    Ok(reserved_max + stat.version)
}

/// A change that waits for the task.
struct Queued {
    /// When whoever asked gives up; what has not begun by then is not done.
    until: Instant,
    change: Change,
}

fn timed_out() -> ApiError {
    ApiError::new(ResponseError::RequestTimedOut, "The coordination service did not answer in time; whether the change was made is unknown.")
}

/// What a client is told when the tree refused.
fn api_error(failure: &Failure) -> ApiError {
    let code = match failure.code {
        ErrorCode::ConnectionLoss => ResponseError::RequestTimedOut,
        ErrorCode::SessionExpired => ResponseError::NotController,
        ErrorCode::BadVersion if failure.path == znodes::CONTROLLER_EPOCH => ResponseError::NotController,
        // Another one made it at the same time, and the image does not show it yet.
        ErrorCode::NodeExists if failure.path.strip_prefix(znodes::TOPICS).is_some_and(|rest| rest.matches('/').count() == 1) => {
            ResponseError::TopicAlreadyExists
        }
        _ => ResponseError::UnknownServerError,
    };
    ApiError::new(code, format!("The metadata could not be changed: {failure}"))
}

#[cfg(test)]
mod following_tests;
#[cfg(test)]
mod tests;
