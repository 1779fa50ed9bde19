package ottla.clients;

import static ottla.clients.Matrix.expect;
import static ottla.clients.Matrix.get;
import static ottla.clients.Matrix.mixed;
import static ottla.clients.Matrix.partitions;
import static ottla.clients.Matrix.read;
import static ottla.clients.Matrix.same;
import static ottla.clients.Matrix.sameContent;
import static ottla.clients.Matrix.send;

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;

/** Reading by assignment: positions, long polls, fetch sessions over many partitions. */
final class ConsumeCases {
    private final Matrix m;

    ConsumeCases(Matrix m) {
        this.m = m;
    }

    void run() {
        m.check("consume/seek", this::seek);
        m.check("consume/over-segments", this::overSegments);
        m.check("consume/long-poll", this::longPoll);
        m.check("consume/sessions-over-many-partitions", this::sessions);
        m.check("consume/read-committed", this::readCommitted);
        m.check("consume/interleaved", this::interleaved);
    }

    private void seek() throws Exception {
        String topic = m.topic("seek", 1);
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 1, 500);
        try (KafkaProducer<byte[], byte[]> p = m.producer("batch.size", 5000)) {
            send(p, records);
        }
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = m.consumer()) {
            c.assign(List.of(tp));
            for (long at : new long[] {499, 0, 250, 251, 17, 498}) {
                c.seek(tp, at);
                ConsumerRecord<byte[], byte[]> first = null;
                while (first == null) for (ConsumerRecord<byte[], byte[]> r : c.poll(Duration.ofMillis(200))) first = first == null ? r : first;
                same(at, first.offset(), "first offset after a seek");
                expect(java.util.Arrays.equals(records.get((int) at).value(), first.value()), "value at " + at);
            }
            c.seekToEnd(List.of(tp));
            same(500L, c.position(tp), "position at the end");
            expect(c.poll(Duration.ofMillis(50)).isEmpty(), "records after the end");
        }
    }

    private void overSegments() throws Exception {
        // Several segments of the least size that Kafka allows: reading crosses them, and time is found in each.
        String topic = m.topic("segments", 1, "segment.bytes", "1048576");
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        for (int i = 0; i < 500; i++) records.add(new ProducerRecord<>(topic, 0, Matrix.BASE_TIMESTAMP + i, null, Matrix.pattern(i, 9_000)));
        try (KafkaProducer<byte[], byte[]> p = m.producer("batch.size", 30_000)) {
            send(p, records);
        }
        sameContent(records, m.readAll(topic, 1, 500), true);
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = m.consumer()) {
            for (long at : new long[] {0, 120, 250, 499}) same(at, c.offsetsForTimes(java.util.Map.of(tp, Matrix.BASE_TIMESTAMP + at)).get(tp).offset(), "offset of a time");
        }
    }

    private void longPoll() throws Exception {
        String topic = m.topic("long-poll", 1);
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaConsumer<byte[], byte[]> c = m.consumer("fetch.max.wait.ms", 3000); KafkaProducer<byte[], byte[]> p = m.producer("linger.ms", 0)) {
            c.assign(List.of(tp));
            c.seekToBeginning(List.of(tp));
            for (int i = 0; i < 5; i++) {
                // The fetch waits at the broker before the record is sent.
                expect(c.poll(Duration.ofMillis(i == 0 ? 500 : 50)).isEmpty(), "a record too early");
                long from = System.nanoTime();
                get(p.send(new ProducerRecord<>(topic, 0, null, Matrix.utf8("r" + i))));
                ConsumerRecords<byte[], byte[]> found = c.poll(Duration.ofSeconds(10));
                long ms = (System.nanoTime() - from) / 1_000_000;
                same(1, found.count(), "records");
                expect(ms < 1500, "a waiting fetch was answered after " + ms + " ms only");
            }
        }
    }

    private void sessions() throws Exception {
        int count = 40;
        String topic = m.topic("sessions", count);
        try (KafkaConsumer<byte[], byte[]> c = m.consumer(); KafkaProducer<byte[], byte[]> p = m.producer()) {
            c.assign(partitions(topic, count));
            c.seekToBeginning(c.assignment());
            List<ProducerRecord<byte[], byte[]>> all = new ArrayList<>();
            List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
            for (int round = 0; round < 8; round++) {
                // Some partitions a round: the incremental fetch must say which changed.
                List<ProducerRecord<byte[], byte[]>> some = new ArrayList<>();
                for (int i = 0; i < 30; i++) some.add(new ProducerRecord<>(topic, (i * 7 + round) % (round + 3), Matrix.BASE_TIMESTAMP, Matrix.utf8("k" + i), Matrix.utf8(round + "/" + i)));
                send(p, some);
                all.addAll(some);
                found.addAll(read(c, some.size()));
                if (round == 3) c.pause(partitions(topic, 2));
                if (round == 3) c.resume(partitions(topic, 2));
                if (round == 5) {
                    // Leaves and joins partitions in the session; positions are set again by hand.
                    long[] at = new long[count];
                    for (TopicPartition tp : partitions(topic, count)) at[tp.partition()] = c.position(tp);
                    c.assign(partitions(topic, 20));
                    for (TopicPartition tp : partitions(topic, 20)) c.seek(tp, at[tp.partition()]);
                    expect(c.poll(Duration.ofMillis(50)).isEmpty(), "records read twice");
                }
            }
            sameContent(all, found, true);
        }
    }

    private void readCommitted() throws Exception {
        String topic = m.topic("committed", 2);
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 2, 100);
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, records);
        }
        // Without transactions a reader of committed records sees all.
        sameContent(records, m.readAll(topic, 2, 100, "isolation.level", "read_committed"), true);
    }

    private void interleaved() throws Exception {
        String topic = m.topic("interleaved", 3);
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 3, 3000);
        try (KafkaConsumer<byte[], byte[]> c = m.consumer("max.poll.records", 50); KafkaProducer<byte[], byte[]> p = m.producer("compression.type", "lz4")) {
            c.assign(partitions(topic, 3));
            c.seekToBeginning(c.assignment());
            List<ConsumerRecord<byte[], byte[]>> found = new ArrayList<>();
            for (int i = 0; i < records.size(); i++) {
                p.send(records.get(i));
                if (i % 60 == 0) c.poll(Duration.ZERO).forEach(found::add);
            }
            p.flush();
            found.addAll(read(c, records.size() - found.size()));
            sameContent(records, found, true);
        }
    }
}
