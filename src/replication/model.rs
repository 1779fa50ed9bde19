//! The pure replicas against an adversary: messages delayed, reordered, lost and doubled; crashes that take what was not flushed; wiped disks; elections from the
//! in-sync replicas. After every step the invariants W1 to W6 are looked at over all replicas at once.
//!
//! The controller here is the rule of the design, no more: compare-and-set of the state, broker epochs in proposals (KIP-903), a new leader epoch for a leader that
//! came back. The same adversary must find the historic bugs when they are planted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::follower::{FetchAt, Follower, Lineage, LogFacts, Step, Told, compare_lineage};
use super::leader::{Effects, FollowerFetch, Leader, Leadership, Outcome, Plants, Proposal};
use super::order::{Fence, Obeyed, PartitionOrder, Verdict, judge};
use crate::log::EpochCache;
use crate::runtime::Instant;
use crate::wire::control::Sender;

/// A record: the epoch it was written in, and a value that no other record has.
type Record = (i32, u64);

/// Historic bugs.
#[derive(Clone, Copy, Debug, Default)]
struct Bugs {
    pure: Plants,
    /// The controller takes a leader that came back for the same leader.
    ghost_epoch: bool,
    /// Brokers obey orders that were meant for their earlier lives.
    any_life: bool,
    /// The controller elects whoever lives.
    unclean: bool,
}

#[derive(Clone, Debug, Default)]
struct Log {
    records: Vec<Record>,
    durable: usize,
    lineage: EpochCache,
}

impl Log {
    fn end(&self) -> i64 {
        self.records.len() as i64
    }

    fn facts(&self) -> LogFacts<'_> {
        LogFacts { start_offset: 0, end_offset: self.end(), lineage: &self.lineage }
    }

    fn append(&mut self, record: Record) {
        if self.lineage.latest_epoch().is_none_or(|latest| record.0 > latest) {
            self.lineage.assign(record.0, self.end());
        }
        self.records.push(record);
    }

    fn truncate(&mut self, to: i64) {
        self.records.truncate(to as usize);
        self.durable = self.durable.min(self.records.len());
        self.lineage.truncate_from_end(self.end());
    }

    /// What recovery finds: epochs are those of the records.
    fn recover(&mut self) {
        let records = std::mem::take(&mut self.records);
        self.lineage.clear();
        records.into_iter().for_each(|record| self.append(record));
        self.durable = self.records.len();
    }
}

#[derive(Debug)]
enum Role {
    None,
    Leader(Box<Leader>),
    Follower(Follower),
}

#[derive(Debug)]
struct Node {
    alive: bool,
    broker_epoch: i64,
    fence: Fence,
    log: Log,
    role: Role,
    obeyed: Option<Obeyed>,
    high_watermark: i64,
    /// The disk was lost, and the controller does not know it yet.
    wiped: bool,
    /// The greatest high watermark that this leadership has told clients.
    told: i64,
}

#[derive(Clone, Debug)]
enum Message {
    Order { to: i32, sender: Sender, order: PartitionOrder },
    Fetch { from: i32, to: i32, at: FetchAt, broker_epoch: i64 },
    Answer { to: i32, life: i64, asked: FetchAt, told: Told, records: Vec<Record> },
    Propose { from: i32, proposal: Proposal },
    Answered { to: i32, life: i64, proposal: Proposal, outcome: Outcome },
}

/// The partition's state as the controller has written it.
#[derive(Debug)]
struct State {
    leader: i32,
    leader_epoch: i32,
    partition_epoch: i32,
    isr: BTreeSet<i32>,
}

struct World {
    random: SmallRng,
    now: Instant,
    bugs: Bugs,
    min_isr: usize,
    nodes: BTreeMap<i32, Node>,
    state: State,
    registered: BTreeMap<i32, i64>,
    next_broker_epoch: i64,
    messages: Vec<Message>,
    next_value: u64,
    /// What any leader's high watermark has passed.
    committed: Vec<Record>,
    /// What clients were told at most by leaders of each epoch.
    told: BTreeMap<i32, i64>,
    /// How often things happened, for the test that they do.
    seen: BTreeMap<&'static str, u32>,
}

const LAG: Duration = Duration::from_millis(100);

impl World {
    fn new(seed: u64, bugs: Bugs) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let count = random.random_range(3..=4);
        let min_isr = random.random_range(1..=2);
        let nodes = (1..=count).map(|id| {
            let fence = Fence { controller_epoch: 1, broker_epoch: i64::from(id) };
            let node = Node {
                alive: true,
                broker_epoch: i64::from(id),
                fence,
                log: Log::default(),
                role: Role::None,
                obeyed: None,
                high_watermark: 0,
                wiped: false,
                told: 0,
            };
            (id, node)
        });
        let nodes: BTreeMap<i32, Node> = nodes.collect();
        let registered = nodes.iter().map(|(id, node)| (*id, node.broker_epoch)).collect();
        let isr = nodes.keys().copied().collect();
        let mut world = Self {
            random,
            now: Instant::from_nanos(0),
            bugs,
            min_isr,
            state: State { leader: 1, leader_epoch: 0, partition_epoch: 0, isr },
            nodes,
            registered,
            next_broker_epoch: 100,
            messages: Vec::new(),
            next_value: 0,
            committed: Vec::new(),
            told: BTreeMap::new(),
            seen: BTreeMap::new(),
        };
        world.command();
        world
    }

    fn note(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn pick(&mut self) -> i32 {
        self.random.random_range(1..=self.nodes.len() as i32)
    }

    // The controller.

    fn order(&self) -> PartitionOrder {
        PartitionOrder {
            leader: self.state.leader,
            leader_epoch: self.state.leader_epoch,
            isr: self.state.isr.iter().copied().collect(),
            partition_epoch: self.state.partition_epoch,
            replicas: self.nodes.keys().copied().collect(),
        }
    }

    /// Orders every registered broker what is written.
    fn command(&mut self) {
        let order = self.order();
        for (to, broker_epoch) in self.registered.clone() {
            let sender = Sender { controller_id: 1, is_kraft: false, controller_epoch: 1, broker_epoch };
            self.messages.push(Message::Order { to, sender, order: order.clone() });
        }
    }

    /// Elects a registered in-sync replica, another than before if `other`; or nobody. A new epoch in any case.
    fn elect(&mut self, other: bool) {
        let candidates: Vec<i32> = if self.bugs.unclean { self.registered.keys().copied().collect() } else { self.state.isr.iter().copied().collect() };
        let mut candidates: Vec<i32> = candidates.into_iter().filter(|id| self.registered.contains_key(id)).collect();
        if other && candidates.len() > 1 {
            candidates.retain(|id| *id != self.state.leader);
        }
        self.state.leader = if candidates.is_empty() { -1 } else { candidates[self.random.random_range(0..candidates.len())] };
        if self.state.leader >= 0 && !self.state.isr.contains(&self.state.leader) {
            self.state.isr = BTreeSet::from([self.state.leader]);
        }
        self.state.leader_epoch += 1;
        self.state.partition_epoch += 1;
        self.note("election");
        self.command();
    }

    /// Takes a replica out of the in-sync ones, unless it is the last that has its disk: what to do then is for eligible leader replicas (KIP-966).
    fn exclude(&mut self, id: i32) {
        if self.state.isr.iter().any(|member| *member != id && !self.nodes[member].wiped) && self.state.isr.remove(&id) {
            self.state.partition_epoch += 1;
        }
    }

    fn on_session_expired(&mut self, id: i32) {
        if self.registered.remove(&id).is_none() {
            return;
        }
        if self.random.random_bool(0.5) {
            self.exclude(id);
        }
        if self.state.leader == id {
            self.elect(true);
        } else {
            self.command();
        }
    }

    fn on_registered(&mut self, id: i32, epoch: i64, wiped: bool) {
        self.registered.insert(id, epoch);
        if wiped {
            self.exclude(id);
        }
        if self.bugs.ghost_epoch && self.state.leader == id && self.state.isr.contains(&id) {
            self.command();
        } else if self.state.leader == id || self.state.leader < 0 {
            self.elect(false);
        } else {
            self.command();
        }
    }

    fn on_proposal(&mut self, from: i32, proposal: Proposal) {
        let isr: BTreeSet<i32> = proposal.isr.keys().copied().collect();
        // Those that join must be the lives that are registered. Of those that are in sync already the state knows itself.
        let joins_in_an_earlier_life = proposal.isr.iter().any(|(id, epoch)| {
            let registered = self.registered.get(id);
            !self.state.isr.contains(id) && (registered.is_none() || (registered != Some(epoch) && !self.bugs.pure.no_broker_epochs))
        });
        let is_led = from == self.state.leader && proposal.leader_epoch == self.state.leader_epoch;
        let outcome = if !is_led || (proposal.partition_epoch != self.state.partition_epoch && isr != self.state.isr) {
            Outcome::Superseded
        } else if joins_in_an_earlier_life {
            self.note("ineligible");
            Outcome::NotWritten
        } else {
            if isr != self.state.isr {
                self.note(if isr.len() > self.state.isr.len() { "expanded" } else { "shrunk" });
                self.state.isr = isr;
                self.state.partition_epoch += 1;
            }
            Outcome::State { leader_epoch: self.state.leader_epoch, partition_epoch: self.state.partition_epoch, isr: self.state.isr.iter().copied().collect() }
        };
        let life = self.nodes[&from].broker_epoch;
        self.messages.push(Message::Answered { to: from, life, proposal, outcome });
        if self.random.random_bool(0.3) {
            self.command();
        }
    }

    // The brokers.

    fn effects(&mut self, id: i32, effects: Effects) {
        if let Some(to) = effects.high_watermark {
            let node = self.nodes.get_mut(&id).unwrap();
            node.high_watermark = to;
            let log = &node.log.records;
            assert!(to as usize <= log.len(), "a high watermark beyond the log");
            for (offset, record) in log.iter().enumerate().take(to as usize) {
                match self.committed.get(offset) {
                    Some(committed) => assert_eq!(committed, record, "W5: offset {offset} was committed as another record"),
                    None => self.committed.push(*record),
                }
            }
        }
        if let Some(proposal) = effects.propose {
            self.messages.push(Message::Propose { from: id, proposal });
        }
    }

    fn on_order(&mut self, to: i32, sender: Sender, order: &PartitionOrder) {
        let (now, min_isr, plants, any_life) = (self.now, self.min_isr, self.bugs.pure, self.bugs.any_life);
        let node = self.nodes.get_mut(&to).unwrap();
        let sender = if any_life { Sender { broker_epoch: -1, ..sender } } else { sender };
        if !node.alive || node.fence.admit(&sender).is_err() {
            return;
        }
        let verdict = judge(to, node.obeyed, order);
        if !matches!(verdict, Verdict::Ignore | Verdict::Refuse(_)) {
            node.obeyed = Some(Obeyed { leader_epoch: order.leader_epoch, partition_epoch: order.partition_epoch });
        }
        match verdict {
            Verdict::Lead => {
                let told = Leadership {
                    broker_id: to,
                    leader_epoch: order.leader_epoch,
                    partition_epoch: order.partition_epoch,
                    replicas: order.replicas.clone(),
                    isr: order.isr.clone(),
                    lag_max: LAG,
                    min_isr,
                    plants,
                };
                let (leader, effects) = Leader::begin(told, node.log.durable as i64, node.log.end(), node.high_watermark, now);
                node.log.lineage.assign(order.leader_epoch, node.log.records.len() as i64);
                node.role = Role::Leader(Box::new(leader));
                node.told = 0;
                self.note("lead");
                self.effects(to, effects);
            }
            Verdict::Follow => {
                if plants.truncate_to_high_watermark {
                    let to = node.high_watermark;
                    node.log.truncate(to);
                }
                node.role = Role::Follower(Follower::begin(order.leader, order.leader_epoch, order.partition_epoch, node.high_watermark));
            }
            Verdict::Update => {
                let log_end = node.log.end();
                match &mut node.role {
                    Role::Leader(leader) => {
                        let effects = leader.updated(order.partition_epoch, order.replicas.clone(), &order.isr, log_end, now);
                        self.effects(to, effects);
                    }
                    Role::Follower(follower) => follower.updated(order.partition_epoch),
                    Role::None => {}
                }
            }
            Verdict::Stand => node.role = Role::None,
            Verdict::Ignore | Verdict::Refuse(_) => {}
        }
    }

    fn send_fetch(&mut self, id: i32) {
        let node = self.nodes.get_mut(&id).unwrap();
        let Role::Follower(follower) = &node.role else { return };
        if !node.alive {
            return;
        }
        // A fetch offset is durable.
        node.log.durable = node.log.records.len();
        let Some(at) = follower.next_fetch(node.log.facts()) else { return };
        let message = Message::Fetch { from: id, to: follower.leader(), at, broker_epoch: node.broker_epoch };
        self.messages.push(message);
    }

    fn on_fetch(&mut self, from: i32, to: i32, at: FetchAt, broker_epoch: i64) {
        let now = self.now;
        let most = self.random.random_range(1..4);
        let node = self.nodes.get_mut(&to).unwrap();
        if !node.alive {
            return;
        }
        let log_end = node.log.end();
        let mut records = Vec::new();
        let told = match &mut node.role {
            Role::Leader(leader) if at.current_leader_epoch < leader.leader_epoch() => Told::Fenced,
            Role::Leader(leader) if at.current_leader_epoch > leader.leader_epoch() => Told::Failed,
            Role::Leader(leader) => match compare_lineage(&node.log.lineage, log_end, at.last_fetched_epoch, at.offset) {
                Lineage::Unknown => Told::OutOfRange,
                Lineage::Diverging { epoch, end_offset } => Told::Diverging { epoch, end_offset },
                Lineage::Same if at.offset > log_end => Told::OutOfRange,
                Lineage::Same => {
                    let fetch = FollowerFetch { replica: from, broker_epoch, offset: at.offset, log_start_offset: 0 };
                    let told = Told::Records { high_watermark: leader.high_watermark(), log_start_offset: 0 };
                    match leader.fetched(fetch, log_end, now) {
                        Ok(effects) => {
                            records.extend(node.log.records.iter().skip(at.offset as usize).take(most));
                            self.effects(to, effects);
                            told
                        }
                        Err(_) => Told::Failed,
                    }
                }
            },
            _ => Told::Failed,
        };
        if matches!(told, Told::Diverging { .. }) {
            self.note("diverging");
        }
        let life = self.nodes[&from].broker_epoch;
        self.messages.push(Message::Answer { to: from, life, asked: at, told, records });
    }

    fn on_answer(&mut self, to: i32, life: i64, asked: FetchAt, told: Told, records: &[Record]) {
        let node = self.nodes.get_mut(&to).unwrap();
        let Role::Follower(follower) = &mut node.role else { return };
        if !node.alive || node.broker_epoch != life {
            return;
        }
        match follower.answered(asked, told, node.log.facts()) {
            Step::Append => {
                records.iter().for_each(|record| node.log.append(*record));
                let Told::Records { high_watermark, .. } = told else { panic!("records") };
                node.high_watermark = follower.appended(high_watermark, node.log.end()).unwrap_or(node.high_watermark);
            }
            Step::Truncate { to } => {
                assert!(to >= node.high_watermark || self.bugs.unclean, "a follower cuts off what its leader had committed: {to} < {}", node.high_watermark);
                node.log.truncate(to);
                follower.truncated(to);
                node.high_watermark = follower.high_watermark();
                self.note("truncated");
            }
            Step::Restart { .. } => panic!("nothing was deleted"),
            Step::AskOffsets | Step::Fetch | Step::BackOff | Step::Stop => {}
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Order { to, sender, order } => self.on_order(to, sender, &order),
            Message::Fetch { from, to, at, broker_epoch } => self.on_fetch(from, to, at, broker_epoch),
            Message::Answer { to, life, asked, told, records } => self.on_answer(to, life, asked, told, &records),
            Message::Propose { from, proposal } => self.on_proposal(from, proposal),
            Message::Answered { to, life, proposal, outcome } => {
                let (now, node) = (self.now, self.nodes.get_mut(&to).unwrap());
                let log_end = node.log.end();
                if let Role::Leader(leader) = &mut node.role
                    && node.alive
                    && node.broker_epoch == life
                {
                    let effects = leader.answered(&proposal, outcome, log_end, now);
                    self.effects(to, effects);
                }
            }
        }
    }

    /// Loses power, and perhaps the disk.
    fn crash(&mut self, id: i32) {
        // No disk is lost that is the last with all that is committed, now or once a proposal under way is written: nobody promises to survive that.
        let survives = |member: &i32| *member != id && !self.nodes[member].wiped;
        let proposed_survive = self.messages.iter().all(|message| match message {
            Message::Propose { proposal, .. } => proposal.isr.keys().any(survives),
            _ => true,
        });
        let wipe = self.state.isr.iter().any(survives) && proposed_survive && self.random.random_bool(0.2);
        let kept = self.random.random::<u64>();
        let node = self.nodes.get_mut(&id).unwrap();
        if !node.alive {
            return;
        }
        node.alive = false;
        node.role = Role::None;
        node.obeyed = None;
        if wipe {
            node.log = Log::default();
            node.wiped = true;
        }
        let span = node.log.records.len() - node.log.durable + 1;
        let keep = node.log.durable + (kept % span as u64) as usize;
        node.log.records.truncate(keep);
        node.log.recover();
        // The checkpoint of the high watermark is some way behind, and never ahead of the disk.
        node.high_watermark = node.high_watermark.min(node.log.end());
        node.high_watermark -= (kept >> 32) as i64 % (node.high_watermark.min(3) + 1);
        self.note(if wipe { "wipe" } else { "crash" });
    }

    fn restart(&mut self, id: i32) {
        let node = self.nodes.get_mut(&id).unwrap();
        if node.alive {
            return;
        }
        node.alive = true;
        node.broker_epoch = self.next_broker_epoch;
        self.next_broker_epoch += 1;
        node.fence = Fence { controller_epoch: 1, broker_epoch: node.broker_epoch };
        let (epoch, wiped) = (node.broker_epoch, node.wiped);
        self.on_registered(id, epoch, wiped);
        if !self.state.isr.contains(&id) {
            self.nodes.get_mut(&id).unwrap().wiped = false;
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.random_range(0..10));
        let id = self.pick();
        match self.random.random_range(0..1000) {
            // Half of the time something arrives.
            0..500 if !self.messages.is_empty() => {
                let at = self.random.random_range(0..self.messages.len());
                let message = if self.random.random_bool(0.1) { self.messages[at].clone() } else { self.messages.swap_remove(at) };
                self.deliver(message);
            }
            500..540 if !self.messages.is_empty() => {
                let at = self.random.random_range(0..self.messages.len());
                let lost = self.messages.swap_remove(at);
                // An order or a proposal whose connection broke is sent again; a fetch is anyway.
                match lost {
                    Message::Order { .. } if self.random.random_bool(0.8) => self.messages.push(lost),
                    Message::Propose { from, proposal } | Message::Answered { to: from, proposal, .. } => {
                        let (now, node) = (self.now, self.nodes.get_mut(&from).unwrap());
                        let log_end = node.log.end();
                        if let Role::Leader(leader) = &mut node.role {
                            let effects = leader.answered(&proposal, Outcome::Unknown, log_end, now);
                            self.effects(from, effects);
                        }
                    }
                    _ => {}
                }
            }
            540..740 => self.send_fetch(id),
            740..850 => {
                let node = self.nodes.get_mut(&id).unwrap();
                if let (true, Role::Leader(leader)) = (node.alive, &node.role) {
                    node.log.append((leader.leader_epoch(), self.next_value));
                    self.next_value += 1;
                }
            }
            850..930 => {
                let part = self.random.random_range(0..4);
                let (now, node) = (self.now, self.nodes.get_mut(&id).unwrap());
                node.log.durable += (node.log.records.len() - node.log.durable).div_ceil(part + 1);
                let (durable, log_end) = (node.log.durable as i64, node.log.end());
                if let (true, Role::Leader(leader)) = (node.alive, &mut node.role) {
                    let effects = leader.stored(durable, log_end, now);
                    self.effects(id, effects);
                }
            }
            930..950 => {
                let (now, node) = (self.now, self.nodes.get_mut(&id).unwrap());
                let log_end = node.log.end();
                if let (true, Role::Leader(leader)) = (node.alive, &mut node.role) {
                    let effects = leader.check_lag(log_end, now);
                    self.effects(id, effects);
                }
            }
            950..958 => self.crash(id),
            958..980 => self.restart(id),
            980..988 if !self.nodes[&id].alive => self.on_session_expired(id),
            988..993 => self.elect(true),
            993..997 => self.command(),
            _ => self.ask_high_watermark(id),
        }
    }

    /// Everybody is back, nothing is lost or late any more: replicas become in sync and agree.
    fn heal(&mut self) {
        let ids: Vec<i32> = self.nodes.keys().copied().collect();
        ids.iter().for_each(|id| self.restart(*id));
        self.messages.retain(|message| !matches!(message, Message::Fetch { .. } | Message::Answer { .. }));
        for round in 0..200 {
            if round == 20 && !self.registered.contains_key(&self.state.leader) {
                self.elect(false);
            }
            self.now += Duration::from_millis(20);
            self.command();
            for id in &ids {
                self.send_fetch(*id);
                let (now, node) = (self.now, self.nodes.get_mut(id).unwrap());
                node.log.durable = node.log.records.len();
                let log_end = node.log.end();
                if let Role::Leader(leader) = &mut node.role {
                    let stored = leader.stored(log_end, log_end, now);
                    self.effects(*id, stored);
                    if let Role::Leader(leader) = &mut self.nodes.get_mut(id).unwrap().role {
                        let lagging = leader.check_lag(log_end, now);
                        self.effects(*id, lagging);
                    }
                }
            }
            for message in std::mem::take(&mut self.messages) {
                self.deliver(message);
            }
            self.check();
        }
        let leader = &self.nodes[&self.state.leader];
        for (id, node) in &self.nodes {
            assert_eq!(node.log.records, leader.log.records, "replica {id} is not like its leader");
            assert_eq!(node.high_watermark, leader.log.end(), "replica {id} does not know what is committed");
        }
        assert_eq!(self.state.isr.iter().copied().collect::<Vec<_>>(), ids, "all are in sync");
    }

    /// A client asks for the newest offset.
    fn ask_high_watermark(&mut self, id: i32) {
        let node = self.nodes.get_mut(&id).unwrap();
        let (true, Role::Leader(leader)) = (node.alive, &node.role) else { return };
        let Some(told) = leader.proven_high_watermark() else { return };
        assert!(told >= node.told, "W5: a leader's high watermark goes back");
        node.told = told;
        let epoch = leader.leader_epoch();
        for (earlier, before) in self.told.range(..epoch) {
            // A leader that was replaced knows no better; whoever replaced it must.
            assert!(told >= *before, "W5: epoch {epoch} tells {told}, epoch {earlier} had told {before}");
        }
        let most = self.told.entry(epoch).or_default();
        *most = told.max(*most);
        self.note("told");
    }

    fn check(&self) {
        let committed = &self.committed[..];
        for id in &self.state.isr {
            let node = &self.nodes[id];
            if !node.wiped {
                // W2: whoever may be elected has all that is committed, on disk. (W6 with it: while there is one in sync, nothing is lost.)
                let durable = &node.log.records[..node.log.durable];
                assert!(durable.starts_with(committed), "W2: in-sync replica {id} lacks committed records: {durable:?} of {committed:?}");
            }
        }
        let mut leaders: BTreeMap<i32, i32> = BTreeMap::new();
        for (id, node) in &self.nodes {
            if let Role::Leader(leader) = &node.role {
                // W9: one leader in an epoch.
                assert!(leaders.insert(leader.leader_epoch(), *id).is_none(), "W9: two lead in epoch {}", leader.leader_epoch());
                if leader.leader_epoch() == self.state.leader_epoch {
                    // W1 and W3.
                    assert!(node.log.records.starts_with(committed), "W1: leader {id} lacks committed records");
                    let maximal = leader.maximal_isr();
                    assert!(self.state.isr.iter().all(|member| maximal.contains(member)), "W3: {:?} of {maximal:?}", self.state.isr);
                }
            }
            let high_watermark = node.high_watermark as usize;
            assert!(high_watermark <= committed.len(), "W5: replica {id} believes {high_watermark} committed");
            // W4: below its high watermark every log is the same.
            assert!(node.log.records.starts_with(&committed[..high_watermark]), "W4: replica {id} differs below its high watermark");
        }
    }
}

fn run(seed: u64, steps: usize, bugs: Bugs) -> World {
    let mut world = World::new(seed, bugs);
    for _ in 0..steps {
        world.step();
        world.check();
    }
    world
}

/// Seeds until the planted bug is found; panics of the model are what finding is.
fn seeds_until_found(bugs: Bugs) -> u64 {
    (0..400).find(|seed| std::panic::catch_unwind(|| run(*seed, 2_000, bugs)).is_err()).expect("the bug is found") + 1
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn nothing_committed_is_lost(seed in any::<u64>()) {
        run(seed, 2_000, Bugs::default()).heal();
    }
}

#[test]
fn the_adversary_does_all_it_can() {
    let mut seen: BTreeMap<&'static str, u32> = BTreeMap::new();
    let mut committed = 0;
    for seed in 0..24 {
        let world = run(seed, 2_000, Bugs::default());
        committed += world.committed.len();
        for (what, count) in world.seen {
            *seen.entry(what).or_default() += count;
        }
    }
    for what in ["election", "lead", "expanded", "shrunk", "diverging", "truncated", "crash", "wipe", "told"] {
        assert!(seen.get(what).is_some_and(|count| *count >= 5), "{what}: {seen:?}");
    }
    assert!(committed > 500, "{committed}");
}

#[test]
fn planted_bugs_are_found() {
    let pure = Plants::default();
    let plants = [
        ("truncation to the high watermark (KIP-101)", Bugs { pure: Plants { truncate_to_high_watermark: true, ..pure }, ..Bugs::default() }),
        ("the high watermark counts the current in-sync replicas only (KIP-497)", Bugs { pure: Plants { current_isr_only: true, ..pure }, ..Bugs::default() }),
        ("no broker epochs in proposals (KIP-903)", Bugs { pure: Plants { no_broker_epochs: true, ..pure }, ..Bugs::default() }),
        ("leading again in an epoch of an earlier life", Bugs { ghost_epoch: true, ..Bugs::default() }),
        ("orders for an earlier life (KIP-380)", Bugs { any_life: true, ..Bugs::default() }),
        ("unclean elections", Bugs { unclean: true, ..Bugs::default() }),
    ];
    for (what, bugs) in plants {
        let seeds = seeds_until_found(bugs);
        assert!(seeds <= 200, "{what} took {seeds} seeds");
    }
}
