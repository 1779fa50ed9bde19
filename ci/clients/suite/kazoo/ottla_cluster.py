"""A plugin for pytest: kazoo's own tests, on members that `ensemble.py` starts. kazoo's harness would start Apache ZooKeeper itself.

OTTLA_MEMBER is the command that starts a member, words separated by newlines; the file of its configuration comes after it. OTTLA_IS_OURS says whose it is.
"""

import os
import tempfile
from pathlib import Path

import pytest
from kazoo.testing import harness

from ensemble import KEYS, KEYS_OURS, Member, free_ports

COMMAND = os.environ["OTTLA_MEMBER"].split("\n")
IS_OURS = os.environ["OTTLA_IS_OURS"] == "1"
# What kazoo sets as a system property of Apache ZooKeeper's: the password of super is test.
SUPER = {"DigestAuthenticationProvider.superDigest": "super:D/InIHSb7yEEbrWz8b9l71RjZJU="}


class Server:
    """What kazoo's tests do with a server, done with a member."""

    def __init__(self, member):
        self.member, self.running = member, False
        self.host, self.client_port, self.secure_client_port = "127.0.0.1", member.port, member.port
        self.address = self.secure_address = member.address

    def run(self):
        if not self.running:
            self.member.start()
            self.running = True

    def stop(self):
        if self.running:
            self.member.stop()
            self.running = False

    destroy = stop

    def get_logs(self, _count=100):
        return self.member.log.read_text(errors="replace").splitlines()[-_count:]


class Cluster:
    """What kazoo's tests do with a cluster. Each start of it is one with empty directories, as kazoo has it."""

    def __init__(self, size=3, configuration_entries=(), **_options):
        self.size, self.entries, self.servers, self.directory = size, configuration_entries, [], None
        self.make()

    def make(self):
        self.directory = tempfile.TemporaryDirectory(prefix="ottla-kazoo-")
        root, ports = Path(self.directory.name), free_ports(3 * self.size)
        members = [Member(lambda file: [*COMMAND, str(file)], root / f"member-{n + 1}", n + 1, ports[3 * n:3 * n + 3]) for n in range(self.size)]
        keys = {**KEYS, **dict(entry.split("=", 1) for entry in self.entries)}
        if IS_OURS:
            keys = {**keys, **KEYS_OURS, **SUPER, "coordination.secret.file": str(root / "secret")}
        for member in members:
            member.write(members, keys)
        self.servers = [Server(member) for member in members]

    def __iter__(self):
        return iter(self.servers)

    def __getitem__(self, number):
        return self.servers[number]

    def start(self):
        for server in self.servers:
            server.run()

    def terminate(self):
        for server in self.servers:
            server.stop()
        self.directory.cleanup()
        # The next start is asked for only if there is a server that does not run.
        self.make()

    stop = terminate

    def reset(self):
        self.terminate()

    def get_logs(self):
        return [line for server in self.servers for line in server.get_logs()]


harness.ZookeeperCluster = Cluster

# What asks for what there is not: with the reason, by a part of the test's name.
NOT_APPLICABLE = {
    "test_rw_lock": "it assumes which of two threads asks first, and fails so on Apache ZooKeeper, too",
    "TestReconfig::test_add_remove_observer": "observers",
    "TestSSLClient": "TLS on the clients' port",
    "TestReadOnlyMode": "a member that serves reads without a quorum (readonlymode.enabled)",
    "TestLegacySASLDigestAuthentication": "SASL",
    "TestSASLDigestAuthentication": "SASL",
    "TestSASLGSSAPIAuthentication": "SASL with Kerberos",
}


def pytest_collection_modifyitems(items):
    for item in items:
        for name, why in NOT_APPLICABLE.items():
            if name in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=f"not applicable: {why}"))
