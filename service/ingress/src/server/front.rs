//! The door: admits or refuses a decoded transaction, batches the admitted, and rings for Python when a batch is ready.
//! The same rules as `fraudgate.frontend.door`, which is the reference.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::bell::Bell;
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
    pub reply: Reply,
}

/// What the door decides on, behind one lock.
pub struct Queue {
    pub batcher: Batcher<Entry>,
    /// Batches that Python has taken and not answered.
    pub in_flight: usize,
    /// How long one batch runs, nanoseconds: a moving average.
    pub batch_ns: i64,
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
    pub bell: Bell,
    pub tails: Mutex<Tails>,
    pub ledger: Ledger,
    /// The ready answer of every Score(), where only the transport is measured.
    pub echo: Option<Bytes>,
    /// Open connections.
    pub connections: AtomicUsize,
    /// Bytes that wait for peers.
    pub held: Arc<Held>,
    pub side: Side,
    pub deadlines: Deadlines,
    pub answered: mpsc::UnboundedSender<Answered>,
    /// Wakes the gate's timer task when a batch was opened while it slept.
    pub gate: Notify,
    /// Set while every new call is refused.
    closed: AtomicBool,
    /// Rung once when streams are to read no further.
    pub streams_end: tokio::sync::watch::Sender<bool>,
    queue: Mutex<Queue>,
}

impl Front {
    pub fn new(
        settings: Settings,
        refusals: Refusals,
        ledger: Ledger,
        answered: mpsc::UnboundedSender<Answered>,
    ) -> io::Result<Self> {
        let batcher = Batcher::new(
            settings.gate_ns,
            settings.batch_rows_max,
            settings.queue_rows_max,
            if settings.eager { Policy::Eager } else { Policy::Fixed },
        )
        .map_err(io::Error::other)?;
        let queue = Queue { batcher, in_flight: 0, batch_ns: 0, waiting: false, gate_set: false };
        Ok(Self {
            echo: settings.echo.as_deref().map(reply::framed),
            settings,
            refusals,
            counts: Counts::default(),
            bell: Bell::new()?,
            tails: Mutex::default(),
            ledger,
            connections: AtomicUsize::new(0),
            held: Arc::default(),
            side: Side::default(),
            deadlines: Deadlines::default(),
            answered,
            gate: Notify::new(),
            closed: AtomicBool::new(false),
            streams_end: tokio::sync::watch::channel(false).0,
            queue: Mutex::new(queue),
        })
    }

    /// The queue, also after a panic elsewhere: each change of it is complete before anything can panic.
    pub fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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
                if let Some((entry, counted)) = self.refused(&mut queue, entry) {
                    self.counts.count(counted);
                    refused.push((entry, self.refusal(counted)));
                }
            }
            ring = self.wants_bell(&mut queue);
            open_gate = self.wants_timer(&mut queue);
        }
        if ring {
            self.bell.ring();
        }
        if open_gate {
            self.gate.notify_one();
        }
        refused
    }

    /// Admit an entry, or give it back with why not.
    fn refused(&self, queue: &mut Queue, entry: Entry) -> Option<(Entry, Counted)> {
        let now_ns = entry.arrival_ns;
        if self.is_closed() {
            return Some((entry, Counted::Unavailable));
        }
        if let Some(counted) = queue.refuses(now_ns, entry.deadline_ns, &self.settings) {
            return Some((entry, counted));
        }
        queue.batcher.add(entry, now_ns).err().map(|entry| (entry, Counted::QueueFull))
    }

    fn refusal(&self, counted: Counted) -> &Refusal {
        match counted {
            Counted::Unavailable => &self.refusals.draining,
            Counted::Deadline => &self.refusals.deadline,
            Counted::Budget => &self.refusals.budget,
            _ => &self.refusals.queue_full,
        }
    }

    /// Whether Python waits and something is there for it; then it is told once.
    fn wants_bell(&self, queue: &mut Queue) -> bool {
        let ready = queue.batcher.next_deadline_ns() == Some(0)
            || (self.settings.eager && queue.in_flight == 0 && queue.batcher.rows() > 0);
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
        queue.in_flight += usize::from(closed.is_some());
        let open_gate = self.wants_timer(&mut queue);
        drop(queue);
        if open_gate {
            self.gate.notify_one();
        }
        closed
    }

    /// A batch was answered `batch_ns` after it was taken.
    pub fn finished(&self, batch_ns: i64) {
        let mut queue = self.queue();
        queue.in_flight -= 1;
        queue.batch_ns += (batch_ns - queue.batch_ns).div_euclid(8);
    }
}

impl Queue {
    /// Why a transaction cannot be admitted now.
    fn refuses(&mut self, now_ns: i64, deadline_ns: i64, settings: &Settings) -> Option<Counted> {
        let wait_ns = self.wait_ns(now_ns, settings);
        let counted = if deadline_ns != 0 && deadline_ns < now_ns + wait_ns {
            Counted::Deadline
        } else if settings.budget_ns != 0 && wait_ns > settings.budget_ns {
            Counted::Budget
        } else {
            return None;
        };
        if self.batcher.rows() == 0 && self.in_flight == 0 {
            self.batch_ns /= 2; // no batch runs that could correct it: a stall long over would shut the door for good
        }
        Some(counted)
    }

    /// Time to the gate, plus the batches ahead, plus one batch.
    fn wait_ns(&self, now_ns: i64, settings: &Settings) -> i64 {
        let ahead = self.batcher.rows() / settings.batch_rows_max + self.in_flight;
        let gate_ns = if settings.eager {
            0
        } else {
            self.batcher.next_deadline_ns().map_or(settings.gate_ns, |gate_at_ns| (gate_at_ns - now_ns).max(0))
        };
        gate_ns + (ahead as i64 + 1) * self.batch_ns
    }
}
