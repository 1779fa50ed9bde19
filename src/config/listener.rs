//! Listeners: `NAME://host:port`.

use std::fmt;
use std::str::FromStr;

use crate::runtime::HostPort;

/// One listener, to bind or to advertise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Its name in upper case, which `listener.security.protocol.map` maps to a protocol; `PLAINTEXT` maps to itself.
    pub name: String,
    /// The name or address. To bind: empty means all interfaces. To advertise: empty means this host's name, which the broker fills in.
    pub host: String,
    /// The port. To bind: 0 draws a free one. To advertise: 0 means the one that was drawn.
    pub port: u16,
}

impl Listener {
    /// Host and port.
    pub fn host_port(&self) -> HostPort {
        HostPort { host: self.host.clone(), port: self.port }
    }

    /// Whether it binds every interface.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host.as_str(), "" | "0.0.0.0" | "::")
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.name, self.host_port())
    }
}

impl FromStr for Listener {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("NAME://host:port such as PLAINTEXT://localhost:9092, not '{text}'");
        let (name, address) = text.split_once("://").ok_or_else(expected)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(expected)?;
        let port = port.parse().map_err(|_| format!("a port from 0 to 65535 at the end of '{text}'"))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.')) {
            return Err(expected());
        }
        if host.contains(['/', ' ', '[', ']']) || (bracketed.is_none() && host.contains(':')) {
            return Err(format!("{} (an IPv6 address goes in brackets)", expected()));
        }
        Ok(Self { name: name.to_ascii_uppercase(), host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read_and_written() {
        for (text, name, host, port) in [
            ("PLAINTEXT://localhost:9092", "PLAINTEXT", "localhost", 9092),
            ("PLAINTEXT://:9092", "PLAINTEXT", "", 9092),
            ("INTERNAL://[::1]:0", "INTERNAL", "::1", 0),
        ] {
            let listener: Listener = text.parse().unwrap();
            assert_eq!(listener, Listener { name: name.to_owned(), host: host.to_owned(), port });
            assert_eq!(listener.to_string(), text);
        }
        assert_eq!("plaintext://a:1".parse::<Listener>().unwrap().name, "PLAINTEXT");
    }

    #[test]
    fn what_is_no_listener_says_what_was_expected() {
        for text in ["localhost:9092", "PLAINTEXT://localhost", "PLAINTEXT://h:99999", "://h:1", "PLAIN TEXT://h:1", "PLAINTEXT://::1:9092", "A://b/c:1"] {
            assert!(text.parse::<Listener>().is_err(), "{text}");
        }
    }
}
