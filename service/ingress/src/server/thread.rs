//! The IO thread: one tokio runtime, on which everything of the front end happens.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::deadlines;
use super::dispatch::{self, Answered};
use super::front::Front;
use super::gate;
use super::listener::{self, Listener};

/// How far the thread is to go down.
#[derive(Clone, Copy, PartialEq)]
pub enum Stop {
    Running,
    /// No new connections; those open finish their calls, for at most so long.
    Within(Duration),
}

/// Start the thread. It ends after `stop` has changed.
pub fn start(
    front: Arc<Front>,
    listener: Listener,
    tls: Option<TlsAcceptor>,
    answered: mpsc::UnboundedReceiver<Answered>,
    stop: watch::Receiver<Stop>,
) -> io::Result<JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    std::thread::Builder::new()
        .name("ingress".to_owned())
        .spawn(move || runtime.block_on(run(front, listener, tls, answered, stop)))
}

async fn run(
    front: Arc<Front>,
    listener: Listener,
    tls: Option<TlsAcceptor>,
    answered: mpsc::UnboundedReceiver<Answered>,
    mut stop: watch::Receiver<Stop>,
) {
    let (drain, draining) = watch::channel(false);
    tokio::spawn(dispatch::run(front.clone(), answered));
    tokio::spawn(gate::run(front.clone()));
    tokio::spawn(deadlines::run(front.clone()));
    tokio::spawn(listener::accept(front.clone(), listener, tls, draining));
    let patience = match stop.wait_for(|stop| *stop != Stop::Running).await.as_deref() {
        Ok(Stop::Within(patience)) => *patience,
        _ => Duration::ZERO, // the front end was dropped
    };
    drain.send_replace(true);
    let end = Instant::now() + patience;
    while front.connections.load(Ordering::Acquire) > 0 && Instant::now() < end {
        sleep(Duration::from_millis(1)).await;
    }
}
