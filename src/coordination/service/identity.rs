//! Which of the configured servers this member is: the key `server.id`, the file `myid` as ZooKeeper has it, or the only server whose host is this
//! machine. What is contradictory or ambiguous is refused: a member under another's number would be a second one of it.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::coordination::CoordinationConfig;
use crate::config::server::SERVER_ID_MAX;
use crate::runtime::{Disk, File, Open, Runtime, bind};

/// The name of ZooKeeper's file.
const MYID: &str = "myid";

/// Why it cannot be told which server this is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read '{}': {source}; it holds the N of this member's server.N and nothing else", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It holds something else.
    #[error("'{}' holds '{content}'; expected the N of this member's server.N, a number from 1 to {SERVER_ID_MAX}", path.display())]
    NoNumber {
        /// The file.
        path: PathBuf,
        /// What it holds, at most the first characters.
        content: String,
    },
    /// It names a server that is not there.
    #[error("'{}' says that this is server.{id}, and the configuration has no such line; it has {servers}", path.display())]
    NotConfigured {
        /// The file.
        path: PathBuf,
        /// Its number.
        id: u32,
        /// The servers that there are.
        servers: String,
    },
    /// The file and the key differ.
    #[error("'{}' says that this is server.{in_file}, and server.id={in_key}; correct one of them", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// Its number.
        in_file: u32,
        /// The key's.
        in_key: u32,
    },
    /// Nothing says it.
    #[error(
        "which of {servers} is this member? {found}; write its number into the file '{}' (echo 1 > '{}'), or set the key server.id",
        path.display(), path.display()
    )]
    Unknown {
        /// Where the file would be.
        path: PathBuf,
        /// The servers that there are.
        servers: String,
        /// What their addresses tell.
        found: String,
    },
}

/// Which server this is; `None` if there are none.
///
/// # Errors
/// [`IdentityError`].
pub(super) async fn find<R: Runtime>(rt: &R, config: &CoordinationConfig, dir: &Path) -> Result<Option<u32>, IdentityError> {
    if config.servers.is_empty() {
        return Ok(None);
    }
    let servers = config.servers.keys().map(|id| format!("server.{id}")).collect::<Vec<_>>().join(", ");
    let path = dir.join(MYID);
    let in_key = config.server_id.and_then(|id| u32::try_from(id).ok());
    match (read(rt, &path).await?, in_key) {
        (Some(in_file), Some(in_key)) if in_file != in_key => Err(IdentityError::Contradiction { path, in_file, in_key }),
        (Some(id), _) | (None, Some(id)) if config.servers.contains_key(&id) => Ok(Some(id)),
        (Some(id), _) | (None, Some(id)) => Err(IdentityError::NotConfigured { path, id, servers }),
        (None, None) => {
            let mut own = Vec::new();
            for (id, server) in &config.servers {
                if is_here(rt, &server.peer).await {
                    own.push(*id);
                }
            }
            match own.as_slice() {
                [id] => Ok(Some(*id)),
                _ if config.servers.len() == 1 => Ok(config.servers.keys().next().copied()),
                [] => Err(IdentityError::Unknown { path, servers, found: "none of them has an address of this machine".to_owned() }),
                several => {
                    let found = several.iter().map(|id| format!("server.{id}")).collect::<Vec<_>>().join(" and ");
                    Err(IdentityError::Unknown { path, servers, found: format!("{found} have addresses of this machine") })
                }
            }
        }
    }
}

/// Whether the name means an address of this machine: one that can be bound, on a port that is drawn.
async fn is_here<R: Runtime>(rt: &R, peer: &crate::runtime::HostPort) -> bool {
    let Ok(addresses) = bind::addresses(rt, peer).await else { return false };
    for address in addresses {
        if rt.listen(SocketAddr::new(address.ip(), 0)).await.is_ok() {
            return true;
        }
    }
    false
}

async fn read<R: Runtime>(rt: &R, path: &Path) -> Result<Option<u32>, IdentityError> {
    const MAX_BYTES: usize = 64;
    let reading = async {
        let file = rt.disk().open(path, Open::Read).await?;
        file.read_at(0, MAX_BYTES).await
    };
    let content = match reading.await {
        Ok(content) => content,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(IdentityError::Read { path: path.to_owned(), source }),
    };
    let text = String::from_utf8_lossy(&content);
    match text.trim().parse::<u32>() {
        Ok(id) if (1..=SERVER_ID_MAX).contains(&id) => Ok(Some(id)),
        _ => Err(IdentityError::NoNumber { path: path.to_owned(), content: text.trim().escape_debug().take(40).collect() }),
    }
}
