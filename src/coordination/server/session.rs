//! How a connection gets its session: a new one, or the one that its client comes back to.

use bytes::Bytes;

use super::{Caller, Inner};
use crate::coordination::acl::Identity;
use crate::coordination::hub::Attached;
use crate::coordination::op::Request;
use crate::coordination::protocol::{ConnectRequest, ConnectResponse};
use crate::coordination::session::negotiate;
use crate::runtime::Runtime;

/// What to answer to a [`ConnectRequest`].
pub(super) enum Outcome {
    /// The connection serves this session from now on.
    Serve { session: i64, timeout_ms: i32, attached: Attached, response: ConnectResponse },
    /// The session has ended, or the password is not its own: that is answered, and the connection ends.
    Refuse(ConnectResponse),
    /// The connection ends without an answer, for this reason; the client tries another member.
    Close(String),
}

/// Finds or makes the session that the client asks for.
pub(super) async fn establish<R: Runtime>(inner: &Inner<R>, caller: Caller, request: &ConnectRequest, identities: &[Identity]) -> Outcome {
    if caller == Caller::Process {
        return establish_own(inner, request, identities).await;
    }
    let last_zxid = inner.coordination.last_zxid();
    if request.last_zxid_seen > last_zxid {
        // It would see the past again.
        let seen = request.last_zxid_seen;
        return Outcome::Close(format!("the client has seen transaction {seen:#x}, and this member's last is {last_zxid:#x}: it must ask another one"));
    }
    let timeout_ms = negotiate(request.timeout_ms, inner.config.min_session_timeout_ms, inner.config.max_session_timeout_ms);
    // This member can always write, or it does not serve.
    let read_only = request.read_only.map(|_| false);
    let hub = &inner.coordination.shared.hub;
    let (session, password) = if request.session == 0 {
        match create(inner, timeout_ms).await {
            Some(created) => created,
            None => return Outcome::Close("the coordination service stops".to_owned()),
        }
    } else {
        let session = request.session;
        let known = inner.coordination.read(|tree| tree.client_session(session));
        // In constant time, so that nobody learns a password byte by byte.
        let knows = |password: &[u8; 16], given: &Bytes| given.len() == 16 && password.iter().zip(given).fold(0, |differ, (a, b)| differ | (a ^ b)) == 0;
        match known {
            Some(known) if knows(&known.password, &request.password) && hub.track(session, timeout_ms, inner.clock_ms()) => (session, known.password),
            _ => return Outcome::Refuse(ConnectResponse::expired(read_only)),
        }
    };
    let attached = hub.attach(session, identities.to_vec());
    // Whoever ends the session from now on finds the connection; whoever did so before has left no session.
    if inner.coordination.read(|tree| tree.client_session(session).is_none()) {
        hub.lock().sessions.ended(session);
        return Outcome::Refuse(ConnectResponse::expired(read_only));
    }
    let response = ConnectResponse { timeout_ms, session, password, read_only };
    Outcome::Serve { session, timeout_ms, attached, response }
}

/// The session of this process itself: it is not counted as silent or alive, and ends with the process.
async fn establish_own<R: Runtime>(inner: &Inner<R>, request: &ConnectRequest, identities: &[Identity]) -> Outcome {
    let read_only = request.read_only.map(|_| false);
    let timeout_ms = request.timeout_ms.max(1);
    let session = if request.session == 0 {
        match inner.coordination.create_session(timeout_ms).await {
            Ok(own) => own.session(),
            Err(failure) => return Outcome::Close(failure.to_string()),
        }
    } else {
        request.session
    };
    if !inner.coordination.read(|tree| tree.own_sessions().any(|own| own == session)) {
        return Outcome::Refuse(ConnectResponse::expired(read_only));
    }
    let attached = inner.coordination.shared.hub.attach(session, identities.to_vec());
    Outcome::Serve { session, timeout_ms, attached, response: ConnectResponse { timeout_ms, session, password: [0; 16], read_only } }
}

async fn create<R: Runtime>(inner: &Inner<R>, timeout_ms: i32) -> Option<(i64, [u8; 16])> {
    let rt = inner.rt();
    // The top bit is clear, so that no id can be taken for another lifetime than a session's.
    let session = i64::try_from(rt.random_u64() >> 1).unwrap_or(i64::MAX).max(1);
    let mut password = [0; 16];
    password[..8].copy_from_slice(&rt.random_u64().to_be_bytes());
    password[8..].copy_from_slice(&rt.random_u64().to_be_bytes());
    // Before it is proposed: should this connection end meanwhile, the session expires.
    let hub = &inner.coordination.shared.hub;
    hub.track(session, timeout_ms, inner.clock_ms());
    let outcome = match inner.coordination.submit(0, Request::OpenSession { session, timeout_ms, password }).await {
        Ok(answer) => answer.outcome().await,
        Err(failure) => Err(failure),
    };
    match outcome {
        // Its time-out begins when its client can know of it, however long the log took.
        Ok(_) => hub.track(session, timeout_ms, inner.clock_ms()).then_some((session, password)),
        Err(_) => {
            hub.lock().sessions.ended(session);
            None
        }
    }
}
