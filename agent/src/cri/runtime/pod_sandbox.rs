//! RunPodSandbox, StopPodSandbox, RemovePodSandbox, PodSandboxStatus.

use holdfast_cri::v1;
use holdfast_model::Map;
use serde_json::json;
use tonic::Status;

use super::{container, list_pod_sandbox};
use crate::{
    cri::{
        convert::{self, namespace_options_to_wire, pod_metadata_to_wire},
        status::{invalid, status as failed},
    },
    runtime::{PodView, Runtime},
};

pub async fn run(
    runtime: &Runtime,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse, Status> {
    let config = request.config.unwrap_or_default();
    let config = convert::pod_sandbox_config(config).map_err(|error| invalid("RunPodSandbox", &error))?;
    let id = runtime
        .run_pod_sandbox(config, &request.runtime_handler)
        .await
        .map_err(|error| failed("RunPodSandbox", &error))?;
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id: id.into() })
}

pub async fn stop(
    runtime: &Runtime,
    request: v1::StopPodSandboxRequest,
) -> Result<v1::StopPodSandboxResponse, Status> {
    runtime
        .stop_pod_sandbox(&request.pod_sandbox_id)
        .await
        .map_err(|error| failed("StopPodSandbox", &error))?;
    Ok(v1::StopPodSandboxResponse {})
}

pub async fn remove(
    runtime: &Runtime,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse, Status> {
    runtime
        .remove_pod_sandbox(&request.pod_sandbox_id)
        .await
        .map_err(|error| failed("RemovePodSandbox", &error))?;
    Ok(v1::RemovePodSandboxResponse {})
}

pub fn status(
    runtime: &Runtime,
    request: &v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse, Status> {
    let view =
        runtime.pod_status(&request.pod_sandbox_id).map_err(|error| failed("PodSandboxStatus", &error))?;
    let id = view.record.id.clone();
    let containers_statuses = runtime
        .list_containers()
        .iter()
        .filter(|container| container.record.pod_id == id)
        .map(container::status_to_wire)
        .collect();
    Ok(v1::PodSandboxStatusResponse {
        info: if request.verbose { info(&view) } else { Map::new() },
        status: Some(status_to_wire(&view)),
        containers_statuses,
        timestamp: crate::runtime::now_ns(),
    })
}

pub fn status_to_wire(view: &PodView) -> v1::PodSandboxStatus {
    let record = &view.record;
    let mut ips = view.ips.iter().map(ToString::to_string);
    v1::PodSandboxStatus {
        id: record.id.to_string(),
        metadata: Some(pod_metadata_to_wire(&record.config.metadata)),
        state: list_pod_sandbox::state(view).into(),
        created_at: record.created_at_ns,
        network: Some(v1::PodSandboxNetworkStatus {
            ip: ips.next().unwrap_or_default(),
            additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
        }),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(namespace_options_to_wire(&record.config.security.namespaces)),
            }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.runtime_handler.clone(),
    }
}

fn info(view: &PodView) -> Map {
    let info = json!({
        "pid": view.pid.unwrap_or(0),
        "processStatus": if view.ready { "running" } else { "deleted" },
        "cniResult": view.cni_result,
        "config": view.record.config,
        "cgroup": view.record.cgroup.to_string(),
        "runtimeHandler": view.record.runtime_handler,
    });
    Map::from([("info".to_owned(), info.to_string())])
}
