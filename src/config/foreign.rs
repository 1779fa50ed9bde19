//! Keys of Kafka's that Ottla does not act on: told of once at start, so that a file that runs Kafka starts Ottla too, or refused,
//! where going on would be another service than the one that was asked for.

/// What becomes of a key that is Kafka's and not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// Accepted and told of.
    NoEffect {
        /// Why it has none.
        why: &'static str,
    },
    /// An error.
    Refused {
        /// Values that ask for nothing and are accepted, in any case.
        unless: &'static [&'static str],
        /// Why, and what to use instead.
        what: &'static str,
    },
}

const KRAFT_REFUSED: &str = "there is no KRaft here: one process is a whole broker that coordinates itself; remove process.roles and the controller.* keys, and set node.id, listeners and log.dirs";
const POLICY: &str = "Java classes cannot be loaded here; remove the key";

const REFUSED: &[(&str, &[&str], &str)] = &[
    ("advertised.host.name", &[], "Kafka 3 removed it; use advertised.listeners=PLAINTEXT://host:port"),
    ("advertised.port", &[], "Kafka 3 removed it; use advertised.listeners=PLAINTEXT://host:port"),
    ("alter.config.policy.class.name", &[""], POLICY),
    (
        "authorizer.class.name",
        &[""],
        "this release has no ACLs, and leaving the key unheeded would open what it closes; remove it, and let only trusted clients reach the listeners",
    ),
    ("client.quota.callback.class", &[""], POLICY),
    ("config.providers", &[""], POLICY),
    ("control.plane.listener.name", &[""], "Kafka 4 removed it; use inter.broker.listener.name"),
    ("controller.listener.names", &[""], KRAFT_REFUSED),
    ("controller.quorum.bootstrap.servers", &[""], KRAFT_REFUSED),
    ("controller.quorum.voters", &[""], KRAFT_REFUSED),
    ("create.topic.policy.class.name", &[""], POLICY),
    ("early.start.listeners", &[""], "it concerns an authorizer, and this release has none; remove it"),
    ("host.name", &[], "Kafka 3 removed it; use listeners=PLAINTEXT://host:port"),
    ("max.connections.per.ip.overrides", &[""], "this release has one limit for all addresses; use max.connections.per.ip"),
    ("port", &[], "Kafka 3 removed it; use listeners=PLAINTEXT://host:port"),
    ("principal.builder.class", &["", "org.apache.kafka.common.security.authenticator.DefaultKafkaPrincipalBuilder"], POLICY),
    ("process.roles", &[""], KRAFT_REFUSED),
    ("remote.log.storage.system.enable", &["", "false"], "this release has no tiered storage; set it to false or remove it"),
    ("security.inter.broker.protocol", &["", "PLAINTEXT"], "this release has neither TLS nor SASL; set it to PLAINTEXT or remove it"),
    ("zookeeper.metadata.migration.enable", &["", "false"], "there is no KRaft here to migrate to; remove it"),
];

const KRAFT: &[&str] = &[
    "broker.heartbeat.interval.ms",
    "broker.session.timeout.ms",
    "controller.performance.always.log.threshold.ms",
    "controller.performance.sample.period.ms",
    "controller.quorum.append.linger.ms",
    "controller.quorum.auto.join.enable",
    "controller.quorum.election.backoff.max.ms",
    "controller.quorum.election.timeout.ms",
    "controller.quorum.fetch.max.bytes",
    "controller.quorum.fetch.snapshot.max.bytes",
    "controller.quorum.fetch.timeout.ms",
    "controller.quorum.request.timeout.ms",
    "controller.quorum.retry.backoff.ms",
    "eligible.leader.replicas.enable",
    "initial.broker.registration.timeout.ms",
    "internal.metadata.delete.delay.millis",
    "internal.metadata.log.segment.bytes",
    "internal.metadata.max.batch.size.in.bytes",
    "metadata.log.dir",
    "metadata.log.max.record.bytes.between.snapshots",
    "metadata.log.max.snapshot.interval.ms",
    "metadata.log.segment.bytes",
    "metadata.log.segment.min.bytes",
    "metadata.log.segment.ms",
    "metadata.max.idle.interval.ms",
    "metadata.max.retention.bytes",
    "metadata.max.retention.ms",
    "server.max.startup.time.ms",
    "unclean.leader.election.interval.ms",
    "unstable.api.versions.enable",
    "unstable.feature.versions.enable",
];
const ZOOKEEPER: &[&str] = &[
    "zookeeper.clientCnxnSocket",
    "zookeeper.metadata.migration.min.batch.size",
    "zookeeper.ssl.cipher.suites",
    "zookeeper.ssl.client.enable",
    "zookeeper.ssl.crl.enable",
    "zookeeper.ssl.enabled.protocols",
    "zookeeper.ssl.endpoint.identification.algorithm",
    "zookeeper.ssl.keystore.location",
    "zookeeper.ssl.keystore.password",
    "zookeeper.ssl.keystore.type",
    "zookeeper.ssl.ocsp.enable",
    "zookeeper.ssl.protocol",
    "zookeeper.ssl.truststore.location",
    "zookeeper.ssl.truststore.password",
    "zookeeper.ssl.truststore.type",
];
const TLS_SASL: &[&str] = &[
    "connection.failed.authentication.delay.ms",
    "connections.max.reauth.ms",
    "delegation.token.expiry.check.interval.ms",
    "delegation.token.expiry.time.ms",
    "delegation.token.master.key",
    "delegation.token.max.lifetime.ms",
    "delegation.token.secret.key",
    "password.encoder.cipher.algorithm",
    "password.encoder.iterations",
    "password.encoder.key.length",
    "password.encoder.keyfactory.algorithm",
    "password.encoder.old.secret",
    "password.encoder.secret",
    "sasl.client.callback.handler.class",
    "sasl.enabled.mechanisms",
    "sasl.jaas.config",
    "sasl.kerberos.kinit.cmd",
    "sasl.kerberos.min.time.before.relogin",
    "sasl.kerberos.principal.to.local.rules",
    "sasl.kerberos.service.name",
    "sasl.kerberos.ticket.renew.jitter",
    "sasl.kerberos.ticket.renew.window.factor",
    "sasl.login.callback.handler.class",
    "sasl.login.class",
    "sasl.login.connect.timeout.ms",
    "sasl.login.read.timeout.ms",
    "sasl.login.refresh.buffer.seconds",
    "sasl.login.refresh.min.period.seconds",
    "sasl.login.refresh.window.factor",
    "sasl.login.refresh.window.jitter",
    "sasl.login.retry.backoff.max.ms",
    "sasl.login.retry.backoff.ms",
    "sasl.mechanism.controller.protocol",
    "sasl.mechanism.inter.broker.protocol",
    "sasl.oauthbearer.allow.unverified.audience",
    "sasl.oauthbearer.allow.unverified.issuer",
    "sasl.oauthbearer.assertion.algorithm",
    "sasl.oauthbearer.assertion.claim.aud",
    "sasl.oauthbearer.assertion.claim.exp.seconds",
    "sasl.oauthbearer.assertion.claim.iss",
    "sasl.oauthbearer.assertion.claim.jti.include",
    "sasl.oauthbearer.assertion.claim.nbf.seconds",
    "sasl.oauthbearer.assertion.claim.sub",
    "sasl.oauthbearer.assertion.file",
    "sasl.oauthbearer.assertion.private.key.file",
    "sasl.oauthbearer.assertion.private.key.passphrase",
    "sasl.oauthbearer.assertion.template.file",
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.clock.skew.seconds",
    "sasl.oauthbearer.expected.audience",
    "sasl.oauthbearer.expected.issuer",
    "sasl.oauthbearer.jwks.endpoint.refresh.ms",
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.max.ms",
    "sasl.oauthbearer.jwks.endpoint.retry.backoff.ms",
    "sasl.oauthbearer.jwks.endpoint.url",
    "sasl.oauthbearer.jwt.retriever.class",
    "sasl.oauthbearer.jwt.validator.class",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.scope.claim.name",
    "sasl.oauthbearer.sub.claim.name",
    "sasl.oauthbearer.token.endpoint.url",
    "sasl.server.callback.handler.class",
    "sasl.server.max.receive.size",
    "security.providers",
    "ssl.allow.dn.changes",
    "ssl.allow.san.changes",
    "ssl.cipher.suites",
    "ssl.client.auth",
    "ssl.enabled.protocols",
    "ssl.endpoint.identification.algorithm",
    "ssl.engine.factory.class",
    "ssl.key.password",
    "ssl.keymanager.algorithm",
    "ssl.keystore.certificate.chain",
    "ssl.keystore.key",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.keystore.type",
    "ssl.principal.mapping.rules",
    "ssl.protocol",
    "ssl.provider",
    "ssl.secure.random.implementation",
    "ssl.trustmanager.algorithm",
    "ssl.truststore.certificates",
    "ssl.truststore.location",
    "ssl.truststore.password",
    "ssl.truststore.type",
];
const CLEANER: &[&str] = &[
    "log.cleaner.backoff.ms",
    "log.cleaner.dedupe.buffer.size",
    "log.cleaner.enable",
    "log.cleaner.io.buffer.load.factor",
    "log.cleaner.io.buffer.size",
    "log.cleaner.io.max.bytes.per.second",
    "log.cleaner.threads",
];
const TIERED: &[&str] = &[
    "follower.fetch.last.tiered.offset.enable",
    "log.remote.copy.lag.bytes",
    "log.remote.copy.lag.ms",
    "remote.fetch.max.wait.ms",
    "remote.list.offsets.request.timeout.ms",
    "remote.log.index.file.cache.total.size.bytes",
    "remote.log.index.file.cache.ttl.ms",
    "remote.log.manager.copier.thread.pool.size",
    "remote.log.manager.copy.max.bytes.per.second",
    "remote.log.manager.copy.quota.window.num",
    "remote.log.manager.copy.quota.window.size.seconds",
    "remote.log.manager.expiration.thread.pool.size",
    "remote.log.manager.fetch.max.bytes.per.second",
    "remote.log.manager.fetch.quota.window.num",
    "remote.log.manager.fetch.quota.window.size.seconds",
    "remote.log.manager.follower.thread.pool.size",
    "remote.log.manager.task.interval.ms",
    "remote.log.manager.task.retry.backoff.max.ms",
    "remote.log.manager.task.retry.backoff.ms",
    "remote.log.manager.task.retry.jitter",
    "remote.log.manager.thread.pool.size",
    "remote.log.metadata.custom.metadata.max.bytes",
    "remote.log.metadata.manager.class.name",
    "remote.log.metadata.manager.class.path",
    "remote.log.metadata.manager.impl.prefix",
    "remote.log.metadata.manager.listener.name",
    "remote.log.reader.max.pending.tasks",
    "remote.log.reader.threads",
    "remote.log.storage.manager.class.name",
    "remote.log.storage.manager.class.path",
    "remote.log.storage.manager.impl.prefix",
];
const NEW_GROUPS: &[&str] = &[
    "errors.deadletterqueue.auto.create.topics.enable",
    "errors.deadletterqueue.topic.name.prefix",
    "group.consumer.assignment.interval.ms",
    "group.consumer.assignor.offload.enable",
    "group.consumer.assignors",
    "group.consumer.heartbeat.interval.ms",
    "group.consumer.max.assignment.interval.ms",
    "group.consumer.max.heartbeat.interval.ms",
    "group.consumer.max.session.timeout.ms",
    "group.consumer.max.size",
    "group.consumer.migration.policy",
    "group.consumer.min.assignment.interval.ms",
    "group.consumer.min.heartbeat.interval.ms",
    "group.consumer.min.session.timeout.ms",
    "group.consumer.regex.refresh.interval.ms",
    "group.consumer.session.timeout.ms",
    "group.share.assignment.interval.ms",
    "group.share.assignor.offload.enable",
    "group.share.assignors",
    "group.share.delivery.count.limit",
    "group.share.dlq.manager.class.name",
    "group.share.enable",
    "group.share.heartbeat.interval.ms",
    "group.share.initialize.retry.interval.ms",
    "group.share.max.assignment.interval.ms",
    "group.share.max.delivery.count.limit",
    "group.share.max.groups",
    "group.share.max.heartbeat.interval.ms",
    "group.share.max.partition.max.record.locks",
    "group.share.max.record.lock.duration.ms",
    "group.share.max.session.timeout.ms",
    "group.share.max.share.sessions",
    "group.share.max.size",
    "group.share.min.assignment.interval.ms",
    "group.share.min.delivery.count.limit",
    "group.share.min.heartbeat.interval.ms",
    "group.share.min.partition.max.record.locks",
    "group.share.min.record.lock.duration.ms",
    "group.share.min.session.timeout.ms",
    "group.share.partition.max.record.locks",
    "group.share.persister.class.name",
    "group.share.record.lock.duration.ms",
    "group.share.session.timeout.ms",
    "group.streams.acceptable.recovery.lag",
    "group.streams.assignment.interval.ms",
    "group.streams.assignor.offload.enable",
    "group.streams.assignors",
    "group.streams.heartbeat.interval.ms",
    "group.streams.initial.rebalance.delay.ms",
    "group.streams.max.assignment.interval.ms",
    "group.streams.max.heartbeat.interval.ms",
    "group.streams.max.session.timeout.ms",
    "group.streams.max.size",
    "group.streams.max.standby.replicas",
    "group.streams.max.warmup.replicas",
    "group.streams.min.assignment.interval.ms",
    "group.streams.min.heartbeat.interval.ms",
    "group.streams.min.session.timeout.ms",
    "group.streams.min.task.offset.interval.ms",
    "group.streams.num.standby.replicas",
    "group.streams.num.warmup.replicas",
    "group.streams.rack.aware.assignment.tags",
    "group.streams.session.timeout.ms",
    "group.streams.task.offset.interval.ms",
    "group.streams.topology.description.plugin.class",
    "share.coordinator.append.linger.ms",
    "share.coordinator.cached.buffer.max.bytes",
    "share.coordinator.cold.partition.snapshot.interval.ms",
    "share.coordinator.load.buffer.size",
    "share.coordinator.snapshot.update.records.per.snapshot",
    "share.coordinator.state.topic.compression.codec",
    "share.coordinator.state.topic.min.isr",
    "share.coordinator.state.topic.num.partitions",
    "share.coordinator.state.topic.prune.interval.ms",
    "share.coordinator.state.topic.replication.factor",
    "share.coordinator.state.topic.segment.bytes",
    "share.coordinator.threads",
    "share.coordinator.write.timeout.ms",
    "share.fetch.purgatory.purge.interval.requests",
];
const QUOTAS: &[&str] = &[
    "alter.log.dirs.replication.quota.window.num",
    "alter.log.dirs.replication.quota.window.size.seconds",
    "controller.quota.window.num",
    "controller.quota.window.size.seconds",
    "max.connection.creation.rate",
    "quota.window.num",
    "quota.window.size.seconds",
    "replication.quota.window.num",
    "replication.quota.window.size.seconds",
];
const METRICS: &[&str] = &[
    "auto.include.jmx.reporter",
    "kafka.metrics.polling.interval.secs",
    "kafka.metrics.reporters",
    "metric.reporters",
    "metrics.num.samples",
    "metrics.recording.level",
    "metrics.sample.window.ms",
    "telemetry.max.bytes",
];
const THREADS: &[&str] = &[
    "delete.records.purgatory.purge.interval.requests",
    "fetch.purgatory.purge.interval.requests",
    "group.coordinator.append.linger.ms",
    "group.coordinator.background.threads",
    "group.coordinator.cached.buffer.max.bytes",
    "group.coordinator.threads",
    "num.io.threads",
    "num.network.threads",
    "num.replica.alter.log.dirs.threads",
    "producer.purgatory.purge.interval.requests",
];
const REMOVED: &[&str] = &[
    "alter.config.policy.kraft.compatibility.enable",
    "broker.id.generation.enable",
    "controlled.shutdown.max.retries",
    "controlled.shutdown.retry.backoff.ms",
    "group.coordinator.new.enable",
    "inter.broker.protocol.version",
    "leader.imbalance.per.broker.percentage",
    "log.message.downconversion.enable",
    "log.message.format.version",
    "log.message.timestamp.difference.max.ms",
    "offsets.commit.required.acks",
    "reserved.broker.max.id",
];
const OTHER: &[&str] = &[
    "add.partitions.to.txn.retry.backoff.max.ms",
    "add.partitions.to.txn.retry.backoff.ms",
    "cordoned.log.dirs",
    "group.coordinator.rebalance.protocols",
    "log.dir.failure.timeout.ms",
    "log.initial.task.delay.ms",
    "max.decompressed.message.bytes",
    "replica.socket.receive.buffer.bytes",
    "socket.connection.setup.timeout.max.ms",
    "socket.connection.setup.timeout.ms",
    "transaction.two.phase.commit.enable",
];

const NO_EFFECT: &[(&str, &[&str])] = &[
    ("there is no KRaft quorum here; the cluster is coordinated as with ZooKeeper, by the broker itself", KRAFT),
    ("this release keeps its coordination in the broker itself", ZOOKEEPER),
    ("this release has neither TLS nor SASL", TLS_SASL),
    ("this release has no log cleaner, and refuses compacted topics", CLEANER),
    ("this release has no tiered storage", TIERED),
    ("this release has classic consumer groups only", NEW_GROUPS),
    ("this release has no quotas", QUOTAS),
    ("metrics are not reported by Java classes here", METRICS),
    ("tasks share the processor without pools of threads to size", THREADS),
    ("Kafka 4 removed them, and newer rules took their place", REMOVED),
    ("nothing here depends on them", OTHER),
];

const NO_OBSERVERS: &str = "there are no observers here: every server takes part in consensus; remove it";
const NO_TLS: &str = "ZooKeeper's TLS is not supported yet; remove it, set clientPort, and let only trusted clients reach that, or put a TLS proxy before it";

const NO_SASL: &str = "ZooKeeper's SASL and certificates are not supported yet, and leaving the key unheeded would let everybody in; remove it, \
                       let only trusted clients reach clientPort, and protect znodes by ACLs of the schemes digest and ip";
const NO_CERTIFICATES: &str = "ZooKeeper's certificates are not supported yet; remove it, and give administrators DigestAuthenticationProvider.superDigest";
const NO_SASL_USERS: &str = "ZooKeeper's SASL is not supported yet; remove it, and give administrators DigestAuthenticationProvider.superDigest";

const ZOOKEEPERS_REFUSED: &[(&str, &[&str], &str)] = &[
    ("DigestAuthenticationProvider.digestAlg", &["", "SHA1"], "digests are SHA1 here, as ZooKeeper's default; remove it, and make the digests anew"),
    ("DigestAuthenticationProvider.enabled", &["", "true"], "the scheme digest is always there; remove it"),
    ("X509AuthenticationProvider.superUser", &[""], NO_CERTIFICATES),
    ("dynamicConfigFile", &[""], "the servers are named in this file; put its server.N lines here and remove the key"),
    ("enforce.auth.enabled", &["", "false"], NO_SASL),
    ("enforce.auth.schemes", &[""], NO_SASL),
    ("localSessionsEnabled", &["", "false"], "every session is known to all members here; remove it"),
    ("peerType", &["", "participant"], NO_OBSERVERS),
    ("readonlymode.enabled", &["", "false"], "a member without a quorum serves nobody here; remove it"),
    ("requireClientAuthScheme", &[""], NO_SASL),
    ("secureClientPort", &["", "-1"], NO_TLS),
    ("secureClientPortAddress", &[""], NO_TLS),
    ("sessionRequireClientSASLAuth", &["", "false"], NO_SASL),
    ("skipACL", &["", "no"], "access control lists are always heeded here; remove it, or give administrators DigestAuthenticationProvider.superDigest"),
    ("sslQuorum", &["", "false"], "ZooKeeper's TLS is not supported yet; members know each other by coordination.secret.file, and seal every frame; remove it"),
    ("superUser", &["", "super"], NO_SASL_USERS),
];

const ZOOKEEPERS_LIMITS: &[&str] = &["cnxTimeout", "connectToLearnerMasterLimit", "initLimit", "leaderServes", "syncLimit", "quorum.cnxn.threads.size"];
const ZOOKEEPERS_ALWAYS: &[&str] = &["autopurge.purgeInterval", "electionAlg", "forceSync", "standaloneEnabled", "syncEnabled"];
const ZOOKEEPERS_SASL_TLS: &[&str] =
    &["allowSaslFailedClients", "client.certReload", "fips-mode", "jaasLoginRenew", "letAnySaslUserDoX", "portUnification", "sslQuorumReloadCertFiles"];
const ZOOKEEPERS_OTHER: &[&str] = &[
    "admin.idleTimeout",
    "admin.portUnification",
    "clientPortListenBacklog",
    "flushDelay",
    "fsync.warningthresholdms",
    "globalOutstandingLimit",
    "localSessionsUpgradingEnabled",
    "maxBatchSize",
    "maxResponseCacheSize",
    "observerMasterPort",
    "preAllocSize",
    "snapSizeLimitInKb",
    "snapshot.trust.empty",
    "zookeeper.serverCnxnFactory",
];

const ZOOKEEPERS_NO_EFFECT: &[(&str, &[&str])] = &[
    ("members find out by themselves how long the others take: an election begins after about a second of silence", ZOOKEEPERS_LIMITS),
    ("it is always done the safe way here: transactions are synced, old snapshots are removed", ZOOKEEPERS_ALWAYS),
    (NEITHER, ZOOKEEPERS_SASL_TLS),
    ("nothing here depends on them", ZOOKEEPERS_OTHER),
];

/// What is not to be had of them is told by the keys that ask for it.
const NEITHER: &str =
    "ZooKeeper's TLS and SASL are not supported yet: clients come in the clear, and show who they are by digest or ip; members use coordination.secret.file";

/// Keys of a `zoo.cfg` by how they begin.
const ZOOKEEPERS_PREFIXES: &[(&str, Foreign)] = &[
    ("authProvider", Foreign::NoEffect { why: "Java classes cannot be loaded here; the schemes are world, auth, digest, ip and super" }),
    ("group.", Foreign::Refused { unless: &[""], what: "there are no groups here: a majority of all servers decides; remove it" }),
    ("kerberos.", Foreign::NoEffect { why: NEITHER }),
    ("metricsProvider.", Foreign::NoEffect { why: "metrics are told by the four-letter word mntr" }),
    ("multiAddress.", Foreign::NoEffect { why: "a server has one address here" }),
    ("quorum.auth.", Foreign::NoEffect { why: "members know each other by coordination.secret.file" }),
    ("sasl.", Foreign::NoEffect { why: NEITHER }),
    ("ssl.", Foreign::NoEffect { why: NEITHER }),
    ("weight.", Foreign::Refused { unless: &["", "1"], what: "there are no weights here: a majority of all servers decides; remove it" }),
];

/// What becomes of `key`, if ZooKeeper's `zoo.cfg` has it and Ottla does not.
pub fn find_zookeepers(key: &str) -> Option<Foreign> {
    if let Some((_, unless, what)) = ZOOKEEPERS_REFUSED.iter().find(|(name, ..)| *name == key) {
        return Some(Foreign::Refused { unless, what });
    }
    let by_prefix = || ZOOKEEPERS_PREFIXES.iter().find(|(prefix, _)| key.starts_with(prefix)).map(|(_, becomes)| *becomes);
    ZOOKEEPERS_NO_EFFECT.iter().find(|(_, names)| names.contains(&key)).map(|(why, _)| Foreign::NoEffect { why }).or_else(by_prefix)
}

/// All of these keys that are no prefixes.
pub fn zookeepers_names() -> impl Iterator<Item = &'static str> {
    ZOOKEEPERS_REFUSED.iter().map(|(name, ..)| *name).chain(ZOOKEEPERS_NO_EFFECT.iter().flat_map(|(_, names)| names.iter().copied()))
}

/// What becomes of `key`, if Kafka has it and Ottla does not. Keys for one listener (`listener.name.X.…`) go with TLS and SASL.
pub fn find(key: &str) -> Option<Foreign> {
    if let Some((_, unless, what)) = REFUSED.iter().find(|(name, ..)| *name == key) {
        return Some(Foreign::Refused { unless, what });
    }
    if key.starts_with("listener.name.") {
        return Some(Foreign::NoEffect { why: "this release has neither TLS nor SASL" });
    }
    NO_EFFECT.iter().find(|(_, names)| names.contains(&key)).map(|(why, _)| Foreign::NoEffect { why })
}

/// All of these keys.
pub fn names() -> impl Iterator<Item = &'static str> {
    REFUSED.iter().map(|(name, ..)| *name).chain(NO_EFFECT.iter().flat_map(|(_, names)| names.iter().copied()))
}

/// Whether the value of `key` is a secret that messages must not repeat. Also right for misspelt keys, as far as words tell.
pub fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    // A file's name is none.
    key != "coordination.secret.file"
        && ["passw", "secret", "jaas", "passphrase", "keystore.key", "master.key", "private.key", "superdigest"].iter().any(|word| key.contains(word))
}
