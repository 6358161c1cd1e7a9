//! `fraudgate load`: an open-loop load generator that is not the bottleneck.
//!
//! A run has a thread of its own, which never takes the interpreter lock. Latency counts from the instant at which a
//! call was *meant* to be sent, so that a server which makes calls wait cannot hide it.

mod arrivals;
mod call;
mod connection;
mod generator;
mod rationed;
mod tally;
#[cfg(test)]
mod tests;
mod timer;
mod transactions;

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::exceptions::{PyConnectionError, PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyDict;

use arrivals::Arrivals;
use connection::Dialler;
use generator::Generator;
use tally::{Histogram, Tally};
use transactions::{Transactions, Workload};

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Load>()?;
    module.add_class::<Workload>()?;
    module.add_function(wrap_pyfunction!(arrivals::arrivals, module)?)
}

/// How calls are paced.
pub enum Pace {
    /// At these times, whatever the server does.
    Open(Arrivals),
    /// As soon as one of so many has ended.
    Closed(usize),
}

/// What a run is asked to do.
pub struct Plan {
    pub dialler: Dialler,
    pub connections: usize,
    pub pace: Pace,
    pub duration_ns: i64,
    /// How long to wait for answers after the end.
    pub grace_ns: i64,
}

/// What other threads may see and say while a run goes on.
#[derive(Default)]
pub struct Shared {
    pub answered: AtomicU64,
    /// 0 = go on, 1 = send no more and wait for answers, 2 = end at once.
    pub stop: AtomicU8,
}

/// What a run leaves behind.
struct Outcome {
    tally: Tally,
    /// When the first call was meant to be sent, and when the last might have been, on the wall clock.
    started_wall_ns: i64,
    start_ns: i64,
    end_ns: i64,
    cpu_ns: i64,
}

enum State {
    Ready(Box<Plan>),
    Running,
    Over(Result<Box<Outcome>, String>),
}

/// One run: `start()`, `wait()` until it is over, `result()`.
#[pyclass(frozen, module = "fraudgate_ingress")]
struct Load {
    workload: Py<Workload>,
    shared: Arc<Shared>,
    place: Arc<Place>,
}

/// Where the run stands, and a bell for its end.
struct Place {
    state: Mutex<State>,
    over: Condvar,
}

impl Place {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Load {
    #[new]
    #[pyo3(signature = (target, workload, *, duration_ns, arrivals=None, rate=None, seed=0, concurrency=None,
        connections=4, path="/fraudgate.v1.ScoringService/Score", timeout_ns=None, grace_ns=5_000_000_000, tls_ca=None))]
    #[allow(clippy::too_many_arguments)] // keywords, all but two
    fn new(
        target: &str,
        workload: Py<Workload>,
        duration_ns: i64,
        arrivals: Option<&str>,
        rate: Option<f64>,
        seed: u64,
        concurrency: Option<usize>,
        connections: usize,
        path: &str,
        timeout_ns: Option<i64>,
        grace_ns: i64,
        tls_ca: Option<&[u8]>,
    ) -> PyResult<Load> {
        let pace = match (rate, concurrency) {
            (Some(rate), None) => Pace::Open(arrivals::checked(arrivals.unwrap_or("poisson"), rate, seed)?),
            (None, Some(concurrency)) if concurrency > 0 => Pace::Closed(concurrency),
            _ => return Err(PyValueError::new_err("a run has either a rate or a concurrency")),
        };
        if connections == 0 || duration_ns <= 0 || grace_ns < 0 || timeout_ns.is_some_and(|ns| ns <= 0) {
            return Err(PyValueError::new_err("connections, duration and timeout have to be more than 0"));
        }
        let dialler = Dialler::new(target, path, tls_ca, timeout_ns).map_err(PyValueError::new_err)?;
        let plan = Box::new(Plan { dialler, connections, pace, duration_ns, grace_ns });
        let place = Place { state: Mutex::new(State::Ready(plan)), over: Condvar::new() };
        Ok(Load { workload, shared: Arc::default(), place: Arc::new(place) })
    }

    /// Begin; returns at once.
    fn start(&self) -> PyResult<()> {
        let transactions = self.workload.get().0.clone();
        let (shared, place) = (self.shared.clone(), self.place.clone());
        let plan = match std::mem::replace(&mut *self.place.lock(), State::Running) {
            State::Ready(plan) => *plan,
            _ => return Err(PyRuntimeError::new_err("a run starts once")),
        };
        let body = move || {
            let outcome = catch_unwind(AssertUnwindSafe(|| run(plan, transactions, shared)))
                .unwrap_or_else(|_| Err("the load generator has failed; its panic is on standard error".into()));
            *place.lock() = State::Over(outcome.map(Box::new));
            place.over.notify_all();
        };
        std::thread::Builder::new().name("fraudgate-load".into()).spawn(body)?;
        Ok(())
    }

    /// Wait for the end, at most so long; true if the run is over.
    fn wait(&self, py: Python<'_>, seconds: f64) -> bool {
        let patience = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        py.detach(|| {
            let running = |state: &mut State| !matches!(state, State::Over(_));
            let waited = self.place.over.wait_timeout_while(self.place.lock(), patience, running);
            matches!(*waited.unwrap_or_else(PoisonError::into_inner).0, State::Over(_))
        })
    }

    /// Send no more calls, and wait for answers; asked a second time, end at once.
    fn stop(&self) {
        self.shared.stop.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |stop| Some((stop + 1).min(2))).ok();
    }

    /// Calls that have ended with a status so far.
    #[getter]
    fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// What the run has counted. Raises ConnectionError when the server could not be reached.
    fn result<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        match &*self.place.lock() {
            State::Over(Ok(outcome)) => describe(py, outcome),
            State::Over(Err(error)) => Err(PyConnectionError::new_err(error.clone())),
            _ => Err(PyRuntimeError::new_err("the run is not over")),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(2, Ordering::Relaxed);
    }
}

fn run(plan: Plan, transactions: Arc<Transactions>, shared: Arc<Shared>) -> Result<Outcome, String> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut generator = Generator::connect(plan, transactions, shared).await?;
        let started_wall_ns = timer::wall_ns();
        let cpu_ns = timer::thread_cpu_ns();
        tokio::task::unconstrained(poll_fn(|cx| generator.wake(cx))).await?;
        let cpu_ns = timer::thread_cpu_ns() - cpu_ns;
        let (start_ns, end_ns) = generator.span_ns();
        Ok(Outcome { tally: generator.tally, started_wall_ns, start_ns, end_ns, cpu_ns })
    })
}

fn describe<'py>(py: Python<'py>, outcome: &Outcome) -> PyResult<Bound<'py, PyDict>> {
    let tally = &outcome.tally;
    let form = PyDict::new(py);
    form.set_item("started_wall_ns", outcome.started_wall_ns)?;
    form.set_item("sending_ns", outcome.end_ns - outcome.start_ns)?;
    form.set_item("answering_ns", tally.last_end_ns - outcome.start_ns)?;
    form.set_item("cpu_ns", outcome.cpu_ns)?;
    form.set_item("sent", tally.sent)?;
    form.set_item("in_flight_max", tally.in_flight_max)?;
    form.set_item("answered", tally.answered)?;
    form.set_item("replayed", tally.replayed)?;
    form.set_item("statuses", tally.statuses.to_vec())?;
    form.set_item("decisions", tally.decisions.to_vec())?;
    form.set_item("fallbacks", tally.fallbacks.to_vec())?;
    form.set_item("lost", tally.lost.clone())?;
    for (name, histogram) in
        [("decided", &tally.decided), ("refused", &tally.refused), ("lag", &tally.lag), ("held", &tally.held)]
    {
        form.set_item(name, spread(histogram))?;
    }
    Ok(form)
}

/// (cells, counts, the largest value)
fn spread(histogram: &Histogram) -> (Vec<i64>, Vec<i64>, i64) {
    let (cells, counts) = histogram.filled().into_iter().unzip();
    (cells, counts, histogram.max_ns)
}
