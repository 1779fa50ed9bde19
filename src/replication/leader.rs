//! What a partition's leader knows of its replicas: in-sync replicas, high watermark, proposals to the controller. Pure.
//!
//! - The high watermark is the least end over the *maximal* in-sync replicas, the committed ones and those proposed (KIP-497): the controller may have accepted a
//!   proposal whose answer is still under way, and may elect any of them.
//! - An end is what a crash leaves. A follower's fetch offset is one, since it flushes before it fetches; the leader's own is its acknowledged end, not its log end.
//! - A replica joins when its end has reached the high watermark and the start of this leader's epoch, and only as the incarnation that got so far: proposals
//!   carry broker epochs (KIP-903). It leaves when it was not caught up for `replica.lag.time.max.ms`.
//! - The high watermark does not move while fewer replicas are in sync than `min.insync.replicas` asks for (KIP-966), and is not told to clients before it has
//!   reached the start of the epoch: until then an earlier leader may have told more (KIP-207, OFFSET_NOT_AVAILABLE).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::runtime::Instant;

/// A broker's epoch where it is not known.
pub const UNKNOWN_BROKER_EPOCH: i64 = -1;
/// A follower's end before it has fetched in this epoch.
const UNKNOWN_END: i64 = -1;

/// Historic bugs, for the tests that must find them. All off anywhere else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plants {
    /// The high watermark counts the in-sync replicas without those proposed.
    pub current_isr_only: bool,
    /// A follower begins by truncating to its high watermark (before KIP-101).
    pub truncate_to_high_watermark: bool,
    /// A restarted follower's progress is taken for its former life's (before KIP-903).
    pub no_broker_epochs: bool,
    /// Records are committed however few replicas are in sync.
    pub ignores_min_isr: bool,
}

/// What a leader is told when it begins.
#[derive(Clone, Debug)]
pub struct Leadership {
    /// This broker.
    pub broker_id: i32,
    /// The epoch it leads in.
    pub leader_epoch: i32,
    /// The version of the partition's state that said so.
    pub partition_epoch: i32,
    /// The assigned brokers.
    pub replicas: Vec<i32>,
    /// The in-sync replicas.
    pub isr: Vec<i32>,
    /// `replica.lag.time.max.ms`.
    pub lag_max: Duration,
    /// `min.insync.replicas`.
    pub min_isr: usize,
    /// Off but in tests.
    pub plants: Plants,
}

/// The in-sync replicas that a leader wants, for AlterPartition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The leader's epoch.
    pub leader_epoch: i32,
    /// The version of the state that is to be changed: a compare-and-set.
    pub partition_epoch: i32,
    /// Broker ids, with the broker epochs that the leader has seen; [`UNKNOWN_BROKER_EPOCH`] if it has seen none.
    pub isr: BTreeMap<i32, i64>,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// This is the partition's state now.
    State {
        /// Its leader epoch.
        leader_epoch: i32,
        /// Its version.
        partition_epoch: i32,
        /// Its in-sync replicas.
        isr: Vec<i32>,
    },
    /// It was not written and never will be (INELIGIBLE_REPLICA): it adds a life of a replica that is over, and broker epochs only grow, so that a copy of it which
    /// is still under way is refused too. The committed state stands.
    NotWritten,
    /// The state is another than this leader knows (INVALID_UPDATE_VERSION, FENCED_LEADER_EPOCH, NEW_LEADER_ELECTED, INVALID_REQUEST, UNKNOWN_TOPIC_ID): whether
    /// by this proposal is unknown. The leader waits for LeaderAndIsr, and goes on to count the maximal in-sync replicas.
    Superseded,
    /// Nobody knows: no answer, OPERATION_NOT_ATTEMPTED, or the controller is another one. To be asked again.
    Unknown,
}

/// What follows from an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Effects {
    /// The high watermark has risen to this.
    pub high_watermark: Option<i64>,
    /// To be sent to the controller; [`Leader::answered`] wants to know what became of it.
    pub propose: Option<Proposal>,
}

/// Why a follower's fetch is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FollowerError {
    /// It is none of the replicas as this leader knows them: UNKNOWN_LEADER_EPOCH, since a newer LeaderAndIsr may name it.
    #[error("broker {replica} has no replica of the partition as its leader knows it")]
    NotAReplica {
        /// Who fetched.
        replica: i32,
    },
    /// It comes from an earlier life of the follower (KIP-903): NOT_LEADER_OR_FOLLOWER.
    #[error("the fetch of broker {replica} carries broker epoch {told}; epoch {known} has fetched already")]
    StaleBrokerEpoch {
        /// Who fetched.
        replica: i32,
        /// The epoch it carries.
        told: i64,
        /// The newest that fetched.
        known: i64,
    },
}

/// A follower's fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowerFetch {
    /// Its broker id.
    pub replica: i32,
    /// Its broker epoch, −1 if not told.
    pub broker_epoch: i64,
    /// Where it reads on: all before is on its disk.
    pub offset: i64,
    /// Where its log starts.
    pub log_start_offset: i64,
}

/// Whether what was appended is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// On all in-sync replicas.
    Yes,
    /// Not yet.
    NotYet,
    /// On all in-sync replicas, which are fewer than asked for by now: NOT_ENOUGH_REPLICAS_AFTER_APPEND.
    TooFew,
}

#[derive(Clone, Debug)]
struct Follower {
    broker_epoch: i64,
    end_offset: i64,
    log_start_offset: i64,
    /// When it last had all that the leader had, as far as its fetches show.
    caught_up_at: Option<Instant>,
    /// Its last fetch: when, and the leader's end at the time. A later fetch from that end proves that it was caught up then.
    last_fetch: Option<(Instant, i64)>,
}

/// A leader's state in one epoch.
#[derive(Clone, Debug)]
pub struct Leader {
    told: Leadership,
    isr: BTreeSet<i32>,
    /// The proposal that is under way.
    proposed: Option<Proposal>,
    /// Whether a proposal's fate is known only to LeaderAndIsr.
    superseded: bool,
    followers: BTreeMap<i32, Follower>,
    /// Epochs of the registered brokers, as far as the metadata tells.
    registered: Option<BTreeMap<i32, i64>>,
    own_end: i64,
    epoch_start_offset: i64,
    high_watermark: i64,
}

impl Leader {
    /// Begins to lead. `own_end` is the acknowledged end, `log_end` where the epoch starts, `high_watermark` what this replica knew as follower.
    pub fn begin(told: Leadership, own_end: i64, log_end: i64, high_watermark: i64, now: Instant) -> (Self, Effects) {
        let mut leader = Self {
            isr: told.isr.iter().copied().collect(),
            told,
            proposed: None,
            superseded: false,
            followers: BTreeMap::new(),
            registered: None,
            own_end,
            epoch_start_offset: log_end,
            high_watermark,
        };
        leader.know_followers(now);
        let effects = Effects { high_watermark: leader.raise_high_watermark(now, log_end), propose: None };
        (leader, effects)
    }

    /// Followers as assigned. Those in sync have `replica.lag.time.max.ms` from now to show themselves.
    fn know_followers(&mut self, now: Instant) {
        self.followers.retain(|id, _| self.told.replicas.contains(id));
        for id in self.told.replicas.iter().filter(|id| **id != self.told.broker_id) {
            let caught_up_at = self.isr.contains(id).then_some(now);
            self.followers.entry(*id).or_insert(Follower {
                broker_epoch: UNKNOWN_BROKER_EPOCH,
                end_offset: UNKNOWN_END,
                log_start_offset: -1,
                caught_up_at,
                last_fetch: None,
            });
        }
    }

    /// The epoch it leads in.
    pub fn leader_epoch(&self) -> i32 {
        self.told.leader_epoch
    }

    /// The version of the partition's state.
    pub fn partition_epoch(&self) -> i32 {
        self.told.partition_epoch
    }

    /// The assigned brokers.
    pub fn replicas(&self) -> &[i32] {
        &self.told.replicas
    }

    /// The in-sync replicas, as the controller last confirmed them.
    pub fn isr(&self) -> &BTreeSet<i32> {
        &self.isr
    }

    /// The in-sync replicas and those proposed: all that the controller may take for in sync.
    pub fn maximal_isr(&self) -> BTreeSet<i32> {
        let proposed = self.proposed.iter().flat_map(|proposal| proposal.isr.keys().copied());
        self.isr.iter().copied().chain(proposed).collect()
    }

    /// The in-sync followers whose logs reach from before `offset` to it: the furthest first.
    pub fn in_sync_followers_at(&self, offset: i64) -> Vec<i32> {
        let has_it = |follower: &Follower| follower.log_start_offset <= offset && follower.end_offset >= offset;
        let mut found: Vec<(i64, i32)> = self
            .followers
            .iter()
            .filter(|(id, follower)| self.isr.contains(id) && has_it(follower))
            .map(|(id, follower)| (-follower.end_offset, *id))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Where the epoch began in the log.
    pub fn epoch_start_offset(&self) -> i64 {
        self.epoch_start_offset
    }

    /// The high watermark: everything below is on all replicas that may be elected.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// The high watermark as clients may be told it: none until it has reached the start of the epoch (P12). Records below it may be read all the same.
    pub fn proven_high_watermark(&self) -> Option<i64> {
        (self.high_watermark >= self.epoch_start_offset).then_some(self.high_watermark)
    }

    /// The least log start offset of this log, which starts at `own`, and those of the followers that are registered: what DeleteRecords waits for.
    pub fn low_watermark(&self, own: i64) -> i64 {
        let live = self.followers.iter().filter(|(id, _)| self.registered.as_ref().is_none_or(|registered| registered.contains_key(id)));
        live.map(|(_, follower)| follower.log_start_offset).fold(own, i64::min)
    }

    /// How many replicas must be in sync for anything to be committed: `min.insync.replicas`, or all of fewer.
    fn effective_min_isr(&self) -> usize {
        if self.told.plants.ignores_min_isr { 1 } else { self.told.min_isr.min(self.told.replicas.len()).max(1) }
    }

    /// Whether enough replicas are in sync to take records for `acks=all`: else NOT_ENOUGH_REPLICAS.
    pub fn has_enough_replicas(&self) -> bool {
        self.isr.len() >= self.effective_min_isr()
    }

    /// Whether everything before `end_offset` is committed, as `acks=all` understands it.
    pub fn committed(&self, end_offset: i64) -> Committed {
        if self.high_watermark < end_offset {
            Committed::NotYet
        } else if self.maximal_isr().len() < self.effective_min_isr() {
            Committed::TooFew
        } else {
            Committed::Yes
        }
    }

    /// The acknowledged end of the leader's own log is `end` now.
    pub fn stored(&mut self, end: i64, log_end: i64, now: Instant) -> Effects {
        // Followers of a partition that rests do not name it in their fetches: whoever had all that there was is caught up until something new comes.
        for follower in self.followers.values_mut().filter(|follower| end > self.own_end && follower.end_offset >= self.own_end) {
            follower.caught_up_at = follower.caught_up_at.max(Some(now));
        }
        self.own_end = self.own_end.max(end);
        Effects { high_watermark: self.raise_high_watermark(now, log_end), propose: None }
    }

    /// A follower has fetched, and got no error. `log_end` is the leader's.
    ///
    /// # Errors
    /// If the fetch counts for nothing.
    pub fn fetched(&mut self, fetch: FollowerFetch, log_end: i64, now: Instant) -> Result<Effects, FollowerError> {
        let keeps_epochs = !self.told.plants.no_broker_epochs;
        let follower = self.followers.get_mut(&fetch.replica).ok_or(FollowerError::NotAReplica { replica: fetch.replica })?;
        if keeps_epochs && fetch.broker_epoch != UNKNOWN_BROKER_EPOCH {
            if fetch.broker_epoch < follower.broker_epoch {
                return Err(FollowerError::StaleBrokerEpoch { replica: fetch.replica, told: fetch.broker_epoch, known: follower.broker_epoch });
            }
            if fetch.broker_epoch > follower.broker_epoch && follower.broker_epoch != UNKNOWN_BROKER_EPOCH {
                // Another life: nothing that the former one had shown is known of it.
                follower.end_offset = UNKNOWN_END;
                follower.last_fetch = None;
            }
            follower.broker_epoch = fetch.broker_epoch;
        }
        if fetch.offset >= log_end {
            follower.caught_up_at = Some(now);
        } else if let Some((at, end)) = follower.last_fetch
            && fetch.offset >= end
        {
            follower.caught_up_at = follower.caught_up_at.max(Some(at));
        }
        follower.last_fetch = Some((now, log_end));
        follower.end_offset = fetch.offset;
        follower.log_start_offset = fetch.log_start_offset;
        // First the high watermark, which the follower may now reach; then whether it joins.
        let high_watermark = self.raise_high_watermark(now, log_end);
        let propose = self.may_join(fetch.replica).then(|| {
            let isr: BTreeSet<i32> = self.isr.iter().copied().chain([fetch.replica]).collect();
            self.propose(&isr)
        });
        Ok(Effects { high_watermark, propose: propose.flatten() })
    }

    /// Time has passed: replicas that fell behind are to leave.
    pub fn check_lag(&mut self, log_end: i64, now: Instant) -> Effects {
        for follower in self.followers.values_mut().filter(|follower| follower.end_offset == log_end) {
            follower.caught_up_at = Some(now);
        }
        // A replica that was waited for may have fallen too far behind to be waited for any longer.
        let high_watermark = self.raise_high_watermark(now, log_end);
        if self.is_waiting_for_controller() {
            return Effects { high_watermark, propose: None };
        }
        let lagging: Vec<i32> = self.isr.iter().copied().filter(|id| !self.is_caught_up(*id, log_end, now)).collect();
        if lagging.is_empty() {
            return Effects { high_watermark, propose: None };
        }
        let isr: BTreeSet<i32> = self.isr.iter().copied().filter(|id| !lagging.contains(id)).collect();
        Effects { high_watermark, propose: self.propose(&isr) }
    }

    /// The metadata tells which brokers are registered, with their epochs.
    pub fn registered(&mut self, brokers: BTreeMap<i32, i64>) {
        self.registered = Some(brokers);
    }

    /// What became of `proposal`.
    pub fn answered(&mut self, proposal: &Proposal, outcome: Outcome, log_end: i64, now: Instant) -> Effects {
        if self.proposed.as_ref() != Some(proposal) {
            // Of an earlier proposal: LeaderAndIsr was faster, or the answer came twice.
            return Effects::default();
        }
        match outcome {
            Outcome::State { leader_epoch, partition_epoch, isr } if leader_epoch == self.told.leader_epoch && partition_epoch >= self.told.partition_epoch => {
                self.told.partition_epoch = partition_epoch;
                self.isr = isr.into_iter().collect();
                self.proposed = None;
                self.superseded = false;
            }
            Outcome::State { .. } | Outcome::Superseded => self.superseded = true,
            Outcome::NotWritten => self.proposed = None,
            Outcome::Unknown => return Effects { high_watermark: None, propose: if self.superseded { None } else { self.proposed.clone() } },
        }
        Effects { high_watermark: self.raise_high_watermark(now, log_end), propose: None }
    }

    /// LeaderAndIsr with this leader's epoch and a newer version of the state: other in-sync or assigned replicas. One that is not newer than what an answer to a
    /// proposal told is nothing: a later proposal may be under way.
    pub fn updated(&mut self, partition_epoch: i32, replicas: Vec<i32>, isr: &[i32], log_end: i64, now: Instant) -> Effects {
        if partition_epoch <= self.told.partition_epoch {
            return Effects::default();
        }
        self.told.partition_epoch = partition_epoch;
        self.told.replicas = replicas;
        self.isr = isr.iter().copied().collect();
        self.proposed = None;
        self.superseded = false;
        self.know_followers(now);
        Effects { high_watermark: self.raise_high_watermark(now, log_end), propose: None }
    }

    /// Puts another `min.insync.replicas` in force.
    pub fn set_min_isr(&mut self, min_isr: usize, log_end: i64, now: Instant) -> Effects {
        self.told.min_isr = min_isr;
        Effects { high_watermark: self.raise_high_watermark(now, log_end), propose: None }
    }

    /// Whether a proposal is under way or its fate unknown.
    pub fn is_waiting_for_controller(&self) -> bool {
        self.proposed.is_some()
    }

    fn propose(&mut self, isr: &BTreeSet<i32>) -> Option<Proposal> {
        let epoch_of = |id: &i32| match self.followers.get(id) {
            Some(follower) => follower.broker_epoch,
            None => self.registered.as_ref().and_then(|registered| registered.get(id)).copied().unwrap_or(UNKNOWN_BROKER_EPOCH),
        };
        let isr = isr.iter().map(|id| (*id, epoch_of(id))).collect();
        self.proposed = Some(Proposal { leader_epoch: self.told.leader_epoch, partition_epoch: self.told.partition_epoch, isr });
        self.proposed.clone()
    }

    fn may_join(&self, id: i32) -> bool {
        let Some(follower) = self.followers.get(&id) else { return false };
        !self.is_waiting_for_controller()
            && !self.isr.contains(&id)
            && self.is_eligible(id)
            && follower.end_offset >= self.high_watermark
            && follower.end_offset >= self.epoch_start_offset
    }

    /// Whether the controller would take it for in sync: the life of it that fetched is the one that is registered.
    fn is_eligible(&self, id: i32) -> bool {
        let Some(registered) = &self.registered else { return true };
        let fetched = self.followers.get(&id).map_or(UNKNOWN_BROKER_EPOCH, |follower| follower.broker_epoch);
        registered.get(&id).is_some_and(|epoch| fetched == UNKNOWN_BROKER_EPOCH || *epoch == UNKNOWN_BROKER_EPOCH || *epoch == fetched)
    }

    fn is_caught_up(&self, id: i32, log_end: i64, now: Instant) -> bool {
        let Some(follower) = self.followers.get(&id) else { return id == self.told.broker_id };
        follower.end_offset == log_end || follower.caught_up_at.is_some_and(|at| now - at <= self.told.lag_max)
    }

    /// Raises the high watermark as far as the ends allow. Never lowers it.
    fn raise_high_watermark(&mut self, now: Instant, log_end: i64) -> Option<i64> {
        if !self.has_enough_replicas() {
            return None;
        }
        let counts = if self.told.plants.current_isr_only { self.isr.clone() } else { self.maximal_isr() };
        let mut least = self.own_end;
        for (id, follower) in &self.followers {
            // One that is about to join is waited for, lest it never reach a high watermark that runs ahead of it.
            let joins = || follower.end_offset != UNKNOWN_END && self.is_eligible(*id) && self.is_caught_up(*id, log_end, now);
            if counts.contains(id) || joins() {
                least = least.min(follower.end_offset);
            }
        }
        (least > self.high_watermark).then(|| {
            self.high_watermark = least;
            least
        })
    }
}
