//! What a change of the tree means for the image: which part of it must be read anew. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::image::{BrokerInfo, MetadataImage, TopicImage};
use super::placement::elect;
use super::znodes::{self, PartitionState};

/// A part of the tree that is watched. They are read in this order: who writes, who is there, what there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Who is the controller.
    Controller,
    /// Which brokers are registered, and what they say.
    Brokers,
    /// The notices of changed settings.
    ConfigChanges,
    /// Which topics there are.
    Topics,
    /// One topic: its assignment, and its partitions' states.
    Topic(Arc<str>),
    /// Topics that are to be deleted.
    DeleteTopics,
}

impl Part {
    /// The part that a znode belongs to, whatever has happened to it.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            znodes::CONTROLLER => return Some(Self::Controller),
            znodes::BROKER_IDS => return Some(Self::Brokers),
            znodes::CONFIG_CHANGES => return Some(Self::ConfigChanges),
            znodes::TOPICS => return Some(Self::Topics),
            znodes::DELETE_TOPICS => return Some(Self::DeleteTopics),
            _ => {}
        }
        let below = |parent: &str| path.strip_prefix(parent).and_then(|rest| rest.strip_prefix('/'));
        if below(znodes::BROKER_IDS).is_some() {
            return Some(Self::Brokers);
        }
        let topic = below(znodes::TOPICS)?.split('/').next()?;
        Some(Self::Topic(topic.into()))
    }
}

/// What the names of `/brokers/topics` mean for the topics that are known.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct TopicNames {
    /// Not known, or not watched.
    pub(super) to_read: BTreeSet<Arc<str>>,
    /// Known, and not there any more.
    pub(super) gone: BTreeSet<Arc<str>>,
}

/// Compares the names that are there with the topics of the image.
pub(super) fn compare(names: &[Arc<str>], image: &MetadataImage, watched: &BTreeSet<Arc<str>>) -> TopicNames {
    let there: BTreeSet<&Arc<str>> = names.iter().collect();
    TopicNames {
        to_read: names.iter().filter(|name| !watched.contains(*name)).cloned().collect(),
        gone: image.topics.keys().filter(|name| !there.contains(name)).cloned().collect(),
    }
}

/// Whether a topic's znode says what the image says.
pub(super) fn is_as_known(topic: &TopicImage, id: Option<uuid::Uuid>, replicas: &[Vec<i32>]) -> bool {
    id == Some(topic.id) && topic.partitions.iter().map(|partition| &partition.replicas).eq(replicas)
}

/// The state that a partition needs after brokers came, went or were restarted; `None` if the one it has is right. A leader that was restarted leads in a
/// greater epoch: what it wrote unsynced in its earlier life may be gone, and the same epoch must not name other records.
pub(super) fn reviewed(
    state: &PartitionState,
    replicas: &[i32],
    controller_epoch: i32,
    brokers: &BTreeMap<i32, BrokerInfo>,
    is_restarted: impl Fn(&BrokerInfo) -> bool,
) -> Option<PartitionState> {
    let is_alive = |id: i32| brokers.contains_key(&id);
    let (leader, is_stale) = match brokers.get(&state.leader) {
        Some(leader) => (state.leader, is_restarted(leader)),
        None => (elect(replicas, &state.isr, is_alive).unwrap_or(-1), false),
    };
    (leader != state.leader || is_stale).then(|| PartitionState { leader, leader_epoch: state.leader_epoch + 1, controller_epoch, ..state.clone() })
}

/// The partitions whose leadership must be looked at because brokers came, went or were restarted.
pub(super) fn affected(image: &MetadataImage, now: &BTreeMap<i32, BrokerInfo>) -> Vec<(Arc<str>, i32)> {
    let epochs = |brokers: &BTreeMap<i32, BrokerInfo>, id: i32| brokers.get(&id).map(|broker| broker.epoch);
    let has_come = |id: &i32| !image.brokers.contains_key(id) && now.contains_key(id);
    image
        .topics
        .values()
        .flat_map(|topic| topic.partitions.iter().zip(0..).map(|(partition, number)| (&topic.name, partition, number)))
        .filter(|(_, partition, _)| {
            let leader = partition.leader;
            if now.contains_key(&leader) { epochs(&image.brokers, leader) != epochs(now, leader) } else { leader != -1 || partition.isr.iter().any(has_come) }
        })
        .map(|(name, _, number)| (name.clone(), number))
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::image::PartitionImage;
    use super::*;

    fn brokers(list: &[(i32, i64)]) -> BTreeMap<i32, BrokerInfo> {
        list.iter().map(|&(id, epoch)| (id, BrokerInfo { id, epoch, endpoints: vec![], rack: None })).collect()
    }

    fn image(list: &[(i32, i64)], leaders: &[i32]) -> MetadataImage {
        let mut image = MetadataImage { brokers: brokers(list), ..MetadataImage::default() };
        let partitions =
            leaders.iter().map(|&leader| PartitionImage { leader, leader_epoch: 0, replicas: vec![1, 2], isr: vec![1], partition_epoch: 0 }).collect();
        image.put_topic(Arc::new(TopicImage { name: "t".into(), id: Uuid::from_u128(1), partitions, config: BTreeMap::new(), internal: false }));
        image
    }

    #[test]
    fn every_znode_that_is_watched_belongs_to_a_part() {
        let topic = Some(Part::Topic("a.b".into()));
        for (path, part) in [
            ("/controller", Some(Part::Controller)),
            ("/brokers/ids", Some(Part::Brokers)),
            ("/brokers/ids/3", Some(Part::Brokers)),
            ("/brokers/topics", Some(Part::Topics)),
            ("/brokers/topics/a.b", topic.clone()),
            ("/brokers/topics/a.b/partitions/3/state", topic),
            ("/config/changes", Some(Part::ConfigChanges)),
            ("/admin/delete_topics", Some(Part::DeleteTopics)),
            ("/zookeeper", None),
        ] {
            assert_eq!(Part::of(path), part, "{path}");
        }
    }

    #[test]
    fn topics_come_and_go() {
        let image = image(&[(1, 5)], &[1]);
        let names: Vec<Arc<str>> = vec!["new".into(), "t".into()];
        let watched = BTreeSet::from(["t".into()]);
        assert_eq!(compare(&names, &image, &watched), TopicNames { to_read: ["new".into()].into(), gone: BTreeSet::new() });
        assert_eq!(compare(&names[..1], &image, &BTreeSet::new()), TopicNames { to_read: ["new".into()].into(), gone: ["t".into()].into() });
        let topic = &image.topics["t"];
        assert!(is_as_known(topic, Some(topic.id), &[vec![1, 2]]));
        assert!(!is_as_known(topic, None, &[vec![1, 2]]) && !is_as_known(topic, Some(topic.id), &[vec![1, 2], vec![1]]));
    }

    #[test]
    fn a_leader_that_died_is_replaced_and_one_that_was_restarted_leads_in_a_greater_epoch() {
        let state = PartitionState { version: 1, leader: 1, leader_epoch: 4, controller_epoch: 2, isr: vec![1, 2] };
        let review = |state: &PartitionState, alive: &[(i32, i64)], is_restarted| {
            reviewed(state, &[1, 2], 9, &brokers(alive), |_| is_restarted).map(|state| (state.leader, state.leader_epoch, state.controller_epoch))
        };
        assert_eq!(review(&state, &[(1, 5), (2, 6)], false), None);
        assert_eq!(review(&state, &[(1, 5), (2, 6)], true), Some((1, 5, 9)));
        assert_eq!(review(&state, &[(2, 6)], false), Some((2, 5, 9)));
        assert_eq!(review(&state, &[], false), Some((-1, 5, 9)));
        let none = PartitionState { leader: -1, ..state };
        assert_eq!(review(&none, &[], false), None);
        assert_eq!(review(&none, &[(2, 6)], false), Some((2, 5, 9)));
    }

    #[test]
    fn only_partitions_of_brokers_that_changed_are_looked_at() {
        let at = |image: &MetadataImage, now: &[(i32, i64)]| affected(image, &brokers(now)).into_iter().map(|(_, number)| number).collect::<Vec<_>>();
        let before = image(&[(1, 5), (2, 6)], &[1, 2, -1]);
        assert_eq!(at(&before, &[(1, 5), (2, 6)]), [0; 0]);
        assert_eq!(at(&before, &[(1, 5), (2, 7)]), [1]);
        assert_eq!(at(&before, &[(1, 5)]), [1]);
        assert_eq!(at(&image(&[(2, 6)], &[2, -1]), &[(1, 5), (2, 6)]), [1], "its only in-sync replica is back");
        assert_eq!(at(&before, &[(1, 5), (2, 6), (3, 7)]), [0; 0]);
    }
}
