//! `ottla log verify`: every batch, index, snapshot and checkpoint, against each other.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::log::files::{Found, Kind, Segment, content, kind, partitions, unreadable};
use crate::cli::output::{Failure, stdout};
use crate::log::checkpoint::parse_offsets;
use crate::log::epoch_cache::EpochCache;
use crate::log::names::{
    INDEX_SUFFIX, LEADER_EPOCH_CHECKPOINT, LOG_SUFFIX, PARTITION_METADATA, RECOVERY_POINT_CHECKPOINT, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, file_name,
    parse_file_name,
};
use crate::log::producer_state::parse_end_transaction;
use crate::log::{partition_metadata, producer_snapshot};
use crate::record::batch::{BatchError, Header};
use crate::record::records;
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{Disk, File, Open, Runtime};
use crate::topic_partition::TopicPartition;

/// The most bytes to which a batch may decompress.
const BATCH_LIMIT_BYTES: usize = 512 << 20;

/// What a check found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// What loses or hides records.
    pub(super) errors: Vec<String>,
    /// What the next start of a broker mends by itself, and what is worth knowing.
    pub(super) notes: Vec<String>,
    pub(super) partitions: u64,
    pub(super) segments: u64,
    pub(super) batches: u64,
    pub(super) records: u64,
    pub(super) bytes: u64,
    /// What adoption must know of each partition.
    pub(super) facts: BTreeMap<TopicPartition, Facts>,
}

/// What a partition's batches tell besides being whole.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// Offset after the last whole batch.
    pub(super) end_offset: i64,
    /// The first offset that is missing before others, as compaction leaves them.
    pub(super) first_gap: Option<i64>,
    /// Transactions without a marker: where each began, by producer id.
    pub(super) open_transactions: BTreeMap<i64, i64>,
    /// The greatest producer id.
    pub(super) max_producer_id: Option<i64>,
    /// Segments in the message formats of before Kafka 0.11.
    pub(super) legacy_segments: Vec<PathBuf>,
    /// The greatest leader epoch so far.
    epoch: i32,
}

impl Facts {
    fn note(&mut self, header: &Header, bytes: &Bytes, next_offset: i64) {
        if header.base_offset > next_offset {
            self.first_gap.get_or_insert(next_offset);
        }
        self.epoch = header.partition_leader_epoch.max(self.epoch);
        if !header.has_producer_id() {
            return;
        }
        self.max_producer_id = self.max_producer_id.max(Some(header.producer_id));
        if !header.is_control() {
            if header.is_transactional() {
                self.open_transactions.entry(header.producer_id).or_insert(header.base_offset);
            }
        } else if parse_end_transaction(header, bytes).is_some() {
            self.open_transactions.remove(&header.producer_id);
        }
    }
}

pub(super) async fn run(runtime: &TokioRuntime, dirs: &[PathBuf], deep: bool) -> Result<(), Failure> {
    let mut findings = Findings::default();
    let mut checked = Vec::new();
    for dir in dirs {
        match kind(runtime, dir).await? {
            Kind::File => return Err(format!("{} is a file; give the directory of a partition or of the data", dir.display()).into()),
            Kind::Partition(partition) => checked.push((partition, dir.clone())),
            Kind::Data => {
                let found = partitions(runtime, dir).await?;
                if found.is_empty() {
                    return Err(format!("{} holds no partitions: expected directories such as my-topic-0", dir.display()).into());
                }
                checked.extend(found);
            }
        }
    }
    let progress = progress(runtime, &checked).await?;
    for (partition, dir) in &checked {
        check_partition(runtime, partition, dir, deep, &progress, &mut findings).await?;
    }
    progress.finish_and_clear();
    report(&findings)?;
    if findings.errors.is_empty() { Ok(()) } else { Err(Failure::Told) }
}

fn report(findings: &Findings) -> Result<(), Failure> {
    let mut out = stdout();
    findings.notes.iter().try_for_each(|note| writeln!(out, "note: {note}"))?;
    findings.errors.iter().try_for_each(|error| writeln!(out, "ERROR: {error}"))?;
    let Findings { partitions, segments, batches, records, bytes, errors, .. } = findings;
    let verdict = match errors.len() {
        0 => "all good".to_owned(),
        1 => "1 error".to_owned(),
        count => format!("{count} errors"),
    };
    writeln!(out, "{partitions} partitions, {segments} segments, {batches} batches, {records} records, {bytes} bytes: {verdict}")?;
    Ok(out.flush()?)
}

/// A bar over all bytes of all segments, if somebody is there to look at it.
pub(super) async fn progress(runtime: &TokioRuntime, partitions: &[(TopicPartition, PathBuf)]) -> Result<ProgressBar, Failure> {
    if !std::io::stderr().is_terminal() {
        return Ok(ProgressBar::hidden());
    }
    let mut total = 0;
    for (_, dir) in partitions {
        for (_, path) in segments(runtime, dir).await? {
            let len = async { runtime.disk().open(&path, Open::Read).await?.len().await };
            total += len.await.map_err(|error| unreadable(&path, &error))?;
        }
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}").unwrap_or_else(|_| ProgressStyle::default_bar());
    Ok(ProgressBar::new(total).with_style(style))
}

/// The segments of a partition, with their base offsets, in order.
async fn segments(runtime: &TokioRuntime, dir: &Path) -> Result<Vec<(i64, PathBuf)>, Failure> {
    let entries = runtime.disk().list(dir).await.map_err(|error| unreadable(dir, &error))?;
    let mut segments: Vec<_> = entries.iter().filter_map(|entry| Some((parse_file_name(&entry.name, LOG_SUFFIX)?, dir.join(&entry.name)))).collect();
    segments.sort();
    Ok(segments)
}

/// The content of a file, `None` if there is none.
async fn content_if_any(runtime: &TokioRuntime, path: &Path) -> Result<Option<bytes::Bytes>, Failure> {
    match runtime.disk().open(path, Open::Read).await {
        Ok(_) => content(runtime, path).await.map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(path, &error)),
    }
}

/// What is known of a segment's batches after reading it.
struct Read {
    /// (position, last offset, greatest timestamp so far) of each batch.
    batches: Vec<(u64, i64, i64)>,
    next_offset: i64,
}

/// Checks one partition.
pub(super) async fn check_partition(
    runtime: &TokioRuntime,
    partition: &TopicPartition,
    dir: &Path,
    deep: bool,
    progress: &ProgressBar,
    findings: &mut Findings,
) -> Result<(), Failure> {
    findings.partitions += 1;
    let recovery_point = recovery_point(runtime, partition, dir).await;
    let segments = segments(runtime, dir).await?;
    let mut next_offset = None;
    let errors_before = findings.errors.len();
    let mut facts = Facts { epoch: -1, ..Facts::default() };
    for (index, (base_offset, path)) in segments.iter().enumerate() {
        findings.segments += 1;
        if let Some(expected) = next_offset.filter(|expected| base_offset < expected) {
            findings.errors.push(format!("{partition}: the segment {} begins at offset {base_offset}, where {expected} was next", path.display()));
        }
        // Retention never leaves a gap; compaction does, and a lost file.
        if let Some(expected) = next_offset.filter(|expected| base_offset > expected) {
            facts.first_gap.get_or_insert(expected);
        }
        let last = index + 1 == segments.len();
        let read = check_segment(runtime, partition, path, *base_offset, last, deep, recovery_point, &mut facts, progress, findings).await?;
        check_indexes(runtime, dir, *base_offset, &read, findings).await?;
        next_offset = Some(read.next_offset);
    }
    facts.end_offset = next_offset.unwrap_or(0);
    if facts.end_offset < recovery_point && facts.legacy_segments.is_empty() && findings.errors.len() == errors_before {
        findings.errors.push(format!(
            "{partition}: the log ends at offset {}, and the recovery point {recovery_point} says that more was on disk. Restore it from another replica or a backup",
            facts.end_offset
        ));
    }
    if let Some(offset) = facts.first_gap {
        findings.notes.push(format!("{partition}: its offsets have gaps, the first at {offset}, as compaction leaves them"));
    }
    if !facts.legacy_segments.is_empty() {
        findings.errors.push(format!(
            "{partition}: {} of its {} segments hold records in a message format of before Kafka 0.11 (v0 or v1; the first: {}), and \
             Ottla serves format v2 alone. In Kafka, copy the topic into a new one, by a consumer and a producer, and delete the old one",
            facts.legacy_segments.len(),
            segments.len(),
            facts.legacy_segments[0].display()
        ));
    }
    findings.facts.insert(partition.clone(), facts);
    let entries = runtime.disk().list(dir).await.map_err(|error| unreadable(dir, &error))?;
    for entry in entries.iter().filter(|entry| parse_file_name(&entry.name, SNAPSHOT_SUFFIX).is_some()) {
        let path = dir.join(&entry.name);
        if let Err(error) = producer_snapshot::parse(&content(runtime, &path).await?, 0) {
            findings.notes.push(format!("{}: {error}; it is made again from the records", path.display()));
        }
    }
    if let Some(bytes) = content_if_any(runtime, &dir.join(LEADER_EPOCH_CHECKPOINT)).await?
        && let Err(error) = EpochCache::parse(&String::from_utf8_lossy(&bytes))
    {
        findings.notes.push(format!("{}: {error}; it is made again from the records", dir.join(LEADER_EPOCH_CHECKPOINT).display()));
    }
    if let Some(bytes) = content_if_any(runtime, &dir.join(PARTITION_METADATA)).await?
        && let Err(error) = partition_metadata::parse(&bytes)
    {
        findings.errors.push(format!("{}: {error}", dir.join(PARTITION_METADATA).display()));
    }
    Ok(())
}

/// Below this offset everything was on disk once: damage there is not what a crash leaves.
async fn recovery_point(runtime: &TokioRuntime, partition: &TopicPartition, dir: &Path) -> i64 {
    let path = dir.parent().unwrap_or(Path::new(".")).join(RECOVERY_POINT_CHECKPOINT);
    let Ok(bytes) = content(runtime, &path).await else { return 0 };
    let offsets: BTreeMap<TopicPartition, i64> = parse_offsets(&String::from_utf8_lossy(&bytes)).unwrap_or_default();
    offsets.get(partition).copied().unwrap_or(0)
}

#[allow(clippy::too_many_arguments, reason = "one caller, and every value is another thing")]
async fn check_segment(
    runtime: &TokioRuntime,
    partition: &TopicPartition,
    path: &Path,
    base_offset: i64,
    last: bool,
    deep: bool,
    recovery_point: i64,
    facts: &mut Facts,
    progress: &ProgressBar,
    findings: &mut Findings,
) -> Result<Read, Failure> {
    let mut segment = Segment::open(runtime, path).await?;
    let mut read = Read { batches: Vec::new(), next_offset: base_offset };
    let mut max_timestamp = -1;
    findings.bytes += segment.len;
    loop {
        let position = segment.position;
        match segment.next().await.map_err(|error| unreadable(path, &error))? {
            None => break,
            Some(Found::Zeros) => {
                if !last {
                    findings.errors.push(format!(
                        "{}: from position {position} of {} on it is empty, and it is not the last segment",
                        path.display(),
                        segment.len
                    ));
                }
                break;
            }
            Some(Found::Bad(BatchError::BadMagic { magic: 0 | 1 })) if segment.is_legacy_message().await.map_err(|error| unreadable(path, &error))? => {
                facts.legacy_segments.push(path.to_owned());
                break;
            }
            Some(Found::Bad(error)) => {
                let behind = segment.find_batch_behind(read.next_offset).await.map_err(|error| unreadable(path, &error))?;
                let at = format!("{}: no whole batch at position {position} of {} (offset {}): {error}", path.display(), segment.len, read.next_offset);
                let torn_end = last && behind.is_none() && read.next_offset >= recovery_point;
                if torn_end {
                    findings.notes.push(format!("{at}. It is the end of the log, as a crash leaves it: the next start cuts it off"));
                } else {
                    let why = match behind {
                        Some((position, offset)) => format!("whole batches follow from position {position} (offset {offset})"),
                        None if !last => "it is not the last segment".to_owned(),
                        None => format!("the recovery point {recovery_point} says that it was on disk"),
                    };
                    findings.errors.push(format!("{at}. This is damage, not the end of the log: {why}. Restore {partition} from another replica or a backup"));
                }
                break;
            }
            Some(Found::Batch(header, bytes)) => {
                findings.batches += 1;
                findings.records += header.record_count as u64;
                progress.inc(header.size_in_bytes() as u64);
                let place = || format!("{}: the batch at position {position} with offsets {} to {}", path.display(), header.base_offset, header.last_offset());
                if header.base_offset < read.next_offset {
                    findings.errors.push(format!("{} goes back: {} was next", place(), read.next_offset));
                }
                // Compaction leaves gaps between batches, never above the last offset.
                if header.record_count > header.last_offset_delta.saturating_add(1) {
                    findings.errors.push(format!("{} holds {} records, more than offsets", place(), header.record_count));
                }
                if header.partition_leader_epoch < facts.epoch {
                    findings.errors.push(format!("{} has leader epoch {}, after one of {}", place(), header.partition_leader_epoch, facts.epoch));
                }
                facts.note(&header, &bytes, read.next_offset);
                if deep && let Err(error) = check_records(&header, &bytes) {
                    findings.errors.push(format!("{}: {error}", place()));
                }
                max_timestamp = max_timestamp.max(header.max_timestamp);
                read.batches.push((position, header.last_offset(), max_timestamp));
                read.next_offset = header.next_offset();
            }
        }
    }
    Ok(read)
}

fn check_records(header: &crate::record::batch::Header, bytes: &bytes::Bytes) -> Result<(), String> {
    let mut count = 0;
    let mut next_offset = header.base_offset;
    for record in records(bytes, BATCH_LIMIT_BYTES).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        if record.offset < next_offset || record.offset > header.last_offset() {
            return Err(format!("a record has offset {}, where {next_offset} to {} was due", record.offset, header.last_offset()));
        }
        next_offset = record.offset + 1;
        count += 1;
    }
    if count == header.record_count { Ok(()) } else { Err(format!("it has {count} records, and its header says {}", header.record_count)) }
}

/// Indexes are made again from the records where they are wrong, so that is a note; but a wrong entry that looks right hides records
/// until then.
async fn check_indexes(runtime: &TokioRuntime, dir: &Path, base_offset: i64, read: &Read, findings: &mut Findings) -> Result<(), Failure> {
    let path = dir.join(file_name(base_offset, INDEX_SUFFIX));
    if let Some(bytes) = content_if_any(runtime, &path).await? {
        for (number, entry) in bytes.chunks_exact(8).take_while(|entry| entry.iter().any(|byte| *byte != 0)).enumerate() {
            let value = |at: usize| u32::from_be_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]);
            let (offset, position) = (base_offset + i64::from(value(0)), u64::from(value(4)));
            // A Kafka follower appends many batches at once: its entry has the first one's position and the last one's offset.
            let at = read.batches.partition_point(|(batch_position, ..)| *batch_position < position);
            let begins = read.batches.get(at).is_some_and(|(batch_position, ..)| *batch_position == position);
            if !begins || read.batches[at..].binary_search_by_key(&offset, |(_, last_offset, _)| *last_offset).is_err() {
                let behind = read.batches.last().is_none_or(|(batch_position, ..)| position > *batch_position);
                if behind {
                    findings.notes.push(format!("{}: entry {number} points behind the last whole batch; the next start cuts it off", path.display()));
                } else {
                    findings.errors.push(format!(
                        "{}: entry {number} says that a batch at position {position} ends with offset {offset}, and there is none; delete the file, and it is made again at the next start",
                        path.display()
                    ));
                }
                break;
            }
        }
    }
    let path = dir.join(file_name(base_offset, TIME_INDEX_SUFFIX));
    if let Some(bytes) = content_if_any(runtime, &path).await? {
        let mut before = (-1, base_offset);
        for (number, entry) in bytes.chunks_exact(12).take_while(|entry| entry.iter().any(|byte| *byte != 0)).enumerate() {
            let timestamp = entry.first_chunk().map_or(-1, |bytes| i64::from_be_bytes(*bytes));
            let offset = base_offset + entry.last_chunk().map_or(0, |bytes| i64::from(u32::from_be_bytes(*bytes)));
            let wrong = if timestamp <= before.0 || offset < before.1 {
                Some("does not grow")
            } else if offset >= read.next_offset {
                Some("points behind the last whole batch")
            } else {
                // Up to the batch that holds the offset, no timestamp is greater, and one is as great.
                let at = read.batches.partition_point(|(_, last_offset, _)| *last_offset < offset);
                read.batches.get(at).filter(|(_, _, max_timestamp)| *max_timestamp != timestamp).map(|_| "does not agree with the records")
            };
            if let Some(wrong) = wrong {
                findings.notes.push(format!("{}: entry {number} (timestamp {timestamp}, offset {offset}) {wrong}", path.display()));
                break;
            }
            before = (timestamp, offset);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchBuilder;

    fn batch(base_offset: i64, values: &[&str]) -> Vec<u8> {
        let mut builder = BatchBuilder::new().base_offset(base_offset).leader_epoch(0);
        for value in values {
            builder.push(1000 + base_offset, None, Some(value.as_bytes()), &[]);
        }
        builder.build().to_vec()
    }

    /// Checks a partition with one segment of these bytes.
    fn check(log: Vec<u8>, index: Vec<u8>, recovery_point: Option<i64>) -> Findings {
        let dir = tempfile::tempdir().unwrap();
        crate::runtime::tokio::run(1, {
            let root = dir.path().to_owned();
            |runtime| async move {
                let partition = TopicPartition::new("t", 0);
                let dir = root.join("t-0");
                runtime.disk().create_dir(&dir).await.unwrap();
                let mut files = vec![(dir.join("00000000000000000000.log"), log), (dir.join("00000000000000000000.index"), index)];
                if let Some(offset) = recovery_point {
                    files.push((root.join(RECOVERY_POINT_CHECKPOINT), format!("0\n1\nt 0 {offset}\n").into_bytes()));
                }
                for (path, content) in files {
                    let file = runtime.disk().open(&path, Open::CreateNew).await.unwrap();
                    file.write_at(0, [bytes::Bytes::from(content)].into_iter().collect()).await.unwrap();
                }
                let mut findings = Findings::default();
                check_partition(&runtime, &partition, &dir, true, &ProgressBar::hidden(), &mut findings).await.unwrap();
                findings
            }
        })
        .unwrap()
    }

    fn two_batches() -> Vec<u8> {
        [batch(0, &["a", "b"]), batch(2, &["c"])].concat()
    }

    fn index_entry(offset: u32, position: usize) -> Vec<u8> {
        [offset.to_be_bytes(), (position as u32).to_be_bytes()].concat()
    }

    #[test]
    fn a_good_log_is_good() {
        let second = batch(0, &["a", "b"]).len();
        let mut log = two_batches();
        log.extend([0; 100]);
        let mut index = index_entry(2, second);
        index.extend([0; 16]);
        let findings = check(log, index, Some(3));
        assert!(findings.errors.is_empty() && findings.notes.is_empty(), "{findings:?}");
        assert_eq!((findings.batches, findings.records), (2, 3));
    }

    #[test]
    fn a_torn_end_is_a_note_and_damage_an_error() {
        let mut torn = two_batches();
        torn.truncate(torn.len() - 1);
        let findings = check(torn.clone(), Vec::new(), Some(2));
        assert!(findings.errors.is_empty() && findings.notes.len() == 1, "{findings:?}");
        // Below the recovery point it had been on disk.
        assert_eq!(check(torn, Vec::new(), Some(3)).errors.len(), 1);
        let mut rotten = two_batches();
        rotten[70] ^= 1;
        let findings = check(rotten, Vec::new(), None);
        assert!(findings.errors.len() == 1 && findings.errors[0].contains("whole batches follow"), "{findings:?}");
    }

    #[test]
    fn an_index_that_points_elsewhere_is_an_error() {
        assert_eq!(check(two_batches(), index_entry(1, 1), None).errors.len(), 1);
        assert_eq!(check(two_batches(), index_entry(9, 10_000), None).notes.len(), 1);
    }

    #[test]
    fn offsets_that_go_back_are_an_error() {
        assert_eq!(check([batch(5, &["a"]), batch(3, &["b"])].concat(), Vec::new(), None).errors.len(), 1);
    }
}
