//! One call: what comes back, from the response head to the grpc-status.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::{HeaderMap, Response};

/// What the server said: a status, and with status 0 the two numbers of its ScoreResponse that are counted.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub decision: u8,
    pub fallback: u8,
    pub replayed: bool,
}

/// How a call ended: with an answer, or lost and why.
pub struct End {
    pub intended_ns: i64,
    pub result: Result<Answer, &'static str>,
}

/// A call under way; a future of its end.
pub struct Call {
    intended_ns: i64,
    stage: Stage,
    body: Bytes,
    replayed: bool,
}

enum Stage {
    Head(ResponseFuture),
    Body(RecvStream),
}

impl Call {
    pub fn new(intended_ns: i64, response: ResponseFuture) -> Call {
        Call { intended_ns, stage: Stage::Head(response), body: Bytes::new(), replayed: false }
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Result<Answer, &'static str>> {
        loop {
            match &mut self.stage {
                Stage::Head(response) => match ready!(Pin::new(response).poll(cx)) {
                    Ok(response) => match self.read_head(response) {
                        Ok(stream) => self.stage = Stage::Body(stream),
                        Err(result) => return Poll::Ready(result),
                    },
                    Err(error) => return Poll::Ready(Err(why(&error))),
                },
                Stage::Body(stream) => match ready!(stream.poll_data(cx)) {
                    Some(Ok(part)) => {
                        let part_bytes = part.len();
                        if self.body.is_empty() {
                            self.body = part; // its share of the window comes back with the end of the stream
                        } else {
                            self.body = joined(&self.body, &part);
                            let _ = stream.flow_control().release_capacity(part_bytes);
                        }
                    }
                    Some(Err(error)) => return Poll::Ready(Err(why(&error))),
                    None => {
                        let trailers = ready!(stream.poll_trailers(cx));
                        return Poll::Ready(self.read_trailers(trailers));
                    }
                },
            }
        }
    }

    /// The stream to read on, or the result where the head is all there is.
    fn read_head(&mut self, response: Response<RecvStream>) -> Result<RecvStream, Result<Answer, &'static str>> {
        if response.status() != http::StatusCode::OK {
            return Err(Err("an HTTP status other than 200"));
        }
        if let Some(status) = status_of(response.headers()) {
            return Err(self.answer(status));
        }
        self.replayed = response.headers().contains_key("idempotent-replay");
        Ok(response.into_body())
    }

    fn read_trailers(&self, trailers: Result<Option<HeaderMap>, h2::Error>) -> Result<Answer, &'static str> {
        match trailers {
            Ok(trailers) => match trailers.as_ref().and_then(status_of) {
                Some(status) => self.answer(status),
                None => Err("the end of the stream without a grpc-status"),
            },
            Err(error) => Err(why(&error)),
        }
    }

    fn answer(&self, status: u16) -> Result<Answer, &'static str> {
        let (decision, fallback) = match status {
            0 => message_of(&self.body).and_then(counted_fields).ok_or("an answer that cannot be read")?,
            _ => (0, 0),
        };
        Ok(Answer { status, decision, fallback, replayed: self.replayed })
    }
}

impl Future for Call {
    type Output = End;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<End> {
        let result = ready!(self.poll_answer(cx));
        Poll::Ready(End { intended_ns: self.intended_ns, result })
    }
}

fn joined(first: &[u8], second: &[u8]) -> Bytes {
    let mut whole = BytesMut::with_capacity(first.len() + second.len());
    whole.extend_from_slice(first);
    whole.extend_from_slice(second);
    whole.freeze()
}

fn why(error: &h2::Error) -> &'static str {
    if error.is_reset() {
        "the server reset the stream"
    } else if error.is_go_away() {
        match error.reason() {
            Some(h2::Reason::ENHANCE_YOUR_CALM) => "the server closed the connection (GOAWAY, ENHANCE_YOUR_CALM)",
            Some(h2::Reason::PROTOCOL_ERROR) => "the server closed the connection (GOAWAY, PROTOCOL_ERROR)",
            _ => "the server closed the connection (GOAWAY)",
        }
    } else {
        "the connection broke"
    }
}

/// The grpc-status; 2 (UNKNOWN) for one that is no number of the specification.
fn status_of(headers: &HeaderMap) -> Option<u16> {
    let text = headers.get("grpc-status")?.as_bytes();
    Some(match text {
        [digit @ b'0'..=b'9'] => u16::from(digit - b'0'),
        [b'1', digit @ b'0'..=b'6'] => 10 + u16::from(digit - b'0'),
        _ => 2,
    })
}

/// The one message of a body, which begins with a flag (0 = not compressed) and the message's length.
fn message_of(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk::<5>()?;
    let [compressed, length @ ..] = *prefix;
    (compressed == 0 && u32::from_be_bytes(length) as usize == message.len()).then_some(message)
}

/// `decision` (field 2) and `fallback` (field 8) of a ScoreResponse, 0 where absent; None for what is no message.
fn counted_fields(mut message: &[u8]) -> Option<(u8, u8)> {
    let (mut decision, mut fallback) = (0, 0);
    while !message.is_empty() {
        let tag = take_varint(&mut message)?;
        let skipped = match tag & 7 {
            0 => {
                let value = take_varint(&mut message)?.min(u64::from(u8::MAX)) as u8;
                match tag >> 3 {
                    2 => decision = value,
                    8 => fallback = value,
                    _ => {}
                }
                0
            }
            1 => 8,
            2 => take_varint(&mut message)?,
            5 => 4,
            _ => return None,
        };
        message = message.get(usize::try_from(skipped).ok()?..)?;
    }
    Some((decision, fallback))
}

fn take_varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counted_fields_are_found_among_others() {
        let message = [&[10, 2, b'i', b'd', 16, 3, 29, 0, 0, 128, 63][..], &[64, 5, 74, 1, b'x']].concat();
        assert_eq!(counted_fields(&message), Some((3, 5)));
        assert_eq!(counted_fields(b""), Some((0, 0)));
        for cut in [b"\x10".as_slice(), b"\x0a\x05abc", b"\x1d\x00", b"\x13"] {
            assert_eq!(counted_fields(cut), None, "{cut:?}");
        }
    }

    #[test]
    fn a_body_is_one_whole_message() {
        assert_eq!(message_of(b"\0\0\0\0\x02ab"), Some(b"ab".as_slice()));
        for wrong in [b"\0\0\0\0\x03ab".as_slice(), b"\x01\0\0\0\x02ab", b"\0\0\0", b""] {
            assert_eq!(message_of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_status_is_a_code_of_the_specification() {
        let status = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", text.parse().expect("ASCII"));
            status_of(&headers)
        };
        assert_eq!(status_of(&HeaderMap::new()), None);
        for (text, code) in [("0", 0), ("8", 8), ("14", 14), ("16", 16), ("17", 2), ("", 2), ("x", 2), ("008", 2)] {
            assert_eq!(status(text), Some(code), "{text}");
        }
    }
}
