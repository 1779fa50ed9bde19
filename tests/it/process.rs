//! The real `ottla` process, driven from outside: started in a directory of its own on a port that the system chooses, its output collected
//! line by line, killed, stopped, and waited for. Nothing here waits for a fixed time: a wait ends with what it waits for, and fails, with all
//! that the process said, when [`PATIENCE`] is over.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// No wait is meant to last this long: what does hangs.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A directory of the test's own, on the disk that the build is on (not one in memory). It goes with its owner.
pub fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the build directory can be written")
}

/// A port below those that the system gives to outgoing connections, so that nobody takes it while a broker restarts.
pub fn steady_port() -> u16 {
    // Tests run beside each other: each call looks in a range of its own.
    // tidy-allow: static, the ports are those of the whole test process
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let first = 18_000 + (std::process::id() % 9_000) as u16 + 50 * CALLS.fetch_add(1, Ordering::Relaxed);
    (first..first + 50).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("one of fifty ports is free")
}

/// As many such ports, for processes that must know each other's beforehand. Tests that run at the same time draw from different lots.
pub fn steady_ports(lot: u16, count: usize) -> Vec<u16> {
    const LOT: u16 = 20;
    let first = 10_000 + (std::process::id() % 300) as u16 * LOT + lot * LOT;
    let free = (first..first + LOT).filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    assert_eq!(ports.len(), count, "the ports from {first} on are in use");
    ports
}

/// A process to be started.
#[derive(Clone)]
pub struct Launch {
    dir: PathBuf,
    args: Vec<String>,
}

impl Launch {
    /// `ottla` in this working directory, without arguments.
    pub fn bare(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), args: Vec::new() }
    }

    /// A broker in this working directory, on a port that the system chooses, with its data in `./ottla-data`.
    pub fn new(dir: &Path) -> Self {
        Self::bare(dir).arg("broker").option("listeners", "PLAINTEXT://127.0.0.1:0")
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// One more `-o key=value`; a later one counts.
    pub fn option(self, key: &str, value: impl std::fmt::Display) -> Self {
        self.arg("-o").arg(format!("{key}={value}"))
    }

    /// On this port of 127.0.0.1.
    pub fn port(self, port: u16) -> Self {
        self.option("listeners", format_args!("PLAINTEXT://127.0.0.1:{port}"))
    }

    /// Starts it and returns at once.
    pub fn spawn(&self) -> Process {
        let since = Instant::now();
        let mut child = Command::new(env!("CARGO_BIN_EXE_ottla"))
            .args(&self.args)
            .current_dir(&self.dir)
            .env("OTTLA_LOG", "info")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the ottla binary can be started");
        let output = Arc::new(Output { said: Mutex::new(Said { open: 2, ..Said::default() }), changed: Condvar::new() });
        collect(&output, child.stdout.take().expect("it is piped"), Stream::Out);
        collect(&output, child.stderr.take().expect("it is piped"), Stream::Err);
        Process { child, output, since, status: None, port: 0 }
    }

    /// Starts a broker and waits until it listens.
    pub fn start(&self) -> Process {
        let mut process = self.spawn();
        process.wait_until_it_listens();
        process
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stream {
    Out,
    Err,
}

#[derive(Default)]
struct Said {
    lines: Vec<(Stream, String)>,
    /// How many of its two outputs are open.
    open: usize,
}

struct Output {
    said: Mutex<Said>,
    changed: Condvar,
}

impl Output {
    fn said(&self) -> MutexGuard<'_, Said> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `look` finds something; `None` if it has not when the patience is over.
    fn wait<T>(&self, mut look: impl FnMut(&Said) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut said = self.said();
        loop {
            if let Some(found) = look(&said) {
                return Some(found);
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            said = self.changed.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

fn collect(output: &Arc<Output>, from: impl Read + Send + 'static, stream: Stream) {
    let output = output.clone();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
            output.said().lines.push((stream, text));
            output.changed.notify_all();
            line.clear();
        }
        output.said().open -= 1;
        output.changed.notify_all();
    });
}

/// A process that was started. It is killed when this is dropped.
pub struct Process {
    child: Child,
    output: Arc<Output>,
    since: Instant,
    status: Option<ExitStatus>,
    /// The port that it listens on; 0 before it does.
    pub port: u16,
}

impl Process {
    /// When it was started.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it said so far.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (stream, line) in &self.output.said().lines {
            let _ = writeln!(text, "{} {line}", if *stream == Stream::Out { " " } else { "!" });
        }
        text
    }

    fn lines(&self, wanted: Stream) -> Vec<String> {
        self.output.said().lines.iter().filter(|(stream, _)| *stream == wanted).map(|(_, line)| line.clone()).collect()
    }

    /// The lines of its standard output so far.
    pub fn stdout(&self) -> Vec<String> {
        self.lines(Stream::Out)
    }

    /// The lines of its standard error so far.
    pub fn stderr(&self) -> Vec<String> {
        self.lines(Stream::Err)
    }

    /// Waits for a line, of either output, in which `look` finds something.
    pub fn wait_for<T>(&self, what: &str, mut look: impl FnMut(&str) -> Option<T>) -> T {
        let found = self.output.wait(|said| match said.lines.iter().find_map(|(_, line)| look(line)) {
            None if said.open == 0 => Some(None),
            None => None,
            found => Some(found),
        });
        match found {
            Some(Some(found)) => found,
            Some(None) => panic!("the process ended without saying {what}; it said:\n{}", self.text()),
            None => panic!("the process did not say {what} in {PATIENCE:?}; it said:\n{}", self.text()),
        }
    }

    /// Waits for a line with this text.
    pub fn wait_for_text(&self, text: &str) -> String {
        self.wait_for(&format!("'{text}'"), |line| line.contains(text).then(|| line.to_owned()))
    }

    /// Waits for a line with this text after the first `after` lines: the line, and how many lines there are up to it.
    pub fn wait_for_text_after(&self, after: usize, text: &str) -> (String, usize) {
        let found = self.output.wait(|said| {
            let found = said.lines.iter().enumerate().skip(after).find(|(_, (_, line))| line.contains(text));
            found.map(|(at, (_, line))| Some((line.clone(), at + 1))).or((said.open == 0).then_some(None))
        });
        found.flatten().unwrap_or_else(|| panic!("the process did not say '{text}' after its line {after} in {PATIENCE:?}; it said:\n{}", self.text()))
    }

    /// Waits until it says where it listens.
    pub fn wait_until_it_listens(&mut self) {
        let port = self.wait_for("where it listens", |line| line.strip_prefix("listening on ")?.rsplit(':').next()?.trim().parse().ok());
        self.port = port;
        // The greeting comes in one piece: once its end is there it is complete.
        self.wait_for_text("ottla consume");
    }

    /// Waits for its end.
    pub fn wait_exit(&mut self) -> ExitStatus {
        if let Some(status) = self.status {
            return status;
        }
        // Both outputs are closed by its end only.
        if self.output.wait(|said| (said.open == 0).then_some(())).is_none() {
            panic!("the process did not end in {PATIENCE:?}; it said:\n{}", self.text());
        }
        let status = self.child.wait().expect("it is this test's child");
        self.status = Some(status);
        status
    }

    /// Waits for its end, which must have this exit code.
    pub fn wait_exit_code(&mut self, code: i32) {
        let status = self.wait_exit();
        assert_eq!(status.code(), Some(code), "{status}; it said:\n{}", self.text());
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.status.is_none() && self.child.try_wait().expect("it is this test's child").is_none()
    }

    /// `kill -9`, and waits for its end.
    pub fn kill(&mut self) {
        // One that has ended already is no error.
        let _ = self.child.kill();
        self.wait_exit();
    }

    /// Asks it to stop (SIGTERM).
    pub fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it has not been waited for");
    }

    /// Asks it to stop and waits for its end, which must be a good one.
    pub fn stop(&mut self) {
        self.terminate();
        self.wait_exit_code(0);
    }

    /// Open file descriptors.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// A number from a line `Name: 123 kB` or `Name: 123` of a file below the process's directory in /proc.
    fn proc_number(&self, file: &str, name: &str) -> u64 {
        let path = format!("/proc/{}/{file}", self.pid());
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or_else(|| panic!("{path} has no {name}"))
    }

    /// Memory in use, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        self.proc_number("status", "VmRSS") * 1024
    }

    /// Bytes that it asked the system to read, from whatever, since its start.
    pub fn read_bytes(&self) -> u64 {
        self.proc_number("io", "rchar")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.status.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the broker on port {} said:\n{}", self.port, self.text());
        }
    }
}

/// Runs the client side of a test.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("threads can be started")
        .block_on(async { tokio::time::timeout(2 * PATIENCE, future).await.expect("the test hangs") })
}
