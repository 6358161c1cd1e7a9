//! What Python configures once, before the front end listens.

use bytes::Bytes;
use pyo3::prelude::*;

use super::counts::Counted;
use super::refusal::Refusal;

/// Limits and addresses. Times are nanoseconds.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct Settings {
    /// `HOST:PORT`, or `unix:PATH`.
    pub address: String,
    /// Of IO, at least one.
    pub threads: usize,
    pub gate_ns: i64,
    pub batch_rows_max: usize,
    pub queue_rows_max: usize,
    pub eager: bool,
    /// 0 = none.
    pub budget_ns: i64,
    /// The parts of it that rows of high, normal and low priority may use.
    pub allowances_ns: [i64; 3],
    /// A caller unheard of for twice as long lends its share.
    pub active_ns: i64,
    /// The first is whoever shows no token.
    pub callers: Vec<Caller>,
    pub callers_required: bool,
    /// Of one connection.
    pub refusals_per_second_max: u32,
    /// A decision that takes longer is late, whether or not `budget_ns` refuses such.
    pub late_ns: i64,
    pub message_bytes_max: usize,
    pub score_batch_rows_max: usize,
    pub stream_unanswered_max: usize,
    /// Concurrent streams of one connection.
    pub streams_max: u32,
    pub connections_max: usize,
    pub header_list_bytes_max: u32,
    /// Streams of one connection that may be reset, beyond those that may be open, before it is closed: rapid resets.
    pub reset_streams_max: usize,
    pub handshake_ns_max: i64,
    /// From a call's headers to the end of its message.
    pub message_ns_max: i64,
    pub keepalive_ns: i64,
    pub keepalive_ns_max: i64,
    /// How long a peer may leave its answers unread while they do not fit in the socket.
    pub write_stall_ns_max: i64,
    pub tls: Option<Tls>,
    /// Somebody wants to know of each row which trace it belongs to.
    pub traced: bool,
    /// Answer every Score() with these bytes as soon as it is decoded: what the transport alone costs.
    pub echo: Option<Vec<u8>>,
}

/// One caller, see `fraudgate.frontend.callers.Known`.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct Caller {
    pub token_sha256: Vec<u8>,
    pub priority: usize,
    pub share: i64,
    pub may: u8,
}

/// PEM texts.
#[derive(Clone, FromPyObject)]
#[pyo3(from_item_all)]
pub struct Tls {
    pub cert: Vec<u8>,
    pub key: Vec<u8>,
    pub client_ca: Option<Vec<u8>>,
}

/// The contract's table, as far as the door needs it; worded in Python.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Refusals {
    pub deadline: Refusal,
    pub draining: Refusal,
    pub internal: Refusal,
    pub undecodable: Refusal,
    pub missing: Refusal,
    /// A ScoreBatch with no row or too many.
    pub rows: Refusal,
    pub unauthenticated: Refusal,
    pub not_allowed: Refusal,
    pub retry_steps_ns: Vec<i64>,
    pub delayed: Delayed,
}

/// RESOURCE_EXHAUSTED, by the step of its RetryInfo.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct Delayed {
    #[pyo3(from_py_with = lasting)]
    pub queue_full: Vec<Refusal>,
    #[pyo3(from_py_with = lasting)]
    pub budget: Vec<Refusal>,
    #[pyo3(from_py_with = lasting)]
    pub overload: Vec<Refusal>,
    #[pyo3(from_py_with = lasting)]
    pub priority: Vec<Refusal>,
    #[pyo3(from_py_with = lasting)]
    pub fairness: Vec<Refusal>,
}

fn lasting(form: &Bound<'_, PyAny>) -> PyResult<Vec<Refusal>> {
    Ok(form.extract::<Vec<Refusal>>()?.into_iter().map(Refusal::lasting).collect())
}

impl Refusals {
    /// What ends a call that is counted as `counted`, to be tried again after `retry_ns` or a little more.
    pub fn of(&self, counted: Counted, retry_ns: i64) -> &Refusal {
        let delayed = match counted {
            Counted::Unavailable => return &self.draining,
            Counted::Deadline => return &self.deadline,
            Counted::Unauthenticated => return &self.unauthenticated,
            Counted::NotAllowed => return &self.not_allowed,
            Counted::QueueFull => &self.delayed.queue_full,
            Counted::Budget => &self.delayed.budget,
            Counted::Overload => &self.delayed.overload,
            Counted::Priority => &self.delayed.priority,
            Counted::Fairness => &self.delayed.fairness,
            _ => return &self.internal,
        };
        let step = self.retry_steps_ns.partition_point(|step_ns| *step_ns < retry_ns);
        delayed.get(step).or(delayed.last()).unwrap_or(&self.internal)
    }
}

/// (code, message, encoded google.rpc.Status, whether that has details)
impl<'a, 'py> FromPyObject<'a, 'py> for Refusal {
    type Error = PyErr;

    fn extract(form: Borrowed<'a, 'py, PyAny>) -> PyResult<Self> {
        let (code, message, status, detailed): (u32, String, Vec<u8>, bool) = form.extract()?;
        Ok(Self::new(code, message, Bytes::from(status), detailed))
    }
}
