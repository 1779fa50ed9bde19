//! How a run ends, and the exit code that tells it to scripts.

use std::fmt;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// Everything promised was kept. Exit code 0.
    Clean,
    /// Clean, but too little happened for the seed to count. Exit code 131.
    NotCounted {
        /// What was missing.
        reason: String,
    },
    /// Something was lost that the configuration does not promise to keep. Exit code 130.
    Unrecoverable {
        /// Which promise does not hold, and why.
        reason: String,
    },
    /// A task panicked, or an assertion failed. Exit code 127.
    Crash {
        /// Which process, and its last words.
        detail: String,
    },
    /// It did not come to rest, or does not serve, although it should. Exit code 128.
    Liveness {
        /// What is still pending.
        reason: String,
    },
    /// A promise was broken. Exit code 129.
    Correctness {
        /// The name of the invariant.
        invariant: String,
        /// What was seen.
        detail: String,
    },
}

impl Verdict {
    /// The exit code of the command.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Clean => 0,
            Self::Crash { .. } => 127,
            Self::Liveness { .. } => 128,
            Self::Correctness { .. } => 129,
            Self::Unrecoverable { .. } => 130,
            Self::NotCounted { .. } => 131,
        }
    }

    /// Whether a bug was found.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Liveness { .. } | Self::Correctness { .. })
    }

    /// The one word for tables and result files.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::NotCounted { .. } => "not_counted",
            Self::Unrecoverable { .. } => "unrecoverable",
            Self::Crash { .. } => "crash",
            Self::Liveness { .. } => "liveness",
            Self::Correctness { .. } => "correctness",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clean => write!(f, "clean"),
            Self::NotCounted { reason } => write!(f, "not counted: {reason}"),
            Self::Unrecoverable { reason } => write!(f, "unrecoverable: {reason}"),
            Self::Crash { detail } => write!(f, "crash: {detail}"),
            Self::Liveness { reason } => write!(f, "liveness: {reason}"),
            Self::Correctness { invariant, detail } => write!(f, "correctness: {invariant}: {detail}"),
        }
    }
}
