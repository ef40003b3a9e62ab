//! Benchmark client: latencies and memory of a CRI runtime, measured from outside over its socket.
//!
//! Nothing in here knows Holdfast but the names of the processes whose memory is added up, so the same program
//! measures another runtime on the same machine.

mod client;
mod memory;
mod rounds;
mod sessions;

use anyhow::Result;
use clap::Parser;

/// Measures a CRI runtime: medians of the life of a pod, and the memory that its helpers take.
#[derive(Debug, Parser)]
#[command(name = "holdfast-bench")]
pub struct Options {
    /// The runtime's socket, as `unix:///path`.
    #[arg(long)]
    endpoint: String,
    /// An image of the runtime that has `sh`, `sleep` and `true`.
    #[arg(long)]
    image: String,
    /// How often each step is measured.
    #[arg(long, default_value_t = 50)]
    rounds: usize,
    /// Pods with one container each while memory is measured; 0 leaves that out.
    #[arg(long, default_value_t = 50)]
    pods: usize,
    /// Names of the processes whose proportional set size is added up; each by itself and all together.
    #[arg(long, value_delimiter = ',', default_value = "holdfast,holdfast-pod,holdfast-shim")]
    processes: Vec<String>,
    /// Use the host's network, which leaves the network's part out.
    #[arg(long)]
    host_network: bool,
    /// Parent cgroup of the pods; empty: the runtime's default.
    #[arg(long, default_value = "")]
    cgroup_parent: String,
    /// Exec sessions that are alive at once while sessions are measured; 0 leaves sessions out. The runtime has to speak
    /// WebSocket.
    #[arg(long, default_value_t = 0)]
    sessions: usize,
    /// Memory limit of the containers, in MiB.
    #[arg(long, default_value_t = 64)]
    memory_limit_mib: i64,
    /// Print one JSON object instead of the table.
    #[arg(long)]
    json: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let options = Options::parse();
    let mut client = client::Client::connect(&options).await?;
    let times = rounds::measure(&mut client, &options).await?;
    let memory = memory::measure(&mut client, &options).await?;
    let sessions = sessions::measure(&mut client, &options).await?;
    if options.json {
        println!(
            "{}",
            serde_json::json!({ "rounds": options.rounds, "milliseconds": times, "memory": memory, "sessions": sessions })
        );
        return Ok(());
    }
    println!("{:<28} {:>9} {:>9} {:>9}   ({} rounds, ms)", "step", "min", "median", "p95", options.rounds);
    for step in times.iter().chain(sessions.as_ref().map(|sessions| &sessions.exec)) {
        println!("{:<28} {:>9.2} {:>9.2} {:>9.2}", step.name, step.min, step.median, step.p95);
    }
    if let Some(memory) = memory {
        println!(
            "\n{:<28} {:>9} {:>12} {:>14}   ({} pods)",
            "process", "count", "PSS KiB", "KiB each", memory.pods
        );
        for process in &memory.processes {
            println!(
                "{:<28} {:>9} {:>12} {:>14.1}",
                process.name,
                process.count,
                process.pss_kib,
                process.pss_kib as f64 / process.count.max(1) as f64
            );
        }
        println!("per pod, without the daemon: {:.1} KiB", memory.per_pod_kib);
    }
    if let Some(sessions) = sessions {
        println!("\nexec stdout over WebSocket: {:.0} MiB/s", sessions.throughput_mib_s);
        println!(
            "{} exec sessions alive at once after {:.2} s; the daemon grew by {} KiB",
            sessions.at_once, sessions.until_all_s, sessions.growth_kib
        );
    }
    Ok(())
}
