//! The kernel behind `fraudgate.features.embedded.EmbeddedStore.apply_and_gather`.
//!
//! First everything that may fail or call Python: look the series up, check every index that comes from outside, have room
//! made where a slot could get full. Then `Batch::run`, which does neither, so no batch is ever applied in part.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use super::arena::{ABSENT, Arena, LINE_ITEMS};
use super::batch::Batch;
use super::buffers::{readable, require, writable};
use super::ids::Ids;
use super::program::Program;

/// Applies batches to the arrays of a `Windows` and reads their features, row by row.
#[pyclass]
pub struct WindowKernel {
    windows: Py<PyAny>,
    ids: Ids,
    program: Program,
    arrays: Arrays,
    buckets: Vec<usize>,
    /// The series of each row of the batch, kind after kind.
    series: Vec<usize>,
    sorted: Vec<usize>,
}

/// A series whose slot could get full.
struct Short {
    kind: usize,
    series: usize,
    events: usize,
}

/// The arrays of a `Windows`, held until it has others.
struct Arrays {
    version: i64,
    ticks: PyBuffer<i64>,
    totals: PyBuffer<i64>,
    table: PyBuffer<i64>,
}

#[pymethods]
impl WindowKernel {
    #[new]
    fn new(windows: &Bound<'_, PyAny>, series_of: Vec<Py<PyAny>>, program: &Bound<'_, PyAny>) -> PyResult<Self> {
        let program = Program::read(program)?;
        require(series_of.len() == program.kinds.len(), "series_of must have a mapping for every kind")?;
        Ok(WindowKernel {
            windows: windows.clone().unbind(),
            ids: Ids::new(series_of),
            arrays: Arrays::of(windows, program.columns)?,
            buckets: Vec::new(),
            program,
            series: Vec::new(),
            sorted: Vec::new(),
        })
    }

    #[expect(clippy::too_many_arguments, reason = "a batch is columns")]
    fn apply_and_gather<'py>(
        &mut self,
        py: Python<'py>,
        ids: Vec<Bound<'py, PyList>>,
        event_time_ns: PyBuffer<i64>,
        amount_minor: PyBuffer<i64>,
        paid: Option<Vec<bool>>,
        covered_from: Vec<i64>,
        values: PyBuffer<f64>,
        fallback: PyBuffer<u8>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let rows = event_time_ns.item_count();
        let fits = ids.len() == self.ids.kinds() && ids.iter().all(|column| column.len() == rows);
        require(fits, "ids must be [kinds, rows]")?;
        self.ids.look_up(py, &ids, &mut self.series)?;
        self.arrays.refresh(self.windows.bind(py), self.program.columns)?;
        self.see_to_room(py, rows)?;
        let batch = Batch {
            event_time_ns: readable(py, &event_time_ns)?,
            amount_minor: readable(py, &amount_minor)?,
            paid: paid.as_deref(),
            covered_from: &covered_from,
            series: &self.series,
            values: writable(py, &values)?,
            fallback: writable(py, &fallback)?,
        };
        check(&batch, &self.program)?;
        let arena = self.arrays.arena(py, self.program.columns)?;
        let places = PyBytes::new(py, &batch.places(&self.program));
        batch.run(&self.program, &arena, &mut self.buckets);
        Ok(places)
    }
}

impl WindowKernel {
    /// See to it that every slot has room for what this batch brings. Raises when a series has no slot.
    fn see_to_room(&mut self, py: Python<'_>, rows: usize) -> PyResult<()> {
        let arena = self.arrays.arena(py, self.program.columns)?;
        self.series.iter().for_each(|series| arena.prefetch_series(*series));
        let short = self.short_of_room(py, rows)?;
        for Short { kind, series, events } in &short {
            self.make_room(py, *series, *events, self.program.kinds[*kind].keep)?;
        }
        if !short.is_empty() && !self.short_of_room(py, rows)?.is_empty() {
            return Err(PyRuntimeError::new_err("a slot has no room after room was made"));
        }
        Ok(())
    }

    /// The series whose slots this batch could fill up. What a slot will be asked for is on its way then.
    fn short_of_room(&mut self, py: Python<'_>, rows: usize) -> PyResult<Vec<Short>> {
        let arena = self.arrays.arena(py, self.program.columns)?;
        let mut short = Vec::new();
        for (kind, series) in self.series.chunks(rows.max(1)).enumerate() {
            let edges = self.program.kinds[kind].back.len();
            self.sorted.clear();
            self.sorted.extend_from_slice(series);
            self.sorted.sort_unstable();
            for same in self.sorted.chunk_by(|one, other| one == other) {
                let (series, events) = (same[0], same.len());
                let (slot, room) = arena.checked(series).ok_or_else(|| no_slot(series))?;
                arena.prefetch_end(slot);
                arena.hints(series, slot).take(edges).for_each(|bucket| arena.prefetch_tick(bucket));
                if series != ABSENT && room <= events {
                    short.push(Short { kind, series, events });
                }
            }
        }
        Ok(short)
    }

    /// Make room for events of a series, in its slot or in a larger one that Python gives for it.
    fn make_room(&mut self, py: Python<'_>, series: usize, events: usize, keep: i64) -> PyResult<()> {
        let columns = self.program.columns;
        let arena = self.arrays.arena(py, columns)?;
        let (slot, room) = arena.checked(series).ok_or_else(|| no_slot(series))?;
        let room = arena.plan_room(slot, room, events, keep);
        let mut home = slot.offset;
        if room.larger != room.size {
            let windows = self.windows.bind(py);
            home = windows.call_method1(intern!(py, "swap_slot"), (home, room.size, room.larger))?.extract()?;
            self.arrays.refresh(windows, columns)?;
        }
        match self.arrays.arena(py, columns)?.make_room(series, slot, &room, home) {
            true => Ok(()),
            false => Err(PyRuntimeError::new_err(format!("there is no slot at {home}"))),
        }
    }
}

impl Arrays {
    fn of(windows: &Bound<'_, PyAny>, columns: usize) -> PyResult<Arrays> {
        let py = windows.py();
        let version = windows.getattr(intern!(py, "version"))?.extract()?;
        let (ticks, totals, table): (PyBuffer<i64>, PyBuffer<i64>, PyBuffer<i64>) =
            windows.call_method0(intern!(py, "arrays"))?.extract()?;
        require(totals.item_count() == ticks.item_count() * columns, "totals must be [buckets, columns]")?;
        require(table.item_count().is_multiple_of(LINE_ITEMS), "the table must have 8 columns")?;
        Ok(Arrays { version, ticks, totals, table })
    }

    /// Take the arrays anew where `windows` replaced some.
    fn refresh(&mut self, windows: &Bound<'_, PyAny>, columns: usize) -> PyResult<()> {
        let version: i64 = windows.getattr(intern!(windows.py(), "version"))?.extract()?;
        if version != self.version {
            *self = Arrays::of(windows, columns)?;
        }
        Ok(())
    }

    fn arena<'a>(&'a self, py: Python<'a>, columns: usize) -> PyResult<Arena<'a>> {
        Ok(Arena {
            columns,
            ticks: writable(py, &self.ticks)?,
            totals: writable(py, &self.totals)?,
            table: writable(py, &self.table)?,
        })
    }
}

fn check(batch: &Batch<'_>, program: &Program) -> PyResult<()> {
    let rows = batch.rows();
    let paid_rows = batch.paid.map_or(rows, <[_]>::len);
    require(batch.amount_minor.len() == rows && paid_rows == rows, "amount_minor and paid must be [rows]")?;
    require(batch.covered_from.len() == program.kinds.len(), "covered_from must be [kinds]")?;
    require(batch.values.len() == rows * program.features, "values must be [rows, features]")?;
    require(batch.fallback.len() == rows, "fallback must be [rows]")
}

fn no_slot(series: usize) -> PyErr {
    PyRuntimeError::new_err(format!("series {series} has no slot"))
}
