//! `cargo x powercut`: what an agent makes of a disk that has lost its power.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{run::verdict, test, work::Work};

/// Arguments of `cargo x powercut`.
#[derive(Debug, Args)]
pub struct Options {
    /// Cuts for each file system.
    #[arg(long, default_value_t = 200)]
    pub cuts: usize,
    /// Decides what is done, when the power goes and what the disk keeps; another one
    /// each time if it is not given.
    #[arg(long, verbatim_doc_comment)]
    pub seed: Option<u64>,
    /// Only this one: ext4 or xfs.
    #[arg(long)]
    pub file_system: Option<String>,
    /// Length of the recorded run, in seconds.
    #[arg(long, default_value_t = 30)]
    pub seconds: u64,
    /// Play only this cut, of the recording that is there; `--seed` and `--file-system`
    /// are those of the run.
    #[arg(long, verbatim_doc_comment)]
    pub cut: Option<usize>,
    /// Cuts that are played at the same time.
    #[arg(long, default_value_t = 4)]
    pub parallel: usize,
    /// A test of the test: while the run is recorded these calls (fsync or syncfs)
    /// succeed without doing anything.
    #[arg(long, verbatim_doc_comment)]
    pub lie: Option<String>,
    /// Let a release build meet the cuts.
    #[arg(long)]
    pub release: bool,
}

impl Options {
    /// For the harness.
    fn args(&self) -> Vec<String> {
        let mut args = vec![
            format!("--cuts={}", self.cuts),
            format!("--seconds={}", self.seconds),
            format!("--parallel={}", self.parallel),
        ];
        args.extend(self.seed.map(|seed| format!("--seed={seed}")));
        args.extend(self.file_system.as_ref().map(|kind| format!("--file-system={kind}")));
        args.extend(self.cut.map(|cut| format!("--cut={cut}")));
        args.extend(self.lie.as_ref().map(|lie| format!("--lie={lie}")));
        args
    }
}

/// Prepares, builds, and runs the harness. Its exit code is 0 only if nothing was wrong after any cut.
pub fn powercut(work: &Work, options: &Options) -> Result<ExitCode> {
    let mut run = test::harness(work, "holdfast-powercut", options.release, &options.args())?;
    verdict(run.arg("--recordings").arg(work.dir("powercut")?))
}
