//! Delayed operations: requests that wait until a partition's high watermark has moved far enough.
//!
//! A produce with `acks=all` waits for an offset on each of its partitions, a long-polling fetch for any progress on any of
//! them. Both are the same thing here: one [`Waiter`] per request, registered in the [`WaitList`] of each partition it waits
//! for. Waking is a hint: the woken request looks again, and registers again if it must.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// What one waiting request sleeps on. A wake-up that comes before the sleep is kept.
#[derive(Debug, Default)]
pub struct Waiter {
    notify: Notify,
}

impl Waiter {
    /// A waiter for one request.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Waits for the next wake-up.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Wakes the request, now or when it next waits.
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

/// Those who wait for one partition's high watermark.
#[derive(Debug, Default)]
pub struct WaitList {
    /// How many are registered: lets the common case, nobody waits, pass without the lock.
    count: AtomicUsize,
    waiting: Mutex<Vec<(i64, Arc<Waiter>)>>,
}

impl WaitList {
    /// Wakes `waiter` once the high watermark is at least `offset`. The caller must look at the high watermark again after this:
    /// progress between its last look and the registration wakes nobody.
    pub fn register(&self, offset: i64, waiter: &Arc<Waiter>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that looks again before it was woken is still here: one entry each keeps the list bounded by requests in flight.
        if let Some(entry) = waiting.iter_mut().find(|(_, registered)| Arc::ptr_eq(registered, waiter)) {
            entry.0 = offset;
        } else {
            waiting.push((offset, Arc::clone(waiter)));
        }
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    /// Forgets `waiter`; its request is answered or gone.
    pub fn forget(&self, waiter: &Arc<Waiter>) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(_, registered)| !Arc::ptr_eq(registered, waiter));
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    /// Wakes all who wait for `offset` or less.
    pub fn reached(&self, offset: i64) {
        // SeqCst here and in `register`, together with the callers' order (watermark first, then the list; list first, then the
        // watermark), means that one of the two sides always sees the other.
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|(wanted, waiter)| {
            let stays = *wanted > offset;
            if !stays {
                waiter.wake();
            }
            stays
        });
        self.count.store(waiting.len(), Ordering::SeqCst);
    }

    /// Wakes all, whatever they wait for: the partition is gone or has a new leader.
    pub fn wake_all(&self) {
        self.reached(i64::MAX);
    }

    /// How many requests wait.
    pub fn waiting_count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_those_who_waited_for_so_little_are_woken() {
        let list = WaitList::default();
        let (early, late) = (Waiter::new(), Waiter::new());
        list.register(5, &early);
        list.register(9, &late);
        list.reached(5);
        assert_eq!(list.waiting_count(), 1);
        list.reached(9);
        assert_eq!(list.waiting_count(), 0);
    }

    #[test]
    fn registering_again_moves_the_entry() {
        let list = WaitList::default();
        let waiter = Waiter::new();
        list.register(5, &waiter);
        list.register(7, &waiter);
        list.reached(6);
        assert_eq!(list.waiting_count(), 1, "it waits for 7 now");
        list.forget(&waiter);
        assert_eq!(list.waiting_count(), 0);
    }
}
