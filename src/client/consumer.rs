//! The consumer: assigned partitions or a subscription, positions, fetching, resets, commits.
//!
//! Nothing runs on its own but the heartbeat of a group member: [`Consumer::poll`] does the work, with one fetch in flight per broker.
//! A partition is not fetched while records of it wait to be handed out, so a slow reader holds at most one fetch of each.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, Bytes};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use uuid::Uuid;

use crate::client::admin::CommittedOffset;
use crate::client::cluster::Client;
use crate::client::connection::Answer;
use crate::client::error::ClientError;
use crate::client::fetching::{FetchBounds, FetchFrom, FetchSession, is_session_error};
use crate::client::group::{GroupConfig, Membership, Turn, commit_offsets};
use crate::record::batch::{HEADER_BYTES, Header};
use crate::record::records;
use crate::runtime::{Instant, Runtime};
use crate::topic_partition::TopicPartition;

/// Where to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    /// At the oldest record that there is.
    Earliest,
    /// After the newest: only what comes from now on.
    Latest,
    /// At this offset.
    Offset(i64),
    /// At the first record whose timestamp is not before this, in ms since 1970; after the newest if there is none.
    Timestamp(i64),
    /// At the group's committed offset; by [`ConsumerConfig::auto_offset_reset`] where there is none.
    Committed,
}

/// What to do without a valid position: the group has none, or it is outside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetReset {
    /// Read from the oldest record.
    Earliest,
    /// Read what is new.
    Latest,
    /// Tell the caller.
    None,
}

/// How a consumer behaves.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Its group; `None` for a consumer that commits nothing and is assigned partitions by hand.
    pub group: Option<GroupConfig>,
    /// What to do without a valid position.
    pub auto_offset_reset: OffsetReset,
    /// Whether to use incremental fetch sessions (KIP-227).
    pub fetch_sessions: bool,
    /// How many bytes are worth an answer.
    pub fetch_min_bytes: i32,
    /// How long the broker may wait for them.
    pub fetch_max_wait: Duration,
    /// The most bytes of one answer.
    pub fetch_max_bytes: i32,
    /// The most bytes of one partition in one answer.
    pub partition_max_bytes: i32,
    /// The most records that one [`Consumer::poll`] returns.
    pub max_poll_records: usize,
    /// The most bytes to which one batch may decompress.
    pub batch_limit_bytes: usize,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            group: None,
            auto_offset_reset: OffsetReset::Latest,
            fetch_sessions: true,
            fetch_min_bytes: 1,
            fetch_max_wait: Duration::from_millis(500),
            fetch_max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            max_poll_records: 500,
            batch_limit_bytes: 256 << 20,
        }
    }
}

/// A record as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumedRecord {
    /// Where it is from.
    pub partition: TopicPartition,
    /// Its offset.
    pub offset: i64,
    /// In ms since 1970.
    pub timestamp_ms: i64,
    /// Whether the broker set the timestamp.
    pub is_log_append_time: bool,
    /// The epoch of the leader that appended it.
    pub leader_epoch: i32,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

/// A partition that is read.
#[derive(Debug)]
struct Reading {
    /// Where reading is to begin; done once `next` is known.
    start: Option<StartAt>,
    /// The next offset to fetch.
    next: i64,
    /// The next offset to hand out, which is what a commit says.
    position: i64,
    /// The epoch of the last record that was handed out.
    leader_epoch: i32,
    /// Records of it that wait to be handed out.
    buffered: usize,
    paused: bool,
    /// As the last fetch told it; −1 before.
    high_watermark: i64,
    log_start_offset: i64,
    /// Changes with every seek, so that an answer to an older question is known.
    turn: u64,
}

struct Fetching<R: Runtime> {
    answer: Answer<R, FetchResponse>,
    version: i16,
    wanted: BTreeMap<TopicPartition, FetchFrom>,
    turns: BTreeMap<TopicPartition, u64>,
}

struct Node<R: Runtime> {
    session: FetchSession,
    fetching: Option<Fetching<R>>,
}

/// A consumer. Dropping it leaves its group only after the session's time; [`Consumer::close`] leaves at once.
pub struct Consumer<R: Runtime> {
    client: Client<R>,
    config: ConsumerConfig,
    reading: BTreeMap<TopicPartition, Reading>,
    nodes: BTreeMap<i32, Node<R>>,
    ready: VecDeque<ConsumedRecord>,
    membership: Option<Membership<R>>,
    /// Nothing is asked before this, after an error.
    pause_until: Option<Instant>,
    next_turn: u64,
    last_auto_commit: Instant,
    next_count_check: Instant,
    /// Partitions that a rebalance took since the caller asked.
    revoked: BTreeSet<TopicPartition>,
}

impl<R: Runtime> Consumer<R> {
    /// A consumer that reads nothing yet: [`Consumer::assign`] or [`Consumer::subscribe`] next.
    pub fn new(client: Client<R>, config: ConsumerConfig) -> Self {
        let now = client.runtime().now();
        Self {
            client,
            config,
            reading: BTreeMap::new(),
            nodes: BTreeMap::new(),
            ready: VecDeque::new(),
            membership: None,
            pause_until: None,
            next_turn: 0,
            last_auto_commit: now,
            next_count_check: now,
            revoked: BTreeSet::new(),
        }
    }

    /// Reads these partitions and no others.
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = (TopicPartition, StartAt)>) {
        self.membership = None;
        self.ready.clear();
        self.reading.clear();
        for (partition, start) in partitions {
            self.start_reading(partition, start);
        }
    }

    /// Takes part in the configured group and reads what it assigns of these topics.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if no group is configured.
    pub fn subscribe(&mut self, topics: &[&str]) -> Result<(), ClientError> {
        let group = self.config.group.clone().ok_or_else(|| ClientError::Invalid { what: "a subscription needs a group".into() })?;
        self.ready.clear();
        self.reading.clear();
        self.membership = Some(Membership::new(self.client.clone(), group, topics.iter().map(|topic| Arc::from(*topic)).collect())?);
        Ok(())
    }

    fn start_reading(&mut self, partition: TopicPartition, start: StartAt) {
        self.next_turn += 1;
        let offset = if let StartAt::Offset(offset) = start { offset } else { -1 };
        let start = if offset >= 0 { None } else { Some(start) };
        let reading = Reading {
            start,
            next: offset,
            position: offset,
            leader_epoch: -1,
            buffered: 0,
            paused: false,
            high_watermark: -1,
            log_start_offset: -1,
            turn: self.next_turn,
        };
        self.reading.insert(partition, reading);
    }

    /// The partitions that it reads now.
    pub fn assignment(&self) -> Vec<TopicPartition> {
        self.reading.keys().cloned().collect()
    }

    /// The generation and member id under which it has its partitions; `None` outside a group.
    pub fn membership(&self) -> Option<(i32, &str)> {
        self.membership.as_ref().map(|membership| (membership.generation(), membership.member_id()))
    }

    /// The partitions that rebalances took since this was last asked.
    pub fn take_revoked(&mut self) -> BTreeSet<TopicPartition> {
        std::mem::take(&mut self.revoked)
    }

    /// The next offset that [`Consumer::poll`] will return of a partition; `None` if it is not read or not known yet.
    pub fn position(&self, partition: &TopicPartition) -> Option<i64> {
        self.reading.get(partition).filter(|reading| reading.start.is_none()).map(|reading| reading.position)
    }

    /// The high watermark and the log start offset, as the last fetch told them.
    pub fn bounds(&self, partition: &TopicPartition) -> Option<(i64, i64)> {
        self.reading.get(partition).filter(|reading| reading.high_watermark >= 0).map(|reading| (reading.high_watermark, reading.log_start_offset))
    }

    /// Reads a partition from elsewhere; without effect if it is not assigned.
    pub fn seek(&mut self, partition: &TopicPartition, to: StartAt) {
        if self.reading.contains_key(partition) {
            self.ready.retain(|record| record.partition != *partition);
            self.start_reading(partition.clone(), to);
        }
    }

    /// Changes [`ConsumerConfig::max_poll_records`].
    pub fn set_max_poll_records(&mut self, count: usize) {
        self.config.max_poll_records = count;
    }

    /// Stops and resumes fetching a partition.
    pub fn set_paused(&mut self, partition: &TopicPartition, paused: bool) {
        if let Some(reading) = self.reading.get_mut(partition) {
            reading.paused = paused;
        }
    }

    /// Waits for records for up to `timeout`, or longer while the group rebalances. Records of one partition come in order.
    ///
    /// # Errors
    /// [`ClientError`] that waiting does not mend; the consumer can go on being used. What brokers and networks do for a while is
    /// retried inside.
    pub async fn poll(&mut self, timeout: Duration) -> Result<Vec<ConsumedRecord>, ClientError> {
        let runtime = self.client.runtime().clone();
        let deadline = runtime.now() + timeout;
        loop {
            self.take_part_in_group().await?;
            self.auto_commit().await;
            if !self.ready.is_empty() {
                return Ok(self.hand_out());
            }
            let now = runtime.now();
            if self.pause_until.is_none_or(|until| until <= now) {
                self.pause_until = None;
                if let Err(error) = self.ask().await {
                    self.pause_or(error)?;
                }
            }
            let wake_at = self.pause_until.map_or(deadline, |until| until.min(deadline));
            let membership = &mut self.membership;
            let nodes = &mut self.nodes;
            tokio::select! {
                biased;
                (node, answer) = any_answer(nodes) => self.fetched(node, answer)?,
                () = async { match membership { Some(membership) => membership.changed().await, None => std::future::pending().await } } => {}
                () = runtime.timer(wake_at) => {}
            }
            if self.ready.is_empty() && runtime.now() >= deadline {
                return Ok(Vec::new());
            }
        }
    }

    /// Hands records out and moves the positions past them.
    fn hand_out(&mut self) -> Vec<ConsumedRecord> {
        let count = self.ready.len().min(self.config.max_poll_records.max(1));
        let records: Vec<ConsumedRecord> = self.ready.drain(..count).collect();
        for record in &records {
            if let Some(reading) = self.reading.get_mut(&record.partition) {
                reading.buffered -= 1;
                // After the last of a fetch, the position is the fetch's end: control batches and compaction leave gaps.
                reading.position = if reading.buffered == 0 { reading.next } else { record.offset + 1 };
                reading.leader_epoch = record.leader_epoch;
            }
        }
        records
    }

    /// Passes an error on if waiting does not mend it, and pauses otherwise.
    fn pause_or(&mut self, error: ClientError) -> Result<(), ClientError> {
        if !error.is_retriable() {
            return Err(error);
        }
        self.pause_until = Some(self.client.runtime().now() + self.client.config().retry_backoff);
        Ok(())
    }

    /// Finds positions where they are not known, then fetches from every broker that has something to fetch and no fetch in flight.
    async fn ask(&mut self) -> Result<(), ClientError> {
        self.find_positions().await?;
        let mut by_node: BTreeMap<i32, (BTreeMap<TopicPartition, FetchFrom>, crate::client::Connection<R>)> = BTreeMap::new();
        let mut result = Ok(());
        let busy: BTreeSet<&TopicPartition> =
            self.nodes.values().filter_map(|node| node.fetching.as_ref()).flat_map(|fetching| fetching.wanted.keys()).collect();
        for (partition, reading) in &self.reading {
            if reading.start.is_some() || reading.buffered > 0 || reading.paused || busy.contains(partition) {
                continue;
            }
            match self.client.leader_once(partition).await {
                Ok(leader) => {
                    let from =
                        FetchFrom { topic_id: leader.topic_id, offset: reading.next, leader_epoch: leader.epoch, max_bytes: self.config.partition_max_bytes };
                    by_node.entry(leader.id).or_insert_with(|| (BTreeMap::new(), leader.connection)).0.insert(partition.clone(), from);
                }
                Err(error) => result = Err(error),
            }
        }
        drop(busy);
        let bounds = FetchBounds {
            max_wait_ms: i32::try_from(self.config.fetch_max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: self.config.fetch_min_bytes,
            max_bytes: self.config.fetch_max_bytes,
            read_committed: false,
        };
        for (id, (wanted, connection)) in by_node {
            let sessions = self.config.fetch_sessions;
            let node = self.nodes.entry(id).or_insert_with(|| Node { session: FetchSession::new(sessions), fetching: None });
            if node.fetching.is_some() {
                continue;
            }
            let has_ids = wanted.values().all(|from| from.topic_id != Uuid::nil());
            let version = connection.version_up_to::<FetchRequest>(if has_ids { i16::MAX } else { 12 })?;
            let request = node.session.request(&wanted, bounds, version);
            let timeout = self.client.config().request_timeout + self.config.fetch_max_wait;
            match connection.start(version, &request, timeout).await {
                Ok(answer) => {
                    let turns = wanted.keys().filter_map(|partition| Some((partition.clone(), self.reading.get(partition)?.turn))).collect();
                    node.fetching = Some(Fetching { answer, version, wanted, turns });
                }
                Err(error) => {
                    node.session.lost();
                    result = Err(error);
                }
            }
        }
        result
    }

    /// A broker answered a fetch.
    fn fetched(&mut self, id: i32, answer: Result<FetchResponse, ClientError>) -> Result<(), ClientError> {
        let Some(node) = self.nodes.get_mut(&id) else { return Ok(()) };
        let Some(Fetching { version, wanted, turns, .. }) = node.fetching.take() else { return Ok(()) };
        let result = match answer {
            Ok(response) => node.session.answered(response, &wanted, version),
            Err(error) => {
                node.session.lost();
                Err(error)
            }
        };
        let partitions = match result {
            Ok(partitions) => partitions,
            // The next request opens a new session; nothing else is wrong.
            Err(error) if is_session_error(&error) => {
                if error.code() == Some(ResponseError::FetchSessionTopicIdError) {
                    wanted.keys().for_each(|partition| self.client.invalidate(&partition.topic));
                }
                return Ok(());
            }
            Err(error) => {
                wanted.keys().for_each(|partition| self.client.invalidate(&partition.topic));
                return self.pause_or(error);
            }
        };
        let mut result = Ok(());
        for (partition, data) in partitions {
            // Of a partition that was taken away or sought elsewhere meanwhile, the answer is void.
            let current = self.reading.get(&partition).is_some_and(|reading| turns.get(&partition) == Some(&reading.turn));
            if current && let Err(error) = self.fetched_partition(&partition, data) {
                result = Err(error);
            }
        }
        result
    }

    fn fetched_partition(&mut self, partition: &TopicPartition, data: PartitionData) -> Result<(), ClientError> {
        let Some(reading) = self.reading.get_mut(partition) else { return Ok(()) };
        if data.error_code == ResponseError::OffsetOutOfRange.code() {
            reading.start = match self.config.auto_offset_reset {
                OffsetReset::Earliest => Some(StartAt::Earliest),
                OffsetReset::Latest => Some(StartAt::Latest),
                OffsetReset::None => return ClientError::check(data.error_code, None, || format!("fetching {partition} at offset {}", reading.next)),
            };
            return Ok(());
        }
        if let Err(error) = ClientError::check(data.error_code, None, || format!("fetching {partition}")) {
            if error.wants_metadata() {
                self.client.invalidate(&partition.topic);
            }
            return self.pause_or(error);
        }
        reading.high_watermark = data.high_watermark;
        reading.log_start_offset = data.log_start_offset;
        let Some(bytes) = data.records else { return Ok(()) };
        let before = self.ready.len();
        let next = decode_fetched(partition, reading.next, bytes, self.config.batch_limit_bytes, &mut self.ready)?;
        reading.next = next;
        reading.buffered += self.ready.len() - before;
        if reading.buffered == 0 {
            reading.position = next;
        }
        Ok(())
    }

    /// Finds where to begin, for partitions that do not know it.
    async fn find_positions(&mut self) -> Result<(), ClientError> {
        let starting: Vec<(TopicPartition, StartAt)> =
            self.reading.iter().filter_map(|(partition, reading)| Some((partition.clone(), reading.start?))).collect();
        if starting.is_empty() {
            return Ok(());
        }
        let of_group: Vec<TopicPartition> = starting.iter().filter(|(_, start)| *start == StartAt::Committed).map(|(partition, _)| partition.clone()).collect();
        if !of_group.is_empty() {
            let Some(group) = self.config.group.as_ref().map(|group| group.group_id.clone()) else {
                return Err(ClientError::Invalid { what: "committed offsets belong to a group, and none is configured".into() });
            };
            let committed = self.client.committed_once(&group, Some(&of_group)).await?;
            for partition in of_group {
                let Some(reading) = self.reading.get_mut(&partition) else { continue };
                match committed.get(&partition) {
                    Some(committed) => {
                        reading.next = committed.offset;
                        reading.position = committed.offset;
                        reading.start = None;
                    }
                    None => {
                        reading.start = match self.config.auto_offset_reset {
                            OffsetReset::Earliest => Some(StartAt::Earliest),
                            OffsetReset::Latest => Some(StartAt::Latest),
                            OffsetReset::None => {
                                return Err(ClientError::Invalid { what: format!("group {group} has no committed offset for {partition}").into() });
                            }
                        };
                    }
                }
            }
        }
        let mut result = Ok(());
        let starting: Vec<(TopicPartition, StartAt)> =
            self.reading.iter().filter_map(|(partition, reading)| Some((partition.clone(), reading.start?))).collect();
        for (partition, start) in starting {
            match self.client.offset_once(&partition, start).await {
                Ok(offset) => {
                    if let Some(reading) = self.reading.get_mut(&partition) {
                        reading.next = offset;
                        reading.position = offset;
                        reading.start = None;
                    }
                }
                Err(error) => result = Err(error),
            }
        }
        result
    }

    /// Joins again if the group asks for it.
    async fn take_part_in_group(&mut self) -> Result<(), ClientError> {
        loop {
            let Some(membership) = &mut self.membership else { return Ok(()) };
            let now = self.client.runtime().now();
            if now >= self.next_count_check {
                self.next_count_check = now + self.client.config().metadata_max_age.min(Duration::from_secs(30));
                membership.check_partition_counts().await;
            }
            let lost = match membership.turn()? {
                Turn::None => return Ok(()),
                Turn::Rejoin { lost } => lost,
            };
            if !lost && membership.config().auto_commit_interval.is_some() {
                // Best effort: what is not committed is read again by whoever gets it.
                let _ = self.commit().await;
            }
            let Some(membership) = &mut self.membership else { return Ok(()) };
            if lost || !membership.is_cooperative() {
                self.revoked.extend(self.reading.keys().cloned());
                self.reading.clear();
                self.ready.clear();
            }
            let owned: Vec<TopicPartition> = self.reading.keys().cloned().collect();
            let joined = match membership.join(&owned).await {
                Ok(joined) => joined,
                Err(error) => {
                    // What it had is not its own any more.
                    self.revoked.extend(self.reading.keys().cloned());
                    self.reading.clear();
                    self.ready.clear();
                    match error.code() {
                        Some(ResponseError::UnknownMemberId | ResponseError::IllegalGeneration) => continue,
                        _ => return Err(error),
                    }
                }
            };
            let assigned: BTreeSet<TopicPartition> = joined.partitions.into_iter().collect();
            let given_up: Vec<TopicPartition> = owned.into_iter().filter(|partition| !assigned.contains(partition)).collect();
            for partition in &given_up {
                self.reading.remove(partition);
                self.ready.retain(|record| record.partition != *partition);
            }
            for partition in assigned {
                if !self.reading.contains_key(&partition) {
                    self.start_reading(partition, StartAt::Committed);
                }
            }
            if given_up.is_empty() {
                return Ok(());
            }
            // Cooperative: what was given up is handed over in a rebalance that this member asks for (KIP-429).
            self.revoked.extend(given_up);
            if let Some(membership) = &mut self.membership {
                membership.rejoin();
            }
        }
    }

    async fn auto_commit(&mut self) {
        let Some(interval) = self.config.group.as_ref().and_then(|group| group.auto_commit_interval) else { return };
        let now = self.client.runtime().now();
        if now - self.last_auto_commit >= interval {
            self.last_auto_commit = now;
            // The next one says the same and more.
            let _ = self.commit().await;
        }
    }

    /// The next offset of each partition: what [`Consumer::commit`] commits.
    pub fn positions(&self) -> BTreeMap<TopicPartition, CommittedOffset> {
        let known = self.reading.iter().filter(|(_, reading)| reading.start.is_none() && reading.position >= 0);
        known
            .map(|(partition, reading)| {
                (partition.clone(), CommittedOffset { offset: reading.position, leader_epoch: reading.leader_epoch, metadata: String::new() })
            })
            .collect()
    }

    /// Commits what [`Consumer::poll`] has returned, with retries.
    ///
    /// # Errors
    /// [`ClientError`]; of [`ClientError::maybe_executed`] ones the commit may have been taken.
    pub async fn commit(&mut self) -> Result<(), ClientError> {
        let positions = self.positions();
        self.commit_offsets(&positions).await
    }

    /// Commits these offsets, with retries.
    ///
    /// # Errors
    /// As [`Consumer::commit`].
    pub async fn commit_offsets(&mut self, offsets: &BTreeMap<TopicPartition, CommittedOffset>) -> Result<(), ClientError> {
        let group = self.config.group.as_ref().ok_or_else(|| ClientError::Invalid { what: "a commit needs a group".into() })?.group_id.clone();
        let mut retry = self.client.retry(format!("committing offsets of group {group}"));
        loop {
            let result = match &mut self.membership {
                Some(membership) => membership.commit_once(offsets).await,
                None => commit_offsets(&self.client, &group, "", -1, None, offsets).await,
            };
            match result {
                Ok(()) => return Ok(()),
                Err(error) => {
                    self.client.heed_coordinator_error(&group, &error);
                    retry.after(error).await?;
                }
            }
        }
    }

    /// Commits if that is automatic, and leaves the group.
    ///
    /// # Errors
    /// [`ClientError`] of leaving; the group finds out by itself then.
    pub async fn close(mut self) -> Result<(), ClientError> {
        if self.config.group.as_ref().is_some_and(|group| group.auto_commit_interval.is_some()) {
            let _ = self.commit().await;
        }
        match &mut self.membership {
            Some(membership) => membership.leave().await,
            None => Ok(()),
        }
    }
}

/// The first answer to a fetch that comes from any broker.
async fn any_answer<R: Runtime>(nodes: &mut BTreeMap<i32, Node<R>>) -> (i32, Result<FetchResponse, ClientError>) {
    poll_fn(|cx| {
        for (id, node) in nodes.iter_mut() {
            if let Some(fetching) = &mut node.fetching
                && let Poll::Ready(answer) = Pin::new(&mut fetching.answer).poll(cx)
            {
                return Poll::Ready((*id, answer));
            }
        }
        Poll::Pending
    })
    .await
}

/// Decodes fetched batches from `from` on, into `out`, and returns the next offset to fetch. A batch that is cut at the end is left for
/// the next fetch.
fn decode_fetched(partition: &TopicPartition, from: i64, mut bytes: Bytes, limit_bytes: usize, out: &mut VecDeque<ConsumedRecord>) -> Result<i64, ClientError> {
    let bad = |offset: i64, what: String| ClientError::BadRecords { partition: partition.to_string().into(), offset, what: what.into() };
    let mut next = from;
    while bytes.len() >= HEADER_BYTES {
        let header = Header::parse(&bytes).map_err(|error| bad(next, error.to_string()))?;
        if header.size_in_bytes() > bytes.len() {
            break;
        }
        let header = Header::whole(&bytes).map_err(|error| bad(next, error.to_string()))?;
        let batch = bytes.slice(..header.size_in_bytes());
        bytes.advance(header.size_in_bytes());
        if header.next_offset() <= next {
            // The broker answers with the whole batch that holds the offset, and only that can begin before it.
            continue;
        }
        if !header.is_control() {
            let decoded = records(&batch, limit_bytes).map_err(|error| bad(next, error.to_string()))?;
            for record in decoded {
                let record = record.map_err(|error| bad(next, error.to_string()))?;
                if record.offset < from {
                    continue;
                }
                out.push_back(ConsumedRecord {
                    partition: partition.clone(),
                    offset: record.offset,
                    timestamp_ms: if header.is_log_append_time() { header.max_timestamp } else { record.timestamp },
                    is_log_append_time: header.is_log_append_time(),
                    leader_epoch: header.partition_leader_epoch,
                    key: record.key,
                    value: record.value,
                    headers: record.headers,
                });
            }
        }
        next = header.next_offset();
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchBuilder;

    fn batch(base_offset: i64, values: &[&str]) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(base_offset);
        for value in values {
            builder.push(7, None, Some(value.as_bytes()), &[]);
        }
        builder.build().to_vec()
    }

    fn decode(from: i64, bytes: Vec<u8>) -> Result<(i64, Vec<(i64, String)>), ClientError> {
        let mut out = VecDeque::new();
        let next = decode_fetched(&TopicPartition::new("t", 0), from, bytes.into(), 1 << 20, &mut out)?;
        Ok((next, out.into_iter().map(|record| (record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap())).collect()))
    }

    #[test]
    fn a_fetch_begins_in_the_middle_of_a_batch_and_ends_in_another() {
        let mut bytes = batch(10, &["a", "b", "c"]);
        bytes.extend(batch(13, &["d"]));
        let cut = batch(14, &["e", "f"]);
        bytes.extend(&cut[..cut.len() - 1]);
        assert_eq!(decode(11, bytes).unwrap(), (14, vec![(11, "b".to_owned()), (12, "c".to_owned()), (13, "d".to_owned())]));
        assert_eq!(decode(3, Vec::new()).unwrap(), (3, Vec::new()));
    }

    #[test]
    fn damaged_batches_are_an_error() {
        let mut bytes = batch(0, &["a"]);
        *bytes.last_mut().unwrap() ^= 1;
        assert!(matches!(decode(0, bytes), Err(ClientError::BadRecords { offset: 0, .. })));
    }
}
