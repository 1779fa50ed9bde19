//! `ottla coordination snapshot|restore|recover`: saves all that the service holds, restores it, and goes on after the loss of a majority.

use std::io::{BufRead, Write};
use std::path::PathBuf;

use super::members::Ensemble;
use crate::cli::output::{Failure, complain};
use crate::coordination::ensemble::{admin, recovery};
use crate::coordination::{lock, storage};
use crate::runtime::tokio::TokioRuntime;

#[derive(Debug, clap::Args)]
pub(crate) struct Snapshot {
    /// The file to write. One that is there is replaced once the new one is complete.
    file: PathBuf,
    /// The directory of a stopped member, instead of a running ensemble: `dataDir` of a coordinator, `__ottla_coordination` below the first of a broker's `log.dirs`.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["config", "peer"])]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    ensemble: Ensemble,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// The file that `ottla coordination snapshot` wrote.
    file: PathBuf,
    /// The empty directory to restore into.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Recover {
    /// The directory of the stopped member that is to go on.
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Do not ask.
    #[arg(short, long)]
    yes: bool,
}

pub(super) async fn snapshot(rt: TokioRuntime, args: Snapshot) -> Result<(), Failure> {
    let meta = match &args.data_dir {
        Some(dir) => {
            let _lock = lock(&rt, dir).await.map_err(|error| error.to_string())?;
            recovery::save(&rt, dir, &args.file).await.map_err(|error| error.to_string())?
        }
        None => {
            let peers = args.ensemble.peers(&rt).await?;
            let mut said = String::new();
            let mut exported = None;
            for address in &peers.addresses {
                match admin::export(&rt, address, &peers.secret).await {
                    Ok(all) => {
                        exported = Some(all);
                        break;
                    }
                    Err(error) => said.push_str(&format!("\n  {address}: {error}")),
                }
            }
            let Some(all) = exported else { return Err(Failure::Message(format!("no member gave a snapshot:{said}"))) };
            let written = storage::write_snapshot_file(&rt, &args.file, all.meta.clone(), &all.state, all.tree.items()).await;
            written.map_err(|error| error.to_string())?;
            all.meta
        }
    };
    println!("saved everything up to transaction {:#x} (entry {}) to {}", meta.last_zxid, meta.index, args.file.display());
    Ok(())
}

pub(super) async fn restore(rt: TokioRuntime, args: Restore) -> Result<(), Failure> {
    let _lock = lock(&rt, &args.data_dir).await.map_err(|error| error.to_string())?;
    let restored = recovery::restore_file(&rt, &args.file, &args.data_dir).await.map_err(|error| error.to_string())?;
    println!("restored {} into {}: a single member, number {} of consensus", args.file.display(), args.data_dir.display(), restored.raft_id);
    println!("start it first; the other servers of an ensemble start with empty directories and join it");
    Ok(())
}

pub(super) async fn recover(rt: TokioRuntime, args: Recover) -> Result<(), Failure> {
    let _lock = lock(&rt, &args.data_dir).await.map_err(|error| error.to_string())?;
    let prospect = recovery::prospect(&rt, &args.data_dir).await.map_err(|error| error.to_string())?;
    if prospect.given_up.is_empty() {
        return Err(Failure::Message(format!("the member in '{}' is alone already: nothing needs to be recovered; start it", args.data_dir.display())));
    }
    let name = |id: u64, server: u32, address: &str| match (server, address) {
        (0, _) => format!("member {id}"),
        (_, "") => format!("server.{server}"),
        _ => format!("server.{server} ({address})"),
    };
    let others: Vec<String> = prospect.given_up.iter().map(|(id, record)| name(*id, record.server_id, &record.address)).collect();
    complain(format_args!("'{}' is the directory of {}", args.data_dir.display(), name(prospect.former_raft_id, prospect.server_id, "")));
    complain(format_args!(
        "its log ends with entry {}, and it knows of entries up to {} that a majority had them; later ones were perhaps never acknowledged, and are kept",
        prospect.last_index, prospect.committed_index
    ));
    complain(format_args!("given up: {}", others.join(", ")));
    complain(format_args!(
        "LOST: whatever they acknowledged after entry {}: znodes, sessions, locks; clients that saw it see the past again",
        prospect.last_index
    ));
    complain(format_args!(
        "if the directory of another of them can still be read, and its log is longer, recover that one instead; none of the others may ever be started again \
         with what it has: empty their directories, and they join this one"
    ));
    if !args.yes && !asked("go on alone with this member?")? {
        return Err(Failure::Message("nothing was changed".to_owned()));
    }
    let recovered = recovery::go_on_alone(&rt, &args.data_dir).await.map_err(|error| error.to_string())?;
    println!("it goes on alone, as number {} of consensus; start it first, then the others with empty directories", recovered.raft_id);
    Ok(())
}

/// Asks for a yes.
fn asked(question: &str) -> Result<bool, Failure> {
    let mut err = std::io::stderr().lock();
    write!(err, "ottla: {question} Type yes: ")?;
    err.flush()?;
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line).map_err(|error| format!("cannot read the answer: {error}; --yes goes on without asking"))?;
    Ok(line.trim() == "yes")
}
