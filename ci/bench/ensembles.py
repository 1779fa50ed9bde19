#!/usr/bin/env python3
"""Ottla's coordinators beside Apache ZooKeeper: three members each, one machine, one client, in turn.

  ci/bench/ensembles.py --ottla target/release/ottla [--passes 3] [--seconds 8] [--dir DIR] [--json OUT] [--only SYSTEM]
  ci/bench/ensembles.py --table OUT.json       prints the tables of an earlier run

Needs Java and Maven for ZooKeeper (taken from Maven's ordinary repositories), Rust for the client. DIR must be on a disk, not on tmpfs: both
acknowledge a write when a majority has synced it. Only Python's standard library.

CPU is utime + stime of the three members, from before the client starts until they are quiet again; the client's own is not counted. Passes
alternate between the systems; the tables show medians, the best in brackets. Times move with the machine, CPU seconds and ratios far less.
"""
import argparse, json, os, pathlib, re, shutil, signal, socket, statistics, subprocess, sys, tempfile, time

ROOT = pathlib.Path(__file__).resolve().parents[2]
ZOOKEEPER = "3.8.4"
TICK = os.sysconf("SC_CLK_TCK")
# What ZooKeeper's own scripts start it with, and a heap that fits three of them.
JAVA = ["java", "-server", "-Xmx512m", "-XX:+ExitOnOutOfMemoryError"]
LOADS = [
    # name, options of the client
    ("set 1 KiB, 24 sessions, 1 under way each", ["--load", "set", "--sessions", "24"]),
    ("set 1 KiB, 24 sessions, 16 under way each", ["--load", "set", "--sessions", "24", "--pipeline", "16"]),
    ("create 100 B, 24 sessions, 16 under way each", ["--load", "create", "--sessions", "24", "--pipeline", "16", "--value-bytes", "100"]),
    ("get 1 KiB, 24 sessions, 16 under way each", ["--load", "get", "--sessions", "24", "--pipeline", "16"]),
    ("nine get, one set, 24 sessions, 4 under way each", ["--load", "mixed", "--sessions", "24", "--pipeline", "4"]),
    ("set 1 KiB at 500/s", ["--load", "paced", "--rate", "500", "--sessions", "6"]),
    ("set 1 KiB at 2,000/s", ["--load", "paced", "--rate", "2000", "--sessions", "24"]),
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


def memory_mb(pids, key):
    total = 0
    for pid in pids:
        found = re.search(rf"^{key}:\s+(\d+) kB", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)
        total += int(found[1]) if found else 0
    return total / 1024


def quiet_cpu(pids):
    """CPU seconds once the members have come to rest."""
    before = cpu(pids)
    for _ in range(20):
        time.sleep(0.3)
        now = cpu(pids)
        if now - before <= 0.03:
            return now
        before = now
    return before


class Ensemble:
    """Three processes with directories of their own."""

    def __init__(self, name, home):
        self.name, self.home = name, pathlib.Path(home)
        self.processes = []
        self.ports = free_ports(9)
        self.clients = self.ports[0:3]

    def spawn(self, index, command):
        out = open(self.home / f"{index}.log", "wb")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, cwd=self.home / str(index))
        self.processes.append(process)

    def start(self):
        for index in range(3):
            (self.home / str(index)).mkdir(parents=True)
            self.configure(index)
        self.began_ns = time.time_ns()
        for index in range(3):
            self.spawn(index, self.command(index))

    def servers(self):
        return ",".join(f"127.0.0.1:{port}" for port in self.clients)

    def pids(self):
        return [process.pid for process in self.processes if process.poll() is None]

    def word(self, index, word):
        try:
            with socket.create_connection(("127.0.0.1", self.clients[index]), 2) as s:
                s.sendall(word.encode())
                return b"".join(iter(lambda: s.recv(65536), b"")).decode(errors="replace")
        except OSError:
            return ""

    def leader(self):
        for _ in range(100):
            for index in range(3):
                if "Mode: leader" in self.word(index, "srvr"):
                    return index
            time.sleep(0.1)
        sys.exit(f"{self.name}: no member says that it leads")

    def stop(self):
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Ottla(Ensemble):
    binary = None

    def configure(self, index):
        directory = self.home / str(index)
        servers = "\n".join(f"server.{n + 1}=127.0.0.1:{self.ports[3 + n]};{self.clients[n]}" for n in range(3))
        secret = directory / "secret"
        secret.write_text("the secret of a benchmark\n")
        secret.chmod(0o600)
        (directory / "coordinator.properties").write_text(
            f"dataDir={directory}/data\nserver.id={index + 1}\n{servers}\nclientPort={self.clients[index]}\nclientPortAddress=127.0.0.1\n"
            f"coordination.secret.file={secret}\ntickTime=2000\n4lw.commands.whitelist=*\nadmin.enableServer=false\nmaxClientCnxns=0\n"
        )

    def command(self, index):
        return [self.binary, "coordinator", str(self.home / str(index) / "coordinator.properties")]


class ZooKeeper(Ensemble):
    classpath = None

    def configure(self, index):
        directory = self.home / str(index)
        (directory / "data").mkdir()
        (directory / "data" / "myid").write_text(str(index + 1))
        servers = "\n".join(f"server.{n + 1}=127.0.0.1:{self.ports[3 + n]}:{self.ports[6 + n]}" for n in range(3))
        (directory / "zoo.cfg").write_text(
            f"dataDir={directory}/data\n{servers}\nclientPort={self.clients[index]}\nclientPortAddress=127.0.0.1\ntickTime=2000\ninitLimit=10\n"
            "syncLimit=5\n4lw.commands.whitelist=*\nadmin.enableServer=false\nmaxClientCnxns=0\n"
        )

    def command(self, index):
        return [
            *JAVA, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", self.classpath, "org.apache.zookeeper.server.quorum.QuorumPeerMain",
            str(self.home / str(index) / "zoo.cfg"),
        ]


def fetch_zookeeper():
    home = ROOT / "target" / "bench" / f"zookeeper-{ZOOKEEPER}"
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        dependency = "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version>{}</dependency>"
        without = "<exclusions><exclusion><groupId>ch.qos.logback</groupId><artifactId>*</artifactId></exclusion></exclusions>"
        # The last two: what its server loads besides what its artifact names.
        dependencies = [
            dependency.format("org.apache.zookeeper", "zookeeper", ZOOKEEPER, without),
            dependency.format("org.slf4j", "slf4j-simple", "1.7.36", ""),
            dependency.format("io.dropwizard.metrics", "metrics-core", "4.1.12.1", ""),
            dependency.format("org.xerial.snappy", "snappy-java", "1.1.10.5", ""),
        ]
        (home / "pom.xml").write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>ottla.bench</groupId>'
            f"<artifactId>zookeeper</artifactId><version>1</version><packaging>pom</packaging><dependencies>{''.join(dependencies)}</dependencies></project>"
        )
        subprocess.run(["mvn", "-q", "-B", "dependency:copy-dependencies", "-DincludeScope=runtime", f"-DoutputDirectory={home}/lib"], cwd=home, check=True)
        (home / "complete").touch()
    return f"{home}/lib/*"


def build_client():
    built = subprocess.run(
        ["cargo", "bench", "--bench", "coordination", "--no-run", "--message-format=json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    for line in built.stdout.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == "coordination" and message.get("executable"):
            return message["executable"]
    sys.exit("cargo built no client")


def client(binary, servers, *options):
    done = subprocess.run([binary, "--servers", servers, *map(str, options)], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def one_pass(make, binary, directory, seconds):
    result = {}
    with tempfile.TemporaryDirectory(dir=directory) as home:
        ensemble = make(home)
        ensemble.start()
        try:
            result["start_ms"] = (client(binary, ensemble.servers(), "--load", "first")["first_ns"] - ensemble.began_ns) / 1e6
            quiet_cpu(ensemble.pids())
            result["idle_mb"] = memory_mb(ensemble.pids(), "VmRSS")
            began, before = time.monotonic(), cpu(ensemble.pids())
            time.sleep(5)
            result["idle_cpu_percent"] = 100 * (cpu(ensemble.pids()) - before) / (time.monotonic() - began)
            for name, options in LOADS:
                before = quiet_cpu(ensemble.pids())
                measured = client(binary, ensemble.servers(), *options, "--warm-up", 0, "--seconds", seconds)
                spent = quiet_cpu(ensemble.pids()) - before
                measured["operations_per_cpu_second"] = measured["operations"] / max(spent, 1e-9)
                measured["cpu_us"] = 1e6 * spent / max(measured["operations"], 1)
                result[name] = measured
                print(f"  {ensemble.name}: {name}: {measured['per_second']:,.0f}/s, {measured['cpu_us']:.0f} us CPU, p99 {measured['p99_us'] / 1e3:.1f} ms", flush=True)
            result["peak_mb"] = memory_mb(ensemble.pids(), "VmHWM")
        finally:
            ensemble.stop()
    for how, sign in [("kill", signal.SIGKILL), ("stop", signal.SIGTERM)]:
        with tempfile.TemporaryDirectory(dir=directory) as home:
            ensemble = make(home)
            ensemble.start()
            try:
                client(binary, ensemble.servers(), "--load", "first")
                leader = ensemble.leader()
                # Sessions with the surviving members, and at last with the one that goes.
                others = ",".join(f"127.0.0.1:{port}" for n, port in enumerate(ensemble.clients) if n != leader)
                running = subprocess.Popen(
                    [binary, "--servers", others, "--load", "gap", "--sessions", "4", "--value-bytes", "100", "--warm-up", "0", "--seconds", "10"],
                    stdout=subprocess.PIPE, text=True,
                )
                time.sleep(3)
                ensemble.processes[leader].send_signal(sign)
                result[f"gap_{how}_ms"] = json.loads(running.communicate()[0])["gap_ms"]
                print(f"  {ensemble.name}: leader gone ({how}): {result[f'gap_{how}_ms']:.0f} ms without an answer", flush=True)
            finally:
                ensemble.stop()
    return result


def middle(values, best):
    return f"{statistics.median(values):,.{0 if max(values) >= 100 else 2}f} ({best(values):,.{0 if max(values) >= 100 else 2}f})"


def table(results):
    systems = list(results)
    print("\n| load | " + " | ".join(f"{s}: op/s | op per CPU s | p50 / p99 ms" for s in systems) + " |")
    print("|---|" + "--:|--:|--:|" * len(systems))
    for name, _ in LOADS:
        cells = []
        for system in systems:
            runs = [run[name] for run in results[system]]
            cells += [
                middle([r["per_second"] for r in runs], max),
                middle([r["operations_per_cpu_second"] for r in runs], max),
                f"{statistics.median(r['p50_us'] for r in runs) / 1e3:.2f} / {statistics.median(r['p99_us'] for r in runs) / 1e3:.2f}",
            ]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\n| three members together | " + " | ".join(systems) + " |")
    print("|---|" + "--:|" * len(systems))
    rows = [
        ("start of three to the first acknowledged write, ms", "start_ms"),
        ("resident memory at rest, MB", "idle_mb"),
        ("peak resident memory, MB", "peak_mb"),
        ("CPU at rest, % of a core", "idle_cpu_percent"),
        ("longest time without an answer, leader killed, ms", "gap_kill_ms"),
        ("longest time without an answer, leader stopped in order, ms", "gap_stop_ms"),
    ]
    for title, key in rows:
        print(f"| {title} | " + " | ".join(middle([run[key] for run in results[s]], min) for s in systems) + " |")
    errors = {s: sum(run[name]["errors"] + run[name]["lost"] for run in results[s] for name, _ in LOADS) for s in systems}
    print(f"\nErrors and lost sessions: {errors}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ottla", type=pathlib.Path, help="the binary (default: what cargo build --release made)")
    parser.add_argument("--client", help="the client, if it is built (default: cargo builds it)")
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--dir", help="where the members' directories are made; on a disk")
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--only", choices=["ottla", "zookeeper"])
    parser.add_argument("--table", type=pathlib.Path, metavar="OUT.json")
    options = parser.parse_args()
    if options.table:
        return table(json.loads(options.table.read_text()))
    Ottla.binary = str((options.ottla or ROOT / "target/release/ottla").resolve())
    directory = options.dir or ROOT / "target" / "bench"
    pathlib.Path(directory).mkdir(parents=True, exist_ok=True)
    binary = options.client or build_client()
    systems = {}
    if options.only != "zookeeper":
        systems["Ottla"] = lambda home: Ottla("Ottla", home)
    if options.only != "ottla":
        ZooKeeper.classpath = fetch_zookeeper()
        systems[f"ZooKeeper {ZOOKEEPER}"] = lambda home: ZooKeeper("ZooKeeper", home)
    results = {name: [] for name in systems}
    for number in range(options.passes):
        for name, make in systems.items():
            print(f"pass {number + 1} of {options.passes}, {name}", flush=True)
            results[name].append(one_pass(make, binary, directory, options.seconds))
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
    table(results)


if __name__ == "__main__":
    main()
