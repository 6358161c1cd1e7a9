//! Asking for memory ahead of use: a batch touches a thousand cache lines that nothing touched since the last one.

use std::cell::Cell;

/// Begin to fetch `slice[index]` into the cache. A hint: an index outside of the slice does nothing.
pub fn prefetch<T>(slice: &[T], index: usize) {
    if let Some(item) = slice.get(index) {
        fetch(std::ptr::from_ref(item).cast());
    }
}

/// Begin to fetch `cells[start .. start + length]`, `length` at most a cache line.
pub fn prefetch_row(cells: &[Cell<i64>], start: usize, length: usize) {
    prefetch(cells, start);
    prefetch(cells, start + length - 1);
}

#[cfg(target_arch = "x86_64")]
fn fetch(address: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of x86_64.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address) }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_address: *const i8) {}
