//! A stream that gives no more than a ration of bytes at a time.
//!
//! A connection that is polled reads until nothing is left, and a server that answers as fast as it is read leaves
//! something all the time: nothing would be sent meanwhile.

use std::cell::Cell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Some 200 answers.
const RATION_BYTES: usize = 32 << 10;

pub trait Io: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// What is left of a ration; clones share it.
#[derive(Clone)]
pub struct Ration(Rc<Cell<usize>>);

impl Default for Ration {
    fn default() -> Ration {
        Ration(Rc::new(Cell::new(RATION_BYTES)))
    }
}

impl Ration {
    pub fn renew(&self) {
        self.0.set(RATION_BYTES);
    }

    /// True if there may be more to read, for which nobody will be woken.
    pub fn is_spent(&self) -> bool {
        self.0.get() == 0
    }
}

pub struct Rationed {
    io: Box<dyn Io>,
    ration: Ration,
}

impl Rationed {
    pub fn new(io: Box<dyn Io>, ration: Ration) -> Rationed {
        Rationed { io, ration }
    }
}

impl AsyncRead for Rationed {
    /// Pending, without a wake-up to come, once the ration is spent.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let left = self.ration.0.get();
        if left == 0 {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.ration.0.set(left.saturating_sub(buffer.filled().len() - before));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rationed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
