//! A partition's lane: one task that forms batches, keeps some in flight, and sends again what failed, in order.
//!
//! Answers come in the order of the requests, so only the oldest batch in flight is awaited. After a failure nothing new is sent until
//! all that is in flight has come back; then what failed goes first, in its old order, with its old sequences. With idempotence, a
//! batch that is given up leaves a gap that the broker would refuse to step over: the lane then begins a new sequence under the next
//! epoch (KIP-360). A batch that some attempt may have written is never given a new sequence, for it could be there twice: it is
//! given up as unknown.

use std::collections::VecDeque;
use std::sync::Arc;

use kafka_protocol::ResponseError;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse};
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::client::cluster::{Client, Leader, topic_name};
use crate::client::connection::Answer;
use crate::client::error::ClientError;
use crate::client::producer::batch::{Batch, Queued, Sequence};
use crate::client::producer::{Acks, Identity, ProducerConfig, is_sequence_error};
use crate::record::batch::add_sequence;
use crate::runtime::{Instant, Runtime};
use crate::topic_partition::TopicPartition;

/// What a lane is told.
pub(crate) enum Command {
    /// Send this.
    Record(Queued),
    /// Do not linger with what came before.
    Flush,
}

pub(crate) struct Lane<R: Runtime> {
    client: Client<R>,
    config: Arc<ProducerConfig>,
    identity: Arc<Identity>,
    partition: TopicPartition,
    /// Batches to send, the oldest first. Those that were sent before are at the front and keep their sequence.
    waiting: VecDeque<Batch>,
    in_flight: VecDeque<(Batch, Answer<R, ProduceResponse>)>,
    /// Batches that came back with a failure, in order; they go before `waiting` once nothing is in flight.
    failed: VecDeque<Batch>,
    /// When the last waiting batch stops lingering; `None` if it does not linger.
    linger_until: Option<Instant>,
    /// When sending may go on after a failure.
    pause_until: Option<Instant>,
    /// The next pause.
    pause: std::time::Duration,
    numbering: Numbering,
}

/// Where this lane's sequence stands.
#[derive(Clone, Copy, Default)]
struct Numbering {
    /// Id and epoch; `None` before the first batch, and after an id that cannot be used any more.
    producer: Option<(i64, i16)>,
    next: i32,
    /// Whether a batch was given up, so that a new sequence must begin once nothing is in flight.
    broken: bool,
    /// An id that the broker refuses.
    refused_id: Option<i64>,
}

impl<R: Runtime> Lane<R> {
    pub(crate) fn new(client: Client<R>, config: Arc<ProducerConfig>, identity: Arc<Identity>, partition: TopicPartition) -> Self {
        let pause = client.config().retry_backoff;
        Self {
            client,
            config,
            identity,
            partition,
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            failed: VecDeque::new(),
            linger_until: None,
            pause_until: None,
            pause,
            numbering: Numbering::default(),
        }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>) {
        loop {
            // Everything that has come forms batches before anything is sent.
            while let Ok(command) = commands.try_recv() {
                self.take(command);
            }
            self.settle();
            self.give_up_late();
            if self.may_send() {
                self.send_next().await;
                continue;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                biased;
                answer = first_answer(&mut self.in_flight), if !self.in_flight.is_empty() => self.answered(answer),
                command = commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                () = self.client.runtime().timer(wake_at.unwrap_or_default()), if wake_at.is_some() => {}
            }
        }
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Record(record) => {
                let fits =
                    |batch: &&mut Batch| batch.attempts == 0 && batch.sequence.is_none() && batch.size_bytes + record.size_bytes <= self.config.batch_bytes;
                match self.waiting.back_mut().filter(fits) {
                    Some(open) => open.push(record),
                    None => {
                        let linger = self.config.linger;
                        self.linger_until = (!linger.is_zero()).then(|| self.client.runtime().now() + linger);
                        self.waiting.push_back(Batch::new(record));
                    }
                }
            }
            Command::Flush => self.linger_until = None,
        }
    }

    /// Once nothing is in flight after a failure: what failed goes first, and a broken sequence begins anew.
    fn settle(&mut self) {
        if !self.in_flight.is_empty() || (self.failed.is_empty() && !self.numbering.broken) {
            return;
        }
        while let Some(batch) = self.failed.pop_back() {
            self.waiting.push_front(batch);
        }
        if !self.numbering.broken {
            return;
        }
        let given_up = ClientError::Invalid { what: "an earlier batch of this producer was given up, so this one cannot be told from a duplicate".into() };
        let mut kept = VecDeque::with_capacity(self.waiting.len());
        for mut batch in self.waiting.drain(..) {
            if batch.maybe_written {
                batch.failed(&given_up);
            } else {
                batch.set_sequence(None);
                kept.push_back(batch);
            }
        }
        self.waiting = kept;
        self.numbering.broken = false;
        self.numbering.next = 0;
        self.numbering.producer = match self.numbering.producer {
            Some((id, epoch)) if epoch < i16::MAX && self.numbering.refused_id != Some(id) => Some((id, epoch + 1)),
            Some((id, _)) => {
                self.numbering.refused_id = Some(id);
                None
            }
            None => None,
        };
    }

    /// Ends what is not in flight and has run out of time.
    fn give_up_late(&mut self) {
        let now = self.client.runtime().now();
        // Deadlines grow along the queue, but for records whose callers set their own pace; the first tells.
        while self.waiting.front().is_some_and(|batch| batch.deadline() <= now) && self.in_flight.is_empty() {
            let Some(batch) = self.waiting.pop_front() else { return };
            let error = ClientError::DeadlinePassed {
                what: format!("sending to {}", self.partition).into(),
                after_ms: self.config.delivery_timeout.as_millis() as u64,
                last: Box::new(ClientError::Unavailable { what: "its turn had not come, or every attempt had failed".into() }),
            };
            self.give_up(batch, &error);
        }
    }

    /// Ends a batch for good. If it has a place in the sequence, the sequence is broken by that.
    fn give_up(&mut self, batch: Batch, error: &ClientError) {
        if batch.sequence.is_some() {
            self.numbering.broken = true;
        }
        batch.failed(error);
    }

    fn is_recovering(&self) -> bool {
        !self.failed.is_empty() || self.numbering.broken
    }

    fn may_send(&self) -> bool {
        let now = self.client.runtime().now();
        let lingers =
            self.waiting.len() == 1 && self.linger_until.is_some_and(|until| now < until) && self.waiting.front().is_some_and(|batch| batch.attempts == 0);
        !self.waiting.is_empty()
            && !self.is_recovering()
            && self.in_flight.len() < self.config.max_in_flight
            && self.pause_until.is_none_or(|until| until <= now)
            && !lingers
    }

    fn wake_at(&self) -> Option<Instant> {
        if self.waiting.is_empty() || !self.in_flight.is_empty() && self.is_recovering() {
            return None;
        }
        let deadline = if self.in_flight.is_empty() { self.waiting.front().map(Batch::deadline) } else { None };
        let now = self.client.runtime().now();
        [deadline, self.linger_until.filter(|until| *until > now), self.pause_until.filter(|until| *until > now)].into_iter().flatten().min()
    }

    /// Sends the first waiting batch. On an error before it is sent, pauses.
    async fn send_next(&mut self) {
        let Some(mut batch) = self.waiting.pop_front() else { return };
        match self.try_send(&mut batch).await {
            Ok(Some(answer)) => self.in_flight.push_back((batch, answer)),
            Ok(None) => {
                self.pause = self.client.config().retry_backoff;
                batch.sent(self.partition.partition);
            }
            // It goes back to its place before those that wait; what is in flight is older.
            Err(error) => {
                if let Some(batch) = self.attempt_failed(batch, error) {
                    self.waiting.push_front(batch);
                }
            }
        }
    }

    async fn try_send(&mut self, batch: &mut Batch) -> Result<Option<Answer<R, ProduceResponse>>, ClientError> {
        let leader = self.client.leader_once(&self.partition).await?;
        if self.config.idempotent && batch.sequence.is_none() {
            let (producer_id, epoch) = match self.numbering.producer {
                Some(producer) => producer,
                None => self.identity.get(&self.client, self.numbering.refused_id).await?,
            };
            self.numbering.producer = Some((producer_id, epoch));
            batch.set_sequence(Some(Sequence { producer_id, epoch, first: self.numbering.next }));
            self.numbering.next = add_sequence(self.numbering.next, batch.record_count());
        }
        let (version, request) = self.request(&leader, batch)?;
        batch.attempts = batch.attempts.saturating_add(1);
        if self.config.acks == Acks::None {
            return match leader.connection.send_only(version, &request).await {
                Ok(()) => Ok(None),
                Err(error) => {
                    batch.maybe_written |= error.maybe_executed();
                    Err(error)
                }
            };
        }
        // The broker's own wait for its replicas comes on top of the way there and back.
        let timeout = self.client.config().request_timeout.max(self.config.ack_timeout);
        leader.connection.start(version, &request, timeout).await.map(Some)
    }

    fn request(&self, leader: &Leader<R>, batch: &mut Batch) -> Result<(i16, ProduceRequest), ClientError> {
        // Version 13 names topics by id.
        let version = leader.connection.version_up_to::<ProduceRequest>(if leader.topic_id == Uuid::nil() { 12 } else { 13 })?;
        let partition = PartitionProduceData::default().with_index(self.partition.partition).with_records(Some(batch.encode(self.config.codec)));
        let topic = TopicProduceData::default().with_partition_data(vec![partition]);
        let topic = if version >= 13 { topic.with_topic_id(leader.topic_id) } else { topic.with_name(topic_name(&self.partition.topic)) };
        let timeout_ms = i32::try_from(self.config.ack_timeout.as_millis()).unwrap_or(i32::MAX);
        Ok((version, ProduceRequest::default().with_acks(self.config.acks.number()).with_timeout_ms(timeout_ms).with_topic_data(vec![topic])))
    }

    /// The oldest batch in flight has its answer.
    fn answered(&mut self, answer: Result<ProduceResponse, ClientError>) {
        let Some((batch, _)) = self.in_flight.pop_front() else { return };
        let result = answer.and_then(|response| {
            let answer = response.responses.into_iter().next().and_then(|topic| topic.partition_responses.into_iter().next());
            answer.ok_or_else(|| ClientError::Unavailable { what: "the broker's answer leaves the partition out".into() })
        });
        let answer = match result {
            Ok(answer) => answer,
            Err(error) => return self.came_back(batch, error),
        };
        match ResponseError::try_from_code(answer.error_code) {
            None => {
                self.pause = self.client.config().retry_backoff;
                batch.acked(self.partition.partition, answer.base_offset);
            }
            // It is in the log, and the broker does not remember where.
            Some(ResponseError::DuplicateSequenceNumber) => batch.acked(self.partition.partition, -1),
            Some(code) => {
                let error = ClientError::Broker {
                    code,
                    what: format!("sending to {}", self.partition).into(),
                    message: answer.error_message.as_deref().map(Arc::from),
                };
                self.came_back(batch, error);
            }
        }
    }

    /// A batch that was in flight comes back with a failure; those that follow it will come back behind it.
    fn came_back(&mut self, batch: Batch, error: ClientError) {
        if error.code() == Some(ResponseError::MessageTooLarge) && !batch.maybe_written {
            match batch.split() {
                Ok((first, second)) => self.failed.extend([first, second]),
                Err(whole) => {
                    let again = self.attempt_failed(whole, error);
                    self.failed.extend(again);
                }
            }
            return;
        }
        let again = self.attempt_failed(batch, error);
        self.failed.extend(again);
    }

    /// An attempt failed: gives the batch back if there is to be another, or ends it.
    fn attempt_failed(&mut self, mut batch: Batch, error: ClientError) -> Option<Batch> {
        let code = error.code();
        // An answer that leaves the partition out, too, tells nothing of the batch.
        batch.maybe_written |= batch.attempts > 0 && (error.maybe_executed() || matches!(error, ClientError::Unavailable { .. }));
        if error.wants_metadata() {
            self.client.invalidate(&self.partition.topic);
        }
        let out_of_order = code.is_some_and(is_sequence_error);
        // Behind a batch that failed, or was given up, the next ones are out of order by that alone.
        let consequence = out_of_order && self.is_recovering();
        let now = self.client.runtime().now();
        // Without answers, a second attempt could only make a second copy.
        let blind = self.config.acks == Acks::None && batch.maybe_written;
        let again = (error.is_retriable() || consequence) && !blind && batch.attempts <= self.config.retries && now < batch.deadline();
        if !again {
            if matches!(code, Some(ResponseError::InvalidProducerEpoch | ResponseError::ProducerFenced | ResponseError::InvalidProducerIdMapping)) {
                self.numbering.refused_id = batch.sequence.map(|sequence| sequence.producer_id);
            }
            self.give_up(batch, &error);
            return None;
        }
        if !consequence {
            let runtime = self.client.runtime();
            let jitter = std::time::Duration::from_nanos(runtime.random_u64() % (self.pause.as_nanos() as u64 / 2).max(1));
            self.pause_until = Some(now + self.pause / 2 + jitter);
            self.pause = (self.pause * 2).min(self.client.config().retry_backoff_max);
        }
        Some(batch)
    }
}

/// The answer to the oldest batch in flight.
async fn first_answer<R: Runtime>(in_flight: &mut VecDeque<(Batch, Answer<R, ProduceResponse>)>) -> Result<ProduceResponse, ClientError> {
    match in_flight.front_mut() {
        Some((_, answer)) => answer.wait().await,
        None => std::future::pending().await,
    }
}
