//! The shapes of Kafka's messages, written by `ci/wire-schemas.py`: do not edit. A line is a message; see [`super::guard`] for its notation.
#![cfg_attr(rustfmt, rustfmt_skip)]
use super::guard::{Kind::{A, B, F, N, S, T}, Message, f, t};

/// The requests, in the order of their API keys.
pub static REQUESTS: &[(i16, Message)] = &[
    // ProduceRequest
    (0, Message { flexible_version: 9, fields: &[f(3, 32767, S), f(0, 32767, F(2)), f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 12, S), f(13, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, B)]), 64))]), 96))] }),
    // FetchRequest
    (1, Message { flexible_version: 12, fields: &[t(0, 12, 32767, S), f(0, 14, F(4)), t(1, 15, 32767, T(&[f(15, 32767, F(4)), f(15, 32767, F(8))])), f(0, 32767, F(4)), f(0, 32767, F(4)), f(3, 32767, F(4)), f(4, 32767, F(1)), f(7, 32767, F(4)), f(7, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 12, S), f(13, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(9, 32767, F(4)), f(0, 32767, F(8)), f(12, 32767, F(4)), f(5, 32767, F(8)), f(0, 32767, F(4)), t(0, 17, 32767, F(16)), t(1, 18, 32767, F(8))]), 80))]), 96)), f(7, 32767, A(&T(&[f(7, 12, S), f(13, 32767, F(16)), f(7, 32767, A(&F(4), 4))]), 96)), f(11, 32767, S)] }),
    // ListOffsetsRequest
    (2, Message { flexible_version: 6, fields: &[f(0, 32767, F(4)), f(2, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(4, 32767, F(4)), f(0, 32767, F(8))]), 40))]), 80)), f(10, 32767, F(4))] }),
    // MetadataRequest
    (3, Message { flexible_version: 9, fields: &[f(0, 32767, A(&T(&[f(10, 32767, F(16)), f(0, 32767, S)]), 72)), f(4, 32767, F(1)), f(8, 10, F(1)), f(8, 32767, F(1))] }),
    // OffsetCommitRequest
    (8, Message { flexible_version: 8, fields: &[f(0, 32767, S), f(1, 32767, F(4)), f(1, 32767, S), f(7, 32767, S), f(2, 4, F(8)), f(0, 32767, A(&T(&[f(0, 9, S), f(10, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(8)), f(6, 32767, F(4)), f(0, 32767, S)]), 72))]), 96))] }),
    // OffsetFetchRequest
    (9, Message { flexible_version: 6, fields: &[f(0, 7, S), f(0, 7, A(&T(&[f(0, 7, S), f(0, 7, A(&F(4), 4))]), 80)), f(8, 32767, A(&T(&[f(8, 32767, S), f(9, 32767, S), f(9, 32767, F(4)), f(8, 32767, A(&T(&[f(8, 9, S), f(10, 32767, F(16)), f(8, 32767, A(&F(4), 4))]), 96))]), 120)), f(7, 32767, F(1))] }),
    // FindCoordinatorRequest
    (10, Message { flexible_version: 3, fields: &[f(0, 3, S), f(1, 32767, F(1)), f(4, 32767, A(&S, 32))] }),
    // JoinGroupRequest
    (11, Message { flexible_version: 6, fields: &[f(0, 32767, S), f(0, 32767, F(4)), f(1, 32767, F(4)), f(0, 32767, S), f(5, 32767, S), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, B)]), 88)), f(8, 32767, S)] }),
    // HeartbeatRequest
    (12, Message { flexible_version: 4, fields: &[f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, S), f(3, 32767, S)] }),
    // LeaveGroupRequest
    (13, Message { flexible_version: 4, fields: &[f(0, 32767, S), f(0, 2, S), f(3, 32767, A(&T(&[f(3, 32767, S), f(3, 32767, S), f(5, 32767, S)]), 120))] }),
    // SyncGroupRequest
    (14, Message { flexible_version: 4, fields: &[f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, S), f(3, 32767, S), f(5, 32767, S), f(5, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, B)]), 88))] }),
    // DescribeGroupsRequest
    (15, Message { flexible_version: 5, fields: &[f(0, 32767, A(&S, 32)), f(3, 32767, F(1))] }),
    // ListGroupsRequest
    (16, Message { flexible_version: 3, fields: &[f(4, 32767, A(&S, 32)), f(5, 32767, A(&S, 32))] }),
    // SaslHandshakeRequest
    (17, Message { flexible_version: 32767, fields: &[f(0, 32767, S)] }),
    // ApiVersionsRequest
    (18, Message { flexible_version: 3, fields: &[f(3, 32767, S), f(3, 32767, S), f(5, 32767, S), f(5, 32767, F(4))] }),
    // CreateTopicsRequest
    (19, Message { flexible_version: 5, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, A(&F(4), 4))]), 56)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88))]), 112)), f(0, 32767, F(4)), f(1, 32767, F(1))] }),
    // DeleteTopicsRequest
    (20, Message { flexible_version: 4, fields: &[f(6, 32767, A(&T(&[f(6, 32767, S), f(6, 32767, F(16))]), 72)), f(0, 5, A(&S, 32)), f(0, 32767, F(4))] }),
    // DeleteRecordsRequest
    (21, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(8))]), 40))]), 80)), f(0, 32767, F(4))] }),
    // InitProducerIdRequest
    (22, Message { flexible_version: 2, fields: &[f(0, 32767, S), f(0, 32767, F(4)), f(3, 32767, F(8)), f(3, 32767, F(2)), f(6, 32767, F(1)), f(6, 32767, F(1))] }),
    // OffsetForLeaderEpochRequest
    (23, Message { flexible_version: 4, fields: &[f(3, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(2, 32767, F(4)), f(0, 32767, F(4))]), 40))]), 80))] }),
    // AddPartitionsToTxnRequest
    (24, Message { flexible_version: 3, fields: &[f(4, 32767, A(&T(&[f(4, 32767, S), f(4, 32767, F(8)), f(4, 32767, F(2)), f(4, 32767, F(1)), f(4, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))]), 96)), f(0, 3, S), f(0, 3, F(8)), f(0, 3, F(2)), f(0, 3, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))] }),
    // AddOffsetsToTxnRequest
    (25, Message { flexible_version: 3, fields: &[f(0, 32767, S), f(0, 32767, F(8)), f(0, 32767, F(2)), f(0, 32767, S)] }),
    // EndTxnRequest
    (26, Message { flexible_version: 3, fields: &[f(0, 32767, S), f(0, 32767, F(8)), f(0, 32767, F(2)), f(0, 32767, F(1))] }),
    // WriteTxnMarkersRequest
    (27, Message { flexible_version: 1, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(8)), f(0, 32767, F(2)), f(0, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80)), f(0, 32767, F(4)), f(2, 32767, F(1))]), 72))] }),
    // TxnOffsetCommitRequest
    (28, Message { flexible_version: 3, fields: &[f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(8)), f(0, 32767, F(2)), f(3, 32767, F(4)), f(3, 32767, S), f(3, 32767, S), f(0, 32767, A(&T(&[f(0, 5, S), f(6, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(8)), f(2, 32767, F(4)), f(0, 32767, S)]), 72))]), 96))] }),
    // DescribeAclsRequest
    (29, Message { flexible_version: 2, fields: &[f(0, 32767, F(1)), f(0, 32767, S), f(1, 32767, F(1)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, F(1))] }),
    // CreateAclsRequest
    (30, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, S), f(1, 32767, F(1)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, F(1))]), 136))] }),
    // DeleteAclsRequest
    (31, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, S), f(1, 32767, F(1)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, F(1))]), 136))] }),
    // DescribeConfigsRequest
    (32, Message { flexible_version: 4, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, S), f(0, 32767, A(&S, 32))]), 88)), f(1, 32767, F(1)), f(3, 32767, F(1))] }),
    // AlterConfigsRequest
    (33, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88))]), 88)), f(0, 32767, F(1))] }),
    // AlterReplicaLogDirsRequest
    (34, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))]), 80))] }),
    // DescribeLogDirsRequest
    (35, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))] }),
    // SaslAuthenticateRequest
    (36, Message { flexible_version: 2, fields: &[f(0, 32767, B)] }),
    // CreatePartitionsRequest
    (37, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, A(&F(4), 4))]), 48))]), 88)), f(0, 32767, F(4)), f(0, 32767, F(1))] }),
    // CreateDelegationTokenRequest
    (38, Message { flexible_version: 2, fields: &[f(3, 32767, S), f(3, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88)), f(0, 32767, F(8))] }),
    // RenewDelegationTokenRequest
    (39, Message { flexible_version: 2, fields: &[f(0, 32767, B), f(0, 32767, F(8))] }),
    // ExpireDelegationTokenRequest
    (40, Message { flexible_version: 2, fields: &[f(0, 32767, B), f(0, 32767, F(8))] }),
    // DescribeDelegationTokenRequest
    (41, Message { flexible_version: 2, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88))] }),
    // DeleteGroupsRequest
    (42, Message { flexible_version: 2, fields: &[f(0, 32767, A(&S, 32))] }),
    // ElectLeadersRequest
    (43, Message { flexible_version: 2, fields: &[f(1, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80)), f(0, 32767, F(4))] }),
    // IncrementalAlterConfigsRequest
    (44, Message { flexible_version: 1, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, S)]), 96))]), 88)), f(0, 32767, F(1))] }),
    // AlterPartitionReassignmentsRequest
    (45, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(1, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, A(&F(4), 4))]), 56))]), 80))] }),
    // ListPartitionReassignmentsRequest
    (46, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))] }),
    // OffsetDeleteRequest
    (47, Message { flexible_version: 32767, fields: &[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4))]), 8))]), 56))] }),
    // DescribeClientQuotasRequest
    (48, Message { flexible_version: 1, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, S)]), 96)), f(0, 32767, F(1))] }),
    // AlterClientQuotasRequest
    (49, Message { flexible_version: 1, fields: &[f(0, 32767, A(&T(&[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(8)), f(0, 32767, F(1))]), 72))]), 72)), f(0, 32767, F(1))] }),
    // DescribeUserScramCredentialsRequest
    (50, Message { flexible_version: 0, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S)]), 56))] }),
    // AlterUserScramCredentialsRequest
    (51, Message { flexible_version: 0, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(1))]), 64)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, F(4)), f(0, 32767, B), f(0, 32767, B)]), 128))] }),
    // DescribeQuorumRequest
    (55, Message { flexible_version: 0, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4))]), 32))]), 80))] }),
    // AlterPartitionRequest
    (56, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(8)), f(0, 32767, A(&T(&[f(2, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 2, A(&F(4), 4)), f(3, 32767, A(&T(&[f(3, 32767, F(4)), f(3, 32767, F(8))]), 40)), f(1, 32767, F(1)), f(0, 32767, F(4))]), 88))]), 64))] }),
    // UpdateFeaturesRequest
    (57, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(2)), f(0, 0, F(1)), f(1, 32767, F(1))]), 72)), f(1, 32767, F(1))] }),
    // DescribeClusterRequest
    (60, Message { flexible_version: 0, fields: &[f(0, 32767, F(1)), f(1, 32767, F(1)), f(2, 32767, F(1))] }),
    // DescribeProducersRequest
    (61, Message { flexible_version: 0, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))] }),
    // UnregisterBrokerRequest
    (64, Message { flexible_version: 0, fields: &[f(0, 32767, F(4))] }),
    // DescribeTransactionsRequest
    (65, Message { flexible_version: 0, fields: &[f(0, 32767, A(&S, 32))] }),
    // ListTransactionsRequest
    (66, Message { flexible_version: 0, fields: &[f(0, 32767, A(&S, 32)), f(0, 32767, A(&F(8), 8)), f(1, 32767, F(8)), f(2, 32767, S)] }),
    // ConsumerGroupHeartbeatRequest
    (68, Message { flexible_version: 0, fields: &[f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, A(&S, 32)), f(1, 32767, S), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(16)), f(0, 32767, A(&F(4), 4))]), 64))] }),
    // ConsumerGroupDescribeRequest
    (69, Message { flexible_version: 0, fields: &[f(0, 32767, A(&S, 32)), f(0, 32767, F(1))] }),
    // ListConfigResourcesRequest
    (74, Message { flexible_version: 0, fields: &[f(1, 32767, A(&F(1), 1))] }),
    // DescribeTopicPartitionsRequest
    (75, Message { flexible_version: 0, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S)]), 56)), f(0, 32767, F(4)), f(0, 32767, N(&[f(0, 32767, S), f(0, 32767, F(4))]))] }),
];

/// The responses, in the order of their API keys.
pub static RESPONSES: &[(i16, Message)] = &[
    // ProduceResponse
    (0, Message { flexible_version: 9, fields: &[f(0, 32767, A(&T(&[f(0, 12, S), f(13, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, F(8)), f(2, 32767, F(8)), f(5, 32767, F(8)), f(8, 32767, A(&T(&[f(8, 32767, F(4)), f(8, 32767, S)]), 64)), f(8, 32767, S), t(0, 10, 32767, T(&[f(10, 32767, F(4)), f(10, 32767, F(4))]))]), 144))]), 96)), f(1, 32767, F(4)), t(0, 10, 32767, A(&T(&[f(10, 32767, F(4)), f(10, 32767, S), f(10, 32767, F(4)), f(10, 32767, S)]), 96))] }),
    // FetchResponse
    (1, Message { flexible_version: 12, fields: &[f(1, 32767, F(4)), f(7, 32767, F(2)), f(7, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 12, S), f(13, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, F(8)), f(4, 32767, F(8)), f(5, 32767, F(8)), t(0, 12, 32767, T(&[f(12, 32767, F(4)), f(12, 32767, F(8))])), t(1, 12, 32767, T(&[f(12, 32767, F(4)), f(12, 32767, F(4))])), t(2, 12, 32767, T(&[f(0, 32767, F(8)), f(0, 32767, F(4))])), f(4, 32767, A(&T(&[f(4, 32767, F(8)), f(4, 32767, F(8))]), 40)), f(11, 32767, F(4)), f(0, 32767, B)]), 232))]), 96)), t(0, 16, 32767, A(&T(&[f(16, 32767, F(4)), f(16, 32767, S), f(16, 32767, F(4)), f(16, 32767, S)]), 96))] }),
    // ListOffsetsResponse
    (2, Message { flexible_version: 6, fields: &[f(2, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(1, 32767, F(8)), f(1, 32767, F(8)), f(4, 32767, F(4))]), 56))]), 80))] }),
    // MetadataResponse
    (3, Message { flexible_version: 9, fields: &[f(3, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, S), f(0, 32767, F(4)), f(1, 32767, S)]), 96)), f(2, 32767, S), f(1, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(10, 32767, F(16)), f(1, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, F(4)), f(0, 32767, F(4)), f(7, 32767, F(4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4)), f(5, 32767, A(&F(4), 4))]), 112)), f(8, 32767, F(4))]), 112)), f(8, 10, F(4)), f(13, 32767, F(2))] }),
    // OffsetCommitResponse
    (8, Message { flexible_version: 8, fields: &[f(3, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 9, S), f(10, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 32))]), 96))] }),
    // OffsetFetchResponse
    (9, Message { flexible_version: 6, fields: &[f(3, 32767, F(4)), f(0, 7, A(&T(&[f(0, 7, S), f(0, 7, A(&T(&[f(0, 7, F(4)), f(0, 7, F(8)), f(5, 7, F(4)), f(0, 7, S), f(0, 7, F(2))]), 80))]), 80)), f(2, 7, F(2)), f(8, 32767, A(&T(&[f(8, 32767, S), f(8, 32767, A(&T(&[f(8, 9, S), f(10, 32767, F(16)), f(8, 32767, A(&T(&[f(8, 32767, F(4)), f(8, 32767, F(8)), f(8, 32767, F(4)), f(8, 32767, S), f(8, 32767, F(2))]), 80))]), 96)), f(8, 32767, F(2))]), 88))] }),
    // FindCoordinatorResponse
    (10, Message { flexible_version: 3, fields: &[f(1, 32767, F(4)), f(0, 3, F(2)), f(1, 3, S), f(0, 3, F(4)), f(0, 3, S), f(0, 3, F(4)), f(4, 32767, A(&T(&[f(4, 32767, S), f(4, 32767, F(4)), f(4, 32767, S), f(4, 32767, F(4)), f(4, 32767, F(2)), f(4, 32767, S)]), 136))] }),
    // JoinGroupResponse
    (11, Message { flexible_version: 6, fields: &[f(2, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, F(4)), f(7, 32767, S), f(0, 32767, S), f(0, 32767, S), f(9, 32767, F(1)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(5, 32767, S), f(0, 32767, B)]), 120))] }),
    // HeartbeatResponse
    (12, Message { flexible_version: 4, fields: &[f(1, 32767, F(4)), f(0, 32767, F(2))] }),
    // LeaveGroupResponse
    (13, Message { flexible_version: 4, fields: &[f(1, 32767, F(4)), f(0, 32767, F(2)), f(3, 32767, A(&T(&[f(3, 32767, S), f(3, 32767, S), f(3, 32767, F(2))]), 96))] }),
    // SyncGroupResponse
    (14, Message { flexible_version: 4, fields: &[f(1, 32767, F(4)), f(0, 32767, F(2)), f(5, 32767, S), f(5, 32767, S), f(0, 32767, B)] }),
    // DescribeGroupsResponse
    (15, Message { flexible_version: 5, fields: &[f(1, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(6, 32767, S), f(0, 32767, S), f(0, 32767, S), f(0, 32767, S), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(4, 32767, S), f(0, 32767, S), f(0, 32767, S), f(0, 32767, B), f(0, 32767, B)]), 216)), f(3, 32767, F(4))]), 216))] }),
    // ListGroupsResponse
    (16, Message { flexible_version: 3, fields: &[f(1, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S), f(4, 32767, S), f(5, 32767, S)]), 152))] }),
    // SaslHandshakeResponse
    (17, Message { flexible_version: 32767, fields: &[f(0, 32767, F(2)), f(0, 32767, A(&S, 32))] }),
    // ApiVersionsResponse
    (18, Message { flexible_version: 3, fields: &[f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, F(2)), f(0, 32767, F(2))]), 40)), f(1, 32767, F(4)), t(0, 3, 32767, A(&T(&[f(3, 32767, S), f(3, 32767, F(2)), f(3, 32767, F(2))]), 64)), t(1, 3, 32767, F(8)), t(2, 3, 32767, A(&T(&[f(3, 32767, S), f(3, 32767, F(2)), f(3, 32767, F(2))]), 64)), t(3, 3, 32767, F(1))] }),
    // CreateTopicsResponse
    (19, Message { flexible_version: 5, fields: &[f(2, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(7, 32767, F(16)), f(0, 32767, F(2)), f(1, 32767, S), t(0, 5, 32767, F(2)), f(5, 32767, F(4)), f(5, 32767, F(2)), f(5, 32767, A(&T(&[f(5, 32767, S), f(5, 32767, S), f(5, 32767, F(1)), f(5, 32767, F(1)), f(5, 32767, F(1))]), 104))]), 144))] }),
    // DeleteTopicsResponse
    (20, Message { flexible_version: 4, fields: &[f(1, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(6, 32767, F(16)), f(0, 32767, F(2)), f(5, 32767, S)]), 112))] }),
    // DeleteRecordsResponse
    (21, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(8)), f(0, 32767, F(2))]), 40))]), 80))] }),
    // InitProducerIdResponse
    (22, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, F(8)), f(0, 32767, F(2)), f(6, 32767, F(8)), f(6, 32767, F(2))] }),
    // OffsetForLeaderEpochResponse
    (23, Message { flexible_version: 4, fields: &[f(2, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, F(4)), f(1, 32767, F(4)), f(0, 32767, F(8))]), 48))]), 80))] }),
    // AddPartitionsToTxnResponse
    (24, Message { flexible_version: 3, fields: &[f(0, 32767, F(4)), f(4, 32767, F(2)), f(4, 32767, A(&T(&[f(4, 32767, S), f(4, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 32))]), 80))]), 80)), f(0, 3, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 32))]), 80))] }),
    // AddOffsetsToTxnResponse
    (25, Message { flexible_version: 3, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2))] }),
    // EndTxnResponse
    (26, Message { flexible_version: 3, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(5, 32767, F(8)), f(5, 32767, F(2))] }),
    // WriteTxnMarkersResponse
    (27, Message { flexible_version: 1, fields: &[f(0, 32767, A(&T(&[f(0, 32767, F(8)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 32))]), 80))]), 56))] }),
    // TxnOffsetCommitResponse
    (28, Message { flexible_version: 3, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 5, S), f(6, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 32))]), 96))] }),
    // DescribeAclsResponse
    (29, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, S), f(1, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, F(1))]), 96))]), 88))] }),
    // CreateAclsResponse
    (30, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S)]), 64))] }),
    // DeleteAclsResponse
    (31, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, S), f(1, 32767, F(1)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, F(1))]), 176))]), 88))] }),
    // DescribeConfigsResponse
    (32, Message { flexible_version: 4, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(1)), f(1, 32767, F(1)), f(0, 32767, F(1)), f(1, 32767, A(&T(&[f(1, 32767, S), f(1, 32767, S), f(1, 32767, F(1))]), 96)), f(3, 32767, F(1)), f(3, 32767, S)]), 160))]), 120))] }),
    // AlterConfigsResponse
    (33, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, S)]), 96))] }),
    // AlterReplicaLogDirsResponse
    (34, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 32))]), 80))] }),
    // DescribeLogDirsResponse
    (35, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(3, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(8)), f(0, 32767, F(8)), f(0, 32767, F(1))]), 48))]), 80)), f(4, 32767, F(8)), f(4, 32767, F(8)), f(5, 32767, F(1))]), 104))] }),
    // SaslAuthenticateResponse
    (36, Message { flexible_version: 2, fields: &[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, B), f(1, 32767, F(8))] }),
    // CreatePartitionsResponse
    (37, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(2)), f(0, 32767, S)]), 96))] }),
    // CreateDelegationTokenResponse
    (38, Message { flexible_version: 2, fields: &[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, S), f(3, 32767, S), f(3, 32767, S), f(0, 32767, F(8)), f(0, 32767, F(8)), f(0, 32767, F(8)), f(0, 32767, S), f(0, 32767, B), f(0, 32767, F(4))] }),
    // RenewDelegationTokenResponse
    (39, Message { flexible_version: 2, fields: &[f(0, 32767, F(2)), f(0, 32767, F(8)), f(0, 32767, F(4))] }),
    // ExpireDelegationTokenResponse
    (40, Message { flexible_version: 2, fields: &[f(0, 32767, F(2)), f(0, 32767, F(8)), f(0, 32767, F(4))] }),
    // DescribeDelegationTokenResponse
    (41, Message { flexible_version: 2, fields: &[f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S), f(3, 32767, S), f(3, 32767, S), f(0, 32767, F(8)), f(0, 32767, F(8)), f(0, 32767, F(8)), f(0, 32767, S), f(0, 32767, B), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88))]), 264)), f(0, 32767, F(4))] }),
    // DeleteGroupsResponse
    (42, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(2)), f(3, 32767, S)]), 96))] }),
    // ElectLeadersResponse
    (43, Message { flexible_version: 2, fields: &[f(0, 32767, F(4)), f(1, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S)]), 64))]), 80))] }),
    // IncrementalAlterConfigsResponse
    (44, Message { flexible_version: 1, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, F(1)), f(0, 32767, S)]), 96))] }),
    // AlterPartitionReassignmentsResponse
    (45, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(1, 32767, F(1)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S)]), 64))]), 80))] }),
    // ListPartitionReassignmentsResponse
    (46, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4))]), 104))]), 80))] }),
    // OffsetDeleteResponse
    (47, Message { flexible_version: 32767, fields: &[f(0, 32767, F(2)), f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2))]), 8))]), 56))] }),
    // DescribeClientQuotasResponse
    (48, Message { flexible_version: 1, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(8))]), 64))]), 72))] }),
    // AlterClientQuotasResponse
    (49, Message { flexible_version: 1, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S)]), 88))]), 88))] }),
    // DescribeUserScramCredentialsResponse
    (50, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(1)), f(0, 32767, F(4))]), 32))]), 120))] }),
    // AlterUserScramCredentialsResponse
    (51, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(2)), f(0, 32767, S)]), 96))] }),
    // DescribeQuorumResponse
    (55, Message { flexible_version: 0, fields: &[f(0, 32767, F(2)), f(2, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(2, 32767, S), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, F(8)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(2, 32767, F(16)), f(0, 32767, F(8)), f(1, 32767, F(8)), f(1, 32767, F(8))]), 72)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(2, 32767, F(16)), f(0, 32767, F(8)), f(1, 32767, F(8)), f(1, 32767, F(8))]), 72))]), 128))]), 80)), f(2, 32767, A(&T(&[f(2, 32767, F(4)), f(2, 32767, A(&T(&[f(2, 32767, S), f(2, 32767, S), f(2, 32767, F(2))]), 96))]), 56))] }),
    // AlterPartitionResponse
    (56, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(2, 32767, F(16)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, A(&F(4), 4)), f(1, 32767, F(1)), f(0, 32767, F(4))]), 72))]), 64))] }),
    // UpdateFeaturesResponse
    (57, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 1, A(&T(&[f(0, 32767, S), f(0, 32767, F(2)), f(0, 32767, S)]), 96))] }),
    // DescribeClusterResponse
    (60, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(1, 32767, F(1)), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, S), f(2, 32767, F(1))]), 104)), f(0, 32767, F(4))] }),
    // DescribeProducersResponse
    (61, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, F(8)), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, F(8)), f(0, 32767, F(4)), f(0, 32767, F(8))]), 64))]), 88))]), 80))] }),
    // UnregisterBrokerResponse
    (64, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S)] }),
    // DescribeTransactionsResponse
    (65, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, F(8)), f(0, 32767, F(8)), f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 80))]), 144))] }),
    // ListTransactionsResponse
    (66, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, A(&S, 32)), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, F(8)), f(0, 32767, S)]), 96))] }),
    // ConsumerGroupHeartbeatResponse
    (68, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, N(&[f(0, 32767, A(&T(&[f(0, 32767, F(16)), f(0, 32767, A(&F(4), 4))]), 64))]))] }),
    // ConsumerGroupDescribeResponse
    (69, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, S), f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, S), f(0, 32767, S), f(0, 32767, F(4)), f(0, 32767, S), f(0, 32767, S), f(0, 32767, A(&S, 32)), f(0, 32767, S), f(0, 32767, T(&[f(0, 32767, A(&T(&[f(0, 32767, F(16)), f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 96))])), f(0, 32767, T(&[f(0, 32767, A(&T(&[f(0, 32767, F(16)), f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 96))])), f(1, 32767, F(1))]), 344)), f(0, 32767, F(4))]), 192))] }),
    // ListConfigResourcesResponse
    (74, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, F(2)), f(0, 32767, A(&T(&[f(0, 32767, S), f(1, 32767, F(1))]), 64))] }),
    // DescribeTopicPartitionsResponse
    (75, Message { flexible_version: 0, fields: &[f(0, 32767, F(4)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, S), f(0, 32767, F(16)), f(0, 32767, F(1)), f(0, 32767, A(&T(&[f(0, 32767, F(2)), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, F(4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4)), f(0, 32767, A(&F(4), 4))]), 160)), f(0, 32767, F(4))]), 112)), f(0, 32767, N(&[f(0, 32767, S), f(0, 32767, F(4))]))] }),
];

/// ConsumerProtocolSubscription, which is inside the bytes of other messages.
pub static CONSUMER_PROTOCOL_SUBSCRIPTION: Message = Message { flexible_version: 32767, fields: &[f(0, 32767, A(&S, 32)), f(0, 32767, B), f(1, 32767, A(&T(&[f(1, 32767, S), f(1, 32767, A(&F(4), 4))]), 56)), f(2, 32767, F(4)), f(3, 32767, S)] };

/// ConsumerProtocolAssignment, which is inside the bytes of other messages.
pub static CONSUMER_PROTOCOL_ASSIGNMENT: Message = Message { flexible_version: 32767, fields: &[f(0, 32767, A(&T(&[f(0, 32767, S), f(0, 32767, A(&F(4), 4))]), 56)), f(0, 32767, B)] };
