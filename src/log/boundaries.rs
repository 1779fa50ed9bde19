//! Where batches begin, from memory: the newest of the active segment, and where earlier reads ended. A consumer that keeps up, or that
//! reads on where it stopped, is served without looking into the file. Pure.

use std::collections::VecDeque;

/// Newest batch boundaries that are kept.
const RECENT_MAX: usize = 256;
/// Ends of reads that are kept.
const READ_ENDS_MAX: usize = 64;

/// The place between two batches: the next batch's offset, and its position in its segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boundary {
    pub offset: i64,
    pub position: u64,
}

/// The boundaries of one log.
#[derive(Debug)]
pub(super) struct Boundaries {
    /// Base offset of the active segment.
    active_base: i64,
    /// Its newest boundaries, the last one being its end.
    recent: VecDeque<Boundary>,
    /// (segment's base offset, boundary).
    read_ends: Vec<(i64, Boundary)>,
    next_read_end: usize,
}

impl Boundaries {
    /// An active segment that ends at `end`.
    pub(super) fn new(active_base: i64, end: Boundary) -> Self {
        Self { active_base, recent: VecDeque::from([end]), read_ends: Vec::new(), next_read_end: 0 }
    }

    /// A new active segment; boundaries of reads in older ones stay true.
    pub(super) fn roll(&mut self, active_base: i64) {
        self.active_base = active_base;
        self.recent.clear();
        self.recent.push_back(Boundary { offset: active_base, position: 0 });
    }

    /// A batch was appended; the log now ends at `end`.
    pub(super) fn push(&mut self, end: Boundary) {
        debug_assert!(self.recent.back().is_none_or(|last| last.offset < end.offset && last.position < end.position));
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(end);
    }

    /// A read ended there.
    pub(super) fn note_read_end(&mut self, segment_base: i64, end: Boundary) {
        if self.read_ends.contains(&(segment_base, end)) || (segment_base == self.active_base && self.recent_at_offset(end.offset) == Some(end)) {
            return;
        }
        if self.read_ends.len() < READ_ENDS_MAX {
            self.read_ends.push((segment_base, end));
        } else {
            self.read_ends[self.next_read_end] = (segment_base, end);
            self.next_read_end = (self.next_read_end + 1) % READ_ENDS_MAX;
        }
    }

    /// The position of the batch that begins exactly at `offset`.
    pub(super) fn position_of(&self, segment_base: i64, offset: i64) -> Option<u64> {
        let recent = (segment_base == self.active_base).then(|| self.recent_at_offset(offset)).flatten();
        let read_end = || self.read_ends.iter().find(|(base, end)| *base == segment_base && end.offset == offset).map(|(_, end)| *end);
        recent.or_else(read_end).map(|boundary| boundary.position)
    }

    /// The end of a segment as far as it is known here: only the active one's.
    pub(super) fn end_of(&self, segment_base: i64) -> Option<Boundary> {
        (segment_base == self.active_base).then(|| *self.recent.back().expect("the end is kept"))
    }

    /// The greatest boundary at or below `offset`, if it is certain that none between is missing.
    pub(super) fn floor_of_offset(&self, segment_base: i64, offset: i64) -> Option<Boundary> {
        let after = self.recent.partition_point(|boundary| boundary.offset <= offset);
        (segment_base == self.active_base && after > 0).then(|| self.recent[after - 1])
    }

    /// The greatest boundary at or below `position`, if it is certain that none between is missing.
    pub(super) fn floor_of_position(&self, segment_base: i64, position: u64) -> Option<Boundary> {
        let after = self.recent.partition_point(|boundary| boundary.position <= position);
        (segment_base == self.active_base && after > 0).then(|| self.recent[after - 1])
    }

    fn recent_at_offset(&self, offset: i64) -> Option<Boundary> {
        let at = self.recent.partition_point(|boundary| boundary.offset < offset);
        self.recent.get(at).copied().filter(|boundary| boundary.offset == offset)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn never_differs_from_the_full_list(steps in proptest::collection::vec((1i64..5, 1u64..100), 1..600), asked in 0i64..1500, position in 0u64..30_000) {
            let mut all = vec![Boundary { offset: 10, position: 0 }];
            let mut boundaries = Boundaries::new(10, all[0]);
            for (count, bytes) in steps {
                let last = all[all.len() - 1];
                let end = Boundary { offset: last.offset + count, position: last.position + bytes };
                boundaries.push(end);
                all.push(end);
            }
            boundaries.note_read_end(10, all[all.len() / 2]);
            boundaries.note_read_end(3, Boundary { offset: 5, position: 77 });
            prop_assert_eq!(boundaries.end_of(10), all.last().copied());
            prop_assert_eq!(boundaries.position_of(3, 5), Some(77));
            prop_assert_eq!(boundaries.position_of(10, all[all.len() / 2].offset), Some(all[all.len() / 2].position));
            if let Some(found) = boundaries.floor_of_offset(10, asked) {
                prop_assert_eq!(Some(found), all.iter().rfind(|boundary| boundary.offset <= asked).copied());
            }
            if let Some(found) = boundaries.floor_of_position(10, position) {
                prop_assert_eq!(Some(found), all.iter().rfind(|boundary| boundary.position <= position).copied());
            }
            if let Some(found) = boundaries.position_of(10, asked) {
                let known = all.contains(&Boundary { offset: asked, position: found });
                prop_assert!(known);
            }
        }
    }

    #[test]
    fn read_ends_are_bounded() {
        let mut boundaries = Boundaries::new(0, Boundary { offset: 0, position: 0 });
        for offset in 1..200 {
            boundaries.note_read_end(7, Boundary { offset, position: offset as u64 });
        }
        assert_eq!(boundaries.read_ends.len(), READ_ENDS_MAX);
        assert_eq!(boundaries.position_of(7, 199), Some(199));
        assert_eq!(boundaries.position_of(7, 2), None);
    }
}
