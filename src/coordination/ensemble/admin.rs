//! What an administrator asks of an ensemble's members, over their own protocol and with their secret.

use std::io;
use std::time::Duration;

use super::network::{ask, within};
use super::peer::{Answer, MembersView, Order, PEER_FRAME_MAX_BYTES, Purpose, Question, Secret, SnapshotPart, greet, kind};
use crate::coordination::storage::format::{SnapshotMeta, SnapshotState};
use crate::coordination::tree::{Restore, Tree};
use crate::runtime::{HostPort, Runtime, Stream};

/// How long a member may take to answer, or to send the next part: a read waits for a quorum first.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// What the member at `address` knows of its ensemble; `None` if it waits to become a member of one.
///
/// # Errors
/// The connection's, in words.
pub async fn members<R: Runtime>(rt: &R, address: &HostPort, secret: &Secret) -> io::Result<Option<MembersView>> {
    match ask(rt, address, secret, &Question::Order(Order::Members)).await? {
        Answer::Members(view) => Ok(Some(*view)),
        Answer::Empty | Answer::Later => Ok(None),
        other => Err(unexpected(&other)),
    }
}

/// Gives the member at `address` an order; the answer is [`Answer::Begun`], [`Answer::Elsewhere`] or [`Answer::Refused`].
///
/// # Errors
/// The connection's, in words.
pub async fn order<R: Runtime>(rt: &R, address: &HostPort, secret: &Secret, order: Order) -> io::Result<Answer> {
    ask(rt, address, secret, &Question::Order(order)).await
}

/// All that an ensemble holds at a moment.
#[derive(Debug)]
pub struct Exported {
    /// What it stands for.
    pub meta: SnapshotMeta,
    /// The state beside the tree.
    pub state: SnapshotState,
    /// The tree.
    pub tree: Tree,
}

/// Has the member at `address` send all that was acknowledged before the call, anywhere in the ensemble.
///
/// # Errors
/// The connection's; `TimedOut` if there is no quorum.
pub async fn export<R: Runtime>(rt: &R, address: &HostPort, secret: &Secret) -> io::Result<Exported> {
    let (mut read, mut write) = within(rt, ANSWER_WITHIN, rt.connect(address)).await?.into_split();
    let greeted = within(rt, ANSWER_WITHIN, greet(rt, &mut read, &mut write, secret, (Purpose::Export, 0, 0), "")).await?;
    let mut opener = greeted.opener;
    let out_of_order = || io::Error::new(io::ErrorKind::InvalidData, "the parts of a snapshot came out of order");
    let restoring = |error: crate::coordination::tree::RestoreError| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let (mut head, mut restore, mut item_count) = (None, Restore::default(), 0);
    loop {
        let part: SnapshotPart =
            within(rt, ANSWER_WITHIN, opener.read(&mut read, kind::SNAPSHOT, PEER_FRAME_MAX_BYTES)).await.map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof | io::ErrorKind::TimedOut => {
                    io::Error::new(io::ErrorKind::TimedOut, "the member sent nothing: it has no quorum to ask, or is none yet")
                }
                _ => error,
            })?;
        match part {
            SnapshotPart::Export(meta, state) if head.is_none() => head = Some((meta, state)),
            SnapshotPart::Items(items) if head.is_some() => {
                for item in items {
                    item_count += 1;
                    restore.push(item).map_err(restoring)?;
                }
            }
            SnapshotPart::End(count) if count == item_count => {
                let (meta, state) = head.ok_or_else(out_of_order)?;
                let tree = restore.finish(meta.last_zxid).map_err(restoring)?;
                return Ok(Exported { meta, state, tree });
            }
            _ => return Err(out_of_order()),
        }
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the member answered {answer:?}"))
}
