//! The controller over a real coordination log: durable, restarted, interrupted.

use std::path::PathBuf;

use kafka_protocol::error::ResponseError;
use tempfile::TempDir;

use super::configs::AlterOperation;
use super::configs::tests::TestRules;
use super::image::Endpoint;
use super::*;
use crate::coordination::Coordination;
use crate::coordination::client::{Connector, Options};
use crate::coordination::op::{ANY_VERSION, CreateMode};
use crate::coordination::server::{Server, ServerConfig};
use crate::log::adoption::{AdoptedPartition, Adoption};
use crate::runtime::Task;
use crate::runtime::tokio::{TokioRuntime, run};
use crate::topic_partition::TopicPartition;

fn with_dir<F, Fut>(body: F)
where
    F: FnOnce(TokioRuntime, PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("coordination");
    run(2, move |rt| body(rt, path)).unwrap();
}

fn config() -> ControllerConfig {
    let endpoint = Endpoint { listener: "PLAINTEXT".into(), security_protocol: "PLAINTEXT".into(), address: "localhost:9092".parse().unwrap() };
    ControllerConfig {
        broker: BrokerInfo { id: 1, epoch: -1, endpoints: vec![endpoint], rack: None, directory_ids: vec![Uuid::from_u128(77)] },
        expected_cluster_id: None,
        default_partition_count: 1,
        default_replication_factor: 1,
        session: options(),
        connection_timeout: Duration::from_secs(60),
        delete_topic_enable: true,
        rebalance_interval: None,
        rules: Arc::new(TestRules),
    }
}

fn options() -> Options {
    Options { session_timeout: Duration::from_secs(18), max_in_flight: 100, request_max_bytes: 1 << 20 }
}

/// A session over a pipe, as a broker that coordinates itself has one.
async fn session(rt: &TokioRuntime, coordination: &Coordination<TokioRuntime>) -> Session<TokioRuntime> {
    let server = Server::in_process(coordination.clone(), ServerConfig::default());
    let connector = Connector::Own(Arc::new(move || server.pipe(true)));
    Session::connect(rt.clone(), connector, options(), Duration::from_secs(60)).await.unwrap()
}

struct World {
    rt: TokioRuntime,
    dir: PathBuf,
    coordination: Coordination<TokioRuntime>,
    controller: Controller<TokioRuntime>,
}

impl World {
    async fn start(rt: TokioRuntime, dir: PathBuf) -> Self {
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        let controller = Controller::start(rt.clone(), session(&rt, &coordination).await, config()).await.unwrap();
        Self { rt, dir, coordination, controller }
    }

    /// A new life of the process. The controller has no chance to give anything up.
    async fn restart(self) -> Self {
        self.coordination.shutdown().await;
        Self::start(self.rt, self.dir).await
    }

    /// The same, with a tree that was changed while nobody looked after it.
    async fn restart_after<F, Fut>(self, change: F) -> Self
    where
        F: FnOnce(Coordination<TokioRuntime>) -> Fut,
        Fut: Future<Output = ()>,
    {
        self.coordination.shutdown().await;
        let alone = Coordination::open(self.rt.clone(), &self.dir).await.unwrap();
        change(alone.clone()).await;
        alone.shutdown().await;
        Self::start(self.rt, self.dir).await
    }

    async fn create(&self, name: &str, partition_count: i32) -> Arc<TopicImage> {
        let mut results = self.controller.create_topics(vec![NewTopic { partition_count, ..NewTopic::named(name) }], false).await;
        results.remove(0).unwrap().topic
    }

    async fn json(&self, path: &str) -> serde_json::Value {
        serde_json::from_slice(&self.coordination.get(path).await.unwrap().data).unwrap()
    }
}

#[test]
fn a_broker_registers_and_the_tree_has_kafkas_layout() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let image = world.controller.image();
        assert_eq!((image.controller_id, image.controller_epoch, image.cluster_id.len()), (1, 1, 22));
        let stat = world.coordination.exists("/brokers/ids/1").await.unwrap().unwrap();
        assert_eq!(image.brokers[&1].epoch, stat.czxid);
        assert_ne!(stat.ephemeral_owner, 0);
        assert_eq!(world.json("/controller").await["brokerid"], 1);
        assert_eq!(world.json("/cluster/id").await["id"], image.cluster_id);
        assert_eq!(&*world.coordination.get("/controller_epoch").await.unwrap().data, b"1");
        world.controller.shutdown().await;
        assert_eq!(world.coordination.exists("/brokers/ids/1").await.unwrap(), None);
        assert_eq!(world.coordination.exists("/controller").await.unwrap(), None);
        let refused = world.controller.create_topics(vec![NewTopic::named("late")], false).await;
        assert_eq!(refused[0].as_ref().unwrap_err().code, ResponseError::NotController);
        let (before, world) = (image.cluster_id.clone(), world.restart().await);
        assert_eq!((world.controller.image().cluster_id.clone(), world.controller.image().controller_epoch), (before, 2));
    });
}

#[test]
fn directories_of_different_clusters_are_refused() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        let with_id = |id: &str| ControllerConfig { expected_cluster_id: Some(id.into()), ..config() };
        let error = Controller::start(rt.clone(), session(&rt, &coordination).await, with_id("other")).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::MetadataLost { .. }), "{error}");
        let controller = Controller::start(rt.clone(), session(&rt, &coordination).await, config()).await.unwrap();
        let id = controller.image().cluster_id.clone();
        controller.shutdown().await;
        let error = Controller::start(rt.clone(), session(&rt, &coordination).await, with_id("other")).await.map(drop).unwrap_err();
        assert!(matches!(error, StartError::InconsistentClusterId { .. }), "{error}");
        Controller::start(rt.clone(), session(&rt, &coordination).await, with_id(&id)).await.unwrap();
    });
}

#[test]
fn topics_are_created_survive_and_are_led_in_a_new_epoch() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let mut images = world.controller.subscribe();
        let request = NewTopic { partition_count: 2, configs: vec![("retention.ms".into(), Some("5".into()))], ..NewTopic::named("t") };
        let validated = world.controller.create_topics(vec![request.clone()], true).await.remove(0).unwrap();
        assert_eq!((validated.topic.partition_count(), validated.topic.id), (2, Uuid::nil()));
        assert!(world.controller.image().topics.is_empty() && !images.has_changed().unwrap());
        let topic = world.controller.create_topics(vec![request.clone()], false).await.remove(0).unwrap().topic;
        assert!(images.has_changed().unwrap());
        assert_eq!(images.borrow_and_update().topic_by_id(topic.id), Some(&topic));
        assert_eq!((topic.partitions[1].leader, topic.partitions[1].leader_epoch, topic.partitions[1].isr.clone()), (1, 0, vec![1]));
        let again = world.controller.create_topics(vec![request], false).await.remove(0).unwrap_err();
        assert_eq!(again.code, ResponseError::TopicAlreadyExists);
        let stored = world.json("/brokers/topics/t").await;
        assert_eq!((&stored["version"], &stored["topic_id"]), (&3.into(), &uuid_text::to_text(topic.id).into()));
        assert_eq!(world.json("/config/topics/t").await["config"]["retention.ms"], "5");

        for life in 1..4 {
            let world = World::start(world.rt.clone(), {
                world.coordination.shutdown().await;
                world.dir.clone()
            })
            .await;
            let image = world.controller.image();
            let loaded = image.topic("t").unwrap();
            assert_eq!((loaded.id, &loaded.config), (topic.id, &topic.config));
            let partition = &loaded.partitions[0];
            assert_eq!((partition.leader_epoch, partition.partition_epoch), (life, life), "raised in every life");
            let state = world.json("/brokers/topics/t/partitions/0/state").await;
            assert_eq!((&state["leader_epoch"], &state["controller_epoch"]), (&life.into(), &(life + 1).into()));
            let stat = world.coordination.exists("/brokers/topics/t/partitions/0/state").await.unwrap().unwrap();
            assert_eq!(stat.version, partition.partition_epoch);
            world.coordination.shutdown().await;
        }
    });
}

#[test]
fn a_deleted_topic_is_gone_and_comes_back_as_another() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let first = world.create("t", 3).await;
        world.create("u", 1).await;
        let deleted = world.controller.delete_topics(vec![TopicSelector::Id(first.id), TopicSelector::Name("missing".into())]).await;
        assert_eq!(deleted[0].as_ref().unwrap().name, first.name);
        assert_eq!(deleted[1].as_ref().unwrap_err().code, ResponseError::UnknownTopicOrPartition);
        for path in ["/brokers/topics/t", "/config/topics/t", "/admin/delete_topics/t"] {
            assert_eq!(world.coordination.exists(path).await.unwrap(), None);
        }
        assert!(world.controller.image().topic("t").is_none() && world.controller.image().topic_by_id(first.id).is_none());
        let second = world.create("t", 1).await;
        assert_ne!(first.id, second.id);
        let world = world.restart().await;
        let image = world.controller.image();
        assert_eq!((image.topics.len(), image.topic("t").unwrap().id), (2, second.id));
    });
}

#[test]
fn partitions_are_added() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        world.create("t", 2).await;
        let grow = |count| vec![NewPartitions { name: "t".into(), count, assignments: None }];
        assert_eq!(world.controller.create_partitions(grow(3), true).await, [Ok(())]);
        assert_eq!(world.controller.image().topic("t").unwrap().partition_count(), 2);
        assert_eq!(world.controller.create_partitions(grow(5), false).await, [Ok(())]);
        assert_eq!(world.controller.image().partition("t", 4).unwrap().leader, 1);
        assert_eq!(world.controller.create_partitions(grow(5), false).await[0].as_ref().unwrap_err().code, ResponseError::InvalidPartitions);
        let world = world.restart().await;
        assert_eq!(world.controller.image().topic("t").unwrap().partition_count(), 5);
    });
}

#[test]
fn settings_are_changed_and_survive() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        world.create("t", 1).await;
        let set = |name: &str, value: &str| vec![Alteration { name: name.into(), operation: AlterOperation::Set, value: Some(value.into()) }];
        let topic = || ConfigResource::Topic("t".into());
        let requests = vec![
            (topic(), set("retention.ms", "9")),
            (ConfigResource::Broker("1".into()), set("log.retention.ms", "8")),
            (ConfigResource::Broker(String::new()), set("log.retention.ms", "7")),
            (ConfigResource::Topic("x".into()), set("retention.ms", "9")),
        ];
        let results = world.controller.incremental_alter_configs(requests, false).await;
        assert_eq!(results[..3], [Ok(()), Ok(()), Ok(())]);
        assert_eq!(results[3].as_ref().unwrap_err().code, ResponseError::UnknownTopicOrPartition);
        let replaced = vec![("compression.type".to_owned(), Some("lz4".to_owned()))];
        assert_eq!(world.controller.alter_configs(vec![(topic(), replaced.clone())], true).await, [Ok(())]);
        let check = |image: &MetadataImage| {
            assert_eq!(image.topic("t").unwrap().config["retention.ms"], "9");
            assert_eq!(image.broker_configs[&Some(1)]["log.retention.ms"], "8");
            assert_eq!(image.broker_configs[&None]["log.retention.ms"], "7");
        };
        check(&world.controller.image());
        let world = world.restart().await;
        check(&world.controller.image());
        assert_eq!(world.json("/config/brokers/<default>").await["config"]["log.retention.ms"], "7");
        assert_eq!(world.controller.alter_configs(vec![(topic(), replaced)], false).await, [Ok(())]);
        let config = world.controller.image().topic("t").unwrap().config.clone();
        assert_eq!(config.into_iter().collect::<Vec<_>>(), [("compression.type".to_owned(), "lz4".to_owned())]);
    });
}

#[test]
fn what_a_crash_left_unfinished_is_finished_at_start() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let created = world.create("created", 3).await;
        world.create("deleted", 2).await;
        // As after the first of several multis: the assignment is there, states are not; the mark is there, the rest is too.
        let world = world
            .restart_after(|tree| async move {
                for path in ["/brokers/topics/created/partitions/1/state", "/brokers/topics/created/partitions/2/state", "/brokers/topics/created/partitions/2"]
                {
                    tree.delete(path, ANY_VERSION).await.unwrap();
                }
                tree.create("/admin/delete_topics/deleted", "", CreateMode::Persistent).await.unwrap();
                tree.delete("/brokers/topics/deleted/partitions/0/state", ANY_VERSION).await.unwrap();
            })
            .await;
        let image = world.controller.image();
        assert_eq!(image.topics.len(), 1);
        let topic = image.topic("created").unwrap();
        assert_eq!((topic.id, topic.partitions.iter().map(|partition| partition.leader_epoch).collect::<Vec<_>>()), (created.id, vec![1, 0, 0]));
        assert_eq!(world.json("/brokers/topics/created/partitions/2/state").await["leader"], 1);
        assert_eq!(world.coordination.exists("/brokers/topics/deleted").await.unwrap(), None);
        assert!(world.coordination.children("/admin/delete_topics").await.unwrap().0.is_empty());
        world.create("deleted", 1).await;
    });
}

#[test]
fn many_partitions_come_in_parts_and_go_in_parts() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let topic = world.create("large", 3_000).await;
        let small: Vec<_> = (0..500).map(|at| NewTopic::named(&format!("small-{at}"))).collect();
        let results = world.controller.create_topics(small, false).await;
        assert!(results.iter().all(Result::is_ok));
        let world = world.restart().await;
        let image = world.controller.image();
        assert_eq!((image.topics.len(), image.partition_count()), (501, 3_500));
        let partitions = &image.topic("large").unwrap().partitions;
        assert!(partitions.iter().all(|partition| partition.leader_epoch == 1 && partition.partition_epoch == 1));
        let deleted = world.controller.delete_topics(vec![TopicSelector::Id(topic.id)]).await;
        assert!(deleted[0].is_ok());
        assert_eq!(world.coordination.exists("/brokers/topics/large").await.unwrap(), None);
        assert_eq!(world.coordination.exists("/admin/delete_topics/large").await.unwrap(), None);
        assert_eq!(world.restart().await.controller.image().partition_count(), 500);
    });
}

#[test]
fn a_replaced_controller_cannot_write() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        world.coordination.set("/controller_epoch", "7", ANY_VERSION).await.unwrap();
        let refused = world.controller.create_topics(vec![NewTopic::named("t")], false).await;
        assert_eq!(refused[0].as_ref().unwrap_err().code, ResponseError::NotController);
        assert_eq!(world.coordination.exists("/brokers/topics/t").await.unwrap(), None);
    });
}

#[test]
fn producer_ids_are_never_given_twice() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let tasks: Vec<_> = (0..4)
            .map(|_| {
                let controller = world.controller.clone();
                world.rt.spawn("producer", async move {
                    let mut ids = Vec::new();
                    for _ in 0..600 {
                        ids.push(controller.allocate_producer_id().await.unwrap());
                    }
                    ids
                })
            })
            .collect();
        let mut ids = Vec::new();
        for task in tasks {
            ids.extend(task.join().await.unwrap());
        }
        ids.sort_unstable();
        assert_eq!(ids, (0..2_400).collect::<Vec<i64>>());
        assert_eq!(world.json("/latest_producer_id_block").await["block_end"], "2999");
        let world = world.restart().await;
        assert_eq!(world.controller.allocate_producer_id().await, Ok(3_000));
        let last = znodes::encode_producer_ids(1, i64::MAX - 999, i64::MAX);
        world.coordination.set("/latest_producer_id_block", last, ANY_VERSION).await.unwrap();
        let world = world.restart().await;
        assert_eq!(world.controller.allocate_producer_id().await.unwrap_err().code, ResponseError::UnknownServerError);
    });
}

#[test]
fn broker_ids_are_generated_once_each() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        let session = session(&rt, &coordination).await;
        assert_eq!(generate_broker_id(&session, 1_000).await.unwrap(), 1_001);
        assert_eq!(generate_broker_id(&session, 1_000).await.unwrap(), 1_002);
    });
}

#[test]
fn a_change_outlives_whoever_asked_for_it() {
    with_dir(|rt, dir| async move {
        let world = World::start(rt, dir).await;
        let mut images = world.controller.subscribe();
        let controller = world.controller.clone();
        {
            let mut request = Box::pin(controller.create_topics(vec![NewTopic::named("t")], false));
            // Polled once: the request is in the queue, and then dropped.
            let once = std::future::poll_fn(|cx| std::task::Poll::Ready(request.as_mut().poll(cx).is_ready())).await;
            assert!(!once);
        }
        images.wait_for(|image| image.topic("t").is_some()).await.unwrap();
    });
}

#[test]
fn adopted_topics_are_registered_once_above_all_that_kafka_gave_out() {
    with_dir(|rt, dir| async move {
        let coordination = Coordination::open(rt.clone(), &dir).await.unwrap();
        let partition =
            |topic: &str, number, id, leader_epoch| (TopicPartition::new(topic, number), AdoptedPartition { topic_id: Uuid::from_u128(id), leader_epoch });
        let partitions = [partition("a", 0, 5, 3), partition("a", 2, 5, -1), partition("old", 0, 0, 9), partition("__consumer_offsets", 0, 6, 1)];
        let found = Adoption { partitions: partitions.into_iter().collect(), max_producer_id: 4321 };
        let register = |found: Adoption| {
            let (rt, coordination) = (rt.clone(), coordination.clone());
            async move { adoption::register(&rt, &session(&rt, &coordination).await, 1, Some("kafkas"), 1 << 20, &found).await }
        };
        assert_eq!(register(found.clone()).await.unwrap().len(), 3);
        // As after a crash before the directories' mark.
        assert!(register(found.clone()).await.unwrap().is_empty());
        let config = ControllerConfig { expected_cluster_id: Some("kafkas".to_owned()), ..config() };
        let controller = Controller::start(rt.clone(), session(&rt, &coordination).await, config).await.unwrap();
        let image = controller.image();
        assert_eq!(image.cluster_id, "kafkas");
        let epochs = |topic: &str| image.topics[topic].partitions.iter().map(|partition| (partition.leader, partition.leader_epoch)).collect::<Vec<_>>();
        assert_eq!((epochs("a"), epochs("old")), (vec![(1, 4), (1, 1), (1, 1)], vec![(1, 10)]));
        assert_eq!(image.topics["a"].id, Uuid::from_u128(5));
        assert!(!image.topics["old"].id.is_nil());
        assert_eq!(image.topics["a"].config["retention.ms"], "-1");
        assert_eq!(image.topics["__consumer_offsets"].config["cleanup.policy"], "compact");
        assert!(controller.allocate_producer_id().await.unwrap() > 4321 + 900_000);
        for (other, words) in [(partition("a", 0, 7, 0), "id AAAAAAAAAAAAAAAAAAAABw"), (partition("a", 3, 5, 0), "4 partitions")] {
            let error = register(Adoption { partitions: [other].into_iter().collect(), max_producer_id: -1 }).await.unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
        let error = adoption::register(&rt, &session(&rt, &coordination).await, 1, Some("other"), 1 << 20, &found).await.unwrap_err();
        assert!(matches!(error, StartError::InconsistentClusterId { .. }), "{error}");
    });
}
