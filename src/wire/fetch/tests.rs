//! Fetch against kafka-protocol's structs.
use super::*;
use crate::wire::produce::tests::{bytes, endpoint, text};
use kafka_protocol::{
    messages::{TopicName, fetch_request as generated, fetch_response},
    protocol::{Decodable, Encodable},
};
use proptest::{collection::vec, option, prelude::*};

fn str_bytes() -> impl Strategy<Value = StrBytes> {
    text().prop_map(StrBytes::from_string)
}

fn partition() -> impl Strategy<Value = FetchPartition> {
    (any::<(i32, i32, i64, i32, i64, i32)>(), any::<u128>(), any::<i64>()).prop_map(
        |((partition, current_leader_epoch, fetch_offset, last_fetched_epoch, log_start_offset, partition_max_bytes), id, high_watermark)| FetchPartition {
            partition,
            current_leader_epoch,
            fetch_offset,
            last_fetched_epoch,
            log_start_offset,
            partition_max_bytes,
            replica_directory_id: Uuid::from_u128(id),
            high_watermark,
        },
    )
}

/// A request with only what its version can say.
fn request() -> impl Strategy<Value = FetchRequest> {
    let topic =
        (str_bytes(), any::<u128>(), vec(partition(), 0..4)).prop_map(|(name, id, partitions)| FetchTopic { name, topic_id: Uuid::from_u128(id), partitions });
    let forgotten = (str_bytes(), any::<u128>(), vec(any::<i32>(), 0..4)).prop_map(|(name, id, partitions)| ForgottenTopic {
        name,
        topic_id: Uuid::from_u128(id),
        partitions,
    });
    (
        (MIN_VERSION..=MAX_VERSION, option::of(str_bytes()), any::<(i32, i64, i32, i32, i32, i8, i32, i32)>()),
        vec(topic, 0..4),
        vec(forgotten, 0..3),
        str_bytes(),
    )
        .prop_map(|((version, cluster_id, numbers), topics, forgotten_topics, rack_id)| {
            let (replica_id, replica_epoch, max_wait_ms, min_bytes, max_bytes, isolation_level, session_id, session_epoch) = numbers;
            let mut request = FetchRequest {
                version,
                cluster_id: cluster_id.filter(|_| version >= 12),
                replica_id,
                replica_epoch: if version >= 15 { replica_epoch } else { -1 },
                max_wait_ms,
                min_bytes,
                max_bytes,
                isolation_level,
                session_id: if version >= 7 { session_id } else { NO_SESSION_ID },
                session_epoch: if version >= 7 { session_epoch } else { FINAL_SESSION_EPOCH },
                topics,
                forgotten_topics: if version >= 7 { forgotten_topics } else { Vec::new() },
                rack_id: if version >= 11 { rack_id } else { StrBytes::default() },
            };
            let normalize = |name: &mut StrBytes, id: &mut Uuid| {
                if version >= TOPIC_ID_VERSION {
                    *name = StrBytes::default();
                } else {
                    *id = Uuid::nil();
                }
            };
            for topic in &mut request.forgotten_topics {
                normalize(&mut topic.name, &mut topic.topic_id);
            }
            for topic in &mut request.topics {
                normalize(&mut topic.name, &mut topic.topic_id);
                for partition in &mut topic.partitions {
                    let absent = |from: i16| version < from;
                    partition.current_leader_epoch = if absent(9) { -1 } else { partition.current_leader_epoch };
                    partition.last_fetched_epoch = if absent(12) { -1 } else { partition.last_fetched_epoch };
                    partition.log_start_offset = if absent(5) { -1 } else { partition.log_start_offset };
                    partition.replica_directory_id = if absent(17) { Uuid::nil() } else { partition.replica_directory_id };
                    partition.high_watermark = if absent(18) { UNKNOWN_HIGH_WATERMARK } else { partition.high_watermark };
                }
            }
            request
        })
}

fn encode(request: &FetchRequest, tags: bool) -> Bytes {
    let version = request.version;
    let tag = || if tags && version >= FLEXIBLE_VERSION { [(99, Bytes::from_static(b"later"))].into() } else { Default::default() };
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            generated::FetchPartition::default()
                .with_partition(partition.partition)
                .with_current_leader_epoch(partition.current_leader_epoch)
                .with_fetch_offset(partition.fetch_offset)
                .with_last_fetched_epoch(partition.last_fetched_epoch)
                .with_log_start_offset(partition.log_start_offset)
                .with_partition_max_bytes(partition.partition_max_bytes)
                .with_replica_directory_id(partition.replica_directory_id)
                .with_high_watermark(partition.high_watermark)
                .with_unknown_tagged_fields(tag())
        });
        generated::FetchTopic::default()
            .with_topic(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partitions(partitions.collect())
            .with_unknown_tagged_fields(tag())
    });
    let forgotten = request.forgotten_topics.iter().map(|topic| {
        generated::ForgottenTopic::default()
            .with_topic(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partitions(topic.partitions.clone())
            .with_unknown_tagged_fields(tag())
    });
    let mut message = generated::FetchRequest::default()
        .with_cluster_id(request.cluster_id.clone())
        .with_max_wait_ms(request.max_wait_ms)
        .with_min_bytes(request.min_bytes)
        .with_max_bytes(request.max_bytes)
        .with_isolation_level(request.isolation_level)
        .with_session_id(request.session_id)
        .with_session_epoch(request.session_epoch)
        .with_topics(topics.collect())
        .with_forgotten_topics_data(forgotten.collect())
        .with_rack_id(request.rack_id.clone())
        .with_unknown_tagged_fields(tag());
    if version >= 15 {
        message.replica_state.replica_id = request.replica_id.into();
        message.replica_state.replica_epoch = request.replica_epoch;
    } else {
        message.replica_id = request.replica_id.into();
    }
    let mut out = BytesMut::new();
    message.encode(&mut out, version).unwrap();
    out.freeze()
}

/// A file that is its bytes.
type MemoryFile = Bytes;

fn part() -> impl Strategy<Value = Part<MemoryFile>> {
    prop_oneof![
        bytes().prop_map(Part::Bytes),
        Just(Part::Bytes(Bytes::from(vec![3; COPY_BYTES + 1]))),
        (bytes(), any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(|(file, position, len)| {
            let position = position.index(file.len() + 1);
            let len = len.index(file.len() - position + 1);
            Part::Slice { file, position: position as u64, len: len as u64 }
        }),
    ]
}

fn flatten<'a>(parts: impl IntoIterator<Item = &'a Part<MemoryFile>>) -> Bytes {
    let mut out = BytesMut::new();
    for part in parts {
        match part {
            Part::Bytes(bytes) => out.put_slice(bytes),
            Part::Slice { file, position, len } => out.put_slice(&file[*position as usize..(*position + *len) as usize]),
        }
    }
    out.freeze()
}

fn response() -> impl Strategy<Value = FetchResponse<MemoryFile>> {
    let aborted = any::<(i64, i64)>().prop_map(|(producer_id, first_offset)| AbortedTransaction { producer_id, first_offset });
    let partition = (
        any::<(i32, i16, i64, i64, i64, i32)>(),
        option::of((0..i32::MAX, any::<i64>())),
        option::of((0..i32::MAX, any::<i32>())),
        option::of(vec(aborted, 0..3)),
        vec(part(), 0..4),
    )
        .prop_map(|(numbers, diverging, leader, aborted_transactions, records)| {
            let (partition, error_code, high_watermark, last_stable_offset, log_start_offset, preferred_read_replica) = numbers;
            PartitionData {
                partition,
                error_code,
                high_watermark,
                last_stable_offset,
                log_start_offset,
                diverging_epoch: diverging.map(|(epoch, end_offset)| EpochEndOffset { epoch, end_offset }),
                current_leader: leader.map(|(leader_id, leader_epoch)| LeaderIdAndEpoch { leader_id, leader_epoch }),
                aborted_transactions,
                preferred_read_replica,
                records: records.into(),
            }
        });
    let topic = (text(), any::<u128>(), vec(partition, 0..4)).prop_map(|(name, id, partitions)| FetchableTopicResponse {
        name: name.into(),
        topic_id: Uuid::from_u128(id),
        partitions,
    });
    (any::<(i32, i16, i32)>(), vec(topic, 0..4), vec(endpoint(), 0..3)).prop_map(|((throttle_time_ms, error_code, session_id), topics, node_endpoints)| {
        FetchResponse { throttle_time_ms, error_code, session_id, topics, node_endpoints }
    })
}

fn generated_response(response: &FetchResponse<MemoryFile>, version: i16) -> fetch_response::FetchResponse {
    let string = |value: &str| StrBytes::from_string(value.to_owned());
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let aborted = partition.aborted_transactions.as_ref().map(|aborted| {
                let one = |one: &AbortedTransaction| {
                    fetch_response::AbortedTransaction::default().with_producer_id(one.producer_id.into()).with_first_offset(one.first_offset)
                };
                aborted.iter().map(one).collect()
            });
            let mut out = fetch_response::PartitionData::default()
                .with_partition_index(partition.partition)
                .with_error_code(partition.error_code)
                .with_high_watermark(partition.high_watermark)
                .with_last_stable_offset(partition.last_stable_offset)
                .with_aborted_transactions(aborted)
                .with_records(Some(flatten(&partition.records)));
            if version >= 5 {
                out.log_start_offset = partition.log_start_offset;
            }
            if version >= 11 {
                out.preferred_read_replica = partition.preferred_read_replica.into();
            }
            if version >= 12 {
                if let Some(diverging) = partition.diverging_epoch {
                    out.diverging_epoch.epoch = diverging.epoch;
                    out.diverging_epoch.end_offset = diverging.end_offset;
                }
                if let Some(leader) = partition.current_leader {
                    out.current_leader.leader_id = leader.leader_id.into();
                    out.current_leader.leader_epoch = leader.leader_epoch;
                }
            }
            out
        });
        let out = fetch_response::FetchableTopicResponse::default().with_partitions(partitions.collect());
        if version >= TOPIC_ID_VERSION { out.with_topic_id(topic.topic_id) } else { out.with_topic(TopicName(string(&topic.name))) }
    });
    let mut out = fetch_response::FetchResponse::default().with_throttle_time_ms(response.throttle_time_ms).with_responses(topics.collect());
    if version >= 7 {
        out.error_code = response.error_code;
        out.session_id = response.session_id;
    }
    if version >= 16 {
        let nodes = response.node_endpoints.iter().map(|node| {
            fetch_response::NodeEndpoint::default()
                .with_node_id(node.node_id.into())
                .with_host(string(&node.host))
                .with_port(node.port)
                .with_rack(node.rack.as_deref().map(string))
        });
        out.node_endpoints = nodes.collect();
    }
    out
}

proptest! {
    #[test]
    fn requests_decode_as_the_generated_ones(request in request(), tags: bool) {
        prop_assert_eq!(FetchRequest::decode(encode(&request, tags), request.version), Ok(request));
    }

    #[test]
    fn cut_requests_are_refused(request in request(), cut: prop::sample::Index) {
        let bytes = encode(&request, true);
        prop_assert!(FetchRequest::decode(bytes.slice(..cut.index(bytes.len())), request.version).is_err());
    }

    #[test]
    fn responses_encode_as_the_generated_ones(response in response(), version in MIN_VERSION..=MAX_VERSION) {
        let expected = generated_response(&response, version);
        let frame = response.into_frame(version, 42).unwrap();
        let bytes = flatten(&frame.parts);
        prop_assert_eq!(frame.len, bytes.len() as u64);
        prop_assert!(frame.parts.iter().all(|part| !part.is_empty()));
        prop_assert_eq!(i32::from_be_bytes(*bytes.first_chunk().unwrap()) as usize, bytes.len() - 4);
        let header = if version >= FLEXIBLE_VERSION { 9 } else { 8 };
        let mut body = BytesMut::new();
        expected.encode(&mut body, version).unwrap();
        prop_assert_eq!(&bytes[header..], &body[..]);
        prop_assert_eq!(fetch_response::FetchResponse::decode(&mut bytes.slice(header..), version).unwrap(), expected);
    }
}

#[test]
fn a_response_too_long_for_a_frame_is_an_error() {
    let huge = || {
        let mut partition = PartitionData::error(0, ResponseError::UnknownServerError);
        partition.records.push(Part::Slice { file: (), position: 0, len: 1 << 30 });
        partition
    };
    let response = |count| FetchResponse {
        throttle_time_ms: 0,
        error_code: 0,
        session_id: 0,
        topics: vec![FetchableTopicResponse { name: "t".into(), topic_id: Uuid::nil(), partitions: (0..count).map(|_| huge()).collect() }],
        node_endpoints: Vec::new(),
    };
    assert!(response(2).into_frame(12, 1).is_err());
    let frame = response(1).into_frame(12, 1).unwrap();
    assert_eq!((frame.parts.len(), frame.len > 1 << 30), (3, true));
}

#[test]
fn errors_repeat_for_each_partition_where_clients_look_for_them() {
    let mut body = BytesMut::new();
    let request = generated::FetchRequest::default().with_topics(vec![
        generated::FetchTopic::default()
            .with_topic(TopicName(StrBytes::from_static_str("t")))
            .with_partitions(vec![generated::FetchPartition::default().with_partition(3)]),
    ]);
    request.encode(&mut body, 4).unwrap();
    let request = FetchRequest::decode(body.freeze(), 4).unwrap();
    let response: FetchResponse<()> = request.error_response(ResponseError::UnknownServerError);
    assert_eq!(response.topics[0].partitions[0].error_code, -1);
    assert!(!request.is_from_follower());
}
