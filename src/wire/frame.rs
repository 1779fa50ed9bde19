//! Frames and headers: `size i32 | header | body`. A request's header says which API, which version, and the correlation id under which
//! its answer is expected; a response's header is the correlation id, and tagged fields in flexible versions (KIP-482).

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::protocol::{Encodable, StrBytes};
use thiserror::Error;

use super::{
    api::{self, Api},
    primitive::{DecodeError, Reader, WriteExt},
};
use kafka_protocol::messages::ApiKey;

/// Bytes of the size before a frame.
pub const SIZE_BYTES: usize = 4;
/// The least bytes that a request's frame has after its size: API key, version, correlation id.
pub const MIN_REQUEST_BYTES: usize = 8;

/// A request's header.
#[derive(Clone, Debug)]
pub struct RequestHeader {
    /// The API, from the table.
    pub api: &'static Api,
    /// The version asked for. [`parse_request`] lets through only versions that have an answer: those served, any version of ApiVersions, and
    /// Produce from 0.
    pub version: i16,
    /// What the client calls this request.
    pub correlation_id: i32,
    /// What the client calls itself; a slice of the frame.
    pub client_id: Option<StrBytes>,
}

/// Why a request has no header that can be answered. The connection is closed, as Kafka closes it: the client did not ask ApiVersions first,
/// or does not speak this protocol.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// The header is damaged.
    #[error("the request's header is damaged: {0}")]
    Header(#[from] DecodeError),
    /// An API that is not served.
    #[error("API key {api_key} (version {version}) is not served by this broker")]
    UnknownApi {
        /// Its key.
        api_key: i16,
        /// The version.
        version: i16,
    },
    /// A version that is not served.
    #[error("{api} version {version} is not served by this broker, which serves {min_version} to {max_version}")]
    UnsupportedVersion {
        /// The API.
        api: &'static str,
        /// The version.
        version: i16,
        /// The first that is.
        min_version: i16,
        /// The last that is.
        max_version: i16,
    },
}

/// Why a message could not be written: it holds what its version cannot say. A programmer's error, reported instead of sent.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{api} version {version} cannot be written: {reason}")]
pub struct EncodeError {
    /// The API.
    pub api: &'static str,
    /// The version.
    pub version: i16,
    /// The encoder's words.
    pub reason: String,
}

/// Splits a request's frame, without its size, into header and body.
///
/// A version of ApiVersions that is not served comes back as a header all the same, for [`api::api_versions_frame`] to answer; its header is
/// read as the last version's (what a newer client sends), of which only the correlation id is needed. The body is then meaningless.
///
/// # Errors
/// [`FrameError`]: close the connection.
pub fn parse_request(frame: Bytes) -> Result<(RequestHeader, Bytes), FrameError> {
    let mut reader = Reader::new(frame);
    let api_key = reader.i16("api_key")?;
    let version = reader.i16("api_version")?;
    let correlation_id = reader.i32("correlation_id")?;
    let api = api::find(api_key).ok_or(FrameError::UnknownApi { api_key, version })?;
    if !api.serves(version) {
        if api.key == ApiKey::ApiVersions {
            return Ok((RequestHeader { api, version, correlation_id, client_id: None }, Bytes::new()));
        }
        if !(api.advertised_min_version..=api.max_version).contains(&version) {
            return Err(FrameError::UnsupportedVersion { api: api.name, version, min_version: api.min_version, max_version: api.max_version });
        }
    }
    // The client id never became compact, so that a broker can read it before it knows the version.
    let client_id = reader.nullable_string(false, "client_id")?;
    if api.request_header_version(version) >= 2 {
        reader.tagged_fields("request header", |_, _| Ok(false))?;
    }
    Ok((RequestHeader { api, version, correlation_id, client_id }, reader.into_rest()))
}

/// Writes a response's header, after the size.
pub fn put_response_header(out: &mut BytesMut, api: &Api, version: i16, correlation_id: i32) {
    out.put_i32(correlation_id);
    if api.response_header_version(version) >= 1 {
        out.put_u8(0);
    }
}

/// A whole response: size, header, body.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_response<M: Encodable>(api: &Api, version: i16, correlation_id: i32, body: &M) -> Result<Bytes, EncodeError> {
    encode(api, version, body, |out| put_response_header(out, api, version, correlation_id))
}

/// A whole request: size, header, body.
///
/// # Errors
/// [`EncodeError`].
///
/// # Panics
/// If `client_id` is longer than `i16::MAX` bytes.
pub fn encode_request<M: Encodable>(api: &Api, version: i16, correlation_id: i32, client_id: Option<&str>, body: &M) -> Result<Bytes, EncodeError> {
    encode(api, version, body, |out| {
        out.put_i16(api.key as i16);
        out.put_i16(version);
        out.put_i32(correlation_id);
        out.put_nullable_string(false, client_id);
        if api.request_header_version(version) >= 2 {
            out.put_u8(0);
        }
    })
}

fn encode<M: Encodable>(api: &Api, version: i16, body: &M, header: impl FnOnce(&mut BytesMut)) -> Result<Bytes, EncodeError> {
    let refused = |reason: String| EncodeError { api: api.name, version, reason };
    let body_bytes = body.compute_size(version).map_err(|error| refused(error.to_string()))?;
    let mut out = BytesMut::with_capacity(SIZE_BYTES + 64 + body_bytes);
    out.put_i32(0);
    header(&mut out);
    body.encode(&mut out, version).map_err(|error| refused(error.to_string()))?;
    let size = i32::try_from(out.len() - SIZE_BYTES).map_err(|_| refused(format!("{} bytes do not fit a frame", out.len())))?;
    out[..SIZE_BYTES].copy_from_slice(&size.to_be_bytes());
    Ok(out.freeze())
}

/// Splits a response's frame, without its size, into correlation id and body. For clients, which know what they asked.
///
/// # Errors
/// [`DecodeError`].
pub fn parse_response(api: &Api, version: i16, frame: Bytes) -> Result<(i32, Bytes), DecodeError> {
    let mut reader = Reader::new(frame);
    let correlation_id = reader.i32("correlation_id")?;
    if api.response_header_version(version) >= 1 {
        reader.tagged_fields("response header", |_, _| Ok(false))?;
    }
    Ok((correlation_id, reader.into_rest()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::{
        messages::{MetadataRequest, MetadataResponse, RequestHeader as Generated, ResponseHeader},
        protocol::Decodable,
    };

    #[test]
    fn headers_of_every_api_and_version_read_as_the_generated_ones() {
        for api in api::APIS {
            for version in api.min_version..=api.max_version {
                let mut frame = BytesMut::new();
                let mut header = Generated::default()
                    .with_request_api_key(api.key as i16)
                    .with_request_api_version(version)
                    .with_correlation_id(-5)
                    .with_client_id(Some(StrBytes::from_static_str("client")));
                if api.is_flexible(version) {
                    header = header.with_unknown_tagged_field(9, Bytes::from_static(b"later"));
                }
                header.encode(&mut frame, api.key.request_header_version(version)).unwrap();
                frame.put_slice(b"body");
                let (header, body) = parse_request(frame.freeze()).unwrap();
                assert_eq!((header.version, header.correlation_id, &body[..]), (version, -5, &b"body"[..]));
                assert_eq!(header.api.key, api.key);
                assert_eq!(header.client_id.as_ref().map(StrBytes::as_str), Some("client"));
            }
        }
    }

    #[test]
    fn requests_and_responses_go_round() {
        let api = api::find(ApiKey::Metadata as i16).unwrap();
        for version in 0..=13 {
            let frame = encode_request(api, version, 3, Some("me"), &MetadataRequest::default()).unwrap();
            assert_eq!(i32::from_be_bytes(*frame.first_chunk().unwrap()) as usize, frame.len() - 4);
            let (header, mut body) = parse_request(frame.slice(4..)).unwrap();
            assert_eq!((header.version, header.correlation_id), (version, 3));
            assert!(MetadataRequest::decode(&mut body, version).is_ok() && body.is_empty());

            let frame = encode_response(api, version, 3, &MetadataResponse::default()).unwrap();
            let mut generated = frame.slice(4..);
            assert_eq!(ResponseHeader::decode(&mut generated, api.key.response_header_version(version)).unwrap().correlation_id, 3);
            assert_eq!(parse_response(api, version, frame.slice(4..)), Ok((3, generated)));
        }
    }

    #[test]
    fn what_has_no_answer_is_refused() {
        let frame = |key: i16, version: i16| {
            let mut frame = BytesMut::new();
            frame.put_i16(key);
            frame.put_i16(version);
            frame.put_i32(1);
            frame.put_i16(-1);
            frame.freeze()
        };
        assert_eq!(parse_request(frame(1000, 0)).unwrap_err(), FrameError::UnknownApi { api_key: 1000, version: 0 });
        assert!(matches!(parse_request(frame(3, 14)), Err(FrameError::UnsupportedVersion { max_version: 13, .. })));
        assert!(matches!(parse_request(frame(3, -1)), Err(FrameError::UnsupportedVersion { .. })));
        assert!(matches!(parse_request(frame(0, -1)), Err(FrameError::UnsupportedVersion { .. })));
        assert!(matches!(parse_request(Bytes::from_static(b"GET / HT")), Err(FrameError::UnknownApi { .. })));
        assert!(matches!(parse_request(Bytes::from_static(&[0, 3])), Err(FrameError::Header(DecodeError::Truncated { .. }))));
        // Produce before 3 and unknown versions of ApiVersions have answers.
        assert_eq!(parse_request(frame(0, 2)).unwrap().0.version, 2);
        assert_eq!(parse_request(frame(18, 77)).unwrap().0.version, 77);
    }
}
