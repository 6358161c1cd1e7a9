//! Ids and their series, remembered where a batch can look all of its ids up at once.
//!
//! The dictionaries of `EmbeddedStore.series` decide; an id never changes its series, so what they once said holds. A
//! look-up there costs four cache misses one after another. Here the misses of a batch overlap: `prefetch_entry` for
//! every id, `prefetch_text` for every id, then `find`.

use std::hash::{BuildHasher, RandomState};

use super::memory::prefetch;

/// Longer ids are not remembered.
const TEXT_BYTES_MAX: usize = 255;
const ENTRIES_MIN: usize = 1 << 10;

/// An open-addressed hash table, at most half full.
pub struct Memo {
    hasher: RandomState,
    entries: Vec<Entry>,
    used: usize,
    texts: Vec<u8>,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    hash: u32,
    /// Where the id's bytes lie in `texts`.
    start: u32,
    length: u32,
    /// 0: the entry is free.
    series: u32,
}

impl Memo {
    pub fn new() -> Memo {
        let entries = vec![Entry::default(); ENTRIES_MIN];
        Memo { hasher: RandomState::new(), entries, used: 0, texts: Vec::new() }
    }

    pub fn hash(&self, text: &str) -> u32 {
        self.hasher.hash_one(text) as u32
    }

    pub fn prefetch_entry(&self, hash: u32) {
        prefetch(&self.entries, self.place(hash));
    }

    pub fn prefetch_text(&self, hash: u32) {
        prefetch(&self.texts, self.entries[self.place(hash)].start as usize);
    }

    pub fn find(&self, hash: u32, text: &str) -> Option<usize> {
        let mut place = self.place(hash);
        while self.entries[place].series != 0 {
            let entry = &self.entries[place];
            if entry.hash == hash && self.text(entry) == text.as_bytes() {
                return Some(entry.series as usize);
            }
            place = (place + 1) & (self.entries.len() - 1);
        }
        None
    }

    /// Remember an id that `find` does not know.
    pub fn insert(&mut self, hash: u32, text: &str, series: usize) {
        let (Ok(start), Ok(number)) = (u32::try_from(self.texts.len()), u32::try_from(series)) else { return };
        if number == 0 || text.len() > TEXT_BYTES_MAX {
            return;
        }
        if 2 * (self.used + 1) > self.entries.len() {
            self.grow();
        }
        self.texts.extend_from_slice(text.as_bytes());
        self.settle(Entry { hash, start, length: text.len() as u32, series: number });
        self.used += 1;
    }

    fn grow(&mut self) {
        let larger = vec![Entry::default(); 2 * self.entries.len()];
        for entry in std::mem::replace(&mut self.entries, larger) {
            if entry.series != 0 {
                self.settle(entry);
            }
        }
    }

    fn settle(&mut self, entry: Entry) {
        let mut place = self.place(entry.hash);
        while self.entries[place].series != 0 {
            place = (place + 1) & (self.entries.len() - 1);
        }
        self.entries[place] = entry;
    }

    fn text(&self, entry: &Entry) -> &[u8] {
        &self.texts[entry.start as usize..][..entry.length as usize]
    }

    fn place(&self, hash: u32) -> usize {
        hash as usize & (self.entries.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_found_through_growth_and_equal_hashes() {
        let mut memo = Memo::new();
        let name = |number: usize| format!("customer-{number}");
        let hash = |number: usize| number as u32 / 3; // every three collide
        for number in 1..5_000 {
            memo.prefetch_entry(hash(number));
            memo.prefetch_text(hash(number));
            assert_eq!(memo.find(hash(number), &name(number)), None);
            memo.insert(hash(number), &name(number), number);
        }
        for number in 1..5_000 {
            assert_eq!(memo.find(hash(number), &name(number)), Some(number));
        }
        assert_eq!(memo.find(7, "customer"), None);
    }

    #[test]
    fn the_absent_series_and_long_ids_are_left_to_the_mapping() {
        let mut memo = Memo::new();
        let long = "x".repeat(TEXT_BYTES_MAX + 1);
        memo.insert(memo.hash(&long), &long, 1);
        memo.insert(memo.hash("nobody"), "nobody", 0);
        assert_eq!(memo.find(memo.hash(&long), &long), None);
        assert_eq!(memo.find(memo.hash("nobody"), "nobody"), None);
    }
}
