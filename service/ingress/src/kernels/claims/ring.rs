//! What a claim means, over a ring in claim order: `fraudgate.claims.ClaimRing`, row by row.

use std::cell::Cell;
use std::ops::Range;

use super::ids::Ids;
use crate::answer_rows::{DECISION_AT, ROW_BYTES};
use crate::kernels::memory::{Extent, extent, prefetch};

/// 64-bit words of a payload digest.
pub const DIGEST_WORDS: usize = 2;

/// 64-bit words of a cache line.
const LINE_ITEMS: usize = 8;

/// One row to be claimed.
pub struct Claim<'a> {
    pub row: usize,
    pub id: &'a str,
    pub digest: [u64; DIGEST_WORDS],
}

/// What became of the rows: `fraudgate.claims.Claims`.
#[derive(Default)]
pub struct Claims {
    pub fresh: Vec<usize>,
    pub fresh_slots: Vec<usize>,
    pub replays: Vec<usize>,
    pub replay_slots: Vec<usize>,
    pub conflicts: Vec<usize>,
}

/// The arrays of the table, by slot.
pub struct Arrays<'a> {
    pub digests: &'a [Cell<u64>],
    pub claimed_ns: &'a [Cell<i64>],
    /// Rows of `ANSWER_DTYPE`.
    pub answers: &'a [Cell<u8>],
}

/// Which ids are known, and in which slots. Claims are numbered; slot = number modulo the count of slots.
pub struct Ring {
    pub ids: Ids,
    pub evicted_early: u64,
    slots: u64,
    entries_max: u64,
    lifetime_ns: i64,
    oldest: u64,
    next: u64,
    /// Of the batch being claimed.
    tags: Vec<u32>,
}

impl Ring {
    /// `slots` is more than `entries_max`.
    pub fn new(slots: usize, entries_max: usize, lifetime_ns: i64) -> Ring {
        Ring {
            ids: Ids::new(slots),
            evicted_early: 0,
            slots: slots as u64,
            entries_max: entries_max as u64,
            lifetime_ns,
            oldest: 0,
            next: 0,
            tags: Vec::new(),
        }
    }

    pub fn claim(&mut self, batch: &[Claim<'_>], now_ns: i64, arrays: &Arrays<'_>) -> Claims {
        self.prefetch(batch, arrays);
        self.expire(batch.len(), now_ns, arrays);
        let mut claims = Claims {
            fresh: Vec::with_capacity(batch.len()),
            fresh_slots: Vec::with_capacity(batch.len()),
            ..Claims::default()
        };
        let first = self.next;
        for (i, claim) in batch.iter().enumerate() {
            let known = self.ids.find(self.tags[i], claim.id);
            match known.filter(|slot| self.is_of_batch(*slot, first) || !self.is_over(*slot, now_ns, arrays)) {
                None => {
                    let slot = self.take(self.tags[i], claim.id, known);
                    arrays.write(slot, claim, now_ns);
                    claims.fresh.push(claim.row);
                    claims.fresh_slots.push(slot);
                }
                Some(slot) if arrays.digest(slot) == claim.digest => {
                    claims.replays.push(claim.row);
                    claims.replay_slots.push(slot);
                }
                Some(_) => claims.conflicts.push(claim.row),
            }
        }
        claims
    }

    /// The memory of the next slots, at most so many; none before the first claim, and none once every slot was taken.
    pub fn ahead(&self, slots: usize, arrays: &Arrays<'_>) -> Vec<Extent> {
        if self.next == 0 || self.next >= self.slots {
            return Vec::new();
        }
        let first = self.next as usize;
        let slots = first..self.slots.min(self.next + slots as u64) as usize;
        self.ids.extents(slots.clone()).into_iter().chain(arrays.extents(slots)).collect()
    }

    /// Take slots for the ids of a dump.
    pub fn fill(&mut self, ids: &[&str]) -> Vec<usize> {
        ids.iter().map(|id| self.take(self.ids.tag(id), id, None)).collect()
    }

    /// Slots that hold an id, in claim order.
    pub fn live(&self) -> Vec<usize> {
        (self.oldest..self.next).map(|number| self.slot(number)).filter(|slot| self.ids.get(*slot).is_some()).collect()
    }

    /// Begin to fetch what this batch touches: nothing has since the last one, and so the misses overlap.
    fn prefetch(&mut self, batch: &[Claim<'_>], arrays: &Arrays<'_>) {
        for number in self.numbers(2 * batch.len() as u64).step_by(LINE_ITEMS) {
            prefetch(arrays.claimed_ns, self.slot(number));
            self.ids.prefetch_tag(self.slot(number));
        }
        self.tags.clear();
        for (number, claim) in (self.next..).zip(batch) {
            let (tag, slot) = (self.ids.tag(claim.id), self.slot(number));
            self.tags.push(tag);
            self.ids.prefetch(tag, slot);
            arrays.prefetch(slot);
        }
    }

    /// Forget at most two expired entries for each claim: bounded work, faster than entries can come.
    fn expire(&mut self, claims: usize, now_ns: i64, arrays: &Arrays<'_>) {
        let swept = self.numbers(2 * claims as u64);
        let over = swept.take_while(|number| self.is_over(self.slot(*number), now_ns, arrays)).count() as u64;
        let excess = (self.next + claims as u64 - self.oldest).saturating_sub(self.entries_max); // if all are fresh
        self.numbers(over.max(excess)).for_each(|number| self.ids.prefetch_gone(self.slot(number)));
        for number in self.numbers(over) {
            self.ids.remove(self.slot(number));
        }
        self.oldest += over;
    }

    fn take(&mut self, tag: u32, id: &str, superseded: Option<usize>) -> usize {
        self.make_room();
        if let Some(slot) = superseded {
            self.ids.remove(slot);
        }
        let slot = self.slot(self.next);
        self.next += 1;
        self.ids.put(slot, tag, id);
        slot
    }

    /// Forget the oldest where the ring has no room for one more; what has expired is swept before.
    fn make_room(&mut self) {
        while self.next - self.oldest >= self.entries_max {
            self.evicted_early += u64::from(self.ids.remove(self.slot(self.oldest)));
            self.oldest += 1;
        }
    }

    /// The oldest claims, at most so many.
    fn numbers(&self, count: u64) -> Range<u64> {
        self.oldest..self.next.min(self.oldest + count)
    }

    fn is_of_batch(&self, slot: usize, first: u64) -> bool {
        (slot as u64 + self.slots - first % self.slots) % self.slots < self.next - first
    }

    fn is_over(&self, slot: usize, now_ns: i64, arrays: &Arrays<'_>) -> bool {
        now_ns.saturating_sub(arrays.claimed_ns[slot].get()) >= self.lifetime_ns
    }

    fn slot(&self, number: u64) -> usize {
        (number % self.slots) as usize
    }
}

impl Arrays<'_> {
    fn extents(&self, slots: Range<usize>) -> [Extent; 3] {
        let digests = &self.digests[slots.start * DIGEST_WORDS..slots.end * DIGEST_WORDS];
        let answers = &self.answers[slots.start * ROW_BYTES..slots.end * ROW_BYTES];
        [extent(digests), extent(&self.claimed_ns[slots]), extent(answers)]
    }

    fn prefetch(&self, slot: usize) {
        prefetch(self.digests, slot * DIGEST_WORDS);
        prefetch(self.claimed_ns, slot);
        prefetch(self.answers, slot * ROW_BYTES + DECISION_AT);
    }

    fn digest(&self, slot: usize) -> [u64; DIGEST_WORDS] {
        std::array::from_fn(|word| self.digests[slot * DIGEST_WORDS + word].get())
    }

    fn write(&self, slot: usize, claim: &Claim<'_>, now_ns: i64) {
        for (cell, word) in self.digests[slot * DIGEST_WORDS..].iter().zip(claim.digest) {
            cell.set(word);
        }
        self.claimed_ns[slot].set(now_ns);
        self.answers[slot * ROW_BYTES + DECISION_AT].set(0); // unanswered: not the answer of the slot's earlier owner
    }
}
