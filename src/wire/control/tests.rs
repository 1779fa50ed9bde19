//! The control messages against bytes that Kafka's own classes wrote, against themselves, and against damaged bytes.

use proptest::prelude::*;

use super::*;

fn id() -> Uuid {
    Uuid::from_u64_pair(0x0102_0304_0506_0708, 0x090a_0b0c_0d0e_0f10)
}

fn sender() -> Sender {
    Sender { controller_id: 7, is_kraft: false, controller_epoch: 9, broker_epoch: 4_294_967_299 }
}

/// What golden.txt holds of LeaderAndIsr, as far as the version can say it.
fn leader_and_isr(version: i16) -> LeaderAndIsrRequest {
    let since = |first: i16, ids: &[i32]| if version >= first { ids.to_vec() } else { Vec::new() };
    let partition = LeaderAndIsrPartition {
        partition: 3,
        controller_epoch: 8,
        leader: 2,
        leader_epoch: 11,
        isr: vec![2, 1],
        partition_epoch: 19,
        replicas: vec![1, 2, 3],
        adding_replicas: since(3, &[3]),
        removing_replicas: since(3, &[1]),
        is_new: true,
        leader_recovery_state: i8::from(version >= 6),
    };
    LeaderAndIsrRequest {
        sender: sender(),
        kind: i8::from(version >= 5),
        topics: vec![LeaderAndIsrTopic { name: "orders".into(), id: if version >= 5 { id() } else { Uuid::nil() }, partitions: vec![partition] }],
        live_leaders: vec![LiveLeader { broker_id: 2, host: "b2.example".into(), port: 9092 }],
    }
}

fn leader_and_isr_response(version: i16) -> LeaderAndIsrResponse {
    let (name, id) = if version < 5 { ("orders".into(), Uuid::nil()) } else { (String::new(), id()) };
    LeaderAndIsrResponse { error_code: 0, topics: vec![TopicErrors { name, id, partitions: vec![(3, 11)] }] }
}

fn stop_replica(version: i16) -> StopReplicaRequest {
    let stop = |partition, leader_epoch, delete| {
        if version < 3 { StopPartition { partition, leader_epoch: NO_EPOCH, delete: true } } else { StopPartition { partition, leader_epoch, delete } }
    };
    StopReplicaRequest {
        sender: sender(),
        topics: vec![StopReplicaTopic { name: "orders".into(), partitions: vec![stop(3, 11, true), stop(4, EPOCH_DURING_DELETE, false)] }],
    }
}

fn stop_replica_response() -> StopReplicaResponse {
    StopReplicaResponse { error_code: 0, topics: vec![TopicErrors { name: "orders".into(), id: Uuid::nil(), partitions: vec![(3, 74)] }] }
}

fn update_metadata(version: i16) -> UpdateMetadataRequest {
    let partition = UpdateMetadataPartition {
        partition: 3,
        controller_epoch: 8,
        leader: 2,
        leader_epoch: 11,
        isr: vec![2, 1],
        partition_epoch: 19,
        replicas: vec![1, 2, 3],
        offline_replicas: vec![3],
    };
    let endpoint = UpdateMetadataEndpoint { port: 9092, host: "b2.example".into(), listener: "PLAINTEXT".into(), security_protocol: 0 };
    UpdateMetadataRequest {
        sender: sender(),
        kind: if version >= 8 { 2 } else { 0 },
        topics: vec![UpdateMetadataTopic { name: "orders".into(), id: if version >= 7 { id() } else { Uuid::nil() }, partitions: vec![partition] }],
        live_brokers: vec![
            UpdateMetadataBroker { id: 2, endpoints: vec![endpoint], rack: Some("r1".into()) },
            UpdateMetadataBroker { id: 3, endpoints: Vec::new(), rack: None },
        ],
    }
}

#[test]
fn kafkas_own_bytes_are_read_and_written() {
    let mut lines = 0;
    for line in include_str!("golden.txt").lines().filter(|line| !line.starts_with('#')) {
        let [name, version, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let version: i16 = version.parse().unwrap();
        let bytes: Vec<u8> = (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap()).collect();
        let bytes = Bytes::from(bytes);
        macro_rules! same {
            ($type:ident, $expected:expr) => {{
                let expected: $type = $expected;
                assert_eq!($type::from_body(bytes.clone(), version).unwrap(), expected, "{name} {version}");
                assert_eq!(expected.to_body(version), bytes, "{name} {version}");
            }};
        }
        match name {
            "LeaderAndIsrRequest" => same!(LeaderAndIsrRequest, leader_and_isr(version)),
            "LeaderAndIsrResponse" => same!(LeaderAndIsrResponse, leader_and_isr_response(version)),
            "StopReplicaRequest" => same!(StopReplicaRequest, stop_replica(version)),
            "StopReplicaResponse" => same!(StopReplicaResponse, stop_replica_response()),
            "UpdateMetadataRequest" => same!(UpdateMetadataRequest, update_metadata(version)),
            "UpdateMetadataResponse" => same!(UpdateMetadataResponse, UpdateMetadataResponse { error_code: 77 }),
            "ControlledShutdownRequest" => same!(ControlledShutdownRequest, ControlledShutdownRequest { broker_id: 3, broker_epoch: 4_294_967_299 }),
            "ControlledShutdownResponse" => {
                same!(ControlledShutdownResponse, ControlledShutdownResponse { error_code: 0, remaining: vec![("orders".into(), 3)] })
            }
            other => panic!("{other} is no message of this module"),
        }
        lines += 1;
    }
    assert_eq!(lines, 2 * (6 + 4 + 4 + 2), "every message in every version");
}

#[test]
fn a_count_that_the_frame_cannot_hold_is_refused() {
    for api in &CONTROL_APIS {
        assert_eq!(find(api.key), Some(api));
        assert!(api.check(api.min_version - 1).is_err() && api.check(api.max_version + 1).is_err());
    }
    let mut body = BytesMut::from(&leader_and_isr(2).to_body(2)[..]);
    // The count of topics, after controller id, controller epoch and broker epoch.
    body[16..20].copy_from_slice(&i32::MAX.to_be_bytes());
    assert!(matches!(LeaderAndIsrRequest::from_body(body.freeze(), 2), Err(DecodeError::BadLength { field: "topic_states", .. })));
}

/// Texts and ids of any kind.
fn ids_of() -> impl Strategy<Value = Vec<i32>> {
    proptest::collection::vec(any::<i32>(), 0..4)
}

prop_compose! {
    fn any_partition()(
        numbers in any::<[i32; 5]>(),
        isr in ids_of(),
        replicas in ids_of(),
        adding_replicas in ids_of(),
        removing_replicas in ids_of(),
        is_new in any::<bool>(),
        leader_recovery_state in any::<i8>(),
    ) -> LeaderAndIsrPartition {
        let [partition, controller_epoch, leader, leader_epoch, partition_epoch] = numbers;
        LeaderAndIsrPartition {
            partition, controller_epoch, leader, leader_epoch, isr, partition_epoch, replicas, adding_replicas, removing_replicas, is_new, leader_recovery_state,
        }
    }
}

prop_compose! {
    fn any_leader_and_isr()(
        controller in any::<(i32, bool, i32, i64, i8)>(),
        topics in proptest::collection::vec((".{0,12}", any::<u128>(), proptest::collection::vec(any_partition(), 0..4)), 0..4),
        leaders in proptest::collection::vec((any::<i32>(), ".{0,12}", any::<i32>()), 0..3),
    ) -> LeaderAndIsrRequest {
        let (controller_id, is_kraft, controller_epoch, broker_epoch, kind) = controller;
        LeaderAndIsrRequest {
            sender: Sender { controller_id, is_kraft, controller_epoch, broker_epoch },
            kind,
            topics: topics.into_iter().map(|(name, id, partitions)| LeaderAndIsrTopic { name, id: Uuid::from_u128(id), partitions }).collect(),
            live_leaders: leaders.into_iter().map(|(broker_id, host, port)| LiveLeader { broker_id, host, port }).collect(),
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(request in any_leader_and_isr()) {
        prop_assert_eq!(LeaderAndIsrRequest::from_body(request.to_body(7), 7).unwrap(), request.clone());
        prop_assert_eq!(request.compute_size(7).unwrap(), request.to_body(7).len());
        let stops: Vec<StopReplicaTopic> = request.topics.iter().map(|topic| StopReplicaTopic {
            name: topic.name.clone(),
            partitions: topic.partitions.iter().map(|of| StopPartition { partition: of.partition, leader_epoch: of.leader_epoch, delete: of.is_new }).collect(),
        }).collect();
        let stop = StopReplicaRequest { sender: request.sender, topics: stops };
        prop_assert_eq!(StopReplicaRequest::from_body(stop.to_body(4), 4).unwrap(), stop);
        // What an older version cannot say comes back as its default, and no bytes are left over or missing.
        for version in 2..7 {
            let read = LeaderAndIsrRequest::from_body(request.to_body(version), version).unwrap();
            prop_assert_eq!(read.to_body(version), request.to_body(version));
        }
    }

    /// Bytes cut off or changed are an error or another message; never a panic.
    #[test]
    fn damaged_bytes_do_no_harm(at in any::<prop::sample::Index>(), to in any::<u8>(), cut in any::<prop::sample::Index>()) {
        for version in 5..=7 {
            let mut bytes = leader_and_isr(version).to_body(version).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let cut = cut.index(bytes.len());
            let _ = LeaderAndIsrRequest::from_body(Bytes::from(bytes.clone()), version);
            bytes.truncate(cut);
            let _ = LeaderAndIsrRequest::from_body(Bytes::from(bytes), version);
        }
        for version in 5..=8 {
            let mut bytes = update_metadata(version).to_body(version).to_vec();
            let at = at.index(bytes.len());
            bytes[at] = to;
            let _ = UpdateMetadataRequest::from_body(Bytes::from(bytes), version);
        }
    }
}
