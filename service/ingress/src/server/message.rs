//! gRPC messages out of DATA frames: a flag, a length of four bytes, then so many bytes.

use std::io::Read;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use flate2::read::GzDecoder;
use h2::RecvStream;

use super::request::Encoding;

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
    /// The caller reset the stream, or the connection ended.
    Gone,
}

/// The messages of one call, in order.
pub struct Messages {
    body: RecvStream,
    encoding: Encoding,
    message_bytes_max: usize,
    rest: BytesMut,
}

impl Messages {
    pub fn new(body: RecvStream, encoding: Encoding, message_bytes_max: usize) -> Self {
        Self { body, encoding, message_bytes_max, rest: BytesMut::new() }
    }

    /// The next message; None at the end of the stream.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            if let Some(length) = self.complete(&self.rest)? {
                let message = self.rest.split_to(length).freeze();
                return Poll::Ready(self.opened(message).map(Some));
            }
            let chunk = match ready!(self.body.poll_data(cx)) {
                None if self.rest.is_empty() => return Poll::Ready(Ok(None)),
                None => return Poll::Ready(Err(Broken::Cut)),
                Some(Err(_)) => return Poll::Ready(Err(Broken::Gone)),
                Some(Ok(chunk)) => chunk,
            };
            self.body.flow_control().release_capacity(chunk.len()).map_err(|_| Broken::Gone)?;
            // The usual call: one message, in one frame. Nothing is copied.
            if self.rest.is_empty() && self.complete(&chunk)? == Some(chunk.len()) {
                return Poll::Ready(self.opened(chunk).map(Some));
            }
            self.rest.extend_from_slice(&chunk);
        }
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

    fn opened(&self, mut message: Bytes) -> Result<Bytes, Broken> {
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
