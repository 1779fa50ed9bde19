//! The file of a coordinator: `coordinator.properties`, or a `zoo.cfg` as it is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::broker::BrokerConfig;
use crate::config::coordination::CoordinationConfig;
use crate::config::foreign::{self, Foreign};
use crate::config::given::{Collected, ConfigError, LoadError, Problem, collect, read_file};
use crate::config::load::{nearest_of, tell_no_effect};
use crate::runtime::Runtime;

/// A coordinator's configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorConfig {
    /// Its keys. `clientPort`, or the clients' port of its own `server.N`, is always there.
    pub coordination: CoordinationConfig,
    /// `dataDir`: where its `myid` is, and its log unless `dataLogDir` names another.
    pub data_dir: PathBuf,
    /// What to tell once at start: keys without effect, duplicates.
    pub notes: Vec<String>,
}

impl CoordinatorConfig {
    /// Where the log and the snapshots are.
    pub fn log_dir(&self) -> &Path {
        self.coordination.data_log_dir.as_deref().unwrap_or(&self.data_dir)
    }

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
        let Collected { given, mut problems, mut notes } = collect(file_name, text, options);
        let mut coordination = CoordinationConfig::default();
        let mut no_effect: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
        for (key, value) in &given {
            match coordination.take(key, &value.text) {
                Some(Ok(())) => continue,
                Some(Err(what)) => {
                    problems.push(value.problem(key, what));
                    continue;
                }
                None => {}
            }
            match foreign::find_zookeepers(key) {
                Some(Foreign::NoEffect { why }) => no_effect.entry(why).or_default().push(key.clone()),
                Some(Foreign::Refused { unless, what }) => {
                    if !unless.iter().any(|harmless| value.text.eq_ignore_ascii_case(harmless)) {
                        problems.push(value.problem(key, what));
                    }
                }
                None => {
                    let own = CoordinationConfig::table().iter().map(|definition| definition.name);
                    let what = if BrokerConfig::table().iter().any(|definition| definition.name == key) || foreign::find(key).is_some() {
                        "this is a broker's key, and a coordinator is no broker; start a broker with `ottla broker`".to_owned()
                    } else {
                        match nearest_of(key, own.chain(foreign::zookeepers_names())) {
                            Some(near) => format!("no such key; did you mean {near}?"),
                            None => "no such key; config/coordinator.properties shows the common ones".to_owned(),
                        }
                    };
                    problems.push(value.problem(key, what));
                }
            }
        }
        for (key, what) in coordination.contradictions(&given) {
            problems.push(match key.and_then(|key| given.get(&key).map(|value| (key, value))) {
                Some((key, value)) => value.problem(&key, what),
                None => Problem::together(what),
            });
        }
        // Nothing of it if something else is wrong: it may be misspelt.
        let is_missing = problems.is_empty() && !given.contains_key("clientPort");
        if is_missing && !coordination.servers.values().any(|server| server.client.is_some()) && !given.is_empty() {
            problems.push(Problem::together("expected clientPort, the port on which ZooKeeper clients are served (2181 is the usual one)"));
        }
        // Without a word about it: what a newcomer gets.
        if given.is_empty() {
            coordination.client_port = Some(2181);
            coordination.client_port_address = Some("localhost".to_owned());
        }
        if !problems.is_empty() {
            problems.sort_by_key(|problem| problem.line().unwrap_or(usize::MAX));
            return Err(ConfigError { problems });
        }
        tell_no_effect(&no_effect, &mut notes);
        let data_dir = coordination.data_dir.clone().unwrap_or_else(|| PathBuf::from("./ottla-coordination"));
        Ok(Self { coordination, data_dir, notes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        CoordinatorConfig::from_text("f", text, &[]).unwrap_err().problems.iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_zoo_cfg_is_taken_as_it_is() {
        let text = "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir=/var/lib/zookeeper\nclientPort=2181\nautopurge.snapRetainCount=5\n\
                    autopurge.purgeInterval=24\nserver.1=zoo1:2888:3888\nserver.2=zoo2:2888:3888\nserver.3=zoo3:2888:3888;2181\n";
        let config = CoordinatorConfig::from_text("zoo.cfg", text, &[]).unwrap();
        assert_eq!(config.data_dir, PathBuf::from("/var/lib/zookeeper"));
        assert_eq!((config.coordination.tick_time_ms, config.coordination.servers.len(), config.coordination.snapshots_kept_count), (2000, 3, 5));
        assert_eq!(config.coordination.servers[&2].peer.to_string(), "zoo2:2888");
        assert_eq!(config.coordination.client_session_timeouts_ms(), (4000, 40_000));
        assert!(config.notes.iter().any(|note| note.contains("initLimit, syncLimit")), "{:?}", config.notes);
    }

    #[test]
    fn what_only_adorns_sasl_and_tls_is_told_of_and_starts() {
        let text = "clientPort=1\nauthProvider.sasl=org.apache.zookeeper.server.auth.SASLAuthenticationProvider\njaasLoginRenew=3600000\n\
                    kerberos.removeHostFromPrincipal=true\nssl.keyStore.location=/k\nssl.quorum.trustStore.location=/t\nquorum.auth.enableSasl=true\n\
                    sessionRequireClientSASLAuth=false\nsslQuorum=false\n";
        let config = CoordinatorConfig::from_text("zoo.cfg", text, &[]).unwrap();
        let told = |key: &str, what: &str| config.notes.iter().any(|note| note.contains(key) && note.contains(what));
        assert!(told("jaasLoginRenew", "not supported yet") && told("ssl.keyStore.location", "not supported yet"), "{:?}", config.notes);
        assert!(told("quorum.auth.enableSasl", "coordination.secret.file") && told("authProvider.sasl", "digest"), "{:?}", config.notes);
    }

    #[test]
    fn every_problem_is_told_with_its_place() {
        for (text, hint) in [
            ("clientPort=x", "f:1: clientPort=x: expected a whole number"),
            ("clientPort=1\nserver.0=a:1", "f:2: server.0=a:1: '0' is no server's number"),
            ("clientPort=1\nserver.1=a", "f:2: server.1=a: expected host:peerport"),
            ("clientPort=1\nserver.1=a:1\nserver.2=a:1", "f:3: server.2=a:1: server.1 has the same address"),
            ("clientPort=1\nserver.1=a:1\nserver.id=2", "f:3: server.id=2: there is no server.2"),
            ("clientPort=1\nserver.id=2", "no server.N"),
            ("server.1=a:1", "expected clientPort"),
            ("clientPort=1\nsecureClientPort=2", "TLS is not supported yet; remove it, set clientPort"),
            ("clientPort=1\nsessionRequireClientSASLAuth=true", "not supported yet, and leaving the key unheeded would let everybody in"),
            ("clientPort=1\nenforce.auth.enabled=true", "ACLs of the schemes digest and ip"),
            ("clientPort=1\nX509AuthenticationProvider.superUser=CN=a", "superDigest"),
            ("clientPort=1\nsslQuorum=true", "coordination.secret.file"),
            ("clientPort=1\nlisteners=PLAINTEXT://:1", "a broker's key"),
            ("clientport=1", "did you mean clientPort"),
            ("clientPort=1\npeerType=observer", "no observers"),
            ("clientPort=1\ndynamicConfigFile=x", "server.N"),
            ("clientPort=2181\nserver.1=a:1:2;2182", "clientPort=2181 says otherwise"),
        ] {
            let told = problems(text);
            assert!(told.len() == 1 && told[0].contains(hint), "{text}: {told:?}");
        }
    }

    #[test]
    fn the_table_is_sorted_and_every_default_prints_as_written() {
        let config = CoordinationConfig::default();
        assert!(CoordinationConfig::table().is_sorted_by_key(|definition| definition.name));
        for definition in CoordinationConfig::table() {
            assert_eq!(config.get(definition.name).unwrap_or_default(), definition.default, "{}", definition.name);
            assert!(definition.doc.trim().ends_with('.'), "{}", definition.name);
            assert!(foreign::find(definition.name).is_none() && foreign::find_zookeepers(definition.name).is_none(), "{}", definition.name);
        }
    }

    #[test]
    fn the_sample_file_is_right() {
        let text = include_str!("../../config/coordinator.properties");
        let config = CoordinatorConfig::from_text("coordinator.properties", text, &[]).unwrap();
        assert_eq!(config.notes, [""; 0]);
        for line in text.lines() {
            let Some((key, value)) = line.strip_prefix('#').and_then(|line| line.split_once('=')).filter(|(key, _)| !key.contains(' ')) else { continue };
            if key.starts_with("server.") && key != "server.id" {
                value.parse::<crate::config::server::ServerAddress>().unwrap();
            } else if let Some(default) = CoordinationConfig::default().get(key) {
                assert_eq!(default, value, "{key}");
            }
            assert!(CoordinationConfig::default().take(key, value).is_some_and(|taken| taken.is_ok()), "{line}");
        }
    }
}
