//! What a seed draws for the broker's scenario: the broker's configuration, the topics, the clients and their habits.

use std::collections::BTreeMap;
use std::fmt;

use ottla::record::Codec;

use crate::clients::crew::Roster;
use crate::clients::{admin, member, producer, reader};
use crate::rng::Stream;

/// The port that the broker listens at.
pub const PORT: u16 = 9092;
/// The broker's data directory.
pub const DATA_DIR: &str = "/data";
/// The largest value of a setting that means 'never'.
const NEVER: &str = "9223372036854775807";

/// A topic that is there from the start, and that clients produce to.
#[derive(Clone, Debug)]
pub struct TopicPlan {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partition_count: i32,
    /// Its configuration.
    pub configs: BTreeMap<String, String>,
}

impl TopicPlan {
    /// Whether records are acknowledged before they are on disk.
    pub fn is_weak(&self) -> bool {
        self.configs.get("flush.messages").is_some_and(|value| value != "1")
    }
}

/// When a bit of a log's file is flipped.
#[derive(Clone, Debug)]
pub struct RotPlan {
    /// After so much of the safety phase, in thousandths.
    pub at_permille: u64,
    /// In the newest segment of a partition, which recovery reads, or in any.
    pub newest: bool,
    /// Whether the broker is killed right after.
    pub kill: bool,
}

/// Everything that a seed draws beside its faults.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Keys and values of `server.properties`.
    pub broker: BTreeMap<String, String>,
    /// The topics.
    pub topics: Vec<TopicPlan>,
    /// How many hosts the clients live on.
    pub client_host_count: usize,
    /// Who works, and how.
    pub roster: Roster,
    /// Whether groups without members vanish during the run.
    pub groups_vanish: bool,
    /// Bit rot.
    pub rot: Option<RotPlan>,
    /// How often the broker's wall clock leaps a minute or more ahead: what expires after a minute does so then, whatever is going on.
    pub leap_count: u64,
}

impl Plan {
    /// What `seed` draws.
    pub fn draw(seed: u64) -> Self {
        let mut draws = Stream::new(seed, "plan", 0);
        let draws = &mut draws;
        let groups_vanish = draws.chance(250_000);
        let broker = draw_broker(draws, groups_vanish);
        // A seed that loses what it may lose proves less: few have topics that are not flushed at once.
        let weak_ppm = if draws.chance(150_000) { 500_000 } else { 0 };
        let topics = (0..draws.between(1, 4))
            .map(|number| {
                let is_weak = draws.chance(weak_ppm);
                draw_topic(draws, number, is_weak)
            })
            .collect();
        let max_pause_ms = *draws.pick(&[200, 500, 1_500]);
        let producers = (0..draws.between(2, 5)).map(|_| draw_producer(draws, max_pause_ms)).collect();
        let readers = (0..draws.between(1, 3)).map(|_| draw_reader(draws)).collect();
        let members = draw_members(draws);
        let admins = (0..draws.between(0, 2))
            .map(|_| admin::Habit { max_pause_ms: *draws.pick(&[200, 1_000]), max_partition_count: 4, max_replication_factor: 1 })
            .collect();
        let rot = RotPlan { at_permille: draws.between(200, 950), newest: draws.chance(750_000), kill: draws.chance(750_000) };
        let rot = Some(rot).filter(|_| draws.chance(80_000));
        Self {
            broker,
            topics,
            client_host_count: draws.between(1, 3) as usize,
            roster: Roster { producers, readers, members, admins, movers: Vec::new(), watch_pause_ms: *draws.pick(&[300, 1_500]) },
            groups_vanish,
            rot,
            leap_count: if groups_vanish { draws.between(0, 20) } else { 0 },
        }
    }

    /// The broker's configuration file.
    pub fn server_properties(&self) -> String {
        self.broker.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
    }
}

#[derive(Default)]
struct Settings(BTreeMap<String, String>);

impl Settings {
    fn set(&mut self, key: &str, value: impl fmt::Display) {
        self.0.insert(key.to_owned(), value.to_string());
    }
}

fn draw_broker(draws: &mut Stream, groups_vanish: bool) -> BTreeMap<String, String> {
    let mut broker = Settings::default();
    broker.set("listeners", format!("PLAINTEXT://0.0.0.0:{PORT}"));
    broker.set("log.dirs", DATA_DIR);
    broker.set("broker.id", 1);
    broker.set("auto.create.topics.enable", false);
    broker.set("offsets.topic.num.partitions", draws.pick(&[1, 2, 5]));
    broker.set("group.initial.rebalance.delay.ms", draws.pick(&[0, 100, 3_000]));
    broker.set("group.min.session.timeout.ms", 500);
    broker.set("log.retention.check.interval.ms", draws.pick(&[1_000, 5_000, 300_000]));
    broker.set("log.segment.delete.delay.ms", draws.pick(&[0, 1_000, 60_000]));
    broker.set("log.index.interval.bytes", draws.pick(&[0, 100, 1_000, 4_096]));
    broker.set("log.index.size.max.bytes", draws.pick(&[64, 512, 10_485_760]));
    broker.set("log.preallocate", draws.chance(250_000));
    broker.set("log.message.timestamp.after.max.ms", NEVER);
    broker.set("log.flush.offset.checkpoint.interval.ms", draws.pick(&[500, 5_000, 60_000]));
    broker.set("replica.high.watermark.checkpoint.interval.ms", draws.pick(&[500, 5_000]));
    broker.set("num.recovery.threads.per.data.dir", draws.pick(&[1, 2, 4]));
    broker.set("max.incremental.fetch.session.cache.slots", draws.pick(&[1, 2, 1_000]));
    broker.set("connections.max.idle.ms", draws.pick(&[3_000, 20_000, 600_000, 600_000]));
    broker.set("queued.max.request.bytes", draws.pick(&[2_097_152, 8_388_608, 209_715_200]));
    broker.set("socket.request.max.bytes", 1_048_576);
    // A clock that jumps must not make the broker forget producers that go on.
    broker.set("producer.id.expiration.ms", i32::MAX);
    broker.set("producer.id.expiration.check.interval.ms", draws.pick(&[1_000, 600_000]));
    broker.set("offsets.retention.minutes", if groups_vanish { 1 } else { 5_000_000 });
    broker.set("offsets.retention.check.interval.ms", if groups_vanish { *draws.pick(&[300, 2_000]) } else { 600_000 });
    broker.0
}

fn draw_topic(draws: &mut Stream, number: u64, is_weak: bool) -> TopicPlan {
    let mut configs = Settings::default();
    configs.set("internal.segment.bytes", draws.pick(&[8_192, 16_384, 65_536, 1_048_576]));
    if draws.chance(250_000) {
        configs.set("segment.ms", draws.pick(&[500, 5_000, 20_000]));
        configs.set("segment.jitter.ms", draws.pick(&[0, 400]));
    }
    if draws.chance(200_000) {
        configs.set("retention.bytes", draws.pick(&[30_000, 200_000]));
    }
    if draws.chance(150_000) {
        configs.set("retention.ms", draws.pick(&[5_000, 30_000]));
    }
    if draws.chance(150_000) {
        configs.set("message.timestamp.type", "LogAppendTime");
    }
    if draws.chance(200_000) {
        configs.set("compression.type", draws.pick(&["uncompressed", "lz4", "gzip", "snappy"]));
    }
    if is_weak {
        configs.set("flush.messages", draws.pick(&["10", NEVER]));
        if draws.chance(500_000) {
            configs.set("flush.ms", draws.pick(&[100, 3_000]));
        }
    }
    TopicPlan { name: format!("topic-{number}"), partition_count: draws.between(1, 4) as i32, configs: configs.0 }
}

pub(crate) fn draw_producer(draws: &mut Stream, max_pause_ms: u64) -> producer::Habit {
    let idempotent = draws.chance(700_000);
    let acks = if idempotent { -1 } else { *draws.pick(&[-1, -1, 1, 0]) };
    // The last of these is more than the smallest segments take.
    let (max_records, max_bytes) = *draws.pick(&[(1, 30), (1, 800), (5, 200), (5, 800), (30, 30), (30, 200), (30, 200), (30, 800)]);
    producer::Habit {
        idempotent,
        acks,
        depth: if idempotent { draws.between(1, 5) as usize } else { 1 },
        max_records,
        max_bytes,
        max_pause_ms: draws.between(max_pause_ms / 4, max_pause_ms),
        version: draws.between(3, 12) as i16,
        reconnect_ppm: *draws.pick(&[0, 5_000, 100_000]),
        give_up_ppm: *draws.pick(&[0, 300_000]),
        corrupt_ppm: *draws.pick(&[0, 50_000]),
        codec: *draws.pick(&[Codec::None, Codec::None, Codec::Lz4, Codec::Gzip, Codec::Snappy]),
    }
}

pub(crate) fn draw_reader(draws: &mut Stream) -> reader::Habit {
    reader::Habit {
        sessions: draws.chance(600_000),
        version: draws.between(7, 12) as i16,
        max_bytes: *draws.pick(&[200, 5_000, 1_048_576]),
        max_wait_ms: *draws.pick(&[0, 100, 500, 3_000]),
        max_pause_ms: *draws.pick(&[50, 500, 3_000]),
        rewind_ppm: *draws.pick(&[0, 20_000]),
        reconnect_ppm: *draws.pick(&[0, 50_000]),
        rack: None,
    }
}

pub(crate) fn draw_members(draws: &mut Stream) -> Vec<member::Habit> {
    let mut members = Vec::new();
    for group in 0..draws.between(1, 2) {
        let is_static = draws.chance(300_000);
        let session_timeout_ms = *draws.pick(&[1_000, 3_000, 10_000]);
        let silent_ppm = *draws.pick(&[0, 20_000, 100_000]);
        for number in 0..draws.between(1, 4) {
            members.push(member::Habit {
                group: format!("group-{group}"),
                instance: is_static.then(|| format!("instance-{number}")),
                session_timeout_ms,
                leave_ppm: *draws.pick(&[0, 10_000]),
                silent_ppm,
                max_pause_ms: (session_timeout_ms as u64 / 4).min(1_000),
                join_version: draws.between(2, 9) as i16,
            });
        }
    }
    members
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = |pairs: &BTreeMap<String, String>| pairs.iter().map(|(key, value)| format!(" {key}={value}")).collect::<String>();
        writeln!(f, "broker: {}", pairs(&self.broker))?;
        for topic in &self.topics {
            writeln!(f, "topic:   {} with {} partitions{}", topic.name, topic.partition_count, pairs(&topic.configs))?;
        }
        self.roster.producers.iter().try_for_each(|habit| writeln!(f, "client:  producer {habit:?}"))?;
        self.roster.readers.iter().try_for_each(|habit| writeln!(f, "client:  reader {habit:?}"))?;
        self.roster.members.iter().try_for_each(|habit| writeln!(f, "client:  member {habit:?}"))?;
        self.roster.admins.iter().try_for_each(|habit| writeln!(f, "client:  admin {habit:?}"))?;
        write!(
            f,
            "         on {} hosts; groups vanish: {}; rot: {:?}; leaps of the clock: {}",
            self.client_host_count, self.groups_vanish, self.rot, self.leap_count
        )
    }
}
