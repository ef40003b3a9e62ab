//! RunPodSandbox: record, cgroup, holder, network, files.

use std::{
    net::IpAddr,
    sync::{Arc, PoisonError},
    time::Duration,
};

use holdfast_model::{NamespaceMode, PodId, PodSandboxConfig};
use holdfast_network::AddRequest;
use holdfast_pod::holder::{Holder, HolderConfig, Namespaces};
use holdfast_spec::{id_map, selinux, sysctl};

use super::{
    Error, Runtime,
    blocking::{blocking, make_dir, now_ns, remove_tree},
    levels, log_files,
    names::{Reservation, Reserved},
    object::{Pod, PodName},
    owed::Owed,
    pod_files,
    record::{self, PodPhase, PodRecord, ProcessName},
};

/// Size of a pod's /dev/shm, as containerd and CRI-O give it.
const SHM_BYTES: u64 = 64 << 20;
/// Longest host name that is made of a pod's name, in bytes (RFC 1123, as in the kubelet).
const MAX_HOSTNAME: usize = 63;
/// Longest wait for a holder to be ready.
const HOLDER_LIMIT: Duration = Duration::from_secs(30);

impl Runtime {
    /// Makes a pod sandbox and answers when it is READY. Asked again with the same configuration, it answers with
    /// the sandbox that is there.
    pub async fn run_pod_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<PodId, Error> {
        if let Some((runtime, features)) = self.runtime_of(handler).await?
            && config.security.namespaces.pod_user_namespace().is_some()
            && !features.user_namespaces
        {
            return Err(Error::BadRequest {
                field: "config.linux.security_context.namespace_options.userns_options",
                problem: format!(
                    "OCI runtime {} of handler {handler:?} does not say that it can do user namespaces with id-mapped mounts",
                    runtime.program.display()
                ),
            });
        }
        holdfast_spec::validate_pod(&config)
            .map_err(|source| Error::Spec { operation: "run pod sandbox", source })?;
        let (runtime, handler) = (self.clone(), handler.to_owned());
        self.detached(async move { Box::pin(runtime.run_pod_sandbox_once(config, handler)).await }).await
    }

    async fn run_pod_sandbox_once(
        &self,
        config: PodSandboxConfig,
        runtime_handler: String,
    ) -> Result<PodId, Error> {
        let id = PodId::random().map_err(|source| Error::Io {
            operation: "read",
            path: "/dev/urandom".into(),
            source,
        })?;
        let cgroup = self
            .cgroups
            .pod(&config.cgroup_parent, &id)
            .map_err(|source| Error::Cgroup { operation: "name pod", source })?;
        let mut record = PodRecord {
            version: record::VERSION,
            boot_id: self.boot_id.clone(),
            id: id.clone(),
            runtime_handler,
            created_at_ns: now_ns(),
            phase: PodPhase::Creating,
            holder: None,
            cgroup_made: self.cgroups.plan_pod(&cgroup),
            cgroup,
            selinux_level: String::new(),
            config,
        };
        let wanted = PodName::of(&record);
        let name = loop {
            match self.pod_names.reserve(&wanted).await {
                Reserved::New(name) => break name,
                // It has been removed since, and its name is free.
                Reserved::Taken(by) if self.pod(&by).is_err() => {}
                Reserved::Taken(by) => return self.same_pod(&by, &record, &wanted),
            }
        };
        let level = self.reserve_level(&id, &record.config);
        record.selinux_level = level.as_ref().map(|(level, _)| level.clone()).unwrap_or_default();
        let pod = self.make_pod(record, name, level.map(|(_, reservation)| reservation)).await?;
        self.pods.write().unwrap_or_else(PoisonError::into_inner).insert(id.clone(), pod.clone());
        // Not before: whoever waits for the name looks its owner up.
        pod.name.iter().for_each(|name| name.settle(id.as_str()));
        self.watch_holder(&pod);
        Ok(id)
    }

    /// A kubelet that lost its answer asks again: it gets what the first request made.
    fn same_pod(&self, by: &str, record: &PodRecord, name: &PodName) -> Result<PodId, Error> {
        match self.pod(by) {
            Ok(pod) if pod.is_ready() && is_same(&pod.record.get(), record) => Ok(pod.id.clone()),
            _ => Err(Error::NameTaken { what: "pod sandbox", name: name.to_string(), by: by.to_owned() }),
        }
    }

    async fn make_pod(
        &self,
        record: PodRecord,
        name: Reservation<PodName>,
        level: Option<Reservation<String>>,
    ) -> Result<Arc<Pod>, Error> {
        let dir = self.pod_dir(&record.id);
        let pod = Arc::new(Pod::new(dir, record, None, Some(name), level, &self.durable));
        match self.fill_pod(&pod).await {
            Ok(()) => Ok(pod),
            Err(error) => {
                if let Err(leftover) = self.unmake_pod(&pod).await {
                    tracing::warn!(pod_sandbox_id = %pod.id, error = %leftover.chain(), "undo of a failed RunPodSandbox");
                    // Nobody is told of it, and whoever asks again gets another one.
                    pod.release_names();
                    self.pods
                        .write()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(pod.id.clone(), pod.clone());
                    self.owe(Owed::Pod(pod));
                }
                Err(error)
            }
        }
    }

    async fn fill_pod(&self, pod: &Arc<Pod>) -> Result<(), Error> {
        let record = pod.record.get();
        let host_network = record.config.security.namespaces.network == NamespaceMode::Node;
        let hostname = pod_hostname(&record.config);
        let durable = self.durable.clone();
        let first = (pod.dir.clone(), record.clone());
        blocking(move || -> Result<(), Error> {
            make_dir(&first.0, 0o755)?;
            durable.later(record::write(&first.0, &*first.1)?);
            log_files::make_directory(Some(first.1.config.log_directory.as_ref()), "config.log_directory")
        })
        .await?;
        self.cgroups
            .create_pod(&record.cgroup, None)
            .await
            .map_err(|source| Error::Cgroup { operation: "make pod", source })?;
        let holder = self.spawn_holder(pod, &record, &hostname).await?;
        *pod.holder.lock().unwrap_or_else(PoisonError::into_inner) = Some(holder.clone());

        let mut ips: Vec<IpAddr> = Vec::new();
        if !host_network {
            ips = self.join_network(&record, &holder).await?;
        }
        let (dir, config) = (pod.dir.clone(), record.config.clone());
        blocking(move || pod_files::write(&dir, &config, &hostname, host_network, &ips)).await?;
        pod.record.update(|record| record.phase = PodPhase::Ready).await?;
        Ok(())
    }

    /// The holder is recorded before it is told to outlive us.
    async fn spawn_holder(
        &self,
        pod: &Pod,
        record: &PodRecord,
        hostname: &str,
    ) -> Result<Arc<Holder>, Error> {
        let failed = |operation| {
            let pod = pod.id.to_string();
            move |source| Error::Holder { operation, pod, source }
        };
        let config = self.holder_config(record, hostname);
        let pending =
            blocking(move || holdfast_pod::holder::spawn(&config)).await.map_err(failed("start"))?;
        let name = ProcessName { pid: pending.pid(), start_time: pending.start_time() };
        pod.record.update(|record| record.holder = Some(name)).await?;
        blocking(move || pending.commit()).await.map(Arc::new).map_err(failed("commit"))
    }

    fn holder_config(&self, record: &PodRecord, hostname: &str) -> HolderConfig {
        let options = &record.config.security.namespaces;
        let host_network = options.network == NamespaceMode::Node;
        let user = options.pod_user_namespace();
        HolderConfig {
            program: self.pod_program.clone(),
            pod_id: record.id.to_string(),
            hostname: (!host_network).then(|| hostname.to_owned()),
            namespaces: Namespaces {
                net: !host_network,
                ipc: options.ipc != NamespaceMode::Node,
                // A pod on the host's network keeps the host's name as well.
                uts: !host_network,
                pid: options.pid == NamespaceMode::Pod,
            },
            uid_map: user.map(|user| id_map(&user.uids)).unwrap_or_default(),
            gid_map: user.map(|user| id_map(&user.gids)).unwrap_or_default(),
            sysctls: sysctl::with_defaults(&record.config, !host_network, self.sysctl_defaults()),
            shm_size: SHM_BYTES,
            shm_label: self.pod_label(record),
            timeout: HOLDER_LIMIT,
        }
    }

    /// Default sysctls. One that cannot be set here is left out: nobody asked for it, so it must fail no pod.
    fn sysctl_defaults(&self) -> sysctl::Defaults {
        let (live, possible) = (self.live.get(), self.host.writable_sysctls);
        let config = &live.runtime;
        sysctl::Defaults {
            unprivileged_ports: possible && config.enable_unprivileged_ports,
            unprivileged_icmp: possible && config.enable_unprivileged_icmp,
            groups: self.host.groups,
        }
    }

    /// SELinux label of what the pod's containers share. What is wrong with the options has been refused.
    fn pod_label(&self, record: &PodRecord) -> String {
        let security = &record.config.security;
        let contexts = self.host.selinux.as_ref();
        let level = levels::of_pod(record);
        let labels = selinux::labels(security.selinux.as_ref(), None, &level, security.privileged, contexts);
        labels.ok().and_then(|labels| labels.mount).unwrap_or_default()
    }

    async fn join_network(&self, record: &PodRecord, holder: &Arc<Holder>) -> Result<Vec<IpAddr>, Error> {
        let netns = self.netns(record, holder).await?;
        let network = self
            .network
            .add(AddRequest {
                pod: record.id.clone(),
                name: record.config.metadata.name.clone(),
                namespace: record.config.metadata.namespace.clone(),
                uid: record.config.metadata.uid.clone(),
                netns,
                hostname: record.config.hostname.clone(),
                dns: record.config.dns.clone(),
                port_mappings: record.config.port_mappings.clone(),
                annotations: record.config.annotations.clone(),
                cgroup_path: Some(record.config.cgroup_parent.clone()).filter(|path| !path.is_empty()),
            })
            .await
            .map_err(|source| Error::Network {
                operation: "set up the network",
                pod: record.id.to_string(),
                source,
            })?;
        Ok(network.ips)
    }

    pub(super) async fn netns(
        &self,
        record: &PodRecord,
        holder: &Arc<Holder>,
    ) -> Result<std::os::fd::OwnedFd, Error> {
        let holder = holder.clone();
        blocking(move || holder.namespace("net")).await.map_err(|source| Error::Holder {
            operation: "open the network namespace of the",
            pod: record.id.to_string(),
            source,
        })
    }

    /// Takes back whatever there is of a pod: network, holder, cgroup, directory. Goes on after a failure; the
    /// directory with the record goes last, and only if all else went.
    pub(super) async fn unmake_pod(&self, pod: &Pod) -> Result<(), Error> {
        self.stop_pod_parts(pod).await?;
        let dir = pod.dir.clone();
        blocking(move || remove_tree(&dir)).await
    }
}

fn is_same(one: &PodRecord, other: &PodRecord) -> bool {
    one.config == other.config && one.runtime_handler == other.runtime_handler
}

/// What a pod's containers see as their host's name: on the host's network the host's own, else the one that was asked
/// for, else the pod's name as a kubelet cuts it.
pub(super) fn pod_hostname(config: &PodSandboxConfig) -> String {
    if config.security.namespaces.network == NamespaceMode::Node {
        return rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    if !config.hostname.is_empty() {
        return config.hostname.clone();
    }
    let name = &config.metadata.name;
    let end = (0..=MAX_HOSTNAME.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].trim_end_matches(['-', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_name_is_cut_to_a_host_name() {
        let named = |name: String| {
            let mut config = PodSandboxConfig::default();
            config.metadata.name = name;
            pod_hostname(&config)
        };
        assert_eq!(named("web-0".into()), "web-0");
        assert_eq!(named("a".repeat(100)), "a".repeat(63));
        assert_eq!(named(format!("{}-b", "a".repeat(62))), "a".repeat(62));
        assert_eq!(named("ä".repeat(40)).len(), 62);
    }
}
