//! A simulated administrator of replicas: moves partitions to other brokers, takes that back, and has preferred leaders elected. What comes of it is for those to judge
//! who look at the partitions.

use std::time::Duration;

use kafka_protocol::messages::alter_partition_reassignments_request::{ReassignablePartition, ReassignableTopic};
use kafka_protocol::messages::elect_leaders_request::TopicPartitions;
use kafka_protocol::messages::{AlterPartitionReassignmentsRequest, BrokerId, ElectLeadersRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla::runtime::Runtime;

use super::history::Place;
use super::link::{Goal, Link};

/// How a mover behaves.
#[derive(Clone, Debug)]
pub struct Habit {
    /// Longest pause between two actions.
    pub max_pause_ms: u64,
}

const CALL: Duration = Duration::from_secs(20);

fn topic_name(name: &str) -> TopicName {
    TopicName(StrBytes::from_string(name.to_owned()))
}

/// Works until the safety phase ends.
pub async fn run<R: Runtime>(mut link: Link<R>, habit: Habit) {
    while link.shared.begins() {
        link.pause(habit.max_pause_ms / 10, habit.max_pause_ms).await;
        let place = link.shared.draw_place(&mut link.stream);
        link.go_for(Goal::Controller);
        let is_refused = match link.stream.below(5) {
            0 | 1 => elect(&mut link, &place).await,
            2 => reassign(&mut link, &place, None).await,
            _ => {
                let replicas = draw_replicas(&mut link, &place);
                reassign(&mut link, &place, Some(replicas)).await
            }
        };
        if is_refused {
            link.forget_goal();
        }
    }
}

/// As many brokers as the topic has replicas, in any order.
fn draw_replicas<R: Runtime>(link: &mut Link<R>, place: &Place) -> Vec<BrokerId> {
    let mut ids: Vec<i32> = (1..=link.shared.bootstrap.len() as i32).collect();
    let count = usize::try_from(link.shared.replication_factor(&place.0)).unwrap_or(1);
    let mut drawn = Vec::new();
    while drawn.len() < count && !ids.is_empty() {
        let index = link.stream.index(ids.len());
        drawn.push(BrokerId(ids.swap_remove(index)));
    }
    drawn
}

async fn elect<R: Runtime>(link: &mut Link<R>, place: &Place) -> bool {
    let partitions = TopicPartitions::default().with_topic(topic_name(&place.0)).with_partitions(vec![place.1]);
    let request = ElectLeadersRequest::default().with_election_type(0).with_topic_partitions(Some(vec![partitions])).with_timeout_ms(10_000);
    link.call(2, &request, CALL).await.is_ok_and(|response| response.error_code != 0)
}

async fn reassign<R: Runtime>(link: &mut Link<R>, place: &Place, replicas: Option<Vec<BrokerId>>) -> bool {
    let partition = ReassignablePartition::default().with_partition_index(place.1).with_replicas(replicas);
    let topic = ReassignableTopic::default().with_name(topic_name(&place.0)).with_partitions(vec![partition]);
    let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    link.call(0, &request, CALL).await.is_ok_and(|response| response.error_code != 0)
}
