//! Stands before kafka-protocol's decoders, which reserve memory for whatever count an array announces: an array of 2³¹ elements in a frame of
//! thirty bytes would end the process. A walk over the message's shape checks each length against the bytes that are left, and adds up what
//! decoding would allocate: a frame of n bytes never causes more than [`MAX_COST_PER_BYTE`] × n bytes of allocation.
//!
//! The shapes are in [`super::schema`], which `ci/wire-schemas.py` writes from Kafka's own message schemas. Notation: `f(first, last, kind)` is a
//! field of those versions, `t(tag, first, last, kind)` a tagged one; kinds are `F(bytes)` fixed, `S` string, `B` bytes or records, `A(element,
//! memory)` array with the bytes that an element takes in kafka-protocol's structs, `T(fields)` struct, `N(fields)` struct that may be null.

use bytes::Bytes;
use kafka_protocol::protocol::Decodable;

use super::{
    api::Api,
    frame::MIN_REQUEST_BYTES,
    primitive::{DecodeError, Reader},
    schema,
};

/// Bytes of allocation that a byte of a frame may cause.
pub const MAX_COST_PER_BYTE: usize = 64;

/// What the first unknown tagged field of a struct allocates: a node of a `BTreeMap<i32, Bytes>`, which has room for eleven.
const FIRST_TAG_COST_BYTES: usize = 512;
/// What each further unknown tagged field allocates at most, nodes half full.
const TAG_COST_BYTES: usize = 112;

/// The shape of a message.
#[derive(Debug)]
pub struct Message {
    /// The first version with compact lengths and tagged fields.
    pub flexible_version: i16,
    /// Its fields, in order.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its tag, −1 if it has none.
    tag: i32,
    first_version: i16,
    last_version: i16,
    kind: Kind,
}

/// The shape of a field.
#[derive(Debug)]
pub enum Kind {
    /// So many bytes.
    F(u8),
    /// A string; null or not is the decoder's business.
    S,
    /// Bytes or records; null or not is the decoder's business.
    B,
    /// An array: the element's shape, and the bytes that it takes in memory.
    A(&'static Kind, usize),
    /// A struct.
    T(&'static [Field]),
    /// A struct that may be null.
    N(&'static [Field]),
}

/// A field of versions `first_version` to `last_version`.
pub(super) const fn f(first_version: i16, last_version: i16, kind: Kind) -> Field {
    Field { tag: -1, first_version, last_version, kind }
}

/// A tagged field of versions `first_version` to `last_version`.
pub(super) const fn t(tag: i32, first_version: i16, last_version: i16, kind: Kind) -> Field {
    Field { tag, first_version, last_version, kind }
}

impl Field {
    /// Its tag, if it is a tagged field.
    pub fn tag(&self) -> Option<u32> {
        u32::try_from(self.tag).ok()
    }

    /// Whether a version has it.
    pub fn has(&self, version: i16) -> bool {
        (self.first_version..=self.last_version).contains(&version)
    }

    /// Its shape.
    pub fn kind(&self) -> &Kind {
        &self.kind
    }
}

struct Walk<'a> {
    bytes: &'a [u8],
    version: i16,
    compact: bool,
    frame_bytes: usize,
    cost_bytes: usize,
}

impl Walk<'_> {
    fn truncated(&self, needed_bytes: usize) -> DecodeError {
        DecodeError::Truncated { field: "a field", needed_bytes, have_bytes: self.bytes.len() }
    }

    fn skip(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.bytes = self.bytes.get(bytes..).ok_or_else(|| self.truncated(bytes))?;
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (taken, rest) = self.bytes.split_first_chunk().ok_or_else(|| self.truncated(N))?;
        self.bytes = rest;
        Ok(*taken)
    }

    /// As kafka-protocol reads it: five bytes at most, the bits beyond 32 ignored.
    fn unsigned_varint(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21, 28] {
            let [byte] = self.take()?;
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint { field: "a length" })
    }

    /// A length, 0 for null: `short` if it has two bytes when it is not compact.
    fn length(&mut self, short: bool) -> Result<usize, DecodeError> {
        let length = match (self.compact, short) {
            (true, _) => i64::from(self.unsigned_varint()?) - 1,
            (false, true) => i64::from(i16::from_be_bytes(self.take()?)),
            (false, false) => i64::from(i32::from_be_bytes(self.take()?)),
        };
        // Every element of every array takes at least a byte, so this holds for counts too.
        if length < -1 || length > self.bytes.len() as i64 {
            return Err(DecodeError::BadLength { field: "a field", length, have_bytes: self.bytes.len() });
        }
        Ok(length.max(0) as usize)
    }

    fn spend(&mut self, bytes: usize) -> Result<(), DecodeError> {
        self.cost_bytes += bytes;
        if self.cost_bytes > MAX_COST_PER_BYTE * self.frame_bytes {
            return Err(DecodeError::TooCostly { frame_bytes: self.frame_bytes, cost_bytes: self.cost_bytes });
        }
        Ok(())
    }

    fn kind(&mut self, kind: &Kind) -> Result<(), DecodeError> {
        match kind {
            Kind::F(bytes) => self.skip(usize::from(*bytes)),
            Kind::S => {
                let length = self.length(true)?;
                self.skip(length)
            }
            Kind::B => {
                let length = self.length(false)?;
                self.skip(length)
            }
            Kind::A(element, memory) => {
                let count = self.length(false)?;
                self.spend(count * memory)?;
                match **element {
                    Kind::F(bytes) => self.skip(count * usize::from(bytes)),
                    _ => (0..count).try_for_each(|_| self.kind(element)),
                }
            }
            Kind::T(fields) => self.fields(fields),
            Kind::N(fields) => match i8::from_be_bytes(self.take()?) {
                -1 => Ok(()),
                _ => self.fields(fields),
            },
        }
    }

    fn fields(&mut self, fields: &[Field]) -> Result<(), DecodeError> {
        let version = self.version;
        let present = |field: &&Field| field.has(version);
        for field in fields.iter().filter(present).filter(|field| field.tag < 0) {
            self.kind(&field.kind)?;
        }
        if !self.compact {
            return Ok(());
        }
        let mut unknown_count = 0;
        for _ in 0..self.unsigned_varint()? {
            let tag = self.unsigned_varint()?;
            let size_bytes = self.unsigned_varint()? as usize;
            let before = self.bytes.len();
            if size_bytes > before {
                return Err(self.truncated(size_bytes));
            }
            if let Some(field) = fields.iter().filter(present).find(|field| field.tag == tag as i32) {
                self.kind(&field.kind)?;
            } else {
                self.spend(if unknown_count == 0 { FIRST_TAG_COST_BYTES } else { TAG_COST_BYTES })?;
                unknown_count += 1;
                self.skip(size_bytes)?;
            }
            // The generated decoder ignores the size of a field that it knows; the two must not come apart.
            if before - self.bytes.len() != size_bytes {
                return Err(DecodeError::BadTag { field: "a struct", tag, size_bytes, used_bytes: before - self.bytes.len() });
            }
        }
        Ok(())
    }
}

impl Message {
    /// Checks that `bytes` begin with a message of this shape whose decoding is no bomb: `frame_bytes` is the length of all that was received with it.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn check(&self, version: i16, bytes: &[u8], frame_bytes: usize) -> Result<(), DecodeError> {
        let mut walk = Walk { bytes, version, compact: version >= self.flexible_version, frame_bytes, cost_bytes: 0 };
        walk.fields(self.fields)
    }
}

/// The shape of an API's request.
pub fn request(api_key: i16) -> Option<&'static Message> {
    find(schema::REQUESTS, api_key)
}

/// The shape of an API's response.
pub fn response(api_key: i16) -> Option<&'static Message> {
    find(schema::RESPONSES, api_key)
}

fn find(messages: &'static [(i16, Message)], api_key: i16) -> Option<&'static Message> {
    messages.binary_search_by_key(&api_key, |(key, _)| *key).ok().map(|index| &messages[index].1)
}

/// Checks a request's body and decodes it. Strings and bytes in it are slices of the frame.
///
/// # Errors
/// [`DecodeError`]: close the connection.
pub fn decode_request<M: Decodable>(api: &Api, version: i16, body: Bytes) -> Result<M, DecodeError> {
    decode(request(api.key as i16), api, version, body)
}

/// Checks a response's body and decodes it. Strings and bytes in it are slices of the frame.
///
/// # Errors
/// [`DecodeError`]: close the connection.
pub fn decode_response<M: Decodable>(api: &Api, version: i16, body: Bytes) -> Result<M, DecodeError> {
    decode(response(api.key as i16), api, version, body)
}

fn decode<M: Decodable>(message: Option<&Message>, api: &Api, version: i16, mut body: Bytes) -> Result<M, DecodeError> {
    let message = message.ok_or(DecodeError::UnsupportedVersion { api: api.name, version })?;
    message.check(version, &body, MIN_REQUEST_BYTES + body.len())?;
    M::decode(&mut body, version).map_err(|error| DecodeError::Refused { api: api.name, version, reason: error.to_string() })
}

/// Checks and decodes a message of the consumer protocol ([`schema::CONSUMER_PROTOCOL_SUBSCRIPTION`], [`schema::CONSUMER_PROTOCOL_ASSIGNMENT`]):
/// a version, then the message. A version above `max_version` is read as that one, since later versions only add fields at the end.
///
/// # Errors
/// [`DecodeError`]: the bytes are some other protocol's, or damaged.
pub fn decode_embedded<M: Decodable>(message: &Message, name: &'static str, max_version: i16, bytes: Bytes) -> Result<M, DecodeError> {
    let frame_bytes = bytes.len();
    let mut reader = Reader::new(bytes);
    let version = reader.i16("version")?.min(max_version);
    if version < 0 {
        return Err(DecodeError::UnsupportedVersion { api: name, version });
    }
    let mut rest = reader.into_rest();
    message.check(version, &rest, frame_bytes)?;
    M::decode(&mut rest, version).map_err(|error| DecodeError::Refused { api: name, version, reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::api::{self, APIS};
    use bytes::{BufMut, BytesMut};
    use kafka_protocol::{
        messages::{
            ApiKey, CreateTopicsRequest, JoinGroupRequest, MetadataRequest, MetadataResponse, create_topics_request, metadata_request, metadata_response,
        },
        protocol::{Encodable, StrBytes},
    };

    #[test]
    fn every_served_api_has_its_shape() {
        for (table, what) in [(schema::REQUESTS, "request"), (schema::RESPONSES, "response")] {
            assert!(table.is_sorted_by_key(|(key, _)| *key));
            for api in APIS {
                let shape = find(table, api.key as i16).unwrap_or_else(|| panic!("{} {what}", api.name));
                assert_eq!(shape.flexible_version, api.flexible_version, "{} {what}", api.name);
            }
        }
    }

    /// What lets a count be compared with the bytes that are left.
    #[test]
    fn every_element_takes_at_least_a_byte() {
        fn least(kind: &Kind, version: i16, compact: bool) -> usize {
            match kind {
                Kind::F(bytes) => usize::from(*bytes),
                Kind::S if !compact => 2,
                Kind::B | Kind::A(..) if !compact => 4,
                Kind::S | Kind::B | Kind::A(..) | Kind::N(_) => 1,
                Kind::T(fields) => {
                    let present = fields.iter().filter(|field| field.tag < 0 && field.has(version));
                    present.map(|field| least(&field.kind, version, compact)).sum::<usize>() + usize::from(compact)
                }
            }
        }
        fn arrays(fields: &[Field], version: i16, compact: bool, name: &str) {
            for field in fields.iter().filter(|field| field.has(version)) {
                let kind = match &field.kind {
                    Kind::A(element, _) => {
                        assert!(least(element, version, compact) > 0, "{name} {version}");
                        *element
                    }
                    kind => kind,
                };
                if let Kind::T(fields) | Kind::N(fields) = kind {
                    arrays(fields, version, compact, name);
                }
            }
        }
        for api in APIS {
            for version in api.min_version..=api.max_version {
                for shape in [request(api.key as i16).unwrap(), response(api.key as i16).unwrap()] {
                    arrays(shape.fields, version, api.is_flexible(version), api.name);
                }
            }
        }
    }

    fn encoded<M: Encodable>(message: &M, version: i16) -> Bytes {
        let mut out = BytesMut::new();
        message.encode(&mut out, version).unwrap();
        out.freeze()
    }

    #[test]
    fn honest_messages_pass_and_their_last_byte_is_the_walks_last() {
        let name = |name: &'static str| StrBytes::from_static_str(name);
        for version in 2..=7 {
            let topic = create_topics_request::CreatableTopic::default()
                .with_name(name("t").into())
                .with_num_partitions(3)
                .with_configs(vec![create_topics_request::CreatableTopicConfig::default().with_name(name("cleanup.policy")).with_value(Some(name("compact")))]);
            let bytes = encoded(&CreateTopicsRequest::default().with_topics(vec![topic.clone(), topic]), version);
            let shape = request(ApiKey::CreateTopics as i16).unwrap();
            assert_eq!(shape.check(version, &bytes, bytes.len()), Ok(()));
            assert!(shape.check(version, &bytes[..bytes.len() - 1], bytes.len()).is_err());
            let api = api::find(ApiKey::CreateTopics as i16).unwrap();
            assert_eq!(decode_request::<CreateTopicsRequest>(api, version, bytes).unwrap().topics.len(), 2);
        }
        for version in 0..=13 {
            let mut topic = metadata_request::MetadataRequestTopic::default().with_name(Some(name("t").into()));
            let mut request_body = MetadataRequest::default();
            if version >= 9 {
                topic = topic.with_unknown_tagged_field(5, Bytes::from_static(b"later"));
                request_body = request_body.with_unknown_tagged_field(6, Bytes::new());
            }
            let bytes = encoded(&request_body.with_topics(Some(vec![topic])), version);
            assert_eq!(request(3).unwrap().check(version, &bytes, bytes.len() + 20), Ok(()), "version {version}");
            let partition = metadata_response::MetadataResponsePartition::default().with_replica_nodes(vec![1.into(), 2.into()]);
            let topic = metadata_response::MetadataResponseTopic::default().with_name(Some(name("t").into())).with_partitions(vec![partition]);
            let bytes = encoded(&MetadataResponse::default().with_topics(vec![topic]), version);
            let api = api::find(3).unwrap();
            assert_eq!(decode_response::<MetadataResponse>(api, version, bytes).unwrap().topics.len(), 1);
        }
    }

    #[test]
    fn a_hostile_count_never_reaches_the_generated_decoder() {
        let api = api::find(ApiKey::JoinGroup as i16).unwrap();
        let mut body = BytesMut::new();
        body.put_slice(&[0, 1, b'g', 0, 0, 0, 1, 0, 0, 0, 0]);
        body.put_slice(&[0, 0]);
        body.put_i32(i32::MAX);
        let error = decode_request::<JoinGroupRequest>(api, 0, body.freeze()).unwrap_err();
        assert!(matches!(error, DecodeError::BadLength { .. }), "{error}");
        // Many small elements fit the frame, and would still take too much: four bytes on the wire, an unknown tagged field's node in memory.
        let mut body = BytesMut::new();
        body.put_slice(&[0xe9, 0x07]);
        (0..1000).for_each(|_| body.put_slice(&[1, 1, 9, 0]));
        body.put_slice(&[0, 0, 0, 0]);
        let error = decode_request::<MetadataRequest>(api::find(3).unwrap(), 9, body.freeze()).unwrap_err();
        assert!(matches!(error, DecodeError::TooCostly { .. }), "{error}");
    }

    #[test]
    fn a_version_of_the_consumer_protocol_from_the_future_is_read_as_the_last() {
        use kafka_protocol::messages::ConsumerProtocolSubscription;
        let mut bytes = BytesMut::new();
        bytes.put_i16(9);
        ConsumerProtocolSubscription::default().with_topics(vec![StrBytes::from_static_str("t")]).encode(&mut bytes, 3).unwrap();
        bytes.put_slice(b"later");
        let decode = |bytes| decode_embedded::<ConsumerProtocolSubscription>(&schema::CONSUMER_PROTOCOL_SUBSCRIPTION, "ConsumerProtocolSubscription", 3, bytes);
        assert_eq!(decode(bytes.freeze()).unwrap().topics.len(), 1);
        assert!(decode(Bytes::from_static(&[0, 0, 0x7f, 0xff, 0xff, 0xff])).is_err());
        assert!(decode(Bytes::from_static(b"\xff\xffsomething")).is_err());
    }
}
