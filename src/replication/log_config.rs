//! A topic's configuration as its logs need it.

use crate::config::topic::{TimestampType, TopicConfig};
use crate::log::{LogConfig, TimestampType as LogTimestampType};

/// The configuration of a topic's logs. `producer_id_expiration_ms` is the broker's.
pub fn log_config(topic: &TopicConfig, producer_id_expiration_ms: i64) -> LogConfig {
    let bytes = |bytes: i32| u64::try_from(bytes).unwrap_or(0);
    LogConfig {
        segment_bytes: bytes(topic.effective_segment_bytes()),
        segment_ms: topic.segment_ms,
        segment_jitter_ms: topic.segment_jitter_ms,
        index_interval_bytes: bytes(topic.index_interval_bytes),
        segment_index_bytes: bytes(topic.segment_index_bytes),
        retention_bytes: topic.retention_bytes,
        retention_ms: topic.retention_ms,
        cleanup_delete: topic.cleanup_policy.delete,
        flush_messages: topic.flush_messages,
        flush_ms: topic.flush_ms,
        max_message_bytes: bytes(topic.max_message_bytes),
        message_timestamp_type: match topic.message_timestamp_type {
            TimestampType::CreateTime => LogTimestampType::CreateTime,
            TimestampType::LogAppendTime => LogTimestampType::LogAppendTime,
        },
        preallocate: topic.preallocate,
        file_delete_delay_ms: topic.file_delete_delay_ms,
        producer_id_expiration_ms,
        ..LogConfig::default()
    }
}
