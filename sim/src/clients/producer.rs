//! Simulated producers. An idempotent one keeps up to five batches in flight and sends all of them again, in order, whenever it loses the connection or
//! gets an answer that leaves something open; a plain one has one in flight and sometimes gives up; one with `acks=0` is told nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla::client::connection::{Answer, Connection};
use ottla::record::{BatchBuilder, Codec};
use ottla::runtime::Runtime;

use super::history::{Outcome, Place, SendTicket};
use super::link::{Goal, Link};
use super::value::ValueId;

/// How a producer behaves.
#[derive(Clone, Debug)]
pub struct Habit {
    /// Numbers its batches.
    pub idempotent: bool,
    /// `acks`.
    pub acks: i16,
    /// Batches in flight.
    pub depth: usize,
    /// Records of a batch, at most.
    pub max_records: u64,
    /// Bytes of a record, at most.
    pub max_bytes: usize,
    /// Longest pause between two sends.
    pub max_pause_ms: u64,
    /// The newest version of Produce that it speaks.
    pub version: i16,
    /// Loses its connection on purpose before a send, in parts per million.
    pub reconnect_ppm: u32,
    /// Gives up a send whose outcome is open, in parts per million; an idempotent one never does.
    pub give_up_ppm: u32,
    /// Sends a batch whose checksum is wrong, in parts per million; an idempotent one never does.
    pub corrupt_ppm: u32,
    /// Its codec.
    pub codec: Codec,
}

/// In a cluster: goes to another partition, in parts per million of answers.
const MOVE_ON_PPM: u32 = 200_000;

struct Batch {
    ticket: SendTicket,
    place: Place,
    bytes: Bytes,
    sent_count: u32,
}

struct Producer<R: Runtime> {
    link: Link<R>,
    id: u32,
    habit: Habit,
    producer_id: i64,
    next_number: u32,
    next_sequence: BTreeMap<Place, i32>,
    in_flight: VecDeque<Batch>,
    /// Partitions that have acknowledged a batch under the current producer id.
    known_at: BTreeSet<Place>,
    /// Counts its producer ids.
    session: u32,
    /// Its sequences are of no use any more: it needs another producer id.
    begins_anew: bool,
    /// In a cluster: the partition that it writes to for now, since others may be led elsewhere.
    focus: Option<Place>,
}

/// Produces until the run's safety phase ends, and then until every batch has an outcome.
pub async fn run<R: Runtime>(link: Link<R>, id: u32, habit: Habit) {
    let mut producer = Producer {
        link,
        id,
        habit,
        producer_id: -1,
        next_number: 0,
        next_sequence: BTreeMap::new(),
        in_flight: VecDeque::new(),
        known_at: BTreeSet::new(),
        session: 0,
        begins_anew: false,
        focus: None,
    };
    if producer.habit.idempotent && !producer.init().await {
        return;
    }
    while producer.round().await {
        if producer.begins_anew {
            producer.begins_anew = false;
            producer.give_everything_up();
            if !producer.init().await {
                return;
            }
        }
    }
    producer.give_everything_up();
}

/// Sends one record, again and again until it is acknowledged.
///
/// # Errors
/// If it is not within `patience`.
pub async fn send_one<R: Runtime>(link: &mut Link<R>, value: ValueId, place: &Place, patience: Duration) -> Result<(), String> {
    let deadline = link.runtime.now() + patience;
    let mut builder = BatchBuilder::new();
    builder.push(link.runtime.unix_ms(), None, Some(&value.encode(100)), &[]);
    let request = produce_request(place, builder.build(), -1);
    let ticket = link.shared.history().send(place.clone(), vec![value], false, 0);
    link.go_for(Goal::Leader(place.clone()));
    let mut last = String::from("no answer");
    while link.runtime.now() < deadline {
        if let Ok(response) = link.call(9, &request, Duration::from_secs(10)).await
            && let Some(appended) = response.responses.first().and_then(|topic| topic.partition_responses.first())
        {
            if appended.error_code == 0 {
                link.shared.history().sent(ticket, Outcome::Acked { base_offset: appended.base_offset });
                return Ok(());
            }
            last = format!("{:?}", Error::try_from_code(appended.error_code));
            link.forget_goal();
        }
        link.pause(20, 200).await;
        link.shared.history().resend(ticket);
    }
    link.shared.history().sent(ticket, Outcome::Unknown);
    Err(format!("{place:?} takes no record: {last}"))
}

fn produce_request(place: &Place, records: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(place.1).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(TopicName(StrBytes::from_string(place.0.clone()))).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(5000).with_topic_data(vec![topic])
}

impl<R: Runtime> Producer<R> {
    async fn init(&mut self) -> bool {
        self.link.go_for(Goal::Anyone);
        loop {
            let request = InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(1000)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1);
            match self.link.call(4, &request, Duration::from_secs(5)).await {
                Ok(response) if response.error_code == 0 => {
                    self.producer_id = response.producer_id.0;
                    self.link.shared.history().producer_id(self.producer_id);
                    return true;
                }
                Err(None) => return false,
                _ => {
                    self.link.forget_goal();
                    self.link.pause(10, 300).await;
                }
            }
        }
    }

    /// The next batch; none if it must wait until an earlier one has its answer.
    ///
    /// A partition takes any sequence from a producer that it does not know (KIP-360): were the first batch refused, for want of room say, and the second
    /// one taken, the first one could not be sent again. So the first one is waited for.
    fn make_batch(&mut self) -> Option<Batch> {
        let place = match &self.focus {
            Some(focus) => focus.clone(),
            None => self.link.shared.draw_place(&mut self.link.stream),
        };
        if self.habit.idempotent && !self.known_at.contains(&place) && self.in_flight.iter().any(|batch| batch.place == place) {
            return None;
        }
        let count = self.link.stream.between(1, self.habit.max_records) as u32;
        let values: Vec<ValueId> = (0..count).map(|index| ValueId { producer: self.id, number: self.next_number + index }).collect();
        self.next_number += count;
        let mut builder = BatchBuilder::new().codec(self.habit.codec);
        if self.habit.idempotent {
            let sequence = self.next_sequence.entry(place.clone()).or_insert(0);
            builder = builder.producer(self.producer_id, 0, *sequence);
            *sequence = ottla::record::batch::add_sequence(*sequence, count as i32);
        }
        let now = self.link.runtime.unix_ms();
        for value in &values {
            builder.push(now, None, Some(&value.encode(self.habit.max_bytes)), &[]);
        }
        let ticket = self.link.shared.history().send(place.clone(), values, self.habit.idempotent, self.session);
        let mut bytes = builder.build();
        if !self.habit.idempotent && self.link.stream.chance(self.habit.corrupt_ppm) {
            // Its checksum does not fit: refused for certain.
            let mut corrupt = bytes.to_vec();
            let at = corrupt.len() - 1 - self.link.stream.index(8);
            corrupt[at] ^= 0x10;
            bytes = corrupt.into();
        }
        Some(Batch { ticket, place, bytes, sent_count: 0 })
    }

    fn request(&self, batch: &Batch) -> ProduceRequest {
        produce_request(&batch.place, batch.bytes.clone(), self.habit.acks)
    }

    /// Fills the window, sends it, and takes answers until something goes wrong. False at the end.
    async fn round(&mut self) -> bool {
        self.look_around();
        if self.link.stream.chance(self.habit.reconnect_ppm) {
            self.link.disconnect();
        }
        let Some(connection) = self.link.connection().await else {
            return false;
        };
        let mut answers = VecDeque::new();
        let mut moves_on = false;
        // Everything without an outcome goes out again, in order.
        for index in 0..self.in_flight.len() {
            match self.start(&connection, index).await {
                Some(answer) => answers.push_back(answer),
                None => return true,
            }
        }
        loop {
            while self.in_flight.len() < self.habit.depth && self.link.shared.begins() && !moves_on {
                let Some(batch) = self.make_batch() else { break };
                self.in_flight.push_back(batch);
                if self.habit.acks == 0 {
                    self.send_without_answer(&connection).await;
                    self.link.pause(0, self.habit.max_pause_ms).await;
                    return true;
                }
                match self.start(&connection, self.in_flight.len() - 1).await {
                    Some(answer) => answers.push_back(answer),
                    None => return true,
                }
            }
            let Some(answer) = answers.pop_front() else {
                return !self.in_flight.is_empty();
            };
            if !self.take(answer).await {
                self.link.disconnect();
                self.link.pause(5, 200).await;
                return true;
            }
            self.link.pause(0, self.habit.max_pause_ms).await;
            // Once all is answered it may go elsewhere.
            moves_on |= self.focus.is_some() && self.link.stream.chance(MOVE_ON_PPM);
            if moves_on && self.in_flight.is_empty() {
                return true;
            }
        }
    }

    /// In a cluster it writes to one partition for a while, then to another.
    fn look_around(&mut self) {
        if !self.link.shared.is_cluster() {
            return;
        }
        let stays = self.focus.is_some() && !self.link.stream.chance(MOVE_ON_PPM);
        if self.in_flight.is_empty() && !stays {
            self.focus = Some(self.link.shared.draw_place(&mut self.link.stream));
        }
        self.link.go_for(self.focus.clone().map_or(Goal::Anyone, Goal::Leader));
    }

    async fn start(&mut self, connection: &Connection<R>, index: usize) -> Option<Answer<R, ProduceResponse>> {
        let request = self.request(&self.in_flight[index]);
        let version = connection.version_up_to::<ProduceRequest>(self.habit.version).ok()?;
        let batch = &mut self.in_flight[index];
        if batch.sent_count > 0 {
            self.link.shared.history().resend(batch.ticket);
        }
        batch.sent_count += 1;
        connection.start(version, &request, Duration::from_secs(10)).await.ok()
    }

    async fn send_without_answer(&mut self, connection: &Connection<R>) {
        if let Some(batch) = self.in_flight.pop_front() {
            if let Ok(version) = connection.version_up_to::<ProduceRequest>(self.habit.version) {
                let request = self.request(&batch);
                // Nothing comes back that would tell of a peer that is gone.
                let is_sent = tokio::select! {
                    biased;
                    _ = connection.send_only(version, &request) => true,
                    () = self.link.runtime.sleep(Duration::from_secs(10)) => false,
                };
                if !is_sent {
                    self.link.disconnect();
                }
            }
            self.link.shared.history().sent(batch.ticket, Outcome::Unknown);
        }
    }

    /// Takes the answer to the oldest batch; false if all that is in flight must go out again.
    async fn take(&mut self, mut answer: Answer<R, ProduceResponse>) -> bool {
        let answered = answer.wait().await;
        let (code, base_offset) = match &answered {
            Ok(response) => match response.responses.first().and_then(|topic| topic.partition_responses.first()) {
                Some(partition) => (partition.error_code, partition.base_offset),
                None => (Error::UnknownServerError.code(), -1),
            },
            Err(_) => return self.left_open(),
        };
        let Some(batch) = self.in_flight.front() else {
            return false;
        };
        let outcome = match Error::try_from_code(code) {
            // The leader alone has it: what it promises ends with its leadership.
            None if self.habit.acks == 1 && self.link.shared.replication_factor(&batch.place.0) > 1 => Outcome::Unknown,
            None => Outcome::Acked { base_offset },
            // A duplicate that is too old to have its offset remembered: it is there.
            Some(Error::DuplicateSequenceNumber) => Outcome::Acked { base_offset: -1 },
            Some(error @ (Error::OutOfOrderSequenceNumber | Error::UnknownProducerId | Error::InvalidProducerEpoch)) => {
                // It sends its batches in order and again until they are answered: the broker has no reason, unless it may lose records.
                let what = format!("producer {} was answered {error:?} on {:?}", self.id, batch.place);
                let place = batch.place.clone();
                self.link.shared.history().broken_at(&place, "sequence", what);
                self.begins_anew = true;
                return false;
            }
            Some(
                Error::MessageTooLarge
                | Error::RecordListTooLarge
                | Error::InvalidRecord
                | Error::CorruptMessage
                | Error::InvalidTimestamp
                | Error::InvalidTopicException
                | Error::InvalidRequiredAcks,
            ) => {
                // What follows an idempotent producer's refused batch has sequences that can never be next.
                self.begins_anew = self.habit.idempotent;
                if batch.sent_count == 1 { Outcome::Refused } else { Outcome::Unknown }
            }
            Some(error) => {
                tracing::debug!(producer = self.id, place = ?batch.place, ?error, "its batch goes out again");
                return self.left_open();
            }
        };
        self.link.shared.world.count_operation();
        if let Some(batch) = self.in_flight.pop_front() {
            self.link.shared.history().sent(batch.ticket, outcome);
            if matches!(outcome, Outcome::Acked { .. }) {
                self.known_at.insert(batch.place);
            }
        }
        !self.begins_anew
    }

    /// The oldest batch has no outcome. An idempotent producer goes on until it has; a plain one may give up.
    fn left_open(&mut self) -> bool {
        if !self.habit.idempotent && (self.link.stream.chance(self.habit.give_up_ppm) || !self.link.shared.begins()) {
            return self.give_up();
        }
        // A partition on a disk that rotted may stay offline for ever.
        if !self.link.shared.begins() && self.in_flight.front().is_some_and(|batch| self.link.shared.history().is_hopeless(&batch.place)) {
            self.begins_anew = self.habit.idempotent;
        }
        false
    }

    fn give_everything_up(&mut self) {
        self.session += 1;
        self.next_sequence.clear();
        self.known_at.clear();
        for batch in std::mem::take(&mut self.in_flight) {
            self.link.shared.history().sent(batch.ticket, Outcome::Unknown);
        }
    }

    fn give_up(&mut self) -> bool {
        if let Some(batch) = self.in_flight.pop_front() {
            self.link.shared.history().sent(batch.ticket, Outcome::Unknown);
        }
        false
    }
}
