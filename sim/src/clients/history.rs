//! What the clients of a simulated broker did and saw, and what they were promised: the checks over a whole run.
//!
//! An operation whose answer never came has an *unknown* outcome: it may have happened, and may still happen later. Nothing here draws randomness or looks at
//! the broker: only at what clients were told, and at one last read of every partition after everything has healed.
//!
//! | check | promise |
//! |---|---|
//! | `lost-write` | an acknowledged record is in the log, at the offset that the acknowledgement named |
//! | `inconsistent-offset` | an offset, once read, always holds the same record |
//! | `duplicate` | a record of an idempotent producer is in the log at most once; any other at most as often as it was sent |
//! | `refused-write` | a record whose send was refused is not in the log |
//! | `phantom` | a record in the log was sent, to that partition, and is whole |
//! | `order` | records of one producer and partition are in the log in the order of their sends |
//! | `hole` | offsets from the log's start to its end follow each other |
//! | `high-watermark` | what a client saw as the high watermark is never more than what it sees later |
//! | `group-offset` | a fetched group offset is the last acknowledged commit, or one that was under way since |
//! | `sequence` | a producer that sends its batches in order, and again until they are answered, is never told that they are out of order |
//! | `generation` | the generation of a group, once a member has its assignment, never goes back |
//! | `zombie-commit` | a commit of a generation is refused once a later one has its assignment |
//! | `producer-id` | no producer id is given twice |
//! | `topic-state` | what was acknowledged about topics holds, and a topic is there wholly or not at all |
//! | `preferred-replica` | a replica that a reader was sent to sends it no further |
//! | `two-owners` | in one generation of a group no partition has two owners |

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::value::ValueId;

/// A partition, by topic and number.
pub type Place = (String, i32);

/// What a send came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged; the first record has this offset (−1 with `acks=0`, which promises nothing).
    Acked {
        /// Of the first record.
        base_offset: i64,
    },
    /// Refused for certain: it is not in the log and never will be.
    Refused,
    /// No answer, or one that leaves it open.
    Unknown,
}

/// One batch, sent once or (by a retrying producer) several times.
#[derive(Clone, Debug)]
pub struct Send {
    /// Where to.
    pub place: Place,
    /// The batch.
    pub values: Vec<ValueId>,
    /// Whether the producer numbers its batches.
    pub idempotent: bool,
    /// Counts the producer ids that it has had: what was sent under an earlier one, and given up, may come late.
    pub session: u32,
    /// How many times it went out.
    pub attempts: u32,
    /// What came of it; `None` while under way.
    pub outcome: Option<Outcome>,
}

/// One commit of a group offset.
#[derive(Clone, Copy, Debug)]
struct Commit {
    offset: i64,
    invoked: u64,
    /// When it was acknowledged; `None` if it never was.
    acked: Option<u64>,
    refused: bool,
    /// The committer's generation had been superseded when the commit went out.
    zombie: Option<(i32, i32)>,
}

/// A broken promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The check.
    pub check: &'static str,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.check, self.what)
    }
}

/// The last read of a partition.
#[derive(Clone, Debug, Default)]
pub struct FinalLog {
    /// Where it starts.
    pub start_offset: i64,
    /// Where it ends.
    pub end_offset: i64,
    /// Up to where it could be read: the end, unless the disk rotted.
    pub readable_end_offset: i64,
    /// Every record's offset and value, in the order read; `None` if the bytes are no whole record.
    pub records: Vec<(i64, Option<ValueId>)>,
}

/// Everything that clients did and saw. Times are a count of events: only their order matters.
#[derive(Debug, Default)]
pub struct History {
    clock: u64,
    sends: Vec<Send>,
    reads: BTreeMap<Place, BTreeMap<i64, Option<ValueId>>>,
    /// The greatest of each leader epoch; 0 where epochs are not told apart.
    watermarks: BTreeMap<Place, BTreeMap<i32, i64>>,
    commits: BTreeMap<(String, Place), Vec<Commit>>,
    owners: BTreeMap<(String, i32, Place), BTreeSet<String>>,
    /// Of each group, the newest generation that a member was given an assignment in.
    generations: BTreeMap<String, i32>,
    producer_ids: BTreeSet<i64>,
    violations: Vec<Violation>,
    /// Promises broken on partitions that do not survive a power cut.
    weak_violations: Vec<Violation>,
    /// Topics that are not flushed before records are acknowledged.
    weak_topics: BTreeSet<String>,
    /// Partitions on whose disk a bit was flipped.
    rotten: BTreeSet<Place>,
    /// Partitions that will not be served any more, with the reason: what was begun with them need not come to an end.
    hopeless: BTreeMap<Place, String>,
    /// Partitions that lost what no configuration promises to keep, with the reason.
    lossy: BTreeMap<Place, String>,
    /// Whether groups without members vanish during the run.
    pub groups_vanish: bool,
    /// Operations that finished, whatever their outcome.
    pub completed_count: u64,
    /// Records acknowledged.
    pub acked_count: u64,
}

/// A send that was begun.
#[derive(Clone, Copy, Debug)]
pub struct SendTicket(usize);

/// A commit that was begun.
#[derive(Clone, Debug)]
pub struct CommitTicket(String, Place, usize);

impl History {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn violated(&mut self, check: &'static str, what: String) {
        // With `--log` this says when.
        tracing::error!(check, "broken: {what}");
        // The first few say it all; a run that goes on breaking one promise must not fill the memory.
        if self.violations.len() < 20 {
            self.violations.push(Violation { check, what });
        }
    }

    fn violated_at(&mut self, place: &Place, check: &'static str, what: String) {
        if !self.weak_topics.contains(&place.0) && !self.lossy.contains_key(place) {
            self.violated(check, what);
        } else if self.weak_violations.len() < 20 {
            tracing::info!(check, "broken, as it may be: {what}");
            self.weak_violations.push(Violation { check, what });
        }
    }

    /// Records of this topic are acknowledged before they are on disk: a power cut may take them back.
    pub fn topic_is_weak(&mut self, topic: &str) {
        self.weak_topics.insert(topic.to_owned());
    }

    /// A bit of this partition was flipped on disk.
    pub fn rot(&mut self, place: &Place) {
        self.rotten.insert(place.clone());
    }

    /// The partitions of which a bit was flipped on disk.
    pub fn rotten(&self) -> &BTreeSet<Place> {
        &self.rotten
    }

    /// Whether a bit of this partition was flipped on disk.
    pub fn is_rotten(&self, place: &Place) -> bool {
        self.rotten.contains(place)
    }

    /// All that holds this partition is out of reach for ever, and nothing promises that it is not.
    pub fn give_up(&mut self, place: &Place, why: &str) {
        self.hopeless.entry(place.clone()).or_insert_with(|| why.to_owned());
    }

    /// Whether the partition may stay out of reach for ever.
    pub fn is_hopeless(&self, place: &Place) -> bool {
        self.is_rotten(place) || self.hopeless.contains_key(place)
    }

    /// The partitions that are out of reach for ever, with the reason.
    pub fn hopeless(&self) -> &BTreeMap<Place, String> {
        &self.hopeless
    }

    /// What this partition acknowledged may be lost.
    pub fn may_lose(&mut self, place: &Place, why: &str) {
        self.lossy.entry(place.clone()).or_insert_with(|| why.to_owned());
    }

    /// The partitions of which what was acknowledged may be lost, with the reason.
    pub fn lossy(&self) -> &BTreeMap<Place, String> {
        &self.lossy
    }

    /// What was lost where that is not promised to survive a power cut.
    pub fn weak_violations(&self) -> &[Violation] {
        &self.weak_violations
    }

    /// As [`History::broken`], for a promise about one partition's records.
    pub fn broken_at(&mut self, place: &Place, check: &'static str, what: String) {
        self.tick();
        self.violated_at(place, check, what);
    }

    /// A producer was given an id.
    pub fn producer_id(&mut self, producer_id: i64) {
        self.tick();
        if !self.producer_ids.insert(producer_id) {
            self.violated("producer-id", format!("producer id {producer_id} was given to two producers"));
        }
    }

    /// A client was answered in a way that no promise allows.
    pub fn broken(&mut self, check: &'static str, what: String) {
        self.tick();
        self.violated(check, what);
    }

    /// What is broken so far.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// A batch goes out for the first time.
    pub fn send(&mut self, place: Place, values: Vec<ValueId>, idempotent: bool, session: u32) -> SendTicket {
        self.tick();
        self.sends.push(Send { place, values, idempotent, session, attempts: 1, outcome: None });
        SendTicket(self.sends.len() - 1)
    }

    /// A batch goes out again.
    pub fn resend(&mut self, ticket: SendTicket) {
        self.tick();
        self.sends[ticket.0].attempts += 1;
    }

    /// What a batch came to.
    pub fn sent(&mut self, ticket: SendTicket, outcome: Outcome) {
        self.tick();
        self.completed_count += 1;
        let send = &mut self.sends[ticket.0];
        send.outcome = Some(outcome);
        if let Outcome::Acked { .. } = outcome {
            self.acked_count += send.values.len() as u64;
        }
    }

    /// A consumer read a record.
    pub fn read(&mut self, place: &Place, offset: i64, value: Option<ValueId>) {
        self.tick();
        self.completed_count += 1;
        let before = self.reads.entry(place.clone()).or_default().insert(offset, value);
        if value.is_none() {
            self.violated("phantom", format!("{place:?} offset {offset} was read with bytes that nobody sent"));
        }
        if let Some(before) = before
            && before != value
        {
            self.violated_at(place, "inconsistent-offset", format!("{place:?} offset {offset} was {before:?} and is {value:?}"));
        }
    }

    /// The greatest high watermarks that any client has seen, before a request that will be answered with newer ones.
    pub fn watermark_floors<'a>(&self, places: impl Iterator<Item = &'a Place>) -> BTreeMap<Place, i64> {
        places.filter_map(|place| Some((place.clone(), self.watermark_floor_at(place, i32::MAX)?))).collect()
    }

    /// The greatest high watermark that any client has seen of leaders up to `leader_epoch`. One that led before and does not know it yet may be behind.
    pub fn watermark_floor_at(&self, place: &Place, leader_epoch: i32) -> Option<i64> {
        self.watermarks.get(place)?.range(..=leader_epoch).map(|(_, seen)| *seen).max()
    }

    /// A client saw the high watermark in an answer to a request before which `floor` had been seen.
    pub fn watermark(&mut self, place: &Place, floor: Option<i64>, high_watermark: i64) {
        self.watermark_at(place, 0, floor, high_watermark);
    }

    /// As [`History::watermark`], from the leader in `leader_epoch`.
    pub fn watermark_at(&mut self, place: &Place, leader_epoch: i32, floor: Option<i64>, high_watermark: i64) {
        self.tick();
        let seen = self.watermarks.entry(place.clone()).or_default().entry(leader_epoch).or_insert(high_watermark);
        *seen = (*seen).max(high_watermark);
        if let Some(floor) = floor.filter(|floor| high_watermark < *floor) {
            self.violated_at(place, "high-watermark", format!("{place:?} went back from {floor} to {high_watermark} (leader epoch {leader_epoch})"));
        }
    }

    /// A commit goes out. `generation` is what the committer believes in, −1 if it is no member.
    pub fn commit(&mut self, group: &str, generation: i32, place: &Place, offset: i64) -> CommitTicket {
        let invoked = self.tick();
        let newest = self.generations.get(group).copied().unwrap_or(-1);
        let zombie = (generation >= 0 && generation < newest).then_some((generation, newest));
        let commits = self.commits.entry((group.to_owned(), place.clone())).or_default();
        commits.push(Commit { offset, invoked, acked: None, refused: false, zombie });
        CommitTicket(group.to_owned(), place.clone(), commits.len() - 1)
    }

    /// A commit was answered: acknowledged, or (false) refused for certain.
    pub fn committed(&mut self, ticket: CommitTicket, acked: bool) {
        let now = self.tick();
        self.completed_count += 1;
        let CommitTicket(group, place, index) = ticket;
        let Some(commit) = self.commits.get_mut(&(group.clone(), place.clone())).and_then(|commits| commits.get_mut(index)) else { return };
        if acked {
            commit.acked = Some(now);
        } else {
            commit.refused = true;
        }
        if let Some((generation, newest)) = commit.zombie.filter(|_| acked) {
            let what = format!("group {group} {place:?}: a commit of generation {generation} was accepted although {newest} had its assignment");
            self.violated("zombie-commit", what);
        }
    }

    /// The time before an offset fetch, for [`History::offset_fetched`].
    pub fn before_offset_fetch(&mut self) -> u64 {
        self.tick()
    }

    /// A group offset was fetched; −1 is 'none'.
    pub fn offset_fetched(&mut self, group: &str, place: &Place, began: u64, offset: i64) {
        self.tick();
        self.completed_count += 1;
        let empty = Vec::new();
        let commits = self.commits.get(&(group.to_owned(), place.clone())).unwrap_or(&empty);
        // A commit can be what was read unless another was begun after its acknowledgement and acknowledged before the fetch began.
        let superseded = |commit: &Commit| {
            commits.iter().any(|later| commit.acked.is_some_and(|acked| later.invoked > acked) && later.acked.is_some_and(|acked| acked < began))
        };
        let possible = |commit: &&Commit| !commit.refused && !superseded(commit);
        let fits = if offset < 0 {
            self.groups_vanish || !commits.iter().any(|commit| commit.acked.is_some_and(|acked| acked < began))
        } else {
            commits.iter().filter(possible).any(|commit| commit.offset == offset)
        };
        if !fits {
            let could: Vec<i64> = commits.iter().filter(possible).map(|commit| commit.offset).collect();
            self.violated("group-offset", format!("group {group} {place:?} fetched {offset}; possible were {could:?}"));
        }
    }

    /// The newest generation of a group that a member was given an assignment in, before a member joins again; −1 if none was.
    pub fn newest_generation(&self, group: &str) -> i32 {
        self.generations.get(group).copied().unwrap_or(-1)
    }

    /// A member that began to join when `floor` was the newest generation was given its assignment in `generation`.
    pub fn synced(&mut self, group: &str, floor: i32, generation: i32) {
        self.tick();
        let newest = self.generations.entry(group.to_owned()).or_insert(generation);
        if generation >= floor {
            *newest = (*newest).max(generation);
        } else if self.groups_vanish {
            // It is another group of the same name.
            *newest = generation;
            self.owners.retain(|(its_group, ..), _| its_group != group);
        } else {
            self.violated("generation", format!("group {group} went back from generation {floor} to {generation}"));
        }
    }

    /// A member was given a partition in a generation.
    pub fn owned(&mut self, group: &str, generation: i32, place: &Place, member: &str) {
        self.tick();
        let owners = self.owners.entry((group.to_owned(), generation, place.clone())).or_default();
        owners.insert(member.to_owned());
        if owners.len() > 1 && !self.groups_vanish {
            let owners = format!("{owners:?}");
            self.violated("two-owners", format!("group {group} generation {generation} {place:?} is owned by {owners}"));
        }
    }

    /// The checks that need the end: every partition as it was read after healing. Partitions that could not be read are not in `logs`.
    pub fn finish(&mut self, logs: &BTreeMap<Place, FinalLog>) -> Vec<Violation> {
        for (place, log) in logs {
            self.check_contiguous(place, log);
            self.check_reads(place, log);
        }
        let mut where_is: BTreeMap<ValueId, Vec<(&Place, i64)>> = BTreeMap::new();
        for (place, log) in logs {
            for (offset, value) in &log.records {
                if let Some(value) = value {
                    where_is.entry(*value).or_default().push((place, *offset));
                }
            }
        }
        let mut found: Vec<(Place, Violation)> = Vec::new();
        let mut known = BTreeSet::new();
        let mut last_of: BTreeMap<(u32, u32, &Place), (ValueId, i64)> = BTreeMap::new();
        for send in &self.sends {
            for (index, value) in send.values.iter().enumerate() {
                known.insert(*value);
                let places = where_is.get(value).map_or(&[][..], Vec::as_slice);
                if let Some((place, offset)) = places.iter().find(|(place, _)| **place != send.place) {
                    found.push((
                        send.place.clone(),
                        Violation { check: "phantom", what: format!("{value:?} was sent to {:?} and is in {place:?} at {offset}", send.place) },
                    ));
                }
                let Some(log) = logs.get(&send.place) else {
                    continue;
                };
                let allowed = if send.idempotent { 1 } else { send.attempts as usize };
                if places.len() > allowed {
                    found.push((
                        send.place.clone(),
                        Violation { check: "duplicate", what: format!("{value:?} is in the log {} times: {places:?}", places.len()) },
                    ));
                }
                match send.outcome {
                    Some(Outcome::Acked { base_offset }) if base_offset >= 0 => {
                        let offset = base_offset + index as i64;
                        let is_told_of = (log.readable_end_offset..log.end_offset).contains(&offset);
                        if offset >= log.start_offset && !is_told_of && !places.iter().any(|(_, at)| *at == offset) {
                            let instead = log.records.iter().find(|(at, _)| *at == offset);
                            let what = format!(
                                "{value:?} was acknowledged at {:?} offset {offset}; there is {instead:?}, it is at {places:?}; the log is {}..{}",
                                send.place, log.start_offset, log.end_offset
                            );
                            found.push((send.place.clone(), Violation { check: "lost-write", what }));
                        }
                    }
                    Some(Outcome::Refused) if !places.is_empty() => {
                        found.push((
                            send.place.clone(),
                            Violation { check: "refused-write", what: format!("{value:?} was refused and is in the log at {places:?}") },
                        ));
                    }
                    _ => {}
                }
                // Only the first appearance of a record has a place in its producer's order; a plain producer's retry may come later.
                if let Some((_, offset)) = places.iter().min_by_key(|(_, offset)| *offset) {
                    let last = last_of.entry((value.producer, send.session, &send.place)).or_insert((*value, *offset));
                    if send.idempotent && *offset < last.1 {
                        let what = format!("{value:?} at {offset} was sent after {:?}, which is at {}", last.0, last.1);
                        found.push((send.place.clone(), Violation { check: "order", what }));
                    }
                    *last = (*value, *offset);
                }
            }
        }
        for (value, places) in &where_is {
            if !known.contains(value) {
                let place = places.first().map_or_else(Place::default, |(place, _)| (*place).clone());
                found.push((place, Violation { check: "phantom", what: format!("{value:?} is at {places:?} and nobody sent it") }));
            }
        }
        for (place, violation) in found {
            // What may be lost is what was acknowledged last; the rest is promised whatever happens.
            if violation.check == "lost-write" {
                self.violated_at(&place, violation.check, violation.what)
            } else {
                self.violated(violation.check, violation.what)
            }
        }
        self.violations.clone()
    }

    fn check_contiguous(&mut self, place: &Place, log: &FinalLog) {
        let mut expected = log.start_offset;
        for (offset, value) in &log.records {
            if *offset != expected {
                self.violated("hole", format!("{place:?} has {offset} where {expected} should be"));
            }
            if value.is_none() {
                self.violated("phantom", format!("{place:?} offset {offset} has bytes that nobody sent"));
            }
            expected = offset + 1;
        }
        if expected != log.readable_end_offset {
            self.violated("hole", format!("{place:?} could be read up to {expected} and ends at {}", log.end_offset));
        }
    }

    fn check_reads(&mut self, place: &Place, log: &FinalLog) {
        let last: BTreeMap<i64, Option<ValueId>> = log.records.iter().copied().collect();
        let wrong: Vec<String> = self
            .reads
            .get(place)
            .into_iter()
            .flatten()
            .filter(|(offset, value)| {
                **offset >= log.start_offset && last.get(offset) != Some(value) && !(log.readable_end_offset..log.end_offset).contains(*offset)
            })
            .map(|(offset, value)| format!("{place:?} offset {offset} was read as {value:?} and is {:?} in the end", last.get(offset)))
            .take(3)
            .collect();
        for what in wrong {
            self.violated_at(place, "inconsistent-offset", what);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place() -> Place {
        ("t".to_owned(), 0)
    }

    fn value(number: u32) -> ValueId {
        ValueId { producer: 1, number }
    }

    fn logs(records: &[(i64, u32)]) -> BTreeMap<Place, FinalLog> {
        let start_offset = records.first().map_or(0, |(offset, _)| *offset);
        let end_offset = records.last().map_or(0, |(offset, _)| offset + 1);
        let records = records.iter().map(|(offset, number)| (*offset, Some(value(*number)))).collect();
        BTreeMap::from([(place(), FinalLog { start_offset, end_offset, readable_end_offset: end_offset, records })])
    }

    fn sent(history: &mut History, numbers: &[u32], idempotent: bool, outcome: Outcome) {
        let ticket = history.send(place(), numbers.iter().copied().map(value).collect(), idempotent, 0);
        history.sent(ticket, outcome);
    }

    fn checks(mut history: History, records: &[(i64, u32)]) -> Vec<&'static str> {
        history.finish(&logs(records)).iter().map(|violation| violation.check).collect()
    }

    #[test]
    fn what_was_promised_and_kept_is_no_violation() {
        let mut history = History::default();
        sent(&mut history, &[1, 2], true, Outcome::Acked { base_offset: 0 });
        sent(&mut history, &[3], true, Outcome::Unknown);
        sent(&mut history, &[4], true, Outcome::Unknown);
        sent(&mut history, &[5], true, Outcome::Refused);
        history.read(&place(), 1, Some(value(2)));
        assert_eq!(checks(history, &[(0, 1), (1, 2), (2, 4)]), Vec::<&str>::new());
    }

    #[test]
    fn each_broken_promise_is_named() {
        let mut lost = History::default();
        sent(&mut lost, &[1, 2], true, Outcome::Acked { base_offset: 0 });
        assert_eq!(checks(lost, &[(0, 1)]), vec!["lost-write"]);

        let mut elsewhere = History::default();
        sent(&mut elsewhere, &[1], true, Outcome::Unknown);
        sent(&mut elsewhere, &[2], true, Outcome::Acked { base_offset: 0 });
        assert_eq!(checks(elsewhere, &[(0, 1), (1, 2)]), vec!["lost-write"]);

        let mut twice = History::default();
        sent(&mut twice, &[1], true, Outcome::Acked { base_offset: 0 });
        assert_eq!(checks(twice, &[(0, 1), (1, 1)]), vec!["duplicate"]);

        let mut refused = History::default();
        sent(&mut refused, &[1], true, Outcome::Refused);
        assert_eq!(checks(refused, &[(0, 1)]), vec!["refused-write"]);

        let mut swapped = History::default();
        sent(&mut swapped, &[1], true, Outcome::Unknown);
        sent(&mut swapped, &[2], true, Outcome::Unknown);
        assert_eq!(checks(swapped, &[(0, 2), (1, 1)]), vec!["order"]);

        let mut hole = History::default();
        sent(&mut hole, &[1], true, Outcome::Unknown);
        sent(&mut hole, &[2], true, Outcome::Unknown);
        assert_eq!(checks(hole, &[(0, 1), (2, 2)]), vec!["hole"]);

        assert_eq!(checks(History::default(), &[(0, 9)]), vec!["phantom"]);

        let mut changed = History::default();
        sent(&mut changed, &[1], true, Outcome::Unknown);
        sent(&mut changed, &[2], true, Outcome::Unknown);
        changed.read(&place(), 0, Some(value(2)));
        assert_eq!(checks(changed, &[(0, 1), (1, 2)]), vec!["inconsistent-offset"]);

        let mut backwards = History::default();
        backwards.watermark(&place(), None, 5);
        let floors = backwards.watermark_floors([place()].iter());
        backwards.watermark(&place(), floors.get(&place()).copied(), 4);
        assert_eq!(backwards.violations()[0].check, "high-watermark");
    }

    #[test]
    fn a_plain_producer_may_double_what_it_sent_twice() {
        let mut history = History::default();
        let ticket = history.send(place(), vec![value(1)], false, 0);
        history.resend(ticket);
        history.sent(ticket, Outcome::Acked { base_offset: 1 });
        assert_eq!(checks(history, &[(0, 1), (1, 1)]), Vec::<&str>::new());
    }

    #[test]
    fn group_offsets() {
        let mut history = History::default();
        let first = history.commit("g", -1, &place(), 5);
        history.committed(first, true);
        let second = history.commit("g", -1, &place(), 9);
        let began = history.before_offset_fetch();
        history.offset_fetched("g", &place(), began, 5);
        history.offset_fetched("g", &place(), began, 9);
        assert!(history.violations().is_empty(), "the second is under way");
        history.committed(second, true);
        let began = history.before_offset_fetch();
        history.offset_fetched("g", &place(), began, 9);
        assert!(history.violations().is_empty());
        history.offset_fetched("g", &place(), began, 5);
        history.offset_fetched("g", &place(), began, -1);
        assert_eq!(history.violations().iter().map(|violation| violation.check).collect::<Vec<_>>(), vec!["group-offset"; 2]);
    }

    #[test]
    fn two_owners_in_one_generation() {
        let mut history = History::default();
        history.owned("g", 1, &place(), "a");
        history.owned("g", 2, &place(), "b");
        assert!(history.violations().is_empty());
        history.owned("g", 2, &place(), "a");
        assert_eq!(history.violations()[0].check, "two-owners");
    }
}
