//! Clocks of their own, and what the dead may do: nothing.

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ottla::runtime::{Disk, File, Open, Runtime, Task};
use ottla_sim::state::{CrashKind, Exit};
use ottla_sim::verdict::Verdict;
use ottla_sim::world::{WorldOptions, run};

use super::in_world;

#[test]
fn hosts_have_clocks_of_their_own() {
    let mut options = WorldOptions::calm(5);
    options.clock.drift_max_ppm = 50_000;
    options.clock.offset_max_ms = 60_000;
    in_world(options, |world| async move {
        let (a, b) = (world.host("a"), world.host("b"));
        assert_ne!(a.unix_ms(), b.unix_ms());
        let measured = Arc::new(Mutex::new(Vec::new()));
        for host in [&a, &b] {
            let (measured, outside) = (measured.clone(), world.clone());
            host.start(move |rt| {
                let (measured, outside) = (measured.clone(), outside.clone());
                async move {
                    let (start, true_start) = (rt.now(), outside.now());
                    rt.sleep(Duration::from_secs(100)).await;
                    assert!(rt.now() - start >= Duration::from_secs(100));
                    measured.lock().unwrap().push(outside.now() - true_start);
                }
            })
            .wait()
            .await;
        }
        let measured = measured.lock().unwrap().clone();
        assert_ne!(measured[0], measured[1]);
        assert!(measured.iter().all(|took| (90..110).contains(&took.as_secs())), "{measured:?}");
        let before = a.unix_ms();
        a.jump_clock(-5_000);
        assert_eq!(a.unix_ms(), before - 5_000);
        a.set_clock_drift(500_000);
        world.sleep(Duration::from_secs(10)).await;
        assert_eq!((a.unix_ms() - before + 5_000) / 100, 150);
    });
}

#[test]
fn a_timer_waits_longer_when_its_clock_is_slowed_down() {
    in_world(WorldOptions::calm(1), |world| async move {
        let host = world.host("a");
        let process = host.start(|rt| async move { rt.sleep(Duration::from_secs(10)).await });
        world.sleep(Duration::from_secs(5)).await;
        host.set_clock_drift(-500_000);
        process.wait().await;
        assert_eq!(world.now().as_secs(), 15);
    });
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

#[test]
fn the_dead_never_wake_and_what_they_drop_has_no_effect() {
    for seed in 0..30 {
        in_world(WorldOptions::calm(seed), |world| async move {
            let host = world.host("a");
            let log = Arc::new(Mutex::new(Vec::new()));
            let said = log.clone();
            host.start(move |rt| {
                let said = said.clone();
                async move {
                    let life = rt.process_id().incarnation;
                    let file = rt.disk().open(Path::new("/f"), Open::Create).await.unwrap();
                    let lock = rt.disk().try_lock(Path::new("/.lock")).await.unwrap();
                    assert!(lock.is_some(), "the lock of life {life} is free: a dead one can neither keep nor release it");
                    let listener = rt.listen("0.0.0.0:9092".parse().unwrap()).await.unwrap();
                    let (last, words, late) = (rt.clone(), said.clone(), said.clone());
                    // This drops long after the successor was born, and does all it can.
                    let _will = OnDrop(move || {
                        last.event("said by the dead", &[]);
                        let _ = last.random_u64();
                        assert!(!last.buggify("dead"));
                        let words = words.clone();
                        last.spawn("ghost", async move { words.lock().unwrap().push("ghost") });
                        panic!("even this");
                    });
                    rt.spawn("writer", {
                        let rt = rt.clone();
                        async move {
                            loop {
                                file.write_at(0, [vec![life as u8; 8].into()].into_iter().collect()).await.unwrap();
                                rt.sleep(Duration::from_millis(3)).await;
                            }
                        }
                    });
                    if life == 1 {
                        rt.sleep(Duration::from_secs(2)).await;
                        late.lock().unwrap().push("the first life went on");
                    }
                    let _keep = (lock, listener);
                    std::future::pending().await
                }
            });
            world.sleep(Duration::from_secs(1)).await;
            assert_eq!(host.live_tasks(), [("main", 1), ("writer", 1)].into());
            host.crash(CrashKind::Kill);
            assert!(!host.is_alive() && host.live_tasks().is_empty());
            host.restart();
            world.sleep(Duration::from_secs(5)).await;
            assert_eq!(*log.lock().unwrap(), Vec::<&str>::new());
            assert_eq!(host.read_file("/f").unwrap(), [2; 8], "only the second life writes");
            assert_eq!(host.live_tasks(), [("main", 1), ("writer", 1)].into());
            // What an end by the harness drops may not decide the run either.
            host.crash(CrashKind::PowerCut);
            world.sleep(Duration::from_secs(1)).await;
        });
    }
}

#[test]
fn a_paused_host_stands_still_and_goes_on() {
    in_world(WorldOptions::calm(1), |world| async move {
        let host = world.host("a");
        let ticks = Arc::new(Mutex::new(0));
        let count = ticks.clone();
        host.start(move |rt| {
            let count = count.clone();
            async move {
                loop {
                    rt.sleep(Duration::from_millis(100)).await;
                    *count.lock().unwrap() += 1;
                }
            }
        });
        world.sleep(Duration::from_secs(1)).await;
        host.pause();
        let before = *ticks.lock().unwrap();
        world.sleep(Duration::from_secs(60)).await;
        assert_eq!(*ticks.lock().unwrap(), before);
        host.resume();
        world.sleep(Duration::from_secs(1)).await;
        assert!(*ticks.lock().unwrap() > before + 5);
        host.pause();
        host.crash(CrashKind::PowerCut);
        host.restart();
        let before = *ticks.lock().unwrap();
        world.sleep(Duration::from_secs(1)).await;
        assert!(*ticks.lock().unwrap() > before + 5, "a new life is not paused");
    });
}

#[test]
fn a_halt_ends_the_process_and_says_why() {
    in_world(WorldOptions::calm(1), |world| async move {
        let host = world.host("a");
        let exit = host
            .start(|rt| async move {
                rt.spawn("other", {
                    let rt = rt.clone();
                    async move { rt.sleep(Duration::from_secs(5)).await }
                });
                rt.halt("the disk is gone").await;
            })
            .wait()
            .await;
        assert_eq!(exit, Exit::Halted("the disk is gone".into()));
        assert!(!host.is_alive());
        assert_eq!(world.halts(), [("a".to_owned(), "the disk is gone".to_owned())]);
    });
}

#[test]
fn a_panic_in_any_task_is_a_verdict_with_its_words_and_place() {
    let report = run(WorldOptions::calm(1), |world| async move {
        world.host("a").start(|rt| async move {
            let _ = rt.spawn("clumsy", async { panic!("oh {}", "no") }).join().await;
        });
        world.sleep(Duration::from_secs(1)).await;
        Verdict::Clean
    });
    let Verdict::Crash { detail } = &report.verdict else { panic!("{:?}", report.verdict) };
    assert!(detail.starts_with("a#1: task 'clumsy' panicked: oh no at ") && detail.contains("life.rs:"), "{detail}");
    assert_eq!(report.verdict.exit_code(), 127);
}

#[test]
fn a_scenario_that_does_not_end_is_a_liveness_failure() {
    let mut options = WorldOptions::calm(1);
    options.limit = Duration::from_secs(100);
    let report = run(options, |_| std::future::pending());
    assert_eq!(report.verdict.exit_code(), 128);
    assert_eq!(report.simulated_ms / 1_000, 100);
}

#[test]
fn switching_one_subsystem_off_leaves_the_draws_of_others_alone() {
    let draws = |noisy: bool| {
        in_world(WorldOptions::calm(9), move |world| async move {
            if noisy {
                world.host("b").start(|rt| async move {
                    rt.disk().open(Path::new("/x"), Open::Create).await.unwrap().sync_data().await.unwrap();
                    rt.random_u64();
                });
                world.sleep(Duration::from_secs(1)).await;
                world.stream("nemesis").bits();
            } else {
                world.host("b");
            }
            let numbers = Arc::new(Mutex::new(Vec::new()));
            let out = numbers.clone();
            let process = world.host("a").start(move |rt| {
                let out = out.clone();
                async move {
                    let drawn: Vec<u64> = (0..3).map(|_| rt.random_u64()).collect();
                    out.lock().unwrap().extend(drawn);
                }
            });
            process.wait().await;
            (numbers.lock().unwrap().clone(), world.stream("workload").bits())
        })
    };
    assert_eq!(draws(false), draws(true));
}
