//! Several brokers on one tree, and others that write to it: elections, expired sessions, ghosts, Kafka's tools.

use std::path::PathBuf;

use kafka_protocol::error::ResponseError;
use tempfile::TempDir;

use super::configs::AlterOperation;
use super::configs::tests::TestRules;
use super::image::{Endpoint, PartitionImage};
use super::troubles::Trouble;
use super::*;
use crate::coordination::Coordination;
use crate::coordination::client::{Connector, Options};
use crate::coordination::op::{ANY_VERSION, CreateMode, Operation};
use crate::coordination::server::{Server, ServerConfig};
use crate::runtime::tokio::{TokioRuntime, run};

fn with_tree<F, Fut>(body: F)
where
    F: FnOnce(Tree) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path: PathBuf = dir.path().join("coordination");
    run(2, move |rt| async move {
        let coordination = Coordination::open(rt.clone(), &path).await.unwrap();
        body(Tree { rt, coordination }).await;
    })
    .unwrap();
}

/// A tree that several brokers share.
#[derive(Clone)]
struct Tree {
    rt: TokioRuntime,
    coordination: Coordination<TokioRuntime>,
}

/// A broker on it.
struct Node {
    session: Session<TokioRuntime>,
    controller: Controller<TokioRuntime>,
}

fn config(id: i32, directory: u128) -> ControllerConfig {
    let address = format!("host{id}:9092").parse().unwrap();
    let endpoint = Endpoint { listener: "PLAINTEXT".into(), security_protocol: "PLAINTEXT".into(), address };
    ControllerConfig {
        broker: BrokerInfo { id, epoch: -1, endpoints: vec![endpoint], rack: None, directory_ids: vec![Uuid::from_u128(directory)] },
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
    Options { session_timeout: Duration::from_millis(100), max_in_flight: 10, request_max_bytes: 1 << 20 }
}

impl Tree {
    /// A session of another process: it ends when somebody ends it.
    async fn session(&self) -> Session<TokioRuntime> {
        let server = Server::in_process(self.coordination.clone(), ServerConfig::default());
        let connector = Connector::Own(Arc::new(move || server.pipe(true)));
        Session::connect(self.rt.clone(), connector, options(), Duration::from_secs(60)).await.unwrap()
    }

    async fn start(&self, config: ControllerConfig) -> Result<Node, StartError> {
        let session = self.session().await;
        let controller = Controller::start(self.rt.clone(), session.clone(), config).await?;
        Ok(Node { session, controller })
    }

    async fn broker(&self, id: i32) -> Node {
        self.start(config(id, id as u128)).await.unwrap()
    }

    /// The session ends at the service, as when its process was silent for too long.
    async fn expire(&self, node: &Node) {
        self.coordination.with_session(node.session.id()).close_session().await.unwrap();
    }

    async fn create(&self, path: &str, data: &str) {
        self.coordination.create(path, data.to_owned(), CreateMode::Persistent).await.unwrap();
    }
}

impl Node {
    async fn sees(&self, what: impl FnMut(&Arc<MetadataImage>) -> bool) -> Arc<MetadataImage> {
        self.controller.subscribe().wait_for(what).await.unwrap().clone()
    }

    async fn create(&self, name: &str, replicas: &[i32]) -> Result<CreatedTopic, ApiError> {
        let assignments = replicas.iter().zip(0..).map(|(replica, number)| (number, vec![*replica])).collect();
        self.controller.create_topics(vec![NewTopic { assignments, ..NewTopic::named(name) }], false).await.remove(0)
    }
}

fn leader(image: &MetadataImage, topic: &str, number: i32) -> (i32, i32) {
    image.partition(topic, number).map_or((-2, -2), |partition: &PartitionImage| (partition.leader, partition.leader_epoch))
}

#[test]
fn one_broker_is_the_controller_and_the_others_follow() {
    with_tree(|tree| async move {
        let one = tree.broker(1).await;
        let two = tree.broker(2).await;
        one.sees(|image| image.brokers.len() == 2).await;
        assert_eq!((two.controller.image().controller_id, two.controller.image().brokers.len()), (1, 2));
        assert_eq!(two.create("t", &[1]).await.unwrap_err().code, ResponseError::NotController);
        one.create("t", &[1, 2]).await.unwrap();
        let image = two.sees(|image| leader(image, "t", 1) == (2, 0)).await;
        assert_eq!(leader(&image, "t", 0), (1, 0));
        assert_eq!(image.topics, one.controller.image().topics);
        let set = vec![Alteration { name: "retention.ms".into(), operation: AlterOperation::Set, value: Some("9".into()) }];
        let resource = ConfigResource::Topic("t".into());
        assert_eq!(
            two.controller.incremental_alter_configs(vec![(resource.clone(), set.clone())], false).await[0].as_ref().unwrap_err().code,
            ResponseError::NotController
        );
        one.controller.incremental_alter_configs(vec![(resource, set)], false).await.remove(0).unwrap();
        two.sees(|image| image.topic("t").is_some_and(|topic| topic.config.get("retention.ms").is_some_and(|value| value == "9"))).await;
        let grow = vec![NewPartitions { name: "t".into(), count: 3, assignments: Some(vec![vec![2]]) }];
        one.controller.create_partitions(grow, false).await.remove(0).unwrap();
        two.sees(|image| leader(image, "t", 2) == (2, 0)).await;
        one.controller.delete_topics(vec![TopicSelector::Name("t".into())]).await.remove(0).unwrap();
        two.sees(|image| image.topics.is_empty()).await;
        let ids = [one.controller.allocate_producer_id().await.unwrap(), two.controller.allocate_producer_id().await.unwrap()];
        assert_eq!(ids, [0, 1_000], "each has a block of its own");
    });
}

#[test]
fn another_broker_takes_over_and_the_leader_that_comes_back_leads_in_a_greater_epoch() {
    with_tree(|tree| async move {
        let one = tree.broker(1).await;
        let two = tree.broker(2).await;
        one.sees(|image| image.brokers.len() == 2).await;
        one.create("t", &[1, 2]).await.unwrap();
        two.sees(|image| image.topics.len() == 1).await;
        one.controller.shutdown().await;
        let image = two.sees(|image| image.controller_id == 2 && leader(image, "t", 0) == (-1, 1)).await;
        assert_eq!((image.controller_epoch, leader(&image, "t", 1), image.brokers.len()), (2, (2, 0), 1));
        assert_eq!(image.partition("t", 0).unwrap().isr, [1], "only what was in sync may lead");
        let one = tree.broker(1).await;
        let image = two.sees(|image| leader(image, "t", 0) == (1, 2)).await;
        assert_eq!(image.brokers[&1].epoch, tree.coordination.exists("/brokers/ids/1").await.unwrap().unwrap().czxid);
        one.sees(|image| image.controller_id == 2 && leader(image, "t", 0) == (1, 2)).await;
        two.create("u", &[1]).await.unwrap();
        one.sees(|image| leader(image, "u", 0) == (1, 0)).await;
    });
}

#[test]
fn a_broker_whose_session_expired_registers_again_and_contends_again() {
    with_tree(|tree| async move {
        let one = tree.broker(1).await;
        one.create("t", &[1]).await.unwrap();
        let before = one.controller.image();
        tree.expire(&one).await;
        let after = one.sees(|image| image.controller_epoch == 2 && image.controller_id == 1).await;
        assert!(after.brokers[&1].epoch > before.brokers[&1].epoch);
        assert_eq!((leader(&before, "t", 0), leader(&after, "t", 0)), ((1, 0), (1, 1)));
        one.create("u", &[1]).await.unwrap();
        one.controller.allocate_producer_id().await.unwrap();
        // While its session is gone another one is elected: the old one must not write, and must give way.
        let two = tree.broker(2).await;
        let own = tree.coordination.get("/controller").await.unwrap().stat.ephemeral_owner;
        tree.coordination.with_session(own).close_session().await.unwrap();
        let image = two.sees(|image| image.controller_epoch == 3 && image.controller_id != -1 && image.brokers.len() == 2).await;
        let image = one.sees(|seen| (seen.controller_id, seen.controller_epoch) == (image.controller_id, 3)).await;
        let (controller, other) = if image.controller_id == 1 { (&one, &two) } else { (&two, &one) };
        assert_eq!(other.create("v", &[1]).await.unwrap_err().code, ResponseError::NotController);
        controller.create("v", &[1]).await.unwrap();
    });
}

#[test]
fn a_controllership_that_is_taken_away_is_contended_for_again() {
    with_tree(|tree| async move {
        let one = tree.broker(1).await;
        tree.coordination.delete("/controller", ANY_VERSION).await.unwrap();
        one.sees(|image| (image.controller_id, image.controller_epoch) == (1, 2)).await;
        one.create("t", &[1]).await.unwrap();
        // A registration that somebody deletes comes again.
        let epoch = one.controller.image().brokers[&1].epoch;
        tree.coordination.delete("/brokers/ids/1", ANY_VERSION).await.unwrap();
        one.sees(|image| image.brokers.get(&1).is_some_and(|broker| broker.epoch > epoch)).await;
    });
}

#[test]
fn what_kafkas_tools_write_is_heeded() {
    with_tree(|tree| async move {
        let one = tree.broker(1).await;
        // A topic as 2013's tool writes it: without an id, and the rest is the controller's.
        tree.create("/config/topics/old", r#"{"version":1,"config":{"retention.ms":"4"}}"#).await;
        tree.create("/brokers/topics/old", r#"{"version":1,"partitions":{"0":[1],"1":[1]}}"#).await;
        let image = one.sees(|image| leader(image, "old", 1) == (1, 0)).await;
        let topic = image.topic("old").unwrap().clone();
        assert_eq!((topic.config["retention.ms"].as_str(), topic.id.is_nil()), ("4", false));
        // Partitions added by a tool that knows no ids.
        tree.coordination.set("/brokers/topics/old", r#"{"version":1,"partitions":{"0":[1],"1":[1],"2":[1]}}"#, ANY_VERSION).await.unwrap();
        let image = one.sees(|image| leader(image, "old", 2) == (1, 0)).await;
        assert_eq!(image.topic("old").unwrap().id, topic.id);
        // Settings, with the notice.
        tree.coordination.set("/config/topics/old", r#"{"version":1,"config":{"retention.ms":"5"}}"#, ANY_VERSION).await.unwrap();
        let notice = r#"{"version":2,"entity_path":"topics/old"}"#;
        tree.coordination.create("/config/changes/config_change_", notice, CreateMode::PersistentSequential).await.unwrap();
        one.sees(|image| image.topic("old").is_some_and(|topic| topic.config["retention.ms"] == "5")).await;
        tree.create("/admin/delete_topics/old", "").await;
        one.sees(|image| image.topics.is_empty()).await;
        one.create("after", &[1]).await.unwrap();
        assert_eq!(tree.coordination.exists("/brokers/topics/old").await.unwrap(), None);
        assert!(tree.coordination.children("/admin/delete_topics").await.unwrap().0.is_empty());
    });
}

/// The partition `t-0` on these brokers.
async fn replicated(node: &Node, replicas: &[i32]) {
    let topic = NewTopic { assignments: vec![(0, replicas.to_vec())], ..NewTopic::named("t") };
    node.controller.create_topics(vec![topic], false).await.remove(0).unwrap();
}

fn trouble(trouble: Trouble) -> BrokerTroubles {
    BrokerTroubles { missing: Vec::new(), replicas: [((Arc::from("t"), 0), trouble)].into() }
}

#[test]
fn what_a_broker_says_of_its_replicas_is_heeded_by_every_controller() {
    with_tree(|tree| async move {
        let (one, two, three) = (tree.broker(1).await, tree.broker(2).await, tree.broker(3).await);
        one.sees(|image| image.brokers.len() == 3).await;
        replicated(&one, &[1, 2, 3]).await;
        // The leader has no room: it hands over, also if it is the controller itself.
        one.controller.tell_troubles(&trouble(Trouble::Full)).await.unwrap();
        let image = three.sees(|image| leader(image, "t", 0) == (2, 1)).await;
        assert_eq!(image.partition("t", 0).unwrap().isr, [2, 3]);
        two.controller.tell_troubles(&trouble(Trouble::Offline)).await.unwrap();
        let image = three.sees(|image| leader(image, "t", 0) == (3, 2)).await;
        assert_eq!(image.partition("t", 0).unwrap().isr, [3]);
        three.controller.tell_troubles(&trouble(Trouble::Offline)).await.unwrap();
        let image = three.sees(|image| leader(image, "t", 0) == (-1, 3)).await;
        assert_eq!(image.partition("t", 0).unwrap().isr, [3], "its disk may come back");
        // Another controller knows it too.
        one.controller.shutdown().await;
        two.sees(|image| image.brokers.len() == 2 && image.controller_id > 1).await;
        assert!(two.controller.catch_up(Duration::from_secs(60)).await);
        assert_eq!(leader(&two.controller.image(), "t", 0), (-1, 3));
        three.controller.tell_troubles(&BrokerTroubles::default()).await.unwrap();
        two.sees(|image| leader(image, "t", 0) == (3, 4)).await;
        assert_eq!(tree.coordination.exists("/ottla/offline/3").await.unwrap(), None);
    });
}

#[test]
fn replicas_of_a_missing_directory_are_not_taken_for_empty() {
    with_tree(|tree| async move {
        let ids = [Uuid::from_u128(1 << 64 | 2), Uuid::from_u128(1 << 64 | 22)];
        let with = |ids: &[Uuid]| ControllerConfig { broker: BrokerInfo { directory_ids: ids.to_vec(), ..config(2, 2).broker }, ..config(2, 2) };
        let one = tree.broker(1).await;
        let two = tree.start(with(&ids)).await.unwrap();
        one.sees(|image| image.brokers.len() == 2).await;
        one.create("t", &[2, 2, 1]).await.unwrap();
        two.controller.shutdown().await;
        one.sees(|image| leader(image, "t", 0).0 == -1).await;
        // The log of the first partition is there, that of the second one was in the other directory.
        let session = tree.session().await;
        let look = |present: &'static [usize], is_one_down| {
            let (session, present): (_, Vec<Uuid>) = (session.clone(), present.iter().map(|at| ids[*at]).collect());
            async move { missing_replicas(&session, 2, &present, is_one_down, |_, number| number == 0).await.unwrap() }
        };
        let told = |trouble| BrokerTroubles { missing: vec![ids[1]], replicas: [((Arc::from("t"), 1), trouble)].into() };
        assert_eq!(look(&[0, 1], false).await, BrokerTroubles::default());
        assert_eq!(look(&[0], true).await, told(Trouble::Offline));
        // A life without it: the tree knows one directory only, and the broker's word of the other one stays.
        let two = tree.start(with(&ids[..1])).await.unwrap();
        let image = one.sees(|image| leader(image, "t", 0).0 == 2).await;
        assert_eq!(leader(&image, "t", 1).0, -1);
        two.controller.shutdown().await;
        assert_eq!(look(&[0], true).await, told(Trouble::Offline), "at its next start, too");
        assert_eq!(look(&[0], false).await, told(Trouble::Lost), "another disk is in its place");
        let _two = tree.start(with(&ids[..1])).await.unwrap();
        let image = one.sees(|image| leader(image, "t", 0).0 == 2).await;
        let lost = image.partition("t", 1).unwrap();
        assert_eq!((lost.leader, lost.isr.len()), (-1, 0), "what only it had is gone");
    });
}

#[test]
fn an_unclean_election_is_held_as_soon_as_it_is_allowed() {
    with_tree(|tree| async move {
        let (one, two) = (tree.broker(1).await, tree.broker(2).await);
        one.sees(|image| image.brokers.len() == 2).await;
        replicated(&one, &[2, 1]).await;
        one.controller.tell_troubles(&trouble(Trouble::Offline)).await.unwrap();
        one.sees(|image| image.partition("t", 0).is_some_and(|partition| partition.isr == [2])).await;
        two.controller.shutdown().await;
        one.controller.tell_troubles(&BrokerTroubles::default()).await.unwrap();
        one.sees(|image| leader(image, "t", 0) == (-1, 1)).await;
        tree.coordination.set("/config/topics/t", r#"{"version":1,"config":{"unclean.leader.election.enable":"true"}}"#, ANY_VERSION).await.unwrap();
        let notice = r#"{"version":2,"entity_path":"topics/t"}"#;
        tree.coordination.create("/config/changes/config_change_", notice, CreateMode::PersistentSequential).await.unwrap();
        one.sees(|image| leader(image, "t", 0) == (1, 2)).await;
    });
}

#[test]
fn who_has_caught_up_knows_what_was_made_before() {
    with_tree(|tree| async move {
        let (one, two) = (tree.broker(1).await, tree.broker(2).await);
        one.sees(|image| image.brokers.len() == 2).await;
        for number in 0..20 {
            let name = format!("t{number}");
            one.create(&name, &[2]).await.unwrap();
            assert!(two.controller.catch_up(Duration::from_secs(60)).await);
            assert_eq!(leader(&two.controller.image(), &name, 0), (2, 0));
        }
    });
}

#[test]
fn a_registration_of_others_that_cannot_be_read_is_left_alone() {
    with_tree(|tree| async move {
        let other = tree.session().await;
        for path in ["/brokers", "/brokers/ids"] {
            other.create(path, "", CreateMode::Persistent).await.unwrap();
        }
        other.create("/brokers/ids/7", "what is this", CreateMode::Ephemeral).await.unwrap();
        let old = r#"{"jmx_port":-1,"timestamp":"1","host":"old","version":1,"port":9093,"unknown":[1]}"#;
        other.create("/brokers/ids/8", old, CreateMode::Ephemeral).await.unwrap();
        let one = tree.broker(1).await;
        let image = one.controller.image();
        assert_eq!(image.brokers.keys().copied().collect::<Vec<_>>(), [1, 8]);
        assert_eq!(image.brokers[&8].endpoints[0].address.to_string(), "old:9093");
        assert_eq!(&*tree.coordination.get("/brokers/ids/7").await.unwrap().data, b"what is this");
    });
}

#[test]
fn a_ghost_gives_way_at_once_and_another_broker_is_waited_for_and_named() {
    with_tree(|tree| async move {
        // The process is gone; its session is not.
        let ghost = tree.session().await;
        registration::create_persistent(&ghost).await.unwrap();
        let epoch = registration::register(&tree.rt, &ghost, &config(1, 1)).await.unwrap().0.epoch;
        let one = tree.session().await;
        let (broker, reign) = registration::register(&tree.rt, &one, &config(1, 1)).await.unwrap();
        assert!(broker.epoch > epoch);
        assert_eq!(reign.map(|reign| reign.epoch), Some(2), "its controllership goes with it");
        for path in ["/brokers/ids/1", "/controller"] {
            assert_eq!(tree.coordination.exists(path).await.unwrap().unwrap().ephemeral_owner, one.id());
        }
        assert_ne!(ghost.id(), one.id());
        let error = tree.start(config(1, 99)).await.map(drop).unwrap_err();
        assert!(matches!(&error, StartError::Held { path, holder } if path == "/brokers/ids/1" && holder.contains("host1")), "{error}");
        let waiting = tree.start(config(1, 99));
        let ended = async {
            tree.coordination.with_session(one.id()).close_session().await.unwrap();
            std::future::pending::<()>().await;
        };
        let started = tokio::select! {
            biased;
            started = waiting => started,
            () = ended => unreachable!("it waits for ever"),
        };
        assert_eq!(started.unwrap().controller.image().controller_epoch, 3);
    });
}

#[test]
fn a_tree_that_is_emptied_deletes_no_topic() {
    with_tree(|tree| async move {
        let one = tree.broker(1).await;
        let topic = one.create("t", &[1]).await.unwrap().topic;
        let cluster = tree.coordination.get("/cluster/id").await.unwrap().data;
        let mut contents = Vec::new();
        for rest in ["", "/partitions", "/partitions/0", "/partitions/0/state"] {
            let path = format!("/brokers/topics/t{rest}");
            contents.push((path.clone(), tree.coordination.get(&path).await.unwrap().data));
        }
        let mut doomed = vec![Operation::delete("/cluster/id", ANY_VERSION)];
        let paths = ["/partitions/0/state", "/partitions/0", "/partitions", ""];
        doomed.extend(paths.iter().map(|rest| Operation::delete(format!("/brokers/topics/t{rest}"), ANY_VERSION)));
        tree.coordination.multi(doomed).await.unwrap();
        // It comes back, with what was in it: the topic is the one that it was, and was never gone.
        let mut restored = vec![Operation::create("/cluster/id", cluster), Operation::create("/brokers/topics/x", r#"{"version":1,"partitions":{"0":[1]}}"#)];
        restored.extend(contents.into_iter().map(|(path, data)| Operation::create(path, data)));
        tree.coordination.multi(restored).await.unwrap();
        let image = one.sees(|image| image.topic("x").is_some()).await;
        assert!(Arc::ptr_eq(image.topic("t").unwrap(), &topic));
    });
}
