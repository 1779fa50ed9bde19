//! What clients do: the recipes that people use, and what clients should not do and do.

use std::time::Duration;

use ottla::coordination::acl::{self, Acl};
use ottla::coordination::jute::Reader;
use ottla::coordination::op::{CreateMode, ErrorCode, Operation};
use ottla::coordination::protocol::opcode;
use ottla::coordination::watch::WatchType;
use ottla::runtime::Runtime;

use super::client::{Answer, CREDENTIALS, Client, Lost};
use super::request::{Kind, create, multi, one};
use crate::clients::link::Phase;
use crate::rng::Stream;

/// A habit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Changes and reads, several under way at once.
    Works,
    /// Takes a lock, holds it, gives it back: ephemeral sequential znodes, a watch on the one before.
    Locks,
    /// Puts into a queue, or takes from it.
    Queues,
    /// Watches everything and reads.
    Watches,
    /// Reads, and never asks for what a member without a leader could not do: it stays with its member for as long as that answers.
    Reads,
    /// As the first, and is silent past its time-out now and then.
    Sleeps,
    /// As the first, and drops its connection with requests under way.
    Storms,
}

/// All of them.
const HABITS: [Habit; 8] = [Habit::Works, Habit::Works, Habit::Locks, Habit::Locks, Habit::Queues, Habit::Watches, Habit::Sleeps, Habit::Storms];

/// The znodes under which everything happens.
const PLACES: [&str; 3] = ["/w", "/lock", "/queue"];

/// How many children a place for work has.
const WORK_COUNT: u64 = 4;

impl Habit {
    /// That of a client: the first two only look on, so that there is always somebody who must be told and somebody who must not be answered.
    pub fn of(index: usize, stream: &mut Stream) -> Self {
        let drawn = *stream.pick(&HABITS);
        match index {
            0 => Self::Reads,
            1 => Self::Watches,
            _ => drawn,
        }
    }
}

fn open() -> Vec<Acl> {
    vec![Acl::open()]
}

/// A client's life: it works, shows that it is served once faults are over, and ends its session, or forgets it.
pub async fn run(mut client: Client, habit: Habit, pause_mean_ms: u64, served: impl Fn()) {
    let mut ticket = None;
    let mut is_served = false;
    let mut placed_for = 0;
    loop {
        if client.phase() == Phase::Done {
            break;
        }
        if !client.is_connected() && client.connect().await.is_err() {
            let wait = Duration::from_millis(client.stream.between(20, 400));
            client.rt.sleep(wait).await;
            continue;
        }
        if placed_for != client.session() {
            (placed_for, ticket) = (client.session(), None);
            if place(&mut client, habit).await.is_err() {
                placed_for = 0;
                continue;
            }
        }
        let done = if client.phase() == Phase::Converge {
            if !is_served && serve(&mut client).await.is_ok() {
                is_served = true;
                client.common.oracle.keep(client.session());
                served();
            }
            client.idle(Duration::from_millis(200), false).await
        } else {
            step(&mut client, habit, &mut ticket).await
        };
        if done.is_ok() {
            let pause = Duration::from_millis(1 + client.stream.exponential(pause_mean_ms));
            let _ = client.idle(pause, false).await;
        }
    }
    // Half of them say good-bye; the sessions of the others must end by themselves.
    if client.stream.chance(500_000) && client.is_connected() {
        let _ = client.call(Kind::Close).await;
    }
    client.disconnect();
}

/// Makes the places where everything happens, and what a new session watches for good.
async fn place(client: &mut Client, habit: Habit) -> Result<(), Lost> {
    for place in PLACES {
        let value = client.value();
        client.ask(one(create(place, value, CreateMode::Persistent, open()))).await?;
    }
    if habit == Habit::Watches {
        client.ask(Kind::AddWatch { path: "/w".into(), recursive: false }).await?;
        let path = if client.stream.chance(500_000) { "/" } else { "/lock" };
        client.ask(Kind::AddWatch { path: path.into(), recursive: true }).await?;
    }
    client.settle().await.map(drop)
}

/// Fresh work in a healed world.
async fn serve(client: &mut Client) -> Result<(), Lost> {
    let value = client.value();
    client.ask(one((Operation::Set { path: "/w".into(), data: Some(value), version: -1 }, opcode::SET_DATA))).await?;
    client.ask(Kind::Sync).await?;
    client.ask(Kind::Data { path: "/w".into(), watch: false }).await?;
    client.settle().await.map(drop)
}

async fn step(client: &mut Client, habit: Habit, ticket: &mut Option<String>) -> Result<(), Lost> {
    if habit != Habit::Reads && client.stream.chance(15_000) {
        client.call(Kind::Close).await?;
        client.forget();
        return Err(Lost);
    }
    match habit {
        Habit::Locks => lock(client, ticket).await,
        Habit::Queues => queue(client).await,
        Habit::Sleeps if client.stream.chance(60_000) => {
            // Without a word; the connection stays open for as long as the member lets it.
            let silence = client.timeout() * client.stream.between(50, 200) as u32 / 100;
            client.rt.sleep(silence).await;
            client.ask(Kind::Ping).await?;
            client.settle().await.map(drop)
        }
        Habit::Storms if client.stream.chance(300_000) => {
            for _ in 0..client.stream.between(0, 4) {
                let kind = draw(client, habit);
                client.ask(kind).await?;
            }
            if client.stream.chance(500_000) {
                let wait = Duration::from_millis(client.stream.exponential(30));
                client.rt.sleep(wait).await;
            }
            client.disconnect();
            client.hop();
            Err(Lost)
        }
        _ => {
            let count = if client.stream.chance(500_000) { 1 } else { client.stream.between(2, 8) };
            for _ in 0..count {
                let kind = draw(client, habit);
                client.ask(kind).await?;
            }
            client.settle().await.map(drop)
        }
    }
}

/// Something to ask for.
fn draw(client: &mut Client, habit: Habit) -> Kind {
    let (parent, child) = (client.stream.below(WORK_COUNT), client.stream.below(3));
    let above = format!("/w/{parent}");
    let path = if client.stream.chance(400_000) { format!("{above}/{child}") } else { above.clone() };
    let watch = client.stream.chance(400_000);
    let chosen = client.stream.below(match habit {
        Habit::Reads => 10,
        Habit::Watches => 13,
        _ => 29,
    });
    let version = if client.stream.chance(700_000) { -1 } else { client.stream.below(3) as i32 };
    match chosen {
        0..=2 => Kind::Data { path, watch },
        3..=4 => Kind::Exists { path, watch },
        5..=6 => Kind::Children { path: if watch { "/w".into() } else { above }, watch },
        7 => Kind::Several(vec![(path, false), (above, true), ("/w/none".into(), false), ("/w".into(), true)]),
        8 => Kind::Ephemerals { prefix: if watch { "/".into() } else { above } },
        9 => Kind::Count { path: if watch { "/".into() } else { above } },
        10 => {
            let which = [WatchType::Any, WatchType::Any, WatchType::Data, WatchType::Children, WatchType::Persistent, WatchType::PersistentRecursive];
            let which = *client.stream.pick(&which);
            let path = if matches!(which, WatchType::Children | WatchType::Persistent) { "/w".into() } else { path };
            Kind::RemoveWatches { path, which, only_asks: version == -1 && watch }
        }
        11..=12 => Kind::Sync,
        13..=16 => {
            let mode = *client.stream.pick(&[
                CreateMode::Persistent,
                CreateMode::Persistent,
                CreateMode::Persistent,
                CreateMode::Ephemeral,
                CreateMode::Ephemeral,
                CreateMode::Container,
                CreateMode::Ttl { ttl_ms: 1_500 },
            ]);
            let hides = client.is_keeper && client.stream.chance(300_000);
            let acl = if hides { vec![Acl::new(acl::perms::ALL, acl::DIGEST, &acl::digest(CREDENTIALS))] } else { open() };
            one(create(&path, client.value(), mode, acl))
        }
        17..=22 => one((Operation::Set { path, data: Some(client.value()), version }, opcode::SET_DATA)),
        23..=25 => one((Operation::Delete { path, version }, opcode::DELETE)),
        _ => {
            let mut changes = vec![(Operation::Set { path: above.clone(), data: Some(client.value()), version: -1 }, opcode::SET_DATA)];
            if client.stream.chance(500_000) {
                changes.push((Operation::Check { path: "/w".into(), version: -1 }, opcode::CHECK));
            }
            changes.push(create(&format!("{above}/{child}"), client.value(), CreateMode::Ephemeral, open()));
            if client.stream.chance(300_000) {
                changes.push((Operation::Delete { path: format!("{above}/{child}"), version: -1 }, opcode::DELETE));
            }
            multi(changes)
        }
    }
}

fn created(answer: &Answer) -> Option<String> {
    (answer.code == 0).then(|| Reader::new(&answer.body).string().map(str::to_owned).ok()).flatten()
}

fn names(answer: &Answer) -> Vec<String> {
    let mut names = if answer.code == 0 { Reader::new(&answer.body).strings().unwrap_or_default() } else { Vec::new() };
    names.sort();
    names
}

async fn lock(client: &mut Client, ticket: &mut Option<String>) -> Result<(), Lost> {
    let Some(mine) = ticket.clone() else {
        let value = client.value();
        match client.call(one(create("/lock/n-", value, CreateMode::EphemeralSequential, open()))).await {
            Ok(answer) => *ticket = created(&answer),
            Err(Lost) => {
                // It may have a place in the queue that it knows nothing of: it gives the session up, as recipes do that cannot tell.
                client.forget();
                return Err(Lost);
            }
        }
        return Ok(());
    };
    client.ask(Kind::Sync).await?;
    let answer = client.call(Kind::Children { path: "/lock".into(), watch: false }).await?;
    let all = names(&answer);
    let name = mine.rsplit('/').next().unwrap_or_default();
    match all.iter().position(|other| other == name) {
        None => *ticket = None,
        Some(0) => {
            let held = Duration::from_millis(client.stream.exponential(150));
            client.holds(&mine, answer.zxid);
            let held = client.idle(held, false).await;
            client.lets_go();
            held?;
            client.call(one((Operation::Delete { path: mine, version: -1 }, opcode::DELETE))).await?;
            *ticket = None;
        }
        Some(at) => {
            let before = format!("/lock/{}", all[at - 1]);
            let answer = client.call(Kind::Exists { path: before, watch: true }).await?;
            if answer.code != ErrorCode::NoNode.code() {
                client.idle(Duration::from_secs(5), true).await?;
            }
        }
    }
    Ok(())
}

async fn queue(client: &mut Client) -> Result<(), Lost> {
    if client.stream.chance(450_000) {
        let (value, mode) = (client.value(), CreateMode::PersistentSequential);
        return client.call(one(create("/queue/e-", value, mode, open()))).await.map(drop);
    }
    let watch = client.stream.chance(300_000);
    let all = names(&client.call(Kind::Children { path: "/queue".into(), watch }).await?);
    let Some(first) = all.first() else { return client.idle(Duration::from_millis(300), true).await };
    let path = format!("/queue/{first}");
    // Whoever deletes it has it.
    client.ask(Kind::Data { path: path.clone(), watch: false }).await?;
    client.ask(one((Operation::Delete { path, version: -1 }, opcode::DELETE))).await?;
    client.settle().await.map(drop)
}
