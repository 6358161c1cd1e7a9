//! A panic fails one call, never the process, and is counted.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::server::SendResponse;

use super::counts::Counted;
use super::front::Front;
use super::reply;

/// Run `act`; where it panics, count that and answer INTERNAL if the call is still ours to answer.
pub fn guarded(
    front: &Front,
    respond: &mut Option<SendResponse<Bytes>>,
    act: impl FnOnce(&mut Option<SendResponse<Bytes>>),
) {
    if catch_unwind(AssertUnwindSafe(|| act(respond))).is_err() {
        front.counts.count(Counted::Panic);
        if let Some(mut respond) = respond.take() {
            let _ = reply::refuse(&mut respond, &front.refusals.internal); // Gone: nobody waits
        }
    }
}

/// A task that counts its panic. What it held is dropped, which resets its stream.
pub async fn guarded_task(front: Arc<Front>, task: impl Future<Output = ()>) {
    if AssertUnwindSafe(task).catch_unwind().await.is_err() {
        front.counts.count(Counted::Panic);
    }
}
