//! Where an ensemble is, as `zookeeper.connect` says it: `host1:port1,host2:port2/chroot`. Pure.

use std::fmt;
use std::str::FromStr;

use crate::coordination::path;
use crate::runtime::HostPort;

/// The port of ZooKeeper's clients where none is given.
pub const DEFAULT_PORT: u16 = 2181;

/// The members of an ensemble, and the znode below which everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectString {
    /// The members, in the order given; at least one.
    pub hosts: Vec<HostPort>,
    /// The path before all paths, without a slash at its end; empty for none.
    pub chroot: String,
}

impl FromStr for ConnectString {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (hosts, chroot) = match text.find('/') {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let chroot = chroot.strip_suffix('/').unwrap_or(chroot).to_owned();
        if !chroot.is_empty() {
            path::validate(&chroot).map_err(|error| format!("the chroot '{chroot}' is no path: {error}"))?;
        }
        let hosts = hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(host_port).collect::<Result<Vec<_>, _>>()?;
        if hosts.is_empty() {
            return Err(
                "it names no host; expected 'host1:2181,host2:2181' with a path such as '/kafka' after the last host if everything is to be below it".into()
            );
        }
        Ok(Self { hosts, chroot })
    }
}

/// A host, with the default port where it has none.
fn host_port(text: &str) -> Result<HostPort, String> {
    let has_port = match text.rsplit_once(':') {
        // An IPv6 address is in brackets: what colons it has outside are the port's.
        Some((host, _)) => !text.ends_with(']') && (host.ends_with(']') || !host.contains(':')),
        None => false,
    };
    let complete = if has_port { text.to_owned() } else { format!("{text}:{DEFAULT_PORT}") };
    complete.parse().map_err(|error| format!("'{text}' is no host and port: {error}"))
}

impl fmt::Display for ConnectString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts = self.hosts.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        write!(f, "{hosts}{}", self.chroot)
    }
}

/// Puts `items` into a random order. `draw` draws a random number below its argument.
pub(super) fn shuffle<T>(items: &mut [T], mut draw: impl FnMut(usize) -> usize) {
    for at in (1..items.len()).rev() {
        items.swap(at, draw(at + 1).min(at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_ports_and_chroot_are_read_as_zookeeper_reads_them() {
        let read = |text: &str| text.parse::<ConnectString>().map(|read| (read.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(), read.chroot));
        let ok = |hosts: &[&str], chroot: &str| Ok((hosts.iter().map(|host| (*host).to_owned()).collect(), chroot.to_owned()));
        assert_eq!(read("zk1:2182"), ok(&["zk1:2182"], ""));
        assert_eq!(read(" zk1:2182, zk2 ,zk3:1/kafka/prod "), ok(&["zk1:2182", "zk2:2181", "zk3:1"], "/kafka/prod"));
        assert_eq!(read("zk/"), ok(&["zk:2181"], ""));
        assert_eq!(read("[::1]:7,[::2]/k/"), ok(&["[::1]:7", "[::2]:2181"], "/k"));
        for (wrong, words) in [("", "names no host"), ("/kafka", "names no host"), ("zk:x", "'zk:x'"), ("zk//a", "chroot"), ("zk/a/../b", "chroot")] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(words), "{wrong}: {error}");
        }
        assert_eq!("a:1,b/c".parse::<ConnectString>().unwrap().to_string(), "a:1,b:2181/c");
    }

    #[test]
    fn a_shuffle_keeps_all() {
        let mut items = [1, 2, 3, 4, 5];
        shuffle(&mut items, |below| below / 2);
        let mut sorted = items;
        sorted.sort_unstable();
        assert_eq!((items != sorted, sorted), (true, [1, 2, 3, 4, 5]));
    }
}
