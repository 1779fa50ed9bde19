//! What is healed: a core that can go on, drawn at random, by what is known of the cluster; all else stays broken for ever.
//!
//! A core has a majority of the ensemble, and for each partition of several replicas one that is in sync and enough to write. A partition of one replica goes
//! with its broker, as nothing promises that it does not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::hosts::Cluster;
use super::monitor::View;
use super::plan::Plan;
use crate::clients::history::Place;
use crate::rng::Stream;
use crate::state::CrashKind;
use crate::world::{Host, World};

/// How a server stays broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// Without power.
    Dead,
    /// Stopped in its tracks.
    Paused,
    /// Cut off from everybody, and alive.
    CutOff,
}

/// What is healed and what is not.
#[derive(Clone, Debug, Default)]
pub struct Core {
    /// Brokers that stay broken.
    pub brokers: BTreeMap<usize, Broken>,
    /// Members on hosts of their own that stay broken.
    pub members: BTreeMap<usize, Broken>,
}

/// Draws what is left over are tried so often before everything is healed.
const TRIES: usize = 12;

impl Core {
    /// Draws one. `with_logs`: the members of the ensemble that have taken part in it.
    pub fn draw(plan: &Plan, views: &BTreeMap<Place, View>, with_logs: &BTreeSet<usize>, stream: &mut Stream) -> Self {
        let heals_all = stream.chance(350_000);
        let how = |stream: &mut Stream| *stream.pick(&[Broken::Dead, Broken::Dead, Broken::Paused, Broken::CutOff]);
        for _ in 0..TRIES {
            let mut core = Self::default();
            for _ in 0..stream.between(1, (plan.broker_count as u64 - 1).min(3)) {
                core.brokers.insert(stream.index(plan.broker_count), how(stream));
            }
            if plan.is_outside && plan.member_count > 1 {
                for _ in 0..stream.below(plan.member_count as u64 / 2 + 1) {
                    core.members.insert(stream.index(plan.member_count), how(stream));
                }
            }
            if !heals_all && core.can_go_on(plan, views, with_logs) {
                return core;
            }
        }
        Self::default()
    }

    /// Whether a member of the ensemble is in the core.
    fn has_member(&self, plan: &Plan, member: usize) -> bool {
        if plan.is_outside { !self.members.contains_key(&member) } else { !self.brokers.contains_key(&member) }
    }

    /// Whether the ensemble can serve. One that has no log yet waits for the one that leads, or, before there is an ensemble at all, for all others.
    fn has_quorum(&self, plan: &Plan, with_logs: &BTreeSet<usize>) -> bool {
        let healed = |members: &mut dyn Iterator<Item = usize>| members.filter(|member| self.has_member(plan, *member)).count();
        if with_logs.is_empty() {
            healed(&mut (0..plan.member_count)) == plan.member_count
        } else {
            healed(&mut with_logs.iter().copied()) > plan.member_count / 2
        }
    }

    /// Whether a broker is in the core.
    pub fn has(&self, broker_id: i32) -> bool {
        usize::try_from(broker_id - 1).is_ok_and(|index| !self.brokers.contains_key(&index))
    }

    fn can_go_on(&self, plan: &Plan, views: &BTreeMap<Place, View>, with_logs: &BTreeSet<usize>) -> bool {
        let majority = self.has_quorum(plan, with_logs);
        // A topic that is not there yet has to be made, with as many replicas as it is to have.
        let healed = plan.broker_count - self.brokers.len();
        let is_there = |topic: &String| views.keys().any(|(known, _)| known == topic);
        let enough_brokers = plan.replication().iter().all(|(topic, count)| is_there(topic) || healed >= usize::try_from(*count).unwrap_or(1));
        majority && enough_brokers && views.iter().all(|(place, view)| self.keeps(view, plan.min_isr(&place.0)))
    }

    /// Whether a partition can be read and written with what is healed; one of a single replica may go.
    fn keeps(&self, view: &View, min_isr: usize) -> bool {
        let replicas = &view.state.replicas;
        if replicas.len() < 2 {
            return true;
        }
        let healed = replicas.iter().filter(|id| self.has(**id)).count();
        view.state.isr.iter().any(|id| self.has(*id)) && healed >= min_isr.min(replicas.len())
    }

    /// The servers that are healed.
    pub fn servers(&self, cluster: &Cluster) -> Vec<Host> {
        let brokers = cluster.brokers.iter().enumerate().filter(|(index, _)| !self.brokers.contains_key(index));
        let members = cluster.members.iter().enumerate().filter(|(index, _)| !self.members.contains_key(index));
        brokers.chain(members).map(|(_, host)| host.clone()).collect()
    }

    /// The brokers that are healed, by index.
    pub fn brokers(&self, cluster: &Cluster) -> Vec<usize> {
        (0..cluster.brokers.len()).filter(|index| !self.brokers.contains_key(index)).collect()
    }

    /// Breaks what stays broken; all else is for [`World::heal`].
    pub fn enforce(&self, world: &World, cluster: &Arc<Cluster>) {
        let all = world.hosts();
        let brokers = self.brokers.iter().map(|(index, how)| (&cluster.brokers[*index], *how));
        let members = self.members.iter().map(|(index, how)| (&cluster.members[*index], *how));
        for (host, how) in brokers.chain(members) {
            match how {
                Broken::Dead => host.crash(CrashKind::PowerCut),
                Broken::Paused => host.pause(),
                Broken::CutOff => {
                    host.resume();
                    cluster.cut(host, &all, (true, true), true);
                }
            }
        }
    }
}
