//! Who in a consumer group gets which partition: computed by the group's leader. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::topic_partition::TopicPartition;

/// A way to share out partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assignor {
    /// Each topic on its own, in runs of neighbouring partitions.
    Range,
    /// All partitions in turn.
    RoundRobin,
    /// Evenly, moving as little as possible; a partition that moves is given up by its owner first and handed over in the next
    /// rebalance, so that nobody stops for the others (KIP-429).
    CooperativeSticky,
}

impl Assignor {
    /// The name by which members agree on it; the same as in Kafka's clients.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// The assignor of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        [Self::Range, Self::RoundRobin, Self::CooperativeSticky].into_iter().find(|assignor| assignor.name() == name)
    }

    /// Whether members keep what they have while a rebalance goes on.
    pub fn is_cooperative(self) -> bool {
        self == Self::CooperativeSticky
    }
}

/// What a member told the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// The topics that it wants.
    pub topics: BTreeSet<Arc<str>>,
    /// What it has now.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it got that; −1 if it does not say.
    pub generation: i32,
    /// Its name over restarts, by which members are ordered.
    pub instance_id: Option<String>,
}

/// The partitions of each member, by member id.
pub type Assignment = BTreeMap<String, Vec<TopicPartition>>;

/// Shares out the partitions of all topics that somebody wants. `partition_counts`: how many partitions each topic has; topics that do
/// not exist are not in it. Every member is in the result.
pub fn assign(assignor: Assignor, members: &BTreeMap<String, Subscription>, partition_counts: &BTreeMap<Arc<str>, i32>) -> Assignment {
    let mut assignment: Assignment = members.keys().map(|member| (member.clone(), Vec::new())).collect();
    match assignor {
        Assignor::Range => range(members, partition_counts, &mut assignment),
        Assignor::RoundRobin => round_robin(members, partition_counts, &mut assignment),
        Assignor::CooperativeSticky => sticky(members, partition_counts, &mut assignment),
    }
    assignment.values_mut().for_each(|partitions| partitions.sort());
    assignment
}

/// Member ids in the order in which they are served: those with a lasting name by it, the others after.
fn ordered(members: &BTreeMap<String, Subscription>) -> Vec<&String> {
    let mut ids: Vec<&String> = members.keys().collect();
    ids.sort_by_key(|id| (members[*id].instance_id.is_none(), members[*id].instance_id.clone(), (*id).clone()));
    ids
}

fn give(assignment: &mut Assignment, member: &str, partition: TopicPartition) {
    assignment.entry(member.to_owned()).or_default().push(partition);
}

fn range(members: &BTreeMap<String, Subscription>, counts: &BTreeMap<Arc<str>, i32>, assignment: &mut Assignment) {
    for (topic, count) in counts {
        let wanting: Vec<&String> = ordered(members).into_iter().filter(|id| members[*id].topics.contains(topic)).collect();
        let (member_count, mut next) = (wanting.len() as i32, 0);
        for (index, member) in wanting.into_iter().enumerate() {
            let share = count / member_count + i32::from((index as i32) < count % member_count);
            (next..next + share).for_each(|partition| give(assignment, member, TopicPartition::new(topic.clone(), partition)));
            next += share;
        }
    }
}

fn round_robin(members: &BTreeMap<String, Subscription>, counts: &BTreeMap<Arc<str>, i32>, assignment: &mut Assignment) {
    let ids = ordered(members);
    let mut turn = 0;
    for (topic, count) in counts {
        if !members.values().any(|member| member.topics.contains(topic)) {
            continue;
        }
        for partition in 0..*count {
            while !members[ids[turn % ids.len()]].topics.contains(topic) {
                turn += 1;
            }
            give(assignment, ids[turn % ids.len()], TopicPartition::new(topic.clone(), partition));
            turn += 1;
        }
    }
}

fn sticky(members: &BTreeMap<String, Subscription>, counts: &BTreeMap<Arc<str>, i32>, assignment: &mut Assignment) {
    let exists = |partition: &TopicPartition| counts.get(&partition.topic).is_some_and(|count| (0..*count).contains(&partition.partition));
    let wants = |member: &str, partition: &TopicPartition| members[member].topics.contains(&partition.topic);
    // The newest claim to a partition counts; two of one generation contradict each other, and neither does.
    let mut claims: BTreeMap<TopicPartition, (i32, Option<&String>)> = BTreeMap::new();
    for (member, subscription) in members {
        for partition in subscription.owned.iter().filter(|partition| exists(partition)) {
            let claim = claims.entry(partition.clone()).or_insert((i32::MIN, None));
            if subscription.generation > claim.0 {
                *claim = (subscription.generation, Some(member));
            } else if subscription.generation == claim.0 {
                claim.1 = None;
            }
        }
    }
    let owner = |partition: &TopicPartition| claims.get(partition).and_then(|(_, owner)| *owner);
    let mut target: BTreeMap<&String, BTreeSet<TopicPartition>> = members.keys().map(|member| (member, BTreeSet::new())).collect();
    let mut homeless = Vec::new();
    for (topic, count) in counts {
        for number in 0..*count {
            let partition = TopicPartition::new(topic.clone(), number);
            match owner(&partition).filter(|member| wants(member, &partition)) {
                Some(member) => drop(target.entry(member).or_default().insert(partition)),
                None => homeless.push(partition),
            }
        }
    }
    for partition in homeless {
        let least = target.iter().filter(|(member, _)| wants(member, &partition)).min_by_key(|(_, partitions)| partitions.len()).map(|(member, _)| *member);
        if let Some(member) = least {
            target.entry(member).or_default().insert(partition);
        }
    }
    // Every move shrinks the sum of the squares of the loads, so this ends.
    while let Some((from, to, partition)) = next_move(&target, &wants, &owner) {
        target.entry(from).or_default().remove(&partition);
        target.entry(to).or_default().insert(partition);
    }
    for (member, partitions) in target {
        for partition in partitions {
            // A partition that somebody else still has comes with the next rebalance, after its owner gave it up.
            let held_by_other = claims.contains_key(&partition) && owner(&partition).is_some_and(|owner| owner != member);
            if !held_by_other {
                give(assignment, member, partition);
            }
        }
    }
}

/// A partition whose move makes the loads more even: from the most loaded member that has one for the least loaded that wants it.
fn next_move<'a>(
    target: &BTreeMap<&'a String, BTreeSet<TopicPartition>>,
    wants: &impl Fn(&str, &TopicPartition) -> bool,
    owner: &impl Fn(&TopicPartition) -> Option<&'a String>,
) -> Option<(&'a String, &'a String, TopicPartition)> {
    let mut by_load: Vec<(usize, &'a String)> = target.iter().map(|(member, partitions)| (partitions.len(), *member)).collect();
    by_load.sort();
    for (high, from) in by_load.iter().rev() {
        for (low, to) in &by_load {
            if *high < low + 2 {
                break;
            }
            let movable: Vec<&TopicPartition> = target[from].iter().filter(|partition| wants(to, partition)).collect();
            // First what `from` did not have before, or what `to` had.
            let choice = movable.iter().find(|partition| owner(partition) != Some(from)).or_else(|| movable.last());
            if let Some(partition) = choice {
                return Some((from, to, (*partition).clone()));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(topics: &[&str], owned: &[(&str, i32)]) -> Subscription {
        Subscription {
            topics: topics.iter().map(|topic| Arc::from(*topic)).collect(),
            owned: owned.iter().map(|(topic, partition)| TopicPartition::new(*topic, *partition)).collect(),
            generation: 1,
            instance_id: None,
        }
    }

    fn counts(pairs: &[(&str, i32)]) -> BTreeMap<Arc<str>, i32> {
        pairs.iter().map(|(topic, count)| (Arc::from(*topic), *count)).collect()
    }

    fn show(assignment: &Assignment) -> Vec<String> {
        assignment
            .iter()
            .map(|(member, partitions)| format!("{member}: {}", partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")))
            .collect()
    }

    fn members(list: &[(&str, Subscription)]) -> BTreeMap<String, Subscription> {
        list.iter().map(|(id, subscription)| ((*id).to_owned(), subscription.clone())).collect()
    }

    #[test]
    fn range_gives_runs_per_topic() {
        let group = members(&[("a", member(&["t", "u"], &[])), ("b", member(&["t", "u"], &[])), ("c", member(&["u"], &[]))]);
        let assignment = assign(Assignor::Range, &group, &counts(&[("t", 3), ("u", 2)]));
        assert_eq!(show(&assignment), ["a: t-0 t-1 u-0", "b: t-2 u-1", "c: "]);
    }

    #[test]
    fn round_robin_takes_turns() {
        let group = members(&[("a", member(&["t", "u"], &[])), ("b", member(&["t"], &[]))]);
        let assignment = assign(Assignor::RoundRobin, &group, &counts(&[("t", 3), ("u", 2), ("v", 9)]));
        assert_eq!(show(&assignment), ["a: t-0 t-2 u-0 u-1", "b: t-1"]);
    }

    #[test]
    fn a_newcomer_gets_nothing_that_is_not_given_up_yet() {
        let group = members(&[("a", member(&["t"], &[("t", 0), ("t", 1), ("t", 2), ("t", 3)])), ("b", member(&["t"], &[]))]);
        let first = assign(Assignor::CooperativeSticky, &group, &counts(&[("t", 4)]));
        assert_eq!(show(&first), ["a: t-0 t-1", "b: "]);
        let group = members(&[("a", member(&["t"], &[("t", 0), ("t", 1)])), ("b", member(&["t"], &[]))]);
        let second = assign(Assignor::CooperativeSticky, &group, &counts(&[("t", 4)]));
        assert_eq!(show(&second), ["a: t-0 t-1", "b: t-2 t-3"]);
    }

    #[test]
    fn an_older_claim_gives_way() {
        let mut old = member(&["t"], &[("t", 0)]);
        old.generation = 0;
        let group = members(&[("a", old), ("b", member(&["t"], &[("t", 0)]))]);
        let assignment = assign(Assignor::CooperativeSticky, &group, &counts(&[("t", 1)]));
        assert_eq!(show(&assignment), ["a: ", "b: t-0"]);
    }

    fn any_group() -> impl Strategy<Value = (BTreeMap<String, Subscription>, BTreeMap<Arc<str>, i32>)> {
        let one = (proptest::sample::subsequence(vec!["t", "u", "v"], 1..=3), proptest::collection::vec((0_usize..3, 0_i32..6), 0..6), 0_i32..3);
        (proptest::collection::vec(one, 1..6), proptest::collection::vec(1_i32..6, 3)).prop_map(|(list, sizes)| {
            let names = ["t", "u", "v"];
            let members = list.into_iter().enumerate().map(|(index, (topics, owned, generation))| {
                let owned: Vec<_> = owned.into_iter().map(|(topic, partition)| (names[topic], partition)).collect();
                (format!("m{index}"), Subscription { generation, ..member(&topics, &owned) })
            });
            (members.collect(), names.iter().zip(sizes).map(|(name, size)| (Arc::from(*name), size)).collect())
        })
    }

    proptest! {
        /// Nobody gets what another has; only what is wanted and exists is given; all that is wanted is given, at the latest once
        /// owners have given up what moves.
        #[test]
        fn every_partition_has_one_member((group, sizes) in any_group()) {
            for assignor in [Assignor::Range, Assignor::RoundRobin, Assignor::CooperativeSticky] {
                let mut assignment = assign(assignor, &group, &sizes);
                // Members give up what they lose and join again, until nobody loses anything.
                let mut owned = Assignment::new();
                let mut rounds = 0;
                while assignor.is_cooperative() && owned != assignment {
                    rounds += 1;
                    prop_assert!(rounds < 10, "it never settles");
                    owned = assignment;
                    let mut next = group.clone();
                    for (id, subscription) in &mut next {
                        subscription.owned = owned[id].clone();
                        subscription.generation = 9;
                    }
                    assignment = assign(assignor, &next, &sizes);
                    let others = |id: &String, partition| owned.iter().any(|(other, partitions)| other != id && partitions.contains(partition));
                    for (id, partitions) in &assignment {
                        prop_assert!(!partitions.iter().any(|partition| others(id, partition)), "handed over before it was given up");
                    }
                }
                let mut given = BTreeSet::new();
                for (id, partitions) in &assignment {
                    for partition in partitions {
                        prop_assert!(group[id].topics.contains(&partition.topic));
                        prop_assert!((0..sizes[&partition.topic]).contains(&partition.partition));
                        prop_assert!(given.insert(partition.clone()), "{} twice", partition);
                    }
                }
                let wanted: i32 = sizes.iter().filter(|(topic, _)| group.values().any(|member| member.topics.contains(*topic))).map(|(_, size)| size).sum();
                prop_assert_eq!(given.len() as i32, wanted);
            }
        }
    }
}
