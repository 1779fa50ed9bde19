//! The manager: directories, locks, clean and unclean stops, deletion.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use uuid::Uuid;

use super::*;
use crate::log::manager::PartitionError;
use crate::log::{LogManager, LogManagerConfig, OpenError};
use crate::runtime::Open;

fn config() -> LogManagerConfig {
    LogManagerConfig { dirs: vec!["/one".into(), "/two".into()], broker_id: 7, ..LogManagerConfig::default() }
}

async fn start(world: &World) -> LogManager<World> {
    LogManager::open(world.clone(), config(), |_| small()).await.unwrap()
}

#[test]
fn partitions_that_are_made_at_the_same_time_are_spread_too() {
    world::run(|world| async move {
        let manager = start(&world).await;
        let partitions: Vec<_> = (0..6).map(|number| TopicPartition::new("t", number)).collect();
        let made = futures_util::future::join_all(partitions.iter().map(|partition| manager.get_or_create(partition, Uuid::from_u128(5), small()))).await;
        assert!(made.iter().all(Result::is_ok));
        assert_eq!(manager.all().iter().filter(|log| log.path().starts_with("/one")).count(), 3);
        manager.shutdown().await;
    });
}

#[test]
fn partitions_are_spread_and_found_again() {
    world::run(|world| async move {
        let manager = start(&world).await;
        let partitions: Vec<_> = (0..6).map(|number| TopicPartition::new("t", number)).collect();
        for partition in &partitions {
            let log = manager.get_or_create(partition, Uuid::from_u128(5), small()).await.unwrap();
            fill(&log, 20, 900).await;
            log.flush().await.unwrap();
            log.set_high_watermark(15);
        }
        assert_eq!(manager.all().iter().filter(|log| log.path().starts_with("/one")).count(), 3);
        manager.shutdown().await;
        assert!(world.disk.bytes("/one/.kafka_cleanshutdown".as_ref()).is_some());

        let world = world.crash(1);
        let manager = start(&world).await;
        assert!(world.disk.bytes("/one/.kafka_cleanshutdown".as_ref()).is_none());
        assert_eq!(manager.all().len(), 6);
        for partition in &partitions {
            let log = manager.get(partition).unwrap();
            assert_eq!((log.topic_id(), log.log_end_offset()), (Uuid::from_u128(5), 20));
            assert_eq!(manager.checkpointed_high_watermark(partition), Some(15));
            let report = manager.recovery_reports()[partition];
            assert_eq!((report.verified_batches, report.verified_from_offset), (0, 20), "a clean stop leaves nothing to verify");
        }
        assert!(matches!(manager.get_or_create(&partitions[0], Uuid::from_u128(6), small()).await, Err(PartitionError::InconsistentTopicId { .. })));
    });
}

#[test]
fn a_directory_of_another_broker_is_refused() {
    world::run(|world| async move {
        let ids = start(&world).await.directory_ids();
        assert_eq!(start(&world).await.directory_ids(), ids);
        assert!(ids.len() == 2 && ids[0] != ids[1]);
        let other = LogManagerConfig { broker_id: 8, ..config() };
        match LogManager::open(world.clone(), other, |_| small()).await {
            Err(error @ OpenError::Foreign { key: "broker.id", .. }) => assert!(error.to_string().contains("broker.id 7, not 8"), "{error}"),
            _ => panic!(),
        }
        start(&world).await.set_cluster_id("abc").await.unwrap();
        assert_eq!(start(&world).await.cluster_id(), Some("abc"));
        let other = LogManagerConfig { cluster_id: Some("xyz".to_owned()), ..config() };
        assert!(matches!(LogManager::open(world, other, |_| small()).await, Err(OpenError::Foreign { key: "cluster.id", .. })));
    });
}

#[test]
fn deleted_partitions_go_and_strangers_stay() {
    world::run(|world| async move {
        let manager = start(&world).await;
        let partition = TopicPartition::new("gone", 3);
        let log = manager.get_or_create(&partition, Uuid::from_u128(1), small()).await.unwrap();
        fill(&log, 5, 100).await;
        log.flush().await.unwrap();
        manager.write_checkpoints().await.unwrap();
        for stranger in ["/one/lost+found", "/one/backup"] {
            world.disk().create_dir(stranger.as_ref()).await.unwrap();
        }
        assert!(manager.delete(&partition).await.unwrap());
        assert!(!manager.delete(&partition).await.unwrap());
        assert!(manager.get(&partition).is_none());
        assert!(matches!(log.append_as_leader(&[batch(&[1], b"x", None)], 0).await, Err(AppendError::Log(LogError::Deleted { .. }))));
        let recovery_points = world.disk.bytes("/one/recovery-point-offset-checkpoint".as_ref()).unwrap();
        assert_eq!(recovery_points, b"0\n0\n");
        // The same name again is another partition.
        let log = manager.get_or_create(&partition, Uuid::from_u128(2), small()).await.unwrap();
        assert_eq!(log.log_end_offset(), 0);
        let manager = start(&world.crash(3)).await;
        assert_eq!(manager.get(&partition).unwrap().topic_id(), Uuid::from_u128(2));
        let world = world.kill();
        start(&world).await;
        let left: Vec<_> = world.disk().list("/one".as_ref()).await.unwrap().into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect();
        assert_eq!(left, ["backup", "gone-3", "lost+found"]);
    });
}

#[test]
fn a_rotten_partition_is_offline_and_keeps_its_recovery_point() {
    world::run(|world| async move {
        let manager = start(&world).await;
        let (sick, well) = (TopicPartition::new("sick", 0), TopicPartition::new("well", 0));
        for partition in [&sick, &well] {
            let log = manager.get_or_create(partition, Uuid::from_u128(1), small()).await.unwrap();
            fill(&log, 3, 600).await;
            log.flush().await.unwrap();
        }
        manager.write_checkpoints().await.unwrap();
        let world = world.kill();
        let file = manager.get(&sick).unwrap().path().join("00000000000000000000.log");
        world.disk.tamper(&file, |bytes| *bytes.last_mut().unwrap() ^= 1);
        for _ in 0..2 {
            let manager = start(&world).await;
            assert!(manager.get(&sick).is_none() && manager.get(&well).is_some());
            let why = manager.offline()[&sick].clone();
            assert!(why.contains("00000000000000000000.log") && why.contains("position") && why.contains("offset 2"), "{why}");
            assert!(matches!(manager.get_or_create(&sick, Uuid::from_u128(1), small()).await, Err(PartitionError::Offline { .. })));
            fill(&manager.get(&well).unwrap(), 1, 10).await;
            manager.get(&well).unwrap().flush().await.unwrap();
            manager.write_checkpoints().await.unwrap();
        }
        let manager = start(&world).await;
        assert!(manager.delete(&sick).await.unwrap());
        assert!(manager.get_or_create(&sick, Uuid::from_u128(2), small()).await.is_ok());
    });
}

#[test]
fn one_of_two_directories_may_fail() {
    world::run(|world| async move {
        let manager = start(&world).await;
        let (one, two) = (TopicPartition::new("t", 0), TopicPartition::new("t", 1));
        let first = manager.get_or_create(&one, Uuid::from_u128(1), small()).await.unwrap();
        let second = manager.get_or_create(&two, Uuid::from_u128(1), small()).await.unwrap();
        let mut failed = manager.failed_dirs();
        world.disk.faults.fail_next_sync.store(true, Ordering::Relaxed);
        fill(&first, 1, 10).await;
        assert!(first.flush().await.is_err());
        assert_eq!(failed.borrow_and_update().len(), 1);
        fill(&second, 1, 10).await;
        second.flush().await.unwrap();
        assert!(!world.halted.load(Ordering::Relaxed));
        let third = manager.get_or_create(&TopicPartition::new("t", 2), Uuid::from_u128(1), small()).await.unwrap();
        assert_eq!(third.path().parent(), second.path().parent());
    });
}

#[test]
fn flush_ms_bounds_the_time_in_memory() {
    world::run(|world| async move {
        let config = LogManagerConfig { flush_check_interval_ms: 1, ..config() };
        let manager = LogManager::open(world, config, |_| small()).await.unwrap();
        let log = manager.get_or_create(&partition(), Uuid::nil(), LogConfig { flush_messages: i64::MAX, flush_ms: 5, ..small() }).await.unwrap();
        fill(&log, 1, 10).await;
        drop(log.durable_watch().wait_for(|end| *end == 1).await.unwrap());
    });
}

#[test]
fn many_dirty_partitions_share_a_sync() {
    world::run(|world| async move {
        let sharing = LogManagerConfig { flush: FlushPolicy { flushers: 4, sync_filesystem_above: 32 }, ..config() };
        let manager = LogManager::open(world.clone(), sharing, |_| small()).await.unwrap();
        let mut logs = Vec::new();
        for number in 0..100 {
            logs.push(manager.get_or_create(&TopicPartition::new("t", number), Uuid::from_u128(1), small()).await.unwrap());
        }
        let before = world.disk.faults.syncs.load(Ordering::Relaxed);
        for log in &logs {
            fill(log, 1, 10).await;
        }
        for log in &logs {
            log.flush().await.unwrap();
        }
        let syncs = world.disk.faults.syncs.load(Ordering::Relaxed) - before;
        assert!(syncs < 20, "{syncs}");
        let again = start(&world.crash(2)).await;
        assert!(again.all().len() == 100 && again.all().iter().all(|log| log.log_end_offset() == 1));
    });
}

async fn write(world: &World, path: &str, content: &str) {
    let file = world.disk().open(path.as_ref(), Open::Create).await.unwrap();
    file.set_len(0).await.unwrap();
    file.write_at(0, [bytes::Bytes::from(content.to_owned())].into_iter().collect()).await.unwrap();
    file.sync_data().await.unwrap();
}

#[test]
fn kafkas_directories_wait_for_their_adoption_and_for_its_end() {
    world::run(|world| async move {
        // A log whose offsets have a gap, as compaction leaves it.
        let manager = start(&world).await;
        let partition = TopicPartition::new("t", 0);
        let log = manager.get_or_create(&partition, Uuid::from_u128(5), small()).await.unwrap();
        let home = log.path().parent().unwrap().to_string_lossy().into_owned();
        fill(&log, 4, 5000).await;
        let batches = |log: &Log<World>| log.segment_base_offsets();
        assert!(batches(&log).len() > 2, "{:?}", batches(&log));
        let hole = log.path().join(format!("{:020}.log", batches(&log)[1]));
        manager.shutdown().await;
        drop((log, manager));
        let kafkas = "version=0\nbroker.id=7\ncluster.id=abc\n";
        write(&world, &format!("{home}/meta.properties"), kafkas).await;
        write(&world, &format!("{home}/recovery-point-offset-checkpoint"), "0\n0\n").await;
        world.disk().remove_file(&hole).await.unwrap();

        let before = world.disk.bytes(format!("{home}/meta.properties").as_ref());
        let error = LogManager::open(world.clone(), config(), |_| small()).await.map(drop).unwrap_err();
        assert!(matches!(error, OpenError::NotAdopted { .. }) && error.to_string().contains("ottla log adopt"), "{error}");
        assert_eq!(world.disk.bytes(format!("{home}/meta.properties").as_ref()), before);

        let adopted = format!("{kafkas}ottla.adopted.from=kafka-zookeeper\nottla.adopted.max.producer.id=17\n");
        write(&world, &format!("{home}/meta.properties"), &adopted).await;
        // Until the topics are registered, each start is the first one. Without the list of ends gaps are taken to be compaction's everywhere.
        for ends in [None, Some("0\n1\nt 0 4\n")] {
            if let Some(ends) = ends {
                write(&world, &format!("{home}/ottla-adopted-offset-checkpoint"), ends).await;
            }
            let manager = start(&world).await;
            let adoption = manager.adoption().unwrap();
            assert_eq!((adoption.max_producer_id, adoption.partitions[&partition].topic_id), (17, Uuid::from_u128(5)));
            assert_eq!(manager.get(&partition).unwrap().log_end_offset(), 4);
        }
        let manager = start(&world).await;
        manager.set_cluster_id("abc").await.unwrap();
        manager.shutdown().await;
        drop(manager);
        let manager = start(&world).await;
        assert!(manager.adoption().is_none());
        assert_eq!(manager.cluster_id(), Some("abc"));
        let log = manager.get(&partition).unwrap();
        fill(&log, 1, 10).await;
        assert_eq!(log.log_end_offset(), 5);
    });
}

#[test]
fn who_observes_the_acknowledged_end_last_is_told() {
    world::run(|world| async move {
        let manager = start(&world).await;
        let log = manager.get_or_create(&TopicPartition::new("t", 0), Uuid::from_u128(5), small()).await.unwrap();
        let told: [Arc<AtomicI64>; 2] = Default::default();
        for told in &told {
            let told = told.clone();
            log.observe_acknowledged_end(Arc::new(move |end| told.store(end, Ordering::SeqCst)));
        }
        fill(&log, 3, 100).await;
        log.flush().await.unwrap();
        assert_eq!(told.map(|told| told.load(Ordering::SeqCst)), [0, 3], "a role that was given up hears no more");
    });
}
