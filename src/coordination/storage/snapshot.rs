//! Writes snapshots, reads them, and removes what newer ones make obsolete.

use std::path::{Path, PathBuf};

use bytes::BytesMut;

use super::format::{FORMAT, SnapshotEnd, SnapshotHead, SnapshotMeta, SnapshotState, TEMPORARY_SUFFIX, kind, log_name, snapshot_name};
use super::reader::{FrameReader, Next};
use super::{StorageError, load};
use crate::codec;
use crate::coordination::tree::{Items, Restore, SnapshotItem, Tree};
use crate::runtime::{Disk, File, Open, Runtime};

/// About how many bytes of items share a frame.
const CHUNK_BYTES: usize = 256 << 10;

/// [`write_named`] as a snapshot of this member's own state.
///
/// # Errors
/// As there.
pub async fn write_snapshot<R: Runtime>(
    rt: &R,
    dir: &Path,
    storage_id: u64,
    meta: SnapshotMeta,
    state: &SnapshotState,
    items: Items,
) -> Result<u64, StorageError> {
    let name = snapshot_name(meta.index);
    write_named(rt, dir, &name, storage_id, meta, state, items).await
}

/// Writes `items` as the snapshot that `meta` describes, durably, and returns its length in bytes. Proposals may go on meanwhile.
///
/// # Errors
/// [`StorageError`]. Nothing depends on the snapshot then: the log is as complete as before, and a later attempt begins anew.
pub(super) async fn write_named<R: Runtime>(
    rt: &R,
    dir: &Path,
    name: &str,
    storage_id: u64,
    meta: SnapshotMeta,
    state: &SnapshotState,
    items: Items,
) -> Result<u64, StorageError> {
    let path = dir.join(name);
    let temporary = dir.join(format!("{name}{TEMPORARY_SUFFIX}"));
    let disk = rt.disk();
    let file = disk.open(&temporary, Open::Create).await.map_err(StorageError::io("create", &temporary))?;
    file.set_len(0).await.map_err(StorageError::io("empty", &temporary))?;
    let mut position = 0;
    let mut bytes = BytesMut::new();
    codec::write_frame(&mut bytes, FORMAT, kind::SNAPSHOT_HEAD, &SnapshotHead { storage_id, meta })?;
    codec::write_frame(&mut bytes, FORMAT, kind::SNAPSHOT_STATE, state)?;
    let mut item_count = 0;
    let mut chunk = Vec::new();
    let mut chunk_bytes = 0;
    for item in items {
        item_count += 1;
        chunk_bytes += item.size_bytes();
        chunk.push(item);
        if chunk_bytes >= CHUNK_BYTES {
            codec::write_frame(&mut bytes, FORMAT, kind::SNAPSHOT_ITEMS, &chunk)?;
            chunk.clear();
            chunk_bytes = 0;
            position = write_out(&file, position, &mut bytes, &temporary).await?;
        }
    }
    codec::write_frame(&mut bytes, FORMAT, kind::SNAPSHOT_ITEMS, &chunk)?;
    codec::write_frame(&mut bytes, FORMAT, kind::SNAPSHOT_END, &SnapshotEnd { item_count })?;
    position = write_out(&file, position, &mut bytes, &temporary).await?;
    file.sync_data().await.map_err(StorageError::io("sync", &temporary))?;
    disk.rename(&temporary, &path).await.map_err(StorageError::io("rename", &temporary))?;
    disk.sync_dir(dir).await.map_err(StorageError::io("sync the directory", dir))?;
    Ok(position)
}

async fn write_out<F: File>(file: &F, position: u64, bytes: &mut BytesMut, path: &Path) -> Result<u64, StorageError> {
    let part = bytes.split().freeze();
    let end = position + part.len() as u64;
    file.write_at(position, [part].into_iter().collect()).await.map_err(StorageError::io("write to", path))?;
    Ok(end)
}

/// Reads the snapshot up to `index`.
///
/// # Errors
/// [`StorageError`] for whatever is not exactly as it was written; `remedy` says what can be done.
pub(super) async fn read_snapshot<R: Runtime>(rt: &R, dir: &Path, index: u64, remedy: &str) -> Result<(SnapshotHead, Tree, SnapshotState), StorageError> {
    read_at(rt, dir.join(snapshot_name(index)), Some(index), remedy).await
}

/// Reads the snapshot in a file of any name, such as [`write_snapshot_file`] wrote.
///
/// # Errors
/// As [`super::open`].
pub async fn read_snapshot_file<R: Runtime>(rt: &R, path: &Path) -> Result<(SnapshotMeta, Tree, SnapshotState), StorageError> {
    let (head, tree, state) = read_at(rt, path.to_owned(), None, "Restore from another snapshot").await?;
    Ok((head.meta, tree, state))
}

/// Writes a snapshot to a file of any name, durably; what was there is replaced at the end.
///
/// # Errors
/// [`StorageError`].
pub async fn write_snapshot_file<R: Runtime>(rt: &R, path: &Path, meta: SnapshotMeta, state: &SnapshotState, items: Items) -> Result<u64, StorageError> {
    let no_file = || StorageError::io("write to", path)(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no name of a file"));
    let name = path.file_name().and_then(|name| name.to_str()).ok_or_else(no_file)?;
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    write_named(rt, dir, name, rt.random_u64().max(1), meta, state, items).await
}

async fn read_at<R: Runtime>(rt: &R, path: PathBuf, index: Option<u64>, remedy: &str) -> Result<(SnapshotHead, Tree, SnapshotState), StorageError> {
    let damaged = |position: u64, reason: String| StorageError::Damaged { file: path.clone(), position, reason, remedy: remedy.to_owned() };
    let file = rt.disk().open(&path, Open::Read).await.map_err(StorageError::io("open", &path))?;
    let mut reader = FrameReader::open(file).await.map_err(StorageError::io("read", &path))?;
    let mut head: Option<SnapshotHead> = None;
    let mut restore = Restore::default();
    let mut state = None;
    let mut item_count = 0;
    loop {
        let (position, frame) = match reader.next().await.map_err(StorageError::io("read", &path))? {
            Next::Frame { position, frame } => (position, frame),
            Next::End => return Err(damaged(reader.position(), "it ends too early".into())),
            Next::Damaged { position, error } => return Err(damaged(position, error.to_string())),
        };
        if frame.version > FORMAT {
            return Err(StorageError::NewerFormat { file: path, version: frame.version });
        }
        match (frame.kind, &head) {
            (kind::SNAPSHOT_HEAD, None) => {
                let decoded: SnapshotHead = frame.decode().map_err(|error| damaged(position, error.to_string()))?;
                if index.is_some_and(|index| decoded.meta.index != index) {
                    return Err(damaged(position, format!("it is the snapshot up to {}, under another's name", decoded.meta.index)));
                }
                head = Some(decoded);
            }
            (kind::SNAPSHOT_STATE, Some(_)) if state.is_none() && item_count == 0 => {
                state = Some(frame.decode().map_err(|error| damaged(position, error.to_string()))?);
            }
            (kind::SNAPSHOT_ITEMS, Some(_)) => {
                let items: Vec<SnapshotItem> = frame.decode().map_err(|error| damaged(position, error.to_string()))?;
                for item in items {
                    item_count += 1;
                    restore.push(item).map_err(|error| damaged(position, error.to_string()))?;
                }
            }
            (kind::SNAPSHOT_END, Some(head)) => {
                let end: SnapshotEnd = frame.decode().map_err(|error| damaged(position, error.to_string()))?;
                if end.item_count != item_count {
                    return Err(damaged(position, format!("it holds {item_count} items, and {} were written", end.item_count)));
                }
                if !matches!(reader.next().await.map_err(StorageError::io("read", &path))?, Next::End) {
                    return Err(damaged(reader.position(), "it goes on after its end".into()));
                }
                let tree = restore.finish(head.meta.last_zxid).map_err(|error| damaged(position, error.to_string()))?;
                return Ok((head.clone(), tree, state.unwrap_or_default()));
            }
            (kind, _) => return Err(damaged(position, format!("a frame of kind {kind} does not belong here"))),
        }
    }
}

/// Removes all snapshots but the newest `kept`, and the log files that none of those needs. Returns how many files were removed.
///
/// # Errors
/// [`StorageError::Io`]. What is left over is removed another time.
pub async fn remove_obsolete<R: Runtime>(rt: &R, dir: &Path, kept: usize) -> Result<usize, StorageError> {
    assert!(kept > 0, "the newest snapshot is always kept");
    let (mut snapshots, mut logs) = load::list(rt, dir).await?;
    let mut removed = 0;
    let obsolete = snapshots.len().saturating_sub(kept);
    for index in snapshots.drain(..obsolete) {
        let path = dir.join(snapshot_name(index));
        rt.disk().remove_file(&path).await.map_err(StorageError::io("remove", &path))?;
        removed += 1;
    }
    // As long as fewer snapshots than that exist, the log from its beginning is the copy before the oldest.
    let Some(&oldest) = snapshots.first().filter(|_| obsolete > 0) else { return Ok(removed) };
    let needed = logs.iter().rposition(|&first_index| first_index <= oldest + 1).unwrap_or(0);
    for first_index in logs.drain(..needed) {
        let path = dir.join(log_name(first_index));
        rt.disk().remove_file(&path).await.map_err(StorageError::io("remove", &path))?;
        removed += 1;
    }
    Ok(removed)
}
