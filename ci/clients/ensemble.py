"""Members of a coordination ensemble as processes of their own: ours, or Apache ZooKeeper's to tell a client's fault from ours.

`Ensemble(start, directory, count)` writes a zoo.cfg for each member, starts them on free ports of 127.0.0.1, and finds the leader by the four-letter word srvr.
"""

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

LIMIT_S = 60
KEYS = {"tickTime": "2000", "initLimit": "10", "syncLimit": "5", "4lw.commands.whitelist": "*", "maxClientCnxns": "0", "admin.enableServer": "false"}
KEYS_OURS = {"znode.container.checkIntervalMs": "500"}
APACHE_PROPERTIES = ["-Dznode.container.checkIntervalMs=500", "-Dzookeeper.extendedTypesEnabled=true"]


def ours(binary):
    """The command that starts a member of ours with a file."""
    return lambda file: [binary, "coordinator", str(file)]


def apache(lib):
    """The command that starts a member of Apache ZooKeeper, from a directory of jars that has all that its server needs."""
    options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *APACHE_PROPERTIES]
    return lambda file: ["java", *options, "-cp", f"{lib}/*", "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(file)]


def free_ports(count):
    """Ports that nobody listens on, all different."""
    sockets = [socket.socket() for _ in range(count)]
    for it in sockets:
        it.bind(("127.0.0.1", 0))
    ports = [it.getsockname()[1] for it in sockets]
    for it in sockets:
        it.close()
    return ports


def word(port, said, host="127.0.0.1"):
    """What a member answers to a four-letter word; nothing if it does not."""
    try:
        with socket.create_connection((host, port), 1) as connection:
            connection.settimeout(2)
            connection.sendall(said.encode())
            answer = b""
            while more := connection.recv(65536):
                answer += more
            return answer.decode()
    except OSError:
        return ""


class Member:
    """One process and its directory."""

    def __init__(self, command, directory, number, ports, host):
        self.command, self.directory, self.number, self.host = command, directory, number, host
        self.port, self.peer_port, self.election_port = ports
        self.log, self.process = directory / "log", None

    @property
    def address(self):
        return f"{self.host}:{self.port}"

    def write(self, members, keys):
        data = self.directory / "data"
        data.mkdir(parents=True)
        lines = [f"{key}={value}" for key, value in keys.items()] + [f"dataDir={data}", f"clientPort={self.port}", f"clientPortAddress={self.host}"]
        if len(members) > 1:
            (data / "myid").write_text(f"{self.number}\n")
            lines += [f"server.{m.number}=127.0.0.1:{m.peer_port}:{m.election_port}" for m in members]
        (self.directory / "zoo.cfg").write_text("\n".join(lines) + "\n")

    def start(self):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self.command(self.directory / "zoo.cfg"), stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def mode(self):
        """leader, follower, standalone, or nothing while it does not serve."""
        lines = word(self.port, "srvr", self.host).splitlines()
        return next((line.split()[1] for line in lines if line.startswith("Mode: ")), "")

    def peak_mib(self):
        try:
            return int(Path(f"/proc/{self.process.pid}/status").read_text().split("VmHWM:")[1].split()[0]) // 1024
        except (OSError, IndexError):
            return 0

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
        if self.process:
            self.process.wait()

    def stop(self):
        """SIGTERM: a clean stop, within a bound. What was wrong with it, if anything."""
        if self.process.poll() is not None:
            return f"member {self.number} had ended by itself with {self.process.returncode}"
        self.process.send_signal(signal.SIGTERM)
        return self.stop_finished()

    def stop_finished(self):
        """The end that SIGTERM asked for. What was wrong with it, if anything."""
        try:
            code = self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.kill()
            return f"member {self.number} did not stop within 30 s of SIGTERM"
        # A JVM ends with 128 + 15 on SIGTERM.
        return "" if code in (0, 143) else f"member {self.number} exited with {code} on SIGTERM"


class Ensemble:
    """Several members; they are stopped by `close`, whatever happened."""

    def __init__(self, command, directory, count=3, keys=None, is_ours=True, host="127.0.0.1", ports=None):
        """Clients are served at `host`, on `ports` if they are given."""
        free = free_ports(3 * count)
        self.members = [Member(command, directory / f"member-{n + 1}", n + 1, [ports[n] if ports else free[n], *free[count + 2 * n:count + 2 * n + 2]], host) for n in range(count)]
        for member in self.members:
            member.write(self.members, {**KEYS, **(KEYS_OURS if is_ours else {}), **({} if not is_ours or count == 1 else {"coordination.secret.file": str(directory / "secret")}), **(keys or {})})
        for member in self.members:
            member.start()
        try:
            self.wait(count)
        except BaseException:
            self.close()
            raise

    @property
    def hosts(self):
        return ",".join(member.address for member in self.members)

    def leader(self):
        return next((m for m in self.members if m.process.poll() is None and m.mode() in ("leader", "standalone")), None)

    def follower(self):
        found = next((m for m in self.members if m.process.poll() is None and m.mode() == "follower"), None)
        if found is None:
            raise RuntimeError(f"no member follows: {({m.number: m.mode() for m in self.members})}")
        return found

    def wait(self, count):
        """Waits until so many members serve, one of them as leader."""
        end = time.monotonic() + LIMIT_S
        while True:
            modes = {m.number: m.mode() for m in self.members if m.process.poll() is None}
            serving = [mode for mode in modes.values() if mode]
            if len(serving) >= count and any(mode in ("leader", "standalone") for mode in serving):
                return
            ended = [m for m in self.members if m.process.poll() is not None]
            if time.monotonic() > end or len(self.members) - len(ended) < count:
                logs = "\n".join(f"-- member {m.number}\n{m.log.read_text(errors='replace')[-1500:]}" for m in self.members)
                raise RuntimeError(f"{count} members do not serve within {LIMIT_S} s: they are {modes}, {len(ended)} ended\n{logs}")
            time.sleep(0.02)

    def wait_for_another(self, gone):
        """Waits until another member than `gone` leads; how long it took, in ms."""
        start = time.monotonic()
        while True:
            leader = next((m for m in self.members if m is not gone and m.process.poll() is None and m.mode() == "leader"), None)
            if leader:
                return leader, int((time.monotonic() - start) * 1000)
            if time.monotonic() - start > LIMIT_S:
                raise RuntimeError(f"no new leader within {LIMIT_S} s of the end of member {gone.number}")
            time.sleep(0.01)

    def close(self):
        for member in self.members:
            member.kill()

    def keep_logs(self, directory):
        for member in self.members:
            if member.log.exists():
                (directory / f"member-{member.number}.log").write_bytes(member.log.read_bytes())


if __name__ == "__main__":
    # python3 ci/clients/ensemble.py PATH_OF_OTTLA DIRECTORY [COUNT]: to have one at hand; ends with its standard input.
    it = Ensemble(ours(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3)
    print(it.hosts, flush=True)
    try:
        sys.stdin.read()
    finally:
        it.close()
