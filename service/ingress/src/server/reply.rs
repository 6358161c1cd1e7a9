//! What goes back: an answer with its trailers, or a status alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::future::poll_fn;
use h2::SendStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::time::timeout;

use super::clock::monotonic_ns;
use super::counts::Counted;
use super::front::Front;
use super::guard::guarded_task;
use super::refusal::{GRPC_STATUS, Refusal, code};
use super::request::Rejected;

/// The stream has gone: nobody waits for this reply.
pub struct Gone;

impl From<h2::Error> for Gone {
    fn from(_: h2::Error) -> Self {
        Gone
    }
}

/// An unanswered unary call, shared by all who may end it: whoever takes it first does. Dropping it resets the stream.
pub struct Call(Mutex<Option<SendResponse<Bytes>>>);

impl Call {
    pub fn new(respond: SendResponse<Bytes>) -> Self {
        Self(Mutex::new(Some(respond)))
    }

    fn respond(&self) -> MutexGuard<'_, Option<SendResponse<Bytes>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn take(&self) -> Option<SendResponse<Bytes>> {
        self.respond().take()
    }

    /// Whether the caller went away. One that was ended at its deadline did not.
    pub fn gone(&self) -> bool {
        let mut respond = self.respond();
        respond.as_mut().is_some_and(|respond| respond.poll_reset(&mut Context::from_waker(Waker::noop())).is_ready())
    }
}

const NOT_GRPC: &[u8] = b"This port speaks gRPC: POST, content-type application/grpc.\n";

/// The flag and the length before each message.
pub const PREFIX_BYTES: usize = 5;

/// A message with its prefix.
pub fn framed(body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + body.len());
    frame.put_slice(&[0; PREFIX_BYTES]);
    frame.put_slice(body);
    put_prefix(&mut frame);
    frame.freeze()
}

/// Write the prefix of the message that begins after `PREFIX_BYTES`.
pub fn put_prefix(frame: &mut BytesMut) {
    let length = (frame.len() - PREFIX_BYTES) as u32;
    frame[0] = 0;
    frame[1..PREFIX_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// Headers, one message that has its prefix, trailers. A decision is late after `late_at_ns`. The code is OK.
pub fn answer(
    front: &Arc<Front>,
    respond: &mut SendResponse<Bytes>,
    frame: Bytes,
    replayed: bool,
    late_at_ns: Option<i64>,
) -> Result<u32, Gone> {
    let send = respond.send_response(head(replayed), false)?;
    deliver(front, send, frame, Some(ok_trailers()), late_at_ns)?;
    Ok(code::OK) // decided, even where the answer has to wait for the peer's window
}

/// A body and, if there are any, trailers. A body that the peer's window has no room for waits for it in a task.
fn deliver(
    front: &Arc<Front>,
    mut send: SendStream<Bytes>,
    body: Bytes,
    trailers: Option<HeaderMap>,
    late_at_ns: Option<i64>,
) -> Result<(), Gone> {
    if has_room(&mut send, body.len()) {
        return end(&mut send, body, trailers);
    }
    let mut share = front.held.share();
    if share.hold(body.len()) {
        let held = front.clone();
        let late_at_ns = late_at_ns.filter(|late_at_ns| monotonic_ns() <= *late_at_ns); // else it was late before
        tokio::spawn(guarded_task(front.clone(), async move {
            if write(&held, &mut send, body).await.is_ok() {
                let _ = end(&mut send, Bytes::new(), trailers); // Gone: nobody waits
            }
            if late_at_ns.is_some_and(|late_at_ns| monotonic_ns() > late_at_ns) {
                held.counts.count(Counted::AnswerLate);
            }
            drop(share);
        }));
    }
    Ok(()) // not held: the stream is reset by being dropped
}

fn end(send: &mut SendStream<Bytes>, body: Bytes, trailers: Option<HeaderMap>) -> Result<(), Gone> {
    if trailers.is_none() || !body.is_empty() {
        send.send_data(body, trailers.is_none())?;
    }
    Ok(trailers.map_or(Ok(()), |trailers| send.send_trailers(trailers))?)
}

/// Whether the peer's windows have room for so many bytes. They are kept for this stream.
fn has_room(send: &mut SendStream<Bytes>, bytes: usize) -> bool {
    send.reserve_capacity(bytes);
    send.capacity() >= bytes
}

/// Send one frame when the peer's window has room for it: a slow reader holds its own answers back. One that leaves
/// it unread for longer than `write_stall_ns_max` is as good as gone.
pub async fn write(front: &Front, send: &mut SendStream<Bytes>, mut frame: Bytes) -> Result<(), Gone> {
    if has_room(send, frame.len()) {
        return Ok(send.send_data(frame, false)?);
    }
    let patience = Duration::from_nanos(front.settings.write_stall_ns_max as u64);
    let all = async {
        while !frame.is_empty() {
            send.reserve_capacity(frame.len());
            let room = poll_fn(|cx| send.poll_capacity(cx)).await.ok_or(Gone)??;
            send.send_data(frame.split_to(room.min(frame.len())), false)?;
        }
        Ok(())
    };
    match timeout(patience, all).await {
        Ok(sent) => sent,
        Err(_) => {
            front.counts.count(Counted::AnswerUnread);
            send.send_reset(h2::Reason::CANCEL);
            Err(Gone)
        }
    }
}

/// A status alone, in one HEADERS frame. Its code.
pub fn refuse(respond: &mut SendResponse<Bytes>, refusal: &Refusal) -> Result<u32, Gone> {
    let mut response = Response::new(());
    *response.headers_mut() = refusal.head();
    respond.send_response(response, true)?;
    Ok(refusal.code)
}

/// The end of a call that none of ours answers; `headless` calls take no body.
pub fn reject(
    front: &Arc<Front>,
    respond: &mut SendResponse<Bytes>,
    rejected: &Rejected,
    headless: bool,
) -> Result<(), Gone> {
    let status = match rejected {
        Rejected::Grpc(method, refusal) => {
            front.calls.end(*method, refuse(respond, refusal));
            return Ok(());
        }
        Rejected::Http(status) => *status,
    };
    let mut response = Response::new(());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert("allow", HeaderValue::from_static("POST"));
    }
    let send = respond.send_response(response, headless)?;
    if headless { Ok(()) } else { deliver(front, send, Bytes::from_static(NOT_GRPC), None, None) }
}

/// The response headers of a call that has messages.
pub fn head(replayed: bool) -> Response<()> {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    if replayed {
        headers.insert("idempotent-replay", HeaderValue::from_static("1"));
    }
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

/// The trailers after what a call was sent, with the refusal that ended it if one did. Their code.
pub fn end_with(send: &mut SendStream<Bytes>, refusal: Option<&Refusal>) -> Result<u32, Gone> {
    send.send_trailers(refusal.map_or_else(ok_trailers, Refusal::trailers))?;
    Ok(refusal.map_or(code::OK, |refusal| refusal.code))
}

/// The trailers of a good end.
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(&GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}
