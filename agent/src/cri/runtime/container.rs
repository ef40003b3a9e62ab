//! CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus, ReopenContainerLog.

use holdfast_cri::v1;
use holdfast_model::Map;
use serde_json::json;
use tonic::Status;

use super::list_containers;
use crate::{
    cri::{
        convert::{
            self, container_metadata_to_wire, image_spec_to_wire, mounts_to_wire, resources_to_wire,
            signal_to_wire,
        },
        status::{invalid, status as failed},
    },
    runtime::{ContainerRecord, ContainerView, Runtime},
};

pub async fn create(
    runtime: &Runtime,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse, Status> {
    let refuse = |error: convert::Invalid| invalid("CreateContainer", &error);
    let config = convert::container_config(request.config.unwrap_or_default()).map_err(refuse)?;
    let pod_config = request
        .sandbox_config
        .map(|config| convert::pod_sandbox_config_at("sandbox_config", config))
        .transpose()
        .map_err(refuse)?;
    let id = runtime
        .create_container(&request.pod_sandbox_id, config, pod_config)
        .await
        .map_err(|error| failed("CreateContainer", &error))?;
    Ok(v1::CreateContainerResponse { container_id: id.into() })
}

pub async fn start(
    runtime: &Runtime,
    request: v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse, Status> {
    runtime.start_container(&request.container_id).await.map_err(|error| failed("StartContainer", &error))?;
    Ok(v1::StartContainerResponse {})
}

pub async fn stop(
    runtime: &Runtime,
    request: v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse, Status> {
    runtime
        .stop_container(&request.container_id, request.timeout)
        .await
        .map_err(|error| failed("StopContainer", &error))?;
    Ok(v1::StopContainerResponse {})
}

pub async fn remove(
    runtime: &Runtime,
    request: v1::RemoveContainerRequest,
) -> Result<v1::RemoveContainerResponse, Status> {
    runtime
        .remove_container(&request.container_id)
        .await
        .map_err(|error| failed("RemoveContainer", &error))?;
    Ok(v1::RemoveContainerResponse {})
}

pub async fn reopen_log(
    runtime: &Runtime,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse, Status> {
    runtime
        .reopen_container_log(&request.container_id)
        .await
        .map_err(|error| failed("ReopenContainerLog", &error))?;
    Ok(v1::ReopenContainerLogResponse {})
}

pub async fn status(
    runtime: &Runtime,
    request: v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse, Status> {
    let view =
        runtime.container_status(&request.container_id).map_err(|error| failed("ContainerStatus", &error))?;
    let info = if request.verbose { info(runtime, &view).await } else { Map::new() };
    Ok(v1::ContainerStatusResponse { status: Some(status_to_wire(&view)), info })
}

pub fn status_to_wire(view: &ContainerView) -> v1::ContainerStatus {
    let record = &view.record;
    let exit = record.exit.clone().unwrap_or_default();
    let user = &record.init.user;
    v1::ContainerStatus {
        id: record.id.to_string(),
        metadata: Some(container_metadata_to_wire(&record.config.metadata)),
        state: list_containers::state(view).into(),
        created_at: record.created_at_ns,
        started_at: record.started_at_ns,
        finished_at: exit.finished_at_ns,
        exit_code: exit.exit_code,
        image: Some(image(record)),
        image_ref: first(&record.image_digest, &record.image_id),
        image_id: record.image_id.clone(),
        reason: view.reason(),
        message: exit.message,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: mounts_to_wire(&record.config.mounts, &record.volume_images),
        log_path: record.log_path.display().to_string(),
        resources: Some(v1::ContainerResources {
            linux: Some(resources_to_wire(&record.resources)),
            windows: None,
        }),
        user: Some(v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user.groups.iter().map(|group| i64::from(*group)).collect(),
            }),
        }),
        stop_signal: signal_to_wire(record.stop_signal),
    }
}

/// The image by its tag, which users know it by: the kubelet creates containers by id.
fn image(record: &ContainerRecord) -> v1::ImageSpec {
    let asked = image_spec_to_wire(&record.config.image);
    v1::ImageSpec { image: first(&record.image_tag, &asked.image), ..asked }
}

/// The first of two names, unless it is empty.
fn first(name: &str, other: &str) -> String {
    if name.is_empty() { other.to_owned() } else { name.to_owned() }
}

async fn info(runtime: &Runtime, view: &ContainerView) -> Map {
    let record = &view.record;
    let running = record.exit.is_none();
    let info = json!({
        "sandboxID": record.pod_id,
        "pid": if running { record.init.pid } else { 0 },
        "removing": record.removing,
        "config": record.config,
        "cgroup": record.cgroup.to_string(),
        "logLinesDropped": record.exit.as_ref().map(|exit| exit.log_lines_dropped),
        "runtimeSpec": runtime.runtime_spec(record.id.as_str()).await.ok(),
    });
    Map::from([("info".to_owned(), info.to_string())])
}
