//! The arena of `fraudgate.features.windows`, seen through its arrays: one event applied, or instants looked up.
//!
//! A series is a number; its slot is `ticks[offset ..= limit]`, opened by a sentinel before every event, and holds
//! buckets up to `last`. Ticks are integers of the schema's unit.

use std::cell::Cell;

use super::memory::{prefetch, prefetch_row};

/// The widest row of totals: events, paid events, two halves of their amounts, frauds.
pub const COLUMNS_MAX: usize = 5;
/// The series of an absent id: always empty.
pub const ABSENT: usize = 0;

/// The tick of the sentinel that opens a slot, and of a bucket that is not used.
const FIRST: i64 = -(1 << 62);
const NEVER: i64 = 1 << 62;
/// How many buckets a search from a hint goes forward, one by one.
const STEPS_MAX: usize = 4;

pub type Totals = [i64; COLUMNS_MAX];

/// Columns of the table of series.
const OFFSET: usize = 0;
const LIMIT: usize = 1;
const LAST: usize = 2;
const HALF: usize = 3;
/// The last columns are this kernel's: where the first searched edges were found last, relative to the slot. Edges creep
/// forward, so that is the place to look first; any number may stand there.
const HINTS: usize = 5;
/// How many numbers a series has in the table: a cache line. How many hints fit, two a number.
pub const LINE_ITEMS: usize = 8;
const HINT_MASK: i64 = 0xffff_ffff;
const HINTS_MAX: usize = 2 * (LINE_ITEMS - HINTS);

/// Views of the arrays.
pub struct Arena<'a> {
    pub columns: usize,
    /// By bucket.
    pub ticks: &'a [Cell<i64>],
    /// `columns` numbers a bucket.
    pub totals: &'a [Cell<i64>],
    /// `LINE_ITEMS` numbers a series.
    pub table: &'a [Cell<i64>],
}

/// The buckets of a series: the sentinel at `offset`, then up to and including `last`.
#[derive(Clone, Copy)]
pub struct Slot {
    pub offset: usize,
    pub last: usize,
}

/// How a slot gets room: what lies after `before` is kept, in as many buckets as before or more.
pub struct Room {
    pub before: usize,
    pub size: usize,
    pub larger: usize,
}

/// Where an applied event is counted, and what its series looks like then.
pub struct Applied {
    pub slot: Slot,
    pub bucket: usize,
    pub latest: i64,
}

impl<'a> Arena<'a> {
    /// The slot of a series and how many more buckets fit; None when the arrays do not describe a slot.
    pub fn checked(&self, series: usize) -> Option<(Slot, usize)> {
        let start = series.checked_mul(LINE_ITEMS)?;
        let row = self.table.get(start..start + LINE_ITEMS)?;
        let at = |column: usize| usize::try_from(row[column].get()).ok();
        let (offset, last, limit) = (at(OFFSET)?, at(LAST)?, at(LIMIT)?);
        (offset <= last && last <= limit && limit < self.ticks.len()).then(|| (Slot { offset, last }, limit - last))
    }

    /// The slot of a series that `checked` knows.
    pub fn slot(&self, series: usize) -> Slot {
        let row = self.row(series);
        Slot { offset: row[OFFSET].get() as usize, last: row[LAST].get() as usize }
    }

    fn row(&self, series: usize) -> &'a [Cell<i64>] {
        &self.table[series * LINE_ITEMS..(series + 1) * LINE_ITEMS]
    }

    /// Buckets of a slot where to begin to search its edges.
    pub fn hints(&self, series: usize, slot: Slot) -> impl Iterator<Item = usize> {
        let row = self.row(series);
        let hint = move |edge: usize| match edge < HINTS_MAX {
            true => (row[HINTS + edge / 2].get() >> (32 * (edge % 2))) as u32 as usize,
            false => 0,
        };
        (0..).map(move |edge| (slot.offset + hint(edge)).min(slot.last))
    }

    pub fn leave_hints(&self, series: usize, slot: Slot, buckets: &[usize]) {
        let row = &self.row(series)[HINTS..];
        for (cell, two) in row.iter().zip(buckets.chunks(2)) {
            let hint = |edge: usize| two.get(edge).map_or(0, |bucket| (bucket - slot.offset) as i64 & HINT_MASK);
            cell.set(hint(0) | hint(1) << 32);
        }
    }

    /// How to make room for `events`, as `Windows._make_room` does when a slot is full: drop what the series need not keep,
    /// and unless that leaves a quarter free, take a larger slot.
    pub fn plan_room(&self, slot: Slot, room: usize, events: usize, keep: i64) -> Room {
        let before = self.locate(slot, self.ticks[slot.last].get() - keep);
        let (kept, size) = (slot.last - before, slot.last - slot.offset + 1 + room);
        let mut larger = size;
        while 4 * (kept + 1 + events) > 3 * larger {
            larger *= 2;
        }
        Room { before, size, larger }
    }

    /// Carry it out: `home` is the slot itself, or an unused one of `room.larger` buckets. False: it is not in the arena.
    pub fn make_room(&self, series: usize, slot: Slot, room: &Room, home: usize) -> bool {
        if home + room.larger > self.ticks.len() {
            return false;
        }
        let kept = slot.last - room.before;
        copy(self.ticks, room.before, home, kept + 1);
        copy(self.totals, room.before * self.columns, home * self.columns, (kept + 1) * self.columns);
        self.ticks[home].set(FIRST);
        self.ticks[home + kept + 1..home + room.larger].iter().for_each(|tick| tick.set(NEVER));
        let row = self.row(series);
        row[OFFSET].set(home as i64);
        row[LIMIT].set((home + room.larger) as i64 - 1);
        row[LAST].set((home + kept) as i64);
        row[HALF].set(room.larger as i64 / 2);
        let dropped = (room.before - slot.offset) as i64;
        for hints in &row[HINTS..] {
            let [first, second] =
                [hints.get() & HINT_MASK, hints.get() >> 32 & HINT_MASK].map(|hint| (hint - dropped).max(0));
            hints.set(first | second << 32);
        }
        true
    }

    pub fn total(&self, bucket: usize, column: usize) -> i64 {
        self.totals[bucket * self.columns + column].get()
    }

    /// Apply one event, late or not; one older than the series keeps changes nothing and counts at the oldest instant
    /// kept. The slot must have room for a bucket.
    pub fn apply(&self, series: usize, tick: i64, increment: &Totals, keep: i64) -> Applied {
        let slot = self.slot(series);
        let latest = self.ticks[slot.last].get();
        if tick < latest {
            return self.apply_late(series, slot, tick, increment, latest - keep);
        }
        let slot = if tick == latest { slot } else { self.open_bucket(series, slot, slot.last, tick) };
        self.add(slot.last, increment);
        Applied { slot, bucket: slot.last, latest: tick }
    }

    fn apply_late(&self, series: usize, slot: Slot, tick: i64, increment: &Totals, horizon: i64) -> Applied {
        let latest = self.ticks[slot.last].get();
        if tick <= horizon {
            return Applied { slot, bucket: self.locate(slot, horizon), latest };
        }
        let mut bucket = self.locate(slot, tick);
        let mut slot = slot;
        if self.ticks[bucket].get() != tick {
            slot = self.open_bucket(series, slot, bucket, tick);
            bucket += 1;
        }
        for later in bucket..=slot.last {
            self.add(later, increment);
        }
        Applied { slot, bucket, latest }
    }

    /// Put a bucket for `tick` after `before`, with that one's totals.
    fn open_bucket(&self, series: usize, slot: Slot, before: usize, tick: i64) -> Slot {
        for bucket in (before + 1..=slot.last).rev() {
            self.ticks[bucket + 1].set(self.ticks[bucket].get());
            self.copy_totals(bucket, bucket + 1);
        }
        self.ticks[before + 1].set(tick);
        self.copy_totals(before, before + 1);
        self.row(series)[LAST].set(slot.last as i64 + 1);
        Slot { last: slot.last + 1, ..slot }
    }

    /// The last bucket at or before an instant; the sentinel when there is none.
    pub fn locate(&self, slot: Slot, tick: i64) -> usize {
        let held = &self.ticks[slot.offset..=slot.last];
        slot.offset + held.partition_point(|cell| cell.get() <= tick).max(1) - 1
    }

    /// As `locate`, quick when that is `near`, a bucket of the slot, or a few after.
    pub fn locate_near(&self, slot: Slot, tick: i64, near: usize) -> usize {
        let held = &self.ticks[near..=slot.last];
        if held[0].get() > tick {
            return self.locate(slot, tick);
        }
        // Without branches: how many steps it is cannot be predicted, and the processor should get on with the next search.
        let last = held.len() - 1;
        let steps: usize = (1..=STEPS_MAX).map(|step| usize::from(held[step.min(last)].get() <= tick)).sum();
        let found = steps < STEPS_MAX || last <= STEPS_MAX;
        if found { near + steps.min(last) } else { self.locate_far(slot, tick, near) }
    }

    /// As `locate`, when that is `near`, a bucket of the slot, or one after: quicker the nearer.
    fn locate_far(&self, slot: Slot, tick: i64, near: usize) -> usize {
        let held = &self.ticks[near..=slot.last];
        let mut reach = STEPS_MAX;
        while reach < held.len() && held[reach].get() <= tick {
            reach *= 2;
        }
        near + held[reach / 2..reach.min(held.len())].partition_point(|cell| cell.get() <= tick) + reach / 2 - 1
    }

    pub fn prefetch_series(&self, series: usize) {
        prefetch(self.table, series.wrapping_mul(LINE_ITEMS));
    }

    /// What applying an event touches.
    pub fn prefetch_end(&self, slot: Slot) {
        prefetch_row(self.ticks, slot.last, 2);
        prefetch_row(self.totals, slot.last * self.columns, 2 * self.columns);
    }

    /// What making room touches.
    pub fn prefetch_slot(&self, slot: Slot) {
        (slot.offset..=slot.last).step_by(LINE_ITEMS).for_each(|bucket| prefetch(self.ticks, bucket));
        let totals = slot.offset * self.columns..(slot.last + 1) * self.columns;
        totals.step_by(LINE_ITEMS).for_each(|start| prefetch(self.totals, start));
    }

    /// What a search from this bucket touches.
    pub fn prefetch_tick(&self, bucket: usize) {
        prefetch_row(self.ticks, bucket, 2);
    }

    pub fn prefetch_totals(&self, bucket: usize) {
        prefetch_row(self.totals, bucket * self.columns, self.columns);
    }

    fn copy_totals(&self, from: usize, to: usize) {
        for column in 0..self.columns {
            self.totals[to * self.columns + column].set(self.total(from, column));
        }
    }

    fn add(&self, bucket: usize, increment: &Totals) {
        let start = bucket * self.columns;
        for (cell, more) in self.totals[start..start + self.columns].iter().zip(increment) {
            cell.set(cell.get() + more);
        }
    }
}

/// Copy cells[from ..] to cells[to ..], which is the same place, an earlier or another.
fn copy(cells: &[Cell<i64>], from: usize, to: usize, length: usize) {
    for (source, target) in cells[from..from + length].iter().zip(&cells[to..to + length]) {
        target.set(source.get());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEEP: i64 = 20;

    /// One series in a slot of 64; `naive` is every event that it keeps.
    fn check(events: Vec<(i64, i64)>, probes: Vec<i64>) {
        let ticks: Vec<_> = (0..64).map(|bucket| Cell::new(if bucket == 0 { FIRST } else { NEVER })).collect();
        let totals = vec![Cell::new(0); 64 * 2];
        let table: Vec<_> = [0, 63, 0, 32, KEEP, -1, 1 << 40, 7].map(Cell::new).into();
        let arena = Arena { columns: 2, ticks: &ticks, totals: &totals, table: &table };
        let mut naive: Vec<(i64, i64)> = Vec::new();
        for (tick, amount) in events {
            let latest = naive.iter().map(|event| event.0).max().unwrap_or(FIRST);
            if tick > latest - KEEP {
                naive.push((tick, amount));
            }
            let applied = arena.apply(0, tick, &[1, amount, 0, 0, 0], KEEP);
            assert_eq!(applied.latest, latest.max(tick));
            let (slot, room) = arena.checked(0).expect("the slot is sound");
            for near in 0..=slot.last {
                let found = arena.locate_near(slot, tick, near);
                assert_eq!(found, arena.locate(slot, tick));
            }
            let home = slot.offset;
            let plan = arena.plan_room(slot, room, 1, KEEP);
            if room < 8 {
                assert_eq!(plan.larger, plan.size);
                assert!(arena.make_room(0, slot, &plan, home));
            }
            let latest = applied.latest;
            let slot = arena.slot(0);
            let base = arena.locate(slot, latest - KEEP);
            for probe in probes.iter().map(|back| latest - back) {
                let bucket = arena.locate_near(slot, probe, base);
                let seen = [0, 1].map(|column| arena.total(bucket, column) - arena.total(base, column));
                let held = naive.iter().filter(|event| event.0 > latest - KEEP && event.0 <= probe);
                assert_eq!(seen, held.fold([0, 0], |[count, sum], event| [count + 1, sum + event.1]));
            }
        }
    }

    proptest! {
        #[test]
        fn a_series_counts_what_a_list_counts(
            steps in prop::collection::vec((-25_i64..6, 0_i64..100), 1..150),
            probes in prop::collection::vec(0..KEEP, 4),
        ) {
            let mut now = 1_000;
            let events = steps.iter().map(|(step, amount)| { now += step.max(&0); (now + step.min(&0), *amount) });
            check(events.collect(), probes);
        }
    }
}
