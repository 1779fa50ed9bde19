//! `ottla coordination ls|get|set|rm|stat|watch`: looks into the coordination service and changes it, as any ZooKeeper client could. Also right for an
//! Apache ZooKeeper.

use std::io::Write;
use std::time::Duration;

use crate::cli::connect::asked_to_end;
use crate::cli::output::{Failure, stdout};
use crate::coordination::client::{ConnectError, ConnectString, Connector, Options, Session};
use crate::coordination::op::{self, ANY_VERSION, CreateMode, ErrorCode, EventKind, Stat};
use crate::runtime::Runtime;
use crate::runtime::tokio::TokioRuntime;

/// Which coordination service to ask.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Connect {
    /// Members of the coordination service, as host:port of their clientPort, separated by commas, as in 'zookeeper.connect': a path after the last one is
    /// put before all paths. One that answers is asked.
    #[arg(short, long, value_name = "HOST:PORT", env = "OTTLA_COORDINATION_SERVER", default_value = "localhost:2181")]
    server: ConnectString,
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

/// The largest request in bytes: the service has a limit of its own, and says so by ending the connection.
const REQUEST_MAX_BYTES: usize = 64 << 20;

impl From<op::Failure> for Failure {
    fn from(failure: op::Failure) -> Self {
        Self::Message(match failure.code {
            ErrorCode::ConnectionLoss if failure.path.is_empty() => "no answer came in time; whether a change was made is unknown".to_owned(),
            ErrorCode::ConnectionLoss => format!("'{}': the connection was lost; whether a change was made is unknown", failure.path),
            _ => failure.to_string(),
        })
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        Self::Message(format!("{error}; check that a coordination service or an Apache ZooKeeper listens there (the key 'clientPort')"))
    }
}

impl Connect {
    async fn open(&self, runtime: TokioRuntime) -> Result<Asked, Failure> {
        /// Long enough for a command, and for a watch whose pings are late.
        const SESSION_TIMEOUT: Duration = Duration::from_secs(30);
        let options = Options { session_timeout: SESSION_TIMEOUT, max_in_flight: 100, request_max_bytes: REQUEST_MAX_BYTES };
        let patience = Duration::from_millis(self.timeout_ms);
        let session = Session::connect(runtime.clone(), Connector::Hosts(self.server.clone()), options, patience).await?;
        let asked = Asked { runtime, session, patience };
        if let Some(auth) = &self.auth {
            asked.within(asked.session.add_auth("digest", auth)).await?;
        }
        Ok(asked)
    }
}

/// A session whose answers are waited for only so long.
struct Asked {
    runtime: TokioRuntime,
    session: Session<TokioRuntime>,
    patience: Duration,
}

impl Asked {
    /// What the service answers; an error of the process if it does not in time.
    async fn within<T>(&self, asked: impl Future<Output = Result<T, op::Failure>>) -> Result<T, op::Failure> {
        let late = self.runtime.sleep(self.patience);
        tokio::select! {
            biased;
            answer = asked => answer,
            () = late => Err(op::Failure::new(ErrorCode::ConnectionLoss, "")),
        }
    }

    async fn close(self) -> Result<(), Failure> {
        self.session.close().await;
        Ok(())
    }
}

pub(super) async fn ls(runtime: TokioRuntime, args: Ls) -> Result<(), Failure> {
    let client = args.connect.open(runtime).await?;
    let mut out = stdout();
    if args.recursive {
        for path in below(&client, &args.path).await? {
            writeln!(out, "{path}")?;
        }
    } else {
        for name in client.within(client.session.children(&args.path)).await?.0 {
            writeln!(out, "{name}")?;
        }
    }
    out.flush()?;
    client.close().await
}

/// The paths of all znodes below one, each after its parent. What goes while this looks is left out.
async fn below(client: &Asked, path: &str) -> Result<Vec<String>, Failure> {
    let mut found = Vec::new();
    let mut left = vec![path.to_owned()];
    while let Some(at) = left.pop() {
        match client.within(client.session.children(&at)).await {
            Ok((names, _)) => left.extend(names.into_iter().rev().map(|name| crate::coordination::path::join(&at, &name))),
            Err(error) if error.code == ErrorCode::NoNode && at != path => continue,
            Err(error) => return Err(error.into()),
        }
        if at != path {
            found.push(at);
        }
    }
    Ok(found)
}

pub(super) async fn get(runtime: TokioRuntime, args: Get) -> Result<(), Failure> {
    let client = args.connect.open(runtime).await?;
    let data = client.within(client.session.get(&args.path)).await?.data;
    let mut out = stdout();
    out.write_all(&data)?;
    if !data.is_empty() && !data.ends_with(b"\n") {
        writeln!(out)?;
    }
    out.flush()?;
    client.close().await
}

pub(super) async fn set(runtime: TokioRuntime, args: Set) -> Result<(), Failure> {
    let client = args.connect.open(runtime).await?;
    match client.within(client.session.set(&args.path, args.data.clone(), args.if_version)).await {
        Ok(_) => {}
        Err(error) if args.create && error.code == ErrorCode::NoNode => {
            client.within(client.session.create(&args.path, args.data, CreateMode::Persistent)).await?;
        }
        Err(error) => return Err(error.into()),
    }
    client.close().await
}

pub(super) async fn rm(runtime: TokioRuntime, args: Rm) -> Result<(), Failure> {
    let client = args.connect.open(runtime).await?;
    if args.recursive {
        for path in below(&client, &args.path).await?.iter().rev() {
            client.within(client.session.delete(path, ANY_VERSION)).await?;
        }
    }
    client.within(client.session.delete(&args.path, args.if_version)).await?;
    client.close().await
}

pub(super) async fn stat(runtime: TokioRuntime, args: Get) -> Result<(), Failure> {
    let client = args.connect.open(runtime).await?;
    let missing = || op::Failure::new(ErrorCode::NoNode, &args.path);
    let stat = client.within(client.session.exists(&args.path)).await?.ok_or_else(missing)?;
    let acl = client.within(client.session.acl(&args.path)).await.map(|(acl, _)| acl);
    let mut out = stdout();
    for (name, value) in described(&stat) {
        writeln!(out, "{name} = {value}")?;
    }
    match acl {
        Ok(acl) => acl.iter().try_for_each(|entry| writeln!(out, "acl = {}:{}:{}", entry.id.scheme, entry.id.id, letters(entry.perms)))?,
        Err(error) if error.code == ErrorCode::NoAuth => writeln!(out, "acl = (not for you to read)")?,
        Err(error) => return Err(error.into()),
    }
    out.flush()?;
    client.close().await
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
    let client = args.connect.open(runtime).await?;
    let mut watcher = client.session.watcher();
    client.within(client.session.watch(&args.path, args.recursive, &watcher)).await?;
    let mut out = stdout();
    let mut end = std::pin::pin!(asked_to_end());
    loop {
        let event = tokio::select! {
            biased;
            () = &mut end => return client.close().await,
            event = watcher.next() => event,
        };
        let Some(event) = event else { return Err(Failure::Message(format!("the session has ended: {:?}", client.session.state()))) };
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
