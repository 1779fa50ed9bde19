//! A cluster under simulation: brokers with their ensemble, and clients of many habits.
//!
//! *Safety*: clients work while the nemesis is loose, and aimed faults with it. *Heal* a random core; all else stays broken for ever. *Converge*: every partition
//! that an in-sync replica of the core has, has a leader, and all its living replicas are in sync; whatever was begun comes to its end. *Serve*: fresh work.
//! *Restart*, one broker after the other in order, then all at once by a power cut, with fresh work after each. *Rescan*: every partition is read to its end, every
//! replica's disk is held against the others, every group's offsets are fetched, every topic is looked at. What must hold at every moment is in
//! [`monitor`](super::monitor).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::churn::Churn;
use super::core::Core;
use super::hosts::Cluster;
use super::monitor::Monitor;
use super::plan::{OFFSETS_TOPIC, Plan};
use crate::clients::crew::{Crew, Working};
use crate::clients::history::{FinalLog, History, Place};
use crate::clients::link::{Link, Phase, Shared};
use crate::clients::value::ValueId;
use crate::clients::{admin, member, producer, reader};
use crate::nemesis::Nemesis;
use crate::scenario::{RunOptions, Running, Scenario, Setting};
use crate::state::CrashKind;
use crate::verdict::Verdict;
use crate::world::{Host, World};

const DEFAULT_SECONDS: u64 = 75;
/// After healing, everything that was begun must end within this.
const CONVERGE_WITHIN: Duration = Duration::from_secs(180);
/// Fresh work must be done within this.
const SERVE_WITHIN: Duration = Duration::from_secs(60);
/// Reading a partition must get on within this.
const AUDIT_WITHIN: Duration = Duration::from_secs(60);
/// Reading all of a partition must be done within this.
const AUDIT_ALL_WITHIN: Duration = Duration::from_secs(1_800);
/// A broker must stop within this.
const STOP_WITHIN: Duration = Duration::from_secs(90);
/// The most servers that a nemesis may take down at once, for the draw.
const VICTIM_COUNT: usize = 3;
/// A seed counts if it ran so long and so much happened.
const MIN_SECONDS: u64 = 60;
const MIN_OPERATION_COUNT: u64 = 200;
const MIN_FAULT_COUNT: u64 = 3;

/// See the file's head.
pub struct ClusterScenario;

impl Scenario for ClusterScenario {
    fn name(&self) -> &'static str {
        "cluster"
    }

    fn about(&self) -> &'static str {
        "three to seven brokers and their ensemble, which suffer everything, lost disks included; producers, readers, groups and administrators"
    }

    fn plants(&self) -> &'static [&'static str] {
        &[
            "high-watermark-over-current-isr",
            "truncate-to-high-watermark",
            "no-broker-epochs",
            "ack-below-min-isr",
            "unproven-high-watermark",
            "missing-state-is-a-first-one",
            "fetch-before-flush",
            "leader-epoch-kept-on-restart",
            "leader-out-of-isr",
            "wiped-replica-in-sync",
            "zombie-controller-not-fenced",
            "records-deleted-on-the-leader-alone",
        ]
    }

    fn victim_count(&self) -> usize {
        VICTIM_COUNT
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Run {
    setting: Setting,
    plan: Plan,
    cluster: Arc<Cluster>,
    history: Arc<Mutex<History>>,
    monitor: Arc<Monitor>,
    phase: watch::Sender<Phase>,
    crew: Crew,
    core: Core,
    next_producer: u32,
    /// Partitions of several replicas that are out of reach, with the reason.
    excused: BTreeMap<Place, String>,
}

impl Run {
    fn new(setting: Setting) -> Self {
        let world = &setting.world;
        let plan = Plan::draw(world.seed());
        world.event("plan", &[], Some(&plan.to_string().replace('\n', "; ")));
        let cluster = Cluster::new(world, &plan);
        let history = Arc::new(Mutex::new(History::default()));
        let lasting = plan.replication().into_keys().map(|topic| (topic.clone(), plan.min_isr(&topic))).collect();
        let monitor = Monitor::new(&cluster, world, &history, lasting, plan.unclean_topics(), plan.offsets_partition_count);
        let (phase, phase_seen) = watch::channel(Phase::Safety);
        let topics = plan.topics.iter().map(|topic| (topic.name.clone(), topic.partition_count)).collect();
        let shared = Shared {
            history: history.clone(),
            phase: phase_seen,
            bootstrap: Arc::new(cluster.addresses()),
            topics: Arc::new(topics),
            replication: Arc::new(plan.replication()),
            authority: monitor.clone(),
            world: world.clone(),
        };
        // There from the start: who is cut off later is cut off from it, too.
        world.host("auditor");
        let hosts = (0..plan.client_host_count).map(|index| world.host(&format!("client-{index}"))).collect();
        let crew = Crew { shared, hosts, topics: plan.topics.clone() };
        let next_producer = plan.roster.producers.len() as u32;
        Self { plan, cluster, history, monitor, phase, crew, core: Core::default(), next_producer, excused: BTreeMap::new(), setting }
    }

    fn world(&self) -> &World {
        &self.setting.world
    }

    async fn run(mut self) -> Result<Verdict, Verdict> {
        let world = self.world().clone();
        let seconds = self.setting.options.seconds.unwrap_or(DEFAULT_SECONDS);
        let safety = Duration::from_secs(seconds);
        let is_calm = self.setting.options.calm;
        let comes_late = self.plan.late_broker_permille > 0;
        self.cluster.start_all(self.plan.broker_count - usize::from(comes_late));
        let working = self.crew.start_all(&self.plan.roster);
        world.spawn("monitor", self.monitor.clone().run());
        if comes_late {
            let (cluster, after) = (self.cluster.clone(), safety * self.plan.late_broker_permille as u32 / 1_000);
            let (its_world, index) = (world.clone(), self.plan.broker_count - 1);
            world.spawn("late broker", async move {
                its_world.sleep(after).await;
                cluster.start_broker(index);
            });
        }
        let churn = Churn { world: world.clone(), cluster: self.cluster.clone(), monitor: self.monitor.clone(), plan: self.plan.clone() };
        let tasks = if is_calm {
            Vec::new()
        } else {
            vec![
                world.spawn("aim", churn.clone().aim(world.stream("aim"))),
                world.spawn("roll", churn.clone().roll(world.stream("roll"))),
                world.spawn("wipe", churn.clone().wipe(world.stream("wipe"))),
                world.spawn("plot", churn.plot(world.stream("plot"))),
            ]
        };
        // A broker that comes late is nobody's victim before it is there.
        let mut victims = self.cluster.servers();
        if comes_late {
            victims.remove(self.plan.broker_count - 1);
        }
        let mut nemesis = Nemesis::new(&world, &self.setting.swarm, &victims, &self.crew.hosts);
        nemesis.run(safety).await;
        tasks.iter().for_each(crate::world::HarnessTask::abort);

        self.heal(&world, is_calm);
        self.phase.send_replace(Phase::Converge);
        self.converge(&working).await?;
        self.serve("after healing").await?;
        self.roll().await?;
        self.serve("after a rolling restart").await?;
        self.cut_power().await;
        self.settle("after a power cut of all").await?;
        self.serve("after a power cut of all").await?;
        self.settle("at the end").await?;
        self.rescan(&working).await?;
        self.check_replicas().await?;
        let (operation_count, fault_count) = world.counts();
        self.phase.send_replace(Phase::Done);
        self.monitor.look();
        self.verdict()?;
        let history = lock(&self.history);
        if let Some(lost) = history.weak_violations().first() {
            let why = history.lossy().values().next().cloned().unwrap_or_default();
            return Ok(Verdict::Unrecoverable { reason: format!("{why}: {}: {}", lost.check, lost.what) });
        }
        if let Some((place, why)) = self.excused.first_key_value() {
            return Ok(Verdict::Unrecoverable { reason: format!("{place:?}: {why}") });
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
        Err(Verdict::Correctness { invariant: first.check.to_owned(), detail: first.what.clone() })
    }

    /// Heals a core, and breaks for ever what is not in it.
    fn heal(&mut self, world: &World, is_calm: bool) {
        let views = self.monitor.views();
        if !is_calm {
            self.core = Core::draw(&self.plan, &views, &self.monitor.members_with_logs(), &mut world.stream("core"));
        }
        world.event("core", &[self.core.brokers.len() as u64, self.core.members.len() as u64], Some(&format!("broken: {:?}", self.core)));
        self.core.enforce(world, &self.cluster);
        for (place, view) in &views {
            if !view.state.replicas.iter().any(|id| self.core.has(*id)) {
                lock(&self.history).give_up(place, "its only replica is on a broker that stays broken");
            }
        }
        let healed: Vec<Host> = self.core.servers(&self.cluster).into_iter().chain(self.crew.hosts.iter().cloned()).chain([world.host("auditor")]).collect();
        world.heal(&healed);
        self.look_after();
    }

    /// Starts the servers of the core that died.
    fn look_after(&self) {
        self.cluster.revive(&self.core.servers(&self.cluster));
    }

    async fn converge(&mut self, working: &Working) -> Result<(), Verdict> {
        let world = self.world().clone();
        let (deadline, excuse_after) = (world.now() + CONVERGE_WITHIN, world.now() + CONVERGE_WITHIN / 3);
        self.repair().await?;
        loop {
            self.verdict()?;
            self.look_after();
            let unsettled = self.unsettled();
            let pending = working.pending();
            if unsettled.is_none() && pending.is_empty() {
                return self.verdict();
            }
            if world.now() > excuse_after && unsettled.is_some() {
                self.excuse();
            }
            if let Some((place, why)) = self.excused.iter().find(|(place, _)| place.0 == OFFSETS_TOPIC) {
                return Err(Verdict::Unrecoverable { reason: format!("{place:?}: {why}") });
            }
            if world.now() > deadline {
                let last = world.halts().pop();
                let why = unsettled.unwrap_or_else(|| "all partitions are as they should be".to_owned());
                return Err(Verdict::Liveness {
                    reason: format!("{CONVERGE_WITHIN:?} after healing: {why}; unfinished: {pending:?}; the last halt: {last:?}"),
                });
            }
            world.sleep(Duration::from_millis(200)).await;
        }
    }

    /// Gives up the partitions none of whose in-sync replicas are healed: what was known of them when the core was drawn was old. Every broker of the core must say
    /// so, and that nobody leads.
    fn excuse(&mut self) {
        let living = self.cluster.living();
        let told: Vec<_> = living.iter().filter(|(index, ..)| self.core.has(*index as i32 + 1)).map(|(_, _, broker)| broker.controller().image()).collect();
        for (place, view) in self.monitor.views() {
            let state = |image: &Arc<ottla::controller::image::MetadataImage>| image.partition(&place.0, place.1).cloned();
            let is_out_of_reach = |state: &ottla::controller::image::PartitionImage| !state.isr.iter().any(|id| self.core.has(*id));
            if !told.is_empty()
                && told.iter().all(|image| state(image).is_some_and(|state| is_out_of_reach(&state)))
                && !lock(&self.history).is_hopeless(&place)
            {
                let why = format!("its in-sync replicas {:?} all stay broken", view.state.isr);
                lock(&self.history).give_up(&place, &why);
                if view.state.replicas.len() > 1 {
                    self.excused.insert(place, why);
                }
            }
        }
    }

    /// Waits until all partitions are as they should be.
    async fn settle(&self, when: &str) -> Result<(), Verdict> {
        let world = self.world().clone();
        let deadline = world.now() + CONVERGE_WITHIN;
        loop {
            self.verdict()?;
            self.look_after();
            let Some(why) = self.unsettled() else { return Ok(()) };
            if world.now() > deadline {
                return Err(Verdict::Liveness { reason: format!("{CONVERGE_WITHIN:?} {when}: {why}; the last halt: {:?}", world.halts().pop()) });
            }
            world.sleep(Duration::from_millis(200)).await;
        }
    }

    /// What is not as it should be in a healed core: every broker registered, every partition led within the core, with all its living replicas in sync.
    fn unsettled(&self) -> Option<String> {
        let core = self.core.brokers(&self.cluster);
        let living: BTreeMap<usize, _> = self.cluster.living().into_iter().map(|(index, _, broker)| (index, broker)).collect();
        if let Some(index) = core.iter().find(|index| !living.contains_key(index)) {
            return Some(format!("broker {} does not start", index + 1));
        }
        let controllers: BTreeSet<i32> = core.iter().map(|index| living[index].controller().image().controller_id).collect();
        if controllers.len() != 1 || controllers.iter().any(|id| !self.core.has(*id)) {
            return Some(format!("the controller is one of {controllers:?} to the brokers {core:?} (counted from 0)"));
        }
        for index in &core {
            let image = living[index].controller().image();
            if let Some(other) = core.iter().find(|other| !image.brokers.contains_key(&(**other as i32 + 1))) {
                return Some(format!("broker {} does not know that broker {} is there", index + 1, other + 1));
            }
        }
        for (place, view) in self.monitor.views() {
            if lock(&self.history).is_hopeless(&place) {
                continue;
            }
            let wanted: BTreeSet<i32> = view.state.replicas.iter().copied().filter(|id| self.core.has(*id)).collect();
            for index in &core {
                let image = living[index].controller().image();
                // Deleted meanwhile, or made anew.
                let Some(topic) = image.topics.get(place.0.as_str()).filter(|topic| topic.id == view.topic_id) else { continue };
                let Some(state) = topic.partition(place.1) else { continue };
                let isr: BTreeSet<i32> = state.isr.iter().copied().collect();
                if !self.core.has(state.leader) {
                    return Some(format!("{place:?} has no leader in the core to broker {}: {state:?}", index + 1));
                }
                if isr != wanted {
                    return Some(format!("{place:?} has not all living replicas {wanted:?} in sync to broker {}: {state:?}", index + 1));
                }
                let leads = living[index].replicas().partition(&place.0, place.1).is_some_and(|partition| partition.leads());
                if leads != (state.leader == *index as i32 + 1) {
                    return Some(format!("{place:?}: broker {} leads: {leads}, by its metadata {state:?}", index + 1));
                }
            }
        }
        None
    }

    /// Partitions that a disk refused while it was ill may stay offline until the next start.
    async fn repair(&self) -> Result<(), Verdict> {
        for _ in 0..40 {
            self.look_after();
            self.world().sleep(Duration::from_millis(500)).await;
            if self.core.brokers(&self.cluster).iter().all(|index| self.cluster.broker(*index).is_some()) {
                break;
            }
        }
        for index in self.cluster.with_offline_partitions() {
            if self.core.has(index as i32 + 1) {
                self.cluster.crash_broker(index, CrashKind::Kill);
                self.world().sleep(Duration::from_millis(100)).await;
                self.look_after();
            }
        }
        Ok(())
    }

    /// Fresh work: a record to every partition that can take it, and a commit of a member of a fresh group.
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
                SERVE_WITHIN * 2,
                || self.look_after(),
                move |link| {
                    let habit = habit.clone();
                    async move {
                        let (runtime, shared, stream) = (link.runtime.clone(), link.shared.clone(), link.stream.clone());
                        let mut link = link;
                        for (number, place) in (0..).zip(link.shared.places()) {
                            if !link.shared.history().is_hopeless(&place)
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

    /// Stops and starts every broker of the core, one after the other; each when all is well.
    async fn roll(&self) -> Result<(), Verdict> {
        let world = self.world().clone();
        for index in self.core.brokers(&self.cluster) {
            self.settle("in a rolling restart").await?;
            let host = self.cluster.brokers[index].clone();
            self.cluster.stop(index);
            let deadline = world.now() + STOP_WITHIN;
            while host.is_alive() {
                if world.now() > deadline {
                    return Err(Verdict::Liveness {
                        reason: format!("broker {} did not stop within {STOP_WITHIN:?}; its tasks: {:?}", index + 1, host.live_tasks()),
                    });
                }
                world.sleep(Duration::from_millis(50)).await;
            }
            self.look_after();
        }
        self.settle("after a rolling restart").await
    }

    /// All servers of the core lose power at once.
    async fn cut_power(&self) {
        for host in self.core.servers(&self.cluster) {
            host.crash(CrashKind::PowerCut);
        }
        self.world().sleep(Duration::from_millis(100)).await;
        self.look_after();
    }

    /// Reads everything that can be read.
    async fn rescan(&mut self, working: &Working) -> Result<(), Verdict> {
        let mut logs: BTreeMap<Place, FinalLog> = BTreeMap::new();
        let tend = || self.look_after();
        for place in self.crew.shared.places() {
            if lock(&self.history).is_hopeless(&place) {
                continue;
            }
            let asked = place.clone();
            let read = self.crew.ask("an audit", AUDIT_ALL_WITHIN, tend, move |mut link| {
                let place = asked.clone();
                async move { reader::audit(&mut link, &place, AUDIT_WITHIN).await }
            });
            logs.insert(place, read.await?.map_err(|reason| Verdict::Liveness { reason })?);
        }
        for group in self.plan.roster.groups() {
            let what = format!("fetching all offsets of {group}");
            let fetched = self.crew.patiently(&what, SERVE_WITHIN, tend, move |link| {
                let group = group.clone();
                async move {
                    let mut link = link;
                    member::fetch_all_offsets(&mut link, &group).await
                }
            });
            fetched.await?;
        }
        for topic in working.own_topics() {
            let what = format!("looking at topic {}", topic.name);
            let is_whole = !lock(&self.history).hopeless().keys().any(|(name, _)| *name == topic.name);
            let looked = self.crew.patiently(&what, SERVE_WITHIN, tend, move |link| {
                let mut topic = topic.clone();
                async move {
                    let mut link = link;
                    !is_whole || admin::observe(&mut link, &mut topic, true).await
                }
            });
            looked.await?;
        }
        lock(&self.history).finish(&logs);
        self.verdict()
    }

    /// Every replica of the core must come to hold the same.
    async fn check_replicas(&self) -> Result<(), Verdict> {
        let world = self.world().clone();
        let deadline = world.now() + CONVERGE_WITHIN;
        for (place, view) in self.monitor.views() {
            let is_lasting = self.plan.topics.iter().any(|topic| topic.name == place.0) || place.0 == OFFSETS_TOPIC;
            if !is_lasting || lock(&self.history).is_hopeless(&place) {
                continue;
            }
            let replicas = view.state.replicas.iter().filter(|id| self.core.has(**id));
            let among: Vec<usize> = replicas.filter_map(|id| self.cluster.index_of(*id)).collect();
            while let Err(why) = self.monitor.same_logs(&place, &among) {
                if world.now() > deadline {
                    return Err(Verdict::Correctness { invariant: "log-matching".to_owned(), detail: format!("in the end: {why}") });
                }
                world.sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(())
    }
}
