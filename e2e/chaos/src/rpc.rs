//! Each RPC as a call that can be made again: a function that sends the same request whenever it is asked.

use std::pin::Pin;

use holdfast_cri::v1;
use tonic::{Response, Status};

use crate::wire::Cri;

/// A call that has been sent.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;

macro_rules! rpcs {
    ($($(#[$doc:meta])* $name:ident: $service:ident, $request:ident -> $response:ident;)*) => {$(
        $(#[$doc])*
        pub fn $name(request: v1::$request) -> impl Fn(Cri) -> Pending<v1::$response> {
            move |mut cri| {
                let request = request.clone();
                Box::pin(async move { cri.$service.$name(request).await })
            }
        }
    )*};
}

rpcs! {
    /// RunPodSandbox.
    run_pod_sandbox: runtime, RunPodSandboxRequest -> RunPodSandboxResponse;
    /// StopPodSandbox.
    stop_pod_sandbox: runtime, StopPodSandboxRequest -> StopPodSandboxResponse;
    /// RemovePodSandbox.
    remove_pod_sandbox: runtime, RemovePodSandboxRequest -> RemovePodSandboxResponse;
    /// PodSandboxStatus.
    pod_sandbox_status: runtime, PodSandboxStatusRequest -> PodSandboxStatusResponse;
    /// ListPodSandbox.
    list_pod_sandbox: runtime, ListPodSandboxRequest -> ListPodSandboxResponse;
    /// CreateContainer.
    create_container: runtime, CreateContainerRequest -> CreateContainerResponse;
    /// StartContainer.
    start_container: runtime, StartContainerRequest -> StartContainerResponse;
    /// StopContainer.
    stop_container: runtime, StopContainerRequest -> StopContainerResponse;
    /// RemoveContainer.
    remove_container: runtime, RemoveContainerRequest -> RemoveContainerResponse;
    /// ContainerStatus.
    container_status: runtime, ContainerStatusRequest -> ContainerStatusResponse;
    /// ListContainers.
    list_containers: runtime, ListContainersRequest -> ListContainersResponse;
    /// UpdateContainerResources.
    update_container_resources: runtime,
        UpdateContainerResourcesRequest -> UpdateContainerResourcesResponse;
    /// ReopenContainerLog.
    reopen_container_log: runtime, ReopenContainerLogRequest -> ReopenContainerLogResponse;
    /// ExecSync.
    exec_sync: runtime, ExecSyncRequest -> ExecSyncResponse;
    /// Status.
    status: runtime, StatusRequest -> StatusResponse;
    /// ListImages.
    list_images: image, ListImagesRequest -> ListImagesResponse;
    /// ImageStatus.
    image_status: image, ImageStatusRequest -> ImageStatusResponse;
    /// PullImage.
    pull_image: image, PullImageRequest -> PullImageResponse;
    /// RemoveImage.
    remove_image: image, RemoveImageRequest -> RemoveImageResponse;
}
