//! A program under a pseudo terminal, as somebody at a keyboard has it.

use std::{
    fs::File,
    io::{Read, Write},
    process::Command,
};

use anyhow::{Context, Result};
use rustix::{
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use crate::{process::Process, wait};

/// The keyboard's side.
#[derive(Debug)]
pub struct Terminal {
    master: File,
    seen: String,
    child: Process,
}

impl Terminal {
    /// Runs a command with a terminal of 80 columns and 24 rows as its controlling one.
    pub fn spawn(command: &Command) -> Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, peer).context("open the terminal's other end")?;
        set_size(&master, 80, 24)?;
        // setsid(1) makes it the controlling terminal, which a Command of std cannot.
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program()).args(command.get_args());
        session.env("TERM", "xterm");
        session.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
        let child = Process::spawn(&mut session)?;
        drop(session);
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(Self { master: File::from(master), seen: String::new(), child })
    }

    /// Types.
    pub fn send(&mut self, keys: &str) -> Result<()> {
        self.master.write_all(keys.as_bytes()).context("type")
    }

    /// Waits until the screen has shown `text` since the last call, and returns what came before it.
    pub fn expect(&mut self, text: &str) -> Result<String> {
        let found = wait::until(&format!("{text:?} on the terminal"), wait::LIMIT, || {
            self.read();
            Ok(self.seen.find(text))
        });
        let at = found.with_context(|| format!("the terminal shows {:?}", self.seen))?;
        let before = self.seen[..at].to_owned();
        self.seen.drain(..at + text.len());
        Ok(before)
    }

    /// Changes the window, as a window manager does: the kernel sends SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<()> {
        set_size(&self.master, columns, rows)
    }

    /// Waits for the program's end; its exit code.
    pub fn end(&mut self) -> Result<Option<i32>> {
        let status = wait::until("end of the session", wait::LIMIT, || {
            self.read();
            self.child.ended()
        });
        Ok(status.with_context(|| format!("the terminal shows {:?}", self.seen))?.code())
    }

    fn read(&mut self) {
        let mut chunk = [0; 4096];
        while let Ok(len @ 1..) = self.master.read(&mut chunk) {
            self.seen.push_str(&String::from_utf8_lossy(&chunk[..len]));
        }
    }
}

fn set_size(terminal: impl std::os::fd::AsFd, columns: u16, rows: u16) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(terminal, size).context("set the terminal's size")
}
