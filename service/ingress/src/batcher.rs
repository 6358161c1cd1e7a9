//! The dynamic batcher, as ``fraudgate.batching.batcher`` has it. It does no IO and reads no clock.
//!
//! Latency contract: an entry waits in the open batch for at most ``gate_ns``, and for less when the batch fills.
//! Boundaries are a pure function of the arrival order and the stamps, whenever and however one polls.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// Which instants close a batch that is not full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// ``gate_ns`` after its first entry arrived.
    Fixed,
    /// Also as soon as the engine is idle.
    Eager,
}

impl FromStr for Policy {
    type Err = Unbatchable;

    fn from_str(name: &str) -> Result<Self, Unbatchable> {
        match name {
            "fixed" => Ok(Self::Fixed),
            "eager" => Ok(Self::Eager),
            _ => Err(Unbatchable("the policy is fixed or eager")),
        }
    }
}

/// Sizes that no batcher can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unbatchable(&'static str);

impl fmt::Display for Unbatchable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)
    }
}

impl std::error::Error for Unbatchable {}

/// Entries in arrival order, 1..batch_rows_max of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed<E> {
    pub entries: Vec<E>,
    /// The instant the boundary was drawn at, a function of stamps alone: the last entry's stamp when the batch filled,
    /// the gate when the gate closed it, the idle instant under ``Eager``.
    pub closed_ns: i64,
    /// The instant the engine fell idle, when that closed the batch; else 0. Part of the log.
    pub idle_ns: i64,
}

/// What an entry that arrives now would find before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ahead {
    /// From now until the batch closes that it would join: 0 when it fills it, or under ``Eager``.
    pub gate_ns: i64,
    /// Closed batches, and an open one whose gate has passed.
    pub batches: usize,
    /// The boundary of the first of them; 0 when there is none.
    pub closed_ns: i64,
}

/// Collects entries into batches of at most ``batch_rows_max``.
#[derive(Debug)]
pub struct Batcher<E> {
    gate_ns: i64,
    batch_rows_max: usize,
    queue_rows_max: usize,
    policy: Policy,
    rows: usize,
    drops: u64,
    open: Vec<E>,
    closed: VecDeque<Closed<E>>,
    gate_at_ns: i64,
    last_ns: i64,
}

impl<E> Batcher<E> {
    /// ``gate_ns`` >= 1 and 1 <= ``batch_rows_max`` <= ``queue_rows_max``.
    pub fn new(
        gate_ns: i64,
        batch_rows_max: usize,
        queue_rows_max: usize,
        policy: Policy,
    ) -> Result<Self, Unbatchable> {
        if gate_ns < 1 || batch_rows_max < 1 || batch_rows_max > queue_rows_max {
            return Err(Unbatchable("need gate_ns >= 1 and 1 <= batch_rows_max <= queue_rows_max"));
        }
        Ok(Self {
            gate_ns,
            batch_rows_max,
            queue_rows_max,
            policy,
            rows: 0,
            drops: 0,
            open: Vec::new(),
            closed: VecDeque::new(),
            gate_at_ns: 0,
            last_ns: 0,
        })
    }

    /// Entries that wait: the open batch and the closed ones not yet polled.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether `add` would give an entry back.
    pub fn is_full(&self) -> bool {
        self.rows >= self.queue_rows_max
    }

    pub fn batch_rows_max(&self) -> usize {
        self.batch_rows_max
    }

    pub fn queue_rows_max(&self) -> usize {
        self.queue_rows_max
    }

    /// What an entry stamped ``now_ns`` would find. Changes nothing.
    pub fn ahead(&self, now_ns: i64) -> Ahead {
        let now_ns = now_ns.max(self.last_ns);
        let first = self.closed.front().map(|batch| batch.closed_ns);
        let left_ns = (!self.open.is_empty()).then(|| self.gate_at_ns - now_ns);
        let (joined, gate_ns) = match left_ns {
            Some(left_ns) if left_ns > 0 => (self.open.len(), left_ns),
            _ => (0, self.gate_ns),
        };
        let passed = left_ns.is_some_and(|left_ns| left_ns <= 0);
        Ahead {
            gate_ns: if joined + 1 >= self.batch_rows_max || self.policy == Policy::Eager { 0 } else { gate_ns },
            batches: self.closed.len() + usize::from(passed),
            closed_ns: first.unwrap_or(if passed { self.gate_at_ns } else { 0 }),
        }
    }

    /// Entries refused because the queue was full.
    pub fn drops(&self) -> u64 {
        self.drops
    }

    /// Takes an entry stamped ``now_ns``; gives it back, counted, when ``queue_rows_max`` entries wait already.
    ///
    /// A stamp before an earlier one is raised to it: order decides, and stamps never decrease.
    pub fn add(&mut self, entry: E, now_ns: i64) -> Result<(), E> {
        if self.is_full() {
            self.drops += 1;
            return Err(entry);
        }
        let now_ns = now_ns.max(self.last_ns);
        self.last_ns = now_ns;
        if !self.open.is_empty() && now_ns >= self.gate_at_ns {
            self.close(self.gate_at_ns, 0);
        }
        if self.open.is_empty() {
            self.gate_at_ns = now_ns.saturating_add(self.gate_ns);
        }
        self.open.push(entry);
        self.rows += 1;
        if self.open.len() == self.batch_rows_max {
            self.close(now_ns, 0);
        }
        Ok(())
    }

    /// The oldest closed batch, or None. Call again until None.
    ///
    /// No entry that is added later may be stamped before ``now_ns``: one clock stamps and polls. ``idle``: the engine
    /// is idle at ``now_ns``; closes the open batch under ``Eager``.
    pub fn poll(&mut self, now_ns: i64, idle: bool) -> Option<Closed<E>> {
        if self.closed.is_empty() && !self.open.is_empty() {
            if now_ns >= self.gate_at_ns {
                self.close(self.gate_at_ns, 0);
            } else if idle && self.policy == Policy::Eager {
                self.last_ns = self.last_ns.max(now_ns);
                self.close(self.last_ns, self.last_ns);
            }
        }
        let batch = self.closed.pop_front()?;
        self.rows -= batch.entries.len();
        Some(batch)
    }

    /// When to poll next: at once (0) when a batch is closed, else the gate of the open one, else None.
    pub fn next_deadline_ns(&self) -> Option<i64> {
        if !self.closed.is_empty() { Some(0) } else { (!self.open.is_empty()).then_some(self.gate_at_ns) }
    }

    /// Draws the boundary now, whatever the gate says: the drain uses it, after which nothing is added.
    pub fn close_open(&mut self, now_ns: i64) {
        if !self.open.is_empty() {
            self.close(now_ns.max(self.last_ns), 0);
        }
    }

    fn close(&mut self, closed_ns: i64, idle_ns: i64) {
        let next = Vec::with_capacity(self.open.len()); // traffic is steady: as many as this time
        let entries = std::mem::replace(&mut self.open, next);
        self.closed.push_back(Closed { entries, closed_ns, idle_ns });
    }
}

/// The batcher over integers, for the test that holds it to the Python one.
#[pyclass(name = "Batcher", module = "fraudgate_ingress")]
struct IntegerBatcher(Batcher<i64>);

#[pymethods]
impl IntegerBatcher {
    #[new]
    #[pyo3(signature = (gate_ns, batch_rows_max, queue_rows_max, policy = "fixed"))]
    fn new(gate_ns: i64, batch_rows_max: usize, queue_rows_max: usize, policy: &str) -> PyResult<Self> {
        let batcher = policy.parse().and_then(|policy| Batcher::new(gate_ns, batch_rows_max, queue_rows_max, policy));
        batcher.map(Self).map_err(|unbatchable| PyValueError::new_err(unbatchable.to_string()))
    }

    #[getter]
    fn rows(&self) -> usize {
        self.0.rows()
    }

    #[getter]
    fn drops(&self) -> u64 {
        self.0.drops()
    }

    fn add(&mut self, entry: i64, now_ns: i64) -> bool {
        self.0.add(entry, now_ns).is_ok()
    }

    /// (entries, closed_ns, idle_ns) of the oldest closed batch, or None.
    #[pyo3(signature = (now_ns, idle = false))]
    fn poll(&mut self, now_ns: i64, idle: bool) -> Option<(Vec<i64>, i64, i64)> {
        self.0.poll(now_ns, idle).map(|batch| (batch.entries, batch.closed_ns, batch.idle_ns))
    }

    fn next_deadline_ns(&self) -> Option<i64> {
        self.0.next_deadline_ns()
    }

    fn close_open(&mut self, now_ns: i64) {
        self.0.close_open(now_ns);
    }
}

pub fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<IntegerBatcher>()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl<E> Batcher<E> {
        fn check(&self) {
            assert!(self.open.len() < self.batch_rows_max);
            assert!(self.closed.iter().all(|batch| (1..=self.batch_rows_max).contains(&batch.entries.len())));
            let closed: usize = self.closed.iter().map(|batch| batch.entries.len()).sum();
            assert_eq!(self.rows, self.open.len() + closed);
            assert!(self.rows <= self.queue_rows_max);
            assert!(self.open.is_empty() || self.last_ns < self.gate_at_ns);
        }
    }

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Add,
        Poll { idle: bool },
    }

    fn steps() -> impl Strategy<Value = Vec<(Step, i64)>> {
        let step = prop_oneof![
            3 => Just(Step::Add),
            1 => any::<bool>().prop_map(|idle| Step::Poll { idle }),
        ];
        let pause_ns = prop_oneof![Just(0), 0..4_i64, 0..26_i64];
        prop::collection::vec((step, pause_ns), 0..80)
    }

    /// Entries and boundary of every batch under the fixed gate, from the stamps alone.
    fn oracle(stamps_ns: &[i64], gate_ns: i64, batch_rows_max: usize) -> Vec<(Vec<usize>, i64)> {
        let mut batches: Vec<Vec<usize>> = Vec::new();
        for (entry, &stamp_ns) in stamps_ns.iter().enumerate() {
            match batches.last_mut() {
                Some(last) if last.len() < batch_rows_max && stamp_ns < stamps_ns[last[0]] + gate_ns => {
                    last.push(entry)
                }
                _ => batches.push(vec![entry]),
            }
        }
        let boundary = |batch: &[usize]| match batch {
            [.., last] if batch.len() == batch_rows_max => stamps_ns[*last],
            _ => stamps_ns[batch[0]] + gate_ns,
        };
        batches.iter().map(|batch| (batch.clone(), boundary(batch))).collect()
    }

    proptest! {
        #[test]
        fn boundaries_are_those_of_the_stamps(steps in steps(), gate_ns in 1..13_i64, batch_rows_max in 1..6_usize) {
            let mut batcher = Batcher::new(gate_ns, batch_rows_max, 10_000, Policy::Fixed).unwrap();
            let (mut now_ns, mut stamps_ns, mut batches) = (1_000, Vec::new(), Vec::new());
            for (step, pause_ns) in steps {
                now_ns += pause_ns;
                match step {
                    Step::Add => {
                        batcher.add(stamps_ns.len(), now_ns).unwrap();
                        stamps_ns.push(now_ns);
                    }
                    Step::Poll { idle } => batches.extend(batcher.poll(now_ns, idle)),
                }
                batcher.check();
            }
            batches.extend(std::iter::from_fn(|| batcher.poll(now_ns + gate_ns, false)));
            prop_assert!(batches.iter().all(|batch| batch.idle_ns == 0));
            let found: Vec<_> = batches.into_iter().map(|batch| (batch.entries, batch.closed_ns)).collect();
            prop_assert_eq!(found, oracle(&stamps_ns, gate_ns, batch_rows_max));
            prop_assert_eq!((batcher.rows(), batcher.next_deadline_ns()), (0, None));
        }

        #[test]
        fn every_entry_is_batched_or_given_back(steps in steps(), queue_rows_max in 3..9_usize) {
            let mut batcher = Batcher::new(10, 3, queue_rows_max, Policy::Eager).unwrap();
            let (mut now_ns, mut batched, mut refused) = (0, Vec::new(), Vec::new());
            for (entry, (step, pause_ns)) in steps.iter().enumerate() {
                now_ns += pause_ns;
                match *step {
                    Step::Add => refused.extend(batcher.add(entry, now_ns).err()),
                    Step::Poll { idle } => batched.extend(batcher.poll(now_ns, idle)),
                }
                batcher.check();
            }
            batcher.close_open(now_ns);
            batched.extend(std::iter::from_fn(|| batcher.poll(now_ns, false)));
            prop_assert_eq!(batcher.drops(), refused.len() as u64);
            let mut all: Vec<_> = batched.into_iter().flat_map(|batch| batch.entries).chain(refused).collect();
            all.sort_unstable();
            let offered = steps.iter().enumerate().filter(|(_, (step, _))| matches!(step, Step::Add));
            prop_assert_eq!(all, offered.map(|(entry, _)| entry).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_idle_engine_closes_the_open_batch_under_eager_only() {
        for (policy, closes) in [(Policy::Fixed, false), (Policy::Eager, true)] {
            let mut batcher = Batcher::new(10, 4, 8, policy).unwrap();
            batcher.add('a', 100).unwrap();
            let expected = Closed { entries: vec!['a'], closed_ns: 103, idle_ns: 103 };
            assert_eq!(batcher.poll(103, true), closes.then_some(expected));
        }
    }

    #[test]
    fn a_stamp_behind_the_one_before_is_raised_to_it() {
        let mut batcher = Batcher::new(10, 2, 8, Policy::Fixed).unwrap();
        batcher.add('a', 100).unwrap();
        batcher.add('b', 50).unwrap();
        assert_eq!(batcher.poll(0, false), Some(Closed { entries: vec!['a', 'b'], closed_ns: 100, idle_ns: 0 }));
    }

    #[test]
    fn stamps_at_the_end_of_time_do_not_overflow() {
        let mut batcher = Batcher::new(i64::MAX, 2, 8, Policy::Fixed).unwrap();
        batcher.add('a', i64::MAX - 1).unwrap();
        assert_eq!(batcher.next_deadline_ns(), Some(i64::MAX));
    }
}
