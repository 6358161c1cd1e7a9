//! A batch as Python gets it: lists of texts, a view of the numbers, and the whole as an Arrow RecordBatch without a copy.

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};

use flate2::Crc;
use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFrozenSet, PyList, PyString};

use crate::export::Export;
pub use crate::rows::{Entry, Rows};
use crate::rows::{NUMBERS, Number};
use crate::transaction::{Text, Transaction};

/// The rows of one batch, opened column by column.
#[pyclass(frozen, module = "fraudgate_ingress")]
pub struct Columns {
    pub(crate) rows: Rows,
    /// What Python was last given the address of.
    exported: Mutex<Option<Export>>,
    shape: [ffi::Py_ssize_t; 2],
    strides: [ffi::Py_ssize_t; 2],
}

impl Columns {
    pub fn new(rows: Rows) -> Self {
        let int64_bytes = size_of::<i64>() as ffi::Py_ssize_t;
        let count = rows.rows() as ffi::Py_ssize_t;
        Self {
            rows,
            exported: Mutex::new(None),
            shape: [NUMBERS as ffi::Py_ssize_t, count],
            strides: [count * int64_bytes, int64_bytes],
        }
    }
}

#[pymethods]
impl Columns {
    #[new]
    fn of(transactions: Vec<Py<Transaction>>, arrival_ns: Vec<i64>, deadline_ns: Vec<i64>) -> PyResult<Self> {
        if transactions.len() != arrival_ns.len() || transactions.len() != deadline_ns.len() {
            return Err(PyValueError::new_err("one arrival and one deadline for each transaction"));
        }
        let stamps = arrival_ns.into_iter().zip(deadline_ns);
        let entries: Vec<_> =
            transactions.iter().zip(stamps).map(|(one, (arrival, deadline))| (one.get(), arrival, deadline)).collect();
        Ok(Self::new(Rows::new(&entries)))
    }

    #[getter]
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    /// Whether every row's ids are surely fine, see ``Transaction.plain``.
    #[getter]
    fn plain(&self) -> bool {
        self.rows.plain()
    }

    /// The earliest deadline, i64::MAX where no row has one, and the earliest arrival.
    fn earliest(&self) -> (i64, i64) {
        let deadlines = self.rows.integers(Number::DeadlineNs).filter(|deadline| *deadline != 0);
        let arrivals = self.rows.integers(Number::ArrivalNs);
        (deadlines.min().unwrap_or(i64::MAX), arrivals.min().unwrap_or(i64::MAX))
    }

    /// What the transactions' numbers lie between: event_time_ns, least and most, then amount_minor.
    fn extent(&self) -> (i64, i64, i64, i64) {
        let least = |column| self.rows.integers(column).min().unwrap_or(i64::MAX);
        let most = |column| self.rows.integers(column).max().unwrap_or(i64::MIN);
        let (time, amount) = (Number::EventTimeNs, Number::AmountMinor);
        (least(time), most(time), least(amount), most(amount))
    }

    /// The currencies that occur, in row order; one that follows itself is there once.
    fn currencies(&self) -> Vec<&str> {
        let mut found: Vec<&str> = self.rows.texts(Text::Currency).collect();
        found.dedup();
        found
    }

    /// Whether every row is surely well formed: plain, without attributes, in one of these currencies, and its numbers
    /// within these bounds, which are included.
    fn well_formed(
        &self,
        currencies: &Bound<'_, PyFrozenSet>,
        event_time_ns: (i64, i64),
        amount_minor: (i64, i64),
    ) -> PyResult<bool> {
        let within = |column, (least, most)| self.rows.integers(column).all(|number| least <= number && number <= most);
        if !self.rows.plain()
            || self.rows.attributes().is_some()
            || !within(Number::EventTimeNs, event_time_ns)
            || !within(Number::AmountMinor, amount_minor)
        {
            return Ok(false);
        }
        for currency in self.currencies() {
            if !currencies.contains(currency)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The payload digest of each row.
    fn digests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.rows.digests().iter().map(|digest| PyBytes::new(py, digest)))
    }

    /// A fresh list of one column of texts: 0 transaction_id, 1 currency, 2 and on the ids, None where one is absent.
    fn texts<'py>(&self, py: Python<'py>, column: usize) -> PyResult<Bound<'py, PyList>> {
        let field = *Text::ALL.get(column).ok_or_else(|| PyIndexError::new_err("no such column of texts"))?;
        let texts = self.rows.texts(field);
        if self.rows.text_column(field).nulls == 0 {
            let mut last: Option<(&str, Bound<'py, PyString>)> = None; // a batch has one currency, as a rule
            return PyList::new(
                py,
                texts.map(|text| match &last {
                    Some((same, string)) if *same == text => string.clone(),
                    _ => last.insert((text, PyString::new(py, text))).1.clone(),
                }),
            );
        }
        PyList::new(py, texts.map(|text| (!text.is_empty()).then(|| PyString::new(py, text))))
    }

    /// The transaction ids of these batches, as the offsets (int32) and values of an Arrow array of texts, and the CRC-32
    /// of each (uint32).
    #[staticmethod]
    fn joined_ids<'py>(py: Python<'py>, batches: Vec<Bound<'py, Self>>) -> [Bound<'py, PyBytes>; 3] {
        let (mut offsets, mut values, mut hashes) = (vec![0; size_of::<i32>()], Vec::new(), Vec::new());
        for batch in &batches {
            for id in batch.get().rows.texts(Text::TransactionId) {
                values.extend_from_slice(id.as_bytes());
                offsets.extend((values.len() as i32).to_ne_bytes());
                let mut crc = Crc::new();
                crc.update(id.as_bytes());
                hashes.extend(crc.sum().to_ne_bytes());
            }
        }
        [offsets, values, hashes].map(|bytes| PyBytes::new(py, &bytes))
    }

    /// The attributes of each row; None where no row has any.
    fn attributes<'py>(&self, py: Python<'py>) -> PyResult<Option<Vec<Bound<'py, PyDict>>>> {
        let Some(rows) = self.rows.attributes() else { return Ok(None) };
        let dicts = rows.map(|row| {
            let dict = PyDict::new(py);
            for (key, value) in row {
                dict.set_item(key, value)?;
            }
            Ok(dict)
        });
        dicts.collect::<PyResult<_>>().map(Some)
    }

    /// The address of an ArrowArray for ``pyarrow.RecordBatch._import_from_c(address, REQUEST_SCHEMA)``, which moves it
    /// out. Good until the next call; the buffers are those of this object.
    fn arrow_address(&self) -> usize {
        let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        exported.insert(Export::new(&self.rows)).address()
    }

    /// int64[4, rows], read-only: event_time_ns, amount_minor, arrival_ns, deadline_ns.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        // SAFETY: the interpreter passes a Py_buffer to be filled in.
        let Some(view) = (unsafe { view.as_mut() }) else {
            return Err(PyBufferError::new_err("there is no view to fill in"));
        };
        view.obj = std::ptr::null_mut();
        if flags & ffi::PyBUF_WRITABLE == ffi::PyBUF_WRITABLE {
            return Err(PyBufferError::new_err("the columns are read-only"));
        }
        let wants = |flag| flags & flag == flag;
        let this = slf.get();
        let numbers = this.rows.numbers();
        view.buf = numbers.as_ptr() as *mut _;
        view.len = numbers.len() as ffi::Py_ssize_t;
        view.readonly = 1;
        view.itemsize = size_of::<i64>() as ffi::Py_ssize_t;
        view.format = if wants(ffi::PyBUF_FORMAT) { c"q".as_ptr() as *mut _ } else { std::ptr::null_mut() };
        view.ndim = if wants(ffi::PyBUF_ND) { 2 } else { 1 };
        view.shape = if wants(ffi::PyBUF_ND) { this.shape.as_ptr() as *mut _ } else { std::ptr::null_mut() };
        view.strides = if wants(ffi::PyBUF_STRIDES) { this.strides.as_ptr() as *mut _ } else { std::ptr::null_mut() };
        view.suboffsets = std::ptr::null_mut();
        view.internal = std::ptr::null_mut();
        view.obj = slf.into_any().into_ptr(); // keeps the numbers, the shape and the strides alive
        Ok(())
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Columns>()
}
