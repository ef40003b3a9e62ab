//! Ctrl-C: what runs is ended, and the cleaning up is not.

use std::{
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use holdfast_e2e::process::Process;
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody asked for the end.
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Takes the signals that ask for an end from now on. Children inherit that they are blocked.
    pub fn watch() -> Result<Self> {
        let signals = signals();
        signals.thread_block().context("block signals")?;
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        thread::spawn(move || {
            while signals.wait().is_ok() {
                flag.store(true, Ordering::Relaxed);
            }
        });
        Ok(Self(asked))
    }

    /// Waits for a process's end; when asked to end, kills it and fails.
    pub fn until_end(&self, process: &mut Process) -> Result<ExitStatus> {
        loop {
            let ended = process.ended()?;
            if self.0.load(Ordering::Relaxed) {
                process.kill()?;
                bail!("interrupted");
            }
            if let Some(status) = ended {
                return Ok(status);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Takes the signals as usual again: the inner process, and all that it starts, end by them.
pub fn allow() -> Result<()> {
    signals().thread_unblock().context("unblock signals")
}

fn signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}
