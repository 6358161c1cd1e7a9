//! One connection: handshake, calls, keep-alive, drain.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::poll_fn;
use h2::RecvStream;
use h2::server::{Connection, SendResponse};
use http::{Method, Request};
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};

use super::callers::Shown;
use super::calls::{self, Begun};
use super::clock::monotonic_ns;
use super::counts::Counted;
use super::front::{Front, Origin};
use super::guard::{guarded, guarded_task};
use super::listener::Open;
use super::message::Messages;
use super::pause::Pause;
use super::pulse::{Pulse, check_every};
use super::request::{self, Rejected, Rpc};
use super::settings::Settings;
use super::side::SideCalls;
use super::socket::{Flow, Socket, Transport};
use super::thread::Stop;
use super::unheard::{LOOK_EVERY, Unheard};
use super::{many, reply, side, unary};

/// What a connection may have on its way to us that no call has read.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 16;
/// Pending answers of one stream that h2 keeps for a peer that does not read.
const SEND_BUFFER_BYTES: usize = 1 << 16;

/// Shake hands with a new peer, and give its connection a task of its own: with the handshake's, what that needed goes.
/// `open` counts it, `drain` changes when it is to finish its calls and go.
pub async fn welcome(open: Open, transport: Transport, mut drain: watch::Receiver<Stop>) {
    let front = open.front();
    let flow = Arc::<Flow>::default();
    let socket = Socket::new(transport, flow.clone());
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
            tokio::spawn(guarded_task(front, converse(open, connection, drain, flow)));
        }
    }
}

/// Count the end of a connection that broke the protocol or a limit. One that just went broke nothing.
fn count_broken(front: &Front, error: &h2::Error) {
    if error.is_library() {
        front.counts.count(Counted::ConnectionBroken);
    }
}

/// Streams reset before they were looked at. When this server stalls, the deadlines of all calls of an honest peer pass
/// at once; what it resets beyond those is an attack.
fn resets_max(settings: &Settings) -> usize {
    settings.streams_max as usize + settings.reset_streams_max
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(settings.streams_max)
        .max_header_list_size(settings.header_list_bytes_max)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(resets_max(settings))
        .max_concurrent_reset_streams(settings.streams_max as usize)
        .max_local_error_reset_streams(Some(settings.reset_streams_max));
    builder
}

type Accept = (Request<RecvStream>, SendResponse<Bytes>);
/// None: the peer has closed the connection.
type Accepted = Option<Result<Accept, h2::Error>>;

/// The calls that came together with this one, `expected` or so, and how the connection ended, if it did. All are
/// accepted before the first is answered: asking h2 for the next call writes what was answered, which costs a system call.
fn accept_more(
    connection: &mut Connection<Socket, Bytes>,
    first: Accept,
    expected: usize,
) -> (Vec<Accept>, Option<Accepted>) {
    let mut calls = Vec::with_capacity(expected);
    calls.push(first);
    loop {
        match connection.poll_accept(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(call))) => calls.push(call),
            Poll::Ready(ended) => return (calls, Some(ended)),
            Poll::Pending => return (calls, None),
        }
    }
}

/// Begin the calls of one turn, and write what was answered at once. How the connection ended, if it did.
fn take_turn(
    front: &Arc<Front>,
    connection: &mut Connection<Socket, Bytes>,
    first: Accept,
    peer: &mut Peer,
) -> Option<Accepted> {
    let mut next = Some(first);
    while let Some(call) = next.take() {
        let (calls, ended) = accept_more(connection, call, peer.calls);
        peer.calls = calls.len();
        for (request, respond) in calls {
            begin(front, request, respond, peer);
        }
        if ended.is_some() {
            return ended;
        }
        match connection.accept().now_or_never() {
            Some(Some(Ok(call))) => next = Some(call),
            ended => return ended,
        }
    }
    None
}

/// Serve one connection to its end.
async fn converse(
    open: Open,
    mut connection: Box<Connection<Socket, Bytes>>,
    mut drain: watch::Receiver<Stop>,
    flow: Arc<Flow>,
) {
    let front = open.front();
    let mut pulse = Pulse::new(connection.ping_pong());
    let mut checks = pin!(sleep(check_every(&front.settings)));
    let mut drained = pin!(drain.changed());
    let mut draining = false;
    let mut peer = Peer { origin: Origin::of(open.thread()), ..Peer::default() };
    let mut pause = Pause::new(front.settings.refusals_per_second_max, monotonic_ns());
    let mut resumed = pin!(sleep(Duration::MAX));
    let mut paused = false;
    loop {
        tokio::select! {
            biased;
            call = connection.accept() => match call {
                Some(Ok(call)) => {
                    pulse.heard = true;
                    peer.arrived_ns = flow.read_ns.load(Ordering::Relaxed);
                    let before = peer.origin.uncharged();
                    let all_heard = peer.unheard.is_empty();
                    flow.answering.store(true, Ordering::Relaxed);
                    let ended = take_turn(front, &mut connection, call, &mut peer);
                    flow.answering.store(false, Ordering::Relaxed);
                    front.calls.start(&mut peer.begun);
                    peer.record_refused(front, before);
                    peer.unheard.look(peer.arrived_ns);
                    if all_heard && !peer.unheard.is_empty() {
                        checks.as_mut().reset(Instant::now() + LOOK_EVERY);
                    }
                    match ended {
                        Some(Some(Err(error))) => return count_broken(front, &error),
                        Some(_) => return,
                        None if flow.take_spent() => yield_now().await, // the others' turn
                        None => (),
                    }
                }
                Some(Err(error)) => return count_broken(front, &error), // GOAWAY is sent; to ask again would spin
                None => return,
            },
            () = poll_fn(|_| if peer.origin.uncharged() > 0 { Poll::Ready(()) } else { Poll::Pending }), if !paused => (),
            () = &mut resumed, if paused => {
                paused = false;
                flow.paused.store(false, Ordering::Relaxed);
            }
            _ = &mut drained, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut checks => {
                let now_ns = monotonic_ns();
                if unread(front, &flow, now_ns) || !pulse.alive(now_ns, &front.settings) {
                    front.counts.count(Counted::ConnectionStalled);
                    return; // dropping it closes the socket: who does not read would read no GOAWAY either
                }
                peer.unheard.look(now_ns);
                let next = if peer.unheard.is_empty() { check_every(&front.settings) } else { LOOK_EVERY };
                checks.as_mut().reset(Instant::now() + next);
            }
        }
        if let Some(pause) = peer.too_much_refused(&mut pause) {
            front.counts.count(Counted::ConnectionPaused);
            paused = true;
            flow.paused.store(true, Ordering::Relaxed);
            resumed.as_mut().reset(Instant::now() + pause);
        }
    }
}

/// Whether the peer has left its answers unread for too long.
fn unread(front: &Front, flow: &Flow, now_ns: i64) -> bool {
    let stalled_ns = flow.stalled_since_ns.load(Ordering::Relaxed);
    stalled_ns != 0 && now_ns - stalled_ns >= front.settings.write_stall_ns_max
}

/// What the calls of one connection have in common.
#[derive(Default)]
struct Peer {
    /// What the last call asks for and whose it is.
    origin: Origin,
    side_calls: SideCalls,
    shown: Shown,
    /// When the calls of this turn came.
    arrived_ns: i64,
    /// How many they are, or were in the last turn.
    calls: usize,
    begun: Begun,
    unheard: Unheard,
}

impl Peer {
    fn begins(&mut self, method: calls::Method) {
        self.origin.method = method;
        self.begun[method as usize] += 1;
    }

    /// Record what was refused in this turn. `before`: what was when its calls came.
    fn record_refused(&self, front: &Front, before: u64) {
        let refused = self.origin.uncharged() - before;
        if refused > 0 {
            front.ledger.refused(monotonic_ns() - self.arrived_ns, refused);
        }
    }

    /// For how long not to read, where too much was refused.
    fn too_much_refused(&self, pause: &mut Pause) -> Option<Duration> {
        let refused = self.origin.charge();
        if refused == 0 {
            return None;
        }
        let now_ns = monotonic_ns();
        pause.charge(refused, now_ns).map(|until_ns| Duration::from_nanos((until_ns - now_ns) as u64))
    }
}

/// A call has come: answer it here, or give it a task.
fn begin(front: &Arc<Front>, request: Request<RecvStream>, respond: SendResponse<Bytes>, peer: &mut Peer) {
    if let Some(ended) = guarded(front, &mut Some(respond), |respond| dispatch(front, request, respond, peer)) {
        front.calls.end(peer.origin.method, ended);
    }
}

fn dispatch(
    front: &Arc<Front>,
    request: Request<RecvStream>,
    respond: &mut Option<SendResponse<Bytes>>,
    peer: &mut Peer,
) {
    let head = match request::parse(&request) {
        Ok(head) => head,
        Err(rejected) => {
            let Some(respond) = respond.take() else { return };
            if let Rejected::Grpc(method, _) = &rejected {
                peer.begins(*method);
            }
            peer.origin.refused(1);
            return reject(front, request, respond, rejected);
        }
    };
    peer.begins(head.rpc.method());
    let caller = match &head.rpc {
        Rpc::Side(_) => Ok(0), // health and reflection are for everybody
        rpc => front.callers.identify(request.headers(), rpc, &mut peer.shown),
    };
    let origin = &mut peer.origin;
    origin.parent = if front.settings.traced { request::parent_of(request.headers()) } else { None };
    match caller {
        Ok(caller) => origin.caller = caller,
        Err(counted) => return unary::refuse(front, respond, counted, front.refusals.of(counted, 0), origin),
    }
    let messages = Messages::new(request.into_body(), head.encoding, &front.settings);
    let deadline_ns = head.timeout_ns.map_or(0, |timeout_ns| peer.arrived_ns.saturating_add(timeout_ns));
    match head.rpc {
        Rpc::Score => {
            unary::begin(front, messages, respond, peer.arrived_ns, deadline_ns, origin, &mut peer.unheard);
        }
        Rpc::ScoreBatch => {
            let call = many::score_batch(front.clone(), messages, respond.take(), deadline_ns, origin.clone());
            tokio::spawn(guarded_task(front.clone(), call));
        }
        Rpc::ScoreStream => {
            let Some(respond) = respond.take() else { return };
            tokio::spawn(guarded_task(
                front.clone(),
                many::score_stream(front.clone(), messages, respond, deadline_ns, origin.clone()),
            ));
        }
        Rpc::Side(path) => {
            let Some(respond) = respond.take() else { return };
            let call = side::serve(
                front.clone(),
                path,
                messages,
                respond,
                peer.side_calls.clone(),
                deadline_ns,
                origin.method,
            );
            tokio::spawn(guarded_task(front.clone(), call));
        }
    }
}

/// End a call that none of ours answers. One that is not even gRPC is heard out first, as HTTP clients expect.
fn reject(front: &Arc<Front>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>, rejected: Rejected) {
    let headless = request.method() == Method::HEAD;
    let mut body = request.into_body();
    if body.is_end_stream() || matches!(rejected, Rejected::Grpc(..)) {
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
