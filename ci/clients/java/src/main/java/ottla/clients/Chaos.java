package ottla.clients;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.Phaser;
import java.util.concurrent.locks.LockSupport;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.InvalidOffsetException;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.KafkaException;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.FencedLeaderEpochException;
import org.apache.kafka.common.errors.InvalidProducerEpochException;
import org.apache.kafka.common.errors.OutOfOrderSequenceException;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Producers and a consumer of Kafka's Java client for ci/clients/cluster, which breaks the brokers meanwhile. Arguments and commands are those of
 * ci/clients/python/chaos.py, without <code>final</code>.
 */
public final class Chaos {
    private static final Duration LIMIT = Duration.ofSeconds(60);
    private static final int MAX_BYTES = 64;
    private static final int HEAD_BYTES = 12;

    private final Map<String, Object> common = new HashMap<>();
    private final long paceNanos;

    private Chaos(String bootstrap, long paceMs) {
        paceNanos = paceMs * 1_000_000;
        // A connection that hangs is given up soon, and who leads is asked at once: as an operator would set it who wants short interruptions.
        common.putAll(Map.of("bootstrap.servers", bootstrap, "request.timeout.ms", 3000, "socket.connection.setup.timeout.ms", 1000, "socket.connection.setup.timeout.max.ms", 1000,
            "reconnect.backoff.ms", 20, "reconnect.backoff.max.ms", 200, "retry.backoff.ms", 20, "retry.backoff.max.ms", 200, "metadata.max.age.ms", 1000));
    }

    public static void main(String[] args) throws Exception {
        Chaos chaos = new Chaos(args[0], Long.parseLong(args[1]));
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in));
        Load load = null;
        for (String line; (line = commands.readLine()) != null; ) {
            String[] words = line.split(" ");
            if (words[0].equals("begin")) load = chaos.new Load(words[1], Integer.parseInt(words[2]), Integer.parseInt(words[3]));
            else if (words[0].equals("end")) load.end();
        }
        System.exit(0);
    }

    private static synchronized void say(String line) {
        System.out.println(line);
    }

    private static long now() {
        return System.currentTimeMillis();
    }

    private static long seed(int producer, int number) {
        long mixed = ((long) producer << 32 | number & 0xffffffffL) + 0x9e3779b97f4a7c15L;
        mixed = (mixed ^ mixed >>> 30) * 0xbf58476d1ce4e5b9L;
        mixed = (mixed ^ mixed >>> 27) * 0x94d049bb133111ebL;
        return mixed ^ mixed >>> 31;
    }

    /** The record's bytes, as sim/src/broker/value.rs has them. */
    private static byte[] encode(int producer, int number) {
        long seed = seed(producer, number);
        int length = HEAD_BYTES + (int) Long.remainderUnsigned(seed, MAX_BYTES);
        ByteBuffer bytes = ByteBuffer.allocate(length).putInt(producer).putInt(number).putInt(length);
        for (int at = HEAD_BYTES; at < length; at++) bytes.put((byte) (Long.rotateLeft(seed, at % 61) >>> 7 ^ at));
        return bytes.array();
    }

    private static String decode(byte[] value) {
        if (value == null || value.length < HEAD_BYTES) return "?";
        ByteBuffer head = ByteBuffer.wrap(value);
        int producer = head.getInt(), number = head.getInt();
        return Arrays.equals(encode(producer, number), value) ? producer + " " + number : "?";
    }

    /** The clients of one case. */
    private final class Load {
        private final String topic;
        private final int partitions;
        private final Map<Integer, Long> goals = new ConcurrentHashMap<>();
        private final List<Thread> senders = new ArrayList<>();
        private final Thread reader;
        private volatile boolean ending;
        private volatile boolean readToTheEnd;

        Load(String topic, int partitions, int number) {
            this.topic = topic;
            this.partitions = partitions;
            for (boolean idempotent : new boolean[] {true, false}) {
                int own = idempotent ? number : number + 1;
                senders.add(start(() -> send(own, idempotent)));
            }
            reader = start(this::read);
        }

        private Thread start(Runnable body) {
            Thread thread = new Thread(() -> {
                try {
                    body.run();
                } catch (Throwable e) {
                    say("B " + now() + " java: " + e);
                }
            });
            thread.setDaemon(true);
            thread.start();
            return thread;
        }

        private void send(int number, boolean idempotent) {
            Map<String, Object> config = new HashMap<>(common);
            config.putAll(Map.of("acks", "all", "enable.idempotence", idempotent, "linger.ms", 0, "delivery.timeout.ms", 120000, "max.block.ms", 120000));
            Phaser outcomes = new Phaser(1);
            try (var producer = new KafkaProducer<>(config, new ByteArraySerializer(), new ByteArraySerializer())) {
                long due = System.nanoTime();
                for (int at = 0; !ending; at++) {
                    int record = at, partition = at % partitions;
                    outcomes.register();
                    producer.send(new ProducerRecord<byte[], byte[]>(topic, partition, null, encode(number, record)), (metadata, error) -> {
                        String head = now() + " " + partition + " " + number + " " + record + (idempotent ? " i " : " p ");
                        if (error == null) {
                            say("A " + head + metadata.offset());
                            goals.merge(partition, metadata.offset(), Math::max);
                        } else {
                            if (idempotent && (error instanceof OutOfOrderSequenceException || error instanceof InvalidProducerEpochException))
                                say("B " + now() + " java producer " + number + " record " + record + ": " + error);
                            say("U " + head + error.getClass().getSimpleName());
                        }
                        outcomes.arriveAndDeregister();
                    });
                    due = Math.max(due + paceNanos, System.nanoTime() - 1_000_000_000L);
                    for (long left; (left = due - System.nanoTime()) > 0; ) LockSupport.parkNanos(left);
                }
                producer.flush();
            }
            outcomes.arriveAndAwaitAdvance();
        }

        private void read() {
            Map<String, Object> config = new HashMap<>(common);
            config.putAll(Map.of("enable.auto.commit", false, "auto.offset.reset", "none", "fetch.max.wait.ms", 100, "default.api.timeout.ms", 60000));
            List<TopicPartition> all = new ArrayList<>();
            for (int p = 0; p < partitions; p++) all.add(new TopicPartition(topic, p));
            Map<Integer, Long> next = new HashMap<>();
            try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
                consumer.assign(all);
                for (TopicPartition p : all) consumer.seek(p, 0);
                long limit = Long.MAX_VALUE;
                while (!readToTheEnd || goals.entrySet().stream().anyMatch(goal -> next.getOrDefault(goal.getKey(), 0L) <= goal.getValue())) {
                    if (readToTheEnd && limit == Long.MAX_VALUE) limit = System.nanoTime() + LIMIT.toNanos();
                    if (System.nanoTime() > limit) {
                        say("B " + now() + " java consumer: acknowledged up to " + goals + " and not read within " + LIMIT.toSeconds() + " s: it is at " + next);
                        return;
                    }
                    try {
                        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(Duration.ofMillis(50))) {
                            say("R " + now() + " " + record.partition() + " " + record.offset() + " " + decode(record.value()));
                            next.put(record.partition(), record.offset() + 1);
                        }
                    } catch (InvalidOffsetException e) {
                        // Out of range, or truncated: what was read is not there any more.
                        say("B " + now() + " java consumer: " + e);
                        return;
                    } catch (FencedLeaderEpochException e) {
                        // It asks who leads, and goes on.
                    } catch (KafkaException e) {
                        say("B " + now() + " java consumer: " + e);
                        return;
                    }
                }
            }
        }

        void end() throws InterruptedException {
            ending = true;
            for (Thread sender : senders) sender.join();
            readToTheEnd = true;
            reader.join();
            say("done");
        }
    }
}
