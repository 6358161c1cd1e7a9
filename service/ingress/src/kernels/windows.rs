//! The kernel behind `fraudgate.features.embedded.EmbeddedStore.apply_and_gather`.
//!
//! First everything that may fail or call Python: look the series up, check every index that comes from outside, have room
//! made where a slot could get full. Then `Batch::run`, which does neither, so no batch is ever applied in part.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList};

use crate::columns::Columns;
use crate::panics::caught;
use crate::transaction::Text;

use super::arena::{ABSENT, Arena, LINE_ITEMS};
use super::batch::Batch;
use super::buffers::{require, writable};
use super::events::Events;
use super::ids::{Id, Ids};
use super::program::Program;

/// Applies batches to the arrays of a `Windows` and reads their features, row by row.
#[pyclass]
pub struct WindowKernel {
    windows: Py<PyAny>,
    ids: Ids,
    program: Program,
    arrays: Arrays,
    events: Events,
    buckets: Vec<usize>,
    /// The series of each row of the batch, kind after kind.
    series: Vec<usize>,
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
            events: Events::default(),
            buckets: Vec::new(),
            program,
            series: Vec::new(),
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
        self.events.copy(py, &event_time_ns, &amount_minor, paid, &self.program)?;
        let fits = ids.len() == self.ids.kinds() && ids.iter().all(|column| column.len() == self.events.rows());
        require(fits, "ids must be [kinds, rows]")?;
        let held: Vec<Vec<_>> = ids.iter().map(|column| column.iter().collect()).collect();
        let ids: Vec<Vec<_>> = held.iter().map(|column| column.iter().map(Id::of).collect()).collect();
        self.look_up(py, &ids)?;
        self.run(py, &covered_from, &values, &fallback)
    }

    fn apply_and_gather_columns<'py>(
        &mut self,
        py: Python<'py>,
        columns: &Bound<'py, Columns>,
        covered_from: Vec<i64>,
        values: PyBuffer<f64>,
        fallback: PyBuffer<u8>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let rows = &columns.get().rows;
        self.events.read(rows, &self.program);
        let column = |text: &Text| rows.texts(*text).map(Id::Text).collect();
        let ids: Vec<Vec<_>> = self.program.id_columns.iter().map(column).collect();
        self.look_up(py, &ids)?;
        self.run(py, &covered_from, &values, &fallback)
    }
}

impl WindowKernel {
    fn look_up(&mut self, py: Python<'_>, ids: &[Vec<Id<'_, '_>>]) -> PyResult<()> {
        // Python may replace the arrays meanwhile: these are only asked for what they will be asked for again.
        let arena = self.arrays.arena(py, self.program.columns)?;
        self.ids.look_up(py, ids, &mut self.series, |series| arena.prefetch_series(series))
    }

    /// Apply and read the events of these series.
    fn run<'py>(
        &mut self,
        py: Python<'py>,
        covered_from: &[i64],
        values: &PyBuffer<f64>,
        fallback: &PyBuffer<u8>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        self.arrays.refresh(self.windows.bind(py), self.program.columns)?;
        self.see_to_room(py, self.events.rows())?;
        let batch = Batch {
            events: &self.events,
            covered_from,
            series: &self.series,
            values: writable(py, values)?,
            fallback: writable(py, fallback)?,
        };
        check(&batch, &self.program)?;
        let arena = self.arrays.arena(py, self.program.columns)?;
        let places = PyBytes::new(py, &batch.places(&self.program));
        caught(|| batch.run(&self.program, &arena, &mut self.buckets))?;
        Ok(places)
    }

    /// See to it that every slot has room for what this batch brings. Raises when a series has no slot.
    fn see_to_room(&mut self, py: Python<'_>, rows: usize) -> PyResult<()> {
        for Short { kind, series, events } in self.short_of_room(py, rows)? {
            self.make_room(py, series, events, self.program.kinds[kind].keep)?;
        }
        Ok(())
    }

    /// The series whose slots this batch could fill up. What a slot will be asked for is on its way then.
    fn short_of_room(&self, py: Python<'_>, rows: usize) -> PyResult<Vec<Short>> {
        let arena = self.arrays.arena(py, self.program.columns)?;
        let mut short = Vec::new();
        for (kind, of_kind) in self.series.chunks(rows.max(1)).enumerate() {
            let edges = self.program.kinds[kind].back.len();
            for (row, series) in of_kind.iter().copied().enumerate() {
                let (slot, room) = arena.checked(series).ok_or_else(|| no_slot(series))?;
                arena.prefetch_end(slot);
                arena.hints(series, slot).take(edges).for_each(|bucket| arena.prefetch_tick(bucket));
                if room > rows || series == ABSENT {
                    continue;
                }
                let events = of_kind.iter().filter(|other| **other == series).count();
                if room <= events && !of_kind[..row].contains(&series) {
                    arena.prefetch_slot(slot);
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
        let arena = self.arrays.arena(py, columns)?;
        if !arena.make_room(series, slot, &room, home) {
            return Err(PyRuntimeError::new_err(format!("there is no slot at {home}")));
        }
        match arena.checked(series) {
            Some((_, room)) if room > events => Ok(()),
            _ => Err(PyRuntimeError::new_err("a slot has no room after room was made")),
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
    require(batch.covered_from.len() == program.kinds.len(), "covered_from must be [kinds]")?;
    require(batch.values.len() == rows * program.features, "values must be [rows, features]")?;
    require(batch.fallback.len() == rows, "fallback must be [rows]")
}

fn no_slot(series: usize) -> PyErr {
    PyRuntimeError::new_err(format!("series {series} has no slot"))
}
