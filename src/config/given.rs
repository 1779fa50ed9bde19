//! What was given, and where: the lines of a file and `-o key=value` options, and problems that name their place.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::config::{foreign, properties};
use crate::runtime::{Disk, File, Open, Runtime};

/// The largest configuration file that is read, in bytes: what is larger is none.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    File { name: String, line: usize },
    Option,
    Together,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File { name, line } => write!(f, "{name}:{line}: "),
            Place::Option => f.write_str("-o "),
            Place::Together => Ok(()),
        }
    }
}

/// One thing that is wrong in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    place: Place,
    /// The key; empty where a line has none.
    pub key: String,
    /// Its value.
    pub value: String,
    /// What was expected, or why it is refused and what to do instead.
    pub what: String,
}

impl Problem {
    /// One of several values together, none of which was given.
    pub(super) fn together(what: impl Into<String>) -> Self {
        Self { place: Place::Together, key: String::new(), value: String::new(), what: what.into() }
    }

    /// The line in the file, from 1; `None` for a `-o` option.
    pub fn line(&self) -> Option<usize> {
        match self.place {
            Place::File { line, .. } => Some(line),
            Place::Option | Place::Together => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}={}: ", self.key, self.value)?;
        }
        f.write_str(&self.what)
    }
}

/// Everything that is wrong in a configuration, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => write!(f, "the configuration has an error:")?,
            count => write!(f, "the configuration has {count} errors:")?,
        }
        self.problems.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Why a configuration file was not loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {}: {source}; give the path of a file such as config/server.properties, or none for the defaults", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A value that was given.
pub(super) struct Given {
    pub(super) place: Place,
    pub(super) text: String,
}

impl Given {
    /// What is wrong with it.
    pub(super) fn problem(&self, key: &str, what: impl Into<String>) -> Problem {
        let value = if foreign::is_secret(key) { "[hidden]".to_owned() } else { self.text.clone() };
        Problem { place: self.place.clone(), key: key.to_owned(), value, what: what.into() }
    }
}

/// All that was given, by key; problems of syntax; notes on duplicates.
pub(super) struct Collected {
    pub(super) given: BTreeMap<String, Given>,
    pub(super) problems: Vec<Problem>,
    pub(super) notes: Vec<String>,
}

/// Reads `text`, the content of the file `file_name`, and `options`, each `key=value`, which beat it.
pub(super) fn collect(file_name: &str, text: &str, options: &[String]) -> Collected {
    let mut all = Collected { given: BTreeMap::new(), problems: Vec::new(), notes: Vec::new() };
    let (entries, errors) = properties::parse(text);
    for error in errors {
        let place = Place::File { name: file_name.to_owned(), line: error.line };
        all.problems.push(Problem { place, key: String::new(), value: String::new(), what: error.what });
    }
    for entry in entries {
        all.give(Place::File { name: file_name.to_owned(), line: entry.line }, entry.key, entry.value);
    }
    for option in options {
        match option.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => all.give(Place::Option, key.trim().to_owned(), value.trim().to_owned()),
            _ => {
                let what = format!("'{option}' is not key=value");
                all.problems.push(Problem { place: Place::Option, key: String::new(), value: String::new(), what });
            }
        }
    }
    all
}

impl Collected {
    /// Later values beat earlier ones, as in Java; twice in one file is most likely a mistake and worth a word.
    fn give(&mut self, place: Place, key: String, text: String) {
        if let (Some(Given { place: Place::File { line: first, .. }, .. }), Place::File { name, line }) = (self.given.get(&key), &place) {
            self.notes.push(format!("{name}:{line}: {key} was set on line {first} already; the value here, '{text}', counts"));
        }
        self.given.insert(key, Given { place, text });
    }
}

/// The text of a configuration file.
///
/// # Errors
/// [`LoadError::Read`].
pub(super) async fn read_file<R: Runtime>(runtime: &R, path: &Path) -> Result<String, LoadError> {
    let read = async {
        let file = runtime.disk().open(path, Open::Read).await?;
        let len = file.len().await?;
        if len > MAX_FILE_BYTES {
            return Err(io::Error::other(format!("it has {len} bytes, and a configuration has at most {MAX_FILE_BYTES}")));
        }
        let bytes = file.read_at(0, len as usize).await?;
        String::from_utf8(bytes.to_vec()).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not UTF-8 text"))
    };
    read.await.map_err(|source| LoadError::Read { path: path.to_owned(), source })
}
