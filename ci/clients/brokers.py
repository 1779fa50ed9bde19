"""Three brokers as three hosts: each in a network namespace of its own on one bridge, so that single directions between them can be cut, with a directory each.

Everything here happens inside namespaces that `enter` makes for the runner alone (network, mounts, processes): no port, mount or process of the machine is touched, and
nothing is left when the runner ends, however it ends.

Where namespaces are not granted, in a container without privileges, say, the hosts are addresses of the loopback: no direction can be cut then, and no disk be small.
"""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

IS_LOOPBACK = "--on-loopback" in sys.argv
PREFIX = "127.77.0." if IS_LOOPBACK else "10.77.0."
OUTSIDE = PREFIX + "254"
# Where an ensemble is that is not inside the brokers: clients' packets and its own go different ways from here.
ENSEMBLE = PREFIX + "253"
PORT, PEER_PORT, CLIENT_PORT = 9092, 2888, 2181
# Nobody has this address: what is sent to it is lost, and the sender is told nothing.
NOBODY = "02:00:00:00:00:fe"
LIMIT_S = 60
# A short session, and short time-outs towards brokers that hang: the figures say what it takes after the session's end.
SESSION_MS = 2500
KEYS = {"default.replication.factor": 3, "min.insync.replicas": 2, "offsets.topic.replication.factor": 3, "offsets.topic.num.partitions": 3, "auto.create.topics.enable": "false",
        "zookeeper.session.timeout.ms": SESSION_MS, "zookeeper.connection.timeout.ms": 30000, "replica.lag.time.max.ms": 3000, "replica.fetch.backoff.ms": 100,
        "replica.socket.timeout.ms": 3000, "controller.socket.timeout.ms": 3000, "log.segment.bytes": 1048576, "group.initial.rebalance.delay.ms": 0}


def enter(arguments):
    """Runs this program again, inside namespaces of its own, or on the loopback where those are not granted. Returns only there."""
    if IS_LOOPBACK:
        return
    if "--inside" in arguments:
        # Nobody who reads /run/netns or /proc outside sees any of this.
        sh("mount", "-t", "tmpfs", "tmpfs", "/run")
        sh("ip", "link", "set", "lo", "up")
        return
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if os.getuid() != 0:
        command += ["--user", "--map-root-user"]
    trial = "mount -t tmpfs tmpfs /run && ip link add hosts type bridge && ip netns add trial && ip link add port type veth peer name eth0 netns trial"
    if (tried := subprocess.run([*command, "sh", "-ec", trial], capture_output=True, text=True, check=False)).returncode != 0:
        why = tried.stderr.strip().replace("\n", "; ")
        print(f"namespaces are not granted here ({why}): the brokers are on addresses of the loopback. As root, or where unprivileged user namespaces are allowed "
              "(sysctl kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0), all cases run.", flush=True)
        os.execv(sys.executable, [sys.executable, *sys.argv, "--on-loopback"])
    os.execvp(command[0], [*command, sys.executable, *sys.argv, "--inside"])


def sh(*command):
    """Runs a command that must succeed; what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def wait(what, holds, limit_s=LIMIT_S):
    """Waits for something that processes bring about; what it was."""
    end = time.monotonic() + limit_s
    while True:
        found = holds()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s} s: {what() if callable(what) else what}")
        time.sleep(0.02)


def bridge():
    """The network that the hosts are on; clients are on the bridge itself."""
    if IS_LOOPBACK:
        return
    sh("ip", "link", "add", "hosts", "type", "bridge")
    sh("ip", "addr", "add", f"{OUTSIDE}/24", "dev", "hosts")
    sh("ip", "addr", "add", f"{ENSEMBLE}/24", "dev", "hosts")
    sh("ip", "link", "set", "hosts", "up")


class Broker:
    """A host with a broker on it."""

    def __init__(self, binary, directory, number, keys):
        self.binary, self.directory, self.number, self.process = binary, directory, number, None
        self.host, self.namespace, self.log, self.data = PREFIX + str(number), f"broker-{number}", directory / "log", directory / "data"
        self.data.mkdir(parents=True)
        keys = {"broker.id": number, "listeners": f"PLAINTEXT://{self.host}:{PORT}", "log.dirs": self.data, **KEYS, **keys}
        self.file = directory / "server.properties"
        self.file.write_text("".join(f"{key}={value}\n" for key, value in keys.items()))
        if IS_LOOPBACK:
            return
        sh("ip", "netns", "add", self.namespace)
        sh("ip", "link", "add", f"port-{number}", "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        sh("ip", "link", "set", f"port-{number}", "master", "hosts", "up")
        self.ip("addr", "add", f"{self.host}/24", "dev", "eth0")
        self.ip("link", "set", "eth0", "up")
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments):
        return sh("ip", "-n", self.namespace, *arguments)

    @property
    def address(self):
        return f"{self.host}:{PORT}"

    def start(self):
        with open(self.log, "ab") as log:
            # nsenter becomes the broker: its process id is the broker's.
            inside = [] if IS_LOOPBACK else ["nsenter", f"--net=/run/netns/{self.namespace}"]
            command = [*inside, self.binary, "broker", str(self.file)]
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "OTTLA_LOG": os.environ.get("OTTLA_LOG", "info")})

    @property
    def is_up(self):
        return self.process is not None and self.process.poll() is None

    def signal(self, what):
        self.process.send_signal(what)

    def kill(self):
        """kill -9, and waits for its end."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def stop(self, limit_s=30):
        """SIGTERM: a clean stop within a bound; how long it took, in ms."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"broker {self.number} did not stop within {limit_s} s of SIGTERM") from None
        if code != 0:
            raise AssertionError(f"broker {self.number} exited with {code} on SIGTERM")
        return int((time.monotonic() - start) * 1000)

    def wipe(self):
        """Its disk is replaced by an empty one."""
        for entry in self.data.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def cut(self, address):
        """From now on nothing that this host sends to the address arrives. The other direction is left alone."""
        self.ip("neigh", "replace", address, "lladdr", NOBODY, "dev", "eth0", "nud", "permanent")

    def heal(self, address):
        self.ip("neigh", "del", address, "dev", "eth0")

    def small_disk(self, size_bytes):
        """Its directory is a file system of this size, where that can be."""
        if IS_LOOPBACK:
            return
        sh("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(self.data))

    def fill(self):
        """Leaves no byte free on its disk, although the broker writes meanwhile."""
        step, at = 16 << 20, 0
        with open(self.data / "ballast", "wb") as ballast:
            while step >= 4096:
                try:
                    os.posix_fallocate(ballast.fileno(), at, step)
                    at += step
                except OSError as e:
                    if e.errno != errno.ENOSPC:
                        raise
                    step //= 2

    def make_room(self):
        (self.data / "ballast").unlink(missing_ok=True)

    def peak_mib(self):
        try:
            return int(Path(f"/proc/{self.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
        except (OSError, IndexError):
            return 0


class Cluster:
    """Three brokers, on an ensemble inside them or on one that is given. `more` says of a number which keys that broker has besides."""

    def __init__(self, binary, directory, connect=None, more=lambda number: {}):
        bridge()
        secret = directory / "secret"
        secret.touch(mode=0o600)
        secret.write_text(os.urandom(24).hex())
        self.binary, self.brokers = binary, []
        self.hosts = connect or ",".join(f"{PREFIX}{n}:{CLIENT_PORT}" for n in (1, 2, 3))
        for number in (1, 2, 3):
            servers = {f"server.{n}": f"{PREFIX}{n}:{PEER_PORT}" for n in (1, 2, 3)}
            own = {**servers, "server.id": number, "coordination.secret.file": secret, "clientPort": CLIENT_PORT, "clientPortAddress": PREFIX + str(number), "tickTime": 500,
                   "4lw.commands.whitelist": "*"}
            self.brokers.append(Broker(binary, directory / f"broker-{number}", number, {**({"zookeeper.connect": connect} if connect else own), **more(number)}))

    def __getitem__(self, number):
        return self.brokers[number - 1]

    @property
    def bootstrap(self):
        return ",".join(broker.address for broker in self.brokers)

    def ottla(self, *arguments, limit_s=20):
        """What one of our own commands prints; nothing if it fails."""
        try:
            done = subprocess.run([self.binary, *arguments], capture_output=True, text=True, timeout=limit_s, check=False)
        except subprocess.TimeoutExpired:
            return None
        return done.stdout if done.returncode == 0 else None

    def partitions(self, topic, ask=None):
        """Leader and in-sync replicas of each partition of a topic, as one of the brokers tells them; nothing while none does."""
        for broker in [ask] if ask else [b for b in self.brokers if b.is_up]:
            text = self.ottla("topic", "list", "--bootstrap-server", broker.address, "--timeout-ms", "1000")
            if text is None:
                continue
            found = {}
            for line in text.splitlines():
                fields = dict(field.split(": ", 1) for field in line.split("\t"))
                if fields["topic"] == topic:
                    leader = -1 if fields["leader"] == "none" else int(fields["leader"])
                    found[int(fields["partition"])] = (leader, [int(n) for n in fields["isr"].split(",") if n])
            return found
        return {}

    def start(self):
        """Starts all, and waits until each answers."""
        for broker in self.brokers:
            broker.start()
        for broker in self.brokers:
            wait(f"broker {broker.number} answers", lambda broker=broker: self.ottla("topic", "list", "--bootstrap-server", broker.address, "--timeout-ms", "1000") is not None)

    def controller(self):
        """The controller's number by the coordination service; nothing while there is none."""
        text = self.ottla("coordination", "get", "/controller", "--server", self.hosts)
        return int(text.split('"brokerid":')[1].split(",")[0].strip(" }")) if text and '"brokerid":' in text else None

    def create(self, topic, partitions):
        for _ in range(3):
            if self.ottla("topic", "create", topic, "--partitions", str(partitions), "--if-not-exists", "--bootstrap-server", self.bootstrap) is not None:
                break
        else:
            raise AssertionError(f"topic {topic} cannot be created")
        self.wait_in_sync(topic, partitions)

    def wait_in_sync(self, topic, partitions, limit_s=LIMIT_S):
        """Waits until every partition has a leader and all three replicas in sync, and every broker says so: one that was cut off tells of what was before."""
        seen = {}

        def all_in_sync():
            views = [self.partitions(topic, broker) for broker in self.brokers if broker.is_up]
            seen.update(found=views)
            is_whole = len(views[0]) == partitions and all(leader > 0 and len(isr) == 3 for leader, isr in views[0].values())
            return is_whole and all(view.keys() == views[0].keys() and all(view[p][0] == views[0][p][0] for p in view) for view in views)
        wait(lambda: f"all replicas of {topic} in sync; leaders and in-sync replicas are {seen['found']}", all_in_sync, limit_s)

    def close(self):
        for broker in self.brokers:
            broker.kill()


class Watch:
    """Tells when znodes below a path come and go, by `ottla coordination watch` at each member: whoever is cut off from the others says nothing."""

    def __init__(self, cluster, path):
        self.events, self.processes = [], []
        hosts, _, chroot = cluster.hosts.partition("/")
        for host in hosts.split(","):
            command = [cluster.binary, "coordination", "watch", path, "-r", "--server", f"{host}/{chroot}" if chroot else host]
            self.processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True))
            threading.Thread(target=self.read, args=(self.processes[-1],), daemon=True).start()

    def read(self, process):
        for line in process.stdout:
            self.events.append((time.time() * 1000, line.strip()))

    def since(self, ms, line):
        """When this was first told, not before `ms`; nothing if it was not."""
        return min((at for at, told in self.events if at >= ms and told == line), default=None)

    def close(self):
        for process in self.processes:
            process.kill()
            process.wait()
