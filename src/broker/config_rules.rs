//! What settings may be, for the controller: the tables of `config`, and what this release does not do yet.

use std::collections::BTreeMap;

use crate::config::broker::BrokerConfig;
use crate::config::definition::Kind;
use crate::config::topic;
use crate::controller::configs::ConfigRules;
use crate::replication::quota;

const CLEANUP_POLICY: &str = "cleanup.policy";

/// Settings of topics that list replicas (KIP-73).
const THROTTLED: [&str; 2] = ["leader.replication.throttled.replicas", "follower.replication.throttled.replicas"];

/// Settings of brokers that can be changed while they run.
const RATES: [&str; 3] = [quota::LEADER_RATE, quota::FOLLOWER_RATE, quota::LOG_DIRS_RATE];

/// The rules of a broker with this configuration.
pub struct Rules {
    /// How the broker was configured: the defaults of its topics.
    pub config: BrokerConfig,
}

impl ConfigRules for Rules {
    fn validate_topic(&self, name: &str, value: &str) -> Result<(), String> {
        // Whether a topic may be compacted depends on which it is: the controller knows that.
        if THROTTLED.contains(&name) && !quota::is_list(value) {
            return Err(format!("Invalid value {value} for configuration {name}: expected '*' or a list of partition:broker pairs"));
        }
        if name == CLEANUP_POLICY { topic::validate_syntax(name, value) } else { topic::validate(name, value) }
    }

    fn validate_topic_settings(&self, settings: &BTreeMap<String, String>) -> Result<(), String> {
        let others = settings.iter().filter(|(name, _)| *name != CLEANUP_POLICY).map(|(name, value)| (name.clone(), value.clone())).collect();
        topic::validate_all(&self.config, &others)
    }

    fn validate_broker(&self, name: &str, value: &str) -> Result<(), String> {
        if RATES.contains(&name) {
            let is_good = value.trim().parse::<i64>().is_ok_and(|rate| rate >= 0);
            return if is_good {
                Ok(())
            } else {
                Err(format!("Invalid value {value} for configuration {name}: expected bytes per second, at least 0 (type LONG)"))
            };
        }
        Err(format!("{name} cannot be changed while the broker runs; change it in the broker's file and restart the broker"))
    }

    fn is_topic_list(&self, name: &str) -> bool {
        topic::definition(name).is_some_and(|definition| definition.kind == Kind::List)
    }

    fn is_broker_list(&self, name: &str) -> bool {
        BrokerConfig::table().iter().any(|definition| definition.name == name && definition.kind == Kind::List)
    }

    fn topic_default(&self, name: &str) -> Option<String> {
        self.config.topic_defaults.get(name)
    }

    fn broker_default(&self, name: &str) -> Option<String> {
        self.config.get(name)
    }
}
