//! The end of a run: all that CRI lists is removed, the daemon is killed twice more, and the oracle says what is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use anyhow::{Context, Result};
use holdfast_cri::v1;
use holdfast_e2e::scene::BUSYBOX;

use crate::{
    ask::{TRIES, list_containers, list_pods, remove_pod, stop_pod},
    client,
    ledger::Fault,
    left::{self, Left},
    rpc, specs,
    stage::Stage,
    verify::verify,
    world::Caller,
};

/// Restarts between the last removal and the oracle's look.
const RESTARTS: usize = 2;
/// The oracle's patience: the kernel frees namespaces and links some time after their last user.
const SETTLE: Duration = Duration::from_secs(15);

/// Compares what clients hold with what CRI says once more: nothing is missing, nothing is there twice, and nothing that
/// was removed is back.
pub async fn compare(stage: &Stage, held: &[client::Left]) {
    let caller = &Caller::new(&stage.world, "finish");
    for pod in held.iter().filter_map(|left| left.pod.as_ref()) {
        let _ = verify(caller, &mut pod.clone()).await;
    }
    let Ok(pods) = list_pods(caller, None).await else { return };
    let Ok(containers) = list_containers(caller, None).await else { return };
    let mut names = BTreeMap::<(String, u32), Vec<&str>>::new();
    for pod in &pods {
        let metadata = pod.metadata.clone().unwrap_or_default();
        names.entry((metadata.uid, metadata.attempt)).or_default().push(&pod.id);
    }
    for (name, ids) in names.iter().filter(|(_, ids)| ids.len() > 1) {
        caller.found(Fault::Twice, &format!("pod {name:?}: {ids:?}"));
    }
    let mut allowed: BTreeSet<&str> =
        held.iter().flat_map(|left| &left.given_up).map(String::as_str).collect();
    for pod in held.iter().filter_map(|left| left.pod.as_ref()) {
        allowed.insert(&pod.uid);
        if !pods.iter().any(|listed| listed.id == pod.id) {
            caller.found(Fault::PodLost, &format!("pod {} is not listed", pod.uid));
        }
        for container in &pod.containers {
            if !containers.iter().any(|listed| listed.id == container.id) {
                caller.found(Fault::ContainerLost, &format!("container {} is not listed", container.token));
            }
        }
    }
    for pod in &pods {
        let uid = pod.metadata.as_ref().map(|metadata| metadata.uid.as_str()).unwrap_or_default();
        // The pod of a call that was never answered may be there.
        if !allowed.contains(uid) {
            caller.found(Fault::NotGone, &format!("pod {uid} is listed, and nobody has it: {}", pod.id));
        }
    }
}

/// Removes everything that CRI lists but the test image.
pub async fn remove_all(caller: &Caller) {
    remove_all_but(caller, "").await;
    remove_orphans(caller).await;
    remove_images(caller).await;
}

/// Removes every pod that CRI lists but one.
pub async fn remove_all_but(caller: &Caller, uid: &str) {
    if let Ok(pods) = list_pods(caller, None).await {
        for pod in pods {
            if pod.metadata.as_ref().is_some_and(|metadata| metadata.uid == uid) {
                continue;
            }
            let _ = stop_pod(caller, &pod.id, &[]).await;
            let _ = remove_pod(caller, &pod.id, &[]).await;
        }
    }
}

/// Containers whose pod is gone: none should be.
async fn remove_orphans(caller: &Caller) {
    if let Ok(containers) = list_containers(caller, None).await {
        for container in containers {
            caller.found(Fault::NotGone, &format!("container {} outlives its pod", container.id));
            let call = rpc::remove_container(v1::RemoveContainerRequest { container_id: container.id });
            let _ = caller.insist("RemoveContainer", TRIES, &[], call).await;
        }
    }
}

async fn remove_images(caller: &Caller) {
    let list = rpc::list_images(v1::ListImagesRequest::default());
    let images = caller.settle("ListImages", &[], list).await.map(|answer| answer.images).unwrap_or_default();
    for image in images {
        let kept = image.pinned || image.repo_tags.iter().any(|tag| tag.contains("pause") || tag == BUSYBOX);
        if kept {
            continue;
        }
        let call = rpc::remove_image(v1::RemoveImageRequest { image: Some(specs::image(&image.id)) });
        let _ = caller.insist("RemoveImage", TRIES, &[], call).await;
    }
}

/// Removes all, restarts, and looks.
pub async fn finish(stage: &mut Stage) -> Result<Left> {
    remove_all(&Caller::new(&stage.world, "finish")).await;
    for _ in 0..RESTARTS {
        stage.restart().await.context("a restart at the end")?;
        nothing_is_back(stage).await;
    }
    let mut oracle = stage.oracle.take().context("no look before the run")?.within(SETTLE);
    oracle.agent_is_now(stage.daemon.pid());
    let facts = oracle.left()?;
    for fact in &facts {
        stage.world.events.add("oracle", "left", &fact.as_str().into());
    }
    stage.world.events.flush();
    Ok(left::objects(&facts))
}

/// With a connection that ends with it: the daemon's descriptors are counted next.
async fn nothing_is_back(stage: &Stage) {
    let caller = Caller::new(&stage.world, "finish");
    let (pods, containers) = (list_pods(&caller, None).await, list_containers(&caller, None).await);
    if let (Ok(pods), Ok(containers)) = (pods, containers)
        && !(pods.is_empty() && containers.is_empty())
    {
        caller.found(Fault::NotGone, &format!("after a restart are back: {pods:?} {containers:?}"));
    }
}
