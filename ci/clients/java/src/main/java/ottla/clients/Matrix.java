package ottla.clients;

import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * The whole matrix of Kafka's Java client in one process: one JSON line per case on standard output, logs on standard error.
 * Arguments: bootstrap address, prefix of topics and groups, and optionally a pattern of the cases to run.
 */
public final class Matrix {
    static final Duration LIMIT = Duration.ofSeconds(30);

    /** What a case does; it fails by throwing. */
    interface Body {
        void run() throws Exception;
    }

    final String bootstrap;
    final String prefix;
    final Admin admin;
    private final Pattern only;
    private int failed;

    private Matrix(String bootstrap, String prefix, Pattern only) {
        this.bootstrap = bootstrap;
        this.prefix = prefix;
        this.only = only;
        this.admin = Admin.create(Map.of("bootstrap.servers", bootstrap, "default.api.timeout.ms", 20000, "request.timeout.ms", 15000));
    }

    public static void main(String[] args) {
        Matrix m = new Matrix(args[0], args[1], Pattern.compile(args.length > 2 ? args[2] : ""));
        new AdminCases(m).run();
        new ProduceCases(m).run();
        new ConsumeCases(m).run();
        new GroupCases(m).run();
        m.admin.close(Duration.ofSeconds(2));
        System.exit(m.failed == 0 ? 0 : 1);
    }

    void check(String name, Body body) {
        if (!only.matcher(name).find()) return;
        long from = System.nanoTime();
        String error = null;
        try {
            body.run();
        } catch (Throwable e) {
            Throwable cause = e instanceof ExecutionException && e.getCause() != null ? e.getCause() : e;
            error = cause.getClass().getSimpleName() + ": " + cause.getMessage() + " at " + Arrays.stream(e.getStackTrace())
                .filter(f -> f.getClassName().startsWith("ottla.")).limit(3).map(f -> f.getFileName() + ":" + f.getLineNumber()).collect(Collectors.joining(" < "));
            failed++;
        }
        long ms = (System.nanoTime() - from) / 1_000_000;
        System.out.println("{\"client\":\"java\",\"version\":" + json(System.getProperty("kafka.version", "?")) + ",\"case\":" + json(name) + ",\"ok\":" + (error == null)
            + ",\"ms\":" + ms + ",\"detail\":" + json(error == null ? "" : error) + "}");
        System.out.flush();
    }

    static String json(String s) {
        StringBuilder out = new StringBuilder("\"");
        for (char c : s.toCharArray()) {
            if (c == '"' || c == '\\') out.append('\\').append(c);
            else if (c < 32) out.append(String.format("\\u%04x", (int) c));
            else out.append(c);
        }
        return out.append('"').toString();
    }

    // What the cases share.

    static void expect(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static void same(Object expected, Object found, String what) {
        if (!Objects.equals(expected, found)) throw new AssertionError(what + ": expected " + expected + ", found " + found);
    }

    /** The body must fail with this exception, perhaps as a cause. */
    static void refused(Class<? extends Exception> with, Body body) throws Exception {
        try {
            body.run();
        } catch (Exception e) {
            for (Throwable t = e; t != null; t = t.getCause()) if (with.isInstance(t)) return;
            throw new AssertionError("expected " + with.getSimpleName() + ", found " + e, e);
        }
        throw new AssertionError("expected " + with.getSimpleName() + ", but it succeeded");
    }

    /** Waits until it holds: for what a broker does after it has answered. */
    static void eventually(String what, java.util.concurrent.Callable<Boolean> holds) throws Exception {
        long end = System.nanoTime() + LIMIT.toNanos();
        while (!holds.call()) {
            expect(System.nanoTime() < end, "not within " + LIMIT.toSeconds() + " s: " + what);
            Thread.sleep(20);
        }
    }

    static <T> T get(Future<T> f) throws Exception {
        return f.get(20, TimeUnit.SECONDS);
    }

    static byte[] utf8(String s) {
        return s == null ? null : s.getBytes(StandardCharsets.UTF_8);
    }

    String topic(String name, int partitions, String... configs) throws Exception {
        String topic = prefix + name;
        Map<String, String> map = new HashMap<>();
        for (int i = 0; i < configs.length; i += 2) map.put(configs[i], configs[i + 1]);
        get(admin.createTopics(List.of(new NewTopic(topic, partitions, (short) 1).configs(map))).all());
        // Kafka answers before the partition's log is there, and lists a leader that still refuses: ask what only the log itself can tell.
        eventually("topic " + topic, () -> {
            try {
                get(admin.listOffsets(partitions(topic, partitions).stream().collect(Collectors.toMap(tp -> tp, tp -> OffsetSpec.latest()))).all());
                return true;
            } catch (ExecutionException e) {
                return false;
            }
        });
        return topic;
    }

    KafkaProducer<byte[], byte[]> producer(Object... options) {
        return new KafkaProducer<>(options(Map.of("bootstrap.servers", bootstrap, "linger.ms", 2, "max.block.ms", 20000, "delivery.timeout.ms", 20000, "request.timeout.ms", 10000), options),
            new ByteArraySerializer(), new ByteArraySerializer());
    }

    KafkaConsumer<byte[], byte[]> consumer(Object... options) {
        return new KafkaConsumer<>(options(Map.of("bootstrap.servers", bootstrap, "enable.auto.commit", false, "auto.offset.reset", "earliest", "group.protocol", "classic",
            "heartbeat.interval.ms", 150, "session.timeout.ms", 10000, "max.poll.interval.ms", 20000, "retry.backoff.ms", 50, "default.api.timeout.ms", 20000), options),
            new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static Map<String, Object> options(Map<String, Object> defaults, Object... more) {
        Map<String, Object> map = new HashMap<>(defaults);
        for (int i = 0; i < more.length; i += 2) map.put((String) more[i], more[i + 1]);
        return map;
    }

    /** Yesterday: retention by time must not delete what a case has just written. */
    static final long BASE_TIMESTAMP = System.currentTimeMillis() - 86_400_000L;

    /** Records of every habit: sizes from nothing to kilobytes, null and empty keys and values, headers of all kinds, one partition each in turn. */
    static List<ProducerRecord<byte[], byte[]>> mixed(String topic, int partitions, int count) {
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int i = 0; i < count; i++) {
            byte[] key = i % 7 == 0 ? null : i % 7 == 1 ? new byte[0] : utf8("key-" + i);
            byte[] value = i % 11 == 0 ? null : i % 11 == 1 ? new byte[0] : pattern(i, (i * 37) % 3000);
            List<Header> headers = new ArrayList<>();
            for (int h = 0; h < i % 4; h++) headers.add(new RecordHeader("h" + (h % 2), h == 2 ? null : h == 1 ? new byte[0] : utf8("value-" + i)));
            records.add(new ProducerRecord<>(topic, i % partitions, BASE_TIMESTAMP + i, key, value, headers));
        }
        return records;
    }

    /** Bytes that compress, but are not all the same. */
    static byte[] pattern(int seed, int length) {
        byte[] bytes = new byte[length];
        for (int i = 0; i < length; i++) bytes[i] = (byte) ((seed * 31 + i / 5) ^ (i % 3 == 0 ? seed : 0));
        return bytes;
    }

    /** Sends all, waits for all, and gives the offsets in the order sent. */
    static List<RecordMetadata> send(KafkaProducer<byte[], byte[]> producer, Collection<ProducerRecord<byte[], byte[]>> records) throws Exception {
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (ProducerRecord<byte[], byte[]> r : records) sent.add(producer.send(r));
        producer.flush();
        List<RecordMetadata> done = new ArrayList<>();
        for (Future<RecordMetadata> f : sent) done.add(get(f));
        return done;
    }

    static List<TopicPartition> partitions(String topic, int count) {
        List<TopicPartition> list = new ArrayList<>();
        for (int p = 0; p < count; p++) list.add(new TopicPartition(topic, p));
        return list;
    }

    /** Reads `count` records of the topic from the beginning by assignment. */
    List<ConsumerRecord<byte[], byte[]>> readAll(String topic, int partitions, int count, Object... options) {
        try (KafkaConsumer<byte[], byte[]> c = consumer(options)) {
            c.assign(partitions(topic, partitions));
            c.seekToBeginning(c.assignment());
            return read(c, count);
        }
    }

    static List<ConsumerRecord<byte[], byte[]>> read(KafkaConsumer<byte[], byte[]> consumer, int count) {
        List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
        long end = System.nanoTime() + LIMIT.toNanos();
        while (found.size() < count && System.nanoTime() < end) consumer.poll(Duration.ofMillis(200)).forEach(found::add);
        same(count, found.size(), "records read");
        return found;
    }

    /** Each partition holds exactly what was sent to it, in order, from `firstOffset` without holes. */
    static void sameContent(List<ProducerRecord<byte[], byte[]>> sent, List<ConsumerRecord<byte[], byte[]>> found, boolean timestamps) {
        Map<Integer, List<ConsumerRecord<byte[], byte[]>>> byPartition = found.stream().collect(Collectors.groupingBy(ConsumerRecord::partition));
        Map<Integer, List<ProducerRecord<byte[], byte[]>>> expected = sent.stream().collect(Collectors.groupingBy(ProducerRecord::partition));
        same(expected.keySet(), byPartition.keySet(), "partitions with records");
        expected.forEach((p, list) -> {
            List<ConsumerRecord<byte[], byte[]>> got = byPartition.get(p);
            same(list.size(), got.size(), "records in partition " + p);
            for (int i = 0; i < list.size(); i++) {
                ProducerRecord<byte[], byte[]> s = list.get(i);
                ConsumerRecord<byte[], byte[]> r = got.get(i);
                String at = "partition " + p + " offset " + r.offset();
                same((long) i, r.offset(), "offset of record " + i + " in partition " + p);
                expect(Arrays.equals(s.key(), r.key()), "key differs at " + at);
                expect(Arrays.equals(s.value(), r.value()), "value differs at " + at);
                if (timestamps) same(s.timestamp(), r.timestamp(), "timestamp at " + at);
                Header[] a = s.headers().toArray();
                Header[] b = r.headers().toArray();
                same(a.length, b.length, "count of headers at " + at);
                for (int h = 0; h < a.length; h++) {
                    same(a[h].key(), b[h].key(), "key of header " + h + " at " + at);
                    expect(Arrays.equals(a[h].value(), b[h].value()), "value of header " + h + " differs at " + at);
                }
            }
        });
    }
}
