//! Faults that are aimed, which faults at random rarely are: at the leader of a partition, at the controller, at a broker's disk; and what administrators do to
//! brokers: rolling restarts.

use std::sync::Arc;
use std::time::Duration;

use super::hosts::Cluster;
use super::monitor::{Monitor, View};
use super::plan::Plan;
use crate::clients::history::Place;
use crate::rng::Stream;
use crate::state::CrashKind;
use crate::world::{Host, World};

/// What the tasks here work with.
#[derive(Clone)]
pub struct Churn {
    /// The world.
    pub world: World,
    /// The servers.
    pub cluster: Arc<Cluster>,
    /// Knows who leads.
    pub monitor: Arc<Monitor>,
    /// Whether a disk may be lost.
    pub plan: Plan,
}

/// How long a broker that was asked to stop may take, in a world with faults, before it is left alone.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How long the next one of a rolling restart waits for the one before.
const START_WITHIN: Duration = Duration::from_secs(10);

impl Churn {
    pub(super) fn session_ms(&self) -> u64 {
        self.plan.broker.get("zookeeper.session.timeout.ms").and_then(|value| value.parse().ok()).unwrap_or(6_000)
    }

    /// The broker that leads a partition drawn from all, by what is known.
    fn draw_leader(&self, stream: &mut Stream) -> Option<usize> {
        let views: Vec<(Place, View)> = self.monitor.views().into_iter().collect();
        let bits = stream.bits();
        if views.is_empty() {
            return None;
        }
        let (_, view) = &views[(bits % views.len() as u64) as usize];
        self.cluster.index_of(view.state.leader)
    }

    /// The broker that believes to be the controller, or the newest of those.
    pub(super) fn controller(&self) -> Option<usize> {
        let believes = |(index, _, broker): (usize, u32, Arc<ottla::broker::Broker<crate::runtime::SimRuntime>>)| {
            let image = broker.controller().image();
            (image.controller_id == index as i32 + 1).then_some((image.controller_epoch, index))
        };
        self.cluster.living().into_iter().filter_map(believes).max().map(|(_, index)| index)
    }

    /// Causes aimed faults until it is aborted; what it has blocked then is for the healing.
    pub async fn aim(self, mut stream: Stream) {
        if self.plan.churn_mean_ms == 0 {
            return;
        }
        loop {
            self.world.sleep(Duration::from_millis(300 + stream.exponential(self.plan.churn_mean_ms))).await;
            let (kind, bits) = (stream.below(10), stream.bits());
            let long = Duration::from_millis(self.session_ms() / 2 + stream.between(0, self.session_ms() * 2));
            let leader = self.draw_leader(&mut stream);
            let target = if bits & 1 == 0 { leader } else { self.controller().or(leader) };
            let Some(target) = target else { continue };
            let host = self.cluster.brokers[target].clone();
            let aimed = if bits & 1 == 0 { "aimed: a leader" } else { "aimed: the controller" };
            if !host.is_alive() {
                continue;
            }
            self.world.event(aimed, &[target as u64, kind], None);
            match kind {
                0 | 1 => self.cluster.crash_broker(target, if bits & 2 == 0 { CrashKind::Kill } else { CrashKind::PowerCut }),
                2 => {
                    // Back within its session.
                    self.cluster.crash_broker(target, CrashKind::Kill);
                    self.world.sleep(Duration::from_millis(bits >> 8 & 0xff)).await;
                    self.cluster.revive(std::slice::from_ref(&host));
                }
                3 | 4 => {
                    host.pause();
                    self.world.sleep(long).await;
                    host.resume();
                }
                5 => self.cluster.stop(target),
                _ => {
                    let others: Vec<Host> = match kind {
                        // From the other brokers, and not from the ensemble if that is elsewhere.
                        6 => self.cluster.brokers.clone(),
                        7 => self.cluster.servers(),
                        // From the ensemble alone.
                        8 if self.plan.is_outside => self.cluster.members.clone(),
                        _ => self.world.hosts(),
                    };
                    let directions = [(true, true), (true, false), (false, true), (true, true)][(bits >> 4 & 3) as usize];
                    self.world.count_fault_of("aimed: cut off", target as u64);
                    self.cluster.cut(&host, &others, directions, true);
                    self.world.sleep(long).await;
                    self.cluster.cut(&host, &others, directions, false);
                }
            }
        }
    }

    /// Restarts all brokers one after the other, in order, from time to time.
    pub async fn roll(self, mut stream: Stream) {
        if self.plan.roll_mean_ms == 0 {
            return;
        }
        loop {
            self.world.sleep(Duration::from_millis(2_000 + stream.exponential(self.plan.roll_mean_ms))).await;
            self.world.count_fault_of("rolling restart", 0);
            for index in 0..self.cluster.brokers.len() {
                let host = self.cluster.brokers[index].clone();
                if !host.is_alive() {
                    continue;
                }
                self.cluster.stop(index);
                self.wait(STOP_WITHIN, || !host.is_alive()).await;
                self.cluster.revive(std::slice::from_ref(&host));
                self.wait(START_WITHIN, || self.cluster.broker(index).is_some()).await;
            }
        }
    }

    pub(super) async fn wait(&self, within: Duration, is_done: impl Fn() -> bool) {
        let deadline = self.world.now() + within;
        while !is_done() && self.world.now() < deadline {
            self.world.sleep(Duration::from_millis(50)).await;
        }
    }

    /// Takes a broker's disk away from time to time, where what it had is elsewhere.
    pub async fn wipe(self, mut stream: Stream) {
        if self.plan.wipe_mean_ms == 0 {
            return;
        }
        loop {
            self.world.sleep(Duration::from_millis(3_000 + stream.exponential(self.plan.wipe_mean_ms))).await;
            let target = stream.index(self.cluster.brokers.len());
            let off_ms = stream.between(10, 4_000);
            let host = self.cluster.brokers[target].clone();
            let has_member = !self.plan.is_outside && target < self.plan.member_count;
            if has_member || host.life() == 0 || !self.can_lose(target) {
                continue;
            }
            self.world.count_fault_of("a disk is lost", target as u64);
            self.cluster.crash_broker(target, CrashKind::PowerCut);
            host.wipe_disk();
            let held = self.monitor.views().into_iter().filter(|(_, view)| view.state.replicas.contains(&(target as i32 + 1)));
            self.monitor.wiped(target, held.map(|(place, _)| place));
            self.world.sleep(Duration::from_millis(off_ms)).await;
            self.cluster.revive(std::slice::from_ref(&host));
        }
    }

    /// Whether all that this broker has is certainly elsewhere: a leader of every partition that it holds lives on another one, and leads in the newest epoch
    /// that anybody knows. What is about to be written of it at the ensemble can only add to the in-sync replicas of that leader, or take this one away.
    pub(super) fn can_lose(&self, target: usize) -> bool {
        let id = target as i32 + 1;
        let living = self.cluster.living();
        self.monitor.views().iter().filter(|(_, view)| view.state.replicas.contains(&id)).all(|(place, view)| {
            let leads = |index: &usize| {
                living.iter().any(|(its, _, broker)| {
                    let partition = broker.replicas().partition(&place.0, place.1);
                    its == index && partition.is_some_and(|partition| partition.leads() && partition.leader_epoch() == view.state.leader_epoch)
                })
            };
            view.state.leader != id && self.cluster.index_of(view.state.leader).is_some_and(|index| leads(&index))
        })
    }
}
