//! An exec whose streams a client has.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use holdfast_pod::protocol::{Answer, Exec, FdRole, Request};
use holdfast_streaming::session::{Outcome, Session, Sink, Source};

use super::{
    super::{
        Error, Runtime,
        object::Container,
        pipes,
        shim::{ANSWER_LIMIT, Shim, ShimError},
    },
    Failure, Wanted,
    terminal::Terminal,
};

/// Our ends.
#[derive(Default)]
struct Ours {
    stdin: Option<Sink>,
    stdout: Option<Source>,
    stderr: Option<Source>,
    resize: Option<Box<dyn FnMut(u16, u16) + Send>>,
    /// To be told of the process's end.
    terminal: Option<Terminal>,
}

/// The process's ends.
type Theirs = Vec<(FdRole, OwnedFd)>;

impl Runtime {
    /// Starts `command` with the streams that are wanted. It is killed if the agent ends before it; a client that goes away
    /// ends its stdin, or hangs up its terminal.
    pub(super) async fn open_exec(
        &self,
        id: &str,
        command: &[String],
        wanted: Wanted,
    ) -> Result<Session, Error> {
        let container = self.container(id)?;
        let shim = container.running_shim("Exec").await?;
        let (launch, seccomp) = self.exec_launch(&container, command, wanted.tty).await?;
        let (mut ours, theirs) = if wanted.tty { Default::default() } else { pipes(&container, wanted)? };
        let mut fds = vec![(FdRole::Process, launch.as_fd())];
        fds.extend(seccomp.as_ref().map(|fd| (FdRole::Seccomp, fd.as_fd())));
        fds.extend(theirs.iter().map(|(role, fd)| (*role, fd.as_fd())));
        let failed = |source| Error::Shim { operation: "exec in", id: container.id.to_string(), source };
        let (exec_id, end) = shim.expect_exec();
        let forget = Forget { shim: shim.clone(), exec_id };
        let request =
            Request::Exec(Exec { exec_id, timeout_ms: 0, kill_on_disconnect: true, tty: wanted.tty });
        let (answer, passed) =
            shim.call_with_fds(request, &fds, ANSWER_LIMIT).await.map_err(|source| match source {
                // It ended while we asked.
                ShimError::Gone { .. } => container.ended_under("Exec"),
                source => failed(source),
            })?;
        let Answer::ExecStarted { .. } = answer else {
            return Err(failed(ShimError::Unexpected { request: "Exec" }));
        };
        drop(theirs);
        if wanted.tty {
            let master = passed.into_iter().next();
            let master = master.ok_or_else(|| failed(ShimError::Unexpected { request: "Exec" }))?;
            ours = terminal(&container, master, wanted)?;
        }
        let Ours { stdin, stdout, stderr, resize, terminal } = ours;
        let end = Box::pin(async move {
            let _forget = forget;
            let end = end.await;
            if let Some(terminal) = terminal {
                terminal.process_has_ended();
            }
            end.map(|end| Outcome::Exited(end.exit_code)).map_err(|_| Failure {
                text: format!("container {} ended, and the command with it", container.id),
            })
        });
        Ok(Session { stdin, stdout, stderr, resize, end })
    }
}

/// Nobody waits for the end any more.
struct Forget {
    shim: Arc<Shim>,
    exec_id: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.shim.forget_exec(self.exec_id);
    }
}

fn pipes(container: &Container, wanted: Wanted) -> Result<(Ours, Theirs), Error> {
    let (mut ours, mut theirs) = (Ours::default(), Theirs::new());
    if wanted.stdin {
        let (sink, end) = pipes::input(container)?;
        ours.stdin = Some(Box::new(sink));
        theirs.push((FdRole::Stdin, end));
    }
    if wanted.stdout {
        let (source, end) = pipes::output(container)?;
        ours.stdout = Some(Box::new(source));
        theirs.push((FdRole::Stdout, end));
    }
    if wanted.stderr {
        let (source, end) = pipes::output(container)?;
        ours.stderr = Some(Box::new(source));
        theirs.push((FdRole::Stderr, end));
    }
    Ok((ours, theirs))
}

fn terminal(container: &Container, master: OwnedFd, wanted: Wanted) -> Result<Ours, Error> {
    let terminal = Terminal::new(master).map_err(|source| Error::Io {
        operation: "take the terminal of an exec in",
        path: container.dir.clone(),
        source,
    })?;
    let (sized, told) = (terminal.clone(), terminal.clone());
    Ok(Ours {
        stdin: wanted.stdin.then(|| Box::new(terminal.clone()) as Sink),
        // Read in any case: a terminal that nobody reads stops its process when it is full.
        stdout: Some(Box::new(terminal)),
        stderr: None,
        resize: Some(Box::new(move |columns, rows| sized.resize(columns, rows))),
        terminal: Some(told),
    })
}
