//! Brokers whose coordination is outside of them (`zookeeper.connect`): another broker's `clientPort`, killed and started again, wrong, or away.

use std::path::Path;
use std::time::Duration;

use kafka_protocol::error::ResponseError;
use ottla::coordination::client::{Connector, Options, Session};
use ottla::coordination::op::Stat;
use ottla::runtime::tokio::TokioRuntime;

use super::process::{Launch, PATIENCE, Process, block_on, steady_port, temp_dir};
use super::traffic::{batch, client, connect, create_topic, produce, produce_ok, range};

/// A broker that others use as their ZooKeeper, on this port.
fn member(dir: &Path, port: u16) -> Launch {
    Launch::new(dir).option("clientPort", port).option("clientPortAddress", "127.0.0.1").option("tickTime", 200).option("maxSessionTimeout", 60_000)
}

/// A broker that uses it.
fn user(dir: &Path, connect: &str, session_timeout_ms: u32) -> Launch {
    Launch::new(dir).option("broker.id", 1).option("zookeeper.connect", connect).option("zookeeper.session.timeout.ms", session_timeout_ms)
}

fn port(process: &mut Process) -> u16 {
    process.wait_until_it_listens();
    process.port
}

/// A session of the tests' own.
async fn look(port: u16) -> Session<TokioRuntime> {
    let connect = format!("127.0.0.1:{port}").parse().unwrap();
    let options = Options { session_timeout: Duration::from_secs(10), max_in_flight: 10, request_max_bytes: 1 << 20 };
    Session::connect(TokioRuntime::new(), Connector::Hosts(connect), options, PATIENCE).await.unwrap()
}

/// A registration, once it is another one than `than`.
async fn registered(session: &Session<TokioRuntime>, path: &str, than: i64) -> Stat {
    loop {
        let mut watcher = session.watcher();
        match session.exists_and_watch(path, &watcher).await {
            Ok(Some(stat)) if stat.czxid != than => return stat,
            _ => drop(watcher.next().await),
        }
    }
}

#[test]
fn a_cluster_below_a_chroot_survives_kill_9_of_its_broker_and_of_its_coordination() {
    let (home, other) = (temp_dir(), temp_dir());
    let at = steady_port();
    let keeper = member(home.path(), at);
    let mut coordination = keeper.start();
    let broker = user(other.path(), &format!("127.0.0.1:{at}/kafka/one"), 30_000);
    let mut process = broker.start();
    assert!(!other.path().join("ottla-data/__ottla_coordination").exists(), "it has none of its own");
    let first = block_on(async {
        create_topic(process.port, "t", 2, &[]).await;
        produce_ok(&connect(process.port).await, "t", 1, &["a", "b"]).await;
        let session = look(at).await;
        assert!(session.exists("/kafka/one/brokers/topics/t/partitions/1/state").await.unwrap().is_some());
        registered(&session, "/kafka/one/brokers/ids/1", -1).await
    });

    // The broker dies, and is back before its old session has ended.
    process.kill();
    let mut process = broker.start();
    assert!(process.since().elapsed() < Duration::from_secs(25), "it waited for its own ghost");
    let port = port(&mut process);
    let second = block_on(async {
        let connection = connect(port).await;
        assert_eq!(range(&connection, "t", 1).await, Ok((0, 2)));
        assert_eq!(produce_ok(&connection, "t", 1, &["c"]).await, 2);
        registered(&look(at).await, "/kafka/one/brokers/ids/1", first.czxid).await
    });

    // Its coordination dies: what is produced and fetched goes on, and when it is back so is the session.
    coordination.kill();
    block_on(async { assert_eq!(produce_ok(&connect(port).await, "t", 1, &["d"]).await, 3) });
    let mut coordination = keeper.start();
    block_on(async {
        create_topic(port, "later", 1, &[]).await;
        produce_ok(&connect(port).await, "later", 0, &["x"]).await;
        let third = registered(&look(at).await, "/kafka/one/brokers/ids/1", -1).await;
        assert_eq!(third.czxid, second.czxid, "the session outlived the process that served it");
    });
    process.stop();
    block_on(async { assert_eq!(look(at).await.exists("/kafka/one/brokers/ids/1").await.unwrap(), None) });
    coordination.stop();
}

#[test]
fn two_brokers_are_one_cluster() {
    let (home, other) = (temp_dir(), temp_dir());
    let at = steady_port();
    let mut controller = member(home.path(), at).start();
    let mut second = user(other.path(), &format!("127.0.0.1:{at}"), 6_000).start();
    block_on(async {
        // Asked of the one that is not the controller: the client finds the one that is.
        create_topic(second.port, "t", 4, &[]).await;
        let mut leaders: Vec<i32> = Vec::new();
        while leaders.len() < 4 {
            let topic = client(second.port).topic("t").await.unwrap();
            leaders = topic.partitions.values().map(|partition| partition.leader).filter(|leader| *leader >= 0).collect();
        }
        for (number, leader) in leaders.iter().enumerate() {
            let (leader, other) = if *leader == 0 { (controller.port, second.port) } else { (second.port, controller.port) };
            // The metadata may be faster than the log: clients ask again then.
            let connection = connect(leader).await;
            while produce(&connection, "t", number as i32, batch(&["x"])).await.unwrap() == (6, -1) {}
            assert_eq!(range(&connect(other).await, "t", number as i32).await, Err(6), "NOT_LEADER_OR_FOLLOWER");
        }
        leaders.sort_unstable();
        assert_eq!(leaders, [0, 0, 1, 1], "they are spread over both");
    });
    second.stop();
    controller.stop();
}

#[test]
fn a_broker_that_was_paused_for_longer_than_its_session_registers_again() {
    let (home, other) = (temp_dir(), temp_dir());
    let at = steady_port();
    let mut coordination = member(home.path(), at).start();
    let mut process = user(other.path(), &format!("127.0.0.1:{at}/k"), 1_000).start();
    let pid = rustix::process::Pid::from_raw(process.pid() as i32).unwrap();
    block_on(async {
        create_topic(process.port, "t", 1, &[]).await;
        let session = look(at).await;
        let first = registered(&session, "/k/brokers/ids/1", -1).await;
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        while session.exists("/k/brokers/ids/1").await.unwrap().is_some() {
            std::thread::yield_now();
        }
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
        let second = registered(&session, "/k/brokers/ids/1", first.czxid).await;
        assert!(second.czxid > first.czxid);
        create_topic(process.port, "u", 1, &[]).await;
        produce_ok(&connect(process.port).await, "t", 0, &["x"]).await;
        assert_eq!(&*session.get("/k/controller_epoch").await.unwrap().data, b"2");
    });
    process.stop();
    coordination.stop();
}

#[test]
fn a_wrong_chroot_and_another_brokers_id_are_refused_by_name() {
    let (home, other, third) = (temp_dir(), temp_dir(), temp_dir());
    let at = steady_port();
    let mut coordination = member(home.path(), at).start();
    let mut process = user(other.path(), &format!("127.0.0.1:{at}/right"), 2_000).start();
    let mut twin = user(third.path(), &format!("127.0.0.1:{at}/right"), 2_000).spawn();
    twin.wait_exit_code(1);
    let told = twin.stderr().join("\n");
    assert!(told.contains("/brokers/ids/1") && told.contains(&format!("127.0.0.1:{}", process.port)) && told.contains("broker.id"), "{told}");
    process.stop();
    let mut wrong = user(other.path(), &format!("127.0.0.1:{at}/wrong"), 2_000).spawn();
    wrong.wait_exit_code(1);
    let told = wrong.stderr().join("\n");
    assert!(told.contains(&format!("127.0.0.1:{at}/wrong")) && told.contains("chroot"), "{told}");
    let mut right = user(other.path(), &format!("127.0.0.1:{at}/right"), 2_000).start();
    right.stop();
    coordination.stop();
}

#[test]
fn an_ensemble_that_is_away_is_told_with_its_hosts() {
    let home = temp_dir();
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = held.local_addr().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut process = user(home.path(), &format!("{silent},{closed}/kafka"), 18_000).option("zookeeper.connection.timeout.ms", 700).spawn();
    process.wait_exit_code(1);
    let told = process.stderr().join("\n");
    assert!(
        told.contains(&silent.to_string()) && told.contains(&closed.to_string()) && told.contains("700 ms") && told.contains("zookeeper.connect"),
        "{told}"
    );
}

#[test]
fn while_its_ensemble_is_away_a_broker_serves_and_administration_times_out() {
    let (home, other) = (temp_dir(), temp_dir());
    let at = steady_port();
    let mut coordination = member(home.path(), at).start();
    let mut process = user(other.path(), &format!("127.0.0.1:{at}/own"), 2_000).start();
    coordination.kill();
    block_on(async {
        let topic = ottla::client::admin::NewTopic { name: "t".into(), partitions: Some(1), replication_factor: Some(1), config: Default::default() };
        let refused = client(process.port).create_topic(&topic, false).await;
        assert_eq!(refused.unwrap_err().code(), Some(ResponseError::RequestTimedOut));
    });
    // It can be stopped without it, too.
    process.terminate();
    process.wait_exit_code(0);
}
