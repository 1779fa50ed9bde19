//! How should a log directory be flushed? Measures group commit for 1 to 1,000 active partitions under the policies that
//! `docs/flush.md` chooses from. A model of the broker's append path, not the broker: appenders write records with `pwrite` as the workers do,
//! flushers make them durable, and an append is acknowledged by the first flush that began after it.
//!
//! ```text
//! cargo bench --bench flush -- --dir DIR [--seconds 2] [--repeats 5] [--partitions 1,10,100,1000] [--load paced,closed]
//!     [--policies f1,f2,f4,f8,syncfs,f4k2,f4k8,f4k32] [--files grow,reserve,recycle] [--rate 5000] [--neighbour 0]
//! ```
//!
//! Policies: `fN` N flushers, `fdatasync` per file; `syncfs` one flusher, `syncfs` per round; `fNkK` N flushers, `fdatasync` per file while at
//! most K files wait, one `syncfs` for all of them above; `fNkKg` the same, guarded (see `Policy`). Loads: `paced` appends at a fixed rate in total, latency counted from when an append
//! was due; `closed` max(64, partitions) producers of which each waits for its acknowledgement. Files: `grow` from nothing; `reserve` the same
//! with space reserved ahead (`fallocate`, KEEP_SIZE); `recycle` overwrites files of full length. `--neighbour` MB/s: how much another process on
//! the same file system writes meanwhile without ever syncing.
//!
//! Needs at most 1.5 GB below DIR, and removes what it made. DIR must be on the disk in question, not on tmpfs.
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::disallowed_macros,
    missing_docs,
    reason = "a measurement of the operating system itself, by the operating system's means"
)]

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, fdatasync, syncfs};

const RECORD_BYTES: u64 = 1024;
/// Space of all files together, recycled or reserved.
const SPACE_BYTES: u64 = 512 << 20;
const RESERVE_STEP_BYTES: u64 = 16 << 20;
const CLOSED_PRODUCERS_MIN: usize = 64;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Load {
    Paced,
    Closed,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Files {
    Grow,
    Reserve,
    Recycle,
}

#[derive(Clone, Copy, Debug)]
struct Policy {
    flushers: usize,
    /// With more dirty files than this, `syncfs`.
    dirty_files_max: usize,
    /// Even then only while `syncfs` takes no longer than the files' `fdatasync`s would, judged by what both took before.
    guarded: bool,
}

/// How long the guard keeps from `syncfs` after one that was too slow.
const GUARD_PAUSE: Duration = Duration::from_secs(5);

impl Policy {
    fn parse(text: &str) -> Self {
        if text == "syncfs" {
            return Self { flushers: 1, dirty_files_max: 0, guarded: false };
        }
        let guarded = text.ends_with('g');
        let text = text.trim_end_matches('g');
        let (flushers, dirty_files_max) = text[1..].split_once('k').map_or((&text[1..], usize::MAX), |(f, k)| (f, k.parse().unwrap()));
        Self { flushers: flushers.parse().unwrap(), dirty_files_max, guarded }
    }
}

struct Options {
    dir: PathBuf,
    seconds: f64,
    repeats: usize,
    partitions: Vec<usize>,
    loads: Vec<Load>,
    policies: Vec<String>,
    files: Vec<Files>,
    rate: u64,
    neighbour_mb: u64,
}

fn options() -> Options {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let value = |name: &str, default: &str| {
        let found = args.iter().position(|arg| arg == name).map(|at| args[at + 1].clone());
        found.unwrap_or_else(|| default.to_owned())
    };
    let list = |name: &str, default: &str| value(name, default).split(',').map(str::to_owned).collect::<Vec<_>>();
    Options {
        dir: value("--dir", "target/flush-bench").into(),
        seconds: value("--seconds", "2").parse().unwrap(),
        repeats: value("--repeats", "5").parse().unwrap(),
        partitions: list("--partitions", "1,10,100,1000").iter().map(|n| n.parse().unwrap()).collect(),
        loads: list("--load", "paced,closed").iter().map(|load| if load == "paced" { Load::Paced } else { Load::Closed }).collect(),
        policies: list("--policies", "f1,f2,f4,f8,syncfs,f4k2,f4k8,f4k32"),
        files: list("--files", "grow")
            .iter()
            .map(|files| match files.as_str() {
                "grow" => Files::Grow,
                "reserve" => Files::Reserve,
                _ => Files::Recycle,
            })
            .collect(),
        rate: value("--rate", "5000").parse().unwrap(),
        neighbour_mb: value("--neighbour", "0").parse().unwrap(),
    }
}

/// One append that waits: who made it, and when it was due.
#[derive(Clone, Copy)]
struct Waiting {
    producer: usize,
    since: Instant,
}

#[derive(Default)]
struct Partition {
    waiting: Vec<Waiting>,
    queued: bool,
    flushing: bool,
}

struct State {
    partitions: Vec<Partition>,
    /// Dirty files that no flusher has, in the order in which they became so.
    dirty: VecDeque<usize>,
    /// Closed load: producers that may append.
    ready: Vec<usize>,
    acknowledged_us: Vec<u32>,
    syncs: u64,
    /// A `syncfs` is under way. A second one beside it would wait for the same inodes and gain nothing.
    together: bool,
    /// Moving averages of what one `fdatasync` and one `syncfs` take; 0 before the first.
    file_us: f64,
    together_us: f64,
    together_at: Instant,
}

impl State {
    fn flush_together(&self, policy: Policy) -> bool {
        let dirty = self.dirty.len();
        let affordable = self.together_us <= self.file_us * dirty as f64 / policy.flushers as f64 || self.file_us == 0.0;
        dirty > policy.dirty_files_max && (!policy.guarded || affordable || self.together_at.elapsed() > GUARD_PAUSE)
    }
}

fn average(of: &mut f64, took: Duration) {
    let us = took.as_micros() as f64;
    *of = if *of == 0.0 { us } else { *of + (us - *of) / 8.0 };
}

struct Shared {
    state: Mutex<State>,
    work: Condvar,
    room: Condvar,
    stop: AtomicBool,
    files: Vec<PartitionFile>,
    dir: File,
    appends_us: Mutex<Vec<u32>>,
}

struct PartitionFile {
    file: File,
    position: AtomicU64,
    reserved: AtomicU64,
    kind: Files,
    len: u64,
}

impl PartitionFile {
    fn new(dir: &Path, number: usize, kind: Files, of: usize) -> Self {
        let path = dir.join(format!("{number:05}.log"));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path).unwrap();
        let len = (SPACE_BYTES / of as u64).min(64 << 20) / RECORD_BYTES * RECORD_BYTES;
        if kind == Files::Recycle {
            let zeros = vec![0xa5; 1 << 20];
            let mut at = 0;
            while at < len {
                let size = (zeros.len() as u64).min(len - at);
                file.write_all_at(&zeros[..size as usize], at).unwrap();
                at += size;
            }
            file.sync_all().unwrap();
        }
        Self { file, position: AtomicU64::new(0), reserved: AtomicU64::new(0), kind, len }
    }

    fn append(&self, record: &[u8], step: u64) {
        let mut at = self.position.fetch_add(record.len() as u64, Ordering::Relaxed);
        match self.kind {
            Files::Grow => {}
            Files::Reserve => {
                if at + record.len() as u64 > self.reserved.load(Ordering::Relaxed) {
                    let from = self.reserved.fetch_add(step, Ordering::Relaxed);
                    fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, step).unwrap();
                }
            }
            Files::Recycle => at %= self.len,
        }
        self.file.write_all_at(record, at).unwrap();
    }
}

impl Shared {
    /// Writes one record of each producer, then makes all of them known to the flushers.
    fn append(&self, batch: &[(usize, usize, Instant)], record: &[u8], step: u64) {
        let mut took = Vec::with_capacity(batch.len());
        for &(partition, producer, since) in batch {
            let start = Instant::now();
            self.files[partition].append(record, step);
            took.push(start.elapsed().as_micros() as u32);
            let mut state = self.state.lock().unwrap();
            let of = &mut state.partitions[partition];
            of.waiting.push(Waiting { producer, since });
            if !of.queued && !of.flushing {
                of.queued = true;
                state.dirty.push_back(partition);
                self.work.notify_one();
            }
        }
        self.appends_us.lock().unwrap().extend(took);
    }

    fn flusher(&self, policy: Policy, closed: bool) {
        let mut state = self.state.lock().unwrap();
        loop {
            while state.dirty.is_empty() || (state.together && state.flush_together(policy)) {
                if state.dirty.is_empty() && self.stop.load(Ordering::Relaxed) {
                    return;
                }
                state = self.work.wait_timeout(state, Duration::from_millis(50)).unwrap().0;
            }
            let together = state.flush_together(policy);
            let taken: Vec<usize> = if together { state.dirty.drain(..).collect() } else { state.dirty.pop_front().into_iter().collect() };
            let mut waiting = Vec::new();
            for &partition in &taken {
                let of = &mut state.partitions[partition];
                of.queued = false;
                of.flushing = true;
                waiting.append(&mut of.waiting);
            }
            state.together |= together;
            drop(state);
            let began = Instant::now();
            if together {
                syncfs(&self.dir).unwrap()
            } else {
                fdatasync(&self.files[taken[0]].file).unwrap()
            }
            let now = Instant::now();
            state = self.state.lock().unwrap();
            state.syncs += 1;
            if together {
                state.together = false;
                state.together_at = now;
                average(&mut state.together_us, now - began);
            } else {
                average(&mut state.file_us, now - began);
            }
            for &partition in &taken {
                let of = &mut state.partitions[partition];
                of.flushing = false;
                if !of.waiting.is_empty() {
                    of.queued = true;
                    state.dirty.push_back(partition);
                }
            }
            if state.dirty.len() > 1 && policy.flushers > 1 {
                self.work.notify_one();
            }
            for waited in waiting {
                state.acknowledged_us.push((now - waited.since).as_micros() as u32);
                if closed {
                    state.ready.push(waited.producer);
                }
            }
            if closed {
                self.room.notify_all();
            }
        }
    }
}

/// SplitMix64: which partition an append goes to.
fn draw(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn cpu_us() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes the struct it is given.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) }, 0);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

#[derive(Clone, Copy, Default)]
struct Figures {
    acks_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    append_p99_us: f64,
    append_max_us: f64,
    acks_per_sync: f64,
    cpu_us_per_ack: f64,
}

fn percentile(sorted: &[u32], of: f64) -> f64 {
    sorted.get(((sorted.len() as f64 * of) as usize).min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |&us| f64::from(us))
}

fn measure(options: &Options, partitions: usize, load: Load, policy: Policy, kind: Files) -> Figures {
    let _ = std::fs::remove_dir_all(&options.dir);
    std::fs::create_dir_all(&options.dir).unwrap();
    let dir = File::open(&options.dir).unwrap();
    let files = (0..partitions).map(|number| PartitionFile::new(&options.dir, number, kind, partitions)).collect();
    // Whatever the preparation and the run before left dirty is not this run's.
    syncfs(&dir).unwrap();
    let producers = CLOSED_PRODUCERS_MIN.max(partitions);
    let shared = Arc::new(Shared {
        state: Mutex::new(State {
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            dirty: VecDeque::new(),
            ready: (0..producers).collect(),
            acknowledged_us: Vec::new(),
            syncs: 0,
            together: false,
            file_us: 0.0,
            together_us: 0.0,
            together_at: Instant::now(),
        }),
        work: Condvar::new(),
        room: Condvar::new(),
        stop: AtomicBool::new(false),
        files,
        dir,
        appends_us: Mutex::new(Vec::new()),
    });
    let step = RESERVE_STEP_BYTES.min(SPACE_BYTES / partitions as u64);
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    let cpu_before = cpu_us();
    let mut threads = Vec::new();
    for _ in 0..policy.flushers {
        let shared = Arc::clone(&shared);
        threads.push(thread::spawn(move || shared.flusher(policy, load == Load::Closed)));
    }
    let mut appenders = Vec::new();
    if load == Load::Paced {
        let (shared, rate) = (Arc::clone(&shared), options.rate);
        appenders.push(thread::spawn(move || {
            let record = vec![7; RECORD_BYTES as usize];
            let (mut number, mut random) = (0u64, 1);
            loop {
                let due = start + Duration::from_nanos(number * 1_000_000_000 / rate);
                if due >= end {
                    return;
                }
                if let Some(early) = due.checked_duration_since(Instant::now()) {
                    thread::sleep(early);
                }
                shared.append(&[((draw(&mut random) % partitions as u64) as usize, 0, due)], &record, step);
                number += 1;
            }
        }));
    } else {
        for seed in 0..2 {
            let shared = Arc::clone(&shared);
            appenders.push(thread::spawn(move || {
                let record = vec![7; RECORD_BYTES as usize];
                let mut random = seed * 1000 + 1;
                while Instant::now() < end {
                    let mut state = shared.state.lock().unwrap();
                    if state.ready.is_empty() {
                        drop(shared.room.wait_timeout(state, Duration::from_millis(50)).unwrap());
                        continue;
                    }
                    let half = state.ready.len().div_ceil(2);
                    let ready: Vec<usize> = state.ready.drain(..half).collect();
                    drop(state);
                    for producer in ready {
                        shared.append(&[((draw(&mut random) % partitions as u64) as usize, producer, Instant::now())], &record, step);
                    }
                }
            }));
        }
    }
    let neighbour = (options.neighbour_mb > 0).then(|| {
        let (path, rate) = (options.dir.with_extension("neighbour"), options.neighbour_mb);
        thread::spawn(move || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path).unwrap();
            let chunk = vec![1; 1 << 20];
            for number in 0u64.. {
                let due = start + Duration::from_secs_f64(number as f64 / rate as f64);
                if due >= end {
                    break;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
                file.write_all_at(&chunk, number % 256 * (1 << 20)).unwrap();
            }
            std::fs::remove_file(path).unwrap();
        })
    });
    for appender in appenders {
        appender.join().unwrap();
    }
    // What is acknowledged after the end does not count: a policy that cannot keep up must not look as if it did.
    let (mut acknowledged, syncs, cpu) = {
        let state = shared.state.lock().unwrap();
        (state.acknowledged_us.clone(), state.syncs, cpu_us() - cpu_before)
    };
    let took = start.elapsed().as_secs_f64();
    shared.stop.store(true, Ordering::Relaxed);
    shared.work.notify_all();
    for thread in threads {
        thread.join().unwrap();
    }
    if let Some(neighbour) = neighbour {
        neighbour.join().unwrap();
    }
    let mut appends = shared.appends_us.lock().unwrap().clone();
    appends.sort_unstable();
    acknowledged.sort_unstable();
    std::fs::remove_dir_all(&options.dir).unwrap();
    let count = acknowledged.len() as f64;
    Figures {
        acks_per_second: count / took,
        p50_us: percentile(&acknowledged, 0.5),
        p99_us: percentile(&acknowledged, 0.99),
        append_p99_us: percentile(&appends, 0.99),
        append_max_us: percentile(&appends, 1.0),
        acks_per_sync: count / syncs as f64,
        cpu_us_per_ack: cpu / count,
    }
}

fn main() {
    let options = options();
    println!("| partitions | load | files | policy | acks/s | p50 ms | p99 ms | append p99 ms | append max ms | acks/sync | CPU us/ack |");
    println!("|--:|---|---|---|--:|--:|--:|--:|--:|--:|--:|");
    for &partitions in &options.partitions {
        for &load in &options.loads {
            for &files in &options.files {
                // Round by round, so that a disk that others slow down for a while does so for every policy.
                let rounds: Vec<Vec<Figures>> = (0..options.repeats)
                    .map(|_| options.policies.iter().map(|name| measure(&options, partitions, load, Policy::parse(name), files)).collect())
                    .collect();
                for (number, name) in options.policies.iter().enumerate() {
                    let runs: Vec<Figures> = rounds.iter().map(|round| round[number]).collect();
                    let median = |of: fn(&Figures) -> f64| {
                        let mut values: Vec<f64> = runs.iter().map(of).collect();
                        values.sort_by(f64::total_cmp);
                        values[values.len() / 2]
                    };
                    println!(
                        "| {partitions} | {load:?} | {files:?} | {name} | {:.0} | {:.2} | {:.2} | {:.3} | {:.1} | {:.1} | {:.0} |",
                        median(|f| f.acks_per_second),
                        median(|f| f.p50_us) / 1e3,
                        median(|f| f.p99_us) / 1e3,
                        median(|f| f.append_p99_us) / 1e3,
                        median(|f| f.append_max_us) / 1e3,
                        median(|f| f.acks_per_sync),
                        median(|f| f.cpu_us_per_ack),
                    );
                }
            }
        }
    }
}
