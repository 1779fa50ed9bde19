//! Simulated members of a consumer group (the classic protocol): join, sync, read what they are given, commit, and sometimes fall silent longer than
//! their session.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::{
    FindCoordinatorRequest, GroupId, HeartbeatRequest, JoinGroupRequest, LeaveGroupRequest, OffsetCommitRequest, OffsetFetchRequest, SyncGroupRequest,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla::runtime::Runtime;

use super::history::Place;
use super::link::Link;

/// How a member behaves.
#[derive(Clone, Debug)]
pub struct Habit {
    /// The group.
    pub group: String,
    /// A static member's name (KIP-345).
    pub instance: Option<String>,
    /// `session.timeout.ms`.
    pub session_timeout_ms: i32,
    /// Leaves, in parts per million of rounds.
    pub leave_ppm: u32,
    /// Falls silent past its session, in parts per million of rounds.
    pub silent_ppm: u32,
    /// The newest version of JoinGroup that it speaks.
    pub join_version: i16,
}

const CALL: Duration = Duration::from_secs(20);

struct Member<R: Runtime> {
    link: Link<R>,
    habit: Habit,
    id: StrBytes,
    generation: i32,
    /// What it owns, with the offset to commit next.
    owned: BTreeMap<Place, i64>,
}

/// Takes part until the safety phase ends.
pub async fn run<R: Runtime>(link: Link<R>, habit: Habit) {
    let mut member = Member { link, habit, id: StrBytes::default(), generation: -1, owned: BTreeMap::new() };
    while member.link.shared.begins() {
        if !member.find().await || !member.join().await {
            member.link.pause(20, 300).await;
            continue;
        }
        while member.link.shared.begins() && member.work().await {}
    }
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

impl<R: Runtime> Member<R> {
    fn group(&self) -> GroupId {
        GroupId(text(&self.habit.group))
    }

    fn instance(&self) -> Option<StrBytes> {
        self.habit.instance.as_deref().filter(|_| self.habit.join_version >= 5).map(text)
    }

    async fn find(&mut self) -> bool {
        let request = FindCoordinatorRequest::default().with_key(text(&self.habit.group)).with_key_type(0);
        matches!(self.link.call(2, &request, CALL).await, Ok(response) if response.error_code == 0)
    }

    /// Joins and syncs; true once it has an assignment.
    async fn join(&mut self) -> bool {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("simulated")).with_metadata(Bytes::from_static(b"topics"));
        let request = JoinGroupRequest::default()
            .with_group_id(self.group())
            .with_session_timeout_ms(self.habit.session_timeout_ms)
            .with_rebalance_timeout_ms(self.habit.session_timeout_ms)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance())
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol]);
        let timeout = Duration::from_millis(self.habit.session_timeout_ms as u64) + CALL;
        let version = self.habit.join_version;
        let Ok(joined) = self.link.call(version, &request, timeout).await else {
            return false;
        };
        match Error::try_from_code(joined.error_code) {
            None => {}
            Some(Error::MemberIdRequired) => {
                self.id = joined.member_id;
                return false;
            }
            Some(Error::UnknownMemberId | Error::FencedInstanceId) => {
                self.id = StrBytes::default();
                return false;
            }
            Some(_) => return false,
        }
        self.id = joined.member_id.clone();
        self.generation = joined.generation_id;
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id {
            let mut shares: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
            let places = self.link.shared.topics.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (topic.clone(), partition)));
            for (index, place) in places.enumerate() {
                shares.entry(index % joined.members.len().max(1)).or_default().push(place);
            }
            assignments = joined
                .members
                .iter()
                .enumerate()
                .map(|(index, member)| {
                    let share = shares.get(&index).map_or(&[][..], Vec::as_slice);
                    SyncGroupRequestAssignment::default().with_member_id(member.member_id.clone()).with_assignment(encode(share))
                })
                .collect();
        }
        let request = SyncGroupRequest::default()
            .with_group_id(self.group())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance())
            .with_assignments(assignments);
        let Ok(synced) = self.link.call(3, &request, timeout).await else {
            return false;
        };
        if synced.error_code != 0 {
            self.forget_if_unknown(synced.error_code);
            return false;
        }
        self.owned.clear();
        for place in decode(&synced.assignment) {
            self.link.shared.history().owned(&self.habit.group, self.generation, &place, &self.id);
            self.owned.insert(place, 0);
        }
        self.fetch_offsets().await
    }

    fn forget_if_unknown(&mut self, code: i16) {
        if matches!(Error::try_from_code(code), Some(Error::UnknownMemberId | Error::FencedInstanceId)) {
            self.id = StrBytes::default();
        }
    }

    async fn fetch_offsets(&mut self) -> bool {
        let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
        for (topic, partition) in self.owned.keys() {
            topics.entry(topic).or_default().push(*partition);
        }
        let topics: Vec<OffsetFetchRequestTopic> = topics
            .into_iter()
            .map(|(name, partitions)| OffsetFetchRequestTopic::default().with_name(TopicName(text(name))).with_partition_indexes(partitions))
            .collect();
        if topics.is_empty() {
            return true;
        }
        let request = OffsetFetchRequest::default().with_group_id(self.group()).with_topics(Some(topics));
        let began = self.link.shared.history().before_offset_fetch();
        let Ok(response) = self.link.call(5, &request, CALL).await else {
            return false;
        };
        if response.error_code != 0 {
            return false;
        }
        for topic in &response.topics {
            for partition in &topic.partitions {
                if partition.error_code != 0 {
                    return false;
                }
                let place = (topic.name.to_string(), partition.partition_index);
                self.link.shared.history().offset_fetched(&self.habit.group, &place, began, partition.committed_offset);
                self.owned.insert(place, partition.committed_offset.max(0));
            }
        }
        true
    }

    /// A heartbeat and a commit; false if the member must join again.
    async fn work(&mut self) -> bool {
        self.link.pause(50, 1000).await;
        if self.link.stream.chance(self.habit.silent_ppm) {
            let past = self.habit.session_timeout_ms as u64 * 3 / 2;
            self.link.pause(past, past * 2).await;
        }
        if self.link.stream.chance(self.habit.leave_ppm) {
            let request = LeaveGroupRequest::default().with_group_id(self.group()).with_member_id(self.id.clone());
            let _ = self.link.call(2, &request, CALL).await;
            self.id = StrBytes::default();
            return false;
        }
        let request = HeartbeatRequest::default()
            .with_group_id(self.group())
            .with_generation_id(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance());
        match self.link.call(3, &request, CALL).await {
            Ok(response) if response.error_code == 0 => {}
            Ok(response) => {
                self.forget_if_unknown(response.error_code);
                return false;
            }
            // The connection is gone; the membership may live on.
            Err(_) => return true,
        }
        self.commit().await
    }

    async fn commit(&mut self) -> bool {
        let places: Vec<Place> = self.owned.keys().cloned().collect();
        if places.is_empty() {
            return true;
        }
        let place = self.link.stream.pick(&places).clone();
        let offset = self.owned.get(&place).copied().unwrap_or(0) + self.link.stream.between(1, 20) as i64;
        self.owned.insert(place.clone(), offset);
        let partition =
            OffsetCommitRequestPartition::default().with_partition_index(place.1).with_committed_offset(offset).with_committed_metadata(Some(StrBytes::default()));
        let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text(&place.0))).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance())
            .with_topics(vec![topic]);
        let ticket = self.link.shared.history().commit(&self.habit.group, &place, offset);
        let answered = self.link.call(7, &request, CALL).await;
        let code = match &answered {
            Ok(response) => response.topics.first().and_then(|topic| topic.partitions.first()).map_or(-1, |partition| partition.error_code),
            // Open: it may have been done, and may yet be.
            Err(_) => return true,
        };
        match Error::try_from_code(code) {
            None => self.link.shared.history().committed(ticket, true),
            Some(Error::IllegalGeneration | Error::UnknownMemberId | Error::RebalanceInProgress | Error::FencedInstanceId | Error::NotCoordinator) => {
                self.link.shared.history().committed(ticket, false);
                self.forget_if_unknown(code);
                return false;
            }
            Some(Error::CoordinatorLoadInProgress) => self.link.shared.history().committed(ticket, false),
            Some(_) => {}
        }
        true
    }
}

fn encode(places: &[Place]) -> Bytes {
    let mut bytes = BytesMut::new();
    for (topic, partition) in places {
        bytes.put_u16(topic.len() as u16);
        bytes.put_slice(topic.as_bytes());
        bytes.put_i32(*partition);
    }
    bytes.freeze()
}

fn decode(bytes: &Bytes) -> Vec<Place> {
    let mut bytes = bytes.clone();
    let mut places = Vec::new();
    while bytes.remaining() >= 2 {
        let len = bytes.get_u16() as usize;
        if bytes.remaining() < len + 4 {
            break;
        }
        let topic = String::from_utf8_lossy(&bytes.split_to(len)).into_owned();
        places.push((topic, bytes.get_i32()));
    }
    places
}
