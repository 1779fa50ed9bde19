//! Settings that are changed count at once.

use kafka_protocol::ResponseError as Error;
use kafka_protocol::messages::IncrementalAlterConfigsRequest;
use kafka_protocol::messages::incremental_alter_configs_request::{AlterConfigsResource, AlterableConfig};

use super::*;

async fn set(connection: &Conn, topic: &str, key: &str, value: &str) -> i16 {
    let config = AlterableConfig::default().with_name(text(key)).with_value(Some(text(value)));
    let resource = AlterConfigsResource::default().with_resource_type(2).with_resource_name(text(topic)).with_configs(vec![config]);
    ask(connection, IncrementalAlterConfigsRequest::default().with_resources(vec![resource])).await.responses[0].error_code
}

#[test]
fn a_changed_setting_counts_for_the_next_request_and_after_a_restart() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        let large = "x".repeat(5_000);
        accepted(&connection, "t", 0, batch(&[&large])).await;
        assert_eq!(set(&connection, "t", "max.message.bytes", "1000").await, 0);
        assert_eq!(produce(&connection, "t", 0, batch(&[&large])).await.error_code, code(Error::MessageTooLarge));
        assert_eq!(set(&connection, "t", "min.insync.replicas", "2").await, 0);
        let server = server.restart().await;
        let connection = server.connect().await;
        assert_eq!(produce(&connection, "t", 0, batch(&[&large])).await.error_code, code(Error::NotEnoughReplicas));
        assert_eq!(set(&connection, "t", "min.insync.replicas", "1").await, 0);
        assert_eq!(produce(&connection, "t", 0, batch(&[&large])).await.error_code, code(Error::MessageTooLarge));
        assert_eq!(accepted(&connection, "t", 0, batch(&["small"])).await, 1);
    });
}

#[test]
fn what_this_release_does_not_do_is_refused() {
    with_broker(&[], |server| async move {
        let connection = server.connect().await;
        create(&connection, "t", 1, &[]).await;
        assert_ne!(set(&connection, "t", "cleanup.policy", "compact").await, 0, "there is no cleaner yet");
        assert_eq!(set(&connection, "t", "no.such.key", "1").await, code(Error::InvalidConfig));
        assert_eq!(set(&connection, "nobody", "retention.ms", "1").await, code(Error::UnknownTopicOrPartition));
        // Topics that keep everything keep it through a restart, although the broker's own default would not.
        assert_eq!(set(&connection, "t", "retention.ms", "-1").await, 0);
    });
}

#[test]
fn what_a_topic_keeps_for_ever_is_not_deleted_by_the_brokers_default() {
    // The batch is from 1970: by the default it would go at once.
    with_broker(&["log.retention.ms=1", "log.retention.check.interval.ms=1"], |server| async move {
        let connection = server.connect().await;
        create(&connection, "kept", 1, &[("retention.ms", "-1")]).await;
        create(&connection, "passing", 1, &[]).await;
        for topic in ["kept", "passing"] {
            accepted(&connection, topic, 0, batch(&["a"])).await;
        }
        let mut server = server;
        for _ in 0..3 {
            server = server.restart().await;
            let connection = server.connect().await;
            while offset_at(&connection, "passing", 0, -2).await == 0 {}
            assert_eq!(read_all(&connection, "kept", 0, 0).await.len(), 1);
        }
    });
}
