//! ApiVersions (API 18): what this broker speaks.

use std::sync::Arc;

use bytes::Bytes;
use kafka_protocol::error::ResponseError as Error;
use kafka_protocol::messages::{ApiVersionsRequest, ApiVersionsResponse};

use crate::broker::Broker;
use crate::broker::dispatch::{Outcome, decode, encode, framed};
use crate::runtime::Runtime;
use crate::wire::api::{api_versions_frame, is_valid_client_software};
use crate::wire::frame::RequestHeader;

/// ApiVersions. A version that is not served is answered in version 0 with the table, so that the client can choose (KIP-511).
pub fn api_versions<R: Runtime>(broker: &Arc<Broker<R>>, header: &RequestHeader, body: Bytes) -> Outcome<R> {
    let _ = broker;
    if header.api.serves(header.version) {
        match decode::<ApiVersionsRequest>(header, body) {
            // KIP-511: from version 3 a client says what it is, in words that fit a metric's label.
            Ok(request)
                if header.version >= 3
                    && !(is_valid_client_software(&request.client_software_name) && is_valid_client_software(&request.client_software_version)) =>
            {
                let refused = ApiVersionsResponse::default().with_error_code(Error::InvalidRequest.code());
                return match encode::<R, _>(header, &refused) {
                    Ok(response) => Outcome::Reply(response),
                    Err(why) => Outcome::Close(why),
                };
            }
            Ok(_) => {}
            Err(why) => return Outcome::Close(why),
        }
    }
    match api_versions_frame(header.version, header.correlation_id, 0) {
        Ok(frame) => Outcome::Reply(framed::<R>(frame)),
        Err(error) => Outcome::Close(error.to_string()),
    }
}
