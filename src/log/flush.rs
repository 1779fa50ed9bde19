//! Group commit: who syncs which log when.
//!
//! An append marks its log dirty and goes on. A flusher takes a dirty log, notes its end, syncs, and publishes that end as durable;
//! appends that arrive meanwhile mark the log again and share the next sync. Each log directory has a few flushers, so that the syncs of
//! different files overlap; a log is with at most one of them. When more logs are dirty than [`FlushPolicy::sync_filesystem_above`],
//! one sync of the whole file system serves them all.
//!
//! A sync that fails is final: nothing of the log directory is acknowledged any more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use super::Log;
use super::dir::LogDir;
use super::partition_log::WeakLog;
use crate::plant;
use crate::runtime::{Disk, File, Runtime};

/// How a log directory's syncs are scheduled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlushPolicy {
    /// Flushers per log directory.
    pub flushers: usize,
    /// With more dirty logs than this, one sync of the file system instead of one per file.
    pub sync_filesystem_above: usize,
}

impl Default for FlushPolicy {
    fn default() -> Self {
        // The figures are in docs/flush.md: eight flushers keep a thousand busy partitions at the latency of one, and one sync of the file system,
        // though cheaper for many files, waits for whatever else is written there.
        Self { flushers: 8, sync_filesystem_above: usize::MAX }
    }
}

impl FlushPolicy {
    /// How many of so many dirty logs one flusher takes at once: one, to sync its file, or all, to sync the file system.
    fn take(&self, dirty: usize) -> usize {
        if dirty > self.sync_filesystem_above { dirty } else { dirty.min(1) }
    }
}

/// Where a log is between an append and its sync.
#[derive(Debug, Default)]
pub(super) struct FlushState(AtomicU8);

const CLEAN: u8 = 0;
const QUEUED: u8 = 1;
const SYNCING: u8 = 2;
const SYNCING_AND_DIRTY: u8 = 3;

impl FlushState {
    /// Whether the log must be queued now.
    fn mark(&self) -> bool {
        let marked = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| match state {
            CLEAN => Some(QUEUED),
            SYNCING => Some(SYNCING_AND_DIRTY),
            _ => None,
        });
        marked == Ok(CLEAN)
    }

    fn begin(&self) {
        self.0.store(SYNCING, Ordering::Release);
    }

    /// Whether the log must be queued again.
    fn end(&self) -> bool {
        let ended = self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| Some(if state == SYNCING_AND_DIRTY { QUEUED } else { CLEAN }));
        ended == Ok(SYNCING_AND_DIRTY)
    }
}

/// Dirty logs in the order in which they became so. They are the manager's: a queue that kept them would keep itself.
pub(super) struct FlushQueue<R: Runtime> {
    dirty: Mutex<VecDeque<WeakLog<R>>>,
    wake: Notify,
    closed: AtomicBool,
}

impl<R: Runtime> Default for FlushQueue<R> {
    fn default() -> Self {
        Self { dirty: Mutex::default(), wake: Notify::new(), closed: AtomicBool::new(false) }
    }
}

impl<R: Runtime> FlushQueue<R> {
    /// Has the log synced soon.
    pub(super) fn mark(&self, log: &Log<R>) {
        if log.flush_state().mark() {
            self.push(log);
        }
    }

    fn push(&self, log: &Log<R>) {
        self.dirty.lock().expect("no panic holds it").push_back(log.downgrade());
        self.wake.notify_one();
    }

    fn take(&self, policy: &FlushPolicy) -> Vec<Log<R>> {
        let mut dirty = self.dirty.lock().expect("no panic holds it");
        loop {
            let take = policy.take(dirty.len());
            let logs: Vec<Log<R>> = dirty.drain(..take).filter_map(|log| log.upgrade()).collect();
            if take == 0 || !logs.is_empty() {
                return logs;
            }
        }
    }

    /// Ends the flushers once the queue is empty.
    pub(super) fn close(&self, flushers: usize) {
        self.closed.store(true, Ordering::Release);
        self.wake.notify_waiters();
        (0..flushers).for_each(|_| self.wake.notify_one());
    }
}

/// Starts a directory's flushers.
pub(super) fn spawn_flushers<R: Runtime>(dir: &Arc<LogDir<R>>, policy: FlushPolicy) -> Vec<R::Task<()>> {
    (0..policy.flushers.max(1)).map(|_| dir.rt.spawn("log-flusher", run_flusher(dir.clone(), policy))).collect()
}

async fn run_flusher<R: Runtime>(dir: Arc<LogDir<R>>, policy: FlushPolicy) {
    loop {
        let logs = dir.queue.take(&policy);
        match &logs[..] {
            [] if dir.queue.closed.load(Ordering::Acquire) => {
                // One permit is remembered at most: hand it on.
                dir.queue.wake.notify_one();
                return;
            }
            [] => dir.queue.wake.notified().await,
            [log] => flush_file(&dir, log).await,
            _ => flush_file_system(&dir, &logs).await,
        }
    }
}

/// Syncs one log's files.
async fn flush_file<R: Runtime>(dir: &Arc<LogDir<R>>, log: &Log<R>) {
    log.flush_state().begin();
    if dir.rt.buggify("log.flush.slow") {
        dir.rt.sleep(Duration::from_millis(1 + dir.rt.random_u64() % 500)).await;
    }
    if dir.failure().is_none() {
        let _one_at_a_time = log.flush_lock().lock().await;
        let work = log.flush_work();
        if plant!(&dir.rt, "ack-before-fsync") {
            log.publish_durable_end(work.end_offset);
        }
        let mut ok = true;
        for (path, file) in &work.files {
            let mut result = file.sync_data().await;
            if result.is_err() && plant!(&dir.rt, "retry-failed-fsync") {
                result = file.sync_data().await;
            }
            if let Err(error) = result {
                dir.fail("sync", path, &error).await;
                ok = false;
                break;
            }
        }
        if ok && sync_new_names(dir, log).await {
            finish(log, work.end_offset);
        }
    }
    if log.flush_state().end() {
        dir.queue.push(log);
    }
}

/// Syncs many logs by one sync of their file system.
async fn flush_file_system<R: Runtime>(dir: &Arc<LogDir<R>>, logs: &[Log<R>]) {
    for log in logs {
        log.flush_state().begin();
    }
    if dir.failure().is_none() {
        let mut guards = Vec::with_capacity(logs.len());
        for log in logs {
            guards.push(log.flush_lock().lock().await);
        }
        let ends: Vec<i64> = logs.iter().map(|log| log.flush_work().end_offset).collect();
        if plant!(&dir.rt, "ack-before-fsync") {
            logs.iter().zip(&ends).for_each(|(log, end)| log.publish_durable_end(*end));
        }
        match dir.rt.disk().sync_filesystem(&dir.path).await {
            Ok(()) => {
                for (log, end_offset) in logs.iter().zip(ends) {
                    if !sync_new_names(dir, log).await {
                        break;
                    }
                    finish(log, end_offset);
                }
            }
            Err(error) => dir.fail("sync of the file system", &dir.path, &error).await,
        }
    }
    for log in logs {
        if log.flush_state().end() {
            dir.queue.push(log);
        }
    }
}

/// Syncs the partition's directory if a segment was made since: what is in a file without a name is lost with it.
async fn sync_new_names<R: Runtime>(dir: &Arc<LogDir<R>>, log: &Log<R>) -> bool {
    if !log.take_new_names() || plant!(&dir.rt, "skip-dir-sync-on-roll") {
        return true;
    }
    let result = dir.rt.disk().sync_dir(log.path()).await;
    if let Err(error) = &result {
        dir.fail("sync of the directory", log.path(), error).await;
    }
    result.is_ok()
}

/// The log is durable up to `end_offset`: tells those who wait, and lets due checkpoints be written.
fn finish<R: Runtime>(log: &Log<R>, end_offset: i64) {
    if log.check_online().is_err() {
        // What is left of it is unknown, less than it was if a truncation failed: a recovery point that says more keeps it offline for ever.
        return;
    }
    log.publish_durable_end(end_offset);
    log.start_due_checkpoints();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn appends_during_a_sync_share_the_next() {
        let state = FlushState::default();
        assert!(state.mark() && !state.mark());
        state.begin();
        assert!(!state.mark() && !state.mark());
        assert!(state.end(), "queued again");
        assert!(!state.mark(), "is queued");
        state.begin();
        assert!(!state.end());
        assert!(state.mark());
    }

    #[test]
    fn many_dirty_logs_share_one_sync() {
        let policy = FlushPolicy { flushers: 2, sync_filesystem_above: 3 };
        assert_eq!((policy.take(0), policy.take(1), policy.take(3), policy.take(4)), (0, 1, 1, 4));
    }
}
