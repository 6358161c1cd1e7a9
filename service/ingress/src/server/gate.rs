//! The gate's timer: the only thing of the front end that sleeps until a batch is due.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::clock::monotonic_ns;
use super::front::Front;

/// Ring for Python when the open batch's gate has come. Boundaries are drawn by stamps, so a late ring changes none.
pub async fn run(front: Arc<Front>) {
    loop {
        front.gate.notified().await;
        while let Some(gate_at_ns) = front.gate_rang() {
            sleep(Duration::from_nanos((gate_at_ns - monotonic_ns()).max(0) as u64)).await;
        }
    }
}
