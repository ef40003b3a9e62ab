//! Connections into a pod.
//!
//! A socket belongs to the network namespace that its maker was in. A thread of its own enters the pod's, makes the sockets
//! and ends; connecting them is possible from anywhere. One open socket keeps a namespace, and the pod's end of the veth,
//! alive: a pod that is stopped closes all of them first.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use holdfast_model::NamespaceMode;
use holdfast_pod::holder::Holder;
use holdfast_sys::ns;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use super::super::{Error, Runtime, blocking::blocking, object::Pod};

/// Loopback either answers at once or has a full queue.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// The connections into one pod.
#[derive(Debug, Default)]
pub struct Forwards(Mutex<Vec<Weak<Mutex<Open>>>>);

impl Forwards {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Mutex<Open>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, stream: TcpStream) -> Forward {
        let open = Arc::new(Mutex::new(Open { stream: Some(stream), reader: None, writer: None }));
        let mut all = self.lock();
        all.retain(|one| one.strong_count() > 0);
        all.push(Arc::downgrade(&open));
        Forward(open)
    }

    /// Closes all of them, and wakes whoever waits for one.
    pub fn close(&self) {
        for open in self.lock().drain(..).filter_map(|one| one.upgrade()) {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            open.stream = None;
            open.reader.take().into_iter().chain(open.writer.take()).for_each(Waker::wake);
        }
    }
}

#[derive(Debug)]
struct Open {
    stream: Option<TcpStream>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// A connection that its pod can close.
#[derive(Debug)]
pub struct Forward(Arc<Mutex<Open>>);

impl Runtime {
    /// Connects to a port of the pod's loopback, by IPv4 and then IPv6.
    pub(super) async fn dial(&self, id: &str, port: u16) -> Result<Forward, Error> {
        let pod = self.pod(id)?;
        let not_ready = || Error::PodNotReady { id: pod.id.to_string() };
        let holder = pod.holder().filter(|_| pod.is_ready()).ok_or_else(not_ready)?;
        let of_pod = pod.record.get().config.security.namespaces.network != NamespaceMode::Node;
        let sockets = blocking(move || sockets(of_pod.then_some(&*holder))).await;
        let io = |operation| {
            let path = pod.dir.clone();
            move |source| Error::Io { operation, path, source }
        };
        let [four, six] = sockets.map_err(io("make a socket in the network of"))?;
        let addresses = [
            (four, SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
            (six, SocketAddr::from((Ipv6Addr::LOCALHOST, port))),
        ];
        let mut refused = None;
        for (socket, address) in addresses {
            // A node without IPv6 has no such sockets.
            let Some(socket) = socket else { continue };
            match timeout(CONNECT_LIMIT, connect(socket, address)).await {
                Ok(Ok(stream)) => return keep(&pod, stream).ok_or_else(not_ready),
                Ok(Err(error)) => {
                    refused.get_or_insert(error);
                }
                Err(_) => {
                    refused.get_or_insert(io::ErrorKind::TimedOut.into());
                }
            }
        }
        let source = refused.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into());
        Err(Error::Dial { pod: pod.id.to_string(), port, source })
    }
}

/// `None`: the pod was stopped meanwhile.
fn keep(pod: &Arc<Pod>, stream: TcpStream) -> Option<Forward> {
    let _ = stream.set_nodelay(true);
    let forward = pod.forwards.add(stream);
    // Stopping takes the holder away before it closes what is there.
    pod.holder().is_some().then_some(forward)
}

async fn connect(socket: OwnedFd, address: SocketAddr) -> io::Result<TcpStream> {
    TcpSocket::from_std_stream(socket.into()).connect(address).await
}

/// An IPv4 and an IPv6 socket, made inside. The thread is the caller's guard against a namespace that sticks to a worker.
fn sockets(holder: Option<&Holder>) -> io::Result<[Option<OwnedFd>; 2]> {
    let make =
        |family| socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None);
    let both =
        || -> io::Result<_> { Ok([Some(make(AddressFamily::INET)?), make(AddressFamily::INET6).ok()]) };
    let Some(holder) = holder else { return both() };
    std::thread::scope(|scope| {
        let inside = std::thread::Builder::new().name("pod-socket".to_owned()).stack_size(64 << 10);
        let thread = inside.spawn_scoped(scope, || {
            ns::join(holder.pidfd().as_fd(), ns::NEWNET).map_err(io::Error::from)?;
            both()
        })?;
        thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
    })
}

impl Forward {
    fn with<T>(
        &self,
        cx: &mut Context<'_>,
        waker: impl FnOnce(&mut Open) -> &mut Option<Waker>,
        poll: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(stream) = open.stream.as_mut() else {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the pod is stopped")));
        };
        let polled = poll(Pin::new(stream), cx);
        if polled.is_pending() {
            *waker(&mut open) = Some(cx.waker().clone());
        }
        polled
    }
}

impl AsyncRead for Forward {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(cx, |open| &mut open.reader, |stream, cx| stream.poll_read(cx, buffer))
    }
}

impl AsyncWrite for Forward {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.with(cx, |open| &mut open.writer, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, |open| &mut open.writer, TcpStream::poll_flush)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(cx, |open| &mut open.writer, TcpStream::poll_shutdown)
    }
}
