//! Sockets to the agent and the parent half, and the loopback interface.

use crate::Fd;
use crate::arch::{nr, syscall};
use crate::call::{Result, check, done};

const AF_UNIX: usize = 1;
const AF_INET: usize = 2;
const SOCK_DGRAM: usize = 2;
const SOCK_SEQPACKET: usize = 5;
const SOCK_CLOEXEC: usize = 0o2_000_000;
const SOL_SOCKET: usize = 1;

/// Two connected unix seqpacket sockets.
pub fn socket_pair() -> Result<(Fd, Fd)> {
    let mut fds = [0_i32; 2];
    let args = [AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds.as_mut_ptr() as usize, 0, 0];
    // SAFETY: the kernel stores two descriptors there.
    unsafe { done(nr::SOCKETPAIR, args) }?;
    Ok((Fd::from_kernel(fds[0]), Fd::from_kernel(fds[1])))
}

/// Is this a unix seqpacket socket?
///
/// # Errors
/// ENOTSOCK if it is no socket at all, EBADF if it is not open.
pub fn is_seqpacket(fd: &Fd) -> Result<bool> {
    const SO_TYPE: usize = 3;
    const SO_DOMAIN: usize = 39;
    let get = |option| {
        let (mut value, mut len) = (0_i32, size_of::<i32>() as u32);
        let args = [fd.arg(), SOL_SOCKET, option, &raw mut value as usize, &raw mut len as usize, 0];
        // SAFETY: room for an int, and its length.
        unsafe { done(nr::GETSOCKOPT, args) }.map(|()| value as usize)
    };
    Ok(get(SO_TYPE)? == SOCK_SEQPACKET && get(SO_DOMAIN)? == AF_UNIX)
}

/// Sends one packet, with a descriptor if there is one.
pub fn send(socket: &Fd, bytes: &[u8], passed: Option<&Fd>) -> Result<()> {
    const MSG_NOSIGNAL: usize = 0x4000;
    const SCM_RIGHTS: i32 = 1;

    #[repr(C)]
    struct Control {
        len: usize,
        level: i32,
        kind: i32,
        fd: i32,
        padding: i32,
    }
    #[repr(C)]
    struct Message {
        name: usize,
        name_len: usize,
        parts: *const [usize; 2],
        part_count: usize,
        control: *const Control,
        control_len: usize,
        flags: usize,
    }
    const CONTROL_LEN: usize = size_of::<Control>() - size_of::<i32>();

    let control = Control {
        len: CONTROL_LEN,
        level: SOL_SOCKET as i32,
        kind: SCM_RIGHTS,
        fd: passed.map_or(-1, Fd::number),
        padding: 0,
    };
    let part = [bytes.as_ptr() as usize, bytes.len()];
    let message = Message {
        name: 0,
        name_len: 0,
        parts: &raw const part,
        part_count: 1,
        control: if passed.is_some() { &raw const control } else { core::ptr::null() },
        control_len: if passed.is_some() { size_of::<Control>() } else { 0 },
        flags: 0,
    };
    let args = [socket.arg(), &raw const message as usize, MSG_NOSIGNAL, 0, 0, 0];
    // SAFETY: struct msghdr with one part and at most one control message, all alive.
    check(unsafe { syscall(nr::SENDMSG, args) }).map(drop)
}

/// Sets the interface `lo` of the network namespace up; the kernel then gives it 127.0.0.1 and ::1.
pub fn loopback_up() -> Result<()> {
    const SIOCSIFFLAGS: usize = 0x8914;
    const IFF_UP: u16 = 1;

    #[repr(C)]
    struct Request {
        name: [u8; 16],
        flags: u16,
        rest: [u8; 22],
    }

    let args = [AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0, 0, 0, 0];
    // SAFETY: no memory involved.
    let socket = Fd::from_call(check(unsafe { syscall(nr::SOCKET, args) })?);
    let mut request = Request { name: [0; 16], flags: IFF_UP, rest: [0; 22] };
    request.name[..2].copy_from_slice(b"lo");
    let args = [socket.arg(), SIOCSIFFLAGS, &raw const request as usize, 0, 0, 0];
    // SAFETY: a struct ifreq of full length.
    unsafe { done(nr::IOCTL, args) }
}
