//! The nemesis: which faults a seed draws, and the loop that lets them loose.
//!
//! Swarm testing: each seed switches classes of faults on or off and draws their rates, so that some runs are calm but for one class.
//! Each class draws from a stream of its own. Only faults that the system under test promises to survive are here; wiping disks and
//! flipping bits are for scenarios that know how many replicas are left.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::clock::ClockOptions;
use crate::disk::model::errno;
use crate::disk::ops::{AimedFault, DiskOptions, OpKind};
use crate::net::model::NetOptions;
use crate::rng::Stream;
use crate::state::{CrashKind, CrashPoint, CrashWhen};
use crate::world::{Host, World, WorldOptions};

macro_rules! fault_classes {
    ($($(#[$doc:meta])* $class:ident $name:literal;)*) => {
        /// A kind of fault that the nemesis causes from time to time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum FaultClass { $($(#[$doc])* $class,)* }

        impl FaultClass {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$class,)*];

            /// Its name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$class => $name,)* }
            }
        }
    };
}

fault_classes! {
    /// A crash of one host before, within or after one of its next I/O calls.
    CrashAtIo "crash-at-io";
    /// `kill -9` of one host's processes.
    Kill "kill";
    /// One host loses power.
    PowerCut "power-cut";
    /// All victims lose power at once.
    Blackout "blackout";
    /// One host stands still for a while.
    Pause "pause";
    /// One direction between two hosts is a black hole.
    BlockOneWay "block-one-way";
    /// Victims and bystanders fall into two groups.
    Partition "partition";
    /// One direction between two hosts is slow.
    SlowLink "slow-link";
    /// Connections between two hosts are reset.
    Reset "reset";
    /// One disk answers late.
    DiskStall "disk-stall";
    /// One disk is full.
    DiskFull "disk-full";
    /// One of the next syncs of a host fails and cleans its pages.
    SyncFailure "sync-failure";
    /// One of the next reads, writes or changes of names of a host fails.
    DiskError "disk-error";
    /// A wall clock jumps.
    ClockJump "clock-jump";
    /// A host's clocks run fast or slow.
    ClockDrift "clock-drift";
}

impl FromStr for FaultClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|class| class.name() == text).ok_or_else(|| {
            let names: Vec<_> = Self::ALL.iter().map(|class| class.name()).collect();
            format!("'{text}' is no class of faults; there are {}", names.join(", "))
        })
    }
}

/// What a seed drew.
#[derive(Clone, Debug)]
pub struct Swarm {
    /// The network's ground state.
    pub net: NetOptions,
    /// The disks' ground state.
    pub disk: DiskOptions,
    /// The clocks' ground state.
    pub clock: ClockOptions,
    /// Whether `buggify` sites may fire.
    pub buggify: bool,
    /// The mean time between two faults of each class that is on, in milliseconds.
    pub classes: BTreeMap<FaultClass, u64>,
    /// The mean time until what is down comes up again, in milliseconds.
    pub repair_mean_ms: u64,
    /// How many victims may be down or paused at once; blackouts do not ask.
    pub down_max_count: usize,
}

impl Swarm {
    /// No faults at all.
    pub fn calm() -> Self {
        Self {
            net: NetOptions::default(),
            disk: DiskOptions::default(),
            clock: ClockOptions::default(),
            buggify: false,
            classes: BTreeMap::new(),
            repair_mean_ms: 3_000,
            down_max_count: 1,
        }
    }

    /// What `seed` draws for a world with `victim_count` victims; classes in `without` are off.
    pub fn draw(seed: u64, victim_count: usize, without: &BTreeSet<FaultClass>) -> Self {
        let mut draws = Stream::new(seed, "swarm", 0);
        let draws = &mut draws;
        let rate = |draws: &mut Stream, on_ppm: u32, max_ppm: u64| {
            let (on, drawn) = (draws.chance(on_ppm), draws.between(1, max_ppm) as u32);
            if on { drawn } else { 0 }
        };
        let base_latency_us = *draws.pick(&[(20, 200), (30, 400), (200, 5_000), (1_000, 40_000)]);
        let net = NetOptions {
            base_latency_us,
            jitter_mean_us: *draws.pick(&[10, 60, 500, 5_000]),
            spike_ppm: rate(draws, 500_000, 5_000),
            reset_ppm: rate(draws, 300_000, 2_000),
            split_ppm: *draws.pick(&[20_000, 200_000, 800_000]),
            partial_write_ppm: *draws.pick(&[10_000, 50_000, 300_000]),
            window_log2: *draws.pick(&[(12, 14), (14, 18), (16, 20), (12, 20)]),
            accept_error_ppm: rate(draws, 200_000, 20_000),
            backlog_count: *draws.pick(&[4, 128, 128]),
            silent_refusal_ppm: *draws.pick(&[0, 0, 100_000, 1_000_000]),
        };
        let disk = DiskOptions {
            read_error_ppm: rate(draws, 50_000, 50),
            write_error_ppm: rate(draws, 50_000, 50),
            sync_error_ppm: rate(draws, 100_000, 100),
            name_error_ppm: rate(draws, 50_000, 50),
            stall_ppm: rate(draws, 300_000, 1_000),
            stall_max_ms: *draws.pick(&[20, 500, 5_000]),
            latency_percent: *draws.pick(&[20, 100, 100, 1_000]),
            garbage: draws.chance(500_000),
        };
        let clock = ClockOptions { drift_max_ppm: *draws.pick(&[0, 50, 500, 20_000]), offset_max_ms: *draws.pick(&[0, 20, 500, 60_000]) };
        let buggify = draws.chance(750_000);
        let mut classes = BTreeMap::new();
        // Some runs have one class in five on, some nearly all.
        let on_ppm = *draws.pick(&[200_000, 500_000, 800_000]);
        for class in FaultClass::ALL {
            let (on, mean_ms) = (draws.chance(on_ppm), *draws.pick(&[2_000, 8_000, 20_000, 40_000]));
            if on && !without.contains(class) {
                classes.insert(*class, mean_ms);
            }
        }
        let repair_mean_ms = *draws.pick(&[300, 3_000, 12_000]);
        let down_max_count = draws.between(1, victim_count.max(1) as u64) as usize;
        Self { net, disk, clock, buggify, classes, repair_mean_ms, down_max_count }
    }

    /// Makes a world's options those of the swarm.
    pub fn apply(&self, options: &mut WorldOptions) {
        options.net = self.net.clone();
        options.disk = self.disk.clone();
        options.clock = self.clock;
        options.buggify = self.buggify;
    }
}

impl fmt::Display for Swarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "network: {:?}", self.net)?;
        writeln!(f, "disks:   {:?}", self.disk)?;
        writeln!(f, "clocks:  {:?}, buggify {}", self.clock, self.buggify)?;
        write!(f, "nemesis: repair after {} ms, at most {} down;", self.repair_mean_ms, self.down_max_count)?;
        if self.classes.is_empty() {
            write!(f, " idle")?;
        }
        self.classes.iter().try_for_each(|(class, mean_ms)| write!(f, " {}/{mean_ms}ms", class.name()))
    }
}

enum Repair {
    Restart(usize),
    Resume(usize),
    Unblock(Vec<(usize, usize)>),
    SpeedUp(usize, usize),
    MakeRoom(usize),
}

/// Lets the faults of a swarm loose on hosts.
pub struct Nemesis {
    world: World,
    swarm: Swarm,
    /// May suffer everything. Their processes are started again after they ended, for whatever reason.
    victims: Vec<Host>,
    /// Victims first, then hosts that only network and clock faults concern.
    everyone: Vec<Host>,
    streams: BTreeMap<FaultClass, Stream>,
    repairs: BTreeMap<(Duration, u64), Repair>,
    repair_stream: Stream,
    repair_ordinal: u64,
}

impl Nemesis {
    /// A nemesis for `victims`, which may suffer everything, and `bystanders`, whom only network and clock faults concern.
    pub fn new(world: &World, swarm: &Swarm, victims: &[Host], bystanders: &[Host]) -> Self {
        let streams = swarm.classes.keys().map(|class| (*class, world.stream(class.name()))).collect();
        Self {
            world: world.clone(),
            swarm: swarm.clone(),
            victims: victims.to_vec(),
            everyone: victims.iter().chain(bystanders).cloned().collect(),
            streams,
            repairs: BTreeMap::new(),
            repair_stream: world.stream("repair"),
            repair_ordinal: 0,
        }
    }

    fn repair_later(&mut self, repair: Repair) {
        let after = Duration::from_millis(50 + self.repair_stream.exponential(self.swarm.repair_mean_ms));
        self.repair_ordinal += 1;
        self.repairs.insert((self.world.now() + after, self.repair_ordinal), repair);
    }

    /// Causes faults for `duration`, then stops, leaving things as they are: heal with [`World::heal`] and [`Nemesis::restart_dead`].
    pub async fn run(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        let mut next: BTreeMap<(Duration, FaultClass), u64> = BTreeMap::new();
        for (class, mean_ms) in self.swarm.classes.clone() {
            let first = self.draw_gap(class, mean_ms);
            next.insert((self.world.now() + first, class), mean_ms);
        }
        while self.world.now() < end {
            self.look_after_the_dead();
            let due = [next.keys().next().map(|(at, _)| *at), self.repairs.keys().next().map(|(at, _)| *at), Some(end)];
            let wake_at = due.into_iter().flatten().min().unwrap_or(end).min(self.world.now() + Duration::from_millis(200));
            self.world.sleep(wake_at.saturating_sub(self.world.now())).await;
            let now = self.world.now();
            while let Some(entry) = self.repairs.first_entry().filter(|entry| entry.key().0 <= now) {
                let repair = entry.remove();
                self.repair(repair);
            }
            while let Some(((_, class), mean_ms)) = next.first_key_value().filter(|((at, _), _)| *at <= now).map(|(key, mean)| (*key, *mean)) {
                next.pop_first();
                self.cause(class);
                let gap = self.draw_gap(class, mean_ms);
                next.insert((now + gap, class), mean_ms);
            }
        }
    }

    /// Starts every victim of `core` that is down.
    pub fn restart_dead(&self, core: &[Host]) {
        for host in core {
            if !host.is_alive() {
                host.restart();
            }
        }
    }

    fn draw_gap(&mut self, class: FaultClass, mean_ms: u64) -> Duration {
        Duration::from_millis(1 + self.streams.get_mut(&class).expect("the class is on").exponential(mean_ms))
    }

    fn look_after_the_dead(&mut self) {
        for index in 0..self.victims.len() {
            let planned = self.repairs.values().any(|repair| matches!(repair, Repair::Restart(host) if *host == index));
            if !planned && !self.victims[index].is_alive() {
                self.repair_later(Repair::Restart(index));
            }
        }
    }

    fn repair(&mut self, repair: Repair) {
        match repair {
            Repair::Restart(index) => {
                if !self.victims[index].is_alive() {
                    self.victims[index].restart();
                }
            }
            Repair::Resume(index) => self.victims[index].resume(),
            Repair::Unblock(links) => {
                for (from, to) in links {
                    self.world.set_blocked(&self.everyone[from], &self.everyone[to], false);
                }
            }
            Repair::SpeedUp(from, to) => self.world.set_extra_latency(&self.everyone[from], &self.everyone[to], Duration::ZERO),
            Repair::MakeRoom(index) => self.victims[index].disk(|disk| disk.model.set_capacity(1 << 40)),
        }
    }

    fn may_go_down(&self) -> bool {
        let down = self.victims.iter().filter(|host| !host.is_alive() || host.is_paused()).count();
        down < self.swarm.down_max_count
    }

    fn cause(&mut self, class: FaultClass) {
        let (victim_count, everyone_count) = (self.victims.len(), self.everyone.len());
        let draws = self.streams.get_mut(&class).expect("the class is on");
        // The same number of draws whatever the state of the world: a class's faults move as little as possible when others change.
        let (index, one, two) = (draws.index(victim_count), draws.index(everyone_count), draws.index(everyone_count));
        let (bits, small) = (draws.bits(), draws.exponential(40));
        let victim = self.victims[index].clone();
        let (from, to) = (self.everyone[one].clone(), self.everyone[two].clone());
        let note = |values: &[u64]| self.world.count_fault(class.name(), values);
        match class {
            FaultClass::CrashAtIo => {
                if victim.is_alive() && self.may_go_down() {
                    let when = [CrashWhen::Before, CrashWhen::Within, CrashWhen::After][(bits % 3) as usize];
                    let kind = if bits & 8 == 0 { CrashKind::Kill } else { CrashKind::PowerCut };
                    self.world.event("crash-at-io armed", &[index as u64, small], None);
                    victim.crash_at(CrashPoint { skip_count: small, when, kind });
                }
            }
            FaultClass::Kill | FaultClass::PowerCut => {
                if victim.is_alive() && self.may_go_down() {
                    victim.crash(if class == FaultClass::Kill { CrashKind::Kill } else { CrashKind::PowerCut });
                }
            }
            FaultClass::Blackout => self.victims.iter().for_each(|host| host.crash(CrashKind::PowerCut)),
            FaultClass::Pause => {
                if victim.is_alive() && !victim.is_paused() && self.may_go_down() {
                    victim.pause();
                    self.repair_later(Repair::Resume(index));
                }
            }
            FaultClass::BlockOneWay => {
                if one != two {
                    note(&[one as u64, two as u64]);
                    self.world.set_blocked(&from, &to, true);
                    self.repair_later(Repair::Unblock(vec![(one, two)]));
                }
            }
            FaultClass::Partition => {
                note(&[bits]);
                let side = |index: usize| bits >> (index % 64) & 1;
                let links: Vec<_> =
                    (0..everyone_count).flat_map(|from| (0..everyone_count).map(move |to| (from, to))).filter(|(from, to)| side(*from) != side(*to)).collect();
                for (from, to) in &links {
                    self.world.set_blocked(&self.everyone[*from], &self.everyone[*to], true);
                }
                self.repair_later(Repair::Unblock(links));
            }
            FaultClass::SlowLink => {
                if one != two {
                    note(&[one as u64, two as u64]);
                    self.world.set_extra_latency(&from, &to, Duration::from_millis(1 + small * 10));
                    self.repair_later(Repair::SpeedUp(one, two));
                }
            }
            FaultClass::Reset => {
                note(&[one as u64, two as u64]);
                self.world.reset_connections(&from, &to);
            }
            FaultClass::DiskStall => victim.stall_disk(Duration::from_millis(small * 50)),
            FaultClass::DiskFull => {
                note(&[index as u64]);
                victim.disk(|disk| {
                    let used_bytes = disk.model.used_bytes();
                    disk.model.set_capacity(used_bytes + small * 7);
                });
                self.repair_later(Repair::MakeRoom(index));
            }
            FaultClass::SyncFailure | FaultClass::DiskError => {
                let kind = match (class, bits % 3) {
                    (FaultClass::SyncFailure, 0) => OpKind::SyncDir,
                    (FaultClass::SyncFailure, _) => OpKind::Sync,
                    (_, 0) => OpKind::Read,
                    (_, 1) => OpKind::Write,
                    _ => OpKind::Name,
                };
                self.world.event("disk fault aimed", &[index as u64, kind as u64, small], None);
                victim.disk(|disk| disk.aimed.push(AimedFault { kind, path_contains: String::new(), skip_count: small as u32, error: errno::EIO }));
            }
            FaultClass::ClockJump => {
                // Mostly small, sometimes by hours, either way.
                let by_ms = small as i64 * [10, 1_000, 100_000][(bits % 3) as usize];
                note(&[one as u64]);
                from.jump_clock(if bits & 8 == 0 { by_ms } else { -by_ms });
            }
            FaultClass::ClockDrift => {
                let ppm = (small as i64 * 1_000).min(400_000);
                note(&[one as u64]);
                from.set_clock_drift(if bits & 8 == 0 { ppm } else { -ppm });
            }
        }
    }
}
