#!/usr/bin/env python3
"""Ottla's brokers beside Apache Kafka's: one machine, one client (ci/bench/kload.c over librdkafka), in turn.

  ci/bench/brokers.py --ottla target/release/ottla [--brokers 1|3] [--passes 2] [--scale 1] [--dir DIR] [--json OUT]
                      [--systems durable,cached,kafka] [--pattern REGEX] [--latency-s 6] [-o key=value …]
  ci/bench/brokers.py --table OUT.json        prints the tables of an earlier run

Systems: `durable` is Ottla as it is by default (acknowledged when flushed), `cached` Ottla with Kafka's flush.messages (acknowledged from the page cache, as
Kafka does), `kafka` Apache Kafka 4.4 as it is by default (KRaft, broker and controller in one process). Needs librdkafka with its headers and a C compiler, Java and
Maven for Kafka. DIR must be on a disk.

CPU is utime + stime of the brokers, from before the client starts until they are quiet again (replication counts), per GB (10⁹ bytes) of message values. Passes alternate;
tables show medians, the best in brackets. `page tax` is what a GB of new page cache costs at that moment on this machine: rows with different taxes don't compare.
Only Python's standard library.
"""
import argparse, base64, json, os, pathlib, re, shutil, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
HERE = pathlib.Path(__file__).resolve().parent
KAFKA, LOG4J = "4.4.0", "2.25.3"
TICK = os.sysconf("SC_CLK_TCK")
# What Kafka's own start script passes, with its default heap of 1 GB.
JAVA = ["java", "-Xms1g", "-Xmx1g", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-Djava.awt.headless=true"]


def steps(factor):
    """name, kind, messages, bytes of a value, client settings"""
    sure = "acks=all"
    million = 3 if factor == 1 else 1
    return [
        ("produce 100 B, acks=all", "produce", million * 1_000_000, 100, [sure]),
        ("produce 100 B, acks=all, lz4", "produce", million * 1_000_000, 100, [sure, "compression.type=lz4"]),
        ("produce 100 B, idempotent", "produce", million * 1_000_000, 100, ["enable.idempotence=true"]),
        ("produce 1 KiB, acks=1", "produce", million * 200_000, 1024, ["acks=1"]),
        ("produce 1 KiB, acks=all", "produce", million * 200_000, 1024, [sure]),
        ("produce 1 KiB, acks=all, lz4", "produce", million * 200_000, 1024, [sure, "compression.type=lz4"]),
        ("produce 1 KiB, idempotent", "produce", million * 200_000, 1024, ["enable.idempotence=true"]),
        ("produce 1 KiB in batches of 16 KiB, acks=all", "produce", million * 150_000, 1024, [sure, "batch.size=16384"]),
        ("consume 100 B", "consume", million * 1_000_000, 100, [sure]),
        ("consume 1 KiB", "consume", million * 200_000, 1024, [sure]),
        ("1,000/s, no linger", "latency", 1000, 1024, [sure, "linger.ms=0"]),
        ("5,000/s, no linger", "latency", 5000, 1024, [sure, "linger.ms=0"]),
        ("5,000/s, linger 5 ms", "latency", 5000, 1024, [sure, "linger.ms=5"]),
    ]


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def cpu(pids):
    total = 0
    for pid in pids:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICK


def settled_cpu(pids):
    before = cpu(pids)
    for _ in range(30):
        time.sleep(0.3)
        now = cpu(pids)
        if now - before <= 0.03 * max(1, len(pids) / 2):
            return now
        before = now
    return before


def memory_mb(pids, key):
    total = 0
    for pid in pids:
        total += int(re.search(rf"^{key}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1])
    return total / 1024


def page_tax(directory):
    data = os.urandom(1 << 20)
    with tempfile.TemporaryFile(dir=directory) as file:
        before = time.process_time()
        for _ in range(64):
            os.write(file.fileno(), data)
        return (time.process_time() - before) / (64 * 1.048576e-3)


class Cluster:
    def __init__(self, home, count, options):
        self.home, self.count, self.options = pathlib.Path(home), count, options
        self.ports = free_ports(2 * count)
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in self.ports[:count])
        self.processes = []

    def spawn(self, index, command):
        log = open(self.home / f"broker-{index + 1}.log", "wb")
        self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT))

    def pids(self):
        ended = [p for p in self.processes if p.poll() is not None]
        if ended:
            sys.exit(f"a broker ended with {ended[0].returncode}; its log:\n" + "".join(log.read_text()[-1500:] for log in self.home.glob("*.log")))
        return [p.pid for p in self.processes]

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def replicated(self):
        factor = min(3, self.count)
        return [f"default.replication.factor={factor}", f"min.insync.replicas={2 if factor == 3 else 1}", f"offsets.topic.replication.factor={factor}"]


class Ottla(Cluster):
    binary = None
    settings = []

    def start(self):
        common = ["log.segment.delete.delay.ms=1000", *self.replicated(), *self.settings, *self.options]
        secret = self.home / "secret"
        secret.write_text(base64.b64encode(os.urandom(32)).decode() + "\n")
        secret.chmod(0o600)
        self.began_ns = time.time_ns()
        for index in range(self.count):
            own = [f"listeners=PLAINTEXT://127.0.0.1:{self.ports[index]}", f"log.dirs={self.home}/data-{index + 1}"]
            if self.count > 1:
                own += [f"broker.id={index + 1}", f"server.id={index + 1}", f"coordination.secret.file={secret}"]
                own += [f"server.{n + 1}=127.0.0.1:{self.ports[self.count + n]}" for n in range(self.count)]
            self.spawn(index, [self.binary, "broker", *[a for o in own + common for a in ("-o", o)]])


class OttlaCached(Ottla):
    settings = ["log.flush.interval.messages=9223372036854775807"]


class Kafka(Cluster):
    libraries = None
    settings = []

    def start(self):
        voters = ",".join(f"{n + 1}@127.0.0.1:{self.ports[self.count + n]}" for n in range(self.count))
        # An id that begins with a minus would be taken for an option.
        cluster = "A" + base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")[1:]
        factor = min(3, self.count)
        (self.home / "log4j2.yaml").write_text(
            'Configuration:\n  Appenders:\n    Console:\n      name: STDOUT\n      PatternLayout: { pattern: "[%d] %p %m (%c)%n" }\n'
            "  Loggers:\n    Root: { level: INFO, AppenderRef: { ref: STDOUT } }\n"
        )
        log4j = f"-Dlog4j2.configurationFile={self.home}/log4j2.yaml"
        for n in range(self.count):
            listeners = f"PLAINTEXT://127.0.0.1:{self.ports[n]},CONTROLLER://127.0.0.1:{self.ports[self.count + n]}"
            lines = [
                "process.roles=broker,controller", f"node.id={n + 1}", f"controller.quorum.voters={voters}", f"listeners={listeners}",
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{self.ports[n]}", "inter.broker.listener.name=PLAINTEXT", "controller.listener.names=CONTROLLER",
                "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT", f"log.dirs={self.home}/data-{n + 1}", "num.partitions=1",
                f"share.coordinator.state.topic.replication.factor={factor}", f"share.coordinator.state.topic.min.isr={min(2, factor)}",
                f"transaction.state.log.replication.factor={factor}", f"transaction.state.log.min.isr={min(2, factor)}",
                "group.initial.rebalance.delay.ms=0", "log.segment.delete.delay.ms=1000", *self.replicated(), *self.settings,
            ]
            path = self.home / f"server-{n + 1}.properties"
            path.write_text("\n".join(lines) + "\n")
            command = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", log4j, "-cp", self.libraries, "kafka.tools.StorageTool", "format", "-t", cluster, "-c", str(path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        self.began_ns = time.time_ns()
        for n in range(self.count):
            self.spawn(n, [*JAVA, log4j, "-cp", self.libraries, "kafka.Kafka", str(self.home / f"server-{n + 1}.properties")])


SYSTEMS = {"durable": ("Ottla, durable", Ottla), "cached": ("Ottla, not flushed", OttlaCached), "kafka": (f"Kafka {KAFKA}", Kafka)}


def fetch_kafka():
    home = ROOT / "target" / "bench" / f"kafka-{KAFKA}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        dependencies = "".join(
            f"<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>"
            for group, name, version in [
                ("org.apache.kafka", "kafka_2.13", KAFKA), ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J), ("org.apache.logging.log4j", "log4j-core", LOG4J),
            ]
        )
        (home / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>ottla.bench</groupId><artifactId>kafka</artifactId>'
            f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
        )
        subprocess.run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={home}/lib"], cwd=home, check=True)
        (home / "complete").touch()
    return f"{home}/lib/*"


def build_client(name="kload"):
    out = ROOT / "target" / "bench" / name
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "rdkafka"], stdout=subprocess.PIPE, text=True)
    if flags.returncode:
        sys.exit("librdkafka's headers are missing: apt-get install librdkafka-dev pkg-config")
    subprocess.run(["cc", "-O2", "-Wall", "-o", out, HERE / f"{name}.c", *flags.stdout.split()], check=True)
    return str(out)


class Bench:
    def __init__(self, client, cluster, partitions):
        self.client, self.cluster, self.partitions, self.serial = client, cluster, partitions, 0
        self.factor = min(3, cluster.count)

    def call(self, command, *arguments, settings=()):
        extra = [a for s in settings for a in ("-X", s)]
        done = subprocess.run([self.client, command, "-b", self.cluster.bootstrap, *map(str, arguments), *extra], stdout=subprocess.PIPE, text=True, timeout=300)
        lines = done.stdout.strip().splitlines()
        result = json.loads(lines[-1]) if lines else {}
        if done.returncode:
            print(f"  {command} failed: {result.get('error', '')}", file=sys.stderr)
        result["failed_run"] = done.returncode != 0
        return result

    def topic(self, partitions=None):
        self.serial += 1
        name = f"bench-{self.serial}"
        self.call("create", "-t", name, "-p", partitions or self.partitions, "-R", self.factor)
        return name

    def measured(self, name, run):
        pids = self.cluster.pids()
        for pid in pids:
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
        before = settled_cpu(pids)
        tax = page_tax(self.cluster.home)
        row = run()
        spent = settled_cpu(self.cluster.pids()) - before
        row["cpu_s_per_gb"] = spent / max(row.get("bytes", 0) / 1e9, 1e-9)
        row["cpu_us_per_message"] = 1e6 * spent / max(row.get("messages", 0), 1)
        row["per_second"] = row.get("messages", 0) / max(row.get("elapsed_s", 0), 1e-9)
        row["peak_mb"] = memory_mb(pids, "VmHWM")
        row["page_tax"] = tax
        told = f"p50 {row['p50_ms']} p99 {row['p99_ms']} ms" if "p50_ms" in row else f"{row['per_second']:,.0f}/s"
        print(f"  {name}: {told}, {row['cpu_s_per_gb']:.2f} CPU s/GB, page tax {tax:.1f}", flush=True)
        return row

    def step(self, kind, count, size, settings, latency_s):
        if kind == "latency":
            topic = self.topic()
            return topic, lambda: self.call("latency", "-t", topic, "-s", size, "-r", count, "-d", latency_s, settings=settings)
        topic = self.topic()
        produce = lambda: self.call("produce", "-t", topic, "-n", count, "-s", size, settings=settings)
        if kind == "produce":
            return topic, produce
        produce()
        return topic, lambda: self.call("consume", "-t", topic, "-n", count)


def one_pass(make, client, options):
    with tempfile.TemporaryDirectory(dir=options.dir) as home:
        cluster = make(home, options.brokers, options.option)
        cluster.start()
        try:
            bench = Bench(client, cluster, options.partitions)
            ready = bench.call("ready", "-t", "ready", "-R", bench.factor)
            result = {"start_ms": (ready["produced_ns"] - cluster.began_ns) / 1e6}
            time.sleep(5)
            before = cpu(cluster.pids())
            time.sleep(5)
            result["idle_cpu_percent"] = 100 * (cpu(cluster.pids()) - before) / 5
            result["idle_mb"] = memory_mb(cluster.pids(), "VmRSS")
            # Not measured: a JVM's first million messages, and the first pages.
            for size, compression in [(100, "none"), (1024, "none"), (1024, "lz4")]:
                topic = bench.topic()
                bench.call("produce", "-t", topic, "-n", int(300_000 * options.scale), "-s", size, settings=[f"compression.type={compression}"])
                bench.call("consume", "-t", topic, "-n", int(300_000 * options.scale))
                bench.call("delete", "-t", topic)
            for name, kind, count, size, settings in steps(bench.factor):
                if options.pattern and not re.search(options.pattern, name):
                    continue
                count = count if kind == "latency" else int(count * options.scale)
                topic, run = bench.step(kind, count, size, settings, options.latency_s)
                result[name] = bench.measured(name, run)
                bench.call("delete", "-t", topic)
            result["peak_mb"] = max(row["peak_mb"] for row in result.values() if isinstance(row, dict))
            return result
        finally:
            cluster.stop()


def middle(values, best):
    digits = 0 if max(values) >= 100 else 2
    return f"{statistics.median(values):,.{digits}f} ({best(values):,.{digits}f})"


def table(results):
    names = list(results)
    rows = [name for name in next(iter(results.values()))[0] if isinstance(results[names[0]][0][name], dict)]
    print("\n| step | " + " | ".join(f"{n}: msg/s | CPU s/GB" for n in names) + " |\n|---|" + "--:|--:|" * len(names))
    for row in (r for r in rows if "linger" not in r):
        cells = []
        for name in names:
            runs = [one[row] for one in results[name]]
            cells += [middle([r["per_second"] for r in runs], max), middle([r["cpu_s_per_gb"] for r in runs], min)]
            cells[-1] += " FAILED" if any(r["failed_run"] for r in runs) else ""
        print(f"| {row} | " + " | ".join(cells) + " |")
    print("\n| end to end, 1 KiB, acks=all: p50 / p99 / p99.9 ms | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for row in (r for r in rows if "linger" in r):
        medians = lambda name: [f"{statistics.median(one[row][key] for one in results[name]):,.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")]
        print(f"| {row} | " + " | ".join(" / ".join(medians(name)) for name in names) + " |")
    print("\n| brokers together | " + " | ".join(names) + " |\n|---|" + "--:|" * len(names))
    for title, key in [("exec to the first acknowledged produce, ms", "start_ms"), ("resident at rest, MB", "idle_mb"), ("CPU at rest, % of a core", "idle_cpu_percent"), ("peak resident, MB", "peak_mb")]:
        print(f"| {title} | " + " | ".join(middle([one[key] for one in results[name]], min) for name in names) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ottla", type=pathlib.Path, help="the binary (default: what cargo build --release made)")
    parser.add_argument("--brokers", type=int, choices=[1, 3], default=1)
    parser.add_argument("--systems", default="cached,kafka,durable")
    parser.add_argument("--passes", type=int, default=2)
    parser.add_argument("--partitions", type=int, default=6)
    parser.add_argument("--scale", type=float, default=1.0, help="a factor on the counts of messages")
    parser.add_argument("--latency-s", type=int, default=6)
    parser.add_argument("--pattern", help="only the steps that this regular expression finds")
    parser.add_argument("--dir", help="where the brokers' directories are made; on a disk")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("-o", dest="option", action="append", default=[], help="a setting of Ottla's brokers")
    parser.add_argument("--table", type=pathlib.Path, metavar="OUT.json")
    options = parser.parse_args()
    if options.table:
        return table(json.loads(options.table.read_text()))
    options.dir = options.dir or str(ROOT / "target" / "bench")
    pathlib.Path(options.dir).mkdir(parents=True, exist_ok=True)
    Ottla.binary = str((options.ottla or ROOT / "target/release/ottla").resolve())
    chosen = [SYSTEMS[name] for name in options.systems.split(",")]
    client = build_client()
    if any(make is Kafka for _, make in chosen):
        Kafka.libraries = fetch_kafka()
    results = {name: [] for name, _ in chosen}
    for number in range(options.passes):
        for name, make in chosen:
            print(f"pass {number + 1} of {options.passes}, {name}", flush=True)
            results[name].append(one_pass(make, client, options))
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    table(results)


if __name__ == "__main__":
    main()
