//! From a frame to its handler: the broker's side of the table in `wire::api`.
//!
//! What must keep its place among a connection's requests (appends, session bookkeeping) runs within [`dispatch`]; what waits for others or for the
//! disk comes back as a future.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use kafka_protocol::messages::ApiKey;
use kafka_protocol::protocol::{Decodable, Encodable};
use smallvec::smallvec;

use super::Broker;
use super::connection::{Peer, Response};
use super::handlers::{self, Context};
use crate::runtime::Runtime;
use crate::wire::fetch::Part;
use crate::wire::frame::{self, RequestHeader};
use crate::wire::guard;

/// Bodies up to this are copied out of the chunk they were read into, where their request may outlast it.
const COPIED_BODY_BYTES: usize = 64 * 1024;

/// What becomes of a request.
pub enum Outcome<R: Runtime> {
    /// Answered.
    Reply(Response<R>),
    /// To be answered when the future completes.
    Later(BoxFuture<'static, Response<R>>),
    /// Wants no answer (`acks=0`).
    Nothing,
    /// Cannot be answered: the connection ends, as Kafka ends it.
    Close(String),
}

/// Handles one frame, without its length.
pub async fn dispatch<R: Runtime>(broker: &Arc<Broker<R>>, peer: &Peer, frame: Bytes) -> Outcome<R> {
    if let Some(outcome) = handlers::control::control(broker, &frame).await {
        return outcome;
    }
    let (header, body) = match frame::parse_request(frame) {
        Ok(parsed) => parsed,
        Err(error) => return Outcome::Close(error.to_string()),
    };
    let context = Context {
        version: header.version,
        // What outlives the request must not pin its frame.
        client_id: header.client_id.as_ref().map(|id| id.as_str().to_owned()),
        peer: peer.clone(),
    };
    let body = match header.api.key {
        // Done with their frame when they are dispatched.
        ApiKey::Produce | ApiKey::Fetch | ApiKey::ApiVersions => body,
        // A request that waits for others, minutes perhaps, must not hold a whole chunk for its few bytes.
        _ if body.len() <= COPIED_BODY_BYTES => Bytes::copy_from_slice(&body),
        _ => body,
    };

    /// Decodes the body as `$request`; one that is not closes the connection.
    macro_rules! decoded {
        ($request:ident) => {
            match decode::<kafka_protocol::messages::$request>(&header, body) {
                Ok(request) => request,
                Err(why) => return Outcome::Close(why),
            }
        };
    }
    /// A handler that answers at once.
    macro_rules! now {
        ($request:ident, |$name:ident| $answer:expr) => {{
            let $name = decoded!($request);
            match encode::<R, _>(&header, &$answer) {
                Ok(response) => Outcome::Reply(response),
                Err(why) => Outcome::Close(why),
            }
        }};
    }
    /// A handler that may wait: its future owns all it needs.
    macro_rules! later {
        ($request:ident, |$broker:ident, $context:ident, $name:ident| $answer:expr) => {{
            let $name = decoded!($request);
            let $broker = Arc::clone(broker);
            Outcome::Later(Box::pin(async move {
                let $context = context;
                let answer = $answer;
                encode::<R, _>(&header, &answer).unwrap_or_else(|why| {
                    tracing::error!(why, "a response could not be encoded");
                    encode_failure::<R>(&header)
                })
            }))
        }};
    }

    match header.api.key {
        ApiKey::Produce => handlers::produce::produce(broker, header, context, body).await,
        ApiKey::Fetch => handlers::fetch::fetch(broker, header, context, body).await,
        ApiKey::ApiVersions => handlers::api_versions::api_versions(broker, &header, body),
        ApiKey::Metadata => later!(MetadataRequest, |broker, context, request| handlers::metadata::metadata(&broker, &context, request).await),
        ApiKey::DescribeCluster => now!(DescribeClusterRequest, |request| handlers::metadata::describe_cluster(broker, &context, request)),
        ApiKey::DescribeTopicPartitions => {
            now!(DescribeTopicPartitionsRequest, |request| handlers::metadata::describe_topic_partitions(broker, request))
        }
        ApiKey::ListOffsets => later!(ListOffsetsRequest, |broker, context, request| handlers::offsets::list_offsets(broker, context, request).await),
        ApiKey::OffsetForLeaderEpoch => now!(OffsetForLeaderEpochRequest, |request| handlers::offsets::offset_for_leader_epoch(broker, request)),
        ApiKey::DeleteRecords => later!(DeleteRecordsRequest, |broker, _context, request| handlers::offsets::delete_records(broker, request).await),
        ApiKey::CreateTopics => later!(CreateTopicsRequest, |broker, context, request| handlers::topics::create_topics(broker, context, request).await),
        ApiKey::DeleteTopics => later!(DeleteTopicsRequest, |broker, context, request| handlers::topics::delete_topics(broker, context, request).await),
        ApiKey::CreatePartitions => later!(CreatePartitionsRequest, |broker, _context, request| handlers::topics::create_partitions(broker, request).await),
        ApiKey::DescribeConfigs => now!(DescribeConfigsRequest, |request| handlers::configs::describe_configs(broker, &context, request)),
        ApiKey::IncrementalAlterConfigs => {
            later!(IncrementalAlterConfigsRequest, |broker, context, request| handlers::configs::incremental_alter_configs(broker, context, request).await)
        }
        ApiKey::AlterPartition => later!(AlterPartitionRequest, |broker, _context, request| handlers::partitions::alter_partition(broker, request).await),
        ApiKey::ElectLeaders => later!(ElectLeadersRequest, |broker, context, request| handlers::partitions::elect_leaders(broker, context, request).await),
        ApiKey::AlterPartitionReassignments => {
            later!(AlterPartitionReassignmentsRequest, |broker, _context, request| {
                handlers::partitions::alter_partition_reassignments(broker, request).await
            })
        }
        ApiKey::ListPartitionReassignments => {
            now!(ListPartitionReassignmentsRequest, |request| handlers::partitions::list_partition_reassignments(broker, request))
        }
        ApiKey::AlterConfigs => later!(AlterConfigsRequest, |broker, context, request| handlers::configs::alter_configs(broker, context, request).await),
        ApiKey::InitProducerId => later!(InitProducerIdRequest, |broker, _context, request| handlers::producers::init_producer_id(broker, request).await),
        ApiKey::DescribeProducers => {
            later!(DescribeProducersRequest, |broker, _context, request| handlers::producers::describe_producers(broker, request).await)
        }
        ApiKey::FindCoordinator => {
            later!(FindCoordinatorRequest, |broker, context, request| handlers::groups::find_coordinator(broker, context, request).await)
        }
        ApiKey::JoinGroup => later!(JoinGroupRequest, |broker, context, request| handlers::groups::join(broker, context, request).await),
        ApiKey::SyncGroup => later!(SyncGroupRequest, |broker, context, request| handlers::groups::sync(broker, context, request).await),
        ApiKey::Heartbeat => later!(HeartbeatRequest, |broker, context, request| handlers::groups::heartbeat(broker, context, request).await),
        ApiKey::LeaveGroup => later!(LeaveGroupRequest, |broker, context, request| handlers::groups::leave(broker, context, request).await),
        ApiKey::OffsetCommit => later!(OffsetCommitRequest, |broker, context, request| handlers::groups::offset_commit(broker, context, request).await),
        ApiKey::OffsetFetch => later!(OffsetFetchRequest, |broker, context, request| handlers::groups::offset_fetch(broker, context, request).await),
        ApiKey::OffsetDelete => later!(OffsetDeleteRequest, |broker, context, request| handlers::groups::offset_delete(broker, context, request).await),
        ApiKey::ListGroups => later!(ListGroupsRequest, |broker, context, request| handlers::groups::list(broker, context, request).await),
        ApiKey::DescribeGroups => later!(DescribeGroupsRequest, |broker, context, request| handlers::groups::describe(broker, context, request).await),
        ApiKey::DeleteGroups => later!(DeleteGroupsRequest, |broker, context, request| handlers::groups::delete(broker, context, request).await),
        other => Outcome::Close(format!("{other:?} is in the table of APIs and has no handler")),
    }
}

/// Decodes a request's body after checking its counts.
pub fn decode<M: Decodable>(header: &RequestHeader, body: Bytes) -> Result<M, String> {
    guard::decode_request(header.api, header.version, body).map_err(|error| format!("a malformed {} request: {error}", header.api.name))
}

/// Encodes a response with its header and length.
pub fn encode<R: Runtime, M: Encodable>(header: &RequestHeader, message: &M) -> Result<Response<R>, String> {
    frame::encode_response(header.api, header.version, header.correlation_id, message).map(framed::<R>).map_err(|error| error.to_string())
}

/// A response that is one piece of bytes.
pub fn framed<R: Runtime>(bytes: Bytes) -> Response<R> {
    smallvec![Part::Bytes(bytes)]
}

/// The least that tells a client that something went wrong: a frame with nothing but its correlation id. Clients fail to read it and close.
fn encode_failure<R: Runtime>(header: &RequestHeader) -> Response<R> {
    let mut bytes = Vec::with_capacity(8);
    bytes.extend_from_slice(&4i32.to_be_bytes());
    bytes.extend_from_slice(&header.correlation_id.to_be_bytes());
    framed::<R>(bytes.into())
}
