//! What a broker makes of the files that an unclean stop, a torn write or a rotten disk leave, and what that costs.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::process::{Launch, Process, block_on, temp_dir};
use super::start::{bytes_read_at_start, number};
use super::traffic::{self, Conn, produce_ok, read_all, read_from};

/// A checkpoint is written at least after so many bytes of a partition.
const CHECKPOINT_BYTES: u64 = 64 << 20;
/// What may be appended while a checkpoint is on its way to the disk, and what is read besides.
const SLACK_BYTES: u64 = 24 << 20;

fn partition_dir(home: &Path, partition: &str) -> PathBuf {
    home.join("ottla-data").join(partition)
}

/// The files with this suffix, by name.
fn files(home: &Path, partition: &str, suffix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(partition_dir(home, partition)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    files.sort();
    files
}

fn len(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// A broker whose periodic checkpoints do not come during the test, so that a test decides what is known to have been on disk.
fn launch(home: &Path) -> Launch {
    Launch::new(home).option("log.flush.offset.checkpoint.interval.ms", i32::MAX).option("replica.high.watermark.checkpoint.interval.ms", i32::MAX)
}

/// A value of this size that says which it is.
fn value(number: usize, size_bytes: usize) -> Bytes {
    let mut value = format!("{number:08} ").into_bytes();
    // Not zeros: recovery takes those for sectors that were never written.
    value.resize(size_bytes, b'x');
    value.into()
}

/// Produces `count` batches of one record each, a few at a time in flight.
async fn fill(connection: &Conn, topic: &str, partition: i32, count: usize, size_bytes: usize) {
    let mut answers = std::collections::VecDeque::new();
    for number in 0..count {
        if answers.len() == 5 {
            take(&mut answers).await;
        }
        let request = traffic::produce_request(topic, partition, traffic::batch(&[value(number, size_bytes)]), -1);
        answers.push_back(connection.start(traffic::produce_version(connection), &request, traffic::REQUEST).await.unwrap());
    }
    while !answers.is_empty() {
        take(&mut answers).await;
    }
}

type Answers = std::collections::VecDeque<ottla::client::connection::Answer<ottla::runtime::tokio::TokioRuntime, kafka_protocol::messages::ProduceResponse>>;

async fn take(answers: &mut Answers) {
    let mut oldest = answers.pop_front().expect("one is in flight");
    let (code, _) = traffic::produced(&oldest.wait().await.expect("the broker answers"));
    assert_eq!(code, 0);
}

/// All of a partition are the first `count` values, at their offsets.
async fn assert_filled(connection: &Conn, topic: &str, partition: i32, count: usize, size_bytes: usize) {
    let records = read_all(connection, topic, partition).await;
    assert_eq!(records.len(), count, "{topic}-{partition}");
    for (at, (offset, read)) in records.iter().enumerate() {
        assert_eq!(*offset, at as i64);
        assert!(*read == value(at, size_bytes), "{topic}-{partition} offset {offset}");
    }
}

fn recovered(broker: &Process, partition: &str) -> String {
    broker.wait_for(&format!("that it recovered {partition}"), |line| {
        (line.contains("recovered") && line.contains(&format!("partition={partition} "))).then(|| line.to_owned())
    })
}

#[test]
fn a_restart_after_a_kill_reads_what_came_since_the_last_checkpoint_not_the_log() {
    const BATCH_BYTES: usize = 1_000_000;
    // `ci/nightly` asks for 10,000.
    let batches: usize = std::env::var("OTTLA_RESTART_MB").map_or(512, |text| text.parse().expect("OTTLA_RESTART_MB is a number of megabytes"));
    let home = temp_dir();
    let launch = launch(home.path());
    let mut broker = launch.start();
    block_on(async {
        traffic::create_topic(broker.port, "big", 1, &[]).await;
        let connection = traffic::connect(broker.port).await;
        fill(&connection, "big", 0, batches, BATCH_BYTES).await;
    });
    broker.kill();
    let log_bytes: u64 = files(home.path(), "big-0", ".log").iter().map(|path| len(path)).sum();
    assert!(log_bytes >= (batches * BATCH_BYTES) as u64);

    let again = launch.start();
    let opened = again.wait_for("what it read", bytes_read_at_start);
    let line = recovered(&again, "big-0");
    // By the system's own account too: the program itself and its configuration are in this.
    let rchar = again.read_bytes();
    println!("{log_bytes} bytes of log; read at the start: {opened} by the broker's account, {rchar} by the system's; {line}");
    let bound = CHECKPOINT_BYTES + SLACK_BYTES;
    // What may have been in the page cache alone is read twice: to be verified, and to be written again.
    assert!(opened <= bound && rchar <= 2 * bound, "{opened} and {rchar} bytes were read of {log_bytes}");
    assert_eq!(number(&line, "log_end_offset="), Some(batches as u64));
    assert_eq!(number(&line, "truncated_bytes="), Some(0));
    block_on(async {
        let connection = traffic::connect(again.port).await;
        if batches <= 512 {
            assert_filled(&connection, "big", 0, batches, BATCH_BYTES).await;
        }
        assert_eq!(produce_ok(&connection, "big", 0, &["after"]).await, batches as i64);
    });
}

#[test]
fn the_log_of_a_topic_that_is_not_there_is_kept_under_another_name() {
    let home = temp_dir();
    let launch = launch(home.path());
    let mut broker = launch.start();
    block_on(async {
        traffic::create_topic(broker.port, "kept", 1, &[]).await;
        let connection = traffic::connect(broker.port).await;
        produce_ok(&connection, "kept", 0, &["a"]).await;
    });
    broker.stop();
    // As if a crash had come between the word of a deletion and the deed.
    let ghost = partition_dir(home.path(), "ghost-0");
    fs::create_dir(&ghost).unwrap();
    for entry in fs::read_dir(partition_dir(home.path(), "kept-0")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, ghost.join(path.file_name().unwrap())).unwrap();
    }
    let id = "version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ";
    fs::write(ghost.join("partition.metadata"), id).unwrap();

    let again = launch.start();
    again.wait_for("what became of it", |line| (line.contains("moved aside") && line.contains("partition=ghost-0")).then_some(()));
    let names: Vec<String> = fs::read_dir(home.path().join("ottla-data")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.contains(&"ghost-0".to_owned()) && names.iter().any(|name| name.starts_with("ghost-0.") && name.ends_with("-stray")), "{names:?}");
    block_on(async {
        let connection = traffic::connect(again.port).await;
        assert_eq!(produce_ok(&connection, "kept", 0, &["b"]).await, 1);
    });
}

/// A topic in segments of a megabyte, 8 of them and more.
const SEGMENTED: [(&str, &str); 1] = [("segment.bytes", "1048576")];
const SEGMENTED_COUNT: usize = 180;
const SEGMENTED_BYTES: usize = 50_000;

fn segmented(home: &Path, launch: &Launch) -> Process {
    let broker = launch.start();
    block_on(async {
        traffic::create_topic(broker.port, "t", 2, &SEGMENTED).await;
        let connection = traffic::connect(broker.port).await;
        for partition in 0..2 {
            fill(&connection, "t", partition, SEGMENTED_COUNT, SEGMENTED_BYTES).await;
        }
    });
    assert!(files(home, "t-0", ".log").len() >= 8);
    broker
}

#[test]
fn removed_indexes_are_made_anew_and_are_the_same() {
    let home = temp_dir();
    let launch = launch(home.path());
    let mut broker = segmented(home.path(), &launch);
    // A clean shutdown writes all of them out.
    broker.stop();
    let read_indexes = || -> Vec<(PathBuf, Vec<u8>)> {
        [".index", ".timeindex"].iter().flat_map(|suffix| files(home.path(), "t-0", suffix)).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
    };
    let before = read_indexes();
    assert!(before.len() >= 16 && before.iter().any(|(_, bytes)| !bytes.is_empty()));
    for (path, _) in &before {
        fs::remove_file(path).unwrap();
    }

    let mut again = launch.start();
    block_on(async {
        let connection = traffic::connect(again.port).await;
        assert_filled(&connection, "t", 0, SEGMENTED_COUNT, SEGMENTED_BYTES).await;
        // Every offset is found at once, from wherever its segment's index leads.
        for offset in 0..SEGMENTED_COUNT as i64 {
            let data = traffic::fetch(&connection, "t", 0, offset, 1).await.unwrap();
            let batches = traffic::batches(data.records.unwrap_or_default());
            assert_eq!(batches.first().map(|(header, _)| header.base_offset), Some(offset));
        }
        // All batches have the same timestamp: the first record is the answer, and there is none after it.
        assert_eq!(traffic::list_offset(&connection, "t", 0, 1_700_000_000_000).await, Ok(0));
        assert_eq!(traffic::list_offset(&connection, "t", 0, 1_700_000_000_001).await, Ok(-1));
    });
    again.stop();
    let after = read_indexes();
    let names = |indexes: &[(PathBuf, Vec<u8>)]| indexes.iter().map(|(path, bytes)| (path.file_name().unwrap().to_owned(), bytes.len())).collect::<Vec<_>>();
    assert_eq!(names(&before), names(&after), "the files and their sizes");
    assert!(before == after, "the bytes");
}

#[test]
fn removed_indexes_after_a_kill_cost_no_record() {
    let home = temp_dir();
    let launch = launch(home.path());
    let mut broker = segmented(home.path(), &launch);
    broker.kill();
    for path in [".index", ".timeindex"].iter().flat_map(|suffix| files(home.path(), "t-0", suffix)) {
        fs::remove_file(path).unwrap();
    }
    // And damaged ones in the other partition.
    for path in [".index", ".timeindex"].iter().flat_map(|suffix| files(home.path(), "t-1", suffix)) {
        fs::write(path, [0xff; 37]).unwrap();
    }
    let again = launch.start();
    block_on(async {
        let connection = traffic::connect(again.port).await;
        for partition in 0..2 {
            assert_filled(&connection, "t", partition, SEGMENTED_COUNT, SEGMENTED_BYTES).await;
            assert_eq!(produce_ok(&connection, "t", partition, &["after"]).await, SEGMENTED_COUNT as i64);
        }
    });
}

fn flip(path: &Path, at: u64) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at as usize] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_flipped_bit_in_an_old_segment_is_not_cut_away() {
    let home = temp_dir();
    let launch = launch(home.path());
    let mut broker = segmented(home.path(), &launch);
    broker.kill();
    let segments = files(home.path(), "t-0", ".log");
    let sizes: Vec<u64> = segments.iter().map(|path| len(path)).collect();
    // In the middle of the second segment: within the value of some record.
    flip(&segments[1], sizes[1] / 2 + 1_000);

    let again = launch.start();
    block_on(async {
        let connection = traffic::connect(again.port).await;
        assert_eq!(traffic::range(&connection, "t", 0).await, Ok((0, SEGMENTED_COUNT as i64)), "nothing was cut");
        let base_of = |path: &PathBuf| path.file_stem().unwrap().to_string_lossy().parse::<i64>().unwrap();
        // What is after the damaged segment is whole, and so is the other partition.
        let after = read_from(&connection, "t", 0, base_of(&segments[2])).await.unwrap();
        assert_eq!(after.len() as i64, SEGMENTED_COUNT as i64 - base_of(&segments[2]));
        assert_filled(&connection, "t", 1, SEGMENTED_COUNT, SEGMENTED_BYTES).await;
        assert_eq!(produce_ok(&connection, "t", 0, &["after"]).await, SEGMENTED_COUNT as i64);
        // The damaged batch is one of them; a reader sees by its checksum which.
        let mut bad = Vec::new();
        let mut next = base_of(&segments[1]);
        while next < base_of(&segments[2]) {
            let data = traffic::fetch(&connection, "t", 0, next, 1 << 20).await.unwrap();
            assert_eq!(data.error_code, 0);
            for (header, batch) in traffic::batches(data.records.unwrap_or_default()) {
                if ottla::record::batch::Header::whole(&batch).is_err() {
                    bad.push(header.base_offset);
                }
                next = header.next_offset();
            }
        }
        assert_eq!(bad.len(), 1, "{bad:?}");
    });
    let sizes_now: Vec<u64> = segments.iter().map(|path| len(path)).collect();
    assert_eq!(sizes[..sizes.len() - 1], sizes_now[..sizes.len() - 1]);
}

#[test]
fn rot_below_what_is_known_to_be_on_disk_takes_the_partition_offline_by_name_and_cuts_nothing() {
    let home = temp_dir();
    let options = launch(home.path());
    let mut broker = options.start();
    block_on(async {
        traffic::create_topic(broker.port, "t", 2, &[]).await;
        let connection = traffic::connect(broker.port).await;
        for partition in 0..2 {
            fill(&connection, "t", partition, 40, 20_000).await;
        }
    });
    broker.kill();
    let log = files(home.path(), "t-0", ".log").pop().unwrap();
    // The first half, with whole batches behind: no crash does that to bytes that were flushed.
    flip(&log, 300_000);
    let size = len(&log);
    let again = options.start();
    let line = again.wait_for_text("offline");
    assert!(line.contains("t-0") && line.contains("00000000000000000000.log") && line.contains("offset 14") && line.contains("281008"), "{line}");
    block_on(async {
        let connection = traffic::connect(again.port).await;
        let refused = traffic::range(&connection, "t", 0).await;
        assert!(refused.is_err(), "{refused:?}");
        let (code, _) = traffic::produce(&connection, "t", 0, traffic::batch(&["x"])).await.unwrap();
        assert_ne!(code, 0);
        // The other partition does not suffer.
        assert_filled(&connection, "t", 1, 40, 20_000).await;
        produce_ok(&connection, "t", 1, &["after"]).await;
    });
    assert_eq!(len(&log), size);
}

/// Writes 40 records, kills the broker, lets `damage` do something to the segment, starts it again.
fn after_damage(damage: impl FnOnce(&Path)) -> (tempfile::TempDir, Process) {
    let home = temp_dir();
    let options = launch(home.path());
    let mut broker = options.start();
    block_on(async {
        traffic::create_topic(broker.port, "t", 1, &[]).await;
        let connection = traffic::connect(broker.port).await;
        fill(&connection, "t", 0, 40, 20_000).await;
    });
    broker.kill();
    damage(&files(home.path(), "t-0", ".log").pop().unwrap());
    let again = options.start();
    (home, again)
}

fn append(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    fs::OpenOptions::new().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

fn assert_cut(broker: &Process, cut_bytes: u64, left: usize) {
    let line = broker.wait_for_text("cut off the torn tail");
    assert_eq!(number(&line, "cut_bytes="), Some(cut_bytes), "{line}");
    assert_eq!(number(&line, " offset="), Some(left as u64), "{line}");
    assert!(line.contains("00000000000000000000.log"), "{line}");
    block_on(async {
        let connection = traffic::connect(broker.port).await;
        assert_filled(&connection, "t", 0, left, 20_000).await;
        assert_eq!(produce_ok(&connection, "t", 0, &["after"]).await, left as i64);
    });
}

#[test]
fn garbage_behind_the_log_is_cut_off_and_told() {
    let (_home, broker) = after_damage(|log| append(log, &[0x5a; 777]));
    assert_cut(&broker, 777, 40);
}

#[test]
fn zeros_behind_the_log_are_cut_off_and_told() {
    let (_home, broker) = after_damage(|log| append(log, &[0; 5_000]));
    assert_cut(&broker, 5_000, 40);
}

#[test]
fn half_a_batch_behind_the_log_is_cut_off_and_told() {
    let (_home, broker) = after_damage(|log| append(log, &traffic::batch(&[value(40, 20_000)])[..9_000]));
    assert_cut(&broker, 9_000, 40);
}

#[test]
fn a_last_batch_without_its_end_is_cut_off_and_told() {
    let mut rest = 0;
    let (_home, broker) = after_damage(|log| {
        let batch_bytes = traffic::batch(&[value(39, 20_000)]).len() as u64;
        rest = batch_bytes - 100;
        fs::OpenOptions::new().write(true).open(log).unwrap().set_len(len(log) - 100).unwrap();
    });
    assert_cut(&broker, rest, 39);
}

#[test]
fn a_log_that_lost_flushed_records_is_refused_by_name() {
    let home = temp_dir();
    let options = launch(home.path());
    let mut broker = options.start();
    block_on(async {
        traffic::create_topic(broker.port, "t", 1, &[]).await;
        fill(&traffic::connect(broker.port).await, "t", 0, 40, 20_000).await;
    });
    // The clean shutdown writes down what is on disk.
    broker.stop();
    let log = files(home.path(), "t-0", ".log").pop().unwrap();
    let size = len(&log) - 100;
    fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(size).unwrap();
    let again = options.start();
    let line = again.wait_for_text("offline");
    assert!(line.contains("t-0") && line.contains("39") && line.contains("40"), "{line}");
    assert_eq!(len(&log), size, "nothing is cut");
}
