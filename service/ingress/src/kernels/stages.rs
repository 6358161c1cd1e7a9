//! The kernel behind `fraudgate.latency.recorder.Recorder.record_batch`: the stages of decided rows, counted in place.

use std::cell::Cell;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::buffers::{require, writable};
use crate::answer_rows::AnswerRow;
use crate::panics::caught;

/// queue, features, inference, guardrails, total: the first of `STAGES`.
const STAGES: usize = 5;

/// The layout of `fraudgate.latency.histogram`.
const HALF_BITS: u32 = 10;
const FLOAT_SHIFT: u32 = 52 - HALF_BITS;
const FLOAT_OFFSET: i64 = (1023 + HALF_BITS as i64 - 1) << HALF_BITS;
const CELLS: usize = ((63 - HALF_BITS as usize + 1) << HALF_BITS) + (2 << HALF_BITS);

/// Counts the stages of decided rows into the cells of a recorder.
#[pyclass]
pub struct StageKernel {
    cells: [PyBuffer<i64>; STAGES],
}

#[pymethods]
impl StageKernel {
    #[new]
    fn new(py: Python<'_>, cells: [PyBuffer<i64>; STAGES]) -> PyResult<Self> {
        for stage in &cells {
            require(writable(py, stage)?.len() == CELLS, "the cells of a stage must be int64[CELLS]")?;
        }
        Ok(Self { cells })
    }

    /// Count rows of ANSWER_DTYPE.
    fn add(&self, py: Python<'_>, decided: &[u8]) -> PyResult<()> {
        let rows =
            AnswerRow::read_all(decided).ok_or_else(|| PyValueError::new_err("these are not rows of ANSWER_DTYPE"))?;
        for (stage, cells) in self.cells.iter().enumerate() {
            let cells = writable(py, cells)?;
            caught(|| rows.iter().for_each(|row| count(cells, spans_ns(row)[stage])))?;
        }
        Ok(())
    }
}

fn spans_ns(row: &AnswerRow) -> [i64; STAGES] {
    let stamps = [row.arrival_ns, row.taken_up_ns, row.gathered_ns, row.inferred_ns, row.answered_ns];
    let span = |from: usize, to: usize| stamps[to].wrapping_sub(stamps[from]);
    [span(0, 1), span(1, 2), span(2, 3), span(3, 4), span(0, 4)]
}

fn count(cells: &[Cell<i64>], value_ns: i64) {
    if let Some(cell) = cells.get(cell_of(value_ns)) {
        cell.set(cell.get() + 1);
    }
}

/// `histogram.indices_of`, for one value.
fn cell_of(value_ns: i64) -> usize {
    let of_float = ((value_ns as u64 as f64).to_bits() >> FLOAT_SHIFT) as i64 - FLOAT_OFFSET;
    of_float.max(value_ns.min(1 << HALF_BITS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_has_a_cell() {
        for ns in [i64::MIN, i64::MIN + 1, -1, 0, 1, 1023, 1024, 1 << 62, i64::MAX] {
            assert!(cell_of(ns) < CELLS, "{ns}");
        }
        assert_eq!([0, 1023, 1024, 2047, 2048, 5_000_000].map(cell_of), [0, 1023, 1024, 2047, 2048, 13_508]);
    }
}
