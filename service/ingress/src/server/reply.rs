//! What goes back: an answer with its trailers, or a status alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::refusal::Refusal;
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

/// Headers, one message that has its prefix, trailers.
pub fn answer(respond: &mut SendResponse<Bytes>, frame: Bytes, replayed: bool) -> Result<(), Gone> {
    let mut send = respond.send_response(head(replayed), false)?;
    send.send_data(frame, false)?;
    send.send_trailers(ok_trailers())?;
    Ok(())
}

/// A status alone, in one HEADERS frame.
pub fn refuse(respond: &mut SendResponse<Bytes>, refusal: &Refusal) -> Result<(), Gone> {
    let mut response = Response::new(());
    *response.headers_mut() = refusal.trailers();
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    respond.send_response(response, true)?;
    Ok(())
}

/// The end of a call that is not gRPC, or has no message of ours.
pub fn reject(respond: &mut SendResponse<Bytes>, rejected: &Rejected) -> Result<(), Gone> {
    match rejected {
        Rejected::Grpc(refusal) => refuse(respond, refusal),
        Rejected::Http(status) => {
            let mut response = Response::new(());
            *response.status_mut() = *status;
            if *status == StatusCode::METHOD_NOT_ALLOWED {
                response.headers_mut().insert("allow", HeaderValue::from_static("POST"));
            }
            respond.send_response(response, true)?;
            Ok(())
        }
    }
}

/// The response headers of a call that has messages.
pub fn head(replayed: bool) -> Response<()> {
    let mut headers = HeaderMap::with_capacity(2);
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    if replayed {
        headers.insert("idempotent-replay", HeaderValue::from_static("1"));
    }
    let mut response = Response::new(());
    *response.headers_mut() = headers;
    response
}

/// The trailers of a good end.
pub fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers
}
