//! Calls whose messages have not come: how many may wait for them, and those that were refused before. The messages of
//! these are read when they come, and dropped: see `Messages::poll_out`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use super::message::Messages;

/// How soon to look again where no call comes that would be a reason to.
pub const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Messages come in the order of their calls, nearly: where so many are not here, few of the others are.
const MISSES_MAX: usize = 8;

/// Of one connection.
#[derive(Default)]
pub struct Unheard {
    /// Those refused, and until when. No more than it may have open streams; none has a task or a timer of its own.
    refused: VecDeque<(Messages, i64)>,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
}

/// A call that waits for its message, until this is dropped. It is counted with its connection's and with all.
pub struct Waiting([Arc<AtomicUsize>; 2]);

impl Drop for Waiting {
    fn drop(&mut self) {
        for count in &self.0 {
            count.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Unheard {
    /// Wait for a message, unless as many as may are waiting, `all` together, and as many on this connection as is its
    /// share: what waits here will want to be queued all the same.
    pub fn wait(&self, all: &Arc<AtomicUsize>, calls_max: usize, connections: usize) -> Option<Waiting> {
        let share = calls_max / connections.max(1);
        if all.load(Ordering::Relaxed) >= calls_max && self.waiting.load(Ordering::Relaxed) >= share.max(1) {
            return None;
        }
        let counts = [all.clone(), self.waiting.clone()];
        for count in &counts {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Some(Waiting(counts))
    }

    /// Wait for the message of a call until `until_ns`; then its stream is reset.
    pub fn add(&mut self, messages: Messages, until_ns: i64) {
        self.refused.push_back((messages, until_ns));
    }

    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
    }

    /// Forget those whose messages have come, or whose time is up.
    pub fn look(&mut self, now_ns: i64) {
        look(&mut self.refused, now_ns, |messages| {
            messages.poll_out(&mut Context::from_waker(Waker::noop())).is_ready()
        });
    }
}

fn look<T>(calls: &mut VecDeque<(T, i64)>, now_ns: i64, mut is_over: impl FnMut(&mut T) -> bool) {
    let mut misses = 0;
    while misses < MISSES_MAX {
        let Some((call, until_ns)) = calls.get_mut(misses) else { return };
        if *until_ns > now_ns && !is_over(call) {
            misses += 1;
        } else {
            calls.remove(misses);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_leaves_the_others_their_share() {
        let (one, other, all) = (Unheard::default(), Unheard::default(), Arc::default());
        let mut waiting: Vec<_> = std::iter::from_fn(|| one.wait(&all, 10, 2)).collect();
        assert_eq!((waiting.len(), all.load(Ordering::Relaxed)), (10, 10));
        let others: Vec<_> = std::iter::from_fn(|| other.wait(&all, 10, 2)).collect();
        assert_eq!(others.len(), 5);
        waiting.truncate(4);
        assert!(one.wait(&all, 10, 2).is_some());
        drop((waiting, others));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn all_that_have_come_are_forgotten_though_a_few_never_come() {
        let mut calls: VecDeque<_> = (0..1_000).map(|call| (call, 100)).collect();
        look(&mut calls, 0, |call| *call % 200 != 0);
        let left: Vec<_> = calls.iter().map(|(call, _)| *call).collect();
        assert_eq!(left, [0, 200, 400, 600, 800]);
        look(&mut calls, 100, |_| false);
        assert!(calls.is_empty(), "their time is up");
    }

    #[test]
    fn a_look_at_many_that_have_not_come_is_short() {
        let mut calls: VecDeque<_> = (0..4_096).map(|call| (call, 100)).collect();
        let mut looked_at = 0;
        look(&mut calls, 0, |_| {
            looked_at += 1;
            false
        });
        assert_eq!((looked_at, calls.len()), (MISSES_MAX, 4_096));
    }
}
