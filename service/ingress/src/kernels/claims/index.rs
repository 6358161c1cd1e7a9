//! Which slots of a ring may hold an id: open addressing, at most half full.

use crate::kernels::memory::{Extent, extent, prefer_huge_pages, prefetch};

/// Most runs are no longer.
const RUN_ENTRIES: usize = 3;

/// The slots of a ring by the tags of what they hold. A tag is 32 bits of a keyed hash; several slots may have the same.
pub struct Index {
    /// `tag << 32 | slot + 1`; 0 = free. Zeroed memory, which the system provides as it is touched.
    entries: Vec<u64>,
}

impl Index {
    /// For at most so many slots, fewer than 2^32.
    pub fn new(slots: usize) -> Index {
        let entries = vec![0; (2 * slots).next_power_of_two()];
        prefer_huge_pages(&entries);
        Index { entries }
    }

    pub fn extent(&self) -> Extent {
        extent(&self.entries)
    }

    pub fn prefetch(&self, tag: u32) {
        let home = self.home(tag);
        prefetch(&self.entries, home);
        prefetch(&self.entries, home + RUN_ENTRIES); // in the next cache line, now and then
    }

    /// The slot with this tag of which `is_it` is true.
    pub fn find(&self, tag: u32, is_it: impl Fn(usize) -> bool) -> Option<usize> {
        self.run(tag)
            .map(|place| self.entries[place])
            .filter(|entry| tag_of(*entry) == tag)
            .map(slot_of)
            .find(|slot| is_it(*slot))
    }

    /// Add a slot that is not in the index.
    pub fn insert(&mut self, tag: u32, slot: usize) {
        let free = self.run(tag).last().map_or(self.home(tag), |last| self.after(last));
        self.entries[free] = entry_of(tag, slot);
    }

    /// Take a slot out, and move what follows closer to its home, so that every run stays whole.
    pub fn remove(&mut self, tag: u32, slot: usize) {
        let entry = entry_of(tag, slot);
        let Some(mut hole) = self.run(tag).find(|place| self.entries[*place] == entry) else { return };
        let mut place = self.after(hole);
        while self.entries[place] != 0 {
            let home = self.home(tag_of(self.entries[place]));
            if self.distance(home, place) >= self.distance(hole, place) {
                self.entries[hole] = self.entries[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.entries[hole] = 0;
    }

    /// The taken places from a tag's home on, up to the first free one.
    fn run(&self, tag: u32) -> impl Iterator<Item = usize> {
        let places = std::iter::successors(Some(self.home(tag)), |place| Some(self.after(*place)));
        places.take_while(|place| self.entries[*place] != 0)
    }

    fn home(&self, tag: u32) -> usize {
        tag as usize & (self.entries.len() - 1)
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.entries.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.entries.len() - 1)
    }
}

fn entry_of(tag: u32, slot: usize) -> u64 {
    u64::from(tag) << 32 | (slot as u64 + 1)
}

fn tag_of(entry: u64) -> u32 {
    (entry >> 32) as u32
}

fn slot_of(entry: u64) -> usize {
    (entry as u32 - 1) as usize
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const SLOTS: usize = 24;

    proptest! {
        /// 64 places and tags near one another, also at the end of the table: runs collide, merge and wrap.
        #[test]
        fn the_index_holds_what_a_dictionary_holds(
            steps in prop::collection::vec((0..SLOTS, prop::sample::select(vec![0, 1, 2, 3, 61, 62, 63, 64, 127])), 1..300),
        ) {
            let mut index = Index::new(SLOTS);
            let mut naive: HashMap<usize, u32> = HashMap::new();
            for (slot, tag) in steps {
                match naive.remove(&slot) {
                    Some(tag) => index.remove(tag, slot),
                    None => {
                        index.insert(tag, slot);
                        naive.insert(slot, tag);
                    }
                }
                for slot in 0..SLOTS {
                    for tag in [0, 1, 2, 3, 61, 62, 63, 64, 127] {
                        let found = index.find(tag, |found| found == slot);
                        assert_eq!(found.is_some(), naive.get(&slot) == Some(&tag));
                    }
                }
                assert_eq!(index.entries.iter().filter(|entry| **entry != 0).count(), naive.len());
            }
        }
    }

    #[test]
    fn a_slot_that_is_not_there_is_removed_in_vain() {
        let mut index = Index::new(SLOTS);
        index.insert(7, 0);
        index.remove(7, 1);
        index.remove(8, 0);
        assert_eq!(index.find(7, |_| true), Some(0));
        assert_eq!(index.find(8, |_| true), None);
    }
}
