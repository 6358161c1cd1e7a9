//! What a run has counted: ends of calls by kind, and times as HDR histograms.

use std::collections::BTreeMap;

use super::call::{Answer, End};

const HALF_BITS: u32 = 10;
/// Values of up to 2^63 - 1 ns have a cell; those beyond the readers' range are told apart when the log is written.
const CELLS: usize = (64 - HALF_BITS as usize) << HALF_BITS;

/// Counts by time, in the cells of `fraudgate.latency.histogram`: HdrHistogram's layout from 1 ns at 3 digits.
pub struct Histogram {
    cells: Box<[u64]>,
    pub count: u64,
    pub max_ns: i64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { cells: vec![0; CELLS].into(), count: 0, max_ns: 0 }
    }
}

impl Histogram {
    /// `value_ns` below 0, which a monotonic clock does not give, counts as 0.
    pub fn record(&mut self, value_ns: i64) {
        let value_ns = value_ns.max(0);
        self.cells[cell_of(value_ns as u64)] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(value_ns);
    }

    /// (cell, count) of every filled cell, ascending.
    pub fn filled(&self) -> Vec<(i64, i64)> {
        let filled = self.cells.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.map(|(cell, count)| (cell as i64, *count as i64)).collect()
    }
}

/// `fraudgate.latency.histogram.index_of`.
fn cell_of(value_ns: u64) -> usize {
    if value_ns < 1 << HALF_BITS {
        return value_ns as usize;
    }
    let shift = u64::BITS - value_ns.leading_zeros() - HALF_BITS - 1;
    ((shift as usize) << HALF_BITS) + (value_ns >> shift) as usize
}

/// grpc-status codes.
pub const STATUSES: usize = 17;
/// More than the values of Decision and Fallback; the last cell counts values that this program does not know.
pub const KINDS: usize = 8;

#[derive(Default)]
pub struct Tally {
    /// Calls that were sent, answered or not.
    pub sent: u64,
    /// The most calls that were under way at once.
    pub in_flight_max: usize,
    /// Calls that ended with a status, OK or not.
    pub answered: u64,
    pub statuses: [u64; STATUSES],
    pub decisions: [u64; KINDS],
    pub fallbacks: [u64; KINDS],
    /// Answers that the server took from its memory of earlier ids.
    pub replayed: u64,
    /// Calls that ended with neither answer nor status, by what happened.
    pub lost: BTreeMap<&'static str, u64>,
    /// Intended send to answer, of calls whose status is OK.
    pub decided: Histogram,
    /// Intended send to status, of the others.
    pub refused: Histogram,
    /// How late the generator itself was: intended send to sending, or to finding that no connection took the call.
    pub lag: Histogram,
    /// How long calls then waited for a connection with a free stream, those that had to.
    pub held: Histogram,
    /// The latest end, on the clock of the run.
    pub last_end_ns: i64,
}

impl Tally {
    /// A scheduled call has been sent at `now_ns`, or given up.
    pub fn send(&mut self, intended_ns: i64, held_ns: Option<i64>, now_ns: i64) {
        self.lag.record(held_ns.unwrap_or(now_ns) - intended_ns);
        if let Some(held_ns) = held_ns {
            self.held.record(now_ns - held_ns);
        }
    }

    pub fn end(&mut self, end: End, now_ns: i64) {
        let latency_ns = now_ns - end.intended_ns;
        match end.result {
            Ok(Answer { status: 0, decision, fallback, replayed }) => {
                self.statuses[0] += 1;
                self.decisions[usize::from(decision).min(KINDS - 1)] += 1;
                self.fallbacks[usize::from(fallback).min(KINDS - 1)] += 1;
                self.replayed += u64::from(replayed);
                self.decided.record(latency_ns);
            }
            Ok(answer) => {
                self.statuses[usize::from(answer.status).min(STATUSES - 1)] += 1;
                self.refused.record(latency_ns);
            }
            Err(why) => return self.lose(why, 1),
        }
        self.answered += 1;
        self.last_end_ns = now_ns;
    }

    pub fn lose(&mut self, why: &'static str, count: u64) {
        if count > 0 {
            *self.lost.entry(why).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_those_of_hdr_histogram() {
        let reference = hdrhistogram::Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        for value in (0..5_000).chain((0..36).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1])) {
            let lowest =
                |value: u64| (0..=value).rev().take_while(|&v| cell_of(v) == cell_of(value)).count() as u64 - 1;
            if value < 5_000 {
                assert_eq!(value - lowest(value), reference.lowest_equivalent(value), "{value}");
            } else {
                let low = reference.lowest_equivalent(value);
                assert_eq!(cell_of(low), cell_of(value), "{value}");
                assert_eq!(cell_of(low - 1) + 1, cell_of(low), "{value}");
            }
        }
        assert_eq!(cell_of(i64::MAX as u64), CELLS - 1);
    }
}
