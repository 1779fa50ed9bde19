//! `ottla coordination members|add|remove`: who the members of an ensemble are, over their own protocol and with their secret.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cli::connect::sleep_ms;
use crate::cli::output::{Failure, complain, stdout, table, write_table};
use crate::config::{BrokerConfig, CoordinatorConfig};
use crate::coordination::DIR_NAME;
use crate::coordination::ensemble::admin;
use crate::coordination::ensemble::peer::{Answer, MembersView, Order, Secret};
use crate::coordination::service::{SECRET_FILE_NAME, read_secret};
use crate::runtime::tokio::TokioRuntime;
use crate::runtime::{HostPort, Runtime};

/// How often it is looked whether a change has come to be.
const LOOK_EVERY_MS: u64 = 100;

/// Which ensemble to ask.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub(crate) struct Ensemble {
    /// A member's configuration, which names the servers and the secret: a coordinator.properties, a zoo.cfg or a broker's server.properties.
    #[arg(short, long, value_name = "FILE", env = "OTTLA_COORDINATION_CONFIG")]
    config: Option<PathBuf>,
    /// Members, as host:port of their peers' port (the one in server.N), separated by commas.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', requires = "secret_file")]
    peer: Vec<HostPort>,
    /// The file with the ensemble's secret.
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
    /// How long to wait for what was asked for, in ms, before giving up.
    #[arg(long, value_name = "MS", default_value_t = 30_000, hide_short_help = true)]
    timeout_ms: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Members {
    #[command(flatten)]
    ensemble: Ensemble,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    /// The N of its server.N.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=255))]
    server: u32,
    /// Where its peers reach it.
    address: HostPort,
    #[command(flatten)]
    ensemble: Ensemble,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The N of its server.N.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=255))]
    server: u32,
    /// Remove it although another member is down and the ensemble could not lose one more.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    ensemble: Ensemble,
}

/// Whom to ask, and with which secret.
pub(super) struct Peers {
    pub(super) addresses: Vec<HostPort>,
    pub(super) secret: Secret,
    timeout: Duration,
}

impl Ensemble {
    pub(super) async fn peers(&self, rt: &TokioRuntime) -> Result<Peers, Failure> {
        let (mut addresses, mut secret_file) = (self.peer.clone(), self.secret_file.clone());
        if let Some(config) = &self.config {
            let (servers, configured) = read_config(rt, config).await?;
            if addresses.is_empty() {
                addresses = servers;
            }
            if addresses.is_empty() {
                return Err(Failure::Message(format!(
                    "'{}' names no servers (server.N=host:port): its member is alone, and nobody but its own process reaches it; stop it and use --data-dir",
                    config.display()
                )));
            }
            secret_file = secret_file.or(Some(configured));
        }
        let Some(secret_file) = secret_file else {
            return Err(Failure::Message("which ensemble? Give --config with a member's configuration, or --peer with --secret-file".to_owned()));
        };
        let secret = read_secret(rt, &secret_file).await.map_err(|error| error.to_string())?;
        let secret = secret.ok_or_else(|| format!("there is no secret at '{}'; name the ensemble's with --secret-file", secret_file.display()))?;
        Ok(Peers { addresses, secret, timeout: Duration::from_millis(self.timeout_ms) })
    }
}

/// The servers that a configuration names, and where its secret is.
async fn read_config(rt: &TokioRuntime, path: &Path) -> Result<(Vec<HostPort>, PathBuf), Failure> {
    let (coordination, dir) = match CoordinatorConfig::load(rt, Some(path), &[]).await {
        Ok(config) => (config.coordination, config.data_dir),
        // A broker's file has keys that a coordinator's has not; if it is neither, the coordinator's errors are more to the point.
        Err(error) => match BrokerConfig::load(rt, Some(path), &[]).await {
            Ok(config) => {
                let dir = config.log_dirs[0].join(DIR_NAME);
                (config.coordination, dir)
            }
            Err(_) => return Err(Failure::Message(error.to_string())),
        },
    };
    let secret = coordination.secret_file.clone().unwrap_or_else(|| dir.join(SECRET_FILE_NAME));
    Ok((coordination.servers.into_values().map(|server| server.peer).collect(), secret))
}

impl Peers {
    /// Asks until one answers who knows the leader, and then the leader; what the others said on the way.
    async fn leader(&self, rt: &TokioRuntime) -> Result<(HostPort, MembersView), Failure> {
        let mut said: BTreeMap<String, String> = BTreeMap::new();
        for address in &self.addresses {
            match admin::members(rt, address, &self.secret).await {
                Ok(Some(view)) if view.leader == view.raft_id => return Ok((address.clone(), view)),
                Ok(Some(view)) => {
                    let leader = view.members.iter().find(|(id, record)| *id == view.leader && !record.address.is_empty());
                    let Some((_, record)) = leader else {
                        said.insert(address.to_string(), "it knows no leader: there is no quorum".to_owned());
                        continue;
                    };
                    let leader: HostPort = record.address.parse()?;
                    match admin::members(rt, &leader, &self.secret).await {
                        Ok(Some(view)) if view.leader == view.raft_id => return Ok((leader, view)),
                        Ok(_) => drop(said.insert(leader.to_string(), "it leads no more, or not yet".to_owned())),
                        Err(error) => drop(said.insert(leader.to_string(), error.to_string())),
                    }
                }
                Ok(None) => drop(said.insert(address.to_string(), "it waits to become a member".to_owned())),
                Err(error) => drop(said.insert(address.to_string(), error.to_string())),
            }
        }
        let said = said.into_iter().map(|(address, what)| format!("\n  {address}: {what}")).collect::<String>();
        Err(Failure::Message(format!("no member that leads was found:{said}")))
    }

    /// [`Peers::leader`], as long as there is time: an election may be under way.
    async fn wait_for_leader(&self, rt: &TokioRuntime) -> Result<(HostPort, MembersView), Failure> {
        let deadline = rt.now() + self.timeout;
        loop {
            match self.leader(rt).await {
                Err(_) if rt.now() < deadline => sleep_ms(rt, LOOK_EVERY_MS).await,
                found => return found,
            }
        }
    }
}

/// The name by which people know a member.
fn name(view: &MembersView, raft_id: u64) -> String {
    match view.members.iter().find(|(id, _)| *id == raft_id) {
        Some((_, record)) if record.server_id != 0 => format!("server.{}", record.server_id),
        _ => "-".to_owned(),
    }
}

pub(super) async fn members(rt: TokioRuntime, args: Members) -> Result<(), Failure> {
    let peers = args.ensemble.peers(&rt).await?;
    let mut out = stdout();
    let found = peers.leader(&rt).await;
    let view = match &found {
        Ok((_, view)) => view.clone(),
        Err(failure) => {
            // What one of them last knew is better than nothing, and said to be that.
            complain(format_args!("{failure}"));
            let mut last = None;
            for address in &peers.addresses {
                if let Ok(Some(view)) = admin::members(&rt, address, &peers.secret).await {
                    last = Some(view);
                    break;
                }
            }
            last.ok_or(Failure::Told)?
        }
    };
    let mut rows = table(&["SERVER", "ID", "ADDRESS", "ROLE", "TERM", "COMMITTED", "APPLIED", "BEHIND", "VERSION"]);
    for (raft_id, record) in &view.members {
        let own = match record.address.parse::<HostPort>() {
            Ok(address) => admin::members(&rt, &address, &peers.secret).await,
            Err(_) => Err(std::io::Error::other("it has no address")),
        };
        let role = match &own {
            Ok(Some(own)) if own.raft_id != *raft_id => "lost (another member is at its address)".to_owned(),
            _ if view.learners.contains(raft_id) => "learner (gets a vote when it has caught up)".to_owned(),
            Err(error) => format!("down ({error})"),
            _ if view.leader == *raft_id && found.is_ok() => "leader".to_owned(),
            _ => "follower".to_owned(),
        };
        let behind = view.progress.iter().find(|(id, ..)| id == raft_id).map(|(_, matched, _)| view.committed.saturating_sub(*matched));
        let behind = if view.raft_id == *raft_id && found.is_ok() { Some(0) } else { behind };
        let own = own.ok().flatten().filter(|own| own.raft_id == *raft_id);
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        rows.add_row([
            name(&view, *raft_id),
            raft_id.to_string(),
            if record.address.is_empty() { "-".to_owned() } else { record.address.clone() },
            role,
            number(own.as_ref().map(|own| own.term)),
            number(own.as_ref().map(|own| own.committed)),
            number(own.as_ref().map(|own| own.applied)),
            number(behind),
            own.as_ref().map_or_else(|| "-".to_owned(), |own| own.version.clone()),
        ]);
    }
    write_table(&mut out, &rows)?;
    let needed = view.voters.len() / 2 + 1;
    writeln!(out, "{} of {} voters must be up; last transaction {:#x}; log format {}", needed, view.voters.len(), view.last_zxid, view.log_format)?;
    out.flush()?;
    if found.is_err() { Err(Failure::Told) } else { Ok(()) }
}

pub(super) async fn add(rt: TokioRuntime, args: Add) -> Result<(), Failure> {
    let peers = args.ensemble.peers(&rt).await?;
    let deadline = rt.now() + peers.timeout;
    let mut told = String::new();
    loop {
        let (_, view) = peers.wait_for_leader(&rt).await?;
        let address = args.address.to_string();
        let here = view.members.iter().filter(|(_, record)| record.server_id == args.server);
        let (mut state, mut is_voter) = (String::new(), false);
        for (raft_id, record) in here {
            if record.address != address {
                state = format!("server.{} is member {raft_id} at {} already; give the new one another number", args.server, record.address);
            } else if view.voters.contains(raft_id) {
                // The one that is there, not what is left of one before it that lost its disk.
                let own = admin::members(&rt, &args.address, &peers.secret).await;
                is_voter = matches!(own, Ok(Some(own)) if own.raft_id == *raft_id && own.voters.contains(raft_id));
            } else if view.learners.contains(raft_id) {
                state = format!("server.{} catches up; it gets a vote then", args.server);
            }
        }
        if is_voter {
            println!("server.{} at {address} is a member with a vote; {} of {} voters must be up", args.server, view.voters.len() / 2 + 1, view.voters.len());
            println!("add server.{}={address} to the configuration of the other members, for their next start", args.server);
            return Ok(());
        }
        if state.is_empty() {
            state = match admin::members(&rt, &args.address, &peers.secret).await {
                Ok(None) => format!("server.{} is there and has not been taken in yet", args.server),
                Ok(Some(other)) if other.leader == 0 => format!("{address} belongs to a member of an ensemble that has no quorum, or of another one"),
                Ok(Some(_)) => format!("{address} is there and is not known as server.{} yet", args.server),
                Err(error) => format!(
                    "{address} does not answer: {error}; start it with an empty directory, this secret, and a configuration that names itself and the others"
                ),
            };
        }
        if rt.now() >= deadline {
            return Err(Failure::Message(format!("server.{} has not become a member in {} ms: {state}", args.server, peers.timeout.as_millis())));
        }
        if told != state {
            complain(format_args!("{state}"));
            told = state;
        }
        sleep_ms(&rt, LOOK_EVERY_MS).await;
    }
}

pub(super) async fn remove(rt: TokioRuntime, args: Remove) -> Result<(), Failure> {
    let peers = args.ensemble.peers(&rt).await?;
    let deadline = rt.now() + peers.timeout;
    let mut removing: Option<u64> = None;
    let mut was_handed_over = false;
    loop {
        let (leader, view) = peers.wait_for_leader(&rt).await?;
        let named = view.members.iter().filter(|(_, record)| record.server_id == args.server).map(|(id, _)| *id);
        // One that lost its disk may be there twice; the one that is asked for is what is left of it.
        let target = match removing {
            Some(id) => view.members.iter().any(|(other, _)| *other == id).then_some(id),
            None => Some(named.min().ok_or_else(|| format!("the ensemble has no server.{}; `ottla coordination members` lists them", args.server))?),
        };
        let Some(raft_id) = target else {
            println!("server.{} is no member any more; {} of {} voters must be up", args.server, view.voters.len() / 2 + 1, view.voters.len());
            println!("stop it, remove server.{} from the other configurations, and move its directory away before it ever joins again", args.server);
            return Ok(());
        };
        removing = Some(raft_id);
        if rt.now() >= deadline {
            return Err(Failure::Message(format!("server.{} was not removed in {} ms; ask again", args.server, peers.timeout.as_millis())));
        }
        let order = if raft_id == view.raft_id {
            if !was_handed_over {
                complain(format_args!("server.{} leads; another member takes over first", args.server));
                was_handed_over = true;
            }
            Order::HandOver
        } else {
            Order::Remove { raft_id, force: args.force }
        };
        match admin::order(&rt, &leader, &peers.secret, order).await {
            Ok(Answer::Refused(why)) => return Err(Failure::Message(format!("server.{} is not removed: {why}", args.server))),
            // Begun, elsewhere, or lost on the way: what has come of it is looked for.
            _ => sleep_ms(&rt, LOOK_EVERY_MS).await,
        }
    }
}
