//! `kill -9`, again and again, under load with acks=all: no acknowledged record is lost, no idempotent one is doubled, the order of each producer holds in
//! each partition, offsets have no holes, and what a group committed is kept. The judge is the simulation's.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
use kafka_protocol::messages::{FindCoordinatorRequest, GroupId, InitProducerIdRequest, OffsetCommitRequest, OffsetFetchRequest, ProduceResponse, ProducerId};
use kafka_protocol::protocol::StrBytes;
use ottla::client::connection::Answer;
use ottla::record::{BatchBuilder, Codec};
use ottla::runtime::tokio::TokioRuntime;
use tokio::sync::watch;

use super::checker::history::{FinalLog, History, Outcome, Place, SendTicket};
use super::checker::rng::Stream;
use super::checker::value::ValueId;
use super::process::{Launch, PATIENCE, Process, steady_port, temp_dir};
use super::traffic::{self, Conn, produce_request, produce_version, produced};

/// Kills while clients are served.
const KILLS_UNDER_LOAD: usize = 52;
/// Of the rounds, every so many-th one is killed once more on its way up.
const KILL_AT_START_EVERY: usize = 5;
const TOPICS: [(&str, i32); 2] = [("load", 3), ("more", 1)];
const GROUP: &str = "committers";
/// Batches in flight of an idempotent producer: as many as a broker remembers.
const DEPTH: usize = 5;
const REQUEST: Duration = Duration::from_secs(20);

/// What the clients share with the test.
struct Shared {
    port: u16,
    history: Mutex<History>,
    /// The life of the broker that is up; `None` while none is.
    up: watch::Receiver<Option<u64>>,
    /// False once clients begin nothing any more and finish what they have.
    begins: watch::Receiver<bool>,
    /// Acknowledgements so far, of any kind.
    acked: watch::Sender<u64>,
    /// Batches that an idempotent producer sent again, and how many of them the broker knew.
    resent: watch::Sender<u64>,
}

impl Shared {
    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begins(&self) -> bool {
        *self.begins.borrow()
    }

    fn acked(&self) {
        self.acked.send_modify(|count| *count += 1);
    }
}

/// A client's way to the broker, whichever life of it.
struct Link {
    shared: Arc<Shared>,
    draws: Stream,
    connection: Option<Conn>,
    up: watch::Receiver<Option<u64>>,
}

impl Link {
    fn new(shared: &Arc<Shared>, number: u64) -> Self {
        Self { shared: shared.clone(), draws: Stream::new(1, "client", number), connection: None, up: shared.up.clone() }
    }

    /// The connection, opened as soon as a broker is there.
    async fn connection(&mut self) -> Conn {
        loop {
            if let Some(connection) = self.connection.as_ref().filter(|connection| connection.is_open()) {
                return connection.clone();
            }
            let life = *self.up.wait_for(Option::is_some).await.expect("the test outlives its clients");
            match traffic::try_connect(self.shared.port).await {
                Ok(connection) => self.connection = Some(connection),
                // It was killed meanwhile: wait for the next.
                Err(_) => drop(self.up.wait_for(|now| *now != life).await),
            }
        }
    }

    fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }

    /// What a client does after an answer that asks it to come again.
    async fn back_off(&mut self) {
        let wait = Duration::from_millis(self.draws.between(1, 10));
        tokio::time::sleep(wait).await;
    }

    fn draw_place(&mut self) -> Place {
        let places: Vec<Place> = places();
        self.draws.pick(&places).clone()
    }
}

fn places() -> Vec<Place> {
    TOPICS.iter().flat_map(|(topic, count)| (0..*count).map(|partition| ((*topic).to_owned(), partition))).collect()
}

struct Batch {
    ticket: SendTicket,
    place: Place,
    bytes: Bytes,
    sent_count: u32,
}

/// A producer. An idempotent one keeps several batches in flight and sends all of them again, in order, until they are answered; a plain one has one, and
/// sometimes gives up what has no answer.
struct Producer {
    link: Link,
    id: u32,
    idempotent: bool,
    codec: Codec,
    producer_id: i64,
    next_number: u32,
    next_sequence: BTreeMap<Place, i32>,
    in_flight: VecDeque<Batch>,
}

impl Producer {
    async fn run(mut self) {
        if self.idempotent {
            self.draw_id().await;
        }
        while self.link.shared.begins() || !self.in_flight.is_empty() {
            self.round().await;
        }
    }

    async fn draw_id(&mut self) {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(1000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        loop {
            match self.link.connection().await.call_at(4, &request, REQUEST).await {
                Ok(response) if response.error_code == 0 => {
                    self.producer_id = response.producer_id.0;
                    self.link.shared.history().producer_id(self.producer_id);
                    return;
                }
                Ok(_) => self.link.back_off().await,
                Err(_) => self.link.disconnect(),
            }
        }
    }

    fn make_batch(&mut self) {
        let place = self.link.draw_place();
        let count = self.link.draws.between(1, 20) as u32;
        let values: Vec<ValueId> = (0..count).map(|index| ValueId { producer: self.id, number: self.next_number + index }).collect();
        self.next_number += count;
        let mut builder = BatchBuilder::new().codec(self.codec);
        if self.idempotent {
            let sequence = self.next_sequence.entry(place.clone()).or_insert(0);
            builder = builder.producer(self.producer_id, 0, *sequence);
            *sequence = ottla::record::batch::add_sequence(*sequence, count as i32);
        }
        for value in &values {
            builder.push(1_700_000_000_000 + i64::from(value.number), None, Some(&value.encode(4_000)), &[]);
        }
        let ticket = self.link.shared.history().send(place.clone(), values, self.idempotent, 0);
        self.in_flight.push_back(Batch { ticket, place, bytes: builder.build(), sent_count: 0 });
    }

    async fn start(&mut self, connection: &Conn, index: usize) -> Option<Answer<TokioRuntime, ProduceResponse>> {
        let batch = &mut self.in_flight[index];
        if batch.sent_count > 0 {
            self.link.shared.history().resend(batch.ticket);
            self.link.shared.resent.send_modify(|count| *count += 1);
        }
        batch.sent_count += 1;
        let request = produce_request(&batch.place.0, batch.place.1, batch.bytes.clone(), -1);
        connection.start(produce_version(connection), &request, REQUEST).await.ok()
    }

    /// Sends what has no answer again, then new batches, until something goes wrong.
    async fn round(&mut self) {
        let connection = self.link.connection().await;
        let mut answers = VecDeque::new();
        for index in 0..self.in_flight.len() {
            match self.start(&connection, index).await {
                Some(answer) => answers.push_back(answer),
                None => return self.link.disconnect(),
            }
        }
        let depth = if self.idempotent { DEPTH } else { 1 };
        loop {
            while self.in_flight.len() < depth && self.link.shared.begins() {
                self.make_batch();
                match self.start(&connection, self.in_flight.len() - 1).await {
                    Some(answer) => answers.push_back(answer),
                    None => return self.link.disconnect(),
                }
            }
            let Some(answer) = answers.pop_front() else { return };
            if !self.take(answer).await {
                self.link.disconnect();
                return;
            }
        }
    }

    /// Takes the answer to the oldest batch; false if all that is in flight must go out again.
    async fn take(&mut self, mut answer: Answer<TokioRuntime, ProduceResponse>) -> bool {
        let answered = answer.wait().await.map(|response| produced(&response));
        let place = self.in_flight.front().expect("its answer came").place.clone();
        let outcome = match answered {
            Ok((0, base_offset)) => Outcome::Acked { base_offset },
            // Too old a duplicate for its offset to be remembered: it is there.
            Ok((code, _)) if code == Error::DuplicateSequenceNumber.code() => Outcome::Acked { base_offset: -1 },
            Ok((code, _)) => {
                let error = Error::try_from_code(code);
                if !error.is_some_and(|error| error.is_retriable()) {
                    // They do all as they should: the broker has no reason.
                    self.link.shared.history().broken("sequence", format!("producer {} was answered {error:?} on {place:?}", self.id));
                    self.give_up();
                    return false;
                }
                self.link.back_off().await;
                return false;
            }
            Err(_) => {
                if !self.idempotent && (self.link.draws.chance(500_000) || !self.link.shared.begins()) {
                    self.give_up();
                }
                return false;
            }
        };
        let batch = self.in_flight.pop_front().expect("its answer came");
        self.link.shared.history().sent(batch.ticket, outcome);
        self.link.shared.acked();
        true
    }

    fn give_up(&mut self) {
        if let Some(batch) = self.in_flight.pop_front() {
            self.link.shared.history().sent(batch.ticket, Outcome::Unknown);
        }
    }
}

/// Commits offsets of a group, one after the other, and asks for them in between.
async fn commit(mut link: Link, place: Place) {
    // The topic that holds the offsets is made when somebody first asks who coordinates.
    let find = FindCoordinatorRequest::default().with_key(StrBytes::from_static_str(GROUP));
    loop {
        let connection = link.connection().await;
        match connection.call_at(2, &find, REQUEST).await {
            Ok(response) if response.error_code == 0 => break,
            Ok(_) => link.back_off().await,
            Err(_) => link.disconnect(),
        }
    }
    let mut offset = 0;
    while link.shared.begins() {
        let connection = link.connection().await;
        offset += 1;
        let ticket = link.shared.history().commit(GROUP, -1, &place, offset);
        let answered = connection.call_at(6, &commit_request(&place, offset), REQUEST).await;
        match answered.map(|response| response.topics[0].partitions[0].error_code) {
            Ok(0) => {
                link.shared.history().committed(ticket, true);
                link.shared.acked();
            }
            Ok(code) => {
                let error = Error::try_from_code(code);
                assert!(error.is_some_and(|error| error.is_retriable()), "a commit was answered {error:?}");
                link.back_off().await;
            }
            Err(_) => link.disconnect(),
        }
        if link.draws.chance(300_000) {
            fetch_committed(&mut link, &place, false).await;
        }
    }
}

fn commit_request(place: &Place, offset: i64) -> OffsetCommitRequest {
    let partition = OffsetCommitRequestPartition::default()
        .with_partition_index(place.1)
        .with_committed_offset(offset)
        .with_committed_leader_epoch(-1)
        .with_committed_metadata(Some(StrBytes::from_static_str("it")));
    let topic = OffsetCommitRequestTopic::default().with_name(traffic::topic_name(&place.0)).with_partitions(vec![partition]);
    OffsetCommitRequest::default()
        .with_group_id(GroupId(StrBytes::from_static_str(GROUP)))
        .with_generation_id_or_member_epoch(-1)
        .with_member_id(StrBytes::from_static_str(""))
        .with_topics(vec![topic])
}

/// Asks for a committed offset, once or until there is an answer.
async fn fetch_committed(link: &mut Link, place: &Place, insist: bool) {
    let topic = OffsetFetchRequestTopic::default().with_name(traffic::topic_name(&place.0)).with_partition_indexes(vec![place.1]);
    let request = OffsetFetchRequest::default().with_group_id(GroupId(StrBytes::from_static_str(GROUP))).with_topics(Some(vec![topic]));
    loop {
        let connection = link.connection().await;
        let began = link.shared.history().before_offset_fetch();
        match connection.call_at(5, &request, REQUEST).await {
            Ok(response) => {
                let partition = response.topics.first().map(|topic| &topic.partitions[0]);
                match partition.filter(|partition| response.error_code == 0 && partition.error_code == 0) {
                    Some(partition) => return link.shared.history().offset_fetched(GROUP, place, began, partition.committed_offset),
                    None => link.back_off().await,
                }
            }
            Err(_) => link.disconnect(),
        }
        if !insist {
            return;
        }
    }
}

/// Reads everything that becomes readable, from life to life.
async fn read(mut link: Link, place: Place) {
    let mut next = 0;
    while link.shared.begins() {
        let connection = link.connection().await;
        let floor = link.shared.history().watermark_floors(std::iter::once(&place)).get(&place).copied();
        let request = traffic::fetch_request(&place.0, place.1, next, 1 << 20, 50);
        let Ok(response) = connection.call_at(11, &request, REQUEST).await else {
            link.disconnect();
            continue;
        };
        let data = traffic::fetched(&response);
        if data.error_code != 0 {
            if data.error_code == Error::OffsetOutOfRange.code() {
                let what = format!("{place:?}: {next} was out of range; the broker's high watermark was {}", data.high_watermark);
                link.shared.history().broken("lost-write", what);
            }
            link.back_off().await;
            continue;
        }
        let mut history = link.shared.history();
        history.watermark(&place, floor, data.high_watermark);
        for (offset, value) in decode(data.records.clone().unwrap_or_default()) {
            if offset >= next {
                history.read(&place, offset, value);
                next = offset + 1;
            }
        }
    }
}

fn decode(records: Bytes) -> Vec<(i64, Option<ValueId>)> {
    let mut found = Vec::new();
    for (header, batch) in traffic::batches(records) {
        match ottla::record::records(&batch, 64 << 20) {
            Ok(records) => found.extend(records.map(|record| match record {
                Ok(record) => (record.offset, record.value.as_deref().and_then(ValueId::decode)),
                Err(_) => (header.base_offset, None),
            })),
            Err(_) => found.push((header.base_offset, None)),
        }
    }
    found
}

/// Waits until the clients were acknowledged so much more, or fails.
fn wait_for_progress(acked: &watch::Receiver<u64>, runtime: &tokio::runtime::Runtime, more: u64, broker: &Process) {
    let mut acked = acked.clone();
    let goal = *acked.borrow() + more;
    let reached = runtime.block_on(async { tokio::time::timeout(PATIENCE, acked.wait_for(|count| *count >= goal)).await.is_ok() });
    assert!(reached, "{} of {goal} acknowledgements came in {PATIENCE:?}; the broker said:\n{}", *acked.borrow(), broker.text());
}

#[test]
fn killed_again_and_again_under_load_it_keeps_what_it_acknowledged() {
    let began = Instant::now();
    let home = temp_dir();
    let port = steady_port();
    // Small segments and checkpoints of offsets in quick succession: kills come within rolls and checkpoints too.
    let launch = Launch::new(home.path())
        .port(port)
        .option("log.segment.bytes", 1 << 20)
        .option("log.flush.offset.checkpoint.interval.ms", 50)
        .option("replica.high.watermark.checkpoint.interval.ms", 50)
        .option("offsets.topic.num.partitions", 2)
        .option("offsets.topic.segment.bytes", 1 << 20);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut broker = launch.start();
    for (topic, partitions) in TOPICS {
        runtime.block_on(traffic::create_topic(port, topic, partitions, &[]));
    }
    let (up, up_seen) = watch::channel(Some(0u64));
    let (begins, begins_seen) = watch::channel(true);
    let (acked, acked_seen) = watch::channel(0);
    let shared = Arc::new(Shared { port, history: Mutex::default(), up: up_seen, begins: begins_seen, acked, resent: watch::Sender::new(0) });
    let mut clients = Vec::new();
    for (id, (idempotent, codec)) in
        [(true, Codec::None), (true, Codec::Lz4), (true, Codec::Zstd), (false, Codec::None), (false, Codec::Gzip)].into_iter().enumerate()
    {
        let link = Link::new(&shared, id as u64);
        let producer =
            Producer { link, id: id as u32, idempotent, codec, producer_id: -1, next_number: 0, next_sequence: BTreeMap::new(), in_flight: VecDeque::new() };
        clients.push(runtime.spawn(producer.run()));
    }
    for (at, place) in places().into_iter().enumerate() {
        clients.push(runtime.spawn(read(Link::new(&shared, 20 + at as u64), place.clone())));
        clients.push(runtime.spawn(commit(Link::new(&shared, 30 + at as u64), place)));
    }

    let mut draws = Stream::new(2, "killer", 0);
    let mut kills = 0;
    let mut restarts = Vec::new();
    for round in 0..KILLS_UNDER_LOAD {
        wait_for_progress(&acked_seen, &runtime, draws.between(1, 150), &broker);
        up.send_replace(None);
        broker.kill();
        kills += 1;
        if round % KILL_AT_START_EVERY == 0 {
            // Once more, in the midst of recovery: as soon as it says anything.
            let mut early = launch.spawn();
            early.wait_for_text("INFO");
            early.kill();
            kills += 1;
        }
        broker = launch.start();
        restarts.push(broker.since().elapsed());
        up.send_replace(Some(round as u64 + 1));
    }
    // Nothing new begins; what is under way comes to its end on a broker that lives.
    wait_for_progress(&acked_seen, &runtime, 50, &broker);
    begins.send_replace(false);
    runtime.block_on(async {
        for client in clients {
            tokio::time::timeout(PATIENCE, client).await.expect("clients finish").expect("no client panics");
        }
    });
    let killing = began.elapsed();

    let mut logs = BTreeMap::new();
    runtime.block_on(async {
        let mut link = Link::new(&shared, 99);
        let connection = link.connection().await;
        for place in places() {
            let (start_offset, end_offset) = traffic::range(&connection, &place.0, place.1).await.expect("the partition is served");
            let records = traffic::read_all(&connection, &place.0, place.1).await;
            let records = records.into_iter().map(|(offset, value)| (offset, ValueId::decode(&value))).collect();
            logs.insert(place.clone(), FinalLog { start_offset, end_offset, readable_end_offset: end_offset, records });
            let answered = tokio::time::timeout(PATIENCE, fetch_committed(&mut link, &place, true)).await;
            answered.expect("the group's offsets are served");
        }
    });
    broker.stop();

    let records: usize = logs.values().map(|log| log.records.len()).sum();
    restarts.sort();
    let mut history = shared.history();
    let violations = history.finish(&logs);
    println!(
        "{kills} kills in {killing:.1?}: {} records acknowledged, {records} in the logs, {} operations, {} batches sent again; from exec to listening p50 {:?}, max {:?}; judged after {:.1?}",
        history.acked_count,
        history.completed_count,
        *shared.resent.borrow(),
        restarts[restarts.len() / 2],
        restarts[restarts.len() - 1],
        began.elapsed(),
    );
    let told: Vec<String> = violations.iter().map(ToString::to_string).collect();
    assert!(told.is_empty(), "{} promises broken; the directory is left at {}:\n{}", told.len(), home.keep().display(), told.join("\n"));
    // The test has tested something.
    assert!(kills >= 50 && history.acked_count > 2_000, "{kills} kills, {} records acknowledged", history.acked_count);
    assert!(*shared.resent.borrow() > 20, "too few batches were cut off by a kill");
    assert!(records as u64 >= history.acked_count);
}
