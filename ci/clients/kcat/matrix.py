"""The matrix of kcat (librdkafka of the distribution): one JSON line per case on standard output.

Arguments: bootstrap address, prefix of topics and groups, and optionally a pattern of the cases to run.
Topics are created by producing to them, so the broker must run with auto.create.topics.enable=true and num.partitions=3.
"""

import json
import re
import signal
import subprocess
import sys
import threading
import time

BOOTSTRAP, PREFIX, ONLY = sys.argv[1], sys.argv[2], re.compile(sys.argv[3] if len(sys.argv) > 3 else "")
LIMIT_S = 30
failed = 0


def version():
    found = re.search(r"Version (\S+) .*librdkafka (\S+)", subprocess.run(["kcat", "-V"], capture_output=True, text=True, check=True).stdout)
    return f"{found[1]} (librdkafka {found[2]})"


VERSION = version()


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
    print(json.dumps({"client": "kcat", "version": VERSION, "case": name, "ok": not error, "ms": ms, "detail": error}), flush=True)


def expect(holds, what):
    if not holds:
        raise AssertionError(what)


def same(expected, found, what):
    expect(expected == found, f"{what}: expected {expected!r}, found {found!r}")


def kcat(*args, stdin=""):
    done = subprocess.run(["kcat", "-b", BOOTSTRAP, *args], input=stdin.encode(), capture_output=True, timeout=LIMIT_S, check=False)
    expect(done.returncode == 0, f"kcat {' '.join(args)} exited with {done.returncode}: {done.stderr.decode()[-300:]}")
    return done.stdout.decode()


def eventually(what, holds):
    end = time.monotonic() + LIMIT_S
    while not holds():
        expect(time.monotonic() < end, f"not within {LIMIT_S} s: {what}")
        time.sleep(0.02)


def create(name):
    """Creates by asking for it, and waits until it can be read."""
    name = PREFIX + name

    def there():
        topic = json.loads(kcat("-L", "-J", "-t", name, "-X", "allow.auto.create.topics=true"))["topics"][0]
        return "error" not in topic and topic["partitions"] and all(p["leader"] >= 0 for p in topic["partitions"])

    # A consumer's metadata request may create it, a producer's always may.
    kcat("-P", "-t", name, "-p", "0", stdin="first\n")
    eventually(f"topic {name}", there)
    return name


def lines(count):
    return [(f"key-{i}", f"value {i} " + "x" * (i * 13 % 700)) for i in range(count)]


def consume(name, *args):
    out = kcat("-C", "-t", name, "-e", "-q", "-J", *args)
    return [json.loads(line) for line in out.splitlines()]


def metadata():
    name = create("listed")
    found = json.loads(kcat("-L", "-J"))
    same(1, len(found["brokers"]), "brokers")
    expect(name in [t["topic"] for t in found["topics"]], "topic not listed")
    same(found["brokers"][0]["id"], found["controllerid"], "controller")


def produce(codec, acks, idempotent):
    name = create(f"p-{codec}-{acks}-{idempotent}")
    records = lines(200)
    kcat("-P", "-t", name, "-p", "0", "-z", codec, "-K", "\t", "-H", "origin=kcat", "-H", "twice=1", "-H", "twice=2",
         "-X", f"enable.idempotence={idempotent}", "-X", f"acks={acks}", "-X", "batch.num.messages=30",
         stdin="".join(f"{k}\t{v}\n" for k, v in records))
    found = consume(name, "-p", "0", "-o", "1")
    same(list(range(1, 201)), [m["offset"] for m in found], "offsets")
    same(records, [(m["key"], m["payload"]) for m in found], "records")
    same(["origin", "kcat", "twice", "1", "twice", "2"], found[0]["headers"], "headers")


def null_values():
    name = create("nulls")
    kcat("-P", "-t", name, "-p", "0", "-Z", "-K", ":", stdin="a:1\nb:\n")
    same([("a", "1"), ("b", None)], [(m["key"], m["payload"]) for m in consume(name, "-p", "0", "-o", "1")], "records")


def large():
    name = create("large")
    value = "y" * 900_000
    kcat("-P", "-t", name, "-p", "0", stdin=value + "\n")
    same([value], [m["payload"] for m in consume(name, "-p", "0", "-o", "1")], "record")


def offsets():
    name = create("offsets")
    kcat("-P", "-t", name, "-p", "1", stdin="".join(f"m{i}\n" for i in range(10)))
    same(f"{name} [1] offset 10", kcat("-Q", "-t", f"{name}:1:-1").strip(), "end offset")
    same(f"{name} [1] offset 0", kcat("-Q", "-t", f"{name}:1:-2").strip(), "first offset")
    found = consume(name, "-p", "1", "-o", "beginning")
    at = found[4]["ts"]
    first = next(m["offset"] for m in found if m["ts"] >= at)
    same(f"{name} [1] offset {first}", kcat("-Q", "-t", f"{name}:1:{at}").strip(), "offset of a time")
    same(["m7", "m8", "m9"], [m["payload"] for m in consume(name, "-p", "1", "-o", "-3")], "the last three")
    same(["m4", "m5"], [m["payload"] for m in consume(name, "-p", "1", "-o", "4", "-c", "2")], "two from the fourth")


def group_commits():
    name = create("group")
    kcat("-P", "-t", name, "-p", "1", stdin="a\nb\n")
    read = lambda: sorted(json.loads(line)["payload"] for line in kcat("-G", PREFIX + "group", "-e", "-q", "-J", "-X", "auto.offset.reset=earliest", name).splitlines())
    same(["a", "b", "first"], read(), "the first time")
    same([], read(), "the second time")
    kcat("-P", "-t", name, "-p", "2", stdin="c\n")
    same(["c"], read(), "what is new")


class Member:
    """A kcat in a group; what it was assigned, and what it read."""

    def __init__(self, group, topic, strategy):
        self.process = subprocess.Popen(["kcat", "-b", BOOTSTRAP, "-G", PREFIX + group, "-J", "-u", "-X", "auto.offset.reset=earliest", "-X", "heartbeat.interval.ms=150",
                                         "-X", "session.timeout.ms=10000", "-X", f"partition.assignment.strategy={strategy}", topic], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.owned, self.values = set(), []
        self.threads = [threading.Thread(target=self.read_errors), threading.Thread(target=self.read)]
        for t in self.threads:
            t.start()

    def read_errors(self):
        for line in self.process.stderr:
            if "rebalanced" in line:
                # '… rebalanced (memberid M): assigned: T [0], T [1]', 'revoked: …', 'incremental assignment of …', 'incremental revoke of …'
                parts = set(int(p) for p in re.findall(r"\[(\d+)\]", line))
                if "incremental assignment" in line:
                    self.owned = self.owned | parts
                elif "assigned" in line:
                    self.owned = parts
                else:
                    self.owned = self.owned - parts

    def read(self):
        for line in self.process.stdout:
            self.values.append(json.loads(line)["payload"])

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        for t in self.threads:
            t.join()


def group_members(strategy):
    name = create("members-" + strategy)
    same(3, len(json.loads(kcat("-L", "-J", "-t", name))["topics"][0]["partitions"]), "partitions (the broker must run with num.partitions=3)")
    group = "members-" + strategy
    members = [Member(group, name, strategy)]
    try:
        a = members[0]
        eventually("the first member owns all", lambda: a.owned == {0, 1, 2})
        eventually("the first member reads", lambda: a.values == ["first"])
        b = Member(group, name, strategy)
        members.append(b)
        eventually("two members share", lambda: a.owned and b.owned and not a.owned & b.owned and a.owned | b.owned == {0, 1, 2})
        for p in range(3):
            kcat("-P", "-t", name, "-p", str(p), stdin="".join(f"{p}/{i}\n" for i in range(20)))
        wanted = sorted(["first"] + [f"{p}/{i}" for p in range(3) for i in range(20)])
        eventually("both read", lambda: len(a.values) + len(b.values) >= len(wanted))
        same(wanted, sorted(a.values + b.values), "values")
        b.stop()
        eventually("the first member owns all again", lambda: a.owned == {0, 1, 2})
        for p in range(3):
            kcat("-P", "-t", name, "-p", str(p), stdin=f"{p}/last\n")
        wanted = sorted(wanted + [f"{p}/last" for p in range(3)])
        eventually("the first member reads all", lambda: len(a.values) + len(b.values) >= len(wanted))
        same(wanted, sorted(a.values + b.values), "values at the end")
    finally:
        for m in members:
            m.stop()


case("metadata", metadata)
for codec_ in ("none", "gzip", "snappy", "lz4", "zstd"):
    for acks_ in ("0", "1", "all"):
        case(f"produce/{codec_}/plain/acks={acks_}", produce, codec_, acks_, "false")
    case(f"produce/{codec_}/idempotent/acks=all", produce, codec_, "all", "true")
case("produce/null-values", null_values)
case("produce/large", large)
case("consume/offsets", offsets)
case("group/commits", group_commits)
for strategy_ in ("range", "cooperative-sticky"):
    case(f"group/{strategy_}/join-leave", group_members, strategy_)
sys.exit(1 if failed else 0)
