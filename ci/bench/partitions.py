#!/usr/bin/env python3
"""Three brokers with very many partitions, Ottla's beside Apache Kafka's: create, rest, load, list, the death of a broker (ci/bench/many.c over librdkafka).

  ci/bench/partitions.py --ottla target/dist/ottla [--topics 1000] [--partitions 10] [--systems durable,kafka] [--rate 1000] [--seconds 10] [--dir DIR] [--json OUT]

Systems as in ci/bench/brokers.py, whose clusters these are. Replication factor 3, min.insync.replicas 2, sessions of 6 s on both (`zookeeper.session.timeout.ms`,
`broker.session.timeout.ms`). CPU is utime + stime of all brokers. `load` sends records at a rate to all partitions in turn, acks=all; its times count from when each
record was due. `death` does the same and kills a broker (-9) after a second: p50, p99 and worst of the records due from then on, the time until the session ends included.
Only Python's standard library.
"""
import argparse, json, pathlib, subprocess, sys, tempfile, time

sys.dont_write_bytecode = True
import brokers
from brokers import ROOT, SYSTEMS, Kafka, Ottla, cpu, fetch_kafka, memory_mb

SESSION_MS = 6000


class Many:
    def __init__(self, client, cluster, options):
        self.client, self.cluster, self.options = client, cluster, options

    def call(self, command, *arguments, limit=900):
        pids = [pid for pid in self.cluster.pids()]
        before, began = cpu(pids), time.monotonic()
        counts = ["-n", str(self.options.topics), "-p", str(self.options.partitions), "-R", "3"]
        done = subprocess.run([self.client, command, "-b", self.cluster.bootstrap, *counts, *map(str, arguments)], stdout=subprocess.PIPE, text=True, timeout=limit)
        lines = done.stdout.strip().splitlines()
        row = json.loads(lines[-1]) if lines else {}
        row["failed_run"] = done.returncode != 0
        if "-k" not in arguments:
            row["cpu_s"], row["wall_s"] = cpu(pids) - before, time.monotonic() - began
        print(f"  {command} {' '.join(map(str, arguments))}: {row}", flush=True)
        if command == "create" and row["failed_run"]:
            sys.exit("the topics could not be created")
        return row


def rest(cluster, seconds):
    before = cpu(cluster.pids())
    time.sleep(seconds)
    return {"cpu_percent": 100 * (cpu(cluster.pids()) - before) / seconds, "mb": memory_mb(cluster.pids(), "VmRSS")}


def one(make, client, options):
    with tempfile.TemporaryDirectory(dir=options.dir) as home:
        cluster = make(home, 3, options.option)
        cluster.start()
        try:
            many, result = Many(client, cluster, options), {}
            deadline = time.monotonic() + 60
            while subprocess.run([client, "list", "-b", cluster.bootstrap, "-n", "1"], stdout=subprocess.PIPE, text=True).stdout.find('"brokers": 3') < 0:
                if time.monotonic() > deadline:
                    sys.exit("the brokers do not answer")
            result["create"] = many.call("create")
            time.sleep(5)
            result["rest"] = rest(cluster, 10)
            print(f"  rest: {result['rest']}", flush=True)
            result["list"] = many.call("list", "-n", 20)
            load = ["-s", 100, "-r", options.rate, "-d", options.seconds, "-X", "linger.ms=0", "-X", "message.timeout.ms=120000"]
            many.call("spread", *load)
            result["load"] = many.call("spread", *load)
            result["peak_mb"] = memory_mb(cluster.pids(), "VmHWM")
            victim = cluster.processes[-1]
            result["death"] = many.call("spread", *load[:5], max(options.seconds, 15), *load[6:], "-k", victim.pid)
            victim.wait()
            cluster.processes.remove(victim)
            result["rest with two"] = rest(cluster, 5)
            return result
        finally:
            cluster.stop()


def table(results):
    rows = [
        ("create: answered, s", lambda r: r["create"]["answered_s"]), ("create: all in sync, s", lambda r: r["create"]["whole_s"]), ("create: CPU s", lambda r: r["create"]["cpu_s"]),
        ("at rest: CPU, % of a core", lambda r: r["rest"]["cpu_percent"]), ("at rest: resident, MB", lambda r: r["rest"]["mb"]), ("peak resident, MB", lambda r: r["peak_mb"]),
        ("list of all: median ms", lambda r: r["list"]["median_ms"]), ("list of all: worst ms", lambda r: r["list"]["worst_ms"]),
        ("load: p50 ms", lambda r: r["load"]["p50_ms"]), ("load: p99 ms", lambda r: r["load"]["p99_ms"]), ("load: CPU s a million records", lambda r: 1e6 * r["load"]["cpu_s"] / max(1, r["load"]["messages"])),
        ("death of a broker: p50 ms", lambda r: r["death"]["p50_ms"]), ("death of a broker: p99 ms", lambda r: r["death"]["p99_ms"]), ("death of a broker: worst ms", lambda r: r["death"]["max_ms"]),
    ]
    print("\n| three brokers | " + " | ".join(results) + " |\n|---|" + "--:|" * len(results))
    for title, of in rows:
        print(f"| {title} | " + " | ".join(f"{of(r):,.2f}" for r in results.values()) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ottla", type=pathlib.Path)
    parser.add_argument("--topics", type=int, default=1000)
    parser.add_argument("--partitions", type=int, default=10)
    parser.add_argument("--systems", default="durable,kafka")
    parser.add_argument("--rate", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=10)
    parser.add_argument("--dir", help="where the brokers' directories are made; on a disk")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("-o", dest="option", action="append", default=[], help="a setting of Ottla's brokers")
    options = parser.parse_args()
    options.dir = options.dir or str(ROOT / "target" / "bench")
    pathlib.Path(options.dir).mkdir(parents=True, exist_ok=True)
    Ottla.binary = str((options.ottla or ROOT / "target/release/ottla").resolve())
    options.option.append(f"zookeeper.session.timeout.ms={SESSION_MS}")
    Kafka.settings = [f"broker.session.timeout.ms={SESSION_MS}"]
    chosen = [SYSTEMS[name] for name in options.systems.split(",")]
    client = brokers.build_client("many")
    if any(make is Kafka for _, make in chosen):
        Kafka.libraries = fetch_kafka()
    results = {}
    for name, make in chosen:
        print(name, flush=True)
        results[name] = one(make, client, options)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    table(results)


if __name__ == "__main__":
    main()
