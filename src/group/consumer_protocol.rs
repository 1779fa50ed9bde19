//! What the coordinator reads of the consumers' own protocol: the topics of a subscription. Everything else in it is between clients.
//!
//! All versions of `ConsumerProtocolSubscription` begin as version 0 does: version i16, topics as an array of strings.

use bytes::Buf;

/// The protocol type of consumer groups.
pub const PROTOCOL_TYPE: &str = "consumer";

/// The topics of a subscription; `None` if the bytes are not one. Bounded by the bytes: a topic takes at least two.
pub fn subscribed_topics(mut subscription: &[u8]) -> Option<Vec<String>> {
    let version = subscription.try_get_i16().ok()?;
    let count = usize::try_from(subscription.try_get_i32().ok()?).ok()?;
    if version < 0 || count > subscription.len() / 2 {
        return None;
    }
    let mut topics = Vec::with_capacity(count);
    for _ in 0..count {
        let length = usize::try_from(subscription.try_get_i16().ok()?).ok()?;
        let (topic, rest) = subscription.split_at_checked(length)?;
        topics.push(std::str::from_utf8(topic).ok()?.to_owned());
        subscription = rest;
    }
    Some(topics)
}

/// A subscription of version 0, for tests and tools.
pub fn subscription(topics: &[&str]) -> bytes::Bytes {
    use bytes::BufMut;
    let mut to = bytes::BytesMut::new();
    to.put_i16(0);
    to.put_i32(topics.len() as i32);
    for topic in topics {
        to.put_i16(topic.len() as i16);
        to.put_slice(topic.as_bytes());
    }
    to.put_i32(-1);
    to.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_the_topics_of_any_version() {
        assert_eq!(subscribed_topics(&subscription(&["a", "tøpic"])), Some(vec!["a".into(), "tøpic".into()]));
        let newer = [&[0, 3, 0, 0, 0, 1, 0, 1, b'a'][..], &[9; 20]].concat();
        assert_eq!(subscribed_topics(&newer), Some(vec!["a".into()]));
    }

    #[test]
    fn hostile_counts_are_refused() {
        assert_eq!(subscribed_topics(&[0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0]), None);
        assert_eq!(subscribed_topics(&[0, 0, 0xff, 0xff, 0xff, 0xff]), None);
        assert_eq!(subscribed_topics(&[0xff, 0xff, 0, 0, 0, 0]), None);
        assert_eq!(subscribed_topics(b""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = subscribed_topics(&bytes);
        }
    }
}
