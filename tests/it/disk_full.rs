//! A disk that is full: producers are told, nothing acknowledged is lost, the broker stays up, and goes on when there is room.
#![cfg(target_os = "linux")]

use std::fs;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use kafka_protocol::ResponseError as Error;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::process::{Launch, PATIENCE, Process, block_on, temp_dir};
use super::traffic::{self, Conn};

const VALUE_BYTES: usize = 200_000;

/// A small file system, mounted for a test.
struct SmallDisk {
    dir: tempfile::TempDir,
}

impl SmallDisk {
    /// `None`, and the reason on standard output, where this user may not mount.
    fn mount(size_bytes: u64) -> Option<Self> {
        let dir = temp_dir();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={size_bytes}"), "tmpfs"]).arg(dir.path()).output();
        let why = match mounted {
            Ok(output) if output.status.success() => return Some(Self { dir }),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        println!("SKIPPED: a small file system cannot be mounted here: {why}; the limit on a file's size is tested all the same");
        None
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.dir.path()).status();
    }
}

/// What was acknowledged, to be found again.
#[derive(Default)]
struct Acked {
    records: Vec<(i64, Bytes)>,
    next: usize,
}

impl Acked {
    fn value(&mut self) -> Bytes {
        let mut value = format!("{:08} ", self.next).into_bytes();
        self.next += 1;
        value.resize(VALUE_BYTES, b'x');
        value.into()
    }

    /// Produces once: the error code.
    async fn produce(&mut self, connection: &Conn, topic: &str) -> i16 {
        let value = self.value();
        let (code, base_offset) = traffic::produce(connection, topic, 0, traffic::batch(&[&value])).await.expect("the broker answers");
        if code == 0 {
            self.records.push((base_offset, value));
        }
        code
    }

    /// Produces until the broker refuses; the refusal must be one that asks to try again.
    async fn fill(&mut self, connection: &Conn, topic: &str, at_most: usize) {
        for _ in 0..at_most {
            let code = self.produce(connection, topic).await;
            if code != 0 {
                assert_eq!(Error::try_from_code(code), Some(Error::KafkaStorageError));
                return;
            }
        }
        panic!("the disk took {at_most} records of {VALUE_BYTES} bytes and is not full");
    }

    /// Produces until it is acknowledged again.
    async fn until_acknowledged(&mut self, connection: &Conn, topic: &str) {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let code = self.produce(connection, topic).await;
            if code == 0 {
                return;
            }
            assert_eq!(Error::try_from_code(code), Some(Error::KafkaStorageError));
            assert!(std::time::Instant::now() < deadline, "there is room, and still nothing is acknowledged");
        }
    }

    /// Everything acknowledged is there, at its offset, and nothing else but what was refused.
    async fn is_kept(&self, connection: &Conn, topic: &str) {
        let read: std::collections::BTreeMap<i64, Bytes> = traffic::read_all(connection, topic, 0).await.into_iter().collect();
        for (offset, value) in &self.records {
            assert!(read.get(offset) == Some(value), "{topic} offset {offset} of {}", read.len());
        }
        assert_eq!(read.len(), self.records.len(), "what was refused is not in the log");
    }
}

#[test]
fn a_full_file_system_is_told_and_survived() {
    let Some(disk) = SmallDisk::mount(64 << 20) else { return };
    let home = temp_dir();
    let data = disk.path().join("data");
    let launch = Launch::new(home.path())
        .option("log.dirs", data.display())
        .option("log.segment.bytes", 4 << 20)
        .option("log.segment.delete.delay.ms", 0)
        .option("offsets.topic.num.partitions", 1);
    let mut broker = launch.start();
    let port = broker.port;
    fs::write(disk.path().join("ballast"), vec![1; 16 << 20]).unwrap();
    let (mut kept, mut other) = (Acked::default(), Acked::default());
    block_on(async {
        traffic::create_topic(port, "kept", 1, &[]).await;
        traffic::create_topic(port, "other", 1, &[]).await;
        let connection = traffic::connect(port).await;
        for _ in 0..60 {
            assert_eq!(other.produce(&connection, "other").await, 0);
        }
        kept.fill(&connection, "kept", 1_000).await;
        println!("full after {} records", kept.records.len());
        assert!(kept.records.len() > 20);
        // What is there is served, and what does not fit is refused, for as long as it takes.
        kept.is_kept(&connection, "kept").await;
        for _ in 0..20 {
            kept.produce(&connection, "kept").await;
        }
        kept.is_kept(&connection, "kept").await;
        other.is_kept(&connection, "other").await;

        fs::remove_file(disk.path().join("ballast")).unwrap();
        kept.until_acknowledged(&connection, "kept").await;
        kept.fill(&connection, "kept", 1_000).await;
        kept.is_kept(&connection, "kept").await;
    });
    assert!(broker.is_running());

    // Killed with a full disk it comes back, or says why not and leaves everything as it is.
    broker.kill();
    let mut again = launch.spawn();
    let came_back = again.wait_for("that it listens or why it does not", |line| {
        if line.starts_with("listening on") { Some(true) } else { line.starts_with("ottla: ").then_some(false) }
    });
    println!("with a full disk it {}", if came_back { "starts" } else { "does not start" });
    if came_back {
        again.wait_until_it_listens();
        block_on(async {
            let connection = traffic::connect(again.port).await;
            kept.is_kept(&connection, "kept").await;
            // The operator's way out: a topic that nobody needs.
            traffic::client(again.port).delete_topic("other").await.expect("a topic can be deleted on a full disk");
            kept.until_acknowledged(&connection, "kept").await;
        });
        again.kill();
    } else {
        again.wait_exit_code(1);
        assert!(again.stderr().join("\n").contains("No space left"), "{}", again.text());
        let segments = fs::read_dir(data.join("other-0")).unwrap().map(|entry| entry.unwrap().path());
        // Nothing acknowledged of "other" is needed any more.
        other.records.clear();
        segments.filter(|path| path.extension().is_some_and(|extension| extension == "log")).for_each(|path| drop(fs::remove_file(path)));
    }

    let mut last = launch.start();
    block_on(async {
        let connection = traffic::connect(last.port).await;
        kept.is_kept(&connection, "kept").await;
        kept.until_acknowledged(&connection, "kept").await;
    });
    last.stop();
}

fn limit_file_size(broker: &Process, size_bytes: Option<u64>) {
    let pid = Pid::from_raw(broker.pid() as i32).expect("a process id is not 0");
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: size_bytes, maximum: None }).expect("the limit of a child can be set");
}

#[test]
fn a_limit_on_the_size_of_files_is_told_and_survived() {
    let home = temp_dir();
    let launch = Launch::new(home.path());
    let mut broker = launch.start();
    let mut acked = Acked::default();
    block_on(async {
        traffic::create_topic(broker.port, "t", 1, &[]).await;
        let connection = traffic::connect(broker.port).await;
        limit_file_size(&broker, Some(5_000_000));
        acked.fill(&connection, "t", 100).await;
        assert!(acked.records.len() >= 20, "{} records", acked.records.len());
        acked.is_kept(&connection, "t").await;
        acked.produce(&connection, "t").await;
        limit_file_size(&broker, None);
        acked.until_acknowledged(&connection, "t").await;
        acked.is_kept(&connection, "t").await;
        limit_file_size(&broker, Some(8_000_000));
        acked.fill(&connection, "t", 100).await;
    });
    assert!(broker.is_running());
    broker.kill();
    let mut again = launch.start();
    block_on(async {
        let connection = traffic::connect(again.port).await;
        acked.is_kept(&connection, "t").await;
        acked.until_acknowledged(&connection, "t").await;
    });
    again.stop();
}
