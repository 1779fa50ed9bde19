//! Topic configuration: the keys of Kafka 4.1, what each allows and means, and how a topic's value is found: the topic's own,
//! else the broker's key that is a synonym of it, else the default.

use std::collections::BTreeMap;

use crate::config::broker::BrokerConfig;
use crate::config::definition::{ConfigValue, Definition, Kind, Synonym, Valid, config_table, hours, minutes, same, words};
use crate::config::describe::{ConfigEntry, ConfigSource, ConfigSynonym};

words! {
    /// How records are compressed on disk (`compression.type`).
    pub enum CompressionType {
        /// As the producer sent them.
        Producer = "producer",
        /// Not at all.
        Uncompressed = "uncompressed",
        /// With gzip.
        Gzip = "gzip",
        /// With Snappy.
        Snappy = "snappy",
        /// With LZ4.
        Lz4 = "lz4",
        /// With Zstandard.
        Zstd = "zstd",
    }
}

words! {
    /// Where a record's timestamp comes from (`message.timestamp.type`).
    pub enum TimestampType {
        /// From its producer.
        CreateTime = "CreateTime",
        /// From the leader's clock at the append.
        LogAppendTime = "LogAppendTime",
    }
}

/// What happens to old segments (`cleanup.policy`): deleted, compacted, both, or (both false, from an empty list) kept for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CleanupPolicy {
    /// Deleted by age and size.
    pub delete: bool,
    /// Compacted: the last record of each key is kept.
    pub compact: bool,
}

impl ConfigValue for CleanupPolicy {
    const KIND: Kind = Kind::List;
    fn parse(text: &str) -> Result<Self, String> {
        let mut policy = Self { delete: false, compact: false };
        for word in Vec::<String>::parse(text)? {
            match word.as_str() {
                "delete" => policy.delete = true,
                "compact" => policy.compact = true,
                _ => return Err("delete, compact, or both separated by a comma".to_owned()),
            }
        }
        Ok(policy)
    }
    fn print(&self) -> Option<String> {
        Some(
            match (self.delete, self.compact) {
                (true, true) => "compact,delete",
                (true, false) => "delete",
                (false, true) => "compact",
                (false, false) => "",
            }
            .to_owned(),
        )
    }
}

config_table! {
    /// A topic's configuration, every key resolved.
    pub struct TopicConfig {
        /// What happens to old segments: `delete` removes them by age and size, `compact` keeps the last record of each key. This release has no cleaner yet and refuses `compact` on topics of users.
        cleanup_policy: CleanupPolicy = "cleanup.policy", "delete", Valid::Any, [same("log.cleanup.policy")];
        /// Level for gzip where the broker compresses, from 1 (fast) to 9 (small); -1 is gzip's own default.
        compression_gzip_level: i32 = "compression.gzip.level", "-1", Valid::OrBetween(-1, 1, 9), [same("compression.gzip.level")];
        /// Level for LZ4 where the broker compresses, from 1 (fast) to 17 (small).
        compression_lz4_level: i32 = "compression.lz4.level", "9", Valid::Between(1, 17), [same("compression.lz4.level")];
        /// Codec of the records on disk; `producer` keeps what the producer chose and lets the broker store batches untouched.
        compression_type: CompressionType = "compression.type", "producer", Valid::Any, [same("compression.type")];
        /// Level for Zstandard where the broker compresses, from -131072 (fast) to 22 (small).
        compression_zstd_level: i32 = "compression.zstd.level", "3", Valid::Between(-131_072, 22), [same("compression.zstd.level")];
        /// How long a compacted topic keeps the marks of deleted keys, in ms, so that a reader who starts at the beginning sees them.
        delete_retention_ms: i64 = "delete.retention.ms", "86400000", Valid::AtLeast(0), [same("log.cleaner.delete.retention.ms")];
        /// How long a deleted segment stays on disk under another name, in ms, for readers that still hold it.
        file_delete_delay_ms: i64 = "file.delete.delay.ms", "60000", Valid::AtLeast(0), [same("log.segment.delete.delay.ms")];
        /// Records after which the log is flushed to disk. 1, Ottla's default, acknowledges only what is on disk (records that arrive during a flush share the next); 9223372036854775807 leaves it to the operating system, as Kafka does by default.
        flush_messages: i64 = "flush.messages", "1", Valid::AtLeast(1), [same("log.flush.interval.messages")];
        /// Longest time in ms that a record stays unflushed, where `flush.messages` does not flush it before.
        flush_ms: i64 = "flush.ms", "9223372036854775807", Valid::AtLeast(0), [same("log.flush.interval.ms"), same("log.flush.scheduler.interval.ms")];
        /// Replicas whose fetching is throttled: `partition:broker` pairs, or `*` for all.
        follower_replication_throttled_replicas: Vec<String> = "follower.replication.throttled.replicas", "", Valid::Any, [];
        /// Bytes of log between two entries of the offset index. More bytes make a smaller index and longer scans.
        index_interval_bytes: i32 = "index.interval.bytes", "4096", Valid::AtLeast(0), [same("log.index.interval.bytes")];
        /// Segment size in bytes below the least that `segment.bytes` allows; for tests.
        internal_segment_bytes: Option<i32> = "internal.segment.bytes", "", Valid::AtLeast(1), [];
        /// Replicas whose sending is throttled on their leader: `partition:broker` pairs, or `*` for all.
        leader_replication_throttled_replicas: Vec<String> = "leader.replication.throttled.replicas", "", Valid::Any, [];
        /// Bytes that a tiered partition keeps on local disks; -2 is `retention.bytes`. Without effect before tiered storage exists.
        local_retention_bytes: i64 = "local.retention.bytes", "-2", Valid::AtLeast(-2), [same("log.local.retention.bytes")];
        /// Time in ms that a tiered partition keeps segments on local disks; -2 is `retention.ms`. Without effect before tiered storage exists.
        local_retention_ms: i64 = "local.retention.ms", "-2", Valid::AtLeast(-2), [same("log.local.retention.ms")];
        /// Longest time in ms that a record of a compacted topic stays uncompacted.
        max_compaction_lag_ms: i64 = "max.compaction.lag.ms", "9223372036854775807", Valid::AtLeast(1), [same("log.cleaner.max.compaction.lag.ms")];
        /// Largest record batch in bytes, after compression, that the broker accepts.
        max_message_bytes: i32 = "max.message.bytes", "1048588", Valid::AtLeast(0), [same("message.max.bytes")];
        /// How far in ms a record's timestamp may be after the broker's clock before it is rejected (with `CreateTime`).
        message_timestamp_after_max_ms: i64 = "message.timestamp.after.max.ms", "3600000", Valid::AtLeast(0), [same("log.message.timestamp.after.max.ms")];
        /// How far in ms a record's timestamp may be before the broker's clock before it is rejected (with `CreateTime`).
        message_timestamp_before_max_ms: i64 = "message.timestamp.before.max.ms", "9223372036854775807", Valid::AtLeast(0), [same("log.message.timestamp.before.max.ms")];
        /// Whether timestamps are the producers' (`CreateTime`) or the broker's (`LogAppendTime`).
        message_timestamp_type: TimestampType = "message.timestamp.type", "CreateTime", Valid::Any, [same("log.message.timestamp.type")];
        /// Share of a compacted log that must be uncompacted before the cleaner takes it.
        min_cleanable_dirty_ratio: f64 = "min.cleanable.dirty.ratio", "0.5", Valid::Ratio, [same("log.cleaner.min.cleanable.ratio")];
        /// Least time in ms that a record of a compacted topic stays uncompacted.
        min_compaction_lag_ms: i64 = "min.compaction.lag.ms", "0", Valid::AtLeast(0), [same("log.cleaner.min.compaction.lag.ms")];
        /// In-sync replicas that must have a record before it is acknowledged to a producer with `acks=all`; with fewer in sync such a produce request is refused.
        min_insync_replicas: i32 = "min.insync.replicas", "1", Valid::AtLeast(1), [same("min.insync.replicas")];
        /// Whether a segment's space is reserved when it is made.
        preallocate: bool = "preallocate", "false", Valid::Any, [same("log.preallocate")];
        /// Whether a tiered topic is no longer copied to remote storage. Without effect before tiered storage exists.
        remote_log_copy_disable: bool = "remote.log.copy.disable", "false", Valid::Any, [];
        /// Whether the remote copy is deleted when tiering is switched off. Without effect before tiered storage exists.
        remote_log_delete_on_disable: bool = "remote.log.delete.on.disable", "false", Valid::Any, [];
        /// Whether the topic is tiered. This release has no tiered storage yet and refuses `true`.
        remote_storage_enable: bool = "remote.storage.enable", "false", Valid::Any, [];
        /// Bytes of each partition to keep; older segments are deleted. -1 is no limit.
        retention_bytes: i64 = "retention.bytes", "-1", Valid::Any, [same("log.retention.bytes")];
        /// How long records are kept, in ms; a segment is deleted when its newest record is older. -1 is for ever.
        retention_ms: i64 = "retention.ms", "604800000", Valid::AtLeast(-1), [same("log.retention.ms"), minutes("log.retention.minutes"), hours("log.retention.hours")];
        /// Size in bytes at which a segment is closed and the next begins. Records are deleted by whole segments.
        segment_bytes: i32 = "segment.bytes", "1073741824", Valid::AtLeast(1_048_576), [same("log.segment.bytes")];
        /// Largest size in bytes of a segment's index; a full index closes the segment.
        segment_index_bytes: i32 = "segment.index.bytes", "10485760", Valid::AtLeast(4), [same("log.index.size.max.bytes")];
        /// Greatest random time in ms by which `segment.ms` is shortened, so that segments do not all close together.
        segment_jitter_ms: i64 = "segment.jitter.ms", "0", Valid::AtLeast(0), [same("log.roll.jitter.ms"), hours("log.roll.jitter.hours")];
        /// Time in ms after which a segment is closed even if it is not full, so that retention can delete it.
        segment_ms: i64 = "segment.ms", "604800000", Valid::AtLeast(1), [same("log.roll.ms"), hours("log.roll.hours")];
        /// Whether a replica that was not in sync may become leader when no other is left, which loses records.
        unclean_leader_election_enable: bool = "unclean.leader.election.enable", "false", Valid::Any, [same("unclean.leader.election.enable")];
    }
}

impl TopicConfig {
    /// The size in bytes at which a segment is closed: `segment.bytes`, or `internal.segment.bytes` in tests.
    pub fn effective_segment_bytes(&self) -> i32 {
        self.internal_segment_bytes.unwrap_or(self.segment_bytes)
    }
}

/// The definition of every topic key, by name.
pub fn definitions() -> &'static [Definition] {
    TopicConfig::table()
}

/// The definition of a key.
pub fn definition(key: &str) -> Option<&'static Definition> {
    definitions().iter().find(|definition| definition.name == key)
}

/// The topic key whose default the broker's key `broker_key` sets, and how.
pub fn by_synonym(broker_key: &str) -> Option<(&'static Definition, Synonym)> {
    definitions().iter().find_map(|definition| {
        let synonym = definition.synonyms.iter().find(|synonym| synonym.name == broker_key)?;
        Some((definition, *synonym))
    })
}

/// Checks a value that a user gives to a topic: that the key is known, that the value is of its type and in its range, and that this
/// release can do what it asks for.
///
/// # Errors
/// A message that can be sent to the client with `INVALID_CONFIG`.
pub fn validate(key: &str, value: &str) -> Result<(), String> {
    validate_syntax(key, value)?;
    match key {
        "cleanup.policy" if CleanupPolicy::parse(value).is_ok_and(|policy| policy.compact) => {
            Err("Invalid value compact for configuration cleanup.policy: this release has no log cleaner, so a compacted topic would grow for ever; use delete"
                .to_owned())
        }
        "remote.storage.enable" if bool::parse(value) == Ok(true) => {
            Err("Invalid value true for configuration remote.storage.enable: tiered storage is not in this release".to_owned())
        }
        _ => Ok(()),
    }
}

/// Checks a value's key, type and range only: what the broker's own internal topics must pass, which may be compacted.
///
/// # Errors
/// As [`validate`].
pub fn validate_syntax(key: &str, value: &str) -> Result<(), String> {
    let Some(definition) = definition(key) else {
        return Err(format!("Unknown topic config name: {key}"));
    };
    TopicConfig::default()
        .set(key, value)
        .map_err(|expected| format!("Invalid value {value} for configuration {key}: expected {expected} (type {})", definition.kind.kafka_name()))
}

/// Checks all of a topic's own values, each and together; whether this very topic may be compacted is its caller's to know.
///
/// # Errors
/// The first that fails, as [`validate`].
pub fn validate_all(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> Result<(), String> {
    for (key, value) in overrides {
        if key == "cleanup.policy" { validate_syntax(key, value)? } else { validate(key, value)? }
    }
    let config = resolve(broker, overrides);
    if config.min_compaction_lag_ms > config.max_compaction_lag_ms {
        return Err(format!(
            "conflict topic config setting min.compaction.lag.ms ({}) > max.compaction.lag.ms ({})",
            config.min_compaction_lag_ms, config.max_compaction_lag_ms
        ));
    }
    Ok(())
}

/// A topic's configuration: the broker's defaults with the topic's own values on top. Values that do not pass [`validate_syntax`]
/// (written by a later release, say) leave the default.
pub fn resolve(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> TopicConfig {
    let mut config = broker.topic_defaults.clone();
    for (key, value) in overrides {
        // An unreadable value of one topic is no reason to take the whole broker down; it was checked when it was written.
        let _ = config.set(key, value);
    }
    config
}

/// What `DescribeConfigs` answers for a topic: every key that is not internal, with where its value comes from.
pub fn describe(broker: &BrokerConfig, overrides: &BTreeMap<String, String>) -> Vec<ConfigEntry> {
    let resolved = resolve(broker, overrides);
    definitions()
        .iter()
        .filter(|definition| !definition.internal || overrides.contains_key(definition.name))
        .map(|definition| {
            let mut synonyms = Vec::new();
            if let Some(value) = overrides.get(definition.name) {
                synonyms.push(ConfigSynonym { name: definition.name, value: Some(value.clone()), source: ConfigSource::Topic });
            }
            for synonym in definition.synonyms {
                if let Some(value) = broker.given.get(synonym.name) {
                    synonyms.push(ConfigSynonym { name: synonym.name, value: Some(value.clone()), source: ConfigSource::StaticBroker });
                }
            }
            if let Some(last) = definition.synonyms.last() {
                synonyms.push(ConfigSynonym { name: last.name, value: synonym_default(definition, *last), source: ConfigSource::Default });
            }
            ConfigEntry {
                name: definition.name,
                value: resolved.get(definition.name),
                source: synonyms.first().map_or(ConfigSource::Default, |synonym| synonym.source),
                read_only: false,
                sensitive: false,
                kind: definition.kind,
                doc: definition.doc.trim(),
                synonyms,
            }
        })
        .collect()
}

/// The default of a broker's key that is a synonym: the topic key's default in the synonym's unit.
pub(crate) fn synonym_default(definition: &Definition, synonym: Synonym) -> Option<String> {
    if synonym.factor == 1 {
        return TopicConfig::default().get(definition.name);
    }
    definition.default.parse::<i64>().ok().map(|number| (number / synonym.factor).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_default_is_valid_and_prints_as_written() {
        let config = TopicConfig::default();
        for definition in definitions() {
            assert_eq!(config.get(definition.name).unwrap_or_default(), definition.default, "{}", definition.name);
            validate(definition.name, definition.default).unwrap();
            assert!(definition.doc.trim().ends_with('.'), "{}", definition.name);
        }
        assert!(definitions().is_sorted_by_key(|definition| definition.name));
    }

    #[test]
    fn types_and_ranges_are_checked() {
        for (key, value) in [
            ("segment.bytes", "1048575"),
            ("retention.ms", "-2"),
            ("retention.ms", "9223372036854775808"),
            ("min.insync.replicas", "0"),
            ("min.cleanable.dirty.ratio", "1.5"),
            ("min.cleanable.dirty.ratio", "-0.5"),
            ("compression.type", "brotli"),
            ("compression.gzip.level", "0"),
            ("cleanup.policy", "compact"),
            ("cleanup.policy", "delete,forget"),
            ("preallocate", "yes"),
            ("remote.storage.enable", "true"),
            ("no.such.key", "1"),
        ] {
            assert!(validate(key, value).is_err(), "{key}={value}");
        }
        for (key, value) in
            [("segment.bytes", " 1048576 "), ("retention.ms", "-1"), ("cleanup.policy", "delete"), ("compression.gzip.level", "-1"), ("preallocate", "TRUE")]
        {
            validate(key, value).unwrap();
        }
        assert!(validate("retention.ms", "week").unwrap_err().contains("retention.ms"));
        validate_syntax("cleanup.policy", "compact").unwrap();
    }

    #[test]
    fn a_topics_value_beats_the_brokers_which_beats_the_default() {
        let broker = BrokerConfig::from_text("f", "log.retention.minutes=2\nlog.retention.hours=9\nmin.insync.replicas=2", &[]).unwrap();
        let config = resolve(&broker, &overrides(&[("min.insync.replicas", "3"), ("segment.bytes", "2000000")]));
        assert_eq!((config.retention_ms, config.min_insync_replicas, config.segment_bytes, config.flush_messages), (120_000, 3, 2_000_000, 1));
    }

    #[test]
    fn describing_says_where_a_value_comes_from() {
        let broker = BrokerConfig::from_text("f", "log.retention.hours=9", &[]).unwrap();
        let entries = describe(&broker, &overrides(&[("segment.bytes", "2000000")]));
        let entry = |name| entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!(entry("retention.ms").value.as_deref(), Some("32400000"));
        assert_eq!(entry("retention.ms").source, ConfigSource::StaticBroker);
        assert_eq!(entry("retention.ms").synonyms[0].value.as_deref(), Some("9"));
        assert_eq!(
            entry("retention.ms").synonyms[1],
            ConfigSynonym { name: "log.retention.hours", value: Some("168".to_owned()), source: ConfigSource::Default }
        );
        assert_eq!(entry("segment.bytes").source, ConfigSource::Topic);
        assert_eq!(entry("segment.ms").source, ConfigSource::Default);
        assert!(entries.iter().all(|entry| entry.name != "internal.segment.bytes"));
    }

    #[test]
    fn values_that_contradict_each_other_are_refused() {
        let broker = BrokerConfig::default();
        assert!(validate_all(&broker, &overrides(&[("min.compaction.lag.ms", "10"), ("max.compaction.lag.ms", "5")])).is_err());
        validate_all(&broker, &overrides(&[("min.compaction.lag.ms", "5"), ("max.compaction.lag.ms", "5")])).unwrap();
    }
}
