package ottla.clients;

import static ottla.clients.Matrix.expect;
import static ottla.clients.Matrix.get;
import static ottla.clients.Matrix.mixed;
import static ottla.clients.Matrix.pattern;
import static ottla.clients.Matrix.refused;
import static ottla.clients.Matrix.same;
import static ottla.clients.Matrix.sameContent;
import static ottla.clients.Matrix.send;

import java.util.ArrayList;
import java.util.List;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.errors.InvalidTimestampException;
import org.apache.kafka.common.errors.RecordTooLargeException;
import org.apache.kafka.common.errors.TimeoutException;
import org.apache.kafka.common.record.TimestampType;

/** Every codec, acks and idempotence; what the broker must rewrite; what it must refuse. */
final class ProduceCases {
    static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    private final Matrix m;

    ProduceCases(Matrix m) {
        this.m = m;
    }

    void run() {
        for (String codec : CODECS) {
            for (String acks : List.of("0", "1", "all")) m.check("produce/" + codec + "/plain/acks=" + acks, () -> produce(codec, acks, false));
            m.check("produce/" + codec + "/idempotent/acks=all", () -> produce(codec, "all", true));
        }
        for (String codec : CODECS) m.check("produce/" + codec + "/large", () -> large(codec));
        m.check("produce/topic-compression", this::topicCompression);
        m.check("produce/log-append-time", this::logAppendTime);
        m.check("produce/too-large", this::tooLarge);
        m.check("produce/timestamp-refused", this::timestampRefused);
        m.check("produce/unknown-partition", this::unknownPartition);
        m.check("produce/many-batches-in-flight", this::manyInFlight);
        m.check("produce/auto-create", this::autoCreate);
    }

    private void produce(String codec, String acks, boolean idempotent) throws Exception {
        String topic = m.topic("p-" + codec + "-" + acks + "-" + idempotent, 3);
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 3, 300);
        List<RecordMetadata> done;
        try (KafkaProducer<byte[], byte[]> p = m.producer("compression.type", codec, "acks", acks, "enable.idempotence", idempotent)) {
            done = send(p, records);
        }
        for (int i = 0; i < done.size(); i++) {
            same(i % 3, done.get(i).partition(), "partition of record " + i);
            same(acks.equals("0") ? -1L : (long) (i / 3), done.get(i).offset(), "offset of record " + i);
        }
        sameContent(records, m.readAll(topic, 3, 300), true);
        // The smallest limits still let each batch through, whole.
        sameContent(records, m.readAll(topic, 3, 300, "max.partition.fetch.bytes", 1, "fetch.max.bytes", 1), true);
    }

    private void large(String codec) throws Exception {
        String topic = m.topic("large-" + codec, 1, "max.message.bytes", "8000000");
        List<ProducerRecord<byte[], byte[]>> records = new ArrayList<>();
        java.util.Random random = new java.util.Random(1);
        for (int size : new int[] {5_000_000, 1, 999_000, 2_500_000}) {
            byte[] value = pattern(size, size);
            for (int i = 0; i < size; i += 2) value[i] = (byte) random.nextInt();
            records.add(new ProducerRecord<>(topic, 0, Matrix.BASE_TIMESTAMP, null, value));
        }
        try (KafkaProducer<byte[], byte[]> p = m.producer("compression.type", codec, "max.request.size", 9_000_000, "buffer.memory", 64_000_000)) {
            send(p, records);
        }
        sameContent(records, m.readAll(topic, 1, records.size()), true);
        sameContent(records, m.readAll(topic, 1, records.size(), "max.partition.fetch.bytes", 1000), true);
    }

    private void topicCompression() throws Exception {
        // The topic decides, whatever the producer sends.
        for (String wanted : List.of("gzip", "snappy", "lz4", "zstd", "uncompressed")) {
            String topic = m.topic("recompress-" + wanted, 2, "compression.type", wanted);
            List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 2, 100);
            try (KafkaProducer<byte[], byte[]> p = m.producer("compression.type", wanted.equals("zstd") ? "none" : "zstd")) {
                send(p, records);
            }
            sameContent(records, m.readAll(topic, 2, 100), true);
        }
    }

    private void logAppendTime() throws Exception {
        for (String codec : CODECS) {
            String topic = m.topic("append-time-" + codec, 1, "message.timestamp.type", "LogAppendTime");
            List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 1, 50);
            long before = System.currentTimeMillis() - 1000;
            List<RecordMetadata> done;
            try (KafkaProducer<byte[], byte[]> p = m.producer("compression.type", codec)) {
                done = send(p, records);
            }
            List<ConsumerRecord<byte[], byte[]>> found = m.readAll(topic, 1, 50);
            sameContent(records, found, false);
            for (int i = 0; i < 50; i++) {
                same(TimestampType.LOG_APPEND_TIME, found.get(i).timestampType(), "type of timestamp");
                expect(found.get(i).timestamp() >= before && found.get(i).timestamp() <= System.currentTimeMillis() + 1000, "append time is not now");
                same(found.get(i).timestamp(), done.get(i).timestamp(), "append time that the producer was told");
            }
        }
    }

    private void tooLarge() throws Exception {
        String topic = m.topic("small", 1, "max.message.bytes", "2000");
        try (KafkaProducer<byte[], byte[]> p = m.producer("linger.ms", 0)) {
            refused(RecordTooLargeException.class, () -> get(p.send(new ProducerRecord<>(topic, 0, null, pattern(1, 3000)))));
            same(0L, get(p.send(new ProducerRecord<>(topic, 0, null, pattern(1, 1000)))).offset(), "offset after a refusal");
        }
    }

    private void timestampRefused() throws Exception {
        String topic = m.topic("clock", 1, "message.timestamp.before.max.ms", "60000", "message.timestamp.after.max.ms", "60000");
        try (KafkaProducer<byte[], byte[]> p = m.producer("linger.ms", 0)) {
            long now = System.currentTimeMillis();
            refused(InvalidTimestampException.class, () -> get(p.send(new ProducerRecord<>(topic, 0, now - 600_000, null, pattern(1, 10)))));
            refused(InvalidTimestampException.class, () -> get(p.send(new ProducerRecord<>(topic, 0, now + 600_000, null, pattern(1, 10)))));
            same(0L, get(p.send(new ProducerRecord<>(topic, 0, now, null, pattern(1, 10)))).offset(), "offset after a refusal");
        }
    }

    private void unknownPartition() throws Exception {
        String topic = m.topic("two", 2);
        try (KafkaProducer<byte[], byte[]> p = m.producer("max.block.ms", 1500)) {
            refused(TimeoutException.class, () -> get(p.send(new ProducerRecord<>(topic, 2, null, pattern(1, 10)))));
        }
    }

    private void manyInFlight() throws Exception {
        String topic = m.topic("in-flight", 4);
        List<ProducerRecord<byte[], byte[]>> records = mixed(topic, 4, 4000);
        try (KafkaProducer<byte[], byte[]> p = m.producer("linger.ms", 0, "batch.size", 4000, "max.in.flight.requests.per.connection", 5)) {
            send(p, records);
        }
        sameContent(records, m.readAll(topic, 4, 4000), true);
    }

    private void autoCreate() throws Exception {
        String topic = m.prefix + "auto";
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            same(0L, get(p.send(new ProducerRecord<>(topic, 0, null, pattern(1, 10)))).offset(), "first offset");
        }
        same(1, m.readAll(topic, 1, 1).size(), "records");
    }
}
