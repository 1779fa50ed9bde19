//! What the replicas' logs hold, read from the simulated disks as they are: batch by batch, below the high watermarks, what is in the page cache and what is
//! durable.

use std::collections::BTreeMap;

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
}

/// The logs of one broker; what was read once is not read again.
#[derive(Debug, Default)]
pub struct Disk {
    segments: BTreeMap<Place, BTreeMap<String, Segment>>,
}

/// Bytes of a batch's header up to its last offset delta, and of what its length does not count.
const HEAD_BYTES: usize = 27;
const LENGTH_FROM: u64 = 12;

impl Disk {
    /// Reads what is new on the disk of `host`.
    pub fn refresh(&mut self, host: &Host) {
        let mut before = std::mem::take(&mut self.segments);
        host.disk(|disk| {
            disk.model.each_file(&mut |path, inode, content| {
                let Some((place, name)) = place_of(path) else { return };
                let known = before.get_mut(&place).and_then(|segments| segments.remove(name));
                let mut segment = known.filter(|known| (known.inode, known.rewrite_count) == (inode, content.rewrite_count())).unwrap_or_else(|| Segment {
                    inode,
                    rewrite_count: content.rewrite_count(),
                    ..Segment::default()
                });
                segment.durable_len = content.durable_len();
                if segment.position < content.len() {
                    segment.read(&content.read(segment.position, (content.len() - segment.position) as usize));
                }
                self.segments.entry(place).or_default().insert(name.to_owned(), segment);
            });
        });
    }

    /// The partitions that there is a log of.
    pub fn places(&self) -> impl Iterator<Item = &Place> {
        self.segments.keys()
    }

    /// The batches of a partition from `from` on, in order.
    pub fn batches(&self, place: &Place, from: i64) -> impl Iterator<Item = (i64, Batch)> {
        let segments = self.segments.get(place).into_iter().flat_map(BTreeMap::values);
        segments.flat_map(move |segment| {
            // One that begins earlier may reach beyond it.
            let first = segment.batches.range(..=from).next_back().map_or(from, |(base, _)| *base);
            segment.batches.range(first..).map(|(base, batch)| (*base, *batch)).filter(move |(_, batch)| batch.next_offset > from)
        })
    }

    /// Where the log starts and ends, as far as whole batches tell; `None` if there is none.
    pub fn range(&self, place: &Place) -> Option<(i64, i64)> {
        let segments = self.segments.get(place)?;
        let first = segments.values().find_map(|segment| segment.batches.first_key_value()).map(|(base, _)| *base)?;
        let last = segments.values().rev().find_map(|segment| segment.batches.last_key_value()).map(|(_, batch)| batch.next_offset)?;
        Some((first, last))
    }

    /// Up to where everything of a partition survives a power cut for certain.
    pub fn durable_end(&self, place: &Place) -> i64 {
        let mut end = 0;
        for segment in self.segments.get(place).into_iter().flat_map(BTreeMap::values) {
            for (base, batch) in &segment.batches {
                if segment.ends[base] > segment.durable_len {
                    return end;
                }
                end = batch.next_offset;
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

/// The partition and the file's name, if it is a segment of a log that is not deleted.
fn place_of(path: &str) -> Option<(Place, &str)> {
    let (dir, file) = path.strip_prefix(DATA_DIR)?.strip_prefix('/')?.split_once('/')?;
    let (topic, partition) = dir.rsplit_once('-')?;
    let partition = partition.parse().ok()?;
    file.ends_with(".log").then(|| ((topic.to_owned(), partition), file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_segments() {
        assert_eq!(place_of("/data/a-b-3/00000000000000000000.log"), Some((("a-b".to_owned(), 3), "00000000000000000000.log")));
        assert_eq!(place_of("/data/a-3/00000000000000000000.index"), None);
        assert_eq!(place_of("/data/a-3.0123456789abcdef-delete/00000000000000000000.log"), None);
        assert_eq!(place_of("/data/meta.properties"), None);
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
        disk.segments.entry(("a".to_owned(), 0)).or_default().insert("0.log".to_owned(), segment);
        let place = ("a".to_owned(), 0);
        assert_eq!(disk.durable_end(&place), 8);
        assert_eq!(disk.range(&place), Some((5, 9)));
        assert_eq!(disk.batches(&place, 7).count(), 2);
        assert_eq!(disk.batches(&place, 8).count(), 1);
    }
}
