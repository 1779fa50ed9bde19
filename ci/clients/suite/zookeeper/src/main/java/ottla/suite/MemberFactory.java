package ottla.suite;

import java.io.File;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.server.ServerCnxn;
import org.apache.zookeeper.server.ServerCnxnFactory;
import org.apache.zookeeper.server.ZooKeeperServer;

/**
 * What ZooKeeper's tests start in place of a server's network layer (the system property zookeeper.serverCnxnFactory): a member of ours as a process, at the
 * port that was asked for, with its data in the directory of the server that was to be. `ottla.binary` is the path of it.
 *
 * What the tests set as system properties of their server becomes keys of its configuration, as far as it has them.
 */
public final class MemberFactory extends ServerCnxnFactory {
    private static final List<String> KEYS = List.of("DigestAuthenticationProvider.superDigest", "extendedTypesEnabled", "4lw.commands.whitelist", "maxCnxns");
    private InetSocketAddress address;
    private int maxClientCnxns;
    private Process process;

    @Override
    public void configure(InetSocketAddress address, int maxClientCnxns, int backlog, boolean secure) throws IOException {
        if (secure) throw new IOException("not applicable: TLS");
        this.address = address;
        this.maxClientCnxns = maxClientCnxns;
    }

    @Override
    public void startup(ZooKeeperServer server, boolean startServer) throws IOException {
        // Beside the directory of the version, and so with the test's.
        File directory = new File(server.getTxnLogFactory().getSnapDir().getParentFile(), "ottla");
        Files.createDirectories(directory.toPath());
        Path file = directory.toPath().resolve("zoo.cfg");
        List<String> lines = new ArrayList<>(List.of("tickTime=" + server.getTickTime(), "dataDir=" + directory + "/data", "clientPort=" + address.getPort(),
            "clientPortAddress=127.0.0.1", "maxClientCnxns=" + Math.max(0, maxClientCnxns)));
        for (String key : KEYS) {
            String value = System.getProperty("zookeeper." + key);
            if (value != null) lines.add(key + "=" + value);
        }
        if (System.getProperty("jute.maxbuffer") != null) lines.add("jute.maxbuffer=" + System.getProperty("jute.maxbuffer"));
        Files.write(file, lines);
        process = new ProcessBuilder(System.getProperty("ottla.binary"), "coordinator", file.toString()).redirectErrorStream(true)
            .redirectOutput(ProcessBuilder.Redirect.appendTo(new File(directory, "log"))).start();
        // Whatever becomes of the test, no process stays.
        Process started = process;
        Runtime.getRuntime().addShutdownHook(new Thread(started::destroyForcibly));
    }

    @Override
    public void shutdown() {
        if (process == null) return;
        process.destroy();
        try {
            if (!process.waitFor(10, TimeUnit.SECONDS)) process.destroyForcibly().waitFor();
        } catch (InterruptedException e) {
            process.destroyForcibly();
            Thread.currentThread().interrupt();
        }
        process = null;
    }

    @Override
    public int getLocalPort() {
        return address.getPort();
    }

    @Override
    public InetSocketAddress getLocalAddress() {
        return address;
    }

    @Override
    public int getMaxClientCnxnsPerHost() {
        return maxClientCnxns;
    }

    @Override
    public void setMaxClientCnxnsPerHost(int max) {
        maxClientCnxns = max;
    }

    @Override
    public Iterable<ServerCnxn> getConnections() {
        return Collections.emptyList();
    }

    @Override
    public Iterable<Map<String, Object>> getAllConnectionInfo(boolean brief) {
        return Collections.emptyList();
    }

    @Override
    public void resetAllConnectionStats() {}

    @Override
    public void reconfigure(InetSocketAddress address) {
        throw new UnsupportedOperationException("not applicable: the port of a process that runs");
    }

    @Override
    public int getSocketListenBacklog() {
        return -1;
    }

    @Override
    public void closeAll(ServerCnxn.DisconnectReason reason) {
        throw new UnsupportedOperationException("not applicable: the connections of another process");
    }

    @Override
    public void join() throws InterruptedException {
        if (process != null) process.waitFor();
    }

    @Override
    public void start() {}
}
