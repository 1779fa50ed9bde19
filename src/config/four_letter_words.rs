//! ZooKeeper's four-letter words: which there are, and which of them are answered.

use std::collections::BTreeSet;
use std::str::FromStr;

use crate::config::definition::{ConfigValue, Kind};

macro_rules! words {
    ($($(#[$meta:meta])* $variant:ident = $word:literal,)+) => {
        /// A four-letter word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Word { $($(#[$meta])* $variant,)+ }

        impl Word {
            /// All of them, in the order of their texts.
            const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word as it is sent.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words! {
    /// How the member is configured.
    Conf = "conf",
    /// Its connections in detail.
    Cons = "cons",
    /// Forgets what is counted of each connection.
    Crst = "crst",
    /// How many bytes its log and its snapshots take.
    Dirs = "dirs",
    /// Its sessions and their ephemeral znodes.
    Dump = "dump",
    /// Where it runs.
    Envi = "envi",
    /// What is traced: nothing, here.
    Gtmk = "gtmk",
    /// Whether it serves reads only.
    Isro = "isro",
    /// What is counted, for monitoring.
    Mntr = "mntr",
    /// Whether it runs.
    Ruok = "ruok",
    /// Forgets what is counted of the member.
    Srst = "srst",
    /// What is counted of the member.
    Srvr = "srvr",
    /// That, and its connections.
    Stat = "stat",
    /// Sets what is traced, by eight more bytes: nothing, here.
    Stmk = "stmk",
    /// Watches by session.
    Wchc = "wchc",
    /// Watches by path.
    Wchp = "wchp",
    /// How many watches there are.
    Wchs = "wchs",
}

impl Word {
    /// The word that these bytes are.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Self::ALL.iter().copied().find(|word| word.text().as_bytes() == bytes)
    }
}

/// The words that are answered (`4lw.commands.whitelist`): those that are named, `*` for all, and `srvr` always, as ZooKeeper has it: its zkServer.sh asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whitelist(BTreeSet<Word>);

impl Default for Whitelist {
    fn default() -> Self {
        Self(BTreeSet::from([Word::Srvr]))
    }
}

impl FromStr for Whitelist {
    type Err = String;

    /// Reads words separated by commas.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = BTreeSet::new();
        for text in text.split(',').map(str::trim).filter(|text| !text.is_empty()) {
            match Word::ALL.iter().find(|word| word.text() == text) {
                Some(word) => drop(words.insert(*word)),
                None if text == "*" => words.extend(Word::ALL),
                None => return Err(format!("words separated by commas, of {}, or *", Word::ALL.iter().map(|word| word.text()).collect::<Vec<_>>().join(" "))),
            }
        }
        Ok(Self(words))
    }
}

impl Whitelist {
    /// Whether the word is answered.
    pub fn allows(&self, word: Word) -> bool {
        word == Word::Srvr || self.0.contains(&word)
    }
}

impl ConfigValue for Whitelist {
    const KIND: Kind = Kind::List;
    fn parse(text: &str) -> Result<Self, String> {
        text.parse()
    }
    fn print(&self) -> Option<String> {
        Some(self.0.iter().map(|word| word.text()).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_names_words_or_all_of_them() {
        let list: Whitelist = "ruok, srvr,mntr".parse().unwrap();
        assert!(list.allows(Word::Ruok) && list.allows(Word::Srvr) && !list.allows(Word::Stat));
        assert_eq!(list.print().as_deref(), Some("mntr,ruok,srvr"));
        assert!(Word::ALL.iter().all(|word| "*".parse::<Whitelist>().unwrap().allows(*word)));
        let list: Whitelist = "stat".parse().unwrap();
        assert!(list.allows(Word::Stat) && list.allows(Word::Srvr) && !list.allows(Word::Ruok), "srvr is answered always");
        assert!("ruok,rouk".parse::<Whitelist>().unwrap_err().contains("wchs"));
        assert_eq!(Word::from_bytes(b"ruok"), Some(Word::Ruok));
        assert_eq!(Word::from_bytes(&[0, 0, 0, 45]), None);
    }
}
