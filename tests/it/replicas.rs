//! Three brokers in one process, over real sockets and files, commanded by LeaderAndIsr requests that this test makes by hand: it is the controller.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kafka_protocol::ResponseError;
use ottla::broker::Broker;
use ottla::config::broker::BrokerConfig;
use ottla::log::{EpochCache, Log};
use ottla::replication::leader::Outcome;
use ottla::replication::partition::{IsrProposal, Partition};
use ottla::runtime::tokio::TokioRuntime;
use ottla::wire::control::{
    EPOCH_DURING_DELETE, LeaderAndIsrPartition, LeaderAndIsrRequest, LeaderAndIsrTopic, LiveLeader, Sender, StopPartition, StopReplicaRequest, StopReplicaTopic,
};
use tokio::sync::mpsc::UnboundedReceiver;
use uuid::Uuid;

use super::process::{block_on, temp_dir};
use super::traffic::{self, Conn, REQUEST};

const TOPIC: &str = "orders";
/// How long anything may take before the test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A lag that no test lives to see.
const NEVER: u32 = 3_600_000;

struct Node {
    home: tempfile::TempDir,
    broker: Arc<Broker<TokioRuntime>>,
    epoch: i64,
    proposals: UnboundedReceiver<IsrProposal>,
}

/// The partition's state as the controller has it.
#[derive(Clone, Debug)]
struct State {
    leader: i32,
    leader_epoch: i32,
    partition_epoch: i32,
    isr: Vec<i32>,
}

struct Cluster {
    nodes: BTreeMap<i32, Node>,
    state: State,
    next_epoch: i64,
    lag_ms: u32,
}

async fn start(home: &std::path::Path, id: i32, lag_ms: u32) -> Arc<Broker<TokioRuntime>> {
    let options = [
        format!("broker.id={id}"),
        "listeners=PLAINTEXT://127.0.0.1:0".to_owned(),
        format!("log.dirs={}", home.display()),
        "min.insync.replicas=2".to_owned(),
        format!("replica.lag.time.max.ms={lag_ms}"),
        "replica.fetch.wait.max.ms=100".to_owned(),
        "replica.fetch.backoff.ms=20".to_owned(),
    ];
    let config = BrokerConfig::from_text("", "", &options).unwrap();
    let broker = Broker::start(TokioRuntime::new(), config, "localhost").await.unwrap();
    broker.obey_orders();
    broker
}

impl Cluster {
    /// Followers that do not show themselves for `lag_ms` leave.
    async fn new(lag_ms: u32) -> Self {
        let mut nodes = BTreeMap::new();
        for id in 1..=3 {
            let home = temp_dir();
            let broker = start(home.path(), id, lag_ms).await;
            let proposals = broker.replicas().take_proposals();
            broker.replicas().set_broker_epoch(i64::from(id));
            nodes.insert(id, Node { home, broker, epoch: i64::from(id), proposals });
        }
        let state = State { leader: 1, leader_epoch: 0, partition_epoch: 0, isr: vec![1, 2, 3] };
        Self { nodes, state, next_epoch: 10, lag_ms }
    }

    async fn connect(&self, id: i32) -> Conn {
        traffic::connect(self.nodes[&id].broker.bound()[0].port).await
    }

    fn sender(&self, id: i32) -> Sender {
        Sender { controller_id: 9, is_kraft: false, controller_epoch: 1, broker_epoch: self.nodes[&id].epoch }
    }

    /// Orders one broker what the state is; the error codes of the whole and of the partition.
    async fn order(&self, id: i32) -> (i16, Option<i16>) {
        let State { leader, leader_epoch, partition_epoch, isr } = self.state.clone();
        let replicas = vec![1, 2, 3];
        let partition = LeaderAndIsrPartition { controller_epoch: 1, leader, leader_epoch, isr, partition_epoch, replicas, ..LeaderAndIsrPartition::default() };
        let live_leaders =
            self.nodes.iter().map(|(id, node)| LiveLeader { broker_id: *id, host: "127.0.0.1".to_owned(), port: i32::from(node.broker.bound()[0].port) });
        let request = LeaderAndIsrRequest {
            sender: self.sender(id),
            kind: 1,
            topics: vec![LeaderAndIsrTopic { name: TOPIC.to_owned(), id: Uuid::from_u128(77), partitions: vec![partition] }],
            live_leaders: live_leaders.collect(),
        };
        let answer = self.connect(id).await.call_at(7, &request, REQUEST).await.unwrap();
        (answer.error_code, answer.topics.first().map(|topic| topic.partitions[0].1))
    }

    async fn order_ok(&self, ids: &[i32]) {
        for id in ids {
            assert_eq!(self.order(*id).await, (0, Some(0)), "broker {id} obeys");
        }
    }

    fn replica(&self, id: i32) -> Arc<Partition<TokioRuntime>> {
        self.nodes[&id].broker.replicas().partition(TOPIC, 0).unwrap()
    }

    fn log(&self, id: i32) -> Log<TokioRuntime> {
        self.replica(id).log().clone()
    }

    fn bytes(&self, id: i32) -> Vec<u8> {
        fs::read(self.nodes[&id].home.path().join(format!("{TOPIC}-0/00000000000000000000.log"))).unwrap()
    }

    /// Takes the leader's next proposal, which must be for these replicas, and writes it.
    async fn accept(&mut self, isr: &[i32]) {
        let leader = self.state.leader;
        let node = self.nodes.get_mut(&leader).unwrap();
        let proposed = tokio::time::timeout(PATIENCE, node.proposals.recv()).await.expect("a proposal").unwrap();
        let ids: Vec<i32> = proposed.proposal.isr.keys().copied().collect();
        assert_eq!(ids, isr);
        assert_eq!((proposed.proposal.leader_epoch, proposed.proposal.partition_epoch), (self.state.leader_epoch, self.state.partition_epoch));
        for id in isr.iter().filter(|id| **id != leader && !self.state.isr.contains(id)) {
            assert_eq!(proposed.proposal.isr[id], self.nodes[id].epoch, "who joins is named with its broker epoch");
        }
        self.state.isr = ids.clone();
        self.state.partition_epoch += 1;
        let outcome = Outcome::State { leader_epoch: self.state.leader_epoch, partition_epoch: self.state.partition_epoch, isr: ids };
        self.replica(leader).proposal_answered(&proposed.proposal, outcome);
    }

    fn elect(&mut self, leader: i32, isr: &[i32]) {
        self.state = State { leader, leader_epoch: self.state.leader_epoch + 1, partition_epoch: self.state.partition_epoch + 1, isr: isr.to_vec() };
    }

    async fn restart(&mut self, id: i32) {
        self.next_epoch += 1;
        let epoch = self.next_epoch;
        let node = self.nodes.get_mut(&id).unwrap();
        node.broker.shutdown().await;
        node.broker = start(node.home.path(), id, self.lag_ms).await;
        node.proposals = node.broker.replicas().take_proposals();
        node.broker.replicas().set_broker_epoch(epoch);
        node.epoch = epoch;
    }

    /// Waits, without sleeping, until `done`; fails if that lasts.
    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !done(self) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never came to pass: {what}"));
    }

    async fn shutdown(self) {
        for node in self.nodes.values() {
            node.broker.shutdown().await;
        }
    }
}

fn code(error: ResponseError) -> i16 {
    error.code()
}

/// Produces one record; the error code and the offset.
async fn produce(connection: &Conn, value: &str, acks: i16, timeout_ms: i32) -> (i16, i64) {
    let mut request = traffic::produce_request(TOPIC, 0, traffic::batch(&[value]), acks);
    request.timeout_ms = timeout_ms;
    let response = connection.call_at(traffic::produce_version(connection), &request, REQUEST).await.unwrap();
    traffic::produced(&response)
}

#[test]
fn records_outlive_their_leader_and_its_tail_does_not() {
    block_on(async {
        let mut cluster = Cluster::new(NEVER).await;
        cluster.order_ok(&[1, 2, 3]).await;
        assert_eq!(cluster.order(1).await, (0, Some(0)), "the same order again is none");
        let first = cluster.connect(1).await;
        for number in 0..20 {
            assert_eq!(produce(&first, &format!("record {number}"), -1, 30_000).await, (0, number));
        }
        // Acknowledged by all is on the disk of all.
        for id in 1..=3 {
            assert_eq!((cluster.log(id).log_end_offset(), cluster.log(id).durable_end_offset()), (20, 20), "broker {id}");
        }
        let second = cluster.connect(2).await;
        assert_eq!(produce(&second, "to a follower", -1, 30_000).await.0, code(ResponseError::NotLeaderOrFollower));
        assert_eq!(traffic::range(&first, TOPIC, 0).await, Ok((0, 20)));
        assert_eq!(traffic::range(&second, TOPIC, 0).await, Err(code(ResponseError::NotLeaderOrFollower)));

        // Broker 2 is elected, and broker 1 does not hear of it: what it takes now nobody else has.
        cluster.elect(2, &[2, 3]);
        cluster.order_ok(&[2, 3]).await;
        assert_eq!(produce(&first, "on one disk", 1, 30_000).await, (0, 20));
        assert_eq!(produce(&first, "never committed", -1, 200).await.0, code(ResponseError::RequestTimedOut));
        assert_eq!(cluster.replica(1).high_watermark(), 20, "nothing of it is committed");
        for number in 20..25 {
            assert_eq!(produce(&second, &format!("the other's record {number}"), -1, 30_000).await, (0, number));
        }

        // It comes back, follows, and has the same log as the others, byte for byte.
        cluster.restart(1).await;
        let stale = cluster.nodes[&1].epoch;
        cluster.nodes.get_mut(&1).unwrap().epoch = 1;
        assert_eq!(cluster.order(1).await, (code(ResponseError::StaleBrokerEpoch), None), "an order for its former life");
        cluster.nodes.get_mut(&1).unwrap().epoch = stale;
        cluster.order_ok(&[1]).await;
        cluster.until("broker 1 has caught up", |cluster| cluster.log(1).durable_end_offset() == 25).await;
        assert_eq!(cluster.bytes(1), cluster.bytes(2));
        assert_eq!(cluster.bytes(3), cluster.bytes(2));
        let lineage = |id: i32| -> EpochCache { cluster.log(id).epochs() };
        assert_eq!(lineage(1), lineage(2));
        cluster.accept(&[1, 2, 3]).await;
        assert_eq!(produce(&second, "on all three", -1, 30_000).await, (0, 25));
        assert_eq!(cluster.log(1).durable_end_offset(), 26);
        cluster.shutdown().await;
    });
}

#[test]
fn replicas_that_fall_behind_leave_and_too_few_are_told() {
    block_on(async {
        let mut cluster = Cluster::new(6_000).await;
        cluster.order_ok(&[1, 2, 3]).await;
        let first = cluster.connect(1).await;
        assert_eq!(produce(&first, "on three", -1, 30_000).await, (0, 0));
        // Broker 3 is no longer to have the replica; then, late, comes an order of an earlier epoch.
        let stop = |sender, leader_epoch, delete| StopReplicaRequest {
            sender,
            topics: vec![StopReplicaTopic { name: TOPIC.to_owned(), partitions: vec![StopPartition { partition: 0, leader_epoch, delete }] }],
        };
        let third = cluster.connect(3).await;
        let answer = third.call_at(4, &stop(cluster.sender(3), EPOCH_DURING_DELETE, true), REQUEST).await.unwrap();
        assert_eq!((answer.error_code, answer.topics[0].partitions[0].1), (0, 0));
        assert!(cluster.nodes[&3].broker.replicas().partition(TOPIC, 0).is_none());
        // The record waits for the replica that is gone, until it leaves the in-sync ones.
        let waiting = produce(&first, "on two", -1, 30_000);
        let (answered, ()) = tokio::join!(waiting, cluster.accept(&[1, 2]));
        assert_eq!(answered, (0, 1));
        // The second stands still: the leader alone is too few.
        cluster.elect(1, &[1, 2]);
        cluster.order_ok(&[1, 2]).await;
        let second = cluster.connect(2).await;
        let answer = second.call_at(4, &stop(cluster.sender(2), 0, false), REQUEST).await.unwrap();
        assert_eq!(answer.topics[0].partitions[0].1, code(ResponseError::FencedLeaderEpoch), "a late stop");
        let answer = second.call_at(4, &stop(cluster.sender(2), cluster.state.leader_epoch, false), REQUEST).await.unwrap();
        assert_eq!(answer.topics[0].partitions[0].1, 0);
        let waiting = produce(&first, "on one", -1, 1_000);
        let (answered, ()) = tokio::join!(waiting, async {
            cluster.accept(&[1]).await;
        });
        // In sync is one, too few: nothing is committed any more, and nothing taken for acks=all.
        assert_eq!(answered.0, code(ResponseError::RequestTimedOut));
        assert_eq!(produce(&first, "refused", -1, 30_000).await.0, code(ResponseError::NotEnoughReplicas));
        assert_eq!(produce(&first, "on one, as asked", 1, 30_000).await.0, 0);
        cluster.shutdown().await;
    });
}

#[test]
fn a_new_leader_tells_no_high_watermark_that_it_cannot_prove() {
    block_on(async {
        let mut cluster = Cluster::new(NEVER).await;
        cluster.order_ok(&[1, 2, 3]).await;
        let first = cluster.connect(1).await;
        for number in 0..3 {
            assert_eq!(produce(&first, "x", -1, 30_000).await, (0, number));
        }
        // The third stands still: what comes now reaches the second, and is not committed.
        let third = cluster.connect(3).await;
        let stop = StopReplicaRequest {
            sender: cluster.sender(3),
            topics: vec![StopReplicaTopic { name: TOPIC.to_owned(), partitions: vec![StopPartition { partition: 0, leader_epoch: 0, delete: false }] }],
        };
        assert_eq!(third.call_at(4, &stop, REQUEST).await.unwrap().topics[0].partitions[0].1, 0);
        assert_eq!(produce(&first, "x", 1, 30_000).await, (0, 3));
        cluster.until("the second has it", |cluster| cluster.log(2).log_end_offset() == 4).await;
        // Elected, it does not know what the others have of it.
        cluster.elect(2, &[1, 2, 3]);
        cluster.order_ok(&[2]).await;
        let second = cluster.connect(2).await;
        assert!(cluster.replica(2).high_watermark() <= 3);
        assert_eq!(traffic::range(&second, TOPIC, 0).await, Err(code(ResponseError::OffsetNotAvailable)));
        cluster.order_ok(&[1, 3]).await;
        cluster.until("the high watermark is proven", |cluster| cluster.replica(2).proven_high_watermark() == Some(4)).await;
        assert_eq!(traffic::range(&second, TOPIC, 0).await, Ok((0, 4)));
        let read: Bytes = {
            let request = traffic::fetch_request(TOPIC, 0, 0, 1 << 20, 0);
            let response = second.call_at(12, &request, REQUEST).await.unwrap();
            traffic::fetched(&response).records.clone().unwrap()
        };
        assert_eq!(&read[..], &cluster.bytes(1)[..]);
        cluster.shutdown().await;
    });
}
