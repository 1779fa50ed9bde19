//! Kafka's text checkpoints, and files that are replaced as a whole: written beside the old one, synced, renamed over it, and the
//! directory synced. After a crash there is the old content or the new.
//!
//! ```text
//! 0            version
//! 2            entries
//! topic 0 17   one entry a line
//! topic 1 4
//! ```

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use bytes::Bytes;
use smallvec::smallvec;
use thiserror::Error;

use super::names::TEMP_SUFFIX;
use crate::runtime::{Disk, File, Open, Runtime};
use crate::topic_partition::TopicPartition;

/// No checkpoint, snapshot or properties file of ours is longer; a longer one is not read into memory.
pub const MAX_SMALL_FILE_BYTES: u64 = 256 << 20;

/// Why a text is not a checkpoint.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CheckpointError {
    /// Not UTF-8.
    #[error("the checkpoint is not text")]
    NotText,
    /// The first line is not the version that we know.
    #[error("the checkpoint's first line is '{line}'; expected version 0")]
    BadVersion {
        /// The line.
        line: String,
    },
    /// The second line is no count, or not that of the lines that follow.
    #[error("the checkpoint announces '{announced}' entries and has {found}")]
    BadCount {
        /// The line.
        announced: String,
        /// Entries that follow.
        found: usize,
    },
    /// An entry that cannot be read.
    #[error("line {line_number} of the checkpoint is '{line}', which is not an entry")]
    BadEntry {
        /// From 1.
        line_number: usize,
        /// The line.
        line: String,
    },
}

/// The text of a checkpoint with these entries.
pub fn encode(entries: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = format!("0\n{}\n", entries.len());
    for entry in entries {
        text.push_str(&entry);
        text.push('\n');
    }
    text
}

/// The entries of a checkpoint, as `parse_entry` reads each line.
fn parse<T>(text: &str, parse_entry: impl Fn(&str) -> Option<T>) -> Result<Vec<T>, CheckpointError> {
    let mut lines = text.lines();
    // Kafka makes the file empty before it first writes it.
    let Some(version) = lines.next() else { return Ok(Vec::new()) };
    if version.trim() != "0" {
        return Err(CheckpointError::BadVersion { line: version.to_owned() });
    }
    let announced = lines.next().unwrap_or("").trim();
    let entries = lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(at, line)| parse_entry(line).ok_or_else(|| CheckpointError::BadEntry { line_number: at + 3, line: line.to_owned() }))
        .collect::<Result<Vec<T>, _>>()?;
    if announced.parse() != Ok(entries.len()) {
        return Err(CheckpointError::BadCount { announced: announced.to_owned(), found: entries.len() });
    }
    Ok(entries)
}

/// Reads a checkpoint whose entries are `N` numbers.
///
/// # Errors
/// If it is not one.
pub fn parse_numbers<const N: usize>(text: &str) -> Result<Vec<[i64; N]>, CheckpointError> {
    parse(text, |line| {
        let mut words = line.split_whitespace();
        let mut numbers = [0; N];
        for number in &mut numbers {
            *number = words.next()?.parse().ok()?;
        }
        words.next().is_none().then_some(numbers)
    })
}

/// The text of a checkpoint of an offset for each partition.
pub fn encode_offsets(offsets: &BTreeMap<TopicPartition, i64>) -> String {
    encode(offsets.iter().map(|(partition, offset)| format!("{} {} {offset}", partition.topic, partition.partition)))
}

/// Reads a checkpoint of an offset for each partition.
///
/// # Errors
/// If it is not one.
pub fn parse_offsets(text: &str) -> Result<BTreeMap<TopicPartition, i64>, CheckpointError> {
    let entries = parse(text, |line| {
        let mut words = line.split_whitespace();
        let (topic, partition, offset) = (words.next()?, words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        words.next().is_none().then(|| (TopicPartition::new(topic, partition), offset))
    })?;
    Ok(entries.into_iter().collect())
}

/// Replaces the file `name` of `dir` durably; a crash leaves the old content or the new one. One writer at a time.
///
/// # Errors
/// The first that an operation gives; the old content is still there then, except that after a failed directory sync either may be.
pub async fn replace_file<R: Runtime>(rt: &R, dir: &Path, name: &str, content: Bytes) -> io::Result<()> {
    replace_file_before_dir_sync(rt, dir, name, content).await?;
    rt.disk().sync_dir(dir).await
}

/// [`replace_file`] without its last step: for several files in one directory, which the caller then syncs once.
///
/// # Errors
/// As [`replace_file`].
pub async fn replace_file_before_dir_sync<R: Runtime>(rt: &R, dir: &Path, name: &str, content: Bytes) -> io::Result<()> {
    let temporary = dir.join(format!("{name}{TEMP_SUFFIX}"));
    let file = rt.disk().open(&temporary, Open::Create).await?;
    // What an interrupted attempt left.
    if file.len().await? > content.len() as u64 {
        file.set_len(0).await?;
    }
    file.write_at(0, smallvec![content]).await?;
    file.sync_data().await?;
    rt.disk().rename(&temporary, &dir.join(name)).await
}

/// The content of a small file; `None` if it does not exist.
///
/// # Errors
/// The disk's, and `InvalidData` for a file of more than [`MAX_SMALL_FILE_BYTES`].
pub async fn read_small_file<R: Runtime>(rt: &R, path: &Path) -> io::Result<Option<Bytes>> {
    let file = match rt.disk().open(path, Open::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len().await?;
    if len > MAX_SMALL_FILE_BYTES {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{} has {len} bytes; no such file is longer than {MAX_SMALL_FILE_BYTES}", path.display()),
        ));
    }
    file.read_at(0, len as usize).await.map(Some)
}

/// Reads a checkpoint of an offset for each partition from a file; empty if there is none.
///
/// # Errors
/// The disk's, and `InvalidData` naming the file if it is damaged.
pub async fn read_offsets<R: Runtime>(rt: &R, path: &Path) -> io::Result<BTreeMap<TopicPartition, i64>> {
    let Some(content) = read_small_file(rt, path).await? else { return Ok(BTreeMap::new()) };
    let text = std::str::from_utf8(&content).map_err(|_| CheckpointError::NotText);
    text.and_then(parse_offsets).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {error}", path.display())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_format_is_kafkas() {
        let offsets = BTreeMap::from([(TopicPartition::new("b", 1), 4), (TopicPartition::new("a", 0), 17)]);
        assert_eq!(encode_offsets(&offsets), "0\n2\na 0 17\nb 1 4\n");
        assert_eq!(parse_offsets("0\n1\nt  3\t9\n").unwrap(), BTreeMap::from([(TopicPartition::new("t", 3), 9)]));
        assert_eq!(parse_offsets("").unwrap(), BTreeMap::new());
    }

    #[test]
    fn damage_is_named() {
        assert!(matches!(parse_offsets("1\n0\n"), Err(CheckpointError::BadVersion { .. })));
        assert!(matches!(parse_offsets("0\n2\na 0 1\n"), Err(CheckpointError::BadCount { found: 1, .. })));
        assert!(matches!(parse_offsets("0\n1\na 0 1 2\n"), Err(CheckpointError::BadEntry { line_number: 3, .. })));
        assert!(matches!(parse_offsets("0\n1\na zero 1\n"), Err(CheckpointError::BadEntry { .. })));
        assert!(matches!(parse_offsets("0"), Err(CheckpointError::BadCount { .. })));
    }

    proptest! {
        #[test]
        fn offsets_round_trip(entries in proptest::collection::btree_map(("[a-z._-]{1,9}", 0i32..100), any::<i64>(), 0..20)) {
            let offsets = entries.into_iter().map(|((topic, partition), offset)| (TopicPartition::new(topic, partition), offset)).collect();
            prop_assert_eq!(parse_offsets(&encode_offsets(&offsets)).unwrap(), offsets);
        }

        #[test]
        fn any_text_is_an_answer(text in "[ -~\n0]{0,80}") {
            let _ = parse_offsets(&text);
        }
    }
}
