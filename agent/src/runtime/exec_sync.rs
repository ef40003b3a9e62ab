//! ExecSync: a process in a running container, its output and its exit code.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use holdfast_pod::{
    launch::ExecLaunch,
    protocol::{Answer, Exec, FdRole, Phase, Request},
};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

use super::{
    Error, Runtime,
    blocking::blocking,
    create_container::sealed,
    object::Container,
    pipes,
    shim::{ANSWER_LIMIT, Shim, ShimError},
};

/// Most that is kept of both streams together, in bytes; the rest is read and dropped. Clients take no longer answer than 16 MiB
/// (the kubelet's maxMsgSize).
const OUTPUT_LIMIT: usize = (16 << 20) - (64 << 10);
/// Most that all calls keep together, in bytes. A call that comes later keeps what is left.
const SHARED_LIMIT: usize = 64 << 20;
/// Bytes that a call may keep however many calls there are: more than a probe says.
const OWN_LIMIT: usize = 64 << 10;
/// How long output is read after the exit while a child of the process still holds the pipes.
const DRAIN: Duration = Duration::from_secs(2);
/// How much later than the shim's limit the agent gives up by itself.
const SLACK: Duration = Duration::from_secs(10);

/// What a command said and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Standard output, with standard error at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code, or 128 + signal.
    pub exit_code: i32,
}

impl Runtime {
    /// Runs `command` in a running container. `timeout_s` 0 or less: no limit. Past the limit the process is killed.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout_s: i64,
    ) -> Result<ExecOutput, Error> {
        if command.is_empty() {
            return Err(Error::BadRequest { field: "cmd", problem: "a command is needed".to_owned() });
        }
        let container = self.container(id)?;
        let shim = container.running_shim("ExecSync").await?;
        let (launch, seccomp) = self.exec_launch(&container, &command, false).await?;
        let (stdout, stdout_end) = pipes::output(&container)?;
        let (stderr, stderr_end) = pipes::output(&container)?;
        let (exec_id, end) = shim.expect_exec();
        let mut guard = ExecGuard { shim: &shim, exec_id, over: false };
        let limit_ms = u64::try_from(timeout_s).unwrap_or(0).saturating_mul(1000);
        let mut fds = vec![
            (FdRole::Process, launch.as_fd()),
            (FdRole::Stdout, stdout_end.as_fd()),
            (FdRole::Stderr, stderr_end.as_fd()),
        ];
        fds.extend(seccomp.as_ref().map(|fd| (FdRole::Seccomp, fd.as_fd())));
        let failed = |source| Error::Shim { operation: "exec in", id: container.id.to_string(), source };
        let request =
            Request::Exec(Exec { exec_id, timeout_ms: limit_ms, kill_on_disconnect: true, tty: false });
        let answer = shim.call(request, &fds, ANSWER_LIMIT).await.map_err(|source| match source {
            // It ended while we asked.
            ShimError::Gone { .. } => container.ended_under("ExecSync"),
            source => failed(source),
        })?;
        match answer {
            Answer::ExecStarted { .. } => {}
            _ => return Err(failed(ShimError::Unexpected { request: "Exec" })),
        }
        drop((stdout_end, stderr_end, launch, seccomp));
        let ended = async {
            let bounded = async {
                if limit_ms == 0 {
                    return end.await.ok();
                }
                timeout(Duration::from_millis(limit_ms) + SLACK, end).await.ok()?.ok()
            };
            bounded.await
        };
        let room = Room::new(&SHARED);
        let (end, stdout, stderr) = collect(ended, stdout, stderr, &room).await;
        let timed_out =
            || Error::ExecTimeout { id: container.id.to_string(), command: command.join(" "), timeout_s };
        guard.over = end.is_some();
        match end {
            Some(end) if end.timed_out => Err(timed_out()),
            Some(end) => Ok(ExecOutput { stdout, stderr, exit_code: end.exit_code }),
            None if limit_ms != 0 && container.phase() == Phase::Running => Err(timed_out()),
            None => Err(failed(ShimError::Gone { request: "Exec" })),
        }
    }

    /// The process of an exec is the container's own with another command.
    pub(super) async fn exec_launch(
        &self,
        container: &Arc<Container>,
        command: &[String],
        tty: bool,
    ) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
        let base = if let Some(base) = container.known_exec_base() {
            base
        } else {
            let (compiler, container) = (self.seccomp.clone(), container.clone());
            blocking(move || container.load_exec_base(&compiler)).await?
        };
        let user = &container.record.get().init.user;
        let process = holdfast_spec::exec_process(&base.process, user, command, tty)
            .map_err(|source| Error::Spec { operation: "exec", source })?;
        let launch = ExecLaunch { process, raw_env: base.raw_env.clone(), seccomp_flags: base.seccomp_flags };
        let bytes = serde_json::to_vec(&launch).map_err(|error| Error::Io {
            operation: "encode an exec of",
            path: container.dir.clone(),
            source: error.into(),
        })?;
        let launch = sealed("holdfast-exec", &bytes, &container.dir)?;
        let program = base.program.as_ref().map(|program| {
            // A description of its own for each: they share no offset.
            sealed("holdfast-seccomp", program.bytes(), &container.dir)
        });
        Ok((launch, program.transpose()?))
    }
}

/// Kills the process if the request goes away before its end.
struct ExecGuard<'a> {
    shim: &'a Arc<Shim>,
    exec_id: u64,
    over: bool,
}

impl Drop for ExecGuard<'_> {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        self.shim.forget_exec(self.exec_id);
        let (shim, exec_id) = (self.shim.clone(), self.exec_id);
        tokio::spawn(async move {
            let _ = shim.order(Request::KillExec { exec_id }).await;
        });
    }
}

/// Reads both streams while the process runs, and for a bounded time after its end.
async fn collect<E>(
    end: impl Future<Output = Option<E>>,
    mut stdout: pipe::Receiver,
    mut stderr: pipe::Receiver,
    room: &Room<'_>,
) -> (Option<E>, Vec<u8>, Vec<u8>) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let ended = {
        let reading = async {
            tokio::join!(read_capped(&mut stdout, &mut out, room), read_capped(&mut stderr, &mut err, room))
        };
        tokio::pin!(reading, end);
        let mut read_all = false;
        let ended = loop {
            tokio::select! {
                ended = &mut end => break ended,
                _ = &mut reading, if !read_all => read_all = true,
            }
        };
        if !read_all {
            let _ = timeout(DRAIN, reading).await;
        }
        ended
    };
    (ended, out, err)
}

async fn read_capped(from: &mut pipe::Receiver, into: &mut Vec<u8>, room: &Room<'_>) {
    let mut chunk = vec![0_u8; 8192];
    while let Ok(count @ 1..) = from.read(&mut chunk).await {
        into.extend_from_slice(&chunk[..room.take(count)]);
    }
}

/// Bytes that all calls keep now beyond what is each one's own.
static SHARED: AtomicUsize = AtomicUsize::new(0);

/// The output that one call may keep.
#[derive(Debug)]
struct Room<'a> {
    shared: &'a AtomicUsize,
    /// Bytes; those beyond [`OWN_LIMIT`] are of `shared`.
    kept: AtomicUsize,
}

impl<'a> Room<'a> {
    fn new(shared: &'a AtomicUsize) -> Self {
        Self { shared, kept: AtomicUsize::new(0) }
    }

    /// The part of `count` more bytes that is kept. One call's streams are read by one task, so nobody comes in between.
    fn take(&self, count: usize) -> usize {
        let kept = self.kept.load(Ordering::Relaxed);
        let count = count.min(OUTPUT_LIMIT - kept);
        let own = count.min(OWN_LIMIT.saturating_sub(kept));
        let more = take_up_to(self.shared, count - own);
        self.kept.store(kept + own + more, Ordering::Relaxed);
        own + more
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.shared.fetch_sub(self.kept.get_mut().saturating_sub(OWN_LIMIT), Ordering::Relaxed);
    }
}

fn take_up_to(shared: &AtomicUsize, count: usize) -> usize {
    let mut taken = 0;
    let add = |now: usize| {
        taken = count.min(SHARED_LIMIT - now);
        Some(now + taken)
    };
    let _ = shared.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_its_own_and_a_part_of_what_all_share() {
        let shared = AtomicUsize::new(0);
        let calls: Vec<Room<'_>> = (0..8).map(|_| Room::new(&shared)).collect();
        let kept: Vec<usize> = calls.iter().map(|call| call.take(1 << 30)).collect();
        assert_eq!(kept[..4], [OUTPUT_LIMIT; 4]);
        assert_eq!(kept[5..], [OWN_LIMIT; 3], "{kept:?}");
        assert_eq!(kept.iter().sum::<usize>(), SHARED_LIMIT + 8 * OWN_LIMIT);
        assert_eq!(calls[0].take(1), 0);
        drop(calls);
        assert_eq!(shared.load(Ordering::Relaxed), 0);
        assert_eq!(Room::new(&shared).take(100), 100);
    }
}
