//! How a connection gets its session: a new one, or the one that its client comes back to.
//!
//! Both are entries of the log. So the log decides which connection of which member acts for a session, and a member that lags cannot take a session
//! that has ended for one that lives.

use std::time::Duration;

use super::Inner;
use crate::coordination::Done;
use crate::coordination::acl::Identity;
use crate::coordination::ensemble::network::within;
use crate::coordination::hub::Attached;
use crate::coordination::op::{ErrorCode, Request};
use crate::coordination::protocol::{ConnectRequest, ConnectResponse};
use crate::coordination::session::negotiate;
use crate::coordination::tree::ClientSession;
use crate::plant;
use crate::runtime::Runtime;

/// How long a client that has seen more than this member waits for it to catch up, before it is sent to another one.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(1);

/// How often coming back is asked for on behalf of one connection: once more than once, because this member may not have known where the session was.
const ATTACH_MAX_COUNT: usize = 2;

/// What to answer to a [`ConnectRequest`].
pub(super) enum Outcome {
    /// The connection serves this session from now on.
    Serve { session: i64, attached_zxid: i64, attached: Attached, response: ConnectResponse },
    /// The session has ended, or the password is not its own: that is answered, and the connection ends.
    Refuse(ConnectResponse),
    /// The connection ends without an answer, for this reason; the client tries another member.
    Close(String),
}

/// Finds or makes the session that the client asks for.
pub(super) async fn establish<R: Runtime>(inner: &Inner<R>, request: &ConnectRequest, identities: &[Identity]) -> Outcome {
    let hub = &inner.coordination.shared.hub;
    if !hub.is_serving() {
        return Outcome::Close("this member has no leader, so it serves nobody".to_owned());
    }
    let seen = request.last_zxid_seen;
    if seen > inner.coordination.last_zxid() {
        // What a client has seen was committed, so this member has it once it has caught up.
        let _ = within(inner.rt(), CATCH_UP_WITHIN, async { inner.coordination.sync().await.map_err(std::io::Error::other) }).await;
        let last_zxid = inner.coordination.last_zxid();
        if seen > last_zxid {
            // It would see the past again.
            return Outcome::Close(format!("the client has seen transaction {seen:#x}, and this member's last is {last_zxid:#x}: it must ask another one"));
        }
    }
    let timeout_ms = negotiate(request.timeout_ms, inner.config.min_session_timeout_ms, inner.config.max_session_timeout_ms);
    // This member can always write, or it does not serve.
    let read_only = request.read_only.map(|_| false);
    let attached = if request.session == 0 { create(inner, timeout_ms).await } else { come_back(inner, request, timeout_ms).await };
    let (session, password, attached_zxid) = match attached {
        Ok(attached) => attached,
        Err(ErrorCode::SessionExpired) => return Outcome::Refuse(ConnectResponse::expired(read_only)),
        Err(code) => return Outcome::Close(format!("its session could not be attached to this member: {code}")),
    };
    // Under the tree's lock, so that whatever ends or moves the session from now on finds the connection; what did so before has left its mark.
    let attached = inner.coordination.read(|tree| match tree.client_session(session) {
        None => Err(ErrorCode::SessionExpired),
        Some(known) if known.attached_zxid != attached_zxid => Err(ErrorCode::SessionMoved),
        Some(_) => Ok(hub.attach(session, attached_zxid, identities.to_vec())),
    });
    match attached {
        Ok(attached) => Outcome::Serve { session, attached_zxid, attached, response: ConnectResponse { timeout_ms, session, password, read_only } },
        Err(ErrorCode::SessionExpired) => Outcome::Refuse(ConnectResponse::expired(read_only)),
        Err(code) => Outcome::Close(code.to_string()),
    }
}

/// A session, its password, and the transaction that attached it to this connection.
type Attachment = (i64, [u8; 16], i64);

async fn create<R: Runtime>(inner: &Inner<R>, timeout_ms: i32) -> Result<Attachment, ErrorCode> {
    let rt = inner.rt();
    // The top bit is clear, so that no id can be taken for another lifetime than a session's.
    let session = i64::try_from(rt.random_u64() >> 1).unwrap_or(i64::MAX).max(1);
    let mut password = [0; 16];
    password[..8].copy_from_slice(&rt.random_u64().to_be_bytes());
    password[8..].copy_from_slice(&rt.random_u64().to_be_bytes());
    let done = ask(inner, 0, Request::OpenSession { session, timeout_ms, password }).await;
    done.outcome.map(|_| (session, password, done.zxid)).map_err(|failure| failure.code)
}

async fn come_back<R: Runtime>(inner: &Inner<R>, request: &ConnectRequest, timeout_ms: i32) -> Result<Attachment, ErrorCode> {
    let session = request.session;
    let mut code = ErrorCode::SessionMoved;
    for _ in 0..ATTACH_MAX_COUNT {
        let known = known(inner, session).await?.filter(|known| known.is_password(&request.password)).ok_or(ErrorCode::SessionExpired)?;
        let ClientSession { password, attached_zxid, .. } = known;
        if plant!(inner.rt(), "stale-session-accepted") {
            return Ok((session, password, attached_zxid));
        }
        let done = ask(inner, session, Request::Attach { attached_zxid, timeout_ms, password }).await;
        match done.outcome {
            Ok(_) => return Ok((session, password, done.zxid)),
            // Applied here, so this member knows now where the session is.
            Err(failure) if failure.code == ErrorCode::SessionMoved => code = failure.code,
            Err(failure) => return Err(failure.code),
        }
    }
    Err(code)
}

/// What this member knows of the session; `None` only if it has ended, or never began, anywhere.
async fn known<R: Runtime>(inner: &Inner<R>, session: i64) -> Result<Option<ClientSession>, ErrorCode> {
    let look = || inner.coordination.read(|tree| tree.client_session(session));
    if let Some(known) = look() {
        return Ok(Some(known));
    }
    // It may have begun elsewhere a moment ago.
    inner.coordination.sync().await.map_err(|failure| failure.code)?;
    Ok(look())
}

async fn ask<R: Runtime>(inner: &Inner<R>, session: i64, request: Request) -> Done {
    match inner.coordination.submit(session, request).await {
        Ok(submitted) => submitted.done().await,
        Err(failure) => Done { zxid: 0, outcome: Err(failure) },
    }
}
