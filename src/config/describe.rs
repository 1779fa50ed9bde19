//! What `DescribeConfigs` says of a key.

use crate::config::definition::Kind;

/// Where a value comes from, numbered as `DescribeConfigs` sends it (KIP-226).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConfigSource {
    /// Set on the topic.
    Topic = 1,
    /// Set on one broker while it runs.
    DynamicBroker = 2,
    /// Set on all brokers while they run.
    DynamicDefaultBroker = 3,
    /// From the broker's file or command line.
    StaticBroker = 4,
    /// Nobody set it.
    Default = 5,
}

/// Another key that could give the value, and does if it is the first in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigSynonym {
    /// The key.
    pub name: &'static str,
    /// Its value; `None` is null.
    pub value: Option<String>,
    /// Where that comes from.
    pub source: ConfigSource,
}

/// One key of a resource, as `DescribeConfigs` answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigEntry {
    /// The key.
    pub name: &'static str,
    /// Its value; `None` is null. Sensitive values are never here.
    pub value: Option<String>,
    /// Where it comes from.
    pub source: ConfigSource,
    /// Whether it can only be set in the broker's file.
    pub read_only: bool,
    /// Whether it is a secret.
    pub sensitive: bool,
    /// Its type.
    pub kind: Kind,
    /// What it means.
    pub doc: &'static str,
    /// Every key that could give the value, in the order in which they are asked.
    pub synonyms: Vec<ConfigSynonym>,
}
