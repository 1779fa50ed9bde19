//! Ensembles of real `ottla coordinator` processes: how they form, what they survive, how members come and go, and what they refuse.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use ottla::coordination::acl::Acl;
use ottla::coordination::jute::{Reader, Writer};
use ottla::coordination::protocol::opcode;
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use tempfile::TempDir;

use super::coordination::{connect, say, try_ask};
use super::process::{Launch, PATIENCE, Process, steady_ports, temp_dir};

/// What clients ask for. A member that does not answer within it is given up.
const SESSION_MS: i32 = 6_000;

const BAD_VERSION: i32 = -103;

/// Three servers on this machine, some of which may run.
struct Ensemble {
    home: TempDir,
    peers: Vec<u16>,
    clients: Vec<u16>,
    members: Vec<Option<Process>>,
}

impl Ensemble {
    /// None runs. `lot` keeps the ports of tests apart that run at the same time.
    fn new(lot: u16) -> Self {
        let ports = steady_ports(lot, 6);
        Self { home: temp_dir(), peers: ports[..3].to_vec(), clients: ports[3..].to_vec(), members: vec![None, None, None] }
    }

    /// All run.
    fn start(lot: u16) -> Self {
        let mut ensemble = Self::new(lot);
        for at in 0..3 {
            ensemble.spawn(at);
        }
        (0..3).for_each(|at| ensemble.wait_until_it_serves(at));
        ensemble
    }

    fn dir(&self, at: usize) -> PathBuf {
        self.home.path().join(format!("m{}", at + 1))
    }

    fn secret(&self) -> PathBuf {
        self.home.path().join("ensemble.secret")
    }

    fn launch(&self, at: usize) -> Launch {
        let launch = Launch::bare(self.home.path())
            .arg("coordinator")
            .option("tickTime", 500)
            .option("dataDir", self.dir(at).display())
            .option("clientPort", self.clients[at])
            .option("clientPortAddress", "127.0.0.1")
            .option("4lw.commands.whitelist", "*")
            .option("coordination.secret.file", self.secret().display())
            .option("server.id", at + 1);
        (0..3).fold(launch, |launch, at| launch.option(&format!("server.{}", at + 1), format_args!("127.0.0.1:{}", self.peers[at])))
    }

    fn spawn(&mut self, at: usize) {
        self.members[at] = Some(self.launch(at).spawn());
    }

    fn member(&mut self, at: usize) -> &mut Process {
        self.members[at].as_mut().expect("it was started")
    }

    fn wait_until_it_serves(&mut self, at: usize) {
        self.member(at).wait_for_text("try: ottla coordination ls");
    }

    fn kill(&mut self, at: usize) {
        self.member(at).kill();
        self.members[at] = None;
    }

    fn signal(&mut self, at: usize, signal: Signal) {
        let pid = Pid::from_raw(self.member(at).pid() as i32).expect("a process id is not 0");
        kill_process(pid, signal).expect("it runs");
    }

    /// Which of the running ones leads.
    fn leader(&self) -> usize {
        let began = Instant::now();
        loop {
            let running = (0..3).filter(|at| self.members[*at].is_some());
            if let Some(at) = running.into_iter().find(|at| say(self.clients[*at], "srvr").contains("Mode: leader")) {
                return at;
            }
            assert!(began.elapsed() < PATIENCE, "nobody leads");
        }
    }

    /// Runs `ottla coordination`: its exit code, output and errors.
    fn command(&self, args: &[&str]) -> (i32, String, String) {
        let mut process = args.iter().fold(Launch::bare(self.home.path()).arg("coordination"), |launch, arg| launch.arg(*arg)).spawn();
        let code = process.wait_exit().code().unwrap_or(-1);
        (code, process.stdout().join("\n"), process.stderr().join("\n"))
    }

    /// [`Ensemble::command`] about the ensemble.
    fn administer(&self, args: &[&str]) -> (i32, String, String) {
        let peers = self.peers.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",");
        let secret = self.secret().display().to_string();
        self.command(&[args, &["--peer", &peers, "--secret-file", &secret]].concat())
    }

    fn ok(&self, args: &[&str]) -> String {
        let (code, out, errors) = self.administer(args);
        assert_eq!(code, 0, "{args:?}: {errors}");
        out
    }

    /// What a client reads at one member after a `sync`.
    fn read(&self, at: usize, path: &str) -> String {
        let mut client = Client::new(vec![self.clients[at]]);
        let (version, data) = client.until(|client| client.read(path));
        assert!(version >= 0);
        String::from_utf8(data).unwrap()
    }

    fn write(&self, at: usize, path: &str, data: &str) {
        let mut client = Client::new(vec![self.clients[at]]);
        client.until(|client| client.create(path, data.as_bytes(), 0));
    }
}

/// A client that goes to the next member when its connection breaks, and comes back to its session.
struct Client {
    ports: Vec<u16>,
    at: usize,
    socket: Option<TcpStream>,
    session: i64,
    password: [u8; 16],
}

impl Client {
    fn new(ports: Vec<u16>) -> Self {
        Self { ports, at: 0, socket: None, session: 0, password: [0; 16] }
    }

    /// Asks once; `None` if that came to nothing: whether a change was made is unknown then.
    fn ask(&mut self, opcode: i32, body: impl FnOnce(&mut Writer)) -> Option<(i32, Vec<u8>)> {
        if self.socket.is_none() {
            self.socket = self.open();
        }
        let answer = self.socket.as_mut().and_then(|socket| try_ask(socket, opcode, body).ok());
        if answer.is_none() {
            if let Some(socket) = self.socket.take() {
                let _ = socket.shutdown(Shutdown::Both);
            }
            self.at += 1;
        }
        answer
    }

    fn open(&mut self) -> Option<TcpStream> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.ports[self.at % self.ports.len()])).ok()?;
        // As clients do: a third of the session's time-out for one member.
        socket.set_read_timeout(Some(Duration::from_millis(SESSION_MS as u64 / 3))).unwrap();
        let response = connect(&mut socket, self.session, self.password, SESSION_MS).ok()?;
        if response.session == 0 {
            // It has expired: a new one, as the next attempt.
            (self.session, self.password) = (0, [0; 16]);
            return None;
        }
        (self.session, self.password) = (response.session, response.password);
        Some(socket)
    }

    /// Asks until there is an answer.
    fn until<T>(&mut self, mut ask: impl FnMut(&mut Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask(self) {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "no member answers");
        }
    }

    /// The version and content after a `sync`; -1 if there is no such znode.
    fn read(&mut self, path: &str) -> Option<(i32, Vec<u8>)> {
        let (code, _) = self.ask(opcode::SYNC, |to| to.string(path))?;
        if code != 0 {
            return None;
        }
        let (code, body) = self.ask(opcode::GET_DATA, |to| (to.string(path), to.bool(false)).1)?;
        match code {
            0 => {
                let mut reader = Reader::new(&body);
                let data = reader.buffer().unwrap().unwrap_or_default().to_vec();
                Some((version(&body[4 + data.len()..]), data))
            }
            -101 => Some((-1, Vec::new())),
            other => panic!("a read was answered {other}"),
        }
    }

    fn create(&mut self, path: &str, data: &[u8], flags: i32) -> Option<()> {
        let body = |to: &mut Writer| {
            to.string(path);
            to.buffer(data);
            to.acl(&[Acl::open()]);
            to.int(flags);
        };
        match self.ask(opcode::CREATE, body)?.0 {
            // An attempt before may have done it.
            0 | -110 => Some(()),
            code => panic!("a creation was answered {code}"),
        }
    }

    fn exists(&mut self, path: &str) -> Option<bool> {
        Some(self.read(path)?.0 >= 0)
    }

    /// Sets the content if it has the version; the version after it, or [`BAD_VERSION`].
    fn set(&mut self, path: &str, data: &[u8], if_version: i32) -> Option<i32> {
        let body = |to: &mut Writer| {
            to.string(path);
            to.buffer(data);
            to.int(if_version);
        };
        match self.ask(opcode::SET_DATA, body)? {
            (0, body) => Some(version(&body)),
            (code, _) => Some(code),
        }
    }
}

/// The version in a znode's stat.
fn version(stat: &[u8]) -> i32 {
    i32::from_be_bytes(stat[32..36].try_into().unwrap())
}

/// Clients that write one znode, each change on top of the last, and read it after a `sync`; their history is judged as it happens.
struct Load {
    stop: Arc<AtomicBool>,
    acked: Arc<Acked>,
    /// The longest time between two acknowledgements, in ms.
    longest_gap_ms: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// The last version that was acknowledged.
#[derive(Default)]
struct Acked {
    version: Mutex<i32>,
    changed: Condvar,
}

impl Acked {
    fn get(&self) -> i32 {
        *self.version.lock().unwrap()
    }

    fn set(&self, version: i32) {
        *self.version.lock().unwrap() = version;
        self.changed.notify_all();
    }
}

const REGISTER: &str = "/register";

impl Load {
    fn start(ports: &[u16]) -> Self {
        let mut first = Client::new(ports.to_vec());
        first.until(|client| client.create(REGISTER, b"0", 0));
        let (stop, acked, longest_gap_ms) = (Arc::new(AtomicBool::new(false)), Arc::new(Acked::default()), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        let (stopped, count, gap) = (stop.clone(), acked.clone(), longest_gap_ms.clone());
        threads.push(std::thread::spawn(move || write(first, &stopped, &count, &gap)));
        for port in ports {
            let (stopped, count, client) = (stop.clone(), acked.clone(), Client::new(vec![*port]));
            threads.push(std::thread::spawn(move || read(client, &stopped, &count)));
        }
        Self { stop, acked, longest_gap_ms, threads }
    }

    /// Waits until so many more writes were acknowledged.
    fn wait_for(&self, more: i32) {
        let version = self.acked.version.lock().unwrap();
        let goal = *version + more;
        let (version, waited) = self.acked.changed.wait_timeout_while(version, PATIENCE, |version| *version < goal).unwrap();
        assert!(!waited.timed_out(), "writes are not acknowledged any more: {version} of {goal}");
    }

    /// The longest pause between two acknowledgements since this was asked last.
    fn take_gap_ms(&self) -> u64 {
        self.longest_gap_ms.swap(0, Ordering::SeqCst)
    }

    /// Ends; every member must have what was acknowledged.
    fn finish(self, ports: &[u16]) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| thread.join().expect("a client found what must not be"));
        let acked = self.acked.get();
        for port in ports {
            let (version, _) = Client::new(vec![*port]).until(|client| client.read(REGISTER));
            assert!(version >= acked, "{acked} writes were acknowledged, and a member has {version} after a sync");
        }
    }
}

fn write(mut client: Client, stop: &AtomicBool, acked: &Acked, gap_ms: &AtomicU64) {
    let mut last = Instant::now();
    let (mut known, _) = client.until(|client| client.read(REGISTER));
    while !stop.load(Ordering::SeqCst) {
        match client.set(REGISTER, known.to_string().as_bytes(), known) {
            Some(BAD_VERSION) | None => {
                // In doubt: one that was not answered may have been carried out, once.
                let Some((now, _)) = client.read(REGISTER) else { continue };
                assert!((known..=known + 1).contains(&now), "version {known} was seen, and now {now}");
                known = now;
            }
            Some(version) => {
                assert_eq!(version, known + 1, "a write was answered with another version than its own");
                known = version;
                acked.set(version);
                gap_ms.fetch_max(last.elapsed().as_millis() as u64, Ordering::SeqCst);
                last = Instant::now();
            }
        }
    }
}

fn read(mut client: Client, stop: &AtomicBool, acked: &Acked) {
    while !stop.load(Ordering::SeqCst) {
        let floor = acked.get();
        if let Some((version, _)) = client.read(REGISTER) {
            assert!(version >= floor, "version {floor} was acknowledged, and {version} was read after a sync that began later");
        }
    }
}

#[test]
fn three_coordinators_lose_nothing_when_leaders_are_killed_stopped_and_paused_under_load() {
    let mut ensemble = Ensemble::start(0);
    let modes: Vec<String> = ensemble.clients.iter().map(|port| say(*port, "srvr")).collect();
    assert_eq!(modes.iter().filter(|mode| mode.contains("Mode: leader")).count(), 1, "{modes:?}");
    assert_eq!(modes.iter().filter(|mode| mode.contains("Mode: follower")).count(), 2, "{modes:?}");
    let leader = ensemble.leader();
    // A majority has all; the third member has it soon.
    let began = Instant::now();
    let told = loop {
        let told = say(ensemble.clients[leader], "mntr");
        if told.contains("zk_synced_followers\t2\n") {
            break told;
        }
        assert!(began.elapsed() < PATIENCE, "{told}");
    };
    assert!(told.contains("zk_server_state\tleader\n") && told.contains("zk_quorum_size\t3\n"), "{told}");
    let told = say(ensemble.clients[leader], "conf");
    assert!(told.contains(&format!("server.2=127.0.0.1:{}:", ensemble.peers[1])) && told.contains(&format!("serverId={}\n", leader + 1)), "{told}");

    let load = Load::start(&ensemble.clients);
    load.wait_for(50);
    load.take_gap_ms();
    let leader = ensemble.leader();
    ensemble.kill(leader);
    load.wait_for(50);
    println!("MEASURED: kill -9 of the leader: no write was acknowledged for {} ms", load.take_gap_ms());
    ensemble.spawn(leader);
    ensemble.wait_until_it_serves(leader);
    load.wait_for(50);
    load.take_gap_ms();

    let leader = ensemble.leader();
    ensemble.member(leader).stop();
    ensemble.members[leader] = None;
    load.wait_for(50);
    println!("MEASURED: graceful stop of the leader: no write was acknowledged for {} ms", load.take_gap_ms());
    ensemble.spawn(leader);
    ensemble.wait_until_it_serves(leader);
    load.wait_for(50);

    // A paused leader wakes up after another has led: nothing that it says then is taken for the truth.
    let leader = ensemble.leader();
    ensemble.signal(leader, Signal::STOP);
    load.wait_for(50);
    ensemble.signal(leader, Signal::CONT);
    load.wait_for(50);
    load.finish(&ensemble.clients);
}

#[test]
fn a_session_of_a_paused_member_ends_elsewhere_and_its_ephemerals_with_it() {
    let mut ensemble = Ensemble::start(1);
    let follower = (ensemble.leader() + 1) % 3;
    let mut cut = Client::new(vec![ensemble.clients[follower]]);
    cut.until(|client| client.create("/mine", b"", 1));
    let mut moving = Client::new(vec![ensemble.clients[follower], ensemble.clients[(follower + 1) % 3]]);
    moving.until(|client| client.create("/moving", b"", 1));
    ensemble.signal(follower, Signal::STOP);
    let mut other = Client::new(vec![ensemble.clients[(follower + 1) % 3]]);
    let began = Instant::now();
    // One client goes to another member, and its session lives; the other's member is silent, and its session ends.
    while other.until(|client| client.exists("/mine")) {
        assert!(moving.until(|client| client.exists("/moving")), "its client was there all the time");
        assert!(began.elapsed() < PATIENCE, "its session never ends");
    }
    ensemble.signal(follower, Signal::CONT);
    let session = cut.session;
    assert!(!cut.until(|client| client.exists("/mine")), "a member that was away shows a znode of a session that has ended");
    assert_ne!(cut.session, session, "that session has ended");
    assert!(moving.until(|client| client.exists("/moving")));
}

#[test]
fn a_member_with_a_full_disk_halts_with_words_and_the_others_go_on() {
    let mut ensemble = Ensemble::start(2);
    let follower = (ensemble.leader() + 1) % 3;
    let pid = Pid::from_raw(ensemble.member(follower).pid() as i32).expect("a process id is not 0");
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: Some(8 << 10), maximum: None }).expect("the limit of a child can be set");
    let rest: Vec<u16> = (0..3).filter(|at| *at != follower).map(|at| ensemble.clients[at]).collect();
    let load = Load::start(&rest);
    ensemble.member(follower).wait_exit_code(70);
    let told = ensemble.member(follower).stderr().join("\n");
    assert!(told.contains("the coordination log cannot be written") && told.contains("File too large"), "{told}");
    load.wait_for(50);
    ensemble.spawn(follower);
    ensemble.wait_until_it_serves(follower);
    load.finish(&ensemble.clients);
}

#[test]
fn a_member_that_lost_its_disk_comes_back_as_another_and_votes_again() {
    let mut ensemble = Ensemble::start(3);
    ensemble.write(0, "/kept", "by the others");
    let lost = (ensemble.leader() + 1) % 3;
    ensemble.kill(lost);
    std::fs::remove_dir_all(ensemble.dir(lost)).unwrap();
    ensemble.spawn(lost);
    let number = (lost + 1).to_string();
    let out = ensemble.ok(&["add", &number, &format!("127.0.0.1:{}", ensemble.peers[lost])]);
    assert!(out.contains("is a member with a vote; 2 of 3 voters"), "{out}");
    let members = ensemble.ok(&["members"]);
    assert_eq!(members.lines().filter(|line| line.starts_with("server.")).count(), 3, "the old record goes: {members}");
    assert!(members.contains(&format!("server.{number}  4 ")), "under a number that nobody had: {members}");
    assert_eq!(ensemble.read(lost, "/kept"), "by the others");
    // It counts: without it and one more there would be no majority.
    let other = (0..3).find(|at| *at != lost && *at != ensemble.leader()).unwrap();
    ensemble.kill(other);
    ensemble.write(lost, "/after", "the death of another");
    assert_eq!(ensemble.read(lost, "/after"), "the death of another");
}

#[test]
fn a_server_with_another_secret_is_refused_and_both_sides_are_told() {
    let mut ensemble = Ensemble::new(4);
    std::fs::write(ensemble.home.path().join("other.secret"), "another secret than that of the others\n").unwrap();
    let other = ensemble.home.path().join("other.secret");
    // One that everybody can read is none.
    let mut open = ensemble.launch(2).option("coordination.secret.file", other.display()).spawn();
    open.wait_exit_code(1);
    assert!(open.stderr().join("\n").contains("chmod 600"), "{}", open.text());
    std::fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let stranger = ensemble.launch(2).option("coordination.secret.file", other.display()).spawn();
    ensemble.spawn(0);
    for process in [&stranger, ensemble.members[0].as_ref().unwrap()] {
        process.wait_for_text("refused a connection of a server that would be a member of the ensemble");
        process.wait_for_text("the secrets differ: give all members of the ensemble the same file (coordination.secret.file)");
    }
}

#[test]
fn a_directory_has_one_owner_and_a_file_that_is_missing_or_damaged_is_refused_by_its_name() {
    let mut ensemble = Ensemble::start(5);
    let mut second = ensemble.launch(0).option("clientPort", 0).spawn();
    second.wait_exit_code(1);
    assert!(second.stderr().join("\n").contains("is in use by another process"), "{}", second.text());
    let mut another = ensemble.launch(1).option("dataDir", ensemble.dir(0).display()).option("clientPort", 0).spawn();
    another.wait_exit_code(1);
    for at in 0..3 {
        ensemble.write(at, &format!("/{at}"), "x");
    }
    ensemble.member(0).stop();
    // Another server's directory is not taken over.
    let mut another = ensemble.launch(1).option("dataDir", ensemble.dir(0).display()).option("clientPort", 0).spawn();
    another.wait_exit_code(1);
    assert!(another.stderr().join("\n").contains("belongs to server.1, and this is server.2"), "{}", another.text());
    let log = ensemble.dir(0).join("log-00000000000000000001.ottla");
    let bytes = std::fs::read(&log).unwrap();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 3] ^= 0x40;
    std::fs::write(&log, &damaged).unwrap();
    ensemble.spawn(0);
    ensemble.member(0).wait_exit_code(1);
    let told = ensemble.member(0).stderr().join("\n");
    assert!(told.contains("log-00000000000000000001.ottla' is damaged at byte"), "{told}");
    std::fs::write(&log, &bytes).unwrap();
    ensemble.spawn(0);
    ensemble.wait_until_it_serves(0);
    assert_eq!(ensemble.read(0, "/2"), "x");
}

#[test]
fn one_member_grows_to_three_is_saved_shrinks_is_restored_and_goes_on_alone() {
    let mut ensemble = Ensemble::new(6);
    // Alone, without any server.N; then the same directory with three.
    let alone = Launch::bare(ensemble.home.path())
        .arg("coordinator")
        .option("dataDir", ensemble.dir(0).display())
        .option("clientPort", ensemble.clients[0])
        .option("clientPortAddress", "127.0.0.1")
        .option("4lw.commands.whitelist", "*");
    ensemble.members[0] = Some(alone.spawn());
    ensemble.wait_until_it_serves(0);
    assert!(say(ensemble.clients[0], "srvr").contains("Mode: standalone"));
    ensemble.write(0, "/first", "alone");
    ensemble.member(0).stop();
    ensemble.spawn(0);
    ensemble.wait_until_it_serves(0);
    for at in 1..3 {
        ensemble.spawn(at);
        let out = ensemble.ok(&["add", &(at + 1).to_string(), &format!("127.0.0.1:{}", ensemble.peers[at])]);
        assert!(out.contains("is a member with a vote"), "{out}");
    }
    assert_eq!(ensemble.read(2, "/first"), "alone");
    ensemble.write(2, "/second", "three");
    let saved = ensemble.home.path().join("saved").display().to_string();
    ensemble.ok(&["snapshot", &saved]);
    ensemble.write(1, "/third", "after it was saved");

    // What would cost the majority is refused.
    let leader = ensemble.leader();
    let (down, up) = ((leader + 1) % 3, (leader + 2) % 3);
    ensemble.kill(down);
    let began = Instant::now();
    while !say(ensemble.clients[leader], "mntr").contains("zk_followers\t1\n") {
        assert!(began.elapsed() < PATIENCE, "the leader never misses it");
    }
    let (code, _, errors) = ensemble.administer(&["remove", &(up + 1).to_string()]);
    assert!(code == 1 && errors.contains(&format!("must be up, and server.{} is not; bring those back first", down + 1)), "{errors}");
    ensemble.ok(&["remove", &(down + 1).to_string()]);
    assert!(ensemble.ok(&["members"]).contains("2 of 2 voters must be up"));
    // It was away when it was removed, and learns of it when it comes back.
    ensemble.spawn(down);
    ensemble.member(down).wait_for_text("this member was removed from the ensemble");
    ensemble.kill(down);

    // The majority is lost for good.
    ensemble.kill(leader);
    ensemble.member(up).stop();
    let dir = ensemble.dir(up).display().to_string();
    let (code, _, errors) = ensemble.command(&["recover", "--data-dir", &dir]);
    assert!(code == 1 && errors.contains("LOST: whatever they acknowledged after entry") && errors.contains("nothing was changed"), "{errors}");
    let (code, out, errors) = ensemble.command(&["recover", "--data-dir", &dir, "--yes"]);
    assert!(code == 0 && out.contains("it goes on alone"), "{errors}");
    ensemble.spawn(up);
    ensemble.wait_until_it_serves(up);
    assert_eq!(ensemble.read(up, "/third"), "after it was saved");
    ensemble.kill(up);

    // From the file, into an empty directory alone.
    let (code, _, errors) = ensemble.command(&["restore", &saved, "--data-dir", &dir]);
    assert!(code == 1 && errors.contains("move it away first"), "{errors}");
    std::fs::remove_dir_all(&dir).unwrap();
    let (code, out, errors) = ensemble.command(&["restore", &saved, "--data-dir", &dir]);
    assert!(code == 0 && out.contains("a single member"), "{errors}");
    ensemble.spawn(up);
    ensemble.wait_until_it_serves(up);
    assert_eq!((ensemble.read(up, "/first"), ensemble.read(up, "/second")), ("alone".to_owned(), "three".to_owned()));
    assert!(!Client::new(vec![ensemble.clients[up]]).until(|client| client.exists("/third")), "it came after the snapshot");
}

#[test]
fn who_a_member_is_must_be_clear() {
    let ensemble = Ensemble::new(7);
    let refused = |launch: Launch, code: i32| {
        let mut process = launch.spawn();
        process.wait_exit_code(code);
        process.stderr().join("\n")
    };
    let without = |dir: &Path| {
        (0..3).fold(Launch::bare(ensemble.home.path()).arg("coordinator").option("dataDir", dir.display()).option("clientPort", 0), |launch, at| {
            launch.option(&format!("server.{}", at + 1), format_args!("127.0.0.1:{}", ensemble.peers[at]))
        })
    };
    let dir = ensemble.dir(0);
    let told = refused(without(&dir), 1);
    assert!(told.contains("which of server.1, server.2, server.3 is this member?") && told.contains("myid"), "{told}");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("myid"), "4\n").unwrap();
    assert!(refused(without(&dir), 1).contains("says that this is server.4, and the configuration has no such line"));
    std::fs::write(dir.join("myid"), "1\n").unwrap();
    assert!(refused(without(&dir).option("server.id", 2), 1).contains("says that this is server.1, and server.id=2"));
    let told = refused(without(&dir), 1);
    assert!(told.contains("know each other by a secret, and there is none at") && told.contains("coordination.secret.file"), "{told}");
    assert!(refused(without(&dir).option("server.2", "nowhere"), 2).contains("-o server.2=nowhere: expected host:peerport"));
    std::fs::create_dir_all(ensemble.dir(1).join("version-2")).unwrap();
    let zookeepers = Launch::bare(ensemble.home.path()).arg("coordinator").option("dataDir", ensemble.dir(1).display()).option("clientPort", 0);
    assert!(refused(zookeepers, 1).contains("holds the data of an Apache ZooKeeper"));
}

#[test]
fn administrators_are_answered_over_http() {
    let home = temp_dir();
    let mut member = Launch::bare(home.path())
        .arg("coordinator")
        .option("clientPort", 0)
        .option("clientPortAddress", "127.0.0.1")
        .option("admin.enableServer", true)
        .option("admin.serverPort", 0)
        .spawn();
    let port: u16 = member.wait_for("where administrators ask", |line| {
        line.strip_prefix("administrators' commands at http://127.0.0.1:")?.strip_suffix("/commands")?.parse().ok()
    });
    let get = |path: &str| {
        let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.write_all(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).unwrap();
        let said = std::io::read_to_string(socket).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").expect("a head and a body");
        (head.lines().next().unwrap().to_owned(), body.to_owned())
    };
    let json = |path: &str| serde_json::from_str::<serde_json::Value>(&get(path).1).unwrap();
    assert!(get("/commands").1.contains("<a href=\"/commands/monitor\">monitor</a>"));
    let monitor = json("/commands/mntr");
    assert_eq!((&monitor["command"], &monitor["error"], &monitor["server_state"]), (&"monitor".into(), &serde_json::Value::Null, &"standalone".into()));
    assert_eq!(json("/commands/ruok"), serde_json::json!({ "command": "ruok", "error": null }));
    assert_eq!(json("/commands/nothing")["error"], "Unknown command: nothing");
    assert!(json("/commands/stat")["server_stats"]["uptime"].is_u64());
    assert!(json("/commands/configuration")["client_port"].is_u64());
    assert!(get("/elsewhere").0.contains("404"));
    member.stop();
}
