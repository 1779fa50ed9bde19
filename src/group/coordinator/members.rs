//! JoinGroup, SyncGroup, Heartbeat, LeaveGroup.

use bytes::Bytes;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::messages::{
    HeartbeatRequest, HeartbeatResponse, JoinGroupRequest, JoinGroupResponse, LeaveGroupRequest, LeaveGroupResponse, SyncGroupRequest, SyncGroupResponse,
};

use super::{ClientInfo, GroupCoordinator, own, reply, text};
use crate::group::membership::{JoinRequest, LeavingMember, SyncRequest};
use crate::group::state::{ErrorCode, JoinReply, Reply, RequestId};
use crate::internal_topic::InternalLog;
use crate::runtime::Runtime;

/// The first version of JoinGroup whose members must join again with the id that they are given (KIP-394).
const JOIN_REQUIRES_KNOWN_MEMBER_ID: i16 = 4;
/// The first version of JoinGroup that can say so if there is no protocol.
const JOIN_NULLABLE_PROTOCOL: i16 = 7;
/// The first version of JoinGroup whose leader can be told to skip the assignment (KIP-814).
const JOIN_SKIPS_ASSIGNMENT: i16 = 9;
/// The first version of SyncGroup that must name the protocol (KIP-559).
const SYNC_NAMES_PROTOCOL: i16 = 5;
/// The first version of LeaveGroup with several members (KIP-345).
const LEAVE_IN_BATCHES: i16 = 3;

impl<R: Runtime, L: InternalLog> GroupCoordinator<R, L> {
    /// JoinGroup 0 to 9. Waits until the rebalance is over: at most the greatest rebalance time-out, or five minutes for new members.
    pub async fn join_group(&self, request: &JoinGroupRequest, version: i16, client: ClientInfo<'_>) -> JoinGroupResponse {
        let joined = match self.start_join(request, version, client) {
            Ok(waiting) => match reply(waiting).await {
                Ok(Reply::Join(joined)) => Ok(joined),
                Ok(Reply::Sync(_) | Reply::Written(_)) => unreachable!("a join is answered as a join"),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        join_response(joined.unwrap_or_else(|error| JoinReply::error(error, &request.member_id)), version)
    }

    fn start_join(&self, request: &JoinGroupRequest, version: i16, client: ClientInfo<'_>) -> Result<tokio::sync::oneshot::Receiver<Reply>, ErrorCode> {
        let group_id = checked_group_id(&request.group_id)?;
        let config = &self.inner.group_config;
        if !(config.min_session_timeout_ms..=config.max_session_timeout_ms).contains(&request.session_timeout_ms) {
            return Err(ErrorCode::InvalidSessionTimeout);
        }
        let is_unknown = request.member_id.is_empty();
        let instance_id = own(request.group_instance_id.as_ref());
        let new_member_id = format!("{}-{}", instance_id.as_deref().unwrap_or(client.id), self.random_uuid());
        tracing::debug!(group = group_id, member = %request.member_id, client = client.id, reason = request.reason.as_deref().unwrap_or("not provided"), "joins");
        let join = JoinRequest {
            request: RequestId(0),
            member_id: request.member_id.to_string(),
            new_member_id,
            instance_id,
            client_id: client.id.to_owned(),
            client_host: client.host.to_owned(),
            session_timeout_ms: request.session_timeout_ms,
            // Version 0 has one time-out for both.
            rebalance_timeout_ms: if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms },
            protocol_type: request.protocol_type.to_string(),
            // Copied: a slice would keep the whole request in memory as long as the member is there.
            protocols: request.protocols.iter().map(|protocol| (protocol.name.to_string(), Bytes::copy_from_slice(&protocol.metadata))).collect(),
            requires_known_member_id: version >= JOIN_REQUIRES_KNOWN_MEMBER_ID,
            supports_skipping_assignment: version >= JOIN_SKIPS_ASSIGNMENT,
        };
        let waiting = self.with_group(group_id, is_unknown, |state, now| {
            let (request, waiting) = state.wait();
            let actions = state.group.join(JoinRequest { request, ..join }, now);
            (waiting, actions)
        })?;
        waiting.ok_or(ErrorCode::UnknownMemberId)
    }

    /// SyncGroup 0 to 5. Waits until the leader's assignment is committed: at most the greatest rebalance time-out.
    pub async fn sync_group(&self, request: &SyncGroupRequest, version: i16) -> SyncGroupResponse {
        let synced = match self.start_sync(request, version) {
            Ok(waiting) => match reply(waiting).await {
                Ok(Reply::Sync(synced)) => synced,
                Ok(Reply::Join(_) | Reply::Written(_)) => unreachable!("a sync is answered as a sync"),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match synced {
            Ok(synced) => SyncGroupResponse::default()
                .with_protocol_type(synced.protocol_type.map(text))
                .with_protocol_name(synced.protocol.map(text))
                .with_assignment(synced.assignment),
            Err(error) => SyncGroupResponse::default().with_error_code(error.code()),
        }
    }

    fn start_sync(&self, request: &SyncGroupRequest, version: i16) -> Result<tokio::sync::oneshot::Receiver<Reply>, ErrorCode> {
        let group_id = checked_group_id(&request.group_id)?;
        if version >= SYNC_NAMES_PROTOCOL && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        let sync = SyncRequest {
            request: RequestId(0),
            member_id: request.member_id.to_string(),
            instance_id: own(request.group_instance_id.as_ref()),
            generation: request.generation_id,
            protocol_type: own(request.protocol_type.as_ref()),
            protocol: own(request.protocol_name.as_ref()),
            assignments: request.assignments.iter().map(|each| (each.member_id.to_string(), Bytes::copy_from_slice(&each.assignment))).collect(),
        };
        let waiting = self.with_group(group_id, false, |state, now| {
            let (request, waiting) = state.wait();
            let actions = state.group.sync(SyncRequest { request, ..sync }, now);
            (waiting, actions)
        });
        match waiting {
            Ok(waiting) => waiting.ok_or(ErrorCode::UnknownMemberId),
            // What the group was about to agree on went with its last coordinator: it must join again, and here. Old clients do not expect
            // COORDINATOR_LOAD_IN_PROGRESS to a sync.
            Err(ErrorCode::CoordinatorLoadInProgress) => Err(ErrorCode::RebalanceInProgress),
            Err(error) => Err(error),
        }
    }

    /// Heartbeat 0 to 4.
    pub async fn heartbeat(&self, request: &HeartbeatRequest) -> HeartbeatResponse {
        let beat = || {
            let group_id = checked_group_id(&request.group_id)?;
            let result = self.with_group(group_id, false, |state, now| {
                let result = state.group.heartbeat(&request.member_id, request.group_instance_id.as_deref(), request.generation_id, now);
                (result, Vec::new())
            });
            match result {
                Ok(Some(result)) => result,
                Ok(None) => Err(ErrorCode::UnknownMemberId),
                // Sessions start anew when the group is loaded.
                Err(ErrorCode::CoordinatorLoadInProgress) => Ok(()),
                Err(error) => Err(error),
            }
        };
        HeartbeatResponse::default().with_error_code(super::code(beat()))
    }

    /// LeaveGroup 0 to 5.
    pub async fn leave_group(&self, request: &LeaveGroupRequest, version: i16) -> LeaveGroupResponse {
        let leaving: Vec<LeavingMember> = if version < LEAVE_IN_BATCHES {
            vec![LeavingMember { member_id: request.member_id.to_string(), instance_id: None }]
        } else {
            let each = request.members.iter().map(|member| {
                tracing::debug!(group = %request.group_id.0, member = %member.member_id, reason = member.reason.as_deref().unwrap_or("not provided"), "leaves");
                LeavingMember { member_id: member.member_id.to_string(), instance_id: own(member.group_instance_id.as_ref()) }
            });
            each.collect()
        };
        let leave = || {
            let group_id = checked_group_id(&request.group_id)?;
            let results = self.with_group(group_id, false, |state, now| state.group.leave(&leaving, now))?;
            Ok(results.unwrap_or_else(|| vec![Err(ErrorCode::UnknownMemberId); leaving.len()]))
        };
        let results: Vec<Result<(), ErrorCode>> = match leave() {
            Ok(results) => results,
            Err(error) => return LeaveGroupResponse::default().with_error_code(ErrorCode::code(&error)),
        };
        if version < LEAVE_IN_BATCHES {
            return LeaveGroupResponse::default().with_error_code(super::code(results[0]));
        }
        let members = leaving.into_iter().zip(results).map(|(member, result)| {
            MemberResponse::default()
                .with_member_id(text(member.member_id))
                .with_group_instance_id(member.instance_id.map(text))
                .with_error_code(super::code(result))
        });
        LeaveGroupResponse::default().with_members(members.collect())
    }
}

/// A group with members has an id.
pub(super) fn checked_group_id(group_id: &kafka_protocol::messages::GroupId) -> Result<&str, ErrorCode> {
    if group_id.0.is_empty() { Err(ErrorCode::InvalidGroupId) } else { Ok(&group_id.0) }
}

fn join_response(joined: JoinReply, version: i16) -> JoinGroupResponse {
    let members = joined.members.into_iter().map(|member| {
        JoinGroupResponseMember::default()
            .with_member_id(text(member.member_id))
            .with_group_instance_id(member.instance_id.map(text))
            .with_metadata(member.metadata)
    });
    let protocol = joined.protocol.or((version < JOIN_NULLABLE_PROTOCOL).then(String::new));
    JoinGroupResponse::default()
        .with_error_code(joined.error.map_or(0, |error| error.code()))
        .with_generation_id(joined.generation)
        .with_protocol_type(joined.protocol_type.map(text))
        .with_protocol_name(protocol.map(text))
        .with_leader(text(joined.leader))
        .with_skip_assignment(joined.skip_assignment)
        .with_member_id(text(joined.member_id))
        .with_members(members.collect())
}
