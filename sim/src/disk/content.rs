//! The content of one simulated file: what reads see, and beside it what a power cut would leave of each unsynced sector.

use std::collections::BTreeMap;

use crate::rng::Stream;

/// The unit that a disk writes at once, in bytes.
pub const SECTOR_BYTES: u64 = 512;
const PAGE_BYTES: u64 = 16 * 1024;

/// Bytes in pages; what is not there reads as zeros.
#[derive(Clone, Debug, Default)]
struct Pages {
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Pages {
    fn read(&self, position: u64, len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut done = 0;
        while done < len {
            let at = position + done as u64;
            let within = (at % PAGE_BYTES) as usize;
            let count = (PAGE_BYTES as usize - within).min(len - done);
            if let Some(page) = self.pages.get(&(at / PAGE_BYTES)).filter(|page| page.len() > within) {
                let have = count.min(page.len() - within);
                out[done..done + have].copy_from_slice(&page[within..within + have]);
            }
            done += count;
        }
        out
    }

    fn write(&mut self, position: u64, bytes: &[u8]) {
        let mut done = 0;
        while done < bytes.len() {
            let at = position + done as u64;
            let within = (at % PAGE_BYTES) as usize;
            let count = (PAGE_BYTES as usize - within).min(bytes.len() - done);
            let page = self.pages.entry(at / PAGE_BYTES).or_default();
            if page.len() < within + count {
                page.resize(within + count, 0);
            }
            page[within..within + count].copy_from_slice(&bytes[done..done + count]);
            done += count;
        }
    }

    /// Everything from `position` on becomes zero.
    fn cut(&mut self, position: u64) {
        drop(self.pages.split_off(&position.div_ceil(PAGE_BYTES)));
        if let Some(page) = self.pages.get_mut(&(position / PAGE_BYTES)) {
            page.truncate((position % PAGE_BYTES) as usize);
        }
    }
}

/// A sector whose durable state differs, or may differ, from what reads see.
#[derive(Clone, Debug)]
struct Sector {
    /// What the disk holds; `None` is zeros.
    durable: Option<Box<[u8]>>,
    /// The ordinal of the last write into it.
    last_write: u64,
    /// A failed sync marked it clean: later syncs pass it over, and a power cut loses it.
    dropped: bool,
    /// Its content as of earlier writes that a sync under way covers.
    images: Vec<(u64, Box<[u8]>)>,
}

/// What a sync that was begun covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncTicket {
    ordinal: u64,
    len: u64,
}

/// How a sync ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncEnd {
    /// All that it covers is durable.
    Done,
    /// It reports an error, and the pages are clean though they never reached the disk (fsyncgate).
    Failed,
    /// The process or the machine stopped in the midst of it: any part is durable.
    Cut,
}

/// The content of a file.
#[derive(Clone, Debug, Default)]
pub struct Content {
    seen: Pages,
    len: u64,
    durable_len: u64,
    dirty: BTreeMap<u64, Sector>,
    write_ordinal: u64,
    synced_ordinal: u64,
    syncs: Vec<SyncTicket>,
    /// A cut of the length that no sync has covered: where it cut, and its ordinal. File systems commit it before anything that is
    /// written beyond it after, so a power cut either undoes all of that, or none of the old bytes come back.
    cut: Option<(u64, u64)>,
    /// Counts what changed or took away bytes that were there.
    rewrite_count: u64,
}

impl Content {
    /// Counts what changed or took away bytes that were there: while it stays the same, the content only grows.
    pub fn rewrite_count(&self) -> u64 {
        self.rewrite_count
    }

    /// The length that reads see.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The length that surely survives a power cut, unless the file was cut after.
    pub fn durable_len(&self) -> u64 {
        self.durable_len
    }

    /// Whether anything unsynced is left.
    pub fn is_dirty(&self) -> bool {
        self.len != self.durable_len || !self.dirty.is_empty()
    }

    /// Up to `len` bytes from `position`.
    pub fn read(&self, position: u64, len: usize) -> Vec<u8> {
        let have = self.len.saturating_sub(position).min(len as u64);
        self.seen.read(position, have as usize)
    }

    fn touch(&mut self, from: u64, to: u64) {
        self.write_ordinal += 1;
        if from >= to {
            return;
        }
        for index in from / SECTOR_BYTES..to.div_ceil(SECTOR_BYTES) {
            let start = index * SECTOR_BYTES;
            match self.dirty.get_mut(&index) {
                Some(sector) => {
                    let covered = self.syncs.iter().any(|sync| sync.ordinal >= sector.last_write);
                    if covered && !sector.dropped {
                        sector.images.push((sector.last_write, self.seen.read(start, SECTOR_BYTES as usize).into()));
                    }
                    sector.last_write = self.write_ordinal;
                    sector.dropped = false;
                }
                None => {
                    let durable = (start < self.len).then(|| self.seen.read(start, SECTOR_BYTES as usize).into());
                    self.dirty.insert(index, Sector { durable, last_write: self.write_ordinal, dropped: false, images: Vec::new() });
                }
            }
        }
    }

    /// Writes, growing the file as needed.
    pub fn write(&mut self, position: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let end = position + bytes.len() as u64;
        self.rewrite_count += u64::from(position < self.len);
        self.touch(position, end);
        self.seen.write(position, bytes);
        self.len = self.len.max(end);
    }

    /// Cuts the file, or extends it with zeros.
    pub fn set_len(&mut self, len: u64) {
        self.touch(len, self.len);
        if len < self.len {
            self.rewrite_count += 1;
            self.seen.cut(len);
            let at = self.cut.map_or(len, |(at, _)| at.min(len));
            self.cut = Some((at, self.write_ordinal));
        }
        self.len = len;
    }

    /// A sync begins: it covers what was written until now.
    pub fn begin_sync(&mut self) -> SyncTicket {
        let ticket = SyncTicket { ordinal: self.write_ordinal, len: self.len };
        self.syncs.push(ticket);
        ticket
    }

    /// The sync `ticket` ends.
    pub fn end_sync(&mut self, ticket: SyncTicket, end: SyncEnd, stream: &mut Stream) {
        if let Some(at) = self.syncs.iter().position(|sync| *sync == ticket) {
            self.syncs.remove(at);
        }
        if ticket.ordinal < self.synced_ordinal {
            return;
        }
        let end = match (end, self.cut) {
            // A sync with a cut in it is one transaction.
            (SyncEnd::Cut, Some(_)) if stream.chance(500_000) => SyncEnd::Done,
            (SyncEnd::Cut, Some(_)) => return,
            (end, _) => end,
        };
        if end == SyncEnd::Done && self.cut.is_some_and(|(_, ordinal)| ordinal <= ticket.ordinal) {
            self.cut = None;
        }
        self.dirty.retain(|_, sector| {
            if sector.last_write > ticket.ordinal {
                let image = sector.images.iter().rposition(|(ordinal, _)| *ordinal <= ticket.ordinal);
                if let (Some(image), SyncEnd::Done) = (image, end) {
                    sector.durable = Some(sector.images[image].1.clone());
                    sector.images.drain(..=image);
                }
                return true;
            }
            match end {
                SyncEnd::Done => sector.dropped,
                // The disk may have taken some of the sectors before the error.
                SyncEnd::Failed => {
                    let reached = !sector.dropped && stream.chance(200_000);
                    sector.dropped = true;
                    !reached
                }
                SyncEnd::Cut => sector.dropped || stream.chance(500_000),
            }
        });
        let len_too = match end {
            SyncEnd::Done => true,
            SyncEnd::Failed => false,
            SyncEnd::Cut => stream.chance(500_000),
        };
        if len_too {
            self.durable_len = ticket.len;
            self.synced_ordinal = if end == SyncEnd::Done { ticket.ordinal } else { self.synced_ordinal };
        }
    }

    /// The power goes: each unsynced sector is lost, kept, torn or, where `garbage` allows, random in the bytes that were not synced;
    /// the length is any that a file system could have committed. Synced bytes never change.
    pub fn power_cut(&mut self, stream: &mut Stream, garbage: bool) {
        self.syncs.clear();
        self.rewrite_count += 1;
        let how = stream.below(8);
        let cut = self.cut.take().map(|(at, _)| at).filter(|at| *at < self.durable_len);
        let cut_lost = cut.filter(|_| stream.chance(500_000));
        let cut_kept = cut.filter(|_| cut_lost.is_none());
        let (durable_len, len) = (cut_kept.unwrap_or(self.durable_len), self.len);
        let dirty = std::mem::take(&mut self.dirty);
        let mut kept_end = 0;
        // Sectors up to this many, in order, reach the disk in the orderly case.
        let prefix_count = stream.below(dirty.len() as u64 + 1);
        let keep_ppm = *stream.pick(&[100_000, 500_000, 900_000]);
        for (ordinal, (index, sector)) in dirty.into_iter().enumerate() {
            let start = index * SECTOR_BYTES;
            let new = self.seen.read(start, SECTOR_BYTES as usize);
            let mut old = sector.durable.as_deref().map_or_else(|| vec![0; SECTOR_BYTES as usize], <[u8]>::to_vec);
            if let Some(at) = cut_kept {
                old[at.saturating_sub(start).min(SECTOR_BYTES) as usize..].fill(0);
            }
            let fate = if sector.dropped || cut_lost.is_some_and(|at| start + SECTOR_BYTES > at) {
                Fate::Lost
            } else {
                match how {
                    0 | 1 => Fate::Lost,
                    2 => Fate::Kept,
                    3 | 4 if (ordinal as u64) < prefix_count => Fate::Kept,
                    3 | 4 if ordinal as u64 == prefix_count => Fate::draw_torn(stream, garbage),
                    3 | 4 => Fate::Lost,
                    _ if stream.chance(150_000) => Fate::draw_torn(stream, garbage),
                    _ if stream.chance(keep_ppm) => Fate::Kept,
                    _ => Fate::Lost,
                }
            };
            let mut image = match fate {
                Fate::Lost => old.clone(),
                Fate::Kept => new.clone(),
                Fate::TornLeft(at) => [&new[..at], &old[at..]].concat(),
                Fate::TornRight(at) => [&old[..at], &new[at..]].concat(),
                Fate::Garbage => new.clone(),
            };
            if fate == Fate::Garbage {
                for (at, byte) in image.iter_mut().enumerate() {
                    let random = stream.bits() as u8;
                    if old[at] != new[at] || start + at as u64 >= durable_len {
                        *byte = random;
                    }
                }
            }
            if fate != Fate::Lost {
                kept_end = kept_end.max((start + SECTOR_BYTES).min(len));
                if let Fate::TornLeft(at) = fate {
                    kept_end = kept_end.min(start + at as u64);
                }
            }
            self.seen.write(start, &image);
        }
        // The length is metadata of its own: the old one, the new one, or as far as data came.
        let survivors = [durable_len, len, kept_end.max(durable_len.min(len)).min(len)];
        let new_len = match how {
            0 | 1 if stream.chance(800_000) => durable_len,
            2 => len,
            3 | 4 => *stream.pick(&[survivors[2], survivors[2], survivors[2], len]),
            _ => *stream.pick(&survivors),
        };
        let new_len = if cut_lost.is_some() { durable_len } else { new_len };
        // A file that only grew never ends up shorter than was synced.
        let new_len = if len >= durable_len { new_len.max(durable_len) } else { new_len };
        self.seen.cut(new_len);
        self.len = new_len;
        self.durable_len = new_len;
        self.synced_ordinal = self.write_ordinal;
    }

    /// Forgets syncs under way: their process is gone.
    pub fn forget_syncs(&mut self) {
        self.syncs.clear();
    }

    /// Flips one bit at rest. False if the file ends before.
    pub fn flip_bit(&mut self, position: u64, bit: u8) -> bool {
        if position >= self.len {
            return false;
        }
        self.rewrite_count += 1;
        let flipped = self.seen.read(position, 1)[0] ^ (1 << (bit % 8));
        self.seen.write(position, &[flipped]);
        if let Some(durable) = self.dirty.get_mut(&(position / SECTOR_BYTES)).and_then(|sector| sector.durable.as_mut()) {
            durable[(position % SECTOR_BYTES) as usize] ^= 1 << (bit % 8);
        }
        true
    }
}

/// Of a sector that is torn within, at least so many bytes are old and so many are new. Drives promise whole sectors, so any tear within is more than
/// must be borne; one that leaves next to nothing old cannot be told from rot by what is left (it puts a partition offline, and loses nothing).
const TORN_EDGE_BYTES: u64 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Lost,
    Kept,
    TornLeft(usize),
    TornRight(usize),
    Garbage,
}

impl Fate {
    fn draw_torn(stream: &mut Stream, garbage: bool) -> Self {
        let at = stream.between(TORN_EDGE_BYTES, SECTOR_BYTES - TORN_EDGE_BYTES) as usize;
        match stream.below(5) {
            0 | 1 => Self::TornLeft(at),
            2 | 3 => Self::TornRight(at),
            _ if garbage => Self::Garbage,
            _ => Self::Lost,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(seed: u64) -> Stream {
        Stream::new(seed, "content", 0)
    }

    #[test]
    fn synced_bytes_survive_every_cut_and_unsynced_ones_take_every_fate() {
        let (mut lost, mut kept, mut torn, mut zeros) = (0, 0, 0, 0);
        for seed in 0..2_000 {
            let mut draws = stream(seed);
            let mut content = Content::default();
            content.write(0, &[1; 700]);
            let ticket = content.begin_sync();
            content.end_sync(ticket, SyncEnd::Done, &mut draws);
            content.write(700, &[2; 1_400]);
            content.power_cut(&mut draws, true);
            assert_eq!(content.read(0, 700), [1; 700], "seed {seed}");
            assert!((700..=2_100).contains(&content.len()), "seed {seed}: {}", content.len());
            let tail = content.read(700, 1_400);
            match tail.as_slice() {
                [] => lost += 1,
                tail if tail.len() == 1_400 && tail.iter().all(|byte| *byte == 2) => kept += 1,
                tail if tail.iter().all(|byte| *byte == 0) => zeros += 1,
                _ => torn += 1,
            }
        }
        assert!(lost > 100 && kept > 100 && torn > 100 && zeros > 10, "{lost} {kept} {torn} {zeros}");
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        for seed in 0..500 {
            let mut draws = stream(seed);
            let mut content = Content::default();
            content.write(0, b"before");
            let first = content.begin_sync();
            content.write(6, b"during");
            let second = content.begin_sync();
            content.write(12, b"after");
            match seed % 3 {
                0 => content.end_sync(first, SyncEnd::Done, &mut draws),
                1 => content.end_sync(second, SyncEnd::Done, &mut draws),
                _ => {
                    content.end_sync(second, SyncEnd::Done, &mut draws);
                    content.end_sync(first, SyncEnd::Done, &mut draws);
                }
            }
            content.power_cut(&mut draws, true);
            let promised: &[u8] = if seed % 3 == 0 { b"before" } else { b"beforeduring" };
            assert_eq!(content.read(0, promised.len()), promised, "seed {seed}");
        }
    }

    #[test]
    fn after_a_failed_sync_a_later_success_proves_nothing() {
        let mut gone = 0;
        for seed in 0..300 {
            let mut draws = stream(seed);
            let mut content = Content::default();
            content.write(0, &[7; 512]);
            let failed = content.begin_sync();
            content.end_sync(failed, SyncEnd::Failed, &mut draws);
            assert_eq!(content.read(0, 512), [7; 512], "the page cache still shows it");
            let fine = content.begin_sync();
            content.end_sync(fine, SyncEnd::Done, &mut draws);
            content.power_cut(&mut draws, false);
            gone += u32::from(content.read(0, 512) != [7; 512]);
        }
        assert!(gone > 150, "{gone}");
    }

    #[test]
    fn an_unsynced_cut_of_the_length_may_come_back_with_its_bytes() {
        let mut outcomes = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut draws = stream(seed);
            let mut content = Content::default();
            content.write(0, &[3; 2_000]);
            let ticket = content.begin_sync();
            content.end_sync(ticket, SyncEnd::Done, &mut draws);
            content.set_len(100);
            content.power_cut(&mut draws, true);
            assert_eq!(content.read(0, 100), [3; 100]);
            outcomes.insert(content.len());
            content.set_len(50);
            content.write(60, &[9]);
            assert_eq!(content.read(50, 11), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], "a gap reads as zeros");
        }
        assert!(outcomes.contains(&100) && outcomes.contains(&2_000), "{outcomes:?}");
    }

    #[test]
    fn a_flipped_bit_is_in_the_durable_state_too() {
        let mut draws = stream(1);
        let mut content = Content::default();
        content.write(0, &[0; 1_000]);
        let ticket = content.begin_sync();
        content.end_sync(ticket, SyncEnd::Done, &mut draws);
        assert!(content.flip_bit(600, 3));
        assert!(!content.flip_bit(1_000, 3));
        content.power_cut(&mut draws, true);
        assert_eq!(content.read(600, 1), [8]);
    }
}
