//! Fetches of followers within a session: what they name and what has changed is looked at, nothing else.
//!
//! A request that waits for records is answered when its follower sends the next one over the same connection: followers do that when they are given more partitions.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::fetch::Reader;
use crate::broker::connection::FileOf;
use crate::broker::fetch_session::{FINAL_EPOCH, INITIAL_EPOCH, SessionError, Told, TopicKey, Wanted};
use crate::broker::follower_session::{FollowerSession, Key, State};
use crate::replication::partition::Partition;
use crate::runtime::Runtime;
use crate::wire::fetch::{FetchRequest, FetchResponse, FetchableTopicResponse, NO_SESSION_ID, PartitionData, TOPIC_ID_VERSION};

/// How often all partitions of a session are looked at: what moves without a mark, as the start of a leader's log does by retention, is told then.
const SWEEP: Duration = Duration::from_secs(10);

/// One request.
pub(super) struct FollowerFetch<R: Runtime> {
    reader: Reader<R>,
    session: Arc<FollowerSession<R>>,
    epoch: i32,
    named: Vec<(Key, Wanted)>,
    forgotten: Vec<Key>,
    min_bytes: u64,
}

/// What was found of one partition.
struct Found<R: Runtime> {
    key: Key,
    name: Arc<str>,
    data: PartitionData<FileOf<R>>,
    /// Whether it must be looked at again whatever comes: there is more, or the follower has to do something first.
    stays: bool,
    /// Whether the follower is to be told at once: an error, a diverging epoch, or that the log starts elsewhere, which DeleteRecords waits for.
    is_urgent: bool,
    /// Whether there was more than had room, or might be sent by now.
    is_cut: bool,
    /// The partition, if what is sent of it counts against a bound (KIP-73).
    throttled: Option<Arc<Partition<R>>>,
}

/// Ends the session of a request that is dropped with its connection.
struct EndIfDropped<'a, R: Runtime>(Option<(&'a Reader<R>, i32)>);

impl<R: Runtime> Drop for EndIfDropped<'_, R> {
    fn drop(&mut self) {
        if let Some((reader, id)) = self.0 {
            reader.broker.follower_sessions().end(id);
        }
    }
}

impl<R: Runtime> FollowerFetch<R> {
    /// The request within its session, a new one or the one it goes on with; `None` if it is of none.
    ///
    /// # Errors
    /// If its session is not there, or not so far.
    pub(super) fn of(reader: Reader<R>, request: &FetchRequest, replica: (i32, i64), fresh_id: i32, min_bytes: u64) -> Result<Option<Self>, SessionError> {
        if request.version < TOPIC_ID_VERSION || request.session_epoch == FINAL_EPOCH {
            return Ok(None);
        }
        let (sessions, now) = (reader.broker.follower_sessions(), reader.broker.runtime().now());
        let session = if request.session_epoch == INITIAL_EPOCH {
            match sessions.begin(fresh_id, request.session_id, replica, now).filter(|_| !request.topics.is_empty()) {
                Some(session) => session,
                None => return Ok(None),
            }
        } else {
            sessions.go_on(request.session_id, request.session_epoch, replica, now)?
        };
        let mut named = Vec::new();
        for topic in &request.topics {
            named.extend(topic.partitions.iter().map(|asked| ((topic.topic_id, asked.partition), Wanted::of(asked))));
        }
        let forgotten = request.forgotten_topics.iter().flat_map(|topic| topic.partitions.iter().map(|partition| (topic.topic_id, *partition))).collect();
        Ok(Some(Self { reader, session, epoch: request.session_epoch, named, forgotten, min_bytes }))
    }

    pub(super) async fn run(mut self, max_wait: Duration) -> FetchResponse<FileOf<R>> {
        let broker = Arc::clone(&self.reader.broker);
        let runtime = broker.runtime();
        let session = Arc::clone(&self.session);
        let mut ends = EndIfDropped(Some((&self.reader, session.id)));
        let mut state = session.turn(self.epoch).await;
        state.take_in(std::mem::take(&mut self.named), &self.forgotten);
        if state.is_empty() {
            // Nothing is left of it; the follower begins a new one when it wants something again.
            return empty(NO_SESSION_ID);
        }
        let now = runtime.now();
        if now - state.swept_at >= SWEEP {
            state.enqueue_all(now);
        }
        let mut deadline = None;
        let mut is_over = max_wait.is_zero();
        loop {
            state.enqueue_changed(&session.interest);
            let found = self.look(&mut state).await;
            let bytes: u64 = found.iter().map(|found| found.data.records_bytes()).sum();
            let is_urgent = found.iter().any(|found| found.is_urgent);
            if is_over || is_urgent || bytes >= self.min_bytes || session.is_overtaken(self.epoch) || broker.is_stopping() {
                let response = self.response(&mut state, found);
                session.done(&mut state, self.epoch);
                ends.0 = None;
                return response;
            }
            // What is to be told stays; the rest comes back when it changes.
            for found in found {
                let is_told = state.entry(&found.key).is_some_and(|entry| entry.told == Some(told(&found.data)));
                if found.stays || !is_told {
                    state.enqueue(found.key);
                }
            }
            let timer = deadline.get_or_insert_with(|| runtime.sleep(max_wait));
            is_over = tokio::select! {
                biased;
                () = session.interest.woken() => false,
                () = timer => true,
            };
        }
    }

    async fn look(&self, state: &mut State<R>) -> Vec<Found<R>> {
        let keys = state.queued();
        let (mut all, mut bytes) = (Vec::with_capacity(keys.len()), 0);
        for key in keys {
            let (name, found) = self.reader.find(&(TopicKey::Id(key.0), key.1));
            if let Ok(partition) = &found {
                state.watch(key, partition, &self.session.interest);
            }
            let Some((wanted, before)) = state.entry(&key).map(|entry| (entry.wanted.clone(), entry.told)) else { continue };
            let throttled = found.as_ref().ok().filter(|partition| partition.throttles_followers()).cloned();
            let (data, is_cut) = match found {
                Ok(partition) => match self.reader.read(&partition, &wanted, key.1, bytes).await {
                    Ok(data) => {
                        let is_cut = data.records_bytes() == 0 && data.diverging_epoch.is_none() && self.reader.readable_end(&partition) > wanted.fetch_offset;
                        (data, is_cut)
                    }
                    Err(error) => (PartitionData { log_start_offset: partition.log().log_start_offset(), ..PartitionData::error(key.1, error) }, false),
                },
                Err(error) => (PartitionData::error(key.1, error), false),
            };
            bytes += data.records_bytes();
            let starts_elsewhere = before.is_some_and(|before| before.log_start_offset != data.log_start_offset);
            let is_urgent = data.error_code != 0 || data.diverging_epoch.is_some() || starts_elsewhere;
            let stays = is_cut || data.records_bytes() > 0 || data.error_code != 0 || data.diverging_epoch.is_some();
            all.push(Found { key, name, data, stays, is_urgent, is_cut, throttled });
        }
        all
    }

    /// The answer: in the first one of a session all partitions, later those with records, an error or news.
    fn response(&self, state: &mut State<R>, found: Vec<Found<R>>) -> FetchResponse<FileOf<R>> {
        // What had no room is served first next time.
        found.iter().filter(|found| found.is_cut).for_each(|found| state.enqueue(found.key));
        found.iter().filter(|found| found.stays).for_each(|found| state.enqueue(found.key));
        let mut topics: Vec<FetchableTopicResponse<FileOf<R>>> = Vec::new();
        let mut last: Option<Uuid> = None;
        for Found { key, name, data, throttled, .. } in found {
            if let Some(partition) = throttled {
                partition.sent_to_follower(data.records_bytes());
            }
            let Some(entry) = state.entry(&key) else { continue };
            let told = Some(told(&data));
            let is_news = std::mem::replace(&mut entry.told, told) != told;
            let has_something = data.records_bytes() > 0 || data.diverging_epoch.is_some() || data.error_code != 0;
            if self.epoch != INITIAL_EPOCH && !is_news && !has_something {
                continue;
            }
            match topics.last_mut() {
                Some(topic) if last == Some(key.0) => topic.partitions.push(data),
                _ => topics.push(FetchableTopicResponse { name, topic_id: key.0, partitions: vec![data] }),
            }
            last = Some(key.0);
        }
        FetchResponse { topics, ..empty(self.session.id) }
    }
}

fn empty<F>(session_id: i32) -> FetchResponse<F> {
    FetchResponse { throttle_time_ms: 0, error_code: 0, session_id, topics: Vec::new(), node_endpoints: Vec::new() }
}

fn told<F>(data: &PartitionData<F>) -> Told {
    Told { high_watermark: data.high_watermark, log_start_offset: data.log_start_offset, error_code: data.error_code }
}
