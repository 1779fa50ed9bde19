//! The rules of `elections`, one by one, and what holds whatever happens.

use proptest::prelude::*;

use super::*;

struct World {
    brokers: BTreeMap<i32, BrokerInfo>,
    leaving: BTreeSet<i32>,
    wiped: BTreeSet<i32>,
    here: Here,
    troubles: Troubles,
}

impl World {
    fn of(brokers: &[(i32, i64)]) -> Self {
        let brokers = brokers.iter().map(|&(id, epoch)| (id, BrokerInfo { id, epoch, endpoints: vec![], rack: None, directory_ids: vec![] })).collect();
        Self { brokers, leaving: BTreeSet::new(), wiped: BTreeSet::new(), here: Here::default(), troubles: Troubles::default() }
    }

    fn cluster(&self) -> Cluster<'_> {
        let Self { brokers, leaving, wiped, here, troubles } = self;
        Cluster { brokers, leaving, wiped, troubles, here, plants: Plants::default() }
    }
}

fn partition(leader: i32, leader_broker_epoch: i64, isr: &[i32]) -> PartitionImage {
    PartitionImage { leader, leader_epoch: 4, leader_broker_epoch, replicas: vec![1, 2, 3], isr: isr.to_vec(), partition_epoch: 9, ..PartitionImage::default() }
}

/// Leader, leader epoch, in-sync replicas.
fn told(partition: Option<PartitionImage>) -> Option<(i32, i32, Vec<i32>)> {
    partition.map(|partition| (partition.leader, partition.leader_epoch, partition.isr))
}

#[test]
fn a_new_partition_has_all_replicas_that_are_there_in_sync() {
    let world = World::of(&[(2, 20), (3, 30)]);
    let new = created(&[1, 3, 2], &world.cluster());
    assert_eq!((new.leader, new.leader_broker_epoch, &*new.isr), (3, 30, &[3, 2][..]));
    let nobody = World::of(&[]);
    let new = created(&[1, 2], &nobody.cluster());
    assert_eq!((new.leader, &*new.isr), (-1, &[1, 2][..]), "whoever comes first may lead: there is nothing to lose");
}

#[test]
fn brokers_come_and_go() {
    let review = |partition: &PartitionImage, brokers: &[(i32, i64)]| told(reviewed(partition, &World::of(brokers).cluster(), false));
    let all = partition(1, 10, &[1, 2, 3]);
    assert_eq!(review(&all, &[(1, 10), (2, 20), (3, 30)]), None);
    assert_eq!(review(&all, &[(1, 10), (2, 20)]), Some((1, 4, vec![1, 2])), "a follower has gone: the epoch stays");
    assert_eq!(review(&all, &[(1, 10), (2, 99), (3, 30)]), None, "a follower was restarted");
    assert_eq!(review(&all, &[(1, 11), (2, 20), (3, 30)]), Some((1, 5, vec![1, 2, 3])), "the leader was restarted: another epoch");
    assert_eq!(review(&all, &[(2, 20), (3, 30)]), Some((2, 5, vec![2, 3])));
    assert_eq!(review(&all, &[]), Some((-1, 5, vec![1, 2, 3])), "each of them has all that was committed");
    let dead = partition(-1, -1, &[1, 2]);
    assert_eq!(review(&dead, &[(3, 30)]), None, "not in sync");
    assert_eq!(review(&dead, &[(2, 20), (3, 30)]), Some((2, 5, vec![2])));
    let unclean = reviewed(&dead, &World::of(&[(3, 30)]).cluster(), true);
    assert_eq!(told(unclean), Some((3, 5, vec![3])));
    assert_eq!(told(reviewed(&dead, &World::of(&[(2, 20), (3, 30)]).cluster(), true)), Some((2, 5, vec![2])), "clean if it can be");
}

#[test]
fn a_broker_with_another_disk_is_in_sync_nowhere() {
    let mut world = World::of(&[(1, 11), (2, 20), (3, 30)]);
    world.wiped = [1].into();
    assert_eq!(told(reviewed(&partition(1, 10, &[1, 2]), &world.cluster(), false)), Some((2, 5, vec![2])), "it does not lead with nothing");
    assert_eq!(told(reviewed(&partition(2, 20, &[1, 2]), &world.cluster(), false)), Some((2, 4, vec![2])));
    let only = reviewed(&partition(1, 10, &[1]), &world.cluster(), false).unwrap();
    assert_eq!(told(Some(only.clone())), Some((-1, 5, vec![])), "what only it had is gone; that is not hidden");
    world.wiped.clear();
    assert_eq!(reviewed(&only, &world.cluster(), false), None);
    assert_eq!(told(unclean(&only, &world.cluster()).ok()), Some((1, 6, vec![1])), "an operator may go on without it");
}

#[test]
fn proposals_are_judged_as_kafka_judges_them() {
    let mut world = World::of(&[(1, 10), (2, 20), (3, 30)]);
    let at = partition(1, 10, &[1, 2]);
    let change = |isr: &[(i32, i64)]| IsrChange { leader_epoch: 4, partition_epoch: 9, isr: isr.to_vec() };
    let judge = |world: &World, from, change: &IsrChange| proposed(&at, from, change, &world.cluster()).map(told);
    assert_eq!(judge(&world, 1, &change(&[(1, 10), (3, 30), (2, 20)])), Ok(Some((1, 4, vec![1, 2, 3]))));
    assert_eq!(judge(&world, 1, &change(&[(1, -1)])), Ok(Some((1, 4, vec![1]))));
    assert_eq!(judge(&world, 1, &change(&[(2, 20), (1, 10)])), Ok(None), "so it is");
    assert_eq!(judge(&world, 2, &change(&[(2, 20)])), Err(Error::InvalidRequest), "it does not lead");
    assert_eq!(judge(&world, 1, &change(&[(2, 20)])), Err(Error::InvalidRequest), "without itself");
    assert_eq!(judge(&world, 1, &change(&[(1, 10), (4, 40)])), Err(Error::InvalidRequest), "no replica");
    assert_eq!(judge(&world, 1, &change(&[(1, 10), (2, 20), (3, 29)])), Err(Error::IneligibleReplica), "an earlier life");
    for (leader_epoch, partition_epoch, error) in [(3, 9, Error::FencedLeaderEpoch), (4, 8, Error::InvalidUpdateVersion), (5, 9, Error::NotController)] {
        let change = IsrChange { leader_epoch, partition_epoch, isr: vec![(1, 10)] };
        assert_eq!(judge(&world, 1, &change), Err(error));
    }
    let again = IsrChange { partition_epoch: 8, ..change(&[(1, 10), (2, 20)]) };
    assert_eq!(judge(&world, 1, &again), Ok(None), "the answer to it was lost");
    world.leaving = [3].into();
    assert_eq!(judge(&world, 1, &change(&[(1, 10), (2, 20), (3, 30)])), Err(Error::IneligibleReplica), "on its way out");
    assert_eq!(judge(&World::of(&[(1, 10), (2, 20)]), 1, &change(&[(1, 10), (2, 20), (3, 30)])), Err(Error::IneligibleReplica), "gone");
}

#[test]
fn a_broker_that_leaves_hands_over() {
    let mut world = World::of(&[(1, 10), (2, 20), (3, 30)]);
    world.leaving = [1].into();
    let leave = |world: &World, partition: &PartitionImage| told(left(partition, 1, &world.cluster()));
    assert_eq!(leave(&world, &partition(1, 10, &[1, 2, 3])), Some((2, 5, vec![2, 3])));
    assert_eq!(leave(&world, &partition(2, 20, &[1, 2, 3])), Some((2, 4, vec![2, 3])));
    assert_eq!(leave(&world, &partition(1, 10, &[1])), None, "nobody else has it");
    assert_eq!(leave(&world, &partition(2, 20, &[2, 3])), None);
    world.leaving = [1, 2].into();
    assert_eq!(leave(&world, &partition(1, 10, &[1, 2, 3])), Some((3, 5, vec![2, 3])), "not to one that leaves too");
}

#[test]
fn elections_on_request() {
    let world = World::of(&[(1, 10), (2, 20), (3, 30)]);
    assert_eq!(told(preferred(&partition(2, 20, &[1, 2]), &world.cluster()).ok()), Some((1, 5, vec![1, 2])));
    assert_eq!(preferred(&partition(1, 10, &[1, 2]), &world.cluster()), Err(Error::ElectionNotNeeded));
    assert_eq!(preferred(&partition(2, 20, &[2]), &world.cluster()), Err(Error::PreferredLeaderNotAvailable));
    assert_eq!(unclean(&partition(2, 20, &[2]), &world.cluster()), Err(Error::ElectionNotNeeded));
    assert_eq!(told(unclean(&partition(-1, -1, &[4]), &world.cluster()).ok()), Some((1, 5, vec![1])));
    assert_eq!(unclean(&partition(-1, -1, &[1]), &World::of(&[]).cluster()), Err(Error::EligibleLeadersNotAvailable));
}

#[test]
fn a_reassignment_keeps_what_it_has_until_it_has_what_it_wants() {
    let world = World::of(&[(1, 10), (2, 20), (3, 30), (4, 40)]);
    let on_the_way = reassigned(&partition(1, 10, &[1, 2, 3]), &[4, 2], &world.cluster()).unwrap();
    assert_eq!((&*on_the_way.replicas, &*on_the_way.adding, &*on_the_way.removing), (&[4, 2, 1, 3][..], &[4][..], &[1, 3][..]));
    assert_eq!((on_the_way.leader, on_the_way.leader_epoch), (1, 5));
    let change = IsrChange { leader_epoch: 5, partition_epoch: 9, isr: vec![(1, 10), (2, 20), (3, 30), (4, 40)] };
    let done = proposed(&on_the_way, 1, &change, &world.cluster()).unwrap().unwrap();
    assert!(!done.is_reassigning());
    assert_eq!((&*done.replicas, &*done.isr, done.leader, done.leader_epoch), (&[4, 2][..], &[4, 2][..], 4, 6));
    let back = cancelled(&on_the_way, &world.cluster()).unwrap();
    assert_eq!((&*back.isr, back.leader, back.is_reassigning()), (&[1, 2, 3][..], 1, false));
    assert_eq!(back.replicas.iter().collect::<BTreeSet<_>>(), [1, 2, 3].iter().collect());
    assert_eq!(cancelled(&back, &world.cluster()), None);
    let fewer = reassigned(&partition(1, 10, &[1, 2, 3]), &[2, 3], &world.cluster()).unwrap();
    assert_eq!((&*fewer.replicas, fewer.leader, fewer.is_reassigning()), (&[2, 3][..], 2, false), "nothing to wait for");
    let another = reassigned(&on_the_way, &[3], &world.cluster()).unwrap();
    assert!(!another.replicas.contains(&4) && !another.is_reassigning(), "what the first one added goes again: {another:?}");
}

#[test]
fn a_reassignment_that_would_keep_no_in_sync_replica_is_refused() {
    let world = World::of(&[(1, 10), (2, 20), (3, 30), (4, 40)]);
    // Only what a reassignment adds is in sync: another one that does not want it has nothing to copy from.
    let added = PartitionImage { leader: 4, isr: vec![4], replicas: vec![4, 2, 1], adding: vec![4], removing: vec![1, 2], ..partition(4, 40, &[4]) };
    assert_eq!(reassigned(&added, &[3], &world.cluster()), Err(Error::InvalidReplicaAssignment));
    assert_eq!(cancelled(&added, &world.cluster()), None);
    let kept = reassigned(&added, &[3, 4], &world.cluster()).unwrap();
    assert_eq!((&*kept.isr, &*kept.adding), (&[4][..], &[3, 4][..]));
    // After the loss of the only disk nobody is in sync.
    assert_eq!(reassigned(&partition(-1, -1, &[]), &[4], &world.cluster()), Err(Error::InvalidReplicaAssignment));
}

#[test]
fn a_replica_in_trouble_is_judged_like_a_broker_in_trouble() {
    let all = partition(1, 10, &[1, 2, 3]);
    let with = |offline: &[i32], lost: &[i32], full: &[i32]| {
        let set = |ids: &[i32]| ids.iter().copied().collect::<BTreeSet<i32>>();
        World { here: Here { offline: set(offline), lost: set(lost), full: set(full) }, ..World::of(&[(1, 10), (2, 20), (3, 30)]) }
    };
    let review = |world: &World, partition: &PartitionImage| told(reviewed(partition, &world.cluster(), false));
    assert_eq!(review(&with(&[1], &[], &[]), &all), Some((2, 5, vec![2, 3])), "its log is offline: another one leads");
    assert_eq!(review(&with(&[1, 2, 3], &[], &[]), &all), Some((-1, 5, vec![1, 2, 3])), "each has all, on a disk that may come back");
    assert_eq!(review(&with(&[], &[3], &[]), &all), Some((1, 4, vec![1, 2])));
    assert_eq!(review(&with(&[], &[1], &[]), &partition(1, 10, &[1])), Some((-1, 5, vec![])), "what only it had is gone");
    assert_eq!(review(&with(&[], &[], &[1]), &all), Some((2, 5, vec![2, 3])), "no room: it hands over");
    assert_eq!(review(&with(&[], &[], &[1]), &partition(1, 10, &[1])), None, "and leads on if there is nobody else");
    assert_eq!(review(&with(&[], &[], &[1, 2]), &all), Some((3, 5, vec![3])));
    assert_eq!(review(&with(&[], &[], &[1, 2, 3]), &all), Some((1, 4, vec![1])), "they all have no room: one goes on");
    assert_eq!(review(&with(&[], &[], &[2]), &partition(-1, -1, &[2])), Some((2, 5, vec![2])), "it can be read");
    let change = IsrChange { leader_epoch: 4, partition_epoch: 9, isr: vec![(1, 10), (2, 20), (3, 30)] };
    for world in [with(&[3], &[], &[]), with(&[], &[3], &[]), with(&[], &[], &[3])] {
        assert_eq!(proposed(&partition(1, 10, &[1, 2]), 1, &change, &world.cluster()), Err(Error::IneligibleReplica));
    }
    assert_eq!(unclean(&partition(-1, -1, &[1]), &with(&[1, 2, 3], &[], &[]).cluster()), Err(Error::EligibleLeadersNotAvailable));
}

/// What happens to a partition.
#[derive(Clone, Debug)]
enum Event {
    Brokers(Vec<(i32, i64)>),
    Wiped(i32),
    Propose(Vec<i32>),
    Leave(i32),
    Reassign(Vec<i32>),
    Cancel,
    Preferred,
    Trouble(i32, u8),
    Unclean,
}

fn event() -> impl Strategy<Value = Event> {
    let ids = || prop::collection::btree_set(1..6i32, 1..4).prop_map(|ids| ids.into_iter().collect::<Vec<_>>());
    prop_oneof![
        3 => prop::collection::btree_map(1..6i32, 1..4i64, 0..6).prop_map(|brokers| Event::Brokers(brokers.into_iter().collect())),
        1 => (1..6i32).prop_map(Event::Wiped),
        3 => ids().prop_map(Event::Propose),
        1 => (1..6i32).prop_map(Event::Leave),
        2 => ids().prop_map(Event::Reassign),
        1 => Just(Event::Cancel),
        1 => Just(Event::Preferred),
        1 => (1..6i32, 0..4u8).prop_map(|(id, kind)| Event::Trouble(id, kind)),
        1 => Just(Event::Unclean),
    ]
}

proptest! {
    /// Whatever happens: epochs grow with each leadership, a leader is in sync and assigned, in-sync replicas only grow by proposals, and the last one never goes
    /// but with its disk.
    #[test]
    fn leaders_are_in_sync_and_epochs_name_one_life(events in prop::collection::vec(event(), 1..40)) {
        let mut world = World::of(&[(1, 1), (2, 1), (3, 1)]);
        let mut at = created(&[1, 2, 3], &world.cluster());
        let mut lives: BTreeMap<i32, (i32, i64)> = BTreeMap::new();
        for event in events {
            let mut next = None;
            let mut joins = Vec::new();
            let mut wiped = None;
            match event {
                Event::Brokers(brokers) => {
                    world = World { here: world.here, ..World::of(&brokers) };
                    next = reviewed(&at, &world.cluster(), false);
                }
                Event::Wiped(id) => {
                    if let Some(broker) = world.brokers.get_mut(&id) {
                        broker.epoch += 1;
                        world.wiped = [id].into();
                        wiped = Some(id);
                        next = reviewed(&at, &world.cluster(), false);
                        world.wiped.clear();
                    }
                }
                Event::Propose(isr) => {
                    let isr: Vec<(i32, i64)> = isr.into_iter().map(|id| (id, world.cluster().epoch(id))).collect();
                    joins = isr.iter().map(|(id, _)| *id).collect();
                    let change = IsrChange { leader_epoch: at.leader_epoch, partition_epoch: at.partition_epoch, isr };
                    next = proposed(&at, at.leader, &change, &world.cluster()).ok().flatten();
                }
                Event::Leave(id) => {
                    world.leaving.insert(id);
                    next = left(&at, id, &world.cluster());
                }
                Event::Reassign(target) => {
                    next = reassigned(&at, &target, &world.cluster()).ok();
                    prop_assert!(next.is_some() || at.isr.iter().all(|id| at.adding.contains(id) && !target.contains(id)) || at.leader != NOBODY, "{at:?}");
                }
                Event::Cancel => next = cancelled(&at, &world.cluster()),
                Event::Preferred => next = preferred(&at, &world.cluster()).ok(),
                Event::Trouble(id, kind) => {
                    let Here { offline, lost, full } = &mut world.here;
                    [&mut *offline, lost, full].into_iter().for_each(|brokers| brokers.retain(|other| *other != id));
                    if let Some(brokers) = [offline, lost, full].into_iter().nth(kind.into()) {
                        brokers.insert(id);
                    }
                    wiped = world.here.lost.contains(&id).then_some(id).filter(|id| world.brokers.contains_key(id));
                    next = reviewed(&at, &world.cluster(), false);
                }
                Event::Unclean => {
                    next = unclean(&at, &world.cluster()).ok();
                    joins = next.iter().map(|next| next.leader).collect();
                }
            }
            let Some(next) = next else { continue };
            prop_assert!(next.leader_epoch >= at.leader_epoch);
            prop_assert!(next.leader == at.leader || next.leader_epoch > at.leader_epoch, "{at:?} {next:?}");
            prop_assert!(next.leader == NOBODY || (next.isr.contains(&next.leader) && next.replicas.contains(&next.leader)), "{next:?}");
            prop_assert!(next.isr.iter().all(|id| next.replicas.contains(id)));
            prop_assert!(next.isr.iter().all(|id| at.isr.contains(id) || joins.contains(id)), "{at:?} {next:?}");
            let has_lost = |id: &i32| wiped == Some(*id) || world.here.lost.contains(id);
            prop_assert!(!next.isr.is_empty() || at.isr.iter().all(has_lost), "{at:?} {next:?}");
            prop_assert!(wiped.is_none_or(|id| !next.isr.contains(&id)));
            prop_assert!(next.adding.iter().chain(&next.removing).all(|id| next.replicas.contains(id)), "what is added or removed is assigned: {next:?}");
            prop_assert!(next.adding.iter().all(|id| !next.removing.contains(id)), "{next:?}");
            prop_assert!(next.replicas.iter().any(|id| !next.removing.contains(id)), "{next:?}");
            prop_assert_eq!(next.replicas.iter().collect::<BTreeSet<_>>().len(), next.replicas.len());
            if next.leader != NOBODY {
                let life = (next.leader, next.leader_broker_epoch);
                prop_assert_eq!(*lives.entry(next.leader_epoch).or_insert(life), life, "one epoch, two lives");
            }
            at = PartitionImage { partition_epoch: at.partition_epoch + 1, ..next };
        }
    }
}
