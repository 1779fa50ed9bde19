//! The broker under simulation: one real broker on a host that suffers everything, clients of many habits on hosts that the network and the
//! clocks plague.
//!
//! *Safety*: clients work while the nemesis is loose. *Heal*. *Converge*: whatever was begun must come to its end. *Serve*: fresh work of
//! every kind. *Clean stop and restart, kill and restart*. *Rescan*: every partition is read from its start to its end, every group's offsets are
//! fetched, every topic is looked at. *Quiet*: with all clients gone nothing of them is left in memory. *White box*: the stopped broker's disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ottla::broker::Broker;
use ottla::config::broker::BrokerConfig;
use ottla::runtime::{HostPort, Runtime};
use tokio::sync::watch;

use super::plan::{DATA_DIR, PORT, Plan};
use super::whitebox;
use crate::clients::crew::{Crew, NewTopic, Working};
use crate::clients::history::{FinalLog, History, Place};
use crate::clients::link::{Link, OneBroker, Phase, Shared};
use crate::clients::value::ValueId;
use crate::clients::{admin, member, producer, reader};
use crate::nemesis::Nemesis;
use crate::runtime::SimRuntime;
use crate::scenario::{RunOptions, Running, Scenario, Setting};
use crate::state::CrashKind;
use crate::verdict::Verdict;
use crate::world::{Host, World};

/// What was found at the end, or why it could not be looked at.
type Judgement = Result<Vec<crate::clients::history::Violation>, String>;

const BROKER: &str = "broker-1";
const DEFAULT_SECONDS: u64 = 75;
/// After healing, everything that was begun must end within this.
const CONVERGE_WITHIN: Duration = Duration::from_secs(150);
/// Fresh work must be done within this.
const SERVE_WITHIN: Duration = Duration::from_secs(60);
/// Reading a partition must get on within this.
const AUDIT_WITHIN: Duration = Duration::from_secs(60);
/// Reading all of a partition must be done within this.
const AUDIT_ALL_WITHIN: Duration = Duration::from_secs(1_800);
/// A broker must stop, and start, within this.
const RESTART_WITHIN: Duration = Duration::from_secs(60);
/// A seed counts if it ran so long and so much happened.
const MIN_SECONDS: u64 = 60;
const MIN_OPERATION_COUNT: u64 = 200;
const MIN_FAULT_COUNT: u64 = 3;

/// See the file's head.
pub struct BrokerScenario;

impl Scenario for BrokerScenario {
    fn name(&self) -> &'static str {
        "broker"
    }

    fn about(&self) -> &'static str {
        "one broker that suffers everything; producers, readers, groups and administrators of many habits"
    }

    fn plants(&self) -> &'static [&'static str] {
        &[
            "ack-before-fsync",
            "retry-failed-fsync",
            "recovery-trusts-the-page-cache",
            "skip-dir-sync-on-roll",
            "rot-as-torn-tail",
            "dedup-window-one",
            "forget-producer-state",
            "recovery-point-ahead",
            "ack-before-commit",
            "offsets-fetched-before-load",
            "zombie-commit",
            "offsets-expire-while-rebalancing",
            "two-members-one-partition",
            "znode-ack-before-sync",
            "producer-ids-not-stored",
            "topic-create-not-atomic",
        ]
    }

    fn victim_count(&self) -> usize {
        1
    }

    fn limit(&self, options: &RunOptions) -> Duration {
        Duration::from_secs(options.seconds.unwrap_or(DEFAULT_SECONDS) + 3_600)
    }

    fn describe(&self, seed: u64) -> String {
        Plan::draw(seed).to_string()
    }

    fn run(&self, setting: Setting) -> Running<'_> {
        Box::pin(async move {
            match Run::new(setting).run().await {
                Ok(verdict) | Err(verdict) => verdict,
            }
        })
    }
}

/// The broker that runs now, for the harness to look into.
type Slot = Arc<Mutex<Option<Arc<Broker<SimRuntime>>>>>;

struct Run {
    setting: Setting,
    plan: Plan,
    config: BrokerConfig,
    history: Arc<Mutex<History>>,
    phase: watch::Sender<Phase>,
    crew: Crew,
    broker: Host,
    slot: Slot,
    /// Counts the requests to stop cleanly.
    stop: watch::Sender<u64>,
    next_producer: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Run {
    fn new(setting: Setting) -> Self {
        let world = &setting.world;
        let plan = Plan::draw(world.seed());
        world.event("plan", &[], Some(&plan.to_string().replace('\n', "; ")));
        let config = BrokerConfig::from_text("server.properties", &plan.server_properties(), &[]).expect("the plan's configuration is valid");
        let mut history = History::default();
        history.groups_vanish = plan.groups_vanish;
        plan.topics.iter().filter(|topic| topic.is_weak()).for_each(|topic| history.topic_is_weak(&topic.name));
        let history = Arc::new(Mutex::new(history));
        let (phase, phase_seen) = watch::channel(Phase::Safety);
        let topics = plan.topics.iter().map(|topic| (topic.name.clone(), topic.partition_count)).collect();
        let bootstrap = HostPort { host: BROKER.to_owned(), port: PORT };
        let shared = Shared {
            history: history.clone(),
            phase: phase_seen,
            bootstrap: Arc::new(vec![bootstrap]),
            topics: Arc::new(topics),
            replication: Arc::default(),
            authority: Arc::new(OneBroker),
            world: world.clone(),
        };
        let broker = world.host(BROKER);
        // An unsynced sector that holds random bytes before batches that are whole looks like rot, and recovery refuses to cut rot off: offline, not
        // lost. No file system that a broker should be on lets files that only grow end so.
        broker.disk(|disk| disk.options.garbage = false);
        let hosts = (0..plan.client_host_count).map(|index| world.host(&format!("client-{index}"))).collect();
        let next_producer = plan.roster.producers.len() as u32;
        let topics = plan.topics.iter().map(|topic| NewTopic {
            name: topic.name.clone(),
            partition_count: topic.partition_count,
            replication_factor: 1,
            configs: topic.configs.clone(),
        });
        let crew = Crew { shared, hosts, topics: topics.collect() };
        Self { plan, config, history, phase, crew, broker, slot: Slot::default(), stop: watch::Sender::new(0), next_producer, setting }
    }

    fn world(&self) -> &World {
        &self.setting.world
    }

    async fn run(mut self) -> Result<Verdict, Verdict> {
        let world = self.world().clone();
        self.start_broker();
        let working = self.crew.start_all(&self.plan.roster);
        let seconds = self.setting.options.seconds.unwrap_or(DEFAULT_SECONDS);
        let safety = Duration::from_secs(seconds);
        let power_was_cut = self.watch_power();
        self.plan_rot(safety);
        self.plan_leaps(safety);
        let everyone_else = self.crew.hosts.clone();
        let mut nemesis = Nemesis::new(&world, &self.setting.swarm, std::slice::from_ref(&self.broker), &everyone_else);
        nemesis.run(safety).await;

        world.heal_all();
        self.phase.send_replace(Phase::Converge);
        self.converge(&working).await?;
        self.serve("after healing").await?;
        self.restart(true).await?;
        self.serve("after a clean restart").await?;
        self.restart(false).await?;
        let unreadable = self.rescan(&working).await?;
        let (operation_count, fault_count) = world.counts();
        self.phase.send_replace(Phase::Done);
        self.check_quiet().await?;
        self.verdict()?;
        if unreadable.is_empty() && lock(&self.history).rotten().is_empty() {
            self.check_disk().await?;
        }

        let (history, was_cut) = (lock(&self.history), *lock(&power_was_cut));
        if let Some(lost) = history.weak_violations().first() {
            let (check, detail) = (lost.check.to_owned(), lost.what.clone());
            return Ok(if was_cut {
                Verdict::Unrecoverable { reason: format!("flush.messages is not 1, and power was cut: {check}: {detail}") }
            } else {
                Verdict::Correctness { invariant: check, detail: format!("without any power cut: {detail}") }
            });
        }
        if let Some((place, why)) = unreadable.first() {
            return Ok(Verdict::Unrecoverable { reason: format!("a bit of {place:?} was flipped on its only disk: {why}") });
        }
        if seconds < MIN_SECONDS || operation_count < MIN_OPERATION_COUNT || fault_count < MIN_FAULT_COUNT {
            return Ok(Verdict::NotCounted { reason: format!("{seconds} s, {operation_count} operations, {fault_count} faults") });
        }
        Ok(Verdict::Clean)
    }

    /// The promises broken so far, if any.
    fn verdict(&self) -> Result<(), Verdict> {
        let history = lock(&self.history);
        let Some(first) = history.violations().first() else { return Ok(()) };
        let more = history.violations().len() - 1;
        let detail = if more > 0 { format!("{} (and {more} more)", first.what) } else { first.what.clone() };
        Err(Verdict::Correctness { invariant: first.check.to_owned(), detail })
    }

    fn start_broker(&self) {
        let (config, slot, stop) = (self.config.clone(), self.slot.clone(), self.stop.clone());
        self.broker.start(move |rt| serve(rt, config.clone(), slot.clone(), stop.subscribe()));
    }

    /// Notes whether the broker's host ever loses power.
    fn watch_power(&self) -> Arc<Mutex<bool>> {
        let was_cut = Arc::new(Mutex::new(false));
        let (world, broker, noted) = (self.world().clone(), self.broker.clone(), was_cut.clone());
        drop(self.world().spawn("power", async move {
            // No host is off for a shorter time than this.
            while broker.is_powered() {
                world.sleep(Duration::from_millis(20)).await;
            }
            *lock(&noted) = true;
        }));
        was_cut
    }

    /// Flips a bit of a log at the planned time, in what is certainly on disk and has whole batches behind it.
    fn plan_rot(&self, safety: Duration) {
        let Some(rot) = self.plan.rot.clone().filter(|_| !self.setting.options.calm) else { return };
        let (world, broker, history, topics) = (self.world().clone(), self.broker.clone(), self.history.clone(), self.plan.topics.clone());
        let mut stream = self.world().stream("rot");
        drop(self.world().spawn("rot", async move {
            world.sleep(safety * rot.at_permille as u32 / 1_000).await;
            let mut newest: BTreeMap<Place, (String, u64)> = BTreeMap::new();
            let mut all = Vec::new();
            for (path, content) in broker.disk(|disk| disk.model.durable_files()) {
                let Some((dir, file)) = path.trim_start_matches(DATA_DIR).trim_start_matches('/').split_once('/') else { continue };
                let Some((topic, partition)) = dir.rsplit_once('-') else { continue };
                let is_strong = topics.iter().any(|known| known.name == topic && !known.is_weak());
                let Ok(partition) = partition.parse() else { continue };
                if is_strong && file.ends_with(".log") {
                    let before_last = start_of_last_batch(&content);
                    newest.insert((topic.to_owned(), partition), (path.clone(), before_last));
                    all.push(((topic.to_owned(), partition), (path, before_last)));
                }
            }
            let mut found: Vec<(Place, (String, u64))> = if rot.newest { newest.into_iter().collect() } else { all };
            // A last batch that rots is no different from one that was torn.
            found.retain(|(_, (_, before_last))| *before_last > 0);
            if found.is_empty() {
                return;
            }
            let (place, (path, before_last)) = stream.pick(&found).clone();
            let (position, bit) = (stream.below(before_last), stream.below(8) as u8);
            lock(&history).rot(&place);
            broker.disk(|disk| disk.model.flip_bit(std::path::Path::new(&path), position, bit));
            world.event("bit rot", &[position, u64::from(bit)], Some(&path));
            if rot.kill && broker.is_alive() {
                broker.crash(CrashKind::Kill);
            }
        }));
    }

    /// Lets the broker's wall clock leap ahead at even distances.
    fn plan_leaps(&self, safety: Duration) {
        let count = self.plan.leap_count;
        if count == 0 || self.setting.options.calm {
            return;
        }
        let (world, broker, mut stream) = (self.world().clone(), self.broker.clone(), self.world().stream("leaps"));
        drop(self.world().spawn("leaps", async move {
            for _ in 0..count {
                world.sleep(safety / (count as u32 + 1)).await;
                broker.jump_clock(stream.between(61_000, 180_000) as i64);
            }
        }));
    }

    /// Starts the broker again if it died.
    fn look_after_broker(&self) {
        if !self.broker.is_alive() {
            self.broker.restart();
        }
    }

    async fn converge(&mut self, working: &Working) -> Result<(), Verdict> {
        let world = self.world().clone();
        let deadline = world.now() + CONVERGE_WITHIN;
        self.repair().await?;
        loop {
            let pending = working.pending();
            let Some(name) = pending.first() else { break };
            self.verdict()?;
            if world.now() > deadline {
                let last = world.halts().pop();
                return Err(Verdict::Liveness {
                    reason: format!("{CONVERGE_WITHIN:?} after healing {name} has not come to its end; unfinished: {pending:?}; the last halt: {last:?}"),
                });
            }
            self.look_after_broker();
            world.sleep(Duration::from_millis(200)).await;
        }
        self.verdict()
    }

    /// Partitions that the disk refused while it was ill may stay offline until the next start, as the broker's log says.
    async fn repair(&self) -> Result<(), Verdict> {
        for _ in 0..20 {
            self.look_after_broker();
            self.world().sleep(Duration::from_millis(500)).await;
            if lock(&self.slot).is_some() {
                break;
            }
        }
        if self.has_offline_partitions() {
            self.stop(false).await?;
            self.look_after_broker();
        }
        Ok(())
    }

    /// Whether the disk refused the broker partitions that exist, or parts of what it needs to go on with one.
    fn has_offline_partitions(&self) -> bool {
        let slot = lock(&self.slot);
        slot.as_ref().filter(|_| self.broker.is_alive()).is_some_and(|broker| {
            let logs = broker.replicas().logs();
            !logs.offline().is_empty() || logs.all().iter().any(|log| log.check_online().is_err())
        })
    }

    /// Fresh work: a record to every partition, and a commit of a member of a fresh group.
    async fn serve(&mut self, when: &str) -> Result<(), Verdict> {
        let id = self.next_producer;
        self.next_producer += 1;
        let habit = member::Habit {
            group: format!("fresh-{id}"),
            instance: None,
            session_timeout_ms: 10_000,
            leave_ppm: 0,
            silent_ppm: 0,
            max_pause_ms: 1_000,
            join_version: 9,
        };
        let refused = self
            .crew
            .ask(
                &format!("fresh work {when}"),
                SERVE_WITHIN + Duration::from_secs(5),
                || self.look_after_broker(),
                move |link| {
                    let habit = habit.clone();
                    async move {
                        let (runtime, shared, stream) = (link.runtime.clone(), link.shared.clone(), link.stream.clone());
                        let mut link = link;
                        for (number, place) in (0..).zip(link.shared.places()) {
                            if !link.shared.history().is_rotten(&place)
                                && let Err(why) = producer::send_one(&mut link, ValueId { producer: id, number }, &place, SERVE_WITHIN).await
                            {
                                return Some(why);
                            }
                        }
                        let fresh = Link::new(runtime, shared, stream, "fresh-member".to_owned());
                        (!member::commit_once(fresh, habit, SERVE_WITHIN).await).then(|| "no offset could be committed in a fresh group".to_owned())
                    }
                },
            )
            .await?;
        self.verdict()?;
        match refused {
            Some(why) => Err(Verdict::Liveness { reason: format!("{when}: {why}") }),
            None => Ok(()),
        }
    }

    /// Stops the broker, in order or by a kill, and starts it again.
    async fn restart(&self, in_order: bool) -> Result<(), Verdict> {
        self.stop(in_order).await?;
        self.look_after_broker();
        Ok(())
    }

    async fn stop(&self, in_order: bool) -> Result<(), Verdict> {
        let world = self.world().clone();
        if in_order {
            self.stop.send_modify(|count| *count += 1);
            let deadline = world.now() + RESTART_WITHIN;
            while self.broker.is_alive() {
                if world.now() > deadline {
                    return Err(Verdict::Liveness {
                        reason: format!("the broker did not stop within {RESTART_WITHIN:?}; its tasks: {:?}", self.broker.live_tasks()),
                    });
                }
                world.sleep(Duration::from_millis(50)).await;
            }
        } else {
            self.broker.crash(CrashKind::Kill);
            world.sleep(Duration::from_millis(100)).await;
        }
        *lock(&self.slot) = None;
        Ok(())
    }

    /// Reads everything. Partitions whose disk rotted may be unreadable: they are returned, with the reason.
    async fn rescan(&mut self, working: &Working) -> Result<Vec<(Place, String)>, Verdict> {
        let mut logs: BTreeMap<Place, FinalLog> = BTreeMap::new();
        let mut unreadable = Vec::new();
        for place in self.crew.shared.places() {
            let is_rotten = lock(&self.history).is_rotten(&place);
            let patience = if is_rotten { Duration::from_secs(5) } else { AUDIT_WITHIN };
            let asked = place.clone();
            let read = self
                .crew
                .ask(
                    "an audit",
                    AUDIT_ALL_WITHIN,
                    || self.look_after_broker(),
                    move |mut link| {
                        let place = asked.clone();
                        async move { reader::audit(&mut link, &place, patience).await }
                    },
                )
                .await?;
            match read {
                Ok(log) => {
                    if log.readable_end_offset < log.end_offset {
                        unreadable.push((place.clone(), format!("unreadable from offset {}", log.readable_end_offset)));
                    }
                    logs.insert(place, log);
                }
                Err(why) if is_rotten => unreadable.push((place, why)),
                Err(why) => return Err(Verdict::Liveness { reason: why }),
            }
        }
        let tend = || self.look_after_broker();
        for group in self.plan.roster.groups() {
            self.crew
                .patiently(&format!("fetching all offsets of {group}"), SERVE_WITHIN, tend, move |link| {
                    let group = group.clone();
                    async move {
                        let mut link = link;
                        member::fetch_all_offsets(&mut link, &group).await
                    }
                })
                .await?;
        }
        for topic in working.own_topics() {
            let what = format!("looking at topic {}", topic.name);
            let looked = self.crew.patiently(&what, SERVE_WITHIN, tend, move |link| {
                let mut topic = topic.clone();
                async move {
                    let mut link = link;
                    admin::observe(&mut link, &mut topic, true).await
                }
            });
            looked.await?;
        }
        lock(&self.history).finish(&logs);
        self.verdict()?;
        Ok(unreadable)
    }

    /// With all clients gone the broker must have nothing left of them.
    async fn check_quiet(&self) -> Result<(), Verdict> {
        let world = self.world();
        let broken = |what: String| Err(Verdict::Correctness { invariant: "quiet".to_owned(), detail: what });
        let patience = Duration::from_secs(30);
        let deadline = world.now() + patience;
        loop {
            world.sleep(Duration::from_millis(500)).await;
            let slot = lock(&self.slot);
            let Some(broker) = slot.as_ref() else { return broken("the broker is not there".to_owned()) };
            let strays: Vec<String> = broker
                .replicas()
                .logs()
                .all()
                .iter()
                .map(|log| log.partition())
                .filter(|id| broker.replicas().partition(&id.topic, id.partition).is_none())
                .map(ToString::to_string)
                .collect();
            if !strays.is_empty() {
                return broken(format!("logs of no topic are open: {strays:?}"));
            }
            let waiting: usize = broker.replicas().partitions().iter().map(|partition| partition.waiting_count()).sum();
            let tasks = self.broker.live_tasks();
            let serving = tasks.get("connection").copied().unwrap_or(0);
            let budget = usize::try_from(broker.config().queued_max_request_bytes).unwrap_or(usize::MAX);
            let used = budget - broker.chunks().free_budget_bytes();
            let sessions = broker.fetch_sessions().count();
            let slots = usize::try_from(broker.config().max_incremental_fetch_session_cache_slots).unwrap_or(0);
            if sessions > slots {
                return broken(format!("{sessions} fetch sessions are remembered; max.incremental.fetch.session.cache.slots is {slots}"));
            }
            let connections = (broker.connection_count(), self.broker.connection_count());
            if (waiting, serving, used, connections) == (0, 0, 0, (0, 0)) {
                return Ok(());
            }
            if world.now() > deadline {
                return broken(format!(
                    "{patience:?} after all clients are gone, {waiting} requests wait, {serving} tasks serve {connections:?} connections, {used} bytes of chunks are out; tasks: {tasks:?}"
                ));
            }
        }
    }

    /// Stops the broker in order and looks at what its disk holds.
    async fn check_disk(&self) -> Result<(), Verdict> {
        self.stop(true).await?;
        let overrides: BTreeMap<String, BTreeMap<String, String>> = self.plan.topics.iter().map(|topic| (topic.name.clone(), topic.configs.clone())).collect();
        let config = self.config.clone();
        let result: Arc<Mutex<Option<Judgement>>> = Arc::default();
        let to = result.clone();
        let process = self.broker.start(move |rt| {
            let (config, overrides, to) = (config.clone(), overrides.clone(), to.clone());
            async move {
                let looked = async {
                    let stored = whitebox::open(&rt, &config, &overrides).await?;
                    whitebox::forget(&rt, &config, &stored).await.map_err(|error| error.to_string())?;
                    let replayed = whitebox::open(&rt, &config, &overrides).await?;
                    Ok(whitebox::compare(&stored, &replayed))
                };
                let looked = looked.await;
                *lock(&to) = Some(looked);
            }
        });
        if self.world().timeout(RESTART_WITHIN * 2, process.wait()).await.is_none() {
            return Err(Verdict::Liveness { reason: "the stopped broker's logs could not be opened, closed and opened again in time".to_owned() });
        }
        let looked = lock(&result).take();
        match looked {
            Some(Ok(violations)) => match violations.first() {
                None => Ok(()),
                Some(first) => Err(Verdict::Correctness { invariant: first.check.to_owned(), detail: format!("{} (of {})", first.what, violations.len()) }),
            },
            Some(Err(why)) => Err(Verdict::Correctness { invariant: "replay".to_owned(), detail: why }),
            None => Err(Verdict::Crash { detail: format!("the logs of the stopped broker: {:?}", process.exit()) }),
        }
    }
}

/// Where the last whole batch of a segment begins; 0 if there are not two.
fn start_of_last_batch(content: &[u8]) -> u64 {
    let (mut last, mut position) = (0, 0);
    while let Some(length) = content.get(position + 8..position + 12) {
        let end = position + 12 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
        if end > content.len() {
            break;
        }
        (last, position) = (position, end);
    }
    last as u64
}

/// One life of the broker.
async fn serve(rt: SimRuntime, config: BrokerConfig, slot: Slot, mut stop: watch::Receiver<u64>) {
    *lock(&slot) = None;
    match Broker::start(rt.clone(), config, BROKER).await {
        Ok(broker) => {
            *lock(&slot) = Some(broker.clone());
            let _ = stop.changed().await;
            broker.shutdown().await;
        }
        Err(error) => {
            rt.halt(&format!("the broker does not start: {error}")).await;
        }
    }
}
