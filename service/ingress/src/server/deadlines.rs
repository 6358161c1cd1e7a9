//! Calls that must end at their deadlines, also when their batch is not answered by then.
//!
//! One timer serves them all. It sleeps until a bound of the earliest deadline, so that in the usual case, where calls
//! are answered long before, it wakes once per deadline and not once per call.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::sleep;

use super::calls::Method;
use super::clock::monotonic_ns;
use super::front::Front;
use super::reply::{self, Call};

const CALLS_BEFORE_SWEEP: usize = 1_024;

/// The unanswered unary calls with a deadline, and some that have been answered since the last sweep.
#[derive(Default)]
pub struct Deadlines {
    pending: Mutex<Pending<Call>>,
    /// Wakes the timer for a deadline before the one that it sleeps until.
    earlier: Notify,
}

struct Pending<T> {
    calls: Vec<(i64, Weak<T>)>,
    /// No pending call has an earlier deadline.
    earliest_ns: i64,
    /// How many calls there may be before those that were answered are forgotten: at least twice the unanswered.
    calls_max: usize,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self { calls: Vec::new(), earliest_ns: i64::MAX, calls_max: CALLS_BEFORE_SWEEP }
    }
}

impl Deadlines {
    fn pending(&self) -> MutexGuard<'_, Pending<Call>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// End this call at `deadline_ns`, monotonic, unless it is answered before.
    pub fn watch(&self, deadline_ns: i64, call: Weak<Call>) {
        if self.pending().add(deadline_ns, call) {
            self.earlier.notify_one();
        }
    }
}

impl<T> Pending<T> {
    /// Whether the timer has to ring earlier because of this call.
    fn add(&mut self, deadline_ns: i64, call: Weak<T>) -> bool {
        if self.calls.len() >= self.calls_max {
            self.forget_answered();
        }
        self.calls.push((deadline_ns, call));
        let earlier = deadline_ns < self.earliest_ns;
        self.earliest_ns = self.earliest_ns.min(deadline_ns);
        earlier
    }

    fn forget_answered(&mut self) {
        self.calls.retain(|(_, call)| call.strong_count() > 0);
        self.calls_max = CALLS_BEFORE_SWEEP.max(2 * self.calls.len());
    }

    /// The calls whose deadline has come, taken out.
    fn due(&mut self, now_ns: i64) -> Vec<Weak<T>> {
        if now_ns < self.earliest_ns {
            return Vec::new();
        }
        self.forget_answered();
        let due = self.calls.extract_if(.., |(deadline_ns, _)| *deadline_ns <= now_ns).map(|(_, call)| call).collect();
        self.earliest_ns = self.calls.iter().map(|(deadline_ns, _)| *deadline_ns).min().unwrap_or(i64::MAX);
        due
    }
}

/// End calls at their deadlines, for as long as the front end runs. What is decided later is kept for the retry.
pub async fn run(front: Arc<Front>) {
    let deadlines = &front.deadlines;
    loop {
        let due = deadlines.pending().due(monotonic_ns());
        for mut respond in due.iter().filter_map(Weak::upgrade).filter_map(|call| call.take()) {
            front.calls.end(Method::Score, reply::refuse(&mut respond, &front.refusals.deadline));
        }
        let earliest_ns = deadlines.pending().earliest_ns;
        tokio::select! {
            () = until(earliest_ns) => (),
            () = deadlines.earlier.notified() => (),
        }
    }
}

/// Sleep until a monotonic instant; for ever where there is none, 0.
pub async fn until(deadline_ns: i64) {
    if deadline_ns == 0 {
        return std::future::pending().await;
    }
    loop {
        let left_ns = deadline_ns - monotonic_ns();
        if left_ns <= 0 {
            return;
        }
        sleep(Duration::from_nanos(left_ns as u64)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_due_at_their_deadlines() {
        let calls = [30, 10, 20].map(|deadline_ns| (deadline_ns, Arc::new(deadline_ns)));
        let mut pending = Pending::default();
        let earlier = calls.each_ref().map(|(deadline_ns, call)| pending.add(*deadline_ns, Arc::downgrade(call)));
        assert_eq!(earlier, [true, true, false]);
        let mut due =
            |now_ns| pending.due(now_ns).iter().map(|call| *call.upgrade().expect("held")).collect::<Vec<_>>();
        assert_eq!((due(9), due(10), due(10), due(29), due(99)), (vec![], vec![10], vec![], vec![20], vec![30]));
        assert_eq!(pending.earliest_ns, i64::MAX);
    }

    #[test]
    fn answered_calls_are_forgotten() {
        let unanswered: Vec<_> = (0..5_000).map(|_| Arc::new(())).collect();
        let mut pending = Pending::default();
        for call in &unanswered {
            pending.add(1, Arc::downgrade(call));
            pending.add(1, Weak::new());
        }
        for _ in 0..100_000 {
            pending.add(1, Weak::new());
            assert!(pending.calls.len() <= 4 * unanswered.len());
        }
        assert_eq!(pending.due(1).len(), unanswered.len());
    }
}
