//! What every simulated client shares: its connection that is opened again when it is lost, its stream of draws, the run's phase and the history.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kafka_protocol::protocol::Request;
use ottla::client::connection::{Connection, ConnectionConfig};
use ottla::client::error::ClientError;
use ottla::runtime::{HostPort, Runtime};
use tokio::sync::watch;

use super::history::{History, Place};
use crate::rng::Stream;
use crate::world::World;

/// How far a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Faults are on; clients work.
    Safety,
    /// Faults are off; clients finish what they have begun, and begin nothing.
    Converge,
    /// Everything has ended.
    Done,
}

/// What all clients of a run share.
#[derive(Clone)]
pub struct Shared {
    /// What they did and saw.
    pub history: Arc<Mutex<History>>,
    /// How far the run is.
    pub phase: watch::Receiver<Phase>,
    /// Where the broker is.
    pub bootstrap: HostPort,
    /// Topics of the run with their partition counts.
    pub topics: Arc<Vec<(String, i32)>>,
    /// Counts operations.
    pub world: World,
}

impl Shared {
    /// The history, locked; never held across an await.
    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether clients begin new operations.
    pub fn begins(&self) -> bool {
        *self.phase.borrow() == Phase::Safety
    }

    /// Whether the run is over.
    pub fn is_done(&self) -> bool {
        *self.phase.borrow() == Phase::Done
    }

    /// Every partition of the run.
    pub fn places(&self) -> Vec<Place> {
        self.topics.iter().flat_map(|(topic, count)| (0..*count).map(move |partition| (topic.clone(), partition))).collect()
    }

    /// A partition drawn among the run's.
    pub fn draw_place(&self, stream: &mut Stream) -> Place {
        let (topic, partitions) = stream.pick(&self.topics);
        (topic.clone(), stream.below(*partitions as u64) as i32)
    }
}

/// A client's connection.
pub struct Link<R: Runtime> {
    /// The boundary of the client's host.
    pub runtime: R,
    /// What it shares with the others.
    pub shared: Shared,
    /// Its own draws.
    pub stream: Stream,
    connection: Option<Connection<R>>,
    name: String,
}

impl<R: Runtime> Link<R> {
    /// A client that is not connected yet.
    pub fn new(runtime: R, shared: Shared, stream: Stream, name: String) -> Self {
        Self { runtime, shared, stream, connection: None, name }
    }

    /// The connection, opened if it is not. `None` once the run is over.
    pub async fn connection(&mut self) -> Option<Connection<R>> {
        loop {
            if self.shared.is_done() {
                return None;
            }
            if let Some(connection) = self.connection.as_ref().filter(|connection| connection.is_open()) {
                return Some(connection.clone());
            }
            let config = ConnectionConfig { client_id: self.name.clone(), connect_timeout: Duration::from_secs(3), ..ConnectionConfig::default() };
            match Connection::open(&self.runtime, &self.shared.bootstrap, config).await {
                Ok(connection) => self.connection = Some(connection),
                Err(_) => self.pause(50, 500).await,
            }
        }
    }

    /// Gives the connection up.
    pub fn disconnect(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.close();
        }
    }

    /// Sends one request on the connection and waits for its answer. On an error the connection is given up.
    ///
    /// # Errors
    /// The client's error; `None` if the run is over.
    pub async fn call<Q: Request>(&mut self, max_version: i16, request: &Q, timeout: Duration) -> Result<Q::Response, Option<ClientError>> {
        let connection = self.connection().await.ok_or(None)?;
        let version = connection.version_up_to::<Q>(max_version).map_err(Some)?;
        let answered = connection.call_at(version, request, timeout).await;
        match &answered {
            Ok(_) => self.shared.world.count_operation(),
            Err(_) => self.disconnect(),
        }
        answered.map_err(Some)
    }

    /// Waits for a drawn time.
    pub async fn pause(&mut self, min_ms: u64, max_ms: u64) {
        let wait = Duration::from_millis(self.stream.between(min_ms, max_ms));
        self.runtime.sleep(wait).await;
    }
}
