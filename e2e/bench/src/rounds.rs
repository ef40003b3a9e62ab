//! Latencies: the steps of a pod's life, round after round on one connection.

use std::time::Instant;

use anyhow::Result;

use crate::{
    Options,
    client::Client,
    figure::{Figure, milliseconds},
};

/// Rounds before those that count.
const WARM_UP: usize = 3;
/// Execs in each round.
const EXECS: usize = 3;
const STEPS: [&str; 5] = [
    "RunPodSandbox",
    "Create + StartContainer",
    "ExecSync(true)",
    "Stop + RemoveContainer",
    "Stop + RemovePodSandbox",
];

/// Runs the rounds.
pub async fn measure(client: &mut Client, options: &Options) -> Result<Vec<Figure>> {
    let mut samples: [Vec<f64>; STEPS.len()] = Default::default();
    for round in 0..options.rounds + WARM_UP {
        let times = one_round(client).await?;
        if round >= WARM_UP {
            for (all, new) in samples.iter_mut().zip(times) {
                all.extend(new);
            }
        }
    }
    Ok(STEPS.into_iter().zip(samples).filter_map(|(name, all)| Figure::step(name, all)).collect())
}

async fn one_round(client: &mut Client) -> Result<[Vec<f64>; STEPS.len()]> {
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
