//! What is written is read again; what is torn is dropped; what is rotten, missing, foreign or newer is refused by name.

use bytes::Bytes;
use tempfile::TempDir;

use super::format::{ConfState, EntryKind, snapshot_name};
use super::*;
use crate::coordination::op::{Command, Operation, Request};
use crate::runtime::tokio::{TokioRuntime, run};

fn entry(index: u64, term: u64) -> Entry {
    Entry { term, index, kind: EntryKind::Normal, data: Bytes::from(format!("entry {index} of {term}").repeat(20)) }
}

fn entries(indexes: std::ops::RangeInclusive<u64>) -> Vec<Entry> {
    indexes.map(|index| entry(index, 1)).collect()
}

/// Runs `body` in a fresh directory.
fn with_dir<F, Fut>(body: F)
where
    F: FnOnce(TokioRuntime, PathBuf) -> Fut + Send + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("a").join("coordination");
    run(1, move |rt| body(rt, path)).unwrap();
}

async fn change(rt: &TokioRuntime, path: &Path, body: impl FnOnce(&mut Vec<u8>)) {
    let file = rt.disk().open(path, Open::Write).await.unwrap();
    let mut bytes = file.read_at(0, file.len().await.unwrap() as usize).await.unwrap().to_vec();
    body(&mut bytes);
    file.set_len(0).await.unwrap();
    file.write_at(0, [Bytes::from(bytes)].into_iter().collect()).await.unwrap();
}

async fn len(rt: &TokioRuntime, path: &Path) -> u64 {
    rt.disk().open(path, Open::Read).await.unwrap().len().await.unwrap()
}

fn tree(count: u64) -> Tree {
    let mut tree = Tree::new();
    for zxid in 1..=count {
        let request = Request::One(Operation::create(format!("/n{zxid}"), vec![7; 1_000]));
        tree.apply(&Command { session: 0, time_ms: 5, request }, zxid as i64);
    }
    tree
}

async fn snapshot(rt: &TokioRuntime, storage: &mut Storage<TokioRuntime>, tree: &Tree) {
    let conf_state = ConfState { voters: vec![1], learners: vec![] };
    let meta = SnapshotMeta { index: storage.last_index(), term: storage.last_term(), conf_state, last_zxid: tree.last_zxid() };
    storage.roll().await.unwrap();
    write_snapshot(rt, storage.dir(), storage.storage_id(), meta, &SnapshotState::default(), tree.items()).await.unwrap();
}

async fn refused(rt: &TokioRuntime, dir: &Path) -> StorageError {
    match open(rt.clone(), dir).await {
        Ok((_, loaded)) => panic!("opened with {} entries", loaded.entries.len()),
        Err(error) => error,
    }
}

#[test]
fn what_was_appended_is_loaded() {
    with_dir(|rt, dir| async move {
        let (mut storage, loaded) = open(rt.clone(), &dir).await.unwrap();
        assert!(loaded.entries.is_empty() && loaded.snapshot.is_none());
        let id = storage.storage_id();
        storage.append(&entries(1..=3), Some(HardState { term: 1, vote: 1, commit: 0 })).await.unwrap();
        storage.append(&[entry(4, 2)], None).await.unwrap();
        let (mut storage, loaded) = open(rt.clone(), &dir).await.unwrap();
        assert_eq!(storage.storage_id(), id);
        assert_eq!(loaded.entries, [entries(1..=3), vec![entry(4, 2)]].concat());
        assert_eq!(loaded.hard_state, HardState { term: 1, vote: 1, commit: 0 });
        storage.append(&[entry(5, 2)], None).await.unwrap();
        assert_eq!(open(rt, &dir).await.unwrap().1.entries.len(), 5);
    });
}

#[test]
fn a_later_entry_replaces_the_earlier_and_all_after_it() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=5), None).await.unwrap();
        storage.append(&[entry(3, 2)], None).await.unwrap();
        let (storage, loaded) = open(rt, &dir).await.unwrap();
        assert_eq!(loaded.entries, [entries(1..=2), vec![entry(3, 2)]].concat());
        assert_eq!(storage.last_index(), 3);
    });
}

#[test]
fn every_torn_end_is_dropped_and_the_log_goes_on() {
    with_dir(|rt, dir| async move {
        let path = dir.join(log_name(1));
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=2), None).await.unwrap();
        let durable = storage.file_bytes();
        storage.append(&entries(3..=5), None).await.unwrap();
        let whole = storage.file_bytes();
        drop(storage);
        for cut in (durable..whole).step_by(7) {
            // The one group that was not synced: cut anywhere, or with a hole of zeros and its last bytes there.
            change(&rt, &path, |bytes| bytes.truncate(cut as usize)).await;
            let (mut storage, loaded) = open(rt.clone(), &dir).await.unwrap();
            let kept = loaded.entries.len() as u64;
            assert!((2..5).contains(&kept), "{kept}");
            assert_eq!(loaded.entries, entries(1..=kept));
            storage.append(&entries(kept + 1..=5), None).await.unwrap();
            assert_eq!(storage.file_bytes(), whole);
            drop(storage);
            assert_eq!(open(rt.clone(), &dir).await.unwrap().1.entries, entries(1..=5));
        }
    });
}

#[test]
fn a_hole_in_the_last_group_is_a_torn_end() {
    with_dir(|rt, dir| async move {
        let path = dir.join(log_name(1));
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=2), None).await.unwrap();
        let durable = storage.file_bytes() as usize;
        storage.append(&entries(3..=5), None).await.unwrap();
        drop(storage);
        change(&rt, &path, |bytes| bytes[durable + 20..durable + 60].fill(0)).await;
        let (_, loaded) = open(rt, &dir).await.unwrap();
        assert_eq!(loaded.entries, entries(1..=2));
        assert!(loaded.dropped_bytes > 0);
    });
}

#[test]
fn rot_before_what_was_durable_is_refused_at_every_byte() {
    with_dir(|rt, dir| async move {
        let path = dir.join(log_name(1));
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=2), None).await.unwrap();
        let durable = storage.file_bytes() as usize;
        storage.append(&[entry(3, 1)], None).await.unwrap();
        drop(storage);
        for at in (0..durable).step_by(5) {
            change(&rt, &path, |bytes| bytes[at] ^= 0x40).await;
            let error = refused(&rt, &dir).await.to_string();
            assert!(error.contains("log-00000000000000000001.ottla' is damaged at byte") && error.contains("backup"), "{error}");
            change(&rt, &path, |bytes| bytes[at] ^= 0x40).await;
        }
        assert_eq!(open(rt, &dir).await.unwrap().1.entries, entries(1..=3));
    });
}

#[test]
fn a_frame_inside_of_data_proves_nothing() {
    with_dir(|rt, dir| async move {
        let path = dir.join(log_name(1));
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        let mut inner = BytesMut::new();
        codec::write_frame(&mut inner, FORMAT, kind::HARD_STATE, &Placed { position: 9, durable_before: 1 << 40, record: 1u8 }).unwrap();
        let at = storage.file_bytes() as usize;
        storage.append(&[Entry { data: inner.freeze(), ..entry(1, 1) }], None).await.unwrap();
        drop(storage);
        change(&rt, &path, |bytes| bytes[at + 9] ^= 1).await;
        assert!(open(rt, &dir).await.unwrap().1.entries.is_empty());
    });
}

#[test]
fn snapshots_replace_the_log_before_them() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        let vote = HardState { term: 1, vote: 1, commit: 0 };
        storage.append(&[], Some(vote)).await.unwrap();
        let mut trees = Vec::new();
        for round in 0..5 {
            storage.append(&entries(round * 100 + 1..=round * 100 + 100), None).await.unwrap();
            trees.push(tree(round * 300 + 100));
            snapshot(&rt, &mut storage, &trees[round as usize]).await;
            remove_obsolete(&rt, &dir, 3).await.unwrap();
        }
        storage.append(&entries(501..=502), None).await.unwrap();
        let names: Vec<_> = rt.disk().list(&dir).await.unwrap().into_iter().map(|entry| entry.name).collect();
        let expected: Vec<_> = [301, 401, 501].map(log_name).into_iter().chain([300, 400, 500].map(snapshot_name)).collect();
        assert_eq!(names, expected);
        let (storage, loaded) = open(rt.clone(), &dir).await.unwrap();
        let (meta, loaded_tree, _) = loaded.snapshot.unwrap();
        assert_eq!((meta.index, meta.term), (500, 1));
        assert_eq!(loaded_tree, trees[4]);
        assert_eq!(loaded.entries, entries(501..=502));
        assert_eq!(loaded.hard_state, vote, "a vote outlives its file");
        assert_eq!(storage.last_index(), 502);
        // Without the newest snapshot, an older one and the log hold the same.
        rt.disk().remove_file(&dir.join(snapshot_name(500))).await.unwrap();
        let (_, loaded) = open(rt, &dir).await.unwrap();
        assert_eq!((loaded.snapshot.unwrap().0.index, loaded.entries.len()), (400, 102));
    });
}

#[test]
fn missing_files_are_refused_by_name() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        for round in 0..3 {
            storage.append(&entries(round * 10 + 1..=round * 10 + 10), None).await.unwrap();
            storage.roll().await.unwrap();
        }
        storage.append(&entries(31..=31), None).await.unwrap();
        snapshot(&rt, &mut storage, &tree(31)).await;
        drop(storage);
        let aside = dir.join("aside");
        // Without a snapshot each log file is needed, the last one too.
        for (missing, hide_snapshot) in [(1, true), (11, true), (21, true), (32, true), (32, false)] {
            let snapshot = dir.join(snapshot_name(31));
            if hide_snapshot {
                rt.disk().rename(&snapshot, &dir.join("hidden")).await.unwrap();
            }
            rt.disk().rename(&dir.join(log_name(missing)), &aside).await.unwrap();
            let error = refused(&rt, &dir).await;
            let StorageError::Missing { file, .. } = &error else { panic!("{error}") };
            assert_eq!(file, &dir.join(log_name(missing)), "{error}");
            rt.disk().rename(&aside, &dir.join(log_name(missing))).await.unwrap();
            if hide_snapshot {
                rt.disk().rename(&dir.join("hidden"), &snapshot).await.unwrap();
            }
        }
        open(rt, &dir).await.unwrap();
    });
}

#[test]
fn a_damaged_snapshot_is_refused_at_every_byte_with_the_remedy() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=4), None).await.unwrap();
        snapshot(&rt, &mut storage, &tree(3)).await;
        drop(storage);
        let path = dir.join(snapshot_name(4));
        for at in (0..len(&rt, &path).await as usize).step_by(53) {
            change(&rt, &path, |bytes| bytes[at] ^= 1).await;
            let error = refused(&rt, &dir).await.to_string();
            assert!(error.contains("snapshot-00000000000000000004.ottla' is damaged") && error.contains("Move it away"), "{error}");
            change(&rt, &path, |bytes| bytes[at] ^= 1).await;
        }
        change(&rt, &path, |bytes| bytes.truncate(bytes.len() - 14)).await;
        assert!(refused(&rt, &dir).await.to_string().contains("is damaged"));
        // And the remedy works.
        rt.disk().remove_file(&path).await.unwrap();
        assert_eq!(open(rt, &dir).await.unwrap().1.entries, entries(1..=4));
    });
}

#[test]
fn a_newer_format_and_a_foreign_file_are_refused() {
    with_dir(|rt, dir| async move {
        let other = dir.with_file_name("other");
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=2), None).await.unwrap();
        storage.roll().await.unwrap();
        let (mut foreign, _) = open(rt.clone(), &other).await.unwrap();
        foreign.append(&entries(1..=2), None).await.unwrap();
        foreign.roll().await.unwrap();
        let (mine, theirs) = (dir.join(log_name(3)), other.join(log_name(3)));
        rt.disk().rename(&theirs, &mine).await.unwrap();
        assert!(matches!(refused(&rt, &dir).await, StorageError::Foreign { file, .. } if file == mine));
        let mut newer = BytesMut::new();
        codec::write_frame(&mut newer, FORMAT + 1, kind::LOG_HEAD, &1u8).unwrap();
        change(&rt, &mine, |bytes| *bytes = newer.to_vec()).await;
        let error = refused(&rt, &dir).await;
        assert!(error.to_string().contains("has format version 4, and this Ottla reads up to 3"), "{error}");
    });
}

#[test]
fn a_crash_within_a_roll_loses_nothing() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=2), None).await.unwrap();
        let end = storage.file_bytes() as usize;
        storage.roll().await.unwrap();
        drop(storage);
        // The next file is there, the end of this one is not, or half of it.
        for kept in [end, end + 9] {
            change(&rt, &dir.join(log_name(1)), |bytes| bytes.truncate(kept)).await;
            let (storage, loaded) = open(rt.clone(), &dir).await.unwrap();
            assert_eq!((loaded.entries, storage.last_index()), (entries(1..=2), 2));
        }
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(3..=3), None).await.unwrap();
        drop(storage);
        assert_eq!(open(rt.clone(), &dir).await.unwrap().1.entries, entries(1..=3));
        // Now that the next file is in use, this one must be whole.
        change(&rt, &dir.join(log_name(1)), |bytes| bytes.truncate(end)).await;
        assert!(matches!(refused(&rt, &dir).await, StorageError::Damaged { .. }));
    });
}

#[test]
fn unfinished_files_are_removed_and_others_are_left_alone() {
    with_dir(|rt, dir| async move {
        drop(open(rt.clone(), &dir).await.unwrap());
        for name in ["log-00000000000000000009.ottla.tmp", "notes.txt"] {
            rt.disk().open(&dir.join(name), Open::CreateNew).await.unwrap();
        }
        drop(open(rt.clone(), &dir).await.unwrap());
        let names: Vec<_> = rt.disk().list(&dir).await.unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, [log_name(1), "notes.txt".into()]);
    });
}

fn identity() -> Identity {
    Identity { raft_id: 7, server_id: 2, initial: vec![(7, format::MemberRecord { server_id: 2, address: "b:2888".into(), storage_id: 0 })] }
}

async fn install(storage: &mut Storage<TokioRuntime>, index: u64, tree: &Tree) {
    let conf_state = ConfState { voters: vec![1, 7], learners: vec![] };
    let meta = SnapshotMeta { index, term: 9, conf_state, last_zxid: tree.last_zxid() };
    let state = SnapshotState { next_raft_id: 8, digest: 5, ..SnapshotState::default() };
    storage.install(meta, &state, tree.items(), HardState { term: 9, vote: 1, commit: index }).await.unwrap();
}

#[test]
fn an_identity_outlives_every_file() {
    with_dir(|rt, dir| async move {
        assert!(is_empty(&rt, &dir).await.unwrap());
        let (mut storage, loaded) = open_as(rt.clone(), &dir, Some((99, identity()))).await.unwrap();
        assert_eq!((storage.storage_id(), loaded.identity), (99, Some(identity())));
        assert!(!is_empty(&rt, &dir).await.unwrap());
        for round in 0..4 {
            storage.append(&entries(round * 10 + 1..=round * 10 + 10), None).await.unwrap();
            snapshot(&rt, &mut storage, &tree(round + 1)).await;
            remove_obsolete(&rt, &dir, 1).await.unwrap();
        }
        assert_eq!(open(rt, &dir).await.unwrap().1.identity, Some(identity()));
    });
}

#[test]
fn an_entry_of_an_older_term_may_replace_a_newer_one_also_across_files() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        // What a deposed leader of term 3 alone had gives way to what term 2 had replicated, and term 4 goes on from there.
        storage.append(&[entry(1, 1), entry(2, 3), entry(3, 3)], None).await.unwrap();
        storage.roll().await.unwrap();
        storage.append(&[entry(2, 2), entry(3, 4), entry(4, 4)], None).await.unwrap();
        let expected = [entry(1, 1), entry(2, 2), entry(3, 4), entry(4, 4)];
        let (mut storage, loaded) = open(rt.clone(), &dir).await.unwrap();
        assert_eq!(loaded.entries, expected);
        // A snapshot of the middle of it, and the files before it gone.
        let conf_state = ConfState { voters: vec![1], learners: vec![] };
        let tree = tree(3);
        let meta = SnapshotMeta { index: 3, term: 4, conf_state, last_zxid: tree.last_zxid() };
        write_snapshot(&rt, storage.dir(), storage.storage_id(), meta, &SnapshotState::default(), tree.items()).await.unwrap();
        storage.append(&[entry(5, 4)], None).await.unwrap();
        let (_, loaded) = open(rt, &dir).await.unwrap();
        assert_eq!(loaded.entries, [entry(4, 4), entry(5, 4)]);
    });
}

#[test]
fn a_received_snapshot_takes_the_place_of_the_log_and_must_be_followed_by_one() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open_as(rt.clone(), &dir, Some((99, identity()))).await.unwrap();
        storage.append(&entries(1..=5), Some(HardState { term: 1, vote: 3, commit: 2 })).await.unwrap();
        install(&mut storage, 40, &tree(12)).await;
        storage.append(&[entry(41, 9)], None).await.unwrap();
        drop(storage);
        let (storage, loaded) = open(rt.clone(), &dir).await.unwrap();
        let (meta, loaded_tree, state) = loaded.snapshot.unwrap();
        assert_eq!((meta.index, meta.term, loaded_tree, state.digest), (40, 9, tree(12), 5));
        assert_eq!((loaded.entries, loaded.identity, storage.last_index()), (vec![entry(41, 9)], Some(identity()), 41));
        assert_eq!(loaded.hard_state, HardState { term: 9, vote: 1, commit: 40 });
        drop(storage);
        rt.disk().remove_file(&dir.join(log_name(41))).await.unwrap();
        let error = refused(&rt, &dir).await;
        assert!(matches!(&error, StorageError::Missing { file, .. } if *file == dir.join(log_name(41))), "{error}");
    });
}

#[test]
fn a_log_that_a_received_snapshot_replaced_does_not_come_back_for_the_one_that_is_missing() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open_as(rt.clone(), &dir, Some((99, identity()))).await.unwrap();
        // What a deposed leader had beyond the snapshot, and it was never committed.
        storage.append(&entries(1..=60), Some(HardState { term: 1, vote: 3, commit: 2 })).await.unwrap();
        install(&mut storage, 40, &tree(12)).await;
        storage.append(&[entry(41, 9)], None).await.unwrap();
        drop(storage);
        rt.disk().remove_file(&dir.join(log_name(41))).await.unwrap();
        let error = refused(&rt, &dir).await;
        assert!(matches!(&error, StorageError::Missing { file, .. } if *file == dir.join(log_name(41))), "{error}");
    });
}

#[test]
fn the_log_before_a_snapshot_is_named_by_the_one_after_it() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        storage.append(&entries(1..=10), None).await.unwrap();
        let tree = tree(5);
        let meta = SnapshotMeta { index: 5, term: 1, conf_state: ConfState { voters: vec![1], learners: vec![] }, last_zxid: tree.last_zxid() };
        storage.roll().await.unwrap();
        write_snapshot(&rt, &dir, storage.storage_id(), meta, &SnapshotState::default(), tree.items()).await.unwrap();
        drop(storage);
        rt.disk().remove_file(&dir.join(log_name(1))).await.unwrap();
        let error = refused(&rt, &dir).await;
        assert!(matches!(&error, StorageError::Missing { file, .. } if *file == dir.join(log_name(1))), "{error}");
    });
}

#[test]
fn a_crash_within_an_installation_leaves_the_old_log_or_the_new_one() {
    with_dir(|rt, dir| async move {
        let (mut storage, _) = open(rt.clone(), &dir).await.unwrap();
        let vote = HardState { term: 1, vote: 3, commit: 2 };
        storage.append(&entries(1..=5), Some(vote)).await.unwrap();
        install(&mut storage, 40, &tree(12)).await;
        drop(storage);
        let (name, received) = (dir.join(snapshot_name(40)), dir.join(format!("{RECEIVED_PREFIX}{}", snapshot_name(40))));
        // Its log is there, its own name is not.
        rt.disk().rename(&name, &received).await.unwrap();
        let (_, loaded) = open(rt.clone(), &dir).await.unwrap();
        assert_eq!(loaded.snapshot.map(|(meta, ..)| meta.index), Some(40));
        // Neither is.
        rt.disk().rename(&name, &received).await.unwrap();
        rt.disk().remove_file(&dir.join(log_name(41))).await.unwrap();
        let (_, loaded) = open(rt, &dir).await.unwrap();
        assert_eq!((loaded.entries, loaded.hard_state), (entries(1..=5), vote));
    });
}
