//! Fetch requests, with and without sessions (KIP-227): what a session has sent before is left out of the next request.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse};
use uuid::Uuid;

use crate::client::cluster::topic_name;
use crate::client::error::ClientError;
use crate::topic_partition::TopicPartition;

/// From where a partition is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchFrom {
    /// The topic's id; nil if unknown, which keeps the request below version 13.
    pub topic_id: Uuid,
    /// The next offset.
    pub offset: i64,
    /// The epoch in which the leader is believed to lead; −1 does not say.
    pub leader_epoch: i32,
    /// The most bytes of this partition.
    pub max_bytes: i32,
}

/// The bounds of one fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FetchBounds {
    /// How long the broker may wait for `min_bytes`, in ms.
    pub max_wait_ms: i32,
    /// How many bytes are worth an answer.
    pub min_bytes: i32,
    /// The most bytes of all partitions together.
    pub max_bytes: i32,
    /// Whether only records of committed transactions are wanted.
    pub read_committed: bool,
}

/// A fetch session with one broker; or none, where every request says everything.
#[derive(Debug)]
pub struct FetchSession {
    enabled: bool,
    id: i32,
    /// Of the next request: 0 asks for a new session, −1 for none.
    epoch: i32,
    /// What the broker knows that this session fetches.
    known: BTreeMap<TopicPartition, FetchFrom>,
}

impl FetchSession {
    /// A session that is not open yet; `enabled`: whether it ever will be.
    pub fn new(enabled: bool) -> Self {
        Self { enabled, id: 0, epoch: if enabled { 0 } else { -1 }, known: BTreeMap::new() }
    }

    /// The next request for `wanted`, at `version`. Versions from 13 name topics by id, and all of `wanted` must have one then.
    pub fn request(&mut self, wanted: &BTreeMap<TopicPartition, FetchFrom>, bounds: FetchBounds, version: i16) -> FetchRequest {
        let full = self.epoch <= 0;
        let mut topics: Vec<FetchTopic> = Vec::new();
        // A recreated topic has another id: the old one is forgotten and the new one added.
        let replaced = |partition: &TopicPartition, from: &FetchFrom| self.known.get(partition).is_some_and(|known| known.topic_id != from.topic_id);
        for (partition, from) in wanted {
            if !full && self.known.get(partition) == Some(from) {
                continue;
            }
            let fetch = FetchPartition::default()
                .with_partition(partition.partition)
                .with_fetch_offset(from.offset)
                .with_current_leader_epoch(from.leader_epoch)
                .with_partition_max_bytes(from.max_bytes);
            let same = |topic: &FetchTopic| if version >= 13 { topic.topic_id == from.topic_id } else { topic.topic.as_str() == &*partition.topic };
            match topics.last_mut().filter(|topic| same(topic)) {
                Some(topic) => topic.partitions.push(fetch),
                None => {
                    let topic = FetchTopic::default().with_partitions(vec![fetch]);
                    topics.push(if version >= 13 { topic.with_topic_id(from.topic_id) } else { topic.with_topic(topic_name(&partition.topic)) });
                }
            }
        }
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        if !full {
            for (partition, known) in &self.known {
                if wanted.get(partition).is_none_or(|from| replaced(partition, from)) {
                    let topic = ForgottenTopic::default().with_partitions(vec![partition.partition]);
                    forgotten.push(if version >= 13 { topic.with_topic_id(known.topic_id) } else { topic.with_topic(topic_name(&partition.topic)) });
                }
            }
        }
        if self.enabled {
            self.known = wanted.clone();
        }
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(bounds.max_wait_ms)
            .with_min_bytes(bounds.min_bytes)
            .with_max_bytes(bounds.max_bytes)
            .with_isolation_level(i8::from(bounds.read_committed))
            .with_session_id(self.id)
            .with_session_epoch(self.epoch)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten)
    }

    /// Takes the answer's word on the session, and the partitions by name. Partitions that nobody wants are left out.
    ///
    /// # Errors
    /// The answer's own error; the session begins anew then.
    pub fn answered(
        &mut self,
        response: FetchResponse,
        wanted: &BTreeMap<TopicPartition, FetchFrom>,
        version: i16,
    ) -> Result<Vec<(TopicPartition, PartitionData)>, ClientError> {
        if let Err(error) = ClientError::check(response.error_code, None, || "fetching".to_owned()) {
            self.lost();
            return Err(error);
        }
        if self.enabled {
            match (response.session_id, self.epoch) {
                // The broker has no room for a session: the next request says everything again.
                (0, _) => self.lost(),
                (id, 0) => {
                    self.id = id;
                    self.epoch = 1;
                }
                // Epochs go round to 1: 0 would ask for a new session.
                _ => self.epoch = if self.epoch == i32::MAX { 1 } else { self.epoch + 1 },
            }
        }
        let by_id: BTreeMap<Uuid, Arc<str>> = wanted.iter().map(|(partition, from)| (from.topic_id, partition.topic.clone())).collect();
        let mut partitions = Vec::new();
        for topic in response.responses {
            let name = if version >= 13 { by_id.get(&topic.topic_id).cloned() } else { Some(Arc::from(topic.topic.as_str())) };
            let Some(name) = name else { continue };
            for data in topic.partitions {
                let partition = TopicPartition::new(name.clone(), data.partition_index);
                if wanted.contains_key(&partition) {
                    partitions.push((partition, data));
                }
            }
        }
        Ok(partitions)
    }

    /// The connection was lost, or the broker does not know the session: the next request opens a new one.
    pub fn lost(&mut self) {
        *self = Self::new(self.enabled);
    }
}

/// Whether an error is about the session alone, so that nothing but a new session is needed.
pub fn is_session_error(error: &ClientError) -> bool {
    matches!(error.code(), Some(ResponseError::FetchSessionIdNotFound | ResponseError::InvalidFetchSessionEpoch | ResponseError::FetchSessionTopicIdError))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bounds() -> FetchBounds {
        FetchBounds { max_wait_ms: 500, min_bytes: 1, max_bytes: 1000, read_committed: false }
    }

    fn wanted(list: &[(i32, i64)]) -> BTreeMap<TopicPartition, FetchFrom> {
        let from = |offset| FetchFrom { topic_id: Uuid::from_u128(1), offset, leader_epoch: 0, max_bytes: 100 };
        list.iter().map(|(partition, offset)| (TopicPartition::new("t", *partition), from(*offset))).collect()
    }

    fn asked(request: &FetchRequest) -> Vec<(i32, i64)> {
        request.topics.iter().flat_map(|topic| &topic.partitions).map(|partition| (partition.partition, partition.fetch_offset)).collect()
    }

    fn open(session: &mut FetchSession, list: &[(i32, i64)]) {
        session.request(&wanted(list), bounds(), 13);
        session.answered(FetchResponse::default().with_session_id(7), &wanted(list), 13).unwrap();
    }

    #[test]
    fn a_session_sends_what_changed() {
        let mut session = FetchSession::new(true);
        let first = session.request(&wanted(&[(0, 0), (1, 0)]), bounds(), 13);
        assert_eq!((first.session_id, first.session_epoch, asked(&first)), (0, 0, vec![(0, 0), (1, 0)]));
        session.answered(FetchResponse::default().with_session_id(7), &wanted(&[(0, 0), (1, 0)]), 13).unwrap();
        let second = session.request(&wanted(&[(0, 5), (2, 0)]), bounds(), 13);
        assert_eq!((second.session_id, second.session_epoch, asked(&second)), (7, 1, vec![(0, 5), (2, 0)]));
        assert_eq!(second.forgotten_topics_data.len(), 1);
        assert_eq!(second.forgotten_topics_data[0].partitions, [1]);
    }

    #[test]
    fn a_lost_session_says_everything_again() {
        let mut session = FetchSession::new(true);
        open(&mut session, &[(0, 0)]);
        let error = session.answered(FetchResponse::default().with_error_code(70), &wanted(&[(0, 0)]), 13).unwrap_err();
        assert!(is_session_error(&error));
        let next = session.request(&wanted(&[(0, 0)]), bounds(), 13);
        assert_eq!((next.session_id, next.session_epoch, asked(&next)), (0, 0, vec![(0, 0)]));
    }

    #[test]
    fn without_sessions_every_request_is_whole() {
        let mut session = FetchSession::new(false);
        for _ in 0..2 {
            let request = session.request(&wanted(&[(0, 0)]), bounds(), 12);
            assert_eq!((request.session_id, request.session_epoch, asked(&request)), (0, -1, vec![(0, 0)]));
            assert_eq!(request.topics[0].topic.as_str(), "t");
            session.answered(FetchResponse::default(), &wanted(&[(0, 0)]), 12).unwrap();
        }
    }

    #[test]
    fn session_epochs_go_round_to_one() {
        let mut session = FetchSession::new(true);
        open(&mut session, &[(0, 0)]);
        session.epoch = i32::MAX;
        session.answered(FetchResponse::default().with_session_id(7), &wanted(&[(0, 0)]), 13).unwrap();
        assert_eq!(session.epoch, 1);
    }
}
