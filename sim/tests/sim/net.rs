//! What the simulated network must be able to do to a connection.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::runtime::{HostPort, Listener, Runtime, Stream, WriteHalf};
use ottla_sim::runtime::SimRuntime;
use ottla_sim::state::{CrashKind, Exit};
use ottla_sim::world::{World, WorldOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::in_world;

const PORT: u16 = 9092;

fn to(host: &str) -> HostPort {
    HostPort { host: host.into(), port: PORT }
}

async fn accept(rt: &SimRuntime) -> <SimRuntime as Runtime>::Stream {
    let listener = rt.listen(SocketAddr::from(([0, 0, 0, 0], PORT))).await.unwrap();
    listener.accept().await.unwrap()
}

/// Reads until end or error; how each read went.
type Log = Arc<Mutex<Vec<Result<usize, std::io::ErrorKind>>>>;

/// `server` accepts one connection and logs every read; the write half stays open.
fn logging_server(world: &World, log: &Log) {
    let log = log.clone();
    world.host("server").start(move |rt| {
        let log = log.clone();
        async move {
            let (mut read, _write) = accept(&rt).await.into_split();
            let mut buffer = [0; 256];
            loop {
                let result = read.read(&mut buffer).await.map_err(|error| error.kind());
                log.lock().unwrap().push(result);
                if !matches!(result, Ok(1..)) {
                    return std::future::pending().await;
                }
            }
        }
    });
}

fn received(log: &Log) -> usize {
    log.lock().unwrap().iter().filter_map(|one| one.ok()).sum()
}

#[test]
fn latency_differs_by_link_and_by_segment() {
    let round_trips: BTreeSet<Vec<u64>> = (0..5)
        .map(|seed| {
            in_world(WorldOptions::calm(seed), |world| async move {
                world.host("server").start(|rt| async move {
                    let (mut read, mut write) = accept(&rt).await.into_split();
                    loop {
                        let byte = read.read_u8().await.unwrap();
                        write.write_u8(byte).await.unwrap();
                    }
                });
                let times = Arc::new(Mutex::new(Vec::new()));
                let seen = times.clone();
                let client = world.host("client").start(move |rt| {
                    let seen = seen.clone();
                    async move {
                        rt.sleep(Duration::from_millis(1)).await;
                        let (mut read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
                        for _ in 0..10 {
                            let start = rt.now();
                            write.write_u8(1).await.unwrap();
                            read.read_u8().await.unwrap();
                            seen.lock().unwrap().push((rt.now() - start).as_micros() as u64);
                        }
                    }
                });
                assert_eq!(client.wait().await, Exit::Returned);
                let times = times.lock().unwrap().clone();
                assert!(times.iter().all(|us| *us >= 60), "{times:?}");
                times
            })
        })
        .collect();
    assert_eq!(round_trips.len(), 5);
    assert!(round_trips.iter().all(|times| times.iter().collect::<BTreeSet<_>>().len() > 5), "{round_trips:?}");
}

#[test]
fn bytes_are_segmented_anywhere_and_arrive_in_order() {
    let mut sizes = BTreeSet::new();
    for seed in 0..20 {
        let mut options = WorldOptions::calm(seed);
        options.net.split_ppm = 1_000_000;
        options.net.partial_write_ppm = 500_000;
        let log = Log::default();
        let seen = log.clone();
        in_world(options, move |world| async move {
            logging_server(&world, &seen);
            world.host("client").start(|rt| async move {
                rt.sleep(Duration::from_millis(1)).await;
                let (_read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
                write.write_all(&[7; 600]).await.unwrap();
                std::future::pending().await
            });
            world.sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(received(&log), 600);
        sizes.extend(log.lock().unwrap().iter().filter_map(|one| one.ok()));
    }
    assert!(sizes.len() > 20, "{sizes:?}");
}

#[test]
fn half_close_leaves_the_other_direction() {
    in_world(WorldOptions::calm(3), |world| async move {
        world.host("server").start(|rt| async move {
            let (mut read, mut write) = accept(&rt).await.into_split();
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.unwrap();
            write.write_all(&all).await.unwrap();
        });
        let client = world.host("client").start(|rt| async move {
            rt.sleep(Duration::from_millis(1)).await;
            let (mut read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
            write.write_all(b"question").await.unwrap();
            write.shutdown().await.unwrap();
            let mut answer = Vec::new();
            read.read_to_end(&mut answer).await.unwrap();
            assert_eq!(answer, b"question");
        });
        assert_eq!(client.wait().await, Exit::Returned);
    });
}

#[test]
fn a_reset_cuts_a_frame_in_its_midst() {
    let mut received_bytes = BTreeSet::new();
    for seed in 0..40 {
        let mut options = WorldOptions::calm(seed);
        options.net.reset_ppm = 100_000;
        let log = Log::default();
        let seen = log.clone();
        in_world(options, move |world| async move {
            logging_server(&world, &seen);
            let client = world.host("client").start(|rt| async move {
                rt.sleep(Duration::from_millis(1)).await;
                let (_read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
                while write.write_all(&[1; 1_000]).await.is_ok() {
                    rt.sleep(Duration::from_millis(1)).await;
                }
            });
            assert_eq!(client.wait().await, Exit::Returned);
            world.sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(*log.lock().unwrap().last().unwrap(), Err(std::io::ErrorKind::ConnectionReset), "seed {seed}");
        received_bytes.insert(received(&log) % 1_000);
    }
    assert!(received_bytes.len() > 20, "frames are cut anywhere: {received_bytes:?}");
}

#[test]
fn a_one_way_block_is_a_black_hole_until_it_is_healed() {
    let (mut delivered, mut reset) = (0, 0);
    for seed in 0..30 {
        let log = Log::default();
        let seen = log.clone();
        in_world(WorldOptions::calm(seed), move |world| async move {
            logging_server(&world, &seen);
            world.host("client").start(|rt| async move {
                rt.sleep(Duration::from_millis(1)).await;
                let (mut read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
                rt.sleep(Duration::from_secs(1)).await;
                write.write_all(&[1; 100]).await.unwrap();
                let _ = read.read_u8().await;
            });
            let (client, server) = (world.host("client"), world.host("server"));
            world.sleep(Duration::from_millis(500)).await;
            world.set_blocked(&client, &server, true);
            world.sleep(Duration::from_secs(15)).await;
            assert_eq!(received(&seen), 0, "nothing gets through");
            world.set_blocked(&client, &server, false);
            world.sleep(Duration::from_secs(10)).await;
        });
        delivered += u32::from(received(&log) == 100);
        reset += u32::from(log.lock().unwrap().contains(&Err(std::io::ErrorKind::ConnectionReset)));
    }
    assert!(delivered > 5 && reset > 2, "after a long block: {delivered} delivered, {reset} reset");
}

#[test]
fn whoever_sends_into_a_block_gives_up_with_a_time_out() {
    in_world(WorldOptions::calm(1), |world| async move {
        logging_server(&world, &Log::default());
        let client = world.host("client").start(|rt| async move {
            rt.sleep(Duration::from_millis(1)).await;
            let (mut read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
            rt.sleep(Duration::from_secs(1)).await;
            write.write_all(&[1; 100]).await.unwrap();
            assert_eq!(read.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
        });
        world.sleep(Duration::from_millis(500)).await;
        world.set_blocked(&world.host("client"), &world.host("server"), true);
        assert_eq!(client.wait().await, Exit::Returned);
    });
}

#[test]
fn back_pressure_holds_the_writer() {
    let mut options = WorldOptions::calm(1);
    options.net.window_log2 = (12, 12);
    in_world(options, |world| async move {
        let sent = Arc::new(Mutex::new(0));
        world.host("server").start(|rt| async move {
            let (mut read, _write) = accept(&rt).await.into_split();
            rt.sleep(Duration::from_secs(60)).await;
            let mut all = Vec::new();
            read.read_to_end(&mut all).await.unwrap();
            assert_eq!(all.len(), 10_000);
        });
        let count = sent.clone();
        let client = world.host("client").start(move |rt| {
            let count = count.clone();
            async move {
                rt.sleep(Duration::from_millis(1)).await;
                let (_read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
                for _ in 0..1_000 {
                    write.write_all(&[1; 10]).await.unwrap();
                    *count.lock().unwrap() += 10;
                }
            }
        });
        world.sleep(Duration::from_secs(30)).await;
        assert!((4_080..=4_096).contains(&*sent.lock().unwrap()), "{}", sent.lock().unwrap());
        assert_eq!(client.wait().await, Exit::Returned);
    });
}

#[test]
fn connecting_to_a_dead_process_is_refused_and_to_a_dead_machine_times_out() {
    in_world(WorldOptions::calm(1), |world| async move {
        let server = world.host("server");
        logging_server(&world, &Log::default());
        world.sleep(Duration::from_secs(1)).await;
        server.crash(CrashKind::Kill);
        let refused = world.host("client").start(|rt| async move {
            assert_eq!(rt.connect(&to("server")).await.err().unwrap().kind(), std::io::ErrorKind::ConnectionRefused);
            assert!(rt.connect(&to("nobody")).await.err().unwrap().to_string().contains("nobody"));
        });
        assert_eq!(refused.wait().await, Exit::Returned);
        server.crash(CrashKind::PowerCut);
        let silent = world.host("client").start(|rt| async move {
            assert_eq!(rt.connect(&to("server")).await.err().unwrap().kind(), std::io::ErrorKind::TimedOut);
        });
        assert_eq!(silent.wait().await, Exit::Returned);
        assert!(world.now() > Duration::from_secs(120));
    });
}

#[test]
fn a_killed_peer_is_seen_and_one_without_power_is_not() {
    for (kind, expected) in [(CrashKind::Kill, 1), (CrashKind::PowerCut, 0)] {
        let log = Log::default();
        let seen = log.clone();
        in_world(WorldOptions::calm(1), move |world| async move {
            logging_server(&world, &seen);
            let client = world.host("client");
            client.start(|rt| async move {
                rt.sleep(Duration::from_millis(1)).await;
                let _connection = rt.connect(&to("server")).await.unwrap();
                std::future::pending().await
            });
            world.sleep(Duration::from_secs(1)).await;
            client.crash(kind);
            world.sleep(Duration::from_secs(600)).await;
        });
        assert_eq!(log.lock().unwrap().len(), expected, "{kind:?}");
    }
}

#[test]
fn a_rebooted_machine_answers_old_connections_with_a_reset() {
    in_world(WorldOptions::calm(1), |world| async move {
        logging_server(&world, &Log::default());
        let client = world.host("client").start(|rt| async move {
            rt.sleep(Duration::from_millis(1)).await;
            let (mut read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
            rt.sleep(Duration::from_secs(10)).await;
            write.write_all(b"are you there").await.unwrap();
            assert_eq!(read.read_u8().await.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
        });
        world.sleep(Duration::from_secs(5)).await;
        world.host("server").crash(CrashKind::PowerCut);
        world.host("server").start(|_| std::future::pending());
        assert_eq!(client.wait().await, Exit::Returned);
    });
}

#[test]
fn a_file_is_sent_from_the_simulated_disk() {
    use ottla::runtime::{Disk, File, Open};
    in_world(WorldOptions::calm(1), |world| async move {
        let log = Log::default();
        logging_server(&world, &log);
        world.host("client").start(|rt| async move {
            let file = rt.disk().open(std::path::Path::new("/f"), Open::Create).await.unwrap();
            file.write_at(0, [vec![1; 5_000].into()].into_iter().collect()).await.unwrap();
            let (_read, mut write) = rt.connect(&to("server")).await.unwrap().into_split();
            write.send_file(b"head"[..].into(), &file, 1_000, 3_000).await.unwrap();
            std::future::pending().await
        });
        world.sleep(Duration::from_secs(5)).await;
        assert_eq!(received(&log), 3_004);
    });
}
