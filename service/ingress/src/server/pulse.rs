//! Keep-alive: a ping after a silence, and an end without its answer.

use std::task::{Context, Poll, Waker};
use std::time::Duration;

use h2::{Ping, PingPong};

use super::clock::monotonic_ns;
use super::settings::Settings;

/// What is known of a peer's life. Bytes alone are no sign of it: a peer can send one now and then for ever.
pub struct Pulse {
    pings: Option<PingPong>,
    /// A call came since the last check.
    pub heard: bool,
    heard_ns: i64,
    pinged_ns: Option<i64>,
}

impl Pulse {
    pub fn new(pings: Option<PingPong>) -> Self {
        Self { pings, heard: true, heard_ns: monotonic_ns(), pinged_ns: None }
    }

    /// Look for a sign of life, and ask for one if there was none for long. False: it was asked, and none came in time.
    pub fn alive(&mut self, now_ns: i64, settings: &Settings) -> bool {
        let Some(pings) = &mut self.pings else { return true };
        if matches!(pings.poll_pong(&mut Context::from_waker(Waker::noop())), Poll::Ready(Ok(_))) {
            self.pinged_ns = None;
            self.heard = true;
        }
        if std::mem::take(&mut self.heard) {
            self.heard_ns = now_ns;
        }
        match self.pinged_ns {
            Some(pinged_ns) => now_ns - pinged_ns < settings.keepalive_ns_max,
            None => {
                if now_ns - self.heard_ns >= settings.keepalive_ns && pings.send_ping(Ping::opaque()).is_ok() {
                    self.pinged_ns = Some(now_ns);
                }
                true
            }
        }
    }
}

/// How often to look at a connection: often enough for each of its limits.
pub fn check_every(settings: &Settings) -> Duration {
    let shortest_ns = settings.keepalive_ns.min(settings.keepalive_ns_max).min(settings.write_stall_ns_max);
    Duration::from_nanos((shortest_ns / 2).max(1_000_000) as u64)
}
