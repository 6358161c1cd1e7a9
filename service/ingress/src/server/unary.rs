//! Score(): one message in, one out. The usual call is finished here without a task of its own: its message lies in
//! the connection's buffer when its headers are handed over.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_fn;
use h2::server::SendResponse;
use tokio::time::timeout;

use super::calls::Method;
use super::clock::monotonic_ns;
use super::counts::Counted;
use super::dispatch;
use super::front::{Entry, Front, Origin, Reply};
use super::guard::guarded_task;
use super::message::{Broken, Messages, Packed};
use super::refusal::{Refusal, code};
use super::reply::{self, Call, Gone};
use super::unheard::Unheard;
use crate::transaction::Transaction;

/// Take a call whose headers came at `now_ns`. `respond` is emptied when somebody else will answer. Where the door is
/// shut a call does not wait for its message: a client that is behind sends the headers of all its calls first.
pub fn begin(
    front: &Arc<Front>,
    mut messages: Messages,
    respond: &mut Option<SendResponse<Bytes>>,
    now_ns: i64,
    deadline_ns: i64,
    origin: &Origin,
    unheard: &mut Unheard,
) {
    match messages.poll_packed(&front.held, &mut Context::from_waker(Waker::noop())) {
        Poll::Ready(packed) => {
            let packed = packed.and_then(|packed| packed.ok_or(Broken::Cut));
            finish(front, &mut messages, packed, respond, now_ns, deadline_ns, origin);
        }
        Poll::Pending => {
            let waiting = match front.waits(now_ns, deadline_ns, origin.caller, unheard) {
                Ok(waiting) => waiting,
                Err((counted, refusal)) => {
                    unheard.add(messages, now_ns.saturating_add(front.settings.message_ns_max));
                    return refuse(front, respond, counted, refusal, origin);
                }
            };
            let (front, mut respond, origin) = (front.clone(), respond.take(), origin.clone());
            tokio::spawn(guarded_task(front.clone(), async move {
                let packed = first_message(&front, &mut messages, deadline_ns).await;
                drop(waiting);
                let late = matches!(packed, Err(Broken::Late));
                finish(&front, &mut messages, packed, &mut respond, monotonic_ns(), deadline_ns, &origin);
                if late {
                    let until_ns = now_ns.saturating_add(front.settings.message_ns_max);
                    let _ = timeout(within(until_ns), messages.see_out()).await; // whose time is up is reset
                }
            }));
        }
    }
}

/// The first message of a call, which has to come within `message_ns_max` and before the call's deadline.
pub async fn first_message(front: &Front, messages: &mut Messages, deadline_ns: i64) -> Result<Packed, Broken> {
    let longest_ns = monotonic_ns().saturating_add(front.settings.message_ns_max);
    let until_ns = if deadline_ns == 0 { longest_ns } else { longest_ns.min(deadline_ns) };
    let message = timeout(within(until_ns), poll_fn(|cx| messages.poll_packed(&front.held, cx))).await;
    message.unwrap_or(Err(Broken::Late))?.ok_or(Broken::Cut)
}

/// What is left until `until_ns`.
fn within(until_ns: i64) -> Duration {
    Duration::from_nanos((until_ns - monotonic_ns()).max(0) as u64)
}

fn finish(
    front: &Arc<Front>,
    messages: &mut Messages,
    packed: Result<Packed, Broken>,
    respond: &mut Option<SendResponse<Bytes>>,
    now_ns: i64,
    deadline_ns: i64,
    origin: &Origin,
) {
    if packed.is_ok()
        && let Some((counted, refusal)) = front.refuses_unread(now_ns, deadline_ns, origin.caller)
    {
        return refuse(front, respond, counted, refusal, origin);
    }
    let message = match packed.and_then(|packed| messages.open(packed)) {
        Ok(message) => message,
        Err(broken) => return refuse_broken(front, respond, &broken, origin),
    };
    match Transaction::decode_request(&message) {
        Ok(Some(transaction)) => admit(front, transaction.slimmed(), respond, deadline_ns, origin),
        Ok(None) => refuse(front, respond, Counted::Invalid, &front.refusals.missing, origin),
        Err(_) => refuse(front, respond, Counted::Undecodable, &front.refusals.undecodable, origin),
    }
}

fn admit(
    front: &Arc<Front>,
    transaction: Transaction,
    respond: &mut Option<SendResponse<Bytes>>,
    deadline_ns: i64,
    origin: &Origin,
) {
    let Some(mut respond) = respond.take() else { return };
    if let Some(echo) = &front.echo {
        front.calls.end(Method::Score, reply::answer(front, &mut respond, echo.clone(), false, None));
        return;
    }
    let call = Arc::new(Call::new(respond));
    let watched = (deadline_ns != 0).then(|| Arc::downgrade(&call));
    let (caller, parent, thread) = (origin.caller, origin.parent.clone(), origin.thread);
    let entry = Entry { transaction, arrival_ns: 0, deadline_ns, caller, parent, thread, reply: Reply::Unary(call) };
    match (front.admit([entry]).pop(), watched) {
        (Some((entry, refusal)), _) => {
            origin.refused(1);
            dispatch::refuse(front, entry, refusal);
        }
        (None, Some(call)) => front.deadlines.watch(deadline_ns, call),
        (None, None) => (),
    }
}

/// End a call that never became a transaction.
pub fn refuse_broken(front: &Front, respond: &mut Option<SendResponse<Bytes>>, broken: &Broken, origin: &Origin) {
    match refusal_of(front, broken) {
        Some((counted, refusal)) => refuse(front, respond, counted, &refusal, origin),
        None => {
            front.calls.end(origin.method, Err(Gone));
            drop(respond.take());
        }
    }
}

/// How a call ends that has no further message, and what that counts as. None: nobody waits.
pub fn refusal_of(front: &Front, broken: &Broken) -> Option<(Counted, Refusal)> {
    Some(match broken {
        Broken::Cut => (Counted::Undecodable, front.refusals.undecodable.clone()),
        Broken::TooLarge => {
            let text = format!("message larger than max ({} bytes)", front.settings.message_bytes_max);
            (Counted::Invalid, Refusal::plain(code::RESOURCE_EXHAUSTED, &text))
        }
        Broken::Compressed => {
            let text = "a message is compressed, and the call names no grpc-encoding";
            (Counted::Invalid, Refusal::plain(code::INTERNAL, text))
        }
        Broken::Late => (Counted::Deadline, front.refusals.deadline.clone()),
        Broken::Crowded => (Counted::QueueFull, front.refusals.of(Counted::QueueFull, 0).clone()),
        Broken::Gone => return None,
    })
}

pub fn refuse(
    front: &Front,
    respond: &mut Option<SendResponse<Bytes>>,
    counted: Counted,
    refusal: &Refusal,
    origin: &Origin,
) {
    front.counts.count(counted);
    origin.refused(1);
    if let Some(mut respond) = respond.take() {
        front.calls.end(origin.method, reply::refuse(&mut respond, refusal));
    }
}
