//! UpdateContainerResources, UpdatePodSandboxResources.

use holdfast_cri::v1;
use tonic::Status;

use crate::{
    cri::{
        convert,
        status::{invalid, status as failed},
    },
    runtime::Runtime,
};

pub async fn container(
    runtime: &Runtime,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse, Status> {
    const RPC: &str = "UpdateContainerResources";
    let Some(linux) = request.linux else { return Ok(v1::UpdateContainerResourcesResponse {}) };
    let resources = convert::resources(linux).map_err(|error| invalid(RPC, &error))?;
    runtime
        .update_container_resources(&request.container_id, resources)
        .await
        .map_err(|error| failed(RPC, &error))?;
    Ok(v1::UpdateContainerResourcesResponse {})
}

pub async fn pod(
    runtime: &Runtime,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse, Status> {
    const RPC: &str = "UpdatePodSandboxResources";
    let read = |wire: Option<v1::LinuxContainerResources>| {
        wire.map(convert::resources).transpose().map_err(|error| invalid(RPC, &error))
    };
    let (overhead, resources) = (read(request.overhead)?, read(request.resources)?);
    runtime
        .update_pod_sandbox_resources(&request.pod_sandbox_id, overhead, resources)
        .await
        .map_err(|error| failed(RPC, &error))?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}
