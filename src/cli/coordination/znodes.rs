//! `ottla coordination ls|get|set|rm|stat|watch`: looks into the coordination service and changes it, as any ZooKeeper client could. Also right for an
//! Apache ZooKeeper.

use std::io::Write;
use std::time::Duration;

use crate::cli::connect::asked_to_end;
use crate::cli::output::{Failure, stdout};
use crate::coordination::acl::Acl;
use crate::coordination::client::{Client, ClientError};
use crate::coordination::op::{ANY_VERSION, CreateMode, ErrorCode, EventKind, Stat};
use crate::coordination::watch::WatchKind;
use crate::runtime::HostPort;
use crate::runtime::tokio::TokioRuntime;

/// Which coordination service to ask.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Connect {
    /// Members of the coordination service, as host:port of their clientPort, separated by commas. The first that answers is asked.
    #[arg(short, long, value_name = "HOST:PORT", env = "OTTLA_COORDINATION_SERVER", default_value = "localhost:2181", value_delimiter = ',')]
    server: Vec<HostPort>,
    /// Credentials, as user:password of the scheme digest.
    #[arg(long, value_name = "USER:PASSWORD", env = "OTTLA_COORDINATION_AUTH", hide_env_values = true)]
    auth: Option<String>,
    /// How long to wait for an answer, in ms, before giving up.
    #[arg(long, value_name = "MS", default_value_t = 15_000, hide_short_help = true)]
    timeout_ms: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Ls {
    /// The znode's path.
    #[arg(default_value = "/")]
    path: String,
    /// All znodes below it, with their paths.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Get {
    /// The znode's path.
    path: String,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Set {
    /// The znode's path.
    path: String,
    /// The new content.
    data: String,
    /// Create the znode if it does not exist. Its parent must.
    #[arg(long)]
    create: bool,
    /// The version that the znode must have; without it, any.
    #[arg(long, value_name = "N", default_value_t = ANY_VERSION, hide_default_value = true)]
    if_version: i32,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rm {
    /// The znode's path.
    path: String,
    /// All znodes below it, too.
    #[arg(short, long)]
    recursive: bool,
    /// The version that the znode must have; without it, any.
    #[arg(long, value_name = "N", default_value_t = ANY_VERSION, hide_default_value = true, conflicts_with = "recursive")]
    if_version: i32,
    #[command(flatten)]
    connect: Connect,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// The znode's path.
    #[arg(default_value = "/")]
    path: String,
    /// All znodes below it, too.
    #[arg(short, long)]
    recursive: bool,
    #[command(flatten)]
    connect: Connect,
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Message(error.to_string())
    }
}

impl Connect {
    async fn open(&self, runtime: TokioRuntime) -> Result<Client<TokioRuntime>, Failure> {
        /// Long enough for a command, and for a watch whose pings are late.
        const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
        let mut client = Client::connect(runtime, &self.server, SESSION_TIMEOUT, Duration::from_millis(self.timeout_ms)).await?;
        if let Some(auth) = &self.auth {
            client.authenticate("digest", auth).await?;
        }
        Ok(client)
    }
}

pub(super) async fn ls(runtime: TokioRuntime, args: Ls) -> Result<(), Failure> {
    let mut client = args.connect.open(runtime).await?;
    let mut out = stdout();
    if args.recursive {
        for path in below(&mut client, &args.path).await? {
            writeln!(out, "{path}")?;
        }
    } else {
        for name in client.children(&args.path).await? {
            writeln!(out, "{name}")?;
        }
    }
    out.flush()?;
    Ok(client.close().await?)
}

/// The paths of all znodes below one, each after its parent. What goes while this looks is left out.
async fn below(client: &mut Client<TokioRuntime>, path: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        match client.children(&at).await {
            Ok(names) => left.extend(names.into_iter().rev().map(|name| crate::coordination::path::join(&at, &name))),
            Err(error) if error.code() == Some(ErrorCode::NoNode) && at != path => continue,
            Err(error) => return Err(error.into()),
        }
        if at != path {
            found.push(at);
        }
    }
    Ok(found)
}

pub(super) async fn get(runtime: TokioRuntime, args: Get) -> Result<(), Failure> {
    let mut client = args.connect.open(runtime).await?;
    let (data, _) = client.get(&args.path).await?;
    let mut out = stdout();
    out.write_all(&data)?;
    if !data.is_empty() && !data.ends_with(b"\n") {
        writeln!(out)?;
    }
    out.flush()?;
    Ok(client.close().await?)
}

pub(super) async fn set(runtime: TokioRuntime, args: Set) -> Result<(), Failure> {
    let mut client = args.connect.open(runtime).await?;
    match client.set(&args.path, args.data.as_bytes(), args.if_version).await {
        Ok(_) => {}
        Err(error) if args.create && error.code() == Some(ErrorCode::NoNode) => {
            client.create(&args.path, args.data.as_bytes(), CreateMode::Persistent, &[Acl::open()]).await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(client.close().await?)
}

pub(super) async fn rm(runtime: TokioRuntime, args: Rm) -> Result<(), Failure> {
    let mut client = args.connect.open(runtime).await?;
    if args.recursive {
        for path in below(&mut client, &args.path).await?.iter().rev() {
            client.delete(path, ANY_VERSION).await?;
        }
    }
    client.delete(&args.path, args.if_version).await?;
    Ok(client.close().await?)
}

pub(super) async fn stat(runtime: TokioRuntime, args: Get) -> Result<(), Failure> {
    let mut client = args.connect.open(runtime).await?;
    let stat = client.stat(&args.path).await?;
    let acl = client.acl(&args.path).await.map(|(acl, _)| acl);
    let mut out = stdout();
    for (name, value) in described(&stat) {
        writeln!(out, "{name} = {value}")?;
    }
    match acl {
        Ok(acl) => acl.iter().try_for_each(|entry| writeln!(out, "acl = {}:{}:{}", entry.id.scheme, entry.id.id, letters(entry.perms)))?,
        Err(error) if error.code() == Some(ErrorCode::NoAuth) => writeln!(out, "acl = (not for you to read)")?,
        Err(error) => return Err(error.into()),
    }
    out.flush()?;
    Ok(client.close().await?)
}

fn described(stat: &Stat) -> [(&'static str, String); 11] {
    [
        ("czxid", format!("{:#x}", stat.czxid)),
        ("ctime", format!("{} ms since 1970", stat.ctime_ms)),
        ("mzxid", format!("{:#x}", stat.mzxid)),
        ("mtime", format!("{} ms since 1970", stat.mtime_ms)),
        ("pzxid", format!("{:#x}", stat.pzxid)),
        ("version", stat.version.to_string()),
        ("cversion", stat.cversion.to_string()),
        ("aversion", stat.aversion.to_string()),
        ("ephemeralOwner", format!("{:#x}", stat.ephemeral_owner)),
        ("dataLength", stat.data_length.to_string()),
        ("numChildren", stat.num_children.to_string()),
    ]
}

/// Permissions as ZooKeeper's shell writes them.
fn letters(perms: i32) -> String {
    let all = [(4, 'c'), (8, 'd'), (1, 'r'), (2, 'w'), (16, 'a')];
    all.iter().filter(|(bit, _)| perms & bit != 0).map(|(_, letter)| letter).collect()
}

pub(super) async fn watch(runtime: TokioRuntime, args: Watch) -> Result<(), Failure> {
    let mut client = args.connect.open(runtime).await?;
    client.watch(&args.path, if args.recursive { WatchKind::PersistentRecursive } else { WatchKind::Persistent }).await?;
    let mut out = stdout();
    let mut end = std::pin::pin!(asked_to_end());
    loop {
        let event = tokio::select! {
            biased;
            () = &mut end => return Ok(client.close().await?),
            event = client.next_event() => event?,
        };
        let what = match event.kind {
            EventKind::Created => "created",
            EventKind::Deleted => "deleted",
            EventKind::DataChanged => "changed",
            EventKind::ChildrenChanged => "children changed",
        };
        writeln!(out, "{} {what}", event.path)?;
        out.flush()?;
    }
}
