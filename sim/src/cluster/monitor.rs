//! What must hold in a cluster at every moment, looked at from within: who leads what, what the brokers' metadata says, what the replicas' logs hold.
//!
//! | check | promise |
//! |---|---|
//! | `one-leader` | nobody else leads a partition in the same leader epoch, not even a later life of the same broker (W9) |
//! | `leader-epoch` | on one broker a partition's leader epoch never goes back |
//! | `leader-watermark` | the high watermark of a leader never goes back within its epoch, nor beyond its log (W5) |
//! | `one-controller` | a controller epoch has one controller |
//! | `controller-fence` | a controller writes no partition's state after the next one was elected |
//! | `metadata` | one version of a partition's state says the same to everybody; its leader is one of the in-sync replicas |
//! | `unclean-election` | nobody is elected who was not in sync, unless the topic allows it (W7) |
//! | `min-isr` | a high watermark does not rise while fewer than `min.insync.replicas` are in sync |
//! | `log-matching` | below a high watermark all replicas have the same batches: offsets, leader epochs, checksums (W4) |
//! | `leader-completeness` | who leads in the newest epoch has everything below every high watermark there ever was (W1) |
//! | `isr-durability` | every replica that is in sync to the newest leader, or to the ensemble in the same leader epoch, has everything below its high watermark on disk (W2, W3) |

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ottla::controller::image::{MetadataImage, PartitionImage};
use ottla::controller::znodes;
use ottla::coordination::Coordination;
use ottla::coordination::op::ANY_VERSION;
use ottla::runtime::HostPort;
use uuid::Uuid;

use super::hosts::Cluster;
use super::logs::{Batches, Disk};
use super::plan::{OFFSETS_TOPIC, PORT};
use crate::clients::history::{History, Place};
use crate::clients::link::Authority;
use crate::runtime::SimRuntime;
use crate::verdict::Verdict;
use crate::world::World;

/// Between two looks at roles and metadata.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Between two looks at the logs, in looks.
const LOGS_EVERY: u64 = 25;

/// Who led in an epoch.
#[derive(Clone, Copy, Debug)]
struct Led {
    broker: usize,
    life: u32,
    high_watermark: i64,
    /// Whether too few replicas were in sync for anything to be committed.
    lacks_replicas: bool,
}

/// The newest that any broker knew of a partition's state.
#[derive(Clone, Debug)]
pub struct View {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The state.
    pub state: PartitionImage,
}

/// What is committed of a partition.
#[derive(Debug, Default)]
struct Truth {
    batches: Batches,
    end: i64,
}

/// What a partition's state said: leader, leader epoch, in-sync replicas.
type Said = (i32, i32, Vec<i32>);

/// A version of a partition's state, as the ensemble has it.
#[derive(Clone, Debug)]
struct Written {
    version: i32,
    /// The transaction; 0 where only a broker told of it.
    zxid: i64,
    controller_epoch: i32,
    leader_epoch: i32,
    isr: Vec<i32>,
}

/// All that is looked at of one replica's role: as long as it stays the same there is nothing new to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Role {
    life: u32,
    topic_id: Uuid,
    number: i32,
    leader_epoch: i32,
    leads: bool,
    is_deleted: bool,
    high_watermark: i64,
    in_sync_count: Option<usize>,
}

#[derive(Default)]
struct State {
    led: BTreeMap<(Uuid, i32, i32), Led>,
    /// The newest epoch of each partition in which anybody led, and who did.
    newest: BTreeMap<(Uuid, i32), (i32, usize)>,
    /// The leader epochs by broker and life.
    epochs: BTreeMap<(usize, u32, Uuid, i32), i32>,
    /// What each version of a state said.
    told: BTreeMap<(Uuid, i32, i32), Said>,
    views: BTreeMap<Place, View>,
    /// The newest version of each partition's state that any member of the ensemble had.
    written: BTreeMap<Place, Written>,
    /// The members of the ensemble that have served.
    served: BTreeSet<usize>,
    /// Each broker's roles when they were looked at last, in the order of the partitions.
    roles: Vec<Vec<Role>>,
    controllers: BTreeMap<i32, i32>,
    /// The images that were looked at last.
    images: BTreeMap<usize, Arc<MetadataImage>>,
    disks: Vec<Disk>,
    truth: BTreeMap<Place, Truth>,
    /// Up to where a broker's log was held against what is committed, by its life.
    compared: BTreeMap<(usize, u32, Place), i64>,
    /// Disks that were lost, until the broker has caught up: by partition.
    wiped: BTreeSet<(usize, Place)>,
    looks: u64,
}

/// What a future brings that waits for nothing.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(brought) => Some(brought),
        Poll::Pending => None,
    }
}

/// The newer of what brokers know and what the ensemble has.
fn newest_version(view: Option<&View>, written: Option<&Written>) -> Option<Written> {
    let known = view.map(|View { state, .. }| Written {
        version: state.partition_epoch,
        zxid: 0,
        controller_epoch: -1,
        leader_epoch: state.leader_epoch,
        isr: state.isr.clone(),
    });
    known.into_iter().chain(written.cloned()).max_by_key(|written| written.version)
}

/// Looks at everything from time to time, and ends the run when something is wrong.
pub struct Monitor {
    cluster: Arc<Cluster>,
    world: World,
    history: Arc<Mutex<History>>,
    /// The topics that nobody deletes, and that are looked at in depth, with their `min.insync.replicas`.
    min_isr: BTreeMap<String, usize>,
    /// The topics that may be led by a replica that is not in sync.
    unclean: BTreeSet<String>,
    offsets_partition_count: i32,
    state: Mutex<State>,
}

impl Authority for Monitor {
    fn is_coordinator(&self, group: &str, address: &HostPort) -> bool {
        let partition = self.partition_of(group);
        let mut state = self.state();
        self.look_at_roles(&mut state);
        let Some((_, newest)) = state.views.get(&(OFFSETS_TOPIC.to_owned(), partition)).and_then(|view| state.newest.get(&(view.topic_id, partition))) else {
            return false;
        };
        self.cluster.brokers[*newest].name() == address.host && address.port == PORT
    }
}

impl Monitor {
    /// One that has not looked yet.
    pub fn new(
        cluster: &Arc<Cluster>,
        world: &World,
        history: &Arc<Mutex<History>>,
        min_isr: BTreeMap<String, usize>,
        unclean: BTreeSet<String>,
        offsets_partition_count: i32,
    ) -> Arc<Self> {
        let disks = cluster.brokers.iter().map(|_| Disk::default()).collect();
        Arc::new(Self {
            cluster: cluster.clone(),
            world: world.clone(),
            history: history.clone(),
            min_isr,
            unclean,
            offsets_partition_count,
            state: Mutex::new(State { disks, roles: vec![Vec::new(); cluster.brokers.len()], ..State::default() }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The partition of the offsets topic that a group belongs to: Java's `String.hashCode`, as Kafka counts it.
    pub fn partition_of(&self, group: &str) -> i32 {
        let hash = group.encode_utf16().fold(0_i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)));
        (hash & i32::MAX) % self.offsets_partition_count.max(1)
    }

    /// Looks until the run ends.
    pub async fn run(self: Arc<Self>) {
        loop {
            self.look();
            self.world.sleep(LOOK_EVERY).await;
        }
    }

    /// One look; what is found wrong ends the run.
    pub fn look(&self) {
        let mut state = self.state();
        state.looks += 1;
        self.look_at_roles(&mut state);
        if state.looks.is_multiple_of(LOGS_EVERY) {
            self.look_at_tree(&mut state);
            self.look_at_logs(&mut state);
        }
        drop(state);
        self.judge();
    }

    /// Ends the run if anything is broken.
    pub fn judge(&self) {
        let history = self.history();
        if let Some(first) = history.violations().first() {
            self.world.fail(Verdict::Correctness { invariant: first.check.to_owned(), detail: first.what.clone() });
        }
    }

    /// The newest that anybody knew of every partition.
    pub fn views(&self) -> BTreeMap<Place, View> {
        self.state().views.clone()
    }

    /// A broker's disk was lost, with what it held of these partitions.
    pub fn wiped(&self, broker: usize, places: impl Iterator<Item = Place>) {
        let mut state = self.state();
        for place in places {
            state.wiped.insert((broker, place));
        }
    }

    /// What a partition had is lost, as it may be.
    pub fn forget(&self, place: &Place) {
        let mut state = self.state();
        state.truth.remove(place);
        state.compared.retain(|(_, _, known), _| known != place);
    }

    fn look_at_roles(&self, state: &mut State) {
        for (index, life, broker) in self.cluster.living() {
            let image = broker.controller().image();
            if !state.images.get(&index).is_some_and(|seen| Arc::ptr_eq(seen, &image)) {
                self.look_at_image(state, index, &image);
                state.images.insert(index, image);
            }
            let partitions = broker.replicas().partitions();
            state.roles[index].truncate(partitions.len());
            for (at, partition) in partitions.into_iter().enumerate() {
                let (id, number, epoch) = (partition.topic_id(), partition.id().partition, partition.leader_epoch());
                let place = || (partition.id().topic.to_string(), number);
                let leads = partition.leads();
                let (high_watermark, log_end) = (partition.high_watermark(), partition.log().log_end_offset());
                if leads && high_watermark > log_end {
                    let what = format!("{:?} epoch {epoch}: the high watermark is {high_watermark}, the log ends at {log_end}", place());
                    self.history().broken_at(&place(), "leader-watermark", what);
                }
                let role = Role {
                    life,
                    topic_id: id,
                    number,
                    leader_epoch: epoch,
                    leads,
                    is_deleted: partition.is_deleted(),
                    high_watermark,
                    in_sync_count: if leads { partition.in_sync_count() } else { None },
                };
                // What is enough depends on the metadata too.
                let may_lack = role.in_sync_count.is_some_and(|count| self.min_isr.values().any(|least| count < *least));
                match state.roles[index].get_mut(at) {
                    Some(before) if *before == role && !may_lack => continue,
                    Some(before) => *before = role,
                    None => state.roles[index].push(role),
                }
                let known = state.epochs.entry((index, life, id, number)).or_insert(epoch);
                if epoch < *known {
                    let what = format!("{:?}: leader epoch {epoch} on broker {} after {known}", place(), index + 1);
                    self.history().broken("leader-epoch", what);
                }
                *known = epoch;
                if !leads || role.is_deleted {
                    continue;
                }
                let led = state.led.entry((id, number, epoch)).or_insert(Led { broker: index, life, high_watermark, lacks_replicas: false });
                // The only replica there is cannot be taken for another one.
                if led.broker != index || (led.life != life && !partition.is_alone()) {
                    let what = format!(
                        "{:?} epoch {epoch}: broker {} in its life {life} leads it, and broker {} in its life {} did",
                        place(),
                        index + 1,
                        led.broker + 1,
                        led.life
                    );
                    self.history().broken("one-leader", what);
                }
                if led.life == life && high_watermark < led.high_watermark {
                    let what = format!("{:?} epoch {epoch}: the high watermark went back from {} to {high_watermark}", place(), led.high_watermark);
                    self.history().broken_at(&place(), "leader-watermark", what);
                }
                let in_sync_count = role.in_sync_count.unwrap_or(usize::MAX);
                let replica_count = state.views.get(&place()).map_or(usize::MAX, |view| view.state.replicas.len());
                let lacks_replicas = self.min_isr.get(&place().0).is_some_and(|min_isr| in_sync_count < *min_isr.min(&replica_count));
                if led.life == life && led.lacks_replicas && lacks_replicas && high_watermark > led.high_watermark {
                    let what = format!(
                        "{:?} epoch {epoch}: the high watermark rose from {} to {high_watermark} with {in_sync_count} in-sync replicas",
                        place(),
                        led.high_watermark
                    );
                    self.history().broken_at(&place(), "min-isr", what);
                }
                *led = Led { broker: index, life, high_watermark, lacks_replicas };
                let newest = state.newest.entry((id, number)).or_insert((epoch, index));
                if epoch > newest.0 {
                    *newest = (epoch, index);
                }
            }
        }
    }

    fn look_at_image(&self, state: &mut State, index: usize, image: &MetadataImage) {
        if image.controller_id == index as i32 + 1 && image.controller_epoch > 0 {
            let holder = *state.controllers.entry(image.controller_epoch).or_insert(image.controller_id);
            if holder != image.controller_id {
                let what = format!("epoch {} is that of brokers {holder} and {}", image.controller_epoch, image.controller_id);
                self.history().broken("one-controller", what);
            }
        }
        for topic in image.topics.values() {
            // Without an epoch its state is not there yet.
            for (number, told) in (0..).zip(&topic.partitions).filter(|(_, told)| told.leader_epoch >= 0) {
                let place = (topic.name.to_string(), number);
                let said = (told.leader, told.leader_epoch, told.isr.clone());
                let known = state.told.entry((topic.id, number, told.partition_epoch)).or_insert_with(|| {
                    let note = format!("{place:?} leader {} isr {:?} of {:?}", told.leader, told.isr, told.replicas);
                    self.world.event("state", &[told.partition_epoch as u64, told.leader_epoch as u64], Some(&note));
                    said.clone()
                });
                if *known != said {
                    let what = format!("{place:?}: version {} is {said:?} to broker {}, and was {known:?}", told.partition_epoch, index + 1);
                    self.history().broken("metadata", what);
                }
                if told.leader >= 0 && !told.isr.contains(&told.leader) {
                    let what = format!("{place:?}: version {} has leader {} and in-sync replicas {:?}", told.partition_epoch, told.leader, told.isr);
                    self.history().broken("metadata", what);
                }
                if let Some(before) = state.views.get(&place).filter(|before| before.topic_id == topic.id) {
                    let before = &before.state;
                    let is_elected = told.leader >= 0 && told.leader_epoch > before.leader_epoch && told.partition_epoch > before.partition_epoch;
                    // The last replica that a reassignment waits for may join and be elected in one version.
                    let was_in_sync = before.isr.contains(&told.leader) || before.adding.contains(&told.leader);
                    // With versions between that nobody showed, it may have joined before it was elected.
                    let was_seen = told.partition_epoch == before.partition_epoch + 1;
                    if is_elected && !was_in_sync && self.unclean.contains(&place.0) {
                        self.world.event("unclean election", &[told.leader as u64, told.leader_epoch as u64], Some(&format!("{place:?}")));
                        self.history().may_lose(&place, "an unclean election (unclean.leader.election.enable=true)");
                        state.truth.remove(&place);
                    } else if is_elected && !was_in_sync && was_seen {
                        let what = format!("{place:?}: {} was elected in epoch {}, and in sync were {:?}", told.leader, told.leader_epoch, before.isr);
                        self.history().broken("unclean-election", what);
                    }
                }
                let view = state.views.entry(place).or_insert_with(|| View { topic_id: topic.id, state: told.clone() });
                // Of a topic made again the id is another one, and versions begin anew.
                if view.topic_id != topic.id || view.state.partition_epoch <= told.partition_epoch {
                    *view = View { topic_id: topic.id, state: told.clone() };
                }
            }
        }
    }

    fn look_at_logs(&self, state: &mut State) {
        for (disk, host) in state.disks.iter_mut().zip(&self.cluster.brokers) {
            disk.refresh(host);
        }
        for (index, life, broker) in self.cluster.living() {
            for partition in broker.replicas().partitions() {
                let place = (partition.id().topic.to_string(), partition.id().partition);
                if !self.min_isr.contains_key(&place.0) || self.history().lossy().contains_key(&place) {
                    continue;
                }
                let (high_watermark, log_end) = (partition.high_watermark(), partition.log().log_end_offset());
                let start = partition.log().log_start_offset();
                self.compare(state, (index, life, &place), start, high_watermark.min(log_end));
                let is_newest = state.newest.get(&(partition.topic_id(), place.1)) == Some(&(partition.leader_epoch(), index)) && partition.leads();
                if !is_newest {
                    continue;
                }
                let truth_end = state.truth.get(&place).map_or(0, |truth| truth.end);
                if log_end < truth_end {
                    let what = format!(
                        "{place:?}: broker {} leads in epoch {}, and its log ends at {log_end}; up to {truth_end} is committed",
                        index + 1,
                        partition.leader_epoch()
                    );
                    self.history().broken_at(&place, "leader-completeness", what);
                }
                let mut in_sync = partition.in_sync_replicas().unwrap_or_else(|| vec![index as i32 + 1]);
                let newest = newest_version(state.views.get(&place), state.written.get(&place));
                // One that the controller has taken away may have deleted what it had before the leader hears of it; one that it has taken in counts before.
                if let Some(newest) = newest.filter(|newest| partition.obeyed().is_none_or(|obeyed| obeyed.partition_epoch < newest.version)) {
                    in_sync.retain(|id| newest.isr.contains(id));
                    if newest.leader_epoch == partition.leader_epoch() {
                        in_sync = newest.isr;
                    }
                }
                for other in in_sync.iter().filter_map(|id| self.cluster.index_of(*id)) {
                    let durable_end = state.disks[other].durable_end(&place);
                    if durable_end >= high_watermark {
                        state.wiped.remove(&(other, place.clone()));
                    } else if !state.wiped.contains(&(other, place.clone())) {
                        let what = format!(
                            "{place:?}: the high watermark of broker {} in epoch {} is {high_watermark}, and broker {} of its in-sync replicas {in_sync:?} has {durable_end} on disk",
                            index + 1,
                            partition.leader_epoch(),
                            other + 1
                        );
                        self.history().broken_at(&place, "isr-durability", what);
                    }
                }
            }
        }
    }

    /// The members that live, with their numbers.
    fn members(&self) -> Vec<(usize, Coordination<SimRuntime>)> {
        let living = self.cluster.living();
        let embedded = living.iter().filter_map(|(index, _, broker)| Some((*index, broker.member().cloned()?)));
        embedded.chain((0..self.cluster.members.len()).filter_map(|index| Some((index, self.cluster.member(index)?)))).collect()
    }

    /// The members of the ensemble that have served at some time: they have a log.
    pub fn members_with_logs(&self) -> BTreeSet<usize> {
        self.state().served.clone()
    }

    /// Looks at the states of partitions as the members of the ensemble have them.
    fn look_at_tree(&self, state: &mut State) {
        let places: Vec<Place> = state.views.keys().filter(|place| self.min_isr.contains_key(&place.0)).cloned().collect();
        self.look_at_states(state, &places);
    }

    fn look_at_states(&self, state: &mut State, places: &[Place]) {
        for (number, member) in self.members() {
            if !state.served.contains(&number) && member.is_serving() {
                state.served.insert(number);
            }
            let Some(Ok(elected)) = at_once(member.get(znodes::CONTROLLER_EPOCH)) else { continue };
            let Ok(newest_epoch) = znodes::decode_controller_epoch(&elected.data) else { continue };
            for place in places {
                let path = znodes::state_path(&place.0, place.1);
                let Some(Ok(view)) = at_once(member.get(&path)) else { continue };
                let known = state.written.get(place);
                let written = match known.filter(|known| known.zxid == view.stat.mzxid) {
                    Some(known) => known.clone(),
                    None => match znodes::PartitionState::decode(&path, &view.data) {
                        Ok(told) => Written {
                            version: view.stat.version,
                            zxid: view.stat.mzxid,
                            controller_epoch: told.controller_epoch,
                            leader_epoch: told.leader_epoch,
                            isr: told.isr,
                        },
                        Err(_) => continue,
                    },
                };
                if written.controller_epoch < newest_epoch && written.zxid > elected.stat.mzxid {
                    let what = format!(
                        "{place:?}: version {} was written by the controller of epoch {} (zxid {:#x}) after {newest_epoch} was elected (zxid {:#x})",
                        written.version, written.controller_epoch, written.zxid, elected.stat.mzxid
                    );
                    self.history().broken("controller-fence", what);
                }
                if known.is_none_or(|known| known.version < written.version) {
                    state.written.insert(place.clone(), written);
                }
            }
        }
    }

    /// The newest in-sync replicas of a partition that are known here, or at the ensemble.
    pub fn in_sync(&self, place: &Place) -> Vec<i32> {
        let mut state = self.state();
        self.look_at_states(&mut state, std::slice::from_ref(place));
        newest_version(state.views.get(place), state.written.get(place)).map_or_else(Vec::new, |newest| newest.isr)
    }

    /// The newest broker epoch of a broker that anybody knows; −1 if nobody knows one.
    pub fn broker_epoch(&self, broker_id: i32) -> i64 {
        let epoch = |image: Arc<MetadataImage>| image.brokers.get(&broker_id).map(|broker| broker.epoch);
        self.cluster.living().into_iter().filter_map(|(_, _, broker)| epoch(broker.controller().image())).max().unwrap_or(-1)
    }

    /// An operator deletes `/controller`, which makes the brokers elect another one; whether it was deleted, as far as is known.
    pub async fn depose_controller(&self, avoid: usize) -> bool {
        let living = self.cluster.living();
        let embedded = living.iter().filter(|(index, ..)| *index != avoid).filter_map(|(_, _, broker)| broker.member().cloned());
        let Some(member) = embedded.chain((0..self.cluster.members.len()).filter_map(|index| self.cluster.member(index))).next() else { return false };
        drop(living);
        matches!(self.world.timeout(Duration::from_secs(2), member.delete(znodes::CONTROLLER, ANY_VERSION)).await, Some(Ok(())))
    }

    /// Holds a log against what is committed, up to `end`; what nobody has told before is taken from it.
    fn compare(&self, state: &mut State, (index, life, place): (usize, u32, &Place), start: i64, end: i64) {
        let compared = state.compared.entry((index, life, place.clone())).or_insert(start);
        let from = (*compared).max(start);
        if from >= end {
            return;
        }
        let truth = state.truth.entry(place.clone()).or_insert_with(|| Truth { end: from, ..Truth::default() });
        let mut wrong = None;
        let mut next = from;
        for (base, batch) in state.disks[index].batches(place, from).take_while(|(_, batch)| batch.next_offset <= end) {
            next = batch.next_offset;
            match truth.batches.get(&base) {
                Some(known) if *known == batch => {}
                None if base >= truth.end => {
                    truth.end = batch.next_offset;
                    truth.batches.insert(base, batch);
                }
                // From before anything was told, on a replica that keeps more.
                None if truth.batches.first_key_value().is_none_or(|(first, _)| batch.next_offset <= *first) => {}
                known => {
                    let near = truth.batches.range(..=base).next_back();
                    wrong.get_or_insert(format!(
                        "{place:?} offset {base}: broker {} has {batch:?}, and committed is {known:?} (near it {near:?}, up to {})",
                        index + 1,
                        truth.end
                    ));
                }
            }
        }
        *compared = next;
        if let Some(what) = wrong {
            self.history().broken_at(place, "log-matching", what);
        }
    }

    /// Whether all of `among` have the same log of a partition, to its end; says what differs.
    ///
    /// # Errors
    /// What differs, or is missing.
    pub fn same_logs(&self, place: &Place, among: &[usize]) -> Result<(), String> {
        let mut state = self.state();
        for index in among {
            state.disks[*index].refresh(&self.cluster.brokers[*index]);
        }
        let ranges: Vec<_> = among.iter().map(|index| state.disks[*index].range(place)).collect();
        let named = || among.iter().map(|index| index + 1).zip(&ranges).collect::<Vec<_>>();
        let ends: BTreeSet<i64> = ranges.iter().map(|range| range.map_or(0, |(_, end)| end)).collect();
        if ends.len() > 1 {
            return Err(format!("{place:?}: the logs of brokers {:?} do not end alike", named()));
        }
        let start = ranges.iter().map(|range| range.map_or(0, |(start, _)| start)).max().unwrap_or(0);
        let logs: Vec<Vec<_>> = among.iter().map(|index| state.disks[*index].batches(place, start).filter(|(base, _)| *base >= start).collect()).collect();
        for pair in logs.windows(2) {
            if pair[0] != pair[1] {
                let first = pair[0].iter().zip(&pair[1]).find(|(one, other)| one != other);
                return Err(format!("{place:?}: the logs of brokers {:?} differ, first in {first:?}", named()));
            }
        }
        Ok(())
    }
}
