//! An exec by the runtime that made the container: its command ends when the process runs, which is ours then.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use holdfast_pod::oci_runtime::is_about_command;
use holdfast_pod::protocol::FaultKind;
use holdfast_sys::pidfd::Exit;
use holdfast_sys::socket;
use rustix::fs::{AtFlags, unlinkat};

use super::Shim;
use super::foreign::{Left, left_behind, said, take_terminal};
use crate::fault::{OrFail, Result};
use crate::stage::Stdio;
use crate::stage::foreign_exec::Names;

/// An exec's files in the bundle.
#[derive(Debug)]
pub struct Files {
    names: Names,
    bundle: PathBuf,
    /// Where its terminal comes in.
    console: Option<OwnedFd>,
}

impl Files {
    /// Names them, and listens for a terminal if there is to be one.
    pub fn make(run_dir: BorrowedFd<'_>, bundle: &Path, serial: u32, stdio: &Stdio) -> Result<Self> {
        let names = Names::of(serial);
        let console = match stdio {
            Stdio::Three(_) => None,
            Stdio::Terminal => {
                Some(socket::listen_stream_at(run_dir, &names.console).or_fail("listen for the terminal")?)
            }
        };
        Ok(Self { names, bundle: bundle.to_owned(), console })
    }

    /// What they are called.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Removes them; what is not there is fine.
    pub fn remove(&self, run_dir: BorrowedFd<'_>) {
        for name in self.names.all() {
            let _ = unlinkat(run_dir, name, AtFlags::empty());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.bundle.join(name)
    }
}

impl Shim {
    /// The runtime's command has ended: the process is ours, or there is none.
    pub fn runtime_exec_ended(&mut self, serial: u32, exit: Exit) {
        if exit == Exit::Code(0) {
            self.take_over_exec(serial);
        } else if let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial)
            && let Some(files) = &exec.foreign
            // Its time being over was said already.
            && exec.failure.is_none()
        {
            let mut failure = said(&files.path(&files.names.log), "exec by the OCI runtime", exit);
            if is_about_command(&failure.text) {
                failure.kind = FaultKind::NotFound;
            }
            exec.failure = Some(failure);
        }
        if self.execs.iter().all(|exec| exec.pid.is_some()) {
            self.strays.clear();
        }
        self.finish_exec(serial);
    }

    fn take_over_exec(&mut self, serial: u32) {
        let Some(container) = self.container.as_ref() else { return };
        let Some(exec) = self.execs.iter_mut().find(|exec| exec.serial == serial) else { return };
        let Some(files) = &mut exec.foreign else { return };
        let left = left_behind(&files.path(&files.names.pid), &self.strays);
        let terminal = files.console.take().map(|console| take_terminal(&console)).transpose();
        let (left, terminal) = match (left, terminal) {
            (Ok(left), Ok(terminal)) => (left, terminal),
            (Err(failure), _) => {
                exec.failure = Some(failure);
                return;
            }
            (Ok(left), Err(failure)) => {
                exec.failure = Some(failure);
                if let Left::Alive(child) = left {
                    exec.process = Some(child);
                    exec.kill(&container.cgroup);
                }
                return;
            }
        };
        exec.terminal = terminal;
        match left {
            Left::Alive(child) => {
                exec.pid = Some(child.pid);
                exec.process = Some(child);
            }
            Left::Ended(pid, exit) => {
                exec.pid = Some(pid);
                exec.exit = Some(exit);
            }
        }
        if exec.timed_out {
            exec.kill(&container.cgroup);
        } else if let Some(pid) = exec.pid {
            self.exec_has_begun(serial, pid);
        }
    }
}
