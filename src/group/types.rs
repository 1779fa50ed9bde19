//! What goes into and comes out of a group's state machine: configuration, time, actions, replies.

use bytes::Bytes;
pub use kafka_protocol::error::ResponseError as ErrorCode;

use super::records::GroupRecord;
use crate::runtime::Instant;

/// The generation of a group that never had a member.
pub const NO_GENERATION: i32 = -1;
/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// The monotonic clock: sessions and rebalances.
    pub instant: Instant,
    /// The wall clock in ms since 1970: commit timestamps and retention.
    pub unix_ms: i64,
}

/// A request that waits for its answer. The caller draws the numbers; each is used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// Records that were handed out to be appended. Unique within a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct AppendId(pub u64);

/// Kafka's broker configuration as far as groups care, and the planted bugs.
#[derive(Clone, Debug)]
pub struct GroupConfig {
    /// `group.initial.rebalance.delay.ms`: how long the first rebalance of an empty group waits for more members.
    pub initial_rebalance_delay_ms: i32,
    /// How long a new member, which cannot send heartbeats yet, may wait in JoinGroup, in ms. Kafka's constant is five minutes.
    pub new_member_join_timeout_ms: i32,
    /// `group.max.size`: members that a group may have.
    pub max_size: usize,
    /// Member ids that a group may have handed out and not seen again (KIP-394); bounds memory.
    pub pending_members_max: usize,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `offset.metadata.max.bytes`; Kafka counts UTF-16 units.
    pub offset_metadata_max_bytes: usize,
    /// `offsets.retention.minutes`, in ms.
    pub offsets_retention_ms: i64,
    /// Historic bugs.
    pub plants: Plants,
}

impl Default for GroupConfig {
    /// Kafka's defaults.
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3_000,
            new_member_join_timeout_ms: 5 * 60 * 1_000,
            max_size: i32::MAX as usize,
            pending_members_max: 10_000,
            min_session_timeout_ms: 6_000,
            max_session_timeout_ms: 30 * 60 * 1_000,
            offset_metadata_max_bytes: 4_096,
            offsets_retention_ms: 7 * 24 * 60 * 60 * 1_000,
            plants: Plants::default(),
        }
    }
}

/// Historic bugs that the simulator can switch on; all off outside it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plants {
    /// Commits are taken from whoever sends them, whatever its generation (KIP-447, KAFKA-19779).
    pub zombie_commit: bool,
    /// Offsets expire while the group rebalances, when no topic counts as subscribed (KAFKA-13636).
    pub offsets_expire_while_rebalancing: bool,
    /// A rebalance keeps the generation, so members of the one before stay welcome.
    pub generation_not_bumped: bool,
}

/// Where a group is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// No members; perhaps offsets.
    Empty,
    /// Waiting for the members to (re)join.
    PreparingRebalance,
    /// The generation is fixed; waiting for the leader's assignment to arrive and to be committed.
    CompletingRebalance,
    /// Every member can have its assignment.
    Stable,
    /// Being removed, or no longer this broker's.
    Dead,
}

impl State {
    /// Kafka's name, as ListGroups and DescribeGroups say it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
            Self::Dead => "Dead",
        }
    }
}

/// What the caller must do after an event, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Answer a request. Each request is answered exactly once.
    Reply {
        /// Which.
        request: RequestId,
        /// With what.
        reply: Reply,
    },
    /// Append the records to the group's partition, after all that were handed out before, and report by [`Group::append_done`](super::state::Group::append_done).
    Append {
        /// The name to report under.
        append: AppendId,
        /// The records, all or none of which take effect.
        records: Vec<GroupRecord>,
    },
}

/// The answer to a request that waited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// To JoinGroup.
    Join(JoinReply),
    /// To SyncGroup.
    Sync(Result<SyncReply, ErrorCode>),
    /// To whatever only waits for the log: commits and removals.
    Written(Result<(), ErrorCode>),
}

/// The answer to JoinGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinReply {
    /// Why not, if not.
    pub error: Option<ErrorCode>,
    /// The member's id, which may be news to it.
    pub member_id: String,
    /// The generation, or [`NO_GENERATION`].
    pub generation: i32,
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The protocol that was chosen.
    pub protocol: Option<String>,
    /// Member id of the leader; empty in errors.
    pub leader: String,
    /// Whether the leader must leave the assignment as it is (KIP-814).
    pub skip_assignment: bool,
    /// The members, for the leader only.
    pub members: Vec<JoinMember>,
}

impl JoinReply {
    pub(super) fn error(error: ErrorCode, member_id: &str) -> Self {
        Self {
            error: Some(error),
            member_id: member_id.to_owned(),
            generation: NO_GENERATION,
            protocol_type: None,
            protocol: None,
            leader: String::new(),
            skip_assignment: false,
            members: Vec::new(),
        }
    }
}

/// A member as the leader sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinMember {
    /// Its id.
    pub member_id: String,
    /// `group.instance.id`, if it is static.
    pub instance_id: Option<String>,
    /// Its metadata for the chosen protocol.
    pub metadata: Bytes,
}

/// The answer to SyncGroup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncReply {
    /// The group's protocol type.
    pub protocol_type: Option<String>,
    /// The protocol that was chosen.
    pub protocol: Option<String>,
    /// What the leader assigned to the member.
    pub assignment: Bytes,
}

/// A group as DescribeGroups tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupDescription {
    /// Its state.
    pub state: State,
    /// Its protocol type; empty if none.
    pub protocol_type: String,
    /// The chosen protocol; empty unless stable.
    pub protocol: String,
    /// Its members.
    pub members: Vec<MemberDescription>,
}

/// A member as DescribeGroups tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberDescription {
    /// Its id.
    pub member_id: String,
    /// `group.instance.id`, if it is static.
    pub instance_id: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's address.
    pub client_host: String,
    /// Its metadata for the chosen protocol; empty unless stable.
    pub metadata: Bytes,
    /// Its assignment; empty unless stable.
    pub assignment: Bytes,
}
