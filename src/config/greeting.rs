//! What a broker says when it is ready: where it listens, where its data is, and how to send a first message.

use crate::config::{BrokerConfig, Listener};

impl BrokerConfig {
    /// A few lines for whoever has started the broker. `bound`: the listeners as they were bound, with the ports that were drawn.
    pub fn greeting(&self, bound: &[Listener]) -> String {
        let addresses: Vec<String> = bound
            .iter()
            .map(|listener| match listener.is_wildcard() {
                true => format!("every interface, port {}", listener.port),
                false => listener.host_port().to_string(),
            })
            .collect();
        let dirs: Vec<String> = self.log_dirs.iter().map(|dir| dir.display().to_string()).collect();
        let durability = match self.topic_defaults.flush_messages {
            1 => "acknowledged records are on disk",
            _ => "acknowledged records may be in memory only (log.flush.interval.messages)",
        };
        let bootstrap = match bound.first() {
            None => String::new(),
            Some(first) if (first.is_wildcard() || first.host == "localhost") && first.port == 9092 => String::new(),
            Some(first) if first.is_wildcard() => format!(" -b localhost:{}", first.port),
            Some(first) => format!(" -b {}", first.host_port()),
        };
        format!(
            "Ottla {version}: broker {id} listens on {addresses}
Data in {dirs}; {durability}.
A first message:   echo hello | ottla produce greetings{bootstrap}
and to read it:    ottla consume greetings --from-beginning{bootstrap}
Ctrl-C stops the broker.",
            version = env!("CARGO_PKG_VERSION"),
            id = self.broker_id,
            addresses = addresses.join(" and "),
            dirs = dirs.join(", "),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_that_it_shows_name_the_port() {
        let config = BrokerConfig::default();
        let usual = config.greeting(&["PLAINTEXT://localhost:9092".parse().unwrap()]);
        assert!(usual.contains("ottla produce greetings\n") && usual.contains("localhost:9092") && usual.contains("ottla-data"), "{usual}");
        let other = config.greeting(&["PLAINTEXT://:4711".parse().unwrap()]);
        assert!(other.contains("ottla produce greetings -b localhost:4711\n") && other.contains("every interface, port 4711"), "{other}");
    }
}
