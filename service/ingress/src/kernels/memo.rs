//! Ids and their series, remembered where a batch can look all of its ids up at once.
//!
//! The dictionaries of `EmbeddedStore.series` decide; an id never changes its series, so what they once said holds. A
//! look-up there costs four cache misses one after another. Here it costs one, and those of a batch overlap: `prefetch`
//! for every id, then `find`.

use std::hash::{BuildHasher, RandomState};

use super::memory::prefetch;

/// Longer ids are not remembered.
const TEXT_BYTES_MAX: usize = 255;
/// Longer ids do not fit into their entry.
const INLINE_BYTES_MAX: usize = 23;
const ENTRIES_MIN: usize = 1 << 10;
/// The multiplier of a Weyl sequence: 2^64 over the golden ratio, odd.
const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;

/// An open-addressed hash table, at most half full.
pub struct Memo {
    key: u64,
    entries: Vec<Entry>,
    used: usize,
    /// The longer ids, one after the other.
    texts: Vec<u8>,
}

/// Half a cache line.
#[derive(Clone, Copy, Default)]
#[repr(C, align(32))]
struct Entry {
    hash: u32,
    /// 0: the entry is free.
    series: u32,
    length: u8,
    /// The id; of a longer one, where it begins in `texts`.
    inline: [u8; INLINE_BYTES_MAX],
}

impl Memo {
    pub fn new() -> Memo {
        let entries = vec![Entry::default(); ENTRIES_MIN];
        Memo { key: RandomState::new().hash_one(0), entries, used: 0, texts: Vec::new() }
    }

    /// Eight bytes a multiplication. It is keyed, so nobody can choose ids that collide without trying them out.
    pub fn hash(&self, text: &str) -> u32 {
        let (words, rest) = text.as_bytes().as_chunks();
        let last = rest.iter().fold(text.len() as u64, |word, byte| word << 8 | u64::from(*byte));
        let hash = words.iter().fold(self.key, |hash, word| folded(hash ^ u64::from_le_bytes(*word)));
        folded(hash ^ last) as u32
    }

    pub fn prefetch(&self, hash: u32) {
        prefetch(&self.entries, self.place(hash));
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
        let (Ok(start), Ok(series)) = (u32::try_from(self.texts.len()), u32::try_from(series)) else { return };
        if series == 0 || text.len() > TEXT_BYTES_MAX {
            return;
        }
        if 2 * (self.used + 1) > self.entries.len() {
            self.grow();
        }
        let mut inline = [0; INLINE_BYTES_MAX];
        if text.len() <= INLINE_BYTES_MAX {
            inline[..text.len()].copy_from_slice(text.as_bytes());
        } else {
            inline[..size_of::<u32>()].copy_from_slice(&start.to_ne_bytes());
            self.texts.extend_from_slice(text.as_bytes());
        }
        self.settle(Entry { hash, series, length: text.len() as u8, inline });
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

    fn text<'a>(&'a self, entry: &'a Entry) -> &'a [u8] {
        let length = usize::from(entry.length);
        if length <= INLINE_BYTES_MAX {
            return &entry.inline[..length];
        }
        let [a, b, c, d, ..] = entry.inline;
        &self.texts[u32::from_ne_bytes([a, b, c, d]) as usize..][..length]
    }

    fn place(&self, hash: u32) -> usize {
        hash as usize & (self.entries.len() - 1)
    }
}

fn folded(word: u64) -> u64 {
    let product = u128::from(word) * u128::from(MULTIPLIER);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_inserted_is_found_through_growth_and_equal_hashes() {
        let mut memo = Memo::new();
        let name = |number: usize| format!("{}{number}", "customer-".repeat(1 + number % 4)); // some inline, some not
        let hash = |number: usize| number as u32 / 3; // every three collide
        for number in 1..5_000 {
            memo.prefetch(hash(number));
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
