//! The transactions of a run: rows of Arrow columns, each made into a gRPC message when it is sent.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow_array::types::Int64Type;
use arrow_array::{Array, Int64Array, StringArray, StructArray};
use bytes::{BufMut, BytesMut};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyCapsule};

const SECOND_NS: i64 = 1_000_000_000;
/// The texts of a Transaction after its id, with their field numbers.
const TEXTS: [(&str, u8); 7] = [
    ("currency", 4),
    ("customer_id", 5),
    ("terminal_id", 6),
    ("card_id", 7),
    ("merchant_id", 8),
    ("device_id", 9),
    ("ip_address", 10),
];
const LENGTH_DELIMITED: u8 = 2;

/// Rows that are sent again and again under new ids: the n-th transaction is row n modulo their number.
pub struct Transactions {
    event_time_ns: Int64Array,
    amount_minor: Int64Array,
    texts: Vec<(u8, StringArray)>,
    /// How much later an event is each time the rows begin anew.
    span_ns: i64,
    run: String,
    event_time_now: bool,
}

/// `Transactions` for Python and for the thread of a run.
#[pyclass(frozen, module = "fraudgate_ingress")]
pub struct Workload(pub Arc<Transactions>);

#[pymethods]
impl Workload {
    /// `batch`: event_time (int64, ns), amount_minor (int64) and any of the texts (utf8).
    #[new]
    #[pyo3(signature = (batch, run, *, event_time_now))]
    fn new(batch: &Bound<'_, PyAny>, run: String, event_time_now: bool) -> PyResult<Workload> {
        let rows = Transactions::new(&import(batch)?, run, event_time_now).map_err(PyValueError::new_err)?;
        Ok(Workload(Arc::new(rows)))
    }

    fn __len__(&self) -> usize {
        self.0.event_time_ns.len()
    }

    /// The ScoreRequest number `number`, sent at `wall_ns`.
    fn request<'py>(&self, py: Python<'py>, number: u64, wall_ns: i64) -> Bound<'py, PyBytes> {
        let mut framed = BytesMut::new();
        self.0.encode(number, wall_ns, &mut Vec::new(), &mut framed);
        PyBytes::new(py, &framed[PREFIX_BYTES..])
    }
}

const PREFIX_BYTES: usize = 5;

impl Transactions {
    /// Err: what is wrong with the columns.
    pub fn new(columns: &StructArray, run: String, event_time_now: bool) -> Result<Transactions, String> {
        let event_time_ns = numbers(columns, "event_time")?;
        let amount_minor = numbers(columns, "amount_minor")?;
        let times = event_time_ns.values();
        let (Some(first), Some(last)) = (times.iter().min(), times.iter().max()) else {
            return Err("there are no rows to send".into());
        };
        let span_ns = last.saturating_sub(*first).saturating_add(SECOND_NS);
        let mut texts = Vec::new();
        for (name, field) in TEXTS {
            if let Some(column) = columns.column_by_name(name) {
                let column = column.as_string_opt::<i32>().ok_or_else(|| format!("column {name} is not utf8"))?;
                texts.push((field << 3 | LENGTH_DELIMITED, column.clone()));
            }
        }
        Ok(Transactions { event_time_ns, amount_minor, texts, span_ns, run, event_time_now })
    }

    /// Append the ScoreRequest number `number` with its gRPC prefix; `scratch` is for reuse.
    pub fn encode(&self, number: u64, wall_ns: i64, scratch: &mut Vec<u8>, out: &mut BytesMut) {
        scratch.clear();
        self.encode_transaction(number, wall_ns, scratch);
        let request_bytes = 1 + varint_bytes(scratch.len() as u64) + scratch.len();
        out.reserve(PREFIX_BYTES + request_bytes);
        out.put_u8(0); // not compressed
        out.put_u32(request_bytes as u32);
        out.put_u8(1 << 3 | LENGTH_DELIMITED);
        put_varint(out, scratch.len() as u64);
        out.put_slice(scratch);
    }

    fn encode_transaction(&self, number: u64, wall_ns: i64, out: &mut Vec<u8>) {
        let rows = self.event_time_ns.len() as u64;
        let (row, cycle) = ((number % rows) as usize, (number / rows) as i64);
        self.put_id(number, out);
        put_time(out, if self.event_time_now { wall_ns } else { self.data_time(row, cycle) });
        let amount = self.amount_minor.value(row);
        if amount != 0 {
            out.put_u8(3 << 3);
            put_varint(out, amount as u64);
        }
        for (tag, column) in &self.texts {
            let text = if column.is_null(row) { "" } else { column.value(row) };
            if !text.is_empty() {
                out.put_u8(*tag);
                put_varint(out, text.len() as u64);
                out.put_slice(text.as_bytes());
            }
        }
    }

    fn data_time(&self, row: usize, cycle: i64) -> i64 {
        self.event_time_ns.value(row).saturating_add(self.span_ns.saturating_mul(cycle))
    }

    /// Field 1: `{run}-{number}`.
    fn put_id(&self, number: u64, out: &mut Vec<u8>) {
        let mut digits = [0; 20];
        let mut from = digits.len();
        let mut rest = number;
        while from == digits.len() || rest > 0 {
            from -= 1;
            digits[from] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        out.put_u8(1 << 3 | LENGTH_DELIMITED);
        put_varint(out, (self.run.len() + 1 + digits.len() - from) as u64);
        out.put_slice(self.run.as_bytes());
        out.put_u8(b'-');
        out.put_slice(&digits[from..]);
    }
}

/// Field 2: google.protobuf.Timestamp.
fn put_time(out: &mut Vec<u8>, time_ns: i64) {
    let (seconds, nanos) = (time_ns.div_euclid(SECOND_NS) as u64, time_ns.rem_euclid(SECOND_NS) as u64);
    let field_bytes = |value: u64| if value == 0 { 0 } else { 1 + varint_bytes(value) };
    out.put_u8(2 << 3 | LENGTH_DELIMITED);
    put_varint(out, (field_bytes(seconds) + field_bytes(nanos)) as u64);
    for (field, value) in [(1, seconds), (2, nanos)] {
        if value != 0 {
            out.put_u8(field << 3);
            put_varint(out, value);
        }
    }
}

fn varint_bytes(value: u64) -> usize {
    ((u64::BITS - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

fn put_varint(out: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// The columns of a RecordBatch, without copying them.
fn import(batch: &Bound<'_, PyAny>) -> PyResult<StructArray> {
    let (schema, array): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) =
        batch.call_method0("__arrow_c_array__")?.extract()?;
    let schema = schema.pointer_checked(Some(c"arrow_schema"))?.cast::<FFI_ArrowSchema>();
    let array = array.pointer_checked(Some(c"arrow_array"))?.cast::<FFI_ArrowArray>();
    // SAFETY: the capsules' names say what they point to; moving out of them marks what they hold as released.
    let (array, schema) =
        unsafe { (FFI_ArrowArray::from_raw(array.as_ptr()), FFI_ArrowSchema::from_raw(schema.as_ptr())) };
    // SAFETY: both come from one `__arrow_c_array__`, whose contract they keep.
    let data = unsafe { from_ffi(array, &schema) }.map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(StructArray::from(data))
}

fn numbers(columns: &StructArray, name: &str) -> Result<Int64Array, String> {
    let column = columns.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    match column {
        Some(column) if column.null_count() == 0 => Ok(column.clone()),
        _ => Err(format!("there is no int64 column {name} without nulls")),
    }
}
