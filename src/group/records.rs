//! The records of `__consumer_offsets`, byte for byte as Kafka writes them.
//!
//! A key starts with a 16-bit type, a value with its 16-bit format version:
//!
//! ```text
//! key  0, 1  OffsetCommitKey   group string | topic string | partition i32
//! key  2     GroupMetadataKey  group string
//! value of 0, 1  OffsetCommitValue v0-v4   offset i64 | leader epoch i32 (v3+) | metadata | commit timestamp i64
//!                                          | expire timestamp i64 (v1 only) | tag 0: topic id (v4+)
//! value of 2     GroupMetadataValue v0-v4  protocol type | generation i32 | protocol? | leader? | state timestamp i64 (v2+) | members
//! ```
//!
//! Version 4 of both is 'flexible' (compact strings, tagged fields, KIP-915); all before are not. A missing value is a tombstone.
//! Written are the versions that Kafka 4.1 writes: offsets as v4 (v1 if a client of OffsetCommit 2–4 asked for its own retention),
//! groups as v3. Other key types belong to group protocols that are not served here and are left alone.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;
use uuid::Uuid;

const KEY_OFFSET_V0: i16 = 0;
const KEY_OFFSET: i16 = 1;
const KEY_GROUP: i16 = 2;
const VALUE_VERSION_MAX: i16 = 4;
const VALUE_VERSION_FLEXIBLE: i16 = 4;
const OFFSET_VALUE_VERSION: i16 = 4;
const OFFSET_VALUE_VERSION_WITH_EXPIRY: i16 = 1;
const GROUP_VALUE_VERSION: i16 = 3;
const TAG_TOPIC_ID: u32 = 0;
/// The least that a member takes in any version: five lengths and a time-out. Bounds what a member count may announce.
const MEMBER_BYTES_MIN: usize = 9;

/// One record of `__consumer_offsets`, without its place in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupRecord {
    /// A committed offset, or with no value its removal.
    Offset {
        /// The group.
        group: String,
        /// The topic's name.
        topic: String,
        /// The partition's number.
        partition: i32,
        /// What was committed; `None` is a tombstone.
        value: Option<OffsetValue>,
    },
    /// A group's generation, or with no value its removal.
    Group {
        /// The group.
        group: String,
        /// The generation; `None` is a tombstone.
        value: Option<GroupValue>,
    },
}

/// A committed offset (`OffsetCommitValue`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetValue {
    /// The offset that the consumer would read next.
    pub offset: i64,
    /// Leader epoch of the last record consumed, or −1 (KIP-320).
    pub leader_epoch: i32,
    /// The client's own words; empty if it has none.
    pub metadata: String,
    /// Wall clock of the commit, in ms.
    pub commit_timestamp_ms: i64,
    /// Wall clock at which it expires, in ms, if the client chose one (OffsetCommit 2–4).
    pub expire_timestamp_ms: Option<i64>,
    /// Id of the topic at the time of the commit; nil if unknown (KIP-848).
    pub topic_id: Uuid,
}

/// One generation of a group (`GroupMetadataValue`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupValue {
    /// Class of the protocol, `consumer` for consumers; empty if there is none.
    pub protocol_type: String,
    /// The generation.
    pub generation: i32,
    /// The assignor that was chosen; `None` in an empty generation.
    pub protocol: Option<String>,
    /// Member id of the leader; `None` in an empty generation.
    pub leader: Option<String>,
    /// Wall clock of the last change of the group's state, in ms; `None` if unknown (values before v2).
    pub state_timestamp_ms: Option<i64>,
    /// The members.
    pub members: Vec<MemberValue>,
}

/// A member of a [`GroupValue`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberValue {
    /// Id that the coordinator gave.
    pub member_id: String,
    /// `group.instance.id` of a static member (KIP-345).
    pub instance_id: Option<String>,
    /// The client's id.
    pub client_id: String,
    /// The client's address, as `/1.2.3.4`.
    pub client_host: String,
    /// How long a rebalance waits for this member, in ms; the session time-out in values before v1.
    pub rebalance_timeout_ms: i32,
    /// How long the member may be silent, in ms.
    pub session_timeout_ms: i32,
    /// The member's metadata for the chosen protocol.
    pub subscription: Bytes,
    /// What the leader assigned.
    pub assignment: Bytes,
}

/// Why bytes are not a record of `__consumer_offsets`, or a record has no bytes.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum GroupRecordError {
    /// The bytes end within a field.
    #[error("the {field} needs {needed_bytes} bytes and {have_bytes} are left")]
    Truncated {
        /// The field.
        field: &'static str,
        /// What it takes.
        needed_bytes: usize,
        /// What there is.
        have_bytes: usize,
    },
    /// A length or count that cannot be.
    #[error("the length of {field} is {length}")]
    BadLength {
        /// The field.
        field: &'static str,
        /// Its length as read or as it would have to be written.
        length: i64,
    },
    /// A string that is not UTF-8.
    #[error("{field} is not UTF-8")]
    BadString {
        /// The field.
        field: &'static str,
    },
    /// A field that must not be null is.
    #[error("{field} is null")]
    Null {
        /// The field.
        field: &'static str,
    },
    /// A value in a format of the future; this broker is older than the writer.
    #[error("the value of {what} has version {version}; this broker reads 0 to 4")]
    UnknownVersion {
        /// Offset or group.
        what: &'static str,
        /// The version.
        version: i16,
    },
}

impl GroupRecord {
    /// The group that the record is about.
    pub fn group(&self) -> &str {
        match self {
            Self::Offset { group, .. } | Self::Group { group, .. } => group,
        }
    }

    /// Key and value as they go into the log.
    ///
    /// # Errors
    /// [`GroupRecordError::BadLength`] if a string is longer than 32,767 bytes, which the format cannot hold.
    pub fn encode(&self) -> Result<(Bytes, Option<Bytes>), GroupRecordError> {
        let mut key = BytesMut::new();
        match self {
            Self::Offset { group, topic, partition, value } => {
                key.put_i16(KEY_OFFSET);
                put_string(&mut key, "group", group)?;
                put_string(&mut key, "topic", topic)?;
                key.put_i32(*partition);
                Ok((key.freeze(), value.as_ref().map(OffsetValue::encode).transpose()?))
            }
            Self::Group { group, value } => {
                key.put_i16(KEY_GROUP);
                put_string(&mut key, "group", group)?;
                Ok((key.freeze(), value.as_ref().map(GroupValue::encode).transpose()?))
            }
        }
    }

    /// Reads a record. `None` if its key has a type that is not served here.
    ///
    /// # Errors
    /// Any [`GroupRecordError`]; bytes after the last known field are ignored, as Kafka does.
    pub fn decode(key: &Bytes, value: Option<&Bytes>) -> Result<Option<Self>, GroupRecordError> {
        let mut key = Reader { bytes: key.clone(), flexible: false };
        match key.i16("key type")? {
            KEY_OFFSET_V0 | KEY_OFFSET => {
                let (group, topic, partition) = (key.string("group")?, key.string("topic")?, key.i32("partition")?);
                Ok(Some(Self::Offset { group, topic, partition, value: value.map(OffsetValue::decode).transpose()? }))
            }
            KEY_GROUP => {
                let group = key.string("group")?;
                Ok(Some(Self::Group { group, value: value.map(GroupValue::decode).transpose()? }))
            }
            _ => Ok(None),
        }
    }
}

impl OffsetValue {
    /// The value's bytes, in the version that Kafka 4.1 writes.
    ///
    /// # Errors
    /// [`GroupRecordError::BadLength`] if the metadata is longer than 32,767 bytes.
    pub fn encode(&self) -> Result<Bytes, GroupRecordError> {
        let mut to = BytesMut::new();
        if let Some(expire_timestamp_ms) = self.expire_timestamp_ms {
            to.put_i16(OFFSET_VALUE_VERSION_WITH_EXPIRY);
            to.put_i64(self.offset);
            put_string(&mut to, "metadata", &self.metadata)?;
            to.put_i64(self.commit_timestamp_ms);
            to.put_i64(expire_timestamp_ms);
        } else {
            to.put_i16(OFFSET_VALUE_VERSION);
            to.put_i64(self.offset);
            to.put_i32(self.leader_epoch);
            put_compact_string(&mut to, "metadata", &self.metadata)?;
            to.put_i64(self.commit_timestamp_ms);
            if self.topic_id.is_nil() {
                put_varint(&mut to, 0);
            } else {
                put_varint(&mut to, 1);
                put_varint(&mut to, TAG_TOPIC_ID);
                put_varint(&mut to, 16);
                to.put_slice(self.topic_id.as_bytes());
            }
        }
        Ok(to.freeze())
    }

    /// Reads a value of any version.
    ///
    /// # Errors
    /// Any [`GroupRecordError`].
    pub fn decode(value: &Bytes) -> Result<Self, GroupRecordError> {
        let (version, mut from) = Reader::value("an offset", value)?;
        let offset = from.i64("offset")?;
        let leader_epoch = if version >= 3 { from.i32("leader epoch")? } else { -1 };
        let metadata = from.string("metadata")?;
        let commit_timestamp_ms = from.i64("commit timestamp")?;
        let expire_timestamp_ms = if version == 1 { from.i64("expire timestamp")? } else { -1 };
        let mut topic_id = Uuid::nil();
        if version >= VALUE_VERSION_FLEXIBLE {
            from.tags(|tag, data| {
                if tag == TAG_TOPIC_ID
                    && let Some(id) = data.first_chunk()
                {
                    topic_id = Uuid::from_bytes(*id);
                }
            })?;
        }
        let expire_timestamp_ms = (expire_timestamp_ms != -1).then_some(expire_timestamp_ms);
        Ok(Self { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms, topic_id })
    }
}

impl GroupValue {
    /// The value's bytes, in the version that Kafka 4.1 writes.
    ///
    /// # Errors
    /// [`GroupRecordError::BadLength`] if a string is longer than 32,767 bytes.
    pub fn encode(&self) -> Result<Bytes, GroupRecordError> {
        let mut to = BytesMut::new();
        to.put_i16(GROUP_VALUE_VERSION);
        put_string(&mut to, "protocol type", &self.protocol_type)?;
        to.put_i32(self.generation);
        put_nullable_string(&mut to, "protocol", self.protocol.as_deref())?;
        put_nullable_string(&mut to, "leader", self.leader.as_deref())?;
        to.put_i64(self.state_timestamp_ms.unwrap_or(-1));
        put_length(&mut to, "members", self.members.len())?;
        for member in &self.members {
            put_string(&mut to, "member id", &member.member_id)?;
            put_nullable_string(&mut to, "group instance id", member.instance_id.as_deref())?;
            put_string(&mut to, "client id", &member.client_id)?;
            put_string(&mut to, "client host", &member.client_host)?;
            to.put_i32(member.rebalance_timeout_ms);
            to.put_i32(member.session_timeout_ms);
            put_bytes(&mut to, "subscription", &member.subscription)?;
            put_bytes(&mut to, "assignment", &member.assignment)?;
        }
        Ok(to.freeze())
    }

    /// Reads a value of any version. What is kept (subscriptions and assignments) is copied out of `value`'s buffer.
    ///
    /// # Errors
    /// Any [`GroupRecordError`].
    pub fn decode(value: &Bytes) -> Result<Self, GroupRecordError> {
        let (version, mut from) = Reader::value("a group", value)?;
        let protocol_type = from.string("protocol type")?;
        let generation = from.i32("generation")?;
        let protocol = from.nullable_string("protocol")?;
        let leader = from.nullable_string("leader")?;
        let state_timestamp_ms = if version >= 2 { from.i64("state timestamp")? } else { -1 };
        let member_count = from.array_length("members", MEMBER_BYTES_MIN)?;
        let mut members = Vec::with_capacity(member_count);
        for _ in 0..member_count {
            let member_id = from.string("member id")?;
            let instance_id = if version >= 3 { from.nullable_string("group instance id")? } else { None };
            let client_id = from.string("client id")?;
            let client_host = from.string("client host")?;
            let rebalance_timeout_ms = if version >= 1 { from.i32("rebalance timeout")? } else { -1 };
            let session_timeout_ms = from.i32("session timeout")?;
            let subscription = from.byte_string("subscription")?;
            let assignment = from.byte_string("assignment")?;
            if version >= VALUE_VERSION_FLEXIBLE {
                from.tags(|_, _| {})?;
            }
            let rebalance_timeout_ms = if rebalance_timeout_ms == -1 { session_timeout_ms } else { rebalance_timeout_ms };
            members.push(MemberValue { member_id, instance_id, client_id, client_host, rebalance_timeout_ms, session_timeout_ms, subscription, assignment });
        }
        if version >= VALUE_VERSION_FLEXIBLE {
            from.tags(|_, _| {})?;
        }
        let state_timestamp_ms = (state_timestamp_ms != -1).then_some(state_timestamp_ms);
        Ok(Self { protocol_type, generation, protocol, leader, state_timestamp_ms, members })
    }
}

fn put_string(to: &mut BytesMut, field: &'static str, text: &str) -> Result<(), GroupRecordError> {
    let length = i16::try_from(text.len()).map_err(|_| GroupRecordError::BadLength { field, length: text.len() as i64 })?;
    to.put_i16(length);
    to.put_slice(text.as_bytes());
    Ok(())
}

fn put_nullable_string(to: &mut BytesMut, field: &'static str, text: Option<&str>) -> Result<(), GroupRecordError> {
    match text {
        Some(text) => put_string(to, field, text),
        None => {
            to.put_i16(-1);
            Ok(())
        }
    }
}

fn put_compact_string(to: &mut BytesMut, field: &'static str, text: &str) -> Result<(), GroupRecordError> {
    let length = i16::try_from(text.len()).map_err(|_| GroupRecordError::BadLength { field, length: text.len() as i64 })?;
    put_varint(to, length as u32 + 1);
    to.put_slice(text.as_bytes());
    Ok(())
}

fn put_length(to: &mut BytesMut, field: &'static str, length: usize) -> Result<(), GroupRecordError> {
    to.put_i32(i32::try_from(length).map_err(|_| GroupRecordError::BadLength { field, length: length as i64 })?);
    Ok(())
}

fn put_bytes(to: &mut BytesMut, field: &'static str, bytes: &Bytes) -> Result<(), GroupRecordError> {
    put_length(to, field, bytes.len())?;
    to.put_slice(bytes);
    Ok(())
}

fn put_varint(to: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        to.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    to.put_u8(value as u8);
}

/// Reads fields, none of which it trusts.
struct Reader {
    bytes: Bytes,
    flexible: bool,
}

impl Reader {
    /// Reads a value's version.
    fn value(what: &'static str, value: &Bytes) -> Result<(i16, Self), GroupRecordError> {
        let mut reader = Self { bytes: value.clone(), flexible: false };
        let version = reader.i16("version")?;
        if !(0..=VALUE_VERSION_MAX).contains(&version) {
            return Err(GroupRecordError::UnknownVersion { what, version });
        }
        reader.flexible = version >= VALUE_VERSION_FLEXIBLE;
        Ok((version, reader))
    }

    fn need(&self, field: &'static str, needed_bytes: usize) -> Result<(), GroupRecordError> {
        let have_bytes = self.bytes.len();
        if have_bytes < needed_bytes { Err(GroupRecordError::Truncated { field, needed_bytes, have_bytes }) } else { Ok(()) }
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, GroupRecordError> {
        self.need(field, 2)?;
        Ok(self.bytes.get_i16())
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, GroupRecordError> {
        self.need(field, 4)?;
        Ok(self.bytes.get_i32())
    }

    fn i64(&mut self, field: &'static str) -> Result<i64, GroupRecordError> {
        self.need(field, 8)?;
        Ok(self.bytes.get_i64())
    }

    fn varint(&mut self, field: &'static str) -> Result<u32, GroupRecordError> {
        let mut value = 0_u32;
        for shift in (0..35).step_by(7) {
            self.need(field, 1)?;
            let byte = self.bytes.get_u8();
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(GroupRecordError::BadLength { field, length: i64::from(value) })
    }

    /// A length, −1 for null, checked against the bytes that are left when each element takes at least `element_bytes`.
    fn length(&mut self, field: &'static str, short: bool, element_bytes: usize) -> Result<Option<usize>, GroupRecordError> {
        let length = match (self.flexible, short) {
            (true, _) => i64::from(self.varint(field)?) - 1,
            (false, true) => i64::from(self.i16(field)?),
            (false, false) => i64::from(self.i32(field)?),
        };
        if length == -1 {
            return Ok(None);
        }
        let count = usize::try_from(length).map_err(|_| GroupRecordError::BadLength { field, length })?;
        self.need(field, count.saturating_mul(element_bytes))?;
        Ok(Some(count))
    }

    fn nullable_string(&mut self, field: &'static str) -> Result<Option<String>, GroupRecordError> {
        let Some(length) = self.length(field, true, 1)? else { return Ok(None) };
        let bytes = self.bytes.split_to(length);
        String::from_utf8(bytes.to_vec()).map(Some).map_err(|_| GroupRecordError::BadString { field })
    }

    fn string(&mut self, field: &'static str) -> Result<String, GroupRecordError> {
        self.nullable_string(field)?.ok_or(GroupRecordError::Null { field })
    }

    fn byte_string(&mut self, field: &'static str) -> Result<Bytes, GroupRecordError> {
        let length = self.length(field, false, 1)?.ok_or(GroupRecordError::Null { field })?;
        Ok(Bytes::copy_from_slice(&self.bytes.split_to(length)))
    }

    fn array_length(&mut self, field: &'static str, element_bytes: usize) -> Result<usize, GroupRecordError> {
        self.length(field, false, element_bytes)?.ok_or(GroupRecordError::Null { field })
    }

    fn tags(&mut self, mut each: impl FnMut(u32, &[u8])) -> Result<(), GroupRecordError> {
        for _ in 0..self.varint("tag count")? {
            let tag = self.varint("tag")?;
            let length = self.varint("tag length")? as usize;
            self.need("tag", length)?;
            each(tag, &self.bytes.split_to(length));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Bytes {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect::<Vec<_>>().into()
    }

    fn offset(topic_id: u128, expire_timestamp_ms: Option<i64>) -> OffsetValue {
        OffsetValue {
            offset: 42,
            leader_epoch: 5,
            metadata: "meta".into(),
            commit_timestamp_ms: 1_700_000_000_123,
            expire_timestamp_ms,
            topic_id: Uuid::from_u128(topic_id),
        }
    }

    fn group() -> GroupValue {
        GroupValue {
            protocol_type: "consumer".into(),
            generation: 3,
            protocol: Some("range".into()),
            leader: Some("m1".into()),
            state_timestamp_ms: Some(1_700_000_000_123),
            members: vec![MemberValue {
                member_id: "m1".into(),
                instance_id: Some("i1".into()),
                client_id: "c".into(),
                client_host: "/1.2.3.4".into(),
                rebalance_timeout_ms: 300_000,
                session_timeout_ms: 45_000,
                subscription: Bytes::from_static(&[1, 2, 3]),
                assignment: Bytes::from_static(&[9]),
            }],
        }
    }

    // The golden bytes below were written by Kafka 4.4's own generated classes.
    const KAFKA_OFFSET_KEY: &str = "00010003677270000674c3b870696300000007";
    const KAFKA_GROUP_KEY: &str = "00020003677270";
    const KAFKA_TOPIC_ID: u128 = 0x0102_0304_0506_0708_1112_1314_1516_1718;

    #[test]
    fn keys_are_kafkas() {
        let record = GroupRecord::Offset { group: "grp".into(), topic: "tøpic".into(), partition: 7, value: None };
        assert_eq!(record.encode().unwrap(), (hex(KAFKA_OFFSET_KEY), None));
        assert_eq!(GroupRecord::decode(&hex(KAFKA_OFFSET_KEY), None).unwrap(), Some(record.clone()));
        // The type 0 of the first versions has the same fields.
        assert_eq!(GroupRecord::decode(&hex(&KAFKA_OFFSET_KEY.replacen("0001", "0000", 1)), None).unwrap(), Some(record));
        let record = GroupRecord::Group { group: "grp".into(), value: None };
        assert_eq!(record.encode().unwrap(), (hex(KAFKA_GROUP_KEY), None));
        assert_eq!(GroupRecord::decode(&hex(KAFKA_GROUP_KEY), None).unwrap(), Some(record));
        assert_eq!(GroupRecord::decode(&hex("00030003677270"), Some(&hex("0000"))).unwrap(), None, "a key of the consumer protocol (KIP-848)");
    }

    #[test]
    fn offset_values_are_kafkas() {
        assert_eq!(offset(0, None).encode().unwrap(), hex("0004000000000000002a00000005056d6574610000018bcfe5687b00"));
        let with_id = hex("0004000000000000002a00000005056d6574610000018bcfe5687b01001001020304050607081112131415161718");
        assert_eq!(offset(KAFKA_TOPIC_ID, None).encode().unwrap(), with_id);
        let v1 = hex("0001000000000000002a00046d6574610000018bcfe5687b0000018bcfe6ee9f");
        assert_eq!(offset(KAFKA_TOPIC_ID, Some(1_700_000_099_999)).encode().unwrap(), v1);
        assert_eq!(OffsetValue::decode(&with_id).unwrap(), offset(KAFKA_TOPIC_ID, None));
        assert_eq!(OffsetValue::decode(&v1).unwrap(), OffsetValue { leader_epoch: -1, ..offset(0, Some(1_700_000_099_999)) });
        let old = OffsetValue { leader_epoch: -1, ..offset(0, None) };
        assert_eq!(OffsetValue::decode(&hex("0000000000000000002a00046d6574610000018bcfe5687b")).unwrap(), old);
        assert_eq!(OffsetValue::decode(&hex("0002000000000000002a00046d6574610000018bcfe5687b")).unwrap(), old);
        assert_eq!(OffsetValue::decode(&hex("0003000000000000002a0000000500046d6574610000018bcfe5687b")).unwrap(), offset(0, None));
    }

    #[test]
    fn group_values_are_kafkas() {
        let v3 = "00030008636f6e73756d657200000003000572616e676500026d310000018bcfe5687b0000000100026d310002693100016300082f312e322e332e34000493e00000afc8000000030102030000000109";
        assert_eq!(group().encode().unwrap(), hex(v3));
        let v4 = "000409636f6e73756d6572000000030672616e6765036d310000018bcfe5687b02036d310369310263092f312e322e332e34000493e00000afc80401020302090000";
        for newest in [v3, v4] {
            assert_eq!(GroupValue::decode(&hex(newest)).unwrap(), group());
        }
        let mut expected = group();
        expected.members[0].instance_id = None;
        let v2 = "00020008636f6e73756d657200000003000572616e676500026d310000018bcfe5687b0000000100026d3100016300082f312e322e332e34000493e00000afc8000000030102030000000109";
        assert_eq!(GroupValue::decode(&hex(v2)).unwrap(), expected);
        expected.state_timestamp_ms = None;
        let v1 = "00010008636f6e73756d657200000003000572616e676500026d310000000100026d3100016300082f312e322e332e34000493e00000afc8000000030102030000000109";
        assert_eq!(GroupValue::decode(&hex(v1)).unwrap(), expected);
        expected.members[0].rebalance_timeout_ms = 45_000;
        let v0 = "00000008636f6e73756d657200000003000572616e676500026d310000000100026d3100016300082f312e322e332e340000afc8000000030102030000000109";
        assert_eq!(GroupValue::decode(&hex(v0)).unwrap(), expected, "v0 has no rebalance timeout: the session timeout stands in");
        let empty = GroupValue { protocol_type: String::new(), generation: 0, protocol: None, leader: None, state_timestamp_ms: None, members: vec![] };
        assert_eq!(empty.encode().unwrap(), hex("0003000000000000ffffffffffffffffffffffff00000000"));
        assert_eq!(GroupValue::decode(&empty.encode().unwrap()).unwrap(), empty);
    }

    #[test]
    fn versions_of_the_future_are_refused() {
        assert_eq!(OffsetValue::decode(&hex("0005")), Err(GroupRecordError::UnknownVersion { what: "an offset", version: 5 }));
        assert_eq!(GroupValue::decode(&hex("ffff")), Err(GroupRecordError::UnknownVersion { what: "a group", version: -1 }));
    }

    #[test]
    fn strings_that_do_not_fit_are_refused() {
        let record = GroupRecord::Group { group: "g".repeat(32_768), value: None };
        assert_eq!(record.encode(), Err(GroupRecordError::BadLength { field: "group", length: 32_768 }));
    }

    fn text() -> impl Strategy<Value = String> {
        "\\PC{0,20}"
    }

    fn blob() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    prop_compose! {
        fn offset_value()(offset: i64, leader_epoch: i32, metadata in text(), commit_timestamp_ms: i64, expiry in proptest::option::of(0..i64::MAX), id: u128) -> OffsetValue {
            // Version 1, which alone has an expiry, knows neither the epoch nor the topic's id.
            let (leader_epoch, id) = if expiry.is_some() { (-1, 0) } else { (leader_epoch, id) };
            OffsetValue { offset, leader_epoch, metadata, commit_timestamp_ms, expire_timestamp_ms: expiry, topic_id: Uuid::from_u128(id) }
        }
    }

    prop_compose! {
        fn member_value()(member_id in text(), instance_id in proptest::option::of(text()), client_id in text(), client_host in text(),
                          rebalance_timeout_ms in 0..i32::MAX, session_timeout_ms: i32, subscription in blob(), assignment in blob()) -> MemberValue {
            MemberValue { member_id, instance_id, client_id, client_host, rebalance_timeout_ms, session_timeout_ms, subscription, assignment }
        }
    }

    prop_compose! {
        fn group_value()(protocol_type in text(), generation: i32, protocol in proptest::option::of(text()), leader in proptest::option::of(text()),
                         state_timestamp_ms in proptest::option::of(0..i64::MAX), members in proptest::collection::vec(member_value(), 0..5)) -> GroupValue {
            GroupValue { protocol_type, generation, protocol, leader, state_timestamp_ms, members }
        }
    }

    fn record() -> impl Strategy<Value = GroupRecord> {
        prop_oneof![
            (text(), text(), any::<i32>(), proptest::option::of(offset_value())).prop_map(|(group, topic, partition, value)| GroupRecord::Offset {
                group,
                topic,
                partition,
                value
            }),
            (text(), proptest::option::of(group_value())).prop_map(|(group, value)| GroupRecord::Group { group, value }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(record in record()) {
            let (key, value) = record.encode().unwrap();
            prop_assert_eq!(GroupRecord::decode(&key, value.as_ref()).unwrap(), Some(record));
        }

        #[test]
        fn cut_values_are_refused(record in record(), cut in 0.0..1.0_f64) {
            let (key, value) = record.encode().unwrap();
            if let Some(value) = value {
                let value = value.slice(..(value.len() as f64 * cut) as usize);
                prop_assert!(GroupRecord::decode(&key, Some(&value)).is_err());
            }
        }

        #[test]
        fn no_bytes_panic(key in blob(), value in blob(), kind in 0..3_u8, version in 0..6_u8) {
            let key: Bytes = [&[0, kind][..], &key].concat().into();
            let value: Bytes = [&[0, version][..], &value].concat().into();
            let _ = GroupRecord::decode(&key, Some(&value));
        }
    }
}
