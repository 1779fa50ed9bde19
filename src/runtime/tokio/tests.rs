//! What only this side of the boundary has: pages that are not in the cache. The contract that both sides share is in `tests/contract.rs`.

use std::net::Ipv4Addr;

use ::tokio::io::AsyncReadExt;

use super::*;

/// A file of 3 MiB whose pages have been dropped from the page cache, and its content. `None` where pages cannot be dropped (tmpfs).
async fn cold_file(disk: &TokioDisk, dir: &Path) -> Option<(TokioFile, Bytes)> {
    let content = Bytes::from((0..3u32 << 20).map(|at| (at ^ (at >> 12)) as u8).collect::<Vec<_>>());
    let file = disk.open(&dir.join("cold"), Open::CreateNew).await.unwrap();
    file.write_at(0, Parts::from_iter([content.clone()])).await.unwrap();
    file.sync_data().await.unwrap();
    rustix::fs::fadvise(&file.inner.file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    (!file.is_cached(0, content.len() as u64)).then_some((file, content))
}

#[::tokio::test]
async fn cold_pages_are_read_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rt = TokioRuntime::new();
    let Some((file, content)) = cold_file(rt.disk(), dir.path()).await else { return };
    // The middle is warm: the inline part of a read ends within the range, and the pool does the rest.
    file.fault_in(1 << 20, 1 << 20).await.unwrap();
    assert!(file.is_cached(1 << 20, 1 << 20));
    assert!(file.read_at((1 << 20) + 5, content.len()).await.unwrap() == content[(1 << 20) + 5..]);
    assert!(file.read_at(0, content.len()).await.unwrap() == content);
    assert!(file.is_cached(0, content.len() as u64));
}

#[::tokio::test]
async fn cold_pages_are_sent_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rt = TokioRuntime::new();
    let Some((file, content)) = cold_file(rt.disk(), dir.path()).await else { return };
    let listener = rt.listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await.unwrap();
    let to = HostPort { host: "localhost".to_owned(), port: listener.local_addr().port() };
    let (_our_read, mut our_write) = rt.connect(&to).await.unwrap().into_split();
    let (mut their_read, _their_write) = listener.accept().await.unwrap().into_split();
    let reader = rt.spawn("reader", async move {
        let mut received = Vec::new();
        their_read.read_to_end(&mut received).await.unwrap();
        received
    });
    our_write.send_file(Bytes::from_static(b"head"), &file, 1, content.len() as u64 - 1).await.unwrap();
    drop(our_write);
    let received = reader.join().await.unwrap();
    assert!(received[..4] == *b"head" && received[4..] == content[1..]);
}

#[::tokio::test]
async fn an_error_keeps_its_kind_and_tells_operation_path_and_cause() {
    let dir = tempfile::tempdir().unwrap();
    let rt = TokioRuntime::new();
    let error = rt.disk().open(&dir.path().join("none"), Open::Read).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().starts_with("cannot open '") && error.to_string().contains("none'"), "{error}");
    let cause: &DiskError = error.get_ref().unwrap().downcast_ref().unwrap();
    assert_eq!(cause.source.raw_os_error(), Some(libc::ENOENT));
    let error = rt.connect(&HostPort { host: "127.0.0.1".to_owned(), port: 1 }).await.err().unwrap();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[test]
fn run_gives_the_value_of_what_it_ran() {
    let value = run(2, |rt| async move {
        let inner = rt.clone();
        rt.spawn("task", async move { inner.blocking(|| 20).await + 1 }).join().await.unwrap() * 2
    });
    assert_eq!(value.unwrap(), 42);
}

#[test]
fn times_before_1970_are_negative() {
    assert_eq!(unix_ms_of(UNIX_EPOCH - Duration::from_millis(1500)), -1500);
    assert_eq!(unix_ms_of(UNIX_EPOCH + Duration::from_micros(1999)), 1);
}

#[test]
fn a_thread_of_its_own_goes_on_while_the_others_are_busy_and_counts_from_the_same_origin() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    run(1, |rt| async move {
        let own = rt.own_thread("own").unwrap();
        let there = own.runtime().clone();
        let before = rt.now();
        let working = there.clone().spawn("working", async move {
            let name = std::thread::current().name().map(str::to_owned);
            let file = there.disk().open(&path, Open::CreateNew).await.unwrap();
            file.write_at(0, Parts::from_iter([Bytes::from_static(b"written")])).await.unwrap();
            file.sync_data().await.unwrap();
            file.write_at_and_sync(7, Parts::from_iter([Bytes::from_static(b" and synced")])).await.unwrap();
            let bytes = file.read_at(0, 100).await.unwrap();
            there.sleep(Duration::from_millis(2)).await;
            (name, there.now(), bytes, file.guard().await.is_ok() && file.is_guarded().await.unwrap())
        });
        // The only worker of this runtime waits, without letting go of it.
        let (sender, receiver) = std::sync::mpsc::channel();
        own.runtime().spawn("waiting", async move { sender.send(working.join().await.unwrap()).unwrap() });
        let (name, at, bytes, is_guarded) = receiver.recv().unwrap();
        assert_eq!((name.as_deref(), &bytes[..]), (Some("own"), &b"written and synced"[..]));
        assert!(is_guarded && at > before && at <= rt.now(), "{before:?} {at:?}");
        rt.blocking(move || own.join()).await;
    })
    .unwrap();
}
