//! The disk of one host, without time: directories and files with a volatile and a durable state.
//!
//! Names. Every change of names (make, rename, remove) is one transaction that is pending until its directory is synced. A power cut
//! keeps any subset of the pending ones that is closed under 'touches the same name earlier': changes of different names are not
//! ordered. A rename is atomic, also between two directories, as journaling file systems commit it: it survives whole or not at all,
//! and is sure to survive once both directories were synced, or once a later, synced change of one of its names depends on it.
//! A directory that is lost takes everything in it along, synced or not.
//!
//! Content: see [`Content`]. Space: a file costs the larger of its length and what is reserved for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use ottla::runtime::{DirEntry, Open};

use super::content::{Content, SyncEnd, SyncTicket};
use crate::rng::Stream;

/// Names an inode of one disk.
pub type InodeId = u64;
/// An error number of Linux.
pub type Errno = i32;

/// The error numbers that the simulated world answers with; `io::Error` gives them the same kinds as the real ones.
pub mod errno {
    #![allow(missing_docs, reason = "the names are POSIX's")]
    use super::Errno;
    pub const ENOENT: Errno = 2;
    pub const EIO: Errno = 5;
    pub const EBADF: Errno = 9;
    pub const EEXIST: Errno = 17;
    pub const ENOTDIR: Errno = 20;
    pub const EISDIR: Errno = 21;
    pub const EINVAL: Errno = 22;
    pub const ENOSPC: Errno = 28;
    pub const EPIPE: Errno = 32;
    pub const ENOTEMPTY: Errno = 39;
    pub const EADDRINUSE: Errno = 98;
    pub const EADDRNOTAVAIL: Errno = 99;
    pub const ECONNABORTED: Errno = 103;
    pub const ECONNRESET: Errno = 104;
    pub const ETIMEDOUT: Errno = 110;
    pub const ECONNREFUSED: Errno = 111;
}
use errno::{EEXIST, EINVAL, EISDIR, ENOENT, ENOSPC, ENOTDIR, ENOTEMPTY};

const ROOT: InodeId = 1;

#[derive(Clone, Debug, Default)]
struct FileNode {
    content: Content,
    reserved_bytes: u64,
    modified_ms: i64,
    linked: bool,
    /// Open handles by incarnation.
    handles: BTreeMap<u32, u32>,
}

impl FileNode {
    fn cost(&self) -> u64 {
        if self.linked || !self.handles.is_empty() { self.content.len().max(self.reserved_bytes) } else { 0 }
    }
}

#[derive(Clone, Debug, Default)]
struct DirNode {
    seen: BTreeMap<String, InodeId>,
    durable: BTreeMap<String, InodeId>,
}

#[derive(Clone, Debug)]
enum Inode {
    File(Box<FileNode>),
    Dir(DirNode),
}

#[derive(Clone, Debug)]
struct NameChange {
    dir: InodeId,
    name: String,
    to: Option<InodeId>,
}

#[derive(Clone, Debug)]
struct NameTransaction {
    ordinal: u64,
    changes: Vec<NameChange>,
    /// Those of its directories that were synced since.
    synced: BTreeSet<InodeId>,
}

/// What a sync of names covers.
#[derive(Clone, Copy, Debug)]
pub struct DirTicket {
    dir: InodeId,
    ordinal: u64,
}

/// The disk of one host.
#[derive(Clone, Debug)]
pub struct DiskModel {
    inodes: BTreeMap<InodeId, Inode>,
    next_inode: InodeId,
    pending: Vec<NameTransaction>,
    name_ordinal: u64,
    capacity_bytes: u64,
    used_bytes: u64,
    locks: BTreeMap<InodeId, u32>,
    /// How many inodes the last collection left.
    reached_count: usize,
}

fn components(path: &Path) -> Result<Vec<&str>, Errno> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir => {
                parts.pop();
            }
            Component::Normal(name) => parts.push(name.to_str().ok_or(EINVAL)?),
            Component::Prefix(_) => return Err(EINVAL),
        }
    }
    Ok(parts)
}

impl DiskModel {
    /// An empty disk.
    pub fn new(capacity_bytes: u64) -> Self {
        let inodes = BTreeMap::from([(ROOT, Inode::Dir(DirNode::default()))]);
        Self { inodes, next_inode: ROOT + 1, pending: Vec::new(), name_ordinal: 0, capacity_bytes, used_bytes: 0, locks: BTreeMap::new(), reached_count: 0 }
    }

    fn dir(&self, id: InodeId) -> Result<&DirNode, Errno> {
        match self.inodes.get(&id) {
            Some(Inode::Dir(dir)) => Ok(dir),
            Some(Inode::File(_)) => Err(ENOTDIR),
            None => Err(ENOENT),
        }
    }

    fn file(&self, id: InodeId) -> Result<&FileNode, Errno> {
        match self.inodes.get(&id) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(EISDIR),
            None => Err(errno::EBADF),
        }
    }

    fn file_mut(&mut self, id: InodeId) -> Result<&mut FileNode, Errno> {
        match self.inodes.get_mut(&id) {
            Some(Inode::File(file)) => Ok(file),
            Some(Inode::Dir(_)) => Err(EISDIR),
            None => Err(errno::EBADF),
        }
    }

    fn walk(&self, parts: &[&str]) -> Result<InodeId, Errno> {
        parts.iter().try_fold(ROOT, |dir, name| self.dir(dir)?.seen.get(*name).copied().ok_or(ENOENT))
    }

    /// The inode at `path`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn lookup(&self, path: &Path) -> Result<InodeId, Errno> {
        self.walk(&components(path)?)
    }

    fn parent<'a>(&self, path: &'a Path) -> Result<(InodeId, &'a str), Errno> {
        let parts = components(path)?;
        let (name, parents) = parts.split_last().ok_or(EISDIR)?;
        let dir = self.walk(parents)?;
        self.dir(dir)?;
        Ok((dir, name))
    }

    fn change_names(&mut self, changes: Vec<NameChange>) {
        for change in &changes {
            if let Some(Inode::Dir(dir)) = self.inodes.get_mut(&change.dir) {
                match change.to {
                    Some(to) => dir.seen.insert(change.name.clone(), to),
                    None => dir.seen.remove(&change.name),
                };
            }
        }
        self.name_ordinal += 1;
        self.pending.push(NameTransaction { ordinal: self.name_ordinal, changes, synced: BTreeSet::new() });
    }

    fn add_inode(&mut self, inode: Inode) -> InodeId {
        let id = self.next_inode;
        self.next_inode += 1;
        self.inodes.insert(id, inode);
        id
    }

    /// Does something to a file and keeps the books on space.
    fn change_file<T>(&mut self, id: InodeId, change: impl FnOnce(&mut FileNode) -> T) -> Result<T, Errno> {
        let file = self.file_mut(id)?;
        let before = file.cost();
        let out = change(file);
        let after = file.cost();
        self.used_bytes = self.used_bytes - before + after;
        Ok(out)
    }

    /// Opens the file at `path` for the process `incarnation`.
    ///
    /// # Errors
    /// `ENOENT`, `EEXIST`, `ENOTDIR`, `EISDIR`.
    pub fn open(&mut self, path: &Path, how: Open, incarnation: u32) -> Result<InodeId, Errno> {
        let (dir, name) = self.parent(path)?;
        let id = match (self.dir(dir)?.seen.get(name).copied(), how) {
            (Some(_), Open::CreateNew) => return Err(EEXIST),
            (Some(id), _) => {
                self.file(id)?;
                id
            }
            (None, Open::Read | Open::Write) => return Err(ENOENT),
            (None, Open::Create | Open::CreateNew) => {
                let id = self.add_inode(Inode::File(Box::new(FileNode { linked: true, ..FileNode::default() })));
                self.change_names(vec![NameChange { dir, name: name.to_owned(), to: Some(id) }]);
                id
            }
        };
        self.change_file(id, |file| *file.handles.entry(incarnation).or_default() += 1)?;
        Ok(id)
    }

    /// A handle of `incarnation` is closed.
    pub fn close(&mut self, id: InodeId, incarnation: u32) {
        let _ = self.change_file(id, |file| {
            if let Some(count) = file.handles.get_mut(&incarnation) {
                *count -= 1;
                if *count == 0 {
                    file.handles.remove(&incarnation);
                }
            }
        });
    }

    /// A process died: its handles and locks are gone, unsynced data is not.
    pub fn process_died(&mut self, incarnation: u32) {
        let ids: Vec<InodeId> = self.inodes.keys().copied().collect();
        for id in ids {
            if self.file(id).is_ok_and(|file| file.handles.contains_key(&incarnation)) {
                let _ = self.change_file(id, |file| file.handles.remove(&incarnation));
            }
        }
        self.locks.retain(|_, holder| *holder != incarnation);
    }

    /// Bytes of the file.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`.
    pub fn read(&self, id: InodeId, position: u64, len: usize) -> Result<Vec<u8>, Errno> {
        Ok(self.file(id)?.content.read(position, len))
    }

    /// Writes as much of `bytes` as there is room for.
    ///
    /// # Errors
    /// `ENOSPC` after a prefix was written.
    pub fn write(&mut self, id: InodeId, position: u64, bytes: &[u8], now_ms: i64) -> Result<(), Errno> {
        let file = self.file(id)?;
        let room_end = file.cost() + self.free_bytes();
        let fits = room_end.saturating_sub(position).min(bytes.len() as u64) as usize;
        self.change_file(id, |file| {
            file.content.write(position, &bytes[..fits]);
            file.modified_ms = now_ms;
        })?;
        if fits == bytes.len() { Ok(()) } else { Err(ENOSPC) }
    }

    /// The length of the file in bytes.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`.
    pub fn len(&self, id: InodeId) -> Result<u64, Errno> {
        Ok(self.file(id)?.content.len())
    }

    /// The host's wall clock at the last write, in milliseconds.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`.
    pub fn modified_ms(&self, id: InodeId) -> Result<i64, Errno> {
        Ok(self.file(id)?.modified_ms)
    }

    /// Cuts or extends the file. A cut frees what was reserved beyond.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`. Extending makes a hole, but space is charged at once: `ENOSPC`.
    pub fn set_len(&mut self, id: InodeId, len: u64, now_ms: i64) -> Result<(), Errno> {
        if len > self.file(id)?.cost() + self.free_bytes() {
            return Err(ENOSPC);
        }
        self.change_file(id, |file| {
            file.content.set_len(len);
            file.reserved_bytes = file.reserved_bytes.min(len);
            file.modified_ms = now_ms;
        })
    }

    /// Reserves space up to `len` without changing the length.
    ///
    /// # Errors
    /// `ENOSPC`.
    pub fn preallocate(&mut self, id: InodeId, len: u64) -> Result<(), Errno> {
        if len > self.file(id)?.cost() + self.free_bytes() {
            return Err(ENOSPC);
        }
        self.change_file(id, |file| file.reserved_bytes = file.reserved_bytes.max(len))
    }

    /// Makes up to `max_count` missing directories on the way to `path`.
    ///
    /// # Errors
    /// `ENOTDIR`, `EEXIST` if `path` is a file.
    pub fn create_dir(&mut self, path: &Path, max_count: usize) -> Result<(), Errno> {
        let mut dir = ROOT;
        let mut made_count = 0;
        let parts = components(path)?;
        for (depth, name) in parts.iter().enumerate() {
            dir = match self.dir(dir)?.seen.get(*name).copied() {
                Some(next) => {
                    if self.file(next).is_ok() {
                        return Err(if depth + 1 == parts.len() { EEXIST } else { ENOTDIR });
                    }
                    next
                }
                None => {
                    if made_count == max_count {
                        return Ok(());
                    }
                    made_count += 1;
                    let next = self.add_inode(Inode::Dir(DirNode::default()));
                    self.change_names(vec![NameChange { dir, name: (*name).to_owned(), to: Some(next) }]);
                    next
                }
            };
        }
        Ok(())
    }

    /// What the directory holds, sorted.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn list(&self, path: &Path) -> Result<Vec<DirEntry>, Errno> {
        let dir = self.dir(self.lookup(path)?)?;
        Ok(dir.seen.iter().map(|(name, id)| DirEntry { name: name.clone(), is_dir: self.dir(*id).is_ok() }).collect())
    }

    fn unlink(&mut self, id: InodeId) {
        let _ = self.change_file(id, |file| file.linked = false);
    }

    /// Renames, replacing a file (or, for a directory, an empty directory) at `to`.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `EISDIR`, `ENOTEMPTY`, `EINVAL` for a directory into itself.
    pub fn rename(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let (from_dir, from_name) = self.parent(from)?;
        let id = self.dir(from_dir)?.seen.get(from_name).copied().ok_or(ENOENT)?;
        let (to_dir, to_name) = self.parent(to)?;
        let is_dir = self.dir(id).is_ok();
        let (from_parts, to_parts) = (components(from)?, components(to)?);
        if is_dir && to_parts.len() > from_parts.len() && to_parts[..from_parts.len()] == from_parts[..] {
            return Err(EINVAL);
        }
        if let Some(old) = self.dir(to_dir)?.seen.get(to_name).copied() {
            if old == id {
                return Ok(());
            }
            match (is_dir, self.dir(old)) {
                (true, Err(_)) => return Err(ENOTDIR),
                (false, Ok(_)) => return Err(EISDIR),
                (true, Ok(dir)) if !dir.seen.is_empty() => return Err(ENOTEMPTY),
                _ => self.unlink(old),
            }
        }
        self.change_names(vec![
            NameChange { dir: from_dir, name: from_name.to_owned(), to: None },
            NameChange { dir: to_dir, name: to_name.to_owned(), to: Some(id) },
        ]);
        Ok(())
    }

    /// Removes a file's name.
    ///
    /// # Errors
    /// `ENOENT`, `EISDIR`.
    pub fn remove_file(&mut self, path: &Path) -> Result<(), Errno> {
        let (dir, name) = self.parent(path)?;
        let id = self.dir(dir)?.seen.get(name).copied().ok_or(ENOENT)?;
        self.file(id)?;
        self.change_names(vec![NameChange { dir, name: name.to_owned(), to: None }]);
        self.unlink(id);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`, `ENOTEMPTY`.
    pub fn remove_dir(&mut self, path: &Path) -> Result<(), Errno> {
        let (dir, name) = self.parent(path)?;
        let id = self.dir(dir)?.seen.get(name).copied().ok_or(ENOENT)?;
        if !self.dir(id)?.seen.is_empty() {
            return Err(ENOTEMPTY);
        }
        self.change_names(vec![NameChange { dir, name: name.to_owned(), to: None }]);
        Ok(())
    }

    /// A sync of a file begins.
    ///
    /// # Errors
    /// `EBADF`, `EISDIR`.
    pub fn begin_sync(&mut self, id: InodeId) -> Result<SyncTicket, Errno> {
        Ok(self.file_mut(id)?.content.begin_sync())
    }

    /// A sync of a file ends.
    pub fn end_sync(&mut self, id: InodeId, ticket: SyncTicket, end: SyncEnd, stream: &mut Stream) {
        if let Ok(file) = self.file_mut(id) {
            file.content.end_sync(ticket, end, stream);
        }
    }

    /// A sync of all files below `path` begins.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn begin_sync_below(&mut self, path: &Path) -> Result<Vec<(InodeId, SyncTicket)>, Errno> {
        let top = self.lookup(path)?;
        self.dir(top)?;
        let (mut todo, mut files) = (vec![top], Vec::new());
        while let Some(id) = todo.pop() {
            match &self.inodes[&id] {
                Inode::Dir(dir) => todo.extend(dir.seen.values().rev()),
                Inode::File(file) if file.content.is_dirty() => files.push(id),
                Inode::File(_) => {}
            }
        }
        Ok(files.into_iter().filter_map(|id| Some((id, self.begin_sync(id).ok()?))).collect())
    }

    /// A sync of the names in `path` begins.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTDIR`.
    pub fn begin_sync_dir(&self, path: &Path) -> Result<DirTicket, Errno> {
        let dir = self.lookup(path)?;
        self.dir(dir)?;
        Ok(DirTicket { dir, ordinal: self.name_ordinal })
    }

    /// A sync of names ends well.
    pub fn end_sync_dir(&mut self, ticket: DirTicket) {
        let mut needed = BTreeSet::new();
        let mut commit = vec![false; self.pending.len()];
        for (at, transaction) in self.pending.iter_mut().enumerate().rev() {
            let touches = transaction.changes.iter().any(|change| change.dir == ticket.dir);
            if touches && transaction.ordinal <= ticket.ordinal {
                transaction.synced.insert(ticket.dir);
                commit[at] = transaction.changes.iter().all(|change| transaction.synced.contains(&change.dir));
            }
            commit[at] |= transaction.changes.iter().any(|change| needed.contains(&(change.dir, change.name.clone())));
            if commit[at] {
                needed.extend(transaction.changes.iter().map(|change| (change.dir, change.name.clone())));
            }
        }
        if commit.iter().any(|commit| *commit) {
            self.commit(&commit);
            self.pending = std::mem::take(&mut self.pending).into_iter().zip(commit).filter(|(_, commit)| !commit).map(|(one, _)| one).collect();
            // What nothing reaches takes memory, and no more: once in a while is enough.
            if self.inodes.len() > 2 * self.reached_count + 64 {
                self.collect_garbage();
            }
        }
    }

    fn commit(&mut self, which: &[bool]) {
        for (transaction, _) in self.pending.iter().zip(which).filter(|(_, which)| **which) {
            for change in &transaction.changes {
                if let Some(Inode::Dir(dir)) = self.inodes.get_mut(&change.dir) {
                    match change.to {
                        Some(to) => dir.durable.insert(change.name.clone(), to),
                        None => dir.durable.remove(&change.name),
                    };
                }
            }
        }
    }

    fn collect_garbage(&mut self) {
        let mut reached = BTreeSet::new();
        let mut todo = vec![ROOT];
        todo.extend(self.pending.iter().flat_map(|transaction| &transaction.changes).flat_map(|change| [Some(change.dir), change.to]).flatten());
        for (id, inode) in &self.inodes {
            if matches!(inode, Inode::File(file) if !file.handles.is_empty()) || self.locks.contains_key(id) {
                todo.push(*id);
            }
        }
        while let Some(id) = todo.pop() {
            if reached.insert(id)
                && let Some(Inode::Dir(dir)) = self.inodes.get(&id)
            {
                todo.extend(dir.seen.values().chain(dir.durable.values()));
            }
        }
        self.inodes.retain(|id, _| reached.contains(id));
        self.reached_count = self.inodes.len();
    }

    /// Takes the lock on the file `path`, making it if needed.
    ///
    /// # Errors
    /// Those of [`DiskModel::open`].
    pub fn try_lock(&mut self, path: &Path, incarnation: u32) -> Result<Option<InodeId>, Errno> {
        let id = self.open(path, Open::Create, incarnation)?;
        if self.locks.contains_key(&id) {
            self.close(id, incarnation);
            return Ok(None);
        }
        self.locks.insert(id, incarnation);
        Ok(Some(id))
    }

    /// Gives the lock back, if `incarnation` holds it.
    pub fn unlock(&mut self, id: InodeId, incarnation: u32) {
        if self.locks.get(&id) == Some(&incarnation) {
            self.locks.remove(&id);
            self.close(id, incarnation);
        }
    }

    /// The bytes that can still be written.
    pub fn free_bytes(&self) -> u64 {
        self.capacity_bytes.saturating_sub(self.used_bytes)
    }

    /// The bytes in use.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    /// Sets the size of the disk. A size below what is used leaves no room.
    pub fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// Flips a bit at rest. False if there is no such byte.
    pub fn flip_bit(&mut self, path: &Path, position: u64, bit: u8) -> bool {
        self.lookup(path).and_then(|id| Ok(self.file_mut(id)?.content.flip_bit(position, bit))).unwrap_or(false)
    }

    /// All files with their lengths, in the order of their paths.
    pub fn files(&self) -> Vec<(String, u64)> {
        let mut out = Vec::new();
        self.visit(ROOT, "", &mut |path, file| out.push((path.to_owned(), file.content.len())));
        out
    }

    /// All files whose content is wholly on disk, with it, in the order of their paths.
    pub fn durable_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut out = Vec::new();
        self.visit(ROOT, "", &mut |path, file| {
            if !file.content.is_dirty() && file.content.durable_len() == file.content.len() {
                out.push((path.to_owned(), file.content.read(0, file.content.len() as usize)));
            }
        });
        out
    }

    /// Looks at every file in the directories right below `top`, in order: the directory's name, the file's name, its inode. It is done so often that no path is
    /// made of them.
    pub fn each_file_below(&self, top: &Path, see: &mut dyn FnMut(&str, &str, InodeId, &Content)) {
        let Ok(Inode::Dir(top)) = self.lookup(top).map(|id| &self.inodes[&id]) else { return };
        for (dir_name, dir) in &top.seen {
            let Inode::Dir(dir) = &self.inodes[dir] else { continue };
            for (name, id) in &dir.seen {
                if let Inode::File(file) = &self.inodes[id] {
                    see(dir_name, name, *id, &file.content);
                }
            }
        }
    }

    fn visit(&self, id: InodeId, path: &str, see: &mut dyn FnMut(&str, &FileNode)) {
        match &self.inodes[&id] {
            Inode::File(file) => see(path, file),
            Inode::Dir(dir) => {
                for (name, child) in &dir.seen {
                    self.visit(*child, &format!("{path}/{name}"), see);
                }
            }
        }
    }

    /// The power goes. What was not synced takes a fate drawn from `stream`; no process is left.
    pub fn power_cut(&mut self, stream: &mut Stream, garbage: bool) {
        self.locks.clear();
        let pending_count = self.pending.len();
        let how = stream.below(6);
        let prefix_count = stream.below(pending_count as u64 + 1) as usize;
        let mut lost_names = BTreeSet::new();
        let mut survives = vec![false; pending_count];
        for (at, transaction) in self.pending.iter().enumerate() {
            let drawn = match how {
                0 => false,
                1 => true,
                2 | 3 => at < prefix_count,
                _ => stream.chance(500_000),
            };
            let blocked = transaction.changes.iter().any(|change| lost_names.contains(&(change.dir, change.name.as_str())));
            survives[at] = drawn && !blocked;
            if !survives[at] {
                lost_names.extend(transaction.changes.iter().map(|change| (change.dir, change.name.as_str())));
            }
        }
        self.commit(&survives);
        self.pending.clear();
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::Dir(dir) => dir.seen.clone_from(&dir.durable),
                Inode::File(file) => {
                    file.handles.clear();
                    file.linked = true;
                    file.reserved_bytes = 0;
                }
            }
        }
        self.collect_garbage();
        self.used_bytes = 0;
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode {
                file.content.power_cut(stream, garbage);
                self.used_bytes += file.cost();
            }
        }
    }

    /// All files are as if synced and all names durable: what an orderly shutdown of the machine leaves.
    pub fn settle(&mut self, stream: &mut Stream) {
        let all = vec![true; self.pending.len()];
        self.commit(&all);
        self.pending.clear();
        for inode in self.inodes.values_mut() {
            if let Inode::File(file) = inode {
                let ticket = file.content.begin_sync();
                file.content.end_sync(ticket, SyncEnd::Done, stream);
            }
        }
        self.collect_garbage();
    }
}
