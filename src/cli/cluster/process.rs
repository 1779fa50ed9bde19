//! One broker of `ottla cluster`: a process of this very program, with its outputs in a file, that ends when whoever started it does.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "the command line starts brokers: processes of the operating system")]

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// How much of the end of a file is looked at for its last lines, in bytes.
const TAIL_BYTES: u64 = 4096;

/// A broker's process that has not been waited for.
pub(crate) struct Process {
    pid: Pid,
    /// It stops when this closes: with its owner, however that ends.
    _stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts a broker, and returns the process and what is to be waited for.
    ///
    /// # Errors
    /// Of starting it, and of the file that its outputs go to.
    pub(crate) fn start(file: &Path, overrides: &[String], says: &Path) -> io::Result<(Self, Ending)> {
        if let Some(parent) = says.parent() {
            create_dir_all(parent)?;
        }
        let out = OpenOptions::new().create(true).append(true).open(says)?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("broker").arg(file).arg("--stop-with-stdin");
        for option in overrides {
            command.arg("--override").arg(option);
        }
        // In a group of its own: Ctrl-C at the terminal is for the one who started it, who stops the brokers in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.stdin(Stdio::piped()).stdout(out.try_clone()?).stderr(out).spawn()?;
        let stdin = child.stdin.take();
        Ok((Self { pid: Pid::from_child(&child), _stdin: stdin }, Ending(child)))
    }

    /// Its number.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Asks it to stop; a second time, to stop without waiting.
    pub(crate) fn terminate(&self) {
        // One that has ended already needs no signal.
        let _ = kill_process(self.pid, Signal::TERM);
    }
}

/// The end of a process that is to come.
pub(crate) struct Ending(Child);

impl Ending {
    /// Waits for it; for a thread that may wait.
    pub(crate) fn wait(mut self) -> io::Result<ExitStatus> {
        self.0.wait()
    }
}

/// Where what a broker says goes: beside its first data directory.
pub(crate) fn says_path(log_dir: &Path) -> PathBuf {
    let mut name = log_dir.as_os_str().to_owned();
    name.push(".log");
    PathBuf::from(name)
}

/// The last lines of a file; none if it cannot be read.
pub(crate) fn last_lines(path: &Path, count: usize) -> Vec<String> {
    let read = || -> io::Result<Vec<u8>> {
        let mut file = File::open(path)?;
        let end = file.seek(SeekFrom::End(0))?;
        file.seek(SeekFrom::Start(end.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let text = read().map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines[lines.len().saturating_sub(count)..].to_vec()
}
