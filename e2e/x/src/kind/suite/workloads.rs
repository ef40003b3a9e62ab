//! Deployments, Services, sets, jobs, and what kubectl does with their pods.

use std::{collections::BTreeSet, fs};

use anyhow::{Context, Result, ensure};

use super::Scene;
use crate::kind::cluster::{Cluster, limit, until};

const MANIFESTS: &str = include_str!("workloads.yaml");

pub fn all_become_ready(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    cluster.apply(MANIFESTS)?;
    for what in ["deployment/web", "daemonset/client", "statefulset/store"] {
        cluster.rolled_out(what)?;
    }
    let limit = format!("{}s", limit().as_secs());
    cluster.ok(&["wait", "--for=condition=complete", "job/sum", "--timeout", &limit])?;
    cluster.all_ready()
}

/// One pod of the DaemonSet `client` on each node.
fn clients(cluster: &Cluster<'_>) -> Result<Vec<String>> {
    let (clients, nodes) = (cluster.pods("app=client")?, cluster.nodes()?);
    ensure!(clients.len() == nodes.len(), "{clients:?} on {nodes:?}");
    Ok(clients)
}

pub fn names(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    for client in clients(&cluster)? {
        for name in ["kubernetes.default.svc.cluster.local", "web.default.svc.cluster.local"] {
            let address = cluster.inside(&client, &format!("nslookup {name}"))?;
            ensure!(address.contains("Address"), "{client}: {name}: {address}");
        }
    }
    Ok(())
}

/// Pods of the other node, too: many answers are those of several pods, on every node.
pub fn service(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let nodes = cluster.nodes()?;
    let pods = cluster.json(&["get", "pods", "-l", "app=web"])?;
    for client in clients(&cluster)? {
        let text =
            cluster.inside(&client, "for i in $(seq 100); do wget -qO- -T 3 http://web/ || exit 1; done")?;
        let answers: BTreeSet<&str> = text.lines().collect();
        let of = |pod: &serde_json::Value| {
            pod["metadata"]["name"].as_str().is_some_and(|name| answers.contains(name))
        };
        let seen: BTreeSet<_> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|pod| of(pod))
            .map(|pod| pod["spec"]["nodeName"].to_string())
            .collect();
        let workers = nodes.len().max(2) - 1;
        ensure!(answers.len() >= 10 && seen.len() >= workers, "{client}: {answers:?} on {seen:?}");
    }
    Ok(())
}

pub fn from_outside(scene: &mut Scene<'_>) -> Result<()> {
    are_reached_from_outside(&scene.cluster())
}

/// By a port of every node, and by the ingress's.
pub fn are_reached_from_outside(cluster: &Cluster<'_>) -> Result<()> {
    let pods = cluster.pods("app=web")?;
    for (name, address) in cluster.nodes()? {
        let answer = cluster.get(&format!("http://{address}:30080/"))?;
        ensure!(pods.iter().any(|pod| pod == answer.trim()), "NodePort of {name}: {answer:?}");
    }
    let node = cluster.ok(&["get", "pod", "ingress", "-o", "jsonpath={.status.hostIP}"])?;
    let answer = until("an answer of the ingress", || cluster.get(&format!("http://{node}:8088/")))?;
    ensure!(pods.iter().any(|pod| pod == answer.trim()), "ingress: {answer:?}");
    Ok(())
}

pub fn job(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let pods = cluster.pods("job-name=sum")?;
    ensure!(pods.len() == 3, "{pods:?}");
    for pod in pods {
        let log = cluster.ok(&["logs", &pod])?;
        ensure!(log == "sum 42\n", "{pod}: {log:?}");
    }
    Ok(())
}

pub fn stateful_set(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    cluster.inside("store-0", "echo kept >/data/file")?;
    cluster.ok(&["delete", "pod", "store-0"])?;
    cluster.rolled_out("statefulset/store")?;
    let text = until("the new pod", || cluster.inside("store-0", "cat /data/file"))?;
    ensure!(text == "kept\n", "{text:?}");
    Ok(())
}

pub fn sessions(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    let client = clients(&cluster)?.into_iter().next().context("a client")?;
    let log = cluster.ok(&["logs", &client])?;
    ensure!(log.starts_with("client on "), "{log:?}");
    let code =
        cluster.kubectl(&["exec", &client, "--", "sh", "-c", "exit 7"]).output().context("kubectl exec")?;
    ensure!(code.status.code() == Some(7), "{code:?}");
    let (there, back) = (cluster.docker.root().join("there"), cluster.docker.root().join("back"));
    let content: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    fs::write(&there, &content).context("write a file")?;
    cluster.ok(&["cp", &there.to_string_lossy(), &format!("{client}:/tmp/file")])?;
    cluster.ok(&["cp", &format!("{client}:/tmp/file"), &back.to_string_lossy()])?;
    ensure!(fs::read(&back).context("read it")? == content, "cp changed the file");
    let forward = cluster.start(&["port-forward", "service/web", "18080:80"])?;
    let answer = until("an answer over port-forward", || cluster.get("http://127.0.0.1:18080/"))?;
    ensure!(answer.starts_with("web-"), "{answer:?}");
    drop(forward);
    Ok(())
}

/// In the end all pods are of the new version.
pub fn rolling_update(scene: &mut Scene<'_>) -> Result<()> {
    let cluster = scene.cluster();
    cluster.ok(&["set", "env", "deployment/web", "VERSION=two"])?;
    cluster.rolled_out("deployment/web")?;
    until("only pods of the new version", || {
        let pods = cluster.pods("app=web")?;
        ensure!(pods.len() == 20, "{pods:?}");
        let text = cluster.inside(
            &clients(&cluster)?[0],
            "for i in $(seq 40); do wget -qO- -T 3 http://web/version; done",
        )?;
        ensure!(text.lines().count() == 40 && text.lines().all(|line| line == "two"), "{text}");
        Ok(())
    })
}
