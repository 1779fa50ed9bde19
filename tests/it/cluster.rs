//! `ottla cluster`: three real brokers with embedded members as its children: what it tells, what it starts again, how it ends, and what it refuses.

use std::path::Path;
use std::process::Command;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use super::process::{Launch, PATIENCE, Process, steady_ports, temp_dir};

/// Three configurations on this machine's free ports.
struct Files {
    home: TempDir,
    listeners: Vec<u16>,
}

impl Files {
    /// `lot` keeps the ports of tests apart that run at the same time.
    fn new(lot: u16) -> Self {
        let ports = steady_ports(lot, 6);
        let files = Self { home: temp_dir(), listeners: ports[..3].to_vec() };
        let dir = files.home.path().join("conf");
        std::fs::create_dir(&dir).unwrap();
        let servers: String = (1..=3).map(|id| format!("server.{id}=127.0.0.1:{}\n", ports[2 + id])).collect();
        for id in 1..=3 {
            let text = format!(
                "broker.id={id}\nlisteners=PLAINTEXT://127.0.0.1:{}\nlog.dirs=data/{id}\n{servers}server.id={id}\ncoordination.secret.file=data/secret\n\
                 tickTime=500\nzookeeper.session.timeout.ms=2000\ncontroller.socket.timeout.ms=3000\n",
                ports[id - 1]
            );
            std::fs::write(dir.join(format!("broker-{id}.properties")), text).unwrap();
        }
        files
    }

    fn launch(&self) -> Launch {
        Launch::bare(self.home.path()).arg("cluster").arg("conf")
    }

    /// What `ottla topic …` prints of these brokers; it must succeed.
    fn topic(&self, words: &str) -> String {
        let bootstrap: Vec<String> = self.listeners.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ottla"));
        command.arg("topic").args(words.split(' ')).arg("--bootstrap-server").arg(bootstrap.join(","));
        let output = command.output().unwrap();
        assert!(output.status.success(), "ottla topic {words}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn says(&self, id: i32) -> String {
        std::fs::read_to_string(self.home.path().join(format!("data/{id}.log"))).unwrap_or_default()
    }
}

/// A line that says this, told after the first `after` lines; and how many lines there were up to it.
fn told(cluster: &Process, after: usize, text: &str) -> (String, usize) {
    cluster.wait_for_text_after(after, text)
}

/// The number that follows `word` in a line.
fn number(line: &str, word: &str) -> i32 {
    let rest = line.split(word).nth(1).unwrap_or_else(|| panic!("no '{word}' in: {line}"));
    rest.split(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()).and_then(|part| part.parse().ok()).unwrap_or_else(|| panic!("no number in: {line}"))
}

fn pid(cluster: &Process, id: i32) -> Pid {
    let (line, _) = told(cluster, 0, &format!("broker {id} is ready"));
    Pid::from_raw(number(&line, "process ")).unwrap()
}

fn interrupt(cluster: &Process) {
    kill_process(Pid::from_raw(cluster.pid() as i32).unwrap(), Signal::INT).unwrap();
}

/// Waits for the end of a process that is not this test's own child.
fn wait_until_gone(pid: Pid) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while test_kill_process(pid).is_ok() {
        assert!(std::time::Instant::now() < deadline, "process {pid:?} still runs");
        std::thread::yield_now();
    }
}

#[test]
fn the_controller_dies_another_takes_over_and_ctrl_c_stops_all_in_order() {
    let files = Files::new(20);
    let mut cluster = files.launch().spawn();
    told(&cluster, 0, "all 3 brokers are ready");
    let (line, _) = told(&cluster, 0, "is the controller");
    let first = number(&line, "broker ");
    assert!(files.topic("create t --partitions 3 --replication-factor 1").starts_with("Created topic t"));
    told(&cluster, 0, "topic t has 3 partitions, 1 copy of each");
    let listed = files.topic("list");
    assert_eq!(listed.lines().count(), 3, "{listed}");
    for (partition, line) in listed.lines().enumerate() {
        let leader = number(line, "leader: ");
        assert_eq!(line, format!("topic: t\tpartition: {partition}\tleader: {leader}\treplicas: {leader}\tisr: {leader}"));
    }
    assert_eq!(files.topic("list --names"), "t\n");
    assert_eq!(files.topic("list --unavailable"), "");

    kill_process(pid(&cluster, first), Signal::KILL).unwrap();
    let (_, died) = told(&cluster, 0, &format!("broker {first} has died (killed by signal 9); it is started again"));
    told(&cluster, died, &format!("broker {first} is ready after"));
    // Whoever it is now, a topic can be made: there is a controller.
    assert!(files.topic("create u --partitions 1 --replication-factor 1").starts_with("Created topic u"));
    told(&cluster, died, "topic u has 1 partition, 1 copy of each");

    interrupt(&cluster);
    cluster.wait_exit_code(0);
    for id in 1..=3 {
        told(&cluster, died, &format!("broker {id} has stopped"));
        assert!(files.says(id).contains("stopped"), "broker {id} said: {}", files.says(id));
    }
}

#[test]
fn without_a_restart_the_others_elect_another_controller() {
    let files = Files::new(21);
    let mut cluster = files.launch().arg("--no-restart").spawn();
    told(&cluster, 0, "all 3 brokers are ready");
    let first = number(&told(&cluster, 0, "is the controller").0, "broker ");
    kill_process(pid(&cluster, first), Signal::KILL).unwrap();
    let (line, died) = told(&cluster, 0, &format!("broker {first} has died"));
    assert!(line.contains(&format!("it is left down: start it by `ottla broker conf/broker-{first}.properties`")), "{line}");
    let (line, _) = told(&cluster, died, "is the controller");
    assert_ne!(number(&line, "broker "), first, "{line}");
    told(&cluster, died, &format!("broker {first} is no longer part of the cluster"));
    assert!(files.topic("create t --partitions 2 --replication-factor 1").starts_with("Created topic t"));

    interrupt(&cluster);
    cluster.wait_exit_code(0);
    let stopped = cluster.stdout().iter().filter(|line| line.contains("has stopped")).count();
    assert_eq!(stopped, 2, "{}", cluster.text());
}

#[test]
fn brokers_stop_when_whoever_started_them_is_killed() {
    let files = Files::new(22);
    let mut cluster = files.launch().spawn();
    told(&cluster, 0, "all 3 brokers are ready");
    let pids = [1, 2, 3].map(|id| pid(&cluster, id));
    cluster.kill();
    pids.into_iter().for_each(wait_until_gone);
    for id in 1..=3 {
        assert!(files.says(id).contains("stopped"), "in order; broker {id} said: {}", files.says(id));
    }
}

fn refused(home: &Path, cluster: &Launch, words: &[&str]) {
    let mut cluster = cluster.spawn();
    cluster.wait_exit_code(1);
    let told = cluster.stderr().join("\n");
    for word in words {
        assert!(told.contains(word), "no '{word}' in: {told}");
    }
    assert!(!home.join("data").exists(), "nothing was started");
}

#[test]
fn what_cannot_be_a_cluster_is_refused_before_anything_starts() {
    let files = Files::new(23);
    let (home, conf) = (files.home.path(), files.home.path().join("conf"));
    std::fs::create_dir(home.join("empty")).unwrap();
    refused(home, &Launch::bare(home).arg("cluster").arg("empty"), &["'empty' has no *.properties"]);
    refused(home, &Launch::bare(home).arg("cluster").arg("absent"), &["there is no directory 'absent'"]);
    refused(home, &Launch::bare(home).arg("cluster").arg("conf/broker-1.properties"), &["is no directory", "ottla broker conf/broker-1.properties"]);

    let held = std::net::TcpListener::bind(("127.0.0.1", files.listeners[1])).unwrap();
    refused(home, &files.launch(), &["conf/broker-2.properties", &files.listeners[1].to_string(), "in use", "Nothing of conf was started"]);
    drop(held);

    std::fs::copy(conf.join("broker-1.properties"), conf.join("copy.properties")).unwrap();
    refused(home, &files.launch(), &["conf/broker-1.properties and conf/copy.properties both have broker.id=1"]);
    std::fs::write(conf.join("copy.properties"), "broker.id=4\nlog.dris=x\n").unwrap();
    refused(home, &files.launch(), &["conf/copy.properties:2: log.dris=x: no such key"]);
}
