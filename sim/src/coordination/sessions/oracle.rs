//! The replay oracle: a tree of its own that every committed transaction is applied to, and what clients were told held against it.
//!
//! Every answer names the transaction up to which it shows the tree, so there is exactly one right answer to each request:
//! - *Replay* (Z2): what a transaction came to on any member, in any of its lives, is what it comes to here.
//! - *Reads* (Z3, Z4): an answer is what the tree held at its zxid, to the last field; within a session zxids never go back, on whatever member.
//! - *Writes* (Z3): an answer's zxid is that of a transaction with exactly these operations of this session, and the outcome is its outcome. It is above
//!   every zxid that anybody had been shown before the request began. What was refused is not in the log, what was written is there once.
//! - *`sync`* (Z3): a read behind it shows at least every zxid that anybody had been shown before it began.
//! - *Sessions* (Z5): none ends for its silence before its time-out is over since it began, since the leader that ends it was elected, or since that leader
//!   had a request of it itself; none that has ended is taken up again, none that lives is told to have ended; what a connection asked for is not carried out once its session has moved on.
//! - *Ephemeral znodes, and the lock that is made of them* (Z5): [`super::lifetimes`].
//! - *Timeliness* (Z7): a member that the others do not reach answers nobody any more after a while: what it shows is from long ago.
//! - *Watches* (Z6): [`super::watches`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ottla::coordination::acl::Identity;
use ottla::coordination::ensemble::Executed;
use ottla::coordination::jute::{JuteError, Reader};
use ottla::coordination::op::{Command, ErrorCode, Event, Operation, OperationResult, Request};
use ottla::coordination::protocol::{ConnectResponse, opcode};
use ottla::coordination::tree::{Applied, Tree};

use super::lifetimes::{Holders, check_ephemerals};
use super::reads;
use super::request::{Asked, Kind};
use crate::verdict::Verdict;
use crate::world::{Host, World};

/// Clocks run at most this much too fast, in percent, with every drift that is injected; and what rounding adds.
const FAST_PERCENT: u64 = 145;
const ROUNDING: Duration = Duration::from_millis(20);

/// How long a member that is cut off may go on to answer for a session that ended meanwhile: it learns of that by its own clock alone.
const CUT_OFF: Duration = Duration::from_secs(5);

/// For how long a member that no other member reaches may answer, by the slowest clock: until it knows that it has no leader, and until that has lasted for too
/// long.
const ALONE: Duration = Duration::from_secs(6);

/// How many trees are kept. A member that is further behind serves no clients.
const TREES_KEPT_COUNT: usize = 20_000;

/// A transaction.
struct Transaction {
    term: u64,
    command: Option<Command>,
    applied: Option<Applied>,
}

#[derive(Default)]
struct SessionFacts {
    timeout: Duration,
    begun_at: Duration,
    ended_at: Option<Duration>,
    /// Connections of its client that were accepted, in order: their number, and the transaction that attached the session to them, or a later one.
    attached: Vec<(u64, i64)>,
    /// What was carried out for which of its connections.
    carried_out: Vec<(u64, i64)>,
    /// The last write that was answered: when it was asked for, by way of which member, which transaction it was.
    sign: Option<(Duration, usize, i64)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Open,
    Refused,
    Done(i64),
}

#[derive(Default)]
struct Facts {
    tree: Tree,
    trees: BTreeMap<i64, Tree>,
    log: BTreeMap<i64, Transaction>,
    /// Who was elected in a term, and when.
    elected: BTreeMap<u64, (u64, Duration)>,
    /// Whose Raft id that is, by the number of the member.
    members: BTreeMap<u64, usize>,
    /// The highest zxid that anybody was shown.
    shown: i64,
    values: BTreeMap<Bytes, Fate>,
    sessions: BTreeMap<i64, SessionFacts>,
    /// Sessions whose clients show signs of life in a healed world.
    kept: BTreeSet<i64>,
    last_value: u64,
    holders: Holders,
    was_whole: bool,
}

/// A request that has begun: what was known before.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    /// The highest zxid that anybody had been shown.
    pub floor: i64,
    /// When.
    pub at: Duration,
}

/// A connection of a session, as far as the checks need it.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The session.
    pub session: i64,
    /// Counts the connections of this client.
    pub number: u64,
    /// Which member it goes to.
    pub member: usize,
    /// Who the client has shown to be.
    pub identities: Vec<Identity>,
    /// The zxid of the last answer of the session.
    pub last_zxid: i64,
    /// What the next read must show, after a `sync`.
    pub sync_floor: i64,
}

/// See the file's head.
pub struct Oracle {
    world: World,
    /// The members' hosts.
    members: Vec<Host>,
    facts: Mutex<Facts>,
}

fn tag(operation: &Operation) -> Option<&Bytes> {
    match operation {
        Operation::CreateWithAcl { data, .. } | Operation::Set { data, .. } => data.as_ref().filter(|data| data.len() == 16),
        _ => None,
    }
}

fn connection_of(tag: &Bytes) -> u64 {
    tag.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Oracle {
    /// One that has seen nothing of the members on these hosts.
    pub fn new(world: &World, members: &[Host]) -> Self {
        let facts = Facts { tree: Tree::new(), trees: BTreeMap::from([(0, Tree::new())]), ..Facts::default() };
        Self { world: world.clone(), members: members.to_vec(), facts: Mutex::new(facts) }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A promise is broken: that decides the run.
    pub fn broken(&self, invariant: &str, detail: String) {
        self.world.fail(Verdict::Correctness { invariant: invariant.to_owned(), detail });
    }

    /// A member was elected.
    pub fn elected(&self, raft_id: u64, term: u64) {
        let now = self.world.now();
        self.facts().elected.entry(term).or_insert((raft_id, now));
    }

    /// That Raft id is that member's.
    pub fn member(&self, raft_id: u64, index: usize) {
        self.facts().members.insert(raft_id, index);
    }

    /// A member has carried out an entry.
    pub fn executed(&self, raft_id: u64, index: u64, term: u64, executed: &Executed<'_>) {
        let zxid = index as i64;
        let now = self.world.now();
        let mut facts = self.facts();
        let facts = &mut *facts;
        let mut wrong = Vec::new();
        let (command, applied) = match *executed {
            Executed::Nothing => (None, None),
            Executed::Command(command, applied) => (Some(command), Some(applied)),
        };
        if let Some(before) = facts.log.get(&zxid) {
            if before.command.as_ref() != command || before.applied.as_ref() != applied {
                wrong.push(("replay", format!("member {raft_id} made of entry {index}: {executed:?}; before it was {:?}", before.applied)));
            }
        } else {
            let last = facts.tree.last_zxid();
            if zxid != last + 1 {
                wrong.push(("replay", format!("member {raft_id} applied entry {index}; nobody had applied the one before, the last was {last}")));
            }
            let expected = match *executed {
                Executed::Nothing => {
                    facts.tree.skip(zxid);
                    None
                }
                Executed::Command(command, _) => {
                    let expected = facts.tree.apply(command, zxid);
                    if let Some(before) = facts.trees.get(&last)
                        && let Err(detail) = check_ephemerals(before, command, &expected, &facts.tree)
                    {
                        wrong.push(("ephemeral", format!("transaction {zxid}, {command:?}: {detail}")));
                    }
                    Some(expected)
                }
            };
            if expected.as_ref() != applied {
                wrong.push(("replay", format!("member {raft_id} made of entry {index}: {executed:?}, where {expected:?} comes of it")));
            }
            if let Executed::Command(command, applied) = *executed {
                facts.note(zxid, term, now, command, applied, &mut wrong);
            }
            facts.trees.insert(zxid, facts.tree.clone());
            if facts.trees.len() > TREES_KEPT_COUNT {
                facts.trees.pop_first();
            }
            facts.log.insert(zxid, Transaction { term, command: command.cloned(), applied: applied.cloned() });
        }
        wrong.into_iter().for_each(|(invariant, detail)| self.broken(invariant, detail));
    }

    /// A value that nobody else writes, for an operation over that connection.
    pub fn value(&self, connection: u64) -> Bytes {
        let mut facts = self.facts();
        facts.last_value += 1;
        let mut bytes = connection.to_be_bytes().to_vec();
        bytes.extend_from_slice(&facts.last_value.to_be_bytes());
        let value = Bytes::from(bytes);
        facts.values.insert(value.clone(), Fate::Open);
        value
    }

    /// Something is about to be asked.
    pub fn begin(&self) -> Begun {
        Begun { floor: self.facts().shown, at: self.world.now() }
    }

    /// The last transaction that anybody applied.
    pub fn last_zxid(&self) -> i64 {
        self.facts().tree.last_zxid()
    }

    /// How many znodes there are after that transaction, and their bytes; `None` if nobody has applied it.
    pub fn size(&self, zxid: i64) -> Option<(u64, u64)> {
        self.facts().trees.get(&zxid).map(|tree| (tree.node_count(), tree.data_bytes()))
    }

    /// The sessions of clients that live.
    pub fn living(&self) -> Vec<i64> {
        self.facts().tree.client_sessions().map(|known| known.session).collect()
    }

    /// The changes of a transaction, in order.
    pub fn all_changes(&self, zxid: i64, each: impl FnMut(&Event)) {
        let facts = self.facts();
        if let Some(transaction) = facts.log.get(&zxid) {
            transaction.applied.iter().flat_map(|applied| &applied.events).for_each(each);
        }
    }

    /// The session was shown, at `zxid`, that its znode is the first of the lock.
    pub fn holds(&self, session: i64, path: &str, zxid: i64) {
        let mut facts = self.facts();
        let mut holders = std::mem::take(&mut facts.holders);
        let found = holders.holds(session, path, zxid, |at| facts.tree_at(at));
        facts.holders = holders;
        drop(facts);
        if let Err(detail) = found {
            self.broken("mutual-exclusion", detail);
        }
    }

    /// The session holds no lock, or is in doubt.
    pub fn lets_go(&self, session: i64) {
        self.facts().holders.lets_go(session);
    }

    /// The client of that session shows signs of life, and nothing is in its way: the session must not expire until [`Oracle::release`].
    pub fn keep(&self, session: i64) {
        self.facts().kept.insert(session);
    }

    /// Clients go.
    pub fn release(&self) {
        self.facts().kept.clear();
    }

    /// The ensemble has all its members: from now on none of them is a majority by itself.
    pub fn is_whole(&self) {
        self.facts().was_whole = true;
    }

    /// The connection was answered at all: not long after its session has ended, nor by a member that has heard of no other for long.
    pub fn heard(&self, connection: &Connection, asked: &Asked) {
        let session = connection.session;
        let was_whole = self.facts().was_whole;
        if let Some(alone_since) = self.members.get(connection.member).and_then(|host| self.world.unheard_since(host, &self.members)).filter(|_| was_whole)
            && asked.begun.at >= alone_since + ALONE
        {
            let detail = format!(
                "session {session:#x}, connection {}, {asked:?}: member-{} answered, which has heard of no other member for {:?}",
                connection.number,
                connection.member + 1,
                self.world.now() - alone_since
            );
            self.broken("served-without-leader", detail);
        }
        let ended_at = self.facts().sessions.get(&session).and_then(|record| record.ended_at);
        if let Some(ended_at) = ended_at.filter(|ended_at| *ended_at + CUT_OFF < asked.begun.at) {
            let detail = format!("session {session:#x} was answered over connection {}, {:?} after it had ended", connection.number, asked.begun.at - ended_at);
            self.broken("session-ended", detail);
        }
    }

    /// The tree after a transaction; `None` if nobody has applied it.
    pub fn tree_at(&self, zxid: i64) -> Option<Tree> {
        self.facts().trees.get(&zxid).cloned()
    }

    /// A connection was answered: the session that it was opened for (0 for a new one), when it was asked for, and the answer.
    pub fn connected(&self, wanted: i64, number: u64, begun: Begun, response: &ConnectResponse) {
        let mut facts = self.facts();
        if response.session == 0 {
            let lives = facts.tree.client_session(wanted).is_some();
            drop(facts);
            if lives {
                self.broken("session-expired", format!("the client of session {wanted:#x} was told that it has ended, and it lives"));
            }
            return;
        }
        let session = response.session;
        let known = facts.tree.client_session(session);
        let Some(record) = facts.sessions.get_mut(&session) else {
            drop(facts);
            self.broken("session-begun", format!("a client was given session {session:#x}, which is in no transaction"));
            return;
        };
        let ended_before = record.ended_at.is_some_and(|ended_at| ended_at < begun.at);
        let mut late = None;
        if let Some(known) = known {
            record.attached.push((number, known.attached_zxid));
            late = record.unfenced();
        }
        drop(facts);
        if ended_before {
            self.broken("session-ended", format!("session {session:#x} was taken up again after it had ended"));
        }
        if let Some(late) = late {
            self.broken("session-moved", format!("session {session:#x}: {late}"));
        }
    }

    /// An answer came. The connection's zxids are brought up to date; returns the zxid of the tree that it shows.
    pub fn answered(&self, connection: &mut Connection, asked: &Asked, zxid: i64, error: i32, body: &[u8]) {
        let mut facts = self.facts();
        let found = facts.check(connection, asked, zxid, error, body);
        facts.shown = facts.shown.max(zxid);
        if matches!(asked.kind, Kind::Write { .. })
            && let Some(record) = facts.sessions.get_mut(&connection.session)
        {
            record.sign = Some((asked.begun.at, connection.member, zxid));
        }
        drop(facts);
        connection.last_zxid = connection.last_zxid.max(zxid);
        if let Err((invariant, detail)) = found {
            let Connection { session, number, .. } = connection;
            self.broken(invariant, format!("session {session:#x}, connection {number}, {asked:?}, answered at {zxid} with code {error}: {detail}"));
        }
    }
}

type Wrong = (&'static str, String);

impl SessionFacts {
    /// What was carried out for a connection although the session had been attached to a later one.
    fn unfenced(&self) -> Option<String> {
        self.attached.iter().find_map(|(number, attached_zxid)| {
            let late = self.carried_out.iter().find(|(of, zxid)| of < number && zxid > attached_zxid)?;
            Some(format!("transaction {} was asked for over connection {}, and {attached_zxid} had moved it to connection {number}", late.1, late.0))
        })
    }
}

impl Facts {
    fn note(&mut self, zxid: i64, term: u64, now: Duration, command: &Command, applied: &Applied, wrong: &mut Vec<Wrong>) {
        if applied.outcome.is_err() {
            return;
        }
        let least = |timeout: Duration| (timeout * 100 / FAST_PERCENT as u32).saturating_sub(ROUNDING);
        if let Request::OpenSession { session, timeout_ms, .. } = &command.request {
            let timeout = Duration::from_millis(u64::try_from(*timeout_ms).unwrap_or(0));
            self.sessions.insert(*session, SessionFacts { timeout, begun_at: now, ..SessionFacts::default() });
        }
        if let Some(session) = command.ends_session()
            && let Some(record) = self.sessions.get_mut(&session)
        {
            if command.session == 0 {
                if self.kept.contains(&session) {
                    wrong.push(("session-time-out", format!("session {session:#x} expired although its client was alive, in a healed world")));
                }
                let (leader, elected_at) = self.elected.get(&term).copied().unwrap_or_default();
                // What came to the leader itself in that term was heard of before it was proposed.
                let sign = record.sign.filter(|(_, member, zxid)| {
                    self.members.get(&leader) == Some(member) && self.log.get(zxid).is_some_and(|transaction| transaction.term == term)
                });
                let heard_at = sign.map_or(Duration::ZERO, |(at, ..)| at);
                for (since, what) in [(record.begun_at, "it began"), (elected_at, "its leader was elected"), (heard_at, "its leader had a request of it")] {
                    if now < since + least(record.timeout) {
                        let detail = format!("session {session:#x} with {:?} expired {:?} after {what}", record.timeout, now.saturating_sub(since));
                        wrong.push(("session-time-out", detail));
                    }
                }
            }
            record.ended_at.get_or_insert(now);
        }
        for value in command.request.operations().iter().filter_map(tag) {
            match self.values.insert(value.clone(), Fate::Done(zxid)) {
                Some(Fate::Done(before)) => wrong.push(("exactly-once", format!("transaction {zxid} writes what transaction {before} wrote"))),
                Some(Fate::Refused) => wrong.push(("refused-write", format!("transaction {zxid} carries out what had been refused"))),
                Some(Fate::Open) | None => {}
            }
            if let Some(record) = self.sessions.get_mut(&command.session) {
                if record.ended_at.is_some_and(|ended_at| ended_at < now) {
                    wrong.push(("session-ended", format!("transaction {zxid} is of session {:#x}, which had ended", command.session)));
                }
                record.carried_out.push((connection_of(value), zxid));
                if let Some(late) = record.unfenced() {
                    wrong.push(("session-moved", format!("session {:#x}: {late}", command.session)));
                }
            }
        }
    }

    fn tree_at(&self, zxid: i64) -> Option<&Tree> {
        self.trees.get(&zxid)
    }

    fn check(&mut self, connection: &mut Connection, asked: &Asked, zxid: i64, error: i32, body: &[u8]) -> Result<(), Wrong> {
        if zxid < connection.last_zxid {
            return Err(("session-order", format!("the session had been shown {}", connection.last_zxid)));
        }
        if zxid > self.tree.last_zxid() {
            return Err(("phantom", format!("nobody has applied that, the last transaction is {}", self.tree.last_zxid())));
        }
        let mut body = Reader::new(body);
        match &asked.kind {
            Kind::Ping | Kind::SetWatches | Kind::AddWatch { .. } | Kind::RemoveWatches { .. } => Ok(()),
            Kind::Sync => {
                connection.sync_floor = connection.sync_floor.max(asked.begun.floor);
                Ok(())
            }
            Kind::Write { operations, opcodes, is_multi } => self.check_write(connection, asked, (operations, opcodes, *is_multi), zxid, error, &mut body),
            Kind::Close => {
                let ended = self.log.get(&zxid).and_then(|transaction| transaction.command.as_ref()).and_then(Command::ends_session);
                // Or it had ended before.
                if error == 0 && ended != Some(connection.session) {
                    Err(("write-answer", "that transaction does not end the session".to_owned()))
                } else {
                    Ok(())
                }
            }
            Kind::Data { .. } | Kind::Exists { .. } | Kind::Children { .. } | Kind::Several(_) | Kind::Ephemerals { .. } | Kind::Count { .. } => {
                if zxid < connection.sync_floor {
                    return Err(("stale-read-after-sync", format!("{} had been shown before the sync began", connection.sync_floor)));
                }
                let Some(tree) = self.trees.get(&zxid) else { return Err(("phantom", "that is too long ago for a member that serves".to_owned())) };
                let expected = reads::expected(tree, &asked.kind, connection.session, &connection.identities);
                let shown = reads::decode(&asked.kind, error, &mut body).map_err(|error| ("protocol", error.to_string()))?;
                if Some(&shown) == expected.as_ref() { Ok(()) } else { Err(("read-answer", format!("it shows {shown:?}, and the tree held {expected:?}"))) }
            }
        }
    }

    fn check_write(
        &mut self,
        connection: &Connection,
        asked: &Asked,
        (operations, opcodes, is_multi): (&[Operation], &[i32], bool),
        zxid: i64,
        error: i32,
        body: &mut Reader<'_>,
    ) -> Result<(), Wrong> {
        let transaction = self.log.get(&zxid);
        let command = transaction.and_then(|transaction| transaction.command.as_ref());
        if command.is_none_or(|command| command.session != connection.session || command.request.operations() != operations) {
            return Err(("write-answer", format!("that transaction is {command:?}")));
        }
        if zxid <= asked.begun.floor {
            return Err(("linearizable-write", format!("{} had been shown before it began", asked.begun.floor)));
        }
        let outcome = transaction.and_then(|transaction| transaction.applied.as_ref()).map(|applied| applied.outcome.clone());
        let shown = decode_write(opcodes, is_multi, error, body).map_err(|error| ("protocol", error.to_string()))?;
        let expected = match &outcome {
            Some(Ok(results)) => Ok(opcodes.iter().zip(results).map(|(opcode, result)| as_shown(*opcode, is_multi, result)).collect()),
            Some(Err(failure)) if is_multi && failure.code != ErrorCode::SessionExpired => {
                Err(failure.codes(operations.len()).into_iter().map(ErrorCode::code).collect())
            }
            Some(Err(failure)) => Err(vec![failure.code.code()]),
            None => Err(Vec::new()),
        };
        if shown.is_err() {
            for value in operations.iter().filter_map(tag) {
                if let Some(Fate::Done(done)) = self.values.insert(value.clone(), Fate::Refused) {
                    return Err(("refused-write", format!("transaction {done} carried it out")));
                }
            }
        }
        if shown == expected { Ok(()) } else { Err(("write-answer", format!("it shows {shown:?}, and came to {expected:?}"))) }
    }
}

/// What is shown of a result: its path and stat as far as the protocol has them.
type Shown = (String, Option<ottla::coordination::op::Stat>);

fn as_shown(opcode: i32, _is_multi: bool, result: &OperationResult) -> Shown {
    match result {
        OperationResult::Created { path, stat } => (path.clone(), (opcode != opcode::CREATE).then_some(*stat)),
        OperationResult::Set { stat } | OperationResult::AclSet { stat } => (String::new(), Some(*stat)),
        OperationResult::Deleted | OperationResult::Checked => (String::new(), None),
    }
}

fn decode_result(opcode: i32, body: &mut Reader<'_>) -> Result<Shown, JuteError> {
    Ok(match opcode {
        opcode::CREATE => (body.string()?.to_owned(), None),
        opcode::CREATE2 | opcode::CREATE_CONTAINER | opcode::CREATE_TTL => (body.string()?.to_owned(), Some(body.stat()?)),
        opcode::SET_DATA | opcode::SET_ACL => (String::new(), Some(body.stat()?)),
        _ => (String::new(), None),
    })
}

fn decode_write(opcodes: &[i32], is_multi: bool, error: i32, body: &mut Reader<'_>) -> Result<Result<Vec<Shown>, Vec<i32>>, JuteError> {
    if error != 0 {
        return Ok(Err(vec![error]));
    }
    if !is_multi {
        return Ok(Ok(vec![decode_result(opcodes[0], body)?]));
    }
    let (mut results, mut codes) = (Vec::new(), Vec::new());
    loop {
        let (kind, done, _error) = (body.int()?, body.bool()?, body.int()?);
        if done {
            return Ok(if codes.is_empty() { Ok(results) } else { Err(codes) });
        }
        if kind == opcode::ERROR { codes.push(body.int()?) } else { results.push(decode_result(kind, body)?) }
    }
}

#[cfg(test)]
mod tests {
    use ottla::coordination::acl;
    use ottla::coordination::jute::Writer;
    use ottla::coordination::op::CreateMode;

    use super::super::request::{create, one};
    use super::*;
    use crate::world::{WorldOptions, run};

    /// An oracle, and a member that applies what it is given to a tree of its own.
    struct Stage {
        oracle: Oracle,
        world: World,
        member: Tree,
        index: u64,
    }

    const SESSION: i64 = 7;

    impl Stage {
        fn apply(&mut self, session: i64, request: Request) -> Applied {
            self.index += 1;
            let command = Command { session, time_ms: 0, request };
            let applied = self.member.apply(&command, self.index as i64);
            self.oracle.executed(1, self.index, 1, &Executed::Command(&command, &applied));
            applied
        }

        fn write(&mut self, attached_zxid: i64, operation: Operation) -> Applied {
            self.apply(SESSION, Request::Attached { attached_zxid, identities: Vec::new(), operations: vec![operation] })
        }

        fn connection(&self, number: u64) -> Connection {
            Connection { session: SESSION, number, member: 0, identities: Vec::new(), last_zxid: 0, sync_floor: 0 }
        }

        fn asked(&self, kind: Kind) -> Asked {
            Asked { xid: 1, kind, begun: self.oracle.begin() }
        }

        fn connected(&self, number: u64, begun: Begun) {
            let response = ConnectResponse { timeout_ms: 3_000, session: SESSION, password: [1; 16], read_only: None };
            self.oracle.connected(SESSION, number, begun, &response);
        }
    }

    fn make(oracle: &Oracle, path: &str) -> (Operation, i32) {
        create(path, oracle.value(1), CreateMode::Persistent, vec![acl::Acl::open()])
    }

    /// A run in which the session has begun (transaction 1) and `/a` exists (transaction 2).
    fn verdict(body: impl AsyncFnOnce(&mut Stage) + Send + 'static) -> Verdict {
        let report = run(WorldOptions::calm(1), move |world| async move {
            let mut stage = Stage { oracle: Oracle::new(&world, &[]), world, member: Tree::new(), index: 0 };
            stage.oracle.elected(1, 1);
            stage.oracle.member(1, 0);
            stage.apply(0, Request::OpenSession { session: SESSION, timeout_ms: 3_000, password: [1; 16] });
            stage.connected(1, stage.oracle.begin());
            let (operation, _) = make(&stage.oracle, "/a");
            stage.write(1, operation);
            body(&mut stage).await;
            Verdict::Clean
        });
        report.verdict
    }

    fn shows(stage: &Stage, path: &str) -> Vec<u8> {
        let mut out = Writer::default();
        out.stat(&stage.member.stat(path).unwrap());
        out.finish().to_vec()
    }

    fn exists(path: &str) -> Kind {
        Kind::Exists { path: path.to_owned(), watch: false }
    }

    fn is_broken(found: &Verdict, name: &str) -> bool {
        matches!(found, Verdict::Correctness { invariant, .. } if invariant == name)
    }

    #[test]
    fn what_is_in_order_is_clean() {
        let found = verdict(async |stage: &mut Stage| {
            let mut connection = stage.connection(1);
            let (asked, body) = (stage.asked(exists("/a")), shows(stage, "/a"));
            stage.oracle.answered(&mut connection, &asked, 2, 0, &body);
            let write = make(&stage.oracle, "/b");
            let asked = stage.asked(one(write.clone()));
            stage.write(1, write.0);
            let mut out = Writer::default();
            out.string("/b");
            out.stat(&stage.member.stat("/b").unwrap());
            stage.oracle.answered(&mut connection, &asked, 3, 0, &out.finish());
            stage.world.sleep(Duration::from_millis(2_500)).await;
            stage.apply(0, Request::CloseSession { session: SESSION });
            stage.oracle.connected(SESSION, 2, stage.oracle.begin(), &ConnectResponse::expired(None));
        });
        assert_eq!(found, Verdict::Clean);
    }

    #[test]
    fn reads_show_the_tree_at_their_zxid_and_never_an_older_one() {
        let other = verdict(async |stage: &mut Stage| {
            let (asked, body) = (stage.asked(exists("/a")), shows(stage, "/a"));
            stage.oracle.answered(&mut stage.connection(1), &asked, 1, 0, &body);
        });
        assert!(is_broken(&other, "read-answer"), "{other}");
        let back = verdict(async |stage: &mut Stage| {
            let (asked, body) = (stage.asked(exists("/a")), shows(stage, "/a"));
            let mut connection = Connection { last_zxid: 3, ..stage.connection(1) };
            stage.oracle.answered(&mut connection, &asked, 2, 0, &body);
        });
        assert!(is_broken(&back, "session-order"), "{back}");
        let stale = verdict(async |stage: &mut Stage| {
            let (first, body) = (stage.asked(exists("/a")), shows(stage, "/a"));
            stage.oracle.answered(&mut stage.connection(1), &first, 2, 0, &body);
            let mut other = stage.connection(2);
            let sync = stage.asked(Kind::Sync);
            stage.oracle.answered(&mut other, &sync, 1, 0, &[]);
            let read = stage.asked(exists("/a"));
            stage.oracle.answered(&mut other, &read, 1, ErrorCode::NoNode.code(), &[]);
        });
        assert!(is_broken(&stale, "stale-read-after-sync"), "{stale}");
    }

    #[test]
    fn writes_are_answered_as_they_were_carried_out_once_and_in_real_time() {
        let another = verdict(async |stage: &mut Stage| {
            let asked = stage.asked(one(make(&stage.oracle, "/b")));
            stage.oracle.answered(&mut stage.connection(1), &asked, 2, 0, &[]);
        });
        assert!(is_broken(&another, "write-answer"), "{another}");
        let refused = verdict(async |stage: &mut Stage| {
            let write = make(&stage.oracle, "/b");
            let asked = stage.asked(one(write.clone()));
            stage.write(1, write.0);
            stage.oracle.answered(&mut stage.connection(1), &asked, 3, ErrorCode::NodeExists.code(), &[]);
        });
        assert!(is_broken(&refused, "refused-write"), "{refused}");
        let twice = verdict(async |stage: &mut Stage| {
            let value = stage.oracle.value(1);
            for _ in 0..2 {
                stage.write(1, Operation::Set { path: "/a".into(), data: Some(value.clone()), version: -1 });
            }
        });
        assert!(is_broken(&twice, "exactly-once"), "{twice}");
        let late = verdict(async |stage: &mut Stage| {
            let write = make(&stage.oracle, "/b");
            stage.write(1, write.0.clone());
            let read = stage.asked(exists("/b"));
            let body = shows(stage, "/b");
            stage.oracle.answered(&mut stage.connection(1), &read, 3, 0, &body);
            let asked = stage.asked(one(write));
            stage.oracle.answered(&mut stage.connection(1), &asked, 3, 0, &[]);
        });
        assert!(is_broken(&late, "linearizable-write"), "{late}");
        let differs = verdict(async |stage: &mut Stage| {
            let command = Command { session: 0, time_ms: 0, request: Request::CloseSession { session: SESSION } };
            let deleted = Event { path: "/a".into(), kind: ottla::coordination::op::EventKind::Deleted, acl: None };
            stage.oracle.executed(2, 3, 1, &Executed::Command(&command, &Applied { outcome: Ok(Vec::new()), events: vec![deleted] }));
        });
        assert!(is_broken(&differs, "replay"), "{differs}");
    }

    #[test]
    fn sessions_end_when_they_must_and_move_for_good() {
        let early = verdict(async |stage: &mut Stage| {
            stage.world.sleep(Duration::from_secs(2)).await;
            stage.apply(0, Request::CloseSession { session: SESSION });
        });
        assert!(is_broken(&early, "session-time-out"), "{early}");
        let heard = verdict(async |stage: &mut Stage| {
            stage.world.sleep(Duration::from_secs(5)).await;
            let write = make(&stage.oracle, "/b");
            let asked = stage.asked(one(write.clone()));
            stage.write(1, write.0);
            let mut out = Writer::default();
            out.string("/b");
            out.stat(&stage.member.stat("/b").unwrap());
            stage.oracle.answered(&mut stage.connection(1), &asked, 3, 0, &out.finish());
            stage.world.sleep(Duration::from_secs(1)).await;
            stage.apply(0, Request::CloseSession { session: SESSION });
        });
        assert!(is_broken(&heard, "session-time-out"), "{heard}");
        let lives = verdict(async |stage: &mut Stage| {
            stage.oracle.connected(SESSION, 2, stage.oracle.begin(), &ConnectResponse::expired(None));
        });
        assert!(is_broken(&lives, "session-expired"), "{lives}");
        let again = verdict(async |stage: &mut Stage| {
            stage.apply(SESSION, Request::EndSession { attached_zxid: 1 });
            stage.world.sleep(Duration::from_millis(1)).await;
            stage.connected(2, stage.oracle.begin());
        });
        assert!(is_broken(&again, "session-ended"), "{again}");
        let unfenced = verdict(async |stage: &mut Stage| {
            stage.apply(SESSION, Request::Attach { attached_zxid: 1, timeout_ms: 3_000, password: [1; 16] });
            stage.connected(2, stage.oracle.begin());
            // The value says over which connection it was asked for.
            let (operation, _) = make(&stage.oracle, "/b");
            stage.apply(SESSION, Request::Client { identities: Vec::new(), operations: vec![operation] });
        });
        assert!(is_broken(&unfenced, "session-moved"), "{unfenced}");
    }
}
