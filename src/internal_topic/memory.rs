//! An [`InternalLog`] in memory, whose commits, errors and leadership tests decide.

use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use tokio::sync::watch;

use super::{InternalLog, InternalLogError};
use crate::record::batch::{Header, PREFIX_BYTES};

/// A partition in memory. Clones are the same log.
#[derive(Clone)]
pub(crate) struct MemoryLog {
    inner: Arc<Mutex<Inner>>,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct Inner {
    batches: Vec<(i64, Bytes)>,
    end_offset: i64,
    errors: Vec<InternalLogError>,
    held: bool,
}

#[derive(Clone, Copy)]
struct State {
    high_watermark: i64,
    leader: bool,
}

impl MemoryLog {
    pub(crate) fn new() -> Self {
        Self { inner: Arc::default(), state: watch::Sender::new(State { high_watermark: 0, leader: true }) }
    }

    /// The same records under a new leadership, which commits at once.
    pub(crate) fn next_leadership(&self) -> Self {
        self.resign();
        let old = self.inner.lock().unwrap();
        let inner = Inner { batches: old.batches.clone(), end_offset: old.end_offset, ..Inner::default() };
        let state = State { high_watermark: inner.end_offset, leader: true };
        Self { inner: Arc::new(Mutex::new(inner)), state: watch::Sender::new(state) }
    }

    /// Stops the high watermark, or lets it go on to the end.
    pub(crate) fn hold_commits(&self, held: bool) {
        let mut inner = self.inner.lock().unwrap();
        inner.held = held;
        if !held {
            let end_offset = inner.end_offset;
            self.state.send_modify(|state| state.high_watermark = end_offset);
        }
    }

    /// Lets the next append fail.
    pub(crate) fn fail_next(&self, error: InternalLogError) {
        self.inner.lock().unwrap().errors.push(error);
    }

    /// Ends the leadership.
    pub(crate) fn resign(&self) {
        self.state.send_modify(|state| state.leader = false);
    }

    /// Batches so far.
    pub(crate) fn batch_count(&self) -> usize {
        self.inner.lock().unwrap().batches.len()
    }
}

impl InternalLog for MemoryLog {
    fn start_offset(&self) -> i64 {
        0
    }

    fn end_offset(&self) -> i64 {
        self.inner.lock().unwrap().end_offset
    }

    async fn read(&self, from_offset: i64, max_bytes: usize) -> Result<Bytes, InternalLogError> {
        let inner = self.inner.lock().unwrap();
        let mut bytes = BytesMut::new();
        for (base_offset, batch) in &inner.batches {
            let header = Header::parse(batch).unwrap();
            if base_offset + i64::from(header.last_offset_delta) >= from_offset && (bytes.is_empty() || bytes.len() + batch.len() <= max_bytes) {
                bytes.extend_from_slice(batch);
            }
        }
        Ok(bytes.freeze())
    }

    async fn append(&self, batch: Bytes) -> Result<i64, InternalLogError> {
        if !self.state.borrow().leader {
            return Err(InternalLogError::NotLeader);
        }
        let mut inner = self.inner.lock().unwrap();
        if let Some(error) = inner.errors.pop() {
            return Err(error);
        }
        let header = Header::whole(&batch).expect("a valid batch");
        let base_offset = inner.end_offset;
        let stored: Bytes = [&header.prefix(base_offset, 0)[..], &batch[PREFIX_BYTES..]].concat().into();
        inner.batches.push((base_offset, stored));
        inner.end_offset += i64::from(header.last_offset_delta) + 1;
        let end_offset = inner.end_offset;
        if !inner.held {
            self.state.send_modify(|state| state.high_watermark = end_offset);
        }
        Ok(end_offset)
    }

    async fn committed(&self, end_offset: i64) -> Result<(), InternalLogError> {
        let mut state = self.state.subscribe();
        let state = state.wait_for(|state| !state.leader || state.high_watermark >= end_offset).await.expect("the log outlives its users");
        if state.high_watermark >= end_offset { Ok(()) } else { Err(InternalLogError::NotLeader) }
    }
}
