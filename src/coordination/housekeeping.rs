//! What the service does by itself as time passes: it ends sessions whose clients have gone silent, and deletes containers and znodes with a time to live
//! that are idle. Both are transactions like any other; whether they still apply is judged when they are.

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

fn instant(clock_ms: u64) -> Instant {
    Instant::from_nanos(clock_ms.saturating_mul(1_000_000))
}

/// Runs until the service has stopped.
pub(super) async fn run<R: Runtime>(service: WeakCoordination<R>) {
    let (rt, hub) = (service.rt.clone(), Arc::clone(&service.shared.hub));
    let mut last_look_ms = clock_ms(rt.now());
    loop {
        let (is_stopped, deadline_ms, housekeeping) = {
            let state = hub.lock();
            (state.is_stopped, state.sessions.next_deadline_ms(), state.housekeeping)
        };
        if is_stopped {
            return;
        }
        let look_ms = last_look_ms.saturating_add(housekeeping.idle_check_ms.max(1));
        let timer = rt.timer(instant(deadline_ms.map_or(look_ms, |deadline_ms| deadline_ms.min(look_ms))));
        tokio::select! {
            biased;
            () = hub.sooner.notified() => continue,
            () = timer => {}
        }
        let now_ms = clock_ms(rt.now());
        let expired = hub.lock().sessions.expire(now_ms);
        let Some(coordination) = service.upgrade() else { return };
        if !end_sessions(&coordination, expired).await {
            return;
        }
        if now_ms >= look_ms {
            last_look_ms = now_ms;
            delete_idle(&coordination, housekeeping.never_used_ms).await;
        }
    }
}

/// Ends the sessions, all at once as far as the log allows it. Whether the service goes on.
async fn end_sessions<R: Runtime>(coordination: &Coordination<R>, sessions: Vec<i64>) -> bool {
    let mut answers = Vec::with_capacity(sessions.len());
    for session in sessions {
        tracing::info!(session = format_args!("{session:#x}"), "session expired: its client was silent for its time-out");
        match coordination.submit(0, Request::CloseSession { session }).await {
            Ok(answer) => answers.push(answer),
            Err(_) => return false,
        }
    }
    for answer in answers {
        if answer.outcome().await.is_err_and(|failure| failure.code == ErrorCode::ConnectionLoss) {
            return false;
        }
    }
    true
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
