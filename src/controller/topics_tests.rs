//! Requests about topics are judged as Kafka judges them.

use super::*;
use crate::controller::configs::tests::TestRules;
use crate::controller::image::{BrokerInfo, PartitionImage};

fn image(topics: &[&str], brokers: i32) -> MetadataImage {
    let mut image = MetadataImage::default();
    for id in 0..brokers {
        image.brokers.insert(id, BrokerInfo { id, epoch: 1, endpoints: vec![], rack: None, directory_ids: vec![] });
    }
    for (at, name) in topics.iter().enumerate() {
        let partition = |leader| PartitionImage { leader, replicas: vec![leader], isr: vec![leader], ..PartitionImage::default() };
        let topic = TopicImage {
            name: (*name).into(),
            id: Uuid::from_u128(at as u128 + 10),
            partitions: vec![partition(0), partition(0)],
            config: BTreeMap::new(),
            internal: false,
        };
        image.put_topic(Arc::new(topic));
    }
    image
}

fn create(image: &MetadataImage, topics: &[NewTopic]) -> Vec<Result<TopicPlan, (ResponseError, String)>> {
    let context = Context { image, default_partition_count: 3, default_replication_factor: 1, rules: &TestRules };
    plan_creation(&context, topics, |_| 0).into_iter().map(|plan| plan.map_err(|error| (error.code, error.message))).collect()
}

fn refused(image: &MetadataImage, topic: NewTopic) -> (ResponseError, String) {
    create(image, &[topic]).pop().unwrap().unwrap_err()
}

#[test]
fn names_are_kafkas() {
    let of = |name: &str| check_name(name).map_err(|message| message.strip_prefix("Topic name is invalid: ").unwrap().to_owned());
    for good in ["a", "a.b_c-D9", "...", "__consumer_offsets", &"x".repeat(249)] {
        assert_eq!(of(good), Ok(()));
    }
    assert_eq!(of(""), Err("the empty string is not allowed".into()));
    assert_eq!(of("."), Err("'.' is not allowed".into()));
    assert_eq!(of(".."), Err("'..' is not allowed".into()));
    let long = "x".repeat(250);
    assert_eq!(of(&long), Err(format!("the length of '{long}' is longer than the max allowed length 249")));
    for bad in ["a/b", "a b", "ä", "a\0", "a:b", "a\\b"] {
        assert_eq!(of(bad), Err(format!("'{bad}' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'")));
    }
}

#[test]
fn defaults_and_numbers_hold() {
    let image = image(&[], 1);
    let plans = create(&image, &[NewTopic::named("a"), NewTopic { partition_count: 5, replication_factor: 1, ..NewTopic::named("b") }]);
    let counts: Vec<_> = plans.into_iter().map(|plan| plan.unwrap().replicas).collect();
    assert_eq!(counts, [vec![vec![0]; 3], vec![vec![0]; 5]]);
    use ResponseError::*;
    let named = || NewTopic::named("a");
    assert_eq!(
        refused(&image, NewTopic { replication_factor: 2, ..named() }),
        (
            InvalidReplicationFactor,
            "Unable to replicate the partition 2 time(s): The target replication factor of 2 cannot be reached because only 1 broker(s) are registered.".into()
        )
    );
    assert_eq!(refused(&image, NewTopic { replication_factor: 0, ..named() }).0, InvalidReplicationFactor);
    assert_eq!(refused(&image, NewTopic { replication_factor: -2, ..named() }).0, InvalidReplicationFactor);
    assert_eq!(refused(&image, NewTopic { partition_count: 0, ..named() }).0, InvalidPartitions);
    assert_eq!(refused(&image, NewTopic { partition_count: -2, ..named() }).0, InvalidPartitions);
    assert_eq!(refused(&image, NewTopic { partition_count: i32::MAX, ..named() }).0, PolicyViolation);
}

#[test]
fn existing_colliding_and_repeated_names_are_refused() {
    use ResponseError::*;
    let image = image(&["a.b", "plain"], 1);
    assert_eq!(refused(&image, NewTopic::named("a.b")), (TopicAlreadyExists, "Topic 'a.b' already exists.".into()));
    assert_eq!(refused(&image, NewTopic::named("a_b")), (InvalidTopicException, "Topic 'a_b' collides with existing topic: a.b".into()));
    let within = create(&image, &[NewTopic::named("c.d"), NewTopic::named("c_d"), NewTopic::named("x"), NewTopic::named("x")]);
    assert!(within[0].is_ok());
    assert_eq!(within[1].as_ref().unwrap_err().0, InvalidTopicException);
    assert_eq!(within[2], Err((InvalidRequest, "Duplicate topic name.".into())));
    assert_eq!(within[2], within[3]);
    assert_eq!(refused(&image, NewTopic::named("a/b")).0, InvalidTopicException);
}

#[test]
fn manual_assignments_are_judged_in_kafkas_words() {
    use ResponseError::*;
    let image = image(&[], 3);
    let manual = |assignments: &[(i32, &[i32])]| NewTopic {
        assignments: assignments.iter().map(|(partition, replicas)| (*partition, replicas.to_vec())).collect(),
        ..NewTopic::named("a")
    };
    let plan = create(&image, &[manual(&[(1, &[2, 0]), (0, &[0, 1])])]).pop().unwrap().unwrap();
    assert_eq!(plan.replicas, [[0, 1], [2, 0]]);
    let code = |topic| refused(&image, topic);
    assert_eq!(code(NewTopic { replication_factor: 1, ..manual(&[(0, &[0])]) }).0, InvalidRequest);
    assert_eq!(code(NewTopic { partition_count: 1, ..manual(&[(0, &[0])]) }).0, InvalidRequest);
    type Assignments<'a> = &'a [(i32, &'a [i32])];
    let cases: [(Assignments<'_>, &str); 6] = [
        (&[(0, &[0]), (0, &[1])], "Found multiple manual partition assignments for partition 0"),
        (&[(0, &[])], "The manual partition assignment includes an empty replica list."),
        (&[(0, &[7])], "The manual partition assignment includes broker 7, but no such broker is registered."),
        (&[(0, &[1, 1])], "The manual partition assignment includes the broker 1 more than once."),
        (
            &[(0, &[0]), (1, &[1, 2])],
            "The manual partition assignment includes a partition with 2 replica(s), but this is not consistent with previous partitions, which have 1 \
             replica(s).",
        ),
        (&[(0, &[0]), (2, &[1])], "partitions should be a consecutive 0-based integer sequence"),
    ];
    for (assignments, message) in cases {
        assert_eq!(code(manual(assignments)), (InvalidReplicaAssignment, message.into()));
    }
}

#[test]
fn settings_of_new_topics_are_judged() {
    use ResponseError::*;
    let image = image(&[], 1);
    let with = |name: &str, key: &str, value: Option<&str>| NewTopic { configs: vec![(key.into(), value.map(Into::into))], ..NewTopic::named(name) };
    assert_eq!(refused(&image, with("a", "x", Some("1"))), (InvalidConfig, "Unknown topic config name: x".into()));
    assert_eq!(refused(&image, with("a", "retention.ms", None)), (InvalidConfig, "Null value not supported for topic configs: retention.ms".into()));
    let (code, message) = refused(&image, with("a", "cleanup.policy", Some("delete,compact")));
    assert!(code == InvalidConfig && message.contains("no log cleaner"), "{message}");
    assert!(create(&image, &[with("__consumer_offsets", "cleanup.policy", Some("compact"))])[0].is_ok());
}

#[test]
fn growth_is_judged_in_kafkas_words() {
    use ResponseError::*;
    let image = image(&["t"], 1);
    let grow = |name: &str, count, assignments| {
        plan_growth(&image, &NewPartitions { name: name.into(), count, assignments }).map(|(_, replicas)| replicas).map_err(|error| (error.code, error.message))
    };
    assert_eq!(grow("t", 4, None), Ok(vec![vec![0], vec![0]]));
    assert_eq!(grow("t", 3, Some(vec![vec![0]])), Ok(vec![vec![0]]));
    assert_eq!(grow("x", 4, None).unwrap_err().0, UnknownTopicOrPartition);
    assert_eq!(grow("t", 2, None), Err((InvalidPartitions, "Topic already has 2 partition(s).".into())));
    assert_eq!(grow("t", 1, None), Err((InvalidPartitions, "The topic t currently has 2 partition(s); 1 would not be an increase.".into())));
    assert_eq!(grow("t", -5, None).unwrap_err().0, InvalidPartitions);
    assert_eq!(
        grow("t", 4, Some(vec![vec![0]])),
        Err((InvalidReplicaAssignment, "Attempted to add 2 additional partition(s), but only 1 assignment(s) were specified.".into()))
    );
    assert_eq!(grow("t", 3, Some(vec![vec![9]])).unwrap_err().0, InvalidReplicaAssignment);
    assert_eq!(grow("t", i32::MAX, None).unwrap_err().0, PolicyViolation);
}

#[test]
fn deletions_are_judged_in_kafkas_words() {
    use ResponseError::*;
    let image = image(&["a", "b"], 1);
    let name = |name: &str| TopicSelector::Name(name.into());
    let id = |id| TopicSelector::Id(Uuid::from_u128(id));
    let plan = |topics: &[TopicSelector]| -> Vec<_> {
        plan_deletion(&image, topics).into_iter().map(|plan| plan.map(|topic| topic.name.to_string()).map_err(|error| error.code)).collect()
    };
    assert_eq!(plan(&[name("a"), id(11)]), [Ok("a".into()), Ok("b".into())]);
    assert_eq!(plan(&[name("x"), id(99)]), [Err(UnknownTopicOrPartition), Err(UnknownTopicId)]);
    assert_eq!(plan(&[name("a"), name("a"), id(11), id(11)]), [Err(InvalidRequest), Err(InvalidRequest), Err(InvalidRequest), Err(InvalidRequest)]);
    assert_eq!(plan(&[name("a"), id(10)]), [Err(InvalidRequest), Ok("a".into())]);
}
