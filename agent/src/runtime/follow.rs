//! Following a shim: from the connection that made it, or from a restart of the agent, to the end of its process.
//!
//! ```text
//!               answers State                  says Exited
//!  Waiting  ------------------->  Connected  -------------------> Ended
//!     |  \                          |   connection lost             ^
//!     |   `<------------------------'                               |
//!     | no answer for a while                 its process is dead   |
//!     `--------> Silent  -------------------------------------------'
//!                   `-----> Connected, as soon as it answers
//! ```
//!
//! A shim may be stopped, swapped out or stuck behind a disk, and its container is well. So neither a connection that fails nor
//! an answer that does not come says anything of the container; only the end of the shim's process does.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use holdfast_model::chain;
use holdfast_pod::protocol::{Answer, Event, Phase, Request, State, VERSION};
use holdfast_sys::error::CallError;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};

use super::{
    Runtime,
    backoff::Backoff,
    blocking::blocking,
    monitor::{log_warning, reap_now, wait_end},
    object::{Container, Link},
    shim::{ANSWER_LIMIT, Notice, Shim, ShimError},
};

/// Most shims that are connected to at the same time: a connection takes a thread until it is made.
pub const AT_ONCE: usize = 16;
/// A shim that says nothing for so long is silent.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest wait for a shim to say where its container stands. Its question waits in its socket, so there is no need to ask again.
const STATE_LIMIT: Duration = Duration::from_hours(1);
/// The wait before the second attempt to connect.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// How often a shim is asked whether a start is over that an agent before us has begun.
const START_PAUSE: Duration = Duration::from_millis(100);

type Notices = mpsc::UnboundedReceiver<Notice>;

/// Reasons not to have a connection yet.
#[derive(Debug, thiserror::Error)]
enum ReachError {
    #[error("look for the shim's process")]
    Process(#[source] CallError),
    #[error(transparent)]
    Shim(#[from] ShimError),
}

impl Runtime {
    /// Follows a container's shim to its end: over the connection that these notices come from, or over one that is to be made.
    pub(super) fn follow_shim(&self, container: &Arc<Container>, notices: Option<Notices>) {
        let (runtime, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let mut connected = notices;
            loop {
                let notices = match connected.take() {
                    Some(notices) => notices,
                    None => match runtime.connect_shim(&container).await {
                        Some(notices) => notices,
                        None => return runtime.shim_gone(&container).await,
                    },
                };
                if runtime.listen(&container, notices).await {
                    return;
                }
                container.link.send_replace(Link::Waiting);
            }
        });
    }

    /// Hears a shim until the container has exited, or, `false`, its connection is lost.
    async fn listen(&self, container: &Arc<Container>, mut notices: Notices) -> bool {
        while let Some(notice) = notices.recv().await {
            match notice {
                Notice::Event(Event::Exited(record)) => {
                    self.container_exited(container, record).await;
                    return true;
                }
                Notice::Event(Event::OomKilled) => {
                    tracing::info!(container_id = %container.id, "out of memory: a process was killed");
                }
                Notice::Event(Event::Warning { text }) => log_warning(container, &text),
                Notice::Event(Event::ExecExited { .. } | Event::AttachCut { .. }) => {}
                Notice::Event(Event::Unknown(_)) => {
                    tracing::debug!(container_id = %container.id, "its newer shim tells of what only a newer agent knows");
                }
                Notice::Closed => break,
            }
        }
        false
    }

    /// Connects, however long it takes. `None`: the shim's process is dead.
    async fn connect_shim(&self, container: &Arc<Container>) -> Option<Notices> {
        let mut backoff = Backoff::new(FIRST_WAIT);
        loop {
            let process = self.shim_process(container).await;
            let error = match &process {
                Ok(None) => return None,
                Ok(Some(pidfd)) => tokio::select! {
                    () = wait_end(pidfd) => { reap_now(pidfd); return None }
                    connected = self.ask_shim(container) => match connected {
                        Ok(notices) => return Some(notices),
                        Err(error) => chain(&error),
                    },
                },
                Err(error) => chain(error),
            };
            let wait = backoff.wait();
            if wait >= SILENCE {
                call_silent(container, &error);
            }
            tracing::debug!(container_id = %container.id, error, "no connection to the shim yet");
            match &process {
                Ok(Some(pidfd)) => tokio::select! {
                    () = wait_end(pidfd) => { reap_now(pidfd); return None }
                    () = sleep(wait) => {}
                },
                _ => sleep(wait).await,
            }
        }
    }

    /// The shim's process while it lives. A zombie does not.
    async fn shim_process(&self, container: &Container) -> Result<Option<OwnedFd>, ReachError> {
        let record = container.record.get();
        let Some(name) = record.shim.filter(|_| record.boot_id == self.boot_id) else { return Ok(None) };
        blocking(move || {
            let found = holdfast_sys::proc::open_identified(name.pid, name.start_time)?;
            let Some(pidfd) = found else { return Ok(None) };
            let is_dead = holdfast_sys::pidfd::wait_exit(&pidfd, Duration::ZERO)?;
            Ok((!is_dead).then_some(pidfd))
        })
        .await
        .map_err(ReachError::Process)
    }

    /// Connects to a shim and learns where its container stands.
    async fn ask_shim(&self, container: &Arc<Container>) -> Result<Notices, ReachError> {
        let (sender, notices) = mpsc::unbounded_channel();
        let run_dir = self.run_dir(&container.id);
        let socket = {
            let _turn = self.shim_turns.acquire().await;
            blocking(move || Shim::open(&run_dir)).await?
        };
        let shim = Shim::new(socket, sender)?;
        let answer = self.hear(container, &shim).await?;
        let Answer::State(state) = answer else {
            return Err(ShimError::Unexpected { request: "State" }.into());
        };
        if state.version > VERSION {
            let (shim, agent) = (state.version, VERSION);
            tracing::info!(container_id = %container.id, shim, agent, "the container's shim is of a newer holdfast");
        }
        learn(container, &state).await;
        let before = container.link.send_replace(Link::Connected(shim.clone()));
        if matches!(before, Link::Silent) {
            tracing::info!(container_id = %container.id, "the shim answers again");
        }
        if state.starting {
            tokio::spawn(follow_start(container.clone(), shim));
        }
        Ok(notices)
    }

    /// Asks a shim for its container's state and waits for the answer, which makes it silent after a while.
    async fn hear(&self, container: &Container, shim: &Shim) -> Result<Answer, ShimError> {
        let answer = shim.call(Request::State, &[], STATE_LIMIT);
        tokio::pin!(answer);
        if let Ok(answer) = timeout(SILENCE, &mut answer).await {
            return answer;
        }
        call_silent(container, "it does not answer");
        answer.await
    }
}

/// A Start that an agent before us has called has nobody who waits for its answer: waits until it is over, with what it
/// has come to recorded. The shim bounds a start.
pub(super) async fn follow_start(container: Arc<Container>, shim: Arc<Shim>) {
    while let Ok(Answer::State(state)) = shim.call(Request::State, &[], ANSWER_LIMIT).await {
        if !state.starting {
            return learn(&container, &state).await;
        }
        sleep(START_PAUSE).await;
    }
}

/// Records what a shim has said, if that is news.
async fn learn(container: &Container, state: &State) {
    let record = container.record.get();
    let runs = state.phase == Phase::Running && record.phase == Phase::Created;
    if runs || state.started_at_ns > record.started_at_ns {
        let started_at_ns = state.started_at_ns;
        container
            .record
            .note(|record| {
                if record.phase == Phase::Created && runs {
                    record.phase = Phase::Running;
                }
                record.started_at_ns = started_at_ns.max(record.started_at_ns);
            })
            .await;
    }
}

fn call_silent(container: &Container, why: &str) {
    let is_new = container.link.send_if_modified(|link| {
        let is_new = matches!(link, Link::Waiting);
        if is_new {
            *link = Link::Silent;
        }
        is_new
    });
    if is_new {
        let pid = container.record.get().shim.map_or(0, |shim| shim.pid);
        tracing::warn!(
            container_id = %container.id,
            pid,
            why,
            "the shim lives but cannot be asked: the container is taken to be as it was recorded"
        );
    }
}
