//! One connection: handshake, calls, keep-alive, drain.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, RecvStream};
use http::Request;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::clock::monotonic_ns;
use super::counts::Counted;
use super::front::Front;
use super::guard::{guarded, guarded_task};
use super::message::Messages;
use super::request::{self, Rpc};
use super::settings::Settings;
use super::socket::{Socket, Transport};
use super::{many, reply, side, unary};

/// What a connection may have on its way to us that no call has read.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 16;
/// Pending answers of one stream that h2 keeps for a peer that does not read.
const SEND_BUFFER_BYTES: usize = 1 << 16;

/// Serve one connection to its end. `drain`: turns true when it is to finish its calls and go.
pub async fn serve(front: Arc<Front>, transport: Transport, drain: watch::Receiver<bool>) {
    let stalled_since_ns = Arc::new(AtomicI64::new(0));
    let socket = Socket::new(transport, stalled_since_ns.clone());
    let patience = Duration::from_nanos(front.settings.handshake_ns_max as u64);
    let handshake = builder(&front.settings).handshake::<_, Bytes>(socket);
    match timeout(patience, handshake).await {
        Err(_) => front.counts.count(Counted::ConnectionStalled),
        Ok(Err(_)) => front.counts.count(Counted::ConnectionBroken),
        Ok(Ok(connection)) => converse(front, connection, drain, &stalled_since_ns).await,
    }
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(settings.streams_max)
        .max_header_list_size(settings.header_list_bytes_max)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(settings.reset_streams_max)
        .max_local_error_reset_streams(Some(settings.reset_streams_max));
    builder
}

async fn converse(
    front: Arc<Front>,
    mut connection: Connection<Socket, Bytes>,
    mut drain: watch::Receiver<bool>,
    stalled_since_ns: &AtomicI64,
) {
    let mut pulse = Pulse::new(connection.ping_pong(), &front.settings);
    let mut checks = interval(pulse.check_every);
    checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    checks.reset();
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            call = connection.accept() => match call {
                Some(Ok((request, respond))) => {
                    pulse.heard = true;
                    begin(&front, request, respond);
                }
                Some(Err(_)) => front.counts.count(Counted::ConnectionBroken),
                None => return,
            },
            _ = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            _ = checks.tick() => {
                let stalled_ns = stalled_since_ns.load(Ordering::Relaxed);
                let now_ns = monotonic_ns();
                let unread = stalled_ns != 0 && now_ns - stalled_ns >= front.settings.write_stall_ns_max;
                if unread || !pulse.alive(now_ns) {
                    front.counts.count(Counted::ConnectionStalled);
                    return; // dropping it closes the socket: a peer that does not read would read no GOAWAY either
                }
            }
        }
    }
}

/// Keep-alive: a ping after a silence, and an end without its answer.
struct Pulse {
    pings: Option<PingPong>,
    /// A call came since the last check.
    heard: bool,
    heard_ns: i64,
    pinged_ns: Option<i64>,
    keepalive_ns: i64,
    keepalive_ns_max: i64,
    check_every: Duration,
}

impl Pulse {
    fn new(pings: Option<PingPong>, settings: &Settings) -> Self {
        let check_ns = settings.keepalive_ns.min(settings.keepalive_ns_max).min(settings.write_stall_ns_max) / 2;
        Self {
            pings,
            heard: true,
            heard_ns: monotonic_ns(),
            pinged_ns: None,
            keepalive_ns: settings.keepalive_ns,
            keepalive_ns_max: settings.keepalive_ns_max,
            check_every: Duration::from_nanos(check_ns.max(1_000_000) as u64),
        }
    }

    fn alive(&mut self, now_ns: i64) -> bool {
        let Some(pings) = &mut self.pings else { return true };
        if matches!(pings.poll_pong(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_))) {
            self.pinged_ns = None;
            self.heard = true;
        }
        if std::mem::take(&mut self.heard) {
            self.heard_ns = now_ns;
        }
        match self.pinged_ns {
            Some(pinged_ns) => now_ns - pinged_ns < self.keepalive_ns_max,
            None => {
                if now_ns - self.heard_ns >= self.keepalive_ns && pings.send_ping(Ping::opaque()).is_ok() {
                    self.pinged_ns = Some(now_ns);
                }
                true
            }
        }
    }
}

/// A call has come: answer it here, or give it a task.
fn begin(front: &Arc<Front>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    guarded(front, &mut Some(respond), |respond| dispatch(front, request, respond));
}

fn dispatch(front: &Arc<Front>, request: Request<RecvStream>, respond: &mut Option<SendResponse<Bytes>>) {
    let head = match request::parse(&request) {
        Ok(head) => head,
        Err(rejected) => {
            if let Some(mut respond) = respond.take() {
                let _ = reply::reject(&mut respond, &rejected); // Gone: nobody waits
            }
            return;
        }
    };
    let messages = Messages::new(request.into_body(), head.encoding, front.settings.message_bytes_max);
    let deadline_ns = head.timeout_ns.map_or(0, |timeout_ns| monotonic_ns().saturating_add(timeout_ns));
    match head.rpc {
        Rpc::Score => unary::begin(front, messages, respond, deadline_ns),
        Rpc::ScoreBatch => {
            let call = many::score_batch(front.clone(), messages, respond.take(), deadline_ns);
            tokio::spawn(guarded_task(front.clone(), call));
        }
        Rpc::ScoreStream => {
            let Some(respond) = respond.take() else { return };
            tokio::spawn(guarded_task(front.clone(), many::score_stream(front.clone(), messages, respond)));
        }
        Rpc::Side(path) => {
            let Some(respond) = respond.take() else { return };
            tokio::spawn(guarded_task(front.clone(), side::serve(front.clone(), path, messages, respond)));
        }
    }
}
