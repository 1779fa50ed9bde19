"""Sends the same raw requests to two members and shows where their answers differ.

    python3 ci/clients/zookeeper/compare.py APACHE_HOST:PORT OTTLA_HOST:PORT

Both must be fresh. zxids, times and session ids differ by nature and are not compared, beyond which of a stat's are equal. Known to differ: Apache's
answer to a multiRead with a write in it has a body after its error; Apache takes an addWatch on what is no path; the number of all znodes.
Not sent, because Apache ZooKeeper 3.9.5 does not survive them: a single check, and createTTL with a mode that has no time to live.
"""

import socket
import struct
import sys


def int32(value):
    return struct.pack(">i", value)


def int64(value):
    return struct.pack(">q", value)


def boolean(value):
    return b"\1" if value else b"\0"


def string(value):
    if value is None:
        return int32(-1)
    encoded = value.encode() if isinstance(value, str) else value
    return int32(len(encoded)) + encoded


def acl(entries):
    return int32(len(entries)) + b"".join(int32(perms) + string(scheme) + string(id_) for perms, scheme, id_ in entries)


def item(kind, done, error):
    """The header of an item of a multi."""
    return int32(kind) + boolean(done) + int32(error)


OPEN = acl([(31, "world", "anyone")])
CLOSED = "closed"
STAT = struct.Struct(">qqqqiiiqiiq")


class Connection:
    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)))
        self.socket.settimeout(10)
        self.send(int32(0) + int64(0) + int32(30_000) + int64(0) + string(b"\0" * 16) + boolean(False))
        self.frame()

    def send(self, body):
        self.socket.sendall(int32(len(body)) + body)

    def exactly(self, count):
        data = b""
        while len(data) < count:
            more = self.socket.recv(count - len(data))
            if not more:
                raise EOFError
            data += more
        return data

    def frame(self):
        return self.exactly(struct.unpack(">i", self.exactly(4))[0])


def requests():
    """Names, kinds and bodies of the requests, each sent after the one before it."""
    p = "/compare"
    yield "create", 1, string(p) + string(b"x") + OPEN + int32(0)
    yield "create2", 15, string(p + "/a") + string(b"x") + OPEN + int32(0)
    yield "create null data", 15, string(p + "/nul") + string(None) + OPEN + int32(0)
    yield "get null data", 4, string(p + "/nul") + boolean(0)
    yield "dup", 15, string(p + "/a") + string(b"x") + OPEN + int32(0)
    yield "bad flags", 1, string(p + "/f") + string(b"x") + OPEN + int32(9)
    yield "ttl flags via create", 1, string(p + "/f") + string(b"x") + OPEN + int32(5)
    yield "createTTL zero", 21, string(p + "/f") + string(b"x") + OPEN + int32(5) + int64(0)
    yield "createTTL huge", 21, string(p + "/f") + string(b"x") + OPEN + int32(5) + int64(1<<41)
    yield "createTTL", 21, string(p + "/ttl") + string(b"x") + OPEN + int32(5) + int64(10000000)
    yield "container", 19, string(p + "/con") + string(b"x") + OPEN + int32(4)
    yield "exists container", 3, string(p + "/con") + boolean(0)
    yield "container flag via create", 1, string(p + "/con2") + string(b"x") + OPEN + int32(4)
    yield "createContainer with flag 0", 19, string(p + "/con3") + string(b"x") + OPEN + int32(0)
    yield "seq", 1, string(p + "/s-") + string(b"x") + OPEN + int32(2)
    yield "seq empty name", 1, string(p + "/") + string(b"x") + OPEN + int32(2)
    yield "eph", 1, string(p + "/e") + string(b"x") + OPEN + int32(1)
    yield "child of eph", 1, string(p + "/e/x") + string(b"x") + OPEN + int32(0)
    yield "create no parent", 1, string("/nope/x") + string(b"x") + OPEN + int32(0)
    yield "create root", 1, string("/") + string(b"x") + OPEN + int32(0)
    yield "create empty path", 1, string("") + string(b"x") + OPEN + int32(0)
    yield "create relative", 1, string("rel") + string(b"x") + OPEN + int32(0)
    yield "create trailing slash", 1, string(p + "/t/") + string(b"x") + OPEN + int32(0)
    yield "create dots", 1, string(p + "/..") + string(b"x") + OPEN + int32(0)
    yield "create null path", 1, string(None) + string(b"x") + OPEN + int32(0)
    yield "create empty acl", 1, string(p + "/x") + string(b"x") + acl([]) + int32(0)
    yield "create null acl", 1, string(p + "/x") + string(b"x") + int32(-1) + int32(0)
    yield "create bad acl", 1, string(p + "/x") + string(b"x") + acl([(31, "digest", "nocolon")]) + int32(0)
    yield "create bad acl no parent", 1, string("/nope/x") + string(b"x") + acl([(31, "foo", "x")]) + int32(0)
    yield "get", 4, string(p + "/a") + boolean(0)
    yield "get none", 4, string("/none") + boolean(0)
    yield "get bad path", 4, string("rel") + boolean(0)
    yield "get trailing", 4, string(p + "/") + boolean(0)
    yield "get null", 4, string(None) + boolean(0)
    yield "exists nul char", 3, string("/a\0b") + boolean(0)
    yield "exists none", 3, string("/none") + boolean(1)
    yield "exists bad", 3, string("rel") + boolean(0)
    yield "set", 5, string(p + "/a") + string(b"yy") + int32(0)
    yield "set badversion", 5, string(p + "/a") + string(b"yy") + int32(0)
    yield "set none", 5, string("/none") + string(b"yy") + int32(0)
    yield "set bad path", 5, string("rel") + string(b"yy") + int32(0)
    yield "getacl", 6, string(p + "/a")
    yield "getacl config", 6, string("/zookeeper/config")
    yield "exists config", 3, string("/zookeeper/config") + boolean(0)
    yield "exists zookeeper", 3, string("/zookeeper") + boolean(0)
    yield "set config", 5, string("/zookeeper/config") + string(b"x") + int32(-1)
    yield "getacl none", 6, string("/none")
    yield "setacl", 7, string(p + "/a") + acl([(31, "world", "anyone"), (1, "ip", "10.0.0.0/8"), (31, "world", "anyone")]) + int32(0)
    yield "getacl2", 6, string(p + "/a")
    yield "setacl badv", 7, string(p + "/a") + OPEN + int32(0)
    yield "setacl invalid", 7, string(p + "/a") + acl([]) + int32(1)
    yield "setacl invalid none", 7, string("/none") + acl([]) + int32(1)
    yield "children", 8, string(p) + boolean(0)
    yield "children2", 12, string(p + "/a") + boolean(0)
    yield "children none", 8, string("/none") + boolean(0)
    yield "sync", 9, string(p)
    yield "sync none", 9, string("/none")
    yield "sync empty", 9, string("")
    yield "delete notempty", 2, string(p) + int32(-1)
    yield "delete none", 2, string("/none") + int32(-1)
    yield "delete noparent", 2, string("/none/x") + int32(-1)
    yield "delete badv", 2, string(p + "/a") + int32(7)
    yield "delete root", 2, string("/") + int32(-1)
    yield "delete zk", 2, string("/zookeeper") + int32(-1)
    yield "delete quota", 2, string("/zookeeper/quota") + int32(-1)
    yield "delete bad", 2, string("rel") + int32(-1)
    yield "multi ok", 14, item(1, 0, -1) + string(p + "/m") + string(b"x") + OPEN + int32(0) + item(15, 0, -1) + string(p + "/m2") + string(b"") + OPEN + int32(0) + item(19, 0, -1) + string(p + "/m3") + string(b"") + OPEN + int32(4) + item(13, 0, -1) + string(p + "/m") + int32(0) + item(5, 0, -1) + string(p + "/m") + string(b"q") + int32(0) + item(2, 0, -1) + string(p + "/m") + int32(1) + item(-1, 1, -1)
    yield "multi fail", 14, item(1, 0, -1) + string(p + "/m") + string(b"x") + OPEN + int32(0) + item(13, 0, -1) + string(p + "/m") + int32(9) + item(2, 0, -1) + string(p + "/m") + int32(1) + item(-1, 1, -1)
    yield "multi empty", 14, item(-1, 1, -1)
    yield "multi bad op", 14, item(99, 0, -1) + string(p) + item(-1, 1, -1)
    yield "multi read in write", 14, item(4, 0, -1) + string(p) + boolean(0) + item(-1, 1, -1)
    yield "multiRead", 22, item(4, 0, -1) + string(p + "/a") + boolean(0) + item(8, 0, -1) + string(p + "/a") + boolean(0) + item(4, 0, -1) + string("/none") + boolean(0) + item(-1, 1, -1)
    yield "multiRead write", 22, item(2, 0, -1) + string(p) + int32(0) + item(-1, 1, -1)
    yield "multiRead empty", 22, item(-1, 1, -1)
    yield "addwatch bad mode", 106, string(p) + int32(7)
    yield "addwatch", 106, string(p) + int32(0)
    yield "addwatch none", 106, string("/nowhere") + int32(1)
    yield "addwatch bad path", 106, string("rel") + int32(1)
    yield "checkwatch", 17, string(p) + int32(4)
    yield "checkwatch any", 17, string(p) + int32(3)
    yield "checkwatch no", 17, string(p) + int32(1)
    yield "checkwatch bad", 17, string(p) + int32(9)
    yield "removewatch no", 18, string(p) + int32(2)
    yield "removewatch", 18, string(p) + int32(3)
    yield "ephemerals", 103, string("/")
    yield "ephemerals prefix", 103, string(p  +  "/q")
    yield "ephemerals null", 103, string(None)
    yield "count", 104, string(p)
    yield "count root", 104, string("/")
    yield "count none", 104, string("/none")
    yield "whoami", 107, b""
    yield "reconfig", 16, string(None) + string(None) + string(None) + int64(-1)
    yield "setwatches", 101, int64(1<<40) + int32(1) + string(p) + int32(0) + int32(0)
    yield "garbage create", 1, b"\x7f\xff\xff\xff"
    yield "garbage get", 4, b"\0\0\0\x05/a"
    yield "garbage multi", 14, b"\0\0\0\x01\0"
    yield "garbage setwatches", 101, b"\0\0"
    yield "garbage sync", 9, b"\0"
    yield "garbage delete", 2, b"\0"
    yield "garbage removewatch", 18, b"\0"
    yield "garbage ephemerals", 103, b"\0"
    yield "getMax 10?", 10, b""
    yield "unknown 77", 77, b""
    yield "after", 4, string(p) + boolean(0)


def answers(address):
    """What the member answers to each request: whether the xid is right, the error, and the body."""
    connection, found = Connection(address), []
    for xid, (name, kind, body) in enumerate(requests(), 1):
        try:
            connection.send(int32(xid) + int32(kind) + body)
            frame = connection.frame()
            answered, _zxid, error = struct.unpack(">iqi", frame[:16])
            found.append((name, (answered == xid, error, frame[16:])))
        except (EOFError, OSError):
            found.append((name, CLOSED))
            connection = Connection(address)
    return found


def comparable(answer):
    """An answer without what differs by nature."""
    if answer == CLOSED or len(answer[2]) < STAT.size:
        return answer
    right, error, body = answer
    czxid, mzxid, ctime, mtime, version, cversion, aversion, owner, length, children, pzxid = STAT.unpack(body[-STAT.size:])
    return right, error, body[:-STAT.size], version, cversion, aversion, owner != 0, length, children, czxid == mzxid, mzxid == pzxid, ctime == mtime


def main():
    differ = 0
    for (name, one), (_, other) in zip(answers(sys.argv[1]), answers(sys.argv[2])):
        # Lists of children come in any order, multis hold stats in their middle: of those only lengths and errors are compared.
        if name in ("children", "multi ok", "multiRead"):
            one, other = [(a[0], a[1], len(a[2])) for a in (one, other)]
        else:
            one, other = comparable(one), comparable(other)
        if one != other:
            differ += 1
            print(f"{name}\n    {sys.argv[1]}: {one}\n    {sys.argv[2]}: {other}")
    print(f"{differ} of {sum(1 for _ in requests())} answers differ")


main()
