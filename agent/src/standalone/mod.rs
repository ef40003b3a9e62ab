//! `holdfast run`: one pod without a cluster, through the service that a kubelet would ask.
//!
//! The agent on `listen` does the work; without one the same service runs in this process. What a kubelet does for a
//! pod is done here: images, volumes, restarts, and the end.
//!
//! ```text
//!  service.rs   who answers CRI            pod.rs      from images to removal     interrupts.rs  signals
//!  place.rs     directory and record       life.rs     all containers             steps.rs       what is told
//!  leftovers.rs after kill -9              attempt.rs  one life of one container  logs/          their output
//! ```
//!
//! The run is one task on the program's first thread, so that work on its own files may block it.
//!
//! Where a manifest leaves a choice: containers run under the runtime's default seccomp profile unless they are
//! privileged or say otherwise; images are pulled before the pod is made, those that are to be pulled always once for
//! each run; ClusterFirst is what Default is, for there is no cluster's DNS; emptyDirs are on disk; user namespaces get
//! ranges from 2^30 on; container output is our stdout and stderr, with the container's name if there are several.

mod attempt;
mod backoff;
mod cri;
mod error;
mod images;
mod interrupts;
mod leftovers;
mod life;
mod logs;
mod node;
mod place;
mod pod;
mod service;
mod steps;
mod sub_path;
mod usage;
mod volumes;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
    time::Instant,
};

use crate::{
    cli::RunArguments,
    config::Config,
    manifest::{self, Pod},
};
pub use error::RunError;
use interrupts::Interrupts;
use logs::{Logs, Printer};
use pod::PodRun;
use service::Service;
use steps::Steps;

/// What the program ends with when the fault is not a container's.
pub const OWN_ERROR: u8 = 125;

/// Runs the pod of a manifest to its end and removes it. Returns what the program ends with: 0 if all containers
/// succeeded, the code of the one that failed first, 130 after Ctrl-C (143 after SIGTERM, 129 after SIGHUP), 141 if
/// nobody reads the output any more.
///
/// # Errors
/// What is not a container's fault; the program ends with [`OWN_ERROR`].
pub async fn run(config: &Config, arguments: &RunArguments) -> Result<u8, RunError> {
    let steps = Steps::stderr(Instant::now());
    let pod = read(&arguments.manifest, &steps)?;
    let setup = |operation| move |source| RunError::Setup { operation, source };
    let interrupts = Interrupts::watch().map_err(setup("watch signals"))?;
    let names = pod.all_containers().count() > 1;
    let logs = Logs::start(Printer::ours(names)).map_err(setup("start a thread for logs"))?;
    let service = tokio::select! {
        service = Service::open(config, &steps) => service?,
        code = interrupts.first() => return Ok(code),
    };
    let run = PodRun {
        cri: service.client(),
        root: &config.root,
        pod: &pod,
        steps: &steps,
        interrupts: &interrupts,
        logs: &logs,
    };
    let ended = Box::pin(run.run()).await;
    service.close().await;
    if let Ok(code) = &ended {
        steps.end(&format!("in all; exit code {code}"));
    }
    ended
}

fn read(path: &Path, steps: &Steps) -> Result<Pod, RunError> {
    let step = steps.begin();
    let bytes = bytes(path).map_err(|source| RunError::Read { path: path.to_owned(), source })?;
    let pod = manifest::read(&bytes);
    let pod = pod.map_err(|source| RunError::Manifest { path: path.to_owned(), source })?;
    let count = pod.all_containers().count();
    let containers = if count == 1 { "1 container".to_owned() } else { format!("{count} containers") };
    step.done(&format!("{} read: pod {}/{}, {containers}", path.display(), pod.namespace, pod.name));
    Ok(pod)
}

/// Runs what may wait for a disk or a server where it makes nobody else wait. A thread that is lost is one of a program
/// that ends, where the answer does not matter any more.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(_) => std::future::pending().await,
    }
}

/// A little more than a manifest may have, so that one that is too large is told apart.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let input: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut bytes = Vec::new();
    input.take(manifest::MAX_BYTES as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}
