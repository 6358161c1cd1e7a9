//! Who calls, by the bearer token in a call's headers, and what they may call: as `fraudgate.frontend.callers`.

use std::collections::HashMap;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::counts::Counted;
use super::request::Rpc;
use super::settings::Caller;

const SCHEME: &[u8] = b"bearer ";
/// The number of whoever shows no token.
const ANONYMOUS: usize = 0;

type Digest = [u8; SHA256_OUTPUT_LEN];

/// Tells callers by their tokens. Only digests are kept.
pub struct Callers {
    /// What each may call, by number: bit 0 Score, 1 ScoreBatch, 2 ScoreStream.
    may: Vec<u8>,
    numbers: HashMap<Digest, usize>,
    required: bool,
}

/// What a connection has shown and was known for: the next call usually shows the same.
#[derive(Default)]
pub struct Shown(Option<(HeaderValue, usize)>);

impl Callers {
    /// The first of `callers` is whoever shows no token.
    pub fn new(callers: &[Caller], required: bool) -> Self {
        let digest_of = |caller: &Caller| Digest::try_from(caller.token_sha256.as_slice()).ok();
        let numbers = callers.iter().enumerate().filter_map(|(number, caller)| Some((digest_of(caller)?, number)));
        Self { may: callers.iter().map(|caller| caller.may).collect(), numbers: numbers.collect(), required }
    }

    /// The caller's number, or what ends this call.
    pub fn identify(&self, headers: &HeaderMap, rpc: &Rpc, shown: &mut Shown) -> Result<usize, Counted> {
        if self.numbers.is_empty() && !self.required {
            return Ok(ANONYMOUS); // the header is somebody else's
        }
        let Some(authorization) = headers.get(AUTHORIZATION) else {
            return if self.required { Err(Counted::Unauthenticated) } else { Ok(ANONYMOUS) };
        };
        let number = match &shown.0 {
            Some((before, number)) if same(before.as_bytes(), authorization.as_bytes()) => *number,
            _ => {
                let number = self.number(authorization.as_bytes()).ok_or(Counted::Unauthenticated)?;
                shown.0 = Some((authorization.clone(), number));
                number
            }
        };
        let bit = match rpc {
            Rpc::Score => 1,
            Rpc::ScoreBatch => 2,
            Rpc::ScoreStream => 4,
            Rpc::Side(_) => 0,
        };
        if self.may[number] & bit != 0 { Ok(number) } else { Err(Counted::NotAllowed) }
    }

    fn number(&self, authorization: &[u8]) -> Option<usize> {
        let (scheme, token) = authorization.split_at_checked(SCHEME.len())?;
        let known = || self.numbers.get(digest(&SHA256, token).as_ref()).copied();
        scheme.eq_ignore_ascii_case(SCHEME).then(known).flatten()
    }
}

/// In a time that does not tell where they differ.
fn same(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn callers(required: bool) -> Callers {
        let caller = |token: &[u8], may| Caller {
            token_sha256: if token.is_empty() { vec![] } else { digest(&SHA256, token).as_ref().to_vec() },
            priority: 1,
            share: 1,
            may,
        };
        Callers::new(&[caller(b"", 7), caller(b"all", 7), caller(b"one", 1)], required)
    }

    #[test]
    fn callers_are_told_by_their_tokens() {
        let (callers, mut shown) = (callers(false), Shown::default());
        let mut identify = |authorization: &'static str, rpc| {
            let mut headers = HeaderMap::new();
            if !authorization.is_empty() {
                headers.insert("authorization", HeaderValue::from_static(authorization));
            }
            callers.identify(&headers, &rpc, &mut shown)
        };
        for _ in 0..2 {
            assert_eq!(identify("", Rpc::ScoreBatch), Ok(ANONYMOUS));
            assert_eq!(identify("Bearer all", Rpc::ScoreBatch), Ok(1));
            assert_eq!(identify("bearer one", Rpc::Score), Ok(2));
            assert_eq!(identify("bearer one", Rpc::ScoreStream), Err(Counted::NotAllowed));
            for unknown in ["Bearer two", "Bearer ", "Basic all", "all", "Bearer"] {
                assert_eq!(identify(unknown, Rpc::Score), Err(Counted::Unauthenticated), "{unknown}");
            }
        }
    }

    #[test]
    fn a_token_may_be_required() {
        let nothing = HeaderMap::new();
        for (required, ended) in [(true, Err(Counted::Unauthenticated)), (false, Ok(ANONYMOUS))] {
            assert_eq!(callers(required).identify(&nothing, &Rpc::Score, &mut Shown::default()), ended);
        }
    }
}
