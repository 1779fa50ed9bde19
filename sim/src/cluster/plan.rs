//! What a seed draws for a simulated cluster, beside its swarm of faults.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::broker::plan::{draw_members, draw_producer, draw_reader};
use crate::clients::crew::{NewTopic, Roster};
use crate::clients::{admin, mover, reader};
use crate::rng::Stream;

/// The port that brokers listen at.
pub const PORT: u16 = 9092;
/// Where ZooKeeper clients are served.
pub const CLIENT_PORT: u16 = 2181;
/// Where members of the ensemble listen for each other.
pub const PEER_PORT: u16 = 2888;
/// A broker's data directory.
pub const DATA_DIR: &str = "/data";
/// A coordinator's.
pub const COORDINATOR_DIR: &str = "/coordination";
/// Where every host has the ensemble's secret.
pub const SECRET_FILE: &str = "/secret";
/// The topic of the groups' offsets.
pub const OFFSETS_TOPIC: &str = "__consumer_offsets";

/// The most replicas of a partition.
pub const REPLICATION_MAX: i16 = 3;

/// Everything that a seed draws beside its faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many brokers there are; the last one may come late.
    pub broker_count: usize,
    /// How many members the ensemble has.
    pub member_count: usize,
    /// Whether they are on hosts of their own; else they are in the first brokers.
    pub is_outside: bool,
    /// How many racks the brokers are spread over; none is named if 0.
    pub rack_count: usize,
    /// Keys and values that all brokers have.
    pub broker: BTreeMap<String, String>,
    /// Keys and values that all coordinators have, embedded ones too.
    pub coordinator: BTreeMap<String, String>,
    /// Partitions of the topic of the groups' offsets.
    pub offsets_partition_count: i32,
    /// Its replicas.
    pub offsets_replication_factor: i16,
    /// `min.insync.replicas` of topics that do not say another.
    pub min_isr: usize,
    /// The topics.
    pub topics: Vec<NewTopic>,
    /// How many hosts the clients live on.
    pub client_host_count: usize,
    /// Who works, and how.
    pub roster: Roster,
    /// The last broker is added after so much of the safety phase, in thousandths; 0 is at the start.
    pub late_broker_permille: u64,
    /// The mean time between two aimed faults, in milliseconds; 0 for none.
    pub churn_mean_ms: u64,
    /// The mean time between two losses of a disk, in milliseconds; 0 for none.
    pub wipe_mean_ms: u64,
    /// The mean time between two rolling restarts, in milliseconds; 0 for none.
    pub roll_mean_ms: u64,
    /// The mean time between two plots, in milliseconds; 0 for none.
    pub plot_mean_ms: u64,
}

#[derive(Default)]
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn set(&mut self, key: &str, value: impl fmt::Display) {
        self.0.insert(key.to_owned(), value.to_string());
    }
}

impl Plan {
    /// What `seed` draws.
    pub fn draw(seed: u64) -> Self {
        let mut draws = Stream::new(seed, "cluster plan", 0);
        let draws = &mut draws;
        let broker_count = *draws.pick(&[3, 3, 3, 3, 3, 4, 5, 7]);
        let is_outside = draws.chance(400_000);
        let member_count = *draws.pick(&[1, 3, 3, 3, 5]);
        let member_count = if is_outside { member_count } else { member_count.min(broker_count) };
        // Two members have no more than one alone.
        let member_count = member_count - usize::from(member_count % 2 == 0);
        let rack_count = *draws.pick(&[0, 2, 3]);
        let min_isr = draws.between(1, 2) as usize;
        let offsets_partition_count = *draws.pick(&[1, 2, 3]);
        let offsets_replication_factor = (*draws.pick(&[3, 3, 3, 2])).min(REPLICATION_MAX);
        let mut broker = draw_broker(draws, min_isr, offsets_partition_count, offsets_replication_factor);
        let coordinator = draw_coordinator(draws);
        let mut topics: Vec<NewTopic> = (0..draws.between(1, 4)).map(|number| draw_topic(draws, number)).collect();
        let max_pause_ms = *draws.pick(&[100, 300, 1_000]);
        let producers = (0..draws.between(2, 6)).map(|_| draw_producer(draws, max_pause_ms)).collect();
        let mut readers: Vec<reader::Habit> = (0..draws.between(1, 3)).map(|_| draw_reader(draws)).collect();
        let members = draw_members(draws);
        let admins = (0..draws.between(0, 2)).map(|_| admin::Habit {
            max_pause_ms: *draws.pick(&[500, 2_000]),
            max_partition_count: 3,
            max_replication_factor: REPLICATION_MAX,
        });
        let admins = admins.collect();
        let movers = (0..*draws.pick(&[0, 0, 1])).map(|_| mover::Habit { max_pause_ms: *draws.pick(&[1_000, 6_000]) }).collect();
        // Of a stream of their own: what is added here changes nothing of the rest.
        let more = &mut Stream::new(seed, "cluster plan, more", 0);
        if rack_count > 0 && more.chance(500_000) {
            broker.insert("replica.selector.class".to_owned(), "org.apache.kafka.common.replica.RackAwareReplicaSelector".to_owned());
            for reader in &mut readers {
                let rack = more.below(rack_count as u64);
                if more.chance(700_000) {
                    (reader.rack, reader.version) = (Some(format!("rack-{rack}")), more.between(11, 12) as i16);
                }
            }
        }
        let may_elect_uncleanly = more.chance(150_000);
        for topic in &mut topics {
            if more.chance(500_000) && may_elect_uncleanly && topic.replication_factor > 1 {
                topic.configs.insert("unclean.leader.election.enable".to_owned(), "true".to_owned());
            }
        }
        let roster = Roster { producers, readers, members, admins, movers, watch_pause_ms: 1_500 };
        Self {
            broker_count,
            member_count,
            is_outside,
            rack_count,
            broker,
            coordinator,
            offsets_partition_count,
            offsets_replication_factor,
            min_isr,
            topics,
            client_host_count: draws.between(1, 3) as usize,
            roster,
            late_broker_permille: if draws.chance(200_000) { draws.between(50, 800) } else { 0 },
            churn_mean_ms: *draws.pick(&[0, 3_000, 8_000, 20_000]),
            wipe_mean_ms: *draws.pick(&[0, 0, 15_000, 40_000]),
            roll_mean_ms: *draws.pick(&[0, 0, 20_000, 40_000]),
            plot_mean_ms: *draws.pick(&[0, 4_000, 12_000]),
        }
    }

    /// The configuration file of the broker at `index`.
    pub fn server_properties(&self, index: usize) -> String {
        let mut settings = Settings(self.broker.clone());
        settings.set("broker.id", index + 1);
        if self.rack_count > 0 {
            settings.set("broker.rack", format!("rack-{}", index % self.rack_count));
        }
        if self.is_outside {
            let members: Vec<String> = (0..self.member_count).map(|index| format!("{}:{CLIENT_PORT}", self.member_host(index))).collect();
            settings.set("zookeeper.connect", members.join(","));
        } else if index < self.member_count {
            settings.0.extend(self.member_keys(index));
        } else {
            // A broker without a member of its own uses those of the others.
            let members: Vec<String> = (0..self.member_count).map(|index| format!("{}:{CLIENT_PORT}", self.member_host(index))).collect();
            settings.set("zookeeper.connect", members.join(","));
        }
        lines(&settings.0)
    }

    /// The configuration file of the coordinator at `index`, on a host of its own.
    pub fn coordinator_properties(&self, index: usize) -> String {
        let mut settings = Settings(self.member_keys(index));
        settings.set("dataDir", COORDINATOR_DIR);
        lines(&settings.0)
    }

    fn member_keys(&self, index: usize) -> BTreeMap<String, String> {
        let mut settings = Settings(self.coordinator.clone());
        settings.set("clientPort", CLIENT_PORT);
        settings.set("server.id", index + 1);
        settings.set("coordination.secret.file", SECRET_FILE);
        for other in 0..self.member_count {
            settings.set(&format!("server.{}", other + 1), format!("{}:{PEER_PORT}", self.member_host(other)));
        }
        settings.0
    }

    /// The host of the ensemble's member at `index`.
    pub fn member_host(&self, index: usize) -> String {
        if self.is_outside { format!("member-{}", index + 1) } else { format!("broker-{}", index + 1) }
    }

    /// Replicas of a topic as the plan has them; those of administrators' own topics are theirs to draw.
    pub fn replication(&self) -> BTreeMap<String, i16> {
        let offsets = (OFFSETS_TOPIC.to_owned(), self.offsets_replication_factor);
        self.topics.iter().map(|topic| (topic.name.clone(), topic.replication_factor)).chain([offsets]).collect()
    }

    /// The topics whose records an unclean election may lose.
    pub fn unclean_topics(&self) -> BTreeSet<String> {
        let is_allowed = |topic: &&NewTopic| topic.configs.get("unclean.leader.election.enable").is_some_and(|value| value == "true");
        self.topics.iter().filter(is_allowed).map(|topic| topic.name.clone()).collect()
    }

    /// How many replicas must be in sync for a topic to take records.
    pub fn min_isr(&self, topic: &str) -> usize {
        let own = self.topics.iter().find(|known| known.name == topic).and_then(|topic| topic.configs.get("min.insync.replicas")?.parse().ok());
        own.unwrap_or(self.min_isr)
    }
}

fn lines(settings: &BTreeMap<String, String>) -> String {
    settings.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

fn draw_broker(draws: &mut Stream, min_isr: usize, offsets_partition_count: i32, offsets_replication_factor: i16) -> BTreeMap<String, String> {
    let mut broker = Settings::default();
    broker.set("listeners", format!("PLAINTEXT://:{PORT}"));
    broker.set("log.dirs", DATA_DIR);
    broker.set("auto.create.topics.enable", false);
    broker.set("offsets.topic.num.partitions", offsets_partition_count);
    broker.set("offsets.topic.replication.factor", offsets_replication_factor);
    broker.set("min.insync.replicas", min_isr);
    broker.set("group.initial.rebalance.delay.ms", draws.pick(&[0, 100, 3_000]));
    broker.set("group.min.session.timeout.ms", 500);
    broker.set("log.segment.delete.delay.ms", draws.pick(&[0, 1_000, 60_000]));
    broker.set("log.index.interval.bytes", draws.pick(&[0, 1_000, 4_096]));
    broker.set("log.message.timestamp.after.max.ms", i64::MAX);
    broker.set("log.flush.offset.checkpoint.interval.ms", draws.pick(&[500, 5_000, 60_000]));
    broker.set("replica.high.watermark.checkpoint.interval.ms", draws.pick(&[500, 5_000]));
    broker.set("max.incremental.fetch.session.cache.slots", draws.pick(&[4, 1_000]));
    broker.set("queued.max.request.bytes", draws.pick(&[8_388_608, 209_715_200]));
    broker.set("socket.request.max.bytes", 1_048_576);
    broker.set("producer.id.expiration.ms", i32::MAX);
    broker.set("offsets.retention.minutes", 5_000_000);
    broker.set("num.replica.fetchers", draws.between(1, 2));
    broker.set("replica.lag.time.max.ms", draws.pick(&[1_000, 3_000, 10_000]));
    let wait_ms = *draws.pick(&[50, 500]);
    broker.set("replica.fetch.wait.max.ms", wait_ms);
    broker.set("replica.fetch.backoff.ms", draws.pick(&[20, 200, 1_000]));
    broker.set("replica.socket.timeout.ms", draws.pick(&[1_500, 5_000, 30_000]));
    broker.set("replica.fetch.max.bytes", draws.pick(&[500, 20_000, 1_048_576]));
    broker.set("controller.socket.timeout.ms", draws.pick(&[3_000, 10_000]));
    broker.set("zookeeper.session.timeout.ms", draws.pick(&[2_000, 4_000, 9_000]));
    broker.set("zookeeper.connection.timeout.ms", 20_000);
    broker.set("leader.imbalance.check.interval.seconds", draws.pick(&[5, 300]));
    broker.set("controlled.shutdown.enable", draws.chance(800_000));
    broker.0
}

fn draw_coordinator(draws: &mut Stream) -> BTreeMap<String, String> {
    let mut coordinator = Settings::default();
    coordinator.set("tickTime", draws.pick(&[200, 500]));
    coordinator.set("maxSessionTimeout", 20_000);
    coordinator.set("maxClientCnxns", 0);
    coordinator.set("snapCount", draws.pick(&[50, 500, 100_000]));
    coordinator.0
}

fn draw_topic(draws: &mut Stream, number: u64) -> NewTopic {
    let mut configs = Settings::default();
    let replication_factor = (*draws.pick(&[1, 2, 3, 3, 3, 3])).min(REPLICATION_MAX);
    configs.set("internal.segment.bytes", draws.pick(&[16_384, 65_536, 1_048_576]));
    if draws.chance(500_000) {
        configs.set("min.insync.replicas", draws.between(1, 2).min(replication_factor as u64));
    } else {
        // What the brokers say may be more than the topic has.
        configs.set("min.insync.replicas", if replication_factor > 1 { 2 } else { 1 });
    }
    if draws.chance(150_000) {
        configs.set("retention.bytes", draws.pick(&[60_000, 300_000]));
    }
    if draws.chance(150_000) {
        configs.set("message.timestamp.type", "LogAppendTime");
    }
    if draws.chance(150_000) {
        configs.set("compression.type", draws.pick(&["uncompressed", "lz4", "gzip", "snappy"]));
    }
    NewTopic { name: format!("topic-{number}"), partition_count: draws.between(1, 4) as i32, replication_factor, configs: configs.0 }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = |pairs: &BTreeMap<String, String>| pairs.iter().map(|(key, value)| format!(" {key}={value}")).collect::<String>();
        let place = if self.is_outside { "on hosts of their own" } else { "in the first brokers" };
        writeln!(f, "cluster: {} brokers in {} racks, {} members {place}", self.broker_count, self.rack_count, self.member_count)?;
        writeln!(f, "broker: {}", pairs(&self.broker))?;
        writeln!(f, "member: {}", pairs(&self.coordinator))?;
        for topic in &self.topics {
            writeln!(f, "topic:   {}, {} partitions, {} replicas{}", topic.name, topic.partition_count, topic.replication_factor, pairs(&topic.configs))?;
        }
        self.roster.producers.iter().try_for_each(|habit| writeln!(f, "client:  producer {habit:?}"))?;
        self.roster.readers.iter().try_for_each(|habit| writeln!(f, "client:  reader {habit:?}"))?;
        self.roster.members.iter().try_for_each(|habit| writeln!(f, "client:  member {habit:?}"))?;
        self.roster.admins.iter().try_for_each(|habit| writeln!(f, "client:  admin {habit:?}"))?;
        self.roster.movers.iter().try_for_each(|habit| writeln!(f, "client:  mover {habit:?}"))?;
        write!(
            f,
            "         on {} hosts; the last broker comes after {} of 1000; an aimed fault per {} ms, a disk lost per {} ms, a rolling restart per {} ms, a plot per {} ms",
            self.client_host_count, self.late_broker_permille, self.churn_mean_ms, self.wipe_mean_ms, self.roll_mean_ms, self.plot_mean_ms
        )
    }
}
