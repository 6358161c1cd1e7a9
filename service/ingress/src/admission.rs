//! Admission, as ``fraudgate.batching.admission`` has it, which says what the rules are. It does no IO and reads no
//! clock.

use std::collections::VecDeque;

use pyo3::prelude::*;

use crate::batcher::{Ahead, Batcher, Policy};

const DEVIATIONS: i64 = 2;
const HIGH_NORMAL_LOW: usize = 3;
const NORMAL: usize = 1;

/// Why a row is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Deadline,
    Overload,
    Budget,
    Priority,
    Fairness,
}

/// Why a row is refused, and after how many nanoseconds there is room again, as far as can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub reason: Reason,
    pub retry_ns: i64,
}

/// What admission decides by. Callers are numbered; 0 is whoever shows no token.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// 0 = none.
    pub budget_ns: i64,
    /// By priority, high first.
    pub allowances_ns: [i64; HIGH_NORMAL_LOW],
    /// By caller.
    pub priorities: Vec<usize>,
    /// By caller, at least 1.
    pub weights: Vec<i64>,
    pub active_ns: i64,
}

/// The rules, over the batcher that they are called with: always the same one.
#[derive(Debug)]
pub struct Admission {
    bounds: Bounds,
    /// How long one batch takes: a moving average.
    batch_ns: i64,
    /// Its mean deviation.
    deviation_ns: i64,
    /// How late the IO thread comes: to a call that has arrived, and again to its answer. A moving average.
    lag_ns: i64,
    /// Rows in the batcher, by caller.
    waiting: Vec<i64>,
    /// Boundaries of the batches in flight.
    running: VecDeque<i64>,
    finished_ns: i64,
    shares: Shares,
}

impl Admission {
    /// None unless every caller has a weight of 1 or more and a priority.
    pub fn new(bounds: Bounds) -> Option<Self> {
        let sound = bounds.priorities.len() == bounds.weights.len()
            && bounds.priorities.iter().all(|priority| *priority < HIGH_NORMAL_LOW)
            && bounds.weights.iter().all(|weight| *weight >= 1)
            && bounds.active_ns >= 1;
        sound.then(|| Self {
            batch_ns: 0,
            deviation_ns: 0,
            lag_ns: 0,
            waiting: vec![0; bounds.weights.len()],
            running: VecDeque::new(),
            finished_ns: 0,
            shares: Shares::new(bounds.weights.len()),
            bounds,
        })
    }

    pub fn batch_ns(&self) -> i64 {
        self.batch_ns
    }

    /// What a batch takes, as the warm-up found it.
    pub fn set_batch_ns(&mut self, batch_ns: i64) {
        (self.batch_ns, self.deviation_ns) = (batch_ns, 0);
    }

    /// Batches that were taken and are not answered.
    pub fn in_flight(&self) -> usize {
        self.running.len()
    }

    /// How long a row that arrives now is expected to wait for its answer.
    pub fn wait_ns<E>(&self, batcher: &Batcher<E>, now_ns: i64) -> i64 {
        self.waits_ns(batcher.ahead(now_ns), now_ns).1
    }

    /// Why a row of this caller cannot be admitted now. ``deadline_ns``: 0 = none.
    pub fn refuse<E>(&mut self, batcher: &Batcher<E>, now_ns: i64, deadline_ns: i64, caller: usize) -> Option<Verdict> {
        let active_weight = self.shares.heard(&self.bounds, caller, now_ns);
        let (alone_ns, wait_ns) = self.waits_ns(batcher.ahead(now_ns), now_ns);
        let verdict = late(now_ns, deadline_ns, alone_ns, wait_ns).or_else(|| self.spent(caller, alone_ns, wait_ns));
        if verdict.is_none() {
            return self.unfair(batcher, caller, active_weight);
        }
        if batcher.rows() == 0 && self.running.is_empty() {
            // No batch runs that could correct it: a stall long over would shut the door for good.
            self.batch_ns = self.batch_ns.div_euclid(2);
            self.deviation_ns = self.deviation_ns.div_euclid(2);
            self.lag_ns = self.lag_ns.div_euclid(2);
        }
        verdict
    }

    /// A row of this caller was added to the batcher.
    pub fn admitted(&mut self, caller: usize) {
        self.waiting[caller] += 1;
    }

    /// A batch left the batcher, with rows of these callers; it now runs.
    pub fn taken(&mut self, closed_ns: i64, callers: impl Iterator<Item = usize>) {
        self.running.push_back(closed_ns);
        for caller in callers {
            self.waiting[caller] -= 1;
        }
    }

    /// The first batch that was taken is answered.
    pub fn finished(&mut self, now_ns: i64) {
        let Some(closed_ns) = self.running.pop_front() else { return };
        let took_ns = (now_ns - closed_ns.max(self.finished_ns)).max(0);
        self.finished_ns = now_ns;
        let error_ns = took_ns - self.batch_ns;
        self.batch_ns += error_ns.div_euclid(8);
        self.deviation_ns += (error_ns.abs() - self.deviation_ns).div_euclid(4);
    }

    /// The IO thread came so late to a batch that was answered.
    pub fn lagged(&mut self, lag_ns: i64) {
        self.lag_ns += (lag_ns - self.lag_ns).div_euclid(4);
    }

    /// Until a row that arrives now is answered: if it were alone, and as it is.
    fn waits_ns(&self, ahead: Ahead, now_ns: i64) -> (i64, i64) {
        let batch_ns = self.batch_ns + DEVIATIONS * self.deviation_ns + 2 * self.lag_ns;
        let alone_ns = ahead.gate_ns.saturating_add(batch_ns);
        let unfinished = self.running.len() + ahead.batches;
        if unfinished == 0 {
            return (alone_ns, alone_ns);
        }
        let first_ns = self.running.front().copied().unwrap_or(ahead.closed_ns);
        let elapsed_ns = (now_ns - first_ns.max(self.finished_ns)).max(0);
        let busy_ns = (self.batch_ns - elapsed_ns).abs() + (unfinished as i64 - 1) * self.batch_ns;
        (alone_ns, ahead.gate_ns.max(busy_ns).saturating_add(batch_ns))
    }

    fn allowance_ns(&self, caller: usize) -> i64 {
        self.bounds.allowances_ns[self.bounds.priorities[caller]]
    }

    fn spent(&self, caller: usize, alone_ns: i64, wait_ns: i64) -> Option<Verdict> {
        let budget_ns = self.bounds.budget_ns;
        if budget_ns == 0 {
            return None;
        }
        if alone_ns > budget_ns {
            return Some(Verdict { reason: Reason::Budget, retry_ns: alone_ns - budget_ns });
        }
        let allowance_ns = self.allowance_ns(caller);
        if wait_ns <= allowance_ns.max(alone_ns) {
            return None;
        }
        let normal = wait_ns <= self.bounds.allowances_ns[NORMAL];
        let reason = if normal { Reason::Priority } else { Reason::Budget };
        Some(Verdict { reason, retry_ns: wait_ns - allowance_ns })
    }

    fn unfair<E>(&self, batcher: &Batcher<E>, caller: usize, active_weight: i64) -> Option<Verdict> {
        let (rows, weight, waiting) = (batcher.rows() as i64, self.bounds.weights[caller], self.waiting[caller]);
        let bound = self.rows_in_time(batcher, caller);
        if active_weight == weight || rows * 2 <= bound || waiting * active_weight < weight * bound {
            return None;
        }
        let rows_over = (rows - bound / 2).min(waiting - weight * bound / active_weight);
        let batches = rows_over / batcher.batch_rows_max() as i64 + 1;
        Some(Verdict { reason: Reason::Fairness, retry_ns: batches * self.batch_ns })
    }

    /// Rows that can wait and all be answered within the caller's part of the budget.
    fn rows_in_time<E>(&self, batcher: &Batcher<E>, caller: usize) -> i64 {
        let rows_max = batcher.queue_rows_max() as i64;
        if self.bounds.budget_ns == 0 {
            return rows_max;
        }
        let batches = self.allowance_ns(caller) / self.batch_ns.max(1);
        (batches - 1).max(1).saturating_mul(batcher.batch_rows_max() as i64).min(rows_max)
    }
}

fn late(now_ns: i64, deadline_ns: i64, alone_ns: i64, wait_ns: i64) -> Option<Verdict> {
    if deadline_ns == 0 || now_ns.saturating_add(wait_ns) <= deadline_ns {
        return None;
    }
    if now_ns.saturating_add(alone_ns) > deadline_ns {
        return Some(Verdict { reason: Reason::Deadline, retry_ns: 0 });
    }
    Some(Verdict { reason: Reason::Overload, retry_ns: now_ns.saturating_add(wait_ns) - deadline_ns })
}

/// The weight of all callers heard of in this period or the one before, kept up in O(1) an arrival.
#[derive(Debug)]
struct Shares {
    /// The last period in which each was.
    heard: Vec<i64>,
    period: i64,
    now_weight: i64,
    before_weight: i64,
}

impl Shares {
    fn new(callers: usize) -> Self {
        Self { heard: vec![-2; callers], period: 0, now_weight: 0, before_weight: 0 }
    }

    /// A row of this caller arrived. The weight of all that are active, this one among them.
    fn heard(&mut self, bounds: &Bounds, caller: usize, now_ns: i64) -> i64 {
        let period = now_ns.div_euclid(bounds.active_ns).max(self.period);
        if period > self.period {
            self.before_weight = if period == self.period + 1 { self.now_weight } else { 0 };
            (self.now_weight, self.period) = (0, period);
        }
        let weight = bounds.weights[caller];
        if self.heard[caller] < period {
            if self.heard[caller] == period - 1 {
                self.before_weight -= weight;
            }
            self.now_weight += weight;
            self.heard[caller] = period;
        }
        self.now_weight + self.before_weight
    }
}

/// Admission over a batcher of caller numbers, for the test that holds it to the Python one.
#[pyclass(name = "Admission", module = "fraudgate_ingress")]
struct CallersAdmission {
    admission: Admission,
    batcher: Batcher<usize>,
}

#[pymethods]
impl CallersAdmission {
    #[new]
    #[allow(clippy::too_many_arguments)] // two plain tuples of settings, taken apart
    fn new(
        budget_ns: i64,
        allowances_ns: [i64; HIGH_NORMAL_LOW],
        priorities: Vec<usize>,
        weights: Vec<i64>,
        active_ns: i64,
        gate_ns: i64,
        batch_rows_max: usize,
        queue_rows_max: usize,
        eager: bool,
    ) -> PyResult<Self> {
        let policy = if eager { Policy::Eager } else { Policy::Fixed };
        let batcher = Batcher::new(gate_ns, batch_rows_max, queue_rows_max, policy);
        let admission = Admission::new(Bounds { budget_ns, allowances_ns, priorities, weights, active_ns });
        match (batcher, admission) {
            (Ok(batcher), Some(admission)) => Ok(Self { admission, batcher }),
            _ => Err(pyo3::exceptions::PyValueError::new_err("these bounds do not fit together")),
        }
    }

    #[getter]
    fn batch_ns(&self) -> i64 {
        self.admission.batch_ns
    }

    #[setter]
    fn set_batch_ns(&mut self, batch_ns: i64) {
        self.admission.set_batch_ns(batch_ns);
    }

    #[getter]
    fn deviation_ns(&self) -> i64 {
        self.admission.deviation_ns
    }

    #[getter]
    fn lag_ns(&self) -> i64 {
        self.admission.lag_ns
    }

    #[getter]
    fn waiting(&self) -> Vec<i64> {
        self.admission.waiting.clone()
    }

    fn wait_ns(&self, now_ns: i64) -> i64 {
        self.admission.wait_ns(&self.batcher, now_ns)
    }

    /// A row arrives: why it is refused, or None when it was admitted.
    fn arrive(&mut self, now_ns: i64, deadline_ns: i64, caller: usize) -> Option<(&'static str, i64)> {
        if let Some(verdict) = self.admission.refuse(&self.batcher, now_ns, deadline_ns, caller) {
            return Some((verdict.reason.name(), verdict.retry_ns));
        }
        if self.batcher.add(caller, now_ns).is_err() {
            return Some(("queue_full", self.admission.batch_ns));
        }
        self.admission.admitted(caller);
        None
    }

    /// Take a batch: the callers of its rows, or None.
    fn take(&mut self, now_ns: i64, idle: bool) -> Option<Vec<usize>> {
        let closed = self.batcher.poll(now_ns, idle)?;
        self.admission.taken(closed.closed_ns, closed.entries.iter().copied());
        Some(closed.entries)
    }

    fn finished(&mut self, now_ns: i64) {
        self.admission.finished(now_ns);
    }

    fn lagged(&mut self, lag_ns: i64) {
        self.admission.lagged(lag_ns);
    }
}

impl Reason {
    fn name(self) -> &'static str {
        match self {
            Reason::Deadline => "deadline",
            Reason::Overload => "overload",
            Reason::Budget => "budget",
            Reason::Priority => "priority",
            Reason::Fairness => "fairness",
        }
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<CallersAdmission>()
}
