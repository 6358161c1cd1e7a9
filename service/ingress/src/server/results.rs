//! The results of a call with many rows, in request order, while they come in.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::Notify;

/// Encoded ScoreResults by row. The call's task waits for them; the dispatcher puts them.
pub struct Results {
    slots: Mutex<Slots>,
    changed: Notify,
    gone: AtomicBool,
    /// The rows have a path of their own, `transactions[i]`; else each is the call's `transaction`.
    many: bool,
}

#[derive(Default)]
struct Slots {
    /// Not yet taken, in order; None is still to come.
    waiting: VecDeque<Option<Bytes>>,
    /// The number of the first of them.
    first: usize,
    /// A row was dropped without a result: a mistake of ours.
    lost: bool,
}

/// One row's place. Dropping it without a result fails its call, so that nobody waits for ever.
pub struct RowSlot {
    results: Arc<Results>,
    number: usize,
    filled: bool,
}

/// A row of the call was lost.
pub struct Lost;

impl Results {
    pub fn new(many: bool) -> Arc<Self> {
        Arc::new(Self { slots: Mutex::default(), changed: Notify::new(), gone: AtomicBool::new(false), many })
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// A place for the next row.
    pub fn open(self: &Arc<Self>) -> RowSlot {
        let mut slots = self.slots();
        slots.waiting.push_back(None);
        let number = slots.first + slots.waiting.len() - 1;
        drop(slots);
        RowSlot { results: self.clone(), number, filled: false }
    }

    /// Rows without a taken result.
    pub fn waiting(&self) -> usize {
        self.slots().waiting.len()
    }

    /// The results that are there, up to the first that is not.
    pub fn take_ready(&self) -> Result<Vec<Bytes>, Lost> {
        let mut slots = self.slots();
        if slots.lost {
            return Err(Lost);
        }
        let ready = slots.waiting.iter().take_while(|slot| slot.is_some()).count();
        slots.first += ready;
        Ok(slots.waiting.drain(..ready).flatten().collect())
    }

    /// Wait until a result has been put since the last wait.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The caller has gone: rows not yet taken up need no decision.
    pub fn abandon(&self) {
        self.gone.store(true, Ordering::Release);
    }
}

impl RowSlot {
    /// Put this row's encoded ScoreResult.
    pub fn put(mut self, result: Bytes) {
        self.filled = true;
        let mut slots = self.results.slots();
        let place = self.number - slots.first; // only filled slots are taken, and this one was not
        slots.waiting[place] = Some(result);
        drop(slots);
        self.results.changed.notify_one();
    }

    pub fn cancelled(&self) -> bool {
        self.results.gone.load(Ordering::Acquire)
    }

    /// The path of this row's Transaction in its request.
    pub fn prefix(&self) -> String {
        if self.results.many { format!("transactions[{}]", self.number) } else { "transaction".to_owned() }
    }
}

impl Drop for RowSlot {
    fn drop(&mut self) {
        if !self.filled {
            self.results.slots().lost = true;
            self.results.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_request_order() {
        let results = Results::new(true);
        let [first, second, third] = [(); 3].map(|()| results.open());
        assert_eq!(second.prefix(), "transactions[1]");
        second.put(Bytes::from_static(b"2"));
        assert!(results.take_ready().is_ok_and(|ready| ready.is_empty()));
        first.put(Bytes::from_static(b"1"));
        assert!(results.take_ready().is_ok_and(|ready| ready == ["1", "2"]));
        third.put(Bytes::from_static(b"3"));
        assert!(results.take_ready().is_ok_and(|ready| ready == ["3"]));
        assert_eq!(results.waiting(), 0);
    }

    #[test]
    fn a_dropped_row_fails_its_call() {
        let results = Results::new(false);
        drop(results.open());
        assert!(results.take_ready().is_err());
    }
}
