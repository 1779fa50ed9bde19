//! ZooKeeper's `reconfig`: another membership, by members that join and leave, or by a list of all.
//!
//! ZooKeeper changes from one configuration to another at once. Here members join and leave one after the other, each by a change that a majority of
//! the members before it has: whoever watches `/zookeeper/config` sees every step. The answer comes when the last is done; if that takes too long, it says
//! whether nothing was done or a part. A member that joins
//! is an observer until it has caught up, and a participant from then on by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use crate::coordination::Coordination;
use crate::coordination::acl::{self, Identity, perms};
use crate::coordination::ensemble::peer::Wish;
use crate::coordination::op::{ErrorCode, Stat};
use crate::coordination::protocol::Reconfig;
use crate::coordination::tree::{CONFIG, Tree};
use crate::runtime::{HostPort, Runtime};

/// How long all changes may take.
const WITHIN: Duration = Duration::from_secs(10);

/// After how long a wish that nothing came of is told again: the leader may have changed, or be handing over.
const AGAIN: Duration = Duration::from_millis(250);

/// What the membership is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Target {
    /// Servers that are to be members, with their peers' address.
    pub(super) joining: BTreeMap<u32, String>,
    /// Servers that are not to be.
    pub(super) leaving: BTreeSet<u32>,
}

impl Target {
    /// Reads what is asked for, given the servers that there are.
    ///
    /// # Errors
    /// [`ErrorCode::BadArguments`] for what is no list of servers, and for a membership that would have nobody.
    pub(super) fn of(asked: &Reconfig, servers: &BTreeMap<u32, String>) -> Result<Self, ErrorCode> {
        let target = if let Some(all) = asked.members.as_deref() {
            let joining = joining(all)?;
            Self { leaving: servers.keys().filter(|id| !joining.contains_key(id)).copied().collect(), joining }
        } else {
            let leaving = asked.leaving.as_deref().map_or(Ok(BTreeSet::new()), |ids| items(ids).map(number).collect())?;
            Self { joining: asked.joining.as_deref().map_or(Ok(BTreeMap::new()), joining)?, leaving }
        };
        let is_empty = target.joining.is_empty() && target.leaving.is_empty();
        let leaves_nobody = target.joining.is_empty() && servers.keys().all(|id| target.leaving.contains(id));
        let contradicts = target.joining.keys().any(|id| target.leaving.contains(id));
        if is_empty || leaves_nobody || contradicts { Err(ErrorCode::BadArguments) } else { Ok(target) }
    }

    /// What is to be done next, given the servers that there are: first they join, then others leave.
    pub(super) fn next(&self, servers: &BTreeMap<u32, String>) -> Option<Wish> {
        let joins = self.joining.iter().find(|(id, address)| servers.get(id) != Some(address));
        let joins = joins.map(|(id, address)| Wish::Join { server_id: *id, address: address.clone() });
        joins.or_else(|| self.leaving.iter().find(|id| servers.contains_key(id)).map(|id| Wish::Leave { server_id: *id }))
    }

    /// The steps that were done, and those that were not, in words.
    fn progress(&self, before: &BTreeMap<u32, String>, now: &BTreeMap<u32, String>) -> (Vec<String>, Vec<String>) {
        let joins = self.joining.iter().filter(|(id, address)| before.get(id) != Some(address));
        let joins = joins.map(|(id, address)| (now.get(id) == Some(address), format!("server.{id} joins at {address}")));
        let leaves = self.leaving.iter().filter(|id| before.contains_key(id)).map(|id| (!now.contains_key(id), format!("server.{id} leaves")));
        let (done, open): (Vec<_>, Vec<_>) = joins.chain(leaves).partition(|(is_done, _)| *is_done);
        let words = |steps: Vec<(bool, String)>| steps.into_iter().map(|(_, step)| step).collect();
        (words(done), words(open))
    }
}

/// The time is over: what is told.
fn told_of_the_rest(target: &Target, before: &BTreeMap<u32, String>, now: &BTreeMap<u32, String>) -> ErrorCode {
    let (done, open) = target.progress(before, now);
    if done.is_empty() {
        return ErrorCode::NewConfigNoQuorum;
    }
    tracing::warn!("a reconfig was done in part: {}; not done: {}; ask for the rest again, or undo it by another", done.join(", "), open.join(", "));
    ErrorCode::OperationTimeout
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn number(id: &str) -> Result<u32, ErrorCode> {
    id.parse().ok().filter(|id| *id > 0).ok_or(ErrorCode::BadArguments)
}

/// `server.N=host:port[:port][:role][;client]`, separated by commas. The first port is the peers'; the election has no port of its own here.
fn joining(list: &str) -> Result<BTreeMap<u32, String>, ErrorCode> {
    let one = |item: &str| {
        let (key, value) = item.split_once('=').ok_or(ErrorCode::BadArguments)?;
        let id = number(key.trim().strip_prefix("server.").ok_or(ErrorCode::BadArguments)?)?;
        let peers = value.split(';').next().unwrap_or_default().trim();
        // The host may be an IPv6 address in brackets.
        let host_end = peers.rfind(']').map_or(0, |at| at + 1);
        let host_end = host_end + peers[host_end..].find(':').ok_or(ErrorCode::BadArguments)?;
        let port = peers[host_end + 1..].split(':').next().unwrap_or_default();
        let address: HostPort = format!("{}:{port}", &peers[..host_end]).parse().map_err(|_| ErrorCode::BadArguments)?;
        Ok((id, address.to_string()))
    };
    let mut servers = BTreeMap::new();
    for item in items(list) {
        let (id, address) = one(item)?;
        if servers.insert(id, address).is_some() {
            return Err(ErrorCode::BadArguments);
        }
    }
    Ok(servers)
}

/// Carries out a `reconfig` and returns the transaction after which it is so, with the content and the stat of `/zookeeper/config`.
///
/// # Errors
/// As ZooKeeper's: [`ErrorCode::Unimplemented`] at a member that is alone, [`ErrorCode::BadVersion`] if the configuration is another than the
/// expected one, [`ErrorCode::BadArguments`], [`ErrorCode::NoAuth`] by the ACL of `/zookeeper/config`,
/// [`ErrorCode::NewConfigNoQuorum`] if the members could not agree on it in time and nothing was changed, [`ErrorCode::OperationTimeout`] if some steps were
/// done and others not (ZooKeeper has no such case): they stay, and this member's log names both.
pub(super) async fn reconfigure<R: Runtime>(
    coordination: &Coordination<R>,
    identities: &[Identity],
    asked: &Reconfig,
) -> Result<(i64, Bytes, Stat), ErrorCode> {
    coordination.sync().await.map_err(|failure| failure.code)?;
    let (version, may) = coordination.read(|tree| {
        let acl = tree.acl_list(CONFIG).unwrap_or_default();
        (tree.config_version(), acl::allows(&acl, perms::WRITE, identities))
    });
    let version = version.ok_or(ErrorCode::Unimplemented)?;
    if asked.config_id != -1 && asked.config_id != version {
        return Err(ErrorCode::BadVersion);
    }
    let servers = async || {
        let status = coordination.status().await.ok_or(ErrorCode::ConnectionLoss)?;
        Ok::<_, ErrorCode>(status.members.into_values().filter(|record| record.server_id != 0).map(|record| (record.server_id, record.address)).collect())
    };
    let before = servers().await?;
    let target = Target::of(asked, &before)?;
    // In ZooKeeper's order: what is wrong with a request is told before that it may not be made (kazoo's test_bad_input).
    if !may {
        return Err(ErrorCode::NoAuth);
    }
    let mut changes = coordination.subscribe();
    let mut late = std::pin::pin!(coordination.rt.sleep(WITHIN));
    while let Some(wish) = target.next(&servers().await?) {
        coordination.wish(wish).await;
        let again = coordination.rt.sleep(AGAIN);
        tokio::select! {
            biased;
            () = &mut late => return Err(told_of_the_rest(&target, &before, &servers().await?)),
            _ = changes.next() => {}
            () = again => {}
        }
    }
    coordination.read(|tree: &Tree| {
        let view = tree.get(CONFIG).ok_or(ErrorCode::NoNode)?;
        Ok((tree.last_zxid(), view.data, view.stat))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(ids: &[u32]) -> BTreeMap<u32, String> {
        ids.iter().map(|id| (*id, format!("h{id}:2888"))).collect()
    }

    fn asked(joining: Option<&str>, leaving: Option<&str>, members: Option<&str>) -> Reconfig {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Reconfig { joining: own(joining), leaving: own(leaving), members: own(members), config_id: -1 }
    }

    #[test]
    fn what_is_asked_for_becomes_steps() {
        let mut there = servers(&[1, 2, 3]);
        let asks = asked(Some("server.4=h4:2888:3888:participant;2181, server.2=[::1]:9:10"), Some("3,1"), None);
        let target = Target::of(&asks, &there).unwrap();
        assert_eq!(target.next(&there), Some(Wish::Join { server_id: 2, address: "[::1]:9".into() }));
        there.insert(2, "[::1]:9".into());
        assert_eq!(target.next(&there), Some(Wish::Join { server_id: 4, address: "h4:2888".into() }));
        there.insert(4, "h4:2888".into());
        assert_eq!(target.next(&there), Some(Wish::Leave { server_id: 1 }));
        there.remove(&1);
        there.remove(&3);
        assert_eq!(target.next(&there), None);
        let all = Target::of(&asked(None, None, Some("server.2=h2:2888:3888,server.4=h4:1:2")), &servers(&[1, 2, 3])).unwrap();
        assert_eq!((all.joining.len(), all.leaving), (2, BTreeSet::from([1, 3])));
    }

    #[test]
    fn what_was_done_in_part_is_told_as_such() {
        let before = servers(&[1, 2, 3]);
        let target = Target::of(&asked(Some("server.4=h4:2888:3888"), Some("3"), None), &before).unwrap();
        assert_eq!(told_of_the_rest(&target, &before, &before), ErrorCode::NewConfigNoQuorum);
        let joined = servers(&[1, 2, 3, 4]);
        assert_eq!(told_of_the_rest(&target, &before, &joined), ErrorCode::OperationTimeout);
        assert_eq!(target.progress(&before, &joined), (vec!["server.4 joins at h4:2888".to_owned()], vec!["server.3 leaves".to_owned()]));
    }

    #[test]
    fn nonsense_is_refused() {
        for (joining, leaving, members) in [
            (None, None, None),
            (Some("server.4"), None, None),
            (Some("server.x=h:1:2"), None, None),
            (Some("server.4=h"), None, None),
            (Some("server.4=h:99999:1"), None, None),
            (Some("server.4=h:1:2,server.4=h:1:2"), None, None),
            (Some("server.4=h:1:2"), Some("4"), None),
            (None, Some("1,2,3"), None),
            (None, Some("0"), None),
            (None, None, Some("")),
        ] {
            let asks = asked(joining, leaving, members);
            assert_eq!(Target::of(&asks, &servers(&[1, 2, 3])), Err(ErrorCode::BadArguments), "{asks:?}");
        }
    }
}
