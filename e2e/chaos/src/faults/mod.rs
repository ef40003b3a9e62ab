//! The faults, one file each.

pub mod agent;
pub mod disk;
pub mod execs;
pub mod frame;
pub mod fuse;
pub mod greed;
pub mod helpers;
pub mod logs;
pub mod plugin;
pub mod probe;
pub mod small;
pub mod starve;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::{report::Report, stage::Setup};

/// What a run is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// How often the daemon is killed.
    pub kills: u64,
    /// Decides all that is random.
    pub seed: u64,
    /// Clients at work.
    pub clients: usize,
    /// How much of a fault but `agent`; each has a number of its own for `None`.
    pub amount: Option<u64>,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Fault {
    /// The daemon is killed at random moments while clients work.
    Agent,
    /// The processes that watch containers are killed.
    Shim,
    /// The processes that hold pods' namespaces are killed.
    Holder,
    /// The disk of the runtime becomes full, of bytes and of inodes.
    Disk,
    /// The daemon has too few descriptors.
    Descriptors,
    /// The daemon may make no more processes and threads.
    Pids,
    /// Containers fork without end.
    ForkBomb,
    /// Containers run out of memory.
    Oom,
    /// A volume's file system stops to answer.
    Fuse,
    /// A CNI plugin never returns.
    Plugin,
    /// A container logs as fast as it can while its log is rotated.
    Logs,
    /// Very many short execs at once.
    Execs,
    /// Each of them.
    All,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Fault {
    /// `all` is each of the others.
    pub fn expand(wanted: &[Self]) -> Vec<Self> {
        let all = wanted.contains(&Self::All);
        let every = Self::value_variants().iter().copied();
        every.filter(|fault| *fault != Self::All && (all || wanted.contains(fault))).collect()
    }

    /// Whether it makes sense for other runtimes than ours.
    pub fn is_for_any_runtime(self) -> bool {
        // The CNI configuration and the limit of processes are those of our own configuration.
        !matches!(self, Self::Plugin | Self::ForkBomb)
    }
}

/// Runs one fault to its report. In namespaces of the run's own.
pub fn run_blocking(fault: Fault, setup: &Setup, options: &Options) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("start a runtime of tokio")?;
    runtime.block_on(async {
        match fault {
            Fault::Agent | Fault::All => agent::run(setup, options).await,
            Fault::Shim => helpers::shims(setup, options).await,
            Fault::Holder => helpers::holders(setup, options).await,
            Fault::Disk => disk::run(setup, options).await,
            Fault::Descriptors => starve::descriptors(setup, options).await,
            Fault::Pids => starve::pids(setup, options).await,
            Fault::ForkBomb => greed::bombs(setup, options).await,
            Fault::Oom => greed::oom(setup, options).await,
            Fault::Fuse => fuse::run(setup, options).await,
            Fault::Plugin => plugin::run(setup, options).await,
            Fault::Logs => logs::run(setup, options).await,
            Fault::Execs => execs::run(setup, options).await,
        }
    })
}
