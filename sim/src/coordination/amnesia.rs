//! Members that lose their disk, or a file of it, or their membership: what no member survives by itself, and the ensemble must as long as it is one
//! at a time. The next one comes only when the ensemble has made up for the last: a leader knows as many voters as there are servers, none of
//! them is one that was lost, and each has had a log. One of the first members that died before it made its log is a loss too, which no fault here
//! caused.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ottla::coordination::ensemble::consensus::Change;

use super::history::History;
use super::plan::{DIR, Plan};
use super::scenario::Members;
use crate::rng::Stream;
use crate::state::{CrashKind, Exit};
use crate::world::World;

/// A log file that has records must be refused if it is missing; one with nothing but its head may be as new as a crash within a roll. In bytes.
const HAS_RECORDS_BYTES: u64 = 1_500;

/// How long a member may take to refuse.
const REFUSE_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Loss {
    Disk,
    File,
    Membership,
}

/// Causes losses until the run says that it is over.
pub async fn run(world: World, members: Arc<Members>, history: Arc<History>, plan: Plan, mut stream: Stream, until: Duration) {
    let means = [(Loss::Disk, plan.wipe_mean_ms), (Loss::File, plan.lose_file_mean_ms), (Loss::Membership, plan.remove_mean_ms)];
    let mut due: Vec<(Duration, Loss, u64)> = means
        .into_iter()
        .filter(|(_, mean)| *mean > 0)
        .map(|(loss, mean)| (world.now() + Duration::from_millis(stream.exponential(mean)), loss, mean))
        .collect();
    // Raft ids whose disk is gone.
    let mut lost = BTreeSet::new();
    while let Some((at, loss, mean)) = due.iter().min_by_key(|(at, ..)| *at).copied() {
        if at.max(world.now()) >= until {
            return;
        }
        world.sleep(at.saturating_sub(world.now())).await;
        due.retain(|(_, other, _)| *other != loss);
        due.push((world.now() + Duration::from_millis(500 + stream.exponential(mean)), loss, mean));
        let index = stream.index(plan.member_count);
        let Some(ids) = whole(&world, &members, &lost).await else { continue };
        if world.now() >= until {
            return;
        }
        let raft_id = ids[index];
        let happened = match loss {
            Loss::Disk => {
                wipe(&world, &members, index);
                true
            }
            Loss::File => lose_file(&world, &members, &history, index).await,
            Loss::Membership => remove(&world, &members, index, raft_id).await,
        };
        if happened {
            history.lost_log(raft_id);
            lost.insert(raft_id);
        }
    }
}

fn wipe(world: &World, members: &Members, index: usize) {
    let host = &members.hosts[index];
    world.count_fault_of("wipe", index as u64);
    host.crash(CrashKind::PowerCut);
    members.forget(index);
    host.wipe_disk();
}

/// The Raft id of each server, if a leader knows exactly one voter for each, all of which had a log, none of them lost, and nobody else. That the leader alone has
/// applied it is enough: a majority of those voters has it in its log, and acts by it (seed 189).
async fn whole(world: &World, members: &Members, lost: &BTreeSet<u64>) -> Option<Vec<u64>> {
    for index in 0..members.hosts.len() {
        let Some(handle) = members.handle(index) else { continue };
        let Some(Some(status)) = world.timeout(Duration::from_secs(1), handle.status()).await else { continue };
        if !status.leadership.is_leader || !status.conf_state.learners.is_empty() || status.conf_state.voters.len() != members.hosts.len() {
            continue;
        }
        let mut ids = vec![0; members.hosts.len()];
        for raft_id in &status.conf_state.voters {
            let server_id = status.members.get(raft_id).map_or(0, |record| record.server_id) as usize;
            if (1..=ids.len()).contains(&server_id) && !lost.contains(raft_id) && members.had_log(*raft_id) {
                ids[server_id - 1] = *raft_id;
            }
        }
        if ids.iter().all(|id| *id > 0) {
            return Some(ids);
        }
    }
    None
}

/// Removes the newest log file of a member that is down: it must refuse to start. Then its disk is given up.
async fn lose_file(world: &World, members: &Members, history: &History, index: usize) -> bool {
    let host = &members.hosts[index];
    host.crash(CrashKind::Kill);
    members.forget(index);
    let mut files: Vec<(String, u64)> = host.disk(|disk| disk.model.files());
    files.retain(|(path, _)| path.starts_with(DIR) && path.ends_with(".ottla"));
    let logs: Vec<_> = files.iter().filter(|(path, _)| path.contains("/log-")).cloned().collect();
    let Some((path, len)) = logs.last().cloned().filter(|(_, len)| *len >= HAS_RECORDS_BYTES && files.len() > 1) else { return false };
    world.count_fault_of("lose file", index as u64);
    world.event("a log file is lost", &[index as u64, len], Some(&path));
    // For good: a power cut that comes on top does not bring it back.
    let removed = host.disk(|disk| {
        let removed = disk.model.remove_file(Path::new(&path)).is_ok();
        if let Ok(ticket) = disk.model.begin_sync_dir(Path::new(DIR)) {
            disk.model.end_sync_dir(ticket);
        }
        removed
    });
    if !removed {
        return false;
    }
    let deadline = world.now() + REFUSE_WITHIN;
    while world.now() < deadline {
        let process = if host.is_alive() { None } else { Some(host.restart()) };
        while host.is_alive() && world.now() < deadline {
            if members.handle(index).is_some() {
                history.violation("missing-file-refused", format!("member {index} started although {path}, of {len} bytes, was gone"));
                return true;
            }
            world.sleep(Duration::from_millis(20)).await;
        }
        if let Some(Exit::Halted(why)) = process.and_then(|process| process.exit()) {
            let is_named = path.rsplit('/').next().is_some_and(|name| why.contains(&format!("{name}' is missing")));
            if !is_named && (why.contains("is missing") || why.contains("is damaged")) {
                history.violation("missing-file-named", format!("{path}, of {len} bytes, is gone, and member {index} said: {why}"));
                return true;
            }
            if is_named {
                break;
            }
        }
        world.sleep(Duration::from_millis(50)).await;
    }
    if host.is_alive() {
        host.crash(CrashKind::Kill);
    }
    wipe(world, members, index);
    true
}

/// Has a member removed by the leader; then it is emptied, and joins anew.
async fn remove(world: &World, members: &Members, index: usize, raft_id: u64) -> bool {
    for at in 0..members.hosts.len() {
        let Some(handle) = members.handle(at) else { continue };
        // One that does not answer in time may begin it later.
        if let Some(Err(_)) = world.timeout(Duration::from_secs(1), handle.change_members(Change::Remove(raft_id))).await {
            continue;
        }
        world.count_fault_of("remove member", raft_id);
        let deadline = world.now() + Duration::from_secs(10);
        while world.now() < deadline {
            world.sleep(Duration::from_millis(100)).await;
            let Some(handle) = members.handle(at) else { break };
            let Some(Some(status)) = world.timeout(Duration::from_secs(1), handle.status()).await else { break };
            if !status.members.contains_key(&raft_id) {
                break;
            }
        }
        // Whether it is a member still or not, it is one loss.
        wipe(world, members, index);
        return true;
    }
    false
}
