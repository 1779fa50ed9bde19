//! What the server counts: for the four-letter words.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Frames and latencies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Frames that came in.
    pub(super) received: u64,
    /// Frames that went out.
    pub(super) sent: u64,
    /// Requests that are worked on.
    pub(super) outstanding: u64,
    /// Requests that were answered, pings and events not counted.
    pub(super) answered: u64,
    /// The sum of their latencies in milliseconds.
    pub(super) latency_sum_ms: u64,
    /// The least of them.
    pub(super) latency_min_ms: Option<u64>,
    /// The greatest.
    pub(super) latency_max_ms: u64,
}

impl Counts {
    /// A request was answered after so long.
    pub(super) fn answer(&mut self, latency_ms: u64) {
        self.answered += 1;
        self.latency_sum_ms += latency_ms;
        self.latency_min_ms = Some(self.latency_min_ms.map_or(latency_ms, |min| min.min(latency_ms)));
        self.latency_max_ms = self.latency_max_ms.max(latency_ms);
    }

    /// The mean latency in milliseconds.
    pub(super) fn latency_mean_ms(&self) -> f64 {
        if self.answered == 0 { 0.0 } else { self.latency_sum_ms as f64 / self.answered as f64 }
    }

    /// Begins anew; what is under way still is.
    pub(super) fn reset(&mut self) {
        *self = Self { outstanding: self.outstanding, ..Self::default() };
    }
}

/// What is counted of the server.
#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<Counts>);

impl Stats {
    pub(super) fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known {
    pub(super) counts: Counts,
    /// Its session; 0 before it has one.
    pub(super) session: i64,
    /// That session's time-out in milliseconds.
    pub(super) timeout_ms: i32,
    /// The xid of its last request.
    pub(super) last_xid: i32,
    /// The zxid of the last answer.
    pub(super) last_zxid: i64,
    /// The kind of its last request.
    pub(super) last_opcode: Option<i32>,
    /// When it was answered last, on the wall clock, and how long that took, in milliseconds.
    pub(super) last_answer_ms: i64,
    pub(super) last_latency_ms: u64,
}

/// A connection, as others see it.
#[derive(Debug)]
pub(super) struct ConnectionStats {
    pub(super) peer: SocketAddr,
    /// When it came, on the wall clock, in milliseconds since 1970.
    pub(super) established_ms: i64,
    known: Mutex<Known>,
}

impl ConnectionStats {
    pub(super) fn new(peer: SocketAddr, established_ms: i64) -> Self {
        Self { peer, established_ms, known: Mutex::default() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
