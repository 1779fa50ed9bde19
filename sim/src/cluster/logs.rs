//! What the replicas' logs hold, read from the simulated disks as they are: batch by batch, below the high watermarks, what is in the page cache and what is
//! durable.

use std::collections::BTreeMap;
use std::path::Path;

use super::plan::DATA_DIR;
use crate::clients::history::Place;
use crate::disk::model::InodeId;
use crate::world::Host;

/// A batch as a log has it: what must be the same on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The offset after its last record.
    pub next_offset: i64,
    /// The leader epoch that wrote it.
    pub epoch: i32,
    /// Its checksum, as stored.
    pub crc: u32,
}

/// The batches of one log by their base offsets.
pub type Batches = BTreeMap<i64, Batch>;

/// One segment, as far as it was read.
#[derive(Clone, Debug, Default)]
struct Segment {
    inode: InodeId,
    rewrite_count: u64,
    /// Up to where whole batches were found.
    position: u64,
    batches: Batches,
    /// Where each batch ends in the file, to tell which are durable.
    ends: BTreeMap<i64, u64>,
    durable_len: u64,
    /// How long the file was when it was last read.
    seen_bytes: u64,
    /// The last look that found it.
    look: u64,
}

/// The log of one partition.
#[derive(Debug)]
struct PartitionLog {
    segments: BTreeMap<String, Segment>,
    /// The last look that found it.
    look: u64,
}

/// The logs of one broker; what was read once is not read again.
#[derive(Debug, Default)]
pub struct Disk {
    /// By the names of their directories.
    logs: BTreeMap<String, PartitionLog>,
    look: u64,
}

/// Bytes of a batch's header up to its last offset delta, and of what its length does not count.
const HEAD_BYTES: usize = 27;
const LENGTH_FROM: u64 = 12;

/// The directory of a partition, as Kafka names it.
fn dir_of(place: &Place) -> String {
    format!("{}-{}", place.0, place.1)
}

impl Disk {
    /// Reads what is new on the disk of `host`.
    pub fn refresh(&mut self, host: &Host) {
        self.look += 1;
        let look = self.look;
        host.disk(|disk| {
            disk.model.each_file_below(Path::new(DATA_DIR), &mut |dir, name, inode, content| {
                if !is_segment(dir, name) {
                    return;
                }
                if !self.logs.contains_key(dir) {
                    self.logs.insert(dir.to_owned(), PartitionLog { segments: BTreeMap::new(), look });
                }
                let log = self.logs.get_mut(dir).expect("it was just made, if it was not there");
                log.look = look;
                let is_known = log.segments.get(name).is_some_and(|known| (known.inode, known.rewrite_count) == (inode, content.rewrite_count()));
                if !is_known {
                    log.segments.insert(name.to_owned(), Segment { inode, rewrite_count: content.rewrite_count(), ..Segment::default() });
                }
                let segment = log.segments.get_mut(name).expect("it was just made, if it was not there");
                segment.look = look;
                segment.durable_len = content.durable_len();
                if segment.seen_bytes != content.len() {
                    segment.seen_bytes = content.len();
                    segment.read(&content.read(segment.position, (content.len() - segment.position) as usize));
                }
            });
        });
        self.logs.retain(|_, log| log.look == look);
        for log in self.logs.values_mut() {
            log.segments.retain(|_, segment| segment.look == look);
        }
    }

    fn segments(&self, place: &Place) -> impl DoubleEndedIterator<Item = &Segment> {
        self.logs.get(&dir_of(place)).into_iter().flat_map(|log| log.segments.values())
    }

    /// The batches of a partition from `from` on, in order.
    pub fn batches(&self, place: &Place, from: i64) -> impl Iterator<Item = (i64, Batch)> {
        self.segments(place).flat_map(move |segment| {
            // One that begins earlier may reach beyond it.
            let first = segment.batches.range(..=from).next_back().map_or(from, |(base, _)| *base);
            segment.batches.range(first..).map(|(base, batch)| (*base, *batch)).filter(move |(_, batch)| batch.next_offset > from)
        })
    }

    /// Where the log starts and ends, as far as whole batches tell; `None` if there is none.
    pub fn range(&self, place: &Place) -> Option<(i64, i64)> {
        let first = self.segments(place).find_map(|segment| segment.batches.first_key_value()).map(|(base, _)| *base)?;
        let last = self.segments(place).rev().find_map(|segment| segment.batches.last_key_value()).map(|(_, batch)| batch.next_offset)?;
        Some((first, last))
    }

    /// Up to where everything of a partition survives a power cut for certain.
    pub fn durable_end(&self, place: &Place) -> i64 {
        let mut end = 0;
        for segment in self.segments(place) {
            // Batches lie in the file in the order of their offsets: the last one that is durable has all before it.
            let durable = segment.ends.iter().rev().find(|(_, end)| **end <= segment.durable_len).map(|(base, _)| *base);
            if let Some(base) = durable {
                end = segment.batches[&base].next_offset;
            }
            if durable != segment.ends.last_key_value().map(|(base, _)| *base) {
                break;
            }
        }
        end
    }
}

impl Segment {
    fn read(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while let Some(head) = bytes.get(at..at + HEAD_BYTES) {
            let number = |from: usize| u32::from_be_bytes(head[from..from + 4].try_into().expect("four bytes"));
            let length = u64::from(number(8)) + LENGTH_FROM;
            if length < HEAD_BYTES as u64 || ((bytes.len() - at) as u64) < length {
                break;
            }
            let base = i64::from_be_bytes(head[..8].try_into().expect("eight bytes"));
            let batch = Batch { next_offset: base + i64::from(number(23)) + 1, epoch: number(12) as i32, crc: number(17) };
            at += length as usize;
            self.batches.insert(base, batch);
            self.ends.insert(base, self.position + at as u64);
        }
        self.position += at as u64;
    }
}

/// Whether a file is a segment of a log that is not deleted.
fn is_segment(dir: &str, file: &str) -> bool {
    file.ends_with(".log") && dir.rsplit_once('-').is_some_and(|(_, partition)| partition.parse::<i32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments() {
        assert!(is_segment("a-b-3", "00000000000000000000.log"));
        assert!(!is_segment("a-3", "00000000000000000000.index"));
        assert!(!is_segment("a-3.0123456789abcdef-delete", "00000000000000000000.log"));
    }

    #[test]
    fn batches_are_read_as_they_come() {
        let batch = |base: i64, count: u32, epoch: u32, crc: u32| {
            let mut bytes = base.to_be_bytes().to_vec();
            bytes.extend(60_u32.to_be_bytes());
            bytes.extend(epoch.to_be_bytes());
            bytes.push(2);
            bytes.extend(crc.to_be_bytes());
            bytes.extend([0, 0]);
            bytes.extend((count - 1).to_be_bytes());
            bytes.resize(72, 0);
            bytes
        };
        let all = [batch(5, 3, 1, 77), batch(8, 1, 2, 78)].concat();
        let mut segment = Segment::default();
        segment.read(&all[..100]);
        assert_eq!(segment.position, 72);
        segment.read(&all[72..]);
        assert_eq!(segment.batches, BTreeMap::from([(5, Batch { next_offset: 8, epoch: 1, crc: 77 }), (8, Batch { next_offset: 9, epoch: 2, crc: 78 })]));
        segment.durable_len = 100;
        let mut disk = Disk::default();
        disk.logs.insert("a-0".to_owned(), PartitionLog { segments: BTreeMap::from([("0.log".to_owned(), segment)]), look: 0 });
        let place = ("a".to_owned(), 0);
        assert_eq!(disk.durable_end(&place), 8);
        assert_eq!(disk.range(&place), Some((5, 9)));
        assert_eq!(disk.batches(&place, 7).count(), 2);
        assert_eq!(disk.batches(&place, 8).count(), 1);
    }
}
