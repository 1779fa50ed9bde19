//! How a broker starts and stops, as whoever runs it sees it: what it refuses and in which words, what it leaves behind, how fast it is there.

use std::path::Path;
use std::time::{Duration, Instant};

use super::process::{Launch, block_on, temp_dir};
use super::traffic;

/// The mark of a clean shutdown.
const MARK: &str = ".kafka_cleanshutdown";

/// What opening a partition reads where there is nothing to recover: a few headers, in two reads of at most 64 KiB.
const NEARLY_NOTHING_BYTES: u64 = 128 << 10;

fn data(dir: &Path) -> std::path::PathBuf {
    dir.join("ottla-data")
}

#[test]
fn a_misspelled_key_is_told_with_file_line_and_the_nearest_key() {
    let home = temp_dir();
    std::fs::write(home.path().join("my.properties"), "# mine\nbroker.id=0\nlog.dris=elsewhere\n").unwrap();
    let mut broker = Launch::bare(home.path()).arg("broker").arg("my.properties").spawn();
    broker.wait_exit_code(2);
    let told = broker.stderr().join("\n");
    assert!(told.contains("my.properties:3: log.dris=elsewhere: no such key; did you mean log.dirs?"), "{told}");
    assert!(!data(home.path()).exists(), "nothing is made before the configuration is understood");
}

#[test]
fn all_errors_of_a_configuration_are_told_at_once() {
    let home = temp_dir();
    let text = "broker.id=minus one\nnum.partitions=0\nlisteners=PLAINTEXT://localhost:0\nlog.retension.hours=3\nno equals sign\n";
    std::fs::write(home.path().join("bad.properties"), text).unwrap();
    let mut broker = Launch::bare(home.path()).arg("broker").arg("bad.properties").option("log.segment.bytes", "much").spawn();
    broker.wait_exit_code(2);
    let told = broker.stderr();
    let at = |needle: &str| told.iter().position(|line| line.contains(needle)).unwrap_or_else(|| panic!("{needle}: not in\n{}", told.join("\n")));
    let places = [
        at("bad.properties:1: broker.id=minus one: expected"),
        at("bad.properties:2: num.partitions=0: expected"),
        at("bad.properties:4: log.retension.hours=3: no such key; did you mean log.retention.hours?"),
        at("bad.properties:5: "),
        at("-o log.segment.bytes=much: expected"),
    ];
    assert!(places.is_sorted(), "in the order of the file: {places:?}");
    assert!(told.iter().any(|line| line.contains("5 errors")), "{}", told.join("\n"));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let home = temp_dir();
    let mut broker = Launch::bare(home.path()).arg("broker").arg("absent.properties").spawn();
    broker.wait_exit_code(2);
    assert!(broker.stderr().join("\n").contains("absent.properties"), "{}", broker.text());
}

#[test]
fn a_second_broker_on_a_directory_names_it_and_leaves_the_first_alone() {
    let home = temp_dir();
    let first = Launch::new(home.path()).start();
    let mut second = Launch::new(home.path()).spawn();
    second.wait_exit_code(1);
    let told = second.stderr().join("\n");
    assert!(told.contains("./ottla-data") && told.contains("in use by another process") && told.contains("log.dirs"), "{told}");
    block_on(async {
        traffic::create_topic(first.port, traffic::PULSE, 1, &[]).await;
        traffic::round_trip(first.port, "still here").await;
    });
}

#[test]
fn a_port_in_use_is_told_with_the_key_and_nothing_is_made() {
    let home = temp_dir();
    // The default: with no file at all a broker wants localhost's 9092. Whoever has it now, this test or another program, has it.
    let held = std::net::TcpListener::bind(("127.0.0.1", 9092));
    let mut broker = Launch::bare(home.path()).spawn();
    broker.wait_exit_code(1);
    drop(held);
    let told = broker.stderr().join("\n");
    assert!(told.contains("PLAINTEXT://localhost:9092") && told.contains("in use") && told.contains("'listeners'"), "{told}");
    assert!(!data(home.path()).exists(), "the port comes first");
}

#[cfg(target_os = "linux")]
#[test]
fn without_a_file_it_listens_on_loopback_only_and_keeps_its_data_in_the_working_directory() {
    let home = temp_dir();
    let mut broker = Launch::bare(home.path()).option("listeners", "PLAINTEXT://localhost:0").start();
    assert!(data(home.path()).join("meta.properties").exists());
    let greeting = broker.stdout().join("\n");
    assert!(greeting.contains("data in") && greeting.contains("ottla-data"), "{greeting}");
    // How to send a first message, and to read it: as it says, in a shell that knows where `ottla` is.
    let bin = Path::new(env!("CARGO_BIN_EXE_ottla")).parent().unwrap().display().to_string();
    let path = format!("{bin}:{}", std::env::var("PATH").unwrap_or_default());
    let advice: Vec<String> =
        broker.stdout().iter().filter_map(|line| line.split_once("try:").or(line.split_once("     ")).map(|(_, command)| command.trim().to_owned())).collect();
    let [produce, consume] = &advice[..] else { panic!("{greeting}") };
    let shell = |command: &str| {
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(command).env("PATH", &path);
        shell
    };
    let produced = shell(produce).output().unwrap();
    assert!(produced.status.success(), "{produce}: {produced:?}");
    // It goes on until it is stopped.
    let mut consumer = shell(&format!("exec {consume}")).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(consumer.stdout.take().unwrap()), &mut line).unwrap();
    let _ = consumer.kill();
    let _ = consumer.wait();
    assert!(line.contains("hello"), "{consume}: {line:?}");
    // The sockets that listen on its port, by the system's own account; addresses are hexadecimal, in the machine's byte order.
    let port = format!(":{:04X}", broker.port);
    let mut listening = Vec::new();
    for table in ["tcp", "tcp6"] {
        let text = std::fs::read_to_string(format!("/proc/{}/net/{table}", broker.pid())).unwrap_or_default();
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[1].ends_with(&port) && fields[3] == "0A" {
                listening.push(fields[1].to_owned());
            }
        }
    }
    assert!(!listening.is_empty());
    let loopback = ["0100007F", "00000000000000000000000001000000"];
    for address in &listening {
        assert!(loopback.iter().any(|ip| address.starts_with(ip)), "listens on {address}");
    }
    broker.stop();
}

#[test]
fn sigterm_flushes_leaves_the_mark_and_the_next_start_reads_nearly_nothing() {
    let home = temp_dir();
    let launch = Launch::new(home.path());
    let mut broker = launch.start();
    let value = vec![b'v'; 400_000];
    block_on(async {
        traffic::create_topic(broker.port, "t", 3, &[]).await;
        let connection = traffic::connect(broker.port).await;
        for _ in 0..10 {
            for partition in 0..3 {
                traffic::produce_ok(&connection, "t", partition, &[&value]).await;
            }
        }
    });
    let mark = data(home.path()).join(MARK);
    assert!(!mark.exists(), "while it runs there is no mark");
    broker.stop();
    assert_eq!(broker.stdout().last().map(String::as_str), Some("stopped"));
    assert!(mark.exists());

    let mut again = launch.start();
    assert!(!mark.exists(), "it holds for one start");
    let read = again.wait_for("what it read", bytes_read_at_start);
    assert!(read <= 3 * NEARLY_NOTHING_BYTES, "{read} bytes were read after a clean shutdown");
    assert!(!again.stderr().iter().any(|line| line.contains("recovering")), "{}", again.text());
    block_on(async {
        let connection = traffic::connect(again.port).await;
        for partition in 0..3 {
            assert_eq!(traffic::read_all(&connection, "t", partition).await.len(), 10);
        }
    });
    // Killed while idle: there is no mark, and still next to nothing to read.
    again.kill();
    let mut last = launch.start();
    last.wait_for_text("recovering");
    let read = last.wait_for("what it read", bytes_read_at_start);
    assert!(read <= 3 * NEARLY_NOTHING_BYTES, "{read} bytes were read after a kill without writes");
    last.stop();
}

/// The bytes that opening a log directory took, from the line that says it.
pub fn bytes_read_at_start(line: &str) -> Option<u64> {
    line.contains("opened the log directory").then(|| number(line, "bytes_read=")).flatten()
}

/// The number that follows `key` in a line of the log.
pub fn number(line: &str, key: &str) -> Option<u64> {
    let digits: String = line.split_once(key)?.1.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[test]
fn sigterm_while_clients_wait_does_not_wait_for_them() {
    let home = temp_dir();
    let mut broker = Launch::new(home.path()).start();
    let port = broker.port;
    block_on(async {
        traffic::create_topic(port, "t", 1, &[]).await;
        let connection = traffic::connect(port).await;
        let idle = traffic::connect(port).await;
        // A fetch that the broker may hold for an hour.
        let mut held = connection.start(11, &traffic::fetch_request("t", 0, 0, 1 << 20, 3_600_000), Duration::from_secs(3_600)).await.unwrap();
        let asked = Instant::now();
        broker.terminate();
        let _ = held.wait().await;
        drop(idle);
        tokio::task::block_in_place(|| broker.wait_exit_code(0));
        assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    });
    assert!(data(home.path()).join(MARK).exists());
}

#[test]
fn a_directory_that_cannot_be_made_or_written_is_named() {
    let home = temp_dir();
    std::fs::write(home.path().join("file"), "no directory").unwrap();
    // Below a file nobody can make a directory; in /proc not even root can.
    for dir in ["file/data", "/proc/ottla-data"] {
        let mut broker = Launch::new(home.path()).option("log.dirs", dir).spawn();
        broker.wait_exit_code(1);
        let told = broker.stderr().join("\n");
        assert!(told.contains(dir), "{told}");
    }
}

#[test]
fn the_directory_of_another_broker_is_refused_with_both_ids() {
    let home = temp_dir();
    Launch::new(home.path()).option("broker.id", 3).start().stop();
    let mut other = Launch::new(home.path()).option("broker.id", 7).spawn();
    other.wait_exit_code(1);
    let told = other.stderr().join("\n");
    assert!(told.contains("ottla-data") && told.contains("broker.id 3") && told.contains("not 7"), "{told}");
    Launch::new(home.path()).option("broker.id", 3).start().stop();
}

#[test]
fn damaged_meta_properties_are_refused_by_name() {
    for (text, why) in [("version=0\nbroker.id=zero\n", "broker.id"), ("\0\0\0\0", "key=value"), ("version=9\n", "version"), ("", "")] {
        let home = temp_dir();
        let launch = Launch::new(home.path());
        launch.start().stop();
        let path = data(home.path()).join("meta.properties");
        std::fs::write(&path, text).unwrap();
        let mut broker = launch.spawn();
        broker.wait_exit_code(1);
        let told = broker.stderr().join("\n");
        // What does not look like this broker's is another's, and that is said of the directory.
        assert!(told.contains("ottla-data") && (told.contains(why) || told.contains("Apache Kafka")), "{text:?}: {told}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "the file is as it was");
    }
}

/// The files of the coordination store that have this ending in their names.
fn coordination_files(home: &Path, prefix: &str) -> Vec<std::path::PathBuf> {
    let dir = data(home).join("__ottla_coordination");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)));
    files.sort();
    files
}

#[test]
fn a_damaged_or_missing_coordination_log_is_refused_by_name_and_not_touched() {
    let home = temp_dir();
    let launch = Launch::new(home.path());
    let mut broker = launch.start();
    block_on(async {
        for number in 0..20 {
            traffic::create_topic(broker.port, &format!("topic-{number}"), 1, &[]).await;
        }
    });
    broker.stop();
    let log = coordination_files(home.path(), "log-").pop().expect("the store has a log");
    let good = std::fs::read(&log).unwrap();
    let name = log.file_name().unwrap().to_string_lossy().into_owned();
    let refused = |what: &str| {
        let mut broker = launch.spawn();
        broker.wait_exit_code(1);
        let told = broker.stderr().join("\n");
        assert!(told.contains(&name), "{what}: {told}");
    };

    // At the front, in the middle of what is known to be durable, and near the end of that.
    for at in [10, good.len() / 3, good.len() / 2] {
        let mut bad = good.clone();
        bad[at] ^= 0x20;
        std::fs::write(&log, &bad).unwrap();
        refused(&format!("a flipped bit at {at} of {}", good.len()));
        assert_eq!(std::fs::read(&log).unwrap(), bad, "the file is as it was");
    }
    std::fs::write(&log, []).unwrap();
    refused("an empty file");
    for snapshot in coordination_files(home.path(), "snapshot-") {
        let good = std::fs::read(&snapshot).unwrap();
        let mut bad = good.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        std::fs::write(&snapshot, bad).unwrap();
        let mut broker = launch.spawn();
        broker.wait_exit_code(1);
        assert!(broker.text().contains(&*snapshot.file_name().unwrap().to_string_lossy()), "{}", broker.text());
        std::fs::write(&snapshot, good).unwrap();
    }

    std::fs::write(&log, &good).unwrap();
    let again = launch.start();
    block_on(async {
        let topics = traffic::client(again.port).list_topics().await.expect("the broker answers").topics;
        let kept = topics.keys().filter(|name| name.starts_with("topic-")).count();
        assert_eq!(kept, 20, "the undamaged store has all of it");
    });
}

#[test]
fn a_torn_tail_of_the_coordination_log_costs_nothing_that_was_acknowledged() {
    let home = temp_dir();
    let launch = Launch::new(home.path());
    let mut broker = launch.start();
    block_on(traffic::create_topic(broker.port, "kept", 1, &[]));
    broker.kill();
    let log = coordination_files(home.path(), "log-").pop().expect("the store has a log");
    let mut bytes = std::fs::read(&log).unwrap();
    // What a write that was under way may leave.
    bytes.extend_from_slice(&[0x5a; 300]);
    std::fs::write(&log, &bytes).unwrap();
    let again = launch.start();
    block_on(async {
        let topics = traffic::client(again.port).list_topics().await.expect("the broker answers").topics;
        assert!(topics.contains_key("kept"), "{topics:?}");
    });
}

#[test]
fn the_first_record_is_acknowledged_within_a_second_of_the_start() {
    // A machine that is busy with other tests may be slow once; the broker must be able to.
    const ATTEMPTS: usize = 10;
    const BOUND: Duration = Duration::from_secs(1);
    let mut took = Vec::new();
    for _ in 0..ATTEMPTS {
        let home = temp_dir();
        let broker = Launch::new(home.path()).start();
        let listening = broker.since().elapsed();
        let acked = block_on(async {
            // The topic comes into being by being asked for.
            let topic = traffic::client(broker.port).topic("first").await.expect("topics are made when asked for");
            assert_eq!(topic.partitions.len(), 1);
            traffic::produce_ok(&traffic::connect(broker.port).await, "first", 0, &["record"]).await;
            broker.since().elapsed()
        });
        took.push(acked);
        println!("listening after {listening:?}, first acknowledged produce (of a new topic, on disk) after {acked:?}");
        if acked < BOUND {
            return;
        }
    }
    panic!("never within {BOUND:?}: {took:?}");
}
