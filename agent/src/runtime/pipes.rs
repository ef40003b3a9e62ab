//! Pipes between the agent and the processes of a container: our end never blocks a worker, theirs is as a program
//! expects it.

use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, pipe_with};
use tokio::net::unix::pipe;

use super::{Error, object::Container};

/// One that we read, and the end that a process writes to.
pub(super) fn output(container: &Container) -> Result<(pipe::Receiver, OwnedFd), Error> {
    let (read, write) = pipe(container)?;
    let read = not_blocking(read).and_then(pipe::Receiver::from_owned_fd);
    Ok((read.map_err(|source| failed(container, source))?, write))
}

/// One that we write to, and the end that a process reads.
pub(super) fn input(container: &Container) -> Result<(pipe::Sender, OwnedFd), Error> {
    let (read, write) = pipe(container)?;
    let write = not_blocking(write).and_then(pipe::Sender::from_owned_fd);
    Ok((write.map_err(|source| failed(container, source))?, read))
}

fn pipe(container: &Container) -> Result<(OwnedFd, OwnedFd), Error> {
    pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(container, errno.into()))
}

fn not_blocking(end: OwnedFd) -> std::io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(end.as_fd(), true)?;
    Ok(end)
}

fn failed(container: &Container, source: std::io::Error) -> Error {
    Error::Io { operation: "make a pipe for", path: container.dir.clone(), source }
}
