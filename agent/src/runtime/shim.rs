//! The agent's end of a shim: calls with answers, and what it says by itself.

use std::{
    collections::HashMap,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use holdfast_pod::{
    channel::{self, ChannelError},
    protocol::{Answer, Call, Event, Failure, FdRole, Packet, Request, SOCKET_NAME},
};
use holdfast_sys::{error::CallError, failpoint, socket};
use tokio::{
    io::unix::AsyncFd,
    sync::{mpsc, oneshot},
    time::timeout,
};

/// Longest wait for an answer that needs no work of the kernel's.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Longest wait for a shim to take a connection.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);

/// Why a shim could not be asked.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ShimError {
    #[error("start the shim")]
    Spawn { source: holdfast_pod::executable::ExecutableError },
    #[error("connect to shim")]
    Connect { source: CallError },
    #[error("{operation} shim's socket")]
    Socket { operation: &'static str, source: io::Error },
    #[error("send {request} to shim")]
    Send { request: &'static str, source: ChannelError },
    #[error("shim ended before it answered {request}")]
    Gone { request: &'static str },
    #[error("shim gave no answer to {request} within {} s", limit.as_secs())]
    Timeout { request: &'static str, limit: Duration },
    #[error("shim answered {request} with something else")]
    Unexpected { request: &'static str },
    #[error(transparent)]
    Failed(#[from] Failure),
}

thread_local! {
    /// Receiving never waits, so all connections of a worker share one buffer.
    static BUFFER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(channel::buffer());
}

/// What the connection brings by itself.
#[derive(Debug)]
pub enum Notice {
    /// An event of the container.
    Event(Event),
    /// The shim is gone: nothing follows.
    Closed,
}

#[derive(Debug, Default)]
struct Waiting {
    answers: HashMap<u64, mpsc::UnboundedSender<(Answer, Vec<OwnedFd>)>>,
    execs: HashMap<u64, oneshot::Sender<ExecEnd>>,
    /// Attaches that may be cut off.
    cuts: HashMap<u64, oneshot::Sender<String>>,
    closed: bool,
}

/// How an exec ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExecEnd {
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
    /// The time limit ended it.
    pub timed_out: bool,
}

/// A connection to a shim.
#[derive(Debug)]
pub struct Shim {
    socket: AsyncFd<OwnedFd>,
    next: AtomicU64,
    waiting: Mutex<Waiting>,
}

impl Shim {
    /// Takes a connected socket. Notices go to `notices`, in order.
    pub fn new(socket: OwnedFd, notices: mpsc::UnboundedSender<Notice>) -> Result<Arc<Self>, ShimError> {
        rustix::io::ioctl_fionbio(&socket, true)
            .map_err(|errno| ShimError::Socket { operation: "prepare", source: errno.into() })?;
        let socket = super::async_fd::async_fd(socket)
            .map_err(|source| ShimError::Socket { operation: "register", source })?;
        // Exec ids must differ from those of an agent before us; the clock does that.
        let next = AtomicU64::new(u64::try_from(super::blocking::now_ns()).unwrap_or(1));
        let shim = Arc::new(Self { socket, next, waiting: Mutex::default() });
        tokio::spawn(shim.clone().read(notices));
        Ok(shim)
    }

    /// Connects to the shim that has its socket in `run_dir`; [`Self::new`] takes it. Blocking, while the shim's queue of
    /// connections is full.
    pub fn open(run_dir: &Path) -> Result<OwnedFd, ShimError> {
        let dir = failpoint::at("runtime.shim.connect")
            .and_then(|()| std::fs::File::open(run_dir))
            .map_err(|source| ShimError::Socket { operation: "open directory of", source })?;
        socket::connect_at(dir.as_fd(), SOCKET_NAME, CONNECT_LIMIT)
            .map_err(|source| ShimError::Connect { source })
    }

    /// Sends a request and waits for its one answer.
    pub async fn call(
        &self,
        request: Request,
        fds: &[(FdRole, BorrowedFd<'_>)],
        limit: Duration,
    ) -> Result<Answer, ShimError> {
        self.call_with_fds(request, fds, limit).await.map(|(answer, _)| answer)
    }

    /// Sends a request and waits for its one answer and the descriptors that it brings.
    pub async fn call_with_fds(
        &self,
        request: Request,
        fds: &[(FdRole, BorrowedFd<'_>)],
        limit: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), ShimError> {
        let name = request_name(&request);
        let mut answers = self.begin(request, fds).await?;
        answers.next_with_fds(name, limit).await
    }

    /// Sends a request that answers with nothing.
    pub async fn order(&self, request: Request) -> Result<(), ShimError> {
        self.order_within(ANSWER_LIMIT, request).await
    }

    /// The same with a limit of its own, for who has other ways.
    pub async fn order_within(&self, limit: Duration, request: Request) -> Result<(), ShimError> {
        let name = request_name(&request);
        match timeout(limit, self.call(request, &[], limit)).await {
            Ok(Ok(Answer::Ok)) => Ok(()),
            Ok(Ok(_)) => Err(ShimError::Unexpected { request: name }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ShimError::Timeout { request: name, limit }),
        }
    }

    /// Sends a request that may have more than one answer.
    pub async fn begin(
        &self,
        request: Request,
        fds: &[(FdRole, BorrowedFd<'_>)],
    ) -> Result<Answers<'_>, ShimError> {
        let name = request_name(&request);
        let seq = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        {
            let mut waiting = self.lock();
            if waiting.closed {
                return Err(ShimError::Gone { request: name });
            }
            waiting.answers.insert(seq, sender);
        }
        let answers = Answers { shim: self, seq, receiver };
        let call = Call { seq, request, fds: fds.iter().map(|(role, _)| *role).collect() };
        let fds: Vec<BorrowedFd<'_>> = fds.iter().map(|(_, fd)| *fd).collect();
        timeout(ANSWER_LIMIT, self.send(name, &call, &fds))
            .await
            .map_err(|_| ShimError::Timeout { request: name, limit: ANSWER_LIMIT })??;
        Ok(answers)
    }

    /// A number for an exec, and its end when it comes.
    pub fn expect_exec(&self) -> (u64, oneshot::Receiver<ExecEnd>) {
        let exec_id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().execs.insert(exec_id, sender);
        (exec_id, receiver)
    }

    /// Nobody waits for that exec any more.
    pub fn forget_exec(&self, exec_id: u64) {
        self.lock().execs.remove(&exec_id);
    }

    /// A number for an attach, and the reason when the shim cuts it off.
    pub fn expect_cut(&self) -> (u64, oneshot::Receiver<String>) {
        let attach_id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.lock().cuts.insert(attach_id, sender);
        (attach_id, receiver)
    }

    /// That attach is over.
    pub fn forget_cut(&self, attach_id: u64) {
        self.lock().cuts.remove(&attach_id);
    }

    async fn send(&self, name: &'static str, call: &Call, fds: &[BorrowedFd<'_>]) -> Result<(), ShimError> {
        loop {
            let mut ready = self
                .socket
                .writable()
                .await
                .map_err(|source| ShimError::Socket { operation: "wait for", source })?;
            match channel::send(self.socket.get_ref().as_fd(), call, fds) {
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                Err(source) => return Err(ShimError::Send { request: name, source }),
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn read(self: Arc<Self>, notices: mpsc::UnboundedSender<Notice>) {
        while let Ok(mut ready) = self.socket.readable().await {
            match BUFFER.with_borrow_mut(|buffer| channel::recv::<Packet>(self.socket.get_ref(), buffer)) {
                Ok(Some((packet, fds))) => self.dispatch(packet, fds, &notices),
                Err(ChannelError::WouldBlock) => ready.clear_ready(),
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "shim said what cannot be understood; its connection is closed");
                    break;
                }
            }
        }
        {
            let mut waiting = self.lock();
            waiting.closed = true;
            waiting.answers.clear();
            waiting.execs.clear();
            waiting.cuts.clear();
        }
        let _ = notices.send(Notice::Closed);
    }

    fn dispatch(&self, packet: Packet, fds: Vec<OwnedFd>, notices: &mpsc::UnboundedSender<Notice>) {
        match packet {
            Packet::Answer { seq, answer } => {
                if let Some(sender) = self.lock().answers.get(&seq) {
                    let _ = sender.send((answer, fds));
                }
            }
            Packet::Event(Event::ExecExited { exec_id, exit_code, timed_out }) => {
                if let Some(sender) = self.lock().execs.remove(&exec_id) {
                    let _ = sender.send(ExecEnd { exit_code, timed_out });
                }
            }
            Packet::Event(Event::AttachCut { attach_id, reason }) => {
                if let Some(sender) = self.lock().cuts.remove(&attach_id) {
                    let _ = sender.send(reason);
                }
            }
            Packet::Event(event) => {
                let _ = notices.send(Notice::Event(event));
            }
            Packet::Unknown(_) => tracing::debug!("a newer shim says what only a newer agent knows"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers to one request.
#[derive(Debug)]
pub struct Answers<'a> {
    shim: &'a Shim,
    seq: u64,
    receiver: mpsc::UnboundedReceiver<(Answer, Vec<OwnedFd>)>,
}

impl Answers<'_> {
    /// The next one; a failure is an error.
    pub async fn next(&mut self, request: &'static str, limit: Duration) -> Result<Answer, ShimError> {
        self.next_with_fds(request, limit).await.map(|(answer, _)| answer)
    }

    async fn next_with_fds(
        &mut self,
        request: &'static str,
        limit: Duration,
    ) -> Result<(Answer, Vec<OwnedFd>), ShimError> {
        match timeout(limit, self.receiver.recv()).await {
            Err(_) => Err(ShimError::Timeout { request, limit }),
            Ok(None) => Err(ShimError::Gone { request }),
            Ok(Some((Answer::Failed(failure), _))) => Err(failure.into()),
            Ok(Some(answer)) => Ok(answer),
        }
    }
}

impl Drop for Answers<'_> {
    fn drop(&mut self) {
        self.shim.lock().answers.remove(&self.seq);
    }
}

fn request_name(request: &Request) -> &'static str {
    match request {
        Request::Create(_) => "Create",
        Request::Placed => "Placed",
        Request::Commit => "Commit",
        Request::Start => "Start",
        Request::Exec(_) => "Exec",
        Request::KillExec { .. } => "KillExec",
        Request::Attach(_) => "Attach",
        Request::Signal { .. } => "Signal",
        Request::Kill => "Kill",
        Request::State => "State",
        Request::ReopenLog => "ReopenLog",
        Request::Resize { .. } => "Resize",
        Request::Shutdown => "Shutdown",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Its answers and events that only a newer agent knows end neither the connection nor a wait.
    #[tokio::test]
    async fn a_newer_shim_is_understood_as_far_as_can_be() {
        let (ours, theirs) = socket::pair().unwrap();
        let (sender, mut notices) = mpsc::unbounded_channel();
        let shim = Shim::new(ours, sender).unwrap();
        let newer = tokio::task::spawn_blocking(move || {
            for answer in [json!({"paused": {"since": 1}}), json!("ok")] {
                let (call, _) = channel::recv_timeout::<Call>(&theirs, &mut channel::buffer(), ANSWER_LIMIT)
                    .unwrap()
                    .unwrap();
                for packet in [
                    json!({"event": {"pressure": 7}}),
                    json!({"progress": 5}),
                    json!({"answer": {"seq": call.seq, "answer": answer, "more": []}}),
                ] {
                    channel::send(&theirs, &packet, &[]).unwrap();
                }
            }
        });
        let answer = shim.call(Request::State, &[], ANSWER_LIMIT).await.unwrap();
        assert!(matches!(answer, Answer::Unknown(_)), "{answer:?}");
        shim.order(Request::Kill).await.unwrap();
        newer.await.unwrap();
        for _ in 0..2 {
            assert!(matches!(notices.recv().await, Some(Notice::Event(Event::Unknown(_)))));
        }
        assert!(matches!(notices.recv().await, Some(Notice::Closed)));
    }
}
