//! Appending and rolling.
//!
//! An append is one vectored write: for each batch the 16 bytes that the leader assigns, then the rest as it came. If the write fails, or its
//! future is dropped, the log's end stays where it was, and what was written behind it is cut off before the next write.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use smallvec::SmallVec;

use super::Log;
use super::boundaries::Boundary;
use super::config::LogConfig;
use super::error::{AppendError, LogError};
use super::names::{LOG_SUFFIX, file_name};
use super::partition_log::Writer;
use super::producer_state::{BATCHES_REMEMBERED, ProducerStates, Verdict, parse_end_transaction};
use super::segment::{Indexes, Segment, later, no_time};
use crate::plant;
use crate::record::batch::{Header, PREFIX_BYTES};
use crate::runtime::{Disk, File, Open, Parts, Runtime};

/// Space is reserved in steps of this.
const PREALLOCATE_STEP_BYTES: u64 = 16 << 20;

/// A batch whose header and checksum were verified; `bytes` is exactly the batch.
#[derive(Clone, Debug)]
pub struct BatchToAppend {
    /// Its header as it came.
    pub header: Header,
    /// All of it.
    pub bytes: Bytes,
}

/// What an append did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppendInfo {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Offset of the last record. The append is durable once the durable end is greater.
    pub last_offset: i64,
    /// The append's time if the topic's timestamps are those, else −1.
    pub log_append_time_ms: i64,
    /// The log start offset at the append.
    pub log_start_offset: i64,
    /// Whether nothing was written because it was before: the offsets are those of then.
    pub duplicate: bool,
}

impl<R: Runtime> Log<R> {
    /// Appends batches of one produce request, or of a coordinator, with offsets from the log's end and this leader epoch. All or none.
    /// On return the records are written, not yet durable. `batches` must not be empty.
    ///
    /// Whoever calls should await to the end. A dropped call may or may not have appended; the log repairs itself.
    ///
    /// # Errors
    /// Nothing is appended then.
    pub async fn append_as_leader(&self, batches: &[BatchToAppend], leader_epoch: i32) -> Result<AppendInfo, AppendError> {
        self.append(batches, Some(leader_epoch)).await
    }

    /// Appends batches as the leader has them, with its offsets and epochs. `batches` must not be empty.
    ///
    /// # Errors
    /// Nothing is appended then.
    pub async fn append_as_follower(&self, batches: &[BatchToAppend]) -> Result<AppendInfo, AppendError> {
        self.append(batches, None).await
    }

    async fn append(&self, batches: &[BatchToAppend], leader_epoch: Option<i32>) -> Result<AppendInfo, AppendError> {
        let inner = &*self.inner;
        let config = self.config();
        let size_bytes = batches.iter().map(|batch| batch.bytes.len() as u64).sum();
        for batch in batches {
            assert_eq!(batch.bytes.len(), batch.header.size_in_bytes(), "the bytes are exactly the batch");
            let size_bytes = batch.bytes.len() as u64;
            // A follower takes what its leader took.
            if leader_epoch.is_some() && size_bytes > config.max_message_bytes {
                return Err(AppendError::MessageTooLarge { size_bytes, max_bytes: config.max_message_bytes });
            }
        }
        if leader_epoch.is_some() && size_bytes > config.segment_bytes {
            return Err(AppendError::LargerThanSegment { size_bytes, max_bytes: config.segment_bytes });
        }
        let mut writer = inner.writer.lock().await;
        let writer = &mut *writer;
        self.check_online()?;
        if writer.uncertain {
            self.cut_back(writer).await?;
        }
        if writer.making.is_some() {
            self.unmake(writer).await;
            self.check_online()?;
        }
        let end_before = writer.end_offset;
        let headers = match leader_epoch {
            Some(leader_epoch) => match self.check_producers(&writer.producers, batches) {
                Ok(Some(duplicate)) => return Ok(duplicate),
                _ if batches.iter().any(|batch| writer.interrupted.must_wait(&batch.header, inner.rt.now())) => {
                    let first = std::io::Error::new(std::io::ErrorKind::StorageFull, "an earlier batch of this producer found the disk full, and goes first");
                    return Err(LogError::io(&self.segment_path(writer.active.base_offset), first).into());
                }
                Ok(None) => assign_offsets(batches, end_before, leader_epoch),
                Err(error) => return Err(error),
            },
            None => check_offsets(batches, end_before)?,
        };
        let (first, last) = (headers[0], headers[headers.len() - 1]);
        if self.must_roll(writer, &config, &headers, size_bytes) {
            let rolled = self.roll_to(writer, first.base_offset).await;
            rolled.inspect_err(|error| self.note_refused(writer, batches, error))?;
        }

        let parts = parts(batches, &headers, leader_epoch.is_some());
        self.preallocate(writer, &config, size_bytes).await;
        writer.uncertain = true;
        let written = writer.open.file.write_at(writer.position, parts).await;
        if let Err(error) = written {
            let error = LogError::io(&self.segment_path(writer.active.base_offset), error);
            self.note_refused(writer, batches, &error);
            self.cut_back(writer).await?;
            return Err(error.into());
        }
        writer.uncertain = false;
        self.note_batches(writer, &config, batches, &headers);
        inner.rt.event("log.append", &[inner.trace_id, first.base_offset as u64, last.next_offset() as u64, u64::from(first.crc)]);
        self.publish_end(writer, &config, last.next_offset() - end_before);
        if writer.bytes_since_checkpoint >= config.checkpoint_bytes || inner.rt.buggify("log.checkpoint.early") {
            let checkpoint = writer.checkpoint(false);
            self.queue_checkpoint(checkpoint);
        }
        Ok(AppendInfo {
            base_offset: first.base_offset,
            last_offset: last.last_offset(),
            log_append_time_ms: if first.is_log_append_time() { last.max_timestamp } else { -1 },
            log_start_offset: self.log_start_offset(),
            duplicate: false,
        })
    }

    /// Checks every batch against what its producer sent before. One that is known answers for the whole append, as in Kafka.
    fn check_producers(&self, producers: &ProducerStates, batches: &[BatchToAppend]) -> Result<Option<AppendInfo>, AppendError> {
        let remembered = if plant!(&self.inner.rt, "dedup-window-one") { 1 } else { BATCHES_REMEMBERED };
        // Batches of one append may follow one another: each is checked against the state after those before it.
        let mut scratch: Option<ProducerStates> = None;
        for (at, batch) in batches.iter().enumerate() {
            if !batch.header.has_producer_id() || batch.header.is_control() {
                continue;
            }
            let known = scratch.as_ref().unwrap_or(producers);
            if let Verdict::Duplicate(found) = known.check(&batch.header, remembered)? {
                return Ok(Some(AppendInfo {
                    base_offset: found.first_offset(),
                    last_offset: found.last_offset,
                    log_append_time_ms: if batch.header.is_log_append_time() { found.timestamp } else { -1 },
                    log_start_offset: self.log_start_offset(),
                    duplicate: true,
                }));
            }
            if at + 1 < batches.len() {
                let involved = || producers.only(batches.iter().map(|batch| batch.header.producer_id));
                scratch.get_or_insert_with(involved).update(&batch.header, 0);
            }
        }
        Ok(None)
    }

    /// Takes note of batches for which there was no room.
    fn note_refused(&self, writer: &mut Writer<R>, batches: &[BatchToAppend], error: &LogError) {
        if error.is_storage_full() {
            let now = self.inner.rt.now();
            batches.iter().for_each(|batch| writer.interrupted.refused(&batch.header, now));
        }
    }

    /// Takes note of batches that were written at the writer's position.
    fn note_batches(&self, writer: &mut Writer<R>, config: &LogConfig, batches: &[BatchToAppend], headers: &[Header]) {
        let inner = &*self.inner;
        let now_ms = inner.rt.unix_ms();
        let mut ends: SmallVec<[Boundary; 4]> = SmallVec::new();
        {
            let mut indexes = writer.open.indexes.write().expect("no panic holds it");
            for (batch, header) in batches.iter().zip(headers) {
                assert!(header.base_offset >= writer.end_offset, "offsets only grow");
                if writer.position == 0 {
                    writer.first_timestamp = Some(header.max_timestamp);
                }
                writer.max_time = later(writer.max_time, header);
                indexes.add(writer.position, header.last_offset(), writer.max_time, config.index_interval_bytes);
                writer.position += header.size_in_bytes() as u64;
                writer.end_offset = header.next_offset();
                writer.bytes_since_checkpoint += header.size_in_bytes() as u64;
                ends.push(Boundary { offset: writer.end_offset, position: writer.position });
                note_producer(&mut writer.producers, header, &batch.bytes, now_ms);
                writer.interrupted.written(header);
            }
        }
        for header in headers {
            if header.partition_leader_epoch >= 0 && self.latest_epoch().is_none_or(|latest| header.partition_leader_epoch > latest) {
                inner.epochs.write().expect("no panic holds it").assign(header.partition_leader_epoch, header.base_offset);
            }
        }
        writer.active.set_max_time(writer.max_time);
        writer.active.set_size_bytes(writer.position);
        let mut boundaries = inner.boundaries.lock().expect("no panic holds it");
        ends.into_iter().for_each(|end| boundaries.push(end));
    }

    /// Cuts off what an append that failed or was dropped left behind the log's end.
    pub(super) async fn cut_back(&self, writer: &mut Writer<R>) -> Result<(), LogError> {
        let path = self.segment_path(writer.active.base_offset);
        let file = &writer.open.file;
        let cut = async {
            if file.len().await? > writer.position {
                file.set_len(writer.position).await?;
                writer.preallocated_bytes = 0;
                // The cut must be on disk before other bytes come in its place: a crash could leave a mixture, which recovery would
                // take for rot.
                return Ok::<bool, std::io::Error>(true);
            }
            Ok(false)
        };
        match cut.await {
            Ok(false) => {}
            Ok(true) => {
                if let Err(error) = file.sync_data().await {
                    self.inner.dir.fail("sync", &path, &error).await;
                    return Err(LogError::io(&path, error));
                }
            }
            Err(error) => {
                self.fail(format!(
                    "{} could not be cut back to {} bytes after a failed write: {error}. Restart the broker when the disk is well",
                    path.display(),
                    writer.position
                ));
                return Err(LogError::io(&path, error));
            }
        }
        writer.uncertain = false;
        Ok(())
    }

    /// Whether the next append needs a new segment, by Kafka's rules.
    fn must_roll(&self, writer: &Writer<R>, config: &LogConfig, headers: &[Header], size_bytes: u64) -> bool {
        let (first, last) = (&headers[0], &headers[headers.len() - 1]);
        if writer.position == 0 {
            // An empty segment is only left for offsets that its index cannot express.
            return !fits(writer.active.base_offset, last.last_offset());
        }
        let timestamp = headers.iter().map(|header| header.max_timestamp).max().unwrap_or(-1);
        let waited_ms = match writer.first_timestamp.filter(|first| *first >= 0) {
            Some(first) => timestamp.saturating_sub(first),
            None => self.inner.rt.unix_ms().saturating_sub(writer.created_ms),
        };
        let indexes = writer.open.indexes.read().expect("no panic holds it");
        // Kafka's positions are 31 bits.
        writer.position + size_bytes > config.segment_bytes.min(i32::MAX as u64)
            || waited_ms > config.segment_ms.saturating_sub(writer.jitter_ms)
            || indexes.offset.is_full(config.segment_index_bytes)
            || indexes.time.is_full(config.segment_index_bytes)
            || !fits(writer.active.base_offset, last.last_offset())
            || !fits(writer.active.base_offset, first.base_offset)
            || self.inner.rt.buggify("log.roll.early")
    }

    /// Begins a new segment, if the active one is not empty.
    ///
    /// # Errors
    /// If the new segment cannot be made; the log stays as it was.
    pub async fn roll(&self) -> Result<(), LogError> {
        let mut writer = self.inner.writer.lock().await;
        self.check_online()?;
        if writer.uncertain {
            self.cut_back(&mut writer).await?;
        }
        let base_offset = writer.end_offset;
        if writer.position > 0 { self.roll_to(&mut writer, base_offset).await } else { Ok(()) }
    }

    /// Removes the file of a segment that came to nothing: the next append may go on in the old segment.
    async fn unmake(&self, writer: &mut Writer<R>) {
        let Some(path) = &writer.making else { return };
        match self.inner.rt.disk().remove_file(path).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                self.fail(format!("{} was made in vain and could not be removed: {error}. Restart the broker when the disk is well", path.display()));
            }
            _ => writer.making = None,
        }
    }

    /// Begins a new segment at `base_offset`. The old one is handed to the flusher: the durable end cannot pass it unsynced, nor the new
    /// one before its name is on disk.
    pub(super) async fn roll_to(&self, writer: &mut Writer<R>, base_offset: i64) -> Result<(), LogError> {
        let inner = &*self.inner;
        let config = self.config();
        assert!(base_offset >= writer.end_offset && !writer.uncertain);
        let path = inner.path.join(file_name(base_offset, LOG_SUFFIX));
        // First what may fail. Whether it does or this call is dropped, the next one removes what is left.
        writer.making = Some(path.clone());
        let make = async {
            let file = inner.rt.disk().open(&path, Open::Create).await?;
            // An earlier attempt that failed after this point left it empty; anything else is cut.
            if file.len().await? > 0 {
                file.set_len(0).await?;
            }
            if writer.preallocated_bytes > writer.position {
                // Gives back what was reserved behind the end: the length of a sealed segment is that of its batches.
                writer.open.file.set_len(writer.position).await?;
            }
            Ok(file)
        };
        let file = match make.await {
            Ok(file) => file,
            Err(error) => {
                self.unmake(writer).await;
                return Err(LogError::io(&path, error));
            }
        };
        writer.making = None;
        inner.new_names.store(true, Ordering::Release);
        let was_empty = writer.position == 0;
        if was_empty {
            // Nothing but its name is left behind; the segment list goes on without it.
            inner.segments.write().expect("no panic holds it").remove(&writer.active.base_offset);
            let old = self.segment_path(writer.active.base_offset);
            let _ = inner.rt.disk().remove_file(&old).await;
        } else {
            writer.open.indexes.write().expect("no panic holds it").finish(writer.max_time);
            let checkpoint = writer.checkpoint(true);
            inner.unsynced.lock().expect("no panic holds it").push(writer.active.clone());
            self.queue_checkpoint(checkpoint);
            inner.inactive_bytes.fetch_add(writer.position, Ordering::AcqRel);
        }
        let (segment, open) = Segment::pinned(base_offset, 0, file, Indexes::new(base_offset), no_time(base_offset));
        inner.segments.write().expect("no panic holds it").insert(base_offset, segment.clone());
        *inner.active.write().expect("no panic holds it") = (segment.clone(), open.clone());
        inner.boundaries.lock().expect("no panic holds it").roll(base_offset);
        writer.active = segment;
        writer.open = open;
        writer.position = 0;
        writer.max_time = no_time(base_offset);
        writer.first_timestamp = None;
        writer.created_ms = inner.rt.unix_ms();
        writer.jitter_ms = draw_jitter_ms(&inner.rt, &config);
        writer.preallocated_bytes = 0;
        inner.rt.event("log.roll", &[inner.trace_id, base_offset as u64]);
        Ok(())
    }

    /// Reserves space ahead of the end. A hint: a full disk shows at the write.
    async fn preallocate(&self, writer: &mut Writer<R>, config: &LogConfig, size_bytes: u64) {
        let end = writer.position + size_bytes;
        if config.preallocate && end > writer.preallocated_bytes {
            let target = (end + PREALLOCATE_STEP_BYTES).min(config.segment_bytes).max(end);
            // After a refusal the next try is at the next step.
            let _ = writer.open.file.preallocate(target).await;
            writer.preallocated_bytes = target;
        }
    }
}

/// Whether an offset can be expressed in the indexes of a segment.
fn fits(base_offset: i64, offset: i64) -> bool {
    offset - base_offset <= i64::from(i32::MAX)
}

/// How much earlier than `segment.ms` a segment is rolled, so that not all partitions roll at once.
pub(super) fn draw_jitter_ms<R: Runtime>(rt: &R, config: &LogConfig) -> i64 {
    match config.segment_jitter_ms.min(config.segment_ms) {
        most @ 1.. => (rt.random_u64() % most as u64) as i64,
        _ => 0,
    }
}

/// Takes note of a stored batch of a producer that numbers its batches.
pub(super) fn note_producer(producers: &mut ProducerStates, header: &Header, batch: &[u8], now_ms: i64) {
    if !header.has_producer_id() {
        return;
    }
    if !header.is_control() {
        producers.update(header, now_ms);
    } else if let Some(marker) = parse_end_transaction(header, batch) {
        producers.end_transaction(header, marker, now_ms);
    }
}

/// The headers as the leader stores them.
fn assign_offsets(batches: &[BatchToAppend], log_end_offset: i64, leader_epoch: i32) -> SmallVec<[Header; 1]> {
    let mut next_offset = log_end_offset;
    let assign = |batch: &BatchToAppend| {
        let header = Header { base_offset: next_offset, partition_leader_epoch: leader_epoch, ..batch.header };
        next_offset = header.next_offset();
        header
    };
    batches.iter().map(assign).collect()
}

/// The headers as they are, if their offsets grow from the log's end on.
fn check_offsets(batches: &[BatchToAppend], log_end_offset: i64) -> Result<SmallVec<[Header; 1]>, AppendError> {
    let mut next_offset = log_end_offset;
    for BatchToAppend { header, .. } in batches {
        if header.base_offset < next_offset {
            return Err(AppendError::OffsetsNotIncreasing { base_offset: header.base_offset, log_end_offset: next_offset });
        }
        next_offset = header.next_offset();
    }
    Ok(batches.iter().map(|batch| batch.header).collect())
}

/// The buffers of the write. A leader replaces each batch's first 16 bytes; all prefixes share one allocation.
fn parts(batches: &[BatchToAppend], headers: &[Header], leads: bool) -> Parts {
    if !leads {
        return batches.iter().map(|batch| batch.bytes.clone()).collect();
    }
    let mut prefixes: SmallVec<[u8; 4 * PREFIX_BYTES]> = SmallVec::new();
    for header in headers {
        prefixes.extend_from_slice(&header.prefix(header.base_offset, header.partition_leader_epoch));
    }
    let prefixes = Bytes::copy_from_slice(&prefixes);
    let mut parts = Parts::new();
    for (at, batch) in batches.iter().enumerate() {
        parts.push(prefixes.slice(at * PREFIX_BYTES..(at + 1) * PREFIX_BYTES));
        parts.push(batch.bytes.slice(PREFIX_BYTES..));
    }
    parts
}
