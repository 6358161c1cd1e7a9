//! How a call ends without a decision: a gRPC status. The texts and details come from Python, which owns the table of
//! the contract; only what the transport itself refuses is worded here.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// gRPC codes that the transport itself gives.
pub mod code {
    pub const OK: u32 = 0;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
}

/// A status in place of a decision, ready for the wire in both of its forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
    /// An encoded google.rpc.Status.
    pub status: Bytes,
    ready: Arc<Ready>,
}

/// What ends a call with a status, ready made: refusing must stay cheap when there is much of it.
#[derive(Debug, PartialEq)]
struct Ready {
    trailers: HeaderMap,
    /// Where nothing came before it.
    head: HeaderMap,
}

impl Refusal {
    /// A refusal without details.
    pub fn plain(code: u32, message: &str) -> Self {
        let mut status = Vec::with_capacity(message.len() + 8);
        prost::encoding::int32::encode(1, &(code as i32), &mut status);
        prost::encoding::string::encode(2, &message.to_owned(), &mut status);
        Self::new(code, message.to_owned(), status.into(), false)
    }

    /// `status` is sent as `grpc-status-details-bin` when it has details.
    pub fn new(code: u32, message: String, status: Bytes, detailed: bool) -> Self {
        let mut trailers = HeaderMap::with_capacity(4);
        trailers.insert("grpc-status", HeaderValue::from(code));
        if !message.is_empty() {
            let message = HeaderValue::from_str(&percent_encoded(&message)).expect("percent-encoding is ASCII");
            trailers.insert("grpc-message", message);
        }
        if detailed {
            let details = HeaderValue::from_str(&STANDARD_NO_PAD.encode(&status)).expect("base64 is ASCII");
            trailers.insert("grpc-status-details-bin", details);
        }
        let mut head = trailers.clone();
        head.insert("content-type", HeaderValue::from_static("application/grpc"));
        Self { code, message, status, ready: Arc::new(Ready { trailers, head }) }
    }

    /// The headers of a call that ends with this status and nothing before it.
    pub fn head(&self) -> HeaderMap {
        self.ready.head.clone()
    }

    /// The trailers that end a call with this status.
    pub fn trailers(&self) -> HeaderMap {
        self.ready.trailers.clone()
    }
}

/// The percent-encoding of a gRPC status message: everything outside printable ASCII, and `%`.
fn percent_encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if (0x20..=0x7e).contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(percent_encoded("100 % ä\n"), "100 %25 %C3%A4%0A");
    }

    #[test]
    fn a_plain_refusal_has_no_details_in_its_trailers() {
        let trailers = Refusal::plain(code::UNIMPLEMENTED, "no").trailers();
        assert_eq!(trailers.get("grpc-status").map(HeaderValue::as_bytes), Some(b"12".as_slice()));
        assert!(trailers.get("grpc-status-details-bin").is_none());
    }
}
