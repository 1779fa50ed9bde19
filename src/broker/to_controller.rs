//! What a broker asks of the controller: in-sync replicas that its leaders propose, topics that its clients want, leave to stop. The controller may be this very
//! broker; else it is asked at the listener of brokers (`inter.broker.listener.name`), over one connection that is kept.

use std::sync::Arc;
use std::time::Duration;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::{Request, StrBytes};
use tokio::sync::{Mutex, mpsc};

use super::Broker;
use super::handlers::Context;
use crate::client::connection::{Connection, ConnectionConfig};
use crate::controller::IsrChange;
use crate::controller::image::PartitionImage;
use crate::controller::topics::{ApiError, NewTopic};
use crate::replication::alter_partition;
use crate::replication::leader::Outcome;
use crate::replication::partition::IsrProposal;
use crate::runtime::{HostPort, Runtime, Timer};
use crate::wire::control::{ControlledShutdownRequest, NO_BROKER_EPOCH};

/// How many proposals are carried in one request at most.
const PROPOSALS_AT_ONCE: usize = 1_000;

/// Between two attempts that the controller did not answer, unless the metadata changes before.
const BACKOFF: Duration = Duration::from_millis(50);

/// How brokers call themselves when they ask the controller: `broker-N` and this.
const CLIENT_ID: &str = "-to-controller";

/// The newest ControlledShutdown.
const CONTROLLED_SHUTDOWN_VERSION: i16 = 3;

/// The connection to the controller, as long as it is the same one at the same address.
pub(super) struct ToController<R: Runtime> {
    connection: Mutex<Option<(HostPort, Connection<R>)>>,
}

impl<R: Runtime> Default for ToController<R> {
    fn default() -> Self {
        Self { connection: Mutex::new(None) }
    }
}

impl<R: Runtime> Broker<R> {
    /// Where the controller listens for brokers; `None` if there is none at the moment, or if it is this broker.
    fn controller_address(&self) -> Option<HostPort> {
        let image = self.controller.image();
        let endpoints = &image.brokers.get(&image.controller_id).filter(|broker| broker.id != self.id())?.endpoints;
        endpoints.iter().find(|endpoint| endpoint.listener == self.config.inter_broker_listener()).map(|endpoint| endpoint.address.clone())
    }

    fn is_controller(&self) -> bool {
        self.controller.image().controller_id == self.id()
    }

    /// Asks the controller, which is another broker.
    async fn ask_controller<Q: Request>(&self, version: Option<i16>, request: &Q) -> Result<Q::Response, ApiError> {
        let unknown = |why: String| ApiError::new(Error::NotController, why);
        let address = self.controller_address().ok_or_else(|| unknown("There is no controller at the moment.".into()))?;
        let timeout = Duration::from_millis(u64::try_from(self.config.controller_socket_timeout_ms).unwrap_or(30_000));
        let mut kept = self.to_controller.connection.lock().await;
        let open = match kept.take() {
            Some((at, connection)) if at == address && connection.is_open() => connection,
            _ => {
                let config =
                    ConnectionConfig { client_id: format!("broker-{}{CLIENT_ID}", self.id()), connect_timeout: timeout, ..ConnectionConfig::default() };
                Connection::open(&self.runtime, &address, config).await.map_err(|error| unknown(error.to_string()))?
            }
        };
        *kept = Some((address, open.clone()));
        drop(kept);
        let version = match version {
            Some(version) => version,
            None => open.version::<Q>().map_err(|error| unknown(error.to_string()))?,
        };
        open.call_at(version, request, timeout).await.map_err(|error| ApiError::new(Error::RequestTimedOut, error.to_string()))
    }

    /// What the controller answers to a client's request that any broker must take (settings of brokers are sent to the broker they are of). `None` if this broker
    /// is to answer itself: it is the controller, or there is none, or another broker asks, which takes this one for it.
    pub async fn forwarded<Q: Request>(&self, context: &Context, request: &Q) -> Option<Q::Response> {
        let is_from_broker = context.client_id.as_deref().is_some_and(|id| id.ends_with(CLIENT_ID));
        if is_from_broker || self.is_controller() {
            return None;
        }
        let answered = self.ask_controller(Some(context.version), request).await;
        answered.inspect_err(|error| tracing::info!(%error, "a request could not be forwarded to the controller")).ok()
    }

    /// This broker's epoch; −1 if it is not registered as far as it knows.
    fn epoch(&self) -> i64 {
        self.controller.image().brokers.get(&self.id()).map_or(NO_BROKER_EPOCH, |broker| broker.epoch)
    }

    /// Carries what leaders propose to the controller until the broker stops, and its answers back.
    pub(super) async fn carry_proposals(self: Arc<Self>, mut proposals: mpsc::UnboundedReceiver<IsrProposal>) {
        let mut stop = self.stop.subscribe();
        let mut images = self.controller.subscribe();
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                count = proposals.recv_many(&mut batch, PROPOSALS_AT_ONCE) => if count == 0 { return },
            }
            images.mark_unchanged();
            let outcomes = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                outcomes = self.propose(&batch) => outcomes,
            };
            let is_unknown = outcomes.contains(&Outcome::Unknown);
            for (proposal, outcome) in batch.iter().zip(outcomes) {
                if let Some(partition) = self.replicas.partition(&proposal.partition.topic, proposal.partition.partition) {
                    partition.proposal_answered(&proposal.proposal, outcome);
                }
            }
            if is_unknown {
                let mut pause = self.runtime.sleep(BACKOFF);
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return,
                    _ = images.changed() => {}
                    () = &mut pause => {}
                }
            }
        }
    }

    async fn propose(&self, batch: &[IsrProposal]) -> Vec<Outcome> {
        if self.is_controller() {
            let changes = batch.iter().map(|IsrProposal { partition, topic_id, proposal }| {
                let isr = proposal.isr.iter().map(|(id, epoch)| (*id, *epoch)).collect();
                (*topic_id, partition.partition, IsrChange { leader_epoch: proposal.leader_epoch, partition_epoch: proposal.partition_epoch, isr })
            });
            let answered = self.controller.alter_partitions(self.id(), self.epoch(), changes.collect()).await;
            return answered.into_iter().map(|answered| outcome(&answered)).collect();
        }
        let request = alter_partition::request(self.id(), self.epoch(), batch);
        match self.ask_controller(Some(alter_partition::VERSION), &request).await {
            Ok(response) => batch.iter().map(|proposal| alter_partition::outcome(&response, proposal.topic_id, proposal.partition.partition)).collect(),
            Err(error) => {
                tracing::debug!(%error, "in-sync replicas could not be proposed; the controller is asked again");
                vec![Outcome::Unknown; batch.len()]
            }
        }
    }

    /// Creates topics through the controller, whoever it is; one result each, in order. The image may show them a little later.
    pub(super) async fn create_through_controller(&self, topics: &[NewTopic]) -> Vec<Result<(), ApiError>> {
        if self.is_controller() {
            return self.controller.create_topics(topics.to_vec(), false).await.into_iter().map(|created| created.map(drop)).collect();
        }
        let text = |text: &str| StrBytes::from_string(text.to_owned());
        let asked = topics.iter().map(|topic| {
            let configs =
                topic.configs.iter().map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(value.as_deref().map(text)));
            CreatableTopic::default()
                .with_name(TopicName(text(&topic.name)))
                .with_num_partitions(topic.partition_count)
                .with_replication_factor(topic.replication_factor)
                .with_configs(configs.collect())
        });
        let request = CreateTopicsRequest::default().with_topics(asked.collect()).with_timeout_ms(self.config.controller_socket_timeout_ms);
        match self.ask_controller(None, &request).await {
            Ok(response) => {
                let of = |topic: &NewTopic| response.topics.iter().find(|answered| answered.name.as_str() == topic.name);
                let result = |topic: &NewTopic| match of(topic) {
                    Some(answered) if answered.error_code == 0 => Ok(()),
                    Some(answered) => {
                        let code = Error::try_from_code(answered.error_code).unwrap_or(Error::UnknownServerError);
                        Err(ApiError::new(code, answered.error_message.as_ref().map(ToString::to_string).unwrap_or_default()))
                    }
                    None => Err(ApiError::new(Error::UnknownServerError, "The controller did not answer for this topic.")),
                };
                topics.iter().map(result).collect()
            }
            Err(error) => topics.iter().map(|_| Err(error.clone())).collect(),
        }
    }

    /// Asks the controller to move this broker's leaderships away, again until none is left that another broker could have (`controlled.shutdown.enable`).
    pub(super) async fn hand_over(&self) {
        /// How long others may take to catch up.
        const PATIENCE: Duration = Duration::from_secs(5);
        /// How long there may be no controller, or one that does not answer: when the whole cluster is stopped there is nobody to hand over to.
        const UNHEARD: Duration = Duration::from_secs(1);
        let mut images = self.controller.subscribe();
        let (mut late, mut unheard) = (self.runtime.sleep(PATIENCE), self.runtime.sleep(UNHEARD));
        let mut last = String::new();
        while self.is_leader_of_others() {
            images.mark_unchanged();
            let asked = async {
                if self.is_controller() {
                    return self.controller.leave(self.id(), None).await.map(|left| left.len());
                }
                let request = ControlledShutdownRequest { broker_id: self.id(), broker_epoch: self.epoch() };
                let response = self.ask_controller(Some(CONTROLLED_SHUTDOWN_VERSION), &request).await?;
                match response.error_code {
                    0 => Ok(response.remaining.len()),
                    code => Err(ApiError::new(Error::try_from_code(code).unwrap_or(Error::UnknownServerError), "The controller refused.")),
                }
            };
            let asked = tokio::select! {
                biased;
                asked = asked => asked,
                () = &mut unheard => break,
                () = &mut late => break,
            };
            match asked {
                Ok(0) => return,
                Ok(left) => {
                    last = format!("{left} partitions have no other in-sync replica");
                    unheard.reset(self.runtime.now() + UNHEARD);
                }
                Err(error) => last = error.to_string(),
            }
            let mut pause = self.runtime.sleep(BACKOFF);
            tokio::select! {
                biased;
                () = &mut unheard => break,
                () = &mut late => break,
                _ = images.changed() => {}
                () = &mut pause => {}
            }
        }
        if !last.is_empty() {
            tracing::warn!(why = last, "not all leaderships were handed over before the stop");
        }
    }

    /// Whether it is in sync with others in a partition, one of whom is there: whether anybody misses it.
    fn is_leader_of_others(&self) -> bool {
        let image = self.controller.image();
        let is_there = |id: &i32| *id != self.id() && image.brokers.contains_key(id);
        let is_missed = |partition: &PartitionImage| partition.isr.contains(&self.id()) && partition.replicas.iter().any(is_there);
        image.topics.values().any(|topic| topic.partitions.iter().any(is_missed))
    }
}

/// What the controller's word means, said within one process.
fn outcome(answered: &Result<PartitionImage, ApiError>) -> Outcome {
    match answered {
        Ok(partition) => Outcome::State { leader_epoch: partition.leader_epoch, partition_epoch: partition.partition_epoch, isr: partition.isr.clone() },
        Err(error) => alter_partition::refusal(error.code.code()),
    }
}
