//! A panic fails one call, never the process, and is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::server::SendResponse;

use super::counts::{Counted, Counts};
use super::front::Front;
use super::reply::{self, Gone};

/// Run `act`: what it returns, or None where it panics, which is counted. What it owned is dropped: a call of which
/// nobody else holds the stream is reset.
pub fn caught<T>(counts: &Counts, act: impl FnOnce() -> T) -> Option<T> {
    let result = catch_unwind(AssertUnwindSafe(act)).ok();
    if result.is_none() {
        counts.count(Counted::Panic);
    }
    result
}

/// Run `act`; where it panics, answer INTERNAL if the call is still ours to answer. Then: how that went.
pub fn guarded(
    front: &Front,
    respond: &mut Option<SendResponse<Bytes>>,
    act: impl FnOnce(&mut Option<SendResponse<Bytes>>),
) -> Option<Result<u32, Gone>> {
    match caught(&front.counts, || act(respond)) {
        Some(()) => None,
        None => respond.take().map(|mut respond| reply::refuse(&mut respond, &front.refusals.internal)),
    }
}

/// A task that counts its panic. What it held is dropped, which resets its stream or closes its connection.
pub fn guarded_task(front: Arc<Front>, task: impl Future<Output = ()>) -> impl Future<Output = ()> {
    caught_task(task, move || front.counts.count(Counted::Panic))
}

/// No async fn: its future would have room for the task twice.
fn caught_task(task: impl Future<Output = ()>, panicked: impl FnOnce()) -> impl Future<Output = ()> {
    AssertUnwindSafe(task).catch_unwind().map(|ended| {
        if ended.is_err() {
            panicked();
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panics(counts: &Counts) -> u64 {
        counts.named().find(|(name, _)| *name == "fraudgate_native_panics_total").map_or(0, |(_, count)| count)
    }

    #[test]
    fn a_panic_ends_its_own_call_and_is_counted() {
        let counts = Counts::default();
        let held = Arc::new(());
        let owned = held.clone();
        let ended: Option<()> = caught(&counts, move || {
            let _owned = owned;
            panic!("a mistake of ours");
        });
        assert_eq!((ended, panics(&counts)), (None, 1));
        assert_eq!(Arc::strong_count(&held), 1, "what the call held is dropped");
        assert_eq!((caught(&counts, || 7), panics(&counts)), (Some(7), 1));
    }

    #[test]
    fn a_panic_ends_its_own_task_and_is_counted() {
        let counts = Arc::new(Counts::default());
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let count = |counts: &Arc<Counts>| {
            let counts = counts.clone();
            move || counts.count(Counted::Panic)
        };
        let bad = caught_task(
            async {
                tokio::task::yield_now().await;
                panic!("a mistake of ours");
            },
            count(&counts),
        );
        let good = caught_task(async {}, count(&counts));
        runtime.block_on(async {
            assert!(tokio::spawn(bad).await.is_ok(), "the panic goes no further than its task");
            assert!(tokio::spawn(good).await.is_ok());
        });
        assert_eq!(panics(&counts), 1);
    }
}
