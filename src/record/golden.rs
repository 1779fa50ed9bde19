//! Kafka's own bytes, read, and written again: see the head of `golden/kafka-clients-3.9.txt`.
use bytes::Bytes;

use super::{
    BatchBuilder, Codec,
    batch::Header,
    legacy::{convert_down, convert_up, messages},
    records,
};

const NOW: i64 = 1_700_000_000_000;
const APPEND_TIME: i64 = NOW + 9999;

struct Golden {
    magic: i8,
    codec: Codec,
    append: bool,
    bytes: Bytes,
}

fn golden() -> Vec<Golden> {
    let lines = include_str!("golden/kafka-clients-3.9.txt").lines().filter(|line| !line.starts_with('#'));
    let parse = |line: &str| {
        let [magic, codec, time, hex] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let bytes = hex.as_bytes().chunks(2).map(|byte| u8::from_str_radix(std::str::from_utf8(byte).unwrap(), 16).unwrap());
        Golden { magic: magic[1..].parse().unwrap(), codec: Codec::from_name(codec).unwrap(), append: time == "append", bytes: bytes.collect() }
    };
    let all: Vec<_> = lines.map(parse).collect();
    assert_eq!(all.len(), 22);
    all
}

type Content = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

fn expected(magic: i8, append: bool) -> Vec<Content> {
    let timestamp = |own: i64| match (magic, append) {
        (0, _) => -1,
        (_, true) => APPEND_TIME,
        (_, false) => own,
    };
    vec![
        (100, timestamp(NOW), Some(b"k0".to_vec()), Some(b"value".repeat(40))),
        (101, timestamp(NOW + 1500), None, Some(b"no key".to_vec())),
        (102, timestamp(NOW - 3), Some(b"tombstone".to_vec()), None),
    ]
}

fn message_content(set: &Bytes) -> Vec<Content> {
    let content =
        |message: super::legacy::Message| (message.offset, message.timestamp, message.key.map(|key| key.to_vec()), message.value.map(|value| value.to_vec()));
    messages(set, 1 << 20).unwrap().into_iter().map(content).collect()
}

fn record_content(batch: &Bytes) -> Vec<Content> {
    let content = |record: super::Record| (record.offset, record.timestamp, record.key.map(|key| key.to_vec()), record.value.map(|value| value.to_vec()));
    records(batch, 1 << 20).unwrap().map(|record| content(record.unwrap())).collect()
}

#[test]
fn what_kafka_wrote_is_read() {
    for Golden { magic, codec, append, bytes } in golden() {
        let content = if magic == 2 { record_content(&bytes) } else { message_content(&bytes) };
        assert_eq!(content, expected(magic, append), "v{magic} {codec} {append}");
        if magic == 2 {
            let header = Header::whole(&bytes).unwrap();
            assert_eq!((header.producer_id, header.producer_epoch, header.base_sequence), (4000, 7, 41));
            assert!(header.is_transactional() && header.is_log_append_time() == append && header.partition_leader_epoch == 5);
            let first = records(&bytes, 1000).unwrap().next().unwrap().unwrap();
            assert_eq!(first.headers, [(Bytes::from("h"), Some(Bytes::from("one"))), (Bytes::from("h"), None)]);
        }
    }
}

/// Byte for byte where no compressor has a say, and as content elsewhere.
#[test]
fn what_kafka_wrote_is_written() {
    for golden in golden().into_iter().filter(|golden| golden.magic == 2) {
        let mut builder = BatchBuilder::new().codec(golden.codec).base_offset(100).leader_epoch(5).producer(4000, 7, 41).transactional();
        if golden.append {
            builder = builder.log_append_time(APPEND_TIME);
        }
        for (index, (_, timestamp, key, value)) in expected(2, false).into_iter().enumerate() {
            let headers = [(Bytes::from("h"), Some(Bytes::from("one"))), (Bytes::from("h"), None)];
            builder.push(timestamp, key.as_deref(), value.as_deref(), if index == 0 { &headers } else { &[] });
        }
        let built = builder.build();
        if golden.codec == Codec::None {
            assert_eq!(built, golden.bytes);
        }
        assert_eq!(record_content(&built), record_content(&golden.bytes));
    }
}

#[test]
fn what_kafka_wrote_is_converted() {
    let all = golden();
    for batch in all.iter().filter(|golden| golden.magic == 2 && golden.codec != Codec::Zstd) {
        for set in all.iter().filter(|golden| golden.magic < 2 && golden.codec == batch.codec && (golden.magic == 0 || golden.append == batch.append)) {
            let down = convert_down(&batch.bytes, set.magic, 0, 1 << 20).unwrap();
            if set.codec == Codec::None {
                assert_eq!(down, set.bytes);
            }
            assert_eq!(message_content(&down), expected(set.magic, set.append));
            // The wrapper is the same but for what is compressed: offset, magic, attributes, timestamp.
            assert_eq!((&down[..8], &down[16..18]), (&set.bytes[..8], &set.bytes[16..18]));
            assert!(set.magic == 0 || down[18..26] == set.bytes[18..26]);
            let up = convert_up(&set.bytes, 1 << 20).unwrap();
            assert_eq!(Header::whole(&up).unwrap().codec(), set.codec.id());
            let values = |content: Vec<Content>| content.into_iter().map(|(_, timestamp, key, value)| (timestamp, key, value)).collect::<Vec<_>>();
            assert_eq!(values(record_content(&up)), values(expected(set.magic, set.append)));
        }
    }
}
