//! The memory that requests are read into: one budget for the whole broker (`queued.max.request.bytes`), taken before a
//! body is read, in chunks that are reused and never zeroed. An idle connection holds none.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The smallest chunk. Large reads make the difference between one system call a request and one for many.
pub const MIN_CHUNK_BYTES: usize = 256 * 1024;
/// The budget counts in units of this.
const UNIT_BYTES: usize = 1024;

/// A buffer and its share of the budget.
#[derive(Debug)]
pub struct Chunk {
    /// Where requests are read to. Frames are split off its front.
    pub buffer: BytesMut,
    size_bytes: usize,
    _budget: OwnedSemaphorePermit,
}

impl Chunk {
    /// Its whole size.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

/// The broker's chunks.
#[derive(Debug)]
pub struct ChunkPool {
    budget: Arc<Semaphore>,
    budget_units: u32,
    /// One connection at a time may outgrow the budget to finish a frame that it has begun: else connections that each hold a
    /// part of a large frame could wait for each other for ever.
    overdraft: Arc<Semaphore>,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    chunks: Vec<(usize, BytesMut)>,
    bytes: usize,
}

impl ChunkPool {
    /// A pool that hands out at most `budget_bytes` at a time, though always at least one chunk of any size.
    pub fn new(budget_bytes: usize) -> Self {
        let units = u32::try_from(budget_bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX / 2).clamp((MIN_CHUNK_BYTES / UNIT_BYTES) as u32, u32::MAX / 2);
        Self { budget: Arc::new(Semaphore::new(units as usize)), budget_units: units, overdraft: Arc::new(Semaphore::new(1)), free: Mutex::default() }
    }

    fn size_for(needed_bytes: usize) -> usize {
        needed_bytes.max(MIN_CHUNK_BYTES).checked_next_power_of_two().unwrap_or(needed_bytes)
    }

    fn units_for(&self, size_bytes: usize) -> u32 {
        // A frame larger than the whole budget may have all of it: else it could never be served.
        u32::try_from(size_bytes / UNIT_BYTES).unwrap_or(u32::MAX).min(self.budget_units)
    }

    /// Whether a chunk of at least `needed_bytes` would take no more than a quarter of what is free. However many frames are announced, some of the budget is
    /// left for those that come.
    pub fn has_plenty_for(&self, needed_bytes: usize) -> bool {
        Self::size_for(needed_bytes) <= self.free_budget_bytes() / 4
    }

    /// A chunk of at least `needed_bytes` if the budget has room now.
    pub fn try_take(&self, needed_bytes: usize) -> Option<Chunk> {
        let size_bytes = Self::size_for(needed_bytes);
        let permit = Arc::clone(&self.budget).try_acquire_many_owned(self.units_for(size_bytes)).ok()?;
        Some(self.make(size_bytes, permit))
    }

    /// A chunk of at least `needed_bytes`, once the budget has room. First come, first served.
    pub async fn take(&self, needed_bytes: usize) -> Chunk {
        let size_bytes = Self::size_for(needed_bytes);
        let permit = Arc::clone(&self.budget).acquire_many_owned(self.units_for(size_bytes)).await.expect("the budget is never closed");
        self.make(size_bytes, permit)
    }

    /// A chunk of at least `needed_bytes` for a frame of which a part is held already.
    pub async fn take_larger(&self, needed_bytes: usize) -> Chunk {
        if let Some(chunk) = self.try_take(needed_bytes) {
            return chunk;
        }
        tokio::select! {
            biased;
            chunk = self.take(needed_bytes) => chunk,
            permit = Arc::clone(&self.overdraft).acquire_owned() => {
                self.make(Self::size_for(needed_bytes), permit.expect("the overdraft is never closed"))
            }
        }
    }

    fn make(&self, size_bytes: usize, permit: OwnedSemaphorePermit) -> Chunk {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let found = free.chunks.iter().rposition(|(size, _)| *size == size_bytes);
        let buffer = if let Some(at) = found {
            free.bytes -= size_bytes;
            free.chunks.swap_remove(at).1
        } else {
            drop(free);
            BytesMut::with_capacity(size_bytes)
        };
        Chunk { buffer, size_bytes, _budget: permit }
    }

    /// Takes a chunk back. It is kept for the next request if nothing still refers to it and the pool keeps little.
    pub fn give(&self, chunk: Chunk) {
        /// What the pool keeps for reuse; what is beyond goes back to the allocator.
        const KEEP_BYTES: usize = 16 * 1024 * 1024;
        let Chunk { mut buffer, size_bytes, _budget } = chunk;
        buffer.clear();
        if buffer.try_reclaim(size_bytes) {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            if free.bytes + size_bytes <= KEEP_BYTES {
                free.bytes += size_bytes;
                free.chunks.push((size_bytes, buffer));
            }
        }
    }

    /// Bytes of the budget that are free.
    pub fn free_budget_bytes(&self) -> usize {
        self.budget.available_permits() * UNIT_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_bounds_what_is_out() {
        let pool = ChunkPool::new(2 * MIN_CHUNK_BYTES);
        let first = pool.try_take(1).unwrap();
        let _second = pool.try_take(1).unwrap();
        assert!(pool.try_take(1).is_none());
        pool.give(first);
        assert!(pool.try_take(1).is_some());
    }

    #[test]
    fn a_frame_larger_than_the_budget_gets_all_of_it() {
        let pool = ChunkPool::new(MIN_CHUNK_BYTES);
        let huge = pool.try_take(8 * MIN_CHUNK_BYTES).unwrap();
        assert!(huge.buffer.capacity() >= 8 * MIN_CHUNK_BYTES);
        assert!(pool.try_take(1).is_none());
    }

    #[test]
    fn a_chunk_is_reused_unless_something_refers_to_it() {
        let pool = ChunkPool::new(4 * MIN_CHUNK_BYTES);
        let mut chunk = pool.try_take(1).unwrap();
        let place = chunk.buffer.as_ptr();
        chunk.buffer.extend_from_slice(b"frame");
        drop(chunk.buffer.split_to(5).freeze());
        pool.give(chunk);
        let mut again = pool.try_take(1).unwrap();
        assert_eq!(again.buffer.as_ptr(), place);
        again.buffer.extend_from_slice(b"frame");
        let pinned = again.buffer.split_to(5).freeze();
        pool.give(again);
        assert_ne!(pool.try_take(1).unwrap().buffer.as_ptr(), place, "{pinned:?} is still there");
    }
}
