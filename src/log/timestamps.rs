//! ListOffsets by time: which record is the first at or after a timestamp, and which has the greatest.

use std::sync::Arc;

use bytes::Bytes;

use super::Log;
use super::error::LogError;
use super::scan::Scan;
use super::segment::{FileOf, HEADER_SCAN_BYTES, Segment};
use crate::record::batch::Header;
use crate::record::records;
use crate::runtime::Runtime;

/// No batch decompresses to more while timestamps are searched.
const DECOMPRESSED_MAX_BYTES: usize = 256 << 20;

/// A record's timestamp and place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampOffset {
    /// Its timestamp in ms since 1970.
    pub timestamp: i64,
    /// Its offset.
    pub offset: i64,
    /// Epoch of the leader that appended it, −1 if unknown.
    pub leader_epoch: i32,
}

impl<R: Runtime> Log<R> {
    /// The first record, by offset, whose timestamp is at least `timestamp`.
    ///
    /// # Errors
    /// If the log is offline or cannot be read.
    pub async fn offset_for_timestamp(&self, timestamp: i64) -> Result<Option<TimestampOffset>, LogError> {
        self.check_online()?;
        let log_start_offset = self.log_start_offset();
        for segment in self.all_segments() {
            if self.segment_max_timestamp(&segment).await? < timestamp {
                continue;
            }
            let open = self.open_segment(&segment).await?;
            // No batch up to this one has a greater timestamp than the one asked for; but it may have that very one.
            let from = open.indexes.read().expect("no panic holds it").time.lookup(timestamp.saturating_sub(1)).offset;
            let entry = open.indexes.read().expect("no panic holds it").offset.lookup(from.max(log_start_offset));
            let mut scan = Scan::new(&open.file, entry.map_or(0, |entry| entry.position), self.readable_bytes(&segment), HEADER_SCAN_BYTES);
            while let Some(header) = self.next_header(&segment, &mut scan).await? {
                if header.max_timestamp >= timestamp && header.last_offset() >= log_start_offset {
                    let batch = self.whole_batch(&segment, &mut scan).await?;
                    if let Some(found) = first_record(&header, &batch, |at, offset| at >= timestamp && offset >= log_start_offset) {
                        return Ok(Some(at(&header, found)));
                    }
                }
                scan.skip(&header);
            }
        }
        Ok(None)
    }

    /// The first record that has the greatest timestamp (KIP-734).
    ///
    /// # Errors
    /// If the log is offline or cannot be read.
    pub async fn max_timestamp_offset(&self) -> Result<Option<TimestampOffset>, LogError> {
        self.check_online()?;
        let mut greatest: Option<(i64, Arc<Segment<R>>)> = None;
        for segment in self.all_segments() {
            let timestamp = self.segment_max_timestamp(&segment).await?;
            if timestamp >= 0 && greatest.as_ref().is_none_or(|(most, _)| timestamp > *most) {
                greatest = Some((timestamp, segment));
            }
        }
        let Some((timestamp, segment)) = greatest else { return Ok(None) };
        let open = self.open_segment(&segment).await?;
        let last_offset = segment.known_max_time().map_or(segment.base_offset, |max_time| max_time.offset);
        let entry = open.indexes.read().expect("no panic holds it").offset.lookup(last_offset);
        let mut scan = Scan::new(&open.file, entry.map_or(0, |entry| entry.position), self.readable_bytes(&segment), HEADER_SCAN_BYTES);
        while let Some(header) = self.next_header(&segment, &mut scan).await? {
            if header.max_timestamp >= timestamp {
                let batch = self.whole_batch(&segment, &mut scan).await?;
                return Ok(first_record(&header, &batch, |at, _| at >= timestamp).map(|found| at(&header, found)));
            }
            scan.skip(&header);
        }
        Ok(None)
    }

    /// The first offset, with the leader epoch of its record if there is one.
    pub fn earliest_offset(&self) -> TimestampOffset {
        let offset = self.log_start_offset();
        TimestampOffset { timestamp: -1, offset, leader_epoch: self.epoch_for_offset(offset).unwrap_or(-1) }
    }

    /// All segments, oldest first.
    pub(super) fn all_segments(&self) -> Vec<Arc<Segment<R>>> {
        self.inner.segments.read().expect("no panic holds it").values().cloned().collect()
    }

    /// The greatest timestamp in a segment, −1 if there is none.
    pub(super) async fn segment_max_timestamp(&self, segment: &Arc<Segment<R>>) -> Result<i64, LogError> {
        let inner = &*self.inner;
        let interval_bytes = self.config().index_interval_bytes;
        let max_time = segment.max_time(&inner.rt, &inner.path, &inner.dir.cache, interval_bytes).await;
        max_time.map(|max_time| max_time.timestamp).map_err(|error| LogError::io(&self.segment_path(segment.base_offset), error))
    }

    fn readable_bytes(&self, segment: &Segment<R>) -> u64 {
        segment.size_bytes()
    }

    async fn whole_batch(&self, segment: &Segment<R>, scan: &mut Scan<'_, FileOf<R>>) -> Result<Bytes, LogError> {
        match scan.batch().await.map_err(|error| LogError::io(&self.segment_path(segment.base_offset), error))? {
            Some(Ok((_, bytes))) => Ok(bytes),
            Some(Err(error)) => Err(self.corrupt(segment, scan.position, &error)),
            None => Ok(Bytes::new()),
        }
    }
}

fn at(header: &Header, (timestamp, offset): (i64, i64)) -> TimestampOffset {
    TimestampOffset { timestamp, offset, leader_epoch: header.partition_leader_epoch }
}

/// The first record of a batch that is `wanted` by timestamp and offset. A batch that cannot be decoded answers with its base offset, so that
/// nobody who reads from there misses a record.
fn first_record(header: &Header, batch: &Bytes, wanted: impl Fn(i64, i64) -> bool) -> Option<(i64, i64)> {
    let fallback = (header.max_timestamp, header.base_offset);
    let Ok(records) = records(batch, DECOMPRESSED_MAX_BYTES) else { return Some(fallback) };
    for record in records {
        match record {
            Ok(record) if wanted(record.timestamp, record.offset) => return Some((record.timestamp, record.offset)),
            Ok(_) => {}
            Err(_) => return Some(fallback),
        }
    }
    None
}
