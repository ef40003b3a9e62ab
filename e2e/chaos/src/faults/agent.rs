//! The daemon is killed at random moments, again and again, while clients work.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::Result;
use fastrand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::Options;
use crate::{
    client::{self, Client},
    finish::{compare, finish},
    plan::Plan,
    report::{self, Report},
    seed::{exponential, once_in, stream, uniform},
    stage::{Setup, Stage},
};

/// One kill in so many comes before the daemon serves.
const IN_START_ONCE_IN: u64 = 8;
/// Latest moment of such a kill, after the start.
const IN_START_LIMIT: Duration = Duration::from_millis(120);
/// Most calls that clients send before the others.
const CALLS: u64 = 40;
/// Mean time from the last of these calls to the kill: within it, mostly.
const MEAN: Duration = Duration::from_millis(6);
/// Longest wait for calls: clients may all wait for something.
const IDLE_LIMIT: Duration = Duration::from_secs(3);

/// Images that clients pull and remove, each its own: no two have the same configuration.
const IMAGES: &[&str] =
    &["zstd:1", "greeter:1", "layers:1", "user-name:1", "user-uid:1", "user-uid-group:1", "config:1"];

/// When a daemon that was started is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// So long after its start.
    InStart(Duration),
    /// After so many calls from its first answer, and then so long.
    Serving(u64, Duration),
}

impl Moment {
    fn draw(rng: &mut Rng) -> Self {
        if once_in(rng, IN_START_ONCE_IN) {
            return Self::InStart(uniform(rng, IN_START_LIMIT));
        }
        Self::Serving(rng.u64(0..CALLS), exponential(rng, MEAN))
    }
}

/// Runs it.
pub async fn run(setup: &Setup, options: &Options) -> Result<Report> {
    let mut stage = Stage::new(setup).await?;
    stage.look().await?;
    let begin = Instant::now();
    let mut killer = Killer::new(options);
    let clients: Vec<_> = (0..options.clients)
        .map(|number| {
            let plan = Plan::new(options.seed, number, stage.user_namespaces);
            let image = IMAGES.get(number).map(|name| stage.image(name));
            tokio::spawn(Client::new(&stage.world, number, plan, image).run())
        })
        .collect();
    let outcome = killer.kill_all(&mut stage, options).await;
    stage.world.stop.store(true, Ordering::Relaxed);
    let mut held = Vec::new();
    for client in clients {
        held.push(client.await?);
    }
    outcome?;
    compare(&stage, &held).await;
    let left = finish(&mut stage).await?;
    stage.keep_log();
    Ok(killer.report(&stage, options, &held, left, begin.elapsed()))
}

struct Killer {
    rng: Rng,
    kills: u64,
    in_start: u64,
    starts_ms: Vec<f64>,
    failed: Vec<String>,
}

impl Killer {
    fn new(options: &Options) -> Self {
        let rng = stream(options.seed, "killer", 0);
        Self { rng, kills: 0, in_start: 0, starts_ms: Vec::new(), failed: Vec::new() }
    }

    /// Ends with a daemon that serves.
    async fn kill_all(&mut self, stage: &mut Stage, options: &Options) -> Result<()> {
        // CNI plugins for the second half.
        let half = options.kills / 2;
        let mut begun = Instant::now();
        let mut serving = true;
        while self.kills < options.kills {
            let moment = Moment::draw(&mut self.rng);
            stage.world.events.add(
                "killer",
                "next",
                &json!({"kill": self.kills, "moment": format!("{moment:?}")}),
            );
            match moment {
                Moment::InStart(after) if !serving => sleep(after.saturating_sub(begun.elapsed())).await,
                Moment::InStart(after) => sleep(after).await,
                Moment::Serving(calls, after) => {
                    if !serving {
                        self.serve(stage, &mut begun).await;
                    }
                    sent(stage, calls).await;
                    sleep(after).await;
                }
            }
            if !stage.kill()? {
                self.failed.push(format!("ended by itself: {}", stage.daemon.last_words()));
            }
            self.kills += 1;
            self.in_start += u64::from(matches!(moment, Moment::InStart(_)));
            if self.kills == half {
                stage.use_cni(true)?;
            }
            begun = stage.daemon.spawn()?;
            serving = false;
        }
        self.serve(stage, &mut begun).await;
        Ok(())
    }

    /// Waits until the daemon serves. One that ends instead is counted, and started again.
    async fn serve(&mut self, stage: &mut Stage, begun: &mut Instant) {
        for _ in 0..TRIES {
            match stage.daemon.served(*begun).await {
                Ok(time) => {
                    self.starts_ms.push(time.as_secs_f64() * 1000.0);
                    stage.serves(time);
                    return;
                }
                Err(error) => {
                    stage.world.events.add("killer", "failed start", &format!("{error:#}").into());
                    self.failed.push(format!("{error:#}"));
                }
            }
            let _ = stage.kill();
            if let Ok(again) = stage.daemon.spawn() {
                *begun = again;
            }
        }
    }

    fn report(
        self,
        stage: &Stage,
        options: &Options,
        held: &[client::Left],
        left: crate::left::Left,
        time: Duration,
    ) -> Report {
        let mut report = Report::new(stage.daemon.kind().name(), "agent", options.seed);
        report.seconds = time.as_secs_f64();
        report.sums = stage.world.ledger.sums();
        report.left = left;
        report.failed_starts = self.failed;
        report.figure("seconds", time.as_secs_f64().round());
        report.figure("clients", options.clients as f64);
        report.figure(report::KILLS, self.kills as f64);
        report.figure("kills before it served", self.in_start as f64);
        report.figure("whole lives of pods", held.iter().map(|left| left.lives).sum::<u64>() as f64);
        report::times(&mut report, "start to first answer", self.starts_ms);
        report
    }
}

/// Starts in a row that may fail.
const TRIES: usize = 5;

/// Waits until clients have sent so many calls.
async fn sent(stage: &Stage, calls: u64) {
    let goal = stage.world.sent.load(Ordering::Relaxed) + calls;
    let begin = Instant::now();
    while stage.world.sent.load(Ordering::Relaxed) < goal && begin.elapsed() < IDLE_LIMIT {
        sleep(Duration::from_micros(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_moments_for_the_same_seed() {
        let draw = |seed| {
            let mut rng = stream(seed, "killer", 0);
            (0..100).map(|_| Moment::draw(&mut rng)).collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let in_start = draw(1).iter().filter(|moment| matches!(moment, Moment::InStart(_))).count();
        assert!((4..25).contains(&in_start), "{in_start}");
    }
}
