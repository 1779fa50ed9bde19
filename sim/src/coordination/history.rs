//! What clients did and saw, what members applied, and what must hold of it.
//!
//! - *Agreement, prefix consistency, durability* (Z1, Z2): whatever any member ever applied at an index, in any of its lives, had the same term and left
//!   the same digest of all before it. An entry that was lost and written anew differs.
//! - *One leader per term; one vote per term; no promise is forgotten*: what a member told another to have on its disk, a vote or a log, is there when it
//!   begins its next life. It is this that a wrong order of writes breaks first, long before two leaders come of it.
//!   A member whose log is lost votes no more, and a vote is given to none that never had a log.
//! - *Linearizability* of writes and of reads after `sync` (Z3). Every write of a register carries a value of its own and is answered with the
//!   version that it made, so the order of versions is the only possible witness: an operation that began after another had ended must not have a
//!   version before it, a write not the same. Each value has one version and each version one value; a value that was refused is never seen.
//! - *Sessions* (Z3, Z4): what one client sees of a register, and of the tree's last zxid, never goes back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ottla::coordination::ensemble::{Executed, Observer, Promise};
use ottla::coordination::storage::format::HardState;
use tokio::sync::mpsc;

use super::sessions::oracle::Oracle;

use crate::verdict::Verdict;
use crate::world::{Host, World};

/// What a client is told of a register: its version, the zxid of its last change, its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The version.
    pub version: i32,
    /// The zxid.
    pub zxid: i64,
    /// The value; 0 for that of its creation.
    pub value: u64,
}

/// An operation that has begun.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    register: usize,
    /// The highest version that an operation had shown which had ended before.
    floor: Option<i32>,
    /// The highest zxid that a write had shown which had ended before.
    zxid_floor: i64,
    value: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Refused,
}

#[derive(Default)]
struct Register {
    versions: BTreeMap<i32, (u64, i64)>,
    floor: Option<i32>,
}

#[derive(Default)]
struct Facts {
    registers: Vec<Register>,
    values: BTreeMap<u64, Fate>,
    /// Where a value was seen: its register and version.
    places: BTreeMap<u64, (usize, i32)>,
    next_value: u64,
    zxid_floor: i64,
    applied: BTreeMap<u64, (u64, u64, u64)>,
    leaders: BTreeMap<u64, u64>,
    /// The vote that a member gave, by Raft id and term.
    votes: BTreeMap<(u64, u64), u64>,
    /// The last term in which a member told how far its log is that leader's, and how far, by Raft id.
    logs: BTreeMap<u64, (u64, u64)>,
    voters: Option<mpsc::UnboundedSender<u64>>,
    /// The members that ever began a life with a log.
    opened: BTreeSet<u64>,
    /// Those of them whose log is lost.
    lost: BTreeSet<u64>,
    acknowledged_count: u64,
}

/// Members that give their vote to another, as they do so.
pub struct Votes(mpsc::UnboundedReceiver<u64>);

impl Votes {
    /// The Raft id of the next one.
    pub async fn next(&mut self) -> Option<u64> {
        self.0.recv().await
    }

    /// Forgets those that have come.
    pub fn drain(&mut self) {
        while self.0.try_recv().is_ok() {}
    }
}

/// The history of a run.
pub struct History {
    world: World,
    facts: Mutex<Facts>,
    /// What the ensemble's transactions come to, and what clients of its servers may be told.
    pub oracle: Arc<Oracle>,
}

impl History {
    /// An empty one of `register_count` registers, and of the members on these hosts. What breaks a promise decides the run at once.
    pub fn new(world: &World, register_count: usize, members: &[Host]) -> Self {
        let facts = Facts { registers: (0..register_count).map(|_| Register::default()).collect(), next_value: 1, ..Facts::default() };
        Self { world: world.clone(), facts: Mutex::new(facts), oracle: Arc::new(Oracle::new(world, members)) }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn broken(&self, invariant: &str, detail: String) {
        self.world.fail(Verdict::Correctness { invariant: invariant.to_owned(), detail });
    }

    /// A write of a value of its own begins.
    pub fn begin_write(&self, register: usize) -> (Begun, u64) {
        let mut facts = self.facts();
        let value = facts.next_value;
        facts.next_value += 1;
        facts.values.insert(value, Fate::Open);
        (Begun { register, floor: facts.registers[register].floor, zxid_floor: facts.zxid_floor, value }, value)
    }

    /// A read after `sync` begins, before the `sync`.
    pub fn begin_read(&self, register: usize) -> Begun {
        let facts = self.facts();
        Begun { register, floor: facts.registers[register].floor, zxid_floor: facts.zxid_floor, value: 0 }
    }

    /// The write was carried out.
    pub fn written(&self, begun: Begun, version: i32, zxid: i64) {
        let seen = Seen { version, zxid, value: begun.value };
        if begun.floor.is_some_and(|floor| version <= floor) {
            self.broken(
                "linearizable-write",
                format!("register {} got version {version}, but {:?} had been shown before the write began", begun.register, begun.floor),
            );
        }
        if zxid <= begun.zxid_floor {
            self.broken("linearizable-write", format!("a write got zxid {zxid}, but {} had been given to one that ended before it began", begun.zxid_floor));
        }
        self.saw(begun.register, seen);
        let mut facts = self.facts();
        facts.zxid_floor = facts.zxid_floor.max(zxid);
        facts.acknowledged_count += 1;
        let floor = &mut facts.registers[begun.register].floor;
        *floor = (*floor).max(Some(version));
    }

    /// The write was refused: its value must never be seen.
    pub fn refused(&self, begun: Begun) {
        let mut facts = self.facts();
        facts.values.insert(begun.value, Fate::Refused);
        let place = facts.places.get(&begun.value).copied();
        drop(facts);
        if let Some((register, version)) = place {
            self.broken("refused-write", format!("value {} was refused, and is version {version} of register {register}", begun.value));
        }
    }

    /// A read after `sync` ended.
    pub fn read(&self, begun: Begun, seen: Seen) {
        if begun.floor.is_some_and(|floor| seen.version < floor) {
            self.broken(
                "stale-read-after-sync",
                format!("register {} had version {} for a synced read; {:?} had been shown before it began", begun.register, seen.version, begun.floor),
            );
        }
        self.saw(begun.register, seen);
        let mut facts = self.facts();
        let floor = &mut facts.registers[begun.register].floor;
        *floor = (*floor).max(Some(seen.version));
    }

    /// Any read showed this.
    pub fn saw(&self, register: usize, seen: Seen) {
        let mut facts = self.facts();
        let before = *facts.registers[register].versions.entry(seen.version).or_insert((seen.value, seen.zxid));
        let mut wrong = None;
        if before != (seen.value, seen.zxid) {
            wrong = Some((
                "one-value-per-version",
                format!("version {} of register {register} was {before:?}, and is {:?}", seen.version, (seen.value, seen.zxid)),
            ));
        }
        if seen.value != 0 {
            let place = *facts.places.entry(seen.value).or_insert((register, seen.version));
            if place != (register, seen.version) {
                wrong = Some(("exactly-once", format!("value {} is version {} of register {register}, and was {place:?}", seen.value, seen.version)));
            }
            match facts.values.get(&seen.value) {
                None => wrong = Some(("phantom", format!("value {} of register {register} was never written", seen.value))),
                Some(Fate::Refused) => wrong = Some(("refused-write", format!("value {} of register {register} was refused", seen.value))),
                Some(Fate::Open) => {}
            }
        }
        let versions = &facts.registers[register].versions;
        let (older, newer) = (versions.range(..seen.version).next_back(), versions.range(seen.version + 1..).next());
        if older.is_some_and(|(_, (_, zxid))| *zxid >= seen.zxid) || newer.is_some_and(|(_, (_, zxid))| *zxid <= seen.zxid) {
            wrong = Some(("zxid-order", format!("{seen:?} of register {register} is between {older:?} and {newer:?}")));
        }
        drop(facts);
        if let Some((invariant, detail)) = wrong {
            self.broken(invariant, detail);
        }
    }

    /// What a client saw went back.
    pub fn went_back(&self, detail: String) {
        self.broken("session-order", detail);
    }

    /// How many writes were acknowledged.
    pub fn acknowledged_count(&self) -> u64 {
        self.facts().acknowledged_count
    }

    /// A promise is broken.
    pub fn violation(&self, invariant: &str, detail: String) {
        self.broken(invariant, detail);
    }

    /// These have a vote. Whoever is given one later than the first members must have a log.
    pub fn voters(&self, first_count: u64, voters: &[u64]) {
        let facts = self.facts();
        let without = voters.iter().copied().find(|id| *id > first_count && !facts.opened.contains(id));
        drop(facts);
        if let Some(raft_id) = without {
            self.broken("voter-has-log", format!("member {raft_id} was given a vote, and has never had a log"));
        }
    }

    /// The member's log is gone for good, and with it what it had promised: it must never vote again.
    pub fn lost_log(&self, raft_id: u64) {
        self.facts().lost.insert(raft_id);
    }

    /// Tells of votes from now on, to one.
    pub fn votes(&self) -> Votes {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.facts().voters = Some(sender);
        Votes(receiver)
    }

    /// The last index that anybody applied.
    pub fn last_applied(&self) -> u64 {
        self.facts().applied.last_key_value().map_or(0, |(index, _)| *index)
    }
}

impl Observer for History {
    fn applied(&self, raft_id: u64, index: u64, term: u64, digest: u64) {
        let before = *self.facts().applied.entry(index).or_insert((raft_id, term, digest));
        if (before.1, before.2) != (term, digest) {
            self.broken(
                "agreement",
                format!(
                    "member {raft_id} applied entry {index} of term {term}, digest {digest:016x}; member {} had applied term {}, digest {:016x}",
                    before.0, before.1, before.2
                ),
            );
        }
    }

    fn opened(&self, raft_id: u64, hard_state: HardState, last_index: u64) {
        let mut facts = self.facts();
        facts.opened.insert(raft_id);
        let vote = facts.votes.range((raft_id, 0)..=(raft_id, u64::MAX)).next_back().map(|((_, term), candidate)| (*term, *candidate));
        let log = facts.logs.get(&raft_id).copied();
        drop(facts);
        if let Some((term, candidate)) = vote
            && (hard_state.term < term || (hard_state.term == term && hard_state.vote != candidate))
        {
            self.broken("promise-kept", format!("member {raft_id} voted for {candidate} in term {term}, and comes back with {hard_state:?}"));
        }
        if let Some((term, index)) = log
            && (hard_state.term < term || (hard_state.term == term && last_index < index))
        {
            let detail = format!("member {raft_id} had entries up to {index} in term {term}, and comes back with {last_index} and {hard_state:?}");
            self.broken("promise-kept", detail);
        }
    }

    fn promised(&self, raft_id: u64, promise: Promise) {
        let mut facts = self.facts();
        match promise {
            Promise::Vote { term, candidate } => {
                let is_lost = facts.lost.contains(&raft_id);
                let before = *facts.votes.entry((raft_id, term)).or_insert(candidate);
                if candidate != raft_id
                    && let Some(voters) = &facts.voters
                {
                    let _ = voters.send(raft_id);
                }
                drop(facts);
                if is_lost {
                    self.broken("lost-log-votes", format!("member {raft_id} votes for {candidate} in term {term}, and its log was lost"));
                }
                if before != candidate {
                    self.broken("one-vote-per-term", format!("member {raft_id} voted for {before} in term {term}, and then for {candidate}"));
                }
            }
            Promise::Log { term, index } => {
                let log = facts.logs.entry(raft_id).or_default();
                *log = if log.0 == term { (term, log.1.max(index)) } else { (*log).max((term, index)) };
            }
        }
    }

    fn executed(&self, raft_id: u64, index: u64, term: u64, executed: &Executed<'_>) {
        self.oracle.executed(raft_id, index, term, executed);
    }

    fn elected(&self, raft_id: u64, term: u64) {
        self.oracle.elected(raft_id, term);
        let before = *self.facts().leaders.entry(term).or_insert(raft_id);
        if before != raft_id {
            self.broken("one-leader-per-term", format!("members {before} and {raft_id} both lead in term {term}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{WorldOptions, run};

    fn verdict(body: impl FnOnce(&History) + Send + 'static) -> Verdict {
        let report = run(WorldOptions::calm(1), move |world| async move {
            body(&History::new(&world, 1, &[]));
            Verdict::Clean
        });
        report.verdict
    }

    fn is_broken(verdict: &Verdict, name: &str) -> bool {
        matches!(verdict, Verdict::Correctness { invariant, .. } if invariant == name)
    }

    #[test]
    fn what_is_in_order_is_clean() {
        let found = verdict(|history| {
            let (one, value) = history.begin_write(0);
            let (two, _) = history.begin_write(0);
            history.written(two, 2, 9);
            history.written(one, 1, 8);
            let read = history.begin_read(0);
            history.read(read, Seen { version: 2, zxid: 9, value: value + 1 });
            history.applied(1, 5, 1, 7);
            history.applied(2, 5, 1, 7);
        });
        assert_eq!(found, Verdict::Clean);
    }

    #[test]
    fn each_check_finds_what_it_is_for() {
        let stale = verdict(|history| {
            let (one, value) = history.begin_write(0);
            let (two, _) = history.begin_write(0);
            history.written(one, 1, 8);
            history.written(two, 2, 9);
            let read = history.begin_read(0);
            history.read(read, Seen { version: 1, zxid: 8, value });
        });
        assert!(is_broken(&stale, "stale-read-after-sync"), "{stale}");
        let twice = verdict(|history| {
            let (one, value) = history.begin_write(0);
            history.written(one, 1, 8);
            history.saw(0, Seen { version: 2, zxid: 9, value });
        });
        assert!(is_broken(&twice, "exactly-once"), "{twice}");
        let lost = verdict(|history| {
            let (one, _) = history.begin_write(0);
            history.written(one, 1, 8);
            let (two, _) = history.begin_write(0);
            history.written(two, 1, 9);
        });
        assert!(is_broken(&lost, "linearizable-write"), "{lost}");
        let refused = verdict(|history| {
            let (one, value) = history.begin_write(0);
            history.refused(one);
            history.saw(0, Seen { version: 1, zxid: 8, value });
        });
        assert!(is_broken(&refused, "refused-write"), "{refused}");
        let apart = verdict(|history| {
            history.applied(1, 5, 1, 7);
            history.applied(2, 5, 2, 7);
        });
        assert!(is_broken(&apart, "agreement"), "{apart}");
        let disk = |term, vote| HardState { term, vote, commit: 0 };
        let promises = |history: &History| {
            history.promised(1, Promise::Vote { term: 5, candidate: 2 });
            history.promised(1, Promise::Log { term: 5, index: 9 });
            history.promised(1, Promise::Log { term: 5, index: 8 });
        };
        let kept = verdict(move |history| {
            promises(history);
            history.opened(1, disk(5, 2), 9);
            history.opened(1, disk(6, 0), 7);
            history.opened(2, disk(0, 0), 0);
        });
        assert_eq!(kept, Verdict::Clean);
        for (hard_state, last_index) in [(disk(5, 0), 9), (disk(5, 2), 8), (disk(4, 2), 9)] {
            let forgotten = verdict(move |history| {
                promises(history);
                history.opened(1, hard_state, last_index);
            });
            assert!(is_broken(&forgotten, "promise-kept"), "{forgotten}");
        }
        let voted_twice = verdict(move |history| {
            promises(history);
            history.promised(1, Promise::Vote { term: 5, candidate: 3 });
        });
        assert!(is_broken(&voted_twice, "one-vote-per-term"), "{voted_twice}");
        let lost = verdict(move |history| {
            history.promised(1, Promise::Vote { term: 5, candidate: 2 });
            history.lost_log(1);
            history.promised(1, Promise::Vote { term: 6, candidate: 2 });
        });
        assert!(is_broken(&lost, "lost-log-votes"), "{lost}");
        let two = verdict(|history| {
            history.elected(1, 5);
            history.elected(2, 5);
        });
        assert!(is_broken(&two, "one-leader-per-term"), "{two}");
    }
}
