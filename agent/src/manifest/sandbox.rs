//! A Pod as PodSandboxConfig, as a kubelet makes it (kubelet, kuberuntime_sandbox.go).

use std::path::Path;

use holdfast_model::{
    DnsConfig, Map, NamespaceMode, NamespaceOptions, PodSandboxConfig, PodSandboxMetadata, SandboxSecurity,
    SecurityProfile, UserNamespace,
};

use super::types::Pod;

/// Longest host name that Kubernetes gives a pod.
const MAX_HOSTNAME: usize = 63;

/// What a manifest does not say.
#[derive(Debug, Clone)]
pub struct SandboxFacts<'a> {
    /// The pod's uid.
    pub uid: &'a str,
    /// Where its logs go.
    pub log_dir: &'a Path,
    /// Its name resolution.
    pub dns: DnsConfig,
    /// Its user namespace, if it asks for one.
    pub users: Option<UserNamespace>,
}

/// What RunPodSandbox is asked for.
pub fn sandbox_config(pod: &Pod, facts: SandboxFacts<'_>) -> PodSandboxConfig {
    let common = &pod.security.common;
    PodSandboxConfig {
        metadata: PodSandboxMetadata {
            name: pod.name.clone(),
            uid: facts.uid.to_owned(),
            namespace: pod.namespace.clone(),
            attempt: 0,
        },
        hostname: hostname(pod),
        log_directory: facts.log_dir.display().to_string(),
        dns: facts.dns,
        port_mappings: pod.all_containers().flat_map(|container| container.ports.clone()).collect(),
        labels: labels(pod, facts.uid),
        annotations: pod.annotations.clone(),
        cgroup_parent: String::new(),
        sysctls: pod.security.sysctls.clone(),
        overhead: None,
        resources: None,
        security: SandboxSecurity {
            namespaces: namespaces(pod, facts.users),
            selinux: common.selinux.clone(),
            run_as_user: common.run_as_user,
            // CRI has no group without a user.
            run_as_group: common.run_as_group.filter(|_| common.run_as_user.is_some()),
            readonly_rootfs: false,
            supplemental_groups: supplemental_groups(pod),
            supplemental_groups_policy: pod.security.supplemental_groups_policy,
            privileged: pod.all_containers().any(|container| container.security.privileged),
            // The sandbox's own process is ours: it runs confined whatever its containers do.
            seccomp: Some(SecurityProfile::RuntimeDefault),
            apparmor: None,
        },
    }
}

/// `spec.hostname`, or the name of the pod as far as it fits. A pod on the host's network has the host's.
pub fn hostname(pod: &Pod) -> String {
    if pod.host_network {
        return String::new();
    }
    let name = pod.hostname.as_ref().unwrap_or(&pod.name);
    let end = name.len().min(MAX_HOSTNAME);
    let cut = name.len() > MAX_HOSTNAME;
    let name = &name[..end];
    if cut { name.trim_end_matches(['-', '.']) } else { name }.to_owned()
}

/// The labels that crictl and others find a pod by come on top of its own.
fn labels(pod: &Pod, uid: &str) -> Map {
    let mut labels = pod.labels.clone();
    labels.extend(pod_labels(pod, uid));
    labels
}

/// A kubelet's labels of a pod, which its containers have as well.
pub fn pod_labels(pod: &Pod, uid: &str) -> [(String, String); 3] {
    [("name", pod.name.as_str()), ("namespace", pod.namespace.as_str()), ("uid", uid)]
        .map(|(key, value)| (format!("io.kubernetes.pod.{key}"), value.to_owned()))
}

/// The groups of every container: fsGroup is one of them.
pub fn supplemental_groups(pod: &Pod) -> Vec<i64> {
    pod.security.fs_group.into_iter().chain(pod.security.supplemental_groups.iter().copied()).collect()
}

fn namespaces(pod: &Pod, users: Option<UserNamespace>) -> NamespaceOptions {
    let node_or_pod = |on_host: bool| if on_host { NamespaceMode::Node } else { NamespaceMode::Pod };
    let pid = match (pod.host_pid, pod.share_process_namespace) {
        (true, _) => NamespaceMode::Node,
        (false, true) => NamespaceMode::Pod,
        (false, false) => NamespaceMode::Container,
    };
    NamespaceOptions {
        network: node_or_pod(pod.host_network),
        pid,
        ipc: node_or_pod(pod.host_ipc),
        target_id: String::new(),
        user: users,
    }
}
