//! What a command will do, before anything is done: the checks in ZooKeeper's order (its `PrepRequestProcessor`), each against the state that the
//! command's own earlier operations will have made.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Step, Transaction, Tree};
use crate::coordination::acl::{self, Acl, AclList, Identity, perms};
use crate::coordination::lifetime::Lifetime;
use crate::coordination::op::{ANY_VERSION, Command, CreateMode, ErrorCode, Failure, Operation, Request};
use crate::coordination::path;

impl Tree {
    /// Validates the command and computes what it will do.
    ///
    /// # Errors
    /// The first operation that cannot be done, with ZooKeeper's code; the checks come in ZooKeeper's order.
    pub fn prepare(&self, command: &Command) -> Result<Transaction, Failure> {
        let steps = match &command.request {
            &Request::CreateSession { session, timeout_ms } => vec![self.begin(session, timeout_ms, None)?],
            &Request::OpenSession { session, timeout_ms, password } => vec![self.begin(session, timeout_ms, Some(password))?],
            &Request::CloseSession { session } => vec![Step::CloseSession { session }],
            Request::Attach { attached_zxid, timeout_ms, password } => {
                let known = self.client_session(command.session).filter(|known| known.is_password(password));
                let known = known.ok_or_else(|| Failure::new(ErrorCode::SessionExpired, ""))?;
                if known.attached_zxid != *attached_zxid {
                    return Err(Failure::new(ErrorCode::SessionMoved, ""));
                }
                if *timeout_ms <= 0 {
                    return Err(Failure::new(ErrorCode::BadArguments, ""));
                }
                vec![Step::Attach { session: command.session, timeout_ms: *timeout_ms }]
            }
            Request::Configure { servers } => vec![Step::Configure { servers: servers.clone() }],
            Request::Announce { server_id, client_address } => match self.announced(*server_id, client_address) {
                Some(servers) => vec![Step::Configure { servers }],
                None => Vec::new(),
            },
            &Request::EndSession { attached_zxid } => {
                self.check_attached(command.session, attached_zxid, "")?;
                vec![Step::CloseSession { session: command.session }]
            }
            request @ (Request::One(_) | Request::Multi(_) | Request::Client { .. } | Request::Attached { .. }) => {
                let identities = match request {
                    Request::Client { identities, .. } | Request::Attached { identities, .. } => Some(identities.as_slice()),
                    _ => None,
                };
                if let Request::Attached { attached_zxid, operations, .. } = request {
                    self.check_attached(command.session, *attached_zxid, operations.first().map_or("", Operation::path))?;
                }
                let mut pending = Pending { tree: self, session: command.session, time_ms: command.time_ms, identities, changed: BTreeMap::new() };
                let step = |(operation_index, operation)| pending.step(operation).map_err(|failure| Failure { operation_index, ..failure });
                request.operations().iter().enumerate().map(step).collect::<Result<_, _>>()?
            }
        };
        Ok(Transaction { steps })
    }

    /// That the session exists and is attached to the connection that asks.
    fn check_attached(&self, session: i64, attached_zxid: i64, path: &str) -> Result<(), Failure> {
        match self.client_session(session) {
            None => Err(Failure::new(ErrorCode::SessionExpired, path)),
            Some(known) if known.attached_zxid != attached_zxid => Err(Failure::new(ErrorCode::SessionMoved, path)),
            Some(_) => Ok(()),
        }
    }

    fn begin(&self, session: i64, timeout_ms: i32, password: Option<[u8; 16]>) -> Result<Step, Failure> {
        // What `ephemeralOwner` would not tell from another lifetime is no id of a session.
        if !Lifetime::from_owner(session).is_ephemeral() || self.sessions.contains_key(&session) || timeout_ms <= 0 {
            return Err(Failure::new(ErrorCode::BadArguments, ""));
        }
        Ok(Step::CreateSession { session, timeout_ms, password })
    }
}

/// What preparing needs to know of a znode.
#[derive(Clone, Debug)]
struct Known {
    version: i32,
    aversion: i32,
    created_children_count: i32,
    child_count: i32,
    mtime_ms: i64,
    lifetime: Lifetime,
    acl: AclList,
}

/// The tree as the operations prepared so far will have left it.
struct Pending<'a> {
    tree: &'a Tree,
    session: i64,
    time_ms: i64,
    /// On whose behalf; none for the process itself, which ACLs do not concern.
    identities: Option<&'a [Identity]>,
    changed: BTreeMap<String, Option<Known>>,
}

impl Pending<'_> {
    fn look(&self, path: &str) -> Result<Known, Failure> {
        let missing = || Failure::new(ErrorCode::NoNode, path);
        if let Some(known) = self.changed.get(path) {
            return known.clone().ok_or_else(missing);
        }
        let node = self.tree.node(path).ok_or_else(missing)?;
        Ok(Known {
            version: node.version,
            aversion: node.aversion,
            created_children_count: node.created_children_count,
            child_count: node.child_count(),
            mtime_ms: node.mtime_ms,
            lifetime: Lifetime::from_owner(node.ephemeral_owner),
            acl: node.acl.clone(),
        })
    }

    fn permit(&self, acl: &AclList, wanted: i32, path: &str) -> Result<(), Failure> {
        match self.identities {
            Some(identities) if !acl::allows(acl, wanted, identities) => Err(Failure::new(ErrorCode::NoAuth, path)),
            _ => Ok(()),
        }
    }

    fn resolve(&self, acl: &[Acl], path: &str) -> Result<AclList, Failure> {
        acl::resolve(acl, self.identities.unwrap_or_default()).ok_or_else(|| Failure::new(ErrorCode::InvalidAcl, path))
    }

    fn step(&mut self, operation: &Operation) -> Result<Step, Failure> {
        if self.session != 0 && !self.tree.sessions.contains_key(&self.session) {
            return Err(Failure::new(ErrorCode::SessionExpired, operation.path()));
        }
        match operation {
            Operation::Create { path, data, mode } => self.create(path, data.clone(), *mode, None),
            Operation::CreateWithAcl { path, data, mode, acl } => self.create(path, data.clone(), *mode, Some(acl)),
            Operation::Set { path, data, version } => {
                validate(path)?;
                let known = self.look(path)?;
                self.permit(&known.acl, perms::WRITE, path)?;
                let version = next_version(known.version, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                self.changed.insert(path.clone(), Some(Known { version, mtime_ms: self.time_ms, ..known }));
                Ok(Step::Set { path: path.clone(), data: data.clone(), version })
            }
            Operation::SetAcl { path, acl, version } => {
                validate(path)?;
                let acl = self.resolve(acl, path)?;
                let known = self.look(path)?;
                self.permit(&known.acl, perms::ADMIN, path)?;
                let aversion = next_version(known.aversion, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                self.changed.insert(path.clone(), Some(Known { aversion, acl: acl.clone(), ..known }));
                Ok(Step::SetAcl { path: path.clone(), acl, aversion })
            }
            Operation::Delete { path, version } => {
                let (parent_path, parent) = self.parent_to_delete_from(path)?;
                self.permit(&parent.acl, perms::DELETE, path)?;
                let known = self.look(path)?;
                next_version(known.version, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                self.delete(path, &known, parent_path, parent)
            }
            Operation::DeleteIdle { path } => {
                let (parent_path, parent) = self.parent_to_delete_from(path)?;
                let known = self.look(path)?;
                // Another znode may be there by now, or this one may have been written to since somebody looked.
                let is_idle = match known.lifetime {
                    Lifetime::Container => true,
                    Lifetime::Ttl { ttl_ms } => self.time_ms.saturating_sub(known.mtime_ms) > ttl_ms,
                    Lifetime::Persistent | Lifetime::Ephemeral { .. } => false,
                };
                if !is_idle {
                    return Err(Failure::new(ErrorCode::BadVersion, path));
                }
                self.delete(path, &known, parent_path, parent)
            }
            Operation::Check { path, version } => {
                validate(path)?;
                let known = self.look(path)?;
                self.permit(&known.acl, perms::READ, path)?;
                next_version(known.version, *version).ok_or_else(|| Failure::new(ErrorCode::BadVersion, path))?;
                Ok(Step::Check)
            }
        }
    }

    fn parent_to_delete_from<'p>(&self, path: &'p str) -> Result<(&'p str, Known), Failure> {
        if path::is_reserved(path) {
            return Err(Failure::new(ErrorCode::BadArguments, path));
        }
        validate(path)?;
        let (parent_path, _) = path::split(path).ok_or_else(|| Failure::new(ErrorCode::BadArguments, path))?;
        let parent = self.look(parent_path).map_err(|failure| Failure { path: path.to_owned(), ..failure })?;
        Ok((parent_path, parent))
    }

    fn delete(&mut self, path: &str, known: &Known, parent_path: &str, parent: Known) -> Result<Step, Failure> {
        if known.child_count > 0 {
            return Err(Failure::new(ErrorCode::NotEmpty, path));
        }
        self.changed.insert(parent_path.to_owned(), Some(Known { child_count: parent.child_count - 1, ..parent }));
        self.changed.insert(path.to_owned(), None);
        Ok(Step::Delete { path: path.to_owned() })
    }

    fn create(&mut self, path: &str, data: Option<Bytes>, mode: CreateMode, acl: Option<&[Acl]>) -> Result<Step, Failure> {
        let lifetime = mode.lifetime(self.session).ok_or_else(|| Failure::new(ErrorCode::BadArguments, path))?;
        // Only the last name is judged after the parent is known, because a sequential one may be empty until it is completed.
        let (parent_path, _) = path::split(path).ok_or_else(|| bad_or_existing(path))?;
        if mode.is_ephemeral() && self.session == 0 {
            return Err(Failure::new(ErrorCode::SessionExpired, path));
        }
        if path::validate(parent_path).is_err() {
            return Err(Failure::new(ErrorCode::BadArguments, path));
        }
        let acl = acl.map_or(Ok(None), |acl| self.resolve(acl, path))?;
        let parent = self.look(parent_path).map_err(|failure| Failure { path: path.to_owned(), ..failure })?;
        self.permit(&parent.acl, perms::CREATE, path)?;
        let path = if mode.is_sequential() { format!("{path}{:010}", parent.created_children_count) } else { path.to_owned() };
        validate(&path)?;
        if self.look(&path).is_ok() {
            return Err(Failure::new(ErrorCode::NodeExists, &path));
        }
        if parent.lifetime.is_ephemeral() {
            return Err(Failure::new(ErrorCode::NoChildrenForEphemerals, &path));
        }
        let parent_created_children_count = parent.created_children_count.wrapping_add(1);
        let parent = Known { created_children_count: parent_created_children_count, child_count: parent.child_count + 1, ..parent };
        self.changed.insert(parent_path.to_owned(), Some(parent));
        let known = Known { version: 0, aversion: 0, created_children_count: 0, child_count: 0, mtime_ms: self.time_ms, lifetime, acl: acl.clone() };
        self.changed.insert(path.clone(), Some(known));
        Ok(Step::Create { path, data, ephemeral_owner: lifetime.owner(), acl, parent_created_children_count })
    }
}

fn validate(path: &str) -> Result<(), Failure> {
    path::validate(path).map_err(|_| Failure::new(ErrorCode::BadArguments, path))
}

fn bad_or_existing(path: &str) -> Failure {
    Failure::new(if path == "/" { ErrorCode::NodeExists } else { ErrorCode::BadArguments }, path)
}

/// The version after a change of a znode that has version `current`, or `None` if another one is expected. Never −1, which
/// could not be expected (ZOOKEEPER-4743).
pub(super) fn next_version(current: i32, expected: i32) -> Option<i32> {
    if expected != ANY_VERSION && expected != current {
        return None;
    }
    match current.wrapping_add(1) {
        -1 => Some(0),
        next => Some(next),
    }
}
