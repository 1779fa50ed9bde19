//! The ensemble under simulation. *Safety*: clients inside of the members and over the network work while the nemesis is loose, and members lose disks,
//! files and their membership. *Heal*. *Converge*: every member is a voter again and answers a `sync`. *Serve*: a write by way of each, and fresh work for
//! every client over the network. *Rescan*: every register by way of each member; no session outlives its client; and again after all were stopped, in
//! order and by a power cut. What must hold at every event is in [`super::history`] and [`super::sessions::oracle`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ottla::coordination::Coordination;
use ottla::coordination::ensemble::peer::Secret;
use ottla::coordination::ensemble::start::EnsembleConfig;
use ottla::coordination::server::{Server, ServerConfig};
use ottla::runtime::{HostPort, Runtime};
use tokio::sync::{mpsc, watch};

use super::client::{Client, Common, audit, path, serve};
use super::history::History;
use super::plan::{DIR, PORT, Plan};
use super::sessions::client::{CLIENT_PORT, Client as SessionClient, Common as SessionCommon};
use super::sessions::habits::{self, Habit};
use super::{amnesia, churn, solitude};
use crate::clients::link::Phase;
use crate::nemesis::Nemesis;
use crate::runtime::SimRuntime;
use crate::scenario::{RunOptions, Running, Scenario, Setting};
use crate::state::CrashKind;
use crate::verdict::Verdict;
use crate::world::{HarnessTask, Host, World};

const DEFAULT_SECONDS: u64 = 75;
/// After healing, all members must be voters and answer within this.
const CONVERGE_WITHIN: Duration = Duration::from_secs(120);
/// A write must be answered within this, in a healed world.
const SERVE_WITHIN: Duration = Duration::from_secs(20);
/// The most members that there are.
const MEMBER_MAX_COUNT: usize = 5;
/// Every client must be served within this, in a healed world.
const CLIENTS_SERVED_WITHIN: Duration = Duration::from_secs(60);
/// For how long clients do nothing but live: longer than the longest time-out of a session.
const QUIET: Duration = Duration::from_secs(12);
/// All sessions must have ended within this once nobody shows a sign of life: the longest time-out, and as much again and more for what may be late.
const SESSIONS_END_WITHIN: Duration = Duration::from_secs(30);
/// How many hosts the clients over the network have.
const CLIENT_HOST_COUNT: usize = 2;
/// How often a member comes back in a healed world, and after how long.
const COME_BACK_COUNT: usize = 3;
const COME_BACK_AFTER: Duration = Duration::from_millis(900);
/// Members that are asked to stop all at once have ended within this: the last one has nobody to wait for.
const STOP_WITHIN: Duration = Duration::from_millis(1_500);
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
        &[
            "ack-append-before-fsync",
            "vote-not-persisted",
            "apply-before-commit",
            "wiped-member-votes",
            "vote-for-one-without-a-log",
            "skip-log-gap-on-start",
            "replaced-entry-returns",
            "snapshot-not-synced",
            "go-on-after-failed-write",
            "stale-read-without-readindex",
            "session-not-fenced-after-move",
            "stale-session-accepted",
            "ephemeral-outlives-session",
            "new-leader-grants-no-time",
            "watch-lost-on-snapshot",
            "answer-before-event",
            "read-overtakes-own-write",
            "serves-without-leader",
            "signs-of-life-not-relayed",
            "early-election-without-pre-vote",
            "early-election-without-end",
        ]
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
    /// The Raft ids of members that ever were open, and which host's they are.
    with_log: Mutex<BTreeMap<u64, usize>>,
    /// Counts the requests to stop in order, of each.
    stops: Vec<watch::Sender<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Members {
    /// The member's process is no more.
    pub fn forget(&self, index: usize) {
        *lock(&self.slots[index]) = None;
    }

    /// Whether the member with that Raft id ever had a log. It may be among the first members without ever having had one.
    pub fn had_log(&self, raft_id: u64) -> bool {
        self.index_of(raft_id).is_some()
    }

    /// Whose Raft id that is.
    pub fn index_of(&self, raft_id: u64) -> Option<usize> {
        lock(&self.with_log).get(&raft_id).copied()
    }

    /// Crashes a member's host.
    pub fn crash(&self, index: usize, kind: CrashKind) {
        self.forget(index);
        self.hosts[index].crash(kind);
    }

    /// Starts it if it is down.
    pub fn revive(&self, index: usize) {
        if !self.hosts[index].is_alive() {
            self.hosts[index].restart();
        }
    }

    /// Asks it to stop in order.
    pub fn stop(&self, index: usize) {
        self.stops[index].send_modify(|count| *count += 1);
    }

    /// Blocks or frees the ways from a member to all others, to it from them, or both.
    pub fn cut(&self, world: &World, index: usize, (out, within): (bool, bool), blocked: bool) {
        for host in self.hosts.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, host)| host) {
            if out {
                world.set_blocked(&self.hosts[index], host, blocked);
            }
            if within {
                world.set_blocked(host, &self.hosts[index], blocked);
            }
        }
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
    /// How far the run is, for the clients over the network.
    phase: watch::Sender<Phase>,
    client_hosts: Vec<Host>,
    /// Those of them that were served after healing.
    served: Arc<Mutex<BTreeSet<usize>>>,
}

impl Run {
    fn new(setting: Setting) -> Self {
        let world = &setting.world;
        let plan = Plan::draw(world.seed());
        world.event("plan", &[], Some(&plan.to_string()));
        let hosts: Vec<Host> = (0..plan.member_count).map(|index| world.host(&format!("member-{}", index + 1))).collect();
        let history = Arc::new(History::new(world, plan.register_count, &hosts));
        let client_hosts = (1..=CLIENT_HOST_COUNT).map(|number| world.host(&format!("client-{number}"))).collect();
        let slots = hosts.iter().map(|_| Mutex::default()).collect();
        let stops = hosts.iter().map(|_| watch::Sender::new(0)).collect();
        let (works, works_seen) = watch::channel(true);
        let common = Common {
            history: history.clone(),
            world: world.clone(),
            register_count: plan.register_count,
            pause_mean_ms: plan.pause_mean_ms,
            works: works_seen,
        };
        Self {
            plan,
            members: Arc::new(Members { hosts, slots, stops, with_log: Mutex::default() }),
            history,
            common,
            works,
            phase: watch::Sender::new(Phase::Safety),
            client_hosts,
            served: Arc::default(),
            setting,
        }
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
            let (members, plan, common) = (self.members.clone(), self.plan.clone(), self.common.clone());
            host.start(move |rt| live(rt, index, config.clone(), plan.clone(), members.clone(), common.clone()));
        }
    }

    fn start_clients(&self) {
        let common = SessionCommon {
            oracle: self.history.oracle.clone(),
            world: self.setting.world.clone(),
            member_count: self.plan.member_count,
            phase: self.phase.subscribe(),
        };
        for (host_index, host) in self.client_hosts.iter().enumerate() {
            let (common, plan, ip, served) = (common.clone(), self.plan.clone(), host.ip(), self.served.clone());
            host.start(move |rt| visit(rt, host_index, common.clone(), plan.clone(), ip, served.clone()));
        }
    }

    /// Looks at the members from time to time: who votes, and whether their trees are as large as they must be.
    async fn look(world: World, members: Arc<Members>, history: Arc<History>, plan: Plan) {
        let first_count = if plan.grows { 1 } else { plan.member_count as u64 };
        loop {
            world.sleep(Duration::from_millis(300)).await;
            for index in 0..plan.member_count {
                let Some(handle) = members.handle(index) else { continue };
                let (zxid, size) = (handle.last_zxid(), handle.size());
                if history.oracle.size(zxid).is_some_and(|expected| expected != size) {
                    let expected = history.oracle.size(zxid);
                    history.violation("replay", format!("member-{} has {size:?} znodes and bytes at {zxid}, and should have {expected:?}", index + 1));
                }
                if let Some(Some(status)) = world.timeout(Duration::from_millis(100), handle.status()).await {
                    history.voters(first_count, &status.conf_state.voters);
                    if plan.member_count > 1 && status.leadership.is_leader && status.conf_state.voters.len() == plan.member_count {
                        history.oracle.is_whole();
                    }
                }
            }
        }
    }

    async fn run(self) -> Result<Verdict, Verdict> {
        let world = self.setting.world.clone();
        self.start_members();
        self.start_clients();
        world.spawn("look", Self::look(world.clone(), self.members.clone(), self.history.clone(), self.plan.clone()));
        let seconds = self.setting.options.seconds.unwrap_or(DEFAULT_SECONDS);
        let safety = Duration::from_secs(seconds);
        let losses = (!self.setting.options.calm).then(|| {
            let (members, history, plan) = (self.members.clone(), self.history.clone(), self.plan.clone());
            let until = world.now() + safety;
            world.spawn("amnesia", amnesia::run(world.clone(), members, history, plan, world.stream("amnesia"), until))
        });
        let churn = (!self.setting.options.calm).then(|| {
            let (members, votes, plan) = (self.members.clone(), self.history.votes(), self.plan.clone());
            world.spawn("churn", churn::run(world.clone(), members, votes, plan, world.stream("churn")))
        });
        let solitude = (!self.setting.options.calm).then(|| {
            let (members, plan) = (self.members.clone(), self.plan.clone());
            world.spawn("solitude", solitude::run(world.clone(), members, plan, world.stream("solitude")))
        });
        let mut nemesis = Nemesis::new(&world, &self.setting.swarm, &self.members.hosts, &self.client_hosts);
        nemesis.run(safety).await;
        churn.iter().chain(&solitude).for_each(HarnessTask::abort);
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
        self.phase.send_replace(Phase::Converge);
        self.converge("after healing").await?;
        self.serve_and_rescan("after healing").await?;
        self.come_back().await?;
        self.serve_clients().await?;
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

    /// In a healed world a member that is no leader ends and comes back: that disturbs no leader. One change may have been under way.
    async fn come_back(&self) -> Result<(), Verdict> {
        let world = &self.setting.world;
        let mut changes = Vec::new();
        for _ in 0..COME_BACK_COUNT {
            let Some((leader, before)) = self.leadership().await.filter(|_| self.plan.member_count > 1) else { return Ok(()) };
            let other = (leader + 1) % self.plan.member_count;
            self.members.crash(other, CrashKind::Kill);
            // The leader tries to reach it ever less often.
            world.sleep(COME_BACK_AFTER).await;
            self.members.revive(other);
            self.converge("after a member came back").await?;
            if let Some((now_leads, after)) = self.leadership().await.filter(|(_, after)| *after != before) {
                changes.push(format!("member-{} came back; member-{} led in term {before}, member-{} in {after}", other + 1, leader + 1, now_leads + 1));
            }
        }
        if changes.len() > 1 {
            return Err(Verdict::Correctness { invariant: "leader-undisturbed".to_owned(), detail: changes.join("; ") });
        }
        Ok(())
    }

    /// Who leads, and in which term.
    async fn leadership(&self) -> Option<(usize, u64)> {
        for index in 0..self.plan.member_count {
            let Some(handle) = self.members.handle(index) else { continue };
            if let Some(Some(status)) = self.setting.world.timeout(Duration::from_secs(1), handle.status()).await
                && status.leadership.is_leader
            {
                return Some((index, status.leadership.term));
            }
        }
        None
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

    /// Every client over the network does fresh work; then they go, with a word or without.
    async fn serve_clients(&self) -> Result<(), Verdict> {
        let world = &self.setting.world;
        let deadline = world.now() + CLIENTS_SERVED_WITHIN;
        let all: BTreeSet<usize> = (0..self.plan.session_client_count).collect();
        while *lock(&self.served) != all {
            if world.now() > deadline {
                let waiting: Vec<usize> = all.difference(&lock(&self.served)).copied().collect();
                return Err(Verdict::Liveness { reason: format!("{CLIENTS_SERVED_WITHIN:?} after healing the clients {waiting:?} were not served") });
            }
            world.sleep(Duration::from_millis(100)).await;
        }
        // Long enough for a session to expire whose signs of life do not reach the leader.
        world.sleep(QUIET).await;
        self.history.oracle.release();
        self.phase.send_replace(Phase::Done);
        Ok(())
    }

    /// No client shows a sign of life any more: all sessions must end, and their znodes with them.
    async fn check_sessions(&self) -> Result<(), Verdict> {
        let world = &self.setting.world;
        let deadline = world.now() + SESSIONS_END_WITHIN;
        loop {
            world.sleep(Duration::from_millis(500)).await;
            let living = self.history.oracle.living();
            if !living.is_empty() {
                if world.now() > deadline {
                    let detail = format!("sessions {living:x?} have not ended {SESSIONS_END_WITHIN:?} after their clients went");
                    return Err(Verdict::Liveness { reason: detail });
                }
                continue;
            }
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
        (0..self.members.hosts.len()).for_each(|index| self.members.stop(index));
        let deadline = world.now() + STOP_WITHIN;
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
async fn live(rt: SimRuntime, index: usize, config: EnsembleConfig, plan: Plan, members: Arc<Members>, common: Common) {
    members.forget(index);
    let mut stop = members.stops[index].subscribe();
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
    if let Some(status) = coordination.status().await {
        lock(&members.with_log).insert(status.raft_id, index);
        common.history.oracle.member(status.raft_id, index);
    }
    for number in 0..plan.client_count {
        let label = format!("client {index} {number} {}", rt.process_id().incarnation);
        let client = Client::new(rt.clone(), coordination.clone(), common.clone(), common.world.stream(&label));
        rt.spawn("client", client.run());
    }
    let listener = match rt.listen(SocketAddr::from(([0, 0, 0, 0], CLIENT_PORT))).await {
        Ok(listener) => listener,
        Err(error) => {
            rt.halt(&format!("the member cannot listen for clients: {error}")).await;
            return;
        }
    };
    let config = ServerConfig {
        tick_ms: 500,
        min_session_timeout_ms: 3_000,
        max_session_timeout_ms: 10_000,
        max_connections_per_address: 0,
        idle_check_ms: 1_000,
        never_used_ms: 5_000,
        ..ServerConfig::default()
    };
    let server = Server::start(coordination.clone(), vec![listener], config);
    let _ = stop.changed().await;
    server.shutdown().await;
    coordination.shutdown().await;
}

/// The life of a host of clients.
async fn visit(rt: SimRuntime, host_index: usize, common: SessionCommon, plan: Plan, ip: Ipv4Addr, served: Arc<Mutex<BTreeSet<usize>>>) {
    let (working, mut all) = mpsc::channel::<()>(1);
    for index in (0..plan.session_client_count).filter(|index| index % CLIENT_HOST_COUNT == host_index) {
        let mut stream = common.world.stream(&format!("session client {index}"));
        let habit = Habit::of(index, &mut stream);
        let client = SessionClient::new(rt.clone(), common.clone(), stream, index, ip);
        let (working, served) = (working.clone(), served.clone());
        rt.spawn("session-client", async move {
            let served = || {
                lock(&served).insert(index);
            };
            habits::run(client, habit, plan.session_pause_mean_ms, served).await;
            drop(working);
        });
    }
    drop(working);
    let _ = all.recv().await; // Nothing is sent: it ends with the last of them.
}
