//! A container's own streams for a client.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use holdfast_pod::protocol::{Answer, Attach, FdRole, Request};
use holdfast_streaming::session::{Outcome, Session, Sink, Source};
use tokio::{net::unix::pipe, sync::watch};

use super::{
    super::{
        Error, Runtime, pipes,
        shim::{ANSWER_LIMIT, Shim, ShimError},
    },
    Failure, Wanted,
    terminal::Terminal,
};

impl Runtime {
    /// Attaches to a running container. The end of the container ends the session, with success.
    pub(super) async fn open_attach(&self, id: &str, wanted: Wanted) -> Result<Session, Error> {
        let container = self.container(id)?;
        let shim = container.running_shim("Attach").await?;
        // What the container has counts, not what the client believes.
        let tty = container.record.get().config.tty;
        let stdout = (wanted.stdout || tty).then(|| pipes::output(&container)).transpose()?;
        let stderr = (wanted.stderr && !tty).then(|| pipes::output(&container)).transpose()?;
        let mut fds = Vec::new();
        fds.extend(stdout.as_ref().map(|(_, end)| (FdRole::Stdout, end.as_fd())));
        fds.extend(stderr.as_ref().map(|(_, end)| (FdRole::Stderr, end.as_fd())));
        let failed = |source| Error::Shim { operation: "attach to", id: container.id.to_string(), source };
        let (attach_id, cut) = shim.expect_cut();
        let forget = Forget { shim: shim.clone(), attach_id };
        let request = Request::Attach(Attach { attach_id, stdin: wanted.stdin });
        let (answer, passed) =
            shim.call_with_fds(request, &fds, ANSWER_LIMIT).await.map_err(|source| match source {
                ShimError::Gone { .. } => container.ended_under("Attach"),
                source => failed(source),
            })?;
        let Answer::Attached = answer else {
            return Err(failed(ShimError::Unexpected { request: "Attach" }));
        };
        let stdin = passed.into_iter().next().map(|fd| sink(fd, tty)).transpose();
        let stdin = stdin.map_err(|source| Error::Io {
            operation: "take the stdin of",
            path: container.dir.clone(),
            source,
        })?;
        let source = |pipe: Option<(pipe::Receiver, OwnedFd)>| pipe.map(|(pipe, _)| Box::new(pipe) as Source);
        let end = Box::pin(async move {
            let _forget = forget;
            tokio::select! {
                Ok(reason) = cut => Err(Failure { text: reason }),
                () = container.wait_exited() => Ok(Outcome::Exited(0)),
            }
        });
        let resize = tty.then(|| resizer(shim));
        Ok(Session { stdin, stdout: source(stdout), stderr: source(stderr), resize, end })
    }
}

/// Nobody waits for its end any more.
struct Forget {
    shim: Arc<Shim>,
    attach_id: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.shim.forget_cut(self.attach_id);
    }
}

fn sink(fd: OwnedFd, tty: bool) -> io::Result<Sink> {
    if tty {
        return Ok(Box::new(Terminal::new(fd)?));
    }
    rustix::io::ioctl_fionbio(&fd, true)?;
    Ok(Box::new(pipe::Sender::from_owned_fd(fd)?))
}

/// The shim has the terminal: sizes go there one after the other, the last one for certain.
fn resizer(shim: Arc<Shim>) -> Box<dyn FnMut(u16, u16) + Send> {
    let (sizes, mut wanted) = watch::channel((0, 0));
    tokio::spawn(async move {
        while wanted.changed().await.is_ok() {
            let (width, height) = *wanted.borrow_and_update();
            if let Err(error) = shim.order(Request::Resize { width, height }).await {
                tracing::debug!(%error, "resize a container's terminal");
            }
        }
    });
    Box::new(move |columns, rows| {
        sizes.send_replace((columns, rows));
    })
}
