//! The numbers of a batch's rows, from the front end's memory or from arrays.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::rows::{Number, Rows};
use crate::transaction::Text;

use super::program::Program;

/// What came in, by row.
#[derive(Default)]
pub struct Events {
    pub event_time_ns: Vec<i64>,
    pub ticks: Vec<i64>,
    pub amount_minor: Vec<i64>,
    /// Whether a row is in the schema's currency; None: every row is.
    pub paid: Option<Vec<bool>>,
}

impl Events {
    /// Take the rows of a batch instead.
    pub fn read(&mut self, rows: &Rows, program: &Program) {
        fill(&mut self.event_time_ns, rows.integers(Number::EventTimeNs));
        fill(&mut self.amount_minor, rows.integers(Number::AmountMinor));
        let paid = || rows.texts(Text::Currency).map(|code| code == program.currency);
        self.paid = if paid().all(|paid| paid) { None } else { Some(paid().collect()) };
        self.count_ticks(program);
    }

    /// Take these arrays instead. Raises ValueError unless they are contiguous and of one length.
    pub fn copy(
        &mut self,
        py: Python<'_>,
        event_time_ns: &PyBuffer<i64>,
        amount_minor: &PyBuffer<i64>,
        paid: Option<Vec<bool>>,
        program: &Program,
    ) -> PyResult<()> {
        let rows = event_time_ns.item_count();
        if amount_minor.item_count() != rows || paid.as_ref().is_some_and(|paid| paid.len() != rows) {
            return Err(PyValueError::new_err("amount_minor and paid must be [rows]"));
        }
        for (numbers, array) in [(&mut self.event_time_ns, event_time_ns), (&mut self.amount_minor, amount_minor)] {
            let cells = array.as_slice(py).ok_or_else(|| PyValueError::new_err("an array is not contiguous"))?;
            fill(numbers, cells.iter().map(|cell| cell.get()));
        }
        self.paid = paid;
        self.count_ticks(program);
        Ok(())
    }

    pub fn rows(&self) -> usize {
        self.ticks.len()
    }

    pub fn is_paid(&self, row: usize) -> bool {
        self.paid.as_ref().is_none_or(|paid| paid[row])
    }

    fn count_ticks(&mut self, program: &Program) {
        fill(&mut self.ticks, self.event_time_ns.iter().map(|time_ns| time_ns.div_euclid(program.tick_ns)));
    }
}

fn fill(numbers: &mut Vec<i64>, from: impl Iterator<Item = i64>) {
    numbers.clear();
    numbers.extend(from);
}
