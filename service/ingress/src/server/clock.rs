//! The monotonic clock, the one that Python's `time.monotonic_ns` reads: stamps of both sides compare.

use std::sync::atomic::{AtomicI64, Ordering};

static AHEAD_NS: AtomicI64 = AtomicI64::new(0);

/// Nanoseconds of CLOCK_MONOTONIC, plus what a test has put the clock ahead.
pub fn monotonic_ns() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid timespec to write to, and CLOCK_MONOTONIC exists on every Linux.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec + AHEAD_NS.load(Ordering::Relaxed)
}

/// Put this clock ahead of the system's: tests let time pass without waiting for it.
pub fn set_ahead_ns(ahead_ns: i64) {
    AHEAD_NS.store(ahead_ns, Ordering::Relaxed);
}
