//! One connection: handshake, calls, keep-alive, drain.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Method, Request};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::clock::monotonic_ns;
use super::counts::Counted;
use super::front::Front;
use super::guard::{guarded, guarded_task};
use super::listener::Open;
use super::message::Messages;
use super::pulse::{Pulse, check_every};
use super::request::{self, Rejected, Rpc};
use super::settings::Settings;
use super::side::SideCalls;
use super::socket::{Socket, Transport};
use super::{many, reply, side, unary};

/// What a connection may have on its way to us that no call has read.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 16;
/// Pending answers of one stream that h2 keeps for a peer that does not read.
const SEND_BUFFER_BYTES: usize = 1 << 16;

/// Shake hands with a new peer, and give its connection a task of its own: with the handshake's, what that needed goes.
/// `open` counts it, `drain` turns true when it is to finish its calls and go.
pub async fn welcome(open: Open, transport: Transport, mut drain: watch::Receiver<bool>) {
    let front = open.front();
    let stalled_since_ns = Arc::new(AtomicI64::new(0));
    let socket = Socket::new(transport, stalled_since_ns.clone());
    let patience = Duration::from_nanos(front.settings.handshake_ns_max as u64);
    let handshake = builder(&front.settings).handshake::<_, Bytes>(socket);
    let shaken = tokio::select! {
        shaken = timeout(patience, handshake) => shaken,
        _ = drain.changed() => return,
    };
    match shaken {
        Err(_) => front.counts.count(Counted::ConnectionStalled),
        Ok(Err(error)) => count_broken(front, &error),
        Ok(Ok(connection)) => {
            let (front, connection) = (front.clone(), Box::new(connection));
            tokio::spawn(guarded_task(front, converse(open, connection, drain, stalled_since_ns)));
        }
    }
}

/// Count the end of a connection that broke the protocol or a limit. One that just went broke nothing.
fn count_broken(front: &Front, error: &h2::Error) {
    if error.is_library() {
        front.counts.count(Counted::ConnectionBroken);
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

type Accept = (Request<RecvStream>, SendResponse<Bytes>);
/// None: the peer has closed the connection.
type Accepted = Option<Result<Accept, h2::Error>>;

/// The calls that came together with this one, and how the connection ended, if it did. All are accepted before the
/// first is answered: asking h2 for the next call writes what was answered, which costs a system call.
fn accept_more(connection: &mut Connection<Socket, Bytes>, first: Accept) -> (Vec<Accept>, Option<Accepted>) {
    let mut calls = vec![first];
    loop {
        match connection.accept().now_or_never() {
            Some(Some(Ok(call))) => calls.push(call),
            ended => return (calls, ended),
        }
    }
}

/// Serve one connection to its end.
async fn converse(
    open: Open,
    mut connection: Box<Connection<Socket, Bytes>>,
    mut drain: watch::Receiver<bool>,
    stalled_since_ns: Arc<AtomicI64>,
) {
    let front = open.front();
    let mut pulse = Pulse::new(connection.ping_pong());
    let mut checks = pin!(sleep(check_every(&front.settings)));
    let mut drained = pin!(drain.changed());
    let mut draining = false;
    let side_calls = SideCalls::default();
    loop {
        tokio::select! {
            biased;
            call = connection.accept() => match call {
                Some(Ok(call)) => {
                    pulse.heard = true;
                    let (calls, ended) = accept_more(&mut connection, call);
                    for (request, respond) in calls {
                        begin(front, request, respond, &side_calls);
                    }
                    match ended {
                        Some(Some(Err(error))) => return count_broken(front, &error),
                        Some(_) => return,
                        None => (),
                    }
                }
                Some(Err(error)) => return count_broken(front, &error), // GOAWAY is sent; to ask again would spin
                None => return,
            },
            _ = &mut drained, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut checks => {
                let now_ns = monotonic_ns();
                if unread(front, &stalled_since_ns, now_ns) || !pulse.alive(now_ns, &front.settings) {
                    front.counts.count(Counted::ConnectionStalled);
                    return; // dropping it closes the socket: who does not read would read no GOAWAY either
                }
                checks.as_mut().reset(Instant::now() + check_every(&front.settings));
            }
        }
    }
}

/// Whether the peer has left its answers unread for too long.
fn unread(front: &Front, stalled_since_ns: &AtomicI64, now_ns: i64) -> bool {
    let stalled_ns = stalled_since_ns.load(Ordering::Relaxed);
    stalled_ns != 0 && now_ns - stalled_ns >= front.settings.write_stall_ns_max
}

/// A call has come: answer it here, or give it a task.
fn begin(front: &Arc<Front>, request: Request<RecvStream>, respond: SendResponse<Bytes>, side_calls: &SideCalls) {
    guarded(front, &mut Some(respond), |respond| dispatch(front, request, respond, side_calls));
}

fn dispatch(
    front: &Arc<Front>,
    request: Request<RecvStream>,
    respond: &mut Option<SendResponse<Bytes>>,
    side_calls: &SideCalls,
) {
    let head = match request::parse(&request) {
        Ok(head) => head,
        Err(rejected) => {
            let Some(respond) = respond.take() else { return };
            return reject(front, request, respond, rejected);
        }
    };
    let messages = Messages::new(request.into_body(), head.encoding, &front.settings);
    let deadline_ns = head.timeout_ns.map_or(0, |timeout_ns| monotonic_ns().saturating_add(timeout_ns));
    match head.rpc {
        Rpc::Score => unary::begin(front, messages, respond, deadline_ns),
        Rpc::ScoreBatch => {
            let call = many::score_batch(front.clone(), messages, respond.take(), deadline_ns);
            tokio::spawn(guarded_task(front.clone(), call));
        }
        Rpc::ScoreStream => {
            let Some(respond) = respond.take() else { return };
            tokio::spawn(guarded_task(
                front.clone(),
                many::score_stream(front.clone(), messages, respond, deadline_ns),
            ));
        }
        Rpc::Side(path) => {
            let Some(respond) = respond.take() else { return };
            let call = side::serve(front.clone(), path, messages, respond, side_calls.clone(), deadline_ns);
            tokio::spawn(guarded_task(front.clone(), call));
        }
    }
}

/// End a call that none of ours answers. One that is not even gRPC is heard out first, as HTTP clients expect.
fn reject(front: &Arc<Front>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, rejected: Rejected) {
    let headless = request.method() == Method::HEAD;
    let mut body = request.into_body();
    if body.is_end_stream() || matches!(rejected, Rejected::Grpc(_)) {
        let _ = reply::reject(front, &mut respond, &rejected, headless); // Gone: nobody waits
        return;
    }
    let patience = Duration::from_nanos(front.settings.message_ns_max as u64);
    let front = front.clone();
    tokio::spawn(guarded_task(front.clone(), async move {
        let heard_out = async {
            while let Some(chunk) = body.data().await {
                body.flow_control().release_capacity(chunk?.len())?;
            }
            body.trailers().await
        };
        if let Ok(Ok(_)) = timeout(patience, heard_out).await {
            let _ = reply::reject(&front, &mut respond, &rejected, headless); // Gone: nobody waits
        }
    }));
}
