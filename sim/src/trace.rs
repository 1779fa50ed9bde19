//! The trace: every event of a run with its simulated time and ordinal. Always hashed; the last events are kept as text for failure
//! reports; written out whole on demand, so that two runs of one seed can be compared byte for byte. No addresses, no real time, no
//! order of a hash map ever enters it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use smallvec::SmallVec;

/// One event.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Simulated time in nanoseconds since the start of the run.
    pub at_ns: u64,
    /// The number of the event, from 0.
    pub ordinal: u64,
    /// Where it happened; `None` for the world itself.
    pub process: Option<(Arc<str>, u32)>,
    /// What happened.
    pub what: &'static str,
    /// Its numbers.
    pub values: SmallVec<[u64; 4]>,
    /// A name or path that belongs to it.
    pub note: Option<Arc<str>>,
}

impl std::fmt::Display for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>6}.{:09} {:>8} ", self.at_ns / 1_000_000_000, self.at_ns % 1_000_000_000, self.ordinal)?;
        match &self.process {
            Some((host, incarnation)) => write!(f, "{host}#{incarnation} {}", self.what)?,
            None => write!(f, "- {}", self.what)?,
        }
        if let Some(note) = &self.note {
            write!(f, " {note}")?;
        }
        for value in &self.values {
            write!(f, " {value}")?;
        }
        Ok(())
    }
}

/// Collects the events of one run.
pub struct Trace {
    hash: u64,
    ordinal: u64,
    tail: VecDeque<Entry>,
    tail_max_count: usize,
    file: Option<Box<dyn std::io::Write + Send>>,
    line: String,
}

impl Trace {
    /// A trace that keeps the last `tail_max_count` events, and writes all of them to `file` if one is named.
    ///
    /// # Errors
    /// If the file cannot be made.
    #[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the trace goes to the machine that runs the simulation, not into it")]
    pub fn new(tail_max_count: usize, file: Option<&Path>) -> std::io::Result<Self> {
        let file = file.map(std::fs::File::create).transpose()?;
        let file = file.map(|file| Box::new(std::io::BufWriter::with_capacity(1 << 18, file)) as Box<dyn std::io::Write + Send>);
        Ok(Self { hash: 0xcbf2_9ce4_8422_2325, ordinal: 0, tail: VecDeque::new(), tail_max_count, file, line: String::new() })
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    fn mix_text(&mut self, text: &str) {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
        self.mix(text.len() as u64);
    }

    /// Adds an event.
    pub fn add(&mut self, at_ns: u64, process: Option<(&Arc<str>, u32)>, what: &'static str, values: &[u64], note: Option<&Arc<str>>) {
        self.mix(at_ns);
        if let Some((host, incarnation)) = process {
            self.mix_text(host);
            self.mix(u64::from(incarnation));
        }
        self.mix_text(what);
        for value in values {
            self.mix(*value);
        }
        if let Some(note) = note {
            self.mix_text(note);
        }
        let entry = Entry {
            at_ns,
            ordinal: self.ordinal,
            process: process.map(|(host, incarnation)| (host.clone(), incarnation)),
            what,
            values: SmallVec::from_slice(values),
            note: note.cloned(),
        };
        self.ordinal += 1;
        if let Some(file) = &mut self.file {
            self.line.clear();
            let _ = writeln!(self.line, "{entry}");
            file.write_all(self.line.as_bytes()).expect("the trace file takes no more; make room or name another");
        }
        if self.tail.len() == self.tail_max_count {
            self.tail.pop_front();
        }
        if self.tail_max_count > 0 {
            self.tail.push_back(entry);
        }
    }

    /// The hash of all events so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub fn count(&self) -> u64 {
        self.ordinal
    }

    /// The last events, oldest first.
    pub fn tail(&self) -> impl Iterator<Item = &Entry> {
        self.tail.iter()
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// Those of the file.
    pub fn flush(&mut self) -> std::io::Result<()> {
        self.file.as_mut().map_or(Ok(()), |file| file.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_every_part_and_the_tail_is_bounded() {
        let host: Arc<str> = "a".into();
        let hash = |at, process, what, values: &[u64], note: Option<&Arc<str>>| {
            let mut trace = Trace::new(2, None).unwrap();
            trace.add(at, process, what, values, note);
            trace.hash()
        };
        let base = hash(1, Some((&host, 1)), "x", &[1], None);
        assert_eq!(base, hash(1, Some((&host, 1)), "x", &[1], None));
        for other in [
            hash(2, Some((&host, 1)), "x", &[1], None),
            hash(1, Some((&host, 2)), "x", &[1], None),
            hash(1, None, "x", &[1], None),
            hash(1, Some((&host, 1)), "y", &[1], None),
            hash(1, Some((&host, 1)), "x", &[2], None),
            hash(1, Some((&host, 1)), "x", &[1], Some(&host)),
        ] {
            assert_ne!(base, other);
        }
        let mut trace = Trace::new(2, None).unwrap();
        for at in 0..5 {
            trace.add(at, None, "x", &[at], None);
        }
        assert_eq!(trace.tail().map(|entry| entry.ordinal).collect::<Vec<_>>(), [3, 4]);
        assert_eq!(trace.tail().next().unwrap().to_string(), "     0.000000003        3 - x 3");
    }
}
