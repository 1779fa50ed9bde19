package ottla.clients;

import static ottla.clients.Matrix.eventually;
import static ottla.clients.Matrix.expect;
import static ottla.clients.Matrix.get;
import static ottla.clients.Matrix.mixed;
import static ottla.clients.Matrix.refused;
import static ottla.clients.Matrix.same;
import static ottla.clients.Matrix.send;

import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.Config;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.CreateTopicsOptions;
import org.apache.kafka.clients.admin.CreateTopicsResult;
import org.apache.kafka.clients.admin.DescribeClusterResult;
import org.apache.kafka.clients.admin.ListOffsetsResult.ListOffsetsResultInfo;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.admin.TopicDescription;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetOutOfRangeException;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.errors.InvalidConfigurationException;
import org.apache.kafka.common.errors.InvalidPartitionsException;
import org.apache.kafka.common.errors.InvalidReplicationFactorException;
import org.apache.kafka.common.errors.InvalidTopicException;
import org.apache.kafka.common.errors.TopicExistsException;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;

/** Topics, configs, offsets and deletions through Kafka's admin client. */
final class AdminCases {
    private final Matrix m;

    AdminCases(Matrix m) {
        this.m = m;
    }

    void run() {
        m.check("admin/describe-cluster", this::describeCluster);
        m.check("admin/create-describe-list", this::createDescribeList);
        m.check("admin/create-defaults", this::createDefaults);
        m.check("admin/create-refusals", this::createRefusals);
        m.check("admin/configs", this::configs);
        m.check("admin/add-partitions", this::addPartitions);
        m.check("admin/delete-topic", this::deleteTopic);
        m.check("admin/delete-records", this::deleteRecords);
        m.check("admin/offsets-by-timestamp", this::offsetsByTimestamp);
    }

    private void describeCluster() throws Exception {
        DescribeClusterResult r = m.admin.describeCluster();
        same(1, get(r.nodes()).size(), "nodes");
        expect(!get(r.clusterId()).isEmpty(), "no cluster id");
        expect(get(r.controller()) != null, "no controller");
    }

    private TopicDescription describe(String topic) throws Exception {
        return get(m.admin.describeTopics(List.of(topic)).allTopicNames()).get(topic);
    }

    private void createDescribeList() throws Exception {
        String topic = m.topic("described", 3, "retention.ms", "3600000");
        TopicDescription d = describe(topic);
        same(3, d.partitions().size(), "partitions");
        expect(!d.topicId().equals(Uuid.ZERO_UUID), "no topic id");
        same(false, d.isInternal(), "internal");
        for (int p = 0; p < 3; p++) {
            same(p, d.partitions().get(p).partition(), "partition");
            same(1, d.partitions().get(p).replicas().size(), "replicas");
            same(d.partitions().get(p).replicas(), d.partitions().get(p).isr(), "in-sync replicas");
            same(d.partitions().get(p).replicas().get(0), d.partitions().get(p).leader(), "leader");
        }
        expect(get(m.admin.listTopics().names()).contains(topic), "not listed");
        Uuid id = d.topicId();
        TopicDescription byId = get(m.admin.describeTopics(org.apache.kafka.common.TopicCollection.ofTopicIds(Set.of(id))).allTopicIds()).get(id);
        same(topic, byId.name(), "name by id");
    }

    private void createDefaults() throws Exception {
        String topic = m.prefix + "defaults";
        CreateTopicsResult r = m.admin.createTopics(List.of(new NewTopic(topic, Optional.empty(), Optional.empty())));
        get(r.all());
        expect(get(r.numPartitions(topic)) >= 1, "no partitions");
        same(1, get(r.replicationFactor(topic)), "replication factor");
        expect(!get(r.topicId(topic)).equals(Uuid.ZERO_UUID), "no topic id");
        expect(get(r.config(topic)).get("retention.ms") != null, "no configs in the answer");
        String dry = m.prefix + "dry";
        get(m.admin.createTopics(List.of(new NewTopic(dry, 2, (short) 1)), new CreateTopicsOptions().validateOnly(true)).all());
        expect(!get(m.admin.listTopics().names()).contains(dry), "validateOnly created the topic");
    }

    private void create(NewTopic t) throws Exception {
        get(m.admin.createTopics(List.of(t)).all());
    }

    private void createRefusals() throws Exception {
        String topic = m.topic("twice", 1);
        refused(TopicExistsException.class, () -> create(new NewTopic(topic, 1, (short) 1)));
        refused(InvalidReplicationFactorException.class, () -> create(new NewTopic(m.prefix + "rf", 1, (short) 3)));
        refused(InvalidPartitionsException.class, () -> create(new NewTopic(m.prefix + "none", 0, (short) 1)));
        refused(InvalidTopicException.class, () -> create(new NewTopic(m.prefix + "a/b", 1, (short) 1)));
        refused(InvalidTopicException.class, () -> create(new NewTopic("..", 1, (short) 1)));
        refused(InvalidConfigurationException.class, () -> create(new NewTopic(m.prefix + "cfg", 1, (short) 1).configs(Map.of("retention.ms", "soon"))));
        refused(InvalidConfigurationException.class, () -> create(new NewTopic(m.prefix + "cfg", 1, (short) 1).configs(Map.of("no.such.key", "1"))));
        refused(UnknownTopicOrPartitionException.class, () -> describe(m.prefix + "absent"));
        refused(UnknownTopicOrPartitionException.class, () -> get(m.admin.deleteTopics(List.of(m.prefix + "absent")).all()));
    }

    private ConfigEntry entry(String topic, String key) throws Exception {
        ConfigResource r = new ConfigResource(ConfigResource.Type.TOPIC, topic);
        Config c = get(m.admin.describeConfigs(List.of(r)).all()).get(r);
        expect(c.get(key) != null, "no config " + key);
        return c.get(key);
    }

    private void alter(String topic, String key, String value, AlterConfigOp.OpType op) throws Exception {
        Map<ConfigResource, Collection<AlterConfigOp>> change =
            Map.of(new ConfigResource(ConfigResource.Type.TOPIC, topic), List.of(new AlterConfigOp(new ConfigEntry(key, value), op)));
        get(m.admin.incrementalAlterConfigs(change).all());
    }

    private void configs() throws Exception {
        String topic = m.topic("configs", 1, "retention.ms", "1000000");
        same("1000000", entry(topic, "retention.ms").value(), "retention.ms");
        same(ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG, entry(topic, "retention.ms").source(), "source of an override");
        expect(entry(topic, "segment.ms").isDefault(), "segment.ms is not a default");
        same("delete", entry(topic, "cleanup.policy").value(), "cleanup.policy");
        alter(topic, "retention.ms", "2000000", AlterConfigOp.OpType.SET);
        eventually("retention.ms set", () -> entry(topic, "retention.ms").value().equals("2000000"));
        alter(topic, "retention.ms", "", AlterConfigOp.OpType.DELETE);
        eventually("retention.ms back to its default", () -> entry(topic, "retention.ms").source() != ConfigEntry.ConfigSource.DYNAMIC_TOPIC_CONFIG);
        refused(InvalidConfigurationException.class, () -> alter(topic, "retention.ms", "soon", AlterConfigOp.OpType.SET));
        refused(InvalidConfigurationException.class, () -> alter(topic, "no.such.key", "1", AlterConfigOp.OpType.SET));
        refused(UnknownTopicOrPartitionException.class, () -> alter(m.prefix + "absent", "retention.ms", "1", AlterConfigOp.OpType.SET));

        String node = get(m.admin.describeCluster().nodes()).iterator().next().idString();
        ConfigResource broker = new ConfigResource(ConfigResource.Type.BROKER, node);
        Config c = get(m.admin.describeConfigs(List.of(broker)).all()).get(broker);
        expect(c.get("listeners") != null && c.get("log.dirs") != null, "a broker's configs without listeners or log.dirs");
    }

    private void addPartitions() throws Exception {
        String topic = m.topic("grow", 2);
        get(m.admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(5))).all());
        eventually("5 partitions", () -> describe(topic).partitions().size() == 5 && describe(topic).partitions().stream().allMatch(p -> p.leader() != null));
        for (TopicPartition tp : Matrix.partitions(topic, 5)) eventually(tp.toString(), () -> offset(tp, OffsetSpec.latest()) == 0);
        refused(InvalidPartitionsException.class, () -> get(m.admin.createPartitions(Map.of(topic, NewPartitions.increaseTo(3))).all()));
        refused(UnknownTopicOrPartitionException.class, () -> get(m.admin.createPartitions(Map.of(m.prefix + "absent", NewPartitions.increaseTo(3))).all()));
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 5, 50);
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, records);
        }
        Matrix.sameContent(records, m.readAll(topic, 5, 50), true);
    }

    private void deleteTopic() throws Exception {
        String topic = m.topic("gone", 2);
        Uuid first = describe(topic).topicId();
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, mixed(topic, 2, 20));
        }
        get(m.admin.deleteTopics(List.of(topic)).all());
        eventually("topic gone", () -> !get(m.admin.listTopics().names()).contains(topic));
        refused(UnknownTopicOrPartitionException.class, () -> describe(topic));
        // The same name again is another topic: empty, with another id.
        m.topic("gone", 2);
        expect(!describe(topic).topicId().equals(first), "the same topic id again");
        TopicPartition tp = new TopicPartition(topic, 0);
        same(0L, get(m.admin.listOffsets(Map.of(tp, OffsetSpec.latest())).all()).get(tp).offset(), "log end offset of the new topic");
    }

    private long offset(TopicPartition tp, OffsetSpec spec) throws Exception {
        return get(m.admin.listOffsets(Map.of(tp, spec)).all()).get(tp).offset();
    }

    private void deleteRecords() throws Exception {
        String topic = m.topic("trimmed", 1);
        TopicPartition tp = new TopicPartition(topic, 0);
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 1, 100);
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, records);
        }
        same(40L, get(m.admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(40))).lowWatermarks().get(tp)).lowWatermark(), "low watermark");
        same(40L, offset(tp, OffsetSpec.earliest()), "earliest offset");
        same(100L, offset(tp, OffsetSpec.latest()), "latest offset");
        same(40L, m.readAll(topic, 1, 60).get(0).offset(), "first offset read");
        refused(org.apache.kafka.common.errors.OffsetOutOfRangeException.class,
            () -> get(m.admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(101))).all()));
        refused(OffsetOutOfRangeException.class, () -> {
            try (KafkaConsumer<byte[], byte[]> c = m.consumer("auto.offset.reset", "none")) {
                c.assign(List.of(tp));
                c.seek(tp, 10);
                Matrix.read(c, 1);
            }
        });
        same(100L, get(m.admin.deleteRecords(Map.of(tp, RecordsToDelete.beforeOffset(-1))).lowWatermarks().get(tp)).lowWatermark(), "low watermark, all deleted");
    }

    private void offsetsByTimestamp() throws Exception {
        String topic = m.topic("times", 1);
        TopicPartition tp = new TopicPartition(topic, 0);
        same(-1L, offset(tp, OffsetSpec.forTimestamp(0)), "offset for a timestamp in an empty log");
        try (KafkaProducer<byte[], byte[]> p = m.producer("linger.ms", 0)) {
            // One batch each, then one batch of many: the search must go into a batch. The largest timestamp is not the last.
            for (int i = 0; i < 20; i++) get(p.send(new ProducerRecord<>(topic, 0, Matrix.BASE_TIMESTAMP + 1000L * i, null, Matrix.utf8("v" + i))));
        }
        try (KafkaProducer<byte[], byte[]> p = m.producer("linger.ms", 100, "batch.size", 100000)) {
            List<ProducerRecord<byte[], byte[]>> batch = new java.util.ArrayList<>();
            for (int i = 20; i < 40; i++) batch.add(new ProducerRecord<>(topic, 0, Matrix.BASE_TIMESTAMP + 1000L * (i == 30 ? 99 : i), null, Matrix.utf8("v" + i)));
            send(p, batch);
        }
        same(0L, offset(tp, OffsetSpec.earliest()), "earliest");
        same(40L, offset(tp, OffsetSpec.latest()), "latest");
        same(0L, offset(tp, OffsetSpec.forTimestamp(0)), "before all");
        same(7L, offset(tp, OffsetSpec.forTimestamp(Matrix.BASE_TIMESTAMP + 7000)), "exact");
        same(8L, offset(tp, OffsetSpec.forTimestamp(Matrix.BASE_TIMESTAMP + 7001)), "between");
        same(25L, offset(tp, OffsetSpec.forTimestamp(Matrix.BASE_TIMESTAMP + 24500)), "inside a batch");
        same(30L, offset(tp, OffsetSpec.forTimestamp(Matrix.BASE_TIMESTAMP + 50000)), "out of order");
        same(-1L, offset(tp, OffsetSpec.forTimestamp(Matrix.BASE_TIMESTAMP + 100000)), "after all");
        ListOffsetsResultInfo max = get(m.admin.listOffsets(Map.of(tp, OffsetSpec.maxTimestamp())).all()).get(tp);
        same(30L, max.offset(), "offset of the largest timestamp");
        same(Matrix.BASE_TIMESTAMP + 99000, max.timestamp(), "largest timestamp");
        try (KafkaConsumer<byte[], byte[]> c = m.consumer()) {
            same(12L, c.offsetsForTimes(Map.of(tp, Matrix.BASE_TIMESTAMP + 12000)).get(tp).offset(), "offsetsForTimes");
            same(40L, c.endOffsets(List.of(tp)).get(tp), "endOffsets");
            same(0L, c.beginningOffsets(List.of(tp)).get(tp), "beginningOffsets");
        }
    }
}
