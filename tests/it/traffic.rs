//! A little traffic for a broker under test, over the project's own client: topics, batches, reads. What a test asserts is the test's.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla::client::admin::NewTopic;
use ottla::client::connection::{Connection, ConnectionConfig};
use ottla::client::{Client, ClientConfig, ClientError};
use ottla::record::BatchBuilder;
use ottla::record::batch::Header;
use ottla::runtime::HostPort;
use ottla::runtime::tokio::TokioRuntime;

/// The client's connection over real sockets.
pub type Conn = Connection<TokioRuntime>;

/// How long one request may take.
pub const REQUEST: Duration = Duration::from_secs(60);

/// Where a broker under test listens.
pub fn address(port: u16) -> HostPort {
    HostPort { host: "127.0.0.1".to_owned(), port }
}

/// A connection.
pub async fn try_connect(port: u16) -> Result<Conn, ClientError> {
    Connection::open(&TokioRuntime::new(), &address(port), ConnectionConfig { client_id: "it".to_owned(), ..ConnectionConfig::default() }).await
}

/// A connection to a broker that must be there.
pub async fn connect(port: u16) -> Conn {
    try_connect(port).await.expect("the broker listens")
}

/// A client.
pub fn client(port: u16) -> Client<TokioRuntime> {
    Client::new(TokioRuntime::new(), ClientConfig::new(vec![address(port)]))
}

/// Makes a topic.
pub async fn create_topic(port: u16, name: &str, partitions: i32, config: &[(&str, &str)]) {
    let config: BTreeMap<String, String> = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let topic = NewTopic { name: name.to_owned(), partitions: Some(partitions), replication_factor: Some(1), config };
    client(port).create_topic(&topic, false).await.expect("the topic can be made");
}

/// A topic's name as messages want it.
pub fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// A batch of records with these values and no keys.
pub fn batch<V: AsRef<[u8]>>(values: &[V]) -> Bytes {
    let mut builder = BatchBuilder::new();
    for (at, value) in values.iter().enumerate() {
        builder.push(1_700_000_000_000 + at as i64, None, Some(value.as_ref()), &[]);
    }
    builder.build()
}

/// A request that produces these bytes to one partition.
pub fn produce_request(topic: &str, partition: i32, records: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData::default().with_index(partition).with_records(Some(records));
    let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
    ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
}

/// The newest version that still names topics.
pub fn produce_version(connection: &Conn) -> i16 {
    connection.version_up_to::<ProduceRequest>(12).expect("the broker serves Produce")
}

/// Error code and base offset of an answer about one partition.
pub fn produced(response: &ProduceResponse) -> (i16, i64) {
    let partition = &response.responses[0].partition_responses[0];
    (partition.error_code, partition.base_offset)
}

/// Produces bytes with acks=all: the error code and the base offset.
pub async fn produce(connection: &Conn, topic: &str, partition: i32, records: Bytes) -> Result<(i16, i64), ClientError> {
    let request = produce_request(topic, partition, records, -1);
    let response = connection.call_at(produce_version(connection), &request, REQUEST).await?;
    Ok(produced(&response))
}

/// Produces a batch that must be acknowledged: its base offset.
pub async fn produce_ok<V: AsRef<[u8]>>(connection: &Conn, topic: &str, partition: i32, values: &[V]) -> i64 {
    let (code, base_offset) = produce(connection, topic, partition, batch(values)).await.expect("the broker answers");
    assert_eq!(code, 0, "produce to {topic}-{partition}");
    base_offset
}

/// Log start and log end as a client is told them.
pub async fn range(connection: &Conn, topic: &str, partition: i32) -> Result<(i64, i64), i16> {
    let mut ends = [0; 2];
    for (end, timestamp) in ends.iter_mut().zip([-2, -1]) {
        *end = list_offset(connection, topic, partition, timestamp).await?;
    }
    Ok((ends[0], ends[1]))
}

/// The offset for a timestamp, or the error code.
pub async fn list_offset(connection: &Conn, topic: &str, partition: i32, timestamp: i64) -> Result<i64, i16> {
    let wanted = ListOffsetsPartition::default().with_partition_index(partition).with_current_leader_epoch(-1).with_timestamp(timestamp);
    let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let response = connection.call_at(7, &request, REQUEST).await.expect("the broker answers");
    let found = &response.topics[0].partitions[0];
    if found.error_code == 0 { Ok(found.offset) } else { Err(found.error_code) }
}

/// A request that fetches from one partition.
pub fn fetch_request(topic: &str, partition: i32, offset: i64, max_bytes: i32, max_wait_ms: i32) -> FetchRequest {
    let wanted = FetchPartition::default()
        .with_partition(partition)
        .with_current_leader_epoch(-1)
        .with_fetch_offset(offset)
        .with_last_fetched_epoch(-1)
        .with_log_start_offset(-1)
        .with_partition_max_bytes(max_bytes);
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(max_bytes)
        .with_session_epoch(-1)
        .with_topics(vec![FetchTopic::default().with_topic(topic_name(topic)).with_partitions(vec![wanted])])
}

/// The one partition of an answer.
pub fn fetched(response: &FetchResponse) -> &PartitionData {
    &response.responses[0].partitions[0]
}

/// Fetches once, at most `max_bytes`.
pub async fn fetch(connection: &Conn, topic: &str, partition: i32, offset: i64, max_bytes: i32) -> Result<PartitionData, ClientError> {
    let response = connection.call_at(11, &fetch_request(topic, partition, offset, max_bytes, 0), REQUEST).await?;
    assert_eq!(response.error_code, 0);
    Ok(fetched(&response).clone())
}

/// The whole batches at the front of fetched bytes.
pub fn batches(mut bytes: Bytes) -> Vec<(Header, Bytes)> {
    let mut found = Vec::new();
    while let Ok(header) = Header::parse(&bytes) {
        if bytes.len() < header.size_in_bytes() {
            break;
        }
        found.push((header, bytes.split_to(header.size_in_bytes())));
    }
    found
}

/// Offsets and values of a partition from `offset` to its end, as many as are whole. Every batch's checksum must hold.
///
/// # Errors
/// The broker's error code.
pub async fn read_from(connection: &Conn, topic: &str, partition: i32, offset: i64) -> Result<Vec<(i64, Bytes)>, i16> {
    let (_, end) = range(connection, topic, partition).await?;
    let mut found: Vec<(i64, Bytes)> = Vec::new();
    let mut next = offset;
    while next < end {
        let data = fetch(connection, topic, partition, next, 4 << 20).await.expect("the broker answers");
        if data.error_code != 0 {
            return Err(data.error_code);
        }
        let batches = batches(data.records.unwrap_or_default());
        assert!(!batches.is_empty(), "{topic}-{partition}: nothing at {next}, below the end {end}");
        for (header, batch) in batches {
            Header::whole(&batch).unwrap_or_else(|error| panic!("{topic}-{partition} offset {}: {error}", header.base_offset));
            for record in ottla::record::records(&batch, 64 << 20).expect("a batch with a good checksum can be read") {
                let record = record.expect("a batch with a good checksum can be read");
                if record.offset >= next {
                    next = record.offset + 1;
                    found.push((record.offset, record.value.unwrap_or_default()));
                }
            }
        }
    }
    Ok(found)
}

/// Offsets and values of a whole partition.
pub async fn read_all(connection: &Conn, topic: &str, partition: i32) -> Vec<(i64, Bytes)> {
    let (start, _) = range(connection, topic, partition).await.expect("the partition is served");
    read_from(connection, topic, partition, start).await.expect("the partition is served")
}

/// The topic of [`round_trip`].
pub const PULSE: &str = "pulse";

/// A connection of its own, a record produced, and read back: the broker serves. The topic [`PULSE`] must be there.
pub async fn round_trip(port: u16, value: &str) {
    let connection = connect(port).await;
    let offset = produce_ok(&connection, PULSE, 0, &[value]).await;
    let read = read_from(&connection, PULSE, 0, offset).await.expect("the partition is served");
    assert_eq!(read.first(), Some(&(offset, Bytes::copy_from_slice(value.as_bytes()))));
    connection.close();
}
