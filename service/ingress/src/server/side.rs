//! The side door: health and reflection. Their state lives in Python, so their messages go there one by one; at most
//! `CALLS_MAX` such calls are open, `CONNECTION_CALLS_MAX` of one connection, each with one unanswered message.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use futures_util::future::poll_fn;
use h2::SendStream;
use h2::server::SendResponse;
use tokio::sync::mpsc;

use super::bell::Bell;
use super::calls::Method;
use super::deadlines::until;
use super::front::Front;
use super::message::Messages;
use super::refusal::{Refusal, code};
use super::reply::{self, Gone};
use super::unary::refusal_of;

const CALLS_MAX: usize = 4_096;
const EVENTS_AT_ONCE: usize = 64;
/// No stranger who watches takes the place of whoever asks whether the server lives.
const CONNECTION_CALLS_MAX: usize = 16;

/// What the open side calls of one connection have in common; each holds one.
pub type SideCalls = Arc<()>;

/// What Python hears of a side call, by the call's number.
pub enum Event {
    Opened(u64, String),
    Message(u64, Bytes),
    HalfClosed(u64),
    Gone(u64),
}

/// A call's channel is unbounded, and short: Python answers one message at a time, and tells news of health as it comes.
enum SideReply {
    Message(Bytes),
    End(Option<Refusal>),
}

/// The open side calls, and what happened on them that Python has not heard.
#[derive(Default)]
pub struct Side {
    calls: Mutex<HashMap<u64, mpsc::UnboundedSender<SideReply>>>,
    events: Mutex<VecDeque<Event>>,
    numbers: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

impl Side {
    /// What happened since the last time, `EVENTS_AT_ONCE` at most; the bell rings again for the rest. Python decides
    /// batches between.
    pub fn events(&self, bell: &Bell) -> Vec<Event> {
        let mut events = locked(&self.events);
        let count = events.len().min(EVENTS_AT_ONCE);
        let taken = events.drain(..count).collect();
        if !events.is_empty() {
            bell.ring();
        }
        taken
    }

    fn tell(&self, bell: &Bell, event: Event) {
        locked(&self.events).push_back(event);
        bell.ring();
    }

    /// Send a message on a call. A call that has gone takes nothing.
    pub fn send(&self, call: u64, body: &[u8]) {
        self.reply(call, SideReply::Message(reply::framed(body)));
    }

    /// End a call, with OK where there is no refusal.
    pub fn end(&self, call: u64, refusal: Option<Refusal>) {
        self.reply(call, SideReply::End(refusal));
    }

    fn reply(&self, call: u64, reply: SideReply) {
        if let Some(sender) = locked(&self.calls).get(&call) {
            let _ = sender.send(reply); // its task has ended: the caller is gone
        }
    }

    fn open(&self) -> Option<(u64, mpsc::UnboundedReceiver<SideReply>)> {
        let mut calls = locked(&self.calls);
        if calls.len() >= CALLS_MAX || locked(&self.events).len() >= CALLS_MAX {
            return None;
        }
        let call = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        calls.insert(call, sender);
        Some((call, receiver))
    }
}

/// One side call, from its headers to its trailers.
pub async fn serve(
    front: Arc<Front>,
    path: String,
    mut messages: Messages,
    mut respond: SendResponse<Bytes>,
    beside: SideCalls,
    deadline_ns: i64,
    method: Method,
) {
    let few = Arc::strong_count(&beside) <= CONNECTION_CALLS_MAX + 1; // the connection holds one too
    let Some((call, replies)) = few.then(|| front.side.open()).flatten() else {
        let refusal = Refusal::plain(code::RESOURCE_EXHAUSTED, "too many calls");
        return front.calls.end(method, reply::refuse(&mut respond, &refusal));
    };
    front.side.tell(&front.bell, Event::Opened(call, path));
    front.calls.end(method, converse(&front, call, replies, &mut messages, respond, deadline_ns).await);
    locked(&front.side.calls).remove(&call);
    front.side.tell(&front.bell, Event::Gone(call));
}

async fn converse(
    front: &Front,
    call: u64,
    mut replies: mpsc::UnboundedReceiver<SideReply>,
    messages: &mut Messages,
    mut respond: SendResponse<Bytes>,
    deadline_ns: i64,
) -> Result<u32, Gone> {
    let mut send: Option<SendStream<Bytes>> = None;
    let (mut open, mut unanswered) = (true, false);
    loop {
        tokio::select! {
            message = poll_fn(|cx| messages.poll_next(&front.held, cx)), if open && !unanswered => match message {
                Ok(Some(body)) => {
                    unanswered = true;
                    front.side.tell(&front.bell, Event::Message(call, body));
                }
                Ok(None) => {
                    open = false;
                    front.side.tell(&front.bell, Event::HalfClosed(call));
                }
                Err(broken) => {
                    let (_, refusal) = refusal_of(front, &broken).ok_or(Gone)?; // no transaction: it is not counted
                    return end(send, respond, Some(refusal));
                }
            },
            said = replies.recv() => match said {
                Some(SideReply::Message(frame)) => {
                    unanswered = false;
                    if send.is_none() {
                        send = Some(respond.send_response(reply::head(false), false)?);
                    }
                    if let Some(stream) = send.as_mut() {
                        reply::write(front, stream, frame).await?;
                    }
                }
                Some(SideReply::End(refusal)) => return end(send, respond, refusal),
                None => return Err(Gone),
            },
            () = reset(&mut send, &mut respond) => return Err(Gone),
            () = until(deadline_ns) => return end(send, respond, Some(front.refusals.deadline.clone())),
        }
    }
}

/// Wait until the caller goes.
async fn reset(send: &mut Option<SendStream<Bytes>>, respond: &mut SendResponse<Bytes>) {
    let _ = match send {
        Some(send) => poll_fn(|cx| send.poll_reset(cx)).await,
        None => poll_fn(|cx| respond.poll_reset(cx)).await,
    };
}

fn end(
    send: Option<SendStream<Bytes>>,
    mut respond: SendResponse<Bytes>,
    refusal: Option<Refusal>,
) -> Result<u32, Gone> {
    match (send, refusal) {
        (Some(mut stream), refusal) => reply::end_with(&mut stream, refusal.as_ref()),
        (None, Some(refusal)) => reply::refuse(&mut respond, &refusal),
        (None, None) => reply::end_with(&mut respond.send_response(reply::head(false), false)?, None),
    }
}
