"""The matrix of kazoo, Python's ZooKeeper client: one JSON line per case on standard output, logs on standard error.

Arguments: address of the member (clientPort) or a list of them, prefix of paths, and optionally a pattern of the cases to run.
With the pattern `failover` it takes part in the death of a leader instead: it sets up what is to live on, prints {"ready": true}, goes on writing, and
waits for a line on standard input, which says that another member leads. That is done twice.
"""

import json
import logging
import re
import sys
import threading
import time
import traceback

from kazoo import version as kazoo_version
from kazoo.client import KazooClient, KazooState
from kazoo.exceptions import (BadArgumentsError, BadVersionError, InvalidACLError, NoAuthError, NoChildrenForEphemeralsError, NodeExistsError, NoNodeError,
                              NotEmptyError, RolledBackError, RuntimeInconsistency, ConnectionLoss, SessionExpiredError, KazooException)
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import EventType
from kazoo.recipe.cache import TreeCache
from kazoo.security import CREATOR_ALL_ACL, OPEN_ACL_UNSAFE, READ_ACL_UNSAFE, make_acl, make_digest_acl

logging.basicConfig(stream=sys.stderr, level=logging.ERROR)
HOST, PREFIX, ONLY = sys.argv[1], "/" + sys.argv[2].strip("-"), re.compile(sys.argv[3] if len(sys.argv) > 3 else "")
LIMIT_S = 30
failed = 0
clients = []


def case(name, body, *args):
    """Runs one case, below a path of its own, and says how it went."""
    if not ONLY.search(name):
        return
    run(name, body, f"{PREFIX}/{name.replace('/', '-')}", *args)
    while clients:
        client = clients.pop()
        client.stop()
        client.close()


def run(name, body, *args):
    """Runs a body and says how it went."""
    global failed
    start, error = time.monotonic(), ""
    try:
        body(*args)
    except Exception as e:  # pylint: disable=broad-except
        lines = [str(f.lineno) for f in traceback.extract_tb(e.__traceback__) if f.filename == __file__]
        error = f"{type(e).__name__}: {e} at matrix.py:{' < '.join(reversed(lines[1:]))}"
        failed += 1
    ms = int((time.monotonic() - start) * 1000)
    print(json.dumps({"client": "kazoo", "version": kazoo_version.__version__, "case": name, "ok": not error, "ms": ms, "detail": error}), flush=True)


def same(expected, found, what):
    if expected != found:
        raise AssertionError(f"{what}: expected {expected!r}, found {found!r}")


def refused(error, body, *args, **kwargs):
    """The call must fail in this way."""
    try:
        found = body(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"expected {error.__name__}, found {found!r}")


def start(chroot="", **options):
    client = KazooClient(hosts=HOST + chroot, timeout=options.pop("timeout", 10.0), **options)
    client.start(timeout=LIMIT_S)
    clients.append(client)
    return client


class Seen:
    """Collects what watches say; `want` waits for it."""

    def __init__(self):
        self.events, self.changed = [], threading.Condition()

    def __call__(self, event):
        # That the connection is lost is no change of a znode.
        if event.type == EventType.NONE:
            return
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def want(self, *expected):
        with self.changed:
            self.changed.wait_for(lambda: len(self.events) >= len(expected), LIMIT_S)
            same(list(expected), [(e.type, e.path) for e in self.events], "events")


def wait(what, holds):
    """Something that another thread brings about; kazoo offers nothing to wait on for it."""
    end = time.monotonic() + LIMIT_S
    while not holds():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {LIMIT_S} s")
        time.sleep(0.01)


def nodes(at):
    zk = start()
    zk.ensure_path(at + "/deep/path")
    same(at + "/a", zk.create(at + "/a", b"one"), "path")
    data, stat = zk.get(at + "/a")
    same((b"one", 0, 0, 0, 0, 3, 0), (data, stat.version, stat.cversion, stat.aversion, stat.ephemeralOwner, stat.dataLength, stat.numChildren), "stat")
    same((stat.czxid, stat.ctime), (stat.mzxid, stat.mtime), "creation")
    changed = zk.set(at + "/a", b"")
    same((1, 0, True), (changed.version, changed.dataLength, changed.mzxid > stat.mzxid), "stat after a change")
    same((b"", stat.czxid), (zk.get(at + "/a")[0], zk.get(at + "/a")[1].czxid), "changed")
    path, stat = zk.create(at + "/b", b"x" * 100_000, include_data=True)
    same((at + "/b", 100_000), (path, stat.dataLength), "create2")
    same(["a", "b", "deep"], sorted(zk.get_children(at)), "children")
    names, stat = zk.get_children(at, include_data=True)
    same((3, 3, 3), (len(names), stat.numChildren, stat.cversion), "children with stat")
    refused(NodeExistsError, zk.create, at + "/a")
    refused(NoNodeError, zk.create, at + "/none/x")
    refused(NoNodeError, zk.get, at + "/none")
    refused(NoNodeError, zk.get_children, at + "/none")
    refused(BadVersionError, zk.set, at + "/a", b"", version=7)
    refused(BadVersionError, zk.delete, at + "/a", version=7)
    refused(NotEmptyError, zk.delete, at + "/deep")
    refused(BadArgumentsError, zk.delete, "/zookeeper")
    same(None, zk.exists(at + "/none"), "what is not there")
    same(at + "/\u00fcml\u00e4ut", zk.create(at + "/\u00fcml\u00e4ut", "\u00e9".encode()), "a name that is not ASCII")
    zk.delete(at + "/deep", recursive=True)
    zk.delete(at + "/a", version=1)
    same(None, zk.exists(at + "/deep"), "deleted")
    same(at + "/\u00fcml\u00e4ut", zk.sync(at + "/\u00fcml\u00e4ut"), "sync")


def modes(at):
    zk, other = start(), start()
    zk.ensure_path(at)
    same([f"{at}/s-{n:010}" for n in range(3)], [zk.create(at + "/s-", sequence=True) for _ in range(3)], "sequential")
    zk.create(at + "/e", ephemeral=True)
    path = zk.create(at + "/es-", ephemeral=True, sequence=True)
    same(f"{at}/es-0000000004", path, "an ephemeral sequential")
    same(zk.client_id[0], other.exists(at + "/e").ephemeralOwner, "owner")
    refused(NoChildrenForEphemeralsError, zk.create, at + "/e/x")
    seen = Seen()
    other.exists(at + "/e", watch=seen)
    zk.stop()
    seen.want((EventType.DELETED, at + "/e"))
    same(None, other.exists(path), "ephemerals of a session that was closed")
    same(3, len(other.get_children(at)), "what stays")


def watches(at):
    zk, other = start(), start()
    zk.ensure_path(at + "/a")
    data, exists, missing, children = Seen(), Seen(), Seen(), Seen()
    other.get(at + "/a", watch=data)
    other.exists(at + "/a", watch=exists)
    other.exists(at + "/later", watch=missing)
    other.get_children(at, watch=children)
    zk.set(at + "/a", b"1")
    zk.set(at + "/a", b"2")
    zk.create(at + "/later")
    zk.create(at + "/later/below")
    data.want((EventType.CHANGED, at + "/a"))
    exists.want((EventType.CHANGED, at + "/a"))
    missing.want((EventType.CREATED, at + "/later"))
    children.want((EventType.CHILD, at))
    gone, empty = Seen(), Seen()
    other.get(at + "/a", watch=gone)
    other.get_children(at + "/a", watch=empty)
    zk.delete(at + "/a")
    gone.want((EventType.DELETED, at + "/a"))
    empty.want((EventType.DELETED, at + "/a"))
    same([1] * 6, [len(seen.events) for seen in (data, exists, missing, children, gone, empty)], "each fires once")


def order(at):
    """Whoever watches hears of a change before it can read it."""
    zk, other = start(), start()
    zk.ensure_path(at)
    for n in range(50):
        seen = Seen()
        other.get(at, watch=seen)
        zk.set(at, str(n).encode())
        if other.get(at)[0] == str(n).encode():
            # Callbacks are called by a thread of their own, in order.
            seen.want((EventType.CHANGED, at))


def transactions(at):
    zk = start()
    zk.ensure_path(at)
    t = zk.transaction()
    t.create(at + "/a", b"1")
    t.check(at + "/a", version=0)
    t.set_data(at + "/a", b"2")
    t.create(at + "/s-", sequence=True)
    t.delete(at + "/a")
    path, check, stat, sequential, delete = t.commit()
    same((at + "/a", True, 1, f"{at}/s-0000000001", True), (path, check, stat.version, sequential, delete), "results")
    t = zk.transaction()
    t.create(at + "/b")
    t.check(at, version=9)
    t.create(at + "/c")
    same([RolledBackError, BadVersionError, RuntimeInconsistency], [type(r) for r in t.commit()], "results of one that failed")
    same(None, zk.exists(at + "/b"), "all or nothing")


def acls(at):
    zk, other = start(), start()
    zk.ensure_path(at)
    refused(InvalidACLError, zk.create, at + "/x", acl=CREATOR_ALL_ACL)
    zk.add_auth("digest", "bob:secret")
    zk.create(at + "/mine", b"m", acl=CREATOR_ALL_ACL)
    acl, stat = zk.get_acls(at + "/mine")
    same([make_digest_acl("bob", "secret", all=True)], acl, "the creator's ACL")
    for body in (lambda: other.get(at + "/mine"), lambda: other.set(at + "/mine", b""), lambda: other.get_children(at + "/mine"),
                 lambda: other.create(at + "/mine/x"), lambda: other.get_acls(at + "/mine"), lambda: other.set_acls(at + "/mine", OPEN_ACL_UNSAFE)):
        refused(NoAuthError, body)
    other.add_auth("digest", "bob:secret")
    same(b"m", other.get(at + "/mine")[0], "with the same credentials")
    stat = other.set_acls(at + "/mine", [*READ_ACL_UNSAFE, make_digest_acl("bob", "secret", all=True)])
    same(1, stat.aversion, "the ACL's version")
    third = start()
    same(b"m", third.get(at + "/mine")[0], "what everyone may read")
    same("bob:x", [a.id.id for a in third.get_acls(at + "/mine")[0] if a.id.scheme == "digest"][0], "hashes are not for everyone")
    refused(NoAuthError, third.set, at + "/mine", b"")
    zk.create(at + "/ip", b"", acl=[make_acl("ip", "127.0.0.0/8", all=True)])
    same(b"", third.get(at + "/ip")[0], "by address")
    zk.create(at + "/elsewhere", b"", acl=[make_acl("ip", "10.1.2.3", all=True)])
    refused(NoAuthError, third.get, at + "/elsewhere")
    given = start(auth_data=[("digest", "bob:secret")])
    given.set(at + "/mine", b"n")


def sessions(at):
    """The connection breaks, the session does not: ephemerals stay, and kazoo's watchers go on."""
    zk, other = start(), start()
    other.ensure_path(at + "/a")
    zk.create(at + "/e", ephemeral=True)
    session, values, names, states = zk.client_id, [], [], []
    back = threading.Event()
    zk.DataWatch(at + "/a", lambda data, stat: values.append(data))
    zk.ChildrenWatch(at, lambda children: names.append(sorted(children)))

    def listen(state):
        states.append(state)
        if state == KazooState.CONNECTED:
            back.set()

    zk.add_listener(listen)
    # What kazoo's own tests do to break a connection.
    zk._connection._socket.shutdown(2)
    other.set(at + "/a", b"1")
    other.create(at + "/b")
    if not back.wait(LIMIT_S):
        raise AssertionError(f"it does not come back: {states}")
    same(session, zk.client_id, "the session")
    same([KazooState.SUSPENDED, KazooState.CONNECTED], states, "states")
    wait("what changed meanwhile", lambda: values[-1:] == [b"1"] and names[-1:] == [["a", "b", "e"]])
    other.set(at + "/a", b"2")
    wait("what changes after it", lambda: values[-1:] == [b"2"])
    same(session[0], other.exists(at + "/e").ephemeralOwner, "the ephemeral")
    # A session is another client's to take who knows its password, and nobody else's.
    refused(SessionExpiredError, lambda: expired((session[0], b"\0" * 16)))
    taken = KazooClient(hosts=HOST, client_id=session)
    taken.start(timeout=LIMIT_S)
    clients.append(taken)
    same(session[0], taken.client_id[0], "taken over")


def expired(client_id):
    """A client with a wrong password gets a session of its own instead: kazoo starts anew."""
    client = KazooClient(hosts=HOST, client_id=client_id)
    client.start(timeout=LIMIT_S)
    clients.append(client)
    if client.client_id[0] != client_id[0]:
        raise SessionExpiredError()
    return client.client_id


def expiry(at):
    """A client that dies without a word: its ephemerals go when its time is over, not before."""
    zk, other = start(timeout=6.0), start()
    other.ensure_path(at)
    zk.create(at + "/e", ephemeral=True)
    seen = Seen()
    other.exists(at + "/e", watch=seen)
    start_s = time.monotonic()
    # Its threads stop pinging; the socket stays open.
    zk._connection.ping_outstanding.set()
    zk._connection._send_ping = lambda *args: None
    same(zk._session_timeout / 1000 >= 6, True, "the time-out")
    zk._connection._socket.close()
    zk._stopped.set()
    seen.want((EventType.DELETED, at + "/e"))
    lasted = time.monotonic() - start_s
    if lasted < 5.5:
        raise AssertionError(f"the session ended after {lasted:.1f} s, before its time-out of 6 s")
    clients.remove(zk)


def pipeline(at):
    zk = start()
    zk.ensure_path(at)
    pending = [zk.create_async(f"{at}/n{n:04}", str(n).encode()) for n in range(1000)]
    reads = [zk.get_async(f"{at}/n{n:04}") for n in range(1000)]
    same([f"{at}/n{n:04}" for n in range(1000)], [p.get(timeout=LIMIT_S) for p in pending], "creations")
    same([str(n).encode() for n in range(1000)], [r.get(timeout=LIMIT_S)[0] for r in reads], "a client reads its own writes")
    same(1000, len(zk.get_children(at)), "children")


def sizes(at):
    zk = start()
    zk.ensure_path(at)
    zk.create(at + "/large", b"x" * 1_000_000)
    same(1_000_000, len(zk.get(at + "/large")[0]), "1 MB")
    try:
        zk.create(at + "/too-large", b"x" * 1_100_000)
        raise AssertionError("more than jute.maxbuffer was taken")
    except (ConnectionLoss, KazooException):
        pass
    wait("it comes back", lambda: zk.connected)
    same(None, zk.retry(zk.exists, at + "/too-large"), "what was too large")


def chroot(at):
    zk = start()
    zk.ensure_path(at)
    inner = start(chroot=at)
    same("/x", inner.create("/x", b"1"), "path")
    same(b"1", zk.get(at + "/x")[0], "below the chroot")
    seen = Seen()
    inner.get("/x", watch=seen)
    zk.set(at + "/x", b"2")
    seen.want((EventType.CHANGED, "/x"))


def words(at):
    zk = start()
    same((3, 9), tuple(zk.server_version()[:2]), "version")
    same(b"imok", zk.command(b"ruok").encode(), "ruok")
    for word, expected in ((b"srvr", "Mode: "), (b"stat", "Clients:"), (b"mntr", "zk_znode_count"), (b"conf", "tickTime="), (b"cons", "sid=0x"),
                           (b"dump", "SessionTracker dump:"), (b"envi", "zookeeper.version="), (b"wchs", "Total watches:"), (b"isro", "rw")):
        if expected not in zk.command(word):
            raise AssertionError(f"{word}: {zk.command(word)}")


def locks(at):
    zk, other = start(), start()
    held, order_, lock = threading.Event(), [], zk.Lock(at + "/lock", "first")
    lock.acquire(timeout=LIMIT_S)

    def second():
        with other.Lock(at + "/lock", "second"):
            order_.append("second")
        held.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    wait("the second waits", lambda: len(lock.contenders()) == 2)
    same(["first", "second"], lock.contenders(), "contenders")
    order_.append("first")
    lock.release()
    held.wait(LIMIT_S)
    same(["first", "second"], order_, "order")
    # Whoever dies gives the lock up.
    zk.Lock(at + "/dying", "first").acquire(timeout=LIMIT_S)
    zk.stop()
    same(True, other.Lock(at + "/dying", "second").acquire(timeout=LIMIT_S), "the lock of one that went")


def reads_and_writes(at):
    zk, other = start(), start()
    read, read2, write = zk.ReadLock(at, "r1"), other.ReadLock(at, "r2"), other.WriteLock(at, "w")
    same((True, True), (read.acquire(timeout=LIMIT_S), read2.acquire(timeout=LIMIT_S)), "two readers")
    refused(Exception, write.acquire, timeout=0.3)
    read.release()
    read2.release()
    same(True, other.WriteLock(at, "w2").acquire(timeout=LIMIT_S), "the writer")


def semaphore(at):
    zk, other = start(), start()
    one, two, three = zk.Semaphore(at, max_leases=2), zk.Semaphore(at, max_leases=2), other.Semaphore(at, max_leases=2)
    same((True, True), (one.acquire(timeout=LIMIT_S), two.acquire(timeout=LIMIT_S)), "two leases")
    refused(Exception, three.acquire, timeout=0.3)
    one.release()
    same(True, other.Semaphore(at, max_leases=2).acquire(timeout=LIMIT_S), "a lease that was given back")


def election(at):
    zk, other = start(), start()
    led, done = [], threading.Event()
    first, second = zk.Election(at, "first"), other.Election(at, "second")
    release = threading.Event()

    def lead(name):
        led.append(name)
        if name == "first":
            release.wait(LIMIT_S)
        else:
            done.set()

    threading.Thread(target=first.run, args=(lead, "first"), daemon=True).start()
    wait("the first leads", lambda: led == ["first"])
    threading.Thread(target=second.run, args=(lead, "second"), daemon=True).start()
    wait("the second stands", lambda: len(first.contenders()) == 2)
    release.set()
    same((True, ["first", "second"]), (done.wait(LIMIT_S), led), "leaders")


def queues(at):
    zk, other = start(), start()
    queue = zk.Queue(at + "/q")
    for n in range(10):
        queue.put(str(n).encode(), priority=100 if n else 50)
    same([str(n).encode() for n in range(10)], [other.Queue(at + "/q").get() for _ in range(10)], "order")
    locking = zk.LockingQueue(at + "/lq")
    locking.put_all([b"a", b"b"])
    same((b"a", True), (locking.get(timeout=LIMIT_S), locking.consume()), "an entry that is locked, then taken")
    same(1, len(locking), "what is left")


def barriers(at):
    zk, other = start(), start()
    barrier = zk.Barrier(at + "/b")
    barrier.create()
    passed = threading.Event()
    threading.Thread(target=lambda: (other.Barrier(at + "/b").wait(LIMIT_S), passed.set()), daemon=True).start()
    same(False, passed.is_set(), "it waits")
    barrier.remove()
    same(True, passed.wait(LIMIT_S), "it passes")
    inside = []

    def both(client):
        double = client.DoubleBarrier(at + "/d", 2)
        double.enter()
        inside.append(1)
        double.leave()

    threads = [threading.Thread(target=both, args=(client,), daemon=True) for client in (zk, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    same(2, len(inside), "both entered")


def counters(at):
    zk, other = start(), start()

    def add(client):
        counter = client.Counter(at)
        for _ in range(50):
            counter += 1

    threads = [threading.Thread(target=add, args=(client,)) for client in (zk, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_S)
    same(100, zk.Counter(at).value, "increments")


def parties(at):
    zk, other = start(), start()
    zk.Party(at, "a").join()
    party = other.Party(at, "b")
    party.join()
    same({"a", "b"}, set(party), "members")
    zk.stop()
    # kazoo may stop before it has closed its session: it ends after its time-out then.
    wait("who is left", lambda: set(party) == {"b"})


def caches(at):
    zk, other = start(), start()
    zk.ensure_path(at + "/a")
    values, names = [], []
    other.DataWatch(at + "/a", lambda data, stat: values.append(data))
    other.ChildrenWatch(at, lambda children: names.append(sorted(children)))
    cache = TreeCache(other, at)
    cache.start()
    for n in range(3):
        zk.set(at + "/a", str(n).encode())
        wait("the data", lambda n=n: values[-1:] == [str(n).encode()])
    zk.create(at + "/b/c", b"deep", makepath=True)
    wait("the children", lambda: names[-1:] == [["a", "b"]])
    wait("the cache", lambda: cache.get_data(at + "/b/c") is not None and cache.get_data(at + "/b/c").data == b"deep")
    zk.delete(at + "/a")
    wait("the deletion", lambda: values[-1:] == [None] and cache.get_data(at + "/a") is None)
    cache.close()


class Counter(threading.Thread):
    """Counts by sets that check the version, so that the value is the version. A set whose answer is lost is told by what it wrote: no two write the same."""

    def __init__(self, zk, path):
        super().__init__(daemon=True)
        self.zk, self.path, self.value, self.unsure, self.attempts, self.wrong, self.stopping = zk, path, 0, 0, 0, "", False

    def run(self):
        try:
            while not self.stopping:
                self.add()
                time.sleep(0.002)
        except Exception as e:  # pylint: disable=broad-except
            self.wrong = f"{type(e).__name__}: {e}"

    def add(self):
        tried = set()
        while True:
            self.attempts += 1
            data = f"{self.value + 1} {self.attempts}".encode()
            tried.add(data)
            try:
                same(self.value + 1, self.zk.set(self.path, data, version=self.value).version, "version of a set")
                break
            except ConnectionLoss:
                pass
            except BadVersionError:
                # One of those whose answer was lost came later.
                same(True, len(tried) > 1, "a set of the version that was acknowledged is refused")
            self.unsure += 1
            found, stat = synced(self.zk, self.path, self.zk.get)
            if stat.version == self.value + 1 and found in tried:
                break
            same(self.value, stat.version, f"version after an unsure set, found {found}")
        self.value += 1


def synced(zk, path, read):
    """What a read finds after `sync`; repeated while the connection is away."""
    return zk.retry(lambda: (zk.sync(path), read(path))[1])


def failover(at):
    """Everything that a client has, over the death of the leader."""
    zk, other, writer, closed, dead = start(), start(), start(), start(), start(timeout=4.0)
    for name in ("data", "untouched", "count"):
        zk.ensure_path(f"{at}/{name}")
    zk.create(at + "/e", ephemeral=True)
    closed.create(at + "/closed", ephemeral=True)
    dead.create(at + "/dead", ephemeral=True)
    for client in (zk, other, writer):
        client.sync(at)
    session, data, children, untouched = zk.client_id, [], [], []
    zk.DataWatch(at + "/data", lambda data_, stat: data.append((stat.version, data_)))
    zk.DataWatch(at + "/untouched", lambda data_, stat: untouched.append((stat.version, data_)))
    zk.ChildrenWatch(at + "/data", lambda names: children.append(sorted(names)))
    first, second, waits = zk.Lock(at + "/lock", "first"), other.Lock(at + "/lock", "second"), threading.Event()
    first.acquire(timeout=LIMIT_S)
    threading.Thread(target=lambda: second.acquire() and waits.set(), daemon=True).start()
    wait("the second waits", lambda: len(first.contenders()) == 2)
    # One session ends as it should just before, one without a word, its socket open.
    closed.stop()
    dead._connection.ping_outstanding.set()
    dead._connection._send_ping = lambda *args: None
    dead._connection._socket.close()
    dead._stopped.set()
    clients.remove(dead)
    counter = Counter(writer, at + "/count")
    counter.start()
    wait("the first writes", lambda: counter.value >= 10 or counter.wrong)
    print(json.dumps({"ready": True}), flush=True)
    if not sys.stdin.readline():
        raise EOFError("nobody said that another member leads")

    def same_session():
        same(True, synced(zk, at, zk.exists) is not None, "what was there")
        same(session, zk.client_id, "session")

    def ephemeral():
        same(session[0], synced(other, at + "/e", other.exists).ephemeralOwner, "owner")

    def watched():
        for value in (b"1", b"2"):
            version = other.retry(other.set, at + "/data", value).version
            # The watcher reads and asks again after each event.
            wait("the data", lambda version=version, value=value: data[-1:] == [(version, value)])
        same([(0, b""), (1, b"1"), (2, b"2")], data, "each change once")
        other.retry(other.ensure_path, at + "/data/one")
        wait("the child", lambda: children[-1:] == [["one"]])
        same([[], ["one"]], children, "each list once")
        same([(0, b"")], untouched, "what did not change")
        other.retry(other.set, at + "/untouched", b"1")
        wait("the other data", lambda: untouched == [(0, b""), (1, b"1")])

    def locked():
        same((True, False), (first.is_acquired, waits.is_set()), "the first holds it, the second does not")
        same(["first", "second"], zk.retry(first.contenders), "contenders")
        first.release()
        same(True, waits.wait(LIMIT_S), "it goes to the second")
        second.release()

    def written():
        before = counter.value
        wait("writes with the new leader", lambda: counter.value >= before + 10 or counter.wrong)
        counter.stopping = True
        counter.join(LIMIT_S)
        same(("", False), (counter.wrong, counter.is_alive()), "the writer")
        found, stat = synced(other, at + "/count", other.get)
        same((counter.value, str(counter.value)), (stat.version, found.decode().split()[0]), "what was acknowledged last, after a sync")

    def ended():
        same(None, synced(zk, at + "/closed", zk.exists), "the ephemeral of a session that was closed")
        wait("the end of a session that fell silent", lambda: synced(zk, at + "/dead", zk.exists) is None)

    for name, body in {"session": same_session, "ephemeral": ephemeral, "watches": watched, "lock": locked, "writes": written, "ended-sessions": ended}.items():
        run(f"failover/{at.rsplit('/', 1)[1]}/{name}", body)


if ONLY.pattern == "failover":
    for kind in ("kill", "stop"):
        before = failed
        try:
            failover(f"{PREFIX}/{kind}")
        except Exception as e:  # pylint: disable=broad-except
            run(f"failover/{kind}", lambda e=e: (_ for _ in ()).throw(e))
            break
    for client in clients:
        client.stop()
    sys.exit(1 if failed else 0)

for case_name, case_body in {
        "nodes": nodes, "modes": modes, "watches": watches, "order": order, "transactions": transactions, "acls": acls, "sessions": sessions, "expiry": expiry,
        "pipeline": pipeline, "sizes": sizes, "chroot": chroot, "words": words, "recipe/lock": locks, "recipe/read-write-lock": reads_and_writes,
        "recipe/semaphore": semaphore, "recipe/election": election, "recipe/queue": queues, "recipe/barrier": barriers, "recipe/counter": counters,
        "recipe/party": parties, "recipe/cache": caches}.items():
    case(case_name, case_body)
sys.exit(1 if failed else 0)
