//! The name of a partition: a topic and a number. Its directory on disk has the same name, `TOPIC-PARTITION`.

use std::fmt;
use std::sync::Arc;

/// A partition of a topic. Cloning shares the topic's name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition by name and number.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }

    /// Reads a directory name, `TOPIC-PARTITION`. `None` if it is not one: the topic must be a legal Kafka topic name (1 to 249 of
    /// `a-zA-Z0-9._-`, not `.` or `..`) and the partition a number without sign or leading zeros.
    pub fn from_dir_name(name: &str) -> Option<Self> {
        let (topic, number) = name.rsplit_once('-')?;
        let partition: i32 = number.parse().ok()?;
        let canonical = !number.starts_with(['+', '-']) && (number == "0" || !number.starts_with('0'));
        (canonical && is_legal_topic(topic)).then(|| Self::new(topic, partition))
    }
}

/// Whether `topic` is a name that Kafka allows.
fn is_legal_topic(topic: &str) -> bool {
    (1..=249).contains(&topic.len()) && topic != "." && topic != ".." && topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

impl fmt::Debug for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_names_round_trip() {
        for name in ["a-0", "a-b-12", "__consumer_offsets-49", "a.b_c--7"] {
            assert_eq!(TopicPartition::from_dir_name(name).unwrap().to_string(), name);
        }
    }

    #[test]
    fn other_names_are_not_partitions() {
        for name in ["", "a", "-0", "a-", "a-x", "a-+1", "a-01", "a--", "..-0", "lost+found-0", "a-0.0123-delete", "a-99999999999"] {
            assert_eq!(TopicPartition::from_dir_name(name), None, "{name}");
        }
        assert_eq!(TopicPartition::from_dir_name("a--1").unwrap(), TopicPartition::new("a-", 1));
    }
}
