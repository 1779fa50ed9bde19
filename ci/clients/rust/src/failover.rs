//! What a client keeps over the death of the leader.
//!
//! For each of two rounds (`kill`: SIGKILL, `stop`: SIGTERM) it sets up sessions with all that is theirs, prints `{"ready": true}`, goes on writing, and
//! waits for a line on standard input, which says that the leader has gone and another one leads. Then it looks at what is left, a case for each.

use crate::{EPHEMERAL, LIMIT, OPEN, Place, Results, within};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader, Lines, Stdin, stdin};
use tokio::sync::watch;
use zookeeper_client::{Acls, Client, Error, EventType, LockPrefix};

pub async fn run(results: &mut Results, hosts: &str, prefix: &str) {
    let mut lines = BufReader::new(stdin()).lines();
    for round in ["kill", "stop"] {
        let place = Place { hosts: hosts.to_string(), at: format!("{prefix}/{round}") };
        if let Err(error) = one(results, &mut lines, round, place).await {
            results.line(&format!("failover/{round}"), Instant::now(), &error.to_string());
            return;
        }
    }
}

/// Whether an answer may have been lost with its connection. The crate passes on what the system says of the socket, too.
fn is_lost(error: &Error) -> bool {
    matches!(error, Error::ConnectionLoss | Error::Custom(_))
}

/// Asks again while the connection is away: for what may be repeated.
async fn again<T, F: Future<Output = Result<T, Error>>>(ask: impl Fn() -> F) -> Result<T, Error> {
    let start = Instant::now();
    loop {
        match ask().await {
            Err(error) if is_lost(&error) && start.elapsed() < LIMIT => tokio::time::sleep(Duration::from_millis(20)).await,
            other => return other,
        }
    }
}

/// What the writer knows: how many outcomes were unsure, and what went wrong.
struct Written {
    value: i32,
    unsure: usize,
    wrong: String,
}

/// Counts by sets that check the version, so that the value is the version. A set whose answer is lost is told by what it wrote: no two write the same.
/// `acknowledged` is how far it has come.
async fn count(zk: Client, path: String, acknowledged: watch::Sender<i32>) -> Written {
    let mut written = Written { value: 0, unsure: 0, wrong: String::new() };
    let mut attempt = 0u64;
    while !acknowledged.is_closed() {
        let (next, mut tried, mut unsure) = (written.value + 1, BTreeSet::new(), false);
        loop {
            attempt += 1;
            let data = format!("{next} {attempt}").into_bytes();
            tried.insert(data.clone());
            match zk.set_data(&path, &data, Some(written.value)).await {
                Ok(stat) if stat.version == next => break,
                Err(error) if is_lost(&error) => unsure = true,
                Err(Error::BadVersion) if unsure => {}
                other => {
                    written.wrong = format!("a set of version {} was answered {other:?}", written.value);
                    return written;
                }
            }
            written.unsure += 1;
            match again(|| async {
                zk.sync(&path).await?;
                zk.get_data(&path).await
            })
            .await
            {
                Ok((_, stat)) if stat.version == written.value => {}
                Ok((found, stat)) if stat.version == next && tried.contains(&found) => break,
                other => {
                    written.wrong = format!("version {} was acknowledged, and then found {other:?}", written.value);
                    return written;
                }
            }
        }
        written.value = next;
        let _ = acknowledged.send(next);
        // Others need the processor too.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    written
}

async fn one(results: &mut Results, lines: &mut Lines<BufReader<Stdin>>, round: &str, place: Place) -> Result<(), Error> {
    let (zk, other, writer) = (place.client().await, place.client().await, place.client().await);
    let closed = place.client().await;
    let dead = Client::connector().with_detached().with_session_timeout(Duration::from_secs(4)).connect(&place.hosts).await?;
    zk.create(&place.at, b"", OPEN).await?;
    for name in ["data", "data/child", "untouched", "count"] {
        zk.create(&place.path(name), b"", OPEN).await?;
    }
    for at in [&other, &writer, &closed, &dead] {
        at.sync(&place.at).await?;
    }
    zk.create(&place.path("e"), b"", EPHEMERAL).await?;
    closed.create(&place.path("closed"), b"", EPHEMERAL).await?;
    dead.create(&place.path("dead"), b"", EPHEMERAL).await?;
    zk.sync(&place.at).await?;
    let session = zk.session_id();
    let (_, _, data) = zk.get_and_watch_data(&place.path("data")).await?;
    let (_, children) = zk.list_and_watch_children(&place.path("data")).await?;
    let (_, _, mut untouched) = zk.get_and_watch_data(&place.path("untouched")).await.map(|(d, s, w)| (d, s, tokio::spawn(w.changed())))?;
    let prefix = place.path("lock-");
    let held = zk.lock(LockPrefix::new_shared(&prefix)?, b"", Acls::anyone_all()).await?;
    let waiter = other.clone();
    let waits_for = prefix.clone();
    let waiting = tokio::spawn(async move { waiter.lock(LockPrefix::new_shared(&waits_for)?, b"", Acls::anyone_all()).await.map(|lock| lock.into_owned()) });
    let contenders = || async {
        zk.sync(&place.at).await?;
        Ok(zk.list_children(&place.at).await?.iter().filter(|name| name.starts_with("lock-")).count())
    };
    while again(contenders).await? < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // One session ends as it should just before, one without a word.
    drop(closed);
    let (gone, watch) = zk.check_and_watch_stat(&place.path("closed")).await?;
    if gone.is_some() {
        within("the end of a session", watch.changed()).await;
    }
    drop(dead);
    let (sender, mut acknowledged) = watch::channel(0);
    let counting = tokio::spawn(count(writer.clone(), place.path("count"), sender));
    // An error is the end of the writer, who says why.
    let _ = within("the first writes", acknowledged.wait_for(|value| *value >= 10)).await;
    println!("{}", serde_json::json!({"ready": true}));
    if lines.next_line().await.ok().flatten().is_none() {
        return Err(Error::UnexpectedError("nobody said that another leader leads".into()));
    }

    let case = |name: &str| format!("failover/{round}/{name}");
    let (client, at) = (zk.clone(), place.clone());
    results
        .case(&case("session"), async move {
            let stat = again(|| client.check_stat(&at.at)).await.unwrap();
            assert!(stat.is_some(), "what was there");
            assert_eq!(session, client.session_id(), "session");
        })
        .await;
    let (client, at, watcher) = (zk.clone(), place.clone(), other.clone());
    results
        .case(&case("ephemeral"), async move {
            again(|| async {
                watcher.sync(&at.at).await?;
                client.sync(&at.at).await
            })
            .await
            .unwrap();
            let stat = again(|| watcher.check_stat(&at.path("e"))).await.unwrap().expect("the ephemeral");
            assert_eq!(session.0, stat.ephemeral_owner, "owner");
        })
        .await;
    let (client, at) = (other.clone(), place.clone());
    results
        .case(&case("watches"), async move {
            // Each change twice: the watch is told once, of the first.
            for value in [b"1", b"2"] {
                again(|| client.set_data(&at.path("data"), value, None)).await.unwrap();
            }
            let child = at.path("data/one");
            again(|| client.create(&child, b"", OPEN)).await.unwrap();
            let changed = within("the data watch", data.changed()).await;
            assert_eq!((EventType::NodeDataChanged, at.path("data")), (changed.event_type, changed.path));
            let changed = within("the child watch", children.changed()).await;
            assert_eq!((EventType::NodeChildrenChanged, at.path("data")), (changed.event_type, changed.path));
            assert!(tokio::time::timeout(Duration::from_millis(50), &mut untouched).await.is_err(), "an event of what did not change");
            again(|| client.set_data(&at.path("untouched"), b"1", None)).await.unwrap();
            let changed = within("the other data watch", untouched).await.unwrap();
            assert_eq!((EventType::NodeDataChanged, at.path("untouched")), (changed.event_type, changed.path));
        })
        .await;
    let start = Instant::now();
    let mut detail = String::new();
    if waiting.is_finished() {
        detail = "the second session holds the lock beside the first".into();
    }
    drop(held);
    match tokio::time::timeout(LIMIT, waiting).await {
        Ok(Ok(Ok(_lock))) => {}
        other if detail.is_empty() => detail = format!("the lock did not go to the one who waits: {other:?}"),
        _ => {}
    }
    results.line(&case("lock"), start, &detail);
    let (start, at) = (Instant::now(), place.clone());
    results
        .case(&case("writes"), async move {
            let before = *acknowledged.borrow();
            let _ = within("writes with the new leader", acknowledged.wait_for(|value| *value >= before + 10)).await;
            drop(acknowledged);
            let written = within("the writer", counting).await.expect("the writer");
            assert!(written.wrong.is_empty(), "{}", written.wrong);
            eprintln!("{} writes, {} unsure ones, in all {} ms", written.value, written.unsure, start.elapsed().as_millis());
            let (found, stat) = again(|| async {
                other.sync(&at.at).await?;
                other.get_data(&at.path("count")).await
            })
            .await
            .unwrap();
            let found = String::from_utf8(found).unwrap();
            assert_eq!(
                (written.value, written.value.to_string().as_str()),
                (stat.version, found.split(' ').next().unwrap()),
                "what was acknowledged last, after a sync"
            );
        })
        .await;
    let (client, at) = (zk.clone(), place.clone());
    results
        .case(&case("ended-sessions"), async move {
            assert_eq!(None, again(|| client.check_stat(&at.path("closed"))).await.unwrap(), "the ephemeral of a session that was closed");
            // The new leader grants it a whole time-out.
            if let (Some(_), watch) = again(|| client.check_and_watch_stat(&at.path("dead"))).await.unwrap() {
                let event = within("the end of a session that fell silent", watch.changed()).await;
                assert_eq!(EventType::NodeDeleted, event.event_type);
            }
        })
        .await;
    Ok(())
}
