//! What a change of the tree means for the image: which part of it must be read anew. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::image::{MetadataImage, TopicImage};
use super::znodes;

/// A part of the tree that is watched. They are read in this order: who writes, who is there, what there is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// Who is the controller.
    Controller,
    /// What brokers say of their replicas: they write it before they register.
    Offline,
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
            znodes::OFFLINE => return Some(Self::Offline),
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
        if below(znodes::OFFLINE).is_some() {
            return Some(Self::Offline);
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use uuid::Uuid;

    use super::super::image::PartitionImage;
    use super::*;

    fn image() -> MetadataImage {
        let mut image = MetadataImage::default();
        let partitions = vec![PartitionImage { leader: 1, replicas: vec![1, 2], isr: vec![1], ..PartitionImage::default() }];
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
        let image = image();
        let names: Vec<Arc<str>> = vec!["new".into(), "t".into()];
        let watched = BTreeSet::from(["t".into()]);
        assert_eq!(compare(&names, &image, &watched), TopicNames { to_read: ["new".into()].into(), gone: BTreeSet::new() });
        assert_eq!(compare(&names[..1], &image, &BTreeSet::new()), TopicNames { to_read: ["new".into()].into(), gone: ["t".into()].into() });
        let topic = &image.topics["t"];
        assert!(is_as_known(topic, Some(topic.id), &[vec![1, 2]]));
        assert!(!is_as_known(topic, None, &[vec![1, 2]]) && !is_as_known(topic, Some(topic.id), &[vec![1, 2], vec![1]]));
    }
}
