//! The protocol's bytes: as a client of others' making writes them (captured from kazoo), and as ZooKeeper's own sources define the answers.

use super::*;
use crate::coordination::acl::Acl;

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn request(opcode: i32, body: &str) -> Result<Request, Refused> {
    decode_request(opcode, &mut Reader::new(&hex(body)))
}

fn written(body: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    body(&mut writer);
    writer.finish().to_vec()
}

#[test]
fn a_connect_request_is_read_with_and_without_read_only() {
    let bytes = hex("000000000000000000000010000017700000000000001234000000100707070707070707070707070707070700");
    let expected = ConnectRequest { last_zxid_seen: 0x10, timeout_ms: 6_000, session: 0x1234, password: Bytes::from_static(&[7; 16]), read_only: Some(false) };
    assert_eq!(ConnectRequest::decode(&bytes).unwrap(), expected);
    let old = ConnectRequest { read_only: None, ..expected.clone() };
    assert_eq!(ConnectRequest::decode(&bytes[..bytes.len() - 1]).unwrap(), old, "clients before 3.4 end here");
    assert!(ConnectRequest::decode(&bytes[..bytes.len() - 2]).is_err());
    for request in [expected, old] {
        let frame = written(|to| request.encode(to));
        assert_eq!(ConnectRequest::decode(&frame[4..]).unwrap(), request);
    }
    let response = ConnectResponse { timeout_ms: 6_000, session: 0x1234, password: [7; 16], read_only: None };
    let frame = written(|to| response.encode(to));
    assert_eq!(frame, hex(&format!("0000002400000000000017700000000000001234{}{}", "00000010", "07".repeat(16))));
    assert_eq!(ConnectResponse::decode(&frame[4..]).unwrap(), response);
}

#[test]
fn requests_are_read_as_a_client_writes_them() {
    let acl = vec![Acl::open()];
    let create = |mode| Operation::CreateWithAcl { path: "/a".into(), data: Some(Bytes::from_static(b"x")), mode, acl: acl.clone() };
    let body = "000000022f610000000178000000010000001f00000005776f726c6400000006616e796f6e65";
    let operation = |opcode, flags: &str| match request(opcode, &format!("{body}{flags}")) {
        Ok(Request::Write(write)) => (write.opcode, write.operation),
        other => panic!("{other:?}"),
    };
    assert_eq!(operation(opcode::CREATE, "00000003"), (opcode::CREATE, create(CreateMode::EphemeralSequential)));
    assert_eq!(operation(opcode::CREATE2, "00000000"), (opcode::CREATE2, create(CreateMode::Persistent)));
    assert_eq!(operation(opcode::CREATE_CONTAINER, "00000004"), (opcode::CREATE_CONTAINER, create(CreateMode::Container)));
    assert_eq!(operation(opcode::CREATE_TTL, "0000000500000000000003e8"), (opcode::CREATE_TTL, create(CreateMode::Ttl { ttl_ms: 1_000 })));
    assert_eq!(request(opcode::CREATE, &format!("{body}00000009")), Err(Refused::Code(ErrorCode::BadArguments)));
    assert_eq!(request(opcode::CREATE, body), Err(Refused::Code(ErrorCode::MarshallingError)));
    let set = Operation::Set { path: "/a".into(), data: Some(Bytes::from_static(b"yy")), version: -1 };
    assert_eq!(request(opcode::SET_DATA, "000000022f61000000027979ffffffff"), Ok(Request::Write(Write { opcode: opcode::SET_DATA, operation: set })));
    let auth = Request::Auth { scheme: "digest".into(), credentials: Bytes::from_static(b"u:p") };
    assert_eq!(request(opcode::AUTH, "000000000000000664696765737400000003753a70"), Ok(auth));
    // kazoo's CREATOR_ALL_ACL: the id of `auth` is null.
    let Ok(Request::Write(Write { operation: Operation::SetAcl { acl, .. }, .. })) =
        request(opcode::SET_ACL, "000000022f61000000010000001f0000000461757468ffffffffffffffff")
    else {
        panic!()
    };
    assert_eq!(acl, [Acl::new(31, "auth", "")]);
    assert_eq!(request(99, ""), Err(Refused::UnknownKind));
    assert_eq!(request(opcode::CHECK, "000000022f6100000001"), Err(Refused::Code(ErrorCode::Unimplemented)), "alone");
    assert_eq!(request(opcode::GET_EPHEMERALS, "ffffffff"), Ok(Request::GetEphemerals { prefix: String::new() }));
    assert_eq!(request(opcode::ADD_WATCH, "000000022f6100000002"), Err(Refused::Code(ErrorCode::MarshallingError)));
}

#[test]
fn a_multi_is_read_to_its_end() {
    let bytes = "0000000100ffffffff000000022f610000000178000000010000001f00000005776f726c6400000006616e796f6e6500000000\
                 0000000d00ffffffff000000022f61000000010000000200ffffffff000000022f61ffffffffffffffff01ffffffff";
    let Ok(Request::Multi(writes)) = request(opcode::MULTI, &bytes.replace(' ', "")) else { panic!() };
    let opcodes: Vec<i32> = writes.iter().map(|write| write.opcode).collect();
    assert_eq!(opcodes, [opcode::CREATE, opcode::CHECK, opcode::DELETE]);
    assert_eq!(writes[1].operation, Operation::check("/a", 1));
    let without_end = &bytes[..bytes.len() - 18];
    assert_eq!(request(opcode::MULTI, without_end), Err(Refused::Code(ErrorCode::MarshallingError)));
    assert_eq!(request(opcode::MULTI, "ffffffff01ffffffff"), Ok(Request::Multi(vec![])));
    assert_eq!(request(opcode::MULTI, "0000000400ffffffff000000022f6100"), Err(Refused::Code(ErrorCode::MarshallingError)), "a read is no change");
}

#[test]
fn answers_are_written_as_zookeeper_writes_them() {
    let event = written(|to| encode_event(to, 5, EventKind::ChildrenChanged, "/a"));
    assert_eq!(event, hex("0000001effffffff00000000000000050000000000000004000000030000 00022f61".replace(' ', "").as_str()));
    let stat = Stat {
        czxid: 1,
        mzxid: 2,
        ctime_ms: 3,
        mtime_ms: 4,
        version: 5,
        cversion: 6,
        aversion: 7,
        ephemeral_owner: 8,
        data_length: 9,
        num_children: 10,
        pzxid: 11,
    };
    let expected_stat =
        hex("0000000000000001000000000000000200000000000000030000000000000004000000050000000600000007000000000000000800000009 0000000a000000000000000b"
            .replace(' ', "")
            .as_str());
    assert_eq!(written(|to| to.stat(&stat)), expected_stat);
    let created = OperationResult::Created { path: "/a".into(), stat };
    assert_eq!(written(|to| encode_result(to, opcode::CREATE, &created)), hex("000000022f61"), "create tells the path alone");
    assert_eq!(written(|to| encode_result(to, opcode::CREATE2, &created)), [hex("000000022f61"), expected_stat.clone()].concat());
    // A container in a multi is told as create2.
    let results = written(|to| encode_multi_results(to, [(opcode::CREATE_CONTAINER, &created), (opcode::CHECK, &OperationResult::Checked)].into_iter()));
    let expected = [hex("0000000f0000000000000000022f61"), expected_stat, hex("0000000d0000000000ffffffff01ffffffff")].concat();
    assert_eq!(results, expected);
    let failed = written(|to| encode_multi_failure(to, &[ErrorCode::Ok, ErrorCode::NoNode, ErrorCode::RuntimeInconsistency]));
    let expected = "ffffffff000000000000000000 ffffffff00ffffff9bffffff9b ffffffff00fffffffefffffffe ffffffff01ffffffff";
    assert_eq!(failed, hex(&expected.replace(' ', "")));
}
