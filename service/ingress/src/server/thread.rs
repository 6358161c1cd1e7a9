//! The IO threads: each has a tokio runtime, and connections of its own, on which everything of theirs happens.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};
use tokio_rustls::TlsAcceptor;

use super::deadlines;
use super::dispatch::{self, Answered};
use super::front::Front;
use super::gate;
use super::listener::{self, Listener};

/// Turns of tasks between two looks at what other threads have woken, which is the answers that Python has handed over,
/// and at sockets and timers. Each of a crowd of connections has turns of 75 calls: with the 31 and 61 of the runtime's
/// own choice answers waited for 10 ms.
const TURNS_BEFORE_OTHERS: u32 = 1;
const TURNS_BEFORE_EVENTS: u32 = 8;

/// How far the threads are to go down.
#[derive(Clone, Copy, PartialEq)]
pub enum Stop {
    Running,
    /// No new connections; those open finish their calls, for at most so long.
    Within(Duration),
}

/// Start a thread for each of `answered`, which gives it the answers for its connections. They end after `stop` has
/// changed.
pub fn start(
    front: Arc<Front>,
    listener: Listener,
    tls: Option<TlsAcceptor>,
    answered: Vec<mpsc::UnboundedReceiver<Answered>>,
    stop: watch::Receiver<Stop>,
) -> io::Result<Vec<JoinHandle<()>>> {
    let runtimes = answered.iter().map(|_| runtime()).collect::<io::Result<Vec<_>>>()?;
    if let Some(first) = runtimes.first() {
        let threads = runtimes.iter().map(|runtime| runtime.handle().clone()).collect();
        first.spawn(listener::accept(front.clone(), listener, tls, threads, stop.clone()));
        first.spawn(gate::run(front.clone()));
        first.spawn(deadlines::run(front.clone()));
    }
    let served = runtimes.into_iter().zip(answered);
    served.map(|(runtime, answered)| serve(front.clone(), runtime, answered, stop.clone())).collect()
}

fn runtime() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .global_queue_interval(TURNS_BEFORE_OTHERS)
        .event_interval(TURNS_BEFORE_EVENTS)
        .enable_io()
        .enable_time()
        .build()
}

fn serve(
    front: Arc<Front>,
    runtime: Runtime,
    answered: mpsc::UnboundedReceiver<Answered>,
    stop: watch::Receiver<Stop>,
) -> io::Result<JoinHandle<()>> {
    runtime.spawn(dispatch::run(front.clone(), answered));
    std::thread::Builder::new().name("ingress".to_owned()).spawn(move || runtime.block_on(until_stopped(front, stop)))
}

async fn until_stopped(front: Arc<Front>, mut stop: watch::Receiver<Stop>) {
    let patience = match stop.wait_for(|stop| *stop != Stop::Running).await.as_deref() {
        Ok(Stop::Within(patience)) => *patience,
        _ => Duration::ZERO, // the front end was dropped
    };
    let end = Instant::now() + patience;
    while front.connections() > 0 && Instant::now() < end {
        sleep(Duration::from_millis(1)).await;
    }
}
