//! Requests that are answered from the tree and the watches of this member.
//!
//! The tree is looked at, and a watch is set, under one lock: whatever changes after the look fires the watch. A read that comes behind changes of its own
//! session is carried out by the node, right after the last of them.

use crate::coordination::acl::{self, Identity, perms};
use crate::coordination::hub::{Hub, Told};
use crate::coordination::jute::Writer;
use crate::coordination::op::{ErrorCode, Stat};
use crate::coordination::path;
use crate::coordination::protocol::{self, Read, Request, opcode};
use crate::coordination::tree::Tree;
use crate::coordination::watch::{WatchKind, WatcherId};

/// Who asks.
pub(super) struct Asker<'a> {
    pub(super) session: i64,
    pub(super) watcher: WatcherId,
    pub(super) identities: &'a [Identity],
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The last transaction that it shows.
    pub(super) zxid: i64,
    /// Its body.
    pub(super) body: Writer,
    /// What the client missed while it was away: told before the answer.
    pub(super) missed: Vec<Told>,
    /// Whether there is a body.
    pub(super) outcome: Result<(), ErrorCode>,
}

/// Answers a request from the tree. Changes and what concerns the connection alone are not for here.
pub(super) fn answer(hub: &Hub, tree: &Tree, asker: &Asker<'_>, request: &Request) -> Answer {
    let mut answer = Answer { zxid: tree.last_zxid(), body: Writer::default(), missed: Vec::new(), outcome: Ok(()) };
    let body = &mut answer.body;
    let watch = |path: &str, kind, wanted: bool| {
        if wanted && path::validate(path).is_ok() {
            hub.lock().watch(asker.watcher, path, kind);
        }
    };
    let outcome = match request {
        Request::Exists { path, watch: wanted } => {
            exists(tree, asker, path).inspect_err(|code| watch(path, WatchKind::Data, *wanted && *code == ErrorCode::NoNode)).map(|stat| {
                watch(path, WatchKind::Data, *wanted);
                body.stat(&stat);
            })
        }
        Request::GetData { path, watch: wanted } => data(tree, asker, path, body).inspect(|()| watch(path, WatchKind::Data, *wanted)),
        Request::GetChildren { path, watch: wanted, with_stat } => {
            children(tree, asker, path, *with_stat, body).inspect(|()| watch(path, WatchKind::Child, *wanted))
        }
        Request::GetAcl { path } => get_acl(tree, asker, path, body),
        Request::MultiRead(reads) => {
            for read in reads {
                let mut one = Writer::default();
                let (opcode, outcome) = match read {
                    Read::Data(path) => (opcode::GET_DATA, data(tree, asker, path, &mut one)),
                    Read::Children(path) => (opcode::GET_CHILDREN, children(tree, asker, path, false, &mut one)),
                };
                match outcome {
                    Ok(()) => {
                        protocol::encode_multi_header(body, opcode, false, 0);
                        body.append(&one.finish());
                    }
                    Err(code) => protocol::encode_multi_error(body, code),
                }
            }
            protocol::encode_multi_end(body);
            Ok(())
        }
        Request::GetAllChildrenNumber { path } => readable(tree, asker, path).map(|_| {
            let count = tree.descendant_count(path).unwrap_or(0);
            body.int(i32::try_from(count).unwrap_or(i32::MAX));
        }),
        Request::GetEphemerals { prefix } => {
            let all = matches!(prefix.trim(), "" | "/");
            let ephemerals: Vec<&str> = tree.ephemerals(asker.session).filter(|path| all || path.starts_with(prefix.as_str())).collect();
            body.strings(ephemerals.into_iter());
            Ok(())
        }
        Request::Sync { path } => {
            body.string(path);
            Ok(())
        }
        Request::SetWatches { seen_zxid, watched } => {
            let missed = hub.lock().set_watches(asker.watcher, watched, *seen_zxid, |path| known(tree, path));
            // Of a znode that it may not read it is told as little as if it had stayed.
            let may_know = |path: &str| tree.acl_list(path).is_none_or(|acl| acl::allows(&acl, perms::READ, asker.identities));
            let told = missed.into_iter().filter(|(path, _)| may_know(path));
            answer.missed = told.map(|(path, kind)| Told { zxid: -1, kind, path: path.into() }).collect();
            Ok(())
        }
        Request::AddWatch { path, kind } => {
            if path::validate(path).is_err() {
                Err(ErrorCode::BadArguments)
            } else {
                watch(path, *kind, true);
                body.int(0);
                Ok(())
            }
        }
        Request::CheckWatches { path, which } => {
            if hub.lock().watches.contains(asker.watcher, path, *which) {
                Ok(())
            } else {
                Err(ErrorCode::NoWatcher)
            }
        }
        Request::RemoveWatches { path, which } => {
            if hub.lock().watches.remove(asker.watcher, path, *which) {
                Ok(())
            } else {
                Err(ErrorCode::NoWatcher)
            }
        }
        Request::WhoAmI => {
            protocol::encode_identities(body, asker.identities);
            Ok(())
        }
        Request::Ping => Ok(()),
        Request::Write(_) | Request::Multi(_) | Request::CloseSession | Request::Auth { .. } | Request::Reconfig(_) => {
            unreachable!("{request:?} is not answered from the tree")
        }
    };
    answer.outcome = outcome;
    answer
}

/// A znode's stat. What is no path names nothing.
fn known(tree: &Tree, path: &str) -> Option<Stat> {
    if path::validate(path).is_ok() { tree.stat(path) } else { None }
}

/// That the znode exists and may be read.
fn readable(tree: &Tree, asker: &Asker<'_>, path: &str) -> Result<Stat, ErrorCode> {
    let stat = known(tree, path).ok_or(ErrorCode::NoNode)?;
    let acl = tree.acl_list(path).unwrap_or_default();
    if acl::allows(&acl, perms::READ, asker.identities) { Ok(stat) } else { Err(ErrorCode::NoAuth) }
}

fn exists(tree: &Tree, asker: &Asker<'_>, path: &str) -> Result<Stat, ErrorCode> {
    if path.contains('\0') {
        return Err(ErrorCode::BadArguments);
    }
    readable(tree, asker, path)
}

fn data(tree: &Tree, asker: &Asker<'_>, path: &str, body: &mut Writer) -> Result<(), ErrorCode> {
    readable(tree, asker, path)?;
    let (data, stat) = tree.content(path).ok_or(ErrorCode::NoNode)?;
    body.optional_buffer(data.as_deref());
    body.stat(&stat);
    Ok(())
}

fn children(tree: &Tree, asker: &Asker<'_>, path: &str, with_stat: bool, body: &mut Writer) -> Result<(), ErrorCode> {
    readable(tree, asker, path)?;
    let (names, stat) = tree.children(path).ok_or(ErrorCode::NoNode)?;
    body.strings(names.iter().map(AsRef::as_ref));
    if with_stat {
        body.stat(&stat);
    }
    Ok(())
}

fn get_acl(tree: &Tree, asker: &Asker<'_>, path: &str, body: &mut Writer) -> Result<(), ErrorCode> {
    let (acl, stat) = known(tree, path).and_then(|_| tree.acl(path)).ok_or(ErrorCode::NoNode)?;
    let list = tree.acl_list(path).unwrap_or_default();
    if !acl::allows(&list, perms::READ | perms::ADMIN, asker.identities) {
        return Err(ErrorCode::NoAuth);
    }
    let acl = if acl::allows(&list, perms::ADMIN, asker.identities) { acl } else { acl::redacted(acl) };
    protocol::encode_acl(body, &acl, &stat);
    Ok(())
}
