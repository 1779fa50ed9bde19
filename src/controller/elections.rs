//! Who leads a partition and who is in sync, after brokers come, go, ask to leave or propose: pure. Each rule takes a partition as it is and returns it as it is
//! to be; the edge writes the difference with a compare-and-set on the partition's epoch.
//!
//! - A leader is elected from the in-sync replicas that are registered, in the order of the assignment. From others only by an unclean election, which is allowed
//!   by `unclean.leader.election.enable` or asked for (ElectLeaders); then the leader alone is in sync.
//! - A broker that has gone leaves the in-sync replicas, as long as one stays: the others need not wait `replica.lag.time.max.ms` for it. Where nobody is left to
//!   lead, the in-sync replicas stay as they are: each of them has all that was committed.
//! - Every leadership has its epoch, also one that the same broker gets in another life ([`PartitionImage::leader_broker_epoch`]).
//! - A broker whose log directory is another than before has nothing of what it had: it is in sync nowhere.
//! - What a broker says of one of its replicas holds for that one as the like holds for a broker: offline, as if it had gone; lost, as if its directory were
//!   another; full, as if it were about to leave.

use std::collections::{BTreeMap, BTreeSet};

use kafka_protocol::error::ResponseError as Error;

use super::image::{BrokerInfo, PartitionImage};
use super::troubles::{Here, Troubles};
use crate::plant;
use crate::runtime::Runtime;

/// No broker.
pub(super) const NOBODY: i32 = -1;

/// The brokers as the controller knows them at the moment.
#[derive(Clone, Copy)]
pub(super) struct Cluster<'a> {
    /// The registered ones.
    pub(super) brokers: &'a BTreeMap<i32, BrokerInfo>,
    /// Those that are registered and on their way out (ControlledShutdown): they get no leadership and do not join.
    pub(super) leaving: &'a BTreeSet<i32>,
    /// Those whose log directory was lost or exchanged since they were in sync.
    pub(super) wiped: &'a BTreeSet<i32>,
    /// What brokers say of their replicas.
    pub(super) troubles: &'a Troubles,
    /// What they say of the partition that is judged.
    pub(super) here: &'a Here,
    /// Off but in tests.
    pub(super) plants: Plants,
}

/// Historic bugs, for the tests that must find them. All off anywhere else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plants {
    /// Whoever is there is elected, in sync or not.
    pub(super) elects_anybody: bool,
    /// A leader that was restarted goes on in its epoch.
    pub(super) keeps_epoch: bool,
    /// A broker that comes back with another log directory stays in sync.
    pub(super) forgets_directories: bool,
}

impl Plants {
    /// Those that a simulation has switched on.
    pub(super) fn of<R: Runtime>(rt: &R) -> Self {
        Self {
            elects_anybody: plant!(rt, "leader-out-of-isr"),
            keeps_epoch: plant!(rt, "leader-epoch-kept-on-restart"),
            forgets_directories: plant!(rt, "wiped-replica-in-sync"),
        }
    }
}

impl Cluster<'_> {
    /// The brokers as they are for one partition.
    pub(super) fn at(self, topic: &str, number: i32) -> Self {
        Self { here: self.troubles.here(topic, number), ..self }
    }

    /// Whether it is there, and has a replica that can be used.
    fn is_registered(&self, id: i32) -> bool {
        self.brokers.contains_key(&id) && !self.here.offline.contains(&id)
    }

    /// Whether what it had is gone with its log directory.
    fn is_wiped(&self, id: i32) -> bool {
        (self.wiped.contains(&id) || self.here.lost.contains(&id)) && !self.plants.forgets_directories
    }

    /// Whether it is there, with the log that it had.
    fn is_alive(&self, id: i32) -> bool {
        self.is_registered(id) && !self.is_wiped(id)
    }

    /// Whether it is on its way out: of the cluster, or of this partition.
    fn is_leaving(&self, id: i32) -> bool {
        self.leaving.contains(&id) || self.here.full.contains(&id)
    }

    fn may_lead(&self, id: i32) -> bool {
        self.is_alive(id) && !self.is_leaving(id)
    }

    fn epoch(&self, id: i32) -> i64 {
        self.brokers.get(&id).map_or(-1, |broker| broker.epoch)
    }
}

/// `partition` under `leader` in another epoch.
fn led_by(partition: &PartitionImage, leader: i32, isr: Vec<i32>, cluster: &Cluster<'_>) -> PartitionImage {
    PartitionImage { leader, leader_epoch: partition.leader_epoch + 1, leader_broker_epoch: cluster.epoch(leader), isr, ..partition.clone() }
}

/// A new partition: all its replicas that are there are in sync, for there is nothing to have yet. If none is there, all are: each may lead when it comes.
pub(super) fn created(replicas: &[i32], cluster: &Cluster<'_>) -> PartitionImage {
    let there: Vec<i32> = replicas.iter().copied().filter(|id| cluster.may_lead(*id)).collect();
    let leader = there.first().copied().unwrap_or(NOBODY);
    PartitionImage {
        leader,
        leader_epoch: 0,
        leader_broker_epoch: cluster.epoch(leader),
        replicas: replicas.to_vec(),
        isr: if there.is_empty() { replicas.to_vec() } else { there },
        partition_epoch: 0,
        adding: Vec::new(),
        removing: Vec::new(),
    }
}

/// The leader that a partition gets when it needs one: the first assigned replica that is in sync and may lead; one that is about to leave if there is no other.
fn elect(partition: &PartitionImage, cluster: &Cluster<'_>) -> Option<i32> {
    let in_sync = || partition.replicas.iter().copied().filter(|id| partition.isr.contains(id) || cluster.plants.elects_anybody);
    in_sync().find(|id| cluster.may_lead(*id)).or_else(|| in_sync().find(|id| cluster.is_alive(*id)))
}

/// The partition after brokers came, went, or came back in another life; `None` if it stays as it is.
pub(super) fn reviewed(partition: &PartitionImage, cluster: &Cluster<'_>, may_be_unclean: bool) -> Option<PartitionImage> {
    let had: Vec<i32> = partition.isr.iter().copied().filter(|id| !cluster.is_wiped(*id)).collect();
    let stays = cluster.is_alive(partition.leader) && had.contains(&partition.leader);
    let of_those_who_have = PartitionImage { isr: had, ..partition.clone() };
    let leader = if stays { Some(partition.leader) } else { elect(&of_those_who_have, cluster) };
    let next = match leader {
        Some(leader) => {
            let mut isr: Vec<i32> = of_those_who_have.isr.iter().copied().filter(|id| cluster.is_registered(*id)).collect();
            if cluster.plants.elects_anybody && !isr.contains(&leader) {
                isr.push(leader);
            }
            // Another life of the leader: what it wrote unsynced in the former one may be gone, and the same epoch must not name other records.
            if stays && (cluster.epoch(leader) == partition.leader_broker_epoch || cluster.plants.keeps_epoch) {
                PartitionImage { isr, ..partition.clone() }
            } else {
                led_by(partition, leader, isr, cluster)
            }
        }
        None => match uncleanly(partition, cluster).filter(|_| may_be_unclean) {
            Some(next) => next,
            None if partition.leader == NOBODY => of_those_who_have,
            None => led_by(&of_those_who_have, NOBODY, of_those_who_have.isr.clone(), cluster),
        },
    };
    // Who has no room hands over, as at a controlled stop. Where nobody leads it would only be missed.
    let next = cluster.here.full.iter().fold(next, |next, id| left(&next, *id, cluster).filter(|_| next.leader != NOBODY).unwrap_or(next));
    (next != *partition).then_some(next)
}

/// An unclean election: whoever is there leads, and what it does not have is lost. One whose log was not exchanged first.
fn uncleanly(partition: &PartitionImage, cluster: &Cluster<'_>) -> Option<PartitionImage> {
    let there = || partition.replicas.iter().copied().filter(|id| cluster.is_registered(*id));
    let leader = there().find(|id| cluster.may_lead(*id)).or_else(|| there().find(|id| cluster.is_alive(*id))).or_else(|| there().next())?;
    Some(led_by(partition, leader, vec![leader], cluster))
}

/// What a leader proposes (AlterPartition).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IsrChange {
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The epoch of the partition that is to be changed.
    pub partition_epoch: i32,
    /// The in-sync replicas, each with the broker epoch that the leader knows; −1 for one that it does not know.
    pub isr: Vec<(i32, i64)>,
}

/// Judges the proposal of broker `from`; `Ok(None)` if the partition is as proposed already. The rules and their errors are those of KIP-497 and KIP-903.
///
/// # Errors
/// INVALID_REQUEST if `from` does not lead it, if the proposal leaves the leader out or names others than replicas; FENCED_LEADER_EPOCH and
/// INVALID_UPDATE_VERSION if it is overtaken; NOT_CONTROLLER if it is of a later state than this controller knows; INELIGIBLE_REPLICA if it names a broker that
/// has gone, is leaving, or is in another life.
pub(super) fn proposed(partition: &PartitionImage, from: i32, change: &IsrChange, cluster: &Cluster<'_>) -> Result<Option<PartitionImage>, Error> {
    if change.leader_epoch > partition.leader_epoch || change.partition_epoch > partition.partition_epoch {
        return Err(Error::NotController);
    }
    if change.leader_epoch < partition.leader_epoch {
        return Err(Error::FencedLeaderEpoch);
    }
    let isr: Vec<i32> = partition.replicas.iter().copied().filter(|id| change.isr.iter().any(|(proposed, _)| proposed == id)).collect();
    if partition.leader != from || !isr.contains(&from) || isr.len() != change.isr.len() {
        return Err(Error::InvalidRequest);
    }
    let is_same = isr.iter().collect::<BTreeSet<_>>() == partition.isr.iter().collect::<BTreeSet<_>>();
    if change.partition_epoch < partition.partition_epoch {
        // Its own proposal, whose answer was lost.
        return if is_same { Ok(None) } else { Err(Error::InvalidUpdateVersion) };
    }
    if is_same {
        return Ok(None);
    }
    for (id, epoch) in &change.isr {
        let joins = !partition.isr.contains(id);
        let is_eligible = cluster.is_alive(*id) && (*epoch == -1 || *epoch == cluster.epoch(*id)) && !(joins && cluster.is_leaving(*id));
        if !is_eligible && *id != from {
            return Err(Error::IneligibleReplica);
        }
    }
    let next = PartitionImage { isr, ..partition.clone() };
    Ok(Some(completed(&next, cluster).unwrap_or(next)))
}

/// The partition after broker `id` has asked to leave: another one leads if one can, and the broker is in sync no more. `None` if nothing changes.
pub(super) fn left(partition: &PartitionImage, id: i32, cluster: &Cluster<'_>) -> Option<PartitionImage> {
    let others: Vec<i32> = partition.isr.iter().copied().filter(|other| *other != id).collect();
    if partition.leader != id {
        // The last one stays: it has what was committed.
        return (partition.isr.contains(&id) && !others.is_empty()).then(|| PartitionImage { isr: others, ..partition.clone() });
    }
    let rest = PartitionImage { isr: others, ..partition.clone() };
    let leader = rest.replicas.iter().copied().find(|other| rest.isr.contains(other) && cluster.may_lead(*other))?;
    Some(led_by(partition, leader, rest.isr, cluster))
}

/// A preferred election: the first assigned replica leads.
///
/// # Errors
/// ELECTION_NOT_NEEDED if it does already, PREFERRED_LEADER_NOT_AVAILABLE if it cannot.
pub(super) fn preferred(partition: &PartitionImage, cluster: &Cluster<'_>) -> Result<PartitionImage, Error> {
    let first = partition.replicas.first().copied().unwrap_or(NOBODY);
    if partition.leader == first {
        Err(Error::ElectionNotNeeded)
    } else if partition.isr.contains(&first) && cluster.may_lead(first) {
        let isr = partition.isr.iter().copied().filter(|id| cluster.is_registered(*id)).collect();
        Ok(led_by(partition, first, isr, cluster))
    } else {
        Err(Error::PreferredLeaderNotAvailable)
    }
}

/// An unclean election that was asked for.
///
/// # Errors
/// ELECTION_NOT_NEEDED if there is a leader, ELIGIBLE_LEADERS_NOT_AVAILABLE if no replica is there.
pub(super) fn unclean(partition: &PartitionImage, cluster: &Cluster<'_>) -> Result<PartitionImage, Error> {
    if cluster.is_registered(partition.leader) {
        return Err(Error::ElectionNotNeeded);
    }
    match elect(partition, cluster) {
        // One that is in sync loses nothing.
        Some(leader) => {
            let isr = partition.isr.iter().copied().filter(|id| cluster.is_alive(*id)).collect();
            Ok(led_by(partition, leader, isr, cluster))
        }
        None => uncleanly(partition, cluster).ok_or(Error::EligibleLeadersNotAvailable),
    }
}

/// The partition on its way to other replicas (KIP-455): assigned to those that it gets, and to those that it has until they are no longer needed. A reassignment
/// that is under way is replaced: what it added and is not wanted any more goes again.
///
/// # Errors
/// INVALID_REPLICA_ASSIGNMENT if none of the in-sync replicas would stay: those of a reassignment that is replaced may be the only ones, or there are none, after
/// the loss of a disk. Nothing is changed then.
pub(super) fn reassigned(partition: &PartitionImage, target: &[i32], cluster: &Cluster<'_>) -> Result<PartitionImage, Error> {
    // What it had before any reassignment began.
    let origin: Vec<i32> = partition.replicas.iter().copied().filter(|id| !partition.adding.contains(id)).collect();
    let adding: Vec<i32> = target.iter().copied().filter(|id| !origin.contains(id)).collect();
    let removing: Vec<i32> = origin.iter().copied().filter(|id| !target.contains(id)).collect();
    let replicas: Vec<i32> = target.iter().copied().chain(removing.iter().copied()).collect();
    let next = narrowed(&PartitionImage { adding, removing, ..partition.clone() }, replicas, cluster).ok_or(Error::InvalidReplicaAssignment)?;
    Ok(completed(&next, cluster).unwrap_or(next))
}

/// The partition without the reassignment that is under way; `None` if there is none, or if what it had before cannot lead.
pub(super) fn cancelled(partition: &PartitionImage, cluster: &Cluster<'_>) -> Option<PartitionImage> {
    if !partition.is_reassigning() {
        return None;
    }
    let origin: Vec<i32> = partition.replicas.iter().copied().filter(|id| !partition.adding.contains(id)).collect();
    narrowed(&PartitionImage { adding: Vec::new(), removing: Vec::new(), ..partition.clone() }, origin, cluster)
}

/// The partition after its reassignment, if all that it gets are in sync; `None` as long as not.
pub(super) fn completed(partition: &PartitionImage, cluster: &Cluster<'_>) -> Option<PartitionImage> {
    if !partition.is_reassigning() {
        return None;
    }
    let target: Vec<i32> = partition.replicas.iter().copied().filter(|id| !partition.removing.contains(id)).collect();
    if !target.iter().all(|id| partition.isr.contains(id)) {
        return None;
    }
    narrowed(&PartitionImage { adding: Vec::new(), removing: Vec::new(), ..partition.clone() }, target, cluster)
}

/// `partition` assigned to `replicas` alone, under one of them; always in another epoch, so that no answer to an earlier assignment is mistaken for one to this.
/// `None` if none of them can lead what another one leads now.
fn narrowed(partition: &PartitionImage, replicas: Vec<i32>, cluster: &Cluster<'_>) -> Option<PartitionImage> {
    let isr: Vec<i32> = partition.isr.iter().copied().filter(|id| replicas.contains(id)).collect();
    let next = PartitionImage { replicas, isr: isr.clone(), ..partition.clone() };
    let leader = if next.replicas.contains(&partition.leader) { partition.leader } else { elect(&next, cluster).unwrap_or(NOBODY) };
    if isr.is_empty() || (leader == NOBODY && partition.leader != NOBODY) {
        return None;
    }
    Some(led_by(&next, leader, isr, cluster))
}

#[cfg(test)]
#[path = "elections_tests.rs"]
mod tests;
