//! What happens before anything is served: the tree's layout, registration, controllership, unfinished changes, leadership.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::changes::{Unit, delete_in_parts, fenced, new_partition, pack, random_id};
use super::image::{BrokerInfo, MetadataImage, PartitionImage, TopicImage, is_internal};
use super::placement::elect;
use super::znodes::{self, PartitionState, ZnodeError};
use super::{ControllerConfig, StartError, uuid_text};
use crate::coordination::Coordination;
use crate::coordination::op::{ErrorCode, Failure, Operation, OperationResult};
use crate::runtime::Runtime;

/// A controller that may serve.
pub(super) struct Started<R: Runtime> {
    pub(super) session: Coordination<R>,
    pub(super) epoch_version: i32,
    pub(super) controller_epoch: i32,
    pub(super) image: MetadataImage,
}

/// Makes the znodes that always exist.
pub(super) async fn create_persistent<R: Runtime>(coordination: &Coordination<R>) -> Result<(), Failure> {
    let mut missing = Vec::new();
    for path in znodes::PERSISTENT {
        if coordination.exists(path).await?.is_none() {
            missing.push(Operation::create(path, ""));
        }
    }
    if !missing.is_empty() {
        coordination.multi(missing).await?;
    }
    Ok(())
}

pub(super) async fn start<R: Runtime>(rt: &R, coordination: &Coordination<R>, config: &ControllerConfig) -> Result<Started<R>, StartError> {
    create_persistent(coordination).await?;
    let cluster_id = cluster_id(rt, coordination, config.expected_cluster_id.as_deref()).await?;
    let session = coordination.create_session(config.session_timeout_ms).await?;
    let (broker, controller_epoch, epoch_version) = register(rt, &session, config).await?;
    let mut image = MetadataImage { cluster_id, controller_id: broker.id, controller_epoch, ..MetadataImage::default() };
    image.brokers = read_brokers(&session).await?;
    image.broker_configs = read_broker_configs(&session).await?;
    for topic in session.children(znodes::DELETE_TOPICS).await?.0 {
        tracing::info!(%topic, "finishing the deletion that was interrupted");
        delete_in_parts(&session, epoch_version, &topic).await?;
    }
    let mut start = Start { rt, session: &session, broker_id: broker.id, controller_epoch, units: Vec::new() };
    let mut topics = BTreeMap::new();
    for name in session.children(znodes::TOPICS).await?.0 {
        topics.insert(name.clone(), start.topic(&name, &image).await?);
    }
    let mut epochs = Vec::new();
    for multi in pack(start.units) {
        let operations: Vec<Operation> = multi.into_iter().flat_map(|unit| unit.operations).collect();
        let results = fenced(&session, epoch_version, operations.clone()).await?;
        epochs.extend(operations.into_iter().zip(results).filter_map(|(operation, result)| match (operation, result) {
            (Operation::Set { path, .. }, OperationResult::Set { stat }) => Some((path, stat.version)),
            _ => None,
        }));
    }
    // A partition's epoch is its state's version, which only the tree knows.
    let epochs: BTreeMap<String, i32> = epochs.into_iter().collect();
    for (name, mut topic) in topics {
        for (partition, index) in topic.partitions.iter_mut().zip(0..) {
            if let Some(version) = epochs.get(&znodes::state_path(&name, index)) {
                partition.partition_epoch = *version;
            }
        }
        image.put_topic(Arc::new(topic));
    }
    Ok(Started { session, epoch_version, controller_epoch, image })
}

async fn cluster_id<R: Runtime>(rt: &R, coordination: &Coordination<R>, expected: Option<&str>) -> Result<String, StartError> {
    let stored = match coordination.get(znodes::CLUSTER_ID).await {
        Ok(view) => Some(znodes::decode_cluster_id(&view.data)?),
        Err(Failure { code: ErrorCode::NoNode, .. }) => None,
        Err(failure) => return Err(failure.into()),
    };
    match (stored, expected) {
        (Some(stored), Some(expected)) if stored != expected => Err(StartError::InconsistentClusterId { stored, expected: expected.to_owned() }),
        (Some(stored), _) => Ok(stored),
        (None, Some(expected)) => Err(StartError::MetadataLost { expected: expected.to_owned() }),
        (None, None) => {
            let id = uuid_text::to_text(random_id(rt));
            coordination.multi(vec![Operation::create(znodes::CLUSTER_ID, znodes::encode_cluster_id(&id))]).await?;
            Ok(id)
        }
    }
}

/// Registers the broker and makes it the controller, in one transaction. Returns the broker with its epoch, the controller's epoch,
/// and the version of the znode that holds it.
async fn register<R: Runtime>(rt: &R, session: &Coordination<R>, config: &ControllerConfig) -> Result<(BrokerInfo, i32, i32), StartError> {
    let before = session.get(znodes::CONTROLLER_EPOCH).await?;
    let controller_epoch = znodes::decode_controller_epoch(&before.data)? + 1;
    let now_ms = rt.unix_ms();
    let path = znodes::broker_path(config.broker.id);
    let operations = vec![
        Operation::set(znodes::CONTROLLER_EPOCH, znodes::encode_controller_epoch(controller_epoch), before.stat.version),
        Operation::create_ephemeral(znodes::CONTROLLER, znodes::encode_controller(config.broker.id, now_ms)),
        Operation::create_ephemeral(path, znodes::encode_broker(&config.broker, now_ms)),
    ];
    match session.multi(operations).await {
        Ok(results) => {
            let [OperationResult::Set { stat: epoch }, _, OperationResult::Created { stat, .. }] = results.as_slice() else {
                unreachable!("a set and two creations answered {results:?}")
            };
            let broker = BrokerInfo { epoch: stat.czxid, ..config.broker.clone() };
            Ok((broker, controller_epoch, epoch.version))
        }
        Err(Failure { code: ErrorCode::NodeExists, path, .. }) => {
            let holder = session.get(&path).await.map(|view| String::from_utf8_lossy(&view.data).into_owned()).unwrap_or_default();
            Err(StartError::Held { path, holder })
        }
        Err(failure) => Err(failure.into()),
    }
}

async fn read_brokers<R: Runtime>(session: &Coordination<R>) -> Result<BTreeMap<i32, BrokerInfo>, StartError> {
    let mut brokers = BTreeMap::new();
    for name in session.children(znodes::BROKER_IDS).await?.0 {
        let path = format!("{}/{name}", znodes::BROKER_IDS);
        let view = session.get(&path).await?;
        let id = name.parse().map_err(|_| ZnodeError::new(&path, &view.data, "its name is no broker id"))?;
        brokers.insert(id, znodes::decode_broker(&path, id, view.stat.czxid, &view.data)?);
    }
    Ok(brokers)
}

async fn read_broker_configs<R: Runtime>(session: &Coordination<R>) -> Result<BTreeMap<Option<i32>, BTreeMap<String, String>>, StartError> {
    let mut configs = BTreeMap::new();
    for name in session.children(znodes::BROKER_CONFIGS).await?.0 {
        let path = format!("{}/{name}", znodes::BROKER_CONFIGS);
        let view = session.get(&path).await?;
        let id = match &*name {
            "<default>" => None,
            name => Some(name.parse().map_err(|_| ZnodeError::new(&path, &view.data, "its name is no broker id"))?),
        };
        configs.insert(id, znodes::decode_config(&path, &view.data)?);
    }
    Ok(configs)
}

/// Reads topics and collects what must be written before they can be served.
struct Start<'a, R: Runtime> {
    rt: &'a R,
    session: &'a Coordination<R>,
    broker_id: i32,
    controller_epoch: i32,
    units: Vec<Unit>,
}

impl<R: Runtime> Start<'_, R> {
    async fn topic(&mut self, name: &Arc<str>, image: &MetadataImage) -> Result<TopicImage, StartError> {
        let path = znodes::topic_path(name);
        let view = self.session.get(&path).await?;
        let (id, replicas) = znodes::decode_topic(&path, &view.data)?;
        let id = match id {
            Some(id) => id,
            None => {
                // Made by a broker before KIP-516, or by 2013's tools.
                let id = random_id(self.rt);
                let content = znodes::encode_topic(id, replicas.iter().map(Vec::as_slice));
                self.write(Operation::set(path, content, view.stat.version));
                id
            }
        };
        let partitions_path = znodes::partitions_path(name);
        if self.session.exists(&partitions_path).await?.is_none() {
            self.write(Operation::create(partitions_path, ""));
        }
        let mut partitions = Vec::with_capacity(replicas.len());
        for (replicas, index) in replicas.into_iter().zip(0..) {
            partitions.push(self.partition(name, index, replicas, image).await?);
        }
        let config_path = znodes::topic_config_path(name);
        let config = match self.session.get(&config_path).await {
            Ok(view) => znodes::decode_config(&config_path, &view.data)?,
            Err(Failure { code: ErrorCode::NoNode, .. }) => BTreeMap::new(),
            Err(failure) => return Err(failure.into()),
        };
        Ok(TopicImage { name: name.clone(), id, partitions, config, internal: is_internal(name) })
    }

    async fn partition(&mut self, topic: &str, index: i32, replicas: Vec<i32>, image: &MetadataImage) -> Result<PartitionImage, StartError> {
        let path = znodes::state_path(topic, index);
        let view = match self.session.get(&path).await {
            Ok(view) => view,
            Err(Failure { code: ErrorCode::NoNode, .. }) => return self.missing_partition(topic, index, &replicas).await,
            Err(failure) => return Err(failure.into()),
        };
        let state = PartitionState::decode(&path, &view.data)?;
        let is_alive = |id: i32| image.brokers.contains_key(&id);
        let leader = if is_alive(state.leader) { state.leader } else { elect(&replicas, &state.isr, is_alive).unwrap_or(-1) };
        let mut partition = PartitionImage { leader, leader_epoch: state.leader_epoch, replicas, isr: state.isr.clone(), partition_epoch: view.stat.version };
        // Also if it led before: what it wrote unsynced in that life may be gone, and the same epoch must not name other records.
        if leader != state.leader || leader == self.broker_id {
            partition.leader_epoch = state.leader_epoch + 1;
            let state = PartitionState { leader, leader_epoch: partition.leader_epoch, controller_epoch: self.controller_epoch, ..state };
            self.write(Operation::set(path, state.encode(), view.stat.version));
        }
        Ok(partition)
    }

    /// A partition whose creation was interrupted.
    async fn missing_partition(&mut self, topic: &str, index: i32, replicas: &[i32]) -> Result<PartitionImage, StartError> {
        let (mut operations, image) = new_partition(topic, index, replicas, self.controller_epoch);
        if self.session.exists(&znodes::partition_path(topic, index)).await?.is_some() {
            operations.remove(0);
        }
        self.units.push(Unit { owner: 0, operations });
        Ok(image)
    }

    fn write(&mut self, operation: Operation) {
        self.units.push(Unit { owner: 0, operations: vec![operation] });
    }
}
