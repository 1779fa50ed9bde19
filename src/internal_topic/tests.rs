//! The writer and the loader on a log in memory.

use super::manual::ManualRuntime;
use super::memory::MemoryLog;
use super::*;

type Reports = Arc<Mutex<Vec<(u32, Appended)>>>;

fn record(text: &str) -> Vec<KeyValue> {
    vec![(Bytes::copy_from_slice(text.as_bytes()), Some(Bytes::copy_from_slice(text.as_bytes())))]
}

struct World {
    rt: ManualRuntime,
    log: MemoryLog,
    writer: InternalWriter<u32>,
    reports: Reports,
}

impl World {
    fn new() -> Self {
        let config = WriterConfig { batch_bytes_max: 1_000, queue_bytes_max: 2_000, timeout: Duration::from_secs(5) };
        let world = Self { rt: ManualRuntime::new(), log: MemoryLog::new(), writer: InternalWriter::new(config), reports: Reports::default() };
        let (rt, log, writer, reports) = (world.rt.clone(), world.log.clone(), world.writer.clone(), Arc::clone(&world.reports));
        world.rt.spawn("writer", async move { writer.run(&rt, &log, |tag, how| reports.lock().unwrap().push((*tag, how))).await });
        world
    }

    fn enqueue(&self, tag: u32, text: &str) -> Result<(), QueueError> {
        self.writer.enqueue(tag, record(text), self.rt.now())
    }

    async fn reports(&self) -> Vec<(u32, Appended)> {
        self.rt.settle().await;
        std::mem::take(&mut self.reports.lock().unwrap())
    }

    async fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        let loaded = load(&self.log, |loaded| {
            let Loaded::Record { key, .. } = loaded else { return Err("no transaction was made".into()) };
            keys.push(String::from_utf8(key.to_vec()).unwrap());
            Ok(())
        });
        loaded.await.unwrap();
        keys
    }
}

#[tokio::test]
async fn what_waits_during_a_commit_is_one_batch() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    assert!(world.reports().await.is_empty());
    world.enqueue(1, "b").unwrap();
    world.enqueue(2, "c").unwrap();
    assert!(world.reports().await.is_empty());
    world.log.hold_commits(false);
    assert_eq!(world.reports().await, [(0, Appended::Committed), (1, Appended::Committed), (2, Appended::Committed)]);
    assert_eq!(world.log.batch_count(), 2);
    assert_eq!(world.keys().await, ["a", "b", "c"]);
}

#[tokio::test]
async fn overdue_appends_are_reported_and_still_committed() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    world.rt.advance(Duration::from_secs(1)).await;
    world.enqueue(1, "b").unwrap();
    world.rt.advance(Duration::from_secs(4)).await;
    assert_eq!(world.reports().await, [(0, Appended::Overdue)]);
    world.rt.advance(Duration::from_secs(1)).await;
    let reports = world.reports().await;
    assert!(matches!(reports[..], [(1, Appended::Failed(_))]), "it never reached the log: {reports:?}");
    world.log.hold_commits(false);
    assert_eq!(world.reports().await, [(0, Appended::Committed)]);
    assert_eq!(world.keys().await, ["a"]);
}

#[tokio::test]
async fn errors_that_leave_nothing_behind_do_not_end_it() {
    let world = World::new();
    world.log.fail_next(InternalLogError::NotEnoughReplicas);
    world.enqueue(0, "a").unwrap();
    assert_eq!(world.reports().await, [(0, Appended::Failed(InternalLogError::NotEnoughReplicas))]);
    world.log.fail_next(InternalLogError::TooLarge { batch_bytes: 1 });
    world.enqueue(1, "b").unwrap();
    world.enqueue(2, "c").unwrap();
    assert_eq!(world.reports().await, [(1, Appended::Committed), (2, Appended::Committed)], "tried again one by one");
    assert_eq!(world.keys().await, ["b", "c"]);
}

#[tokio::test]
async fn a_lost_leadership_ends_it() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    world.rt.settle().await;
    world.enqueue(1, "b").unwrap();
    world.log.resign();
    let fenced = Appended::Fenced(InternalLogError::NotLeader);
    assert_eq!(world.reports().await, [(0, fenced.clone()), (1, fenced)]);
    assert_eq!(world.enqueue(2, "c"), Err(QueueError::Closed));
}

#[tokio::test]
async fn a_closed_writer_reports_nothing() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    world.rt.settle().await;
    world.enqueue(1, "b").unwrap();
    world.writer.close();
    world.rt.settle().await;
    world.log.hold_commits(false);
    assert!(world.reports().await.is_empty());
    assert_eq!(world.enqueue(2, "c"), Err(QueueError::Closed));
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    world.rt.settle().await;
    world.enqueue(1, &"b".repeat(450)).unwrap();
    world.enqueue(2, &"c".repeat(450)).unwrap();
    assert_eq!(world.enqueue(3, &"d".repeat(450)), Err(QueueError::Full));
    world.log.hold_commits(false);
    world.rt.settle().await;
    assert_eq!(world.log.batch_count(), 3, "two entries of 932 bytes do not fit one batch");
    world.enqueue(3, &"d".repeat(9_000)).expect("one entry always fits");
    assert_eq!(world.reports().await.len(), 4);
}

#[tokio::test]
async fn a_large_entry_is_several_batches() {
    let world = World::new();
    let records: Vec<KeyValue> = (0..20).flat_map(|_| record(&"r".repeat(100))).collect();
    world.writer.enqueue(0, records, world.rt.now()).unwrap();
    assert_eq!(world.reports().await, [(0, Appended::Committed)]);
    assert_eq!(world.keys().await.len(), 20);
    assert_eq!(world.log.batch_count(), 5, "four records of about 210 bytes in each");
}

#[tokio::test]
async fn loading_waits_until_all_is_committed() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    world.rt.settle().await;
    let mut loading = Box::pin(world.keys());
    assert!(!super::manual::is_ready(&mut loading).await, "the record is in the log but not committed");
    world.log.hold_commits(false);
    assert_eq!(loading.await, ["a"]);
}

#[tokio::test]
async fn loading_fails_if_the_leadership_ends() {
    let world = World::new();
    world.log.hold_commits(true);
    world.enqueue(0, "a").unwrap();
    world.rt.settle().await;
    world.log.resign();
    assert!(matches!(load(&world.log, |_| Ok(())).await, Err(LoadError::Log { offset: 1, source: InternalLogError::NotLeader })));
}

#[tokio::test]
async fn loading_tells_where_a_record_is_bad() {
    let world = World::new();
    world.enqueue(0, "a").unwrap();
    world.rt.settle().await;
    let error = load(&world.log, |_| Err("no".into())).await.unwrap_err();
    assert_eq!(error.to_string(), "the record at offset 0: no");
}

#[tokio::test]
async fn loading_finds_transactions_and_markers() {
    let log = MemoryLog::new();
    let mut batch = BatchBuilder::new().producer(7, 1, 0).transactional();
    batch.push(1, Some(b"k"), None, &[]);
    log.append(batch.build()).await.unwrap();
    for (kind, _) in [(1, true), (0, false), (5, false)] {
        let mut batch = BatchBuilder::new().producer(7, 1, -1).transactional().control();
        batch.push(1, Some(&[0, 0, 0, kind]), Some(&[0, 0, 0, 0, 0, 0]), &[]);
        log.append(batch.build()).await.unwrap();
    }
    let mut all = Vec::new();
    let end_offset = load(&log, |loaded| {
        all.push(loaded);
        Ok(())
    });
    assert_eq!(end_offset.await.unwrap(), 4);
    assert_eq!(
        all,
        [
            Loaded::Record { offset: 0, key: Bytes::from_static(b"k"), value: None, transaction: Some(7) },
            Loaded::Marker { producer_id: 7, committed: true },
            Loaded::Marker { producer_id: 7, committed: false },
        ]
    );
}
