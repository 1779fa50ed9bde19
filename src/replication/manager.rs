//! The partitions that this broker holds, kept equal to the metadata image: logs are opened for what it assigns to this broker
//! and deleted for topics that it no longer has. Or, once [`ReplicaManager::be_commanded`] was called, as a controller commands by LeaderAndIsr and StopReplica.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::future::join_all;
use kafka_protocol::error::ResponseError as Error;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::config::topic::TopicConfig;
use crate::controller::image::{MetadataImage, PartitionImage, TopicImage};
use crate::log::manager::PartitionError;
use crate::log::{Log, LogConfig, LogError, LogManager};
use crate::plant;
use crate::replication::fetcher::{FetcherConfig, Fetchers};
use crate::replication::lag::LagChecks;
use crate::replication::log_config::log_config;
use crate::replication::order::{Fence, PartitionOrder, Verdict, judge_stop};
use crate::replication::partition::{IsrProposal, Partition, Proposals, ReplicaRules};
use crate::replication::quota::{Quotas, is_listed};
use crate::replication::trouble::{ROOM_BYTES, TroubleBook};
use crate::runtime::{Disk, HostPort, Runtime};
use crate::topic_partition::TopicPartition;
use crate::wire::control::{LeaderAndIsrRequest, LeaderAndIsrResponse, LeaderAndIsrTopic, StopReplicaRequest, StopReplicaResponse, TopicErrors};

/// What the replicas of a broker are run with.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// `producer.id.expiration.ms`.
    pub producer_id_expiration_ms: i64,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// The listener at which other brokers are fetched from.
    pub inter_broker_listener: String,
    /// How this broker's followers fetch; names the broker too.
    pub fetch: FetcherConfig,
}

/// The replicas of one topic on this broker.
pub struct TopicReplicas<R: Runtime> {
    /// What the image says of the topic.
    pub image: Arc<TopicImage>,
    /// The topic's configuration, every key resolved.
    pub config: TopicConfig,
    /// By partition number; `None` where this broker holds no replica.
    pub partitions: Vec<Option<Arc<Partition<R>>>>,
}

/// The most partitions of a topic that an order may name: a bound for what its numbers make us allocate.
const PARTITIONS_MAX: usize = 1 << 20;

/// A topic of an image, and what there was of it before.
type Changed<'a, R> = (&'a Arc<TopicImage>, Option<&'a Arc<TopicReplicas<R>>>);

/// How many replicas are opened or given another role at a time.
const REPLICAS_AT_ONCE: usize = 64;

struct Maps<R: Runtime> {
    by_name: BTreeMap<Arc<str>, Arc<TopicReplicas<R>>>,
    by_id: BTreeMap<Uuid, Arc<TopicReplicas<R>>>,
}

/// All replicas on this broker.
pub struct ReplicaManager<R: Runtime> {
    runtime: R,
    broker_id: i32,
    config: ReplicaConfig,
    logs: LogManager<R>,
    rules: ReplicaRules,
    fetchers: Fetchers<R>,
    lag: LagChecks<R>,
    /// Whether a controller commands: images are not applied then.
    commanded: AtomicBool,
    fence: Mutex<Fence>,
    /// The registered brokers with their epochs, as the last image had them.
    registered: Mutex<BTreeMap<i32, i64>>,
    /// Where leaders listen, as orders or images have told.
    addresses: Mutex<BTreeMap<i32, HostPort>>,
    /// Held while an order is carried out: they are, one after the other.
    orders: tokio::sync::Mutex<()>,
    resolve: Box<dyn Fn(&TopicImage) -> TopicConfig + Send + Sync>,
    maps: RwLock<Maps<R>>,
    /// Why partitions are offline, as it was told last: what is tried again and again is not told again.
    offline: Mutex<BTreeMap<TopicPartition, String>>,
}

impl<R: Runtime> ReplicaManager<R> {
    /// No replicas yet; [`ReplicaManager::apply`] brings them. `resolve` finds every key of a topic's configuration.
    pub fn new(runtime: R, config: ReplicaConfig, logs: LogManager<R>, resolve: impl Fn(&TopicImage) -> TopicConfig + Send + Sync + 'static) -> Self {
        let broker_id = config.fetch.broker_id;
        Self {
            broker_id,
            logs,
            rules: ReplicaRules {
                broker_id,
                lag_max: config.lag_max,
                proposals: Proposals::default(),
                troubles: TroubleBook::default(),
                quotas: Quotas::default(),
            },
            fetchers: Fetchers::new(runtime.clone(), config.fetch.clone()),
            lag: LagChecks::new(runtime.clone(), config.lag_max),
            runtime,
            commanded: AtomicBool::new(false),
            fence: Mutex::new(Fence { controller_epoch: -1, broker_epoch: -1 }),
            registered: Mutex::default(),
            addresses: Mutex::default(),
            orders: tokio::sync::Mutex::new(()),
            config,
            resolve: Box::new(resolve),
            maps: RwLock::new(Maps { by_name: BTreeMap::new(), by_id: BTreeMap::new() }),
            offline: Mutex::default(),
        }
    }

    /// From now on a controller commands what this broker holds; images change nothing any more.
    pub fn be_commanded(&self) {
        self.commanded.store(true, Ordering::Release);
    }

    /// Whether a controller commands.
    pub fn is_commanded(&self) -> bool {
        self.commanded.load(Ordering::Acquire)
    }

    /// The epoch of this broker's registration (KIP-380): orders for an earlier one are refused, and fetches carry it (KIP-903).
    pub fn set_broker_epoch(&self, epoch: i64) {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner).broker_epoch = epoch;
        self.fetchers.set_broker_epoch(epoch);
    }

    /// What leaders propose to the controller, for whoever takes it there and brings [`Partition::proposal_answered`] back: whoever asked last.
    pub fn take_proposals(&self) -> mpsc::UnboundedReceiver<IsrProposal> {
        self.rules.proposals.take()
    }

    /// What is wrong with replicas, for whoever tells the controller.
    pub fn troubles(&self) -> &TroubleBook {
        &self.rules.troubles
    }

    /// Takes replicas out of service whose logs are offline, those of log directories that have failed among them, and notes them.
    pub async fn retire_offline(&self) {
        for partition in self.partitions() {
            if matches!(partition.log().check_online(), Err(LogError::Offline { .. })) {
                self.rules.troubles.went_offline(partition.id());
                self.fetchers.remove(partition.id());
                partition.stop().await;
            }
        }
    }

    /// Looks whether replicas that handed over for want of room have some again.
    pub async fn probe_room(&self, ids: &[TopicPartition]) {
        for partition in ids.iter().filter_map(|id| self.partition(&id.topic, id.partition)) {
            let log = partition.log();
            if log.runtime().disk().free_bytes(log.path()).await.is_ok_and(|free| free >= ROOM_BYTES) {
                self.rules.troubles.found_room(partition.id());
            }
        }
    }

    /// The tasks that follow leaders.
    pub fn fetchers(&self) -> &Fetchers<R> {
        &self.fetchers
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
        self.fetchers.shutdown().await;
        self.lag.shutdown().await;
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
        if self.is_commanded() {
            return (deleted, Ok(()));
        }
        self.rules.quotas.set(image.broker_configs.get(&Some(self.broker_id)), image.broker_configs.get(&None));
        let epochs: BTreeMap<i32, i64> = image.brokers.iter().map(|(id, broker)| (*id, broker.epoch)).collect();
        let are_others = self.know_brokers(image, &epochs);
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
                for partition in replicas.partitions.iter().flatten() {
                    self.fetchers.remove(partition.id());
                    partition.mark_deleted();
                }
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
        let mut changed: Vec<Changed<'_, R>> = Vec::new();
        for (name, topic) in &image.topics {
            let old = before.get(name).filter(|old| old.image.id == topic.id);
            if old.is_none_or(|old| !Arc::ptr_eq(&old.image, topic) || self.lacks_replicas(old)) {
                changed.push((topic, old));
            }
        }
        // Many logs at a time: what opening one and beginning an epoch wait for is the disk.
        let mut rest = &changed[..];
        while !rest.is_empty() {
            let mut replica_count = 0;
            let fits = |(topic, _): &&Changed<'_, R>| {
                replica_count += topic.partitions.len();
                replica_count <= REPLICAS_AT_ONCE
            };
            let (now, later) = rest.split_at(rest.iter().take_while(fits).count().max(1));
            rest = later;
            let applied = join_all(now.iter().map(|(topic, old)| self.apply_topic(topic, old.map(Arc::as_ref), &epochs))).await;
            let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
            for (replicas, error) in applied {
                failed = failed.or(error);
                maps.by_id.insert(replicas.image.id, Arc::clone(&replicas));
                maps.by_name.insert(Arc::clone(&replicas.image.name), replicas);
            }
        }
        if are_others {
            for partition in self.partitions() {
                partition.registered_brokers(&epochs);
                self.fetch_from_leader(&partition);
            }
        }
        let is_assigned = |id: &TopicPartition| image.partition(&id.topic, id.partition).is_some_and(|assigned| assigned.replicas.contains(&self.broker_id));
        self.rules.troubles.retain(is_assigned);
        (deleted, failed.map_or(Ok(()), Err))
    }

    /// Makes the replicas of one topic equal to what its image says; with the first error.
    async fn apply_topic(
        &self,
        topic: &Arc<TopicImage>,
        old: Option<&TopicReplicas<R>>,
        epochs: &BTreeMap<i32, i64>,
    ) -> (Arc<TopicReplicas<R>>, Option<PartitionError>) {
        let topic_config = (self.resolve)(topic);
        let config = log_config(&topic_config, self.config.producer_id_expiration_ms);
        let min_isr = topic_config.min_insync_replicas;
        let assignments: Vec<(usize, &PartitionImage)> = topic.partitions.iter().enumerate().collect();
        let (mut partitions, mut failed) = (Vec::with_capacity(assignments.len()), None);
        for some in assignments.chunks(REPLICAS_AT_ONCE) {
            for applied in join_all(some.iter().map(|(number, assigned)| self.apply_partition(topic, *number, assigned, old, &config, min_isr))).await {
                partitions.push(applied.unwrap_or_else(|error| {
                    failed.get_or_insert(error);
                    None
                }));
            }
        }
        for (partition, assigned) in partitions.iter().zip(&topic.partitions).filter_map(|(partition, assigned)| Some((partition.as_ref()?, assigned))) {
            partition.registered_brokers(epochs);
            let is_named = |list: &[String]| is_listed(list, partition.id().partition, self.broker_id);
            let is_behind = !assigned.isr.contains(&self.broker_id);
            let as_follower = is_behind && is_named(&topic_config.follower_replication_throttled_replicas);
            partition.set_throttled(is_named(&topic_config.leader_replication_throttled_replicas), as_follower);
        }
        (Arc::new(TopicReplicas { image: Arc::clone(topic), config: topic_config, partitions }), failed)
    }

    async fn apply_partition(
        &self,
        topic: &TopicImage,
        number: usize,
        assigned: &PartitionImage,
        old: Option<&TopicReplicas<R>>,
        config: &LogConfig,
        min_isr: i32,
    ) -> Result<Option<Arc<Partition<R>>>, PartitionError> {
        let known = old.and_then(|old| old.partitions.get(number)).and_then(Option::as_ref);
        let id = TopicPartition::new(Arc::clone(&topic.name), number as i32);
        self.look_for_trouble(&id, assigned, known).await;
        let known = known.filter(|_| self.rules.troubles.forbids(&id).is_none());
        let was_assigned = old.and_then(|old| old.image.partitions.get(number)).is_some_and(|before| before.replicas.contains(&self.broker_id));
        if was_assigned && !assigned.replicas.contains(&self.broker_id) {
            // A reassignment is done with this replica: its successors have what was committed.
            if let Err(error) = self.give_up(&id, known).await {
                tracing::error!(partition = %id, %error, "a replica that is assigned to other brokers now could not be deleted");
                return Err(PartitionError::Log(error));
            }
            return Ok(None);
        }
        let followed = self.follow(id.clone(), topic.id, assigned, known, config, min_isr).await;
        self.note_room(&id, assigned, known.is_none(), &followed);
        followed
    }

    /// Ends what a replica does whose log is offline; has one begin anew whose log is lost, once the controller counts it as in sync nowhere, or has made it the leader
    /// all the same (an unclean election).
    async fn look_for_trouble(&self, id: &TopicPartition, assigned: &PartitionImage, known: Option<&Arc<Partition<R>>>) {
        if let Some(partition) = known
            && matches!(partition.log().check_online(), Err(LogError::Offline { .. }))
        {
            self.rules.troubles.went_offline(id);
            self.fetchers.remove(id);
            partition.stop().await;
            partition.resign();
        }
        let is_heard = || !assigned.isr.contains(&self.broker_id) || (assigned.leader == self.broker_id && !self.led_in_earlier_life(assigned));
        if self.rules.troubles.is_lost(id) && is_heard() {
            tracing::warn!(partition = %id, "what this replica had is lost with its log directory: it begins anew");
            self.rules.troubles.begins_anew(id);
        }
    }

    /// A replica that has no room for a log, or for the start of an epoch in it, has no room for records either; one that could be made has some.
    fn note_room(&self, id: &TopicPartition, assigned: &PartitionImage, is_new: bool, followed: &Result<Option<Arc<Partition<R>>>, PartitionError>) {
        match followed {
            Err(PartitionError::Log(error)) if error.is_storage_full() && assigned.replicas.len() > 1 => {
                self.rules.troubles.found_no_room(id, self.runtime.now());
            }
            Ok(Some(_)) if is_new => self.rules.troubles.found_room(id),
            _ => {}
        }
    }

    /// Takes in which brokers are registered, in which epochs, and where they listen. Whether that is other than before.
    fn know_brokers(&self, image: &MetadataImage, epochs: &BTreeMap<i32, i64>) -> bool {
        if let Some(epoch) = epochs.get(&self.broker_id) {
            self.set_broker_epoch(*epoch);
        }
        let mut addresses = BTreeMap::new();
        for (id, broker) in &image.brokers {
            if let Some(endpoint) = broker.endpoints.iter().find(|endpoint| endpoint.listener == self.config.inter_broker_listener) {
                addresses.insert(*id, endpoint.address.clone());
            }
        }
        let are_others = std::mem::replace(&mut *self.registered.lock().unwrap_or_else(PoisonError::into_inner), epochs.clone()) != *epochs;
        let mut known = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let listen_elsewhere = addresses.iter().any(|(id, address)| known.get(id) != Some(address));
        // Those that have gone may come back where they were.
        known.extend(addresses);
        are_others || listen_elsewhere
    }

    /// Ends a replica that is assigned to this broker no more, and deletes its log.
    async fn give_up(&self, id: &TopicPartition, known: Option<&Arc<Partition<R>>>) -> Result<(), crate::log::LogError> {
        self.fetchers.remove(id);
        if let Some(partition) = known {
            partition.stop().await;
            partition.resign();
        }
        self.offline.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        tracing::info!(partition = %id, "deleting the replica: the partition is assigned to other brokers");
        self.logs.delete(id).await.map(drop)
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

    /// Whether a replica that this broker is to hold could not be opened, and will not be without another try.
    pub fn is_offline(&self, topic: &str, partition: i32) -> bool {
        self.offline.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&TopicPartition::new(topic, partition))
    }

    /// Whether a replica that this broker is to hold could not be opened: for want of room, say. [`ReplicaManager::apply`] tries again.
    pub fn lacks_any(&self) -> bool {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_name.values().any(|topic| self.lacks_replicas(topic))
    }

    fn lacks_replicas(&self, topic: &TopicReplicas<R>) -> bool {
        let assigned = topic.image.partitions.iter().map(|partition| self.holds(partition));
        topic.partitions.iter().zip(assigned).any(|(partition, assigned)| assigned && partition.is_none())
    }

    /// Whether this broker has a replica to look after: it is assigned one, and if that is the only one, nobody else is said to lead it.
    fn holds(&self, assigned: &PartitionImage) -> bool {
        let is_alone = assigned.replicas.len() == 1;
        assigned.replicas.contains(&self.broker_id) && (!is_alone || assigned.leader == self.broker_id)
    }

    /// Brings one replica, which is there or is to be opened; none if this broker is to hold none.
    async fn follow(
        &self,
        id: TopicPartition,
        topic_id: Uuid,
        assigned: &PartitionImage,
        known: Option<&Arc<Partition<R>>>,
        config: &LogConfig,
        min_isr: i32,
    ) -> Result<Option<Arc<Partition<R>>>, PartitionError> {
        if !self.holds(assigned) {
            if let Some(partition) = known {
                partition.resign();
                self.fetchers.remove(&id);
            }
            return Ok(None);
        }
        let mut order = PartitionOrder {
            leader: assigned.leader,
            leader_epoch: assigned.leader_epoch,
            isr: assigned.isr.clone(),
            partition_epoch: assigned.partition_epoch,
            replicas: assigned.replicas.clone(),
        };
        let partition = match known {
            Some(partition) => {
                partition.reconfigure(config.clone());
                Arc::clone(partition)
            }
            // The only replica leads.
            None if assigned.replicas.len() == 1 => {
                let log = self.opened(&id, topic_id, config).await?;
                Partition::new(id, topic_id, log, assigned.leader_epoch, self.rules.clone())
            }
            None => self.standing(id, topic_id, config).await?,
        };
        if self.led_in_earlier_life(assigned) && !plant!(partition.log().runtime(), "leader-epoch-kept-on-restart") {
            // Nobody leads until the controller, which sees another registration, has raised the epoch. Who leads already in this life goes on.
            order.leader = -1;
        }
        if partition.is_alone() && assigned.replicas.len() == 1 {
            partition.set_leader_epoch(assigned.leader_epoch);
        } else {
            self.give_role(&partition, &order, min_isr).await?;
        }
        Ok(Some(partition))
    }

    /// Whether this broker was made the leader of one of several replicas under an earlier registration than it has: in another life, as far as can be told.
    fn led_in_earlier_life(&self, assigned: &PartitionImage) -> bool {
        let own = self.registered.lock().unwrap_or_else(PoisonError::into_inner).get(&self.broker_id).copied();
        assigned.leader == self.broker_id && assigned.replicas.len() > 1 && own.is_some_and(|own| assigned.leader_broker_epoch < own)
    }

    /// A replica over its log, without a role.
    async fn standing(&self, id: TopicPartition, topic_id: Uuid, config: &LogConfig) -> Result<Arc<Partition<R>>, PartitionError> {
        let log = self.opened(&id, topic_id, config).await?;
        let high_watermark = self.logs.checkpointed_high_watermark(&id).unwrap_or(0);
        Ok(Partition::standing(id, topic_id, log, high_watermark, self.rules.clone()))
    }

    /// Has a replica obey an order, and fetched from whom it then follows.
    async fn give_role(&self, partition: &Arc<Partition<R>>, order: &PartitionOrder, min_isr: i32) -> Result<Verdict, PartitionError> {
        partition.set_min_isr(min_isr);
        let verdict = partition.obey(order).await.map_err(PartitionError::Log)?;
        self.fetch_from_leader(partition);
        if !partition.is_alone() {
            self.lag.watch(partition);
        }
        Ok(verdict)
    }

    /// Has a replica fetched from whom it follows, where that one listens now; from nobody if it follows nobody.
    fn fetch_from_leader(&self, partition: &Arc<Partition<R>>) {
        let Some(leader) = partition.follows() else { return self.fetchers.remove(partition.id()) };
        let address = self.addresses.lock().unwrap_or_else(PoisonError::into_inner).get(&leader).cloned();
        match address {
            Some(address) => self.fetchers.assign(leader, &address, partition),
            None => {
                tracing::warn!(partition = %partition.id(), leader, "nobody has told where the leader listens: nothing is fetched until somebody does");
                self.fetchers.remove(partition.id());
            }
        }
    }

    /// A replica's log; why it is offline is told once.
    async fn opened(&self, id: &TopicPartition, topic_id: Uuid, config: &LogConfig) -> Result<Log<R>, PartitionError> {
        match self.open(id, topic_id, config).await {
            Ok(log) => {
                self.offline.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
                Ok(log)
            }
            Err(error) => {
                if matches!(error, PartitionError::Offline { .. }) && !self.rules.troubles.is_lost(id) {
                    self.rules.troubles.went_offline(id);
                }
                let why = error.to_string();
                let told = self.offline.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), why.clone());
                if told.is_none_or(|told| told != why) {
                    tracing::error!(partition = %id, %error, "the partition is offline");
                }
                Err(error)
            }
        }
    }

    /// LeaderAndIsr: obeys, partition by partition.
    pub async fn leader_and_isr(&self, request: &LeaderAndIsrRequest) -> LeaderAndIsrResponse {
        let _one = self.orders.lock().await;
        if let Err(error) = self.fence.lock().unwrap_or_else(PoisonError::into_inner).admit(&request.sender) {
            return LeaderAndIsrResponse { error_code: error.code(), topics: Vec::new() };
        }
        for leader in &request.live_leaders {
            if let Ok(port) = u16::try_from(leader.port) {
                let address = HostPort { host: leader.host.clone(), port };
                self.addresses.lock().unwrap_or_else(PoisonError::into_inner).insert(leader.broker_id, address);
            }
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let partitions = self.order_topic(topic).await;
            topics.push(TopicErrors { name: topic.name.clone(), id: topic.id, partitions });
        }
        LeaderAndIsrResponse { error_code: 0, topics }
    }

    async fn order_topic(&self, topic: &LeaderAndIsrTopic) -> Vec<(i32, i16)> {
        let old = self.topic(&topic.name);
        if let Some(old) = &old
            && old.image.id != topic.id
        {
            return topic.partitions.iter().map(|partition| (partition.partition, Error::InconsistentTopicId.code())).collect();
        }
        let name: Arc<str> = Arc::from(topic.name.as_str());
        let nobody = PartitionImage { leader_epoch: -1, partition_epoch: -1, ..PartitionImage::default() };
        let mut image = match &old {
            Some(old) => TopicImage::clone(&old.image),
            None => TopicImage {
                name: Arc::clone(&name),
                id: topic.id,
                partitions: Vec::new(),
                config: BTreeMap::new(),
                internal: crate::controller::image::is_internal(&topic.name),
            },
        };
        let topic_config = (self.resolve)(&image);
        let config = log_config(&topic_config, self.config.producer_id_expiration_ms);
        let mut partitions = old.as_ref().map(|old| old.partitions.clone()).unwrap_or_default();
        let mut errors = Vec::with_capacity(topic.partitions.len());
        for state in &topic.partitions {
            // A number without bound would be a length without bound.
            let Some(number) = usize::try_from(state.partition).ok().filter(|number| *number < PARTITIONS_MAX) else {
                errors.push((state.partition, Error::InvalidRequest.code()));
                continue;
            };
            let order = PartitionOrder::from(state);
            let known = partitions.get(number).and_then(Option::as_ref);
            let id = TopicPartition::new(Arc::clone(&name), state.partition);
            let code = match self.order_partition(id, topic.id, &order, known, &config, topic_config.min_insync_replicas).await {
                Ok((partition, verdict)) => {
                    if number >= partitions.len() {
                        partitions.resize(number + 1, None);
                        image.partitions.resize(number + 1, nobody.clone());
                    }
                    partitions[number] = Some(partition);
                    if matches!(verdict, Verdict::Lead | Verdict::Follow | Verdict::Update | Verdict::Stand) {
                        image.partitions[number] = PartitionImage {
                            leader: order.leader,
                            leader_epoch: order.leader_epoch,
                            replicas: order.replicas,
                            isr: order.isr,
                            partition_epoch: order.partition_epoch,
                            ..PartitionImage::default()
                        };
                    }
                    if let Verdict::Refuse(error) = verdict { error.code() } else { 0 }
                }
                Err(error) => error.code(),
            };
            errors.push((state.partition, code));
        }
        let replicas = Arc::new(TopicReplicas { image: Arc::new(image), config: topic_config, partitions });
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.insert(topic.id, Arc::clone(&replicas));
        maps.by_name.insert(name, replicas);
        errors
    }

    async fn order_partition(
        &self,
        id: TopicPartition,
        topic_id: Uuid,
        order: &PartitionOrder,
        known: Option<&Arc<Partition<R>>>,
        config: &LogConfig,
        min_isr: i32,
    ) -> Result<(Arc<Partition<R>>, Verdict), Error> {
        if !order.replicas.contains(&self.broker_id) {
            return Err(Error::UnknownTopicOrPartition);
        }
        let partition = match known {
            Some(partition) => Arc::clone(partition),
            None => match self.standing(id, topic_id, config).await {
                Ok(partition) => partition,
                Err(PartitionError::InconsistentTopicId { .. }) => return Err(Error::InconsistentTopicId),
                Err(_) => return Err(Error::KafkaStorageError),
            },
        };
        match self.give_role(&partition, order, min_isr).await {
            Ok(verdict) => Ok((partition, verdict)),
            Err(error) => {
                tracing::error!(partition = %partition.id(), %error, "an order of the controller could not be carried out");
                Err(Error::KafkaStorageError)
            }
        }
    }

    /// StopReplica: ends roles, and deletes logs where it says so.
    pub async fn stop_replica(&self, request: &StopReplicaRequest) -> StopReplicaResponse {
        let _one = self.orders.lock().await;
        if let Err(error) = self.fence.lock().unwrap_or_else(PoisonError::into_inner).admit(&request.sender) {
            return StopReplicaResponse { error_code: error.code(), topics: Vec::new() };
        }
        let mut topics = Vec::with_capacity(request.topics.len());
        for topic in &request.topics {
            let mut errors = TopicErrors { name: topic.name.clone(), id: Uuid::nil(), partitions: Vec::with_capacity(topic.partitions.len()) };
            for stop in &topic.partitions {
                let id = TopicPartition::new(topic.name.as_str(), stop.partition);
                let known = self.partition(&topic.name, stop.partition);
                let code = match judge_stop(known.as_ref().and_then(|partition| partition.obeyed()), stop.leader_epoch) {
                    Err(error) => error.code(),
                    Ok(()) => self.stop(&id, known, stop.delete).await.err().map_or(0, |error| error.code()),
                };
                errors.partitions.push((stop.partition, code));
            }
            topics.push(errors);
        }
        StopReplicaResponse { error_code: 0, topics }
    }

    async fn stop(&self, id: &TopicPartition, known: Option<Arc<Partition<R>>>, delete: bool) -> Result<(), Error> {
        self.fetchers.remove(id);
        if let Some(partition) = &known {
            partition.stop().await;
        }
        if !delete {
            return Ok(());
        }
        if let Some(partition) = known {
            partition.mark_deleted();
            self.forget(id);
        }
        match self.logs.delete(id).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(partition = %id, %error, "a replica that was to go could not be deleted");
                Err(Error::KafkaStorageError)
            }
        }
    }

    /// Takes a replica out of the maps; its topic with the last.
    fn forget(&self, id: &TopicPartition) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        let Some(old) = maps.by_name.get(&id.topic).cloned() else { return };
        let mut partitions = old.partitions.clone();
        if let Some(partition) = usize::try_from(id.partition).ok().and_then(|number| partitions.get_mut(number)) {
            *partition = None;
        }
        if partitions.iter().all(Option::is_none) {
            maps.by_name.remove(&id.topic);
            maps.by_id.remove(&old.image.id);
            return;
        }
        let replicas = Arc::new(TopicReplicas { image: Arc::clone(&old.image), config: old.config.clone(), partitions });
        maps.by_id.insert(old.image.id, Arc::clone(&replicas));
        maps.by_name.insert(Arc::clone(&id.topic), replicas);
    }

    async fn open(&self, id: &TopicPartition, topic_id: Uuid, config: &LogConfig) -> Result<Log<R>, PartitionError> {
        if let Some(why) = self.rules.troubles.forbids(id) {
            return Err(PartitionError::Offline { partition: id.clone(), why: Arc::from(why) });
        }
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
