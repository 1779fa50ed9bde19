//! Deleting old segments: those below the log start offset, those that the log is too large for, those whose newest record is too old.
//! Always from the oldest on, never past the high watermark or the durable end.
//!
//! The new log start offset is durable before the first file goes, so that a crash leaves either a log with the old start or one with the
//! new, whichever files survive. A file is renamed first and unlinked after `file.delete.delay.ms`, as in Kafka.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Log;
use super::error::LogError;
use super::names::{DELETED_SUFFIX, INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, file_name};
use super::segment::Segment;
use crate::runtime::{Disk, File, Runtime};

/// What retention did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionReport {
    /// Segments that were deleted.
    pub segments: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl<R: Runtime> Log<R> {
    /// Deletes what the configuration no longer wants, by the clock `unix_ms`. Deletes nothing while the high watermark is unknown.
    ///
    /// # Errors
    /// If the log is offline, or the disk fails; nothing is lost then.
    pub async fn apply_retention(&self, unix_ms: i64) -> Result<RetentionReport, LogError> {
        let doomed = self.plan_retention(unix_ms).await?;
        if doomed.is_empty() {
            return Ok(RetentionReport::default());
        }
        self.inner.dir.write_log_starts().await?;
        self.finish_retention(doomed).await
    }

    /// The first half: chooses segments and raises the log start offset in memory. Then the log start checkpoint must be written, once for
    /// all partitions of a directory, before [`Log::finish_retention`].
    pub(super) async fn plan_retention(&self, unix_ms: i64) -> Result<Vec<Arc<Segment<R>>>, LogError> {
        self.check_online()?;
        let Some(high_watermark) = self.high_watermark() else { return Ok(Vec::new()) };
        let config = self.config();
        let deletable_end = high_watermark.min(self.durable_end_offset());
        let log_start_offset = self.log_start_offset();
        let segments = self.all_segments();
        let mut excess_bytes = match config.retention_bytes {
            bytes @ 0.. if config.cleanup_delete => self.size_bytes() as i64 - bytes,
            _ => i64::MIN,
        };
        let mut doomed = 0;
        for (at, segment) in segments.iter().enumerate() {
            let next_base = segments.get(at + 1).map(|next| next.base_offset);
            let end_offset = next_base.unwrap_or_else(|| self.log_end_offset());
            let size_bytes = segment.size_bytes();
            if end_offset > deletable_end || (next_base.is_none() && size_bytes == 0) {
                break;
            }
            let below_start = next_base.is_some_and(|next_base| next_base <= log_start_offset);
            let too_large = excess_bytes >= size_bytes as i64;
            let expired = config.cleanup_delete && !below_start && !too_large && self.is_expired(segment, config.retention_ms, unix_ms).await?;
            if !(below_start || too_large || expired) {
                break;
            }
            excess_bytes = excess_bytes.saturating_sub(size_bytes as i64);
            doomed = at + 1;
        }
        if doomed == 0 {
            return Ok(Vec::new());
        }
        if doomed == segments.len() {
            self.roll().await?;
        }
        let doomed: Vec<_> = segments.into_iter().take(doomed).collect();
        let last_base = doomed[doomed.len() - 1].base_offset;
        let Some(new_start) = self.all_segments().iter().map(|segment| segment.base_offset).find(|base| *base > last_base) else {
            return Ok(Vec::new());
        };
        // What producers sent must be remembered although the segments that it is in go.
        if self.inner.snapshots.lock().expect("no panic holds it").last().is_none_or(|newest| *newest < new_start) {
            self.checkpoint_now().await?;
        }
        self.raise_log_start(new_start);
        Ok(doomed)
    }

    /// Whether a segment's newest record is older than `retention_ms`.
    async fn is_expired(&self, segment: &Arc<Segment<R>>, retention_ms: i64, unix_ms: i64) -> Result<bool, LogError> {
        if retention_ms < 0 {
            return Ok(false);
        }
        let mut newest_ms = self.segment_max_timestamp(segment).await?;
        if newest_ms < 0 {
            // No record has a timestamp.
            let open = self.open_segment(segment).await?;
            newest_ms = open.file.modified_ms().await.map_err(|error| LogError::io(&self.segment_path(segment.base_offset), error))?;
        }
        Ok(unix_ms.saturating_sub(newest_ms) > retention_ms)
    }

    /// The second half: takes the segments out and deletes their files.
    pub(super) async fn finish_retention(&self, doomed: Vec<Arc<Segment<R>>>) -> Result<RetentionReport, LogError> {
        let inner = &*self.inner;
        let mut report = RetentionReport::default();
        let mut renamed = Vec::new();
        for segment in doomed {
            // A truncation may have come in between and made everything anew, perhaps at the same offset.
            let _no_truncation = inner.writer.lock().await;
            let planned = inner.segments.read().expect("no panic holds it").get(&segment.base_offset).is_some_and(|now| Arc::ptr_eq(now, &segment));
            if !planned {
                continue;
            }
            let size_bytes = segment.size_bytes();
            inner.segments.write().expect("no panic holds it").remove(&segment.base_offset);
            inner.inactive_bytes.fetch_sub(size_bytes, Ordering::AcqRel);
            renamed.extend(self.rename_segment_files(segment.base_offset).await?);
            segment.close();
            report.segments += 1;
            report.bytes += size_bytes;
            inner.rt.event("log.delete_segment", &[inner.trace_id, segment.base_offset as u64]);
        }
        let delay = Duration::from_millis(u64::try_from(self.config().file_delete_delay_ms).unwrap_or(0));
        let log = self.clone();
        drop(inner.rt.spawn("log-delete-files", async move {
            let rt = &log.inner.rt;
            rt.sleep(delay).await;
            for path in renamed {
                // What stays, because the partition was deleted or the disk fails, is removed at the next start.
                let _ = rt.disk().remove_file(&path).await;
            }
        }));
        Ok(report)
    }

    /// Renames what belongs to a segment; the batches first, as the other files mean nothing without them.
    async fn rename_segment_files(&self, base_offset: i64) -> Result<Vec<std::path::PathBuf>, LogError> {
        let inner = &*self.inner;
        let mut renamed = Vec::new();
        let newest_snapshot = inner.snapshots.lock().expect("no panic holds it").last().copied();
        for suffix in [LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, SNAPSHOT_SUFFIX] {
            if suffix == SNAPSHOT_SUFFIX {
                if newest_snapshot == Some(base_offset) {
                    continue;
                }
                inner.snapshots.lock().expect("no panic holds it").remove(&base_offset);
            }
            let from = inner.path.join(file_name(base_offset, suffix));
            let to = inner.path.join(file_name(base_offset, suffix) + DELETED_SUFFIX);
            match inner.rt.disk().rename(&from, &to).await {
                Ok(()) => renamed.push(to),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(LogError::io(&from, error)),
            }
        }
        Ok(renamed)
    }
}
