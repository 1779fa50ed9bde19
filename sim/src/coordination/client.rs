//! A client inside a member's process: writes, compares and sets, synced and plain reads of registers, sessions with an ephemeral znode.

use std::sync::Arc;
use std::time::Duration;

use ottla::coordination::Coordination;
use ottla::coordination::op::{ANY_VERSION, CreateMode, ErrorCode, Operation, OperationResult};
use ottla::coordination::tree::NodeView;
use ottla::runtime::Runtime;
use tokio::sync::watch;

use super::history::{History, Seen};
use crate::rng::Stream;
use crate::runtime::SimRuntime;
use crate::world::World;

/// What clients share.
#[derive(Clone)]
pub struct Common {
    /// What they did and saw.
    pub history: Arc<History>,
    /// Counts operations.
    pub world: World,
    /// How many registers there are.
    pub register_count: usize,
    /// The mean time between two operations, in milliseconds.
    pub pause_mean_ms: u64,
    /// Whether clients begin new operations.
    pub works: watch::Receiver<bool>,
}

/// The path of a register.
pub fn path(register: usize) -> String {
    format!("/r{register}")
}

fn seen(view: &NodeView) -> Seen {
    let value = view.data.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    Seen { version: view.stat.version, zxid: view.stat.mzxid, value }
}

/// A client's life, which ends with its member's process.
pub struct Client {
    rt: SimRuntime,
    coordination: Coordination<SimRuntime>,
    common: Common,
    stream: Stream,
    /// What it saw last of each register.
    last: Vec<Option<Seen>>,
    last_zxid: i64,
    session: Option<Coordination<SimRuntime>>,
}

impl Client {
    /// A client of a member that is open.
    pub fn new(rt: SimRuntime, coordination: Coordination<SimRuntime>, common: Common, stream: Stream) -> Self {
        let last = vec![None; common.register_count];
        Self { rt, coordination, common, stream, last, last_zxid: 0, session: None }
    }

    /// Works until the process ends.
    pub async fn run(mut self) {
        loop {
            let pause = Duration::from_micros(1_000 * self.stream.exponential(self.common.pause_mean_ms) + 100);
            self.rt.sleep(pause).await;
            if !*self.common.works.borrow() {
                continue;
            }
            let register = self.stream.index(self.common.register_count);
            let is_done = match self.stream.below(20) {
                0..=6 => self.write(register, ANY_VERSION).await,
                7..=9 => {
                    let version = self.last[register].map_or(0, |seen| seen.version);
                    self.write(register, version).await
                }
                10..=11 => self.write_two(register).await,
                12..=15 => self.synced_read(register).await,
                16..=18 => self.plain_read(register).await,
                _ => self.session_step().await,
            };
            if is_done && self.rt.is_alive() {
                self.common.world.count_operation();
            }
        }
    }

    /// What this client sees never goes back.
    fn sees(&mut self, register: usize, seen: Seen) {
        if self.last[register].is_some_and(|last| seen.version < last.version) {
            let detail = format!("a client on {} saw {:?} of register {register}, and then {seen:?}", self.rt.host_name(), self.last[register]);
            self.common.history.went_back(detail);
        }
        self.last[register] = Some(seen);
        let zxid = self.coordination.last_zxid();
        if zxid < self.last_zxid {
            self.common.history.went_back(format!("the last zxid on {} went from {} to {zxid}", self.rt.host_name(), self.last_zxid));
        }
        self.last_zxid = zxid;
    }

    async fn write(&mut self, register: usize, version: i32) -> bool {
        let (begun, value) = self.common.history.begin_write(register);
        let outcome = self.coordination.set(&path(register), value.to_be_bytes().to_vec(), version).await;
        if !self.rt.is_alive() {
            return false;
        }
        match outcome {
            Ok(stat) => {
                self.common.history.written(begun, stat.version, stat.mzxid);
                self.sees(register, Seen { version: stat.version, zxid: stat.mzxid, value });
                true
            }
            Err(failure) if failure.code == ErrorCode::ConnectionLoss => false,
            Err(failure) => {
                self.common.history.refused(begun);
                if failure.code == ErrorCode::NoNode {
                    self.create(register).await;
                }
                true
            }
        }
    }

    async fn create(&mut self, register: usize) {
        let _ = self.coordination.create(&path(register), 0u64.to_be_bytes().to_vec(), CreateMode::Persistent).await;
    }

    /// Two registers at once, or none.
    async fn write_two(&mut self, register: usize) -> bool {
        let other = (register + 1) % self.common.register_count;
        if other == register {
            return self.write(register, ANY_VERSION).await;
        }
        let ((one, value), (two, other_value)) = (self.common.history.begin_write(register), self.common.history.begin_write(other));
        let operations = vec![
            Operation::set(path(register), value.to_be_bytes().to_vec(), ANY_VERSION),
            Operation::set(path(other), other_value.to_be_bytes().to_vec(), ANY_VERSION),
        ];
        let outcome = self.coordination.multi(operations).await;
        if !self.rt.is_alive() {
            return false;
        }
        match outcome.as_deref() {
            Ok([OperationResult::Set { stat }, OperationResult::Set { stat: other_stat }]) => {
                if stat.mzxid != other_stat.mzxid {
                    self.common.history.violation("atomic-multi", format!("one multi made zxids {} and {}", stat.mzxid, other_stat.mzxid));
                }
                self.common.history.written(one, stat.version, stat.mzxid);
                self.common.history.written(two, other_stat.version, other_stat.mzxid);
                true
            }
            Err(failure) if failure.code == ErrorCode::ConnectionLoss => false,
            _ => {
                self.common.history.refused(one);
                self.common.history.refused(two);
                true
            }
        }
    }

    async fn synced_read(&mut self, register: usize) -> bool {
        let begun = self.common.history.begin_read(register);
        if self.coordination.sync().await.is_err() || !self.rt.is_alive() {
            return false;
        }
        if let Ok(view) = self.coordination.get(&path(register)).await {
            let seen = seen(&view);
            self.common.history.read(begun, seen);
            self.sees(register, seen);
        }
        true
    }

    async fn plain_read(&mut self, register: usize) -> bool {
        if let Ok(view) = self.coordination.get(&path(register)).await {
            let seen = seen(&view);
            self.common.history.saw(register, seen);
            self.sees(register, seen);
        }
        true
    }

    /// A session is begun, makes an ephemeral znode, is kept alive, and closed; or it is forgotten, and must end by itself.
    async fn session_step(&mut self) -> bool {
        match self.session.take() {
            None => match self.coordination.create_session(2_000).await {
                Ok(session) => {
                    let name = format!("/e{:x}", session.session());
                    let _ = session.create(&name, &b""[..], CreateMode::Ephemeral).await;
                    self.session = Some(session);
                    true
                }
                Err(_) => false,
            },
            Some(session) if self.stream.chance(300_000) => {
                if session.close_session().await.is_err() || !self.rt.is_alive() {
                    return false;
                }
                let name = format!("/e{:x}", session.session());
                if matches!(session.exists(&name).await, Ok(Some(_))) {
                    self.common.history.violation("ephemeral", format!("{name} outlives its closed session"));
                }
                true
            }
            Some(_) if self.stream.chance(200_000) => true, // Forgotten.
            Some(session) => {
                session.touch().await;
                self.session = Some(session);
                true
            }
        }
    }
}

/// The values of all registers after a `sync`, as one member shows them.
///
/// # Errors
/// What failed.
pub async fn audit(coordination: &Coordination<SimRuntime>, common: &Common) -> Result<(), String> {
    for register in 0..common.register_count {
        let begun = common.history.begin_read(register);
        coordination.sync().await.map_err(|failure| failure.to_string())?;
        match coordination.get(&path(register)).await {
            Ok(view) => common.history.read(begun, seen(&view)),
            Err(failure) if failure.code == ErrorCode::NoNode => {}
            Err(failure) => return Err(failure.to_string()),
        }
    }
    Ok(())
}

/// A write by way of one member.
///
/// # Errors
/// What failed.
pub async fn serve(coordination: &Coordination<SimRuntime>, common: &Common) -> Result<(), String> {
    let _ = coordination.create(&path(0), 0u64.to_be_bytes().to_vec(), CreateMode::Persistent).await;
    let (begun, value) = common.history.begin_write(0);
    let stat = coordination.set(&path(0), value.to_be_bytes().to_vec(), ANY_VERSION).await.map_err(|failure| failure.to_string())?;
    common.history.written(begun, stat.version, stat.mzxid);
    Ok(())
}
