//! `meta.properties`: whose a log directory is, in the form of a Kafka broker with ZooKeeper (version 0): `broker.id`, `cluster.id`,
//! `directory.id` (KIP-858). Unknown keys are kept.

use std::collections::BTreeMap;

use thiserror::Error;
use uuid::Uuid;

use super::partition_metadata::{decode_uuid, encode_uuid};

/// The content of `meta.properties`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaProperties {
    /// The broker that owns the directory.
    pub broker_id: Option<i32>,
    /// The cluster that it belongs to.
    pub cluster_id: Option<String>,
    /// The directory's own id, drawn when it was first used. A changed id means a replaced disk.
    pub directory_id: Option<Uuid>,
    /// Other keys.
    pub other: BTreeMap<String, String>,
}

/// Why a text is not `meta.properties`.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MetaPropertiesError {
    /// A line that is no `key=value`, or a value that cannot be read.
    #[error("line {line_number} is '{line}'; expected {expected}")]
    BadLine {
        /// From 1.
        line_number: usize,
        /// The line.
        line: String,
        /// What should be there.
        expected: &'static str,
    },
    /// Written by a KRaft broker or an unknown version.
    #[error("the version is '{version}'; only version 0, that of brokers that use ZooKeeper, is known")]
    BadVersion {
        /// The value.
        version: String,
    },
}

impl MetaProperties {
    /// Reads the file's content.
    ///
    /// # Errors
    /// If it is not one.
    pub fn parse(content: &[u8]) -> Result<Self, MetaPropertiesError> {
        let mut properties = Self::default();
        let mut version = String::new();
        for (at, line) in String::from_utf8_lossy(content).lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with(['#', '!']) {
                continue;
            }
            let bad = |expected| MetaPropertiesError::BadLine { line_number: at + 1, line: line.to_owned(), expected };
            let (key, value) = line.split_once('=').ok_or_else(|| bad("key=value"))?;
            let (key, value) = (key.trim(), value.trim().replace("\\:", ":").replace("\\=", "="));
            match key {
                "version" => version = value,
                "broker.id" => properties.broker_id = Some(value.parse().map_err(|_| bad("broker.id= and a number"))?),
                "cluster.id" => properties.cluster_id = Some(value),
                "directory.id" => properties.directory_id = Some(decode_uuid(&value).ok_or_else(|| bad("directory.id= and 22 characters of base64url"))?),
                _ => drop(properties.other.insert(key.to_owned(), value)),
            }
        }
        if version == "0" { Ok(properties) } else { Err(MetaPropertiesError::BadVersion { version }) }
    }

    /// The file's content.
    pub fn encode(&self) -> String {
        let mut text = "version=0\n".to_owned();
        let own = [
            ("broker.id", self.broker_id.map(|id| id.to_string())),
            ("cluster.id", self.cluster_id.clone()),
            ("directory.id", self.directory_id.map(encode_uuid)),
        ];
        let own = own.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
        for (key, value) in own.chain(self.other.iter().map(|(key, value)| (key.clone(), value.clone()))) {
            text.push_str(&format!("{key}={value}\n"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_kafka_writes() {
        let text =
            b"#\n#Sun Nov 22 10:00:00 UTC 2026\nbroker.id=3\ncluster.id=Mk3OEYBSD34fcwNTJENDQg\ndirectory.id=AAAAAAAAAAAAAAAAAAAAAQ\nversion=0\nnew.key=x\n";
        let properties = MetaProperties::parse(text).unwrap();
        assert_eq!(properties.broker_id, Some(3));
        assert_eq!(properties.cluster_id.as_deref(), Some("Mk3OEYBSD34fcwNTJENDQg"));
        assert_eq!(properties.directory_id, Some(Uuid::from_u128(1)));
        assert_eq!(MetaProperties::parse(properties.encode().as_bytes()).unwrap(), properties);
    }

    #[test]
    fn says_what_is_wrong() {
        assert!(matches!(MetaProperties::parse(b"version=1\nnode.id=1\n"), Err(MetaPropertiesError::BadVersion { .. })));
        assert!(matches!(MetaProperties::parse(b"version=0\nbroker.id=one\n"), Err(MetaPropertiesError::BadLine { line_number: 2, .. })));
        assert!(matches!(MetaProperties::parse(b""), Err(MetaPropertiesError::BadVersion { .. })));
    }
}
