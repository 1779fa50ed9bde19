//! The broker's budget for requests, in simulated time: whoever begins frames and sends no more of them cannot keep others out for long.

use std::time::Duration;

use ottla::broker::Broker;
use ottla::client::connection::{Connection, ConnectionConfig};
use ottla::config::broker::BrokerConfig;
use ottla::runtime::{HostPort, Runtime, Stream};
use ottla_sim::world::WorldOptions;
use tokio::io::AsyncWriteExt;

use super::in_world;

/// Eight chunks of the smallest size.
const BUDGET_BYTES: usize = 2 << 20;

#[test]
fn peers_that_stall_within_a_frame_do_not_keep_others_out() {
    let served_after = in_world(WorldOptions::calm(1), |world| async move {
        let properties =
            format!("listeners=PLAINTEXT://0.0.0.0:9092\nlog.dirs=/data\nqueued.max.request.bytes={BUDGET_BYTES}\nsocket.request.max.bytes=1048576\n");
        let broker = world.host("broker");
        broker.start(move |rt| {
            let config = BrokerConfig::from_text("server.properties", &properties, &[]).expect("it is valid");
            async move {
                let _broker = Broker::start(rt, config, "broker").await.expect("it starts");
                std::future::pending::<()>().await;
            }
        });
        let peer = HostPort { host: "broker".into(), port: 9092 };
        let to = peer.clone();
        world.host("stalled").start(move |rt| {
            let to = to.clone();
            async move {
                rt.sleep(Duration::from_secs(1)).await;
                let mut held = Vec::new();
                for _ in 0..40 {
                    let (read, mut write) = rt.connect(&to).await.expect("it listens").into_split();
                    // A frame of 100 kB begins, and more of it than is kept without a chunk.
                    write.write_all(&100_000_i32.to_be_bytes()).await.expect("it reads");
                    let _ = write.write_all(&[0; 8_000]).await;
                    held.push((read, write));
                }
                std::future::pending::<()>().await;
            }
        });
        let (tell, told) = tokio::sync::oneshot::channel();
        let tell = std::sync::Arc::new(std::sync::Mutex::new(Some(tell)));
        world.host("client").start(move |rt| {
            let (peer, tell) = (peer.clone(), tell.clone());
            async move {
                rt.sleep(Duration::from_secs(5)).await;
                let start = rt.now();
                let config = ConnectionConfig { connect_timeout: Duration::from_secs(300), ..ConnectionConfig::default() };
                // Opening exchanges the versions: a request and its answer.
                let opened = Connection::open(&rt, &peer, config).await.map(|_| rt.now() - start);
                let tell = tell.lock().expect("no panic holds it").take().expect("once");
                let _ = tell.send(opened.map_err(|error| error.to_string()));
            }
        });
        told.await.expect("the client tells")
    });
    let served_after = served_after.expect("served");
    // Those who stall take turns with what memory there is, half a minute each. Without the rule it is ten minutes (connections.max.idle.ms) a turn.
    assert!((Duration::from_secs(1)..Duration::from_secs(200)).contains(&served_after), "{served_after:?}");
}
