//! Benchmark client: latencies and memory of a CRI runtime, measured from outside over its socket.
//!
//! Nothing in here knows Holdfast but the names of the processes whose memory is added up, so the same program
//! measures another runtime on the same machine. It prints one JSON array of figures.

mod client;
mod dirty;
mod figure;
mod memory;
mod restart;
mod rounds;
mod sessions;
mod spdy;
mod websocket;

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;

use crate::{figure::Figure, sessions::Transport};

/// Measures a CRI runtime: medians of the life of a pod, the memory that its helpers take, and exec sessions.
#[derive(Debug, Parser)]
#[command(name = "holdfast-bench")]
pub struct Options {
    /// The runtime's socket, as `unix:///path`.
    #[arg(long)]
    endpoint: String,
    /// An image of the runtime that has `sh`, `sleep`, `cat`, `head` and `true`.
    #[arg(long)]
    image: String,
    /// How often each step is measured.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Pods with one container each while memory is measured; 0 leaves that out.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Names of the processes whose proportional set size is added up: first the daemon, then what stands for each pod.
    #[arg(long, value_delimiter = ',', default_value = "holdfast,holdfast-pod,holdfast-shim")]
    processes: Vec<String>,
    /// Use the host's network, which leaves the network's part out.
    #[arg(long)]
    host_network: bool,
    /// Parent cgroup of the pods; empty: the runtime's default.
    #[arg(long, default_value = "")]
    cgroup_parent: String,
    /// A directory of the file system that the containers' writable layers are on: StopContainer is measured while
    /// another process has just written there.
    #[arg(long)]
    dirty_dir: Option<PathBuf>,
    /// MiB that it has written; 0 leaves that out.
    #[arg(long, default_value_t = 400)]
    dirty_mib: usize,
    /// What exec sessions are measured over.
    #[arg(long, value_delimiter = ',', default_value = "spdy,websocket")]
    transports: Vec<Transport>,
    /// MiB that go through one session in each direction.
    #[arg(long, default_value_t = 256)]
    stream_mib: usize,
    /// Exec sessions, over the first transport, that are alive at once; 0 leaves that out.
    #[arg(long, default_value_t = 100)]
    sessions: usize,
    /// Memory limit of the containers, in MiB: where runc runs, its first stage of each exec is counted to it.
    #[arg(long, default_value_t = 512)]
    memory_limit_mib: i64,
    /// Measure restarts and nothing else: so many of the daemon, which the command after `--` starts, with `--pods` pods.
    #[arg(long, requires = "daemon")]
    restarts: Option<usize>,
    /// The daemon's program and arguments.
    #[arg(last = true)]
    daemon: Vec<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let figures = match options.restarts {
        Some(restarts) => restart::measure(&options, restarts).await?,
        None => measure(&options).await?,
    };
    println!("{}", serde_json::to_string(&figures)?);
    Ok(())
}

async fn measure(options: &Options) -> Result<Vec<Figure>> {
    let mut client = client::Client::connect(options).await?;
    let mut figures = rounds::measure(&mut client, options).await?;
    figures.extend(dirty::measure(&mut client, options).await?);
    figures.extend(memory::measure(&mut client, options).await?);
    figures.extend(sessions::measure(&mut client, options).await?);
    Ok(figures)
}
