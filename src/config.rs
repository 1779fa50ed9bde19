//! Configuration: Kafka's `server.properties` and topic keys, read into typed structs. Every error names file, line, key, value and
//! what was expected, and all of a file's errors are told at once.
//!
//! - [`properties`]: the file format, nothing about keys
//! - [`definition`]: what a key is; the macro that makes a struct of a table of keys
//! - [`broker`]: the broker's keys, [`BrokerConfig`](broker::BrokerConfig); [`load`]: how a file becomes one
//! - [`coordination`]: the keys of coordination, ZooKeeper's, [`CoordinationConfig`](coordination::CoordinationConfig), in the broker's file and in that of a
//!   [`coordinator`]; [`server`]: what `server.N` says
//! - [`given`]: what was given, and where; problems that name their place
//! - [`topic`]: topics' keys, [`TopicConfig`](topic::TopicConfig)
//! - [`foreign`]: keys of Kafka's and ZooKeeper's that have no effect here, or are refused
//! - [`listener`]: `NAME://host:port`; [`four_letter_words`]: what `4lw.commands.whitelist` names; [`describe`]: what `DescribeConfigs` says
//!
//! To add a broker key: a line in the table of `config/broker.rs`, and in `config/server.properties` if people should learn of it.

pub mod broker;
pub mod coordination;
pub mod coordinator;
pub mod definition;
pub mod describe;
pub mod foreign;
pub mod four_letter_words;
pub mod given;
pub mod greeting;
pub mod listener;
pub mod load;
pub mod properties;
pub mod server;
pub mod topic;

pub use broker::BrokerConfig;
pub use coordination::CoordinationConfig;
pub use coordinator::CoordinatorConfig;
pub use describe::{ConfigEntry, ConfigSource, ConfigSynonym};
pub use listener::Listener;
pub use load::{ConfigError, LoadError, Problem};
pub use topic::TopicConfig;
