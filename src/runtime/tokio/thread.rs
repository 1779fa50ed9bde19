//! A thread of its own for what must not wait for the rest of the process, nor for the disk.

use std::io;
use std::thread::JoinHandle;

use ::tokio::runtime::Builder;
use ::tokio::sync::oneshot;

use super::{SHUTDOWN_WAIT, TokioDisk, TokioRuntime};

/// A thread with a runtime of its own: its own sockets' poller, timers and pool for the disk. Tasks of its handle run there and nowhere else.
pub struct OwnThread {
    runtime: TokioRuntime,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl TokioRuntime {
    /// Starts a thread with a runtime of its own, of the same process: clocks of both count from one origin.
    ///
    /// # Errors
    /// If the thread or the poller cannot be made.
    pub fn own_thread(&self, name: &'static str) -> io::Result<OwnThread> {
        let tokio = Builder::new_current_thread().thread_name(name).enable_io().enable_time().build()?;
        let handle = tokio.handle().clone();
        let disk = TokioDisk { handle: handle.clone(), file_systems: self.disk.file_systems.clone(), writes_on_pool: true };
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Nobody sends before the end: an owner that is gone is one, too.
            let _ = tokio.block_on(stopped);
            tokio.shutdown_timeout(SHUTDOWN_WAIT);
        })?;
        Ok(OwnThread { runtime: TokioRuntime { handle, origin: self.origin, disk }, stop, thread })
    }
}

impl OwnThread {
    /// The handle to its runtime.
    pub fn runtime(&self) -> &TokioRuntime {
        &self.runtime
    }

    /// Ends it: tasks that still run are dropped; disk work that has begun is waited for, for 10 s at most. Not to be called on a worker.
    pub fn join(self) {
        let Self { stop, thread, .. } = self;
        drop(stop);
        // A panic in a task has ended the process.
        let _ = thread.join();
    }
}
