//! One batch, once its series are known and have room: applied and read, without Python and without failing.

use std::cell::Cell;

use super::arena::{ABSENT, Arena, Totals};
use super::events::Events;
use super::program::{Kind, Program};

/// `Fallback.NONE`, `DEFAULTED_FEATURES` and `STALE_FEATURES`; the larger is the worse.
const NONE: u8 = 1;
const DEFAULTED: u8 = 2;
const STALE: u8 = 3;

/// What came in, and where the results go; the lengths agree with the program's.
pub struct Batch<'a> {
    pub events: &'a Events,
    /// By kind: the first tick at which every window is covered.
    pub covered_from: &'a [i64],
    /// The series of each row, kind after kind.
    pub series: &'a [usize],
    /// [rows, features]
    pub values: &'a [Cell<f64>],
    /// [rows], with what the profiles defaulted.
    pub fallback: &'a [Cell<u8>],
}

impl Batch<'_> {
    pub fn rows(&self) -> usize {
        self.events.rows()
    }

    /// `buckets` is room to work in.
    pub fn run(&self, program: &Program, arena: &Arena<'_>, buckets: &mut Vec<usize>) {
        buckets.clear();
        buckets.resize(self.rows() * program.edges, 0);
        self.guess(program, arena, buckets);
        for (row, buckets) in buckets.chunks_mut(program.edges).enumerate() {
            self.run_row(program, arena, row, buckets);
        }
    }

    /// Where the rows' outcomes count: each row's tick and its series of every fraud kind, as bytes of int64.
    pub fn places(&self, program: &Program) -> Vec<u8> {
        let mut places = Vec::with_capacity(8 * self.rows() * (1 + program.fraud_kinds.len()));
        for (row, tick) in self.events.ticks.iter().enumerate() {
            places.extend(tick.to_ne_bytes());
            for kind in &program.fraud_kinds {
                places.extend((self.series_of(*kind, row) as i64).to_ne_bytes());
            }
        }
        places
    }

    /// Search every edge in what was there before the batch: all memory is asked for here, where misses can overlap.
    /// `buckets`, [rows, edges], written, are where to begin in earnest.
    fn guess(&self, program: &Program, arena: &Arena<'_>, buckets: &mut [usize]) {
        for (row, buckets) in buckets.chunks_mut(program.edges).enumerate() {
            let tick = self.events.ticks[row];
            for (kind, plan) in program.kinds.iter().enumerate() {
                let series = self.series_of(kind, row);
                let slot = arena.slot(series);
                let searched = buckets[plan.searched.clone()].iter_mut().zip(&plan.back);
                for ((bucket, back), hint) in searched.zip(arena.hints(series, slot)) {
                    *bucket = arena.locate_near(slot, tick - back, hint);
                    arena.prefetch_totals(*bucket);
                }
            }
        }
    }

    fn run_row(&self, program: &Program, arena: &Arena<'_>, row: usize, buckets: &mut [usize]) {
        let (tick, amount_minor) = (self.events.ticks[row], self.events.amount_minor[row]);
        let paid = self.events.is_paid(row);
        let increment = program.increment(amount_minor, paid);
        let mut fallback = if program.has_profiles { self.fallback[row].get() } else { NONE };
        if !paid && program.reads_money {
            fallback = DEFAULTED;
        }
        for (kind, (plan, covered_from)) in program.kinds.iter().zip(self.covered_from).enumerate() {
            let series = self.series_of(kind, row);
            if series == ABSENT {
                let empty = arena.slot(ABSENT).offset;
                buckets[plan.searched.clone()].fill(empty);
                buckets[plan.own] = empty;
                fallback = fallback.max(DEFAULTED);
            } else {
                let latest = apply(arena, plan, series, tick, &increment, buckets);
                if tick < *covered_from || tick < latest - program.lateness {
                    fallback = STALE;
                }
            }
        }
        self.fallback[row].set(fallback);
        let values = &self.values[row * program.features..(row + 1) * program.features];
        program.fill_request(values, self.events.event_time_ns[row], amount_minor, paid);
        program.fill_windows(values, arena, buckets);
    }

    fn series_of(&self, kind: usize, row: usize) -> usize {
        self.series[kind * self.rows() + row]
    }
}

/// Apply an event to its series of one kind; then `buckets` of that kind's edges are right. Returns the latest tick.
fn apply(arena: &Arena<'_>, plan: &Kind, series: usize, tick: i64, increment: &Totals, buckets: &mut [usize]) -> i64 {
    let applied = arena.apply(series, tick, increment, plan.keep);
    let horizon = applied.latest - plan.keep;
    let searched = &mut buckets[plan.searched.clone()];
    for (bucket, back) in searched.iter_mut().zip(&plan.back) {
        *bucket = arena.locate_near(applied.slot, (tick - back).max(horizon), *bucket);
    }
    arena.leave_hints(series, applied.slot, searched);
    buckets[plan.own] = applied.bucket;
    applied.latest
}
