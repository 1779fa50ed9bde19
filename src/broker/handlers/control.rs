//! What a controller commands: LeaderAndIsr (API 4) and StopReplica (5). Served only where a controller commands the broker (`Broker::obey_orders`); elsewhere
//! they are APIs that the broker does not know.

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::Broker;
use crate::broker::dispatch::{Outcome, framed};
use crate::runtime::Runtime;
use crate::wire::control::{self, LeaderAndIsrRequest, StopReplicaRequest};

/// Carries out an order; `None` if the frame holds none. Orders of a connection are carried out in their order, before the next request is looked at.
pub async fn control<R: Runtime>(broker: &Arc<Broker<R>>, frame: &Bytes) -> Option<Outcome<R>> {
    let (header, body) = match control::parse_request(frame) {
        Ok(parsed) => parsed?,
        Err(error) => return Some(Outcome::Close(error.to_string())),
    };
    let version = header.version;
    let malformed = |error| Some(Outcome::Close(format!("a malformed {} request: {error}", header.api.name)));
    let answer = if header.api == &LeaderAndIsrRequest::API {
        match LeaderAndIsrRequest::from_body(body, version) {
            Ok(request) => broker.replicas().leader_and_isr(&request).await.to_body(version),
            Err(error) => return malformed(error),
        }
    } else if header.api == &StopReplicaRequest::API {
        match StopReplicaRequest::from_body(body, version) {
            Ok(request) => broker.replicas().stop_replica(&request).await.to_body(version),
            Err(error) => return malformed(error),
        }
    } else {
        return Some(Outcome::Close(format!("{} is not served by this broker", header.api.name)));
    };
    Some(Outcome::Reply(framed::<R>(control::response_frame(&header, &answer))))
}
