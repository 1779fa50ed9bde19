//! The writer: the one task that appends to the coordination log and applies to the tree.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::op::{Command, ErrorCode, Failure, OperationResult, Request};
use super::storage::format::{ConfState, Entry, EntryKind, HardState, SnapshotMeta};
use super::storage::{Loaded, Storage, StorageError, remove_obsolete, write_snapshot};
use super::tree::{Applied, Tree};
use super::{Message, Options, Shared};
use crate::codec;
use crate::runtime::Runtime;

/// The Raft id of the only member.
const MEMBER: u64 = 1;

/// The most commands that share a sync.
const GROUP_COUNT: usize = 1024;

/// About the most bytes of commands that share a sync.
const GROUP_BYTES: usize = 4 << 20;

/// How long the log is idle before the commit index is written behind the last group. From then on damage to that group is known
/// to be rot; before, it could be the torn end of a write that nobody was told of.
const IDLE: Duration = Duration::from_millis(100);

type Answer = oneshot::Sender<Result<Vec<OperationResult>, Failure>>;

pub(super) struct Writer<R: Runtime> {
    rt: R,
    storage: Storage<R>,
    shared: Arc<Shared>,
    options: Options,
    term: u64,
    is_marked: bool,
    entries_since_snapshot: u64,
    bytes_since_snapshot: u64,
    last_snapshot_bytes: u64,
    snapshot: Option<oneshot::Receiver<Result<u64, StorageError>>>,
}

impl<R: Runtime> Writer<R> {
    /// Replays what was loaded and begins a new term, in which the sessions end that the process's earlier life had with itself.
    pub(super) async fn start(rt: R, storage: Storage<R>, loaded: Loaded, shared: Arc<Shared>, options: Options) -> Result<Self, StorageError> {
        if loaded.dropped_bytes > 0 {
            tracing::info!(dropped_bytes = loaded.dropped_bytes, "the end of the coordination log was never durable and was dropped");
        }
        let mut tree = loaded.snapshot.map_or_else(Tree::new, |(_, tree)| tree);
        let entries_since_snapshot = loaded.entries.len() as u64;
        for entry in &loaded.entries {
            let path = storage.dir().to_owned();
            let decoded = command(entry).map_err(|error| StorageError::Damaged {
                file: path,
                position: 0,
                reason: format!("entry {} of the log is intact and makes no sense: {error}", entry.index),
                remedy: "Start the version of Ottla that wrote it, and report this.".into(),
            })?;
            apply(&mut tree, decoded.as_ref(), entry.index);
        }
        let term = loaded.hard_state.term.max(storage.last_term()) + 1;
        let time_ms = rt.unix_ms();
        let sessions: Vec<i64> = tree.own_sessions().collect();
        let bytes_since_snapshot = storage.file_bytes();
        let mut writer =
            Self { rt, storage, shared, options, term, is_marked: true, entries_since_snapshot, bytes_since_snapshot, last_snapshot_bytes: 0, snapshot: None };
        let mut entries = vec![Entry { term, index: writer.storage.last_index() + 1, kind: EntryKind::Normal, data: Bytes::new() }];
        for session in sessions {
            let close = Command { session: 0, time_ms, request: Request::CloseSession { session } };
            let index = writer.storage.last_index() + 1 + entries.len() as u64;
            entries.push(Entry { term, index, kind: EntryKind::Normal, data: codec::encode(&close)?.into() });
        }
        writer.storage.append(&entries, Some(HardState { term, vote: MEMBER, commit: writer.storage.last_index() })).await?;
        for entry in &entries {
            apply(&mut tree, command(entry).expect("just encoded").as_ref(), entry.index);
        }
        *writer.shared.tree.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = tree;
        writer.is_marked = false;
        Ok(writer)
    }

    /// Serves proposals until all handles are gone or one asks to end; returns those to tell, once the directory is free. An error of the
    /// disk halts the process.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<Message>) -> Vec<oneshot::Sender<()>> {
        let mut shut_down = Vec::new();
        let mut open = true;
        while open && shut_down.is_empty() {
            let first = if self.is_marked {
                messages.recv().await
            } else {
                let idle = self.rt.sleep(IDLE);
                tokio::select! {
                    biased;
                    message = messages.recv() => message,
                    () = idle => {
                        self.mark().await;
                        continue;
                    }
                }
            };
            let mut group = Vec::new();
            let mut bytes = 0;
            let mut next = first;
            open = next.is_some();
            while let Some(message) = next.take() {
                match message {
                    Message::Propose { session, request, answer } => {
                        let command = Command { session, time_ms: self.rt.unix_ms(), request };
                        match codec::encode(&command) {
                            Ok(data) => {
                                bytes += data.len();
                                group.push((command, Bytes::from(data), answer));
                            }
                            Err(_) => drop(answer.send(Err(Failure::new(ErrorCode::MarshallingError, "")))),
                        }
                    }
                    Message::Shutdown { done } => {
                        shut_down.push(done);
                        break;
                    }
                }
                if group.len() < GROUP_COUNT && bytes < GROUP_BYTES {
                    next = messages.try_recv().ok();
                }
            }
            self.commit(group).await;
            self.snapshot_if_due().await;
        }
        self.mark().await;
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.await;
        }
        messages.close();
        while let Some(message) = messages.recv().await {
            match message {
                Message::Propose { answer, .. } => drop(answer), // Whoever waits is told that the connection is lost.
                Message::Shutdown { done } => shut_down.push(done),
            }
        }
        shut_down
    }

    /// Makes the group durable with one sync, applies it and answers.
    async fn commit(&mut self, group: Vec<(Command, Bytes, Answer)>) {
        if group.is_empty() {
            return;
        }
        let first_index = self.storage.last_index() + 1;
        let entries: Vec<Entry> = group
            .iter()
            .zip(first_index..)
            .map(|((_, data, _), index)| Entry { term: self.term, index, kind: EntryKind::Normal, data: data.clone() })
            .collect();
        let before = self.storage.file_bytes();
        let appended = self.storage.append(&entries, None).await;
        self.or_halt(appended).await;
        self.is_marked = false;
        self.entries_since_snapshot += entries.len() as u64;
        self.bytes_since_snapshot += self.storage.file_bytes() - before;
        let mut answers = Vec::with_capacity(group.len());
        {
            let mut tree = self.shared.tree.write().unwrap_or_else(|poisoned| poisoned.into_inner());
            for ((command, _, answer), index) in group.into_iter().zip(first_index..) {
                let applied = apply(&mut tree, Some(&command), index);
                self.shared.publish(zxid(index), &command.request, applied.events);
                answers.push((answer, applied.outcome));
            }
        }
        for (answer, outcome) in answers {
            let _ = answer.send(outcome); // The caller may have gone; the change stands.
        }
    }

    /// Writes down that everything so far is durable.
    async fn mark(&mut self) {
        if self.is_marked {
            return;
        }
        let hard_state = HardState { term: self.term, vote: MEMBER, commit: self.storage.last_index() };
        let marked = self.storage.append(&[], Some(hard_state)).await;
        self.or_halt(marked).await;
        self.is_marked = true;
    }

    /// Takes a snapshot if enough has been written since the last one. Only the change to a new log file holds up proposals; the
    /// snapshot is written beside them.
    async fn snapshot_if_due(&mut self) {
        if let Some(snapshot) = &mut self.snapshot {
            match snapshot.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(Ok(bytes)) => self.last_snapshot_bytes = bytes,
                // The log is whole without it. The next attempt comes after as many bytes again.
                Ok(Err(error)) => tracing::error!(%error, "the coordination snapshot could not be written; the log grows until one can"),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.snapshot = None;
        }
        let is_due = self.bytes_since_snapshot >= self.options.snapshot_every_bytes.max(self.last_snapshot_bytes)
            || self.entries_since_snapshot >= self.options.snapshot_every_entries;
        if !is_due && !self.rt.buggify("coordination-snapshot-early") {
            return;
        }
        let hard_state = HardState { term: self.term, vote: MEMBER, commit: self.storage.last_index() };
        let marked = self.storage.append(&[], Some(hard_state)).await;
        self.or_halt(marked).await;
        let rolled = self.storage.roll().await;
        self.or_halt(rolled).await;
        (self.entries_since_snapshot, self.bytes_since_snapshot) = (0, 0);
        let tree = self.shared.tree.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone();
        let meta = SnapshotMeta {
            index: self.storage.last_index(),
            term: self.storage.last_term(),
            conf_state: ConfState { voters: vec![MEMBER], learners: vec![] },
            last_zxid: tree.last_zxid(),
        };
        let (rt, dir, storage_id, kept) = (self.rt.clone(), self.storage.dir().to_owned(), self.storage.storage_id(), self.options.snapshots_kept_count);
        let (done, wait) = oneshot::channel();
        self.rt.spawn("coordination-snapshot", async move {
            let items = tree.items();
            drop(tree);
            let written = write_snapshot(&rt, &dir, storage_id, meta, items).await;
            if written.is_ok()
                && let Err(error) = remove_obsolete(&rt, &dir, kept).await
            {
                tracing::warn!(%error, "an obsolete coordination file could not be removed");
            }
            let _ = done.send(written);
        });
        self.snapshot = Some(wait);
    }

    fn or_halt(&self, result: Result<(), StorageError>) -> impl Future<Output = ()> + Send + use<R> {
        let rt = self.rt.clone();
        async move {
            if let Err(error) = result {
                let never: Infallible = rt.halt(&format!("the coordination log cannot be written: {error}")).await;
                match never {}
            }
        }
    }
}

/// The command in an entry; none in the empty entry that begins a term.
fn command(entry: &Entry) -> Result<Option<Command>, codec::DecodeError> {
    match entry.kind {
        EntryKind::Normal if !entry.data.is_empty() => codec::decode(&entry.data).map(Some),
        _ => Ok(None),
    }
}

/// Applies the entry `index`; without a command it only counts.
fn apply(tree: &mut Tree, command: Option<&Command>, index: u64) -> Applied {
    match command {
        Some(command) => tree.apply(command, zxid(index)),
        None => {
            tree.skip(zxid(index));
            Applied { outcome: Ok(Vec::new()), events: Vec::new() }
        }
    }
}

/// A transaction is named by its entry.
fn zxid(index: u64) -> i64 {
    i64::try_from(index).expect("2^63 entries are never written")
}
