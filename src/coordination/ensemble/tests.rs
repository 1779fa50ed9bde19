//! Three members over real sockets: they begin together, outlive their leader, and take in one that lost its disk.

#![allow(clippy::disallowed_methods, reason = "a disk is lost behind the boundary's back")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::consensus::Change;
use super::peer::Secret;
use super::start::EnsembleConfig;
use super::{ChangeRefused, Status};
use crate::coordination::op::{ANY_VERSION, CreateMode, ErrorCode};
use crate::coordination::{Coordination, Options};
use crate::runtime::tokio::{TokioRuntime, run};
use crate::runtime::{HostPort, Listener, Runtime, Task};

type Member = Coordination<TokioRuntime>;

/// As many free ports of this host.
async fn configs(rt: &TokioRuntime, count: u32) -> Vec<EnsembleConfig> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(rt.listen(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap());
    }
    let addresses: Vec<SocketAddr> = listeners.iter().map(Listener::local_addr).collect();
    let servers: BTreeMap<u32, HostPort> =
        (1..).zip(&addresses).map(|(id, address)| (id, HostPort { host: address.ip().to_string(), port: address.port() })).collect();
    let config = |(server_id, listen)| EnsembleConfig { server_id, servers: servers.clone(), secret: Secret::new("a secret of sixteen or more"), listen };
    (1..).zip(addresses).map(config).collect()
}

async fn open(rt: &TokioRuntime, dir: &Path, config: &EnsembleConfig) -> Member {
    let options = Options { snapshot_every_entries: 20, ..Options::default() };
    Coordination::open_member(rt.clone(), dir, config, options, None).await.unwrap()
}

async fn open_all(rt: &TokioRuntime, dirs: &[PathBuf], configs: &[EnsembleConfig]) -> Vec<Member> {
    let opening: Vec<_> = dirs
        .iter()
        .zip(configs)
        .map(|(dir, config)| {
            let (this, dir, config) = (rt.clone(), dir.clone(), config.clone());
            rt.spawn("opening", async move { open(&this, &dir, &config).await })
        })
        .collect();
    let mut members = Vec::new();
    for one in opening {
        members.push(one.join().await.unwrap());
    }
    members
}

/// Asks until the status is as wanted; each question waits for a quorum.
async fn until(member: &Member, wanted: impl Fn(&Status) -> bool) -> Status {
    loop {
        let _ = member.sync().await;
        let status = member.status().await.unwrap();
        if wanted(&status) {
            return status;
        }
    }
}

/// Writes until it is answered: leadership may change hands meanwhile.
async fn set(member: &Member, path: &str, data: &'static str) {
    while let Err(failure) = member.set(path, data, ANY_VERSION).await {
        assert_eq!(failure.code, ErrorCode::ConnectionLoss);
    }
}

#[test]
fn three_members_agree_outlive_their_leader_and_take_in_one_that_lost_its_disk() {
    let temporary = TempDir::new().unwrap();
    let dirs: Vec<PathBuf> = (1..=3).map(|id| temporary.path().join(id.to_string())).collect();
    run(2, |rt| async move {
        let configs = configs(&rt, 3).await;
        let mut members = open_all(&rt, &dirs, &configs).await;
        members[0].create("/a", &b"0"[..], CreateMode::Persistent).await.unwrap();
        for (number, member) in members.iter().enumerate() {
            assert_eq!(member.set("/a", &b"1"[..], number as i32).await.unwrap().version, number as i32 + 1);
        }
        members[1].sync().await.unwrap();
        assert_eq!(members[1].get("/a").await.unwrap().stat.version, 3);

        // The leader goes in order; another leads, and the one that comes back has what it missed.
        let leader = until(&members[0], |status| status.leadership.leader != 0).await.leadership.leader as usize - 1;
        let other = (leader + 1) % 3;
        assert!(matches!(members[other].change_members(Change::Remove(9)).await, Err(ChangeRefused::NotLeader { .. })));
        members[leader].shutdown().await;
        set(&members[other], "/a", "2").await;
        members[leader] = open(&rt, &dirs[leader], &configs[leader]).await;
        members[leader].sync().await.unwrap();
        assert_eq!(members[leader].get("/a").await.unwrap().data, &b"2"[..]);

        // A member loses its disk: it comes back as another one, and gets the lost one's vote.
        let lost = (leader + 2) % 3;
        members[lost].shutdown().await;
        std::fs::remove_dir_all(&dirs[lost]).unwrap();
        members[lost] = open(&rt, &dirs[lost], &configs[lost]).await;
        let whole = |status: &Status| status.conf_state.voters.len() == 3 && status.conf_state.learners.is_empty() && status.conf_state.voters.contains(&4);
        let status = until(&members[lost], whole).await;
        assert_eq!(status.raft_id, 4);
        assert!(!status.conf_state.voters.contains(&(lost as u64 + 1)), "{status:?}");
        set(&members[lost], "/a", "3").await;
        for member in &members {
            member.sync().await.unwrap();
            assert_eq!(member.get("/a").await.unwrap().data, &b"3"[..]);
        }
        for member in &members {
            member.shutdown().await;
        }
    })
    .unwrap();
}

#[test]
fn one_member_grows_to_three_and_is_not_opened_as_if_it_were_alone() {
    let temporary = TempDir::new().unwrap();
    let dirs: Vec<PathBuf> = (1..=3).map(|id| temporary.path().join(id.to_string())).collect();
    run(2, |rt| async move {
        let alone = Coordination::open(rt.clone(), &dirs[0]).await.unwrap();
        alone.create("/a", &b"0"[..], CreateMode::Persistent).await.unwrap();
        alone.shutdown().await;
        let configs = configs(&rt, 3).await;
        let members = open_all(&rt, &dirs, &configs).await;
        until(&members[2], |status| status.conf_state.voters.len() == 3).await;
        assert_eq!(members[2].get("/a").await.unwrap().data, &b"0"[..]);
        set(&members[2], "/a", "1").await;
        for member in &members {
            member.shutdown().await;
        }
        let refused = Coordination::open(rt, &dirs[0]).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("belongs to a member of an ensemble") && refused.contains("server.N"), "{refused}");
    })
    .unwrap();
}
