//! The kernel behind `fraudgate.drift.watch.Ring.add_batches`: features and scores of decided rows, copied into place.

use std::cell::Cell;

use pyo3::buffer::{PyBuffer, ReadOnlyCell};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::buffers::{readable, require, writable};
use crate::answer_rows::{AnswerRow, ROW_BYTES};

/// Write the rows of some batches to the rows of a ring from `start` on: features as float32, and scores, NaN where a row
/// has none. `batches`: features float64 [n, F] and the bytes of ANSWER_DTYPE[n].
#[pyfunction]
fn keep_rows(
    py: Python<'_>,
    batches: Vec<(PyBuffer<f64>, Bound<'_, PyBytes>)>,
    features: PyBuffer<f32>,
    scores: PyBuffer<f32>,
    start: usize,
) -> PyResult<()> {
    let (mut scores, mut features) = (from(writable(py, &scores)?, start)?, writable(py, &features)?);
    let width = features.len() / (start + scores.len()).max(1);
    features = from(features, start * width)?;
    for (values, decided) in &batches {
        let (rows, rest) = decided.as_bytes().as_chunks::<ROW_BYTES>();
        require(rest.is_empty(), "these are not rows of ANSWER_DTYPE")?;
        let values = readable(py, values)?;
        require(values.len() == rows.len() * width, "features must be [rows, F], and the answers those of the rows")?;
        require(rows.len() <= scores.len(), "the ring ends before the rows do")?;
        (features, scores) = (copied(features, values), scored(scores, rows));
    }
    Ok(())
}

/// The place after what was copied.
fn copied<'a>(place: &'a [Cell<f32>], values: &[ReadOnlyCell<f64>]) -> &'a [Cell<f32>] {
    let (place, rest) = place.split_at(values.len());
    place.iter().zip(values).for_each(|(cell, value)| cell.set(value.get() as f32));
    rest
}

fn scored<'a>(place: &'a [Cell<f32>], rows: &[[u8; ROW_BYTES]]) -> &'a [Cell<f32>] {
    let (place, rest) = place.split_at(rows.len());
    for (cell, row) in place.iter().zip(rows) {
        let row = AnswerRow::read(row);
        cell.set(if row.scored { row.score } else { f32::NAN });
    }
    rest
}

fn from<T>(cells: &[T], start: usize) -> PyResult<&[T]> {
    require(start <= cells.len(), "the ring ends before it starts")?;
    Ok(&cells[start..])
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(keep_rows, module)?)
}
