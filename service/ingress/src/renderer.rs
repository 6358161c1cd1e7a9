//! Answer rows and their bytes, for Python: the check of the layout, and the renderer that tests hold to the reference.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::answer_rows::{AnswerRow, check_layout};
use crate::answers::{End, TAILS_MAX, Tails, batch_entry, render, result};

/// Raises ValueError unless rows of ``ANSWER_DTYPE`` are laid out as this build reads them.
///
/// ``fields``: (NumPy type, offset) by name, for instance ``{"score": ("<f4", 4)}``.
#[pyfunction]
fn check_answer_layout(row_bytes: usize, fields: HashMap<String, (String, usize)>) -> PyResult<()> {
    check_layout(row_bytes, &fields).map_err(refused)
}

/// An encoded ScoreResult: ``response`` is an encoded ScoreResponse, ``error`` an encoded google.rpc.Status.
#[pyfunction]
fn score_result<'py>(
    py: Python<'py>,
    transaction_id: &str,
    response: Option<&[u8]>,
    error: Option<&[u8]>,
) -> PyResult<Bound<'py, PyBytes>> {
    let mut out = BytesMut::new();
    result(transaction_id, end_of(response, error)?, &mut out);
    Ok(PyBytes::new(py, &out))
}

/// A ScoreBatchResponse of one encoded ScoreResult; encodings of several concatenate.
#[pyfunction]
fn score_batch_entry<'py>(py: Python<'py>, result: &[u8]) -> Bound<'py, PyBytes> {
    let mut out = BytesMut::new();
    batch_entry(result, &mut out);
    PyBytes::new(py, &out)
}

fn end_of<'a>(response: Option<&'a [u8]>, error: Option<&'a [u8]>) -> PyResult<End<'a>> {
    match (response, error) {
        (Some(body), None) => Ok(End::Response(body)),
        (None, Some(body)) => Ok(End::Error(body)),
        _ => Err(PyValueError::new_err("exactly one of response and error")),
    }
}

/// Answer rows to ScoreResponse bytes.
#[pyclass]
struct Renderer {
    tails: Tails,
    /// (edition, rules) -> (run id, encoded tail)
    tail: Py<PyAny>,
}

#[pymethods]
impl Renderer {
    #[new]
    fn new(tail: Py<PyAny>) -> Self {
        Self { tails: Tails::new(), tail }
    }

    /// ScoreResponse bytes of rows with status OK, in order. ``answers``: the bytes of ANSWER_DTYPE[n].
    fn render<'py>(
        &mut self,
        py: Python<'py>,
        answers: &[u8],
        transaction_ids: Vec<String>,
    ) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let rows = AnswerRow::read_all(answers).filter(|rows| rows.len() == transaction_ids.len());
        let rows = rows.ok_or_else(|| PyValueError::new_err("answers are whole rows, one for each transaction_id"))?;
        let mut bodies = Vec::with_capacity(rows.len());
        for (rows, ids) in rows.chunks(TAILS_MAX).zip(transaction_ids.chunks(TAILS_MAX)) {
            self.put_missing(py, rows)?;
            for (row, id) in rows.iter().zip(ids) {
                let mut out = BytesMut::new();
                render(row, id, &self.tails, &mut out).map_err(refused)?;
                bodies.push(PyBytes::new(py, &out));
            }
        }
        Ok(bodies)
    }
}

impl Renderer {
    fn put_missing(&mut self, py: Python<'_>, rows: &[AnswerRow]) -> PyResult<()> {
        for (edition, rules) in self.tails.missing(rows) {
            let (run_id, body): (String, Vec<u8>) = self.tail.call1(py, (edition, rules))?.extract(py)?;
            self.tails.put(edition, rules, &run_id, Bytes::from(body));
        }
        Ok(())
    }
}

fn refused(error: impl std::error::Error) -> PyErr {
    PyValueError::new_err(error.to_string())
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Renderer>()?;
    module.add_function(wrap_pyfunction!(check_answer_layout, module)?)?;
    module.add_function(wrap_pyfunction!(score_result, module)?)?;
    module.add_function(wrap_pyfunction!(score_batch_entry, module)?)
}
