//! How a file and `-o key=value` options become a [`BrokerConfig`].

use std::collections::BTreeMap;
use std::path::Path;

use crate::config::broker::{BrokerConfig, alias_of};
use crate::config::coordination::CoordinationConfig;
use crate::config::definition::{ConfigValue, Synonym, hours, minutes};
use crate::config::foreign::{self, Foreign};
use crate::config::given::{Collected, Given, collect, read_file};
use crate::config::topic::TopicConfig;
use crate::config::topic::{self, CleanupPolicy};
use crate::runtime::Runtime;

pub use crate::config::given::{ConfigError, LoadError, Problem};

impl BrokerConfig {
    /// Reads the file at `path`, if there is one, and applies `options`, each `key=value`, which beat it.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load<R: Runtime>(runtime: &R, path: Option<&Path>, options: &[String]) -> Result<Self, LoadError> {
        let Some(path) = path else {
            return Ok(Self::from_text("", "", options)?);
        };
        let text = read_file(runtime, path).await?;
        Ok(Self::from_text(&path.display().to_string(), &text, options)?)
    }

    /// Reads `text`, the content of the file `file_name`, and applies `options`, each `key=value`, which beat it.
    ///
    /// # Errors
    /// All problems at once.
    pub fn from_text(file_name: &str, text: &str, options: &[String]) -> Result<Self, ConfigError> {
        Loader::default().load(file_name, text, options)
    }
}

#[derive(Default)]
struct Loader {
    problems: Vec<Problem>,
    notes: Vec<String>,
    no_effect: BTreeMap<&'static str, Vec<String>>,
    config: BrokerConfig,
}

impl Loader {
    fn load(mut self, file_name: &str, text: &str, options: &[String]) -> Result<BrokerConfig, ConfigError> {
        let Collected { given, problems, notes } = collect(file_name, text, options);
        (self.problems, self.notes) = (problems, notes);
        for (key, value) in &given {
            self.check_and_set(key, value);
        }
        self.apply_synonyms(&given);
        self.check_together(&given);
        if !self.problems.is_empty() {
            self.problems.sort_by_key(|problem| problem.line().unwrap_or(usize::MAX));
            return Err(ConfigError { problems: self.problems });
        }
        tell_no_effect(&self.no_effect, &mut self.notes);
        self.config.notes = self.notes;
        self.config.given = given.into_iter().map(|(key, value)| (key, value.text)).collect();
        Ok(self.config)
    }

    fn problem(&mut self, key: &str, given: &Given, what: impl Into<String>) {
        self.problems.push(given.problem(key, what));
    }

    fn check_and_set(&mut self, key: &str, given: &Given) {
        let name = match key {
            "node.id" => "broker.id",
            "log.dir" => "log.dirs",
            key => key,
        };
        if BrokerConfig::table().iter().any(|definition| definition.name == name) {
            if let Err(expected) = self.config.set(name, &given.text) {
                self.problem(key, given, format!("expected {expected}"));
            }
        } else if let Some((definition, synonym)) = topic::by_synonym(key) {
            let mut scratch = TopicConfig::default();
            let result = scale(&given.text, synonym).and_then(|value| scratch.set(definition.name, &value));
            if let Err(expected) = result {
                let unit = match synonym.factor {
                    1 => "",
                    factor if factor == minutes("").factor => " (in ms, after the conversion from minutes)",
                    _ => " (in ms, after the conversion from hours)",
                };
                self.problem(key, given, format!("expected {expected}{unit}"));
            } else if let Err(message) = topic::validate(definition.name, scratch.get(definition.name).as_deref().unwrap_or_default()) {
                self.problem(key, given, message);
            }
        } else if let Some(taken) = self.config.coordination.take(key, &given.text) {
            if let Err(what) = taken {
                self.problem(key, given, what);
            }
        } else {
            // Both have keys that begin with `ssl.`, and Kafka's are known one by one.
            let zookeepers = || if key.starts_with("ssl.") { None } else { foreign::find_zookeepers(key) };
            match foreign::find(key).or_else(zookeepers) {
                Some(Foreign::NoEffect { why }) => self.no_effect.entry(why).or_default().push(key.to_owned()),
                Some(Foreign::Refused { unless, what }) => {
                    if !unless.iter().any(|harmless| given.text.eq_ignore_ascii_case(harmless)) {
                        self.problem(key, given, what);
                    }
                }
                None => {
                    let what = match nearest(key) {
                        Some(near) => format!("no such key; did you mean {near}?"),
                        None if topic::definition(key).is_some() => {
                            format!("this is a topic's key; the broker's key for its default is {}", topic_synonym_names(key))
                        }
                        None => "no such key; config/server.properties shows the common ones".to_owned(),
                    };
                    self.problem(key, given, what);
                }
            }
        }
    }

    /// Topic defaults from the broker's keys: of several that set the same, the first in the definition's order counts.
    fn apply_synonyms(&mut self, given: &BTreeMap<String, Given>) {
        for definition in topic::definitions() {
            let first = definition.synonyms.iter().find_map(|synonym| given.get(synonym.name).map(|value| (synonym, value)));
            if let Some((synonym, value)) = first
                && let Ok(text) = scale(&value.text, *synonym)
            {
                // A value that does not pass was told of when the key was checked.
                let _ = self.config.topic_defaults.set(definition.name, &text);
            }
        }
    }

    fn check_together(&mut self, given: &BTreeMap<String, Given>) {
        for (key, other) in [("broker.id", "node.id"), ("log.dirs", "log.dir")] {
            if let (Some(one), Some(two)) = (given.get(key), given.get(other)) {
                if one.text == two.text || key == "log.dirs" {
                    // Kafka: log.dirs beats log.dir.
                    let _ = self.config.set(key, &one.text);
                } else {
                    self.problem(other, two, format!("{key}={} says otherwise; they are one key by two names, so give one of them", one.text));
                }
            }
        }
        if let Some(value) = given.get("listener.security.protocol.map") {
            for pair in self.config.listener_security_protocol_map.clone() {
                if pair.split_once(':').is_none_or(|(name, protocol)| name.is_empty() || protocol.is_empty()) {
                    self.problem("listener.security.protocol.map", value, format!("expected NAME:PROTOCOL pairs such as INTERNAL:PLAINTEXT, not '{pair}'"));
                }
            }
        }
        self.check_listeners(given);
        self.check_ranges(given);
        self.check_coordination(given);
    }

    fn check_listeners(&mut self, given: &BTreeMap<String, Given>) {
        let protocols: BTreeMap<String, String> = self
            .config
            .listener_security_protocol_map
            .iter()
            .filter_map(|pair| pair.split_once(':').map(|(name, protocol)| (name.to_ascii_uppercase(), protocol.to_ascii_uppercase())))
            .collect();
        if let Some(value) = given.get("listeners") {
            let listeners = self.config.listeners.clone();
            if listeners.is_empty() {
                self.problem("listeners", value, "expected at least one listener such as PLAINTEXT://localhost:9092");
            }
            for (index, listener) in listeners.iter().enumerate() {
                match protocols.get(&listener.name).map(String::as_str) {
                    Some("PLAINTEXT") => {}
                    Some(protocol) => self.problem(
                        "listeners",
                        value,
                        format!("listener {} asks for {protocol}, and this release has neither TLS nor SASL; use PLAINTEXT, on addresses that only trusted clients reach", listener.name),
                    ),
                    None => self.problem(
                        "listeners",
                        value,
                        format!("listener {} has no security protocol; add {}:PLAINTEXT to listener.security.protocol.map", listener.name, listener.name),
                    ),
                }
                let earlier = &listeners[..index];
                if earlier.iter().any(|other| other.name == listener.name) {
                    self.problem("listeners", value, format!("two listeners are named {}; expected one of each name", listener.name));
                }
                if listener.port != 0 && earlier.iter().any(|other| other.port == listener.port && other.host == listener.host) {
                    self.problem("listeners", value, format!("two listeners have the address {}; expected one for each address", listener.host_port()));
                }
            }
        }
        if let Some(value) = given.get("advertised.listeners") {
            for advertised in self.config.advertised_listeners.clone() {
                if advertised.is_wildcard() && !advertised.host.is_empty() {
                    self.problem(
                        "advertised.listeners",
                        value,
                        format!("no client can connect to {}; expected a host name or address that clients reach", advertised.host),
                    );
                }
                if !self.config.listeners.iter().any(|listener| listener.name == advertised.name) {
                    let names: Vec<_> = self.config.listeners.iter().map(|listener| listener.name.as_str()).collect();
                    self.problem("advertised.listeners", value, format!("there is no listener named {}; listeners has {}", advertised.name, names.join(", ")));
                }
            }
        }
        if let (Some(value), Some(name)) = (given.get("inter.broker.listener.name"), self.config.inter_broker_listener_name.clone())
            && !self.config.listeners.iter().any(|listener| listener.name == name)
        {
            self.problem("inter.broker.listener.name", value, "expected the name of one of the listeners");
        }
    }

    fn check_coordination(&mut self, given: &BTreeMap<String, Given>) {
        for key in ["dataDir", "dataLogDir"] {
            if let Some(value) = given.get(key) {
                self.problem(key, value, "a broker keeps its coordination below the first of log.dirs; remove the key, or start `ottla coordinator` with it");
            }
        }
        for (key, what) in self.config.coordination.contradictions(given) {
            match key.and_then(|key| given.get(&key).map(|value| (key, value))) {
                Some((key, value)) => self.problem(&key, value, what),
                None => self.problems.push(Problem::together(what)),
            }
        }
    }

    fn check_ranges(&mut self, given: &BTreeMap<String, Given>) {
        let config = &self.config;
        let mut contradictions = Vec::new();
        if config.group_min_session_timeout_ms > config.group_max_session_timeout_ms {
            contradictions.push((
                ["group.min.session.timeout.ms", "group.max.session.timeout.ms"],
                format!(
                    "expected group.min.session.timeout.ms ({}) to be at most group.max.session.timeout.ms ({})",
                    config.group_min_session_timeout_ms, config.group_max_session_timeout_ms
                ),
            ));
        }
        if config.topic_defaults.min_compaction_lag_ms > config.topic_defaults.max_compaction_lag_ms {
            contradictions.push((
                ["log.cleaner.min.compaction.lag.ms", "log.cleaner.max.compaction.lag.ms"],
                "expected log.cleaner.min.compaction.lag.ms to be at most log.cleaner.max.compaction.lag.ms".to_owned(),
            ));
        }
        if config.queued_max_request_bytes >= 0 && config.queued_max_request_bytes < i64::from(config.socket_request_max_bytes) {
            contradictions.push((
                ["queued.max.request.bytes", "socket.request.max.bytes"],
                format!(
                    "expected queued.max.request.bytes ({}) to hold at least one request of socket.request.max.bytes ({}), or to be -1 for no limit",
                    config.queued_max_request_bytes, config.socket_request_max_bytes
                ),
            ));
        }
        for (keys, what) in contradictions {
            let key = keys.iter().find(|key| given.contains_key(**key)).unwrap_or(&keys[0]);
            match given.get(*key) {
                Some(value) => self.problem(key, value, what),
                None => self.problems.push(Problem::together(what)),
            }
        }
    }
}

/// A broker's value in the topic key's unit. For times, every negative number is -1, 'for ever', whatever the unit.
fn scale(text: &str, synonym: Synonym) -> Result<String, String> {
    if synonym.name == "log.cleanup.policy" {
        return CleanupPolicy::parse(text).map(|policy| policy.print().unwrap_or_default());
    }
    if synonym.factor == 1 {
        return Ok(text.trim().to_owned());
    }
    let number = i64::from(i32::parse(text)?);
    let unlimited = synonym == hours("log.retention.hours") || synonym == minutes("log.retention.minutes");
    Ok(if number < 0 && unlimited { -1 } else { number * synonym.factor }.to_string())
}

fn topic_synonym_names(key: &str) -> String {
    let names: Vec<_> = topic::definition(key).map(|definition| definition.synonyms).unwrap_or_default().iter().map(|synonym| synonym.name).collect();
    if names.is_empty() { "none; set it on the topic".to_owned() } else { names.join(" or ") }
}

/// One note for each reason for which keys have no effect.
pub(super) fn tell_no_effect(no_effect: &BTreeMap<&'static str, Vec<String>>, notes: &mut Vec<String>) {
    for (why, keys) in no_effect {
        let (plural, verb) = if keys.len() == 1 { ("", "has") } else { ("s", "have") };
        notes.push(format!("the key{plural} {} {verb} no effect: {why}", keys.join(", ")));
    }
}

/// The known key that `key` is most likely a misspelling of.
fn nearest(key: &str) -> Option<&'static str> {
    let own = BrokerConfig::table().iter().map(|definition| definition.name).chain(alias_of("broker.id")).chain(alias_of("log.dirs"));
    let of_topics = topic::definitions().iter().flat_map(|definition| definition.synonyms).map(|synonym| synonym.name);
    let of_coordination = CoordinationConfig::table().iter().map(|definition| definition.name);
    nearest_of(key, own.chain(of_topics).chain(of_coordination).chain(foreign::names()))
}

/// Which of `names` it is most likely a misspelling of.
pub(super) fn nearest_of(key: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    let folded = key.to_ascii_lowercase().replace(['_', '-'], ".");
    names
        .map(|name| (distance(&folded, &name.to_ascii_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.len() / 4).clamp(1, 5))
        .min()
        .map(|(_, name)| name)
}

/// The number of letters to insert, remove, replace or swap with their neighbour to make one word of the other (optimal string
/// alignment distance).
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut before = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = previous[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(previous[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut previous, row);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn read(text: &str) -> BrokerConfig {
        BrokerConfig::from_text("server.properties", text, &[]).unwrap()
    }

    fn problems(text: &str) -> Vec<String> {
        BrokerConfig::from_text("f", text, &[]).unwrap_err().problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn without_a_file_it_is_the_default() {
        let config = BrokerConfig::from_text("", "", &[]).unwrap();
        assert_eq!(config, BrokerConfig::default());
        assert_eq!(config.listeners, ["PLAINTEXT://localhost:9092".parse().unwrap()]);
        assert_eq!(config.log_dirs, [PathBuf::from("./ottla-data")]);
        assert_eq!((config.broker_id, config.topic_defaults.flush_messages, config.topic_defaults.retention_ms), (0, 1, 604_800_000));
    }

    #[test]
    fn values_are_typed_and_options_beat_the_file() {
        let options = ["num.partitions=8".to_owned(), "log.dirs = a, b".to_owned()];
        let config = BrokerConfig::from_text("f", "num.partitions=4\nnode.id=7\nlog.dir=x\nlog.segment.bytes=1048576\nlog.roll.hours=2", &options).unwrap();
        assert_eq!((config.num_partitions, config.broker_id), (8, 7));
        assert_eq!(config.log_dirs, [PathBuf::from("a"), PathBuf::from("b")]);
        assert_eq!((config.topic_defaults.segment_bytes, config.topic_defaults.segment_ms), (1_048_576, 7_200_000));
        assert_eq!(config.notes, [""; 0]);
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        let text = "num.partitions=zero\n# fine\nnum.partition=3\nlog.segment.bytes=10\n=x\nmin.insync.replicas=0\nlog.flush.interval.messages=";
        assert_eq!(
            problems(text),
            [
                "f:1: num.partitions=zero: expected a whole number from -2147483648 to 2147483647",
                "f:3: num.partition=3: no such key; did you mean num.partitions?",
                "f:4: log.segment.bytes=10: expected at least 1048576",
                "f:5: '=x' has no key; expected key=value",
                "f:6: min.insync.replicas=0: expected at least 1",
                "f:7: log.flush.interval.messages=: expected a whole number from -9223372036854775808 to 9223372036854775807",
            ]
        );
        let error = BrokerConfig::from_text("f", "", &["num.partitions".to_owned(), "num.partitions=x".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("-o 'num.partitions' is not key=value") && error.contains("-o num.partitions=x: expected"), "{error}");
    }

    #[test]
    fn misspellings_find_their_key() {
        for (wrong, right) in [
            ("log.dris", Some("log.dirs")),
            ("listener", Some("listeners")),
            ("log.retention.hour", Some("log.retention.hours")),
            ("num_partitions", Some("num.partitions")),
            ("auto.create.topic.enable", Some("auto.create.topics.enable")),
            ("broker.ids", Some("broker.id")),
            ("kumquat", None),
        ] {
            assert_eq!(nearest(wrong), right, "{wrong}");
        }
        assert!(problems("retention.ms=5")[0].contains("log.retention.ms"));
    }

    #[test]
    fn kafkas_other_keys_are_told_once_or_refused() {
        let config = read("num.network.threads=3\nnum.io.threads=8\nlog.cleaner.threads=1");
        assert_eq!(config.notes.iter().filter(|note| note.contains("num.network.threads")).count(), 1);
        for (line, hint) in [
            ("process.roles=broker,controller", "no KRaft"),
            ("controller.quorum.voters=1@localhost:9093", "no KRaft"),
            ("zookeeper.connect=localhost:2181", "later release"),
            ("authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer", "ACL"),
            ("listeners=SSL://:9093", "TLS"),
            ("port=9092", "listeners"),
        ] {
            let told = problems(line);
            assert!(told.len() == 1 && told[0].contains(hint), "{line}: {told:?}");
        }
        read("authorizer.class.name=\nremote.log.storage.system.enable=false\nsecurity.inter.broker.protocol=PLAINTEXT");
    }

    #[test]
    fn secrets_are_not_repeated() {
        let told = problems("ssl.key.passwords=hunter2");
        assert!(!told[0].contains("hunter2"), "{told:?}");
    }

    #[test]
    fn duplicates_are_told_and_the_last_counts() {
        let config = read("num.partitions=1\nnum.partitions=2");
        assert_eq!(config.num_partitions, 2);
        assert_eq!(config.notes, ["server.properties:2: num.partitions was set on line 1 already; the value here, '2', counts"]);
    }

    #[test]
    fn two_names_of_one_key_must_agree() {
        assert_eq!(read("broker.id=3\nnode.id=3").broker_id, 3);
        assert!(problems("broker.id=3\nnode.id=4")[0].contains("f:2: node.id=4"));
        assert_eq!(read("log.dirs=a\nlog.dir=b").log_dirs, [PathBuf::from("a")]);
    }

    #[test]
    fn times_in_coarser_units() {
        assert_eq!(read("log.retention.hours=-1").topic_defaults.retention_ms, -1);
        assert_eq!(read("log.retention.ms=5\nlog.retention.hours=1").topic_defaults.retention_ms, 5);
        assert_eq!(problems("log.roll.hours=0"), ["f:1: log.roll.hours=0: expected at least 1 (in ms, after the conversion from hours)"]);
        assert!(problems("log.roll.hours=-5")[0].contains("at least 1"));
    }

    #[test]
    fn listeners_and_what_they_advertise() {
        let config = read(
            "listeners=PLAINTEXT://:0,INSIDE://10.0.0.1:9093\nlistener.security.protocol.map=INSIDE:PLAINTEXT,PLAINTEXT:PLAINTEXT\ninter.broker.listener.name=INSIDE",
        );
        let advertised: Vec<_> = config.advertised("me.example", &[4711, 9093]).iter().map(ToString::to_string).collect();
        assert_eq!(advertised, ["PLAINTEXT://me.example:4711", "INSIDE://10.0.0.1:9093"]);
        assert_eq!(config.inter_broker_listener(), "INSIDE");
        assert!(problems("listeners=A://:1")[0].contains("A:PLAINTEXT"));
        assert!(problems("listeners=PLAINTEXT://:1,PLAINTEXT://:2")[0].contains("two listeners"));
        assert!(problems("advertised.listeners=PLAINTEXT://0.0.0.0:1")[0].contains("no client"));
        assert!(problems("advertised.listeners=OTHER://h:1")[0].contains("no listener named OTHER"));
        assert!(problems("inter.broker.listener.name=X")[0].contains("one of the listeners"));
    }

    #[test]
    fn every_default_is_valid_and_prints_as_written() {
        let config = BrokerConfig::default();
        for definition in BrokerConfig::table() {
            assert_eq!(config.get(definition.name).unwrap_or_default(), definition.default, "{}", definition.name);
            assert!(definition.doc.trim().ends_with('.'), "{}", definition.name);
            assert!(foreign::find(definition.name).is_none(), "{} is both ours and foreign", definition.name);
        }
        assert!(BrokerConfig::table().is_sorted_by_key(|definition| definition.name));
    }

    #[test]
    fn contradictions_are_told() {
        assert!(problems("group.min.session.timeout.ms=10\ngroup.max.session.timeout.ms=5")[0].contains("at most"));
        assert!(problems("minSessionTimeout=70000")[0].contains("at most maxSessionTimeout (60000)"));
        assert!(problems("queued.max.request.bytes=100")[0].contains("socket.request.max.bytes"));
        assert_eq!(read("queued.max.request.bytes=-1").queued_max_request_bytes, -1);
    }

    #[test]
    fn describing_a_broker_tells_given_from_default() {
        use crate::config::ConfigSource;
        let config = read("node.id=7\nlog.retention.minutes=3");
        let entries = config.describe();
        let entry = |name| entries.iter().find(|entry| entry.name == name).unwrap();
        assert_eq!((entry("broker.id").value.as_deref(), entry("broker.id").source), (Some("7"), ConfigSource::StaticBroker));
        assert_eq!((entry("log.retention.minutes").value.as_deref(), entry("log.retention.minutes").source), (Some("3"), ConfigSource::StaticBroker));
        assert_eq!((entry("log.retention.hours").value.as_deref(), entry("log.retention.hours").source), (Some("168"), ConfigSource::Default));
        assert_eq!(entry("num.partitions").source, ConfigSource::Default);
    }

    /// In the sample file every key is known, and a line `#key=value` shows the default.
    #[test]
    fn the_sample_file_is_right() {
        let text = include_str!("../../config/server.properties");
        let config = read(text);
        assert_eq!(config.notes, [""; 0]);
        let mut shown = 0;
        for line in text.lines() {
            let assignment = line.strip_prefix('#').unwrap_or(line);
            let Some((key, value)) = assignment.split_once('=').filter(|(key, _)| !key.contains(' ') && key.contains(['.', 'l'])) else { continue };
            shown += 1;
            let default = BrokerConfig::default().get(if key == "node.id" { "broker.id" } else { key });
            let default = default.or_else(|| CoordinationConfig::default().get(key));
            let default = default.or_else(|| topic::by_synonym(key).and_then(|(definition, synonym)| topic::synonym_default(definition, synonym)));
            assert_eq!(default.as_deref(), Some(value), "{key}");
        }
        assert!(shown > 20, "the sample shows {shown} keys");
        assert_eq!(BrokerConfig { given: BTreeMap::new(), ..config }, BrokerConfig::default());
    }
}
