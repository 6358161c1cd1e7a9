//! The door: admits or refuses a decoded transaction, batches the admitted, and rings for Python when a batch is ready.
//! The same rules as `fraudgate.frontend.door`, which is the reference.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::bell::Bell;
use super::callers::Callers;
use super::calls::{Calls, Method};
use super::clock::monotonic_ns;
use super::counts::{Counted, Counts};
use super::deadlines::Deadlines;
use super::dispatch::Answered;
use super::held::Held;
use super::ledger::Ledger;
use super::refusal::Refusal;
use super::reply::{self, Call};
use super::results::RowSlot;
use super::settings::{Refusals, Settings};
use super::side::Side;
use super::unheard::{Unheard, Waiting};
use crate::admission::{Admission, Bounds, Reason, Verdict};
use crate::answers::Tails;
use crate::batcher::{Batcher, Closed, Policy};
use crate::transaction::Transaction;

/// Where an answer goes.
pub enum Reply {
    Unary(Arc<Call>),
    Row(RowSlot),
    Sent,
}

/// One admitted transaction on its way to a reply.
pub struct Entry {
    pub transaction: Transaction,
    /// Monotonic; stamped when it is admitted.
    pub arrival_ns: i64,
    /// Monotonic, 0 = none.
    pub deadline_ns: i64,
    /// Its number, see `Callers`.
    pub caller: usize,
    /// The call's `traceparent`, as it came.
    pub parent: Option<Arc<str>>,
    /// Its connection's, by number.
    pub thread: usize,
    pub reply: Reply,
}

/// Where a call comes from.
#[derive(Clone, Default)]
pub struct Origin {
    /// Its number, see `Callers`.
    pub caller: usize,
    pub method: Method,
    /// The connection's, by number.
    pub thread: usize,
    /// What was refused on its connection, and not charged yet. Only that one's thread counts, in plain steps.
    refused: Arc<AtomicU64>,
    /// The call's `traceparent`, where traces are wanted and it has one.
    pub parent: Option<Arc<str>>,
}

impl Origin {
    /// A connection's, by the number of its thread.
    pub fn of(thread: usize) -> Self {
        Self { thread, ..Self::default() }
    }

    pub fn refused(&self, rows: u64) {
        self.refused.store(self.uncharged() + rows, Ordering::Relaxed);
    }

    pub fn uncharged(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What was refused and is charged herewith.
    pub fn charge(&self) -> u64 {
        let refused = self.uncharged();
        self.refused.store(0, Ordering::Relaxed);
        refused
    }
}

/// What the door decides on, behind one lock.
pub struct Queue {
    pub batcher: Batcher<Entry>,
    pub admission: Admission,
    /// Python has found nothing to take and waits for the bell.
    waiting: bool,
    /// The gate's timer runs, or is about to.
    gate_set: bool,
}

/// What every thread of the front end shares.
pub struct Front {
    pub settings: Settings,
    pub refusals: Refusals,
    pub counts: Counts,
    pub calls: Calls,
    pub callers: Callers,
    pub bell: Bell,
    /// Read while a batch is rendered, and by Python, which writes only what it has not seen before.
    pub tails: RwLock<Tails>,
    pub ledger: Ledger,
    /// The ready answer of every Score(), where only the transport is measured.
    pub echo: Option<Bytes>,
    /// Open connections by thread.
    pub open: Vec<AtomicUsize>,
    /// Calls that wait for their messages.
    waiting: Arc<AtomicUsize>,
    /// Bytes that wait for peers.
    pub held: Arc<Held>,
    pub side: Side,
    pub deadlines: Deadlines,
    /// By thread. Unbounded, and never long: what waits for a thread was admitted before, and the door expects that wait.
    pub answered: Vec<mpsc::UnboundedSender<Answered>>,
    /// Wakes the gate's timer task when a batch was opened while it slept.
    pub gate: Notify,
    /// Set while every new call is refused.
    closed: AtomicBool,
    /// The last row that asked was refused: the next is asked about before it is decoded.
    pressed: AtomicBool,
    /// Rung once when streams are to read no further.
    pub streams_end: tokio::sync::watch::Sender<bool>,
    queue: Mutex<Queue>,
}

impl Front {
    pub fn new(
        settings: Settings,
        refusals: Refusals,
        ledger: Ledger,
        answered: Vec<mpsc::UnboundedSender<Answered>>,
    ) -> io::Result<Self> {
        let batcher = Batcher::new(
            settings.gate_ns,
            settings.batch_rows_max,
            settings.queue_rows_max,
            if settings.eager { Policy::Eager } else { Policy::Fixed },
        )
        .map_err(io::Error::other)?;
        let admission = Admission::new(bounds(&settings)).ok_or_else(|| io::Error::other("callers do not fit"))?;
        let queue = Queue { batcher, admission, waiting: false, gate_set: false };
        Ok(Self {
            echo: settings.echo.as_deref().map(reply::framed),
            callers: Callers::new(&settings.callers, settings.callers_required),
            settings,
            refusals,
            counts: Counts::default(),
            calls: Calls::default(),
            bell: Bell::new()?,
            tails: RwLock::default(),
            ledger,
            open: answered.iter().map(|_| AtomicUsize::new(0)).collect(),
            waiting: Arc::default(),
            held: Arc::default(),
            side: Side::default(),
            deadlines: Deadlines::default(),
            answered,
            gate: Notify::new(),
            closed: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            streams_end: tokio::sync::watch::channel(false).0,
            queue: Mutex::new(queue),
        })
    }

    /// The queue, also after a panic elsewhere: each change of it is complete before anything can panic.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Open connections.
    pub fn connections(&self) -> usize {
        self.open.iter().map(|open| open.load(Ordering::Acquire)).sum()
    }

    /// Refuse every call from now on.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Stamp and admit entries that arrive together, in order. Those refused come back with why.
    ///
    /// The stamp is read under the lock: no entry is added later with an earlier one.
    pub fn admit(&self, entries: impl IntoIterator<Item = Entry>) -> Vec<(Entry, &Refusal)> {
        let mut refused = Vec::new();
        let (ring, open_gate);
        {
            let mut queue = self.queue();
            let arrival_ns = monotonic_ns();
            for mut entry in entries {
                entry.arrival_ns = arrival_ns;
                if let Some((entry, counted, retry_ns)) = self.refused(&mut queue, entry) {
                    self.counts.count(counted);
                    refused.push((entry, self.refusals.of(counted, retry_ns)));
                }
            }
            ring = self.wants_bell(&mut queue);
            open_gate = self.wants_timer(&mut queue);
        }
        self.pressed.store(!refused.is_empty(), Ordering::Relaxed);
        if ring {
            self.bell.ring();
        }
        if open_gate {
            self.gate.notify_one();
        }
        refused
    }

    /// Why a row would surely be refused whatever it says, where the last one was: then it need not be decoded.
    /// `now_ns` may be that of the turn: one that is admitted is asked about again.
    pub fn refuses_unread(&self, now_ns: i64, deadline_ns: i64, caller: usize) -> Option<(Counted, &Refusal)> {
        if !self.pressed.load(Ordering::Relaxed) || self.is_closed() {
            return None;
        }
        let mut queue = self.queue();
        let Queue { batcher, admission, .. } = &mut *queue;
        let (counted, retry_ns) = match admission.refuse(batcher, now_ns, deadline_ns, caller) {
            Some(verdict) => (counted(verdict), verdict.retry_ns),
            None if batcher.is_full() => (Counted::QueueFull, admission.batch_ns()),
            None => return None,
        };
        Some((counted, self.refusals.of(counted, retry_ns)))
    }

    /// A call that waits for its message, or why it is not worth waiting for.
    pub fn waits(
        &self,
        now_ns: i64,
        deadline_ns: i64,
        caller: usize,
        unheard: &Unheard,
    ) -> Result<Waiting, (Counted, &Refusal)> {
        if let Some(refused) = self.refuses_unread(now_ns, deadline_ns, caller) {
            return Err(refused);
        }
        unheard.wait(&self.waiting, self.settings.queue_rows_max, self.connections()).ok_or_else(|| {
            (Counted::QueueFull, self.refusals.of(Counted::QueueFull, self.queue().admission.batch_ns()))
        })
    }

    /// Admit an entry, or give it back with why not, and after how many nanoseconds to try again.
    fn refused(&self, queue: &mut Queue, entry: Entry) -> Option<(Entry, Counted, i64)> {
        let (now_ns, caller) = (entry.arrival_ns, entry.caller);
        if self.is_closed() {
            return Some((entry, Counted::Unavailable, 0));
        }
        if let Some(verdict) = queue.admission.refuse(&queue.batcher, now_ns, entry.deadline_ns, caller) {
            return Some((entry, counted(verdict), verdict.retry_ns));
        }
        if let Err(entry) = queue.batcher.add(entry, now_ns) {
            return Some((entry, Counted::QueueFull, queue.admission.batch_ns()));
        }
        queue.admission.admitted(caller);
        None
    }

    /// Whether Python waits and something is there for it; then it is told once.
    fn wants_bell(&self, queue: &mut Queue) -> bool {
        let ready = queue.batcher.next_deadline_ns() == Some(0)
            || (self.settings.eager && queue.admission.in_flight() == 0 && queue.batcher.rows() > 0);
        let ring = ready && queue.waiting;
        queue.waiting &= !ring;
        ring
    }

    fn wants_timer(&self, queue: &mut Queue) -> bool {
        let wanted = !queue.gate_set && queue.batcher.next_deadline_ns().is_some_and(|ns| ns > 0);
        queue.gate_set |= wanted;
        wanted
    }

    /// What the gate's timer does when it rings: when to ring next, or None until a batch is opened.
    pub fn gate_rang(&self) -> Option<i64> {
        let mut queue = self.queue();
        let deadline_ns = queue.batcher.next_deadline_ns();
        let due = deadline_ns.is_some_and(|ns| ns <= monotonic_ns());
        let ring = due && queue.waiting;
        queue.waiting &= !ring;
        // An open batch that is due, and that Python is too busy to take now, is taken when Python comes back.
        let next_ns = deadline_ns.filter(|_| !due);
        queue.gate_set = next_ns.is_some();
        drop(queue);
        if ring {
            self.bell.ring();
        }
        next_ns
    }

    /// The oldest closed batch, or None: then the bell rings when there is one.
    ///
    /// The clock is read under the lock, like every stamp: no entry is added later with an earlier one.
    pub fn take(&self, idle: bool) -> Option<Closed<Entry>> {
        let mut queue = self.queue();
        let closed = queue.batcher.poll(monotonic_ns(), idle);
        queue.waiting = closed.is_none();
        if let Some(closed) = &closed {
            queue.admission.taken(closed.closed_ns, closed.entries.iter().map(|entry| entry.caller));
        }
        let open_gate = self.wants_timer(&mut queue);
        drop(queue);
        if open_gate {
            self.gate.notify_one();
        }
        closed
    }

    /// The first batch that was taken is answered.
    pub fn finished(&self) {
        self.queue().admission.finished(monotonic_ns());
    }

    /// An IO thread came so late to a batch that was answered.
    pub fn lagged(&self, lag_ns: i64) {
        self.queue().admission.lagged(lag_ns);
    }
}

fn bounds(settings: &Settings) -> Bounds {
    Bounds {
        budget_ns: settings.budget_ns,
        allowances_ns: settings.allowances_ns,
        priorities: settings.callers.iter().map(|caller| caller.priority).collect(),
        weights: settings.callers.iter().map(|caller| caller.share).collect(),
        active_ns: settings.active_ns,
    }
}

fn counted(verdict: Verdict) -> Counted {
    match verdict.reason {
        Reason::Deadline => Counted::Deadline,
        Reason::Overload => Counted::Overload,
        Reason::Budget => Counted::Budget,
        Reason::Priority => Counted::Priority,
        Reason::Fairness => Counted::Fairness,
    }
}
