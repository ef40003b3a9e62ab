//! Latencies: the steps of a pod's life, round after round on one connection.

use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::{Options, client::Client};

/// Rounds before those that count.
const WARM_UP: usize = 3;
/// Execs in each round.
const EXECS: usize = 3;

/// One step, in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// Which.
    pub name: &'static str,
    /// Shortest.
    pub min: f64,
    /// Middle.
    pub median: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// Runs the rounds.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Vec<Step>> {
    let mut samples: [Vec<f64>; 5] = Default::default();
    for round in 0..options.rounds + WARM_UP {
        let times = one_round(client).await?;
        if round >= WARM_UP {
            for (all, new) in samples.iter_mut().zip(times) {
                all.extend(new);
            }
        }
    }
    let names = [
        "RunPodSandbox",
        "Create + StartContainer",
        "ExecSync(true)",
        "Stop + RemoveContainer",
        "Stop + RemovePodSandbox",
    ];
    Ok(names
        .into_iter()
        .zip(samples)
        .filter(|(_, all)| !all.is_empty())
        .map(|(name, all)| step(name, all))
        .collect())
}

async fn one_round(client: &mut Client) -> Result<[Vec<f64>; 5]> {
    let begin = Instant::now();
    let (pod, config) = client.run_pod().await?;
    let run = milliseconds(begin);
    let begin = Instant::now();
    let container = client.start(&pod, &config).await?;
    let start = milliseconds(begin);
    let mut execs = Vec::new();
    for _ in 0..EXECS {
        let begin = Instant::now();
        client.exec(&container).await?;
        execs.push(milliseconds(begin));
    }
    let begin = Instant::now();
    client.end_container(&container).await?;
    let end_container = milliseconds(begin);
    let begin = Instant::now();
    client.end_pod(&pod).await?;
    Ok([vec![run], vec![start], execs, vec![end_container], vec![milliseconds(begin)]])
}

/// Since then.
pub fn milliseconds(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1000.0
}

/// Sorts and picks.
pub fn step(name: &'static str, mut all: Vec<f64>) -> Step {
    all.sort_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    Step { name, min: all[0], median: at(0.5), p95: at(0.95) }
}
