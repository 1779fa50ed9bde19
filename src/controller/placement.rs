//! Where replicas go: pure. The rules are Kafka's (`AdminUtils.assignReplicasToBrokers`): replicas are spread evenly over
//! brokers, the leaders too, and over racks if every broker names its own.

use std::collections::{BTreeMap, BTreeSet};

/// A broker that may get replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id.
    pub id: i32,
    /// Its rack.
    pub rack: Option<String>,
}

/// Where the spreading begins: drawn at random for a new topic, so that topics do not pile up on the first brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Which broker, in the order of candidates, leads the first partition of the topic.
    pub broker_index: usize,
    /// How far the second replica of the first partition is from the first one.
    pub shift: usize,
    /// The number of the first partition to place.
    pub partition: usize,
}

/// Why replicas cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// There is no broker.
    #[error("All brokers are currently fenced.")]
    NoBrokers,
    /// There are fewer brokers than replicas.
    #[error("The target replication factor of {replication_factor} cannot be reached because only {broker_count} broker(s) are registered.")]
    TooFewBrokers {
        /// What was asked for.
        replication_factor: usize,
        /// How many there are.
        broker_count: usize,
    },
}

/// The replicas of `count` partitions, each a list with the preferred leader first.
///
/// # Errors
/// [`PlacementError`], whose text is Kafka's.
///
/// # Panics
/// If `replication_factor` is 0: requests are validated before.
pub fn place(candidates: &[Candidate], start: Start, count: usize, replication_factor: usize) -> Result<Vec<Vec<i32>>, PlacementError> {
    assert!(replication_factor > 0, "a partition has at least one replica");
    let broker_count = candidates.len();
    if broker_count == 0 {
        return Err(PlacementError::NoBrokers);
    }
    if replication_factor > broker_count {
        return Err(PlacementError::TooFewBrokers { replication_factor, broker_count });
    }
    let racks: Option<BTreeSet<&str>> = candidates.iter().map(|candidate| candidate.rack.as_deref()).collect();
    // Racks help only if every broker has one.
    let racks = racks.unwrap_or_default();
    let order = if racks.is_empty() { candidates.iter().collect() } else { alternating(candidates) };
    let mut shift = start.shift;
    let mut placed = Vec::with_capacity(count);
    for partition in start.partition..start.partition + count {
        if partition > 0 && partition % broker_count == 0 {
            shift += 1;
        }
        let first = (partition + start.broker_index) % broker_count;
        let mut replicas = vec![order[first].id];
        let mut used_racks: BTreeSet<&str> = order[first].rack.as_deref().into_iter().collect();
        let mut step = 0;
        while replicas.len() < replication_factor {
            let next = order[(first + 1 + (shift + step) % (broker_count - 1)) % broker_count];
            step += 1;
            let is_rack_free = racks.is_empty() || used_racks.len() == racks.len() || next.rack.as_deref().is_some_and(|rack| !used_racks.contains(rack));
            if is_rack_free && !replicas.contains(&next.id) {
                replicas.push(next.id);
                used_racks.extend(next.rack.as_deref());
            }
        }
        placed.push(replicas);
    }
    Ok(placed)
}

/// The brokers, one of each rack in turn, so that neighbours are in different racks.
fn alternating(candidates: &[Candidate]) -> Vec<&Candidate> {
    let mut by_rack: BTreeMap<&str, Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        by_rack.entry(candidate.rack.as_deref().unwrap_or_default()).or_default().push(candidate);
    }
    let longest = by_rack.values().map(Vec::len).max().unwrap_or(0);
    (0..longest).flat_map(|at| by_rack.values().filter_map(move |brokers| brokers.get(at).copied()).collect::<Vec<_>>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidates(racks: &[Option<&str>]) -> Vec<Candidate> {
        racks.iter().zip(0..).map(|(rack, id)| Candidate { id, rack: rack.map(str::to_owned) }).collect()
    }

    #[test]
    fn one_broker_has_everything() {
        let placed = place(&candidates(&[None]), Start { broker_index: 7, shift: 3, partition: 0 }, 3, 1).unwrap();
        assert_eq!(placed, vec![vec![0]; 3]);
    }

    #[test]
    fn ten_partitions_on_five_brokers_as_in_kafkas_documentation() {
        let placed = place(&candidates(&[None; 5]), Start { broker_index: 0, shift: 0, partition: 0 }, 10, 3).unwrap();
        let expected =
            [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 0], [4, 0, 1], [0, 2, 3], [1, 3, 4], [2, 4, 0], [3, 0, 1], [4, 1, 2]].map(|replicas| replicas.to_vec());
        assert_eq!(placed, expected);
    }

    #[test]
    fn too_few_brokers_are_told_in_kafkas_words() {
        let error = place(&candidates(&[None]), Start { broker_index: 0, shift: 0, partition: 0 }, 1, 3).unwrap_err();
        assert_eq!(error.to_string(), "The target replication factor of 3 cannot be reached because only 1 broker(s) are registered.");
    }

    proptest! {
        #[test]
        fn replicas_are_distinct_even_and_on_as_many_racks_as_can_be(
            racks in prop::collection::vec(0..4usize, 1..9),
            is_rack_aware: bool,
            count in 1..40usize,
            factor in 1..5usize,
            broker_index in 0..20usize,
            shift in 0..20usize,
        ) {
            let names = ["a", "b", "c", "d"];
            let candidates = candidates(&racks.iter().map(|&rack| is_rack_aware.then_some(names[rack])).collect::<Vec<_>>());
            let factor = factor.min(candidates.len());
            let placed = place(&candidates, Start { broker_index, shift, partition: 0 }, count, factor).unwrap();
            let rack_count = racks.iter().collect::<BTreeSet<_>>().len();
            let mut leaders = BTreeMap::<i32, usize>::new();
            for replicas in &placed {
                prop_assert_eq!(replicas.iter().collect::<BTreeSet<_>>().len(), factor);
                *leaders.entry(replicas[0]).or_default() += 1;
                if is_rack_aware {
                    let used = replicas.iter().map(|&id| racks[id as usize]).collect::<BTreeSet<_>>().len();
                    prop_assert_eq!(used, factor.min(rack_count));
                }
            }
            let most = leaders.values().max().unwrap();
            prop_assert!(*most <= count.div_ceil(candidates.len()));
        }
    }
}
