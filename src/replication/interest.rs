//! What a leader's fetch sessions of followers know to have changed, so that a fetch looks at those partitions and at no others.
//!
//! A session has one [`Interest`]. Each of its partitions has a [`Slot`] in it, which the partition marks when something happens that its follower must be told:
//! records, another role, a higher high watermark. Records and roles wake the session's fetch if one waits; a high watermark is told with the next answer.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::Notify;

/// A session's ear.
#[derive(Debug, Default)]
pub struct Interest {
    changed: Mutex<Vec<u32>>,
    notify: Notify,
}

impl Interest {
    /// The slots that were marked since the last call, each once. Their marks must be cleared ([`Slot::clear`]) before their partitions are looked at.
    pub fn take(&self) -> Vec<u32> {
        std::mem::take(&mut *self.changed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until it is woken; a wake-up that came before is kept.
    pub async fn woken(&self) {
        self.notify.notified().await;
    }

    /// Wakes who waits, though nothing has changed.
    pub fn wake(&self) {
        self.notify.notify_one();
    }
}

/// One partition's place in a session.
#[derive(Debug)]
pub struct Slot {
    interest: Arc<Interest>,
    id: u32,
    is_marked: AtomicBool,
}

impl Slot {
    /// A place by the name of `id`, not marked.
    pub fn new(interest: &Arc<Interest>, id: u32) -> Arc<Self> {
        Arc::new(Self { interest: Arc::clone(interest), id, is_marked: AtomicBool::new(false) })
    }

    /// What it is called.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// From now on a change marks it again. To be called before the partition is looked at: what changes after the look is marked then.
    pub fn clear(&self) {
        self.is_marked.store(false, Ordering::SeqCst);
    }

    fn mark(&self, wakes: bool) {
        if !self.is_marked.swap(true, Ordering::SeqCst) {
            self.interest.changed.lock().unwrap_or_else(PoisonError::into_inner).push(self.id);
        }
        if wakes {
            self.interest.wake();
        }
    }
}

/// Who is interested in a partition.
#[derive(Debug, Default)]
pub struct Interested {
    /// Lets the common case, nobody, pass without the lock.
    count: AtomicUsize,
    slots: RwLock<Vec<Arc<Slot>>>,
}

impl Interested {
    /// Marks `slot` at each change, until [`Interested::remove`].
    pub fn add(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.push(Arc::clone(slot));
        self.count.store(slots.len(), Ordering::SeqCst);
    }

    /// Forgets `slot`.
    pub fn remove(&self, slot: &Arc<Slot>) {
        let mut slots = self.slots.write().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|other| !Arc::ptr_eq(other, slot));
        self.count.store(slots.len(), Ordering::SeqCst);
    }

    /// Something has changed. `wakes`: a fetch that waits is to look at once.
    pub fn changed(&self, wakes: bool) {
        if self.count.load(Ordering::SeqCst) > 0 {
            self.slots.read().unwrap_or_else(PoisonError::into_inner).iter().for_each(|slot| slot.mark(wakes));
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_until_it_was_looked_at() {
        let (interest, interested) = (Arc::new(Interest::default()), Interested::default());
        let slot = Slot::new(&interest, 7);
        interested.add(&slot);
        interested.changed(false);
        interested.changed(true);
        assert_eq!(interest.take(), [7]);
        interested.changed(false);
        assert!(interest.take().is_empty(), "marked, and not looked at yet");
        slot.clear();
        interested.changed(false);
        assert_eq!(interest.take(), [7]);
        interested.remove(&slot);
        slot.clear();
        interested.changed(true);
        assert!(interest.take().is_empty() && interested.count() == 0);
    }
}
