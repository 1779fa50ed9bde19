//! Orders of the controller, LeaderAndIsr and StopReplica: which are obeyed. Pure.
//!
//! An order is fenced three times: by the controller's epoch (a controller that was replaced and does not know it), by this broker's epoch (an order meant for its
//! former life, KIP-380), and by the partition's leader epoch and version (an order that another one overtook, KIP-570). Replaying an order does no harm.

use kafka_protocol::error::ResponseError as Error;

use crate::wire::control::{EPOCH_DURING_DELETE, LeaderAndIsrPartition, NO_BROKER_EPOCH, NO_EPOCH, Sender};

/// What a partition is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionOrder {
    /// The leader; −1 for none.
    pub leader: i32,
    /// Its epoch.
    pub leader_epoch: i32,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// The version of the partition's state.
    pub partition_epoch: i32,
    /// The assigned brokers.
    pub replicas: Vec<i32>,
}

impl From<&LeaderAndIsrPartition> for PartitionOrder {
    fn from(state: &LeaderAndIsrPartition) -> Self {
        Self {
            leader: state.leader,
            leader_epoch: state.leader_epoch,
            isr: state.isr.clone(),
            partition_epoch: state.partition_epoch,
            replicas: state.replicas.clone(),
        }
    }
}

/// What a replica was ordered last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obeyed {
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The version of the partition's state.
    pub partition_epoch: i32,
}

/// What to do with an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Begin to lead, in a new epoch.
    Lead,
    /// Begin to follow, in a new epoch.
    Follow,
    /// The role and epoch stay; in-sync and assigned replicas, and the version, are new.
    Update,
    /// Neither lead nor follow: nobody leads in this epoch.
    Stand,
    /// It was obeyed before, or overtaken within its epoch.
    Ignore,
    /// Not obeyed.
    Refuse(Error),
}

/// The fence around a broker: what it knows of the controller and of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The newest controller epoch that was seen.
    pub controller_epoch: i32,
    /// The epoch of this broker's registration.
    pub broker_epoch: i64,
}

impl Fence {
    /// Lets an order in, and remembers its controller.
    ///
    /// # Errors
    /// STALE_BROKER_EPOCH for an order to an earlier life of this broker, STALE_CONTROLLER_EPOCH for one of an earlier controller.
    pub fn admit(&mut self, sender: &Sender) -> Result<(), Error> {
        if sender.broker_epoch != NO_BROKER_EPOCH && sender.broker_epoch < self.broker_epoch {
            return Err(Error::StaleBrokerEpoch);
        }
        if sender.controller_epoch < self.controller_epoch {
            return Err(Error::StaleControllerEpoch);
        }
        self.controller_epoch = sender.controller_epoch;
        Ok(())
    }
}

/// What broker `broker_id`, which obeyed `last` before, does with an order.
pub fn judge(broker_id: i32, last: Option<Obeyed>, order: &PartitionOrder) -> Verdict {
    if !order.replicas.contains(&broker_id) {
        return Verdict::Refuse(Error::UnknownTopicOrPartition);
    }
    match last {
        Some(last) if order.leader_epoch < last.leader_epoch => Verdict::Refuse(Error::StaleControllerEpoch),
        Some(last) if order.leader_epoch == last.leader_epoch && order.partition_epoch <= last.partition_epoch => Verdict::Ignore,
        // Who leads does not change within an epoch.
        Some(last) if order.leader_epoch == last.leader_epoch => Verdict::Update,
        _ if order.leader == broker_id => Verdict::Lead,
        _ if order.leader < 0 => Verdict::Stand,
        _ => Verdict::Follow,
    }
}

/// Whether a StopReplica with `leader_epoch` is obeyed by a replica that obeyed `last` before (KIP-570).
///
/// # Errors
/// FENCED_LEADER_EPOCH if a newer order overtook it.
pub fn judge_stop(last: Option<Obeyed>, leader_epoch: i32) -> Result<(), Error> {
    let is_any = leader_epoch == EPOCH_DURING_DELETE || leader_epoch == NO_EPOCH;
    match last {
        Some(last) if !is_any && leader_epoch < last.leader_epoch => Err(Error::FencedLeaderEpoch),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(leader: i32, leader_epoch: i32, partition_epoch: i32) -> PartitionOrder {
        PartitionOrder { leader, leader_epoch, isr: vec![1, 2], partition_epoch, replicas: vec![1, 2] }
    }

    #[test]
    fn orders_are_obeyed_in_the_order_of_their_epochs() {
        let last = Some(Obeyed { leader_epoch: 5, partition_epoch: 8 });
        assert_eq!(judge(1, None, &order(1, 0, 0)), Verdict::Lead);
        assert_eq!(judge(1, last, &order(2, 6, 9)), Verdict::Follow);
        assert_eq!(judge(1, last, &order(-1, 6, 9)), Verdict::Stand);
        assert_eq!(judge(1, last, &order(1, 4, 9)), Verdict::Refuse(Error::StaleControllerEpoch));
        assert_eq!(judge(1, last, &order(1, 5, 8)), Verdict::Ignore, "again");
        assert_eq!(judge(1, last, &order(1, 5, 7)), Verdict::Ignore, "overtaken");
        assert_eq!(judge(1, last, &order(1, 5, 9)), Verdict::Update);
        assert_eq!(judge(3, last, &order(1, 6, 9)), Verdict::Refuse(Error::UnknownTopicOrPartition), "not its replica");
    }

    #[test]
    fn a_late_stop_does_not_stop_a_newer_life() {
        let last = Some(Obeyed { leader_epoch: 5, partition_epoch: 8 });
        assert_eq!(judge_stop(last, 4), Err(Error::FencedLeaderEpoch));
        for epoch in [5, 6, EPOCH_DURING_DELETE, NO_EPOCH] {
            assert_eq!(judge_stop(last, epoch), Ok(()), "{epoch}");
        }
        assert_eq!(judge_stop(None, 0), Ok(()));
    }

    #[test]
    fn the_fence_keeps_out_earlier_lives_and_earlier_controllers() {
        let mut fence = Fence { controller_epoch: 3, broker_epoch: 70 };
        let sender = |controller_epoch, broker_epoch| Sender { controller_epoch, broker_epoch, ..Sender::default() };
        assert_eq!(fence.admit(&sender(3, 69)), Err(Error::StaleBrokerEpoch));
        assert_eq!(fence.admit(&sender(2, 70)), Err(Error::StaleControllerEpoch));
        assert_eq!(fence.admit(&sender(4, NO_BROKER_EPOCH)), Ok(()));
        assert_eq!(fence.admit(&sender(3, 70)), Err(Error::StaleControllerEpoch), "the fourth was seen");
        assert_eq!(fence.admit(&sender(4, 71)), Ok(()), "the controller may know of a registration before the broker does");
    }
}
