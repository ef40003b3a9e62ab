//! UpdateContainerResources, UpdatePodSandboxResources.

use holdfast_cri::v1;
use holdfast_model::Resources;
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
    let asked = resources_of(request.linux, request.windows).map_err(|error| invalid(RPC, &error))?;
    let Some(resources) = asked else { return Ok(v1::UpdateContainerResourcesResponse {}) };
    runtime
        .update_container_resources(&request.container_id, resources)
        .await
        .map_err(|error| failed(RPC, &error))?;
    Ok(v1::UpdateContainerResourcesResponse {})
}

/// What a request asks for; `None`: nothing.
fn resources_of(
    linux: Option<v1::LinuxContainerResources>,
    windows: Option<v1::WindowsContainerResources>,
) -> Result<Option<Resources>, convert::Invalid> {
    convert::not_windows(windows)?;
    linux.map(convert::resources).transpose()
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn windows_is_refused() {
        let windows = |cpu_count| v1::WindowsContainerResources { cpu_count, ..Default::default() };
        let error = resources_of(None, Some(windows(2))).unwrap_err().to_string();
        assert!(error.starts_with("windows is set"), "{error}");
        assert_eq!(resources_of(None, Some(windows(0))).unwrap(), None);
        let linux = v1::LinuxContainerResources { cpu_shares: 2, ..Default::default() };
        assert_eq!(resources_of(Some(linux), None).unwrap().unwrap().cpu_shares, 2);
    }
}
