//! Faults of several steps, each the shortest way to a loss that one rule of replication alone prevents. A single fault, at random, nearly never comes to it: the
//! coordination answers faster than a broker can come back.
//!
//! | plot | what keeps the records |
//! |---|---|
//! | a joiner's disk is lost while its joining is under way | broker epochs in proposals (KIP-903) |
//! | a replica that has joined falls away before its leader hears of it | the maximal in-sync replicas (KIP-497) |
//! | a disk is lost while no controller looks | directories that are known ([`ottla::controller`]) |
//! | a controller is deposed and does not hear of it | the version of `/controller_epoch` in each of its writes |
//!
//! None of them loses what is promised to be kept: disks are taken away only where what they have is elsewhere, and what is killed comes back as it was.

use std::time::Duration;

use super::churn::Churn;
use crate::clients::history::Place;
use crate::rng::Stream;
use crate::state::CrashKind;
use crate::world::Host;

/// Who plays in a plot.
struct Cast {
    place: Place,
    replicas: Vec<i32>,
    leader: usize,
    follower: usize,
    controller: usize,
}

impl Churn {
    /// Plots until it is aborted; what it has blocked or paused then is for the healing.
    pub async fn plot(self, mut stream: Stream) {
        if self.plan.plot_mean_ms == 0 {
            return;
        }
        loop {
            self.world.sleep(Duration::from_millis(1_000 + stream.exponential(self.plan.plot_mean_ms))).await;
            let kind = stream.below(4);
            let Some(cast) = self.cast(&mut stream) else { continue };
            let drawn_ms = stream.below(2_000);
            let what = ["plot: a joiner's disk", "plot: a joiner falls away", "plot: a disk while no controller looks", "plot: a deposed controller"];
            self.world.event(what[kind as usize], &[cast.leader as u64, cast.follower as u64, cast.controller as u64], Some(&format!("{:?}", cast.place)));
            match kind {
                0 => self.lose_a_joiners_disk(&cast, drawn_ms).await,
                1 => self.lose_sight_of_a_joiner(&cast, drawn_ms).await,
                2 => self.lose_a_disk_unseen(&cast, drawn_ms).await,
                _ => self.depose(&cast, drawn_ms).await,
            }
        }
    }

    /// A partition with a leader and a follower that live, drawn among all.
    fn cast(&self, stream: &mut Stream) -> Option<Cast> {
        let (which, other) = (stream.bits(), stream.bits());
        let is_up = |index: &usize| self.cluster.broker(*index).is_some() && !self.cluster.brokers[*index].is_paused();
        let controller = self.controller()?;
        let mut scenes = Vec::new();
        for (place, view) in self.monitor.views() {
            let up: Vec<usize> = view.state.replicas.iter().filter_map(|id| self.cluster.index_of(*id)).filter(is_up).collect();
            let leader = self.cluster.index_of(view.state.leader).filter(is_up);
            let Some(leader) = leader.filter(|_| up.len() > 1) else { continue };
            let followers: Vec<usize> = up.into_iter().filter(|index| *index != leader).collect();
            let follower = followers[(other % followers.len() as u64) as usize];
            scenes.push(Cast { place, replicas: view.state.replicas, leader, follower, controller });
        }
        if scenes.is_empty() { None } else { Some(scenes.swap_remove((which % scenes.len() as u64) as usize)) }
    }

    fn host(&self, broker: usize) -> Host {
        self.cluster.brokers[broker].clone()
    }

    fn lag_ms(&self) -> u64 {
        self.plan.broker.get("replica.lag.time.max.ms").and_then(|value| value.parse().ok()).unwrap_or(10_000)
    }

    async fn pass(&self, ms: u64) {
        self.world.sleep(Duration::from_millis(ms)).await;
    }

    fn is_in_sync(&self, cast: &Cast) -> bool {
        self.monitor.in_sync(&cast.place).contains(&(cast.follower as i32 + 1))
    }

    /// Whether the follower's disk can be taken away now.
    fn may_wipe(&self, cast: &Cast) -> bool {
        let has_member = !self.plan.is_outside && cast.follower < self.plan.member_count;
        !has_member && self.cluster.broker(cast.leader).is_some() && self.can_lose(cast.follower)
    }

    /// Takes the follower's disk away, and its power; it is to be revived.
    fn take_disk(&self, cast: &Cast) {
        self.world.count_fault_of("a disk is lost", cast.follower as u64);
        self.cluster.crash_broker(cast.follower, CrashKind::PowerCut);
        self.host(cast.follower).wipe_disk();
        let id = cast.follower as i32 + 1;
        let held = self.monitor.views().into_iter().filter(|(_, view)| view.state.replicas.contains(&id));
        self.monitor.wiped(cast.follower, held.map(|(place, _)| place));
    }

    /// Kills the leader, and who else would be elected before the follower; each comes back when the nemesis finds it dead.
    fn kill_those_before(&self, cast: &Cast) {
        let in_sync = self.monitor.in_sync(&cast.place);
        let before = cast.replicas.iter().take_while(|id| **id != cast.follower as i32 + 1).filter(|id| in_sync.contains(id));
        for index in before.filter_map(|id| self.cluster.index_of(*id)).chain([cast.leader]) {
            if self.host(index).is_alive() {
                self.cluster.crash_broker(index, CrashKind::Kill);
            }
        }
    }

    /// Makes the follower fall behind: out of sync when this returns, and still paused. False if it did not come so far.
    async fn fall_behind(&self, cast: &Cast) -> bool {
        self.host(cast.follower).pause();
        self.wait(Duration::from_millis(self.lag_ms() + 3_000), || !self.is_in_sync(cast)).await;
        !self.is_in_sync(cast)
    }

    /// A follower comes back and catches up; that its leader wants it in sync does not reach the controller before it has lost all that it had.
    async fn lose_a_joiners_disk(&self, cast: &Cast, drawn_ms: u64) {
        if cast.controller == cast.leader || cast.controller == cast.follower || !self.may_wipe(cast) {
            return;
        }
        let (leader, follower, controller) = (self.host(cast.leader), self.host(cast.follower), self.host(cast.controller));
        let is_behind = self.fall_behind(cast).await;
        self.world.count_fault_of("aimed: cut off", cast.leader as u64);
        self.world.set_blocked(&leader, &controller, is_behind);
        follower.resume();
        if !is_behind {
            return;
        }
        self.pass(500 + drawn_ms).await;
        if self.may_wipe(cast) && !self.is_in_sync(cast) {
            self.world.set_blocked(&leader, &follower, true);
            let before = self.monitor.broker_epoch(cast.follower as i32 + 1);
            self.take_disk(cast);
            self.pass(20).await;
            self.cluster.revive(std::slice::from_ref(&follower));
            let patience = Duration::from_millis(self.session_ms() * 2 + 4_000);
            self.wait(patience, || self.monitor.broker_epoch(cast.follower as i32 + 1) > before).await;
            self.world.set_blocked(&leader, &controller, false);
            self.pass(300 + drawn_ms / 4).await;
            self.kill_those_before(cast);
            self.pass(self.session_ms() + 1_000).await;
        }
        self.world.set_blocked(&leader, &controller, false);
        self.world.set_blocked(&leader, &follower, false);
    }

    /// A follower is taken in, and its leader is not told: neither by the ensemble nor by the controller. Then the follower falls away, and the others go on.
    async fn lose_sight_of_a_joiner(&self, cast: &Cast, drawn_ms: u64) {
        let (leader, follower) = (self.host(cast.leader), self.host(cast.follower));
        if cast.controller == cast.follower || !self.fall_behind(cast).await {
            follower.resume();
            return;
        }
        let mut mute: Vec<Host> = if self.plan.is_outside { self.cluster.members.clone() } else { self.cluster.brokers[..self.plan.member_count].to_vec() };
        mute.push(self.host(cast.controller));
        self.world.count_fault_of("aimed: cut off", cast.leader as u64);
        self.cluster.cut(&leader, &mute, (false, true), true);
        follower.resume();
        self.wait(Duration::from_millis(2_500), || self.is_in_sync(cast)).await;
        if self.is_in_sync(cast) {
            follower.pause();
            self.pass(self.lag_ms() + 500 + drawn_ms).await;
        }
        self.cluster.cut(&leader, &mute, (false, true), false);
        follower.resume();
    }

    /// A follower loses its disk, the controller dies before it has missed it, and the follower is back before there is another one. Then its leader dies.
    async fn lose_a_disk_unseen(&self, cast: &Cast, drawn_ms: u64) {
        if cast.controller == cast.leader || !self.may_wipe(cast) || !self.is_in_sync(cast) {
            return;
        }
        let (leader, follower, controller) = (self.host(cast.leader), self.host(cast.follower), self.host(cast.controller));
        self.world.set_blocked(&leader, &follower, true);
        let before = self.monitor.broker_epoch(cast.follower as i32 + 1);
        self.take_disk(cast);
        self.pass(drawn_ms / 4).await;
        self.cluster.revive(std::slice::from_ref(&follower));
        self.pass(self.session_ms() / 4).await;
        if cast.controller != cast.follower && controller.is_alive() {
            self.cluster.crash_broker(cast.controller, CrashKind::PowerCut);
        }
        let patience = Duration::from_millis(self.session_ms() * 2 + 4_000);
        self.wait(patience, || self.monitor.broker_epoch(cast.follower as i32 + 1) > before && self.controller().is_some_and(|now| now != cast.controller))
            .await;
        self.pass(drawn_ms / 8).await;
        self.kill_those_before(cast);
        self.pass(self.session_ms() + 1_000).await;
        self.world.set_blocked(&leader, &follower, false);
    }

    /// A controller that leads a partition does not hear that it was deposed, and wants a follower of its own out of sync.
    async fn depose(&self, cast: &Cast, drawn_ms: u64) {
        let controller = self.host(cast.controller);
        let led = self.monitor.views().into_iter().find(|(_, view)| view.state.leader == cast.controller as i32 + 1 && view.state.isr.len() > 1);
        let follower = led.and_then(|(_, view)| view.state.isr.iter().filter_map(|id| self.cluster.index_of(*id)).find(|index| *index != cast.controller));
        let Some(follower) = follower else { return };
        let behind = self.host(follower);
        self.world.count_fault_of("aimed: cut off", follower as u64);
        self.cluster.cut(&behind, std::slice::from_ref(&controller), (true, true), true);
        self.pass(self.lag_ms().saturating_sub(100 + drawn_ms / 4)).await;
        let all = self.cluster.servers();
        self.cluster.cut(&controller, &all, (false, true), true);
        self.world.count_fault_of("the controller is deposed", cast.controller as u64);
        let is_deposed = self.monitor.depose_controller(cast.controller).await;
        if is_deposed {
            self.pass(1_500 + drawn_ms).await;
        }
        self.cluster.cut(&controller, &all, (false, true), false);
        self.cluster.cut(&behind, std::slice::from_ref(&controller), (true, true), false);
    }
}
