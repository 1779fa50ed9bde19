//! What the leader does by itself as time passes: it deletes containers and znodes with a time to live that are idle. A transaction like any other; whether
//! it still applies is judged when it does. (The end of silent sessions is the node's matter.)

use std::sync::Arc;

use super::op::{ErrorCode, Operation, Request};
use super::{Coordination, WeakCoordination};
use crate::runtime::{Instant, Runtime};

/// How many idle znodes are deleted in one go: more wait for the next look (`znode.container.maxPerMinute`).
const IDLE_MAX_COUNT: usize = 10_000;

/// A point of the monotonic clock in milliseconds, as deadlines of sessions are counted.
pub(super) fn clock_ms(now: Instant) -> u64 {
    now.as_nanos() / 1_000_000
}

/// The point of the clock that [`clock_ms`] gives as this.
pub(super) fn instant(clock_ms: u64) -> Instant {
    Instant::from_nanos(clock_ms.saturating_mul(1_000_000))
}

/// Runs until the service has stopped.
pub(super) async fn run<R: Runtime>(service: WeakCoordination<R>) {
    let (rt, hub) = (service.rt.clone(), Arc::clone(&service.shared.hub));
    let mut last_look_ms = clock_ms(rt.now());
    loop {
        let (is_stopped, is_leader, housekeeping) = {
            let state = hub.lock();
            (state.is_stopped, state.is_leader, state.housekeeping)
        };
        if is_stopped {
            return;
        }
        let look_ms = last_look_ms.saturating_add(housekeeping.idle_check_ms.max(1));
        let now_ms = clock_ms(rt.now());
        if now_ms >= look_ms {
            last_look_ms = now_ms;
            if is_leader {
                let Some(coordination) = service.upgrade() else { return };
                delete_idle(&coordination, housekeeping.never_used_ms).await;
            }
            continue;
        }
        let timer = rt.timer(instant(look_ms));
        tokio::select! {
            biased;
            () = hub.sooner.notified() => {}
            () = timer => {}
        }
    }
}

async fn delete_idle<R: Runtime>(coordination: &Coordination<R>, never_used_ms: i64) {
    /// How many are under way at a time: they share syncs, and leave room for clients.
    const AT_ONCE: usize = 64;
    let now_ms = coordination.rt.unix_ms();
    let idle = coordination.read(|tree| if tree.has_mortal() { tree.idle(now_ms, never_used_ms) } else { Vec::new() });
    for paths in idle[..idle.len().min(IDLE_MAX_COUNT)].chunks(AT_ONCE) {
        let mut answers = Vec::with_capacity(paths.len());
        for path in paths {
            let Ok(answer) = coordination.submit(0, Request::One(Operation::DeleteIdle { path: path.to_string() })).await else { return };
            answers.push(answer);
        }
        for answer in answers {
            match answer.outcome().await {
                Ok(_) => {}
                Err(failure) if failure.code == ErrorCode::ConnectionLoss => return,
                // It has children again, was written to, or is gone: it is not idle.
                Err(failure) => tracing::debug!(%failure, "an idle znode is not deleted"),
            }
        }
    }
}
