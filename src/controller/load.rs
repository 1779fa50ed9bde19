//! Reads the tree into images, and watches what was read. As the controller it also collects what must be written before it can be served: the rest of
//! topics whose creation was interrupted or that others began, ids of topics that have none, leaders for partitions whose leader has gone or was
//! restarted.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use uuid::Uuid;

use super::StartError;
use super::changes::{Unit, fenced, multi_count, new_partition, pack, random_id};
use super::configs::{ConfigRules, may_elect_uncleanly};
use super::elections::{self, Cluster};
use super::image::{BrokerInfo, PartitionImage, TopicImage, is_internal};
use super::registration::{Reign, find, read_all};
use super::troubles::BrokerTroubles;
use super::znodes::{self, PartitionState, ZnodeError};
use crate::coordination::client::{Session, Watcher};
use crate::coordination::op::{ErrorCode, Failure, Operation, OperationResult};
use crate::coordination::tree::NodeView;
use crate::plant;
use crate::runtime::Runtime;

/// How many topics are read at a time.
const TOPICS_AT_ONCE: usize = 64;

/// A topic as it was read.
pub(super) struct ReadTopic {
    pub(super) image: TopicImage,
    /// What must be written before it is as the image shows it.
    pub(super) units: Vec<Unit>,
}

/// What reading a topic came to.
pub(super) enum Found {
    /// There is no such topic.
    Gone,
    /// It is there, and not for use: the controller has to give it an id.
    NotYet,
    /// Its znode says what is known.
    AsKnown,
    /// It is this.
    Topic(Box<ReadTopic>),
}

/// Reads on behalf of one broker.
pub(super) struct Load<'a, R: Runtime> {
    pub(super) rt: &'a R,
    pub(super) session: &'a Session<R>,
    pub(super) watcher: &'a Watcher,
    /// Whether this broker is the controller.
    pub(super) reign: Option<Reign>,
    pub(super) cluster: Cluster<'a>,
    /// What settings mean.
    pub(super) rules: &'a dyn ConfigRules,
}

/// What a znode holds, or nothing; `watcher` is told when that changes.
pub(super) async fn find_and_watch<R: Runtime>(session: &Session<R>, path: &str, watcher: &Watcher) -> Result<Option<NodeView>, Failure> {
    loop {
        match session.get_and_watch(path, watcher).await {
            Ok(view) => return Ok(Some(view)),
            Err(Failure { code: ErrorCode::NoNode, .. }) => {}
            Err(failure) => return Err(failure),
        }
        if session.exists_and_watch(path, watcher).await?.is_none() {
            return Ok(None);
        }
    }
}

/// The registered brokers, each with the session of its registration. What cannot be read is told and left out: it is another broker's.
pub(super) async fn read_brokers<R: Runtime>(session: &Session<R>, watcher: &Watcher) -> Result<BTreeMap<i32, (BrokerInfo, i64)>, Failure> {
    let (names, _) = session.children_and_watch(znodes::BROKER_IDS, watcher).await?;
    let paths: Vec<String> = names.iter().map(|name| format!("{}/{name}", znodes::BROKER_IDS)).collect();
    let views = try_join_all(paths.iter().map(|path| find_and_watch(session, path, watcher))).await?;
    let mut brokers = BTreeMap::new();
    for ((name, path), view) in names.iter().zip(&paths).zip(views) {
        let Some(view) = view else { continue };
        let read = name.parse().map_err(|_| ZnodeError::new(path, &view.data, "its name is no broker id"));
        match read.and_then(|id| znodes::decode_broker(path, id, view.stat.czxid, &view.data)) {
            Ok(broker) => drop(brokers.insert(broker.id, (broker, view.stat.ephemeral_owner))),
            Err(error) => tracing::warn!(%error, "a broker's registration cannot be read; that broker is left out"),
        }
    }
    Ok(brokers)
}

/// Which log directories each broker had when it was last looked at.
pub(super) async fn read_directories<R: Runtime>(session: &Session<R>) -> Result<BTreeMap<i32, Vec<Uuid>>, Failure> {
    let (names, _) = session.children(znodes::DIRECTORIES).await?;
    let mut directories = BTreeMap::new();
    for (path, view) in read_all(session, names.iter().map(|name| format!("{}/{name}", znodes::DIRECTORIES))).await? {
        let id = path.rsplit('/').next().and_then(|name| name.parse().ok());
        let ids = znodes::decode_directories(&view.data);
        directories.extend(id.filter(|_| !ids.is_empty()).map(|id| (id, ids)));
    }
    Ok(directories)
}

/// What each broker says of its replicas; `watcher` is told when that changes.
pub(super) async fn read_troubles<R: Runtime>(session: &Session<R>, watcher: &Watcher) -> Result<BTreeMap<i32, BrokerTroubles>, Failure> {
    let (names, _) = session.children_and_watch(znodes::OFFLINE, watcher).await?;
    let paths: Vec<String> = names.iter().map(|name| format!("{}/{name}", znodes::OFFLINE)).collect();
    let views = try_join_all(paths.iter().map(|path| find_and_watch(session, path, watcher))).await?;
    let told = names.iter().zip(views).filter_map(|(name, view)| Some((name.parse().ok()?, BrokerTroubles::decode(&view?.data))));
    Ok(told.collect())
}

/// The dynamic settings of brokers.
pub(super) async fn read_broker_configs<R: Runtime>(session: &Session<R>) -> Result<BTreeMap<Option<i32>, BTreeMap<String, String>>, StartError> {
    let (names, _) = session.children(znodes::BROKER_CONFIGS).await?;
    let mut configs = BTreeMap::new();
    for (path, view) in read_all(session, names.iter().map(|name| format!("{}/{name}", znodes::BROKER_CONFIGS))).await? {
        let Some(znodes::ConfigEntity::Broker(id)) = znodes::ConfigEntity::of_path(&path) else {
            tracing::warn!(path, "settings of what is no broker are passed over");
            continue;
        };
        configs.insert(id, znodes::decode_config(&path, &view.data)?);
    }
    Ok(configs)
}

impl<R: Runtime> Load<'_, R> {
    /// Reads the topics, many at a time.
    pub(super) async fn topics(&self, names: &[Arc<str>], known: impl Fn(&str) -> Option<Arc<TopicImage>>) -> Result<Vec<(Arc<str>, Found)>, StartError> {
        let mut read = Vec::with_capacity(names.len());
        for names in names.chunks(TOPICS_AT_ONCE) {
            let known: Vec<Option<Arc<TopicImage>>> = names.iter().map(|name| known(name)).collect();
            let reading: Vec<_> = names.iter().zip(&known).map(|(name, known)| self.topic(name, known.as_deref(), false)).collect();
            read.extend(names.iter().cloned().zip(try_join_all(reading).await?));
        }
        Ok(read)
    }

    /// Reads a topic and watches it. With `may_be_known`, its partitions are not read if its znode says what is known.
    pub(super) async fn topic(&self, name: &Arc<str>, known: Option<&TopicImage>, may_be_known: bool) -> Result<Found, StartError> {
        loop {
            if let Some(found) = self.topic_once(name, known, may_be_known).await? {
                return Ok(found);
            }
        }
    }

    /// `None` if its assignment changed while its partitions were read: replicas of one moment and states of another would be a partition that never was.
    async fn topic_once(&self, name: &Arc<str>, known: Option<&TopicImage>, may_be_known: bool) -> Result<Option<Found>, StartError> {
        let path = znodes::topic_path(name);
        let Some(view) = find_and_watch(self.session, &path, self.watcher).await? else { return Ok(Some(Found::Gone)) };
        let (id, replicas) = znodes::decode_topic(&path, &view.data)?;
        if may_be_known && known.is_some_and(|known| super::follow::is_as_known(known, id, &replicas)) {
            return Ok(Some(Found::AsKnown));
        }
        let mut units = Vec::new();
        let mut write = |operation| units.push(Unit { owner: 0, operations: vec![operation] });
        let id = match (id, known) {
            (Some(id), _) => id,
            (None, _) if self.reign.is_none() => return Ok(Some(Found::NotYet)),
            (None, known) => {
                // Made by a broker before KIP-516, or by 2013's tools; or such a tool has changed it, and dropped its id.
                let id = known.map_or_else(|| random_id(self.rt), |known| known.id);
                write(Operation::set(path, znodes::encode_topic_over(&view.data, id, replicas.iter().map(Vec::as_slice)), view.stat.version));
                id
            }
        };
        if self.reign.is_some() {
            let partitions_path = znodes::partitions_path(name);
            if self.session.exists(&partitions_path).await?.is_none() {
                write(Operation::create(partitions_path, ""));
            }
        }
        let config_path = znodes::topic_config_path(name);
        let config = match find(self.session, &config_path).await? {
            Some(view) => znodes::decode_config(&config_path, &view.data)?,
            None => BTreeMap::new(),
        };
        let reassignments = znodes::decode_reassignments(&view.data);
        let may_be_unclean = may_elect_uncleanly(self.rules, &config);
        let assigned = (0..).zip(replicas).map(|(index, replicas)| {
            let (adding, removing) = reassignments.get(&index).cloned().unwrap_or_default();
            (index, PartitionImage { replicas, adding, removing, ..PartitionImage::default() })
        });
        let states = try_join_all(assigned.map(|(index, assigned)| self.partition(name, index, assigned, may_be_unclean))).await?;
        if self.session.exists(&znodes::topic_path(name)).await?.is_none_or(|stat| stat.mzxid != view.stat.mzxid) {
            return Ok(None);
        }
        let mut partitions = Vec::with_capacity(states.len());
        for (partition, operations) in states {
            partitions.push(partition);
            if !operations.is_empty() {
                units.push(Unit { owner: 0, operations });
            }
        }
        let image = TopicImage { name: name.clone(), id, partitions, config, internal: is_internal(name) };
        Ok(Some(Found::Topic(Box::new(ReadTopic { image, units }))))
    }

    async fn partition(&self, topic: &str, index: i32, assigned: PartitionImage, may_be_unclean: bool) -> Result<(PartitionImage, Vec<Operation>), StartError> {
        let path = znodes::state_path(topic, index);
        // The controller alone writes states: it need not be told of them.
        let view = match self.reign {
            Some(_) => find(self.session, &path).await?,
            None => find_and_watch(self.session, &path, self.watcher).await?,
        };
        let (Some(view), reign) = (view, self.reign) else {
            let Some(reign) = self.reign else {
                let epochs = if plant!(self.rt, "missing-state-is-a-first-one") { (0, 0) } else { (assigned.leader_epoch, assigned.partition_epoch) };
                return Ok((PartitionImage { leader_epoch: epochs.0, partition_epoch: epochs.1, ..assigned }, Vec::new()));
            };
            let (mut operations, image) = new_partition(topic, index, &assigned.replicas, reign.epoch, &self.cluster);
            if self.session.exists(&znodes::partition_path(topic, index)).await?.is_some() {
                operations.remove(0);
            }
            return Ok((image, operations));
        };
        let PartitionImage { replicas, adding, removing, .. } = assigned;
        let image = PartitionImage { adding, removing, ..PartitionState::decode(&path, &view.data)?.image(replicas, view.stat.version) };
        let Some(reign) = reign else { return Ok((image, Vec::new())) };
        Ok(match elections::reviewed(&image, &self.cluster.at(topic, index), may_be_unclean) {
            Some(next) => {
                let content = PartitionState::of(&next, reign.epoch).encode_over(&view.data);
                (next, vec![Operation::set(path, content, view.stat.version)])
            }
            None => (image, Vec::new()),
        })
    }

    /// Writes what the topics need, and gives their partitions the epochs that follow: a partition's epoch is its state's version, which only the tree
    /// knows.
    pub(super) async fn complete(&self, topics: &mut BTreeMap<Arc<str>, TopicImage>, units: Vec<Unit>) -> Result<(), StartError> {
        let Some(reign) = self.reign else { return Ok(()) };
        let mut epochs: BTreeMap<String, i32> = BTreeMap::new();
        for multi in pack(units, multi_count(self.rt)) {
            let operations: Vec<Operation> = multi.into_iter().flat_map(|unit| unit.operations).collect();
            let results = fenced(self.session, reign.epoch_version, operations.clone()).await?;
            epochs.extend(operations.into_iter().zip(results).filter_map(|(operation, result)| match (operation, result) {
                (Operation::Set { path, .. }, OperationResult::Set { stat }) => Some((path, stat.version)),
                _ => None,
            }));
        }
        if epochs.is_empty() {
            return Ok(());
        }
        for (name, topic) in topics {
            for (partition, index) in topic.partitions.iter_mut().zip(0..) {
                if let Some(version) = epochs.get(&znodes::state_path(name, index)) {
                    partition.partition_epoch = *version;
                }
            }
        }
        Ok(())
    }
}

/// Every topic's own settings, as the tree has them: recovery must know what a log promised before the first log is opened.
///
/// # Errors
/// [`StartError`].
pub async fn topic_settings<R: Runtime>(session: &Session<R>) -> Result<BTreeMap<Arc<str>, BTreeMap<String, String>>, StartError> {
    let topics = match session.children(znodes::TOPICS).await {
        Ok((topics, _)) => topics,
        Err(Failure { code: ErrorCode::NoNode, .. }) => return Ok(BTreeMap::new()),
        Err(failure) => return Err(failure.into()),
    };
    let mut settings: BTreeMap<Arc<str>, BTreeMap<String, String>> = topics.iter().map(|topic| (topic.clone(), BTreeMap::new())).collect();
    for (path, view) in read_all(session, topics.iter().map(|topic| znodes::topic_config_path(topic))).await? {
        let config = znodes::decode_config(&path, &view.data)?;
        if let Some(own) = path.rsplit('/').next().and_then(|topic| settings.get_mut(topic)) {
            *own = config;
        }
    }
    Ok(settings)
}
