//! A clock and an alarm in nanoseconds; tokio's timer counts in milliseconds.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::task::{Context, Poll};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

const SECOND_NS: i64 = 1_000_000_000;

/// The monotonic clock.
pub fn monotonic_ns() -> i64 {
    read(libc::CLOCK_MONOTONIC)
}

/// Nanoseconds since 1970.
pub fn wall_ns() -> i64 {
    read(libc::CLOCK_REALTIME)
}

/// CPU time that this thread has used.
pub fn thread_cpu_ns() -> i64 {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call writes `time`; it fails for no clock of this module.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec * SECOND_NS + time.tv_nsec
}

/// Wakes its task at an instant of the monotonic clock.
pub struct Alarm {
    timer: AsyncFd<OwnedFd>,
    at_ns: i64,
}

impl Alarm {
    pub fn new() -> io::Result<Alarm> {
        // SAFETY: a plain system call.
        let fd = unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let timer = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: an OwnedFd is the same descriptor until it is dropped.
        let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?;
        Ok(Alarm { timer, at_ns: 0 })
    }

    /// Wake the task of `cx` at `at_ns`, and no longer at the instant asked for before.
    pub fn set(&mut self, at_ns: i64, cx: &mut Context<'_>) -> io::Result<()> {
        while let Poll::Ready(ready) = self.timer.poll_read_ready(cx) {
            ready?.clear_ready();
            self.at_ns = 0;
        }
        if at_ns == self.at_ns {
            return Ok(());
        }
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let value = libc::timespec { tv_sec: at_ns / SECOND_NS, tv_nsec: at_ns % SECOND_NS };
        let setting = libc::itimerspec { it_interval: zero, it_value: value };
        // SAFETY: the descriptor is ours, `setting` outlives the call, and the old setting is not asked for.
        let failed = unsafe {
            libc::timerfd_settime(
                self.timer.get_ref().as_raw_fd(),
                libc::TFD_TIMER_ABSTIME,
                &setting,
                std::ptr::null_mut(),
            )
        };
        if failed != 0 {
            return Err(io::Error::last_os_error());
        }
        self.at_ns = at_ns;
        Ok(())
    }
}
