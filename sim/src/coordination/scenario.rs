//! The ensemble under simulation. *Safety*: clients inside of the members work while the nemesis is loose, and members lose disks, files and their
//! membership. *Heal*. *Converge*: every member is a voter again and answers a `sync`. *Serve*: a write by way of each. *Rescan*: every register by way of
//! each member, and again after all were stopped, in order and by a power cut. What must hold at every event is in [`super::history`].

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ottla::coordination::Coordination;
use ottla::coordination::ensemble::peer::Secret;
use ottla::coordination::ensemble::start::EnsembleConfig;
use ottla::runtime::{HostPort, Runtime};
use tokio::sync::watch;

use super::amnesia;
use super::client::{Client, Common, audit, path, serve};
use super::history::History;
use super::plan::{DIR, PORT, Plan};
use crate::nemesis::Nemesis;
use crate::runtime::SimRuntime;
use crate::scenario::{RunOptions, Running, Scenario, Setting};
use crate::state::CrashKind;
use crate::verdict::Verdict;
use crate::world::Host;

const DEFAULT_SECONDS: u64 = 75;
/// After healing, all members must be voters and answer within this.
const CONVERGE_WITHIN: Duration = Duration::from_secs(120);
/// A write must be answered within this, in a healed world.
const SERVE_WITHIN: Duration = Duration::from_secs(20);
/// The most members that there are.
const MEMBER_MAX_COUNT: usize = 5;
/// A seed counts if it ran so long and so much happened.
const MIN_SECONDS: u64 = 60;
const MIN_OPERATION_COUNT: u64 = 200;
const MIN_FAULT_COUNT: u64 = 3;

/// See the file's head.
pub struct CoordinationScenario;

impl Scenario for CoordinationScenario {
    fn name(&self) -> &'static str {
        "coordination"
    }

    fn about(&self) -> &'static str {
        "an ensemble of one, three or five members that suffer everything, lost disks and removals included; clients inside of them"
    }

    fn plants(&self) -> &'static [&'static str] {
        &["ack-append-before-fsync", "vote-not-persisted", "apply-before-commit", "wiped-member-votes", "skip-log-gap-on-start", "stale-read-without-readindex"]
    }

    fn victim_count(&self) -> usize {
        MEMBER_MAX_COUNT
    }

    fn limit(&self, options: &RunOptions) -> Duration {
        Duration::from_secs(options.seconds.unwrap_or(DEFAULT_SECONDS) + 1_200)
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

/// The members' hosts, and the handle of each that is open.
pub struct Members {
    /// The hosts; server ids count from 1.
    pub hosts: Vec<Host>,
    slots: Vec<Mutex<Option<Coordination<SimRuntime>>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Members {
    /// The member's process is no more.
    pub fn forget(&self, index: usize) {
        *lock(&self.slots[index]) = None;
    }

    /// The handle of a member whose process lives and takes part.
    pub fn handle(&self, index: usize) -> Option<Coordination<SimRuntime>> {
        if self.hosts[index].is_alive() { lock(&self.slots[index]).clone() } else { None }
    }
}

struct Run {
    setting: Setting,
    plan: Plan,
    members: Arc<Members>,
    history: Arc<History>,
    common: Common,
    works: watch::Sender<bool>,
    /// Counts the requests to stop in order.
    stop: watch::Sender<u64>,
}

impl Run {
    fn new(setting: Setting) -> Self {
        let world = &setting.world;
        let plan = Plan::draw(world.seed());
        world.event("plan", &[], Some(&plan.to_string()));
        let history = Arc::new(History::new(world, plan.register_count));
        let hosts: Vec<Host> = (0..plan.member_count).map(|index| world.host(&format!("member-{}", index + 1))).collect();
        let slots = hosts.iter().map(|_| Mutex::default()).collect();
        let (works, works_seen) = watch::channel(true);
        let common = Common {
            history: history.clone(),
            world: world.clone(),
            register_count: plan.register_count,
            pause_mean_ms: plan.pause_mean_ms,
            works: works_seen,
        };
        Self { plan, members: Arc::new(Members { hosts, slots }), history, common, works, stop: watch::Sender::new(0), setting }
    }

    fn start_members(&self) {
        for (index, host) in self.members.hosts.iter().enumerate() {
            let server = |id: usize| (id as u32, HostPort { host: format!("member-{id}"), port: PORT });
            let servers: BTreeMap<u32, HostPort> = (1..=self.plan.member_count).map(server).collect();
            let config = EnsembleConfig {
                server_id: index as u32 + 1,
                servers,
                secret: Secret::new("the secret of a simulated ensemble"),
                listen: SocketAddr::from(([0, 0, 0, 0], PORT)),
            };
            let (members, plan, common, stop) = (self.members.clone(), self.plan.clone(), self.common.clone(), self.stop.clone());
            host.start(move |rt| live(rt, index, config.clone(), plan.clone(), members.clone(), common.clone(), stop.subscribe()));
        }
    }

    async fn run(self) -> Result<Verdict, Verdict> {
        let world = self.setting.world.clone();
        self.start_members();
        let seconds = self.setting.options.seconds.unwrap_or(DEFAULT_SECONDS);
        let safety = Duration::from_secs(seconds);
        let losses = (!self.setting.options.calm).then(|| {
            let (members, history, plan) = (self.members.clone(), self.history.clone(), self.plan.clone());
            let until = world.now() + safety;
            world.spawn("amnesia", amnesia::run(world.clone(), members, history, plan, world.stream("amnesia"), until))
        });
        let mut nemesis = Nemesis::new(&world, &self.setting.swarm, &self.members.hosts, &[]);
        nemesis.run(safety).await;
        world.heal_all();
        if let Some(losses) = losses {
            // One may be under way.
            let mut losses = Box::pin(losses.join());
            let deadline = world.now() + Duration::from_secs(120);
            while world.timeout(Duration::from_millis(200), &mut losses).await.is_none() {
                nemesis.restart_dead(&self.members.hosts);
                if world.now() > deadline {
                    return Err(Verdict::Liveness { reason: "a loss of a member did not come to its end".to_owned() });
                }
            }
        }
        let acknowledged_count = self.history.acknowledged_count();
        self.works.send_replace(false);
        self.converge("after healing").await?;
        self.serve_and_rescan("after healing").await?;
        self.check_sessions().await?;
        self.stop_all(true).await?;
        self.converge("after all were stopped").await?;
        self.serve_and_rescan("after all were stopped").await?;
        self.stop_all(false).await?;
        self.converge("after a power cut of all").await?;
        self.serve_and_rescan("after a power cut of all").await?;
        let (operation_count, fault_count) = world.counts();
        world.event("done", &[acknowledged_count, self.history.last_applied()], None);
        if seconds < MIN_SECONDS || operation_count < MIN_OPERATION_COUNT || fault_count < MIN_FAULT_COUNT {
            return Ok(Verdict::NotCounted { reason: format!("{seconds} s, {operation_count} operations, {fault_count} faults") });
        }
        Ok(Verdict::Clean)
    }

    fn restart_dead(&self) {
        for host in &self.members.hosts {
            if !host.is_alive() {
                host.restart();
            }
        }
    }

    /// Waits until every member votes and answers a `sync`.
    async fn converge(&self, when: &str) -> Result<(), Verdict> {
        let world = &self.setting.world;
        let deadline = world.now() + CONVERGE_WITHIN;
        loop {
            self.restart_dead();
            world.sleep(Duration::from_millis(250)).await;
            let pending = self.pending().await;
            let Some(why) = pending else { return Ok(()) };
            if world.now() > deadline {
                let last = world.halts().pop();
                return Err(Verdict::Liveness { reason: format!("{CONVERGE_WITHIN:?} {when}: {why}; the last halt: {last:?}") });
            }
        }
    }

    /// Why the ensemble is not whole yet.
    async fn pending(&self) -> Option<String> {
        let world = &self.setting.world;
        for index in 0..self.plan.member_count {
            let Some(handle) = self.members.handle(index) else { return Some(format!("member-{} does not take part", index + 1)) };
            let Some(Some(status)) = world.timeout(Duration::from_secs(2), handle.status()).await else {
                return Some(format!("member-{} tells no status", index + 1));
            };
            if status.conf_state.voters.len() != self.plan.member_count || !status.conf_state.learners.is_empty() {
                return Some(format!("member-{} knows {:?} of {:?}, leader {}", index + 1, status.conf_state, status.members, status.leadership.leader));
            }
            if !matches!(world.timeout(Duration::from_secs(2), handle.sync()).await, Some(Ok(()))) {
                return Some(format!("member-{} answers no sync; {:?}", index + 1, status.leadership));
            }
        }
        None
    }

    async fn serve_and_rescan(&self, when: &str) -> Result<(), Verdict> {
        let world = &self.setting.world;
        for index in 0..self.plan.member_count {
            for what in ["write", "audit"] {
                let Some(handle) = self.members.handle(index) else {
                    return Err(Verdict::Liveness { reason: format!("{when} member-{} died in a healed world: {:?}", index + 1, world.halts().pop()) });
                };
                let common = &self.common;
                let work = async {
                    // Leadership may change hands once more; the outcome of one that was lost stays open.
                    let mut last = String::new();
                    for _ in 0..3 {
                        let tried = if what == "write" { serve(&handle, common).await } else { audit(&handle, common).await };
                        match tried {
                            Ok(()) => return Ok(()),
                            Err(why) => last = why,
                        }
                    }
                    Err(last)
                };
                match world.timeout(SERVE_WITHIN, work).await {
                    Some(Ok(())) => {}
                    Some(Err(why)) => return Err(Verdict::Liveness { reason: format!("{when} the {what} by member-{}: {why}", index + 1) }),
                    None => return Err(Verdict::Liveness { reason: format!("{when} the {what} by member-{} took more than {SERVE_WITHIN:?}", index + 1) }),
                }
            }
        }
        Ok(())
    }

    /// No client shows a sign of life any more: all sessions must end, and their znodes with them.
    async fn check_sessions(&self) -> Result<(), Verdict> {
        let world = &self.setting.world;
        let deadline = world.now() + Duration::from_secs(20);
        loop {
            world.sleep(Duration::from_millis(500)).await;
            let Some(handle) = self.members.handle(0) else { continue };
            let left = match handle.children("/").await {
                Ok((names, _)) => names.into_iter().filter(|name| name.starts_with('e')).count(),
                Err(_) => 0,
            };
            if left == 0 {
                return Ok(());
            }
            if world.now() > deadline {
                return Err(Verdict::Correctness {
                    invariant: "ephemeral".to_owned(),
                    detail: format!("{left} ephemeral znodes outlive their sessions, {}", path(0)),
                });
            }
        }
    }

    async fn stop_all(&self, in_order: bool) -> Result<(), Verdict> {
        let world = &self.setting.world;
        if !in_order {
            self.members.hosts.iter().for_each(|host| host.crash(CrashKind::PowerCut));
            world.sleep(Duration::from_millis(100)).await;
            return Ok(());
        }
        self.stop.send_modify(|count| *count += 1);
        let deadline = world.now() + Duration::from_secs(60);
        while let Some(host) = self.members.hosts.iter().find(|host| host.is_alive()) {
            if world.now() > deadline {
                return Err(Verdict::Liveness { reason: format!("{host:?} did not stop in order; its tasks: {:?}", host.live_tasks()) });
            }
            world.sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// One life of a member.
async fn live(rt: SimRuntime, index: usize, config: EnsembleConfig, plan: Plan, members: Arc<Members>, common: Common, mut stop: watch::Receiver<u64>) {
    members.forget(index);
    let mut config = config;
    if plan.grows && index == 0 && rt.process_id().incarnation == 1 {
        // Alone at first. Later its configuration names all: else it would begin another ensemble when it has lost its disk.
        config.servers.retain(|id, _| *id == 1);
    }
    let observer = common.history.clone();
    let opened = Coordination::open_member(rt.clone(), Path::new(DIR), &config, plan.options, Some(observer));
    let opened = tokio::select! {
        biased;
        opened = opened => opened,
        _ = stop.changed() => return,
    };
    let coordination = match opened {
        Ok(coordination) => coordination,
        Err(error) => {
            rt.halt(&format!("the member does not start: {error}")).await;
            return;
        }
    };
    *lock(&members.slots[index]) = Some(coordination.clone());
    for number in 0..plan.client_count {
        let label = format!("client {index} {number} {}", rt.process_id().incarnation);
        let client = Client::new(rt.clone(), coordination.clone(), common.clone(), common.world.stream(&label));
        rt.spawn("client", client.run());
    }
    let _ = stop.changed().await;
    coordination.shutdown().await;
}
