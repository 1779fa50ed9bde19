//! The changes of partitions: what leaders propose, elections, brokers that leave, reassignments. What becomes of each partition `elections` decides; here it is
//! written, in as few `multi`s as the limits allow, and published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use kafka_protocol::error::ResponseError as Error;
use uuid::Uuid;

use super::changes::{Changes, Unit, multi_count, pack};
use super::elections::{self, Cluster, IsrChange};
use super::image::{BrokerInfo, MetadataImage, PartitionImage, TopicImage};
use super::topics::ApiError;
use super::troubles::{self, BrokerTroubles, Troubles};
use super::znodes::{self, PartitionState};
use super::{api_error, configs};
use crate::coordination::op::{ANY_VERSION, ErrorCode, Failure, Operation, OperationResult};
use crate::runtime::Runtime;

/// A partition as it is to be; its epoch is the one that is to be replaced.
pub(super) struct Next {
    pub(super) topic: Arc<str>,
    pub(super) number: i32,
    pub(super) partition: PartitionImage,
}

/// One partition of a request.
pub type PartitionName = (Arc<str>, i32);

/// How a leader is elected on request (KIP-460).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// The first assigned replica, if it is in sync.
    Preferred,
    /// Whoever is there, if there is no leader.
    Unclean,
}

/// What an election on request came to, partition by partition.
pub type Elected = Vec<(PartitionName, Result<(), ApiError>)>;

/// What is known beside the tree's image while this broker is the controller.
#[derive(Debug, Default)]
pub(super) struct Reigning {
    /// Brokers that are on their way out, with the epoch in which they asked to leave.
    leaving: BTreeMap<i32, i64>,
    /// The log directories of each broker when it was last in sync anywhere, as the tree has it.
    pub(super) directories: BTreeMap<i32, Vec<Uuid>>,
    /// What brokers say of their replicas, as the tree has it.
    told: BTreeMap<i32, BrokerTroubles>,
    /// The same, by partition.
    troubles: Arc<Troubles>,
}

impl Reigning {
    pub(super) fn leaving(&self, brokers: &BTreeMap<i32, BrokerInfo>) -> BTreeSet<i32> {
        self.leaving.iter().filter(|(id, epoch)| brokers.get(id).is_some_and(|broker| broker.epoch == **epoch)).map(|(id, _)| *id).collect()
    }

    /// Brokers that have none of the log directories that they had. Adding one, or another order, is nothing; the loss of one of several is seen by its logs alone.
    pub(super) fn wiped(&self, brokers: &BTreeMap<i32, BrokerInfo>) -> BTreeSet<i32> {
        let has_one = |broker: &BrokerInfo| self.directories.get(&broker.id).is_none_or(|before| before.iter().any(|id| broker.directory_ids.contains(id)));
        let is_other = |broker: &BrokerInfo| !broker.directory_ids.is_empty() && !has_one(broker);
        brokers.values().filter(|broker| is_other(broker)).map(|broker| broker.id).collect()
    }

    /// Takes in what brokers say of their replicas. Whether that is other than before.
    pub(super) fn take_troubles(&mut self, told: BTreeMap<i32, BrokerTroubles>) -> bool {
        let is_new = self.told != told;
        if is_new {
            self.troubles = Arc::new(Troubles::of(&told));
            self.told = told;
        }
        is_new
    }

    /// What they say, by partition.
    pub(super) fn troubles(&self) -> Arc<Troubles> {
        Arc::clone(&self.troubles)
    }

    /// Directories that are not written down yet.
    fn news(&self, brokers: &BTreeMap<i32, BrokerInfo>) -> Vec<(i32, Vec<Uuid>)> {
        let told = brokers.values().filter(|broker| !broker.directory_ids.is_empty() && self.directories.get(&broker.id) != Some(&broker.directory_ids));
        told.map(|broker| (broker.id, broker.directory_ids.clone())).collect()
    }
}

impl<R: Runtime> Changes<R> {
    pub(super) fn reigning(&self) -> std::sync::MutexGuard<'_, Reigning> {
        self.reigning.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The brokers by which partitions are judged.
    pub(super) fn with_cluster<T>(&self, brokers: &BTreeMap<i32, BrokerInfo>, judge: impl FnOnce(&Cluster<'_>) -> T) -> T {
        let (leaving, wiped, troubles) = {
            let reigning = self.reigning();
            (reigning.leaving(brokers), reigning.wiped(brokers), reigning.troubles())
        };
        judge(&Cluster { brokers, leaving: &leaving, wiped: &wiped, troubles: &troubles, here: troubles::NONE, plants: elections::Plants::of(&self.rt) })
    }

    /// What every partition is to be, as `rule` says; `None` if it stays.
    pub(super) fn all_partitions(
        &self,
        image: &MetadataImage,
        brokers: &BTreeMap<i32, BrokerInfo>,
        rule: impl Fn(&TopicImage, &PartitionImage, &Cluster<'_>) -> Option<PartitionImage>,
    ) -> Vec<Next> {
        self.with_cluster(brokers, |cluster| {
            let partitions =
                image.topics.values().flat_map(|topic| topic.partitions.iter().zip(0..).map(move |(partition, number)| (topic, partition, number)));
            let changed = partitions.filter_map(|(topic, partition, number)| {
                let partition = rule(topic, partition, &cluster.at(&topic.name, number))?;
                Some(Next { topic: topic.name.clone(), number, partition })
            });
            changed.collect()
        })
    }

    /// Looks at every partition after brokers came, went or came back in another life, and publishes them with what follows.
    pub(super) async fn review(&self, brokers: BTreeMap<i32, BrokerInfo>) -> Result<(), Failure> {
        let image = self.image();
        let next = self.all_partitions(&image, &brokers, |topic, partition, cluster| {
            elections::reviewed(partition, cluster, configs::may_elect_uncleanly(&*self.config.rules, &topic.config))
        });
        for Next { topic, number, partition } in &next {
            let before = image.partition(topic, *number).expect("it is of this image");
            if partition.leader == elections::NOBODY && before.leader != elections::NOBODY {
                tracing::warn!(%topic, partition = number, isr = ?before.isr, "none of the in-sync replicas is there: the partition has no leader");
            } else if partition.isr.iter().any(|id| !before.isr.contains(id)) {
                tracing::warn!(%topic, partition = number, leader = partition.leader, was_in_sync = ?before.isr,
                    "an unclean election (unclean.leader.election.enable): what this leader does not have is lost");
            }
        }
        drop(image);
        let written = self.write_partitions(&next).await?;
        self.remember_directories(&brokers).await?;
        self.publish(|image| {
            image.brokers = brokers;
            put(image, written);
        });
        Ok(())
    }

    /// Looks at all partitions if one of this topic has no leader: its settings are others now, and may allow an unclean election.
    pub(super) async fn review_if_leaderless(&self, topic: &str) -> Result<(), Failure> {
        let image = self.image();
        let is_leaderless = |topic: &Arc<TopicImage>| topic.partitions.iter().any(|partition| partition.leader == elections::NOBODY);
        if !image.topic(topic).is_some_and(is_leaderless) {
            return Ok(());
        }
        let brokers = image.brokers.clone();
        drop(image);
        self.review(brokers).await
    }

    /// Writes down which log directory each broker has, once nothing says of another one that it is in sync.
    pub(super) async fn remember_directories(&self, brokers: &BTreeMap<i32, BrokerInfo>) -> Result<(), Failure> {
        let news = self.reigning().news(brokers);
        if news.is_empty() {
            return Ok(());
        }
        for (id, _) in news.iter().filter(|(id, _)| self.reigning().directories.contains_key(id)) {
            tracing::warn!(
                broker = id,
                "the broker has come back without the log directories that it had: what it had is gone, and it is in sync nowhere until it has caught up"
            );
        }
        let operations = news.iter().map(|(id, directories)| {
            let (path, content) = (znodes::directory_path(*id), znodes::encode_directories(directories));
            if self.reigning().directories.contains_key(id) { Operation::set(path, content, ANY_VERSION) } else { Operation::create(path, content) }
        });
        let operations: Vec<Operation> = operations.collect();
        self.write(operations).await?;
        self.reigning().directories.extend(news);
        Ok(())
    }

    /// Writes partitions; returns them with their new epochs. If one was changed by another, none of its `multi` is written.
    pub(super) async fn write_partitions(&self, next: &[Next]) -> Result<Vec<(PartitionName, PartitionImage)>, Failure> {
        let epoch = self.controller_epoch();
        let units = next.iter().zip(0..).map(|(Next { topic, number, partition }, owner)| {
            let state = PartitionState::of(partition, epoch).encode();
            Unit { owner, operations: vec![Operation::set(znodes::state_path(topic, *number), state, partition.partition_epoch)] }
        });
        let mut written = Vec::with_capacity(next.len());
        for multi in pack(units.collect(), multi_count(&self.rt)) {
            let owners: Vec<usize> = multi.iter().map(|unit| unit.owner).collect();
            let results = self.write(multi.into_iter().flat_map(|unit| unit.operations)).await?;
            written.extend(owners.into_iter().zip(results).map(|(owner, result)| with_epoch(&next[owner], &result)));
        }
        Ok(written)
    }

    /// Writes partitions of one topic together with its assignment.
    async fn write_assignment(&self, topic: &TopicImage, next: &[Next]) -> Result<Vec<(PartitionName, PartitionImage)>, Failure> {
        let mut partitions = topic.partitions.clone();
        for Next { number, partition, .. } in next {
            partitions[usize::try_from(*number).expect("it exists")] = partition.clone();
        }
        let path = znodes::topic_path(&topic.name);
        let view = self.session.get(&path).await.inspect_err(|failure| self.doubt(failure))?;
        let mut operations = vec![Operation::set(path, znodes::encode_assignment_over(&view.data, topic.id, &partitions), view.stat.version)];
        let epoch = self.controller_epoch();
        operations.extend(next.iter().map(|Next { topic, number, partition }| {
            Operation::set(znodes::state_path(topic, *number), PartitionState::of(partition, epoch).encode(), partition.partition_epoch)
        }));
        let results = self.write(operations).await?;
        Ok(next.iter().zip(results.into_iter().skip(1)).map(|(next, result)| with_epoch(next, &result)).collect())
    }

    /// AlterPartition: one result each, in order.
    pub(super) async fn alter_partitions(&self, from: i32, broker_epoch: i64, changes: &[(Uuid, i32, IsrChange)]) -> Vec<Result<PartitionImage, ApiError>> {
        let image = self.image();
        if image.brokers.get(&from).is_none_or(|broker| broker.epoch != broker_epoch) {
            let error = ApiError::new(Error::StaleBrokerEpoch, format!("Broker {from} is not registered in epoch {broker_epoch}."));
            return changes.iter().map(|_| Err(error.clone())).collect();
        }
        let mut next: Vec<Next> = Vec::new();
        let mut assigned: BTreeMap<Arc<str>, Vec<Next>> = BTreeMap::new();
        let judged: Vec<Result<PartitionName, ApiError>> = self.with_cluster(&image.brokers, |cluster| {
            let judge = |(topic_id, number, change): &(Uuid, i32, IsrChange)| {
                let topic = image.topic_by_id(*topic_id).ok_or(Error::UnknownTopicId)?;
                let partition = topic.partition(*number).ok_or(Error::UnknownTopicOrPartition)?;
                if let Some(partition) = elections::proposed(partition, from, change, &cluster.at(&topic.name, *number))? {
                    let is_assignment = partition.leader_epoch != image.partition(&topic.name, *number).map_or(-1, |before| before.leader_epoch);
                    let changed = Next { topic: topic.name.clone(), number: *number, partition };
                    // A reassignment that this completes.
                    if is_assignment { assigned.entry(topic.name.clone()).or_default().push(changed) } else { next.push(changed) }
                }
                Ok((topic.name.clone(), *number))
            };
            changes.iter().map(judge).map(|judged| judged.map_err(|code: Error| ApiError::new(code, code.to_string()))).collect()
        });
        let written = self.write_all(&image, next, assigned).await;
        drop(image);
        let failure = self.publish_written(written);
        let image = self.image();
        let answer = |name: PartitionName| match &failure {
            // Whether this partition's was written is not looked at: the leader asks again.
            Some(error) => Err(error.clone()),
            None => image.partition(&name.0, name.1).cloned().ok_or_else(|| ApiError::new(Error::UnknownTopicOrPartition, "")),
        };
        judged.into_iter().map(|judged| judged.and_then(answer)).collect()
    }

    /// Writes states alone, then those that come with assignments; what was written before a failure is told with it.
    async fn write_all(
        &self,
        image: &MetadataImage,
        next: Vec<Next>,
        assigned: BTreeMap<Arc<str>, Vec<Next>>,
    ) -> (Vec<(PartitionName, PartitionImage)>, Option<Failure>) {
        let mut written = match self.write_partitions(&next).await {
            Ok(written) => written,
            Err(failure) => return (Vec::new(), Some(failure)),
        };
        for (name, next) in assigned {
            let Some(topic) = image.topic(&name) else { continue };
            match self.write_assignment(topic, &next).await {
                Ok(more) => written.extend(more),
                Err(failure) => return (written, Some(failure)),
            }
        }
        (written, None)
    }

    fn publish_written(&self, (written, failure): (Vec<(PartitionName, PartitionImage)>, Option<Failure>)) -> Option<ApiError> {
        if !written.is_empty() {
            self.publish(|image| put(image, written));
        }
        failure.map(|failure| match failure.code {
            ErrorCode::BadVersion if failure.path != znodes::CONTROLLER_EPOCH => ApiError::new(Error::OperationNotAttempted, failure.to_string()),
            _ => api_error(&failure),
        })
    }

    /// ControlledShutdown: moves leaderships away from a broker. The result is what it still leads, for want of others.
    pub(super) async fn leave(&self, broker: i32, broker_epoch: Option<i64>) -> Result<Vec<PartitionName>, ApiError> {
        let image = self.image();
        let Some(registered) = image.brokers.get(&broker) else {
            return Err(ApiError::new(Error::BrokerIdNotRegistered, format!("Broker {broker} is not registered.")));
        };
        if broker_epoch.is_some_and(|epoch| epoch != registered.epoch) {
            return Err(ApiError::new(Error::StaleBrokerEpoch, format!("Broker {broker} is registered in another epoch.")));
        }
        self.reigning().leaving.insert(broker, registered.epoch);
        let next = self.all_partitions(&image, &image.brokers, |_, partition, cluster| elections::left(partition, broker, cluster));
        drop(image);
        let written = match self.write_partitions(&next).await {
            Ok(written) => (written, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        match self.publish_written(written) {
            Some(error) => Err(error),
            None => {
                let led = |partition: &PartitionImage| partition.leader == broker && partition.replicas.len() > 1;
                let image = self.image();
                let names = image.topics.values().flat_map(|topic| topic.partitions.iter().zip(0..).map(move |(partition, number)| (topic, partition, number)));
                Ok(names.filter(|(_, partition, _)| led(partition)).map(|(topic, _, number)| (topic.name.clone(), number)).collect())
            }
        }
    }

    /// ElectLeaders; of all partitions if none are named, and then only what was to be done is told.
    pub(super) async fn elect(&self, election: Election, partitions: Option<&[PartitionName]>) -> Result<Elected, ApiError> {
        let image = self.image();
        let all = || {
            let numbers = |topic: &Arc<TopicImage>| (0..topic.partition_count()).map(|number| (topic.name.clone(), number)).collect::<Vec<_>>();
            image.topics.values().flat_map(numbers).collect::<Vec<PartitionName>>()
        };
        let names = partitions.map_or_else(all, <[_]>::to_vec);
        let mut next = Vec::new();
        let mut results: Elected = self.with_cluster(&image.brokers, |cluster| {
            let judged = names.into_iter().map(|name| {
                let known = image.partition(&name.0, name.1).ok_or(Error::UnknownTopicOrPartition);
                let cluster = &cluster.at(&name.0, name.1);
                let elected = known.and_then(|partition| match election {
                    Election::Preferred => elections::preferred(partition, cluster),
                    Election::Unclean => elections::unclean(partition, cluster),
                });
                let result = elected.map(|partition| next.push(Next { topic: name.0.clone(), number: name.1, partition }));
                (name, result.map_err(|code| ApiError::new(code, code.to_string())))
            });
            judged.collect()
        });
        if partitions.is_none() {
            results.retain(|(_, result)| !matches!(result, Err(error) if error.code == Error::ElectionNotNeeded));
        }
        drop(image);
        let written = match self.write_partitions(&next).await {
            Ok(written) => (written, None),
            Err(failure) => (Vec::new(), Some(failure)),
        };
        match self.publish_written(written) {
            Some(error) => Err(error),
            None => Ok(results),
        }
    }

    /// Gives the leadership back to the first assigned replicas, as far as they are in sync (`auto.leader.rebalance.enable`).
    pub(super) async fn rebalance_leaders(&self) {
        match self.elect(Election::Preferred, None).await {
            Ok(elected) => {
                let count = elected.iter().filter(|(_, result)| result.is_ok()).count();
                if count > 0 {
                    tracing::info!(count, "gave partitions back to their preferred leaders");
                }
            }
            Err(error) => tracing::info!(%error, "partitions could not be given back to their preferred leaders; tried again later"),
        }
    }

    /// AlterPartitionReassignments: to these replicas, or none to cancel. One result each, in order.
    pub(super) async fn reassign(&self, targets: &[(PartitionName, Option<Vec<i32>>)]) -> Vec<Result<(), ApiError>> {
        let image = self.image();
        let mut assigned: BTreeMap<Arc<str>, Vec<Next>> = BTreeMap::new();
        let results: Vec<Result<(), ApiError>> = self.with_cluster(&image.brokers, |cluster| {
            let judge = |((topic, number), target): &(PartitionName, Option<Vec<i32>>)| {
                let unknown = || ApiError::new(Error::UnknownTopicOrPartition, "The partition does not exist.");
                let partition = image.partition(topic, *number).ok_or_else(unknown)?;
                let cluster = &cluster.at(topic, *number);
                let next = match target {
                    Some(target) => {
                        check_target(target, cluster)?;
                        let none_stays = |code| ApiError::new(code, "None of the in-sync replicas would stay, so that there would be nothing to copy from.");
                        elections::reassigned(partition, target, cluster).map_err(none_stays)?
                    }
                    None if !partition.is_reassigning() => {
                        return Err(ApiError::new(Error::NoReassignmentInProgress, "No partition reassignment is in progress."));
                    }
                    None => elections::cancelled(partition, cluster)
                        .ok_or_else(|| ApiError::new(Error::InvalidReplicaAssignment, "None of the replicas from before the reassignment can lead."))?,
                };
                assigned.entry(topic.clone()).or_default().push(Next { topic: topic.clone(), number: *number, partition: next });
                Ok(())
            };
            targets.iter().map(judge).collect()
        });
        let written = self.write_all(&image, Vec::new(), assigned).await;
        drop(image);
        match self.publish_written(written) {
            None => results,
            Some(error) => results.into_iter().map(|result| result.and(Err(error.clone()))).collect(),
        }
    }
}

/// Whether replicas may be assigned, in the words of Kafka.
fn check_target(target: &[i32], cluster: &Cluster<'_>) -> Result<(), ApiError> {
    let refuse = |message: String| Err(ApiError::new(Error::InvalidReplicaAssignment, message));
    if target.is_empty() {
        return refuse("The manual partition assignment includes an empty replica list.".into());
    }
    if let Some(id) = target.iter().find(|id| target.iter().filter(|other| other == id).count() > 1) {
        return refuse(format!("The manual partition assignment includes the broker {id} more than once."));
    }
    match target.iter().find(|id| !cluster.brokers.contains_key(id)) {
        Some(id) => refuse(format!("The manual partition assignment includes broker {id}, but no such broker is registered.")),
        None => Ok(()),
    }
}

fn with_epoch(next: &Next, result: &OperationResult) -> (PartitionName, PartitionImage) {
    let version = if let OperationResult::Set { stat } = result { stat.version } else { next.partition.partition_epoch };
    ((next.topic.clone(), next.number), PartitionImage { partition_epoch: version, ..next.partition.clone() })
}

/// Puts partitions into an image.
pub(super) fn put(image: &mut MetadataImage, partitions: Vec<(PartitionName, PartitionImage)>) {
    let mut topics: BTreeMap<Arc<str>, TopicImage> = BTreeMap::new();
    for ((name, number), partition) in partitions {
        let Some(known) = image.topic(&name) else { continue };
        let topic = topics.entry(name).or_insert_with(|| TopicImage::clone(known));
        if let Some(slot) = usize::try_from(number).ok().and_then(|number| topic.partitions.get_mut(number)) {
            *slot = partition;
        }
    }
    for topic in topics.into_values() {
        image.put_topic(Arc::new(topic));
    }
}
