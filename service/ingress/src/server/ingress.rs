//! What Python sees: an `Ingress` that it pulls batches from and pushes answers to.

use std::collections::HashMap;
use std::os::fd::RawFd;
use std::sync::{Arc, Mutex, PoisonError, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use tokio::sync::{mpsc, watch};

use super::calls;
use super::clock::{self, monotonic_ns};
use super::dispatch::Answered;
use super::front::{Entry, Front, Reply};
use super::ledger::{Ledger, Recorded};
use super::listener::{self, Listener};
use super::refusal::Refusal;
use super::settings::{Refusals, Settings};
use super::side::Event;
use super::thread::{self, Stop};
use crate::answer_rows::{AnswerRow, ROW_BYTES};
use crate::answers::Tails;
use crate::columns::Columns;
use crate::rows::Rows;

/// The `deadline_ns` of a row whose caller has gone.
const CANCELLED_NS: i64 = -1;

type Starting = (Listener, Option<tokio_rustls::TlsAcceptor>, Vec<mpsc::UnboundedReceiver<Answered>>);

/// A front end: listens, accepts, decodes, admits, batches and answers on threads of its own.
#[pyclass(frozen)]
pub struct Ingress {
    front: Arc<Front>,
    #[pyo3(get)]
    port: u16,
    stop: watch::Sender<Stop>,
    starting: Mutex<Option<Starting>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// A closed batch that Python has taken, with the replies it owes.
#[pyclass(frozen)]
pub struct Batch {
    #[pyo3(get)]
    columns: Py<Columns>,
    #[pyo3(get)]
    closed_ns: i64,
    #[pyo3(get)]
    idle_ns: i64,
    /// The `traceparent` of each row's call; empty where none has one.
    #[pyo3(get)]
    parents: Vec<Option<String>>,
    prefixes: Vec<Option<String>>,
    entries: Mutex<Option<Vec<Entry>>>,
}

#[pymethods]
impl Batch {
    /// The path of a row's Transaction in its request.
    fn prefix(&self, row: usize) -> &str {
        self.prefixes.get(row).and_then(Option::as_deref).unwrap_or("transaction")
    }
}

impl Batch {
    fn entries(&self) -> PyResult<Vec<Entry>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.take().ok_or_else(|| PyValueError::new_err("this batch was answered before"))
    }
}

#[pymethods]
impl Ingress {
    /// Bind the address; nothing is accepted before `start`. `recorded`: the cells of the recorder that are counted here.
    #[new]
    fn new(settings: Settings, refusals: Refusals, recorded: Recorded) -> PyResult<Self> {
        let tls = settings.tls.as_ref().map(listener::acceptor).transpose().map_err(PyValueError::new_err)?;
        let listener = Listener::bind(&settings.address)?;
        let port = listener.port()?;
        let (answered, answers) = (0..settings.threads.max(1)).map(|_| mpsc::unbounded_channel()).unzip();
        let ledger = Ledger::new(recorded, settings.budget_ns)?;
        let front = Arc::new(Front::new(settings, refusals, ledger, answered)?);
        let (stop, _) = watch::channel(Stop::Running);
        let starting = Mutex::new(Some((listener, tls, answers)));
        Ok(Self { front, port, stop, starting, threads: Mutex::default() })
    }

    /// Start to accept.
    fn start(&self) -> PyResult<()> {
        let starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let (listener, tls, answers) = starting.ok_or_else(|| PyRuntimeError::new_err("already started"))?;
        let threads = thread::start(self.front.clone(), listener, tls, answers, self.stop.subscribe())?;
        *self.threads.lock().unwrap_or_else(PoisonError::into_inner) = threads;
        Ok(())
    }

    /// The eventfd to watch: readable when there is something to take or to hear.
    fn fileno(&self) -> RawFd {
        self.front.bell.fd()
    }

    /// Make `fileno()` unreadable until it rings again.
    fn quiet(&self) {
        self.front.bell.quiet();
    }

    /// The oldest closed batch, or None; then the bell rings when there is one. `idle`: no batch is running.
    fn take(&self, py: Python<'_>, idle: bool) -> PyResult<Option<Batch>> {
        let Some(closed) = self.front.take(idle) else { return Ok(None) };
        let entries = closed.entries;
        let mut prefixes = Vec::new();
        let rows: Vec<_> = entries
            .iter()
            .map(|entry| {
                let cancelled = gone(&entry.reply);
                prefixes.push(match &entry.reply {
                    Reply::Unary(_) | Reply::Sent => None,
                    Reply::Row(slot) => Some(slot.prefix()),
                });
                (&entry.transaction, entry.arrival_ns, if cancelled { CANCELLED_NS } else { entry.deadline_ns })
            })
            .collect();
        let columns = Py::new(py, Columns::new(Rows::new(&rows)))?;
        let parents = if entries.iter().any(|entry| entry.parent.is_some()) {
            entries.iter().map(|entry| entry.parent.as_deref().map(str::to_owned)).collect()
        } else {
            Vec::new()
        };
        Ok(Some(Batch {
            columns,
            closed_ns: closed.closed_ns,
            idle_ns: closed.idle_ns,
            parents,
            prefixes,
            entries: Mutex::new(Some(entries)),
        }))
    }

    /// Answer a batch: `answers` are the bytes of its rows of ANSWER_DTYPE, `refusals` (row, refusal) in row order for the rows
    /// whose status is not OK. `tail(edition, bits)` gives (run id, encoded tail) of answers not seen before.
    fn answer(
        &self,
        batch: &Batch,
        answers: &[u8],
        refusals: Vec<(usize, Refusal)>,
        tail: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let rows = AnswerRow::read_all(answers)
            .ok_or_else(|| PyValueError::new_err("the answers are not rows of ANSWER_DTYPE"))?;
        self.learn_tails(&rows, tail)?;
        let owed = batch.prefixes.len();
        if rows.len() != owed {
            return Err(PyValueError::new_err(format!("{} answers for {owed} rows", rows.len()))); // and `fail` may follow
        }
        let entries = batch.entries()?;
        self.finish(Answered { entries, rows, refusals, handed_ns: monotonic_ns() })
    }

    /// Give a batch up: every row ends INTERNAL.
    fn fail(&self, batch: &Batch) -> PyResult<()> {
        let entries = batch.entries()?;
        let refusals = (0..entries.len()).map(|row| (row, self.front.refusals.internal.clone())).collect();
        let rows = vec![AnswerRow::read(&[0; ROW_BYTES]); entries.len()];
        self.finish(Answered { entries, rows, refusals, handed_ns: monotonic_ns() })
    }

    /// Transactions that wait for a batch or in one.
    #[getter]
    fn rows(&self) -> usize {
        self.front.queue().batcher.rows()
    }

    /// How long one batch runs, nanoseconds: set by the warm-up, then a moving average.
    #[getter]
    fn batch_ns(&self) -> i64 {
        self.front.queue().admission.batch_ns()
    }

    #[setter]
    fn set_batch_ns(&self, batch_ns: i64) {
        self.front.queue().admission.set_batch_ns(batch_ns);
    }

    /// How long a row that arrives now is expected to wait for its answer, nanoseconds.
    #[getter]
    fn wait_ns(&self) -> i64 {
        let queue = self.front.queue();
        queue.admission.wait_ns(&queue.batcher, monotonic_ns())
    }

    /// Open connections.
    #[getter]
    fn connections(&self) -> usize {
        self.front.connections()
    }

    /// Refuse every call from now on.
    fn close(&self) {
        self.front.close();
    }

    /// Draw the boundary of the open batch now: the drain uses it, after which nothing is added.
    fn close_open(&self) {
        self.front.queue().batcher.close_open(monotonic_ns());
    }

    /// Read no stream any further; each finishes what was read and ends UNAVAILABLE.
    fn end_streams(&self) {
        self.front.streams_end.send_replace(true);
    }

    /// Counts by name, since the start.
    fn counts(&self) -> HashMap<&'static str, u64> {
        self.front.counts.named().collect()
    }

    /// By method of the port: its name, calls begun, calls ended by code 0 to 16; since the start.
    fn calls(&self) -> Vec<(&'static str, u64, [u64; calls::CODES])> {
        self.front.calls.named().collect()
    }

    /// Stop: no new connections, and the open ones get `patience_seconds` for their calls. Waits for the threads.
    fn stop(&self, py: Python<'_>, patience_seconds: f64) -> PyResult<()> {
        let patience =
            Duration::try_from_secs_f64(patience_seconds).map_err(|error| PyValueError::new_err(error.to_string()))?;
        self.stop.send_replace(Stop::Within(patience));
        py.detach(|| self.join())
            .then_some(())
            .ok_or_else(|| PyRuntimeError::new_err("a thread of the front end had panicked"))
    }

    /// What happened on the side calls: (call, "open" | "message" | "half_close" | "gone", path or message).
    fn side_events<'py>(&self, py: Python<'py>) -> Vec<(u64, &'static str, Bound<'py, PyAny>)> {
        let told = |event: Event| match event {
            Event::Opened(call, path) => (call, "open", PyString::new(py, &path).into_any()),
            Event::Message(call, body) => (call, "message", PyBytes::new(py, &body).into_any()),
            Event::HalfClosed(call) => (call, "half_close", PyBytes::new(py, b"").into_any()),
            Event::Gone(call) => (call, "gone", PyBytes::new(py, b"").into_any()),
        };
        self.front.side.events(&self.front.bell).into_iter().map(told).collect()
    }

    /// Send a message on a side call.
    fn side_send(&self, call: u64, body: &[u8]) {
        self.front.side.send(call, body);
    }

    /// End a side call; without a refusal it ends OK.
    #[pyo3(signature = (call, refusal=None))]
    fn side_end(&self, call: u64, refusal: Option<Refusal>) {
        self.front.side.end(call, refusal);
    }
}

impl Ingress {
    fn finish(&self, answered: Answered) -> PyResult<()> {
        self.front.finished();
        let threads = &self.front.answered;
        let parts = if threads.len() == 1 { vec![answered] } else { answered.by_thread(threads.len()) };
        let parts = threads.iter().zip(parts).filter(|(_, part)| !part.entries.is_empty());
        let ended = parts.filter_map(|(thread, part)| thread.send(part).err()).count();
        if ended == 0 { Ok(()) } else { Err(PyRuntimeError::new_err("the front end's thread has ended")) }
    }

    /// Wait for the threads. False: one had panicked.
    fn join(&self) -> bool {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        threads.into_iter().map(JoinHandle::join).filter(Result::is_err).count() == 0
    }

    /// Ask Python for the tails that these rows need and that were not seen before.
    fn learn_tails(&self, rows: &[AnswerRow], tail: &Bound<'_, PyAny>) -> PyResult<()> {
        if !self.front.tails.read().unwrap_or_else(PoisonError::into_inner).lacks(rows) {
            return Ok(()); // nearly always; and the IO thread may be rendering meanwhile
        }
        let missing = self.tails().missing(rows);
        for (edition, bits) in missing {
            let (run_id, tail): (String, Vec<u8>) = tail.call1((edition, bits))?.extract()?;
            self.tails().put(edition, bits, &run_id, tail.into());
        }
        Ok(())
    }

    fn tails(&self) -> RwLockWriteGuard<'_, Tails> {
        self.front.tails.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.stop.send_replace(Stop::Within(Duration::ZERO));
        self.join(); // they take no interpreter lock, so that waiting with ours is safe
    }
}

/// Put the front end's clock ahead of the system's, for tests.
#[pyfunction]
fn set_clock_ahead_ns(ahead_ns: i64) {
    clock::set_ahead_ns(ahead_ns);
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Ingress>()?;
    module.add_class::<Batch>()?;
    module.add_function(wrap_pyfunction!(set_clock_ahead_ns, module)?)
}

fn gone(reply: &Reply) -> bool {
    match reply {
        Reply::Unary(call) => call.gone(),
        Reply::Row(slot) => slot.cancelled(),
        Reply::Sent => true,
    }
}
