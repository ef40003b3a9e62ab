//! Terminals: a pair out of a given devpts, the controlling terminal, the window size.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, openat};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::error::{CallError, Result};

/// Both ends of a terminal.
#[derive(Debug)]
pub struct Terminal {
    /// The end that we keep.
    pub master: OwnedFd,
    /// The end that a process gets.
    pub slave: OwnedFd,
}

/// Makes a terminal in the devpts whose root directory is `devpts`. No name is looked up but `ptmx` in there.
pub fn open_in(devpts: impl AsFd) -> Result<Terminal> {
    let master = openat(devpts, "ptmx", OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| CallError::new("openat(devpts, \"ptmx\")", e))?;
    unlockpt(&master).map_err(|e| CallError::new("ioctl(TIOCSPTLCK)", e))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(|e| CallError::new("ioctl(TIOCGPTPEER)", e))?;
    Ok(Terminal { master, slave })
}

/// Opens the other end of `master` by its name in the devpts whose root directory is `devpts`.
pub fn peer_in(devpts: impl AsFd, master: impl AsFd) -> Result<OwnedFd> {
    let name = ptsname(master, Vec::new()).map_err(|e| CallError::new("ioctl(TIOCGPTN)", e))?;
    let number = name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    openat(devpts, number, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| CallError::new(format!("openat(devpts, {:?})", String::from_utf8_lossy(number)), e))
}

/// Begins a session with `slave` as its controlling terminal.
pub fn control(slave: impl AsFd) -> Result<()> {
    rustix::process::ioctl_tiocsctty(slave).map_err(|e| CallError::new("ioctl(TIOCSCTTY)", e))
}

/// Sets the size of the window behind a terminal, in characters.
pub fn resize(terminal: impl AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size)
        .map_err(|e| CallError::new(format!("ioctl(TIOCSWINSZ, {columns}x{rows})"), e))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rustix::io::{read, write};
    use rustix::termios::tcgetwinsize;

    #[test]
    fn what_goes_in_comes_out_and_the_size_is_kept() {
        let devpts =
            openat(rustix::fs::CWD, "/dev/pts", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let Ok(terminal) = open_in(&devpts) else {
            println!("SKIP: no usable /dev/pts/ptmx");
            return;
        };
        write(&terminal.slave, b"hi\n").unwrap();
        let mut buffer = [0; 8];
        let len = read(&terminal.master, &mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hi\r\n");
        let again = peer_in(&devpts, &terminal.master).unwrap();
        assert_eq!(
            rustix::fs::fstat(&again).unwrap().st_ino,
            rustix::fs::fstat(&terminal.slave).unwrap().st_ino
        );
        resize(&terminal.master, 132, 43).unwrap();
        let size = tcgetwinsize(&terminal.slave).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (132, 43));
    }
}
