"""The matrix of confluent-kafka (librdkafka): one JSON line per case on standard output, logs on standard error.

Arguments: bootstrap address, prefix of topics and groups, and optionally a pattern of the cases to run.
"""

import json
import random
import re
import sys
import time
import traceback

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, Producer, TopicCollection, TopicPartition
from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, TIMESTAMP_CREATE_TIME, TIMESTAMP_LOG_APPEND_TIME
from confluent_kafka import __version__ as VERSION
from confluent_kafka.admin import (AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, NewPartitions, NewTopic,
                                   OffsetSpec, ResourceType)

BOOTSTRAP, PREFIX, ONLY = sys.argv[1], sys.argv[2], re.compile(sys.argv[3] if len(sys.argv) > 3 else "")
CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
LIMIT_S = 30
# Yesterday: retention by time must not delete what a case has just written.
BASE_TIMESTAMP = int(time.time() * 1000) - 86_400_000
failed = 0
# A refused connection or a dead broker must show in the case that meets it, not as noise.
QUIET = {"log_level": 2}
admin = AdminClient({"bootstrap.servers": BOOTSTRAP, **QUIET})


def case(name, body, *args):
    """Runs one case and says how it went."""
    global failed
    if not ONLY.search(name):
        return
    start, error = time.monotonic(), ""
    try:
        body(*args)
    except Exception as e:  # pylint: disable=broad-except
        lines = [str(f.lineno) for f in traceback.extract_tb(e.__traceback__) if f.filename == __file__]
        error = f"{type(e).__name__}: {e} at matrix.py:{' < '.join(reversed(lines[1:]))}"
        failed += 1
    ms = int((time.monotonic() - start) * 1000)
    print(json.dumps({"client": "python", "version": VERSION, "case": name, "ok": not error, "ms": ms, "detail": error}), flush=True)


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def same(expected, found, what):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def refused(code, body):
    """The body must fail with this error code."""
    try:
        body()
    except KafkaException as e:
        same(KafkaError(code).name(), e.args[0].name(), "error")
        return
    raise AssertionError(f"expected {KafkaError(code).name()}, but it succeeded")


def eventually(what, holds):
    end = time.monotonic() + LIMIT_S
    while not holds():
        expect(time.monotonic() < end, f"not within {LIMIT_S} s: {what}")
        time.sleep(0.02)


def one(futures):
    """The result of an admin call for one thing."""
    return next(iter(futures.values())).result(20)


def topic(name, partitions, **configs):
    name = PREFIX + name
    one(admin.create_topics([NewTopic(name, partitions, 1, config={k.replace("_", "."): v for k, v in configs.items()})]))
    wait_for(name, partitions)
    return name


def afresh(ask):
    """The results of what a client without memory asks: librdkafka may remember for half a minute that it found no leader (_NOENT)."""
    fresh = AdminClient({"bootstrap.servers": BOOTSTRAP, **QUIET})
    # The client must live until the answers are there.
    return [f.result(20) for f in ask(fresh).values()]


def wait_for(name, partitions):
    """Kafka lists a leader before the partition's log is there: asks what only the log itself can tell."""
    def there():
        try:
            asked = {TopicPartition(name, p): OffsetSpec.latest() for p in range(partitions)}
            return all(r.offset >= 0 for r in afresh(lambda a: a.list_offsets(asked)))
        except KafkaException:
            return False
    eventually(f"topic {name}", there)


def leaders(name):
    found = admin.list_topics(name, timeout=10).topics[name]
    return [p for p in found.partitions.values() if p.leader >= 0] if found.error is None else []


def producer(**options):
    settings = {"bootstrap.servers": BOOTSTRAP, "linger.ms": 2, "message.timeout.ms": 20000, **QUIET}
    settings.update({k.replace("_", "."): v for k, v in options.items()})
    return Producer(settings)


def consumer(group=None, **options):
    settings = {"bootstrap.servers": BOOTSTRAP, "group.id": PREFIX + (group or "reader"), "enable.auto.commit": False, "auto.offset.reset": "earliest",
                "heartbeat.interval.ms": 150, "session.timeout.ms": 10000, "fetch.wait.max.ms": 100, "fetch.error.backoff.ms": 20, **QUIET}
    settings.update({k.replace("_", "."): v for k, v in options.items()})
    return Consumer(settings)


def pattern(seed, length):
    """Bytes that compress, but are not all the same."""
    return (random.Random(seed).randbytes(64) * (length // 64 + 1))[:length]


def mixed(partitions, count):
    """(partition, key, value, headers, timestamp): null and empty keys and values, headers of all kinds, many sizes."""
    records = []
    for i in range(count):
        key = None if i % 7 == 0 else b"" if i % 7 == 1 else f"key-{i}".encode()
        value = None if i % 11 == 0 else b"" if i % 11 == 1 else pattern(i, i * 37 % 3000)
        headers = [("h" + str(h % 2), None if h == 2 else b"" if h == 1 else f"value-{i}".encode()) for h in range(i % 4)]
        records.append((i % partitions, key, value, headers, BASE_TIMESTAMP + i))
    return records


def send(p, name, records):
    """Sends all, waits for all, gives their offsets."""
    offsets, errors = [None] * len(records), []

    def report(at):
        def done(error, message):
            if error:
                errors.append(error)
            else:
                offsets[at] = message.offset()
        return done

    for i, (partition, key, value, headers, timestamp) in enumerate(records):
        p.produce(name, value, key, partition, on_delivery=report(i), timestamp=timestamp, headers=headers)
        p.poll(0)
    same(0, p.flush(25), "messages not sent")
    if errors:
        raise KafkaException(errors[0])
    return offsets


def read(c, count):
    found, end = [], time.monotonic() + LIMIT_S
    while len(found) < count and time.monotonic() < end:
        for message in c.consume(1000, 0.1):
            if message.error():
                raise KafkaException(message.error())
            found.append(message)
    same(count, len(found), "records read")
    return found


def read_all(name, partitions, count, **options):
    c = consumer(**options)
    try:
        c.assign([TopicPartition(name, p, OFFSET_BEGINNING) for p in range(partitions)])
        return read(c, count)
    finally:
        c.close()


def same_content(sent, found, timestamps=True):
    """Each partition holds exactly what was sent to it, in order, from offset 0 without holes."""
    for p in sorted({r[0] for r in sent} | {m.partition() for m in found}):
        expected = [r for r in sent if r[0] == p]
        got = [m for m in found if m.partition() == p]
        same(len(expected), len(got), f"records in partition {p}")
        for i, (r, m) in enumerate(zip(expected, got)):
            at = f"partition {p} offset {m.offset()}"
            same(i, m.offset(), f"offset of record {i} in partition {p}")
            expect(r[1] == m.key(), f"key differs at {at}")
            expect(r[2] == m.value(), f"value differs at {at}")
            same(r[3], m.headers() or [], f"headers at {at}")
            if timestamps:
                same((TIMESTAMP_CREATE_TIME, r[4]), m.timestamp(), f"timestamp at {at}")


# Cases: topics, configs, offsets.

def offset(name, partition, spec):
    return afresh(lambda a: a.list_offsets({TopicPartition(name, partition): spec}))[0].offset


def admin_topics():
    name = topic("described", 3, retention_ms="3600000")
    d = one(admin.describe_topics(TopicCollection([name])))
    same([0, 1, 2], [p.id for p in d.partitions], "partitions")
    for p in d.partitions:
        same([n.id for n in p.replicas], [n.id for n in p.isr], "in-sync replicas")
        same(p.replicas[0].id, p.leader.id, "leader")
    expect(name in admin.list_topics(timeout=10).topics, "not listed")
    cluster = admin.describe_cluster().result(20)
    same(1, len(cluster.nodes), "nodes")
    expect(cluster.cluster_id and cluster.controller is not None, "no cluster id or no controller")


def admin_refusals():
    name = topic("twice", 1)
    create = lambda n, p, rf, **c: one(admin.create_topics([NewTopic(n, p, rf, config=c)]))
    refused(KafkaError.TOPIC_ALREADY_EXISTS, lambda: create(name, 1, 1))
    refused(KafkaError.INVALID_REPLICATION_FACTOR, lambda: create(PREFIX + "rf", 1, 3))
    refused(KafkaError.TOPIC_EXCEPTION, lambda: create(PREFIX + "a/b", 1, 1))
    refused(KafkaError.INVALID_CONFIG, lambda: create(PREFIX + "c", 1, 1, **{"retention.ms": "soon"}))
    refused(KafkaError.UNKNOWN_TOPIC_OR_PART, lambda: one(admin.delete_topics([PREFIX + "absent"])))


def admin_configs():
    name = topic("configs", 1, retention_ms="1000000")
    resource = ConfigResource(ResourceType.TOPIC, name)
    value = lambda: one(admin.describe_configs([resource]))["retention.ms"].value
    same("1000000", value(), "retention.ms")
    change = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[
        ConfigEntry("retention.ms", "2000000", incremental_operation=AlterConfigOpType.SET),
        ConfigEntry("segment.bytes", "1048576", incremental_operation=AlterConfigOpType.SET)])
    one(admin.incremental_alter_configs([change]))
    eventually("retention.ms set", lambda: value() == "2000000")
    undo = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[ConfigEntry("retention.ms", None, incremental_operation=AlterConfigOpType.DELETE)])
    one(admin.incremental_alter_configs([undo]))
    eventually("retention.ms back to its default", lambda: value() == "604800000")
    same("1048576", one(admin.describe_configs([resource]))["segment.bytes"].value, "segment.bytes")


def admin_partitions_and_deletion():
    name = topic("grow", 2)
    one(admin.create_partitions([NewPartitions(name, 4)]))
    eventually("4 partitions", lambda: len(leaders(name)) == 4)
    wait_for(name, 4)
    refused(KafkaError.INVALID_PARTITIONS, lambda: one(admin.create_partitions([NewPartitions(name, 3)])))
    records = mixed(4, 40)
    send(producer(), name, records)
    same_content(records, read_all(name, 4, 40))
    one(admin.delete_topics([name]))
    eventually("topic gone", lambda: name not in admin.list_topics(timeout=10).topics)


def admin_delete_records():
    name = topic("trimmed", 1)
    send(producer(), name, mixed(1, 100))
    same(40, afresh(lambda a: a.delete_records([TopicPartition(name, 0, 40)]))[0].low_watermark, "low watermark")
    same((40, 100), consumer().get_watermark_offsets(TopicPartition(name, 0), timeout=10), "watermarks")
    same(40, read_all(name, 1, 60)[0].offset(), "first offset read")
    refused(KafkaError.OFFSET_OUT_OF_RANGE, lambda: afresh(lambda a: a.delete_records([TopicPartition(name, 0, 101)])))


def admin_offsets():
    name = topic("times", 1)
    p = producer(linger_ms=50)
    send(p, name, [(0, None, b"v", [], BASE_TIMESTAMP + 1000 * (99 if i == 30 else i)) for i in range(40)])
    same(0, offset(name, 0, OffsetSpec.earliest()), "earliest")
    same(40, offset(name, 0, OffsetSpec.latest()), "latest")
    same(30, offset(name, 0, OffsetSpec.max_timestamp()), "largest timestamp")
    for wanted, at in [(0, 0), (BASE_TIMESTAMP + 7000, 7), (BASE_TIMESTAMP + 7001, 8), (BASE_TIMESTAMP + 50000, 30), (BASE_TIMESTAMP + 100000, -1)]:
        same(at, offset(name, 0, OffsetSpec.for_timestamp(wanted)), f"offset for {wanted}")
    c = consumer()
    same(12, c.offsets_for_times([TopicPartition(name, 0, BASE_TIMESTAMP + 12000)], timeout=10)[0].offset, "offsets_for_times")
    c.close()


# Cases: producing and reading by assignment.

def produce(codec, acks, idempotent):
    name = topic(f"p-{codec}-{acks}-{idempotent}", 3)
    records = mixed(3, 300)
    offsets = send(producer(compression_type=codec, acks=acks, enable_idempotence=idempotent), name, records)
    if acks != "0":
        same([i // 3 for i in range(300)], offsets, "offsets")
    same_content(records, read_all(name, 3, 300))
    same_content(records, read_all(name, 3, 300, max_partition_fetch_bytes=1, fetch_max_bytes=1000000))


def large(codec):
    name = topic(f"large-{codec}", 1, max_message_bytes="8000000")
    rnd = random.Random(1)
    records = [(0, None, rnd.randbytes(size // 2) + pattern(size, size // 2), [], BASE_TIMESTAMP) for size in (5_000_000, 2, 999_000, 2_500_000)]
    send(producer(compression_type=codec, message_max_bytes=9_000_000), name, records)
    same_content(records, read_all(name, 1, 4, fetch_message_max_bytes=1000, receive_message_max_bytes=100_000_000))


def too_large():
    name = topic("small", 1, max_message_bytes="2000")
    p = producer(linger_ms=0)
    rnd = random.Random(2)
    refused(KafkaError.MSG_SIZE_TOO_LARGE, lambda: send(p, name, [(0, None, rnd.randbytes(3000), [], BASE_TIMESTAMP)]))
    same([0], send(p, name, [(0, None, rnd.randbytes(1000), [], BASE_TIMESTAMP)]), "offset after a refusal")


def log_append_time():
    for codec in CODECS:
        name = topic(f"append-time-{codec}", 1, message_timestamp_type="LogAppendTime")
        records = mixed(1, 50)
        send(producer(compression_type=codec), name, records)
        found = read_all(name, 1, 50)
        same_content(records, found, timestamps=False)
        for m in found:
            kind, at = m.timestamp()
            same(TIMESTAMP_LOG_APPEND_TIME, kind, "type of timestamp")
            expect(abs(at - time.time() * 1000) < 60000, f"append time {at} is not now")


def many_in_flight():
    name = topic("in-flight", 4)
    records = mixed(4, 5000)
    send(producer(linger_ms=0, batch_num_messages=10, enable_idempotence=True), name, records)
    same_content(records, read_all(name, 4, 5000))


def seek():
    name = topic("seek", 1)
    records = mixed(1, 500)
    send(producer(batch_size=5000), name, records)
    c = consumer()
    for at in (499, 0, 250, 251, 17, 498):
        c.assign([TopicPartition(name, 0, at)])
        m = read(c, 1)[0] if at == 499 else c.poll(10)
        same(at, m.offset(), "first offset after a seek")
        expect(m.value() == records[at][2], f"value at {at}")
    c.assign([TopicPartition(name, 0, OFFSET_END)])
    expect(c.poll(0.3) is None, "records after the end")
    c.close()


# Cases: groups.

def values(messages):
    return {(m.partition(), m.offset()): m.value() for m in messages}


def members(strategy):
    name, group = topic(f"members-{strategy}", 4), f"members-{strategy}"
    cooperative = strategy == "cooperative-sticky"
    seen, sent = {}, []

    class Member:
        def __init__(self):
            self.owned, self.revoked_max = set(), 0
            self.c = consumer(group, partition_assignment_strategy=strategy)
            self.c.subscribe([name], on_assign=self.on_assign, on_revoke=self.on_revoke)

        def on_assign(self, c, partitions):
            self.owned |= {p.partition for p in partitions}
            (c.incremental_assign if cooperative else c.assign)(partitions)

        def on_revoke(self, c, partitions):
            self.revoked_max = max(self.revoked_max, len(partitions))
            if partitions:
                try:
                    c.commit(asynchronous=False)
                except KafkaException as e:
                    same("_NO_OFFSET", e.args[0].name(), "commit when partitions go")
            self.owned -= {p.partition for p in partitions}
            if cooperative:
                c.incremental_unassign(partitions)
            else:
                c.unassign()

        def poll(self):
            for m in self.c.consume(100, 0.03):
                if m.error():
                    raise KafkaException(m.error())
                expect(m.partition() in self.owned, f"a record of partition {m.partition()}, which this member does not own")
                expect((m.partition(), m.offset()) not in seen, f"record {m.partition()}@{m.offset()} was delivered twice although it was committed")
                seen[(m.partition(), m.offset())] = m.value()

    def more(count):
        records = mixed(4, count)
        send(p, name, records)
        sent.extend(records)

    p = producer()
    more(200)
    a = Member()
    eventually("the first member owns all and has read all", lambda: a.poll() or (len(a.owned) == 4 and len(seen) == 200))
    b = Member()
    eventually("two members share", lambda: a.poll() or b.poll() or (len(a.owned) == 2 and len(b.owned) == 2 and not a.owned & b.owned))
    if cooperative:
        expect(a.revoked_max <= 2, f"a cooperative member gave up {a.revoked_max} partitions to give 2 away")
    more(200)
    eventually("both read", lambda: a.poll() or b.poll() or len(seen) == 400)
    b.c.close()
    eventually("the first member owns all again", lambda: a.poll() or len(a.owned) == 4)
    more(100)
    eventually("the first member reads all", lambda: a.poll() or len(seen) == 500)
    a.c.commit(asynchronous=False)
    a.c.close()
    expected = {}
    for partition in range(4):
        for at, r in enumerate(r for r in sent if r[0] == partition):
            expected[(partition, at)] = r[2]
    expect(seen == expected, "contents differ")
    same(0, lag(group, name, 4), "lag")


def lag(group, name, partitions):
    committed = one(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(PREFIX + group)])).topic_partitions
    committed = {t.partition: t.offset for t in committed if t.topic == name}
    return sum(offset(name, p, OffsetSpec.latest()) - committed[p] for p in range(partitions))


def commit_and_lag():
    name = topic("lag", 2)
    send(producer(), name, mixed(2, 100))
    c = consumer("lag")
    same(-1001, c.committed([TopicPartition(name, 0)], timeout=10)[0].offset, "committed before any commit")
    c.commit(offsets=[TopicPartition(name, 0, 30, metadata="so far"), TopicPartition(name, 1, 50)], asynchronous=False)
    found = c.committed([TopicPartition(name, 0)], timeout=10)[0]
    same((30, "so far"), (found.offset, found.metadata), "committed")
    same(20, lag("lag", name, 2), "lag")
    c.close()
    c = consumer("lag")
    c.subscribe([name])
    same(20, len(read(c, 20)), "records left")
    c.commit(asynchronous=False)
    c.close()
    same(0, lag("lag", name, 2), "lag at the end")
    one(admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(PREFIX + "lag", [TopicPartition(name, 0, 10)])]))
    same(40, lag("lag", name, 2), "lag after a reset")


def group_admin():
    name, group = topic("described-group", 2), PREFIX + "described"
    c = consumer("described", client_id="a-client")
    c.subscribe([name])
    send(producer(), name, mixed(2, 10))
    read(c, 10)
    c.commit(asynchronous=False)
    expect(group in [g.group_id for g in admin.list_consumer_groups().result(20).valid], "not listed")
    d = one(admin.describe_consumer_groups([group]))
    same("STABLE", d.state.name, "state")
    same(["a-client"], [m.client_id for m in d.members], "members")
    same({0, 1}, {t.partition for t in d.members[0].assignment.topic_partitions}, "assignment")
    refused(KafkaError.NON_EMPTY_GROUP, lambda: one(admin.delete_consumer_groups([group])))
    c.close()
    eventually("the group is empty", lambda: one(admin.describe_consumer_groups([group])).state.name == "EMPTY")
    one(admin.delete_consumer_groups([group]))
    refused(KafkaError.GROUP_ID_NOT_FOUND, lambda: one(admin.delete_consumer_groups([group])))


def static_member():
    name = topic("static", 2)
    a, b = consumer("static", group_instance_id="one"), consumer("static", group_instance_id="two")
    for c in (a, b):
        c.subscribe([name])
    eventually("two static members share", lambda: (a.poll(0.03), b.poll(0.03)) and len(a.assignment()) == 1 and len(b.assignment()) == 1)
    had = b.assignment()[0].partition
    b.close()
    b = consumer("static", group_instance_id="two")
    b.subscribe([name])
    eventually("the static member is back", lambda: (a.poll(0.03), b.poll(0.03)) and len(b.assignment()) == 1)
    same((had, 1), (b.assignment()[0].partition, len(a.assignment())), "assignment after a restart")
    a.close()
    b.close()


case("admin/topics", admin_topics)
case("admin/refusals", admin_refusals)
case("admin/configs", admin_configs)
case("admin/partitions-and-deletion", admin_partitions_and_deletion)
case("admin/delete-records", admin_delete_records)
case("admin/offsets-by-timestamp", admin_offsets)
for codec_ in CODECS:
    for acks_ in ("0", "1", "all"):
        case(f"produce/{codec_}/plain/acks={acks_}", produce, codec_, acks_, False)
    case(f"produce/{codec_}/idempotent/acks=all", produce, codec_, "all", True)
for codec_ in CODECS:
    case(f"produce/{codec_}/large", large, codec_)
case("produce/too-large", too_large)
case("produce/log-append-time", log_append_time)
case("produce/many-batches-in-flight", many_in_flight)
case("consume/seek", seek)
for strategy_ in ("range", "roundrobin", "cooperative-sticky"):
    case(f"group/{strategy_}/join-leave", members, strategy_)
case("group/commit-and-lag", commit_and_lag)
case("group/list-describe-delete", group_admin)
case("group/static-member", static_member)
sys.exit(1 if failed else 0)
