//! What brokers say of replicas that they cannot use as they should: the content of `/ottla/offline/N`, and what it means for a partition. Pure.
//!
//! A broker writes it before it registers and whenever it changes; the controller follows it, and the rules of `elections` take it in. Kafka has two other ways:
//! with ZooKeeper a notice by which the controller asks the broker again (`/log_dir_event_notification`), with KRaft the directories of all replicas in the
//! metadata (KIP-858). Here the broker says which replicas, and the tree keeps it: another controller finds it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use uuid::Uuid;

use super::uuid_text;

/// What is wrong with a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Trouble {
    /// Its log cannot be read or written until the broker is started again; what it has may still be there. As if its broker had gone.
    Offline,
    /// The directory that it was in is gone for good. As if its broker had come back with another disk.
    Lost,
    /// There is no room for more records. As if its broker were about to leave: another one is to lead, if one can.
    Full,
}

impl Trouble {
    const ALL: [(Self, &'static str); 3] = [(Self::Offline, "offline"), (Self::Lost, "lost"), (Self::Full, "full")];
}

/// What one broker says of its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BrokerTroubles {
    /// Log directories that it had and has not: what was in them is spoken of in `replicas`. A later start knows by them that there was something.
    pub missing: Vec<Uuid>,
    /// By topic and partition.
    pub replicas: BTreeMap<(Arc<str>, i32), Trouble>,
}

impl BrokerTroubles {
    /// The znode's content.
    pub fn encode(&self) -> Bytes {
        let mut value = json!({ "version": 1, "missing_directory_ids": self.missing.iter().copied().map(uuid_text::to_text).collect::<Vec<_>>() });
        for (trouble, name) in Trouble::ALL {
            let mut topics: BTreeMap<&str, Vec<i32>> = BTreeMap::new();
            for ((topic, number), _) in self.replicas.iter().filter(|(_, told)| **told == trouble) {
                topics.entry(topic).or_default().push(*number);
            }
            if !topics.is_empty() {
                value[name] = json!(topics);
            }
        }
        value.to_string().into()
    }

    /// Reads a znode's content; what cannot be read is not there.
    pub fn decode(content: &[u8]) -> Self {
        let value: Value = serde_json::from_slice(content).unwrap_or_default();
        let missing = value["missing_directory_ids"].as_array().into_iter().flatten().filter_map(Value::as_str).filter_map(uuid_text::from_text).collect();
        let mut replicas = BTreeMap::new();
        for (trouble, name) in Trouble::ALL {
            for (topic, numbers) in value[name].as_object().into_iter().flatten() {
                let topic: Arc<str> = Arc::from(topic.as_str());
                let numbers = numbers.as_array().into_iter().flatten().filter_map(Value::as_i64).filter_map(|number| i32::try_from(number).ok());
                replicas.extend(numbers.map(|number| ((Arc::clone(&topic), number), trouble)));
            }
        }
        Self { missing, replicas }
    }
}

/// The brokers whose replicas of one partition are in trouble.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) offline: BTreeSet<i32>,
    pub(super) lost: BTreeSet<i32>,
    pub(super) full: BTreeSet<i32>,
}

/// No trouble.
pub(super) const NONE: &Here = &Here { offline: BTreeSet::new(), lost: BTreeSet::new(), full: BTreeSet::new() };

/// What all brokers say, by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Troubles(BTreeMap<Arc<str>, BTreeMap<i32, Here>>);

impl Troubles {
    /// What these brokers say.
    pub(super) fn of(told: &BTreeMap<i32, BrokerTroubles>) -> Self {
        let mut all: BTreeMap<Arc<str>, BTreeMap<i32, Here>> = BTreeMap::new();
        for (broker, told) in told {
            for ((topic, number), trouble) in &told.replicas {
                let here = all.entry(Arc::clone(topic)).or_default().entry(*number).or_default();
                let brokers = match trouble {
                    Trouble::Offline => &mut here.offline,
                    Trouble::Lost => &mut here.lost,
                    Trouble::Full => &mut here.full,
                };
                brokers.insert(*broker);
            }
        }
        Self(all)
    }

    /// What concerns one partition.
    pub(super) fn here(&self, topic: &str, number: i32) -> &Here {
        self.0.get(topic).and_then(|partitions| partitions.get(&number)).unwrap_or(NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_broker_says_is_read_as_it_was_written() {
        let replicas = [(("a", 0), Trouble::Offline), (("a", 7), Trouble::Full), (("b", 1), Trouble::Lost), (("b", 2), Trouble::Offline)];
        let replicas = replicas.into_iter().map(|((topic, number), trouble)| ((Arc::from(topic), number), trouble)).collect();
        let told = BrokerTroubles { missing: vec![Uuid::from_u128(1 << 64 | 5)], replicas };
        assert_eq!(BrokerTroubles::decode(&told.encode()), told);
        assert_eq!(BrokerTroubles::decode(b""), BrokerTroubles::default());
        assert_eq!(BrokerTroubles::decode(br#"{"offline":{"a":[1,"x",99999999999]},"lost":5}"#).replicas.len(), 1, "what can be read is");
        let all = Troubles::of(&BTreeMap::from([(3, told.clone()), (4, told)]));
        assert_eq!(all.here("a", 7), &Here { full: [3, 4].into(), ..Here::default() });
        assert_eq!(all.here("a", 1), NONE);
    }
}
