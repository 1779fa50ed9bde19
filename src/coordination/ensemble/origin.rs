//! A member's own proposals on their way to the leader and back, each carried out at most once. Pure; [`super::state`] tells the rule.

use std::collections::{BTreeSet, VecDeque};

use super::state::Payload;
use crate::coordination::op::Command;

/// After how many ticks without progress a member is in doubt about what it has sent.
const STALE_TICKS: u32 = 30;

/// How many proposals are looked through for the newest of a session.
const LOOK_BACK_COUNT: usize = 256;

/// After how many ticks a proposal is given up: its caller is told that the outcome is unknown.
pub const GIVE_UP_TICKS: u32 = 300;

struct Waiting<A> {
    command: Command,
    answer: A,
    /// Its number under the current registration; 0 if it was not sent under it.
    sequence: u64,
    was_ever_sent: bool,
    age_ticks: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A registration is needed, and not under way.
    InDoubt,
    /// It is under way.
    Registering,
    Registered,
}

/// The proposals of one member that wait; `A` is whoever waits.
pub struct Origin<A> {
    id: u64,
    nonce: u64,
    phase: Phase,
    registration: u64,
    last_sequence: u64,
    waiting: VecDeque<Waiting<A>>,
    stale_ticks: u32,
}

impl<A> Origin<A> {
    /// A member that has proposed nothing yet in this life; `nonce` is random.
    pub fn new(id: u64, nonce: u64) -> Self {
        Self { id, nonce, phase: Phase::InDoubt, registration: 0, last_sequence: 0, waiting: VecDeque::new(), stale_ticks: 0 }
    }

    /// How many proposals wait.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Whether it could propose right now.
    pub fn is_registered(&self) -> bool {
        self.phase == Phase::Registered
    }

    /// Takes a proposal.
    pub fn submit(&mut self, command: Command, answer: A) {
        self.waiting.push_back(Waiting { command, answer, sequence: 0, was_ever_sent: false, age_ticks: 0 });
    }

    /// Whoever waits for the newest proposal of the session that waits, or for a newer one of another session; none if none of the session waits.
    pub fn last_of(&mut self, session: i64) -> Option<&mut A> {
        // Not far: another one does as well, as long as it is newer.
        let from = self.waiting.len().saturating_sub(LOOK_BACK_COUNT);
        let newest = self.waiting.iter().skip(from).rposition(|waiting| waiting.command.session == session).map(|at| from + at);
        let at = newest.or_else(|| self.waiting.iter().take(from).any(|waiting| waiting.command.session == session).then_some(from))?;
        self.waiting.get_mut(at).map(|waiting| &mut waiting.answer)
    }

    /// Drops the proposals that were never sent and are not wanted any more.
    pub fn forget(&mut self, is_unwanted: impl Fn(&Command, &A) -> bool) {
        self.waiting.retain(|waiting| waiting.was_ever_sent || !is_unwanted(&waiting.command, &waiting.answer));
    }

    /// What became of the proposals sent so far is not known: the leader changed, or did not get them. `nonce` is random.
    pub fn doubt(&mut self, nonce: u64) {
        self.phase = Phase::InDoubt;
        self.nonce = nonce;
        self.stale_ticks = 0;
    }

    /// What was just given out did not go: nothing goes until time has passed, and then a new registration does.
    pub fn stall(&mut self) {
        self.phase = Phase::Registering;
        self.stale_ticks = 0;
    }

    /// What is to be sent to the leader now, in order. `eager` registers although nothing waits.
    pub fn outgoing(&mut self, eager: bool) -> Vec<Payload> {
        match self.phase {
            Phase::InDoubt if eager || !self.waiting.is_empty() => {
                self.phase = Phase::Registering;
                self.stale_ticks = 0;
                vec![Payload::Register { origin: self.id, nonce: self.nonce }]
            }
            Phase::InDoubt | Phase::Registering => Vec::new(),
            Phase::Registered => {
                let (origin, registration) = (self.id, self.registration);
                let mut out = Vec::new();
                // What was sent stands before what was not.
                let unsent = self.waiting.partition_point(|waiting| waiting.sequence > 0);
                for waiting in self.waiting.range_mut(unsent..) {
                    self.last_sequence += 1;
                    waiting.sequence = self.last_sequence;
                    waiting.was_ever_sent = true;
                    out.push(Payload::Command { origin, registration, sequence: waiting.sequence, command: waiting.command.clone() });
                }
                out
            }
        }
    }

    /// An entry was applied; `executed` tells whether a command was carried out. Returns whom to answer. `nonce` is random, for the case of doubt.
    pub fn applied(&mut self, index: u64, payload: &Payload, executed: bool, nonce: u64) -> Option<A> {
        match payload {
            Payload::Register { origin, nonce: seen } if *origin == self.id => {
                if *seen != self.nonce {
                    // One of an earlier doubt or life came late. It fences a registration that stands; one that is under way comes after it, or will be
                    // missed: to answer each late one with another would never end.
                    if self.phase == Phase::Registered {
                        self.doubt(nonce);
                    }
                    return None;
                }
                self.phase = Phase::Registered;
                (self.registration, self.last_sequence, self.stale_ticks) = (index, 0, 0);
                self.waiting.iter_mut().for_each(|waiting| waiting.sequence = 0);
                None
            }
            Payload::Command { origin, registration, sequence, .. } if *origin == self.id && *registration == self.registration => {
                if !executed {
                    if self.phase == Phase::Registered {
                        self.doubt(nonce); // One before it was lost.
                    }
                    return None;
                }
                self.stale_ticks = 0;
                let at = self.waiting.iter().position(|waiting| waiting.sequence == *sequence)?;
                self.waiting.remove(at).map(|waiting| waiting.answer)
            }
            _ => None,
        }
    }

    /// The state was replaced by a snapshot: what was ever sent may be in it. Returns whom to tell that the outcome is unknown.
    pub fn state_replaced(&mut self, nonce: u64) -> Vec<A> {
        self.doubt(nonce);
        self.take_from(|waiting| waiting.was_ever_sent)
    }

    /// A tick has passed. Returns whom to tell that the outcome is unknown. `nonce` is random, for the case of doubt.
    pub fn tick(&mut self, nonce: u64) -> Vec<A> {
        self.waiting.iter_mut().for_each(|waiting| waiting.age_ticks += 1);
        let is_outstanding = self.phase == Phase::Registering || self.waiting.iter().any(|waiting| waiting.sequence > 0);
        self.stale_ticks = if is_outstanding { self.stale_ticks + 1 } else { 0 };
        if self.stale_ticks >= STALE_TICKS {
            self.doubt(nonce);
        }
        self.take_from(|waiting| waiting.age_ticks >= GIVE_UP_TICKS)
    }

    /// Gives those up, and what their sessions have proposed besides. Returns whom to tell that the outcome is unknown.
    pub fn give_up(&mut self, is_given_up: impl Fn(&Command) -> bool) -> Vec<A> {
        if self.waiting.iter().any(|waiting| is_given_up(&waiting.command)) { self.take_from(|waiting| is_given_up(&waiting.command)) } else { Vec::new() }
    }

    /// Takes those, and what their sessions have proposed besides: a session's later proposal must not be carried out where an earlier one was not.
    fn take_from(&mut self, is_taken: impl Fn(&Waiting<A>) -> bool) -> Vec<A> {
        let sessions: BTreeSet<i64> = self.waiting.iter().filter(|waiting| is_taken(waiting)).map(|waiting| waiting.command.session).collect();
        self.take(|waiting| is_taken(waiting) || (waiting.command.session != 0 && sessions.contains(&waiting.command.session)))
    }

    fn take(&mut self, is_taken: impl Fn(&Waiting<A>) -> bool) -> Vec<A> {
        let (taken, kept): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.waiting).into_iter().partition(|waiting| is_taken(waiting));
        self.waiting = kept;
        taken.into_iter().map(|waiting| waiting.answer).collect()
    }

    /// Everybody who waits, at the end.
    pub fn drain(&mut self) -> Vec<A> {
        self.take(|_| true)
    }
}

#[cfg(test)]
mod tests {
    use super::super::state::{Meaning, Outcome, Replicated};
    use super::*;
    use crate::coordination::op::{Operation, Request};
    use crate::coordination::storage::format::{Entry, EntryKind};
    use crate::coordination::tree::Tree;
    use proptest::prelude::*;

    fn command(number: u64) -> Command {
        Command { session: 0, time_ms: 0, request: Request::One(Operation::create(format!("/n{number}"), vec![])) }
    }

    #[test]
    fn the_newest_of_a_session_is_found_and_what_nobody_wants_is_not_sent() {
        let mut origin = Origin::new(1, 1);
        let of = |session, number| Command { session, ..command(number) };
        for number in 0..2 * LOOK_BACK_COUNT as u64 {
            origin.submit(of(if number == 0 { 7 } else { 1 + number as i64 % 2 }, number), number);
        }
        assert_eq!(origin.last_of(2), Some(&mut (2 * LOOK_BACK_COUNT as u64 - 1)));
        assert_eq!(origin.last_of(1), Some(&mut (2 * LOOK_BACK_COUNT as u64 - 2)));
        assert_eq!(origin.last_of(7), Some(&mut (LOOK_BACK_COUNT as u64)), "a newer one of another session, in the place of one that is far back");
        assert_eq!(origin.last_of(8), None);
        assert_eq!(origin.outgoing(false).len(), 1, "the registration");
        origin.applied(5, &Payload::Register { origin: 1, nonce: 1 }, false, 2);
        assert_eq!(origin.outgoing(false).len(), 2 * LOOK_BACK_COUNT);
        origin.submit(of(9, 1_000), 1_000);
        origin.submit(of(9, 1_001), 1_001);
        origin.forget(|command, answer| command.session == 7 || *answer == 1_000);
        assert_eq!(origin.waiting_count(), 2 * LOOK_BACK_COUNT + 1, "what was sent may be carried out");
        let Payload::Command { command, .. } = &origin.outgoing(false)[0] else { panic!() };
        assert_eq!(command, &of(9, 1_001));
    }

    #[test]
    fn what_is_given_up_takes_the_rest_of_its_session_with_it() {
        let of = |session, number| Command { session, ..command(number) };
        let mut origin = Origin::new(1, 1);
        origin.outgoing(true);
        origin.applied(5, &Payload::Register { origin: 1, nonce: 1 }, false, 2);
        origin.submit(of(7, 1), 1);
        origin.submit(of(0, 2), 2);
        assert_eq!(origin.outgoing(false).len(), 2);
        for (session, number) in [(7, 3), (8, 4), (0, 5)] {
            origin.submit(of(session, number), number);
        }
        assert_eq!(origin.state_replaced(3), [1, 2, 3], "whether the first was carried out is unknown, so the third must not be");
        assert_eq!(origin.waiting_count(), 2);
        let mut given_up = Vec::new();
        for tick in 0..GIVE_UP_TICKS {
            if tick == 1 {
                origin.submit(of(8, 6), 6);
                origin.submit(of(9, 7), 7);
            }
            assert_eq!(given_up, [0; 0]);
            given_up = origin.tick(4);
        }
        assert_eq!(given_up, [4, 5, 6], "a session's later one goes with it, though it is younger");
        assert_eq!(origin.waiting_count(), 1);
    }

    proptest! {
        /// Whatever is lost, delayed or proposed late, each proposal is carried out at most once, in order, and its answer comes iff it was.
        #[test]
        fn each_proposal_is_carried_out_at_most_once_and_in_order(steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>()), 1..200)) {
            let mut origin = Origin::new(1, 1);
            let (mut tree, mut replicated) = (Tree::new(), Replicated::initial([(1, Default::default())]));
            let (mut network, mut executed, mut answered) = (Vec::<Payload>::new(), Vec::new(), Vec::new());
            let (mut submitted, mut index, mut nonce) = (0, 0, 1);
            let mut land = |payload: Payload, origin: &mut Origin<u64>, nonce: &mut u64| {
                index += 1;
                *nonce += 1;
                let entry = Entry { term: 1, index, kind: EntryKind::Proposal, data: vec![1].into() };
                let outcome = replicated.apply(&mut tree, &entry, &Meaning::Payload(payload.clone()));
                let was_executed = matches!(outcome, Outcome::Executed(_));
                if let (Payload::Command { command, .. }, true) = (&payload, was_executed) {
                    executed.push(command.clone());
                }
                if let Some(answer) = origin.applied(index, &payload, was_executed, *nonce) {
                    answered.push(answer);
                }
            };
            for (step, at) in steps {
                match step {
                    0 | 1 => {
                        origin.submit(command(submitted), submitted);
                        submitted += 1;
                    }
                    2 => network.extend(origin.outgoing(false)),
                    3 if !network.is_empty() => {
                        // Any that is under way arrives, and may arrive again.
                        let payload = network[at.index(network.len())].clone();
                        land(payload, &mut origin, &mut nonce);
                    }
                    4 if !network.is_empty() => drop(network.remove(at.index(network.len()))),
                    _ => {
                        nonce += 1;
                        origin.doubt(nonce);
                    }
                }
            }
            // Then nothing is lost any more, and time has passed.
            origin.doubt(u64::MAX);
            for _ in 0..20 {
                for payload in std::mem::take(&mut network) {
                    land(payload, &mut origin, &mut nonce);
                }
                network.extend(origin.outgoing(false));
            }
            prop_assert_eq!(origin.waiting_count(), 0);
            let expected: Vec<Command> = (0..submitted).map(command).collect();
            prop_assert_eq!(&executed, &expected);
            prop_assert_eq!(answered, (0..submitted).collect::<Vec<_>>());
        }
    }
}
