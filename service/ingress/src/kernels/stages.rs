//! The kernels behind `fraudgate.latency.recorder`: stages and decisions of decided rows, counted in place.

use std::cell::Cell;

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::buffers::{require, writable};
use crate::answer_rows::{AnswerRow, DECISION_AT, FALLBACK_AT, ROW_BYTES};
use crate::panics::caught;

/// queue, features, inference, guardrails, total: the first of `STAGES`.
const STAGES: usize = 5;
const TOTAL: usize = STAGES - 1;

const NO_ROWS: &str = "these are not rows of ANSWER_DTYPE";

/// From the longest wait to the decision, then the stamps of the first row from its take-up on.
type Spans = (i64, i64, i64, i64, i64);

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

    /// Count rows of ANSWER_DTYPE, at least one. What `fraudgate.latency.spans.Spans` says of them, in its order.
    fn add(&self, py: Python<'_>, decided: &[u8]) -> PyResult<Spans> {
        let rows = rows_of(decided)?;
        for (stage, cells) in self.cells.iter().enumerate() {
            let cells = writable(py, cells)?;
            caught(|| rows.iter().for_each(|row| count(cells, spans_ns(row)[stage])))?;
        }
        let first = rows.first().ok_or_else(|| PyValueError::new_err("there are no rows"))?;
        let longest_ns = rows.iter().map(|row| spans_ns(row)[TOTAL]).max().unwrap_or_default();
        Ok((longest_ns, first.taken_up_ns, first.gathered_ns, first.inferred_ns, first.answered_ns))
    }
}

/// Count rows of ANSWER_DTYPE by decision << 3 | fallback into int64[256].
#[pyfunction]
fn count_decisions(py: Python<'_>, counts: PyBuffer<i64>, decided: &[u8]) -> PyResult<()> {
    let counts = writable(py, &counts)?;
    let (rows, rest) = decided.as_chunks::<ROW_BYTES>();
    require(rest.is_empty(), NO_ROWS)?;
    require(counts.len() == 1 << u8::BITS, "the counts must be int64[256]")?;
    for row in rows {
        let cell = &counts[usize::from(row[DECISION_AT] << 3 | row[FALLBACK_AT])];
        cell.set(cell.get() + 1);
    }
    Ok(())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<StageKernel>()?;
    module.add_function(wrap_pyfunction!(count_decisions, module)?)
}

fn rows_of(decided: &[u8]) -> PyResult<Vec<AnswerRow>> {
    AnswerRow::read_all(decided).ok_or_else(|| PyValueError::new_err(NO_ROWS))
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
