//! The machine under changes of the membership: messages are lost, delayed and come in any order, members crash and forget how much is committed. Nobody may lead
//! a term twice, nothing that is committed may change, and whatever single voter is lost after a change is applied, the others go on.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;

const INITIAL: [u64; 3] = [1, 2, 3];

/// What a member has on disk.
#[derive(Clone, Default)]
struct Directory {
    entries: Vec<Entry>,
    hard_state: HardState,
}

struct Model {
    rng: SmallRng,
    cores: BTreeMap<u64, RaftCore>,
    disks: BTreeMap<u64, Directory>,
    under_way: Vec<RaftMessage>,
    leaders: BTreeMap<u64, u64>,
    committed: BTreeMap<u64, Entry>,
    lost: BTreeSet<u64>,
    next_id: u64,
}

impl Model {
    fn new(seed: u64) -> Self {
        let mut model = Self {
            rng: SmallRng::seed_from_u64(seed),
            cores: BTreeMap::new(),
            disks: BTreeMap::new(),
            under_way: Vec::new(),
            leaders: BTreeMap::new(),
            committed: BTreeMap::new(),
            lost: BTreeSet::new(),
            next_id: 4,
        };
        INITIAL.into_iter().for_each(|id| model.start(id));
        model
    }

    /// Begins a life of a member with what it has on disk. How much is committed may be lost: it is written lazily.
    fn start(&mut self, id: u64) {
        let disk = self.disks.entry(id).or_default().clone();
        let commit = self.rng.random_range(0..=disk.hard_state.commit);
        let conf_state = ConfState { voters: INITIAL.to_vec(), learners: Vec::new() };
        let hard_state = HardState { commit, ..disk.hard_state };
        self.cores.insert(id, RaftCore::new(Beginning { raft_id: id, base: (0, 0), conf_state, entries: disk.entries, hard_state }));
    }

    fn is_leader(&self, id: u64) -> bool {
        self.cores.get(&id).is_some_and(|core| core.leadership().is_leader)
    }

    /// Does all that a member has to do.
    fn drive(&mut self, id: u64) {
        let Some(core) = self.cores.get_mut(&id) else { return };
        let disk = self.disks.get_mut(&id).unwrap();
        while let Some(work) = core.take_work() {
            assert!(work.snapshot.is_none(), "nothing is ever compacted here");
            if let Some(first) = work.entries.first() {
                disk.entries.truncate(first.index as usize - 1);
                disk.entries.extend(work.entries.iter().cloned());
            }
            disk.hard_state = work.hard_state.unwrap_or(disk.hard_state);
            self.under_way.extend(work.messages_now.into_iter().chain(work.messages_after));
            core.persisted(work.number);
            for entry in work.committed {
                let known = self.committed.entry(entry.index).or_insert_with(|| entry.clone());
                assert_eq!(*known, entry, "member {id} has committed another entry");
                if let Some(change) = core.change_of(&entry) {
                    core.apply_change(&change);
                }
                core.applied(entry.index);
            }
        }
        let Leadership { term, is_leader, .. } = core.leadership();
        if is_leader && self.leaders.insert(term, id).is_none() {
            for (index, entry) in &self.committed {
                assert_eq!(disk.entries.get(*index as usize - 1), Some(entry), "member {id} leads term {term} without what was committed");
            }
        }
        assert!(!is_leader || self.leaders[&term] == id, "members {id} and {} lead term {term}", self.leaders[&term]);
    }

    fn any(&mut self) -> Option<u64> {
        let ids: Vec<u64> = self.cores.keys().copied().collect();
        (!ids.is_empty()).then(|| ids[self.rng.random_range(0..ids.len())])
    }

    fn deliver(&mut self, at: usize) {
        let message = self.under_way.swap_remove(at);
        let to = message.to;
        // Nobody hears of a member before it is one, nor after its disk was lost.
        if self.lost.contains(&message.from) || self.lost.contains(&to) {
            return;
        }
        if let Some(core) = self.cores.get_mut(&to) {
            core.step(message);
            self.drive(to);
        }
    }

    /// A change that makes sense to whoever leads; its members never become fewer than two.
    fn change(&mut self, leader: u64) {
        let conf_state = self.cores[&leader].conf_state().clone();
        let change = match (conf_state.learners.first(), conf_state.voters.len()) {
            (Some(learner), _) if self.rng.random_bool(0.8) => Change::AddVoter(*learner, MemberRecord::default()),
            (Some(learner), _) => Change::Remove(*learner),
            (None, 3..) if self.rng.random_bool(0.5) => {
                let others: Vec<u64> = conf_state.voters.into_iter().filter(|id| *id != leader).collect();
                Change::Remove(others[self.rng.random_range(0..others.len())])
            }
            _ => {
                self.next_id += 1;
                self.start(self.next_id - 1);
                Change::AddLearner(self.next_id - 1, MemberRecord::default())
            }
        };
        let _ = self.cores.get_mut(&leader).unwrap().propose_change(&change);
    }

    fn act(&mut self) {
        match self.rng.random_range(0..100) {
            0..55 if !self.under_way.is_empty() => {
                // Mostly in their order.
                let at = if self.rng.random_bool(0.9) { 0 } else { self.rng.random_range(0..self.under_way.len()) };
                self.under_way.rotate_left(at);
                if self.rng.random_bool(0.05) {
                    self.under_way.remove(0);
                } else {
                    self.deliver(0);
                }
            }
            55..90 => {
                if let Some(id) = self.any() {
                    self.cores.get_mut(&id).unwrap().tick();
                    self.drive(id);
                }
            }
            90..94 => {
                if let Some(id) = self.any().filter(|id| self.is_leader(*id)) {
                    let number = self.committed.len() as u8;
                    let _ = self.cores.get_mut(&id).unwrap().propose(Bytes::from(vec![number]));
                    self.drive(id);
                }
            }
            94..97 => {
                if let Some(id) = self.any().filter(|id| self.is_leader(*id)) {
                    self.change(id);
                    self.drive(id);
                }
            }
            97..99 => {
                if let Some(id) = self.any() {
                    self.start(id);
                    self.drive(id);
                }
            }
            _ => self.under_way.clear(),
        }
    }

    /// All messages arrive and time passes, until a leader has committed something of its own term that was not there before; tells whether that happens.
    fn settles(&mut self) -> bool {
        let before = self.committed.len();
        for _ in 0..400 {
            for id in self.cores.keys().copied().collect::<Vec<_>>() {
                // Not all at once, so that they do not divide the votes for ever.
                if self.rng.random_bool(0.7) {
                    self.cores.get_mut(&id).unwrap().tick();
                    self.drive(id);
                }
            }
            for _ in 0..200 {
                if self.under_way.is_empty() {
                    break;
                }
                self.deliver(0);
            }
            if self.committed.len() > before + 1 {
                return true;
            }
            if let Some(id) = self.cores.keys().copied().find(|id| self.is_leader(*id)) {
                let _ = self.cores.get_mut(&id).unwrap().propose(Bytes::from_static(b"after"));
                self.drive(id);
            }
        }
        false
    }
}

#[test]
fn nothing_committed_is_lost_and_one_member_may_be() {
    let (mut committed_count, mut change_count, mut lost_leader_count) = (0, 0, 0);
    for seed in 0..60 {
        let mut model = Model::new(seed);
        for _ in 0..3_000 {
            model.act();
        }
        assert!(model.settles(), "seed {seed}: nobody leads, with all members there");
        let leader = *model.cores.keys().filter(|id| model.is_leader(**id)).max_by_key(|id| model.cores[*id].leadership().term).unwrap();
        // Now a change more, and in the moment in which the leader alone has applied it a voter's disk is lost: mostly its own.
        let before = model.cores[&leader].applied_conf_state().clone();
        model.change(leader);
        for _ in 0..100 {
            model.drive(leader);
            if *model.cores[&leader].applied_conf_state() != before || model.under_way.is_empty() {
                break;
            }
            model.deliver(0);
        }
        let now = model.cores[&leader].applied_conf_state().clone();
        let voters = now.voters.clone();
        // Two have no majority without one of them; and one that is under way still is a second loss.
        if voters.len() >= 3 && now == *model.cores[&leader].conf_state() {
            let lost = if model.rng.random_bool(0.7) { leader } else { voters[model.rng.random_range(0..voters.len())] };
            lost_leader_count += usize::from(lost == leader && now != before);
            model.cores.remove(&lost);
            model.lost.insert(lost);
            model.under_way.clear();
            assert!(model.settles(), "seed {seed}: without {lost} of {voters:?} nobody leads");
        }
        committed_count += model.committed.len();
        change_count += model.committed.values().filter(|entry| change_in(entry).is_some()).count();
    }
    assert!(
        committed_count > 600 && change_count > 120 && lost_leader_count > 5,
        "{committed_count} entries, {change_count} changes, {lost_leader_count} leaders"
    );
}

#[test]
fn a_change_counts_from_the_log_on_and_no_more_when_it_is_replaced() {
    let mut model = Model::new(1);
    model.cores.get_mut(&2).unwrap().campaign();
    model.drive(2);
    assert!(model.settles());
    let core = model.cores.get_mut(&2).unwrap();
    assert!(core.leadership().is_leader);
    core.propose_change(&Change::AddLearner(9, MemberRecord::default())).unwrap();
    assert_eq!(core.conf_state().learners, [9]);
    assert!(core.applied_conf_state().learners.is_empty(), "it is not committed");
    let (_, last) = core.log_range();
    core.propose_change(&Change::Remove(1)).unwrap();
    assert_eq!(core.log_range().1, last, "another one is under way");
    // Nobody hears of it; another leads, and replaces it.
    model.under_way.clear();
    let old = model.cores.remove(&2).unwrap();
    model.disks.get_mut(&2).unwrap().entries = old.node.raft.raft_log.all_entries().into_iter().map(from_raft_entry).collect();
    model.start(2);
    assert_eq!(model.cores[&2].conf_state().learners, [9], "its log says so");
    let kept = model.cores.remove(&2).unwrap();
    assert!(model.settles());
    model.cores.insert(2, kept);
    for _ in 0..5 {
        assert!(model.settles());
    }
    assert!(model.cores[&2].conf_state().learners.is_empty());
    assert_eq!(from_raft_conf(&model.cores[&2].node.raft.prs().conf().to_conf_state()), ConfState { voters: INITIAL.to_vec(), learners: Vec::new() });
}
