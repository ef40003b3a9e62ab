//! runtime.v1.RuntimeService: one file for each thing that can be asked.

mod container;
mod exec_sync;
mod list_containers;
mod list_pod_sandbox;
mod pod_sandbox;
mod sessions;
mod stats;
mod status;
pub mod streams;
mod update;
mod version;

use holdfast_cri::v1::{self, runtime_service_server::RuntimeService};
use tonic::{Request, Response, Status};
use tracing::Instrument;

use crate::runtime::Runtime;

/// Serves a [`Runtime`] over CRI.
#[derive(Clone)]
pub struct RuntimeServer {
    pub(super) runtime: Runtime,
    streaming: Option<holdfast_streaming::Server>,
}

impl RuntimeServer {
    /// For that runtime. Without `streaming` there are no sessions: exec, attach and port-forward are Unimplemented.
    pub fn new(runtime: Runtime, streaming: Option<holdfast_streaming::Server>) -> Self {
        Self { runtime, streaming }
    }
}

/// The answer to a request, in a span that carries the ids.
macro_rules! rpc {
    ($self:ident, $request:ident, $name:literal, $module:ident :: $function:ident $(, $field:ident)*) => {{
        let request = $request.into_inner();
        let span = tracing::debug_span!($name $(, $field = %request.$field)*);
        $module::$function(&$self.runtime, request).instrument(span).await.map(Response::new)
    }};
}

#[tonic::async_trait]
impl RuntimeService for RuntimeServer {
    async fn version(
        &self,
        request: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::VersionResponse>, Status> {
        Ok(Response::new(version::version(&request.into_inner())))
    }

    async fn status(
        &self,
        request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status::status(&self.runtime, request.into_inner()).await))
    }

    async fn runtime_config(
        &self,
        _: Request<v1::RuntimeConfigRequest>,
    ) -> Result<Response<v1::RuntimeConfigResponse>, Status> {
        Ok(Response::new(status::runtime_config(&self.runtime)))
    }

    async fn update_runtime_config(
        &self,
        request: Request<v1::UpdateRuntimeConfigRequest>,
    ) -> Result<Response<v1::UpdateRuntimeConfigResponse>, Status> {
        status::update_runtime_config(&self.runtime, request.into_inner()).map(Response::new)
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<v1::RunPodSandboxRequest>,
    ) -> Result<Response<v1::RunPodSandboxResponse>, Status> {
        rpc!(self, request, "RunPodSandbox", pod_sandbox::run)
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<v1::StopPodSandboxRequest>,
    ) -> Result<Response<v1::StopPodSandboxResponse>, Status> {
        rpc!(self, request, "StopPodSandbox", pod_sandbox::stop, pod_sandbox_id)
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<v1::RemovePodSandboxRequest>,
    ) -> Result<Response<v1::RemovePodSandboxResponse>, Status> {
        rpc!(self, request, "RemovePodSandbox", pod_sandbox::remove, pod_sandbox_id)
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<v1::PodSandboxStatusRequest>,
    ) -> Result<Response<v1::PodSandboxStatusResponse>, Status> {
        pod_sandbox::status(&self.runtime, &request.into_inner()).map(Response::new)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<v1::ListPodSandboxRequest>,
    ) -> Result<Response<v1::ListPodSandboxResponse>, Status> {
        let items = list_pod_sandbox::list(&self.runtime, request.into_inner().filter);
        Ok(Response::new(v1::ListPodSandboxResponse { items }))
    }

    async fn create_container(
        &self,
        request: Request<v1::CreateContainerRequest>,
    ) -> Result<Response<v1::CreateContainerResponse>, Status> {
        rpc!(self, request, "CreateContainer", container::create, pod_sandbox_id)
    }

    async fn start_container(
        &self,
        request: Request<v1::StartContainerRequest>,
    ) -> Result<Response<v1::StartContainerResponse>, Status> {
        rpc!(self, request, "StartContainer", container::start, container_id)
    }

    async fn stop_container(
        &self,
        request: Request<v1::StopContainerRequest>,
    ) -> Result<Response<v1::StopContainerResponse>, Status> {
        rpc!(self, request, "StopContainer", container::stop, container_id)
    }

    async fn remove_container(
        &self,
        request: Request<v1::RemoveContainerRequest>,
    ) -> Result<Response<v1::RemoveContainerResponse>, Status> {
        rpc!(self, request, "RemoveContainer", container::remove, container_id)
    }

    async fn container_status(
        &self,
        request: Request<v1::ContainerStatusRequest>,
    ) -> Result<Response<v1::ContainerStatusResponse>, Status> {
        rpc!(self, request, "ContainerStatus", container::status, container_id)
    }

    async fn list_containers(
        &self,
        request: Request<v1::ListContainersRequest>,
    ) -> Result<Response<v1::ListContainersResponse>, Status> {
        let containers = list_containers::list(&self.runtime, request.into_inner().filter);
        Ok(Response::new(v1::ListContainersResponse { containers }))
    }

    async fn exec_sync(
        &self,
        request: Request<v1::ExecSyncRequest>,
    ) -> Result<Response<v1::ExecSyncResponse>, Status> {
        rpc!(self, request, "ExecSync", exec_sync::exec_sync, container_id)
    }

    async fn exec(&self, request: Request<v1::ExecRequest>) -> Result<Response<v1::ExecResponse>, Status> {
        sessions::exec(&self.runtime, self.streaming.as_ref(), request.into_inner()).await.map(Response::new)
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        sessions::attach(&self.runtime, self.streaming.as_ref(), request.into_inner())
            .await
            .map(Response::new)
    }

    async fn port_forward(
        &self,
        request: Request<v1::PortForwardRequest>,
    ) -> Result<Response<v1::PortForwardResponse>, Status> {
        sessions::port_forward(&self.runtime, self.streaming.as_ref(), &request.into_inner())
            .map(Response::new)
    }

    async fn reopen_container_log(
        &self,
        request: Request<v1::ReopenContainerLogRequest>,
    ) -> Result<Response<v1::ReopenContainerLogResponse>, Status> {
        rpc!(self, request, "ReopenContainerLog", container::reopen_log, container_id)
    }

    async fn update_container_resources(
        &self,
        request: Request<v1::UpdateContainerResourcesRequest>,
    ) -> Result<Response<v1::UpdateContainerResourcesResponse>, Status> {
        rpc!(self, request, "UpdateContainerResources", update::container, container_id)
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<v1::UpdatePodSandboxResourcesRequest>,
    ) -> Result<Response<v1::UpdatePodSandboxResourcesResponse>, Status> {
        rpc!(self, request, "UpdatePodSandboxResources", update::pod, pod_sandbox_id)
    }

    async fn container_stats(
        &self,
        request: Request<v1::ContainerStatsRequest>,
    ) -> Result<Response<v1::ContainerStatsResponse>, Status> {
        rpc!(self, request, "ContainerStats", stats::one, container_id)
    }

    async fn list_container_stats(
        &self,
        request: Request<v1::ListContainerStatsRequest>,
    ) -> Result<Response<v1::ListContainerStatsResponse>, Status> {
        let stats = stats::list(&self.runtime, request.into_inner().filter).await;
        Ok(Response::new(v1::ListContainerStatsResponse { stats }))
    }

    async fn stream_pod_sandboxes(
        &self,
        request: Request<v1::StreamPodSandboxesRequest>,
    ) -> Result<Response<streams::Chunks<v1::StreamPodSandboxesResponse>>, Status> {
        let items = list_pod_sandbox::list(&self.runtime, request.into_inner().filter);
        Ok(Response::new(streams::chunks(items, |pod_sandboxes| v1::StreamPodSandboxesResponse {
            pod_sandboxes,
        })))
    }

    async fn stream_containers(
        &self,
        request: Request<v1::StreamContainersRequest>,
    ) -> Result<Response<streams::Chunks<v1::StreamContainersResponse>>, Status> {
        let items = list_containers::list(&self.runtime, request.into_inner().filter);
        Ok(Response::new(streams::chunks(items, |containers| v1::StreamContainersResponse { containers })))
    }

    async fn stream_container_stats(
        &self,
        request: Request<v1::StreamContainerStatsRequest>,
    ) -> Result<Response<streams::Chunks<v1::StreamContainerStatsResponse>>, Status> {
        let items = stats::list(&self.runtime, request.into_inner().filter).await;
        Ok(Response::new(streams::chunks(items, |container_stats| v1::StreamContainerStatsResponse {
            container_stats,
        })))
    }
}
