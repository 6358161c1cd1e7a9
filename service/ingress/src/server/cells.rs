//! One histogram of Python's recorder, which the IO thread counts into by itself; the layout is that of
//! `fraudgate.latency.histogram`.

use std::sync::atomic::{AtomicI64, Ordering};

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

const HALF_BITS: u32 = 10;
const HALF: i64 = 1 << HALF_BITS;

/// Cells that outlive every thread of the front end: the buffer pins them.
pub struct Cells {
    cells: PyBuffer<i64>,
}

impl Cells {
    /// `cells`: a writable, contiguous int64 buffer.
    pub fn new(cells: PyBuffer<i64>) -> PyResult<Self> {
        if cells.readonly() || !cells.is_c_contiguous() || cells.item_count() <= index_of(i64::MAX) {
            return Err(PyValueError::new_err("cells must be a whole, writable recording array of int64"));
        }
        Ok(Self { cells })
    }

    /// Count a value; a negative one as 0.
    pub fn record(&self, value: i64) {
        self.record_many(value, 1);
    }

    /// Count one value so many times.
    pub fn record_many(&self, value: i64, count: i64) {
        let cell = index_of(value.max(0));
        // SAFETY: `index_of` is at most `index_of(i64::MAX)`, which `new` found inside the pinned buffer; other threads
        // only read this cell, and aligned 64-bit reads are whole.
        let cell = unsafe { AtomicI64::from_ptr(self.cells.buf_ptr().cast::<i64>().add(cell)) };
        cell.fetch_add(count, Ordering::Relaxed);
    }
}

/// The cell of a value of 0 or more.
fn index_of(value_ns: i64) -> usize {
    if value_ns < HALF {
        return value_ns as usize;
    }
    let shift = 63 - value_ns.leading_zeros() - HALF_BITS;
    ((shift as usize) << HALF_BITS) + (value_ns >> shift) as usize
}

#[cfg(test)]
mod tests {
    use super::index_of;

    #[test]
    fn cells_are_those_of_the_recorder() {
        // Pairs from fraudgate.latency.histogram.index_of.
        for (ns, cell) in [(0, 0), (1023, 1023), (1024, 1024), (2047, 2047), (2048, 2048), (5_000_000, 13_508)] {
            assert_eq!(index_of(ns), cell, "{ns}");
        }
    }
}
