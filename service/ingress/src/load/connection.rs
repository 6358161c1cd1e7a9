//! Connections to the server: dialled over TCP or a Unix socket, with or without TLS, and driven by polling.

use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::client::{Connection, SendRequest};
use http::{HeaderValue, Request, Version, header};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::SockRef;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::call::{Call, End};
use super::rationed::{Io, Ration, Rationed};

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// Windows so wide that the generator never makes the server wait for one.
const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
const STREAM_WINDOW_BYTES: u32 = 1 << 20;

/// Where the server listens: `HOST:PORT`, or `unix:PATH`.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Target {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Target {
    fn parse(text: &str) -> Option<Target> {
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return (!path.is_empty()).then(|| Target::Unix(path.into()));
        }
        let (host, port) = text.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        (!host.is_empty()).then_some(Target::Tcp { host: host.into(), port: port.parse().ok()? })
    }
}

const SEND_BUFFER_BYTES: usize = 64 << 10;

/// Makes connections, and the request head that every call sends.
#[derive(Clone)]
pub struct Dialler {
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    head: Request<()>,
}

impl Dialler {
    /// `ca`: PEM certificates to trust, for TLS. Err: what is wrong with an argument.
    pub fn new(target: &str, path: &str, ca: Option<&[u8]>, timeout_ns: Option<i64>) -> Result<Dialler, String> {
        let parsed =
            Target::parse(target).ok_or_else(|| format!("target {target:?} is neither HOST:PORT nor unix:PATH"))?;
        let authority = match &parsed {
            Target::Tcp { .. } => target,
            Target::Unix(_) => "localhost",
        };
        let tls = ca.map(|ca| connector(&parsed, ca)).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut head = Request::post(format!("{scheme}://{authority}{path}"))
            .version(Version::HTTP_2)
            .header(header::TE, HeaderValue::from_static("trailers"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))
            .header(
                header::USER_AGENT,
                HeaderValue::from_static(concat!("fraudgate-load/", env!("CARGO_PKG_VERSION"))),
            );
        if let Some(timeout_ns) = timeout_ns {
            head = head.header("grpc-timeout", grpc_timeout(timeout_ns));
        }
        let head = head.body(()).map_err(|error| format!("target {target:?} with path {path:?}: {error}"))?;
        Ok(Dialler { target: parsed, tls, head })
    }

    /// A connection that has seen the server's settings. Err: what is wrong.
    pub async fn dial(&self) -> Result<Link, String> {
        match tokio::time::timeout(DIAL_TIMEOUT, self.connect()).await {
            Ok(link) => link,
            Err(_) => Err(format!("no HTTP/2 connection within {} s", DIAL_TIMEOUT.as_secs())),
        }
    }

    async fn connect(&self) -> Result<Link, String> {
        let mut io: Box<dyn Io> = match &self.target {
            Target::Tcp { host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| error.to_string())?;
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                // A call that expires in our own queue is never sent; one in the kernel's is.
                let sized = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER_BYTES);
                sized.map_err(|error| error.to_string())?;
                Box::new(stream)
            }
            Target::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(|error| error.to_string())?),
        };
        if let Some((connector, name)) = &self.tls {
            let stream = connector.connect(name.clone(), io).await.map_err(|error| format!("TLS: {error}"))?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err("TLS: the server does not offer HTTP/2 (ALPN h2)".into());
            }
            io = Box::new(stream);
        }
        self.handshake(io).await.map_err(|error| format!("no HTTP/2: {error}"))
    }

    async fn handshake(&self, io: Box<dyn Io>) -> Result<Link, h2::Error> {
        let ration = Ration::default();
        let io = Rationed::new(io, ration.clone());
        let (send, mut connection) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .data_frame_budget(CONNECTION_WINDOW_BYTES as usize)
            .enable_push(false)
            .handshake(io)
            .await?;
        // The answer to a ping comes after the server's settings, which say how many streams it takes.
        let mut pings = connection.ping_pong().expect("nobody has taken it before");
        let ping = std::pin::pin!(pings.ping(h2::Ping::opaque()));
        match select(ping, &mut connection).await {
            Either::Left((pong, _)) => _ = pong?,
            Either::Right((ended, _)) => {
                ended?;
                return Err(h2::Reason::NO_ERROR.into());
            }
        }
        let (calls, head) = (FuturesUnordered::new(), self.head.clone());
        Ok(Link { send, connection, calls, head, ration, state: State::Open })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Takes no more calls, but answers those it has.
    Draining,
    Closed,
}

/// One connection and the calls that are under way on it.
pub struct Link {
    send: SendRequest<Bytes>,
    connection: Connection<Rationed, Bytes>,
    calls: FuturesUnordered<Call>,
    head: Request<()>,
    ration: Ration,
    state: State,
}

impl Link {
    /// Write what can be written, and read a ration of what has come; true if more has come.
    pub fn drive(&mut self, cx: &mut Context<'_>) -> bool {
        self.ration.renew();
        // Its end, good or bad, reaches every call that is under way.
        if self.state != State::Closed && std::pin::Pin::new(&mut self.connection).poll(cx).is_ready() {
            self.state = State::Closed;
        }
        self.ration.is_spent()
    }

    /// The next call that has ended, if one has.
    pub fn poll_end(&mut self, cx: &mut Context<'_>) -> Option<End> {
        match self.calls.poll_next_unpin(cx) {
            Poll::Ready(end) => end,
            Poll::Pending => None,
        }
    }

    /// How many more calls it takes now.
    pub fn room(&self) -> usize {
        match self.state {
            State::Open => self.send.current_max_send_streams().saturating_sub(self.calls.len()),
            _ => 0,
        }
    }

    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    pub fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// True once nothing more will come from it.
    pub fn is_spent(&self) -> bool {
        self.state != State::Open && self.calls.is_empty()
    }

    /// Send a message with its gRPC prefix; false if the connection takes no more calls.
    pub fn call(&mut self, intended_ns: i64, message: Bytes) -> bool {
        let Ok((response, mut body)) = self.send.send_request(self.head.clone(), false) else {
            if self.state == State::Open {
                self.state = State::Draining;
            }
            return false;
        };
        // A stream that cannot take its body has failed already; the response tells.
        let _ = body.send_data(message, true);
        self.calls.push(Call::new(intended_ns, response));
        true
    }
}

fn connector(target: &Target, ca: &[u8]) -> Result<(TlsConnector, ServerName<'static>), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca) {
        let certificate = certificate.map_err(|error| format!("the CA file is no PEM: {error:?}"))?;
        roots.add(certificate).map_err(|error| format!("the CA file: {error}"))?;
    }
    if roots.is_empty() {
        return Err("the CA file holds no certificate".into());
    }
    let host = match target {
        Target::Tcp { host, .. } => host.clone(),
        Target::Unix(_) => "localhost".into(),
    };
    let name = ServerName::try_from(host).map_err(|error| format!("TLS needs a host name or address: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring speaks TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// The value of grpc-timeout: at most 8 digits and a unit.
fn grpc_timeout(timeout_ns: i64) -> String {
    let timeout_us = (timeout_ns / 1_000).max(1);
    if timeout_us < 100_000_000 { format!("{timeout_us}u") } else { format!("{}m", timeout_us / 1_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets() {
        let tcp = |host: &str, port| Some(Target::Tcp { host: host.into(), port });
        assert_eq!(Target::parse("127.0.0.1:50051"), tcp("127.0.0.1", 50051));
        assert_eq!(Target::parse("[::1]:80"), tcp("::1", 80));
        assert_eq!(Target::parse("unix:/run/f.sock"), Some(Target::Unix("/run/f.sock".into())));
        assert_eq!(Target::parse("unix:///run/f.sock"), Some(Target::Unix("/run/f.sock".into())));
        for wrong in ["", "host", ":1", "host:", "host:65536", "unix:"] {
            assert_eq!(Target::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_timeout_has_at_most_eight_digits() {
        assert_eq!(grpc_timeout(50_000_000), "50000u");
        assert_eq!(grpc_timeout(1), "1u");
        assert_eq!(grpc_timeout(3_600_000_000_000), "3600000m");
    }
}
