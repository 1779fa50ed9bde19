//! What a controller commands: LeaderAndIsr (API 4) and StopReplica (5), served only where a controller commands the broker (`Broker::obey_orders`); elsewhere
//! they are APIs that the broker does not know. And what a broker asks of its controller: ControlledShutdown (7).

use std::sync::Arc;

use bytes::Bytes;

use crate::broker::Broker;
use crate::broker::dispatch::{Outcome, framed};
use crate::runtime::Runtime;
use crate::wire::control::{self, ControlledShutdownRequest, ControlledShutdownResponse, LeaderAndIsrRequest, NO_BROKER_EPOCH, StopReplicaRequest};

/// Carries out an order; `None` if the frame holds none. Orders of a connection are carried out in their order, before the next request is looked at.
pub async fn control<R: Runtime>(broker: &Arc<Broker<R>>, frame: &Bytes) -> Option<Outcome<R>> {
    let (header, body) = match control::parse_request(frame) {
        Ok(parsed) => parsed?,
        Err(error) => return Some(Outcome::Close(error.to_string())),
    };
    let version = header.version;
    if header.api == &ControlledShutdownRequest::API {
        return Some(match ControlledShutdownRequest::from_body(body, version) {
            Ok(request) => {
                let broker = Arc::clone(broker);
                // The controller's task does it: other requests of the connection need not wait.
                Outcome::Later(Box::pin(async move {
                    let response = controlled_shutdown(&broker, &request).await;
                    framed::<R>(control::response_frame(&header, &response.to_body(version)))
                }))
            }
            Err(error) => Outcome::Close(format!("a malformed {} request: {error}", header.api.name)),
        });
    }
    if !broker.obeys_orders() {
        return Some(Outcome::Close(format!("{} is not served by this broker: no controller commands it", header.api.name)));
    }
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

/// ControlledShutdown: moves the leaderships of the broker that asks away from it.
async fn controlled_shutdown<R: Runtime>(broker: &Broker<R>, request: &ControlledShutdownRequest) -> ControlledShutdownResponse {
    let epoch = (request.broker_epoch != NO_BROKER_EPOCH).then_some(request.broker_epoch);
    match broker.controller().leave(request.broker_id, epoch).await {
        Ok(left) => {
            ControlledShutdownResponse { error_code: 0, remaining: left.into_iter().map(|(topic, partition)| (topic.to_string(), partition)).collect() }
        }
        Err(error) => ControlledShutdownResponse { error_code: error.code.code(), remaining: Vec::new() },
    }
}
