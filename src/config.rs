//! Configuration: Kafka's `server.properties` and topic keys, read into typed structs. Every error names file, line, key, value and
//! what was expected, and all of a file's errors are told at once.
//!
//! - [`properties`]: the file format, nothing about keys
//! - [`definition`]: what a key is; the macro that makes a struct of a table of keys
//! - [`broker`]: the broker's keys, [`BrokerConfig`](broker::BrokerConfig); [`load`]: how a file becomes one
//! - [`topic`]: topics' keys, [`TopicConfig`](topic::TopicConfig)
//! - [`foreign`]: keys of Kafka's that have no effect here, or are refused
//! - [`zookeeper`]: where the coordination service is
//! - [`listener`]: `NAME://host:port`; [`four_letter_words`]: what `4lw.commands.whitelist` names; [`describe`]: what `DescribeConfigs` says
//!
//! To add a broker key: a line in the table of `config/broker.rs`, and in `config/server.properties` if people should learn of it.

pub mod broker;
pub mod definition;
pub mod describe;
pub mod foreign;
pub mod four_letter_words;
pub mod greeting;
pub mod listener;
pub mod load;
pub mod properties;
pub mod topic;
pub mod zookeeper;

pub use broker::BrokerConfig;
pub use describe::{ConfigEntry, ConfigSource, ConfigSynonym};
pub use listener::Listener;
pub use load::{ConfigError, LoadError, Problem};
pub use topic::TopicConfig;
