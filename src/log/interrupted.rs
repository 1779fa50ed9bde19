//! Idempotent producers of which a batch could not be written, because the disk was full: what they sent after it waits for it. Pure.
//!
//! They have several batches in flight. If the first of them is refused, the next would be out of order: an answer after which librdkafka begins another epoch and sends
//! again, as new, what the old epoch may have stored already. Or, of a producer that is new here, the next would be taken for its first. Kafka does not come to
//! this: a disk that refuses a write takes its whole directory offline.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::record::batch::Header;
use crate::runtime::Instant;

/// A producer that has given up the batch must hear so by then (`delivery.timeout.ms` of Kafka's clients).
const REMEMBERED: Duration = Duration::from_secs(120);
/// More producers than this are not remembered: the oldest are judged by their sequence numbers alone.
const PRODUCERS_MAX: usize = 1_000;

#[derive(Clone, Copy, Debug)]
struct Refused {
    epoch: i16,
    sequence: i32,
    at: Instant,
}

/// The first refused batch of each producer.
#[derive(Debug, Default)]
pub(super) struct Interrupted {
    by_producer: BTreeMap<i64, Refused>,
}

impl Interrupted {
    /// A batch was valid and could not be written.
    pub fn refused(&mut self, header: &Header, now: Instant) {
        // Tried again and refused again, it is still the first.
        let is_known =
            self.by_producer.get(&header.producer_id).is_some_and(|refused| refused.epoch == header.producer_epoch && refused.sequence == header.base_sequence);
        if !header.has_producer_id() || header.is_control() || is_known || self.must_wait(header, now) {
            return;
        }
        if self.by_producer.len() >= PRODUCERS_MAX
            && let Some(oldest) = self.by_producer.iter().min_by_key(|(_, refused)| refused.at).map(|(id, _)| *id)
        {
            self.by_producer.remove(&oldest);
        }
        self.by_producer.insert(header.producer_id, Refused { epoch: header.producer_epoch, sequence: header.base_sequence, at: now });
    }

    /// A batch was written.
    pub fn written(&mut self, header: &Header) {
        if !self.by_producer.is_empty() {
            self.by_producer.remove(&header.producer_id);
        }
    }

    /// Whether another batch of its producer must be written before it.
    pub fn must_wait(&self, header: &Header, now: Instant) -> bool {
        let refused = self.by_producer.get(&header.producer_id);
        refused.is_some_and(|refused| refused.epoch == header.producer_epoch && refused.sequence != header.base_sequence && now - refused.at < REMEMBERED)
    }
}
