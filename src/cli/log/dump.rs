//! `ottla log dump`: the layout is that of Kafka's `DumpLogSegments`, so that scripts which read one read the other.

use std::io::Write;
use std::path::Path;

use crate::cli::log::files::{Found, Kind, Segment, content, kind, partitions, unreadable};
use crate::cli::output::{Failure, readable, stdout};
use crate::log::names::{INDEX_SUFFIX, LOG_SUFFIX, SNAPSHOT_SUFFIX, TIME_INDEX_SUFFIX, parse_file_name};
use crate::log::producer_snapshot;
use crate::record::batch::{Header, NO_SEQUENCE, add_sequence};
use crate::record::{Codec, records};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{Disk, Runtime};

/// The most bytes to which a batch may decompress.
const BATCH_LIMIT_BYTES: usize = 512 << 20;

pub(super) async fn run(runtime: &TokioRuntime, path: &Path, with_records: bool) -> Result<(), Failure> {
    match kind(runtime, path).await? {
        Kind::File => file(runtime, path, with_records).await,
        Kind::Partition(_) => partition(runtime, path, with_records).await,
        Kind::Data => {
            let found = partitions(runtime, path).await?;
            if found.is_empty() {
                return Err(format!("{} holds no partitions: expected directories such as my-topic-0", path.display()).into());
            }
            for (_, dir) in found {
                partition(runtime, &dir, with_records).await?;
            }
            Ok(())
        }
    }
}

async fn partition(runtime: &TokioRuntime, dir: &Path, with_records: bool) -> Result<(), Failure> {
    let entries = runtime.disk().list(dir).await.map_err(|error| unreadable(dir, &error))?;
    for entry in entries.iter().filter(|entry| !entry.is_dir) {
        file(runtime, &dir.join(&entry.name), with_records).await?;
    }
    Ok(())
}

async fn file(runtime: &TokioRuntime, path: &Path, with_records: bool) -> Result<(), Failure> {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    {
        let mut out = stdout();
        writeln!(out, "Dumping {}", path.display())?;
        out.flush()?;
    }
    if parse_file_name(&name, LOG_SUFFIX).is_some() || name.ends_with(LOG_SUFFIX) {
        return segment(runtime, path, with_records).await;
    }
    let bytes = content(runtime, path).await?;
    let mut out = stdout();
    if let Some(base_offset) = parse_file_name(&name, INDEX_SUFFIX) {
        // Behind the last entry may be zeros that were reserved.
        for entry in bytes.chunks_exact(8).take_while(|entry| entry.iter().any(|byte| *byte != 0)) {
            let number = |at: usize| i64::from(i32::from_be_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
            writeln!(out, "offset: {} position: {}", base_offset + number(0), number(4))?;
        }
    } else if let Some(base_offset) = parse_file_name(&name, TIME_INDEX_SUFFIX) {
        for entry in bytes.chunks_exact(12).take_while(|entry| entry.iter().any(|byte| *byte != 0)) {
            let timestamp = entry.first_chunk().map_or(-1, |bytes| i64::from_be_bytes(*bytes));
            let relative = entry.last_chunk().map_or(0, |bytes| i32::from_be_bytes(*bytes));
            writeln!(out, "timestamp: {timestamp} offset: {}", base_offset + i64::from(relative))?;
        }
    } else if parse_file_name(&name, SNAPSHOT_SUFFIX).is_some() {
        let states = producer_snapshot::parse(&bytes, 0).map_err(|error| format!("{}: {error}", path.display()))?;
        for (producer_id, entry) in states.iter() {
            let last = entry.batches.last();
            writeln!(
                out,
                "producerId: {producer_id} producerEpoch: {} coordinatorEpoch: {} currentTxnFirstOffset: {} lastTimestamp: {} firstSequence: {} lastSequence: {} lastOffset: {} offsetDelta: {} timestamp: {}",
                entry.epoch,
                entry.coordinator_epoch,
                entry.current_txn_first_offset.map_or_else(|| "OptionalLong.empty".to_owned(), |offset| format!("OptionalLong[{offset}]")),
                entry.last_timestamp,
                last.map_or(NO_SEQUENCE, |batch| batch.first_sequence()),
                last.map_or(NO_SEQUENCE, |batch| batch.last_sequence),
                last.map_or(-1, |batch| batch.last_offset),
                last.map_or(0, |batch| batch.offset_delta),
                last.map_or(-1, |batch| batch.timestamp),
            )?;
        }
    } else if bytes.len() < 1 << 20 && std::str::from_utf8(&bytes).is_ok_and(|text| !text.contains('\0')) {
        out.write_all(&bytes)?;
        if !bytes.ends_with(b"\n") {
            writeln!(out)?;
        }
    } else {
        writeln!(out, "{} bytes", bytes.len())?;
    }
    Ok(out.flush()?)
}

async fn segment(runtime: &TokioRuntime, path: &Path, with_records: bool) -> Result<(), Failure> {
    let mut segment = Segment::open(runtime, path).await?;
    let mut text = Vec::new();
    let starting = path.file_name().and_then(|name| parse_file_name(&name.to_string_lossy(), LOG_SUFFIX));
    if let Some(offset) = starting {
        writeln!(text, "Log starting offset: {offset}")?;
    }
    loop {
        let position = segment.position;
        let end = match segment.next().await.map_err(|error| unreadable(path, &error))? {
            None => None,
            Some(Found::Batch(header, bytes)) => {
                writeln!(text, "{}", batch_line(&header, position))?;
                if with_records && let Err(error) = record_lines(&mut text, &header, &bytes) {
                    writeln!(text, "| the records cannot be decoded: {error}")?;
                }
                if text.len() < 64 << 10 {
                    continue;
                }
                let mut out = stdout();
                out.write_all(&text)?;
                out.flush()?;
                text.clear();
                continue;
            }
            Some(Found::Zeros) => {
                writeln!(text, "{} bytes of reserved space follow", segment.len - position)?;
                None
            }
            Some(Found::Bad(error)) => Some(format!("{}: at position {position} of {} is no whole batch: {error}", path.display(), segment.len)),
        };
        let mut out = stdout();
        out.write_all(&text)?;
        out.flush()?;
        return match end {
            None => Ok(()),
            Some(error) => Err(error.into()),
        };
    }
}

fn batch_line(header: &Header, position: u64) -> String {
    let time = if header.is_log_append_time() { "LogAppendTime" } else { "CreateTime" };
    let horizon = if header.has_delete_horizon() { format!("OptionalLong[{}]", header.base_timestamp) } else { "OptionalLong.empty".to_owned() };
    let codec = Codec::from_id(header.codec()).map_or("unknown", Codec::name);
    format!(
        "baseOffset: {} lastOffset: {} count: {} baseSequence: {} lastSequence: {} producerId: {} producerEpoch: {} partitionLeaderEpoch: {} \
         isTransactional: {} isControl: {} deleteHorizonMs: {horizon} position: {position} {time}: {} size: {} magic: 2 compresscodec: {codec} crc: {} isvalid: true",
        header.base_offset,
        header.last_offset(),
        header.record_count,
        header.base_sequence,
        header.last_sequence(),
        header.producer_id,
        header.producer_epoch,
        header.partition_leader_epoch,
        header.is_transactional(),
        header.is_control(),
        header.max_timestamp,
        header.size_in_bytes(),
        header.crc,
    )
}

fn record_lines(text: &mut Vec<u8>, header: &Header, bytes: &bytes::Bytes) -> Result<(), String> {
    let time = if header.is_log_append_time() { "LogAppendTime" } else { "CreateTime" };
    for record in records(bytes, BATCH_LIMIT_BYTES).map_err(|error| error.to_string())? {
        let record = record.map_err(|error| error.to_string())?;
        let size = |field: &Option<bytes::Bytes>| field.as_ref().map_or(-1, |field| field.len() as i64);
        let delta = i32::try_from(record.offset - header.base_offset).unwrap_or(0);
        let sequence = if header.base_sequence == NO_SEQUENCE { NO_SEQUENCE } else { add_sequence(header.base_sequence, delta) };
        let names: Vec<String> = record.headers.iter().map(|(name, _)| readable(name)).collect();
        let mut line = format!(
            "| offset: {} {time}: {} keySize: {} valueSize: {} sequence: {sequence} headerKeys: [{}]",
            record.offset,
            record.timestamp,
            size(&record.key),
            size(&record.value),
            names.join(",")
        );
        if let Some(key) = &record.key {
            line.push_str(&format!(" key: {}", readable(key)));
        }
        if let Some(value) = &record.value {
            line.push_str(&format!(" payload: {}", readable(value)));
        }
        text.extend_from_slice(line.as_bytes());
        text.push(b'\n');
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::BatchBuilder;

    #[test]
    fn lines_are_those_of_kafkas_tool() {
        let mut builder = BatchBuilder::new().base_offset(4).producer(7, 1, 9);
        builder.push(1000, Some(b"k"), Some(b"v\n"), &[]);
        builder.push(1001, None, None, &[("h".into(), None)]);
        let bytes = builder.build();
        let header = Header::whole(&bytes).unwrap();
        let line = batch_line(&header, 100);
        assert!(
            line.starts_with("baseOffset: 4 lastOffset: 5 count: 2 baseSequence: 9 lastSequence: 10 producerId: 7 producerEpoch: 1 partitionLeaderEpoch: "),
            "{line}"
        );
        assert!(line.contains("isTransactional: false isControl: false deleteHorizonMs: OptionalLong.empty position: 100 CreateTime: 1001 size: "), "{line}");
        let mut text = Vec::new();
        record_lines(&mut text, &header, &bytes).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "| offset: 4 CreateTime: 1000 keySize: 1 valueSize: 2 sequence: 9 headerKeys: [] key: k payload: v\\n\n\
             | offset: 5 CreateTime: 1001 keySize: -1 valueSize: -1 sequence: 10 headerKeys: [h]\n"
        );
    }
}
