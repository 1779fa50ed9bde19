//! What can go wrong with a log, one enum per kind of operation.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;

use super::producer_state::SequenceError;
use crate::topic_partition::TopicPartition;

/// The log itself cannot do what was asked.
#[derive(Clone, Debug, Error)]
pub enum LogError {
    /// The partition takes part in nothing until the broker restarts. Kafka's KAFKA_STORAGE_ERROR.
    #[error("partition {partition} is offline: {why}")]
    Offline {
        /// The partition.
        partition: TopicPartition,
        /// What happened, and what to do.
        why: Arc<str>,
    },
    /// The partition was deleted while the caller still held it.
    #[error("partition {partition} was deleted")]
    Deleted {
        /// The partition.
        partition: TopicPartition,
    },
    /// The disk refused; the log is as it was before and can be used again.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The disk's answer.
        source: Arc<io::Error>,
    },
    /// Bytes of the log are not what was written.
    #[error("{} is damaged at position {position}: {what}", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// In bytes.
        position: u64,
        /// What is wrong.
        what: String,
    },
    /// An offset that the log does not have.
    #[error("offset {offset} is not within the log, which goes from {log_start_offset} to {log_end_offset}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: i64,
        /// The first offset.
        log_start_offset: i64,
        /// After the last one.
        log_end_offset: i64,
    },
}

impl LogError {
    /// An error of the disk.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source: Arc::new(source) }
    }

    /// Whether the disk is full: the same may work later.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_storage_full(source))
    }
}

/// Whether the disk is full: the same may work later.
pub(super) fn is_storage_full(error: &io::Error) -> bool {
    // A limit on the size of files (`ulimit -f`) is one on room too.
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

/// Why batches were not appended. Nothing of them is in the log.
#[derive(Clone, Debug, Error)]
pub enum AppendError {
    /// What the producer sent before forbids it: Kafka's OUT_OF_ORDER_SEQUENCE_NUMBER, INVALID_PRODUCER_EPOCH, INVALID_TXN_STATE.
    #[error(transparent)]
    Sequence(#[from] SequenceError),
    /// Greater than `max.message.bytes`: Kafka's MESSAGE_TOO_LARGE.
    #[error("the record batch has {size_bytes} bytes, which exceeds the maximum configured value of {max_bytes} (max.message.bytes)")]
    MessageTooLarge {
        /// The batch.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// Greater than a segment: Kafka's RECORD_LIST_TOO_LARGE.
    #[error("the append has {size_bytes} bytes, which exceeds the maximum configured segment size of {max_bytes} (segment.bytes)")]
    LargerThanSegment {
        /// All batches of the append.
        size_bytes: u64,
        /// The limit.
        max_bytes: u64,
    },
    /// A replicated batch that does not follow the log's end.
    #[error("a replicated batch begins at offset {base_offset}, below the log end offset {log_end_offset}")]
    OffsetsNotIncreasing {
        /// The batch's.
        base_offset: i64,
        /// The log's.
        log_end_offset: i64,
    },
    /// The log cannot take it.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// Why nothing was read.
#[derive(Clone, Debug, Error)]
pub enum ReadError {
    /// Below the log start offset or above the limit: Kafka's OFFSET_OUT_OF_RANGE.
    #[error("offset {offset} is out of range: the log has {log_start_offset} to {end_offset}")]
    OffsetOutOfRange {
        /// What was asked for.
        offset: i64,
        /// The first offset.
        log_start_offset: i64,
        /// After the last one that may be read.
        end_offset: i64,
    },
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
}
