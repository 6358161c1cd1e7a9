//! The ids of a ring: fixed rows, so that what goes and what comes lies side by side, and the index that finds them.

use std::hash::{BuildHasher, RandomState};
use std::ops::Range;

use super::index::Index;
use crate::kernels::memory::{Extent, extent, prefer_huge_pages, prefetch};

pub const ID_BYTES_MAX: usize = 64;

/// At most one id in each slot.
pub struct Ids {
    hasher: RandomState,
    index: Index,
    /// `ID_BYTES_MAX` for each slot, of which an id takes what `lengths` says. Zeroed memory, as all here.
    texts: Vec<u8>,
    /// By slot: bytes of the id + 1; 0 = the slot has none.
    lengths: Vec<u8>,
    /// By slot, so that an id goes from the index without being read.
    tags: Vec<u32>,
    held: usize,
}

impl Ids {
    pub fn new(slots: usize) -> Ids {
        let texts = vec![0; slots * ID_BYTES_MAX];
        prefer_huge_pages(&texts);
        Ids {
            hasher: RandomState::new(),
            index: Index::new(slots),
            texts,
            lengths: vec![0; slots],
            tags: vec![0; slots],
            held: 0,
        }
    }

    /// How many slots hold an id.
    pub fn held(&self) -> usize {
        self.held
    }

    pub fn tag(&self, id: &str) -> u32 {
        self.hasher.hash_one(id) as u32
    }

    /// Begin to fetch what `find` and `put` will need.
    pub fn prefetch(&self, tag: u32, slot: usize) {
        self.index.prefetch(tag);
        prefetch(&self.texts, slot * ID_BYTES_MAX);
    }

    /// Begin to fetch what `prefetch_gone` will need.
    pub fn prefetch_tag(&self, slot: usize) {
        prefetch(&self.tags, slot);
        prefetch(&self.lengths, slot);
    }

    /// Begin to fetch what `remove` will need.
    pub fn prefetch_gone(&self, slot: usize) {
        self.index.prefetch(self.tags[slot]);
    }

    pub fn find(&self, tag: u32, id: &str) -> Option<usize> {
        self.index.find(tag, |slot| self.bytes(slot) == Some(id.as_bytes()))
    }

    /// Put an id of at most `ID_BYTES_MAX` bytes, which no slot holds, in a slot that holds none.
    pub fn put(&mut self, slot: usize, tag: u32, id: &str) {
        self.texts[slot * ID_BYTES_MAX..][..id.len()].copy_from_slice(id.as_bytes());
        self.lengths[slot] = id.len() as u8 + 1;
        self.tags[slot] = tag;
        self.index.insert(tag, slot);
        self.held += 1;
    }

    /// Forget the id of a slot; whether there was one.
    pub fn remove(&mut self, slot: usize) -> bool {
        if self.lengths[slot] == 0 {
            return false;
        }
        self.lengths[slot] = 0;
        self.index.remove(self.tags[slot], slot);
        self.held -= 1;
        true
    }

    pub fn get(&self, slot: usize) -> Option<&str> {
        self.bytes(slot).and_then(|bytes| str::from_utf8(bytes).ok())
    }

    /// The memory of some slots, and all of the index: its places are taken in no order.
    pub fn extents(&self, slots: Range<usize>) -> [Extent; 4] {
        let texts = &self.texts[slots.start * ID_BYTES_MAX..slots.end * ID_BYTES_MAX];
        [extent(texts), extent(&self.lengths[slots.clone()]), extent(&self.tags[slots]), self.index.extent()]
    }

    fn bytes(&self, slot: usize) -> Option<&[u8]> {
        let length = usize::from(self.lengths[slot]).checked_sub(1)?;
        Some(&self.texts[slot * ID_BYTES_MAX..][..length])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_tag_are_told_apart() {
        let mut ids = Ids::new(100);
        let names: Vec<_> =
            (0..=ID_BYTES_MAX).map(|length| "é".repeat(length / 2) + &"\0".repeat(length % 2)).collect();
        for (slot, name) in names.iter().enumerate() {
            assert_eq!(ids.find(5, name), None);
            ids.put(slot, 5, name);
        }
        assert!(ids.remove(3) && !ids.remove(3) && !ids.remove(99));
        assert_eq!(ids.held(), ID_BYTES_MAX);
        for (slot, name) in names.iter().enumerate() {
            assert_eq!(ids.find(5, name), (slot != 3).then_some(slot));
            assert_eq!(ids.get(slot), (slot != 3).then_some(name.as_str()));
        }
    }

    #[test]
    fn tags_are_keyed() {
        let [one, other] = [Ids::new(1), Ids::new(1)];
        assert!((0..8).any(|number| one.tag(&number.to_string()) != other.tag(&number.to_string())));
    }
}
