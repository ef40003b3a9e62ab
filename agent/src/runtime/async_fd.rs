//! Descriptors that tokio waits for.

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

use tokio::io::unix::AsyncFd;

/// Registers a descriptor with the reactor of the current runtime.
#[expect(
    deprecated,
    reason = "it is deprecated for types that lie about their descriptor; `AsFd` is the promise that this one does not"
)]
pub fn async_fd<T: AsFd + AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(fd)
}
