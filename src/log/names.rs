//! The names of files and directories: Kafka's own, so that its tools read what we write.

use bytes::Bytes;

use crate::topic_partition::TopicPartition;

/// Records.
pub const LOG_SUFFIX: &str = ".log";
/// Offset to position.
pub const INDEX_SUFFIX: &str = ".index";
/// Timestamp to offset.
pub const TIME_INDEX_SUFFIX: &str = ".timeindex";
/// Aborted transactions.
pub const TXN_INDEX_SUFFIX: &str = ".txnindex";
/// Producer state at an offset.
pub const SNAPSHOT_SUFFIX: &str = ".snapshot";
/// Renamed to this before it is unlinked.
pub const DELETED_SUFFIX: &str = ".deleted";
/// A checkpoint being written.
pub const TEMP_SUFFIX: &str = ".tmp";
/// A directory about to be removed.
pub const DELETE_DIR_SUFFIX: &str = "-delete";

/// A directory that belongs to no topic of the cluster, kept.
pub const STRAY_DIR_SUFFIX: &str = "-stray";

/// Leader epochs and where they start; in a partition's directory.
pub const LEADER_EPOCH_CHECKPOINT: &str = "leader-epoch-checkpoint";
/// The topic's id; in a partition's directory.
pub const PARTITION_METADATA: &str = "partition.metadata";
/// Recovery points of all partitions of a log directory.
pub const RECOVERY_POINT_CHECKPOINT: &str = "recovery-point-offset-checkpoint";
/// High watermarks of all partitions of a log directory.
pub const HIGH_WATERMARK_CHECKPOINT: &str = "replication-offset-checkpoint";
/// Log start offsets of all partitions of a log directory.
pub const LOG_START_CHECKPOINT: &str = "log-start-offset-checkpoint";
/// Who owns a log directory.
pub const META_PROPERTIES: &str = "meta.properties";
/// The mark of a clean shutdown.
pub const CLEAN_SHUTDOWN: &str = ".kafka_cleanshutdown";
/// The lock of a log directory.
pub const LOCK: &str = ".lock";

/// The file of a segment, or a snapshot: 20 digits and a suffix.
pub fn file_name(offset: i64, suffix: &str) -> String {
    format!("{offset:020}{suffix}")
}

/// Reads a name made by [`file_name`] with exactly this suffix.
pub fn parse_file_name(name: &str, suffix: &str) -> Option<i64> {
    let digits = name.strip_suffix(suffix)?;
    (digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The directory name under which a deleted partition waits for its removal: `TOPIC-PARTITION.UUID-delete`, at most 255 bytes as Kafka
/// cuts it.
pub fn delete_dir_name(partition: &TopicPartition, id: u128) -> String {
    dir_name(partition, id, DELETE_DIR_SUFFIX)
}

/// The directory name under which the log of no topic is kept: `TOPIC-PARTITION.UUID-stray`, cut likewise.
pub fn stray_dir_name(partition: &TopicPartition, id: u128) -> String {
    dir_name(partition, id, STRAY_DIR_SUFFIX)
}

fn dir_name(partition: &TopicPartition, id: u128, suffix: &str) -> String {
    let suffix = format!("-{}.{id:032x}{suffix}", partition.partition);
    let topic: String = partition.topic.chars().take(255 - suffix.len()).collect();
    topic + &suffix
}

/// Whether a directory name is one of [`delete_dir_name`]'s (or Kafka's).
pub fn is_delete_dir_name(name: &str) -> bool {
    let Some(rest) = name.strip_suffix(DELETE_DIR_SUFFIX) else { return false };
    let Some((partition, id)) = rest.rsplit_once('.') else { return false };
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()) && TopicPartition::from_dir_name(partition).is_some()
}

/// A slice of zeros is not a record: whether all bytes are zero.
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// Owned bytes of a text.
pub(crate) fn text_bytes(text: String) -> Bytes {
    Bytes::from(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_kafka_writes_them() {
        assert_eq!(file_name(0, LOG_SUFFIX), "00000000000000000000.log");
        assert_eq!(file_name(i64::MAX, INDEX_SUFFIX), "09223372036854775807.index");
        assert_eq!(parse_file_name("00000000000000000042.timeindex", TIME_INDEX_SUFFIX), Some(42));
        assert_eq!(parse_file_name("00000000000000000042.log.deleted", LOG_SUFFIX), None);
        assert_eq!(parse_file_name("42.log", LOG_SUFFIX), None);
        assert_eq!(parse_file_name("99999999999999999999.log", LOG_SUFFIX), None);
    }

    #[test]
    fn deleted_directories_are_told_from_partitions() {
        let partition = TopicPartition::new("t".repeat(249), 7);
        let name = delete_dir_name(&partition, u128::MAX);
        assert!(name.len() <= 255 && is_delete_dir_name(&name));
        assert!(is_delete_dir_name("foo-0.0123456789abcdef0123456789abcdef-delete"));
        let stray = stray_dir_name(&partition, 7);
        assert!(stray.len() <= 255 && !is_delete_dir_name(&stray) && TopicPartition::from_dir_name(&stray).is_none());
        for other in ["foo-0", "foo-delete", "foo-0.123-delete", "important.0123456789abcdef0123456789abcdef-delete"] {
            assert!(!is_delete_dir_name(other), "{other}");
        }
    }
}
