//! The life of topics: created, found, deleted, created anew, by whom and when it counts.

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, DeleteTopicsRequest, MetadataRequest};

use super::*;

/// Deletes a topic that must be there.
pub async fn delete(connection: &Conn, name: &str) {
    let answer = ask_at(connection, 5, DeleteTopicsRequest::default().with_topic_names(vec![topic_name(name)]).with_timeout_ms(30_000)).await;
    assert_eq!(answer.responses[0].error_code, 0, "{:?}", answer.responses[0].error_message);
}

#[test]
fn a_topic_that_is_made_anew_has_nothing_of_the_old_one() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        let mut ids = Vec::new();
        for round in 0..3 {
            ids.push(create(&connection, "t", 2, &[]).await);
            assert_eq!(latest(&connection, "t", 0).await, 0, "round {round}");
            assert_eq!(accepted(&connection, "t", 0, batch(&["x", "y"])).await, 0);
            delete(&connection, "t").await;
            let told = produce(&connection, "t", 0, batch(&["late"])).await;
            assert_eq!(told.error_code, code(Error::UnknownTopicOrPartition));
        }
        ids.dedup();
        assert_eq!(ids.len(), 3);
        create(&connection, "t", 1, &[]).await;
        let server = server.restart().await;
        let connection = server.connect().await;
        assert_eq!(latest(&connection, "t", 0).await, 0);
    });
}

#[test]
fn many_who_create_and_delete_at_once_lose_nothing_of_the_others() {
    with_broker(&[], |server| async move {
        let mut tasks = Vec::new();
        for worker in 0..6 {
            let connection = server.connect().await;
            tasks.push(tokio::spawn(async move {
                for round in 0..6 {
                    let kept = format!("kept-{worker}-{round}");
                    create(&connection, &kept, 1, &[]).await;
                    accepted(&connection, &kept, 0, batch(&["precious"])).await;
                    let doomed = format!("doomed-{worker}");
                    create(&connection, &doomed, 1, &[]).await;
                    accepted(&connection, &doomed, 0, batch(&["passing"])).await;
                    delete(&connection, &doomed).await;
                }
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        let connection = server.connect().await;
        for worker in 0..6 {
            for round in 0..6 {
                assert_eq!(read_all(&connection, &format!("kept-{worker}-{round}"), 0, 0).await, [(0, "precious".to_owned())]);
            }
        }
    });
}

#[test]
fn a_request_whose_client_has_gone_is_done_all_the_same() {
    with_broker(&[], |server| async move {
        let watcher = server.connect().await;
        for round in 0..20 {
            let name = format!("left-alone-{round}");
            let connection = server.connect().await;
            let topic = CreatableTopic::default().with_name(topic_name(&name)).with_num_partitions(1).with_replication_factor(1);
            let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(30_000);
            connection.send_only(7, &request).await.unwrap();
            connection.close();
            // It may not have been read at all; if it was begun, its topic has a log.
            let broker = server.broker.clone();
            server.until("the connection is gone", || broker.connection_count() == 1).await;
            loop {
                let topic = ask(&watcher, metadata_request(&[&name])).await.topics.remove(0);
                match topic.error_code {
                    0 if topic.partitions[0].error_code == 0 => {
                        accepted(&watcher, &name, 0, batch(&["x"])).await;
                        break;
                    }
                    // Its log is being made.
                    0 => assert_eq!(topic.partitions[0].error_code, code(Error::LeaderNotAvailable)),
                    error => {
                        assert_eq!(error, code(Error::UnknownTopicOrPartition));
                        break;
                    }
                }
            }
        }
    });
}

#[test]
fn topics_make_themselves_where_that_is_allowed() {
    let asked = |names: &[&str]| metadata_request(names).with_allow_auto_topic_creation(true);
    with_broker(&["num.partitions=4"], |server| async move {
        let connection = server.connect().await;
        let answer = ask(&connection, asked(&["new", "bad name", "a.b"])).await;
        let codes: Vec<_> = answer.topics.iter().map(|topic| (topic.error_code, topic.partitions.len())).collect();
        assert_eq!(codes, [(0, 4), (code(Error::InvalidTopicException), 0), (0, 4)]);
        assert_eq!(accepted(&connection, "new", 3, batch(&["x"])).await, 0);
        // `a_b` would have the same metrics as `a.b`.
        assert_eq!(ask(&connection, asked(&["a_b"])).await.topics[0].error_code, code(Error::InvalidTopicException));
        // Whoever does not want it, and a Produce of its own, make none.
        assert_eq!(ask(&connection, metadata_request(&["other"])).await.topics[0].error_code, code(Error::UnknownTopicOrPartition));
        assert_eq!(produce(&connection, "other", 0, batch(&["x"])).await.error_code, code(Error::UnknownTopicOrPartition));
    });
    with_broker(&["auto.create.topics.enable=false"], |server| async move {
        let connection = server.connect().await;
        assert_eq!(ask(&connection, asked(&["new"])).await.topics[0].error_code, code(Error::UnknownTopicOrPartition));
        let all = ask(&connection, MetadataRequest::default().with_topics(None)).await;
        assert_eq!(all.topics.len(), 0);
    });
    with_broker(&["default.replication.factor=3"], |server| async move {
        let connection = server.connect().await;
        assert_eq!(ask(&connection, asked(&["new"])).await.topics[0].error_code, code(Error::InvalidReplicationFactor), "the reason is told");
    });
}

#[test]
fn deletion_can_be_forbidden() {
    with_broker(&["delete.topic.enable=false"], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        for (version, error) in [(1, Error::InvalidRequest), (3, Error::TopicDeletionDisabled)] {
            let answer = ask_at(&connection, version, DeleteTopicsRequest::default().with_topic_names(vec![topic_name("t")]).with_timeout_ms(30_000)).await;
            assert_eq!(answer.responses[0].error_code, code(error));
        }
        assert_eq!(accepted(&connection, "t", 0, batch(&["x"])).await, 0);
    });
}
