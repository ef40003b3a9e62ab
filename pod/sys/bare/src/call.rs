//! Descriptors, errors, and the calls on any descriptor.

use core::ffi::CStr;
use core::mem::ManuallyDrop;

use crate::arch::{nr, syscall};

/// Calls that have one number on all architectures.
pub(crate) mod common {
    pub(crate) const MOVE_MOUNT: usize = 429;
    pub(crate) const FSOPEN: usize = 430;
    pub(crate) const FSCONFIG: usize = 431;
    pub(crate) const FSMOUNT: usize = 432;
    pub(crate) const CLONE3: usize = 435;
    pub(crate) const CLOSE_RANGE: usize = 436;
    pub(crate) const MOUNT_SETATTR: usize = 442;
}

/// The kernel's error number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// Not permitted.
    pub const PERM: Self = Self(1);
    /// Interrupted by a signal.
    /// No permission.
    pub const ACCES: Self = Self(13);
    /// No such thing.
    pub const INVAL: Self = Self(22);
}

/// Result of a system call.
pub type Result<T> = core::result::Result<T, Errno>;

/// An open descriptor, closed when dropped.
pub struct Fd(i32);

impl Fd {
    /// stdin: the descriptor that this program was started with. It is never closed by a drop.
    pub const STDIN: ManuallyDrop<Self> = ManuallyDrop::new(Self(0));
    /// stdout.
    pub const STDOUT: ManuallyDrop<Self> = ManuallyDrop::new(Self(1));
    /// stderr.
    pub const STDERR: ManuallyDrop<Self> = ManuallyDrop::new(Self(2));

    /// Its number, for a system call's argument.
    pub(crate) fn arg(&self) -> usize {
        self.0 as usize
    }

    /// Takes the descriptor that a call returned.
    pub(crate) fn from_call(number: usize) -> Self {
        Self(number as i32)
    }

    /// Takes the descriptor that the kernel stored in memory.
    pub(crate) fn from_kernel(number: i32) -> Self {
        Self(number)
    }

    /// Its number.
    pub(crate) fn number(&self) -> i32 {
        self.0
    }

    /// read(2). The kernel begins it anew after a signal, since these programs have no handlers.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        let args = [self.arg(), buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
        // SAFETY: the buffer is ours to write for the time of the call.
        check(unsafe { syscall(nr::READ, args) })
    }

    /// write(2), likewise. Short writes are the caller's affair.
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        let args = [self.arg(), bytes.as_ptr() as usize, bytes.len(), 0, 0, 0];
        // SAFETY: the bytes live for the time of the call.
        check(unsafe { syscall(nr::WRITE, args) })
    }
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: closes a descriptor that is ours alone.
        unsafe { syscall(nr::CLOSE, [self.arg(), 0, 0, 0, 0, 0]) };
    }
}

/// How a file is opened.
#[derive(Clone, Copy)]
pub enum Open {
    /// A directory, for [`open_at`] only (O_PATH | O_DIRECTORY).
    Directory,
    /// A file, for writing.
    Write,
}

/// openat(2) with O_CLOEXEC | O_NOFOLLOW | O_NOCTTY; `None`: an absolute path.
pub fn open_at(dir: Option<&Fd>, path: &CStr, how: Open) -> Result<Fd> {
    const O_WRONLY: usize = 1;
    const O_NOCTTY: usize = 0o400;
    const O_CLOEXEC: usize = 0o2_000_000;
    const O_PATH: usize = 0o10_000_000;
    // These two differ between architectures.
    const O_DIRECTORY: usize = if cfg!(target_arch = "aarch64") { 0o40_000 } else { 0o200_000 };
    const O_NOFOLLOW: usize = if cfg!(target_arch = "aarch64") { 0o100_000 } else { 0o400_000 };
    let flags = O_CLOEXEC
        | O_NOFOLLOW
        | O_NOCTTY
        | match how {
            Open::Directory => O_PATH | O_DIRECTORY,
            Open::Write => O_WRONLY,
        };
    let args = [dir.map_or(AT_FDCWD, Fd::arg), path.as_ptr() as usize, flags, 0, 0, 0];
    // SAFETY: the path ends in a zero byte.
    check(unsafe { syscall(nr::OPENAT, args) }).map(Fd::from_call)
}

/// Closes every descriptor from `first` on, whoever thinks to own it: for a process that gives all up.
pub fn close_from(first: u32) -> Result<()> {
    let args = [first as usize, u32::MAX as usize, 0, 0, 0, 0];
    // SAFETY: no memory involved.
    check(unsafe { syscall(nr::CLOSE_RANGE, args) }).map(drop)
}

/// Stands for the working directory.
pub(crate) const AT_FDCWD: usize = -100_isize as usize;

/// Makes a call whose result is nothing but success. What the arguments must be is the call's own affair.
pub(crate) unsafe fn done(number: usize, args: [usize; 6]) -> Result<()> {
    // SAFETY: the caller answers for the arguments.
    check(unsafe { syscall(number, args) }).map(drop)
}

/// Small negative numbers are errors.
pub(crate) fn check(result: isize) -> Result<usize> {
    if (-4095..0).contains(&result) { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}
