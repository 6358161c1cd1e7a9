//! Asking for memory ahead of use: a batch touches a thousand cache lines that nothing touched since the last one.

use std::cell::Cell;

use pyo3::prelude::*;

const LINE_BYTES: usize = 64;

/// Begin to fetch `slice[index]` into the cache. A hint: an index outside of the slice does nothing.
pub fn prefetch<T>(slice: &[T], index: usize) {
    if let Some(item) = slice.get(index) {
        fetch(std::ptr::from_ref(item).cast());
    }
}

/// Begin to fetch `cells[start .. start + length]`, two cache lines at most.
pub fn prefetch_row(cells: &[Cell<i64>], start: usize, length: usize) {
    let Some(row) = cells.get(start..start + length) else { return };
    let range = row.as_ptr_range();
    fetch(range.start.cast());
    if (range.start as usize ^ (range.end as usize - 1)) >= LINE_BYTES {
        fetch(range.end.wrapping_sub(1).cast());
    }
}

/// Ask for huge pages behind a large slice: cold memory on small ones costs a miss of the TLB too. A hint. It must be
/// fresh from the system: what was touched stays on small pages.
#[cfg(target_os = "linux")]
pub fn prefer_huge_pages<T>(slice: &[T]) {
    const PAGE_BYTES: usize = 1 << 21;
    let bytes = slice.as_ptr_range();
    let (start, end) =
        ((bytes.start as usize).next_multiple_of(PAGE_BYTES), bytes.end as usize / PAGE_BYTES * PAGE_BYTES);
    if start < end {
        // SAFETY: the whole pages within the slice; the advice changes neither what they hold nor who may use them.
        unsafe { libc::madvise(start as *mut _, end - start, libc::MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
pub fn prefer_huge_pages<T>(_slice: &[T]) {}

/// Address and bytes of a slice.
pub type Extent = (usize, usize);

pub fn extent<T>(slice: &[T]) -> Extent {
    (slice.as_ptr() as usize, size_of_val(slice))
}

/// Have the system provide the memory of these extents now, where it has not: a huge page takes it milliseconds.
#[pyfunction]
fn populate(py: Python<'_>, extents: Vec<Extent>) {
    py.detach(|| extents.into_iter().for_each(provide));
}

#[cfg(target_os = "linux")]
fn provide((address, bytes): Extent) {
    const PAGE_BYTES: usize = 1 << 12;
    let start = address / PAGE_BYTES * PAGE_BYTES;
    // SAFETY: the advice changes no byte of what is there and takes nothing away; where nothing is, it fails.
    unsafe { libc::madvise(start as *mut _, address + bytes - start, libc::MADV_POPULATE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
fn provide(_extent: Extent) {}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(populate, module)?)
}

#[cfg(target_arch = "x86_64")]
fn fetch(address: *const i8) {
    use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
    // SAFETY: a prefetch reads nothing and cannot fault; SSE is part of x86_64.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(address) }
}

#[cfg(not(target_arch = "x86_64"))]
fn fetch(_address: *const i8) {}
