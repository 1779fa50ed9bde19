//! What a replica does as follower: where it fetches, and what it does with what its leader answers. The pure [`Follower`](super::super::follower::Follower) says what.

use super::{After, FollowError, Partition, Role};
use crate::log::BatchToAppend;
use crate::record::batch::Header;
use crate::replication::follower::{FetchAt, LogFacts, Step, Told};
use crate::runtime::Runtime;
use std::sync::atomic::Ordering;

impl<R: Runtime> Partition<R> {
    /// Whether it is throttled, and more than allowed was fetched already.
    pub fn waits_for_quota(&self) -> bool {
        self.is_throttled.load(Ordering::Acquire) && self.rules.quotas.follower.is_exceeded(self.log.runtime().now())
    }

    /// The next fetch; `None` if it follows nobody, waits for an order, or is throttled and more than allowed was fetched already: then in a while. All before its offset is on disk if the last [`After::Flush`] was done.
    pub fn next_fetch(&self) -> Option<FetchAt> {
        if self.waits_for_quota() {
            return None;
        }
        let lineage = self.log.epochs();
        match &*self.role() {
            Role::Follower(follower) => follower.next_fetch(self.facts(&lineage)),
            _ => None,
        }
    }

    fn facts<'a>(&self, lineage: &'a crate::log::EpochCache) -> LogFacts<'a> {
        LogFacts { start_offset: self.log.log_start_offset(), end_offset: self.log.log_end_offset(), lineage }
    }

    /// The leader has answered a fetch, with `records` in whole batches.
    ///
    /// # Errors
    /// [`FollowError`]: the partition is to be fetched again later.
    pub async fn leader_answered(&self, asked: FetchAt, told: Told, records: &bytes::Bytes) -> Result<After, FollowError> {
        // What was asked in one role is not done in another.
        let _one = self.following.lock().await;
        let _turn = self.turn.read().await;
        let lineage = self.log.epochs();
        let step = match &mut *self.role() {
            Role::Follower(follower) => follower.answered(asked, told, self.facts(&lineage)),
            _ => return Ok(After::Stop),
        };
        if let (Step::Append, Told::Records { high_watermark, log_start_offset }) = (step, told) {
            return self.append_from_leader(records, high_watermark, log_start_offset).await;
        }
        self.change_log(step).await
    }

    /// The leader has told where its log starts and ends.
    ///
    /// # Errors
    /// [`FollowError`].
    pub async fn leader_has(&self, asked: FetchAt, start_offset: i64, end_offset: i64) -> Result<After, FollowError> {
        let _one = self.following.lock().await;
        let _turn = self.turn.read().await;
        let lineage = self.log.epochs();
        let step = match &*self.role() {
            Role::Follower(follower) => follower.leader_has(asked, start_offset, end_offset, self.facts(&lineage)),
            _ => return Ok(After::Stop),
        };
        self.change_log(step).await
    }

    async fn append_from_leader(&self, records: &bytes::Bytes, high_watermark: i64, log_start_offset: i64) -> Result<After, FollowError> {
        if self.is_throttled.load(Ordering::Acquire) {
            self.rules.quotas.follower.record(records.len() as u64, self.log.runtime().now());
        }
        let batches = split(records, self.log.log_end_offset())?;
        if let Some(first) = batches.first() {
            // The leader's log may start within a batch (DeleteRecords). A log that has nothing takes the batch whole, and starts where the leader's does after.
            let (base, end) = (first.header.base_offset, self.log.log_end_offset());
            if base < end && end == self.log.log_start_offset() {
                self.log.truncate_fully_and_start_at(base).await?;
            }
            self.log.append_as_follower(&batches).await.inspect_err(|error| self.note_refusal(error))?;
            self.note_room();
        }
        {
            let mut role = self.role();
            if let Role::Follower(follower) = &mut *role
                && let Some(to) = follower.appended(high_watermark, self.log.log_end_offset())
            {
                self.advance_high_watermark(to);
            }
        }
        // The leader has deleted from its start: so does this replica, as far as it has got.
        let start = log_start_offset.min(self.high_watermark());
        if start > self.log.log_start_offset() {
            self.log.delete_records_before(start).await?;
        }
        Ok(if batches.is_empty() { After::Fetch } else { After::Flush })
    }

    /// Does to the log what the pure follower said.
    async fn change_log(&self, step: Step) -> Result<After, FollowError> {
        let to = match step {
            Step::Truncate { to } => {
                tracing::info!(partition = %self.id, to, log_end = self.log.log_end_offset(), high_watermark = self.high_watermark(), "cut back to where the leader's log parts");
                self.log.truncate_to(to).await?;
                to
            }
            Step::Restart { at } => {
                tracing::warn!(partition = %self.id, at, log_end = self.log.log_end_offset(), "the leader's log has nothing in common with this one: begun anew");
                self.log.truncate_fully_and_start_at(at).await?;
                at
            }
            Step::AskOffsets => return Ok(After::AskOffsets),
            Step::Fetch | Step::Append => return Ok(After::Fetch),
            Step::BackOff => return Ok(After::BackOff),
            Step::Stop => return Ok(After::Stop),
        };
        let mut role = self.role();
        if let Role::Follower(follower) = &mut *role {
            follower.truncated(to);
            // Below the high watermark only after an unclean election; a log that begins anew may also begin above it.
            let high_watermark = follower.high_watermark().max(self.log.log_start_offset());
            self.high_watermark.store(high_watermark, Ordering::SeqCst);
            self.log.set_high_watermark(high_watermark);
        }
        Ok(After::Fetch)
    }
}

/// Cuts a leader's records into batches, checks each, and leaves out those below `from_offset`: a leader's first batch may begin before what was asked for.
fn split(records: &bytes::Bytes, from_offset: i64) -> Result<Vec<BatchToAppend>, FollowError> {
    let damaged = |error: &dyn std::fmt::Display| FollowError::Damaged { reason: error.to_string() };
    let mut batches = Vec::new();
    let mut rest = records.clone();
    while !rest.is_empty() {
        let size = Header::parse(&rest).map_err(|error| damaged(&error))?.size_in_bytes();
        if size > rest.len() {
            return Err(damaged(&format_args!("a batch of {size} bytes is cut off after {}", rest.len())));
        }
        let bytes = rest.split_to(size);
        let header = Header::whole(&bytes).map_err(|error| damaged(&error))?;
        if header.next_offset() > from_offset {
            batches.push(BatchToAppend { header, bytes });
        }
    }
    Ok(batches)
}
