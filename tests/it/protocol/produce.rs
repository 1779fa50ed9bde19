//! Produce: acknowledgements, idempotence, refusals, order.

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::{InitProducerIdRequest, MetadataRequest, ProduceRequest};
use ottla::record::Codec;

use super::*;

async fn producer_id(connection: &Conn) -> i64 {
    let answer = ask(connection, InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000)).await;
    assert_eq!(answer.error_code, 0);
    answer.producer_id.0
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        // A long poll in front: whatever comes after it is done, and told after it.
        let poll = fetch_request("t", 0, 0).with_max_wait_ms(FOR_EVER_MS);
        let first = begin(&connection, 12, poll).await;
        let mut produced = Vec::new();
        let mut fetched = Vec::new();
        for number in 0..100 {
            let value = format!("value {number}");
            produced.push(begin(&connection, 12, produce_request("t", 0, -1, batch(&[&value]))).await);
            fetched.push(begin(&connection, 12, fetch_request("t", 0, 0)).await);
        }
        // The client takes an answer out of order for an error.
        let first = contents(only(&first.wait().await.unwrap()));
        assert_eq!(first[0], (0, "value 0".to_owned()), "it was woken by what came after it");
        let mut seen = 0;
        for (number, (produced, fetched)) in produced.into_iter().zip(fetched).enumerate() {
            assert_eq!(produced.wait().await.unwrap().responses[0].partition_responses[0].base_offset, number as i64);
            let found = contents(only(&fetched.wait().await.unwrap()));
            assert!(found.len() >= seen, "what was committed stays");
            seen = found.len();
        }
        assert_eq!(read_all(&connection, "t", 0, 0).await.len(), 100);
    });
}

#[test]
fn more_requests_than_may_be_under_way_are_all_answered() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    const COUNT: i32 = 3_000;
    /// All in one piece: the broker has them in its buffer when it stops reading.
    async fn exchange(server: &Server, frame: impl Fn(i32) -> Bytes) {
        let frames: Vec<u8> = (0..COUNT).flat_map(frame).collect();
        let (mut read, mut write) = server.socket().await.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&frames).await.unwrap();
            write
        });
        for id in 0..COUNT {
            let length = read.read_i32().await.unwrap();
            let mut frame = vec![0; length as usize];
            read.read_exact(&mut frame).await.unwrap();
            assert_eq!(i32::from_be_bytes(frame[..4].try_into().unwrap()), id);
        }
        drop(writing.await.unwrap());
    }
    with_broker(&[], |server| async move {
        use ottla::wire::{api::find, frame::encode_request};
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        // Such as wait for the disk, and such as are answered when they are first looked at and so small that one read brings all of them.
        exchange(&server, |id| encode_request(find(0).unwrap(), 12, id, None, &produce_request("t", 0, -1, batch(&["x"]))).unwrap()).await;
        exchange(&server, |id| encode_request(find(3).unwrap(), 1, id, None, &MetadataRequest::default().with_topics(Some(vec![]))).unwrap()).await;
        assert_eq!(latest(&connection, "t", 0).await, i64::from(COUNT));
    });
}

#[test]
fn without_acknowledgement_records_arrive_and_a_failure_ends_the_connection() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        for value in ["a", "b", "c"] {
            connection.send_only(12, &produce_request("t", 0, 0, batch(&[value]))).await.unwrap();
        }
        // What follows on the same connection is done after them, and is the first to be answered.
        assert_eq!(accepted(&connection, "t", 0, batch(&["d"])).await, 3);
        // Records of the leader's word alone are told of when they are on disk too.
        let one = ask_at(&connection, 12, produce_request("t", 0, 1, batch(&["e"])).with_timeout_ms(0)).await;
        let told = &one.responses[0].partition_responses[0];
        assert_eq!((told.error_code, told.base_offset), (0, 4));
        let pending = begin(&connection, 12, produce_request("t", 0, -1, batch(&["f"]))).await;
        connection.send_only(12, &produce_request("nobody", 0, 0, batch(&["x"]))).await.unwrap();
        assert_eq!(pending.wait().await.unwrap().responses[0].partition_responses[0].base_offset, 5, "asked before the failure");
        server.until("the connection ends", || !connection.is_open()).await;
        let other = server.connect().await;
        assert_eq!(read_all(&other, "t", 0, 0).await.len(), 6);
    });
}

#[test]
fn a_retry_of_the_last_five_batches_is_told_the_first_offset() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
        let id = producer_id(&connection).await;
        let mut times = Vec::new();
        for number in 0..7 {
            let told = produce(&connection, "t", 0, sequenced(id, 0, number * 2, &["x", "y"])).await;
            assert_eq!((told.error_code, told.base_offset), (0, i64::from(number) * 2));
            times.push(told.log_append_time_ms);
        }
        assert!(times.iter().all(|time| *time > 1_000_000_000_000), "the broker's time");
        for number in 2..7 {
            let told = produce(&connection, "t", 0, sequenced(id, 0, number * 2, &["x", "y"])).await;
            assert_eq!((told.error_code, told.base_offset, told.log_append_time_ms), (0, i64::from(number) * 2, times[number as usize]));
        }
        // Older than the window, and beyond a gap.
        let late = produce(&connection, "t", 0, sequenced(id, 0, 2, &["x", "y"])).await;
        assert_eq!(late.error_code, code(Error::OutOfOrderSequenceNumber));
        let early = produce(&connection, "t", 0, sequenced(id, 0, 20, &["x"])).await;
        assert_eq!(early.error_code, code(Error::OutOfOrderSequenceNumber));
        // A new epoch begins at 0, and fences the old one.
        assert_eq!(accepted(&connection, "t", 0, sequenced(id, 1, 0, &["z"])).await, 14);
        let fenced = produce(&connection, "t", 0, sequenced(id, 0, 14, &["x"])).await;
        assert_eq!(fenced.error_code, code(Error::InvalidProducerEpoch));
        assert_eq!(latest(&connection, "t", 0).await, 15);
    });
}

#[test]
fn retries_are_known_after_a_restart_and_ids_are_never_given_twice() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        let id = producer_id(&connection).await;
        for number in 0..6 {
            accepted(&connection, "t", 0, sequenced(id, 0, number, &["x"])).await;
        }
        let server = server.restart().await;
        let connection = server.connect().await;
        assert!(producer_id(&connection).await > id);
        for number in 1..6 {
            assert_eq!(accepted(&connection, "t", 0, sequenced(id, 0, number, &["x"])).await, i64::from(number), "a retry");
        }
        assert_eq!(accepted(&connection, "t", 0, sequenced(id, 0, 6, &["y"])).await, 6, "and the next one");
        assert_eq!(latest(&connection, "t", 0).await, 7);
    });
}

#[test]
fn what_cannot_be_appended_is_refused_and_the_connection_goes_on() {
    with_broker(&["max.incremental.fetch.session.cache.slots=0"], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[("max.message.bytes", "1000")]).await;
        create(&connection, "in-sync", 1, &[("min.insync.replicas", "2")]).await;
        groups::find(&connection, "any").await;
        let refused = |records, error| (records, code(error));
        let mut broken = batch(&["hello"]).to_vec();
        let last = broken.len() - 1;
        broken[last] ^= 1;
        let mut cut = batch(&["hello"]);
        cut.truncate(cut.len() - 3);
        let large = "x".repeat(2_000);
        let two: Bytes = [batch(&["a"]), batch(&["b"])].concat().into();
        let mut transactional = BatchBuilder::new().producer(7, 0, 0).transactional();
        transactional.push(1, None, Some(b"x"), &[]);
        for (what, (records, error)) in [
            ("a wrong checksum", refused(Bytes::from(broken), Error::CorruptMessage)),
            ("a cut batch, which is none", refused(cut, Error::InvalidRecord)),
            ("too large", refused(batch(&[&large]), Error::MessageTooLarge)),
            ("two batches", refused(two, Error::InvalidRecord)),
            ("of a transaction that nobody began", refused(transactional.build(), Error::TransactionalIdAuthorizationFailed)),
        ] {
            let told = produce(&connection, "t", 0, records).await;
            assert_eq!((told.error_code, told.base_offset), (error, -1), "{what}");
        }
        assert_eq!(produce(&connection, "in-sync", 0, batch(&["x"])).await.error_code, code(Error::NotEnoughReplicas));
        let leader_alone = ask_at(&connection, 12, produce_request("in-sync", 0, 1, batch(&["x"]))).await;
        assert_eq!(leader_alone.responses[0].partition_responses[0].error_code, 0, "acks=1 does not ask for replicas");
        let odd = ask_at(&connection, 12, produce_request("t", 0, 2, batch(&["x"]))).await;
        assert_eq!(odd.responses[0].partition_responses[0].error_code, code(Error::InvalidRequiredAcks));
        let internal = produce(&connection, "__consumer_offsets", 0, batch(&["x"])).await;
        assert_eq!(internal.error_code, code(Error::InvalidTopicException), "the broker's own memory");
        let transaction = produce_request("t", 0, -1, batch(&["x"])).with_transactional_id(Some(text("mine").into()));
        assert_eq!(ask_at(&connection, 12, transaction).await.responses[0].partition_responses[0].error_code, code(Error::InvalidTxnState));
        assert_eq!(accepted(&connection, "t", 0, batch(&["good"])).await, 0);
        assert_eq!(ask_at(&connection, 12, ProduceRequest::default().with_acks(-1).with_timeout_ms(1)).await.responses.len(), 0);
    });
}

#[test]
fn versions_before_3_are_told_that_they_are_not_served() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        for version in 0..3i16 {
            let mut frame = Vec::new();
            frame.extend_from_slice(&[0, 0]);
            frame.extend_from_slice(&version.to_be_bytes());
            frame.extend_from_slice(&7i32.to_be_bytes());
            frame.extend_from_slice(&(-1i16).to_be_bytes());
            // acks, timeout, one topic "t" with partition 0 and no bytes of records
            frame.extend_from_slice(&(-1i16).to_be_bytes());
            frame.extend_from_slice(&1_000i32.to_be_bytes());
            frame.extend_from_slice(&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
            let mut socket = server.socket().await;
            socket.write_i32(frame.len() as i32).await.unwrap();
            socket.write_all(&frame).await.unwrap();
            let mut answer = vec![0; socket.read_i32().await.unwrap() as usize];
            socket.read_exact(&mut answer).await.unwrap();
            // correlation id, one topic "t", partition 0, error
            assert_eq!(answer[..4], 7i32.to_be_bytes(), "version {version}");
            assert_eq!(answer[4..21], [0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 0, 0, 35], "version {version}");
        }
    });
}

#[test]
fn every_codec_comes_back_as_it_was_sent() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "as-sent", 1, &[]).await;
        create(&connection, "zstd", 1, &[("compression.type", "zstd")]).await;
        let value = "all work and no play ".repeat(50);
        let mut expected = Vec::new();
        for codec in [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let mut builder = BatchBuilder::new().codec(codec);
            for _ in 0..3 {
                builder.push(1_000, None, Some(value.as_bytes()), &[]);
                expected.push((expected.len() as i64, value.clone()));
            }
            let batch = builder.build();
            accepted(&connection, "as-sent", 0, batch.clone()).await;
            accepted(&connection, "zstd", 0, batch).await;
        }
        assert_eq!(read_all(&connection, "as-sent", 0, 0).await, expected);
        assert_eq!(read_all(&connection, "zstd", 0, 0).await, expected);
        // Whoever reads in a version that has no zstd is told so.
        let old = ask_at(&connection, 9, fetch_request("zstd", 0, 0)).await;
        assert_eq!(old.responses[0].partitions[0].error_code, code(Error::UnsupportedCompressionType));
    });
}

#[test]
fn the_brokers_time_replaces_the_producers_where_the_topic_says_so() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[("message.timestamp.type", "LogAppendTime")]).await;
        let told = produce(&connection, "t", 0, batch(&["x"])).await;
        let response = ask_at(&connection, 12, fetch_request("t", 0, 0)).await;
        let bytes = only(&response).records.clone().unwrap();
        let header = ottla::record::batch::Header::whole(&bytes).unwrap();
        assert!(header.is_log_append_time());
        assert_eq!(header.max_timestamp, told.log_append_time_ms);
        assert_eq!(offset_at(&connection, "t", 0, told.log_append_time_ms).await, 0);
        assert_eq!(offset_at(&connection, "t", 0, told.log_append_time_ms + 1).await, -1);
    });
}
