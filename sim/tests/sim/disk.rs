//! What the simulated disk must be able to do to a process: the acceptance list of its durability and its faults.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ottla::runtime::{Disk, File, Open, Parts, Runtime};
use ottla_sim::disk::model::errno;
use ottla_sim::disk::ops::{AimedFault, DiskOptions, OpKind};
use ottla_sim::runtime::SimRuntime;
use ottla_sim::state::{CrashKind, CrashPoint, CrashWhen, Exit};
use ottla_sim::world::{Host, WorldOptions};

use super::in_world;

const SEED_COUNT: u64 = 100;

fn bytes(byte: u8, len: usize) -> Parts {
    [Bytes::from(vec![byte; len])].into_iter().collect()
}

/// Runs `main` on the host until it waits for ever or returns.
async fn play<F, Fut>(host: &Host, main: F)
where
    F: Fn(SimRuntime) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    assert_eq!(host.start(main).wait().await, Exit::Returned);
}

/// A durable file `/d/f` of 700 bytes of 1 and then 2,000 unsynced ones of 2, cut off by `kind`; what is left of it.
fn after_crash(seed: u64, kind: CrashKind, garbage: bool) -> Vec<u8> {
    let mut options = WorldOptions::calm(seed);
    options.disk = DiskOptions { garbage, ..DiskOptions::default() };
    in_world(options, move |world| async move {
        let host = world.host("a");
        play(&host, |rt| async move {
            let disk = rt.disk();
            disk.create_dir(Path::new("/d")).await.unwrap();
            disk.sync_dir(Path::new("/")).await.unwrap();
            let file = disk.open(Path::new("/d/f"), Open::CreateNew).await.unwrap();
            file.write_at(0, bytes(1, 700)).await.unwrap();
            file.sync_data().await.unwrap();
            disk.sync_dir(Path::new("/d")).await.unwrap();
            file.write_at(700, bytes(2, 2_000)).await.unwrap();
        })
        .await;
        host.crash(kind);
        host.read_file("/d/f").expect("the file is durable")
    })
}

#[test]
fn unsynced_data_is_lost_kept_or_torn_at_sectors_and_synced_data_stays() {
    let (mut lost, mut kept, mut torn, mut lengths) = (0, 0, 0, BTreeSet::new());
    for seed in 0..SEED_COUNT * 3 {
        let left = after_crash(seed, CrashKind::PowerCut, seed % 2 == 0);
        assert_eq!(left[..700], [1; 700], "seed {seed}: synced bytes changed");
        let tail = &left[700..];
        lengths.insert(left.len());
        if tail.is_empty() {
            lost += 1;
        } else if tail.len() == 2_000 && tail.iter().all(|byte| *byte == 2) {
            kept += 1;
        } else {
            torn += 1;
        }
        if seed % 2 == 1 {
            // Without garbage, only one boundary per sector: whole sectors, and torn ones in two runs.
            for (index, sector) in left.chunks(512).enumerate() {
                let from = 700usize.saturating_sub(index * 512).min(sector.len());
                let changes = sector[from..].windows(2).filter(|pair| pair[0] != pair[1]).count();
                assert!(changes <= 1 && sector[from..].iter().all(|byte| matches!(byte, 0 | 2)), "seed {seed}, sector {index}: {sector:?}");
            }
        }
    }
    assert!(lost > 10 && kept > 10 && torn > 10, "lost {lost}, kept {kept}, torn {torn}");
    assert!(lengths.len() > 10, "{lengths:?}");
}

#[test]
fn kill_9_keeps_the_page_cache() {
    for seed in 0..20 {
        let left = after_crash(seed, CrashKind::Kill, true);
        assert_eq!(left.len(), 2_700);
        assert!(left[700..].iter().all(|byte| *byte == 2));
    }
}

/// Which of these names exist in `/d` after `main` and a power cut, over many seeds.
fn names_after_cut<F, Fut>(main: F) -> BTreeSet<Vec<String>>
where
    F: Fn(SimRuntime) -> Fut + Send + Sync + Copy + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    (0..SEED_COUNT)
        .map(|seed| {
            in_world(WorldOptions::calm(seed), move |world| async move {
                let host = world.host("a");
                play(&host, move |rt| async move {
                    rt.disk().create_dir(Path::new("/d")).await.unwrap();
                    rt.disk().sync_dir(Path::new("/")).await.unwrap();
                    main(rt).await;
                })
                .await;
                host.crash(CrashKind::PowerCut);
                host.disk(|disk| disk.model.files()).into_iter().map(|(path, _)| path).collect()
            })
        })
        .collect()
}

fn sets(expected: &[&[&str]]) -> BTreeSet<Vec<String>> {
    expected.iter().map(|names| names.iter().map(|name| (*name).to_owned()).collect()).collect()
}

async fn make(rt: &SimRuntime, path: &str) {
    let file = rt.disk().open(Path::new(path), Open::CreateNew).await.unwrap();
    file.write_at(0, bytes(1, 10)).await.unwrap();
    file.sync_data().await.unwrap();
}

#[test]
fn a_file_is_lost_or_not_without_the_directory_sync_and_never_with_it() {
    let unsynced = names_after_cut(|rt| async move { make(&rt, "/d/f").await });
    assert_eq!(unsynced, sets(&[&[], &["/d/f"]]));
    let synced = names_after_cut(|rt| async move {
        make(&rt, "/d/f").await;
        rt.disk().sync_dir(Path::new("/d")).await.unwrap();
    });
    assert_eq!(synced, sets(&[&["/d/f"]]));
}

#[test]
fn names_of_one_directory_survive_in_any_subset() {
    let names = names_after_cut(|rt| async move {
        make(&rt, "/d/1").await;
        make(&rt, "/d/2").await;
    });
    assert_eq!(names, sets(&[&[], &["/d/1"], &["/d/2"], &["/d/1", "/d/2"]]));
}

#[test]
fn a_rename_is_lost_or_not_without_the_directory_sync_but_never_half_done() {
    let names = names_after_cut(|rt| async move {
        make(&rt, "/d/old").await;
        rt.disk().sync_dir(Path::new("/d")).await.unwrap();
        rt.disk().rename(Path::new("/d/old"), Path::new("/d/new")).await.unwrap();
    });
    assert_eq!(names, sets(&[&["/d/new"], &["/d/old"]]));
}

#[test]
fn a_rename_between_directories_is_whole_or_not_at_all() {
    let names = names_after_cut(|rt| async move {
        let disk = rt.disk();
        disk.create_dir(Path::new("/e")).await.unwrap();
        disk.sync_dir(Path::new("/")).await.unwrap();
        make(&rt, "/d/f").await;
        disk.sync_dir(Path::new("/d")).await.unwrap();
        disk.rename(Path::new("/d/f"), Path::new("/e/f")).await.unwrap();
        disk.sync_dir(Path::new("/e")).await.unwrap();
    });
    assert_eq!(names, sets(&[&["/d/f"], &["/e/f"]]));
}

#[test]
fn a_removed_file_comes_back_without_the_directory_sync() {
    let names = names_after_cut(|rt| async move {
        make(&rt, "/d/f").await;
        rt.disk().sync_dir(Path::new("/d")).await.unwrap();
        rt.disk().remove_file(Path::new("/d/f")).await.unwrap();
    });
    assert_eq!(names, sets(&[&[], &["/d/f"]]));
}

#[test]
fn a_directory_that_was_not_synced_into_its_parent_takes_synced_files_along() {
    let names = names_after_cut(|rt| async move {
        rt.disk().create_dir(Path::new("/d/sub")).await.unwrap();
        make(&rt, "/d/sub/f").await;
        rt.disk().sync_dir(Path::new("/d/sub")).await.unwrap();
    });
    assert_eq!(names, sets(&[&[], &["/d/sub/f"]]));
}

#[test]
fn a_failed_sync_cleans_the_pages() {
    let mut gone = 0;
    for seed in 0..SEED_COUNT {
        let left = in_world(WorldOptions::calm(seed), |world| async move {
            let host = world.host("a");
            let fault = AimedFault { kind: OpKind::Sync, path_contains: "/f".into(), skip_count: 0, error: errno::EIO };
            host.disk(|disk| disk.aimed.push(fault));
            play(&host, |rt| async move {
                let file = rt.disk().open(Path::new("/f"), Open::Create).await.unwrap();
                rt.disk().sync_dir(Path::new("/")).await.unwrap();
                file.write_at(0, bytes(5, 4_096)).await.unwrap();
                assert_eq!(file.sync_data().await.unwrap_err().raw_os_error(), Some(errno::EIO));
                file.sync_data().await.expect("the second sync says yes");
                assert_eq!(file.read_at(0, 4_096).await.unwrap(), vec![5; 4_096], "the page cache still shows it");
            })
            .await;
            host.crash(CrashKind::PowerCut);
            host.read_file("/f").unwrap()
        });
        gone += u64::from(left != [5; 4_096]);
    }
    assert!(gone > SEED_COUNT / 2, "{gone} of {SEED_COUNT} lost what no good sync covered");
}

#[test]
fn the_disk_is_full_at_any_byte() {
    for room in [0u64, 1, 511, 512, 1_000, 2_999] {
        let len = in_world(WorldOptions::calm(room), move |world| async move {
            let host = world.host("a");
            host.disk(|disk| disk.model.set_capacity(room));
            play(&host, move |rt| async move {
                let file = rt.disk().open(Path::new("/f"), Open::Create).await.unwrap();
                let error = file.write_at(0, bytes(5, 3_000)).await.unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                assert_eq!(rt.disk().free_bytes(Path::new("/")).await.unwrap(), 0);
                assert_eq!(file.preallocate(9_000).await.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
                file.set_len(0).await.unwrap();
                assert_eq!(rt.disk().free_bytes(Path::new("/")).await.unwrap(), room);
                let _ = file.write_at(0, bytes(5, 3_000)).await;
            })
            .await;
            host.read_file("/f").unwrap().len() as u64
        });
        assert_eq!(len, room, "a prefix is written as far as it goes");
    }
}

#[test]
fn reads_and_writes_fail_with_eio_at_the_drawn_rate() {
    let mut options = WorldOptions::calm(1);
    options.disk = DiskOptions { read_error_ppm: 300_000, write_error_ppm: 300_000, name_error_ppm: 300_000, ..DiskOptions::default() };
    in_world(options, |world| async move {
        play(&world.host("a"), |rt| async move {
            let file = loop {
                if let Ok(file) = rt.disk().open(Path::new("/f"), Open::Create).await {
                    break file;
                }
            };
            let (mut reads, mut writes) = (0, 0);
            for _ in 0..200 {
                writes += u32::from(file.write_at(0, bytes(1, 100)).await.is_err_and(|error| error.raw_os_error() == Some(errno::EIO)));
                reads += u32::from(file.read_at(0, 100).await.is_err());
            }
            assert!((20..120).contains(&reads) && (20..120).contains(&writes), "{reads} {writes}");
        })
        .await;
    });
}

#[test]
fn a_bit_rots_at_rest() {
    in_world(WorldOptions::calm(1), |world| async move {
        let host = world.host("a");
        play(&host, |rt| async move { make(&rt, "/f").await }).await;
        assert!(host.disk(|disk| disk.model.flip_bit(Path::new("/f"), 3, 7)));
        assert_eq!(host.read_file("/f").unwrap(), [1, 1, 1, 129, 1, 1, 1, 1, 1, 1]);
    });
}

#[test]
fn a_stalled_disk_holds_syncs_back() {
    in_world(WorldOptions::calm(1), |world| async move {
        let host = world.host("a");
        host.stall_disk(Duration::from_secs(7));
        play(&host, |rt| async move {
            let file = rt.disk().open(Path::new("/f"), Open::Create).await.unwrap();
            file.sync_data().await.unwrap();
        })
        .await;
        assert!(world.now() >= Duration::from_secs(7), "{:?}", world.now());
    });
}

#[test]
fn a_lock_is_released_when_its_process_dies() {
    in_world(WorldOptions::calm(1), |world| async move {
        let host = world.host("a");
        let holder = host.start(|rt| async move {
            let _lock = rt.disk().try_lock(Path::new("/.lock")).await.unwrap().expect("free");
            std::future::pending().await
        });
        world.sleep(Duration::from_secs(1)).await;
        play(&host, |rt| async move { assert!(rt.disk().try_lock(Path::new("/.lock")).await.unwrap().is_none(), "held by another") }).await;
        holder.kill();
        play(&host, |rt| async move { assert!(rt.disk().try_lock(Path::new("/.lock")).await.unwrap().is_some(), "free again") }).await;
    });
}

#[test]
fn a_crash_comes_before_within_or_after_an_io_call() {
    let mut lengths = [BTreeSet::new(), BTreeSet::new(), BTreeSet::new()];
    for seed in 0..60 {
        for (at, when) in [CrashWhen::Before, CrashWhen::Within, CrashWhen::After].into_iter().enumerate() {
            let len = in_world(WorldOptions::calm(seed), move |world| async move {
                let host = world.host("a");
                // The first call opens the file, the second writes.
                host.crash_at(CrashPoint { skip_count: 1, when, kind: CrashKind::Kill });
                let exit = host
                    .start(|rt| async move {
                        let file = rt.disk().open(Path::new("/f"), Open::Create).await.unwrap();
                        file.write_at(0, bytes(1, 1_000)).await.unwrap();
                        panic!("nobody hears of a write at which the process died");
                    })
                    .wait()
                    .await;
                assert_eq!(exit, Exit::Killed);
                host.read_file("/f").unwrap().len()
            });
            lengths[at].insert(len);
        }
    }
    assert_eq!(lengths[0], BTreeSet::from([0]));
    assert!(lengths[1].len() > 10, "{:?}", lengths[1]);
    assert_eq!(lengths[2], BTreeSet::from([1_000]));
}
