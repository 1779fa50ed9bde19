//! What a topic's configuration means to its logs: Kafka's keys, typed.

/// `message.timestamp.type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TimestampType {
    /// The producer's.
    #[default]
    CreateTime,
    /// The broker's at the append.
    LogAppendTime,
}

/// The configuration of one partition's log. Defaults are Kafka's, but for `flush_messages`, which is 1: acknowledged means on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// `segment.bytes`: a segment's greatest size.
    pub segment_bytes: u64,
    /// `segment.ms`: the time after which a new segment is begun.
    pub segment_ms: i64,
    /// `segment.jitter.ms`: each segment's `segment_ms` is shortened by a random time up to this.
    pub segment_jitter_ms: i64,
    /// `index.interval.bytes`: the bytes between two index entries.
    pub index_interval_bytes: u64,
    /// `segment.index.bytes`: an index file's greatest size.
    pub segment_index_bytes: u64,
    /// `retention.bytes`: the oldest segments go while the log stays at least this large; −1 for ever.
    pub retention_bytes: i64,
    /// `retention.ms`: segments whose newest record is older go; −1 for ever.
    pub retention_ms: i64,
    /// Whether `cleanup.policy` contains `delete`: whether the two retentions hold.
    pub cleanup_delete: bool,
    /// `flush.messages`: records after which the log is flushed. 1: acknowledged only when flushed. `i64::MAX`: left to the system.
    pub flush_messages: i64,
    /// `flush.ms`: a record's greatest time in memory alone; `i64::MAX`: no limit.
    pub flush_ms: i64,
    /// `max.message.bytes`: the greatest batch.
    pub max_message_bytes: u64,
    /// `message.timestamp.type`.
    pub message_timestamp_type: TimestampType,
    /// `preallocate`: whether space is reserved ahead of the end, in steps, without changing the file's length.
    pub preallocate: bool,
    /// `file.delete.delay.ms`: how long a deleted segment's files stay under another name.
    pub file_delete_delay_ms: i64,
    /// `producer.id.expiration.ms`: how long an idle producer is remembered.
    pub producer_id_expiration_ms: i64,
    /// Bytes written after which indexes and producer state are made durable, which bounds what recovery reads.
    pub checkpoint_bytes: u64,
}

impl Default for LogConfig {
    fn default() -> Self {
        const DAY_MS: i64 = 24 * 60 * 60 * 1000;
        Self {
            segment_bytes: 1 << 30,
            segment_ms: 7 * DAY_MS,
            segment_jitter_ms: 0,
            index_interval_bytes: 4096,
            segment_index_bytes: 10 << 20,
            retention_bytes: -1,
            retention_ms: 7 * DAY_MS,
            cleanup_delete: true,
            flush_messages: 1,
            flush_ms: i64::MAX,
            max_message_bytes: 1_048_588,
            message_timestamp_type: TimestampType::CreateTime,
            preallocate: false,
            file_delete_delay_ms: 60_000,
            producer_id_expiration_ms: DAY_MS,
            checkpoint_bytes: 64 << 20,
        }
    }
}

impl LogConfig {
    /// Whether a record counts as acknowledged only when it is on disk.
    pub fn flushes_every_message(&self) -> bool {
        self.flush_messages <= 1
    }
}
