//! The HTTP server: one-time URLs out, sessions in.

use std::convert::Infallible;
use std::future::ready;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use hyper::Request as HttpRequest;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::config::Config;
use crate::error::Error;
use crate::half_open::{HalfOpen, Place};
use crate::http::{Job, answer};
use crate::link::Stopping;
use crate::listen::{accept, authority, tune};
use crate::remotecommand::Times;
use crate::session::{AttachRequest, Backend, ExecRequest, Wanted};
use crate::tls::acceptor;
use crate::tokens::{PortForwardRequest, Request, Tokens};

/// Bytes of a request's head.
const MAX_HEAD: usize = 64 * 1024;
/// What the sessions' own limits at shutdown leave to the scheduler.
const SLACK: Duration = Duration::from_secs(1);

/// The server. Its clones are the same server.
#[derive(Clone)]
pub struct Server(Arc<Shared>);

struct Shared {
    config: Config,
    backend: Arc<dyn Backend>,
    listener: StdListener,
    tls: Option<RwLock<TlsAcceptor>>,
    /// `http://HOST:PORT`.
    base: String,
    address: SocketAddr,
    tokens: Tokens,
    half_open: Arc<HalfOpen>,
    sessions: AtomicUsize,
}

impl Server {
    /// Listens, and reads the certificate; URLs may be handed out from here on. Blocks for as long as the files take.
    pub fn bind(config: Config, backend: Arc<dyn Backend>) -> Result<Self, Error> {
        let tls = config.tls.as_ref().map(acceptor).transpose()?.map(RwLock::new);
        let listen = || -> io::Result<_> {
            let listener = StdListener::bind(config.address)?;
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok((listener, address))
        };
        let (listener, address) =
            listen().map_err(|source| Error::Listen { address: config.address, source })?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let base = format!("{scheme}://{}", authority(address, config.advertise.as_deref()));
        let tokens = Tokens::new(config.token_ttl, config.max_tokens);
        let half_open = HalfOpen::new(config.max_half_open);
        let sessions = AtomicUsize::new(0);
        Ok(Self(Arc::new(Shared {
            config,
            backend,
            listener,
            tls,
            base,
            address,
            tokens,
            half_open,
            sessions,
        })))
    }

    /// Reads the certificate and its key again: connections from now on get them. Nothing without TLS. Blocking.
    ///
    /// # Errors
    /// Files that are no certificate and key; those before stay in use.
    pub fn reload_certificate(&self) -> Result<(), Error> {
        if let (Some(files), Some(current)) = (&self.0.config.tls, &self.0.tls) {
            let renewed = acceptor(files)?;
            *current.write().unwrap_or_else(PoisonError::into_inner) = renewed;
        }
        Ok(())
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Sessions that run now.
    pub fn sessions(&self) -> usize {
        self.0.sessions.load(Ordering::Relaxed)
    }

    /// A URL for one exec.
    pub fn exec_url(&self, request: ExecRequest) -> Result<String, Error> {
        check(&request.container_id, request.wanted)?;
        if request.command.first().is_none_or(String::is_empty) {
            return Err(Error::NoCommand);
        }
        self.url(Request::Exec(request))
    }

    /// A URL for one attach.
    pub fn attach_url(&self, request: AttachRequest) -> Result<String, Error> {
        check(&request.container_id, request.wanted)?;
        self.url(Request::Attach(request))
    }

    /// A URL for one client's port-forwards. `ports` may be empty: most clients name them stream by stream, and those may
    /// name others.
    pub fn port_forward_url(&self, pod_sandbox_id: &str, ports: &[i32]) -> Result<String, Error> {
        if pod_sandbox_id.is_empty() {
            return Err(Error::NoSandbox);
        }
        let port = |port: &i32| u16::try_from(*port).ok().filter(|port| *port > 0).ok_or(Error::Port(*port));
        let ports = ports.iter().map(port).collect::<Result<_, _>>()?;
        self.url(Request::PortForward(PortForwardRequest {
            pod_sandbox_id: pod_sandbox_id.to_owned(),
            ports,
        }))
    }

    fn url(&self, request: Request) -> Result<String, Error> {
        let path = request.path();
        let token = self.0.tokens.insert(request)?;
        Ok(format!("{}/{path}/{token}", self.0.base))
    }

    /// Serves until `shutdown`; then accepts no more, tells the clients, and ends all sessions within
    /// [`Config::shutdown_timeout`] and a little. To be called once.
    pub async fn run(&self, shutdown: impl Future<Output = ()> + Send) -> Result<(), Error> {
        let listener = self
            .0
            .listener
            .try_clone()
            .and_then(TcpListener::from_std)
            .map_err(|source| Error::Listen { address: self.0.address, source })?;
        let (stop, stopping) = Stopping::new();
        let mut connections = JoinSet::new();
        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(_) = connections.join_next() => {}
                stream = accept(|cx| listener.poll_accept(cx)) => {
                    tune(&stream);
                    let place = self.0.half_open.enter();
                    connections.spawn(self.clone().connection(stream, place, stopping.clone()));
                }
            }
        }
        drop(listener);
        stop.send_replace(true);
        let all = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(self.0.config.shutdown_timeout + SLACK, all).await;
        connections.shutdown().await;
        Ok(())
    }

    async fn connection(self, stream: TcpStream, place: Place, mut stopping: Stopping) {
        let upgrade = async {
            let tls =
                self.0.tls.as_ref().map(|tls| tls.read().unwrap_or_else(PoisonError::into_inner).clone());
            match tls {
                None => self.upgrade(stream).await,
                Some(tls) => match tls.accept(stream).await {
                    Ok(stream) => self.upgrade(stream).await,
                    Err(error) => {
                        tracing::debug!(%error, "a streaming client's TLS handshake");
                        None
                    }
                },
            }
        };
        let upgraded = tokio::select! {
            upgraded = timeout(self.0.config.head_timeout, upgrade) => upgraded.ok().flatten(),
            () = place.evicted() => None,
            () = stopping.wait() => None,
        };
        drop(place);
        if let Some((io, job)) = upgraded {
            let _counted = Counted::new(&self.0.sessions);
            job.run(TokioIo::new(io), self.0.backend.clone(), self.0.times(), stopping).await;
        }
    }

    /// One request and its response; what to do with the connection, if that was a 101.
    async fn upgrade<T>(&self, stream: T) -> Option<(Upgraded, Job)>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let found = Mutex::new(None);
        let service = service_fn(|request: HttpRequest<Incoming>| {
            let (response, job) = answer(&self.0.tokens, &request);
            if let Some(job) = job {
                let next = Some((hyper::upgrade::on(request), job));
                *found.lock().unwrap_or_else(PoisonError::into_inner) = next;
            }
            ready(Ok::<_, Infallible>(response))
        });
        // The limit around this one is the one that counts; hyper's own would need a timer.
        let connection = http1::Builder::new()
            .header_read_timeout(None)
            .max_buf_size(MAX_HEAD)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a streaming client's request");
        }
        let (upgrade, job) = found.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some((upgrade.await.ok()?, job))
    }
}

impl Shared {
    fn times(&self) -> Times {
        Times {
            streams: self.config.stream_creation_timeout,
            idle: self.config.idle_timeout,
            close: self.config.close_timeout,
            shutdown: self.config.shutdown_timeout,
        }
    }
}

/// A session that is counted for as long as it runs.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(sessions: &'a AtomicUsize) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(sessions)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn check(container_id: &str, wanted: Wanted) -> Result<(), Error> {
    if container_id.is_empty() {
        return Err(Error::NoContainer);
    }
    if wanted.tty && wanted.stderr {
        return Err(Error::TerminalWithStderr);
    }
    if !wanted.stdin && !wanted.stdout && !wanted.stderr {
        return Err(Error::NoStream);
    }
    Ok(())
}
