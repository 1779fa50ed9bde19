//! The hosts of a simulated cluster: the life of a broker, the life of a coordinator, and the handles by which the harness looks into those that live.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ottla::broker::Broker;
use ottla::config::broker::BrokerConfig;
use ottla::config::coordinator::CoordinatorConfig;
use ottla::coordination::Coordination;
use ottla::coordination::service::{Dirs, Service};
use ottla::runtime::{Disk, File, HostPort, Open, Runtime};
use tokio::sync::watch;

use super::plan::{PORT, Plan, SECRET_FILE};
use crate::runtime::SimRuntime;
use crate::state::CrashKind;
use crate::world::{Host, World};

/// A broker that lives, and which life it is.
type BrokerSlot = Mutex<Option<(u32, Arc<Broker<SimRuntime>>)>>;
/// A member that lives, and which life it is.
type MemberSlot = Mutex<Option<(u32, Coordination<SimRuntime>)>>;

/// All brokers and members.
pub struct Cluster {
    plan: Plan,
    world: World,
    /// The brokers' hosts; broker ids count from 1.
    pub brokers: Vec<Host>,
    /// The hosts of members that are not in brokers.
    pub members: Vec<Host>,
    broker_slots: Vec<BrokerSlot>,
    member_slots: Vec<MemberSlot>,
    /// Count the requests to stop in order: of brokers, then of members.
    stops: Vec<watch::Sender<u64>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cluster {
    /// The hosts, with nothing on them yet.
    pub fn new(world: &World, plan: &Plan) -> Arc<Self> {
        let brokers: Vec<Host> = (1..=plan.broker_count).map(|id| world.host(&format!("broker-{id}"))).collect();
        let member_count = if plan.is_outside { plan.member_count } else { 0 };
        let members: Vec<Host> = (0..member_count).map(|index| world.host(&plan.member_host(index))).collect();
        for host in brokers.iter().chain(&members) {
            // An unsynced sector that holds random bytes before batches that are whole looks like rot, and recovery refuses to cut rot off: offline, not lost.
            host.disk(|disk| disk.options.garbage = false);
        }
        Arc::new(Self {
            plan: plan.clone(),
            world: world.clone(),
            broker_slots: brokers.iter().map(|_| Mutex::default()).collect(),
            member_slots: members.iter().map(|_| Mutex::default()).collect(),
            stops: brokers.iter().chain(&members).map(|_| watch::Sender::new(0)).collect(),
            brokers,
            members,
        })
    }

    /// All hosts that servers run on: brokers, then members.
    pub fn servers(&self) -> Vec<Host> {
        self.brokers.iter().chain(&self.members).cloned().collect()
    }

    /// Where the brokers listen.
    pub fn addresses(&self) -> Vec<HostPort> {
        self.brokers.iter().map(|host| HostPort { host: host.name(), port: PORT }).collect()
    }

    /// Starts every member, and the brokers but for those from `late` on.
    pub fn start_all(self: &Arc<Self>, late: usize) {
        for index in 0..self.members.len() {
            let config = CoordinatorConfig::from_text("coordinator.properties", &self.plan.coordinator_properties(index), &[]);
            let (config, cluster) = (config.expect("the plan's configuration is valid"), Arc::downgrade(self));
            let stop = self.stops[self.brokers.len() + index].clone();
            self.members[index].start(move |rt| live_as_member(rt, index, config.clone(), cluster.clone(), stop.subscribe()));
        }
        for index in 0..late {
            self.start_broker(index);
        }
    }

    /// Starts a broker for the first time.
    pub fn start_broker(self: &Arc<Self>, index: usize) {
        let config = BrokerConfig::from_text("server.properties", &self.plan.server_properties(index), &[]).expect("the plan's configuration is valid");
        let (cluster, stop, name) = (Arc::downgrade(self), self.stops[index].clone(), self.brokers[index].name());
        self.brokers[index].start(move |rt| live_as_broker(rt, index, name.clone(), config.clone(), cluster.clone(), stop.subscribe()));
    }

    /// The broker at `index`, if it lives and has started, and which life that is.
    pub fn broker(&self, index: usize) -> Option<(u32, Arc<Broker<SimRuntime>>)> {
        let host = &self.brokers[index];
        let found = lock(&self.broker_slots[index]).clone()?;
        (host.is_alive() && host.life() == found.0).then_some(found)
    }

    /// All brokers that live: their index, life and handle.
    pub fn living(&self) -> Vec<(usize, u32, Arc<Broker<SimRuntime>>)> {
        (0..self.brokers.len()).filter_map(|index| self.broker(index).map(|(life, broker)| (index, life, broker))).collect()
    }

    /// The member on a host of its own at `index`, if it takes part.
    pub fn member(&self, index: usize) -> Option<Coordination<SimRuntime>> {
        let host = &self.members[index];
        let (life, member) = lock(&self.member_slots[index]).clone()?;
        (host.is_alive() && host.life() == life).then_some(member)
    }

    /// Asks a server to stop in order; brokers first, then members.
    pub fn stop(&self, index: usize) {
        self.stops[index].send_modify(|count| *count += 1);
    }

    /// Crashes a broker's host.
    pub fn crash_broker(&self, index: usize, kind: CrashKind) {
        *lock(&self.broker_slots[index]) = None;
        self.brokers[index].crash(kind);
    }

    /// Starts those of `among` that are down and were ever started.
    pub fn revive(&self, among: &[Host]) {
        for host in among {
            if host.life() > 0 && !host.is_alive() {
                host.restart();
            }
        }
    }

    /// Blocks or frees all ways from a host to `others`, from them to it, or both.
    pub fn cut(&self, host: &Host, others: &[Host], (out, within): (bool, bool), blocked: bool) {
        for other in others.iter().filter(|other| other.index() != host.index()) {
            if out {
                self.world.set_blocked(host, other, blocked);
            }
            if within {
                self.world.set_blocked(other, host, blocked);
            }
        }
    }

    /// The index of the broker with that id.
    pub fn index_of(&self, broker_id: i32) -> Option<usize> {
        usize::try_from(broker_id - 1).ok().filter(|index| *index < self.brokers.len())
    }

    /// Brokers whose disks refused partitions while they were ill: those may stay offline until the next start, as the brokers' logs say.
    pub fn with_offline_partitions(&self) -> Vec<usize> {
        let is_ill = |broker: &Broker<SimRuntime>| {
            let logs = broker.replicas().logs();
            !logs.offline().is_empty() || logs.all().iter().any(|log| log.check_online().is_err())
        };
        self.living().into_iter().filter(|(_, _, broker)| is_ill(broker)).map(|(index, ..)| index).collect()
    }

    /// Every partition that a living broker knows by its metadata, with the topic's replicas: the widest view of what there is.
    pub fn known_topics(&self) -> BTreeMap<String, usize> {
        let mut known = BTreeMap::new();
        for (_, _, broker) in self.living() {
            for (name, topic) in &broker.controller().image().topics {
                known.insert(name.to_string(), topic.partitions.len());
            }
        }
        known
    }
}

/// Every host of the ensemble has the same secret, as whoever set the cluster up would have copied it.
async fn lay_secret(rt: &SimRuntime) -> std::io::Result<()> {
    let path = Path::new(SECRET_FILE);
    let file = rt.disk().open(path, Open::Create).await?;
    file.guard().await?;
    let secret = Bytes::from_static(b"the secret of a simulated cluster");
    if file.read_at(0, secret.len() + 1).await? == secret {
        return Ok(());
    }
    file.set_len(0).await?;
    file.write_at(0, [secret].into_iter().collect()).await?;
    file.sync_data().await
}

/// One life of a broker.
async fn live_as_broker(rt: SimRuntime, index: usize, name: String, config: BrokerConfig, cluster: std::sync::Weak<Cluster>, mut stop: watch::Receiver<u64>) {
    let Some(cluster) = cluster.upgrade() else { return };
    *lock(&cluster.broker_slots[index]) = None;
    stop.mark_unchanged();
    if let Err(error) = lay_secret(&rt).await {
        rt.halt(&format!("the ensemble's secret cannot be laid down: {error}")).await;
    }
    let started = tokio::select! {
        biased;
        started = Broker::start(rt.clone(), config, &name) => started,
        _ = stop.changed() => return,
    };
    match started {
        Ok(broker) => {
            *lock(&cluster.broker_slots[index]) = Some((rt.process_id().incarnation, broker.clone()));
            drop(cluster);
            let _ = stop.changed().await;
            broker.shutdown().await;
        }
        Err(error) => {
            rt.halt(&format!("the broker does not start: {error}")).await;
        }
    }
}

/// One life of a coordinator on a host of its own.
async fn live_as_member(rt: SimRuntime, index: usize, config: CoordinatorConfig, cluster: std::sync::Weak<Cluster>, mut stop: watch::Receiver<u64>) {
    let Some(cluster) = cluster.upgrade() else { return };
    *lock(&cluster.member_slots[index]) = None;
    stop.mark_unchanged();
    if let Err(error) = lay_secret(&rt).await {
        rt.halt(&format!("the ensemble's secret cannot be laid down: {error}")).await;
    }
    let dirs = Dirs { log: config.log_dir().to_owned(), own: config.data_dir.clone() };
    let opened = async { Service::bind(rt.clone(), rt.clone(), &config.coordination, dirs).await?.open().await };
    let opened = tokio::select! {
        biased;
        opened = opened => opened,
        _ = stop.changed() => return,
    };
    match opened {
        Ok(member) => {
            let member = member.serve();
            *lock(&cluster.member_slots[index]) = Some((rt.process_id().incarnation, member.coordination().clone()));
            drop(cluster);
            let _ = stop.changed().await;
            member.shutdown().await;
        }
        Err(error) => {
            rt.halt(&format!("the coordinator does not start: {error}")).await;
        }
    }
}
