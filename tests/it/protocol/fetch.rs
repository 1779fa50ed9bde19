//! Fetch: long polls, limits, sessions (KIP-227), leader epochs.

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::fetch_request::ForgottenTopic;

use super::*;

fn polling(topic: &str, offset: i64) -> FetchRequest {
    fetch_request(topic, 0, offset).with_max_wait_ms(FOR_EVER_MS)
}

fn waiting(server: &Server, topic: &str) -> usize {
    server.broker.replicas().partition(topic, 0).map_or(0, |partition| partition.waiting_count())
}

#[test]
fn a_long_poll_ends_when_something_is_committed() {
    with_broker(&[], |server| async move {
        let (reader, writer) = (server.connect().await, server.connect().await);
        create(&reader, "t", 1, &[]).await;
        for number in 0..20 {
            let poll = begin(&reader, 12, polling("t", number)).await;
            server.until("the poll waits", || waiting(&server, "t") == 1).await;
            accepted(&writer, "t", 0, batch(&["news"])).await;
            assert_eq!(contents(only(&poll.wait().await.unwrap())), [(number, "news".to_owned())]);
            assert_eq!(waiting(&server, "t"), 0, "nothing is left behind");
        }
    });
}

#[test]
fn a_long_poll_waits_for_as_many_bytes_as_it_asked_for() {
    with_broker(&[], |server| async move {
        let (reader, writer) = (server.connect().await, server.connect().await);
        create(&reader, "t", 1, &[]).await;
        let one = batch(&["a value"]);
        let poll = begin(&reader, 12, polling("t", 0).with_min_bytes(3 * one.len() as i32)).await;
        for _ in 0..3 {
            server.until("the poll waits", || waiting(&server, "t") == 1).await;
            accepted(&writer, "t", 0, one.clone()).await;
        }
        assert_eq!(contents(only(&poll.wait().await.unwrap())).len(), 3);
        // More than it may get is more than it can wait for.
        let poll = begin(&reader, 12, polling("t", 3).with_min_bytes(i32::MAX).with_max_bytes(10)).await;
        server.until("the poll waits", || waiting(&server, "t") == 1).await;
        accepted(&writer, "t", 0, one).await;
        assert_eq!(contents(only(&poll.wait().await.unwrap())).len(), 1);
        // And time goes by: nothing comes, and the answer comes.
        let empty = ask_at(&reader, 12, fetch_request("t", 0, 4).with_max_wait_ms(1)).await;
        assert_eq!(contents(only(&empty)), []);
    });
}

#[test]
fn a_long_poll_ends_with_its_topic() {
    with_broker(&[], |server| async move {
        let (reader, other) = (server.connect().await, server.connect().await);
        let id = create(&reader, "t", 1, &[]).await;
        let poll = begin(&reader, 12, polling("t", 0)).await;
        server.until("the poll waits", || waiting(&server, "t") == 1).await;
        topics::delete(&other, "t").await;
        assert_eq!(poll.wait().await.unwrap().responses[0].partitions[0].error_code, code(Error::UnknownTopicOrPartition));
        // By its id the topic is gone for good, whatever has its name now.
        assert_ne!(create(&other, "t", 1, &[]).await, id);
        let mut by_id = fetch_request("", 0, 0);
        by_id.topics[0].topic_id = id;
        assert_eq!(ask_at(&reader, 17, by_id).await.responses[0].partitions[0].error_code, code(Error::UnknownTopicId));
    });
}

#[test]
fn a_long_poll_ends_with_its_connection_and_with_the_broker() {
    with_broker(&[], |server| async move {
        let (reader, other) = (server.connect().await, server.connect().await);
        create(&reader, "t", 1, &[]).await;
        let poll = begin(&reader, 12, polling("t", 0)).await;
        server.until("the poll waits", || waiting(&server, "t") == 1).await;
        reader.close();
        assert!(poll.wait().await.is_err());
        server.until("nobody waits", || waiting(&server, "t") == 0).await;
        let poll = begin(&other, 12, polling("t", 0)).await;
        server.until("the poll waits", || waiting(&server, "t") == 1).await;
        server.broker.shutdown().await;
        assert_eq!(contents(only(&poll.wait().await.unwrap())), [], "answered with what there is");
    });
}

#[test]
fn sizes_are_limits_that_the_first_batch_may_pass() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 2, &[]).await;
        let large = "x".repeat(10_000);
        for partition in 0..2 {
            for _ in 0..3 {
                accepted(&connection, "t", partition, batch(&[&large])).await;
            }
        }
        let one = batch(&[&large]).len() as i32;
        let count = async |partition_max_bytes: i32, max_bytes: i32| {
            let mut request = fetch_request("t", 0, 0).with_max_bytes(max_bytes);
            let second = request.topics[0].partitions[0].clone().with_partition(1);
            request.topics[0].partitions.push(second);
            request.topics[0].partitions.iter_mut().for_each(|partition| partition.partition_max_bytes = partition_max_bytes);
            let answer = ask_at(&connection, 12, request).await;
            answer.responses[0].partitions.iter().map(|data| contents(data).len()).collect::<Vec<_>>()
        };
        assert_eq!(count(1 << 20, 1 << 20).await, [3, 3]);
        assert_eq!(count(2 * one, 1 << 20).await, [2, 2]);
        assert_eq!(count(2 * one + 1, 1 << 20).await, [2, 2], "whole batches");
        assert_eq!(count(1 << 20, 4 * one).await, [3, 1]);
        assert_eq!(count(1, 1).await, [1, 0], "the first batch of an answer, whatever its size (KIP-74)");
        assert_eq!(count(1, 1 << 20).await, [1, 0], "no other is larger than its partition's limit");
        assert_eq!(count(0, 0).await, [1, 0]);
    });
}

#[test]
fn old_and_unknown_leader_epochs_are_told_apart() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        accepted(&connection, "t", 0, batch(&["a"])).await;
        // A restart begins a new epoch.
        let server = server.restart().await;
        let connection = server.connect().await;
        let epoch = ask(&connection, metadata_request(&["t"])).await.topics[0].partitions[0].leader_epoch;
        assert!(epoch > 0, "{epoch}");
        accepted(&connection, "t", 0, batch(&["b"])).await;
        let with_epoch = async |current: i32, last_fetched: i32, offset: i64| {
            let mut request = fetch_request("t", 0, offset);
            request.topics[0].partitions[0].current_leader_epoch = current;
            request.topics[0].partitions[0].last_fetched_epoch = last_fetched;
            ask_at(&connection, 12, request).await.responses.remove(0).partitions.remove(0)
        };
        assert_eq!(with_epoch(epoch - 1, -1, 0).await.error_code, code(Error::FencedLeaderEpoch));
        assert_eq!(with_epoch(epoch + 1, -1, 0).await.error_code, code(Error::UnknownLeaderEpoch));
        assert_eq!(contents(&with_epoch(epoch, -1, 0).await).len(), 2);
        // KIP-595: a reader that has more of an epoch than this log is told where the two part.
        assert_eq!(contents(&with_epoch(epoch, 0, 1).await).len(), 1);
        let diverged = with_epoch(epoch, 0, 2).await;
        assert_eq!((diverged.diverging_epoch.epoch, diverged.diverging_epoch.end_offset, contents(&diverged).len()), (0, 1, 0));
    });
}

/// A request of a session: by name, or from version 13 by id.
fn in_session(id: i32, epoch: i32, partitions: &[(i32, i64)], topic_id: Option<Uuid>) -> FetchRequest {
    let mut request = fetch_request(if topic_id.is_some() { "" } else { "t" }, 0, 0).with_session_id(id).with_session_epoch(epoch);
    let template = request.topics[0].partitions.remove(0);
    request.topics[0].topic_id = topic_id.unwrap_or_default();
    request.topics[0].partitions = partitions.iter().map(|(number, offset)| template.clone().with_partition(*number).with_fetch_offset(*offset)).collect();
    if partitions.is_empty() {
        request.topics.clear();
    }
    request
}

/// (partition, records) of all partitions of an answer.
fn told(response: &FetchResponse) -> Vec<(i32, usize)> {
    response.responses.iter().flat_map(|topic| &topic.partitions).map(|data| (data.partition_index, contents(data).len())).collect()
}

#[test]
fn a_session_tells_only_what_changed() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        let topic_id = create(&connection, "t", 3, &[]).await;
        for (version, id) in [(7, None), (12, None), (13, Some(topic_id)), (18, Some(topic_id))] {
            let base = latest(&connection, "t", 1).await;
            let ends = [latest(&connection, "t", 0).await, base, latest(&connection, "t", 2).await];
            let all = [(0, ends[0]), (1, ends[1]), (2, ends[2])];
            let full = ask_at(&connection, version, in_session(0, 0, &all, id)).await;
            assert_ne!(full.session_id, 0, "version {version}");
            assert_eq!(told(&full), [(0, 0), (1, 0), (2, 0)], "a full answer tells all");
            let session = full.session_id;
            let idle = ask_at(&connection, version, in_session(session, 1, &[], id)).await;
            assert_eq!((idle.error_code, idle.session_id, told(&idle)), (0, session, vec![]));
            accepted(&connection, "t", 1, batch(&["a"])).await;
            let news = ask_at(&connection, version, in_session(session, 2, &[], id)).await;
            assert_eq!(told(&news), [(1, 1)]);
            // It reads on in one partition; the others are as they were.
            let next = ask_at(&connection, version, in_session(session, 3, &[(1, base + 1)], id)).await;
            assert_eq!(told(&next), []);
            // One it does not want any more.
            let name = topic_name(if id.is_some() { "" } else { "t" });
            let forgotten = ForgottenTopic::default().with_topic(name).with_topic_id(id.unwrap_or_default()).with_partitions(vec![1]);
            accepted(&connection, "t", 1, batch(&["b"])).await;
            let without = ask_at(&connection, version, in_session(session, 4, &[], id).with_forgotten_topics_data(vec![forgotten])).await;
            assert_eq!(told(&without), []);
            // Errors: not the next epoch; names where ids were, or ids where names were; the end.
            let wrong = ask_at(&connection, version, in_session(session, 9, &[], id)).await;
            assert_eq!((wrong.error_code, wrong.session_id), (code(Error::InvalidFetchSessionEpoch), 0));
            let other = if id.is_some() { 12 } else { 13 };
            assert_eq!(ask_at(&connection, other, in_session(session, 5, &[], None)).await.error_code, code(Error::FetchSessionTopicIdError));
            let last = ask_at(&connection, version, in_session(session, -1, &[], id)).await;
            assert_eq!((last.error_code, last.session_id), (0, 0));
            let gone = ask_at(&connection, version, in_session(session, 5, &[], id)).await;
            assert_eq!(gone.error_code, code(Error::FetchSessionIdNotFound));
        }
        assert_eq!(server.broker.fetch_sessions().count(), 0);
    });
}

#[test]
fn a_session_outlives_its_topic_and_tells_of_the_end() {
    with_broker(&[], |server| async move {
        let (connection, other) = (server.connect().await, server.connect().await);
        let topic_id = create(&connection, "t", 1, &[]).await;
        let full = ask_at(&connection, 17, in_session(0, 0, &[(0, 0)], Some(topic_id))).await;
        let poll = in_session(full.session_id, 1, &[], Some(topic_id)).with_max_wait_ms(FOR_EVER_MS);
        let poll = begin(&connection, 17, poll).await;
        server.until("the poll waits", || waiting(&server, "t") == 1).await;
        topics::delete(&other, "t").await;
        let answer = poll.wait().await.unwrap();
        assert_eq!((answer.error_code, answer.responses[0].partitions[0].error_code), (0, code(Error::UnknownTopicId)));
        // By name the next topic of that name goes on in the session.
        create(&other, "t", 1, &[]).await;
        let full = ask_at(&connection, 12, in_session(0, 0, &[(0, 0)], None)).await;
        topics::delete(&other, "t").await;
        let without = ask_at(&connection, 12, in_session(full.session_id, 1, &[], None)).await;
        assert_eq!(without.responses[0].partitions[0].error_code, code(Error::UnknownTopicOrPartition));
        create(&other, "t", 1, &[]).await;
        let again = ask_at(&connection, 12, in_session(full.session_id, 2, &[], None)).await;
        assert_eq!(told(&again), [(0, 0)], "an error that went is news");
    });
}

#[test]
fn sessions_are_as_many_as_there_are_slots() {
    with_broker(&["max.incremental.fetch.session.cache.slots=2"], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(ask_at(&connection, 12, in_session(0, 0, &[(0, 0)], None)).await.session_id);
        }
        assert!(ids[0] != 0 && ids[1] != 0 && ids[2] == 0, "{ids:?}");
        for id in &ids[..2] {
            assert_eq!(ask_at(&connection, 12, in_session(*id, 1, &[], None)).await.error_code, 0, "those in use stay");
        }
    });
}

#[test]
fn a_follower_is_told_to_look_elsewhere() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        // Broker 1 has no replica of it, as far as its leader knows.
        let answer = ask_at(&connection, 12, fetch_request("t", 0, 0).with_replica_id(1.into())).await;
        assert_eq!(only(&answer).error_code, code(Error::NotLeaderOrFollower));
        assert!(only(&answer).records.as_ref().is_none_or(bytes::Bytes::is_empty));
    });
}
