//! Connections: limits, frames that no client sends, memory, shutdown.

use kafka_protocol::messages::MetadataRequest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Reads to the end of the stream, whether it comes in order or by a reset.
async fn ended(socket: &mut TcpStream) {
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(TIMEOUT, socket.read_to_end(&mut rest)).await.expect("the broker ends the connection");
    assert!(rest.is_empty(), "{rest:?}");
}

#[test]
fn what_is_not_the_protocol_ends_its_own_connection_only() {
    with_broker(&["socket.request.max.bytes=100000"], |server| async move {
        let good = server.connect().await;
        create(&good, "t", 1, &[]).await;
        let mut unknown_api = vec![0, 0, 0, 10];
        unknown_api.extend_from_slice(&[0x7f, 0, 0, 0, 0, 0, 0, 1, 0xff, 0xff]);
        let mut unknown_version = vec![0, 0, 0, 10];
        unknown_version.extend_from_slice(&[0, 3, 0, 99, 0, 0, 0, 1, 0xff, 0xff]);
        let mut hostile_count = vec![0, 0, 0, 14];
        hostile_count.extend_from_slice(&[0, 3, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        let mut cut = vec![0, 0, 0, 11];
        cut.extend_from_slice(&[0, 1, 0, 12, 0, 0, 0, 1, 0xff, 0xff, 0]);
        for (what, bytes) in [
            ("an unknown API", unknown_api),
            ("an unknown version", unknown_version),
            ("a count of two thousand million", hostile_count),
            ("a body that is too short", cut),
            ("a frame that is too large", 100_001i32.to_be_bytes().to_vec()),
            ("a negative length", (-1i32).to_be_bytes().to_vec()),
            ("an empty frame", vec![0, 0, 0, 0]),
            ("another protocol", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        ] {
            let mut socket = server.socket().await;
            socket.write_all(&bytes).await.unwrap_or_else(|error| panic!("{what}: {error}"));
            ended(&mut socket).await;
        }
        assert_eq!(accepted(&good, "t", 0, batch(&["still here"])).await, 0);
        // The largest frame that is allowed is served.
        let value = "x".repeat(90_000);
        assert_eq!(accepted(&good, "t", 0, batch(&[&value])).await, 1);
    });
}

#[test]
fn a_version_of_api_versions_that_is_not_served_is_answered_in_version_0() {
    with_broker(&[], |server| async move {
        let mut socket = server.socket().await;
        socket.write_all(&[0, 0, 0, 12, 0, 18, 0, 99, 0, 0, 0, 7, 0, 0, 0, 0]).await.unwrap();
        let mut answer = vec![0; socket.read_i32().await.unwrap() as usize];
        socket.read_exact(&mut answer).await.unwrap();
        // correlation id, UNSUPPORTED_VERSION, one row: ApiVersions 0 to 4
        assert_eq!(answer, [0, 0, 0, 7, 0, 35, 0, 0, 0, 1, 0, 18, 0, 0, 0, 4]);
        // And the connection goes on.
        socket.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 8, 0xff, 0xff]).await.unwrap();
        let mut answer = vec![0; socket.read_i32().await.unwrap() as usize];
        socket.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer[..6], [0, 0, 0, 8, 0, 0]);
    });
}

#[test]
fn a_frame_may_come_byte_by_byte_and_many_in_one_piece() {
    with_broker(&[], |server| async move {
        let api = ottla::wire::api::find(3).unwrap();
        let frame = |id| ottla::wire::frame::encode_request(api, 12, id, Some("slow"), &MetadataRequest::default().with_topics(Some(vec![]))).unwrap();
        let mut socket = server.socket().await;
        socket.set_nodelay(true).unwrap();
        for byte in frame(1).iter() {
            socket.write_all(&[*byte]).await.unwrap();
            tokio::task::yield_now().await;
        }
        let pieces: Vec<u8> = (2..50).flat_map(|id| frame(id).to_vec()).collect();
        socket.write_all(&pieces).await.unwrap();
        for id in 1..50 {
            let mut answer = vec![0; socket.read_i32().await.unwrap() as usize];
            socket.read_exact(&mut answer).await.unwrap();
            assert_eq!(answer[..4], i32::to_be_bytes(id));
        }
    });
}

#[test]
fn connections_per_address_are_limited_and_places_become_free() {
    with_broker(&["max.connections.per.ip=3"], |server| async move {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(server.connect().await);
        }
        let mut refused = server.socket().await;
        ended(&mut refused).await;
        assert!(held.iter().all(Connection::is_open));
        held.pop().unwrap().close();
        server.until("a place is free", || server.broker.connection_count() == 2).await;
        let again = server.connect().await;
        ask(&again, MetadataRequest::default().with_topics(Some(vec![]))).await;
    });
    with_broker(&["max.connections=2"], |server| async move {
        let _held = (server.connect().await, server.connect().await);
        ended(&mut server.socket().await).await;
    });
}

#[test]
fn a_silent_connection_is_ended() {
    with_broker(&["connections.max.idle.ms=200"], |server| async move {
        let mut socket = server.socket().await;
        ended(&mut socket).await;
        server.until("it is gone", || server.broker.connection_count() == 0).await;
    });
    // −1: never.
    with_broker(&["connections.max.idle.ms=-1"], |server| async move {
        let connection = server.connect().await;
        ask(&connection, MetadataRequest::default().with_topics(Some(vec![]))).await;
    });
}

/// The budget is 1 MiB, four chunks or one large frame: every connection has to wait for others, and none for ever.

#[test]
fn a_peer_that_does_not_read_is_ended() {
    with_broker(&["connections.max.idle.ms=500"], |server| async move {
        let setup = server.connect().await;
        create(&setup, "t", 1, &[]).await;
        let value = "x".repeat(900_000);
        accepted(&setup, "t", 0, batch(&[&value])).await;
        let api = ottla::wire::api::find(1).unwrap();
        let mut socket = server.socket().await;
        for id in 0..100 {
            let frame = ottla::wire::frame::encode_request(api, 12, id, Some("deaf"), &fetch_request("t", 0, 0)).unwrap();
            if socket.write_all(&frame).await.is_err() {
                break;
            }
        }
        drop(setup);
        server.until("it is gone", || server.broker.connection_count() == 0).await;
    });
}
