//! The node and its disk: what is written together, what waits for it, and when a snapshot takes the place of the log.

use tokio::sync::oneshot;

use super::super::consensus::{Consensus, Work};
use super::{Batch, Flushed, GROUP_BYTES, GROUP_COUNT, Job, Node, write};
use crate::coordination::storage::format::SnapshotMeta;
use crate::coordination::storage::{remove_obsolete, write_snapshot};
use crate::plant;
use crate::runtime::Runtime;

impl<R: Runtime, C: Consensus> Node<R, C> {
    /// Starts to write what waits, if nothing is being written.
    pub(super) fn start_flush(&mut self) {
        if self.flush.is_some() {
            return;
        }
        // What has no more news than a commit index waits for nothing, now that all before it is durable.
        while let Some(job) = self.jobs.front_mut().filter(|job| job.snapshot.is_none() && job.work.is_lazy()) {
            let number = job.work.number;
            let messages = std::mem::take(&mut job.work.messages_after);
            let hard_state = job.work.hard_state;
            if number == 0 {
                break; // The log is idle: it is written after all.
            }
            self.jobs.pop_front();
            self.lazy_hard_state = hard_state.or(self.lazy_hard_state);
            messages.into_iter().for_each(|message| self.send(message));
            self.core.persisted(number);
        }
        if self.jobs.is_empty() && !self.wants_roll {
            return;
        }
        let Some(mut storage) = self.storage.take() else { return };
        let roll = std::mem::take(&mut self.wants_roll);
        let mut batch = Batch { number: 0, snapshot: None, entries: Vec::new(), hard_state: self.lazy_hard_state.take(), messages: Vec::new(), roll };
        let mut bytes = 0;
        for count in 0.. {
            // A snapshot replaces what is before it: it begins a batch.
            let fits = count == 0 || (count < GROUP_COUNT && bytes < GROUP_BYTES && self.jobs.front().is_some_and(|job| job.snapshot.is_none()));
            let Some(Job { mut work, snapshot }) = (if fits { self.jobs.pop_front() } else { None }) else { break };
            batch.number = batch.number.max(work.number);
            batch.snapshot = batch.snapshot.or(snapshot);
            bytes += work.entries.iter().map(|entry| entry.data.len() + 64).sum::<usize>();
            batch.entries.append(&mut work.entries);
            batch.hard_state = work.hard_state.or(batch.hard_state);
            batch.messages.append(&mut work.messages_after);
        }
        if plant!(&self.rt, "vote-not-persisted")
            && let Some(hard_state) = &mut batch.hard_state
        {
            hard_state.vote = 0;
        }
        self.flush = Some(Box::pin(async move {
            let written = write(&mut storage, &batch).await;
            (storage, batch, written)
        }));
    }

    pub(super) async fn flushed(&mut self, (storage, batch, written): Flushed<R>) {
        self.flush = None;
        if let Err(error) = written
            && !plant!(&self.rt, "go-on-after-failed-write")
        {
            self.halt(&format!("the coordination log cannot be written: {error}")).await;
        }
        let bytes = storage.file_bytes();
        self.storage = Some(storage);
        self.bytes_since_snapshot = bytes;
        self.entries_since_snapshot += batch.entries.len() as u64;
        if let Some((meta, state, tree)) = batch.snapshot {
            self.replace_state(&meta, &state, tree);
            self.core.persisted(batch.number);
            self.core.applied(meta.index);
        } else if batch.number > 0 {
            self.core.persisted(batch.number);
        }
        for message in batch.messages {
            self.send(message);
        }
        if batch.roll {
            self.write_snapshot();
        }
    }

    /// The commit index goes behind what is durable.
    pub(super) fn write_lazily(&mut self) {
        if let Some(hard_state) = self.lazy_hard_state.take() {
            let work = Work { hard_state: Some(hard_state), ..Work::default() };
            self.jobs.push_back(Job { work, snapshot: None });
        }
    }

    /// Has a snapshot taken if enough has been written since the last one. Only the change to a new log file holds up what is written; the snapshot
    /// is written beside.
    pub(super) fn snapshot_if_due(&mut self) {
        if let Some(snapshot) = &mut self.snapshot {
            match snapshot.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(Ok((bytes, index))) => {
                    self.last_snapshot_bytes = bytes;
                    self.core.compact(index.saturating_sub(self.options.trailing_entries));
                }
                // The log is whole without it. The next attempt comes after as many bytes again.
                Ok(Err(error)) => tracing::error!(%error, "the coordination snapshot could not be written; the log grows until one can"),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.snapshot = None;
        }
        let is_due = self.bytes_since_snapshot >= self.options.snapshot_every_bytes.max(self.last_snapshot_bytes)
            || self.entries_since_snapshot >= self.options.snapshot_every_entries;
        if !std::mem::take(&mut self.has_changed)
            || self.wants_roll
            || self.entries_since_snapshot == 0
            || self.replicated.applied.0 == 0
            || !(is_due || self.rt.buggify("coordination-snapshot-early"))
        {
            return;
        }
        self.wants_roll = true;
        self.start_flush();
    }

    /// Writes a snapshot of the state as it is now; the log goes on in a new file already.
    pub(super) fn write_snapshot(&mut self) {
        if self.snapshot.is_some() {
            return;
        }
        (self.entries_since_snapshot, self.bytes_since_snapshot) = (0, 0);
        let tree = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let (index, term) = self.replicated.applied;
        let meta = SnapshotMeta { index, term, conf_state: self.core.applied_conf_state().clone(), last_zxid: tree.last_zxid() };
        let state = self.replicated.to_snapshot();
        let Some(storage) = &self.storage else { return };
        let (rt, dir, storage_id, kept) = (self.rt.clone(), storage.dir().to_owned(), storage.storage_id(), self.options.snapshots_kept_count);
        let (done, wait) = oneshot::channel();
        self.rt.spawn("coordination-snapshot", async move {
            let items = tree.items();
            drop(tree);
            let written = write_snapshot(&rt, &dir, storage_id, meta, &state, items).await;
            if written.is_ok()
                && let Err(error) = remove_obsolete(&rt, &dir, kept).await
            {
                tracing::warn!(%error, "an obsolete coordination file could not be removed");
            }
            let _ = done.send(written.map(|bytes| (bytes, index)));
        });
        self.snapshot = Some(wait);
    }
}
