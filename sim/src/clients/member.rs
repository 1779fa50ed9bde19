//! Simulated members of a consumer group (the classic protocol): join, sync, read what they are given, commit, and sometimes fall silent longer than
//! their session.

use std::collections::{BTreeMap, BTreeSet};
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
use super::link::{Goal, Link};

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
    /// Longest pause between two heartbeats.
    pub max_pause_ms: u64,
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
    /// What it committed since it has its member id: while it is a member, none of it expires.
    committed: BTreeSet<Place>,
}

/// Takes part until the safety phase ends.
pub async fn run<R: Runtime>(link: Link<R>, habit: Habit) {
    let mut member = Member { link, habit, id: StrBytes::default(), generation: -1, owned: BTreeMap::new(), committed: BTreeSet::new() };
    while member.link.shared.begins() {
        if !member.find().await || !member.join().await {
            member.link.pause(20, 300).await;
            continue;
        }
        while member.link.shared.begins() && member.work().await {}
    }
}

/// Joins, commits once, and leaves: whether that succeeded within `patience`.
pub async fn commit_once<R: Runtime>(link: Link<R>, habit: Habit, patience: Duration) -> bool {
    let deadline = link.runtime.now() + patience;
    let mut member = Member { link, habit, id: StrBytes::default(), generation: -1, owned: BTreeMap::new(), committed: BTreeSet::new() };
    while member.link.runtime.now() < deadline {
        if member.find().await && member.join().await && member.commit().await && !member.committed.is_empty() {
            let request = LeaveGroupRequest::default().with_group_id(member.group()).with_member_id(member.id.clone());
            let _ = member.link.call(2, &request, CALL).await;
            return true;
        }
        member.link.pause(20, 300).await;
    }
    false
}

/// Looks at the groups' offsets from outside, until the safety phase ends.
pub async fn watch<R: Runtime>(mut link: Link<R>, groups: Vec<String>, max_pause_ms: u64) {
    while link.shared.begins() {
        let group = link.stream.pick(&groups).clone();
        let _ = fetch_all_offsets(&mut link, &group).await;
        link.pause(0, max_pause_ms).await;
    }
}

/// Fetches all of a group's offsets and checks them; false if there was no answer.
pub async fn fetch_all_offsets<R: Runtime>(link: &mut Link<R>, group: &str) -> bool {
    let topics = link
        .shared
        .topics
        .iter()
        .map(|(topic, count)| OffsetFetchRequestTopic::default().with_name(TopicName(text(topic))).with_partition_indexes((0..*count).collect()));
    let request = OffsetFetchRequest::default().with_group_id(GroupId(text(group))).with_topics(Some(topics.collect()));
    link.go_for(Goal::Coordinator(group.to_owned()));
    let was_coordinator = is_coordinator(link, group).await;
    let began = link.shared.history().before_offset_fetch();
    match link.call(7, &request, CALL).await {
        Ok(response) if response.error_code == 0 => {
            let mut whole = true;
            let is_judged = was_coordinator && is_coordinator(link, group).await;
            for topic in &response.topics {
                for partition in &topic.partitions {
                    whole &= partition.error_code == 0;
                    if partition.error_code == 0 && is_judged {
                        let place = (topic.name.to_string(), partition.partition_index);
                        link.shared.history().offset_fetched(group, &place, began, partition.committed_offset);
                    }
                }
            }
            whole
        }
        _ => {
            link.forget_goal();
            false
        }
    }
}

/// Whether the broker that is asked, or has just answered, for a group has no successor yet: what it says is judged then.
async fn is_coordinator<R: Runtime>(link: &mut Link<R>, group: &str) -> bool {
    if !link.shared.is_cluster() {
        return true;
    }
    // Before the question nobody may have been asked yet.
    if link.connection().await.is_none() {
        return false;
    }
    link.target().is_some_and(|address| link.shared.authority.is_coordinator(group, address))
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
        if self.link.shared.is_cluster() {
            self.link.go_for(Goal::Coordinator(self.habit.group.clone()));
            self.link.forget_goal();
            return self.link.connection().await.is_some();
        }
        let request = FindCoordinatorRequest::default().with_key(text(&self.habit.group)).with_key_type(0);
        matches!(self.link.call(2, &request, CALL).await, Ok(response) if response.error_code == 0)
    }

    /// Joins and syncs; true once it has an assignment.
    async fn join(&mut self) -> bool {
        let metadata = subscription(&self.link.shared.topics);
        let protocol = JoinGroupRequestProtocol::default().with_name(text("simulated")).with_metadata(metadata);
        let was_coordinator = self.is_coordinator().await;
        let floor = self.link.shared.history().newest_generation(&self.habit.group);
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
                self.forget_id();
                return false;
            }
            Some(_) => return false,
        }
        if self.id != joined.member_id {
            self.forget_id();
        }
        self.id = joined.member_id.clone();
        self.generation = joined.generation_id;
        let mut assignments = Vec::new();
        if joined.leader == joined.member_id {
            let mut shares: BTreeMap<usize, Vec<Place>> = BTreeMap::new();
            for (index, place) in self.link.shared.places().into_iter().enumerate() {
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
        if !was_coordinator || !self.is_coordinator().await {
            // A coordinator that does not know that it has a successor: what it gives is worth nothing.
            return false;
        }
        self.link.shared.history().synced(&self.habit.group, floor, self.generation);
        // A static member that comes again has another id, and is the same owner.
        let owner = self.habit.instance.clone().unwrap_or_else(|| self.id.to_string());
        for place in decode(&synced.assignment) {
            self.link.shared.history().owned(&self.habit.group, self.generation, &place, &owner);
            self.owned.insert(place, 0);
        }
        self.fetch_offsets().await
    }

    async fn is_coordinator(&mut self) -> bool {
        let group = self.habit.group.clone();
        is_coordinator(&mut self.link, &group).await
    }

    fn forget_if_unknown(&mut self, code: i16) {
        if matches!(Error::try_from_code(code), Some(Error::UnknownMemberId | Error::FencedInstanceId)) {
            self.forget_id();
        }
    }

    fn forget_id(&mut self) {
        self.id = StrBytes::default();
        self.committed.clear();
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
        let was_coordinator = self.is_coordinator().await;
        let began = self.link.shared.history().before_offset_fetch();
        let Ok(response) = self.link.call(5, &request, CALL).await else {
            return false;
        };
        if response.error_code != 0 || !was_coordinator || !self.is_coordinator().await {
            return false;
        }
        for topic in &response.topics {
            for partition in &topic.partitions {
                if partition.error_code != 0 {
                    return false;
                }
                let place = (topic.name.to_string(), partition.partition_index);
                self.link.shared.history().offset_fetched(&self.habit.group, &place, began, partition.committed_offset);
                if partition.committed_offset < 0 && self.committed.contains(&place) {
                    let what = format!("group {} {place:?}: the offset that {} committed is gone, although it never left", self.habit.group, &*self.id);
                    self.link.shared.history().broken("group-offset", what);
                }
                self.owned.insert(place, partition.committed_offset.max(0));
            }
        }
        true
    }

    /// A heartbeat and a commit; false if the member must join again.
    async fn work(&mut self) -> bool {
        let max_pause_ms = self.habit.max_pause_ms;
        self.link.pause(max_pause_ms / 10, max_pause_ms).await;
        let mut is_late = false;
        if self.link.stream.chance(self.habit.silent_ppm) {
            let past = self.habit.session_timeout_ms as u64 * 3 / 2;
            self.link.pause(past, past * 2).await;
            // It may not know that it was given up: then it goes on where it stopped.
            is_late = self.link.stream.chance(500_000);
        }
        if is_late {
            return self.commit().await;
        }
        if self.link.stream.chance(self.habit.leave_ppm) {
            let request = LeaveGroupRequest::default().with_group_id(self.group()).with_member_id(self.id.clone());
            let _ = self.link.call(2, &request, CALL).await;
            self.forget_id();
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
        let partition = OffsetCommitRequestPartition::default()
            .with_partition_index(place.1)
            .with_committed_offset(offset)
            .with_committed_metadata(Some(StrBytes::default()));
        let topic = OffsetCommitRequestTopic::default().with_name(TopicName(text(&place.0))).with_partitions(vec![partition]);
        let request = OffsetCommitRequest::default()
            .with_group_id(self.group())
            .with_generation_id_or_member_epoch(self.generation)
            .with_member_id(self.id.clone())
            .with_group_instance_id(self.instance())
            .with_topics(vec![topic]);
        let ticket = self.link.shared.history().commit(&self.habit.group, self.generation, &place, offset);
        let answered = self.link.call(7, &request, CALL).await;
        let code = match &answered {
            Ok(response) => response.topics.first().and_then(|topic| topic.partitions.first()).map_or(-1, |partition| partition.error_code),
            // Open: it may have been done, and may yet be.
            Err(_) => return true,
        };
        match Error::try_from_code(code) {
            None => {
                self.link.shared.history().committed(ticket, true);
                self.committed.insert(place);
            }
            Some(Error::IllegalGeneration | Error::UnknownMemberId | Error::RebalanceInProgress | Error::FencedInstanceId) => {
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

/// The consumers' own metadata, version 0: the topics that they subscribe to.
fn subscription(topics: &[(String, i32)]) -> Bytes {
    let mut bytes = BytesMut::new();
    bytes.put_i16(0);
    bytes.put_i32(topics.len() as i32);
    for (topic, _) in topics {
        bytes.put_i16(topic.len() as i16);
        bytes.put_slice(topic.as_bytes());
    }
    bytes.put_i32(-1);
    bytes.freeze()
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
