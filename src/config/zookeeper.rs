//! Where a broker's coordination is: `zookeeper.connect`, and what it may say beside `clientPort`.

use crate::config::broker::BrokerConfig;
use crate::config::definition::{ConfigValue, Kind};
use crate::coordination::client::ConnectString;
use crate::runtime::HostPort;

impl ConfigValue for ConnectString {
    const KIND: Kind = Kind::String;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse().map_err(|why: String| format!("hosts and ports of ZooKeepers such as zk1:2181,zk2:2181/kafka ({why})"))
    }
    fn print(&self) -> Option<String> {
        Some(self.to_string())
    }
}

/// Whether `connect` names the member that this broker itself serves on `clientPort`, and nobody else.
fn names_itself(connect: &ConnectString, client_port: i32, client_port_address: Option<&str>) -> bool {
    connect.hosts.iter().all(|host| {
        let is_here = matches!(host.host.as_str(), "localhost" | "127.0.0.1" | "::1") || client_port_address == Some(host.host.as_str());
        i32::from(host.port) == client_port && is_here
    })
}

/// What is wrong with `zookeeper.connect` beside `clientPort` and `server.N`: one says that the coordination service is elsewhere, the others that it is here.
pub(crate) fn contradiction(config: &BrokerConfig) -> Option<String> {
    let connect = config.zookeeper_connect.as_ref()?;
    let own = &config.coordination;
    if !own.servers.is_empty() {
        let is_member =
            |host: &HostPort| own.servers.values().any(|server| server.peer.host == host.host || server.client.as_ref().is_some_and(|at| at.host == host.host));
        if !connect.hosts.iter().all(is_member) {
            return Some(format!(
                "server.N says that this broker is a member of its own ensemble; with zookeeper.connect it uses the one at {connect} instead. Remove one of the two"
            ));
        }
    } else {
        let port = own.client_port?;
        if !names_itself(connect, port, own.client_port_address.as_deref()) {
            return Some(format!(
                "clientPort={port} says that this broker coordinates itself, and serves that to others; with zookeeper.connect it uses the ensemble at {connect} \
                 instead. Remove one of the two"
            ));
        }
    }
    let has_chroot = !connect.chroot.is_empty();
    has_chroot.then(|| {
        format!(
            "it names the ensemble in this broker itself with the path '{}', and a broker that coordinates itself has no chroot; remove the path",
            connect.chroot
        )
    })
}

impl BrokerConfig {
    /// The ensemble outside of this broker that it uses; `None` if it coordinates itself.
    pub fn outside_ensemble(&self) -> Option<&ConnectString> {
        let connect = self.zookeeper_connect.as_ref()?;
        // What is set beside it has passed the checks: then it means this very member.
        let is_here = self.coordination.client_port.is_some() || !self.coordination.servers.is_empty();
        if is_here { None } else { Some(connect) }
    }

    /// How long the coordination service may take to be there at the start, in milliseconds.
    pub fn zookeeper_connection_timeout_ms(&self) -> u64 {
        let ms = self.zookeeper_connection_timeout.unwrap_or(self.zookeeper_session_timeout_ms);
        u64::try_from(ms).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use crate::config::broker::BrokerConfig;

    fn read(text: &str) -> Result<BrokerConfig, String> {
        BrokerConfig::from_text("f", text, &[]).map_err(|error| error.to_string())
    }

    #[test]
    fn an_ensemble_is_named_with_its_chroot() {
        let config = read("zookeeper.connect=zk1,zk2:2182/kafka\nzookeeper.session.timeout.ms=6000").unwrap();
        let connect = config.outside_ensemble().unwrap();
        assert_eq!((connect.to_string().as_str(), connect.chroot.as_str()), ("zk1:2181,zk2:2182/kafka", "/kafka"));
        assert_eq!(config.zookeeper_connection_timeout_ms(), 6_000, "the session's, as in Kafka");
        assert_eq!(read("zookeeper.connection.timeout.ms=5").unwrap().zookeeper_connection_timeout_ms(), 5);
        assert!(read("").unwrap().outside_ensemble().is_none());
        assert!(read("zookeeper.connect=").unwrap().outside_ensemble().is_none());
        for (wrong, words) in [("zk1:x", "f:1: zookeeper.connect=zk1:x"), ("/kafka", "names no host"), ("zk1/kafka//x", "chroot")] {
            let error = read(&format!("zookeeper.connect={wrong}")).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn an_ensemble_elsewhere_and_one_here_contradict_each_other() {
        let error = read("clientPort=2181\nzookeeper.connect=zk1:2181").unwrap_err();
        assert!(error.contains("f:2: zookeeper.connect=zk1:2181") && error.contains("Remove one of the two"), "{error}");
        assert!(read("clientPort=2181\nzookeeper.connect=localhost:2182").is_err());
        let members = "server.1=a:2888\nserver.2=b:2888\nserver.3=c:2888\nserver.id=1\nclientPort=2181\n";
        assert!(read(&format!("{members}zookeeper.connect=a:2181,b:2181,c:2181")).unwrap().outside_ensemble().is_none());
        assert!(read(&format!("{members}zookeeper.connect=a:2181,d:2181")).unwrap_err().contains("server.N"));
        assert!(read("clientPort=2181\nzookeeper.connect=localhost:2181/kafka").unwrap_err().contains("no chroot"));
        let itself = read("clientPort=2181\nclientPortAddress=10.0.0.1\nzookeeper.connect=localhost:2181,10.0.0.1:2181").unwrap();
        assert!(itself.outside_ensemble().is_none());
    }

    #[test]
    fn acls_need_credentials_that_there_are_not() {
        assert!(read("zookeeper.set.acl=true").unwrap_err().contains("zookeeper.set.acl=true"));
        read("zookeeper.set.acl=false").unwrap();
    }
}
