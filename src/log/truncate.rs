//! Cutting a log back, as followers do (KIP-101), and deleting from its start, as clients ask (DeleteRecords).

use super::Log;
use super::dir::CheckpointKind;
use super::error::LogError;
use super::names::{SNAPSHOT_SUFFIX, file_name};
use super::recovery::{self, Existing};
use crate::runtime::{Disk, File, Runtime};

impl<R: Runtime> Log<R> {
    /// Removes all records from `offset` on. Returns whether there were any. Recovery state goes back first, so that a crash at any
    /// point leaves either log.
    ///
    /// # Errors
    /// If the log is offline, below the log start offset, or the disk fails, which takes the log offline: what is left is unknown then.
    pub async fn truncate_to(&self, offset: i64) -> Result<bool, LogError> {
        let inner = &*self.inner;
        let mut writer = inner.writer.lock().await;
        self.check_online()?;
        if writer.uncertain {
            self.cut_back(&mut writer).await?;
        }
        if offset >= writer.end_offset {
            // An epoch that began at the end without a record is forgotten.
            inner.epochs.write().expect("no panic holds it").truncate_from_end(writer.end_offset);
            return Ok(false);
        }
        if offset < self.log_start_offset() {
            return Err(LogError::OffsetOutOfRange { offset, log_start_offset: self.log_start_offset(), log_end_offset: writer.end_offset });
        }
        let _no_flush = self.flush_lock().lock().await;
        let _no_checkpoint = inner.checkpoint_lock.lock().await;
        self.lower_ends(offset);
        // The log start too: what is read anew below forgets the epochs before it.
        for kind in [CheckpointKind::RecoveryPoint, CheckpointKind::HighWatermark, CheckpointKind::LogStart] {
            if let Err(error) = inner.dir.write_checkpoint(kind).await {
                // Nothing is cut: the next flush raises the ends again.
                self.mark_dirty();
                return Err(error);
            }
        }
        // From here on a failure leaves neither log.
        let cut = async {
            self.remove_snapshots_above(offset).await?;
            let (keep, _) = self.segment_at(offset).expect("a log has a segment");
            let later: Vec<i64> = self.segment_base_offsets().into_iter().filter(|base| *base > keep.base_offset).collect();
            // The newest first: a crash leaves no hole.
            for base_offset in later.into_iter().rev() {
                recovery::remove_segment_files(&inner.rt, self.path(), base_offset).await.map_err(|error| LogError::io(self.path(), error))?;
            }
            let open = self.open_segment(&keep).await?;
            let position = self.position_of(&keep, &open, offset, keep.size_bytes()).await?.unwrap_or(keep.size_bytes());
            let path = self.segment_path(keep.base_offset);
            let io = |error| LogError::io(&path, error);
            open.file.set_len(position).await.map_err(io)?;
            open.file.sync_data().await.map_err(io)?;
            inner.rt.disk().sync_dir(self.path()).await.map_err(|error| LogError::io(self.path(), error))?;
            keep.close();
            Ok::<(), LogError>(())
        };
        if let Err(error) = cut.await {
            self.fail(format!("truncating to offset {offset} failed: {error}. Restart the broker when the disk is well"));
            return Err(error);
        }
        self.reopen(&mut writer).await?;
        inner.rt.event("log.truncate", &[inner.trace_id, writer.end_offset as u64]);
        Ok(true)
    }

    /// Removes all records and goes on at `offset`: for a follower whose log has nothing in common with its leader's.
    ///
    /// # Errors
    /// As [`Log::truncate_to`].
    pub async fn truncate_fully_and_start_at(&self, offset: i64) -> Result<(), LogError> {
        assert!(offset >= 0);
        let inner = &*self.inner;
        let mut writer = inner.writer.lock().await;
        self.check_online()?;
        let _no_flush = self.flush_lock().lock().await;
        let _no_checkpoint = inner.checkpoint_lock.lock().await;
        // A recovery point of 0 says that nothing has to be there; then a log start offset beyond it says where to start anew.
        self.lower_ends(0);
        self.set_log_start(offset);
        for kind in [CheckpointKind::RecoveryPoint, CheckpointKind::HighWatermark, CheckpointKind::LogStart] {
            inner.dir.write_checkpoint(kind).await?;
        }
        inner.epochs.write().expect("no panic holds it").clear();
        let clear = async {
            self.remove_snapshots_above(-1).await?;
            for base_offset in self.segment_base_offsets().into_iter().rev() {
                recovery::remove_segment_files(&inner.rt, self.path(), base_offset).await.map_err(|error| LogError::io(self.path(), error))?;
            }
            inner.rt.disk().sync_dir(self.path()).await.map_err(|error| LogError::io(self.path(), error))
        };
        if let Err(error) = clear.await {
            self.fail(format!("starting anew at offset {offset} failed: {error}. Restart the broker when the disk is well"));
            return Err(error);
        }
        self.reopen(&mut writer).await?;
        assert_eq!((writer.end_offset, self.log_start_offset()), (offset, offset));
        inner.rt.event("log.truncate_fully", &[inner.trace_id, offset as u64]);
        Ok(())
    }

    /// Reads the log's state anew from disk.
    async fn reopen(&self, writer: &mut super::partition_log::Writer<R>) -> Result<(), LogError> {
        let inner = &*self.inner;
        let existing = Existing { log_start_offset: self.log_start_offset(), trust_snapshots: true, gaps_below: inner.gaps_below, ..Existing::default() };
        match recovery::recover(&inner.rt, self.partition(), self.path(), &self.config(), existing).await {
            Ok(recovered) => {
                self.install(writer, recovered);
                Ok(())
            }
            Err(error) => {
                self.fail(format!("the log could not be read after a truncation: {error}"));
                self.check_online()
            }
        }
    }

    /// Removes producer snapshots above `offset`: one that exists says that all below it is on disk.
    async fn remove_snapshots_above(&self, offset: i64) -> Result<(), LogError> {
        let stale = self.inner.snapshots.lock().expect("no panic holds it").split_off(&(offset + 1));
        for offset in stale.into_iter().rev() {
            let path = self.path().join(file_name(offset, SNAPSHOT_SUFFIX));
            self.inner.rt.disk().remove_file(&path).await.map_err(|error| LogError::io(&path, error))?;
        }
        self.inner.rt.disk().sync_dir(self.path()).await.map_err(|error| LogError::io(self.path(), error))
    }

    /// Deletes all records below `offset` (−1: below the high watermark, or the log end without one), durably. Returns the new log start
    /// offset. Segments that are wholly below are deleted at the next [`Log::apply_retention`]. The caller checks the high watermark.
    ///
    /// # Errors
    /// [`LogError::OffsetOutOfRange`] if `offset` is above the log end offset; the disk's.
    pub async fn delete_records_before(&self, offset: i64) -> Result<i64, LogError> {
        self.check_online()?;
        let log_end_offset = self.log_end_offset();
        let offset = if offset == -1 { self.high_watermark().unwrap_or(log_end_offset).min(log_end_offset) } else { offset };
        if offset < 0 || offset > log_end_offset {
            return Err(LogError::OffsetOutOfRange { offset, log_start_offset: self.log_start_offset(), log_end_offset });
        }
        if offset > self.log_start_offset() {
            // The start may never be beyond what a crash leaves.
            if offset > self.durable_end_offset() {
                self.flush().await?;
            }
            self.raise_log_start(offset);
            self.inner.rt.event("log.start", &[self.inner.trace_id, offset as u64]);
        }
        self.inner.dir.write_log_starts().await?;
        Ok(self.log_start_offset())
    }
}
