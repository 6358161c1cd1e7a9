//! Calls by method and code, as `fraudgate.latency.calls` counts them: what `grpc_server_*` is made from. A call of many
//! rows is one.

use std::sync::atomic::{AtomicU64, Ordering};

use super::reply::Gone;

/// A method of this port, by the numbers of `NAMES`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Method {
    Score,
    ScoreBatch,
    ScoreStream,
    Check,
    Watch,
    Reflection,
    /// Whatever else was asked for: one name, or strangers would choose how many there are.
    #[default]
    Unknown,
}

const NAMES: [&str; 7] = ["Score", "ScoreBatch", "ScoreStream", "Check", "Watch", "ServerReflectionInfo", "unknown"];

/// gRPC has the codes 0 to 16.
pub const CODES: usize = 17;
const CANCELED: u32 = 1;
const UNKNOWN: u32 = 2;

/// Calls begun, by method, that nobody has been told of: a connection tells of a whole turn at once.
pub type Begun = [u64; NAMES.len()];

/// Monotonic counts.
#[derive(Default)]
pub struct Calls {
    started: [AtomicU64; NAMES.len()],
    handled: [[AtomicU64; CODES]; NAMES.len()],
}

impl Calls {
    /// Calls have begun. `begun` is emptied.
    pub fn start(&self, begun: &mut Begun) {
        for (started, begun) in self.started.iter().zip(begun).filter(|(_, begun)| **begun > 0) {
            started.fetch_add(std::mem::take(begun), Ordering::Relaxed);
        }
    }

    /// A call has ended with a code, or its caller has gone before.
    pub fn end(&self, method: Method, ended: Result<u32, Gone>) {
        let code = match ended {
            Ok(code) if code < CODES as u32 => code,
            Ok(_) => UNKNOWN,
            Err(Gone) => CANCELED,
        };
        self.handled[method as usize][code as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By method: its name, how many calls have begun, how many have ended with each code.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64, [u64; CODES])> + '_ {
        NAMES.iter().enumerate().map(|(method, name)| {
            let handled = self.handled[method].each_ref().map(|count| count.load(Ordering::Relaxed));
            let started = self.started[method].load(Ordering::Relaxed);
            (*name, started.max(handled.iter().sum()), handled) // some may have ended within a turn not told of
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_counted_by_method_and_code() {
        let calls = Calls::default();
        let mut begun = Begun::default();
        begun[Method::Score as usize] = 3;
        calls.start(&mut begun);
        assert_eq!(begun, Begun::default());
        calls.end(Method::Score, Ok(0));
        calls.end(Method::Score, Err(Gone));
        calls.end(Method::Unknown, Ok(99));
        let named: Vec<_> = calls.named().filter(|(_, started, _)| *started > 0).collect();
        let [("Score", 3, scored), ("unknown", 1, unknown)] = named[..] else { panic!("{named:?}") };
        assert_eq!((&scored[..3], scored[3..].iter().sum()), ([1, 1, 0].as_slice(), 0_u64));
        assert_eq!(unknown[UNKNOWN as usize], 1);
    }
}
