//! Opening a partition's directory, whatever state a crash left it in.
//!
//! The newest producer snapshot says that everything below its offset is on disk, with its indexes and leader epochs. From there on each
//! batch is read and its checksum verified; indexes, epochs and producers are completed by what is found. What was not flushed may be
//! missing, torn, or written out of order. So at the first bytes that are no batch:
//!
//! - *Below what is known to have been on disk* (recovery point, snapshot; high watermark where each message is flushed), a disk has lost
//!   what it had: rot. Nothing is cut; the partition goes offline with an error that says where.
//! - *Nothing valid behind*: the torn tail of a crash. It is cut off.
//! - *Something valid behind*: writes that were under way at the crash may have reached the disk in any order. A lost sector of a file that
//!   only grows reads as zeros: if the damage has one, or the file ends early, it is the crash's and is cut with all behind it. Else it is rot.
//!
//! A log that ends below what is known to have been on disk is offline too.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use super::append::{draw_jitter_ms, note_producer};
use super::config::LogConfig;
use super::epoch_cache::EpochCache;
use super::interrupted::Interrupted;
use super::names::{
    DELETED_SUFFIX, INDEX_SUFFIX, LEADER_EPOCH_CHECKPOINT, LOG_SUFFIX, SNAPSHOT_SUFFIX, TEMP_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX, all_zero, file_name,
    parse_file_name,
};
use super::partition_log::{PinnedSegment, Writer};
use super::producer_state::{ProducerEntry, ProducerStates, parse_end_transaction};
use super::scan::Scan;
use super::segment::{FileOf, HEADER_SCAN_BYTES, Indexes, OpenSegment, Segment, later, load_indexes, no_time, write_indexes};
use super::time_index::TimeEntry;
use super::txn_index::{self, AbortedTransaction};
use super::{checkpoint, producer_snapshot};
use crate::plant;
use crate::record::batch::{HEADER_BYTES, Header, LENGTH_OVERHEAD_BYTES, PREFIX_BYTES};
use crate::runtime::{Disk, File, Open, Runtime, rewrite};
use crate::topic_partition::TopicPartition;

/// Bytes of one read while batches are verified.
const VERIFY_BYTES: usize = 1 << 20;
/// What a crash loses at once.
const SECTOR_BYTES: u64 = 512;
/// A batch has no more zero bytes than this at its start: its length or magic follows.
const LEADING_ZEROS_MAX: usize = 12;

/// What is known of a partition besides its directory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Existing {
    /// Everything below was on disk.
    pub recovery_point: i64,
    /// Everything below was committed; 0 if that does not say that it was on disk.
    pub high_watermark: i64,
    /// Everything below is deleted.
    pub log_start_offset: i64,
    /// Whether a producer snapshot says that everything below was on disk: ours do, Kafka's do not.
    pub trust_snapshots: bool,
    /// Below this offset compaction may have left gaps, whatever the configuration says: Kafka's, before the partition was adopted.
    pub gaps_below: i64,
}

/// What opening a partition took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Bytes of batches read, headers alone or whole.
    pub bytes_read: u64,
    /// Batches from this offset on were verified.
    pub verified_from_offset: i64,
    /// Batches verified.
    pub verified_batches: u64,
    /// Bytes cut off.
    pub truncated_bytes: u64,
    /// The log end offset that was found.
    pub log_end_offset: i64,
}

/// Why a partition is not opened. None of its files was changed, except those that were deleted before already.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// The disk failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The disk's answer.
        #[source]
        source: io::Error,
    },
    /// Bytes that had been on disk are damaged.
    #[error(
        "{} is damaged at position {position}: offset {offset}: {what}. Records up to offset {known_offset} are known to have been there, so nothing was cut off. Restore the file from a copy or \
         another replica; or, to lose the records from offset {offset} on, remove the partition's entries from recovery-point-offset-checkpoint and replication-offset-checkpoint, its .snapshot files above \
         {offset}, and cut the file at {position}",
        path.display()
    )]
    Rot {
        /// The segment's file.
        path: PathBuf,
        /// Where the damage begins, in bytes.
        position: u64,
        /// The offset that is expected there.
        offset: i64,
        /// The greatest offset up to which records are known to have been stored.
        known_offset: i64,
        /// What is wrong.
        what: String,
    },
    /// Records that had been on disk are gone.
    #[error(
        "{} ends at offset {end_offset}, but records up to offset {known_offset} are known to have been on disk. Restore the missing files; or, to go on without the records, remove the \
         partition's entries from recovery-point-offset-checkpoint and replication-offset-checkpoint, and its .snapshot files above {end_offset}",
        path.display()
    )]
    Missing {
        /// The partition's directory.
        path: PathBuf,
        /// Where the log ends.
        end_offset: i64,
        /// Where it must have ended at least.
        known_offset: i64,
    },
}

impl RecoveryError {
    fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }
}

/// A partition's state, read from its directory.
pub(super) struct Recovered<R: Runtime> {
    pub segments: BTreeMap<i64, Arc<Segment<R>>>,
    pub writer: Writer<R>,
    pub epochs: EpochCache,
    pub aborted: Vec<AbortedTransaction>,
    pub gaps_below: i64,
    pub log_start_offset: i64,
    /// Complete segments whose indexes could not be written.
    pub unindexed: Vec<PinnedSegment<R>>,
    pub snapshots: BTreeSet<i64>,
    pub report: RecoveryReport,
}

/// The files of a partition's directory.
#[derive(Default)]
struct Files {
    bases: Vec<i64>,
    snapshots: BTreeSet<i64>,
    /// Segments with an index of aborted transactions.
    transactions: BTreeSet<i64>,
}

/// A segment being verified.
struct Verified<R: Runtime> {
    base_offset: i64,
    file: FileOf<R>,
    /// Where verifying began; what is before was durable.
    from_position: u64,
    /// End of what is valid.
    position: u64,
    indexes: Indexes,
    max_time: TimeEntry,
    first_timestamp: Option<i64>,
}

/// Opens a partition's directory, which exists.
pub(super) async fn recover<R: Runtime>(
    rt: &R,
    partition: &TopicPartition,
    path: &Path,
    config: &LogConfig,
    existing: Existing,
) -> Result<Recovered<R>, RecoveryError> {
    let mut recovery = Recovery {
        rt,
        partition,
        path,
        config,
        existing,
        report: RecoveryReport::default(),
        known_offset: 0,
        aborted: Vec::new(),
        forget_producers: plant!(rt, "forget-producer-state"),
    };
    recovery.run().await
}

struct Recovery<'a, R: Runtime> {
    rt: &'a R,
    partition: &'a TopicPartition,
    path: &'a Path,
    config: &'a LogConfig,
    existing: Existing,
    report: RecoveryReport,
    /// Everything below was on disk.
    known_offset: i64,
    /// Aborted transactions, in the order of their markers.
    aborted: Vec<AbortedTransaction>,
    forget_producers: bool,
}

impl<R: Runtime> Recovery<'_, R> {
    async fn run(&mut self) -> Result<Recovered<R>, RecoveryError> {
        let mut files = self.list_files().await?;
        let mut log_start_offset = self.existing.log_start_offset;
        while files.bases.len() >= 2 && files.bases[1] <= log_start_offset {
            self.remove_segment(files.bases.remove(0)).await?;
        }
        let (snapshot, mut producers) = self.load_snapshot(&mut files).await?;
        self.known_offset = self.existing.recovery_point.max(self.existing.high_watermark);
        if self.existing.trust_snapshots {
            self.known_offset = self.known_offset.max(snapshot.unwrap_or(0));
        }
        if files.bases.is_empty() {
            if self.known_offset > log_start_offset {
                return Err(RecoveryError::Missing { path: self.path.to_owned(), end_offset: log_start_offset, known_offset: self.known_offset });
            }
            // What a log that was started anew here left behind.
            self.remove(LEADER_EPOCH_CHECKPOINT).await?;
            self.make_segment(log_start_offset).await?;
            files.bases.push(log_start_offset);
        }
        log_start_offset = log_start_offset.max(files.bases[0]);
        let from_offset = snapshot.unwrap_or(0).max(files.bases[0]);
        let mut epochs = self.load_epochs(&files.bases, from_offset).await?;
        let stored = self.load_aborted(&files, log_start_offset, from_offset).await?;

        let mut first = files.bases.partition_point(|base| *base <= from_offset) - 1;
        if files.bases[first] == from_offset && first > 0 {
            // A snapshot where a segment begins may be older than the roll: the last entry of the segment before may be missing.
            first -= 1;
        }
        let (verified, end_offset) = self.verify(&mut files.bases, first, from_offset, &mut producers, &mut epochs).await?;
        if end_offset < self.known_offset {
            return Err(RecoveryError::Missing { path: self.path.to_owned(), end_offset, known_offset: self.known_offset });
        }
        if end_offset < log_start_offset {
            // The log was being started anew at its log start offset.
            for base_offset in files.bases.into_iter().rev() {
                self.remove_segment(base_offset).await?;
            }
            for offset in files.snapshots {
                self.remove(&file_name(offset, SNAPSHOT_SUFFIX)).await?;
            }
            self.remove(LEADER_EPOCH_CHECKPOINT).await?;
            return Box::pin(self.run()).await;
        }
        // What a crash of the process alone left in the page cache counts from now on, also where a sync had failed before.
        for segment in &verified {
            let path = self.segment_path(segment.base_offset);
            if end_offset > from_offset || self.report.truncated_bytes > 0 {
                if !crate::plant!(self.rt, "recovery-trusts-the-page-cache") {
                    rewrite(&segment.file, segment.from_position, segment.position).await.map_err(|error| RecoveryError::io(&path, error))?;
                }
                segment.file.sync_data().await.map_err(|error| RecoveryError::io(&path, error))?;
            }
        }
        self.store_aborted(&verified, end_offset, &stored).await?;
        for offset in files.snapshots.split_off(&(end_offset + 1)) {
            self.remove(&file_name(offset, SNAPSHOT_SUFFIX)).await?;
        }
        self.rt.disk().sync_dir(self.path).await.map_err(|error| RecoveryError::io(self.path, error))?;
        epochs.truncate_from_start(log_start_offset);
        self.report.log_end_offset = end_offset;
        self.report.verified_from_offset = from_offset;
        let (segments, unindexed, writer) = self.assemble(&files.bases[..first], verified, end_offset, producers).await?;
        self.rt.event("log.recovered", &[u64::from(crc32fast::hash(self.partition.to_string().as_bytes())), end_offset as u64, self.report.truncated_bytes]);
        let (aborted, gaps_below) = (std::mem::take(&mut self.aborted), self.existing.gaps_below);
        Ok(Recovered { segments, writer, epochs, aborted, gaps_below, log_start_offset, unindexed, snapshots: files.snapshots, report: self.report })
    }

    /// What is there. Removes what was deleted or half written.
    async fn list_files(&mut self) -> Result<Files, RecoveryError> {
        let entries = self.rt.disk().list(self.path).await.map_err(|error| RecoveryError::io(self.path, error))?;
        let mut files = Files::default();
        let mut index_files = Vec::new();
        for entry in entries.into_iter().filter(|entry| !entry.is_dir) {
            let name = &entry.name;
            if name.ends_with(DELETED_SUFFIX) || name.ends_with(TEMP_SUFFIX) || name.ends_with(".cleaned") {
                self.remove(name).await?;
            } else if let Some(base_offset) = parse_file_name(name, LOG_SUFFIX) {
                files.bases.push(base_offset);
            } else if let Some(offset) = parse_file_name(name, SNAPSHOT_SUFFIX) {
                files.snapshots.insert(offset);
            } else if let Some(base_offset) = [INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX].iter().find_map(|suffix| parse_file_name(name, suffix)) {
                index_files.push((base_offset, entry.name));
            }
        }
        files.bases.sort_unstable();
        for (base_offset, name) in index_files {
            if files.bases.binary_search(&base_offset).is_err() {
                self.remove(&name).await?;
            } else if name.ends_with(TXN_INDEX_SUFFIX) {
                files.transactions.insert(base_offset);
            }
        }
        Ok(files)
    }

    /// The newest producer snapshot that can be used; damaged ones are removed.
    async fn load_snapshot(&mut self, files: &mut Files) -> Result<(Option<i64>, ProducerStates), RecoveryError> {
        let newest = if self.existing.trust_snapshots { i64::MAX } else { self.existing.recovery_point };
        while let Some(offset) = files.snapshots.range(..=newest).next_back().copied() {
            let name = file_name(offset, SNAPSHOT_SUFFIX);
            let path = self.path.join(&name);
            let content = checkpoint::read_small_file(self.rt, &path).await.map_err(|error| RecoveryError::io(&path, error))?;
            match producer_snapshot::parse(&content.unwrap_or_default(), self.rt.unix_ms()) {
                Ok(_) if self.forget_producers => return Ok((Some(offset), ProducerStates::default())),
                Ok(producers) => return Ok((Some(offset), producers)),
                Err(error) => {
                    tracing::warn!(path = %path.display(), "removed a damaged producer snapshot: {error}");
                    self.remove(&name).await?;
                    files.snapshots.remove(&offset);
                }
            }
        }
        Ok((None, ProducerStates::default()))
    }

    /// The leader epochs below `from_offset`: as stored, or read from the batches if that cannot be used.
    async fn load_epochs(&mut self, bases: &[i64], from_offset: i64) -> Result<EpochCache, RecoveryError> {
        let path = self.path.join(LEADER_EPOCH_CHECKPOINT);
        let content = checkpoint::read_small_file(self.rt, &path).await.map_err(|error| RecoveryError::io(&path, error))?;
        let stored = content.and_then(|content| EpochCache::parse(&String::from_utf8_lossy(&content)).ok());
        if let Some(mut epochs) = stored {
            epochs.truncate_from_end(from_offset);
            return Ok(epochs);
        }
        let mut epochs = EpochCache::default();
        if from_offset == bases[0] {
            return Ok(epochs);
        }
        tracing::warn!(path = %path.display(), "the leader epoch checkpoint is missing or damaged; reading the log for it");
        for base_offset in bases.iter().filter(|base| **base < from_offset) {
            let (path, file, size_bytes) = self.open(*base_offset).await?;
            let mut scan = Scan::new(&file, 0, size_bytes, HEADER_SCAN_BYTES);
            while let Some(Ok(header)) = scan.header().await.map_err(|error| RecoveryError::io(&path, error))? {
                if header.base_offset >= from_offset {
                    break;
                }
                assign_epoch(&mut epochs, &header);
                scan.skip(&header);
            }
            self.report.bytes_read += scan.bytes_read;
        }
        Ok(epochs)
    }

    /// Whether offsets may go from `from_offset` to a later one with nothing in between: where compaction was.
    fn may_have_gap(&self, from_offset: i64) -> bool {
        !self.config.cleanup_delete || from_offset < self.existing.gaps_below
    }

    /// Loads the aborted transactions whose markers are below `from_offset`; later ones are found in the batches. Returns the files' contents.
    async fn load_aborted(&mut self, files: &Files, log_start_offset: i64, from_offset: i64) -> Result<BTreeMap<i64, Bytes>, RecoveryError> {
        let mut stored = BTreeMap::new();
        for base_offset in &files.transactions {
            let path = self.path.join(file_name(*base_offset, TXN_INDEX_SUFFIX));
            let content = checkpoint::read_small_file(self.rt, &path).await.map_err(|error| RecoveryError::io(&path, error))?.unwrap_or_default();
            let (entries, whole) = txn_index::parse(&content);
            if !whole {
                // What is behind the damage and below the snapshot cannot be told from the batches alone.
                tracing::error!(path = %path.display(), "the index of aborted transactions is damaged: readers of committed records may see aborted ones of this segment");
            }
            let wanted = entries.into_iter().filter(|entry| entry.last_offset >= log_start_offset && entry.last_offset < from_offset);
            self.aborted.extend(wanted);
            stored.insert(*base_offset, content);
        }
        self.aborted.sort_by_key(|entry| entry.last_offset);
        Ok(stored)
    }

    /// Makes the indexes of aborted transactions of the verified segments agree with what was found.
    async fn store_aborted(&self, verified: &[Verified<R>], end_offset: i64, stored: &BTreeMap<i64, Bytes>) -> Result<(), RecoveryError> {
        let ends = verified.iter().skip(1).map(|segment| segment.base_offset).chain([end_offset]);
        for (segment, end) in verified.iter().zip(ends) {
            let within = self.aborted.iter().filter(|entry| (segment.base_offset..end).contains(&entry.last_offset));
            let content = txn_index::encode(within);
            if content == stored.get(&segment.base_offset).cloned().unwrap_or_default() {
                continue;
            }
            let name = file_name(segment.base_offset, TXN_INDEX_SUFFIX);
            checkpoint::replace_file(self.rt, self.path, &name, content).await.map_err(|error| RecoveryError::io(&self.path.join(&name), error))?;
        }
        Ok(())
    }

    /// Takes note of a marker, before the producers do.
    fn note_marker(&mut self, header: &Header, batch: &[u8], producers: &ProducerStates) {
        if !header.is_control() || parse_end_transaction(header, batch).is_none_or(|marker| marker.committed) {
            return;
        }
        let open = |(id, entry): (i64, &ProducerEntry)| Some((id, entry.current_txn_first_offset?));
        let Some((producer_id, first_offset)) = producers.iter().filter_map(open).find(|(id, _)| *id == header.producer_id) else { return };
        let last_offset = header.base_offset;
        let others = producers.iter().filter_map(open).filter(|(id, _)| *id != producer_id);
        let last_stable_offset = others.map(|(_, first_offset)| first_offset).min().unwrap_or(last_offset + 1);
        self.aborted.push(AbortedTransaction { producer_id, first_offset, last_offset, last_stable_offset });
    }

    /// Verifies everything from `from_offset`, which is in segment number `first`, to the end; cuts a torn tail off. Returns the segments from
    /// number `first` on and the log end offset.
    async fn verify(
        &mut self,
        bases: &mut Vec<i64>,
        first: usize,
        from_offset: i64,
        producers: &mut ProducerStates,
        epochs: &mut EpochCache,
    ) -> Result<(Vec<Verified<R>>, i64), RecoveryError> {
        let mut verified: Vec<Verified<R>> = Vec::new();
        let mut expected = from_offset;
        for at in first..bases.len() {
            let base_offset = bases[at];
            // Here the segment before ends with the gap, as was checked.
            expected = expected.max(base_offset);
            let (path, file, size_bytes) = self.open(base_offset).await?;
            let mut segment = Verified {
                base_offset,
                file,
                from_position: 0,
                position: 0,
                indexes: Indexes::new(base_offset),
                max_time: no_time(base_offset),
                first_timestamp: None,
            };
            if at == first {
                self.seek(&mut segment, &path, size_bytes, from_offset, at + 1 == bases.len()).await?;
            }
            segment.from_position = segment.position;
            let mut bad: Option<String> = None;
            let mut scan = Scan::new(&segment.file, segment.position, size_bytes, VERIFY_BYTES);
            loop {
                let (header, bytes) = match scan.batch().await.map_err(|error| RecoveryError::io(&path, error))? {
                    None => break,
                    Some(Ok(batch)) => batch,
                    Some(Err(error)) => {
                        bad = Some(error.to_string());
                        break;
                    }
                };
                if header.base_offset < expected
                    || (header.base_offset > expected && !self.may_have_gap(expected))
                    || !segment.indexes.offset.fits(header.last_offset())
                {
                    bad = Some(format!("a batch begins at offset {}", header.base_offset));
                    break;
                }
                segment.first_timestamp.get_or_insert(header.max_timestamp);
                segment.max_time = later(segment.max_time, &header);
                segment.indexes.add(scan.position, header.last_offset(), segment.max_time, self.config.index_interval_bytes);
                assign_epoch(epochs, &header);
                self.note_marker(&header, &bytes, producers);
                if !self.forget_producers {
                    note_producer(producers, &header, &bytes, self.rt.unix_ms());
                }
                expected = header.next_offset();
                self.report.verified_batches += 1;
                scan.skip(&header);
            }
            segment.position = scan.position;
            self.report.bytes_read += scan.bytes_read;
            if let Some(next_base) = bases.get(at + 1).filter(|_| bad.is_none())
                && (expected > *next_base || (expected < *next_base && !self.may_have_gap(expected)))
            {
                bad = Some(format!("the segment ends at offset {expected} and the next one begins at offset {next_base}"));
            }
            match bad {
                None => verified.push(segment),
                Some(what) => {
                    self.cut_tail(bases, at, &segment, &path, size_bytes, expected, what).await?;
                    bases.truncate(at + 1);
                    verified.push(segment);
                    break;
                }
            }
        }
        Ok((verified, expected))
    }

    /// Moves to the batch at `from_offset`, which is in this segment or at its end, with the indexes of what is before.
    async fn seek(&mut self, segment: &mut Verified<R>, path: &Path, size_bytes: u64, from_offset: i64, is_last: bool) -> Result<(), RecoveryError> {
        let io = |error| RecoveryError::io(path, error);
        let mut first = Scan::new(&segment.file, 0, size_bytes, HEADER_BYTES);
        if let Some(Ok(header)) = first.header().await.map_err(io)? {
            segment.first_timestamp = Some(header.max_timestamp);
        }
        self.report.bytes_read += first.bytes_read;
        if from_offset == segment.base_offset {
            return Ok(());
        }
        let loaded = load_indexes(self.rt, self.path, segment.base_offset, size_bytes).await.map_err(io)?;
        let near = loaded.and_then(|mut indexes| {
            let entry = indexes.offset.lookup(from_offset - 1)?;
            indexes.offset.truncate_to_position(entry.position + 1);
            indexes.time.truncate_to_offset(entry.last_offset + 1);
            indexes.offset_written = indexes.offset.len();
            indexes.time_written = indexes.time.len();
            Some((indexes, entry.position))
        });
        // From the last index entry before, or, if that leads astray, from the segment's start.
        for (indexes, position) in near.into_iter().chain([(Indexes::new(segment.base_offset), 0)]) {
            segment.max_time = indexes.time.last();
            segment.indexes = indexes;
            let mut scan = Scan::new(&segment.file, position, size_bytes, HEADER_SCAN_BYTES.min(VERIFY_BYTES));
            let mut next_offset = segment.base_offset;
            let found = loop {
                if next_offset >= from_offset {
                    break next_offset == from_offset;
                }
                match scan.header().await.map_err(io)? {
                    // The offset is in a gap. The last segment is not compacted: it has none at its end.
                    None if !is_last && scan.position == size_bytes && self.may_have_gap(next_offset) => break true,
                    Some(Ok(header)) if header.base_offset >= from_offset && self.may_have_gap(next_offset) => break true,
                    Some(Ok(header)) if header.base_offset >= next_offset && segment.indexes.offset.fits(header.last_offset()) => {
                        segment.max_time = later(segment.max_time, &header);
                        segment.indexes.add(scan.position, header.last_offset(), segment.max_time, self.config.index_interval_bytes);
                        next_offset = header.next_offset();
                        scan.skip(&header);
                    }
                    // Compaction may have removed the last records of a segment.
                    None => break !self.config.cleanup_delete,
                    _ => break false,
                }
            };
            self.report.bytes_read += scan.bytes_read;
            segment.position = scan.position;
            if found {
                return Ok(());
            }
            if position == 0 {
                let (position, offset) = (scan.position, next_offset);
                let known_offset = self.known_offset.max(from_offset);
                if position == size_bytes {
                    return Err(RecoveryError::Missing { path: self.path.to_owned(), end_offset: offset, known_offset });
                }
                return Err(RecoveryError::Rot {
                    path: path.to_owned(),
                    position,
                    offset,
                    known_offset,
                    what: "no batch begins there that leads to the producer snapshot's offset".to_owned(),
                });
            }
        }
        unreachable!("the segment's start is the last attempt")
    }

    /// Decides on bytes at `segment.position` that are no batch: cuts them and all behind them off, or fails.
    #[allow(clippy::too_many_arguments, reason = "the place of the damage")]
    async fn cut_tail(
        &mut self,
        bases: &[i64],
        at: usize,
        segment: &Verified<R>,
        path: &Path,
        size_bytes: u64,
        offset: i64,
        what: String,
    ) -> Result<(), RecoveryError> {
        let position = segment.position;
        let rot = |known_offset, what| RecoveryError::Rot { path: path.to_owned(), position, offset, known_offset, what };
        let blind = plant!(self.rt, "rot-as-torn-tail");
        if offset < self.known_offset && !blind {
            return Err(if position == size_bytes && at + 1 == bases.len() {
                RecoveryError::Missing { path: self.path.to_owned(), end_offset: offset, known_offset: self.known_offset }
            } else {
                rot(self.known_offset, what)
            });
        }
        let io = |error| RecoveryError::io(path, error);
        let mut behind = find_batch(&segment.file, position + 1, size_bytes, offset).await.map_err(io)?;
        // The zeros that a batch begins with may belong to a lost sector.
        let damage_end = behind.map_or(size_bytes, |(position, _)| (position + LEADING_ZEROS_MAX as u64).min(size_bytes));
        let mut later_bytes = 0;
        for base_offset in &bases[at + 1..] {
            let (path, file, size_bytes) = self.open(*base_offset).await?;
            later_bytes += size_bytes;
            if behind.is_none() {
                let valid = Scan::new(&file, 0, size_bytes, VERIFY_BYTES).batch().await.map_err(|error| RecoveryError::io(&path, error))?;
                behind = valid.and_then(Result::ok).map(|(header, _)| (0, header));
            }
        }
        if let Some((_, header)) = behind.filter(|_| !blind) {
            // Where messages are acknowledged before they are flushed, nothing was promised about what is not known to be on disk.
            let by_crash = !self.config.flushes_every_message()
                || damage_end == position
                || first_bytes_lost(&segment.file, position, offset).await.map_err(io)?
                || lost_sector(&segment.file, position, damage_end, size_bytes, offset).await.map_err(io)?
                || ends_early(&segment.file, position, size_bytes).await.map_err(io)?;
            if !by_crash {
                return Err(rot(header.next_offset(), what));
            }
        }
        self.report.truncated_bytes += size_bytes - position + later_bytes;
        tracing::warn!(path = %path.display(), position, offset, cut_bytes = size_bytes - position + later_bytes, "cut off the torn tail of an unclean stop: {what}");
        // The newest first: a crash leaves no hole.
        for base_offset in bases[at + 1..].iter().rev() {
            self.remove_segment(*base_offset).await?;
        }
        if position < size_bytes {
            segment.file.set_len(position).await.map_err(io)?;
        }
        Ok(())
    }

    /// The segments' list and the writer's state.
    async fn assemble(
        &mut self,
        untouched: &[i64],
        verified: Vec<Verified<R>>,
        end_offset: i64,
        producers: ProducerStates,
    ) -> Result<(BTreeMap<i64, Arc<Segment<R>>>, Vec<PinnedSegment<R>>, Writer<R>), RecoveryError> {
        let mut segments = BTreeMap::new();
        for base_offset in untouched {
            let (_, _, size_bytes) = self.open(*base_offset).await?;
            segments.insert(*base_offset, Segment::closed(*base_offset, size_bytes));
        }
        let mut active = None;
        let mut unindexed = Vec::new();
        let count = verified.len();
        for (at, segment) in verified.into_iter().enumerate() {
            let Verified { base_offset, file, position, mut indexes, max_time, first_timestamp, .. } = segment;
            let complete = at + 1 < count;
            if complete {
                indexes.finish(max_time);
                let open = OpenSegment::<R> { file: file.clone(), indexes: std::sync::RwLock::new(indexes.clone()) };
                if indexes.is_written() || write_indexes(self.rt, self.path, base_offset, &open).await.is_ok() {
                    let closed = Segment::closed(base_offset, position);
                    closed.set_max_time(max_time);
                    segments.insert(base_offset, closed);
                    continue;
                }
                // A full disk, perhaps: they stay in memory until the next checkpoint, which must not come before them.
            }
            let (segment, open) = Segment::pinned(base_offset, position, file, indexes, max_time);
            segments.insert(base_offset, segment.clone());
            if complete {
                unindexed.push((segment, open));
            } else {
                active = Some((segment, open, position, max_time, first_timestamp));
            }
        }
        let (active, open, position, max_time, first_timestamp) = active.expect("the last segment is verified");
        let writer = Writer {
            active,
            open,
            end_offset,
            position,
            uncertain: false,
            making: None,
            max_time,
            first_timestamp: first_timestamp.filter(|_| position > 0),
            created_ms: self.rt.unix_ms(),
            jitter_ms: draw_jitter_ms(self.rt, self.config),
            producers,
            interrupted: Interrupted::default(),
            bytes_since_checkpoint: self.report.bytes_read,
            unflushed_records: 0,
            preallocated_bytes: 0,
        };
        Ok((segments, unindexed, writer))
    }

    async fn make_segment(&mut self, base_offset: i64) -> Result<(), RecoveryError> {
        let path = self.segment_path(base_offset);
        self.rt.disk().open(&path, Open::Create).await.map(drop).map_err(|error| RecoveryError::io(&path, error))
    }

    async fn open(&self, base_offset: i64) -> Result<(PathBuf, FileOf<R>, u64), RecoveryError> {
        let path = self.segment_path(base_offset);
        let opened = async {
            let file = self.rt.disk().open(&path, Open::Write).await?;
            let size_bytes = file.len().await?;
            Ok((file, size_bytes))
        };
        let (file, size_bytes) = opened.await.map_err(|error| RecoveryError::io(&path, error))?;
        Ok((path, file, size_bytes))
    }

    fn segment_path(&self, base_offset: i64) -> PathBuf {
        self.path.join(file_name(base_offset, LOG_SUFFIX))
    }

    async fn remove_segment(&self, base_offset: i64) -> Result<(), RecoveryError> {
        remove_segment_files(self.rt, self.path, base_offset).await.map_err(|error| RecoveryError::io(&self.segment_path(base_offset), error))
    }

    async fn remove(&self, name: &str) -> Result<(), RecoveryError> {
        let path = self.path.join(name);
        remove_if_there(self.rt, &path).await.map_err(|error| RecoveryError::io(&path, error))
    }
}

/// Unlinks a segment's batches and indexes.
pub(super) async fn remove_segment_files<R: Runtime>(rt: &R, path: &Path, base_offset: i64) -> io::Result<()> {
    for suffix in [LOG_SUFFIX, INDEX_SUFFIX, TIME_INDEX_SUFFIX, TXN_INDEX_SUFFIX] {
        remove_if_there(rt, &path.join(file_name(base_offset, suffix))).await?;
    }
    Ok(())
}

async fn remove_if_there<R: Runtime>(rt: &R, path: &Path) -> io::Result<()> {
    match rt.disk().remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn assign_epoch(epochs: &mut EpochCache, header: &Header) {
    if header.partition_leader_epoch >= 0 && epochs.latest_epoch().is_none_or(|latest| header.partition_leader_epoch > latest) {
        epochs.assign(header.partition_leader_epoch, header.base_offset);
    }
}

/// The first valid batch at or after `position` whose offset is at least `offset`.
async fn find_batch<F: File>(file: &F, mut position: u64, size_bytes: u64, offset: i64) -> io::Result<Option<(u64, Header)>> {
    while position + HEADER_BYTES as u64 <= size_bytes {
        let window = file.read_at(position, VERIFY_BYTES.min((size_bytes - position) as usize)).await?;
        if window.len() < HEADER_BYTES {
            break;
        }
        let starts = window.len() - HEADER_BYTES + 1;
        for at in 0..starts {
            let Ok(header) = plausible_header(&window[at..], offset).ok_or(()) else { continue };
            let start = position + at as u64;
            if start + header.size_in_bytes() as u64 <= size_bytes {
                let batch = file.read_at(start, header.size_in_bytes()).await?;
                if Header::whole(&batch).is_ok() {
                    return Ok(Some((start, header)));
                }
            }
        }
        position += starts as u64;
    }
    Ok(None)
}

/// The header at the start of `bytes` if it may be one of a batch after `offset`. Cheap for bytes that are not.
fn plausible_header(bytes: &[u8], offset: i64) -> Option<Header> {
    if bytes[PREFIX_BYTES] != 2 {
        return None;
    }
    let header = Header::parse(bytes).ok()?;
    let near = (offset..=offset.saturating_add(i64::from(i32::MAX))).contains(&header.base_offset);
    (near && header.length as usize + LENGTH_OVERHEAD_BYTES >= HEADER_BYTES).then_some(header)
}

/// Whether a sector between the two positions was never written, or not wholly: zeros, all of it or up to one of its edges. Of the first sector the bytes before `start` may have been
/// written earlier; the batch of `offset` would begin at `start`. The last one is cut short by the file's end, or it has something valid at `end`, so it was written.
async fn lost_sector<F: File>(file: &F, start: u64, end: u64, file_end: u64, offset: i64) -> io::Result<bool> {
    let mut position = start;
    let mut first = true;
    while position < end {
        // One read for many sectors, ending where a sector does.
        let window_end = ((position + VERIFY_BYTES as u64) / SECTOR_BYTES * SECTOR_BYTES).min(end);
        let window = file.read_at(position, (window_end - position) as usize).await?;
        if window.is_empty() {
            return Ok(true);
        }
        let mut rest = &window[..];
        while !rest.is_empty() {
            let left_in_sector = (SECTOR_BYTES - position % SECTOR_BYTES) as usize;
            let (sector, after) = rest.split_at(left_in_sector.min(rest.len()));
            let whole = sector.len() == left_in_sector || position + sector.len() as u64 == file_end;
            // A batch begins with its offset, and some zeros in any case.
            let offset_bytes = offset.to_be_bytes();
            let tells = !first || sector.len() > LEADING_ZEROS_MAX || !all_zero(&offset_bytes[..sector.len().min(offset_bytes.len())]);
            if whole && tells && all_zero(sector) {
                return Ok(true);
            }
            // Nor need a sector be written wholly: then zeros reach to one of its edges, more of them than a batch begins with.
            let zeros_at_start = sector.iter().take_while(|byte| **byte == 0).count();
            let zeros_at_end = sector.iter().rev().take_while(|byte| **byte == 0).count();
            // Where the damage begins the bytes before may have been there earlier.
            let starts = first || position.is_multiple_of(SECTOR_BYTES);
            if (starts && zeros_at_start > LEADING_ZEROS_MAX) || (whole && zeros_at_end > LEADING_ZEROS_MAX) {
                return Ok(true);
            }
            rest = after;
            position += sector.len() as u64;
            first = false;
        }
    }
    Ok(false)
}

/// Whether the batch of `offset`, which would begin at `position`, lacks its first bytes: the beginning of its offset, or all of its offset and length. A write
/// that is torn so close to where an earlier one ended leaves fewer zeros than others do.
async fn first_bytes_lost<F: File>(file: &F, position: u64, offset: i64) -> io::Result<bool> {
    let bytes = file.read_at(position, LEADING_ZEROS_MAX).await?;
    if bytes.len() == LEADING_ZEROS_MAX && all_zero(&bytes) {
        return Ok(true);
    }
    let expected = offset.to_be_bytes();
    let Some(found) = bytes.first_chunk::<8>().filter(|found| **found != expected) else { return Ok(false) };
    let lost = found.iter().take_while(|byte| **byte == 0).count();
    Ok(found[lost..] == expected[lost..])
}

/// Whether the file ends within the batch that begins at `position`: its end was not written.
async fn ends_early<F: File>(file: &F, position: u64, size_bytes: u64) -> io::Result<bool> {
    let bytes = file.read_at(position, HEADER_BYTES).await?;
    Ok(match Header::parse(&bytes) {
        Ok(header) => position + header.size_in_bytes() as u64 > size_bytes,
        Err(_) => bytes.len() < HEADER_BYTES,
    })
}
