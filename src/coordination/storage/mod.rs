//! The coordination log on disk: entries and hard state in framed log files, the tree in snapshots. Made so that Raft can take a
//! directory over: entries have terms and indexes, a later entry of an index replaces the earlier one.
//!
//! Rules:
//! - [`Storage::append`] returns when its bytes are durable. After an error it refuses all further work: the caller must halt.
//! - A new file is written under a temporary name, synced, renamed, and its directory synced, before anything depends on it. A failed sync of the directory
//!   is final as that of a file is: the process halts, and the next start makes the file again before it counts.
//! - Opening takes the newest snapshot and the log after it. An end that was never durable is dropped. Everything else that is missing
//!   or damaged is refused with the file's name and with what to do; nothing is ever skipped.

pub mod format;
mod load;
mod reader;
mod snapshot;

use std::io;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use serde::Serialize;

use self::format::{
    Entry, FORMAT, HardState, Identity, LogHead, Placed, RECEIVED_PREFIX, Roll, SnapshotMeta, SnapshotState, TEMPORARY_SUFFIX, kind, log_name, snapshot_name,
};
use self::snapshot::write_named;
use super::tree::{Items, Tree};
use crate::codec::{self, EncodeError};
use crate::plant;
use crate::runtime::{Disk, File, Open, Runtime};

pub use self::load::{copy, is_empty, open, open_as};
pub use self::snapshot::{read_snapshot_file, remove_obsolete, write_snapshot, write_snapshot_file};

/// Why the coordination log cannot be opened or written. Every message says which file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The operating system refused.
    #[error("cannot {what} '{path}': {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Another process has the directory.
    #[error(
        "the coordination directory '{dir}' is in use by another process; stop that one, or give this one another directory ('log.dirs' of a broker, 'dataDir' of a coordinator)"
    )]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// A file was durable and is not what was written.
    #[error("'{file}' is damaged at byte {position}: {reason}. {remedy}")]
    Damaged {
        /// The file.
        file: PathBuf,
        /// Where the damage begins.
        position: u64,
        /// What is wrong.
        reason: String,
        /// What to do.
        remedy: String,
    },
    /// A file that must exist does not.
    #[error("'{file}' is missing ({evidence}). {remedy}")]
    Missing {
        /// The file.
        file: PathBuf,
        /// How that is known.
        evidence: String,
        /// What to do.
        remedy: String,
    },
    /// The directory belongs to a member of an ensemble, and is opened as one that is alone.
    #[error(
        "the coordination directory '{dir}' belongs to a member of an ensemble ({others}); name its servers with 'server.N', or, if the others \
         are lost for good, have this member go on alone"
    )]
    NotAlone {
        /// The directory.
        dir: PathBuf,
        /// Where its members are.
        others: String,
    },
    /// A newer Ottla wrote the file.
    #[error("'{file}' has format version {version}, and this Ottla reads up to {FORMAT}; start the Ottla that wrote it, or a newer one")]
    NewerFormat {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u16,
    },
    /// The file belongs to another directory.
    #[error("'{file}' belongs to another coordination directory (storage id {found:016x}, not {expected:016x}); move it back to where it came from")]
    Foreign {
        /// The file.
        file: PathBuf,
        /// The storage id in it.
        found: u64,
        /// The storage id of the other files.
        expected: u64,
    },
    /// A record is too large.
    #[error("a coordination record cannot be stored: {0}")]
    Encode(#[from] EncodeError),
    /// An earlier write or sync failed.
    #[error("the coordination log '{file}' had an error before; what it holds since then is unknown, and this process must not go on")]
    Failed {
        /// The file.
        file: PathBuf,
    },
}

impl StorageError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// What a directory held when it was opened.
#[derive(Debug)]
pub struct Loaded {
    /// The newest snapshot, if there is one: what it stands for, its tree and what is replicated beside it.
    pub snapshot: Option<(SnapshotMeta, Tree, SnapshotState)>,
    /// The entries after the snapshot, without gaps.
    pub entries: Vec<Entry>,
    /// The last hard state.
    pub hard_state: HardState,
    /// Whose directory it is; none if that of a member that was always alone.
    pub identity: Option<Identity>,
    /// How many bytes of an end that was never durable were dropped.
    pub dropped_bytes: u64,
}

/// The open log: where the next record goes.
pub struct Storage<R: Runtime> {
    rt: R,
    dir: PathBuf,
    storage_id: u64,
    file: <R::Disk as Disk>::File,
    file_first_index: u64,
    position: u64,
    durable_position: u64,
    last_index: u64,
    last_term: u64,
    hard_state: HardState,
    identity: Option<Identity>,
    failed: bool,
}

impl<R: Runtime> Storage<R> {
    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The id that all files of the directory carry.
    pub fn storage_id(&self) -> u64 {
        self.storage_id
    }

    /// The last hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// The term of the last entry; 0 if there was never one.
    pub fn last_term(&self) -> u64 {
        self.last_term
    }

    /// The index of the last entry; 0 if there was never one.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The length of the current log file in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.position
    }

    fn path(&self) -> PathBuf {
        self.dir.join(log_name(self.file_first_index))
    }

    /// Appends `entries` and then `hard_state` with one write and one sync. When it returns `Ok`, all of it is durable.
    ///
    /// # Errors
    /// [`StorageError`]; after any but [`StorageError::Encode`] the caller must halt the process.
    ///
    /// # Panics
    /// If the entries leave a gap in indexes, or go back in terms while they follow each other.
    pub async fn append(&mut self, entries: &[Entry], hard_state: Option<HardState>) -> Result<(), StorageError> {
        let mut bytes = BytesMut::new();
        let (mut last_index, mut last_term) = (self.last_index, self.last_term);
        for entry in entries {
            assert!(entry.index > 0 && entry.index <= last_index + 1, "entry {} leaves a gap after {last_index}", entry.index);
            // One that replaces may be of an older term than what it replaces: an entry that a deposed leader alone had, in a term after it.
            let follows = entry.index == last_index + 1;
            assert!(!follows || entry.term >= last_term, "entry {} goes back from term {last_term} to {}", entry.index, entry.term);
            self.encode(&mut bytes, kind::ENTRY, entry)?;
            (last_index, last_term) = (entry.index, entry.term);
        }
        if let Some(hard_state) = &hard_state {
            self.encode(&mut bytes, kind::HARD_STATE, hard_state)?;
        }
        self.write_and_sync(bytes).await?;
        (self.last_index, self.last_term) = (last_index, last_term);
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        Ok(())
    }

    fn encode<T: Serialize>(&self, bytes: &mut BytesMut, kind: u8, record: &T) -> Result<(), EncodeError> {
        let position = self.position + bytes.len() as u64;
        codec::write_frame(bytes, FORMAT, kind, &Placed { position, durable_before: self.durable_position, record }).map(drop)
    }

    async fn write_and_sync(&mut self, bytes: BytesMut) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::Failed { file: self.path() });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let end = self.position + bytes.len() as u64;
        // Failed until both have succeeded: also if this future is dropped between them.
        self.failed = true;
        let path = self.path();
        let parts = [bytes.freeze()].into_iter().collect();
        if plant!(&self.rt, "znode-ack-before-sync") {
            self.file.write_at(self.position, parts).await.map_err(StorageError::io("write to", &path))?;
        } else {
            self.file.write_at_and_sync(self.position, parts).await.map_err(StorageError::io("write to, or sync,", &path))?;
        }
        self.failed = false;
        (self.position, self.durable_position) = (end, end);
        Ok(())
    }

    /// Goes on in a new file, whose first entry will be the next one.
    ///
    /// # Errors
    /// [`StorageError`]; the caller must halt the process.
    pub async fn roll(&mut self) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::Failed { file: self.path() });
        }
        let next_file = self.last_index + 1;
        if next_file <= self.file_first_index {
            return Ok(()); // Nothing but hard states, or entries that replace those of the file before, is in this file: it serves as well.
        }
        self.failed = true;
        let head = LogHead {
            storage_id: self.storage_id,
            first_index: next_file,
            previous_term: self.last_term,
            previous_file: Some(self.file_first_index),
            hard_state: self.hard_state,
        };
        let (file, len) = create_log(&self.rt, &self.dir, &head, self.identity.as_ref()).await?;
        self.failed = false;
        // Only now may this file's end name the next one: whoever reads the name finds the file, or knows that it was lost.
        self.write_and_sync(roll_frame(self.position, next_file)?).await?;
        self.file = file;
        self.file_first_index = next_file;
        (self.position, self.durable_position) = (len, len);
        Ok(())
    }

    /// The files made from now on belong to `identity`.
    pub fn set_identity(&mut self, identity: Identity) {
        self.identity = Some(identity);
    }

    /// Replaces the whole log by a snapshot that another member sent: writes it, and goes on in a new file whose first entry follows it. When
    /// it returns `Ok`, both are durable. After a crash in between, [`open`] finds either the old log or the new one.
    ///
    /// # Errors
    /// [`StorageError`]; the caller must halt the process.
    pub async fn install(&mut self, meta: SnapshotMeta, state: &SnapshotState, items: Items, hard_state: HardState) -> Result<(), StorageError> {
        if self.failed {
            return Err(StorageError::Failed { file: self.path() });
        }
        self.failed = true;
        let (index, term) = (meta.index, meta.term);
        let received = format!("{RECEIVED_PREFIX}{}", snapshot_name(index));
        write_named(&self.rt, &self.dir, &received, self.storage_id, meta, state, items).await?;
        // From here on the new log stands, with all that this member promised: a file of that name among the old ones is replaced.
        let head = LogHead { storage_id: self.storage_id, first_index: index + 1, previous_term: term, previous_file: None, hard_state };
        let (file, len) = create_log(&self.rt, &self.dir, &head, self.identity.as_ref()).await?;
        finish_installation(&self.rt, &self.dir, index).await?;
        self.file = file;
        self.file_first_index = index + 1;
        (self.position, self.durable_position) = (len, len);
        (self.last_index, self.last_term, self.hard_state) = (index, term, hard_state);
        self.failed = false;
        Ok(())
    }
}

/// Removes the log files of entries that a received snapshot replaced and that a scan would take for what follows it, and gives it its name.
async fn finish_installation<R: Runtime>(rt: &R, dir: &Path, index: u64) -> Result<(), StorageError> {
    let (_, logs) = load::list(rt, dir).await?;
    for stale in logs.into_iter().rev().filter(|first_index| *first_index > index + 1) {
        let path = dir.join(log_name(stale));
        rt.disk().remove_file(&path).await.map_err(StorageError::io("remove", &path))?;
    }
    let received = dir.join(format!("{RECEIVED_PREFIX}{}", snapshot_name(index)));
    // The removals first: a snapshot with its name is one that is complete.
    rt.disk().sync_dir(dir).await.map_err(StorageError::io("sync the directory", dir))?;
    rt.disk().rename(&received, &dir.join(snapshot_name(index))).await.map_err(StorageError::io("rename", &received))?;
    rt.disk().sync_dir(dir).await.map_err(StorageError::io("sync the directory", dir))
}

/// The frame that ends a log file at `position`, all before it being durable.
fn roll_frame(position: u64, next_file: u64) -> Result<BytesMut, EncodeError> {
    let mut bytes = BytesMut::new();
    codec::write_frame(&mut bytes, FORMAT, kind::ROLL, &Placed { position, durable_before: position, record: Roll { next_file } })?;
    Ok(bytes)
}

/// Makes a log file that holds its head and whose it is, durably; returns it and its length.
async fn create_log<R: Runtime>(rt: &R, dir: &Path, head: &LogHead, identity: Option<&Identity>) -> Result<(<R::Disk as Disk>::File, u64), StorageError> {
    let mut bytes = BytesMut::new();
    codec::write_frame(&mut bytes, FORMAT, kind::LOG_HEAD, head)?;
    if let Some(record) = identity {
        let position = bytes.len() as u64;
        codec::write_frame(&mut bytes, FORMAT, kind::IDENTITY, &Placed { position, durable_before: 0, record })?;
    }
    let len = bytes.len() as u64;
    Ok((put_log(rt, dir, head.first_index, bytes.freeze()).await?, len))
}

/// Makes the log file of that first index with that content, durably; one that is there is replaced.
async fn put_log<R: Runtime>(rt: &R, dir: &Path, first_index: u64, bytes: Bytes) -> Result<<R::Disk as Disk>::File, StorageError> {
    let path = dir.join(log_name(first_index));
    let temporary = dir.join(format!("{}{TEMPORARY_SUFFIX}", log_name(first_index)));
    let disk = rt.disk();
    let file = disk.open(&temporary, Open::Create).await.map_err(StorageError::io("create", &temporary))?;
    file.set_len(0).await.map_err(StorageError::io("empty", &temporary))?;
    file.write_at(0, [bytes].into_iter().collect()).await.map_err(StorageError::io("write to", &temporary))?;
    file.sync_data().await.map_err(StorageError::io("sync", &temporary))?;
    disk.rename(&temporary, &path).await.map_err(StorageError::io("rename", &temporary))?;
    disk.sync_dir(dir).await.map_err(StorageError::io("sync the directory", dir))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
