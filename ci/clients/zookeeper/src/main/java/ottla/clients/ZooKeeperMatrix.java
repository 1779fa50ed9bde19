package ottla.clients;

import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.atomic.DistributedAtomicLong;
import org.apache.curator.framework.recipes.cache.CuratorCache;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.framework.recipes.locks.InterProcessSemaphoreV2;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.curator.retry.ExponentialBackoffRetry;
import org.apache.curator.retry.RetryOneTime;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.KeeperException.Code;
import org.apache.zookeeper.Op;
import org.apache.zookeeper.OpResult;
import org.apache.zookeeper.WatchedEvent;
import org.apache.zookeeper.Watcher;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.Watcher.WatcherType;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/**
 * The matrix of ZooKeeper's Java client and of Curator's recipes in one process: one JSON line per case on standard output, logs on standard error.
 * Arguments: address of the member (clientPort) or a list of them, prefix of paths, and optionally a pattern of the cases to run. With the pattern
 * `failover` it takes part in the death of a leader instead, as {@link Failover} says.
 */
public final class ZooKeeperMatrix {
    static final int LIMIT_S = 30;
    final String host;
    private final String prefix;
    private final Pattern only;
    final List<AutoCloseable> open = new ArrayList<>();
    private int failed;

    /** What a case does below a path of its own; it fails by throwing. */
    interface Body {
        void run(String at) throws Exception;
    }

    interface Call {
        void run() throws Exception;
    }

    /** A watcher that keeps what it is told. */
    static final class Seen implements Watcher {
        final BlockingQueue<WatchedEvent> events = new LinkedBlockingQueue<>();

        @Override
        public void process(WatchedEvent event) {
            if (event.getType() != EventType.None) events.add(event);
        }

        void want(EventType type, String path) throws InterruptedException {
            WatchedEvent event = events.poll(LIMIT_S, TimeUnit.SECONDS);
            same(type + " " + path, event == null ? "nothing" : event.getType() + " " + event.getPath(), "event");
        }
    }

    private ZooKeeperMatrix(String host, String prefix, Pattern only) {
        this.host = host;
        this.prefix = prefix;
        this.only = only;
    }

    public static void main(String[] args) throws Exception {
        String name = args[1].replaceAll("-+$", "");
        ZooKeeperMatrix m = new ZooKeeperMatrix(args[0], "/" + name, Pattern.compile(args.length > 2 ? args[2] : ""));
        try (ZooKeeper zk = m.connect()) {
            zk.create(m.prefix, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        }
        if (m.only.pattern().equals("failover")) {
            new Failover(m, m.prefix).run();
            System.exit(m.failed == 0 ? 0 : 1);
        }
        m.check("nodes", m::nodes);
        m.check("lifetimes", m::lifetimes);
        m.check("multi", m::multi);
        m.check("watches", m::watches);
        m.check("persistent-watches", m::persistentWatches);
        m.check("acl", m::acl);
        m.check("session-moves", m::sessionMoves);
        m.check("reconnect", m::reconnect);
        m.check("shell", m::shell);
        m.check("curator/mutex", m::mutex);
        m.check("curator/read-write-lock", m::readWriteLock);
        m.check("curator/semaphore", m::semaphore);
        m.check("curator/leader-latch", m::leaderLatch);
        m.check("curator/cache", m::cache);
        m.check("curator/counter", m::counter);
        m.check("curator/persistent-node", m::persistentNode);
        System.exit(m.failed == 0 ? 0 : 1);
    }

    private void check(String name, Body body) throws Exception {
        if (!only.matcher(name).find()) return;
        String at = prefix + "/" + name.replace('/', '-');
        run(name, () -> {
            try (ZooKeeper zk = connect()) {
                zk.create(at, new byte[0], Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
                body.run(at);
            }
        });
        Collections.reverse(open);
        for (AutoCloseable it : open) it.close();
        open.clear();
    }

    /** Runs a body and says how it went. */
    void run(String name, Call body) {
        long from = System.nanoTime();
        String error = null;
        try {
            body.run();
        } catch (Throwable e) {
            error = e + Arrays.stream(e.getStackTrace()).filter(f -> f.getClassName().startsWith("ottla")).map(f -> " < " + f.getLineNumber()).collect(Collectors.joining());
            failed++;
        }
        String version = System.getProperty("zookeeper.version");
        String detail = error == null ? "" : error.replace("\\", "\\\\").replace("\"", "\\\"").replace("\n", " ").replace("\t", " ");
        System.out.printf("{\"client\": \"zookeeper\", \"version\": \"%s\", \"case\": \"%s\", \"ok\": %s, \"ms\": %d, \"detail\": \"%s\"}%n",
            version, name, error == null, (System.nanoTime() - from) / 1_000_000, detail);
        System.out.flush();
    }

    static void same(Object expected, Object found, String what) {
        if (!Objects.equals(expected, found)) throw new AssertionError(what + ": expected " + expected + ", found " + found);
    }

    static void refused(Code code, Call call) throws Exception {
        try {
            call.run();
        } catch (KeeperException e) {
            same(code, e.code(), "error");
            return;
        }
        throw new AssertionError("expected " + code + ", and nothing was refused");
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private ZooKeeper connect() throws Exception {
        return connect(0, null);
    }

    private ZooKeeper connect(long session, byte[] password) throws Exception {
        CountDownLatch connected = new CountDownLatch(1);
        Watcher watcher = event -> {
            if (event.getState() == KeeperState.SyncConnected) connected.countDown();
        };
        ZooKeeper zk = session == 0 ? new ZooKeeper(host, 30_000, watcher) : new ZooKeeper(host, 30_000, watcher, session, password);
        if (!connected.await(LIMIT_S, TimeUnit.SECONDS)) throw new AssertionError("not connected within " + LIMIT_S + " s: " + zk.getState());
        return zk;
    }

    ZooKeeper client() throws Exception {
        ZooKeeper zk = connect();
        open.add(zk);
        return zk;
    }

    CuratorFramework curator() throws Exception {
        CuratorFramework curator = CuratorFrameworkFactory.newClient(host, 30_000, LIMIT_S * 1000, new ExponentialBackoffRetry(50, 10));
        curator.start();
        open.add(curator);
        if (!curator.blockUntilConnected(LIMIT_S, TimeUnit.SECONDS)) throw new AssertionError("curator is not connected");
        return curator;
    }

    private void nodes(String at) throws Exception {
        ZooKeeper zk = client();
        Stat stat = new Stat();
        same(at + "/a", zk.create(at + "/a", bytes("1"), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT, stat), "path");
        same("0 0 0 1 0", stat.getVersion() + " " + stat.getCversion() + " " + stat.getAversion() + " " + stat.getDataLength() + " " + stat.getNumChildren(), "stat");
        same(true, stat.getCzxid() == stat.getMzxid() && stat.getCzxid() == stat.getPzxid() && stat.getCtime() == stat.getMtime(), "stat of a new znode");
        same(at + "/s-0000000001", zk.create(at + "/s-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL_SEQUENTIAL), "sequential");
        same(1, zk.setData(at + "/a", bytes("22"), 0).getVersion(), "version");
        same("22", new String(zk.getData(at + "/a", false, stat), StandardCharsets.UTF_8), "data");
        same(List.of("a", "s-0000000001"), zk.getChildren(at, false, stat).stream().sorted().toList(), "children");
        same(2, stat.getCversion(), "cversion");
        same(2, zk.getAllChildrenNumber(at), "all children");
        same(List.of(at + "/s-0000000001"), zk.getEphemerals(), "ephemerals");
        same(List.of(), zk.getEphemerals("/elsewhere"), "ephemerals elsewhere");
        refused(Code.BADVERSION, () -> zk.setData(at + "/a", null, 7));
        refused(Code.NODEEXISTS, () -> zk.create(at + "/a", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
        refused(Code.NONODE, () -> zk.getData(at + "/none", false, null));
        refused(Code.NOTEMPTY, () -> zk.delete(at, -1));
        refused(Code.NOCHILDRENFOREPHEMERALS, () -> zk.create(at + "/s-0000000001/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
        same(null, zk.exists(at + "/none", false), "what is not there");
        CountDownLatch synced = new CountDownLatch(1);
        zk.sync(at, (code, path, context) -> synced.countDown(), null);
        same(true, synced.await(LIMIT_S, TimeUnit.SECONDS), "sync");
        List<OpResult> read = zk.multi(List.of(Op.getData(at + "/a"), Op.getChildren(at), Op.getData(at + "/none")));
        same("22", new String(((OpResult.GetDataResult) read.get(0)).getData(), StandardCharsets.UTF_8), "multiRead");
        same(2, ((OpResult.GetChildrenResult) read.get(1)).getChildren().size(), "multiRead of children");
        same(Code.NONODE.intValue(), ((OpResult.ErrorResult) read.get(2)).getErr(), "multiRead of what is not there");
        zk.delete(at + "/a", 1);
    }

    private void lifetimes(String at) throws Exception {
        ZooKeeper zk = client();
        Stat stat = new Stat();
        zk.create(at + "/c", null, Ids.OPEN_ACL_UNSAFE, CreateMode.CONTAINER, stat);
        same(0L, stat.getEphemeralOwner(), "a container is no session's");
        Seen seen = new Seen();
        zk.create(at + "/t", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_WITH_TTL, stat, 300);
        same(0L, stat.getEphemeralOwner(), "nor is what has a time to live");
        same(at + "/ts-0000000002", zk.create(at + "/ts-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL_WITH_TTL, stat, 100_000), "path");
        zk.exists(at + "/t", seen);
        zk.exists(at + "/c", seen);
        zk.create(at + "/c/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        zk.delete(at + "/c/x", -1);
        List<String> gone = new ArrayList<>();
        for (int i = 0; i < 2; i++) {
            WatchedEvent event = seen.events.poll(2L * LIMIT_S, TimeUnit.SECONDS);
            gone.add(event == null ? "nothing" : event.getType() + " " + event.getPath());
        }
        same(List.of("NodeDeleted " + at + "/c", "NodeDeleted " + at + "/t"), gone.stream().sorted().toList(), "what the service deletes");
    }

    private void multi(String at) throws Exception {
        ZooKeeper zk = client();
        List<OpResult> results = zk.multi(List.of(Op.create(at + "/a", bytes("1"), Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT), Op.check(at + "/a", 0),
            Op.setData(at + "/a", bytes("2"), 0), Op.create(at + "/s-", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT_SEQUENTIAL), Op.delete(at + "/a", 1)));
        same(at + "/a", ((OpResult.CreateResult) results.get(0)).getPath(), "path");
        same(1, ((OpResult.SetDataResult) results.get(2)).getStat().getVersion(), "version");
        same(at + "/s-0000000001", ((OpResult.CreateResult) results.get(3)).getPath(), "sequential path");
        try {
            zk.multi(List.of(Op.create(at + "/b", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT), Op.check(at, 9), Op.delete(at + "/b", 0)));
            throw new AssertionError("it was to fail");
        } catch (KeeperException e) {
            List<Integer> codes = e.getResults().stream().map(r -> ((OpResult.ErrorResult) r).getErr()).toList();
            same(List.of(0, Code.BADVERSION.intValue(), Code.RUNTIMEINCONSISTENCY.intValue()), codes, "codes");
        }
        same(null, zk.exists(at + "/b", false), "all or nothing");
    }

    private void watches(String at) throws Exception {
        ZooKeeper zk = client();
        ZooKeeper other = client();
        Seen data = new Seen();
        Seen children = new Seen();
        Seen later = new Seen();
        zk.create(at + "/a", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        other.getData(at + "/a", data, null);
        other.getChildren(at, children);
        other.exists(at + "/later", later);
        zk.setData(at + "/a", bytes("1"), -1);
        zk.create(at + "/later", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        data.want(EventType.NodeDataChanged, at + "/a");
        later.want(EventType.NodeCreated, at + "/later");
        children.want(EventType.NodeChildrenChanged, at);
        other.getData(at + "/a", data, null);
        other.removeWatches(at + "/a", data, WatcherType.Data, false);
        WatchedEvent removed = data.events.poll(LIMIT_S, TimeUnit.SECONDS);
        same(EventType.DataWatchRemoved, removed == null ? null : removed.getType(), "removal");
        refused(Code.NOWATCHER, () -> other.removeWatches(at + "/a", data, WatcherType.Data, false));
        other.exists(at + "/later", later);
        zk.close();
        later.want(EventType.NodeDeleted, at + "/later");
    }

    private void persistentWatches(String at) throws Exception {
        ZooKeeper zk = client();
        ZooKeeper other = client();
        Seen one = new Seen();
        Seen all = new Seen();
        // A client of its own: before 3.9 a client tells all its watchers of a path what one of them is told.
        client().addWatch(at, one, AddWatchMode.PERSISTENT);
        other.addWatch(at, all, AddWatchMode.PERSISTENT_RECURSIVE);
        for (int i = 0; i < 3; i++) {
            zk.create(at + "/" + i, null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            zk.create(at + "/" + i + "/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
            one.want(EventType.NodeChildrenChanged, at);
            all.want(EventType.NodeCreated, at + "/" + i);
            all.want(EventType.NodeCreated, at + "/" + i + "/x");
        }
        zk.setData(at, bytes("1"), -1);
        one.want(EventType.NodeDataChanged, at);
        all.want(EventType.NodeDataChanged, at);
        other.removeWatches(at, all, WatcherType.Any, false);
    }

    private void acl(String at) throws Exception {
        ZooKeeper zk = client();
        ZooKeeper other = client();
        refused(Code.INVALIDACL, () -> zk.create(at + "/x", null, Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT));
        zk.addAuthInfo("digest", bytes("bob:secret"));
        zk.create(at + "/mine", bytes("m"), Ids.CREATOR_ALL_ACL, CreateMode.PERSISTENT);
        same("bob", zk.whoAmI().stream().filter(who -> who.getAuthScheme().equals("digest")).findFirst().orElseThrow().getUser(), "whoAmI");
        refused(Code.NOAUTH, () -> other.getData(at + "/mine", false, null));
        refused(Code.NOAUTH, () -> other.setACL(at + "/mine", Ids.OPEN_ACL_UNSAFE, -1));
        same(1, zk.setACL(at + "/mine", Ids.READ_ACL_UNSAFE, 0).getAversion(), "aversion");
        same(Ids.READ_ACL_UNSAFE, other.getACL(at + "/mine", new Stat()), "ACL");
        same("m", new String(other.getData(at + "/mine", false, null), StandardCharsets.UTF_8), "what everyone may read");
        refused(Code.NOAUTH, () -> zk.setData(at + "/mine", null, -1));
    }

    /** A second handle on the same session: what a client does that comes back over another connection. */
    private void sessionMoves(String at) throws Exception {
        ZooKeeper zk = client();
        zk.create(at + "/e", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        try (ZooKeeper again = connect(zk.getSessionId(), zk.getSessionPasswd())) {
            same(zk.getSessionId(), again.getSessionId(), "session");
            same(zk.getSessionId(), again.exists(at + "/e", false).getEphemeralOwner(), "owner");
        }
        same(null, client().exists(at + "/e", false), "closed by the second");
    }

    /** Forwards connections to the member, or to the first of several that answers, and can break them all. */
    static final class Proxy implements AutoCloseable {
        private final ServerSocket listener = new ServerSocket(0, 10, InetAddress.getLoopbackAddress());
        private final List<Socket> sockets = Collections.synchronizedList(new ArrayList<>());
        private volatile boolean closed;

        Proxy(String hosts) throws IOException {
            daemon(() -> {
                while (true) {
                    Socket in = listener.accept();
                    // While it is cut, connections end at once.
                    Socket out = closed ? null : connect(hosts);
                    if (out == null) {
                        in.close();
                        continue;
                    }
                    sockets.addAll(List.of(in, out));
                    daemon(() -> in.getInputStream().transferTo(out.getOutputStream()));
                    daemon(() -> out.getInputStream().transferTo(in.getOutputStream()));
                }
            });
        }

        private static Socket connect(String hosts) {
            for (String host : hosts.split(",")) {
                int colon = host.lastIndexOf(':');
                try {
                    return new Socket(host.substring(0, colon), Integer.parseInt(host.substring(colon + 1)));
                } catch (IOException e) {
                    // Another one, then.
                }
            }
            return null;
        }

        private static void daemon(Call body) {
            Thread thread = new Thread(() -> {
                try {
                    body.run();
                } catch (Exception e) {
                    // A broken connection is what this is for.
                }
            });
            thread.setDaemon(true);
            thread.start();
        }

        String address() {
            return "127.0.0.1:" + listener.getLocalPort();
        }

        void cut(boolean cut) throws IOException {
            closed = cut;
            for (Socket socket : new ArrayList<>(sockets)) socket.close();
            sockets.clear();
        }

        @Override
        public void close() throws IOException {
            cut(true);
            listener.close();
        }
    }

    /** The connection breaks: the client comes back to its session, sets its watches again, and is told what it missed. */
    private void reconnect(String at) throws Exception {
        Proxy proxy = new Proxy(host);
        open.add(proxy);
        BlockingQueue<KeeperState> states = new LinkedBlockingQueue<>();
        ZooKeeper zk = new ZooKeeper(proxy.address(), 30_000, event -> states.add(event.getState()));
        open.add(zk);
        same(KeeperState.SyncConnected, states.poll(LIMIT_S, TimeUnit.SECONDS), "state");
        ZooKeeper other = client();
        for (String name : List.of("changed", "same", "gone")) other.create(at + "/" + name, null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        zk.create(at + "/e", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        long session = zk.getSessionId();
        Seen changed = new Seen();
        Seen unchanged = new Seen();
        Seen gone = new Seen();
        Seen later = new Seen();
        Seen children = new Seen();
        Seen recursive = new Seen();
        zk.getData(at + "/changed", changed, null);
        zk.getData(at + "/same", unchanged, null);
        zk.getChildren(at + "/gone", gone);
        zk.exists(at + "/later", later);
        zk.getChildren(at, children);
        zk.addWatch(at + "/same", recursive, AddWatchMode.PERSISTENT_RECURSIVE);
        proxy.cut(true);
        same(KeeperState.Disconnected, states.poll(LIMIT_S, TimeUnit.SECONDS), "state");
        other.setData(at + "/changed", bytes("1"), -1);
        other.delete(at + "/gone", -1);
        proxy.cut(false);
        same(KeeperState.SyncConnected, states.poll(LIMIT_S, TimeUnit.SECONDS), "state");
        same(session, zk.getSessionId(), "session");
        changed.want(EventType.NodeDataChanged, at + "/changed");
        gone.want(EventType.NodeDeleted, at + "/gone");
        children.want(EventType.NodeChildrenChanged, at);
        same(session, zk.exists(at + "/e", false).getEphemeralOwner(), "the ephemeral");
        same(0, unchanged.events.size() + later.events.size(), "events of what did not change");
        other.setData(at + "/same", bytes("1"), -1);
        other.create(at + "/same/below", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        other.create(at + "/later", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        unchanged.want(EventType.NodeDataChanged, at + "/same");
        recursive.want(EventType.NodeDataChanged, at + "/same");
        recursive.want(EventType.NodeCreated, at + "/same/below");
        later.want(EventType.NodeCreated, at + "/later");
    }

    /** ZooKeeper's own shell, zkCli. */
    private void shell(String at) throws Exception {
        for (String[] line : new String[][] {{"create", at + "/a", "hello"}, {"set", at + "/a", "there"}, {"get", "-s", at + "/a"}, {"ls", "-R", at}, {"stat", at + "/a"},
            {"getAcl", at + "/a"}, {"deleteall", at + "/a"}}) {
            List<String> command = new ArrayList<>(List.of(ProcessHandle.current().info().command().orElse("java"), "-cp", System.getProperty("java.class.path"),
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "org.apache.zookeeper.ZooKeeperMain", "-server", host));
            command.addAll(List.of(line));
            Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
            String said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
            same(0, process.waitFor(), String.join(" ", line) + " said " + said);
            if (line[0].equals("get") && !said.contains("there")) throw new AssertionError("get said " + said);
        }
        same(null, client().exists(at + "/a", false), "deleted by the shell");
    }

    private void mutex(String at) throws Exception {
        InterProcessMutex first = new InterProcessMutex(curator(), at + "/lock");
        InterProcessMutex second = new InterProcessMutex(curator(), at + "/lock");
        same(true, first.acquire(LIMIT_S, TimeUnit.SECONDS), "the first");
        same(false, second.acquire(300, TimeUnit.MILLISECONDS), "the second, meanwhile");
        first.release();
        same(true, second.acquire(LIMIT_S, TimeUnit.SECONDS), "the second");
        second.release();
        AtomicInteger inside = new AtomicInteger();
        List<Thread> threads = new ArrayList<>();
        List<Throwable> wrong = Collections.synchronizedList(new ArrayList<>());
        for (int i = 0; i < 4; i++) {
            InterProcessMutex lock = new InterProcessMutex(curator(), at + "/crowd");
            threads.add(new Thread(() -> {
                try {
                    for (int n = 0; n < 10; n++) {
                        lock.acquire();
                        same(1, inside.incrementAndGet(), "holders");
                        inside.decrementAndGet();
                        lock.release();
                    }
                } catch (Throwable e) {
                    wrong.add(e);
                }
            }));
        }
        threads.forEach(Thread::start);
        for (Thread thread : threads) thread.join(LIMIT_S * 1000L);
        same(List.of(), wrong, "a crowd");
    }

    private void readWriteLock(String at) throws Exception {
        InterProcessReadWriteLock one = new InterProcessReadWriteLock(curator(), at + "/lock");
        InterProcessReadWriteLock two = new InterProcessReadWriteLock(curator(), at + "/lock");
        same(true, one.readLock().acquire(LIMIT_S, TimeUnit.SECONDS) && two.readLock().acquire(LIMIT_S, TimeUnit.SECONDS), "two readers");
        one.readLock().release();
        same(false, one.writeLock().acquire(300, TimeUnit.MILLISECONDS), "a writer beside a reader");
        two.readLock().release();
        same(true, one.writeLock().acquire(LIMIT_S, TimeUnit.SECONDS), "a writer");
    }

    private void semaphore(String at) throws Exception {
        InterProcessSemaphoreV2 semaphore = new InterProcessSemaphoreV2(curator(), at + "/leases", 2);
        InterProcessSemaphoreV2 other = new InterProcessSemaphoreV2(curator(), at + "/leases", 2);
        var one = semaphore.acquire(LIMIT_S, TimeUnit.SECONDS);
        other.acquire(LIMIT_S, TimeUnit.SECONDS);
        same(null, other.acquire(300, TimeUnit.MILLISECONDS), "a third lease of two");
        semaphore.returnLease(one);
        same(true, other.acquire(LIMIT_S, TimeUnit.SECONDS) != null, "a lease that was given back");
    }

    private void leaderLatch(String at) throws Exception {
        CuratorFramework mortal = curator();
        LeaderLatch first = new LeaderLatch(mortal, at + "/latch", "first");
        first.start();
        same(true, first.await(LIMIT_S, TimeUnit.SECONDS), "the first leads");
        LeaderLatch second = new LeaderLatch(curator(), at + "/latch", "second");
        second.start();
        same("first", second.getLeader().getId(), "leader");
        mortal.close();
        same(true, second.await(LIMIT_S, TimeUnit.SECONDS), "the second leads when the first is gone");
        second.close();
    }

    private void cache(String at) throws Exception {
        CuratorFramework writer = curator();
        CuratorCache cache = CuratorCache.build(curator(), at);
        open.add(cache);
        BlockingQueue<String> seen = new LinkedBlockingQueue<>();
        cache.listenable().addListener((type, before, after) -> seen.add(type + " " + (after == null ? before : after).getPath()));
        cache.start();
        same("NODE_CREATED " + at, seen.poll(LIMIT_S, TimeUnit.SECONDS), "the root");
        writer.create().forPath(at + "/a", bytes("1"));
        same("NODE_CREATED " + at + "/a", seen.poll(LIMIT_S, TimeUnit.SECONDS), "creation");
        writer.setData().forPath(at + "/a", bytes("2"));
        same("NODE_CHANGED " + at + "/a", seen.poll(LIMIT_S, TimeUnit.SECONDS), "change");
        writer.delete().forPath(at + "/a");
        same("NODE_DELETED " + at + "/a", seen.poll(LIMIT_S, TimeUnit.SECONDS), "deletion");
    }

    private void counter(String at) throws Exception {
        CuratorFramework curator = curator();
        DistributedAtomicLong counter = new DistributedAtomicLong(curator, at + "/n", new RetryOneTime(10));
        for (int i = 0; i < 20; i++) same(true, counter.increment().succeeded(), "increment");
        same(20L, counter.get().postValue(), "value");
    }

    private void persistentNode(String at) throws Exception {
        CuratorFramework curator = curator();
        PersistentNode node = new PersistentNode(curator, CreateMode.EPHEMERAL, false, at + "/p", bytes("x"));
        node.start();
        open.add(node);
        same(true, node.waitForInitialCreate(LIMIT_S, TimeUnit.SECONDS), "made");
        ZooKeeper zk = client();
        Seen seen = new Seen();
        zk.delete(at + "/p", -1);
        if (zk.exists(at + "/p", seen) == null) seen.want(EventType.NodeCreated, at + "/p");
    }
}
