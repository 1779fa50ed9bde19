//! Reads a file frame by frame in bounded memory, and judges damage.

use std::io;

use bytes::Bytes;

use crate::codec::{self, BODY_MAX_BYTES, Frame, FrameError, HEAD_BYTES};
use crate::runtime::File;

/// How much is read at once, in bytes, unless a frame needs more.
const CHUNK_BYTES: usize = 1 << 20;

/// What comes next in a file.
#[derive(Debug)]
pub(super) enum Next {
    /// An intact frame.
    Frame {
        /// Where it begins.
        position: u64,
        /// The frame.
        frame: Frame,
    },
    /// The end, exactly after a frame.
    End,
    /// Bytes that are no frame.
    Damaged {
        /// Where they begin.
        position: u64,
        /// What is wrong.
        error: FrameError,
    },
}

/// Reads frames one after the other.
pub(super) struct FrameReader<F> {
    file: F,
    len: u64,
    position: u64,
    buffer: Bytes,
}

impl<F: File> FrameReader<F> {
    pub(super) async fn open(file: F) -> io::Result<Self> {
        let len = file.len().await?;
        Ok(Self { file, len, position: 0, buffer: Bytes::new() })
    }

    /// Where the next frame begins.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next frame. After damage it does not move.
    pub(super) async fn next(&mut self) -> io::Result<Next> {
        loop {
            if self.position == self.len {
                return Ok(Next::End);
            }
            match codec::read_frame(&self.buffer) {
                Ok(frame) => {
                    let position = self.position;
                    let _ = self.buffer.split_to(frame.len_bytes());
                    self.position += frame.len_bytes() as u64;
                    return Ok(Next::Frame { position, frame });
                }
                Err(FrameError::Short { needed_bytes, .. }) if self.position + needed_bytes as u64 <= self.len => {
                    let left = usize::try_from(self.len - self.position).unwrap_or(usize::MAX);
                    self.buffer = read_exactly(&self.file, self.position, left.min(needed_bytes.max(CHUNK_BYTES))).await?;
                }
                Err(error) => return Ok(Next::Damaged { position: self.position, error }),
            }
        }
    }

    /// Whether a frame behind the damage at `position` was written when `position` was durable already: then the damage is rot, and
    /// not the torn end of what was never synced.
    pub(super) async fn is_rot(&self, position: u64) -> io::Result<bool> {
        let mut window_start = position + 1;
        while window_start + (HEAD_BYTES as u64) < self.len {
            let left = usize::try_from(self.len - window_start).unwrap_or(usize::MAX);
            let window = read_exactly(&self.file, window_start, left.min(4 * CHUNK_BYTES)).await?;
            let offsets = window.len().saturating_sub(HEAD_BYTES).clamp(1, 3 * CHUNK_BYTES);
            for offset in 0..offsets {
                if self.knows_durable(&window, offset, window_start + offset as u64, position).await? {
                    return Ok(true);
                }
            }
            window_start += offsets as u64;
        }
        Ok(false)
    }

    async fn knows_durable(&self, window: &Bytes, offset: usize, at: u64, damaged: u64) -> io::Result<bool> {
        let Some(head) = window[offset..].first_chunk::<HEAD_BYTES>() else { return Ok(false) };
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let plausible = head[..2] != [0, 0] && head[2] != 0 && head[3] == 0 && length <= BODY_MAX_BYTES && at + (HEAD_BYTES + length) as u64 <= self.len;
        if !plausible {
            return Ok(false);
        }
        let end = offset + HEAD_BYTES + length;
        let bytes = if end <= window.len() { window.slice(offset..end) } else { read_exactly(&self.file, at, HEAD_BYTES + length).await? };
        let Ok(frame) = codec::read_frame(&bytes) else { return Ok(false) };
        // A record that happens to hold frames of another place as its data does not know its own position.
        Ok(codec::decode_prefix::<(u64, u64)>(&frame.body).is_ok_and(|(position, durable_before)| position == at && durable_before > damaged))
    }
}

async fn read_exactly<F: File>(file: &F, position: u64, len: usize) -> io::Result<Bytes> {
    let bytes = file.read_at(position, len).await?;
    if bytes.len() == len { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
