//! The clients of a run on their hosts: started together, waited for, and asked one by one once all has healed.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::link::{Link, Shared};
use super::{admin, member, mover, producer, reader};
use crate::runtime::SimRuntime;
use crate::verdict::Verdict;
use crate::world::{Host, World};

/// A topic that the first client makes.
#[derive(Clone, Debug)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partition_count: i32,
    /// Replicas of each.
    pub replication_factor: i16,
    /// Its configuration.
    pub configs: BTreeMap<String, String>,
}

/// Who works, and how.
#[derive(Clone, Debug, Default)]
pub struct Roster {
    /// The producers.
    pub producers: Vec<producer::Habit>,
    /// The members of groups.
    pub members: Vec<member::Habit>,
    /// The readers.
    pub readers: Vec<reader::Habit>,
    /// The administrators.
    pub admins: Vec<admin::Habit>,
    /// Who moves replicas.
    pub movers: Vec<mover::Habit>,
    /// Longest pause of the client that watches the groups' offsets, in ms.
    pub watch_pause_ms: u64,
}

impl Roster {
    /// The names of the groups.
    pub fn groups(&self) -> Vec<String> {
        let names: std::collections::BTreeSet<&String> = self.members.iter().map(|member| &member.group).collect();
        names.into_iter().cloned().collect()
    }
}

/// Clients that must end by themselves once the safety phase is over.
pub struct Working {
    /// Name, and whether it has ended.
    clients: Vec<(String, Arc<Mutex<bool>>)>,
    own_topics: Vec<Arc<Mutex<Vec<admin::Topic>>>>,
}

impl Working {
    /// Those that have not come to their end.
    pub fn pending(&self) -> Vec<&str> {
        self.clients.iter().filter(|(_, ended)| !*lock(ended)).map(|(name, _)| name.as_str()).collect()
    }

    /// What the administrators know of the topics that they made.
    pub fn own_topics(&self) -> Vec<admin::Topic> {
        self.own_topics.iter().flat_map(|topics| lock(topics).clone()).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The clients' hosts, and what all clients share.
pub struct Crew {
    /// What they share.
    pub shared: Shared,
    /// Where they live.
    pub hosts: Vec<Host>,
    /// What the first of them makes.
    pub topics: Vec<NewTopic>,
}

impl Crew {
    fn world(&self) -> &World {
        &self.shared.world
    }

    /// Starts a client of that name on one of the hosts; tells when it has ended.
    fn start<F, Fut>(&self, ordinal: usize, name: String, client: F) -> (String, Arc<Mutex<bool>>)
    where
        F: Fn(Link<SimRuntime>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let ended = Arc::new(Mutex::new(false));
        let (shared, stream, at_end, its_name) = (self.shared.clone(), self.world().stream(&name), ended.clone(), name.clone());
        let topics = self.topics.clone();
        self.hosts[ordinal % self.hosts.len()].start(move |rt| {
            let mut link = Link::new(rt, shared.clone(), stream.clone(), its_name.clone());
            let (topics, at_end) = (topics.clone(), at_end.clone());
            // The first client makes the topics; the others come upon them.
            let is_first = ordinal == 0;
            let client = &client;
            let work = {
                let later = Link::new(link.runtime.clone(), shared.clone(), stream.clone(), its_name.clone());
                client(later)
            };
            async move {
                if is_first {
                    for topic in &topics {
                        let NewTopic { name, partition_count, replication_factor, configs } = topic;
                        while !admin::create(&mut link, name, *partition_count, *replication_factor, configs).await && !link.shared.is_done() {
                            link.pause(20, 300).await;
                        }
                    }
                    link.disconnect();
                }
                work.await;
                *lock(&at_end) = true;
            }
        });
        (name, ended)
    }

    /// Starts all of them.
    pub fn start_all(&self, roster: &Roster) -> Working {
        let mut working = Working { clients: Vec::new(), own_topics: Vec::new() };
        let ordinal = |working: &Working| working.clients.len();
        for (number, habit) in roster.producers.iter().enumerate() {
            let habit = habit.clone();
            let client = self.start(ordinal(&working), format!("producer-{number}"), move |link| producer::run(link, number as u32, habit.clone()));
            working.clients.push(client);
        }
        for (number, habit) in roster.members.iter().enumerate() {
            let habit = habit.clone();
            let client = self.start(ordinal(&working), format!("member-{number}"), move |link| member::run(link, habit.clone()));
            working.clients.push(client);
        }
        for (number, habit) in roster.readers.iter().enumerate() {
            let habit = habit.clone();
            let client = self.start(ordinal(&working), format!("reader-{number}"), move |link| {
                let places = link.shared.places();
                reader::run(link, habit.clone(), places)
            });
            working.clients.push(client);
        }
        for (number, habit) in roster.admins.iter().enumerate() {
            let topics = Arc::new(Mutex::new(Vec::new()));
            working.own_topics.push(topics.clone());
            let habit = habit.clone();
            let client = self.start(ordinal(&working), format!("admin-{number}"), move |link| {
                let (topics, habit) = (topics.clone(), habit.clone());
                async move {
                    let known = admin::run(link, number, habit).await;
                    *lock(&topics) = known;
                }
            });
            working.clients.push(client);
        }
        for (number, habit) in roster.movers.iter().enumerate() {
            let habit = habit.clone();
            let client = self.start(ordinal(&working), format!("mover-{number}"), move |link| mover::run(link, habit.clone()));
            working.clients.push(client);
        }
        let (groups, pause_ms) = (roster.groups(), roster.watch_pause_ms);
        let client = self.start(ordinal(&working), "watcher".to_owned(), move |link| member::watch(link, groups.clone(), pause_ms));
        working.clients.push(client);
        working
    }

    /// Runs `client` on a host of its own and waits for what it brings; `tend` looks after the servers meanwhile.
    ///
    /// # Errors
    /// A liveness failure if it takes longer than `within`.
    pub async fn ask<T, F, Fut>(&self, what: &str, within: Duration, tend: impl Fn(), client: F) -> Result<T, Verdict>
    where
        T: Send + 'static,
        F: Fn(Link<SimRuntime>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = T> + Send + 'static,
    {
        let world = self.world().clone();
        let result: Arc<Mutex<Option<T>>> = Arc::default();
        let (shared, stream, to) = (self.shared.clone(), world.stream(what), result.clone());
        let name = what.to_owned();
        let process = world.host("auditor").start(move |rt| {
            let client = client(Link::new(rt, shared.clone(), stream.clone(), name.clone()));
            let to = to.clone();
            async move {
                let brought = client.await;
                *lock(&to) = Some(brought);
            }
        });
        let deadline = world.now() + within;
        while process.is_alive() {
            if world.now() > deadline {
                return Err(Verdict::Liveness {
                    reason: format!("{what} took more than {within:?} in a healed world; the last halt: {:?}", world.halts().pop()),
                });
            }
            tend();
            world.sleep(Duration::from_millis(50)).await;
        }
        lock(&result).take().ok_or_else(|| Verdict::Crash { detail: format!("{what} brought nothing") })
    }

    /// Asks again until it succeeds.
    ///
    /// # Errors
    /// As [`Crew::ask`].
    pub async fn patiently<F, Fut>(&self, what: &str, within: Duration, tend: impl Fn(), attempt: F) -> Result<(), Verdict>
    where
        F: Fn(Link<SimRuntime>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = bool> + Send + 'static,
    {
        let attempt = Arc::new(attempt);
        self.ask(what, within, tend, move |mut link| {
            let attempt = attempt.clone();
            async move {
                loop {
                    let again = Link::new(link.runtime.clone(), link.shared.clone(), link.stream.clone(), "auditor".to_owned());
                    if attempt(again).await {
                        return;
                    }
                    link.pause(50, 200).await;
                }
            }
        })
        .await
    }
}
