//! Requests as a client writes them, and the answers as it reads them. Pure. Paths are given with the chroot before them.

use bytes::Bytes;

use crate::coordination::acl::Acl;
use crate::coordination::jute::{JuteError, Reader, Writer};
use crate::coordination::op::{CreateMode, ErrorCode, Failure, Operation, OperationResult, Stat};
use crate::coordination::protocol::{encode_multi_end, encode_multi_header, opcode};

/// A path of the client as the server has it.
pub(super) fn below(chroot: &str, path: &str) -> String {
    match (chroot, path) {
        ("", path) => path.to_owned(),
        (chroot, "/") => chroot.to_owned(),
        (chroot, path) => format!("{chroot}{path}"),
    }
}

/// A path of the server as the client has it. What is not below the chroot (`/zookeeper/…`) stays as it is.
pub(super) fn stripped<'p>(chroot: &str, path: &'p str) -> &'p str {
    match path.strip_prefix(chroot) {
        Some("") => "/",
        Some(rest) if rest.starts_with('/') => rest,
        _ => path,
    }
}

/// The kind of request that makes a znode of this mode, with the flags and the time to live that belong to it.
fn creation(mode: CreateMode, plain: i32) -> (i32, i32, Option<i64>) {
    match mode {
        CreateMode::Persistent => (plain, 0, None),
        CreateMode::Ephemeral => (plain, 1, None),
        CreateMode::PersistentSequential => (plain, 2, None),
        CreateMode::EphemeralSequential => (plain, 3, None),
        CreateMode::Container => (opcode::CREATE_CONTAINER, 4, None),
        CreateMode::Ttl { ttl_ms } => (opcode::CREATE_TTL, 5, Some(ttl_ms)),
        CreateMode::TtlSequential { ttl_ms } => (opcode::CREATE_TTL, 6, Some(ttl_ms)),
    }
}

/// Writes the body of a change and returns its kind. `plain` is the kind of a creation that has none of its own: `create` tells the path, `create2` the stat too.
/// What only the service itself may ask is refused.
pub(super) fn encode(to: &mut Writer, chroot: &str, operation: &Operation, plain: i32) -> Result<i32, ErrorCode> {
    let path = below(chroot, operation.path());
    let open = [Acl::open()];
    Ok(match operation {
        Operation::Create { data, mode, .. } => encode_creation(to, &path, data.as_ref(), *mode, &open, plain),
        Operation::CreateWithAcl { data, mode, acl, .. } => encode_creation(to, &path, data.as_ref(), *mode, acl, plain),
        Operation::Set { data, version, .. } => {
            to.string(&path);
            to.optional_buffer(data.as_deref());
            to.int(*version);
            opcode::SET_DATA
        }
        Operation::Delete { version, .. } | Operation::Check { version, .. } => {
            to.string(&path);
            to.int(*version);
            if matches!(operation, Operation::Delete { .. }) { opcode::DELETE } else { opcode::CHECK }
        }
        Operation::SetAcl { acl, version, .. } => {
            to.string(&path);
            to.acl(acl);
            to.int(*version);
            opcode::SET_ACL
        }
        Operation::DeleteIdle { .. } => return Err(ErrorCode::Unimplemented),
    })
}

fn encode_creation(to: &mut Writer, path: &str, data: Option<&Bytes>, mode: CreateMode, acl: &[Acl], plain: i32) -> i32 {
    let (opcode, flags, ttl_ms) = creation(mode, plain);
    to.string(path);
    to.optional_buffer(data.map(|data| &data[..]));
    to.acl(acl);
    to.int(flags);
    if let Some(ttl_ms) = ttl_ms {
        to.long(ttl_ms);
    }
    opcode
}

/// Writes the body of a `multi`. Creations tell no stat: ZooKeeper 3.5 knows no other within a `multi`.
pub(super) fn encode_multi(to: &mut Writer, chroot: &str, operations: &[Operation]) -> Result<(), Failure> {
    for (operation_index, operation) in operations.iter().enumerate() {
        let mut body = Writer::default();
        let opcode = encode(&mut body, chroot, operation, opcode::CREATE)
            .and_then(|opcode| if opcode == opcode::SET_ACL { Err(ErrorCode::Unimplemented) } else { Ok(opcode) })
            .map_err(|code| Failure { code, path: operation.path().to_owned(), operation_index })?;
        encode_multi_header(to, opcode, false, -1);
        to.append(&body.finish());
    }
    encode_multi_end(to);
    Ok(())
}

/// Reads the answer to a single change.
pub(super) fn decode(body: &[u8], chroot: &str, opcode: i32) -> Result<OperationResult, JuteError> {
    result(&mut Reader::new(body), chroot, opcode)
}

fn result(from: &mut Reader<'_>, chroot: &str, opcode: i32) -> Result<OperationResult, JuteError> {
    Ok(match opcode {
        opcode::CREATE => OperationResult::Created { path: stripped(chroot, from.string()?).to_owned(), stat: Stat::default() },
        opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL => {
            OperationResult::Created { path: stripped(chroot, from.string()?).to_owned(), stat: from.stat()? }
        }
        opcode::SET_DATA => OperationResult::Set { stat: from.stat()? },
        opcode::SET_ACL => OperationResult::AclSet { stat: from.stat()? },
        opcode::DELETE => OperationResult::Deleted,
        opcode::CHECK => OperationResult::Checked,
        number => return Err(JuteError::Unknown { what: "the result", number }),
    })
}

/// Reads the answer to a `multi`: all results, or the error of the operation that failed.
pub(super) fn decode_multi(body: &[u8], chroot: &str, operations: &[Operation]) -> Result<Result<Vec<OperationResult>, Failure>, JuteError> {
    let mut from = Reader::new(body);
    let mut results = Vec::with_capacity(operations.len());
    let mut failure: Option<Failure> = None;
    let mut operation_index = 0;
    loop {
        let (opcode, done, _error) = (from.int()?, from.bool()?, from.int()?);
        if done {
            return Ok(failure.map_or(Ok(results), Err));
        }
        if opcode == opcode::ERROR {
            let number = from.int()?;
            let is_cause = number != 0 && number != ErrorCode::RuntimeInconsistency.code();
            if is_cause && failure.is_none() {
                let path = operations.get(operation_index).map_or("", Operation::path).to_owned();
                failure = Some(Failure { code: code(number), path, operation_index });
            }
        } else {
            results.push(result(&mut from, chroot, opcode)?);
        }
        operation_index += 1;
    }
}

/// The code of a number on the wire.
pub(super) fn code(number: i32) -> ErrorCode {
    ErrorCode::from_code(number).unwrap_or_else(|| {
        tracing::warn!(number, "the coordination service refused a request with an error that is not known here");
        ErrorCode::SystemError
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::protocol::{self, Refused, Request, Write, decode_request, encode_multi_failure, encode_multi_results};

    #[test]
    fn the_chroot_is_before_every_path_and_taken_off_again() {
        assert_eq!((below("", "/a").as_str(), below("/k", "/").as_str(), below("/k", "/a").as_str()), ("/a", "/k", "/k/a"));
        let stripped = ["/k", "/k/a", "/kafka/a", "/zookeeper/config"].map(|path| stripped("/k", path));
        assert_eq!(stripped, ["/", "/a", "/kafka/a", "/zookeeper/config"]);
    }

    #[test]
    fn a_server_reads_what_a_client_writes() {
        let acl = vec![Acl::new(1, "world", "anyone")];
        let modes = [
            CreateMode::Persistent,
            CreateMode::Ephemeral,
            CreateMode::PersistentSequential,
            CreateMode::EphemeralSequential,
            CreateMode::Container,
            CreateMode::Ttl { ttl_ms: 5 },
            CreateMode::TtlSequential { ttl_ms: 6 },
        ];
        let mut operations: Vec<Operation> = modes
            .iter()
            .map(|mode| Operation::CreateWithAcl { path: "/a".into(), data: Some(Bytes::from_static(b"x")), mode: *mode, acl: acl.clone() })
            .collect();
        operations.extend([Operation::set("/a", "y", 3), Operation::delete("/a", 4), Operation::check("/a", 5)]);
        for operation in &operations {
            let mut body = Writer::default();
            let opcode = encode(&mut body, "", operation, opcode::CREATE2).unwrap();
            let read = decode_request(opcode, &mut Reader::new(&body.finish()));
            match operation {
                Operation::Check { .. } => assert_eq!(read, Err(Refused::Code(ErrorCode::Unimplemented)), "it is part of a multi or nothing"),
                _ => assert_eq!(read, Ok(Request::Write(Write { opcode, operation: operation.clone() }))),
            }
        }
        let mut body = Writer::default();
        encode_multi(&mut body, "/k", &operations).unwrap();
        let Ok(Request::Multi(writes)) = decode_request(opcode::MULTI, &mut Reader::new(&body.finish())) else { panic!("no multi") };
        assert!(writes.iter().all(|write| write.operation.path() == "/k/a"));
        assert_eq!(writes.len(), operations.len());
        let refused = encode_multi(&mut Writer::default(), "", &[Operation::DeleteIdle { path: "/a".into() }]);
        assert_eq!(refused.unwrap_err().code, ErrorCode::Unimplemented);
    }

    #[test]
    fn results_and_the_first_failure_of_a_multi_are_read() {
        let operations = [Operation::create("/a", ""), Operation::set("/b", "", 1), Operation::delete("/c", 0)];
        let stat = Stat { czxid: 9, ..Stat::default() };
        let results = [OperationResult::Created { path: "/k/a".into(), stat }, OperationResult::Set { stat }, OperationResult::Deleted];
        let mut out = Writer::default();
        encode_multi_results(&mut out, [opcode::CREATE, opcode::SET_DATA, opcode::DELETE].into_iter().zip(&results));
        let read = decode_multi(&out.finish(), "/k", &operations).unwrap().unwrap();
        let created = OperationResult::Created { path: "/a".into(), stat: Stat::default() };
        assert_eq!(read, [created, OperationResult::Set { stat }, OperationResult::Deleted]);
        let failure = Failure { code: ErrorCode::BadVersion, path: "/b".into(), operation_index: 1 };
        let mut out = Writer::default();
        encode_multi_failure(&mut out, &failure.codes(3));
        assert_eq!(decode_multi(&out.finish(), "/k", &operations).unwrap(), Err(failure));
        let mut out = Writer::default();
        protocol::encode_result(&mut out, opcode::SET_DATA, &OperationResult::Set { stat });
        assert_eq!(decode(&out.finish(), "", opcode::SET_DATA), Ok(OperationResult::Set { stat }));
    }
}
