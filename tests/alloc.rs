//! What a frame may cost: no frame of n bytes, honest, random or mutated, makes a decoder allocate more than 64 × n bytes (and what an error message
//! takes). In a test binary of its own, because it counts allocations.
#![allow(clippy::disallowed_macros, reason = "the allocator counts for each thread apart; nothing of this is in the broker")]
#![allow(missing_docs)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::*;
use ottla::wire::{
    api::{APIS, Api},
    fetch::FetchRequest,
    guard,
    primitive::DecodeError,
    produce::ProduceRequest,
};
use rand::{Rng, RngCore, SeedableRng, rngs::SmallRng};

struct Counting;

// tidy-allow: static
thread_local! {
    // tidy-allow: static
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain cell that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get().saturating_add(layout.size())));
        assert!(layout.size() < 1 << 30, "an allocation of {} bytes", layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// An error's words, and the one counter that makes a frame shareable; and a backtrace, if the environment asks for it.
fn slack_bytes() -> usize {
    if std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0") { 16 << 10 } else { 1 << 10 }
}

/// Decodes as the broker does.
fn decode(api: &Api, version: i16, body: Bytes) -> Result<(), DecodeError> {
    macro_rules! generated {
        ($($name:ident => $request:ident,)*) => {
            match api.key {
                ApiKey::Produce => ProduceRequest::decode(body, version).map(drop),
                ApiKey::Fetch => FetchRequest::decode(body, version).map(drop),
                $(ApiKey::$name => guard::decode_request::<$request>(api, version, body).map(drop),)*
                _ => panic!("{} is not in this test", api.name),
            }
        };
    }
    generated! {
        ListOffsets => ListOffsetsRequest,
        Metadata => MetadataRequest,
        OffsetCommit => OffsetCommitRequest,
        OffsetFetch => OffsetFetchRequest,
        FindCoordinator => FindCoordinatorRequest,
        JoinGroup => JoinGroupRequest,
        Heartbeat => HeartbeatRequest,
        LeaveGroup => LeaveGroupRequest,
        SyncGroup => SyncGroupRequest,
        DescribeGroups => DescribeGroupsRequest,
        ListGroups => ListGroupsRequest,
        ApiVersions => ApiVersionsRequest,
        CreateTopics => CreateTopicsRequest,
        DeleteTopics => DeleteTopicsRequest,
        DeleteRecords => DeleteRecordsRequest,
        InitProducerId => InitProducerIdRequest,
        OffsetForLeaderEpoch => OffsetForLeaderEpochRequest,
        DescribeConfigs => DescribeConfigsRequest,
        AlterConfigs => AlterConfigsRequest,
        CreatePartitions => CreatePartitionsRequest,
        DeleteGroups => DeleteGroupsRequest,
        IncrementalAlterConfigs => IncrementalAlterConfigsRequest,
        OffsetDelete => OffsetDeleteRequest,
        DescribeCluster => DescribeClusterRequest,
        DescribeProducers => DescribeProducersRequest,
        DescribeTopicPartitions => DescribeTopicPartitionsRequest,
        ElectLeaders => ElectLeadersRequest,
        AlterPartitionReassignments => AlterPartitionReassignmentsRequest,
        ListPartitionReassignments => ListPartitionReassignmentsRequest,
        AlterPartition => AlterPartitionRequest,
    }
}

/// Writes a random message of a shape, honest or with hostile lengths and tags here and there.
struct Writer<'a> {
    rng: &'a mut SmallRng,
    out: BytesMut,
    version: i16,
    compact: bool,
    /// How often, in a thousand, a length lies.
    lies: u32,
}

impl Writer<'_> {
    fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.out.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.out.put_u8(value as u8);
    }

    fn length(&mut self, length: usize, short: bool) {
        let length = if self.rng.random_range(0..1000) < self.lies {
            [i32::MAX - 1, i32::MIN, -1, -2, 1 << 20, length as i32 + 1, 127, i32::from(i16::MAX)][self.rng.random_range(0..8)]
        } else {
            length as i32
        };
        match (self.compact, short) {
            (true, _) => self.unsigned_varint(length.wrapping_add(1) as u32),
            (false, true) => self.out.put_i16(length as i16),
            (false, false) => self.out.put_i32(length),
        }
    }

    fn kind(&mut self, kind: &guard::Kind, depth: usize) {
        match kind {
            guard::Kind::F(bytes) => {
                for _ in 0..*bytes {
                    let byte = if self.rng.random() { 0 } else { self.rng.random() };
                    self.out.put_u8(byte);
                }
            }
            guard::Kind::S | guard::Kind::B => {
                let length = if self.rng.random() { 0 } else { self.rng.random_range(0..8) };
                self.length(length, matches!(kind, guard::Kind::S));
                self.out.put_bytes(b'a', length);
            }
            guard::Kind::A(element, _) => {
                let most = [40, 10, 4, 3][depth.min(3)];
                let count = if self.rng.random() { self.rng.random_range(0..most) } else { 0 };
                self.length(count, false);
                (0..count).for_each(|_| self.kind(element, depth + 1));
            }
            guard::Kind::T(fields) => self.fields(fields, depth),
            guard::Kind::N(fields) => {
                let null = self.rng.random();
                self.out.put_i8(if null { -1 } else { 1 });
                if !null {
                    self.fields(fields, depth);
                }
            }
        }
    }

    fn fields(&mut self, fields: &[guard::Field], depth: usize) {
        let version = self.version;
        for field in fields.iter().filter(|field| field.tag().is_none() && field.has(version)) {
            self.kind(field.kind(), depth);
        }
        if self.compact {
            let known: Vec<_> = fields.iter().filter(|field| field.tag().is_some() && field.has(version)).collect();
            let known: Vec<_> = known.into_iter().filter(|_| self.rng.random()).collect();
            let unknown_count = if self.rng.random_range(0..1000) < self.lies { self.rng.random_range(0..40) } else { 0 };
            self.unsigned_varint(known.len() as u32 + unknown_count);
            for field in known {
                self.unsigned_varint(field.tag().unwrap());
                let before = std::mem::take(&mut self.out);
                self.kind(field.kind(), depth);
                let content = std::mem::replace(&mut self.out, before);
                self.unsigned_varint(content.len() as u32);
                self.out.put_slice(&content);
            }
            for _ in 0..unknown_count {
                let tag = self.rng.random_range(100..10_000);
                self.unsigned_varint(tag);
                self.unsigned_varint(0);
            }
        }
    }
}

fn message(rng: &mut SmallRng, api: &Api, version: i16, lies: u32) -> BytesMut {
    let shape = guard::request(api.key as i16).unwrap();
    let mut writer = Writer { rng, out: BytesMut::new(), version, compact: api.is_flexible(version), lies };
    writer.fields(shape.fields, 0);
    writer.out
}

fn cost(api: &Api, version: i16, body: Bytes) -> (usize, Result<(), DecodeError>) {
    let before = ALLOCATED.get();
    let result = decode(api, version, body);
    (ALLOCATED.get() - before, result)
}

/// API key, version, correlation id.
const HEADER_BYTES: usize = 8;

#[test]
fn no_frame_costs_more_than_64_times_its_length() {
    let mut honest_count = 0;
    let mut decoded_count = 0;
    let mut worst = (0.0, String::new());
    let slack_bytes = slack_bytes();
    for api in APIS {
        for version in api.min_version..=api.max_version {
            let mut rng = SmallRng::seed_from_u64(((api.key as u64) << 16) | version as u64);
            for round in 0..400 {
                let mut body = match round % 4 {
                    0 => message(&mut rng, api, version, 0),
                    1 => message(&mut rng, api, version, 50),
                    2 => message(&mut rng, api, version, 5),
                    _ => {
                        let mut body = BytesMut::zeroed(rng.random_range(0..300));
                        rng.fill_bytes(&mut body);
                        body
                    }
                };
                if round % 8 >= 4 && !body.is_empty() {
                    for _ in 0..rng.random_range(1..4) {
                        let at = rng.random_range(0..body.len());
                        body[at] = [0, 1, 0x7f, 0x80, 0xff, rng.random()][rng.random_range(0..6)];
                    }
                }
                let frame_bytes = HEADER_BYTES + body.len();
                let body = body.freeze();
                let (allocated, result) = cost(api, version, body.clone());
                assert!(
                    allocated <= 64 * frame_bytes + slack_bytes,
                    "{} version {version}: {allocated} bytes allocated for a frame of {frame_bytes}: {body:?} {result:?}",
                    api.name
                );
                let ratio = allocated as f64 / frame_bytes as f64;
                if frame_bytes > 100 && ratio > worst.0 {
                    worst = (ratio, format!("{} version {version}, {frame_bytes} bytes", api.name));
                }
                if round % 8 == 0 {
                    honest_count += 1;
                    assert!(!matches!(result, Err(DecodeError::TooCostly { .. })), "{} version {version}: {result:?} {body:?}", api.name);
                    decoded_count += u32::from(result.is_ok());
                }
            }
        }
    }
    println!("the worst was {:.1} times: {}; {decoded_count} of {honest_count} honest messages decoded", worst.0, worst.1);
    // Every version in the table has a decoder, and the walk is no stricter than it.
    assert_eq!(decoded_count, honest_count);
}

/// The test can fail: without the guard, the generated decoder takes what the count says.
#[test]
fn without_the_guard_a_small_frame_takes_megabytes() {
    use kafka_protocol::protocol::Decodable;
    let mut body = BytesMut::new();
    body.put_i32(100_000);
    let before = ALLOCATED.get();
    assert!(MetadataRequest::decode(&mut body.clone().freeze(), 0).is_err());
    assert!(ALLOCATED.get() - before > 1_000_000);
    let metadata = APIS.iter().find(|api| api.name == "Metadata").unwrap();
    let (allocated, result) = cost(metadata, 0, body.freeze());
    assert!(allocated < slack_bytes() && result.is_err());
}
