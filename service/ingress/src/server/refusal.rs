//! How a call ends without a decision: a gRPC status. The texts and details come from Python, which owns the table of
//! the contract; only what the transport itself refuses is worded here.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};

/// gRPC codes that the transport itself gives.
pub mod code {
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
}

/// A status in place of a decision, ready for the wire in both of its forms.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    pub code: u32,
    pub message: String,
    /// An encoded google.rpc.Status; sent as `grpc-status-details-bin` when it has details.
    pub status: Bytes,
    pub detailed: bool,
}

impl Refusal {
    /// A refusal without details.
    pub fn plain(code: u32, message: &str) -> Self {
        let mut status = Vec::with_capacity(message.len() + 8);
        prost::encoding::int32::encode(1, &(code as i32), &mut status);
        prost::encoding::string::encode(2, &message.to_owned(), &mut status);
        Self { code, message: message.to_owned(), status: status.into(), detailed: false }
    }

    /// The trailers that end a call with this status.
    pub fn trailers(&self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(3);
        trailers.insert("grpc-status", HeaderValue::from(self.code));
        if !self.message.is_empty() {
            let message = HeaderValue::from_str(&percent_encoded(&self.message)).expect("percent-encoding is ASCII");
            trailers.insert("grpc-message", message);
        }
        if self.detailed {
            let details = HeaderValue::from_str(&STANDARD_NO_PAD.encode(&self.status)).expect("base64 is ASCII");
            trailers.insert("grpc-status-details-bin", details);
        }
        trailers
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
