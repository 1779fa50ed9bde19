//! The configurations of a cluster on one machine: all `*.properties` of a directory, and what must not be the same in two of them. Everything that is wrong
//! is found before a broker is started.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::cli::output::Failure;
use crate::config::{BrokerConfig, Listener};
use crate::runtime::bind::bind;
use crate::runtime::{Disk, HostPort, Runtime};

/// A broker to start.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Its configuration's file.
    pub(crate) file: PathBuf,
    /// Its `broker.id`.
    pub(crate) id: i32,
    /// Where clients on this machine reach it.
    pub(crate) address: HostPort,
    /// The first of its `log.dirs`.
    pub(crate) log_dir: PathBuf,
}

/// The brokers of a directory, by their ids.
///
/// # Errors
/// [`Failure::Message`] that says what is wrong, in which file, and what to do.
pub(crate) async fn members<R: Runtime>(runtime: &R, directory: &Path, overrides: &[String]) -> Result<Vec<Member>, Failure> {
    let shown = directory.display();
    let entries = runtime.disk().list(directory).await.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => format!("there is no directory '{shown}'; config/cluster of the source is one to begin with"),
        io::ErrorKind::NotADirectory => format!("'{shown}' is no directory; to start the one broker of a file: ottla broker {shown}"),
        _ => format!("the directory '{shown}' cannot be read: {error}"),
    })?;
    let mut names: Vec<String> = entries.into_iter().map(|entry| entry.name).filter(|name| name.ends_with(".properties")).collect();
    names.sort();
    if names.is_empty() {
        return Err(format!("'{shown}' has no *.properties; expected one for each broker, as in config/cluster of the source").into());
    }
    let mut found = Vec::new();
    for name in names {
        let file = directory.join(name);
        let config = BrokerConfig::load(runtime, Some(&file), overrides).await.map_err(|error| error.to_string())?;
        found.push((file, config));
    }
    distinct(&found)?;
    Ok(found.into_iter().map(|(file, config)| member(file, &config)).collect::<BTreeMap<_, _>>().into_values().collect())
}

fn member(file: PathBuf, config: &BrokerConfig) -> (i32, Member) {
    let listener = &config.listeners[0];
    let host = if listener.is_wildcard() { "localhost".to_owned() } else { listener.host.clone() };
    let address = HostPort { host, port: listener.port };
    (config.broker_id, Member { file, id: config.broker_id, address, log_dir: config.log_dirs[0].clone() })
}

/// What two brokers of one cluster cannot share, and what each must have.
fn distinct(found: &[(PathBuf, BrokerConfig)]) -> Result<(), String> {
    let mut seen: BTreeMap<String, &PathBuf> = BTreeMap::new();
    for (file, config) in found {
        let shown = file.display();
        if config.listeners.iter().any(|listener| listener.port == 0) {
            return Err(format!("{shown}: listeners: a broker of a cluster needs a port that stays the same when it is started again; give one in place of 0"));
        }
        let mut own = vec![(format!("broker.id={}", config.broker_id), "give each broker a number of its own")];
        own.extend(config.listeners.iter().map(|listener| (format!("the address {}", listener.host_port()), "give each listener a port of its own")));
        own.extend(config.log_dirs.iter().map(|dir| (format!("the directory {}", dir.display()), "give each broker log.dirs of its own")));
        own.extend(
            config
                .coordination
                .server_id
                .filter(|_| !config.coordination.servers.is_empty())
                .map(|id| (format!("server.id={id}"), "each of the servers is one broker")),
        );
        own.extend(own_client_port(config).map(|port| (format!("clientPort={port}"), "give each broker another port for ZooKeeper's clients")));
        for (what, remedy) in own {
            if let Some(other) = seen.insert(what.clone(), file) {
                return Err(format!("{} and {shown} both have {what}: {remedy}", other.display()));
            }
        }
        if found.len() > 1 && config.coordination.servers.is_empty() && config.zookeeper_connect.is_none() {
            return Err(format!(
                "{shown}: this broker would be a cluster of its own: brokers meet in an ensemble; add the same server.N lines to each file, as config/cluster \
                 of the source has them, or zookeeper.connect"
            ));
        }
    }
    Ok(())
}

fn own_client_port(config: &BrokerConfig) -> Option<u16> {
    config.coordination.client_port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0)
}

/// Looks whether every listener's port is free now: a broker that finds it taken says so too, but only after others have begun.
///
/// # Errors
/// The first that is not, and what to do.
pub(crate) async fn ports_are_free<R: Runtime>(runtime: &R, directory: &Path, overrides: &[String], members: &[Member]) -> Result<(), Failure> {
    for member in members {
        let config = BrokerConfig::load(runtime, Some(&member.file), overrides).await.map_err(|error| error.to_string())?;
        for listener in &config.listeners {
            if is_taken(runtime, listener).await {
                return Err(format!(
                    "{}: the port of {listener} is in use, by brokers that run already or by another program: stop it, or give 'listeners' another port. \
                     Nothing of {} was started",
                    member.file.display(),
                    directory.display()
                )
                .into());
            }
        }
    }
    Ok(())
}

async fn is_taken<R: Runtime>(runtime: &R, listener: &Listener) -> bool {
    // Any other reason the broker itself tells better.
    bind(runtime, &listener.host_port()).await.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVERS: &str = "server.1=localhost:1\nserver.2=localhost:2\n";

    fn check(files: [&str; 2]) -> Result<(), String> {
        let parse = |(at, text): (usize, &str)| {
            let name = format!("{}.properties", at + 1);
            let config = BrokerConfig::from_text(&name, &format!("{text}\n{SERVERS}"), &[]).unwrap();
            (PathBuf::from(name), config)
        };
        distinct(&files.into_iter().enumerate().map(parse).collect::<Vec<_>>())
    }

    #[test]
    fn what_two_brokers_share_is_named_with_both_files() {
        let one = "broker.id=1\nlisteners=PLAINTEXT://localhost:9092\nlog.dirs=a\nserver.id=1\nclientPort=2181";
        assert_eq!(check([one, "broker.id=2\nlisteners=PLAINTEXT://localhost:9093\nlog.dirs=b\nserver.id=2\nclientPort=2182"]), Ok(()));
        for (other, told) in [
            ("broker.id=1\nlisteners=PLAINTEXT://localhost:9093\nlog.dirs=b\nserver.id=2", "broker.id=1"),
            ("broker.id=2\nlog.dirs=b\nserver.id=2", "localhost:9092"),
            ("broker.id=2\nlisteners=PLAINTEXT://localhost:9093\nlog.dirs=b,a\nserver.id=2", "the directory a"),
            ("broker.id=2\nlisteners=PLAINTEXT://localhost:9093\nlog.dirs=b\nserver.id=1", "server.id=1"),
            ("broker.id=2\nlisteners=PLAINTEXT://localhost:9093\nlog.dirs=b\nserver.id=2\nclientPort=2181", "clientPort=2181"),
        ] {
            let told_is = check([one, other]).unwrap_err();
            assert!(told_is.starts_with("1.properties and 2.properties both have ") && told_is.contains(told), "{told_is}");
        }
        let drawn = check([one, "broker.id=2\nlisteners=PLAINTEXT://localhost:0\nlog.dirs=b\nserver.id=2"]).unwrap_err();
        assert!(drawn.starts_with("2.properties: listeners: "), "{drawn}");
    }

    #[test]
    fn brokers_that_would_not_meet_are_refused() {
        let parse = |text: &str| (PathBuf::from(format!("{text}.properties")), BrokerConfig::from_text("f", text, &[]).unwrap());
        let alone = parse("broker.id=1");
        assert_eq!(distinct(std::slice::from_ref(&alone)), Ok(()), "one may be alone");
        let other = parse("broker.id=2\nlisteners=PLAINTEXT://localhost:9093\nlog.dirs=b");
        assert!(distinct(&[alone, other]).unwrap_err().contains("a cluster of its own"));
    }

    #[test]
    fn the_configurations_of_the_source_are_one_cluster() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/cluster");
        let members = crate::runtime::tokio::run(1, |runtime| async move { members(&runtime, &directory, &[]).await }).unwrap().unwrap();
        assert_eq!(members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(members.iter().map(|member| member.address.port).collect::<Vec<_>>(), [9092, 9093, 9094]);
        for member in members {
            let config = crate::runtime::tokio::run(1, |runtime| async move { BrokerConfig::load(&runtime, Some(&member.file), &[]).await }).unwrap().unwrap();
            assert!(config.notes.is_empty(), "{:?}", config.notes);
            assert_eq!((config.default_replication_factor, config.offsets_topic_replication_factor), (3, 3));
            assert_eq!(config.coordination.servers.len(), 3);
        }
    }
}
