//! What containers use: the cgroup's counters, and the disk that their writable layers take.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use holdfast_cgroup::Stats;
use holdfast_pod::protocol::Phase;

use super::{
    Error, Runtime,
    blocking::{blocking, now_ns},
    object::Container,
    record::ContainerRecord,
};

/// A measured writable layer is good for so long: counting files is dear.
const LAYER_AGE: Duration = Duration::from_secs(10);
/// A rate over less time than this says little.
const RATE_AGE: Duration = Duration::from_millis(500);

/// Space on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Nanoseconds since the epoch.
    pub timestamp_ns: i64,
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

/// What a container uses.
#[derive(Debug, Clone)]
pub struct ContainerUsage {
    /// Who it is.
    pub record: Arc<ContainerRecord>,
    /// Nanoseconds since the epoch, of the counters.
    pub timestamp_ns: i64,
    /// The cgroup's counters; `None` once it has exited.
    pub cgroup: Option<Stats>,
    /// CPU rate in nanocores since the last sample, if there was one.
    pub nano_cores: Option<u64>,
    /// The writable layer.
    pub writable_layer: DiskUsage,
    /// Where its file system's files lie.
    pub mountpoint: PathBuf,
}

/// Last samples of a container.
#[derive(Debug, Default)]
pub struct Samples {
    cpu: Mutex<Option<(Instant, u64, Option<u64>)>>,
    layer: Mutex<Option<(Instant, DiskUsage)>>,
}

impl Samples {
    /// The rate since the last sample that is old enough.
    fn nano_cores(&self, usage_ns: u64) -> Option<u64> {
        let mut last = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let rate = match *last {
            Some((then, before, rate)) if now - then >= RATE_AGE => {
                let _ = rate;
                let elapsed = (now - then).as_nanos().max(1);
                let used = u128::from(usage_ns.saturating_sub(before));
                u64::try_from(used * 1_000_000_000 / elapsed).ok()
            }
            Some((_, _, rate)) => return rate,
            None => None,
        };
        *last = Some((now, usage_ns, rate));
        rate
    }

    fn layer(&self, dir: &Path) -> DiskUsage {
        let known = *self.layer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, usage)) = known
            && then.elapsed() < LAYER_AGE
        {
            return usage;
        }
        let holdfast_tree::Usage { bytes, inodes } = holdfast_tree::usage(dir);
        let usage = DiskUsage { timestamp_ns: now_ns(), bytes, inodes };
        *self.layer.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), usage));
        usage
    }
}

impl Runtime {
    /// What one container uses.
    pub async fn container_stats(&self, id: &str) -> Result<ContainerUsage, Error> {
        let container = self.container(id)?;
        let runtime = self.clone();
        Ok(blocking(move || runtime.measure(&container)).await)
    }

    /// What all containers use that `wanted` picks. One that exits meanwhile has no counters.
    pub async fn list_container_stats(
        &self,
        wanted: impl Fn(&ContainerRecord) -> bool,
    ) -> Vec<ContainerUsage> {
        // Nobody was told of one that is being undone.
        let is_wanted = |record: &ContainerRecord| record.phase != Phase::Creating && wanted(record);
        let containers: Vec<_> = self
            .all_containers()
            .into_iter()
            .filter(|container| is_wanted(&container.record.get()))
            .collect();
        let runtime = self.clone();
        blocking(move || containers.iter().map(|container| runtime.measure(container)).collect()).await
    }

    /// What all writable layers take.
    pub async fn containers_disk_usage(&self) -> DiskUsage {
        let containers = self.all_containers();
        blocking(move || {
            let mut sum = DiskUsage { timestamp_ns: now_ns(), ..DiskUsage::default() };
            for container in containers {
                let layer = container.samples.layer(&container.dir.join("upper"));
                sum.bytes += layer.bytes;
                sum.inodes += layer.inodes;
            }
            sum
        })
        .await
    }

    fn measure(&self, container: &Container) -> ContainerUsage {
        let record = container.record.get();
        let cgroup = if record.exit.is_some() { None } else { self.cgroups.stats(&record.cgroup).ok() };
        let nano_cores = cgroup
            .as_ref()
            .and_then(|stats| stats.cpu_usage_ns)
            .and_then(|usage_ns| container.samples.nano_cores(usage_ns));
        let upper = container.dir.join("upper");
        ContainerUsage {
            timestamp_ns: now_ns(),
            cgroup,
            nano_cores,
            writable_layer: container.samples.layer(&upper),
            mountpoint: self.config.root.clone(),
            record,
        }
    }
}
