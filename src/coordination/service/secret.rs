//! The file with the secret that all members of an ensemble share: where it is, who may read it, and when it is made.
//!
//! It is made for a member that is its ensemble's only one, and, where the configuration names the file, for servers that are all on this machine and
//! so share it. Otherwise a missing file is refused: members that each made their own would never meet.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::super::ensemble::peer::Secret;
use crate::config::coordination::CoordinationConfig;
use crate::runtime::{Disk, File, Open, Runtime, bind};

/// The secret's name in a member's directory, unless the configuration names another file.
pub const SECRET_FILE_NAME: &str = "secret";

/// The shortest secret in bytes: 128 bits, if it is random.
const MIN_BYTES: usize = 16;

/// The longest in bytes: what is longer is some other file.
const MAX_BYTES: usize = 4096;

/// How long one that waits for another process to have made the file waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file cannot be read or made.
    #[error("cannot {what} the ensemble's secret '{}': {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is none.
    #[error(
        "the members of an ensemble know each other by a secret, and there is none at '{}'; make one, \
         (umask 077 && head -c 32 /dev/urandom | base64 > secret), copy it to all members, and name it with coordination.secret.file",
        path.display()
    )]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// Others can read it.
    #[error("the ensemble's secret '{}' can be read by everybody, or written by others than its owner; take those rights away: chmod 600 '{}'", path.display(), path.display())]
    Open {
        /// The file.
        path: PathBuf,
    },
    /// It can be guessed, or is no secret.
    #[error(
        "the ensemble's secret '{}' has {length} bytes; expected from {MIN_BYTES} to {MAX_BYTES}, such as \
         (umask 077 && head -c 32 /dev/urandom | base64 > secret) makes",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// How many bytes it has, without white space around them.
        length: usize,
    },
}

impl SecretError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// The secret in the file at `path`, without white space around it; `None` if there is no such file.
///
/// # Errors
/// [`SecretError`].
pub async fn read_secret<R: Runtime>(rt: &R, path: &Path) -> Result<Option<Secret>, SecretError> {
    let file = match rt.disk().open(path, Open::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(SecretError::Io { what: "open", path: path.to_owned(), source }),
    };
    if !file.is_guarded().await.map_err(SecretError::io("ask for the rights of", path))? {
        return Err(SecretError::Open { path: path.to_owned() });
    }
    let bytes = file.read_at(0, MAX_BYTES + 1).await.map_err(SecretError::io("read", path))?;
    let secret = bytes.trim_ascii();
    if !(MIN_BYTES..=MAX_BYTES).contains(&secret.len()) {
        return Err(SecretError::Length { path: path.to_owned(), length: secret.len() });
    }
    Ok(Some(Secret::new(Bytes::copy_from_slice(secret))))
}

/// The secret of this member, made if nobody else can need to know it from elsewhere.
///
/// # Errors
/// [`SecretError`].
pub(super) async fn find<R: Runtime>(rt: &R, config: &CoordinationConfig, dir: &Path) -> Result<Secret, SecretError> {
    let path = config.secret_file.clone().unwrap_or_else(|| dir.join(SECRET_FILE_NAME));
    if let Some(secret) = read_secret(rt, &path).await? {
        return Ok(secret);
    }
    let is_own = config.servers.len() == 1 || (config.secret_file.is_some() && are_all_here(rt, config).await);
    if !is_own {
        return Err(SecretError::Missing { path });
    }
    make(rt, &path).await
}

/// Whether all servers are on the loopback interface: other machines cannot be meant.
async fn are_all_here<R: Runtime>(rt: &R, config: &CoordinationConfig) -> bool {
    for server in config.servers.values() {
        match bind::addresses(rt, &server.peer).await {
            Ok(addresses) if addresses.iter().all(|address| is_loopback(address.ip())) => {}
            _ => return false,
        }
    }
    true
}

fn is_loopback(address: IpAddr) -> bool {
    address.is_loopback()
}

async fn make<R: Runtime>(rt: &R, path: &Path) -> Result<Secret, SecretError> {
    let disk = rt.disk();
    let lock_path = path.with_extension("lock");
    let _lock = loop {
        // Several members that start together: one of them makes it.
        match disk.try_lock(&lock_path).await.map_err(SecretError::io("lock", path))? {
            Some(lock) => break lock,
            None => rt.sleep(LOOK_AGAIN).await,
        }
    };
    if let Some(secret) = read_secret(rt, path).await? {
        return Ok(secret);
    }
    let random: Vec<u8> = (0..4).flat_map(|_| rt.random_u64().to_be_bytes()).collect();
    let text = format!("{}\n", STANDARD.encode(random));
    let temporary = path.with_extension("tmp");
    let file = disk.open(&temporary, Open::Create).await.map_err(SecretError::io("make", path))?;
    file.guard().await.map_err(SecretError::io("make", path))?;
    file.set_len(0).await.map_err(SecretError::io("make", path))?;
    file.write_at(0, [Bytes::from(text)].into_iter().collect()).await.map_err(SecretError::io("write", path))?;
    file.sync_data().await.map_err(SecretError::io("sync", path))?;
    disk.rename(&temporary, path).await.map_err(SecretError::io("make", path))?;
    if let Some(dir) = path.parent() {
        let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { dir };
        disk.sync_dir(dir).await.map_err(SecretError::io("sync the directory of", path))?;
    }
    tracing::info!(path = %path.display(), "made the secret by which the members of the ensemble know each other; each further member needs a copy");
    read_secret(rt, path).await?.ok_or_else(|| SecretError::Missing { path: path.to_owned() })
}
