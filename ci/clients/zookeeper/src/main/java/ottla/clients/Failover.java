package ottla.clients;

import static ottla.clients.ZooKeeperMatrix.LIMIT_S;
import static ottla.clients.ZooKeeperMatrix.bytes;
import static ottla.clients.ZooKeeperMatrix.same;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.OutputStreamWriter;
import java.io.Writer;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.nodes.PersistentNode;
import org.apache.zookeeper.AddWatchMode;
import org.apache.zookeeper.CreateMode;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher.Event.EventType;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooDefs.Ids;
import org.apache.zookeeper.ZooKeeper;
import org.apache.zookeeper.data.Stat;

/**
 * What clients keep over the death of the leader: ZooKeeper's own, Curator's recipes, and the shell.
 *
 * For each of two rounds (`kill`: SIGKILL, `stop`: SIGTERM) it sets up sessions with all that is theirs, prints {"ready": true}, goes on writing, and waits for a
 * line on standard input, which says that the leader has gone and another one leads. Then it looks at what is left, a case for each.
 */
final class Failover {
    private final ZooKeeperMatrix matrix;
    private final String prefix;
    private final BufferedReader told = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));

    Failover(ZooKeeperMatrix matrix, String prefix) {
        this.matrix = matrix;
        this.prefix = prefix;
    }

    interface Ask<T> {
        T ask() throws Exception;
    }

    /** Asks again while the connection is away: for what may be repeated. */
    static <T> T again(Ask<T> ask) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(LIMIT_S);
        while (true) {
            try {
                return ask.ask();
            } catch (KeeperException.ConnectionLossException e) {
                if (System.nanoTime() > end) throw e;
                Thread.sleep(20);
            }
        }
    }

    private static void sync(ZooKeeper zk, String path) throws Exception {
        BlockingQueue<Integer> done = new LinkedBlockingQueue<>();
        zk.sync(path, (code, at, context) -> done.add(code), null);
        Integer code = done.poll(LIMIT_S, TimeUnit.SECONDS);
        if (code == null) throw new AssertionError("sync: no answer within " + LIMIT_S + " s");
        if (code != 0) throw KeeperException.create(KeeperException.Code.get(code), path);
    }

    /** Something that another thread brings about. */
    private static void await(String what, Ask<Boolean> holds) throws Exception {
        long end = System.nanoTime() + TimeUnit.SECONDS.toNanos(LIMIT_S);
        while (!holds.ask()) {
            if (System.nanoTime() > end) throw new AssertionError(what + ": not within " + LIMIT_S + " s");
            Thread.sleep(10);
        }
    }

    /** Counts by sets that check the version, so that the value is the version. A set whose answer is lost is told by what it wrote: no two write the same. */
    private static final class Counter extends Thread {
        private final ZooKeeper zk;
        private final String path;
        volatile int value;
        volatile boolean stopping;
        volatile String wrong = "";
        private int attempts;

        Counter(ZooKeeper zk, String path) {
            this.zk = zk;
            this.path = path;
            setDaemon(true);
        }

        @Override
        public void run() {
            try {
                while (!stopping) {
                    add();
                    sleep(2);
                }
            } catch (Throwable e) {
                wrong = e.toString();
            }
        }

        private void add() throws Exception {
            Set<String> tried = new HashSet<>();
            while (true) {
                String data = (value + 1) + " " + ++attempts;
                tried.add(data);
                try {
                    same(value + 1, zk.setData(path, bytes(data), value).getVersion(), "version of a set");
                    break;
                } catch (KeeperException.ConnectionLossException e) {
                    // It may have been done, and may be done later.
                } catch (KeeperException.BadVersionException e) {
                    if (tried.size() == 1) throw new AssertionError("a set of version " + value + ", which was acknowledged, is refused");
                }
                Stat stat = new Stat();
                String found = again(() -> {
                    sync(zk, path);
                    return new String(zk.getData(path, false, stat), StandardCharsets.UTF_8);
                });
                if (stat.getVersion() == value + 1 && tried.contains(found)) break;
                same(value, stat.getVersion(), "version after an unsure set, found " + found);
            }
            value++;
        }
    }

    /** ZooKeeper's shell, which is told line by line and stays connected. */
    private static final class Shell implements AutoCloseable {
        private final Process process;
        private final Writer in;
        private final BlockingQueue<String> said = new LinkedBlockingQueue<>();

        Shell(String hosts) throws IOException {
            process = new ProcessBuilder(ProcessHandle.current().info().command().orElse("java"), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-cp", System.getProperty("java.class.path"),
                "-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-Dzookeeper.jline.disable=true", "org.apache.zookeeper.ZooKeeperMain", "-waitforconnection", "-timeout", "10000",
                "-server", hosts).redirectErrorStream(true).start();
            in = new OutputStreamWriter(process.getOutputStream(), StandardCharsets.UTF_8);
            Thread thread = new Thread(() -> new BufferedReader(new InputStreamReader(process.getInputStream(), StandardCharsets.UTF_8)).lines().forEach(said::add));
            thread.setDaemon(true);
            thread.start();
        }

        void tell(String line) throws IOException {
            in.write(line + "\n");
            in.flush();
        }

        /** Writes a line and waits for a line with these words. It is told again if the shell says that the connection is away. */
        void tell(String line, String expected) throws Exception {
            tell(line);
            List<String> lines = new ArrayList<>();
            for (String it = said.poll(LIMIT_S, TimeUnit.SECONDS); it != null; it = said.poll(LIMIT_S, TimeUnit.SECONDS)) {
                lines.add(it);
                if (it.contains(expected)) return;
                if (it.contains("ConnectionLoss")) {
                    Thread.sleep(100);
                    tell(line);
                }
            }
            throw new AssertionError("'" + line + "' did not bring '" + expected + "': " + lines);
        }

        @Override
        public void close() throws Exception {
            process.destroyForcibly().waitFor();
        }
    }

    void run() throws Exception {
        for (String round : List.of("kill", "stop")) {
            try {
                round(round, prefix + "/" + round);
            } catch (Throwable e) {
                matrix.run("failover/" + round, () -> {
                    throw new AssertionError(e);
                });
                return;
            }
        }
    }

    private void round(String round, String at) throws Exception {
        ZooKeeper zk = matrix.client();
        ZooKeeper other = matrix.client();
        ZooKeeper writer = matrix.client();
        zk.create(at, null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        for (String name : List.of("data", "untouched", "count", "below")) zk.create(at + "/" + name, null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT);
        zk.create(at + "/e", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        sync(other, at);
        sync(writer, at);
        long session = zk.getSessionId();
        ZooKeeperMatrix.Seen data = new ZooKeeperMatrix.Seen();
        ZooKeeperMatrix.Seen children = new ZooKeeperMatrix.Seen();
        ZooKeeperMatrix.Seen untouched = new ZooKeeperMatrix.Seen();
        ZooKeeperMatrix.Seen later = new ZooKeeperMatrix.Seen();
        ZooKeeperMatrix.Seen recursive = new ZooKeeperMatrix.Seen();
        zk.getData(at + "/data", data, null);
        zk.getChildren(at + "/data", children);
        zk.getData(at + "/untouched", untouched, null);
        zk.exists(at + "/later", later);
        zk.addWatch(at + "/below", recursive, AddWatchMode.PERSISTENT_RECURSIVE);
        // One session ends as it should just before, one without a word.
        try (ZooKeeper closed = matrix.client()) {
            closed.create(at + "/closed", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        }
        ZooKeeperMatrix.Proxy proxy = new ZooKeeperMatrix.Proxy(matrix.host);
        CountDownLatch connected = new CountDownLatch(1);
        ZooKeeper dead = new ZooKeeper(proxy.address(), 4000, event -> {
            if (event.getState() == KeeperState.SyncConnected) connected.countDown();
        });
        same(true, connected.await(LIMIT_S, TimeUnit.SECONDS), "connected");
        dead.create(at + "/dead", null, Ids.OPEN_ACL_UNSAFE, CreateMode.EPHEMERAL);
        sync(zk, at);

        CuratorFramework curator = matrix.curator();
        CuratorFramework second = matrix.curator();
        InterProcessMutex held = new InterProcessMutex(curator, at + "/lock");
        InterProcessMutex wanted = new InterProcessMutex(second, at + "/lock");
        held.acquire();
        BlockingQueue<String> got = new LinkedBlockingQueue<>();
        Thread waiting = new Thread(() -> {
            try {
                wanted.acquire();
                got.add("");
                wanted.release();
            } catch (Throwable e) {
                got.add(e.toString());
            }
        });
        waiting.setDaemon(true);
        waiting.start();
        await("the second waits", () -> held.getParticipantNodes().size() == 2);
        LeaderLatch latch = new LeaderLatch(curator, at + "/latch", "first");
        LeaderLatch candidate = new LeaderLatch(second, at + "/latch", "second");
        latch.start();
        same(true, latch.await(LIMIT_S, TimeUnit.SECONDS), "the first leads");
        candidate.start();
        await("the second stands", () -> latch.getParticipants().size() == 2);
        PersistentNode node = new PersistentNode(curator, CreateMode.EPHEMERAL, false, at + "/p", bytes("x"));
        node.start();
        same(true, node.waitForInitialCreate(LIMIT_S, TimeUnit.SECONDS), "a persistent node");
        long curators = curator.getZookeeperClient().getZooKeeper().getSessionId();

        Shell shell = new Shell(matrix.host);
        matrix.open.add(shell);
        shell.tell("create -e " + at + "/shell hello", "Created " + at + "/shell");
        long shells = again(() -> {
            sync(zk, at);
            return zk.exists(at + "/shell", false).getEphemeralOwner();
        });
        Counter counter = new Counter(writer, at + "/count");
        counter.start();
        await("the first writes", () -> counter.value >= 10 || !counter.wrong.isEmpty());
        proxy.cut(true);
        System.out.println("{\"ready\": true}");
        System.out.flush();
        if (told.readLine() == null) throw new IOException("nobody said that another member leads");

        String name = "failover/" + round + "/";
        matrix.run(name + "session", () -> {
            same(true, again(() -> zk.exists(at, false)) != null, "what was there");
            same(session, zk.getSessionId(), "session");
        });
        matrix.run(name + "ephemeral", () -> same(session, again(() -> {
            sync(other, at);
            return other.exists(at + "/e", false).getEphemeralOwner();
        }), "owner"));
        matrix.run(name + "watches", () -> {
            // Each change twice: the watch is told once, of the first.
            for (String value : List.of("1", "2")) again(() -> other.setData(at + "/data", bytes(value), -1));
            again(() -> other.create(at + "/data/one", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            again(() -> other.create(at + "/below/x", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            again(() -> other.setData(at + "/below/x", null, -1));
            again(() -> other.create(at + "/later", null, Ids.OPEN_ACL_UNSAFE, CreateMode.PERSISTENT));
            data.want(EventType.NodeDataChanged, at + "/data");
            children.want(EventType.NodeChildrenChanged, at + "/data");
            recursive.want(EventType.NodeCreated, at + "/below/x");
            recursive.want(EventType.NodeDataChanged, at + "/below/x");
            later.want(EventType.NodeCreated, at + "/later");
            same(0, untouched.events.size(), "events of what did not change");
            again(() -> other.setData(at + "/untouched", bytes("1"), -1));
            untouched.want(EventType.NodeDataChanged, at + "/untouched");
            // Events come in order: behind the last one, nothing more can come of those before it.
            same(0, data.events.size() + children.events.size() + later.events.size() + recursive.events.size(), "events that came twice");
        });
        matrix.run(name + "curator/mutex", () -> {
            same(0, got.size(), "how often the second has got it beside the first");
            same(true, held.isOwnedByCurrentThread(), "the first holds it");
            held.release();
            same("", got.poll(LIMIT_S, TimeUnit.SECONDS), "what the second got");
        });
        matrix.run(name + "curator/leader-latch", () -> {
            await("the first leads again", latch::hasLeadership);
            same(false, candidate.hasLeadership(), "the second leads beside the first");
            latch.close();
            same(true, candidate.await(LIMIT_S, TimeUnit.SECONDS), "the second leads");
            candidate.close();
        });
        matrix.run(name + "curator/persistent-node", () -> {
            same(curators, curator.getZookeeperClient().getZooKeeper().getSessionId(), "Curator's session");
            same(curators, again(() -> {
                sync(other, at);
                return other.exists(at + "/p", false).getEphemeralOwner();
            }), "owner");
            node.close();
        });
        matrix.run(name + "shell", () -> {
            shell.tell("get " + at + "/shell", "hello");
            same(shells, again(() -> {
                sync(other, at);
                return other.exists(at + "/shell", false).getEphemeralOwner();
            }), "owner");
            // It says nothing to this.
            shell.tell("set " + at + "/shell there");
            shell.tell("get " + at + "/shell", "there");
        });
        matrix.run(name + "writes", () -> {
            int before = counter.value;
            await("writes with the new leader", () -> counter.value >= before + 10 || !counter.wrong.isEmpty());
            counter.stopping = true;
            counter.join(LIMIT_S * 1000L);
            same("", counter.wrong, "the writer");
            Stat stat = new Stat();
            String found = again(() -> {
                sync(other, at);
                return new String(other.getData(at + "/count", false, stat), StandardCharsets.UTF_8);
            });
            same(counter.value + " " + counter.value, stat.getVersion() + " " + found.split(" ")[0], "what was acknowledged last, after a sync");
        });
        matrix.run(name + "ended-sessions", () -> {
            same(null, again(() -> {
                sync(zk, at);
                return zk.exists(at + "/closed", false);
            }), "the ephemeral of a session that was closed");
            await("the end of a session that fell silent", () -> again(() -> {
                sync(zk, at);
                return zk.exists(at + "/dead", false) == null;
            }));
        });
    }
}
