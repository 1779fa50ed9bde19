//! Proposals of in-sync replicas as AlterPartition requests (KIP-497, KIP-903), and what their answers mean. Pure: whoever knows the controller sends them.

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::alter_partition_request::{BrokerState, PartitionData, TopicData};
use kafka_protocol::messages::alter_partition_response::PartitionData as Answered;
use kafka_protocol::messages::{AlterPartitionRequest, AlterPartitionResponse, BrokerId};
use uuid::Uuid;

use super::leader::Outcome;
use super::partition::IsrProposal;

/// The version that carries the replicas' broker epochs (KIP-903). Proposals are sent in no older one: a controller could not tell which life of a replica is meant.
pub const VERSION: i16 = 3;

/// One request for many proposals, from broker `broker_id` in its `broker_epoch`.
pub fn request(broker_id: i32, broker_epoch: i64, proposals: &[IsrProposal]) -> AlterPartitionRequest {
    let mut topics: Vec<TopicData> = Vec::new();
    for IsrProposal { partition, topic_id, proposal } in proposals {
        let isr = proposal.isr.iter().map(|(id, epoch)| BrokerState::default().with_broker_id(BrokerId(*id)).with_broker_epoch(*epoch)).collect();
        let data = PartitionData::default()
            .with_partition_index(partition.partition)
            .with_leader_epoch(proposal.leader_epoch)
            .with_partition_epoch(proposal.partition_epoch)
            .with_new_isr_with_epochs(isr);
        match topics.iter_mut().find(|topic| topic.topic_id == *topic_id) {
            Some(topic) => topic.partitions.push(data),
            None => topics.push(TopicData::default().with_topic_id(*topic_id).with_partitions(vec![data])),
        }
    }
    AlterPartitionRequest::default().with_broker_id(BrokerId(broker_id)).with_broker_epoch(broker_epoch).with_topics(topics)
}

/// What an answer says of one proposal; an answer that does not name it leaves it unknown.
pub fn outcome(response: &AlterPartitionResponse, topic_id: Uuid, partition: i32) -> Outcome {
    if response.error_code != 0 {
        // NOT_CONTROLLER, STALE_BROKER_EPOCH: another controller or another registration decides.
        return Outcome::Unknown;
    }
    let topic = response.topics.iter().find(|topic| topic.topic_id == topic_id);
    let answered = topic.and_then(|topic| topic.partitions.iter().find(|answered| answered.partition_index == partition));
    answered.map_or(Outcome::Unknown, partition_outcome)
}

fn partition_outcome(answered: &Answered) -> Outcome {
    match answered.error_code {
        0 => {
            Outcome::State { leader_epoch: answered.leader_epoch, partition_epoch: answered.partition_epoch, isr: answered.isr.iter().map(|id| id.0).collect() }
        }
        code => refusal(code),
    }
}

/// What an error about one proposal means.
pub fn refusal(code: i16) -> Outcome {
    if code == Error::IneligibleReplica.code() {
        return Outcome::NotWritten;
    }
    let superseded = [
        Error::UnknownTopicOrPartition,
        Error::UnknownTopicId,
        Error::FencedLeaderEpoch,
        Error::NewLeaderElected,
        Error::InvalidUpdateVersion,
        Error::InvalidRequest,
    ];
    if superseded.iter().any(|error| error.code() == code) { Outcome::Superseded } else { Outcome::Unknown }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use kafka_protocol::messages::alter_partition_response::TopicData as AnsweredTopic;

    use super::*;
    use crate::replication::leader::Proposal;
    use crate::topic_partition::TopicPartition;

    #[test]
    fn proposals_of_a_topic_share_its_entry() {
        let proposal = |number| IsrProposal {
            partition: TopicPartition::new("t", number),
            topic_id: Uuid::from_u128(5),
            proposal: Proposal { leader_epoch: 4, partition_epoch: 9, isr: BTreeMap::from([(1, -1), (2, 70)]) },
        };
        let request = request(1, 60, &[proposal(0), proposal(3)]);
        assert_eq!((request.broker_id.0, request.broker_epoch, request.topics.len()), (1, 60, 1));
        let partition = &request.topics[0].partitions[1];
        assert_eq!((partition.partition_index, partition.leader_epoch, partition.partition_epoch), (3, 4, 9));
        let isr: Vec<(i32, i64)> = partition.new_isr_with_epochs.iter().map(|state| (state.broker_id.0, state.broker_epoch)).collect();
        assert_eq!(isr, [(1, -1), (2, 70)]);
    }

    #[test]
    fn an_answer_is_believed_only_where_it_is_certain() {
        let answer = |code: i16| {
            let partition =
                Answered::default().with_partition_index(3).with_error_code(code).with_leader_epoch(4).with_partition_epoch(10).with_isr(vec![BrokerId(1)]);
            AlterPartitionResponse::default().with_topics(vec![AnsweredTopic::default().with_topic_id(Uuid::from_u128(5)).with_partitions(vec![partition])])
        };
        let outcome_of = |code| outcome(&answer(code), Uuid::from_u128(5), 3);
        assert_eq!(outcome_of(0), Outcome::State { leader_epoch: 4, partition_epoch: 10, isr: vec![1] });
        assert_eq!(outcome_of(Error::IneligibleReplica.code()), Outcome::NotWritten);
        assert_eq!(outcome_of(Error::InvalidUpdateVersion.code()), Outcome::Superseded);
        assert_eq!(outcome_of(Error::OperationNotAttempted.code()), Outcome::Unknown);
        assert_eq!(outcome(&answer(0), Uuid::from_u128(5), 4), Outcome::Unknown, "not named");
        assert_eq!(outcome(&answer(0).with_error_code(Error::NotController.code()), Uuid::from_u128(5), 3), Outcome::Unknown);
    }
}
