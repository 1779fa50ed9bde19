//! `server.N`: where a member of a coordination ensemble is reached, in ZooKeeper's syntax.

use std::fmt;

use crate::runtime::HostPort;

/// The highest `N`, as ZooKeeper's.
pub const SERVER_ID_MAX: u32 = 255;

/// The value of one `server.N`: `host:peerport[:electionport[:role]][;[clienthost:]clientport]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddress {
    /// Where its peers reach it.
    pub peer: HostPort,
    /// ZooKeeper elects leaders over a port of its own; here elections go over the peers' port, and this one is not opened.
    pub election_port: Option<u16>,
    /// Where its clients are served, if it is said here; the host is empty for every interface.
    pub client: Option<ClientAddress>,
}

/// The part after the semicolon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// A name or an address; empty for every interface.
    pub host: String,
    /// The port.
    pub port: u16,
}

const EXPECTED: &str = "host:peerport, as in server.1=host1:2888; ZooKeeper's host:peerport:electionport:participant;clientport is taken, too";

/// Splits at colons, but for those within brackets.
fn parts(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut depth) = (0, 0);
    for (at, c) in text.char_indices() {
        match c {
            '[' => depth += 1,
            ']' => depth -= 1,
            ':' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn host(text: &str) -> Result<String, String> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let host = bracketed.unwrap_or(text);
    if host.contains(['[', ']', '/', ' ']) {
        return Err(format!("'{text}' is no host; expected a name or an address, IPv6 in brackets"));
    }
    Ok(host.to_owned())
}

fn port(text: &str, what: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("'{text}' is no {what}; expected a number from 1 to 65535"))
}

impl std::str::FromStr for ServerAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if text.contains('|') {
            return Err(
                "several addresses of one server ('|') are not taken; give the one that all members reach, or a name that has several addresses".to_owned()
            );
        }
        let (server, clients) = text.split_once(';').map_or((text, None), |(server, clients)| (server, Some(clients)));
        let server = parts(server);
        if server.len() < 2 || server.len() > 4 || server[0].is_empty() {
            return Err(format!("expected {EXPECTED}"));
        }
        let peer = HostPort { host: host(server[0])?, port: port(server[1], "port of the peers")? };
        let election_port = server.get(2).map(|text| port(text, "port of elections")).transpose()?;
        match server.get(3).map(|role| role.to_ascii_lowercase()).as_deref() {
            None | Some("participant") => {}
            Some("observer") => {
                return Err("there are no observers here: every server takes part in consensus; leave ':observer' out, or the server".to_owned());
            }
            Some(role) => return Err(format!("'{role}' is no role; expected participant, or nothing, which means the same")),
        }
        let client = match clients {
            None => None,
            Some(clients) => {
                let (plain, secure) = clients.split_once(';').map_or((clients, ""), |(plain, secure)| (plain, secure));
                if !secure.is_empty() {
                    return Err("a secure client port after the second ';' needs TLS, which this release has not; leave it out".to_owned());
                }
                match parts(plain).as_slice() {
                    [""] => None,
                    [number] => Some(ClientAddress { host: String::new(), port: port(number, "port of clients")? }),
                    [name, number] => Some(ClientAddress { host: host(name)?, port: port(number, "port of clients")? }),
                    _ => return Err(format!("'{plain}' is no address of clients; expected clientport, or clienthost:clientport")),
                }
            }
        };
        Ok(Self { peer, election_port, client })
    }
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As ZooKeeper's own configuration shows it; without an election port of its own it is the peers' port.
        write!(f, "{}:{}:participant", self.peer, self.election_port.unwrap_or(self.peer.port))?;
        if let Some(client) = &self.client {
            let host = if client.host.is_empty() { "0.0.0.0" } else { &client.host };
            write!(f, ";{}", HostPort { host: host.to_owned(), port: client.port })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zookeepers_syntax_is_read() {
        for (text, shown) in [
            ("a:2888", "a:2888:2888:participant"),
            ("a:2888:3888", "a:2888:3888:participant"),
            ("a.example:2888:3888:PARTICIPANT;2181", "a.example:2888:3888:participant;0.0.0.0:2181"),
            ("[::1]:2888:3888;[fe80::1]:2181", "[::1]:2888:3888:participant;[fe80::1]:2181"),
            ("10.0.0.1:2888:3888;127.0.0.1:2181", "10.0.0.1:2888:3888:participant;127.0.0.1:2181"),
            ("a:1:2;", "a:1:2:participant"),
        ] {
            assert_eq!(text.parse::<ServerAddress>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_none_says_what_was_expected() {
        for (text, hint) in [
            ("a", "host:peerport"),
            (":2888", "host:peerport"),
            ("a:b:c:d:e", "host:peerport"),
            ("a:0", "1 to 65535"),
            ("a:2888:x", "port of elections"),
            ("a:2888:3888:observer", "no observers"),
            ("a:2888:3888:learner", "participant"),
            ("a:2888:3888|b:2888:3888", "several addresses"),
            ("a:2888:3888;;2281", "TLS"),
            ("a:2888;b:c:1", "clienthost:clientport"),
            ("::1:2888", "host:peerport"),
        ] {
            let error = text.parse::<ServerAddress>().unwrap_err();
            assert!(error.contains(hint), "{text}: {error}");
        }
    }
}
