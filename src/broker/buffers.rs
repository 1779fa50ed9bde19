//! The memory that requests are read into: one budget for the whole broker (`queued.max.request.bytes`), taken before a
//! body is read, in chunks that are reused and never zeroed. An idle connection holds none.

use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

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
    share: Share,
}

/// What a chunk has of the budget; whoever waits for some is told when it goes.
#[derive(Debug)]
struct Share {
    permit: Option<OwnedSemaphorePermit>,
    is_overdraft: bool,
    returned: Arc<Notify>,
}

impl Drop for Share {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.returned.notify_waiters();
    }
}

impl Chunk {
    /// Its whole size.
    pub fn size_bytes(&self) -> usize {
        self.size_bytes
    }
}

/// Counts one that waits.
struct Waits<'a>(&'a AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    /// Some of either was given back.
    returned: Arc<Notify>,
    /// How many wait for some of it.
    waiting_count: AtomicUsize,
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
        Self {
            budget: Arc::new(Semaphore::new(units as usize)),
            budget_units: units,
            overdraft: Arc::new(Semaphore::new(1)),
            returned: Arc::default(),
            waiting_count: AtomicUsize::new(0),
            free: Mutex::default(),
        }
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
        Some(self.make(size_bytes, permit, false))
    }

    /// Whether somebody waits because the budget is used up.
    pub fn is_short(&self) -> bool {
        self.waiting_count.load(Ordering::Relaxed) > 0
    }

    fn wait(&self) -> Waits<'_> {
        self.waiting_count.fetch_add(1, Ordering::Relaxed);
        Waits(&self.waiting_count)
    }

    /// A chunk of at least `needed_bytes`, once the budget has room. First come, first served.
    pub async fn take(&self, needed_bytes: usize) -> Chunk {
        let _waits = self.wait();
        let size_bytes = Self::size_for(needed_bytes);
        let permit = Arc::clone(&self.budget).acquire_many_owned(self.units_for(size_bytes)).await.expect("the budget is never closed");
        self.make(size_bytes, permit, false)
    }

    /// Moves what `chunk` holds, a part of a frame, to a chunk of at least `needed_bytes`; waits until there is one. May be dropped: then the chunk
    /// is as it was.
    ///
    /// It does not queue for the budget. Whoever waits there for much keeps all that comes free from those behind, and what it holds
    /// itself never comes.
    pub async fn grow(&self, chunk: &mut Chunk, needed_bytes: usize) {
        let size_bytes = Self::size_for(needed_bytes);
        if chunk.share.is_overdraft {
            // There is one overdraft, and it is here.
            let mut buffer = self.buffer(size_bytes);
            buffer.extend_from_slice(&chunk.buffer);
            self.recycle(std::mem::replace(&mut chunk.buffer, buffer), chunk.size_bytes);
            chunk.size_bytes = size_bytes;
            return;
        }
        let mut larger = self.take_larger(size_bytes).await;
        larger.buffer.extend_from_slice(&chunk.buffer);
        self.give(std::mem::replace(chunk, larger));
    }

    async fn take_larger(&self, size_bytes: usize) -> Chunk {
        let mut overdraft = pin!(Arc::clone(&self.overdraft).acquire_owned());
        let mut waits = None;
        loop {
            let mut returned = pin!(self.returned.notified());
            // From here on nothing is missed.
            returned.as_mut().enable();
            if let Some(chunk) = self.try_take(size_bytes) {
                return chunk;
            }
            waits.get_or_insert_with(|| self.wait());
            tokio::select! {
                biased;
                permit = &mut overdraft => return self.make(size_bytes, permit.expect("the overdraft is never closed"), true),
                () = returned => {}
            }
        }
    }

    fn make(&self, size_bytes: usize, permit: OwnedSemaphorePermit, is_overdraft: bool) -> Chunk {
        let share = Share { permit: Some(permit), is_overdraft, returned: Arc::clone(&self.returned) };
        Chunk { buffer: self.buffer(size_bytes), size_bytes, share }
    }

    fn buffer(&self, size_bytes: usize) -> BytesMut {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        match free.chunks.iter().rposition(|(size, _)| *size == size_bytes) {
            Some(at) => {
                free.bytes -= size_bytes;
                free.chunks.swap_remove(at).1
            }
            None => {
                drop(free);
                BytesMut::with_capacity(size_bytes)
            }
        }
    }

    /// Takes a chunk back.
    pub fn give(&self, chunk: Chunk) {
        self.recycle(chunk.buffer, chunk.size_bytes);
    }

    /// Keeps a buffer for the next request if nothing still refers to it and the pool keeps little.
    fn recycle(&self, mut buffer: BytesMut, size_bytes: usize) {
        /// What the pool keeps for reuse; what is beyond goes back to the allocator.
        const KEEP_BYTES: usize = 16 * 1024 * 1024;
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
    fn two_that_hold_a_part_grow_one_after_the_other_and_in_steps() {
        use futures_util::FutureExt;
        let pool = ChunkPool::new(2 * MIN_CHUNK_BYTES);
        let (mut one, mut two) = (pool.try_take(1).unwrap(), pool.try_take(1).unwrap());
        one.buffer.extend_from_slice(b"one");
        two.buffer.extend_from_slice(b"two");
        // Neither fits the budget beside the other. The first draws on the overdraft, as often as it must.
        pool.grow(&mut one, 2 * MIN_CHUNK_BYTES).now_or_never().unwrap();
        pool.grow(&mut one, 4 * MIN_CHUNK_BYTES).now_or_never().unwrap();
        assert_eq!((&one.buffer[..], one.size_bytes()), (&b"one"[..], 4 * MIN_CHUNK_BYTES));
        {
            let mut growing = pin!(pool.grow(&mut two, 8 * MIN_CHUNK_BYTES));
            assert!(growing.as_mut().now_or_never().is_none());
            // Others do not wait for it.
            assert!(pool.take(1).now_or_never().is_some());
            pool.give(one);
            assert!(growing.as_mut().now_or_never().is_some());
        }
        assert_eq!((&two.buffer[..], two.size_bytes()), (&b"two"[..], 8 * MIN_CHUNK_BYTES));
        pool.give(two);
        assert_eq!(pool.free_budget_bytes(), 2 * MIN_CHUNK_BYTES);
    }

    #[test]
    fn who_waits_to_grow_takes_what_comes_free() {
        use futures_util::FutureExt;
        let pool = ChunkPool::new(3 * MIN_CHUNK_BYTES);
        let (mut one, two, mut three) = (pool.try_take(1).unwrap(), pool.try_take(1).unwrap(), pool.try_take(1).unwrap());
        pool.grow(&mut three, 2 * MIN_CHUNK_BYTES).now_or_never().unwrap();
        let mut growing = Box::pin(pool.grow(&mut one, 2 * MIN_CHUNK_BYTES));
        assert!(growing.as_mut().now_or_never().is_none(), "the overdraft is taken");
        pool.give(two);
        assert!(growing.as_mut().now_or_never().is_some(), "the budget has room, the overdraft is still taken");
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
