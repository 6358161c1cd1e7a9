//! How a call ends without a decision: a gRPC status. The texts and details come from Python, which owns the table of
//! the contract; only what the transport itself refuses is worded here.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue};

/// gRPC codes that the transport itself gives.
pub mod code {
    pub const OK: u32 = 0;
    pub const RESOURCE_EXHAUSTED: u32 = 8;
    pub const UNIMPLEMENTED: u32 = 12;
    pub const INTERNAL: u32 = 13;
}

pub static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
static GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
static GRPC_STATUS_DETAILS: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// Texts that stay with the process.
static LASTING: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

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
        trailers.insert(&GRPC_STATUS, HeaderValue::from(code));
        if !message.is_empty() {
            let message = HeaderValue::from_str(&percent_encoded(&message)).expect("percent-encoding is ASCII");
            trailers.insert(&GRPC_MESSAGE, message);
        }
        if detailed {
            let details = HeaderValue::from_str(&STANDARD_NO_PAD.encode(&status)).expect("base64 is ASCII");
            trailers.insert(&GRPC_STATUS_DETAILS, details);
        }
        let mut head = trailers.clone();
        head.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        Self { code, message, status, ready: Arc::new(Ready { trailers, head }) }
    }

    /// The same with texts that stay with the process: calls share them without counting who does, which took atomic
    /// operations for each header of each call. For those of a table, of which there are few.
    pub fn lasting(self) -> Self {
        let ready = Ready { trailers: lasting(&self.ready.trailers), head: lasting(&self.ready.head) };
        Self { ready: Arc::new(ready), ..self }
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

fn lasting(headers: &HeaderMap) -> HeaderMap {
    let mut lasting = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let value = value.to_str().map_or_else(|_| value.clone(), |text| HeaderValue::from_static(lasting_text(text)));
        lasting.insert(name, value);
    }
    lasting
}

/// Kept once, however many front ends a process has made.
fn lasting_text(text: &str) -> &'static str {
    let mut texts = LASTING.lock().unwrap_or_else(PoisonError::into_inner);
    texts.get(text).copied().unwrap_or_else(|| {
        let text = String::leak(text.to_owned());
        texts.insert(text);
        text
    })
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
    fn a_lasting_refusal_says_the_same() {
        let refusal = Refusal::new(code::RESOURCE_EXHAUSTED, "not now".to_owned(), Bytes::from_static(b"status"), true);
        let [one, other] = [refusal.clone().lasting(), refusal.clone().lasting()];
        assert_eq!((&one, &other), (&refusal, &refusal));
        let message = |refusal: &Refusal| refusal.head().get(&GRPC_MESSAGE).map(|text| text.as_bytes().as_ptr());
        assert_eq!(message(&one), message(&other), "kept once");
        assert_ne!(message(&one), message(&refusal));
    }

    #[test]
    fn a_plain_refusal_has_no_details_in_its_trailers() {
        let trailers = Refusal::plain(code::UNIMPLEMENTED, "no").trailers();
        assert_eq!(trailers.get("grpc-status").map(HeaderValue::as_bytes), Some(b"12".as_slice()));
        assert!(trailers.get("grpc-status-details-bin").is_none());
    }
}
