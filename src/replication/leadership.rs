//! One leadership of a partition of an internal topic, as its coordinator uses it: [`InternalLog`] bound to [`Partition`].

use std::sync::Arc;

use bytes::Bytes;

use crate::internal_topic::{InternalLog, InternalLogError};
use crate::log::{AppendError, BatchToAppend, LogError, ReadError};
use crate::record::batch::Header;
use crate::replication::partition::{Partition, PartitionAppendError};
use crate::runtime::{File, Runtime};

/// A partition led in one epoch.
pub struct Leadership<R: Runtime> {
    partition: Arc<Partition<R>>,
    epoch: i32,
}

impl<R: Runtime> Leadership<R> {
    /// The partition's leadership in its current epoch.
    pub fn of(partition: Arc<Partition<R>>) -> Self {
        let epoch = partition.leader_epoch();
        Self { partition, epoch }
    }

    fn check(&self) -> Result<(), InternalLogError> {
        if self.partition.is_deleted() || !self.partition.leads() || self.partition.leader_epoch() != self.epoch {
            Err(InternalLogError::NotLeader)
        } else {
            Ok(())
        }
    }
}

fn storage(error: impl ToString) -> InternalLogError {
    InternalLogError::Storage { reason: error.to_string() }
}

impl<R: Runtime> InternalLog for Leadership<R> {
    fn start_offset(&self) -> i64 {
        self.partition.log().log_start_offset()
    }

    fn end_offset(&self) -> i64 {
        self.partition.log().log_end_offset()
    }

    async fn read(&self, from_offset: i64, max_bytes: usize) -> Result<Bytes, InternalLogError> {
        self.check()?;
        let slice = match self.partition.log().read(from_offset, max_bytes, self.end_offset(), true).await {
            Ok(slice) => slice,
            Err(ReadError::Log(LogError::Deleted { .. })) => return Err(InternalLogError::NotLeader),
            Err(error) => return Err(storage(error)),
        };
        if slice.len == 0 {
            return Ok(Bytes::new());
        }
        let bytes = slice.file.read_at(slice.position, slice.len as usize).await.map_err(storage)?;
        if bytes.len() as u64 == slice.len { Ok(bytes) } else { Err(storage("a segment ended before a range that is within it")) }
    }

    async fn append(&self, batch: Bytes) -> Result<i64, InternalLogError> {
        self.check()?;
        if !self.partition.has_enough_replicas() {
            return Err(InternalLogError::NotEnoughReplicas);
        }
        let header = Header::whole(&batch).map_err(storage)?;
        let batch_bytes = batch.len();
        match self.partition.append(&[BatchToAppend { header, bytes: batch }]).await {
            Ok(info) => Ok(info.last_offset + 1),
            Err(PartitionAppendError::Append(AppendError::MessageTooLarge { .. } | AppendError::LargerThanSegment { .. })) => {
                Err(InternalLogError::TooLarge { batch_bytes })
            }
            Err(PartitionAppendError::NotLeader | PartitionAppendError::Append(AppendError::Log(LogError::Deleted { .. }))) => Err(InternalLogError::NotLeader),
            Err(error) => Err(storage(error)),
        }
    }

    async fn committed(&self, end_offset: i64) -> Result<(), InternalLogError> {
        self.check()?;
        self.partition.committed(end_offset).await.map_err(|_| InternalLogError::NotLeader)?;
        self.check()
    }
}
