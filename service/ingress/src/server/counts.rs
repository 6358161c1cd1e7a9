//! What the native threads count. Python adds these to its own counters whenever somebody reads those.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a transaction, a call or a connection ended early; the names are those of `fraudgate_refusals_total{reason}`
/// and of the totals of the same prefix.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Counted {
    Unavailable,
    Deadline,
    Budget,
    QueueFull,
    Overload,
    Priority,
    Fairness,
    Unauthenticated,
    NotAllowed,
    Undecodable,
    Invalid,
    Internal,
    /// A panic of ours: one call failed with INTERNAL.
    Panic,
    /// Connections accepted.
    Connection,
    /// Connections refused because `connections_max` were open.
    ConnectionRefused,
    /// Connections closed because the peer broke the protocol or a limit of it.
    ConnectionBroken,
    /// Connections closed because the peer did not read, answer a ping or finish its handshake in time.
    ConnectionStalled,
    /// Answers given up because the peer left them unread.
    AnswerUnread,
    /// Decisions that were in time until the peer's window had no room for them.
    AnswerLate,
    /// Decisions whose stages do not add up to the time they took.
    LedgerMismatch,
    /// Times that a connection was not read for a while because too much was refused on it.
    ConnectionPaused,
}

const NAMES: [&str; 21] = [
    "unavailable",
    "deadline",
    "budget",
    "queue_full",
    "overload",
    "priority",
    "fairness",
    "unauthenticated",
    "not_allowed",
    "undecodable",
    "invalid",
    "internal",
    "fraudgate_native_panics_total",
    "fraudgate_connections_total",
    "fraudgate_connections_refused_total",
    "fraudgate_connections_broken_total",
    "fraudgate_connections_stalled_total",
    "fraudgate_answers_unread_total",
    "fraudgate_late_unread_total",
    "fraudgate_ledger_mismatch_total",
    "fraudgate_connections_paused_total",
];

/// Monotonic counts.
#[derive(Default)]
pub struct Counts([AtomicU64; NAMES.len()]);

impl Counts {
    pub fn count(&self, what: Counted) {
        self.add(what, 1);
    }

    pub fn add(&self, what: Counted, n: u64) {
        self.0[what as usize].fetch_add(n, Ordering::Relaxed);
    }

    /// All counts by name.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        NAMES.iter().zip(&self.0).map(|(name, count)| (*name, count.load(Ordering::Relaxed)))
    }
}
