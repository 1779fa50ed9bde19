//! The changes that are asked of the controller, carried out one after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use kafka_protocol::error::ResponseError;
use tokio::sync::{oneshot, watch};
use uuid::Uuid;

use super::configs::{Alteration, ConfigEntries, ConfigPlan, ConfigResource, broker_of, plan_incremental, plan_replacement};
use super::elections::{self, Cluster, IsrChange};
use super::image::{MetadataImage, PartitionImage, TopicImage, is_internal};
use super::partitions::{Elected, Election, PartitionName, Reigning};
use super::registration::Reign;
use super::topics::{self, ApiError, Context, NewPartitions, NewTopic, TopicPlan, TopicSelector};
use super::znodes::{self, ConfigEntity, PartitionState};
use super::{ControllerConfig, CreatedTopic, DeletedTopic, api_error, uuid_text};
use crate::coordination::client::Session;
use crate::coordination::op::{ANY_VERSION, CreateMode, ErrorCode, Failure, Operation, OperationResult};
use crate::plant;
use crate::runtime::Runtime;

/// The most operations of a `multi`.
pub(super) const MULTI_COUNT: usize = 1_000;

/// About the most bytes of a `multi`: an Apache ZooKeeper takes 1 MiB.
const MULTI_BYTES: usize = 768 << 10;

type Answers<T> = oneshot::Sender<Vec<Result<T, ApiError>>>;

/// A request to change the metadata.
pub(super) enum Change {
    Create {
        topics: Vec<NewTopic>,
        validate_only: bool,
        answer: Answers<CreatedTopic>,
    },
    Delete {
        topics: Vec<TopicSelector>,
        answer: Answers<DeletedTopic>,
    },
    Grow {
        growths: Vec<NewPartitions>,
        validate_only: bool,
        answer: Answers<()>,
    },
    AlterIncrementally {
        resources: Vec<(ConfigResource, Vec<Alteration>)>,
        validate_only: bool,
        answer: Answers<()>,
    },
    Replace {
        resources: Vec<(ConfigResource, ConfigEntries)>,
        validate_only: bool,
        answer: Answers<()>,
    },
    AlterPartitions {
        from: i32,
        broker_epoch: i64,
        changes: Vec<(Uuid, i32, IsrChange)>,
        answer: Answers<PartitionImage>,
    },
    Leave {
        broker: i32,
        broker_epoch: Option<i64>,
        answer: Answers<Vec<PartitionName>>,
    },
    Elect {
        election: Election,
        partitions: Option<Vec<PartitionName>>,
        answer: Answers<Elected>,
    },
    Reassign {
        targets: Vec<(PartitionName, Option<Vec<i32>>)>,
        answer: Answers<()>,
    },
    /// No change: the image is to show all that the tree has.
    CatchUp {
        done: oneshot::Sender<()>,
    },
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

impl Change {
    /// Whether nobody waits for the answer any more.
    pub(super) fn is_forsaken(&self) -> bool {
        match self {
            Self::Create { answer, .. } => answer.is_closed(),
            Self::Delete { answer, .. } => answer.is_closed(),
            Self::Grow { answer, .. } | Self::AlterIncrementally { answer, .. } | Self::Replace { answer, .. } => answer.is_closed(),
            Self::AlterPartitions { answer, .. } => answer.is_closed(),
            Self::Leave { answer, .. } => answer.is_closed(),
            Self::Elect { answer, .. } => answer.is_closed(),
            Self::Reassign { answer, .. } => answer.is_closed(),
            Self::CatchUp { done } => done.is_closed(),
            Self::Shutdown { .. } => false,
        }
    }
}

/// Operations that must be in one `multi`, on behalf of the item `owner` of a request.
pub(super) struct Unit {
    pub(super) owner: usize,
    pub(super) operations: Vec<Operation>,
}

/// How many operations a `multi` may have: few at times in a simulation, where topics are small, so that what others see between two `multi`s is tried too.
pub(super) fn multi_count<R: Runtime>(rt: &R) -> usize {
    if rt.buggify("controller.multi.small") { 3 } else { MULTI_COUNT }
}

/// Puts units together into as few `multi`s as the limits allow: `most` operations each. A single unit may exceed them.
pub(super) fn pack(units: Vec<Unit>, most: usize) -> Vec<Vec<Unit>> {
    let mut packed: Vec<Vec<Unit>> = Vec::new();
    let (mut count, mut bytes) = (0, 0);
    for unit in units {
        let unit_bytes: usize = unit.operations.iter().map(Operation::size_bytes).sum();
        let fits = count + unit.operations.len() <= most && bytes + unit_bytes <= MULTI_BYTES;
        if !fits || packed.is_empty() {
            packed.push(Vec::new());
            (count, bytes) = (0, 0);
        }
        count += unit.operations.len();
        bytes += unit_bytes;
        packed.last_mut().expect("one was pushed").push(unit);
    }
    packed
}

/// Carries out the operations if the controller's epoch is still the one of `epoch_version`.
pub(super) async fn fenced<R: Runtime>(
    session: &Session<R>,
    epoch_version: i32,
    operations: impl IntoIterator<Item = Operation>,
) -> Result<Vec<OperationResult>, Failure> {
    let mut all = vec![Operation::check(znodes::CONTROLLER_EPOCH, epoch_version)];
    all.extend(operations);
    let mut results = session.multi(all).await?;
    results.remove(0);
    Ok(results)
}

/// The znodes of a partition that is new.
pub(super) fn new_partition(topic: &str, partition: i32, replicas: &[i32], controller_epoch: i32, cluster: &Cluster<'_>) -> (Vec<Operation>, PartitionImage) {
    let image = elections::created(replicas, &cluster.at(topic, partition));
    let state = PartitionState::of(&image, controller_epoch);
    let operations =
        vec![Operation::create(znodes::partition_path(topic, partition), ""), Operation::create(znodes::state_path(topic, partition), state.encode())];
    (operations, image)
}

/// A znode of settings, made or replaced.
async fn write_config<R: Runtime>(session: &Session<R>, path: String, config: &BTreeMap<String, String>) -> Result<Operation, Failure> {
    let content = znodes::encode_config(config);
    Ok(match session.exists(&path).await? {
        Some(_) => Operation::set(path, content, ANY_VERSION),
        None => Operation::create(path, content),
    })
}

/// The deletions of a znode and all below it, children first.
pub(super) async fn delete_subtree<R: Runtime>(session: &Session<R>, path: &str) -> Result<Vec<Operation>, Failure> {
    let mut found = Vec::new();
    let mut open = vec![path.to_owned()];
    while let Some(path) = open.pop() {
        if session.exists(&path).await?.is_none() {
            continue;
        }
        let (children, _) = session.children(&path).await?;
        open.extend(children.iter().map(|name| format!("{path}/{name}")));
        found.push(path);
    }
    Ok(found.into_iter().rev().map(|path| Operation::delete(path, ANY_VERSION)).collect())
}

/// Deletes a topic in several `multi`s: first the mark from which on it is deleted, last its own znode together with the mark.
pub(super) async fn delete_in_parts<R: Runtime>(session: &Session<R>, epoch_version: i32, topic: &str) -> Result<(), Failure> {
    let mark = znodes::delete_topic_path(topic);
    if session.exists(&mark).await?.is_none() {
        fenced(session, epoch_version, [Operation::create(&*mark, "")]).await?;
    }
    let mut operations = delete_subtree(session, &znodes::topic_path(topic)).await?;
    let mut last: Vec<Operation> = operations.pop().into_iter().collect();
    last.extend(delete_subtree(session, &znodes::topic_config_path(topic)).await?);
    last.push(Operation::delete(mark, ANY_VERSION));
    let units = operations.into_iter().map(|operation| Unit { owner: 0, operations: vec![operation] }).collect();
    for multi in pack(units, MULTI_COUNT) {
        fenced(session, epoch_version, multi.into_iter().flat_map(|unit| unit.operations)).await?;
    }
    fenced(session, epoch_version, last).await.map(drop)
}

/// What changes are carried out with.
pub(super) struct Changes<R: Runtime> {
    pub(super) rt: R,
    /// This broker's session.
    pub(super) session: Session<R>,
    /// The controllership; without it nothing is changed.
    pub(super) reign: Option<Reign>,
    pub(super) config: ControllerConfig,
    pub(super) images: watch::Sender<Arc<MetadataImage>>,
    /// Whether a write failed in a way that casts doubt on the image.
    pub(super) is_doubtful: AtomicBool,
    /// What only the controller knows.
    pub(super) reigning: Mutex<Reigning>,
}

impl<R: Runtime> Changes<R> {
    /// Carries out a change and answers. Whoever asked may have gone: the change stands.
    pub(super) async fn carry_out(&self, change: Change) {
        match change {
            Change::Create { topics, validate_only, answer } => drop(answer.send(match self.refusal() {
                None => self.create(&topics, validate_only).await,
                Some(refusal) => topics.iter().map(|_| Err(refusal.clone())).collect(),
            })),
            Change::Delete { topics, answer } => drop(answer.send(match self.refusal() {
                None => self.delete(&topics).await,
                Some(refusal) => topics.iter().map(|_| Err(refusal.clone())).collect(),
            })),
            Change::Grow { growths, validate_only, answer } => drop(answer.send(match self.refusal() {
                None => self.grow(&growths, validate_only).await,
                Some(refusal) => growths.iter().map(|_| Err(refusal.clone())).collect(),
            })),
            Change::AlterIncrementally { resources, validate_only, answer } => {
                let image = self.image();
                let plans = resources
                    .into_iter()
                    .map(|(resource, alterations)| {
                        let plan = plan_incremental(&image, &*self.config.rules, &resource, &alterations);
                        (resource, plan)
                    })
                    .collect();
                drop(image);
                drop(answer.send(self.configure(plans, validate_only).await));
            }
            Change::Replace { resources, validate_only, answer } => {
                let image = self.image();
                let plans = resources
                    .into_iter()
                    .map(|(resource, configs)| {
                        let plan = plan_replacement(&image, &*self.config.rules, &resource, &configs);
                        (resource, plan)
                    })
                    .collect();
                drop(image);
                drop(answer.send(self.configure(plans, validate_only).await));
            }
            Change::AlterPartitions { from, broker_epoch, changes, answer } => drop(answer.send(match self.refusal() {
                None => self.alter_partitions(from, broker_epoch, &changes).await,
                Some(refusal) => changes.iter().map(|_| Err(refusal.clone())).collect(),
            })),
            Change::Leave { broker, broker_epoch, answer } => drop(answer.send(vec![match self.refusal() {
                None => self.leave(broker, broker_epoch).await,
                Some(refusal) => Err(refusal),
            }])),
            Change::Elect { election, partitions, answer } => drop(answer.send(vec![match self.refusal() {
                None => self.elect(election, partitions.as_deref()).await,
                Some(refusal) => Err(refusal),
            }])),
            Change::Reassign { targets, answer } => drop(answer.send(match self.refusal() {
                None => self.reassign(&targets).await,
                Some(refusal) => targets.iter().map(|_| Err(refusal.clone())).collect(),
            })),
            Change::CatchUp { done } | Change::Shutdown { done } => drop(done),
        }
    }

    /// Why this broker does not change the metadata, if it does not: another one is the controller, and clients are to ask that one.
    fn refusal(&self) -> Option<ApiError> {
        let message = "This is not the correct controller for this cluster.";
        self.reign.is_none().then(|| ApiError::new(ResponseError::NotController, message))
    }

    pub(super) fn controller_epoch(&self) -> i32 {
        self.reign.map_or(-1, |reign| reign.epoch)
    }

    pub(super) fn image(&self) -> Arc<MetadataImage> {
        self.images.borrow().clone()
    }

    /// Changes the published image. If no reader holds it at the moment, only what changes is touched.
    pub(super) fn publish(&self, change: impl FnOnce(&mut MetadataImage)) {
        self.images.send_modify(|image| change(Arc::make_mut(image)));
    }

    pub(super) async fn write(&self, operations: impl IntoIterator<Item = Operation>) -> Result<Vec<OperationResult>, Failure> {
        let Some(Reign { epoch_version, .. }) = self.reign else { return Err(Failure::new(ErrorCode::BadVersion, znodes::CONTROLLER_EPOCH)) };
        if plant!(&self.rt, "zombie-controller-not-fenced") {
            return self.session.multi(operations.into_iter().collect()).await.inspect_err(|failure| self.doubt(failure));
        }
        fenced(&self.session, epoch_version, operations).await.inspect_err(|failure| self.doubt(failure))
    }

    /// Whether a failure shows that the tree is not what the image says: then it is read anew.
    pub(super) fn doubt(&self, failure: &Failure) {
        let codes =
            [ErrorCode::ConnectionLoss, ErrorCode::SessionExpired, ErrorCode::BadVersion, ErrorCode::NodeExists, ErrorCode::NoNode, ErrorCode::NotEmpty];
        if codes.contains(&failure.code) {
            self.is_doubtful.store(true, Ordering::Relaxed);
        }
    }

    /// Writes all units; the first failure ends it, and is the result of every item whose units are not all written.
    async fn write_units(&self, units: Vec<Unit>, mut done: impl FnMut(usize)) -> Option<(Failure, Vec<usize>)> {
        let mut left: BTreeMap<usize, usize> = BTreeMap::new();
        for unit in &units {
            *left.entry(unit.owner).or_default() += 1;
        }
        for multi in pack(units, multi_count(&self.rt)) {
            let owners: Vec<usize> = multi.iter().map(|unit| unit.owner).collect();
            if let Err(failure) = self.write(multi.into_iter().flat_map(|unit| unit.operations)).await {
                return Some((failure, left.into_keys().collect()));
            }
            for owner in owners {
                let count = left.get_mut(&owner).expect("counted");
                *count -= 1;
                if *count == 0 {
                    left.remove(&owner);
                    done(owner);
                }
            }
        }
        None
    }

    async fn create(&self, topics: &[NewTopic], validate_only: bool) -> Vec<Result<CreatedTopic, ApiError>> {
        let plans = {
            let image = self.image();
            let context = Context {
                image: &image,
                default_partition_count: self.config.default_partition_count,
                default_replication_factor: self.config.default_replication_factor,
                rules: &*self.config.rules,
            };
            topics::plan_creation(&context, topics, |below| (self.rt.random_u64() % below.max(1) as u64) as usize)
        };
        let mut units = Vec::new();
        let mut results = Vec::with_capacity(plans.len());
        for (owner, plan) in plans.into_iter().enumerate() {
            let created = match plan {
                Ok(plan) if validate_only => Ok(CreatedTopic { topic: Arc::new(self.image_of(&plan, Uuid::nil(), &mut Vec::new(), owner)) }),
                Ok(plan) => self.creation_units(plan, owner, &mut units).await,
                Err(error) => Err(error),
            };
            results.push(created);
        }
        let mut done = Vec::new();
        if let Some((failure, unfinished)) = self.write_units(units, |owner| done.push(owner)).await {
            for owner in unfinished {
                results[owner] = Err(api_error(&failure));
            }
        }
        if !done.is_empty() {
            self.publish(|image| {
                for owner in done {
                    if let Ok(created) = &results[owner] {
                        image.put_topic(created.topic.clone());
                    }
                }
            });
        }
        results
    }

    async fn creation_units(&self, plan: TopicPlan, owner: usize, units: &mut Vec<Unit>) -> Result<CreatedTopic, ApiError> {
        let id = random_id(&self.rt);
        let config = write_config(&self.session, znodes::topic_config_path(&plan.name), &plan.config).await.map_err(|failure| api_error(&failure))?;
        let content = znodes::encode_topic(id, plan.replicas.iter().map(Vec::as_slice));
        let topic = vec![Operation::create(znodes::topic_path(&plan.name), content), Operation::create(znodes::partitions_path(&plan.name), "")];
        if plant!(&self.rt, "topic-create-not-atomic") {
            self.write(topic).await.map_err(|failure| api_error(&failure))?;
            units.push(Unit { owner, operations: vec![config] });
        } else {
            // From this unit on the topic exists: all that cannot be told from the rest is in it.
            units.push(Unit { owner, operations: [vec![config], topic].concat() });
        }
        let topic = self.image_of(&plan, id, units, owner);
        Ok(CreatedTopic { topic: Arc::new(topic) })
    }

    fn image_of(&self, plan: &TopicPlan, id: Uuid, units: &mut Vec<Unit>, owner: usize) -> TopicImage {
        let brokers = self.image().brokers.clone();
        let partitions = plan
            .replicas
            .iter()
            .zip(0..)
            .map(|(replicas, partition)| {
                let (operations, image) =
                    self.with_cluster(&brokers, |cluster| new_partition(&plan.name, partition, replicas, self.controller_epoch(), cluster));
                units.push(Unit { owner, operations });
                image
            })
            .collect();
        TopicImage { name: plan.name.clone(), id, partitions, config: plan.config.clone(), internal: is_internal(&plan.name) }
    }

    async fn delete(&self, topics: &[TopicSelector]) -> Vec<Result<DeletedTopic, ApiError>> {
        let plans = topics::plan_deletion(&self.image(), topics);
        let mut results = Vec::with_capacity(plans.len());
        let mut units = Vec::new();
        for (owner, plan) in plans.into_iter().enumerate() {
            let deleted = match plan {
                Ok(topic) => {
                    let deleted = DeletedTopic { name: topic.name.clone(), id: topic.id };
                    self.deletion(&topic.name, owner, &mut units).await.map(|()| deleted).map_err(|failure| api_error(&failure))
                }
                Err(error) => Err(error),
            };
            results.push(deleted);
        }
        let mut done = Vec::new();
        if let Some((failure, unfinished)) = self.write_units(units, |owner| done.push(owner)).await {
            for owner in unfinished {
                results[owner] = Err(api_error(&failure));
            }
        }
        if !done.is_empty() {
            self.publish(|image| {
                for owner in done {
                    if let Ok(deleted) = &results[owner] {
                        image.remove_topic(&deleted.name);
                    }
                }
            });
        }
        results
    }

    /// Deletes a large topic, or adds the deletion of a small one to `units`.
    async fn deletion(&self, topic: &str, owner: usize, units: &mut Vec<Unit>) -> Result<(), Failure> {
        let mut operations = delete_subtree(&self.session, &znodes::topic_path(topic)).await?;
        operations.extend(delete_subtree(&self.session, &znodes::topic_config_path(topic)).await?);
        if operations.len() < MULTI_COUNT {
            units.push(Unit { owner, operations });
            return Ok(());
        }
        self.write([Operation::create(znodes::delete_topic_path(topic), "")]).await?;
        // Deleted from here on, whatever comes.
        self.publish(|image| image.remove_topic(topic));
        let Some(Reign { epoch_version, .. }) = self.reign else { return Ok(()) };
        delete_in_parts(&self.session, epoch_version, topic).await.inspect_err(|failure| self.doubt(failure))
    }

    async fn grow(&self, growths: &[NewPartitions], validate_only: bool) -> Vec<Result<(), ApiError>> {
        let image = self.image();
        let mut results = Vec::with_capacity(growths.len());
        let mut units = Vec::new();
        let mut grown: BTreeMap<usize, TopicImage> = BTreeMap::new();
        for (owner, growth) in growths.iter().enumerate() {
            if growths.iter().filter(|other| other.name == growth.name).count() > 1 {
                results.push(Err(ApiError::new(ResponseError::InvalidRequest, "Duplicate topic name.")));
                continue;
            }
            let plan = topics::plan_growth(&image, growth);
            results.push(plan.as_ref().map(|_| ()).map_err(Clone::clone));
            let Ok((topic, added)) = plan else { continue };
            let mut topic = TopicImage::clone(&topic);
            let all = topic.partitions.iter().map(|partition| partition.replicas.as_slice()).chain(added.iter().map(Vec::as_slice));
            // From this unit on the partitions exist.
            let path = znodes::topic_path(&topic.name);
            let operation = match self.session.get(&path).await {
                Ok(view) => Operation::set(path, znodes::encode_topic_over(&view.data, topic.id, all), view.stat.version),
                Err(failure) => {
                    self.doubt(&failure);
                    results[owner] = Err(api_error(&failure));
                    continue;
                }
            };
            units.push(Unit { owner, operations: vec![operation] });
            for replicas in &added {
                let (operations, image) = self
                    .with_cluster(&image.brokers, |cluster| new_partition(&topic.name, topic.partition_count(), replicas, self.controller_epoch(), cluster));
                units.push(Unit { owner, operations });
                topic.partitions.push(image);
            }
            grown.insert(owner, topic);
        }
        drop(image);
        if validate_only {
            return results;
        }
        let mut done = Vec::new();
        if let Some((failure, unfinished)) = self.write_units(units, |owner| done.push(owner)).await {
            for owner in unfinished {
                results[owner] = Err(api_error(&failure));
            }
        }
        self.publish(|image| {
            for owner in done {
                if let Some(topic) = grown.remove(&owner) {
                    image.put_topic(Arc::new(topic));
                }
            }
        });
        results
    }

    async fn configure(&self, plans: Vec<(ConfigResource, ConfigPlan)>, validate_only: bool) -> Vec<Result<(), ApiError>> {
        let mut results = Vec::with_capacity(plans.len());
        let mut units = Vec::new();
        for (owner, (resource, plan)) in plans.iter().enumerate() {
            if plans.iter().filter(|(other, _)| other == resource).count() > 1 {
                results.push(Err(ApiError::new(ResponseError::InvalidRequest, "Each resource must appear at most once.")));
                continue;
            }
            results.push(match plan {
                Ok(_) if validate_only => Ok(()),
                Ok(_) if self.reign.is_none() => Err(self.refusal().unwrap_or_else(topics::unknown_topic)),
                Ok(settings) => match self.configuration(resource, settings).await {
                    Ok(operations) => {
                        units.push(Unit { owner, operations });
                        Ok(())
                    }
                    Err(error) => Err(error),
                },
                Err(error) => Err(error.clone()),
            });
        }
        let mut done = Vec::new();
        if let Some((failure, unfinished)) = self.write_units(units, |owner| done.push(owner)).await {
            for owner in unfinished {
                results[owner] = Err(api_error(&failure));
            }
        }
        if !done.is_empty() {
            self.publish(|image| {
                for owner in done.iter().copied() {
                    let (resource, Ok(settings)) = &plans[owner] else { continue };
                    match resource {
                        ConfigResource::Topic(name) => {
                            if let Some(topic) = image.topic(name).cloned() {
                                image.put_topic(Arc::new(TopicImage { config: settings.clone(), ..TopicImage::clone(&topic) }));
                            }
                        }
                        ConfigResource::Broker(name) => {
                            if let Ok(broker) = broker_of(image, name) {
                                image.broker_configs.insert(broker, settings.clone());
                            }
                        }
                    }
                }
            });
        }
        for owner in done {
            if let (ConfigResource::Topic(topic), _) = &plans[owner]
                && let Err(failure) = self.review_if_leaderless(topic).await
            {
                // The settings are changed all the same; the tree is read anew, and all partitions are looked at then.
                tracing::info!(%failure, topic, "a partition without a leader could not be looked at after its topic's settings were changed");
                self.is_doubtful.store(true, Ordering::Relaxed);
            }
        }
        results
    }

    /// Writes settings, and the notice by which other brokers learn of them.
    async fn configuration(&self, resource: &ConfigResource, settings: &BTreeMap<String, String>) -> Result<Vec<Operation>, ApiError> {
        let entity = match resource {
            ConfigResource::Topic(topic) => ConfigEntity::Topic(topic.clone()),
            ConfigResource::Broker(name) => ConfigEntity::Broker(broker_of(&self.image(), name)?),
        };
        let settings = write_config(&self.session, entity.path(), settings).await.map_err(|failure| api_error(&failure))?;
        let (path, data) = (format!("{}/config_change_", znodes::CONFIG_CHANGES), Some(entity.encode_change()));
        Ok(vec![settings, Operation::Create { path, data, mode: CreateMode::PersistentSequential }])
    }
}

/// A new topic's id.
pub(super) fn random_id<R: Runtime>(rt: &R) -> Uuid {
    loop {
        if let Some(id) = uuid_text::from_random(rt.random_u64(), rt.random_u64()) {
            return id;
        }
    }
}
