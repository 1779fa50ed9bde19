//! Where a partition's leader is now, told with the error that says that it is elsewhere, so that clients need no Metadata round trip
//! (KIP-951): shared by Produce and Fetch responses.

use bytes::BytesMut;
use std::sync::Arc;

use super::primitive::{WriteExt, unsigned_varint_bytes};
use bytes::BufMut;

/// The leader of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaderIdAndEpoch {
    /// Broker id, or −1 if unknown.
    pub leader_id: i32,
    /// Leader epoch, or −1 if unknown.
    pub leader_epoch: i32,
}

/// Where a broker named by a [`LeaderIdAndEpoch`] listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeEndpoint {
    /// Broker id.
    pub node_id: i32,
    /// Host name of the listener that the request came in on.
    pub host: Arc<str>,
    /// Its port.
    pub port: i32,
    /// The broker's rack.
    pub rack: Option<Arc<str>>,
}

impl LeaderIdAndEpoch {
    /// Writes tag, size and content of a tagged leader. Both numbers and an empty set of tags are nine bytes.
    pub(super) fn put_tagged(&self, out: &mut BytesMut, tag: u32) {
        out.put_unsigned_varint(tag);
        out.put_unsigned_varint(9);
        out.put_i32(self.leader_id);
        out.put_i32(self.leader_epoch);
        out.put_u8(0);
    }
}

/// Writes the tagged fields that end a response: the endpoints, under tag 0, if there are any.
pub(super) fn put_node_endpoints(out: &mut BytesMut, endpoints: &[NodeEndpoint]) {
    if endpoints.is_empty() {
        out.put_u8(0);
        return;
    }
    let string_bytes = |value: &str| unsigned_varint_bytes(value.len() as u32 + 1) + value.len();
    let bytes: usize = endpoints.iter().map(|node| 4 + string_bytes(&node.host) + 4 + node.rack.as_deref().map_or(1, string_bytes) + 1).sum();
    out.put_u8(1);
    out.put_unsigned_varint(0);
    out.put_unsigned_varint((unsigned_varint_bytes(endpoints.len() as u32 + 1) + bytes) as u32);
    out.put_count(true, endpoints.len());
    for node in endpoints {
        out.put_i32(node.node_id);
        out.put_string(true, &node.host);
        out.put_i32(node.port);
        out.put_nullable_string(true, node.rack.as_deref());
        out.put_u8(0);
    }
}
