//! The kernel behind `fraudgate.guardrails.drafts.draft`: answer rows as the score alone decides them.

use pyo3::buffer::{PyBuffer, ReadOnlyCell};
use pyo3::prelude::*;
use pyo3::types::PyByteArray;

use super::buffers::{readable, require};
use crate::answer_rows::{AnswerRow, ROW_BYTES};
use crate::columns::Columns;
use crate::panics::caught;
use crate::rows::{Number, Rows};

/// A score whose level this is may not decide.
const UNSCORED: usize = 3;
/// `Decision.APPROVE`, `REVIEW` and `DECLINE`, by level.
const DECISIONS: [u8; UNSCORED] = [1, 2, 3];
/// Nothing, `Mark.SCORE_REVIEW` and `Mark.SCORE_DECLINE`, by level.
const MARKS: [u64; UNSCORED] = [0, 1 << 57, 1 << 56];

/// The level of a score by the least float32 of each level from 1, as integers: see `Thresholds.levels`.
fn level(score: f32, edges: &[u32; UNSCORED]) -> usize {
    let bits = (score + 0.0).to_bits(); // adding 0 takes the sign of a negative zero
    edges.iter().filter(|edge| **edge <= bits).count()
}

/// Write a draft for every row; false, and the drafts are not to be used, when a score may not decide.
fn write_drafts(
    drafts: &mut [u8],
    shared: AnswerRow,
    rows: &Rows,
    scores: &[ReadOnlyCell<f32>],
    fallbacks: &[ReadOnlyCell<u8>],
    edges: &[u32; UNSCORED],
) -> bool {
    let (drafts, _) = drafts.as_chunks_mut::<ROW_BYTES>();
    let given = scores.iter().zip(fallbacks).zip(rows.integers(Number::ArrivalNs)).zip(shared.sequence..);
    drafts.iter_mut().zip(given).all(|(draft, (((score, fallback), arrival_ns), sequence))| {
        let level = level(score.get(), edges);
        let Some((decision, rules)) = DECISIONS.get(level).zip(MARKS.get(level)) else { return false };
        let own = AnswerRow {
            decision: *decision,
            rules: *rules,
            score: score.get(),
            fallback: fallback.get(),
            arrival_ns,
            sequence,
            ..shared
        };
        own.write(draft);
        true
    })
}

/// ANSWER_DTYPE of all rows of a batch, as bytes; None when a score may not decide.
#[pyfunction]
#[expect(clippy::too_many_arguments, reason = "what the rows of an engine call share")]
fn draft_answers<'py>(
    py: Python<'py>,
    columns: &Columns,
    score: PyBuffer<f32>,
    fallback: PyBuffer<u8>,
    edges: (u32, u32, u32),
    edition: u32,
    sequence: i64,
    taken_up_ns: i64,
    gathered_ns: i64,
    inferred_ns: i64,
) -> PyResult<Option<Bound<'py, PyByteArray>>> {
    let rows = &columns.rows;
    let (score, fallback) = (readable(py, &score)?, readable(py, &fallback)?);
    require(score.len() == rows.rows() && fallback.len() == rows.rows(), "one score and one fallback for each row")?;
    let batch_rows = u16::try_from(rows.rows())?;
    let shared = AnswerRow {
        scored: true,
        batch_rows,
        edition,
        sequence,
        taken_up_ns,
        gathered_ns,
        inferred_ns,
        ..AnswerRow::default()
    };
    let edges = [edges.0, edges.1, edges.2];
    let mut usable = false;
    let drafts = PyByteArray::new_with(py, rows.rows() * ROW_BYTES, |drafts| {
        usable = caught(|| write_drafts(drafts, shared, rows, score, fallback, &edges))?;
        Ok(())
    })?;
    Ok(usable.then_some(drafts))
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(draft_answers, module)?)
}
