//! The listening socket, TLS, and which thread an accepted connection goes to.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::connection;
use super::counts::Counted;
use super::front::Front;
use super::guard::guarded_task;
use super::settings::Tls;
use super::socket::Transport;
use super::thread::Stop;

/// Some 300 calls. What waits in the kernel waits unseen: of megabytes, seconds of calls whose callers have given up.
const RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// A socket that listens.
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl Listener {
    /// Listen on `HOST:PORT` or `unix:PATH`. A path left by a dead server is taken over, one of a live server refused.
    pub fn bind(address: &str) -> io::Result<Self> {
        if let Some(path) = address.strip_prefix("unix:") {
            let path = Path::new(path);
            if is_dead_socket(path) {
                std::fs::remove_file(path)?;
            }
            let listener = std::os::unix::net::UnixListener::bind(path)?;
            listener.set_nonblocking(true)?;
            return Ok(Self::Unix(listener));
        }
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// The TCP port, 0 for a Unix socket.
    pub fn port(&self) -> io::Result<u16> {
        match self {
            Self::Tcp(listener) => Ok(listener.local_addr()?.port()),
            Self::Unix(_) => Ok(0),
        }
    }
}

/// Whether a server that has ended left its socket here. No other file is taken for one.
fn is_dead_socket(path: &Path) -> bool {
    let is_socket = std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && std::os::unix::net::UnixStream::connect(path).is_err_and(refused)
}

/// The acceptor of `tls`, with ALPN h2 alone.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor, String> {
    let certificates = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&tls.key).map_err(|error| format!("tls.key: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(client_ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(client_ca)? {
                roots.add(certificate).map_err(|error| format!("tls.client_ca: {error}"))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| format!("tls.client_ca: {error}"))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(certificates, key).map_err(|error| error.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("no certificate in the PEM file".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Accept connections until `drain` changes; each is a task of the one of `threads` that has the fewest.
pub async fn accept(
    front: Arc<Front>,
    listener: Listener,
    tls: Option<TlsAcceptor>,
    threads: Vec<Handle>,
    mut drain: watch::Receiver<Stop>,
) {
    let sockets = match Sockets::new(listener) {
        Ok(sockets) => sockets,
        Err(_) => return, // the runtime is going down
    };
    allow_descriptors(front.settings.connections_max);
    let draining = drain.clone();
    let mut drained = pin!(drain.changed());
    loop {
        let accepted = tokio::select! {
            accepted = sockets.accept() => accepted,
            _ = &mut drained => return,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(20)).await; // out of descriptors: some will come back
                continue;
            }
        };
        if front.connections() >= front.settings.connections_max {
            front.counts.count(Counted::ConnectionRefused);
            continue;
        }
        front.counts.count(Counted::Connection);
        let open = Open::new(front.clone());
        let thread = &threads[open.thread()];
        thread.spawn(guarded_task(front.clone(), one(open, stream, tls.clone(), draining.clone())));
    }
}

/// Let the process open a file for each connection, and as many beside as it may now, as far as its hard limit goes.
fn allow_descriptors(connections_max: usize) {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid rlimit to write to.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } == 0 && limit.rlim_cur < connections_max as u64 {
        limit.rlim_cur = limit.rlim_cur.saturating_add(connections_max as u64).min(limit.rlim_max);
        // SAFETY: `limit` is a valid rlimit. Where it is refused, accepting waits for descriptors to come back.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    }
}

/// Counts an open connection, until its task ends, however it ends.
pub struct Open {
    front: Arc<Front>,
    thread: usize,
}

impl Open {
    /// On the thread that has the fewest. Only the acceptor opens any.
    fn new(front: Arc<Front>) -> Self {
        let thread = fewest(&front.open);
        front.open[thread].fetch_add(1, Ordering::AcqRel);
        Self { front, thread }
    }

    pub fn front(&self) -> &Arc<Front> {
        &self.front
    }

    /// By number.
    pub fn thread(&self) -> usize {
        self.thread
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.front.open[self.thread].fetch_sub(1, Ordering::AcqRel);
    }
}

/// The first of the smallest.
fn fewest(open: &[AtomicUsize]) -> usize {
    let fewest = open.iter().enumerate().min_by_key(|(_, open)| open.load(Ordering::Relaxed));
    fewest.map_or(0, |(thread, _)| thread)
}

async fn one(open: Open, stream: Stream, tls: Option<TlsAcceptor>, mut drain: watch::Receiver<Stop>) {
    let Ok(transport) = stream.here() else { return };
    let transport = match (transport, tls) {
        (Transport::Tcp(stream), Some(acceptor)) => tokio::select! {
            secured = secured(open.front(), stream, &acceptor) => match secured {
                Some(transport) => transport,
                None => return,
            },
            _ = drain.changed() => return,
        },
        (transport, _) => transport,
    };
    connection::welcome(open, transport, drain).await;
}

/// Shake hands on TLS. None: the peer would not, or not in time, or does not speak h2 over it.
async fn secured(front: &Front, stream: TcpStream, acceptor: &TlsAcceptor) -> Option<Transport> {
    let patience = Duration::from_nanos(front.settings.handshake_ns_max as u64);
    match tokio::time::timeout(patience, acceptor.accept(stream)).await {
        Ok(Ok(stream)) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => {
            return Some(Transport::Tls(Box::new(stream)));
        }
        Ok(Err(error)) if error.kind() != io::ErrorKind::InvalidData => (), // it went, which breaks nothing
        Ok(_) => front.counts.count(Counted::ConnectionBroken),
        Err(_) => front.counts.count(Counted::ConnectionStalled),
    }
    None
}

/// An accepted connection on its way to its thread.
enum Stream {
    Tcp(std::net::TcpStream),
    Unix(std::os::unix::net::UnixStream),
}

impl Stream {
    /// To be read and written on the calling thread.
    fn here(self) -> io::Result<Transport> {
        Ok(match self {
            Self::Tcp(stream) => Transport::Tcp(TcpStream::from_std(stream)?),
            Self::Unix(stream) => Transport::Unix(UnixStream::from_std(stream)?),
        })
    }
}

enum Sockets {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Sockets {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener)?),
            Listener::Unix(listener) => Self::Unix(UnixListener::from_std(listener)?),
        })
    }

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Both fail where the peer has gone already, which reading will tell.
                let _ = stream.set_nodelay(true);
                let _ = SockRef::from(&stream).set_recv_buffer_size(RECEIVE_BUFFER_BYTES);
                Ok(Stream::Tcp(stream.into_std()?))
            }
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0.into_std()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_socket_of_a_dead_server_is_taken_over() {
        let directory = std::env::temp_dir().join(format!("fraudgate-listener-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let (file, socket) = (directory.join("file"), directory.join("socket"));
        let bind =
            |path: &Path| Listener::bind(&format!("unix:{}", path.display())).map(drop).map_err(|error| error.kind());
        std::fs::write(&file, b"what somebody keeps").expect("it is written");
        assert_eq!(bind(&file), Err(io::ErrorKind::AddrInUse));
        assert_eq!(std::fs::read(&file).expect("it is there"), b"what somebody keeps");
        let alive = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
        assert_eq!(bind(&socket), Err(io::ErrorKind::AddrInUse));
        drop(alive);
        assert_eq!(bind(&socket), Ok(()));
        std::fs::remove_dir_all(&directory).expect("it goes");
    }

    #[test]
    fn a_connection_goes_where_the_fewest_are() {
        for (open, thread) in [(vec![0], 0), (vec![2, 1, 1], 1), (vec![1, 1], 0), (vec![3, 4, 2], 2)] {
            assert_eq!(fewest(&open.into_iter().map(AtomicUsize::new).collect::<Vec<_>>()), thread);
        }
    }
}
