//! Where the crate's memory comes from: the system's allocator, except that blocks of a few whole pages lie on pages of
//! their own. HTTP/2 keeps three such buffers for each connection and an idle one writes to the first bytes of two of
//! them: laid out like this two pages are resident, while between other blocks, each with a header before it and none
//! at the start of a page, it would be four.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr::{NonNull, null_mut};
use std::sync::{Mutex, PoisonError};

const PAGE_BYTES: usize = 4_096;
/// How much is asked of the system at a time.
const REGION_BYTES: usize = 1 << 20;

#[global_allocator]
static PAGES: Pages = Pages([Pool::new(PAGE_BYTES), Pool::new(2 * PAGE_BYTES), Pool::new(4 * PAGE_BYTES)]);

struct Pages([Pool; 3]);

/// Blocks of one size. They stay with the process, to be used again.
struct Pool {
    block_bytes: usize,
    blocks: Mutex<Blocks>,
}

struct Blocks {
    /// The last block given back; in its first bytes is the address of the one before.
    last: Option<NonNull<u8>>,
    /// What has not been used of the newest region.
    fresh: *mut u8,
    fresh_bytes: usize,
}

// SAFETY: the addresses are of memory that belongs to the pool alone.
unsafe impl Send for Blocks {}

impl Pool {
    const fn new(block_bytes: usize) -> Self {
        Self { block_bytes, blocks: Mutex::new(Blocks { last: None, fresh: null_mut(), fresh_bytes: 0 }) }
    }

    fn take(&self) -> *mut u8 {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(block) = blocks.last {
            // SAFETY: `give` has written these bytes, and the block has belonged to the pool since.
            blocks.last = unsafe { block.cast::<Option<NonNull<u8>>>().read() };
            return block.as_ptr();
        }
        if blocks.fresh_bytes == 0 {
            blocks.fresh = region();
            blocks.fresh_bytes = if blocks.fresh.is_null() { return null_mut() } else { REGION_BYTES };
        }
        blocks.fresh_bytes -= self.block_bytes;
        // SAFETY: a region is a multiple of every block, so that this one lies within it.
        unsafe { blocks.fresh.add(blocks.fresh_bytes) }
    }

    /// # Safety
    /// `block` was taken from this pool, and nobody uses it any more.
    unsafe fn give(&self, block: NonNull<u8>) {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the block is the pool's again, and large and aligned enough for an address.
        unsafe { block.cast::<Option<NonNull<u8>>>().write(blocks.last) };
        blocks.last = Some(block);
    }
}

/// Fresh pages; null where the system has none.
fn region() -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    // SAFETY: new memory is asked for, at an address of the system's choice.
    let region = unsafe { libc::mmap(null_mut(), REGION_BYTES, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if region == libc::MAP_FAILED {
        return null_mut();
    }
    // SAFETY: the region was just mapped. A huge page would make all of it resident at its first byte.
    unsafe { libc::madvise(region, REGION_BYTES, libc::MADV_NOHUGEPAGE) };
    region.cast()
}

impl Pages {
    fn pool(&self, layout: Layout) -> Option<&Pool> {
        let pool = match layout.size() {
            4_096 => &self.0[0],
            8_192 => &self.0[1],
            16_384 => &self.0[2],
            _ => return None,
        };
        (layout.align() <= PAGE_BYTES).then_some(pool)
    }
}

// SAFETY: a block comes from and goes back to what its layout says, the pool of its size or the system's allocator, both
// of which keep what GlobalAlloc asks; pools panic nowhere, and allocate nothing themselves.
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match self.pool(layout) {
            Some(pool) => pool.take(),
            // SAFETY: the caller's promise.
            None => unsafe { System.alloc(layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let Some(pool) = self.pool(layout) else {
            // SAFETY: the caller's promise. Large blocks are not touched: the system maps zeros.
            return unsafe { System.alloc_zeroed(layout) };
        };
        let block = pool.take();
        if !block.is_null() {
            // SAFETY: a block of the pool has so many bytes, and is the caller's from here on.
            unsafe { block.write_bytes(0, layout.size()) };
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        match (self.pool(layout), NonNull::new(block)) {
            // SAFETY: a block of this layout came from this pool.
            (Some(pool), Some(block)) => unsafe { pool.give(block) },
            // SAFETY: the caller's promise.
            _ => unsafe { System.dealloc(block, layout) },
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // SAFETY: the caller's promise: `bytes` fit a layout of this alignment.
        let wanted = unsafe { Layout::from_size_align_unchecked(bytes, layout.align()) };
        if self.pool(layout).is_none() && self.pool(wanted).is_none() {
            // SAFETY: the caller's promise; the block came from the system's allocator and stays there.
            return unsafe { System.realloc(block, layout, bytes) };
        }
        // SAFETY: the caller's promise for both layouts; the blocks are two, and both hold what is copied.
        unsafe {
            let moved = self.alloc(wanted);
            if !moved.is_null() {
                block.copy_to_nonoverlapping(moved, layout.size().min(bytes));
                self.dealloc(block, layout);
            }
            moved
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_lie_on_pages_of_their_own_and_are_used_again() {
        let pool = Pool::new(2 * PAGE_BYTES);
        let mut taken: Vec<_> = (0..2 * REGION_BYTES / pool.block_bytes + 1).map(|_| pool.take() as usize).collect();
        assert!(taken.iter().all(|block| *block != 0 && block % PAGE_BYTES == 0));
        taken.sort_unstable();
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] >= pool.block_bytes));
        let (first, second) = (taken[0], taken[1]);
        for block in [first, second] {
            // SAFETY: it was taken above, and is not used.
            unsafe { pool.give(NonNull::new(block as *mut u8).expect("not null")) };
        }
        assert_eq!([pool.take() as usize, pool.take() as usize], [second, first]);
    }

    #[test]
    fn what_grows_through_every_size_keeps_what_it_holds() {
        let mut grown = Vec::new();
        for number in 0..100_000_u32 {
            grown.push(number);
        }
        assert!(grown.iter().copied().eq(0..100_000));
        for bytes in [16_384, 8_192, 4_096, 100] {
            grown.truncate(bytes / 4);
            grown.shrink_to_fit();
            assert!(grown.iter().copied().eq(0..bytes as u32 / 4));
        }
        assert!(vec![0_u8; 8_192].iter().all(|byte| *byte == 0), "zeroed, though it was used before");
    }
}
