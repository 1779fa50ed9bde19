//! Members that are cut off while they serve: for so short that their clients stay, and a snapshot may have to take the place of what they missed; or for so
//! long that they must have sent their clients away.

use std::sync::Arc;
use std::time::Duration;

use super::plan::Plan;
use super::scenario::Members;
use crate::rng::Stream;
use crate::world::World;

/// For how long a member falls behind, in milliseconds: long enough for some transactions, and too short for it to give its clients up.
const BEHIND_MS: (u64, u64) = (300, 1_800);

/// For how long a member is alone, in milliseconds: it must serve nobody by then, and some still ask.
const ALONE_MS: (u64, u64) = (6_500, 9_000);

/// Works until it is aborted; what it has blocked then is for the healing.
pub async fn run(world: World, members: Arc<Members>, plan: Plan, mut stream: Stream) {
    if plan.solitude_mean_ms == 0 {
        return;
    }
    loop {
        world.sleep(Duration::from_millis(500 + stream.exponential(plan.solitude_mean_ms))).await;
        let (index, is_long) = (stream.index(plan.member_count), stream.chance(300_000));
        let (behind_ms, alone_ms) = (stream.between(BEHIND_MS.0, BEHIND_MS.1), stream.between(ALONE_MS.0, ALONE_MS.1));
        world.count_fault_of(if is_long { "solitude: a member is alone" } else { "solitude: a member falls behind" }, index as u64);
        members.cut(&world, index, (true, true), true);
        if !is_long {
            // What was sent to it before is lost, and has to be sent again from where it is then.
            let others = members.hosts.iter().enumerate().filter(|(other, _)| *other != index);
            others.for_each(|(_, other)| world.reset_connections(&members.hosts[index], other));
        }
        world.sleep(Duration::from_millis(if is_long { alone_ms } else { behind_ms })).await;
        members.cut(&world, index, (true, true), false);
    }
}
