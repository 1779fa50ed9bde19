//! Simulated readers: consumers that choose their partitions themselves, with and without fetch sessions, slow and fast ones; and the auditor, which
//! reads every partition from its start when all has healed.

use std::collections::BTreeMap;
use std::time::Duration;

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla::runtime::Runtime;

use super::history::{FinalLog, Place};
use super::link::{Goal, Link};
use super::value::ValueId;

/// How a reader behaves.
#[derive(Clone, Debug)]
pub struct Habit {
    /// Uses incremental fetch sessions.
    pub sessions: bool,
    /// The newest version of Fetch that it speaks.
    pub version: i16,
    /// `max bytes` of a response and of a partition.
    pub max_bytes: i32,
    /// How long the broker may hold a fetch.
    pub max_wait_ms: i32,
    /// Longest pause between two fetches.
    pub max_pause_ms: u64,
    /// Begins again at the start of a partition, in parts per million of fetches.
    pub rewind_ppm: u32,
    /// Loses its connection on purpose, in parts per million of fetches.
    pub reconnect_ppm: u32,
    /// In a cluster: the rack that it is in, and wants to read in (KIP-392).
    pub rack: Option<String>,
}

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

struct Reader<R: Runtime> {
    link: Link<R>,
    habit: Habit,
    positions: BTreeMap<Place, i64>,
    /// The session's id and next epoch; (0, 0) begins one.
    session: (i32, i32),
    /// What the session was told of each partition.
    told: BTreeMap<Place, i64>,
    /// In a cluster: the partition whose leader it reads from for now, and all that this one leads, with the epochs.
    focus: Option<Place>,
    served: BTreeMap<Place, i32>,
}

/// In a cluster: goes to another broker, in parts per million of fetches.
const MOVE_ON_PPM: u32 = 100_000;

/// Reads until the run is over.
pub async fn run<R: Runtime>(link: Link<R>, habit: Habit, places: Vec<Place>) {
    let positions = places.into_iter().map(|place| (place, 0)).collect();
    let mut reader = Reader { link, habit, positions, session: (0, 0), told: BTreeMap::new(), focus: None, served: BTreeMap::new() };
    while reader.link.shared.begins() {
        if reader.link.stream.chance(reader.habit.reconnect_ppm) {
            reader.link.disconnect();
            reader.forget_session();
        }
        if reader.link.stream.chance(reader.habit.rewind_ppm) {
            let place = reader.draw_place();
            reader.positions.insert(place, 0);
        }
        reader.look_around().await;
        if !reader.fetch().await {
            reader.forget_session();
            reader.link.go_near(None);
            reader.focus = None;
            reader.link.pause(5, 200).await;
        }
        let max_pause_ms = reader.habit.max_pause_ms;
        reader.link.pause(0, max_pause_ms).await;
    }
}

impl<R: Runtime> Reader<R> {
    fn draw_place(&mut self) -> Place {
        let places: Vec<&Place> = self.positions.keys().collect();
        (*self.link.stream.pick(&places)).clone()
    }

    fn forget_session(&mut self) {
        self.session = (0, 0);
        self.told.clear();
    }

    /// In a cluster it reads from one broker for a while, then from another.
    async fn look_around(&mut self) {
        if !self.link.shared.is_cluster() {
            return;
        }
        if self.focus.is_none() || self.link.stream.chance(MOVE_ON_PPM) {
            self.focus = Some(self.draw_place());
            self.link.go_near(None);
            self.forget_session();
        }
        let Some(focus) = self.focus.clone() else { return };
        self.link.go_for(Goal::Leader(focus.clone()));
        if self.link.connection().await.is_none() {
            return;
        }
        // Where the leader sent it, it asks for the one partition alone.
        let served = if self.link.is_near() { vec![focus] } else { self.link.led_with(&focus, self.positions.keys()) };
        let served = served.into_iter().map(|place| (place.clone(), self.link.leader_epoch(&place))).collect();
        if self.served != served {
            self.served = served;
            self.forget_session();
        }
    }

    /// The epoch in which a partition is asked for; `None` if it is not asked for now.
    fn epoch_of(&self, place: &Place) -> Option<i32> {
        if self.link.shared.is_cluster() { self.served.get(place).copied() } else { Some(-1) }
    }

    fn request(&self) -> FetchRequest {
        let mut topics: BTreeMap<&str, Vec<FetchPartition>> = BTreeMap::new();
        for (place, position) in &self.positions {
            let Some(epoch) = self.epoch_of(place) else { continue };
            if self.habit.sessions && self.told.get(place) == Some(position) {
                continue;
            }
            let partition = FetchPartition::default()
                .with_partition(place.1)
                .with_current_leader_epoch(epoch)
                .with_fetch_offset(*position)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(self.habit.max_bytes);
            topics.entry(&place.0).or_default().push(partition);
        }
        let topics = topics.into_iter().map(|(name, partitions)| FetchTopic::default().with_topic(topic_name(name)).with_partitions(partitions)).collect();
        let (session_id, session_epoch) = if self.habit.sessions { self.session } else { (0, -1) };
        FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(self.habit.max_wait_ms)
            .with_min_bytes(1)
            .with_max_bytes(self.habit.max_bytes)
            .with_session_id(session_id)
            .with_session_epoch(session_epoch)
            .with_topics(topics)
            .with_forgotten_topics_data(Vec::<ForgottenTopic>::new())
            .with_rack_id(StrBytes::from_string(self.habit.rack.clone().unwrap_or_default()))
    }

    /// One fetch; false if the session is broken or nothing came.
    async fn fetch(&mut self) -> bool {
        let request = self.request();
        let floors: BTreeMap<Place, i64> = {
            let history = self.link.shared.history();
            let epochs = self.positions.keys().filter_map(|place| Some((place, self.epoch_of(place)?.max(0))));
            epochs.filter_map(|(place, epoch)| Some((place.clone(), history.watermark_floor_at(place, epoch)?))).collect()
        };
        let timeout = Duration::from_millis(self.habit.max_wait_ms as u64 + 5000);
        let version = self.habit.version;
        let Ok(response) = self.link.call(version, &request, timeout).await else {
            return false;
        };
        if response.error_code != 0 {
            return false;
        }
        if self.habit.sessions {
            self.told = self.positions.clone();
            let epoch = if self.session.1 == 0 { 1 } else { self.session.1 + 1 };
            self.session = (response.session_id, if response.session_id == 0 { 0 } else { epoch });
        }
        let mut reset = Vec::new();
        let (is_near, mut sent_to) = (self.link.is_near(), None);
        for topic in &response.responses {
            for partition in &topic.partitions {
                let place = (topic.topic.to_string(), partition.partition_index);
                let Some(position) = self.positions.get_mut(&place) else {
                    let what = format!("{place:?} was answered to a reader that did not ask for it");
                    self.link.shared.history().broken("phantom", what);
                    continue;
                };
                match Error::try_from_code(partition.error_code) {
                    None => {}
                    // A follower may not have come so far yet: the leader knows.
                    Some(_) if is_near => {
                        self.link.go_near(None);
                        continue;
                    }
                    Some(Error::OffsetOutOfRange) => {
                        reset.push(place);
                        continue;
                    }
                    Some(_) => {
                        self.link.forget_leader(&place);
                        continue;
                    }
                }
                if partition.preferred_read_replica.0 >= 0 {
                    if is_near {
                        let what = format!("{place:?}: a follower sent a reader on to broker {}", partition.preferred_read_replica.0);
                        self.link.shared.history().broken("preferred-replica", what);
                    }
                    if self.focus.as_ref() == Some(&place) {
                        sent_to = Some(partition.preferred_read_replica.0);
                    }
                    continue;
                }
                let epoch = if self.link.shared.is_cluster() { self.served.get(&place).copied().unwrap_or(0) } else { 0 };
                let mut history = self.link.shared.history();
                let is_rotten = history.is_rotten(&place);
                // A new leader that cannot prove how far the one before got says nothing (KIP-207).
                let high_watermark = if partition.high_watermark < 0 { i64::MAX } else { partition.high_watermark };
                // A follower hears of the high watermark after others.
                if partition.high_watermark >= 0 && !is_near {
                    history.watermark_at(&place, epoch, floors.get(&place).copied(), high_watermark);
                }
                for (offset, value) in decode(partition.records.clone().unwrap_or_default()) {
                    if value.is_none() && is_rotten {
                        // Its checksum tells the reader, who can do no more.
                        break;
                    }
                    if offset < *position {
                        // A batch may begin before the offset asked for.
                        continue;
                    }
                    if offset >= high_watermark {
                        let what = format!("{place:?} offset {offset} was served above the high watermark {}", partition.high_watermark);
                        history.broken_at(&place, "high-watermark", what);
                    }
                    if offset > *position && !is_rotten {
                        let what = format!("{place:?} answered {offset} to a fetch from {}", *position);
                        history.broken_at(&place, "hole", what);
                    }
                    history.read(&place, offset, value);
                    *position = offset + 1;
                }
            }
        }
        if sent_to.is_some() {
            self.link.go_near(sent_to);
            self.forget_session();
        }
        for place in reset {
            if let Some((start, _)) = range(&mut self.link, &place).await {
                self.positions.insert(place, start);
            }
        }
        true
    }
}

/// Offsets and values of the records in an answer. Bytes that are no batch are reported as one record that nobody sent.
pub fn decode(records: bytes::Bytes) -> Vec<(i64, Option<ValueId>)> {
    let mut found = Vec::new();
    let mut rest = records;
    while !rest.is_empty() {
        let Ok(header) = ottla::record::batch::Header::whole(&rest) else {
            found.push((-1, None));
            break;
        };
        let batch = rest.split_to(header.size_in_bytes());
        match ottla::record::records(&batch, 64 << 20) {
            Ok(records) => {
                for record in records {
                    match record {
                        Ok(record) => found.push((record.offset, record.value.as_deref().and_then(ValueId::decode))),
                        Err(_) => found.push((header.base_offset, None)),
                    }
                }
            }
            Err(_) => found.push((header.base_offset, None)),
        }
    }
    found
}

/// Where a partition starts and ends now, asked once.
pub async fn range<R: Runtime>(link: &mut Link<R>, place: &Place) -> Option<(i64, i64)> {
    link.go_for(Goal::Leader(place.clone()));
    let mut ends = [0; 2];
    for (end, timestamp) in ends.iter_mut().zip([-2, -1]) {
        let partition = ListOffsetsPartition::default().with_partition_index(place.1).with_current_leader_epoch(-1).with_timestamp(timestamp);
        let topic = ListOffsetsTopic::default().with_name(topic_name(&place.0)).with_partitions(vec![partition]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let response = link.call(7, &request, Duration::from_secs(5)).await.ok()?;
        let found = response.topics.first()?.partitions.first()?;
        if found.error_code != 0 {
            link.forget_goal();
            return None;
        }
        *end = found.offset;
    }
    Some((ends[0], ends[1]))
}

/// Reads all of a partition, asking again until it succeeds or the run is over. `Err` says what it stuck at. Where a disk rotted, a batch whose
/// checksum does not fit ends the reading.
///
/// # Errors
/// If the partition cannot be read to its end within `patience`.
pub async fn audit<R: Runtime>(link: &mut Link<R>, place: &Place, patience: Duration) -> Result<FinalLog, String> {
    // From the last progress on: a long log behind a slow link takes its time.
    let mut deadline = link.runtime.now() + patience;
    let mut furthest = -1;
    let mut log = FinalLog::default();
    let mut known = None;
    let is_rotten = link.shared.history().is_rotten(place);
    loop {
        if link.runtime.now() >= deadline {
            return Err(format!("{place:?} could not be read to its end: range {known:?}, read {} records", log.records.len()));
        }
        let Some((start, end)) = (match known {
            Some(range) => Some(range),
            None => range(link, place).await,
        }) else {
            link.pause(20, 200).await;
            continue;
        };
        if known.is_none() {
            known = Some((start, end));
            log = FinalLog { start_offset: start, end_offset: end, readable_end_offset: end, records: Vec::new() };
        }
        let next = log.records.last().map_or(start, |(offset, _)| offset + 1);
        if next >= end {
            return Ok(log);
        }
        let partition = FetchPartition::default()
            .with_partition(place.1)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(next)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(1 << 20);
        let request = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(100)
            .with_min_bytes(1)
            .with_max_bytes(1 << 20)
            .with_session_id(0)
            .with_session_epoch(-1)
            .with_topics(vec![FetchTopic::default().with_topic(topic_name(&place.0)).with_partitions(vec![partition])]);
        let Ok(response) = link.call(11, &request, Duration::from_secs(5)).await else {
            link.pause(20, 200).await;
            continue;
        };
        let Some(data) = response.responses.first().and_then(|topic| topic.partitions.first()) else {
            link.pause(20, 200).await;
            continue;
        };
        if data.error_code != 0 {
            link.forget_goal();
        }
        if data.error_code == Error::OffsetOutOfRange.code() {
            // Retention moved the start meanwhile: what is left is what counts.
            known = None;
            continue;
        }
        let before = log.records.len();
        for (offset, value) in decode(data.records.clone().unwrap_or_default()) {
            let expected = log.records.last().map_or(start, |(offset, _)| offset + 1);
            // A batch's offset is not under its checksum.
            if is_rotten && (value.is_none() || offset > expected) {
                log.readable_end_offset = expected;
                return Ok(log);
            }
            if (offset >= next || offset < 0) && offset < end {
                log.records.push((offset, value));
            }
        }
        if log.records.len() == before {
            link.pause(20, 200).await;
        }
        let last = log.records.last().map_or(-1, |(offset, _)| *offset);
        if last > furthest {
            furthest = last;
            deadline = link.runtime.now() + patience;
        }
    }
}
