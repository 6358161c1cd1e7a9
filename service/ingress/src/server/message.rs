//! gRPC messages out of DATA frames: a flag, a length of four bytes, then so many bytes.

use std::io::Read;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;
use futures_util::future::poll_fn;
use h2::RecvStream;
use tokio::time::{Sleep, sleep};

use super::held::{Held, Share};
use super::request::Encoding;
use super::settings::Settings;

const PREFIX_BYTES: usize = 5;

/// Why a call has no further message.
#[derive(Debug, PartialEq)]
pub enum Broken {
    /// Over the limit, by its prefix or after decompression.
    TooLarge,
    /// Compressed where the call named no compression.
    Compressed,
    /// Ended within a message, or bytes that are no gzip.
    Cut,
    /// It did not come in time.
    Late,
    /// Too much is half received already, of all calls together.
    Crowded,
    /// The caller reset the stream, or the connection ended.
    Gone,
}

/// A message as it came, perhaps compressed: its flag and length, then its bytes.
pub struct Packed(Bytes);

/// The messages of one call, in order.
pub struct Messages {
    body: RecvStream,
    /// Bytes of the last message that the peer's windows are still to be given back.
    unreleased: usize,
    encoding: Encoding,
    message_bytes_max: usize,
    patience: Duration,
    /// The beginning of the next message, once that takes more than a frame.
    rest: BytesMut,
    begun: Option<Begun>,
}

/// A message that is half received.
struct Begun {
    late: Pin<Box<Sleep>>,
    share: Share,
}

impl Messages {
    pub fn new(body: RecvStream, encoding: Encoding, settings: &Settings) -> Self {
        let patience = Duration::from_nanos(settings.message_ns_max as u64);
        let message_bytes_max = settings.message_bytes_max;
        Self { body, unreleased: 0, encoding, message_bytes_max, patience, rest: BytesMut::new(), begun: None }
    }

    /// The next message; None at the end of the stream. `held`: where its beginning is kept count of until its end comes.
    pub fn poll_next(&mut self, held: &Arc<Held>, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let packed = ready!(self.poll_packed(held, cx))?;
        Poll::Ready(packed.map(|packed| self.open(packed)).transpose())
    }

    /// Likewise, unopened: who drops these messages then has not paid for that.
    pub fn poll_packed(&mut self, held: &Arc<Held>, cx: &mut Context<'_>) -> Poll<Result<Option<Packed>, Broken>> {
        loop {
            if let Some(length) = self.complete(&self.rest)? {
                let message = self.rest.split_to(length).freeze();
                self.begun = None;
                self.keep(held, &[])?;
                return Poll::Ready(Ok(Some(Packed(message))));
            }
            let chunk = match self.body.poll_data(cx) {
                Poll::Pending => return self.wait(cx),
                Poll::Ready(None) if self.rest.is_empty() => return Poll::Ready(Ok(None)),
                Poll::Ready(None) => return Poll::Ready(Err(Broken::Cut)),
                Poll::Ready(Some(Err(_))) => return Poll::Ready(Err(Broken::Gone)),
                Poll::Ready(Some(Ok(chunk))) => chunk,
            };
            self.unreleased = chunk.len();
            // The usual call: one message, in one frame. Nothing is copied.
            if self.rest.is_empty() && self.complete(&chunk)? == Some(chunk.len()) {
                return Poll::Ready(Ok(Some(Packed(chunk))));
            }
            self.release()?;
            self.keep(held, &chunk)?;
        }
    }

    /// Give the peer's windows back what was read; h2 itself does where the stream is dropped.
    fn release(&mut self) -> Result<(), Broken> {
        let bytes = std::mem::take(&mut self.unreleased);
        if bytes == 0 {
            return Ok(());
        }
        self.body.flow_control().release_capacity(bytes).map_err(|_| Broken::Gone)
    }

    /// Read what is left of the stream and keep nothing. An answer before its end has h2 reset the stream; what an honest
    /// peer had sent by then counts as broken once the stream is forgotten, and too much of that closes its connection.
    pub async fn see_out(mut self) {
        (self.rest, self.begun) = (BytesMut::new(), None);
        poll_fn(|cx| self.poll_out(cx)).await;
    }

    /// Read what has come and keep nothing; ready when nothing more will come.
    pub fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(Ok(chunk)) = ready!(self.body.poll_data(cx)) {
            if self.body.flow_control().release_capacity(chunk.len()).is_err() {
                break;
            }
        }
        Poll::Ready(())
    }

    /// Wait for more of the stream: with patience, once a message has begun.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Packed>, Broken>> {
        match &mut self.begun {
            Some(begun) => begun.late.as_mut().poll(cx).map(|()| Err(Broken::Late)),
            None => Poll::Pending,
        }
    }

    /// Add to what is half received.
    fn keep(&mut self, held: &Arc<Held>, chunk: &[u8]) -> Result<(), Broken> {
        self.rest.extend_from_slice(chunk);
        if self.rest.is_empty() {
            return Ok(());
        }
        let begun =
            self.begun.get_or_insert_with(|| Begun { late: Box::pin(sleep(self.patience)), share: held.share() });
        if begun.share.hold(self.rest.len()) { Ok(()) } else { Err(Broken::Crowded) }
    }

    /// The length of the message, prefix included, that `bytes` begins with, once all of it is there.
    fn complete(&self, bytes: &[u8]) -> Result<Option<usize>, Broken> {
        let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
        if length > self.message_bytes_max {
            return Err(Broken::TooLarge);
        }
        Ok((rest.len() >= length).then_some(PREFIX_BYTES + length))
    }

    /// What `poll_packed` gave.
    pub fn open(&mut self, packed: Packed) -> Result<Bytes, Broken> {
        let Packed(mut message) = packed;
        self.release()?;
        let flag = message[0];
        message.advance(PREFIX_BYTES);
        match (flag, self.encoding) {
            (0, _) => Ok(message),
            (1, Encoding::Gzip) => gunzip(&message, self.message_bytes_max),
            (1, Encoding::Identity) => Err(Broken::Compressed),
            _ => Err(Broken::Cut),
        }
    }
}

fn gunzip(message: &[u8], message_bytes_max: usize) -> Result<Bytes, Broken> {
    let mut opened = Vec::new();
    let mut reader = GzDecoder::new(message).take(message_bytes_max as u64 + 1);
    reader.read_to_end(&mut opened).map_err(|_| Broken::Cut)?;
    if opened.len() > message_bytes_max { Err(Broken::TooLarge) } else { Ok(opened.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn gzip_is_opened_up_to_the_limit() {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&[7; 1000]).expect("to memory");
        let packed = encoder.finish().expect("to memory");
        assert_eq!(gunzip(&packed, 1000), Ok(Bytes::from(vec![7; 1000])));
        assert_eq!(gunzip(&packed, 999), Err(Broken::TooLarge));
        assert_eq!(gunzip(&packed[..10], 1000), Err(Broken::Cut));
    }
}
