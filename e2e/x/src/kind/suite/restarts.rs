//! Restarts of the agent, of a node and of Docker; the logs; the network add-on; and the end.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use super::Scene;
use crate::{
    kind::{
        cluster::{Cluster, until},
        docker::cgroups,
    },
    run::{loud, output},
};

/// Id and number of restarts of each container, by pod and container.
fn containers(cluster: &Cluster<'_>) -> Result<BTreeMap<String, (String, u64)>> {
    let mut found = BTreeMap::new();
    for pod in cluster.json(&["get", "pods", "-A"])?["items"].as_array().into_iter().flatten() {
        for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!("{}/{}", text(&pod["metadata"]["name"]), text(&container["name"]));
            let restarts = container["restartCount"].as_u64().unwrap_or_default();
            found.insert(name, (text(&container["containerID"]), restarts));
        }
    }
    ensure!(!found.is_empty(), "there are no containers");
    Ok(found)
}

/// Checks that the objects of earlier tests still work.
fn works(cluster: &Cluster<'_>) -> Result<()> {
    cluster.all_ready()?;
    let pods = cluster.pods("app=web")?;
    ensure!(pods.len() == 20, "{pods:?}");
    let text = cluster.inside("store-0", "cat /data/file")?;
    ensure!(text == "kept\n", "{text:?}");
    until("answers of the service", || super::workloads::are_reached_from_outside(cluster)).map(drop)
}

/// By systemd and by SIGKILL, on every node: no container notices.
pub fn agent(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let before = containers(&cluster)?;
    for (node, _) in cluster.nodes()? {
        cluster.on_node(&node, &["systemctl", "restart", "containerd"])?;
        cluster.on_node(&node, &["systemctl", "kill", "--kill-who=main", "--signal=KILL", "containerd"])?;
        until("the agent after SIGKILL", || cluster.on_node(&node, &["crictl", "version"]))?;
    }
    works(&cluster)?;
    let after = containers(&scene.cluster())?;
    ensure!(before == after, "before:\n{before:#?}\nafter:\n{after:#?}");
    Ok(())
}

/// `docker restart` of each node: the pods of it are started anew, and volumes are as they were.
pub fn node(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    for (node, _) in cluster.nodes()? {
        output(&mut cluster.docker.docker(["restart", "--time", "20", &node]))?;
        // The node says of itself that it is ready, not its state of before.
        until("the node's agent", || cluster.on_node(&node, &["crictl", "version"]))?;
        until("the API", || cluster.ok(&["get", "--raw", "/readyz"]))?;
        settled(&cluster, &node)?;
    }
    works(&cluster)
}

/// Every pod that the API has on a node runs in a container of this boot.
fn settled(cluster: &Cluster<'_>, node: &str) -> Result<()> {
    until("containers of this boot", || {
        let text = cluster.on_node(node, &["crictl", "ps", "-q", "--no-trunc"])?;
        let running: Vec<&str> = text.lines().collect();
        let selector = format!("spec.nodeName={node}");
        let pods = cluster.json(&["get", "pods", "-A", "--field-selector", &selector])?;
        for pod in
            pods["items"].as_array().into_iter().flatten().filter(|pod| pod["status"]["phase"] != "Succeeded")
        {
            for container in pod["status"]["containerStatuses"].as_array().into_iter().flatten() {
                let id = container["containerID"].as_str().unwrap_or_default();
                let id = id.rsplit('/').next().unwrap_or_default();
                ensure!(running.contains(&id), "{}: {id} does not run", pod["metadata"]["name"]);
            }
        }
        Ok(())
    })
}

/// The daemon is stopped and started: its containers, the nodes, come up again by kind's restart policy.
pub fn docker(scene: &mut Scene<'_>) -> Result<()> {
    let nodes = scene.cluster().nodes()?;
    scene.docker.stop_daemon()?;
    scene.docker.start_daemon()?;
    let cluster = scene.cluster();
    for (node, _) in &nodes {
        until("the node's agent", || cluster.on_node(node, &["crictl", "version"]))?;
    }
    until("the API", || cluster.ok(&["get", "--raw", "/readyz"]))?;
    for (node, _) in &nodes {
        settled(&cluster, node)?;
    }
    works(&cluster)
}

pub fn logs(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let dir = scene.docker.root().join("logs");
    cluster.export_logs(&dir)?;
    for (node, _) in cluster.nodes()? {
        let read = |name: &str| {
            let path = dir.join(&node).join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        };
        ensure!(
            read("containerd.log")?.contains("holdfast serves"),
            "the agent's log of {node} is not there"
        );
        ensure!(read("kubelet.log")?.contains("kubelet"), "the kubelet's log of {node} is empty");
        ensure!(read("images.log")?.contains("holdfast.local/nginx"), "the images of {node} are not listed");
        ensure!(
            fs::read_dir(dir.join(&node).join("containers")).is_ok_and(|mut all| all.next().is_some()),
            "no logs of containers"
        );
    }
    Ok(())
}

/// Without kind's default CNI: NotReady in the words that people know, until the add-on's own pod has written its configuration.
pub fn network_add_on(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = Cluster::new(scene.work, scene.docker, "waiting");
    cluster.create(1, "networking:\n  disableDefaultCNI: true\n")?;
    let ready = || -> Result<Value> {
        let nodes = cluster.json(&["get", "nodes"])?;
        let conditions = nodes["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.into_iter().find(|is| is["type"] == "Ready").context("no condition Ready")
    };
    let status = until("the node's own words", || {
        let status = ready()?;
        let message = status["message"].as_str().unwrap_or_default();
        ensure!(message.contains("cni plugin not initialized"), "{status}");
        Ok(status)
    })?;
    ensure!(status["status"] == "False", "{status}");
    let dns = || cluster.json(&["get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns"]);
    let phase = until("CoreDNS's pods", || {
        let phase = dns()?["items"][0]["status"]["phase"].clone();
        ensure!(phase.is_string(), "there are none");
        Ok(phase)
    })?;
    ensure!(phase == "Pending", "CoreDNS is {phase} without a network");
    let manifest = cluster.on_node("waiting-control-plane", &["cat", "/kind/manifests/default-cni.yaml"])?;
    cluster.apply(&manifest)?;
    until("a node that is ready", || {
        ensure!(ready()?["status"] == "True", "{}", ready()?);
        Ok(())
    })?;
    cluster.all_ready()?;
    let address = dns()?["items"][0]["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    ensure!(address.starts_with("10.244."), "CoreDNS has {address:?}, which is not of the add-on's network");
    cluster.delete()
}

/// Neither containers nor volumes, processes, mounts, links or cgroups of the nodes.
pub fn delete(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    cluster.delete()?;
    let docker = |args: &[&str]| output(&mut cluster.docker.docker(args.iter().copied()));
    let inside = |args: &[&str]| output(&mut cluster.docker.command_of(args[0], &args[1..]));
    let containers = docker(&["ps", "-a", "-q"])?;
    let volumes = docker(&["volume", "ls", "-q"])?;
    ensure!(containers.is_empty() && volumes.is_empty(), "containers: {containers}volumes: {volumes}");
    let expected = ["sh", "sleep", "dockerd", "containerd", "ps"];
    let processes = inside(&["ps", "-e", "-o", "comm="])?;
    ensure!(processes.lines().all(|name| expected.contains(&name.trim())), "processes:\n{processes}");
    let mounts = inside(&["cat", "/proc/self/mountinfo"])?;
    let root = scene.docker.root().to_string_lossy().into_owned();
    let left: Vec<&str> =
        mounts.lines().filter(|line| line.contains(&root) && line.contains("overlay")).collect();
    ensure!(left.is_empty(), "mounts:\n{}", left.join("\n"));
    let links = inside(&["ip", "-o", "link"])?;
    ensure!(!links.contains("veth"), "links:\n{links}");
    let groups = cgroups()?;
    if let Some(group) = groups.iter().find(|group| has_groups(group)) {
        bail!("cgroups below {}", group.display());
    }
    loud(cluster.docker.docker(["network", "rm", "kind"]).stdout(std::process::Stdio::null()))
}

fn has_groups(group: &Path) -> bool {
    fs::read_dir(group).into_iter().flatten().flatten().any(|entry| entry.path().is_dir())
}
