//! More elections than faults by themselves bring: leaders that are cut off, killed, or asked to stop, and members that crash just after they voted and are
//! back before the term is over.

use std::sync::Arc;
use std::time::Duration;

use super::history::Votes;
use super::plan::Plan;
use super::scenario::Members;
use crate::rng::Stream;
use crate::state::CrashKind;
use crate::world::World;

/// How long the next vote is waited for.
const VOTE_WITHIN: Duration = Duration::from_secs(10);

/// Works until it is aborted; what it has blocked then is for the healing.
pub async fn run(world: World, members: Arc<Members>, mut votes: Votes, plan: Plan, mut stream: Stream) {
    if plan.churn_mean_ms == 0 {
        return;
    }
    loop {
        world.sleep(Duration::from_millis(200 + stream.exponential(plan.churn_mean_ms))).await;
        let (kind, bits) = (stream.below(6), stream.bits());
        let (short, long) = (Duration::from_millis(stream.between(1, 30)), Duration::from_millis(stream.between(20, 2_000)));
        if kind < 2 {
            // Whoever votes next; with a leader gone somebody will.
            votes.drain();
            if kind == 0
                && let Some(leader) = leader(&world, &members).await
            {
                members.crash(leader, crash_kind(bits));
                world.event("churn: the leader crashes", &[leader as u64], None);
            }
            let Some(Some(raft_id)) = world.timeout(VOTE_WITHIN, votes.next()).await else { continue };
            let Some(index) = members.index_of(raft_id) else { continue };
            world.sleep(short / 4).await;
            members.crash(index, crash_kind(bits >> 1));
            world.count_fault_of("churn: a voter crashes", index as u64);
            world.sleep(short).await;
            members.revive(index);
            continue;
        }
        let Some(leader) = leader(&world, &members).await else { continue };
        match kind {
            2 => {
                members.crash(leader, crash_kind(bits));
                world.count_fault_of("churn: the leader crashes", leader as u64);
                world.sleep(long / 4).await;
                members.revive(leader);
            }
            3 => {
                members.stop(leader);
                world.count_fault_of("churn: the leader is asked to stop", leader as u64);
            }
            _ => {
                let (out, within) = (bits & 1 == 0 || bits & 2 == 0, bits & 1 == 0 || bits & 2 != 0);
                world.count_fault_of("churn: the leader is cut off", leader as u64);
                members.cut(&world, leader, (out, within), true);
                world.sleep(long).await;
                members.cut(&world, leader, (out, within), false);
            }
        }
    }
}

fn crash_kind(bits: u64) -> CrashKind {
    if bits & 4 == 0 { CrashKind::Kill } else { CrashKind::PowerCut }
}

/// The member that leads, or believes so.
async fn leader(world: &World, members: &Members) -> Option<usize> {
    for index in 0..members.hosts.len() {
        let Some(handle) = members.handle(index) else { continue };
        if let Some(Some(status)) = world.timeout(Duration::from_millis(200), handle.status()).await
            && status.leadership.is_leader
        {
            return Some(index);
        }
    }
    None
}
