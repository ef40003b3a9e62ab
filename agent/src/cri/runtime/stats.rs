//! ContainerStats, ListContainerStats.

use holdfast_cgroup::{MemoryStats, Psi, PsiData};
use holdfast_cri::v1;
use tonic::Status;

use super::list_pod_sandbox::has_labels;
use crate::{
    cri::{convert::container_metadata_to_wire, status::status as failed},
    runtime::{ContainerUsage, Runtime},
};

pub async fn one(
    runtime: &Runtime,
    request: v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse, Status> {
    let usage = runtime
        .container_stats(&request.container_id)
        .await
        .map_err(|error| failed("ContainerStats", &error))?;
    Ok(v1::ContainerStatsResponse { stats: Some(to_wire(&usage)) })
}

pub async fn list(runtime: &Runtime, filter: Option<v1::ContainerStatsFilter>) -> Vec<v1::ContainerStats> {
    let filter = filter.unwrap_or_default();
    let usages = runtime
        .list_container_stats(|record| {
            record.id.as_str().starts_with(&filter.id)
                && record.pod_id.as_str().starts_with(&filter.pod_sandbox_id)
                && record.exit.is_none()
                && has_labels(&record.config.labels, &filter.label_selector)
        })
        .await;
    usages.iter().map(to_wire).collect()
}

fn to_wire(usage: &ContainerUsage) -> v1::ContainerStats {
    let config = &usage.record.config;
    let now = usage.timestamp_ns;
    let counters = usage.cgroup.as_ref();
    v1::ContainerStats {
        attributes: Some(v1::ContainerAttributes {
            id: usage.record.id.to_string(),
            metadata: Some(container_metadata_to_wire(&config.metadata)),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
        }),
        cpu: counters.map(|stats| v1::CpuUsage {
            timestamp: now,
            usage_core_nano_seconds: stats.cpu_usage_ns.and_then(value),
            usage_nano_cores: usage.nano_cores.and_then(value),
            psi: stats.cpu_psi.as_ref().map(psi),
        }),
        memory: counters.and_then(|stats| stats.memory.as_ref()).map(|stats| memory(now, stats)),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: usage.writable_layer.timestamp_ns,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: usage.mountpoint.display().to_string() }),
            used_bytes: value(usage.writable_layer.bytes),
            inodes_used: value(usage.writable_layer.inodes),
        }),
        swap: counters.and_then(|stats| stats.swap.as_ref()).map(|swap| v1::SwapUsage {
            timestamp: now,
            swap_available_bytes: swap.available.and_then(value),
            swap_usage_bytes: value(swap.usage),
        }),
        io: counters.map(|stats| v1::IoUsage { timestamp: now, psi: stats.io_psi.as_ref().map(psi) }),
    }
}

fn memory(now: i64, stats: &MemoryStats) -> v1::MemoryUsage {
    v1::MemoryUsage {
        timestamp: now,
        working_set_bytes: value(stats.working_set),
        available_bytes: stats.available.and_then(value),
        usage_bytes: value(stats.usage),
        rss_bytes: value(stats.rss),
        page_faults: value(stats.page_faults),
        major_page_faults: value(stats.major_page_faults),
        psi: stats.psi.as_ref().map(psi),
    }
}

fn psi(psi: &Psi) -> v1::PsiStats {
    let data = |line: &PsiData| v1::PsiData {
        total: line.total_ns,
        avg10: line.avg10,
        avg60: line.avg60,
        avg300: line.avg300,
    };
    v1::PsiStats { full: Some(data(&psi.full)), some: Some(data(&psi.some)) }
}

#[expect(clippy::unnecessary_wraps, reason = "the generated fields are optional")]
fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}
