//! Bytes that wait for strangers: messages half received, answers not yet read. All peers together get so many, so that
//! no number of them can make the process grow without end.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Many times what honest peers need: their messages come in a frame or two, and their answers are read at once.
const HELD_BYTES_MAX: usize = 128 << 20;

/// What is held now, of all connections.
pub struct Held {
    bytes: AtomicUsize,
    bytes_max: usize,
}

/// What one call holds. Given back when it is dropped.
pub struct Share {
    held: Arc<Held>,
    bytes: usize,
}

impl Default for Held {
    fn default() -> Self {
        Self { bytes: AtomicUsize::new(0), bytes_max: HELD_BYTES_MAX }
    }
}

impl Held {
    /// A share of nothing, to grow.
    pub fn share(self: &Arc<Self>) -> Share {
        Share { held: self.clone(), bytes: 0 }
    }
}

impl Share {
    /// Hold `bytes` from now on, more or less than before. False, and no change, where there is no room.
    pub fn hold(&mut self, bytes: usize) -> bool {
        let before = self.held.bytes.fetch_add(bytes, Ordering::Relaxed);
        if bytes > self.bytes && before - self.bytes + bytes > self.held.bytes_max {
            self.held.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return false;
        }
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.held.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_held_than_there_is_room_for() {
        let held = Arc::new(Held { bytes: AtomicUsize::new(0), bytes_max: 100 });
        let (mut first, mut second) = (held.share(), held.share());
        assert!(first.hold(60) && !second.hold(41) && second.hold(40));
        assert!(!first.hold(61) && first.hold(10) && second.hold(90));
        drop(second);
        assert_eq!(held.bytes.load(Ordering::Relaxed), 10);
        drop(first);
        assert_eq!(held.bytes.load(Ordering::Relaxed), 0);
    }
}
