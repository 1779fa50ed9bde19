package org.apache.zookeeper.test;

import java.util.HashSet;
import java.util.Set;
import javax.management.MBeanServerConnection;
import javax.management.ObjectName;

/** In place of the class of this name in ZooKeeper's tests, which waits for the management beans of a server in the same process: there is none. */
public class JMXEnv {
    public static void setUp() {}

    public static void tearDown() {}

    public static MBeanServerConnection conn() {
        throw new UnsupportedOperationException("the server is no Java process");
    }

    public static Set<ObjectName> ensureAll(String... names) {
        return new HashSet<>();
    }

    public static Set<ObjectName> ensureOnly(String... names) {
        return new HashSet<>();
    }

    public static void ensureNone(String... names) {}

    public static void dump() {}

    public static Set<ObjectName> ensureParent(String... names) {
        return new HashSet<>();
    }
}
