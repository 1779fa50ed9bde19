//! Start, stop and start again; names of listeners.

use ottla::broker::StartError;

use super::*;

#[test]
fn what_is_under_way_when_the_broker_stops_is_answered_or_not_there() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        let mut pending = Vec::new();
        for _ in 0..50 {
            pending.push(begin(&connection, 12, produce_request("t", 0, -1, batch(&["x"]))).await);
        }
        let answered = tokio::spawn(async move {
            let mut answered = Vec::new();
            for one in pending {
                if let Ok(answer) = one.wait().await {
                    let told = &answer.responses[0].partition_responses[0];
                    assert_eq!(told.error_code, 0);
                    answered.push(told.base_offset);
                }
            }
            answered
        });
        let server = server.restart().await;
        let answered = answered.await.unwrap();
        let connection = server.connect().await;
        assert_eq!(answered, (0..answered.len() as i64).collect::<Vec<_>>());
        assert!(latest(&connection, "t", 0).await >= answered.len() as i64, "what was acknowledged is there");
    });
}

#[test]
fn everything_is_there_after_a_restart() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        let id = create(&connection, "t", 3, &[("retention.ms", "-1")]).await;
        for partition in 0..3 {
            accepted(&connection, "t", partition, batch(&["a", "b"])).await;
        }
        let mut epoch = 0;
        let mut server = server;
        for round in 1..4 {
            server = server.restart().await;
            let connection = server.connect().await;
            let topic = ask(&connection, metadata_request(&["t"])).await.topics.remove(0);
            assert_eq!((topic.topic_id, topic.partitions.len()), (id, 3));
            assert!(topic.partitions[0].leader_epoch > epoch, "never an epoch of an earlier life");
            epoch = topic.partitions[0].leader_epoch;
            for partition in 0..3 {
                assert_eq!(latest(&connection, "t", partition).await, 2 + round - 1);
                assert_eq!(accepted(&connection, "t", partition, batch(&["c"])).await, 2 + round - 1);
            }
        }
    });
}

#[test]
fn a_listener_may_have_a_name_and_each_listener_has_its_own_port() {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let resolves = std::net::ToSocketAddrs::to_socket_addrs(&(name.as_str(), 0)).is_ok();
    let host = if resolves { name.as_str() } else { "localhost" };
    let listeners = format!("listeners=PLAINTEXT://{host}:0,SECOND://localhost:0");
    with_broker(&[&listeners, "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SECOND:PLAINTEXT"], |server| async move {
        let bound = server.broker.bound().to_vec();
        assert_eq!(bound.len(), 2);
        assert_ne!(bound[0].port, bound[1].port);
        for listener in bound {
            let connection = Connection::open(&server.runtime, &listener.host_port(), ConnectionConfig::default()).await.unwrap();
            let brokers = ask(&connection, metadata_request(&[])).await.brokers;
            // Clients are told the address of the listener that they came in by.
            assert_eq!((brokers[0].host.as_str(), brokers[0].port), (listener.host.as_str(), i32::from(listener.port)));
        }
    });
}

#[test]
fn a_listener_that_cannot_be_bound_is_told_with_what_to_do() {
    with_broker(&[], |server| async move {
        let taken = server.address().port;
        for (listener, said) in [
            ("PLAINTEXT://no-such-host.invalid:9092".to_owned(), vec!["no-such-host.invalid", "advertised.listeners"]),
            ("PLAINTEXT://192.0.2.1:9092".to_owned(), vec!["192.0.2.1", "advertised.listeners"]),
            (format!("PLAINTEXT://127.0.0.1:{taken}"), vec!["the port is in use", "listeners"]),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let options = [format!("listeners={listener}"), format!("log.dirs={}", dir.path().display())];
            let config = BrokerConfig::from_text("", "", &options).unwrap();
            let error = Broker::start(server.runtime.clone(), config, "localhost").await.err().expect("it cannot start");
            assert!(matches!(error, StartError::Listen { .. }));
            let message = error.to_string();
            assert!(said.iter().all(|word| message.contains(word)), "{message}");
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing was touched");
        }
    });
}

#[test]
fn the_directory_of_a_deleted_topic_does_not_stand_in_the_way_of_the_next_one() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        accepted(&connection, "t", 0, batch(&["old"])).await;
        // As after a crash between the word of the metadata and the deed of the disk: the directory is still there.
        server.broker.shutdown().await;
        let copy = tempfile::tempdir().unwrap();
        let (home, aside) = (server.dir.path().join("t-0"), copy.path().join("t-0"));
        copy_dir(&home, &aside);
        let server = server.restart().await;
        let connection = server.connect().await;
        topics::delete(&connection, "t").await;
        server.broker.shutdown().await;
        copy_dir(&aside, &home);
        let server = server.restart().await;
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        assert_eq!(accepted(&connection, "t", 0, batch(&["new"])).await, 0);
        assert_eq!(read_all(&connection, "t", 0, 0).await, [(0, "new".to_owned())]);
        let kept = std::fs::read_dir(server.dir.path()).unwrap().filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().ends_with("-stray"));
        assert_eq!(kept.count(), 1, "what was there is kept");
    });
}

fn copy_dir(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
