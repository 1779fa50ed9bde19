//! Produce against kafka-protocol's structs, and the versions that it no longer has by hand.
use super::*;
use kafka_protocol::{
    messages::{TopicName, TransactionalId, produce_request as generated, produce_response},
    protocol::{Decodable, Encodable},
};
use proptest::{collection::vec, option, prelude::*};

pub(crate) fn text() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[a-zA-Z0-9._-]{1,20}", "\\PC{1,6}", "[a-z]{120,300}"]
}

fn str_bytes() -> impl Strategy<Value = StrBytes> {
    text().prop_map(StrBytes::from_string)
}

pub(crate) fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..200).prop_map(Bytes::from)
}

fn request() -> impl Strategy<Value = ProduceRequest> {
    let partition = (any::<i32>(), option::of(bytes())).prop_map(|(index, records)| PartitionProduceData { index, records });
    let topic = (str_bytes(), any::<u128>(), vec(partition, 0..4)).prop_map(|(name, id, partitions)| TopicProduceData {
        name,
        topic_id: Uuid::from_u128(id),
        partitions,
    });
    (MIN_VERSION..=MAX_VERSION, option::of(str_bytes()), any::<i16>(), any::<i32>(), vec(topic, 0..4)).prop_map(
        |(version, transactional_id, acks, timeout_ms, mut topics)| {
            for topic in &mut topics {
                if version >= TOPIC_ID_VERSION {
                    topic.name = StrBytes::default();
                } else {
                    topic.topic_id = Uuid::nil();
                }
            }
            ProduceRequest { version, transactional_id, acks, timeout_ms, topics }
        },
    )
}

fn encode(request: &ProduceRequest, tags: bool) -> Bytes {
    let tag = |condition: bool| if tags && condition { [(77, Bytes::from_static(b"later"))].into() } else { Default::default() };
    let flexible = request.version >= FLEXIBLE_VERSION;
    let topics = request.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            generated::PartitionProduceData::default()
                .with_index(partition.index)
                .with_records(partition.records.clone())
                .with_unknown_tagged_fields(tag(flexible))
        });
        generated::TopicProduceData::default()
            .with_name(TopicName(topic.name.clone()))
            .with_topic_id(topic.topic_id)
            .with_partition_data(partitions.collect())
            .with_unknown_tagged_fields(tag(flexible))
    });
    let message = generated::ProduceRequest::default()
        .with_transactional_id(request.transactional_id.clone().map(TransactionalId))
        .with_acks(request.acks)
        .with_timeout_ms(request.timeout_ms)
        .with_topic_data(topics.collect())
        .with_unknown_tagged_fields(tag(flexible));
    let mut out = BytesMut::new();
    message.encode(&mut out, request.version).unwrap();
    out.freeze()
}

fn response() -> impl Strategy<Value = ProduceResponse> {
    let message = || option::of(text().prop_map(Cow::<'static, str>::Owned));
    let record_error = (any::<i32>(), message()).prop_map(|(batch_index, message)| RecordError { batch_index, message });
    let partition =
        ((any::<i32>(), any::<i16>(), any::<i64>(), any::<i64>(), any::<i64>()), vec(record_error, 0..3), message(), option::of((0..i32::MAX, any::<i32>())))
            .prop_map(|((index, error_code, base_offset, log_append_time_ms, log_start_offset), record_errors, error_message, leader)| {
                PartitionProduceResponse {
                    index,
                    error_code,
                    base_offset,
                    log_append_time_ms,
                    log_start_offset,
                    record_errors,
                    error_message,
                    current_leader: leader.map(|(leader_id, leader_epoch)| LeaderIdAndEpoch { leader_id, leader_epoch }),
                }
            });
    let topic = (text(), any::<u128>(), vec(partition, 0..4)).prop_map(|(name, id, partitions)| TopicProduceResponse {
        name: name.into(),
        topic_id: Uuid::from_u128(id),
        partitions,
    });
    (vec(topic, 0..4), any::<i32>(), vec(endpoint(), 0..3)).prop_map(|(topics, throttle_time_ms, node_endpoints)| ProduceResponse {
        topics,
        throttle_time_ms,
        node_endpoints,
    })
}

pub(crate) fn endpoint() -> impl Strategy<Value = NodeEndpoint> {
    (any::<i32>(), text(), any::<i32>(), option::of(text())).prop_map(|(node_id, host, port, rack)| NodeEndpoint {
        node_id,
        host: host.into(),
        port,
        rack: rack.map(Into::into),
    })
}

fn generated_response(response: &ProduceResponse, version: i16) -> produce_response::ProduceResponse {
    let string = |value: &str| StrBytes::from_string(value.to_owned());
    let topics = response.topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let mut out = produce_response::PartitionProduceResponse::default()
                .with_index(partition.index)
                .with_error_code(partition.error_code)
                .with_base_offset(partition.base_offset)
                .with_log_append_time_ms(partition.log_append_time_ms);
            if version >= 5 {
                out.log_start_offset = partition.log_start_offset;
            }
            if version >= 8 {
                out.error_message = partition.error_message.as_deref().map(string);
                let errors = partition.record_errors.iter().map(|error| {
                    produce_response::BatchIndexAndErrorMessage::default()
                        .with_batch_index(error.batch_index)
                        .with_batch_index_error_message(error.message.as_deref().map(string))
                });
                out.record_errors = errors.collect();
            }
            if version >= 10
                && let Some(leader) = partition.current_leader
            {
                out.current_leader.leader_id = leader.leader_id.into();
                out.current_leader.leader_epoch = leader.leader_epoch;
            }
            out
        });
        let out = produce_response::TopicProduceResponse::default().with_partition_responses(partitions.collect());
        if version >= TOPIC_ID_VERSION { out.with_topic_id(topic.topic_id) } else { out.with_name(TopicName(string(&topic.name))) }
    });
    let mut out = produce_response::ProduceResponse::default().with_responses(topics.collect()).with_throttle_time_ms(response.throttle_time_ms);
    if version >= 10 {
        let nodes = response.node_endpoints.iter().map(|node| {
            produce_response::NodeEndpoint::default()
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
        prop_assert_eq!(ProduceRequest::decode(encode(&request, tags), request.version), Ok(request));
    }

    #[test]
    fn cut_requests_are_refused(request in request(), cut: prop::sample::Index) {
        let bytes = encode(&request, true);
        let cut = bytes.slice(..cut.index(bytes.len()));
        prop_assert!(ProduceRequest::decode(cut, request.version).is_err());
    }

    #[test]
    fn responses_encode_as_the_generated_ones(response in response(), version in MIN_VERSION..=MAX_VERSION) {
        let expected = generated_response(&response, version);
        let frame = response.encode_frame(version, 42);
        let header = if version >= FLEXIBLE_VERSION { 9 } else { 8 };
        prop_assert_eq!(i32::from_be_bytes(*frame.first_chunk().unwrap()) as usize, frame.len() - 4);
        prop_assert_eq!(&frame[4..8], &42i32.to_be_bytes()[..]);
        let mut bytes = BytesMut::new();
        expected.encode(&mut bytes, version).unwrap();
        prop_assert_eq!(&frame[header..], &bytes[..]);
        prop_assert_eq!(produce_response::ProduceResponse::decode(&mut frame.slice(header..), version).unwrap(), expected);
    }
}

#[test]
fn records_are_slices_of_the_frame() {
    let records = Some(Bytes::from(vec![7; 4096]));
    let request = ProduceRequest {
        version: 9,
        transactional_id: None,
        acks: -1,
        timeout_ms: 1,
        topics: vec![TopicProduceData {
            name: StrBytes::from_static_str("t"),
            topic_id: Uuid::nil(),
            partitions: vec![PartitionProduceData { index: 0, records }],
        }],
    };
    let body = encode(&request, false);
    let decoded = ProduceRequest::decode(body.clone(), 9).unwrap();
    assert!(body.as_ptr_range().contains(&decoded.topics[0].partitions[0].records.as_ref().unwrap().as_ptr()));
}

/// Version 0 as Kafka 0.8 to 3.9 had it: acks i16, timeout i32, topics.
#[test]
fn versions_that_are_only_refused_have_their_old_shape() {
    let request = [
        &[0, 1, 0, 0, 0x75, 0x30, 0, 0, 0, 1][..], // acks 1, timeout 30000, one topic
        &[0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 5],     // 't', one partition: 5
        &[0, 0, 0, 2, 8, 8],                       // two bytes of records
    ]
    .concat();
    let decoded = ProduceRequest::decode(request.into(), 0).unwrap();
    assert_eq!((decoded.acks, decoded.timeout_ms, decoded.topics[0].name.as_str()), (1, 30_000, "t"));
    assert_eq!(decoded.topics[0].partitions, [PartitionProduceData { index: 5, records: Some(Bytes::from_static(&[8, 8])) }]);

    let response = decoded.error_response(ResponseError::UnsupportedVersion);
    let partition = [&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 5, 0, 35][..], &[0xff; 8]].concat();
    for (version, rest) in [(0, &[][..]), (1, &[0; 4]), (2, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])] {
        let frame = response.encode_frame(version, 9);
        assert_eq!(frame[8..], [&partition[..], rest].concat(), "version {version}");
    }
}

#[test]
fn a_hostile_count_is_refused_before_it_allocates() {
    for version in [3, 12, 13] {
        let mut body = BytesMut::new();
        if version < FLEXIBLE_VERSION {
            body.put_i16(-1);
        } else {
            body.put_u8(0);
        }
        body.put_i16(-1);
        body.put_i32(0);
        body.put_count(version >= FLEXIBLE_VERSION, i32::MAX as usize - 1);
        body.put_slice(&[0; 32]);
        assert!(matches!(ProduceRequest::decode(body.freeze(), version), Err(DecodeError::BadLength { field: "topic_data", .. })));
    }
}
