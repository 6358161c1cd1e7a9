//! The head of a call: which method, which encoding, which deadline; or why it is none of ours.

use std::sync::Arc;

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, Method, Request, StatusCode};

use super::calls;
use super::refusal::{Refusal, code};

/// What a path asks for.
#[derive(Debug, PartialEq)]
pub enum Rpc {
    Score,
    ScoreBatch,
    ScoreStream,
    /// A method that Python answers (health, reflection), by its path.
    Side(String),
}

impl Rpc {
    /// What it counts as.
    pub fn method(&self) -> calls::Method {
        match self {
            Rpc::Score => calls::Method::Score,
            Rpc::ScoreBatch => calls::Method::ScoreBatch,
            Rpc::ScoreStream => calls::Method::ScoreStream,
            Rpc::Side(path) => match path.as_str() {
                "/grpc.health.v1.Health/Check" => calls::Method::Check,
                "/grpc.health.v1.Health/Watch" => calls::Method::Watch,
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo" => calls::Method::Reflection,
                _ => calls::Method::Unknown, // Python will not know it either
            },
        }
    }
}

/// How the messages of a call are encoded, where their flag says that they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Encoding {
    Identity,
    Gzip,
}

/// The head of a good call.
#[derive(Debug, PartialEq)]
pub struct Head {
    pub rpc: Rpc,
    pub encoding: Encoding,
    /// How long the caller waits, from now.
    pub timeout_ns: Option<i64>,
}

/// The end of a call that never had a message.
#[derive(Debug, PartialEq)]
pub enum Rejected {
    /// Not gRPC at all.
    Http(StatusCode),
    Grpc(calls::Method, Refusal),
}

/// Names that need no reading at each look-up.
static GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

const SERVICE: &str = "/fraudgate.v1.ScoringService/";
const SIDE_SERVICES: [&str; 3] =
    ["/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/", "/grpc.reflection.v1.ServerReflection/"];

/// Read the head of a request.
pub fn parse<B>(request: &Request<B>) -> Result<Head, Rejected> {
    if request.method() != Method::POST {
        return Err(Rejected::Http(StatusCode::METHOD_NOT_ALLOWED));
    }
    let headers = request.headers();
    if !is_grpc(headers) {
        return Err(Rejected::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
    }
    let path = request.uri().path();
    let rpc = rpc_of(path).ok_or_else(|| unimplemented(calls::Method::Unknown, "Method not found!"))?;
    let encoding = match headers.get(&GRPC_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"identity") => Encoding::Identity,
        Some(b"gzip") => Encoding::Gzip,
        Some(_) => {
            return Err(unimplemented(rpc.method(), "this compression is not accepted; send identity or gzip"));
        }
    };
    let timeout_ns = headers.get(&GRPC_TIMEOUT).and_then(|value| timeout_ns(value.as_bytes()));
    Ok(Head { rpc, encoding, timeout_ns })
}

/// The one `traceparent` of a call; Python reads it.
pub fn parent_of(headers: &HeaderMap) -> Option<Arc<str>> {
    let mut values = headers.get_all(&TRACEPARENT).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then(|| value.into())
}

fn rpc_of(path: &str) -> Option<Rpc> {
    match path.strip_prefix(SERVICE) {
        Some("Score") => Some(Rpc::Score),
        Some("ScoreBatch") => Some(Rpc::ScoreBatch),
        Some("ScoreStream") => Some(Rpc::ScoreStream),
        None if SIDE_SERVICES.iter().any(|service| path.starts_with(service)) => Some(Rpc::Side(path.to_owned())),
        _ => None,
    }
}

fn unimplemented(method: calls::Method, message: &str) -> Rejected {
    Rejected::Grpc(method, Refusal::plain(code::UNIMPLEMENTED, message))
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE) else { return false };
    match kind.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => rest.is_empty() || rest[0] == b'+' || rest[0] == b';',
        None => false,
    }
}

/// Nanoseconds of a `grpc-timeout`: at most eight digits and a unit. None for anything else.
fn timeout_ns(value: &[u8]) -> Option<i64> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let unit_ns = match unit {
        b'n' => 1,
        b'u' => 1_000,
        b'm' => 1_000_000,
        b'S' => 1_000_000_000,
        b'M' => 60_000_000_000,
        b'H' => 3_600_000_000_000,
        _ => return None,
    };
    Some(count.saturating_mul(unit_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(path: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::builder().method("POST").uri(path);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).expect("a request")
    }

    #[test]
    fn timeouts_have_six_units() {
        let cases = [("1n", 1), ("2u", 2_000), ("3m", 3_000_000), ("4S", 4_000_000_000), ("1M", 60_000_000_000)];
        for (text, ns) in cases {
            assert_eq!(timeout_ns(text.as_bytes()), Some(ns));
        }
        assert_eq!(timeout_ns(b"99999999H"), Some(i64::MAX));
        for bad in ["", "5", "S", "123456789S", "-1S", "1s", "1.5S"] {
            assert_eq!(timeout_ns(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn a_call_belongs_to_one_trace_or_none() {
        let parent = |headers: &[(&str, &str)]| parent_of(request("/", headers).headers());
        assert_eq!(parent(&[("traceparent", "00-1-2-01")]).as_deref(), Some("00-1-2-01"));
        assert_eq!(parent(&[]), None);
        assert_eq!(parent(&[("traceparent", "a"), ("traceparent", "b")]), None);
    }

    #[test]
    fn only_grpc_is_served() {
        let score = "/fraudgate.v1.ScoringService/Score";
        assert_eq!(
            parse(&request(score, &[("content-type", "application/grpc+proto")])).expect("good").rpc,
            Rpc::Score
        );
        for kind in ["application/json", "application/grpcx"] {
            let rejected = parse(&request(score, &[("content-type", kind)]));
            assert_eq!(rejected, Err(Rejected::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE)));
        }
        let deflate = parse(&request(score, &[("content-type", "application/grpc"), ("grpc-encoding", "deflate")]));
        assert!(
            matches!(deflate, Err(Rejected::Grpc(calls::Method::Score, refusal)) if refusal.code == code::UNIMPLEMENTED)
        );
    }
}
