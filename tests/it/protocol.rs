//! The Kafka protocol against a broker in this process, over real sockets: every API in every version, and what requests mean together.
//! Nothing here sleeps; what must not happen is shown by what happens instead.

mod configs;
mod connections;
mod fetch;
mod groups;
mod lifecycle;
mod produce;
mod topics;
mod versions;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{
    CreateTopicsRequest, FetchRequest, FetchResponse, GroupId, ListOffsetsRequest, MetadataRequest, ProduceRequest, TopicName, list_offsets_request,
};
use kafka_protocol::protocol::{Decodable, HeaderVersion, Request, StrBytes};
use ottla::broker::Broker;
use ottla::client::connection::{Answer, Connection, ConnectionConfig};
use ottla::config::broker::BrokerConfig;
use ottla::record::builder::BatchBuilder;
use ottla::record::records::records;
use ottla::runtime::HostPort;
use ottla::runtime::tokio::TokioRuntime;
use uuid::Uuid;

/// No test waits for time to pass, so that one which lasts that long hangs.
const HANGS_AFTER: Duration = Duration::from_secs(120);
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// `max_wait_ms` of a fetch that must be ended by something else.
const FOR_EVER_MS: i32 = 110_000;

type Conn = Connection<TokioRuntime>;

/// Runs a test against a broker with these settings.
fn with_broker<F, Fut>(settings: &[&str], test: F)
where
    F: FnOnce(Server) -> Fut,
    Fut: Future<Output = ()>,
{
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // In `block_on`, not in a task of the runtime: a panic there would end the whole test process.
    tokio.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::start(dir, settings).await;
        tokio::time::timeout(HANGS_AFTER, test(server)).await.expect("the test hangs");
    });
}

/// A broker on a directory of its own.
struct Server {
    broker: Arc<Broker<TokioRuntime>>,
    runtime: TokioRuntime,
    settings: Vec<String>,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start(dir: tempfile::TempDir, settings: &[&str]) -> Self {
        let mut all = vec![
            "listeners=PLAINTEXT://127.0.0.1:0".to_owned(),
            format!("log.dirs={}", dir.path().display()),
            "offsets.topic.num.partitions=3".to_owned(),
            "group.initial.rebalance.delay.ms=0".to_owned(),
        ];
        all.extend(settings.iter().map(ToString::to_string));
        let runtime = TokioRuntime::new();
        let broker = start(&runtime, &all).await;
        Self { broker, runtime, settings: all, dir }
    }

    /// Stops the broker in order and starts another on the same directory.
    async fn restart(self) -> Self {
        self.broker.shutdown().await;
        drop(self.broker);
        let broker = start(&self.runtime, &self.settings).await;
        Self { broker, ..self }
    }

    fn address(&self) -> HostPort {
        self.broker.bound()[0].host_port()
    }

    async fn connect(&self) -> Conn {
        self.connect_as("test").await
    }

    async fn connect_as(&self, client_id: &str) -> Conn {
        let config = ConnectionConfig { client_id: client_id.to_owned(), max_in_flight: 10_000, ..ConnectionConfig::default() };
        Connection::open(&self.runtime, &self.address(), config).await.unwrap()
    }

    /// A socket for what no client sends.
    async fn socket(&self) -> tokio::net::TcpStream {
        let at = self.address();
        tokio::net::TcpStream::connect((at.host.as_str(), at.port)).await.unwrap()
    }

    /// Waits, without sleeping, until `done`; fails if that lasts.
    async fn until(&self, what: &str, done: impl Fn() -> bool) {
        let waiting = async {
            while !done() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(TIMEOUT, waiting).await.unwrap_or_else(|_| panic!("never came to pass: {what}"));
    }
}

async fn start(runtime: &TokioRuntime, settings: &[String]) -> Arc<Broker<TokioRuntime>> {
    let config = BrokerConfig::from_text("", "", settings).unwrap();
    Broker::start(runtime.clone(), config, "localhost").await.unwrap()
}

/// The code of an error.
fn code(error: ResponseError) -> i16 {
    error.code()
}

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

/// Asks in the newest version.
async fn ask<Q: Request>(connection: &Conn, request: Q) -> Q::Response {
    connection.call(&request, TIMEOUT).await.unwrap()
}

/// Asks in this version.
async fn ask_at<Q: Request>(connection: &Conn, version: i16, request: Q) -> Q::Response {
    connection.call_at(version, &request, TIMEOUT).await.unwrap_or_else(|error| panic!("version {version}: {error}"))
}

/// Creates a topic that must not be there yet; its id.
async fn create(connection: &Conn, name: &str, partition_count: i32, configs: &[(&str, &str)]) -> Uuid {
    let configs = configs.iter().map(|(key, value)| CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))).collect();
    let topic = CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(partition_count).with_replication_factor(1).with_configs(configs);
    let created = ask(connection, CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000)).await;
    assert_eq!(created.topics[0].error_code, 0, "{:?}", created.topics[0].error_message);
    created.topics[0].topic_id
}

/// A batch with these values.
fn batch(values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for value in values {
        builder.push(1_000, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

/// A batch of an idempotent producer.
fn sequenced(producer_id: i64, epoch: i16, sequence: i32, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new().producer(producer_id, epoch, sequence);
    for value in values {
        builder.push(1_000, None, Some(value.as_bytes()), &[]);
    }
    builder.build()
}

/// A Produce request for one partition, by name (up to version 12).
fn produce_request(topic: &str, partition: i32, acks: i16, records: Bytes) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// Produces with acks=all in version 12; what is answered for the partition.
async fn produce(connection: &Conn, topic: &str, partition: i32, records: Bytes) -> PartitionProduceResponse {
    let mut response = ask_at(connection, 12, produce_request(topic, partition, -1, records)).await;
    response.responses.remove(0).partition_responses.remove(0)
}

/// Produces what must be accepted; its base offset.
async fn accepted(connection: &Conn, topic: &str, partition: i32, records: Bytes) -> i64 {
    let told = produce(connection, topic, partition, records).await;
    assert_eq!(told.error_code, 0, "{:?}", told.error_message);
    told.base_offset
}

/// A Fetch request without a session for one partition, by name (up to version 12), that does not wait.
fn fetch_request(topic: &str, partition: i32, offset: i64) -> FetchRequest {
    let partition = FetchPartition::default().with_partition(partition).with_fetch_offset(offset).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![partition]);
    FetchRequest::default().with_max_wait_ms(0).with_min_bytes(1).with_max_bytes(50 << 20).with_session_epoch(-1).with_topics(vec![topic])
}

/// The only partition of an answer.
fn only(response: &FetchResponse) -> &PartitionData {
    assert_eq!((response.error_code, response.responses.len()), (0, 1), "{response:?}");
    assert_eq!(response.responses[0].partitions.len(), 1);
    &response.responses[0].partitions[0]
}

/// All (offset, value) in a partition's answer.
fn contents(data: &PartitionData) -> Vec<(i64, String)> {
    assert_eq!(data.error_code, 0);
    let mut bytes = data.records.clone().unwrap_or_default();
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let header = ottla::record::batch::Header::whole(&bytes).unwrap();
        let one = bytes.split_to(header.size_in_bytes());
        for record in records(&one, 1 << 26).unwrap() {
            let record = record.unwrap();
            found.push((record.offset, String::from_utf8(record.value.unwrap_or_default().to_vec()).unwrap()));
        }
    }
    found
}

/// All that a partition holds from an offset on.
async fn read_all(connection: &Conn, topic: &str, partition: i32, from_offset: i64) -> Vec<(i64, String)> {
    let mut all = Vec::new();
    let mut offset = from_offset;
    loop {
        let response = ask_at(connection, 12, fetch_request(topic, partition, offset)).await;
        let found = contents(only(&response));
        match found.last() {
            Some((last, _)) => offset = last + 1,
            None => return all,
        }
        all.extend(found);
    }
}

/// Where a partition ends, as consumers see it.
async fn latest(connection: &Conn, topic: &str, partition: i32) -> i64 {
    offset_at(connection, topic, partition, -1).await
}

async fn offset_at(connection: &Conn, topic: &str, partition: i32, timestamp: i64) -> i64 {
    let partition = list_offsets_request::ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(timestamp);
    let topic = list_offsets_request::ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![partition]);
    let answer = ask(connection, ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])).await;
    let told = &answer.topics[0].partitions[0];
    assert_eq!(told.error_code, 0);
    told.offset
}

/// A Metadata request that names topics.
fn metadata_request(topics: &[&str]) -> MetadataRequest {
    let topics = topics.iter().map(|name| MetadataRequestTopic::default().with_name(Some(topic_name(name)))).collect();
    MetadataRequest::default().with_topics(Some(topics)).with_allow_auto_topic_creation(false)
}

/// A request that is on its way.
struct Pending<A>(Answer<TokioRuntime, A>);

impl<A: Decodable + HeaderVersion> Pending<A> {
    async fn wait(mut self) -> Result<A, ottla::client::ClientError> {
        self.0.wait().await
    }
}

/// Starts a request of this version; it is on its way when this returns.
async fn begin<Q: Request>(connection: &Conn, version: i16, request: Q) -> Pending<Q::Response> {
    Pending(connection.start(version, &request, Duration::from_secs(115)).await.unwrap())
}
