//! How often a connection may be refused something before it is not read for a while. No clock: it takes `now_ns`.

const FIRST_NS: i64 = 5_000_000;
const LONGEST_NS: i64 = 100_000_000;
const SECOND_NS: i64 = 1_000_000_000;
/// A connection that was not paused for so long begins again with the shortest pause.
const FORGIVEN_NS: i64 = SECOND_NS;
/// What may be refused at once, in seconds of the rate.
const BURST_NS: i64 = 100_000_000;

/// A bucket that refusals empty, and time fills at the rate that is allowed.
pub struct Pause {
    per_second_max: i64,
    /// Refusals times a second in nanoseconds, at most `BURST_NS` of the rate, and never less than one refusal.
    credit: i64,
    filled_ns: i64,
    pause_ns: i64,
    until_ns: i64,
}

impl Pause {
    pub fn new(per_second_max: u32, now_ns: i64) -> Self {
        let per_second_max = i64::from(per_second_max);
        let credit = credit_max(per_second_max);
        Self { per_second_max, credit, filled_ns: now_ns, pause_ns: FIRST_NS, until_ns: 0 }
    }

    /// So many were refused since the last time: until when not to read, if they are too many.
    pub fn charge(&mut self, refused: u64, now_ns: i64) -> Option<i64> {
        let filled = (now_ns - self.filled_ns).clamp(0, SECOND_NS) * self.per_second_max;
        self.filled_ns = now_ns;
        self.credit = (self.credit + filled).min(credit_max(self.per_second_max));
        self.credit -= i64::try_from(refused).unwrap_or(i64::MAX).saturating_mul(SECOND_NS);
        if self.credit >= 0 {
            return None;
        }
        self.credit = 0;
        if now_ns - self.until_ns > FORGIVEN_NS {
            self.pause_ns = FIRST_NS;
        }
        self.until_ns = now_ns + self.pause_ns;
        self.pause_ns = LONGEST_NS.min(2 * self.pause_ns);
        Some(self.until_ns)
    }
}

fn credit_max(per_second_max: i64) -> i64 {
    (per_second_max * BURST_NS).max(SECOND_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn a_rate_that_is_allowed_never_pauses() {
        let mut pause = Pause::new(1_000, 0);
        assert!((1..10_000).all(|ms| pause.charge(1, ms * MS).is_none()));
    }

    #[test]
    fn pauses_double_and_are_forgiven() {
        let mut pause = Pause::new(1_000, 0);
        assert_eq!(pause.charge(100, 0), None, "a burst of 100 ms of the rate");
        let mut now_ns = 0;
        for pause_ms in [5, 10, 20, 40, 80, 100, 100] {
            let until_ns = pause.charge(1_000, now_ns).expect("too many");
            assert_eq!(until_ns - now_ns, pause_ms * MS);
            now_ns = until_ns;
        }
        now_ns += 1_001 * MS;
        assert_eq!(pause.charge(1_000, now_ns), Some(now_ns + 5 * MS));
    }
}
