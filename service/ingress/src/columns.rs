//! A batch as Python gets it: lists of texts, a view of the numbers, and the whole as an Arrow RecordBatch without a copy.

use std::ffi::c_int;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use arrow_buffer::Buffer;
use arrow_data::ArrayData;
use arrow_data::ffi::FFI_ArrowArray;
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use pyo3::exceptions::{PyBufferError, PyIndexError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

pub use crate::rows::{Entry, Rows};
use crate::rows::{NUMBERS, Number};
use crate::transaction::{Text, Transaction};

/// The rows of one batch, opened column by column.
#[pyclass(frozen, module = "fraudgate_ingress")]
pub struct Columns {
    rows: Rows,
    /// The struct that Python was last given the address of.
    exported: Mutex<Option<Box<FFI_ArrowArray>>>,
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

    /// The payload digest of each row.
    fn digests<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        PyList::new(py, self.rows.digests().iter().map(|digest| PyBytes::new(py, digest)))
    }

    /// A fresh list of one column of texts: 0 transaction_id, 1 currency, 2 and on the ids, None where one is absent.
    fn texts<'py>(&self, py: Python<'py>, column: usize) -> PyResult<Bound<'py, PyList>> {
        let field = *Text::ALL.get(column).ok_or_else(|| PyIndexError::new_err("no such column of texts"))?;
        let texts = self.rows.texts(field);
        if self.rows.text_column(field).nulls == 0 {
            return PyList::new(py, texts.map(|text| PyString::new(py, text)));
        }
        PyList::new(py, texts.map(|text| (!text.is_empty()).then(|| PyString::new(py, text))))
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
    /// out. The buffers stay those of this object.
    fn arrow_address(&self) -> usize {
        let mut exported = self.exported.lock().unwrap_or_else(PoisonError::into_inner);
        let array = exported.insert(Box::new(FFI_ArrowArray::new(&record(&self.rows))));
        &raw const **array as usize
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

/// The types of ``transaction.REQUEST_SCHEMA``.
struct Types {
    record: DataType,
    event_time: DataType,
    attributes: DataType,
    entry: DataType,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let field = |name: &str, kind: &DataType, nullable| Field::new(name, kind.clone(), nullable);
    let entry = DataType::Struct(Fields::from(vec![
        field("key", &DataType::Utf8, false),
        field("value", &DataType::Float64, true),
    ]));
    let attributes = DataType::Map(Arc::new(field("entries", &entry, false)), false);
    let event_time = DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into()));
    let mut fields = vec![
        field("transaction_id", &DataType::Utf8, false),
        field("currency", &DataType::Utf8, false),
        field("event_time", &event_time, false),
        field("amount_minor", &DataType::Int64, false),
    ];
    let entities = ["customer_id", "terminal_id", "card_id", "merchant_id", "device_id", "ip_address"];
    fields.extend(entities.map(|name| field(name, &DataType::Utf8, true)));
    fields.push(field("attributes", &attributes, false));
    fields.extend(["arrival_ns", "deadline_ns"].map(|name| field(name, &DataType::Int64, false)));
    Types { record: DataType::Struct(Fields::from(fields)), event_time, attributes, entry }
});

/// The batch as one struct array over the memory of these rows.
fn record(rows: &Rows) -> ArrayData {
    let number = |kind: &DataType, column| array(kind, rows.rows(), vec![rows.number(column)], vec![]);
    let mut children = Vec::with_capacity(Text::ALL.len() + NUMBERS + 1);
    children.extend([Text::TransactionId, Text::Currency].map(|field| text_array(rows, field)));
    children.push(number(&TYPES.event_time, Number::EventTimeNs));
    children.push(number(&DataType::Int64, Number::AmountMinor));
    children.extend(Text::ALL[2..].iter().map(|field| text_array(rows, *field)));
    children.push(attribute_array(rows));
    children.push(number(&DataType::Int64, Number::ArrivalNs));
    children.push(number(&DataType::Int64, Number::DeadlineNs));
    array(&TYPES.record, rows.rows(), vec![], children)
}

fn text_array(rows: &Rows, field: Text) -> ArrayData {
    let column = rows.text_column(field);
    let buffers = vec![rows.part(column.offsets()), rows.part(column.values())];
    let validity = column.validity().map(|range| rows.part(range));
    // SAFETY: Rows lays out offsets, values and validity as a Utf8 array of this many rows has them.
    unsafe { ArrayData::new_unchecked(DataType::Utf8, rows.rows(), Some(column.nulls), validity, 0, buffers, vec![]) }
}

fn attribute_array(rows: &Rows) -> ArrayData {
    let Some(column) = rows.attribute_column() else {
        let none = Buffer::from_vec(vec![0_i32; rows.rows() + 1]);
        return array(
            &TYPES.attributes,
            rows.rows(),
            vec![none.clone()],
            vec![entry_array(0, none, [Buffer::default(), Buffer::default()])],
        );
    };
    let key_offsets = rows.part(column.key_offsets());
    let entries = entry_array(column.entries, key_offsets, [rows.part(column.keys()), rows.part(column.values())]);
    array(&TYPES.attributes, rows.rows(), vec![rows.part(column.offsets())], vec![entries])
}

fn entry_array(entries: usize, key_offsets: Buffer, [keys, values]: [Buffer; 2]) -> ArrayData {
    let keys = array(&DataType::Utf8, entries, vec![key_offsets, keys], vec![]);
    let values = array(&DataType::Float64, entries, vec![values], vec![]);
    array(&TYPES.entry, entries, vec![], vec![keys, values])
}

fn array(kind: &DataType, len: usize, buffers: Vec<Buffer>, children: Vec<ArrayData>) -> ArrayData {
    // SAFETY: the callers pass buffers and children of this type and length, without nulls.
    unsafe { ArrayData::new_unchecked(kind.clone(), len, Some(0), None, 0, buffers, children) }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Columns>()
}
