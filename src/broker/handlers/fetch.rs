//! Fetch (API 1): committed records from files to sockets, sessions (KIP-227), and the long poll.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Error;

use super::follower_fetch::FollowerFetch;
use super::{Context, led_partition, partition_error, read_error};
use crate::broker::Broker;
use crate::broker::connection::{FileOf, Response};
use crate::broker::dispatch::Outcome;
use crate::broker::fetch_session::{FetchContext, PartitionKey, SessionError, SessionRequest, Told, TopicKey, Wanted};
use crate::config::broker::ReplicaSelector;
use crate::config::topic::CompressionType;
use crate::purgatory::Waiter;
use crate::replication::follower::{Lineage, compare_ends};
use crate::replication::leader::{self, FollowerError};
use crate::replication::partition::Partition;
use crate::runtime::Runtime;
use crate::wire::fetch::Part;
use crate::wire::fetch::{
    AbortedTransaction, EpochEndOffset, FetchRequest, FetchResponse, FetchableTopicResponse, NO_SESSION_ID, PartitionData, TOPIC_ID_VERSION, ZSTD_VERSION,
};
use crate::wire::frame::RequestHeader;

/// The first version whose consumers may be served by followers (KIP-392).
const FOLLOWER_VERSION: i16 = 11;

/// Isolation level of readers that see only committed transactions.
const READ_COMMITTED: i8 = 1;

/// Fetch.
pub async fn fetch<R: Runtime>(broker: &Arc<Broker<R>>, header: RequestHeader, _context: Context, body: Bytes) -> Outcome<R> {
    let request = match FetchRequest::decode(body, header.version) {
        Ok(request) => request,
        Err(error) => return Outcome::Close(format!("a malformed Fetch request: {error}")),
    };
    let fresh_id = (broker.runtime().random_u64() >> 33) as i32 | 1;
    let max_bytes = request.max_bytes.clamp(0, broker.config().fetch_max_bytes) as usize;
    // More than an answer may hold would never be there.
    let min_bytes = (request.min_bytes.max(0) as u64).min(max_bytes as u64);
    let max_wait = Duration::from_millis(request.max_wait_ms.max(0) as u64);
    let follower = request.is_from_follower().then_some((request.replica_id, request.replica_epoch));
    let reader = Reader {
        broker: Arc::clone(broker),
        version: header.version,
        follower,
        rack: preferred_rack(broker, &request),
        read_committed: request.isolation_level == READ_COMMITTED,
        max_bytes,
    };
    if let Some(replica) = follower {
        match FollowerFetch::of(reader.clone(), &request, replica, fresh_id, min_bytes) {
            Ok(Some(fetch)) => return later(header, async move { fetch.run(max_wait).await }),
            Ok(None) => {}
            Err(error) => return refused(&header, error),
        }
    }
    let context = match broker.fetch_sessions().begin(session_request(&request), fresh_id, broker.runtime().now()) {
        Ok(context) => context,
        Err(error) => return refused(&header, error),
    };
    let fetch = Fetch { reader, min_bytes, context, waiter: Waiter::new(), registered: Vec::new() };
    drop(request);
    later(header, async move { fetch.run(max_wait).await })
}

fn refused<R: Runtime>(header: &RequestHeader, error: SessionError) -> Outcome<R> {
    let code = match error {
        SessionError::NotFound => Error::FetchSessionIdNotFound,
        SessionError::InvalidEpoch => Error::InvalidFetchSessionEpoch,
        SessionError::TopicIds => Error::FetchSessionTopicIdError,
    };
    let response = FetchResponse { throttle_time_ms: 0, error_code: code.code(), session_id: NO_SESSION_ID, topics: Vec::new(), node_endpoints: Vec::new() };
    match frame::<R>(header, response) {
        Ok(response) => Outcome::Reply(response),
        Err(why) => Outcome::Close(why),
    }
}

fn later<R: Runtime>(header: RequestHeader, answer: impl Future<Output = FetchResponse<FileOf<R>>> + Send + 'static) -> Outcome<R> {
    Outcome::Later(Box::pin(async move {
        let response = answer.await;
        frame::<R>(&header, response).unwrap_or_else(|why| {
            tracing::error!(why, "a fetch response could not be encoded");
            let failed = FetchResponse {
                throttle_time_ms: 0,
                error_code: Error::UnknownServerError.code(),
                session_id: 0,
                topics: Vec::new(),
                node_endpoints: Vec::new(),
            };
            frame::<R>(&header, failed).expect("an empty response can be encoded")
        })
    }))
}

/// The rack whose replicas a consumer is sent to.
fn preferred_rack<R: Runtime>(broker: &Broker<R>, request: &FetchRequest) -> Option<String> {
    let is_wanted = broker.config().replica_selector_class == ReplicaSelector::RackAware && !request.is_from_follower() && !request.rack_id.is_empty();
    is_wanted.then(|| request.rack_id.to_string())
}

fn frame<R: Runtime>(header: &RequestHeader, response: FetchResponse<FileOf<R>>) -> Result<Response<R>, String> {
    response.into_frame(header.version, header.correlation_id).map(|frame| frame.parts.into()).map_err(|error| error.to_string())
}

fn session_request(request: &FetchRequest) -> SessionRequest {
    let uses_ids = request.version >= TOPIC_ID_VERSION;
    // What the session keeps is copied out of the frame.
    let key = |name: &str, id| if uses_ids { TopicKey::Id(id) } else { TopicKey::Name(Arc::from(name)) };
    let mut named = Vec::new();
    for topic in &request.topics {
        let topic_key = key(&topic.name, topic.topic_id);
        named.extend(topic.partitions.iter().map(|asked| ((topic_key.clone(), asked.partition), Wanted::of(asked))));
    }
    let forgotten = request
        .forgotten_topics
        .iter()
        .flat_map(|topic| {
            let topic_key = key(&topic.name, topic.topic_id);
            topic.partitions.iter().map(move |partition| (topic_key.clone(), *partition))
        })
        .collect();
    SessionRequest { id: request.session_id, epoch: request.session_epoch, uses_ids, named, forgotten }
}

/// The wire's word for a follower's fetch that does not count.
fn follower_error(error: &FollowerError, current_leader_epoch: i32) -> Error {
    match error {
        // With an epoch it may be LeaderAndIsr that is late here; without, the follower must look for another leader.
        FollowerError::NotAReplica { .. } if current_leader_epoch >= 0 => Error::UnknownLeaderEpoch,
        FollowerError::NotAReplica { .. } | FollowerError::StaleBrokerEpoch { .. } => Error::NotLeaderOrFollower,
    }
}

/// How one request reads partitions.
#[derive(Clone)]
pub(super) struct Reader<R: Runtime> {
    pub(super) broker: Arc<Broker<R>>,
    version: i16,
    /// The broker id and epoch of the follower that fetches; `None` for a consumer. Followers read to the log's end, and what they fetch tells what they have.
    follower: Option<(i32, i64)>,
    /// The rack of a consumer that is to read from a replica there, if one is (KIP-392).
    rack: Option<String>,
    read_committed: bool,
    pub(super) max_bytes: usize,
}

/// A fetch under way, of a consumer or of a follower without a session.
struct Fetch<R: Runtime> {
    reader: Reader<R>,
    min_bytes: u64,
    context: FetchContext,
    waiter: Arc<Waiter>,
    /// Where the waiter is registered.
    registered: Vec<Arc<Partition<R>>>,
}

impl<R: Runtime> Drop for Fetch<R> {
    fn drop(&mut self) {
        for partition in &self.registered {
            partition.forget(&self.waiter);
        }
    }
}

/// What one look at all partitions found.
struct Look<R: Runtime> {
    data: Vec<(Arc<str>, PartitionData<FileOf<R>>)>,
    bytes: u64,
    /// Whether some partition must be told of at once: an error, a diverging epoch.
    urgent: bool,
    /// What to wait for: each partition and how far it could be read when it was looked at.
    seen: Vec<(Arc<Partition<R>>, i64)>,
    /// What counts against the bound of what is sent to followers, in bytes (KIP-73).
    throttled: Vec<(Arc<Partition<R>>, u64)>,
}

impl<R: Runtime> Reader<R> {
    /// The replica in the consumer's rack that it is to read from instead of this leader.
    fn preferred_replica(&self, partition: &Partition<R>, offset: i64) -> Option<i32> {
        let rack = self.rack.as_deref()?;
        let image = self.broker.controller().image();
        let is_there = |id: i32| image.brokers.get(&id).is_some_and(|broker| broker.rack.as_deref() == Some(rack));
        if !partition.leads() || is_there(self.broker.id()) {
            return None;
        }
        partition.followers_at(offset).into_iter().find(|id| is_there(*id))
    }

    /// How far this reader may read.
    pub(super) fn readable_end(&self, partition: &Partition<R>) -> i64 {
        if self.follower.is_some() { partition.log().log_end_offset() } else { partition.high_watermark() }
    }

    pub(super) fn find(&self, (topic, number): &PartitionKey) -> (Arc<str>, Result<Arc<Partition<R>>, Error>) {
        let replicas = match topic {
            TopicKey::Name(name) => self.broker.replicas().topic(name),
            TopicKey::Id(id) => self.broker.replicas().topic_by_id(*id),
        };
        match (replicas, topic) {
            (Some(replicas), _) => {
                let name = Arc::clone(&replicas.image.name);
                if self.version < ZSTD_VERSION && replicas.config.compression_type == CompressionType::Zstd {
                    return (name, Err(Error::UnsupportedCompressionType));
                }
                let found = match replicas.partition(*number) {
                    Some(partition) => Ok(Arc::clone(partition)),
                    None => Err(led_partition(&self.broker, &name, *number).err().unwrap_or(Error::UnknownTopicOrPartition)),
                };
                (name, found)
            }
            (None, TopicKey::Name(name)) => (Arc::clone(name), Err(led_partition(&self.broker, name, *number).err().unwrap_or(Error::UnknownTopicOrPartition))),
            (None, TopicKey::Id(_)) => (Arc::from(""), Err(Error::UnknownTopicId)),
        }
    }

    pub(super) async fn read(&self, partition: &Arc<Partition<R>>, wanted: &Wanted, number: i32, taken_bytes: u64) -> Result<PartitionData<FileOf<R>>, Error> {
        let checked = match self.follower {
            Some(_) => partition.check_leader_epoch(wanted.current_leader_epoch),
            // Consumers of before KIP-392 are not served by followers: they would not know that they are.
            None if self.version < FOLLOWER_VERSION => partition.check_leader_epoch(wanted.current_leader_epoch),
            None => partition.check_reader_epoch(wanted.current_leader_epoch),
        };
        checked.map_err(|error| partition_error(&error))?;
        let log = partition.log();
        if let Some(preferred_read_replica) = self.preferred_replica(partition, wanted.fetch_offset) {
            return Ok(PartitionData {
                partition: number,
                error_code: 0,
                high_watermark: partition.high_watermark(),
                last_stable_offset: partition.high_watermark(),
                log_start_offset: log.log_start_offset(),
                diverging_epoch: None,
                current_leader: None,
                aborted_transactions: None,
                preferred_read_replica,
                records: smallvec::SmallVec::new(),
            });
        }
        let mut diverging_epoch = None;
        if wanted.last_fetched_epoch >= 0 {
            // KIP-595: a reader whose last epoch ended earlier here, or never was here, has records that this log does not.
            let lineage = log.end_offset_for_epoch(wanted.last_fetched_epoch);
            match compare_ends(lineage, wanted.last_fetched_epoch, wanted.fetch_offset) {
                Lineage::Same => {}
                Lineage::Unknown => return Err(Error::OffsetOutOfRange),
                Lineage::Diverging { epoch, end_offset } => diverging_epoch = Some(EpochEndOffset { epoch, end_offset }),
            }
        }
        let mut records = smallvec::SmallVec::new();
        let mut aborted_transactions = self.read_committed.then(Vec::new);
        if diverging_epoch.is_none() {
            let room = self.max_bytes.saturating_sub(taken_bytes as usize);
            // The first batch of a response always goes, however large (KIP-74).
            let first = taken_bytes == 0;
            let max_bytes = room.min(wanted.max_bytes.max(0) as usize);
            let waits = self.follower.is_some_and(|(replica, _)| partition.holds_back(replica));
            if !waits && (max_bytes > 0 || first) {
                let read = match self.follower {
                    Some(_) => partition.read_written(wanted.fetch_offset, max_bytes, first).await,
                    None => partition.read_committed(wanted.fetch_offset, max_bytes, first).await,
                };
                let slice = read.map_err(|error| read_error(&error))?;
                if slice.len > 0 {
                    if let Some(told) = &mut aborted_transactions {
                        let aborted = log.aborted_transactions(wanted.fetch_offset, slice.next_offset).into_iter();
                        told.extend(aborted.map(|aborted| AbortedTransaction { producer_id: aborted.producer_id, first_offset: aborted.first_offset }));
                    }
                    records.push(Part::Slice { file: slice.file, position: slice.position, len: slice.len });
                }
            }
        }
        if let (Some((replica, broker_epoch)), None) = (self.follower, diverging_epoch) {
            let fetch = leader::FollowerFetch { replica, broker_epoch, offset: wanted.fetch_offset, log_start_offset: wanted.log_start_offset };
            partition.follower_fetched(fetch).map_err(|error| follower_error(&error, wanted.current_leader_epoch))?;
        }
        let high_watermark = match self.follower {
            Some(_) => partition.high_watermark(),
            // A new leader that does not know how far an earlier one got says so (KIP-207); what is below what it knows may be read.
            None => partition.proven_high_watermark().unwrap_or(-1),
        };
        Ok(PartitionData {
            partition: number,
            error_code: 0,
            high_watermark,
            // No transaction is open: this release begins none, and logs with an open one are not adopted.
            last_stable_offset: high_watermark,
            log_start_offset: log.log_start_offset(),
            diverging_epoch,
            current_leader: None,
            aborted_transactions,
            preferred_read_replica: -1,
            records,
        })
    }
}

impl<R: Runtime> Fetch<R> {
    async fn run(mut self, max_wait: Duration) -> FetchResponse<FileOf<R>> {
        let runtime = self.reader.broker.runtime().clone();
        let mut deadline = None;
        loop {
            let look = self.look().await;
            if look.urgent || look.bytes >= self.min_bytes || max_wait.is_zero() || self.context.partitions.is_empty() {
                return self.response(look);
            }
            let timer = deadline.get_or_insert_with(|| runtime.sleep(max_wait));
            for (partition, end) in &look.seen {
                if self.reader.follower.is_some() {
                    partition.wake_when_appended(end + 1, &self.waiter);
                } else {
                    partition.wake_at(end + 1, &self.waiter);
                }
            }
            self.registered = look.seen.iter().map(|(partition, _)| Arc::clone(partition)).collect();
            if self.reader.broker.is_stopping() {
                return self.response(look);
            }
            // Whatever happened between the look and the registration woke nobody.
            if look.seen.iter().any(|(partition, seen)| self.reader.readable_end(partition) != *seen || self.is_role_over(partition)) {
                continue;
            }
            let timed_out = tokio::select! {
                biased;
                () = self.waiter.woken() => false,
                () = timer => true,
            };
            if timed_out {
                let look = self.look().await;
                return self.response(look);
            }
        }
    }

    /// Whether the replica may not answer this reader any more.
    fn is_role_over(&self, partition: &Partition<R>) -> bool {
        partition.is_deleted() || !(partition.leads() || (self.reader.follower.is_none() && partition.follows().is_some()))
    }

    async fn look(&self) -> Look<R> {
        let mut look = Look { data: Vec::with_capacity(self.context.partitions.len()), bytes: 0, urgent: false, seen: Vec::new(), throttled: Vec::new() };
        for (key, wanted) in &self.context.partitions {
            let (name, found) = self.reader.find(key);
            let data = match found {
                Ok(partition) => {
                    look.seen.push((Arc::clone(&partition), self.reader.readable_end(&partition)));
                    match self.reader.read(&partition, wanted, key.1, look.bytes).await {
                        Ok(data) => {
                            if self.reader.follower.is_some() && data.records_bytes() > 0 && partition.throttles_followers() {
                                look.throttled.push((Arc::clone(&partition), data.records_bytes()));
                            }
                            data
                        }
                        Err(error) => PartitionData { log_start_offset: partition.log().log_start_offset(), ..PartitionData::error(key.1, error) },
                    }
                }
                Err(error) => PartitionData::error(key.1, error),
            };
            look.bytes += data.records_bytes();
            look.urgent |= data.error_code != 0 || data.diverging_epoch.is_some() || data.preferred_read_replica >= 0;
            look.data.push((name, data));
        }
        look
    }

    fn response(&self, look: Look<R>) -> FetchResponse<FileOf<R>> {
        look.throttled.iter().for_each(|(partition, bytes)| partition.sent_to_follower(*bytes));
        let mut topics: Vec<FetchableTopicResponse<FileOf<R>>> = Vec::new();
        let mut last_key: Option<&TopicKey> = None;
        for ((key, _), (name, data)) in self.context.partitions.iter().zip(look.data) {
            let told = Told { high_watermark: data.high_watermark, log_start_offset: data.log_start_offset, error_code: data.error_code };
            let has_news = data.records_bytes() > 0 || data.diverging_epoch.is_some() || data.preferred_read_replica >= 0;
            if !self.reader.broker.fetch_sessions().tell(&self.context, key, told, has_news) {
                continue;
            }
            if last_key == Some(&key.0)
                && let Some(topic) = topics.last_mut()
            {
                topic.partitions.push(data);
                continue;
            }
            last_key = Some(&key.0);
            let topic_id = match &key.0 {
                TopicKey::Id(id) => *id,
                TopicKey::Name(_) => uuid::Uuid::nil(),
            };
            topics.push(FetchableTopicResponse { name, topic_id, partitions: vec![data] });
        }
        FetchResponse { throttle_time_ms: 0, error_code: 0, session_id: self.context.session_id, topics, node_endpoints: Vec::new() }
    }
}
