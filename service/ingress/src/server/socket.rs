//! One accepted connection's bytes: TCP, a Unix socket or TLS over TCP, with a watch on writes that do not get away.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::yield_now;
use tokio_rustls::server::TlsStream;

use super::clock::monotonic_ns;

/// The transport below HTTP/2.
pub enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

const LAST_READS_MAX: usize = 16;
/// What one turn of a connection reads, some 75 calls: then it answers, and the others have theirs. A peer that sends as
/// fast as it is read would have it read without end, and answer nothing meanwhile.
const TURN_BYTES: usize = 16 << 10;

/// A transport that remembers since when a write waits for the peer. It does not claim vectored writes: h2 then copies
/// small DATA frames into one buffer instead of flushing for each of them, a system call per answer otherwise.
pub struct Socket {
    transport: Transport,
    flow: Arc<Flow>,
}

/// What a socket and its connection tell each other.
#[derive(Default)]
pub struct Flow {
    /// 0 while no write waits, else the stamp of the first that found the peer's buffer full.
    pub stalled_since_ns: AtomicI64,
    /// Nothing is read while this is set. Who clears it polls the connection, and so the socket, again.
    pub paused: AtomicBool,
    /// Likewise, while a turn is answered.
    pub answering: AtomicBool,
    /// The turn has read all that it may.
    spent: AtomicBool,
    read_bytes: AtomicUsize,
    /// When the first bytes of the last turn were read.
    pub read_ns: AtomicI64,
}

impl Flow {
    /// Whether the last turn has left something unread, as far as is known.
    pub fn take_spent(&self) -> bool {
        self.spent.swap(false, Ordering::Relaxed)
    }

    fn closed(&self) -> bool {
        self.paused.load(Ordering::Relaxed) || self.answering.load(Ordering::Relaxed)
    }

    fn note_read(&self, bytes: usize) {
        if self.read_bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.read_ns.store(monotonic_ns(), Ordering::Relaxed);
        }
    }
}

impl Socket {
    pub fn new(transport: Transport, flow: Arc<Flow>) -> Self {
        Self { transport, flow }
    }

    fn note<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.flow.stalled_since_ns.store(0, Ordering::Relaxed);
        } else if self.flow.stalled_since_ns.load(Ordering::Relaxed) == 0 {
            self.flow.stalled_since_ns.store(monotonic_ns(), Ordering::Relaxed);
        }
        polled
    }
}

/// What a peer has said and nobody reads any more would turn our close into a reset, and that could take our last word,
/// a GOAWAY, away from it.
impl Drop for Socket {
    fn drop(&mut self) {
        let mut unread = [0; 4_096];
        for _ in 0..LAST_READS_MAX {
            let read = match &self.transport {
                Transport::Tcp(stream) => stream.try_read(&mut unread),
                Transport::Unix(stream) => stream.try_read(&mut unread),
                Transport::Tls(stream) => stream.get_ref().0.try_read(&mut unread),
            };
            if !matches!(read, Ok(1..)) {
                return;
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.flow.closed() {
            return Poll::Pending;
        }
        if this.flow.read_bytes.load(Ordering::Relaxed) >= TURN_BYTES {
            this.flow.read_bytes.store(0, Ordering::Relaxed);
            this.flow.spent.store(true, Ordering::Relaxed);
            // For another turn, after all that has become readable meanwhile: woken at once it would have some sixty turns
            // before the runtime looks.
            let _ = pin!(yield_now()).poll(cx);
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = match &mut this.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        };
        if polled.is_pending() {
            this.flow.read_bytes.store(0, Ordering::Relaxed);
        }
        ready!(polled)?;
        this.flow.note_read(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_write(cx, buf),
        };
        this.note(polled)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        };
        this.note(polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.transport {
            Transport::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        };
        this.note(polled)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tokio::io::AsyncReadExt;

    use super::*;

    fn pair() -> (UnixStream, std::os::unix::net::UnixStream) {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("two ends");
        ours.set_nonblocking(true).expect("it is a socket");
        (UnixStream::from_std(ours).expect("in a runtime"), theirs)
    }

    /// One peer has sent eight turns ahead. Another's bytes, which come in the first of them, wait for no more than that.
    #[test]
    fn who_has_sent_much_waits_for_the_others() {
        const TURNS: usize = 8;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        runtime.block_on(async {
            let ((flooded, mut flood), (quiet, mut other)) = (pair(), pair());
            flood.write_all(&vec![7; TURNS * TURN_BYTES]).expect("the system's buffer has room");
            let flow = Arc::<Flow>::default();
            let mut socket = Socket::new(Transport::Unix(flooded), flow.clone());
            let flooding = tokio::spawn(async move {
                let (mut turns, mut chunk) = (0, [0; TURN_BYTES / 4]);
                for read in 1..=TURNS * 4 {
                    assert_eq!(socket.read_exact(&mut chunk).await.expect("it is there"), chunk.len());
                    turns += usize::from(flow.take_spent());
                    if read == 1 {
                        other.write_all(b"a payment").expect("the system's buffer has room");
                    }
                    TURNS_TAKEN.store(turns, Ordering::Relaxed);
                }
            });
            static TURNS_TAKEN: AtomicUsize = AtomicUsize::new(0);
            let heard = tokio::spawn(async move {
                quiet.readable().await.expect("it is a socket");
                TURNS_TAKEN.load(Ordering::Relaxed)
            });
            assert!(heard.await.expect("no panic") <= 1);
            flooding.await.expect("no panic");
        });
    }
}
