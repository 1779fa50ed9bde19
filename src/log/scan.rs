//! Reading batches one after the other from a segment's file, in large reads.

use std::io;

use bytes::Bytes;

use crate::record::batch::{BatchError, HEADER_BYTES, Header};
use crate::runtime::File;

/// A place in a file, and what was read around it.
pub(super) struct Scan<'f, F: File> {
    file: &'f F,
    /// Where the next batch begins.
    pub position: u64,
    /// Nothing at or after this is looked at.
    pub end_position: u64,
    chunk_bytes: usize,
    buffer: Bytes,
    buffer_position: u64,
    /// Bytes asked of the disk so far.
    pub bytes_read: u64,
}

impl<'f, F: File> Scan<'f, F> {
    /// From `position` to `end_position`, at least `chunk_bytes` a read.
    pub(super) fn new(file: &'f F, position: u64, end_position: u64, chunk_bytes: usize) -> Self {
        Self { file, position, end_position, chunk_bytes, buffer: Bytes::new(), buffer_position: 0, bytes_read: 0 }
    }

    /// `len` bytes at the current position; fewer at the end.
    async fn bytes(&mut self, len: usize) -> io::Result<Bytes> {
        let len = usize::try_from(self.end_position.saturating_sub(self.position)).unwrap_or(usize::MAX).min(len);
        let skip = self.position.checked_sub(self.buffer_position).and_then(|skip| usize::try_from(skip).ok());
        if let Some(skip) = skip.filter(|skip| skip.saturating_add(len) <= self.buffer.len()) {
            return Ok(self.buffer.slice(skip..skip + len));
        }
        let want = (self.chunk_bytes.max(len) as u64).min(self.end_position - self.position) as usize;
        self.buffer = self.file.read_at(self.position, want).await?;
        self.buffer_position = self.position;
        self.bytes_read += self.buffer.len() as u64;
        Ok(self.buffer.slice(..len.min(self.buffer.len())))
    }

    /// The header at the current position, `None` at the end. A batch that ends behind `end_position` is an error. Does not move.
    pub(super) async fn header(&mut self) -> io::Result<Option<Result<Header, BatchError>>> {
        if self.position >= self.end_position {
            return Ok(None);
        }
        let bytes = self.bytes(HEADER_BYTES).await?;
        Ok(Some(Header::parse(&bytes).and_then(|header| {
            let have = self.end_position - self.position;
            let needed_bytes = header.size_in_bytes();
            if needed_bytes as u64 <= have { Ok(header) } else { Err(BatchError::Truncated { needed_bytes, have_bytes: have as usize }) }
        })))
    }

    /// The whole batch at the current position, its checksum verified; `None` at the end. Does not move.
    pub(super) async fn batch(&mut self) -> io::Result<Option<Result<(Header, Bytes), BatchError>>> {
        let header = match self.header().await? {
            Some(Ok(header)) => header,
            Some(Err(error)) => return Ok(Some(Err(error))),
            None => return Ok(None),
        };
        let bytes = self.bytes(header.size_in_bytes()).await?;
        Ok(Some(Header::whole(&bytes).map(|header| (header, bytes))))
    }

    /// Moves behind a batch.
    pub(super) fn skip(&mut self, header: &Header) {
        self.position += header.size_in_bytes() as u64;
    }
}
