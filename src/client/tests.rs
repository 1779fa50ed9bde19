//! The client against a scripted broker: what it sends again, in which order and under which sequence, and what it says of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kafka_protocol::ResponseError;
use kafka_protocol::messages::metadata_response::{MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic};
use kafka_protocol::messages::produce_response::{PartitionProduceResponse, TopicProduceResponse};
use kafka_protocol::messages::{
    ApiKey, BrokerId, InitProducerIdResponse, MetadataRequest, MetadataResponse, ProduceRequest, ProduceResponse, ProducerId, RequestHeader, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use uuid::Uuid;

use super::producer::{Outcome, ProducerRecord};
use super::{Client, ClientConfig, ClientError, Consumer, ConsumerConfig, Producer, ProducerConfig};
use crate::record::batch::Header;
use crate::runtime::tokio::{TokioRuntime, run};
use crate::runtime::{HostPort, Listener, Runtime, Stream};
use crate::wire::api;

/// What the broker does with one Produce request.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// Appends and says so.
    Ack,
    /// Answers this and appends nothing.
    Refuse(ResponseError),
    /// Appends, and closes the connection instead of answering.
    AppendAndHangUp,
    /// Says nothing at all.
    Silence,
}

#[derive(Default)]
struct Script {
    acts: VecDeque<Act>,
    /// (producer epoch, base sequence, records) of every Produce request.
    seen: Vec<(i16, i32, i32)>,
    end_offset: i64,
    /// Sequences that are in the log, to answer a duplicate as a broker does.
    appended: Vec<(i16, i32, i64)>,
}

type Shared = Arc<Mutex<Script>>;

async fn serve(runtime: TokioRuntime, listener: <TokioRuntime as Runtime>::Listener, script: Shared) {
    let port = listener.local_addr().port();
    while let Ok(stream) = listener.accept().await {
        runtime.spawn("test-broker", connection(stream, port, script.clone()));
    }
}

async fn connection(stream: <TokioRuntime as Runtime>::Stream, port: u16, script: Shared) -> Option<()> {
    let (mut read, mut write) = stream.into_split();
    loop {
        let length = read.read_i32().await.ok()?;
        let mut frame = vec![0; length as usize];
        read.read_exact(&mut frame).await.ok()?;
        let mut frame = Bytes::from(frame);
        let (key, version) = (frame.slice(..2).get_i16(), frame.slice(2..4).get_i16());
        let api = api::find(key)?;
        let header = RequestHeader::decode(&mut frame, api.request_header_version(version)).ok()?;
        let mut out = BytesMut::new();
        ResponseHeader::default().with_correlation_id(header.correlation_id).encode(&mut out, api.response_header_version(version)).ok()?;
        match api.key {
            ApiKey::ApiVersions => api::api_versions(0).encode(&mut out, version).ok()?,
            ApiKey::Metadata => {
                let asked = MetadataRequest::decode(&mut frame, version).ok()?;
                let partition = MetadataResponsePartition::default().with_leader_id(BrokerId(0));
                let topics = asked.topics.unwrap_or_default().into_iter().map(|topic| {
                    MetadataResponseTopic::default().with_name(topic.name).with_topic_id(Uuid::from_u128(7)).with_partitions(vec![partition.clone()])
                });
                let broker = MetadataResponseBroker::default().with_host(StrBytes::from_static_str("127.0.0.1")).with_port(port.into());
                MetadataResponse::default().with_brokers(vec![broker]).with_topics(topics.collect()).encode(&mut out, version).ok()?;
            }
            ApiKey::InitProducerId => InitProducerIdResponse::default().with_producer_id(ProducerId(5)).encode(&mut out, version).ok()?,
            ApiKey::Produce => match produce(&script, ProduceRequest::decode(&mut frame, version).ok()?) {
                Some(response) => response.encode(&mut out, version).ok()?,
                None if matches!(script.lock().unwrap().acts.front(), Some(Act::Silence)) => continue,
                None => return None,
            },
            other => panic!("the test's broker has no {other:?}"),
        }
        let mut answer = BytesMut::new();
        answer.put_i32(out.len() as i32);
        answer.extend_from_slice(&out);
        write.write_all(&answer).await.ok()?;
    }
}

/// The next act of the script; [`Act::Silence`] stays for ever.
fn produce(script: &Shared, request: ProduceRequest) -> Option<ProduceResponse> {
    let mut script = script.lock().unwrap();
    let header = Header::whole(request.topic_data[0].partition_data[0].records.as_ref().unwrap()).unwrap();
    script.seen.push((header.producer_epoch, header.base_sequence, header.record_count));
    let act = match script.acts.front().copied() {
        Some(Act::Silence) => return None,
        _ => script.acts.pop_front().unwrap_or(Act::Ack),
    };
    let known = script.appended.iter().find(|(epoch, sequence, _)| (*epoch, *sequence) == (header.producer_epoch, header.base_sequence)).map(|known| known.2);
    let answer = PartitionProduceResponse::default();
    let answer = match (act, known) {
        (Act::Refuse(code), _) => answer.with_error_code(code.code()).with_base_offset(-1),
        (_, Some(offset)) => answer.with_base_offset(offset),
        _ => {
            let (offset, expected) = (script.end_offset, script.appended.last().filter(|last| last.0 == header.producer_epoch));
            // One record a batch, so the next sequence is one more.
            if expected.map_or(0, |last| last.1 + 1) != header.base_sequence {
                answer.with_error_code(ResponseError::OutOfOrderSequenceNumber.code()).with_base_offset(-1)
            } else {
                script.end_offset += i64::from(header.record_count);
                script.appended.push((header.producer_epoch, header.base_sequence, offset));
                if matches!(act, Act::AppendAndHangUp) {
                    return None;
                }
                answer.with_base_offset(offset)
            }
        }
    };
    let topic = TopicProduceResponse::default().with_topic_id(Uuid::from_u128(7)).with_partition_responses(vec![answer]);
    Some(ProduceResponse::default().with_responses(vec![topic]))
}

/// Sends `count` records, each a batch of its own, to a broker that plays `acts`; the outcomes, and what the broker saw.
fn play(acts: &[Act], count: usize, change: fn(&mut ClientConfig, &mut ProducerConfig)) -> (Vec<Outcome>, Vec<(i16, i32, i32)>) {
    let script: Shared = Arc::new(Mutex::new(Script { acts: acts.iter().copied().collect(), ..Script::default() }));
    let shared = script.clone();
    let outcomes = run(1, move |runtime| async move {
        let listener = runtime.listen("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let port = listener.local_addr().port();
        runtime.spawn("test-brokers", serve(runtime.clone(), listener, shared));
        let mut config = ClientConfig::new(vec![HostPort { host: "127.0.0.1".to_owned(), port }]);
        config.retry_backoff = Duration::from_millis(5);
        let mut producing = ProducerConfig { batch_bytes: 1, ..ProducerConfig::default() };
        change(&mut config, &mut producing);
        let producer = Producer::new(Client::new(runtime, config), producing).unwrap();
        let mut deliveries = Vec::new();
        for _ in 0..count {
            let record = ProducerRecord { topic: "t".to_owned(), partition: Some(0), value: Some(Bytes::from_static(b"v")), ..ProducerRecord::default() };
            deliveries.push(producer.send(record).await.unwrap());
        }
        let mut outcomes = Vec::new();
        for delivery in deliveries {
            outcomes.push(delivery.await);
        }
        outcomes
    });
    let seen = script.lock().unwrap().seen.clone();
    (outcomes.unwrap(), seen)
}

fn offsets(outcomes: &[Outcome]) -> Vec<i64> {
    outcomes.iter().map(|outcome| if let Outcome::Acked { offset, .. } = outcome { *offset } else { panic!("{outcome:?}") }).collect()
}

#[test]
fn records_are_acknowledged_in_order() {
    let (outcomes, seen) = play(&[], 8, |_, _| {});
    assert_eq!(offsets(&outcomes), (0..8).collect::<Vec<_>>());
    assert_eq!(seen, (0..8).map(|sequence| (0, sequence, 1)).collect::<Vec<_>>());
}

#[test]
fn a_lost_answer_is_asked_for_again_under_the_same_sequence() {
    let (outcomes, seen) = play(&[Act::Ack, Act::AppendAndHangUp], 4, |_, _| {});
    assert_eq!(offsets(&outcomes), [0, 1, 2, 3]);
    assert!(seen.iter().filter(|seen| seen.1 == 1).count() >= 2, "{seen:?}");
    assert!(seen.iter().all(|seen| seen.0 == 0), "no new epoch is needed: {seen:?}");
}

#[test]
fn what_follows_a_failure_is_sent_again_behind_it() {
    let (outcomes, seen) = play(&[Act::Refuse(ResponseError::NotEnoughReplicas)], 4, |_, _| {});
    assert_eq!(offsets(&outcomes), [0, 1, 2, 3]);
    assert!(seen.iter().all(|seen| seen.0 == 0), "{seen:?}");
}

#[test]
fn a_refused_batch_begins_a_new_sequence_for_those_behind_it() {
    let (outcomes, seen) = play(&[Act::Ack, Act::Refuse(ResponseError::InvalidRecord)], 4, |_, _| {});
    assert!(matches!(&outcomes[1], Outcome::Refused(error) if error.code() == Some(ResponseError::InvalidRecord)), "{outcomes:?}");
    assert_eq!(offsets(&[outcomes[0].clone(), outcomes[2].clone(), outcomes[3].clone()]), [0, 1, 2]);
    assert_eq!(seen.last(), Some(&(1, 1, 1)), "{seen:?}");
}

#[test]
fn an_ambiguous_answer_is_unknown_in_the_end() {
    let (outcomes, _) = play(&[Act::Silence], 2, |client, producer| {
        client.request_timeout = Duration::from_millis(100);
        producer.ack_timeout = Duration::from_millis(100);
        producer.delivery_timeout = Duration::from_millis(300);
        producer.max_in_flight = 1;
    });
    assert!(matches!(&outcomes[0], Outcome::Unknown(_)), "{outcomes:?}");
    // The second never left, behind the first.
    assert!(matches!(&outcomes[1], Outcome::Refused(ClientError::DeadlinePassed { .. })), "{outcomes:?}");
}

#[test]
fn without_retries_a_retriable_refusal_is_one() {
    let (outcomes, seen) = play(&[Act::Refuse(ResponseError::NotEnoughReplicas)], 1, |_, producer| {
        producer.retries = 0;
        producer.idempotent = false;
    });
    assert!(matches!(&outcomes[0], Outcome::Refused(_)), "{outcomes:?}");
    assert_eq!(seen.len(), 1);
}

#[test]
fn nobody_there_is_a_refusal_to_connect() {
    let error = run(1, |runtime| async move {
        let config = ClientConfig::new(vec![HostPort { host: "127.0.0.1".to_owned(), port: 1 }]);
        Client::new(runtime, config).any().await.err()
    });
    assert!(error.unwrap().unwrap().is_connect());
}

/// Workloads run in spawned tasks, so every future must be `Send`; this fails to compile otherwise.
#[test]
fn futures_can_be_spawned() {
    fn sendable<T: Send>(_: impl FnOnce() -> T) {}
    let client = || Client::new(TokioRuntime::new(), ClientConfig::new(Vec::new()));
    sendable(|| async move {
        let client = client();
        let mut consumer = Consumer::new(client.clone(), ConsumerConfig::default());
        let _ = consumer.poll(Duration::ZERO).await;
        let _ = consumer.commit().await;
        let _ = consumer.close().await;
        let _ = client.describe_cluster().await;
        let _ = client.create_topic(&super::admin::NewTopic::default(), false).await;
        let _ = client.committed("g", None).await;
    });
}
