//! ListGroups, DescribeGroups, DeleteGroups.

use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use kafka_protocol::messages::list_groups_response::ListedGroup;
use kafka_protocol::messages::{
    DeleteGroupsRequest, DeleteGroupsResponse, DescribeGroupsRequest, DescribeGroupsResponse, GroupId, ListGroupsRequest, ListGroupsResponse,
};

use super::{GroupCoordinator, SlotState, code, lock, text, written};
use crate::group::state::{ErrorCode, State};
use crate::internal_topic::InternalLog;
use crate::runtime::Runtime;

/// The type of all groups here, as ListGroups names and filters it (KIP-848).
const GROUP_TYPE: &str = "classic";
/// The first version of DescribeGroups that says that there is no such group, where older ones call it dead.
const DESCRIBE_TELLS_UNKNOWN_GROUP: i16 = 6;

impl<R: Runtime, L: InternalLog> GroupCoordinator<R, L> {
    /// ListGroups 0 to 5: the groups of all partitions that this broker leads. Filters ignore case, as Kafka's do.
    pub async fn list_groups(&self, request: &ListGroupsRequest) -> ListGroupsResponse {
        if lock(&self.inner.slots).values().any(|slot| matches!(slot.state, SlotState::Loading)) {
            return ListGroupsResponse::default().with_error_code(ErrorCode::CoordinatorLoadInProgress.code());
        }
        let listed = |filter: &[kafka_protocol::protocol::StrBytes], name: &str| {
            filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
        };
        let mut groups = Vec::new();
        for cell in self.shards().iter().flat_map(|shard| shard.cells()) {
            let state = lock(&cell.state);
            let name = state.group.state().name();
            if !state.gone && listed(&request.states_filter, name) && listed(&request.types_filter, GROUP_TYPE) {
                let group = ListedGroup::default()
                    .with_group_id(GroupId(text(&*cell.id)))
                    .with_protocol_type(text(state.group.protocol_type().unwrap_or_default()))
                    .with_group_state(text(name))
                    .with_group_type(text(GROUP_TYPE));
                groups.push(group);
            }
        }
        ListGroupsResponse::default().with_groups(groups)
    }

    /// DescribeGroups 0 to 6. Authorized operations are the caller's to add.
    pub async fn describe_groups(&self, request: &DescribeGroupsRequest, version: i16) -> DescribeGroupsResponse {
        let groups = request.groups.iter().map(|group_id| {
            let answer = DescribedGroup::default().with_group_id(group_id.clone());
            match self.with_group(&group_id.0, false, |state, _| (state.group.describe(), Vec::new())) {
                Ok(Some(group)) => {
                    let members = group.members.into_iter().map(|member| {
                        DescribedGroupMember::default()
                            .with_member_id(text(member.member_id))
                            .with_group_instance_id(member.instance_id.map(text))
                            .with_client_id(text(member.client_id))
                            .with_client_host(text(member.client_host))
                            .with_member_metadata(member.metadata)
                            .with_member_assignment(member.assignment)
                    });
                    answer
                        .with_group_state(text(group.state.name()))
                        .with_protocol_type(text(group.protocol_type))
                        .with_protocol_data(text(group.protocol))
                        .with_members(members.collect())
                }
                Ok(None) if version >= DESCRIBE_TELLS_UNKNOWN_GROUP => answer
                    .with_group_state(text(State::Dead.name()))
                    .with_error_code(ErrorCode::GroupIdNotFound.code())
                    .with_error_message(Some(text(format!("Group {} not found.", group_id.0)))),
                Ok(None) => answer.with_group_state(text(State::Dead.name())),
                Err(error) => answer.with_error_code(error.code()),
            }
        });
        DescribeGroupsResponse::default().with_groups(groups.collect())
    }

    /// DeleteGroups 0 to 2. Answered when the removals are committed.
    pub async fn delete_groups(&self, request: &DeleteGroupsRequest) -> DeleteGroupsResponse {
        let start = |group_id: &GroupId| {
            let started = self.with_group(&group_id.0, false, |state, now| {
                let (request, waiting) = state.wait();
                match state.group.delete(request, now) {
                    Ok(actions) => (Ok(waiting), actions),
                    Err(error) => {
                        state.forget(request);
                        (Err(error), Vec::new())
                    }
                }
            })?;
            started.ok_or(ErrorCode::GroupIdNotFound)?
        };
        // All are under way before the first is waited for: groups of one partition share its commit.
        let started: Vec<_> = request.groups_names.iter().map(|group_id| (group_id.clone(), start(group_id))).collect();
        let mut results = Vec::with_capacity(started.len());
        for (group_id, started) in started {
            let result = match started {
                Ok(waiting) => written(waiting).await,
                Err(error) => Err(error),
            };
            results.push(DeletableGroupResult::default().with_group_id(group_id).with_error_code(code(result)));
        }
        DeleteGroupsResponse::default().with_results(results)
    }
}
