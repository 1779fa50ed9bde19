//! What the disk of a stopped broker holds: a log that is opened with all that recovery may use must be the same as one that is read from its first
//! batch, without indexes, snapshots and epochs; and the indexes made so must be those that were stored.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ottla::config::broker::BrokerConfig;
use ottla::config::topic;
use ottla::log::{EpochCache, LogManager, LogManagerConfig, ProducerStates};
use ottla::replication::log_config::log_config;
use ottla::runtime::{Disk, File, Open, Runtime};

use crate::clients::history::Violation;

/// One partition as its log sees it, and its index files.
#[derive(Clone, Debug)]
pub struct OpenedLog {
    start_offset: i64,
    end_offset: i64,
    segments: Vec<i64>,
    epochs: EpochCache,
    producers: ProducerStates,
    indexes: BTreeMap<String, Vec<u8>>,
}

/// Every partition, by the name of its directory.
pub type Opened = BTreeMap<String, OpenedLog>;

/// Opens all logs of a stopped broker, looks at them and closes them.
///
/// # Errors
/// What could not be opened, or read.
pub async fn open<R: Runtime>(rt: &R, config: &BrokerConfig, overrides: &BTreeMap<String, BTreeMap<String, String>>) -> Result<Opened, String> {
    let settings = LogManagerConfig {
        dirs: config.log_dirs.clone(),
        broker_id: config.broker_id,
        retention_check_interval_ms: u64::MAX / 2,
        ..LogManagerConfig::default()
    };
    let none = BTreeMap::new();
    let logs = LogManager::open(rt.clone(), settings, |name| {
        let resolved = topic::resolve(config, overrides.get(name).unwrap_or(&none));
        log_config(&resolved, config.producer_id_expiration_ms.into())
    })
    .await
    .map_err(|error| error.to_string())?;
    if let Some((partition, why)) = logs.offline().into_iter().next() {
        return Err(format!("{partition}: {why}"));
    }
    let mut opened = Opened::new();
    for log in logs.all() {
        let one = OpenedLog {
            start_offset: log.log_start_offset(),
            end_offset: log.log_end_offset(),
            segments: log.segment_base_offsets(),
            epochs: log.epochs(),
            producers: log.producer_states().await,
            indexes: BTreeMap::new(),
        };
        opened.insert(log.partition().to_string(), one);
    }
    logs.shutdown().await;
    drop(logs);
    for (name, one) in &mut opened {
        one.indexes = read_indexes(rt, &config.log_dirs[0].join(name)).await.map_err(|error| format!("{name}: {error}"))?;
    }
    Ok(opened)
}

fn is_index(name: &str) -> bool {
    name.ends_with(".index") || name.ends_with(".timeindex")
}

async fn read_indexes<R: Runtime>(rt: &R, dir: &Path) -> std::io::Result<BTreeMap<String, Vec<u8>>> {
    let mut indexes = BTreeMap::new();
    for entry in rt.disk().list(dir).await? {
        if is_index(&entry.name) {
            let file = rt.disk().open(&dir.join(&entry.name), Open::Read).await?;
            let len = file.len().await? as usize;
            indexes.insert(entry.name, file.read_at(0, len).await?.to_vec());
        }
    }
    Ok(indexes)
}

/// Removes all that a recovery could use instead of the batches themselves.
///
/// # Errors
/// The disk's.
pub async fn forget<R: Runtime>(rt: &R, config: &BrokerConfig, opened: &Opened) -> std::io::Result<()> {
    for name in opened.keys() {
        let dir: PathBuf = config.log_dirs[0].join(name);
        for entry in rt.disk().list(&dir).await? {
            if is_index(&entry.name) || entry.name.ends_with(".snapshot") || entry.name == "leader-epoch-checkpoint" {
                rt.disk().remove_file(&dir.join(&entry.name)).await?;
            }
        }
        rt.disk().sync_dir(&dir).await?;
    }
    Ok(())
}

/// What differs between the logs as they were stored and as they are replayed.
pub fn compare(stored: &Opened, replayed: &Opened) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut differs = |what: String| found.push(Violation { check: "replay", what });
    if stored.keys().ne(replayed.keys()) {
        differs(format!("stored are {:?}, replayed {:?}", stored.keys(), replayed.keys()));
    }
    for (name, one) in stored {
        let Some(other) = replayed.get(name) else { continue };
        let shape = |log: &OpenedLog| (log.start_offset, log.end_offset, log.segments.clone());
        if shape(one) != shape(other) {
            differs(format!("{name}: start, end and segments are {:?} as stored and {:?} as replayed", shape(one), shape(other)));
        }
        let epochs = |log: &OpenedLog| log.epochs.entries().iter().filter(|entry| entry.start_offset < log.end_offset).copied().collect::<Vec<_>>();
        if epochs(one) != epochs(other) {
            differs(format!("{name}: leader epochs are {:?} as stored and {:?} as replayed", epochs(one), epochs(other)));
        }
        for (id, producer) in other.producers.iter() {
            // Batches that retention deleted are remembered, but not in the log any more.
            let agrees = one.producers.get(id).is_some_and(|stored| {
                let older = stored.batches.len().saturating_sub(producer.batches.len());
                stored.epoch == producer.epoch && stored.batches[older..] == producer.batches[..]
            });
            if !agrees {
                differs(format!("{name}: producer {id} is {:?} as stored and {producer:?} as replayed", one.producers.get(id)));
            }
        }
        if one.start_offset == 0 && one.producers.len() != other.producers.len() {
            differs(format!("{name}: {} producers are stored, {} are replayed", one.producers.len(), other.producers.len()));
        }
        for (file, bytes) in &one.indexes {
            if other.indexes.get(file) != Some(bytes) {
                let lens = (bytes.len(), other.indexes.get(file).map(Vec::len));
                differs(format!("{name}/{file} is not what it becomes when it is made again; lengths {lens:?}"));
            }
        }
    }
    found
}
