//! What a client holds against what CRI and the kernel say, with a finding for whatever disagrees.

use holdfast_cri::v1;

use crate::{
    ask::{container_status, list_containers, list_pods, pod_status},
    claims::{Container, Pod, Told},
    kernel,
    ledger::Fault,
    world::{Caller, Failure},
};

/// Compares state, exit code and log of one that has ended.
pub fn judge_ended(caller: &Caller, container: &Container, status: &v1::ContainerStatus) {
    let alive = container.process.map(kernel::Process::is_alive);
    for judged in [container.judge(status, alive), container.judge_log()] {
        if let Err((fault, text)) = judged {
            caller.found(fault, &text);
        }
    }
}

/// Compares the memory limit that was told with what CRI and the kernel say.
pub fn judge_memory(caller: &Caller, container: &Container, status: &v1::ContainerStatus) {
    let Some(bytes) = container.memory else { return };
    let told = status.resources.as_ref().and_then(|resources| resources.linux.as_ref());
    if told.is_some_and(|told| told.memory_limit_in_bytes != bytes) {
        let text = format!("container {}: memory limit {bytes}, and CRI says {told:?}", container.token);
        caller.found(Fault::WrongState, &text);
    }
    let running = container.process.filter(|process| process.is_alive());
    let Some(process) = running else { return };
    match kernel::memory_limit(process.pid) {
        Ok(limit) if limit != bytes as u64 => {
            let text =
                format!("container {}: memory limit {bytes}, and the kernel says {limit}", container.token);
            caller.found(Fault::WrongState, &text);
        }
        _ => {}
    }
}

/// ContainerStatus of one that must be known.
pub async fn status_of(
    caller: &Caller,
    container: &Container,
) -> Result<(v1::ContainerStatus, Option<kernel::Process>), Failure> {
    let answer = container_status(caller, &container.id).await;
    if let Err(failure) = &answer
        && failure.is_not_found()
    {
        caller.found(Fault::ContainerLost, &format!("container {}: {failure}", container.token));
    }
    answer
}

/// Asks for a pod and its containers, and compares with what is known.
pub async fn verify(caller: &Caller, pod: &mut Pod) -> Result<(), Failure> {
    match pod_status(caller, &pod.id).await {
        Ok((status, _)) => {
            let alive = pod.holder.map(kernel::Process::is_alive);
            if let Err((fault, text)) = pod.judge(&status, alive) {
                caller.found(fault, &text);
                if fault == Fault::PodLost {
                    return Err(Failure::Silence);
                }
            }
        }
        Err(failure) => {
            if failure.is_not_found() {
                caller.found(Fault::PodLost, &format!("pod {}: {failure}", pod.uid));
            }
            return Err(failure);
        }
    }
    for container in &mut pod.containers {
        // Looked at before the question: one that ends meanwhile is no contradiction.
        let alive = container.process.map(kernel::Process::is_alive);
        let (status, process) = status_of(caller, container).await?;
        let exited = status.state() == v1::ContainerState::ContainerExited;
        let alive = if exited { container.process.map(kernel::Process::is_alive) } else { alive };
        if let Err((fault, text)) = container.judge(&status, alive) {
            caller.found(fault, &text);
            if fault == Fault::ContainerLost {
                return Err(Failure::Silence);
            }
        }
        if let (Some(known), Some(now)) = (container.process, process)
            && !exited
            && (known.pid, known.start) != (now.pid, now.start)
        {
            let text = format!("container {}: process {known:?} became {now:?}", container.token);
            caller.found(Fault::WrongState, &text);
        }
        judge_memory(caller, container, &status);
        if exited
            && container.told != Told::Over
            && let Err((fault, text)) = container.judge_log()
        {
            caller.found(fault, &text);
        }
    }
    Ok(())
}

/// Lists a pod and its containers: each once, and no other.
pub async fn list(caller: &Caller, pod: &Pod) -> Result<(), Failure> {
    let pods = list_pods(caller, Some(&pod.uid)).await?;
    let found: Vec<&str> = pods.iter().map(|pod| pod.id.as_str()).collect();
    if found != [pod.id.as_str()] {
        caller.found(Fault::Twice, &format!("pod {}: {}, listed are {found:?}", pod.uid, pod.id));
    }
    let mut found: Vec<String> =
        list_containers(caller, Some(&pod.id)).await?.into_iter().map(|container| container.id).collect();
    let mut known: Vec<String> = pod.containers.iter().map(|container| container.id.clone()).collect();
    found.sort();
    known.sort();
    if found != known {
        caller.found(Fault::Twice, &format!("containers of {}: {known:?}, listed are {found:?}", pod.uid));
    }
    Ok(())
}
