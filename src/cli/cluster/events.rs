//! What people care about in the life of a cluster, in a line each, from what its brokers answer to Metadata. Pure: two views go in, lines come out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use crate::client::cluster::ClusterMetadata;

/// Names in one line before the rest is counted.
const NAMES_MAX: usize = 3;

/// A partition, by topic and number.
type Place = (Arc<str>, i32);

/// A cluster at one time, as clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The controller's broker id; −1 if there is none.
    pub(crate) controller: i32,
    /// The brokers that are part of the cluster.
    pub(crate) brokers: BTreeSet<i32>,
    pub(super) partitions: BTreeMap<Place, Partition>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partition {
    /// `None` if nobody leads it who is part of the cluster.
    leader: Option<i32>,
    in_sync: BTreeSet<i32>,
    replicas: usize,
}

impl From<&ClusterMetadata> for View {
    fn from(metadata: &ClusterMetadata) -> Self {
        let brokers: BTreeSet<i32> = metadata.brokers.keys().copied().collect();
        let mut partitions = BTreeMap::new();
        for (name, topic) in &metadata.topics {
            // A topic that is being made or deleted is told of when it is there, or gone.
            for (number, partition) in topic.iter().flat_map(|topic| &topic.partitions) {
                let leader = Some(partition.leader).filter(|leader| brokers.contains(leader));
                let state = Partition { leader, in_sync: partition.isr.iter().copied().collect(), replicas: partition.replicas.len() };
                partitions.insert((name.clone(), *number), state);
            }
        }
        Self { controller: metadata.controller_id, brokers, partitions }
    }
}

/// Remembers what was told.
#[derive(Debug, Default)]
pub(crate) struct Events {
    last: View,
    is_begun: bool,
    /// Brokers that were part of the cluster and are not.
    missing: BTreeSet<i32>,
}

impl Events {
    /// What is to be told of `now`, compared with the view before.
    pub(crate) fn observe(&mut self, now: View) -> Vec<String> {
        let mut lines = Vec::new();
        let before = std::mem::replace(&mut self.last, now);
        let now = &self.last;
        for broker in before.brokers.difference(&now.brokers) {
            lines.push(format!("broker {broker} is no longer part of the cluster"));
            self.missing.insert(*broker);
        }
        // That a broker joins at the start goes without saying.
        let back = now.brokers.iter().filter(|broker| self.missing.remove(broker));
        lines.extend(back.map(|broker| format!("broker {broker} is part of the cluster again")));
        if now.controller != before.controller || !self.is_begun {
            lines.push(match now.controller {
                ..0 => "there is no controller".to_owned(),
                id => format!("broker {id} is the controller"),
            });
        }
        topics(&before, now, &mut lines);
        leaders(&before, now, &mut lines);
        in_sync(&before, now, &mut lines);
        self.is_begun = true;
        lines
    }
}

fn topics(before: &View, now: &View, lines: &mut Vec<String>) {
    let counted = |view: &View| {
        let mut topics: BTreeMap<Arc<str>, (usize, usize)> = BTreeMap::new();
        for ((topic, _), partition) in &view.partitions {
            let counts = topics.entry(topic.clone()).or_default();
            *counts = (counts.0 + 1, counts.1.max(partition.replicas));
        }
        topics
    };
    let (before, now) = (counted(before), counted(now));
    for (topic, (partitions, replicas)) in &now {
        if before.get(topic).is_none_or(|(count, _)| count != partitions) {
            lines.push(format!("topic {topic} has {}, {} of each", count(*partitions, "partition"), count(*replicas, "copy")));
        }
    }
    lines.extend(before.keys().filter(|topic| !now.contains_key(*topic)).map(|topic| format!("topic {topic} is deleted")));
}

fn leaders(before: &View, now: &View, lines: &mut Vec<String>) {
    let mut moved: BTreeMap<(i32, i32), Vec<&Place>> = BTreeMap::new();
    let (mut unled, mut led) = (Vec::new(), Vec::new());
    for (place, partition) in &now.partitions {
        // What is new is told of as a topic.
        let Some(was) = before.partitions.get(place) else {
            continue;
        };
        match (was.leader, partition.leader) {
            (Some(from), Some(to)) if from != to => moved.entry((from, to)).or_default().push(place),
            (Some(_), None) => unled.push(place),
            (None, Some(_)) => led.push(place),
            _ => {}
        }
    }
    lines.extend(moved.iter().map(|((from, to), places)| format!("broker {to} leads {} in place of {from}", names(places))));
    if !unled.is_empty() {
        lines.push(format!("without a leader: {}", names(&unled)));
    }
    if !led.is_empty() {
        lines.push(format!("with a leader again: {}", names(&led)));
    }
}

fn in_sync(before: &View, now: &View, lines: &mut Vec<String>) {
    let (mut shrank, mut grew): (BTreeMap<i32, Vec<&Place>>, BTreeMap<i32, Vec<&Place>>) = Default::default();
    for (place, partition) in &now.partitions {
        let Some(was) = before.partitions.get(place) else {
            continue;
        };
        was.in_sync.difference(&partition.in_sync).for_each(|broker| shrank.entry(*broker).or_default().push(place));
        partition.in_sync.difference(&was.in_sync).for_each(|broker| grew.entry(*broker).or_default().push(place));
    }
    lines.extend(shrank.iter().map(|(broker, places)| format!("broker {broker} is out of sync: {}", names(places))));
    lines.extend(grew.iter().map(|(broker, places)| format!("broker {broker} is in sync again: {}", names(places))));
    let is_whole = |view: &View| view.partitions.values().all(|partition| partition.in_sync.len() == partition.replicas && partition.leader.is_some());
    if !is_whole(before) && is_whole(now) && !now.partitions.is_empty() {
        lines.push(format!(
            "{} led and all copies in sync",
            match now.partitions.len() {
                1 => "the partition is".to_owned(),
                many => format!("all {many} partitions are"),
            }
        ));
    }
}

/// `1 copy`, `2 copies`.
fn count(number: usize, one: &str) -> String {
    match (number, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        (_, None) => format!("{number} {one}s"),
    }
}

/// The first few by name, the others by number.
fn names(places: &[&Place]) -> String {
    let mut text = String::new();
    for (at, (topic, number)) in places.iter().take(NAMES_MAX).enumerate() {
        let _ = write!(text, "{}{topic}-{number}", if at == 0 { "" } else { ", " });
    }
    if places.len() > NAMES_MAX {
        let _ = write!(text, " and {} more", places.len() - NAMES_MAX);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Partitions 0, 1, … of topic t with a leader (0: none) and in-sync replicas each; all have three replicas.
    fn view(controller: i32, brokers: &[i32], partitions: &[(i32, &[i32])]) -> View {
        let partition = |(at, (leader, in_sync)): (usize, &(i32, &[i32]))| {
            let state = Partition { leader: Some(*leader).filter(|id| *id > 0), in_sync: in_sync.iter().copied().collect(), replicas: 3 };
            ((Arc::from("t"), at as i32), state)
        };
        View { controller, brokers: brokers.iter().copied().collect(), partitions: partitions.iter().enumerate().map(partition).collect() }
    }

    #[test]
    fn the_death_and_the_return_of_a_leader() {
        let all: &[i32] = &[1, 2, 3];
        let mut events = Events::default();
        assert_eq!(events.observe(view(1, all, &[])), ["broker 1 is the controller"]);
        assert_eq!(events.observe(view(1, all, &[(1, all), (2, all)])), ["topic t has 2 partitions, 3 copies of each"]);
        assert!(events.observe(view(1, all, &[(1, all), (2, all)])).is_empty(), "nothing new, nothing said");
        assert_eq!(
            events.observe(view(2, &[2, 3], &[(2, &[2, 3]), (2, all)])),
            ["broker 1 is no longer part of the cluster", "broker 2 is the controller", "broker 2 leads t-0 in place of 1", "broker 1 is out of sync: t-0"]
        );
        assert_eq!(events.observe(view(2, all, &[(2, &[2, 3]), (2, &[2, 3])])), ["broker 1 is part of the cluster again", "broker 1 is out of sync: t-1"]);
        assert_eq!(
            events.observe(view(2, all, &[(2, all), (2, all)])),
            ["broker 1 is in sync again: t-0, t-1", "all 2 partitions are led and all copies in sync"]
        );
    }

    #[test]
    fn partitions_without_a_leader_are_named_and_many_are_counted() {
        let all: &[i32] = &[1, 2, 3];
        let mut events = Events::default();
        events.observe(view(2, all, &[(1, all); 5]));
        assert_eq!(
            events.observe(view(-1, &[2, 3], &[(0, &[1][..]); 5])),
            [
                "broker 1 is no longer part of the cluster",
                "there is no controller",
                "without a leader: t-0, t-1, t-2 and 2 more",
                "broker 2 is out of sync: t-0, t-1, t-2 and 2 more",
                "broker 3 is out of sync: t-0, t-1, t-2 and 2 more"
            ]
        );
        let lines = events.observe(view(2, all, &[(1, &[1][..]); 5]));
        assert_eq!(lines, ["broker 1 is part of the cluster again", "broker 2 is the controller", "with a leader again: t-0, t-1, t-2 and 2 more"]);
        assert_eq!(events.observe(view(2, all, &[]))[..], ["topic t is deleted"]);
    }
}
