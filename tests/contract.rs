//! The contract of the boundary (`ottla::runtime`), one function per rule, generic over the [`Runtime`]: the same body runs
//! on tokio (`tests/it/contract_tokio.rs`) and in the simulated world (`sim/tests`), so that what the simulation promises is what the operating
//! system does. It uses nothing but the `Runtime` itself, `tokio::io`'s extension traits and `tokio::sync`, and supposes nothing about
//! real time: no rule fails because a machine is slow.
//!
//! How an implementation includes it: name this file by `#[path]`, and turn the list of rules into tests with a macro of your own
//! that runs one rule in a [`World`] with an empty directory:
//!
//! ```ignore
//! #[path = "../../tests/contract.rs"]
//! mod contract;
//! macro_rules! tests {
//!     ($($rule:ident)*) => { $( #[test] fn $rule() { in_a_world(|world| contract::$rule(world)) } )* };
//! }
//! contract::for_each_rule!(tests);
//! ```
//!
//! [`all`] runs every rule one after the other in directories of their own. A failed rule panics, in the task that the rule runs in.
#![allow(dead_code, reason = "each includer uses the list of rules or `all`")]

use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use ottla::runtime::{DirEntry, Disk, File, HostPort, Instant, Listener, Open, Parts, Runtime, Stream, Task, Timer, WriteHalf, write_all_parts};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

/// Where a rule is tried.
pub struct World<R: Runtime> {
    /// The process that the rule runs in.
    pub rt: R,
    /// An existing, empty directory of the rule's own.
    pub dir: PathBuf,
    /// An address of this host that it can listen on and connect to.
    pub address: IpAddr,
}

/// Calls the macro `$tests` with the names of all rules.
macro_rules! for_each_rule {
    ($tests:ident) => {
        $tests! {
            the_monotonic_clock_never_runs_backwards
            a_timer_is_never_early_and_never_after_a_later_one
            a_timer_whose_deadline_has_passed_completes_at_once
            a_timer_can_be_moved_before_and_after_completion
            random_numbers_differ
            a_task_runs_and_join_gives_its_value
            a_task_goes_on_when_its_handle_is_dropped
            an_aborted_task_drops_what_it_holds_and_joins_as_none
            a_task_that_has_ended_is_not_aborted
            blocking_work_gives_its_value
            a_name_is_resolved_and_an_address_means_itself
            a_name_without_an_address_is_an_error_that_names_it
            port_0_draws_a_free_port_and_both_sides_agree_on_the_addresses
            a_port_that_is_listened_on_is_taken
            a_closed_port_refuses
            a_dropped_listener_frees_its_port
            a_connection_is_made_before_it_is_accepted
            one_listener_accepts_many
            both_directions_carry_more_than_all_buffers_at_once
            a_writer_waits_for_a_reader_that_does_not_read
            vectored_parts_arrive_in_order
            shutdown_closes_one_direction_only
            dropping_the_write_half_closes_one_direction_only
            dropping_the_read_half_leaves_the_other_direction
            dropping_both_halves_closes_the_connection
            a_write_to_a_closed_connection_fails_at_last
            a_reset_is_an_error_on_both_sides
            send_file_sends_the_head_and_exactly_the_range
            send_file_of_nothing_sends_the_head
            send_file_of_a_range_beyond_the_end_is_unexpected_eof
            send_file_sends_more_than_all_buffers
            opening_obeys_the_mode
            a_new_file_is_empty_and_reads_give_what_was_written
            reads_at_the_end_are_short
            a_guarded_file_is_its_owners_alone
            a_gap_reads_as_zeros
            one_write_takes_thousands_of_parts
            a_write_with_its_sync_is_a_write
            a_large_file_is_read_in_one_call
            clones_of_a_file_share_it
            set_len_cuts_and_extends
            preallocate_leaves_the_length
            rename_replaces_and_open_handles_stay
            renaming_a_directory_keeps_its_open_files
            a_removed_file_stays_usable_where_it_is_open
            list_is_sorted_and_tells_directories
            create_dir_makes_those_above_and_accepts_existing_ones
            remove_dir_takes_empty_directories_only
            missing_paths_are_not_found
            a_lock_excludes_until_it_is_dropped
            syncs_succeed_and_change_nothing
            a_disk_tells_its_free_space
            errors_name_the_path
            a_dropped_write_happens_wholly_partly_or_not_at_all
            a_dropped_rename_happens_or_not
            a_dropped_open_makes_the_file_or_not
            a_dropped_sync_harms_nothing
        }
    };
}
pub(crate) use for_each_rule;

/// Runs every rule, each in a new directory below `world.dir`.
pub async fn all<R: Runtime>(world: World<R>) {
    macro_rules! run {
        ($($rule:ident)*) => {
            $(
                let dir = world.dir.join(stringify!($rule));
                world.rt.disk().create_dir(&dir).await.unwrap();
                $rule(World { rt: world.rt.clone(), dir, address: world.address }).await;
            )*
        };
    }
    for_each_rule!(run);
}

// ------------------------------------------------------------------------------------------------------------------------- helpers

type Connection<R> = <R as Runtime>::Stream;
type Read<R> = <<R as Runtime>::Stream as Stream>::Read;
type Write<R> = <<R as Runtime>::Stream as Stream>::Write;
type FileOf<R> = <<R as Runtime>::Disk as Disk>::File;

impl<R: Runtime> World<R> {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    async fn listen(&self) -> R::Listener {
        self.rt.listen(SocketAddr::new(self.address, 0)).await.unwrap()
    }

    async fn connect(&self, to: SocketAddr) -> io::Result<Connection<R>> {
        self.rt.connect(&HostPort { host: to.ip().to_string(), port: to.port() }).await
    }

    /// Both ends of one connection: the one that connected and the one that was accepted.
    async fn pair(&self) -> ((Read<R>, Write<R>), (Read<R>, Write<R>)) {
        let listener = self.listen().await;
        let ours = self.connect(listener.local_addr()).await.unwrap();
        let theirs = listener.accept().await.unwrap();
        (ours.into_split(), theirs.into_split())
    }

    /// A new file with this content.
    async fn file(&self, name: &str, content: impl Into<Bytes>) -> FileOf<R> {
        let file = self.rt.disk().open(&self.path(name), Open::CreateNew).await.unwrap();
        file.write_at(0, parts([content.into()])).await.unwrap();
        file
    }

    async fn content(&self, name: &str) -> Bytes {
        whole(&self.rt.disk().open(&self.path(name), Open::Read).await.unwrap()).await
    }

    async fn exists(&self, name: &str) -> bool {
        self.rt.disk().list(&self.dir).await.unwrap().iter().any(|entry| entry.name == name)
    }

    async fn pause(&self, ms: u64) {
        self.rt.sleep(Duration::from_millis(ms)).await;
    }
}

async fn whole<F: File>(file: &F) -> Bytes {
    let len = file.len().await.unwrap();
    file.read_at(0, usize::try_from(len).unwrap()).await.unwrap()
}

fn parts(of: impl IntoIterator<Item = Bytes>) -> Parts {
    of.into_iter().collect()
}

fn text(of: &'static str) -> Parts {
    parts([Bytes::from_static(of.as_bytes())])
}

/// Bytes that tell at which position they belong: no two windows of 8 bytes within 64 KiB are alike, nor are neighbouring 64 KiB.
fn pattern(from: u64, len: usize) -> Vec<u8> {
    (from..from + len as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 ^ (at >> 16) as u8).collect()
}

/// Compares without printing megabytes.
#[track_caller]
fn assert_same(found: &[u8], expected: &[u8]) {
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    assert!(differs.is_none(), "byte {} differs: {} instead of {}", differs.unwrap(), found[differs.unwrap()], expected[differs.unwrap()]);
    assert_eq!(found.len(), expected.len(), "the lengths differ");
}

#[track_caller]
fn assert_kind<T>(result: io::Result<T>, kind: ErrorKind) {
    match result {
        Ok(_) => panic!("succeeded; expected {kind:?}"),
        Err(e) => assert_eq!(e.kind(), kind, "{e}"),
    }
}

async fn to_end<S: AsyncRead + Unpin>(mut from: S) -> Vec<u8> {
    let mut all = Vec::new();
    from.read_to_end(&mut all).await.unwrap();
    all
}

/// Polls once and drops the future; whether it had completed.
async fn poll_once_and_drop<T>(future: impl Future<Output = T>) -> bool {
    let mut future = pin!(future);
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx).is_ready())).await
}

async fn is_ready(future: &mut (impl Future + Unpin)) -> bool {
    poll_fn(|cx| Poll::Ready(Pin::new(&mut *future).poll(cx).is_ready())).await
}

// -------------------------------------------------------------------------------------------------------------------- clocks, timers

pub async fn the_monotonic_clock_never_runs_backwards<R: Runtime>(world: World<R>) {
    let mut last = world.rt.now();
    for round in 0..200 {
        if round % 50 == 0 {
            let before = world.rt.now();
            world.pause(2).await;
            assert!(world.rt.now() - before >= Duration::from_millis(2));
        }
        let now = world.rt.now();
        assert!(now >= last, "{now:?} after {last:?}");
        last = now;
    }
    // The wall clock has no such rule; it only has to be a time that a record can carry.
    assert!(world.rt.unix_ms() > 0);
}

pub async fn a_timer_is_never_early_and_never_after_a_later_one<R: Runtime>(world: World<R>) {
    let start = world.rt.now();
    let deadlines: Vec<Instant> = [30, 5, 20, 12, 1, 25].into_iter().map(|ms| start + Duration::from_millis(ms)).collect();
    let mut timers: Vec<(Instant, R::Timer)> = deadlines.iter().map(|&at| (at, world.rt.timer(at))).collect();
    let mut done: Vec<Instant> = Vec::new();
    while !timers.is_empty() {
        // Polled from the latest to the earliest: whatever is ready, all that are due before it must be.
        timers.sort_by_key(|(at, _)| std::cmp::Reverse(*at));
        let ready: Vec<Instant> = poll_fn(|cx| {
            let ready: Vec<Instant> = timers.iter_mut().filter_map(|(at, timer)| Pin::new(timer).poll(cx).is_ready().then_some(*at)).collect();
            if ready.is_empty() { Poll::Pending } else { Poll::Ready(ready) }
        })
        .await;
        let now = world.rt.now();
        let latest = *ready.iter().max().unwrap();
        assert!(latest <= now, "{latest:?} completed early, at {now:?}");
        timers.retain(|(at, _)| !ready.contains(at));
        assert!(timers.iter().all(|(at, _)| *at > latest), "{latest:?} completed before {timers:?}", timers = timers.iter().map(|t| t.0).collect::<Vec<_>>());
        done.extend(ready);
    }
    done.sort();
    let mut expected = deadlines;
    expected.sort();
    assert_eq!(done, expected);
}

pub async fn a_timer_whose_deadline_has_passed_completes_at_once<R: Runtime>(world: World<R>) {
    world.pause(2).await;
    for deadline in [Instant::default(), world.rt.now()] {
        let before = world.rt.now();
        world.rt.timer(deadline).await;
        assert!(world.rt.now() >= before);
    }
    // The end of time is no error and no overflow; it is simply not reached.
    let mut never = world.rt.timer(Instant::from_nanos(u64::MAX));
    assert!(!is_ready(&mut never).await);
    world.pause(2).await;
    assert!(!is_ready(&mut never).await);
}

pub async fn a_timer_can_be_moved_before_and_after_completion<R: Runtime>(world: World<R>) {
    let day = Duration::from_secs(86_400);
    // Earlier: else this rule would last a day.
    let mut timer = world.rt.timer(world.rt.now() + day);
    assert!(!is_ready(&mut timer).await);
    let soon = world.rt.now() + Duration::from_millis(3);
    timer.reset(soon);
    (&mut timer).await;
    assert!(world.rt.now() >= soon);
    // After completion.
    let again = world.rt.now() + Duration::from_millis(3);
    timer.reset(again);
    (&mut timer).await;
    assert!(world.rt.now() >= again);
    // Later: the first deadline passes without effect.
    timer.reset(world.rt.now() + Duration::from_millis(2));
    assert!(!is_ready(&mut timer).await || world.rt.now() >= again + Duration::from_millis(2));
    timer.reset(world.rt.now() + day);
    world.pause(6).await;
    assert!(!is_ready(&mut timer).await);
    // A task that waits on it is woken by a move.
    let rt = world.rt.clone();
    let (send, mut receive) = mpsc::channel::<Instant>(1);
    let task = world.rt.spawn("mover", async move {
        let mut moved = false;
        loop {
            tokio::select! {
                biased;
                to = receive.recv(), if !moved => { timer.reset(to.unwrap()); moved = true; }
                () = &mut timer => return rt.now(),
            }
        }
    });
    let to = world.rt.now() + Duration::from_millis(2);
    send.send(to).await.unwrap();
    assert!(task.join().await.unwrap() >= to);
}

pub async fn random_numbers_differ<R: Runtime>(world: World<R>) {
    let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| world.rt.random_u64()).collect();
    assert_eq!(drawn.len(), 100);
    // All bits are drawn, not only the low or the high ones.
    assert_eq!(drawn.iter().fold(0, |bits, drawn| bits | drawn), u64::MAX);
}

// ---------------------------------------------------------------------------------------------------------------------------- tasks

pub async fn a_task_runs_and_join_gives_its_value<R: Runtime>(world: World<R>) {
    let rt = world.rt.clone();
    let task = world.rt.spawn("outer", async move { rt.spawn("inner", async { 21 }).join().await.unwrap() * 2 });
    assert_eq!(task.join().await, Some(42));
}

pub async fn a_task_goes_on_when_its_handle_is_dropped<R: Runtime>(world: World<R>) {
    let (send, receive) = oneshot::channel();
    let rt = world.rt.clone();
    drop(world.rt.spawn("detached", async move {
        rt.sleep(Duration::from_millis(2)).await;
        send.send(7).unwrap();
    }));
    assert_eq!(receive.await, Ok(7));
}

pub async fn an_aborted_task_drops_what_it_holds_and_joins_as_none<R: Runtime>(world: World<R>) {
    struct Held(Arc<AtomicBool>);
    impl Drop for Held {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let dropped = Arc::new(AtomicBool::new(false));
    let held = Held(Arc::clone(&dropped));
    let (started, has_started) = oneshot::channel();
    let task = world.rt.spawn("endless", async move {
        let _held = held;
        started.send(()).unwrap();
        std::future::pending::<u8>().await
    });
    has_started.await.unwrap();
    assert!(!dropped.load(Ordering::SeqCst));
    task.abort();
    assert_eq!(task.join().await, None);
    assert!(dropped.load(Ordering::SeqCst), "join came back before the destructors had run");
}

pub async fn a_task_that_has_ended_is_not_aborted<R: Runtime>(world: World<R>) {
    let (send, receive) = oneshot::channel();
    let task = world.rt.spawn("short", async move {
        send.send(()).unwrap();
        5
    });
    receive.await.unwrap();
    // Now it has nothing left to await, so that an abort comes too late.
    world.pause(20).await;
    task.abort();
    assert_eq!(task.join().await, Some(5));
}

pub async fn blocking_work_gives_its_value<R: Runtime>(world: World<R>) {
    let input = pattern(0, 100_000);
    let expected: u64 = input.iter().map(|&byte| u64::from(byte)).sum();
    let sum = world.rt.blocking(move || input.iter().map(|&byte| u64::from(byte)).sum::<u64>()).await;
    assert_eq!(sum, expected);
}

// ---------------------------------------------------------------------------------------------------------------------- connections

pub async fn a_name_is_resolved_and_an_address_means_itself<R: Runtime>(world: World<R>) {
    let listener = world.listen().await;
    let port = listener.local_addr().port();
    for ip in ["127.0.0.1", "::1", "192.0.2.7"] {
        let resolved = world.rt.resolve(&HostPort { host: ip.to_owned(), port }).await.unwrap();
        assert_eq!(resolved, [SocketAddr::new(ip.parse().unwrap(), port)]);
    }
    let localhost = world.rt.resolve(&HostPort { host: "localhost".to_owned(), port }).await.unwrap();
    assert!(localhost.iter().all(|address| address.ip().is_loopback() && address.port() == port), "{localhost:?}");
    assert!(["127.0.0.1", "::1"].iter().any(|ip| localhost.contains(&SocketAddr::new(ip.parse().unwrap(), port))), "{localhost:?}");
    // What was resolved can be listened on and connected to.
    let at = SocketAddr::new(localhost[0].ip(), 0);
    let other = world.rt.listen(at).await.unwrap();
    let _ours = world.rt.connect(&HostPort { host: "localhost".to_owned(), port: other.local_addr().port() }).await.unwrap();
    other.accept().await.unwrap();
}

pub async fn a_name_without_an_address_is_an_error_that_names_it<R: Runtime>(world: World<R>) {
    // RFC 6761: never resolves.
    let to = HostPort { host: "no-such-host.invalid".to_owned(), port: 1 };
    let error = world.rt.resolve(&to).await.unwrap_err();
    assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    assert!(world.rt.connect(&to).await.err().unwrap().to_string().contains("no-such-host.invalid"));
}

pub async fn port_0_draws_a_free_port_and_both_sides_agree_on_the_addresses<R: Runtime>(world: World<R>) {
    let (a, b) = (world.listen().await, world.listen().await);
    assert_ne!(a.local_addr().port(), 0);
    assert_ne!(a.local_addr().port(), b.local_addr().port());
    assert_eq!(a.local_addr().ip(), world.address);
    let ours = world.connect(a.local_addr()).await.unwrap();
    let theirs = a.accept().await.unwrap();
    assert_eq!(ours.peer_addr(), a.local_addr());
    assert_eq!(theirs.local_addr(), a.local_addr());
    assert_eq!(theirs.peer_addr(), ours.local_addr());
}

pub async fn a_port_that_is_listened_on_is_taken<R: Runtime>(world: World<R>) {
    let listener = world.listen().await;
    assert_kind(world.rt.listen(listener.local_addr()).await, ErrorKind::AddrInUse);
    // The failed attempt takes nothing from the one that listens.
    let _ours = world.connect(listener.local_addr()).await.unwrap();
    listener.accept().await.unwrap();
}

pub async fn a_closed_port_refuses<R: Runtime>(world: World<R>) {
    let listener = world.listen().await;
    let at = listener.local_addr();
    drop(listener);
    assert_kind(world.connect(at).await, ErrorKind::ConnectionRefused);
}

pub async fn a_dropped_listener_frees_its_port<R: Runtime>(world: World<R>) {
    let listener = world.listen().await;
    let at = listener.local_addr();
    let ours = world.connect(at).await.unwrap();
    let theirs = listener.accept().await.unwrap();
    drop(listener);
    // Although a connection of its former life goes on.
    let listener = world.rt.listen(at).await.unwrap();
    assert_eq!(listener.local_addr(), at);
    let (mut read, _write) = theirs.into_split();
    let (_read, mut write) = ours.into_split();
    write.write_all(b"still here").await.unwrap();
    let mut found = [0; 10];
    read.read_exact(&mut found).await.unwrap();
    assert_eq!(&found, b"still here");
    let _second = world.connect(at).await.unwrap();
    listener.accept().await.unwrap();
}

pub async fn a_connection_is_made_before_it_is_accepted<R: Runtime>(world: World<R>) {
    let listener = world.listen().await;
    let (read, mut write) = world.connect(listener.local_addr()).await.unwrap().into_split();
    write.write_all(b"early").await.unwrap();
    let (mut their_read, their_write) = listener.accept().await.unwrap().into_split();
    let mut found = [0; 5];
    their_read.read_exact(&mut found).await.unwrap();
    assert_eq!(&found, b"early");
    drop((their_read, their_write));
    assert_eq!(to_end(read).await, b"");
}

pub async fn one_listener_accepts_many<R: Runtime>(world: World<R>) {
    const COUNT: u64 = 20;
    let listener = world.listen().await;
    let at = listener.local_addr();
    let mut clients = Vec::new();
    for number in 0..COUNT {
        let (mut read, mut write) = world.connect(at).await.unwrap().into_split();
        clients.push(world.rt.spawn("client", async move {
            write.write_u64(number).await.unwrap();
            read.read_u64().await.unwrap()
        }));
    }
    for _ in 0..COUNT {
        let (mut read, mut write) = listener.accept().await.unwrap().into_split();
        drop(world.rt.spawn("server", async move {
            let number = read.read_u64().await.unwrap();
            write.write_u64(number * 10).await.unwrap();
        }));
    }
    for (number, client) in (0..COUNT).zip(clients) {
        assert_eq!(client.join().await, Some(number * 10));
    }
}

pub async fn both_directions_carry_more_than_all_buffers_at_once<R: Runtime>(world: World<R>) {
    const LEN: usize = 6 << 20;
    let ((our_read, mut our_write), (their_read, mut their_write)) = world.pair().await;
    let sent = Arc::new((pattern(0, LEN), pattern(LEN as u64, LEN)));
    let (ours, theirs) = (Arc::clone(&sent), Arc::clone(&sent));
    let out = world.rt.spawn("out", async move {
        our_write.write_all(&ours.0).await.unwrap();
        our_write.shutdown().await.unwrap();
    });
    let back = world.rt.spawn("back", async move {
        // In pieces of all sizes.
        let mut rest = &theirs.1[..];
        for size in (1..).map(|round: usize| (round * 7919) % 100_000 + 1) {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(size.min(rest.len()));
            their_write.write_all(piece).await.unwrap();
            rest = after;
        }
        drop(their_write);
    });
    let there = world.rt.spawn("there", to_end(their_read));
    assert_same(&to_end(our_read).await, &sent.1);
    assert_same(&there.join().await.unwrap(), &sent.0);
    assert!(out.join().await.is_some() && back.join().await.is_some());
}

pub async fn a_writer_waits_for_a_reader_that_does_not_read<R: Runtime>(world: World<R>) {
    const PIECE: usize = 64 * 1024;
    const PIECES: u64 = 1024;
    let ((_our_read, mut our_write), (mut their_read, _their_write)) = world.pair().await;
    let written = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&written);
    let writer = world.rt.spawn("writer", async move {
        let piece = vec![7; PIECE];
        for _ in 0..PIECES {
            our_write.write_all(&piece).await.unwrap();
            counter.fetch_add(1, Ordering::SeqCst);
        }
    });
    world.pause(100).await;
    assert!(written.load(Ordering::SeqCst) < PIECES, "64 MiB went into a connection that nobody reads");
    let mut buffer = vec![0; PIECE];
    for _ in 0..PIECES {
        their_read.read_exact(&mut buffer).await.unwrap();
    }
    assert!(writer.join().await.is_some());
    assert_eq!(their_read.read(&mut buffer).await.unwrap(), 0);
}

pub async fn vectored_parts_arrive_in_order<R: Runtime>(world: World<R>) {
    let ((_our_read, mut our_write), (their_read, _their_write)) = world.pair().await;
    // Empty parts, more parts than one system call takes, and one larger than a send buffer.
    let sizes = (0..3000usize).map(|number| number % 7).chain([3 << 20, 0, 1]);
    let mut at = 0;
    let pieces: Parts = sizes
        .map(|size| {
            let piece = pattern(at, size);
            at += size as u64;
            Bytes::from(piece)
        })
        .collect();
    let reader = world.rt.spawn("reader", to_end(their_read));
    write_all_parts(&mut our_write, pieces).await.unwrap();
    write_all_parts(&mut our_write, Parts::new()).await.unwrap();
    drop(our_write);
    assert_same(&reader.join().await.unwrap(), &pattern(0, at as usize));
}

pub async fn shutdown_closes_one_direction_only<R: Runtime>(world: World<R>) {
    let ((our_read, mut our_write), (mut their_read, mut their_write)) = world.pair().await;
    our_write.write_all(b"question").await.unwrap();
    our_write.shutdown().await.unwrap();
    let mut question = Vec::new();
    their_read.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"question");
    // The end stays the end.
    assert_eq!(their_read.read(&mut [0; 8]).await.unwrap(), 0);
    their_write.write_all(b"answer").await.unwrap();
    their_write.shutdown().await.unwrap();
    assert_eq!(to_end(our_read).await, b"answer");
    assert!(our_write.write_all(b"more").await.is_err(), "a write after shutdown succeeded");
}

pub async fn dropping_the_write_half_closes_one_direction_only<R: Runtime>(world: World<R>) {
    let ((our_read, mut our_write), (their_read, mut their_write)) = world.pair().await;
    our_write.write_all(b"question").await.unwrap();
    drop(our_write);
    assert_eq!(to_end(their_read).await, b"question");
    their_write.write_all(b"answer").await.unwrap();
    drop(their_write);
    assert_eq!(to_end(our_read).await, b"answer");
}

pub async fn dropping_the_read_half_leaves_the_other_direction<R: Runtime>(world: World<R>) {
    let ((our_read, mut our_write), (their_read, _their_write)) = world.pair().await;
    drop(our_read);
    our_write.write_all(b"one way").await.unwrap();
    drop(our_write);
    assert_eq!(to_end(their_read).await, b"one way");
}

pub async fn dropping_both_halves_closes_the_connection<R: Runtime>(world: World<R>) {
    let ((our_read, mut our_write), (their_read, mut their_write)) = world.pair().await;
    our_write.write_all(b"last words").await.unwrap();
    drop((our_read, our_write));
    // What was written before still arrives, then the end.
    assert_eq!(to_end(their_read).await, b"last words");
    // And nobody is there to read any more.
    let error = write_until_error(&world, &mut their_write).await;
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

async fn write_until_error<R: Runtime>(world: &World<R>, write: &mut Write<R>) -> io::Error {
    loop {
        if let Err(error) = write.write_all(&[1; 1000]).await {
            return error;
        }
        world.pause(1).await;
    }
}

pub async fn a_write_to_a_closed_connection_fails_at_last<R: Runtime>(world: World<R>) {
    let ((our_read, our_write), (their_read, mut their_write)) = world.pair().await;
    // Unread bytes at the close: they are lost, and the peer is told so.
    their_write.write_all(b"never read").await.unwrap();
    drop((our_read, our_write, their_read));
    let error = write_until_error(&world, &mut their_write).await;
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
}

pub async fn a_reset_is_an_error_on_both_sides<R: Runtime>(world: World<R>) {
    let ((mut our_read, our_write), (mut their_read, mut their_write)) = world.pair().await;
    // A reader that already waits, in another task, is woken.
    let waiting = world.rt.spawn("waiting", async move { our_read.read(&mut [0; 8]).await });
    world.pause(5).await;
    our_write.reset();
    assert_kind(their_read.read(&mut [0; 8]).await, ErrorKind::ConnectionReset);
    let error = write_until_error(&world, &mut their_write).await;
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    // This side's reader ends too, with an error or the end, although its half was not dropped.
    assert!(!matches!(waiting.join().await.unwrap(), Ok(1..)));
}

// ------------------------------------------------------------------------------------------------------------------------ send_file

pub async fn send_file_sends_the_head_and_exactly_the_range<R: Runtime>(world: World<R>) {
    const LEN: usize = 300_000;
    let content = pattern(0, LEN);
    let file = world.file("content", content.clone()).await;
    let ((_our_read, mut our_write), (their_read, _their_write)) = world.pair().await;
    let mut expected = Vec::new();
    let ranges = [(0, 1), (0, LEN), (1, 4096), (4095, 2), (4096, 4096), (LEN - 1, 1), (12_345, 16 * 1024), (12_345, 16 * 1024 + 1), (100_000, 150_001)];
    for (number, &(position, len)) in ranges.iter().enumerate() {
        expected.extend_from_slice(&[number as u8; 11]);
        expected.extend_from_slice(&content[position..position + len]);
    }
    let reader = world.rt.spawn("reader", to_end(their_read));
    for (number, &(position, len)) in ranges.iter().enumerate() {
        // A clone: the caller may drop its handle while the content is still under way.
        let clone = file.clone();
        our_write.send_file(vec![number as u8; 11].into(), &clone, position as u64, len as u64).await.unwrap();
    }
    our_write.send_file(Bytes::new(), &file, 10, 20_000).await.unwrap();
    expected.extend_from_slice(&content[10..20_010]);
    // Ordinary writes follow in order.
    our_write.write_all(b"after").await.unwrap();
    expected.extend_from_slice(b"after");
    drop(our_write);
    assert_same(&reader.join().await.unwrap(), &expected);
}

pub async fn send_file_of_nothing_sends_the_head<R: Runtime>(world: World<R>) {
    let file = world.file("empty", Bytes::new()).await;
    let ((_our_read, mut our_write), (mut their_read, _their_write)) = world.pair().await;
    our_write.send_file(Bytes::from_static(b"head"), &file, 0, 0).await.unwrap();
    // At once, not when more follows.
    let mut head = [0; 4];
    their_read.read_exact(&mut head).await.unwrap();
    assert_eq!(&head, b"head");
    // Nothing of nothing is beyond no end.
    our_write.send_file(Bytes::new(), &file, 1000, 0).await.unwrap();
    drop(our_write);
    assert_eq!(to_end(their_read).await, b"");
}

pub async fn send_file_of_a_range_beyond_the_end_is_unexpected_eof<R: Runtime>(world: World<R>) {
    let content = pattern(0, 50_000);
    let file = world.file("short", content.clone()).await;
    for (position, len) in [(0, 50_001), (49_999, 2), (50_000, 1), (60_000, 1), (60_000, 100_000), (1000, 1 << 20)] {
        let ((_our_read, mut our_write), (their_read, _their_write)) = world.pair().await;
        let reader = world.rt.spawn("reader", to_end(their_read));
        assert_kind(our_write.send_file(Bytes::from_static(b"head"), &file, position, len).await, ErrorKind::UnexpectedEof);
        drop(our_write);
        // Whatever was sent is a prefix of what was asked for.
        let mut wanted = b"head".to_vec();
        wanted.extend_from_slice(&content[content.len().min(position as usize)..]);
        let received = reader.join().await.unwrap();
        assert!(received.len() <= wanted.len());
        assert_same(&received, &wanted[..received.len()]);
    }
}

pub async fn send_file_sends_more_than_all_buffers<R: Runtime>(world: World<R>) {
    const LEN: usize = 9 << 20;
    let content = pattern(0, LEN);
    let file = world.file("large", content.clone()).await;
    let ((_our_read, mut our_write), (their_read, _their_write)) = world.pair().await;
    let sender = world.rt.spawn("sender", async move {
        our_write.send_file(Bytes::from_static(b"head"), &file, 3, (LEN - 3) as u64).await.unwrap();
        our_write.shutdown().await.unwrap();
    });
    // A reader that starts late: the sender has to wait for room in between.
    world.pause(10).await;
    let received = to_end(their_read).await;
    assert_eq!(&received[..4], b"head");
    assert_same(&received[4..], &content[3..]);
    assert!(sender.join().await.is_some());
}

// ---------------------------------------------------------------------------------------------------------------------------- files

pub async fn opening_obeys_the_mode<R: Runtime>(world: World<R>) {
    let (disk, path) = (world.rt.disk(), world.path("file"));
    assert_kind(disk.open(&path, Open::Read).await, ErrorKind::NotFound);
    assert_kind(disk.open(&path, Open::Write).await, ErrorKind::NotFound);
    assert!(!world.exists("file").await);
    let new = disk.open(&path, Open::CreateNew).await.unwrap();
    new.write_at(0, text("kept")).await.unwrap();
    assert_kind(disk.open(&path, Open::CreateNew).await, ErrorKind::AlreadyExists);
    // None of the modes cuts what is there.
    for how in [Open::Read, Open::Write, Open::Create] {
        let file = disk.open(&path, how).await.unwrap();
        assert_eq!(whole(&file).await, "kept", "{how:?}");
        if how == Open::Read {
            assert!(file.write_at(0, text("lost")).await.is_err(), "a file opened for reading was written");
        } else {
            file.write_at(0, text("kept")).await.unwrap();
        }
    }
    let created = disk.open(&world.path("other"), Open::Create).await.unwrap();
    assert_eq!(created.len().await.unwrap(), 0);
    for how in [Open::Read, Open::Write, Open::Create] {
        assert_kind(disk.open(&world.dir, how).await, ErrorKind::IsADirectory);
    }
    assert_kind(disk.open(&world.path("missing/file"), Open::Create).await, ErrorKind::NotFound);
}

pub async fn a_new_file_is_empty_and_reads_give_what_was_written<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::new()).await;
    assert_eq!(file.len().await.unwrap(), 0);
    assert_eq!(file.read_at(0, 10).await.unwrap(), "");
    file.write_at(0, text("hello world")).await.unwrap();
    file.write_at(6, text("there")).await.unwrap();
    assert_eq!(file.read_at(0, 11).await.unwrap(), "hello there");
    assert_eq!(file.read_at(4, 3).await.unwrap(), "o t");
    assert_eq!(file.read_at(4, 0).await.unwrap(), "");
    file.write_at(11, parts([Bytes::new(), Bytes::from_static(b"!"), Bytes::new(), Bytes::from_static(b"!")])).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 13);
    assert_eq!(world.content("file").await, "hello there!!");
    file.modified_ms().await.unwrap();
}

pub async fn a_guarded_file_is_its_owners_alone<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::from_static(b"a secret")).await;
    file.guard().await.unwrap();
    assert!(file.is_guarded().await.unwrap());
    assert_eq!(world.content("file").await, "a secret");
}

pub async fn reads_at_the_end_are_short<R: Runtime>(world: World<R>) {
    let content = pattern(0, 10_000);
    let file = world.file("file", content.clone()).await;
    assert_same(&file.read_at(9_990, 100).await.unwrap(), &content[9_990..]);
    assert_same(&file.read_at(0, 5_000_000).await.unwrap(), &content);
    assert_eq!(file.read_at(10_000, 1).await.unwrap(), "");
    assert_eq!(file.read_at(1 << 40, 5_000_000).await.unwrap(), "");
}

pub async fn a_gap_reads_as_zeros<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::from_static(b"ab")).await;
    file.write_at(20_000, text("z")).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 20_001);
    let mut expected = vec![0; 20_001];
    expected[..2].copy_from_slice(b"ab");
    expected[20_000] = b'z';
    assert_same(&whole(&file).await, &expected);
    // A write of nothing makes no gap.
    file.write_at(50_000, Parts::new()).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 20_001);
}

pub async fn one_write_takes_thousands_of_parts<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::from_static(b"12345")).await;
    let sizes = (0..5000usize).map(|number| number % 5).chain([200_000]);
    let mut at = 0;
    let pieces: Parts = sizes
        .map(|size| {
            let piece = pattern(at, size);
            at += size as u64;
            Bytes::from(piece)
        })
        .collect();
    file.write_at(3, pieces).await.unwrap();
    let mut expected = b"123".to_vec();
    expected.extend(pattern(0, at as usize));
    assert_same(&whole(&file).await, &expected);
}

pub async fn a_write_with_its_sync_is_a_write<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::from_static(b"12345")).await;
    file.write_at_and_sync(3, parts([Bytes::from_static(b"abc"), Bytes::new(), Bytes::from_static(b"def")])).await.unwrap();
    assert_eq!(whole(&file).await, "123abcdef");
    file.write_at_and_sync(10, text("g")).await.unwrap();
    assert_eq!(whole(&file).await, &b"123abcdef\0g"[..], "a gap reads as zeros");
    file.write_at_and_sync(0, Parts::new()).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 11);
}

pub async fn a_large_file_is_read_in_one_call<R: Runtime>(world: World<R>) {
    const LEN: usize = 5 << 20;
    let content = pattern(0, LEN);
    let file = world.file("file", content.clone()).await;
    file.sync_data().await.unwrap();
    assert_same(&file.read_at(0, LEN).await.unwrap(), &content);
    assert_same(&file.read_at(77_777, LEN - 100_000).await.unwrap(), &content[77_777..LEN - 100_000 + 77_777]);
}

pub async fn clones_of_a_file_share_it<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::from_static(b"first")).await;
    let clone = file.clone();
    drop(file);
    let other = world.rt.disk().open(&world.path("file"), Open::Write).await.unwrap();
    // A completed write is seen by every handle at once.
    other.write_at(5, text(" second")).await.unwrap();
    assert_eq!(whole(&clone).await, "first second");
    let mut writers = Vec::new();
    for number in 0..8u64 {
        let clone = clone.clone();
        writers.push(world.rt.spawn("writer", async move { clone.write_at(number * 1000, parts([pattern(number * 1000, 1000).into()])).await.unwrap() }));
    }
    for writer in writers {
        writer.join().await.unwrap();
    }
    assert_same(&whole(&other).await, &pattern(0, 8000));
}

pub async fn set_len_cuts_and_extends<R: Runtime>(world: World<R>) {
    let content = pattern(0, 10_000);
    let file = world.file("file", content.clone()).await;
    file.set_len(5_000).await.unwrap();
    assert_eq!(file.len().await.unwrap(), 5_000);
    assert_same(&whole(&file).await, &content[..5_000]);
    file.set_len(9_000).await.unwrap();
    // What was cut does not come back.
    let mut expected = content[..5_000].to_vec();
    expected.resize(9_000, 0);
    assert_same(&whole(&file).await, &expected);
    file.set_len(9_000).await.unwrap();
    file.set_len(0).await.unwrap();
    assert_eq!(whole(&file).await, "");
    file.write_at(0, text("new")).await.unwrap();
    assert_eq!(world.content("file").await, "new");
}

pub async fn preallocate_leaves_the_length<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::from_static(b"abc")).await;
    for len in [1 << 20, 0, 2, 1 << 10] {
        file.preallocate(len).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 3);
    }
    assert_eq!(whole(&file).await, "abc");
    file.write_at(3, text("def")).await.unwrap();
    assert_eq!(whole(&file).await, "abcdef");
    // `set_len` gives back what was reserved, and the content stays.
    file.set_len(6).await.unwrap();
    assert_eq!(whole(&file).await, "abcdef");
}

// --------------------------------------------------------------------------------------------------------------------------- names

pub async fn rename_replaces_and_open_handles_stay<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    let new = world.file("new", Bytes::from_static(b"new")).await;
    let old = world.file("old", Bytes::from_static(b"old")).await;
    disk.rename(&world.path("new"), &world.path("old")).await.unwrap();
    assert!(!world.exists("new").await);
    assert_eq!(world.content("old").await, "new");
    // Handles follow the file, not the name.
    assert_eq!(whole(&old).await, "old");
    new.write_at(3, text("er")).await.unwrap();
    assert_eq!(world.content("old").await, "newer");
    disk.rename(&world.path("old"), &world.path("old")).await.unwrap();
    assert_eq!(world.content("old").await, "newer");
}

pub async fn renaming_a_directory_keeps_its_open_files<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    disk.create_dir(&world.path("topic-0/inner")).await.unwrap();
    let file = world.file("topic-0/00.log", Bytes::from_static(b"records")).await;
    disk.rename(&world.path("topic-0"), &world.path("topic-0-delete")).await.unwrap();
    assert!(!world.exists("topic-0").await);
    assert_eq!(world.content("topic-0-delete/00.log").await, "records");
    file.write_at(7, text("!")).await.unwrap();
    file.sync_data().await.unwrap();
    assert_eq!(world.content("topic-0-delete/00.log").await, "records!");
    assert_eq!(disk.list(&world.path("topic-0-delete")).await.unwrap().len(), 2);
    // A directory replaces no directory that holds something.
    disk.create_dir(&world.path("topic-0/inner")).await.unwrap();
    assert_kind(disk.rename(&world.path("topic-0"), &world.path("topic-0-delete")).await, ErrorKind::DirectoryNotEmpty);
    assert_eq!(world.content("topic-0-delete/00.log").await, "records!");
}

pub async fn a_removed_file_stays_usable_where_it_is_open<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    let file = world.file("file", Bytes::from_static(b"content")).await;
    disk.remove_file(&world.path("file")).await.unwrap();
    assert!(!world.exists("file").await);
    file.write_at(7, text(" more")).await.unwrap();
    assert_eq!(whole(&file).await, "content more");
    file.sync_data().await.unwrap();
    // The name is free for another file, which is not this one.
    let other = world.file("file", Bytes::from_static(b"other")).await;
    file.write_at(0, text("CONTENT")).await.unwrap();
    assert_eq!(whole(&other).await, "other");
}

pub async fn list_is_sorted_and_tells_directories<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    assert_eq!(disk.list(&world.dir).await.unwrap(), []);
    for name in ["b.log", "a.index", "c", ".lock", "a-10", "a-2"] {
        world.file(name, Bytes::new()).await;
    }
    disk.create_dir(&world.path("bb/inner")).await.unwrap();
    let entry = |name: &str, is_dir| DirEntry { name: name.to_owned(), is_dir };
    let files = |names: &[&str]| names.iter().map(|name| entry(name, false)).collect::<Vec<_>>();
    let mut expected = files(&[".lock", "a-10", "a-2", "a.index", "b.log"]);
    expected.push(entry("bb", true));
    expected.push(entry("c", false));
    assert_eq!(disk.list(&world.dir).await.unwrap(), expected);
    assert_kind(disk.list(&world.path("c")).await, ErrorKind::NotADirectory);
}

pub async fn create_dir_makes_those_above_and_accepts_existing_ones<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    let deep = world.path("one/two/three");
    disk.create_dir(&deep).await.unwrap();
    disk.create_dir(&deep).await.unwrap();
    disk.create_dir(&world.path("one/other")).await.unwrap();
    let names: Vec<String> = disk.list(&world.path("one")).await.unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["other", "two"]);
    assert_eq!(disk.list(&deep).await.unwrap(), []);
    world.file("file", Bytes::new()).await;
    assert_kind(disk.create_dir(&world.path("file")).await, ErrorKind::AlreadyExists);
    assert_kind(disk.create_dir(&world.path("file/below")).await, ErrorKind::NotADirectory);
}

pub async fn remove_dir_takes_empty_directories_only<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    disk.create_dir(&world.path("dir")).await.unwrap();
    world.file("dir/file", Bytes::new()).await;
    assert_kind(disk.remove_dir(&world.path("dir")).await, ErrorKind::DirectoryNotEmpty);
    assert!(disk.remove_file(&world.path("dir")).await.is_err(), "a directory was removed as a file");
    disk.remove_file(&world.path("dir/file")).await.unwrap();
    disk.remove_dir(&world.path("dir")).await.unwrap();
    assert!(!world.exists("dir").await);
    world.file("file", Bytes::new()).await;
    assert_kind(disk.remove_dir(&world.path("file")).await, ErrorKind::NotADirectory);
}

pub async fn missing_paths_are_not_found<R: Runtime>(world: World<R>) {
    let (disk, missing) = (world.rt.disk(), world.path("missing"));
    assert_kind(disk.list(&missing).await, ErrorKind::NotFound);
    assert_kind(disk.remove_file(&missing).await, ErrorKind::NotFound);
    assert_kind(disk.remove_dir(&missing).await, ErrorKind::NotFound);
    assert_kind(disk.rename(&missing, &world.path("to")).await, ErrorKind::NotFound);
    assert_kind(disk.sync_dir(&missing).await, ErrorKind::NotFound);
    assert_kind(disk.sync_filesystem(&missing).await, ErrorKind::NotFound);
    assert_kind(disk.free_bytes(&missing).await, ErrorKind::NotFound);
    assert_kind(disk.try_lock(&missing.join("lock")).await, ErrorKind::NotFound);
}

pub async fn a_lock_excludes_until_it_is_dropped<R: Runtime>(world: World<R>) {
    let (disk, path) = (world.rt.disk(), world.path(".lock"));
    let lock = disk.try_lock(&path).await.unwrap().expect("nobody holds it");
    assert!(world.exists(".lock").await);
    assert!(disk.try_lock(&path).await.unwrap().is_none());
    assert!(disk.try_lock(&path).await.unwrap().is_none(), "a refused attempt released the lock");
    let _other = disk.try_lock(&world.path("other")).await.unwrap().expect("another file is another lock");
    drop(lock);
    let _lock = disk.try_lock(&path).await.unwrap().expect("its holder is gone");
}

// ------------------------------------------------------------------------------------------------------------------- syncs, space

pub async fn syncs_succeed_and_change_nothing<R: Runtime>(world: World<R>) {
    let disk = world.rt.disk();
    let file = world.file("file", pattern(0, 100_000)).await;
    file.sync_data().await.unwrap();
    disk.sync_dir(&world.dir).await.unwrap();
    file.write_at(100_000, parts([pattern(100_000, 5_000).into()])).await.unwrap();
    // Writes go on while a sync runs.
    let clone = file.clone();
    let syncing = world.rt.spawn("sync", async move { clone.sync_data().await });
    file.write_at(105_000, parts([pattern(105_000, 5_000).into()])).await.unwrap();
    syncing.join().await.unwrap().unwrap();
    disk.sync_filesystem(&world.dir).await.unwrap();
    disk.sync_filesystem(&world.dir).await.unwrap();
    assert_same(&world.content("file").await, &pattern(0, 110_000));
    // A file opened for reading only can be synced: recovery does.
    disk.open(&world.path("file"), Open::Read).await.unwrap().sync_data().await.unwrap();
}

pub async fn a_disk_tells_its_free_space<R: Runtime>(world: World<R>) {
    assert!(world.rt.disk().free_bytes(&world.dir).await.unwrap() > 0);
}

pub async fn errors_name_the_path<R: Runtime>(world: World<R>) {
    let named = |error: io::Error| assert!(error.to_string().contains("nowhere"), "{error}");
    let (disk, path) = (world.rt.disk(), world.path("nowhere"));
    named(disk.open(&path, Open::Read).await.err().unwrap());
    named(disk.list(&path).await.err().unwrap());
    named(disk.remove_file(&path).await.err().unwrap());
    named(disk.rename(&path, &world.path("to")).await.err().unwrap());
}

// -------------------------------------------------------------------------------------------------------------- dropped I/O futures

pub async fn a_dropped_write_happens_wholly_partly_or_not_at_all<R: Runtime>(world: World<R>) {
    const LEN: usize = 200_000;
    let disk = world.rt.disk();
    for round in 0..20 {
        let name = format!("file-{round}");
        let file = world.file(&name, vec![b'o'; LEN / 2]).await;
        let new = parts([vec![b'n'; LEN / 2].into(), vec![b'n'; LEN / 2].into()]);
        let completed = poll_once_and_drop(file.write_at(0, new)).await;
        // It may still happen now: look more than once, and only forward.
        let mut seen = 0;
        for _ in 0..3 {
            let content = whole(&file).await;
            let prefix = content.iter().take_while(|&&byte| byte == b'n').count();
            assert!(prefix >= seen, "a write was undone");
            assert!(!completed || prefix == LEN, "a completed write is not there");
            // Behind the prefix: what was there before; beyond that, where the file has already grown, zeros.
            let rest = &content[prefix..];
            let old = rest.iter().take_while(|&&byte| byte == b'o').count();
            assert!(old == 0 || prefix + old == LEN / 2, "old bytes end at {}", prefix + old);
            assert!(rest[old..].iter().all(|&byte| byte == 0), "bytes that nobody wrote");
            assert!((LEN / 2..=LEN).contains(&content.len()));
            seen = prefix;
            world.pause(3).await;
        }
        // The file stays usable.
        file.write_at(0, text("usable")).await.unwrap();
        assert_eq!(file.read_at(0, 6).await.unwrap(), "usable");
        disk.remove_file(&world.path(&name)).await.unwrap();
    }
}

pub async fn a_dropped_rename_happens_or_not<R: Runtime>(world: World<R>) {
    for round in 0..20 {
        let (from, to) = (format!("from-{round}"), format!("to-{round}"));
        world.file(&from, Bytes::from_static(b"content")).await;
        let completed = poll_once_and_drop(world.rt.disk().rename(&world.path(&from), &world.path(&to))).await;
        for _ in 0..3 {
            let names: Vec<String> = world.rt.disk().list(&world.dir).await.unwrap().into_iter().map(|entry| entry.name).collect();
            let here = names.iter().filter(|name| **name == from || **name == to).count();
            assert_eq!(here, 1, "the file has {here} names: {names:?}");
            assert!(!completed || names.contains(&to));
            world.pause(3).await;
        }
    }
}

pub async fn a_dropped_open_makes_the_file_or_not<R: Runtime>(world: World<R>) {
    for round in 0..20 {
        let path = world.path(&format!("file-{round}"));
        poll_once_and_drop(world.rt.disk().open(&path, Open::CreateNew)).await;
        world.pause(3).await;
        let file = world.rt.disk().open(&path, Open::Create).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 0);
        // Whoever comes second meets what the dropped one may have left, as after any other unknown outcome.
        file.write_at(0, text("mine")).await.unwrap();
        world.pause(1).await;
        assert_eq!(whole(&file).await, "mine");
    }
}

pub async fn a_dropped_sync_harms_nothing<R: Runtime>(world: World<R>) {
    let file = world.file("file", Bytes::new()).await;
    for round in 0..20u64 {
        file.write_at(round * 100, parts([pattern(round * 100, 100).into()])).await.unwrap();
        poll_once_and_drop(file.sync_data()).await;
        poll_once_and_drop(world.rt.disk().sync_dir(&world.dir)).await;
    }
    file.sync_data().await.unwrap();
    assert_same(&whole(&file).await, &pattern(0, 2000));
}
