package ottla.clients;

import static ottla.clients.Matrix.eventually;
import static ottla.clients.Matrix.expect;
import static ottla.clients.Matrix.get;
import static ottla.clients.Matrix.mixed;
import static ottla.clients.Matrix.partitions;
import static ottla.clients.Matrix.refused;
import static ottla.clients.Matrix.same;
import static ottla.clients.Matrix.send;

import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import org.apache.kafka.clients.admin.ConsumerGroupDescription;
import org.apache.kafka.clients.admin.OffsetSpec;
import org.apache.kafka.clients.consumer.CommitFailedException;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRebalanceListener;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.errors.GroupIdNotFoundException;
import org.apache.kafka.common.errors.GroupNotEmptyException;

/** Classic consumer groups: members come and go, offsets are committed and read, lag is what is left. */
final class GroupCases {
    private final Matrix m;

    GroupCases(Matrix m) {
        this.m = m;
    }

    void run() {
        for (String a : List.of("Range", "RoundRobin", "Sticky", "CooperativeSticky")) m.check("group/" + a + "/join-leave", () -> joinLeave(a));
        m.check("group/commit-and-lag", this::commitAndLag);
        m.check("group/static-member", this::staticMember);
        m.check("group/pattern", this::patternSubscription);
        m.check("group/fencing", this::fencing);
        m.check("group/list-describe-delete", this::listDescribeDelete);
        m.check("group/auto-commit", this::autoCommit);
    }

    /** One member, with what it saw. */
    final class Member implements ConsumerRebalanceListener, AutoCloseable {
        final KafkaConsumer<byte[], byte[]> consumer;
        final Set<TopicPartition> owned = new HashSet<>();
        final Map<TopicPartition, TreeMap<Long, byte[]>> seen;
        int revokedAtOnceMax;

        Member(String group, Map<TopicPartition, TreeMap<Long, byte[]>> seen, Object... options) {
            Object[] all = new Object[options.length + 2];
            System.arraycopy(options, 0, all, 0, options.length);
            all[options.length] = "group.id";
            all[options.length + 1] = m.prefix + group;
            consumer = m.consumer(all);
            this.seen = seen;
        }

        Member subscribe(String topic) {
            consumer.subscribe(List.of(topic), this);
            return this;
        }

        @Override public void onPartitionsRevoked(Collection<TopicPartition> gone) {
            revokedAtOnceMax = Math.max(revokedAtOnceMax, gone.size());
            if (!gone.isEmpty()) consumer.commitSync();
            owned.removeAll(gone);
        }

        @Override public void onPartitionsLost(Collection<TopicPartition> gone) {
            owned.removeAll(gone);
        }

        @Override public void onPartitionsAssigned(Collection<TopicPartition> more) {
            owned.addAll(more);
        }

        void poll() {
            for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(40))) {
                TopicPartition tp = new TopicPartition(r.topic(), r.partition());
                expect(owned.contains(tp), "a record of " + tp + ", which this member does not own");
                byte[] before = seen.computeIfAbsent(tp, x -> new TreeMap<>()).put(r.offset(), r.value() == null ? new byte[0] : r.value());
                expect(before == null, "record " + tp + "@" + r.offset() + " was delivered twice although it was committed");
            }
        }

        @Override public void close() {
            consumer.close(Duration.ofSeconds(5));
        }
    }

    private static int count(Map<TopicPartition, TreeMap<Long, byte[]>> seen) {
        return seen.values().stream().mapToInt(TreeMap::size).sum();
    }

    private void joinLeave(String assignor) throws Exception {
        String topic = m.topic("members-" + assignor, 4);
        String strategy = "org.apache.kafka.clients.consumer." + assignor + "Assignor";
        Map<TopicPartition, TreeMap<Long, byte[]>> seen = new HashMap<>();
        List<ProducerRecord<byte[], byte[]>> all = new ArrayList<>();
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            all.addAll(mixed(topic, 4, 200));
            send(p, all);
            Member a = new Member("members-" + assignor, seen, "partition.assignment.strategy", strategy).subscribe(topic);
            Member b = new Member("members-" + assignor, seen, "partition.assignment.strategy", strategy);
            try {
                eventually("the first member owns all and has read all", () -> { a.poll(); return a.owned.size() == 4 && count(seen) == 200; });
                b.subscribe(topic);
                eventually("two members share", () -> { a.poll(); b.poll(); return a.owned.size() == 2 && b.owned.size() == 2 && Collections.disjoint(a.owned, b.owned); });
                if (assignor.startsWith("Cooperative")) expect(a.revokedAtOnceMax <= 2, "a cooperative member gave up " + a.revokedAtOnceMax + " partitions to give 2 away");
                List<ProducerRecord<byte[], byte[]>> more = mixed(topic, 4, 200);
                send(p, more);
                all.addAll(more);
                eventually("both read", () -> { a.poll(); b.poll(); return count(seen) == 400; });
                b.consumer.commitSync();
                b.close();
                eventually("the first member owns all again", () -> { a.poll(); return a.owned.size() == 4; });
                more = mixed(topic, 4, 100);
                send(p, more);
                all.addAll(more);
                eventually("the first member reads all", () -> { a.poll(); return count(seen) == 500; });
                a.consumer.commitSync();
            } finally {
                a.close();
                b.close();
            }
        }
        Map<Integer, Long> next = new HashMap<>();
        for (ProducerRecord<byte[], byte[]> r : all) {
            long offset = next.merge(r.partition(), 1L, Long::sum) - 1;
            byte[] value = seen.get(new TopicPartition(topic, r.partition())).get(offset);
            expect(java.util.Arrays.equals(value, r.value() == null ? new byte[0] : r.value()), "value of partition " + r.partition() + " offset " + offset);
        }
        same(0L, lag("members-" + assignor, topic, 4), "lag");
    }

    private long lag(String group, String topic, int partitions) throws Exception {
        Map<TopicPartition, OffsetAndMetadata> committed = get(m.admin.listConsumerGroupOffsets(m.prefix + group).partitionsToOffsetAndMetadata());
        long lag = 0;
        for (TopicPartition tp : partitions(topic, partitions)) {
            long end = get(m.admin.listOffsets(Map.of(tp, OffsetSpec.latest())).all()).get(tp).offset();
            expect(committed.get(tp) != null, "no committed offset for " + tp);
            lag += end - committed.get(tp).offset();
        }
        return lag;
    }

    private void commitAndLag() throws Exception {
        String topic = m.topic("lag", 2);
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, mixed(topic, 2, 100));
        }
        List<TopicPartition> tps = partitions(topic, 2);
        try (KafkaConsumer<byte[], byte[]> c = m.consumer("group.id", m.prefix + "lag")) {
            c.assign(tps);
            same(null, c.committed(Set.copyOf(tps)).get(tps.get(0)), "committed before any commit");
            c.commitSync(Map.of(tps.get(0), new OffsetAndMetadata(30, "so far"), tps.get(1), new OffsetAndMetadata(50)));
            same("so far", c.committed(Set.of(tps.get(0))).get(tps.get(0)).metadata(), "metadata");
            same(20L, lag("lag", topic, 2), "lag");
            same(30L, c.position(tps.get(0)), "position, from the committed offset");
        }
        // Another life of the consumer goes on where the first one stopped.
        try (KafkaConsumer<byte[], byte[]> c = m.consumer("group.id", m.prefix + "lag")) {
            c.assign(tps);
            same(20, Matrix.read(c, 20).size(), "records left");
            c.commitSync();
        }
        same(0L, lag("lag", topic, 2), "lag at the end");
        get(m.admin.alterConsumerGroupOffsets(m.prefix + "lag", Map.of(tps.get(0), new OffsetAndMetadata(10))).all());
        same(40L, lag("lag", topic, 2), "lag after a reset");
    }

    private void staticMember() throws Exception {
        String topic = m.topic("static", 2);
        Map<TopicPartition, TreeMap<Long, byte[]>> seen = new HashMap<>();
        Member a = new Member("static", seen, "group.instance.id", "one").subscribe(topic);
        Member b = new Member("static", seen, "group.instance.id", "two").subscribe(topic);
        try {
            eventually("two static members share", () -> { a.poll(); b.poll(); return a.owned.size() == 1 && b.owned.size() == 1; });
            int generation = a.consumer.groupMetadata().generationId();
            Set<TopicPartition> had = Set.copyOf(b.owned);
            String member = b.consumer.groupMetadata().memberId();
            b.close();
            Member again = new Member("static", seen, "group.instance.id", "two").subscribe(topic);
            try {
                eventually("the static member is back", () -> { a.poll(); again.poll(); return again.owned.size() == 1; });
                same(had, again.owned, "assignment after a restart");
                same(generation, again.consumer.groupMetadata().generationId(), "generation after a restart of a static member");
                same(1, a.owned.size(), "partitions of the other member");
                expect(!member.equals(again.consumer.groupMetadata().memberId()), "the same member id again");
            } finally {
                again.close();
            }
        } finally {
            a.close();
        }
    }

    private void patternSubscription() throws Exception {
        m.topic("pat-one", 1);
        try (Member a = new Member("pattern", new HashMap<>(), "metadata.max.age.ms", 300)) {
            a.consumer.subscribe(Pattern.compile(Pattern.quote(m.prefix) + "pat-.*"), a);
            eventually("the first topic", () -> { a.poll(); return a.owned.size() == 1; });
            m.topic("pat-two", 2);
            eventually("the new topic too", () -> { a.poll(); return a.owned.size() == 3; });
        }
    }

    private void fencing() throws Exception {
        String topic = m.topic("fenced", 1);
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, mixed(topic, 1, 10));
        }
        // A member that does not poll in time is put out; what it commits afterwards is refused.
        try (Member a = new Member("fenced", new HashMap<>(), "max.poll.interval.ms", 700).subscribe(topic)) {
            eventually("owns it", () -> { a.poll(); return a.owned.size() == 1; });
            try (Member b = new Member("fenced", new HashMap<>()).subscribe(topic)) {
                eventually("the other member takes over", () -> { b.poll(); return b.owned.size() == 1; });
                refused(CommitFailedException.class, () -> a.consumer.commitSync(Map.of(tp, new OffsetAndMetadata(5))));
                b.consumer.commitSync(Map.of(tp, new OffsetAndMetadata(7)));
                same(7L, get(m.admin.listConsumerGroupOffsets(m.prefix + "fenced").partitionsToOffsetAndMetadata()).get(tp).offset(), "committed by the owner");
            }
        }
    }

    /** The accessor changed its name between the versions that this is built for. */
    private static String state(ConsumerGroupDescription d) {
        java.util.regex.Matcher found = Pattern.compile("[sS]tate=(\\w+)").matcher(d.toString());
        return found.find() ? found.group(1) : "";
    }

    @SuppressWarnings("deprecation")
    private void listDescribeDelete() throws Exception {
        String topic = m.topic("described-group", 2);
        String group = m.prefix + "described";
        TopicPartition tp = new TopicPartition(topic, 0);
        try (Member a = new Member("described", new HashMap<>(), "client.id", "a-client").subscribe(topic)) {
            eventually("owns all", () -> { a.poll(); return a.owned.size() == 2; });
            a.consumer.commitSync(Map.of(tp, new OffsetAndMetadata(0)));
            expect(get(m.admin.listConsumerGroups().all()).stream().anyMatch(g -> g.groupId().equals(group)), "not listed");
            ConsumerGroupDescription d = get(m.admin.describeConsumerGroups(List.of(group)).all()).get(group);
            same("Stable", state(d), "state");
            same("range", d.partitionAssignor(), "assignor");
            same(1, d.members().size(), "members");
            same("a-client", d.members().iterator().next().clientId(), "client id");
            same(a.owned, d.members().iterator().next().assignment().topicPartitions(), "assignment");
            refused(GroupNotEmptyException.class, () -> get(m.admin.deleteConsumerGroups(List.of(group)).all()));
        }
        eventually("the group is empty", () -> state(get(m.admin.describeConsumerGroups(List.of(group)).all()).get(group)).equals("Empty"));
        get(m.admin.deleteConsumerGroupOffsets(group, Set.of(tp)).all());
        same(null, get(m.admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata()).get(tp), "a deleted offset");
        try (KafkaConsumer<byte[], byte[]> c = m.consumer("group.id", group)) {
            c.assign(List.of(tp));
            c.commitSync(Map.of(tp, new OffsetAndMetadata(0)));
        }
        get(m.admin.deleteConsumerGroups(List.of(group)).all());
        expect(get(m.admin.listConsumerGroups().all()).stream().noneMatch(g -> g.groupId().equals(group)), "still listed");
        refused(GroupIdNotFoundException.class, () -> get(m.admin.deleteConsumerGroups(List.of(group)).all()));
    }

    private void autoCommit() throws Exception {
        String topic = m.topic("auto-commit", 1);
        TopicPartition tp = new TopicPartition(topic, 0);
        try (KafkaProducer<byte[], byte[]> p = m.producer()) {
            send(p, mixed(topic, 1, 20));
        }
        try (KafkaConsumer<byte[], byte[]> c = m.consumer("group.id", m.prefix + "auto", "enable.auto.commit", true, "auto.commit.interval.ms", 100)) {
            c.subscribe(List.of(topic));
            Matrix.read(c, 20);
            eventually("committed on its own", () -> {
                c.poll(Duration.ofMillis(50));
                OffsetAndMetadata o = get(m.admin.listConsumerGroupOffsets(m.prefix + "auto").partitionsToOffsetAndMetadata()).get(tp);
                return o != null && o.offset() == 20;
            });
            ConsumerGroupMetadata meta = c.groupMetadata();
            expect(meta.generationId() > 0, "no generation");
        }
    }
}
