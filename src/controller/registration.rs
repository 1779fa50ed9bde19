//! How a broker gets into the tree: the layout, the cluster's id, its registration, and the contest for the controllership. Each step can be done again
//! after its answer was lost: it first looks at what is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use uuid::Uuid;

use super::changes::random_id;
use super::image::BrokerInfo;
use super::troubles::{BrokerTroubles, Trouble};
use super::znodes::{self, PartitionState, Registration};
use super::{ControllerConfig, StartError, uuid_text};
use crate::coordination::client::{Session, State};
use crate::coordination::op::{ANY_VERSION, CreateMode, ErrorCode, Failure, Operation, OperationResult};
use crate::coordination::tree::NodeView;
use crate::runtime::Runtime;

/// The controllership, for as long as `/controller_epoch` has this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reign {
    /// How often a controller was elected.
    pub(super) epoch: i32,
    /// The version of `/controller_epoch` that this controller wrote: every write of it checks that.
    pub(super) epoch_version: i32,
}

/// Makes the znodes that always exist.
pub(super) async fn create_persistent<R: Runtime>(session: &Session<R>) -> Result<(), Failure> {
    loop {
        let found = try_join_all(znodes::PERSISTENT.iter().map(|path| session.exists(path))).await?;
        let missing: Vec<Operation> =
            znodes::PERSISTENT.iter().zip(found).filter(|(_, stat)| stat.is_none()).map(|(path, _)| Operation::create(*path, "")).collect();
        if missing.is_empty() {
            return Ok(());
        }
        match session.multi(missing).await {
            Ok(_) => return Ok(()),
            // Another broker does the same at this moment.
            Err(Failure { code: ErrorCode::NodeExists, .. }) => {}
            Err(failure) => return Err(failure),
        }
    }
}

/// Makes the chroot of `session`, with the znodes above it: `top` is a session of the same ensemble without a chroot.
pub(crate) async fn create_chroot<R: Runtime>(top: &Session<R>, chroot: &str) -> Result<(), Failure> {
    for end in chroot.match_indices('/').map(|(at, _)| at).skip(1).chain([chroot.len()]) {
        let path = &chroot[..end];
        if top.exists(path).await?.is_none() {
            match top.create(path, "", crate::coordination::op::CreateMode::Persistent).await {
                Ok(_) | Err(Failure { code: ErrorCode::NodeExists, .. }) => {}
                Err(failure) => return Err(failure),
            }
        }
    }
    Ok(())
}

/// What a znode holds, or nothing.
pub(super) async fn find<R: Runtime>(session: &Session<R>, path: &str) -> Result<Option<NodeView>, Failure> {
    match session.get(path).await {
        Ok(view) => Ok(Some(view)),
        Err(Failure { code: ErrorCode::NoNode, .. }) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// The cluster's id. A tree that has none gets one, unless the log directories belong to a cluster already: then it is not their tree.
pub(super) async fn cluster_id<R: Runtime>(rt: &R, session: &Session<R>, expected: Option<&str>) -> Result<String, StartError> {
    let at = || session.connector().to_string();
    loop {
        let stored = match find(session, znodes::CLUSTER_ID).await? {
            Some(view) => Some(znodes::decode_cluster_id(&view.data)?),
            None => None,
        };
        return match (stored, expected) {
            (Some(stored), Some(expected)) if stored != expected => Err(StartError::InconsistentClusterId { at: at(), stored, expected: expected.to_owned() }),
            (Some(stored), _) => Ok(stored),
            (None, Some(expected)) if session.connector().is_in_process() => Err(StartError::MetadataLost { expected: expected.to_owned() }),
            (None, Some(expected)) => Err(StartError::NoCluster { at: at(), expected: expected.to_owned() }),
            (None, None) => {
                let id = uuid_text::to_text(random_id(rt));
                match session.multi(vec![Operation::create(znodes::CLUSTER_ID, znodes::encode_cluster_id(&id))]).await {
                    Ok(_) => Ok(id),
                    // Another broker was first.
                    Err(Failure { code: ErrorCode::NodeExists, .. }) => continue,
                    Err(failure) => Err(failure.into()),
                }
            }
        };
    }
}

/// What to do about a registration that is there. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It is this session's own.
    Own,
    /// It is of an earlier life of this broker: it carries one of its directory ids.
    Ghost,
    /// It is of another broker.
    Foreign,
}

fn standing(session: i64, directory_ids: &[Uuid], holder: i64, registration: &Registration) -> Standing {
    if holder == session {
        Standing::Own
    } else if registration.directory_ids.iter().any(|id| directory_ids.contains(id)) {
        Standing::Ghost
    } else {
        Standing::Foreign
    }
}

/// Registers the broker, and makes it the controller in the same transaction if there is none. Returns the broker with its epoch.
///
/// A registration of an earlier life of this broker is deleted in the transaction that creates the new one. That it is the one that was looked at is made
/// sure first: versions alone do not tell it from a new one of the same number. Another broker's is waited for until its session must have ended.
pub(super) async fn register<R: Runtime>(rt: &R, session: &Session<R>, config: &ControllerConfig) -> Result<(BrokerInfo, Option<Reign>), StartError> {
    let id = config.broker.id;
    let path = znodes::broker_path(id);
    let mut deadline = None;
    loop {
        let own = session.id();
        let mut operations = Vec::new();
        let mut ghost = None;
        if let Some(view) = find(session, &path).await? {
            let holder = view.stat.ephemeral_owner;
            match standing(own, &config.broker.directory_ids, holder, &Registration::decode(&view.data)) {
                Standing::Own => return Ok((BrokerInfo { epoch: view.stat.czxid, ..config.broker.clone() }, None)),
                Standing::Ghost => match session.set(&path, view.data.clone(), view.stat.version).await {
                    Ok(stat) if stat.czxid == view.stat.czxid => {
                        tracing::info!(broker = id, session = format_args!("{holder:#x}"), "taking the place of this broker's registration of an earlier life");
                        operations.push(Operation::delete(&*path, stat.version));
                        ghost = Some(holder);
                    }
                    Ok(_) | Err(Failure { code: ErrorCode::NoNode | ErrorCode::BadVersion, .. }) => continue,
                    Err(failure) => return Err(failure.into()),
                },
                Standing::Foreign => {
                    let deadline = *deadline.get_or_insert_with(|| {
                        // The holder's time-out is not known, but most brokers have the same; members look for silent sessions once in a tick.
                        let patience = session.timeout() + (session.timeout() / 2).max(Duration::from_secs(4));
                        tracing::warn!(
                            broker = id,
                            holder = %String::from_utf8_lossy(&view.data),
                            patience_ms = patience.as_millis(),
                            "another broker is registered under this broker's id; waiting for its session to end, if it has gone"
                        );
                        rt.now() + patience
                    });
                    if !gone(rt, session, &path, deadline).await? {
                        return Err(StartError::Held { path, holder: String::from_utf8_lossy(&view.data).into_owned() });
                    }
                    continue;
                }
            }
        }
        let now_ms = rt.unix_ms();
        // As Kafka does it: what replaces the content tells the transaction that is the broker's epoch, also within an older ensemble's `multi`.
        let content = znodes::encode_broker(&config.broker, now_ms);
        operations.extend([Operation::create_ephemeral(&*path, ""), Operation::set(&*path, content, 0)]);
        let created_at = operations.len() - 1;
        let mut contest = None;
        let controller = find(session, znodes::CONTROLLER).await?;
        if controller.as_ref().is_none_or(|view| Some(view.stat.ephemeral_owner) == ghost) {
            let epoch = session.get(znodes::CONTROLLER_EPOCH).await?;
            let next = znodes::decode_controller_epoch(&epoch.data)? + 1;
            if let Some(view) = controller {
                operations.push(Operation::delete(znodes::CONTROLLER, view.stat.version));
            }
            contest = Some((next, operations.len()));
            operations.extend(contention(id, next, epoch.stat.version, now_ms));
        }
        match session.multi(operations).await {
            Ok(results) => {
                let epoch = set_stat(&results, created_at).czxid;
                let reign = contest.map(|(epoch, at)| Reign { epoch, epoch_version: set_stat(&results, at).version });
                return Ok((BrokerInfo { epoch, ..config.broker.clone() }, reign));
            }
            // Somebody was faster, here or there: look again.
            Err(Failure { code: ErrorCode::NodeExists | ErrorCode::NoNode | ErrorCode::BadVersion, .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
}

fn set_stat(results: &[OperationResult], at: usize) -> crate::coordination::op::Stat {
    match results.get(at) {
        Some(OperationResult::Set { stat }) => *stat,
        other => unreachable!("a replacement answered {other:?}"),
    }
}

/// What makes a broker the controller: the greater epoch first.
fn contention(broker_id: i32, epoch: i32, epoch_version: i32, now_ms: i64) -> [Operation; 2] {
    [
        Operation::set(znodes::CONTROLLER_EPOCH, znodes::encode_controller_epoch(epoch), epoch_version),
        Operation::create_ephemeral(znodes::CONTROLLER, znodes::encode_controller(broker_id, now_ms)),
    ]
}

/// Waits until a znode is gone, or the deadline: whether it is gone.
async fn gone<R: Runtime>(rt: &R, session: &Session<R>, path: &str, deadline: crate::runtime::Instant) -> Result<bool, Failure> {
    let mut watcher = session.watcher();
    if session.exists_and_watch(path, &watcher).await?.is_none() {
        return Ok(true);
    }
    let late = rt.timer(deadline);
    tokio::select! {
        biased;
        event = watcher.next() => match event {
            Some(_) => Ok(true),
            None => Err(Failure::new(if session.state() == State::Expired { ErrorCode::SessionExpired } else { ErrorCode::ConnectionLoss }, path)),
        },
        () = late => Ok(false),
    }
}

/// Makes this broker the controller if there is none. `None` if another one is.
pub(super) async fn contend<R: Runtime>(rt: &R, session: &Session<R>, broker_id: i32) -> Result<Option<Reign>, StartError> {
    loop {
        let controller = find(session, znodes::CONTROLLER).await?;
        let epoch = session.get(znodes::CONTROLLER_EPOCH).await?;
        let current = znodes::decode_controller_epoch(&epoch.data)?;
        match controller {
            Some(view) if view.stat.ephemeral_owner == session.id() => {
                // Won before, and the answer was lost. Had another one won since, this znode would not be there.
                return Ok(Some(Reign { epoch: current, epoch_version: epoch.stat.version }));
            }
            Some(_) => return Ok(None),
            None => {}
        }
        match session.multi(contention(broker_id, current + 1, epoch.stat.version, rt.unix_ms()).into()).await {
            Ok(results) => return Ok(Some(Reign { epoch: current + 1, epoch_version: set_stat(&results, 0).version })),
            Err(Failure { code: ErrorCode::NodeExists | ErrorCode::BadVersion, .. }) => {}
            Err(failure) => return Err(failure.into()),
        }
    }
}

/// Writes down what broker `id` says of its replicas; where there is no trouble, nothing is.
pub(super) async fn write_troubles<R: Runtime>(session: &Session<R>, id: i32, told: &BrokerTroubles) -> Result<(), Failure> {
    let path = znodes::offline_path(id);
    loop {
        let written = match (session.exists(&path).await?, told == &BrokerTroubles::default()) {
            (None, true) => Ok(()),
            (Some(_), true) => session.delete(&path, ANY_VERSION).await,
            (None, false) => session.create(&path, told.encode(), CreateMode::Persistent).await.map(drop),
            (Some(_), false) => session.set(&path, told.encode(), ANY_VERSION).await.map(drop),
        };
        match written {
            // A tree of an earlier release.
            Err(Failure { code: ErrorCode::NoNode, .. }) if session.exists(znodes::OFFLINE).await?.is_none() => create_persistent(session).await?,
            // Its answer was lost, and this is the second try.
            Err(Failure { code: ErrorCode::NodeExists | ErrorCode::NoNode, .. }) => {}
            written => return written,
        }
    }
}

/// What a broker that starts with these log directories must say of its replicas before it registers: those of directories that it had and has not, if it has others
/// that it had. With `is_one_down` a directory of its configuration does not work, and what was in it may come back; else it is gone for good. `has_log` says whether the
/// log of a partition is there. Written down when this returns.
///
/// # Errors
/// [`StartError`].
pub async fn missing_replicas<R: Runtime>(
    session: &Session<R>,
    id: i32,
    directory_ids: &[Uuid],
    is_one_down: bool,
    has_log: impl Fn(&str, i32) -> bool,
) -> Result<BrokerTroubles, StartError> {
    let before = find(session, &znodes::offline_path(id)).await?.map(|view| BrokerTroubles::decode(&view.data)).unwrap_or_default();
    let mut known: BTreeSet<Uuid> = before.missing.iter().copied().collect();
    known.extend(find(session, &znodes::directory_path(id)).await?.iter().flat_map(|view| znodes::decode_directories(&view.data)));
    let missing: Vec<Uuid> = known.iter().copied().filter(|id| !directory_ids.contains(id)).collect();
    let mut told = BrokerTroubles::default();
    // One that has none of its directories is in sync nowhere at all: the controller sees that by itself.
    if !missing.is_empty() && missing.len() < known.len() {
        let (topics, _) = session.children(znodes::TOPICS).await?;
        for (path, view) in read_all(session, topics.iter().map(|topic| znodes::topic_path(topic))).await? {
            let Some(topic) = path.strip_prefix(znodes::TOPICS).and_then(|rest| rest.strip_prefix('/')).map(Arc::<str>::from) else { continue };
            let (_, replicas) = znodes::decode_topic(&path, &view.data)?;
            for (number, _) in (0..).zip(replicas).filter(|(number, replicas)| replicas.contains(&id) && !has_log(&topic, *number)) {
                let path = znodes::state_path(&topic, number);
                let is_in_sync = match find(session, &path).await? {
                    Some(view) => PartitionState::decode(&path, &view.data)?.isr.contains(&id),
                    None => false,
                };
                // What is not in sync may be copied anew, unless the directory may come back with another copy.
                if is_one_down || is_in_sync {
                    told.replicas.insert((Arc::clone(&topic), number), if is_one_down { Trouble::Offline } else { Trouble::Lost });
                }
            }
        }
        if !told.replicas.is_empty() {
            told.missing = missing;
        }
    }
    if told != before {
        write_troubles(session, id, &told).await?;
    }
    Ok(told)
}

/// Reads many znodes at once; those that do not exist are left out.
pub(super) async fn read_all<R: Runtime>(session: &Session<R>, paths: impl Iterator<Item = String>) -> Result<Vec<(String, NodeView)>, Failure> {
    let read = join_all(paths.map(|path| async move { (find(session, &path).await, path) })).await;
    read.into_iter().filter_map(|(view, path)| view.map(|view| view.map(|view| (path, view))).transpose()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ghost_is_known_by_its_directory() {
        let [one, other] = [1, 2].map(Uuid::from_u128);
        let registration = |ids: &[Uuid]| Registration { directory_ids: ids.to_vec() };
        assert_eq!(standing(5, &[one], 5, &registration(&[other])), Standing::Own);
        assert_eq!(standing(5, &[one], 4, &registration(&[one])), Standing::Ghost);
        assert_eq!(standing(5, &[one, other], 4, &registration(&[other])), Standing::Ghost, "a directory was added in front");
        assert_eq!(standing(5, &[one], 4, &registration(&[other])), Standing::Foreign);
        assert_eq!(standing(5, &[], 4, &registration(&[])), Standing::Foreign, "Kafka's registrations carry none");
    }
}
