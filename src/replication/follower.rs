//! What a follower does to be like its leader: where it fetches, what it cuts off. Pure: told what its log has, it says what is to be done with it.
//!
//! Every fetch says the epoch of the last record that the follower has (KIP-595). A leader that does not have that epoch, or has it ending earlier, answers with the
//! greatest of its epochs that is not greater, and where that ends; the follower cuts back to there, or to the end of what it has itself of an epoch it shares
//! (KIP-101, KIP-279), and asks again: epoch by epoch back to the last common record. Nothing is ever cut by the high watermark.
//!
//! A fetch offset is the end of the log, and all before it is on disk: whoever sends one must have flushed first.

use crate::log::EpochCache;

/// An epoch that is not known.
pub const UNKNOWN_EPOCH: i32 = -1;

/// What a follower must know of its log.
#[derive(Clone, Copy, Debug)]
pub struct LogFacts<'a> {
    /// Offset of the first record that is not deleted.
    pub start_offset: i64,
    /// Offset after the last record.
    pub end_offset: i64,
    /// Which epoch starts where.
    pub lineage: &'a EpochCache,
}

/// What a fetch asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchAt {
    /// The end of the log.
    pub offset: i64,
    /// The epoch of the last record, [`UNKNOWN_EPOCH`] if there is none.
    pub last_fetched_epoch: i32,
    /// The epoch that the leader must be in (KIP-320).
    pub current_leader_epoch: i32,
    /// Where the log starts.
    pub log_start_offset: i64,
}

/// What the leader said to a fetch, besides records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Records follow, or nothing new.
    Records {
        /// The leader's high watermark.
        high_watermark: i64,
        /// Where the leader's log starts.
        log_start_offset: i64,
    },
    /// The logs part: the leader's greatest epoch that is not greater than the follower's last, and where that epoch ends.
    Diverging {
        /// The epoch.
        epoch: i32,
        /// Its end.
        end_offset: i64,
    },
    /// OFFSET_OUT_OF_RANGE: the leader's log does not have the offset, or knows nothing of the epoch.
    OutOfRange,
    /// FENCED_LEADER_EPOCH: the leader is in a newer epoch. LeaderAndIsr is on its way.
    Fenced,
    /// Anything else: to be asked again after `replica.fetch.backoff.ms`.
    Failed,
}

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Append what came, flush, then [`Follower::appended`]; fetch on.
    Append,
    /// Cut the log back to this offset, then [`Follower::truncated`]; fetch on.
    Truncate {
        /// The new end.
        to: i64,
    },
    /// Ask the leader where its log starts and ends (ListOffsets as a replica), then [`Follower::leader_has`].
    AskOffsets,
    /// Remove everything and go on at this offset, then [`Follower::truncated`].
    Restart {
        /// Start and end of the empty log.
        at: i64,
    },
    /// Fetch on.
    Fetch,
    /// Fetch on, later.
    BackOff,
    /// Do nothing until LeaderAndIsr.
    Stop,
}

/// A follower's state in one epoch of its leader.
#[derive(Clone, Debug)]
pub struct Follower {
    leader: i32,
    leader_epoch: i32,
    partition_epoch: i32,
    high_watermark: i64,
    fenced: bool,
}

impl Follower {
    /// Begins to follow `leader`; `high_watermark` is what this replica knew in its role before.
    pub fn begin(leader: i32, leader_epoch: i32, partition_epoch: i32, high_watermark: i64) -> Self {
        Self { leader, leader_epoch, partition_epoch, high_watermark, fenced: false }
    }

    /// The leader's broker id.
    pub fn leader(&self) -> i32 {
        self.leader
    }

    /// The leader's epoch.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// The version of the partition's state.
    pub fn partition_epoch(&self) -> i32 {
        self.partition_epoch
    }

    /// What this replica knows to be committed: may lag behind.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// LeaderAndIsr with the same leader and epoch and a newer version of the state.
    pub fn updated(&mut self, partition_epoch: i32) {
        self.partition_epoch = partition_epoch;
    }

    /// The next fetch; `None` until LeaderAndIsr names a newer epoch.
    pub fn next_fetch(&self, log: LogFacts<'_>) -> Option<FetchAt> {
        let last_fetched_epoch = log.lineage.latest_epoch().unwrap_or(UNKNOWN_EPOCH);
        let fetch = FetchAt { offset: log.end_offset, last_fetched_epoch, current_leader_epoch: self.leader_epoch, log_start_offset: log.start_offset };
        (!self.fenced).then_some(fetch)
    }

    /// The leader has answered `asked`. An answer to a fetch of another epoch, or from where the log does not end any more, is for nobody.
    pub fn answered(&mut self, asked: FetchAt, told: Told, log: LogFacts<'_>) -> Step {
        if !self.is_current(asked, log) {
            return Step::Fetch;
        }
        match told {
            Told::Records { .. } => Step::Append,
            Told::Diverging { epoch, end_offset } => {
                let to = truncation_offset(log, epoch, end_offset);
                Step::Truncate { to: to.max(log.start_offset) }
            }
            Told::OutOfRange => Step::AskOffsets,
            Told::Fenced => {
                self.fenced = true;
                Step::Stop
            }
            Told::Failed => Step::BackOff,
        }
    }

    /// Whether `asked` is what would be asked now.
    fn is_current(&self, asked: FetchAt, log: LogFacts<'_>) -> bool {
        let now = self.next_fetch(log);
        now.is_some_and(|now| now == FetchAt { log_start_offset: now.log_start_offset, ..asked })
    }

    /// Where the leader's log starts and ends, after OFFSET_OUT_OF_RANGE at `asked`.
    pub fn leader_has(&self, asked: FetchAt, start_offset: i64, end_offset: i64, log: LogFacts<'_>) -> Step {
        if !self.is_current(asked, log) {
            Step::Fetch
        } else if end_offset < log.start_offset || start_offset > log.end_offset {
            // Nothing in common: it was deleted there while this replica was away, or the leader lost all that this one has.
            Step::Restart { at: start_offset }
        } else if end_offset < log.end_offset {
            // An unclean election.
            Step::Truncate { to: end_offset }
        } else {
            // The leader's log grew into the range meanwhile; if not, asking at once again would spin.
            Step::BackOff
        }
    }

    /// What came was appended and is on disk: the log ends at `log_end` now. Returns the high watermark if it has risen.
    pub fn appended(&mut self, leaders_high_watermark: i64, log_end: i64) -> Option<i64> {
        let to = leaders_high_watermark.min(log_end);
        (to > self.high_watermark).then(|| {
            self.high_watermark = to;
            to
        })
    }

    /// The log was cut back to `end_offset`. Below the high watermark that is the work of an unclean election: what was committed is gone.
    pub fn truncated(&mut self, end_offset: i64) {
        self.high_watermark = self.high_watermark.min(end_offset);
    }
}

/// Where to cut the log back to, told that the leader's `epoch` ends at `end_offset` (KIP-279): if the log has that epoch, to where the first of the two ends;
/// else to where the greatest epoch ends that it has below, and the next answer goes on from there.
pub fn truncation_offset(log: LogFacts<'_>, epoch: i32, end_offset: i64) -> i64 {
    if epoch == UNKNOWN_EPOCH {
        return end_offset.clamp(log.start_offset, log.end_offset);
    }
    let (own_epoch, own_end) = log.lineage.end_offset_for(epoch, log.end_offset);
    if own_end < 0 {
        // No record of this log is of any epoch that the leader may share.
        end_offset.min(log.end_offset)
    } else if own_epoch == epoch {
        own_end.min(end_offset).min(log.end_offset)
    } else {
        own_end.min(log.end_offset)
    }
}

/// What a leader answers a reader that has records up to `fetch_offset`, the last one of `last_fetched_epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lineage {
    /// The reader's log is a part of this one, as far as epochs tell.
    Same,
    /// It parts from this one: the epoch to cut back by, and its end.
    Diverging {
        /// The epoch.
        epoch: i32,
        /// Its end.
        end_offset: i64,
    },
    /// Nothing is known of the epoch: OFFSET_OUT_OF_RANGE.
    Unknown,
}

/// Compares a reader's lineage with a leader's log (KIP-595).
pub fn compare_lineage(lineage: &EpochCache, log_end: i64, last_fetched_epoch: i32, fetch_offset: i64) -> Lineage {
    compare_ends(lineage.end_offset_for(last_fetched_epoch, log_end), last_fetched_epoch, fetch_offset)
}

/// [`compare_lineage`] for a leader's answer to where the reader's last epoch ends.
pub fn compare_ends((epoch, end_offset): (i32, i64), last_fetched_epoch: i32, fetch_offset: i64) -> Lineage {
    if last_fetched_epoch < 0 {
        Lineage::Same
    } else if epoch < 0 || end_offset < 0 {
        Lineage::Unknown
    } else if epoch < last_fetched_epoch || end_offset < fetch_offset {
        Lineage::Diverging { epoch, end_offset }
    } else {
        Lineage::Same
    }
}
