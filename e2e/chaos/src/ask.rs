//! Calls that every part of a run makes, over the deaths of the server.

use std::time::Duration;

use holdfast_cri::v1;

use crate::{
    claims, kernel, rpc, specs,
    world::{Caller, Failure},
};

/// How often Stop and Remove are asked again when they are refused.
pub const TRIES: usize = 20;

/// PodSandboxStatus, and the process that it names.
pub async fn pod_status(
    caller: &Caller,
    id: &str,
) -> Result<(v1::PodSandboxStatus, Option<kernel::Process>), Failure> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let call = rpc::pod_sandbox_status(request);
    let answer = caller.settle("PodSandboxStatus", &[], call).await?;
    Ok((answer.status.unwrap_or_default(), claims::process(&answer.info)))
}

/// ContainerStatus, and the process that it names.
pub async fn container_status(
    caller: &Caller,
    id: &str,
) -> Result<(v1::ContainerStatus, Option<kernel::Process>), Failure> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let call = rpc::container_status(request);
    let answer = caller.settle("ContainerStatus", &[], call).await?;
    Ok((answer.status.unwrap_or_default(), claims::process(&answer.info)))
}

/// Whether an image is there.
pub async fn image_status(caller: &Caller, name: &str) -> Result<bool, Failure> {
    let request = v1::ImageStatusRequest { image: Some(specs::image(name)), verbose: false };
    let call = rpc::image_status(request);
    Ok(caller.settle("ImageStatus", &[], call).await?.image.is_some())
}

/// ListPodSandbox, of one uid or all.
pub async fn list_pods(caller: &Caller, uid: Option<&str>) -> Result<Vec<v1::PodSandbox>, Failure> {
    let filter = uid.map(|uid| v1::PodSandboxFilter {
        label_selector: [(specs::LABEL.to_owned(), uid.to_owned())].into(),
        ..Default::default()
    });
    let call = rpc::list_pod_sandbox(v1::ListPodSandboxRequest { filter });
    Ok(caller.settle("ListPodSandbox", &[], call).await?.items)
}

/// ListContainers, of one pod or all.
pub async fn list_containers(caller: &Caller, pod: Option<&str>) -> Result<Vec<v1::Container>, Failure> {
    let filter = pod.map(|pod| v1::ContainerFilter { pod_sandbox_id: pod.to_owned(), ..Default::default() });
    let call = rpc::list_containers(v1::ListContainersRequest { filter });
    Ok(caller.settle("ListContainers", &[], call).await?.containers)
}

/// StopPodSandbox, until it succeeds.
pub async fn stop_pod(caller: &Caller, id: &str, cuts: &[Duration]) -> Result<(), Failure> {
    let request = v1::StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let call = rpc::stop_pod_sandbox(request);
    caller.insist("StopPodSandbox", TRIES, cuts, call).await.map(drop)
}

/// RemovePodSandbox, until it succeeds.
pub async fn remove_pod(caller: &Caller, id: &str, cuts: &[Duration]) -> Result<(), Failure> {
    let request = v1::RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
    let call = rpc::remove_pod_sandbox(request);
    caller.insist("RemovePodSandbox", TRIES, cuts, call).await.map(drop)
}
