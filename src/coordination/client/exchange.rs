//! What a client has asked and not been told: requests in flight in their order, watches, the newest transaction it has seen. Pure: frames in, frames out.

use std::collections::{BTreeSet, VecDeque};

use bytes::Bytes;

use super::watching::{Slot, WatchTable, WatcherId};
use crate::coordination::jute::{JuteError, Reader, Writer};
use crate::coordination::op::{ErrorCode, EventKind};
use crate::coordination::protocol::{self, XID_AUTH, XID_EVENT, XID_PING, XID_SET_WATCHES, opcode};
use crate::coordination::watch::{WatchKind, Watched};

/// About how many bytes of paths one `setWatches` holds, as ZooKeeper's client does it: an ensemble refuses larger requests.
const SET_WATCHES_BYTES: usize = 128 << 10;

/// A request on its way; `T` is whoever waits for its answer.
#[derive(Debug)]
pub(super) struct Request<T> {
    pub(super) opcode: i32,
    pub(super) body: Bytes,
    /// Which watch it sets.
    pub(super) watch: Option<Wish>,
    pub(super) token: T,
}

/// A watch that a request sets if it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    /// The server's path.
    pub(super) path: String,
    pub(super) kind: WatchKind,
    /// Whether it is set also if the znode is not there: `exists` does so.
    pub(super) if_missing: bool,
    pub(super) watcher: WatcherId,
}

/// What a frame brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received<T> {
    /// The answer to the oldest request: its body, or ZooKeeper's number of an error.
    Answer { token: T, outcome: Result<Bytes, i32> },
    /// A change, with who is told.
    Event { kind: EventKind, path: String, told: BTreeSet<WatcherId> },
    /// The answer to credentials: whether they were taken.
    Authenticated(bool),
    /// Nothing that anybody waits for.
    Nothing,
}

struct InFlight<T> {
    xid: i32,
    watch: Option<Wish>,
    token: T,
}

/// See the module.
pub(super) struct Exchange<T> {
    last_xid: i32,
    /// The newest transaction that was seen: a member that has not, must not serve this client.
    pub(super) last_zxid: i64,
    pub(super) watches: WatchTable,
    in_flight: VecDeque<InFlight<T>>,
}

impl<T> Default for Exchange<T> {
    fn default() -> Self {
        Self { last_xid: 0, last_zxid: 0, watches: WatchTable::default(), in_flight: VecDeque::new() }
    }
}

fn frame(to: &mut Writer, xid: i32, opcode: i32, body: impl FnOnce(&mut Writer)) {
    to.frame(|to| {
        to.int(xid);
        to.int(opcode);
        body(to);
    });
}

impl<T> Exchange<T> {
    /// How many requests have not been answered.
    pub(super) fn in_flight_count(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: Request<T>, to: &mut Writer) {
        // Negative numbers have a meaning of their own.
        self.last_xid = self.last_xid.checked_add(1).unwrap_or(1);
        frame(to, self.last_xid, request.opcode, |to| to.append(&request.body));
        self.in_flight.push_back(InFlight { xid: self.last_xid, watch: request.watch, token: request.token });
    }

    /// Sends a sign of life.
    pub(super) fn ping(to: &mut Writer) {
        frame(to, XID_PING, opcode::PING, |_| {});
    }

    /// Sends credentials.
    pub(super) fn authenticate(to: &mut Writer, scheme: &str, credentials: &[u8]) {
        frame(to, XID_AUTH, opcode::AUTH, |to| {
            to.int(0);
            to.string(scheme);
            to.buffer(credentials);
        });
    }

    /// Sets all watches again, over a connection that is new. Whoever serves it tells what they would have told meanwhile.
    pub(super) fn set_watches(&self, to: &mut Writer) {
        for watched in self.watches.portions(SET_WATCHES_BYTES) {
            let Watched { data, exist, child, persistent, persistent_recursive } = &watched;
            // Members before 3.6 know the older request only, and no persistent watches.
            let is_old = persistent.is_empty() && persistent_recursive.is_empty();
            frame(to, XID_SET_WATCHES, if is_old { opcode::SET_WATCHES } else { opcode::SET_WATCHES2 }, |to| {
                to.long(self.last_zxid);
                let lists: &[&Vec<String>] = if is_old { &[data, exist, child] } else { &[data, exist, child, persistent, persistent_recursive] };
                for list in lists {
                    to.strings(list.iter().map(String::as_str));
                }
            });
        }
    }

    /// Takes a frame in.
    ///
    /// # Errors
    /// What makes no sense in it.
    pub(super) fn receive(&mut self, bytes: &Bytes) -> Result<Received<T>, String> {
        let garbage = |error: JuteError| error.to_string();
        let mut reader = Reader::new(bytes);
        let (xid, zxid, error) = (|| Ok((reader.int()?, reader.long()?, reader.int()?)))().map_err(garbage)?;
        if zxid > self.last_zxid {
            self.last_zxid = zxid;
        }
        match xid {
            XID_PING | XID_SET_WATCHES => return Ok(Received::Nothing),
            XID_AUTH => return Ok(Received::Authenticated(error == 0)),
            XID_EVENT => {
                let (kind, _state, path) = (|| Ok((reader.int()?, reader.int()?, reader.string()?.to_owned())))().map_err(garbage)?;
                // Others tell of watches that were removed.
                let Some(kind) = protocol::event_kind(kind) else { return Ok(Received::Nothing) };
                let told = self.watches.fire(&path, kind);
                return Ok(Received::Event { kind, path, told });
            }
            _ => {}
        }
        let Some(InFlight { xid: expected, watch, token }) = self.in_flight.pop_front() else {
            return Err(format!("it answered request {xid}, and none was asked"));
        };
        if xid != expected {
            // Its answer is lost with the connection.
            self.in_flight.push_front(InFlight { xid: expected, watch, token });
            return Err(format!("it answered request {xid}, not {expected}"));
        }
        if let Some(Wish { path, kind, if_missing, watcher }) = watch {
            let is_missing = error == ErrorCode::NoNode.code();
            if error == 0 || (is_missing && if_missing) {
                self.watches.add(&path, Slot::of(kind, !is_missing), watcher);
            }
        }
        let outcome = if error == 0 { Ok(bytes.slice(bytes.len() - reader.left_bytes()..)) } else { Err(error) };
        Ok(Received::Answer { token, outcome })
    }

    /// The connection is lost: so are the answers to what is in flight.
    pub(super) fn lost(&mut self) -> Vec<T> {
        self.in_flight.drain(..).map(|lost| lost.token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordination::protocol::{decode_header, decode_request, encode_event, encode_reply_header};

    fn answer(xid: i32, zxid: i64, error: i32, body: &[u8]) -> Bytes {
        let mut out = Writer::default();
        encode_reply_header(&mut out, xid, zxid, error);
        out.append(body);
        out.finish()
    }

    fn event(kind: EventKind, path: &str) -> Bytes {
        let mut out = Writer::default();
        encode_event(&mut out, -1, kind, path);
        out.finish().slice(4..)
    }

    fn ask(exchange: &mut Exchange<u8>, token: u8, watch: Option<Wish>) {
        exchange.send(Request { opcode: opcode::EXISTS, body: Bytes::new(), watch, token }, &mut Writer::default());
    }

    fn wish(path: &str, kind: WatchKind, if_missing: bool) -> Option<Wish> {
        Some(Wish { path: path.into(), kind, if_missing, watcher: 7 })
    }

    #[test]
    fn answers_belong_to_the_oldest_request_and_others_are_an_error() {
        let mut exchange = Exchange::default();
        (1..=3).for_each(|token| ask(&mut exchange, token, None));
        assert_eq!(exchange.receive(&answer(1, 5, 0, b"x")), Ok(Received::Answer { token: 1, outcome: Ok(Bytes::from_static(b"x")) }));
        assert_eq!(exchange.receive(&answer(2, 4, -101, b"")), Ok(Received::Answer { token: 2, outcome: Err(-101) }));
        assert_eq!(exchange.last_zxid, 5, "never back");
        assert_eq!(exchange.receive(&answer(XID_PING, 9, 0, b"")), Ok(Received::Nothing));
        assert!(exchange.receive(&answer(4, 9, 0, b"")).unwrap_err().contains("not 3"));
        assert_eq!(exchange.lost(), [3], "it was not forgotten");
        assert!(exchange.receive(&answer(3, 9, 0, b"")).is_err() && exchange.receive(&Bytes::from_static(b"short")).is_err());
    }

    #[test]
    fn a_watch_is_set_by_an_answer_and_set_again_after_a_loss() {
        let mut exchange = Exchange::default();
        ask(&mut exchange, 1, wish("/a", WatchKind::Data, false));
        ask(&mut exchange, 2, wish("/none", WatchKind::Data, false));
        ask(&mut exchange, 3, wish("/later", WatchKind::Data, true));
        ask(&mut exchange, 4, wish("/a", WatchKind::Child, false));
        for (xid, error) in [(1, 0), (2, -101), (3, -101)] {
            exchange.receive(&answer(xid, 8, error, b"")).unwrap();
        }
        assert_eq!(exchange.lost(), [4], "its watch was not confirmed");
        let mut out = Writer::default();
        exchange.set_watches(&mut out);
        let frame = out.finish();
        let (xid, opcode, mut body) = decode_header(&frame[4..]).unwrap();
        let watched = Watched { data: vec!["/a".into()], exist: vec!["/later".into()], ..Watched::default() };
        assert_eq!((xid, opcode), (XID_SET_WATCHES, opcode::SET_WATCHES));
        assert_eq!(decode_request(opcode, &mut body), Ok(protocol::Request::SetWatches { seen_zxid: 8, watched }));
        let told = |received| match received {
            Ok(Received::Event { told, .. }) => told.into_iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        assert_eq!(told(exchange.receive(&event(EventKind::Created, "/later"))), [7]);
        assert_eq!(told(exchange.receive(&event(EventKind::Deleted, "/a"))), [7]);
        assert_eq!(told(exchange.receive(&event(EventKind::Deleted, "/a"))), [0; 0]);
        let mut out = Writer::default();
        exchange.set_watches(&mut out);
        assert_eq!(out.len_bytes(), 0, "none is left");
    }

    #[test]
    fn persistent_watches_need_the_newer_request() {
        let mut exchange = Exchange::default();
        ask(&mut exchange, 1, wish("/a", WatchKind::PersistentRecursive, false));
        exchange.receive(&answer(1, 8, 0, b"")).unwrap();
        let mut out = Writer::default();
        exchange.set_watches(&mut out);
        let frame = out.finish();
        let (_, opcode, mut body) = decode_header(&frame[4..]).unwrap();
        let watched = Watched { persistent_recursive: vec!["/a".into()], ..Watched::default() };
        assert_eq!(decode_request(opcode, &mut body), Ok(protocol::Request::SetWatches { seen_zxid: 8, watched }));
    }

    #[test]
    fn credentials_are_answered_beside_the_order() {
        let mut exchange: Exchange<u8> = Exchange::default();
        ask(&mut exchange, 1, None);
        assert_eq!(exchange.receive(&answer(XID_AUTH, 0, 0, b"")), Ok(Received::Authenticated(true)));
        assert_eq!(exchange.receive(&answer(XID_AUTH, 0, -115, b"")), Ok(Received::Authenticated(false)));
        assert_eq!(exchange.in_flight_count(), 1);
    }
}
