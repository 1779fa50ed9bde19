//! Committed offsets of a [`Group`]: commit, fetch, removal, expiry; and the removal of the group itself.
//!
//! An offset is visible once it is committed to the log, not before; until then it is in flight. The log has one order, so what is
//! in flight takes effect in the order in which it was handed out.

use std::collections::BTreeSet;

use super::records::{GroupRecord, OffsetValue};
use super::state::*;

/// Who commits.
#[derive(Clone, Debug)]
pub struct Committer {
    /// Its member id; empty if it is not a member.
    pub member_id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// The generation that it believes in, or negative if it is not a member.
    pub generation: i32,
}

/// One result for each partition asked for, in order.
pub type PerPartition = Vec<Result<(), ErrorCode>>;

impl Group {
    /// Whether this committer may commit now. Consumers that manage their partitions themselves send no generation and may commit
    /// while the group has no members; everybody else must be of the current generation.
    fn validate_commit(&self, by: &Committer) -> Result<(), ErrorCode> {
        if self.state == State::Dead {
            return Err(ErrorCode::CoordinatorNotAvailable);
        }
        if by.generation < 0 && self.state == State::Empty {
            return Ok(());
        }
        if self.config.plants.zombie_commit {
            return Ok(());
        }
        if by.generation < 0 && by.member_id.is_empty() && by.instance_id.is_none() {
            return Err(ErrorCode::UnknownMemberId);
        }
        self.validate_member(&by.member_id, by.instance_id.as_deref())?;
        if by.generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        if self.state == State::CompletingRebalance {
            // It has the new generation but not its assignment: it cannot have consumed anything of it.
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// Commits offsets. Answered by [`Reply::Written`] when they are in the log.
    ///
    /// # Errors
    /// At once, if the committer may not; the request is then not answered again.
    pub fn commit(&mut self, request: RequestId, by: &Committer, offsets: Vec<(String, i32, OffsetValue)>, now: Now) -> Result<Vec<Action>, ErrorCode> {
        self.validate_commit(by)?;
        if matches!(self.state, State::Stable | State::PreparingRebalance) {
            self.extend_session(&by.member_id, now);
        }
        let mut out = Vec::new();
        if offsets.is_empty() {
            out.push(Action::Reply { request, reply: Reply::Written(Ok(())) });
            return Ok(out);
        }
        let group = self.id.to_string();
        let record = |(topic, partition, value): &(String, i32, OffsetValue)| GroupRecord::Offset {
            group: group.clone(),
            topic: topic.clone(),
            partition: *partition,
            value: Some(value.clone()),
        };
        let records = offsets.iter().map(record).collect();
        self.append(InFlight::Offsets { request: Some(request), offsets }, records, &mut out);
        Ok(out)
    }

    /// The committed offset of a partition.
    pub fn offset(&self, topic: &str, partition: i32) -> Option<&OffsetValue> {
        self.offsets.get(topic)?.get(&partition)
    }

    /// All committed offsets, in order of topic and partition.
    pub fn offsets(&self) -> impl Iterator<Item = (&str, i32, &OffsetValue)> {
        self.offsets.iter().flat_map(|(topic, partitions)| partitions.iter().map(move |(partition, value)| (topic.as_str(), *partition, value)))
    }

    /// Whether commits of the partition are on their way to the log: what [`Group::offset`] tells is about to change
    /// (`require_stable`, KIP-447).
    pub fn has_pending_commit(&self, topic: &str, partition: i32) -> bool {
        self.in_flight.values().any(|in_flight| match in_flight {
            InFlight::Offsets { offsets, .. } => offsets.iter().any(|(its_topic, its_partition, _)| its_topic == topic && *its_partition == partition),
            _ => false,
        })
    }

    /// Removes offsets (OffsetDelete, KIP-496). Says for each partition whether it is removed; GROUP_SUBSCRIBED_TO_TOPIC if a member may
    /// still use it. Answered by [`Reply::Written`].
    ///
    /// # Errors
    /// At once, for the whole request: NON_EMPTY_GROUP if members of a protocol that is not the consumers' may use anything.
    pub fn delete_offsets(&mut self, request: RequestId, partitions: &[(String, i32)]) -> Result<(PerPartition, Vec<Action>), ErrorCode> {
        match self.state {
            State::Dead => return Err(ErrorCode::GroupIdNotFound),
            State::Stable | State::PreparingRebalance | State::CompletingRebalance if !self.uses_consumer_protocol() => return Err(ErrorCode::NonEmptyGroup),
            _ => {}
        }
        let mut results = Vec::with_capacity(partitions.len());
        let mut removed = BTreeSet::new();
        for (topic, partition) in partitions {
            if self.is_subscribed_to(topic) {
                results.push(Err(ErrorCode::GroupSubscribedToTopic));
                continue;
            }
            results.push(Ok(()));
            if self.offset(topic, *partition).is_some() || self.has_pending_commit(topic, *partition) {
                removed.insert((topic.clone(), *partition));
            }
        }
        Ok((results, self.remove_offsets(Some(request), removed)))
    }

    /// The topic's partitions are no more: removes their offsets.
    pub fn partitions_deleted(&mut self, gone: impl Fn(&str, i32) -> bool) -> Vec<Action> {
        let removed: BTreeSet<_> = self.all_partitions().into_iter().filter(|(topic, partition)| gone(topic, *partition)).collect();
        if self.state == State::Dead || removed.is_empty() { Vec::new() } else { self.remove_offsets(None, removed) }
    }

    /// Every partition with an offset, committed or on its way.
    fn all_partitions(&self) -> BTreeSet<(String, i32)> {
        let mut partitions: BTreeSet<_> = self.offsets().map(|(topic, partition, _)| (topic.to_owned(), partition)).collect();
        for in_flight in self.in_flight.values() {
            if let InFlight::Offsets { offsets, .. } = in_flight {
                partitions.extend(offsets.iter().map(|(topic, partition, _)| (topic.clone(), *partition)));
            }
        }
        partitions
    }

    fn tombstones(&self, partitions: &BTreeSet<(String, i32)>) -> Vec<GroupRecord> {
        let group = self.id.to_string();
        partitions
            .iter()
            .map(|(topic, partition)| GroupRecord::Offset { group: group.clone(), topic: topic.clone(), partition: *partition, value: None })
            .collect()
    }

    fn remove_offsets(&mut self, request: Option<RequestId>, partitions: BTreeSet<(String, i32)>) -> Vec<Action> {
        let mut out = Vec::new();
        if partitions.is_empty() {
            out.extend(request.map(|request| Action::Reply { request, reply: Reply::Written(Ok(())) }));
        } else {
            let records = self.tombstones(&partitions);
            self.append(InFlight::OffsetRemoval { request, partitions: partitions.into_iter().collect() }, records, &mut out);
        }
        out
    }

    /// Removes the group and its offsets (DeleteGroups, KIP-229). Answered by [`Reply::Written`].
    ///
    /// # Errors
    /// At once: NON_EMPTY_GROUP while it has members, GROUP_ID_NOT_FOUND if it is being removed.
    pub fn delete(&mut self, request: RequestId, now: Now) -> Result<Vec<Action>, ErrorCode> {
        match self.state {
            State::Dead => Err(ErrorCode::GroupIdNotFound),
            State::Stable | State::PreparingRebalance | State::CompletingRebalance => Err(ErrorCode::NonEmptyGroup),
            State::Empty => Ok(self.remove(Some(request), now)),
        }
    }

    fn remove(&mut self, request: Option<RequestId>, now: Now) -> Vec<Action> {
        let mut out = Vec::new();
        let mut records = self.tombstones(&self.all_partitions());
        records.push(GroupRecord::Group { group: self.id.to_string(), value: None });
        let since_ms = self.state_timestamp_ms;
        self.transition(State::Dead, now);
        self.state_timestamp_ms = since_ms;
        // A member id that was handed out is worth nothing in a group that is gone.
        self.pending_members.clear();
        self.append(InFlight::GroupRemoval { request }, records, &mut out);
        out
    }

    /// Removes the offsets that are expired, and the group if nothing of it is left. Call every
    /// `offsets.retention.check.interval.ms`.
    ///
    /// An offset expires `offsets.retention.minutes` after the group became empty; of a topic that nobody in a stable group of
    /// consumers subscribes to, and of a group that never had members, that long after its commit (KIP-211). Nothing expires during a
    /// rebalance: who subscribes to what is not known then (KAFKA-13636).
    pub fn expire_offsets(&mut self, now: Now) -> Vec<Action> {
        if self.state == State::Dead {
            return Vec::new();
        }
        let mut expired = BTreeSet::new();
        let mut all = true;
        for (topic, partition, value) in self.offsets() {
            if self.is_expired(topic, value, now) && !self.has_pending_commit(topic, partition) {
                expired.insert((topic.to_owned(), partition));
            } else {
                all = false;
            }
        }
        if all && self.state == State::Empty && self.pending_members.is_empty() && self.in_flight.is_empty() {
            return self.remove(None, now);
        }
        if expired.is_empty() { Vec::new() } else { self.remove_offsets(None, expired) }
    }

    fn is_expired(&self, topic: &str, value: &OffsetValue, now: Now) -> bool {
        let rebalancing = matches!(self.state, State::PreparingRebalance | State::CompletingRebalance);
        let planted = rebalancing && self.config.plants.offsets_expire_while_rebalancing;
        if !planted && self.is_subscribed_to(topic) {
            return false;
        }
        let since_ms = match self.state {
            _ if self.protocol_type.is_none() => value.commit_timestamp_ms,
            State::Empty => self.state_timestamp_ms.unwrap_or(value.commit_timestamp_ms),
            State::Stable if self.uses_consumer_protocol() && self.subscribed_topics.is_some() => value.commit_timestamp_ms,
            _ if planted => value.commit_timestamp_ms,
            _ => return false,
        };
        match value.expire_timestamp_ms {
            Some(expire_timestamp_ms) => now.unix_ms >= expire_timestamp_ms,
            None => now.unix_ms.saturating_sub(since_ms) >= self.config.offsets_retention_ms,
        }
    }
}
