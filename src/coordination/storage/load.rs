//! Opens a coordination directory: the newest snapshot, the log after it, and the judgement of what is missing or damaged.

use std::path::{Path, PathBuf};

use super::format::{
    Entry, FORMAT, HardState, Identity, LogHead, Placed, RECEIVED_PREFIX, Roll, TEMPORARY_SUFFIX, kind, log_index, log_name, snapshot_index, snapshot_name,
};
use super::reader::{FrameReader, Next};
use super::snapshot::read_snapshot;
use super::{Loaded, Storage, StorageError, create_log, finish_installation, put_log, roll_frame};
use crate::codec::Frame;
use crate::plant;
use crate::runtime::{Disk, File, Open, Runtime, rewrite};

/// What to do when no other file can make up for the one that is gone.
const RESTORE: &str = "Restore it from a backup of the directory. Without one, the directory is lost: move it away, and the topics in \
                       'log.dirs' must be created again.";

/// The indexes of the snapshots and the first indexes of the log files, each ascending.
pub(super) async fn list<R: Runtime>(rt: &R, dir: &Path) -> Result<(Vec<u64>, Vec<u64>), StorageError> {
    let names = rt.disk().list(dir).await.map_err(StorageError::io("list", dir))?;
    let files = || names.iter().filter(|entry| !entry.is_dir).map(|entry| entry.name.as_str());
    // Names of fixed width ascend as their numbers do.
    Ok((files().filter_map(snapshot_index).collect(), files().filter_map(log_index).collect()))
}

/// Whether `dir` holds nothing of a log yet; also if it does not exist.
///
/// # Errors
/// [`StorageError::Io`].
pub async fn is_empty<R: Runtime>(rt: &R, dir: &Path) -> Result<bool, StorageError> {
    rt.disk().create_dir(dir).await.map_err(StorageError::io("create the directory", dir))?;
    let (snapshots, logs) = list(rt, dir).await?;
    Ok(snapshots.is_empty() && logs.is_empty())
}

/// Copies the log in `from` to `dir`, durably.
///
/// # Errors
/// [`StorageError::Io`].
pub async fn copy<R: Runtime>(rt: &R, from: &Path, dir: &Path) -> Result<(), StorageError> {
    const CHUNK_BYTES: u64 = 1 << 20;
    let (snapshots, logs) = list(rt, from).await?;
    let disk = rt.disk();
    disk.create_dir(dir).await.map_err(StorageError::io("create the directory", dir))?;
    // Snapshots first: with a log file but without the snapshot before it, a copy that was broken off is refused.
    for name in snapshots.into_iter().map(snapshot_name).chain(logs.into_iter().map(log_name)) {
        let (source_path, path) = (from.join(&name), dir.join(&name));
        let source = disk.open(&source_path, Open::Read).await.map_err(StorageError::io("open", &source_path))?;
        let len = source.len().await.map_err(StorageError::io("read", &source_path))?;
        let target = disk.open(&path, Open::Create).await.map_err(StorageError::io("create", &path))?;
        let mut position = 0;
        while position < len {
            let bytes = source.read_at(position, (len - position).min(CHUNK_BYTES) as usize).await.map_err(StorageError::io("read", &source_path))?;
            let count = bytes.len() as u64;
            target.write_at(position, [bytes].into_iter().collect()).await.map_err(StorageError::io("write to", &path))?;
            position += count;
        }
        target.sync_data().await.map_err(StorageError::io("sync", &path))?;
    }
    disk.sync_dir(dir).await.map_err(StorageError::io("sync the directory", dir))
}

/// [`open_as`] for a member that is alone.
///
/// # Errors
/// As there.
pub async fn open<R: Runtime>(rt: R, dir: &Path) -> Result<(Storage<R>, Loaded), StorageError> {
    open_as(rt, dir, None).await
}

/// Opens the log in `dir`, which is made if it does not exist, then as the log of `new`; returns it with all that it held. When this returns,
/// all of that is durable. Only one process may do so at a time: the caller holds a lock.
///
/// # Errors
/// [`StorageError`], naming the file and what to do.
pub async fn open_as<R: Runtime>(rt: R, dir: &Path, new: Option<(u64, Identity)>) -> Result<(Storage<R>, Loaded), StorageError> {
    let disk = rt.disk();
    disk.create_dir(dir).await.map_err(StorageError::io("create the directory", dir))?;
    for entry in disk.list(dir).await.map_err(StorageError::io("list", dir))? {
        if !entry.is_dir && entry.name.ends_with(TEMPORARY_SUFFIX) {
            let path = dir.join(&entry.name);
            disk.remove_file(&path).await.map_err(StorageError::io("remove", &path))?;
        }
    }
    settle_received(&rt, dir).await?;
    let (snapshots, logs) = list(&rt, dir).await?;
    if snapshots.is_empty() && logs.is_empty() {
        return create(rt, dir, new).await;
    }
    if let Some(&newest) = logs.last() {
        make_sure_of(&rt, dir, newest).await?;
    }
    let snapshot = match snapshots.last() {
        Some(&index) => Some(read_snapshot(&rt, dir, index, &snapshot_remedy(&snapshots, &logs)).await?),
        None => None,
    };
    let snapshot_last = snapshot.as_ref().map_or(0, |(head, ..)| head.meta.index);
    let Some(first) = logs.iter().rposition(|&first_index| first_index <= snapshot_last + 1) else {
        return Err(first_log_missing(&rt, dir, snapshots.last().copied(), logs.first().copied()).await?);
    };
    let mut scan = Scan {
        storage_id: snapshot.as_ref().map(|(head, ..)| head.storage_id),
        snapshot_last,
        entries: Vec::new(),
        hard_state: HardState::default(),
        identity: None,
        last_index: 0,
        last_term: 0,
        rolled_to: None,
        keeps_replaced: plant!(&rt, "replaced-entry-returns"),
    };
    let mut dropped_bytes = 0;
    let mut tail = None;
    let mut before: Option<(PathBuf, u64)> = None;
    let files = &logs[first..];
    for (at, &first_index) in files.iter().enumerate() {
        let path = dir.join(log_name(first_index));
        let file = disk.open(&path, Open::Write).await.map_err(StorageError::io("open", &path))?;
        // The end of a file is durable before a record is written into the next one, which may so exist without any.
        let may_be_torn = match files[at + 1..] {
            [] => true,
            [next] => holds_only_its_head(&rt, &dir.join(log_name(next))).await?,
            _ => false,
        };
        let end = scan.file(&path, &file, first_index, before.as_ref().map(|(_, first)| *first), may_be_torn).await?;
        let len = file.len().await.map_err(StorageError::io("read", &path))?;
        if len > end {
            dropped_bytes += len - end;
            file.set_len(end).await.map_err(StorageError::io("cut", &path))?;
        }
        let follows = files.get(at + 1).copied();
        let rolled_to = scan.rolled_to.take().filter(|next| Some(*next) == follows || !plant!(&rt, "skip-log-gap-on-start"));
        match (rolled_to, follows) {
            (Some(next), None) => {
                let evidence = format!("'{}' ends with its name", path.display());
                return Err(StorageError::Missing { file: dir.join(log_name(next)), evidence, remedy: RESTORE.into() });
            }
            (Some(next), Some(follows)) if next != follows => {
                let evidence = format!("'{}' ends with its name", path.display());
                return Err(StorageError::Missing { file: dir.join(log_name(next)), evidence, remedy: RESTORE.into() });
            }
            (None, Some(_)) if !may_be_torn => {
                let reason = "it ends without naming the file that follows".into();
                return Err(StorageError::Damaged { file: path, position: end, reason, remedy: RESTORE.into() });
            }
            (None, Some(follows)) => {
                // A crash came between the new file and the end of this one, which is written now.
                let bytes = roll_frame(end, follows)?.freeze();
                file.write_at(end, [bytes].into_iter().collect()).await.map_err(StorageError::io("write to", &path))?;
            }
            _ => {}
        }
        if follows.is_none() && first_index <= snapshot_last {
            // Whatever writes a snapshot has made the log go on in a newer file before: the old one has no say any more, however long it is.
            let evidence = format!("'{}' was written when the log had gone on in it, and '{}' is older", snapshot_name(snapshot_last), path.display());
            return Err(StorageError::Missing { file: dir.join(log_name(snapshot_last + 1)), evidence, remedy: RESTORE.into() });
        }
        // What was read may be in the page cache only, of a process that was killed or that stopped because a sync had failed: nothing is served
        // before it is durable.
        if may_be_torn {
            rewrite(&file, 0, end).await.map_err(StorageError::io("write to", &path))?;
        }
        file.sync_data().await.map_err(StorageError::io("sync", &path))?;
        tail = Some((file, first_index, end));
        before = Some((path, first_index));
    }
    disk.sync_dir(dir).await.map_err(StorageError::io("sync the directory", dir))?;
    let (file, file_first_index, position) = tail.expect("at least one log file was read");
    let storage_id = scan.storage_id.expect("every log file has one");
    let (last_index, last_term) = (scan.last_index, scan.last_term);
    let storage = Storage {
        rt: rt.clone(),
        dir: dir.to_owned(),
        storage_id,
        file,
        file_first_index,
        position,
        durable_position: position,
        last_index,
        last_term,
        hard_state: scan.hard_state,
        identity: scan.identity.clone(),
        failed: false,
    };
    let snapshot = snapshot.map(|(head, tree, state)| (head.meta, tree, state));
    Ok((storage, Loaded { snapshot, entries: scan.entries, hard_state: scan.hard_state, identity: scan.identity, dropped_bytes }))
}

/// There is no log file that could hold what follows the snapshot, or the first entry: which one is missing, and how that is known.
async fn first_log_missing<R: Runtime>(rt: &R, dir: &Path, snapshot: Option<u64>, newer: Option<u64>) -> Result<StorageError, StorageError> {
    // A file that is newer names the one before it, unless a snapshot of another member came before it.
    let named = match newer {
        Some(first_index) => previous_file(rt, &dir.join(log_name(first_index))).await?,
        None => None,
    };
    let (file, evidence) = match (snapshot, newer, named) {
        (_, Some(newer), Some(named)) => (log_name(named), format!("'{}' names it as the file before", log_name(newer))),
        (Some(index), ..) => (log_name(index + 1), format!("'{}' must be followed by a log file", snapshot_name(index))),
        (None, newer, _) => {
            let newer = newer.unwrap_or(1);
            (snapshot_name(newer - 1), format!("'{}' does not begin at the first entry, and there is no snapshot before it", log_name(newer)))
        }
    };
    Ok(StorageError::Missing { file: dir.join(file), evidence, remedy: RESTORE.into() })
}

/// What a log file's head names as the file before it; none if its head says nothing.
async fn previous_file<R: Runtime>(rt: &R, path: &Path) -> Result<Option<u64>, StorageError> {
    let file = rt.disk().open(path, Open::Read).await.map_err(StorageError::io("open", path))?;
    let mut reader = FrameReader::open(file).await.map_err(StorageError::io("read", path))?;
    Ok(match reader.next().await.map_err(StorageError::io("read", path))? {
        Next::Frame { frame, .. } if frame.kind == kind::LOG_HEAD => frame.decode::<LogHead>().ok().and_then(|head| head.previous_file),
        Next::Frame { .. } | Next::End | Next::Damaged { .. } => None,
    })
}

/// Decides about a snapshot whose installation was broken off: if the log that follows it is there, that one stands; else the old one does.
async fn settle_received<R: Runtime>(rt: &R, dir: &Path) -> Result<(), StorageError> {
    let names = rt.disk().list(dir).await.map_err(StorageError::io("list", dir))?;
    for name in names.iter().map(|entry| entry.name.as_str()) {
        let Some(index) = name.strip_prefix(RECEIVED_PREFIX).and_then(snapshot_index) else { continue };
        if follows_snapshot(rt, &dir.join(log_name(index + 1))).await? {
            make_sure_of(rt, dir, index + 1).await?;
            finish_installation(rt, dir, index).await?;
        } else {
            let path = dir.join(name);
            rt.disk().remove_file(&path).await.map_err(StorageError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Makes a log file again if it holds nothing but its head. Whoever made it may have died before its name was durable, or because the sync of the directory had
/// failed; that a later sync succeeds proves nothing about it. Without records nothing depends on it yet; but the file before it may get its name as that of its
/// successor next, or the files that it stands in for may go, and then it must stay.
async fn make_sure_of<R: Runtime>(rt: &R, dir: &Path, first_index: u64) -> Result<(), StorageError> {
    let path = dir.join(log_name(first_index));
    if !holds_only_its_head(rt, &path).await? {
        return Ok(());
    }
    let file = rt.disk().open(&path, Open::Read).await.map_err(StorageError::io("open", &path))?;
    let len = file.len().await.map_err(StorageError::io("read", &path))?;
    let bytes = file.read_at(0, usize::try_from(len).unwrap_or(usize::MAX)).await.map_err(StorageError::io("read", &path))?;
    put_log(rt, dir, first_index, bytes).await.map(drop)
}

/// Whether the log file was made to follow a received snapshot.
async fn follows_snapshot<R: Runtime>(rt: &R, path: &Path) -> Result<bool, StorageError> {
    let file = match rt.disk().open(path, Open::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(StorageError::io("open", path)(error)),
    };
    let mut reader = FrameReader::open(file).await.map_err(StorageError::io("read", path))?;
    match reader.next().await.map_err(StorageError::io("read", path))? {
        Next::Frame { frame, .. } => Ok(frame.decode::<LogHead>().is_ok_and(|head| head.previous_file.is_none())),
        Next::End | Next::Damaged { .. } => Ok(false), // The scan will say what is wrong with it.
    }
}

async fn create<R: Runtime>(rt: R, dir: &Path, new: Option<(u64, Identity)>) -> Result<(Storage<R>, Loaded), StorageError> {
    let disk = rt.disk();
    // The directory itself may be new, and so may those above it. One that we may not open, further up, was not made by us.
    for (at, ancestor) in dir.ancestors().skip(1).enumerate() {
        let ancestor = if ancestor.as_os_str().is_empty() { Path::new(".") } else { ancestor };
        match disk.sync_dir(ancestor).await {
            Err(error) if at > 0 && error.kind() == std::io::ErrorKind::PermissionDenied => break,
            synced => synced.map_err(StorageError::io("sync the directory", ancestor))?,
        }
    }
    let (storage_id, identity) = new.map_or_else(|| (rt.random_u64(), None), |(storage_id, identity)| (storage_id, Some(identity)));
    let head = LogHead { storage_id, first_index: 1, previous_term: 0, previous_file: None, hard_state: HardState::default() };
    let (file, position) = create_log(&rt, dir, &head, identity.as_ref()).await?;
    let storage = Storage {
        storage_id: head.storage_id,
        dir: dir.to_owned(),
        file,
        file_first_index: 1,
        position,
        durable_position: position,
        last_index: 0,
        last_term: 0,
        hard_state: HardState::default(),
        identity: identity.clone(),
        failed: false,
        rt,
    };
    Ok((storage, Loaded { snapshot: None, entries: Vec::new(), hard_state: HardState::default(), identity, dropped_bytes: 0 }))
}

/// An older snapshot with the log after it gives the same tree as the newest one.
fn snapshot_remedy(snapshots: &[u64], logs: &[u64]) -> String {
    match snapshots {
        [.., older, _] => {
            format!("Move it away: '{}' and the log files after it hold the same, and the next start reads those.", snapshot_name(*older))
        }
        _ if logs.first() == Some(&1) => "Move it away: the log files hold all of it from the first entry, and the next start reads those.".into(),
        _ => RESTORE.into(),
    }
}

async fn holds_only_its_head<R: Runtime>(rt: &R, path: &Path) -> Result<bool, StorageError> {
    let file = rt.disk().open(path, Open::Read).await.map_err(StorageError::io("open", path))?;
    let mut reader = FrameReader::open(file).await.map_err(StorageError::io("read", path))?;
    let head = reader.next().await.map_err(StorageError::io("read", path))?;
    let mut next = reader.next().await.map_err(StorageError::io("read", path))?;
    if matches!(&next, Next::Frame { frame, .. } if frame.kind == kind::IDENTITY) {
        next = reader.next().await.map_err(StorageError::io("read", path))?;
    }
    Ok(matches!(head, Next::Frame { .. }) && matches!(next, Next::End))
}

/// What the log files held so far.
struct Scan {
    storage_id: Option<u64>,
    snapshot_last: u64,
    entries: Vec<Entry>,
    hard_state: HardState,
    identity: Option<Identity>,
    last_index: u64,
    last_term: u64,
    rolled_to: Option<u64>,
    /// A plant: an entry that was replaced comes back.
    keeps_replaced: bool,
}

impl Scan {
    /// Reads one file and returns where its intact records end: at its end, unless that is torn.
    async fn file<F: File>(&mut self, path: &Path, file: &F, first_index: u64, previous: Option<u64>, may_be_torn: bool) -> Result<u64, StorageError> {
        let mut reader = FrameReader::open(file.clone()).await.map_err(StorageError::io("read", path))?;
        let mut is_head = true;
        loop {
            match reader.next().await.map_err(StorageError::io("read", path))? {
                Next::End if is_head => return Err(damaged(path, 0, "it is empty".into())),
                Next::End => return Ok(reader.position()),
                Next::Damaged { position, error } => {
                    // A head is durable before its file has its name.
                    if is_head || !may_be_torn || reader.is_rot(position).await.map_err(StorageError::io("read", path))? {
                        return Err(damaged(path, position, error.to_string()));
                    }
                    return Ok(position);
                }
                Next::Frame { frame, .. } if frame.version > FORMAT => {
                    return Err(StorageError::NewerFormat { file: path.to_owned(), version: frame.version });
                }
                Next::Frame { frame, .. } if is_head => {
                    self.head(path, &frame, first_index, previous)?;
                    is_head = false;
                }
                Next::Frame { position, frame } => {
                    if self.rolled_to.is_some() {
                        return Err(damaged(path, position, "it goes on after its end".into()));
                    }
                    self.record(path, position, &frame)?;
                }
            }
        }
    }

    fn head(&mut self, path: &Path, frame: &Frame, first_index: u64, previous: Option<u64>) -> Result<(), StorageError> {
        if frame.kind != kind::LOG_HEAD {
            return Err(damaged(path, 0, format!("it begins with a frame of kind {}, not with a log file's head", frame.kind)));
        }
        let head: LogHead = frame.decode().map_err(|error| damaged(path, 0, error.to_string()))?;
        let expected = *self.storage_id.get_or_insert(head.storage_id);
        if head.storage_id != expected {
            return Err(StorageError::Foreign { file: path.to_owned(), found: head.storage_id, expected });
        }
        if head.first_index != first_index || first_index == 0 {
            return Err(damaged(path, 0, format!("it was made as '{}'", log_name(head.first_index))));
        }
        let dir = path.parent().unwrap_or(Path::new("."));
        match (previous, head.previous_file) {
            (Some(previous), before) if before != Some(previous) => {
                let file = dir.join(log_name(before.unwrap_or(1)));
                let evidence = format!("'{}' names it as the file before", path.display());
                return Err(StorageError::Missing { file, evidence, remedy: RESTORE.into() });
            }
            (Some(_), _) if self.last_index + 1 != first_index => {
                let reason = format!("the file before ends with entry {}", self.last_index);
                return Err(damaged(path, 0, reason));
            }
            (Some(_), _) => {}
            (None, _) => (self.last_index, self.last_term) = (first_index - 1, head.previous_term),
        }
        self.hard_state = head.hard_state;
        Ok(())
    }

    /// Whether an entry can replace the one of its index and all after it: another term, not before that of the entry that it follows. Of
    /// entries that the snapshot includes no term is known any more; they may be replaced by what the snapshot then came to include.
    fn may_replace(&self, entry: &Entry) -> bool {
        let term_at = |index: u64| match index.checked_sub(self.snapshot_last + 1) {
            Some(at) => self.entries.get(usize::try_from(at).unwrap_or(usize::MAX)).map(|entry| entry.term),
            None => None,
        };
        entry.index > 0 && term_at(entry.index) != Some(entry.term) && term_at(entry.index - 1).is_none_or(|before| before <= entry.term)
    }

    fn record(&mut self, path: &Path, position: u64, frame: &Frame) -> Result<(), StorageError> {
        match frame.kind {
            kind::ENTRY => {
                let entry: Entry = placed(path, position, frame)?;
                let follows = entry.index == self.last_index + 1 && entry.term >= self.last_term;
                let replaces = entry.index <= self.last_index && self.may_replace(&entry);
                if !follows && !replaces {
                    let reason = format!("entry {} of term {} cannot come after entry {} of term {}", entry.index, entry.term, self.last_index, self.last_term);
                    return Err(damaged(path, position, reason));
                }
                (self.last_index, self.last_term) = (entry.index, entry.term);
                if entry.index <= self.snapshot_last {
                    self.entries.clear(); // What stood behind it was replaced.
                } else {
                    let at = usize::try_from(entry.index - self.snapshot_last - 1).unwrap_or(usize::MAX);
                    if self.keeps_replaced && at < self.entries.len() {
                        self.last_index = self.snapshot_last + self.entries.len() as u64;
                        self.last_term = self.entries.last().map_or(0, |entry| entry.term);
                    } else {
                        self.entries.truncate(at);
                        self.entries.push(entry);
                    }
                }
            }
            kind::IDENTITY => self.identity = Some(placed(path, position, frame)?),
            kind::HARD_STATE => self.hard_state = placed(path, position, frame)?,
            kind::ROLL => self.rolled_to = Some(placed::<Roll>(path, position, frame)?.next_file),
            kind => return Err(damaged(path, position, format!("a frame of kind {kind} does not belong here"))),
        }
        Ok(())
    }
}

fn placed<T: serde::de::DeserializeOwned>(path: &Path, position: u64, frame: &Frame) -> Result<T, StorageError> {
    let placed: Placed<T> = frame.decode().map_err(|error| damaged(path, position, error.to_string()))?;
    if placed.position != position {
        return Err(damaged(path, position, format!("the record was written at byte {}", placed.position)));
    }
    Ok(placed.record)
}

fn damaged(path: &Path, position: u64, reason: String) -> StorageError {
    StorageError::Damaged { file: path.to_owned(), position, reason, remedy: RESTORE.into() }
}
