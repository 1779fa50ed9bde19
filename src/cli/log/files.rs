//! Reading the files of a log for people: directories, whole small files, and segments batch by batch.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::cli::output::Failure;
use crate::log::names::{LOG_SUFFIX, parse_file_name};
use crate::record::batch::{BatchError, HEADER_BYTES, Header};
use crate::runtime::tokio::{TokioDisk, TokioRuntime};
use crate::runtime::{Disk, File, Open, Runtime};
use crate::topic_partition::TopicPartition;

/// Bytes that are read at a time.
const READ_BYTES: usize = 1 << 20;
/// The largest index, snapshot or checkpoint that is read: what is larger is none.
const MAX_SMALL_FILE_BYTES: u64 = 256 << 20;

/// Offset and size of a message of the formats v0 and v1; its CRC-32 comes next, of all that follows.
const LEGACY_OVERHEAD_BYTES: usize = 12;

pub(super) type SegmentFile = <TokioDisk as Disk>::File;

/// An I/O error in words.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::Message(format!("cannot read {}: {error}", path.display()))
}

/// What a path is.
pub(super) enum Kind {
    /// A single file.
    File,
    /// A partition's directory.
    Partition(TopicPartition),
    /// A directory with partitions in it.
    Data,
}

/// Whether a path is a file, a partition or a data directory.
pub(super) async fn kind(runtime: &TokioRuntime, path: &Path) -> Result<Kind, Failure> {
    let entries = match runtime.disk().list(path).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return Ok(Kind::File),
        Err(error) => return Err(unreadable(path, &error)),
    };
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let has_segment = entries.iter().any(|entry| !entry.is_dir && parse_file_name(&entry.name, LOG_SUFFIX).is_some());
    match TopicPartition::from_dir_name(&name).filter(|_| has_segment) {
        Some(partition) => Ok(Kind::Partition(partition)),
        None => Ok(Kind::Data),
    }
}

/// The partitions of a data directory, by name, with their directories.
pub(super) async fn partitions(runtime: &TokioRuntime, dir: &Path) -> Result<Vec<(TopicPartition, PathBuf)>, Failure> {
    let entries = runtime.disk().list(dir).await.map_err(|error| unreadable(dir, &error))?;
    let named = entries.into_iter().filter(|entry| entry.is_dir).filter_map(|entry| Some((TopicPartition::from_dir_name(&entry.name)?, dir.join(entry.name))));
    Ok(named.collect())
}

/// A small file's content.
pub(super) async fn content(runtime: &TokioRuntime, path: &Path) -> Result<Bytes, Failure> {
    let read = async {
        let file = runtime.disk().open(path, Open::Read).await?;
        let len = file.len().await?;
        if len > MAX_SMALL_FILE_BYTES {
            return Err(io::Error::other(format!("it has {len} bytes, which is too much for such a file")));
        }
        file.read_at(0, len as usize).await
    };
    read.await.map_err(|error| unreadable(path, &error))
}

/// What is at a place of a segment.
pub(super) enum Found {
    /// A whole batch with a good checksum.
    Batch(Header, Bytes),
    /// Zeros up to the end of the file: space that was reserved and not used.
    Zeros,
    /// Something else.
    Bad(BatchError),
}

/// Reads a segment's file batch by batch.
pub(super) struct Segment {
    file: SegmentFile,
    /// The file's length.
    pub(super) len: u64,
    /// Where the next batch begins.
    pub(super) position: u64,
    window: Bytes,
    window_at: u64,
}

impl Segment {
    pub(super) async fn open(runtime: &TokioRuntime, path: &Path) -> Result<Self, Failure> {
        let open = async {
            let file = runtime.disk().open(path, Open::Read).await?;
            let len = file.len().await?;
            Ok(Self { file, len, position: 0, window: Bytes::new(), window_at: 0 })
        };
        open.await.map_err(|error| unreadable(path, &error))
    }

    /// `len` bytes from `position`, fewer only at the end of the file.
    async fn bytes(&mut self, position: u64, len: usize) -> io::Result<Bytes> {
        let len = usize::try_from(self.len.saturating_sub(position)).unwrap_or(usize::MAX).min(len);
        let within = position >= self.window_at && position + len as u64 <= self.window_at + self.window.len() as u64;
        if !within {
            self.window = self.file.read_at(position, len.max(READ_BYTES)).await?;
            self.window_at = position;
        }
        let start = (position - self.window_at) as usize;
        Ok(self.window.slice(start.min(self.window.len())..(start + len).min(self.window.len())))
    }

    /// What is at the current position, and moves behind it if it is a batch. `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Found>> {
        if self.position >= self.len {
            return Ok(None);
        }
        let found = self.at(self.position).await?;
        if let Found::Batch(header, _) = &found {
            self.position += header.size_in_bytes() as u64;
        }
        Ok(Some(found))
    }

    async fn at(&mut self, position: u64) -> io::Result<Found> {
        let head = self.bytes(position, HEADER_BYTES).await?;
        let header = match Header::parse(&head) {
            Ok(header) => header,
            Err(error) => {
                let is_zeros = head.iter().all(|byte| *byte == 0) && self.zeros_from(position).await?;
                return Ok(if is_zeros { Found::Zeros } else { Found::Bad(error) });
            }
        };
        let have = self.len - position;
        if header.size_in_bytes() as u64 > have {
            return Ok(Found::Bad(BatchError::Truncated { needed_bytes: header.size_in_bytes(), have_bytes: have as usize }));
        }
        let bytes = self.bytes(position, header.size_in_bytes()).await?;
        Ok(match Header::whole(&bytes) {
            Ok(header) => Found::Batch(header, bytes),
            Err(error) => Found::Bad(error),
        })
    }

    async fn zeros_from(&mut self, mut position: u64) -> io::Result<bool> {
        while position < self.len {
            let bytes = self.bytes(position, READ_BYTES).await?;
            if bytes.is_empty() || bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            position += bytes.len() as u64;
        }
        Ok(true)
    }

    /// Whether a whole message of format v0 or v1 is at the current position, with its checksum.
    pub(super) async fn is_legacy_message(&mut self) -> io::Result<bool> {
        let head = self.bytes(self.position, LEGACY_OVERHEAD_BYTES).await?;
        let size = head.last_chunk().map_or(-1, |size| i32::from_be_bytes(*size));
        let Some(size) = usize::try_from(size).ok().filter(|size| *size as u64 <= self.len - self.position) else { return Ok(false) };
        let message = self.bytes(self.position, LEGACY_OVERHEAD_BYTES + size).await?;
        let body = &message[LEGACY_OVERHEAD_BYTES..];
        Ok(body.first_chunk().is_some_and(|crc| u32::from_be_bytes(*crc) == crc32fast::hash(&body[4..])))
    }

    /// Looks for a whole batch behind the current position, byte by byte: what tells rot in the middle from a torn end. Returns where it
    /// begins and its base offset. Looks at 64 MiB at most; `min_offset`: a batch of an older offset is none of this place.
    pub(super) async fn find_batch_behind(&mut self, min_offset: i64) -> io::Result<Option<(u64, i64)>> {
        let end = self.len.min(self.position + (64 << 20));
        let mut position = self.position + 1;
        while position + HEADER_BYTES as u64 <= end {
            let chunk = self.bytes(position, READ_BYTES).await?;
            if chunk.len() < HEADER_BYTES {
                break;
            }
            // A window is only replaced by `at` below, so the candidates of this chunk are found first.
            let candidates: Vec<usize> = (0..=chunk.len() - HEADER_BYTES)
                .filter(|start| {
                    Header::parse(&chunk[*start..]).is_ok_and(|header| {
                        header.base_offset >= min_offset && header.record_count > 0 && header.size_in_bytes() as u64 <= self.len - position - *start as u64
                    })
                })
                .collect();
            for start in candidates {
                if let Found::Batch(header, _) = self.at(position + start as u64).await? {
                    return Ok(Some((position + start as u64, header.base_offset)));
                }
            }
            position += (chunk.len() - HEADER_BYTES + 1) as u64;
        }
        Ok(None)
    }
}
