import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.admin.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.clients.producer.*;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.*;

/** Fills a Kafka 3.9 broker with what `tests/it/adopt.rs` expects, and writes down what Kafka itself reads of it. Started by `make`. */
public class Golden {
    static String bootstrap;
    static final long T0 = 1_700_000_000_000L;

    static Producer<String, String> producer(String... more) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("linger.ms", "50");
        p.put("batch.size", "600");
        p.put("key.serializer", StringSerializer.class.getName());
        p.put("value.serializer", StringSerializer.class.getName());
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        return new KafkaProducer<>(p);
    }

    static Consumer<String, String> consumer(String... more) {
        Properties p = new Properties();
        p.put("bootstrap.servers", bootstrap);
        p.put("enable.auto.commit", "false");
        p.put("auto.offset.reset", "earliest");
        p.put("key.deserializer", StringDeserializer.class.getName());
        p.put("value.deserializer", StringDeserializer.class.getName());
        for (int i = 0; i < more.length; i += 2) p.put(more[i], more[i + 1]);
        return new KafkaConsumer<>(p);
    }

    static String text(String what, int i) {
        return what + " " + i + " " + "abcdefghij".repeat(i % 12);
    }

    static List<ConsumerRecord<String, String>> readAll(Consumer<String, String> c, Collection<String> topics) {
        List<TopicPartition> all = new ArrayList<>();
        for (String t : topics) c.partitionsFor(t).forEach(i -> all.add(new TopicPartition(t, i.partition())));
        c.assign(all);
        c.seekToBeginning(all);
        Map<TopicPartition, Long> ends = c.endOffsets(all);
        List<ConsumerRecord<String, String>> out = new ArrayList<>();
        long limit = System.currentTimeMillis() + 30_000;
        while (all.stream().anyMatch(tp -> c.position(tp) < ends.get(tp))) {
            if (System.currentTimeMillis() > limit) throw new IllegalStateException("not all read");
            c.poll(Duration.ofMillis(200)).forEach(out::add);
        }
        out.sort(Comparator.comparing((ConsumerRecord<String, String> r) -> r.topic()).thenComparing(ConsumerRecord::partition).thenComparing(ConsumerRecord::offset));
        return out;
    }

    static String or(String text) {
        return text == null ? "\\N" : text;
    }

    public static void main(String[] args) throws Exception {
        bootstrap = args[0];
        Path out = Path.of(args[1]);
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            Map<String, String> small = Map.of("segment.bytes", "3500", "index.interval.bytes", "300");
            Map<String, String> compact = new HashMap<>(Map.of("segment.bytes", "1500", "index.interval.bytes", "300", "cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.01"));
            compact.put("delete.retention.ms", "0");
            Map<String, String> stamped = new HashMap<>(small);
            stamped.put("message.timestamp.type", "LogAppendTime");
            admin.createTopics(List.of(
                new NewTopic("codecs", 3, (short) 1).configs(small),
                new NewTopic("idempotent", 1, (short) 1).configs(small),
                new NewTopic("transactions", 1, (short) 1).configs(small),
                new NewTopic("compacted", 1, (short) 1).configs(compact),
                new NewTopic("trimmed", 1, (short) 1).configs(small),
                new NewTopic("stamped", 1, (short) 1).configs(stamped),
                new NewTopic("empty.topic-with_all", 2, (short) 1))).all().get();

            int n = 0;
            for (String codec : List.of("none", "gzip", "snappy", "lz4", "zstd")) {
                try (var p = producer("compression.type", codec, "enable.idempotence", "false", "acks", "1")) {
                    for (int i = 0; i < 60; i++, n++) {
                        var r = new ProducerRecord<>("codecs", n % 3, T0 + n * 1000L, i % 7 == 0 ? null : "key-" + i, i % 11 == 0 ? null : text(codec, i));
                        if (i % 5 == 0) r.headers().add("number", ("" + i).getBytes(StandardCharsets.UTF_8)).add("nothing", null);
                        p.send(r);
                    }
                }
            }
            try (var p = producer()) {
                for (int i = 0; i < 150; i++) p.send(new ProducerRecord<>("idempotent", 0, T0 + i * 10L, "k" + i, text("idempotent", i)));
            }
            try (var p = producer("enable.idempotence", "false")) {
                for (int i = 0; i < 150; i++) p.send(new ProducerRecord<>("trimmed", 0, T0 + i * 10L, null, text("trimmed", i)));
                for (int i = 0; i < 40; i++) p.send(new ProducerRecord<>("stamped", 0, T0, "s" + i, text("stamped", i)));
            }
            admin.deleteRecords(Map.of(new TopicPartition("trimmed", 0), RecordsToDelete.beforeOffset(77))).all().get();

            try (var p = producer()) {
                for (int i = 0; i < 300; i++) {
                    p.send(new ProducerRecord<>("compacted", 0, T0 + i * 10L, "key-" + i % 17, i % 13 == 0 ? null : text("compacted", i)));
                    if (i % 10 == 9) p.flush();
                }
            }

            try (var one = producer("transactional.id", "tx-one"); var two = producer("transactional.id", "tx-two", "compression.type", "lz4")) {
                one.initTransactions();
                two.initTransactions();
                for (int round = 0; round < 12; round++) {
                    one.beginTransaction();
                    two.beginTransaction();
                    for (int i = 0; i < 6; i++) {
                        one.send(new ProducerRecord<>("transactions", 0, T0 + round * 100L + i, "one", text("round " + round + (round % 3 == 1 ? " aborted" : " committed"), i)));
                        two.send(new ProducerRecord<>("transactions", 0, T0 + round * 100L + i, "two", text("round " + round + (round % 4 == 2 ? " aborted" : " committed"), i)));
                    }
                    one.flush();
                    two.flush();
                    one.sendOffsetsToTransaction(Map.of(new TopicPartition("codecs", 0), new OffsetAndMetadata(round)), new ConsumerGroupMetadata("in-transactions"));
                    if (round % 3 == 1) one.abortTransaction(); else one.commitTransaction();
                    if (round % 4 == 2) two.abortTransaction(); else two.commitTransaction();
                }
                // The last word of the group's offsets is an aborted one.
                one.beginTransaction();
                one.send(new ProducerRecord<>("transactions", 0, T0 + 5000, "one", "the last one aborted"));
                one.sendOffsetsToTransaction(Map.of(new TopicPartition("codecs", 0), new OffsetAndMetadata(99)), new ConsumerGroupMetadata("in-transactions"));
                one.flush();
                one.abortTransaction();
            }

            try (var c = consumer("group.id", "readers")) {
                c.subscribe(List.of("codecs", "idempotent"));
                long limit = System.currentTimeMillis() + 30_000;
                while (c.assignment().size() < 4 && System.currentTimeMillis() < limit) c.poll(Duration.ofMillis(100));
                c.commitSync(Map.of(
                    new TopicPartition("codecs", 0), new OffsetAndMetadata(11, Optional.of(0), "eleven"),
                    new TopicPartition("codecs", 1), new OffsetAndMetadata(22),
                    new TopicPartition("codecs", 2), new OffsetAndMetadata(33, "thirty-three"),
                    new TopicPartition("idempotent", 0), new OffsetAndMetadata(150)));
            }
            for (int i = 0; i < 6; i++) {
                try (var c = consumer("group.id", "group-" + i)) {
                    c.assign(List.of(new TopicPartition("stamped", 0)));
                    c.commitSync(Map.of(new TopicPartition("stamped", 0), new OffsetAndMetadata(i)));
                    c.commitSync(Map.of(new TopicPartition("stamped", 0), new OffsetAndMetadata(i + 10, "again")));
                }
            }

            List<String> topics = List.of("codecs", "compacted", "empty.topic-with_all", "idempotent", "stamped", "transactions", "trimmed");
            long limit = System.currentTimeMillis() + 60_000;
            try (var c = consumer()) {
                // Until the cleaner has been there.
                while (readAll(c, List.of("compacted")).size() > 60) {
                    if (System.currentTimeMillis() > limit) throw new IllegalStateException("not compacted");
                    Thread.sleep(500);
                }
                Thread.sleep(3000);
                try (var w = new PrintWriter(out.resolve("records.tsv").toFile(), StandardCharsets.UTF_8)) {
                    for (var r : readAll(c, topics)) {
                        StringJoiner headers = new StringJoiner(",");
                        for (Header h : r.headers()) headers.add(h.key() + "=" + (h.value() == null ? "\\N" : new String(h.value(), StandardCharsets.UTF_8)));
                        w.println(String.join("\t", r.topic(), "" + r.partition(), "" + r.offset(), "" + r.timestamp(), or(r.key()), or(r.value()), headers.toString()));
                    }
                }
            }
            try (var c = consumer("isolation.level", "read_committed"); var w = new PrintWriter(out.resolve("committed.tsv").toFile(), StandardCharsets.UTF_8)) {
                for (var r : readAll(c, List.of("transactions"))) w.println(r.topic() + "\t" + r.partition() + "\t" + r.offset());
            }
            try (var w = new PrintWriter(out.resolve("topics.tsv").toFile(), StandardCharsets.UTF_8)) {
                for (var t : new TreeMap<>(admin.describeTopics(topics).allTopicNames().get()).values()) w.println(t.name() + "\t" + t.topicId() + "\t" + t.partitions().size());
            }
            try (var w = new PrintWriter(out.resolve("groups.tsv").toFile(), StandardCharsets.UTF_8)) {
                for (String g : new TreeSet<>(admin.listConsumerGroups().all().get().stream().map(ConsumerGroupListing::groupId).toList())) {
                    var offsets = new TreeMap<TopicPartition, OffsetAndMetadata>(Comparator.comparing(TopicPartition::toString));
                    offsets.putAll(admin.listConsumerGroupOffsets(g).partitionsToOffsetAndMetadata().get());
                    offsets.forEach((tp, o) -> w.println(String.join("\t", g, tp.topic(), "" + tp.partition(), "" + o.offset(), o.metadata())));
                }
            }
        }
    }
}
