//! Every API of the table at every version: asked something real, and the answer looked at.

use std::collections::BTreeSet;

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::alter_configs_request::{self, AlterableConfig};
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::describe_topic_partitions_request::{self, Cursor};
use kafka_protocol::messages::incremental_alter_configs_request;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopic, OffsetFetchRequestTopics};
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::StrBytes;
use ottla::wire::api::{APIS, Api};
use uuid::Uuid;

use super::*;

/// The topic that all versions look at: two partitions, with `one`, `two` in the first.
const TOPIC: &str = "looked-at";

struct Look {
    connection: Conn,
    topic_id: Uuid,
    port: i32,
    /// A member of the group `served`, alone in it, in generation 1.
    member: StrBytes,
}

#[test]
fn every_api_answers_in_every_version() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        let topic_id = create(&connection, TOPIC, 2, &[("retention.ms", "77777777")]).await;
        accepted(&connection, TOPIC, 0, batch(&["one", "two"])).await;
        let member = groups::join_alone(&connection, "served").await;
        let look = Look { connection, topic_id, port: i32::from(server.address().port), member };
        for api in APIS {
            for version in api.min_version..=api.max_version {
                look.at(api, version).await;
            }
        }
    });
}

#[test]
fn the_versions_advertised_are_those_of_the_table() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        for version in 0..=4 {
            let request = if version < 3 { ApiVersionsRequest::default() } else { software("test", "1.0") };
            let answer = ask_at(&connection, version, request).await;
            let told: Vec<_> = answer.api_keys.iter().map(|api| (api.api_key, api.min_version, api.max_version)).collect();
            let table: Vec<_> = APIS.iter().map(|api| (api.key as i16, api.advertised_min_version, api.max_version)).collect();
            assert_eq!((answer.error_code, told), (0, table));
        }
    });
}

fn software(name: &str, version: &str) -> ApiVersionsRequest {
    ApiVersionsRequest::default().with_client_software_name(text(name)).with_client_software_version(text(version))
}

impl Look {
    async fn ask<Q: Request>(&self, version: i16, request: Q) -> Q::Response {
        ask_at(&self.connection, version, request).await
    }

    async fn at(&self, api: &Api, version: i16) {
        match api.key {
            ApiKey::Produce => self.produce(version).await,
            ApiKey::Fetch => self.fetch(version).await,
            ApiKey::ListOffsets => self.list_offsets(version).await,
            ApiKey::Metadata => self.metadata(version).await,
            ApiKey::OffsetCommit | ApiKey::OffsetDelete => self.commit(version, api.key).await,
            ApiKey::OffsetFetch => self.offset_fetch(version).await,
            ApiKey::FindCoordinator => self.find_coordinator(version).await,
            ApiKey::JoinGroup => self.join(version).await,
            ApiKey::Heartbeat => {
                let request = |generation| {
                    HeartbeatRequest::default().with_group_id(group_id("served")).with_member_id(self.member.clone()).with_generation_id(generation)
                };
                assert_eq!(self.ask(version, request(1)).await.error_code, 0);
                assert_eq!(self.ask(version, request(9)).await.error_code, code(Error::IllegalGeneration));
            }
            ApiKey::LeaveGroup => self.leave(version).await,
            ApiKey::SyncGroup => self.sync(version).await,
            ApiKey::DescribeGroups => self.describe_groups(version).await,
            ApiKey::ListGroups => self.list_groups(version).await,
            ApiKey::ApiVersions => {
                let request = if version < 3 { ApiVersionsRequest::default() } else { software("test", "1.0") };
                assert_eq!(self.ask(version, request).await.error_code, 0);
                if version >= 3 {
                    assert_eq!(self.ask(version, software("no good", "1.0")).await.error_code, code(Error::InvalidRequest));
                }
            }
            ApiKey::CreateTopics => self.create_topics(version).await,
            ApiKey::DeleteTopics => self.delete_topics(version).await,
            ApiKey::DeleteRecords => self.delete_records(version).await,
            ApiKey::InitProducerId => self.init_producer_id(version).await,
            ApiKey::OffsetForLeaderEpoch => self.offset_for_leader_epoch(version).await,
            ApiKey::DescribeConfigs => self.describe_configs(version).await,
            ApiKey::AlterConfigs => self.alter_configs(version).await,
            ApiKey::IncrementalAlterConfigs => self.incremental_alter_configs(version).await,
            ApiKey::CreatePartitions => self.create_partitions(version).await,
            ApiKey::DeleteGroups => self.delete_groups(version).await,
            ApiKey::DescribeCluster => self.describe_cluster(version).await,
            ApiKey::DescribeProducers => self.describe_producers(version).await,
            ApiKey::DescribeTopicPartitions => self.describe_topic_partitions(version).await,
            ApiKey::ElectLeaders => self.elect_leaders(version).await,
            ApiKey::AlterPartitionReassignments => self.reassign(version).await,
            ApiKey::ListPartitionReassignments => {
                let answer = self.ask(version, ListPartitionReassignmentsRequest::default().with_topics(None)).await;
                assert_eq!((answer.error_code, answer.topics.len()), (0, 0));
            }
            ApiKey::AlterPartition => self.alter_partition(version).await,
            other => panic!("{other:?} is served and has no test here"),
        }
    }

    async fn produce(&self, version: i16) {
        let topic = format!("produced-{version}");
        let id = create(&self.connection, &topic, 1, &[]).await;
        let mut request = produce_request(&topic, 0, -1, batch(&["a", "b"]));
        // A partition that is not there does not harm the others.
        let missing = PartitionProduceData::default().with_index(7).with_records(Some(batch(&["c"])));
        request.topic_data[0].partition_data.push(missing);
        if version >= 13 {
            request.topic_data[0].topic_id = id;
            request.topic_data[0].name = TopicName::default();
        }
        let answer = self.ask(version, request).await;
        let told = &answer.responses[0];
        if version >= 13 {
            assert_eq!(told.topic_id, id)
        } else {
            assert_eq!(told.name.as_str(), topic)
        }
        let [good, bad] = told.partition_responses.as_slice() else { panic!("{told:?}") };
        assert_eq!((good.index, good.error_code, good.base_offset, good.log_append_time_ms), (0, 0, 0, -1));
        assert_eq!((bad.index, bad.error_code, bad.base_offset), (7, code(Error::UnknownTopicOrPartition), -1));
        if version >= 5 {
            assert_eq!(good.log_start_offset, 0);
        }
        let mut unknown = produce_request("nobody", 0, -1, batch(&["a"]));
        let mut expected = Error::UnknownTopicOrPartition;
        if version >= 13 {
            unknown.topic_data[0].name = TopicName::default();
            unknown.topic_data[0].topic_id = Uuid::from_u128(7);
            expected = Error::UnknownTopicId;
        }
        assert_eq!(self.ask(version, unknown).await.responses[0].partition_responses[0].error_code, code(expected));
    }

    async fn fetch(&self, version: i16) {
        let mut request = fetch_request(TOPIC, 0, 0);
        let mut unknown = fetch_request("nobody", 0, 0);
        if version >= 13 {
            for (request, id) in [(&mut request, self.topic_id), (&mut unknown, Uuid::from_u128(7))] {
                request.topics[0].topic = TopicName::default();
                request.topics[0].topic_id = id;
            }
        }
        let answer = self.ask(version, request.clone()).await;
        let data = only(&answer);
        assert_eq!(contents(data), [(0, "one".to_owned()), (1, "two".to_owned())]);
        assert_eq!((data.high_watermark, data.last_stable_offset), (2, 2));
        if version >= 5 {
            assert_eq!(data.log_start_offset, 0);
        }
        if version >= 13 {
            assert_eq!(answer.responses[0].topic_id, self.topic_id)
        } else {
            assert_eq!(answer.responses[0].topic.as_str(), TOPIC)
        }
        assert_eq!(answer.session_id, 0);
        assert_eq!(data.aborted_transactions, None, "nobody asked for committed ones only");
        let committed = self.ask(version, request.clone().with_isolation_level(1)).await;
        assert_eq!(only(&committed).aborted_transactions, Some(vec![]));

        request.topics[0].partitions[0].fetch_offset = 3;
        let beyond = self.ask(version, request).await;
        assert_eq!(beyond.responses[0].partitions[0].error_code, code(Error::OffsetOutOfRange));
        let expected = if version >= 13 { Error::UnknownTopicId } else { Error::UnknownTopicOrPartition };
        assert_eq!(self.ask(version, unknown).await.responses[0].partitions[0].error_code, code(expected));
    }

    async fn list_offsets(&self, version: i16) {
        let wanted = [
            // timestamp, first version, offset, timestamp of the answer
            (-1, 1, 2, -1),
            (-2, 1, 0, -1),
            (-3, 7, 0, 1_000),
            (-4, 8, 0, -1),
            (-5, 9, -1, -1),
            (1_000, 1, 0, 1_000),
            (1_001, 1, -1, -1),
        ];
        for (timestamp, first_version, offset, found) in wanted {
            let partition = ListOffsetsPartition::default().with_partition_index(0).with_timestamp(timestamp);
            let topic = ListOffsetsTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition]);
            let answer = self.ask(version, ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic])).await;
            let told = &answer.topics[0].partitions[0];
            if version < first_version {
                assert_eq!((told.error_code, told.offset), (code(Error::UnsupportedVersion), -1), "{timestamp} in version {version}");
            } else {
                assert_eq!((told.error_code, told.offset, told.timestamp), (0, offset, found), "{timestamp} in version {version}");
                assert_eq!(told.leader_epoch, if version >= 4 && offset >= 0 { 0 } else { -1 }, "{timestamp} in version {version}");
            }
        }
        let topic = |name: &str, partition: i32| {
            let partition = ListOffsetsPartition::default().with_partition_index(partition).with_timestamp(-1);
            ListOffsetsTopic::default().with_name(topic_name(name)).with_partitions(vec![partition])
        };
        let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic("nobody", 0), topic(TOPIC, 2)]);
        let answer = self.ask(version, request).await;
        assert!(answer.topics.iter().all(|topic| topic.partitions[0].error_code == code(Error::UnknownTopicOrPartition)));
    }

    async fn metadata(&self, version: i16) {
        let mut request = metadata_request(&[TOPIC, "nobody", "not a name"]);
        if version < 4 {
            // These versions always allow it, and this broker does too.
            request = metadata_request(&[TOPIC, "not a name"]).with_allow_auto_topic_creation(true);
        }
        if version >= 8 {
            request.include_topic_authorized_operations = true;
            request.include_cluster_authorized_operations = version <= 10;
        }
        let answer = self.ask(version, request).await;
        assert_eq!((answer.brokers.len(), answer.brokers[0].port, answer.brokers[0].host.as_str()), (1, self.port, "127.0.0.1"));
        if version >= 1 {
            assert_eq!(answer.controller_id, answer.brokers[0].node_id);
        }
        if version >= 2 {
            assert!(answer.cluster_id.is_some());
        }
        let topic = answer.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|name| name.as_str() == TOPIC)).unwrap();
        assert_eq!((topic.error_code, topic.partitions.len(), topic.is_internal), (0, 2, false));
        for (number, partition) in topic.partitions.iter().enumerate() {
            assert_eq!((partition.error_code, partition.partition_index, partition.leader_id), (0, number as i32, answer.brokers[0].node_id));
            assert_eq!((&partition.replica_nodes, &partition.isr_nodes), (&vec![answer.brokers[0].node_id], &vec![answer.brokers[0].node_id]));
            assert_eq!(partition.leader_epoch, if version >= 7 { 0 } else { -1 });
        }
        if version >= 10 {
            assert_eq!(topic.topic_id, self.topic_id);
        }
        let operations = |asked: bool| if asked { 1 } else { 0 };
        assert_eq!(operations(topic.topic_authorized_operations > 0), operations(version >= 8));
        assert_eq!(operations(answer.cluster_authorized_operations > 0), operations((8..=10).contains(&version)));
        let error_of = |name: &str| answer.topics.iter().find(|topic| topic.name.as_ref().is_some_and(|found| found.as_str() == name)).unwrap().error_code;
        assert_eq!(error_of("not a name"), code(Error::InvalidTopicException));
        if version >= 4 {
            assert_eq!(error_of("nobody"), code(Error::UnknownTopicOrPartition));
        }

        // All topics: null, or in version 0, which cannot say null, none; from version 1 none is none.
        let all = MetadataRequest::default().with_topics(if version == 0 { Some(vec![]) } else { None });
        let names: BTreeSet<String> = self.ask(version, all).await.topics.iter().map(|topic| topic.name.as_ref().unwrap().to_string()).collect();
        assert!(names.contains(TOPIC) && names.contains("__consumer_offsets"), "{names:?}");
        if version >= 1 {
            let none = self.ask(version, MetadataRequest::default().with_topics(Some(vec![]))).await;
            assert_eq!((none.topics.len(), none.brokers.len()), (0, 1));
        }
        if version >= 10 {
            let by_id = |id| MetadataRequestTopic::default().with_name(if version >= 12 { None } else { Some(TopicName::default()) }).with_topic_id(id);
            let asked = MetadataRequest::default().with_topics(Some(vec![by_id(self.topic_id), by_id(Uuid::from_u128(7))]));
            let answer = self.ask(version, asked).await;
            if version >= 12 {
                assert_eq!((answer.topics[0].error_code, answer.topics[0].name.clone()), (0, Some(topic_name(TOPIC))));
                let unknown = &answer.topics[1];
                assert_eq!((unknown.error_code, &unknown.name, unknown.topic_id), (code(Error::UnknownTopicId), &None, Uuid::from_u128(7)));
            } else {
                assert!(answer.topics.iter().all(|topic| topic.error_code == code(Error::InvalidRequest)), "no Kafka served ids in these versions");
            }
        }
    }

    /// OffsetCommit; with OffsetDelete after it.
    async fn commit(&self, version: i16, key: ApiKey) {
        let commit_version = if key == ApiKey::OffsetCommit { version } else { 9 };
        let group = format!("committed-{commit_version}-{}", key as i16);
        let partition = |index, offset| OffsetCommitRequestPartition::default().with_partition_index(index).with_committed_offset(offset);
        let topic = OffsetCommitRequestTopic::default().with_name(topic_name(TOPIC)).with_partitions(vec![partition(0, 41), partition(9, 1)]);
        let request = OffsetCommitRequest::default().with_group_id(group_id(&group)).with_generation_id_or_member_epoch(-1).with_topics(vec![topic]);
        let answer = self.ask(commit_version, request).await;
        let codes: Vec<i16> = answer.topics[0].partitions.iter().map(|partition| partition.error_code).collect();
        assert_eq!(codes, [0, code(Error::UnknownTopicOrPartition)]);
        assert_eq!(groups::committed(&self.connection, &group, TOPIC, 0).await, 41);
        if key == ApiKey::OffsetDelete {
            let partitions = vec![OffsetDeleteRequestPartition::default().with_partition_index(0)];
            let topic = OffsetDeleteRequestTopic::default().with_name(topic_name(TOPIC)).with_partitions(partitions);
            let answer = self.ask(version, OffsetDeleteRequest::default().with_group_id(group_id(&group)).with_topics(vec![topic])).await;
            assert_eq!((answer.error_code, answer.topics[0].partitions[0].error_code), (0, 0));
            assert_eq!(groups::committed(&self.connection, &group, TOPIC, 0).await, -1);
        }
    }

    async fn offset_fetch(&self, version: i16) {
        groups::commit(&self.connection, "fetched", TOPIC, 1, 5).await;
        let told = |offsets: Vec<(i32, i64, i16)>| assert_eq!(offsets, [(0, -1, 0), (1, 5, 0)]);
        if version < 8 {
            let topic = OffsetFetchRequestTopic::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![0, 1]);
            let request = OffsetFetchRequest::default().with_group_id(group_id("fetched")).with_topics(Some(vec![topic])).with_require_stable(version == 7);
            let answer = self.ask(version, request.clone()).await;
            assert_eq!(answer.error_code, 0);
            told(answer.topics[0].partitions.iter().map(|one| (one.partition_index, one.committed_offset, one.error_code)).collect());
            if version >= 2 {
                let all = self.ask(version, request.with_topics(None)).await;
                assert_eq!((all.topics.len(), all.topics[0].partitions.len(), all.topics[0].partitions[0].committed_offset), (1, 1, 5));
            }
        } else {
            let topic = OffsetFetchRequestTopics::default().with_name(topic_name(TOPIC)).with_partition_indexes(vec![0, 1]);
            let group = |name, topics| OffsetFetchRequestGroup::default().with_group_id(group_id(name)).with_topics(topics);
            let groups = vec![group("fetched", Some(vec![topic])), group("fetched", None), group("nobody", None)];
            let answer = self.ask(version, OffsetFetchRequest::default().with_groups(groups)).await;
            assert!(answer.groups.iter().all(|group| group.error_code == 0));
            told(answer.groups[0].topics[0].partitions.iter().map(|one| (one.partition_index, one.committed_offset, one.error_code)).collect());
            assert_eq!(answer.groups[1].topics[0].partitions.len(), 1);
            assert_eq!(answer.groups[2].topics.len(), 0);
        }
    }

    async fn find_coordinator(&self, version: i16) {
        if version < 4 {
            let answer = self.ask(version, FindCoordinatorRequest::default().with_key(text("some-group"))).await;
            assert_eq!((answer.error_code, answer.host.as_str(), answer.port), (0, "127.0.0.1", self.port));
        } else {
            let keys = vec![text("some-group"), text("another")];
            let answer = self.ask(version, FindCoordinatorRequest::default().with_coordinator_keys(keys.clone())).await;
            let told: Vec<_> = answer.coordinators.iter().map(|one| (one.key.clone(), one.error_code, one.port)).collect();
            assert_eq!(told, [(keys[0].clone(), 0, self.port), (keys[1].clone(), 0, self.port)]);
        }
        if version >= 1 {
            // Transactions: an error that ends the client's attempt, and a message that says why.
            let request = FindCoordinatorRequest::default().with_key_type(1);
            let (error, message) = if version < 4 {
                let answer = self.ask(version, request.with_key(text("some-transaction"))).await;
                (answer.error_code, answer.error_message)
            } else {
                let answer = self.ask(version, request.with_coordinator_keys(vec![text("some-transaction")])).await;
                (answer.coordinators[0].error_code, answer.coordinators[0].error_message.clone())
            };
            assert_eq!(error, code(if version <= 2 { Error::TransactionalIdAuthorizationFailed } else { Error::InvalidRequest }));
            assert!(message.unwrap().contains("transactional id"));
        }
    }

    fn joining(&self, group: &str, version: i16, member: StrBytes) -> JoinGroupRequest {
        let protocol = JoinGroupRequestProtocol::default().with_name(text("range")).with_metadata(Bytes::from_static(b"subscription"));
        JoinGroupRequest::default()
            .with_group_id(group_id(group))
            .with_session_timeout_ms(30_000)
            .with_rebalance_timeout_ms(if version >= 1 { 30_000 } else { -1 })
            .with_member_id(member)
            .with_protocol_type(text("consumer"))
            .with_protocols(vec![protocol])
    }

    /// Joins as the only member, in two steps where the version wants it (KIP-394).
    async fn join_at(&self, group: &str, version: i16) -> JoinGroupResponse {
        let first = self.ask(version, self.joining(group, version, StrBytes::default())).await;
        if version < 4 {
            return first;
        }
        assert_eq!(first.error_code, code(Error::MemberIdRequired));
        self.ask(version, self.joining(group, version, first.member_id)).await
    }

    async fn join(&self, version: i16) {
        let answer = self.join_at(&format!("joined-{version}"), version).await;
        assert_eq!((answer.error_code, answer.generation_id), (0, 1));
        assert_eq!(answer.leader, answer.member_id);
        assert!(answer.member_id.starts_with("test-"), "named after its client: {}", answer.member_id);
        assert_eq!((answer.members.len(), &answer.members[0].metadata[..]), (1, &b"subscription"[..]));
        assert_eq!(answer.protocol_name.unwrap().as_str(), "range");
        if version >= 7 {
            assert_eq!(answer.protocol_type.unwrap().as_str(), "consumer");
        }
    }

    async fn sync(&self, version: i16) {
        let group = format!("synced-{version}");
        let member = self.join_at(&group, 9).await.member_id;
        let assignment = SyncGroupRequestAssignment::default().with_member_id(member.clone()).with_assignment(Bytes::from_static(b"all of it"));
        let mut request = SyncGroupRequest::default().with_group_id(group_id(&group)).with_generation_id(1).with_member_id(member);
        request.assignments = vec![assignment];
        if version >= 5 {
            request.protocol_type = Some(text("consumer"));
            request.protocol_name = Some(text("range"));
        }
        let answer = self.ask(version, request.clone()).await;
        assert_eq!((answer.error_code, &answer.assignment[..]), (0, &b"all of it"[..]));
        if version >= 5 {
            assert_eq!(answer.protocol_name.unwrap().as_str(), "range");
            let wrong = self.ask(version, request.with_protocol_name(Some(text("roundrobin")))).await;
            assert_eq!(wrong.error_code, code(Error::InconsistentGroupProtocol));
        }
    }

    async fn leave(&self, version: i16) {
        let group = format!("left-{version}");
        let member = self.join_at(&group, 9).await.member_id;
        let request = LeaveGroupRequest::default().with_group_id(group_id(&group));
        if version < 3 {
            assert_eq!(self.ask(version, request.clone().with_member_id(member)).await.error_code, 0);
            assert_eq!(self.ask(version, request.with_member_id(text("nobody"))).await.error_code, code(Error::UnknownMemberId));
        } else {
            let identities = vec![MemberIdentity::default().with_member_id(member), MemberIdentity::default().with_member_id(text("nobody"))];
            let answer = self.ask(version, request.with_members(identities)).await;
            let codes: Vec<i16> = answer.members.iter().map(|member| member.error_code).collect();
            assert_eq!((answer.error_code, codes), (0, vec![0, code(Error::UnknownMemberId)]));
        }
    }

    async fn describe_groups(&self, version: i16) {
        let request = DescribeGroupsRequest::default().with_groups(vec![group_id("served"), group_id("nobody")]);
        let answer = self.ask(version, request).await;
        let [served, nobody] = answer.groups.as_slice() else { panic!("{answer:?}") };
        assert_eq!((served.error_code, served.group_state.as_str(), served.protocol_type.as_str()), (0, "Stable", "consumer"));
        assert_eq!((served.members.len(), &served.members[0].member_id), (1, &self.member));
        assert_eq!(served.members[0].client_host.as_str(), "/127.0.0.1");
        let expected = if version >= 6 { code(Error::GroupIdNotFound) } else { 0 };
        assert_eq!((nobody.error_code, nobody.group_state.as_str()), (expected, "Dead"));
    }

    async fn list_groups(&self, version: i16) {
        let find = |answer: &ListGroupsResponse| answer.groups.iter().find(|group| group.group_id.as_str() == "served").cloned();
        let answer = self.ask(version, ListGroupsRequest::default()).await;
        let served = find(&answer).unwrap();
        assert_eq!((answer.error_code, served.protocol_type.as_str()), (0, "consumer"));
        if version >= 4 {
            assert_eq!(served.group_state.as_str(), "Stable");
            let filtered = |state: &str| ListGroupsRequest::default().with_states_filter(vec![text(state)]);
            assert!(find(&self.ask(version, filtered("Empty")).await).is_none());
            assert!(find(&self.ask(version, filtered("stable")).await).is_some(), "whatever the case");
        }
        if version >= 5 {
            assert_eq!(served.group_type.as_str(), "classic");
            let of_type = |kind: &str| ListGroupsRequest::default().with_types_filter(vec![text(kind)]);
            assert!(find(&self.ask(version, of_type("consumer")).await).is_none());
            assert!(find(&self.ask(version, of_type("Classic")).await).is_some());
        }
    }

    async fn delete_groups(&self, version: i16) {
        let group = format!("deleted-{version}");
        groups::commit(&self.connection, &group, TOPIC, 0, 1).await;
        let names = vec![group_id(&group), group_id("served"), group_id("nobody")];
        let answer = self.ask(version, DeleteGroupsRequest::default().with_groups_names(names)).await;
        let error_of = |name: &str| answer.results.iter().find(|result| result.group_id.as_str() == name).unwrap().error_code;
        assert_eq!((error_of(&group), error_of("served"), error_of("nobody")), (0, code(Error::NonEmptyGroup), code(Error::GroupIdNotFound)));
        assert_eq!(groups::committed(&self.connection, &group, TOPIC, 0).await, -1);
    }

    async fn create_topics(&self, version: i16) {
        let name = format!("created-{version}");
        let topic = |name: &str| CreatableTopic::default().with_name(topic_name(name)).with_num_partitions(3).with_replication_factor(1);
        let request = CreateTopicsRequest::default().with_topics(vec![topic(&name), topic(TOPIC)]).with_timeout_ms(30_000);
        let validated = self.ask(version, request.clone().with_validate_only(true)).await;
        let error_of = |answer: &CreateTopicsResponse, name: &str| answer.topics.iter().find(|topic| topic.name.as_str() == name).unwrap().error_code;
        assert_eq!((error_of(&validated, &name), error_of(&validated, TOPIC)), (0, code(Error::TopicAlreadyExists)));
        let answer = self.ask(version, request).await;
        assert_eq!((error_of(&answer, &name), error_of(&answer, TOPIC)), (0, code(Error::TopicAlreadyExists)));
        let created = answer.topics.iter().find(|topic| topic.name.as_str() == name).unwrap();
        if version >= 5 {
            assert_eq!((created.num_partitions, created.replication_factor), (3, 1));
            assert!(created.configs.as_ref().unwrap().iter().any(|config| config.name.as_str() == "retention.ms"));
        }
        if version >= 7 {
            assert!(!created.topic_id.is_nil());
        }
        // It can be used at once.
        assert_eq!(accepted(&self.connection, &name, 2, batch(&["x"])).await, 0);
    }

    async fn delete_topics(&self, version: i16) {
        let (one, two) = (format!("gone-{version}"), format!("gone-too-{version}"));
        create(&self.connection, &one, 1, &[]).await;
        let id = create(&self.connection, &two, 1, &[]).await;
        let request = DeleteTopicsRequest::default().with_timeout_ms(30_000);
        if version < 6 {
            let names = [&one, &two, "nobody"].map(topic_name).to_vec();
            let answer = self.ask(version, request.with_topic_names(names)).await;
            let codes: Vec<i16> = answer.responses.iter().map(|response| response.error_code).collect();
            assert_eq!(codes, [0, 0, code(Error::UnknownTopicOrPartition)]);
        } else {
            let state = |name: Option<&str>, id| DeleteTopicState::default().with_name(name.map(topic_name)).with_topic_id(id);
            let topics = vec![
                state(Some(&one), Uuid::nil()),
                state(None, id),
                state(None, Uuid::from_u128(7)),
                state(Some("nobody"), Uuid::from_u128(8)),
                state(None, Uuid::nil()),
            ];
            let answer = self.ask(version, request.with_topics(topics)).await;
            let codes: Vec<i16> = answer.responses.iter().map(|response| response.error_code).collect();
            let refused = code(Error::InvalidRequest);
            assert_eq!(codes, [0, 0, code(Error::UnknownTopicId), refused, refused]);
            assert_eq!((answer.responses[1].name.as_ref().unwrap().as_str(), answer.responses[1].topic_id), (two.as_str(), id));
        }
        let left = ask(&self.connection, metadata_request(&[&one, &two])).await;
        assert!(left.topics.iter().all(|topic| topic.error_code == code(Error::UnknownTopicOrPartition)));
    }

    async fn delete_records(&self, version: i16) {
        let topic = format!("cut-{version}");
        create(&self.connection, &topic, 1, &[]).await;
        accepted(&self.connection, &topic, 0, batch(&["a", "b", "c"])).await;
        for (offset, error, low_watermark) in
            [(2, 0, 2), (1, 0, 2), (9, code(Error::OffsetOutOfRange), -1), (-7, code(Error::OffsetOutOfRange), -1), (-1, 0, 3)]
        {
            let partitions = vec![DeleteRecordsPartition::default().with_partition_index(0).with_offset(offset)];
            let topics = vec![DeleteRecordsTopic::default().with_name(topic_name(&topic)).with_partitions(partitions)];
            let answer = self.ask(version, DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(30_000)).await;
            let told = &answer.topics[0].partitions[0];
            assert_eq!((told.error_code, told.low_watermark), (error, low_watermark), "up to {offset}");
            if error == 0 {
                assert_eq!(offset_at(&self.connection, &topic, 0, -2).await, low_watermark);
            }
        }
        let partitions = vec![DeleteRecordsPartition::default().with_partition_index(0).with_offset(-1)];
        let topics = vec![DeleteRecordsTopic::default().with_name(topic_name("__consumer_offsets")).with_partitions(partitions)];
        let answer = self.ask(version, DeleteRecordsRequest::default().with_topics(topics).with_timeout_ms(30_000)).await;
        assert_eq!(answer.topics[0].partitions[0].error_code, code(Error::InvalidTopicException));
    }

    async fn init_producer_id(&self, version: i16) {
        let mut request = InitProducerIdRequest::default().with_transactional_id(None).with_transaction_timeout_ms(60_000);
        let one = self.ask(version, request.clone()).await;
        if version >= 3 {
            // An id that it has already is of no weight without a transactional id.
            request = request.with_producer_id(one.producer_id).with_producer_epoch(3);
        }
        let two = self.ask(version, request.clone()).await;
        assert_eq!((one.error_code, one.producer_epoch, two.error_code, two.producer_epoch), (0, 0, 0, 0));
        assert_ne!(one.producer_id, two.producer_id);
        let transactional = self.ask(version, request.with_transactional_id(Some(text("mine").into()))).await;
        assert_eq!((transactional.error_code, transactional.producer_id.0), (code(Error::TransactionalIdAuthorizationFailed), -1));
    }

    async fn offset_for_leader_epoch(&self, version: i16) {
        // leader epoch asked for, current epoch of the client; error, epoch, end offset
        let unknown = code(Error::UnknownLeaderEpoch);
        for (asked, current, error, epoch, end) in [(0, -1, 0, 0, 2), (0, 0, 0, 0, 2), (5, -1, 0, -1, -1), (0, 1, unknown, -1, -1)] {
            let partition = OffsetForLeaderPartition::default().with_partition(0).with_leader_epoch(asked).with_current_leader_epoch(current);
            let topics = vec![OffsetForLeaderTopic::default().with_topic(topic_name(TOPIC)).with_partitions(vec![partition])];
            let request = OffsetForLeaderEpochRequest::default().with_topics(topics).with_replica_id(if version >= 3 { -1 } else { -2 }.into());
            let answer = self.ask(version, request).await;
            let told = &answer.topics[0].partitions[0];
            assert_eq!((told.error_code, told.leader_epoch, told.end_offset), (error, epoch, end), "epoch {asked} as of {current}");
        }
    }

    async fn describe_configs(&self, version: i16) {
        let resource = |kind, name: &str, keys: Option<&[&str]>| {
            let keys = keys.map(|keys| keys.iter().map(|key| text(key)).collect());
            DescribeConfigsResource::default().with_resource_type(kind).with_resource_name(text(name)).with_configuration_keys(keys)
        };
        let resources = vec![
            resource(2, TOPIC, Some(&["retention.ms"])),
            resource(2, TOPIC, None),
            resource(2, TOPIC, Some(&[])),
            resource(2, "nobody", None),
            resource(4, "0", Some(&["log.dirs", "no.such.key"])),
            resource(4, "9", None),
            resource(4, "", None),
            resource(99, "x", None),
        ];
        let mut request = DescribeConfigsRequest::default().with_resources(resources).with_include_synonyms(true);
        request.include_documentation = version >= 3;
        let answer = self.ask(version, request).await;
        let codes: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
        let (refused, unknown) = (code(Error::InvalidRequest), code(Error::UnknownTopicOrPartition));
        assert_eq!(codes, [0, 0, 0, unknown, 0, refused, 0, refused]);
        let [retention] = answer.results[0].configs.as_slice() else { panic!("{:?}", answer.results[0]) };
        assert_eq!((retention.name.as_str(), retention.value.as_ref().unwrap().as_str(), retention.config_source), ("retention.ms", "77777777", 1));
        assert_eq!(retention.synonyms[0].value, retention.value);
        assert!(retention.synonyms.len() >= 2, "its own value and the default");
        if version >= 3 {
            assert!(retention.config_type > 0 && retention.documentation.is_some());
        }
        assert!(answer.results[1].configs.len() > 20);
        assert_eq!(answer.results[2].configs.len(), answer.results[1].configs.len(), "no keys are all keys");
        assert_eq!(answer.results[4].configs.len(), 1);
        assert!(answer.results[4].configs[0].read_only);
        assert_eq!(answer.results[6].configs.len(), 0, "nothing is dynamic");
    }

    async fn retention(&self, topic: &str) -> Option<String> {
        let resource =
            DescribeConfigsResource::default().with_resource_type(2).with_resource_name(text(topic)).with_configuration_keys(Some(vec![text("retention.ms")]));
        let answer = ask(&self.connection, DescribeConfigsRequest::default().with_resources(vec![resource])).await;
        let config = &answer.results[0].configs[0];
        (config.config_source == 1).then(|| config.value.as_ref().unwrap().to_string())
    }

    async fn alter_configs(&self, version: i16) {
        let topic = format!("altered-{version}");
        create(&self.connection, &topic, 1, &[("segment.bytes", "2000000")]).await;
        let resource = |name: &str, value: &str| {
            let configs = vec![AlterableConfig::default().with_name(text("retention.ms")).with_value(Some(text(value)))];
            alter_configs_request::AlterConfigsResource::default().with_resource_type(2).with_resource_name(text(name)).with_configs(configs)
        };
        let request = AlterConfigsRequest::default().with_resources(vec![resource(&topic, "5000"), resource("nobody", "5000")]);
        self.ask(version, request.clone().with_validate_only(true)).await;
        assert_eq!(self.retention(&topic).await, None, "validated only");
        let answer = self.ask(version, request).await;
        let codes: Vec<i16> = answer.responses.iter().map(|response| response.error_code).collect();
        assert_eq!(codes, [0, code(Error::UnknownTopicOrPartition)]);
        assert_eq!(self.retention(&topic).await.as_deref(), Some("5000"));
        let bad = self.ask(version, AlterConfigsRequest::default().with_resources(vec![resource(&topic, "soon")])).await;
        assert_eq!(bad.responses[0].error_code, code(Error::InvalidConfig));
    }

    async fn incremental_alter_configs(&self, version: i16) {
        let topic = format!("altered-bit-by-bit-{version}");
        create(&self.connection, &topic, 1, &[]).await;
        let request = |operation, value: Option<&str>| {
            let config = incremental_alter_configs_request::AlterableConfig::default()
                .with_name(text("retention.ms"))
                .with_config_operation(operation)
                .with_value(value.map(text));
            let resource = incremental_alter_configs_request::AlterConfigsResource::default()
                .with_resource_type(2)
                .with_resource_name(text(&topic))
                .with_configs(vec![config]);
            IncrementalAlterConfigsRequest::default().with_resources(vec![resource])
        };
        for (operation, value, error, then) in [
            (0, Some("6000"), 0, Some("6000")),
            (0, Some("never"), code(Error::InvalidConfig), Some("6000")),
            (2, Some("7"), code(Error::InvalidConfig), Some("6000")),
            (9, Some("7"), code(Error::InvalidRequest), Some("6000")),
            (1, None, 0, None),
        ] {
            let answer = self.ask(version, request(operation, value)).await;
            assert_eq!(answer.responses[0].error_code, error, "operation {operation} with {value:?}");
            assert_eq!(self.retention(&topic).await.as_deref(), then);
        }
    }

    async fn create_partitions(&self, version: i16) {
        let topic = format!("grown-{version}");
        create(&self.connection, &topic, 1, &[]).await;
        let growth = |name: &str, count| CreatePartitionsTopic::default().with_name(topic_name(name)).with_count(count).with_assignments(None);
        let growths = vec![growth(&topic, 3), growth("nobody", 3), growth(TOPIC, 1), growth("__consumer_offsets", 9)];
        let request = CreatePartitionsRequest::default().with_topics(growths).with_timeout_ms(30_000);
        let answer = self.ask(version, request).await;
        let codes: Vec<i16> = answer.results.iter().map(|result| result.error_code).collect();
        assert_eq!(codes, [0, code(Error::UnknownTopicOrPartition), code(Error::InvalidPartitions), code(Error::InvalidRequest)]);
        assert_eq!(accepted(&self.connection, &topic, 2, batch(&["x"])).await, 0);
    }

    async fn describe_cluster(&self, version: i16) {
        let answer = self.ask(version, DescribeClusterRequest::default().with_include_cluster_authorized_operations(true)).await;
        assert_eq!((answer.error_code, answer.brokers.len(), answer.brokers[0].port), (0, 1, self.port));
        assert_eq!(answer.controller_id, answer.brokers[0].broker_id);
        assert!(!answer.cluster_id.is_empty() && answer.cluster_authorized_operations > 0);
        if version >= 1 {
            for (endpoint_type, error) in [(2, Error::MismatchedEndpointType), (3, Error::UnsupportedEndpointType)] {
                let answer = self.ask(version, DescribeClusterRequest::default().with_endpoint_type(endpoint_type)).await;
                assert_eq!(answer.error_code, code(error));
            }
        }
    }

    async fn describe_producers(&self, version: i16) {
        let topic = format!("written-{version}");
        create(&self.connection, &topic, 1, &[]).await;
        accepted(&self.connection, &topic, 0, sequenced(900, 2, 0, &["a", "b"])).await;
        let one = describe_producers_request::TopicRequest::default().with_name(topic_name(&topic)).with_partition_indexes(vec![0, 1]);
        let answer = self.ask(version, DescribeProducersRequest::default().with_topics(vec![one])).await;
        let [here, missing] = answer.topics[0].partitions.as_slice() else { panic!("{answer:?}") };
        let [producer] = here.active_producers.as_slice() else { panic!("{here:?}") };
        assert_eq!((producer.producer_id.0, producer.producer_epoch, producer.last_sequence), (900, 2, 1));
        assert_eq!((producer.coordinator_epoch, producer.current_txn_start_offset), (-1, -1));
        assert_eq!(missing.error_code, code(Error::UnknownTopicOrPartition));
    }

    async fn describe_topic_partitions(&self, version: i16) {
        let topics = ["paged-a", "paged-b", "paged-c"];
        for (topic, count) in topics.into_iter().zip([2, 3, 1]) {
            create(&self.connection, topic, count, &[]).await;
        }
        let request = || {
            let topic = |name: &str| describe_topic_partitions_request::TopicRequest::default().with_name(topic_name(name));
            DescribeTopicPartitionsRequest::default().with_topics(topics.map(topic).to_vec()).with_response_partition_limit(3)
        };
        // Pages of three partitions, in the order of names.
        let mut seen = Vec::new();
        let mut cursor: Option<Cursor> = None;
        let mut pages = 0;
        loop {
            let answer = self.ask(version, request().with_cursor(cursor.take())).await;
            pages += 1;
            for topic in &answer.topics {
                assert_eq!(topic.error_code, 0);
                seen.extend(topic.partitions.iter().map(|partition| (topic.name.as_ref().unwrap().to_string(), partition.partition_index)));
            }
            match answer.next_cursor {
                Some(next) => cursor = Some(Cursor::default().with_topic_name(next.topic_name).with_partition_index(next.partition_index)),
                None => break,
            }
        }
        let expected = [("paged-a", 0), ("paged-a", 1), ("paged-b", 0), ("paged-b", 1), ("paged-b", 2), ("paged-c", 0)];
        assert_eq!((seen, pages), (expected.map(|(name, number)| (name.to_owned(), number)).to_vec(), 2));
        let unknown = describe_topic_partitions_request::TopicRequest::default().with_name(topic_name("nobody"));
        let answer = self.ask(version, DescribeTopicPartitionsRequest::default().with_topics(vec![unknown])).await;
        assert_eq!(answer.topics[0].error_code, code(Error::UnknownTopicOrPartition));
    }

    async fn elect_leaders(&self, version: i16) {
        let topic = format!("elected-{version}");
        create(&self.connection, &topic, 1, &[]).await;
        let one = elect_leaders_request::TopicPartitions::default().with_topic(topic_name(&topic)).with_partitions(vec![0, 7]);
        let answer = self.ask(version, ElectLeadersRequest::default().with_topic_partitions(Some(vec![one]))).await;
        let results: Vec<(i32, i16)> =
            answer.replica_election_results[0].partition_result.iter().map(|result| (result.partition_id, result.error_code)).collect();
        assert_eq!(results, [(0, code(Error::ElectionNotNeeded)), (7, code(Error::UnknownTopicOrPartition))]);
        let answer = self.ask(version, ElectLeadersRequest::default().with_topic_partitions(None)).await;
        assert_eq!((answer.error_code, answer.replica_election_results.len()), (0, 0), "of all, none needs one");
        if version >= 1 {
            let answer = self.ask(version, ElectLeadersRequest::default().with_election_type(2)).await;
            assert_eq!(answer.error_code, code(Error::InvalidRequest));
        }
    }

    async fn reassign(&self, version: i16) {
        let topic = format!("reassigned-{version}");
        create(&self.connection, &topic, 1, &[]).await;
        let ask = async |replicas: Option<Vec<i32>>| {
            let replicas = replicas.map(|replicas| replicas.into_iter().map(BrokerId).collect());
            let partition = alter_partition_reassignments_request::ReassignablePartition::default().with_replicas(replicas);
            let one = alter_partition_reassignments_request::ReassignableTopic::default().with_name(topic_name(&topic)).with_partitions(vec![partition]);
            let request = AlterPartitionReassignmentsRequest::default().with_topics(vec![one]);
            let request = if version >= 1 { request.with_allow_replication_factor_change(false) } else { request };
            let answer = self.ask(version, request).await;
            assert_eq!(answer.error_code, 0);
            answer.responses[0].partitions[0].error_code
        };
        let own = self.ask(0, DescribeClusterRequest::default()).await.controller_id.0;
        assert_eq!(ask(Some(vec![own])).await, 0, "where it is");
        assert_eq!(ask(Some(vec![own + 1])).await, code(Error::InvalidReplicaAssignment), "to a broker that is not there");
        assert_eq!(ask(Some(vec![])).await, if version >= 1 { code(Error::InvalidReplicationFactor) } else { code(Error::InvalidReplicaAssignment) });
        assert_eq!(ask(None).await, code(Error::NoReassignmentInProgress));
    }

    async fn alter_partition(&self, version: i16) {
        let topic = format!("led-{version}");
        let id = create(&self.connection, &topic, 1, &[]).await;
        let own = self.ask(0, DescribeClusterRequest::default()).await.controller_id;
        let ask = async |broker_epoch, topic_id| {
            let partition = alter_partition_request::PartitionData::default();
            let partition = match version {
                2 => partition.with_new_isr(vec![own]),
                _ => partition.with_new_isr_with_epochs(vec![alter_partition_request::BrokerState::default().with_broker_id(own).with_broker_epoch(-1)]),
            };
            let one = alter_partition_request::TopicData::default().with_topic_id(topic_id).with_partitions(vec![partition]);
            self.ask(version, AlterPartitionRequest::default().with_broker_id(own).with_broker_epoch(broker_epoch).with_topics(vec![one])).await
        };
        assert_eq!(ask(-7, id).await.error_code, code(Error::StaleBrokerEpoch));
    }
}
