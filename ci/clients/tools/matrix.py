"""The matrix of Kafka 3.9's console tools, each started as its script starts it: one JSON line per case on standard output.

--lib DIR    the tools' jars; --data DIR the broker's log directory, for DumpLogSegments (without it these cases are left out)
--ottla PATH the binary, for `ottla log adopt` of a directory that Kafka 3.9 has written, and for a broker on Apache ZooKeeper (without it these cases
             are left out)
"""

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

options = argparse.ArgumentParser()
options.add_argument("bootstrap")
options.add_argument("prefix")
options.add_argument("pattern", nargs="?", default="")
options.add_argument("--lib", required=True)
options.add_argument("--data")
options.add_argument("--ottla")
options = options.parse_args()
BOOTSTRAP, PREFIX, ONLY = options.bootstrap, options.prefix, re.compile(options.pattern)
VERSION = next(m[1] for f in os.listdir(options.lib) if (m := re.match(r"kafka-tools-(\d.*)\.jar", f)))
LIMIT_S = 60
failed = 0

TOPICS = "org.apache.kafka.tools.TopicCommand"
GROUPS = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand"
PRODUCER = "kafka.tools.ConsoleProducer"
CONSUMER = "org.apache.kafka.tools.consumer.ConsoleConsumer"
OFFSETS = "org.apache.kafka.tools.GetOffsetShell"
DELETE_RECORDS = "org.apache.kafka.tools.DeleteRecordsCommand"
CONFIGS = "kafka.admin.ConfigCommand"
DUMP = "kafka.tools.DumpLogSegments"


def case(name, body, *args):
    """Runs one case and says how it went."""
    global failed
    if not ONLY.search(name):
        return
    start, error = time.monotonic(), ""
    try:
        body(*args)
    except Exception as e:  # pylint: disable=broad-except
        error = f"{type(e).__name__}: {e}"
        failed += 1
    ms = int((time.monotonic() - start) * 1000)
    print(json.dumps({"client": "tools", "version": VERSION, "case": name, "ok": not error, "ms": ms, "detail": error}), flush=True)


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def same(expected, found, what):
    expect(expected == found, f"{what}: expected {expected!r}, found {found!r}")


def java(main, heap="-Xmx256m"):
    return ["java", heap, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", f"{options.lib}/*", main]


def tool(main, *args, stdin="", bootstrap=BOOTSTRAP, ok=True):
    if main != DUMP:
        args = ("--bootstrap-server", bootstrap, *args)
    done = subprocess.run([*java(main), *args], input=stdin.encode(), capture_output=True, timeout=LIMIT_S, check=False)
    out = done.stdout.decode() + ("" if ok else done.stderr.decode())
    if ok:
        expect(done.returncode == 0, f"{main} {' '.join(args)[:300]} exited with {done.returncode}: {(out + done.stderr.decode())[-500:]}")
    return out


def topics():
    name = PREFIX + "tools"
    expect("Created topic" in tool(TOPICS, "--create", "--topic", name, "--partitions", "3", "--replication-factor", "1", "--config", "retention.ms=3600000"), "not created")
    expect(name in tool(TOPICS, "--list").split(), "not listed")
    text = tool(TOPICS, "--describe", "--topic", name)
    expect(re.search(r"PartitionCount: 3\s+ReplicationFactor: 1\s+Configs: .*retention.ms=3600000", text), f"describe says {text}")
    same(3, len(re.findall(r"Partition: \d\s+Leader: \d+\s+Replicas: \d+\s+Isr: \d+", text)), "partitions described")
    tool(TOPICS, "--alter", "--topic", name, "--partitions", "4")
    expect("PartitionCount: 4" in tool(TOPICS, "--describe", "--topic", name), "not 4 partitions")
    expect("already exists" in tool(TOPICS, "--create", "--topic", name, ok=False), "created twice")


def configs():
    name = PREFIX + "tools"
    tool(CONFIGS, "--alter", "--entity-type", "topics", "--entity-name", name, "--add-config", "segment.bytes=1048576,retention.ms=7200000")
    text = tool(CONFIGS, "--describe", "--entity-type", "topics", "--entity-name", name)
    expect("segment.bytes=1048576" in text and "retention.ms=7200000" in text, f"describe says {text}")
    tool(CONFIGS, "--alter", "--entity-type", "topics", "--entity-name", name, "--delete-config", "segment.bytes")
    expect("segment.bytes" not in tool(CONFIGS, "--describe", "--entity-type", "topics", "--entity-name", name), "the override is still there")


def lines(codec, count=120):
    return [f"{codec}-{i}\tvalue {i} " + "z" * (i * 17 % 900) for i in range(count)]


def console(codec, *more, bootstrap=BOOTSTRAP):
    """Producer and consumer of the console with one codec."""
    name = PREFIX + "console-" + codec
    sent = lines(codec)
    tool(PRODUCER, "--topic", name, "--compression-codec", codec, "--property", "parse.key=true", *more, stdin="".join(line + "\n" for line in sent), bootstrap=bootstrap)
    found = tool(CONSUMER, "--topic", name, "--from-beginning", "--max-messages", str(len(sent)), "--timeout-ms", "20000",
                 "--property", "print.key=true", "--property", "print.partition=true", "--property", "print.offset=true", bootstrap=bootstrap)
    rows = [line.split("\t", 2) for line in found.splitlines() if line.startswith("Partition:")]
    same(sorted(sent), sorted(r[2] for r in rows), "records read")
    by_partition = {}
    for partition, offset, _ in rows:
        by_partition.setdefault(partition, []).append(int(offset.removeprefix("Offset:")))
    for partition, found_offsets in by_partition.items():
        same(list(range(len(found_offsets))), found_offsets, f"offsets in {partition}")


def groups():
    name, group = PREFIX + "lag", PREFIX + "tools-group"
    tool(TOPICS, "--create", "--topic", name, "--partitions", "1")
    tool(PRODUCER, "--topic", name, stdin="".join(f"m{i}\n" for i in range(10)))
    out = tool(CONSUMER, "--topic", name, "--group", group, "--max-messages", "6", "--timeout-ms", "20000", "--consumer-property", "auto.offset.reset=earliest")
    same([f"m{i}" for i in range(6)], out.split(), "records of the group")
    expect(group in tool(GROUPS, "--list").split(), "not listed")

    def row():
        text = tool(GROUPS, "--describe", "--group", group)
        found = re.search(rf"{re.escape(group)}\s+{re.escape(name)}\s+0\s+(\d+)\s+(\d+)\s+(\d+)", text)
        expect(found, f"describe says {text}")
        return tuple(int(x) for x in found.groups())

    same((6, 10, 4), row(), "current offset, log end offset, lag")
    state = tool(GROUPS, "--describe", "--group", group, "--state")
    expect(re.search(rf"{re.escape(group)}.*Empty\s+0", state), f"state says {state}")
    tool(GROUPS, "--reset-offsets", "--group", group, "--topic", name, "--to-offset", "2", "--execute")
    same((2, 10, 8), row(), "after a reset")
    tool(GROUPS, "--delete", "--group", group)
    expect(group not in tool(GROUPS, "--list").split(), "still listed")


def offsets_and_deletion():
    name = PREFIX + "lag"
    same(f"{name}:0:10", tool(OFFSETS, "--topic", name).strip(), "end offset")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump({"partitions": [{"topic": name, "partition": 0, "offset": 4}], "version": 1}, f)
        f.flush()
        expect("low_watermark: 4" in tool(DELETE_RECORDS, "--offset-json-file", f.name), "records not deleted")
    same(f"{name}:0:4", tool(OFFSETS, "--topic", name, "--time", "earliest").strip(), "first offset")
    tool(TOPICS, "--delete", "--topic", name)
    end = time.monotonic() + 20
    while name in tool(TOPICS, "--list").split():
        expect(time.monotonic() < end, "the topic is still listed")


def segment_files(suffix):
    # A file may be deleted or rolled away while we look: only topics that nobody deletes are dumped.
    return sorted(str(f) for f in Path(options.data).glob(f"*-[0-9]*/*{suffix}") if not f.parent.name.endswith("-delete") and not f.parent.name.startswith("__cluster"))


def dump_logs():
    """Every batch and record of every log, decoded: checksums, offsets, counts."""
    files = [f for f in segment_files(".log") if os.path.getsize(f) > 0]
    expect(files, f"no log files in {options.data}")
    batches = records = 0
    for some in (files[i:i + 200] for i in range(0, len(files), 200)):
        batches_before = batches
        expected = None
        for line in tool(DUMP, "--deep-iteration", "--files", ",".join(some)).splitlines():
            if line.startswith("baseOffset:"):
                expect("isvalid: true" in line, f"an invalid batch: {line}")
                expect(expected in (None, 0), f"{expected} records are missing before: {line}")
                expected = int(re.search(r" count: (\d+)", line)[1])
                batches += 1
            elif line.startswith("| offset:"):
                expected -= 1
                records += 1
            else:
                expect(not re.search("ismatch|Non-consecutive|orrupt|Exception|out of order|invalid|unreadable", line, re.I), f"DumpLogSegments says: {line}")
                # Preallocated or foreign bytes after the last batch would show here.
                expect(not line.startswith("Found "), f"DumpLogSegments says: {line}")
        expect(expected in (None, 0), f"{expected} records are missing at the end")
        expect(batches > batches_before, "no batches")
    expect(records > 100, f"only {records} records")


def dump_indexes():
    files = segment_files(".index") + segment_files(".timeindex")
    expect(files, f"no index files in {options.data}")
    passed = 0
    for some in (files[i:i + 200] for i in range(0, len(files), 200)):
        text = tool(DUMP, "--index-sanity-check", "--files", ",".join(some))
        passed += text.count("passed sanity check") + text.count(" is empty.")
        expect(not re.search("ismatch|orrupt|Misindexed|Exception|Found", text), f"DumpLogSegments says: {text[-500:]}")
    same(len(files), passed, "indexes that passed")
    # Without the check, each entry is compared with the log itself.
    for line in tool(DUMP, "--verify-index-only", "--files", ",".join(files[:200])).splitlines():
        expect(not re.search("ismatch|orrupt|Misindexed|Exception|Found", line), f"DumpLogSegments says: {line}")


def dump_group_offsets():
    files = [f for f in segment_files(".log") if "/__consumer_offsets-" in f and os.path.getsize(f) > 0]
    expect(files, "no log of committed offsets")
    text = tool(DUMP, "--offsets-decoder", "--files", ",".join(files))
    for what in (r"key: \{\"type\":\"1\"", r"key: \{\"type\":\"2\"|\"group\":", r"\"offset\":\d+"):
        expect(re.search(what, text), f"nothing decoded that matches {what}")
    expect("Exception" not in text and "rror" not in text, "an error while decoding")


def dump_producers():
    files = segment_files(".snapshot")
    if files:
        text = tool(DUMP, "--files", ",".join(files[:100]))
        expect("producerId:" in text, f"no producers in the snapshots: {text[-300:]}")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def await_port(port, process, log):
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            expect(process.poll() is None and time.monotonic() < end, f"did not start: {Path(log).read_text(encoding='utf-8')[-800:]}")
            time.sleep(0.1)


def adopt():
    """A directory written by Kafka 3.9 with ZooKeeper opens after `ottla log adopt`, with all records."""
    work = tempfile.mkdtemp(prefix="ottla-adopt-")
    running = []

    def start(log, *command):
        with open(f"{work}/{log}", "w", encoding="utf-8") as f:
            running.append(subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))
        return running[-1]

    try:
        zookeeper, broker, data = free_port(), free_port(), f"{work}/kafka"
        Path(f"{work}/zk.properties").write_text(f"dataDir={work}/zk\nclientPort={zookeeper}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n", encoding="utf-8")
        Path(f"{work}/kafka.properties").write_text(f"""broker.id=1
listeners=PLAINTEXT://127.0.0.1:{broker}
zookeeper.connect=127.0.0.1:{zookeeper}
log.dirs={data}
num.partitions=3
offsets.topic.replication.factor=1
offsets.topic.num.partitions=3
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=20000
log.index.interval.bytes=500
""", encoding="utf-8")
        zk = start("zk.log", *java("org.apache.zookeeper.server.quorum.QuorumPeerMain", "-Xmx64m"), f"{work}/zk.properties")
        await_port(zookeeper, zk, f"{work}/zk.log")
        kafka = start("kafka.log", *java("kafka.Kafka"), f"{work}/kafka.properties")
        await_port(broker, kafka, f"{work}/kafka.log")
        for codec in ("none", "zstd"):
            console(codec, bootstrap=f"127.0.0.1:{broker}")
        for p in (kafka, zk):
            p.terminate()
            p.wait(40)
        done = subprocess.run([options.ottla, "log", "adopt", data], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        same(0, done.returncode, f"ottla log adopt (it said {(done.stdout + done.stderr)[-600:]!r}): exit code")
        ours = free_port()
        ottla = start("ottla.log", options.ottla, "broker", "-o", f"listeners=PLAINTEXT://127.0.0.1:{ours}", "-o", f"log.dirs={data}", "-o", "broker.id=1")
        await_port(ours, ottla, f"{work}/ottla.log")
        for codec in ("none", "zstd"):
            sent = lines(codec)
            found = tool(CONSUMER, "--topic", PREFIX + "console-" + codec, "--from-beginning", "--max-messages", str(len(sent)), "--timeout-ms", "20000",
                         "--property", "print.key=true", bootstrap=f"127.0.0.1:{ours}").splitlines()
            same(sorted(sent), sorted(found), f"records of {codec} after the adoption")
        # And it can be written to.
        tool(PRODUCER, "--topic", PREFIX + "console-none", stdin="after\n", bootstrap=f"127.0.0.1:{ours}")
    finally:
        for p in reversed(running):
            if p.poll() is None:
                p.kill()
                p.wait()
        shutil.rmtree(work, ignore_errors=True)


def on_zookeeper():
    """A broker of ours whose coordination is an Apache ZooKeeper 3.8, below a chroot: topics and records, a restart of ZooKeeper, an expired session."""
    work = tempfile.mkdtemp(prefix="ottla-outside-")
    running = []

    def start(log, *command):
        with open(f"{work}/{log}", "a", encoding="utf-8") as f:
            running.append(subprocess.Popen(command, stdout=f, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=work))
        return running[-1]

    def start_zookeeper():
        process = start("zk.log", *java("org.apache.zookeeper.server.quorum.QuorumPeerMain", "-Xmx64m"), f"{work}/zk.properties")
        await_port(zookeeper, process, f"{work}/zk.log")
        return process

    def start_broker():
        process = start("ottla.log", options.ottla, "broker", "-o", f"listeners=PLAINTEXT://127.0.0.1:{ours}", "-o", f"log.dirs={work}/data", "-o", "broker.id=1",
                        "-o", f"zookeeper.connect=127.0.0.1:{zookeeper}/kafka/a", "-o", "zookeeper.session.timeout.ms=4000", "-o", "group.initial.rebalance.delay.ms=0",
                        "-o", "offsets.topic.num.partitions=3", "-o", "num.partitions=3")
        await_port(ours, process, f"{work}/ottla.log")
        return process

    def coordination(*args):
        done = subprocess.run([options.ottla, "coordination", *args, "--server", f"127.0.0.1:{zookeeper}/kafka/a"], capture_output=True, text=True, timeout=LIMIT_S, check=False)
        return done.stdout if done.returncode == 0 else None

    def until(what, holds):
        end = time.monotonic() + LIMIT_S
        while not (found := holds()):
            expect(time.monotonic() < end, f"{what}: not within {LIMIT_S} s; the broker said {Path(f'{work}/ottla.log').read_text(encoding='utf-8')[-800:]}")
        return found

    def epoch():
        text = coordination("stat", "/brokers/ids/1")
        return text and int(re.search(r"czxid = (0x[0-9a-f]+)", text)[1], 16)

    try:
        zookeeper, ours = free_port(), free_port()
        bootstrap = f"127.0.0.1:{ours}"
        Path(f"{work}/zk.properties").write_text(f"dataDir={work}/zk\nclientPort={zookeeper}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\ntickTime=500\n", encoding="utf-8")
        zk, broker = start_zookeeper(), None
        broker = start_broker()
        tool(TOPICS, "--create", "--topic", "made", "--partitions", "2", "--replication-factor", "1", bootstrap=bootstrap)
        expect('"topic_id"' in coordination("get", "/brokers/topics/made"), "the topic is not in ZooKeeper")
        console("zstd", bootstrap=bootstrap)
        # As Kafka's tools before 3.0 made topics: the znode alone.
        coordination("set", "/brokers/topics/raw", '{"version":1,"partitions":{"0":[1]}}', "--create")
        until("a topic that was made in ZooKeeper", lambda: "raw" in tool(TOPICS, "--list", bootstrap=bootstrap).split())
        tool(PRODUCER, "--topic", "raw", stdin="one\n", bootstrap=bootstrap)
        # ZooKeeper is started again: the session is the same.
        first = epoch()
        zk.terminate()
        zk.wait(40)
        tool(PRODUCER, "--topic", "raw", stdin="two\n", bootstrap=bootstrap)
        zk = start_zookeeper()
        until("a topic after ZooKeeper's restart", lambda: re.search("Created topic|already exists", tool(TOPICS, "--create", "--topic", "after", bootstrap=bootstrap, ok=False)))
        same(first, epoch(), "the broker's epoch after ZooKeeper's restart")
        # The broker is paused for longer than its session: it registers again, with another epoch.
        broker.send_signal(signal.SIGSTOP)
        until("the end of the session", lambda: coordination("stat", "/brokers/ids/1") is None)
        broker.send_signal(signal.SIGCONT)
        second = until("another registration", epoch)
        expect(second > first, f"the epoch {second:#x} is not after {first:#x}")
        tool(TOPICS, "--create", "--topic", "expired", bootstrap=bootstrap)
        # Killed, and back before its session has ended.
        broker.kill()
        broker.wait(40)
        broker = start_broker()
        found = tool(CONSUMER, "--topic", "raw", "--from-beginning", "--max-messages", "2", "--timeout-ms", "20000", bootstrap=bootstrap).split()
        same(["one", "two"], found, "records read")
        broker.terminate()
        same(0, broker.wait(40), "the broker's exit code")
        same(None, coordination("stat", "/brokers/ids/1"), "its registration after it stopped")
    finally:
        for p in reversed(running):
            if p.poll() is None:
                p.kill()
                p.wait()
        shutil.rmtree(work, ignore_errors=True)


case("topics", topics)
case("configs", configs)
for codec_ in ("none", "gzip", "snappy", "lz4", "zstd"):
    case(f"console/{codec_}", console, codec_)
case("groups", groups)
case("offsets-and-deletion", offsets_and_deletion)
if options.data:
    case("dump/logs", dump_logs)
    case("dump/indexes", dump_indexes)
    case("dump/group-offsets", dump_group_offsets)
    case("dump/producer-snapshots", dump_producers)
if options.ottla:
    case("adopt", adopt)
    case("on-zookeeper", on_zookeeper)
sys.exit(1 if failed else 0)
