//! The producer: batches, sends, retries, and tells of every record what became of it.
//!
//! Each partition has a *lane*, a task that sends its batches in order (`producer/lane.rs`). With idempotence a batch's sequence is
//! given when it is first sent and stays with it through every retry, so the broker can tell a retry from a new batch (KIP-98).

mod batch;
mod lane;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::InitProducerIdRequest;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::client::cluster::Client;
use crate::client::error::ClientError;
use crate::client::producer::lane::{Command, Lane};
use crate::record::Codec;
use crate::runtime::{Runtime, Task};
use crate::topic_partition::TopicPartition;

/// Which brokers must have a record before it is acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// None: there is no answer at all.
    None,
    /// The leader.
    Leader,
    /// All that are in sync, of which there must be `min.insync.replicas`.
    All,
}

impl Acks {
    fn number(self) -> i16 {
        match self {
            Self::None => 0,
            Self::Leader => 1,
            Self::All => -1,
        }
    }
}

/// How a producer behaves.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// What an acknowledgement means.
    pub acks: Acks,
    /// Whether the broker tells retries from new batches, so that each record is there exactly once and in order. Needs [`Acks::All`].
    pub idempotent: bool,
    /// How long a batch waits for more records. At zero, batches form only while others are on their way.
    pub linger: Duration,
    /// A batch's size in bytes, before compression, at which it is closed.
    pub batch_bytes: usize,
    /// How batches are compressed.
    pub codec: Codec,
    /// Batches of one partition in flight; at most 5 with idempotence, since the broker remembers five.
    pub max_in_flight: usize,
    /// Attempts after the first.
    pub retries: u32,
    /// How long a record may take from [`Producer::send`] to its outcome.
    pub delivery_timeout: Duration,
    /// How long the broker may wait for other replicas before it answers.
    pub ack_timeout: Duration,
    /// Memory in bytes for records without an outcome; [`Producer::send`] waits when it is used up.
    pub buffer_bytes: u32,
}

impl Default for ProducerConfig {
    /// Acknowledged by all in-sync replicas, exactly once, in order.
    fn default() -> Self {
        Self {
            acks: Acks::All,
            idempotent: true,
            linger: Duration::ZERO,
            batch_bytes: 16 << 10,
            codec: Codec::None,
            max_in_flight: 5,
            retries: u32::MAX,
            delivery_timeout: Duration::from_secs(120),
            ack_timeout: Duration::from_secs(30),
            buffer_bytes: 32 << 20,
        }
    }
}

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic.
    pub topic: String,
    /// The partition; `None` chooses by the key's hash, or without a key one after the other.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<Bytes>,
    /// The value.
    pub value: Option<Bytes>,
    /// Names and values.
    pub headers: Vec<(Bytes, Option<Bytes>)>,
    /// In ms since 1970; `None` is now.
    pub timestamp_ms: Option<i64>,
}

/// What became of a record.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It is in the log, as often as [`ProducerConfig::idempotent`] promises.
    Acked {
        /// Its partition.
        partition: i32,
        /// Its offset; −1 where the broker knew it for a duplicate but not its offset any more.
        offset: i64,
    },
    /// It was handed to the connection; with [`Acks::None`] nothing more is ever known.
    Sent {
        /// Its partition.
        partition: i32,
    },
    /// It is not in the log and never will be.
    Refused(ClientError),
    /// It may be in the log, now or later.
    Unknown(ClientError),
}

/// Completes with a record's outcome.
pub struct Delivery {
    receiver: oneshot::Receiver<Outcome>,
}

impl Future for Delivery {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Outcome> {
        // A sender that is gone means that the producer was dropped with the record on its way.
        Pin::new(&mut self.receiver).poll(cx).map(|outcome| outcome.unwrap_or(Outcome::Unknown(ClientError::Dropped { what: "producer" })))
    }
}

/// A producer. Dropping it abandons what has no outcome yet; [`Producer::flush`] before.
pub struct Producer<R: Runtime> {
    client: Client<R>,
    config: Arc<ProducerConfig>,
    buffer: Arc<Semaphore>,
    identity: Arc<Identity>,
    lanes: Mutex<BTreeMap<TopicPartition, LaneHandle<R>>>,
    /// Where records without a key go now, by topic, and how many bytes went there.
    sticky: Mutex<BTreeMap<String, (i32, usize)>>,
}

struct LaneHandle<R: Runtime> {
    commands: mpsc::UnboundedSender<Command>,
    task: R::Task<()>,
}

impl<R: Runtime> Drop for LaneHandle<R> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The producer id that all lanes share. A lane that must begin a new sequence raises its own epoch (KIP-360: the broker checks epochs
/// per partition), or draws a new id when epochs run out.
#[derive(Default)]
pub(crate) struct Identity {
    current: tokio::sync::Mutex<Option<(i64, i16)>>,
}

impl Identity {
    /// The id and its first epoch, drawn from a broker once. `not`: an id that cannot be used any more.
    pub(crate) async fn get<R: Runtime>(&self, client: &Client<R>, not: Option<i64>) -> Result<(i64, i16), ClientError> {
        let mut current = self.current.lock().await;
        if let Some((id, epoch)) = current.filter(|(id, _)| Some(*id) != not) {
            return Ok((id, epoch));
        }
        let connection = client.any().await?;
        let version = connection.version::<InitProducerIdRequest>()?;
        let request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(i32::MAX);
        let response = connection.call_at(version.min(5), &request, client.config().request_timeout).await?;
        ClientError::check(response.error_code, None, || "drawing a producer id".to_owned())?;
        let identity = (response.producer_id.0, response.producer_epoch);
        *current = Some(identity);
        Ok(identity)
    }
}

impl<R: Runtime> Producer<R> {
    /// A producer.
    ///
    /// # Errors
    /// [`ClientError::Invalid`] if the configuration contradicts itself.
    pub fn new(client: Client<R>, config: ProducerConfig) -> Result<Self, ClientError> {
        let invalid = |what: &str| Err(ClientError::Invalid { what: what.into() });
        if config.idempotent && config.acks != Acks::All {
            return invalid("an idempotent producer needs acks=all");
        }
        if config.max_in_flight == 0 || (config.idempotent && config.max_in_flight > 5) {
            return invalid("max_in_flight must be at least 1, and at most 5 for an idempotent producer");
        }
        let buffer = Arc::new(Semaphore::new(config.buffer_bytes as usize));
        Ok(Self { client, config: Arc::new(config), buffer, identity: Arc::default(), lanes: Mutex::new(BTreeMap::new()), sticky: Mutex::new(BTreeMap::new()) })
    }

    /// The client that it uses.
    pub fn client(&self) -> &Client<R> {
        &self.client
    }

    /// Puts a record into its partition's lane; waits for buffer space, and for the topic's metadata the first time. Records of one
    /// partition are sent in the order in which these calls return.
    ///
    /// # Errors
    /// [`ClientError`]; the record is not sent then.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ClientError> {
        let size_bytes = batch::record_bytes(&record);
        let permits = u32::try_from(size_bytes).ok().filter(|permits| *permits <= self.config.buffer_bytes);
        let permits = permits.ok_or_else(|| ClientError::Invalid {
            what: format!("a record of {size_bytes} bytes does not fit the producer's buffer of {} bytes", self.config.buffer_bytes).into(),
        })?;
        let partition = match record.partition {
            Some(partition) => partition,
            None => self.choose_partition(&record, size_bytes).await?,
        };
        let permit = self.buffer.clone().acquire_many_owned(permits).await.map_err(|_| ClientError::Dropped { what: "producer" })?;
        let (reply, receiver) = oneshot::channel();
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(|| self.client.runtime().unix_ms());
        let target = TopicPartition::new(record.topic.as_str(), partition);
        let queued = batch::Queued {
            key: record.key,
            value: record.value,
            headers: record.headers,
            timestamp_ms,
            size_bytes,
            deadline: self.client.runtime().now() + self.config.delivery_timeout,
            reply,
            _permit: permit,
        };
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = lanes.entry(target.clone()).or_insert_with(|| {
            let (commands, receiver) = mpsc::unbounded_channel();
            let lane = Lane::new(self.client.clone(), self.config.clone(), self.identity.clone(), target);
            LaneHandle { commands, task: self.client.runtime().spawn("producer-lane", lane.run(receiver)) }
        });
        lane.commands.send(Command::Record(queued)).map_err(|_| ClientError::Dropped { what: "producer" })?;
        Ok(Delivery { receiver })
    }

    /// Waits until every record that was sent before has its outcome, without lingering.
    pub async fn flush(&self) {
        for lane in self.lanes.lock().unwrap_or_else(PoisonError::into_inner).values() {
            // A lane that is gone has nothing left.
            let _ = lane.commands.send(Command::Flush);
        }
        // A record's share of the buffer is given back with its outcome, so having it all means that there are none.
        drop(self.buffer.acquire_many(self.config.buffer_bytes).await);
    }

    /// By the key's hash as Kafka's clients do it, so that they agree; without a key a partition gets a batch's worth, then the next one.
    async fn choose_partition(&self, record: &ProducerRecord, size_bytes: usize) -> Result<i32, ClientError> {
        let topic = self.client.topic(&record.topic).await?;
        let count = i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX);
        if count == 0 {
            return Err(ClientError::Unavailable { what: format!("topic {} has no partitions", record.topic).into() });
        }
        if let Some(key) = &record.key {
            return Ok((murmur2(key) & i32::MAX) % count);
        }
        let mut sticky = self.sticky.lock().unwrap_or_else(PoisonError::into_inner);
        let runtime = self.client.runtime();
        let draw = || (runtime.random_u64() % count as u64) as i32;
        let (partition, bytes) = sticky.entry(record.topic.clone()).or_insert_with(|| (draw(), 0));
        if *bytes >= self.config.batch_bytes || *partition >= count {
            *partition = if *partition >= count { draw() } else { (*partition + 1) % count };
            *bytes = 0;
        }
        *bytes += size_bytes;
        Ok(*partition)
    }
}

/// The hash of a key by which Kafka's clients choose a partition: 32-bit MurmurHash 2 with their seed.
pub fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash: u32 = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    (hash ^ (hash >> 15)) as i32
}

/// Whether an error says that the broker does not know this producer's epoch or sequence, which only a new sequence mends.
fn is_sequence_error(code: ResponseError) -> bool {
    matches!(
        code,
        ResponseError::OutOfOrderSequenceNumber
            | ResponseError::UnknownProducerId
            | ResponseError::InvalidProducerEpoch
            | ResponseError::InvalidProducerIdMapping
            | ResponseError::ProducerFenced
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pairs of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn keys_hash_as_in_kafka() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }
}
