//! A segment: a file of batches and its two indexes. The active segment and those whose indexes are not on disk yet stay open; others are
//! opened when they are read, and closed again beyond a bound ([`SegmentCache`]), so that a broker with many segments keeps neither
//! descriptors nor indexes of all of them.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};

use smallvec::smallvec;

use super::index::OffsetIndex;
use super::names::{INDEX_SUFFIX, LOG_SUFFIX, TIME_INDEX_SUFFIX, file_name};
use super::scan::Scan;
use super::time_index::{TimeEntry, TimeIndex};
use super::{checkpoint, index, time_index};
use crate::record::batch::{Header, NO_TIMESTAMP};
use crate::runtime::{Disk, File, Open, Runtime};

/// The files of a runtime.
pub(super) type FileOf<R> = <<R as Runtime>::Disk as Disk>::File;

/// Bytes of one read when only headers are wanted.
pub(super) const HEADER_SCAN_BYTES: usize = 64 << 10;

/// A segment of a log, open or not.
pub(super) struct Segment<R: Runtime> {
    /// Offset of its first record, and its name.
    pub base_offset: i64,
    size_bytes: AtomicU64,
    open: Mutex<Option<Arc<OpenSegment<R>>>>,
    /// Whether the cache may not close it: it is active, or its indexes are in memory alone.
    pinned: AtomicBool,
    last_used: AtomicU64,
    /// The greatest timestamp, once known; of the active segment always.
    max_time: Mutex<Option<TimeEntry>>,
}

/// What an open segment has in memory.
pub(super) struct OpenSegment<R: Runtime> {
    /// The batches.
    pub file: FileOf<R>,
    /// Both indexes.
    pub indexes: RwLock<Indexes>,
}

/// Both indexes of a segment, and how much of them is in their files.
#[derive(Clone, Debug)]
pub(super) struct Indexes {
    pub offset: OffsetIndex,
    pub time: TimeIndex,
    pub offset_written: usize,
    pub time_written: usize,
}

impl Indexes {
    /// Empty ones of a new segment.
    pub(super) fn new(base_offset: i64) -> Self {
        Self { offset: OffsetIndex::new(base_offset), time: TimeIndex::new(base_offset), offset_written: 0, time_written: 0 }
    }

    /// Adds what a batch at `position` is due: an entry in both if more than `interval_bytes` lie between it and the last entry's batch.
    /// `max_time` is the greatest timestamp up to and including the batch. Appends and recovery share this rule, so that
    /// indexes rebuilt equal those stored.
    pub(super) fn add(&mut self, position: u64, last_offset: i64, max_time: TimeEntry, interval_bytes: u64) {
        if position - self.offset.last().map_or(0, |entry| entry.position) > interval_bytes {
            self.offset.append(last_offset, position);
            if max_time.timestamp >= 0 {
                self.time.append(max_time.timestamp, max_time.offset);
            }
        }
    }

    /// Adds the last entry of a segment that takes no more batches.
    pub(super) fn finish(&mut self, max_time: TimeEntry) {
        if max_time.timestamp >= 0 {
            self.time.append(max_time.timestamp, max_time.offset);
        }
    }

    /// Whether the files have every entry.
    pub(super) fn is_written(&self) -> bool {
        self.offset_written == self.offset.len() && self.time_written == self.time.len()
    }

    fn memory_bytes(&self) -> usize {
        self.offset.memory_bytes() + self.time.len() * 16
    }
}

/// A timestamp that is in no record: before the first batch of a segment.
pub(super) fn no_time(base_offset: i64) -> TimeEntry {
    TimeEntry { timestamp: NO_TIMESTAMP, offset: base_offset }
}

/// The greatest timestamp after one more batch.
pub(super) fn later(max_time: TimeEntry, header: &Header) -> TimeEntry {
    if header.max_timestamp > max_time.timestamp { TimeEntry { timestamp: header.max_timestamp, offset: header.last_offset() } } else { max_time }
}

impl<R: Runtime> Segment<R> {
    /// A segment whose file has `size_bytes`, not open.
    pub(super) fn closed(base_offset: i64, size_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            base_offset,
            size_bytes: AtomicU64::new(size_bytes),
            open: Mutex::new(None),
            pinned: AtomicBool::new(false),
            last_used: AtomicU64::new(0),
            max_time: Mutex::new(None),
        })
    }

    /// A segment that stays open until [`Segment::unpin`].
    pub(super) fn pinned(base_offset: i64, size_bytes: u64, file: FileOf<R>, indexes: Indexes, max_time: TimeEntry) -> (Arc<Self>, Arc<OpenSegment<R>>) {
        let open = Arc::new(OpenSegment { file, indexes: RwLock::new(indexes) });
        let segment = Self {
            base_offset,
            size_bytes: AtomicU64::new(size_bytes),
            open: Mutex::new(Some(open.clone())),
            pinned: AtomicBool::new(true),
            last_used: AtomicU64::new(0),
            max_time: Mutex::new(Some(max_time)),
        };
        (Arc::new(segment), open)
    }

    /// Its bytes that may be read.
    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    /// Publishes that the file has been written up to there.
    pub(super) fn set_size_bytes(&self, size_bytes: u64) {
        self.size_bytes.store(size_bytes, Ordering::Release);
    }

    /// The greatest timestamp if it is known without I/O.
    pub(super) fn known_max_time(&self) -> Option<TimeEntry> {
        *lock(&self.max_time)
    }

    /// Notes the greatest timestamp.
    pub(super) fn set_max_time(&self, max_time: TimeEntry) {
        *lock(&self.max_time) = Some(max_time);
    }

    /// The open segment, if it is open.
    pub(super) fn if_open(&self) -> Option<Arc<OpenSegment<R>>> {
        lock(&self.open).clone()
    }

    /// Opens it if need be. Missing or damaged indexes are made anew from the batches.
    pub(super) async fn opened(self: &Arc<Self>, rt: &R, dir: &Path, cache: &SegmentCache<R>, interval_bytes: u64) -> io::Result<Arc<OpenSegment<R>>> {
        self.last_used.store(cache.tick(), Ordering::Relaxed);
        if let Some(open) = self.if_open() {
            return Ok(open);
        }
        let file = rt.disk().open(&dir.join(file_name(self.base_offset, LOG_SUFFIX)), Open::Write).await?;
        let size_bytes = self.size_bytes();
        let loaded = load_indexes(rt, dir, self.base_offset, size_bytes).await?;
        let rebuilt = loaded.is_none();
        let indexes = match loaded {
            Some(indexes) => indexes,
            None => rebuild_indexes(&file, self.base_offset, size_bytes, interval_bytes).await?.0,
        };
        let mut faster = true;
        let open = {
            let mut slot = lock(&self.open);
            // Another reader may have been faster.
            slot.get_or_insert_with(|| {
                faster = false;
                Arc::new(OpenSegment { file, indexes: RwLock::new(indexes) })
            })
            .clone()
        };
        if rebuilt && !faster {
            tracing::warn!(directory = %dir.display(), segment = self.base_offset, "rebuilt missing or damaged indexes");
            // Without files they stay in memory, and the next start makes them again.
            if let Err(error) = replace_indexes(rt, dir, self.base_offset, &open).await {
                tracing::warn!(directory = %dir.display(), segment = self.base_offset, %error, "rebuilt indexes could not be written");
            }
        }
        cache.admit(self);
        Ok(open)
    }

    /// The greatest timestamp, from the time index's last entry if the segment is complete.
    pub(super) async fn max_time(self: &Arc<Self>, rt: &R, dir: &Path, cache: &SegmentCache<R>, interval_bytes: u64) -> io::Result<TimeEntry> {
        if let Some(known) = self.known_max_time() {
            return Ok(known);
        }
        let open = self.opened(rt, dir, cache, interval_bytes).await?;
        let mut max_time = open.indexes.read().expect("no panic holds it").time.last();
        if max_time.timestamp < 0 && self.size_bytes() > 0 {
            // Either no record has a timestamp, or the index is not complete.
            max_time = rebuild_indexes(&open.file, self.base_offset, self.size_bytes(), interval_bytes).await?.1;
        }
        self.set_max_time(max_time);
        Ok(max_time)
    }

    /// Lets the cache close it.
    pub(super) fn unpin(self: &Arc<Self>, cache: &SegmentCache<R>) {
        if self.pinned.swap(false, Ordering::AcqRel) {
            cache.admit(self);
        }
    }

    /// Closes it. Handles that readers hold stay usable.
    pub(super) fn close(&self) {
        *lock(&self.open) = None;
    }
}

/// The lock of a mutex that no panic holds.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no panic holds it")
}

/// Both indexes as their files have them; `None` if one is missing, damaged, or does not fit the log.
pub(super) async fn load_indexes<R: Runtime>(rt: &R, dir: &Path, base_offset: i64, log_size_bytes: u64) -> io::Result<Option<Indexes>> {
    let offset = checkpoint::read_small_file(rt, &dir.join(file_name(base_offset, INDEX_SUFFIX))).await?;
    let time = checkpoint::read_small_file(rt, &dir.join(file_name(base_offset, TIME_INDEX_SUFFIX))).await?;
    let (Some(offset), Some(time)) = (offset, time) else { return Ok(None) };
    let (offset, offset_whole) = OffsetIndex::parse(base_offset, &offset, log_size_bytes);
    let (time, time_whole) = TimeIndex::parse(base_offset, &time, i64::MAX);
    let (offset_written, time_written) = (offset.len(), time.len());
    Ok((offset_whole && time_whole).then_some(Indexes { offset, time, offset_written, time_written }))
}

/// Both indexes made anew from the batches' headers, with the entry that a complete segment ends with, and the greatest timestamp.
pub(super) async fn rebuild_indexes<F: File>(file: &F, base_offset: i64, size_bytes: u64, interval_bytes: u64) -> io::Result<(Indexes, TimeEntry)> {
    let mut indexes = Indexes::new(base_offset);
    let mut max_time = no_time(base_offset);
    let mut scan = Scan::new(file, 0, size_bytes, HEADER_SCAN_BYTES);
    while let Some(Ok(header)) = scan.header().await? {
        if !indexes.offset.fits(header.last_offset()) || header.base_offset < base_offset {
            break;
        }
        max_time = later(max_time, &header);
        let follows = indexes.offset.last().is_none_or(|last| header.last_offset() > last.last_offset);
        if follows {
            indexes.add(scan.position, header.last_offset(), max_time, interval_bytes);
        }
        scan.skip(&header);
    }
    indexes.finish(max_time);
    Ok((indexes, max_time))
}

/// Writes the entries that the index files lack and syncs them. The directory is the caller's to sync.
pub(super) async fn write_indexes<R: Runtime>(rt: &R, dir: &Path, base_offset: i64, open: &OpenSegment<R>) -> io::Result<()> {
    let (offset_at, offset_bytes, time_at, time_bytes) = {
        let indexes = open.indexes.read().expect("no panic holds it");
        (indexes.offset_written, indexes.offset.encode(indexes.offset_written), indexes.time_written, indexes.time.encode(indexes.time_written))
    };
    let (offset_count, time_count) = (offset_at + offset_bytes.len() / index::ENTRY_BYTES, time_at + time_bytes.len() / time_index::ENTRY_BYTES);
    for (suffix, position, bytes) in
        [(INDEX_SUFFIX, offset_at * index::ENTRY_BYTES, offset_bytes), (TIME_INDEX_SUFFIX, time_at * time_index::ENTRY_BYTES, time_bytes)]
    {
        let file = rt.disk().open(&dir.join(file_name(base_offset, suffix)), Open::Create).await?;
        let end = (position + bytes.len()) as u64;
        if !bytes.is_empty() {
            file.write_at(position as u64, smallvec![bytes]).await?;
        }
        // Whatever an earlier life left behind is not of this index.
        if file.len().await? != end {
            file.set_len(end).await?;
        }
        file.sync_data().await?;
    }
    let mut indexes = open.indexes.write().expect("no panic holds it");
    indexes.offset_written = offset_count;
    indexes.time_written = time_count;
    Ok(())
}

/// Writes both indexes of a complete segment anew. A crash leaves each as it was or whole: nothing else would tell that entries are missing.
async fn replace_indexes<R: Runtime>(rt: &R, dir: &Path, base_offset: i64, open: &OpenSegment<R>) -> io::Result<()> {
    let (offset, time) = {
        let indexes = open.indexes.read().expect("no panic holds it");
        (indexes.offset.encode(0), indexes.time.encode(0))
    };
    let counts = (offset.len() / index::ENTRY_BYTES, time.len() / time_index::ENTRY_BYTES);
    checkpoint::replace_file_before_dir_sync(rt, dir, &file_name(base_offset, INDEX_SUFFIX), offset).await?;
    checkpoint::replace_file(rt, dir, &file_name(base_offset, TIME_INDEX_SUFFIX), time).await?;
    let mut indexes = open.indexes.write().expect("no panic holds it");
    (indexes.offset_written, indexes.time_written) = counts;
    Ok(())
}

/// Keeps the number of open segments and the memory of their indexes within bounds: the least recently used are closed.
pub(super) struct SegmentCache<R: Runtime> {
    open: Mutex<Vec<Weak<Segment<R>>>>,
    clock: AtomicU64,
    max_segments: usize,
    max_index_bytes: usize,
}

impl<R: Runtime> SegmentCache<R> {
    /// With these bounds, which hold for segments that are not pinned.
    pub(super) fn new(max_segments: usize, max_index_bytes: usize) -> Self {
        Self { open: Mutex::new(Vec::new()), clock: AtomicU64::new(0), max_segments, max_index_bytes }
    }

    fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// Counts an open segment in, and closes others if that is one too many.
    fn admit(&self, segment: &Arc<Segment<R>>) {
        let mut open = lock(&self.open);
        let mut candidates: Vec<(u64, usize, Arc<Segment<R>>)> = Vec::new();
        open.retain(|weak| {
            let Some(other) = weak.upgrade() else { return false };
            let Some(memory) = other.if_open().map(|open| open.indexes.read().expect("no panic holds it").memory_bytes()) else { return false };
            if !Arc::ptr_eq(&other, segment) {
                candidates.push((other.last_used.load(Ordering::Relaxed), memory, other));
            }
            true
        });
        if !open.iter().any(|weak| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(segment))) {
            open.push(Arc::downgrade(segment));
        }
        candidates.sort_by_key(|(last_used, ..)| *last_used);
        let mut count = candidates.len() + 1;
        let mut bytes: usize = candidates.iter().map(|(_, memory, _)| memory).sum();
        for (_, memory, other) in candidates {
            if count <= self.max_segments && bytes <= self.max_index_bytes {
                break;
            }
            let written = other.if_open().is_some_and(|open| open.indexes.read().expect("no panic holds it").is_written());
            if written && !other.pinned.load(Ordering::Acquire) {
                other.close();
                count -= 1;
                bytes -= memory;
            }
        }
    }

    /// How many segments are open that may be closed.
    #[cfg(test)]
    pub(super) fn open_count(&self) -> usize {
        lock(&self.open).iter().filter(|weak| weak.upgrade().is_some_and(|segment| segment.if_open().is_some())).count()
    }
}
