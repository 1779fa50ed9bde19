//! The classic consumer groups' APIs: find the coordinator, then hand over to it.

use std::sync::Arc;

use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{
    BrokerId, DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, FindCoordinatorRequest, FindCoordinatorResponse,
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, ListGroupsRequest, ListGroupsResponse,
    OffsetCommitRequest, OffsetCommitResponse, OffsetDeleteRequest, OffsetDeleteResponse, OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest,
    SyncGroupResponse,
};
use kafka_protocol::protocol::StrBytes;

use super::{Context, endpoint, string};
use crate::broker::Broker;
use crate::controller::image::CONSUMER_OFFSETS_TOPIC;
use crate::group::coordinator::ClientInfo;
use crate::runtime::Runtime;

/// `key type` of consumer groups.
const GROUP: i8 = 0;
/// `key type` of transactional ids.
const TRANSACTION: i8 = 1;

/// FindCoordinator. The first one makes `__consumer_offsets`.
pub async fn find_coordinator<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let batched = context.version >= 4;
    let keys = if batched { request.coordinator_keys.clone() } else { vec![request.key.clone()] };
    let mut coordinators = Vec::new();
    for key in keys {
        let found = Coordinator::default().with_key(key.clone());
        coordinators.push(match locate(&broker, &context, request.key_type, &key).await {
            Ok((id, host, port)) => found.with_node_id(BrokerId(id)).with_host(host).with_port(port),
            Err((error, message)) => found.with_node_id(BrokerId(-1)).with_port(-1).with_error_code(error.code()).with_error_message(Some(message)),
        });
    }
    if batched {
        return FindCoordinatorResponse::default().with_coordinators(coordinators);
    }
    let only = coordinators.pop().unwrap_or_default();
    FindCoordinatorResponse::default()
        .with_error_code(only.error_code)
        .with_error_message(if context.version >= 1 { only.error_message } else { None })
        .with_node_id(only.node_id)
        .with_host(only.host)
        .with_port(only.port)
}

async fn locate<R: Runtime>(broker: &Arc<Broker<R>>, context: &Context, key_type: i8, key: &str) -> Result<(i32, StrBytes, i32), (Error, StrBytes)> {
    match key_type {
        GROUP => {}
        TRANSACTION => {
            // librdkafka, which never goes beyond version 2, tries again for ever after any other error; what newer clients do not know
            // ends them at once, and of this one they tell the message.
            let error = if context.version <= 2 { Error::TransactionalIdAuthorizationFailed } else { Error::InvalidRequest };
            return Err((error, StrBytes::from_static_str("this broker has no transactions yet: produce without a transactional id")));
        }
        _ => return Err((Error::InvalidRequest, StrBytes::from_string(format!("coordinator key type {key_type} is not available on this broker")))),
    }
    if let Err(error) = broker.ensure_offsets_topic().await {
        tracing::warn!(%error, "__consumer_offsets could not be made");
        return Err((Error::CoordinatorNotAvailable, StrBytes::from_string(format!("__consumer_offsets could not be made: {error}"))));
    }
    let partition = broker.groups().partition_for(key);
    let image = broker.controller().image();
    let leader = image
        .topics
        .get(CONSUMER_OFFSETS_TOPIC)
        .and_then(|topic| topic.partitions.get(partition as usize))
        .and_then(|partition| image.brokers.get(&partition.leader));
    let endpoint = leader.and_then(|info| Some((info.id, endpoint(info, &context.peer.listener)?)));
    match endpoint {
        Some((id, at)) => Ok((id, string(&at.host), i32::from(at.port))),
        None => Err((Error::CoordinatorNotAvailable, StrBytes::from_static_str("the group's partition of __consumer_offsets has no leader now"))),
    }
}

/// JoinGroup.
pub async fn join<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: JoinGroupRequest) -> JoinGroupResponse {
    let host = format!("/{}", context.peer.address.ip());
    let client = ClientInfo { id: context.client_id.as_deref().unwrap_or_default(), host: &host };
    broker.groups().join_group(&request, context.version, client).await
}

/// SyncGroup.
pub async fn sync<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: SyncGroupRequest) -> SyncGroupResponse {
    broker.groups().sync_group(&request, context.version).await
}

/// Heartbeat.
pub async fn heartbeat<R: Runtime>(broker: Arc<Broker<R>>, _context: Context, request: HeartbeatRequest) -> HeartbeatResponse {
    broker.groups().heartbeat(&request).await
}

/// LeaveGroup.
pub async fn leave<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: LeaveGroupRequest) -> LeaveGroupResponse {
    broker.groups().leave_group(&request, context.version).await
}

/// OffsetCommit.
pub async fn offset_commit<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: OffsetCommitRequest) -> OffsetCommitResponse {
    broker.groups().offset_commit(&request, context.version).await
}

/// OffsetFetch.
pub async fn offset_fetch<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: OffsetFetchRequest) -> OffsetFetchResponse {
    broker.groups().offset_fetch(&request, context.version).await
}

/// OffsetDelete.
pub async fn offset_delete<R: Runtime>(broker: Arc<Broker<R>>, _context: Context, request: OffsetDeleteRequest) -> OffsetDeleteResponse {
    broker.groups().offset_delete(&request).await
}

/// ListGroups.
pub async fn list<R: Runtime>(broker: Arc<Broker<R>>, _context: Context, request: ListGroupsRequest) -> ListGroupsResponse {
    broker.groups().list_groups(&request).await
}

/// DescribeGroups.
pub async fn describe<R: Runtime>(broker: Arc<Broker<R>>, context: Context, request: DescribeGroupsRequest) -> DescribeGroupsResponse {
    broker.groups().describe_groups(&request, context.version).await
}

/// DeleteGroups.
pub async fn delete<R: Runtime>(broker: Arc<Broker<R>>, _context: Context, request: DeleteGroupsRequest) -> DeleteGroupsResponse {
    broker.groups().delete_groups(&request).await
}
