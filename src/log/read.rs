//! Reading: from an offset to a slice of a segment's file, which the caller hands to the socket. No record is decoded, and a consumer that
//! keeps up or reads on causes no read here at all (see [`boundaries`](super::boundaries)).

use std::io;
use std::ops::Bound;
use std::sync::Arc;

use super::Log;
use super::boundaries::Boundary;
use super::error::{LogError, ReadError};
use super::scan::Scan;
use super::segment::{FileOf, OpenSegment, Segment};
use crate::record::batch::{BatchError, Header};
use crate::runtime::{File, Runtime};

/// Bytes of one read when an index entry has led close to what is searched.
const SEARCH_BYTES: usize = 8 << 10;

/// Whole batches, one after the other, in one file.
pub struct FetchSlice<R: Runtime> {
    /// The segment. It stays readable although the segment be deleted.
    pub file: FileOf<R>,
    /// Where the first batch begins, in bytes.
    pub position: u64,
    /// Bytes of all batches; 0 if there is nothing to read.
    pub len: u64,
    /// The offset asked for; the first batch contains it or begins after it.
    pub from_offset: i64,
    /// Offset after the last batch: where to read on.
    pub next_offset: i64,
}

impl<R: Runtime> Log<R> {
    /// Finds batches from the one that contains `from_offset` on: whole ones, at most `max_bytes`, all of whose records are below
    /// `up_to_offset`, from one segment. `min_one_batch`: the first one even if it is larger. Nothing is no error.
    ///
    /// # Errors
    /// [`ReadError::OffsetOutOfRange`] if `from_offset` is below the log start offset or above the log end offset.
    pub async fn read(&self, from_offset: i64, max_bytes: usize, up_to_offset: i64, min_one_batch: bool) -> Result<FetchSlice<R>, ReadError> {
        let max_bytes = max_bytes as u64;
        loop {
            self.check_online()?;
            let log_end_offset = self.log_end_offset();
            if from_offset < self.log_start_offset() || from_offset > log_end_offset {
                return Err(ReadError::OffsetOutOfRange { offset: from_offset, log_start_offset: self.log_start_offset(), end_offset: log_end_offset });
            }
            match self.read_segment(from_offset, max_bytes, up_to_offset.min(log_end_offset), min_one_batch).await {
                Ok(Some(slice)) => return Ok(slice),
                // The list of segments changed meanwhile.
                Ok(None) => {}
                // So it did if a file is gone below a new log start offset.
                Err(_) if from_offset < self.log_start_offset() => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// [`Log::read`] on the segments as they are now; `None` if they changed.
    async fn read_segment(&self, from_offset: i64, max_bytes: u64, up_to_offset: i64, min_one_batch: bool) -> Result<Option<FetchSlice<R>>, LogError> {
        let inner = &*self.inner;
        let mut floor = from_offset;
        loop {
            let Some((segment, next_base)) = self.segment_at(floor) else { return Ok(None) };
            let open = self.open_segment(&segment).await?;
            let base = segment.base_offset;
            let (known_start, active_end) = {
                let boundaries = inner.boundaries.lock().expect("no panic holds it");
                (boundaries.position_of(base, from_offset), boundaries.end_of(base))
            };
            let end = match (active_end, next_base) {
                (Some(end), _) => end,
                (None, Some(next_base)) => Boundary { offset: next_base, position: segment.size_bytes() },
                (None, None) => return Ok(None),
            };
            let slice = |start: u64, end: Boundary| FetchSlice {
                file: open.file.clone(),
                position: start,
                len: end.position - start,
                from_offset,
                next_offset: end.offset,
            };
            if up_to_offset <= from_offset {
                return Ok(Some(slice(0, Boundary { offset: from_offset, position: 0 })));
            }
            let start = match known_start {
                Some(start) => Some(start),
                None => self.position_of(&segment, &open, from_offset, end.position).await?,
            };
            let Some(start) = start else {
                match next_base {
                    // All of the segment is below: compaction left a gap.
                    Some(next_base) => {
                        floor = next_base;
                        continue;
                    }
                    None => return Ok(Some(slice(end.position, Boundary { offset: from_offset, ..end }))),
                }
            };
            let read_end = self.end_of_read(&segment, &open, start, from_offset, max_bytes, up_to_offset, end, min_one_batch).await?;
            if read_end.position > start {
                inner.boundaries.lock().expect("no panic holds it").note_read_end(base, read_end);
            }
            return Ok(Some(slice(start, read_end)));
        }
    }

    /// Where a read that begins at `start` ends: the last boundary within all limits, or `start`.
    #[allow(clippy::too_many_arguments, reason = "the limits of one read")]
    async fn end_of_read(
        &self,
        segment: &Segment<R>,
        open: &OpenSegment<R>,
        start: u64,
        from_offset: i64,
        max_bytes: u64,
        up_to_offset: i64,
        end: Boundary,
        min_one_batch: bool,
    ) -> Result<Boundary, LogError> {
        let nothing = Boundary { offset: from_offset, position: start };
        let position_limit = start.saturating_add(max_bytes);
        let (by_offset, by_position) = {
            let boundaries = self.inner.boundaries.lock().expect("no panic holds it");
            let by_offset = if up_to_offset >= end.offset { Some(end) } else { boundaries.floor_of_offset(segment.base_offset, up_to_offset) };
            let by_position = if position_limit >= end.position { Some(end) } else { boundaries.floor_of_position(segment.base_offset, position_limit) };
            (by_offset, by_position)
        };
        // Each is the greatest boundary within its limit, so the lesser one is the greatest within both.
        let mut found = match (by_offset, by_position) {
            (Some(one), Some(other)) => Some(if one.position < other.position { one } else { other }),
            (Some(one), None) if one.position <= position_limit => Some(one),
            (None, Some(one)) if one.offset <= up_to_offset => Some(one),
            _ => None,
        };
        if found.is_none() {
            let entry = open.indexes.read().expect("no panic holds it").offset.lookup_position(position_limit, up_to_offset);
            let from = entry.map_or(start, |entry| entry.position.max(start));
            let mut scan = Scan::new(&open.file, from, end.position, SEARCH_BYTES);
            let mut last = nothing;
            while let Some(header) = self.next_header(segment, &mut scan).await? {
                if scan.position == from && from > start {
                    last = Boundary { offset: header.base_offset, position: from };
                }
                if scan.position + header.size_in_bytes() as u64 > position_limit || header.last_offset() >= up_to_offset {
                    break;
                }
                scan.skip(&header);
                last = Boundary { offset: header.next_offset(), position: scan.position };
            }
            found = Some(last);
        }
        let found = found.filter(|found| found.position > start).unwrap_or(nothing);
        if found == nothing && min_one_batch && start < end.position {
            let mut scan = Scan::new(&open.file, start, end.position, SEARCH_BYTES);
            if let Some(header) = self.next_header(segment, &mut scan).await?.filter(|header| header.last_offset() < up_to_offset) {
                return Ok(Boundary { offset: header.next_offset(), position: start + header.size_in_bytes() as u64 });
            }
        }
        Ok(found)
    }

    /// The position of the first batch with a record at or after `offset`, `None` if there is none below `end_position`.
    pub(super) async fn position_of(&self, segment: &Arc<Segment<R>>, open: &OpenSegment<R>, offset: i64, end_position: u64) -> Result<Option<u64>, LogError> {
        let entry = open.indexes.read().expect("no panic holds it").offset.lookup(offset);
        if let Some(entry) = entry {
            let mut scan = Scan::new(&open.file, entry.position, end_position, SEARCH_BYTES);
            let first = scan.header().await.map_err(|error| self.segment_error(segment, error))?;
            if matches!(first, Some(Ok(header)) if header.base_offset <= entry.last_offset && header.base_offset >= segment.base_offset) {
                return self.search(segment, scan, offset).await;
            }
            tracing::warn!(path = %self.segment_path(segment.base_offset).display(), position = entry.position, "the offset index points between batches; reading from the segment's start");
        }
        self.search(segment, Scan::new(&open.file, 0, end_position, SEARCH_BYTES), offset).await
    }

    /// Goes from batch to batch to the first one with a record at or after `offset`.
    async fn search(&self, segment: &Segment<R>, mut scan: Scan<'_, FileOf<R>>, offset: i64) -> Result<Option<u64>, LogError> {
        while let Some(header) = self.next_header(segment, &mut scan).await? {
            if header.last_offset() >= offset {
                return Ok(Some(scan.position));
            }
            scan.skip(&header);
        }
        Ok(None)
    }

    /// The header at a scan's position.
    pub(super) async fn next_header<F: File>(&self, segment: &Segment<R>, scan: &mut Scan<'_, F>) -> Result<Option<Header>, LogError> {
        match scan.header().await.map_err(|error| self.segment_error(segment, error))? {
            None => Ok(None),
            Some(Ok(header)) => Ok(Some(header)),
            Some(Err(error)) => Err(self.corrupt(segment, scan.position, &error)),
        }
    }

    /// The segment that holds `offset` or would, and the base offset of the one after it.
    pub(super) fn segment_at(&self, offset: i64) -> Option<(Arc<Segment<R>>, Option<i64>)> {
        let segments = self.inner.segments.read().expect("no panic holds it");
        // The first segment may begin above the log start offset.
        let (base, segment) = segments.range(..=offset).next_back().or_else(|| segments.first_key_value())?;
        let next = segments.range((Bound::Excluded(*base), Bound::Unbounded)).next().map(|(base, _)| *base);
        Some((segment.clone(), next))
    }

    /// Opens a segment.
    pub(super) async fn open_segment(&self, segment: &Arc<Segment<R>>) -> Result<Arc<OpenSegment<R>>, LogError> {
        let inner = &*self.inner;
        let interval_bytes = self.config().index_interval_bytes;
        segment.opened(&inner.rt, &inner.path, &inner.dir.cache, interval_bytes).await.map_err(|error| self.segment_error(segment, error))
    }

    fn segment_error(&self, segment: &Segment<R>, error: io::Error) -> LogError {
        LogError::io(&self.segment_path(segment.base_offset), error)
    }

    /// A batch that is not one.
    pub(super) fn corrupt(&self, segment: &Segment<R>, position: u64, error: &BatchError) -> LogError {
        LogError::Corrupt { path: self.segment_path(segment.base_offset), position, what: error.to_string() }
    }
}
